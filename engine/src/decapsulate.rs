//! Step 1c: a packet out of a tunnel: is it one, from whom, and what is in it.
//!
//! `[outer Ethernet | IP | UDP | VXLAN | inner Ethernet…]` becomes `[inner Ethernet…]`, which takes
//! the same single look-up as any other packet. Taken only from the VTEPs that the tables name;
//! reserved bits are not looked at (RFC 7348 section 5). ECN of both headers is combined by
//! RFC 6040. The one hard constraint: whatever the bytes are, nothing is read outside of the
//! packet. Not here: who the inner sender is.

mod known;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use self::known::{KnownTunnels, SOURCE};
use crate::counters::DropReason;
use crate::cut::sum_from;
use crate::id::MacAddress;
use crate::packet::{Offload, Packet};
use crate::tables::Vni;
use crate::tunnel::{OUTER_V4_BYTES, Origin, Sender, Tunnels};
use crate::wire::{
    checksum, ethernet, header_at, header_at_mut, ipv4, ipv6, protocol, u16_at, u32_at, u128_at,
    udp, vxlan,
};

const L3: usize = ethernet::HEADER_BYTES;
const L4_V4: usize = L3 + ipv4::HEADER_BYTES;

/// The sender of the packet before, whose tunnel is known: packets of one come together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Last(Option<(Sender, Origin)>);

/// What the outer IP header says.
struct Outer {
    source: IpAddr,
    l4: usize,
    /// Where the IP packet ends.
    end: usize,
    ecn: u8,
}

/// Takes a packet out of its tunnel. `Ok(None)`: it is in none, and as it was. An error: it claims
/// to be in one and is to be dropped.
#[inline]
pub(crate) fn decapsulate(
    packet: &mut Packet,
    tunnels: &Tunnels,
    own_mac: u64,
    last: &mut Last,
) -> Result<Option<Origin>, DropReason> {
    let Some(outer) = read_v4(packet, tunnels, own_mac) else {
        let Some(outer) = read_v6(packet, tunnels, own_mac) else { return Ok(None) };
        return open(packet, &outer, tunnels, last).map(Some);
    };
    open(packet, &outer, tunnels, last).map(Some)
}

/// The outer header of IPv4, if it is one and to a tunnel.
#[inline(always)]
fn read_v4(packet: &Packet, tunnels: &Tunnels, own_mac: u64) -> Option<Outer> {
    const L4: usize = L3 + ipv4::HEADER_BYTES;
    let (window, bytes) = (packet.window(), packet.len());
    if bytes < L4 + udp::HEADER_BYTES || u16_at(window, ethernet::TYPE) != ethernet::IPV4 {
        return None;
    }
    let header: &[u8; ipv4::HEADER_BYTES] = window[L3..].first_chunk()?;
    let is_plain = header[0] == 0x45
        && header[ipv4::PROTOCOL] == protocol::UDP
        && u16_at(header, ipv4::FRAGMENT) & !ipv4::DONT_FRAGMENT == 0;
    let destination = u32_at(header, ipv4::DESTINATION);
    if !is_plain
        || !tunnels.has_port(u16_at(window, L4 + 2))
        || !tunnels.has_local_v4(destination)
        || !is_to_us(packet, own_mac, Ipv4Addr::from_bits(destination).is_multicast())
        || checksum::fold(checksum::sum(header)) != 0xffff
    {
        return None;
    }
    Some(Outer {
        source: Ipv4Addr::from_bits(u32_at(header, ipv4::SOURCE)).into(),
        l4: L4,
        end: L3 + usize::from(u16_at(header, ipv4::TOTAL_LENGTH)),
        ecn: header[1] & 3,
    })
}

/// The same of IPv6.
fn read_v6(packet: &Packet, tunnels: &Tunnels, own_mac: u64) -> Option<Outer> {
    const L4: usize = L3 + ipv6::HEADER_BYTES;
    let (window, bytes) = (packet.window(), packet.len());
    if bytes < L4 + udp::HEADER_BYTES || u16_at(window, ethernet::TYPE) != ethernet::IPV6 {
        return None;
    }
    let header: &[u8; ipv6::HEADER_BYTES] = window[L3..].first_chunk()?;
    let destination = u128_at(header, ipv6::DESTINATION);
    let is_plain = header[0] >> 4 == 6 && header[ipv6::NEXT_HEADER] == protocol::UDP;
    if !is_plain
        || !tunnels.has_port(u16_at(window, L4 + 2))
        || !tunnels.has_local_v6(destination)
        || !is_to_us(packet, own_mac, Ipv6Addr::from_bits(destination).is_multicast())
    {
        return None;
    }
    Some(Outer {
        source: Ipv6Addr::from_bits(u128_at(header, ipv6::SOURCE)).into(),
        l4: L4,
        end: L4 + usize::from(u16_at(header, ipv6::PAYLOAD_LENGTH)),
        ecn: header[1] >> 4 & 3,
    })
}

#[inline(always)]
fn is_to_us(packet: &Packet, own_mac: u64, is_group: bool) -> bool {
    let to = packet.destination();
    to == own_mac || (is_group && MacAddress(to).is_group())
}

