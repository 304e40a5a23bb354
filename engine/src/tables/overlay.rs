//! Networks that span hosts: what a network knows about tunnels.
//!
//! An overlay has one *trunk* port, by which all that comes out of tunnels comes in, so that flows
//! do not depend on where a station is, and one *tunnel* port per VTEP, by which frames leave and
//! behind which stations are. None of them has a device: what leaves by one leaves by the uplink,
//! with an outer header. What is static (remotes, routes) is here; what is learnt is the FDB's.

use std::net::IpAddr;

use super::{Routes, TableMap};
use crate::id::{MacAddress, NetworkId, PortId, UplinkId};

/// A VXLAN network identifier (RFC 7348): 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(pub u32);

impl Vni {
    /// The highest there is.
    pub const MAX: Vni = Vni((1 << 24) - 1);
}

/// What is behind a port of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The network.
    pub network: NetworkId,
    /// Its identifier on the wire.
    pub vni: Vni,
    /// The UDP port of both ends.
    pub udp_port: u16,
    /// The uplink that the outer packets take.
    pub uplink: UplinkId,
    /// Our own tunnel end.
    pub local: IpAddr,
    /// Where it leads.
    pub end: TunnelEnd,
}

/// Where a port of an overlay leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// The trunk: to the VTEP that a frame's destination is behind, and what is for everybody to
    /// each of these tunnels.
    Trunk(Vec<PortId>),
    /// To this VTEP; to a group of them if the address is one.
    Vtep(IpAddr),
}

/// What makes a network an overlay.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The trunk's port.
    pub trunk: PortId,
    /// Ports of all tunnels, ascending.
    pub tunnels: Vec<PortId>,
    /// Stations behind tunnels are learnt, and what is for everybody goes there.
    pub learns: bool,
    /// MAC addresses of static hosts and of next hops, by IP address.
    pub hosts: TableMap<IpAddr, MacAddress>,
    /// Prefixes behind other gateways, each by one of `hosts`.
    pub routes: Routes,
}

impl PartialEq for Overlay {
    fn eq(&self, other: &Overlay) -> bool {
        self.trunk == other.trunk
            && self.tunnels == other.tunnels
            && self.learns == other.learns
            && self.hosts == other.hosts
            && self.routes.same_routes(&other.routes)
    }
}

impl Eq for Overlay {}

impl Overlay {
    /// True if the port is the trunk or a tunnel.
    pub fn has(&self, port: PortId) -> bool {
        port == self.trunk || self.tunnels.binary_search(&port).is_ok()
    }

    /// How long the prefix is by which an address is behind the trunk: a host's own, or a route's.
    pub(crate) fn length_to(&self, address: IpAddr) -> Option<u8> {
        match self.hosts.contains_key(&address) {
            true => Some(if address.is_ipv6() { 128 } else { 32 }),
            false => self.routes.to(address).map(|route| route.to.prefix_len()),
        }
    }
}
