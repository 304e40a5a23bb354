//! Port scans and floods, from inside and outside: counted, bounded, and nobody else is harmed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use engine::flow::TcpState;
use engine::sim::frames::{IpHeader, TCP, TcpHeader, UDP, fill_checksum, flags};
use engine::{DropReason, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each_of};

/// Flows in all, of one port, of one port without an answer, of one source.
const LIMITS: (u32, u32, u32, u32) = (64, 32, 16, 24);

fn small() -> Tables {
    let mut tables = tables();
    let limits = Arc::make_mut(&mut tables.limits);
    let (flows, flows_per_port, half_open_per_port, flows_per_source) = LIMITS;
    limits.flows = flows;
    limits.flows_per_port = flows_per_port;
    limits.half_open_per_port = half_open_per_port;
    limits.flows_per_source = flows_per_source;
    tables
}

/// An address that nobody has, by number. Each is another source, also of IPv6.
fn made_up(number: u32, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::from_bits(0xc612_0000 + number).into(),
        true => Ipv6Addr::new(0x2001, 0xdb9, number as u16, 0, 0, 0, 0, 9).into(),
    }
}

fn spoofed(number: u32, to: (IpAddr, u16), protocol: u8) -> Vec<u8> {
    let header = IpHeader::new(made_up(number, to.0.is_ipv6()), to.0, protocol);
    let port = 1_024 + (number % 60_000) as u16;
    match protocol {
        TCP => {
            let syn = TcpHeader {
                source_port: port,
                destination_port: to.1,
                sequence: number,
                acknowledgment: 0,
                flags: flags::SYN,
                mss: None,
                nonce: None,
            };
            let mut segment = syn.segment(b"");
            fill_checksum(header.source, header.destination, TCP, &mut segment);
            routed(&ROUTER, &header, &segment)
        }
        _ => routed(&ROUTER, &header, &datagram(&header, (port, to.1), b"flood")),
    }
}

/// A connection from inside and one from outside, both open.
fn open(gateway: &mut Gateway, v6: bool) {
    let (syn, syn_ack) = (flags::SYN, flags::SYN | flags::ACK);
    gateway.forward(&DB, tcp(&DB, 40_000, (FAR.ip(v6), 80), syn));
    gateway.forward(&FAR, tcp(&FAR, 80, (own(v6), 40_000), syn_ack));
    gateway.forward(&DB, tcp(&DB, 40_000, (FAR.ip(v6), 80), flags::ACK));
    gateway.forward(&CLIENT, tcp(&CLIENT, 50_000, (own(v6), 8_080), syn));
    gateway.forward(&WEB, tcp(&WEB, 80, (CLIENT.ip(v6), 50_000), syn_ack));
    gateway.forward(&CLIENT, tcp(&CLIENT, 50_000, (own(v6), 8_080), flags::ACK));
}

/// Both connections go on, both ways, and are the ones that were opened.
fn goes_on(gateway: &mut Gateway, v6: bool) {
    let ack = flags::ACK;
    let seen = gateway.forward(&DB, tcp(&DB, 40_000, (FAR.ip(v6), 80), ack));
    assert_eq!(seen.source(), (own(v6), 40_000));
    gateway.forward(&FAR, tcp(&FAR, 80, (own(v6), 40_000), ack));
    gateway.forward(&CLIENT, tcp(&CLIENT, 50_000, (own(v6), 8_080), ack));
    gateway.forward(&WEB, tcp(&WEB, 80, (CLIENT.ip(v6), 50_000), ack));
    let flows = gateway.flows();
    let open = flows.iter().filter(|flow| flow.tcp == TcpState::Established);
    assert_eq!(open.filter(|flow| flow.packets.0 >= 3).count(), 2);
}

fn evicted(gateway: &Gateway) -> u64 {
    gateway.sum(|counters| counters.worker.flows_evicted.get())
}

/// Flows of all workers are within the limits, each worker rounding its share up.
fn is_bounded(gateway: &Gateway, port: engine::PortId) {
    let workers = gateway.workers.len();
    let most = |limit: u32| (limit as usize).div_ceil(workers) * workers;
    let flows = gateway.flows();
    assert!(flows.len() <= most(LIMITS.0), "{}", flows.len());
    let own = flows.iter().filter(|flow| flow.input.ingress == port);
    let half_open = own.clone().filter(|flow| flow.packets.1 == 0).count();
    assert!(own.count() <= most(LIMITS.1));
    assert!(half_open <= most(LIMITS.2), "{half_open}");
}

#[test]
fn a_syn_flood_from_made_up_addresses_ends_no_open_connection() {
    each_of(small, |mut gateway, v6| {
        open(&mut gateway, v6);
        for number in 0..500 {
            gateway.send(&ROUTER, spoofed(number, (own(v6), 8_080), TCP));
        }
        is_bounded(&gateway, WAN);
        assert!(evicted(&gateway) >= 500 - u64::from(LIMITS.2) - 8, "{}", evicted(&gateway));
        goes_on(&mut gateway, v6);
        // A client that comes in between is served: its SYN is the youngest.
        let seen = gateway.forward(&FAR, tcp(&FAR, 50_001, (own(v6), 8_080), flags::SYN));
        assert_eq!(seen.port, WEB.port);
        gateway.forward(&WEB, tcp(&WEB, 80, seen.source(), flags::SYN | flags::ACK));
    });
}

