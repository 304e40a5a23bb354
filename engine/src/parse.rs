//! Step 1a: what a packet says about itself.
//!
//! Finds the headers, checks that lengths agree, and notes the result in the packet's
//! [`Meta`](crate::packet::Meta). Nothing is copied out; later steps read fields where they lie.
//! Hard constraint: whatever the bytes are, every offset noted here lies inside the head frame.
//! Not done here: transport checksums (the receiver checks them; NAT keeps a wrong one wrong).

use crate::counters::DropReason;
use crate::packet::{Notes, Packet, WINDOW_BYTES};
use crate::wire::{
    ethernet, header_at, icmp, ipv4, ipv6, protocol, raw_u16_at, raw_u64_at, sctp, tcp, u16_at,
    u64_at, udp,
};

/// IPv6 extension headers that are followed. A longer chain is dropped: it serves evasion
/// (RFC 7045 section 2.3 lets a middlebox set a limit).
const EXTENSION_HEADERS_MAX: usize = 8;

/// VLAN tags that are followed: one service and one customer tag (IEEE 802.1ad).
const TAGS_MAX: usize = 2;

/// The Ethernet header, as numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ethernet {
    pub(crate) destination: u64,
    pub(crate) source: u64,
    pub(crate) ethertype: u16,
}

/// Where the IP header of an untagged packet starts.
pub(crate) const PLAIN_L3: usize = ethernet::HEADER_BYTES;
/// Where the transport header of a plain IPv4 packet starts.
pub(crate) const PLAIN_L4_V4: usize = PLAIN_L3 + ipv4::HEADER_BYTES;
/// Where the transport header of a plain IPv6 packet starts.
pub(crate) const PLAIN_L4_V6: usize = PLAIN_L3 + ipv6::HEADER_BYTES;

/// Reads the Ethernet header; the ethertype may be that of a VLAN tag.
#[inline(always)]
pub(crate) fn ethernet(packet: &Packet) -> Result<Ethernet, DropReason> {
    if packet.len() < ethernet::HEADER_BYTES {
        return Err(DropReason::Truncated);
    }
    let window = packet.window();
    Ok(Ethernet {
        destination: u64_at(window, 0) >> 16,
        source: u64_at(window, 6) >> 16,
        ethertype: u16_at(window, ethernet::TYPE),
    })
}

/// What a plain packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainProtocol {
    Udp,
    Tcp,
}

/// Reads only: what the packet carries, if what follows an Ethernet header in a packet without a
/// tail is what [`plain_v4`] recognises, without a trailer, and changes no TCP state.
#[inline(always)]
pub(crate) fn glance_v4(window: &[u8; WINDOW_BYTES], frame_bytes: usize) -> Option<PlainProtocol> {
    let protocol = match window[PLAIN_L3 + ipv4::PROTOCOL] {
        protocol::UDP => PlainProtocol::Udp,
        _ => PlainProtocol::Tcp,
    };
    glance_v4_of(window, frame_bytes, protocol).then_some(protocol)
}

/// As [`glance_v4`]: true if it recognises the packet, and this is what it carries.
#[inline(always)]
pub(crate) fn glance_v4_of(
    window: &[u8; WINDOW_BYTES],
    frame_bytes: usize,
    protocol: PlainProtocol,
) -> bool {
    let header: &[u8; ipv4::HEADER_BYTES] =
        window[PLAIN_L3..].first_chunk().expect("the window is longer");
    // Version, header length, total length, and all of the fragment's word but "don't fragment",
    // at once. In big-endian words, so that the compiler turns what is constant.
    const SHAPE: u64 = u64::from_be(0xff00_ffff_0000_bfff);
    let total = u64::from((frame_bytes as u16).wrapping_sub(PLAIN_L3 as u16).to_be());
    let wanted = match cfg!(target_endian = "little") {
        true => 0x45 | total << 16,
        false => 0x45 << 56 | total << 32,
    };
    if raw_u64_at(header, 0) & SHAPE != wanted || !plain_header_is_right(header) {
        return false;
    }
    // The packet lies in the head as a whole, so a header that lies inside the packet does too.
    match protocol {
        PlainProtocol::Udp => {
            let length = raw_u16_at(window, PLAIN_L4_V4 + udp::LENGTH);
            // A shorter datagram in a longer packet would be right too, but nobody sends it.
            header[ipv4::PROTOCOL] == protocol::UDP
                && frame_bytes >= PLAIN_L4_V4 + udp::HEADER_BYTES
                && length == (frame_bytes as u16).wrapping_sub(PLAIN_L4_V4 as u16).to_be()
        }
        PlainProtocol::Tcp => {
            let length = usize::from(window[PLAIN_L4_V4 + tcp::DATA_OFFSET] >> 4) * 4;
            header[ipv4::PROTOCOL] == protocol::TCP
                && length >= tcp::HEADER_BYTES
                && PLAIN_L4_V4 + length <= frame_bytes
                && window[PLAIN_L4_V4 + tcp::FLAGS] & (tcp::SYN | tcp::FIN | tcp::RST) == 0
        }
    }
}

