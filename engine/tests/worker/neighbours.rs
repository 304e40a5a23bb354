//! Neighbours on the uplink: asked for, waited for, followed, given up.

use std::time::Duration;

use engine::sim::WireFrame;
use engine::sim::frames::UDP;
use engine::worker::Event;
use engine::{DropReason, MacAddress};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

/// The router and the client as another machine.
fn replaced() -> Vec<Host> {
    let mac = MacAddress::new([2, 0, 0, 0, 0, 99]);
    [ROUTER, CLIENT].map(|host| Host { mac, ..host }).into()
}

#[test]
fn packets_wait_for_a_neighbour_and_go_in_their_order() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        for source_port in 40_000..40_004 {
            let waits = gateway.send(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
            assert!(waits.is_empty());
        }
        let mut seen = gateway.send(&ROUTER, i_have(&ROUTER, ROUTER.ip(v6), own(v6)));
        assert!(seen.iter().all(|seen| seen.mac() == ROUTER.mac));
        if gateway.workers.len() > 1 {
            // Each flow's order is kept; the flows are on several workers.
            seen.sort_by_key(|seen| seen.source().1);
        }
        let ports: Vec<u16> = seen.iter().map(|seen| seen.source().1).collect();
        assert_eq!(ports, [40_000, 40_001, 40_002, 40_003]);
    });
}

#[test]
fn what_waited_for_a_neighbour_goes_before_what_comes_right_behind_the_news() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        let numbered = |source_port, number: u8| {
            let header = header(&WEB, FAR.ip(v6), UDP);
            routed(&WEB, &header, &datagram(&header, (source_port, 53), &[number]))
        };
        let ports = 40_000..40_008;
        for source_port in ports.clone() {
            assert!(gateway.send(&WEB, numbered(source_port, 1)).is_empty(), "it waits");
        }
        // The flows of other workers hear of the neighbour and of more packets in one turn.
        let mut frames = vec![(&ROUTER, i_have(&ROUTER, ROUTER.ip(v6), own(v6)))];
        frames.extend(ports.clone().map(|source_port| (&WEB, numbered(source_port, 2))));
        let seen = gateway.send_while_others_sleep(frames);
        for source_port in ports {
            let of_flow = seen.iter().filter(|seen| seen.source().1 == source_port);
            let numbers: Vec<u8> = of_flow.map(|seen| seen.ip().payload[8]).collect();
            assert_eq!(numbers, [1, 2], "the order of {source_port}");
        }
    });
}

#[test]
fn when_the_next_hop_changes_its_mac_address_all_its_flows_follow() {
    each(|mut gateway, v6| {
        for source_port in 40_000..40_010 {
            gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
        }
        gateway.neighbours = replaced();
        let router = gateway.neighbours[0];
        gateway.send(&router, i_have(&router, router.ip(v6), own(v6)));
        for source_port in 40_000..40_010 {
            let there = gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
            assert_eq!(there.mac(), router.mac);
        }
        assert_eq!((gateway.revalidated(), gateway.flows().len()), (0, 10));
    });
}

#[test]
fn a_next_hop_that_changes_its_mac_address_silently_is_found_by_asking() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        gateway.neighbours = replaced();
        gateway.pass(Duration::from_secs(35));
        let there = gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        assert_eq!(there.mac(), gateway.neighbours[0].mac);
    });
}

#[test]
fn a_silent_neighbour_is_given_up_and_the_sender_is_told() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        for source_port in [40_000, 40_001] {
            gateway.send(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
        }
        assert!(gateway.pass(Duration::from_millis(2_500)).is_empty());
        let errors = gateway.pass(Duration::from_millis(2_000));
        assert_eq!(errors.len(), 2);
        for error in errors {
            assert_eq!((error.port, error.mac()), (WEB.port, WEB.mac));
            assert_eq!(error.icmp(), if v6 { (1, 3) } else { (3, 1) });
        }
        assert_eq!(gateway.dropped(DropReason::NeighbourUnreachable), 2);
        assert!(gateway.events().contains(&Event::NeighbourFailed(WAN, ROUTER.ip(v6))));
    });
}

#[test]
fn a_neighbour_that_was_given_up_is_asked_again_later() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        gateway.send(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        gateway.pass(Duration::from_secs(5));
        gateway.neighbours = vec![ROUTER];
        gateway.pass(Duration::from_secs(10));
        let there = gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        assert_eq!(there.mac(), ROUTER.mac);
    });
}

#[test]
fn an_outside_client_whose_reply_cannot_be_sent_is_not_told_who_is_inside() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        gateway.forward(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 5_300)));
        gateway.send(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), 50_001)));
        let errors = gateway.pass(Duration::from_secs(6));
        assert!(errors.iter().all(|error| error.port == WEB.port));
        assert_eq!(gateway.dropped(DropReason::NeighbourUnreachable), 1);
    });
}

#[test]
fn only_so_many_packets_wait_for_one_neighbour() {
    let few = || {
        let mut tables = tables();
        std::sync::Arc::make_mut(&mut tables.limits).held_per_neighbour = 3;
        tables
    };
    each_of(few, |mut gateway: Gateway, v6| {
        gateway.neighbours.clear();
        for _ in 0..10 {
            gateway.send(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        }
        assert_eq!(gateway.dropped(DropReason::HoldFull), 7);
        let seen = gateway.send(&ROUTER, i_have(&ROUTER, ROUTER.ip(v6), own(v6)));
        assert_eq!(seen.len(), 3);
    });
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_learnt() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        let stranger = replaced()[0];
        gateway.send(&stranger, i_have(&stranger, stranger.ip(v6), own(v6)));
        let out = WireFrame::whole(udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        let asked = gateway.send_any(&WEB, out);
        assert!(asked.iter().any(|seen| seen.asks_for() == Some(ROUTER.ip(v6))));
    });
}
