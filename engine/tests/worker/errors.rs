//! ICMP errors find their way back: what RFC 5508, RFC 4787 and RFC 5382 ask of a NAT, a test each.

use std::net::IpAddr;
use std::time::Duration;

use engine::DropReason;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    ICMP, ICMPV6, IpHeader, TCP, UDP, be16, be32, fill_checksum, flags, icmp,
};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each, each_of};

/// Type and code of an error of a family.
fn kind(v6: bool, v4_kind: (u8, u8), v6_kind: (u8, u8)) -> (u8, u8) {
    if v6 { v6_kind } else { v4_kind }
}

fn unreachable(v6: bool) -> (u8, u8) {
    kind(v6, (3, 3), (1, 4))
}

fn exceeded(v6: bool) -> (u8, u8) {
    kind(v6, (11, 0), (3, 0))
}

/// An error from an address by way of the gateway, to the source of the packet that it quotes.
fn error(from: &Host, source: IpAddr, kind: (u8, u8), quoted: &[u8]) -> Vec<u8> {
    error_with_word(from, source, kind, 0, quoted)
}

fn error_with_word(
    from: &Host,
    source: IpAddr,
    kind: (u8, u8),
    word: u32,
    quoted: &[u8],
) -> Vec<u8> {
    let to = Datagram::parse_quoted(quoted).unwrap().source;
    let protocol = if to.is_ipv6() { ICMPV6 } else { ICMP };
    let header = IpHeader::new(source, to, protocol);
    routed(from, &header, &icmp(source, to, kind, word, quoted))
}

/// The packet in a frame, as an error quotes it.
fn packet_of(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// The packet that an error quotes; checksums are right if all of it is there.
fn quoted(seen: &Seen) -> Datagram<'_> {
    let quoted = Datagram::parse_quoted(&seen.ip().payload[8..]).unwrap();
    if Datagram::parse(&seen.ip().payload[8..]).is_ok() {
        assert!(quoted.checksum_is_right(engine::Offload::None), "quote of {seen:?}");
    }
    quoted
}

/// The error quotes this packet, but for the hops that it has left.
fn assert_quotes(seen: &Seen, original: &[u8]) {
    let (quote, original) = (quoted(seen), Datagram::parse(packet_of(original)).unwrap());
    assert_eq!((quote.source, quote.destination), (original.source, original.destination));
    assert_eq!(quote.payload, &original.payload[..quote.payload.len()]);
}

/// A router somewhere.
fn somebody_between(v6: bool) -> IpAddr {
    let text = if v6 { "2001:db8:77::1" } else { "203.0.113.77" };
    text.parse().unwrap()
}

#[test]
fn rfc_5508_req_4_an_error_from_outside_is_turned_back_to_the_masqueraded_sender() {
    each(|mut gateway, v6| {
        let frames = [
            udp(&WEB, 20_001, (FAR.ip(v6), 53)),
            tcp(&WEB, 20_002, (FAR.ip(v6), 80), flags::SYN),
            echo(&WEB, 77, FAR.ip(v6)),
        ];
        for frame in frames {
            let out = gateway.forward(&WEB, frame.clone());
            assert_ne!(out.ip().payload[..6], packet_of(&frame)[if v6 { 40 } else { 20 }..][..6]);
            // From a router in between: its address is kept.
            let router = somebody_between(v6);
            let sent = error(&FAR, router, exceeded(v6), packet_of(&out.frame.bytes));
            let seen = gateway.forward(&FAR, sent);
            assert_eq!((seen.port, seen.icmp()), (WEB.port, exceeded(v6)));
            assert_eq!((seen.ip().source, seen.ip().destination), (router, WEB.ip(v6)));
            assert_quotes(&seen, &frame);
            // From the destination itself.
            let sent = error(&FAR, FAR.ip(v6), unreachable(v6), packet_of(&out.frame.bytes));
            let seen = gateway.forward(&FAR, sent);
            assert_eq!((seen.ip().source, seen.icmp()), (FAR.ip(v6), unreachable(v6)));
            assert_quotes(&seen, &frame);
        }
    });
}

