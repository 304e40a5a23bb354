//! Which AF_XDP sockets of a worker the kernel tells about, and which are looked at unasked.
//!
//! A socket in an epoll set costs the kernel a call for every frame that comes by it and for every
//! one that was sent by it: 8 % of a busy sender's CPU on a veth (benches/README.md). Yet a ring
//! shows by itself, without a system call, whether something came. So a socket that carries much
//! is *loose* while its worker is awake: out of the set, and looked at in each turn. The one hard
//! constraint: a worker sleeps only when no socket is loose. To put one back tells of what came
//! before, so nothing is missed.
//!
//! What this does not do: TAPs. Whether one has something only a system call says, which costs as
//! much as being told.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use engine::{Counters, Instant, PortId, PortSet};
use rustix::event::epoll;
use rustix::io::Result;

/// Packets since the worker slept last that make a socket loose. To take one out and put it back
/// takes 1.4 µs (two system calls, measured); what the kernel is spared is 0.17 µs per packet (8 %
/// of the 2.1 µs that a packet took). Much lower costs more than it saves, much higher saves
/// nothing where a worker sleeps often.
const LOOSE_PACKETS: u64 = 64;

/// After so long without a packet a socket is loose no more, so that an awake worker does not look
/// in vain at many.
const CALM: Duration = Duration::from_millis(1);

/// Sockets that one call of [`Rings::review`] goes through: a bound on its time.
const REVIEWED_MAX: usize = 8;

/// The AF_XDP sockets of one worker, in its epoll set or loose.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
    loose_count: usize,
    /// Which ring is reviewed next.
    next: usize,
    /// How often the worker slept.
    sleeps: u64,
}

#[derive(Debug)]
struct Ring {
    port: PortId,
    /// The socket, by a descriptor of our own, since the queue is the worker's. Closed before the
    /// queue, which takes its chunks back when its own is closed.
    socket: OwnedFd,
    is_loose: bool,
    /// Packets that the port had carried at the first review after a sleep, and which sleep.
    base: u64,
    base_sleeps: u64,
    /// Packets at the last review, and when there were more than before.
    carried: u64,
    carried_at: Instant,
}

impl Rings {
    /// Takes a socket over, in the set.
    ///
    /// # Errors
    /// The set is full, or no descriptor is left.
    pub(crate) fn add(&mut self, epoll: &OwnedFd, port: PortId, socket: impl AsFd) -> Result<()> {
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
        watch(epoll, port, &socket)?;
        self.remove(epoll, port);
        self.rings.push(Ring {
            port,
            socket,
            is_loose: false,
            base: 0,
            base_sleeps: u64::MAX,
            carried: 0,
            carried_at: Instant(0),
        });
        Ok(())
    }

    /// Lets go of a port's socket, if there is one.
    pub(crate) fn remove(&mut self, epoll: &OwnedFd, port: PortId) {
        let Some(index) = self.rings.iter().position(|ring| ring.port == port) else { return };
        let ring = self.rings.swap_remove(index);
        if ring.is_loose {
            self.loose_count -= 1;
        } else {
            // The queue's own descriptor keeps it in the set otherwise.
            let _ = epoll::delete(epoll, &ring.socket);
        }
    }

    /// Adds the ports of loose sockets to those that have something.
    pub(crate) fn look(&self, ready: &mut PortSet) {
        if self.loose_count == 0 {
            return;
        }
        for ring in self.rings.iter().filter(|ring| ring.is_loose) {
            ready.insert(ring.port);
        }
    }

    /// Loosens sockets that carry much and puts calm ones back, a few per call.
    pub(crate) fn review(&mut self, epoll: &OwnedFd, counters: &Counters, now: Instant) {
        for _ in 0..self.rings.len().min(REVIEWED_MAX) {
            self.next = (self.next + 1) % self.rings.len();
            let ring = &mut self.rings[self.next];
            let Some(port) = counters.port(ring.port) else { continue };
            let carried = port.rx_packets.get() + port.tx_packets.get();
            if carried != ring.carried {
                (ring.carried, ring.carried_at) = (carried, now);
            }
            if ring.base_sleeps != self.sleeps {
                (ring.base, ring.base_sleeps) = (carried, self.sleeps);
            }
            if ring.is_loose {
                let is_calm = now.since(ring.carried_at) >= CALM;
                if is_calm && watch(epoll, ring.port, &ring.socket).is_ok() {
                    (ring.is_loose, ring.base) = (false, carried);
                    self.loose_count -= 1;
                }
            } else if carried.saturating_sub(ring.base) >= LOOSE_PACKETS
                && epoll::delete(epoll, &ring.socket).is_ok()
            {
                ring.is_loose = true;
                self.loose_count += 1;
            }
        }
    }

