//! Further addresses of an SCTP endpoint, in its INIT and INIT ACK, where its own is translated.
//!
//! A multi-homed endpoint lists its addresses when an association begins (RFC 9260 section 3.3.2).
//! Those of inside mean nothing outside: the other end would send to them, wait, and count paths as
//! failed. So where a packet's source is translated each listed address becomes padding (RFC 4820),
//! which a receiver passes over without a word; what is left is the source of the packet itself,
//! and the association has that one path. The one hard constraint: lengths stay, and the checksum
//! changes by difference, so one that was wrong stays wrong. What an endpoint adds later (RFC 5061)
//! is not looked at: LIMIT, whoever does so behind NAT names addresses that are not reached.

use crate::packet::{Offload, Packet};
use crate::wire::{crc32c, header_at, header_at_mut, raw_u32_at, sctp, u16_at};

/// Parameters that are looked at. An INIT of Linux has one per address and five others.
const PARAMETERS_MAX: usize = 64;

/// Bytes of an INIT or INIT ACK in front of its parameters, its chunk header included.
const FIXED_BYTES: usize = 20;

/// RFC 9260 section 3.3.2.1: an IPv4 address, an IPv6 address; and the host name of RFC 4960.
const ADDRESSES: [u16; 3] = [5, 6, 11];

/// RFC 4820: padding.
const PADDING: u16 = 0x8005;

/// Turns the addresses that a packet's first chunk lists into padding; returns how many.
pub(crate) fn conceal(packet: &mut Packet) -> usize {
    let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
    let end = l3 + packet.meta.l3_bytes as usize;
    let is_partial = packet.offload() != Offload::None;
    let head = packet.head_mut();
    let chunk_at = l4 + sctp::HEADER_BYTES;
    let Some(chunk) = header_at::<{ sctp::CHUNK_HEADER_BYTES }>(head, chunk_at) else { return 0 };
    if !matches!(chunk[0], sctp::INIT | sctp::INIT_ACK) {
        return 0;
    }
    let chunk_end = (chunk_at + usize::from(u16_at(chunk, 2))).min(end);
    let (mut at, mut count, mut changes) = (chunk_at + FIXED_BYTES, 0, 0);
    for _ in 0..PARAMETERS_MAX {
        if at + 4 > chunk_end {
            break;
        }
        let Some(parameter) = header_at_mut::<4>(head, at) else { break };
        let length = usize::from(u16_at(parameter, 2));
        if length < 4 {
            break;
        }
        if ADDRESSES.contains(&u16_at(parameter, 0)) {
            let before = *parameter;
            parameter[..2].copy_from_slice(&PADDING.to_be_bytes());
            let bits = std::array::from_fn(|byte| before[byte] ^ parameter[byte]);
            changes ^= crc32c::change(bits, end - (at + 4));
            count += 1;
        }
        at += length.next_multiple_of(4);
    }
    if count > 0
        && !is_partial
        && let Some(header) = header_at_mut::<{ sctp::HEADER_BYTES }>(head, l4)
    {
        let old = u32::from_le_bytes(raw_u32_at(header, sctp::CHECKSUM).to_ne_bytes());
        header[sctp::CHECKSUM..].copy_from_slice(&(old ^ changes).to_le_bytes());
    }
    count
}
