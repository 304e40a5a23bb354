//! Gateway modes, trusted uplinks, the machine itself, and the operator's rules.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::frames::flags;
use engine::tables::{GatewayMode, Network, Policy, Rule, RuleAction, RulePorts, RuleSide, Uplink};
use engine::{DropReason, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each_of};

/// Changes front, the network of web.
fn front(tables: &mut Tables, change: impl FnOnce(&mut Network)) {
    let network = Arc::make_mut(tables.networks[0].as_mut().unwrap());
    network.epoch += 1;
    change(network);
}

fn wan(tables: &mut Tables, change: impl FnOnce(&mut Uplink)) {
    change(Arc::make_mut(tables.uplinks[0].as_mut().unwrap()));
    tables.plan += 1;
}

fn with_mode(mode: GatewayMode) -> Tables {
    let mut tables = tables();
    front(&mut tables, |network| {
        network.mode = mode;
        network.masquerade = mode != GatewayMode::Routed;
    });
    tables
}

fn web(v6: bool, port: u16) -> (IpAddr, u16) {
    (WEB.ip(v6), port)
}

/// A conversation straight with web: it sees the client, and the client it.
fn talks(gateway: &mut Gateway, client: &Host, port: u16, v6: bool) {
    let (there, from) = (web(v6, port), (client.ip(v6), 50_001));
    let asked = gateway.forward(client, udp(client, 50_001, there));
    assert_eq!((asked.port, asked.source(), asked.destination()), (WEB.port, from, there));
    let answer = gateway.forward(&WEB, udp(&WEB, port, from));
    assert_eq!((answer.port, answer.source(), answer.destination()), (client.port, there, from));
}

#[test]
fn an_unprotected_network_is_reached_at_every_port_of_its_members() {
    each_of(
        || with_mode(GatewayMode::NatUnprotected),
        |mut gateway, v6| {
            // 53 is published, 7 is not; both ways of the conversation have one home.
            for client in [&CLIENT, &APP] {
                talks(&mut gateway, client, 7, v6);
                talks(&mut gateway, client, 53, v6);
            }
            let asked = gateway.forward(&CLIENT, echo(&CLIENT, 9, WEB.ip(v6)));
            assert_eq!(asked.port, WEB.port);
            let answer = gateway.forward(&WEB, echo_reply(&WEB, 9, CLIENT.ip(v6)));
            assert_eq!((answer.port, answer.ip().source), (WAN, WEB.ip(v6)));
        },
    );
}

#[test]
fn a_routed_network_is_reached_at_published_ports_and_by_icmp_and_keeps_its_sources() {
    each_of(
        || with_mode(GatewayMode::Routed),
        |mut gateway, v6| {
            for client in [&CLIENT, &APP] {
                talks(&mut gateway, client, 53, v6);
            }
            let closed = |port| udp(&CLIENT, 50_002, web(v6, port));
            gateway.refuse(&CLIENT, closed(7), DropReason::Unpublished);
            gateway.refuse(&APP, udp(&APP, 50_002, web(v6, 7)), DropReason::OtherNetwork);
            assert_eq!(gateway.forward(&CLIENT, echo(&CLIENT, 9, WEB.ip(v6))).port, WEB.port);
            let out = gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
            assert_eq!((out.port, out.source()), (WAN, web(v6, 40_000)));
        },
    );
}

#[test]
fn an_isolated_network_has_no_gateway() {
    let isolated = || {
        let mut tables = tables();
        let safe = Arc::make_mut(tables.networks[2].as_mut().unwrap());
        safe.mode = GatewayMode::Isolated;
        tables
    };
    each_of(isolated, |mut gateway, v6| {
        let own = crate::common::gateway(3, v6);
        assert!(
            gateway.send(&VAULT, who_has(&VAULT, own)).iter().all(|seen| seen.port != VAULT.port)
        );
        assert!(gateway.send(&VAULT, echo(&VAULT, 1, own)).is_empty());
        gateway.refuse(&VAULT, udp(&VAULT, 1, web(v6, 53)), DropReason::Internal);
    });
}

#[test]
fn a_trusted_uplink_reaches_published_ports_directly_until_it_is_trusted_no_more() {
    let trusted = || {
        let mut tables = tables();
        wan(&mut tables, |wan| wan.trusted = true);
        tables
    };
    each_of(trusted, |mut gateway, v6| {
        talks(&mut gateway, &CLIENT, 53, v6);
        let other = udp(&CLIENT, 50_001, web(v6, 7));
        gateway.refuse(&CLIENT, other, DropReason::Unpublished);
        gateway.change(|tables| wan(tables, |wan| wan.trusted = false));
        let published = udp(&CLIENT, 50_001, web(v6, 53));
        gateway.refuse(&CLIENT, published, DropReason::Unpublished);
    });
}

#[test]
fn the_machine_itself_reaches_any_port_also_of_an_internal_network() {
    let host = || {
        let mut tables = tables();
        wan(&mut tables, |wan| wan.host.peers = vec![CLIENT.ip(false), CLIENT.ip(true)]);
        tables
    };
    each_of(host, |mut gateway, v6| {
        talks(&mut gateway, &CLIENT, 7, v6);
        let asked = gateway.forward(&CLIENT, udp(&CLIENT, 5, (VAULT.ip(v6), 7)));
        assert_eq!((asked.port, asked.source().0), (VAULT.port, CLIENT.ip(v6)));
        let answer = gateway.forward(&VAULT, udp(&VAULT, 7, (CLIENT.ip(v6), 5)));
        assert_eq!((answer.port, answer.source().0), (WAN, VAULT.ip(v6)));
        let gateway_address = crate::common::gateway(1, v6);
        let echoed = gateway.forward(&CLIENT, echo(&CLIENT, 1, gateway_address));
        assert_eq!((echoed.port, echoed.ip().source), (WAN, gateway_address));
        gateway.refuse(&FAR, udp(&FAR, 50_001, web(v6, 7)), DropReason::Unpublished);
    });
}

