//! Step 5 between families: an IPv6 packet becomes an IPv4 packet and back (RFC 7915).
//!
//! ```text
//! [Ethernet | IPv6 40 | … | transport …]  ->        [Ethernet | IPv4 20 | transport …]
//! [Ethernet | IPv4 20 | transport …]  ->  [Ethernet | IPv6 40 | fragment header | transport …]
//! ```
//!
//! What the packet carries stays where it lies; the header in front of it is built anew, into the
//! headroom where it is longer. Like [`execute`](crate::execute) it decides nothing: the flow's
//! action says addresses and ports. Hard constraint: what cannot be said in the other family is a
//! drop reason, never a wrong packet. Not here: ICMP errors, which are made anew (see `quote`).

use std::net::IpAddr;

use crate::counters::DropReason;
use crate::cut;
use crate::fragmentation;
use crate::packet::{GsoKind, Notes, Offload, Packet};
use crate::parse::{PLAIN_L3, PLAIN_L4_V4};
use crate::wire::checksum::{add, apply, delta, fold, pseudo_header, sum};
use crate::wire::{ethernet, header_at, header_at_mut, ipv4, ipv6, protocol, tcp, u16_at, udp};

/// Bytes by which the header of IPv6 is longer.
pub(crate) const HEADER_GROWTH: u16 = (ipv6::HEADER_BYTES - ipv4::HEADER_BYTES) as u16;

/// Bytes of a fragment header.
const FRAGMENT_BYTES: usize = 8;

/// RFC 7915 section 5.1: an IPv4 packet up to this size may be fragmented further on, because its
/// sender, which was promised 1,280 bytes of IPv6, does not look for the path's MTU.
const MAY_FRAGMENT_BYTES_MAX: usize = 1_260;

/// What a packet leaves with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewHeader {
    /// Both of the new family.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: (u16, u16),
    /// Destination and source MAC address.
    pub(crate) macs: [u8; 12],
    /// For what has or gets an identification.
    pub(crate) identification: u32,
}

/// What is read of the old header.
struct Old {
    /// In wire order, IPv4 padded with zeros.
    addresses: [u8; 32],
    service: u8,
    hops: u8,
    /// Offset in units of eight bytes, and whether others follow.
    fragment: Option<(u16, bool)>,
    dont_fragment: bool,
}

/// Turns a packet into one of the other family. `largest`: of IPv4 that becomes IPv6, the largest
/// packet that needs no fragment header. On an error the packet is as good as dropped.
pub(crate) fn translate(
    packet: &mut Packet,
    new: &NewHeader,
    largest: u16,
) -> Result<(), DropReason> {
    let is_v6 = packet.meta.notes.any(Notes::V6);
    let old = if is_v6 { read_v6(packet)? } else { read_v4(packet)? };
    match (is_v6, new.source.is_ipv6(), new.destination.is_ipv6()) {
        (true, false, false) | (false, true, true) => {}
        // A packet that only looks like one of the flow's.
        _ => return Err(DropReason::Martian),
    }
    // Zeros add nothing, so the shorter addresses may stand in the longer ones' place.
    let change = delta(&old.addresses, &octets(new));
    if !packet.meta.notes.any(Notes::LATER_FRAGMENT) {
        set_transport(packet, new, change, is_v6)?;
    }
    match is_v6 {
        true => to_v4(packet, new, &old),
        false => to_v6(packet, new, &old, largest),
    }
    Ok(())
}

/// The new addresses in wire order, IPv4 padded with zeros.
fn octets(new: &NewHeader) -> [u8; 32] {
    let mut octets = [0; 32];
    match (new.source, new.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            octets[..4].copy_from_slice(&source.octets());
            octets[4..8].copy_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            octets[..16].copy_from_slice(&source.octets());
            octets[16..].copy_from_slice(&destination.octets());
        }
        _ => {}
    }
    octets
}

fn read_v4(packet: &Packet) -> Result<Old, DropReason> {
    let l3 = usize::from(packet.meta.l3);
    let header = header_at::<{ ipv4::HEADER_BYTES }>(packet.head(), l3);
    let header = header.ok_or(DropReason::Truncated)?;
    let word = u16_at(header, ipv4::FRAGMENT);
    let (offset, more) = (word & ipv4::FRAGMENT_OFFSET, word & ipv4::MORE_FRAGMENTS != 0);
    let mut addresses = [0; 32];
    addresses[..8].copy_from_slice(&header[ipv4::SOURCE..]);
    Ok(Old {
        addresses,
        service: header[1],
        hops: header[ipv4::TTL],
        fragment: (offset > 0 || more).then_some((offset, more)),
        dont_fragment: word & ipv4::DONT_FRAGMENT != 0,
    })
}

