//! Step 1b: may this port send this? And which look-up does the packet need?
//!
//! Anti-spoofing is on by default: an endpoint sends from its own MAC and IP addresses only, and
//! speaks ARP and ND only for itself. The rule of a port is worked out when the tables change, so
//! that a packet costs a few comparisons.

use std::net::{IpAddr, Ipv6Addr};

use crate::counters::DropReason;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::{Notes, Offload, Packet};
use crate::parse::{self, Ethernet};
use crate::tables::{PortKind, Tables};
use crate::wire::{ethernet, header_at, icmp, ipv4, ipv6, protocol, tcp, u32_at, u128_at, udp};

/// What a port may send, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IngressRule {
    pub(crate) port: PortId,
    pub(crate) network: NetworkId,
    /// The endpoint's MAC address.
    pub(crate) mac: u64,
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
}

/// Which look-up a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// A frame inside a network.
    Bridged,
    /// A routed IPv4 packet without anything unusual.
    RoutedV4,
    /// A routed IPv6 packet without anything unusual.
    RoutedV6,
    /// A routed packet with something that needs care: options, fragments, ICMP errors.
    Unusual,
    /// ARP.
    Arp,
    /// Neighbour discovery.
    NeighbourDiscovery,
}

/// What keeps a routed packet off the short way.
const UNUSUAL: u16 = Notes::OPTIONS
    | Notes::FIRST_FRAGMENT
    | Notes::LATER_FRAGMENT
    | Notes::ICMP_ERROR
    | Notes::NEIGHBOUR_DISCOVERY
    | Notes::TAGGED;

impl IngressRule {
    /// The rule of a port under these tables.
    pub(crate) fn of(port: PortId, tables: &Tables) -> Option<IngressRule> {
        let table = tables.port(port)?;
        let mut rule = IngressRule {
            port,
            network: NetworkId::NONE,
            mac: 0,
            gateway_mac: 0,
            ipv4: 0,
            ipv6: 0,
            link_local: 0,
            anti_spoofing: false,
            uplink: false,
            mtu: table.mtu,
        };
        match &table.kind {
            PortKind::Endpoint(attachment) => {
                rule.network = attachment.network;
                rule.mac = attachment.mac.0;
                rule.gateway_mac = tables.network(attachment.network)?.gateway_mac.0;
                rule.ipv4 = attachment.ipv4.map_or(0, |address| address.to_bits());
                rule.ipv6 = attachment.ipv6.map_or(0, |address| address.to_bits());
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

    /// Parses a packet, checks its sender, and says how to go on.
    #[inline(always)]
    pub(crate) fn examine(&self, packet: &mut Packet) -> Result<(Class, Ethernet), DropReason> {
        let ethernet = parse::ethernet(packet)?;
        packet.meta.ingress = self.port;
        packet.meta.network = self.network;
        if self.anti_spoofing {
            if ethernet.source != self.mac {
                return Err(DropReason::SpoofedMac);
            }
        } else if MacAddress(ethernet.source).is_group() || ethernet.source == self.gateway_mac {
            return Err(DropReason::SourceMac);
        }
        let class = if ethernet.destination == self.gateway_mac {
            packet.meta.notes.0 |= Notes::ROUTED;
            self.examine_routed(packet, ethernet.ethertype)?
        } else {
            self.examine_bridged(packet, &ethernet)?
        };
        Ok((class, ethernet))
    }

    #[inline(always)]
    fn examine_routed(&self, packet: &mut Packet, ethertype: u16) -> Result<Class, DropReason> {
        let class = match ethertype {
            ethernet::IPV4 => {
                parse::ipv4(packet)?;
                let head = packet.head();
                let source = header_at(head, usize::from(packet.meta.l3) + ipv4::SOURCE);
                let source = u32_at::<4>(source.ok_or(DropReason::Truncated)?, 0);
                if self.anti_spoofing && !self.may_send_v4(source) {
                    return Err(DropReason::SpoofedIp);
                }
                Class::RoutedV4
            }
            ethernet::IPV6 => {
                parse::ipv6(packet)?;
                if packet.meta.notes.any(Notes::NEIGHBOUR_DISCOVERY) {
                    return Ok(Class::NeighbourDiscovery);
                }
                let head = packet.head();
                let source = header_at(head, usize::from(packet.meta.l3) + ipv6::SOURCE);
                let source = u128_at::<16>(source.ok_or(DropReason::Truncated)?, 0);
                if self.anti_spoofing && !self.may_send_v6(source) {
                    return Err(DropReason::SpoofedIp);
                }
                Class::RoutedV6
            }
            ethernet::ARP => return Ok(Class::Arp),
            _ => return Err(DropReason::LocalUnhandled),
        };
        if packet.meta.notes.any(Notes::TAGGED) {
            return Err(DropReason::VlanTag);
        }
        if packet.offload != Offload::None && !offload_is_honest(packet) {
            return Err(DropReason::MalformedOffload);
        }
        Ok(if packet.meta.notes.any(UNUSUAL) { Class::Unusual } else { class })
    }

    #[inline(always)]
    fn examine_bridged(&self, packet: &mut Packet, frame: &Ethernet) -> Result<Class, DropReason> {
        let l3 = usize::from(packet.meta.l3);
        if self.uplink && !MacAddress(frame.destination).is_group() {
            return Err(DropReason::NotForUs);
        }
        match frame.ethertype {
            ethernet::IPV4 => {
                let source = header_at(packet.head(), l3 + ipv4::SOURCE);
                let source = u32_at::<4>(source.ok_or(DropReason::Truncated)?, 0);
                // 0.0.0.0 asks for an address by DHCP.
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
