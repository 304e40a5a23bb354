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

use crate::counters::DropReason;
use crate::frame::{CHUNK_BYTES, FramePool, HEADROOM_BYTES};
use crate::packet::{GsoKind, Offload, Packet};
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::{crc32c, ethernet, header_at, ipv4, ipv6, protocol, sctp, tcp, udp};

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
        Offload::Gso { .. } => return Err(DropReason::MalformedOffload),
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
    emit: &mut dyn FnMut(Packet, &mut FramePool),
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
        let addresses = match v6 {
            true => &head[l3 + ipv6::SOURCE..l3 + ipv6::HEADER_BYTES],
            false => &head[l3 + ipv4::SOURCE..l3 + ipv4::HEADER_BYTES],
        };
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
            transport_sum: pseudo_header(addresses, ip.protocol, 0)
                + if is_tcp { tcp_sum(transport) } else { sum(&transport[..udp::LENGTH]) },
            tcp,
        })
    }

    fn cut(
        &self,
        packet: &Packet,
        frames: &mut FramePool,
        emit: &mut dyn FnMut(Packet, &mut FramePool),
    ) -> Result<usize, DropReason> {
        let (headers, first) = packet.head().split_at(self.header_bytes);
        let mut payload = Payload::new(first, packet.tail());
        for index in 0..self.segment_count {
            let offset = index * self.segment_bytes;
            let bytes = self.segment_bytes.min(self.payload_bytes - offset);
            let (mut segment, payload_sum) =
                copy(headers, &mut payload, bytes, frames).ok_or(DropReason::NoFrame)?;
            segment.meta = packet.meta;
            self.set_headers(&mut segment, index, bytes, payload_sum);
            emit(segment, frames);
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

/// Takes frames for a segment and copies headers and the next payload into them; returns the sum
/// of the payload. `None` when the pool has run dry.
pub(crate) fn copy(
    headers: &[u8],
    payload: &mut Payload<'_>,
    bytes: usize,
    frames: &mut FramePool,
) -> Option<(Packet, u64)> {
    let in_head = bytes.min(HEAD_BYTES_MAX - headers.len());
    let mut segment = Packet::new(frames.take_chunk()?, HEADROOM_BYTES, headers.len() + in_head);
    let (to_headers, to_payload) = segment.head_mut().split_at_mut(headers.len());
    to_headers.copy_from_slice(headers);
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
}

impl<'a> Payload<'a> {
    /// Payload in a head and its tail.
    pub(crate) fn new(head: &'a [u8], tail: &'a [u8]) -> Payload<'a> {
        Payload { now: head, later: tail }
    }

    /// Copies the next bytes and returns their sum.
    fn copy_to(&mut self, to: &mut [u8]) -> u64 {
        if let Some((from, rest)) = self.now.split_at_checked(to.len()) {
            self.now = rest;
            return copy_and_sum(to, from);
        }
        let (to_first, to_second) = to.split_at_mut(self.now.len());
        let first = copy_and_sum(to_first, self.now);
        let (from, rest) = self.later.split_at(to_second.len());
        (self.now, self.later) = (rest, &[]);
        join(first, to_first.len(), copy_and_sum(to_second, from))
    }
}

/// Copies and returns [`sum`] of the bytes.
///
/// Copied first and summed then, while they are in the first-level cache: the system's copy keeps
/// many more cache lines in flight than a loop that does both.
fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    to.copy_from_slice(from);
    sum(from)
}

/// Adds the sum of bytes that follow `first_bytes` others. After an odd number of them every byte
/// lies in the other half of its word.
fn join(first: u64, first_bytes: usize, second: u64) -> u64 {
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
    })
}

