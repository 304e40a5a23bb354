//! What the gateway forwards by: an immutable snapshot that the config compiles to.
//!
//! `Tables` is made of shared parts. Each part carries an *epoch* that moves exactly when its
//! content does, so a flow that was decided under an older snapshot compares a few numbers and goes
//! on when none of the parts it used has changed. A snapshot is never edited: whoever wants a
//! change builds a new one, reusing every equal part, and hands it to the workers whole.
//!
//! What a worker *learns* (stations, neighbours) is not here: that is its own mutable state.

mod direct;
mod host;
mod overlay;
mod policy;
mod publish;
mod routes;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;

pub use direct::{Between, Direct, VlanTag};
pub use host::HostLink;
pub use overlay::{Overlay, Tunnel, TunnelEnd, Vni};
pub use policy::{GatewayMode, Policy, Question, Rule, RuleAction, RulePorts, RuleSide};
pub use publish::{Protocol, Publish, PublishEntry};
pub use routes::{Route, Routes};

use crate::flow::FlowInput;
use crate::id::{MacAddress, NetworkId, PortId, UplinkId};
use crate::limits::{Limits, NatSettings};
use crate::wire::protocol;

/// Counts the changes of one part of the tables.
pub type Epoch = u64;

/// A map that hashes fast; its content comes from the operator's config, never from packets.
pub type TableMap<K, V> = HashMap<K, V, FixedState>;

/// One snapshot of everything that is configured.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Grows by one with every snapshot; starts at 1.
    pub generation: u64,
    /// Epoch of the address plan: moves when any network's subnets or any uplink's addresses do.
    pub plan: Epoch,
    /// Ports by [`PortId`]; `None` where an id is free.
    pub ports: Vec<Option<Arc<PortTable>>>,
    /// Networks by [`NetworkId`].
    pub networks: Vec<Option<Arc<Network>>>,
    /// Uplinks by [`UplinkId`].
    pub uplinks: Vec<Option<Arc<Uplink>>>,
    /// Published ports.
    pub publish: Arc<Publish>,
    /// The operator's rules.
    pub policy: Arc<Policy>,
    /// Where other destinations go.
    pub routes: Arc<Routes>,
    /// Behaviour of NAT.
    pub nat: Arc<NatSettings>,
    /// Limits; they size the workers' tables at start and bound shares later.
    pub limits: Arc<Limits>,
}

impl Tables {
    /// Tables with nothing in them.
    pub fn empty() -> Tables {
        Tables {
            generation: 1,
            plan: 1,
            ports: Vec::new(),
            networks: Vec::new(),
            uplinks: Vec::new(),
            publish: Arc::new(Publish::new(0, Vec::new())),
            policy: Arc::new(Policy::new(0, Vec::new())),
            routes: Arc::new(Routes::new(0, Vec::new())),
            nat: Arc::new(NatSettings::default()),
            limits: Arc::new(Limits::default()),
        }
    }

    /// The port with this id.
    pub fn port(&self, id: PortId) -> Option<&PortTable> {
        self.ports.get(id.index())?.as_deref()
    }

