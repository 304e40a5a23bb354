//! Everything that can fill up has its size here, and NAT its settings.
//!
//! Limits are totals of the gateway; each worker takes an equal share, rounded up, unless said
//! otherwise. What happens at a limit is said with each; reaching one is always counted under the
//! drop reason named.

use std::net::IpAddr;
use std::time::Duration;

use crate::id::{NetworkId, PortId, UplinkId};
use crate::packet::BATCH_LEN;

/// Destinations whose path MTU a worker remembers: 64 KiB of memory. Every worker has room for all,
/// because they are told to all. When full: the one that was learnt first is forgotten. Fewer would
/// let busy hosts forget paths that are in use, many more would make the sweep slow.
pub const PATHS_MAX: usize = 2_048;

/// Path MTUs that a worker learns per second. Beyond: the error is carried on, nothing is learnt.
/// Each change has every flow look at its decision again once, so a flood must not cause many.
pub const PATHS_PER_SECOND: u32 = 64;

/// Sizes. They are taken at start: the packet path allocates nothing later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of each address family. When full: a half-open or idle flow goes
    /// (`WorkerCounters::flows_evicted`); without one, a new flow is refused (`flow_table_full`).
    pub flows: u32,
    /// Flows that one port may have started. When full: as `flows`, among its own
    /// (`flow_share_full`).
    pub flows_per_port: u32,
    /// Flows of each address family that one port may have started and that were not answered.
    /// When full: the oldest of them goes.
    pub half_open_per_port: u32,
    /// Flows that one outside address may have started; of IPv6, one /64. Counted by hash, so an
    /// address may count a little of others. When full: new ones are refused
    /// (`source_share_full`).
    pub flows_per_source: u32,
    /// Stations in the FDB; every worker has room for all. When full: a new station is not learnt,
    /// its frames pass (`fdb_full` counts them).
    pub fdb: u32,
    /// Stations learnt from one port. When full: as `fdb` (`fdb_share_full`).
    pub fdb_per_port: u32,
    /// Neighbours on all ports. When full: the packet is dropped (`neighbour_table_full`).
    pub neighbours: u32,
    /// Packets that wait for one neighbour. When full: the packet is dropped (`hold_full`).
    pub held_per_neighbour: u32,
    /// Fragmented datagrams that are under way; one source may have a quarter. When full: the
    /// oldest goes. Beyond the quarter: the fragment is dropped (`fragment_limited`).
    pub fragments: u32,
    /// Fragments that wait for the first one of their datagram; one source may have a quarter, 45
    /// at least. When full: the fragment is dropped (`fragment_limited`).
    pub fragments_held: u32,
    /// Broadcast, multicast and unknown frames that one port may have flooded, per second and
    /// worker. Beyond: dropped (`flood_limited`).
    pub floods_per_second: u32,
    /// ICMP errors and resets that we send, per second. Beyond: the packet is dropped without one
    /// (`answer_limited`).
    pub answers_per_second: u32,
    /// ICMP errors about packets of flows that are carried through, per second. Beyond: dropped
    /// (`icmp_error_limited`).
    pub icmp_errors_per_second: u32,
    /// Packets in one hand-over ring. When full: dropped (`hand_over_full`).
    pub hand_over: u32,
    /// Packets that are glued to one super-frame, for ports that take those; no more than a batch
    /// has. 1: none is glued.
    pub glued: u32,
}

impl Limits {
    /// Each by its name in a config's `[limits]`.
    pub fn named(&self) -> [(&'static str, u32); 15] {
        // By its pattern, so that no new one is forgotten.
        let &Limits {
            flows,
            flows_per_port,
            half_open_per_port,
            flows_per_source,
            fdb,
            fdb_per_port,
            neighbours,
            held_per_neighbour,
            fragments,
            fragments_held,
            floods_per_second,
            answers_per_second,
            icmp_errors_per_second,
            hand_over,
            glued,
        } = self;
        [
            ("flows", flows),
            ("flows_per_port", flows_per_port),
            ("half_open_per_port", half_open_per_port),
            ("flows_per_source", flows_per_source),
            ("fdb", fdb),
            ("fdb_per_port", fdb_per_port),
            ("neighbours", neighbours),
            ("held_per_neighbour", held_per_neighbour),
            ("fragments", fragments),
            ("fragments_held", fragments_held),
            ("floods_per_second", floods_per_second),
            ("answers_per_second", answers_per_second),
            ("icmp_errors_per_second", icmp_errors_per_second),
            ("hand_over", hand_over),
            ("glued", glued),
        ]
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 262_144,
            flows_per_port: 65_536,
            half_open_per_port: 16_384,
            flows_per_source: 16_384,
            fdb: 65_536,
            fdb_per_port: 1_024,
            neighbours: 4_096,
            held_per_neighbour: 32,
            fragments: 1_024,
            fragments_held: 512,
            floods_per_second: 10_000,
            answers_per_second: 1_000,
            icmp_errors_per_second: 1_000,
            hand_over: 1_024,
            glued: BATCH_LEN as u32,
        }
    }
}