#[test]
fn rfc_5508_req_5_an_error_from_inside_leaves_with_the_published_address() {
    each(|mut gateway, v6| {
        let frame = udp(&CLIENT, 40_000, (own(v6), 5_300));
        let inside = gateway.forward(&CLIENT, frame.clone());
        assert_eq!(inside.destination(), (WEB.ip(v6), 53));
        let sent = error(&WEB, WEB.ip(v6), unreachable(v6), packet_of(&inside.frame.bytes));
        let seen = gateway.forward(&WEB, sent);
        assert_eq!((seen.port, seen.icmp()), (WAN, unreachable(v6)));
        assert_eq!((seen.ip().source, seen.ip().destination), (own(v6), CLIENT.ip(v6)));
        assert_quotes(&seen, &frame);
    });
}

#[test]
fn rfc_5508_req_5_an_error_about_a_reply_leaves_with_the_address_of_the_uplink() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let (address, port) = out.source();
        let reply = udp(&FAR, 53, (address, port));
        let inside = gateway.forward(&FAR, reply.clone());
        let sent = error(&WEB, WEB.ip(v6), unreachable(v6), packet_of(&inside.frame.bytes));
        let seen = gateway.forward(&WEB, sent);
        assert_eq!((seen.port, seen.ip().source), (WAN, own(v6)));
        assert_eq!(seen.ip().destination, FAR.ip(v6));
        assert_quotes(&seen, &reply);
    });
}

#[test]
fn rfc_5508_req_7_an_error_takes_the_hairpin_back() {
    each(|mut gateway, v6| {
        // Inside one network: the server sees the gateway. From another: it sees the client.
        for (client, server, published) in [(&DB, &WEB, 5_300), (&APP, &WEB, 5_300)] {
            let frame = udp(client, 40_000, (own(v6), published));
            let inside = gateway.forward(client, frame.clone());
            assert_eq!(inside.port, server.port);
            let quote = packet_of(&inside.frame.bytes);
            let sent = error(server, server.ip(v6), unreachable(v6), quote);
            let seen = gateway.forward(server, sent);
            assert_eq!((seen.port, seen.ip().source), (client.port, own(v6)));
            assert_eq!(seen.ip().destination, client.ip(v6));
            assert_quotes(&seen, &frame);
        }
    });
}

#[test]
fn rfc_5508_req_3_a_wrong_checksum_is_dropped_silently() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let mut sent = error(&FAR, FAR.ip(v6), unreachable(v6), packet_of(&out.frame.bytes));
        let last = sent.len() - 1;
        sent[last] ^= 1;
        gateway.refuse(&FAR, sent, DropReason::IcmpErrorMalformed);
    });
}

#[test]
fn rfc_5508_req_3_a_a_quote_with_a_wrong_header_checksum_is_dropped() {
    let mut gateway = Gateway::new(tables(), 2);
    let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(false), 53)));
    let mut quote = packet_of(&out.frame.bytes).to_vec();
    quote[10] ^= 1;
    let to = Datagram::parse(packet_of(&out.frame.bytes)).unwrap().source;
    let header = IpHeader::new(FAR.ip(false), to, ICMP);
    let sent = routed(&FAR, &header, &icmp(FAR.ip(false), to, (3, 3), 0, &quote));
    gateway.refuse(&FAR, sent, DropReason::IcmpErrorMalformed);
}

#[test]
fn rfc_5508_req_3_b_options_of_the_quoted_packet_are_passed_over() {
    let mut gateway = Gateway::new(tables(), 1);
    let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(false), 53)));
    // A router on the way has recorded itself: four bytes of options more.
    let mut quote = packet_of(&out.frame.bytes).to_vec();
    quote.splice(20..20, [1, 1, 1, 0]);
    quote[0] = 0x46;
    let total = (quote.len() as u16).to_be_bytes();
    quote[2..4].copy_from_slice(&total);
    quote[10..12].fill(0);
    let checksum = !engine::sim::frames::sum(&quote[..24]);
    quote[10..12].copy_from_slice(&checksum.to_be_bytes());
    let seen = gateway.forward(&FAR, error(&FAR, FAR.ip(false), (3, 3), &quote));
    assert_eq!(seen.ip().destination, WEB.ip(false));
    assert_eq!(be16(quoted(&seen).payload, 0), 20_001);
}

