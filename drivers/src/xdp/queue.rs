//! One worker's end of a device: a [`Port`] over four rings, or over a tx ring alone.
//!
//! Receiving reads the rx ring and puts a fresh chunk into the fill ring for each that was taken;
//! sending writes descriptors and rings the bell once per turn, in `flush`. In copy mode the kernel
//! sends when it is called, a bounded number of frames per call, and answers EAGAIN when more wait:
//! that is no error, and it is called again until the ring is empty. A queue's completions may be
//! of several sockets, so whoever comes first takes them, and nobody waits for it.
//!
//! The hard constraint: every chunk is in a pool, in a packet, or in the book of `sys::lend`,
//! whatever the kernel answers. What is still in rings when a queue is closed comes back when its
//! last socket is gone.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, TryLockError};

use engine::frame::{CHUNK_BYTES, Frame, FrameBalancer, FramePool, TAIL_BYTES, Tail};
use engine::packet::{BATCH_BYTES_MAX, BATCH_LEN, START_MAX};
use engine::{Batch, Caps, Offload, Packet, Port};
use rustix::io::Errno;
use rustix::net::sockopt::xdp_statistics;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::relay::Relay;
use super::{
    Attached, XDP_FILL_FRAMES, XDP_FILL_FRAMES_MAX, XDP_POOL_FRAMES_LEAST, XdpMode, checksum,
};
use crate::sys::bpf;
use crate::sys::lend::Ledger;
use crate::sys::ring::{Consumer, MappedRing, Producer};

/// Shortest frame that is believed: an Ethernet header.
const ETHERNET_HEADER_BYTES: usize = 14;

/// Calls that one flush makes without any frame leaving. The kernel answers EAGAIN also when the
/// receiver of a veth is full; then it is not worth to wait, and the next turn tries again.
const IDLE_KICKS_MAX: u32 = 4;

/// Chunks of one packet at most (`MAX_SKB_FRAGS` and the head).
const CHUNKS_MAX: usize = 17;

/// What all sockets of one queue share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: usize,
    pub(super) ledger: Arc<Ledger>,
    pub(super) completion: Mutex<Consumer<MappedRing<u64>>>,
    pub(super) balancer: Arc<FrameBalancer>,
    pub(super) mode: XdpMode,
    pub(super) _attached: Arc<Attached>,
}

impl Drop for Shared {
    /// The queue's last socket is closed. In copy mode the kernel has let go of all chunks then.
    fn drop(&mut self) {
        // LIMIT: a device that writes into our memory itself is taken down some time after its
        // socket is closed, so its chunks are not used again; to be lifted when such a device was
        // tested. They are missing until the next start.
        if !self.mode.zero_copy {
            self.balancer.give_back(self.ledger.take_rest(self.queue));
        }
    }
}

/// The receiving half of a queue.
#[derive(Debug)]
pub(super) struct RxSide {
    pub(super) fill: Producer<MappedRing<u64>>,
    pub(super) rx: Consumer<MappedRing<XdpDesc>>,
    pub(super) finish_checksums: bool,
    pub(super) depth: Depth,
}

/// How many chunks shall lie in a fill ring: twice as many each time that a burst has nearly
/// emptied it, and half as many again after a long time in which half of them would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    wanted: usize,
    /// Refills since more than half of them were needed.
    calm_count: u32,
    /// There were any.
    is_filled: bool,
}

impl Depth {
    /// Refills, each of half a batch at least, until a ring is made smaller.
    const CALM_COUNT_MAX: u32 = 4_096;

    pub(super) fn new() -> Depth {
        Depth { wanted: XDP_FILL_FRAMES, calm_count: 0, is_filled: false }
    }

    /// Takes in how many are left of those that lay there. True: a burst has nearly emptied it.
    fn note(&mut self, left: usize) -> bool {
        if !self.is_filled {
            self.is_filled = true;
        } else if left < self.wanted / 8 {
            self.wanted = (self.wanted * 2).min(XDP_FILL_FRAMES_MAX);
            self.calm_count = 0;
            return true;
        } else if left < self.wanted / 2 {
            self.calm_count = 0;
        } else {
            self.calm_count += 1;
            if self.calm_count == Depth::CALM_COUNT_MAX {
                self.wanted = (self.wanted / 2).max(XDP_FILL_FRAMES);
                self.calm_count = 0;
            }
        }
        false
    }
}

/// One worker's end of a device. As a descriptor it is polled for input.
#[derive(Debug)]
pub struct XdpQueue {
    // Closed first: `shared` relies on it.
    socket: OwnedFd,
    rx: Option<RxSide>,
    tx: Producer<MappedRing<XdpDesc>>,
    /// The way out for what a ring does not take.
    relay: Option<Relay>,
    caps: Caps,
    alive: bool,
    /// The last `rx` ended for the bytes' sake.
    has_more: bool,
    rejected: u64,
    /// What the kernel dropped for want of room: by its count, and not yet told.
    missed_total: u64,
    missed: u64,
    shared: Arc<Shared>,
}

