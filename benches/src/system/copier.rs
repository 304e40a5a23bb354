//! The bare copier: what any userspace program pays that stands between two TAPs.
//!
//! One thread reads a frame from one TAP and writes it to the other, both ways, vnet header and
//! all, and does nothing else: no parsing, no table, no batch, no counter. Portolan is measured
//! against it, so the hard constraint is that it has every advantage: super-frames and partial
//! checksums pass whole, one buffer stays in cache, and it waits in the way that is fastest.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::cpus::pin;

/// Largest frame: vnet header 12, Ethernet 14 with two tags 8, IPv4 total length 65,535.
const FRAME_BYTES_MAX: usize = 12 + 14 + 8 + 65_535;
/// Frames of one direction before the other gets its turn. Less costs empty reads, more makes
/// acknowledgements wait.
const BURST: usize = 64;
/// Empty rounds before the copier sleeps in `poll`: some ten microseconds. The way to wait is not
/// decided by measurement: 0, 50, 1,000 and endless rounds passed one TCP stream at 5.8, 6.0, 5.4
/// and 5.3 Gbit/s on two loaded CPUs (medians of 7 x 0.3 s), less apart than the same setting from
/// run to run. Endless rounds take a CPU from the two ends while there is nothing to copy.
const EMPTY_ROUNDS_MAX: u32 = 50;
/// A sleeping copier looks this often whether it is to end.
const END_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A running copier. Dropping it ends the thread; the TAPs stay with the caller.
pub(super) struct Copier {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Starts to copy between two non-blocking TAP queues, on `cpu`.
    pub(super) fn start(sides: [OwnedFd; 2], cpu: usize) -> Copier {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            if let Err(error) = pin(&[cpu]).and_then(|()| copy_until(&sides, &is_over)) {
                eprintln!("the bare copier ended: {error}");
            }
        });
        Copier { over, thread: Some(thread) }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; the missing packets show in the result.
            let _ = thread.join();
        }
    }
}

fn copy_until(sides: &[OwnedFd; 2], over: &AtomicBool) -> io::Result<()> {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let [left, right] = sides;
    let mut empty_rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let count = copy_burst(left, right, &mut frame)? + copy_burst(right, left, &mut frame)?;
        if count > 0 {
            empty_rounds = 0;
        } else if empty_rounds < EMPTY_ROUNDS_MAX {
            empty_rounds += 1;
        } else {
            let mut readable =
                [PollFd::new(left, PollFlags::IN), PollFd::new(right, PollFlags::IN)];
            match poll(&mut readable, Some(&END_CHECK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Copies what is there, up to [`BURST`] frames; returns how many.
fn copy_burst(from: &OwnedFd, to: &OwnedFd, frame: &mut [u8]) -> io::Result<usize> {
    for count in 0..BURST {
        match rustix::io::read(from, &mut *frame) {
            // A full or refusing receiver loses the frame, as a wire would.
            Ok(length) => drop(rustix::io::write(to, &frame[..length])),
            Err(Errno::AGAIN) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(BURST)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    #[test]
    fn frames_are_copied_both_ways_unchanged() {
        // Datagram sockets keep frame borders, as TAPs do.
        let (left_host, left) = UnixDatagram::pair().expect("socket pair");
        let (right_host, right) = UnixDatagram::pair().expect("socket pair");
        for socket in [&left, &right] {
            socket.set_nonblocking(true).expect("non-blocking");
        }
        for host in [&left_host, &right_host] {
            host.set_read_timeout(Some(Duration::from_secs(10))).expect("time-out");
        }
        let copier = Copier::start([left.into(), right.into()], 0);
        let mut frame = vec![0; FRAME_BYTES_MAX];
        for (sender, receiver) in [(&left_host, &right_host), (&right_host, &left_host)] {
            for length in [1, 72, 1526, FRAME_BYTES_MAX] {
                sender.send(&vec![length as u8; length]).expect("send");
                let received = receiver.recv(&mut frame).expect("the copy arrives");
                assert_eq!(&frame[..received], vec![length as u8; length]);
            }
        }
        drop(copier);
    }
}
