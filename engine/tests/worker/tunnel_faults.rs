//! What is wrong with packets of tunnels, one thing at a time: cut short, loops, congestion, and a
//! peer that takes more than its share.

use std::net::IpAddr;
use std::sync::Arc;

use engine::limits::Limits;
use engine::sim::WireFrame;
use engine::sim::frames::{UDP, sum};
use engine::{DropReason, MacAddress, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};
use crate::overlay::*;

/// Sets DSCP and ECN of the IP header at a place.
fn mark(bytes: &mut [u8], at: usize, class: u8) {
    if bytes[at] >> 4 == 6 {
        bytes[at] = 0x60 | class >> 4;
        bytes[at + 1] = class << 4 | bytes[at + 1] & 0xf;
    } else {
        bytes[at + 1] = class;
        bytes[at + 10..at + 12].fill(0);
        let sum = !sum(&bytes[at..at + 20]);
        bytes[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn class_of(bytes: &[u8], at: usize) -> u8 {
    match bytes[at] >> 4 {
        6 => bytes[at] << 4 | bytes[at + 1] >> 4,
        _ => bytes[at + 1],
    }
}

fn counted(gateway: &Gateway) -> u64 {
    gateway.drops().iter().map(|drop| drop.1).sum()
}

#[test]
fn an_outer_packet_that_is_cut_short_anywhere_is_dropped_and_counted() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let whole = tunnelled(&CLIENT, outer, &bridged(&AWAY, &WEB, v6));
        for len in 0..whole.len() {
            let before = counted(&gateway);
            let seen = gateway.send_any(&CLIENT, WireFrame::whole(whole[..len].to_vec()));
            assert!(seen.is_empty(), "{len} bytes: {seen:?}");
            assert_eq!(counted(&gateway), before + 1, "{len} bytes");
        }
        assert_eq!(gateway.forward(&CLIENT, whole).port, WEB.port);
    });
}

#[test]
fn a_frame_that_is_cut_short_inside_a_whole_packet_goes_nowhere_or_as_it_is() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        // A bridge does not look into what it does not know.
        let frame = strange(AWAY.mac, WEB.mac);
        for len in 0..frame.len() {
            let before = counted(&gateway);
            let seen = gateway
                .send_any(&CLIENT, WireFrame::whole(tunnelled(&CLIENT, outer, &frame[..len])));
            match &seen[..] {
                [] => assert_eq!(counted(&gateway), before + 1, "{len} bytes"),
                [one] => {
                    assert_eq!((one.port, &one.frame.bytes[..]), (WEB.port, &frame[..len]));
                }
                more => panic!("{len} bytes: {more:?}"),
            }
            assert!(len >= 14 || seen.is_empty(), "{len} bytes are no frame");
        }
        // What is to be routed is looked at: its headers and lengths must be whole.
        let packet = udp(&AWAY, 40_000, (FAR.ip(v6), 53));
        for len in 0..packet.len() {
            let before = counted(&gateway);
            let bytes = tunnelled(&CLIENT, outer, &packet[..len]);
            let seen = gateway.send_any(&CLIENT, WireFrame::whole(bytes));
            assert!(seen.is_empty(), "{len} bytes: {seen:?}");
            assert_eq!(counted(&gateway), before + 1, "{len} bytes");
        }
    });
}

#[test]
fn lengths_of_the_outer_headers_that_contradict_each_other_are_refused() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let whole = tunnelled(&CLIENT, outer, &bridged(&AWAY, &WEB, v6));
        let (ip_length, udp_length) = if outer { (18, 58) } else { (16, 38) };
        for place in [ip_length, udp_length] {
            let right = u16::from_be_bytes([whole[place], whole[place + 1]]);
            for wrong in [0, 1, 7, 8, 15, 16, 29, right - 1, right + 1, 9_000, u16::MAX] {
                let mut bytes = whole.clone();
                bytes[place..place + 2].copy_from_slice(&wrong.to_be_bytes());
                if !outer {
                    let class = class_of(&bytes, 14);
                    mark(&mut bytes, 14, class);
                }
                let before = counted(&gateway);
                let seen = gateway.send_any(&CLIENT, WireFrame::whole(bytes));
                assert!(seen.is_empty(), "{wrong} at {place}: {seen:?}");
                assert_eq!(counted(&gateway), before + 1);
            }
        }
    });
}

