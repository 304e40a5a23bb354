//! A packet on its way through the gateway, and a batch of them.
//!
//! [head frame: headroom | Ethernet … headers … first bytes | unused] [tail frame: the rest]
//!
//! The headers of every layer lie in the head; only a super-frame (a TCP or UDP segment of up to
//! 64 KiB that was never cut) has a tail. A packet is 48 bytes, so moving one costs three loads
//! and stores, and it never copies what it carries.

use arrayvec::ArrayVec;

use crate::frame::{CHUNK_BYTES, Frame, FramePool, HEADROOM_BYTES, Tail};
use crate::id::{NetworkId, PortId};
use crate::wire::u64_at;

/// Packets handled together: enough to hide memory latency, few enough to stay in the first-level
/// cache.
pub const BATCH_LEN: usize = 64;

/// Bytes after which a port ends a batch although it is not full: super-frames that are written
/// soon after they were read are still in the second-level cache, and their receiver need not wait
/// until 4 MB have been read.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Up to [`BATCH_LEN`] packets.
pub type Batch = ArrayVec<Packet, BATCH_LEN>;

/// Bytes from a packet's first one on that always lie in its frame, whether or not the packet is
/// that long: the headers of an ordinary packet fit, so they are read at fixed places.
pub const WINDOW_BYTES: usize = 128;

/// Where in its frame a packet may start at most: behind the headroom and the outer headers of a
/// tunnel.
pub const START_MAX: usize = 2 * u8::MAX as usize;

const _: () = assert!(START_MAX + WINDOW_BYTES <= CHUNK_BYTES, "every window is in its frame");

/// What kind of super-frame (`VIRTIO_NET_HDR_GSO_*`, linux/virtio_net.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4
    TcpV4,
    /// TCP over IPv6
    TcpV6,
    /// UDP segments of equal length (UDP_L4), either family
    Udp,
}

/// Work on the packet that its sender left to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// None: the packet is as it goes on a wire.
    #[default]
    None,
    /// The checksum at `start + offset` holds only the pseudo-header's sum; the rest, from `start`
    /// to the packet's end, is to be added and the sum complemented. Offsets count from the
    /// Ethernet header's first byte.
    NeedsChecksum {
        /// Where summing begins.
        start: u16,
        /// Distance from `start` to the checksum field.
        offset: u16,
    },
    /// A super-frame: to be cut into segments with this much payload each. Its checksum is partial
    /// in the sense of `NeedsChecksum`.
    Gso {
        /// Which protocol.
        kind: GsoKind,
        /// Payload bytes of every segment but the last; never 0.
        segment_bytes: u16,
        /// Where the transport header begins.
        start: u16,
        /// The sender set CWR on the first segment only (`VIRTIO_NET_HDR_GSO_ECN`).
        ecn: bool,
    },
    /// A super-frame in a tunnel: `[outer Ethernet | IP | UDP | VXLAN | inner Ethernet…]`, to be
    /// cut into segments each of which has the outer header. The inner checksum is partial; of the
    /// outer UDP checksum the field holds the pseudo-header's sum, or 0 where there is none.
    Tunnelled {
        /// Which protocol inside.
        kind: GsoKind,
        /// Payload bytes of every segment but the last; never 0.
        segment_bytes: u16,
        /// Where the inner transport header begins.
        start: u16,
        /// As of any super-frame.
        ecn: bool,
        /// Where the outer UDP header begins.
        outer_l4: u8,
    },
}

const _: () = assert!(size_of::<Offload>() == 8, "one word of a packet");

/// What parsing found; offsets count from the first byte of the Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Port on which the packet came in.
    pub ingress: PortId,
    /// Network it belongs to; [`NetworkId::NONE`] on an uplink.
    pub network: NetworkId,
    /// Start of the IP or ARP header.
    pub l3: u16,
    /// Start of the transport header.
    pub l4: u16,
    /// Transport protocol (IANA number), after IPv6 extension headers.
    pub protocol: u8,
    /// TCP flags; 0 for any other protocol.
    pub tcp_flags: u8,
    /// What parsing noted.
    pub notes: Notes,
    /// Bytes of the IP packet, from its header to its end by its own length field; 0 if not IP.
    pub l3_bytes: u32,
}

impl Meta {
    /// Of a packet that was not looked at. A constant, so that it is copied whole.
    const NEW: Meta = Meta {
        ingress: PortId(u16::MAX),
        network: NetworkId::NONE,
        l3: 0,
        l4: 0,
        protocol: 0,
        tcp_flags: 0,
        notes: Notes(0),
        l3_bytes: 0,
    };
}

