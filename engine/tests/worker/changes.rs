//! New tables: what changed counts from the next packet on, what did not goes on undisturbed.

use std::sync::Arc;

use engine::sim::frames::flags;
use engine::tables::{Publish, PublishEntry, Tables};
use engine::{DropReason, NetworkId, PortId};

use crate::common::*;
use crate::gateway::each;

/// Other published ports, all of them new ones.
fn publish(tables: &mut Tables, entries: Vec<PublishEntry>) {
    tables.publish = Arc::new(Publish::new(tables.publish.epoch + 1, entries));
}

/// Other published ports, as the compiler makes them: what stays is what it was.
fn republish(tables: &mut Tables, change: impl FnOnce(&mut Vec<PublishEntry>)) {
    let mut entries = tables.publish.entries().to_vec();
    change(&mut entries);
    tables.publish = Arc::new(tables.publish.changed_to(tables.publish.epoch + 1, entries));
}

#[test]
fn a_port_that_is_published_no_more_is_closed_from_the_next_packet_on() {
    each(|mut gateway, v6| {
        let syn = tcp(&CLIENT, 50_001, (own(v6), 8_080), flags::SYN);
        gateway.forward(&CLIENT, syn.clone());
        gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        gateway.change(|tables| publish(tables, Vec::new()));
        let ack = tcp(&CLIENT, 50_001, (own(v6), 8_080), flags::ACK);
        for segment in [ack, syn] {
            let reset = gateway.forward(&CLIENT, segment);
            assert_eq!((reset.port, reset.tcp_flags() & flags::RST), (WAN, flags::RST));
        }
        let error = gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        assert_eq!(error.icmp(), if v6 { (1, 4) } else { (3, 3) });
        // Where the home of the packets has changed, the old one keeps the flow until it is idle.
        assert!(gateway.workers.len() > 1 || gateway.flows().is_empty());
    });
}

#[test]
fn the_server_is_cut_off_as_soon_as_its_port_is_published_no_more() {
    each(|mut gateway, v6| {
        gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        gateway.change(|tables| publish(tables, Vec::new()));
        // It may still send: as anybody inside, from a port of the masquerade range.
        let sent = gateway.forward(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), 50_001)));
        assert_ne!(sent.source(), (own(v6), 5_300));
        assert!(sent.source().1 >= 32_768);
    });
}

#[test]
fn a_change_that_does_not_concern_a_flow_does_not_ask_the_stages_again() {
    each(|mut gateway, v6| {
        gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
        let misses = |gateway: &crate::gateway::Gateway| {
            gateway.sum(|counters| counters.worker.misses.get())
        };
        let before = misses(&gateway);
        gateway.change(|tables| {
            Arc::make_mut(tables.ports[DB.port.index()].as_mut().unwrap()).epoch += 1;
            Arc::make_mut(tables.networks[2].as_mut().unwrap()).epoch += 1;
        });
        gateway.forward(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), 50_001)));
        gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        gateway.forward(&FAR, udp(&FAR, 53, (own(v6), 40_001)));
        assert_eq!((gateway.revalidated(), gateway.flows().len()), (0, 2));
        // A worker that gets a packet of a flow for the first time asks who owns it, no more.
        assert!(gateway.workers.len() > 1 || misses(&gateway) == before);
    });
}

#[test]
fn a_published_port_that_changes_leaves_flows_of_others_alone() {
    each(|mut gateway, v6| {
        let datagram = udp(&CLIENT, 50_001, (own(v6), 5_300));
        gateway.forward(&CLIENT, datagram.clone());
        gateway.forward(&WEB, udp(&WEB, 5_001, (FAR.ip(v6), 53)));
        gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), 8_081)));
        let masquerade = udp(&WEB, 40_001, (FAR.ip(v6), 8_081));
        gateway.forward(&WEB, masquerade.clone());
        let flows = gateway.flows().len();
        let is_apps = |entry: &PublishEntry| entry.host_port == 8_081;
        for round in 0..3 {
            gateway.change(|tables| {
                republish(tables, |entries| match round {
                    0 => entries.retain(|entry| !is_apps(entry)),
                    1 => entries.insert(0, published().into_iter().find(is_apps).unwrap()),
                    _ => entries[0].target_port = 81,
                });
            });
            gateway.forward(&CLIENT, datagram.clone());
            gateway.forward(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), 50_001)));
            gateway.forward(&WEB, udp(&WEB, 5_001, (FAR.ip(v6), 53)));
            gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), 8_081)));
            gateway.forward(&WEB, masquerade.clone());
            assert_eq!((gateway.revalidated(), gateway.flows().len()), (0, flows), "{round}");
        }
        // And its own flows are asked about: from outside, and of what the server began.
        gateway.change(|tables| {
            republish(tables, |entries| entries.retain(|entry| entry.host_port != 5_300))
        });
        let error = gateway.forward(&CLIENT, datagram);
        assert_eq!(error.icmp(), if v6 { (1, 4) } else { (3, 3) });
        let sent = gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), 8_081)));
        assert_ne!(sent.source(), (own(v6), 5_300));
        assert!(gateway.revalidated() > 0);
    });
}

