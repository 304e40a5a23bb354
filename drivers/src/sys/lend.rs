//! Chunks that the kernel has: the book of what was lent to it, and how it comes back.
//!
//! A frame is owned by whoever holds it, and a ring carries only addresses. So whoever puts a frame
//! into a ring gives it up here for its address, and who finds an address in a ring gets the frame
//! for it, if it is one that was lent and by nobody else's queue. The hard constraint: a frame
//! comes back at most once, whatever addresses a ring may hold; that makes handing out its memory
//! sound. It is also what conservation is checked against: nothing that was lent is forgotten.
//!
//! One byte per chunk says which queue has it; several workers read and write them, each chunk's
//! by one at a time, with the rings' own order between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use engine::frame::{CHUNK_BYTES, Frame};

use crate::sys::region::Region;

/// Most queues that one book tells apart.
pub(crate) const QUEUES_MAX: usize = u8::MAX as usize;

/// The book of one device.
#[derive(Debug)]
pub(crate) struct Ledger {
    region: Arc<Region>,
    /// Per chunk: 0, or 1 and the index of the queue that has it.
    holders: Box<[AtomicU8]>,
    /// Per queue: how many chunks it has.
    counts: Box<[AtomicUsize]>,
}

impl Ledger {
    /// A book in which nothing is lent yet.
    pub(crate) fn new(region: Arc<Region>, queue_count: usize) -> Ledger {
        assert!(queue_count <= QUEUES_MAX, "a byte tells the queues apart");
        let holders = (0..region.chunk_count()).map(|_| AtomicU8::new(0)).collect();
        let counts = (0..queue_count).map(|_| AtomicUsize::new(0)).collect();
        Ledger { region, holders, counts }
    }

    /// Gives a frame up to a queue. Returns where its memory begins, counted from the region's
    /// first byte, as the kernel wants addresses.
    ///
    /// # Panics
    /// The frame is not of this region: a bug.
    #[inline]
    pub(crate) fn lend(&self, mut frame: Frame, queue: usize) -> u64 {
        let memory = frame.bytes_mut().as_mut_ptr();
        let offset = self.region.offset_of(frame.bytes()).expect("frames are of the one region");
        let holder = &self.holders[offset / CHUNK_BYTES];
        debug_assert_eq!(holder.load(Ordering::Relaxed), 0, "a frame is owned once");
        holder.store(queue as u8 + 1, Ordering::Relaxed);
        // `take_back` makes the frame again out of the address alone.
        let _ = memory.expose_provenance();
        offset as u64
    }

    /// Notes that a queue has so many more chunks. Apart from `lend`, so that a batch costs one
    /// addition.
    #[inline]
    pub(crate) fn note_lent(&self, queue: usize, count: usize) {
        self.counts[queue].fetch_add(count, Ordering::Relaxed);
    }

    /// Notes that a queue has so many fewer.
    #[inline]
    pub(crate) fn note_returned(&self, queue: usize, count: usize) {
        let before = self.counts[queue].fetch_sub(count, Ordering::Relaxed);
        debug_assert!(before >= count, "no more comes back than was lent");
    }

    /// The frame that an address of a queue's ring lies in. `None`: the queue does not have it.
    #[inline]
    pub(crate) fn take_back(&self, address: u64, queue: usize) -> Option<Frame> {
        let index = usize::try_from(address).ok()? / CHUNK_BYTES;
        let holder = self.holders.get(index)?;
        if holder.load(Ordering::Relaxed) != queue as u8 + 1 {
            return None;
        }
        holder.store(0, Ordering::Relaxed);
        let start = self.region.base() + index * CHUNK_BYTES;
        let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: the chunk's holder says that its frame was given up in `lend` and was not taken
        // back since, so this is the only reference to its memory, which is never unmapped. Its
        // provenance was exposed there. The kernel writes into a chunk no more once it has put the
        // chunk's address into a ring for us, or the socket is closed (`take_rest`).
        let memory = unsafe { std::slice::from_raw_parts_mut(start, CHUNK_BYTES) };
        Some(Frame::new(memory))
    }

    /// All frames that a queue has still. To be called when the kernel touches them no more: its
    /// sockets are closed.
    pub(crate) fn take_rest(&self, queue: usize) -> Vec<Frame> {
        let addresses = (0..self.holders.len()).map(|index| (index * CHUNK_BYTES) as u64);
        let rest: Vec<Frame> =
            addresses.filter_map(|address| self.take_back(address, queue)).collect();
        self.note_returned(queue, rest.len());
        rest
    }

    /// How many chunks a queue has.
    pub(crate) fn count(&self, queue: usize) -> usize {
        self.counts[queue].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::frame::heap_frames;

    #[test]
    fn a_frame_comes_back_once_and_only_to_the_queue_that_has_it() {
        let (region, mut frames, _) = Region::new(4, 0).unwrap();
        let ledger = Ledger::new(Arc::new(region), 2);
        let mut frame = frames.remove(2);
        frame.bytes_mut()[7] = 99;
        let address = ledger.lend(frame, 1);
        ledger.note_lent(1, 1);
        assert_eq!((address, ledger.count(1)), (2 * CHUNK_BYTES as u64, 1));
        assert!(ledger.take_back(address, 0).is_none());
        // The kernel says where the packet begins, which is somewhere in the chunk.
        let back = ledger.take_back(address + 256, 1).unwrap();
        ledger.note_returned(1, 1);
        assert_eq!((back.bytes()[7], ledger.count(1)), (99, 0));
        assert!(ledger.take_back(address, 1).is_none());
    }

    #[test]
    fn addresses_that_were_never_lent_give_nothing() {
        let (region, _frames, _) = Region::new(4, 1).unwrap();
        let ledger = Ledger::new(Arc::new(region), 1);
        for address in [0, 2048, 4 * 2048, u64::MAX, u64::MAX / 2] {
            assert!(ledger.take_back(address, 0).is_none());
        }
    }

    #[test]
    fn the_rest_is_all_that_a_queue_still_has() {
        let (region, frames, _) = Region::new(8, 0).unwrap();
        let ledger = Ledger::new(Arc::new(region), 2);
        for (index, frame) in frames.into_iter().enumerate() {
            ledger.lend(frame, index % 2);
            ledger.note_lent(index % 2, 1);
        }
        assert_eq!(ledger.take_rest(1).len(), 4);
        assert_eq!((ledger.count(0), ledger.count(1)), (4, 0));
    }

    #[test]
    #[should_panic(expected = "frames are of the one region")]
    fn a_frame_of_elsewhere_is_refused() {
        let (region, _frames, _) = Region::new(4, 0).unwrap();
        Ledger::new(Arc::new(region), 1).lend(heap_frames(1).remove(0), 0);
    }
}
