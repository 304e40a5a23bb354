//! Runs one worker on one pinned thread: waits for packets, reads the clock, calls `turn`.
//!
//! The engine's worker neither waits nor knows the time; this is where both come from. Readiness is
//! edge-triggered: a port that the kernel reported stays in the ready set until receiving from it
//! gave nothing, and only then does the kernel report it again; busy AF_XDP sockets are looked at
//! instead (see `rings`). The one hard constraint: a worker
//! that sleeps must be woken by whoever hands it something (see [`Waker`]). Nothing here allocates,
//! locks or logs while packets flow; commands and reports go over channels between turns.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use drivers::{TapQueue, XdpQueue};
use engine::worker::{Adoption, Event, Retired, WorkerParts};
use engine::{Counters, Instant, Port, PortId, PortSet, Worker, WorkerId};
use rustix::event::{Timespec, epoll};

use crate::error::Error;
use crate::idle::{Crowding, Idle, IdlePolicy, Rest};
use crate::rings::Rings;
use crate::view::View;
use crate::waker::Waker;

/// While ports are busy the kernel is asked for newly ready ones this often: rarely enough to cost
/// little beside a packet's own system calls, often enough that a port waits no longer than the
/// others' batches take anyway.
const POLL_EVERY: Duration = Duration::from_micros(10);

/// Longest sleep: a safety net should the machine's clock misbehave, short enough to go unnoticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Longest sleep while a socket could not be put back into the epoll set: the kernel does not tell
/// of what comes by it.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Readiness events taken at once; more stay with the kernel for the next poll.
const EVENTS_LEN: usize = 64;

/// Commands carried out between two turns. Attaching a queue takes some microseconds, so a thousand
/// new ports at once would keep packets waiting for milliseconds.
const OBEY_BUDGET: usize = 8;

/// Marks the bell among the ports in the epoll set.
const BELL: u64 = u64::MAX;

/// What the supervisor tells a worker, between two turns.
pub enum Command {
    /// Go over to a new snapshot; what is used no more comes back in [`Report::Adopted`].
    Adopt(Arc<Adoption>),
    /// Take over a queue of a port.
    Attach(PortId, PortQueue),
    /// Let go of a port; its queue comes back in [`Report::Detached`].
    Detach(PortId),
    /// Show a piece of a table to who asks; see [`View`].
    View(View),
    /// Answer with [`Report::Settled`] once all that was told before is done.
    Settle,
    /// Make the worker panic, to prove that the daemon ends cleanly.
    #[cfg(test)]
    Panic,
    /// End.
    Stop,
}

/// A queue of a port, of whichever driver.
#[derive(Debug)]
pub enum PortQueue {
    /// Of a TAP.
    Tap(TapQueue),
    /// Of an existing device.
    Xdp(Box<XdpQueue>),
}

/// What a worker tells the supervisor.
#[derive(Debug)]
pub enum Report {
    /// The worker runs: packets flow.
    Ready(WorkerId),
    /// The worker went over to a new snapshot and gives the old one back to be freed.
    Adopted(WorkerId, Retired),
    /// Something happened on the packet path.
    Event(WorkerId, Event),
    /// The worker let go of a port. Closing its queue may take the kernel milliseconds, and is the
    /// supervisor's to do.
    Detached(WorkerId, PortId, Queue),
    /// All that the supervisor told before [`Command::Settle`] is done.
    Settled(WorkerId),
    /// A port's queue could not be watched; it was not attached.
    AttachFailed(WorkerId, PortId, std::io::Error),
    /// The thread has ended.
    Ended(WorkerId, Ended),
}

/// A queue on its way out; dropping it closes it.
pub struct Queue(Box<dyn Port>);

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("alive", &self.0.alive()).finish()
    }
}

/// How a worker's thread ended.
#[derive(Debug)]
pub enum Ended {
    /// As told; with the frames that it had, chunks and tails.
    Stopped(usize, usize),
    /// By an error of the runner's own descriptors.
    Failed(Error),
    /// By a panic, with its message.
    Panicked(String),
}

/// Time since a common origin: all workers read the same clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// The time now. It never is 0, which some readers take for "never".
    pub fn now(&self) -> Instant {
        Instant(self.origin.elapsed().as_nanos() as u64 + 1)
    }
}