#[test]
fn a_udp_flood_from_made_up_addresses_ends_no_open_connection() {
    each_of(small, |mut gateway, v6| {
        open(&mut gateway, v6);
        for number in 0..500 {
            gateway.send(&ROUTER, spoofed(number, (own(v6), 5_300), UDP));
        }
        is_bounded(&gateway, WAN);
        assert!(evicted(&gateway) > 400);
        goes_on(&mut gateway, v6);
    });
}

#[test]
fn one_source_does_not_get_more_than_its_share() {
    each_of(small, |mut gateway, v6| {
        open(&mut gateway, v6);
        // Answered, so that none of them is half-open.
        for port in 10_000..10_100 {
            let seen = gateway.send(&FAR, udp(&FAR, port, (own(v6), 5_300)));
            if !seen.is_empty() {
                gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), port)));
            }
        }
        let refused = gateway.dropped(DropReason::SourceShareFull)
            + gateway.dropped(DropReason::FlowShareFull);
        let flows = gateway.flows();
        let own = flows.iter().filter(|flow| flow.input.source == FAR.ip(v6)).count();
        let workers = gateway.workers.len();
        assert!(own <= (LIMITS.3 as usize).div_ceil(workers) * workers, "{own}");
        assert_eq!(own as u64 + refused, 100, "every refusal is counted");
        goes_on(&mut gateway, v6);
    });
}

#[test]
fn floods_from_inside_stay_within_the_share_of_their_port() {
    for protocol in [TCP, UDP] {
        each_of(small, |mut gateway, v6| {
            open(&mut gateway, v6);
            for port in 10_000..10_500 {
                let to = (FAR.ip(v6), port);
                let frame = match protocol {
                    TCP => tcp(&WEB, port, to, flags::SYN),
                    _ => udp(&WEB, port, to),
                };
                // Nothing is refused: the oldest makes room.
                assert_eq!(gateway.send(&WEB, frame).len(), 1);
            }
            is_bounded(&gateway, WEB.port);
            assert!(evicted(&gateway) > 400);
            goes_on(&mut gateway, v6);
            // Mappings and outside ports were given back with their flows.
            gateway.pass(Duration::from_millis(100));
            let mappings = gateway.sum(|counters| counters.worker.mappings.get());
            assert!(mappings <= gateway.flows().len() as u64);
        });
    }
}

#[test]
fn a_port_scan_is_counted_and_begins_nothing() {
    each_of(small, |mut gateway, v6| {
        open(&mut gateway, v6);
        let before = gateway.flows().len();
        for port in (1..8_000).step_by(97).chain((32_768..65_000).step_by(971)) {
            gateway.send(&ROUTER, spoofed(u32::from(port), (own(v6), port), TCP));
            gateway.send(&ROUTER, spoofed(u32::from(port), (WEB.ip(v6), port), UDP));
        }
        assert_eq!(gateway.flows().len(), before);
        let counted = [DropReason::ClosedPort, DropReason::AnswerLimited, DropReason::Filtered];
        let counted: u64 = counted.iter().map(|reason| gateway.dropped(*reason)).sum();
        let scanned = (1..8_000).step_by(97).chain((32_768..65_000).step_by(971)).count() as u64;
        assert_eq!(counted, scanned, "the gateway's own ports");
        assert_eq!(gateway.dropped(DropReason::Unpublished), scanned, "a container's");
        goes_on(&mut gateway, v6);
    });
}

#[test]
fn idle_flows_make_room_and_busy_ones_do_not() {
    each_of(small, |mut gateway, v6| {
        let answered = |gateway: &mut Gateway, port: u16| {
            let to = (FAR.ip(v6), 53);
            let seen = gateway.send(&WEB, udp(&WEB, port, to));
            if let Some(seen) = seen.first() {
                gateway.forward(&FAR, udp(&FAR, 53, seen.source()));
            }
            !seen.is_empty()
        };
        let first: Vec<u16> =
            (40_000..40_100).filter(|&port| answered(&mut gateway, port)).collect();
        assert!(first.len() <= LIMITS.1 as usize + gateway.workers.len());
        // Nobody is idle: new ones are refused, and that is counted.
        assert_eq!(gateway.dropped(DropReason::FlowShareFull), 100 - first.len() as u64);
        gateway.pass(Duration::from_secs(31));
        let busy = first[0];
        assert!(answered(&mut gateway, busy));
        for port in 41_000..41_064 {
            answered(&mut gateway, port);
        }
        let flows = gateway.flows();
        assert!(flows.iter().any(|flow| flow.input.source_port == busy), "the busy one stays");
        assert!(flows.iter().any(|flow| flow.input.source_port >= 41_000), "others came in");
    });
}

#[test]
fn where_every_outside_port_is_in_use_the_oldest_unanswered_flow_gives_its_own() {
    let narrow = || {
        let mut tables = tables();
        let nat = Arc::make_mut(&mut tables.nat);
        (nat.port_min, nat.port_max) = (40_000, 40_015);
        tables
    };
    each_of(narrow, |mut gateway, v6| {
        for port in 30_000..30_064 {
            assert_eq!(gateway.send(&WEB, udp(&WEB, port, (FAR.ip(v6), 53))).len(), 1);
        }
        assert!(evicted(&gateway) >= 48, "{}", evicted(&gateway));
        // Others do not give theirs.
        let late = udp(&DB, 30_000, (FAR.ip(v6), 53));
        gateway.refuse(&DB, late, DropReason::OutsidePortsUsedUp);
    });
}
