//! TAP devices: the kernel's end is a network interface, ours a descriptor per queue.
//!
//! Every read and write carries a vnet header in front of the Ethernet frame, so segments of up to
//! 64 KiB come and go uncut and partial checksums stay partial. A packet is read straight into
//! frames and written straight out of them, the vnet header in the head's headroom:
//!
//! [head: headroom … | vnet header 12 | Ethernet … ] [tail: what the head did not hold]
//!
//! The hard constraint: one system call per packet (`rx` needs one more to see that none is left),
//! no allocation, and never a frame kept: what `rx` did not fill and what `tx` sent is in the pool
//! again when they return, so a queue can be dropped at any time and no frame is lost. (A spare
//! tail kept per queue would also cost 66 KiB for each idle device.)
//!
//! A descriptor opened inside a namespace keeps that namespace alive: its socket belongs to it. A
//! device whose death with its namespace is to be noticed by itself must be made in our own
//! namespace and moved ([`Tap::create_in`]), which takes the kernel some 17 ms, one at a time.
//!
//! A persistent device outlives its queues, with all that was set on it; its link has no carrier
//! then. [`Tap::join`] gives it queues again. That works only in the namespace that the device is
//! in: the kernel looks for the name where the descriptor was opened.
//!
//! What this does not do: addresses, routes, setting the link up.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::frame::{Frame, FramePool, HEADROOM_BYTES, Tail};
use engine::packet::BATCH_BYTES_MAX;
use engine::{Batch, Caps, MacAddress, Packet, Port};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, readv, write, writev};

use crate::error::DriverError;
use crate::link::LinkSocket;
use crate::sys::ioctl;
use crate::vnet::{TUNNEL_HEADER_BYTES, VNET_HEADER_BYTES, VnetHeader};

/// Packets that the kernel queues towards us, per queue, before it drops. Its own default for a
/// TAP is 1,000; a TAP never pushes back on its sender, so with super-frames that is up to 64 MB
/// of standing queue, and all of it is delay for whoever comes next. Too low, and the burst that
/// comes while a worker sleeps or is preempted is cut off.
///
/// Measured on two busy cores with a loop that copies between two TAPs, `iperf3 -P 8` and
/// `iperf3 -P 1` beside `ping -i 0.02`: 64 and 128 cost 17,000 and more retransmissions in 4 s and
/// 256 sometimes thousands, 512 and 1,000 next to none; 1,000 is not faster than 512, and its
/// longest round trip beside one stream was 112 ms instead of 18 to 41.
pub const QUEUE_LEN_DEFAULT: u32 = 512;

/// The most queues that the kernel gives one device (`MAX_TAP_QUEUES`, drivers/net/tun.c).
const QUEUE_COUNT_MAX: usize = 256;

/// Longest alias and its NUL, in bytes (`IFALIASZ`, include/uapi/linux/if.h).
const ALIAS_BYTES: usize = 256;

/// The control device.
const TUN_DEVICE: &str = "/dev/net/tun";

/// What a device that is to be moved is called meanwhile; the kernel puts a number in.
const NAME_PATTERN: &str = "portolan%d";

const ATTACH_FLAGS: i32 =
    libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

/// `IFF_TUN_EXCL`: refuse to join a device that exists, which may be somebody else's.
const EXCLUSIVE_FLAG: i32 = libc::IFF_TUN_EXCL;

/// Partial checksums, and TCP super-frames of both families, also with CWR set: our cutter knows
/// that only the first segment carries it.
const OFFLOAD_TCP: u32 =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// UDP super-frames; the kernel takes both bits or none, and knows them since 6.2.
const OFFLOAD_UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// `TUN_F_UDP_TUNNEL_GSO` and `TUN_F_UDP_TUNNEL_GSO_CSUM` (linux/if_tun.h): super-frames in
/// tunnels, without and with an outer checksum. Known since Linux 6.17, to devices with the long
/// vnet header.
const OFFLOAD_TUNNELS: u32 = 0x080 | 0x100;

