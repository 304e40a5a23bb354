//! What may stand in a native config: every key, its type, and what it means.
//!
//! The structs say nothing about rules that join several keys: every key may be absent, and
//! `check` decides what that means. Their field names are the known keys; their docs, defaults and
//! bounds become the JSON Schema and the reference in `docs/config.md`, so they are written for
//! operators. No `flatten`, no `untagged`, no tagged enum: places would not survive them.

mod limits;

use engine::limits::NatSettings;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::bounds;
use crate::leases::QUARANTINE_MAX;
use crate::reader::{Field, Named};
use crate::values::{
    Address, Addresses, Mac, MssClamp, Number, Period, PortRange, Prefix, Scalar, Texts,
    WordOrList, Workers, written,
};
use crate::words::{self, known};
pub(crate) use limits::Limits;

/// A native config of Portolan.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Document {
    /// Settings of the daemon itself.
    pub(crate) gateway: Field<Gateway>,
    /// Ways out, by name; one at most in this version.
    pub(crate) uplink: Field<Named<Uplink>>,
    /// Networks, by name.
    pub(crate) network: Field<Named<Network>>,
    /// Containers, VMs and namespaces, by name.
    pub(crate) endpoint: Field<Named<Endpoint>>,
    /// Behaviour of address translation.
    pub(crate) nat: Field<Nat>,
    /// Sizes of everything that can fill up.
    pub(crate) limits: Field<Limits>,
    /// Rules about who may talk to whom, asked in this order before all others; the first that fits
    /// decides.
    pub(crate) policy: Field<Vec<Field<Rule>>>,
    /// Files in other dialects, which join this one. They are read at start and at each reload.
    pub(crate) import: Field<Vec<Field<Import>>>,
}

/// Files in another dialect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["dialect", "path"]))]
pub(crate) struct Import {
    /// What they are written in.
    #[schemars(extend("enum" = ["marathon", "dcos", "cni", "docker"]))]
    pub(crate) dialect: Field<String>,
    /// The file, or a pattern with * and ? within names; relative to the folder of this file.
    #[schemars(extend("minLength" = 1))]
    pub(crate) path: Field<String>,
    /// Settings of the dialect, such as { offered_ports = "31000-32000" }; docs/dialects.md lists
    /// them.
    #[schemars(extend("default" = {}))]
    pub(crate) set: Field<Named<Scalar>>,
}

/// The daemon's own settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Gateway {
    /// CPU ids to run a worker on each, or how many workers, or "auto": one on each CPU that the
    /// process may use.
    #[schemars(extend("default" = "auto"))]
    pub(crate) workers: Field<Workers>,
    /// What a worker does when nothing waits. "busy": it never sleeps. "adaptive": it looks on for
    /// 40 µs, then sleeps. "interrupt": it sleeps at once.
    #[schemars(extend("enum" = known(words::IDLE), "default" = "adaptive"))]
    pub(crate) idle: Field<String>,
    /// Folder of leases and runtime networks; an absolute path.
    #[schemars(extend("default" = "/var/lib/portolan", "pattern" = "^/"))]
    pub(crate) state: Field<String>,
    /// Socket of the API; an absolute path of at most 107 bytes.
    #[schemars(extend("default" = "/run/portolan/portolan.sock", "pattern" = "^/"))]
    pub(crate) api: Field<String>,
    /// The group that may use the API's socket besides root, by name or number. Absent: root alone.
    pub(crate) api_group: Field<String>,
    /// Address and port where the Prometheus text is served, such as "127.0.0.1:9478". Absent:
    /// nowhere.
    pub(crate) metrics: Field<String>,
    /// True: the config file and what it imports are watched, and a change is a reload.
    #[schemars(extend("default" = false))]
    pub(crate) watch: Field<bool>,
    /// How the log is written: lines for people, or one JSON object per line.
    #[schemars(extend("enum" = known(words::LOG), "default" = "text"))]
    pub(crate) log: Field<String>,
    /// Where subnets of networks that name none are taken from, lowest first: a list of prefixes
    /// with the length that each is cut into, or "docker" (Docker's 31 networks of 172.16.0.0/12
    /// and 192.168.0.0/16) or "large" (10.0.0.0/8 in 65,536 networks). A family that the list
    /// leaves out has its default: Docker's for IPv4; for IPv6 a ULA prefix that follows from the
    /// uplinks, in 65,536 networks.
    #[schemars(extend("default" = "docker"))]
    pub(crate) address_pools: Field<WordOrList<AddressPool>>,
}

