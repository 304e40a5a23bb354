//! Echo replies and ICMP errors, both families.
//!
//! An echo request becomes its reply where it lies, whatever its size; its checksum moves by what
//! changed, so a request that was damaged on its way stays recognisable as damaged. An error quotes
//! the packet that it is about, byte for byte. The one hard constraint: no error about an error or
//! to more than one station (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section
//! 2.4 e), or errors would breed. How many errors per second may go out is counted elsewhere.

use std::net::IpAddr;

use super::{Envelope, HOP_LIMIT, Received, is_one_station, set};
use crate::frame::FramePool;
use crate::id::MacAddress;
use crate::packet::{Notes, Offload, Packet};
use crate::wire::checksum::{apply, delta};
use crate::wire::{ethernet, header_at, header_at_mut, icmp, ipv4, ipv6, protocol};

/// RFC 1812 section 4.3.2.3: an ICMP error, IP header included, is at most this long.
const V4_ERROR_BYTES_MAX: usize = 576;

/// RFC 4443 section 2.4 c: the minimum MTU of IPv6.
const V6_ERROR_BYTES_MAX: usize = 1_280;

/// RFC 1812 section 4.3.2.5: errors go with precedence 6, "internetwork control".
const V4_ERROR_SERVICE: u8 = 0xc0;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// TTL or hop limit was used up on the way.
    TtlExceeded,
    /// Nothing serves the port.
    PortUnreachable,
    /// Nothing serves the protocol. In IPv6: unrecognised next header.
    ProtocolUnreachable,
    /// The host does not answer. In IPv6: address unreachable.
    HostUnreachable,
    /// There is no route.
    NetUnreachable,
    /// The packet is larger than this MTU and may not be fragmented.
    TooBig(u16),
}

impl ErrorKind {
    /// Type, code, and the four bytes behind the checksum, in ICMP.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            ErrorKind::TtlExceeded => (icmp::TIME_EXCEEDED, 0, 0),
            ErrorKind::NetUnreachable => (icmp::UNREACHABLE, 0, 0),
            ErrorKind::HostUnreachable => (icmp::UNREACHABLE, 1, 0),
            ErrorKind::ProtocolUnreachable => (icmp::UNREACHABLE, 2, 0),
            ErrorKind::PortUnreachable => (icmp::UNREACHABLE, 3, 0),
            // RFC 1191 section 4: the MTU is in the lower half.
            ErrorKind::TooBig(mtu) => (icmp::UNREACHABLE, 4, u32::from(mtu)),
        }
    }

    /// The same in ICMPv6. `next_header` is where in the packet its last next-header field is.
    fn v6(self, next_header: u32) -> (u8, u8, u32) {
        match self {
            ErrorKind::TtlExceeded => (icmp::V6_TIME_EXCEEDED, 0, 0),
            ErrorKind::NetUnreachable => (icmp::V6_UNREACHABLE, 0, 0),
            ErrorKind::HostUnreachable => (icmp::V6_UNREACHABLE, 3, 0),
            ErrorKind::PortUnreachable => (icmp::V6_UNREACHABLE, 4, 0),
            ErrorKind::TooBig(mtu) => (icmp::V6_TOO_BIG, 0, u32::from(mtu)),
            ErrorKind::ProtocolUnreachable => (icmp::V6_PARAMETER_PROBLEM, 1, next_header),
        }
    }
}

