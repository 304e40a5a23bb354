//! Into tunnels and out of them, on the short way and on the long one.

use engine::sim::WireFrame;
use engine::sim::frames::{ICMP, ICMPV6, IpHeader, icmp};
use engine::{Caps, DropReason, MacAddress, Offload};

use super::*;

/// Outer and inner family, and whether stations are learnt.
fn each(test: impl Fn(bool, bool, bool)) {
    for bits in 0..8 {
        let [outer, v6, learns] = [1, 2, 4].map(|bit| bits & bit != 0);
        test(outer, v6, learns);
    }
}

/// Where the stations are is known, and so are the next hops.
fn introduce(engine: &mut Engine, outer: bool) {
    for (host, end) in [(&AWAY, &CLIENT), (&BEYOND, &ROUTER)] {
        let hello = strange(host.mac, MacAddress::BROADCAST);
        engine.prepare(end, tunnelled(end, outer, &hello));
        engine.settle("a station is heard");
        for _ in 0..3 {
            engine.prepare(&WEB, bridged(&WEB, host, false));
        }
        engine.settle("packets wait in front of the tunnel");
        engine.meet_neighbours();
    }
}

fn counts(engine: &Engine, host: &Host) -> (usize, usize) {
    (engine.sent(host), engine.sent(&WEB))
}

#[test]
fn packets_in_tunnels_both_ways_allocate_nothing() {
    each(|outer, v6, learns| {
        for workers in [1, 2] {
            let mut engine = Engine::with_tables(workers, overlay(outer, learns));
            introduce(&mut engine, outer);
            let before = counts(&engine, &CLIENT);
            for _ in 0..200 {
                engine.prepare(&WEB, bridged(&WEB, &AWAY, v6));
                engine.prepare(&CLIENT, tunnelled(&CLIENT, outer, &bridged(&AWAY, &WEB, v6)));
                engine.prepare(&ROUTER, tunnelled(&ROUTER, outer, &bridged(&BEYOND, &WEB, v6)));
            }
            engine.settle("packets by batches");
            let after = counts(&engine, &CLIENT);
            assert_eq!((after.0 - before.0, after.1 - before.1), (200, 400));
            // One by one, to everybody, to nobody, and routed.
            for number in 0..20 {
                engine.prepare(&WEB, who_has(&WEB, AWAY.ip(v6)));
                engine.prepare(&WEB, who_has(&WEB, beyond(77).ip(v6)));
                engine.prepare(&WEB, strange(WEB.mac, MacAddress::BROADCAST));
                let asked = udp(&AWAY, 40_000 + number, (FAR.ip(v6), 53));
                engine.prepare(&CLIENT, tunnelled(&CLIENT, outer, &asked));
                engine.prepare(&WEB, udp(&WEB, 40_000 + number, ([9, 1, 2, 3].into(), 53)));
                engine.prepare(&FAR, udp(&FAR, 53, (own(v6), 40_000 + number)));
                engine.settle("packets one by one");
            }
            engine.meet_neighbours();
        }
    });
}

#[test]
fn super_frames_in_tunnels_allocate_nothing() {
    each(|outer, v6, learns| {
        for tunnelled in [false, true] {
            // An uplink that takes super-frames of UDP would get the pieces as one again.
            let caps = Caps { checksum: true, tso: true, uso: tunnelled, mtu: 1_500, tunnelled };
            let mut engine = Engine::with_caps(1, overlay(outer, learns), caps);
            introduce(&mut engine, outer);
            let payload = vec![7; 20_000];
            let mut frame = super_frame(&WEB, AWAY.mac, (40_000, 80), AWAY.ip(v6), &payload);
            if let Offload::Gso { segment_bytes, .. } = &mut frame.offload {
                *segment_bytes = 1_300;
            }
            let before = engine.sent(&CLIENT);
            for _ in 0..3 {
                engine.prepare_at(0, &WEB, frame.clone());
            }
            engine.settle("super-frames into a tunnel");
            let pieces = if tunnelled { 1 } else { 16 };
            assert_eq!(engine.sent(&CLIENT) - before, 3 * pieces);
            for _ in 0..20 {
                let inner = bridged(&AWAY, &WEB, v6);
                engine.prepare(&CLIENT, crate::tunnelled(&CLIENT, outer, &inner));
            }
            engine.settle("datagrams are glued behind a tunnel");
            // Of IPv4, only what says that it follows: these all have one identification.
            let glued = engine.sum(|counters| counters.worker.glued.get());
            assert!(glued > 0 || !v6 || !tunnelled);
        }
    });
}

