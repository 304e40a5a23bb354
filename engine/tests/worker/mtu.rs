//! Packets that are too large for their way out: cut where they may be, told where not.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::datagram::Datagram;
use engine::sim::frames::{UDP, be16, be32, ethernet};
use engine::{DropReason, Offload, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

const NARROW_MTU: u16 = 1_280;

/// The uplink takes less than the members' ports.
fn narrow() -> Tables {
    let mut tables = tables();
    Arc::make_mut(tables.ports[WAN.index()].as_mut().unwrap()).mtu = NARROW_MTU;
    tables
}

/// UDP from web of so many bytes, in packets of at most 1,500.
fn datagrams(to: IpAddr, bytes: usize, dont_fragment: bool) -> Vec<Vec<u8>> {
    let mut header = header(&WEB, to, UDP);
    (header.identification, header.dont_fragment) = (77, dont_fragment);
    let payload: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let packets = header.fragments(&datagram(&header, (40_001, 53), &payload), 1_500);
    packets
        .iter()
        .map(|packet| ethernet(WEB.gateway_mac, WEB.mac, header.ethertype(), packet))
        .collect()
}

/// The pieces fit, have one number and make a datagram of so many bytes with a right checksum.
fn check_whole(seen: &[Seen], bytes: usize) {
    let parts: Vec<Datagram<'_>> = seen.iter().map(Seen::ip).collect();
    let mut joined = Vec::new();
    for part in &parts {
        assert!(part.bytes.len() <= usize::from(NARROW_MTU));
        let fragment = part.fragment.unwrap();
        assert_eq!(fragment.offset, joined.len());
        assert_eq!(fragment.identification, parts[0].fragment.unwrap().identification);
        joined.extend_from_slice(part.payload);
    }
    assert!(!parts.last().unwrap().fragment.unwrap().more);
    assert_eq!(joined.len(), bytes + 8);
    let whole = Datagram { payload: &joined, fragment: None, ..parts[0] };
    assert!(whole.checksum_is_right(Offload::None));
}

fn send_all(gateway: &mut Gateway, frames: Vec<Vec<u8>>) -> Vec<Seen> {
    frames.into_iter().flat_map(|frame| gateway.send(&WEB, frame)).collect()
}

#[test]
fn an_ipv4_packet_that_may_be_fragmented_is() {
    each_of(narrow, |mut gateway, v6| {
        if v6 {
            return;
        }
        for bytes in [1_253, 1_400, 1_472] {
            let seen = send_all(&mut gateway, datagrams(FAR.ip(v6), bytes, false));
            assert_eq!(seen.len(), 2);
            assert!(seen.iter().all(|part| part.port == WAN && part.ip().source == own(v6)));
            check_whole(&seen, bytes);
        }
        let seen = send_all(&mut gateway, datagrams(FAR.ip(v6), 1_252, false));
        assert_eq!((seen.len(), seen[0].ip().fragment), (1, None), "it fits as it is");
        assert_eq!(gateway.sum(|counters| counters.worker.fragmented.get()), 3);
    });
}

#[test]
fn a_fragment_that_does_not_fit_is_cut_further() {
    each_of(narrow, |mut gateway, v6| {
        if v6 {
            return;
        }
        let seen = send_all(&mut gateway, datagrams(FAR.ip(v6), 4_000, false));
        assert!(seen.len() > 3);
        check_whole(&seen, 4_000);
    });
}

#[test]
fn whoever_forbids_it_is_told_the_mtu() {
    each_of(narrow, |mut gateway, v6| {
        let frame = datagrams(FAR.ip(v6), 1_400, true).remove(0);
        let told = gateway.forward(&WEB, frame.clone());
        assert_eq!(told.icmp(), if v6 { (2, 0) } else { (3, 4) });
        assert_eq!(be32(told.ip().payload, 4), u32::from(NARROW_MTU));
        assert_eq!(told.ip().source, crate::common::gateway(1, v6));
        assert_eq!(gateway.dropped(DropReason::TooBigIcmpSent), 1);
        let quoted = Datagram::parse_quoted(&told.ip().payload[8..]).unwrap();
        assert_eq!((quoted.source, be16(quoted.payload, 0)), (WEB.ip(v6), 40_001));
    });
}

#[test]
fn whoever_does_not_listen_is_not_told_for_ever() {
    let few = || {
        let mut tables = narrow();
        Arc::make_mut(&mut tables.limits).answers_per_second = 8;
        tables
    };
    each_of(few, |mut gateway, v6| {
        let frame = datagrams(FAR.ip(v6), 1_400, true).remove(0);
        let told: usize = (0..20).map(|_| gateway.send(&WEB, frame.clone()).len()).sum();
        assert_eq!(gateway.dropped(DropReason::TooBigIcmpSent), told as u64);
        assert_eq!(gateway.dropped(DropReason::TooBigRateLimited), 20 - told as u64);
    });
}

#[test]
fn segments_of_a_super_frame_are_fragmented_one_by_one() {
    each_of(narrow, |mut gateway, v6| {
        if v6 {
            return;
        }
        let payload = vec![7; 3 * usize::from(SEGMENT_BYTES)];
        let mac = WEB.gateway_mac;
        let frame = super_frame(&WEB, mac, (40_000, 80), FAR.ip(v6), &payload);
        let seen = gateway.send_frame(&WEB, frame);
        assert_eq!(seen.len(), 6, "three segments of two pieces: {:?}", gateway.drops());
        for pieces in seen.chunks(2) {
            let parts: Vec<Datagram<'_>> = pieces.iter().map(Seen::ip).collect();
            assert!(parts.iter().all(|part| part.bytes.len() <= usize::from(NARROW_MTU)));
            let joined = [parts[0].payload, parts[1].payload].concat();
            let whole = Datagram { payload: &joined, fragment: None, ..parts[0] };
            assert!(whole.checksum_is_right(Offload::None));
        }
    });
}