/// An ICMP error about a packet, from `own` to the packet's sender at the MAC address that it came
/// from. `None` when there must be none: about an ICMP error or redirect, about a later fragment,
/// from or to more than one station (but for IPv6 `TooBig`, which path MTU discovery of groups
/// needs), or when `own` is of the other family.
///
/// The quote is the packet as it is here: if its checksum is still partial, so is the quoted one.
/// That does no harm, as senders find the socket by addresses and ports.
pub(crate) fn icmp_error(
    offending: &Packet,
    kind: ErrorKind,
    own: IpAddr,
    own_mac: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    let received = Received::read(offending)?;
    let (l3, l4) = (usize::from(offending.meta.l3), usize::from(offending.meta.l4));
    let is_v6 = received.source.is_ipv6();
    let is_group_allowed = is_v6 && matches!(kind, ErrorKind::TooBig(_));
    let is_redirect = is_v6
        && offending.meta.protocol == protocol::ICMPV6
        && offending.head().get(l4) == Some(&icmp::V6_REDIRECT);
    if offending.meta.notes.any(Notes::ICMP_ERROR | Notes::LATER_FRAGMENT)
        || is_redirect
        || !received.has_one_sender()
        || !(received.is_to_one_station() || is_group_allowed)
    {
        return None;
    }
    let (protocol, quote_bytes_max, service, (number, code, word)) = match is_v6 {
        false => {
            let quote_bytes_max = V4_ERROR_BYTES_MAX - ipv4::HEADER_BYTES - icmp::HEADER_BYTES;
            (protocol::ICMP, quote_bytes_max, V4_ERROR_SERVICE, kind.v4())
        }
        true => {
            let quote_bytes_max = V6_ERROR_BYTES_MAX - ipv6::HEADER_BYTES - icmp::HEADER_BYTES;
            let next_header = last_next_header(offending.head(), l3, l4);
            (protocol::ICMPV6, quote_bytes_max, 0, kind.v6(next_header))
        }
    };
    let quote_bytes = received.end.checked_sub(l3)?.min(quote_bytes_max);
    let envelope = Envelope {
        source_mac: own_mac,
        destination_mac: received.source_mac,
        source: own,
        destination: received.source,
        protocol,
        hop_limit: HOP_LIMIT,
        service,
    };
    envelope.pack(icmp::HEADER_BYTES + quote_bytes, frames, &|message| {
        (message[0], message[1]) = (number, code);
        set(message, icmp::IDENTIFIER, &word.to_be_bytes());
        let (from_head, from_tail) = (&offending.head()[l3..], offending.tail());
        let in_head = quote_bytes.min(from_head.len());
        let quote = &mut message[icmp::HEADER_BYTES..];
        set(quote, 0, &from_head[..in_head]);
        set(quote, in_head, &from_tail[..quote_bytes - in_head]);
    })
}

/// Offset in the IPv6 packet of the field that names the protocol at `l4`.
fn last_next_header(head: &[u8], l3: usize, l4: usize) -> u32 {
    let mut field = l3 + ipv6::NEXT_HEADER;
    let mut at = l3 + ipv6::HEADER_BYTES;
    while at < l4
        && let Some([_, length]) = header_at::<2>(head, at)
    {
        let bytes = match head[field] {
            ipv6::FRAGMENT => 8,
            ipv6::AUTHENTICATION => (usize::from(*length) + 2) * 4,
            _ => (usize::from(*length) + 1) * 8,
        };
        field = at;
        at += bytes;
    }
    (field - l3) as u32
}

/// Turns an echo request to one of our addresses into its reply, in place, and returns true. False,
/// and the packet is as it was, if it is no whole echo request from one station to one address.
///
/// Options and extension headers stay as they are, as does what the packet carries.
#[must_use]
pub(crate) fn echo_reply_in_place(packet: &mut Packet, own_mac: MacAddress) -> bool {
    let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
    let checksum_is_whole = match packet.offload() {
        Offload::None => true,
        Offload::NeedsChecksum { start, offset } => {
            // A partial checksum is the pseudo-header's sum, which the swap leaves as it is.
            if (usize::from(start), usize::from(offset)) != (l4, icmp::CHECKSUM) {
                return false;
            }
            false
        }
        Offload::Gso { .. } | Offload::Tunnelled { .. } => return false,
    };
    let is_v6 = packet.meta.notes.any(Notes::V6);
    let (number, request, reply, ip_header_bytes) = match is_v6 {
        true => (protocol::ICMPV6, icmp::V6_ECHO_REQUEST, icmp::V6_ECHO_REPLY, ipv6::HEADER_BYTES),
        false => (protocol::ICMP, icmp::ECHO_REQUEST, icmp::ECHO_REPLY, ipv4::HEADER_BYTES),
    };
    let fragment = Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT;
    if packet.meta.protocol != number
        || packet.meta.notes.any(fragment)
        || l3 < ethernet::HEADER_BYTES
        || l4 < l3 + ip_header_bytes
    {
        return false;
    }
    let Some((headers, message)) = packet.head_mut().split_at_mut_checked(l4) else {
        return false;
    };
    let Some(message) = header_at_mut::<{ icmp::HEADER_BYTES }>(message, 0) else { return false };
    let Some((link, ip)) = headers.split_at_mut_checked(l3) else { return false };
    if message[..2] != [request, 0] || link[6] & 1 != 0 || !turn_ip_round(ip, is_v6) {
        return false;
    }
    link.copy_within(6..12, 0);
    set(link, 6, &own_mac.bytes());
    message[0] = reply;
    if checksum_is_whole {
        let old = u16::from_be_bytes([message[2], message[3]]);
        let checksum = apply(old, delta(&[request, 0], &[reply, 0]));
        set(message, icmp::CHECKSUM, &checksum.to_be_bytes());
    }
    true
}

