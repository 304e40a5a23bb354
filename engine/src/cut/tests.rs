//! Super-frames of all shapes, cut and judged by etherparse.

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, NetSlice, PacketBuilder, TcpHeader,
    TransportSlice, VlanId,
};
use proptest::prelude::*;

use super::*;
use crate::frame::{FrameBalancer, heap_frames, heap_tails};
use crate::judge::judge;
use crate::packet::Notes;

pub(crate) fn pool(chunks: usize) -> FramePool {
    let tails = heap_tails(3);
    FramePool::new(heap_frames(chunks), tails, FrameBalancer::new(chunks, 3))
}

/// A super-frame to be built.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) v6: bool,
    pub(crate) is_tcp: bool,
    pub(crate) tag_count: usize,
    /// IPv4 options or an IPv6 hop-by-hop header of eight bytes.
    pub(crate) ip_options: bool,
    pub(crate) tcp_options_bytes: usize,
    pub(crate) flags: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) segment_bytes: u16,
    /// Payload bytes in the head frame.
    pub(crate) in_head: usize,
}

pub(crate) const PLAIN: Shape = Shape {
    v6: false,
    is_tcp: true,
    tag_count: 0,
    ip_options: false,
    tcp_options_bytes: 12,
    flags: tcp::ACK | tcp::PSH,
    payload_bytes: 10_000,
    segment_bytes: 1_448,
    in_head: 33,
};

const SEQUENCE: u32 = u32::MAX - 5_000;
const IDENTIFICATION: u16 = 0xfffe;

impl Shape {
    fn l3(&self) -> usize {
        14 + 4 * self.tag_count
    }

    pub(crate) fn l4(&self) -> usize {
        let ip = if self.v6 { 40 } else { 20 };
        self.l3() + ip + if self.ip_options { 8 } else { 0 }
    }

    pub(crate) fn header_bytes(&self) -> usize {
        self.l4() + if self.is_tcp { 20 + self.tcp_options_bytes } else { 8 }
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload_bytes).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    fn ip(&self) -> IpHeaders {
        if self.v6 {
            let mut extensions = etherparse::Ipv6Extensions::default();
            if self.ip_options {
                let header = etherparse::Ipv6RawExtHeader::new_raw(
                    IpNumber::TCP,
                    // PadN over all six bytes.
                    &[1, 4, 0, 0, 0, 0],
                );
                extensions.hop_by_hop_options = Some(header.unwrap());
            }
            let header = Ipv6Header {
                source: [0xfd; 16],
                destination: [0xfc; 16],
                hop_limit: 60,
                ..Default::default()
            };
            return IpHeaders::Ipv6(header, extensions);
        }
        let mut header =
            Ipv4Header::new(0, 60, IpNumber::TCP, [10, 1, 0, 10], [10, 2, 0, 7]).unwrap();
        header.identification = IDENTIFICATION;
        if self.ip_options {
            header.options = Ipv4Options::try_from(&[1u8; 8][..]).unwrap();
        }
        IpHeaders::Ipv4(header, Default::default())
    }

