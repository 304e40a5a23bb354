//! Packet memory: frames, and the pools they come from and go back to.
//!
//! A [`Frame`] is one piece of one shared region that a driver mapped at start. It is owned, moved,
//! recycled and never freed, so the packet path allocates nothing. The one hard constraint is
//! *conservation*: frames taken = frames returned + frames in flight. Nothing here frees a frame;
//! who forgets one has leaked it, which is what the tests count.
//!
//! Two sizes exist: *chunks* of [`CHUNK_BYTES`] for headers and ordinary packets, and *tails* of
//! [`TAIL_BYTES`] for the rest of a super-frame. Pools of workers even out in blocks through a
//! bounded queue, so that one-way traffic from one worker to another starves nobody.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

/// Bytes of a chunk: the smallest AF_XDP UMEM chunk, half a page.
pub const CHUNK_BYTES: usize = 2048;

/// Room in front of a received packet, in bytes: the vnet header (12), a pushed outer header (70
/// for VXLAN over IPv6) and a longer IP header of a translated family (20) fit; it equals AF_XDP's
/// own reserve of 256, so both drivers place packets alike.
pub const HEADROOM_BYTES: usize = 256;

/// Bytes of a tail: the largest IP packet (65,535) and its Ethernet header and tags.
pub const TAIL_BYTES: usize = 66 * 1024;

/// Frames that pools exchange at once.
pub const BLOCK_FRAMES: usize = 64;

/// One piece of packet memory, exclusively owned.
#[derive(Debug)]
pub struct Frame(&'static mut [u8]);

impl Frame {
    /// Takes over a piece of the region. Called by the driver that mapped it, and by tests.
    pub fn new(memory: &'static mut [u8]) -> Frame {
        assert!(memory.len() >= CHUNK_BYTES, "a frame has at least the size of a chunk");
        Frame(memory)
    }

    /// The whole memory of the frame.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        self.0
    }

    /// The whole memory of the frame, to write.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

/// Which of the two sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// [`CHUNK_BYTES`]
    Chunk,
    /// [`TAIL_BYTES`]
    Tail,
}

type Block = ArrayVec<Frame, BLOCK_FRAMES>;

/// Where pools leave blocks of frames that they have too many of. Shared by all workers; bounded
/// and lock-free; used once per [`BLOCK_FRAMES`] frames at most.
#[derive(Debug)]
pub struct FrameBalancer {
    chunks: ArrayQueue<Block>,
    tails: ArrayQueue<Block>,
}

impl FrameBalancer {
    /// A balancer for at most this many frames of each size.
    pub fn new(chunk_count: usize, tail_count: usize) -> Arc<FrameBalancer> {
        Arc::new(FrameBalancer {
            chunks: ArrayQueue::new(chunk_count.div_ceil(BLOCK_FRAMES) + 1),
            tails: ArrayQueue::new(tail_count.div_ceil(BLOCK_FRAMES) + 1),
        })
    }

    /// Frames that lie here now, chunks and tails. For conservation checks while workers rest.
    pub fn count(&self) -> (usize, usize) {
        let count = |queue: &ArrayQueue<Block>| {
            (0..queue.len())
                .filter_map(|_| queue.pop())
                .map(|block| {
                    let len = block.len();
                    assert!(queue.push(block).is_ok(), "nobody else uses the queue meanwhile");
                    len
                })
                .sum()
        };
        (count(&self.chunks), count(&self.tails))
    }
}

/// A worker's own frames.
#[derive(Debug)]
pub struct FramePool {
    chunks: Vec<Frame>,
    tails: Vec<Frame>,
    chunks_share: usize,
    tails_share: usize,
    balancer: Arc<FrameBalancer>,
}

impl FramePool {
    /// A pool that starts with these frames, which are its fair share.
    pub fn new(
        mut chunks: Vec<Frame>,
        mut tails: Vec<Frame>,
        balancer: Arc<FrameBalancer>,
    ) -> FramePool {
        let (chunks_share, tails_share) = (chunks.len(), tails.len());
        // Room for the share, what may come beyond it before a block leaves, and slack.
        chunks.reserve_exact(chunks_share + 4 * BLOCK_FRAMES);
        tails.reserve_exact(tails_share + 4 * BLOCK_FRAMES);
        FramePool { chunks, tails, chunks_share, tails_share, balancer }
    }

    /// Takes a chunk, from the own pool or else from what another worker left over.
    #[inline(always)]
    pub fn take_chunk(&mut self) -> Option<Frame> {
        match self.chunks.pop() {
            Some(frame) => Some(frame),
            None => refill(&mut self.chunks, &self.balancer.chunks),
        }
    }

    /// Takes a tail.
    #[inline]
    pub fn take_tail(&mut self) -> Option<Frame> {
        match self.tails.pop() {
            Some(frame) => Some(frame),
            None => refill(&mut self.tails, &self.balancer.tails),
        }
    }

    /// Gives a frame back, chunk or tail.
    #[inline(always)]
    pub fn give(&mut self, frame: Frame) {
        if frame.0.len() == CHUNK_BYTES {
            self.chunks.push(frame);
            if self.chunks.len() > self.chunks_share + 2 * BLOCK_FRAMES {
                spill(&mut self.chunks, &self.balancer.chunks);
            }
        } else {
            self.tails.push(frame);
            if self.tails.len() > self.tails_share + 2 * BLOCK_FRAMES {
                spill(&mut self.tails, &self.balancer.tails);
            }
        }
    }

    /// Frames in this pool now, chunks and tails.
    pub fn count(&self) -> (usize, usize) {
        (self.chunks.len(), self.tails.len())
    }
}

#[cold]
fn refill(own: &mut Vec<Frame>, shared: &ArrayQueue<Block>) -> Option<Frame> {
    own.extend(shared.pop()?);
    own.pop()
}

#[cold]
fn spill(own: &mut Vec<Frame>, shared: &ArrayQueue<Block>) {
    let block: Block = own.drain(own.len() - BLOCK_FRAMES..).collect();
    if let Err(block) = shared.push(block) {
        // The queue holds every frame that exists, so this cannot be reached; keep them anyway.
        own.extend(block);
    }
}

/// Frames on the ordinary heap, for tests, benches and simulations.
pub fn heap_frames(count: usize, size: FrameSize) -> Vec<Frame> {
    let frame_bytes = match size {
        FrameSize::Chunk => CHUNK_BYTES,
        FrameSize::Tail => TAIL_BYTES,
    };
    let memory = vec![0u8; count * frame_bytes].leak();
    memory.chunks_exact_mut(frame_bytes).map(Frame::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_traffic_starves_nobody() {
        let balancer = FrameBalancer::new(1024, 64);
        let pool = |balancer: &Arc<FrameBalancer>| {
            let chunks = heap_frames(512, FrameSize::Chunk);
            FramePool::new(chunks, heap_frames(32, FrameSize::Tail), balancer.clone())
        };
        let (mut from, mut to) = (pool(&balancer), pool(&balancer));
        for _ in 0..10_000 {
            let frame = from.take_chunk().expect("the other pool gives blocks back");
            to.give(frame);
        }
        assert_eq!(from.count().0 + to.count().0 + balancer.count().0, 1024);
    }

    #[test]
    fn an_empty_world_gives_no_frame() {
        let mut pool = FramePool::new(Vec::new(), Vec::new(), FrameBalancer::new(0, 0));
        assert!(pool.take_chunk().is_none());
        assert!(pool.take_tail().is_none());
    }
}
