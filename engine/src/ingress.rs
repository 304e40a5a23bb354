//! Step 1b: may this port send this? And which look-up does the packet need?
//!
//! Anti-spoofing is on by default: an endpoint sends from its own MAC and IP addresses only, and
//! speaks ARP and ND only for itself. The rule of a port is worked out when the tables change, so
//! that a packet costs a few comparisons.

use std::net::{IpAddr, Ipv6Addr};

use crate::counters::DropReason;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::{Notes, Offload, Packet, WINDOW_BYTES};
use crate::parse::{self, Ethernet};
use crate::tables::{PortKind, Tables};
use crate::wire::{
    ethernet, header_at, icmp, ipv4, ipv6, protocol, tcp, u32_at, u64_at, u128_at, udp,
};

/// What a port may send, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IngressRule {
    pub(crate) port: PortId,
    pub(crate) network: NetworkId,
    /// The endpoint's MAC address.
    pub(crate) mac: u64,
    /// Source MAC address and ethertype of an IPv4 packet from the endpoint, as they are loaded.
    plain_source: u64,
    /// Its IPv4 address, as it is loaded; no packet's where the endpoint has none.
    plain_ipv4: u64,
    /// The gateway's MAC address on this port.
    pub(crate) gateway_mac: u64,
    /// The endpoint's addresses; 0 where it has none.
    ipv4: u32,
    ipv6: u128,
    link_local: u128,
    /// The port may send from the addresses above only.
    pub(crate) anti_spoofing: bool,
    pub(crate) uplink: bool,
    pub(crate) mtu: u16,
    /// Largest untagged frame that every member of the network takes.
    pub(crate) frame_bytes_max: usize,
}

/// Which look-up a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// A frame inside a network.
    Bridged,
    /// A routed packet of IPv4 with TCP or UDP and nothing else: see [`parse::plain_v4`].
    PlainV4,
    /// The same of IPv6.
    PlainV6,
    /// Any other routed packet: ICMP, other protocols, options, fragments.
    Unusual,
    /// ARP.
    Arp,
    /// Neighbour discovery.
    NeighbourDiscovery,
}

/// Where an Ethernet header has its source.
const SOURCE_MAC: usize = 6;

/// What a glance at a packet tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// [`Class::Bridged`], to this MAC address, and not too large for any member.
    Bridged(u64),
    /// [`Class::PlainV4`], an IP packet of this length that changes no TCP state.
    PlainV4(usize),
    /// Perhaps one of these, perhaps not: [`IngressRule::examine`] says.
    Unclear,
}

impl IngressRule {
    /// The rule of a port under these tables.
    pub(crate) fn of(port: PortId, tables: &Tables) -> Option<IngressRule> {
        let table = tables.port(port)?;
        let mut rule = IngressRule {
            port,
            network: NetworkId::NONE,
            mac: 0,
            plain_source: 0,
            plain_ipv4: u64::MAX,
            gateway_mac: 0,
            ipv4: 0,
            ipv6: 0,
            link_local: 0,
            anti_spoofing: false,
            uplink: false,
            mtu: table.mtu,
            frame_bytes_max: 0,
        };
        match &table.kind {
            PortKind::Endpoint(attachment) => {
                rule.network = attachment.network;
                rule.mac = attachment.mac.0;
                rule.plain_source = (rule.mac << 16 | u64::from(ethernet::IPV4)).to_be();
                let network = tables.network(attachment.network)?;
                rule.gateway_mac = network.gateway_mac.0;
                let mtus = network.members.iter().filter_map(|&port| Some(tables.port(port)?.mtu));
                rule.frame_bytes_max = usize::from(mtus.min()?) + ethernet::HEADER_BYTES;
                rule.ipv4 = attachment.ipv4.map_or(0, |address| address.to_bits());
                rule.ipv6 = attachment.ipv6.map_or(0, |address| address.to_bits());
                if rule.ipv4 != 0 {
                    rule.plain_ipv4 = u64::from(rule.ipv4.to_be());
                }
                rule.link_local = attachment.mac.link_local().to_bits();
                rule.anti_spoofing = attachment.anti_spoofing;
            }
            PortKind::Uplink(uplink) => {
                rule.gateway_mac = tables.uplink(*uplink)?.mac.0;
                rule.uplink = true;
            }
        }
        Some(rule)
    }