/// A prefix that subnets are cut from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["base", "size"]))]
pub(crate) struct AddressPool {
    /// The prefix.
    pub(crate) base: Field<Prefix>,
    /// Prefix length of each subnet.
    #[schemars(extend("minimum" = 1, "maximum" = 128))]
    pub(crate) size: Field<Number>,
}

/// A way out of the gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["driver", "interface", "addresses"]))]
pub(crate) struct Uplink {
    /// How packets go in and out: "tap" is a TAP device whose kernel's end is a neighbour of the
    /// gateway; "xdp" is AF_XDP on a device that exists, such as a network card or the end of a
    /// veth. IPv4, ARP and IPv6 on that device are the gateway's then, and the host has no part in
    /// them; what its link is like (state, MTU) stays the host's to set.
    #[schemars(extend("enum" = known(words::UPLINK_DRIVER)))]
    pub(crate) driver: Field<String>,
    /// Name of the device, which is created for a TAP and exists already for AF_XDP.
    #[schemars(extend("minLength" = 1, "maxLength" = crate::names::INTERFACE_NAME_BYTES_MAX))]
    pub(crate) interface: Field<String>,
    /// The namespace that a TAP's kernel's end is put into, or that the device of AF_XDP is in, by
    /// its name below /run/netns. Absent: the gateway's own.
    pub(crate) netns: Field<String>,
    /// True: that namespace is made at start and removed at exit.
    #[schemars(extend("default" = false))]
    pub(crate) create: Field<bool>,
    /// The gateway's own addresses on it, each with its subnet's length; what is masqueraded takes
    /// the first of its family. Or "host": the gateway shares the host's addresses, followed as
    /// they change; the kernel's end is in the host's own namespace then.
    pub(crate) addresses: Field<WordOrList<Prefix>>,
    /// Without `netns`: true if the host is to reach endpoints and published ports through this
    /// uplink, and so is whoever asks for one of the host's addresses (see README.md, The host).
    /// False: nothing is done on the host. Absent: true without `netns`.
    pub(crate) host_side: Field<bool>,
    /// With `host_side`: prefixes of the link between host and gateway, which nobody else sees: one
    /// of IPv4 of length 24, one of IPv6 of length 64, or one of them. Absent: 169.254.86.0/24, for
    /// each further uplink the next; of IPv6 a unique local one hashed from the name.
    pub(crate) link: Field<Vec<Field<Prefix>>>,
    /// Addresses that the kernel's end of the device gets, each with its subnet's length.
    #[schemars(extend("default" = []))]
    pub(crate) host_addresses: Field<Vec<Field<Prefix>>>,
    /// Next hop of the IPv4 default route. Absent: the host with `host_side`; else there is none.
    /// Of several uplinks with a default route of a family the first of the file gives it, unless a
    /// network chooses another by `uplink`. Replies leave by the uplink that their question came
    /// by.
    pub(crate) gateway: Field<Address>,
    /// Next hop of the IPv6 default route. Absent: as `gateway`.
    pub(crate) gateway6: Field<Address>,
    /// True: who comes in by it may ask at endpoints' own addresses, for published ports. Docker's
    /// `trusted_host_interfaces`.
    #[schemars(extend("default" = false))]
    pub(crate) trusted: Field<bool>,
    /// Largest IP packet, in bytes; at least 1280 with IPv6 addresses. By AF_XDP at most what the
    /// device has, which is also what an absent key means.
    #[schemars(extend("minimum" = bounds::MTU_MIN, "maximum" = bounds::MTU_MAX, "default" = 1500))]
    pub(crate) mtu: Field<Number>,
    /// By AF_XDP, where the kernel copies: true if super-frames leave by a TAP beside the device,
    /// `ptl-` and the device's index, and the kernel or the card cuts them, which is faster; false:
    /// the gateway cuts them. To be switched off where an XDP program in generic mode is at the
    /// other end of a veth: it would not see them. Needs Linux 6.6, for tunnels 6.17; before, the
    /// gateway cuts. Absent: true by AF_XDP.
    pub(crate) relay: Field<bool>,
    /// Static routes, besides those to the uplink's own subnets.
    #[schemars(extend("default" = []))]
    pub(crate) routes: Field<Vec<Field<Route>>>,
    /// The gateway's MAC address on it. Absent: 02:42 and its first IPv4 address; without one,
    /// hashed from the name.
    pub(crate) mac: Field<Mac>,
    /// The MAC address of the kernel's end. Absent: hashed from the name.
    pub(crate) host_mac: Field<Mac>,
}

