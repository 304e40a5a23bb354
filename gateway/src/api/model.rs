//! What the API says: the shape of every answer, shared by the daemon and its client.
//!
//! Field names end in their unit where they have one. Addresses, prefixes and MAC addresses are
//! text as people write it. Fields are only ever added: a client must pass over what it does not
//! know. The one hard constraint: nothing here knows where the values come from.

use serde::{Deserialize, Serialize};

/// A piece of a list.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// The cursor of the next piece; `None`: that was all.
    pub next: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Failure {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Of a refused config: everything that is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// Something about a config.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// Line, from 1; 0: the file as a whole.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key.
    pub path: String,
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// The same with the offending line, for people.
    pub text: String,
}

/// Which program answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Version {
    /// Version of the program.
    pub version: String,
    /// Version of the API, as in the path.
    pub api: u32,
}

/// The gateway at a glance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The config file.
    pub config: Option<String>,
    /// Generation of the tables: grows with every change.
    pub generation: u64,
    /// When it started, in seconds since 1970.
    pub started_at_s: u64,
    /// How long it has run.
    pub uptime_s: f64,
    /// Workers.
    pub workers: u64,
    /// Networks.
    pub networks: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Ports: attachments of endpoints, and uplinks.
    pub ports: u64,
    /// Ports whose device is gone.
    pub ports_down: u64,
    /// Published ranges.
    pub publish: u64,
    /// Flows of all workers.
    pub flows: u64,
    /// Packets received by all ports.
    pub rx_packets: u64,
    /// Packets dropped, for whatever reason.
    pub dropped_packets: u64,
    /// Reloads that were applied.
    pub reloads_applied: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Traffic {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, Ethernet header included.
    pub rx_bytes: u64,
    /// Packets received and dropped later.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_dropped: u64,
}

/// A subnet of a network.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Subnet {
    /// The prefix.
    pub prefix: String,
    /// The gateway's address in it.
    pub gateway: String,
    /// Where addresses are allocated from.
    pub range: String,
}

/// A network.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// The gateway's MAC address in it.
    pub gateway_mac: String,
    /// No way out and no publishing.
    pub internal: bool,
    /// Members reach each other at any port.
    pub icc: bool,
    /// How members are reached from outside of it.
    pub mode: String,
    /// What leaves takes the uplink's address.
    pub masquerade: bool,
    /// Largest IP packet.
    pub mtu_bytes: u16,
    /// The uplink that its traffic leaves by.
    pub uplink: Option<String>,
    /// How many endpoints are members.
    pub endpoints: u64,
    /// Sum over its ports, those that are gone included.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// `netns`: its devices are in a namespace; `tap`: they are left in the host's; `host`: it has
    /// none, but the host's network.
    pub attach: String,
    /// The namespace.
    pub netns: Option<String>,
    /// Its networks.
    pub networks: Vec<Attachment>,
    /// Name of its network, if that is of driver none or host.
    pub alone_in: Option<String>,
    /// Its published ports, as `-p` takes them.
    pub publish: Vec<String>,
}

/// An endpoint in one network.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// The port of the gateway.
    pub port: String,
    /// The device in the endpoint.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Its IPv4 address with the subnet's length.
    pub ipv4: Option<String>,
    /// Its IPv6 address with the subnet's length.
    pub ipv6: Option<String>,
    /// Next hop of its IPv4 default route, if this network gives it.
    pub default_route_v4: Option<String>,
    /// Next hop of its IPv6 default route, if this network gives it.
    pub default_route_v6: Option<String>,
    /// Largest IP packet.
    pub mtu_bytes: u16,
    /// Other names in the network.
    pub aliases: Vec<String>,
    /// Frames from other addresses are dropped.
    pub anti_spoofing: bool,
    /// False: the device is gone.
    pub up: bool,
}