impl AsFd for XdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port for XdpQueue {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        self.has_more = false;
        let Some(side) = &mut self.rx else { return };
        let (mut taken, mut returned, mut batch_bytes) = (false, 0, 0);
        side.rx.acquire((BATCH_LEN * CHUNKS_MAX) as u32);
        while !batch.is_full() {
            if batch_bytes >= BATCH_BYTES_MAX {
                self.has_more = true;
                break;
            }
            let Some(first) = side.rx.take() else { break };
            taken = true;
            let received = receive(&mut side.rx, first, &self.shared, frames);
            returned += received.chunks;
            match received.packet {
                Some(mut packet) => {
                    batch_bytes += packet.len();
                    if side.finish_checksums && packet.tail().is_empty() {
                        packet.set_offload(checksum::left_to_do(packet.head()));
                    }
                    batch.push(packet);
                }
                None => self.rejected += 1,
            }
        }
        if taken {
            side.rx.release();
            self.shared.ledger.note_returned(self.shared.queue, returned);
        }
        self.refill(frames);
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        while self.alive && !out.is_empty() {
            let for_ring = match self.relay {
                None => out.len(),
                Some(_) => out.iter().take_while(|p| p.offload() == Offload::None).count(),
            };
            let sent = self.put(for_ring, frames, out);
            if out.is_empty() {
                return;
            }
            // There was no room, or what is in the ring is to leave before what follows.
            self.kick();
            self.reap(frames);
            if sent < for_ring || self.tx.pending() > 0 {
                return;
            }
            let Some(relay) = &mut self.relay else { return };
            if !relay.send(frames, out) {
                return;
            }
        }
    }

    fn flush(&mut self, frames: &mut FramePool) {
        self.kick();
        self.reap(frames);
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn alive(&self) -> bool {
        // Without its relay a port that takes super-frames is none.
        self.alive && self.relay.as_ref().is_none_or(Relay::alive)
    }

    fn take_rejected(&mut self) -> u64 {
        let by_relay = self.relay.as_mut().map_or(0, Relay::take_rejected);
        mem::take(&mut self.rejected) + by_relay
    }

    fn take_missed(&mut self) -> u64 {
        mem::take(&mut self.missed)
    }

    fn release(&mut self, frames: &mut FramePool) {
        self.kick();
        self.reap(frames);
        let Some(side) = &mut self.rx else { return };
        // A queue that leads nowhere goes to the kernel's stack. If it stays, that is the link's
        // to end, which follows.
        let _ = bpf::clear_socket(self.shared._attached.map.as_fd(), self.shared.queue);
        let mut returned = 0;
        side.rx.acquire(u32::MAX);
        while let Some(descriptor) = side.rx.take() {
            if let Some(frame) = self.shared.ledger.take_back(descriptor.addr, self.shared.queue) {
                returned += 1;
                frames.give(frame);
            }
        }
        side.rx.release();
        self.shared.ledger.note_returned(self.shared.queue, returned);
    }

    fn held_frames(&self) -> (usize, usize) {
        // Those of the whole queue, told once: by the socket that receives.
        let count = self.rx.as_ref().map_or(0, |_| self.shared.ledger.count(self.shared.queue));
        (count, 0)
    }
}

impl XdpQueue {
    pub(super) fn new(
        socket: OwnedFd,
        rx: Option<RxSide>,
        tx: Producer<MappedRing<XdpDesc>>,
        shared: Arc<Shared>,
        caps: Caps,
    ) -> XdpQueue {
        XdpQueue {
            socket,
            rx,
            tx,
            relay: None,
            caps,
            alive: true,
            has_more: false,
            rejected: 0,
            missed_total: 0,
            missed: 0,
            shared,
        }
    }

    /// Has super-frames leave by a relay.
    pub(super) fn set_relay(&mut self, relay: Relay) {
        self.caps = relay.caps(self.caps.mtu);
        self.relay = Some(relay);
    }

