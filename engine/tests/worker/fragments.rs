//! Fragments: the first one has the ports, the others follow it through NAT.

use std::net::IpAddr;
use std::time::Duration;

use engine::DropReason;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{TCP, UDP, be16, ethernet};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each};

const PAYLOAD_BYTES: usize = 4_000;

/// The fragments of one datagram, as frames to the gateway.
fn fragments(
    from: &Host,
    source_port: u16,
    to: (IpAddr, u16),
    identification: u16,
) -> Vec<Vec<u8>> {
    let mut header = header(from, to.0, UDP);
    header.identification = identification;
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|index| (index % 251) as u8).collect();
    let datagram = datagram(&header, (source_port, to.1), &payload);
    let packets = header.fragments(&datagram, 1_500);
    packets
        .iter()
        .map(|packet| ethernet(from.gateway_mac, from.mac, header.ethertype(), packet))
        .collect()
}

/// Sends all of them; returns what left and the datagram that it makes.
fn pass_through(gateway: &mut Gateway, from: &Host, frames: Vec<Vec<u8>>) -> (Vec<Seen>, Vec<u8>) {
    let seen: Vec<Seen> = frames.into_iter().map(|frame| gateway.forward(from, frame)).collect();
    let mut joined = Vec::new();
    for part in &seen {
        let packet = part.ip();
        assert_eq!(packet.fragment.unwrap().offset, joined.len());
        joined.extend_from_slice(packet.payload);
    }
    (seen, joined)
}

/// The datagram is whole: its checksum fits the addresses that its fragments have now.
fn check_whole(seen: &Seen, joined: &[u8]) {
    let packet = seen.ip();
    let whole = Datagram { payload: joined, fragment: None, ..packet };
    assert!(whole.checksum_is_right(engine::Offload::None));
    assert_eq!(joined.len(), PAYLOAD_BYTES + 8);
}

#[test]
fn fragments_follow_their_first_one_through_masquerade_and_back() {
    each(|mut gateway, v6| {
        for source_port in [40_001, 5_001] {
            let out = fragments(&WEB, source_port, (FAR.ip(v6), 53), 77);
            let (seen, joined) = pass_through(&mut gateway, &WEB, out);
            assert!(seen.iter().all(|part| part.port == WAN && part.ip().source == own(v6)));
            check_whole(&seen[0], &joined);
            let outside_port = be16(&joined, 0);
            let back = fragments(&FAR, 53, (own(v6), outside_port), 78);
            let (seen, joined) = pass_through(&mut gateway, &FAR, back);
            let is_web = |part: &Seen| part.port == WEB.port && part.ip().destination == WEB.ip(v6);
            assert!(seen.iter().all(is_web));
            check_whole(&seen[0], &joined);
            assert_eq!(be16(&joined, 2), source_port);
        }
    });
}

#[test]
fn fragments_reach_a_published_port() {
    each(|mut gateway, v6| {
        let there = fragments(&CLIENT, 50_001, (own(v6), 5_300), 9);
        let (seen, joined) = pass_through(&mut gateway, &CLIENT, there);
        assert!(seen.iter().all(|part| part.port == WEB.port));
        check_whole(&seen[0], &joined);
        assert_eq!(be16(&joined, 2), 53);
    });
}

#[test]
fn rfc_4787_req_14_a_later_fragment_that_overtakes_the_first_waits_for_it() {
    each(|mut gateway, v6| {
        for (round, source_port) in [(0, 40_001), (1, 40_003), (2, 40_001)] {
            let mut frames = fragments(&WEB, source_port, (FAR.ip(v6), 53), 77 + round);
            let first = frames.remove(0);
            for later in frames.into_iter().rev() {
                assert!(gateway.send(&WEB, later).is_empty(), "it waits");
            }
            let seen = gateway.send(&WEB, first);
            assert_eq!(seen.len(), 3, "all leave: {:?}", gateway.drops());
            assert_eq!(seen[0].ip().fragment.unwrap().offset, 0, "the first one first");
            let mut parts: Vec<_> = seen.iter().map(Seen::ip).collect();
            parts.sort_by_key(|part| part.fragment.unwrap().offset);
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.payload.to_vec()).collect();
            check_whole(&seen[0], &joined);
        }
        assert_eq!(gateway.sum(|counters| counters.worker.fragments_held.get()), 6);
    });
}

#[test]
fn rfc_4787_req_14_fragments_that_wait_in_vain_are_dropped_in_time() {
    each(|mut gateway, v6| {
        let mut late = fragments(&WEB, 40_001, (FAR.ip(v6), 53), 77);
        for fragment in late.split_off(1) {
            assert!(gateway.send(&WEB, fragment).is_empty());
        }
        assert_eq!(gateway.dropped(DropReason::FragmentUnattached), 0);
        assert!(gateway.pass(Duration::from_secs(6)).is_empty());
        assert_eq!(gateway.dropped(DropReason::FragmentUnattached), 2);
        // What comes after that is another datagram.
        let seen = gateway.forward(&WEB, late.remove(0));
        assert_eq!(seen.port, WAN);
    });
}