/// What a device is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// How many queues, from 1 to 256: one per worker.
    pub queues: usize,
    /// Largest IP packet, in bytes, from 68 to 65,521.
    pub mtu: u16,
    /// MAC address of the kernel's end; `None` lets the kernel choose one at random, or leaves that
    /// of a device that is joined. Setting one makes the kernel forget the link's neighbours, even
    /// if it is the one that it has.
    pub mac: Option<MacAddress>,
    /// Packets that the kernel queues towards us, per queue; at least 1.
    pub queue_len: u32,
    /// What `ip link` shows as its alias, at most 255 bytes; a device is told by it later.
    pub alias: Option<String>,
    /// True: the device stays when its last queue is closed, until somebody deletes it. That is
    /// the last thing set, so none stays that has no alias.
    pub persistent: bool,
    /// True: super-frames in VXLAN tunnels are taken and given, where the kernel knows them.
    pub tunnels: bool,
}

impl TapOptions {
    /// A device with one queue, an MTU of 1500, any MAC address and [`QUEUE_LEN_DEFAULT`].
    pub fn new(name: impl Into<String>) -> TapOptions {
        let queue_len = QUEUE_LEN_DEFAULT;
        let name = name.into();
        TapOptions {
            name,
            queues: 1,
            mtu: 1500,
            mac: None,
            queue_len,
            alias: None,
            persistent: false,
            tunnels: false,
        }
    }

    fn check(&self) -> Result<(), DriverError> {
        check_name(&self.name)?;
        if self.queues == 0 || self.queues > QUEUE_COUNT_MAX {
            return Err(self.refused("queues", &self.queues, "1 to 256"));
        }
        if self.queue_len == 0 {
            return Err(self.refused("queue_len", &self.queue_len, "at least 1 packet"));
        }
        if self.alias.as_ref().is_some_and(|alias| alias.len() >= ALIAS_BYTES) {
            return Err(self.refused("alias", &"too long", "at most 255 bytes"));
        }
        if let Some(mac) = self.mac.filter(|mac| mac.is_group() || mac.0 == 0) {
            return Err(self.refused("mac", &mac, "a unicast address that is not zero"));
        }
        Ok(())
    }

    fn refused(
        &self,
        option: &'static str,
        value: &dyn ToString,
        expected: &'static str,
    ) -> DriverError {
        let (device, value) = (self.name.clone(), value.to_string());
        DriverError::BadOption { device, option, value, expected }
    }
}

/// The kernel's rules for a device name (`dev_valid_name`, net/core/dev.c), and no patterns.
fn check_name(name: &str) -> Result<(), DriverError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() >= ioctl::NAME_BYTES {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is a folder's name"
    } else if name
        .bytes()
        .any(|byte| matches!(byte, b'/' | b':' | b'%') || !byte.is_ascii_graphic())
    {
        "only visible ASCII characters other than / : % are allowed"
    } else {
        return Ok(());
    };
    Err(DriverError::BadName { device: name.to_owned(), reason })
}

/// A device, just made, with all its queues. The device goes when its last queue is dropped.
#[derive(Debug)]
pub struct Tap {
    name: String,
    caps: Caps,
    files: Vec<OwnedFd>,
}

impl Tap {
    /// Makes the device in the calling thread's network namespace, link down. As long as a queue
    /// is open that namespace stays alive, even without processes and name.
    ///
    /// # Errors
    /// Each of [`DriverError`] except `Region`.
    pub fn create(options: &TapOptions) -> Result<Tap, DriverError> {
        create(TUN_DEVICE, options, None)
    }

    /// Makes the device in the calling thread's namespace under a passing name and moves it to
    /// `namespace` (an open `/run/netns/NAME` or `/proc/PID/ns/net`), where it has its own name,
    /// link down. When that namespace is destroyed the device dies too, which ends `alive`.
    ///
    /// # Errors
    /// Each of [`DriverError`] except `Region`.
    pub fn create_in(options: &TapOptions, namespace: BorrowedFd<'_>) -> Result<Tap, DriverError> {
        create(TUN_DEVICE, options, Some(namespace))
    }

