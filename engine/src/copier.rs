//! Copying bytes and adding them up at once: what cutting and gluing spend their time on.
//!
//! A copy runs at the speed of the cache; adding up beside it comes free where a processor's widest
//! registers do both in one pass, and doubles the time where only those of every processor are
//! used. The engine is compiled for every processor and has no unsafe code, so whoever gives it its
//! memory says how: [`FramePool::with_copier`](crate::frame::FramePool::with_copier). The one hard
//! constraint: every way gives the same bytes and the same sum.

use crate::wire::checksum::native_sum;

/// Copies the second to the first, which has its length, and returns what stands for its
/// [`native_sum`]: as a one's complement number the same, and less than 2^48, so that others can be
/// added.
pub type Copier = fn(&mut [u8], &[u8]) -> u64;

/// The way for any processor: copied first and summed then, while the bytes are in the first-level
/// cache. The system's copy keeps many more cache lines in flight than a loop that does both with
/// the registers that every processor has.
pub fn portable(to: &mut [u8], from: &[u8]) -> u64 {
    to.copy_from_slice(from);
    native_sum(from)
}

/// Copies only, for whoever needs no sum.
pub(crate) fn unsummed(to: &mut [u8], from: &[u8]) -> u64 {
    to.copy_from_slice(from);
    0
}