#[test]
fn rfc_5508_req_3_c_a_wrong_transport_checksum_in_the_quote_stays_wrong_and_passes() {
    each(|mut gateway, v6| {
        let header_bytes = if v6 { 40 } else { 20 };
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let mut quote = packet_of(&out.frame.bytes).to_vec();
        quote[header_bytes + 6] ^= 0x10;
        let seen = gateway.forward(&FAR, error(&FAR, FAR.ip(v6), unreachable(v6), &quote));
        let quote = Datagram::parse_quoted(&seen.ip().payload[8..]).unwrap();
        assert!(!quote.checksum_is_right(engine::Offload::None));
        assert_eq!(be16(quote.payload, 0), 20_001);
    });
}

#[test]
fn rfc_5508_req_3_d_extensions_behind_the_quote_are_left_alone() {
    each(|mut gateway, v6| {
        let frame = udp(&WEB, 20_001, (FAR.ip(v6), 53));
        let out = gateway.forward(&WEB, frame.clone());
        // RFC 4884: the quote padded to 128 bytes, and an extension of 12 bytes behind it.
        let mut quote = packet_of(&out.frame.bytes).to_vec();
        quote.resize(128, 0);
        let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 9, 9, 9, 9];
        quote.extend(extension);
        let word = if v6 { 16 << 24 } else { 32 << 16 };
        let sent = error_with_word(&FAR, somebody_between(v6), exceeded(v6), word, &quote);
        let seen = gateway.forward(&FAR, sent);
        assert_eq!(seen.ip().payload[8 + 128..], extension);
        assert_quotes(&seen, &frame);
    });
}

#[test]
fn only_eight_bytes_of_transport_are_enough() {
    each(|mut gateway, v6| {
        let frame = tcp(&WEB, 20_001, (FAR.ip(v6), 80), flags::SYN);
        let out = gateway.forward(&WEB, frame.clone());
        let header_bytes = if v6 { 40 } else { 20 };
        let whole = packet_of(&out.frame.bytes);
        let sent = error(&FAR, FAR.ip(v6), unreachable(v6), &whole[..header_bytes + 8]);
        let seen = gateway.forward(&FAR, sent);
        assert_eq!(seen.ip().payload.len(), 8 + header_bytes + 8);
        assert_quotes(&seen, &frame);
        let cut = error(&FAR, FAR.ip(v6), unreachable(v6), &whole[..header_bytes + 7]);
        gateway.refuse(&FAR, cut, DropReason::IcmpErrorMalformed);
    });
}