/// Reads an IPv6 header whose extension headers end where the transport header begins. A fragment
/// or an authentication header is refused: a segment cannot repeat it.
fn read_v6(head: &[u8], l3: usize, l4: usize) -> Option<IpHeader> {
    let header: &[u8; ipv6::HEADER_BYTES] = header_at(head, l3)?;
    let mut next = header[ipv6::NEXT_HEADER];
    let mut at = l3 + ipv6::HEADER_BYTES;
    while at < l4 {
        let [following, length, _, segments_left] = *header_at(head, at)?;
        match next {
            ipv6::HOP_BY_HOP | ipv6::DESTINATION_OPTIONS => {}
            // LIMIT: while segments are left, the checksum covers the last address of the routing
            // header and not the destination. Read it from there once anybody sends such packets.
            ipv6::ROUTING if segments_left == 0 => {}
            _ => return None,
        }
        next = following;
        at += (usize::from(length) + 1) * 8;
    }
    let end = l3 + ipv6::HEADER_BYTES + usize::from(read_u16(header, ipv6::PAYLOAD_LENGTH));
    (header[0] >> 4 == 6 && at == l4).then_some(IpHeader { protocol: next, end })
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

fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

fn write_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, NetSlice, PacketBuilder,
        TcpHeader, TransportSlice, VlanId,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FrameBalancer, heap_frames, heap_tails};
    use crate::judge::judge;
    use crate::packet::Notes;

    fn pool(chunks: usize) -> FramePool {
        let tails = heap_tails(3);
        FramePool::new(heap_frames(chunks), tails, FrameBalancer::new(chunks, 3))
    }

    /// A super-frame to be built.
    #[derive(Clone, Debug)]
    struct Shape {
        v6: bool,
        is_tcp: bool,
        tag_count: usize,
        /// IPv4 options or an IPv6 hop-by-hop header of eight bytes.
        ip_options: bool,
        tcp_options_bytes: usize,
        flags: u8,
        payload_bytes: usize,
        segment_bytes: u16,
        /// Payload bytes in the head frame.
        in_head: usize,
    }

    const PLAIN: Shape = Shape {
        v6: false,
        is_tcp: true,
        tag_count: 0,
        ip_options: false,
        tcp_options_bytes: 12,
        flags: tcp::ACK | tcp::PSH,
        payload_bytes: 10_000,
        segment_bytes: 1_448,
        in_head: 33,
    };

    const SEQUENCE: u32 = u32::MAX - 5_000;
    const IDENTIFICATION: u16 = 0xfffe;

    impl Shape {
        fn l3(&self) -> usize {
            14 + 4 * self.tag_count
        }

        fn l4(&self) -> usize {
            let ip = if self.v6 { 40 } else { 20 };
            self.l3() + ip + if self.ip_options { 8 } else { 0 }
        }

        fn header_bytes(&self) -> usize {
            self.l4() + if self.is_tcp { 20 + self.tcp_options_bytes } else { 8 }
        }

        fn payload(&self) -> Vec<u8> {
            (0..self.payload_bytes).map(|i| (i * 7 + i / 251) as u8).collect()
        }

        fn ip(&self) -> IpHeaders {
            if self.v6 {
                let mut extensions = etherparse::Ipv6Extensions::default();
                if self.ip_options {
                    let header = etherparse::Ipv6RawExtHeader::new_raw(
                        IpNumber::TCP,
                        // PadN over all six bytes.
                        &[1, 4, 0, 0, 0, 0],
                    );
                    extensions.hop_by_hop_options = Some(header.unwrap());
                }
                let header = Ipv6Header {
                    source: [0xfd; 16],
                    destination: [0xfc; 16],
                    hop_limit: 60,
                    ..Default::default()
                };
                return IpHeaders::Ipv6(header, extensions);
            }
            let mut header =
                Ipv4Header::new(0, 60, IpNumber::TCP, [10, 1, 0, 10], [10, 2, 0, 7]).unwrap();
            header.identification = IDENTIFICATION;
            if self.ip_options {
                header.options = Ipv4Options::try_from(&[1u8; 8][..]).unwrap();
            }
            IpHeaders::Ipv4(header, Default::default())
        }

        /// The bytes of the super-frame. Its checksum is whole instead of partial, as cutting
        /// looks at neither.
        fn bytes(&self) -> Vec<u8> {
            let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let tag = |id| VlanId::try_new(id).unwrap();
            let builder = match self.tag_count {
                0 => ethernet.ip(self.ip()),
                1 => ethernet.single_vlan(tag(7)).ip(self.ip()),
                _ => ethernet.double_vlan(tag(7), tag(8)).ip(self.ip()),
            };
            let mut bytes = Vec::new();
            if self.is_tcp {
                let mut header = TcpHeader::new(40_000, 80, SEQUENCE, 1_000);
                header.set_options_raw(&vec![1; self.tcp_options_bytes]).unwrap();
                header.acknowledgment_number = 99;
                builder.tcp_header(header).write(&mut bytes, &self.payload()).unwrap();
                bytes[self.l4() + tcp::FLAGS] = self.flags;
            } else {
                builder.udp(5_000, 53).write(&mut bytes, &self.payload()).unwrap();
            }
            bytes
        }

        fn packet(&self, with_meta: bool, frames: &mut FramePool) -> Packet {
            let bytes = self.bytes();
            let split = bytes.len().min(self.header_bytes() + self.in_head);
            let mut head = frames.take_chunk().unwrap();
            head.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + split]
                .copy_from_slice(&bytes[..split]);
            let mut packet = Packet::new(head, HEADROOM_BYTES, split);
            if split < bytes.len() {
                let mut tail = frames.take_tail().unwrap();
                tail.bytes_mut()[..bytes.len() - split].copy_from_slice(&bytes[split..]);
                packet.set_tail(tail, bytes.len() - split);
            }
            if with_meta {
                packet.meta.l3 = self.l3() as u16;
                packet.meta.l4 = self.l4() as u16;
                packet.meta.notes = Notes(if self.v6 { Notes::V6 } else { 0 });
            }
            packet.set_offload(Offload::Gso {
                kind: match (self.is_tcp, self.v6) {
                    (true, false) => GsoKind::TcpV4,
                    (true, true) => GsoKind::TcpV6,
                    (false, _) => GsoKind::Udp,
                },
                segment_bytes: self.segment_bytes,
                start: self.l4() as u16,
                ecn: false,
            });
            packet
        }
    }

    /// Cuts and collects what comes out as bytes.
    fn cut_all(
        packet: Packet,
        frames: &mut FramePool,
    ) -> (Result<usize, DropReason>, Vec<Vec<u8>>) {
        let mut segments = Vec::new();
        let result = cut(packet, frames, &mut |segment, frames| {
            assert_eq!(segment.offload(), Offload::None);
            segments.push(segment.to_vec());
            segment.recycle(frames);
        });
        (result, segments)
    }

    /// Cuts, and checks everything that can be said about segments from their super-frame.
    fn check(shape: &Shape, with_meta: bool) {
        let mut frames = pool(4);
        let packet = shape.packet(with_meta, &mut frames);
        let (result, segments) = cut_all(packet, &mut frames);
        assert_eq!(frames.count(), (4, 3));
        let count = shape.payload_bytes.div_ceil(usize::from(shape.segment_bytes)).max(1);
        assert_eq!((result, segments.len()), (Ok(count), count));
        let mut payload = Vec::new();
        for (index, bytes) in segments.iter().enumerate() {
            assert!(bytes.len() <= shape.header_bytes() + usize::from(shape.segment_bytes));
            let sliced = judge(bytes);
            if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
                let expected = IDENTIFICATION.wrapping_add(index as u16);
                assert_eq!(ip.header().identification(), expected);
            }
            match &sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let sequence = SEQUENCE.wrapping_add(payload.len() as u32);
                    assert_eq!(tcp.sequence_number(), sequence);
                    let mut flags = shape.flags;
                    if index > 0 {
                        flags &= !tcp::CWR;
                    }
                    if index + 1 < count {
                        flags &= !(tcp::FIN | tcp::PSH);
                    }
                    assert_eq!(bytes[shape.l4() + tcp::FLAGS], flags);
                    assert_eq!(tcp.options(), vec![1; shape.tcp_options_bytes]);
                    payload.extend_from_slice(tcp.payload());
                }
                Some(TransportSlice::Udp(udp)) => {
                    assert_ne!(udp.checksum(), 0);
                    payload.extend_from_slice(udp.payload());
                }
                _ => panic!("TCP or UDP"),
            }
        }
        assert!(payload == shape.payload(), "the payload comes out as it went in");
    }

    #[test]
    fn a_super_frame_is_cut_into_segments_that_a_wire_can_carry() {
        check(&PLAIN, true);
        check(&Shape { v6: true, ..PLAIN }, true);
        check(&Shape { is_tcp: false, segment_bytes: 1_400, ..PLAIN }, true);
        check(&Shape { is_tcp: false, v6: true, ..PLAIN }, true);
    }

    #[test]
    fn a_super_frame_that_was_never_parsed_is_cut_behind_its_tags() {
        for tag_count in 0..=2 {
            check(&Shape { tag_count, v6: tag_count == 1, ..PLAIN }, false);
        }
    }

    #[test]
    fn payload_at_the_borders_is_cut_right() {
        // Nothing, one byte, one segment and its neighbours, and a multiple.
        for payload_bytes in [0, 1, 1_447, 1_448, 1_449, 4 * 1_448, 4 * 1_448 + 1] {
            for in_head in [0, 1, 33, 1_448] {
                check(&Shape { payload_bytes, in_head, ..PLAIN }, true);
            }
        }
        let most = 65_535 - 20 - 32;
        check(&Shape { payload_bytes: most, ..PLAIN }, true);
        check(&Shape { payload_bytes: most, segment_bytes: 9, ..PLAIN }, true);
        check(&Shape { v6: true, payload_bytes: 65_535 - 32, ..PLAIN }, true);
        check(&Shape { is_tcp: false, payload_bytes: 65_535 - 28, ..PLAIN }, true);
    }

    #[test]
    fn segments_larger_than_a_chunk_have_a_tail() {
        for in_head in [0, 1_001] {
            for segment_bytes in [1_726, 1_727, 8_949] {
                check(&Shape { payload_bytes: 60_001, segment_bytes, in_head, ..PLAIN }, true);
            }
        }
    }

    #[test]
    fn a_lie_about_a_super_frame_is_a_drop() {
        let lies: [&dyn Fn(&mut Packet); 12] = [
            &|packet| packet.set_offload(Offload::None),
            &|packet| set_gso(packet, GsoKind::TcpV4, 0, 34),
            &|packet| set_gso(packet, GsoKind::TcpV6, 1_448, 34),
            &|packet| set_gso(packet, GsoKind::Udp, 1_448, 34),
            &|packet| set_gso(packet, GsoKind::TcpV4, 1_448, 38),
            &|packet| set_gso(packet, GsoKind::TcpV4, 1_448, u16::MAX),
            &|packet| set_gso(packet, GsoKind::TcpV4, 1, 34),
            &|packet| packet.meta.l3 = u16::MAX,
            // TCP header longer than the head; shorter than it can be; total length; fragment.
            &|packet| packet.truncate(34 + 31),
            &|packet| packet.head_mut()[34 + tcp::DATA_OFFSET] = 0x40,
            &|packet| packet.head_mut()[14 + ipv4::TOTAL_LENGTH] = 0xff,
            &|packet| packet.head_mut()[14 + ipv4::FRAGMENT] = 0x20,
        ];
        for (index, lie) in lies.iter().enumerate() {
            let mut frames = pool(4);
            let mut packet = PLAIN.packet(true, &mut frames);
            lie(&mut packet);
            let (result, segments) = cut_all(packet, &mut frames);
            assert_eq!((result, segments.len()), (Err(DropReason::CutFailed), 0), "{index}");
            assert_eq!(frames.count(), (4, 3));
        }
    }

    fn set_gso(packet: &mut Packet, kind: GsoKind, segment_bytes: u16, start: u16) {
        packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: false });
    }

    #[test]
    fn a_pool_that_runs_dry_ends_the_cut_and_loses_no_frame() {
        for segment_bytes in [1_448, 8_000] {
            let mut frames = pool(4);
            let packet = Shape { segment_bytes, payload_bytes: 60_000, ..PLAIN };
            let packet = packet.packet(true, &mut frames);
            let mut kept = Vec::new();
            let result = cut(packet, &mut frames, &mut |segment, _| kept.push(segment));
            assert_eq!(result, Err(DropReason::NoFrame));
            assert_eq!(kept.len(), if segment_bytes == 1_448 { 3 } else { 2 });
            kept.into_iter().for_each(|segment| segment.recycle(&mut frames));
            assert_eq!(frames.count(), (4, 3));
        }
    }

    /// A packet whose checksum is still the pseudo-header's sum.
    fn with_partial_checksum(shape: &Shape, frames: &mut FramePool) -> Packet {
        let mut packet = shape.packet(true, frames);
        let (l3, l4) = (shape.l3(), shape.l4());
        let addresses = if shape.v6 {
            &packet.head()[l3 + 8..l3 + 40]
        } else {
            &packet.head()[l3 + 12..l3 + 20]
        };
        let number = if shape.is_tcp { 6 } else { 17 };
        let partial = fold(pseudo_header(addresses, number, packet.len() - l4));
        let offset = if shape.is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
        write_u16(packet.head_mut(), l4 + offset, partial);
        packet.set_offload(Offload::NeedsChecksum { start: l4 as u16, offset: offset as u16 });
        packet
    }

    #[test]
    fn a_partial_checksum_is_completed_across_head_and_tail() {
        for v6 in [false, true] {
            for is_tcp in [false, true] {
                for (payload_bytes, in_head) in [(0, 0), (1, 1), (1, 0), (3_000, 33), (3_001, 0)] {
                    let mut frames = pool(4);
                    let shape = Shape { v6, is_tcp, payload_bytes, in_head, ..PLAIN };
                    let mut packet = with_partial_checksum(&shape, &mut frames);
                    complete_checksum(&mut packet).unwrap();
                    assert_eq!(packet.offload(), Offload::None);
                    judge(&packet.to_vec());
                }
            }
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
        let mut frames = pool(4);
        let shape = Shape { is_tcp: false, payload_bytes: 2, ..PLAIN };
        let mut packet = with_partial_checksum(&shape, &mut frames);
        complete_checksum(&mut packet).unwrap();
        let checksum = read_u16(packet.head(), 34 + udp::CHECKSUM);
        let word = read_u16(packet.head(), 42);
        let mut packet = with_partial_checksum(&shape, &mut frames);
        // Adding the checksum to a word of the payload makes the sum all ones.
        write_u16(packet.head_mut(), 42, fold(u64::from(word) + u64::from(checksum)));
        complete_checksum(&mut packet).unwrap();
        assert_eq!(read_u16(packet.head(), 34 + udp::CHECKSUM), 0xffff);
        judge(packet.head());
    }

    #[test]
    fn a_checksum_in_a_wrong_place_is_refused() {
        let mut frames = pool(4);
        let mut packet = PLAIN.packet(true, &mut frames);
        let end = packet.head().len() as u16;
        for (start, offset) in [(end, 0), (end - 1, 0), (0, end - 1), (u16::MAX, u16::MAX)] {
            packet.set_offload(Offload::NeedsChecksum { start, offset });
            assert_eq!(complete_checksum(&mut packet), Err(DropReason::MalformedOffload));
        }
        packet.set_offload(Offload::NeedsChecksum { start: end - 2, offset: 0 });
        assert_eq!(complete_checksum(&mut packet), Ok(()));
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let headers = (any::<bool>(), any::<bool>(), 0usize..3, any::<bool>(), 0usize..=10);
        let sizes = (0usize..65_400, 100u16..9_000, 0usize..1_600, any::<u8>());
        (headers, sizes).prop_map(|(headers, sizes)| {
            let (v6, is_tcp, tag_count, ip_options, option_words) = headers;
            let (payload_bytes, segment_bytes, in_head, flags) = sizes;
            Shape {
                v6,
                is_tcp,
                tag_count,
                ip_options,
                tcp_options_bytes: option_words * 4,
                flags,
                payload_bytes,
                segment_bytes,
                in_head,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn any_super_frame_is_cut_right(shape in shapes(), with_meta in any::<bool>()) {
            check(&shape, with_meta);
        }

        #[test]
        fn a_copy_has_the_sum_of_its_source(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            split in 0usize..200,
            halves in 0usize..200,
        ) {
            let (first, second) = bytes.split_at(split.min(bytes.len()));
            let mut payload = Payload { now: first, later: second };
            let mut copied = vec![0; bytes.len()];
            let halves = halves.min(bytes.len());
            let (to_first, to_second) = copied.split_at_mut(halves);
            let first_sum = payload.copy_to(to_first);
            let total = join(first_sum, halves, payload.copy_to(to_second));
            prop_assert_eq!(fold(total), fold(sum(&bytes)));
            prop_assert_eq!(copied, bytes);
        }

        #[test]
        fn damage_and_lies_never_panic_nor_lose_a_frame(
            shape in shapes(),
            damage in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
            len in prop_oneof![Just(usize::MAX), 0usize..200],
            l3 in prop_oneof![3 => Just(None), 1 => any::<u16>().prop_map(Some)],
            start in prop_oneof![3 => Just(None), 1 => (0u16..200).prop_map(Some)],
            offset in 0u16..2_000,
        ) {
            let mut frames = pool(4);
            let mut packet = shape.packet(true, &mut frames);
            for (at, value) in damage {
                if let Some(byte) = packet.head_mut().get_mut(at) {
                    *byte = value;
                }
            }
            if len < packet.len() {
                packet.truncate(len);
            }
            packet.meta.l3 = l3.unwrap_or(packet.meta.l3);
            let Offload::Gso { kind, segment_bytes, start: old, .. } = packet.offload() else {
                unreachable!("a shape is a super-frame");
            };
            let start = start.unwrap_or(old);
            packet.set_offload(Offload::NeedsChecksum { start, offset });
            let _ = complete_checksum(&mut packet);
            packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: true });
            let (result, segments) = cut_all(packet, &mut frames);
            prop_assert_eq!(result.unwrap_or(0), segments.len());
            prop_assert_eq!(frames.count(), (4, 3));
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            (start, segment_bytes, offset) in (0u16..320, any::<u16>(), any::<u16>()),
            l3 in 0u16..320,
            kind in prop::sample::select(vec![GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp]),
        ) {
            let mut frames = pool(4);
            let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
            packet.meta.l3 = l3;
            packet.set_offload(Offload::NeedsChecksum { start, offset });
            let _ = complete_checksum(&mut packet);
            packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: true });
            let _ = cut_all(packet, &mut frames);
            prop_assert_eq!(frames.count(), (4, 3));
        }
    }
}