#[test]
fn a_port_that_is_published_on_one_address_takes_flows_from_every_address() {
    each(|mut gateway, v6| {
        let datagram = udp(&CLIENT, 50_001, (own(v6), 5_300));
        assert_eq!(gateway.forward(&CLIENT, datagram.clone()).port, WEB.port);
        // Both are new at once: an epoch that the two shared would hide that the first one went.
        let specific = |entries: &mut Vec<PublishEntry>| {
            let is_web =
                |entry: &&PublishEntry| entry.host_port == 5_300 && entry.target == WEB.ip(v6);
            let web = entries.iter().find(is_web).unwrap().clone();
            entries.retain(|entry| *entry != web);
            entries.push(PublishEntry { target_port: 54, ..web.clone() });
            let (host, target, port) = (Some(own(v6)), DB.ip(v6), DB.port);
            entries.push(PublishEntry { host, target, port, ..web });
        };
        gateway.change(|tables| republish(tables, specific));
        assert_eq!(gateway.forward(&CLIENT, datagram.clone()).port, DB.port);
        gateway.change(|tables| republish(tables, |entries| entries.truncate(entries.len() - 1)));
        let sent = gateway.forward(&CLIENT, datagram);
        assert_eq!((sent.port, sent.destination()), (WEB.port, (WEB.ip(v6), 54)));
    });
}

#[test]
fn a_change_that_decides_as_before_keeps_the_flow_and_its_outside_port() {
    each(|mut gateway, v6| {
        let there = gateway.forward(&WEB, udp(&WEB, 5_001, (FAR.ip(v6), 53)));
        gateway.change(|tables| Arc::make_mut(&mut tables.nat).epoch += 1);
        let again = gateway.forward(&WEB, udp(&WEB, 5_001, (FAR.ip(v6), 53)));
        assert_eq!(there.source(), again.source());
        let back = gateway.forward(&FAR, udp(&FAR, 53, there.source()));
        assert_eq!(back.destination(), (WEB.ip(v6), 5_001));
        assert!(gateway.revalidated() > 0);
        assert_eq!(gateway.flows().len(), 1);
    });
}

/// web moves to a port that is new.
fn move_web(tables: &mut Tables) {
    let moved = Host { port: PortId(tables.ports.len() as u16), ..WEB };
    tables.ports[WEB.port.index()] = None;
    tables.ports.push(Some(Arc::new(endpoint_port(&moved, NetworkId(0)))));
    let epoch = tables.networks[0].as_ref().unwrap().epoch + 1;
    let front = network(0, "front", &[moved, DB, VM, FARM]);
    tables.networks[0] = Some(Arc::new(engine::tables::Network { epoch, ..front }));
    let mut entries = published();
    for entry in entries.iter_mut().filter(|entry| entry.port == WEB.port) {
        entry.port = moved.port;
    }
    publish(tables, entries);
}

#[test]
fn a_flow_follows_an_endpoint_to_another_port() {
    each(|mut gateway, v6| {
        let datagram = udp(&CLIENT, 50_001, (own(v6), 5_300));
        assert_eq!(gateway.forward(&CLIENT, datagram.clone()).port, WEB.port);
        assert_eq!(gateway.forward(&DB, bridged(&DB, &WEB, v6)).port, WEB.port);
        gateway.change(move_web);
        let moved = Host { port: PortId(7), ..WEB };
        let there = gateway.forward(&CLIENT, datagram);
        assert_eq!((there.port, there.mac()), (moved.port, WEB.mac));
        let back = gateway.forward(&moved, udp(&moved, 53, (CLIENT.ip(v6), 50_001)));
        assert_eq!((back.port, back.source()), (WAN, (own(v6), 5_300)));
        assert_eq!(gateway.forward(&DB, bridged(&DB, &WEB, v6)).port, moved.port);
        gateway.refuse(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), 50_001)), DropReason::PortGone);
        assert_eq!(gateway.flows().len(), 1);
    });
}

#[test]
fn a_network_whose_members_may_talk_no_more_goes_silent() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, bridged(&WEB, &DB, v6));
        gateway.change(|tables| {
            let front = Arc::make_mut(tables.networks[0].as_mut().unwrap());
            (front.icc, front.epoch) = (false, 2);
        });
        gateway.refuse(&WEB, bridged(&WEB, &DB, v6), DropReason::IccOff);
    });
}
