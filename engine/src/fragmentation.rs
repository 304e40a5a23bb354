//! Fragments as bytes: where a fragment lies in its datagram, and the number that it leaves with.
//!
//! ```text
//! IPv4  [header, with identification, "more follow" and offset | part of the payload]
//! IPv6  [header | … | fragment header: next, 0, offset and "more follow", identification | part]
//! ```
//!
//! Offsets count units of eight bytes. Hard constraint: whatever a fragment says of itself, it is
//! checked here once, before anything is remembered of it.

use arrayvec::ArrayVec;

use crate::copier;
use crate::counters::DropReason;
use crate::cut;
use crate::flow::Part;
use crate::frame::FramePool;
use crate::packet::{Notes, Packet};
use crate::wire::checksum::{apply, delta, fold, sum};
use crate::wire::{header_at, header_at_mut, ipv4, ipv6, protocol, tcp, u16_at, u32_at};

/// Largest payload of a datagram that its lengths can say.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The part of its datagram that a fragment is.
pub(crate) fn part_of(packet: &Packet) -> Result<Part, DropReason> {
    let (word, unit_shift, more_bit, payload) = if packet.meta.notes.any(Notes::V6) {
        let at = fragment_header(packet).ok_or(DropReason::Truncated)?;
        let header = header_at::<8>(packet.head(), at).ok_or(DropReason::Truncated)?;
        (u16_at(header, 2), 3, 1, at + 8)
    } else {
        let l3 = usize::from(packet.meta.l3);
        let header = header_at::<{ ipv4::HEADER_BYTES }>(packet.head(), l3);
        let word = u16_at(header.ok_or(DropReason::Truncated)?, ipv4::FRAGMENT);
        let header_bytes = usize::from(packet.meta.l4) - l3;
        (word, 0, ipv4::MORE_FRAGMENTS, l3 + header_bytes)
    };
    let units = match unit_shift {
        0 => word & ipv4::FRAGMENT_OFFSET,
        shift => word >> shift,
    };
    let end = usize::from(packet.meta.l3) + packet.meta.l3_bytes as usize;
    let bytes = end.saturating_sub(payload);
    let (offset, more) = (usize::from(units) * 8, word & more_bit != 0);
    // RFC 8200 section 4.5; RFC 791 cuts in units of eight bytes too.
    let is_odd = bytes == 0 || (more && !bytes.is_multiple_of(8));
    if is_odd || offset + bytes > DATAGRAM_BYTES_MAX {
        return Err(DropReason::MalformedIp);
    }
    // RFC 1858 section 3.2.2, RFC 3128: no later fragment holds a part of the TCP header.
    let in_header = units > 0 && offset < tcp::HEADER_BYTES;
    if in_header && packet.meta.protocol == protocol::TCP {
        return Err(DropReason::FragmentTiny);
    }
    Ok(Part { start: units, end: (offset + bytes).div_ceil(8) as u16, more })
}

/// The identification of a fragment's datagram.
pub(crate) fn identification(packet: &Packet) -> Option<u32> {
    if packet.meta.notes.any(Notes::V6) {
        let at = fragment_header(packet)?;
        return Some(u32_at(header_at::<4>(packet.head(), at + 4)?, 0));
    }
    let at = usize::from(packet.meta.l3) + ipv4::IDENTIFICATION;
    Some(u32::from(u16_at(header_at::<2>(packet.head(), at)?, 0)))
}

