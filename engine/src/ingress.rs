//! Step 1b: may this port send this? And which look-up does the packet need?
//!
//! Anti-spoofing is on by default: an endpoint sends from its own MAC and IP addresses only, and
//! speaks ARP and ND only for itself. The rule of a port is worked out when the tables change, so
//! that a packet costs a few comparisons.

use std::net::{IpAddr, Ipv6Addr};

use crate::counters::DropReason;
use crate::flow::{pack_ingress, pack_transport};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::{Notes, Offload, Packet, WINDOW_BYTES};
use crate::parse::{self, Ethernet, PlainProtocol};
use crate::tables::{Network, PortKind, Tables};
use crate::wire::{
    ethernet, header_at, icmp, ipv4, ipv6, protocol, raw_u16_at, raw_u32_at, raw_u64_at, sctp, tcp,
    u32_at, u64_at, u128_at, udp,
};

/// What a port may send, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IngressRule {
    pub(crate) port: PortId,
    pub(crate) network: NetworkId,
    /// What the keys of all routed packets from this port have in common, and those of UDP and TCP.
    pub(crate) key_ingress: u64,
    key_udp: u64,
    key_tcp: u64,
    /// The endpoint's MAC address.
    pub(crate) mac: u64,
    /// Source MAC address and ethertype of an IPv4 packet from the endpoint, as they are loaded.
    plain_source: u64,
    /// Its IPv4 address, as it is loaded; no packet's where the endpoint has none.
    plain_ipv4: u64,
    /// The first eight bytes of a frame from the endpoint to the gateway, as they are loaded.
    routed_start: u64,
    /// Bytes 4 to 12 of a frame from the gateway to itself, as they are loaded: a loop.
    looped_middle: u64,
    /// The two parts of the gateway's MAC address, as they are loaded.
    gateway_start: u32,
    gateway_end: u16,
    /// The gateway's MAC address on this port.
    pub(crate) gateway_mac: u64,
    /// The endpoint's addresses; 0 where it has none.
    ipv4: u32,
    ipv6: u128,
    link_local: u128,
    /// The port may send from the addresses above only.
    pub(crate) anti_spoofing: bool,
    pub(crate) uplink: bool,
    /// Packets of tunnels may come in by it.
    pub(crate) tunnels: bool,
    /// What comes in by it came out of a tunnel, where its sender was checked.
    pub(crate) trunk: bool,
    /// Networks are a part of the link behind it.
    pub(crate) lanes: bool,
    /// As whose packets those to the gateway count: a member's of an uplink's link as the uplink's.
    gateway_side: (PortId, NetworkId),
    pub(crate) mtu: u16,
    /// Largest untagged frame that every member of the network takes.
    pub(crate) frame_bytes_max: usize,
    /// Not all members of the network take frames of one size.
    pub(crate) unequal_mtus: bool,
    /// Largest frame that a glance recognises: none where MTUs are unequal, so that all are looked
    /// at for what they announce.
    glance_bytes_max: usize,
}

/// How large frames are that members of a network take, untagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameBytes {
    /// Every member takes so much.
    max: usize,
    /// Some take more.
    is_unequal: bool,
}

impl FrameBytes {
    /// `None` without members.
    pub(crate) fn of(network: &Network, tables: &Tables) -> Option<FrameBytes> {
        let ports = || network.members.iter().copied().chain(network.trunk());
        let mtus = || ports().filter_map(|port| Some(tables.port(port)?.mtu));
        let least = mtus().min()?;
        let is_unequal = mtus().max() != Some(least);
        Some(FrameBytes { max: usize::from(least) + ethernet::HEADER_BYTES, is_unequal })
    }
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
    /// [`Class::PlainV4`] without a trailer that changes no TCP state; with this part of its key.
    PlainV4(u64),
    /// Perhaps one of these, perhaps not: [`IngressRule::examine`] says.
    Unclear,
}

