//! Threads that are not workers step back: the CPUs are the packets'.

use rustix::process::setpriority_process;

/// How much a control thread steps back, from 0 to 19. Enough to lose against a worker on the same
/// CPU; 19 would let an API starve on a busy machine.
const NICENESS: i32 = 10;

/// Lowers the calling thread's priority; threads that it starts have it, too.
pub(crate) fn lower() {
    // Linux takes a thread's id for a process here. A sandbox may refuse; then it is as others.
    if let Err(error) = setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "priority not lowered");
    }
}