fn read_v6(packet: &Packet) -> Result<Old, DropReason> {
    let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
    let header = header_at::<{ ipv6::HEADER_BYTES }>(packet.head(), l3);
    let header = header.ok_or(DropReason::Truncated)?;
    let mut addresses = [0; 32];
    addresses.copy_from_slice(&header[ipv6::SOURCE..]);
    let fragment = match packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT) {
        false => None,
        true => {
            let at = fragmentation::fragment_header(packet).ok_or(DropReason::Truncated)?;
            let extension = header_at::<8>(packet.head(), at).ok_or(DropReason::Truncated)?;
            // What stands behind the fragment header is counted by offsets and cannot be left out.
            if at + FRAGMENT_BYTES != l4 {
                return Err(DropReason::ProtocolNotTranslated);
            }
            let word = u16_at(extension, 2);
            Some((word >> 3, word & 1 != 0))
        }
    };
    Ok(Old {
        addresses,
        service: header[0] << 4 | header[1] >> 4,
        hops: header[ipv6::HOP_LIMIT],
        fragment,
        dont_fragment: true,
    })
}

/// Writes the ports and moves the transport checksum to the new addresses.
fn set_transport(
    packet: &mut Packet,
    new: &NewHeader,
    change: u16,
    is_v6: bool,
) -> Result<(), DropReason> {
    let l4 = usize::from(packet.meta.l4);
    let at = match packet.meta.protocol {
        protocol::TCP => tcp::CHECKSUM,
        protocol::UDP => udp::CHECKSUM,
        // LIMIT: SCTP needs its CRC over the whole packet, and nobody publishes it across families.
        _ => return Err(DropReason::ProtocolNotTranslated),
    };
    let is_whole = packet.offload() == Offload::None;
    let ports = u32::from(new.ports.0) << 16 | u32::from(new.ports.1);
    let head = packet.head_mut();
    let field = header_at_mut::<4>(head, l4).ok_or(DropReason::Truncated)?;
    let ports_change = delta(&*field, &ports.to_be_bytes());
    *field = ports.to_be_bytes();
    let is_udp = at == udp::CHECKSUM;
    let field = header_at_mut::<2>(head, l4 + at).ok_or(DropReason::Truncated)?;
    let stored = u16::from_be_bytes(*field);
    let changed = match (is_whole, is_udp, stored) {
        // A partial one holds the pseudo-header's sum, of which ports are no part.
        (false, ..) => add(stored, change),
        // RFC 768: none. IPv6 wants one (RFC 8200 section 8.1).
        (true, true, 0) if is_v6 => 0,
        (true, true, 0) => return give_checksum(packet, new),
        (true, true, _) => add(stored, !add(change, ports_change)),
        (true, false, _) => apply(stored, add(change, ports_change)),
    };
    *field = changed.to_be_bytes();
    Ok(())
}

/// Gives a UDP datagram the checksum that it needs in IPv6. Of a fragmented one it cannot be known
/// (RFC 7915 section 4.5).
fn give_checksum(packet: &mut Packet, new: &NewHeader) -> Result<(), DropReason> {
    if packet.meta.notes.any(Notes::FIRST_FRAGMENT) {
        return Err(DropReason::ProtocolNotTranslated);
    }
    let l4 = usize::from(packet.meta.l4);
    let partial = pseudo_header(&octets(new), protocol::UDP, packet.len() - l4);
    let field = header_at_mut::<2>(packet.head_mut(), l4 + udp::CHECKSUM);
    *field.ok_or(DropReason::Truncated)? = fold(partial).to_be_bytes();
    let offset = udp::CHECKSUM as u16;
    packet.set_offload(Offload::NeedsChecksum { start: l4 as u16, offset });
    cut::complete_checksum(packet)
}

