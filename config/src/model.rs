//! A config that has been checked: what the gateway sets up, and what compiles to tables.
//!
//! Values of these types come from [`Config::parse`](crate::Config::parse) alone (the structs are
//! `non_exhaustive`), so whoever holds one may rely on its rules: names exist and are unique,
//! addresses lie in their subnets, ports do not clash. Defaults are filled in and addresses are
//! allocated. What there may be thousands of is shared, so that a copy of a config with one part
//! changed costs little.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::limits::{Limits, NatSettings};
use engine::tables::{GatewayMode, MssClamp, Protocol};
use engine::{MacAddress, NetworkId, PortId, UplinkId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::diagnostic::Diagnostic;
use crate::host::HostSide;
use crate::names::{InterfaceName, NetnsName};
use crate::policy::Rule;

/// A whole config.
///
/// Its ids are those of a first compile. A reload keeps ids by name:
/// [`Config::adopt_ids`] takes those of the running tables over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Settings of the daemon itself.
    pub gateway: Gateway,
    /// Ways out, in the order of the file. LIMIT: one at most, until routes choose among several.
    pub uplinks: Vec<Uplink>,
    /// Networks, in the order of the file.
    pub networks: Vec<Arc<Network>>,
    /// Endpoints, in the order of the file.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Rules about who may talk to whom, in the order in which they are asked.
    pub policy: Vec<Rule>,
    /// Published ports that the file leaves open: by endpoint, then by mapping as it is written,
    /// what it was given.
    pub(crate) port_leases: BTreeMap<String, BTreeMap<String, Vec<u16>>>,
    /// The last port of the ephemeral range that was given.
    pub(crate) last_port: Option<u16>,
    /// Behaviour of address translation; its epoch, and what follows from ids, is for `compile` to
    /// set.
    pub nat: NatSettings,
    /// Which outside addresses are used for what.
    pub outside: Outside,
    /// Sizes of everything that can fill up.
    pub limits: Limits,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The files that were imported.
    pub imported: Vec<PathBuf>,
}

impl Config {
    /// The network with this name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().map(|network| &**network).find(|network| network.name == name)
    }

    /// The uplink with this name.
    pub fn uplink(&self, name: &str) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.name == name)
    }

    /// The endpoint with this name.
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.iter().map(|endpoint| &**endpoint).find(|endpoint| endpoint.name == name)
    }
}

/// Which outside addresses are used for what, beside those of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outside {
    /// Addresses that masqueraded traffic is spread over; none: each uplink's first.
    pub addresses: Vec<IpAddr>,
    /// Endpoints' addresses with an outside one for themselves.
    pub statics: Vec<StaticRule>,
}

/// An endpoint's address that has an outside one for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticRule {
    /// The endpoint's address.
    pub inside: IpAddr,
    /// One of an uplink's own addresses.
    pub outside: IpAddr,
    /// The endpoint.
    pub endpoint: String,
    /// The network in which it has the address.
    pub network: String,
}

/// Settings of the daemon itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gateway {
    /// Which workers run.
    pub workers: Workers,
    /// What a worker does when nothing waits.
    pub idle: Idle,
    /// Folder of leases and runtime networks.
    pub state: PathBuf,
    /// Socket of the API.
    pub api: PathBuf,
    /// Where the Prometheus text is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// True: the file is watched, and a change is a reload.
    pub watch: bool,
    /// The group that may use the API's socket besides root; `None`: root alone.
    pub api_group: Option<String>,
    /// How the log is written.
    pub log: LogFormat,
    /// Where subnets are taken from that the file does not give, in this order.
    pub address_pools: Vec<AddressPool>,
}

/// A prefix that subnets are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// The prefix; host bits zero.
    pub base: IpNet,
    /// Prefix length of each subnet, at least that of the base.
    pub size: u8,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One on each CPU that the process may use.
    Auto,
    /// So many, at least 1 and at most `engine::id::WORKER_COUNT_MAX`.
    Count(u8),
    /// One on each of these CPUs, in this order; none twice, at least one.
    Cpus(Vec<u16>),
}

/// What a worker does when nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It polls on.
    Busy,
    /// It polls on for a while and sleeps then.
    Adaptive,
    /// It sleeps.
    Interrupt,
}

/// How an uplink's packets go in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkDriver {
    /// By a TAP device whose kernel's end is a neighbour of the gateway.
    Tap,
    /// By AF_XDP on a device that exists already.
    Xdp,
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its id in the tables.
    pub id: UplinkId,
    /// Its port in the tables.
    pub port: PortId,
    /// How packets go in and out.
    pub driver: UplinkDriver,
    /// The device: to be created for a TAP, existing for AF_XDP.
    pub interface: InterfaceName,
    /// The namespace of a TAP's kernel's end, or of the device of AF_XDP; `None`: the gateway's
    /// own.
    pub netns: Option<NetnsName>,
    /// True: that namespace is ours to make and remove.
    pub create_netns: bool,
    /// The gateway's MAC address on it.
    pub mac: MacAddress,
    /// The MAC address of the kernel's end, which differs from `mac`.
    pub host_mac: MacAddress,
    /// The gateway's own addresses, each with its subnet's length; at least one.
    pub addresses: Vec<IpNet>,
    /// Addresses of the kernel's end.
    pub host_addresses: Vec<IpNet>,
    /// Who comes in by it may ask at endpoints' own addresses, for published ports.
    pub trusted: bool,
    /// Default and static routes, without those to the uplink's own subnets.
    pub routes: Arc<Vec<Route>>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The file gives no MTU: that of a device which exists already is taken.
    pub follows_mtu: bool,
    /// By AF_XDP: super-frames leave by a TAP beside the device, and the kernel cuts them.
    pub relay: bool,
    /// The host behind it, if the kernel's end is in the host's own namespace and the gateway takes
    /// care of that.
    pub host: Option<HostSide>,
}

