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

use crate::copier::{self, Copier};

/// Bytes of a chunk: the smallest AF_XDP UMEM chunk, half a page.
pub const CHUNK_BYTES: usize = 2048;

/// Room in front of a received packet, in bytes: the vnet header (12), a pushed outer header (70
/// for VXLAN over IPv6) and a longer IP header of a translated family (20) fit; it equals AF_XDP's
/// own reserve of 256, so both drivers place packets alike.
pub const HEADROOM_BYTES: usize = 256;

/// Bytes of a tail: the largest IP packet (65,535) and its Ethernet header and tags.
pub const TAIL_BYTES: usize = 66 * 1024;

/// Room of the balancer for blocks that are not full.
const PARTIAL_BLOCKS: usize = 256;

/// Frames that pools exchange at once.
pub const BLOCK_FRAMES: usize = 64;

/// A chunk of packet memory, exclusively owned. One word: its length is part of the type.
#[derive(Debug)]
pub struct Frame(&'static mut [u8; CHUNK_BYTES]);

/// A tail, exclusively owned.
#[derive(Debug)]
pub struct Tail(&'static mut [u8; TAIL_BYTES]);

impl Frame {
    /// Takes over a piece of the region. Called by the driver that mapped it, and by tests.
    ///
    /// # Panics
    /// When it is not of the size of a chunk.
    pub fn new(memory: &'static mut [u8]) -> Frame {
        Frame(memory.try_into().expect("a frame has the size of a chunk"))
    }

    /// The whole memory of the frame.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8; CHUNK_BYTES] {
        self.0
    }

    /// The whole memory of the frame, to write.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; CHUNK_BYTES] {
        self.0
    }
}

impl Tail {
    /// Takes over a piece of the region.
    ///
    /// # Panics
    /// When it is not of the size of a tail.
    pub fn new(memory: &'static mut [u8]) -> Tail {
        Tail(memory.try_into().expect("a tail has the size of a tail"))
    }

    /// The whole memory of the tail.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8; TAIL_BYTES] {
        self.0
    }

    /// The whole memory of the tail, to write.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; TAIL_BYTES] {
        self.0
    }
}

type Block<T> = ArrayVec<T, BLOCK_FRAMES>;

/// Where pools leave blocks of frames that they have too many of. Shared by all workers; bounded
/// and lock-free; used once per [`BLOCK_FRAMES`] frames at most.
#[derive(Debug)]
pub struct FrameBalancer {
    chunks: ArrayQueue<Block<Frame>>,
    tails: ArrayQueue<Block<Tail>>,
}

impl FrameBalancer {
    /// A balancer for at most this many frames of each size.
    pub fn new(chunk_count: usize, tail_count: usize) -> Arc<FrameBalancer> {
        Arc::new(FrameBalancer {
            // Besides whole blocks some may be there that a closed ring did not fill.
            chunks: ArrayQueue::new(chunk_count.div_ceil(BLOCK_FRAMES) + PARTIAL_BLOCKS),
            tails: ArrayQueue::new(tail_count.div_ceil(BLOCK_FRAMES) + 1),
        })
    }

    /// Takes chunks that come from no pool: those that a driver's ring had when it was closed.
    /// Allocates, so it is not for the packet path.
    pub fn give_back(&self, chunks: Vec<Frame>) {
        let mut chunks = chunks.into_iter().peekable();
        while chunks.peek().is_some() {
            let block: Block<Frame> = chunks.by_ref().take(BLOCK_FRAMES).collect();
            let pushed = self.chunks.push(block);
            debug_assert!(pushed.is_ok(), "the queue has room for every block that can be");
        }
    }

    /// Frames that lie here now, chunks and tails. For conservation checks while workers rest.
    pub fn count(&self) -> (usize, usize) {
        fn count<T>(queue: &ArrayQueue<Block<T>>) -> usize {
            let blocks = (0..queue.len()).filter_map(|_| queue.pop());
            let lengths = blocks.map(|block| {
                let len = block.len();
                assert!(queue.push(block).is_ok(), "nobody else uses the queue meanwhile");
                len
            });
            lengths.sum()
        }
        (count(&self.chunks), count(&self.tails))
    }
}

/// A worker's own frames.
#[derive(Debug)]
pub struct FramePool {
    chunks: Vec<Frame>,
    tails: Vec<Tail>,
    chunks_max: usize,
    tails_max: usize,
    balancer: Arc<FrameBalancer>,
    copier: Copier,
}

impl FramePool {
    /// A pool that starts with these frames, which are its fair share.
    pub fn new(
        mut chunks: Vec<Frame>,
        mut tails: Vec<Tail>,
        balancer: Arc<FrameBalancer>,
    ) -> FramePool {
        let (chunks_share, tails_share) = (chunks.len(), tails.len());
        // Room for the share, what may come beyond it before a block leaves, and slack.
        chunks.reserve_exact(chunks_share + 4 * BLOCK_FRAMES);
        tails.reserve_exact(tails_share + 4 * BLOCK_FRAMES);
        let (chunks_max, tails_max) = (kept_max(chunks_share), kept_max(tails_share));
        FramePool { chunks, tails, chunks_max, tails_max, balancer, copier: copier::portable }
    }