/// Recognises the shape of nearly every IPv4 packet: untagged, without options, not a fragment, TCP
/// or UDP, right in itself. Everything is at a fixed place then. False: not of this shape; the
/// general parser says what it is. Both note the same in `meta` (a property test).
#[inline(always)]
pub(crate) fn plain_v4(packet: &mut Packet) -> bool {
    let available = packet.len() - PLAIN_L3;
    let window = packet.window();
    let header: &[u8; ipv4::HEADER_BYTES] =
        window[PLAIN_L3..].first_chunk().expect("the window is longer");
    let total_bytes = usize::from(u16_at(header, ipv4::TOTAL_LENGTH));
    let fragment = u16_at(header, ipv4::FRAGMENT) & !ipv4::DONT_FRAGMENT;
    let protocol = header[ipv4::PROTOCOL];
    let right = header[0] == 0x45
        && fragment == 0
        && total_bytes <= available
        && plain_header_is_right(header);
    if !right {
        return false;
    }
    let transport_bytes = total_bytes.wrapping_sub(ipv4::HEADER_BYTES);
    let Some(tcp_flags) = plain_transport::<PLAIN_L4_V4>(packet, protocol, transport_bytes) else {
        return false;
    };
    let meta = &mut packet.meta;
    meta.l3 = PLAIN_L3 as u16;
    meta.l4 = PLAIN_L4_V4 as u16;
    meta.protocol = protocol;
    meta.tcp_flags = tcp_flags;
    meta.notes = Notes(Notes::ROUTED);
    meta.l3_bytes = total_bytes as u32;
    if total_bytes < available {
        packet.truncate(PLAIN_L3 + total_bytes);
    }
    true
}

/// As [`plain_v4`], for IPv6 without extension headers.
#[inline(always)]
pub(crate) fn plain_v6(packet: &mut Packet) -> bool {
    let available = packet.len() - PLAIN_L3;
    let window = packet.window();
    let header: &[u8; ipv6::HEADER_BYTES] =
        window[PLAIN_L3..].first_chunk().expect("the window is longer");
    let transport_bytes = usize::from(u16_at(header, ipv6::PAYLOAD_LENGTH));
    let total_bytes = transport_bytes + ipv6::HEADER_BYTES;
    let protocol = header[ipv6::NEXT_HEADER];
    if header[0] >> 4 != 6 || total_bytes > available {
        return false;
    }
    let Some(tcp_flags) = plain_transport::<PLAIN_L4_V6>(packet, protocol, transport_bytes) else {
        return false;
    };
    let meta = &mut packet.meta;
    meta.l3 = PLAIN_L3 as u16;
    meta.l4 = PLAIN_L4_V6 as u16;
    meta.protocol = protocol;
    meta.tcp_flags = tcp_flags;
    meta.notes = Notes(Notes::ROUTED | Notes::V6);
    meta.l3_bytes = total_bytes as u32;
    if total_bytes < available {
        packet.truncate(PLAIN_L3 + total_bytes);
    }
    true
}

/// The TCP flags (0 for UDP) of a transport header that is right in itself.
#[inline(always)]
fn plain_transport<const L4: usize>(
    packet: &Packet,
    protocol: u8,
    transport_bytes: usize,
) -> Option<u8> {
    // A length that went below zero is larger than any packet.
    const PACKET_BYTES_MAX: usize = 65_535;
    let window = packet.window();
    let in_head = L4 + tcp::HEADER_BYTES <= packet.head_bytes() || protocol == protocol::UDP;
    match protocol {
        protocol::TCP => {
            let header_bytes = usize::from(window[L4 + tcp::DATA_OFFSET] >> 4) * 4;
            let right = header_bytes >= tcp::HEADER_BYTES
                && header_bytes <= transport_bytes
                && transport_bytes <= PACKET_BYTES_MAX
                && in_head;
            right.then_some(window[L4 + tcp::FLAGS])
        }
        protocol::UDP => {
            let length = usize::from(u16_at(window, L4 + udp::LENGTH));
            let right = length >= udp::HEADER_BYTES
                && length <= transport_bytes
                && transport_bytes <= PACKET_BYTES_MAX
                && L4 + udp::HEADER_BYTES <= packet.head_bytes();
            right.then_some(0)
        }
        _ => None,
    }
}

