//! Many packets at once into tunnels and out of them: what is repeated is what was decided.

use std::time::Duration;

use engine::sim::WireFrame;
use engine::{Caps, DropReason, MacAddress, Offload, PortId};
use proptest::prelude::*;

use crate::common::*;
use crate::gateway::{Gateway, Seen};
use crate::overlay::*;

/// A packet that some host sends, and what is done to its outer header on the way.
#[derive(Clone, Debug)]
struct Step {
    what: u8,
    number: u8,
    change: Option<(usize, u8)>,
}

/// The ends of the tunnels, and of the uplink.
fn is_outside(step: &Step) -> bool {
    step.what >= 4
}

fn bytes(step: &Step, outer: bool, v6: bool) -> Vec<u8> {
    let (number, port) = (step.number, 40_000 + u16::from(step.number % 8));
    let far = std::net::IpAddr::from([9, 1, 2, number]);
    let station = Host { mac: MacAddress(AWAY.mac.0 + u64::from(number % 3) * 0x0100), ..AWAY };
    let answer = |from: &Host| udp(from, 53, (WEB.ip(v6), port));
    let tunnelled = |from: &Host, outer, inner: &[u8]| {
        let mut bytes = tunnelled(from, outer, inner);
        if !outer {
            // RFC 7348 section 5: over IPv4 there is usually no checksum.
            bytes[40..42].fill(0);
        }
        bytes
    };
    let mut bytes = match step.what {
        0 => bridged(&WEB, &station, v6),
        1 => bridged(&WEB, &BEYOND, v6),
        2 => udp(&WEB, port, (far, 53)),
        3 => udp(&WEB, port, (AWAY.ip(v6), 53)),
        4 => tunnelled(&CLIENT, outer, &bridged(&station, &WEB, v6)),
        5 => tunnelled(&ROUTER, outer, &bridged(&BEYOND, &WEB, v6)),
        6 => tunnelled(&CLIENT, outer, &answer(&Host { ipv4: [9, 1, 2, number].into(), ..AWAY })),
        7 => udp(&CLIENT, port, (own(v6), 9_999)),
        8 => tunnelled(&ROUTER, outer, &bridged(&BEYOND, &AWAY, v6)),
        _ => tunnelled(&CLIENT, outer, &strange(station.mac, WEB.mac)),
    };
    // Of the outer header only: what is wrong inside stays so, and the harness looks at it.
    if let (Some((place, byte)), 4..=6) = (step.change, step.what) {
        bytes[place] = byte;
    }
    bytes
}

fn any_step() -> impl Strategy<Value = Step> {
    // Some in a row are alike, and most are right.
    let change = prop::option::weighted(0.1, (0usize..50, any::<u8>()));
    (prop_oneof![4 => 0u8..7, 1 => 7u8..10], 0u8..12, change)
        .prop_map(|(what, number, change)| Step { what, number, change })
}

/// What leaves after a batch, by port.
type Left = Vec<(PortId, Vec<u8>)>;

/// What leaves, by port, in its order, and what was counted.
fn run(
    cache: bool,
    batches: &[Vec<Step>],
    (outer, v6, learns): (bool, bool, bool),
) -> (Vec<Left>, Vec<(DropReason, u64)>) {
    let caps = |_| Caps { mtu: 1_500, ..Caps::default() };
    let mut gateway = Gateway::fresh_with(overlay(outer, learns), 1, cache, caps);
    gateway.pass(Duration::from_secs(5));
    let sorted = |seen: Vec<Seen>| {
        let mut all: Vec<_> = seen.into_iter().map(|seen| (seen.port, seen.frame.bytes)).collect();
        all.sort_by_key(|(port, _)| port.0);
        all
    };
    let left = batches.iter().map(|batch| {
        let (outside, inside): (Vec<_>, Vec<_>) = batch.iter().partition(|step| is_outside(step));
        let mut all = Vec::new();
        for (from, steps) in [(&WEB, inside), (&CLIENT, outside)] {
            let frames = steps.iter().map(|step| WireFrame::whole(bytes(step, outer, v6)));
            let frames: Vec<_> = frames.collect();
            if !frames.is_empty() {
                all.extend(gateway.send_with_one_edge(from, frames));
            }
            // ARP and ND are answered here.
            all.extend(gateway.pass_any(Duration::from_millis(250)));
        }
        sorted(all)
    });
    let left = left.collect();
    (left, gateway.drops())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn with_and_without_the_cache_every_byte_of_tunnels_is_the_same(
        batches in prop::collection::vec(prop::collection::vec(any_step(), 1..60), 1..5),
        outer: bool, v6: bool, learns: bool,
    ) {
        let of = (outer, v6, learns);
        prop_assert_eq!(run(true, &batches, of), run(false, &batches, of));
    }
}