/// Swaps the addresses of an IP header and gives it a fresh TTL; false, and nothing is changed, if
/// one of the addresses is not one station's.
fn turn_ip_round(header: &mut [u8], is_v6: bool) -> bool {
    if is_v6 {
        let Some(header) = header_at_mut::<{ ipv6::HEADER_BYTES }>(header, 0) else { return false };
        let (source, destination) = header[ipv6::SOURCE..].split_at_mut(16);
        if !(is_station::<16>(source) && is_station::<16>(destination)) {
            return false;
        }
        source.swap_with_slice(destination);
        header[ipv6::HOP_LIMIT] = HOP_LIMIT;
    } else {
        let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(header, 0) else { return false };
        let (source, destination) = header[ipv4::SOURCE..].split_at_mut(4);
        if !(is_station::<4>(source) && is_station::<4>(destination)) {
            return false;
        }
        source.swap_with_slice(destination);
        let number = header[ipv4::PROTOCOL];
        let change = delta(&[header[ipv4::TTL], number], &[HOP_LIMIT, number]);
        let old = u16::from_be_bytes([header[ipv4::CHECKSUM], header[ipv4::CHECKSUM + 1]]);
        header[ipv4::TTL] = HOP_LIMIT;
        set(header, ipv4::CHECKSUM, &apply(old, change).to_be_bytes());
    }
    true
}

