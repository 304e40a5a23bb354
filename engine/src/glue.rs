//! Glues packets of one flow to super-frames, for egress ports that take them: one system call, and
//! one walk through the receiver's stack, for up to 64 packets of a batch.
//!
//! [headers | segment], [headers | segment], … becomes [headers | segment] + [segment …]: the first
//! packet keeps its frame, what follows is copied to a tail. The one hard constraint: the receiver
//! sees what it would have seen. So the rules are the kernel's own (`inet_gro_receive`,
//! `tcp_gro_receive`, `udp_gro_receive_segment`): in order, without a gap, equal headers, options
//! (time stamps among them), ECN and TTL; PSH, FIN and a short segment end a super-frame, CWR only
//! begins one; of one flow nothing overtakes anything. Beyond the kernel's, windows are equal, so
//! that cutting gives the same bytes again. The checksum of a super-frame is partial, so the
//! receiver checks no segment: each is summed here, and one with a wrong sum passes alone.
//!
//! Nothing waits for more: what is glued lies in one batch. Jumbo frames, which lie in a chunk and
//! a tail, are glued as well. LIMIT: headers at fixed places only (no tags, no IP options);
//! tunnels' inner packets once they are sent by their port's own batch.

use arrayvec::ArrayVec;

use crate::copier::Copier;
use crate::cut::{join, read_u16, write_u16};
use crate::frame::{FramePool, Tail};
use crate::packet::{BATCH_LEN, Batch, GsoKind, Offload, Packet};
use crate::parse::PLAIN_L3;
use crate::port::Caps;
use crate::wire::checksum::{fold, pseudo_header, sum, turned};
use crate::wire::{ethernet, header_at, ipv4, ipv6, protocol, tcp, u32_at, udp};

/// Super-frames of one batch that may still grow. A batch that has more flows mixed than this gains
/// little by gluing; looking through many costs each packet.
const OPEN_MAX: usize = 8;

/// Largest IP packet.
const L3_BYTES_MAX: usize = 65_535;

/// Flags of a segment that can be glued; PSH and FIN only on the last one.
const FLAGS: u8 = tcp::ACK | tcp::PSH | tcp::FIN | tcp::ECE | tcp::CWR;

/// What was glued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Glued {
    /// Packets that became part of another one.
    pub(crate) packets: u64,
    /// Bytes of headers that went with them.
    pub(crate) header_bytes: u64,
}

/// Glues what can be glued for a port with these abilities, so many packets to one at most; the
/// order of the rest is kept.
pub(crate) fn glue(
    batch: &mut Batch,
    (caps, count_max): (Caps, usize),
    frames: &mut FramePool,
) -> Glued {
    if count_max <= 1 {
        return Glued::default();
    }
    let mut open: ArrayVec<Open, OPEN_MAX> = ArrayVec::new();
    let (mut gone, mut glued) = (0u64, Glued::default());
    for index in 0..batch.len() {
        let (before, rest) = batch.split_at_mut(index);
        let Some(packet) = rest.first() else { break };
        let shape = Shape::of(packet.head(), packet.len());
        let Some(shape) = shape else {
            if is_ip(packet.head()) {
                // Whose it is is not known: nothing may overtake it.
                close_all(&mut open, before, frames);
            }
            continue;
        };
        let piece = shape.piece(packet, caps);
        let place = open
            .iter()
            .position(|open| open.shape.is_flow_of(before[open.at].head(), &shape, packet.head()));
        if let Some(place) = place {
            if let Some(piece) = piece
                && open[place].take(before, packet, &piece, frames)
            {
                gone |= 1 << index;
                glued.packets += 1;
                glued.header_bytes += piece.header_bytes as u64;
                if open[place].is_complete || open[place].count >= count_max {
                    open.swap_remove(place).close(before, frames);
                }
                continue;
            }
            open.swap_remove(place).close(before, frames);
        }
        if let Some(piece) = piece.filter(|piece| !piece.ends) {
            if open.is_full() {
                open.remove(0).close(before, frames);
            }
            open.push(Open::new(index, shape, piece, packet.head()));
        }
    }
    close_all(&mut open, batch, frames);
    if gone != 0 {
        remove(batch, gone, frames);
    }
    glued
}

