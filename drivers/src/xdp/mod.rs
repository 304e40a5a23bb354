//! AF_XDP: packets of an existing device come into and go out of our memory by rings, uncopied by
//! us.
//!
//! A small program at the device leads what it receives to one socket per queue ([`program`]). A
//! socket has four rings: *fill* (chunks for the kernel to receive into), *rx*, *tx* and
//! *completion* (chunks that it has sent). A chunk in a ring is the kernel's, and the book of
//! `sys::lend` says which. Queue *i* is worker *i*'s; a worker without a queue sends by a socket
//! of its own that shares a queue's memory and completions, and receives nothing:
//!
//! [queue 0: fill, rx, tx, completion — worker 0] [tx — worker 2] [queue 1: … — worker 1]
//!
//! How fast it is depends on the device, so modes are tried from the best to the one that every
//! device has, and the one that works is said ([`XdpMode`]). The one hard constraint: the device is
//! left as it was, whatever ends us. So the program is attached by a link, which goes with its
//! descriptor, and promiscuity by a socket.
//!
//! LIMIT: a device may have no more receiving queues than there are workers, which `ethtool -L`
//! sets; to be lifted when a worker can have several queues of one device.

mod checksum;
mod offloads;
mod program;
mod queue;
mod relay;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use engine::Caps;
use engine::frame::{CHUNK_BYTES, FrameBalancer, HEADROOM_BYTES};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, xdp_mmap_offsets,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::error::DriverError;
use crate::link::LinkSocket;
use crate::sys::bpf::Program;
use crate::sys::lend::{Ledger, QUEUES_MAX};
use crate::sys::region::Region;
use crate::sys::ring::{Consumer, MappedRing, Producer};
use crate::sys::{bpf, ethtool, xdp as options};

pub use offloads::{offloads_command, offloads_in_use, set_offloads};
pub use program::XdpTake;
pub use queue::XdpQueue;
use queue::{Depth, RxSide, Shared};
use relay::Relay;

/// Entries of the fill and rx rings. The kernel drops what comes while the fill ring is empty, so
/// this is the burst that a worker may be late for.
const RX_ENTRIES: u32 = 4_096;

/// Chunks that lie in a queue's fill ring, as long as that is enough. With more of them each
/// packet's chunk has left the cache before it is used again.
const XDP_FILL_FRAMES: usize = 1_024;

/// Chunks that lie there when bursts have emptied it. A TCP sender has its whole window under way
/// when the worker is late: that of Linux ends at 3 MB (half of `tcp_rmem`), 2,100 packets.
/// Measured on a veth, `iperf3` for 4 s on busy CPUs: with 1,024 chunks the kernel dropped 24,860
/// of 413,386 packets here, and only here, and TCP sent as many again.
const XDP_FILL_FRAMES_MAX: usize = RX_ENTRIES as usize;

/// Chunks that stay in a worker's pool, for other queues, before a fill ring takes more than
/// [`XDP_FILL_FRAMES`].
const XDP_POOL_FRAMES_LEAST: usize = 2_048;

/// Entries of a tx ring: what one turn may send by one port, many times over.
const TX_ENTRIES: u32 = 1_024;

/// Chunks that a queue and its socket hold at most, beyond those of one batch and those that a pool
/// has to spare.
pub const XDP_QUEUE_FRAMES: usize = XDP_FILL_FRAMES + TX_ENTRIES as usize;

/// Bytes of a frame that one chunk receives; longer ones come in several.
pub const XDP_CHUNK_FRAME_BYTES: usize = CHUNK_BYTES - HEADROOM_BYTES;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (linux/if_link.h).
const ATTACH_GENERIC: u32 = 1 << 1;
const ATTACH_NATIVE: u32 = 1 << 2;

/// How often and after how long a device that is busy is asked again: what the kernel takes down
/// after a process ended may take a while. Doubles each time, so 1.3 s in all.
const BUSY_TRIES: u32 = 8;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpPlace {
    /// In the device's driver.
    Native,
    /// In the kernel's stack, which every device has.
    Generic,
}

