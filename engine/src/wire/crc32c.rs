//! CRC32c (RFC 9260 appendix A): whole, and what a change of a few bytes makes of it.
//!
//! A CRC is linear: two messages of one length that differ in some bits have checksums that differ
//! by the CRC of those bits alone, started at zero. So the ports of a packet can be changed without
//! reading the rest, and a checksum that was wrong stays wrong. Not here: speed. A table of one
//! byte is enough for what is published or finished by us.

/// Castagnoli's polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// x^(2^n) modulo the polynomial. 2^20 bits are more than a packet has.
const POWERS: [u32; 20] = {
    // x^1: the highest bit is x^0.
    let mut powers = [1 << 30; 20];
    let mut index = 1;
    while index < 20 {
        powers[index] = multiply(powers[index - 1], powers[index - 1]);
        index += 1;
    }
    powers
};

/// The product of two polynomials, modulo ours.
const fn multiply(one: u32, mut other: u32) -> u32 {
    let (mut product, mut bit) = (0, 1 << 31);
    while bit != 0 {
        if one & bit != 0 {
            product ^= other;
        }
        other = other >> 1 ^ if other & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The checksum of a message in pieces.
pub fn whole(pieces: &[&[u8]]) -> u32 {
    !pieces.iter().fold(!0, |crc, piece| update(crc, piece))
}

/// By what the checksum of a message changes when these bits of it do, behind which `behind_bytes`
/// follow.
pub fn change(bits: [u8; 4], behind_bytes: usize) -> u32 {
    let mut crc = update(0, &bits);
    let behind_bits = behind_bytes * 8;
    for (index, power) in POWERS.iter().enumerate() {
        if behind_bits >> index & 1 == 1 {
            crc = multiply(*power, crc);
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_3720_come_out() {
        // Appendix B.4.
        assert_eq!(whole(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(whole(&[&[0xff; 32]]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(whole(&[&rising]), 0x46dd_794e);
        assert_eq!(whole(&[&rising[..7], &[], &rising[7..]]), 0x46dd_794e);
    }

    proptest! {
        #[test]
        fn a_change_gives_what_summing_again_gives(
            before in prop::collection::vec(any::<u8>(), 4..3_000), bits: [u8; 4],
        ) {
            let mut after = before.clone();
            after.iter_mut().zip(bits).for_each(|(byte, bits)| *byte ^= bits);
            let changed = whole(&[&before]) ^ change(bits, before.len() - 4);
            prop_assert_eq!(changed, whole(&[&after]));
        }
    }

    #[test]
    fn the_longest_packet_is_within_reach() {
        let before = vec![7; 65_535];
        let mut after = before.clone();
        after[0] = 8;
        let changed = whole(&[&before]) ^ change([15, 0, 0, 0], 65_531);
        assert_eq!(changed, whole(&[&after]));
    }
}