fn close_all(open: &mut ArrayVec<Open, OPEN_MAX>, batch: &mut [Packet], frames: &mut FramePool) {
    open.drain(..).for_each(|open| open.close(batch, frames));
}

/// Takes packets out whose bit is set, and recycles them.
fn remove(batch: &mut Batch, gone: u64, frames: &mut FramePool) {
    const _: () = assert!(BATCH_LEN <= 64, "a bit for each packet of a batch");
    for (index, packet) in std::mem::take(batch).into_iter().enumerate() {
        match gone >> index & 1 {
            0 => batch.push(packet),
            _ => packet.recycle(frames),
        }
    }
}

fn is_ip(head: &[u8]) -> bool {
    let kind = head.get(ethernet::TYPE..PLAIN_L3).map(|kind| read_u16(kind, 0));
    kind.is_some_and(|kind| kind != ethernet::ARP)
}

/// TCP or UDP behind headers at fixed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    v6: bool,
    is_tcp: bool,
    l4: usize,
}

/// A packet that can be a part of a super-frame.
#[derive(Clone, Copy, Debug)]
struct Piece {
    header_bytes: usize,
    payload_bytes: usize,
    /// Nothing may be glued behind it.
    ends: bool,
    /// Nor may it be behind another.
    begins: bool,
    /// Its checksum is still partial: somebody on this machine sent it.
    is_partial: bool,
}

impl Shape {
    /// `None` for any other packet, also one whose lengths do not agree.
    fn of(head: &[u8], bytes: usize) -> Option<Shape> {
        let window: &[u8; PLAIN_L3 + ipv4::HEADER_BYTES] = header_at(head, 0)?;
        let (v6, l4, next, end) = match read_u16(window, ethernet::TYPE) {
            ethernet::IPV4 => {
                let fragment = read_u16(window, PLAIN_L3 + ipv4::FRAGMENT);
                if window[PLAIN_L3] != 0x45 || fragment & !ipv4::DONT_FRAGMENT != 0 {
                    return None;
                }
                let end = usize::from(read_u16(window, PLAIN_L3 + ipv4::TOTAL_LENGTH));
                let next = window[PLAIN_L3 + ipv4::PROTOCOL];
                (false, PLAIN_L3 + ipv4::HEADER_BYTES, next, end)
            }
            ethernet::IPV6 if window[PLAIN_L3] >> 4 == 6 => {
                let payload = usize::from(read_u16(window, PLAIN_L3 + ipv6::PAYLOAD_LENGTH));
                let next = window[PLAIN_L3 + ipv6::NEXT_HEADER];
                (true, PLAIN_L3 + ipv6::HEADER_BYTES, next, ipv6::HEADER_BYTES + payload)
            }
            _ => return None,
        };
        let (is_tcp, least) = match next {
            protocol::TCP => (true, tcp::HEADER_BYTES),
            protocol::UDP => (false, udp::HEADER_BYTES),
            _ => return None,
        };
        let fits = PLAIN_L3 + end == bytes && head.len() >= l4 + least;
        fits.then_some(Shape { v6, is_tcp, l4 })
    }

