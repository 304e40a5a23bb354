//! One AF_XDP ring: memory with two indices that its two sides advance, as safe types.
//!
//! [producer index | consumer index | flags | entry 0 | entry 1 | …], a power of two of entries
//!
//! A side works in three steps. *Acquire*: it reads the other side's index and so learns how many
//! entries it may touch. *Data*: it writes or reads them. *Release*: it publishes its own index.
//! Both indices count on for ever and wrap at 2³²; their difference says how much is in between, so
//! all arithmetic wraps. The hard constraint: an entry is touched only between an acquire that
//! allowed it and the release that hands it over; the types allow nothing else.
//!
//! The steps are written once, over [`RingMemory`]: the kernel's mapping, or a model of it under
//! loom, which tries every order in which the two sides can run.
//!
//! What this does not do: know what an entry means. See `lend` for the chunks behind addresses.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};

/// Which of the two indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// Entries written, ever.
    Producer,
    /// Entries read, ever.
    Consumer,
}

/// What a ring lies in. The methods take `&self`, as both sides have it at once.
pub(crate) trait RingMemory {
    /// What the ring carries.
    type Entry: Copy;

    /// How many entries; a power of two.
    fn entry_count(&self) -> u32;

    /// Reads an index.
    fn load(&self, index: Index, ordering: Ordering) -> u32;

    /// Writes an index.
    fn store(&self, index: Index, value: u32, ordering: Ordering);

    /// Reads the entry at an index, modulo the ring's size.
    fn read(&self, index: u32) -> Self::Entry;

    /// Writes the entry at an index, modulo the ring's size.
    fn write(&self, index: u32, entry: Self::Entry);

    /// True if the other side sleeps and wants to be woken by a system call.
    fn needs_wakeup(&self) -> bool;
}

/// The side that writes: ours of the fill and tx rings.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    memory: M,
    /// Our own index: the next entry to write. Only `release` shows it to the other side.
    next: u32,
    /// Entries that may be written before the next acquire.
    free: u32,
}

impl<M: RingMemory> Producer<M> {
    /// Takes the writing side. There must be no other, which the caller sees to.
    pub(crate) fn new(memory: M) -> Producer<M> {
        assert!(memory.entry_count().is_power_of_two(), "the kernel makes no other rings");
        let next = memory.load(Index::Producer, Ordering::Relaxed);
        Producer { memory, next, free: 0 }
    }

    /// Room for at least `wanted` entries, if there is; how much there is.
    #[inline]
    pub(crate) fn acquire(&mut self, wanted: u32) -> u32 {
        if self.free < wanted {
            // Acquire: what the consumer read it has read before it gave the entry back.
            let consumer = self.memory.load(Index::Consumer, Ordering::Acquire);
            let count = self.memory.entry_count();
            // A consumer that claims what it cannot have read gets us nowhere, but to no harm.
            self.free = count.saturating_sub(self.next.wrapping_sub(consumer));
        }
        self.free
    }

    /// Writes an entry. False, and nothing done, when none was acquired.
    #[inline]
    pub(crate) fn put(&mut self, entry: M::Entry) -> bool {
        if self.free == 0 {
            return false;
        }
        self.memory.write(self.next, entry);
        self.next = self.next.wrapping_add(1);
        self.free -= 1;
        true
    }

    /// Publishes what was put.
    #[inline]
    pub(crate) fn release(&mut self) {
        // Release: the entries are there before the index says so.
        self.memory.store(Index::Producer, self.next, Ordering::Release);
    }

    /// Entries that were published and not taken yet.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        let consumer = self.memory.load(Index::Consumer, Ordering::Relaxed);
        self.next.wrapping_sub(consumer).min(self.memory.entry_count())
    }

    /// True if the kernel wants to be woken to take what was put.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }
}

/// The side that reads: ours of the rx and completion rings.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    memory: M,
    /// The next entry to read.
    next: u32,
    /// Entries that may be read before the next acquire.
    available: u32,
}

impl<M: RingMemory> Consumer<M> {
    /// Takes the reading side. There must be no other, which the caller sees to.
    pub(crate) fn new(memory: M) -> Consumer<M> {
        assert!(memory.entry_count().is_power_of_two(), "the kernel makes no other rings");
        let next = memory.load(Index::Consumer, Ordering::Relaxed);
        Consumer { memory, next, available: 0 }
    }

