//! Why packets die, and how many did.
//!
//! A worker is the only writer of its counters; the control side reads them at any time. An
//! increment is a load and a store without a lock, so that it costs as much as a plain variable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::id::PortId;
use crate::pipeline::STAGE_NAMES;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped. The text of each is the name of its metric and of its line in
        /// the README.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The reason as the snake_case word under which it is counted.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its own headers say, or lengths that contradict each other.
    Truncated = "truncated",
    /// An IP header that is wrong in itself: version, header length, checksum.
    MalformedIp = "malformed_ip",
    /// A transport header that is wrong in itself.
    MalformedTransport = "malformed_transport",
    /// An ARP or ND message that is wrong in itself, or not for Ethernet and IP.
    MalformedNeighbour = "malformed_neighbour",
    /// A vnet header whose lengths or offsets lie.
    MalformedOffload = "malformed_offload",
    /// More IPv6 extension headers than are followed (8).
    TooManyExtensionHeaders = "too_many_extension_headers",
    /// More than two VLAN tags, or a tagged frame to the gateway itself.
    VlanTag = "vlan_tag",
    /// Source MAC address is not the endpoint's.
    SpoofedMac = "spoofed_mac",
    /// Source IP address, or ARP/ND sender, is not the endpoint's.
    SpoofedIp = "spoofed_ip",
    /// Source MAC address is a group address, or the gateway's own.
    SourceMac = "source_mac",
    /// Addresses that may not be on a wire: loopback, unspecified, a multicast source.
    Martian = "martian",
    /// IPv4 source routing (RFC 7126).
    SourceRoute = "source_route",
    /// To a MAC address on an uplink that is not ours.
    NotForUs = "not_for_us",
    /// The port is configured no more.
    PortGone = "port_gone",
    /// Destination port is the one that the frame came from.
    SamePort = "same_port",
    /// Flood with nobody to take it.
    NoReceiver = "no_receiver",
    /// The port floods more than `floods_per_second`.
    FloodLimited = "flood_limited",
    /// A station moved between ports too often: a loop.
    StationFlapping = "station_flapping",
    /// No route to the destination.
    NoRoute = "no_route",
    /// Nobody in the destination network has this address.
    NoEndpoint = "no_endpoint",
    /// A group or broadcast destination that is not routed.
    NotRoutable = "not_routable",
    /// To a container address from an uplink, and not published there.
    Unpublished = "unpublished",
    /// From one network to another, and not through a published port.
    OtherNetwork = "other_network",
    /// Out of or into an internal network.
    Internal = "internal",
    /// Between members of a network with `icc = false`.
    IccOff = "icc_off",
    /// A protocol that NAT cannot carry.
    ProtocolNotTranslated = "protocol_not_translated",
    /// No outside address of the packet's family on the uplink.
    NoOutsideAddress = "no_outside_address",
    /// All outside ports are in use.
    OutsidePortsUsedUp = "outside_ports_used_up",
    /// The flow table is full.
    FlowTableFull = "flow_table_full",
    /// The port has used up its share of the flow table.
    FlowShareFull = "flow_share_full",
    /// Later fragment whose first one was not seen.
    FragmentUnattached = "fragment_unattached",
    /// TTL or hop limit used up.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the egress MTU.
    TooBig = "too_big",
    /// To one of our own addresses, at a port that nothing serves: answered with RST or ICMP.
    ClosedPort = "closed_port",
    /// To one of our own addresses, and nothing we answer.
    LocalUnhandled = "local_unhandled",
    /// ARP or ND that is not for us to answer.
    NeighbourUnhandled = "neighbour_unhandled",
    /// An ICMP error to the gateway or through it: carrying it through NAT is not built yet.
    IcmpError = "icmp_error",
    /// An answer was due, but `answers_per_second` is used up.
    AnswerLimited = "answer_limited",
    /// The next hop does not answer ARP or ND.
    NeighbourUnreachable = "neighbour_unreachable",
    /// The neighbour table is full.
    NeighbourTableFull = "neighbour_table_full",
    /// Too many packets wait for the neighbour.
    HoldFull = "hold_full",
    /// The ring to another worker is full.
    HandOverFull = "hand_over_full",
    /// A packet was handed over more than once: the workers' tables disagree.
    HandOverLoop = "hand_over_loop",
    /// The egress port took no more.
    EgressFull = "egress_full",
    /// The egress port's device is gone.
    EgressDown = "egress_down",
    /// A super-frame that cannot be cut as its header asks.
    CutFailed = "cut_failed",
    /// No frame was free.
    NoFrame = "no_frame",
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owner of the counter may call it.
    #[inline(always)]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: Counter,)* }

        impl $name {
            /// Every counter with its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// Traffic of one port at one worker.
    PortCounters {
        /// Packets received.
        rx_packets,
        /// Bytes received, Ethernet header included.
        rx_bytes,
        /// Packets sent.
        tx_packets,
        /// Bytes sent.
        tx_bytes,
    }
}

counters! {
    /// What a worker did besides dropping.
    WorkerCounters {
        /// Turns; a watchdog looks whether it moves.
        turns,
        /// Packets whose flow or FDB entry was found.
        hits,
        /// Packets that the stages decided.
        misses,
        /// Packets flooded.
        floods,
        /// Answers built: ARP, ND, echo, ICMP errors, resets.
        answers,
        /// Packets handed over to another worker.
        handed_over,
        /// Super-frames cut.
        cuts,
        /// Flows revalidated after a change of the tables.
        revalidated,
        /// Flows that ended by idle time.
        flows_expired,
        /// Flows now (gauge).
        flows,
        /// Stations in the FDB now (gauge).
        stations,
        /// Stations not learnt: the FDB is full.
        fdb_full,
        /// Stations not learnt: the port's share is full.
        fdb_share_full,
    }
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// What the worker did.
    pub worker: WorkerCounters,
    drops: [Counter; DropReason::ALL.len()],
    stages: [Counter; STAGE_NAMES.len()],
    ports: Vec<PortCounters>,
}

impl Counters {
    /// Counters for this many ports.
    pub fn new(port_count: usize) -> Arc<Counters> {
        Arc::new(Counters {
            worker: WorkerCounters::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            stages: std::array::from_fn(|_| Counter::default()),
            ports: (0..port_count).map(|_| PortCounters::default()).collect(),
        })
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// Notes which stage settled the fate of a flow's first packet.
    pub(crate) fn settled_by(&self, stage: usize) {
        self.stages[stage.min(STAGE_NAMES.len() - 1)].add(1);
    }

    /// How many first packets each stage settled, in the order of the stages; the last one counts
    /// those that none of them stopped.
    pub fn stages(&self) -> [(&'static str, u64); STAGE_NAMES.len()] {
        std::array::from_fn(|stage| (STAGE_NAMES[stage], self.stages[stage].get()))
    }

    /// Counters of a port; `None` for one that was added after the start.
    #[inline(always)]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(port.index())
    }

    /// Reasons that occurred, with their counts.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.dropped(reason).get()))
            .filter(|&(_, count)| count > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_under_its_own_snake_case_name() {
        let counters = Counters::new(1);
        for &reason in DropReason::ALL {
            counters.dropped(reason).add(1);
            assert!(reason.name().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        assert_eq!(counters.drops().len(), DropReason::ALL.len());
        assert!(counters.drops().iter().all(|&(_, count)| count == 1));
    }
}