    pub(super) fn queue(&self) -> usize {
        self.shared.queue
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How the device is used.
    pub fn mode(&self) -> XdpMode {
        XdpMode { relay: self.relay.is_some(), ..self.shared.mode }
    }

    /// Puts chunks into the fill ring until as many lie there as shall.
    fn refill(&mut self, frames: &mut FramePool) {
        let Some(side) = &mut self.rx else { return };
        let left = side.fill.pending() as usize;
        let missing = side.depth.wanted.saturating_sub(left);
        // One call for many packets: seldom enough to cost nothing, often enough never to run dry.
        if missing < BATCH_LEN / 2 {
            return;
        }
        if side.depth.note(left)
            && let Ok(counts) = xdp_statistics(&self.socket)
        {
            let total = counts.rx_dropped + counts.rx_ring_full.unwrap_or(0);
            self.missed += total.saturating_sub(self.missed_total);
            self.missed_total = total;
        }
        let room = side.fill.acquire(missing as u32) as usize;
        let mut lent = 0;
        while lent < missing.min(room) {
            if left + lent >= XDP_FILL_FRAMES && frames.count().0 < XDP_POOL_FRAMES_LEAST {
                break;
            }
            let Some(frame) = frames.take_chunk() else { break };
            let put = side.fill.put(self.shared.ledger.lend(frame, self.shared.queue));
            assert!(put, "room for it was acquired");
            lent += 1;
        }
        self.shared.ledger.note_lent(self.shared.queue, lent);
        side.fill.release();
        if self.shared.mode.zero_copy && side.fill.needs_wakeup() {
            // The answer is about packets, of which `rx` knows by itself.
            let _ = recv(&self.socket, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Puts packets from the front of `out` into the tx ring, at most `count`. Returns how many.
    fn put(&mut self, count: usize, frames: &mut FramePool, out: &mut Batch) -> usize {
        let wanted = (BATCH_LEN * CHUNKS_MAX) as u32;
        if self.tx.acquire(wanted) < wanted {
            self.reap(frames);
        }
        let (room, pool) = (self.tx.acquire(wanted) as usize, frames.count().0);
        let (mut sent, mut lent, mut copies) = (0, 0, 0);
        for packet in out.iter().take(count) {
            let chunks = self.chunks_of(packet);
            if lent + chunks > room || copies + chunks > pool && chunks > 1 {
                break;
            }
            sent += 1;
            lent += chunks;
            copies += chunks.saturating_sub(1);
        }
        for packet in out.drain(..sent) {
            self.queue_packet(packet, frames);
        }
        self.shared.ledger.note_lent(self.shared.queue, lent);
        self.tx.release();
        sent
    }

    /// Writes a packet's descriptors, for which there is room, and chunks in the pool.
    #[inline]
    fn queue_packet(&mut self, packet: Packet, frames: &mut FramePool) {
        let (head_len, tail_len) = (packet.head().len(), packet.tail().len());
        if self.chunks_of(&packet) == 0 {
            self.rejected += 1;
            return packet.recycle(frames);
        }
        let start = packet.head().as_ptr().addr() % CHUNK_BYTES;
        let (head, tail) = packet.into_frames();
        let address = self.shared.ledger.lend(head, self.shared.queue) + start as u64;
        self.describe(address, head_len, tail_len > 0);
        let Some(tail) = tail else { return };
        let rest = &tail.bytes()[..tail_len];
        for (index, piece) in rest.chunks(CHUNK_BYTES).enumerate() {
            let mut frame = frames.take_chunk().expect("the pool was seen to have it");
            frame.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let address = self.shared.ledger.lend(frame, self.shared.queue);
            self.describe(address, piece.len(), (index + 1) * CHUNK_BYTES < tail_len);
        }
        frames.give_tail(tail);
    }

    /// How many chunks a packet is sent in; 0 if it cannot be sent: the engine cuts to the port's
    /// MTU, but the device may have been given a larger one than its mode takes.
    #[inline]
    fn chunks_of(&self, packet: &Packet) -> usize {
        let chunks = 1 + packet.tail().len().div_ceil(CHUNK_BYTES);
        let works = chunks == 1 || self.shared.mode.multi_buffer && chunks <= CHUNKS_MAX;
        if works { chunks } else { 0 }
    }

    #[inline]
    fn describe(&mut self, addr: u64, len: usize, is_continued: bool) {
        let options = match is_continued {
            true => XdpDescOptions::XDP_PKT_CONTD,
            false => XdpDescOptions::empty(),
        };
        let put = self.tx.put(XdpDesc { addr, len: len as u32, options });
        assert!(put, "room for it was acquired");
    }

    /// Has the kernel send what is in the tx ring.
    fn kick(&mut self) {
        let mut pending = self.tx.pending();
        let mut idle_kicks = 0;
        while pending > 0 && self.alive && self.tx.needs_wakeup() {
            let answer = send(&self.socket, &[], SendFlags::DONTWAIT);
            match answer {
                // EAGAIN: more waits than one call sends, or no room at the receiver. EBUSY: a
                // frame was lost there. ENOBUFS: no memory for one. The others may fare better.
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::NXIO | Errno::NODEV | Errno::BADF) => self.alive = false,
                // ENETDOWN: the link is down. They wait until it is up.
                Err(_) => return,
            }
            if self.shared.mode.zero_copy {
                // The device sends by itself now.
                return;
            }
            let left = self.tx.pending();
            idle_kicks = if left < pending { 0 } else { idle_kicks + 1 };
            if idle_kicks == IDLE_KICKS_MAX {
                return;
            }
            pending = left;
        }
    }

    /// Takes back what was sent, if no other worker is just doing it.
    fn reap(&mut self, frames: &mut FramePool) {
        let mut completion = match self.shared.completion.try_lock() {
            Ok(completion) => completion,
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let mut returned = 0;
        completion.acquire(u32::MAX);
        while let Some(address) = completion.take() {
            if let Some(frame) = self.shared.ledger.take_back(address, self.shared.queue) {
                returned += 1;
                frames.give(frame);
            }
        }
        if returned > 0 {
            completion.release();
            self.shared.ledger.note_returned(self.shared.queue, returned);
        }
    }
}

/// What came of one or more descriptors.
struct Received {
    /// `None`: it was refused, and its chunks are in the pool.
    packet: Option<Packet>,
    /// Chunks that came back from the kernel.
    chunks: usize,
}

/// Makes a packet of a descriptor, and of those that continue it: the head is the first chunk
/// itself, the rest is copied into a tail.
fn receive(
    rx: &mut Consumer<MappedRing<XdpDesc>>,
    first: XdpDesc,
    shared: &Shared,
    frames: &mut FramePool,
) -> Received {
    let take = |descriptor: &XdpDesc| shared.ledger.take_back(descriptor.addr, shared.queue);
    let mut chunks = 0;
    let mut packet = take(&first).and_then(|head| {
        chunks += 1;
        head_packet(head, &first, frames)
    });
    let mut is_continued = first.options.contains(XdpDescOptions::XDP_PKT_CONTD);
    if !is_continued {
        return Received { packet, chunks };
    }
    let mut tail = frames.take_tail();
    let mut tail_len = 0;
    while is_continued {
        // The kernel publishes a packet's descriptors together.
        let Some(next) = rx.take() else { break };
        is_continued = next.options.contains(XdpDescOptions::XDP_PKT_CONTD);
        let Some(frame) = take(&next) else { continue };
        chunks += 1;
        tail_len = append(tail.as_mut(), tail_len, &frame, &next).unwrap_or(TAIL_BYTES + 1);
        frames.give(frame);
    }
    match (&mut packet, tail) {
        (Some(packet), Some(tail)) if tail_len <= TAIL_BYTES => packet.set_tail(tail, tail_len),
        (_, tail) => {
            packet.take().into_iter().for_each(|packet| packet.recycle(frames));
            tail.into_iter().for_each(|tail| frames.give_tail(tail));
        }
    }
    Received { packet, chunks }
}

/// A packet of its first chunk; `None` if what the descriptor says is none.
#[inline]
fn head_packet(head: Frame, descriptor: &XdpDesc, frames: &mut FramePool) -> Option<Packet> {
    let start = descriptor.addr as usize % CHUNK_BYTES;
    let len = descriptor.len as usize;
    let fits = start <= START_MAX && start.is_multiple_of(2) && start + len <= CHUNK_BYTES;
    if !fits || len < ETHERNET_HEADER_BYTES {
        frames.give(head);
        return None;
    }
    let packet = Packet::new(head, start, len);
    debug_assert_eq!(packet.offload(), Offload::None);
    Some(packet)
}

/// Adds a chunk's bytes to the tail; `None` if they are too many.
fn append(
    tail: Option<&mut Tail>,
    tail_len: usize,
    frame: &Frame,
    descriptor: &XdpDesc,
) -> Option<usize> {
    let start = descriptor.addr as usize % CHUNK_BYTES;
    let piece = frame.bytes().get(start..start + descriptor.len as usize)?;
    let end = tail_len.checked_add(piece.len())?;
    tail?.bytes_mut().get_mut(tail_len..end)?.copy_from_slice(piece);
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_grows_when_a_burst_empties_it_and_shrinks_after_a_long_calm() {
        let mut depth = Depth::new();
        for left in [0, XDP_FILL_FRAMES - 32] {
            depth.note(left);
            assert_eq!(depth.wanted, XDP_FILL_FRAMES, "the first time it is empty anyway");
        }
        for _ in 0..5 {
            depth.note(0);
        }
        assert_eq!(depth.wanted, XDP_FILL_FRAMES_MAX);
        // A use of more than half keeps it.
        for round in 0..3 * Depth::CALM_COUNT_MAX {
            depth.note(if round % 100 == 0 { XDP_FILL_FRAMES_MAX / 2 - 1 } else { 4_000 });
        }
        assert_eq!(depth.wanted, XDP_FILL_FRAMES_MAX);
        for _ in 0..5 * Depth::CALM_COUNT_MAX {
            depth.note(depth.wanted - 32);
        }
        assert_eq!(depth.wanted, XDP_FILL_FRAMES);
    }
}
