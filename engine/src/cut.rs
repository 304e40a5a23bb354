//! Cuts super-frames and finishes checksums, for egress ports that cannot do it themselves.
//!
//! [headers | 64 KiB of payload] becomes [headers | segment], [headers | segment], … Each segment
//! gets a copy of the headers with lengths, IPv4 identification, TCP sequence number and flags set
//! right. Headers are summed once per super-frame, and a segment's payload right after its copy,
//! out of the cache. The one hard constraint: what the sender says about its frame (segment size,
//! offsets, lengths) may be a lie; a lie is a drop reason, never a panic.
//!
//! The partial checksum in a super-frame is not read: each segment's checksum is made from the
//! addresses that it really carries. Nothing here knows ports or MTUs; the caller decides what is
//! cut, and sends or drops each segment.

use alike::Alike;

use crate::copier::Copier;
use crate::counters::DropReason;
use crate::frame::{CHUNK_BYTES, FramePool, HEADROOM_BYTES};
use crate::packet::{GsoKind, Offload, Packet, WINDOW_BYTES};
use crate::wire::checksum::{fold, pseudo_header, sum, turned};
use crate::wire::{crc32c, ethernet, header_at, ipv4, ipv6, protocol, sctp, tcp, udp};

mod alike;

/// Bytes of a segment that its chunk takes; what is more goes to a tail.
const HEAD_BYTES_MAX: usize = CHUNK_BYTES - HEADROOM_BYTES;

/// Segments of one super-frame. 64 KiB in the 8 payload bytes that Linux allows at least
/// (`TCP_MIN_SND_MSS` less full options). More would let a guest turn one frame into 65,535.
const SEGMENT_COUNT_MAX: usize = 8_192;

/// VLAN tags that are looked behind for the IP header.
const TAG_COUNT_MAX: usize = 2;

/// Finishes a partial checksum, in head or across head and tail; does nothing when there is none
/// to finish. A wrong place for it is [`DropReason::MalformedOffload`].
pub(crate) fn complete_checksum(packet: &mut Packet) -> Result<(), DropReason> {
    let (start, offset) = match packet.offload() {
        Offload::None => return Ok(()),
        Offload::NeedsChecksum { start, offset } => (usize::from(start), usize::from(offset)),
        Offload::Gso { .. } | Offload::Tunnelled { .. } => {
            return Err(DropReason::MalformedOffload);
        }
    };
    if offset == sctp::CHECKSUM {
        return complete_crc(packet, start);
    }
    let field = start + offset;
    if field + 2 > packet.head().len() {
        return Err(DropReason::MalformedOffload);
    }
    let checksum = !fold(sum_from(packet, start));
    // RFC 768: a UDP checksum of zero means none. UDP is known by the place of its checksum.
    let checksum = if offset == udp::CHECKSUM { udp_checksum(checksum) } else { checksum };
    write_u16(packet.head_mut(), field, checksum);
    packet.set_offload(Offload::None);
    Ok(())
}

/// The sum of a packet's bytes from an offset in its head to its end.
pub(crate) fn sum_from(packet: &Packet, start: usize) -> u64 {
    let covered = packet.head().get(start..).unwrap_or_default();
    join(sum(covered), covered.len(), sum(packet.tail()))
}

/// SCTP's checksum, known by its place, is a CRC32c of four bytes.
fn complete_crc(packet: &mut Packet, start: usize) -> Result<(), DropReason> {
    let field = start + sctp::CHECKSUM;
    let place = packet.head_mut().get_mut(field..field + 4);
    place.ok_or(DropReason::MalformedOffload)?.fill(0);
    let checksum = crc32c::whole(&[&packet.head()[start..], packet.tail()]);
    packet.head_mut()[field..field + 4].copy_from_slice(&checksum.to_le_bytes());
    packet.set_offload(Offload::None);
    Ok(())
}

