//! From a hash to a slot: fixed capacity, one cache line per look-up.
//!
//! A bucket is one line: eight tags of seven bits in a `u64`, compared at once (SWAR), and eight
//! slot numbers. An entry lives in its first bucket or, when that was full, in a second one that
//! follows from the first and the tag. The first bucket counts what it sent away, so a miss usually
//! ends after one line. What a slot number means, and whether the key behind it is equal, is the
//! caller's; the index never looks at keys. It allocates once.

/// Entries of one bucket.
const LANES: usize = 8;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What a free lane has in place of a slot: no table is that large.
const NO_SLOT: u32 = u32::MAX;

#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// A byte per lane: the complement of the tag in the lower seven bits, so that adding 1 to what
    /// differs between it and a tag carries into the eighth bit exactly if they are equal. What a
    /// free lane has there does not matter.
    tags: u64,
    slots: [u32; LANES],
    /// Entries whose first bucket is this one but that live in their second.
    sent_away: u32,
    /// Lanes whose entry is here because its first bucket was full, one bit each.
    guests: u8,
    /// Lanes in use, one bit each.
    used: u8,
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket { tags: 0, slots: [NO_SLOT; LANES], sent_away: 0, guests: 0, used: 0 }
    }
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

/// A hash table of slot numbers.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    mask: usize,
}

/// The parts of an index that a look-up reads, at hand.
#[derive(Clone, Copy)]
pub(crate) struct IndexView<'i> {
    buckets: &'i [Bucket],
}

impl IndexView<'_> {
    /// The first slot that may be the one with this hash.
    #[inline(always)]
    pub(crate) fn candidate(self, hash: u64) -> Option<u32> {
        // The compiler sees that this is below the length, unless that is 0.
        let bucket = self.buckets.get(hash as usize & self.buckets.len().wrapping_sub(1))?;
        let lanes = Index::matches(bucket.tags, Index::tag(hash)).0;
        if lanes == 0 {
            return None;
        }
        let lane = lanes.trailing_zeros() as usize / 8;
        // Of a free lane that looks right this is no slot, which the caller's table does not have.
        Some(bucket.slots[lane & (LANES - 1)])
    }
}

/// Lanes of a bucket that may hold what is looked for, one high bit each.
#[derive(Clone, Copy)]
struct Lanes(u64);

impl Index {
    /// An index for `capacity` entries; its lanes are at most half full then, so that an entry
    /// finds no place, nor room made for it, about never.
    pub(crate) fn new(capacity: usize) -> Index {
        let count = (capacity * 2).div_ceil(LANES).next_power_of_two().max(16);
        Index { buckets: vec![Bucket::default(); count].into_boxed_slice(), mask: count - 1 }
    }

    #[inline(always)]
    fn tag(hash: u64) -> u64 {
        hash >> 57
    }

    #[inline(always)]
    fn second(&self, first: usize, tag: u64) -> usize {
        (first ^ ((tag as usize).wrapping_mul(0x5bd1_e995) | 1)) & self.mask
    }

    #[inline(always)]
    fn matches(tags: u64, tag: u64) -> Lanes {
        // No byte is above 0x7f, so nothing carries into the next one.
        Lanes((tags ^ tag.wrapping_mul(LOW_BITS)).wrapping_add(LOW_BITS) & HIGH_BITS)
    }

    /// What a look-up reads.
    #[inline(always)]
    pub(crate) fn view(&self) -> IndexView<'_> {
        IndexView { buckets: &self.buckets }
    }

    /// The slot with this hash for which `equal` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut equal: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = Index::tag(hash);
        let first = hash as usize & self.mask;
        let bucket = &self.buckets[first];
        if let Some(slot) = bucket.find(tag, &mut equal) {
            return Some(slot);
        }
        if bucket.sent_away == 0 {
            return None;
        }
        self.buckets[self.second(first, tag)].find(tag, &mut equal)
    }

    /// Loads the line that an entry with this hash is looked for in first.
    #[inline(always)]
    pub(crate) fn fetch(&self, hash: u64) -> u64 {
        self.buckets[hash as usize & self.mask].tags
    }

    /// Adds a slot. False when both of its buckets are full and nobody there can move.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) -> bool {
        let tag = Index::tag(hash);
        let first = hash as usize & self.mask;
        if self.buckets[first].put(tag, slot, false) {
            return true;
        }
        let second = self.second(first, tag);
        if self.buckets[second].put(tag, slot, true) {
            self.buckets[first].sent_away += 1;
            return true;
        }
        self.make_room(first) && self.buckets[first].put(tag, slot, false)
    }

    /// Moves one entry of a full bucket to that entry's other bucket, which follows from the bucket
    /// and the tag. False if those are full as well.
    #[cold]
    fn make_room(&mut self, full: usize) -> bool {
        for lane in 0..LANES {
            let tag = self.buckets[full].tag(lane);
            let other = self.second(full, tag);
            let slot = self.buckets[full].slots[lane];
            let guest = self.buckets[full].guests >> lane & 1 == 1;
            if !self.buckets[other].put(tag, slot, !guest) {
                continue;
            }
            self.buckets[full].free(lane);
            match guest {
                true => self.buckets[other].sent_away -= 1,
                false => self.buckets[full].sent_away += 1,
            }
            return true;
        }
        false
    }

    /// Removes a slot that was added with this hash. False if it is not there.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let tag = Index::tag(hash);
        let first = hash as usize & self.mask;
        if self.buckets[first].take(tag, slot) {
            return true;
        }
        let second = self.second(first, tag);
        if self.buckets[second].take(tag, slot) {
            self.buckets[first].sent_away -= 1;
            return true;
        }
        false
    }
}