    /// At least `wanted` entries, if so many wait; how many do.
    #[inline]
    pub(crate) fn acquire(&mut self, wanted: u32) -> u32 {
        if self.available < wanted {
            // Acquire: what was written is seen with the index that says so.
            let producer = self.memory.load(Index::Producer, Ordering::Acquire);
            let available = producer.wrapping_sub(self.next);
            self.available = available.min(self.memory.entry_count());
        }
        self.available
    }

    /// Reads an entry; `None` when none was acquired.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<M::Entry> {
        if self.available == 0 {
            return None;
        }
        let entry = self.memory.read(self.next);
        self.next = self.next.wrapping_add(1);
        self.available -= 1;
        Some(entry)
    }

    /// Gives the entries back that were taken.
    #[inline]
    pub(crate) fn release(&mut self) {
        // Release: we have read the entries before they may be written again.
        self.memory.store(Index::Consumer, self.next, Ordering::Release);
    }
}

/// What may lie in the kernel's rings: any bytes are a value of it.
pub(crate) trait PlainEntry: Copy {}

impl PlainEntry for u64 {}
impl PlainEntry for XdpDesc {}

/// A ring that the kernel maps for us, or that lies in anonymous memory for tests.
#[derive(Debug)]
pub(crate) struct MappedRing<T> {
    mapping: Arc<Mapping>,
    producer: usize,
    consumer: usize,
    flags: Option<usize>,
    entries: usize,
    entry_count: u32,
    kind: std::marker::PhantomData<T>,
}

/// Pages of ours, unmapped when the last ring in them is gone.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain shared memory that any thread may reach; who reaches what of it and
// when is the business of `Producer` and `Consumer`.
unsafe impl Send for Mapping {}
// SAFETY: as above; the indices are atomics, and an entry is touched by one side at a time.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us with this length, and every reference into it holds
        // an `Arc` of this mapping, of which the last one is gone.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours is there until now");
    }
}

impl<T: PlainEntry> MappedRing<T> {
    /// Maps a ring of this socket, which has `entry_count` entries by an option set before.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        offsets: &XdpRingOffset,
        entry_count: u32,
    ) -> Result<MappedRing<T>, Errno> {
        let entries = offsets.desc as usize;
        let bytes = entries + entry_count as usize * size_of::<T>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a null hint and no MAP_FIXED: no memory of the program is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, access, flags, socket, page_offset) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::FAULT)?;
        let mapping = Arc::new(Mapping { start, bytes });
        let [producer, consumer] = [offsets.producer, offsets.consumer].map(|at| at as usize);
        let flags = offsets.flags.map(|at| at as usize);
        Ok(MappedRing::at(mapping, [producer, consumer, entries], flags, entry_count))
    }

    /// A ring in anonymous memory, twice: one for each side. For tests without a kernel.
    #[cfg(test)]
    pub(crate) fn anonymous(entry_count: u32) -> [MappedRing<T>; 2] {
        let entries = 256;
        let bytes = entries + entry_count as usize * size_of::<T>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `map`.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE)
        };
        let start = NonNull::new(start.expect("tests have memory").cast()).expect("not at 0");
        let mapping = Arc::new(Mapping { start, bytes });
        let ring = || MappedRing::at(mapping.clone(), [0, 64, entries], Some(128), entry_count);
        [ring(), ring()]
    }

    fn at(
        mapping: Arc<Mapping>,
        [producer, consumer, entries]: [usize; 3],
        flags: Option<usize>,
        entry_count: u32,
    ) -> MappedRing<T> {
        for index in [Some(producer), Some(consumer), flags].into_iter().flatten() {
            assert!(index.is_multiple_of(4) && index + 4 <= mapping.bytes, "an index of the ring");
        }
        let end = entries + entry_count as usize * size_of::<T>();
        assert!(entries.is_multiple_of(align_of::<T>()) && end <= mapping.bytes, "its entries");
        assert!(entry_count.is_power_of_two(), "the kernel takes no other sizes");
        let kind = std::marker::PhantomData;
        MappedRing { mapping, producer, consumer, flags, entries, entry_count, kind }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of the offsets that `at` has checked to be aligned and inside the
        // mapping, which lives as long as `self` and is written as atomics only, by us and by the
        // kernel.
        unsafe { self.mapping.start.add(at).cast::<AtomicU32>().as_ref() }
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> NonNull<T> {
        let masked = (index & (self.entry_count - 1)) as usize;
        // SAFETY: a masked index is below the count, and `at` has checked that so many entries lie
        // inside the mapping, aligned.
        unsafe { self.mapping.start.add(self.entries).cast::<T>().add(masked) }
    }
}

