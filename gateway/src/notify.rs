//! What systemd is told: that packets flow, what goes on, and that it still does.
//!
//! Without systemd (no `NOTIFY_SOCKET`) all of this does nothing. The watchdog is fed only while
//! *every* worker makes turns. A worker that has nothing to do sleeps, and that is no failure: so
//! each is rung, and must then make a turn within the time. The one hard constraint: a worker that
//! hangs is never hidden by others that go on.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::WorkerId;
use sd_notify::NotifyState;

use crate::error::Error;
use crate::view::Link;

/// How often it is looked whether workers that were rung have made their turn.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Tells systemd that packets flow, and what `systemctl status` shows.
pub(crate) fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the end has begun.
pub(crate) fn stopping() {
    let status = NotifyState::Status("removing devices and namespaces");
    let _ = sd_notify::notify(&[NotifyState::Stopping, status]);
}

/// Feeds systemd's watchdog until dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts if systemd asks for it (`WatchdogSec=`); `None` if it does not.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(workers: Vec<Link>) -> Result<Option<Watchdog>, Error> {
        let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(None) };
        let (end, ended) = channel();
        let feed = move || {
            // Half of the limit, as systemd advises: one round for the look, one to spare.
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(limit / 4) {
                match look(&workers, limit / 4) {
                    Ok(()) => drop(sd_notify::notify(&[NotifyState::Watchdog])),
                    Err(worker) => {
                        tracing::error!(worker = worker.0, "a worker makes no turns: it hangs");
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("watchdog".into()).spawn(feed);
        let thread = thread.map_err(|source| Error::Thread { purpose: "the watchdog", source })?;
        Ok(Some(Watchdog { end: Some(end), thread: Some(thread) }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks whether every worker makes a turn within this time; names one that does not.
fn look(workers: &[Link], within: Duration) -> Result<(), WorkerId> {
    let turns = |worker: &Link| worker.counters.worker.turns.get();
    let before: Vec<u64> = workers.iter().map(turns).collect();
    workers.iter().for_each(Link::ring);
    let deadline = Instant::now() + within;
    loop {
        let mut both = workers.iter().zip(&before);
        let Some((stuck, _)) = both.find(|(worker, before)| turns(worker) == **before) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            return Err(stuck.id);
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waker::Waker;
    use crossbeam::channel::unbounded;
    use engine::Counters;
    use std::sync::Arc;

    fn links(count: u8) -> Vec<Link> {
        let wakers: Arc<[Waker]> = (0..count).map(|_| Waker::new().unwrap()).collect();
        let link = |id| Link {
            id: WorkerId(id),
            cpu: 0,
            counters: Counters::new(0),
            commands: unbounded().0,
            wakers: wakers.clone(),
        };
        (0..count).map(link).collect()
    }

    #[test]
    fn a_worker_that_hangs_is_named_though_others_make_turns() {
        let links = links(3);
        let (end, ended) = channel::<()>();
        let turning = [links[0].clone(), links[2].clone()];
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                turning.iter().for_each(|link| link.counters.worker.turns.add(1));
            }
        });
        assert_eq!(look(&links, Duration::from_millis(50)), Err(WorkerId(1)));
        let both = [links[0].clone(), links[2].clone()];
        assert_eq!(look(&both, Duration::from_secs(10)), Ok(()));
        drop(end);
        thread.join().unwrap();
    }
}
