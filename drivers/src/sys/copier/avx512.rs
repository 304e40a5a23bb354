//! Copying and adding up with registers of 64 bytes, half as many instructions as with those of 32:
//! what comes before and after a copy finds room beside it.

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_maskz_mov_epi8, _mm512_reduce_add_epi64,
    _mm512_setzero_si512, _mm512_srli_epi64, _mm512_storeu_si512,
};

/// Bytes of a register.
const WIDE: usize = size_of::<__m512i>();
/// Registers that are added to in turn: what adds up one does not wait for the other.
const ABREAST: usize = 2;

/// Copies the second to the first, which has its length, and returns its sum.
pub(super) fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy has the length of what is copied");
    if to.len() < WIDE {
        return engine::copier::portable(to, from);
    }
    // SAFETY: `every` is the only one that gives this function away, and it has seen that the
    // processor has AVX-512 for bytes.
    unsafe { copy_and_sum_wide(to, from) }
}

/// As with registers of 32 bytes; the mask for the bytes at the end is a number here.
#[target_feature(enable = "avx512f,avx512bw")]
fn copy_and_sum_wide(to: &mut [u8], from: &[u8]) -> u64 {
    let mut sums = [Sum::new(); ABREAST];
    let (pairs_to, single_to) = to.as_chunks_mut::<WIDE>().0.as_chunks_mut::<ABREAST>();
    let (pairs_from, single_from) = from.as_chunks::<WIDE>().0.as_chunks::<ABREAST>();
    for (to, from) in pairs_to.iter_mut().zip(pairs_from) {
        for at in 0..ABREAST {
            sums[at].add(copied(&mut to[at], &from[at]));
        }
    }
    if let ([to], [from]) = (single_to, single_from) {
        sums[0].add(copied(to, from));
    }
    let [mut sum, other] = sums;
    let rest = from.len() % WIDE;
    let mut last = Sum::new();
    if rest > 0
        && let (Some(to), Some(from)) = (to.last_chunk_mut(), from.last_chunk())
    {
        let mask = u64::MAX << (WIDE - rest);
        let words = _mm512_maskz_mov_epi8(mask, copied(to, from));
        // An odd number of bytes before the end, each byte lies in the other half of its word.
        if rest.is_multiple_of(2) {
            sum.add(words);
        } else {
            last.add(words);
            return sum.with(other).total() + (last.total() << 8);
        }
    }
    sum.with(other).total()
}

/// Words added as they are, and their upper halves.
#[derive(Clone, Copy)]
struct Sum {
    whole: __m512i,
    upper: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new() -> Sum {
        Sum { whole: _mm512_setzero_si512(), upper: _mm512_setzero_si512() }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(&mut self, words: __m512i) {
        self.whole = _mm512_add_epi64(self.whole, words);
        self.upper = _mm512_add_epi64(self.upper, _mm512_srli_epi64::<32>(words));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn with(self, other: Sum) -> Sum {
        Sum {
            whole: _mm512_add_epi64(self.whole, other.whole),
            upper: _mm512_add_epi64(self.upper, other.upper),
        }
    }

    /// whole = lower + upper * 2^32, modulo 2^64. A frame is too short for either to overflow.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn total(self) -> u64 {
        let whole = _mm512_reduce_add_epi64(self.whole) as u64;
        let upper = _mm512_reduce_add_epi64(self.upper) as u64;
        whole.wrapping_sub(upper << 32) + upper
    }
}

/// Copies, and returns what was copied.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn copied(to: &mut [u8; WIDE], from: &[u8; WIDE]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; no alignment is asked for.
    let mut value = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
    // See the same place of the registers of 32 bytes.
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(zmm_reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: the array has room for the 64 bytes that are written, and is borrowed alone.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
    value
}