/// How a device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpMode {
    /// Where the program runs.
    pub place: XdpPlace,
    /// True: the device writes into our memory itself. False: the kernel copies.
    pub zero_copy: bool,
    /// Packets may lie in several chunks.
    pub multi_buffer: bool,
    /// Super-frames leave by a relay.
    pub relay: bool,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            XdpPlace::Native => "native",
            XdpPlace::Generic => "generic",
        };
        let copies = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{place} {copies}{}", if self.relay { " with relay" } else { "" })
    }
}

/// What a device is to be used for and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpOptions {
    /// Its name in the calling thread's namespace.
    pub name: String,
    /// Workers, each of which gets a queue or a way to send.
    pub workers: usize,
    /// Largest IP packet of the device, in bytes.
    pub mtu: u16,
    /// Which packets are ours.
    pub take: XdpTake,
    /// Where the program is to run; `None`: the best of what works.
    pub place: Option<XdpPlace>,
    /// True: what is received with an unfinished checksum is marked so.
    pub finish_checksums: bool,
    /// True: where packets are copied anyway, super-frames leave by a relay, a TAP beside the
    /// device, and are cut by the kernel. A veth is used in its native mode then, so that we see
    /// what a relay at its other end sends.
    pub relay: bool,
}

impl XdpOptions {
    /// For one worker and an MTU of 1500.
    pub fn new(name: impl Into<String>) -> XdpOptions {
        XdpOptions {
            name: name.into(),
            workers: 1,
            mtu: 1500,
            take: XdpTake::All,
            place: None,
            finish_checksums: false,
            relay: false,
        }
    }
}

/// The memory that rings may hold: the one region, and where chunks go when a ring is closed.
#[derive(Clone, Debug)]
pub struct XdpMemory {
    /// The region.
    pub region: Arc<Region>,
    /// The pools' balancer.
    pub balancer: Arc<FrameBalancer>,
}

/// A device in use. Dropping all its queues ends that.
#[derive(Debug)]
pub struct Xdp {
    mode: XdpMode,
    index: u32,
    queues: Vec<XdpQueue>,
    relay_refused: Option<DriverError>,
}

/// What keeps the program at the device.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) map: OwnedFd,
    _link: OwnedFd,
    _promiscuous: Option<OwnedFd>,
}

impl Xdp {
    /// Takes a device of the calling thread's namespace into use.
    ///
    /// # Errors
    /// There is no such device, another program is attached to it, it has more queues than there
    /// are workers, its packets are too large, or no mode works.
    pub fn open(options: &XdpOptions, memory: &XdpMemory) -> Result<Xdp, DriverError> {
        let failed = |operation| move |errno| device_error(&options.name, operation, errno);
        let link = LinkSocket::open(&options.name).map_err(failed("finding it"))?;
        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let any = any.map_err(failed("opening a socket"))?;
        // A driver that does not say has one queue, or is told by the errors of what follows.
        let queues = ethtool::rx_channels(any.as_fd(), &options.name).unwrap_or(1).max(1) as usize;
        if queues > options.workers || queues > QUEUES_MAX {
            return Err(DriverError::TooManyQueues {
                device: options.name.clone(),
                queues,
                workers: options.workers,
            });
        }
        let is_veth =
            ethtool::driver_name(any.as_fd(), &options.name).is_ok_and(|name| name == "veth");
        let setup = Setup { options, memory, index: link.index(), queues, is_veth };
        let mut last = None;
        for mode in setup.modes() {
            match setup.open(mode) {
                Ok(xdp) => return Ok(xdp),
                Err((operation, errno)) => {
                    let is_final = matches!(errno, Errno::PERM | Errno::ACCESS | Errno::NODEV);
                    last = Some((operation, errno));
                    if is_final {
                        break;
                    }
                }
            }
        }
        let (operation, errno) = last.expect("at least one mode was tried");
        Err(device_error(&options.name, operation, errno))
    }

