//! `[limits]`: how much of everything there may be.
//!
//! As in `schema.rs`, the comment at a field is what the reference says of the key. The one hard
//! constraint: each names the drop reason that is counted when it is reached.

use engine::limits::Limits as LimitDefaults;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::bounds::limits;
use crate::reader::Field;
use crate::values::Number;

/// Sizes of everything that can fill up, taken at start. They are totals of the gateway; each
/// worker has an equal share, which does not move, unless said otherwise. Reaching one is counted,
/// under the drop reason in parentheses.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Flows of each address family. When full: the oldest flow ends that was not answered, or one
    /// that is over or idle; without one, a new flow is refused (flow_table_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FLOWS_MAX,
                      "default" = defaults().flows))]
    pub(crate) flows: Field<Number>,
    /// Flows that one port may have started, at most `flows`. When full: as `flows`, among its own
    /// (flow_share_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FLOWS_MAX,
                      "default" = defaults().flows_per_port))]
    pub(crate) flows_per_port: Field<Number>,
    /// Flows of each address family that one port may have started and that were not answered, at
    /// most `flows`. When full: the oldest of them ends.
    #[schemars(extend("minimum" = 1, "maximum" = limits::FLOWS_MAX,
                      "default" = defaults().half_open_per_port))]
    pub(crate) half_open_per_port: Field<Number>,
    /// Flows that one outside address, of IPv6 one /64, may have started. Counted by hash: it may
    /// count a little of others. When full: its new flows are refused (source_share_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FLOWS_MAX,
                      "default" = defaults().flows_per_source))]
    pub(crate) flows_per_source: Field<Number>,
    /// Stations in the FDB; every worker has room for all. When full: a new station is not learnt,
    /// its frames pass (fdb_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FDB_MAX, "default" = defaults().fdb))]
    pub(crate) fdb: Field<Number>,
    /// Stations learnt from one port, at most `fdb`. When full: as `fdb` (fdb_share_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FDB_MAX,
                      "default" = defaults().fdb_per_port))]
    pub(crate) fdb_per_port: Field<Number>,
    /// Neighbours on all ports; each worker may have all. When full: the packet is dropped
    /// (neighbour_table_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::NEIGHBOURS_MAX,
                      "default" = defaults().neighbours))]
    pub(crate) neighbours: Field<Number>,
    /// Packets that wait for one neighbour, per worker. When full: the packet is dropped
    /// (hold_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::HELD_PER_NEIGHBOUR_MAX,
                      "default" = defaults().held_per_neighbour))]
    pub(crate) held_per_neighbour: Field<Number>,
    /// Fragmented datagrams of each address family whose first fragment was seen. When full: the
    /// oldest goes. Beyond a quarter of it per source: dropped (fragment_limited).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FRAGMENTS_MAX,
                      "default" = defaults().fragments))]
    pub(crate) fragments: Field<Number>,
    /// Fragments that came before the first one of their datagram and wait for it, four seconds at
    /// most. When full, or beyond a quarter of it per source: dropped (fragment_limited).
    #[schemars(extend("minimum" = 1, "maximum" = limits::FRAGMENTS_MAX,
                      "default" = defaults().fragments_held))]
    pub(crate) fragments_held: Field<Number>,
    /// Broadcast, multicast and unknown frames that one port may have flooded, per second and
    /// worker. Beyond: dropped (flood_limited).
    #[schemars(extend("minimum" = 1, "maximum" = limits::RATE_MAX,
                      "default" = defaults().floods_per_second))]
    pub(crate) floods_per_second: Field<Number>,
    /// ICMP errors and TCP resets that the gateway sends, per second. Beyond: the packet is dropped
    /// without one (answer_limited).
    #[schemars(extend("minimum" = 1, "maximum" = limits::RATE_MAX,
                      "default" = defaults().answers_per_second))]
    pub(crate) answers_per_second: Field<Number>,
    /// ICMP errors about packets of flows (port unreachable, too big, time exceeded) that are
    /// carried through the gateway, per second. Beyond: dropped (icmp_error_limited).
    #[schemars(extend("minimum" = 1, "maximum" = limits::RATE_MAX,
                      "default" = defaults().icmp_errors_per_second))]
    pub(crate) icmp_errors_per_second: Field<Number>,
    /// Packets in one ring from worker to worker. When full: dropped (hand_over_full).
    #[schemars(extend("minimum" = 1, "maximum" = limits::HAND_OVER_MAX,
                      "default" = defaults().hand_over))]
    pub(crate) hand_over: Field<Number>,
    /// Packets of one TCP or UDP flow that are glued to one super-frame, towards devices that take
    /// those; at most a batch. 1: none is glued, as with `ethtool -K DEVICE gro off`.
    #[schemars(extend("minimum" = 1, "maximum" = limits::GLUED_MAX,
                      "default" = defaults().glued))]
    pub(crate) glued: Field<Number>,
}

fn defaults() -> LimitDefaults {
    LimitDefaults::default()
}
