//! Whom a mapping lets in, and hairpins to mapped ports.

use std::net::IpAddr;
use std::sync::Arc;

use engine::limits::Filtering;
use engine::sim::frames::flags;
use engine::{DropReason, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

fn filtering(filtering: Filtering) -> impl Fn() -> Tables {
    move || {
        let mut tables = tables();
        Arc::make_mut(&mut tables.nat).filtering = filtering;
        tables
    }
}

/// web sends to far, port 53; returns the outside socket that far sees.
fn map(gateway: &mut Gateway, v6: bool) -> (IpAddr, u16) {
    gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53))).source()
}

/// Who gets in by web's mapping: far from another port, and a stranger.
fn gets_in(gateway: &mut Gateway, v6: bool) -> [bool; 2] {
    let mapped = map(gateway, v6);
    [(FAR, 5_353), (CLIENT, 53)].map(|(host, port)| {
        let filtered = gateway.dropped(DropReason::Filtered);
        let seen = gateway.send(&host, udp(&host, port, mapped));
        let Some(seen) = seen.first() else {
            assert_eq!(gateway.dropped(DropReason::Filtered), filtered + 1, "silence is counted");
            return false;
        };
        assert_eq!((seen.port, seen.destination()), (WEB.port, (WEB.ip(v6), 40_001)));
        assert_eq!(seen.source(), (host.ip(v6), port), "the source stays");
        // The answer leaves by the mapping, and both ways are one flow from now on.
        let answer = gateway.forward(&WEB, udp(&WEB, 40_001, (host.ip(v6), port)));
        assert_eq!((answer.port, answer.source()), (WAN, mapped));
        gateway.forward(&host, udp(&host, port, mapped));
        true
    })
}

#[test]
fn rfc_4787_req_8_address_and_port_dependent_filtering_lets_in_whom_it_has_sent_to() {
    each(|mut gateway, v6| assert_eq!(gets_in(&mut gateway, v6), [false, false]));
}

#[test]
fn rfc_4787_req_8_address_dependent_filtering_lets_in_every_port_of_an_address() {
    each_of(filtering(Filtering::Address), |mut gateway, v6| {
        assert_eq!(gets_in(&mut gateway, v6), [true, false]);
    });
}

#[test]
fn rfc_4787_req_8_endpoint_independent_filtering_lets_everybody_in() {
    each_of(filtering(Filtering::Endpoint), |mut gateway, v6| {
        assert_eq!(gets_in(&mut gateway, v6), [true, true]);
        // TCP, too.
        gateway.forward(&WEB, tcp(&WEB, 40_003, (FAR.ip(v6), 80), flags::SYN));
        let syn = tcp(&CLIENT, 999, (own(v6), 40_003), flags::SYN);
        assert_eq!(gateway.forward(&CLIENT, syn).destination(), (WEB.ip(v6), 40_003));
        // A port that nobody has is closed.
        let closed = gateway.forward(&CLIENT, udp(&CLIENT, 53, (own(v6), 50_001)));
        assert_eq!(closed.port, WAN);
        assert_eq!(closed.icmp(), if v6 { (1, 4) } else { (3, 3) });
    });
}

#[test]
fn filtering_changes_with_the_tables_and_flows_that_were_let_in_end() {
    each(|mut gateway, v6| {
        let mapped = map(&mut gateway, v6);
        let stranger = udp(&CLIENT, 53, mapped);
        gateway.refuse(&CLIENT, stranger.clone(), DropReason::Filtered);
        let set = |gateway: &mut Gateway, filtering| {
            gateway.change(|tables| {
                let nat = Arc::make_mut(&mut tables.nat);
                (nat.epoch, nat.filtering) = (tables.generation, filtering);
            });
        };
        set(&mut gateway, Filtering::Endpoint);
        gateway.forward(&CLIENT, stranger.clone());
        set(&mut gateway, Filtering::Address);
        // It goes on: what was let in stays in, as its flow holds the mapping.
        gateway.forward(&CLIENT, stranger);
        // What is new is judged by what was sent since.
        gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 54)));
        gateway.forward(&FAR, udp(&FAR, 99, mapped));
    });
}

