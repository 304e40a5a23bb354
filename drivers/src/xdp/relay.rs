//! The way out for what AF_XDP cannot send: super-frames, and packets with unfinished checksums.
//!
//! A ring takes packets one by one, as the wire shall have them. The kernel takes a super-frame as
//! one and has the device cut it, or cuts it itself at the last moment, which costs it less than to
//! take the pieces from a ring (benches/README.md). So such packets are written to a TAP of our own
//! beside the device, and a program at the TAP's ingress leads them to the device:
//!
//! [queue: ring → device] [relay: TAP → program → device's egress, cut there]
//!
//! The hard constraint: the device itself is not touched, and nothing stays. The TAP goes with its
//! queues, the program with its link.
//!
//! LIMIT: a packet that was redirected is not shown to a *generic* XDP program at the other end of
//! a veth (`netif_receive_generic_xdp`, net/core/dev.c): the config's key `relay` is for that. To
//! be lifted when packet sockets take the super-frames of tunnels, as TAPs do.
//!
//! What this does not do: see that the device is down, or drops; what is written here counts as
//! sent. Follow the TAP: one that somebody takes down takes nothing, one that is deleted ends its
//! port.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use engine::frame::FramePool;
use engine::{Batch, Caps, Offload};
use rustix::io::Errno;

use super::program::{CALL, EXIT, MOVE};
use super::{device_error, while_so};
use crate::error::DriverError;
use crate::link::LinkSocket;
use crate::sys::bpf::{self, Instruction, Program};
use crate::tap::{Sent, Tap, TapOptions, TapQueue};

/// `BPF_FUNC_redirect`.
const REDIRECT: i32 = 23;

/// Packets towards us that may wait, which nobody reads: the kernel has no reason to send any.
const QUEUE_LEN: u32 = 1;

/// One worker's way out by a device's relay.
#[derive(Debug)]
pub(super) struct Relay {
    queue: TapQueue,
    /// Keeps the program at the TAP. Closed after the queue: without it what we write would go to
    /// the kernel's stack.
    _link: Arc<OwnedFd>,
}

impl Relay {
    /// A relay to a device of the calling thread's namespace, with a way out per worker.
    ///
    /// # Errors
    /// The kernel has no TAPs, or no programs at a device's ingress that go with their link (those
    /// before 6.6).
    pub(super) fn open(
        interface: u32,
        workers: usize,
        mtu: u16,
    ) -> Result<Vec<Relay>, DriverError> {
        let name = format!("ptl-{interface}");
        let options = TapOptions {
            queues: workers,
            mtu,
            queue_len: QUEUE_LEN,
            tunnels: true,
            ..TapOptions::new(name.as_str())
        };
        // A process that ended takes its relay down a moment later.
        let is_taken = |error: &DriverError| matches!(error, DriverError::NameInUse { .. });
        let tap = while_so(is_taken, || Tap::create(&options))?;
        let device = name.as_str();
        let failed = |operation| move |errno: Errno| device_error(device, operation, errno);
        let link = LinkSocket::open(&name).map_err(failed("finding the relay"))?;
        let program = bpf::load(&instructions(interface), Program::Ingress);
        let program = program.map_err(|(errno, _)| errno).map_err(failed("loading its program"))?;
        let attached = bpf::attach(program.as_fd(), link.index(), Program::Ingress, 0);
        let attached = Arc::new(attached.map_err(failed("attaching its program"))?);
        // A kernel without IPv6 refuses, and is right.
        let _ = link.set_no_own_address();
        link.set_up().map_err(failed("taking it up"))?;
        let relay = |queue| Relay { queue, _link: attached.clone() };
        Ok(tap.into_queues().into_iter().map(relay).collect())
    }

    /// What a port with this relay can do: its rings take only what is finished.
    pub(super) fn caps(&self, mtu: u16) -> Caps {
        Caps { checksum: false, mtu, ..engine::Port::caps(&self.queue) }
    }

    /// Sends what is at the front of `out` and not for the ring. False: it takes no more now.
    pub(super) fn send(&mut self, frames: &mut FramePool, out: &mut Batch) -> bool {
        let (mut done_count, mut goes_on) = (0, true);
        for packet in out.iter_mut().take_while(|packet| packet.offload() != Offload::None) {
            if let Sent::Stop = self.queue.send(packet) {
                goes_on = false;
                break;
            }
            done_count += 1;
        }
        for packet in out.drain(..done_count) {
            packet.recycle(frames);
        }
        goes_on
    }

    /// False once somebody has deleted the TAP.
    pub(super) fn alive(&self) -> bool {
        engine::Port::alive(&self.queue)
    }

    /// Packets that the kernel refused since the last call.
    pub(super) fn take_rejected(&mut self) -> u64 {
        engine::Port::take_rejected(&mut self.queue)
    }
}

/// The program: each packet goes out by the device.
fn instructions(interface: u32) -> [Instruction; 4] {
    let op = |code, registers, immediate| Instruction { code, registers, offset: 0, immediate };
    [op(MOVE, 1, interface as i32), op(MOVE, 2, 0), op(CALL, 0, REDIRECT), op(EXIT, 0, 0)]
}
