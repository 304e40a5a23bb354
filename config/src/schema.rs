//! What may stand in a native config: every key, its type, and what it means.
//!
//! The structs say nothing about defaults and rules: every key may be absent, and `check` decides
//! what that means. Their field names are the known keys, and their docs the reference of the
//! config. No `flatten`, no `untagged`, no tagged enum: places would not survive them.
//!
//! Keys whose feature comes with a later version are of type [`Later`]: they are known, so that
//! the message is "not in this version" instead of "unknown key".

use serde::Deserialize;

use crate::reader::{Field, Named};
use crate::values::{
    Address, Later, Mac, Number, Period, PortRange, Prefix, UplinkAddresses, Workers,
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Document {
    /// Settings of the daemon itself.
    pub(crate) gateway: Field<Gateway>,
    /// Ways out, by name.
    pub(crate) uplink: Field<Named<Uplink>>,
    /// Networks, by name.
    pub(crate) network: Field<Named<Network>>,
    /// Endpoints, by name.
    pub(crate) endpoint: Field<Named<Endpoint>>,
    /// Behaviour of address translation.
    pub(crate) nat: Field<Nat>,
    /// Sizes of everything that can fill up.
    pub(crate) limits: Field<Limits>,
    /// Rules about who may talk to whom.
    pub(crate) policy: Field<Later>,
    /// Files in other dialects.
    pub(crate) import: Field<Later>,
}

/// `[gateway]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Gateway {
    /// CPU ids, or a count, or "auto" (the default): one worker per CPU that the process may use.
    pub(crate) workers: Field<Workers>,
    /// busy, adaptive (the default) or interrupt.
    pub(crate) idle: Field<String>,
    /// Folder of leases and runtime networks.
    pub(crate) state: Field<String>,
    /// Socket of the API.
    pub(crate) api: Field<String>,
    /// Address and port of the Prometheus text; absent: off.
    pub(crate) metrics: Field<String>,
    /// True: the file is watched, and a change is a reload. False is the default.
    pub(crate) watch: Field<bool>,
    /// The group that may use the API's socket; absent: root alone.
    pub(crate) api_group: Field<String>,
    /// text (the default) or json.
    pub(crate) log: Field<String>,
}

/// `[uplink.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Uplink {
    /// tap; xdp comes later.
    pub(crate) driver: Field<String>,
    /// The device, which is created.
    pub(crate) interface: Field<String>,
    /// The namespace that the kernel's end is put into; absent: the gateway's own.
    pub(crate) netns: Field<String>,
    /// True: the namespace is made at start and removed at exit.
    pub(crate) create: Field<bool>,
    /// The gateway's own addresses on it.
    pub(crate) addresses: Field<UplinkAddresses>,
    /// Addresses that the kernel's end of the device gets.
    pub(crate) host_addresses: Field<Vec<Field<Prefix>>>,
    /// Next hop of the IPv4 default route.
    pub(crate) gateway: Field<Address>,
    /// Next hop of the IPv6 default route.
    pub(crate) gateway6: Field<Address>,
    /// Largest IP packet in bytes; absent: 1500.
    pub(crate) mtu: Field<Number>,
    /// Static routes.
    pub(crate) routes: Field<Vec<Field<Route>>>,
}

/// An element of `routes` of an uplink.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Route {
    /// Destinations.
    pub(crate) to: Field<Prefix>,
    /// Next hop; absent: the destinations are on the uplink's own link.
    pub(crate) via: Field<Address>,
}

/// `[network.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Network {
    /// bridge (the default); others come later.
    pub(crate) driver: Field<String>,
    /// Its subnet.
    pub(crate) subnet: Field<Prefix>,
    /// Its subnets, IPv4 and IPv6, instead of `subnet`.
    pub(crate) subnets: Field<Vec<Field<Prefix>>>,
    /// The gateway's address; absent: the first usable one of the subnet.
    pub(crate) gateway: Field<Address>,
    /// The gateway's addresses, at most one per subnet, instead of `gateway`.
    pub(crate) gateways: Field<Vec<Field<Address>>>,
    /// Where addresses are allocated from; absent: the whole subnet.
    pub(crate) ip_range: Field<Prefix>,
    /// As `ip_range`, at most one per subnet.
    pub(crate) ip_ranges: Field<Vec<Field<Prefix>>>,
    /// True: no way out and no publishing.
    pub(crate) internal: Field<bool>,
    /// False: members reach each other only at published ports. True is the default.
    pub(crate) icc: Field<bool>,
    /// nat (the default); others come later.
    pub(crate) mode: Field<String>,
    /// True (the default): what leaves takes the uplink's address.
    pub(crate) masquerade: Field<bool>,
    /// derived (02:42 and the IPv4 address; the default) or random.
    pub(crate) mac_policy: Field<String>,
    /// Largest IP packet in bytes; absent: the uplink's.
    pub(crate) mtu: Field<Number>,
    /// The uplink that its traffic leaves by; absent: the only one.
    pub(crate) uplink: Field<String>,
    /// How long a released address is given to nobody else, such as "60s"; absent: no time at all.
    pub(crate) quarantine: Field<Period>,
    /// Clamping of TCP's segment size.
    pub(crate) mss_clamp: Field<Later>,
    /// Overlay: the VXLAN network identifier.
    pub(crate) vni: Field<Later>,
    /// Overlay: the UDP port.
    pub(crate) port: Field<Later>,
    /// Overlay: tunnel ends that are flooded to and learnt from.
    pub(crate) peers: Field<Later>,
    /// Overlay: members elsewhere.
    pub(crate) remote: Field<Later>,
}

