//! The way out for super-frames beside the rings of AF_XDP, against the real kernel. Needs root and
//! `ip`.
//!
//! The kernel's end of a veth pair hears what a relay sent. Every test ends with all frames
//! accounted for. Nothing here sleeps: every wait ends with a condition.

// The whole file is a test; clippy only knows that of functions marked so.
#![allow(clippy::unwrap_used)]
#![allow(dead_code, reason = "not all that the tests of drivers share is used here")]

mod common;
mod pair;

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use common::{sum, udp_frame, wait_for};
use drivers::{Xdp, XdpOptions, XdpPlace, XdpQueue, offloads_in_use, set_offloads};
use engine::packet::GsoKind;
use engine::{Batch, Offload, Packet, Port};
use pair::{KERNEL_IP, OUR_IP, World};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// `[outer Ethernet 14 | IPv4 20 | UDP 8 | VXLAN 8 | Ethernet 14 | IPv4 20 | TCP 20]`.
const OUTER_L4: usize = 34;
const INNER: usize = 50;
const INNER_L4: usize = INNER + 34;
const HEADERS: usize = INNER_L4 + 20;

fn with_relay(workers: usize) -> XdpOptions {
    XdpOptions { relay: true, workers, ..XdpOptions::new("ours") }
}

/// A super-frame for the kernel's socket: datagrams of 1,000 bytes, the last one shorter.
fn super_frame(world: &mut World, payload: &[u8]) -> Packet {
    let bytes = udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), payload);
    let mut packet = Packet::copy_of(&bytes, &mut world.frames).unwrap();
    let kind = GsoKind::Udp;
    packet.set_offload(Offload::Gso { kind, segment_bytes: 1000, start: 34, ecn: false });
    packet
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_000];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, SocketAddr::from((OUR_IP, 5000)));
    buffer[..len].to_vec()
}

#[test]
fn super_frames_leave_in_their_place_among_what_the_rings_send() {
    let mut world = World::new(1500);
    for workers in [1, 3] {
        let mut queues = world.open(&with_relay(workers));
        let socket = world.socket();
        for queue in &mut queues {
            let caps = queue.caps();
            assert!(caps.tso && caps.uso && !caps.checksum, "{caps:?}");
            let payload: Vec<u8> = (0..2_500u32).map(|at| (at * 7 / 3) as u8).collect();
            let packets = vec![
                world.datagram(b"first"),
                super_frame(&mut world, &payload),
                super_frame(&mut world, &payload[..1_001]),
                world.datagram(b"then"),
                world.datagram(b"and"),
                super_frame(&mut world, &payload[..2_000]),
            ];
            world.send(queue, packets);
            let expected = [
                b"first",
                &payload[..1_000],
                &payload[1_000..2_000],
                &payload[2_000..],
                &payload[..1_000],
                &payload[1_000..1_001],
                b"then",
                b"and",
                &payload[..1_000],
                &payload[1_000..2_000],
            ];
            for (at, expected) in expected.iter().enumerate() {
                assert!(heard(&socket) == *expected, "datagram {at} of {workers} workers");
            }
            assert_eq!(queue.take_rejected(), 0);
        }
        // What waits in the ring for the end of the turn goes before what follows by the relay.
        let (plain, long) = (world.datagram(b"before"), super_frame(&mut world, &[7; 1_500]));
        for packet in [plain, long] {
            let mut batch = Batch::new();
            batch.push(packet);
            queues[0].tx(&mut world.frames, &mut batch);
            assert!(batch.is_empty());
        }
        queues[0].flush(&mut world.frames);
        for expected in [&b"before"[..], &[7; 1_000], &[7; 500]] {
            assert!(heard(&socket) == expected);
        }
        world.assert_conserved(&queues);
        drop(queues);
        world.assert_conserved(&[]);
        let links = world.here.ip("link show");
        assert!(!links.contains("ptl-") && !links.contains("xdp"), "{links}");
    }
}

/// All IPv4 that comes to the kernel's end, as it comes.
fn tap_of_the_wire(world: &World) -> OwnedFd {
    /// `ETH_P_IP` in network order.
    const IPV4: u32 = 0x0800u16.to_be() as u32;
    let open = || {
        let protocol = Protocol::from_raw(NonZeroU32::new(IPV4).unwrap());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol))
    };
    world.there.enter(open).unwrap()
}

/// A TCP super-frame in a tunnel, as the engine leaves it: the inner checksum is partial, there is
/// no outer one.
fn tunnelled(payload: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0u8; 20];
    tcp[0..2].copy_from_slice(&4_000u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&80u16.to_be_bytes());
    tcp[4..8].copy_from_slice(&1_000_000u32.to_be_bytes());
    (tcp[12], tcp[13], tcp[14]) = (5 << 4, 0x10, 1);
    let inner = ip_frame(6, ([10, 1, 0, 1], [10, 1, 0, 2]), &[&tcp, payload].concat());
    let mut vxlan = vec![8, 0, 0, 0, 0, 16, 1, 0];
    vxlan.extend(inner);
    let ports = [50_000u16.to_be_bytes(), 4_789u16.to_be_bytes()].concat();
    let udp = [ports, ((8 + vxlan.len()) as u16).to_be_bytes().to_vec(), vec![0, 0]].concat();
    let mut frame = ip_frame(17, (OUR_IP, KERNEL_IP), &[udp, vxlan].concat());
    let partial = pseudo(&frame[INNER..], frame.len() - INNER_L4);
    frame[INNER_L4 + 16..INNER_L4 + 18].copy_from_slice(&partial.to_be_bytes());
    frame
}

