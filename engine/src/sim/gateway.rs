//! The gateway of a simulated world: workers, their ports in memory, and when they want to turn.
//!
//! What a runner does in production, in one thread on a virtual clock: ports are marked ready as
//! level-triggered epoll would, wakes and deadlines are kept, and after every turn each frame must
//! be somewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::Plan;
use super::port::{MemoryWire, WireFrame};
use super::rng::{Rng, mix};
use super::steer::Steering;
use super::topology::Topology;
use crate::counters::{Counters, DropReason};
use crate::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
use crate::hand_over::HandOverRings;
use crate::id::{PortId, WorkerId};
use crate::port::PortSet;
use crate::tables::{Publish, Routes, Tables};
use crate::time::Instant;
use crate::worker::{Event, Worker, WorkerParts};

/// Chunks of each worker.
const CHUNK_COUNT: usize = 1_024;
/// Tails of each worker: several blocks, or one that only hands them on runs dry.
const TAIL_COUNT: usize = 256;
/// When the world begins: not 0, so that nothing mistakes 0 for never.
pub(super) const START_NS: u64 = 1_000_000_000;

/// The same where everything is too small.
const TIGHT_CHUNK_COUNT: usize = 48;
const TIGHT_TAIL_COUNT: usize = 2;
/// Packets that a port takes in a turn there.
const TIGHT_ROOM_LEN: usize = 3;
/// Packets that wait to be received from a queue there.
const TIGHT_BACKLOG_LEN: usize = 32;
/// Turns between two looks at all flows, which take longer than a turn.
const TUPLES_EVERY: u64 = 64;
/// Turns in a row that do nothing though something is due, before that is a fault.
const IDLE_TURNS_MAX: u32 = 200;

/// What a turn has brought.
#[derive(Debug, Default)]
pub(super) struct Turned {
    pub(super) sent: Vec<(PortId, WireFrame)>,
    pub(super) events: Vec<Event>,
    /// What was dropped, and how often.
    pub(super) drops: Vec<(DropReason, u64)>,
    /// Workers that were handed something.
    pub(super) wakes: Vec<usize>,
    /// There is more to do, this long from now: at once, later if the last turns did nothing.
    pub(super) more_ns: Option<u64>,
    pub(super) deadline_ns: Option<u64>,
}

/// Workers and everything they need.
pub(super) struct Gateway {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    ready: Vec<PortSet>,
    /// When each worker turns next, as far as planned.
    turns_ns: Vec<Option<u64>>,
    idle_turns: Vec<u32>,
    wires: Vec<MemoryWire>,
    steering: Vec<Steering>,
    balancer: Arc<FrameBalancer>,
    /// Chunks and tails that there are.
    frame_count: (usize, usize),
    is_tight: bool,
    tables: Arc<Tables>,
    seed: u64,
    pub(super) turn_count: u64,
}

impl Gateway {
    pub(super) fn new(plan: &Plan, topology: &Topology, rng: &mut Rng) -> Gateway {
        let tables = Arc::new(topology.tables.clone());
        let chunk_count = if plan.tight { TIGHT_CHUNK_COUNT } else { CHUNK_COUNT };
        let tail_count = if plan.tight { TIGHT_TAIL_COUNT } else { TAIL_COUNT };
        let port_count = tables.ports.len();
        let (chunks, tails) = (plan.workers * chunk_count, plan.workers * tail_count);
        let balancer = FrameBalancer::new(chunks, tails);
        let hash_seed = rng.number();
        let mut counters = Vec::new();
        let mut workers = Vec::new();
        let rings = HandOverRings::mesh(plan.workers, tables.limits.hand_over as usize);
        for (index, rings) in rings.into_iter().enumerate() {
            counters.push(Counters::new(port_count));
            let frames =
                FramePool::new(heap_frames(chunk_count), heap_tails(tail_count), balancer.clone());
            workers.push(Worker::new(WorkerParts {
                id: WorkerId(index as u8),
                frames,
                counters: counters[index].clone(),
                rings,
                tables: tables.clone(),
                seed: hash_seed,
                cache: plan.cache,
                now: Instant(START_NS),
            }));
        }
        let mut wires = Vec::new();
        for (index, &caps) in topology.caps.iter().enumerate() {
            let (wire, ports) = MemoryWire::new(plan.workers, caps);
            for (queue, (worker, port)) in workers.iter_mut().zip(ports).enumerate() {
                if plan.tight {
                    wire.set_room(queue, TIGHT_ROOM_LEN);
                }
                worker.attach(PortId(index as u16), Box::new(port));
            }
            wires.push(wire);
        }
        Gateway {
            ready: vec![PortSet::new(port_count); plan.workers],
            turns_ns: vec![None; plan.workers],
            idle_turns: vec![0; plan.workers],
            steering: wires.iter().map(|_| Steering::new(rng)).collect(),
            workers,
            counters,
            wires,
            balancer,
            frame_count: (chunks, tails),
            is_tight: plan.tight,
            tables,
            seed: plan.seed,
            turn_count: 0,
        }
    }

