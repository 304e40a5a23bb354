//! What follows from the tables about tunnels, worked out once when they change.
//!
//! By what a packet out of a tunnel is recognised, and the outer header of each tunnel as a
//! template: `[Ethernet 14 | IPv4 20 or IPv6 40 | UDP 8 | VXLAN 8]`, whole but for what depends on
//! the packet. The one hard constraint: nothing here changes while packets pass.

use std::net::{IpAddr, Ipv6Addr};

use crate::encapsulate::Header;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::lane::Lane;
use crate::neighbour::Macs;
use crate::tables::{PortKind, TableMap, Tables, Tunnel, TunnelEnd, Vni};
use crate::wire::{checksum, ethernet, ipv4, ipv6, protocol, udp, vxlan};

/// Length of an outer header with IPv4.
pub(crate) const OUTER_V4_BYTES: usize =
    ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
/// Length of an outer header with IPv6.
pub(crate) const OUTER_V6_BYTES: usize =
    ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + udp::HEADER_BYTES + vxlan::HEADER_BYTES;

/// RFC 7348 leaves it open; 64 is what Linux's route gives by default.
const TTL: u8 = 64;

/// By what the sender of an outer packet is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sender {
    pub(crate) vtep: IpAddr,
    pub(crate) vni: Vni,
    pub(crate) udp_port: u16,
}

/// The tunnel that a packet came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) tunnel: PortId,
    pub(crate) trunk: PortId,
    pub(crate) network: NetworkId,
    /// Other networks have this sender too: addresses tell which one it is ([`Tunnels::sharers`]).
    pub(crate) is_shared: bool,
}

/// The way of outer packets, as an ICMP error about one has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UnderlayPath {
    pub(crate) local: IpAddr,
    pub(crate) vtep: IpAddr,
    pub(crate) udp_port: u16,
}

/// The outer header of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Outer {
    template: Header,
    /// The uplink's port.
    pub(crate) uplink: PortId,
    /// Whose MAC address the frame goes to; `None`: it is in the template.
    pub(crate) next_hop: Option<IpAddr>,
}

/// Where a port of an overlay leads.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The trunk of this network: to these tunnels what is for everybody.
    Trunk(NetworkId, Vec<PortId>),
    /// A tunnel.
    Outer(Box<Outer>),
    /// The wire of an uplink.
    Lane(Lane),
}

/// A multicast group that tunnels listen to, on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) group: IpAddr,
    /// The uplink's port, with our own addresses there.
    pub(crate) uplink: PortId,
    pub(crate) mac: MacAddress,
    pub(crate) local: IpAddr,
}

/// All tunnels.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    senders: TableMap<Sender, Origin>,
    /// All networks of a sender that has several, by the tunnel of the first.
    sharers: TableMap<PortId, Vec<Origin>>,
    vnis: TableMap<(Vni, u16), ()>,
    /// By which uplink's port they leave.
    underlay: TableMap<UnderlayPath, PortId>,
    groups: Vec<Joined>,
    udp_ports: Vec<u16>,
    locals_v4: Vec<u32>,
    locals_v6: Vec<u128>,
    ways: Vec<Option<Way>>,
    /// By the uplink's port and the tag, which is 0 where there is none.
    lanes: TableMap<(PortId, u16), Lane>,
}

impl Tunnels {
    pub(crate) fn of(tables: &Tables) -> Tunnels {
        let mut all = Tunnels::default();
        for port in tables.ports.iter().flatten() {
            if let PortKind::Tunnel(tunnel) = &port.kind {
                all.add(port.id, tunnel, tables);
            }
        }
        for network in tables.networks.iter().flatten() {
            let Some(lane) = Lane::of(network, tables) else { continue };
            all.lanes.insert((lane.uplink, lane.tag.map_or(0, |tag| tag.0)), lane);
            all.set_way(lane.trunk, Some(Way::Lane(lane)));
        }
        all
    }

