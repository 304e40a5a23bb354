//! Workers and the wires around them.
//!
//! The one hard constraint: every frame that a world takes from the bank it gives back at its end,
//! which is the strictest form of conservation, and what keeps a process of a million runs small.
//! Frames that are held for a neighbour come free when the clock moves on, so the end is reached
//! only by letting time pass.

use std::fmt;
use std::mem::take;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use engine::frame::{Frame, FrameBalancer, FramePool, Tail, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::sim::{MemoryPort, MemoryWire, WireFrame};
use engine::worker::WorkerParts;
use engine::{Batch, Caps, Counters, Instant, Port, PortId, PortSet, Worker, WorkerId};

use crate::host::{PORT_COUNT, caps, tables};

/// Frames of each worker: a batch and a half, so that a flood can use them up.
const CHUNKS_PER_WORKER: usize = 96;
const TAILS_PER_WORKER: usize = 4;

/// Rounds of turns after which packets must have come to rest: each is at most handed over once,
/// and receiving takes a batch at a time.
const ROUNDS_MAX: usize = 256;

/// Deadlines that are kept on time while time passes; the rest are late, as on a busy machine.
const DEADLINES_MAX: usize = 4;

/// Time after which nothing may wait for a neighbour any more, and the steps to get there.
const HOLD_STEPS: u32 = 20;
const HOLD_STEP: Duration = Duration::from_millis(500);

/// Not zero, so that "long ago" lies in the past.
const START: Instant = Instant(1_000_000_000);

/// Bytes of a packet that a report shows: the headers.
const SHOWN_BYTES_MAX: usize = 96;

type Frames = (Vec<Frame>, Vec<Tail>);

/// Frames that no world has now; they are never freed, so each is used again.
fn bank() -> MutexGuard<'static, Frames> {
    static BANK: Mutex<Frames> = Mutex::new((Vec::new(), Vec::new()));
    BANK.lock().expect("a panic ends the process")
}

fn withdraw(chunk_count: usize, tail_count: usize) -> Frames {
    let mut bank = bank();
    let missing = chunk_count.saturating_sub(bank.0.len());
    bank.0.extend(heap_frames(missing));
    let missing = tail_count.saturating_sub(bank.1.len());
    bank.1.extend(heap_tails(missing));
    (bank.0.drain(..chunk_count).collect(), bank.1.drain(..tail_count).collect())
}

/// A packet that the gateway sent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) port: PortId,
    pub(crate) frame: WireFrame,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WireFrame { bytes, offload } = &self.frame;
        write!(f, "to port {}, {} bytes, {offload:?}: ", self.port.0, bytes.len())?;
        bytes.iter().take(SHOWN_BYTES_MAX).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A gateway and its wires.
pub(crate) struct World {
    workers: Vec<Worker>,
    wires: Vec<MemoryWire>,
    balancer: Arc<FrameBalancer>,
    /// Set at the end: ports take the workers' frames away.
    closing: Arc<AtomicBool>,
    now: Instant,
    generation: u64,
}

impl World {
    /// A gateway with this many workers, with or without the flow cache.
    pub(crate) fn new(worker_count: usize, cache: bool) -> World {
        let chunk_count = worker_count * CHUNKS_PER_WORKER;
        let balancer = FrameBalancer::new(chunk_count, worker_count * TAILS_PER_WORKER);
        let tables = Arc::new(tables(1));
        let rings = HandOverRings::mesh(worker_count, tables.limits.hand_over as usize);
        let workers = rings.into_iter().enumerate().map(|(index, rings)| {
            let (chunks, tails) = withdraw(CHUNKS_PER_WORKER, TAILS_PER_WORKER);
            Worker::new(WorkerParts {
                id: WorkerId(index as u8),
                frames: FramePool::new(chunks, tails, balancer.clone()),
                counters: Counters::new(usize::from(PORT_COUNT)),
                rings,
                tables: tables.clone(),
                seed: 1,
                cache,
                now: START,
            })
        });
        let mut world = World {
            workers: workers.collect(),
            wires: Vec::new(),
            balancer: balancer.clone(),
            closing: Arc::default(),
            now: START,
            generation: 1,
        };
        (0..PORT_COUNT).for_each(|port| world.attach(PortId(port)));
        world
    }

    fn attach(&mut self, id: PortId) {
        let (wire, queues) = MemoryWire::new(self.workers.len(), caps(id));
        for (worker, queue) in self.workers.iter_mut().zip(queues) {
            let port = ClosingPort { queue, closing: self.closing.clone() };
            assert!(worker.attach(id, Box::new(port)).is_none(), "the port is new");
        }
        self.wires.push(wire);
    }

    /// A packet arrives; which worker receives it is up to the device, so take any.
    pub(crate) fn receive(&mut self, port: PortId, frame: WireFrame) {
        let queue = frame.bytes.len() % self.workers.len();
        self.wires[port.index()].push(queue, frame);
    }

