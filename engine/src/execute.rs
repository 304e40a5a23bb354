//! Step 5: the one function that edits headers of a forwarded packet.
//!
//! It repeats a [`FlowAction`]: MAC addresses from the adjacency, TTL, addresses, ports, and the
//! checksums by difference (RFC 1624), so that a checksum that was wrong stays wrong and the
//! receiver sees it. It decides nothing: guards were checked, the packet is the flow's.

use crate::flow::{FlowAction, V4, V6};
use crate::neighbour::{Adjacency, Macs};
use crate::packet::{Notes, Offload, Packet, WINDOW_BYTES};
use crate::parse::{PLAIN_L3, PLAIN_L4_V4, PLAIN_L4_V6, PlainProtocol};
use crate::wire::{
    checksum, crc32c, header_at, header_at_mut, icmp, ipv4, ipv6, protocol, raw_u16_at, raw_u32_at,
    raw_u64_at, raw_u128_at, sctp, tcp, udp,
};

/// What lowering the TTL by one adds to the complement of the header checksum: `~m + m'` where the
/// word (TTL, protocol) is less by 0x0100.
pub(crate) const TTL_DELTA: u16 = 0xfeff;

/// An address family whose header the executor can edit.
pub(crate) trait Edit: crate::flow::Family {
    /// Where the transport header of a plain packet starts.
    const PLAIN_L4: usize;

    /// Writes addresses and TTL of the IP header at `l3`. False when the header is not there,
    /// which parsing excludes.
    fn edit_header(head: &mut [u8], l3: usize, action: &FlowAction<Self::Addresses>) -> bool;

    /// The TTL or hop limit.
    fn ttl(head: &[u8], l3: usize) -> u8;

    /// Takes back that a packet has passed a router.
    fn raise_ttl(head: &mut [u8], l3: usize);

    /// Addresses in wire order.
    fn bytes(addresses: Self::Addresses) -> AddressBytes;

    /// The delta of checksums where addresses change.
    fn delta(old: Self::Addresses, new: Self::Addresses) -> u16;

    /// The TTL or hop limit of a plain packet.
    fn ttl_plain(window: &[u8; WINDOW_BYTES]) -> u8;

    /// The transport protocol of a plain packet.
    fn protocol_plain(window: &[u8; WINDOW_BYTES]) -> u8;

    /// Addresses of a plain packet, as they are loaded.
    fn read_plain(window: &[u8; WINDOW_BYTES]) -> Self::Addresses;

    /// Both transport ports of a plain packet, as they are loaded.
    #[inline(always)]
    fn ports_plain(window: &[u8; WINDOW_BYTES]) -> u64 {
        u64::from(raw_u32_at(window, Self::PLAIN_L4))
    }

    /// Addresses of a packet, as they are loaded.
    fn read(head: &[u8], l3: usize) -> Option<Self::Addresses>;
}

/// Source and destination address in wire order, IPv4 padded with zeros.
pub(crate) type AddressBytes = [u8; 32];

impl Edit for V4 {
    const PLAIN_L4: usize = PLAIN_L4_V4;

    #[inline(always)]
    fn edit_header(head: &mut [u8], l3: usize, action: &FlowAction<u64>) -> bool {
        let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(head, l3) else {
            return false;
        };
        let checksum = checksum::apply(raw_u16_at(header, ipv4::CHECKSUM), action.header_delta);
        header[ipv4::TTL] = header[ipv4::TTL].wrapping_sub(1);
        header[ipv4::CHECKSUM..ipv4::SOURCE].copy_from_slice(&checksum.to_ne_bytes());
        header[ipv4::SOURCE..].copy_from_slice(&action.addresses.to_ne_bytes());
        true
    }

    #[inline(always)]
    fn ttl(head: &[u8], l3: usize) -> u8 {
        head.get(l3 + ipv4::TTL).copied().unwrap_or(0)
    }