    /// The bytes of the super-frame. Its checksum is whole instead of partial, as cutting
    /// looks at neither.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let tag = |id| VlanId::try_new(id).unwrap();
        let builder = match self.tag_count {
            0 => ethernet.ip(self.ip()),
            1 => ethernet.single_vlan(tag(7)).ip(self.ip()),
            _ => ethernet.double_vlan(tag(7), tag(8)).ip(self.ip()),
        };
        let mut bytes = Vec::new();
        if self.is_tcp {
            let mut header = TcpHeader::new(40_000, 80, SEQUENCE, 1_000);
            header.set_options_raw(&vec![1; self.tcp_options_bytes]).unwrap();
            header.acknowledgment_number = 99;
            builder.tcp_header(header).write(&mut bytes, &self.payload()).unwrap();
            bytes[self.l4() + tcp::FLAGS] = self.flags;
        } else {
            builder.udp(5_000, 53).write(&mut bytes, &self.payload()).unwrap();
        }
        bytes
    }

    pub(crate) fn packet(&self, with_meta: bool, frames: &mut FramePool) -> Packet {
        let bytes = self.bytes();
        let split = bytes.len().min(self.header_bytes() + self.in_head);
        let mut head = frames.take_chunk().unwrap();
        head.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + split].copy_from_slice(&bytes[..split]);
        let mut packet = Packet::new(head, HEADROOM_BYTES, split);
        if split < bytes.len() {
            let mut tail = frames.take_tail().unwrap();
            tail.bytes_mut()[..bytes.len() - split].copy_from_slice(&bytes[split..]);
            packet.set_tail(tail, bytes.len() - split);
        }
        if with_meta {
            packet.meta.l3 = self.l3() as u16;
            packet.meta.l4 = self.l4() as u16;
            packet.meta.notes = Notes(if self.v6 { Notes::V6 } else { 0 });
        }
        packet.set_offload(Offload::Gso {
            kind: match (self.is_tcp, self.v6) {
                (true, false) => GsoKind::TcpV4,
                (true, true) => GsoKind::TcpV6,
                (false, _) => GsoKind::Udp,
            },
            segment_bytes: self.segment_bytes,
            start: self.l4() as u16,
            ecn: false,
        });
        packet
    }
}

/// Cuts and collects what comes out as bytes.
pub(crate) fn cut_all(
    packet: Packet,
    frames: &mut FramePool,
) -> (Result<usize, DropReason>, Vec<Vec<u8>>) {
    let mut segments = Vec::new();
    let result = cut(packet, frames, &mut |segment, frames| {
        assert_eq!(segment.offload(), Offload::None);
        segments.push(segment.to_vec());
        segment.recycle(frames);
    });
    (result, segments)
}

/// Cuts, and checks everything that can be said about segments from their super-frame.
fn check(shape: &Shape, with_meta: bool) {
    let mut frames = pool(4);
    let packet = shape.packet(with_meta, &mut frames);
    let (result, segments) = cut_all(packet, &mut frames);
    assert_eq!(frames.count(), (4, 3));
    let count = shape.payload_bytes.div_ceil(usize::from(shape.segment_bytes)).max(1);
    assert_eq!((result, segments.len()), (Ok(count), count));
    let mut payload = Vec::new();
    for (index, bytes) in segments.iter().enumerate() {
        assert!(bytes.len() <= shape.header_bytes() + usize::from(shape.segment_bytes));
        let sliced = judge(bytes);
        if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
            let expected = IDENTIFICATION.wrapping_add(index as u16);
            assert_eq!(ip.header().identification(), expected);
        }
        match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let sequence = SEQUENCE.wrapping_add(payload.len() as u32);
                assert_eq!(tcp.sequence_number(), sequence);
                let mut flags = shape.flags;
                if index > 0 {
                    flags &= !tcp::CWR;
                }
                if index + 1 < count {
                    flags &= !(tcp::FIN | tcp::PSH);
                }
                assert_eq!(bytes[shape.l4() + tcp::FLAGS], flags);
                assert_eq!(tcp.options(), vec![1; shape.tcp_options_bytes]);
                payload.extend_from_slice(tcp.payload());
            }
            Some(TransportSlice::Udp(udp)) => {
                assert_ne!(udp.checksum(), 0);
                payload.extend_from_slice(udp.payload());
            }
            _ => panic!("TCP or UDP"),
        }
    }
    assert!(payload == shape.payload(), "the payload comes out as it went in");
}

#[test]
fn a_super_frame_is_cut_into_segments_that_a_wire_can_carry() {
    check(&PLAIN, true);
    check(&Shape { v6: true, ..PLAIN }, true);
    check(&Shape { is_tcp: false, segment_bytes: 1_400, ..PLAIN }, true);
    check(&Shape { is_tcp: false, v6: true, ..PLAIN }, true);
}

#[test]
fn a_super_frame_that_was_never_parsed_is_cut_behind_its_tags() {
    for tag_count in 0..=2 {
        check(&Shape { tag_count, v6: tag_count == 1, ..PLAIN }, false);
    }
}

