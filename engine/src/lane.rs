//! VLAN tags, and MAC addresses that are shared: what a frame is like on the wire of an uplink.
//!
//! ```text
//! inside   [Ethernet: member's MAC | IP …]
//! the wire [Ethernet: uplink's MAC, if it is shared | tag 4, if there is one | IP …]
//! ```
//!
//! A *lane* is one VLAN of an uplink's link, or what has no tag. Frames come off the wire before
//! anything else looks at them, and onto it when all else is done, as with tunnels. Where members
//! share the uplink's MAC address, ARP and ND say so too. The one hard constraint: whatever the
//! bytes are, nothing is read or written outside of the packet, and a wrong checksum stays wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::{Offload, Packet};
use crate::tables::{Between, Network, Tables, VlanTag};
use crate::wire::{
    arp, checksum, ethernet, header_at, header_at_mut, icmp, ipv4, ipv6, protocol, u16_at, u32_at,
    u128_at,
};

const L3: usize = ethernet::HEADER_BYTES;
/// Where a tagged frame has its tag's value, and which bits of it are the VLAN's number.
const TAG_VALUE: usize = ethernet::TYPE + 2;
const TAG_NUMBER: u16 = 0x0fff;

/// A part of an uplink's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) network: NetworkId,
    pub(crate) trunk: PortId,
    /// The uplink's port.
    pub(crate) uplink: PortId,
    /// The uplink's MAC address.
    pub(crate) uplink_mac: MacAddress,
    pub(crate) tag: Option<VlanTag>,
    pub(crate) shares_mac: bool,
    pub(crate) between: Between,
}

impl Lane {
    /// The lane that a network is; `None`: it is none.
    pub(crate) fn of(network: &Network, tables: &Tables) -> Option<Lane> {
        let direct = network.direct.as_ref()?;
        let uplink = tables.uplink(direct.uplink)?;
        Some(Lane {
            network: network.id,
            trunk: direct.trunk,
            uplink: uplink.port,
            uplink_mac: uplink.mac,
            tag: direct.tag,
            shares_mac: direct.shares_mac,
            between: direct.between,
        })
    }
}

/// The number in a frame's first tag; `None`: it has none. A service tag has no lane.
#[inline(always)]
pub(crate) fn tag_of(packet: &Packet) -> Option<Result<u16, ()>> {
    let window = packet.window();
    match u16_at(window, ethernet::TYPE) {
        ethernet::VLAN if packet.head_bytes() >= L3 + ethernet::TAG_BYTES => {
            Some(Ok(u16_at(window, TAG_VALUE) & TAG_NUMBER))
        }
        ethernet::VLAN | ethernet::SERVICE_VLAN => Some(Err(())),
        _ => None,
    }
}

/// Takes the first tag off.
pub(crate) fn pop_tag(packet: &mut Packet) {
    let macs: [u8; ethernet::TYPE] = *packet.window().first_chunk().expect("a window is longer");
    packet.move_start(ethernet::TAG_BYTES as isize);
    packet.window_mut()[..ethernet::TYPE].copy_from_slice(&macs);
    shift_offload(packet, -(ethernet::TAG_BYTES as i16));
}

/// Puts a tag in front of all others.
pub(crate) fn push_tag(packet: &mut Packet, tag: VlanTag) {
    let macs: [u8; ethernet::TYPE] = *packet.window().first_chunk().expect("a window is longer");
    packet.move_start(-(ethernet::TAG_BYTES as isize));
    let window = packet.window_mut();
    window[..ethernet::TYPE].copy_from_slice(&macs);
    window[ethernet::TYPE..TAG_VALUE].copy_from_slice(&ethernet::VLAN.to_be_bytes());
    window[TAG_VALUE..TAG_VALUE + 2].copy_from_slice(&tag.0.to_be_bytes());
    packet.meta.l3 += ethernet::TAG_BYTES as u16;
    shift_offload(packet, ethernet::TAG_BYTES as i16);
}

/// What an offload names moves with the header that it is in.
fn shift_offload(packet: &mut Packet, by: i16) {
    let moved = match packet.offload() {
        Offload::None => return,
        Offload::NeedsChecksum { start, offset } => {
            Offload::NeedsChecksum { start: start.saturating_add_signed(by), offset }
        }
        Offload::Gso { kind, segment_bytes, start, ecn } => {
            Offload::Gso { kind, segment_bytes, start: start.saturating_add_signed(by), ecn }
        }
        Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 } => {
            let (start, outer_l4) =
                (start.saturating_add_signed(by), outer_l4.saturating_add_signed(by as i8));
            Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 }
        }
    };
    packet.set_offload(moved);
}