/// A port of the gateway.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Port {
    /// `ENDPOINT/NETWORK`, or the uplink's name.
    pub name: String,
    /// `endpoint` or `uplink`.
    pub kind: String,
    /// `tap` or `xdp`.
    pub driver: String,
    /// How AF_XDP uses the device, such as `generic copy`; `None`: the driver is another one, or
    /// the device is gone.
    pub mode: Option<String>,
    /// The endpoint behind it.
    pub endpoint: Option<String>,
    /// The endpoint's network.
    pub network: Option<String>,
    /// The device at its other end.
    pub device: String,
    /// The namespace that the device is in; `None`: the host's.
    pub netns: Option<String>,
    /// False: the device is gone.
    pub up: bool,
    /// False: the device is taken down where it is.
    pub link_up: bool,
    /// Largest IP packet.
    pub mtu_bytes: u16,
    /// What went through.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A MAC address in a network.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Station {
    /// The network.
    pub network: String,
    /// The address.
    pub mac: String,
    /// The port behind which it is.
    pub port: String,
    /// `member`: by the config; `learnt`: heard.
    pub kind: String,
    /// Of a learnt one: how long ago it was heard last.
    pub age_s: Option<f64>,
}

/// What is known of a multicast group in a network.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Group {
    /// The network.
    pub network: String,
    /// The group's MAC address; `null`: it is about all groups of the family.
    pub group: Option<String>,
    /// The port behind which who said it is; `null`: it does not matter.
    pub port: Option<String>,
    /// `member`: in the group; `router`: gets all groups; `querier`: somebody asks, so that frames
    /// go only to those.
    pub kind: String,
    /// `IPv4` (IGMP) or `IPv6` (MLD).
    pub family: String,
    /// How long ago it was heard last, about.
    pub age_s: f64,
    /// When it is forgotten, unless it is heard again.
    pub left_s: f64,
}

/// Addresses and ports of a packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Tuple {
    /// Source address.
    pub source: String,
    /// Source port; of an echo its identifier; 0 where there is none.
    pub source_port: u16,
    /// Destination address.
    pub destination: String,
    /// Destination port; of an echo reply its identifier; 0 where there is none.
    pub destination_port: u16,
}

/// A flow.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flow {
    /// The worker that owns it.
    pub worker: u8,
    /// Its protocol: a name, or a number where there is none.
    pub protocol: String,
    /// The port by which its first packet came.
    pub ingress: String,
    /// The port by which replies come.
    pub egress: String,
    /// Its first packet, as it came.
    pub original: Tuple,
    /// The same packet, as it leaves.
    pub translated: Tuple,
    /// State of a TCP connection.
    pub state: Option<String>,
    /// How long ago its first packet came.
    pub age_s: f64,
    /// How long ago its last packet came.
    pub idle_s: f64,
    /// After which idle time it ends.
    pub timeout_s: f64,
    /// Packets of the original side, modulo 2^32.
    pub packets: u64,
    /// Bytes of the original side.
    pub bytes: u64,
    /// Packets of the reply side, modulo 2^32.
    pub reply_packets: u64,
    /// Bytes of the reply side.
    pub reply_bytes: u64,
}

/// A neighbour on an uplink.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Neighbour {
    /// The port behind which it is.
    pub port: String,
    /// Its address.
    pub address: String,
    /// Its MAC address, as far as known.
    pub mac: Option<String>,
    /// `reachable`, `probing`, `incomplete` or `failed`; the best that a worker knows.
    pub state: String,
    /// Directions of flows that go to it.
    pub flows: u64,
    /// Packets that wait for it.
    pub waiting_packets: u64,
    /// How many workers know it.
    pub workers: u64,
}

/// How large packets may be on their way from an endpoint, or to a destination.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Mtu {
    /// The endpoint that sends; `None`: whoever does.
    pub endpoint: Option<String>,
    /// Its network.
    pub network: Option<String>,
    /// `own network`, `other network`, `uplink NAME`, or the address whose path was learnt,
    /// with the network that it is in.
    pub to: String,
    /// Largest IP packet that arrives whole, in bytes.
    pub mtu_bytes: u16,
    /// What limits it.
    pub limited_by: String,
    /// What a SYN may announce at most: `path` (what fits), `not needed`, `off` or bytes.
    pub mss_clamp: Option<String>,
    /// Of a path: how long ago it was learnt or confirmed.
    pub age_s: Option<f64>,
}