/// Cuts a super-frame and gives each segment to `emit`, in order; returns how many there were.
///
/// The super-frame's frames go back to the pool, also when it cannot be cut: then the reason is
/// [`DropReason::CutFailed`], or [`DropReason::NoFrame`] when the pool ran dry on the way, and
/// segments that were given to `emit` by then stay given. Segments have no work left on them, and
/// the super-frame's `meta` with lengths and flags of their own.
pub(crate) fn cut(
    packet: Packet,
    frames: &mut FramePool,
    emit: &mut impl FnMut(Packet, &mut FramePool),
) -> Result<usize, DropReason> {
    let result = match Plan::read(&packet) {
        Some(plan) => plan.cut(&packet, frames, emit),
        None => Err(DropReason::CutFailed),
    };
    packet.recycle(frames);
    result
}

/// What all segments of a super-frame share, with every offset checked.
#[derive(Debug)]
struct Plan {
    v6: bool,
    l3: usize,
    l4: usize,
    /// All headers, from the Ethernet header to the payload.
    header_bytes: usize,
    payload_bytes: usize,
    segment_bytes: usize,
    segment_count: usize,
    /// IPv4 header without length, identification and checksum.
    ip_sum: u64,
    identification: u16,
    /// Pseudo-header and transport header without what differs by segment.
    transport_sum: u64,
    /// `None`: UDP.
    tcp: Option<TcpStart>,
}

/// What the TCP header of a super-frame says.
#[derive(Clone, Copy, Debug)]
struct TcpStart {
    sequence: u32,
    flags: u8,
}

/// An IP header in front of a transport header.
struct IpHeader {
    protocol: u8,
    /// Where the IP packet ends by its own length.
    end: usize,
    /// Where the address lies that the packet reaches in the end.
    destination: usize,
}

impl Plan {
    /// Reads and checks the headers. `None` when they contradict each other or the offload.
    fn read(packet: &Packet) -> Option<Plan> {
        let Offload::Gso { kind, segment_bytes, start, .. } = packet.offload() else { return None };
        let head = packet.head();
        let l3 = match packet.meta.l3 {
            0 => find_l3(head)?,
            l3 => usize::from(l3),
        };
        let l4 = usize::from(start);
        let v6 = match kind {
            GsoKind::TcpV4 => false,
            GsoKind::TcpV6 => true,
            GsoKind::Udp => *head.get(l3)? >> 4 == 6,
        };
        let ip = if v6 { read_v6(head, l3, l4)? } else { read_v4(head, l3, l4)? };
        let is_tcp = kind != GsoKind::Udp;
        if ip.protocol != if is_tcp { protocol::TCP } else { protocol::UDP } {
            return None;
        }
        let transport = head.get(l4..)?;
        let transport_header_bytes = match is_tcp {
            true => usize::from(*transport.get(tcp::DATA_OFFSET)? >> 4) * 4,
            false => udp::HEADER_BYTES,
        };
        let least = if is_tcp { tcp::HEADER_BYTES } else { udp::HEADER_BYTES };
        let header_bytes = l4 + transport_header_bytes;
        if transport_header_bytes < least
            || header_bytes > head.len().min(HEAD_BYTES_MAX).min(ip.end)
            || ip.end > packet.len()
        {
            return None;
        }
        let transport = &transport[..transport_header_bytes];
        let payload_bytes = ip.end - header_bytes;
        let segment_bytes = usize::from(segment_bytes);
        if segment_bytes == 0 {
            return None;
        }
        // A super-frame without payload is one segment.
        let segment_count = payload_bytes.max(1).div_ceil(segment_bytes);
        if segment_count > SEGMENT_COUNT_MAX {
            return None;
        }
        let (source, address_bytes) = match v6 {
            true => (l3 + ipv6::SOURCE, 16),
            false => (l3 + ipv4::SOURCE, 4),
        };
        let source = head.get(source..source + address_bytes)?;
        let destination = head.get(ip.destination..ip.destination + address_bytes)?;
        let tcp = is_tcp.then(|| read_tcp(transport));
        Some(Plan {
            v6,
            l3,
            l4,
            header_bytes,
            payload_bytes,
            segment_bytes,
            segment_count,
            ip_sum: if v6 { 0 } else { ip_sum(&head[l3..l4]) },
            identification: read_u16(head, l3 + ipv4::IDENTIFICATION),
            transport_sum: pseudo_header(source, ip.protocol, 0)
                + sum(destination)
                + if is_tcp { tcp_sum(transport) } else { sum(&transport[..udp::LENGTH]) },
            tcp,
        })
    }