#[test]
fn payload_at_the_borders_is_cut_right() {
    // Nothing, one byte, one segment and its neighbours, and a multiple.
    for payload_bytes in [0, 1, 1_447, 1_448, 1_449, 4 * 1_448, 4 * 1_448 + 1] {
        for in_head in [0, 1, 33, 1_448] {
            check(&Shape { payload_bytes, in_head, ..PLAIN }, true);
        }
    }
    let most = 65_535 - 20 - 32;
    check(&Shape { payload_bytes: most, ..PLAIN }, true);
    check(&Shape { payload_bytes: most, segment_bytes: 9, ..PLAIN }, true);
    check(&Shape { v6: true, payload_bytes: 65_535 - 32, ..PLAIN }, true);
    check(&Shape { is_tcp: false, payload_bytes: 65_535 - 28, ..PLAIN }, true);
}

#[test]
fn segments_larger_than_a_chunk_have_a_tail() {
    for in_head in [0, 1_001] {
        for segment_bytes in [1_726, 1_727, 8_949] {
            check(&Shape { payload_bytes: 60_001, segment_bytes, in_head, ..PLAIN }, true);
        }
    }
}

/// TCP behind a routing header of this kind with these addresses, one of which is still ahead.
fn routed_super_frame(kind: u8, list: &[[u8; 16]], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![4; 12];
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    let ip_payload = 8 + 16 * list.len() + 20 + payload.len();
    bytes.extend((ip_payload as u16).to_be_bytes());
    bytes.extend([43, 64]);
    bytes.extend([[1; 16], [2; 16]].as_flattened());
    bytes.extend([6, 2 * list.len() as u8, kind, 1, (list.len() as u8).wrapping_sub(1), 0, 0, 0]);
    bytes.extend(list.as_flattened());
    bytes.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 4, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

#[test]
fn behind_a_routing_header_the_checksum_covers_the_last_address() {
    let (ends, first) = ([9; 16], [7; 16]);
    let lists: [(u8, &[[u8; 16]]); 4] =
        [(0, &[first, ends]), (2, &[ends]), (4, &[ends, first]), (4, &[ends])];
    let payload: Vec<u8> = (0..5_000).map(|index| (index % 251) as u8).collect();
    for (kind, list) in lists {
        let mut frames = pool(16);
        let bytes = routed_super_frame(kind, list, &payload);
        let l4 = 14 + 40 + 8 + 16 * list.len();
        let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
        set_gso(&mut packet, GsoKind::TcpV6, 1_000, l4 as u16);
        let mut joined = Vec::new();
        let count = cut(packet, &mut frames, &mut |segment, frames| {
            let bytes = segment.to_vec();
            let transport = &bytes[l4..];
            let addresses = [[1; 16], ends];
            let pseudo = pseudo_header(addresses.as_flattened(), protocol::TCP, transport.len());
            assert_eq!(fold(pseudo + sum(transport)), 0xffff, "type {kind}");
            joined.extend_from_slice(&transport[20..]);
            segment.recycle(frames);
        });
        assert_eq!((count, &joined), (Ok(5), &payload));
    }
    for (kind, list) in [(3, &[ends][..]), (2, &[first, ends]), (0, &[])] {
        let mut frames = pool(16);
        let bytes = routed_super_frame(kind, list, &payload);
        let l4 = (14 + 40 + 8 + 16 * list.len()) as u16;
        let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
        set_gso(&mut packet, GsoKind::TcpV6, 1_000, l4);
        let refused = cut(packet, &mut frames, &mut |segment, frames| segment.recycle(frames));
        assert_eq!(refused, Err(DropReason::CutFailed));
    }
}

#[test]
fn a_lie_about_a_super_frame_is_a_drop() {
    let lies: [&dyn Fn(&mut Packet); 12] = [
        &|packet| packet.set_offload(Offload::None),
        &|packet| set_gso(packet, GsoKind::TcpV4, 0, 34),
        &|packet| set_gso(packet, GsoKind::TcpV6, 1_448, 34),
        &|packet| set_gso(packet, GsoKind::Udp, 1_448, 34),
        &|packet| set_gso(packet, GsoKind::TcpV4, 1_448, 38),
        &|packet| set_gso(packet, GsoKind::TcpV4, 1_448, u16::MAX),
        &|packet| set_gso(packet, GsoKind::TcpV4, 1, 34),
        &|packet| packet.meta.l3 = u16::MAX,
        // TCP header longer than the head; shorter than it can be; total length; fragment.
        &|packet| packet.truncate(34 + 31),
        &|packet| packet.head_mut()[34 + tcp::DATA_OFFSET] = 0x40,
        &|packet| packet.head_mut()[14 + ipv4::TOTAL_LENGTH] = 0xff,
        &|packet| packet.head_mut()[14 + ipv4::FRAGMENT] = 0x20,
    ];
    for (index, lie) in lies.iter().enumerate() {
        let mut frames = pool(4);
        let mut packet = PLAIN.packet(true, &mut frames);
        lie(&mut packet);
        let (result, segments) = cut_all(packet, &mut frames);
        assert_eq!((result, segments.len()), (Err(DropReason::CutFailed), 0), "{index}");
        assert_eq!(frames.count(), (4, 3));
    }
}

fn set_gso(packet: &mut Packet, kind: GsoKind, segment_bytes: u16, start: u16) {
    packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: false });
}