#[test]
fn what_claims_to_come_from_our_own_end_is_a_stranger() {
    each(true, |mut gateway, outer, v6| {
        let frame = bridged(&AWAY, &WEB, v6);
        let ourselves = Host {
            ipv4: "192.0.2.10".parse().unwrap(),
            ipv6: "2001:db8::10".parse().unwrap(),
            ..CLIENT
        };
        let bytes = tunnelled(&ourselves, outer, &frame);
        gateway.refuse(&CLIENT, bytes, DropReason::OverlayVtep);
    });
}

#[test]
fn a_route_that_leads_back_ends_with_the_hops() {
    for outer in [false, true] {
        each_of(
            || overlay(outer, false),
            |mut gateway, _| {
                // The client's end takes us for the way to a prefix that we have behind it.
                let far: IpAddr = "9.1.2.3".parse().unwrap();
                let from = Host { ipv4: "9.7.7.7".parse().unwrap(), ..AWAY };
                let mut hops = 5;
                loop {
                    let header = with_hops(header(&from, far, UDP), hops);
                    let frame = routed(&from, &header, &datagram(&header, (40_000, 53), b"loop"));
                    let seen = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &frame));
                    let frame = opened(&seen, &CLIENT, outer);
                    if hops == 1 {
                        assert_eq!(inner(&frame).payload[0], 11, "time exceeded");
                        break;
                    }
                    assert_eq!(inner(&frame).hops, hops - 1);
                    hops -= 1;
                }
            },
        );
    }
}

/// RFC 6040 section 4.2: by the inner codepoint (Not-ECT, ECT(1), ECT(0), CE), what becomes of it
/// under each outer one in the same order; `None`: the packet is dropped.
const DECAPSULATED: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn rfc_6040_each_pair_of_codepoints_alone_and_in_a_batch() {
    for outer in [false, true] {
        for v6 in [false, true] {
            for checksum in [false, true] {
                let mut gateway = Gateway::new(overlay(outer, true), 1);
                introduce(&mut gateway, outer);
                for (own, row) in DECAPSULATED.iter().enumerate() {
                    for (outside, expected) in row.iter().enumerate() {
                        let mut frame = bridged(&AWAY, &WEB, v6);
                        // DSCP stays the inner packet's own.
                        mark(&mut frame, 14, 0xb8 | own as u8);
                        let mut packet = tunnelled(&CLIENT, outer, &frame);
                        if !checksum && !outer {
                            packet[40..42].fill(0);
                        }
                        mark(&mut packet, 14, 0x28 | outside as u8);
                        let (before, reason) =
                            (gateway.dropped(DropReason::OverlayEcn), DropReason::OverlayEcn);
                        // The first alone, the others alike and at once.
                        let mut seen = gateway.send(&CLIENT, packet.clone());
                        let many = (0..9).map(|_| WireFrame::whole(packet.clone())).collect();
                        seen.extend(gateway.send_with_one_edge(&CLIENT, many));
                        let about = format!("{own} in {outside}, IPv6 outside: {outer}");
                        let Some(expected) = expected else {
                            assert!(seen.is_empty(), "{about}: {seen:?}");
                            assert_eq!(gateway.dropped(reason), before + 10, "{about}");
                            continue;
                        };
                        mark(&mut frame, 14, 0xb8 | expected);
                        let all = Seen { port: WEB.port, frame: WireFrame::whole(frame) };
                        assert_eq!(seen, vec![all; 10], "{about}");
                    }
                }
            }
        }
    }
}