    fn cut(
        &self,
        packet: &Packet,
        frames: &mut FramePool,
        emit: &mut impl FnMut(Packet, &mut FramePool),
    ) -> Result<usize, DropReason> {
        let (bytes, first) = packet.head().split_at(self.header_bytes);
        let headers = Headers { bytes, window: Some(packet.window()) };
        let mut payload = Payload::new(first, packet.tail(), frames.copier());
        let alike = Alike::among(self, packet);
        let mut index = 0;
        while index < self.segment_count {
            if let Some(alike) = &alike
                && alike.begins_at(index)
            {
                index = alike.cut(&mut payload, frames, emit).ok_or(DropReason::NoFrame)?;
                continue;
            }
            let offset = index * self.segment_bytes;
            let bytes = self.segment_bytes.min(self.payload_bytes - offset);
            let (mut segment, payload_sum) =
                copy(headers, &mut payload, bytes, frames).ok_or(DropReason::NoFrame)?;
            segment.meta = packet.meta;
            self.set_headers(&mut segment, index, bytes, payload_sum);
            emit(segment, frames);
            index += 1;
        }
        Ok(self.segment_count)
    }

    /// Sets everything in a segment's copy of the headers that is its own.
    fn set_headers(&self, segment: &mut Packet, index: usize, bytes: usize, payload_sum: u64) {
        let transport_bytes = (self.header_bytes - self.l4 + bytes) as u16;
        let l3_bytes = (self.l4 - self.l3) as u16 + transport_bytes;
        segment.meta.l3_bytes = u32::from(l3_bytes);
        let total = self.transport_sum + u64::from(transport_bytes) + payload_sum;
        let is_last = index + 1 == self.segment_count;
        let flags = self.tcp.map(|tcp| segment_flags(tcp.flags, index == 0, is_last));
        segment.meta.tcp_flags = flags.unwrap_or(0);

        let head = segment.head_mut();
        if self.v6 {
            let payload_length = l3_bytes - ipv6::HEADER_BYTES as u16;
            write_u16(head, self.l3 + ipv6::PAYLOAD_LENGTH, payload_length);
        } else {
            let identification = self.identification.wrapping_add(index as u16);
            write_u16(head, self.l3 + ipv4::TOTAL_LENGTH, l3_bytes);
            write_u16(head, self.l3 + ipv4::IDENTIFICATION, identification);
            let total = self.ip_sum + u64::from(l3_bytes) + u64::from(identification);
            write_u16(head, self.l3 + ipv4::CHECKSUM, !fold(total));
        }

        let transport = &mut head[self.l4..];
        if let (Some(tcp), Some(flags)) = (self.tcp, flags) {
            let sequence = tcp.sequence.wrapping_add((index * self.segment_bytes) as u32);
            transport[tcp::SEQUENCE..tcp::SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
            transport[tcp::FLAGS] = flags;
            let total = total + u64::from(sequence) + u64::from(flags);
            write_u16(transport, tcp::CHECKSUM, !fold(total));
        } else {
            write_u16(transport, udp::LENGTH, transport_bytes);
            let total = total + u64::from(transport_bytes);
            write_u16(transport, udp::CHECKSUM, udp_checksum(!fold(total)));
        }
    }
}

/// What a segment begins with.
#[derive(Clone, Copy)]
pub(crate) struct Headers<'a> {
    pub(crate) bytes: &'a [u8],
    /// These bytes and what follows them, if that is there: a copy of a known length takes a few
    /// instructions, where one of any length takes a call.
    pub(crate) window: Option<&'a [u8; WINDOW_BYTES]>,
}