/// `[endpoint.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoint {
    /// How it is connected.
    pub(crate) attach: Field<Attach>,
    /// Published ports in Docker's `-p` grammar.
    pub(crate) publish: Field<Vec<Field<String>>>,
    /// The networks that it is in.
    pub(crate) network: Field<Vec<Field<EndpointNetwork>>>,
}

/// `attach` of an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Attach {
    /// The network namespace that its devices are put into.
    pub(crate) netns: Field<String>,
    /// Name of its first device; absent: eth0.
    pub(crate) interface: Field<String>,
    /// True: the namespace is made at start and removed at exit.
    pub(crate) create: Field<bool>,
    /// Name of a TAP device that is made and left in the gateway's own namespace, for a VM.
    pub(crate) tap: Field<String>,
    /// AF_XDP on an existing device.
    pub(crate) xdp: Field<Later>,
}

/// `[[endpoint.NAME.network]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointNetwork {
    /// The network.
    pub(crate) name: Field<String>,
    /// Its IPv4 address; absent: the lowest free one.
    pub(crate) ip: Field<Address>,
    /// Its IPv6 address; absent: the lowest free one.
    pub(crate) ip6: Field<Address>,
    /// Its MAC address; absent: by the network's `mac_policy`.
    pub(crate) mac: Field<Mac>,
    /// Other names of it in this network.
    pub(crate) aliases: Field<Vec<Field<String>>>,
    /// The network with the highest priority gives the default route; 0 when absent.
    pub(crate) gw_priority: Field<Number>,
    /// False: frames from any MAC and IP address are taken. True is the default.
    pub(crate) anti_spoofing: Field<bool>,
    /// Name of the device; absent: `attach.interface` for the first network, eth1 and so on for
    /// the others.
    pub(crate) interface: Field<String>,
}

/// `[nat]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Nat {
    /// address-and-port (the default); endpoint comes later.
    pub(crate) filtering: Field<String>,
    /// The ports that masqueraded traffic may take.
    pub(crate) ports: Field<PortRange>,
    /// Idle times after which a flow ends.
    pub(crate) timeouts: Field<Timeouts>,
}

/// `timeouts` of `[nat]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Timeouts {
    /// An open TCP connection.
    pub(crate) tcp_established: Field<Period>,
    /// A TCP connection that is opening or closing.
    pub(crate) tcp_transitory: Field<Period>,
    /// A TCP connection after its end.
    pub(crate) tcp_time_wait: Field<Period>,
    /// UDP.
    pub(crate) udp: Field<Period>,
    /// ICMP queries.
    pub(crate) icmp: Field<Period>,
    /// Any other protocol.
    pub(crate) other: Field<Period>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// Flows in all.
    pub(crate) flows: Field<Number>,
    /// Flows that one port may have started.
    pub(crate) flows_per_port: Field<Number>,
    /// Stations in the FDB.
    pub(crate) fdb: Field<Number>,
    /// Stations learnt from one port.
    pub(crate) fdb_per_port: Field<Number>,
    /// Neighbours on all ports.
    pub(crate) neighbours: Field<Number>,
    /// Packets that wait for one neighbour.
    pub(crate) held_per_neighbour: Field<Number>,
    /// Fragmented datagrams under way.
    pub(crate) fragments: Field<Number>,
    /// Frames that one port may have flooded, per second.
    pub(crate) floods_per_second: Field<Number>,
    /// ICMP errors and resets sent, per second.
    pub(crate) answers_per_second: Field<Number>,
    /// Packets in one hand-over ring.
    pub(crate) hand_over: Field<Number>,
}