#[test]
fn an_error_that_matches_no_flow_is_counted_and_forgotten() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let flow_count = gateway.flows().len();
        let port = out.source().1;
        let made_up = |source: (IpAddr, u16), destination: (IpAddr, u16)| {
            let header = IpHeader::new(source.0, destination.0, UDP);
            header.packet(&datagram(&header, (source.1, destination.1), b"never sent"))
        };
        let (ours, far) = ((own(v6), port), (FAR.ip(v6), 53));
        let quotes = [
            made_up((own(v6), port + 1), far),
            made_up(ours, (FAR.ip(v6), 54)),
            made_up(ours, (CLIENT.ip(v6), 53)),
            // A packet of the flow's other direction: it did not leave by this port.
            made_up(far, ours),
        ];
        for quote in quotes {
            let sent = error(&FAR, FAR.ip(v6), unreachable(v6), &quote);
            gateway.refuse(&FAR, sent, DropReason::IcmpError);
        }
        // To somebody else than the quote's sender.
        let quote = made_up(ours, far);
        let protocol = if v6 { ICMPV6 } else { ICMP };
        let header = IpHeader::new(FAR.ip(v6), WEB.ip(v6), protocol);
        let message = icmp(FAR.ip(v6), WEB.ip(v6), unreachable(v6), 0, &quote);
        gateway.refuse(&FAR, routed(&FAR, &header, &message), DropReason::IcmpError);
        // An error about an error, and kinds that are not carried.
        let first = error(&FAR, FAR.ip(v6), unreachable(v6), &quote);
        let second = error(&CLIENT, CLIENT.ip(v6), unreachable(v6), packet_of(&first));
        gateway.refuse(&CLIENT, second, DropReason::IcmpError);
        if !v6 {
            for kind in [(4, 0), (5, 1)] {
                gateway.refuse(&FAR, error(&FAR, FAR.ip(v6), kind, &quote), DropReason::IcmpError);
            }
        }
        assert_eq!(gateway.flows().len(), flow_count, "no flow began or ended");
    });
}

#[test]
fn an_error_from_a_source_of_inside_does_not_come_from_outside() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        for source in [DB.ip(v6), own(v6)] {
            let sent = error(&FAR, source, unreachable(v6), packet_of(&out.frame.bytes));
            gateway.refuse(&FAR, sent, DropReason::Martian);
        }
    });
}

#[test]
fn rfc_5508_req_6_rfc_4787_req_12_rfc_5382_req_10_an_error_changes_no_state() {
    each(|mut gateway, v6| {
        let frames = [
            udp(&WEB, 20_001, (FAR.ip(v6), 53)),
            echo(&WEB, 77, FAR.ip(v6)),
            tcp(&WEB, 20_002, (FAR.ip(v6), 80), flags::SYN),
        ];
        for frame in frames {
            let out = gateway.forward(&WEB, frame.clone());
            gateway.pass(Duration::from_secs(20));
            let before: Vec<_> = gateway.flows();
            let sent = error(&FAR, FAR.ip(v6), unreachable(v6), packet_of(&out.frame.bytes));
            gateway.forward(&FAR, sent);
            for (before, after) in before.iter().zip(gateway.flows()) {
                assert_eq!((before.packets, before.tcp), (after.packets, after.tcp));
                assert_eq!(before.idle, after.idle, "it was not refreshed");
            }
            // And it goes on with the same outside port.
            let again = gateway.forward(&WEB, frame);
            assert_eq!(again.ip().payload[..6], out.ip().payload[..6]);
        }
        // RFC 5508 REQ-6 again: errors do not keep a flow alive.
        let out = gateway.forward(&WEB, echo(&WEB, 78, FAR.ip(v6)));
        gateway.pass(Duration::from_secs(45));
        let sent = error(&FAR, FAR.ip(v6), unreachable(v6), packet_of(&out.frame.bytes));
        gateway.forward(&FAR, sent.clone());
        gateway.pass(Duration::from_secs(20));
        gateway.refuse(&FAR, sent, DropReason::IcmpError);
    });
}

#[test]
fn rfc_5382_req_9_a_tcp_sender_hears_of_every_destination_unreachable() {
    each(|mut gateway, v6| {
        let frame = tcp(&WEB, 20_002, (FAR.ip(v6), 80), flags::SYN);
        let out = gateway.forward(&WEB, frame.clone());
        for code in 0..16 {
            let kind = if v6 { (1, code % 8) } else { (3, code) };
            let word = u32::from(code == 4) * 1_400;
            let quote = packet_of(&out.frame.bytes);
            let seen = gateway.forward(&FAR, error_with_word(&FAR, FAR.ip(v6), kind, word, quote));
            assert_eq!(seen.icmp(), kind, "type and code are left as they are");
            assert_eq!(be16(seen.ip().payload, 6), word as u16);
            assert_quotes(&seen, &frame);
        }
    });
}