/// A route by an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations; host bits zero.
    pub to: IpNet,
    /// Next hop, on the uplink's own link; `None`: the destination is there itself.
    pub via: Option<IpAddr>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id in the tables.
    pub id: NetworkId,
    /// What it is. All that follows is for bridges.
    pub driver: NetworkDriver,
    /// Its subnets; at least one for a bridge, none for others.
    pub subnets: Vec<Subnet>,
    /// Addresses that are not allocated.
    pub reserved: Vec<IpNet>,
    /// Addresses of stations that are no endpoints, by name.
    pub aux_addresses: Vec<(String, IpAddr)>,
    /// The gateway's MAC address in it.
    pub gateway_mac: MacAddress,
    /// No way out and no publishing.
    pub internal: bool,
    /// Members reach each other at any port.
    pub icc: bool,
    /// How members are reached from outside of it.
    pub mode: GatewayMode,
    /// What leaves takes the uplink's address; never in mode `routed`.
    pub masquerade: bool,
    /// The outside address that it is masqueraded as, of IPv4; `None`: as others.
    pub host_ipv4: Option<IpAddr>,
    /// The same of IPv6.
    pub host_ipv6: Option<IpAddr>,
    /// Where members' MAC addresses come from.
    pub mac_policy: MacPolicy,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// What SYN segments may announce.
    pub mss_clamp: MssClamp,
    /// Multicast goes to those who asked for it.
    pub multicast_snooping: bool,
    /// Name of the uplink that its traffic leaves by; `None`: there is none, or it is internal.
    pub uplink: Option<String>,
    /// How long a released address is given to nobody else.
    pub quarantine: Duration,
    /// What it has as an overlay.
    pub overlay: Option<Overlay>,
    /// What it has as a macvlan or ipvlan network.
    pub parent: Option<Parent>,
}

impl Network {
    /// True if it is a part of an uplink's link.
    pub fn is_on_link(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| !parent.mode.is_routed())
    }
}

/// The uplink that members of a macvlan or ipvlan network are on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// Name of the uplink.
    pub uplink: String,
    /// The VLAN on its link; `None`: what has no tag.
    pub vlan: Option<u16>,
    /// What members are like on the wire, and to each other.
    pub mode: LinkMode,
    /// The port that leads to the wire.
    pub trunk: PortId,
    /// Addresses on the link that are no member's.
    pub(crate) taken: Vec<IpAddr>,
}

/// How members of a macvlan or ipvlan network are on their uplink's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMode {
    /// With MAC addresses of their own.
    Macvlan(MacvlanMode),
    /// With the uplink's.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl LinkMode {
    /// True if members are routed to and have no link.
    pub fn is_routed(self) -> bool {
        matches!(self, LinkMode::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }
}

/// How members of a macvlan network reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Straight.
    Bridge,
    /// Not at all.
    Private,
    /// By a switch on the wire that sends back what is for another one.
    Vepa,
    /// There is one member only, and all that the gateway does not take is for it.
    Passthru,
}

/// On which layer members of an ipvlan network are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    /// One link, told apart by address.
    L2,
    /// Routed, without rules and translation.
    L3,
    /// Routed.
    L3s,
}

/// How members of an ipvlan network on layer 2 reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// Straight.
    Bridge,
    /// Not at all.
    Private,
    /// By a switch on the wire that sends back what is for another one.
    Vepa,
}

/// What a network has as an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlay {
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The UDP port of both ends.
    pub udp_port: u16,
    /// Name of the uplink that the tunnels take.
    pub uplink: String,
    /// Our own end of tunnels with IPv4.
    pub local_v4: Option<IpAddr>,
    /// Our own end of tunnels with IPv6.
    pub local_v6: Option<IpAddr>,
    /// Tunnel ends that are flooded to and learnt from.
    pub peers: Vec<IpAddr>,
    /// Where what is for everybody goes instead of to each peer.
    pub group: Option<IpAddr>,
    /// Members elsewhere.
    pub remotes: Vec<OverlayHost>,
    /// Prefixes behind other gateways.
    pub routes: Vec<OverlayRoute>,
    /// The port by which all that is elsewhere comes in.
    pub trunk: PortId,
    /// All tunnel ends with their ports, ascending.
    pub tunnels: Vec<(IpAddr, PortId)>,
}

