//! A worker: one thread's engine. It owns queues of ports, frames, flows and what it has learnt,
//! and shares nothing but rings and counters.
//!
//! A *turn* receives a batch from each ready port, decides or repeats, sends, and does a bounded
//! piece of upkeep. The caller owns the clock, the thread and the wait: a simulation turns a worker
//! exactly as the runner does. Hard constraint: after [`Worker::new`] nothing on the packet path
//! allocates, locks, logs, reads a clock or panics on input.

mod actions;
mod adoption;
mod alike;
mod announce;
mod answer;
mod batch;
mod bridging;
mod connection;
mod core;
mod decap;
mod discovery;
mod encap;
mod errors;
mod eviction;
mod explain;
mod flows;
mod fragments;
mod groups;
mod lanes;
mod lookup;
mod membership;
mod oversize;
mod paths;
mod syns;
mod trace;
mod translated;
mod tunnels;
mod turn;
mod underlay;
mod upkeep;
mod view;
mod warm;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

pub use self::adoption::{Adoption, Retired};
use self::announce::Announcements;
use self::core::{Core, TokenBucket};
use self::encap::CrossingTunnels;
use self::eviction::Sources;
use self::flows::Flows;
use self::lookup::Lookups;
use self::oversize::PIECES_MAX;
pub use self::trace::{TraceReader, Tracer};
pub use self::view::{
    FlowFilter, FlowView, GroupKind, GroupView, NeighbourState, NeighbourView, PLACES_PER_PIECE,
    PathView, StationView,
};
use crate::counters::Counters;
use crate::egress::Egress;
use crate::execute::Edit;
use crate::fdb::Fdb;
use crate::flow::{FlowTable, Fragments, V4, V6};
use crate::frame::FramePool;
use crate::groups::{GROUPS_MAX, Groups};
use crate::hand_over::{Chunk, HandOverRings, Message};
use crate::id::{PortId, WorkerId};
use crate::limits::{Limits, PATHS_MAX, PATHS_PER_SECOND};
use crate::neighbour::{HELD_MAX, Neighbours};
use crate::packet::Batch;
use crate::paths::{End, Paths};
use crate::pipeline::Stages;
use crate::port::{Port, PortSet};
use crate::stage::Nat;
use crate::tables::Tables;
use crate::time::{Instant, Tick};
use crate::trace::Origin;

/// Ports that a worker has room for at least, however few there are at its start. A port costs it
/// about 200 bytes.
const PORT_ROOM_MIN: usize = 1_024;

/// How many ports a worker that starts with `port_count` of them has room for: later snapshots may
/// have ids below this number. Twice as many, because ids of ports that go rest for one snapshot.
pub const fn port_room(port_count: usize) -> usize {
    let ids = PortId(u16::MAX).0 as usize;
    let doubled = port_count.saturating_mul(2);
    let room = if doubled > PORT_ROOM_MIN { doubled } else { PORT_ROOM_MIN };
    if room > ids { ids } else { room }
}

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts {
    /// Its id.
    pub id: WorkerId,
    /// Its frames.
    pub frames: FramePool,
    /// Its counters; the control side keeps the other handle.
    pub counters: Arc<Counters>,
    /// Its ends of the hand-over rings; their number says how many workers there are.
    pub rings: HandOverRings,
    /// The first snapshot. Its limits size the worker's tables for good.
    pub tables: Arc<Tables>,
    /// Seed of the hashes. Every worker of one gateway has the same, or steering would disagree;
    /// it should be unpredictable, or an attacker can fill one bucket.
    pub seed: u64,
    /// True (the default in production): flows repeat their decision. False: every packet is
    /// decided anew, for the proof that both are equal.
    pub cache: bool,
    /// The time now.
    pub now: Instant,
}

/// Something that the runner should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device behind a port is gone. The worker keeps the port until it is detached, and uses
    /// it no more.
    PortDown(PortId),
    /// An IPv6 client of an endpoint with IPv4 only is seen as this port of a gateway's address.
    Translated {
        /// The client.
        client: (IpAddr, u16),
        /// As whom the endpoint sees it.
        seen_as: (IpAddr, u16),
        /// The endpoint's address and port.
        server: (IpAddr, u16),
    },
    /// A neighbour does not answer ARP or ND.
    NeighbourFailed(PortId, IpAddr),
}

/// One thread's engine: bytes and time in, bytes out.
pub struct Worker {
    core: Core,
    v4: Flows<V4>,
    v6: Flows<V6>,
    announcements: Announcements,
    /// The step to the tables in use; it keeps them and the rules alive.
    adoption: Arc<Adoption>,
    batch: Option<Box<Batch>>,
    /// What came by one port, of a batch of an uplink with packets of several, and the rest of it.
    runs: Option<[Box<Batch>; 2]>,
    /// Those of a batch; while somebody traces, the tracer has them.
    lookups: Option<Box<Lookups>>,
    /// Who looks on.
    tracer: Option<Box<Tracer>>,
    /// What others hand over, one chunk from each in a turn.
    handed_over: Option<Box<Chunk>>,
    /// Where the next turn begins to visit ports, so that none is always last.
    first_port: usize,
    /// When to look for idle flows again; not after `rounds_at`.
    upkeep_at: Instant,
    /// When to see to all else that needs no packet.
    rounds_at: Instant,
}