fn rules(tables: &mut Tables, rules: Vec<Rule>) {
    tables.policy = Arc::new(Policy::new(tables.policy.epoch + 1, rules));
}

fn client_to_tcp_8080(action: RuleAction) -> Rule {
    let prefixes = ["192.0.2.0/24", "2001:db8::/64"].map(|text| text.parse().unwrap());
    Rule {
        action,
        from: RuleSide { prefixes: Some(prefixes.to_vec()), ..RuleSide::default() },
        to: RuleSide { behind: Some(vec![WEB.port]), ..RuleSide::default() },
        from_ports: None,
        to_ports: Some(vec![RulePorts { protocol: 6, first: 8_080, last: 8_080 }]),
    }
}

#[test]
fn a_new_rule_ends_an_established_connection_at_its_next_packet_and_no_other() {
    each_of(tables, |mut gateway, v6| {
        let syn = |client: &Host| tcp(client, 50_001, (own(v6), 8_080), flags::SYN);
        let ack = |client: &Host| tcp(client, 50_001, (own(v6), 8_080), flags::ACK);
        for client in [&CLIENT, &FAR] {
            gateway.forward(client, syn(client));
            gateway.forward(&WEB, tcp(&WEB, 80, (client.ip(v6), 50_001), flags::SYN | flags::ACK));
            assert_eq!(gateway.forward(client, ack(client)).port, WEB.port);
        }
        gateway.change(|tables| rules(tables, vec![client_to_tcp_8080(RuleAction::Deny)]));
        // Its peer is told once that the connection has ended, and hears nothing after that.
        let told = gateway.forward(&CLIENT, ack(&CLIENT));
        assert_eq!((told.port, told.tcp_flags() & flags::RST), (WAN, flags::RST));
        gateway.refuse(&CLIENT, syn(&CLIENT), DropReason::PolicyDenied);
        assert_eq!(gateway.forward(&FAR, ack(&FAR)).port, WEB.port);
        gateway.change(|tables| rules(tables, Vec::new()));
        assert_eq!(gateway.forward(&CLIENT, syn(&CLIENT)).port, WEB.port);
    });
}

#[test]
fn a_rejected_packet_is_answered_and_an_allowed_one_passes_the_list() {
    each_of(tables, |mut gateway, v6| {
        gateway.change(|tables| rules(tables, vec![client_to_tcp_8080(RuleAction::Reject)]));
        let told = gateway.forward(&CLIENT, tcp(&CLIENT, 50_001, (own(v6), 8_080), flags::SYN));
        assert_eq!((told.port, told.tcp_flags() & flags::RST), (WAN, flags::RST));
        assert_eq!(gateway.dropped(DropReason::PolicyRejected), 1);
        let any = Rule {
            from: RuleSide::default(),
            to_ports: None,
            ..client_to_tcp_8080(RuleAction::Reject)
        };
        gateway.change(|tables| rules(tables, vec![any.clone()]));
        let told = gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        assert_eq!(told.icmp(), if v6 { (1, 4) } else { (3, 3) });
        let allow = Rule { action: RuleAction::Allow, ..any };
        gateway.change(|tables| rules(tables, vec![allow]));
        talks(&mut gateway, &CLIENT, 7, v6);
        talks(&mut gateway, &APP, 7, v6);
    });
}

#[test]
fn a_rule_counts_the_connections_that_it_lets_in_and_the_packets_that_it_refuses() {
    each_of(tables, |mut gateway, v6| {
        let hits = |gateway: &Gateway| [0, 1].map(|rule| gateway.tables.policy.hits(rule));
        let any = Rule { to_ports: None, ..client_to_tcp_8080(RuleAction::Deny) };
        let both = vec![client_to_tcp_8080(RuleAction::Allow), any];
        gateway.change(|tables| rules(tables, both));
        let data = |flags| tcp(&CLIENT, 50_001, (own(v6), 8_080), flags);
        gateway.forward(&CLIENT, data(flags::SYN));
        for _ in 0..5 {
            gateway.forward(&CLIENT, data(flags::ACK));
        }
        assert_eq!(hits(&gateway), [1, 0]);
        for _ in 0..3 {
            let other = udp(&CLIENT, 50_001, (own(v6), 5_300));
            gateway.refuse(&CLIENT, other, DropReason::PolicyDenied);
        }
        assert_eq!(hits(&gateway), [1, 3]);
    });
}

#[test]
fn a_packet_of_a_known_flow_asks_no_rule() {
    each_of(tables, |mut gateway, v6| {
        gateway.change(|tables| rules(tables, vec![client_to_tcp_8080(RuleAction::Allow)]));
        let data = udp(&CLIENT, 50_001, (own(v6), 5_300));
        gateway.forward(&CLIENT, data.clone());
        let misses = |gateway: &Gateway| gateway.sum(|counters| counters.worker.misses.get());
        let before = (misses(&gateway), gateway.revalidated());
        for _ in 0..8 {
            gateway.forward(&CLIENT, data.clone());
        }
        // Other workers note once where the flow lives.
        let noted = gateway.workers.len() as u64 - 1;
        assert!(misses(&gateway) - before.0 <= noted);
        assert_eq!(gateway.revalidated(), before.1);
    });
}
