//! Members of one network whose MTUs differ: what fits passes unchanged, what does not is
//! fragmented, or its sender is told.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::WireFrame;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    IpHeader, TCP, TcpHeader, UDP, be16, be32, ethernet, fill_checksum, fill_partial_checksum,
    flags,
};
use engine::tables::MssClamp;
use engine::{DropReason, MacAddress, Offload, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

const NARROW_MTU: u16 = 1_300;

/// As always, but db takes less than the others.
fn narrow() -> Tables {
    let mut tables = tables();
    Arc::make_mut(tables.ports[DB.port.index()].as_mut().unwrap()).mtu = NARROW_MTU;
    tables
}

fn with_clamp(clamp: MssClamp) -> Tables {
    let mut tables = narrow();
    Arc::make_mut(tables.networks[0].as_mut().unwrap()).mss_clamp = clamp;
    tables
}

/// UDP of so many bytes, IP header included, straight to a member's MAC address.
fn packet(from: &Host, to: (&Host, MacAddress), v6: bool, bytes: usize, may_cut: bool) -> Vec<u8> {
    let mut header = header(from, to.0.ip(v6), UDP);
    (header.identification, header.dont_fragment) = (77, !may_cut);
    let headers = if v6 { 48 } else { 28 };
    let payload: Vec<u8> = (0..bytes - headers).map(|index| (index % 251) as u8).collect();
    let datagram = datagram(&header, (40_000, 80), &payload);
    ethernet(to.1, from.mac, header.ethertype(), &header.packet(&datagram))
}

fn direct(v6: bool, bytes: usize, may_cut: bool) -> Vec<u8> {
    packet(&WEB, (&DB, DB.mac), v6, bytes, may_cut)
}

/// A SYN, or its answer, that announces so much.
fn syn(from: &Host, to: &Host, v6: bool, flags: u8, mss: Option<u16>) -> (IpHeader, Vec<u8>) {
    let header = header(from, to.ip(v6), TCP);
    let tcp = TcpHeader {
        source_port: 40_000,
        destination_port: 80,
        sequence: 1,
        acknowledgment: 0,
        flags,
        mss,
        nonce: None,
    };
    let segment = tcp.segment(b"");
    (header, segment)
}

fn finished(from: &Host, to: &Host, (header, mut segment): (IpHeader, Vec<u8>)) -> Vec<u8> {
    fill_checksum(header.source, header.destination, TCP, &mut segment);
    ethernet(to.mac, from.mac, header.ethertype(), &header.packet(&segment))
}

fn announced(seen: &Seen) -> Option<u16> {
    assert!(seen.ip().checksum_is_right(seen.frame.offload), "{seen:?}");
    TcpHeader::parse(seen.ip().payload).unwrap().0.mss
}

/// The gateway tells web, with its own address, how much db takes.
fn check_told(seen: &Seen, v6: bool) {
    assert_eq!((seen.port, seen.mac()), (WEB.port, WEB.mac));
    assert_eq!(seen.icmp(), if v6 { (2, 0) } else { (3, 4) });
    assert_eq!(be32(seen.ip().payload, 4), u32::from(NARROW_MTU));
    let ends: (IpAddr, IpAddr) = (seen.ip().source, seen.ip().destination);
    assert_eq!(ends, (gateway(1, v6), WEB.ip(v6)));
    let quoted = Datagram::parse_quoted(&seen.ip().payload[8..]).unwrap();
    assert_eq!((quoted.destination, be16(quoted.payload, 2)), (DB.ip(v6), 80));
}

#[test]
fn what_fits_passes_unchanged() {
    each_of(narrow, |mut gateway, v6| {
        for bytes in [60, 1_300] {
            for _ in 0..2 {
                let frame = direct(v6, bytes, false);
                let seen = gateway.forward(&WEB, frame.clone());
                assert_eq!((seen.port, seen.frame.bytes), (DB.port, frame));
            }
        }
        let between = packet(&DB, (&WEB, WEB.mac), v6, 1_300, false);
        assert_eq!(gateway.forward(&DB, between.clone()).frame.bytes, between);
        let others = packet(&WEB, (&VM, VM.mac), v6, 1_500, false);
        assert_eq!(gateway.forward(&WEB, others.clone()).frame.bytes, others);
    });
}

#[test]
fn who_forbids_fragments_is_told_by_the_gateway() {
    each_of(narrow, |mut gateway, v6| {
        for _ in 0..2 {
            check_told(&gateway.forward(&WEB, direct(v6, 1_301, false)), v6);
        }
        assert_eq!(gateway.dropped(DropReason::TooBigIcmpSent), 2);
        assert_eq!(gateway.dropped(DropReason::TooBig), 0);
    });
}

#[test]
fn who_does_not_listen_is_not_told_for_ever() {
    let few = || {
        let mut tables = narrow();
        Arc::make_mut(&mut tables.limits).answers_per_second = 8;
        tables
    };
    each_of(few, |mut gateway, v6| {
        let told: usize = (0..20).map(|_| gateway.send(&WEB, direct(v6, 1_400, false)).len()).sum();
        assert!(told < 20);
        assert_eq!(gateway.dropped(DropReason::TooBigIcmpSent), told as u64);
        assert_eq!(gateway.dropped(DropReason::TooBigRateLimited), 20 - told as u64);
    });
}

#[test]
fn ipv4_that_may_be_fragmented_is() {
    each_of(narrow, |mut gateway, v6| {
        if v6 {
            return;
        }
        let seen = gateway.send(&WEB, direct(v6, 1_500, true));
        assert_eq!(seen.len(), 2, "{:?}", gateway.drops());
        let parts: Vec<Datagram<'_>> = seen.iter().map(Seen::ip).collect();
        assert!(parts.iter().all(|part| part.bytes.len() <= usize::from(NARROW_MTU)));
        assert!(seen.iter().all(|part| part.port == DB.port && part.mac() == DB.mac));
        let joined = [parts[0].payload, parts[1].payload].concat();
        let whole = Datagram { payload: &joined, fragment: None, ..parts[0] };
        assert!(whole.checksum_is_right(Offload::None));
        assert_eq!(joined[8..], direct(v6, 1_500, true)[42..]);
        assert_eq!(gateway.sum(|counters| counters.worker.fragmented.get()), 1);
    });
}

#[test]
fn segments_of_a_super_frame_are_measured() {
    each_of(narrow, |mut gateway, v6| {
        let payload = vec![7; 10 * usize::from(SEGMENT_BYTES)];
        // The segments have 1,400 bytes of payload and may be fragmented, where they can.
        let frame = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload);
        let seen = gateway.send_frame(&WEB, frame);
        match v6 {
            true => check_told(&seen[0], v6),
            false => assert_eq!(seen.len(), 20, "{:?}", gateway.drops()),
        }
    });
}