#[test]
fn dscp_and_ecn_are_copied_out_and_the_outer_hops_are_fresh() {
    for outer in [false, true] {
        for v6 in [false, true] {
            let mut gateway = Gateway::new(overlay(outer, true), 1);
            introduce(&mut gateway, outer);
            for class in 0..=255 {
                let mut frame = bridged(&WEB, &AWAY, v6);
                // Inner hops are the sender's own business.
                frame[if v6 { 21 } else { 22 }] = 3;
                mark(&mut frame, 14, class);
                let mut seen = gateway.send(&WEB, frame.clone());
                let many = (0..4).map(|_| WireFrame::whole(frame.clone())).collect();
                seen.extend(gateway.send_with_one_edge(&WEB, many));
                assert_eq!(seen.len(), 5, "{:?}", gateway.drops());
                for seen in &seen {
                    assert_eq!(class_of(&seen.frame.bytes, 14), class);
                    // It asserts 64 hops outside.
                    assert_eq!(opened(seen, &CLIENT, outer), frame);
                }
            }
        }
    }
}

/// Learning overlays with these limits.
fn limited(limits: Limits) -> impl Fn() -> Tables {
    let limits = Arc::new(limits);
    move || Tables { limits: limits.clone(), ..overlay(false, true) }
}

/// Both peers' stations are known: AWAY behind the client's end, BEYOND behind the router's.
fn introduce_both(gateway: &mut Gateway) {
    introduce(gateway, false);
    let hello = strange(BEYOND.mac, MacAddress::BROADCAST);
    gateway.send_any(&ROUTER, WireFrame::whole(tunnelled(&ROUTER, false, &hello)));
}

#[test]
fn a_peer_that_floods_leaves_other_peers_and_members_their_share() {
    let limits = Limits { floods_per_second: 10, ..limits() };
    each_of(limited(limits), |mut gateway, v6| {
        introduce_both(&mut gateway);
        for _ in 0..100 {
            let frame = tunnelled(&CLIENT, false, &who_has(&AWAY, WEB.ip(v6)));
            gateway.send_any(&CLIENT, WireFrame::whole(frame));
        }
        assert!(gateway.dropped(DropReason::FloodLimited) > 50);
        let frame = tunnelled(&ROUTER, false, &who_has(&BEYOND, WEB.ip(v6)));
        let seen = gateway.send_any(&ROUTER, WireFrame::whole(frame));
        assert_eq!(seen.len(), 4, "web, db, vm and farm: {seen:?}");
        let seen = gateway.send_any(&WEB, WireFrame::whole(who_has(&WEB, DB.ip(v6))));
        assert!(!seen.is_empty());
    });
}

#[test]
fn a_peer_with_many_flows_leaves_other_peers_and_members_theirs() {
    let limits = Limits { flows_per_port: 64, ..limits() };
    each_of(limited(limits), |mut gateway, v6| {
        introduce_both(&mut gateway);
        let asks = |from: &Host, end: &Host, port: u16| {
            tunnelled(end, false, &udp(from, port, (FAR.ip(v6), 53)))
        };
        for port in 0..8 {
            gateway.forward(&ROUTER, asks(&BEYOND, &ROUTER, 40_000 + port));
            gateway.forward(&WEB, udp(&WEB, 41_000 + port, (FAR.ip(v6), 53)));
        }
        for port in 0..400 {
            gateway.send(&CLIENT, asks(&AWAY, &CLIENT, 42_000 + port));
        }
        let flows = gateway.flows();
        let of = |host: &Host| flows.iter().filter(|flow| flow.input.source == host.ip(v6)).count();
        assert_eq!((of(&BEYOND), of(&WEB)), (8, 8), "{:?}", gateway.drops());
        assert!(of(&AWAY) <= 64, "{}", of(&AWAY));
    });
}
