//! Everything that can fill up has its size here, and NAT its settings.
//!
//! Limits are totals of the gateway; each worker takes an equal share, rounded up, unless said
//! otherwise. What happens at a limit is said with each; reaching one is always counted under the
//! drop reason named.

use std::time::Duration;

/// Sizes. They are taken at start: the packet path allocates nothing later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of each address family. When full: a new flow is refused (`flow_table_full`).
    pub flows: u32,
    /// Flows that one port may have started. When full: its new flows are refused
    /// (`flow_share_full`).
    pub flows_per_port: u32,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 262_144,
            flows_per_port: 65_536,
            fdb: 65_536,
            fdb_per_port: 1_024,
            neighbours: 4_096,
            held_per_neighbour: 8,
            fragments: 1_024,
            fragments_held: 512,
            floods_per_second: 10_000,
            answers_per_second: 1_000,
            icmp_errors_per_second: 1_000,
            hand_over: 1_024,
        }
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
}

impl Default for NatSettings {
    fn default() -> NatSettings {
        NatSettings { epoch: 0, port_min: 32_768, port_max: 65_535, timeouts: Timeouts::default() }
    }
}

/// Idle times after which a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An open TCP connection. RFC 5382 REQ-5: at least 2 h 4 min.
    pub tcp_established: Duration,
    /// A TCP connection that is opening or closing. RFC 5382 REQ-5: at least 4 min.
    pub tcp_transitory: Duration,
    /// A TCP connection after its end, so that late segments find it.
    pub tcp_time_wait: Duration,
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
            tcp_transitory: Duration::from_secs(240),
            tcp_time_wait: Duration::from_secs(60),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(300),
        }
    }
}