impl Bucket {
    fn put(&mut self, tag: u64, slot: u32, guest: bool) -> bool {
        let lane = self.used.trailing_ones() as usize;
        if lane >= LANES {
            return false;
        }
        self.tags = self.tags & !(0xff << (lane * 8)) | (tag ^ 0x7f) << (lane * 8);
        self.slots[lane] = slot;
        self.guests |= u8::from(guest) << lane;
        self.used |= 1 << lane;
        true
    }

    fn tag(&self, lane: usize) -> u64 {
        (self.tags >> (lane * 8) & 0xff) ^ 0x7f
    }

    fn free(&mut self, lane: usize) {
        self.slots[lane] = NO_SLOT;
        self.guests &= !(1 << lane);
        self.used &= !(1 << lane);
    }

    fn take(&mut self, tag: u64, slot: u32) -> bool {
        let lane = (0..LANES).find(|&lane| self.slots[lane] == slot && self.tag(lane) == tag);
        if let Some(lane) = lane {
            self.free(lane);
        }
        lane.is_some()
    }

    /// The slot with this tag for which `equal` holds.
    #[inline(always)]
    fn find(&self, tag: u64, equal: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let mut lanes = Index::matches(self.tags, tag).0;
        while lanes != 0 {
            let slot = self.slots[(lanes.trailing_zeros() as usize / 8) & (LANES - 1)];
            if slot != NO_SLOT && equal(slot) {
                return Some(slot);
            }
            lanes &= lanes - 1;
        }
        None
    }
}

/// Mixes two words into a hash: the two halves of their 128-bit product, folded. Fast and, with a
/// secret seed in both words, hard to steer from outside.
#[inline(always)]
pub(crate) fn mix(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// A seed for one purpose, from the gateway's seed and a number for the purpose.
pub(crate) const fn seed_for(seed: u64, purpose: u64) -> u64 {
    // splitmix64's finaliser: any two purposes give unrelated seeds.
    let x = seed.wrapping_add(purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_index_holds_its_capacity() {
        for capacity in [1usize, 2, 100, 5_000, 262_144] {
            let mut index = Index::new(capacity);
            let hash =
                |slot: u32| mix(u64::from(slot) ^ 0x1234_5678_9abc_def1, 0x9e37_79b9_7f4a_7c15);
            for slot in 0..capacity as u32 {
                assert!(index.insert(hash(slot), slot), "{slot} of {capacity}");
            }
            for slot in 0..capacity as u32 {
                assert_eq!(index.find(hash(slot), |found| found == slot), Some(slot));
                assert!(index.remove(hash(slot), slot));
            }
            assert!(index.buckets.iter().all(|b| b.used == 0 && b.sent_away == 0));
        }
    }

    #[test]
    fn hashes_that_all_fall_into_one_bucket_fill_two_and_are_then_refused() {
        let mut index = Index::new(1_000);
        let hashes: Vec<u64> = (0..20u64).map(|i| i << 9 << 40 | 3).collect();
        let taken = (0..20).filter(|&i| index.insert(hashes[0], i)).count();
        assert_eq!(taken, 2 * LANES);
    }

    proptest! {
        #[test]
        fn an_index_agrees_with_a_map(
            steps in prop::collection::vec((any::<bool>(), 0u64..40), 0..300),
        ) {
            let mut index = Index::new(64);
            let mut model: HashMap<u64, u32> = HashMap::new();
            let hash = |key: u64| mix(key + 0x5555, 0x9e37_79b9_7f4a_7c15);
            for (step, (insert, key)) in steps.into_iter().enumerate() {
                match model.get(&key).copied() {
                    Some(slot) if !insert => {
                        prop_assert!(index.remove(hash(key), slot));
                        model.remove(&key);
                    }
                    None if insert => {
                        prop_assert!(index.insert(hash(key), step as u32));
                        model.insert(key, step as u32);
                    }
                    _ => {}
                }
                for key in 0..40 {
                    let expected = model.get(&key).copied();
                    let found = index.find(hash(key), |slot| Some(slot) == expected);
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