    /// Opens queues of a persistent device that is in the calling thread's namespace and that
    /// nobody else has open, and sets it up as [`Tap::create`] would. Whoever calls has made sure
    /// that the device is his: `index` says which one is meant. As long as a queue is open its
    /// namespace stays alive.
    ///
    /// # Errors
    /// [`DriverError::NameInUse`] if the device of this name is another one, or takes no queues of
    /// our kind; else as `create`.
    pub fn join(options: &TapOptions, index: u32) -> Result<Tap, DriverError> {
        join(TUN_DEVICE, options, index)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do; `uso` is false on kernels before 6.2.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// The queues, one per worker.
    pub fn into_queues(self) -> Vec<TapQueue> {
        let caps = self.caps;
        let queue = |file| TapQueue { file, caps, alive: true, has_more: false, rejected: 0 };
        self.files.into_iter().map(queue).collect()
    }
}

fn create(
    tun_device: &str,
    options: &TapOptions,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<Tap, DriverError> {
    options.check()?;
    let device = options.name.as_str();
    let first = open(tun_device, device)?;
    let asked_name = if namespace.is_some() { NAME_PATTERN } else { device };
    let name = ioctl::attach(first.as_fd(), asked_name, (ATTACH_FLAGS | EXCLUSIVE_FLAG) as u16)
        .map_err(|errno| device_error(device, "making the device", errno))?;
    let link = LinkSocket::open(&name);
    let link = link.map_err(|errno| device_error(device, "finding it", errno))?;
    finish(tun_device, options, &name, first, |options| configure(&link, options, namespace))
}

fn join(tun_device: &str, options: &TapOptions, index: u32) -> Result<Tap, DriverError> {
    options.check()?;
    let device = options.name.as_str();
    let is_meant = |link: &LinkSocket| {
        let source = Errno::EXIST.into();
        let in_use = || DriverError::NameInUse { device: device.to_owned(), source };
        if link.index() == index { Ok(()) } else { Err(in_use()) }
    };
    let operation = "joining the device";
    let link = LinkSocket::open(device).map_err(|errno| device_error(device, operation, errno))?;
    is_meant(&link)?;
    let first = open(tun_device, device)?;
    ioctl::attach(first.as_fd(), device, ATTACH_FLAGS as u16).map_err(|errno| match errno {
        // Not a TAP with several queues: not one that we made.
        Errno::INVAL => DriverError::NameInUse { device: device.to_owned(), source: errno.into() },
        errno => device_error(device, operation, errno),
    })?;
    // Without the device the kernel has just made a new one, which goes with its only queue.
    let link = LinkSocket::open(device).map_err(|errno| device_error(device, operation, errno))?;
    is_meant(&link)?;
    finish(tun_device, options, device, first, |options| configure(&link, options, None))
}

/// Opens the other queues, and sets what belongs to descriptors and to the device.
fn finish(
    tun_device: &str,
    options: &TapOptions,
    name: &str,
    first: OwnedFd,
    configure: impl FnOnce(&TapOptions) -> Result<(), DriverError>,
) -> Result<Tap, DriverError> {
    let device = options.name.as_str();
    let mut files = vec![first];
    for _ in 1..options.queues {
        let file = open(tun_device, device)?;
        ioctl::attach(file.as_fd(), name, ATTACH_FLAGS as u16)
            .map_err(|errno| device_error(device, "adding a queue", errno))?;
        files.push(file);
    }
    let (uso, tunnelled) = set_offloads(&files, options.tunnels)
        .map_err(|errno| device_error(device, "setting its offloads and its vnet header", errno))?;
    configure(options)?;
    if options.persistent {
        ioctl::set_persistent(files[0].as_fd())
            .map_err(|errno| device_error(device, "making it persistent", errno))?;
    }
    let caps = Caps { checksum: true, tso: true, uso, tunnelled, mtu: options.mtu };
    Ok(Tap { name: device.to_owned(), caps, files })
}

fn open(tun_device: &str, device: &str) -> Result<OwnedFd, DriverError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(tun_device, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR => DriverError::NoTunDevice {
            device: device.to_owned(),
            path: tun_device.to_owned(),
            source: errno.into(),
        },
        errno => device_error(device, "opening /dev/net/tun", errno),
    })
}

