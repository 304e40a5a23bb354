//! What is glued is what was sent: cut again it is the same bytes; what must not be glued is not.

use proptest::prelude::*;

use super::*;
use crate::cut::tests::{PLAIN, Shape as Super, cut_all, pool};
use crate::judge::judge;

const ALL: Caps = Caps { checksum: true, tso: true, uso: true, mtu: 1_500, tunnelled: false };

/// Chunks and tails of the tests' pool.
const POOL: (usize, usize) = (80, 3);

fn batch_of(frames: &mut FramePool, packets: &[Vec<u8>]) -> Batch {
    packets.iter().map(|bytes| Packet::copy_of(bytes, frames).unwrap()).collect()
}

/// Glues and takes apart again; what the batch had in it then, and what was cut from it.
fn glue_and_cut(packets: &[Vec<u8>], caps: Caps) -> (usize, Vec<Vec<u8>>) {
    let mut frames = pool(POOL.0);
    let mut batch = batch_of(&mut frames, packets);
    let before: usize = batch.iter().map(Packet::len).sum();
    let glued = glue(&mut batch, (caps, BATCH_LEN), &mut frames);
    let after: usize = batch.iter().map(Packet::len).sum();
    assert_eq!(before - after, glued.header_bytes as usize);
    assert_eq!(packets.len() - batch.len(), glued.packets as usize);
    let count = batch.len();
    let mut cut = Vec::new();
    for packet in batch.drain(..) {
        match packet.offload() {
            Offload::Gso { .. } => {
                let (result, segments) = cut_all(packet, &mut frames);
                assert_eq!(result, Ok(segments.len()));
                cut.extend(segments);
            }
            _ => {
                cut.push(packet.to_vec());
                packet.recycle(&mut frames);
            }
        }
    }
    assert_eq!(frames.count(), POOL, "every frame is back");
    (count, cut)
}

/// Segments of a super-frame, as they come off a wire.
fn segments(shape: &Super) -> Vec<Vec<u8>> {
    let mut frames = pool(POOL.0);
    let (result, segments) = cut_all(shape.packet(true, &mut frames), &mut frames);
    assert!(result.is_ok());
    segments
}

/// Not `assert_eq`: nobody reads so many bytes.
fn assert_not_glued(packets: &[Vec<u8>]) {
    let (count, cut) = glue_and_cut(packets, ALL);
    assert!(count == packets.len() && cut == packets, "{count} of {} are left", packets.len());
}

/// Gives a packet other bytes and sets its checksums right.
fn changed(packet: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    let shape = Shape::of(&packet, packet.len()).expect("it is plain");
    if !shape.v6 {
        packet[24..26].fill(0);
        let sum = !fold(sum(&packet[14..34]));
        write_u16(&mut packet, 24, sum);
    }
    let at = shape.l4 + if shape.is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    packet[at..at + 2].fill(0);
    let payload = packet.len() - shape.l4;
    let total = shape.sum(&packet, packet.len(), 0);
    assert!(payload > 0);
    write_u16(&mut packet, at, !fold(total));
    judge(&packet);
    packet
}

#[test]
fn cut_frames_glue_to_the_super_frame_that_they_come_from() {
    for v6 in [false, true] {
        for is_tcp in [false, true] {
            let shape = Super { v6, is_tcp, ..PLAIN };
            let packets = segments(&shape);
            assert_eq!(packets.len(), 7);
            let mut frames = pool(POOL.0);
            let mut batch = batch_of(&mut frames, &packets);
            assert_eq!(glue(&mut batch, (ALL, BATCH_LEN), &mut frames).packets, 6);
            let [packet] = &batch[..] else { panic!("{} packets", batch.len()) };
            let Offload::Gso { segment_bytes, start, .. } = packet.offload() else { panic!() };
            assert_eq!((segment_bytes, usize::from(start)), (1_448, shape.l4()));
            let (mut glued, mut sent) = (packet.to_vec(), shape.bytes());
            // The checksum is partial now; the test's super-frame has a whole one.
            let at = shape.l4() + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
            glued[at..at + 2].fill(0);
            sent[at..at + 2].fill(0);
            assert_eq!(glued, sent);
        }
    }
}

#[test]
fn a_port_is_given_only_what_it_takes() {
    let no_udp = Caps { uso: false, ..ALL };
    let tcp_packets = segments(&PLAIN);
    assert_eq!(glue_and_cut(&tcp_packets, no_udp), (1, tcp_packets.clone()));
    let udp_packets = segments(&Super { is_tcp: false, ..PLAIN });
    assert_eq!(glue_and_cut(&udp_packets, no_udp).0, udp_packets.len());
    assert_eq!(glue_and_cut(&tcp_packets, Caps { tso: false, ..ALL }).0, tcp_packets.len());
}