    /// True if the port may speak for this address.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        !self.anti_spoofing
            || match address {
                IpAddr::V4(address) => self.may_send_v4(address.to_bits()),
                IpAddr::V6(address) => self.may_send_v6(address.to_bits()),
            }
    }

    #[inline(always)]
    fn may_send_v4(&self, source: u32) -> bool {
        source == self.ipv4 && source != 0
    }

    #[inline(always)]
    fn may_send_v6(&self, source: u128) -> bool {
        (source == self.ipv6 && source != 0) || source == self.link_local
    }

    /// Recognises what nearly every packet is, reading as little as can be and noting nothing: the
    /// first bytes of a packet, all of whose `bytes` lie in its head, and which has no offload.
    /// What is recognised, [`examine`](Self::examine) finds right (a property test). `CHECKED`:
    /// the port has anti-spoofing.
    #[inline(always)]
    pub(crate) fn glance<const CHECKED: bool>(
        &self,
        window: &[u8; WINDOW_BYTES],
        bytes: usize,
    ) -> Glance {
        if bytes < parse::PLAIN_L4_V4 {
            return Glance::Unclear;
        }
        let destination = u64_at(window, 0) >> 16;
        if CHECKED {
            let source = u64::from_be(u64_at(window, SOURCE_MAC));
            let address = u32::from_be(u32_at(window, parse::PLAIN_L3 + ipv4::SOURCE));
            if source != self.plain_source || u64::from(address) != self.plain_ipv4 {
                return Glance::Unclear;
            }
            if destination != self.gateway_mac {
                let fits = bytes <= self.frame_bytes_max;
                return if fits { Glance::Bridged(destination) } else { Glance::Unclear };
            }
        } else {
            let source_and_type = u64_at(window, SOURCE_MAC);
            let source = source_and_type >> 16;
            let right = source_and_type as u16 == ethernet::IPV4
                && source != self.gateway_mac
                && !MacAddress(source).is_group()
                && destination == self.gateway_mac;
            if !right {
                return Glance::Unclear;
            }
        }
        match parse::glance_v4(window, bytes - parse::PLAIN_L3) {
            Some(total_bytes) => Glance::PlainV4(total_bytes),
            None => Glance::Unclear,
        }
    }

    /// Parses a packet, checks its sender, and says how to go on.
    #[inline(never)]
    pub(crate) fn examine(&self, packet: &mut Packet) -> Result<Class, DropReason> {
        let frame = parse::ethernet(packet)?;
        packet.meta.ingress = self.port;
        packet.meta.network = self.network;
        if self.anti_spoofing {
            if frame.source != self.mac {
                return Err(DropReason::SpoofedMac);
            }
        } else if MacAddress(frame.source).is_group() || frame.source == self.gateway_mac {
            return Err(DropReason::SourceMac);
        }
        let class = if frame.destination != self.gateway_mac {
            return self.examine_bridged(packet, &frame);
        } else if frame.ethertype == ethernet::IPV4 && parse::plain_v4(packet) {
            let source = u32_at(packet.window(), parse::PLAIN_L3 + ipv4::SOURCE);
            if self.anti_spoofing && !self.may_send_v4(source) {
                return Err(DropReason::SpoofedIp);
            }
            Class::PlainV4
        } else if frame.ethertype == ethernet::IPV6 && parse::plain_v6(packet) {
            let source = u128_at(packet.window(), parse::PLAIN_L3 + ipv6::SOURCE);
            if self.anti_spoofing && !self.may_send_v6(source) {
                return Err(DropReason::SpoofedIp);
            }
            Class::PlainV6
        } else {
            return self.examine_unusual(packet, frame.ethertype);
        };
        if packet.offload != Offload::None && !offload_is_honest(packet) {
            return Err(DropReason::MalformedOffload);
        }
        Ok(class)
    }

    /// A packet to the gateway that is not plain TCP or UDP.
    #[cold]
    fn examine_unusual(&self, packet: &mut Packet, ethertype: u16) -> Result<Class, DropReason> {
        let ethertype = parse::behind_tags(packet, ethertype)?;
        packet.meta.notes.0 |= Notes::ROUTED;
        match ethertype {
            ethernet::IPV4 => parse::ipv4(packet)?,
            ethernet::IPV6 => parse::ipv6(packet)?,
            ethernet::ARP => return Ok(Class::Arp),
            _ => return Err(DropReason::LocalUnhandled),
        }
        if packet.meta.notes.any(Notes::NEIGHBOUR_DISCOVERY) {
            return Ok(Class::NeighbourDiscovery);
        }
        if !self.speaks_for_itself(packet)? {
            return Err(DropReason::SpoofedIp);
        }
        if packet.meta.notes.any(Notes::TAGGED) {
            return Err(DropReason::VlanTag);
        }
        if packet.offload != Offload::None && !offload_is_honest(packet) {
            return Err(DropReason::MalformedOffload);
        }
        Ok(Class::Unusual)
    }

    /// True if the source address of a parsed packet is the port's own.
    fn speaks_for_itself(&self, packet: &Packet) -> Result<bool, DropReason> {
        let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
        Ok(!self.anti_spoofing
            || if packet.meta.notes.any(Notes::V6) {
                let source = header_at(head, l3 + ipv6::SOURCE).ok_or(DropReason::Truncated)?;
                self.may_send_v6(u128_at::<16>(source, 0))
            } else {
                let source = header_at(head, l3 + ipv4::SOURCE).ok_or(DropReason::Truncated)?;
                self.may_send_v4(u32_at::<4>(source, 0))
            })
    }

    #[inline(always)]
    fn examine_bridged(&self, packet: &mut Packet, frame: &Ethernet) -> Result<Class, DropReason> {
        packet.meta.l3 = parse::PLAIN_L3 as u16;
        packet.meta.notes = Notes(0);
        packet.meta.l3_bytes = 0;
        if frame.ethertype == ethernet::IPV4 && packet.len() >= parse::PLAIN_L4_V4 && !self.uplink {
            let source = u32_at(packet.window(), parse::PLAIN_L3 + ipv4::SOURCE);
            // 0.0.0.0 asks for an address by DHCP.
            if self.anti_spoofing && !self.may_send_v4(source) && source != 0 {
                return Err(DropReason::SpoofedIp);
            }
            return Ok(Class::Bridged);
        }
        self.examine_other_frame(packet, frame)
    }

    /// A frame inside a network that is not untagged IPv4, or any on an uplink that is not to the
    /// gateway.
    #[inline(never)]
    fn examine_other_frame(
        &self,
        packet: &mut Packet,
        frame: &Ethernet,
    ) -> Result<Class, DropReason> {
        if self.uplink && !MacAddress(frame.destination).is_group() {
            return Err(DropReason::NotForUs);
        }
        let ethertype = parse::behind_tags(packet, frame.ethertype)?;
        let l3 = usize::from(packet.meta.l3);
        match ethertype {
            ethernet::IPV4 => {
                let source = header_at(packet.head(), l3 + ipv4::SOURCE);
                let source = u32_at::<4>(source.ok_or(DropReason::Truncated)?, 0);
                if self.anti_spoofing && !self.may_send_v4(source) && source != 0 {
                    return Err(DropReason::SpoofedIp);
                }
            }
            ethernet::IPV6 => {
                let header = header_at::<{ ipv6::HEADER_BYTES }>(packet.head(), l3);
                let header = header.ok_or(DropReason::Truncated)?;
                let (next, source) = (header[ipv6::NEXT_HEADER], u128_at(header, ipv6::SOURCE));
                if !matches!(next, protocol::TCP | protocol::UDP) && hides_discovery(packet)? {
                    return Ok(Class::NeighbourDiscovery);
                }
                if self.anti_spoofing && !self.may_send_v6(source) && source != 0 {
                    return Err(DropReason::SpoofedIp);
                }
            }
            ethernet::ARP => return Ok(Class::Arp),
            _ => {}
        }
        Ok(Class::Bridged)
    }

    /// Checks the sender of an ND message: its source, and whom it speaks for.
    pub(crate) fn may_discover(&self, source: Ipv6Addr, speaks_for: Option<Ipv6Addr>) -> bool {
        let source_is_own = source.is_unspecified() || self.owns(source.into());
        source_is_own && speaks_for.is_none_or(|address| self.owns(address.into()))
    }
}