/// Sets the offloads explicitly, all of them at once, and the vnet header's size. True if UDP
/// super-frames are among them, and super-frames in tunnels.
fn set_offloads(files: &[OwnedFd], tunnels: bool) -> Result<(bool, bool), Errno> {
    // Both belong to the descriptor's device; setting the size on each descriptor costs nothing and
    // depends on no kernel's opinion about that.
    let set_header_bytes =
        |bytes| files.iter().try_for_each(|file| ioctl::set_vnet_header_bytes(file.as_fd(), bytes));
    let first = files[0].as_fd();
    if tunnels && set_header_bytes(TUNNEL_HEADER_BYTES).is_ok() {
        match ioctl::set_offload(first, OFFLOAD_TCP | OFFLOAD_UDP | OFFLOAD_TUNNELS) {
            Ok(()) => return Ok((true, true)),
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    set_header_bytes(VNET_HEADER_BYTES)?;
    match ioctl::set_offload(first, OFFLOAD_TCP | OFFLOAD_UDP) {
        Ok(()) => Ok((true, false)),
        Err(Errno::INVAL) => ioctl::set_offload(first, OFFLOAD_TCP).map(|()| (false, false)),
        Err(errno) => Err(errno),
    }
}

/// Gives the device what it needs before it goes up, and moves it last.
fn configure(
    link: &LinkSocket,
    options: &TapOptions,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<(), DriverError> {
    let device = options.name.as_str();
    if let Some(alias) = &options.alias {
        link.set_alias(alias).map_err(|errno| device_error(device, "setting its alias", errno))?;
    }
    link.set_mtu(options.mtu).map_err(|errno| match errno {
        Errno::INVAL => options.refused("mtu", &options.mtu, "68 to 65521 bytes"),
        errno => device_error(device, "setting its mtu", errno),
    })?;
    if let Some(mac) = options.mac {
        link.set_mac(mac.bytes())
            .map_err(|errno| device_error(device, "setting its mac address", errno))?;
    }
    link.set_queue_len(options.queue_len)
        .map_err(|errno| device_error(device, "setting its queue length", errno))?;
    // A TAP never pushes back, so a queue in front of it is passed through at once and is of no
    // use; but the kernel makes one for each of the 256 queues that the device may have: 3 MiB and
    // 20 ms per device. A kernel that does not take this works all the same.
    let _ = link.set_no_queue();
    if let Some(namespace) = namespace {
        let operation = "moving it to its namespace";
        link.move_to(namespace, device).map_err(|errno| match errno {
            Errno::INVAL | Errno::BADF => DriverError::Device {
                device: device.to_owned(),
                operation,
                hint: "name a network namespace: /run/netns/NAME or /proc/PID/ns/net",
                source: errno.into(),
            },
            errno => device_error(device, operation, errno),
        })?;
    }
    Ok(())
}

fn device_error(device: &str, operation: &'static str, errno: Errno) -> DriverError {
    let device = device.to_owned();
    let source = io::Error::from(errno);
    let hint = match errno {
        Errno::PERM | Errno::ACCESS => {
            return DriverError::NoPermission { device, operation, source };
        }
        Errno::BUSY | Errno::EXIST => return DriverError::NameInUse { device, source },
        Errno::INVAL => "the kernel is too old or lacks TUN with multi-queue and vnet header",
        Errno::NOMEM | Errno::NOBUFS => "give the machine more memory or ask for fewer queues",
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (LimitNOFILE)",
        Errno::NODEV => "the device vanished: does another program manage it?",
        _ => "see the kernel's log",
    };
    DriverError::Device { device, operation, hint, source }
}

/// One queue of a TAP. As a descriptor it is polled for input; reads and writes on it carry a vnet
/// header of [`VNET_HEADER_BYTES`](crate::VNET_HEADER_BYTES) and then the Ethernet frame.
#[derive(Debug)]
pub struct TapQueue {
    file: OwnedFd,
    caps: Caps,
    alive: bool,
    /// The last `rx` ended for the bytes' sake.
    has_more: bool,
    rejected: u64,
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What became of a packet to be sent.
pub(crate) enum Sent {
    /// Sent, or refused by the kernel and counted: either way it is done with.
    Done,
    /// The device takes nothing now.
    Stop,
}

impl Port for TapQueue {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        let mut tail = frames.take_tail();
        let mut batch_bytes = 0;
        self.has_more = false;
        while self.alive && !batch.is_full() {
            if batch_bytes >= BATCH_BYTES_MAX {
                self.has_more = true;
                break;
            }
            let Some(mut head) = frames.take_chunk() else { break };
            let Some(read_bytes) = self.read(&mut head, tail.as_mut()) else {
                frames.give(head);
                break;
            };
            batch_bytes += read_bytes;
            match received(head, &mut tail, read_bytes, self.caps.tunnelled) {
                Ok(packet) => batch.push(packet),
                Err(head) => {
                    self.rejected += 1;
                    frames.give(head);
                }
            }
            if tail.is_none() {
                tail = frames.take_tail();
            }
        }
        if let Some(tail) = tail {
            frames.give_tail(tail);
        }
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        let mut done_count = 0;
        for packet in out.iter_mut() {
            match self.send(packet) {
                Sent::Done => done_count += 1,
                Sent::Stop => break,
            }
        }
        for packet in out.drain(..done_count) {
            packet.recycle(frames);
        }
    }

    fn flush(&mut self, _frames: &mut FramePool) {}

    fn caps(&self) -> Caps {
        self.caps
    }

    fn alive(&self) -> bool {
        self.alive
    }

    fn take_rejected(&mut self) -> u64 {
        std::mem::take(&mut self.rejected)
    }
}

impl TapQueue {
    /// Bytes of this device's vnet headers.
    #[inline]
    fn header_bytes(&self) -> usize {
        if self.caps.tunnelled { TUNNEL_HEADER_BYTES } else { VNET_HEADER_BYTES }
    }

    /// Reads one packet; `None` when none waits. The second frame catches what the head does not
    /// hold. Without one, a single byte does: the packet is seen to be too long and is refused,
    /// while ordinary ones still pass.
    #[inline]
    fn read(&mut self, head: &mut Frame, tail: Option<&mut Tail>) -> Option<usize> {
        let mut excess = [0u8; 1];
        let rest = tail.map_or(excess.as_mut_slice(), |tail| tail.bytes_mut());
        let front = &mut head.bytes_mut()[HEADROOM_BYTES - self.header_bytes()..];
        let mut slices = [IoSliceMut::new(front), IoSliceMut::new(rest)];
        match readv(&self.file, &mut slices) {
            Ok(read_bytes) => Some(read_bytes),
            Err(errno) => {
                self.note(errno);
                None
            }
        }
    }

    /// Writes one packet.
    #[inline]
    pub(crate) fn send(&mut self, packet: &mut Packet) -> Sent {
        if !self.alive {
            return Sent::Stop;
        }
        let long = VnetHeader::of(packet).to_long_bytes();
        // The short form is how the long one begins.
        let header = &long[..self.header_bytes()];
        let result = if packet.tail().is_empty() {
            let bytes = packet.head_with_headroom_mut(header.len());
            bytes[..header.len()].copy_from_slice(header);
            write(&self.file, bytes)
        } else {
            let slices = [header, packet.head(), packet.tail()].map(IoSlice::new);
            writev(&self.file, &slices)
        };
        match result {
            Ok(_) => Sent::Done,
            Err(errno) => self.not_sent(errno),
        }
    }

    #[cold]
    fn not_sent(&mut self, errno: Errno) -> Sent {
        match errno {
            // No room or no memory now, or the link is down (EIO): the next packet would fare the
            // same. The worker counts what is left.
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::IO | Errno::INTR => Sent::Stop,
            Errno::BADFD => {
                self.note(errno);
                Sent::Stop
            }
            // This packet is refused (EINVAL: its vnet header does not fit it); the next may pass.
            _ => {
                self.rejected += 1;
                Sent::Done
            }
        }
    }

    /// EBADFD: the descriptor is attached to no device any more. Everything else passes.
    fn note(&mut self, errno: Errno) {
        if errno == Errno::BADFD {
            self.alive = false;
        }
    }
}

/// Makes a packet of what was read, or gives the head back. Takes the tail if it was reached.
#[inline]
fn received(
    head: Frame,
    tail: &mut Option<Tail>,
    read_bytes: usize,
    long: bool,
) -> Result<Packet, Frame> {
    /// Bytes of an Ethernet header: what is shorter is no frame.
    const ETHERNET_HEADER_BYTES: usize = 14;

    let head_bytes_max = head.bytes().len() - HEADROOM_BYTES;
    let header_bytes = if long { TUNNEL_HEADER_BYTES } else { VNET_HEADER_BYTES };
    let packet_bytes = match read_bytes.checked_sub(header_bytes) {
        Some(bytes) if bytes >= ETHERNET_HEADER_BYTES => bytes,
        _ => return Err(head),
    };
    let head_bytes = packet_bytes.min(head_bytes_max);
    const IS_THERE: &str = "a chunk is longer than its headroom";
    let front = &head.bytes()[HEADROOM_BYTES - header_bytes..];
    let header = match long {
        false => VnetHeader::from_bytes(front.first_chunk().expect(IS_THERE)),
        true => VnetHeader::from_long_bytes(front.first_chunk().expect(IS_THERE)),
    };
    let Ok(offload) = header.offload(head_bytes, packet_bytes) else {
        return Err(head);
    };
    let rest = if packet_bytes > head_bytes {
        match tail.take() {
            Some(tail) => Some(tail),
            None => return Err(head),
        }
    } else {
        None
    };
    let mut packet = Packet::new(head, HEADROOM_BYTES, head_bytes);
    if let Some(tail) = rest {
        packet.set_tail(tail, packet_bytes - head_bytes);
    }
    packet.set_offload(offload);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use engine::Offload;
    use engine::frame::{heap_frames, heap_tails};

    use super::*;

    fn frame() -> Frame {
        heap_frames(1).remove(0)
    }

    fn tail() -> Tail {
        heap_tails(1).remove(0)
    }

    #[test]
    fn a_missing_control_device_says_how_to_get_it() {
        let error = create("/dev/net/no-such-tun", &TapOptions::new("x0"), None).unwrap_err();
        assert!(matches!(error, DriverError::NoTunDevice { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("modprobe tun") && text.contains("mknod"), "{text}");
        assert!(text.contains("/dev/net/no-such-tun") && text.contains("x0"), "{text}");
    }

    #[test]
    fn a_missing_permission_says_whom_to_ask() {
        let error = device_error("x0", "making the device", Errno::PERM);
        assert!(matches!(error, DriverError::NoPermission { .. }));
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }

    #[test]
    fn names_that_the_kernel_would_not_take_are_refused_with_the_rule() {
        let long = "abcdefghijklmnop";
        for name in ["", ".", "..", "a/b", "a:b", "a b", "tap%d", "é", "a\nb", "a\0b", long] {
            let error = create("/dev/null", &TapOptions::new(name), None).unwrap_err();
            assert!(matches!(error, DriverError::BadName { .. }), "{name:?}: {error:?}");
        }
        assert!(check_name(&long[..15]).is_ok());
    }

    #[test]
    fn options_out_of_range_are_refused_before_the_kernel_is_asked() {
        let good = TapOptions::new("x0");
        let bad = [
            TapOptions { queues: 0, ..good.clone() },
            TapOptions { queues: 257, ..good.clone() },
            TapOptions { queue_len: 0, ..good.clone() },
            TapOptions { mac: Some(MacAddress::BROADCAST), ..good.clone() },
            TapOptions { mac: Some(MacAddress(0)), ..good },
        ];
        for options in bad {
            let error = create("/dev/null", &options, None).unwrap_err();
            assert!(matches!(error, DriverError::BadOption { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_packet_that_fits_leaves_the_tail() {
        let mut tail = Some(tail());
        let packet = received(frame(), &mut tail, 12 + 1792, false).unwrap();
        assert_eq!((packet.head().len(), packet.tail().len()), (1792, 0));
        assert_eq!(packet.offload(), Offload::None);
        assert!(tail.is_some());
    }

    #[test]
    fn a_longer_packet_takes_the_tail() {
        let mut tail = Some(tail());
        let packet = received(frame(), &mut tail, 12 + 1793, false).unwrap();
        assert_eq!((packet.head().len(), packet.tail().len()), (1792, 1));
        assert!(tail.is_none());
    }

    #[test]
    fn what_is_too_short_or_too_long_gives_its_head_back() {
        for read_bytes in [0, 11, 12, 25, 12 + 1793] {
            assert!(received(frame(), &mut None, read_bytes, false).is_err());
        }
        assert!(received(frame(), &mut None, 26, false).is_ok());
    }

    #[test]
    fn a_lying_header_keeps_the_tail_too() {
        let mut head = frame();
        head.bytes_mut()[HEADROOM_BYTES - VNET_HEADER_BYTES + 1] = 3;
        let mut tail = Some(tail());
        assert!(received(head, &mut tail, 5000, false).is_err());
        assert!(tail.is_some());
    }
}