/// Whom an untagged frame is from and for, by IP: of ARP the sender and the target.
pub(crate) fn ends_of(packet: &Packet) -> Option<(IpAddr, IpAddr)> {
    let (window, bytes) = (packet.window(), packet.head_bytes());
    let v4 = |at: usize| IpAddr::V4(Ipv4Addr::from_bits(u32_at(window, at)));
    match u16_at(window, ethernet::TYPE) {
        ethernet::IPV4 if bytes >= L3 + ipv4::HEADER_BYTES => {
            Some((v4(L3 + ipv4::SOURCE), v4(L3 + ipv4::DESTINATION)))
        }
        ethernet::ARP if bytes >= L3 + arp::BYTES => {
            Some((v4(L3 + arp::SENDER_IP), v4(L3 + arp::TARGET_IP)))
        }
        ethernet::IPV6 if bytes >= L3 + ipv6::HEADER_BYTES => {
            let header: &[u8; ipv6::HEADER_BYTES] = header_at(window, L3)?;
            let v6 = |at: usize| IpAddr::V6(Ipv6Addr::from_bits(u128_at(header, at)));
            Some((v6(ipv6::SOURCE), v6(ipv6::DESTINATION)))
        }
        _ => None,
    }
}

/// True for ARP and for what may be ND: who is asked for one of the gateway's addresses.
pub(crate) fn may_be_discovery(packet: &Packet) -> bool {
    let window = packet.window();
    match u16_at(window, ethernet::TYPE) {
        ethernet::ARP => true,
        ethernet::IPV6 => {
            matches!(window[L3 + ipv6::NEXT_HEADER], protocol::ICMPV6 | 0)
        }
        _ => false,
    }
}

/// Sets the destination of a frame: off the wire, the member that it turned out to be for.
pub(crate) fn set_destination(packet: &mut Packet, mac: MacAddress) {
    packet.window_mut()[..6].copy_from_slice(&mac.bytes());
}

fn set_source(packet: &mut Packet, mac: MacAddress) {
    packet.window_mut()[6..12].copy_from_slice(&mac.bytes());
}

/// Has an untagged frame say that it is from this MAC address: in its Ethernet header, and where
/// ARP or ND repeat whose it was.
pub(crate) fn speak_as(packet: &mut Packet, own: MacAddress) {
    let member = packet.source();
    set_source(packet, own);
    match u16_at(packet.window(), ethernet::TYPE) {
        ethernet::ARP => {
            let message = header_at_mut::<{ arp::BYTES }>(packet.head_mut(), L3);
            let sender = message.map(|message| &mut message[arp::SENDER_MAC..arp::SENDER_IP]);
            if let Some(sender) = sender.filter(|sender| **sender == MacAddress(member).bytes()) {
                sender.copy_from_slice(&own.bytes());
            }
        }
        ethernet::IPV6 if is_whole_icmp(packet) => {
            share_in_discovery(packet.head_mut(), MacAddress(member), own);
        }
        _ => {}
    }
}

/// True for ICMPv6 whose checksum is no work left to us.
fn is_whole_icmp(packet: &Packet) -> bool {
    packet.window()[L3 + ipv6::NEXT_HEADER] == protocol::ICMPV6 && packet.offload() == Offload::None
}

