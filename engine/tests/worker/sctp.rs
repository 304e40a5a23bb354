//! SCTP: published, masqueraded, with ports that change, and with checksums that are not made yet.

use std::sync::Arc;
use std::time::Duration;

use engine::flow::TcpState;
use engine::sim::WireFrame;
use engine::tables::{Protocol, Publish, PublishEntry};
use engine::{Caps, DropReason, NetworkId, Offload, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

const SCTP: u8 = 132;
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// CRC32c bit by bit, as RFC 9260 appendix A describes it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A packet of one chunk with a value.
fn packet(ports: (u16, u16), tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 0]);
    bytes.extend((4 + value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let checksum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn frame(
    from: &Host,
    source_port: u16,
    to: (std::net::IpAddr, u16),
    chunk: (u32, u8, &[u8]),
) -> Vec<u8> {
    let (tag, kind, value) = chunk;
    let header = header(from, to.0, SCTP);
    routed(from, &header, &packet((source_port, to.1), tag, kind, value))
}

/// What leaves is whole: its checksum is that of its bytes.
fn checked(seen: Seen) -> Seen {
    let mut bytes = seen.ip().payload.to_vec();
    let found = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    bytes[8..12].fill(0);
    assert_eq!(found, crc32c(&bytes), "checksum of {seen:?}");
    seen
}

/// tcp and udp as ever, and sctp 3868 of the gateway is web's 2905.
fn with_sctp() -> Tables {
    let mut tables = tables();
    let mut entries = published();
    for v6 in [false, true] {
        entries.push(PublishEntry {
            protocol: Protocol::Sctp,
            host_port: 3_868,
            port_count: 1,
            target_port: 2_905,
            target: WEB.ip(v6),
            port: WEB.port,
            network: NetworkId(0),
            ..entries[usize::from(v6)].clone()
        });
    }
    tables.publish = Arc::new(Publish::new(2, entries));
    tables
}

fn send(gateway: &mut Gateway, from: &Host, bytes: Vec<u8>) -> Seen {
    checked(gateway.forward(from, bytes))
}

fn state(gateway: &Gateway) -> TcpState {
    gateway.flows()[0].tcp
}

#[test]
fn a_published_port_of_another_number_is_reached_with_a_right_checksum() {
    each_of(with_sctp, |mut gateway, v6| {
        let init = frame(&CLIENT, 5_000, (own(v6), 3_868), (0, INIT, &[0, 0, 0, 7, 1, 2, 3]));
        let seen = send(&mut gateway, &CLIENT, init);
        assert_eq!((seen.port, seen.destination()), (WEB.port, (WEB.ip(v6), 2_905)));
        let back = frame(&WEB, 2_905, (CLIENT.ip(v6), 5_000), (7, INIT_ACK, &[0, 0, 0, 9]));
        let back = send(&mut gateway, &WEB, back);
        assert_eq!((back.port, back.source()), (WAN, (own(v6), 3_868)));
    });
}

#[test]
fn a_masqueraded_association_keeps_its_port_where_it_is_free() {
    each_of(with_sctp, |mut gateway, v6| {
        let to = (FAR.ip(v6), 2_905);
        let seen = send(&mut gateway, &WEB, frame(&WEB, 40_000, to, (0, INIT, &[0, 0, 0, 7])));
        assert_eq!(seen.source(), (own(v6), 40_000));
        let other = send(&mut gateway, &DB, frame(&DB, 40_000, to, (0, INIT, &[0, 0, 0, 8])));
        assert_ne!(other.source(), seen.source());
        for (host, outside) in [(WEB, seen.source()), (DB, other.source())] {
            let back = frame(&FAR, 2_905, outside, (7, INIT_ACK, &[0, 0, 0, 9]));
            let back = send(&mut gateway, &FAR, back);
            assert_eq!((back.port, back.destination()), (host.port, (host.ip(v6), 40_000)));
        }
    });
}

#[test]
fn an_association_has_states_and_their_timeouts() {
    each_of(with_sctp, |mut gateway, v6| {
        let to = (FAR.ip(v6), 2_905);
        let out = |tag, kind, value: &[u8]| frame(&WEB, 5_001, to, (tag, kind, value));
        let outside = send(&mut gateway, &WEB, out(0, INIT, &[0, 0, 0, 7])).source();
        assert_eq!(state(&gateway), TcpState::SynSent);
        let back = |tag, kind, value: &[u8]| frame(&FAR, 2_905, outside, (tag, kind, value));
        send(&mut gateway, &FAR, back(7, INIT_ACK, &[0, 0, 0, 9]));
        send(&mut gateway, &WEB, out(9, COOKIE_ECHO, &[1; 8]));
        send(&mut gateway, &FAR, back(7, COOKIE_ACK, &[]));
        assert_eq!(state(&gateway), TcpState::Established);
        assert_eq!(gateway.flows()[0].timeout, Duration::from_secs(300));
        // An ABORT with another tag is nobody's.
        send(&mut gateway, &FAR, back(8, ABORT, &[]));
        send(&mut gateway, &WEB, out(9, DATA, &[5; 700]));
        assert_eq!(state(&gateway), TcpState::Established);
        send(&mut gateway, &WEB, out(9, SHUTDOWN, &[0; 4]));
        assert_eq!(state(&gateway), TcpState::FinOriginal);
        assert_eq!(gateway.flows()[0].timeout, Duration::from_secs(60));
        send(&mut gateway, &FAR, back(7, ABORT, &[]));
        assert_eq!(state(&gateway), TcpState::Closed);
        gateway.pass(Duration::from_secs(60 + 70));
        assert!(gateway.flows().is_empty());
    });
}

#[test]
fn a_checksum_that_is_not_made_yet_is_made_whatever_the_ports_take() {
    for worker_count in [1, 2, 4] {
        for v6 in [false, true] {
            let caps = |_| Caps { mtu: 1_500, checksum: true, ..Caps::default() };
            let mut gateway = Gateway::with_caps(with_sctp(), worker_count, caps);
            let mut bytes =
                frame(&WEB, 5_001, (FAR.ip(v6), 2_905), (0, INIT, &[0, 0, 0, 7, 5, 5, 5, 5, 5]));
            let start = if v6 { 54 } else { 34 };
            bytes[start + 8..start + 12].fill(0);
            let offload = Offload::NeedsChecksum { start: start as u16, offset: 8 };
            let seen = gateway.send_frame(&WEB, WireFrame { bytes, offload });
            assert_eq!(seen.len(), 1, "{:?}", gateway.drops());
            assert_eq!(seen[0].frame.offload, Offload::None);
            assert_ne!(seen[0].source().1, 5_001);
            checked(seen[0].clone());
        }
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    each_of(with_sctp, |mut gateway, v6| {
        let header = header(&CLIENT, own(v6), SCTP);
        let mut message = packet((5_000, 3_868), 0, INIT, &[0, 0, 0, 7]);
        message[8] ^= 1;
        let seen = gateway.forward(&CLIENT, routed(&CLIENT, &header, &message));
        let mut bytes = seen.ip().payload.to_vec();
        bytes[8] ^= 1;
        let found = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        bytes[8..12].fill(0);
        assert_eq!(found, crc32c(&bytes));
    });
}

#[test]
fn a_member_reaches_its_own_published_port_by_sctp() {
    each_of(with_sctp, |mut gateway, v6| {
        let init = frame(&WEB, 5_000, (own(v6), 3_868), (0, INIT, &[0, 0, 0, 7]));
        let seen = send(&mut gateway, &WEB, init);
        assert_eq!((seen.port, seen.destination()), (WEB.port, (WEB.ip(v6), 2_905)));
        assert_eq!(seen.source().0, crate::common::gateway(1, v6));
        let back = frame(&WEB, 2_905, seen.source(), (7, INIT_ACK, &[0, 0, 0, 9]));
        let back = send(&mut gateway, &WEB, back);
        assert_eq!((back.source(), back.destination()), ((own(v6), 3_868), (WEB.ip(v6), 5_000)));
    });
}

#[test]
fn a_fragment_whose_port_would_change_is_refused_and_counted() {
    each_of(with_sctp, |mut gateway, v6| {
        if v6 {
            return;
        }
        let mut bytes = frame(&CLIENT, 5_000, (own(v6), 3_868), (0, INIT, &[7; 40]));
        // "More fragments" is the third bit of the fragment's word; the header's sum follows.
        bytes[20] |= 0x20;
        let sum = u16::from_be_bytes([bytes[24], bytes[25]]);
        let (difference, borrow) = sum.overflowing_sub(0x2000);
        bytes[24..26].copy_from_slice(&(difference - u16::from(borrow)).to_be_bytes());
        gateway.refuse(&CLIENT, bytes, DropReason::ProtocolNotTranslated);
    });
}

/// The value of an INIT or INIT ACK with further addresses, and a parameter that is none.
fn with_addresses(tag: u32) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend([0, 1, 0, 0, 0, 2, 0, 2, 0, 0, 0, 9]);
    value.extend([0, 5, 0, 8, 10, 1, 0, 99]);
    value.extend([0, 12, 0, 6, 0, 5, 0, 0]);
    value.extend([0, 6, 0, 20, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]);
    value.extend([0, 11, 0, 7, b'w', b'e', b'b', 0]);
    value
}

/// Kinds of the parameters that a packet's first chunk has.
fn parameters(seen: &Seen) -> Vec<u16> {
    let (payload, mut kinds) = (seen.ip().payload, Vec::new());
    let mut at = 12 + 20;
    while at + 4 <= payload.len() {
        let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        kinds.push(word(at));
        at += usize::from(word(at + 2)).next_multiple_of(4);
    }
    kinds
}

#[test]
fn further_addresses_of_inside_are_hidden_where_the_source_is_translated_and_only_there() {
    const HIDDEN: [u16; 4] = [0x8005, 12, 0x8005, 0x8005];
    const SHOWN: [u16; 4] = [5, 12, 6, 11];
    each_of(with_sctp, |mut gateway, v6| {
        let value = with_addresses(7);
        let init = frame(&WEB, 40_001, (FAR.ip(v6), 99), (0, INIT, &value));
        assert_eq!(parameters(&send(&mut gateway, &WEB, init)), HIDDEN);
        // A client outside keeps its own; what a published server lists is of inside.
        let init = frame(&CLIENT, 5_000, (own(v6), 3_868), (0, INIT, &value));
        assert_eq!(parameters(&send(&mut gateway, &CLIENT, init)), SHOWN);
        let answer = frame(&WEB, 2_905, (CLIENT.ip(v6), 5_000), (7, INIT_ACK, &value));
        assert_eq!(parameters(&send(&mut gateway, &WEB, answer)), HIDDEN);
    });
}