    /// The network with this id.
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(id.index())?.as_deref()
    }

    /// The uplink with this id.
    pub fn uplink(&self, id: UplinkId) -> Option<&Uplink> {
        self.uplinks.get(id.index())?.as_deref()
    }

    /// The uplink that has this address as its own.
    pub fn uplink_with_address(&self, address: IpAddr) -> Option<&Uplink> {
        self.uplinks.iter().flatten().map(|uplink| &**uplink).find(|uplink| uplink.owns(address))
    }

    /// True if the machine that the gateway runs on sent a packet with this source: it is behind
    /// the uplink of the port that the packet came in by.
    pub fn is_host(&self, ingress: PortId, source: IpAddr) -> bool {
        let uplink = match self.port(ingress).map(|port| &port.kind) {
            Some(PortKind::Uplink(uplink)) => self.uplink(*uplink),
            _ => None,
        };
        uplink.is_some_and(|uplink| uplink.host.is_host(source))
    }

    /// The network that an address is in, asked from elsewhere: one that has it in a subnet; else
    /// that of the overlay with the most specific route to it. Subnets of overlays may overlap
    /// those of others: then it is the one that is reached at its members' own addresses, else the
    /// one that is no overlay, else that with the lowest id. Who asks from inside a network asks
    /// [`network_towards`](Self::network_towards).
    pub fn network_with_subnet_of(&self, address: IpAddr) -> Option<&Network> {
        let networks = || self.networks.iter().flatten().map(|network| &**network);
        let mut own = networks().filter(|network| network.subnet_of(address).is_some());
        if !self.has_overlays() {
            return own.next();
        }
        if let Some(own) = own.min_by_key(|network| network.rank_from_elsewhere()) {
            return Some(own);
        }
        let routed = networks().filter_map(|network| {
            let length = network.overlay.as_ref()?.length_to(address)?;
            Some((length, network))
        });
        routed.max_by_key(|(length, _)| *length).map(|(_, network)| network)
    }

    /// The network that an address leads to from this one (from outside: `NONE`). What a network
    /// has itself counts first, so that others with the same addresses do not mix with it: its
    /// subnets; then its routes, unless another network, which is reached at its members' own
    /// addresses, has a more specific subnet.
    pub fn network_towards(&self, from: NetworkId, address: IpAddr) -> Option<&Network> {
        let Some(own) = self.network(from) else { return self.network_with_subnet_of(address) };
        if own.subnet_of(address).is_some() {
            return Some(own);
        }
        let elsewhere = self.network_with_subnet_of(address);
        let length = own.overlay.as_ref().and_then(|overlay| overlay.length_to(address));
        let Some(length) = length else { return elsewhere };
        let is_nearer = |other: &&Network| {
            let subnet = other.subnet_of(address).filter(|_| other.is_open());
            subnet.is_some_and(|subnet| subnet.prefix.prefix_len() > length)
        };
        elsewhere.filter(is_nearer).or(Some(own))
    }

    /// True if any network is an overlay: their UDP ports are taken from masquerade.
    fn has_overlays(&self) -> bool {
        !self.nat.reserved.is_empty()
    }

    /// True if a VTEP of some network listens at this address and UDP port.
    pub fn is_tunnel_end(&self, address: IpAddr, udp_port: u16) -> bool {
        if self.nat.reserved.binary_search(&udp_port).is_err() {
            return false;
        }
        let overlays = self.networks.iter().flatten().filter_map(|own| own.overlay.as_ref());
        let mut tunnels = overlays
            .filter_map(|overlay| match &self.port(overlay.trunk)?.kind {
                PortKind::Tunnel(trunk) if trunk.udp_port == udp_port => Some(&overlay.tunnels),
                _ => None,
            })
            .flatten();
        tunnels.any(|&port| match self.port(port).map(|port| &port.kind) {
            Some(PortKind::Tunnel(tunnel)) => tunnel.end == TunnelEnd::Vtep(address),
            _ => false,
        })
    }

    /// True if a packet is for a tunnel's end of ours: at an own address, or one's group.
    pub(crate) fn is_to_own_tunnel_end(&self, input: &FlowInput) -> bool {
        let (address, port) = (input.destination, input.destination_port);
        input.protocol == protocol::UDP
            && self.nat.reserved.binary_search(&port).is_ok()
            && (self.uplink_with_address(address).is_some()
                || address.is_multicast() && self.is_tunnel_end(address, port))
    }

    /// The MAC address that an overlay's static part gives for an address behind its trunk.
    pub fn static_mac(&self, port: PortId, address: IpAddr) -> Option<MacAddress> {
        let PortKind::Tunnel(tunnel) = &self.port(port)?.kind else { return None };
        self.network(tunnel.network)?.overlay.as_ref()?.hosts.get(&address).copied()
    }
}

/// One port of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTable {
    /// Moves when anything here does.
    pub epoch: Epoch,
    /// Its id.
    pub id: PortId,
    /// For counters and messages: `ENDPOINT/NETWORK`, or the uplink's name.
    pub name: String,
    /// What is behind it.
    pub kind: PortKind,
    /// Largest IP packet, in bytes, that may leave by this port.
    pub mtu: u16,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An endpoint's attachment to one network.
    Endpoint(Attachment),
    /// An uplink.
    Uplink(UplinkId),
    /// A trunk or a tunnel of an overlay: no device of its own.
    Tunnel(Tunnel),
    /// The trunk of a network that is a part of an uplink's link: no device of its own either.
    Lane(NetworkId),
}

/// An endpoint in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the endpoint, equal for all of its attachments.
    pub endpoint: String,
    /// The network.
    pub network: NetworkId,
    /// The endpoint's MAC address in it.
    pub mac: MacAddress,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// True (the default): frames from other MAC or IP addresses are dropped. False: stations
    /// behind the port are learnt, up to its share of the FDB.
    pub anti_spoofing: bool,
}