/// A static route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["to"]))]
pub(crate) struct Route {
    /// Destinations.
    pub(crate) to: Field<Prefix>,
    /// Next hop, on the uplink's own link. Absent: the destinations are on that link themselves.
    pub(crate) via: Field<Address>,
}

/// A network that endpoints are in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Network {
    /// "bridge": members share a link with the gateway. "overlay": a bridge that goes on behind
    /// VXLAN tunnels to other machines; what it has beside a bridge's keys is `vni`, `port`,
    /// `peers`, `group`, `remote` and `route`. "macvlan": members are on the link of an uplink
    /// (`parent`), with MAC addresses of their own; "ipvlan": with the uplink's MAC address, or
    /// routed to from there. "none": a member has its loopback device
    /// and nothing else. "host": a member has the host's own network; it is in no namespace, and
    /// its published ports are the host's anyway. The last two have no other keys, and exist under
    /// the names none and host without being written down.
    #[schemars(extend("enum" = known(words::NETWORK_DRIVER), "default" = "bridge"))]
    pub(crate) driver: Field<String>,
    /// Its subnet. Absent, and without `subnets`: the lowest free one of `gateway.address_pools`.
    pub(crate) subnet: Field<Prefix>,
    /// Its subnets, IPv4 and IPv6, instead of `subnet`.
    pub(crate) subnets: Field<Vec<Field<Prefix>>>,
    /// True: it has an IPv4 subnet, one of the pool if the file gives none. Absent: true if the
    /// file gives no subnet at all or one of IPv4.
    pub(crate) ipv4: Field<bool>,
    /// True: it has an IPv6 subnet, one of the pool if the file gives none. Absent: true if the
    /// file gives one.
    pub(crate) ipv6: Field<bool>,
    /// The gateway's address in it. Absent: the first usable one of each subnet that is neither
    /// reserved nor auxiliary.
    pub(crate) gateway: Field<Address>,
    /// The gateway's addresses, at most one per subnet, instead of `gateway`.
    pub(crate) gateways: Field<Vec<Field<Address>>>,
    /// The gateway's MAC address in it. Absent: 02:42 and its first IPv4 address there; without
    /// one, hashed from the name.
    pub(crate) gateway_mac: Field<Mac>,
    /// Where addresses are allocated from. Absent: the whole subnet.
    pub(crate) ip_range: Field<Prefix>,
    /// As `ip_range`, at most one per subnet.
    pub(crate) ip_ranges: Field<Vec<Field<Prefix>>>,
    /// Addresses and prefixes that are not allocated. An endpoint may have one by its key `ip`.
    #[schemars(extend("default" = []))]
    pub(crate) reserved: Field<Vec<Field<Addresses>>>,
    /// Addresses of stations that are no endpoints, by name: no endpoint has one of them.
    #[schemars(extend("default" = {}))]
    pub(crate) aux_addresses: Field<Named<Address>>,
    /// How long a released address is given to no other endpoint, unless there is no other address,
    /// up to 7 days. "0s": it is free at once.
    #[schemars(extend("default" = "0s", "x-maximum" = written(QUARANTINE_MAX)))]
    pub(crate) quarantine: Field<Period>,
    /// True: no way out and no publishing.
    #[schemars(extend("default" = false))]
    pub(crate) internal: Field<bool>,
    /// False: members reach each other only at published ports.
    #[schemars(extend("default" = true))]
    pub(crate) icc: Field<bool>,
    /// Docker's gateway mode: how members are reached from outside of the network. "nat": at
    /// published ports of the gateway's addresses. "nat-unprotected": so, and at every port of
    /// their own addresses. "routed": at published ports of their own addresses and by ICMP;
    /// nothing is translated, and of what `publish` says of the gateway's side nothing counts.
    /// "isolated", for internal networks: not at all, and the gateway has no address there either.
    /// Macvlan: how members reach each other. "bridge", the default: straight. "private": not at
    /// all. "vepa": by a switch on the wire that sends back what is for another member. "passthru":
    /// there is one member, which gets all that the gateway does not take. Ipvlan: "l2", the
    /// default: members are on the link and told apart by address. "l3": they are routed to, with
    /// neither ARP nor broadcasts, and no rule or translation. "l3s": so, with both.
    #[schemars(extend("enum" = modes()))]
    pub(crate) mode: Field<String>,
    /// True: what leaves takes the uplink's address. In mode "routed" it never does.
    #[schemars(extend("default" = true))]
    pub(crate) masquerade: Field<bool>,
    /// The outside IPv4 address that it is masqueraded as, one of its uplink's own. Absent: by
    /// `nat.addresses`.
    pub(crate) host_ipv4: Field<Address>,
    /// The outside IPv6 address that it is masqueraded as. Absent: as `host_ipv4`.
    pub(crate) host_ipv6: Field<Address>,
    /// MAC addresses that the file does not give: 02:42 and the IPv4 address, or random-looking,
    /// hashed from the names, so that they are the same at every start.
    #[schemars(extend("enum" = known(words::MAC_POLICY), "default" = "derived"))]
    pub(crate) mac_policy: Field<String>,
    /// Largest IP packet, in bytes; at least 1280 with an IPv6 subnet. Absent: the uplink's; of an
    /// overlay 50 less, with a tunnel end of IPv6 70 less, which is also the most it can be.
    #[schemars(extend("minimum" = bounds::MTU_MIN, "maximum" = bounds::MTU_MAX))]
    pub(crate) mtu: Field<Number>,
    /// The uplink whose default route its traffic takes. Absent: the only one, or of several the
    /// first with a default route, unless it is internal. Other routes hold for all networks.
    pub(crate) uplink: Field<String>,
    /// Largest segment size that SYN segments from its members, or to them, announce; a larger one
    /// is lowered, in both directions. "auto": what fits the path, where that is smaller than the
    /// endpoint's own MTU, and what ICMP has said of the path counts. A number: so many bytes.
    /// "off": it is left alone.
    #[schemars(extend("default" = "auto"))]
    pub(crate) mss_clamp: Field<MssClamp>,
    /// Multicast goes to members that asked for its group by IGMP or MLD, while somebody queries in
    /// the network. false: to all members, and reports are not listened to.
    #[schemars(extend("default" = true))]
    pub(crate) multicast_snooping: Field<bool>,
    /// Macvlan, ipvlan: the uplink whose link members are on, by its name or its interface's, and
    /// the VLAN there, if it is one: "wan" or "wan.100". Absent: `uplink`, or the only one. Each
    /// VLAN, and what has no tag, is of one network.
    pub(crate) parent: Field<String>,
    /// Macvlan, ipvlan: the VLAN on the parent's link, instead of a number behind its name.
    #[schemars(extend("minimum" = 1, "maximum" = bounds::VLAN_MAX))]
    pub(crate) vlan: Field<Number>,
    /// Ipvlan of mode "l2": how members reach each other. "bridge", the default: straight.
    /// "private": not at all. "vepa": by a switch on the wire.
    #[schemars(extend("enum" = known(words::IPVLAN_FLAG)))]
    pub(crate) flag: Field<String>,
    /// Overlay: the VXLAN network identifier, needed. Networks with one UDP port are told apart by
    /// it.
    #[schemars(extend("minimum" = 1, "maximum" = bounds::VNI_MAX))]
    pub(crate) vni: Field<Number>,
    /// Overlay: the UDP port of both ends. Absent: 4789.
    #[schemars(extend("minimum" = 1, "maximum" = bounds::TUNNEL_PORT_MAX))]
    pub(crate) port: Field<Number>,
    /// Overlay: addresses of tunnel ends on other machines. What is for everybody goes to each, and
    /// stations behind them are learnt; packets of other senders are dropped.
    pub(crate) peers: Field<Vec<Field<Address>>>,
    /// Overlay: a multicast address; what is for everybody goes there, once, instead of to each
    /// peer. The group is joined on the uplink's link (IGMP, MLD).
    pub(crate) group: Field<Address>,
    /// Overlay: members elsewhere, whom nothing is learnt about. ARP and ND for them are answered
    /// here; without `peers` nothing is flooded.
    pub(crate) remote: Field<Vec<Field<Remote>>>,
    /// Overlay: prefixes that other gateways route to, as DC/OS has one per agent. They are part of
    /// the network: not masqueraded towards, and not another network's.
    pub(crate) route: Field<Vec<Field<OverlayRoute>>>,
}

