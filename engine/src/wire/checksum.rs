//! The Internet checksum: whole (RFC 1071) and by difference (RFC 1624).
//!
//! Sums are kept in 64 bits and folded at the end. A *delta* is a 16-bit one's complement number to
//! add to the complement of a checksum; a flow works it out once and applies it per packet.

/// Adds up bytes as big-endian 16-bit words; an odd last byte counts as the upper half of a word.
/// The result can be added to other sums and folded.
pub fn sum(bytes: &[u8]) -> u64 {
    // Summed in native order over eight bytes at a time and turned at the end: the one's
    // complement sum does not depend on byte order (RFC 1071 section 2 B).
    turned(native_sum(bytes))
}

/// A sum of words in native order as one of words in network order, or the other way round.
#[inline(always)]
pub fn turned(total: u64) -> u64 {
    u64::from(u16::from_ne_bytes(fold(total).to_be_bytes()))
}

/// Adds up bytes as 16-bit words in native order; an odd last byte counts as if a zero followed.
#[inline]
pub fn native_sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    // One addition for whole words and one for their upper halves: the lower halves come out at the
    // end. That is an operation per word less than taking halves apart.
    let (mut whole, mut upper) = (0u64, 0u64);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        whole = whole.wrapping_add(word);
        upper += word >> 32;
        // 2^32 halves of less than 2^32 each cannot overflow 64 bits: no packet is that long.
    }
    // whole = lower + upper * 2^32, modulo 2^64.
    let mut total = whole.wrapping_sub(upper << 32) + upper;
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from_ne_bytes(last);
    total += (last & 0xffff_ffff) + (last >> 32);
    total
}

/// Folds a sum to 16 bits with end-around carry.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let (low, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    // After a carry there is room for it: two halves add up to 2^33 - 2 at most.
    let sum = low + u32::from(carry);
    let (low, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
    low + u16::from(carry)
}

/// Folds what is below 2^32 - 2^16: enough for a few 16-bit numbers.
#[inline(always)]
pub fn fold_small(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) over addresses in wire
/// order, 8 or 32 bytes.
pub fn pseudo_header(addresses: &[u8], protocol: u8, transport_bytes: usize) -> u64 {
    let length = transport_bytes as u64;
    sum(addresses) + u64::from(protocol) + (length & 0xffff) + (length >> 16)
}

/// What to add to the complement of a checksum when `old` becomes `new`: `~m + m'` of RFC 1624
/// equation 3, summed over all words that change.
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    let words = (old.len() as u64).div_ceil(2);
    // The complement of each of `words` words is 0xffff less it.
    fold(words * 0xffff - u64::from(fold(sum(old))) + sum(new))
}

/// The same of arrays of whole 32-bit words, which takes a few instructions.
#[inline(always)]
pub(crate) fn delta_of_words<const BYTES: usize>(old: &[u8; BYTES], new: &[u8; BYTES]) -> u16 {
    const { assert!(BYTES.is_multiple_of(4), "whole words") };
    let (old, new) = (old.as_chunks::<4>().0, new.as_chunks::<4>().0);
    let change = |(old, new): (&[u8; 4], &[u8; 4])| {
        u64::from(!u32::from_ne_bytes(*old)) + u64::from(u32::from_ne_bytes(*new))
    };
    let total = old.iter().zip(new).map(change).sum();
    u16::from_ne_bytes(fold(total).to_be_bytes())
}

/// Applies a delta to a checksum: `HC' = ~(~HC + ~m + m')`, which is the subtraction of the delta
/// with end-around borrow.
#[inline(always)]
pub fn apply(checksum: u16, delta: u16) -> u16 {
    let (difference, borrow) = checksum.overflowing_sub(delta);
    // Of what was borrowed from, at least 1 is left.
    difference - u16::from(borrow)
}

/// Adds two deltas.
#[inline(always)]
pub fn add(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| u32::from(byte));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn subtracting_a_delta_is_equation_3_of_rfc_1624(checksum: u16, delta: u16) {
            prop_assert_eq!(apply(checksum, delta), !add(!checksum, delta));
        }
    }

    #[test]
    fn subtracting_is_equation_3_where_zero_has_two_forms() {
        for checksum in [0, 1, 0xfffe, 0xffff] {
            for delta in [0, 1, 0xfffe, 0xffff] {
                assert_eq!(apply(checksum, delta), !add(!checksum, delta));
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_is_corrected() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285 gives 0x0000.
        let delta = delta(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(apply(0xdd2f, delta), 0x0000);
    }

    proptest! {
        #[test]
        fn a_delta_of_words_is_a_delta(old: [u8; 32], new: [u8; 32]) {
            prop_assert_eq!(delta_of_words(&old, &new), delta(&old, &new));
        }

        #[test]
        fn a_sum_agrees_with_the_plain_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(fold(sum(&bytes)), plain(&bytes));
        }

        #[test]
        fn a_delta_gives_what_summing_again_gives(
            before in prop::collection::vec(any::<u8>(), 16..17),
            new in prop::collection::vec(any::<u8>(), 8..9),
            other in 1u8..,
        ) {
            let mut after = before.clone();
            after[4..12].copy_from_slice(&new);
            // A word that never changes and is not zero keeps both sums in the same class of 0.
            let fixed = u64::from(other);
            let checksum = !fold(sum(&before) + fixed);
            let delta = delta(&before[4..12], &new);
            prop_assert_eq!(apply(checksum, delta), !fold(sum(&after) + fixed));
        }
    }
}
