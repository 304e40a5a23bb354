//! Copying and adding up in one pass, with the widest registers that this processor has.
//!
//! Programs are built for every x86-64, whose registers of 16 bytes make a pass that does both
//! slower than two. With those of 32 or 64 bytes it is as fast as the copy alone. What there is, is
//! asked once, at the start. The one hard constraint: the same bytes and the same sum as
//! [`engine::copier::portable`] (a property test).

use engine::copier::Copier;

/// All ways that this processor has beside the portable one, the fastest first.
fn every() -> Vec<Copier> {
    let mut all: Vec<Copier> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        // The first processors with wide registers ran slower while they were used; those with
        // VBMI2 do not.
        let [has_bytes, has_vbmi2, has_avx2] = [
            std::arch::is_x86_feature_detected!("avx512bw"),
            std::arch::is_x86_feature_detected!("avx512vbmi2"),
            std::arch::is_x86_feature_detected!("avx2"),
        ];
        if has_bytes && has_vbmi2 {
            all.push(avx512::copy_and_sum);
        }
        if has_avx2 {
            all.push(avx2::copy_and_sum);
        }
    }
    all
}

/// The fastest way that this processor has.
pub fn copier() -> Copier {
    every().into_iter().next().unwrap_or(engine::copier::portable)
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
mod tests {
    use super::*;
    use engine::wire::checksum::fold;
    use proptest::prelude::*;

    /// What is copied, and its sum, by the portable way and then by every other.
    fn results(from: &[u8]) -> Vec<(Vec<u8>, u16)> {
        let ways = std::iter::once(engine::copier::portable as Copier).chain(every());
        let run = |copy: Copier| {
            let mut to = vec![0; from.len()];
            let sum = copy(&mut to, from);
            assert!(sum < 1 << 48, "{sum:#x}");
            (to, fold(sum))
        };
        ways.map(run).collect()
    }

    fn agree(from: &[u8]) {
        let all = results(from);
        for one in &all {
            assert_eq!((&one.0[..], one.1), (from, all[0].1), "{} bytes", from.len());
        }
    }

    #[test]
    fn the_largest_frame_of_all_ones_does_not_overflow() {
        for len in [65_535, 66 * 1_024] {
            agree(&vec![0xff; len]);
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
            agree(from);
        }
    }
}
