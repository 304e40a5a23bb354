//! A port in memory: what a TAP is to the engine, with a test on the other side instead of a
//! kernel.
//!
//! A [`MemoryWire`] has as many queues as the device would have; each worker gets the
//! [`MemoryPort`] of one. Bytes are copied in and out, so the far side never sees a frame, and
//! frames of sent packets are kept until `flush`, as a ring would keep them. It allocates per
//! packet, so it is not for benches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::frame::{CHUNK_BYTES, Frame, FramePool, HEADROOM_BYTES, TAIL_BYTES, Tail};
use crate::packet::{BATCH_BYTES_MAX, Batch, Offload, Packet};
use crate::port::{Caps, Port};

/// A packet outside the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFrame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Work that its sender left to the receiver.
    pub offload: Offload,
}

impl WireFrame {
    /// A packet as it goes on a wire, nothing left to do.
    pub fn whole(bytes: Vec<u8>) -> WireFrame {
        WireFrame { bytes, offload: Offload::None }
    }
}

#[derive(Debug)]
struct Queue {
    received: VecDeque<WireFrame>,
    sent: VecDeque<WireFrame>,
    /// Packets that may lie in `sent`; what comes beyond stays with the worker.
    sent_max: usize,
    alive: bool,
    /// Packets that no frame could hold.
    oversize: u64,
}

/// The far side of a device with one or more queues.
#[derive(Debug)]
pub struct MemoryWire {
    queues: Vec<Arc<Mutex<Queue>>>,
}

impl MemoryWire {
    /// A device, and the port of each of its queues.
    pub fn new(queue_count: usize, caps: Caps) -> (MemoryWire, Vec<MemoryPort>) {
        let queue = || Queue {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            sent_max: usize::MAX,
            alive: true,
            oversize: 0,
        };
        let queues: Vec<_> = (0..queue_count).map(|_| Arc::new(Mutex::new(queue()))).collect();
        let port = |queue: &Arc<Mutex<Queue>>| MemoryPort {
            queue: queue.clone(),
            caps,
            has_more: false,
            unflushed: Vec::new(),
            unflushed_tails: Vec::new(),
        };
        let ports = queues.iter().map(port).collect();
        (MemoryWire { queues }, ports)
    }

    fn queue(&self, index: usize) -> MutexGuard<'_, Queue> {
        self.queues[index].lock().expect("nobody panics while holding a queue")
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Puts a packet where the worker with this queue receives it.
    pub fn push(&self, queue_index: usize, frame: WireFrame) {
        self.queue(queue_index).received.push_back(frame);
    }

    /// Takes the next packet that the worker with this queue has sent.
    pub fn take(&self, queue_index: usize) -> Option<WireFrame> {
        self.queue(queue_index).sent.pop_front()
    }

    /// How many packets wait to be received from this queue.
    pub fn waiting(&self, queue_index: usize) -> usize {
        self.queue(queue_index).received.len()
    }

    /// How many sent packets a queue keeps until they are taken; the worker keeps what is beyond.
    pub fn set_room(&self, queue_index: usize, packet_count: usize) {
        self.queue(queue_index).sent_max = packet_count;
    }

    /// The device disappears, as when its namespace is destroyed.
    pub fn destroy(&self) {
        for index in 0..self.queues.len() {
            self.queue(index).alive = false;
        }
    }

    /// Packets that were too large for any frame and were lost on receiving.
    pub fn oversize(&self) -> u64 {
        (0..self.queues.len()).map(|index| self.queue(index).oversize).sum()
    }
}

/// One queue of a [`MemoryWire`], the gateway's side.
#[derive(Debug)]
pub struct MemoryPort {
    queue: Arc<Mutex<Queue>>,
    caps: Caps,
    has_more: bool,
    unflushed: Vec<Frame>,
    unflushed_tails: Vec<Tail>,
}

impl MemoryPort {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nobody panics while holding a queue")
    }
}

