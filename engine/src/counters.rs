//! Why packets die, and how many did.
//!
//! A worker is the only writer of its counters; the control side reads them at any time. An
//! increment is a load and a store without a lock, so that it costs as much as a plain variable.
//!
//! Counters of ports and networks live in rooms that are added and never moved, so a reload that
//! brings new ports leaves every handle valid. When a port goes, its worker moves what it counted
//! to its network (`Counters::follow`): a network's sum never falls, and an id that is given to
//! another port counts from zero.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::id::{NetworkId, PortId};
use crate::pipeline::STAGE_NAMES;
use crate::tables::Tables;

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
    /// A VLAN tag that no network of the uplink has.
    VlanUnknown = "vlan_unknown",
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
    /// A rule of the operator's says deny.
    PolicyDenied = "policy_denied",
    /// A rule of the operator's says reject: answered with RST or ICMP.
    PolicyRejected = "policy_rejected",
    /// To the outside port of a mapping that lets nobody in whom it has not sent to, or TCP to a
    /// port that may become one.
    Filtered = "filtered",
    /// A protocol that NAT cannot carry.
    ProtocolNotTranslated = "protocol_not_translated",
    /// A TCP segment of a connection that is not known, with `nat.tcp_pickup = false`.
    NoConnection = "no_connection",
    /// No outside address of the packet's family on the uplink.
    NoOutsideAddress = "no_outside_address",
    /// All outside ports are in use.
    OutsidePortsUsedUp = "outside_ports_used_up",
    /// The flow table is full.
    FlowTableFull = "flow_table_full",
    /// The port has used up its share of the flow table.
    FlowShareFull = "flow_share_full",
    /// The outside address has used up its share of the flow table.
    SourceShareFull = "source_share_full",
    /// Later fragment whose first one did not come, or went nowhere.
    FragmentUnattached = "fragment_unattached",
    /// A fragment that would hide a part of the transport header (RFC 1858, RFC 3128).
    FragmentTiny = "fragment_tiny",
    /// A fragment of bytes that have passed already, or of a datagram with such ones (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// Too many fragments wait, in all or of this source, or a datagram with too many gaps.
    FragmentLimited = "fragment_limited",
    /// TTL or hop limit used up.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the egress MTU, and nobody to tell: no IP, a copy of a flood, a later fragment.
    TooBig = "too_big",
    /// Larger than the egress MTU and not to be fragmented; its sender was told the MTU.
    TooBigIcmpSent = "too_big_icmp_sent",
    /// The same, but `answers_per_second` is used up.
    TooBigRateLimited = "too_big_rate_limited",
    /// To one of our own addresses, at a port that nothing serves: answered with RST or ICMP.
    ClosedPort = "closed_port",
    /// To one of our own addresses, and nothing we answer.
    LocalUnhandled = "local_unhandled",
    /// ARP or ND that is not for us to answer.
    NeighbourUnhandled = "neighbour_unhandled",
    /// An ICMP error that quotes no packet of a live flow, or of a kind that is not carried.
    IcmpError = "icmp_error",
    /// An ICMP error with a wrong checksum, or whose quote is cut short or wrong in itself.
    IcmpErrorMalformed = "icmp_error_malformed",
    /// An ICMP error that claims a path MTU which no path has.
    PathMtuRefused = "path_mtu_refused",
    /// An ICMP error that would be carried, but `icmp_errors_per_second` is used up.
    IcmpErrorLimited = "icmp_error_limited",
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
    /// Out of a tunnel, and wrong in itself: cut short, lengths that contradict each other, no VNI.
    OverlayMalformed = "overlay_malformed",
    /// Out of a tunnel, with a wrong UDP checksum.
    OverlayChecksum = "overlay_checksum",
    /// Out of a tunnel, with a VNI that no network has.
    OverlayVni = "overlay_vni",
    /// Out of a tunnel, from a VTEP that is none of the network's.
    OverlayVtep = "overlay_vtep",
    /// Out of a tunnel, marked as congested, and the packet in it cannot be (RFC 6040).
    OverlayEcn = "overlay_ecn",
    /// Out of a tunnel, from a station that is not behind it: a member's address, or another's.
    OverlaySender = "overlay_sender",
    /// Out of one tunnel, to a station behind another one of the same network.
    OverlaySplitHorizon = "overlay_split_horizon",
    /// From an endpoint to a VTEP: what it sends would be taken for ours.
    OverlayForged = "overlay_forged",
    /// To a tunnel's end of ours in fragments, or with IP options or extension headers.
    OverlayFragment = "overlay_fragment",
    /// An ICMP error that quotes an outer packet which we cannot have sent.
    OverlayErrorForged = "overlay_error_forged",
    /// An ICMP error about an outer packet: its far end is not there, or does not listen.
    OverlayUnreachable = "overlay_unreachable",
    /// Came while the ingress port's ring was full: the kernel dropped it.
    IngressFull = "ingress_full",
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
            /// Names of the counters, as [`all`](Self::all) gives them.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field),)*];

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
        /// Packets received by this port and dropped later, under whatever reason.
        rx_dropped,
        /// Packets sent.
        tx_packets,
        /// Bytes sent.
        tx_bytes,
        /// Packets that were to leave by this port, which took no more or is gone.
        tx_dropped,
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
        /// ICMP errors carried to the sender of the packet that they quote.
        icmp_errors,
        /// Fragments that came before their first one and were held.
        fragments_held,
        /// Packets handed over to another worker.
        handed_over,
        /// Super-frames cut.
        cuts,
        /// Packets that became part of a super-frame.
        glued,
        /// Packets that were too large for their way out and left as fragments.
        fragmented,
        /// Flows revalidated after a change of the tables.
        revalidated,
        /// Flows that ended by idle time.
        flows_expired,
        /// Flows now (gauge).
        flows,
        /// Flows that ended to make room for others.
        flows_evicted,
        /// Destinations whose path MTU was learnt, now (gauge).
        paths,
        /// ICMP errors from which the path MTU of a destination was learnt.
        paths_learnt,
        /// SYN segments whose announced segment size was lowered.
        mss_clamped,
        /// NAT mappings now (gauge).
        mappings,
        /// NAT mappings that took a TCP port which others have for other destinations.
        ports_shared,
        /// Stations in the FDB now (gauge).
        stations,
        /// Stations not learnt: the FDB is full.
        fdb_full,
        /// Stations not learnt: the port's share is full.
        fdb_share_full,
        /// Multicast memberships, queriers and routers known now (gauge).
        groups,
        /// Multicast memberships not noted: no room, or the port's share is full.
        groups_full,
        /// Frames to groups that went only to those who want them.
        floods_narrowed,
        /// Frames and questions for stations that a static overlay does not know.
        overlay_misses,
        /// ICMP errors that said how large outer packets to a tunnel's far end may be.
        overlay_too_big,
        /// Free chunks of packet memory in the worker's pool (gauge).
        chunks_free,
        /// Free tails of packet memory in the worker's pool (gauge).
        tails_free,
        /// Nanoseconds that the thread slept because nothing waited; its runner counts them.
        asleep_ns,
    }
}

