//! Reload: from the config in force to the one that the file says now, all or nothing.
//!
//! In this order: the file is read and checked (by a thread of its own, see `reading`), tables are
//! compiled, new devices are made; up to here anything may fail, and what was made is undone. Then
//! every worker goes over to the new tables between two turns, and says so; then they take the new
//! queues and let go of the old ones; then what is no longer used is freed: old tables, old queues,
//! old namespaces, all on this thread. So at no moment do packets meet a port without a rule that
//! they had before, and a flow of which no part has changed loses none.
//!
//! The one hard constraint: what is refused has changed nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Config;
use engine::worker::Adoption;
use engine::{PortId, Tables, WorkerId};
use sd_notify::NotifyState;

use super::Gateway;
use super::reading::Read;
use crate::control::{ReloadRefused, ReloadReport};
use crate::devices::{Changed, DeviceEvent};
use crate::difference;
use crate::error::Error;
use crate::host;
use crate::leases;
use crate::runner::{Command, Report};

/// What became of a reload.
pub(super) type Outcome = Result<ReloadReport, ReloadRefused>;

impl Gateway {
    /// Goes over to what was read, and says what became of it.
    ///
    /// # Errors
    /// A worker failed meanwhile: the gateway cannot go on.
    pub(super) fn reload(&mut self, read: Read, asked_at: Instant) -> Result<Outcome, Error> {
        let mut outcome = match read {
            Ok(next) => self.go_over(next)?,
            Err(refused) => Err(refused),
        };
        if let Ok(report) = &mut outcome {
            report.took = asked_at.elapsed();
        }
        self.log_outcome(&outcome);
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        Ok(outcome)
    }

    /// Goes over to another config. The outer error ends the gateway, the inner one changes
    /// nothing.
    fn go_over(&mut self, mut next: Config) -> Result<Outcome, Error> {
        let deferred = difference::deferred(&self.config, &next);
        // What waits for the next start is as it was until then.
        next.gateway = self.config.gateway.clone();
        next.limits = self.config.limits.clone();
        config::adopt_ids(&self.config, &self.tables, &mut next);
        let changes = difference::changes(&self.config, &next);
        let mut followed = next.clone();
        self.devices.adopt_mtus(&mut followed);
        host::adopt_addresses(&mut followed, Some(&self.compiled));
        let tables = config::recompile(&self.compiled, &self.tables, &mut followed);
        if tables.ports.len() > self.port_room {
            return Ok(Err(too_many_ports(tables.ports.len(), self.port_room)));
        }
        let promised = leases::promise(&self.store, &next.leases());
        if let Err(refused) = promised.map_err(impossible) {
            return Ok(Err(refused));
        }
        let reserved = match self.reservations.prepare(&next) {
            Ok(reserved) => reserved,
            Err(error) => return Ok(Err(impossible(error))),
        };
        let change = match self.devices.prepare(&next) {
            Ok(change) => change,
            Err(error) => {
                self.reservations.abort(reserved);
                return Ok(Err(impossible(error)));
            }
        };
        self.swap(tables, followed)?;
        self.reservations.commit(reserved);
        let changed = self.devices.commit(change);
        let let_go = changed.detach.clone();
        self.exchange_queues(changed)?;
        // Of those that still are, the namespace is missing.
        let_go.into_iter().for_each(|port| self.note_down(port));
        self.apply_host();
        let warnings = next.warnings.clone();
        self.config = Arc::new(next);
        if let Err(error) = leases::follow(&self.store, &self.config) {
            tracing::error!(%error, "addresses that are free now are not journaled as such");
        }
        let (generation, took) = (self.tables.generation, Duration::ZERO);
        Ok(Ok(ReloadReport { generation, changes, deferred, warnings, took }))
    }

    /// Follows what others did to a device or namespace.
    ///
    /// # Errors
    /// A worker failed meanwhile: the gateway cannot go on.
    pub(super) fn follow(&mut self, event: DeviceEvent) -> Result<(), Error> {
        let is_mtu = matches!(event, DeviceEvent::Mtu(..) | DeviceEvent::Lost);
        let changed = self.devices.follow(event);
        let down = changed.detach.clone();
        self.exchange_queues(changed)?;
        down.into_iter().for_each(|port| self.note_down(port));
        if is_mtu {
            self.follow_world()?;
        }
        Ok(())
    }

    /// Follows the host's addresses.
    ///
    /// # Errors
    /// A worker failed meanwhile: the gateway cannot go on.
    pub(super) fn follow_addresses(&mut self) -> Result<(), Error> {
        while self.host.events().try_recv().is_ok() {}
        self.follow_world()?;
        self.apply_host();
        Ok(())
    }

    /// Goes over to what others have made of devices and addresses.
    fn follow_world(&mut self) -> Result<(), Error> {
        let mut followed = Config::clone(&self.config);
        self.devices.adopt_mtus(&mut followed);
        host::adopt_addresses(&mut followed, Some(&self.compiled));
        let tables = config::recompile(&self.compiled, &self.tables, &mut followed);
        self.swap(tables, followed)
    }