/// Gives a fragment another identification.
pub(crate) fn set_identification(packet: &mut Packet, new: u32) {
    if packet.meta.notes.any(Notes::V6) {
        let Some(at) = fragment_header(packet) else { return };
        if let Some(field) = header_at_mut::<4>(packet.head_mut(), at + 4) {
            *field = new.to_be_bytes();
        }
        return;
    }
    let l3 = usize::from(packet.meta.l3);
    let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(packet.head_mut(), l3) else {
        return;
    };
    let (old, new) = (u16_at(header, ipv4::IDENTIFICATION).to_be_bytes(), new as u16);
    let change = delta(&old, &new.to_be_bytes());
    let checksum = apply(u16_at(header, ipv4::CHECKSUM), change);
    header[ipv4::IDENTIFICATION..ipv4::FRAGMENT].copy_from_slice(&new.to_be_bytes());
    header[ipv4::CHECKSUM..ipv4::SOURCE].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the fragment header of an IPv6 packet starts, if it has one.
pub(crate) fn fragment_header(packet: &Packet) -> Option<usize> {
    let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
    let mut next = *head.get(l3 + ipv6::NEXT_HEADER)?;
    let mut offset = l3 + ipv6::HEADER_BYTES;
    loop {
        let unit = match next {
            ipv6::FRAGMENT => return Some(offset),
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS | ipv6::MOBILITY => (8, 1),
            ipv6::AUTHENTICATION => (4, 2),
            _ => return None,
        };
        let header = header_at::<2>(head, offset)?;
        next = header[0];
        offset += (usize::from(header[1]) + unit.1) * unit.0;
    }
}

/// Cuts a packet into fragments of at most `mtu` bytes and gives each to `emit`, in order. It is
/// IPv4, or IPv6 with a fragment header; what was a fragment is cut further. Its frames go back to
/// the pool, also when it cannot be cut.
pub(crate) fn split(
    mut packet: Packet,
    mtu: u16,
    frames: &mut FramePool,
    emit: &mut dyn FnMut(Packet, &mut FramePool),
) -> Result<(), DropReason> {
    let result = cut::complete_checksum(&mut packet)
        .and_then(|()| Pieces::read(&packet, mtu).ok_or(DropReason::CutFailed))
        .and_then(|pieces| pieces.emit(&packet, frames, emit));
    packet.recycle(frames);
    result
}

/// Longest headers of a fragment: Ethernet and IPv4 with all options, or IPv6 with one extension.
const HEADERS_BYTES_MAX: usize = 14 + 60;

/// How a packet is cut.
struct Pieces {
    is_v6: bool,
    l3: usize,
    /// Where its payload starts.
    payload: usize,
    payload_bytes: usize,
    /// Bytes of every piece but the last.
    step: usize,
    /// Of the packet itself, in units of eight bytes.
    offset: u16,
    more: bool,
    /// Headers of all pieces but the first.
    later: ArrayVec<u8, HEADERS_BYTES_MAX>,
}

impl Pieces {
    fn read(packet: &Packet, mtu: u16) -> Option<Pieces> {
        let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
        let is_v6 = packet.meta.notes.any(Notes::V6);
        let (payload, later) = if is_v6 {
            let payload = fragment_header(packet)? + 8;
            (payload, head.get(..payload)?.try_into().ok()?)
        } else {
            let payload = usize::from(packet.meta.l4);
            (payload, later_v4_headers(head.get(..payload)?, l3)?)
        };
        let (offset, more) = match is_v6 {
            true => {
                let word = u16_at(header_at::<2>(head, payload - 6)?, 0);
                (word >> 3, word & 1 != 0)
            }
            false => {
                let word = u16_at(header_at::<2>(head, l3 + ipv4::FRAGMENT)?, 0);
                (word & ipv4::FRAGMENT_OFFSET, word & ipv4::MORE_FRAGMENTS != 0)
            }
        };
        let step = usize::from(mtu).checked_sub(payload - l3)? & !7;
        let payload_bytes = (l3 + packet.meta.l3_bytes as usize).checked_sub(payload)?;
        let in_reach = usize::from(offset) * 8 + payload_bytes <= DATAGRAM_BYTES_MAX;
        (step >= 8 && in_reach && payload_bytes > 0).then_some(Pieces {
            is_v6,
            l3,
            payload,
            payload_bytes,
            step,
            offset,
            more,
            later,
        })
    }

    fn emit(
        &self,
        packet: &Packet,
        frames: &mut FramePool,
        emit: &mut dyn FnMut(Packet, &mut FramePool),
    ) -> Result<(), DropReason> {
        let (first, rest) = packet.head().split_at(self.payload);
        let mut payload = cut::Payload::new(rest, packet.tail(), copier::unsummed);
        for at in (0..self.payload_bytes).step_by(self.step) {
            let bytes = self.step.min(self.payload_bytes - at);
            let headers = if at == 0 { first } else { &self.later };
            let copied = cut::copy(
                cut::Headers { bytes: headers, window: None },
                &mut payload,
                bytes,
                frames,
            );
            let (mut piece, _) = copied.ok_or(DropReason::NoFrame)?;
            piece.meta = packet.meta;
            let more = self.more || at + bytes < self.payload_bytes;
            self.set_headers(&mut piece, headers.len(), (at, bytes), more);
            emit(piece, frames);
        }
        Ok(())
    }

    fn set_headers(
        &self,
        piece: &mut Packet,
        headers: usize,
        (at, bytes): (usize, usize),
        more: bool,
    ) {
        let units = self.offset + (at / 8) as u16;
        let l3_bytes = headers - self.l3 + bytes;
        piece.meta.l4 = headers as u16;
        piece.meta.l3_bytes = l3_bytes as u32;
        piece.meta.notes.0 &= !(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT);
        piece.meta.notes.0 |=
            if units == 0 { Notes::FIRST_FRAGMENT } else { Notes::LATER_FRAGMENT };
        let (is_v6, l3) = (self.is_v6, self.l3);
        let mut put = |at: usize, value: u16| {
            if let Some(field) = header_at_mut::<2>(piece.head_mut(), at) {
                *field = value.to_be_bytes();
            }
        };
        if is_v6 {
            put(l3 + ipv6::PAYLOAD_LENGTH, (l3_bytes - ipv6::HEADER_BYTES) as u16);
            put(headers - 6, units << 3 | u16::from(more));
            return;
        }
        put(l3 + ipv4::TOTAL_LENGTH, l3_bytes as u16);
        put(l3 + ipv4::FRAGMENT, units | if more { ipv4::MORE_FRAGMENTS } else { 0 });
        put(l3 + ipv4::CHECKSUM, 0);
        let checksum = !fold(sum(&piece.head()[l3..headers]));
        if let Some(field) = header_at_mut::<2>(piece.head_mut(), l3 + ipv4::CHECKSUM) {
            *field = checksum.to_be_bytes();
        }
    }
}

/// The headers of a later fragment: of the options only those that say so are repeated (RFC 791
/// section 3.1, "copied").
fn later_v4_headers(first: &[u8], l3: usize) -> Option<ArrayVec<u8, HEADERS_BYTES_MAX>> {
    const COPIED: u8 = 0x80;
    let (fixed, mut options) = first.split_at_checked(l3 + ipv4::HEADER_BYTES)?;
    let mut headers: ArrayVec<u8, HEADERS_BYTES_MAX> = fixed.try_into().ok()?;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (0, _) => break,
            (1, rest) => rest,
            (kind, [length, ..]) => {
                let option = options.split_at_checked(usize::from(*length).max(2))?;
                if kind & COPIED != 0 {
                    headers.try_extend_from_slice(option.0).ok()?;
                }
                option.1
            }
            _ => return None,
        };
    }
    while !(headers.len() - l3).is_multiple_of(4) {
        headers.try_push(0).ok()?;
    }
    headers[l3] = 0x40 | ((headers.len() - l3) / 4) as u8;
    Some(headers)
}