/// [`is_one_station`] of an address of `N` bytes, 4 or 16.
fn is_station<const N: usize>(address: &[u8]) -> bool
where
    [u8; N]: Into<IpAddr>,
{
    header_at::<N>(address, 0).is_some_and(|address| is_one_station((*address).into()))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpHeaders, Ipv4Header, Ipv4Options, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::judge::judge;

    const KINDS: [ErrorKind; 6] = [
        ErrorKind::TtlExceeded,
        ErrorKind::PortUnreachable,
        ErrorKind::ProtocolUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::NetUnreachable,
        ErrorKind::TooBig(1_400),
    ];

    fn own(v6: bool) -> IpAddr {
        if v6 { OWN_V6.into() } else { OWN_V4.into() }
    }

    fn echo_request(v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match v6 {
            false => from_peer(v6).icmpv4_echo_request(7, 9).write(&mut bytes, payload),
            true => from_peer(v6).icmpv6_echo_request(7, 9).write(&mut bytes, payload),
        }
        .unwrap();
        bytes
    }

    fn datagram(v6: bool, payload_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload: Vec<u8> = (0..payload_bytes).map(|i| i as u8).collect();
        from_peer(v6).udp(5_000, 53).write(&mut bytes, &payload).unwrap();
        bytes
    }

    fn addresses(sliced: &SlicedPacket<'_>) -> (IpAddr, IpAddr, u8) {
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let (from, to) = (header.source_addr(), header.destination_addr());
                (from.into(), to.into(), header.ttl())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let (from, to) = (header.source_addr(), header.destination_addr());
                (from.into(), to.into(), header.hop_limit())
            }
            _ => panic!("an IP packet"),
        }
    }

    /// Type, code, second word and the rest of an ICMP message of either family.
    fn message_of<'a>(sliced: &SlicedPacket<'a>) -> (u8, u8, u32, &'a [u8]) {
        let word = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
        match &sliced.transport {
            Some(TransportSlice::Icmpv4(icmp)) => {
                let rest = &icmp.slice()[8..];
                (icmp.type_u8(), icmp.code_u8(), word(icmp.bytes5to8()), rest)
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let rest = &icmp.slice()[8..];
                (icmp.type_u8(), icmp.code_u8(), word(icmp.bytes5to8()), rest)
            }
            _ => panic!("an ICMP message"),
        }
    }

    #[test]
    fn an_echo_request_becomes_its_reply() {
        for v6 in [false, true] {
            // 3,000 bytes: with a tail.
            for payload_bytes in [0, 1, 56, 3_000] {
                let mut frames = pool();
                let request = echo_request(v6, &vec![0xa5; payload_bytes]);
                let mut packet = parsed(&request, &mut frames);
                assert!(echo_reply_in_place(&mut packet, OWN_MAC));
                let reply = packet.to_vec();
                let sliced = judge(&reply);
                let (from, to, ttl) = addresses(&sliced);
                assert_eq!((from, ttl), (own(v6), 64));
                assert_eq!(to, if v6 { IpAddr::from(PEER_V6) } else { PEER_V4.into() });
                let (number, code, word, rest) = message_of(&sliced);
                assert_eq!((number, code, word), (if v6 { 129 } else { 0 }, 0, 7 << 16 | 9));
                assert_eq!(rest, vec![0xa5; payload_bytes]);
                assert_eq!(reply[..6], PEER_MAC.bytes());
                assert_eq!(reply[6..12], OWN_MAC.bytes());
            }
        }
    }

    #[test]
    fn an_echo_request_with_options_keeps_them() {
        let mut frames = pool();
        let options = [7u8, 7, 4, 0, 0, 0, 0, 0];
        let mut header =
            Ipv4Header::new(0, 3, etherparse::IpNumber::ICMP, PEER_V4.octets(), OWN_V4.octets())
                .unwrap();
        header.options = Ipv4Options::try_from(&options[..]).unwrap();
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2(PEER_MAC.bytes(), OWN_MAC.bytes())
            .ip(IpHeaders::Ipv4(header, Default::default()))
            .icmpv4_echo_request(1, 2)
            .write(&mut bytes, b"ping")
            .unwrap();
        let mut packet = parsed(&bytes, &mut frames);
        assert!(echo_reply_in_place(&mut packet, OWN_MAC));
        judge(packet.head());
        assert_eq!(packet.head()[34..42], options);
    }

    #[test]
    fn a_damaged_echo_request_gives_a_damaged_reply() {
        for v6 in [false, true] {
            let mut frames = pool();
            let mut request = echo_request(v6, b"payload");
            let end = request.len() - 1;
            request[end] ^= 0x10;
            let mut packet = parsed(&request, &mut frames);
            assert!(echo_reply_in_place(&mut packet, OWN_MAC));
            packet.head_mut()[end] ^= 0x10;
            judge(packet.head());
        }
    }

    #[test]
    fn a_partial_echo_checksum_is_left_for_egress() {
        let mut frames = pool();
        let request = echo_request(true, b"payload");
        let mut packet = parsed(&request, &mut frames);
        let mut addresses = Vec::new();
        addresses.extend_from_slice(&request[22..54]);
        let message_bytes = request.len() - 54;
        let partial = crate::wire::checksum::fold(crate::wire::checksum::pseudo_header(
            &addresses,
            58,
            message_bytes,
        ));
        set(packet.head_mut(), 56, &partial.to_be_bytes());
        packet.set_offload(Offload::NeedsChecksum { start: 54, offset: 2 });
        assert!(echo_reply_in_place(&mut packet, OWN_MAC));
        crate::cut::complete_checksum(&mut packet).unwrap();
        judge(packet.head());
    }

    #[test]
    fn what_is_no_echo_request_stays_as_it_was() {
        for v6 in [false, true] {
            let mut to_group = echo_request(v6, b"");
            let destination = if v6 { 38 } else { 30 };
            to_group[destination] = if v6 { 0xff } else { 224 };
            let mut from_group = echo_request(v6, b"");
            from_group[6] |= 1;
            for bytes in [to_group, from_group, datagram(v6, 20)] {
                let mut frames = pool();
                let mut packet = parsed(&bytes, &mut frames);
                assert!(!echo_reply_in_place(&mut packet, OWN_MAC));
                assert_eq!(packet.to_vec(), bytes);
            }
            let mut frames = pool();
            let mut fragment = parsed(&echo_request(v6, b""), &mut frames);
            fragment.meta.notes.0 |= Notes::FIRST_FRAGMENT;
            assert!(!echo_reply_in_place(&mut fragment, OWN_MAC));
        }
    }

    #[test]
    fn an_error_quotes_the_packet_that_it_is_about() {
        for (kind, v4, v6) in [
            (ErrorKind::TtlExceeded, (11, 0, 0), (3, 0, 0)),
            (ErrorKind::PortUnreachable, (3, 3, 0), (1, 4, 0)),
            (ErrorKind::ProtocolUnreachable, (3, 2, 0), (4, 1, 6)),
            (ErrorKind::HostUnreachable, (3, 1, 0), (1, 3, 0)),
            (ErrorKind::NetUnreachable, (3, 0, 0), (1, 0, 0)),
            (ErrorKind::TooBig(1_400), (3, 4, 1_400), (2, 0, 1_400)),
        ] {
            for (is_v6, expected) in [(false, v4), (true, v6)] {
                let mut frames = pool();
                let offending = datagram(is_v6, 100);
                let packet = parsed(&offending, &mut frames);
                let error = icmp_error(&packet, kind, own(is_v6), OWN_MAC, &mut frames);
                let error = bytes_of(error, &mut frames);
                let sliced = judge(&error);
                let (number, code, word, quote) = message_of(&sliced);
                assert_eq!((number, code, word), expected, "{kind:?}");
                assert_eq!(quote, &offending[14..]);
                let (from, to, hop_limit) = addresses(&sliced);
                assert_eq!((from, hop_limit), (own(is_v6), 64));
                assert_eq!(to, if is_v6 { IpAddr::from(PEER_V6) } else { PEER_V4.into() });
                assert_eq!(error[..6], PEER_MAC.bytes());
                assert_eq!(error[6..12], OWN_MAC.bytes());
            }
        }
    }

    #[test]
    fn a_quote_is_cut_at_the_largest_error_and_at_the_ip_packets_end() {
        for (is_v6, error_bytes_max) in [(false, 576), (true, 1_280)] {
            for split in [200, 1_792] {
                let mut frames = pool();
                let offending = datagram(is_v6, 3_000);
                let mut packet = parsed(&offending, &mut frames);
                if split < 1_792 {
                    packet.truncate(split);
                    let mut tail = frames.take_tail().unwrap();
                    let rest = &offending[split..];
                    tail.bytes_mut()[..rest.len()].copy_from_slice(rest);
                    let meta = packet.meta;
                    let (head, _) = packet.into_frames();
                    packet = Packet::new(head, crate::frame::HEADROOM_BYTES, split);
                    packet.meta = meta;
                    packet.set_tail(tail, rest.len());
                }
                let error =
                    icmp_error(&packet, KINDS[0], own(is_v6), OWN_MAC, &mut frames).unwrap();
                assert_eq!(error.len(), 14 + error_bytes_max);
                let sliced = judge(error.head());
                let quote = message_of(&sliced).3;
                assert_eq!(quote, &offending[14..14 + quote.len()]);
            }
            let mut frames = pool();
            let mut padded = datagram(is_v6, 1);
            let end = padded.len();
            padded.resize(end + 20, 0xee);
            let packet = parsed(&padded, &mut frames);
            let error = icmp_error(&packet, KINDS[0], own(is_v6), OWN_MAC, &mut frames);
            let error = bytes_of(error, &mut frames);
            assert_eq!(message_of(&judge(&error)).3, &padded[14..end]);
        }
    }

    #[test]
    fn errors_do_not_breed() {
        for is_v6 in [false, true] {
            let (source, destination) = if is_v6 { (22, 38) } else { (26, 30) };
            let group = if is_v6 { 0xff } else { 224 };
            for kind in KINDS {
                let try_with = |change: &dyn Fn(&mut Packet)| {
                    let mut frames = pool();
                    let mut packet = parsed(&datagram(is_v6, 100), &mut frames);
                    change(&mut packet);
                    icmp_error(&packet, kind, own(is_v6), OWN_MAC, &mut frames).is_some()
                };
                assert!(try_with(&|_| {}));
                assert!(!try_with(&|packet| packet.meta.notes.0 |= Notes::ICMP_ERROR));
                assert!(!try_with(&|packet| packet.meta.notes.0 |= Notes::LATER_FRAGMENT));
                assert!(!try_with(&|packet| packet.head_mut()[6] |= 1));
                assert!(!try_with(&|packet| packet.head_mut()[source] = group));
                assert!(!try_with(&|packet| packet.head_mut()[source..destination].fill(0)));
                assert!(!try_with(&|packet| packet.meta.l3 = 18));
                let allowed = is_v6 && kind == ErrorKind::TooBig(1_400);
                assert_eq!(try_with(&|packet| packet.head_mut()[0] |= 1), allowed);
                assert_eq!(try_with(&|packet| packet.head_mut()[destination] = group), allowed);
            }
        }
        let mut frames = pool();
        let packet = parsed(&datagram(false, 10), &mut frames);
        assert!(icmp_error(&packet, KINDS[0], own(true), OWN_MAC, &mut frames).is_none());
        let mut redirect = datagram(true, 30);
        (redirect[20], redirect[54]) = (58, 137);
        let redirect = parsed(&redirect, &mut frames);
        assert!(icmp_error(&redirect, KINDS[0], own(true), OWN_MAC, &mut frames).is_none());
    }

    #[test]
    fn an_unrecognised_next_header_is_pointed_at_behind_extension_headers() {
        let mut frames = pool();
        let mut bytes = datagram(true, 30);
        // Hop-by-hop options and a fragment header, eight bytes each, in front of protocol 200.
        bytes[20] = 0;
        bytes[54..70].copy_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 1]);
        let mut packet = parsed(&bytes, &mut frames);
        packet.meta.l4 = 70;
        packet.meta.protocol = 200;
        let kind = ErrorKind::ProtocolUnreachable;
        let error = icmp_error(&packet, kind, own(true), OWN_MAC, &mut frames);
        let error = bytes_of(error, &mut frames);
        assert_eq!(message_of(&judge(&error)).2, 48);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_well_formed_answer_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 24..200),
            v6 in any::<bool>(),
            l3 in prop_oneof![Just(14u16), 0u16..250],
            l4 in prop_oneof![Just(34u16), Just(54), 0u16..250],
            offload in 0usize..3,
            kind in 0..KINDS.len(),
            notes in any::<u16>(),
            protocol in prop_oneof![Just(1u8), Just(58), any::<u8>()],
        ) {
            let mut frames = pool();
            bytes[14] = if v6 { 0x60 } else { 0x45 };
            let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
            packet.meta.l3 = l3;
            packet.meta.l4 = l4;
            packet.meta.protocol = protocol;
            packet.meta.notes = Notes(notes & if v6 { !0 } else { !Notes::V6 });
            packet.set_offload([
                Offload::None,
                Offload::NeedsChecksum { start: l4, offset: 2 },
                Offload::NeedsChecksum { start: l3, offset: l4 },
            ][offload]);
            let error = icmp_error(&packet, KINDS[kind], own(v6), OWN_MAC, &mut frames);
            if let Some(error) = error {
                judge(error.head());
                error.recycle(&mut frames);
            }
            if !echo_reply_in_place(&mut packet, OWN_MAC) {
                prop_assert_eq!(packet.to_vec(), bytes);
            }
            packet.recycle(&mut frames);
            prop_assert_eq!(frames.count(), (4, 2));
        }
    }
}