fn to_v4(packet: &mut Packet, new: &NewHeader, old: &Old) {
    let carried = carried_bytes(packet);
    let total = ipv4::HEADER_BYTES + carried;
    let word = match old.fragment {
        Some((offset, more)) => offset | if more { ipv4::MORE_FRAGMENTS } else { 0 },
        None if total <= MAY_FRAGMENT_BYTES_MAX => 0,
        None => ipv4::DONT_FRAGMENT,
    };
    let number = packet.meta.protocol;
    let mut header = [0; ipv4::HEADER_BYTES];
    header[0] = 0x45;
    header[1] = old.service;
    put(&mut header, ipv4::TOTAL_LENGTH, &(total as u16).to_be_bytes());
    put(&mut header, ipv4::IDENTIFICATION, &(new.identification as u16).to_be_bytes());
    put(&mut header, ipv4::FRAGMENT, &word.to_be_bytes());
    header[ipv4::TTL] = old.hops.saturating_sub(1);
    header[ipv4::PROTOCOL] = number;
    put(&mut header, ipv4::SOURCE, &octets(new)[..8]);
    let checksum = !fold(sum(&header));
    put(&mut header, ipv4::CHECKSUM, &checksum.to_be_bytes());
    rebuild(packet, new, ethernet::IPV4, &header);
    packet.meta.l3_bytes = total as u32;
    packet.meta.notes.0 &= !(Notes::V6 | Notes::OPTIONS);
}

fn to_v6(packet: &mut Packet, new: &NewHeader, old: &Old, largest: u16) {
    let carried = carried_bytes(packet);
    // What may be fragmented and does not fit gets its fragment header here, and is cut later.
    let is_large = ipv4::HEADER_BYTES + carried > usize::from(largest);
    let is_cut = is_large && !old.dont_fragment && packet.offload() == Offload::None;
    let fragment = old.fragment.or(is_cut.then_some((0, false)));
    let extension = if fragment.is_some() { FRAGMENT_BYTES } else { 0 };
    let number = packet.meta.protocol;
    let mut header = [0; ipv6::HEADER_BYTES + FRAGMENT_BYTES];
    header[0] = 0x60 | old.service >> 4;
    header[1] = old.service << 4;
    put(&mut header, ipv6::PAYLOAD_LENGTH, &((carried + extension) as u16).to_be_bytes());
    header[ipv6::NEXT_HEADER] = number;
    header[ipv6::HOP_LIMIT] = old.hops.saturating_sub(1);
    put(&mut header, ipv6::SOURCE, &octets(new));
    if let Some((offset, more)) = fragment {
        header[ipv6::NEXT_HEADER] = ipv6::FRAGMENT;
        header[ipv6::HEADER_BYTES] = number;
        let word = offset << 3 | u16::from(more);
        put(&mut header, ipv6::HEADER_BYTES + 2, &word.to_be_bytes());
        put(&mut header, ipv6::HEADER_BYTES + 4, &new.identification.to_be_bytes());
    }
    let header = &header[..ipv6::HEADER_BYTES + extension];
    rebuild(packet, new, ethernet::IPV6, header);
    packet.meta.l3_bytes = (header.len() + carried) as u32;
    packet.meta.notes.0 &= !Notes::OPTIONS;
    packet.meta.notes.0 |= Notes::V6;
}

/// Bytes of the transport header and what it carries.
fn carried_bytes(packet: &Packet) -> usize {
    let headers = usize::from(packet.meta.l4) - usize::from(packet.meta.l3);
    (packet.meta.l3_bytes as usize).saturating_sub(headers)
}

/// Puts a new Ethernet and IP header in front of the transport header, in the place of the old
/// ones.
fn rebuild(packet: &mut Packet, new: &NewHeader, ethertype: u16, header: &[u8]) {
    let l4 = usize::from(packet.meta.l4);
    let front = PLAIN_L3 + header.len();
    packet.move_start(l4 as isize - front as isize);
    let head = packet.head_mut();
    head[..12].copy_from_slice(&new.macs);
    put(head, ethernet::TYPE, &ethertype.to_be_bytes());
    put(head, PLAIN_L3, header);
    (packet.meta.l3, packet.meta.l4) = (PLAIN_L3 as u16, front as u16);
    let offload = match packet.offload() {
        Offload::None | Offload::Tunnelled { .. } => return,
        Offload::NeedsChecksum { offset, .. } => {
            Offload::NeedsChecksum { start: front as u16, offset }
        }
        Offload::Gso { kind, segment_bytes, ecn, .. } => {
            let kind = match kind {
                GsoKind::Udp => kind,
                _ if front == PLAIN_L4_V4 => GsoKind::TcpV4,
                _ => GsoKind::TcpV6,
            };
            Offload::Gso { kind, segment_bytes, start: front as u16, ecn }
        }
    };
    packet.set_offload(offload);
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
