//! What the scheduler did to the calling thread.
//!
//! The hard constraint: the kernel writes one `struct rusage`, and nothing else is asked of it.

use std::mem::MaybeUninit;

/// How often the CPU was taken from the calling thread while it ran, since it began. Costs one
/// system call of some hundred nanoseconds.
pub fn involuntary_switches() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes at most one `struct rusage` at the pointer, which is valid for
    // writes of one; RUSAGE_THREAD is about the calling thread and refuses nobody.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: all fields are integers, for which zeroed memory is a value, whatever of it the
    // kernel has written.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_thread_that_shares_its_cpu_loses_it_again_and_again() {
        let first = core_of_this_thread();
        let busy = std::thread::spawn(move || {
            pin(first);
            let until = Instant::now() + Duration::from_secs(20);
            let before = involuntary_switches();
            while involuntary_switches() < before + 3 {
                assert!(Instant::now() < until, "two busy threads on one CPU take turns");
            }
        });
        pin(first);
        while !busy.is_finished() {
            std::hint::spin_loop();
        }
        busy.join().unwrap();
    }

    fn core_of_this_thread() -> usize {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| set.is_set(cpu)).unwrap()
    }

    fn pin(cpu: usize) {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).unwrap();
    }
}