impl Attachment {
    /// True if the address is this attachment's own. The IPv6 link-local address that the kernel
    /// derives from the MAC counts.
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4 == Some(address),
            IpAddr::V6(address) => self.ipv6 == Some(address) || address == self.mac.link_local(),
        }
    }
}

/// One network: a broadcast domain with the gateway in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Moves when anything here does.
    pub epoch: Epoch,
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// The gateway's MAC address in it.
    pub gateway_mac: MacAddress,
    /// Subnets, each with the gateway's address in it.
    pub subnets: Vec<Subnet>,
    /// No way out of the network, no publishing into it.
    pub internal: bool,
    /// Members reach each other at any port, not only at published ones.
    pub icc: bool,
    /// How its members are reached from outside of it.
    pub mode: GatewayMode,
    /// Traffic that leaves by an uplink takes the uplink's address.
    pub masquerade: bool,
    /// Largest IP packet in it, in bytes.
    pub mtu: u16,
    /// What SYN segments of its members, and to them, may announce.
    pub mss_clamp: MssClamp,
    /// Frames to groups go to those who said that they want them, while somebody asks; else to all.
    pub multicast_snooping: bool,
    /// The uplink that its traffic leaves by, when a default route is asked for.
    pub uplink: Option<UplinkId>,
    /// What makes it an overlay; `None`: it ends at this gateway.
    pub overlay: Option<Overlay>,
    /// What makes it a part of an uplink's link; such a network has no subnets here.
    pub direct: Option<Direct>,
    /// Members have no link among each other: whatever they send is routed, and nothing else goes
    /// in or out. They take their own MAC address for the gateway's.
    pub routed_only: bool,
    /// The operator's rules are not asked about its traffic.
    pub unfiltered: bool,
    /// Ports of its members, ascending; a trunk to be flooded to is one.
    pub members: Vec<PortId>,
    /// Which member has an address.
    pub by_address: TableMap<IpAddr, PortId>,
    /// Which member has a MAC address; of a static host elsewhere, its tunnel.
    pub by_mac: TableMap<MacAddress, PortId>,
}

/// Largest segment size that a SYN may announce. It is only ever lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MssClamp {
    /// What the path takes, where that is less than an endpoint's own MTU.
    #[default]
    Auto,
    /// Whatever it likes.
    Off,
    /// So many bytes.
    Bytes(u16),
}

/// A subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix, host bits zero.
    pub prefix: IpNet,
    /// The gateway's own address in it.
    pub gateway: IpAddr,
}

impl Network {
    /// The subnet that holds this address.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| holds(&subnet.prefix, address))
    }

    /// True if its members are reached at their own addresses from other networks and outside.
    pub fn is_open(&self) -> bool {
        matches!(self.mode, GatewayMode::NatUnprotected | GatewayMode::Routed)
    }

    /// Which of several networks with one address is meant from elsewhere: the lowest.
    fn rank_from_elsewhere(&self) -> (bool, bool, NetworkId) {
        (!self.is_open(), self.overlay.is_some(), self.id)
    }

    /// True if the gateway itself can be talked to in this network.
    pub fn has_gateway(&self) -> bool {
        self.mode != GatewayMode::Isolated
    }

    /// True if the address is the gateway's own in this network: a configured one, or its IPv6
    /// link-local address.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.has_gateway()
            && (self.subnets.iter().any(|subnet| subnet.gateway == address)
                || is_link_local_of(self.gateway_mac, address))
    }

    /// True if the port is a member's, or one of the overlay's own.
    pub fn has(&self, port: PortId) -> bool {
        self.members.binary_search(&port).is_ok() || self.is_tunnel(port)
    }

    /// The port that leads out of this machine.
    pub fn trunk(&self) -> Option<PortId> {
        let overlay = self.overlay.as_ref().map(|overlay| overlay.trunk);
        overlay.or(self.direct.as_ref().map(|direct| direct.trunk))
    }

    /// True if the port is one of the overlay's own.
    pub fn is_tunnel(&self, port: PortId) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.has(port))
    }

    /// How many endpoints are in it.
    pub fn endpoint_count(&self) -> usize {
        let trunk = self.trunk();
        self.members.iter().filter(|&&member| Some(member) != trunk).count()
    }

    /// Whom a packet to this address, which no member has, is sent to behind the trunk: the host
    /// itself, or the gateway that leads to it.
    pub fn beyond(&self, address: IpAddr) -> Option<(PortId, IpAddr)> {
        let overlay = self.overlay.as_ref()?;
        let is_link = self.subnet_of(address).is_some();
        let direct = overlay.hosts.contains_key(&address) || (overlay.learns && is_link);
        let via = || overlay.routes.to(address)?.via;
        Some((overlay.trunk, if direct { address } else { via()? }))
    }

    /// The gateway's own address of a family.
    pub fn gateway_of(&self, v6: bool) -> Option<IpAddr> {
        let mut gateways = self.subnets.iter().map(|subnet| subnet.gateway);
        gateways.find(|gateway| gateway.is_ipv6() == v6 && self.has_gateway())
    }
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Moves when anything here does.
    pub epoch: Epoch,
    /// Its id.
    pub id: UplinkId,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: PortId,
    /// The gateway's own MAC address on it.
    pub mac: MacAddress,
    /// The gateway's own addresses on it, each with its subnet's length; the first of a family is
    /// the one that masqueraded traffic takes.
    pub addresses: Vec<IpNet>,
    /// True: who comes in by it may ask at endpoints' own addresses, for published ports.
    pub trusted: bool,
    /// The machine that the gateway runs on, if that is behind this uplink.
    pub host: HostLink,
    /// The network that is the untagged part of its link.
    pub link: Option<NetworkId>,
}

