//! Wakes a worker that sleeps, and costs a load when it does not.
//!
//! Who hands a worker something does so first and then calls [`Waker::wake`]; the worker announces
//! its sleep first and then looks whether something waits. Between the two steps each side has a
//! full fence, so at least one of them sees the other: no wake is lost. The bell is an eventfd in
//! the worker's edge-triggered epoll set; nobody ever needs to read it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// One worker's alarm clock.
#[derive(Debug)]
pub struct Waker {
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Waker {
    /// A waker of a worker that is awake.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Waker> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Waker { asleep: AtomicBool::new(false), bell })
    }

    /// To be called after something was handed to the worker. Only a sleeping worker costs a
    /// system call, and only the first caller pays it.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // EAGAIN: the count is at its maximum, so the bell rings already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// The worker says that it will sleep; it must look for work once more before it does.
    pub(crate) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again.
    pub(crate) fn announce_awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(waker: &Waker) -> bool {
        rustix::io::read(waker, &mut [0; 8]).is_ok()
    }

    #[test]
    fn only_a_sleeping_worker_is_rung_and_only_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!rings(&waker));
        waker.announce_sleep();
        waker.wake();
        waker.wake();
        assert!(rings(&waker));
        assert!(!rings(&waker));
    }

    #[test]
    fn a_worker_that_woke_by_itself_is_not_rung() {
        let waker = Waker::new().unwrap();
        waker.announce_sleep();
        waker.announce_awake();
        waker.wake();
        assert!(!rings(&waker));
    }
}
