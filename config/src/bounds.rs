//! Bounds of numbers and times in a config, each with its reason.
//!
//! One place for the checker and the JSON Schema. Bounds that follow from other values of the same
//! file are the checker's.

use std::time::Duration;

use engine::id::WORKER_COUNT_MAX;

/// Most workers.
pub(crate) const WORKERS_MAX: i64 = WORKER_COUNT_MAX as i64;

/// Highest CPU id: the size of the kernel's `cpu_set_t`, less one.
pub(crate) const CPU_ID_MAX: i64 = 1_023;

/// Smallest MTU, in bytes. RFC 791: every IPv4 host takes 576.
pub(crate) const MTU_MIN: i64 = 576;

/// Smallest MTU where IPv6 is carried, in bytes: RFC 8200 section 5.
pub(crate) const MTU_V6_MIN: i64 = 1_280;

/// Largest MTU, in bytes: the largest IP packet.
pub(crate) const MTU_MAX: i64 = 65_535;

/// Smallest segment size to clamp to, in bytes: what is sent without an announcement (RFC 9293
/// section 3.7.1).
pub(crate) const MSS_MIN: i64 = 536;

/// Largest segment size, in bytes: what fits the largest IPv4 packet.
pub(crate) const MSS_MAX: i64 = 65_495;

/// Highest number of a VLAN (IEEE 802.1Q): 0 and 4095 are nobody's.
pub(crate) const VLAN_MAX: i64 = engine::tables::VlanTag::MAX.0 as i64;

/// Highest VXLAN network identifier: 24 bits (RFC 7348 section 5). 0 is no identifier of anybody's.
pub(crate) const VNI_MAX: i64 = (1 << 24) - 1;

/// Highest UDP port of a tunnel: any, as DC/OS has 64000 and Docker at most 49151.
pub(crate) const TUNNEL_PORT_MAX: i64 = 65_535;

/// Fewest ports of the masquerade range: workers take equal classes of pairs of it, and 64 workers
/// with fewer than eight pairs each could preserve nothing.
pub(crate) const MASQUERADE_COUNT_MIN: u16 = 1_024;

/// Lowest masquerade port. RFC 4787 REQ-3: ports below belong to services.
pub(crate) const MASQUERADE_PORT_MIN: u16 = 1_024;

/// Most outside addresses that masqueraded traffic is spread over: each new mapping looks at all.
pub(crate) const OUTSIDE_COUNT_MAX: usize = 64;

/// Shortest idle time: what the wheel of the engine tells apart.
pub(crate) const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Longest idle time. The engine's coarse clock tells ages apart below 26 days; `engine::Tick`
/// promises 5.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 86_400);

/// Most of each thing that `[limits]` sizes. Upper bounds keep what is allocated at start below the
/// memory of a large machine: a flow takes about 200 bytes, a ring slot 64, a station 24.
pub(crate) mod limits {
    pub(crate) const FLOWS_MAX: i64 = 1 << 26;
    pub(crate) const FDB_MAX: i64 = 1 << 24;
    pub(crate) const NEIGHBOURS_MAX: i64 = 1 << 20;
    pub(crate) const HELD_PER_NEIGHBOUR_MAX: i64 = 1 << 10;
    pub(crate) const FRAGMENTS_MAX: i64 = 1 << 20;
    pub(crate) const RATE_MAX: i64 = 1 << 30;
    pub(crate) const HAND_OVER_MAX: i64 = 1 << 16;
    pub(crate) const GLUED_MAX: i64 = engine::packet::BATCH_LEN as i64;
}