#[test]
fn push_and_fin_and_a_short_segment_end_a_super_frame() {
    let two = segments(&Super { payload_bytes: 4 * 1_448, ..PLAIN });
    for flag in [tcp::PSH, tcp::FIN] {
        let mut packets = two.clone();
        packets[1] = changed(&two[1], |bytes| bytes[34 + tcp::FLAGS] |= flag);
        assert_eq!(glue_and_cut(&packets, ALL), (2, packets));
    }
    // A short one, and behind it what continues it.
    let short = segments(&Super { payload_bytes: 1_448 + 100, flags: tcp::ACK, ..PLAIN });
    let end = u32::from_be_bytes(*short[1][38..].first_chunk().unwrap()) + 100;
    let next = changed(&short[0], |bytes| {
        bytes[38..42].copy_from_slice(&end.to_be_bytes());
        let number = read_u16(bytes, 18).wrapping_add(2);
        write_u16(bytes, 18, number);
    });
    let packets = [short, vec![next]].concat();
    assert_eq!(glue_and_cut(&packets, ALL), (2, packets.clone()));
}

#[test]
fn what_differs_in_a_header_is_not_glued() {
    let packets = segments(&Super { payload_bytes: 2 * 1_448, flags: tcp::ACK, ..PLAIN });
    assert_eq!(glue_and_cut(&packets, ALL).0, 1);
    type Change = (&'static str, fn(&mut [u8]));
    let changes: [Change; 13] = [
        ("source MAC", |bytes| bytes[11] ^= 1),
        ("ECN", |bytes| bytes[15] ^= 3),
        ("identification", |bytes| bytes[19] ^= 4),
        ("don't fragment", |bytes| bytes[20] ^= 0x40),
        ("TTL", |bytes| bytes[22] -= 1),
        ("address", |bytes| bytes[29] ^= 1),
        ("port", |bytes| bytes[34 + 1] ^= 1),
        ("sequence", |bytes| bytes[34 + 7] ^= 1),
        ("acknowledgement", |bytes| bytes[34 + 11] ^= 1),
        ("ECE", |bytes| bytes[34 + 13] |= tcp::ECE),
        ("CWR", |bytes| bytes[34 + 13] |= tcp::CWR),
        ("window", |bytes| bytes[34 + 15] ^= 1),
        // Of the time stamp option, or of any other.
        ("options", |bytes| bytes[34 + 21] ^= 2),
    ];
    for (what, change) in changes {
        let other = changed(&packets[1], change);
        println!("{what}");
        assert_not_glued(&[packets[0].clone(), other]);
    }
    for flag in [tcp::SYN, tcp::RST, 0x20] {
        let other = changed(&packets[1], |bytes| bytes[34 + 13] |= flag);
        assert_not_glued(&[packets[0].clone(), other]);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_and_alone() {
    for v6 in [false, true] {
        for is_tcp in [false, true] {
            let shape = Super { v6, is_tcp, payload_bytes: 3 * 1_448, flags: tcp::ACK, ..PLAIN };
            for wrong in 0..3 {
                let mut packets = segments(&shape);
                *packets[wrong].last_mut().unwrap() ^= 1;
                let (count, cut) = glue_and_cut(&packets, ALL);
                assert_eq!((count >= 2, cut), (true, packets));
            }
        }
    }
    let mut packets = segments(&Super { payload_bytes: 2 * 1_448, ..PLAIN });
    packets[1][24] ^= 1;
    assert_not_glued(&packets);
}

#[test]
fn nothing_overtakes_anything_of_its_flow() {
    let packets = segments(&Super { payload_bytes: 4 * 1_448, flags: tcp::ACK, ..PLAIN });
    let pure = changed(&packets[1][..66], |bytes| write_u16(bytes, 16, 52));
    let order = [packets[0].clone(), pure.clone(), packets[1].clone(), packets[2].clone()];
    assert_eq!(glue_and_cut(&order, ALL), (3, order.to_vec()));
    // A fragment or a packet with options may be of any flow.
    let odd = {
        let mut odd = pure;
        odd[14] = 0x46;
        odd
    };
    let order = [packets[0].clone(), odd, packets[1].clone()];
    assert_not_glued(&order);
}

#[test]
fn flows_that_alternate_are_each_glued() {
    let one = segments(&Super { payload_bytes: 5 * 1_448, ..PLAIN });
    let other: Vec<_> = one.iter().map(|bytes| changed(bytes, |bytes| bytes[35] ^= 1)).collect();
    let mixed: Vec<_> = one.iter().zip(&other).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let (count, cut) = glue_and_cut(&mixed, ALL);
    assert_eq!((count, cut), (2, [one, other].concat()));
}

#[test]
fn equal_identifications_are_glued_where_fragmenting_is_forbidden() {
    let packets = segments(&Super { payload_bytes: 3 * 1_448, flags: tcp::ACK, ..PLAIN });
    let same = |forbid: bool| -> Vec<_> {
        let change = |bytes: &mut [u8]| {
            write_u16(bytes, 18, 0);
            bytes[20] = if forbid { 0x40 } else { 0 };
        };
        packets.iter().map(|packet| changed(packet, change)).collect()
    };
    assert_eq!(glue_and_cut(&same(true), ALL).0, 1);
    assert_not_glued(&same(false));
}

#[test]
fn jumbo_frames_are_glued_as_well() {
    for (v6, is_tcp, payload_bytes) in
        [(false, true, 40_001), (true, true, 60_000), (false, false, 30_000)]
    {
        let shape = Super { v6, is_tcp, payload_bytes, segment_bytes: 8_900, ..PLAIN };
        let balancer = crate::frame::FrameBalancer::new(16, 16);
        let (chunks, tails) = (crate::frame::heap_frames(16), crate::frame::heap_tails(16));
        let mut frames = FramePool::new(chunks, tails, balancer);
        let (result, segments) = cut_all(shape.packet(true, &mut frames), &mut frames);
        assert_eq!(result, Ok(segments.len()));
        let mut batch = batch_of(&mut frames, &segments);
        let glued = glue(&mut batch, (ALL, BATCH_LEN), &mut frames);
        assert_eq!((glued.packets as usize, batch.len()), (segments.len() - 1, 1));
        let packet = batch.pop().expect("it is one");
        let (result, again) = cut_all(packet, &mut frames);
        assert!(result.is_ok() && again == segments, "cut again it is the same");
        // A wrong sum, in head or tail, passes alone.
        for at in [100, 5_000] {
            let mut wrong = segments.clone();
            wrong[1][at] ^= 1;
            let mut batch = batch_of(&mut frames, &wrong);
            let glued = glue(&mut batch, (ALL, BATCH_LEN), &mut frames);
            assert_eq!(glued.packets as usize, segments.len() - 3, "neither behind nor before it");
            batch.drain(..).for_each(|packet| packet.recycle(&mut frames));
        }
        assert_eq!(frames.count(), (16, 16), "every frame is back");
    }
}

#[test]
fn a_super_frame_has_no_more_packets_than_it_may() {
    for (most, packets) in [(1, 0), (2, 3), (3, 4), (7, 6), (64, 6)] {
        let (mut frames, segments) = (pool(POOL.0), segments(&PLAIN));
        assert_eq!(segments.len(), 7);
        let mut batch = batch_of(&mut frames, &segments);
        let glued = glue(&mut batch, (ALL, most), &mut frames);
        assert_eq!(glued.packets, packets, "at most {most}");
    }
}

#[test]
fn without_a_tail_packets_pass_as_they_are() {
    let packets = segments(&PLAIN);
    let mut frames = pool(POOL.0);
    let mut batch = batch_of(&mut frames, &packets);
    let tails: Vec<_> = std::iter::from_fn(|| frames.take_tail()).collect();
    assert_eq!(glue(&mut batch, (ALL, BATCH_LEN), &mut frames), Glued::default());
    let bytes: Vec<_> = batch.iter().map(Packet::to_vec).collect();
    assert_eq!(bytes, packets);
    tails.into_iter().for_each(|tail| frames.give_tail(tail));
    batch.drain(..).for_each(|packet| packet.recycle(&mut frames));
}

#[test]
fn a_super_frame_has_no_more_bytes_than_an_ip_packet() {
    let shape = Super { segment_bytes: 1_700, payload_bytes: 38 * 1_700, flags: tcp::ACK, ..PLAIN };
    let packets = segments(&Super { payload_bytes: 60_000, ..shape });
    let mut all = packets.clone();
    // Behind it as much again.
    let last = u32::from_be_bytes(*packets[34][38..].first_chunk().unwrap()) + 1_700;
    for (index, packet) in packets[..8].iter().enumerate() {
        all.truncate(35);
        let at = (last + index as u32 * 1_700).to_be_bytes();
        let number = read_u16(&packets[34], 18).wrapping_add(1 + index as u16);
        let mut next = all.clone();
        next.push(changed(packet, |bytes| {
            bytes[38..42].copy_from_slice(&at);
            write_u16(bytes, 18, number);
        }));
        all = next;
    }
    let (_, cut) = glue_and_cut(&all, ALL);
    assert_eq!(cut, all);
}

/// What a packet of the property is like.
#[derive(Clone, Debug)]
struct Wish {
    flow: u8,
    payload_bytes: usize,
    /// Which byte of it is changed, if any.
    odd: Option<(usize, u8)>,
    flags: u8,
    checked: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let odd = prop_oneof![4 => Just(None), 1 => (0usize..80, 1u8..).prop_map(Some)];
    let flags = prop_oneof![6 => Just(tcp::ACK), 1 => any::<u8>()];
    let bytes = prop_oneof![4 => Just(200usize), 1 => 0usize..400];
    let wish = (0u8..3, bytes, odd, flags, any::<bool>()).prop_map(
        |(flow, payload_bytes, odd, flags, checked)| Wish {
            flow,
            payload_bytes,
            odd,
            flags,
            checked,
        },
    );
    prop::collection::vec(wish, 0..64)
}

/// Packets of three flows, in order within each; some are changed, with or without right checksums.
fn packets_of(wishes: &[Wish], v6: bool, is_tcp: bool) -> Vec<Vec<u8>> {
    let mut sent = [0u32; 3];
    let mut numbers = [0u16; 3];
    let make = |wish: &Wish| {
        let flow = usize::from(wish.flow);
        let shape = Super {
            v6,
            is_tcp,
            payload_bytes: wish.payload_bytes,
            segment_bytes: 9_000,
            flags: tcp::ACK,
            ..PLAIN
        };
        let l4 = shape.l4();
        let mut packet = changed(&segments(&shape)[0], |bytes| {
            bytes[l4 + 1] = wish.flow;
            if is_tcp {
                bytes[l4 + 4..l4 + 8].copy_from_slice(&sent[flow].to_be_bytes());
                bytes[l4 + 13] = wish.flags;
            }
            if !v6 {
                write_u16(bytes, 18, numbers[flow]);
            }
        });
        sent[flow] = sent[flow].wrapping_add(wish.payload_bytes as u32);
        numbers[flow] = numbers[flow].wrapping_add(1);
        if let Some((at, value)) = wish.odd {
            let at = at.min(packet.len() - 1);
            packet[at] ^= value;
            let may = Shape::of(&packet, packet.len()).is_some_and(|shape| shape.is_tcp == is_tcp);
            if wish.checked && may && at != l4 + 12 && at != l4 + 4 && at != l4 + 5 {
                packet = changed(&packet, |_| {});
            }
        }
        packet
    };
    wishes.iter().map(make).collect()
}

/// Addresses and ports as far as a packet has them where plain ones do.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match Shape::of(packet, packet.len()) {
        Some(shape) => [&packet[shape.addresses()], &packet[shape.l4..shape.l4 + 4]].concat(),
        None => Vec::new(),
    }
}

/// A packet without its identification, where that means nothing: it is no fragment and must not
/// become one (RFC 6864). Such packets are glued when all have the same; cut again they are
/// counted.
fn unnumbered(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let is_whole_v4 = packet.get(12..15) == Some(&[8, 0, 0x45]) && packet.len() >= 34;
    if is_whole_v4
        && read_u16(&packet, 14 + ipv4::FRAGMENT) == ipv4::DONT_FRAGMENT
        && fold(sum(&packet[14..34])) == 0xffff
    {
        write_u16(&mut packet, 14 + ipv4::IDENTIFICATION, 0);
        write_u16(&mut packet, 14 + ipv4::CHECKSUM, 0);
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_each_flow_gets_the_same_bytes_in_the_same_order(
        wishes in wishes(), v6: bool, is_tcp: bool,
    ) {
        let packets = packets_of(&wishes, v6, is_tcp);
        let (_, cut) = glue_and_cut(&packets, ALL);
        prop_assert_eq!(cut.len(), packets.len());
        let mut flows: Vec<_> = packets.iter().map(|packet| flow_of(packet)).collect();
        flows.sort();
        flows.dedup();
        for flow in flows {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let own = all.iter().filter(|packet| flow_of(packet) == flow);
                own.map(|packet| unnumbered(packet)).collect()
            };
            prop_assert_eq!(of(&cut), of(&packets));
        }
    }

    #[test]
    fn any_super_frame_that_is_cut_is_glued_again(
        v6: bool, is_tcp: bool, words in 0usize..=10, payload_bytes in 1usize..60_000,
        // With the longest headers still a chunk: what needs a tail is not glued.
        segment_bytes in 1_000u16..1_660,
    ) {
        let shape = Super {
            v6, is_tcp, tcp_options_bytes: words * 4, payload_bytes, segment_bytes, ..PLAIN
        };
        let packets = segments(&shape);
        let (count, cut) = glue_and_cut(&packets, ALL);
        prop_assert_eq!((count, cut), (1, packets));
    }
}