/// A route.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Route {
    /// Destinations.
    pub to: String,
    /// Next hop; `None`: they are on the uplink's own link.
    pub via: Option<String>,
    /// The uplink.
    pub uplink: String,
}

/// A published range of ports.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Publish {
    /// The address that it is published on; `None`: every uplink address of the family.
    pub host: Option<String>,
    /// First published port; 0: the endpoint's own port is opened, nothing is published.
    pub host_port: u16,
    /// How many.
    pub port_count: u16,
    /// Its protocol.
    pub protocol: String,
    /// The endpoint that it leads to.
    pub endpoint: String,
    /// The endpoint's address.
    pub target: String,
    /// First port at the endpoint.
    pub target_port: u16,
    /// The network by which it is reached.
    pub network: String,
    /// Other programs that have taken ports of it since: `PORT NAME (pid N)`. Only ranges that are
    /// too long for sockets of ours can be taken so.
    #[serde(default)]
    pub taken_by: Vec<String>,
}

/// A rule about who may talk to whom.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Rule {
    /// Its place in the order in which rules are asked, from 1.
    pub order: u64,
    /// `allow`, `deny` or `reject`.
    pub action: String,
    /// What it is about.
    pub about: String,
    /// Connections that it has let in, or packets that it has refused: how often it decided.
    pub hits: u64,
}

/// An uplink.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// The device at its other end.
    pub device: String,
    /// The namespace that the device is in; `None`: the host's.
    pub netns: Option<String>,
    /// The gateway's MAC address on it.
    pub mac: String,
    /// The gateway's own addresses.
    pub addresses: Vec<String>,
    /// The host's addresses that it follows; none for an uplink that is not beside the host.
    pub host_addresses: Vec<String>,
    /// What became of the last test packets through the host, a line per family.
    pub host_forwards: Vec<String>,
    /// Next hops of its default routes.
    pub gateways: Vec<String>,
    /// Routes by it, default routes included, its own subnets not.
    pub routes: u64,
    /// Who comes in by it may ask at endpoints' own addresses.
    pub trusted: bool,
    /// False: the device is gone.
    pub up: bool,
    /// Largest IP packet.
    pub mtu_bytes: u16,
    /// What went through.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Worker {
    /// Its id.
    pub worker: u8,
    /// The CPU that it is pinned to.
    pub cpu: u64,
    /// Part of the time that it slept, from 0 to 1, over the last moment.
    pub idle_share: f64,
    /// Packets per second over the last moment.
    pub packets_per_s: f64,
    /// Turns since the start.
    pub turns: u64,
    /// Packets received since the start.
    pub rx_packets: u64,
    /// Packets dropped since the start.
    pub dropped_packets: u64,
    /// Flows that it owns.
    pub flows: u64,
    /// Packets whose decision was known.
    pub hits: u64,
    /// Packets that the stages decided.
    pub misses: u64,
    /// Packets handed over to another worker.
    pub handed_over: u64,
    /// Free chunks of packet memory.
    pub chunks_free: u64,
    /// Free tails of packet memory.
    pub tails_free: u64,
    /// All other counters, by name.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Drop {
    /// The reason.
    pub reason: String,
    /// How many.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
    /// What to do about it.
    pub advice: String,
    /// By worker; those that dropped any.
    pub workers: Vec<WorkerShare>,
    /// By the stage that refused the packet; what is in none was dropped by another step.
    pub stages: Vec<StageShare>,
}

/// A worker's part.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerShare {
    /// The worker.
    pub worker: u8,
    /// How many packets.
    pub packets: u64,
}

/// A stage's part.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StageShare {
    /// The stage.
    pub stage: String,
    /// How many packets.
    pub packets: u64,
}

/// What a reload is to do.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// True: say what would change, and change nothing.
    pub dry_run: bool,
}

/// What a reload did.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reload {
    /// True: nothing was changed, it was only asked.
    pub dry_run: bool,
    /// Generation of the tables in force.
    pub generation: u64,
    /// What has changed, one line each.
    pub changes: Vec<String>,
    /// What takes effect at the next start only, one line each.
    pub deferred: Vec<String>,
    /// Warnings about the config.
    pub warnings: Vec<Finding>,
    /// How long it took.
    pub took_ms: f64,
}