/// Counters of one room. 4096 rooms of 16 hold every id.
const ROOM: usize = 16;

/// Traffic counters by id, with room for more ids added later.
#[derive(Debug)]
struct Ledger {
    rooms: Box<[OnceLock<Box<[PortCounters; ROOM]>>]>,
}

impl Ledger {
    fn new() -> Ledger {
        let room_count = (usize::from(u16::MAX) + 1) / ROOM;
        Ledger { rooms: (0..room_count).map(|_| OnceLock::new()).collect() }
    }

    /// Makes room for ids below `count`.
    fn reserve(&self, count: usize) {
        for room in &self.rooms[..count.div_ceil(ROOM).min(self.rooms.len())] {
            room.get_or_init(Box::default);
        }
    }

    #[inline(always)]
    fn get(&self, index: usize) -> Option<&PortCounters> {
        self.rooms.get(index / ROOM)?.get()?.get(index % ROOM)
    }
}

impl PortCounters {
    /// Moves all counts to another port's or network's; this one begins anew.
    fn move_to(&self, other: Option<&PortCounters>) {
        let (from, to) = (self.fields(), other.map(PortCounters::fields));
        for (index, counter) in from.into_iter().enumerate() {
            if let Some(to) = to {
                to[index].add(counter.get());
            }
            counter.set(0);
        }
    }