impl Default for Meta {
    fn default() -> Meta {
        Meta::NEW
    }
}

/// What parsing noted about a packet, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes(pub u16);

impl Notes {
    /// The packet is IPv6.
    pub const V6: u16 = 1;
    /// IPv4 options or IPv6 extension headers are there.
    pub const OPTIONS: u16 = 2;
    /// First fragment.
    pub const FIRST_FRAGMENT: u16 = 4;
    /// Later fragment: has no transport header.
    pub const LATER_FRAGMENT: u16 = 8;
    /// At least one VLAN tag.
    pub const TAGGED: u16 = 16;
    /// Neither IPv4 nor IPv6 nor ARP.
    pub const NOT_IP: u16 = 32;
    /// ARP.
    pub const ARP: u16 = 64;
    /// To the gateway's MAC address: the packet is routed, not bridged.
    pub const ROUTED: u16 = 128;
    /// An ICMP or ICMPv6 error: it quotes the packet that it is about.
    pub const ICMP_ERROR: u16 = 256;
    /// Neighbour discovery: ICMPv6 types 133 to 137.
    pub const NEIGHBOUR_DISCOVERY: u16 = 512;
    /// To a group MAC address.
    pub const GROUP: u16 = 1024;

    /// On its way into a tunnel, whose port stands where else the transport header's place does.
    pub const IN_TUNNEL: u16 = 1 << 14;

    /// A fragment that was checked at its datagram's home.
    pub const FRAGMENT_CHECKED: u16 = 1 << 15;

    /// True if any of `bits` is set.
    #[inline(always)]
    pub fn any(self, bits: u16) -> bool {
        self.0 & bits != 0
    }
}

/// Where a packet lies in its frames, and whether it is ordinary, in one word, so that packets of
/// one shape are recognised by one comparison: `[bytes in the tail 32 | special 8 | half of where
/// the first byte lies 8 | bytes in the head 16]`. Half, because a byte's range then says that the
/// window is in the frame; special: there is a tail or work left to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape(u64);

impl Shape {
    const START_SHIFT: u32 = 16;
    const SPECIAL: u64 = 1 << 24;
    const TAIL_SHIFT: u32 = 32;

    #[inline(always)]
    fn new(start: usize, head_len: usize) -> Shape {
        Shape(head_len as u64 | ((start / 2) as u64) << Shape::START_SHIFT)
    }

    /// How many bytes lie in the head.
    #[inline(always)]
    pub(crate) fn head_bytes(self) -> usize {
        usize::from(self.0 as u16)
    }

    #[inline(always)]
    fn tail_bytes(self) -> usize {
        (self.0 >> Shape::TAIL_SHIFT) as usize
    }

    #[inline(always)]
    fn start(self) -> usize {
        usize::from((self.0 >> Shape::START_SHIFT) as u8) * 2
    }

    /// True if nothing is left to do for the sender and all of the packet lies in the head.
    #[inline(always)]
    pub(crate) fn is_ordinary(self) -> bool {
        self.0 & Shape::SPECIAL == 0
    }

    /// That of a packet whose first byte was moved by an even number of bytes.
    #[inline(always)]
    pub(crate) fn moved(self, bytes: isize) -> Shape {
        let start = self.start().checked_add_signed(bytes).expect("the headroom is not used up");
        assert!(start <= START_MAX && start.is_multiple_of(2), "a packet starts near the front");
        let head_len = self.head_bytes().checked_add_signed(-bytes).expect("the headers are there");
        let kept = self.0 & !(0xff << Shape::START_SHIFT | 0xffff);
        Shape(kept | Shape::new(start, head_len).0)
    }

    fn set_lengths(&mut self, head_len: usize, tail_len: usize) {
        let kept = self.0 & (0xff << Shape::START_SHIFT | Shape::SPECIAL);
        self.0 = kept | head_len as u64 | (tail_len as u64) << Shape::TAIL_SHIFT;
    }

    fn set_special(&mut self, special: bool) {
        self.0 = self.0 & !Shape::SPECIAL | if special { Shape::SPECIAL } else { 0 };
    }
}

/// One packet.
#[derive(Debug)]
pub struct Packet {
    head: Frame,
    tail: Option<Tail>,
    shape: Shape,
    offload: Offload,
    /// What parsing found.
    pub meta: Meta,
}

const _: () = assert!(size_of::<Packet>() == 48, "moving a packet is three vector moves");