/// What a runner is made of.
pub struct RunnerParts {
    /// The worker.
    pub worker: WorkerParts,
    /// Its queues of the ports that are there at start.
    pub queues: Vec<(PortId, PortQueue)>,
    /// CPU to pin the thread to.
    pub cpu: usize,
    /// How it waits.
    pub idle: IdlePolicy,
    /// Wakers of all workers, by their ids.
    pub wakers: Arc<[Waker]>,
    /// The common clock.
    pub clock: Clock,
    /// From the supervisor.
    pub commands: Receiver<Command>,
    /// To the supervisor.
    pub reports: Sender<Report>,
}

/// Starts a worker's thread.
///
/// # Errors
/// The thread cannot be started. Everything later comes as a [`Report`].
pub fn spawn(parts: RunnerParts) -> Result<JoinHandle<()>, Error> {
    let id = parts.worker.id;
    let reports = parts.reports.clone();
    let work = move || {
        let cpu = core_affinity::CoreId { id: parts.cpu };
        if !core_affinity::set_for_current(cpu) {
            tracing::warn!(worker = id.0, cpu = cpu.id, "worker is not pinned");
        }
        // Unwinding drops the worker with its queues, so its devices go whatever happens.
        let ended = match catch_unwind(AssertUnwindSafe(|| Runner::new(parts)?.run())) {
            Ok(Ok((chunks, tails))) => Ended::Stopped(chunks, tails),
            Ok(Err(error)) => Ended::Failed(error),
            Err(panic) => Ended::Panicked(panic_message(&*panic)),
        };
        // The supervisor may be gone already; then nobody wants to know.
        let _ = reports.send(Report::Ended(id, ended));
    };
    let builder = thread::Builder::new().name(format!("worker-{}", id.0));
    builder.spawn(work).map_err(|source| Error::Thread { purpose: "a worker", source })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

struct Runner {
    id: WorkerId,
    // Before the worker: a queue's last descriptor is to be its own.
    rings: Rings,
    worker: Worker,
    counters: Arc<Counters>,
    ready: PortSet,
    epoll: OwnedFd,
    idle: Idle,
    wakers: Arc<[Waker]>,
    clock: Clock,
    polled_at: Instant,
    reviewed_at: Instant,
    /// This thread's `schedstat`; `None` on a kernel without.
    scheduler: Option<File>,
    commands: Receiver<Command>,
    reports: Sender<Report>,
}

impl Runner {
    fn new(parts: RunnerParts) -> Result<Runner, Error> {
        let id = parts.worker.id;
        let failed = |action| {
            move |errno: rustix::io::Errno| Error::Runner {
                action,
                worker: id.0,
                source: errno.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("make the epoll"))?;
        let bell = &parts.wakers[id.index()];
        let data = epoll::EventData::new_u64(BELL);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, bell, data, flags).map_err(failed("watch the bell"))?;
        let scheduler = File::open("/proc/thread-self/schedstat").ok();
        let now = parts.clock.now();
        let mut runner = Runner {
            id,
            counters: parts.worker.counters.clone(),
            worker: Worker::new(parts.worker),
            ready: PortSet::new(parts.queues.len()),
            epoll,
            rings: Rings::default(),
            idle: Idle::new(parts.idle, now, crowding(scheduler.as_ref())),
            wakers: parts.wakers,
            clock: parts.clock,
            polled_at: now,
            reviewed_at: now,
            scheduler,
            commands: parts.commands,
            reports: parts.reports,
        };
        for (port, queue) in parts.queues {
            runner.attach(port, queue).map_err(failed("watch a port"))?;
        }
        Ok(runner)
    }

    /// Runs until told to stop. Returns the frames that the worker has then.
    fn run(mut self) -> Result<(usize, usize), Error> {
        self.report(Report::Ready(self.id));
        loop {
            let now = self.clock.now();
            self.rings.look(&mut self.ready);
            let handled = self.worker.turn(now, &mut self.ready);
            self.wake_others();
            if now.since(self.reviewed_at) >= POLL_EVERY {
                self.reviewed_at = now;
                self.rings.review(&self.epoll, &self.counters, now);
            }
            while let Some(event) = self.worker.take_event() {
                if let Event::PortDown(port) = event {
                    self.detach(port);
                }
                self.report(Report::Event(self.id, event));
            }
            if !self.obey() {
                return Ok(self.worker.count_frames());
            }
            if handled > 0 || !self.ready.is_empty() {
                self.idle.busy(now);
                if now.since(self.polled_at) >= POLL_EVERY {
                    self.poll(now, Duration::ZERO)?;
                }
                continue;
            }
            let scheduler = self.scheduler.as_ref();
            match self.idle.rest(now, || crowding(scheduler)) {
                Rest::Spin => self.poll(now, Duration::ZERO)?,
                Rest::Sleep => self.sleep(now)?,
            }
        }
    }

    /// Sleeps until a packet, a bell or a deadline.
    fn sleep(&mut self, now: Instant) -> Result<(), Error> {
        let waker = &self.wakers[self.id.index()];
        waker.announce_sleep();
        let nothing_waits = !self.worker.waiting() && self.commands.is_empty();
        let timeout = match self.worker.next_deadline() {
            _ if !nothing_waits => Duration::ZERO,
            Some(deadline) => deadline.since(now).min(SLEEP_MAX),
            None => SLEEP_MAX,
        };
        let timeout = if self.rings.fasten(&self.epoll) { timeout } else { timeout.min(NAP_MAX) };
        let polled = self.poll(now, timeout);
        self.wakers[self.id.index()].announce_awake();
        let asleep = self.clock.now().since(now);
        self.counters.worker.asleep_ns.add(asleep.as_nanos() as u64);
        polled
    }

    /// Takes readiness from the kernel, waiting for at most `timeout`.
    fn poll(&mut self, now: Instant, timeout: Duration) -> Result<(), Error> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut events = [MaybeUninit::uninit(); EVENTS_LEN];
        self.polled_at = now;
        match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((events, _)) => {
                for event in events.iter() {
                    let data = event.data;
                    if data.u64() != BELL {
                        self.ready.insert(PortId(data.u64() as u16));
                    }
                }
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::Runner {
                action: "wait for packets",
                worker: self.id.0,
                source: errno.into(),
            }),
        }
    }

    /// Rings workers that were handed something.
    fn wake_others(&mut self) {
        let mut wakes = self.worker.take_wakes();
        while wakes != 0 {
            let index = wakes.trailing_zeros() as usize;
            wakes &= wakes - 1;
            if let Some(waker) = self.wakers.get(index) {
                waker.wake();
            }
        }
    }

    /// Carries out what the supervisor told. False: stop.
    fn obey(&mut self) -> bool {
        for _ in 0..OBEY_BUDGET {
            match self.commands.try_recv() {
                Ok(Command::Adopt(adoption)) => {
                    let old = self.worker.adopt_prepared(adoption);
                    self.report(Report::Adopted(self.id, old));
                }
                Ok(Command::Attach(port, queue)) => {
                    if let Err(errno) = self.attach(port, queue) {
                        self.report(Report::AttachFailed(self.id, port, errno.into()));
                    }
                }
                Ok(Command::Detach(port)) => self.detach(port),
                Ok(Command::View(view)) => {
                    view.show(&mut self.worker);
                    // One look per turn, so that packets wait for no second one.
                    return true;
                }
                Ok(Command::Settle) => self.report(Report::Settled(self.id)),
                #[cfg(test)]
                Ok(Command::Panic) => panic!("told to panic"),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
        true
    }

    fn attach(&mut self, port: PortId, queue: PortQueue) -> rustix::io::Result<()> {
        match queue {
            PortQueue::Tap(queue) => {
                let data = epoll::EventData::new_u64(u64::from(port.0));
                let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
                epoll::add(&self.epoll, &queue, data, flags)?;
                self.rings.remove(&self.epoll, port);
                self.put(port, queue);
                Ok(())
            }
            PortQueue::Xdp(queue) => {
                self.rings.add(&self.epoll, port, &*queue)?;
                self.put(port, *queue);
                Ok(())
            }
        }
    }

    /// Gives the worker a queue that is watched.
    fn put(&mut self, port: PortId, queue: impl Port + 'static) {
        if let Some(old) = self.worker.attach(port, Box::new(queue)) {
            self.report(Report::Detached(self.id, port, Queue(old)));
        }
        // What came before the queue was watched raised no edge that we would see.
        self.ready.insert(port);
    }

    fn detach(&mut self, port: PortId) {
        self.ready.remove(port);
        self.rings.remove(&self.epoll, port);
        // Closing the queue also takes it out of the epoll set. Until then it may become ready, and
        // a turn finds no port there.
        if let Some(queue) = self.worker.detach(port) {
            self.report(Report::Detached(self.id, port, Queue(queue)));
        }
    }

    fn report(&self, report: Report) {
        // The channel is unbounded and reports are rare. A supervisor that is gone stops us soon.
        let _ = self.reports.send(report);
    }
}

/// Reads how much others crowd this thread: the second number of `schedstat`, and how often the CPU
/// was taken from it.
fn crowding(scheduler: Option<&File>) -> Crowding {
    let mut text = [0; 64];
    let read = scheduler.and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
    let text = std::str::from_utf8(&text[..read]).unwrap_or("");
    let run_delay_ns = text.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    let involuntary_switches = drivers::involuntary_switches();
    Crowding { run_delay_ns: run_delay_ns.unwrap_or(0), involuntary_switches }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::unbounded;
    use engine::Tables;
    use engine::frame::{FrameBalancer, FramePool, heap_frames};
    use engine::hand_over::HandOverRings;

    const WITHIN: Duration = Duration::from_secs(10);
    const CHUNKS: usize = 256;

    /// A worker without ports, and the supervisor's ends of its channels.
    fn start(
        idle: IdlePolicy,
    ) -> (Sender<Command>, Receiver<Report>, Arc<[Waker]>, JoinHandle<()>) {
        let (commands, receiver) = unbounded();
        let (sender, reports) = unbounded();
        let wakers: Arc<[Waker]> = [Waker::new().unwrap()].into();
        let chunks = heap_frames(CHUNKS);
        let worker = WorkerParts {
            id: WorkerId(0),
            frames: FramePool::new(chunks, Vec::new(), FrameBalancer::new(CHUNKS, 0)),
            counters: Counters::new(1),
            rings: HandOverRings::mesh(1, 1).remove(0),
            tables: Arc::new(Tables::empty()),
            seed: 1,
            cache: true,
            now: Instant(1),
        };
        let thread = spawn(RunnerParts {
            worker,
            queues: Vec::new(),
            cpu: 0,
            idle,
            wakers: wakers.clone(),
            clock: Clock::start(),
            commands: receiver,
            reports: sender,
        });
        assert!(matches!(reports.recv_timeout(WITHIN), Ok(Report::Ready(WorkerId(0)))));
        (commands, reports, wakers, thread.unwrap())
    }

    #[test]
    fn a_sleeping_worker_obeys_once_it_is_rung_and_gives_old_tables_back() {
        for idle in [IdlePolicy::Busy, IdlePolicy::Adaptive, IdlePolicy::Interrupt] {
            let (commands, reports, wakers, thread) = start(idle);
            let mut running = Arc::new(Tables::empty());
            for generation in 2..20 {
                let tables = Tables { generation, ..Tables::empty() };
                let adoption = Adoption::new(Arc::new(tables), Some(&running));
                running = adoption.tables().clone();
                commands.send(Command::Adopt(Arc::new(adoption))).unwrap();
                wakers[0].wake();
                let report = reports.recv_timeout(WITHIN).unwrap();
                let Report::Adopted(_, old) = report else { panic!("{report:?}") };
                assert_eq!(old.tables().generation, generation - 1);
            }
            commands.send(Command::Stop).unwrap();
            wakers[0].wake();
            let ended = reports.recv_timeout(WITHIN).unwrap();
            assert!(matches!(ended, Report::Ended(_, Ended::Stopped(CHUNKS, 0))), "{ended:?}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_panic_of_the_worker_is_reported_with_its_message() {
        let (commands, reports, wakers, thread) = start(IdlePolicy::Interrupt);
        commands.send(Command::Panic).unwrap();
        wakers[0].wake();
        let ended = reports.recv_timeout(WITHIN).unwrap();
        let Report::Ended(_, Ended::Panicked(message)) = ended else { panic!("{ended:?}") };
        assert_eq!(message, "told to panic");
        thread.join().unwrap();
    }

    #[test]
    fn a_supervisor_that_is_gone_ends_the_worker() {
        let (commands, _reports, wakers, thread) = start(IdlePolicy::Interrupt);
        drop(commands);
        wakers[0].wake();
        thread.join().unwrap();
    }
}