impl IngressRule {
    /// The rule of a port under these tables, given what is known of its network.
    pub(crate) fn of(
        port: PortId,
        tables: &Tables,
        frame_bytes: &dyn Fn(NetworkId) -> Option<FrameBytes>,
    ) -> Option<IngressRule> {
        let table = tables.port(port)?;
        let mut rule = IngressRule { mtu: table.mtu, ..IngressRule::nobody(port) };
        match &table.kind {
            PortKind::Endpoint(attachment) => {
                rule.network = attachment.network;
                rule.mac = attachment.mac.0;
                rule.plain_source = (rule.mac << 16 | u64::from(ethernet::IPV4)).to_be();
                let network = tables.network(attachment.network)?;
                rule.gateway_mac = network.gateway_mac.0;
                rule.set_frame_bytes(frame_bytes(network.id)?);
                rule.ipv4 = attachment.ipv4.map_or(0, |address| address.to_bits());
                rule.ipv6 = attachment.ipv6.map_or(0, |address| address.to_bits());
                if rule.ipv4 != 0 {
                    rule.plain_ipv4 = u64::from(rule.ipv4.to_be());
                }
                rule.link_local = attachment.mac.link_local().to_bits();
                rule.anti_spoofing = attachment.anti_spoofing;
                rule.gateway_side = (port, network.id);
                if network.routed_only {
                    rule.gateway_mac = rule.mac;
                }
                if let Some(uplink) = tables.uplink_under(network.id) {
                    rule.count_as(uplink.port);
                }
            }
            PortKind::Uplink(uplink) => {
                rule.gateway_mac = tables.uplink(*uplink)?.mac.0;
                rule.uplink = true;
                rule.gateway_side = (port, NetworkId::NONE);
                rule.lanes =
                    tables.networks.iter().flatten().any(|network| {
                        network.direct.is_some_and(|direct| direct.uplink == *uplink)
                    });
                rule.tunnels = tables.ports.iter().flatten().any(|port| {
                    matches!(&port.kind, PortKind::Tunnel(tunnel) if tunnel.uplink == *uplink)
                });
            }
            PortKind::Tunnel(tunnel) => {
                let network = tables.network(tunnel.network)?;
                rule.network = network.id;
                rule.gateway_mac = network.gateway_mac.0;
                rule.set_frame_bytes(frame_bytes(network.id)?);
                rule.gateway_side = (port, network.id);
                rule.trunk = true;
            }
            PortKind::Lane(network) => {
                let network = tables.network(*network)?;
                rule.network = network.id;
                rule.gateway_mac = network.gateway_mac.0;
                rule.set_frame_bytes(frame_bytes(network.id)?);
                rule.gateway_side = (port, network.id);
                rule.trunk = true;
            }
        }
        rule.set_raw_macs();
        Some(rule)
    }

    /// The rule of a port that may send nothing.
    fn nobody(port: PortId) -> IngressRule {
        IngressRule {
            port,
            network: NetworkId::NONE,
            key_ingress: pack_ingress(port),
            key_udp: pack_transport(0, protocol::UDP, pack_ingress(port)),
            key_tcp: pack_transport(0, protocol::TCP, pack_ingress(port)),
            mac: 0,
            plain_source: 0,
            plain_ipv4: u64::MAX,
            routed_start: 0,
            looped_middle: 0,
            gateway_start: 0,
            gateway_end: 0,
            gateway_mac: 0,
            ipv4: 0,
            ipv6: 0,
            link_local: 0,
            anti_spoofing: false,
            uplink: false,
            tunnels: false,
            trunk: false,
            lanes: false,
            gateway_side: (port, NetworkId::NONE),
            mtu: 0,
            frame_bytes_max: 0,
            unequal_mtus: false,
            glance_bytes_max: 0,
        }
    }

    fn set_frame_bytes(&mut self, own: FrameBytes) {
        self.frame_bytes_max = own.max;
        self.unequal_mtus = own.is_unequal;
        self.glance_bytes_max = if own.is_unequal { 0 } else { own.max };
    }

    /// What goes to the gateway is a packet of this uplink's port.
    fn count_as(&mut self, uplink: PortId) {
        self.gateway_side = (uplink, NetworkId::NONE);
        self.key_ingress = pack_ingress(uplink);
        self.key_udp = pack_transport(0, protocol::UDP, self.key_ingress);
        self.key_tcp = pack_transport(0, protocol::TCP, self.key_ingress);
    }

    /// Works out what whole packets' first bytes are compared with.
    fn set_raw_macs(&mut self) {
        let to_gateway = |source: u64| {
            let mut macs = [0; 16];
            macs[..6].copy_from_slice(&MacAddress(self.gateway_mac).bytes());
            macs[SOURCE_MAC..12].copy_from_slice(&MacAddress(source).bytes());
            macs
        };
        self.routed_start = raw_u64_at(&to_gateway(self.mac), 0);
        self.looped_middle = raw_u64_at(&to_gateway(self.gateway_mac), 4);
        self.gateway_start = raw_u32_at(&to_gateway(0), 0);
        self.gateway_end = raw_u16_at(&to_gateway(0), 4);
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
        if CHECKED {
            if raw_u64_at(window, SOURCE_MAC) != self.plain_source {
                return Glance::Unclear;
            }
            if raw_u64_at(window, 0) != self.routed_start {
                return self.glance_bridged(window, bytes);
            }
        } else if !self.is_to_gateway::<CHECKED>(window) {
            return Glance::Unclear;
        }
        // Whether the source address is the port's own, the flow's key says.
        match parse::glance_v4(window, bytes) {
            Some(protocol) => Glance::PlainV4(self.key_of(protocol)),
            None => Glance::Unclear,
        }
    }

    /// As [`glance`](Self::glance): true if it says [`Glance::PlainV4`], and this is what the
    /// packet carries.
    #[inline(always)]
    pub(crate) fn glance_at<const CHECKED: bool>(
        &self,
        window: &[u8; WINDOW_BYTES],
        bytes: usize,
        protocol: PlainProtocol,
    ) -> bool {
        self.is_to_gateway::<CHECKED>(window) && parse::glance_v4_of(window, bytes, protocol)
    }