#[test]
fn what_is_wrong_with_packets_of_tunnels_allocates_nothing() {
    each(|outer, v6, learns| {
        let mut engine = Engine::with_tables(1, overlay(outer, learns));
        introduce(&mut engine, outer);
        let whole = tunnelled(&CLIENT, outer, &bridged(&AWAY, &WEB, v6));
        for at in 0..whole.len() {
            engine.prepare(&CLIENT, whole[..at].to_vec());
            let mut wrong = whole.clone();
            wrong[at] ^= 0xff;
            engine.prepare(&CLIENT, wrong);
        }
        let liar = Host { mac: DB.mac, ..AWAY };
        for number in 0..300 {
            let station = MacAddress(0x0600_0000_0000 + number);
            engine.prepare(&CLIENT, tunnelled(&CLIENT, outer, &strange(station, WEB.mac)));
            engine.prepare(&CLIENT, tunnelled(&CLIENT, outer, &bridged(&liar, &WEB, v6)));
        }
        engine.settle("wrong packets of tunnels");
        for reason in [DropReason::OverlayMalformed, DropReason::OverlaySender] {
            assert!(engine.dropped(reason) > 0, "{}", reason.name());
        }
    });
}

#[test]
fn the_path_of_a_tunnel_is_learnt_and_told_without_allocation() {
    each(|outer, v6, learns| {
        for workers in [1, 2] {
            let mut engine = Engine::with_tables(workers, overlay(outer, learns));
            introduce(&mut engine, outer);
            // As far as RFC 792 has it, a packet of ours to the client's end.
            let ip = IpHeader::new(own(outer), CLIENT.ip(outer), UDP);
            let sent = ip.packet(&datagram(&ip, (50_000, UDP_PORT), &[8; 1_400]));
            let quoted = &sent[..if outer { 48 } else { 28 }];
            let (protocol, kind) = if outer { (ICMPV6, (2, 0)) } else { (ICMP, (3, 4)) };
            let header = IpHeader::new(FAR.ip(outer), own(outer), protocol);
            for mtu in [1_400, 1_350, 1_350] {
                let message = icmp(header.source, header.destination, kind, mtu, quoted);
                engine.prepare(&FAR, routed(&FAR, &header, &message));
                engine.settle("a router says how much fits");
                for may_split in [false, true] {
                    let mut header = header_of(&WEB, &AWAY, v6);
                    header.dont_fragment = !may_split;
                    let large = datagram(&header, (40_000, 80), &[7; 1_350]);
                    let frame =
                        ethernet(AWAY.mac, WEB.mac, header.ethertype(), &header.packet(&large));
                    engine.prepare_at(0, &WEB, WireFrame::whole(frame));
                    engine.prepare(&WEB, bridged(&WEB, &AWAY, v6));
                }
                engine.settle("what is too large is told or cut");
            }
            assert_eq!(engine.sum(|counters| counters.worker.paths_learnt.get()), 3);
            let told = engine.dropped(DropReason::TooBigIcmpSent);
            assert_eq!(told, if v6 { 6 } else { 3 });
            // Forged ones, and pieces of outer packets.
            let message = icmp(header.source, header.destination, kind, 1_300, &sent[..100]);
            engine.prepare(&FAR, routed(&FAR, &header, &message));
            let ip = IpHeader::new(CLIENT.ip(outer), own(outer), UDP);
            let large = datagram(&ip, (50_000, UDP_PORT), &[8; 1_800]);
            for piece in ip.fragments(&large, 1_280) {
                let frame = ethernet(CLIENT.gateway_mac, CLIENT.mac, ip.ethertype(), &piece);
                engine.prepare(&CLIENT, frame);
            }
            engine.settle("forged errors and fragments");
            assert_eq!(engine.dropped(DropReason::OverlayErrorForged), 1);
            assert_eq!(engine.dropped(DropReason::OverlayFragment), 2);
        }
    });
}

fn header_of(from: &Host, to: &Host, v6: bool) -> IpHeader {
    header(from, to.ip(v6), UDP)
}
