//! IPv6 clients of an endpoint with IPv4 only: the header is another one, the rest arrives.

use std::net::IpAddr;

use engine::sim::WireFrame;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, IpHeader, UDP, be16, be32, ethernet, flags, icmp,
};
use engine::tables::{Protocol, Publish, PublishEntry, Tables};
use engine::worker::Event;
use engine::{DropReason, NetworkId, Offload};

use crate::common::*;
use crate::gateway::{Gateway, Seen};

/// Web's tcp 80 and udp 53 of IPv4 are published on IPv6 addresses.
pub(crate) fn old_web() -> Tables {
    let entry = |protocol, host_port, target_port| PublishEntry {
        host: Some("::".parse().unwrap()),
        protocol,
        host_port,
        port_count: 1,
        target_port,
        target: WEB.ip(false),
        port: WEB.port,
        network: NetworkId(0),
    };
    let mut tables = tables();
    let entries = vec![entry(Protocol::Tcp, 8_090, 80), entry(Protocol::Udp, 5_390, 53)];
    let all = [tables.publish.entries(), &entries].concat();
    tables.publish = std::sync::Arc::new(Publish::new(1, all));
    tables
}

fn each(test: impl Fn(Gateway)) {
    for worker_count in [1, 2, 4] {
        println!("{worker_count} workers");
        test(Gateway::new(old_web(), worker_count));
    }
}

/// UDP of so many bytes between two sockets, as fragments where it must be.
fn datagrams(from: &Host, ports: (u16, u16), to: IpAddr, bytes: usize) -> Vec<Vec<u8>> {
    let mut header = header(from, to, UDP);
    header.identification = 77;
    let payload: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let packets = header.fragments(&datagram(&header, ports, &payload), 1_500);
    packets
        .iter()
        .map(|packet| ethernet(from.gateway_mac, from.mac, header.ethertype(), packet))
        .collect()
}

/// What left, put together: its ports and payload, with a right checksum.
fn whole(seen: &[Seen]) -> (u16, u16, Vec<u8>) {
    let mut parts: Vec<Datagram<'_>> = seen.iter().map(Seen::ip).collect();
    parts.sort_by_key(|part| part.fragment.map_or(0, |fragment| fragment.offset));
    let joined: Vec<u8> = parts.iter().flat_map(|part| part.payload.to_vec()).collect();
    let all = Datagram { payload: &joined, fragment: None, ..parts[0] };
    assert!(all.checksum_is_right(Offload::None));
    let numbers: Vec<_> =
        parts.iter().map(|part| part.fragment.map(|f| f.identification)).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]), "one number: {numbers:?}");
    (be16(&joined, 0), be16(&joined, 2), joined[8..].to_vec())
}

fn send_all(gateway: &mut Gateway, from: &Host, frames: Vec<Vec<u8>>) -> Vec<Seen> {
    let seen: Vec<Seen> = frames.into_iter().flat_map(|frame| gateway.send(from, frame)).collect();
    for part in &seen {
        assert!(part.frame.bytes.len() <= 14 + 1_500, "{} bytes", part.frame.bytes.len());
    }
    seen
}

#[test]
fn datagrams_of_all_sizes_go_there_and_back() {
    each(|mut gateway| {
        for bytes in [0, 1, 1_200, 1_252, 1_452, 1_472, 4_000, 8_192] {
            for client_port in [40_000, 40_001, 40_007] {
                let there = datagrams(&CLIENT, (client_port, 5_390), own(true), bytes);
                let sent_count = there.len();
                let seen = send_all(&mut gateway, &CLIENT, there);
                assert!(seen.len() >= sent_count, "{bytes}: {:?}", gateway.drops());
                assert!(seen.iter().all(|part| be16(&part.frame.bytes, 12) == ETHERTYPE_IPV4));
                assert!(seen.iter().all(|part| part.port == WEB.port));
                let packet = seen[0].ip();
                assert_eq!((packet.source, packet.hops), (gateway_v4(), 63));
                assert_eq!(packet.destination, WEB.ip(false));
                let (port, to, payload) = whole(&seen);
                assert_eq!((to, payload.len()), (53, bytes));
                let back = datagrams(&WEB, (53, port), gateway_v4(), bytes);
                let seen = send_all(&mut gateway, &WEB, back);
                assert!(!seen.is_empty(), "{bytes}: {:?}", gateway.drops());
                assert!(seen.iter().all(|part| be16(&part.frame.bytes, 12) == ETHERTYPE_IPV6));
                let packet = seen[0].ip();
                assert_eq!((packet.source, packet.destination), (own(true), CLIENT.ip(true)));
                assert_eq!(packet.hops, 63);
                let (from, to, back) = whole(&seen);
                assert_eq!((from, to), (5_390, client_port));
                assert_eq!(back, payload);
            }
        }
    });
}

