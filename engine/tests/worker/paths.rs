//! What routers beyond the gateway say of a path is remembered, if it can be true.

use std::net::IpAddr;
use std::time::Duration;

use engine::DropReason;
use engine::sim::frames::{ICMP, ICMPV6, IpHeader, TCP, TcpHeader, UDP, be32, flags};
use engine::sim::{datagram::Datagram, frames::icmp};

use crate::common::*;
use crate::gateway::{Gateway, each};

/// A router between here and there.
fn router(v6: bool) -> IpAddr {
    if v6 { "2001:db8:77::1" } else { "203.0.113.77" }.parse().unwrap()
}

/// "The next link takes so many bytes", about a packet as it left the gateway.
fn too_big(to: &Host, v6: bool, mtu: u32, frame: &[u8]) -> Vec<u8> {
    let quoted = &frame[14..];
    let sender = Datagram::parse_quoted(quoted).unwrap().source;
    let (protocol, kind) = if v6 { (ICMPV6, (2, 0)) } else { (ICMP, (3, 4)) };
    let header = IpHeader::new(router(v6), sender, protocol);
    routed(to, &header, &icmp(header.source, sender, kind, mtu, &quoted[..quoted.len().min(500)]))
}

/// UDP of so many bytes, IP header included, that may not be fragmented.
fn packet(from: &Host, ports: (u16, u16), to: IpAddr, bytes: usize) -> Vec<u8> {
    let mut header = header(from, to, UDP);
    header.dont_fragment = true;
    let headers = if to.is_ipv6() { 48 } else { 28 };
    routed(from, &header, &datagram(&header, ports, &vec![7; bytes - headers]))
}

/// Sends a packet of so many bytes from web that must be refused; returns the MTU that it is told.
fn told(gateway: &mut Gateway, port: u16, to: IpAddr, bytes: usize) -> u32 {
    let told = gateway.forward(&WEB, packet(&WEB, (port, 53), to, bytes));
    assert_eq!(told.icmp(), if to.is_ipv6() { (2, 0) } else { (3, 4) });
    assert_eq!(told.ip().source, crate::common::gateway(1, to.is_ipv6()), "the gateway says it");
    be32(told.ip().payload, 4)
}

fn learn(gateway: &mut Gateway, v6: bool, port: u16, mtu: u32) {
    let out = gateway.forward(&WEB, packet(&WEB, (port, 53), FAR.ip(v6), 1_500));
    assert_eq!(out.port, WAN);
    let seen = gateway.forward(&FAR, too_big(&FAR, v6, mtu, &out.frame.bytes));
    assert_eq!((seen.port, be32(seen.ip().payload, 4)), (WEB.port, mtu), "the sender hears it");
}

#[test]
fn later_packets_to_the_destination_are_answered_by_the_gateway() {
    each(|mut gateway, v6| {
        // Flows that are there already, at whichever worker: they notice too.
        for port in 41_000..41_016 {
            assert_eq!(
                gateway.forward(&WEB, packet(&WEB, (port, 53), FAR.ip(v6), 1_500)).port,
                WAN
            );
        }
        learn(&mut gateway, v6, 40_001, 1_400);
        for port in [40_001, 40_002, 40_003].into_iter().chain(41_000..41_016) {
            assert_eq!(told(&mut gateway, port, FAR.ip(v6), 1_401), 1_400, "{port}");
            let fits = gateway.forward(&WEB, packet(&WEB, (port, 53), FAR.ip(v6), 1_400));
            assert_eq!(fits.port, WAN);
        }
        let other = gateway.forward(&WEB, packet(&WEB, (40_001, 53), CLIENT.ip(v6), 1_500));
        assert_eq!(other.port, WAN, "another destination has another path");
        assert_eq!(gateway.sum(|counters| counters.worker.paths_learnt.get()), 1);
    });
}

#[test]
fn what_may_be_fragmented_is_and_a_syn_is_clamped() {
    each(|mut gateway, v6| {
        learn(&mut gateway, v6, 40_001, 1_300);
        if !v6 {
            let header = header(&WEB, FAR.ip(v6), UDP);
            let sent = routed(&WEB, &header, &datagram(&header, (40_002, 53), &[7; 1_400]));
            let pieces = gateway.send(&WEB, sent);
            assert!(pieces.len() == 2 && pieces.iter().all(|p| p.ip().bytes.len() <= 1_300));
        }
        let header = header(&WEB, FAR.ip(v6), TCP);
        let segment = announcement(&header, (40_005, 80), flags::SYN, Some(1_460));
        let out = gateway.forward(&WEB, routed(&WEB, &header, &segment));
        let mss = TcpHeader::parse(out.ip().payload).unwrap().0.mss;
        assert_eq!(mss, Some(if v6 { 1_240 } else { 1_260 }));
    });
}

