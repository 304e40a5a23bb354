//! Step 5 for ICMP errors: the packet that an error quotes, found and turned back.
//!
//! `[IP | ICMP header 8 | quoted IP header, its transport header or a part of it, …]`
//!
//! An error comes against the direction of the packet that it is about, and quotes it as it left
//! the gateway. Whoever sent it must read his own packet: addresses, ports and checksums of the
//! quote are set back, those of the error itself too. Checksums move by difference, so what was
//! right stays right, as far as it is quoted (RFC 5508 REQ-4, REQ-5). The one hard constraint: the
//! quote is the word of a stranger; every offset is checked, and nothing is decided here.

use std::net::IpAddr;

use crate::counters::DropReason;
use crate::cut;
use crate::execute::Edit;
use crate::packet::{Notes, Offload, Packet};
use crate::wire::checksum::{add, apply, delta, fold, pseudo_header, sum};
use crate::wire::{header_at, header_at_mut, icmp, ipv4, ipv6, protocol, tcp, u16_at, udp};

/// IPv6 extension headers of a quoted packet that are followed, as many as of any packet.
const EXTENSION_HEADERS_MAX: usize = 8;

/// Bytes of the transport header that every error quotes (RFC 792); ports are in there.
const TRANSPORT_BYTES_MIN: usize = 8;

/// A quoted packet: where its headers are and what tells its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Start of its IP header; counts from the error's Ethernet header.
    l3: usize,
    /// Start of its transport header.
    l4: usize,
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

/// An address and a port of a packet on its way through the gateway.
pub(crate) type Socket = (IpAddr, u16);

/// True if the checksum of an ICMP message is right (RFC 5508 REQ-3). What its sender left to us
/// is finished first.
pub(crate) fn is_intact(packet: &mut Packet) -> bool {
    if packet.offload() != Offload::None && cut::complete_checksum(packet).is_err() {
        return false;
    }
    let l4 = usize::from(packet.meta.l4);
    fold(cut::sum_from(packet, l4) + pseudo_sum(packet)) == 0xffff
}

/// The sum of the pseudo-header of a packet with an ICMP message; ICMP of IPv4 has none.
fn pseudo_sum(packet: &Packet) -> u64 {
    if !packet.meta.notes.any(Notes::V6) {
        return 0;
    }
    let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
    match header_at::<32>(packet.head(), l3 + ipv6::SOURCE) {
        Some(addresses) => pseudo_header(addresses, protocol::ICMPV6, packet.len() - l4),
        None => 0,
    }
}

impl Quote {
    /// Finds the quoted packet in an ICMP error. The reason, where it is none that could be ours:
    /// cut short, wrong in itself, or a later fragment.
    pub(crate) fn read<F: Edit>(packet: &Packet) -> Result<Quote, DropReason> {
        let head = packet.head();
        let l3 = usize::from(packet.meta.l4) + icmp::HEADER_BYTES;
        let is_v6 = packet.meta.notes.any(Notes::V6);
        let found = if is_v6 { locate_v6(head, l3) } else { locate_v4(head, l3) };
        let (l4, protocol) = found?;
        let addresses = F::read(head, l3).ok_or(DropReason::IcmpErrorMalformed)?;
        if head.len() < l4 + TRANSPORT_BYTES_MIN {
            return Err(DropReason::IcmpErrorMalformed);
        }
        let (source, destination) = F::unpack(F::loaded(addresses));
        Ok(Quote { l3, l4, protocol, source, destination })
    }

    /// Start of the quoted IP header.
    pub(crate) fn l3(&self) -> usize {
        self.l3
    }

    /// Start of the quoted transport header.
    pub(crate) fn l4(&self) -> usize {
        self.l4
    }

    /// Sets the quote and the error around it back: the quoted packet went from `old` to … and is
    /// shown as `new`, the error goes from `source` to the new source.
    pub(crate) fn turn_back<F: Edit>(
        &self,
        packet: &mut Packet,
        new: (Socket, Socket),
        source: IpAddr,
    ) {
        let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
        let is_v6 = packet.meta.notes.any(Notes::V6);
        let ((new_source, source_port), (new_destination, destination_port)) = new;
        let head = packet.head_mut();
        lower_hops(head, l3, is_v6);
        readdress::<F>(head, l3, source, new_source);
        let change = readdress::<F>(head, self.l3, new_source, new_destination);
        if let Some(transport) = head.get_mut(self.l4..) {
            set_ports(transport, self.protocol, (source_port, destination_port), change);
        }
        // The message's own checksum is made anew: it was found right, and is right again.
        let partial = fold(pseudo_sum(packet));
        if let Some(header) = header_at_mut::<{ icmp::HEADER_BYTES }>(packet.head_mut(), l4) {
            header[icmp::CHECKSUM..icmp::IDENTIFIER].copy_from_slice(&partial.to_be_bytes());
        }
        let offset = icmp::CHECKSUM as u16;
        packet.set_offload(Offload::NeedsChecksum { start: l4 as u16, offset });
        let finished = cut::complete_checksum(packet);
        debug_assert!(finished.is_ok(), "the header lies inside the head");
    }
}

