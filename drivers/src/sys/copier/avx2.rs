//! Copying and adding up with registers of 32 bytes, which all server processors since 2013 have.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_add_epi64,
    _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
    _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
};

/// Bytes of a register.
const WIDE: usize = size_of::<__m256i>();
/// Registers that are added to in turn: what adds up one does not wait for the other.
const ABREAST: usize = 4;

/// All bits of the bytes from a place on that is as far from the end as there are such bytes.
const LAST: [[u8; WIDE]; 2] = [[0; WIDE], [0xff; WIDE]];

/// Copies the second to the first, which has its length, and returns its sum.
pub(super) fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy has the length of what is copied");
    if to.len() < WIDE {
        return engine::copier::portable(to, from);
    }
    // SAFETY: `every` is the only one that gives this function away, and it has seen that the
    // processor has AVX2.
    unsafe { copy_and_sum_wide(to, from) }
}

/// Eight-byte words are added as they are, modulo 2^64, and their upper halves apart, so that
/// both halves come out at the end: two additions and a shift for 32 bytes. In native order:
/// the one's complement sum does not depend on it (RFC 1071 section 2 B).
///
/// What is not whole registers at the end is copied with bytes in front of it that are there
/// already, and which are not added again. There must be a whole register.
#[target_feature(enable = "avx2")]
fn copy_and_sum_wide(to: &mut [u8], from: &[u8]) -> u64 {
    let mut sums = [Sum::new(); ABREAST];
    let (groups_to, single_to) = to.as_chunks_mut::<WIDE>().0.as_chunks_mut::<ABREAST>();
    let (groups_from, single_from) = from.as_chunks::<WIDE>().0.as_chunks::<ABREAST>();
    for (to, from) in groups_to.iter_mut().zip(groups_from) {
        for at in 0..ABREAST {
            sums[at].add(copied(&mut to[at], &from[at]));
        }
    }
    for (to, from) in single_to.iter_mut().zip(single_from) {
        sums[0].add(copied(to, from));
    }
    let [first, second, third, fourth] = sums;
    let total = first.with(second).with(third.with(fourth)).total();
    let rest = from.len() % WIDE;
    let (Some(to), Some(from)) = (to.last_chunk_mut(), from.last_chunk()) else { return total };
    if rest == 0 {
        return total;
    }
    let mut last = Sum::new();
    let mask: &[u8; WIDE] = LAST.as_flattened()[rest..].first_chunk().unwrap_or(&[0; WIDE]);
    last.add(_mm256_and_si256(copied(to, from), load(mask)));
    // An odd number of bytes before the end, each byte lies in the other half of its word.
    total + (last.total() << (8 * (rest % 2)))
}

/// Words added as they are, and their upper halves.
#[derive(Clone, Copy)]
struct Sum {
    whole: __m256i,
    upper: __m256i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new() -> Sum {
        Sum { whole: _mm256_setzero_si256(), upper: _mm256_setzero_si256() }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, words: __m256i) {
        self.whole = _mm256_add_epi64(self.whole, words);
        self.upper = _mm256_add_epi64(self.upper, _mm256_srli_epi64::<32>(words));
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn with(self, other: Sum) -> Sum {
        Sum {
            whole: _mm256_add_epi64(self.whole, other.whole),
            upper: _mm256_add_epi64(self.upper, other.upper),
        }
    }

    /// whole = lower + upper * 2^32, modulo 2^64. A frame is too short for either to overflow:
    /// the result is below 2^46.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(self) -> u64 {
        let (whole, upper) = (across(self.whole), across(self.upper));
        whole.wrapping_sub(upper << 32) + upper
    }
}

/// Copies, and returns what was copied.
#[inline]
#[target_feature(enable = "avx2")]
fn copied(to: &mut [u8; WIDE], from: &[u8; WIDE]) -> __m256i {
    let mut value = load(from);
    // A loop that stores what it has loaded is taken for a copy by the compiler, which then
    // calls `memcpy` and reads everything again to add it up. So it is not shown that the value
    // stays the same.
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: the array has room for the 32 bytes that are written, and is borrowed alone.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
    value
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(from: &[u8; WIDE]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; no alignment is asked for.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// The sum of all four words.
#[inline]
#[target_feature(enable = "avx2")]
fn across(value: __m256i) -> u64 {
    let low = _mm256_castsi256_si128(value);
    let two = _mm_add_epi64(low, _mm256_extracti128_si256::<1>(value));
    let one = _mm_add_epi64(two, _mm_unpackhi_epi64(two, two));
    _mm_cvtsi128_si64(one) as u64
}