#[test]
fn it_is_forgotten_after_ten_minutes_and_only_ever_lowered_before() {
    each(|mut gateway, v6| {
        learn(&mut gateway, v6, 40_001, 1_300);
        let out = gateway.forward(&WEB, packet(&WEB, (40_002, 53), FAR.ip(v6), 1_300));
        gateway.forward(&FAR, too_big(&FAR, v6, 1_450, &out.frame.bytes));
        assert_eq!(told(&mut gateway, 40_003, FAR.ip(v6), 1_400), 1_300);
        for _ in 0..9 {
            gateway.pass(Duration::from_secs(60));
        }
        assert_eq!(told(&mut gateway, 40_003, FAR.ip(v6), 1_400), 1_300);
        gateway.pass(Duration::from_secs(61));
        let out = gateway.forward(&WEB, packet(&WEB, (40_003, 53), FAR.ip(v6), 1_400));
        assert_eq!(out.port, WAN);
        assert_eq!(gateway.sum(|counters| counters.worker.paths.get()), 0);
    });
}

#[test]
fn absurd_values_are_refused_and_counted() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, packet(&WEB, (40_001, 53), FAR.ip(v6), 1_500));
        let absurd = if v6 { [1_279, 0, 68] } else { [551, 1, 68] };
        for mtu in absurd {
            let sent = too_big(&FAR, v6, mtu, &out.frame.bytes);
            gateway.refuse(&FAR, sent, DropReason::PathMtuRefused);
        }
        assert_eq!(gateway.dropped(DropReason::PathMtuRefused), 3);
        let again = gateway.forward(&WEB, packet(&WEB, (40_001, 53), FAR.ip(v6), 1_500));
        assert_eq!(again.port, WAN);
    });
}

#[test]
fn what_quotes_no_live_flow_teaches_nothing() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, packet(&WEB, (40_001, 53), FAR.ip(v6), 1_500));
        let outside = out.source();
        let forged = packet(&CLIENT, (outside.1, 54), FAR.ip(v6), 1_500);
        let mut quote = forged[14..].to_vec();
        // As if it had left the gateway.
        let (at, length) = if v6 { (8, 16) } else { (12, 4) };
        let from = out.frame.bytes[14 + at..14 + at + length].to_vec();
        quote[at..at + length].copy_from_slice(&from);
        if !v6 {
            quote[10..12].fill(0);
            let sum = !engine::sim::frames::sum(&quote[..20]);
            quote[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let frame = [&[0; 14][..], &quote].concat();
        gateway.refuse(&FAR, too_big(&FAR, v6, 1_400, &frame), DropReason::IcmpError);
        assert_eq!(gateway.sum(|counters| counters.worker.paths_learnt.get()), 0);
    });
}

#[test]
fn a_tcp_segment_that_cannot_be_under_way_teaches_nothing_but_passes() {
    each(|mut gateway, v6| {
        let to = (FAR.ip(v6), 80);
        let syn = gateway.forward(&WEB, tcp(&WEB, 40_001, to, flags::SYN));
        let outside = syn.source();
        gateway.forward(&FAR, tcp(&FAR, 80, outside, flags::SYN | flags::ACK));
        gateway.forward(&WEB, tcp(&WEB, 40_001, to, flags::ACK));
        let mut guessed = |sequence: u32, learnt: u64| {
            let out = gateway.forward(&WEB, tcp(&WEB, 40_001, to, flags::ACK));
            let mut quote = out.frame.bytes.clone();
            let at = if v6 { 54 } else { 34 } + 4;
            quote[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            gateway.forward(&FAR, too_big(&FAR, v6, 1_400, &quote));
            assert_eq!(gateway.sum(|counters| counters.worker.paths_learnt.get()), learnt);
        };
        guessed(0x8000_0000, 0);
        guessed(1_001, 1);
    });
}

#[test]
fn an_old_router_that_names_no_mtu_has_the_next_common_one() {
    for worker_count in [1, 2] {
        let mut gateway = Gateway::new(tables(), worker_count);
        let out = gateway.forward(&WEB, packet(&WEB, (40_001, 53), FAR.ip(false), 1_500));
        gateway.forward(&FAR, too_big(&FAR, false, 0, &out.frame.bytes));
        assert_eq!(told(&mut gateway, 40_002, FAR.ip(false), 1_500), 1_492);
    }
}

#[test]
fn a_flood_of_errors_makes_few_changes() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, packet(&WEB, (40_001, 53), FAR.ip(v6), 1_500));
        for mtu in (1_300..1_500).rev() {
            gateway.send(&FAR, too_big(&FAR, v6, mtu, &out.frame.bytes));
        }
        let learnt = gateway.sum(|counters| counters.worker.paths_learnt.get());
        assert!((1..=70).contains(&learnt), "{learnt} were learnt");
    });
}
