//! What is told about a packet is what becomes of it, and telling changes nothing.

use std::sync::Arc;
use std::time::Duration;

use engine::DropReason;
use engine::explain::{Explanation, Outcome};
use engine::flow::{FlowInput, Path};
use engine::limits::Filtering;
use engine::worker::NeighbourState;
use engine::{MacAddress, NetworkId};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};
use crate::translated::old_web;

const UDP: u8 = 17;

const STAGES: [&str; 9] =
    ["admit", "publish", "unmap", "local", "bridge", "route", "policy", "nat", "mtu"];

/// A routed UDP packet of a host.
fn input(from: &Host, network: NetworkId, port: u16, to: (std::net::IpAddr, u16)) -> FlowInput {
    FlowInput {
        ingress: from.port,
        network,
        path: Path::Routed,
        source: from.ip(to.0.is_ipv6()),
        destination: to.0,
        protocol: UDP,
        source_port: port,
        destination_port: to.1,
    }
}

fn told(gateway: &mut Gateway, input: &FlowInput) -> Explanation {
    let home = gateway.workers[0].explain(input).home;
    gateway.workers[home.index()].explain(input)
}

#[test]
fn what_is_told_of_a_masqueraded_packet_happens() {
    each(|mut gateway, v6| {
        let to = (FAR.ip(v6), 53);
        let asked = input(&WEB, NetworkId(0), 40_001, to);
        let before = told(&mut gateway, &asked);
        assert_eq!(before.outcome, Outcome::Forward);
        let stages = before.steps.iter().map(|step| step.stage).collect::<Vec<_>>();
        assert_eq!(stages, STAGES);
        assert!(before.known.is_none());
        assert!(gateway.workers.iter().all(|worker| worker.flows().is_empty()));
        let seen = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        let last = before.steps.last().unwrap();
        assert_eq!((last.source, last.destination), (seen.source(), seen.destination()));
        assert_eq!(before.leaving.unwrap().port, seen.port);
        let after = told(&mut gateway, &asked);
        assert_eq!(after.known.unwrap().source, seen.source());
        assert_eq!(after.leaving.unwrap().destination_mac, Some(seen.mac()));
        assert_eq!(after.steps.last(), before.steps.last());
    });
}

#[test]
fn what_is_told_of_a_published_port_happens() {
    each(|mut gateway, v6| {
        let to = (own(v6), 5_300);
        let asked = input(&FAR, NetworkId::NONE, 999, to);
        let told = told(&mut gateway, &asked);
        assert_eq!(told.steps[1].published, Some(WEB.port));
        let seen = gateway.forward(&FAR, udp(&FAR, 999, to));
        let last = told.steps.last().unwrap();
        assert_eq!((last.source, last.destination), (seen.source(), seen.destination()));
        assert_eq!(told.leaving.unwrap().destination_mac, Some(seen.mac()));
    });
}

#[test]
fn who_dies_is_told_at_which_stage_and_why() {
    each(|mut gateway, v6| {
        let asked = input(&FAR, NetworkId::NONE, 999, (WEB.ip(v6), 80));
        let told = told(&mut gateway, &asked);
        assert_eq!(told.outcome, Outcome::Drop(DropReason::Unpublished));
        let last = told.steps.last().unwrap();
        assert_eq!((last.stage, last.outcome), ("policy", told.outcome));
        assert!(told.leaving.is_none());
    });
}

#[test]
fn a_frame_is_told_its_port() {
    each(|mut gateway, _| {
        let frame = |mac| FlowInput::bridged(WEB.port, NetworkId(0), mac);
        let to_member = gateway.workers[0].explain(&frame(DB.mac));
        assert_eq!(to_member.outcome, Outcome::Forward);
        assert_eq!(to_member.leaving.unwrap().port, DB.port);
        let to_all = gateway.workers[0].explain(&frame(MacAddress::BROADCAST));
        assert_eq!((to_all.outcome, to_all.leaving), (Outcome::Flood, None));
    });
}

#[test]
fn a_port_that_has_to_be_searched_for_is_told_and_asking_moves_no_search() {
    each(|mut gateway, v6| {
        let to = (FAR.ip(v6), 53);
        gateway.forward(&WEB, udp(&WEB, 40_001, to));
        let asked = input(&DB, NetworkId(0), 40_001, to);
        let before = told(&mut gateway, &asked);
        let last = *before.steps.last().unwrap();
        assert_ne!(last.source.1, 40_001, "that one is in use");
        assert_eq!(told(&mut gateway, &asked).steps.last(), Some(&last));
        let seen = gateway.forward(&DB, udp(&DB, 40_001, to));
        assert_eq!((last.source, last.destination), (seen.source(), seen.destination()));
    });
}

