//! Stop: the workers end first, then the devices, then the namespaces.
//!
//! The one hard constraint: it runs on every path, an unwinding caller's included, and says when
//! a worker does not end or frames are missing.

use std::time::{Duration, Instant};

use super::{Gateway, PATIENCE_S};
use crate::error::Error;
use crate::runner::{Command, Ended, Report};

impl Gateway {
    /// Ends the workers, then removes devices and namespaces.
    ///
    /// # Errors
    /// A worker had failed before, or does not end.
    pub fn stop(mut self) -> Result<(), Error> {
        self.stop_workers()
    }

    /// Ends all workers and joins their threads. The first failure is returned when all have ended.
    pub(super) fn stop_workers(&mut self) -> Result<(), Error> {
        self.workers.iter().for_each(|worker| self.tell(worker.id, Command::Stop));
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S);
        let mut result = Ok(());
        let mut frames = Some(self.balancer.count());
        for index in 0..self.workers.len() {
            let Some(thread) = self.workers[index].thread.take() else { continue };
            let ended = wait_until(deadline, || thread.is_finished());
            if !ended {
                // Its queues cannot be closed under it; the process's end will do it.
                let (worker, action) = (self.workers[index].id.0, "end");
                result = Err(Error::Unresponsive { worker, action, seconds: PATIENCE_S });
                frames = None;
                continue;
            }
            // The thread catches its panics and reports them.
            let _ = thread.join();
        }
        for report in self.reports.try_iter().collect::<Vec<_>>() {
            if let Report::Ended(_, Ended::Stopped(chunks, tails)) = report {
                frames = frames.map(|sum| (sum.0 + chunks, sum.1 + tails));
            }
            if let Err(error) = self.note(report) {
                (result, frames) = (result.and(Err(error)), None);
            }
        }
        if let Some(frames) = frames.filter(|_| !self.workers.is_empty()) {
            self.check_frames(frames);
        }
        self.workers.clear();
        result
    }
}

impl Gateway {
    /// Frames are conserved: all come back, but for packets that lay in the hand-over rings.
    fn check_frames(&self, (chunks, tails): (usize, usize)) {
        let ring_count = self.workers.len() * (self.workers.len() - 1);
        let in_rings_max = ring_count * self.tables.limits.hand_over as usize;
        let missing = (self.frame_counts.0.abs_diff(chunks), self.frame_counts.1.abs_diff(tails));
        if missing.0 > in_rings_max || missing.1 > in_rings_max {
            tracing::error!(?missing, in_rings_max, "frames were not conserved: a bug");
        } else {
            tracing::debug!(?missing, in_rings_max, "frames that did not come back");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.stop_workers() {
            tracing::error!(%error, "while the gateway was stopped");
        }
    }
}

fn wait_until(deadline: Instant, condition: impl Fn() -> bool) -> bool {
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}