/// Every word of `mode`, whatever the driver.
fn modes() -> Vec<&'static str> {
    let of_link = known(words::MACVLAN_MODE).into_iter().chain(known(words::IPVLAN_MODE));
    known(words::MODE).into_iter().chain(of_link).collect()
}

/// A member of an overlay on another machine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["ip", "mac", "vtep"]))]
pub(crate) struct Remote {
    /// Its IP address, in one of the network's subnets.
    pub(crate) ip: Field<Address>,
    /// Its MAC address.
    pub(crate) mac: Field<Mac>,
    /// Address of the tunnel end that it is behind.
    pub(crate) vtep: Field<Address>,
}

/// A prefix behind another gateway of an overlay.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(
    deny_unknown_fields,
    extend("required" = ["subnet", "vtep_ip", "vtep_mac", "host"])
)]
pub(crate) struct OverlayRoute {
    /// Destinations, outside of the network's own subnets. The most specific route counts.
    pub(crate) subnet: Field<Prefix>,
    /// The other gateway's address in the overlay: its name for the next hop, and on no wire.
    pub(crate) vtep_ip: Field<Address>,
    /// The other gateway's MAC address in the overlay.
    pub(crate) vtep_mac: Field<Mac>,
    /// Address of its tunnel end.
    pub(crate) host: Field<Address>,
}