#[test]
fn a_batch_out_of_two_tunnels_and_none_keeps_the_order_of_each() {
    for outer in [false, true] {
        let mut gateway = Gateway::new(overlay(outer, true), 1);
        let from = |host: &Host, end: &Host, number: u16| {
            tunnelled(end, outer, &udp_between(host, &WEB, number))
        };
        for round in 0..3 {
            let frames = (0..60).map(|number| match number % 3 {
                0 => from(&AWAY, &CLIENT, number),
                1 => from(&BEYOND, &ROUTER, number),
                _ => udp(&CLIENT, 1_000 + number, (own(false), 9_999)),
            });
            let frames = frames.map(WireFrame::whole).collect();
            let seen = gateway.send_with_one_edge(&CLIENT, frames);
            let numbers = |host: &Host| -> Vec<u16> {
                let of = seen
                    .iter()
                    .filter(|seen| seen.port == WEB.port && seen.ip().source == host.ip(false));
                of.map(|seen| seen.source().1).collect()
            };
            for (host, first) in [(&AWAY, 0), (&BEYOND, 1)] {
                let expected: Vec<u16> = (0..20).map(|index| first + 3 * index).collect();
                assert_eq!(numbers(host), expected, "round {round}");
            }
        }
    }
}

/// A frame inside network front with this source port.
fn udp_between(from: &Host, to: &Host, number: u16) -> Vec<u8> {
    let mut bytes = udp(from, number, (to.ip(false), 53));
    bytes[..6].copy_from_slice(&to.mac.bytes());
    bytes
}

#[test]
fn one_flow_keeps_one_source_port_and_flows_differ() {
    for outer in [false, true] {
        let mut gateway = Gateway::new(overlay(outer, true), 1);
        introduce(&mut gateway, outer);
        gateway.forward(&WEB, bridged(&WEB, &AWAY, false));
        let frames = (0..64u16).map(|number| udp_between(&WEB, &AWAY, 1_000 + number / 2));
        let frames = frames.map(WireFrame::whole).collect();
        let seen = gateway.send_with_one_edge(&WEB, frames);
        let ports: Vec<u16> =
            seen.iter().filter(|seen| is_tunnelled(seen)).map(|seen| seen.source().1).collect();
        assert_eq!(ports.len(), 64);
        assert!(ports.chunks(2).all(|pair| pair[0] == pair[1]), "{ports:?}");
        let mut different = ports;
        different.dedup();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 28, "{different:?}");
    }
}

/// Ports that take super-frames, and in tunnels, too, where this says so.
fn with_super_frames(outer: bool, tunnelled: bool) -> Gateway {
    let caps = move |_| Caps { checksum: true, tso: true, uso: false, mtu: 1_500, tunnelled };
    let mut gateway = Gateway::with_caps(overlay(outer, true), 1, caps);
    introduce(&mut gateway, outer);
    gateway.forward(&WEB, bridged(&WEB, &AWAY, false));
    gateway
}

/// A super-frame whose segments fit a tunnel with IPv6 in IPv6.
fn small_segments(mut frame: WireFrame) -> WireFrame {
    if let Offload::Gso { segment_bytes, .. } = &mut frame.offload {
        *segment_bytes = 1_300;
    }
    frame
}

fn payload() -> Vec<u8> {
    (0..20_001).map(|index| (index % 251) as u8).collect()
}