#[test]
fn rfc_4787_req_9_a_hairpin_to_a_mapped_port_shows_the_outside_address_and_port() {
    each_of(filtering(Filtering::Endpoint), |mut gateway, v6| {
        let mapped = map(&mut gateway, v6);
        for host in [DB, APP, WEB] {
            let seen = gateway.forward(&host, udp(&host, 41_001, mapped));
            assert_eq!((seen.port, seen.destination()), (WEB.port, (WEB.ip(v6), 40_001)));
            let (address, port) = seen.source();
            assert_eq!(address, own(v6), "the outside address");
            assert_eq!(seen.ip().hops, 63, "the gateway is one router");
            let back = gateway.forward(&WEB, udp(&WEB, 40_001, (address, port)));
            assert_eq!((back.port, back.destination()), (host.port, (host.ip(v6), 41_001)));
            assert_eq!(back.source(), mapped);
            // The port is that by which the rest of the world knows it.
            let out = gateway.forward(&host, udp(&host, 41_001, (FAR.ip(v6), 53)));
            assert_eq!(out.source(), (address, port));
        }
    });
}

#[test]
fn rfc_5382_req_8_a_tcp_connection_opens_by_a_hairpin() {
    each_of(filtering(Filtering::Endpoint), |mut gateway, v6| {
        gateway.forward(&WEB, tcp(&WEB, 40_001, (FAR.ip(v6), 80), flags::SYN));
        let mapped = (own(v6), 40_001);
        let seen = gateway.forward(&APP, tcp(&APP, 41_001, mapped, flags::SYN));
        let from = seen.source();
        assert_eq!(
            (seen.port, seen.destination(), from.0),
            (WEB.port, (WEB.ip(v6), 40_001), own(v6))
        );
        let answer = tcp(&WEB, 40_001, from, flags::SYN | flags::ACK);
        let back = gateway.forward(&WEB, answer);
        assert_eq!((back.port, back.destination()), (APP.port, (APP.ip(v6), 41_001)));
        gateway.forward(&APP, tcp(&APP, 41_001, mapped, flags::ACK));
        gateway.forward(&APP, tcp(&APP, 41_001, mapped, flags::ACK));
        gateway.forward(&WEB, tcp(&WEB, 40_001, from, flags::ACK));
    });
}

#[test]
fn two_members_meet_by_their_mappings_whatever_the_filtering() {
    for kind in [Filtering::AddressAndPort, Filtering::Address, Filtering::Endpoint] {
        each_of(filtering(kind), |mut gateway, v6| {
            let of_web = map(&mut gateway, v6);
            let of_app = gateway.forward(&APP, udp(&APP, 41_001, (FAR.ip(v6), 53))).source();
            // The first one may be refused, and opens the way back.
            gateway.send(&APP, udp(&APP, 41_001, of_web));
            let seen = gateway.forward(&WEB, udp(&WEB, 40_001, of_app));
            assert_eq!((seen.port, seen.source()), (APP.port, of_web));
            let seen = gateway.forward(&APP, udp(&APP, 41_001, of_web));
            assert_eq!((seen.port, seen.source()), (WEB.port, of_app));
        });
    }
}

#[test]
fn nobody_outside_can_speak_as_a_hairpin() {
    each_of(filtering(Filtering::Endpoint), |mut gateway, v6| {
        let mapped = map(&mut gateway, v6);
        let seen = gateway.forward(&APP, udp(&APP, 41_001, mapped));
        // The same tuple, from the link of the uplink.
        let header = engine::sim::frames::IpHeader::new(own(v6), mapped.0, 17);
        let ports = (seen.source().1, mapped.1);
        let forged = routed(&CLIENT, &header, &datagram(&header, ports, b"forged"));
        gateway.refuse(&CLIENT, forged, DropReason::Martian);
    });
}

#[test]
fn an_internal_network_has_no_hairpin() {
    each_of(filtering(Filtering::Endpoint), |mut gateway, v6| {
        let mapped = map(&mut gateway, v6);
        gateway.refuse(&VAULT, udp(&VAULT, 41_001, mapped), DropReason::Internal);
    });
}