impl<T: PlainEntry> RingMemory for MappedRing<T> {
    type Entry = T;

    #[inline(always)]
    fn entry_count(&self) -> u32 {
        self.entry_count
    }

    #[inline(always)]
    fn load(&self, index: Index, ordering: Ordering) -> u32 {
        let at = if index == Index::Producer { self.producer } else { self.consumer };
        self.word(at).load(ordering)
    }

    #[inline(always)]
    fn store(&self, index: Index, value: u32, ordering: Ordering) {
        let at = if index == Index::Producer { self.producer } else { self.consumer };
        self.word(at).store(value, ordering);
    }

    #[inline(always)]
    fn read(&self, index: u32) -> T {
        // SAFETY: the entry is inside the mapping (see `entry`) and any bytes are a value
        // (`PlainEntry`). `Consumer` reads only what its acquire allowed, which the other side does
        // not write until it is released.
        unsafe { self.entry(index).read() }
    }

    #[inline(always)]
    fn write(&self, index: u32, entry: T) {
        // SAFETY: as for `read`; `Producer` writes only what its acquire allowed, which the other
        // side does not read until it is released.
        unsafe { self.entry(index).write(entry) }
    }

    #[inline(always)]
    fn needs_wakeup(&self) -> bool {
        let Some(at) = self.flags else { return false };
        let flags = self.word(at).load(Ordering::Relaxed);
        XdpRingFlags::from_bits_retain(flags).contains(XdpRingFlags::XDP_RING_NEED_WAKEUP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(entry_count: u32) -> (Producer<MappedRing<u64>>, Consumer<MappedRing<u64>>) {
        let [ours, others] = MappedRing::anonymous(entry_count);
        (Producer::new(ours), Consumer::new(others))
    }

    #[test]
    fn nothing_is_touched_without_an_acquire_and_nothing_seen_before_the_release() {
        let (mut producer, mut consumer) = ring(4);
        assert!(!producer.put(7));
        assert_eq!(producer.acquire(1), 4);
        assert!(producer.put(7));
        assert_eq!((consumer.acquire(1), consumer.take()), (0, None));
        producer.release();
        assert_eq!(producer.pending(), 1);
        assert_eq!(consumer.take(), None, "not acquired yet");
        assert_eq!((consumer.acquire(1), consumer.take(), consumer.take()), (1, Some(7), None));
        assert_eq!(producer.pending(), 1, "not released yet");
        consumer.release();
        assert_eq!(producer.pending(), 0);
    }

    #[test]
    fn a_full_ring_takes_nothing_until_the_reader_gives_back() {
        let (mut producer, mut consumer) = ring(2);
        assert_eq!(producer.acquire(9), 2);
        assert!(producer.put(1) && producer.put(2) && !producer.put(3));
        producer.release();
        assert_eq!(producer.acquire(1), 0);
        assert_eq!((consumer.acquire(2), consumer.take()), (2, Some(1)));
        assert_eq!(producer.acquire(1), 0, "taken, but not given back");
        consumer.release();
        assert_eq!(producer.acquire(1), 1);
    }

    #[test]
    fn indices_wrap_after_four_billion_entries() {
        let [ours, others] = MappedRing::<u64>::anonymous(4);
        for index in [Index::Producer, Index::Consumer] {
            ours.store(index, u32::MAX - 2, Ordering::Relaxed);
        }
        let (mut producer, mut consumer) = (Producer::new(ours), Consumer::new(others));
        for value in 0..20 {
            assert_eq!(producer.acquire(4), 4);
            (0..3).for_each(|add| assert!(producer.put(value * 3 + add)));
            producer.release();
            assert_eq!(consumer.acquire(3), 3);
            (0..3).for_each(|add| assert_eq!(consumer.take(), Some(value * 3 + add)));
            consumer.release();
        }
    }

    #[test]
    fn an_index_that_lies_gives_no_more_than_a_ring_has() {
        let [ours, others] = MappedRing::<u64>::anonymous(4);
        ours.store(Index::Producer, 1_000, Ordering::Relaxed);
        let mut consumer = Consumer::new(others);
        assert_eq!(consumer.acquire(64), 4);
        let [ours, others] = MappedRing::<u64>::anonymous(4);
        let mut producer = Producer::new(ours);
        others.store(Index::Consumer, 1_000, Ordering::Relaxed);
        assert!(producer.acquire(64) <= 4);
        others.store(Index::Consumer, 1_000_000_000, Ordering::Relaxed);
        assert_eq!(producer.acquire(64), 0);
    }

    #[test]
    fn the_flag_says_whether_the_other_side_sleeps() {
        let [ours, others] = MappedRing::<u64>::anonymous(4);
        let producer = Producer::new(ours);
        assert!(!producer.needs_wakeup());
        others.word(128).store(1, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    proptest! {
        /// Whatever the two sides do in turn, what comes out is what went in, in order.
        #[test]
        fn entries_come_out_in_order_and_each_once(
            size in 0u32..6,
            steps in proptest::collection::vec((0u32..9, 0u32..9, any::<bool>()), 1..200),
        ) {
            let (mut producer, mut consumer) = ring(1 << size);
            let (mut put, mut taken) = (0u64, 0u64);
            for (puts, takes, released) in steps {
                producer.acquire(puts);
                for _ in 0..puts {
                    put += u64::from(producer.put(put));
                }
                producer.release();
                consumer.acquire(takes);
                for _ in 0..takes {
                    if let Some(entry) = consumer.take() {
                        prop_assert_eq!(entry, taken);
                        taken += 1;
                    }
                }
                if released {
                    consumer.release();
                }
                prop_assert!(put - taken <= 1 << size);
            }
        }
    }
}

/// The steps under loom, which runs the two sides in every order that the memory model allows and
/// finds an entry that is written while it is read.
#[cfg(test)]
mod model {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;

    #[derive(Debug, Clone)]
    struct Modelled(Arc<(AtomicU32, AtomicU32, [UnsafeCell<u64>; 2])>);

    impl Modelled {
        fn new(start: u32) -> Modelled {
            let entries = [UnsafeCell::new(0), UnsafeCell::new(0)];
            Modelled(Arc::new((AtomicU32::new(start), AtomicU32::new(start), entries)))
        }
    }

    impl RingMemory for Modelled {
        type Entry = u64;

        fn entry_count(&self) -> u32 {
            2
        }

        fn load(&self, index: Index, ordering: Ordering) -> u32 {
            let of = if index == Index::Producer { &self.0.0 } else { &self.0.1 };
            of.load(ordering)
        }

        fn store(&self, index: Index, value: u32, ordering: Ordering) {
            let of = if index == Index::Producer { &self.0.0 } else { &self.0.1 };
            of.store(value, ordering);
        }

        fn read(&self, index: u32) -> u64 {
            // SAFETY: loom checks that nobody writes meanwhile; the pointer is live.
            self.0.2[index as usize % 2].with(|entry| unsafe { *entry })
        }

        fn write(&self, index: u32, value: u64) {
            // SAFETY: loom checks that nobody else touches it meanwhile; the pointer is live.
            self.0.2[index as usize % 2].with_mut(|entry| unsafe { *entry = value });
        }

        fn needs_wakeup(&self) -> bool {
            false
        }
    }

    /// Each side makes so many attempts, which succeed or not: a loop that waits for the other side
    /// would have loom try every number of rounds. More than the ring has entries, so that each
    /// side meets one that was used before.
    const ATTEMPTS: u64 = 3;

    #[test]
    fn both_sides_at_once_lose_nothing_and_never_touch_the_same_entry() {
        loom::model(|| {
            let memory = Modelled::new(u32::MAX);
            let mut producer = Producer::new(memory.clone());
            let writing = loom::thread::spawn(move || {
                let mut put = 0;
                for _ in 0..ATTEMPTS {
                    producer.acquire(1);
                    put += u64::from(producer.put(put));
                    producer.release();
                }
                put
            });
            let mut consumer = Consumer::new(memory);
            let mut taken = 0;
            let mut look = || {
                consumer.acquire(1);
                if let Some(entry) = consumer.take() {
                    assert_eq!(entry, taken);
                    taken += 1;
                }
                consumer.release();
            };
            (0..ATTEMPTS).for_each(|_| look());
            let put = writing.join().unwrap();
            (0..ATTEMPTS).for_each(|_| look());
            assert_eq!(put, taken);
        });
    }
}
