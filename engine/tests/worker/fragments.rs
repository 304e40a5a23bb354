//! Fragments: the first one has the ports, the others follow it through NAT.

use std::net::IpAddr;

use engine::DropReason;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{UDP, be16, ethernet};

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
fn a_later_fragment_whose_first_one_was_not_seen_is_dropped() {
    each(|mut gateway, v6| {
        let mut late = fragments(&WEB, 40_001, (FAR.ip(v6), 53), 77);
        for fragment in late.split_off(1) {
            gateway.refuse(&WEB, fragment, DropReason::FragmentUnattached);
        }
        let mut others = fragments(&WEB, 40_001, (FAR.ip(v6), 53), 78);
        gateway.forward(&WEB, late.remove(0));
        gateway.refuse(&WEB, others.remove(1), DropReason::FragmentUnattached);
    });
}