    /// How the device is used.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// The device's index in its namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Why there is no relay although it was asked for and would do; it works all the same.
    pub fn relay_refused(&self) -> Option<&DriverError> {
        self.relay_refused.as_ref()
    }

    /// The queues, one per worker.
    pub fn into_queues(self) -> Vec<XdpQueue> {
        self.queues
    }
}

/// What was attempted, and the kernel's answer.
type Refused = (&'static str, Errno);

struct Setup<'a> {
    options: &'a XdpOptions,
    memory: &'a XdpMemory,
    index: u32,
    queues: usize,
    is_veth: bool,
}

impl Setup<'_> {
    /// The modes to try, the best first.
    fn modes(&self) -> Vec<XdpMode> {
        // In a veth's own mode the other end's stack has to cut its super-frames before it sends
        // them; in the generic one they come whole, in several chunks, if its offloads are on.
        let places = match self.options.place {
            Some(place) => vec![place],
            None if self.is_veth && !self.options.relay => vec![XdpPlace::Generic],
            None => vec![XdpPlace::Native, XdpPlace::Generic],
        };
        let fits = usize::from(self.options.mtu) + 14 <= XDP_CHUNK_FRAME_BYTES;
        let mut modes = Vec::new();
        for place in places {
            for zero_copy in [true, false] {
                for multi_buffer in [true, false] {
                    let works = !zero_copy || place == XdpPlace::Native;
                    if works && (multi_buffer || fits) {
                        modes.push(XdpMode { place, zero_copy, multi_buffer, relay: false });
                    }
                }
            }
        }
        modes
    }

    fn open(&self, mode: XdpMode) -> Result<Xdp, Refused> {
        let attached = Arc::new(self.attach(mode)?);
        let ledger = Arc::new(Ledger::new(self.memory.region.clone(), self.queues));
        let mut owners: Vec<XdpQueue> = Vec::new();
        for queue in 0..self.queues {
            let first = owners.first();
            let owner = self.owner(mode, queue, first, &attached, &ledger)?;
            bpf::set_socket(attached.map.as_fd(), queue, owner.as_fd())
                .map_err(|errno| ("leading a queue to its socket", errno))?;
            owners.push(owner);
        }
        for worker in self.queues..self.options.workers {
            let sender = self.sender(mode, &owners[worker % self.queues])?;
            owners.push(sender);
        }
        let mut xdp = Xdp { mode, index: self.index, queues: owners, relay_refused: None };
        if self.has_relay(mode) {
            match Relay::open(self.index, xdp.queues.len(), self.options.mtu) {
                Ok(relays) => {
                    xdp.mode.relay = true;
                    let queues = xdp.queues.iter_mut().zip(relays);
                    queues.for_each(|(queue, relay)| queue.set_relay(relay));
                }
                Err(error) => xdp.relay_refused = Some(error),
            }
        }
        Ok(xdp)
    }

    /// True if super-frames are to leave by a relay. A device that takes packets uncopied has its
    /// rings for cheaper.
    fn has_relay(&self, mode: XdpMode) -> bool {
        let is_seen = !self.is_veth || mode.place == XdpPlace::Native;
        self.options.relay && !mode.zero_copy && is_seen
    }

    /// Puts the program onto the device, with a map that leads nowhere yet.
    fn attach(&self, mode: XdpMode) -> Result<Attached, Refused> {
        let map = bpf::create_socket_map(self.queues);
        let map = map.map_err(|errno| ("making the map of its queues", errno))?;
        let instructions = program::instructions(self.options.take, map.as_raw_fd());
        let program = bpf::load(&instructions, Program::XdpFrags)
            .or_else(|_| bpf::load(&instructions, Program::Xdp));
        let program = program.map_err(|(errno, _)| ("loading the program", errno))?;
        let flags = match mode.place {
            XdpPlace::Native => ATTACH_NATIVE,
            XdpPlace::Generic => ATTACH_GENERIC,
        };
        let attach = || bpf::attach(program.as_fd(), self.index, Program::Xdp, flags);
        let link = while_busy(attach).map_err(|errno| ("attaching the program", errno))?;
        let promiscuous = if self.is_veth {
            // It receives what it is sent, whoever that is for.
            None
        } else {
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
                    .and_then(|socket| {
                        options::set_promiscuous(socket.as_fd(), self.index)?;
                        Ok(socket)
                    });
            Some(socket.map_err(|errno| ("having it take all MAC addresses", errno))?)
        };
        Ok(Attached { map, _link: link, _promiscuous: promiscuous })
    }

    /// The socket of a queue, with all four rings.
    fn owner(
        &self,
        mode: XdpMode,
        queue: usize,
        first: Option<&XdpQueue>,
        attached: &Arc<Attached>,
        ledger: &Arc<Ledger>,
    ) -> Result<XdpQueue, Refused> {
        let senders = self.options.workers.div_ceil(self.queues) as u32;
        let completion_entries = (TX_ENTRIES * senders).next_power_of_two();
        let make = || -> Result<_, Errno> {
            let socket = xdp_socket()?;
            if first.is_none() {
                options::register(socket.as_fd(), &self.memory.region)?;
            }
            set_xdp_umem_fill_ring_size(&socket, RX_ENTRIES)?;
            set_xdp_umem_completion_ring_size(&socket, completion_entries)?;
            set_xdp_rx_ring_size(&socket, RX_ENTRIES)?;
            set_xdp_tx_ring_size(&socket, TX_ENTRIES)?;
            self.bind(mode, &socket, queue, first)?;
            Ok(socket)
        };
        let socket = while_busy(make).map_err(|errno| ("binding a socket to a queue", errno))?;
        let rings = || -> Result<_, Errno> {
            let at = xdp_mmap_offsets(&socket)?;
            let socket = socket.as_fd();
            let (fill, completion) = (XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING);
            Ok((
                Producer::new(MappedRing::map(socket, fill, &at.fr, RX_ENTRIES)?),
                Consumer::new(MappedRing::map(socket, XDP_PGOFF_RX_RING, &at.rx, RX_ENTRIES)?),
                Producer::new(MappedRing::map(socket, XDP_PGOFF_TX_RING, &at.tx, TX_ENTRIES)?),
                Consumer::new(MappedRing::map(socket, completion, &at.cr, completion_entries)?),
            ))
        };
        let (fill, rx, tx, completion) = rings().map_err(|errno| ("mapping its rings", errno))?;
        let shared = Shared {
            queue,
            ledger: ledger.clone(),
            completion: Mutex::new(completion),
            balancer: self.memory.balancer.clone(),
            mode,
            _attached: attached.clone(),
        };
        let _ = options::set_tx_budget(socket.as_fd(), TX_ENTRIES);
        Ok(XdpQueue::new(
            socket,
            Some(RxSide {
                fill,
                rx,
                finish_checksums: self.options.finish_checksums,
                depth: Depth::new(),
            }),
            tx,
            Arc::new(shared),
            self.caps(),
        ))
    }

    /// A socket that only sends, by a queue that is another worker's.
    fn sender(&self, mode: XdpMode, owner: &XdpQueue) -> Result<XdpQueue, Refused> {
        let make = || -> Result<_, Errno> {
            let socket = xdp_socket()?;
            set_xdp_tx_ring_size(&socket, TX_ENTRIES)?;
            self.bind(mode, &socket, owner.queue(), Some(owner))?;
            let at = xdp_mmap_offsets(&socket)?;
            let tx = MappedRing::map(socket.as_fd(), XDP_PGOFF_TX_RING, &at.tx, TX_ENTRIES)?;
            let _ = options::set_tx_budget(socket.as_fd(), TX_ENTRIES);
            Ok((socket, Producer::new(tx)))
        };
        let made = while_busy(make);
        let (socket, tx) = made.map_err(|errno| ("binding a socket that only sends", errno))?;
        Ok(XdpQueue::new(socket, None, tx, owner.shared().clone(), self.caps()))
    }

    fn bind(
        &self,
        mode: XdpMode,
        socket: &OwnedFd,
        queue: usize,
        sharing: Option<&XdpQueue>,
    ) -> Result<(), Errno> {
        if let Some(other) = sharing {
            // The flags are inherited; the kernel refuses to hear them twice.
            let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
            let address = SocketAddrXdpWithSharedUmem {
                addr: SocketAddrXdp::new(flags, self.index, queue as u32),
                shared_umem_fd: other.as_fd(),
            };
            return bind(socket, &address);
        }
        let copy = match mode.zero_copy {
            true => SocketAddrXdpFlags::XDP_ZEROCOPY,
            false => SocketAddrXdpFlags::XDP_COPY,
        };
        let mut flags = copy | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        if mode.multi_buffer {
            flags |= SocketAddrXdpFlags::XDP_USE_SG;
        }
        bind(socket, &SocketAddrXdp::new(flags, self.index, queue as u32))
    }

    fn caps(&self) -> Caps {
        Caps { mtu: self.options.mtu, ..Caps::default() }
    }
}

