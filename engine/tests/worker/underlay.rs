//! What routers say of outer packets: the path of a tunnel is learnt if it can be true, its inner
//! senders are told, and outer packets in fragments are dropped under a name of their own.

use std::net::IpAddr;
use std::time::Duration;

use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    ICMP, ICMPV6, IpHeader, TCP, TcpHeader, UDP, be32, ethernet, flags, icmp,
};
use engine::{Caps, DropReason, Offload};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};
use crate::overlay::*;

/// The MTU of the narrowest link on the way to the peer, unless a test says otherwise.
const MTU: u16 = 1_400;
/// Bytes of an outer packet that most routers quote (RFC 1812 section 4.3.2.3).
const QUOTED_BYTES: usize = 548;
/// The least that a router quotes: the IP header and eight bytes (RFC 792).
const fn least(outer: bool) -> usize {
    if outer { 48 } else { 28 }
}

/// What an outer packet may hold inside.
fn inside(outer: bool, mtu: u16) -> usize {
    usize::from(mtu) - if outer { 70 } else { 50 }
}

/// A router between here and the peer.
fn somebody(outer: bool) -> IpAddr {
    if outer { "2001:db8:77::1" } else { "203.0.113.77" }.parse().unwrap()
}

/// An error about an outer packet, which comes by way of `by`.
fn error(by: &Host, kind: (u8, u8), word: u32, quoted: &[u8]) -> Vec<u8> {
    let to = Datagram::parse_quoted(quoted).unwrap().source;
    let v6 = to.is_ipv6();
    let header = IpHeader::new(somebody(v6), to, if v6 { ICMPV6 } else { ICMP });
    routed(by, &header, &icmp(header.source, to, kind, word, quoted))
}

fn too_big(outer: bool, mtu: u32, quoted: &[u8]) -> Vec<u8> {
    error(&ROUTER, if outer { (2, 0) } else { (3, 4) }, mtu, quoted)
}

/// UDP of so many bytes, IP header included, inside the network.
fn sized(from: &Host, to: &Host, v6: bool, port: u16, bytes: usize, may_split: bool) -> Vec<u8> {
    let mut header = header(from, to.ip(v6), UDP);
    header.dont_fragment = !may_split;
    let payload = vec![7; bytes - if v6 { 48 } else { 28 }];
    let datagram = datagram(&header, (port, 80), &payload);
    ethernet(to.mac, from.mac, header.ethertype(), &header.packet(&datagram))
}

/// An outer packet of ours to the client's end, as large as the uplink takes.
fn outer_packet(gateway: &mut Gateway, outer: bool, v6: bool) -> Vec<u8> {
    introduce(gateway, outer);
    let frame = sized(&WEB, &AWAY, v6, 40_000, inside(outer, 1_500), false);
    let seen = gateway.forward(&WEB, frame);
    assert_eq!(opened(&seen, &CLIENT, outer).len(), 14 + inside(outer, 1_500));
    seen.frame.bytes[14..].to_vec()
}

fn learnt(gateway: &Gateway) -> u64 {
    gateway.sum(|counters| counters.worker.paths_learnt.get())
}

/// The gateway hears that the path to the client's end is narrow.
fn narrow(gateway: &mut Gateway, outer: bool, v6: bool, quoted_bytes: usize) {
    let packet = outer_packet(gateway, outer, v6);
    let seen = gateway.send(&ROUTER, too_big(outer, MTU.into(), &packet[..quoted_bytes]));
    assert!(seen.is_empty(), "nobody inside is told yet: {seen:?}");
    assert_eq!(learnt(gateway), 1, "{:?}", gateway.drops());
    assert_eq!(gateway.sum(|counters| counters.worker.overlay_too_big.get()), 1);
}

fn assert_told(seen: &Seen, v6: bool, mtu: usize) {
    assert_eq!((seen.port, seen.icmp()), (WEB.port, if v6 { (2, 0) } else { (3, 4) }));
    assert_eq!(seen.ip().source, gateway(1, v6), "the gateway says it");
    assert_eq!(be32(seen.ip().payload, 4) as usize, mtu);
}