/// Notes where the header after any VLAN tags starts; returns its ethertype.
#[inline]
pub(crate) fn behind_tags(packet: &mut Packet, ethertype: u16) -> Result<u16, DropReason> {
    packet.meta.l3 = ethernet::HEADER_BYTES as u16;
    packet.meta.notes = Notes(0);
    match ethertype {
        ethernet::VLAN | ethernet::SERVICE_VLAN => tags(packet),
        ethertype => Ok(ethertype),
    }
}

#[cold]
fn tags(packet: &mut Packet) -> Result<u16, DropReason> {
    packet.meta.notes.0 |= Notes::TAGGED;
    for count in 1..=TAGS_MAX {
        let offset = ethernet::TYPE + count * ethernet::TAG_BYTES;
        let header = header_at::<2>(packet.head(), offset).ok_or(DropReason::Truncated)?;
        let ethertype = u16_at(header, 0);
        if ethertype != ethernet::VLAN && ethertype != ethernet::SERVICE_VLAN {
            packet.meta.l3 = (offset + 2) as u16;
            return Ok(ethertype);
        }
    }
    Err(DropReason::VlanTag)
}

/// Parses IPv4 from `meta.l3` on, transport header included.
#[inline(never)]
pub(crate) fn ipv4(packet: &mut Packet) -> Result<(), DropReason> {
    let l3 = usize::from(packet.meta.l3);
    let available = packet.len() - l3;
    let Some(header) = header_at::<{ ipv4::HEADER_BYTES }>(packet.head(), l3) else {
        return Err(DropReason::Truncated);
    };
    let mut header_bytes = ipv4::HEADER_BYTES;
    let mut notes = packet.meta.notes.0;
    let version_length = header[0];
    let total_bytes = usize::from(u16_at(header, ipv4::TOTAL_LENGTH));
    let fragment = u16_at(header, ipv4::FRAGMENT);
    let protocol = header[ipv4::PROTOCOL];
    if version_length == 0x45 {
        if !plain_header_is_right(header) {
            return Err(DropReason::MalformedIp);
        }
    } else {
        header_bytes = ipv4_options(packet.head(), l3, version_length)?;
        notes |= Notes::OPTIONS;
    }
    if total_bytes < header_bytes || total_bytes > available {
        return Err(DropReason::Truncated);
    }
    if fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0 {
        let first = fragment & ipv4::FRAGMENT_OFFSET == 0;
        notes |= if first { Notes::FIRST_FRAGMENT } else { Notes::LATER_FRAGMENT };
    }
    if total_bytes < available {
        packet.truncate(l3 + total_bytes);
    }
    packet.meta.l3_bytes = total_bytes as u32;
    packet.meta.l4 = (l3 + header_bytes) as u16;
    packet.meta.protocol = protocol;
    packet.meta.notes = Notes(notes);
    transport(packet, total_bytes - header_bytes).map_err(|reason| refused(packet, reason))
}

/// Why a packet is dropped whose transport header is not right: of a first fragment, it hides a
/// part of it (RFC 1858 section 3.2.1, RFC 7112).
#[cold]
fn refused(packet: &Packet, reason: DropReason) -> DropReason {
    match packet.meta.notes.any(Notes::FIRST_FRAGMENT) {
        true => DropReason::FragmentTiny,
        false => reason,
    }
}

/// True if the checksum of a header without options is right.
#[inline(always)]
fn plain_header_is_right(header: &[u8; ipv4::HEADER_BYTES]) -> bool {
    // Whether the sum is all ones does not depend on byte order, and 2^16 is 1 modulo 65535: words
    // of any length may be added, as long as what overflows is added again. The sum is not 0,
    // because the header is not.
    let long =
        |offset: usize| u64::from_ne_bytes(*header[offset..].first_chunk().expect("20 bytes"));
    let last = u32::from_ne_bytes(*header[16..].first_chunk().expect("20 bytes"));
    let (sum, carry) = long(0).overflowing_add(long(8));
    let (sum, carry) = sum.overflowing_add(u64::from(last) + u64::from(carry));
    sum.wrapping_add(u64::from(carry)) % 0xffff == 0
}