    fn add(&mut self, id: PortId, tunnel: &Tunnel, tables: &Tables) {
        let overlay = tables.network(tunnel.network).and_then(|own| own.overlay.as_ref());
        let Some(overlay) = overlay else { return };
        let way = match &tunnel.end {
            TunnelEnd::Trunk(all) => Some(Way::Trunk(tunnel.network, all.clone())),
            TunnelEnd::Vtep(vtep) => {
                let sender = Sender { vtep: *vtep, vni: tunnel.vni, udp_port: tunnel.udp_port };
                let (trunk, network) = (overlay.trunk, tunnel.network);
                let origin = Origin { tunnel: id, trunk, network, is_shared: false };
                self.listen(tunnel.local, tunnel.udp_port);
                if vtep.is_multicast() {
                    self.listen(*vtep, tunnel.udp_port);
                    self.join(*vtep, tunnel, tables);
                } else {
                    self.add_sender(sender, origin);
                }
                self.vnis.insert((tunnel.vni, tunnel.udp_port), ());
                if let Some(own) = tables.uplink(tunnel.uplink) {
                    let (local, udp_port) = (tunnel.local, tunnel.udp_port);
                    let path = UnderlayPath { local, vtep: *vtep, udp_port };
                    self.underlay.insert(path, own.port);
                }
                Outer::of(tunnel, *vtep, tables).map(|outer| Way::Outer(Box::new(outer)))
            }
        };
        self.set_way(id, way);
    }

    fn set_way(&mut self, port: PortId, way: Option<Way>) {
        if self.ways.len() <= port.index() {
            self.ways.resize_with(port.index() + 1, || None);
        }
        self.ways[port.index()] = way;
    }

    /// The part of an uplink's link that has this tag, or none where it is 0.
    #[inline(always)]
    pub(crate) fn lane(&self, uplink: PortId, tag: u16) -> Option<Lane> {
        self.lanes.get(&(uplink, tag)).copied()
    }

    fn join(&mut self, group: IpAddr, tunnel: &Tunnel, tables: &Tables) {
        let Some(own) = tables.uplink(tunnel.uplink) else { return };
        let joined = Joined { group, uplink: own.port, mac: own.mac, local: tunnel.local };
        if !self.groups.contains(&joined) {
            self.groups.push(joined);
        }
    }

    /// The groups that tunnels listen to.
    pub(crate) fn groups(&self) -> &[Joined] {
        &self.groups
    }

    fn add_sender(&mut self, sender: Sender, origin: Origin) {
        let Some(first) = self.senders.get_mut(&sender) else {
            self.senders.insert(sender, origin);
            return;
        };
        first.is_shared = true;
        let all = self.sharers.entry(first.tunnel).or_insert_with(|| vec![*first]);
        all.push(Origin { is_shared: true, ..origin });
    }

    fn listen(&mut self, address: IpAddr, udp_port: u16) {
        fn note<T: PartialEq>(all: &mut Vec<T>, one: T) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        note(&mut self.udp_ports, udp_port);
        match address {
            IpAddr::V4(address) => note(&mut self.locals_v4, address.to_bits()),
            IpAddr::V6(address) => note(&mut self.locals_v6, address.to_bits()),
        }
    }

    /// True if outer packets come to this UDP port.
    #[inline(always)]
    pub(crate) fn has_port(&self, udp_port: u16) -> bool {
        self.udp_ports.contains(&udp_port)
    }

    /// True if outer packets come to this address.
    #[inline(always)]
    pub(crate) fn has_local_v4(&self, address: u32) -> bool {
        self.locals_v4.contains(&address)
    }

    /// The same of IPv6.
    pub(crate) fn has_local_v6(&self, address: u128) -> bool {
        self.locals_v6.contains(&address)
    }

    /// The tunnel of a sender.
    pub(crate) fn origin(&self, sender: Sender) -> Option<Origin> {
        self.senders.get(&sender).copied()
    }

    /// All networks of a sender that has several, by what it is known as.
    pub(crate) fn sharers(&self, first: Origin) -> &[Origin] {
        self.sharers.get(&first.tunnel).map_or(&[], Vec::as_slice)
    }

    /// True if some network has this identifier at this port.
    pub(crate) fn has_vni(&self, vni: Vni, udp_port: u16) -> bool {
        self.vnis.contains_key(&(vni, udp_port))
    }

    /// By which uplink's port outer packets of this path leave; `None`: there are none.
    pub(crate) fn underlay_uplink(&self, path: &UnderlayPath) -> Option<PortId> {
        self.underlay.get(path).copied()
    }

    /// Where a port leads; `None`: it is no overlay's.
    #[inline(always)]
    pub(crate) fn way(&self, port: PortId) -> Option<&Way> {
        self.ways.get(port.index())?.as_ref()
    }