impl Overlay {
    /// The other ends of all tunnels; those that are given twice come twice.
    pub(crate) fn ends(&self) -> impl Iterator<Item = IpAddr> {
        let peers = self.peers.iter().copied().chain(self.group);
        let hosts = self.remotes.iter().map(|remote| remote.vtep);
        peers.chain(hosts).chain(self.routes.iter().map(|route| route.host))
    }

    /// The port of a tunnel end.
    pub(crate) fn port_to(&self, vtep: IpAddr) -> Option<PortId> {
        let place = self.tunnels.binary_search_by_key(&vtep, |(end, _)| *end).ok()?;
        Some(self.tunnels[place].1)
    }
}

/// A member of an overlay on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayHost {
    /// Its IP address.
    pub ip: IpAddr,
    /// Its MAC address.
    pub mac: MacAddress,
    /// The tunnel end that it is behind.
    pub vtep: IpAddr,
}

/// A prefix behind another gateway of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayRoute {
    /// Destinations; host bits zero.
    pub subnet: IpNet,
    /// The other gateway's address in the overlay.
    pub vtep_ip: IpAddr,
    /// Its MAC address there.
    pub vtep_mac: MacAddress,
    /// Its tunnel end.
    pub host: IpAddr,
}

/// What a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkDriver {
    /// Members share a link with the gateway.
    Bridge,
    /// A bridge that goes on behind tunnels to other machines.
    Overlay,
    /// Members are on an uplink's link, with MAC addresses of their own.
    Macvlan,
    /// Members are on an uplink's link with its MAC address, or routed to from there.
    Ipvlan,
    /// Its member has a loopback device and nothing else.
    None,
    /// Its member has the host's own network.
    Host,
}

impl NetworkDriver {
    /// True if members have a link to the gateway, and addresses.
    pub fn has_link(self) -> bool {
        !matches!(self, NetworkDriver::None | NetworkDriver::Host)
    }
}

/// A subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix; host bits zero.
    pub prefix: IpNet,
    /// The gateway's address in it.
    pub gateway: IpAddr,
    /// Where addresses are allocated from; the prefix itself if the file says nothing.
    pub range: IpNet,
}

/// Where members' MAC addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPolicy {
    /// 02:42 and the IPv4 address, as Docker did up to 27; without one, as `Random`.
    Derived,
    /// Hashed from the names: looks random, and is the same at every start.
    Random,
}

/// A container, VM or namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// How it is connected.
    pub attach: Attach,
    /// One per network, in the order of the file; at least one, unless `alone_in` says why not.
    pub attachments: Vec<Attachment>,
    /// Name of its network if that is of driver none or host: it is in no other then, and has no
    /// attachments.
    pub alone_in: Option<String>,
    /// Its published ports, one entry per address family.
    pub publish: Vec<Publish>,
}

/// How an endpoint is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// By TAP devices that are moved into a namespace and addressed there.
    Netns {
        /// The namespace.
        netns: NetnsName,
        /// True: the namespace is ours to make and remove.
        create: bool,
    },
    /// By TAP devices that are left in the gateway's own namespace, for a VM. They have the
    /// endpoint's MAC addresses and no IP addresses: those are for whoever is behind them to set.
    Tap,
    /// By AF_XDP on devices of the gateway's own namespace that exist already: a veth, whose other
    /// end is the endpoint's.
    Xdp,
    /// Not at all: it has the host's own network.
    Host,
}

/// An endpoint in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Its port in the tables.
    pub port: PortId,
    /// The device in the endpoint.
    pub interface: InterfaceName,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its IPv4 address with its subnet's length.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address with its subnet's length.
    pub ipv6: Option<Ipv6Net>,
    /// Next hop of the endpoint's IPv4 default route, if this attachment gives it; unspecified: the
    /// device itself.
    pub default_route_v4: Option<IpAddr>,
    /// As `default_route_v4`, of IPv6.
    pub default_route_v6: Option<IpAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Other names in the network.
    pub aliases: Vec<String>,
    /// Priority in the choice of the default route.
    pub gw_priority: i32,
    /// Frames from other MAC or IP addresses are dropped.
    pub anti_spoofing: bool,
}

impl Attachment {
    /// The IPv4 address without its length.
    pub fn ipv4_address(&self) -> Option<Ipv4Addr> {
        self.ipv4.map(|net| net.addr())
    }

    /// The IPv6 address without its length.
    pub fn ipv6_address(&self) -> Option<Ipv6Addr> {
        self.ipv6.map(|net| net.addr())
    }
}

/// A published range of ports, for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Publish {
    /// The address that it is published on; `None`: every uplink address of the target's family;
    /// `::`: every IPv6 address, also where the target has IPv4 only.
    pub host: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// First published port; 0: none, the endpoint's port is only opened (mode `routed`).
    pub host_port: u16,
    /// How many, at least 1.
    pub port_count: u16,
    /// First port at the endpoint.
    pub target_port: u16,
    /// The endpoint's address.
    pub target: IpAddr,
    /// Name of the network by which the endpoint is reached.
    pub network: String,
}