    fn raise_ttl(head: &mut [u8], l3: usize) {
        let Some(header) = header_at_mut::<{ ipv4::HEADER_BYTES }>(head, l3) else { return };
        header[ipv4::TTL] = header[ipv4::TTL].wrapping_add(1);
        let old = raw_u16_at(header, ipv4::CHECKSUM);
        let checksum = checksum::apply(old, !TTL_DELTA.to_be());
        header[ipv4::CHECKSUM..ipv4::SOURCE].copy_from_slice(&checksum.to_ne_bytes());
    }

    #[inline(always)]
    fn ttl_plain(window: &[u8; WINDOW_BYTES]) -> u8 {
        window[PLAIN_L3 + ipv4::TTL]
    }

    #[inline(always)]
    fn protocol_plain(window: &[u8; WINDOW_BYTES]) -> u8 {
        window[PLAIN_L3 + ipv4::PROTOCOL]
    }

    #[inline(always)]
    fn read_plain(window: &[u8; WINDOW_BYTES]) -> u64 {
        raw_u64_at(window, PLAIN_L3 + ipv4::SOURCE)
    }

    fn bytes(addresses: u64) -> AddressBytes {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&addresses.to_be_bytes());
        bytes
    }

    #[inline]
    fn delta(old: u64, new: u64) -> u16 {
        checksum::delta_of_words(&old.to_be_bytes(), &new.to_be_bytes())
    }

    #[inline(always)]
    fn read(head: &[u8], l3: usize) -> Option<u64> {
        let header = header_at::<{ ipv4::HEADER_BYTES }>(head, l3)?;
        Some(raw_u64_at(header, ipv4::SOURCE))
    }
}

impl Edit for V6 {
    const PLAIN_L4: usize = PLAIN_L4_V6;

    #[inline(always)]
    fn edit_header(head: &mut [u8], l3: usize, action: &FlowAction<[u128; 2]>) -> bool {
        let Some(header) = header_at_mut::<{ ipv6::HEADER_BYTES }>(head, l3) else {
            return false;
        };
        let [source, destination] = action.addresses;
        header[ipv6::HOP_LIMIT] = header[ipv6::HOP_LIMIT].wrapping_sub(1);
        header[ipv6::SOURCE..ipv6::DESTINATION].copy_from_slice(&source.to_ne_bytes());
        header[ipv6::DESTINATION..].copy_from_slice(&destination.to_ne_bytes());
        true
    }

    #[inline(always)]
    fn ttl(head: &[u8], l3: usize) -> u8 {
        head.get(l3 + ipv6::HOP_LIMIT).copied().unwrap_or(0)
    }