fn gateway_v4() -> IpAddr {
    gateway(1, false)
}

#[test]
fn dont_fragment_goes_by_size() {
    each(|mut gateway| {
        // RFC 7915 section 5.1: the translated packet has 1,260 bytes, and one more.
        for (bytes, dont_fragment) in [(1_232, false), (1_233, true)] {
            let frame = datagrams(&CLIENT, (40_000, 5_390), own(true), bytes).remove(0);
            let seen = gateway.forward(&CLIENT, frame);
            assert_eq!(seen.ip().bytes.len(), bytes + 28);
            assert_eq!(be16(seen.ip().bytes, 6) & 0x4000 != 0, dont_fragment);
        }
    });
}

#[test]
fn a_connection_is_one_flow_that_an_event_tells_of() {
    each(|mut gateway| {
        let there = |flags| tcp(&CLIENT, 40_000, (own(true), 8_090), flags);
        let first = gateway.forward(&CLIENT, there(flags::SYN));
        let (address, port) = first.source();
        assert_eq!((address, first.destination()), (gateway_v4(), (WEB.ip(false), 80)));
        let back = |flags| tcp(&WEB, 80, (address, port), flags);
        let seen = gateway.forward(&WEB, back(flags::SYN | flags::ACK));
        assert_eq!(seen.source(), (own(true), 8_090));
        assert_eq!(seen.destination(), (CLIENT.ip(true), 40_000));
        gateway.forward(&CLIENT, there(flags::ACK));
        let flows = gateway.flows();
        assert_eq!(flows.len(), 1, "both directions are one flow");
        assert_eq!(flows[0].tcp, engine::flow::TcpState::Established);
        assert_eq!(flows[0].source, (address, port));
        assert_eq!(flows[0].packets, (2, 1));
        let told = Event::Translated {
            client: (CLIENT.ip(true), 40_000),
            seen_as: (address, port),
            server: (WEB.ip(false), 80),
        };
        assert!(gateway.events().contains(&told));
    });
}

#[test]
fn every_client_has_a_port_of_its_own() {
    each(|mut gateway| {
        let ports: std::collections::BTreeSet<u16> = (40_000..40_040)
            .map(|port| gateway.forward(&CLIENT, udp(&CLIENT, port, (own(true), 5_390))).source().1)
            .collect();
        assert_eq!(ports.len(), 40);
    });
}

#[test]
fn a_super_frame_stays_whole_and_changes_its_kind() {
    let takes_all =
        |_| engine::Caps { mtu: 1_500, checksum: true, tso: true, uso: true, tunnelled: false };
    let mut gateway = Gateway::with_caps(old_web(), 2, takes_all);
    gateway.forward(&CLIENT, tcp(&CLIENT, 40_000, (own(true), 8_090), flags::SYN));
    let frame = super_frame(&CLIENT, WAN_MAC, (40_000, 8_090), own(true), &[7; 20_000]);
    let mut seen = gateway.send_frame(&CLIENT, frame);
    assert_eq!(seen.len(), 1);
    let WireFrame { offload, .. } = seen.remove(0).frame;
    let Offload::Gso { kind, segment_bytes, start, .. } = offload else { panic!("{offload:?}") };
    assert_eq!((kind, segment_bytes, start), (engine::packet::GsoKind::TcpV4, SEGMENT_BYTES, 34));
}

#[test]
fn a_refusal_of_the_endpoint_reaches_the_client_in_its_own_family() {
    each(|mut gateway| {
        let frame = udp(&CLIENT, 40_000, (own(true), 5_390));
        let inside = gateway.forward(&CLIENT, frame.clone());
        let quote = &inside.frame.bytes[14..];
        let header = IpHeader::new(WEB.ip(false), gateway_v4(), ICMP);
        let message = icmp(WEB.ip(false), gateway_v4(), (3, 3), 0, quote);
        let seen = gateway.forward(&WEB, routed(&WEB, &header, &message));
        assert_eq!((seen.port, seen.icmp()), (WAN, (1, 4)));
        assert_eq!((seen.ip().source, seen.ip().destination), (own(true), CLIENT.ip(true)));
        let quoted = Datagram::parse(&seen.ip().payload[8..]).unwrap();
        assert!(quoted.checksum_is_right(Offload::None));
        let original = Datagram::parse(&frame[14..]).unwrap();
        assert_eq!((quoted.source, quoted.destination), (original.source, original.destination));
        assert_eq!(quoted.payload, original.payload);
    });
}