    fn fields(&self) -> [&Counter; 6] {
        [
            &self.rx_packets,
            &self.rx_bytes,
            &self.rx_dropped,
            &self.tx_packets,
            &self.tx_bytes,
            &self.tx_dropped,
        ]
    }
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// What the worker did.
    pub worker: WorkerCounters,
    drops: [Counter; DropReason::ALL.len()],
    stages: [Counter; STAGE_NAMES.len()],
    stage_drops: [[Counter; DropReason::ALL.len()]; STAGE_NAMES.len()],
    ports: Ledger,
    /// By network, what ports counted that are members no more.
    departed: Ledger,
}

impl Counters {
    /// Counters for this many ports. More can be added by [`reserve`](Counters::reserve).
    pub fn new(port_count: usize) -> Arc<Counters> {
        let counters = Counters {
            worker: WorkerCounters::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            stages: std::array::from_fn(|_| Counter::default()),
            stage_drops: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            ports: Ledger::new(),
            departed: Ledger::new(),
        };
        counters.ports.reserve(port_count);
        Arc::new(counters)
    }

    /// Makes room for the ports and networks of a snapshot. Called by the control side before a
    /// worker adopts it; counts stay as they are, and so does every reference.
    pub fn reserve(&self, tables: &Tables) {
        self.ports.reserve(tables.ports.len());
        self.departed.reserve(tables.networks.len());
    }