#[test]
fn a_pool_that_runs_dry_ends_the_cut_and_loses_no_frame() {
    for segment_bytes in [1_448, 8_000] {
        let mut frames = pool(4);
        let packet = Shape { segment_bytes, payload_bytes: 60_000, ..PLAIN };
        let packet = packet.packet(true, &mut frames);
        let mut kept = Vec::new();
        let result = cut(packet, &mut frames, &mut |segment, _| kept.push(segment));
        assert_eq!(result, Err(DropReason::NoFrame));
        assert_eq!(kept.len(), if segment_bytes == 1_448 { 3 } else { 2 });
        kept.into_iter().for_each(|segment| segment.recycle(&mut frames));
        assert_eq!(frames.count(), (4, 3));
    }
}

/// A packet whose checksum is still the pseudo-header's sum.
fn with_partial_checksum(shape: &Shape, frames: &mut FramePool) -> Packet {
    let mut packet = shape.packet(true, frames);
    let (l3, l4) = (shape.l3(), shape.l4());
    let addresses =
        if shape.v6 { &packet.head()[l3 + 8..l3 + 40] } else { &packet.head()[l3 + 12..l3 + 20] };
    let number = if shape.is_tcp { 6 } else { 17 };
    let partial = fold(pseudo_header(addresses, number, packet.len() - l4));
    let offset = if shape.is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    write_u16(packet.head_mut(), l4 + offset, partial);
    packet.set_offload(Offload::NeedsChecksum { start: l4 as u16, offset: offset as u16 });
    packet
}

