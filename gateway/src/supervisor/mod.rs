//! Starts a gateway from a config, changes it while it runs, ends it: the only writer of its state.
//!
//! Owns the config's tables, the devices and the workers' threads. It sleeps on channels: what
//! workers report, what a [`Control`] asks, the end; packets never pass here. The one hard
//! constraint: whatever ends the gateway (a signal, an error, a worker's panic, an unwinding
//! caller), the workers end first, then the devices, then the namespaces, and none of them is left.
//!
//! `start`, `reload` and `stop` are files of their own.

mod reading;
mod reload;
mod start;
mod stop;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use config::Config;
use crossbeam::channel::{Receiver, Sender, select};
use engine::frame::FrameBalancer;
use engine::worker::Event;
use engine::{Counters, PortId, Tables, WorkerId};

use crate::control::{Control, ReloadCounts, Request, StateView};
use crate::devices::Devices;
use crate::error::Error;
use crate::host::Host;
use crate::reserve::Reservations;
use crate::runner::{Command, Ended, Report};
use crate::store::Store;
use crate::view::Link;
use crate::waker::Waker;
use reading::Reading;

/// How long workers may take to start or end, in seconds. Building the flow table for millions of
/// flows takes about one; a worker that takes longer hangs.
const PATIENCE_S: u64 = 20;

/// A running gateway.
pub struct Gateway {
    workers: Vec<WorkerHandle>,
    wakers: Arc<[Waker]>,
    reports: Receiver<Report>,
    requests: Receiver<Request>,
    control: Control,
    /// The config in force; its ids are those of `tables`.
    config: Arc<Config>,
    /// What the tables were compiled from: the config, but for what devices were changed to by
    /// others.
    compiled: Config,
    /// The file that it came from; `None`: it came from no file, and none is read again.
    source: Option<PathBuf>,
    started_at: SystemTime,
    started: Instant,
    reloads: ReloadCounts,
    tables: Arc<Tables>,
    balancer: Arc<FrameBalancer>,
    frame_counts: (usize, usize),
    /// Ports that memory was taken for at the start.
    port_room: usize,
    /// Ports whose device is gone; every worker tells of its own queue.
    ports_down: BTreeSet<PortId>,
    /// Ports whose queues are being exchanged: of the old ones nothing counts any more.
    exchanging: BTreeSet<PortId>,
    /// The config file, while it is read.
    reading: Option<Reading>,
    /// Leases, and what devices keep in it.
    store: Arc<Store>,
    /// Published ports that are taken on the host.
    reservations: Reservations,
    // Dropped after the workers have ended, the host before the devices.
    host: Host,
    devices: Devices,
}