impl Uplink {
    /// True if the address is the gateway's own on this uplink; its IPv6 link-local one and those
    /// that stand in for the host's are included.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
            || is_link_local_of(self.mac, address)
            || self.host.behind(address).is_some()
    }

    /// The address that masqueraded traffic of a family takes.
    pub fn address_of(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv6() == v6)
    }

    /// True if a neighbour with this address is on the uplink's own link.
    pub fn on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(&address))
            || self.host.peers.contains(&address)
            || self.host.loopback.contains(&address)
            || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
    }
}

/// True if an address lies in a prefix whose host bits are zero. As `IpNet::contains`, at a fifth
/// of its cost: new flows ask several times.
fn holds(prefix: &IpNet, address: IpAddr) -> bool {
    match (prefix, address) {
        (IpNet::V4(prefix), IpAddr::V4(address)) => {
            let differs = u64::from(prefix.addr().to_bits() ^ address.to_bits());
            differs >> (32 - prefix.prefix_len()) == 0
        }
        (IpNet::V6(prefix), IpAddr::V6(address)) => {
            let differs = prefix.addr().to_bits() ^ address.to_bits();
            let host_bits = 128 - u32::from(prefix.prefix_len());
            differs.checked_shr(host_bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// True if the address is the link-local one that follows from a MAC address.
fn is_link_local_of(mac: MacAddress, address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6 == mac.link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_holds_what_it_contains(
            bits in any::<u128>(), length in 0u8..=128, flip in 0u32..130, v4 in any::<bool>(),
        ) {
            let other = bits ^ 1u128.checked_shl(flip).unwrap_or(0);
            let address = |bits: u128| match v4 {
                true => IpAddr::V4((bits as u32).into()),
                false => IpAddr::V6(bits.into()),
            };
            let length = if v4 { length.min(32) } else { length };
            let prefix = IpNet::new(address(bits), length).unwrap().trunc();
            for asked in [address(bits), address(other), IpAddr::from([10, 0, 0, 1])] {
                prop_assert_eq!(holds(&prefix, asked), prefix.contains(&asked));
            }
        }
    }

    #[test]
    fn an_uplink_owns_its_addresses_and_its_link_local_one() {
        let mac = MacAddress::new([2, 0x42, 192, 0, 2, 10]);
        let uplink = Uplink {
            epoch: 1,
            id: UplinkId(0),
            name: "wan".into(),
            port: PortId(0),
            mac,
            addresses: vec!["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
            trusted: false,
            host: HostLink::default(),
            link: None,
        };
        assert!(uplink.owns("192.0.2.10".parse().unwrap()));
        assert!(uplink.owns(mac.link_local().into()));
        assert!(!uplink.owns("192.0.2.11".parse().unwrap()));
        assert!(uplink.on_link("192.0.2.11".parse().unwrap()));
        assert!(!uplink.on_link("198.51.100.1".parse().unwrap()));
        assert_eq!(uplink.address_of(true), Some("2001:db8::10".parse().unwrap()));
    }
}