    /// Has the host do what the config in force asks. What it refuses is told; packets go on.
    fn apply_host(&self) {
        if let Err(error) = self.host.apply(&self.compiled) {
            tracing::error!(%error, "the host does not do what the config asks");
        }
    }

    /// Gives all workers the new tables, and frees the old ones when all have gone over. `compiled`
    /// is what the tables were made of.
    fn swap(&mut self, tables: Tables, compiled: Config) -> Result<(), Error> {
        self.compiled = compiled;
        if same_parts(&tables, &self.tables) {
            return Ok(());
        }
        let tables = Arc::new(tables);
        let adoption = Arc::new(Adoption::new(tables.clone(), Some(&self.tables)));
        for worker in &self.workers {
            worker.counters.reserve(&tables);
            self.tell(worker.id, Command::Adopt(adoption.clone()));
        }
        let old = std::mem::replace(&mut self.tables, tables);
        self.await_all("take over new tables", |report| match report {
            Report::Adopted(worker, _) => Some(*worker),
            _ => None,
        })?;
        drop(old);
        Ok(())
    }

    /// Has the workers take the new queues and let go of the old ones.
    pub(super) fn exchange_queues(&mut self, mut changed: Changed) -> Result<(), Error> {
        changed.problems.iter().for_each(|problem| tracing::error!("{problem}"));
        let attached: Vec<PortId> =
            changed.attach.iter().flatten().map(|(port, _)| *port).collect();
        self.ports_down.retain(|port| self.tables.port(*port).is_some());
        for port in &attached {
            self.ports_down.remove(port);
        }
        if changed.detach.is_empty() && changed.attach.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut queues = std::mem::take(&mut changed.attach).into_iter();
        for index in 0..self.workers.len() {
            let worker = WorkerId(index as u8);
            for &port in &changed.detach {
                self.tell(worker, Command::Detach(port));
            }
            for (port, queue) in queues.next().unwrap_or_default() {
                self.tell(worker, Command::Attach(port, queue));
            }
            self.tell(worker, Command::Settle);
        }
        // What is still told of them meanwhile is told of queues that are on their way out.
        self.exchanging = attached.into_iter().chain(changed.detach.iter().copied()).collect();
        let settled = self.await_all("exchange its queues", |report| match report {
            Report::Settled(worker) => Some(*worker),
            _ => None,
        });
        self.exchanging.clear();
        settled
        // Here `changed` goes, and with it the namespaces that nobody is in any more.
    }

    fn log_outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(report) => {
                self.reloads.applied += 1;
                report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                report.changes.iter().for_each(|change| tracing::info!("{change}"));
                report.deferred.iter().for_each(|deferred| tracing::warn!("{deferred}"));
                let (changes, generation) = (report.changes.len(), report.generation);
                tracing::info!(changes, generation, took = ?report.took, "reloaded");
            }
            Err(refused) => {
                self.reloads.refused += 1;
                tracing::error!("reload refused, nothing has changed:\n{refused}");
            }
        }
    }
}

pub(super) fn impossible(error: impl Into<Error>) -> ReloadRefused {
    ReloadRefused::Impossible(error.into().to_string())
}

/// systemd waits for `READY=1` after this (`Type=notify-reload`). Without systemd nothing happens.
pub(super) fn tell_systemd_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
    }
}

fn too_many_ports(needed: usize, room: usize) -> ReloadRefused {
    ReloadRefused::Impossible(format!(
        "{needed} ports (attachments and uplinks, with ids of the last reload's that rest) are \
         more than the {room} that memory was taken for at the start: restart the gateway to take \
         them"
    ))
}