/// Checks a header with options, or one that is wrong. Returns its length.
#[cold]
fn ipv4_options(head: &[u8], l3: usize, version_length: u8) -> Result<usize, DropReason> {
    /// Loose and strict source and record route (RFC 791); dropped as RFC 7126 section 4.3 advises.
    const SOURCE_ROUTES: [u8; 2] = [131, 137];
    let header_bytes = usize::from(version_length & 0x0f) * 4;
    if version_length >> 4 != 4 || header_bytes < ipv4::HEADER_BYTES {
        return Err(DropReason::MalformedIp);
    }
    let header = head.get(l3..l3 + header_bytes).ok_or(DropReason::Truncated)?;
    if crate::wire::checksum::fold(crate::wire::checksum::sum(header)) != 0xffff {
        return Err(DropReason::MalformedIp);
    }
    let mut options = &header[ipv4::HEADER_BYTES..];
    while let [kind, rest @ ..] = options {
        match (*kind, rest) {
            (0, _) => break,
            (1, rest) => options = rest,
            (kind, [length, ..]) if usize::from(*length) >= 2 => {
                if SOURCE_ROUTES.contains(&kind) {
                    return Err(DropReason::SourceRoute);
                }
                options = options.get(usize::from(*length)..).ok_or(DropReason::MalformedIp)?;
            }
            _ => return Err(DropReason::MalformedIp),
        }
    }
    Ok(header_bytes)
}

/// Parses IPv6 from `meta.l3` on, extension headers and transport header included.
#[inline(never)]
pub(crate) fn ipv6(packet: &mut Packet) -> Result<(), DropReason> {
    let l3 = usize::from(packet.meta.l3);
    let available = packet.len() - l3;
    let Some(header) = header_at::<{ ipv6::HEADER_BYTES }>(packet.head(), l3) else {
        return Err(DropReason::Truncated);
    };
    if header[0] >> 4 != 6 {
        return Err(DropReason::MalformedIp);
    }
    let total_bytes = usize::from(u16_at(header, ipv6::PAYLOAD_LENGTH)) + ipv6::HEADER_BYTES;
    let next = header[ipv6::NEXT_HEADER];
    if total_bytes > available {
        return Err(DropReason::Truncated);
    }
    if total_bytes < available {
        packet.truncate(l3 + total_bytes);
    }
    packet.meta.notes.0 |= Notes::V6;
    packet.meta.l3_bytes = total_bytes as u32;
    packet.meta.l4 = (l3 + ipv6::HEADER_BYTES) as u16;
    packet.meta.protocol = next;
    if !matches!(next, protocol::TCP | protocol::UDP | protocol::ICMPV6) {
        extension_headers(packet, l3 + total_bytes)?;
    }
    let transport_bytes = l3 + total_bytes - usize::from(packet.meta.l4);
    transport(packet, transport_bytes).map_err(|reason| refused(packet, reason))
}

/// Follows extension headers up to the transport header or what cannot be followed.
#[cold]
fn extension_headers(packet: &mut Packet, end: usize) -> Result<(), DropReason> {
    let mut next = packet.meta.protocol;
    let mut offset = usize::from(packet.meta.l4);
    let mut notes = packet.meta.notes.0;
    for count in 0.. {
        let length_unit = match next {
            ipv6::HOP_BY_HOP if count > 0 => return Err(DropReason::MalformedIp),
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS | ipv6::MOBILITY => 8,
            ipv6::FRAGMENT => 0,
            ipv6::AUTHENTICATION => 4,
            _ => break,
        };
        if count == EXTENSION_HEADERS_MAX {
            return Err(DropReason::TooManyExtensionHeaders);
        }
        let header = header_at::<8>(packet.head(), offset).ok_or(DropReason::Truncated)?;
        notes |= Notes::OPTIONS;
        let later = next == ipv6::FRAGMENT && u16_at(header, 2) & 0xfff8 != 0;
        if next == ipv6::FRAGMENT && u16_at(header, 2) & 0xfff9 != 0 {
            notes |= if later { Notes::LATER_FRAGMENT } else { Notes::FIRST_FRAGMENT };
        }
        offset += match length_unit {
            0 => 8,
            4 => (usize::from(header[1]) + 2) * 4,
            unit => (usize::from(header[1]) + 1) * unit,
        };
        next = header[0];
        if offset > end {
            return Err(DropReason::Truncated);
        }
        if later {
            break;
        }
    }
    packet.meta.notes = Notes(notes);
    packet.meta.protocol = next;
    packet.meta.l4 = offset as u16;
    Ok(())
}