    /// Turns the workers until nothing moves any more; returns what was sent.
    pub(crate) fn settle(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let moved: usize = (0..self.workers.len()).map(|index| self.turn(index)).sum();
            self.collect(&mut sent);
            if moved == 0 && !self.workers.iter().any(Worker::waiting) {
                self.check_frames();
                return sent;
            }
        }
        panic!("packets still move after {ROUNDS_MAX} rounds");
    }

    fn turn(&mut self, index: usize) -> usize {
        let mut ready = PortSet::new(usize::from(PORT_COUNT));
        (0..PORT_COUNT).for_each(|port| ready.insert(PortId(port)));
        let worker = &mut self.workers[index];
        let moved = worker.turn(self.now, &mut ready);
        worker.take_wakes();
        while worker.take_event().is_some() {}
        moved
    }

    fn collect(&self, sent: &mut Vec<Sent>) {
        for (index, wire) in self.wires.iter().enumerate() {
            for queue in 0..wire.queue_count() {
                while let Some(frame) = wire.take(queue) {
                    sent.push(Sent { port: PortId(index as u16), frame });
                }
            }
        }
    }

    fn check_frames(&self) {
        let mut count = self.balancer.count();
        for (chunks, tails) in self.workers.iter().map(Worker::count_frames) {
            count = (count.0 + chunks, count.1 + tails);
        }
        let workers = self.workers.len();
        let all = (workers * CHUNKS_PER_WORKER, workers * TAILS_PER_WORKER);
        assert_eq!(count, all, "frames taken = frames returned + frames in flight");
    }

    /// Lets time pass. Whoever has one of the next deadlines gets its turn on time.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Sent> {
        let end = self.now + duration;
        let mut sent = Vec::new();
        for _ in 0..DEADLINES_MAX {
            let deadlines = self.workers.iter().filter_map(Worker::next_deadline);
            let Some(next) = deadlines.filter(|&next| next < end).min() else { break };
            self.now = self.now.max(next);
            sent.extend(self.settle());
        }
        self.now = end;
        sent.extend(self.settle());
        sent
    }

    /// Goes over to the next generation of tables.
    pub(crate) fn reload(&mut self) {
        self.generation += 1;
        let tables = Arc::new(tables(self.generation));
        for worker in &mut self.workers {
            drop(worker.adopt(tables.clone()));
        }
    }

    /// A device disappears.
    pub(crate) fn destroy(&mut self, port: PortId) {
        self.wires[port.index()].destroy();
    }

    /// How many packets a device takes before it is full.
    pub(crate) fn set_room(&mut self, port: PortId, packet_count: usize) {
        let wire = &self.wires[port.index()];
        (0..wire.queue_count()).for_each(|queue| wire.set_room(queue, packet_count));
    }

    /// Ends the world: nothing may be held for ever, and every frame comes back.
    pub(crate) fn close(mut self) {
        for _ in 0..HOLD_STEPS {
            self.pass(HOLD_STEP);
        }
        self.closing.store(true, Relaxed);
        let before = take(&mut *returned());
        assert!(before.0.is_empty() && before.1.is_empty(), "one world closes at a time");
        for index in 0..self.workers.len() {
            self.turn(index);
        }
        let (chunks, tails) = take(&mut *returned());
        let workers = self.workers.len();
        let all = (workers * CHUNKS_PER_WORKER, workers * TAILS_PER_WORKER);
        assert_eq!((chunks.len(), tails.len()), all, "frames are held for ever");
        let mut bank = bank();
        bank.0.extend(chunks);
        bank.1.extend(tails);
    }
}

/// Frames that the world which closes now has given back.
fn returned() -> MutexGuard<'static, Frames> {
    static RETURNED: Mutex<Frames> = Mutex::new((Vec::new(), Vec::new()));
    RETURNED.lock().expect("a panic ends the process")
}

/// A port that at the end takes the worker's frames instead of receiving.
struct ClosingPort {
    queue: MemoryPort,
    closing: Arc<AtomicBool>,
}

impl Port for ClosingPort {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        if !self.closing.load(Relaxed) {
            return self.queue.rx(frames, batch);
        }
        let mut returned = returned();
        returned.0.extend(std::iter::from_fn(|| frames.take_chunk()));
        returned.1.extend(std::iter::from_fn(|| frames.take_tail()));
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        self.queue.tx(frames, out);
    }

    fn flush(&mut self, frames: &mut FramePool) {
        self.queue.flush(frames);
    }

    fn caps(&self) -> Caps {
        self.queue.caps()
    }

    fn alive(&self) -> bool {
        self.queue.alive()
    }

    fn held_frames(&self) -> (usize, usize) {
        self.queue.held_frames()
    }

    fn take_rejected(&mut self) -> u64 {
        self.queue.take_rejected()
    }

    fn release(&mut self, frames: &mut FramePool) {
        self.queue.release(frames);
    }
}