#[test]
fn a_copy_of_a_flood_is_never_answered() {
    each_of(narrow, |mut gateway, v6| {
        let group = MacAddress(0x0100_5e00_0001);
        let frame = packet(&WEB, (&DB, group), v6, 1_400, false);
        let seen = gateway.send_any(&WEB, WireFrame::whole(frame));
        assert_eq!(seen.len(), 2, "vm and farm take it: {seen:?}");
        assert_eq!(gateway.dropped(DropReason::TooBig), 1);
    });
}

#[test]
fn what_is_no_ip_is_dropped_as_a_bridge_does() {
    each_of(narrow, |mut gateway, _| {
        let mut frame = strange(WEB.mac, DB.mac);
        frame.resize(14 + usize::from(NARROW_MTU) + 1, 0);
        gateway.refuse(&WEB, frame, DropReason::TooBig);
    });
}

#[test]
fn a_syn_between_them_announces_what_both_take() {
    each_of(narrow, |mut gateway, v6| {
        let (own, fits) = if v6 { (1_440, 1_240) } else { (1_460, 1_260) };
        for (from, to) in [(&WEB, &DB), (&DB, &WEB)] {
            for kind in [flags::SYN, flags::SYN | flags::ACK] {
                let frame = finished(from, to, syn(from, to, v6, kind, Some(own)));
                assert_eq!(announced(&gateway.forward(from, frame)), Some(fits));
            }
            // Neither raised nor added.
            for mss in [Some(536), None] {
                let frame = finished(from, to, syn(from, to, v6, flags::SYN, mss));
                let seen = gateway.forward(from, frame.clone());
                assert_eq!((announced(&seen), seen.frame.bytes), (mss, frame));
            }
        }
        let frame = finished(&WEB, &VM, syn(&WEB, &VM, v6, flags::SYN, Some(own)));
        assert_eq!(announced(&gateway.forward(&WEB, frame)), Some(own), "these two are equal");
    });
}

#[test]
fn a_partial_checksum_stays_partial() {
    each_of(narrow, |mut gateway, v6| {
        let (header, mut segment) = syn(&WEB, &DB, v6, flags::SYN, Some(1_460));
        fill_partial_checksum(header.source, header.destination, TCP, &mut segment);
        let bytes = ethernet(DB.mac, WEB.mac, header.ethertype(), &header.packet(&segment));
        let start = if v6 { 54 } else { 34 };
        let offload = Offload::NeedsChecksum { start, offset: 16 };
        let seen = gateway.send_frame(&WEB, WireFrame { bytes, offload });
        assert_eq!(announced(&seen[0]), Some(if v6 { 1_240 } else { 1_260 }));
    });
}

#[test]
fn off_and_a_number_leave_frames_inside_the_network_alone() {
    for clamp in [MssClamp::Off, MssClamp::Bytes(1_000)] {
        each_of(
            || with_clamp(clamp),
            |mut gateway: Gateway, v6| {
                let frame = finished(&WEB, &DB, syn(&WEB, &DB, v6, flags::SYN, Some(1_460)));
                assert_eq!(gateway.forward(&WEB, frame.clone()).frame.bytes, frame);
            },
        );
    }
}