fn xdp_socket() -> Result<OwnedFd, Errno> {
    let family = AddressFamily::from_raw(libc::AF_XDP as u16);
    socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// Asks again while the kernel takes down what was there before.
fn while_busy<T>(attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    while_so(|errno| *errno == Errno::BUSY, attempt)
}

/// Asks again, for 1.3 s, while the error is one that passes.
fn while_so<T, E>(
    passes: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut pause = BUSY_PAUSE;
    for _ in 0..BUSY_TRIES {
        match attempt() {
            Err(error) if passes(&error) => sleep(pause),
            done => return done,
        }
        pause *= 2;
    }
    attempt()
}

pub(super) fn device_error(device: &str, operation: &'static str, errno: Errno) -> DriverError {
    let (device, source) = (device.to_owned(), io::Error::from(errno));
    match errno {
        Errno::NODEV | Errno::NXIO => DriverError::NoDevice { device, source },
        Errno::PERM | Errno::ACCESS => DriverError::NoXdpPermission { device, operation, source },
        Errno::BUSY | Errno::EXIST => DriverError::DeviceInUse { device, source },
        errno => {
            let hint = match errno {
                Errno::RANGE | Errno::INVAL => {
                    "its mtu may be too large for this mode: lower it, or the kernel is too old"
                }
                Errno::NOBUFS | Errno::NOMEM => "give the machine more memory (or LimitMEMLOCK)",
                Errno::OPNOTSUPP => "the device or the kernel lacks AF_XDP",
                _ => "see the kernel's log",
            };
            DriverError::Xdp { device, operation, hint, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_is_asked_again_and_nothing_else() {
        let mut answers = vec![Ok(7), Err(Errno::BUSY), Err(Errno::BUSY)];
        assert_eq!(while_busy(|| answers.pop().unwrap()), Ok(7));
        let mut answers = vec![Ok(7), Err(Errno::INVAL)];
        assert_eq!(while_busy(|| answers.pop().unwrap()), Err(Errno::INVAL));
    }

    #[test]
    fn a_mode_says_where_the_program_runs_and_who_copies() {
        let mode = XdpMode {
            place: XdpPlace::Generic,
            zero_copy: false,
            multi_buffer: true,
            relay: false,
        };
        assert_eq!(mode.to_string(), "generic copy");
        let mode = XdpMode { place: XdpPlace::Native, relay: true, ..mode };
        assert_eq!(mode.to_string(), "native copy with relay");
    }

    #[test]
    fn each_error_says_what_to_do() {
        let text = device_error("eth1", "attaching the program", Errno::BUSY).to_string();
        assert!(text.contains("eth1") && text.contains("ip link set eth1 xdp off"), "{text}");
        let text = device_error("eth1", "finding it", Errno::NODEV).to_string();
        assert!(text.contains("no device eth1"), "{text}");
        let text = device_error("eth1", "loading the program", Errno::PERM).to_string();
        assert!(text.contains("CAP_BPF"), "{text}");
    }
}