/// A container, VM or namespace.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["network"]))]
pub(crate) struct Endpoint {
    /// How it is connected. Needed, but for an endpoint of a host network, which is not.
    pub(crate) attach: Field<Attach>,
    /// Published ports in the grammar of Docker's `-p`: [[address:]port[-port]:]port[-port]
    /// [/tcp|udp|sctp], such as "8080:80" or "192.0.2.10:8000-8010:9000-9010/udp". Without a port
    /// on the gateway ("80") the next free one of the system's ephemeral range is given, of a
    /// range for one port ("8000-8010:80") the lowest free one; it is the same in both families
    /// and is kept over restarts. The address is one of the uplink's, or a loopback address for
    /// the host itself alone; without one, or with 0.0.0.0 or [::], the port is published on all
    /// of the uplink's. It leads to the network that gives the default route.
    #[schemars(extend("default" = []))]
    pub(crate) publish: Field<Vec<Field<String>>>,
    /// Ports that it serves, such as "80", "8000-8010" or "53/udp", as Docker's `--expose` has
    /// them. Alone they open nothing.
    pub(crate) expose: Field<Vec<Field<String>>>,
    /// True: each port of `expose` that `publish` does not lead to is published as well, at the
    /// next free port of the system's ephemeral range, as Docker's `-P` does it. Absent: false.
    pub(crate) publish_all: Field<bool>,
    /// The networks that it is in, one table each.
    #[schemars(extend("minItems" = 1))]
    pub(crate) network: Field<Vec<Field<EndpointNetwork>>>,
}