    /// The packet as a part of a super-frame that the port takes, if it can be one.
    fn piece(self, packet: &Packet, caps: Caps) -> Option<Piece> {
        let takes = if self.is_tcp { caps.tso } else { caps.uso };
        let checksum_at = if self.is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
        let is_partial = match packet.offload() {
            Offload::None => false,
            Offload::NeedsChecksum { start, offset } => {
                if (usize::from(start), usize::from(offset)) != (self.l4, checksum_at) {
                    return None;
                }
                true
            }
            Offload::Gso { .. } | Offload::Tunnelled { .. } => return None,
        };
        if !takes {
            return None;
        }
        let (head, transport) = (packet.head(), packet.head().get(self.l4..)?);
        if !self.v6 && fold(sum(&head[PLAIN_L3..self.l4])) != 0xffff {
            return None;
        }
        let (header_bytes, ends, begins) = match self.is_tcp {
            true => {
                let flags = transport[tcp::FLAGS];
                if flags & !FLAGS != 0 || flags & tcp::ACK == 0 {
                    return None;
                }
                let bytes = usize::from(transport[tcp::DATA_OFFSET] >> 4) * 4;
                let ends = flags & (tcp::PSH | tcp::FIN) != 0;
                (bytes.max(tcp::HEADER_BYTES), ends, flags & tcp::CWR != 0)
            }
            false => {
                let length = usize::from(read_u16(transport, udp::LENGTH));
                // RFC 768: without a checksum it cannot be one of several.
                if length != packet.len() - self.l4 || read_u16(transport, udp::CHECKSUM) == 0 {
                    return None;
                }
                (udp::HEADER_BYTES, false, false)
            }
        };
        let header_bytes = self.l4 + header_bytes;
        if header_bytes > head.len() {
            return None;
        }
        let payload_bytes = Some(packet.len() - header_bytes).filter(|&bytes| bytes > 0)?;
        Some(Piece { header_bytes, payload_bytes, ends, begins, is_partial })
    }

    /// Where both addresses lie.
    fn addresses(self) -> std::ops::Range<usize> {
        match self.v6 {
            true => PLAIN_L3 + ipv6::SOURCE..PLAIN_L3 + ipv6::HEADER_BYTES,
            false => PLAIN_L3 + ipv4::SOURCE..PLAIN_L3 + ipv4::HEADER_BYTES,
        }
    }

    /// True if both packets have the same addresses, protocol and ports.
    fn is_flow_of(self, head: &[u8], other: &Shape, other_head: &[u8]) -> bool {
        let (addresses, ports) = (self.addresses(), self.l4..self.l4 + 4);
        self == *other
            && head[ports.clone()] == other_head[ports]
            && head[addresses.clone()] == other_head[addresses]
    }

    /// True if one header can stand for both: what differs is what cutting sets anew.
    fn may_share(self, first: &[u8], next: &[u8], header_bytes: usize) -> bool {
        let equal = |from: usize, to: usize| first[from..to] == next[from..to];
        let (l3, l4) = (PLAIN_L3, self.l4);
        let below = match self.v6 {
            true => equal(0, l3 + ipv6::PAYLOAD_LENGTH) && equal(l3 + ipv6::NEXT_HEADER, l4),
            false => {
                equal(0, l3 + ipv4::TOTAL_LENGTH)
                    && equal(l3 + ipv4::FRAGMENT, l3 + ipv4::CHECKSUM)
                    && equal(l3 + ipv4::SOURCE, l4)
            }
        };
        if !below || !self.is_tcp {
            return below;
        }
        let flags = (first[l4 + tcp::FLAGS] ^ next[l4 + tcp::FLAGS]) & (tcp::ACK | tcp::ECE);
        flags == 0
            && equal(l4 + tcp::ACKNOWLEDGEMENT, l4 + tcp::FLAGS)
            && equal(l4 + tcp::FLAGS + 1, l4 + tcp::CHECKSUM)
            && equal(l4 + tcp::CHECKSUM + 2, header_bytes)
    }

    /// What a whole packet's checksum covers, but for its payload; with `payload` it is all ones.
    fn sum(self, head: &[u8], header_bytes: usize, payload_bytes: usize) -> u64 {
        let number = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        let transport_bytes = header_bytes - self.l4 + payload_bytes;
        pseudo_header(&head[self.addresses()], number, transport_bytes)
            + sum(&head[self.l4..header_bytes])
    }
}

/// Identifications of IPv4 packets that were glued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// There is only one packet yet, or they have none.
    Any,
    /// Each is the one before plus one, as cutting makes them.
    Count,
    /// All are equal. They mean nothing where fragmenting is forbidden (RFC 6864 section 4.1).
    Same,
}

