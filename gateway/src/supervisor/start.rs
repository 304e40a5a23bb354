//! Start: devices, packet memory, workers, in this order; whatever fails undoes what was made.
//!
//! The one hard constraint: packets flow only when every worker has said that it runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use config::{Config, Idle, Workers};
use crossbeam::channel::{Sender, unbounded};
use drivers::{Region, XDP_QUEUE_FRAMES, XdpMemory};
use engine::frame::{Frame, FrameBalancer, FramePool, Tail};
use engine::hand_over::HandOverRings;
use engine::id::WORKER_COUNT_MAX;
use engine::worker::WorkerParts;
use engine::{Counters, Tables, WorkerId};
use rustix::thread::CapabilitySet;

use super::{Gateway, WorkerHandle};
use crate::control::{Control, ReloadCounts};
use crate::devices::{Devices, xdp_room};
use crate::error::Error;
use crate::host::{self, Host};
use crate::idle::IdlePolicy;
use crate::reserve::Reservations;
use crate::runner::{self, Clock, Report, RunnerParts};
use crate::store::Store;
use crate::waker::Waker;

/// Chunks of a worker besides those that a sum below names: 16 batches of 64 in flight and as many
/// again for bursts of answers and floods.
const CHUNKS_PER_WORKER: usize = 4_096;

/// Chunks more per port, so that a full batch from each can wait at once.
const CHUNKS_PER_PORT: usize = 64;

/// Most chunks reserved for packets that wait for neighbours. More may wait by the limits, but an
/// attack on unresolvable neighbours must not size our memory.
const CHUNKS_HELD_MAX: usize = 4_096;

/// Tails of a worker: four batches of super-frames. 17 MiB, mapped but untouched until used.
const TAILS_PER_WORKER: usize = 256;

impl Gateway {
    /// A gateway makes namespaces and devices.
    ///
    /// # Errors
    /// The process may not.
    pub fn check_privileges() -> Result<(), Error> {
        let needed =
            CapabilitySet::NET_ADMIN | CapabilitySet::NET_BROADCAST | CapabilitySet::SYS_ADMIN;
        let ours = rustix::thread::capabilities(None);
        let effective = ours.map_or(CapabilitySet::empty(), |sets| sets.effective);
        let missing = needed - effective;
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter_names().map(|(name, _)| format!("CAP_{name}")).collect::<Vec<_>>();
        Err(Error::Privileges { missing: names.join(" and ") })
    }

    /// Makes the devices, or re-attaches those that `store` knows, starts the workers, and returns
    /// when packets flow.
    ///
    /// # Errors
    /// The first step that fails; everything made before it is undone.
    pub fn start(config: &Config, store: Arc<Store>) -> Result<Gateway, Error> {
        Gateway::check_privileges()?;
        raise_descriptor_limit();
        Gateway::assemble(config, store)
    }

    /// As `start`; a config without devices needs no rights.
    pub(super) fn assemble(config: &Config, store: Arc<Store>) -> Result<Gateway, Error> {
        let cpus = choose_cpus(&config.gateway.workers)?;
        let worker_count = cpus.len();
        let tables = config::compile(config, None);
        let port_room = engine::worker::port_room(tables.ports.len());
        let frame_counts = frame_counts(&tables, worker_count, xdp_room(config));
        let mut reservations = Reservations::new(store.clone())?;
        let reserved = reservations.prepare(config)?;
        reservations.commit(reserved);
        let (region, chunks, tails) =
            Region::new(frame_counts.0, frame_counts.1).map_err(Error::Memory)?;
        let balancer = FrameBalancer::new(frame_counts.0, frame_counts.1);
        let memory = XdpMemory { region: Arc::new(region), balancer: balancer.clone() };
        let devices = Devices::start(config, worker_count, &store, memory)?;
        // Devices that were there already say how large a packet may be.
        let mut compiled = config.clone();
        devices.adopt_mtus(&mut compiled);
        let host = Host::start(&store)?;
        host::adopt_addresses(&mut compiled, None);
        host.apply(&compiled)?;
        let tables = Arc::new(config::compile(&compiled, None));
        let wakers: Result<Arc<[_]>, _> = cpus.iter().map(|_| Waker::new()).collect();
        let wakers = wakers.map_err(|source| Error::Runner {
            action: "make the bell",
            worker: 0,
            source,
        })?;
        let (sender, reports) = unbounded();
        let (control, requests) = Control::new();
        let mut gateway = Gateway {
            workers: Vec::new(),
            wakers,
            reports,
            requests,
            control,
            config: Arc::new(config.clone()),
            compiled,
            source: None,
            started_at: SystemTime::now(),
            started: Instant::now(),
            reloads: ReloadCounts::default(),
            tables,
            balancer,
            frame_counts,
            port_room,
            ports_down: BTreeSet::new(),
            exchanging: BTreeSet::new(),
            reading: None,
            store,
            reservations,
            host,
            devices,
        };
        let idle = match config.gateway.idle {
            Idle::Busy => IdlePolicy::Busy,
            Idle::Adaptive => IdlePolicy::Adaptive,
            Idle::Interrupt => IdlePolicy::Interrupt,
        };
        gateway.start_workers(&cpus, (chunks, tails), idle, &sender)?;
        // From here on the workers hold the only senders, so their end is seen.
        drop(sender);
        gateway.await_all("start", |report| match report {
            Report::Ready(worker) => Some(*worker),
            _ => None,
        })?;
        gateway.devices.missing_ports().into_iter().for_each(|port| gateway.note_down(port));
        Ok(gateway)
    }