/// True if the packet is neighbour discovery, also behind extension headers.
#[cold]
fn hides_discovery(packet: &mut Packet) -> Result<bool, DropReason> {
    parse::ipv6(packet)?;
    Ok(packet.meta.notes.any(Notes::NEIGHBOUR_DISCOVERY))
}

/// True if the offload says what the headers say: a driver checked that it lies inside the packet,
/// here it must name the transport header that NAT will edit.
fn offload_is_honest(packet: &Packet) -> bool {
    let l4 = packet.meta.l4;
    let field = match packet.meta.protocol {
        protocol::TCP => tcp::CHECKSUM,
        protocol::UDP => udp::CHECKSUM,
        protocol::ICMPV6 => icmp::CHECKSUM,
        _ => return false,
    };
    match packet.offload {
        Offload::None => true,
        Offload::NeedsChecksum { start, offset } => start == l4 && usize::from(offset) == field,
        Offload::Gso { kind, segment_bytes, start, .. } => {
            use crate::packet::GsoKind::*;
            let v6 = packet.meta.notes.any(Notes::V6);
            let fits = match kind {
                TcpV4 => packet.meta.protocol == protocol::TCP && !v6,
                TcpV6 => packet.meta.protocol == protocol::TCP && v6,
                Udp => packet.meta.protocol == protocol::UDP,
            };
            fits && start == l4 && segment_bytes > 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    const GATEWAY: u64 = 0x0200_0000_0001;

    fn rule(anti_spoofing: bool) -> IngressRule {
        let (mac, ipv4) = (0x0200_0000_000a, u32::from_be_bytes([10, 0, 0, 1]));
        IngressRule {
            port: PortId(3),
            network: NetworkId(0),
            mac,
            plain_source: (mac << 16 | u64::from(ethernet::IPV4)).to_be(),
            plain_ipv4: u64::from(ipv4.to_be()),
            gateway_mac: GATEWAY,
            ipv4,
            ipv6: 0,
            link_local: 0,
            anti_spoofing,
            uplink: false,
            mtu: 1500,
            frame_bytes_max: 70,
        }
    }

    proptest! {
        #[test]
        fn what_a_glance_recognises_the_examination_finds(
            checked in any::<bool>(), routed in any::<bool>(), tcp in any::<bool>(),
            payload in 0usize..40, changes in prop::collection::vec(any::<(u8, u8)>(), 0..2),
            trailer in 0usize..4, missing in 0usize..60,
        ) {
            let to = if routed { [2, 0, 0, 0, 0, 1] } else { [2, 0, 0, 0, 0, 9] };
            let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x0a], to);
            let ip = ip.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
            let (mut bytes, payload) = (Vec::new(), vec![7; payload]);
            match tcp {
                true => ip.tcp(1, 2, 3, 4).write(&mut bytes, &payload).unwrap(),
                false => ip.udp(1, 2).write(&mut bytes, &payload).unwrap(),
            }
            bytes.extend(vec![0xee; trailer]);
            for &(place, byte) in &changes {
                let place = usize::from(place) % bytes.len();
                bytes[place] = byte;
            }
            bytes.truncate(bytes.len() - missing.saturating_sub(50));
            let pool = (heap_frames(1), Vec::new(), FrameBalancer::new(1, 0));
            let mut frames = FramePool::new(pool.0, pool.1, pool.2);
            let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
            let rule = rule(checked);
            let glance = match checked {
                true => rule.glance::<true>(packet.window(), packet.len()),
                false => rule.glance::<false>(packet.window(), packet.len()),
            };
            let class = rule.examine(&mut packet);
            match glance {
                Glance::Bridged(destination) => {
                    prop_assert_eq!(class, Ok(Class::Bridged));
                    prop_assert_eq!(destination, packet.destination());
                    prop_assert!(packet.len() <= rule.frame_bytes_max && checked);
                }
                Glance::PlainV4(bytes) => {
                    prop_assert_eq!(class, Ok(Class::PlainV4));
                    prop_assert_eq!(packet.len(), parse::PLAIN_L3 + bytes);
                    let state = tcp::SYN | tcp::FIN | tcp::RST;
                    prop_assert_eq!(packet.meta.tcp_flags & state, 0);
                }
                Glance::Unclear => {
                    let usual = changes.is_empty() && missing <= 50;
                    let large = packet.len() > rule.frame_bytes_max;
                    prop_assert!(!usual || (!routed && (large || !checked)));
                }
            }
        }
    }
}