impl Packet {
    /// A packet whose first byte lies at `start` of `head`, which is even and at most
    /// [`START_MAX`].
    ///
    /// # Panics
    /// When it is not, or the range lies outside the frame: a driver's bug.
    #[inline]
    pub fn new(head: Frame, start: usize, len: usize) -> Packet {
        assert!(start <= START_MAX && start.is_multiple_of(2), "a packet starts near the front");
        assert!(start + len <= CHUNK_BYTES, "a packet lies inside its frame");
        Packet {
            head,
            tail: None,
            shape: Shape::new(start, len),
            offload: Offload::None,
            meta: Meta::NEW,
        }
    }

    /// A packet with a copy of `bytes`, placed after the usual headroom. `None` when the pool is
    /// empty or the bytes are more than a chunk and a tail hold.
    pub fn copy_of(bytes: &[u8], frames: &mut FramePool) -> Option<Packet> {
        let mut head = frames.take_chunk()?;
        let head_len = bytes.len().min(head.bytes().len() - HEADROOM_BYTES);
        let (first, rest) = bytes.split_at(head_len);
        head.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + head_len].copy_from_slice(first);
        let mut packet = Packet::new(head, HEADROOM_BYTES, head_len);
        if !rest.is_empty() {
            match frames.take_tail() {
                Some(mut tail) if rest.len() <= tail.bytes().len() => {
                    tail.bytes_mut()[..rest.len()].copy_from_slice(rest);
                    packet.set_tail(tail, rest.len());
                }
                tail => {
                    tail.into_iter().for_each(|tail| frames.give_tail(tail));
                    packet.recycle(frames);
                    return None;
                }
            }
        }
        Some(packet)
    }

    /// A copy in frames of its own, for a flood. `None` when the pool is empty.
    pub fn copy(&self, frames: &mut FramePool) -> Option<Packet> {
        let mut head = frames.take_chunk()?;
        let (start, len) = (self.shape.start(), self.head_bytes());
        let Some(room) = head.bytes_mut().get_mut(start..start + len) else {
            frames.give(head);
            return None;
        };
        room.copy_from_slice(self.head());
        let mut copy = Packet::new(head, start, len);
        copy.set_offload(self.offload);
        copy.meta = self.meta;
        if self.shape.tail_bytes() > 0 {
            let Some(mut tail) = frames.take_tail() else {
                copy.recycle(frames);
                return None;
            };
            tail.bytes_mut()[..self.shape.tail_bytes()].copy_from_slice(self.tail());
            copy.set_tail(tail, self.shape.tail_bytes());
        }
        Some(copy)
    }

    /// Adds the rest of a super-frame.
    ///
    /// # Panics
    /// When the length is more than the tail holds, or there is a tail already.
    pub fn set_tail(&mut self, tail: Tail, len: usize) {
        assert!(len <= tail.bytes().len() && self.tail.is_none(), "one tail, inside its frame");
        self.tail = Some(tail);
        self.shape.set_lengths(self.head_bytes(), len);
        self.shape.set_special(true);
    }

    /// Puts another tail in the place of the one that is there, which is returned.
    pub(crate) fn swap_tail(&mut self, tail: Tail, len: usize) -> Option<Tail> {
        let old = self.tail.take();
        self.set_tail(tail, len);
        old
    }

    /// Work on the packet that its sender left to us.
    #[inline(always)]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Sets what is left to us.
    #[inline(always)]
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
        self.shape.set_special(self.shape.tail_bytes() > 0 || offload != Offload::None);
    }

    /// Where it lies, and whether it is ordinary.
    #[inline(always)]
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of the whole packet, from the Ethernet header on.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.head_bytes() + self.shape.tail_bytes()
    }

    /// True for a packet without a byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if nothing is left to do for the sender and all of the packet lies in the head.
    #[inline(always)]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.shape.is_ordinary()
    }

    /// How many bytes of the packet lie in the head.
    #[inline(always)]
    pub(crate) fn head_bytes(&self) -> usize {
        self.shape.head_bytes()
    }

    /// The bytes in the head: all headers, and of an ordinary packet everything.
    #[inline(always)]
    pub fn head(&self) -> &[u8] {
        let start = self.shape.start();
        &self.head.bytes()[start..start + self.head_bytes()]
    }

    /// The bytes in the head, to write.
    #[inline(always)]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.shape.start(), self.head_bytes());
        &mut self.head.bytes_mut()[start..start + len]
    }

    /// The first bytes, of which only [`len`](Packet::len) are the packet's.
    #[inline(always)]
    pub(crate) fn window(&self) -> &[u8; WINDOW_BYTES] {
        self.window_of(self.shape)
    }

    /// As [`window`](Packet::window), to write.
    #[inline(always)]
    pub(crate) fn window_mut(&mut self) -> &mut [u8; WINDOW_BYTES] {
        self.window_of_mut(self.shape)
    }

    /// The window of a packet whose shape is known to be this one.
    #[inline(always)]
    pub(crate) fn window_of(&self, shape: Shape) -> &[u8; WINDOW_BYTES] {
        let start = shape.start();
        let bytes = &self.head.bytes()[start..start + WINDOW_BYTES];
        bytes.try_into().expect("a range of this length")
    }

    /// As [`window_of`](Packet::window_of), to write.
    #[inline(always)]
    pub(crate) fn window_of_mut(&mut self, shape: Shape) -> &mut [u8; WINDOW_BYTES] {
        let start = shape.start();
        let bytes = &mut self.head.bytes_mut()[start..start + WINDOW_BYTES];
        bytes.try_into().expect("a range of this length")
    }

    /// Destination MAC address; what it is of a packet shorter than that, ingress has refused.
    #[inline(always)]
    pub(crate) fn destination(&self) -> u64 {
        u64_at(self.window(), 0) >> 16
    }

    /// Source MAC address.
    #[inline(always)]
    pub(crate) fn source(&self) -> u64 {
        u64_at(self.window(), 6) >> 16
    }

    /// The rest of a super-frame; empty for an ordinary packet.
    #[inline]
    pub fn tail(&self) -> &[u8] {
        match &self.tail {
            Some(tail) => &tail.bytes()[..self.shape.tail_bytes()],
            None => &[],
        }
    }

    /// The head with `headroom` more bytes in front of the packet, for a driver's own header.
    ///
    /// # Panics
    /// When the headroom is used up: the engine leaves at least 24 bytes of it.
    #[inline]
    pub fn head_with_headroom_mut(&mut self, headroom_bytes: usize) -> &mut [u8] {
        let start = self.shape.start();
        let end = start + self.head_bytes();
        &mut self.head.bytes_mut()[start - headroom_bytes..end]
    }

    /// Moves the packet's first byte by an even number of bytes: forward over headers that are to
    /// go, back into the headroom where longer ones are to come.
    ///
    /// # Panics
    /// When there is no room: drivers leave [`HEADROOM_BYTES`].
    #[inline(always)]
    pub(crate) fn move_start(&mut self, bytes: isize) {
        self.shape = self.shape.moved(bytes);
    }

    /// [`move_start`](Packet::move_start) of a packet whose shape is known to be one that becomes
    /// this one.
    #[inline(always)]
    pub(crate) fn set_moved(&mut self, shape: Shape) {
        debug_assert_eq!(
            (shape.start() + shape.head_bytes(), shape.is_ordinary()),
            (self.shape.start() + self.head_bytes(), self.is_ordinary())
        );
        self.shape = shape;
    }

    /// Cuts the packet to `len` bytes; an Ethernet trailer goes this way.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        let (head_len, tail_len) = (self.head_bytes(), self.shape.tail_bytes());
        if len <= head_len {
            self.shape.set_lengths(len, 0);
            self.shape.set_special(self.offload != Offload::None);
        } else {
            self.shape.set_lengths(head_len, tail_len.min(len - head_len));
        }
    }

    /// Gives the packet's frames back.
    #[inline(always)]
    pub fn recycle(self, frames: &mut FramePool) {
        frames.give(self.head);
        if let Some(tail) = self.tail {
            frames.give_tail(tail);
        }
    }

    /// The packet's frames, chunk first, for a driver that queues them.
    pub fn into_frames(self) -> (Frame, Option<Tail>) {
        (self.head, self.tail)
    }

    /// Copies the whole packet's bytes, for captures and tests.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.head(), self.tail()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, heap_frames, heap_tails};

    fn pool() -> FramePool {
        let chunks = heap_frames(8);
        FramePool::new(chunks, heap_tails(2), FrameBalancer::new(8, 2))
    }

    #[test]
    fn a_super_frame_is_kept_in_head_and_tail() {
        let mut frames = pool();
        let bytes: Vec<u8> = (0..60_000u32).map(|i| i as u8).collect();
        let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
        assert_eq!(packet.len(), 60_000);
        assert_eq!(packet.to_vec(), bytes);
        packet.truncate(100);
        assert_eq!(packet.to_vec(), bytes[..100]);
        packet.recycle(&mut frames);
        assert_eq!(frames.count(), (8, 2));
    }

    #[test]
    fn bytes_that_fit_nowhere_leave_the_pool_as_it_was() {
        let mut frames = pool();
        assert!(Packet::copy_of(&vec![0; 100_000], &mut frames).is_none());
        assert_eq!(frames.count(), (8, 2));
    }
}
