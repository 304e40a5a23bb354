//! Recognises a frame whose sender left its checksum to hardware that is not there.
//!
//! A veth hands frames over as its peer's stack made them; where the peer has checksum offload, the
//! transport checksum holds only the sum of the pseudo-header, and AF_XDP has no flag that says so.
//! Finishing a checksum that is finished would break the packet, so the one sign is taken: the
//! field equals the pseudo-header's sum exactly. A finished checksum does so by chance for one
//! packet in 65,536; its own sum then says which of the two it is.
//!
//! What this does not do: fragments, extension headers, SCTP. Their senders finish them, or have
//! the offload switched off (see `offloads`).

use engine::Offload;

/// Offsets in an Ethernet frame, in bytes.
const ETHER_TYPE: usize = 12;
const L3: usize = 14;

/// Transport protocols and where their checksums are.
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// What is left to do for a frame that lies in `bytes` whole.
pub(super) fn left_to_do(bytes: &[u8]) -> Offload {
    find(bytes).unwrap_or(Offload::None)
}

fn find(bytes: &[u8]) -> Option<Offload> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (addresses, protocol, l4, l4_bytes) = match word(ETHER_TYPE)? {
        0x0800 => {
            let header_bytes = usize::from(*bytes.get(L3)? & 15) * 4;
            // A fragment, first or later: its checksum covers what is not here.
            if *bytes.get(L3)? >> 4 != 4 || header_bytes < 20 || word(L3 + 6)? & 0x3fff != 0 {
                return None;
            }
            let l4_bytes = usize::from(word(L3 + 2)?).checked_sub(header_bytes)?;
            (bytes.get(L3 + 12..L3 + 20)?, *bytes.get(L3 + 9)?, L3 + header_bytes, l4_bytes)
        }
        0x86dd => {
            let l4_bytes = usize::from(word(L3 + 4)?);
            (bytes.get(L3 + 8..L3 + 40)?, *bytes.get(L3 + 6)?, L3 + 40, l4_bytes)
        }
        _ => return None,
    };
    let offset = match protocol {
        TCP => TCP_CHECKSUM,
        UDP => UDP_CHECKSUM,
        _ => return None,
    };
    let pseudo = sum(addresses) + u32::from(protocol) + l4_bytes as u32;
    let field = word(l4 + offset)?;
    if field != fold(pseudo) {
        return None;
    }
    let l4_whole = bytes.get(l4..l4 + l4_bytes)?;
    // All ones: finished, and right.
    if fold(pseudo + sum(l4_whole)) == 0xffff {
        return None;
    }
    Some(Offload::NeedsChecksum { start: l4 as u16, offset: offset as u16 })
}

/// The sum of big-endian words; a frame is too short for it to overflow.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words.map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with a transport header and payload; its checksum unfinished, or finished.
    fn frame(v6: bool, protocol: u8, payload: &[u8], finished: bool) -> Vec<u8> {
        let offset = if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let mut l4 = vec![0u8; if protocol == TCP { 20 } else { 8 }];
        l4[..4].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
        l4.extend_from_slice(payload);
        let mut bytes = vec![2u8; 12];
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, l4.len() as u8, protocol, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend([
                8,
                0,
                0x45,
                0,
                0,
                l4.len() as u8 + 20,
                1,
                2,
                0x40,
                0,
                64,
                protocol,
                0,
                0,
            ]);
            bytes.extend([10, 1, 0, 2, 192, 0, 2, 1]);
        }
        let addresses = if v6 { &bytes[22..] } else { &bytes[26..] };
        let pseudo = sum(addresses) + u32::from(protocol) + l4.len() as u32;
        let field = if finished { !fold(pseudo + sum(&l4)) } else { fold(pseudo) };
        l4[offset..offset + 2].copy_from_slice(&field.to_be_bytes());
        bytes.extend(l4);
        bytes
    }

    #[test]
    fn an_unfinished_checksum_is_found_in_both_families_and_protocols() {
        for (v6, start) in [(false, 34), (true, 54)] {
            for (protocol, offset) in [(TCP, 16), (UDP, 6)] {
                let found = left_to_do(&frame(v6, protocol, b"hello", false));
                assert_eq!(found, Offload::NeedsChecksum { start, offset });
                let found = left_to_do(&frame(v6, protocol, b"hello", true));
                assert_eq!(found, Offload::None);
            }
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_left_as_they_are() {
        let mut fragment = frame(false, UDP, b"hello", false);
        fragment[20] = 0x20;
        assert_eq!(left_to_do(&fragment), Offload::None);
        let mut other = frame(false, UDP, b"hello", false);
        other[23] = 132;
        assert_eq!(left_to_do(&other), Offload::None);
    }

    #[test]
    fn a_frame_that_is_cut_off_anywhere_is_left_as_it_is() {
        let whole = frame(true, TCP, b"hello", false);
        for end in 0..whole.len() {
            assert_eq!(left_to_do(&whole[..end]), Offload::None, "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_finished_checksum_is_never_touched(
            v6: bool,
            tcp: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let protocol = if tcp { TCP } else { UDP };
            let bytes = frame(v6, protocol, &payload, true);
            prop_assert_eq!(left_to_do(&bytes), Offload::None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..90),
        ) {
            left_to_do(&bytes);
        }
    }
}