#[test]
fn too_big_and_parameter_problem_are_carried_with_what_they_say() {
    each(|mut gateway, v6| {
        let frame = udp(&WEB, 20_001, (FAR.ip(v6), 53));
        let out = gateway.forward(&WEB, frame.clone());
        for (kind, word) in [(kind(v6, (3, 4), (2, 0)), 1_400), (kind(v6, (12, 0), (4, 0)), 9)] {
            let quote = packet_of(&out.frame.bytes);
            let sent = error_with_word(&FAR, somebody_between(v6), kind, word, quote);
            let seen = gateway.forward(&FAR, sent);
            assert_eq!(seen.icmp(), kind);
            assert_eq!(be32(seen.ip().payload, 4), word);
            assert_quotes(&seen, &frame);
        }
    });
}

#[test]
fn an_error_takes_one_hop_and_dies_silently_without_one() {
    each(|mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let protocol = if v6 { ICMPV6 } else { ICMP };
        let send = |hops| {
            let header = with_hops(IpHeader::new(FAR.ip(v6), own(v6), protocol), hops);
            let quote = packet_of(&out.frame.bytes);
            routed(&FAR, &header, &icmp(FAR.ip(v6), own(v6), unreachable(v6), 0, quote))
        };
        assert_eq!(gateway.forward(&FAR, send(9)).ip().hops, 8);
        gateway.refuse(&FAR, send(1), DropReason::TtlExceeded);
    });
}

#[test]
fn errors_are_bounded_in_rate() {
    let few = || {
        let mut tables = tables();
        std::sync::Arc::make_mut(&mut tables.limits).icmp_errors_per_second = 8;
        tables
    };
    each_of(few, |mut gateway, v6| {
        let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(v6), 53)));
        let sent = error(&FAR, FAR.ip(v6), unreachable(v6), packet_of(&out.frame.bytes));
        let carried: usize = (0..20).map(|_| gateway.send(&FAR, sent.clone()).len()).sum();
        assert!((2..=8).contains(&carried), "{carried} were carried");
        assert_eq!(gateway.dropped(DropReason::IcmpErrorLimited), 20 - carried as u64);
        gateway.pass(Duration::from_secs(1));
        gateway.forward(&FAR, sent);
    });
}

#[test]
fn the_quoted_packet_may_be_a_first_fragment_with_an_extension_header() {
    let mut gateway = Gateway::new(tables(), 2);
    let out = gateway.forward(&WEB, udp(&WEB, 20_001, (FAR.ip(true), 53)));
    let mut quote = packet_of(&out.frame.bytes).to_vec();
    // A router in between has no business to fragment, but the sender may have.
    quote.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
    quote[6] = 44;
    let length = (quote.len() as u16 - 40).to_be_bytes();
    quote[4..6].copy_from_slice(&length);
    let seen = gateway.forward(&FAR, error(&FAR, FAR.ip(true), (1, 4), &quote));
    let quote = Datagram::parse_quoted(&seen.ip().payload[8..]).unwrap();
    assert_eq!((quote.source, be16(quote.payload, 0)), (WEB.ip(true), 20_001));
}

#[test]
fn an_error_about_tcp_that_is_published_is_turned_back_too() {
    each(|mut gateway, v6| {
        let frame = tcp(&CLIENT, 50_000, (own(v6), 8_080), flags::SYN);
        let inside = gateway.forward(&CLIENT, frame.clone());
        let sent = error(&WEB, WEB.ip(v6), kind(v6, (3, 10), (1, 1)), {
            let bytes = packet_of(&inside.frame.bytes);
            let mut segment = Datagram::parse(bytes).unwrap().payload.to_vec();
            fill_checksum(CLIENT.ip(v6), WEB.ip(v6), TCP, &mut segment);
            assert_eq!(segment, Datagram::parse(bytes).unwrap().payload, "the quote is right");
            bytes
        });
        let seen = gateway.forward(&WEB, sent);
        assert_eq!(seen.ip().source, own(v6));
        assert_quotes(&seen, &frame);
    });
}