impl Port for MemoryPort {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        let mut queue = self.queue.lock().expect("nobody panics while holding a queue");
        let mut batch_bytes = 0;
        self.has_more = false;
        while !batch.is_full() {
            if batch_bytes >= BATCH_BYTES_MAX {
                self.has_more = true;
                break;
            }
            let Some(frame) = queue.received.pop_front() else { break };
            if frame.bytes.len() > CHUNK_BYTES - HEADROOM_BYTES + TAIL_BYTES {
                queue.oversize += 1;
                continue;
            }
            match Packet::copy_of(&frame.bytes, frames) {
                Some(mut packet) => {
                    batch_bytes += packet.len();
                    packet.set_offload(frame.offload);
                    batch.push(packet);
                }
                None => {
                    // No frame is free: the packet waits, as in a ring that is not refilled.
                    queue.received.push_front(frame);
                    break;
                }
            }
        }
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn tx(&mut self, _frames: &mut FramePool, out: &mut Batch) {
        let mut queue = self.queue.lock().expect("nobody panics while holding a queue");
        let room = if queue.alive { queue.sent_max.saturating_sub(queue.sent.len()) } else { 0 };
        for packet in out.drain(..room.min(out.len())) {
            queue.sent.push_back(WireFrame { bytes: packet.to_vec(), offload: packet.offload() });
            let (head, tail) = packet.into_frames();
            self.unflushed.push(head);
            self.unflushed_tails.extend(tail);
        }
    }

    fn flush(&mut self, frames: &mut FramePool) {
        self.unflushed.drain(..).for_each(|frame| frames.give(frame));
        self.unflushed_tails.drain(..).for_each(|tail| frames.give_tail(tail));
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn alive(&self) -> bool {
        self.lock().alive
    }

    fn held_frames(&self) -> (usize, usize) {
        (self.unflushed.len(), self.unflushed_tails.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, heap_frames, heap_tails};

    fn pool(chunks: usize) -> FramePool {
        let tails = heap_tails(2);
        FramePool::new(heap_frames(chunks), tails, FrameBalancer::new(chunks, 2))
    }

    #[test]
    fn what_is_pushed_comes_back_and_frames_are_held_until_flush() {
        let (wire, mut ports) = MemoryWire::new(2, Caps::default());
        let mut frames = pool(4);
        let mut batch = Batch::new();
        let sent = WireFrame {
            bytes: vec![7; 4_000],
            offload: Offload::NeedsChecksum { start: 34, offset: 6 },
        };
        wire.push(1, sent.clone());
        ports[0].rx(&mut frames, &mut batch);
        assert!(batch.is_empty());
        ports[1].rx(&mut frames, &mut batch);
        ports[1].tx(&mut frames, &mut batch);
        assert_eq!(ports[1].held_frames(), (1, 1));
        assert_eq!(frames.count(), (3, 1));
        ports[1].flush(&mut frames);
        assert_eq!((ports[1].held_frames(), frames.count()), ((0, 0), (4, 2)));
        assert_eq!(wire.take(1), Some(sent));
    }

    #[test]
    fn without_a_free_frame_packets_wait_in_their_order() {
        let (wire, mut ports) = MemoryWire::new(1, Caps::default());
        let mut frames = pool(1);
        let mut batch = Batch::new();
        for byte in 0..3 {
            wire.push(0, WireFrame::whole(vec![byte; 60]));
        }
        for byte in 0..3 {
            ports[0].rx(&mut frames, &mut batch);
            assert_eq!(batch.len(), 1);
            assert_eq!(batch[0].head()[0], byte);
            ports[0].tx(&mut frames, &mut batch);
            ports[0].flush(&mut frames);
        }
    }

    #[test]
    fn a_full_or_dead_queue_leaves_packets_to_the_worker() {
        let (wire, mut ports) = MemoryWire::new(1, Caps::default());
        let mut frames = pool(4);
        let mut batch = Batch::new();
        wire.set_room(0, 1);
        for _ in 0..2 {
            batch.push(Packet::copy_of(&[0; 60], &mut frames).unwrap());
        }
        ports[0].tx(&mut frames, &mut batch);
        assert_eq!(batch.len(), 1);
        wire.destroy();
        wire.take(0).unwrap();
        ports[0].tx(&mut frames, &mut batch);
        assert_eq!(batch.len(), 1);
        assert!(!ports[0].alive());
    }
}