/// A worker's share of what all have together.
fn share_of(total: u32, worker_count: usize) -> usize {
    (total as usize).div_ceil(worker_count)
}

/// Memory for a worker's flows of a family. `place`: its index, how many workers there are, and how
/// many ports.
fn flows_of<F: Edit>(
    limits: &Limits,
    place: (usize, usize, usize),
    seed: u64,
    tick: Tick,
) -> Flows<F> {
    let (worker, worker_count, port_count) = place;
    let share = |total| share_of(total, worker_count);
    let fragments = (share(limits.fragments), share(limits.fragments_held));
    let mut flows = Flows::new(
        FlowTable::new(share(limits.flows), seed, tick),
        Fragments::new(fragments.0, fragments.1, (worker, worker_count), seed),
    );
    flows.table.order.grow_ports(port_count);
    flows
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("id", &self.core.id).finish_non_exhaustive()
    }
}

impl Worker {
    /// Builds the worker and allocates everything it will ever need.
    pub fn new(parts: WorkerParts) -> Worker {
        let WorkerParts { id, frames, counters, rings, tables, seed, cache, now } = parts;
        let (limits, worker_count) = (tables.limits.clone(), rings.worker_count());
        let adoption = Arc::new(Adoption::new(tables.clone(), None));
        let share = |total| share_of(total, worker_count);
        let (tick, ports) = (now.tick(), tables.ports.len());
        let counted = port_room(ports);
        // Stations are told to all workers, so each has room for all of them.
        let fdb = Fdb::new(limits.fdb as usize + ports, limits.fdb_per_port, counted, seed);
        let (flows, neighbours) = (share(limits.flows), limits.neighbours as usize + counted);
        let core = Core {
            id,
            worker_count,
            seed,
            cache,
            counters,
            frames,
            rings,
            rules: adoption.rules.clone(),
            egress: Egress::new(limits.glued as usize),
            tunnels: adoption.tunnels.clone(),
            underlay: vec![None; counted],
            crossing_tunnels: CrossingTunnels::default(),
            stages: Stages::new(fdb, Nat::new(2 * flows, seed), Paths::new(PATHS_MAX, seed)),
            neighbours: Neighbours::new(neighbours, limits.held_per_neighbour, seed, tick),
            floods: vec![TokenBucket::new(limits.floods_per_second); counted],
            reports: membership::Reports::begin(now),
            groups: Groups::new(GROUPS_MAX, counted, seed),
            moves: TokenBucket::new(limits.floods_per_second / 10),
            answers: TokenBucket::new((limits.answers_per_second / worker_count as u32).max(1)),
            errors: TokenBucket::new((limits.icmp_errors_per_second / worker_count as u32).max(1)),
            started: vec![0; counted],
            sources: Sources::new(share(limits.flows_per_source) as u32, seed),
            flows_per_port_max: share(limits.flows_per_port) as u32,
            half_open_per_port_max: share(limits.half_open_per_port) as u32,
            events: ArrayVec::new(),
            wakes: 0,
            now,
            tick,
            released: Vec::with_capacity(HELD_MAX),
            pieces: Vec::with_capacity(PIECES_MAX),
            crossing: Vec::with_capacity(share(limits.fragments_held) + 1),
            translated: 0,
            generation: tables.generation as u32,
            stamp: 1,
            path_changes: TokenBucket::new(PATHS_PER_SECOND),
            tables,
        };
        let mut worker = Worker {
            core,
            v4: flows_of(&limits, (id.index(), worker_count, counted), seed, tick),
            v6: flows_of(&limits, (id.index(), worker_count, counted), seed, tick),
            announcements: Announcements::default(),
            adoption: adoption.clone(),
            batch: Some(Box::new(Batch::new())),
            runs: Some([Box::new(Batch::new()), Box::new(Batch::new())]),
            lookups: Some(Box::default()),
            tracer: None,
            handed_over: Some(Box::default()),
            first_port: 0,
            upkeep_at: now,
            rounds_at: now,
        };
        worker.core.stages.nat.adopt(&worker.core.tables.nat, false);
        if id == WorkerId(0) {
            // Nothing was announced before, so nothing is done.
            drop(worker.announcements.begin(&adoption.announcements, now));
        }
        worker
    }

    /// Gives the worker its queue of a port. Replaces an earlier one, which is returned.
    pub fn attach(&mut self, id: PortId, port: Box<dyn Port>) -> Option<Box<dyn Port>> {
        self.core.egress.attach(id, port)
    }