/// A packet that others are glued to.
#[derive(Debug)]
struct Open {
    /// Where it is in the batch.
    at: usize,
    shape: Shape,
    first: Piece,
    /// Payload behind what lies in the first packet's head.
    tail: Option<Tail>,
    tail_bytes: usize,
    /// Payload of all so far.
    payload_bytes: usize,
    /// Packets so far.
    count: usize,
    numbers: Numbers,
    /// Of TCP: what comes next.
    sequence: u32,
    /// PSH and FIN of the last one.
    last_flags: u8,
    is_complete: bool,
}

impl Open {
    fn new(at: usize, shape: Shape, first: Piece, head: &[u8]) -> Open {
        Open {
            at,
            shape,
            first,
            tail: None,
            tail_bytes: 0,
            payload_bytes: first.payload_bytes,
            count: 1,
            numbers: Numbers::Any,
            sequence: sequence(head, shape).wrapping_add(first.payload_bytes as u32),
            last_flags: 0,
            is_complete: false,
        }
    }

    /// Copies a packet's payload behind what is there. False: it does not belong there, and nothing
    /// was changed.
    fn take(
        &mut self,
        batch: &[Packet],
        packet: &Packet,
        piece: &Piece,
        frames: &mut FramePool,
    ) -> bool {
        let (shape, first, own) = (self.shape, self.first, &batch[self.at]);
        let head = packet.head();
        let bytes = self.payload_bytes + piece.payload_bytes;
        let Some(numbers) = self.numbers_with(own.head(), head) else { return false };
        let fits = piece.header_bytes == first.header_bytes
            && piece.payload_bytes <= first.payload_bytes
            && !piece.begins
            && first.header_bytes - PLAIN_L3 + bytes <= L3_BYTES_MAX
            && (!shape.is_tcp || sequence(head, shape) == self.sequence)
            && shape.may_share(own.head(), head, first.header_bytes);
        if !fits || (self.tail.is_none() && !self.begin(own, frames)) {
            return false;
        }
        let Some(tail) = &mut self.tail else { return false };
        let end = self.tail_bytes + piece.payload_bytes;
        let Some(room) = tail.bytes_mut().get_mut(self.tail_bytes..end) else { return false };
        let payload_sum = append(frames.copier(), room, packet, piece.header_bytes);
        let total = payload_sum + shape.sum(head, piece.header_bytes, piece.payload_bytes);
        if !piece.is_partial && fold(total) != 0xffff {
            return false;
        }
        (self.tail_bytes, self.payload_bytes, self.numbers) = (end, bytes, numbers);
        self.count += 1;
        self.sequence = self.sequence.wrapping_add(piece.payload_bytes as u32);
        if shape.is_tcp {
            self.last_flags = head[shape.l4 + tcp::FLAGS] & (tcp::PSH | tcp::FIN);
        }
        self.is_complete = piece.ends || piece.payload_bytes < first.payload_bytes;
        true
    }

    /// Gets ready for a second packet: the first one's checksum is right, and there is a tail.
    fn begin(&mut self, own: &Packet, frames: &mut FramePool) -> bool {
        let (head, first) = (own.head(), self.first);
        let total = self.shape.sum(head, first.header_bytes, first.payload_bytes);
        if !first.is_partial && fold(total + sum_behind(own, first.header_bytes)) != 0xffff {
            return false;
        }
        let Some(mut tail) = frames.take_tail() else { return false };
        let own = own.tail();
        tail.bytes_mut()[..own.len()].copy_from_slice(own);
        (self.tail, self.tail_bytes) = (Some(tail), own.len());
        true
    }

    /// How identifications run with one more packet; `None`: as none do.
    fn numbers_with(&self, own: &[u8], head: &[u8]) -> Option<Numbers> {
        if self.shape.v6 {
            return Some(Numbers::Any);
        }
        let at = PLAIN_L3 + ipv4::IDENTIFICATION;
        let forbids = read_u16(own, PLAIN_L3 + ipv4::FRAGMENT) & ipv4::DONT_FRAGMENT != 0;
        let step = usize::from(read_u16(head, at).wrapping_sub(read_u16(own, at)));
        match self.numbers {
            Numbers::Any | Numbers::Count if step == self.count => Some(Numbers::Count),
            Numbers::Any | Numbers::Same if step == 0 && forbids => Some(Numbers::Same),
            _ => None,
        }
    }

