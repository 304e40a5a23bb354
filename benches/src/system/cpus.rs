//! Which CPUs a thread of the benchmark may use.
//!
//! Where three busy threads share few CPUs, the scheduler's choice of who runs beside whom decides
//! the rate, from one second to the next and for the very same copier. So the program in the
//! middle has its CPUs, and the two ends have the others. The hard constraint: every leg with a
//! program in the middle is placed alike.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Where the threads of one measurement run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus<'a> {
    /// Of the program in the middle: Portolan's workers; the copier has the last.
    pub(super) middle: &'a [usize],
    /// Of sender and receiver beside it.
    pub(super) ends: &'a [usize],
    /// All of them: for the ends of legs without a program in the middle.
    pub(super) all: &'a [usize],
}

/// Lets the calling thread run on these CPUs only.
pub(super) fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPUs that are left for the two ends; all of them if the middle has every one.
pub(super) fn beside(all: &[usize], middle: &[usize]) -> Vec<usize> {
    let left: Vec<usize> = all.iter().copied().filter(|cpu| !middle.contains(cpu)).collect();
    if left.is_empty() { all.to_vec() } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn the_ends_have_what_the_middle_leaves_or_share_everything() {
        assert_eq!(beside(&[0, 2, 5], &[5]), [0, 2]);
        assert_eq!(beside(&[0, 1], &[0, 1]), [0, 1]);
    }

    #[test]
    fn a_pinned_thread_may_use_those_cpus_only() {
        let allowed = |cpu| sched_getaffinity(None).expect("our own affinity").is_set(cpu);
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed(cpu)).expect("we run somewhere");
        pin(&[first]).expect("a CPU that we may use");
        assert_eq!((0..CpuSet::MAX_CPU).filter(|&cpu| allowed(cpu)).collect::<Vec<_>>(), [first]);
    }
}
