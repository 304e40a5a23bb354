//! Fragments as bytes: where a fragment lies in its datagram, and the number that it leaves with.
//!
//! ```text
//! IPv4  [header, with identification, "more follow" and offset | part of the payload]
//! IPv6  [header | … | fragment header: next, 0, offset and "more follow", identification | part]
//! ```
//!
//! Offsets count units of eight bytes. Hard constraint: whatever a fragment says of itself, it is
//! checked here once, before anything is remembered of it.

use crate::counters::DropReason;
use crate::flow::Part;
use crate::packet::{Notes, Packet};
use crate::wire::checksum::{apply, delta};
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

/// Where the fragment header of an IPv6 packet starts.
pub(crate) fn fragment_header(packet: &Packet) -> Option<usize> {
    let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
    let mut next = *head.get(l3 + ipv6::NEXT_HEADER)?;
    let mut offset = l3 + ipv6::HEADER_BYTES;
    while next != ipv6::FRAGMENT {
        let header = header_at::<2>(head, offset)?;
        let unit = if next == ipv6::AUTHENTICATION { (4, 2) } else { (8, 1) };
        next = header[0];
        offset += (usize::from(header[1]) + unit.1) * unit.0;
    }
    Some(offset)
}