    fn start_workers(
        &mut self,
        cpus: &[usize],
        (chunks, tails): (Vec<Frame>, Vec<Tail>),
        idle: IdlePolicy,
        reports: &Sender<Report>,
    ) -> Result<(), Error> {
        let seed = random_seed()?;
        let clock = Clock::start();
        let mut chunks = Shares::new(chunks, cpus.len());
        let mut tails = Shares::new(tails, cpus.len());
        let mut queues = self.devices.take_queues().into_iter();
        let rings = HandOverRings::mesh(cpus.len(), self.tables.limits.hand_over as usize);
        for (index, (rings, &cpu)) in rings.into_iter().zip(cpus).enumerate() {
            let id = WorkerId(index as u8);
            let counters = Counters::new(self.tables.ports.len().max(1));
            counters.reserve(&self.tables);
            let (commands, receiver) = unbounded();
            let worker = WorkerParts {
                id,
                frames: FramePool::new(chunks.next(), tails.next(), self.balancer.clone())
                    .with_copier(drivers::copier()),
                counters: counters.clone(),
                rings,
                tables: self.tables.clone(),
                seed,
                cache: true,
                now: clock.now(),
            };
            let thread = runner::spawn(RunnerParts {
                worker,
                queues: queues.next().unwrap_or_default(),
                cpu,
                idle,
                wakers: self.wakers.clone(),
                clock,
                commands: receiver,
                reports: reports.clone(),
            })?;
            self.workers.push(WorkerHandle { id, cpu, commands, counters, thread: Some(thread) });
        }
        Ok(())
    }
}

/// One descriptor per port and worker: a thousand endpoints pass the usual soft limit of 1,024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What the hard limit does not allow shows as an error of the device that finds no descriptor.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The CPU of each worker. More workers than CPUs share them in turn.
fn choose_cpus(workers: &Workers) -> Result<Vec<usize>, Error> {
    // Asked before any thread is pinned: a pinned thread sees one CPU only.
    let available: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    pick_cpus(workers, available)
}

fn pick_cpus(workers: &Workers, available: Vec<usize>) -> Result<Vec<usize>, Error> {
    let count = match workers {
        Workers::Auto => available.len().clamp(1, WORKER_COUNT_MAX),
        Workers::Count(count) => usize::from(*count),
        Workers::Cpus(cpus) => {
            let cpus: Vec<usize> = cpus.iter().map(|&cpu| usize::from(cpu)).collect();
            return match cpus.iter().find(|cpu| !available.contains(cpu)) {
                Some(&cpu) => Err(Error::Cpu { cpu, available }),
                None => Ok(cpus),
            };
        }
    };
    Ok(available
        .iter()
        .copied()
        .chain(available.is_empty().then_some(0))
        .cycle()
        .take(count)
        .collect())
}

/// Chunks and tails of the whole gateway: per worker what it has in flight, what may wait for
/// neighbours, and what its hand-over rings and those of AF_XDP hold.
fn frame_counts(tables: &Tables, worker_count: usize, xdp_room: usize) -> (usize, usize) {
    let limits = &tables.limits;
    let held = limits.neighbours as usize * limits.held_per_neighbour as usize;
    let rings = limits.hand_over as usize * (worker_count - 1);
    let per_worker = CHUNKS_PER_WORKER
        + CHUNKS_PER_PORT * tables.ports.len()
        + XDP_QUEUE_FRAMES * xdp_room
        + held.min(CHUNKS_HELD_MAX) / worker_count
        + rings;
    (per_worker * worker_count, TAILS_PER_WORKER * worker_count)
}

/// Unpredictable, so that nobody outside can aim at one hash bucket.
fn random_seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        Ok(_) => Err(Error::Random(std::io::ErrorKind::UnexpectedEof.into())),
        Err(errno) => Err(Error::Random(errno.into())),
    }
}

/// Deals frames out in equal shares; the first ones get what is left over.
struct Shares<T> {
    rest: Vec<T>,
    left: usize,
}

impl<T> Shares<T> {
    fn new(all: Vec<T>, count: usize) -> Shares<T> {
        Shares { rest: all, left: count }
    }

    fn next(&mut self) -> Vec<T> {
        let share = self.rest.len().div_ceil(self.left.max(1));
        self.left = self.left.saturating_sub(1);
        self.rest.split_off(self.rest.len() - share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_workers_than_cpus_share_them_in_turn() {
        assert_eq!(pick_cpus(&Workers::Count(3), vec![0, 1]).unwrap(), [0, 1, 0]);
        assert_eq!(pick_cpus(&Workers::Auto, vec![2, 5]).unwrap(), [2, 5]);
        assert_eq!(pick_cpus(&Workers::Auto, vec![]).unwrap(), [0]);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let error = pick_cpus(&Workers::Cpus(vec![1, 7]), vec![0, 1]).unwrap_err();
        assert!(error.to_string().starts_with("cpu 7 is not available"), "{error}");
        assert_eq!(pick_cpus(&Workers::Cpus(vec![1]), vec![0, 1]).unwrap(), [1]);
    }

    #[test]
    fn shares_are_equal_and_nothing_is_left_over() {
        let mut shares = Shares::new((0..7).collect(), 3);
        assert_eq!([shares.next().len(), shares.next().len(), shares.next().len()], [3, 2, 2]);
        assert!(shares.rest.is_empty());
    }

    #[test]
    fn every_worker_has_frames_for_its_rings_and_ports() {
        let tables = Tables::empty();
        let (chunks, tails) = frame_counts(&tables, 4, 0);
        let rings = 4 * 3 * tables.limits.hand_over as usize;
        assert!(chunks >= 4 * CHUNKS_PER_WORKER + rings);
        assert_eq!(tails, 4 * TAILS_PER_WORKER);
    }
}