/// A later fragment that overtook its first one got a number of its own, and nobody could put the
/// two together.
#[test]
fn fragments_leave_with_one_number_when_their_first_one_waited_for_a_neighbour() {
    for number in 0..8 {
        each(|mut gateway, v6| {
            gateway.neighbours.clear();
            let mut parts = fragments(&WEB, 40_001 + number, (FAR.ip(v6), 53), 77 + number);
            assert!(gateway.send(&WEB, parts.remove(0)).is_empty(), "it waits");
            let mut frames = vec![(&ROUTER, i_have(&ROUTER, ROUTER.ip(v6), own(v6)))];
            frames.extend(parts.into_iter().map(|part| (&WEB, part)));
            let seen = gateway.send_while_others_sleep(frames);
            let parts: Vec<_> = seen.iter().map(|seen| seen.ip().fragment.unwrap()).collect();
            let offsets: Vec<usize> = parts.iter().map(|part| part.offset).collect();
            assert!(parts.len() == 3 && offsets.is_sorted(), "in their order: {offsets:?}");
            assert!(parts.iter().all(|part| part.identification == parts[0].identification));
        });
    }
}

#[test]
fn a_later_fragment_goes_nowhere_if_its_first_one_does() {
    each(|mut gateway, v6| {
        let mut refused = fragments(&WEB, 40_001, (APP.ip(v6), 53), 77);
        let later = refused.split_off(1);
        gateway.refuse(&WEB, refused.remove(0), DropReason::OtherNetwork);
        for fragment in later {
            gateway.refuse(&WEB, fragment, DropReason::FragmentUnattached);
        }
    });
}

#[test]
fn equal_identifications_of_two_hosts_are_told_apart_outside() {
    each(|mut gateway, v6| {
        let both = [(&WEB, 40_001), (&DB, 40_005)];
        let sent = both.map(|(host, port)| (host, fragments(host, port, (FAR.ip(v6), 53), 77)));
        // One fragment of each in turn: who mixes them up gets neither whole.
        let mut numbers = Vec::new();
        for index in 0..3 {
            for (host, frames) in &sent {
                let seen = gateway.forward(host, frames[index].clone());
                assert_eq!(seen.ip().source, own(v6));
                numbers.push(seen.ip().fragment.unwrap().identification);
            }
        }
        assert_ne!(numbers[0], numbers[1], "two datagrams");
        assert_eq!(numbers[..2], numbers[2..4], "one number each");
        assert_eq!(numbers[..2], numbers[4..]);
    });
}

#[test]
fn a_number_may_be_used_again_once_its_datagram_is_whole() {
    each(|mut gateway, v6| {
        for _ in 0..3 {
            let frames = fragments(&WEB, 40_001, (FAR.ip(v6), 53), 77);
            let (seen, joined) = pass_through(&mut gateway, &WEB, frames);
            check_whole(&seen[0], &joined);
        }
    });
}

/// A fragment from web to far of these bytes at an offset.
fn piece(v6: bool, protocol: u8, offset: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    let mut header = header(&WEB, FAR.ip(v6), protocol);
    header.identification = 99;
    let packet = header.piece(bytes, offset, more);
    ethernet(WEB.gateway_mac, WEB.mac, header.ethertype(), &packet)
}

#[test]
fn rfc_1858_and_rfc_3128_tiny_fragments_are_refused() {
    each(|mut gateway, v6| {
        let segment = [0x9c, 0x41, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 1, 0, 0, 0, 0];
        for bytes in [8, 16] {
            let first = piece(v6, TCP, 0, &segment[..bytes], true);
            gateway.refuse(&WEB, first, DropReason::FragmentTiny);
        }
        for offset in [8, 16] {
            let later = piece(v6, TCP, offset, &[0; 64], false);
            gateway.refuse(&WEB, later, DropReason::FragmentTiny);
        }
        // Not a multiple of eight although others follow; nothing at all; beyond all datagrams.
        gateway.refuse(&WEB, piece(v6, UDP, 64, &[0; 9], true), DropReason::MalformedIp);
        gateway.refuse(&WEB, piece(v6, UDP, 64, &[], false), DropReason::MalformedIp);
        gateway.refuse(&WEB, piece(v6, UDP, 65_528, &[0; 64], false), DropReason::MalformedIp);
    });
}

#[test]
fn rfc_5722_overlapping_fragments_are_refused_and_all_that_follows() {
    each(|mut gateway, v6| {
        let first = [&[0x9c, 0x41, 0, 53, 0, 200, 0, 0][..], &[7; 56]].concat();
        gateway.forward(&WEB, piece(v6, UDP, 0, &first, true));
        // The same again: only that one goes.
        gateway.refuse(&WEB, piece(v6, UDP, 0, &first, true), DropReason::FragmentOverlap);
        gateway.forward(&WEB, piece(v6, UDP, 64, &[8; 64], true));
        gateway.refuse(&WEB, piece(v6, UDP, 120, &[9; 64], true), DropReason::FragmentOverlap);
        gateway.refuse(&WEB, piece(v6, UDP, 128, &[9; 72], false), DropReason::FragmentOverlap);
    });
}

#[test]
fn one_source_that_floods_fragments_leaves_others_their_room() {
    each(|mut gateway, v6| {
        for number in 0..300u16 {
            let mut frames = fragments(&WEB, 40_001, (FAR.ip(v6), 53), 1_000 + number);
            gateway.send(&WEB, frames.remove(2));
        }
        assert!(gateway.dropped(DropReason::FragmentLimited) > 100);
        let mut frames = fragments(&DB, 40_005, (FAR.ip(v6), 53), 77);
        let first = frames.remove(0);
        frames.into_iter().for_each(|frame| assert!(gateway.send(&DB, frame).is_empty()));
        assert_eq!(gateway.send(&DB, first).len(), 3, "{:?}", gateway.drops());
        gateway.forward(&WEB, udp(&WEB, 40_009, (FAR.ip(v6), 53)));
    });
}
