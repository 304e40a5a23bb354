//! Copying and adding up in one pass, with the widest registers that this processor has.
//!
//! Programs are built for every x86-64, whose registers of 16 bytes make a pass that does both
//! slower than two. AVX2, which all server processors since 2013 have, makes it nearly as fast as
//! the copy alone. What there is, is asked once, at the start. The one hard constraint: the same
//! bytes and the same sum as [`engine::copier::portable`] (a property test).

use engine::copier::Copier;

/// The fastest way that this processor has.
pub fn copier() -> Copier {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return avx2::copy_and_sum;
    }
    engine::copier::portable
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m256i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_add_epi64,
        _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_setzero_si256,
        _mm256_srli_epi64, _mm256_storeu_si256,
    };

    /// Bytes of a register.
    const WIDE: usize = size_of::<__m256i>();
    /// Registers that are added to in turn: what adds up one does not wait for the other.
    const ABREAST: usize = 4;

    /// Copies the second to the first, which has its length, and returns its sum.
    pub(super) fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
        // SAFETY: `copier` is the only one that gives this function away, and it has seen that the
        // processor has AVX2.
        unsafe { copy_and_sum_wide(to, from) }
    }

    /// Eight-byte words are added as they are, modulo 2^64, and their upper halves apart, so that
    /// both halves come out at the end: two additions and a shift for 32 bytes. In native order:
    /// the one's complement sum does not depend on it (RFC 1071 section 2 B).
    #[target_feature(enable = "avx2")]
    fn copy_and_sum_wide(to: &mut [u8], from: &[u8]) -> u64 {
        assert_eq!(to.len(), from.len(), "a copy has the length of what is copied");
        let (wide_to, rest_to) = to.as_chunks_mut::<WIDE>();
        let (wide_from, rest_from) = from.as_chunks::<WIDE>();
        let mut whole = [_mm256_setzero_si256(); ABREAST];
        let mut upper = whole;
        let (groups_to, single_to) = wide_to.as_chunks_mut::<ABREAST>();
        let (groups_from, single_from) = wide_from.as_chunks::<ABREAST>();
        for (to, from) in groups_to.iter_mut().zip(groups_from) {
            for at in 0..ABREAST {
                let value = load(&from[at]);
                store(&mut to[at], value);
                whole[at] = _mm256_add_epi64(whole[at], value);
                upper[at] = _mm256_add_epi64(upper[at], _mm256_srli_epi64::<32>(value));
            }
        }
        for (to, from) in single_to.iter_mut().zip(single_from) {
            let value = load(from);
            store(to, value);
            whole[0] = _mm256_add_epi64(whole[0], value);
            upper[0] = _mm256_add_epi64(upper[0], _mm256_srli_epi64::<32>(value));
        }
        let both = |of: [__m256i; ABREAST]| {
            across(_mm256_add_epi64(_mm256_add_epi64(of[0], of[1]), _mm256_add_epi64(of[2], of[3])))
        };
        let (mut whole, mut upper) = (both(whole), both(upper));
        let (words_to, last_to) = rest_to.as_chunks_mut::<8>();
        let (words, last) = rest_from.as_chunks::<8>();
        for (to, word) in words_to.iter_mut().zip(words) {
            *to = *word;
            let word = u64::from_ne_bytes(*word);
            whole = whole.wrapping_add(word);
            upper += word >> 32;
        }
        if !last.is_empty() {
            last_to.copy_from_slice(last);
            let mut padded = [0; 8];
            padded[..last.len()].copy_from_slice(last);
            let word = u64::from_ne_bytes(padded);
            whole = whole.wrapping_add(word);
            upper += word >> 32;
        }
        // whole = lower + upper * 2^32, modulo 2^64. A frame is too short for either to overflow.
        whole.wrapping_sub(upper << 32) + upper
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(from: &[u8; WIDE]) -> __m256i {
        // SAFETY: the array has the 32 bytes that are read; no alignment is asked for.
        let mut value = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        // A loop that stores what it has loaded is taken for a copy by the compiler, which then
        // calls `memcpy` and reads everything again to add it up. So it is not shown that the value
        // stays the same.
        // SAFETY: no instruction is there at all.
        unsafe {
            asm!("/* {0} */", inout(ymm_reg) value, options(pure, nomem, nostack, preserves_flags));
        }
        value
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(to: &mut [u8; WIDE], value: __m256i) {
        // SAFETY: the array has room for the 32 bytes that are written, and is borrowed alone.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::wire::checksum::fold;
    use proptest::prelude::*;

    fn both(from: &[u8]) -> [(Vec<u8>, u16); 2] {
        [copier(), engine::copier::portable].map(|copy| {
            let mut to = vec![0; from.len()];
            let sum = fold(copy(&mut to, from));
            (to, sum)
        })
    }

    #[test]
    fn the_largest_frame_of_all_ones_does_not_overflow() {
        for len in [65_535, 66 * 1_024] {
            let [one, other] = both(&vec![0xff; len]);
            assert_eq!(one, other);
        }
    }

    #[test]
    #[should_panic(expected = "the length")]
    fn a_copy_of_another_length_is_a_bug() {
        copier()(&mut [0; 3], &[0; 4]);
    }

    proptest! {
        #[test]
        fn every_way_gives_the_same_bytes_and_the_same_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), from in 0usize..70,
        ) {
            let from = &bytes[from.min(bytes.len())..];
            let [one, other] = both(from);
            prop_assert_eq!(&one.0, from);
            prop_assert_eq!(one, other);
        }
    }
}