/// From whom a mapping takes packets that no flow knows (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// From nobody: only sockets that it has sent to reach it, by the flow that that began.
    #[default]
    AddressAndPort,
    /// From addresses that it has sent to, whatever the port.
    Address,
    /// From everybody.
    Endpoint,
}

/// An inside address that has an outside one for itself (`[[nat.static]]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNat {
    /// The endpoint's address.
    pub inside: IpAddr,
    /// One of the gateway's own addresses on an uplink.
    pub outside: IpAddr,
    /// The endpoint's port of the gateway.
    pub port: PortId,
    /// The network in which it has the inside address.
    pub network: NetworkId,
}

/// All static translations, to be looked up both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statics {
    by_outside: Vec<StaticNat>,
    by_inside: Vec<StaticNat>,
}

impl Statics {
    /// Sorts them. Each address is in one of them at most.
    pub fn new(list: Vec<StaticNat>) -> Statics {
        let (mut by_outside, mut by_inside) = (list.clone(), list);
        by_outside.sort_by_key(|one| one.outside);
        by_inside.sort_by_key(|one| (one.network, one.inside));
        Statics { by_outside, by_inside }
    }

    /// The translation that an outside address is of.
    pub fn by_outside(&self, address: IpAddr) -> Option<&StaticNat> {
        let found = self.by_outside.binary_search_by_key(&address, |one| one.outside);
        found.ok().map(|index| &self.by_outside[index])
    }

    /// The translation that an inside address is of, which is one of a network's.
    pub fn by_inside(&self, network: NetworkId, address: IpAddr) -> Option<&StaticNat> {
        let wanted = (network, address);
        let found = self.by_inside.binary_search_by_key(&wanted, |one| (one.network, one.inside));
        found.ok().map(|index| &self.by_inside[index])
    }
}

/// How NAT behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// Moves when anything here does.
    pub epoch: u64,
    /// First port that masqueraded traffic may take.
    pub port_min: u16,
    /// Last one.
    pub port_max: u16,
    /// Idle times after which a flow ends.
    pub timeouts: Timeouts,
    /// A TCP connection may be picked up in the middle, so that one lives on after a restart.
    pub tcp_pickup: bool,
    /// From whom mappings take packets.
    pub filtering: Filtering,
    /// Static translations.
    pub statics: Statics,
    /// Outside addresses of an uplink that masqueraded traffic is spread over, where it is not the
    /// first one of its family alone.
    pub pools: Vec<(UplinkId, Vec<IpAddr>)>,
    /// Outside addresses of networks that have one for themselves, ascending.
    pub sources: Vec<(NetworkId, IpAddr)>,
    /// UDP ports of the uplinks' own addresses that are for something else, ascending.
    pub reserved: Vec<u16>,
}

impl NatSettings {
    /// True for a port that masqueraded traffic may have.
    pub fn has_port(&self, port: u16) -> bool {
        (self.port_min..=self.port_max).contains(&port)
    }
}

impl Default for NatSettings {
    fn default() -> NatSettings {
        NatSettings {
            epoch: 0,
            port_min: 32_768,
            port_max: 65_535,
            timeouts: Timeouts::default(),
            tcp_pickup: true,
            filtering: Filtering::default(),
            statics: Statics::default(),
            pools: Vec::new(),
            sources: Vec::new(),
            reserved: Vec::new(),
        }
    }
}

/// Idle times after which a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An open TCP connection. RFC 5382 REQ-5: at least 2 h 4 min.
    pub tcp_established: Duration,
    /// A TCP connection that is opening. RFC 5382 REQ-5: at least 4 min.
    pub tcp_opening: Duration,
    /// A TCP connection that one side has finished. RFC 5382 REQ-5: at least 4 min.
    pub tcp_closing: Duration,
    /// A TCP connection that both sides have finished, so that late segments find it.
    pub tcp_time_wait: Duration,
    /// A TCP connection after a reset, which may have been made up. RFC 7857 section 2.2: 4 min.
    pub tcp_reset: Duration,
    /// An open SCTP association. Its ends say every 30 s that they are there (RFC 9260 section
    /// 8.3).
    pub sctp_established: Duration,
    /// An SCTP association that is opening, closing or over.
    pub sctp_transitory: Duration,
    /// UDP. RFC 4787 REQ-5: at least 2 min, 5 recommended.
    pub udp: Duration,
    /// ICMP queries. RFC 5508 REQ-2: at least 60 s.
    pub icmp: Duration,
    /// Any other protocol.
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp_established: Duration::from_secs(7_440),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            tcp_time_wait: Duration::from_secs(60),
            tcp_reset: Duration::from_secs(240),
            sctp_established: Duration::from_secs(300),
            sctp_transitory: Duration::from_secs(60),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(300),
        }
    }
}