/// Ethernet and IPv4 before a payload.
fn ip_frame(protocol: u8, (from, to): ([u8; 4], [u8; 4]), payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut header = [0u8; 20];
    (header[0], header[8], header[9]) = (0x45, 64, protocol);
    header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    header[12..16].copy_from_slice(&from);
    header[16..20].copy_from_slice(&to);
    let checksum = !sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// The sum of the pseudo-header of a frame of IPv4.
fn pseudo(frame: &[u8], l4_bytes: usize) -> u16 {
    let rest = [[0, frame[23]], (l4_bytes as u16).to_be_bytes()].concat();
    sum(&[&frame[26..34], &rest].concat())
}

#[test]
fn segments_from_a_tunnels_super_frame_are_whole_frames_with_right_checksums() {
    let mut world = World::new(1500);
    let mut queues = world.open(&with_relay(1));
    assert!(queues[0].caps().tunnelled, "TAPs take tunnels' super-frames since Linux 6.17");
    // As of a card that cannot: the kernel cuts and sums.
    let off = world.here.enter(|| offloads_in_use("ours")).unwrap();
    world.here.enter(|| set_offloads("ours", &off, false)).unwrap();
    let wire = tap_of_the_wire(&world);
    let payload: Vec<u8> = (0..30_000u32).map(|at| (at * 11 / 5) as u8).collect();
    let mut packet = Packet::copy_of(&tunnelled(&payload), &mut world.frames).unwrap();
    let (start, outer_l4) = (INNER_L4 as u16, OUTER_L4 as u8);
    let (kind, segment_bytes, ecn) = (GsoKind::TcpV4, 1_396, false);
    packet.set_offload(Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 });
    world.send(&mut queues[0], vec![packet]);
    let mut arrived = Vec::new();
    while arrived.len() < payload.len() {
        let mut buffer = [0u8; 2_000];
        let frame = wait_for("a segment", || {
            let (len, _) = recv(&wire, &mut buffer[..], RecvFlags::empty()).ok()?;
            Some(buffer[..len].to_vec()).filter(|frame| frame[26..30] == OUR_IP)
        });
        assert!(frame.len() <= HEADERS + 1_396, "{} bytes", frame.len());
        assert_eq!((sum(&frame[14..34]), sum(&frame[INNER + 14..INNER_L4])), (0xffff, 0xffff));
        let number = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        assert_eq!((number(16), number(38)), (frame.len() - 14, frame.len() - 34), "lengths");
        assert_eq!(number(40), 0, "the outer checksum");
        assert_eq!(frame[42..50], [8, 0, 0, 0, 0, 16, 1, 0], "VXLAN");
        let tcp = &frame[INNER_L4..];
        let pseudo = pseudo(&frame[INNER..], tcp.len());
        let whole = sum(&[&pseudo.to_be_bytes()[..], tcp].concat());
        assert_eq!(whole, 0xffff, "the inner checksum");
        let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        assert_eq!(sequence as usize, 1_000_000 + arrived.len());
        arrived.extend_from_slice(&tcp[20..]);
    }
    assert!(arrived == payload);
    world.assert_conserved(&queues);
}

#[test]
fn a_relay_that_is_deleted_ends_its_port() {
    let mut world = World::new(1500);
    let mut queues = world.open(&with_relay(1));
    assert!(queues[0].alive() && queues[0].mode().relay);
    let links = world.here.ip("-oneline link show");
    let name = links.lines().find_map(|line| Some(line.split_once(": ptl-")?.1)).unwrap();
    let (index, _) = name.split_once(':').unwrap();
    world.here.ip(&format!("link delete ptl-{index}"));
    let mut batch = Batch::new();
    batch.push(super_frame(&mut world, &[7; 1_500]));
    queues[0].tx(&mut world.frames, &mut batch);
    assert!(!queues[0].alive());
    batch.into_iter().for_each(|packet| packet.recycle(&mut world.frames));
    world.assert_conserved(&queues);
}

#[test]
fn without_a_relay_the_rings_work_and_it_is_said_why() {
    let mut world = World::new(1500);
    let index = world.here.ip("-oneline link show ours");
    let (index, _) = index.split_once(':').unwrap();
    world.here.ip(&format!("link add ptl-{index} type veth peer name other"));
    let open = || Xdp::open(&with_relay(1), &world.memory);
    let xdp = world.here.enter(open).unwrap();
    let why = xdp.relay_refused().expect("its name is taken").to_string();
    assert!(why.contains(&format!("ptl-{index}")), "{why}");
    assert!(!xdp.mode().relay);
    let mut queue: XdpQueue = xdp.into_queues().remove(0);
    assert!(!queue.caps().tso);
    let socket = world.socket();
    let datagram = world.datagram(b"alone");
    world.send(&mut queue, vec![datagram]);
    assert_eq!(heard(&socket), b"alone");
}

#[test]
fn a_veth_in_generic_mode_has_no_relay() {
    let world = World::new(1500);
    let options = XdpOptions { place: Some(XdpPlace::Generic), ..with_relay(1) };
    let xdp = world.here.enter(|| Xdp::open(&options, &world.memory)).unwrap();
    assert!(xdp.relay_refused().is_none() && !xdp.mode().relay);
    assert!(!xdp.into_queues()[0].caps().tso);
    assert!(!world.here.ip("link show").contains("ptl-"));
}
