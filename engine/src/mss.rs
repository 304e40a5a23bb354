//! Step 5 for SYN segments: lowers the segment size that they announce.
//!
//! `[TCP header 20 | options …: kind 1 | length 1 | value …]`, RFC 9293 section 3.2.
//!
//! Who gets a smaller announcement sends smaller segments, which fit where a router's errors do not
//! arrive (RFC 4459 section 3.2). The one hard constraint: an announcement is never raised, and
//! none is added. Without one a peer sends 536 or 1,220 bytes at most (RFC 9293 section 3.7.1),
//! which fits every path that is believed in, and there may be no room for another option. The
//! checksum moves by difference, so a wrong one stays wrong; a partial one does not cover options.

use crate::packet::{Offload, Packet};
use crate::wire::checksum::{apply, delta};
use crate::wire::tcp;

/// Kind of the option: end of the list.
const END: u8 = 0;
/// Kind of the option: none, one byte long.
const NO_OPERATION: u8 = 1;
/// Kind of the option: maximum segment size.
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Length of that option.
const OPTION_BYTES: usize = 4;

/// Lowers what a SYN announces to `mss_max`. False: there is nothing to lower, or options
/// contradict themselves, and the packet stays as it is.
pub(crate) fn clamp(packet: &mut Packet, mss_max: u16) -> bool {
    let (l4, is_partial) = (usize::from(packet.meta.l4), packet.offload() != Offload::None);
    let Some(header) = packet.head_mut().get_mut(l4..) else { return false };
    let Some(value_at) = find(header) else { return false };
    let old = u16::from_be_bytes([header[value_at], header[value_at + 1]]);
    if old <= mss_max {
        return false;
    }
    let new = mss_max.to_be_bytes();
    header[value_at..value_at + 2].copy_from_slice(&new);
    if is_partial {
        return true;
    }
    let old = old.to_be_bytes();
    let change = match value_at % 2 {
        0 => delta(&old, &new),
        // The value lies across two words.
        _ => delta(&[0, old[0], old[1], 0], &[0, new[0], new[1], 0]),
    };
    let sum_at = tcp::CHECKSUM;
    let checksum = u16::from_be_bytes([header[sum_at], header[sum_at + 1]]);
    header[sum_at..sum_at + 2].copy_from_slice(&apply(checksum, change).to_be_bytes());
    true
}

/// Where the announced value lies in a TCP header, if there is one.
fn find(header: &[u8]) -> Option<usize> {
    let header_bytes = usize::from(*header.get(tcp::DATA_OFFSET)? >> 4) * 4;
    let header = header.get(..header_bytes)?;
    let mut at = tcp::HEADER_BYTES;
    loop {
        match *header.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let bytes = usize::from(*header.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE {
                    let is_whole = bytes == OPTION_BYTES && at + OPTION_BYTES <= header_bytes;
                    return is_whole.then_some(at + 2);
                }
                // Shorter than itself: nothing behind it can be found.
                at += Some(bytes).filter(|&bytes| bytes >= 2)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
    use crate::judge::judge;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn pool() -> FramePool {
        FramePool::new(heap_frames(2), heap_tails(1), FrameBalancer::new(2, 1))
    }

    /// A SYN with these bytes of options, padded.
    fn syn(v6: bool, options: &[u8], frames: &mut FramePool) -> Packet {
        let mut padded = options.to_vec();
        padded.resize(options.len().next_multiple_of(4), END);
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = match v6 {
            true => builder.ipv6([1; 16], [2; 16], 64),
            false => builder.ipv4([1; 4], [2; 4], 64),
        };
        let tcp = builder.tcp(1_234, 80, 77, 500).syn().options_raw(&padded).unwrap();
        tcp.write(&mut bytes, b"").unwrap();
        let mut packet = Packet::copy_of(&bytes, frames).unwrap();
        packet.meta.l3 = 14;
        packet.meta.l4 = if v6 { 54 } else { 34 };
        packet
    }

    /// The value that a packet announces.
    fn announced(packet: &Packet) -> Option<u16> {
        let header = &packet.head()[usize::from(packet.meta.l4)..];
        find(header).map(|at| u16::from_be_bytes([header[at], header[at + 1]]))
    }

    #[test]
    fn an_announcement_is_lowered_wherever_it_lies_and_its_checksum_stays_right() {
        let mut frames = pool();
        let places: [&[u8]; 4] = [
            &[2, 4, 0x05, 0xb4],
            &[1, 2, 4, 0x05, 0xb4],
            &[4, 2, 1, 1, 2, 4, 0x05, 0xb4],
            &[3, 3, 7, 2, 4, 0x05, 0xb4, 1],
        ];
        for v6 in [false, true] {
            for options in places {
                let mut packet = syn(v6, options, &mut frames);
                judge(packet.head());
                clamp(&mut packet, 1_360);
                assert_eq!(announced(&packet), Some(1_360));
                judge(packet.head());
                packet.recycle(&mut frames);
            }
        }
    }

    #[test]
    fn an_announcement_is_never_raised_and_none_is_added() {
        let mut frames = pool();
        let untouched: [&[u8]; 7] = [
            &[],
            &[2, 4, 0x05, 0x50],
            &[0, 2, 4, 0x05, 0xb4],
            &[2, 3, 0x05],
            &[2, 4, 0x05],
            &[3, 0, 2, 4, 0x05, 0xb4],
            &[3, 40, 1, 1, 2, 4, 0x05, 0xb4],
        ];
        for options in untouched {
            let mut packet = syn(false, options, &mut frames);
            let before = packet.to_vec();
            clamp(&mut packet, 1_360);
            assert_eq!(packet.to_vec(), before, "{options:?}");
            packet.recycle(&mut frames);
        }
    }

    #[test]
    fn a_partial_checksum_covers_no_options() {
        let mut frames = pool();
        let mut packet = syn(false, &[2, 4, 0x05, 0xb4], &mut frames);
        packet.set_offload(Offload::NeedsChecksum { start: 34, offset: 16 });
        let before = packet.head()[34 + tcp::CHECKSUM..34 + tcp::CHECKSUM + 2].to_vec();
        clamp(&mut packet, 1_000);
        assert_eq!(announced(&packet), Some(1_000));
        assert_eq!(packet.head()[34 + tcp::CHECKSUM..34 + tcp::CHECKSUM + 2], before);
    }

    proptest! {
        #[test]
        fn whatever_the_options_nothing_panics_and_a_right_checksum_stays_right(
            options in prop::collection::vec(0u8..6, 0..=40), mss_max in 1u16.., v6: bool,
            cut in 0usize..90,
        ) {
            let mut frames = pool();
            let mut packet = syn(v6, &options, &mut frames);
            let before = announced(&packet);
            clamp(&mut packet, mss_max);
            judge(packet.head());
            prop_assert_eq!(announced(&packet), before.map(|before| before.min(mss_max)));
            packet.truncate(cut.min(packet.len()));
            clamp(&mut packet, 1);
        }
    }
}