/// True if the two snapshots are the same parts.
fn same_parts(new: &Tables, old: &Tables) -> bool {
    fn same<T>(new: &[Option<Arc<T>>], old: &[Option<Arc<T>>]) -> bool {
        let pointer = |part: &Option<Arc<T>>| part.as_ref().map(Arc::as_ptr);
        let used = |parts: &[Option<Arc<T>>]| {
            parts.iter().rposition(Option::is_some).map_or(0, |last| last + 1)
        };
        let (new, old) = (&new[..used(new)], &old[..used(old)]);
        new.iter().map(pointer).eq(old.iter().map(pointer))
    }
    same(&new.ports, &old.ports)
        && same(&new.networks, &old.networks)
        && same(&new.uplinks, &old.uplinks)
        && Arc::ptr_eq(&new.publish, &old.publish)
        && Arc::ptr_eq(&new.policy, &old.policy)
        && Arc::ptr_eq(&new.routes, &old.routes)
        && Arc::ptr_eq(&new.nat, &old.nat)
        && Arc::ptr_eq(&new.limits, &old.limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Control;
    use crossbeam::channel::unbounded;
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    const TEXT: &str = "[gateway]\nworkers = 2\n[network.front]\nsubnet = \"10.1.0.0/24\"\n";

    /// Runs `work` beside a gateway that serves a file with this text.
    fn with_gateway(text: &str, work: impl FnOnce(Control, &Path) + Send + 'static) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let mut gateway = Gateway::assemble(&config, crate::supervisor::tests::store()).unwrap();
        gateway.set_source(path.clone());
        let control = gateway.control();
        let (sender, end) = unbounded();
        let working = std::thread::spawn(move || {
            // Dropped at the end of the work, also at one by a panic.
            let _sender: crossbeam::channel::Sender<()> = sender;
            work(control, &path);
        });
        gateway.serve(&end).unwrap();
        working.join().unwrap();
        gateway.stop().unwrap();
    }

    #[test]
    fn a_reload_goes_over_to_what_the_file_says_and_tells_it() {
        with_gateway(TEXT, |control, path| {
            let text = TEXT.replace("workers = 2", "workers = 3");
            fs::write(path, text + "icc = false\n[network.back]\nsubnet = \"10.2.0.0/24\"\n")
                .unwrap();
            let report = control.reload().unwrap();
            assert_eq!(
                report.changes,
                ["network back added: 10.2.0.0/24", "network front changed: icc true -> false"]
            );
            assert_eq!(report.deferred, ["gateway: workers 2 -> 3 takes effect at the next start"]);
            let state = control.state().unwrap();
            assert_eq!((report.generation, state.tables.generation), (2, 2));
            assert_eq!(state.config.networks.len(), 2);
            assert_eq!(state.reloads.applied, 1);
        });
    }

    #[test]
    fn a_wrong_file_changes_nothing_and_every_error_is_told() {
        with_gateway(TEXT, |control, path| {
            let before = control.state().unwrap();
            let wrong = TEXT.replace("subnet", "subnot") + "mtu = \"x\"\n";
            fs::write(path, wrong).unwrap();
            let refused = control.reload().unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("gateway.toml:4:") && text.contains("gateway.toml:5:"), "{text}");
            fs::remove_file(path).unwrap();
            let text = control.reload().unwrap_err().to_string();
            assert!(text.contains("cannot read"), "{text}");
            let after = control.state().unwrap();
            assert!(Arc::ptr_eq(&before.tables, &after.tables));
            assert!(Arc::ptr_eq(&before.config, &after.config));
            assert_eq!((after.reloads.applied, after.reloads.refused), (0, 2));
        });
    }

    #[test]
    fn a_file_that_says_the_same_swaps_nothing() {
        with_gateway(TEXT, |control, path| {
            fs::write(path, format!("# a remark\n{TEXT}")).unwrap();
            let report = control.reload().unwrap();
            assert_eq!((report.generation, report.changes.len()), (1, 0));
        });
    }

    #[test]
    fn requests_at_the_same_time_share_one_reload() {
        with_gateway(TEXT, |control, path| {
            fs::write(path, TEXT.replace("10.1.0", "10.3.0")).unwrap();
            control.request_reload();
            control.request_reload();
            assert_eq!(control.reload().unwrap().generation, 2);
            assert_eq!(control.state().unwrap().reloads.applied, 1);
        });
    }

    /// A config file that is a pipe: its reading ends when the other end says so.
    fn pipe(path: &Path) {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    #[test]
    fn others_are_answered_while_a_file_is_read() {
        with_gateway(TEXT, |control, path| {
            pipe(path);
            let reloading = std::thread::spawn({
                let control = control.clone();
                move || control.reload()
            });
            // Opened for writing means that it was opened for reading, and nothing is read yet.
            let mut writer = fs::File::options().write(true).open(path).unwrap();
            for _ in 0..10 {
                assert_eq!(control.state().unwrap().tables.generation, 1);
            }
            assert!(!reloading.is_finished());
            writer.write_all(TEXT.replace("10.1.0", "10.3.0").as_bytes()).unwrap();
            drop(writer);
            assert_eq!(reloading.join().unwrap().unwrap().generation, 2);
        });
    }

    #[test]
    fn who_asks_while_a_file_is_read_gets_what_it_says_afterwards() {
        with_gateway(TEXT, |control, path| {
            pipe(path);
            control.request_reload();
            let mut writer = fs::File::options().write(true).open(path).unwrap();
            control.request_reload();
            assert_eq!(control.state().unwrap().tables.generation, 1, "both are waiting");
            fs::remove_file(path).unwrap();
            fs::write(path, TEXT.replace("10.1.0", "10.4.0")).unwrap();
            writer.write_all(TEXT.replace("10.1.0", "10.3.0").as_bytes()).unwrap();
            drop(writer);
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut state = control.state().unwrap();
            while state.tables.generation < 3 {
                assert!(Instant::now() < deadline, "the second reading does not come");
                std::thread::yield_now();
                state = control.state().unwrap();
            }
            assert_eq!(state.config.networks[0].subnets[0].prefix.to_string(), "10.4.0.0/24");
        });
    }

    #[test]
    fn the_end_waits_for_no_reading() {
        with_gateway(TEXT, |control, path| {
            pipe(path);
            control.request_reload();
            drop(fs::File::options().write(true).open(path).unwrap());
            control.request_reload();
        });
    }

    #[test]
    fn more_ports_than_there_is_room_for_are_refused_in_words() {
        let refused = too_many_ports(1_025, 1_024).to_string();
        assert!(refused.starts_with("1025 ports"), "{refused}");
        assert!(refused.contains("1024") && refused.contains("restart"), "{refused}");
    }
}