/// How an endpoint is connected: by `netns`, by `tap` or by `xdp`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Attach {
    /// The network namespace that its devices are put into and addressed in, by its name below
    /// /run/netns.
    pub(crate) netns: Field<String>,
    /// With `netns`: name of its first device. Absent: eth0, or what the network's table says.
    #[schemars(extend("minLength" = 1, "maxLength" = crate::names::INTERFACE_NAME_BYTES_MAX))]
    pub(crate) interface: Field<String>,
    /// With `netns`: true if the namespace is made at start and removed at exit.
    #[schemars(extend("default" = false))]
    pub(crate) create: Field<bool>,
    /// Name of a TAP device that is made and left in the gateway's own namespace, for a VM. It has
    /// the endpoint's MAC address and no IP address: that is for the VM to set.
    #[schemars(extend("minLength" = 1, "maxLength" = crate::names::INTERFACE_NAME_BYTES_MAX))]
    pub(crate) tap: Field<String>,
    /// Name of an existing device in the gateway's own namespace that is used by AF_XDP, as a rule
    /// the end of a veth whose other end is the endpoint's. That other end is found by its
    /// namespace, if that has a name or a process; then it gets the endpoint's MAC address, IP
    /// addresses and routes, its offloads are switched off, and all that is undone at the end. One
    /// that is not found is for the operator to set; the log has the commands.
    #[schemars(extend("minLength" = 1, "maxLength" = crate::names::INTERFACE_NAME_BYTES_MAX))]
    pub(crate) xdp: Field<String>,
}

/// An endpoint in one network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["name"]))]
pub(crate) struct EndpointNetwork {
    /// The network.
    pub(crate) name: Field<String>,
    /// Its IPv4 address. Absent: the one that it had before, else the lowest free one.
    pub(crate) ip: Field<Address>,
    /// Its IPv6 address. Absent: as `ip`.
    pub(crate) ip6: Field<Address>,
    /// Its MAC address. Absent: by the network's `mac_policy`.
    pub(crate) mac: Field<Mac>,
    /// Other names of it in this network; checked, but nothing uses them yet.
    #[schemars(extend("default" = []))]
    pub(crate) aliases: Field<Vec<Field<String>>>,
    /// Of the networks that have a way out, the one with the highest priority gives the default
    /// route; then the one with more address families; then the first by name. Each family is
    /// chosen apart.
    #[schemars(extend("minimum" = i32::MIN, "maximum" = i32::MAX, "default" = 0))]
    pub(crate) gw_priority: Field<Number>,
    /// The families whose default route this network gives, whatever the priorities say; an empty
    /// list: none. Absent: by the priorities.
    #[schemars(extend("items" = { "type": "string", "enum": known(words::FAMILY) }))]
    pub(crate) default_route: Field<Vec<Field<String>>>,
    /// False: frames from any MAC and IP address are taken, as a bridge or router behind the
    /// endpoint needs it.
    #[schemars(extend("default" = true))]
    pub(crate) anti_spoofing: Field<bool>,
    /// Name of the device. Absent: what `attach` says for the first network; eth1, eth2 and so on
    /// for the others. Behind `attach.tap`, each but the first needs one.
    #[schemars(extend("minLength" = 1, "maxLength" = crate::names::INTERFACE_NAME_BYTES_MAX))]
    pub(crate) interface: Field<String>,
}

/// A rule about what passes the gateway: the first packet of a connection is asked about, as it
/// came, so its addresses and ports are the host's where they are published. It says nothing about
/// frames inside one network, nor about what the gateway itself answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["action"]))]
pub(crate) struct Rule {
    /// "deny": it is dropped. "reject": its sender is told, by a TCP reset or an ICMP error.
    /// "allow": it passes whatever `icc`, `mode` and `publish` say; an internal network stays
    /// closed.
    #[schemars(extend("enum" = known(words::RULE_ACTION)))]
    pub(crate) action: Field<String>,
    /// Who sends. Absent: anybody.
    pub(crate) from: Field<RuleSide>,
    /// To whom. Absent: to anybody.
    pub(crate) to: Field<RuleSide>,
    /// Of which protocol: tcp, udp, sctp, icmp (of both families) or a number, as text. Absent: of
    /// any.
    pub(crate) protocol: Field<String>,
}

/// One side of a rule; all that it says must fit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct RuleSide {
    /// Behind this uplink.
    pub(crate) uplink: Field<String>,
    /// In this network.
    pub(crate) network: Field<String>,
    /// This endpoint, by its own or a published address.
    pub(crate) endpoint: Field<String>,
    /// An address or prefix, or several.
    pub(crate) cidr: Field<Texts>,
    /// Ports such as 80, 8000-8010 or 53/udp, or several; of a published port the host's.
    pub(crate) ports: Field<Texts>,
}