    /// A frame arrives at a port. Returns the worker that receives it.
    pub(super) fn receive(&mut self, port: PortId, frame: WireFrame) -> usize {
        let wire = &self.wires[port.index()];
        let queue = self.steering[port.index()].queue(&frame.bytes, wire.queue_count());
        // A device drops what its queue cannot hold. Without an end, an answer would wait there
        // until its mapping has ended and its outside port is somebody else's.
        if !self.is_tight || wire.waiting(queue) < TIGHT_BACKLOG_LEN {
            wire.push(queue, frame);
        }
        queue
    }

    /// Plans a turn; false if an earlier one is planned already.
    pub(super) fn wants_turn(&mut self, worker: usize, at_ns: u64) -> bool {
        let planned = &mut self.turns_ns[worker];
        let is_earlier = planned.is_none_or(|planned_ns| planned_ns > at_ns);
        if is_earlier {
            *planned = Some(at_ns);
        }
        is_earlier
    }

    /// True if the worker's planned turn is now.
    pub(super) fn is_turn(&self, worker: usize, now_ns: u64) -> bool {
        self.turns_ns[worker] == Some(now_ns)
    }

    /// Goes over to new tables.
    pub(super) fn adopt(&mut self, worker: usize, tables: Arc<Tables>) {
        drop(self.workers[worker].adopt(tables));
    }