/// Takes frames for a segment and copies headers and the next payload into them; returns the sum
/// of the payload. `None` when the pool has run dry.
#[inline]
pub(crate) fn copy(
    headers: Headers<'_>,
    payload: &mut Payload<'_>,
    bytes: usize,
    frames: &mut FramePool,
) -> Option<(Packet, u64)> {
    let header_bytes = headers.bytes.len();
    let in_head = bytes.min(HEAD_BYTES_MAX - header_bytes);
    let mut segment = Packet::new(frames.take_chunk()?, HEADROOM_BYTES, header_bytes + in_head);
    let (to_headers, to_payload) = match headers.window.filter(|_| header_bytes <= WINDOW_BYTES) {
        Some(window) => {
            *segment.window_mut() = *window;
            segment.head_mut().split_at_mut(header_bytes)
        }
        None => {
            let (to_headers, to_payload) = segment.head_mut().split_at_mut(header_bytes);
            to_headers.copy_from_slice(headers.bytes);
            (to_headers, to_payload)
        }
    };
    debug_assert_eq!(to_headers, headers.bytes);
    let mut total = payload.copy_to(to_payload);
    let in_tail = bytes - in_head;
    if in_tail > 0 {
        let Some(mut tail) = frames.take_tail() else {
            segment.recycle(frames);
            return None;
        };
        total = join(total, in_head, payload.copy_to(&mut tail.bytes_mut()[..in_tail]));
        segment.set_tail(tail, in_tail);
    }
    Some((segment, total))
}

/// Payload not yet copied: first in the head, then in the tail.
pub(crate) struct Payload<'a> {
    now: &'a [u8],
    later: &'a [u8],
    copier: Copier,
}

impl<'a> Payload<'a> {
    /// Payload in a head and its tail.
    pub(crate) fn new(head: &'a [u8], tail: &'a [u8], copier: Copier) -> Payload<'a> {
        Payload { now: head, later: tail, copier }
    }

    /// Copies the next bytes and returns their sum.
    #[inline]
    fn copy_to(&mut self, to: &mut [u8]) -> u64 {
        turned(self.copy_natively(to))
    }

    /// The same, with a sum of words in native order.
    #[inline(always)]
    fn copy_natively(&mut self, to: &mut [u8]) -> u64 {
        if let Some((from, rest)) = self.now.split_at_checked(to.len()) {
            self.now = rest;
            return (self.copier)(to, from);
        }
        turned(self.copy_across(to))
    }

    /// The same, of bytes that begin in the head and end in the tail.
    #[cold]
    fn copy_across(&mut self, to: &mut [u8]) -> u64 {
        let (to_first, to_second) = to.split_at_mut(self.now.len());
        let first = turned((self.copier)(to_first, self.now));
        let (from, rest) = self.later.split_at(to_second.len());
        (self.now, self.later) = (rest, &[]);
        join(first, to_first.len(), turned((self.copier)(to_second, from)))
    }
}

/// Adds the sum of bytes that follow `first_bytes` others. After an odd number of them every byte
/// lies in the other half of its word.
pub(crate) fn join(first: u64, first_bytes: usize, second: u64) -> u64 {
    let odd = first_bytes % 2 == 1;
    first + u64::from(if odd { fold(second).swap_bytes() } else { fold(second) })
}

/// Where the IP header begins, behind the Ethernet header and its tags.
fn find_l3(head: &[u8]) -> Option<usize> {
    let mut at = ethernet::TYPE;
    for _ in 0..=TAG_COUNT_MAX {
        match u16::from_be_bytes(*header_at(head, at)?) {
            ethernet::IPV4 | ethernet::IPV6 => return Some(at + 2),
            ethernet::VLAN | ethernet::SERVICE_VLAN => at += ethernet::TAG_BYTES,
            _ => return None,
        }
    }
    None
}