/// The link-layer address options of ND (RFC 4861 section 4.6.1), with the checksum kept as right
/// or wrong as it was.
fn share_in_discovery(head: &mut [u8], member: MacAddress, own: MacAddress) {
    const L4: usize = L3 + ipv6::HEADER_BYTES;
    /// The length of a message before its options; of other kinds there is none to be changed.
    fn options_of(kind: u8) -> Option<usize> {
        match kind {
            icmp::V6_ROUTER_SOLICITATION => Some(8),
            icmp::V6_ROUTER_ADVERTISEMENT => Some(16),
            icmp::V6_NEIGHBOUR_SOLICITATION | icmp::V6_NEIGHBOUR_ADVERTISEMENT => Some(24),
            _ => None,
        }
    }
    let Some(options) = head.get(L4).copied().and_then(options_of) else { return };
    let mut at = L4 + options;
    while let Some(&[kind, length]) = header_at::<2>(head, at) {
        if length == 0 {
            return;
        }
        let is_address = matches!(kind, 1 | 2) && length == 1;
        if is_address && head.get(at + 2..at + 8) == Some(&member.bytes()) {
            let delta = checksum::delta(&member.bytes(), &own.bytes());
            head[at + 2..at + 8].copy_from_slice(&own.bytes());
            if let Some(field) = header_at_mut::<2>(head, L4 + icmp::CHECKSUM) {
                *field = checksum::apply(u16::from_be_bytes(*field), delta).to_be_bytes();
            }
        }
        at += usize::from(length) * 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames};
    use crate::reply;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn pool() -> FramePool {
        FramePool::new(heap_frames(4), Vec::new(), FrameBalancer::new(4, 0))
    }

    const MEMBER: MacAddress = MacAddress(0x0242_c000_0232);
    const UPLINK: MacAddress = MacAddress(0x0242_c000_020a);

    #[test]
    fn a_tag_that_is_pushed_is_read_and_popped_again() {
        let mut frames = pool();
        let mut bytes = Vec::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        builder.udp(1, 2).write(&mut bytes, &[7; 20]).unwrap();
        let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
        packet.set_offload(Offload::NeedsChecksum { start: 34, offset: 6 });
        assert_eq!(tag_of(&packet), None);
        push_tag(&mut packet, VlanTag(100));
        assert_eq!(tag_of(&packet), Some(Ok(100)));
        assert_eq!(packet.offload(), Offload::NeedsChecksum { start: 38, offset: 6 });
        let tagged = packet.to_vec();
        let read = etherparse::SlicedPacket::from_ethernet(&tagged).unwrap();
        assert_eq!(read.vlan_ids().first().map(|id| id.value()), Some(100));
        pop_tag(&mut packet);
        assert_eq!(packet.to_vec(), bytes);
        assert_eq!(packet.offload(), Offload::NeedsChecksum { start: 34, offset: 6 });
    }

    #[test]
    fn arp_of_a_member_that_shares_says_the_uplinks_address() {
        let mut frames = pool();
        let own = [192, 0, 2, 50].into();
        let mut packet = reply::gratuitous_arp(own, MEMBER, &mut frames).unwrap();
        speak_as(&mut packet, UPLINK);
        let bytes = packet.to_vec();
        assert_eq!(bytes[6..12], UPLINK.bytes());
        assert_eq!(bytes[L3 + arp::SENDER_MAC..L3 + arp::SENDER_IP], UPLINK.bytes());
        assert_eq!(bytes[L3 + arp::SENDER_IP..L3 + arp::SENDER_IP + 4], [192, 0, 2, 50]);
    }

    #[test]
    fn neighbour_discovery_of_a_member_that_shares_has_a_right_checksum() {
        let mut frames = pool();
        let own = "2001:db8::50".parse().unwrap();
        let packet = reply::unsolicited_advertisement(own, MEMBER, false, &mut frames);
        let mut packet = packet.unwrap();
        speak_as(&mut packet, UPLINK);
        let bytes = packet.to_vec();
        let (addresses, message) = (&bytes[L3 + 8..L3 + 40], &bytes[L3 + 40..]);
        let pseudo = checksum::pseudo_header(addresses, protocol::ICMPV6, message.len());
        assert_eq!(checksum::fold(pseudo + checksum::sum(message)), 0xffff);
        assert_eq!(message[26..32], UPLINK.bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_go_onto_the_wire_and_come_off_it(
            bytes in prop::collection::vec(any::<u8>(), 14..200), tag in 1u16..4095,
        ) {
            let mut frames = pool();
            let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
            let _ = (ends_of(&packet), may_be_discovery(&packet));
            speak_as(&mut packet, UPLINK);
            prop_assert_eq!(packet.source(), UPLINK.0);
            let before = packet.to_vec();
            push_tag(&mut packet, VlanTag(tag));
            prop_assert_eq!(tag_of(&packet), Some(Ok(tag)));
            pop_tag(&mut packet);
            prop_assert_eq!(packet.to_vec(), before);
        }
    }
}