    /// The worker goes over to another snapshot: what a port counted that is gone, or that gave its
    /// id to another one, goes to its network, if that stays. Only the owner of the counters may
    /// call it.
    pub(crate) fn follow(
        &self,
        networks_gone: &[NetworkId],
        ports_gone: &[(PortId, Option<NetworkId>)],
    ) {
        for network in networks_gone {
            if let Some(departed) = self.departed.get(network.index()) {
                departed.move_to(None);
            }
        }
        for (port, network) in ports_gone {
            if let Some(counters) = self.ports.get(port.index()) {
                counters.move_to(network.and_then(|network| self.departed.get(network.index())));
            }
        }
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// Notes which stage settled the fate of a flow's first packet, and the reason if it said no.
    pub(crate) fn settled_by(&self, stage: usize, refused: Option<DropReason>) {
        let stage = stage.min(STAGE_NAMES.len() - 1);
        self.stages[stage].add(1);
        if let Some(reason) = refused {
            self.stage_drops[stage][reason as usize].add(1);
        }
    }

    /// How many first packets each stage settled, in the order of the stages; the last one counts
    /// those that none of them stopped.
    pub fn stages(&self) -> [(&'static str, u64); STAGE_NAMES.len()] {
        std::array::from_fn(|stage| (STAGE_NAMES[stage], self.stages[stage].get()))
    }

    /// The packets that stages refused: stage, reason, count. Those that occurred only. They are
    /// among those of [`dropped`](Counters::dropped); what is not here was dropped by another step.
    pub fn stage_drops(&self) -> Vec<(&'static str, DropReason, u64)> {
        let stages = STAGE_NAMES.iter().zip(&self.stage_drops);
        let all = stages.flat_map(|(&stage, reasons)| {
            let reasons = DropReason::ALL.iter().zip(reasons);
            reasons.map(move |(&reason, counter)| (stage, reason, counter.get()))
        });
        all.filter(|&(_, _, count)| count > 0).collect()
    }

    /// Counters of a port; `None` if no room was made for it.
    #[inline(always)]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(port.index())
    }

    /// What ports counted that were members of a network and are no more; `None`: nothing.
    pub fn departed(&self, network: NetworkId) -> Option<&PortCounters> {
        self.departed.get(network.index())
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
    use crate::id::MacAddress;
    use crate::tables::{
        Attachment, GatewayMode, MssClamp, Network, PortKind, PortTable, TableMap,
    };
    use crate::worker::Adoption;

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

    /// Tables with these ports, each an endpoint's in network `front`, by id.
    fn tables(names: &[Option<&str>]) -> Tables {
        let network = Network {
            epoch: 1,
            id: NetworkId(0),
            name: "front".to_owned(),
            gateway_mac: MacAddress(2),
            subnets: Vec::new(),
            internal: false,
            icc: true,
            mode: GatewayMode::Nat,
            masquerade: true,
            mss_clamp: MssClamp::Auto,
            mtu: 1500,
            uplink: None,
            overlay: None,
            direct: None,
            multicast_snooping: true,
            routed_only: false,
            unfiltered: false,
            members: Vec::new(),
            by_address: TableMap::default(),
            by_mac: TableMap::default(),
        };
        let port = |(index, name): (usize, &Option<&str>)| {
            let attachment = Attachment {
                endpoint: (*name)?.to_owned(),
                network: NetworkId(0),
                mac: MacAddress(4),
                ipv4: None,
                ipv6: None,
                anti_spoofing: true,
            };
            let (epoch, id, mtu) = (1, PortId(index as u16), 1500);
            let name = format!("{}/front", attachment.endpoint);
            Some(Arc::new(PortTable { epoch, id, name, kind: PortKind::Endpoint(attachment), mtu }))
        };
        let ports = names.iter().enumerate().map(port).collect();
        Tables { ports, networks: vec![Some(Arc::new(network))], ..Tables::empty() }
    }

    #[test]
    fn a_port_that_goes_leaves_its_counts_to_its_network_and_its_id_begins_anew() {
        let (old, new) = (tables(&[Some("a"), Some("b")]), tables(&[Some("c"), Some("b"), None]));
        let counters = Counters::new(0);
        counters.reserve(&old);
        counters.port(PortId(0)).unwrap().rx_bytes.add(70);
        counters.port(PortId(1)).unwrap().rx_bytes.add(5);
        counters.reserve(&new);
        let go_over = |from: &Tables, to: &Tables| {
            let step = Adoption::new(Arc::new(to.clone()), Some(from));
            counters.follow(&step.networks_gone, &step.ports_gone);
        };
        go_over(&old, &new);
        let sum = |index: u16| counters.port(PortId(index)).unwrap().rx_bytes.get();
        assert_eq!((sum(0), sum(1)), (0, 5));
        assert_eq!(counters.departed(NetworkId(0)).unwrap().rx_bytes.get(), 70);
        let gone = Tables { networks: vec![None], ..tables(&[None, None]) };
        go_over(&new, &gone);
        assert_eq!(sum(1), 0);
        assert_eq!(counters.departed(NetworkId(0)).unwrap().rx_bytes.get(), 0);
    }

    #[test]
    fn room_is_made_for_every_id_without_moving_a_counter() {
        let counters = Counters::new(3);
        let first = counters.port(PortId(2)).unwrap() as *const PortCounters;
        assert!(counters.port(PortId(5_000)).is_none());
        counters.ports.reserve(usize::from(u16::MAX));
        assert!(counters.port(PortId(u16::MAX - 1)).is_some());
        assert_eq!(counters.port(PortId(2)).unwrap() as *const PortCounters, first);
    }
}
