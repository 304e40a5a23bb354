//! What a worker shows of its state, for `show`, for tests and for the simulator's invariants.
//!
//! Tables are shown in *pieces*: a walk begins at a position, looks at a bounded number of places,
//! and says where it goes on, so that a runner can look between two turns and no packet waits long.
//! The one hard constraint: a piece allocates nothing and looks at no more than its bound; what it
//! finds goes into the asker's vector up to its capacity. A position is a place in memory, so a
//! walk sees everything that stays from its begin to its end exactly once; what comes or goes
//! meanwhile it may see or not.

use std::net::IpAddr;
use std::time::Duration;

use super::Worker;
use super::flows::Flows;
use crate::execute::Edit;
use crate::flow::{FlowId, FlowInput, TcpState};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::limits::Timeouts;
use crate::paths::End;
use crate::port::PortSet;
use crate::time::Tick;

/// Places of a table that one piece looks at: of flows 20 us when none is in the cache, and below
/// 0.4 ms where other work took the CPU meanwhile. More would let packets wait; fewer cost more
/// turns for the same walk.
pub const PLACES_PER_PIECE: u32 = 1_024;

/// A flow as it is now.
#[derive(Clone, Copy, Debug)]
pub struct FlowView {
    /// Its first packet, as it came.
    pub input: FlowInput,
    /// The same packet, as it leaves.
    pub source: (IpAddr, u16),
    /// Destination of the packet as it leaves.
    pub destination: (IpAddr, u16),
    /// The port by which replies come.
    pub reply_ingress: PortId,
    /// State of a TCP connection.
    pub tcp: TcpState,
    /// Packets from the original side and from the reply side, modulo 2^32.
    pub packets: (u32, u32),
    /// Bytes from the original side and from the reply side.
    pub bytes: (u64, u64),
    /// How long ago its first packet came.
    pub age: Duration,
    /// How long ago its last packet came, from either side.
    pub idle: Duration,
    /// After which idle time it ends.
    pub timeout: Duration,
}

/// Which flows are wanted. What is not given does not matter.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// A side of the flow comes in by one of these ports.
    pub ports: Option<PortSet>,
    /// The IANA protocol number.
    pub protocol: Option<u8>,
    /// One of its addresses, before or after translation.
    pub address: Option<IpAddr>,
}

impl FlowFilter {
    fn takes(&self, flow: &FlowView) -> bool {
        let addresses =
            [flow.input.source, flow.input.destination, flow.source.0, flow.destination.0];
        let by_port = self.ports.as_ref().is_none_or(|ports| {
            ports.contains(flow.input.ingress) || ports.contains(flow.reply_ingress)
        });
        by_port
            && self.protocol.is_none_or(|protocol| protocol == flow.input.protocol)
            && self.address.is_none_or(|address| addresses.contains(&address))
    }
}

/// A station that was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StationView {
    /// The network that it is in.
    pub network: NetworkId,
    /// Its MAC address.
    pub mac: MacAddress,
    /// The port behind which it was heard.
    pub port: PortId,
    /// How long ago it was heard last.
    pub age: Duration,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Asked for, no answer yet.
    Incomplete,
    /// It has answered not long ago.
    Reachable,
    /// Used, and asked again.
    Probing,
    /// It does not answer.
    Failed,
}

impl NeighbourState {
    /// The state as a word.
    pub fn name(self) -> &'static str {
        match self {
            NeighbourState::Incomplete => "incomplete",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Probing => "probing",
            NeighbourState::Failed => "failed",
        }
    }
}

/// A neighbour on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourView {
    /// The port behind which it is.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, as far as known.
    pub mac: Option<MacAddress>,
    /// What is known of it.
    pub state: NeighbourState,
    /// Directions of flows that go to it.
    pub users: u32,
    /// Packets that wait for it.
    pub held: u32,
}

/// What is known of multicast groups in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// Somebody behind the port is in the group with this MAC address.
    Member(MacAddress),
    /// A multicast router of a family is behind the port.
    Router {
        /// Of IPv6.
        v6: bool,
    },
    /// Somebody asks who is in groups, so frames go to those who are.
    Querier {
        /// Of IPv6.
        v6: bool,
    },
}

/// Who is in a multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The network.
    pub network: NetworkId,
    /// What is known.
    pub kind: GroupKind,
    /// The port, of whoever is behind tunnels the tunnel's; `None`: it does not matter.
    pub port: Option<PortId>,
    /// How long ago it was heard last, about.
    pub age: Duration,
    /// When it is forgotten, unless it is heard again.
    pub left: Duration,
}

/// A destination whose path MTU was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathView {
    /// The network that the destination is in; `NONE`: it is outside.
    pub network: NetworkId,
    /// The destination, or the far end of a tunnel.
    pub destination: IpAddr,
    /// Largest packet that reaches it, in bytes.
    pub mtu: u16,
    /// How long ago it was learnt, or confirmed.
    pub age: Duration,
}