#[test]
fn a_routers_word_bounds_what_goes_into_the_tunnel_and_senders_are_told() {
    for quoted_bytes in [None, Some(36), Some(QUOTED_BYTES), Some(1_500)] {
        each(true, |mut gateway, outer, v6| {
            let least = least(outer);
            narrow(&mut gateway, outer, v6, quoted_bytes.map_or(least, |bytes| bytes.max(least)));
            let most = inside(outer, MTU);
            for port in 41_000..41_008 {
                let seen = gateway.forward(&WEB, sized(&WEB, &AWAY, v6, port, most + 1, false));
                assert_told(&seen, v6, most);
                let frame = sized(&WEB, &AWAY, v6, port, most, false);
                let seen = gateway.forward(&WEB, frame.clone());
                assert_eq!(opened(&seen, &CLIENT, outer), frame);
                assert!(seen.frame.bytes.len() <= 14 + usize::from(MTU));
            }
            // The other peer has another path.
            let hello = strange(BEYOND.mac, engine::MacAddress::BROADCAST);
            let hello = tunnelled(&ROUTER, outer, &hello);
            gateway.send_any(&ROUTER, engine::sim::WireFrame::whole(hello));
            let frame = sized(&WEB, &BEYOND, v6, 40_000, inside(outer, 1_500), false);
            opened(&gateway.forward(&WEB, frame), &ROUTER, outer);
        });
    }
}

#[test]
fn what_may_be_fragmented_is_in_front_of_the_tunnel_and_a_syn_is_clamped() {
    each(true, |mut gateway, outer, v6| {
        narrow(&mut gateway, outer, v6, QUOTED_BYTES);
        let most = inside(outer, MTU);
        if !v6 {
            let seen = gateway.send(&WEB, sized(&WEB, &AWAY, v6, 40_000, most + 1, true));
            assert_eq!(seen.len(), 2, "{:?}", gateway.drops());
            for seen in &seen {
                let frame = opened(seen, &CLIENT, outer);
                assert!(frame.len() <= 14 + most && frame[20] & 0x40 == 0, "a fragment");
                assert!(outer || seen.frame.bytes[20] & 0x40 != 0, "which routers leave whole");
            }
        }
        let header = header(&WEB, AWAY.ip(v6), TCP);
        let segment = announcement(&header, (40_005, 80), flags::SYN, Some(1_460));
        let frame = ethernet(AWAY.mac, WEB.mac, header.ethertype(), &header.packet(&segment));
        let frame = opened(&gateway.forward(&WEB, frame), &CLIENT, outer);
        let mss = TcpHeader::parse(inner(&frame).payload).unwrap().0.mss;
        let headers = if v6 { 60 } else { 40 };
        assert_eq!(mss.map(usize::from), Some(most - headers));
    });
}

#[test]
fn a_routed_prefix_behind_a_narrow_path_is_bounded_too() {
    for outer in [false, true] {
        each_of(
            || overlay(outer, false),
            |mut gateway, _| {
                let far: IpAddr = "9.1.2.3".parse().unwrap();
                let packet = |bytes: usize| {
                    let mut header = header(&WEB, far, UDP);
                    header.dont_fragment = true;
                    routed(&WEB, &header, &datagram(&header, (40_000, 53), &vec![7; bytes - 28]))
                };
                let seen = gateway.forward(&WEB, packet(inside(outer, 1_500)));
                let quoted = &seen.frame.bytes[14..14 + QUOTED_BYTES];
                gateway.send(&ROUTER, too_big(outer, MTU.into(), quoted));
                let most = inside(outer, MTU);
                assert_told(&gateway.forward(&WEB, packet(most + 1)), false, most);
                let seen = gateway.forward(&WEB, packet(most));
                assert_eq!(opened(&seen, &CLIENT, outer).len(), 14 + most);
            },
        );
    }
}