/// True for an IPv4 packet that may be fragmented on its way.
pub(crate) fn may_split(packet: &Packet) -> bool {
    let at = usize::from(packet.meta.l3) + ipv4::FRAGMENT;
    let word = header_at::<2>(packet.head(), at).map_or(ipv4::DONT_FRAGMENT, |at| u16_at(at, 0));
    !packet.meta.notes.any(Notes::V6) && word & ipv4::DONT_FRAGMENT == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, heap_frames, heap_tails};
    use etherparse::{Ipv4Header, PacketBuilder};
    use proptest::prelude::*;

    fn pool() -> FramePool {
        FramePool::new(heap_frames(128), heap_tails(4), FrameBalancer::new(128, 4))
    }

    fn parsed(bytes: &[u8], frames: &mut FramePool) -> Packet {
        let mut packet = Packet::copy_of(bytes, frames).unwrap();
        packet.meta.l3 = 14;
        crate::parse::ipv4(&mut packet).unwrap();
        packet
    }

    /// The pieces as bytes.
    fn pieces(packet: Packet, mtu: u16, frames: &mut FramePool) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        split(packet, mtu, frames, &mut |piece, frames| {
            all.push(piece.to_vec());
            piece.recycle(frames);
        })
        .unwrap();
        all
    }

    #[test]
    fn options_are_repeated_if_they_say_so() {
        let mut frames = pool();
        // Router alert, which is copied, and a timestamp, which is not.
        let options = [148, 4, 0, 0, 68, 4, 5, 0];
        let mut bytes = vec![4; 14];
        bytes[12..].copy_from_slice(&[8, 0]);
        bytes.extend([0x47, 0, 0, 0, 0, 9, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(options);
        bytes.extend([0, 1, 0, 2, 0, 72, 0, 0]);
        bytes.extend([7; 64]);
        let total = (bytes.len() as u16 - 14).to_be_bytes();
        bytes[16..18].copy_from_slice(&total);
        let checksum = !fold(sum(&bytes[14..42]));
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        let all = pieces(parsed(&bytes, &mut frames), 76, &mut frames);
        let options_of = |piece: &[u8]| piece[34..14 + usize::from(piece[14] & 15) * 4].to_vec();
        assert_eq!(all.len(), 2);
        assert_eq!(options_of(&all[0]), options);
        assert_eq!(options_of(&all[1]), options[..4]);
    }

    proptest! {
        #[test]
        fn pieces_fit_are_right_and_make_the_whole(
            payload in prop::collection::vec(any::<u8>(), 1..9_000), mtu in 68u16..2_000,
        ) {
            let mut frames = pool();
            let mut bytes = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
                .udp(1, 2)
                .write(&mut bytes, &payload)
                .unwrap();
            // The builder sets "don't fragment", which nobody who calls asks about.
            let whole = bytes[34..].to_vec();
            let packet = parsed(&bytes, &mut frames);
            if whole.len() / usize::from((mtu - 20) & !7) > 100 {
                packet.recycle(&mut frames);
                return Ok(());
            }
            let all = pieces(packet, mtu, &mut frames);
            let mut joined = Vec::new();
            for (index, piece) in all.iter().enumerate() {
                prop_assert!(piece.len() <= 14 + usize::from(mtu));
                let header = Ipv4Header::from_slice(&piece[14..]).unwrap().0;
                prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                prop_assert_eq!(usize::from(header.total_len) + 14, piece.len());
                prop_assert_eq!(usize::from(header.fragment_offset.value()) * 8, joined.len());
                prop_assert_eq!(header.more_fragments, index + 1 < all.len());
                joined.extend_from_slice(&piece[34..]);
            }
            prop_assert_eq!(joined, whole);
            prop_assert_eq!(frames.count(), (128, 4));
        }
    }
}