    /// Puts all sockets into the set: the worker is about to sleep. False: one is loose still, so
    /// it must not sleep long.
    pub(crate) fn fasten(&mut self, epoll: &OwnedFd) -> bool {
        self.sleeps += 1;
        if self.loose_count == 0 {
            return true;
        }
        for ring in self.rings.iter_mut().filter(|ring| ring.is_loose) {
            if watch(epoll, ring.port, &ring.socket).is_ok() {
                ring.is_loose = false;
                self.loose_count -= 1;
            }
        }
        self.loose_count == 0
    }
}

fn watch(epoll: &OwnedFd, port: PortId, socket: &OwnedFd) -> Result<()> {
    let data = epoll::EventData::new_u64(u64::from(port.0));
    epoll::add(epoll, socket, data, epoll::EventFlags::IN | epoll::EventFlags::ET)
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;

    use rustix::event::Timespec;

    use super::*;

    const PORT: PortId = PortId(3);
    const MS: u64 = 1_000_000;

    /// A socket that stands for one of AF_XDP, and its other end.
    struct World {
        epoll: OwnedFd,
        rings: Rings,
        counters: Arc<Counters>,
        other: UnixDatagram,
        _socket: UnixDatagram,
    }

    impl World {
        fn new() -> World {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let (socket, other) = UnixDatagram::pair().unwrap();
            let mut rings = Rings::default();
            rings.add(&epoll, PORT, &socket).unwrap();
            World { epoll, rings, counters: Counters::new(8), other, _socket: socket }
        }

        fn carry(&mut self, count: u64, at: u64) {
            self.counters.port(PORT).unwrap().rx_packets.add(count);
            self.rings.review(&self.epoll, &self.counters, Instant(at));
        }

        /// Ports that the kernel tells of, without waiting.
        fn told(&self) -> Vec<u64> {
            let mut events = [MaybeUninit::uninit(); 8];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let (events, _) = epoll::wait(&self.epoll, &mut events, Some(&now)).unwrap();
            events.iter().map(|event| { event.data }.u64()).collect()
        }

        fn looked_at(&self) -> bool {
            let mut ready = PortSet::new(8);
            self.rings.look(&mut ready);
            ready.contains(PORT)
        }
    }

    #[test]
    fn a_socket_is_loose_once_it_carried_much_and_no_more_before_a_sleep() {
        let mut world = World::new();
        world.carry(1, 0);
        world.carry(LOOSE_PACKETS - 1, 1);
        assert!(!world.looked_at(), "those before the first review do not count");
        world.carry(1, 2);
        assert!(world.looked_at());
        world.other.send(b"unheard").unwrap();
        assert_eq!(world.told(), [0u64; 0]);
        assert!(world.rings.fasten(&world.epoll));
        assert!(!world.looked_at());
        assert_eq!(world.told(), [u64::from(PORT.0)], "what came while it was loose is told");
    }

    #[test]
    fn packets_are_counted_anew_after_each_sleep() {
        let mut world = World::new();
        for round in 0..10 {
            world.carry(0, round);
            world.carry(LOOSE_PACKETS / 2, round);
            assert!(world.rings.fasten(&world.epoll));
            assert!(!world.looked_at(), "round {round}");
        }
    }

    #[test]
    fn a_loose_socket_that_is_calm_is_told_of_again() {
        let mut world = World::new();
        world.carry(0, 0);
        world.carry(LOOSE_PACKETS, 1);
        world.carry(1, MS);
        world.carry(0, 2 * MS - 1);
        assert!(world.looked_at(), "there was a packet within the time");
        world.other.send(b"heard").unwrap();
        world.carry(0, 2 * MS);
        assert!(!world.looked_at());
        assert_eq!(world.told(), [u64::from(PORT.0)]);
    }

    #[test]
    fn a_socket_that_is_let_go_of_is_told_of_no_more() {
        for is_loose in [false, true] {
            let mut world = World::new();
            world.carry(0, 0);
            world.carry(if is_loose { LOOSE_PACKETS } else { 0 }, 1);
            assert_eq!(world.looked_at(), is_loose);
            world.rings.remove(&world.epoll, PORT);
            world.other.send(b"unheard").unwrap();
            assert_eq!((world.told(), world.looked_at()), (vec![], false));
            assert!(world.rings.fasten(&world.epoll));
            world.rings.remove(&world.epoll, PORT);
        }
    }
}