/// Writes the ports of a quoted transport header, or the identifier of a quoted echo, and corrects
/// its checksum as far as it is there. `change`: of the addresses.
pub(crate) fn set_ports(transport: &mut [u8], protocol: u8, ports: (u16, u16), change: u16) {
    let (place, value): (usize, [u8; 4]) = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let both = u32::from(ports.0) << 16 | u32::from(ports.1);
            (0, both.to_be_bytes())
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let Some(&header) = header_at::<8>(transport, 0) else { return };
            let identifier = match (protocol, header[0]) {
                (protocol::ICMP, icmp::ECHO_REQUEST) | (_, icmp::V6_ECHO_REQUEST) => ports.0,
                (protocol::ICMP, icmp::ECHO_REPLY) | (_, icmp::V6_ECHO_REPLY) => ports.1,
                _ => u16_at(&header, icmp::IDENTIFIER),
            };
            let sequence = u16_at(&header, icmp::IDENTIFIER + 2);
            let word = u32::from(identifier) << 16 | u32::from(sequence);
            (icmp::IDENTIFIER, word.to_be_bytes())
        }
        _ => return,
    };
    let Some(field) = header_at_mut::<4>(transport, place) else { return };
    let ports_change = delta(&*field, &value);
    *field = value;
    let (at, change) = match protocol {
        protocol::TCP => (tcp::CHECKSUM, add(change, ports_change)),
        protocol::UDP => (udp::CHECKSUM, add(change, ports_change)),
        // ICMP sums no addresses, ICMPv6 does.
        protocol::ICMP => (icmp::CHECKSUM, ports_change),
        protocol::ICMPV6 => (icmp::CHECKSUM, add(change, ports_change)),
        // LIMIT: the CRC of a quoted SCTP packet stays as it was sent. Receivers go by the
        // verification tag (RFC 9260 section 10); set it right when the whole is quoted.
        _ => return,
    };
    let Some(field) = header_at_mut::<2>(transport, at) else { return };
    let old = u16::from_be_bytes(*field);
    let new = match protocol {
        // RFC 768: 0 says that there is none; adding never gives it (see `execute`).
        protocol::UDP if old == 0 => 0,
        protocol::UDP => add(old, !change),
        _ => apply(old, change),
    };
    *field = new.to_be_bytes();
}

/// Where a quoted IPv4 packet has its transport header, and which.
fn locate_v4(head: &[u8], l3: usize) -> Result<(usize, u8), DropReason> {
    let header = header_at::<{ ipv4::HEADER_BYTES }>(head, l3);
    let header = header.ok_or(DropReason::IcmpErrorMalformed)?;
    // RFC 5508 REQ-3 b: options are passed over.
    let header_bytes = usize::from(header[0] & 15) * 4;
    let whole = head.get(l3..l3 + header_bytes).ok_or(DropReason::IcmpErrorMalformed)?;
    let right = header[0] >> 4 == 4
        && header_bytes >= ipv4::HEADER_BYTES
        && usize::from(u16_at(header, ipv4::TOTAL_LENGTH)) >= header_bytes
        // RFC 5508 REQ-3 a.
        && fold(sum(whole)) == 0xffff;
    if !right {
        return Err(DropReason::IcmpErrorMalformed);
    }
    if u16_at(header, ipv4::FRAGMENT) & ipv4::FRAGMENT_OFFSET != 0 {
        return Err(DropReason::IcmpError);
    }
    Ok((l3 + header_bytes, header[ipv4::PROTOCOL]))
}

/// The same for IPv6.
fn locate_v6(head: &[u8], l3: usize) -> Result<(usize, u8), DropReason> {
    let header = header_at::<{ ipv6::HEADER_BYTES }>(head, l3);
    let header = header.filter(|header| header[0] >> 4 == 6);
    let mut next = header.ok_or(DropReason::IcmpErrorMalformed)?[ipv6::NEXT_HEADER];
    let mut at = l3 + ipv6::HEADER_BYTES;
    for _ in 0..EXTENSION_HEADERS_MAX {
        let bytes = |length: u8| match next {
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS | ipv6::MOBILITY => {
                Some((usize::from(length) + 1) * 8)
            }
            ipv6::FRAGMENT => Some(8),
            ipv6::AUTHENTICATION => Some((usize::from(length) + 2) * 4),
            _ => None,
        };
        let header = header_at::<8>(head, at).ok_or(DropReason::IcmpErrorMalformed)?;
        let Some(bytes) = bytes(header[1]) else { break };
        if next == ipv6::FRAGMENT && u16_at(header, 2) & 0xfff8 != 0 {
            return Err(DropReason::IcmpError);
        }
        next = header[0];
        at += bytes;
    }
    Ok((at, next))
}

/// One hop less, with the checksum of IPv4 corrected.
fn lower_hops(head: &mut [u8], l3: usize, is_v6: bool) {
    if is_v6 {
        if let Some(hops) = head.get_mut(l3 + ipv6::HOP_LIMIT) {
            *hops = hops.saturating_sub(1);
        }
        return;
    }
    let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(head, l3) else { return };
    let old = [header[ipv4::TTL], header[ipv4::PROTOCOL]];
    let new = [old[0].saturating_sub(1), old[1]];
    header[ipv4::TTL] = new[0];
    correct(header, delta(&old, &new));
}

/// Corrects the checksum of an IPv4 header.
fn correct(header: &mut [u8; ipv4::HEADER_BYTES], change: u16) {
    let checksum = apply(u16_at(header, ipv4::CHECKSUM), change);
    header[ipv4::CHECKSUM..ipv4::SOURCE].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes the addresses of an IP header and corrects its checksum; returns what the change adds to
/// the complement of any checksum that covers them.
fn readdress<F: Edit>(head: &mut [u8], l3: usize, source: IpAddr, destination: IpAddr) -> u16 {
    let Some(old) = F::read(head, l3) else { return 0 };
    let (old, new) = (F::loaded(old), F::pack(source, destination));
    let (new_bytes, change) = (F::bytes(new), F::delta(old, new));
    if destination.is_ipv4() {
        if let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(head, l3) {
            header[ipv4::SOURCE..].copy_from_slice(&new_bytes[..8]);
            correct(header, change);
        }
    } else if let Some(addresses) = header_at_mut::<32>(head, l3 + ipv6::SOURCE) {
        *addresses = new_bytes;
    }
    change
}