    /// Makes it a super-frame, if anything was glued to it.
    fn close(self, batch: &mut [Packet], frames: &mut FramePool) {
        let Some(tail) = self.tail else { return };
        if self.count == 1 {
            return frames.give_tail(tail);
        }
        let (shape, packet) = (self.shape, &mut batch[self.at]);
        let payload_bytes = self.payload_bytes;
        let l3_bytes = (self.first.header_bytes - PLAIN_L3 + payload_bytes) as u16;
        let transport_bytes = (self.first.header_bytes - shape.l4 + payload_bytes) as u16;
        let head = packet.head_mut();
        match shape.v6 {
            true => {
                let length = l3_bytes - ipv6::HEADER_BYTES as u16;
                write_u16(head, PLAIN_L3 + ipv6::PAYLOAD_LENGTH, length);
            }
            false => {
                write_u16(head, PLAIN_L3 + ipv4::TOTAL_LENGTH, l3_bytes);
                write_u16(head, PLAIN_L3 + ipv4::CHECKSUM, 0);
                let checksum = !fold(sum(&head[PLAIN_L3..shape.l4]));
                write_u16(head, PLAIN_L3 + ipv4::CHECKSUM, checksum);
            }
        }
        let number = if shape.is_tcp { protocol::TCP } else { protocol::UDP };
        let addresses = &head[shape.addresses()];
        let partial = fold(pseudo_header(addresses, number, usize::from(transport_bytes)));
        let transport = &mut head[shape.l4..];
        let mut ecn = false;
        if shape.is_tcp {
            transport[tcp::FLAGS] |= self.last_flags;
            ecn = transport[tcp::FLAGS] & tcp::CWR != 0;
            write_u16(transport, tcp::CHECKSUM, partial);
        } else {
            write_u16(transport, udp::LENGTH, transport_bytes);
            write_u16(transport, udp::CHECKSUM, partial);
        }
        packet.meta.l3_bytes = u32::from(l3_bytes);
        if let Some(old) = packet.swap_tail(tail, self.tail_bytes) {
            frames.give_tail(old);
        }
        packet.set_offload(Offload::Gso {
            kind: match (shape.is_tcp, shape.v6) {
                (true, false) => GsoKind::TcpV4,
                (true, true) => GsoKind::TcpV6,
                (false, _) => GsoKind::Udp,
            },
            segment_bytes: self.first.payload_bytes as u16,
            start: shape.l4 as u16,
            ecn,
        });
    }
}

/// The sum of what follows headers. An odd number of header bytes there is not: all are multiples
/// of two.
fn sum_behind(packet: &Packet, header_bytes: usize) -> u64 {
    debug_assert!(header_bytes.is_multiple_of(2), "every header has an even length");
    let in_head = &packet.head()[header_bytes..];
    join(sum(in_head), in_head.len(), sum(packet.tail()))
}

/// Copies what follows a packet's headers into `room`, which has its length; returns the sum.
#[inline]
fn append(copier: Copier, room: &mut [u8], packet: &Packet, header_bytes: usize) -> u64 {
    let in_head = &packet.head()[header_bytes..];
    if packet.tail().is_empty() {
        return turned(copier(room, in_head));
    }
    let (first, second) = room.split_at_mut(in_head.len());
    let first = turned(copier(first, in_head));
    join(first, in_head.len(), turned(copier(second, packet.tail())))
}

/// Sequence number of TCP; 0 of UDP.
fn sequence(head: &[u8], shape: Shape) -> u32 {
    match shape.is_tcp {
        true => header_at::<4>(head, shape.l4 + tcp::SEQUENCE).map_or(0, |at| u32_at(at, 0)),
        false => 0,
    }
}

#[cfg(test)]
mod tests;
