//! Super-frames pass whole where the other side takes them and are cut where it does not.

use engine::sim::datagram::Datagram;
use engine::sim::frames::TcpHeader;
use engine::{Caps, Offload, PortId};

use crate::common::*;
use crate::gateway::{Gateway, Seen};

/// Not a multiple of a segment's payload.
const PAYLOAD_BYTES: usize = 60_001;

fn takes_all(_: PortId) -> Caps {
    Caps { checksum: true, tso: true, uso: true, mtu: 1_500, tunnelled: false }
}

fn takes_none(_: PortId) -> Caps {
    Caps { mtu: 1_500, ..Caps::default() }
}

fn each_with(caps: fn(PortId) -> Caps, test: impl Fn(Gateway, bool)) {
    for worker_count in [1, 2, 4] {
        for v6 in [false, true] {
            println!("{worker_count} workers, IPv6: {v6}");
            test(Gateway::with_caps(tables(), worker_count, caps), v6);
        }
    }
}

fn payload() -> Vec<u8> {
    (0..PAYLOAD_BYTES).map(|index| (index % 251) as u8).collect()
}

/// The payloads of TCP segments, joined, if they follow each other.
fn join(segments: &[Seen]) -> Vec<u8> {
    let (mut joined, mut next) = (Vec::new(), 1_001);
    for segment in segments {
        assert_eq!(segment.frame.offload, Offload::None);
        assert!(segment.frame.bytes.len() <= 1_514);
        let packet: Datagram = segment.ip();
        let (header, payload) = TcpHeader::parse(packet.payload).unwrap();
        assert_eq!(header.sequence, next);
        next += payload.len() as u32;
        joined.extend_from_slice(payload);
    }
    joined
}

#[test]
fn from_member_to_member_a_super_frame_passes_untouched() {
    each_with(takes_all, |mut gateway, v6| {
        let whole = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload());
        let seen = gateway.send_frame(&WEB, whole.clone());
        assert_eq!(seen, [Seen { port: DB.port, frame: whole }]);
        assert_eq!(gateway.sum(|counters| counters.worker.cuts.get()), 0);
    });
}

#[test]
fn a_port_with_more_bytes_than_a_batch_takes_stays_ready() {
    each_with(takes_all, |mut gateway, v6| {
        let whole = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload());
        let seen = gateway.send_with_one_edge(&WEB, vec![whole; 20]);
        assert_eq!(seen.len(), 20);
    });
}

#[test]
fn frames_of_one_flow_are_glued_for_a_port_that_takes_super_frames() {
    for v6 in [false, true] {
        let whole = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload());
        let mut gateway = Gateway::with_caps(tables(), 1, takes_none);
        let segments = gateway.send_frame(&WEB, whole.clone());
        let mut gateway = Gateway::with_caps(tables(), 1, takes_all);
        let count = segments.len() as u64;
        let frames = segments.into_iter().map(|segment| segment.frame).collect();
        let seen = gateway.send_with_one_edge(&WEB, frames);
        assert_eq!(seen, [Seen { port: DB.port, frame: whole }], "it is as it was sent");
        assert_eq!(gateway.sum(|counters| counters.worker.glued.get()), count - 1);
    }
}

#[test]
fn through_nat_a_super_frame_stays_whole() {
    each_with(takes_all, |mut gateway, v6| {
        let whole = super_frame(&WEB, WEB.gateway_mac, (40_000, 80), FAR.ip(v6), &payload());
        // The first waits for the router, the second does not.
        for _ in 0..2 {
            let seen = gateway.send_frame(&WEB, whole.clone());
            assert_eq!(seen.len(), 1);
            assert_eq!((seen[0].port, seen[0].source()), (WAN, (own(v6), 40_000)));
            assert_eq!(seen[0].frame.offload, whole.offload);
            assert_eq!(seen[0].frame.bytes.len(), whole.bytes.len());
        }
    });
}

#[test]
fn for_a_port_that_takes_no_super_frames_it_is_cut() {
    each_with(takes_none, |mut gateway, v6| {
        let to_member = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload());
        let to_far = super_frame(&WEB, WEB.gateway_mac, (40_000, 80), FAR.ip(v6), &payload());
        for (frame, port) in [(to_member, DB.port), (to_far, WAN)] {
            let segments = gateway.send_frame(&WEB, frame);
            assert!(segments.iter().all(|segment| segment.port == port));
            assert_eq!(segments.len(), PAYLOAD_BYTES.div_ceil(usize::from(SEGMENT_BYTES)));
            assert_eq!(join(&segments), payload());
        }
        assert_eq!(gateway.sum(|counters| counters.worker.cuts.get()), 2);
    });
}