#[test]
fn a_super_frame_crosses_the_tunnel_whole_both_ways() {
    for (outer, v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut gateway = with_super_frames(outer, true);
        let whole = super_frame(&WEB, AWAY.mac, (40_000, 80), AWAY.ip(v6), &payload());
        let whole = small_segments(whole);
        let seen = gateway.send_frame(&WEB, whole.clone());
        assert_eq!(seen.len(), 1, "{:?}", gateway.drops());
        let by = if outer { 70 } else { 50 };
        let Offload::Gso { kind, segment_bytes, start, ecn } = whole.offload else { panic!() };
        let (start, outer_l4) = (start + by, by as u8 - 16);
        let inside = Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 };
        assert_eq!(seen[0].frame.offload, inside);
        let bytes = &seen[0].frame.bytes;
        assert_eq!(bytes[usize::from(by)..], whole.bytes, "as it was sent");
        assert_eq!(seen[0].ip().payload.len() + usize::from(outer_l4), bytes.len());
        // And back: what the other end sends in one piece the endpoint gets in one piece.
        let back = super_frame(&AWAY, WEB.mac, (80, 40_000), WEB.ip(v6), &payload());
        let back = small_segments(back);
        let bytes = tunnelled(&CLIENT, outer, &back.bytes);
        let arrived = WireFrame { bytes, offload: inside };
        let seen = gateway.send_frame(&CLIENT, arrived.clone());
        assert_eq!(seen, [Seen { port: WEB.port, frame: back }], "{:?}", gateway.drops());
        assert_eq!(gateway.sum(|counters| counters.worker.cuts.get()), 0);
        // Who says that the tunnel is elsewhere in the packet lies.
        let offload =
            Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4: outer_l4 + 2 };
        let lie = WireFrame { offload, ..arrived };
        assert!(gateway.send_frame(&CLIENT, lie).is_empty());
        assert_eq!(gateway.dropped(DropReason::MalformedOffload), 1);
    }
}

#[test]
fn a_super_frame_in_somebody_elses_tunnel_is_cut_and_goes_on() {
    for outer in [false, true] {
        let mut gateway = with_super_frames(outer, true);
        // A tunnel between a member's own end and one behind the uplink.
        let mut to_web = udp(&WEB, 50_000, (FAR.ip(outer), 8_472));
        let opened = gateway.forward(&WEB, to_web.clone());
        let (source, port) = opened.source();
        let inner = super_frame(&AWAY, WEB.mac, (80, 40_000), WEB.ip(false), &payload());
        let inner = small_segments(inner);
        let ip = engine::sim::frames::IpHeader::new(FAR.ip(outer), source, 17);
        let message = [&vxlan(7)[..], &inner.bytes].concat();
        to_web = routed(&FAR, &ip, &datagram(&ip, (8_472, port), &message));
        let Offload::Gso { kind, segment_bytes, start, ecn } = inner.offload else { panic!() };
        let by = if outer { 70 } else { 50 };
        let offload = Offload::Tunnelled {
            kind,
            segment_bytes,
            start: start + by,
            ecn,
            outer_l4: by as u8 - 16,
        };
        let seen = gateway.send_frame(&FAR, WireFrame { bytes: to_web, offload });
        assert_eq!(seen.len(), 16, "{:?}", gateway.drops());
        let mut whole = Vec::new();
        for seen in &seen {
            assert_eq!((seen.port, seen.frame.offload), (WEB.port, Offload::None));
            assert_eq!(seen.destination(), (WEB.ip(outer), 50_000));
            let segment = engine::sim::datagram::Datagram::parse(&seen.ip().payload[30..]).unwrap();
            assert!(segment.checksum_is_right(Offload::None));
            whole.extend_from_slice(&segment.payload[20..]);
        }
        assert_eq!(whole, payload());
    }
}

#[test]
fn what_comes_in_pieces_is_glued_for_an_endpoint_that_takes_super_frames() {
    for outer in [false, true] {
        let mut gateway = with_super_frames(outer, false);
        let whole = super_frame(&WEB, AWAY.mac, (40_000, 80), AWAY.ip(false), &payload());
        let whole = small_segments(whole);
        let pieces = gateway.send_frame(&WEB, whole);
        assert_eq!(pieces.len(), 16, "cut, because the uplink takes none in tunnels");
        let back = super_frame(&AWAY, WEB.mac, (80, 40_000), WEB.ip(false), &payload());
        let back = small_segments(back);
        let mut other = Gateway::with_caps(tables(), 1, |_| Caps { mtu: 1_500, ..Caps::default() });
        let to_db = super_frame(&AWAY, DB.mac, (80, 40_000), WEB.ip(false), &payload());
        let to_db = small_segments(to_db);
        let from = Host { port: VM.port, ..AWAY };
        let segments = other.send_frame(&from, to_db);
        let frames = segments.into_iter().map(|segment| {
            let mut inner = segment.frame.bytes;
            inner[..6].copy_from_slice(&WEB.mac.bytes());
            WireFrame::whole(tunnelled(&CLIENT, outer, &inner))
        });
        let frames: Vec<_> = frames.collect();
        assert_eq!(frames.len(), 16);
        let seen = gateway.send_with_one_edge(&CLIENT, frames);
        assert_eq!(seen, [Seen { port: WEB.port, frame: back }]);
    }
}