    /// The tunnels of a trunk.
    pub(crate) fn of_trunk(&self, trunk: PortId) -> &[PortId] {
        match self.way(trunk) {
            Some(Way::Trunk(_, tunnels)) => tunnels,
            Some(Way::Outer(_) | Way::Lane(_)) | None => &[],
        }
    }

    /// True if the port is a trunk or a tunnel of an overlay.
    #[inline(always)]
    pub(crate) fn has(&self, port: PortId) -> bool {
        self.way(port).is_some_and(|way| !matches!(way, Way::Lane(_)))
    }
}

impl Outer {
    /// The header, with the next hop's MAC addresses if it is not in the template.
    #[inline(always)]
    pub(crate) fn header(&self, macs: Option<Macs>) -> Header {
        let mut header = self.template;
        if let (Some(macs), Some(bytes)) = (macs, header.bytes.first_chunk_mut::<12>()) {
            macs.store(bytes);
        }
        header
    }

    /// `None`: no way leads to the VTEP, or the uplink is gone.
    fn of(tunnel: &Tunnel, vtep: IpAddr, tables: &Tables) -> Option<Outer> {
        let own = tables.uplink(tunnel.uplink)?;
        let mut outer = Outer {
            template: Header { is_v6: vtep.is_ipv6(), ..Header::default() },
            uplink: own.port,
            next_hop: None,
        };
        let bytes = &mut outer.template.bytes;
        bytes[6..12].copy_from_slice(&own.mac.bytes());
        if vtep.is_multicast() {
            bytes[..6].copy_from_slice(&group_mac(vtep).bytes());
        } else {
            let on_link = own.on_link(vtep).then_some(vtep);
            let routed = || {
                let route = tables.routes.to(vtep).filter(|route| route.uplink == own.id)?;
                Some(route.via.unwrap_or(vtep))
            };
            outer.next_hop = Some(on_link.or_else(routed)?);
        }
        let l3 = ethernet::HEADER_BYTES;
        let l4 = match (tunnel.local, vtep) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[ethernet::TYPE..l3].copy_from_slice(&ethernet::IPV4.to_be_bytes());
                let header = &mut bytes[l3..l3 + ipv4::HEADER_BYTES];
                header[0] = 0x45;
                // RFC 7348 section 4.3: a VTEP does not fragment; a router says if it would have.
                let fragment = ipv4::DONT_FRAGMENT.to_be_bytes();
                header[ipv4::FRAGMENT..ipv4::TTL].copy_from_slice(&fragment);
                (header[ipv4::TTL], header[ipv4::PROTOCOL]) = (TTL, protocol::UDP);
                header[ipv4::SOURCE..ipv4::DESTINATION].copy_from_slice(&source.octets());
                header[ipv4::DESTINATION..].copy_from_slice(&destination.octets());
                outer.template.sum = u32::from(checksum::fold(checksum::sum(header)));
                l3 + ipv4::HEADER_BYTES
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[ethernet::TYPE..l3].copy_from_slice(&ethernet::IPV6.to_be_bytes());
                let header = &mut bytes[l3..l3 + ipv6::HEADER_BYTES];
                header[0] = 0x60;
                (header[ipv6::NEXT_HEADER], header[ipv6::HOP_LIMIT]) = (protocol::UDP, TTL);
                header[ipv6::SOURCE..ipv6::DESTINATION].copy_from_slice(&source.octets());
                header[ipv6::DESTINATION..].copy_from_slice(&destination.octets());
                l3 + ipv6::HEADER_BYTES
            }
            _ => return None,
        };
        bytes[l4 + 2..l4 + 4].copy_from_slice(&tunnel.udp_port.to_be_bytes());
        let header = l4 + udp::HEADER_BYTES;
        bytes[header] = vxlan::FLAG_VNI;
        let vni = (tunnel.vni.0 << 8).to_be_bytes();
        bytes[header + vxlan::VNI..header + vxlan::HEADER_BYTES].copy_from_slice(&vni);
        Some(outer)
    }
}

/// The MAC address of an IP group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(crate) fn group_mac(group: IpAddr) -> MacAddress {
    match group {
        IpAddr::V4(group) => {
            MacAddress(0x0100_5e00_0000 | u64::from(group.to_bits() & 0x007f_ffff))
        }
        IpAddr::V6(group) => MacAddress(0x3333_0000_0000 | low_bits(group)),
    }
}

fn low_bits(address: Ipv6Addr) -> u64 {
    address.to_bits() as u64 & 0xffff_ffff
}
