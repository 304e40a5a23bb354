//! What the gateway says itself.

use std::net::IpAddr;

use engine::DropReason;
use engine::sim::WireFrame;
use engine::sim::frames::{UDP, flags};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

/// Our own address that a host asks: on the uplink from outside, the network's gateway inside.
fn addresses(host: &Host, v6: bool) -> Vec<IpAddr> {
    match host.port == WAN {
        true => vec![own(v6)],
        false => vec![own(v6), gateway(1, v6)],
    }
}

#[test]
fn a_closed_port_of_our_own_is_said_to_be_closed() {
    each(|mut gateway, v6| {
        for host in [CLIENT, WEB] {
            for address in addresses(&host, v6) {
                let reset = gateway.forward(&host, tcp(&host, 50_001, (address, 9), flags::SYN));
                assert_eq!((reset.port, reset.mac()), (host.port, host.mac));
                assert_eq!(reset.source(), (address, 9));
                assert_eq!(reset.tcp_flags(), flags::RST | flags::ACK);
                let error = gateway.forward(&host, udp(&host, 50_001, (address, 9)));
                assert_eq!(error.icmp(), if v6 { (1, 4) } else { (3, 3) });
                assert_eq!((error.port, error.ip().destination), (host.port, host.ip(v6)));
            }
        }
        assert_eq!(gateway.dropped(DropReason::ClosedPort), 6);
    });
}

#[test]
fn our_own_addresses_answer_pings() {
    each(|mut gateway, v6| {
        for host in [CLIENT, WEB] {
            for address in addresses(&host, v6) {
                let reply = gateway.forward(&host, echo(&host, 7, address));
                assert_eq!((reply.port, reply.ip().source), (host.port, address));
                assert_eq!(reply.icmp(), (if v6 { 129 } else { 0 }, 0));
            }
        }
    });
}

#[test]
fn our_own_addresses_answer_arp_and_neighbour_discovery() {
    each(|mut gateway, v6| {
        let inside = crate::common::gateway(1, v6);
        for (host, address) in [(WEB, inside), (CLIENT, own(v6))] {
            let seen = gateway.send_any(&host, WireFrame::whole(who_has(&host, address)));
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!((seen[0].port, seen[0].mac()), (host.port, host.mac));
            let answers = gateway.sum(|counters| counters.worker.answers.get());
            assert!(answers > 0);
        }
    });
}

fn last_hop(from: &Host, to: (IpAddr, u16)) -> Vec<u8> {
    let header = with_hops(header(from, to.0, UDP), 1);
    routed(from, &header, &datagram(&header, (50_001, to.1), b"late"))
}

#[test]
fn a_packet_with_its_last_hop_is_answered_with_time_exceeded() {
    each(|mut gateway, v6| {
        let inside = crate::common::gateway(1, v6);
        for (host, to, from) in
            [(WEB, (FAR.ip(v6), 53), inside), (CLIENT, (own(v6), 5_300), own(v6))]
        {
            // The first packet of a flow, and one of a flow that is known.
            for _ in 0..2 {
                let error = gateway.forward(&host, last_hop(&host, to));
                assert_eq!(error.icmp(), if v6 { (3, 0) } else { (11, 0) });
                assert_eq!((error.port, error.ip().source), (host.port, from));
                assert_eq!(gateway.send(&host, udp(&host, 50_001, to)).len(), 1);
            }
        }
        assert_eq!(gateway.dropped(DropReason::TtlExceeded), 4);
    });
}

#[test]
fn an_address_of_the_own_network_that_nobody_has_is_unreachable() {
    each(|mut gateway, v6| {
        let nobody: IpAddr = if v6 { "fd00:1::99" } else { "10.1.0.99" }.parse().unwrap();
        let error = gateway.forward(&WEB, udp(&WEB, 50_001, (nobody, 9)));
        assert_eq!(error.icmp(), if v6 { (1, 3) } else { (3, 1) });
        assert_eq!(gateway.dropped(DropReason::NoEndpoint), 1);
    });
}

#[test]
fn answers_are_limited_and_echo_is_not() {
    let few = || {
        let mut tables = tables();
        std::sync::Arc::make_mut(&mut tables.limits).answers_per_second = 8;
        tables
    };
    each_of(few, |mut gateway: Gateway, v6| {
        let asked = 40;
        for _ in 0..asked {
            gateway.send(&CLIENT, udp(&CLIENT, 50_001, (own(v6), 9)));
        }
        // One worker answers: a flow has one home. Its share is an equal one.
        let answered = gateway.dropped(DropReason::ClosedPort);
        assert_eq!(answered, 8 / gateway.workers.len() as u64);
        assert_eq!(gateway.dropped(DropReason::AnswerLimited), asked - answered);
        gateway.forward(&CLIENT, echo(&CLIENT, 7, own(v6)));
    });
}