#[test]
fn what_answers_a_flow_is_told_the_way_back_and_asking_ends_no_flow() {
    each(|mut gateway, v6| {
        let to = (FAR.ip(v6), 53);
        let out = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        let asked = input(&FAR, NetworkId::NONE, 53, out.source());
        for _ in 0..3 {
            let told = told(&mut gateway, &asked);
            assert!(told.is_reply);
            assert_eq!(told.outcome, Outcome::Forward);
            let (source, destination, hop) = told.way().unwrap();
            assert_eq!((source, destination), (to, (WEB.ip(v6), 40_001)));
            assert_eq!((hop.port(), told.leaving.unwrap().port), (WEB.port, WEB.port));
        }
        let back = gateway.forward(&FAR, udp(&FAR, 53, out.source()));
        assert_eq!((back.port, back.destination()), (WEB.port, (WEB.ip(v6), 40_001)));
    });
}

#[test]
fn what_turns_round_is_told_on_both_of_its_ways() {
    for filtering in [Filtering::Endpoint, Filtering::AddressAndPort] {
        let tables = || {
            let mut tables = tables();
            Arc::make_mut(&mut tables.nat).filtering = filtering;
            tables
        };
        each_of(tables, |mut gateway, v6| {
            let out = gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
            let asked = input(&DB, NetworkId(0), 40_003, out.source());
            let first = told(&mut gateway, &asked);
            assert!(first.leaving.is_none());
            let second = told(&mut gateway, &first.turned.unwrap());
            let packet = udp(&DB, 40_003, out.source());
            if filtering == Filtering::AddressAndPort {
                assert_eq!(second.outcome, Outcome::Drop(DropReason::Filtered));
                return gateway.refuse(&DB, packet, DropReason::Filtered);
            }
            let seen = gateway.forward(&DB, packet);
            let (source, destination, hop) = second.way().unwrap();
            assert_eq!((source, destination), (seen.source(), seen.destination()));
            assert_eq!((hop.port(), seen.port), (WEB.port, WEB.port));
        });
    }
}

#[test]
fn a_next_hop_that_is_asked_for_or_does_not_answer_is_told() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        let to = (FAR.ip(v6), 53);
        let asked = input(&WEB, NetworkId(0), 40_001, to);
        assert_eq!(told(&mut gateway, &asked).leaving.unwrap().neighbour, None);
        gateway.send(&WEB, udp(&WEB, 40_001, to));
        let leaving = told(&mut gateway, &asked).leaving.unwrap();
        assert_eq!(leaving.neighbour, Some(NeighbourState::Incomplete));
        assert_eq!(leaving.destination_mac, None);
        gateway.pass(Duration::from_secs(4));
        let leaving = told(&mut gateway, &asked).leaving.unwrap();
        assert_eq!(leaving.neighbour, Some(NeighbourState::Failed));
    });
}

#[test]
fn both_ways_of_a_flow_between_families_are_told() {
    for worker_count in [1, 2, 4] {
        let mut gateway = Gateway::new(old_web(), worker_count);
        let asked = input(&CLIENT, NetworkId::NONE, 40_001, (own(true), 5_390));
        let there = told(&mut gateway, &asked);
        let seen = gateway.forward(&CLIENT, udp(&CLIENT, 40_001, (own(true), 5_390)));
        let (source, destination, hop) = there.way().unwrap();
        assert_eq!((source, destination), (seen.source(), seen.destination()));
        assert_eq!((hop.port(), there.leaving.unwrap().bytes_max), (WEB.port, 1_520));
        let answer = input(&WEB, NetworkId(0), 53, seen.source());
        let back = told(&mut gateway, &answer);
        assert!(back.is_reply, "{back:?}");
        let (source, destination, hop) = back.way().unwrap();
        assert_eq!((source, destination), ((own(true), 5_390), (CLIENT.ip(true), 40_001)));
        assert_eq!((hop.port(), back.leaving.unwrap().bytes_max), (WAN, 1_480));
    }
}