#[test]
fn a_partial_checksum_is_completed_across_head_and_tail() {
    for v6 in [false, true] {
        for is_tcp in [false, true] {
            for (payload_bytes, in_head) in [(0, 0), (1, 1), (1, 0), (3_000, 33), (3_001, 0)] {
                let mut frames = pool(4);
                let shape = Shape { v6, is_tcp, payload_bytes, in_head, ..PLAIN };
                let mut packet = with_partial_checksum(&shape, &mut frames);
                complete_checksum(&mut packet).unwrap();
                assert_eq!(packet.offload(), Offload::None);
                judge(&packet.to_vec());
            }
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let mut frames = pool(4);
    let shape = Shape { is_tcp: false, payload_bytes: 2, ..PLAIN };
    let mut packet = with_partial_checksum(&shape, &mut frames);
    complete_checksum(&mut packet).unwrap();
    let checksum = read_u16(packet.head(), 34 + udp::CHECKSUM);
    let word = read_u16(packet.head(), 42);
    let mut packet = with_partial_checksum(&shape, &mut frames);
    // Adding the checksum to a word of the payload makes the sum all ones.
    write_u16(packet.head_mut(), 42, fold(u64::from(word) + u64::from(checksum)));
    complete_checksum(&mut packet).unwrap();
    assert_eq!(read_u16(packet.head(), 34 + udp::CHECKSUM), 0xffff);
    judge(packet.head());
}

#[test]
fn a_checksum_in_a_wrong_place_is_refused() {
    let mut frames = pool(4);
    let mut packet = PLAIN.packet(true, &mut frames);
    let end = packet.head().len() as u16;
    for (start, offset) in [(end, 0), (end - 1, 0), (0, end - 1), (u16::MAX, u16::MAX)] {
        packet.set_offload(Offload::NeedsChecksum { start, offset });
        assert_eq!(complete_checksum(&mut packet), Err(DropReason::MalformedOffload));
    }
    packet.set_offload(Offload::NeedsChecksum { start: end - 2, offset: 0 });
    assert_eq!(complete_checksum(&mut packet), Ok(()));
}

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let headers = (any::<bool>(), any::<bool>(), 0usize..3, any::<bool>(), 0usize..=10);
    let sizes = (0usize..65_400, 100u16..9_000, 0usize..1_600, any::<u8>());
    (headers, sizes).prop_map(|(headers, sizes)| {
        let (v6, is_tcp, tag_count, ip_options, option_words) = headers;
        let (payload_bytes, segment_bytes, in_head, flags) = sizes;
        Shape {
            v6,
            is_tcp,
            tag_count,
            ip_options,
            tcp_options_bytes: option_words * 4,
            flags,
            payload_bytes,
            segment_bytes,
            in_head,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_super_frame_is_cut_right(shape in shapes(), with_meta in any::<bool>()) {
        check(&shape, with_meta);
    }

    #[test]
    fn a_copy_has_the_sum_of_its_source(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        split in 0usize..200,
        halves in 0usize..200,
    ) {
        let (first, second) = bytes.split_at(split.min(bytes.len()));
        let mut payload = Payload::new(first, second, crate::copier::portable);
        let mut copied = vec![0; bytes.len()];
        let halves = halves.min(bytes.len());
        let (to_first, to_second) = copied.split_at_mut(halves);
        let first_sum = payload.copy_to(to_first);
        let total = join(first_sum, halves, payload.copy_to(to_second));
        prop_assert_eq!(fold(total), fold(sum(&bytes)));
        prop_assert_eq!(copied, bytes);
    }

    #[test]
    fn damage_and_lies_never_panic_nor_lose_a_frame(
        shape in shapes(),
        damage in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
        len in prop_oneof![Just(usize::MAX), 0usize..200],
        l3 in prop_oneof![3 => Just(None), 1 => any::<u16>().prop_map(Some)],
        start in prop_oneof![3 => Just(None), 1 => (0u16..200).prop_map(Some)],
        offset in 0u16..2_000,
    ) {
        let mut frames = pool(4);
        let mut packet = shape.packet(true, &mut frames);
        for (at, value) in damage {
            if let Some(byte) = packet.head_mut().get_mut(at) {
                *byte = value;
            }
        }
        if len < packet.len() {
            packet.truncate(len);
        }
        packet.meta.l3 = l3.unwrap_or(packet.meta.l3);
        let Offload::Gso { kind, segment_bytes, start: old, .. } = packet.offload() else {
            unreachable!("a shape is a super-frame");
        };
        let start = start.unwrap_or(old);
        packet.set_offload(Offload::NeedsChecksum { start, offset });
        let _ = complete_checksum(&mut packet);
        packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: true });
        let (result, segments) = cut_all(packet, &mut frames);
        prop_assert_eq!(result.unwrap_or(0), segments.len());
        prop_assert_eq!(frames.count(), (4, 3));
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        (start, segment_bytes, offset) in (0u16..320, any::<u16>(), any::<u16>()),
        l3 in 0u16..320,
        kind in prop::sample::select(vec![GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp]),
    ) {
        let mut frames = pool(4);
        let mut packet = Packet::copy_of(&bytes, &mut frames).unwrap();
        packet.meta.l3 = l3;
        packet.set_offload(Offload::NeedsChecksum { start, offset });
        let _ = complete_checksum(&mut packet);
        packet.set_offload(Offload::Gso { kind, segment_bytes, start, ecn: true });
        let _ = cut_all(packet, &mut frames);
        prop_assert_eq!(frames.count(), (4, 3));
    }
}