#[inline(always)]
fn open(
    packet: &mut Packet,
    outer: &Outer,
    tunnels: &Tunnels,
    last: &mut Last,
) -> Result<Origin, DropReason> {
    let Outer { source, l4, end, ecn } = *outer;
    let start = l4 + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
    let head = packet.head();
    let header = header_at::<{ udp::HEADER_BYTES + vxlan::HEADER_BYTES }>(head, l4);
    let header = header.ok_or(DropReason::OverlayMalformed)?;
    let udp_bytes = usize::from(u16_at(header, udp::LENGTH));
    let inner = head.len().min(end).saturating_sub(start);
    if end > packet.len() || l4 + udp_bytes != end || inner < ethernet::HEADER_BYTES {
        return Err(DropReason::OverlayMalformed);
    }
    if header[udp::HEADER_BYTES] & vxlan::FLAG_VNI == 0 {
        return Err(DropReason::OverlayMalformed);
    }
    let vni = Vni(u32_at(header, udp::HEADER_BYTES + vxlan::VNI) >> 8);
    let sender = Sender { vtep: source, vni, udp_port: u16_at(header, 2) };
    let sum = u16_at(header, udp::CHECKSUM);
    let origin = match last.0 {
        Some((known, origin)) if known == sender => origin,
        _ => find(sender, tunnels, last)?,
    };
    if end < packet.len() {
        packet.truncate(end);
    }
    if packet.offload() != Offload::None {
        take_offload(packet, l4, start)?;
    } else if sum != 0 && !sum_is_right(packet, l4, udp_bytes) {
        return Err(DropReason::OverlayChecksum);
    }
    packet.move_start(start as isize);
    if ecn != 0 {
        combine_ecn(packet, ecn)?;
    }
    Ok(origin)
}

#[inline(never)]
fn find(sender: Sender, tunnels: &Tunnels, last: &mut Last) -> Result<Origin, DropReason> {
    match tunnels.origin(sender) {
        Some(origin) => {
            last.0 = Some((sender, origin));
            Ok(origin)
        }
        None if tunnels.has_vni(sender.vni, sender.udp_port) => Err(DropReason::OverlayVtep),
        None => Err(DropReason::OverlayVni),
    }
}

/// True if the outer UDP checksum, which covers everything, is right.
#[inline(never)]
fn sum_is_right(packet: &Packet, l4: usize, udp_bytes: usize) -> bool {
    let from = if l4 == L3 + ipv4::HEADER_BYTES { L3 + ipv4::SOURCE } else { L3 + ipv6::SOURCE };
    let addresses = &packet.head()[from..l4];
    let pseudo = checksum::pseudo_header(addresses, protocol::UDP, udp_bytes);
    checksum::fold(pseudo + sum_from(packet, l4)) == 0xffff
}

/// Work that the sender left to us: of the outer checksum nothing is left to do, of the inner one
/// it stays what it was.
#[cold]
fn take_offload(packet: &mut Packet, l4: usize, inner: usize) -> Result<(), DropReason> {
    match packet.offload() {
        Offload::NeedsChecksum { start, .. } if usize::from(start) == l4 => {
            packet.set_offload(Offload::None);
            Ok(())
        }
        Offload::NeedsChecksum { start, offset } if usize::from(start) > inner => {
            packet.set_offload(Offload::NeedsChecksum { start: start - inner as u16, offset });
            Ok(())
        }
        Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 }
            if usize::from(outer_l4) == l4 && usize::from(start) > inner =>
        {
            let start = start - inner as u16;
            packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn });
            Ok(())
        }
        _ => Err(DropReason::MalformedOffload),
    }
}

/// RFC 6040 section 4.2: what the outer header says about congestion goes over to the inner one.
#[inline(always)]
pub(crate) fn combine_ecn(packet: &mut Packet, outer: u8) -> Result<(), DropReason> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let ethertype = u16_at(packet.window(), ethernet::TYPE);
    let head = packet.head_mut();
    let inner = match ethertype {
        ethernet::IPV4 if head.len() >= L3 + ipv4::HEADER_BYTES => head[L3 + 1] & 3,
        ethernet::IPV6 if head.len() >= L3 + ipv6::HEADER_BYTES => head[L3 + 1] >> 4 & 3,
        // What is no IP knows no congestion, and is not told of it.
        _ => return Ok(()),
    };
    let new = match (inner, outer) {
        (NOT_ECT, CE) => return Err(DropReason::OverlayEcn),
        (ECT_0 | ECT_1, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Ok(()),
    };
    match ethertype {
        ethernet::IPV4 => {
            let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(head, L3) else {
                return Ok(());
            };
            let old = [header[0], header[1]];
            header[1] = header[1] & !3 | new;
            let delta = checksum::delta(&old, &header[..2]);
            let sum = checksum::apply(u16_at(header, ipv4::CHECKSUM), delta);
            header[ipv4::CHECKSUM..ipv4::SOURCE].copy_from_slice(&sum.to_be_bytes());
        }
        _ => head[L3 + 1] = head[L3 + 1] & !0x30 | new << 4,
    }
    Ok(())
}