    fn raise_ttl(head: &mut [u8], l3: usize) {
        if let Some(limit) = head.get_mut(l3 + ipv6::HOP_LIMIT) {
            *limit = limit.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn ttl_plain(window: &[u8; WINDOW_BYTES]) -> u8 {
        window[PLAIN_L3 + ipv6::HOP_LIMIT]
    }

    #[inline(always)]
    fn protocol_plain(window: &[u8; WINDOW_BYTES]) -> u8 {
        window[PLAIN_L3 + ipv6::NEXT_HEADER]
    }

    #[inline(always)]
    fn read_plain(window: &[u8; WINDOW_BYTES]) -> [u128; 2] {
        let at = |offset| raw_u128_at(window, PLAIN_L3 + offset);
        [at(ipv6::SOURCE), at(ipv6::DESTINATION)]
    }

    fn bytes([source, destination]: [u128; 2]) -> AddressBytes {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&source.to_be_bytes());
        bytes[16..].copy_from_slice(&destination.to_be_bytes());
        bytes
    }

    #[inline]
    fn delta(old: [u128; 2], new: [u128; 2]) -> u16 {
        let of =
            |end: usize| checksum::delta_of_words(&old[end].to_be_bytes(), &new[end].to_be_bytes());
        checksum::add(of(0), of(1))
    }

    #[inline(always)]
    fn read(head: &[u8], l3: usize) -> Option<[u128; 2]> {
        let header = header_at::<{ ipv6::HEADER_BYTES }>(head, l3)?;
        Some([raw_u128_at(header, ipv6::SOURCE), raw_u128_at(header, ipv6::DESTINATION)])
    }
}

/// Edits the packet as the action says. `with_transport` is false for a later fragment, which has
/// no transport header.
pub(crate) fn execute<F: Edit>(
    packet: &mut Packet,
    action: &FlowAction<F::Addresses>,
    adjacency: &Adjacency,
    with_transport: bool,
) {
    let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
    let (protocol, partial) = (packet.meta.protocol, packet.offload() != Offload::None);
    let transport_bytes = (packet.meta.l3_bytes as usize).saturating_sub(l4 - l3);
    let head = packet.head_mut();
    edit::<F>(head, l3, action, adjacency.macs());
    if !with_transport {
        return;
    }
    match protocol {
        protocol::SCTP => edit_sctp(head, l4, transport_bytes, action.ports, partial),
        _ => edit_transport(head, l4, protocol, action.ports, delta_of(action, partial)),
    }
}

/// True if the executor can give a packet these ports: a first fragment of SCTP does not say how
/// long the message is that its checksum covers.
pub(crate) fn can_change_ports(packet: &Packet, ports: u32) -> bool {
    let is_part = packet.meta.notes.any(Notes::FIRST_FRAGMENT);
    let old = header_at::<4>(packet.head(), usize::from(packet.meta.l4));
    !is_part
        || packet.meta.protocol != protocol::SCTP
        || old.is_some_and(|old| *old == ports.to_ne_bytes())
}

/// [`execute`] for a plain packet, whose headers are at fixed places: the same edits, the offsets
/// known to the compiler. Notes what a TCP segment acknowledges, as it is loaded.
#[inline(always)]
pub(crate) fn execute_plain<F: Edit>(
    window: &mut [u8; WINDOW_BYTES],
    partial: bool,
    action: &FlowAction<F::Addresses>,
    acknowledged: &mut u32,
    macs: Macs,
) {
    let protocol = match F::protocol_plain(window) {
        protocol::TCP => PlainProtocol::Tcp,
        _ => PlainProtocol::Udp,
    };
    execute_plain_of::<F>(window, protocol, partial, action, acknowledged, macs);
}

/// [`execute_plain`] for a packet whose protocol is known.
#[inline(always)]
pub(crate) fn execute_plain_of<F: Edit>(
    window: &mut [u8; WINDOW_BYTES],
    protocol: PlainProtocol,
    partial: bool,
    action: &FlowAction<F::Addresses>,
    acknowledged: &mut u32,
    macs: Macs,
) {
    let head = &mut window[..];
    edit::<F>(head, PLAIN_L3, action, macs);
    let delta = delta_of(action, partial);
    match protocol {
        PlainProtocol::Tcp => {
            if let Some(header) = header_at::<{ tcp::HEADER_BYTES }>(head, F::PLAIN_L4) {
                *acknowledged = raw_u32_at(header, tcp::ACKNOWLEDGEMENT);
            }
            edit_tcp(head, F::PLAIN_L4, action.ports, delta);
        }
        PlainProtocol::Udp => edit_udp(head, F::PLAIN_L4, action.ports, delta),
    }
}

#[inline(always)]
fn edit<F: Edit>(head: &mut [u8], l3: usize, action: &FlowAction<F::Addresses>, macs: Macs) {
    if let Some(bytes) = head.first_chunk_mut::<12>() {
        macs.store(bytes);
    }
    let edited = F::edit_header(head, l3, action);
    debug_assert!(edited, "parsing found the header inside the head");
}

#[inline(always)]
fn delta_of<A>(action: &FlowAction<A>, partial: bool) -> Delta {
    match partial {
        false => {
            Delta::Whole { inverse: action.transport_inverse, addresses: address_delta(action) }
        }
        // The field holds the pseudo-header's sum: ports are not part of it.
        true => Delta::Partial { addresses: address_delta(action) },
    }
}

/// What the change of addresses alone adds: the header's delta without the TTL's part.
#[inline(always)]
fn address_delta<A>(action: &FlowAction<A>) -> u16 {
    checksum::add(action.header_delta, !TTL_DELTA.to_be())
}

/// What to add to a transport checksum.
#[derive(Clone, Copy)]
enum Delta {
    /// The checksum is complete: the complement of what changes it, addresses included.
    Whole { inverse: u16, addresses: u16 },
    /// The field holds the sum of the pseudo-header, not complemented.
    Partial { addresses: u16 },
}

impl Delta {
    #[inline(always)]
    fn apply(self, checksum: u16, pseudo_header: bool) -> u16 {
        match self {
            Delta::Whole { inverse, .. } if pseudo_header => checksum::apply(checksum, !inverse),
            // Without the addresses' part: adding a complement subtracts.
            Delta::Whole { inverse, addresses } => {
                checksum::apply(checksum, checksum::add(!inverse, !addresses))
            }
            Delta::Partial { addresses } => checksum::add(checksum, addresses),
        }
    }
}

#[inline(always)]
fn edit_transport(head: &mut [u8], l4: usize, protocol: u8, ports: u32, delta: Delta) {
    match protocol {
        protocol::TCP => edit_tcp(head, l4, ports, delta),
        protocol::UDP => edit_udp(head, l4, ports, delta),
        protocol::ICMP | protocol::ICMPV6 => edit_icmp(head, l4, protocol, ports, delta),
        protocol::DCCP | protocol::UDP_LITE => edit_pseudo_header(head, l4, delta),
        _ => {}
    }
}

/// SCTP sums no addresses. While its checksum is not made yet the field has nothing to correct.
fn edit_sctp(head: &mut [u8], l4: usize, bytes: usize, ports: u32, partial: bool) {
    let Some(header) = header_at_mut::<{ sctp::HEADER_BYTES }>(head, l4) else { return };
    let changed = (raw_u32_at(header, 0) ^ ports).to_ne_bytes();
    if changed == [0; 4] {
        return;
    }
    header[..4].copy_from_slice(&ports.to_ne_bytes());
    if !partial {
        let old = u32::from_le_bytes(raw_u32_at(header, sctp::CHECKSUM).to_ne_bytes());
        let new = old ^ crc32c::change(changed, bytes.saturating_sub(changed.len()));
        header[sctp::CHECKSUM..].copy_from_slice(&new.to_le_bytes());
    }
}

/// DCCP and UDP-Lite: no port is translated, but their checksum, at the place of UDP's, covers the
/// addresses.
fn edit_pseudo_header(head: &mut [u8], l4: usize, delta: Delta) {
    let Some(header) = header_at_mut::<{ udp::HEADER_BYTES }>(head, l4) else { return };
    let checksum = delta.apply(raw_u16_at(header, udp::CHECKSUM), true);
    header[udp::CHECKSUM..].copy_from_slice(&checksum.to_ne_bytes());
}

#[inline(always)]
fn edit_tcp(head: &mut [u8], l4: usize, ports: u32, delta: Delta) {
    let Some(header) = header_at_mut::<{ tcp::HEADER_BYTES }>(head, l4) else { return };
    header[..4].copy_from_slice(&ports.to_ne_bytes());
    let checksum = delta.apply(raw_u16_at(header, tcp::CHECKSUM), true);
    header[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&checksum.to_ne_bytes());
}

#[inline(always)]
fn edit_udp(head: &mut [u8], l4: usize, ports: u32, delta: Delta) {
    let Some(header) = header_at_mut::<{ udp::HEADER_BYTES }>(head, l4) else { return };
    header[..4].copy_from_slice(&ports.to_ne_bytes());
    let checksum = match (raw_u16_at(header, udp::CHECKSUM), delta) {
        // RFC 768: 0 says that there is none.
        (0, Delta::Whole { .. }) => return,
        // A sum of 0 is sent as its other form: adding the complement gives that by itself,
        // because one's complement numbers that are not both 0 never add up to 0.
        (old, Delta::Whole { inverse, .. }) => checksum::add(old, inverse),
        (old, Delta::Partial { addresses }) => checksum::add(old, addresses),
    };
    header[udp::CHECKSUM..].copy_from_slice(&checksum.to_ne_bytes());
}

#[inline]
fn edit_icmp(head: &mut [u8], l4: usize, protocol: u8, ports: u32, delta: Delta) {
    let Some(header) = header_at_mut::<{ icmp::HEADER_BYTES }>(head, l4) else { return };
    let ports = u32::from_be(ports);
    let identifier = match (protocol, header[0]) {
        (protocol::ICMP, icmp::ECHO_REQUEST) | (_, icmp::V6_ECHO_REQUEST) => (ports >> 16) as u16,
        (protocol::ICMP, icmp::ECHO_REPLY) | (_, icmp::V6_ECHO_REPLY) => ports as u16,
        _ => return,
    };
    // ICMPv6 sums a pseudo-header (RFC 4443 section 2.3), ICMP does not.
    let checksum = delta.apply(raw_u16_at(header, icmp::CHECKSUM), protocol == protocol::ICMPV6);
    header[icmp::CHECKSUM..icmp::IDENTIFIER].copy_from_slice(&checksum.to_ne_bytes());
    header[icmp::IDENTIFIER..icmp::IDENTIFIER + 2].copy_from_slice(&identifier.to_be_bytes());
}

/// True if a packet is small enough for an MTU: itself, or each segment of a super-frame.
#[inline(always)]
pub(crate) fn fits(packet: &Packet, mtu: u16) -> bool {
    packet.meta.l3_bytes <= u32::from(mtu) || segments_fit(packet, mtu)
}

/// [`fits`] for a plain packet, whose trailer is cut off.
#[inline(always)]
pub(crate) fn fits_plain(packet: &Packet, mtu: u16) -> bool {
    packet.len() <= usize::from(mtu) + PLAIN_L3 || segments_fit(packet, mtu)
}

#[cold]
fn segments_fit(packet: &Packet, mtu: u16) -> bool {
    let Offload::Gso { segment_bytes, start, .. } = packet.offload() else { return false };
    let l4 = usize::from(start);
    let transport_bytes = match packet.meta.protocol {
        protocol::TCP => match packet.head().get(l4 + tcp::DATA_OFFSET) {
            Some(offset) => usize::from(offset >> 4) * 4,
            None => return false,
        },
        _ => udp::HEADER_BYTES,
    };
    let headers = l4.saturating_sub(usize::from(packet.meta.l3)) + transport_bytes;
    headers + usize::from(segment_bytes) <= usize::from(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{ActionKind, AdjacencyId, Family};
    use crate::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn pool() -> FramePool {
        let chunks = heap_frames(2);
        FramePool::new(chunks, heap_tails(1), FrameBalancer::new(2, 1))
    }

    fn adjacency() -> Adjacency {
        Adjacency { macs: [7; 12], port: crate::PortId(0), resolved: true }
    }

    fn check_v4(bytes: &[u8]) {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let (source, destination) = (header.source, header.destination);
        match sliced.transport.unwrap() {
            TransportSlice::Udp(udp) => {
                let sum =
                    udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload());
                assert_eq!(udp.checksum(), sum.unwrap());
            }
            TransportSlice::Tcp(tcp) => {
                let sum =
                    tcp.to_header().calc_checksum_ipv4_raw(source, destination, tcp.payload());
                assert_eq!(tcp.checksum(), sum.unwrap());
            }
            _ => panic!("unexpected transport"),
        }
    }

    fn action(old: (u64, u32), new: (u64, u32)) -> FlowAction<u64> {
        let delta = checksum::delta(&old.0.to_be_bytes(), &new.0.to_be_bytes());
        let port_delta = checksum::delta(&old.1.to_be_bytes(), &new.1.to_be_bytes());
        FlowAction {
            addresses: V4::loaded(new.0),
            ports: new.1.to_be(),
            adjacency: AdjacencyId(0),
            header_delta: checksum::add(delta, TTL_DELTA).to_be(),
            transport_inverse: !checksum::add(delta, port_delta).to_be(),
            mtu: 1500,
            kind: ActionKind::Forward,
            worker: 0,
        }
    }

    proptest! {
        #[test]
        fn a_translated_packet_has_right_checksums(
            old in any::<u64>(), new in any::<u64>(), new_ports in any::<u32>(),
            ports in any::<(u16, u16)>(), payload in prop::collection::vec(any::<u8>(), 0..40),
            tcp in any::<bool>(), ttl in 1u8..,
        ) {
            let address = |bits: u64| ((bits >> 32) as u32).to_be_bytes();
            let (source, destination) = (address(old), (old as u32).to_be_bytes());
            let mut bytes = Vec::new();
            let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, ttl);
            match tcp {
                true => ip.tcp(ports.0, ports.1, 5, 6).write(&mut bytes, &payload).unwrap(),
                false => ip.udp(ports.0, ports.1).write(&mut bytes, &payload).unwrap(),
            }
            let mut frames = pool();
            let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
            crate::parse::behind_tags(&mut packet, 0).unwrap();
            crate::parse::ipv4(&mut packet).unwrap();
            let old_ports = u32::from(ports.0) << 16 | u32::from(ports.1);
            let action = action((old, old_ports), (new, new_ports));
            let mut plain = packet.copy(&mut frames).unwrap();
            execute::<V4>(&mut packet, &action, &adjacency(), true);
            let mut acknowledged = 0;
            let window = plain.window_mut();
            execute_plain::<V4>(window, false, &action, &mut acknowledged, adjacency().macs());
            prop_assert_eq!(acknowledged, 0);
            prop_assert_eq!(plain.head(), packet.head());
            check_v4(packet.head());
            prop_assert_eq!(&packet.head()[..12], &[7; 12]);
            prop_assert_eq!(packet.head()[22], ttl - 1);
            prop_assert_eq!(&packet.head()[34..38], &new_ports.to_be_bytes());
        }
    }