impl Worker {
    /// Every flow that this worker owns. Not for the packet path.
    pub fn flows(&self) -> Vec<FlowView> {
        // Room for one more than there can be, so that no piece ends because the vector is full.
        let mut flows = Vec::with_capacity(self.v4.table.count() + self.v6.table.count() + 1);
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.view_flows(from, &FlowFilter::default(), &mut flows);
        }
        flows
    }

    /// One piece of the flows that this worker owns: IPv4 first, then IPv6. Appends to `out` within
    /// its capacity. Returns where to go on; `None`: that was all.
    pub fn view_flows(
        &self,
        from: u32,
        filter: &FlowFilter,
        out: &mut Vec<FlowView>,
    ) -> Option<u32> {
        let (now, timeouts) = (self.core.tick, &self.core.tables.nat.timeouts);
        let (v4, v6) = (self.v4.table.capacity() as u32, self.v6.table.capacity() as u32);
        let piece = Piece { now, timeouts, filter };
        match from.checked_sub(v4) {
            None => match piece.of(&self.v4, from, out) {
                next if next < v4 => Some(next),
                _ => Some(v4),
            },
            Some(from) if from < v6 => {
                let next = piece.of(&self.v6, from, out);
                (next < v6).then_some(v4 + next)
            }
            Some(_) => None,
        }
    }

    /// One flow.
    pub(super) fn view_flow<F: Edit>(&self, flows: &Flows<F>, id: FlowId) -> Option<FlowView> {
        let (now, timeouts) = (self.core.tick, &self.core.tables.nat.timeouts);
        Piece { now, timeouts, filter: &FlowFilter::default() }.view(flows, id)
    }

    /// One piece of the stations that were learnt. The same positions hold the same stations at
    /// every worker of a gateway, so that what workers know of one is found together: a piece has
    /// [`PLACES_PER_PIECE`] places, and `out` must have room for as many.
    pub fn view_stations(&self, from: u32, out: &mut Vec<StationView>) -> Option<u32> {
        self.core.stages.bridge.fdb.view(from, PLACES_PER_PIECE, self.core.tick, out)
    }

    /// One piece of the neighbours on uplinks. Appends to `out` within its capacity. Returns where
    /// to go on; `None`: that was all.
    pub fn view_neighbours(&self, from: u32, out: &mut Vec<NeighbourView>) -> Option<u32> {
        self.core.neighbours.view(from, PLACES_PER_PIECE, out)
    }

    /// One piece of what is known of multicast groups; all workers are told the same. Appends to
    /// `out` within its capacity. Returns where to go on; `None`: that was all.
    pub fn view_groups(&self, from: u32, out: &mut Vec<GroupView>) -> Option<u32> {
        self.core.groups.view(from, PLACES_PER_PIECE, self.core.tick, out)
    }

    /// One piece of the paths whose MTU was learnt; all workers know the same. Appends to `out`
    /// within its capacity. Returns where to go on; `None`: that was all.
    pub fn view_paths(&self, from: u32, out: &mut Vec<PathView>) -> Option<u32> {
        let now = self.core.tick;
        self.core.stages.mtu.paths.view(from, PLACES_PER_PIECE, |path| {
            let has_room = out.len() < out.capacity();
            if has_room {
                let age = Tick::duration(now.since(path.learnt));
                let End { network, address: destination } = path.destination;
                out.push(PathView { network, destination, mtu: path.mtu, age });
            }
            has_room
        })
    }
}

/// What a piece of flows is made with.
struct Piece<'a> {
    now: Tick,
    timeouts: &'a Timeouts,
    filter: &'a FlowFilter,
}

impl Piece<'_> {
    /// Appends flows from a position on; returns the first position that was not looked at.
    fn of<F: Edit>(&self, flows: &Flows<F>, from: u32, out: &mut Vec<FlowView>) -> u32 {
        let end = (from + PLACES_PER_PIECE).min(flows.table.capacity() as u32);
        for position in from..end {
            if out.len() == out.capacity() {
                return position;
            }
            let flow = self.view(flows, FlowId(position)).filter(|flow| self.filter.takes(flow));
            out.extend(flow);
        }
        end
    }

    /// A flow of this worker; `None` for a free place and for a stub.
    fn view<F: Edit>(&self, flows: &Flows<F>, id: FlowId) -> Option<FlowView> {
        let cold = flows.table.cold(id).filter(|cold| cold.two_sided)?;
        let original = flows.table.side(id.original());
        let reply = flows.table.side(id.reply());
        let (source, destination) = F::unpack(F::loaded(original.action().addresses));
        // Of a flow between families the other side is kept in its mapped form.
        let (source, destination) = (source.to_canonical(), destination.to_canonical());
        let ports = u32::from_be(original.action().ports);
        // A flow whose replies look like its own packets has one side.
        let reply_ingress = match reply.is_used() {
            true => reply.key().ingress(),
            false => cold.input.ingress,
        };
        let since = |tick: Tick| Tick::duration(self.now.since(tick));
        Some(FlowView {
            input: cold.input,
            source: (source, (ports >> 16) as u16),
            destination: (destination, ports as u16),
            reply_ingress,
            tcp: original.tcp(),
            packets: (original.packets, reply.packets),
            bytes: (original.bytes, reply.bytes),
            age: since(cold.started),
            idle: since(flows.table.last_seen(id, self.now)),
            timeout: original.tcp().timeout(cold.input.protocol, self.timeouts),
        })
    }
}