struct WorkerHandle {
    id: WorkerId,
    /// The CPU that it is pinned to.
    cpu: usize,
    commands: Sender<Command>,
    counters: Arc<Counters>,
    /// `None` once joined.
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// How many workers run.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Counters, per worker.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.workers.iter().map(|worker| &*worker.counters)
    }

    /// The tables in force.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The namespaces and devices that it made.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// A handle by which other threads reach this gateway while it serves.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The file that a reload reads.
    pub fn set_source(&mut self, path: PathBuf) {
        self.source = Some(path);
    }

    /// Serves until something arrives on `end`, or a worker fails.
    ///
    /// # Errors
    /// A worker panicked or cannot go on.
    pub fn serve<T>(&mut self, end: &Receiver<T>) -> Result<(), Error> {
        loop {
            select! {
                recv(end) -> _ => return Ok(()),
                recv(self.reports) -> report => match report {
                    Ok(report) => self.note(report)?,
                    // All workers are gone without a word, which `note` would have told.
                    Err(_) => return Ok(()),
                },
                recv(self.devices.events()) -> event => {
                    self.follow(event.expect("devices keep a sender of their own"))?;
                }
                recv(self.reading_ends()) -> read => self.finish_reading(read.ok())?,
                recv(self.host.events()) -> event => {
                    if event.is_ok() {
                        self.follow_addresses()?;
                    }
                }
                recv(self.requests) -> request => {
                    self.answer(request.expect("the gateway keeps a handle of its own"));
                }
            }
        }
    }

    /// Answers a request. Who asked may be gone; then nobody wants to know.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Reload(answer) => self.request_reload(answer),
            Request::State(answer) => drop(answer.send(self.state())),
        }
    }

    /// The state now.
    pub fn state(&self) -> StateView {
        StateView {
            config: self.config.clone(),
            tables: self.tables.clone(),
            workers: self.workers.iter().map(|worker| self.link(worker)).collect(),
            source: self.source.clone(),
            started_at: self.started_at,
            started: self.started,
            devices: self.devices.live(),
            host: self.host.live(),
            ports_down: self.ports_down.clone(),
            reloads: self.reloads,
        }
    }

    fn link(&self, worker: &WorkerHandle) -> Link {
        Link {
            id: worker.id,
            cpu: worker.cpu,
            counters: worker.counters.clone(),
            commands: worker.commands.clone(),
            wakers: self.wakers.clone(),
        }
    }

    /// Tells a worker something, and wakes it if it sleeps. A worker that has ended hears nothing;
    /// its end is in the reports.
    fn tell(&self, worker: WorkerId, command: Command) {
        let _ = self.workers[worker.index()].commands.send(command);
        self.wakers[worker.index()].wake();
    }

    /// Takes note of a report; a worker's end that nobody asked for is an error.
    fn note(&mut self, report: Report) -> Result<(), Error> {
        match report {
            Report::Event(_, Event::PortDown(port)) if self.exchanging.contains(&port) => {}
            Report::Event(_, Event::PortDown(port)) => self.note_down(port),
            Report::Event(_, Event::Translated { client, seen_as, server }) => {
                let [client, seen_as, server] =
                    [client, seen_as, server].map(|(address, port)| SocketAddr::new(address, port));
                tracing::info!(%client, %seen_as, %server, "ipv6 client of an ipv4-only endpoint");
            }
            Report::Event(_, Event::NeighbourFailed(port, address)) => {
                let port = self.port_name(port);
                tracing::warn!(port, %address, "neighbour does not answer arp or nd");
            }
            Report::AttachFailed(worker, port, error) => {
                let port = self.port_name(port);
                tracing::error!(worker = worker.0, port, %error, "port not attached");
            }
            // What is big to free or slow to close is dropped here, not on the packet path.
            Report::Adopted(..) | Report::Detached(..) => {}
            Report::Ready(_) | Report::Settled(_) | Report::Ended(_, Ended::Stopped(..)) => {}
            Report::Ended(_, Ended::Failed(error)) => return Err(error),
            Report::Ended(worker, Ended::Panicked(message)) => {
                return Err(Error::Panicked { worker: worker.0, message });
            }
        }
        Ok(())
    }

    /// Waits until each worker has said what `done` recognises; takes note of all else.
    ///
    /// # Errors
    /// A worker failed, or does not say it in time.
    fn await_all(
        &mut self,
        action: &'static str,
        done: impl Fn(&Report) -> Option<WorkerId>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S);
        let mut waiting: BTreeSet<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        while let Some(&worker) = waiting.first() {
            let Ok(report) = self.reports.recv_deadline(deadline) else {
                return Err(Error::Unresponsive { worker: worker.0, action, seconds: PATIENCE_S });
            };
            if let Some(worker) = done(&report) {
                waiting.remove(&worker);
            }
            self.note(report)?;
        }
        Ok(())
    }

    /// Says that a port is down, once. A port that is no more is no port that is down.
    fn note_down(&mut self, port: PortId) {
        if self.tables.port(port).is_some() && self.ports_down.insert(port) {
            let port = self.port_name(port);
            tracing::warn!(port, "port down: its device is gone, its namespace perhaps too");
        }
    }

    fn port_name(&self, port: PortId) -> &str {
        self.tables.port(port).map_or("unknown", |port| &port.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ReloadRefused;
    use crossbeam::channel::unbounded;

    /// A store whose folder is gone already, so that nothing stays.
    pub(super) fn store() -> Arc<Store> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Store::open(folder.path()).unwrap())
    }

    fn config(text: &str) -> Config {
        Config::parse("test.toml", text).unwrap()
    }

    #[test]
    fn a_gateway_without_devices_starts_and_stops_with_any_number_of_workers() {
        for workers in [1, 2, 4] {
            let config = config(&format!("[gateway]\nworkers = {workers}\n"));
            let mut gateway = Gateway::assemble(&config, store()).unwrap();
            assert_eq!((gateway.worker_count(), gateway.counters().count()), (workers, workers));
            let (sender, end) = unbounded();
            sender.send(()).unwrap();
            gateway.serve(&end).unwrap();
            gateway.stop().unwrap();
        }
    }

    #[test]
    fn a_panic_of_one_worker_ends_the_gateway_with_its_message() {
        let mut gateway = Gateway::assemble(&config("[gateway]\nworkers = 2\n"), store()).unwrap();
        gateway.workers[1].commands.send(Command::Panic).unwrap();
        gateway.wakers[1].wake();
        let (_sender, end) = unbounded::<()>();
        let error = gateway.serve(&end).unwrap_err();
        assert!(
            matches!(&error, Error::Panicked { worker: 1, message } if message.contains("told"))
        );
        gateway.stop().unwrap();
    }

    #[test]
    fn a_port_is_down_by_its_own_queue_and_said_once() {
        let text = "[gateway]\nworkers = 1\n[network.front]\nsubnet = \"10.1.0.0/24\"\n";
        let mut gateway = Gateway::assemble(&config(text), store()).unwrap();
        let port = engine::tables::PortTable {
            epoch: 1,
            id: PortId(0),
            name: "web/front".into(),
            kind: engine::tables::PortKind::Uplink(engine::UplinkId(0)),
            mtu: 1_500,
        };
        let mut tables = Tables::clone(&gateway.tables);
        tables.ports = vec![Some(Arc::new(port))];
        gateway.tables = Arc::new(tables);
        let down = |port| Report::Event(WorkerId(0), Event::PortDown(PortId(port)));
        // A queue that is on its way out, and a port that was removed, say nothing of the new one.
        gateway.exchanging.insert(PortId(0));
        gateway.note(down(0)).unwrap();
        gateway.exchanging.clear();
        gateway.note(down(1)).unwrap();
        assert!(gateway.ports_down.is_empty());
        gateway.note(down(0)).unwrap();
        gateway.note(down(0)).unwrap();
        assert_eq!(gateway.ports_down, BTreeSet::from([PortId(0)]));
        gateway.stop().unwrap();
    }

    #[test]
    fn other_threads_are_answered_while_the_gateway_serves_and_refused_once_it_ends() {
        let mut gateway = Gateway::assemble(&config("[gateway]\nworkers = 2\n"), store()).unwrap();
        let control = gateway.control();
        let (sender, end) = unbounded();
        let asking = std::thread::spawn(move || {
            let state = control.state().unwrap();
            assert_eq!((state.tables.generation, state.workers.len()), (1, 2));
            sender.send(()).unwrap();
            control
        });
        gateway.serve(&end).unwrap();
        let control = asking.join().unwrap();
        gateway.stop().unwrap();
        assert!(control.state().is_err());
        assert!(matches!(control.reload(), Err(ReloadRefused::Unavailable)));
    }
}