/// Behaviour of address translation.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Nat {
    /// Who may send to the outside port of a mapping (RFC 4787 section 5), which is the same
    /// whoever the inside talks to. "address-and-port": the sockets that it has sent to. "address":
    /// their addresses, whatever the port. "endpoint": everybody.
    #[schemars(extend("enum" = known(words::FILTERING), "default" = "address-and-port"))]
    pub(crate) filtering: Field<String>,
    /// The ports that masqueraded traffic may take; at least 1024 of them, all from 1024 up.
    #[schemars(extend("default" = port_range_default()))]
    pub(crate) ports: Field<PortRange>,
    /// Outside addresses that masqueraded traffic is spread over, each one of an uplink's own. An
    /// inside address keeps to one of them (RFC 4787 REQ-2). Absent, or none of the family: the
    /// uplink's first address.
    #[schemars(extend("default" = []))]
    pub(crate) addresses: Field<Vec<Field<Address>>>,
    /// Endpoints that have an outside address for themselves, one table each.
    #[serde(rename = "static")]
    pub(crate) statics: Field<Vec<Field<StaticNat>>>,
    /// True: a TCP connection whose beginning was not seen is taken where it is, so that one lives
    /// on when the gateway is started again. False: its segments are dropped (no_connection).
    #[schemars(extend("default" = true))]
    pub(crate) tcp_pickup: Field<bool>,
    /// Idle times after which a flow ends.
    pub(crate) timeouts: Field<Timeouts>,
}

/// An endpoint's address that leaves as an outside address of its own, and is reached by it: every
/// port and every protocol without a checksum that NAT cannot correct.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["inside", "outside"]))]
pub(crate) struct StaticNat {
    /// An address that an endpoint has by the key `ip` or `ip6`.
    pub(crate) inside: Field<Address>,
    /// The network that `inside` is in, where several have that address.
    pub(crate) network: Field<String>,
    /// One of an uplink's own addresses, which nothing else leaves as.
    pub(crate) outside: Field<Address>,
}

/// Idle times after which a flow ends: from 1 second to 5 days.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// An open TCP connection. RFC 5382 REQ-5 asks for 2h4m at least.
    #[schemars(extend("default" = written(timeouts().tcp_established)))]
    pub(crate) tcp_established: Field<Period>,
    /// A TCP connection that is opening or closing, where the two following keys do not say.
    /// Absent: 4m. RFC 5382 REQ-5 asks for that at least.
    pub(crate) tcp_transitory: Field<Period>,
    /// A TCP connection that is opening. Absent: `tcp_transitory`.
    pub(crate) tcp_opening: Field<Period>,
    /// A TCP connection that one side has finished. Absent: `tcp_transitory`.
    pub(crate) tcp_closing: Field<Period>,
    /// A TCP connection that both sides have finished, so that late segments find it.
    #[schemars(extend("default" = written(timeouts().tcp_time_wait)))]
    pub(crate) tcp_time_wait: Field<Period>,
    /// A TCP connection after a reset, which may have been made up: what either side sends
    /// meanwhile takes it back. RFC 7857 section 2.2 asks for 4m at least.
    #[schemars(extend("default" = written(timeouts().tcp_reset)))]
    pub(crate) tcp_reset: Field<Period>,
    /// An open SCTP association. Its ends say every 30 s that they are there.
    #[schemars(extend("default" = written(timeouts().sctp_established)))]
    pub(crate) sctp_established: Field<Period>,
    /// An SCTP association that is opening, closing or over.
    #[schemars(extend("default" = written(timeouts().sctp_transitory)))]
    pub(crate) sctp_transitory: Field<Period>,
    /// UDP. RFC 4787 REQ-5 asks for 2m at least and recommends 5m.
    #[schemars(extend("default" = written(timeouts().udp)))]
    pub(crate) udp: Field<Period>,
    /// ICMP queries, such as echo. RFC 5508 REQ-2 asks for 1m at least.
    #[schemars(extend("default" = written(timeouts().icmp)))]
    pub(crate) icmp: Field<Period>,
    /// Any other protocol.
    #[schemars(extend("default" = written(timeouts().other)))]
    pub(crate) other: Field<Period>,
}

fn timeouts() -> engine::limits::Timeouts {
    NatSettings::default().timeouts
}

fn port_range_default() -> String {
    let nat = NatSettings::default();
    format!("{}-{}", nat.port_min, nat.port_max)
}
