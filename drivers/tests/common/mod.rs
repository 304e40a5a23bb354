//! Network namespaces for driver tests: made with a name of their own, removed when dropped.
//!
//! The hard constraint: nothing outside these namespaces is touched, and nothing stays behind, not
//! even after a failed test. Needs root.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drivers::{Region, TapQueue};
use engine::frame::{FrameBalancer, FramePool};
use engine::{Batch, Packet, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a condition may take before a test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Frames of [`frames`].
pub(crate) const CHUNK_COUNT: usize = 512;
/// Tails of [`frames`].
pub(crate) const TAIL_COUNT: usize = 128;

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    file: Option<File>,
}

impl Namespace {
    /// A new one, with IPv6 silent and duplicate address detection off.
    pub(crate) fn new() -> Namespace {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portolan-drv-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let file = File::open(format!("/run/netns/{name}")).expect("the namespace was made");
        let namespace = Namespace { name, file: Some(file) };
        for file in ["all/accept_dad", "default/accept_dad", "default/router_solicitations"] {
            namespace.write_sysctl(&format!("ipv6/conf/{file}"), "0");
        }
        namespace
    }

    /// The namespace as a descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("open until it is destroyed").as_fd()
    }

    /// `ip` with these words, in the namespace. Returns what it printed.
    pub(crate) fn ip(&self, words: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split(' ')))
    }

    /// Writes `/proc/sys/net/…` of the namespace.
    pub(crate) fn write_sysctl(&self, name: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{name}"), value.to_owned());
        self.enter(move || std::fs::write(&path, value).expect("the setting exists"));
    }

    /// Runs something on a thread inside the namespace. Sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let descriptor = self.as_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(descriptor, Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Removes the name and closes the descriptor, so that the namespace ends if nobody else has
    /// it open.
    pub(crate) fn destroy(&mut self) {
        if self.file.take().is_some() {
            run(Command::new("ip").args(["netns", "delete", &self.name]));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.destroy();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Frames of a region of their own.
pub(crate) fn frames() -> FramePool {
    let (_, chunks, tails) = Region::new(CHUNK_COUNT, TAIL_COUNT).expect("a small region");
    FramePool::new(chunks, tails, FrameBalancer::new(CHUNK_COUNT, TAIL_COUNT))
}

/// Waits until one of the queues has something to say, or a moment has passed.
pub(crate) fn wait_readable(queues: &[&TapQueue]) {
    let mut polled: Vec<PollFd<'_>> =
        queues.iter().map(|queue| PollFd::new(*queue, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut polled, Some(&timeout)).expect("polling descriptors of ours");
}

/// Tries until there is an answer; fails after [`LIMIT`].
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
    }
}

/// Receives until a packet is the wanted one; the others go back to the pool.
pub(crate) fn receive(
    what: &str,
    queue: &mut TapQueue,
    frames: &mut FramePool,
    wanted: impl Fn(&Packet) -> bool,
) -> Packet {
    wait_for(what, || {
        wait_readable(&[queue]);
        let mut batch = Batch::new();
        queue.rx(frames, &mut batch);
        let mut found = None;
        for packet in batch {
            if found.is_none() && wanted(&packet) {
                found = Some(packet);
            } else {
                packet.recycle(frames);
            }
        }
        found
    })
}

/// Sends one packet and asserts that it went.
pub(crate) fn send(queue: &mut TapQueue, frames: &mut FramePool, packet: Packet) {
    let mut out = Batch::new();
    out.push(packet);
    queue.tx(frames, &mut out);
    assert!(out.is_empty(), "the device takes a packet");
    assert_eq!(queue.take_rejected(), 0, "the packet is good");
}

/// The kernel's end of a device in these tests, and ours.
pub(crate) const KERNEL_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Our end.
pub(crate) const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

/// An Ethernet frame with UDP over IPv4, its UDP checksum holding only the pseudo-header's sum:
/// [Ethernet 14 | IPv4 20 | UDP 8 | payload].
pub(crate) fn udp_frame(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let udp_bytes = (8 + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&(20 + udp_bytes).to_be_bytes());
    ip.extend_from_slice(&from.0);
    ip.extend_from_slice(&to.0);
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&from.0[..], &to.0[..], &[0, 17], &udp_bytes.to_be_bytes()].concat();
    let udp = [from.1, to.1, udp_bytes, sum(&pseudo)].map(u16::to_be_bytes).concat();
    [&KERNEL_MAC[..], &OUR_MAC[..], &[0x08, 0x00], &ip, &udp, payload].concat()
}

/// The ones' complement sum of an even number of bytes (RFC 1071), not complemented.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    ((folded >> 16) + folded) as u16
}
