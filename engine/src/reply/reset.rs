//! TCP resets for connections that nobody here has.
//!
//! RFC 9293 section 3.10.7.1, a segment in state CLOSED. The one hard constraint: the reset must be
//! acceptable to the sender and to nobody else, so its numbers come from the segment alone. No
//! connection is looked at.

use super::{Envelope, HOP_LIMIT, Received, set};
use crate::frame::FramePool;
use crate::id::MacAddress;
use crate::packet::{Notes, Packet};
use crate::wire::{header_at, protocol, tcp, u32_at};

/// Offset of the ports, source first.
const PORTS: usize = 0;

/// The reset that answers a TCP segment, or `None` when there must be none: about a reset, from or
/// to a group (RFC 1122 section 4.2.3.10), or about a fragment, whose length nobody knows.
pub(crate) fn tcp_reset(
    offending: &Packet,
    own_mac: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    let received = Received::read(offending)?;
    let fragment = Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT;
    if offending.meta.protocol != protocol::TCP
        || offending.meta.notes.any(fragment)
        || !received.has_one_sender()
        || !received.is_to_one_station()
    {
        return None;
    }
    let l4 = usize::from(offending.meta.l4);
    let segment: &[u8; tcp::HEADER_BYTES] = header_at(offending.head(), l4)?;
    let header_bytes = usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
    let payload_bytes = received.end.checked_sub(l4 + header_bytes)?;
    let flags = segment[tcp::FLAGS];
    if flags & tcp::RST != 0 || header_bytes < tcp::HEADER_BYTES {
        return None;
    }
    let envelope = Envelope {
        source_mac: own_mac,
        destination_mac: received.source_mac,
        source: received.destination,
        destination: received.source,
        protocol: protocol::TCP,
        hop_limit: HOP_LIMIT,
        service: 0,
    };
    envelope.pack(tcp::HEADER_BYTES, frames, &|reset| {
        set(reset, PORTS, &segment[PORTS + 2..PORTS + 4]);
        set(reset, PORTS + 2, &segment[PORTS..PORTS + 2]);
        reset[tcp::DATA_OFFSET] = (tcp::HEADER_BYTES as u8 / 4) << 4;
        if flags & tcp::ACK != 0 {
            reset[tcp::FLAGS] = tcp::RST;
            let expected = u32_at(segment, tcp::ACKNOWLEDGEMENT);
            set(reset, tcp::SEQUENCE, &expected.to_be_bytes());
        } else {
            // SYN and FIN take a sequence number each (RFC 9293 section 3.4).
            let flag_count = (flags & (tcp::SYN | tcp::FIN)).count_ones();
            let after = u32_at(segment, tcp::SEQUENCE)
                .wrapping_add(payload_bytes as u32)
                .wrapping_add(flag_count);
            reset[tcp::FLAGS] = tcp::RST | tcp::ACK;
            set(reset, tcp::ACKNOWLEDGEMENT, &after.to_be_bytes());
        }
    })
}

#[cfg(test)]
mod tests {
    use etherparse::{TcpHeader, TransportSlice};
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::judge::judge;

    fn segment(v6: bool, payload: &[u8], change: &dyn Fn(&mut TcpHeader)) -> Vec<u8> {
        let mut header = TcpHeader::new(40_000, 80, 1_000, 64_240);
        change(&mut header);
        let mut bytes = Vec::new();
        from_peer(v6).tcp_header(header).write(&mut bytes, payload).unwrap();
        bytes
    }

    /// Sequence number, acknowledgement number, and whether ACK is set.
    fn numbers(reset: &[u8]) -> (u32, u32, bool) {
        let sliced = judge(reset);
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
        assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
        assert_eq!((&reset[..6], &reset[6..12]), (&PEER_MAC.bytes()[..], &OWN_MAC.bytes()[..]));
        (tcp.sequence_number(), tcp.acknowledgment_number(), tcp.ack())
    }

    #[test]
    fn a_syn_is_reset_with_its_number_acknowledged() {
        for v6 in [false, true] {
            let mut frames = pool();
            let packet = parsed(&segment(v6, &[], &|header| header.syn = true), &mut frames);
            let reset = bytes_of(tcp_reset(&packet, OWN_MAC, &mut frames), &mut frames);
            assert_eq!(numbers(&reset), (0, 1_001, true));
        }
    }

    #[test]
    fn data_and_fin_without_ack_count() {
        let mut frames = pool();
        let packet = parsed(&segment(false, b"hello", &|header| header.fin = true), &mut frames);
        let reset = bytes_of(tcp_reset(&packet, OWN_MAC, &mut frames), &mut frames);
        assert_eq!(numbers(&reset), (0, 1_006, true));
    }

    #[test]
    fn a_segment_with_ack_is_reset_at_the_number_that_it_expects() {
        for v6 in [false, true] {
            let mut frames = pool();
            let bytes = segment(v6, b"hello", &|header| {
                header.ack = true;
                header.acknowledgment_number = 77_000;
            });
            let packet = parsed(&bytes, &mut frames);
            let reset = bytes_of(tcp_reset(&packet, OWN_MAC, &mut frames), &mut frames);
            assert_eq!(numbers(&reset), (77_000, 0, false));
        }
    }

    #[test]
    fn an_ethernet_trailer_does_not_count_as_data() {
        let mut frames = pool();
        let mut bytes = segment(false, &[], &|header| header.syn = true);
        bytes.resize(60, 0);
        let packet = parsed(&bytes, &mut frames);
        let reset = bytes_of(tcp_reset(&packet, OWN_MAC, &mut frames), &mut frames);
        assert_eq!(numbers(&reset), (0, 1_001, true));
    }

    #[test]
    fn a_reset_or_a_segment_to_a_group_is_not_reset() {
        let mut frames = pool();
        let packet = parsed(&segment(false, &[], &|header| header.rst = true), &mut frames);
        assert!(tcp_reset(&packet, OWN_MAC, &mut frames).is_none());
        for (offset, value) in [(0, 0x01), (6, 0x01), (26, 224), (30, 239), (30, 255), (26, 0)] {
            let mut bytes = segment(false, &[], &|header| header.syn = true);
            bytes[offset] = value;
            if (offset, value) == (26, 0) {
                bytes[26..30].fill(0);
            }
            let packet = parsed(&bytes, &mut frames);
            assert!(tcp_reset(&packet, OWN_MAC, &mut frames).is_none(), "{offset} {value}");
            packet.recycle(&mut frames);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_well_formed_reset_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 15..120),
            v6 in any::<bool>(),
            l4 in 14u16..200,
            real_l4 in any::<bool>(),
        ) {
            let mut frames = pool();
            bytes[0] &= 0xfe;
            if bytes.len() > 6 { bytes[6] &= 0xfe; }
            bytes[14] = if v6 { 0x60 } else { 0x45 };
            let mut packet = parsed(&bytes, &mut frames);
            packet.meta.protocol = 6;
            if !real_l4 {
                packet.meta.l4 = l4;
            }
            if let Some(reset) = tcp_reset(&packet, OWN_MAC, &mut frames) {
                judge(reset.head());
                reset.recycle(&mut frames);
            }
            packet.recycle(&mut frames);
            prop_assert_eq!(frames.count(), (4, 2));
        }
    }
}