#[test]
fn segments_of_a_super_frame_are_measured_by_the_path_that_was_learnt() {
    for (outer, v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let caps = |_| Caps { checksum: true, tso: true, uso: false, mtu: 1_500, tunnelled: true };
        let mut gateway = Gateway::with_caps(overlay(outer, true), 1, caps);
        narrow(&mut gateway, outer, v6, QUOTED_BYTES);
        let most = (inside(outer, MTU) - if v6 { 60 } else { 40 }) as u16;
        let with = |segment: u16| {
            let payload = vec![7; 20_000];
            let mut frame = super_frame(&WEB, AWAY.mac, (40_000, 80), AWAY.ip(v6), &payload);
            let Offload::Gso { segment_bytes, .. } = &mut frame.offload else { panic!() };
            *segment_bytes = segment;
            let ip = if v6 { 0 } else { 0x40 };
            frame.bytes[20] |= ip;
            if !v6 {
                frame.bytes[24..26].fill(0);
                let sum = !engine::sim::frames::sum(&frame.bytes[14..34]);
                frame.bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frame
        };
        let seen = gateway.send_frame(&WEB, with(most));
        assert_eq!(seen.len(), 1, "{:?}", gateway.drops());
        assert!(matches!(seen[0].frame.offload, Offload::Tunnelled { .. }), "whole");
        let seen = gateway.send_frame(&WEB, with(most + 1));
        assert_eq!(seen.len(), 1, "{:?}", gateway.drops());
        assert_told(&seen[0], v6, inside(outer, MTU));
    }
}

#[test]
fn it_is_forgotten_after_ten_minutes() {
    each(true, |mut gateway, outer, v6| {
        narrow(&mut gateway, outer, v6, QUOTED_BYTES);
        gateway.pass(Duration::from_secs(590));
        introduce(&mut gateway, outer);
        let frame = sized(&WEB, &AWAY, v6, 40_000, inside(outer, 1_500), false);
        assert_told(&gateway.forward(&WEB, frame.clone()), v6, inside(outer, MTU));
        gateway.pass(Duration::from_secs(11));
        introduce(&mut gateway, outer);
        opened(&gateway.forward(&WEB, frame), &CLIENT, outer);
    });
}

/// Changes bytes of a quoted packet; of IPv4, its header's checksum stays right.
fn forged(packet: &[u8], place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[place..place + bytes.len()].copy_from_slice(bytes);
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = !engine::sim::frames::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[test]
fn forged_errors_are_counted_and_teach_nothing() {
    each(true, |mut gateway, outer, v6| {
        let packet = outer_packet(&mut gateway, outer, v6);
        let (ip, destination) = if outer { (40, 39) } else { (20, 19) };
        let mut refuse = |by: &Host, quoted: Vec<u8>, mtu: u32, reason: DropReason| {
            for quoted in [&quoted[..], &quoted[..QUOTED_BYTES], &quoted[..least(outer)]] {
                let kind = if outer { (2, 0) } else { (3, 4) };
                gateway.refuse(by, error(by, kind, mtu, quoted), reason);
            }
            assert_eq!(learnt(&gateway), 0, "{}", reason.name());
        };
        let forged_error = DropReason::OverlayErrorForged;
        let mtu = u32::from(MTU);
        // No such peer, and none that listens at that port.
        refuse(&ROUTER, forged(&packet, destination, &[99]), mtu, forged_error);
        refuse(&ROUTER, forged(&packet, ip + 2, &[0x12, 0xb6]), mtu, DropReason::IcmpError);
        // From a port that we never send from.
        refuse(&ROUTER, forged(&packet, ip, &[0xbf, 0xff]), mtu, forged_error);
        // Lengths that contradict each other.
        refuse(&ROUTER, forged(&packet, ip + 4, &[0, 99]), mtu, forged_error);
        // From inside.
        refuse(&DB, packet.clone(), mtu, DropReason::SpoofedIp);
        refuse(&VM, packet.clone(), mtu, forged_error);
        // What no path has, and what would have fitted.
        let floor = if outer { 1_279 } else { 551 };
        for absurd in [floor, 1_500, 9_000, 70_000] {
            refuse(&ROUTER, packet.clone(), absurd, DropReason::PathMtuRefused);
        }
        // As far as more is quoted, that has to be right as well.
        let port = u16::from_be_bytes([packet[ip], packet[ip + 1]]);
        let other_port = (0xc000 | port.wrapping_add(1)).to_be_bytes();
        // The flag, the network, the port that the inner packet gets, and who sent that.
        let sender = ip + 16 + 14 + if v6 { 8 + 15 } else { 12 + 3 };
        for (place, bytes) in
            [(ip + 8, &[0][..]), (ip + 12, &[9]), (ip, &other_port), (sender, &[77])]
        {
            let quoted = forged(&packet, place, bytes);
            let sent = too_big(outer, mtu, &quoted[..QUOTED_BYTES]);
            gateway.refuse(&ROUTER, sent, forged_error);
        }
        assert_eq!(learnt(&gateway), 0);
        // With a wrong checksum of its own, and at each length that is too short.
        let whole = too_big(outer, mtu, &packet[..QUOTED_BYTES]);
        let mut wrong = whole.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        gateway.refuse(&ROUTER, wrong, DropReason::IcmpErrorMalformed);
        for bytes in 0..least(outer) {
            let (to, kind) = (own(outer), if outer { (2, 0) } else { (3, 4) });
            let header = IpHeader::new(somebody(outer), to, if outer { ICMPV6 } else { ICMP });
            let message = icmp(header.source, to, kind, mtu, &packet[..bytes]);
            assert!(gateway.send(&ROUTER, routed(&ROUTER, &header, &message)).is_empty());
        }
        assert_eq!(learnt(&gateway), 0);
        // And the right one is heard after all of them.
        gateway.pass(Duration::from_secs(1));
        gateway.send(&ROUTER, whole);
        assert_eq!(learnt(&gateway), 1);
    });
}

#[test]
fn a_far_end_that_is_not_there_is_counted() {
    each(true, |mut gateway, outer, v6| {
        let packet = outer_packet(&mut gateway, outer, v6);
        let kinds = if outer { [(1, 4), (1, 3), (3, 0)] } else { [(3, 3), (3, 1), (11, 0)] };
        for kind in kinds {
            let sent = error(&ROUTER, kind, 0, &packet[..QUOTED_BYTES]);
            gateway.refuse(&ROUTER, sent, DropReason::OverlayUnreachable);
        }
        let frame = sized(&WEB, &AWAY, v6, 40_000, inside(outer, 1_500), false);
        opened(&gateway.forward(&WEB, frame), &CLIENT, outer);
    });
}

#[test]
fn a_flood_of_errors_about_tunnels_makes_few_changes() {
    each(true, |mut gateway, outer, v6| {
        let packet = outer_packet(&mut gateway, outer, v6);
        for mtu in (1_300..1_500).rev() {
            gateway.send(&ROUTER, too_big(outer, mtu, &packet[..QUOTED_BYTES]));
        }
        let changes = learnt(&gateway);
        let most = 70 * gateway.workers.len() as u64;
        assert!((1..=most).contains(&changes), "{changes} were learnt");
        assert_eq!(gateway.dropped(DropReason::IcmpErrorLimited) + changes, 200);
    });
}

#[test]
fn outer_packets_in_fragments_are_dropped_under_their_name() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let frame = sized(&AWAY, &WEB, v6, 40_000, 1_400, false);
        let payload = [&vxlan(VNI)[..], &frame].concat();
        let ip = IpHeader::new(CLIENT.ip(outer), own(outer), UDP);
        let datagram = datagram(&ip, (50_000, UDP_PORT), &payload);
        for pieces in [[0, 1], [1, 0]] {
            let before = gateway.dropped(DropReason::OverlayFragment);
            let all = ip.fragments(&datagram, 1_280);
            assert_eq!(all.len(), 2);
            for piece in pieces {
                let bytes = ethernet(CLIENT.gateway_mac, CLIENT.mac, ip.ethertype(), &all[piece]);
                let seen = gateway.send(&CLIENT, bytes);
                assert!(seen.is_empty(), "{seen:?}");
            }
            let dropped = gateway.dropped(DropReason::OverlayFragment) - before;
            assert_eq!(dropped, 2, "{:?}", gateway.drops());
            gateway.pass(Duration::from_secs(5));
        }
    });
}
