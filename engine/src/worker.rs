//! stub

use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::Counters;
use crate::frame::FramePool;
use crate::hand_over::HandOverRings;
use crate::id::{PortId, WorkerId};
use crate::port::{Port, PortSet};
use crate::tables::Tables;
use crate::time::Instant;

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
}

/// Something that the runner should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device behind a port is gone; the worker has let go of it.
    PortDown(PortId),
    /// An IP address was seen at two MAC addresses.
    AddressConflict(PortId, IpAddr),
}

/// One thread's engine: bytes and time in, bytes out.
pub struct Worker {
    _parts: WorkerParts,
}

impl Worker {
    /// Builds the worker and allocates everything it will ever need.
    pub fn new(parts: WorkerParts) -> Worker {
        Worker { _parts: parts }
    }

    /// Gives the worker its queue of a port. Replaces an earlier one, which is returned.
    pub fn attach(&mut self, _id: PortId, _port: Box<dyn Port>) -> Option<Box<dyn Port>> {
        None
    }

    /// Takes the worker's queue of a port away.
    pub fn detach(&mut self, _id: PortId) -> Option<Box<dyn Port>> {
        None
    }

    /// Goes over to a new snapshot, between turns. Returns the old one: the supervisor frees it.
    pub fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        tables
    }

    /// Receives from ready ports, decides or repeats, sends. Bounded work; reads no clock, waits
    /// for nothing. Ports that gave nothing leave `ready`. Returns the number of packets handled,
    /// those handed over by other workers included; 0 means that there was nothing to do.
    pub fn turn(&mut self, _now: Instant, _ready: &mut PortSet) -> usize {
        0
    }

    /// When to turn next though no packet came: announcements, neighbours, expiry. `None`: never.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Workers that were handed something since the last call, one bit each: if they sleep, wake
    /// them.
    pub fn take_wakes(&mut self) -> u64 {
        0
    }

    /// True if another worker has handed something over that waits: do not sleep.
    pub fn waiting(&self) -> bool {
        false
    }

    /// The next event for the runner.
    pub fn take_event(&mut self) -> Option<Event> {
        None
    }

    /// Frames of this worker, chunks and tails: in the pool, in its ports, held and in rings.
    pub fn count_frames(&self) -> (usize, usize) {
        (0, 0)
    }
}