    /// The pool, with another way to copy and sum what its frames hold.
    #[must_use]
    pub fn with_copier(mut self, copier: Copier) -> FramePool {
        self.copier = copier;
        self
    }

    /// How what its frames hold is copied and summed.
    #[inline(always)]
    pub fn copier(&self) -> Copier {
        self.copier
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
    pub fn take_tail(&mut self) -> Option<Tail> {
        match self.tails.pop() {
            Some(frame) => Some(frame),
            None => refill(&mut self.tails, &self.balancer.tails),
        }
    }

    /// Gives a chunk back.
    #[inline(always)]
    pub fn give(&mut self, frame: Frame) {
        self.chunks.push(frame);
        if self.chunks.len() > self.chunks_max {
            spill(&mut self.chunks, &self.balancer.chunks);
        }
    }

    /// Gives a tail back.
    #[inline]
    pub fn give_tail(&mut self, tail: Tail) {
        self.tails.push(tail);
        if self.tails.len() > self.tails_max {
            spill(&mut self.tails, &self.balancer.tails);
        }
    }

    /// Frames in this pool now, chunks and tails.
    pub fn count(&self) -> (usize, usize) {
        (self.chunks.len(), self.tails.len())
    }
}

/// Frames that a pool keeps before it leaves a block to the others: its share and some slack, of a
/// small share less, or one of few workers could keep what all need.
fn kept_max(share: usize) -> usize {
    (share + (share / 2).min(2 * BLOCK_FRAMES)).max(BLOCK_FRAMES)
}

#[cold]
fn refill<T>(own: &mut Vec<T>, shared: &ArrayQueue<Block<T>>) -> Option<T> {
    own.extend(shared.pop()?);
    own.pop()
}

#[cold]
fn spill<T>(own: &mut Vec<T>, shared: &ArrayQueue<Block<T>>) {
    let block: Block<T> = own.drain(own.len() - BLOCK_FRAMES..).collect();
    if let Err(block) = shared.push(block) {
        // The queue holds every frame that exists, so this cannot be reached; keep them anyway.
        own.extend(block);
    }
}

/// Chunks on the ordinary heap, for tests, benches and simulations. With the feature `sim` those of
/// pools that have ended come first, with what lies in them: a process of thousands of worlds
/// stays small.
pub fn heap_frames(count: usize) -> Vec<Frame> {
    let mut chunks = ended::chunks(count);
    let memory = vec![0u8; (count - chunks.len()) * CHUNK_BYTES].leak();
    chunks.extend(memory.chunks_exact_mut(CHUNK_BYTES).map(Frame::new));
    chunks
}

/// Tails on the ordinary heap, likewise.
pub fn heap_tails(count: usize) -> Vec<Tail> {
    let mut tails = ended::tails(count);
    let memory = vec![0u8; (count - tails.len()) * TAIL_BYTES].leak();
    tails.extend(memory.chunks_exact_mut(TAIL_BYTES).map(Tail::new));
    tails
}

/// Frames of pools that have ended. A gateway's pools end with it, and nobody asks for them.
#[cfg(feature = "sim")]
mod ended {
    use crossbeam::queue::SegQueue;

    use super::{Frame, FrameBalancer, FramePool, Tail};

    static CHUNKS: SegQueue<Frame> = SegQueue::new();
    static TAILS: SegQueue<Tail> = SegQueue::new();

    /// As many chunks as there are, at most `count`.
    pub(super) fn chunks(count: usize) -> Vec<Frame> {
        std::iter::from_fn(|| CHUNKS.pop()).take(count).collect()
    }

    /// The same of tails.
    pub(super) fn tails(count: usize) -> Vec<Tail> {
        std::iter::from_fn(|| TAILS.pop()).take(count).collect()
    }

    impl Drop for FramePool {
        fn drop(&mut self) {
            self.chunks.drain(..).for_each(|chunk| CHUNKS.push(chunk));
            self.tails.drain(..).for_each(|tail| TAILS.push(tail));
        }
    }

    impl Drop for FrameBalancer {
        fn drop(&mut self) {
            let chunks = std::iter::from_fn(|| self.chunks.pop()).flatten();
            chunks.for_each(|chunk| CHUNKS.push(chunk));
            let tails = std::iter::from_fn(|| self.tails.pop()).flatten();
            tails.for_each(|tail| TAILS.push(tail));
        }
    }
}

/// Without simulations, each pool has frames of its own.
#[cfg(not(feature = "sim"))]
mod ended {
    use super::{Frame, Tail};

    pub(super) fn chunks(_count: usize) -> Vec<Frame> {
        Vec::new()
    }

    pub(super) fn tails(_count: usize) -> Vec<Tail> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_traffic_starves_nobody() {
        let balancer = FrameBalancer::new(1024, 64);
        let pool = |balancer: &Arc<FrameBalancer>| {
            let chunks = heap_frames(512);
            FramePool::new(chunks, heap_tails(32), balancer.clone())
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