/// Checks the transport header at `meta.l4`, of which `transport_bytes` (with what it carries) are
/// in this packet.
#[inline(always)]
fn transport(packet: &mut Packet, transport_bytes: usize) -> Result<(), DropReason> {
    packet.meta.tcp_flags = 0;
    if packet.meta.notes.any(Notes::LATER_FRAGMENT) {
        return Ok(());
    }
    let l4 = usize::from(packet.meta.l4);
    match packet.meta.protocol {
        protocol::TCP => {
            let header = header_at::<{ tcp::HEADER_BYTES }>(packet.head(), l4);
            let header = header.ok_or(DropReason::Truncated)?;
            let header_bytes = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
            if header_bytes < tcp::HEADER_BYTES || header_bytes > transport_bytes {
                return Err(DropReason::MalformedTransport);
            }
            packet.meta.tcp_flags = header[tcp::FLAGS];
        }
        protocol::UDP => {
            let header = header_at::<{ udp::HEADER_BYTES }>(packet.head(), l4);
            let header = header.ok_or(DropReason::Truncated)?;
            let length = usize::from(u16_at(header, udp::LENGTH));
            let fragment = packet.meta.notes.any(Notes::FIRST_FRAGMENT);
            if length < udp::HEADER_BYTES || (length > transport_bytes && !fragment) {
                return Err(DropReason::MalformedTransport);
            }
        }
        protocol::ICMP | protocol::ICMPV6 => return icmp(packet, l4),
        protocol::SCTP if transport_bytes < sctp::HEADER_BYTES => {
            return Err(DropReason::Truncated);
        }
        _ => {}
    }
    if transport_bytes < 8 && matches!(packet.meta.protocol, protocol::TCP | protocol::UDP) {
        return Err(DropReason::Truncated);
    }
    Ok(())
}