    /// One turn of one worker.
    pub(super) fn turn(&mut self, worker: usize, now_ns: u64) -> Result<Turned, String> {
        self.turns_ns[worker] = None;
        self.turn_count += 1;
        self.mark_ready(worker, now_ns);
        let drops_before = self.counters[worker].drops();
        let engine = &mut self.workers[worker];
        let handled = engine.turn(Instant(now_ns), &mut self.ready[worker]);
        let wakes = engine.take_wakes();
        let mut turned = Turned {
            events: std::iter::from_fn(|| engine.take_event()).collect(),
            wakes: (0..self.counters.len()).filter(|&other| wakes >> other & 1 == 1).collect(),
            deadline_ns: engine.next_deadline().map(|deadline| deadline.0),
            drops: newly(&drops_before, self.counters[worker].drops()),
            ..Turned::default()
        };
        for (index, wire) in self.wires.iter().enumerate() {
            let port = PortId(index as u16);
            turned.sent.extend(std::iter::from_fn(|| wire.take(worker)).map(|f| (port, f)));
        }
        let is_received = self.wires.iter().all(|wire| wire.waiting(worker) == 0);
        let has_more =
            !is_received || !self.ready[worker].is_empty() || self.workers[worker].waiting();
        let is_overdue = turned.deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns);
        let is_idle = handled == 0 && turned.sent.is_empty() && (has_more || is_overdue);
        self.idle_turns[worker] = if is_idle { self.idle_turns[worker] + 1 } else { 0 };
        if self.idle_turns[worker] > IDLE_TURNS_MAX && !self.is_tight {
            let deadline = turned.deadline_ns;
            return Err(format!(
                "worker {worker} does nothing: deadline {deadline:?} at {now_ns}, ready {:?}, \
                 all received {is_received}, waiting {}",
                self.ready[worker],
                self.workers[worker].waiting()
            ));
        }
        turned.more_ns = has_more.then_some(1_000 << self.idle_turns[worker].min(16));
        self.check_conserved()?;
        if self.turn_count.is_multiple_of(TUPLES_EVERY) {
            self.check_tuples()?;
        }
        Ok(turned)
    }

    fn mark_ready(&mut self, worker: usize, now_ns: u64) {
        for (index, wire) in self.wires.iter().enumerate() {
            if wire.waiting(worker) > 0 {
                self.ready[worker].insert(PortId(index as u16));
            }
        }
        // Now and then a port is said to be ready that has nothing.
        let choice = mix(self.seed ^ mix(now_ns ^ (worker as u64) << 48 ^ 1));
        if choice.is_multiple_of(16) {
            let index = (choice >> 8) % self.wires.len() as u64;
            self.ready[worker].insert(PortId(index as u16));
        }
    }

    fn check_conserved(&self) -> Result<(), String> {
        let (mut chunks, mut tails) = self.balancer.count();
        for worker in &self.workers {
            let (own_chunks, own_tails) = worker.count_frames();
            chunks += own_chunks;
            tails += own_tails;
        }
        let expected = self.frame_count;
        // What lies in a ring is counted by nobody until its receiver turns.
        let is_right = match self.workers.iter().any(Worker::waiting) {
            true => chunks <= expected.0 && tails <= expected.1,
            false => (chunks, tails) == expected,
        };
        if is_right { Ok(()) } else { Err(format!("frames: {chunks}, {tails} of {expected:?}")) }
    }

    /// No two flows may send with one outside tuple, or the reply could go to either.
    pub(super) fn check_tuples(&self) -> Result<(), String> {
        let mut tuples = BTreeMap::new();
        for flow in self.workers.iter().flat_map(Worker::flows) {
            let (input, ingress) = (flow.input, flow.reply_ingress);
            let tuple = (input.protocol, ingress, flow.source, flow.destination);
            if let Some(other) = tuples.insert(tuple, input) {
                return Err(format!("{input:?} and {other:?} both leave as {tuple:?}"));
            }
        }
        Ok(())
    }

    /// Nothing may be left of traffic that ended long ago.
    pub(super) fn check_empty(&self) -> Result<(), String> {
        let flows: u64 = self.counters.iter().map(|counters| counters.worker.flows.get()).sum();
        if flows == 0 { Ok(()) } else { Err(format!("{flows} flows never expired")) }
    }

    /// What all workers dropped.
    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        let count = |&reason: &DropReason| {
            (reason, self.counters.iter().map(|counters| counters.dropped(reason).get()).sum())
        };
        DropReason::ALL.iter().map(count).filter(|&(_, count)| count > 0).collect()
    }

    /// Packets handed from one worker to another.
    pub(super) fn handed_over(&self) -> u64 {
        self.counters.iter().map(|counters| counters.worker.handed_over.get()).sum()
    }

    /// New tables in which some published ports are published no more.
    pub(super) fn withdraw(&mut self, host_ports: &[u16]) -> Arc<Tables> {
        let mut tables = Tables::clone(&self.tables);
        tables.generation += 1;
        let (epoch, entries) = (tables.publish.epoch + 1, tables.publish.entries());
        let kept = entries.iter().filter(|entry| !host_ports.contains(&entry.host_port));
        tables.publish = Arc::new(tables.publish.changed_to(epoch, kept.cloned().collect()));
        self.tables = Arc::new(tables);
        self.tables.clone()
    }

    /// New tables of equal content, in which some parts claim to have changed.
    pub(super) fn next_tables(&mut self, rng: &mut Rng) -> Arc<Tables> {
        let mut tables = Tables::clone(&self.tables);
        tables.generation += 1;
        for port in tables.ports.iter_mut().flatten().filter(|_| rng.chance(200)) {
            Arc::make_mut(port).epoch += 1;
        }
        for network in tables.networks.iter_mut().flatten().filter(|_| rng.chance(200)) {
            Arc::make_mut(network).epoch += 1;
        }
        for uplink in tables.uplinks.iter_mut().flatten().filter(|_| rng.chance(200)) {
            Arc::make_mut(uplink).epoch += 1;
        }
        if rng.chance(200) {
            let publish = &tables.publish;
            let entries = publish.entries().to_vec();
            tables.publish = Arc::new(Publish::new(publish.epoch + 1, entries));
        }
        if rng.chance(200) {
            let routes = tables.routes.iter().copied().collect();
            tables.routes = Arc::new(Routes::new(tables.routes.epoch + 1, routes));
        }
        if rng.chance(200) {
            Arc::make_mut(&mut tables.nat).epoch += 1;
        }
        self.tables = Arc::new(tables);
        self.tables.clone()
    }
}

/// What was dropped between two looks at a worker's counters.
fn newly(before: &[(DropReason, u64)], after: Vec<(DropReason, u64)>) -> Vec<(DropReason, u64)> {
    let count_before =
        |reason| before.iter().find(|(other, _)| *other == reason).map_or(0, |&(_, count)| count);
    let newly = after.into_iter().map(|(reason, count)| (reason, count - count_before(reason)));
    newly.filter(|&(_, count)| count > 0).collect()
}