    /// What the keys of all packets from this port with this protocol have in common.
    #[inline(always)]
    pub(crate) fn key_of(&self, protocol: PlainProtocol) -> u64 {
        match protocol {
            PlainProtocol::Udp => self.key_udp,
            PlainProtocol::Tcp => self.key_tcp,
        }
    }

    /// True for IPv4 to the gateway from a MAC address that the port may have.
    #[inline(always)]
    fn is_to_gateway<const CHECKED: bool>(&self, window: &[u8; WINDOW_BYTES]) -> bool {
        if CHECKED {
            return raw_u64_at(window, SOURCE_MAC) == self.plain_source
                && raw_u64_at(window, 0) == self.routed_start;
        }
        window[SOURCE_MAC] & 1 == 0
            && raw_u32_at(window, 0) == self.gateway_start
            && raw_u64_at(window, 4) != self.looped_middle
            && raw_u16_at(window, 4) == self.gateway_end
            && raw_u16_at(window, ethernet::TYPE) == ethernet::IPV4.to_be()
    }

    /// [`glance`](Self::glance) at IPv4 from the endpoint's MAC address to another than the
    /// gateway's.
    #[inline(always)]
    fn glance_bridged(&self, window: &[u8; WINDOW_BYTES], bytes: usize) -> Glance {
        let address = raw_u32_at(window, parse::PLAIN_L3 + ipv4::SOURCE);
        let right = u64::from(address) == self.plain_ipv4
            && bytes >= parse::PLAIN_L4_V4
            && bytes <= self.glance_bytes_max;
        match right {
            true => Glance::Bridged(u64_at(window, 0) >> 16),
            false => Glance::Unclear,
        }
    }

    /// [`glance`](Self::glance) at what came out of a tunnel: [`Glance::Bridged`] for a frame of
    /// IPv4 that is not for the gateway.
    #[inline(always)]
    pub(crate) fn glance_beyond(&self, window: &[u8; WINDOW_BYTES], bytes: usize) -> Glance {
        let (destination, source) = (u64_at(window, 0) >> 16, u64_at(window, SOURCE_MAC));
        let right = source as u16 == ethernet::IPV4
            && source >> 16 != self.gateway_mac
            && window[SOURCE_MAC] & 1 == 0
            && destination != self.gateway_mac
            && bytes >= parse::PLAIN_L4_V4
            && bytes <= self.glance_bytes_max;
        match right {
            true => Glance::Bridged(destination),
            false => Glance::Unclear,
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
        } else if MacAddress(frame.source).is_group()
            || (frame.source == self.gateway_mac && self.gateway_mac != self.mac)
        {
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
        (packet.meta.ingress, packet.meta.network) = self.gateway_side;
        if packet.offload() != Offload::None && !offload_is_honest(packet) {
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
        if packet.offload() != Offload::None && !offload_is_honest(packet) {
            return Err(DropReason::MalformedOffload);
        }
        (packet.meta.ingress, packet.meta.network) = self.gateway_side;
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
        protocol::SCTP => sctp::CHECKSUM,
        _ => return false,
    };
    match packet.offload() {
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
        // What is in a tunnel of somebody else's was cut when it came.
        Offload::Tunnelled { .. } => false,
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
        let mut rule = IngressRule {
            mac,
            plain_source: (mac << 16 | u64::from(ethernet::IPV4)).to_be(),
            plain_ipv4: u64::from(ipv4.to_be()),
            gateway_mac: GATEWAY,
            ipv4,
            anti_spoofing,
            mtu: 1500,
            frame_bytes_max: 70,
            glance_bytes_max: 70,
            ..IngressRule::nobody(PortId(3))
        };
        rule.network = NetworkId(0);
        rule.set_raw_macs();
        rule
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
                Glance::PlainV4(transport) => {
                    // Whether it is, the flow's key says.
                    let spoofed = checked && bytes[26..30] != [10, 0, 0, 1];
                    let expected =
                        if spoofed { Err(DropReason::SpoofedIp) } else { Ok(Class::PlainV4) };
                    prop_assert_eq!(class, expected);
                    prop_assert_eq!(packet.len(), bytes.len(), "nothing was cut off");
                    let state = tcp::SYN | tcp::FIN | tcp::RST;
                    prop_assert_eq!(packet.meta.tcp_flags & state, 0);
                    let protocol = packet.meta.protocol;
                    let expected = pack_transport(0, protocol, pack_ingress(PortId(3)));
                    prop_assert_eq!(transport, expected);
                }
                Glance::Unclear => {
                    let usual = changes.is_empty() && missing <= 50 && trailer == 0;
                    let large = packet.len() > rule.frame_bytes_max;
                    prop_assert!(!usual || (!routed && (large || !checked)));
                }
            }
        }
    }
}