    proptest! {
        #[test]
        fn sctp_ports_change_with_their_checksum_and_a_wrong_one_stays_wrong(
            ports: u32, new_ports: u32, chunks in prop::collection::vec(any::<u8>(), 4..900),
            wrong: u32,
        ) {
            let mut message = [&ports.to_be_bytes()[..], &[1; 4], &[0; 4], &chunks].concat();
            let checksum = crc32c::whole(&[&message]) ^ wrong;
            message[8..12].copy_from_slice(&checksum.to_le_bytes());
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 9);
            let number = etherparse::IpNumber(protocol::SCTP);
            builder.write(&mut bytes, number, &message).unwrap();
            let mut packet = Packet::copy_of(&bytes, &mut pool()).unwrap();
            crate::parse::behind_tags(&mut packet, 0).unwrap();
            crate::parse::ipv4(&mut packet).unwrap();
            let addresses = (0x0101_0101_0202_0202, 0x0a00_0001_0202_0202);
            let action = action((addresses.0, ports), (addresses.1, new_ports));
            execute::<V4>(&mut packet, &action, &adjacency(), true);
            let mut after = packet.head()[34..].to_vec();
            prop_assert_eq!(&after[..4], &new_ports.to_be_bytes());
            let found = u32::from_le_bytes(*after[8..].first_chunk().unwrap());
            after[8..12].fill(0);
            prop_assert_eq!(found ^ wrong, crc32c::whole(&[&after]));
        }
    }

    #[test]
    fn a_udp_packet_without_checksum_stays_without() {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 9).udp(1, 2);
        builder.write(&mut bytes, b"x").unwrap();
        bytes[40..42].copy_from_slice(&[0, 0]);
        let mut packet = Packet::copy_of(&bytes, &mut pool()).unwrap();
        crate::parse::behind_tags(&mut packet, 0).unwrap();
        crate::parse::ipv4(&mut packet).unwrap();
        execute::<V4>(&mut packet, &action((1, 2), (3, 4)), &adjacency(), true);
        assert_eq!(&packet.head()[40..42], &[0, 0]);
    }
}
