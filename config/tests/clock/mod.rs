//! How long something takes that must be quick.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the work gives, and the CPU time of this thread that it took: the wall's says little on a
/// busy machine.
pub(crate) fn cpu_time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let started = now();
    let result = work();
    (result, now() - started)
}