#[inline]
fn icmp(packet: &mut Packet, l4: usize) -> Result<(), DropReason> {
    let header = header_at::<{ icmp::HEADER_BYTES }>(packet.head(), l4);
    let header = header.ok_or(DropReason::Truncated)?;
    let v6 = packet.meta.notes.any(Notes::V6);
    if v6 != (packet.meta.protocol == protocol::ICMPV6) {
        return Err(DropReason::MalformedTransport);
    }
    let kind = header[0];
    let error = match v6 {
        true => kind < icmp::V6_INFORMATION_MIN,
        false => matches!(
            kind,
            icmp::UNREACHABLE
                | icmp::SOURCE_QUENCH
                | icmp::REDIRECT
                | icmp::TIME_EXCEEDED
                | icmp::PARAMETER_PROBLEM
        ),
    };
    if error {
        packet.meta.notes.0 |= Notes::ICMP_ERROR;
    }
    if v6 && (icmp::V6_ROUTER_SOLICITATION..=icmp::V6_REDIRECT).contains(&kind) {
        packet.meta.notes.0 |= Notes::NEIGHBOUR_DISCOVERY;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn pool() -> FramePool {
        let chunks = heap_frames(2);
        FramePool::new(chunks, heap_tails(1), FrameBalancer::new(2, 1))
    }

    fn parse(bytes: &[u8]) -> Result<Packet, DropReason> {
        let mut packet = Packet::copy_of(bytes, &mut pool()).unwrap();
        let ethernet = ethernet(&packet)?;
        match behind_tags(&mut packet, ethernet.ethertype)? {
            ethernet::IPV4 => ipv4(&mut packet)?,
            ethernet::IPV6 => ipv6(&mut packet)?,
            _ => {}
        }
        Ok(packet)
    }

    fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"hello").unwrap();
        bytes
    }

    fn udp4() -> Vec<u8> {
        built(
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
                .udp(1, 2),
        )
    }

    #[test]
    fn headers_are_found_behind_a_vlan_tag() {
        let vlan = etherparse::VlanId::try_new(5).unwrap();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).single_vlan(vlan);
        let packet = parse(&built(builder.ipv6([1; 16], [2; 16], 9).udp(1, 2))).unwrap();
        assert_eq!((packet.meta.l3, packet.meta.l4), (18, 58));
        assert!(packet.meta.notes.any(Notes::TAGGED) && packet.meta.notes.any(Notes::V6));
    }

    #[test]
    fn an_ethernet_trailer_is_cut_off() {
        let mut bytes = udp4();
        let length = bytes.len();
        bytes.resize(60, 0xee);
        assert_eq!(parse(&bytes).unwrap().len(), length);
    }

    #[test]
    fn a_wrong_header_checksum_is_malformed() {
        let mut bytes = udp4();
        bytes[22] ^= 1;
        assert_eq!(parse(&bytes).unwrap_err(), DropReason::MalformedIp);
    }

    #[test]
    fn every_truncation_of_a_packet_is_refused() {
        let bytes = udp4();
        for length in 0..bytes.len() {
            let refused = parse(&bytes[..length]).unwrap_err();
            assert_eq!(refused, DropReason::Truncated, "{length}");
        }
    }

    #[test]
    fn a_later_fragment_has_no_transport_header() {
        let mut bytes = udp4();
        let offset = 14 + ipv4::FRAGMENT;
        bytes[offset..offset + 2].copy_from_slice(&[0x00, 0x10]);
        let header: [u8; 20] = bytes[14..34].try_into().unwrap();
        let mut header = header;
        header[10..12].copy_from_slice(&[0, 0]);
        let sum = !crate::wire::checksum::fold(crate::wire::checksum::sum(&header));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        let packet = parse(&bytes).unwrap();
        assert!(packet.meta.notes.any(Notes::LATER_FRAGMENT));
    }

    #[test]
    fn a_chain_of_extension_headers_is_followed_to_its_limit() {
        for (count, expected) in [(8usize, None), (9, Some(DropReason::TooManyExtensionHeaders))] {
            let mut bytes =
                built(PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 9).udp(1, 2));
            let mut chain = Vec::new();
            for index in 0..count {
                let next = if index + 1 == count { protocol::UDP } else { 60 };
                chain.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            bytes[14 + ipv6::NEXT_HEADER] = 60;
            bytes.splice(54..54, chain);
            let length = (bytes.len() - 54) as u16;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            let parsed = parse(&bytes);
            assert_eq!(parsed.as_ref().err().copied(), expected);
            if let Ok(packet) = parsed {
                assert_eq!(packet.meta.protocol, protocol::UDP);
                assert_eq!(usize::from(packet.meta.l4), 54 + 8 * count);
            }
        }
    }

    proptest! {
        #[test]
        fn a_plain_packet_is_noted_as_the_general_parser_notes_it(
            v6 in any::<bool>(), tcp in any::<bool>(), changed in any::<(u8, u8)>(),
            trailer in 0usize..4, cut in 0usize..80,
        ) {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = match v6 {
                true => builder.ipv6([1; 16], [2; 16], 9),
                false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
            };
            let mut bytes = Vec::new();
            match tcp {
                true => ip.tcp(1, 2, 3, 4).write(&mut bytes, b"hello").unwrap(),
                false => ip.udp(1, 2).write(&mut bytes, b"hello").unwrap(),
            }
            if changed.0 & 1 == 1 {
                let place = 14 + usize::from(changed.0) % (bytes.len() - 14);
                bytes[place] = changed.1;
            }
            bytes.truncate(bytes.len() - cut.saturating_sub(60).min(bytes.len() - 14));
            bytes.extend(vec![0xee; trailer]);
            let mut frames = pool();
            let mut plain = Packet::copy_of(&bytes, &mut frames).unwrap();
            let mut general = Packet::copy_of(&bytes, &mut frames).unwrap();
            let recognised = if v6 { plain_v6(&mut plain) } else { plain_v4(&mut plain) };
            behind_tags(&mut general, 0).unwrap();
            general.meta.notes.0 |= Notes::ROUTED;
            let parsed = if v6 { ipv6(&mut general) } else { ipv4(&mut general) };
            if recognised {
                prop_assert_eq!(parsed, Ok(()));
                prop_assert_eq!(format!("{:?}", plain.meta), format!("{:?}", general.meta));
                prop_assert_eq!(plain.len(), general.len());
            } else if changed.0 & 1 == 0 && cut <= 60 {
                prop_assert!(false, "an unchanged packet is plain");
            }
        }

        #[test]
        fn offsets_lie_inside_the_head_whatever_the_bytes_are(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0usize..3,
        ) {
            if bytes.len() > 15 {
                let ethertype = [ethernet::IPV4, ethernet::IPV6, ethernet::VLAN][kind];
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes[14] = [0x45, 0x60, 0][kind];
            }
            if let Ok(packet) = parse(&bytes) {
                prop_assert!(usize::from(packet.meta.l4) <= packet.head().len());
                prop_assert!(usize::from(packet.meta.l3) <= packet.head().len());
            }
        }
    }
}