    /// Takes the worker's queue of a port away. Its frames have gone back to the pool.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Port>> {
        let mut held = std::mem::take(&mut self.core.released);
        self.core.neighbours.take_held_by_port(id, &mut held);
        for packet in held.drain(..) {
            self.core.drop(packet, crate::DropReason::EgressDown);
        }
        // The room is kept: the packet path must not allocate it anew.
        self.core.released = held;
        self.core.egress.detach(id, &mut self.core.frames)
    }

    /// Receives from ready ports, decides or repeats, sends. Bounded work; reads no clock, waits
    /// for nothing. Ports that have nothing more leave `ready`. Returns the number of packets
    /// handled, those handed over by other workers included; 0 means that there was nothing to do.
    pub fn turn(&mut self, now: Instant, ready: &mut PortSet) -> usize {
        self.core.now = now;
        self.core.tick = now.tick();
        self.core.counters.worker.turns.add(1);
        let mut handled = self.take_handed_over();
        handled += self.visit_ports(ready);
        self.upkeep(now);
        self.core.rings.flush();
        self.core.egress.flush(&mut self.core.frames, &self.core.counters);
        handled
    }

    /// Visits each ready port once, beginning with another one every turn.
    fn visit_ports(&mut self, ready: &mut PortSet) -> usize {
        let start = self.first_port;
        let first = ready.next_from(start).or_else(|| ready.next_from(0));
        self.first_port = first.map_or(0, |first| first.index() + 1);
        let mut handled = 0;
        let mut from = start;
        while let Some(port) = ready.next_from(from) {
            handled += self.receive(port, ready);
            self.core.rings.flush();
            from = port.index() + 1;
        }
        from = 0;
        while let Some(port) = ready.next_from(from).filter(|port| port.index() < start) {
            handled += self.receive(port, ready);
            self.core.rings.flush();
            from = port.index() + 1;
        }
        handled
    }

    fn take_handed_over(&mut self) -> usize {
        let mut handled = 0;
        let Some(mut chunk) = self.handed_over.take() else { return 0 };
        for from in 0..self.core.worker_count {
            self.core.rings.receive(WorkerId(from as u8), &mut chunk);
            handled += match self.tracer.is_some() {
                false => self.take_chunk::<false>(&mut chunk),
                true => self.take_chunk::<true>(&mut chunk),
            };
        }
        self.route_released();
        self.handed_over = Some(chunk);
        self.core.rings.flush();
        handled
    }

    /// Takes what crossed together; returns how many packets that were.
    fn take_chunk<const TRACED: bool>(&mut self, chunk: &mut Chunk) -> usize {
        let mut handled = 0;
        for message in chunk.drain(..) {
            match message {
                Message::Packet(packet, hops) => {
                    match TRACED {
                        false => self.route(packet, hops),
                        true => self.route_traced(packet, hops, Origin::HandedOver),
                    }
                    handled += 1;
                }
                Message::Station { network, mac, port } => {
                    self.core.stages.bridge.fdb.hear(network, mac, port, self.core.tick);
                }
                Message::PathMtu { network, destination, mtu } => {
                    self.core.note_path(End { network, address: destination }, mtu);
                }
                Message::Group { network, group, port, lifetime } => {
                    self.core.hear_group((network, group, port), lifetime);
                }
                Message::Neighbour { port, address, mac } => {
                    self.core.confirm_neighbour(port, address, mac);
                    // What waited goes before what comes behind the news: order is kept, and a
                    // first fragment gets its number before the later ones ask for it.
                    self.route_released();
                }
            }
        }
        handled
    }

    /// When to turn next though no packet came: announcements, neighbours, expiry. `None`: never.
    pub fn next_deadline(&self) -> Option<Instant> {
        let busy = !self.v4.table.wheel.is_empty()
            || !self.v6.table.wheel.is_empty()
            || self.core.neighbours.has_timers()
            || self.v4.fragments.waiting()
            || self.v6.fragments.waiting()
            || !self.v4.syns.is_empty()
            || !self.v6.syns.is_empty()
            || self.announcements.pending()
            || self.has_reports()
            || !self.core.stages.mtu.paths.is_empty()
            || self.core.stages.bridge.fdb.count() > 0;
        busy.then_some(self.upkeep_at)
    }

    /// Workers that were handed something since the last call, one bit each: if they sleep, wake
    /// them.
    pub fn take_wakes(&mut self) -> u64 {
        std::mem::take(&mut self.core.wakes)
    }

    /// True if another worker has handed something over that waits: do not sleep.
    pub fn waiting(&self) -> bool {
        self.core.rings.waiting()
    }

    /// The next event for the runner.
    pub fn take_event(&mut self) -> Option<Event> {
        self.core.events.pop_at(0)
    }

    /// Frames of this worker, chunks and tails: in the pool, in its ports, and held. Frames in
    /// rings are not counted: turn the workers until none is [`waiting`](Worker::waiting) first.
    pub fn count_frames(&self) -> (usize, usize) {
        let pool = self.core.frames.count();
        let egress = self.core.egress.held_frames();
        let held = self.core.neighbours.held_frames();
        let counts =
            [pool, egress, held, self.v4.fragments.held_frames(), self.v6.fragments.held_frames()];
        counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }
}