#[test]
fn an_error_about_a_reply_reaches_the_endpoint_in_its_own_family() {
    each(|mut gateway| {
        let port = gateway.forward(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390))).source().1;
        let reply = datagrams(&WEB, (53, port), gateway_v4(), 1_000).remove(0);
        let outside = gateway.forward(&WEB, reply.clone());
        let header = IpHeader::new(ROUTER.ip(true), own(true), ICMPV6);
        let quote = &outside.frame.bytes[14..];
        let message = icmp(ROUTER.ip(true), own(true), (2, 0), 1_300, quote);
        let seen = gateway.forward(&ROUTER, routed(&ROUTER, &header, &message));
        assert_eq!((seen.port, seen.icmp()), (WEB.port, (3, 4)));
        assert_eq!(be32(seen.ip().payload, 4), 1_280, "less by what IPv6's header is longer");
        assert_eq!((seen.ip().source, seen.ip().destination), (gateway_v4(), WEB.ip(false)));
        let quoted = Datagram::parse_quoted(&seen.ip().payload[8..]).unwrap();
        let original = Datagram::parse(&reply[14..]).unwrap();
        assert_eq!((quoted.source, quoted.destination), (original.source, original.destination));
        assert_eq!(quoted.payload, &original.payload[..quoted.payload.len()]);
        assert!(seen.ip().bytes.len() <= 576);
        // One that nobody's packet is the reason for goes nowhere, also across.
        let made_up = udp(&CLIENT, 40_009, (WEB.ip(true), 5_390));
        let message = icmp(ROUTER.ip(true), CLIENT.ip(true), (1, 4), 0, &made_up[14..]);
        let header = IpHeader::new(ROUTER.ip(true), CLIENT.ip(true), ICMPV6);
        gateway.refuse(&ROUTER, routed(&ROUTER, &header, &message), DropReason::IcmpError);
    });
}

#[test]
fn what_does_not_fit_is_told_in_bytes_of_the_senders_family() {
    each(|mut gateway| {
        gateway.change(|tables| {
            for id in [WAN, WEB.port] {
                let table = tables.ports[id.index()].as_mut().unwrap();
                std::sync::Arc::make_mut(table).mtu = if id == WAN { 1_500 } else { 1_280 };
                std::sync::Arc::make_mut(table).epoch = tables.generation;
            }
        });
        let large = datagrams(&CLIENT, (40_000, 5_390), own(true), 1_452).remove(0);
        let seen = gateway.forward(&CLIENT, large);
        assert_eq!((seen.icmp(), be32(seen.ip().payload, 4)), ((2, 0), 1_300));
        let fits = datagrams(&CLIENT, (40_000, 5_390), own(true), 1_252).remove(0);
        assert_eq!(gateway.forward(&CLIENT, fits).port, WEB.port);
    });
}

#[test]
fn a_datagram_without_checksum_is_given_one() {
    each(|mut gateway| {
        let port = gateway.forward(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390))).source().1;
        let mut reply = udp(&WEB, 53, (gateway_v4(), port));
        reply[14 + 26..14 + 28].fill(0);
        let seen = gateway.forward(&WEB, reply);
        assert_ne!(be16(seen.ip().payload, 6), 0);
        assert!(seen.ip().checksum_is_right(Offload::None));
    });
}

#[test]
fn unpublishing_ends_the_flow_at_its_next_packet() {
    each(|mut gateway| {
        gateway.forward(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390)));
        let port = gateway.forward(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390))).source().1;
        gateway.change(|tables| {
            tables.publish = std::sync::Arc::new(Publish::new(tables.generation, published()));
        });
        let seen = gateway.forward(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390)));
        assert_eq!(seen.icmp(), (1, 4), "nobody serves it any more");
        let seen = gateway.forward(&WEB, udp(&WEB, 53, (gateway_v4(), port)));
        assert_eq!(seen.icmp(), (3, 3));
        assert!(gateway.flows().is_empty());
    });
}