/// Reads an IPv4 header that ends where the transport header begins and is no fragment's.
fn read_v4(head: &[u8], l3: usize, l4: usize) -> Option<IpHeader> {
    let header: &[u8; ipv4::HEADER_BYTES] = header_at(head, l3)?;
    let header_bytes = usize::from(header[0] & 0xf) * 4;
    let fragment = read_u16(header, ipv4::FRAGMENT);
    let fits = header[0] >> 4 == 4
        && header_bytes >= ipv4::HEADER_BYTES
        && l3 + header_bytes == l4
        && fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) == 0;
    fits.then(|| IpHeader {
        protocol: header[ipv4::PROTOCOL],
        end: l3 + usize::from(read_u16(header, ipv4::TOTAL_LENGTH)),
        destination: l3 + ipv4::DESTINATION,
    })
}

/// Reads an IPv6 header whose extension headers end where the transport header begins. A fragment
/// or an authentication header is refused: a segment cannot repeat it.
fn read_v6(head: &[u8], l3: usize, l4: usize) -> Option<IpHeader> {
    let header: &[u8; ipv6::HEADER_BYTES] = header_at(head, l3)?;
    let mut next = header[ipv6::NEXT_HEADER];
    let mut at = l3 + ipv6::HEADER_BYTES;
    let mut destination = l3 + ipv6::DESTINATION;
    while at < l4 {
        let [following, length, kind, segments_left] = *header_at(head, at)?;
        match next {
            ipv6::HOP_BY_HOP | ipv6::DESTINATION_OPTIONS => {}
            ipv6::ROUTING if segments_left == 0 => {}
            // RFC 8200 section 8.1: the checksum covers the address that is reached in the end.
            ipv6::ROUTING => destination = at + last_address(kind, length)?,
            _ => return None,
        }
        next = following;
        at += (usize::from(length) + 1) * 8;
    }
    let end = l3 + ipv6::HEADER_BYTES + usize::from(read_u16(header, ipv6::PAYLOAD_LENGTH));
    let fits = header[0] >> 4 == 6 && at == l4 && destination + 16 <= l4;
    fits.then_some(IpHeader { protocol: next, end, destination })
}

/// Where in a routing header the final destination lies; `length`: in units of eight bytes, without
/// the first. `None`: of a kind that is not known, or too short.
fn last_address(kind: u8, length: u8) -> Option<usize> {
    match (kind, length) {
        // RFC 2460 section 4.4: the last of the list.
        (0, 2..) if length.is_multiple_of(2) => Some(8 + 8 * (usize::from(length) - 2)),
        // RFC 6275 section 6.4: the home address. RFC 8754 section 2: the list is backwards.
        (2, 2) | (4, 2..) => Some(8),
        _ => None,
    }
}

fn read_tcp(header: &[u8]) -> TcpStart {
    let sequence = header_at(header, tcp::SEQUENCE).expect("a checked header has 20 bytes");
    TcpStart { sequence: u32::from_be_bytes(*sequence), flags: header[tcp::FLAGS] }
}

/// Sum of an IPv4 header without what differs by segment.
fn ip_sum(header: &[u8]) -> u64 {
    sum(&header[..ipv4::TOTAL_LENGTH])
        + sum(&header[ipv4::FRAGMENT..ipv4::CHECKSUM])
        + sum(&header[ipv4::SOURCE..])
}

/// Sum of a TCP header without what differs by segment.
fn tcp_sum(header: &[u8]) -> u64 {
    sum(&header[..tcp::SEQUENCE])
        + sum(&header[tcp::ACKNOWLEDGEMENT..=tcp::DATA_OFFSET])
        + sum(&header[tcp::FLAGS + 1..tcp::CHECKSUM])
        + sum(&header[tcp::CHECKSUM + 2..])
}

/// FIN and PSH belong to the last byte, and CWR to the first data packet after the window was
/// reduced (RFC 3168 section 6.1.2), whatever the super-frame says of ECN.
fn segment_flags(flags: u8, is_first: bool, is_last: bool) -> u8 {
    let flags = if is_last { flags } else { flags & !(tcp::FIN | tcp::PSH) };
    if is_first { flags } else { flags & !tcp::CWR }
}

/// RFC 768: a checksum that comes out as zero is sent as all ones.
fn udp_checksum(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

pub(crate) fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

pub(crate) fn write_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests;
