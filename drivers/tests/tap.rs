//! TAP devices against the real kernel, in network namespaces. Needs root and `ip`.
//!
//! The kernel's own stack is the other end of every device: what it sends must arrive as it says,
//! and what we write must reach its sockets. Nothing here sleeps: every wait ends with a condition.

// The whole file is a test; clippy only knows that of functions marked so.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{
    CHUNK_COUNT, KERNEL_MAC, LIMIT, Namespace, OUR_MAC, TAIL_COUNT, frames, receive, send,
    udp_frame, wait_for, wait_readable,
};
use drivers::{DriverError, LinkChange, LinkWatch, NamespaceNumbers, Tap, TapOptions, TapQueue};
use engine::frame::{FrameBalancer, FramePool};
use engine::packet::{BATCH_BYTES_MAX, GsoKind};
use engine::{Batch, MacAddress, Offload, Packet, Port};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const KERNEL_IP: [u8; 4] = [10, 9, 0, 1];
const OUR_IP: [u8; 4] = [10, 9, 0, 2];

fn options(name: &str) -> TapOptions {
    TapOptions { mac: Some(MacAddress::new(KERNEL_MAC)), ..TapOptions::new(name) }
}

/// A namespace with one device that is up, has an address and knows ours.
fn world(options: &TapOptions) -> (Namespace, Vec<TapQueue>) {
    let namespace = Namespace::new();
    let queues = Tap::create_in(options, namespace.as_fd()).unwrap().into_queues();
    namespace.ip(&format!("address add 10.9.0.1/24 dev {}", options.name));
    namespace.ip(&format!("link set {} up", options.name));
    let neighbour = "neighbour replace 10.9.0.2 lladdr 02:00:00:00:00:02 nud permanent";
    namespace.ip(&format!("{neighbour} dev {}", options.name));
    (namespace, queues)
}

fn udp_socket(namespace: &Namespace) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::from(KERNEL_IP), 7000)).unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn is_udp_to(packet: &Packet, port: u16) -> bool {
    let head = packet.head();
    head.len() > 42
        && head[12..14] == [8, 0]
        && head[23] == 17
        && head[36..38] == port.to_be_bytes()
}

fn partial_udp(bytes: &[u8], frames: &mut FramePool) -> Packet {
    let mut packet = Packet::copy_of(bytes, frames).unwrap();
    packet.set_offload(Offload::NeedsChecksum { start: 34, offset: 6 });
    packet
}

#[test]
fn a_datagram_goes_in_and_its_answer_comes_out() {
    let (namespace, mut queues) = world(&options("eth0"));
    let queue = &mut queues[0];
    let mut frames = frames();
    let socket = udp_socket(&namespace);
    let packet = partial_udp(&udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), b"ping"), &mut frames);
    send(queue, &mut frames, packet);
    let mut buffer = [0; 100];
    let (len, peer) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], peer), (&b"ping"[..], SocketAddr::from((OUR_IP, 5000))));

    socket.send_to(b"pong!", peer).unwrap();
    let packet = receive("the answer", queue, &mut frames, |packet| is_udp_to(packet, 5000));
    assert_eq!(packet.head()[..12], [OUR_MAC, KERNEL_MAC].concat());
    assert_eq!(packet.head()[42..], *b"pong!");
    assert_eq!(packet.offload(), Offload::NeedsChecksum { start: 34, offset: 6 });
    packet.recycle(&mut frames);
    assert_eq!(frames.count(), (CHUNK_COUNT, TAIL_COUNT));
    assert_eq!(queue.held_frames(), (0, 0));
}

#[test]
fn the_device_is_made_as_asked() {
    let namespace = Namespace::new();
    let options = TapOptions { mtu: 1400, queue_len: 300, queues: 3, ..options("lan0") };
    let tap = Tap::create_in(&options, namespace.as_fd()).unwrap();
    assert_eq!((tap.name(), tap.caps().mtu), ("lan0", 1400));
    assert!(tap.caps().checksum && tap.caps().tso && tap.caps().uso);
    let link = namespace.ip("-details link show lan0");
    for part in ["mtu 1400", "qlen 300", "02:00:00:00:00:01", "multi_queue", "vnet_hdr"] {
        assert!(link.contains(part), "{part} is missing in {link}");
    }
    assert_eq!(tap.into_queues().len(), 3);
    wait_for("the device to go with its last queue", || {
        (!namespace.ip("link show").contains("lan0")).then_some(())
    });
}

#[test]
fn a_device_made_where_we_are_has_its_name_at_once() {
    let namespace = Namespace::new();
    let tap = namespace.enter(|| Tap::create(&options("lan0")).unwrap());
    assert!(namespace.ip("link show").contains("lan0"));
    assert_eq!(tap.name(), "lan0");
}

#[test]
fn a_name_in_use_is_refused_and_never_joined() {
    let namespace = Namespace::new();
    let first = Tap::create_in(&options("eth0"), namespace.as_fd()).unwrap();
    let again = Tap::create_in(&options("eth0"), namespace.as_fd()).unwrap_err();
    assert!(matches!(again, DriverError::NameInUse { .. }), "{again:?}");
    let inside = namespace.enter(|| Tap::create(&options("eth0")).unwrap_err());
    assert!(inside.to_string().contains("eth0 is in use"), "{inside}");
    let loopback = namespace.enter(|| Tap::create(&options("lo")).unwrap_err());
    assert!(matches!(loopback, DriverError::NameInUse { .. }), "{loopback:?}");
    // An independent client, without queues and vnet header, cannot join either.
    namespace.enter(|| {
        assert!(tun_tap::Iface::without_packet_info("eth0", tun_tap::Mode::Tap).is_err());
    });
    drop(first);
}

#[test]
fn an_mtu_that_no_device_can_have_is_refused() {
    let namespace = Namespace::new();
    for mtu in [0, 67, u16::MAX] {
        let options = TapOptions { mtu, ..options("eth0") };
        let error = Tap::create_in(&options, namespace.as_fd()).unwrap_err();
        assert!(error.to_string().contains("68 to 65521"), "{error}");
    }
    assert!(!namespace.ip("link show").contains("eth0"));
}

#[test]
fn a_file_that_is_no_namespace_is_refused_and_nothing_stays_behind() {
    let namespace = Namespace::new();
    let error = namespace.enter(|| {
        let file = std::fs::File::open("/dev/null").unwrap();
        Tap::create_in(&options("eth0"), file.as_fd()).unwrap_err()
    });
    assert!(error.to_string().contains("/run/netns/NAME"), "{error}");
    assert_eq!(namespace.ip("-oneline link show").lines().count(), 1, "only lo");
}

#[test]
fn without_the_capability_the_error_says_what_is_missing() {
    let namespace = Namespace::new();
    let error = namespace.enter(|| {
        // Capabilities belong to the thread, which ends with this closure.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.permitted.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        Tap::create(&options("eth0")).unwrap_err()
    });
    assert!(matches!(error, DriverError::NoPermission { .. }), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn a_batch_is_filled_in_order_and_never_beyond_its_capacity() {
    let (namespace, mut queues) = world(&options("eth0"));
    let queue = &mut queues[0];
    let mut frames = frames();
    let socket = udp_socket(&namespace);
    for number in 0..200u16 {
        socket.send_to(&number.to_be_bytes(), (Ipv4Addr::from(OUR_IP), 5000)).unwrap();
    }
    let mut numbers = Vec::new();
    let mut longest = 0;
    wait_for("200 datagrams", || {
        wait_readable(&[queue]);
        let mut batch = Batch::new();
        queue.rx(&mut frames, &mut batch);
        longest = longest.max(batch.len());
        for packet in batch {
            if is_udp_to(&packet, 5000) {
                numbers.push(u16::from_be_bytes([packet.head()[42], packet.head()[43]]));
            }
            packet.recycle(&mut frames);
        }
        (numbers.len() >= 200).then_some(())
    });
    assert_eq!(numbers, (0..200).collect::<Vec<u16>>());
    assert_eq!(longest, 64);
}

#[test]
fn an_empty_pool_leaves_packets_with_the_kernel() {
    let (namespace, mut queues) = world(&options("eth0"));
    let queue = &mut queues[0];
    let socket = udp_socket(&namespace);
    socket.send_to(b"waits", (Ipv4Addr::from(OUR_IP), 5000)).unwrap();
    let mut batch = Batch::new();
    let mut empty = FramePool::new(Vec::new(), Vec::new(), FrameBalancer::new(0, 0));
    queue.rx(&mut empty, &mut batch);
    assert!(batch.is_empty() && queue.alive());
    let mut frames = frames();
    let packet = receive("the datagram", queue, &mut frames, |packet| is_udp_to(packet, 5000));
    assert_eq!(packet.head()[42..], *b"waits");
}

#[test]
fn without_a_tail_long_packets_are_refused_and_short_ones_pass() {
    let (namespace, mut queues) = world(&TapOptions { mtu: 9000, ..options("eth0") });
    let queue = &mut queues[0];
    let chunks = engine::frame::heap_frames(64);
    let mut frames = FramePool::new(chunks, Vec::new(), FrameBalancer::new(64, 0));
    let socket = udp_socket(&namespace);
    let target = (Ipv4Addr::from(OUR_IP), 5000);
    socket.send_to(&[1; 5000], target).unwrap();
    socket.send_to(&[2; 1000], target).unwrap();
    let packet = receive("the short one", queue, &mut frames, |packet| is_udp_to(packet, 5000));
    assert_eq!(packet.head()[42..], [2; 1000]);
    assert_eq!(queue.take_rejected(), 1);
    packet.recycle(&mut frames);
    assert_eq!(frames.count(), (64, 0));
}

#[test]
fn a_packet_that_the_kernel_refuses_stops_no_other() {
    let (namespace, mut queues) = world(&options("eth0"));
    let queue = &mut queues[0];
    let mut frames = frames();
    let socket = udp_socket(&namespace);
    let bytes = udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), b"good");
    let mut out = Batch::new();
    out.push(partial_udp(&bytes, &mut frames));
    out[0].set_offload(Offload::NeedsChecksum { start: 60_000, offset: 6 });
    out.push(partial_udp(&bytes, &mut frames));
    queue.tx(&mut frames, &mut out);
    assert!(out.is_empty());
    assert_eq!((queue.take_rejected(), queue.take_rejected()), (1, 0));
    let mut buffer = [0; 100];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
    assert_eq!(frames.count(), (CHUNK_COUNT, TAIL_COUNT));
}

#[test]
fn a_link_that_is_down_takes_nothing_and_stays_alive() {
    let (namespace, mut queues) = world(&options("eth0"));
    let queue = &mut queues[0];
    let mut frames = frames();
    namespace.ip("link set eth0 down");
    let bytes = udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), b"late");
    let mut out = Batch::new();
    out.push(partial_udp(&bytes, &mut frames));
    out.push(partial_udp(&bytes, &mut frames));
    queue.tx(&mut frames, &mut out);
    assert_eq!(out.len(), 2);
    namespace.ip("link set eth0 up");
    queue.tx(&mut frames, &mut out);
    assert!(out.is_empty() && queue.alive());
    assert_eq!(queue.take_rejected(), 0);
}

#[test]
fn a_device_dies_with_its_namespace() {
    let (mut namespace, mut queues) = world(&TapOptions { queues: 2, ..options("eth0") });
    let mut frames = frames();
    let mut out = Batch::new();
    let bytes = udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), b"lost");
    out.push(partial_udp(&bytes, &mut frames));
    namespace.destroy();
    for queue in &mut queues {
        assert!(queue.alive());
        wait_for("the device to die", || {
            wait_readable(&[queue]);
            let mut batch = Batch::new();
            queue.rx(&mut frames, &mut batch);
            batch.into_iter().for_each(|packet| packet.recycle(&mut frames));
            (!queue.alive()).then_some(())
        });
        queue.tx(&mut frames, &mut out);
        assert_eq!(out.len(), 1, "what cannot be sent stays with the worker");
    }
    out.drain(..).for_each(|packet| packet.recycle(&mut frames));
    assert_eq!(frames.count(), (CHUNK_COUNT, TAIL_COUNT));
}

#[test]
fn flows_spread_over_the_queues_and_each_stays_on_one() {
    let (namespace, mut queues) = world(&TapOptions { queues: 2, ..options("eth0") });
    let mut frames = frames();
    let sockets: Vec<UdpSocket> = namespace.enter(|| {
        (0..32).map(|_| UdpSocket::bind((Ipv4Addr::from(KERNEL_IP), 0)).unwrap()).collect()
    });
    for socket in sockets.iter().chain(&sockets) {
        socket.send_to(b"x", (Ipv4Addr::from(OUR_IP), 5000)).unwrap();
    }
    let mut ports_of: [Vec<u16>; 2] = [Vec::new(), Vec::new()];
    wait_for("64 datagrams", || {
        wait_readable(&[&queues[0], &queues[1]]);
        for (queue, ports) in queues.iter_mut().zip(&mut ports_of) {
            let mut batch = Batch::new();
            queue.rx(&mut frames, &mut batch);
            for packet in batch {
                if is_udp_to(&packet, 5000) {
                    ports.push(u16::from_be_bytes([packet.head()[34], packet.head()[35]]));
                }
                packet.recycle(&mut frames);
            }
        }
        (ports_of[0].len() + ports_of[1].len() >= 64).then_some(())
    });
    assert!(!ports_of[0].is_empty() && !ports_of[1].is_empty());
    assert!(ports_of[0].iter().all(|port| !ports_of[1].contains(port)));
}

#[test]
fn a_udp_super_frame_is_cut_by_the_kernel_for_its_socket() {
    let (namespace, mut queues) = world(&options("eth0"));
    let mut frames = frames();
    let socket = udp_socket(&namespace);
    let payload: Vec<u8> = (0..20_500u32).map(|i| (i * 7) as u8).collect();
    let packet = udp_super_frame(KERNEL_IP, &payload, &mut frames);
    send(&mut queues[0], &mut frames, packet);
    let mut buffer = [0; 2000];
    let mut received = Vec::new();
    while received.len() < payload.len() {
        let len = socket.recv(&mut buffer).unwrap();
        assert!(len == 1000 || len == 500);
        received.extend_from_slice(&buffer[..len]);
    }
    assert_eq!(received, payload);
}

#[test]
fn a_udp_super_frame_that_the_kernel_forwards_arrives_whole() {
    let (namespace, mut queues) = world(&options("eth0"));
    let mut outside =
        Tap::create_in(&options("eth1"), namespace.as_fd()).unwrap().into_queues().remove(0);
    namespace.ip("address add 10.8.0.1/24 dev eth1");
    namespace.ip("link set eth1 up");
    namespace.ip("neighbour add 10.8.0.2 lladdr 02:00:00:00:00:02 nud permanent dev eth1");
    namespace.write_sysctl("ipv4/ip_forward", "1");
    let mut frames = frames();
    let payload: Vec<u8> = (0..20_500u32).map(|i| (i * 7) as u8).collect();
    let packet = udp_super_frame([10, 8, 0, 2], &payload, &mut frames);
    send(&mut queues[0], &mut frames, packet);
    let packet = receive("it", &mut outside, &mut frames, |packet| is_udp_to(packet, 7000));
    let kind = GsoKind::Udp;
    let expected = Offload::Gso { kind, segment_bytes: 1000, start: 34, ecn: false };
    assert_eq!(packet.offload(), expected);
    assert_eq!(packet.to_vec()[42..], payload);
}

#[test]
fn a_batch_ends_when_it_has_bytes_enough_and_says_that_more_waits() {
    const COUNT: usize = 10;
    let (namespace, mut queues) = world(&options("eth0"));
    let mut outside =
        Tap::create_in(&options("eth1"), namespace.as_fd()).unwrap().into_queues().remove(0);
    namespace.ip("address add 10.8.0.1/24 dev eth1");
    namespace.ip("link set eth1 up");
    namespace.ip("neighbour add 10.8.0.2 lladdr 02:00:00:00:00:02 nud permanent dev eth1");
    namespace.write_sysctl("ipv4/ip_forward", "1");
    let mut frames = frames();
    for _ in 0..COUNT {
        let packet = udp_super_frame([10, 8, 0, 2], &[7; 60_000], &mut frames);
        send(&mut queues[0], &mut frames, packet);
    }
    wait_readable(&[&outside]);
    // The kernel forwards in the writer's context: all of them wait now.
    let (mut arrived, mut batches) = (0, 0);
    while arrived < COUNT {
        let mut batch = Batch::new();
        outside.rx(&mut frames, &mut batch);
        let bytes: usize = batch.iter().map(Packet::len).sum();
        assert!(bytes < BATCH_BYTES_MAX + 65_600, "{bytes}");
        arrived += batch.iter().filter(|packet| is_udp_to(packet, 7000)).count();
        assert_eq!(outside.has_more(), bytes >= BATCH_BYTES_MAX, "{bytes}");
        batch.drain(..).for_each(|packet| packet.recycle(&mut frames));
        batches += 1;
        assert!(batches < 100, "{arrived} of {COUNT} arrived");
    }
    assert!(batches > 1);
    assert_eq!(frames.count(), (CHUNK_COUNT, TAIL_COUNT));
}

fn udp_super_frame(to: [u8; 4], payload: &[u8], frames: &mut FramePool) -> Packet {
    let bytes = udp_frame((OUR_IP, 5000), (to, 7000), payload);
    let mut packet = Packet::copy_of(&bytes, frames).unwrap();
    let kind = GsoKind::Udp;
    packet.set_offload(Offload::Gso { kind, segment_bytes: 1000, start: 34, ecn: false });
    packet
}

#[test]
fn tcp_super_frames_pass_from_tap_to_tap_over_ipv4() {
    let seen = tcp_through_two_taps("10.9.0.1/24", "10.9.0.2/24", "10.9.0.2");
    assert!(seen.super_frames.load(Ordering::Relaxed) > 0, "{seen:?}");
    assert_eq!(seen.rejected.load(Ordering::Relaxed), 0);
}

#[test]
fn tcp_super_frames_pass_from_tap_to_tap_over_ipv6() {
    let seen = tcp_through_two_taps("fd09::1/64", "fd09::2/64", "fd09::2");
    assert!(seen.super_frames.load(Ordering::Relaxed) > 0, "{seen:?}");
    assert_eq!(seen.rejected.load(Ordering::Relaxed), 0);
}

#[derive(Debug, Default)]
struct Seen {
    super_frames: AtomicUsize,
    rejected: AtomicUsize,
    stop: AtomicBool,
}

/// Copies packets between two devices, as a wire does, while TCP carries 16 MB over it.
fn tcp_through_two_taps(client: &str, server: &str, server_ip: &str) -> Seen {
    let ends = [Namespace::new(), Namespace::new()];
    let queue = |end: &Namespace, mac: [u8; 6], address: &str| {
        let options =
            TapOptions { mac: Some(MacAddress::new(mac)), queue_len: 1000, ..options("eth0") };
        let queue = Tap::create_in(&options, end.as_fd()).unwrap().into_queues().remove(0);
        let nodad = if address.contains(':') { " nodad" } else { "" };
        end.ip(&format!("address add {address} dev eth0{nodad}"));
        end.ip("link set eth0 up");
        queue
    };
    let mut queues = [queue(&ends[0], KERNEL_MAC, client), queue(&ends[1], OUR_MAC, server)];
    let seen = Seen::default();
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&mut queues, &seen));
        // Stops the copier also when an assertion below fails.
        let _stop = StopOnDrop(&seen.stop);
        tcp_transfer(&ends, server_ip);
    });
    seen
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy(queues: &mut [TapQueue; 2], seen: &Seen) {
    let mut frames = frames();
    while !seen.stop.load(Ordering::Relaxed) {
        wait_readable(&[&queues[0], &queues[1]]);
        for (from, to) in [(0, 1), (1, 0)] {
            let mut batch = Batch::new();
            queues[from].rx(&mut frames, &mut batch);
            let is_super = |packet: &&Packet| {
                matches!(packet.offload(), Offload::Gso { .. }) && !packet.tail().is_empty()
            };
            let super_frames = batch.iter().filter(is_super).count();
            seen.super_frames.fetch_add(super_frames, Ordering::Relaxed);
            queues[to].tx(&mut frames, &mut batch);
            batch.drain(..).for_each(|packet| packet.recycle(&mut frames));
            seen.rejected.fetch_add(queues[from].take_rejected() as usize, Ordering::Relaxed);
        }
    }
    assert_eq!(frames.count(), (CHUNK_COUNT, TAIL_COUNT));
}

fn tcp_transfer(ends: &[Namespace; 2], server_ip: &str) {
    let listener = ends[1].enter(|| TcpListener::bind((server_ip, 7000)).unwrap());
    let address: SocketAddr = listener.local_addr().unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i ^ (i >> 8)) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = ends[0].enter(|| TcpStream::connect_timeout(&address, LIMIT).unwrap());
            stream.set_write_timeout(Some(LIMIT)).unwrap();
            for _ in 0..16 {
                stream.write_all(&block).unwrap();
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut received = vec![0; block.len()];
        for _ in 0..16 {
            stream.read_exact(&mut received).unwrap();
            assert!(received == block, "the bytes arrive as they were sent");
        }
    });
}

fn persistent(name: &str, queues: usize) -> TapOptions {
    let alias = Some("portolan test".to_owned());
    TapOptions { persistent: true, alias, queues, ..options(name) }
}

#[test]
fn a_persistent_device_outlives_its_queues_and_is_joined_with_any_number_of_them() {
    let namespace = Namespace::new();
    drop(namespace.enter(|| Tap::create(&persistent("eth0", 2)).unwrap()));
    namespace.ip("address add 10.9.0.1/24 dev eth0");
    namespace.ip("link set eth0 up");
    let number = index_of(&namespace, "eth0");
    for queues in [3, 1, 2] {
        let more = TapOptions { mtu: 1300 + queues as u16, ..persistent("eth0", queues) };
        let tap = namespace.enter(|| Tap::join(&more, number).unwrap());
        assert_eq!(tap.caps().mtu, more.mtu);
        let link = namespace.ip("-details link show eth0");
        for part in [&format!("mtu {}", more.mtu), "LOWER_UP", "alias portolan test"] {
            assert!(link.contains(part), "{part} is not in {link}");
        }
        drop(tap);
        wait_for("the carrier to go", || {
            namespace.ip("link show eth0").contains("NO-CARRIER").then_some(())
        });
        assert_eq!(index_of(&namespace, "eth0"), number);
        assert!(namespace.ip("address show eth0").contains("10.9.0.1/24"));
    }
}

#[test]
fn packets_pass_again_through_a_device_that_was_joined() {
    let (namespace, queues) = world(&TapOptions { persistent: true, ..options("eth0") });
    let socket = udp_socket(&namespace);
    drop(queues);
    let number = index_of(&namespace, "eth0");
    // A MAC address that is set makes the kernel forget all neighbours, even if it is the same.
    let again = TapOptions { persistent: true, mac: None, ..options("eth0") };
    let tap = namespace.enter(|| Tap::join(&again, number).unwrap());
    let mut queues = tap.into_queues();
    let mut frames = frames();
    let packet = partial_udp(&udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), b"ping"), &mut frames);
    send(&mut queues[0], &mut frames, packet);
    let mut buffer = [0; 100];
    let (_, peer) = socket.recv_from(&mut buffer).unwrap();
    wait_for("an answer to pass", || {
        socket.send_to(b"pong!", peer).unwrap();
        let mut batch = Batch::new();
        wait_readable(&[&queues[0]]);
        queues[0].rx(&mut frames, &mut batch);
        let found = batch.iter().any(|packet| is_udp_to(packet, 5000));
        batch.into_iter().for_each(|packet| packet.recycle(&mut frames));
        found.then_some(())
    });
}

#[test]
fn only_the_device_that_is_meant_is_joined() {
    let namespace = Namespace::new();
    drop(namespace.enter(|| Tap::create(&persistent("eth0", 1)).unwrap()));
    let (other, missing, loopback) = namespace.enter(|| {
        let join = |name: &str, index| Tap::join(&persistent(name, 1), index).unwrap_err();
        (join("eth0", 999), join("eth7", 999), join("lo", 1))
    });
    assert!(matches!(other, DriverError::NameInUse { .. }), "{other:?}");
    assert!(matches!(loopback, DriverError::NameInUse { .. }), "{loopback:?}");
    assert!(missing.to_string().contains("vanished"), "{missing}");
    assert!(!namespace.ip("link show").contains("eth7"), "nothing was made instead");
}

#[test]
fn links_of_other_namespaces_are_followed_without_keeping_them_alive() {
    let mut namespace = Namespace::new();
    let mut watch = LinkWatch::open().unwrap();
    let number = NamespaceNumbers::open().unwrap().number(namespace.as_fd()).unwrap();
    let mut seen = Vec::new();
    let mut wait = |what: &str, wanted: &dyn Fn(&LinkChange) -> bool| {
        wait_for(what, || {
            seen.append(&mut watch.read());
            let place = seen.iter().position(wanted)?;
            seen.drain(..=place);
            Some(())
        });
    };
    let _tap = Tap::create_in(&options("eth0"), namespace.as_fd()).unwrap();
    namespace.ip("link set eth0 mtu 1280");
    namespace.ip("link set eth0 up");
    let index = index_of(&namespace, "eth0");
    let is = |name: &'static str, mtu, is_up| {
        move |change: &LinkChange| match change {
            LinkChange::Link(Some(at), link) => {
                *at == number && (&*link.name, link.mtu, link.is_up) == (name, mtu, is_up)
            }
            _ => false,
        }
    };
    wait("mtu", &is("eth0", 1280, false));
    wait("up", &is("eth0", 1280, true));
    namespace.ip("link set eth0 down");
    namespace.ip("link set eth0 name eth9");
    wait("name", &is("eth9", 1280, false));
    namespace.ip("link delete eth9");
    wait("end of the link", &|change| *change == LinkChange::Gone(Some(number), index));
    namespace.destroy();
    wait("end of the namespace", &|change| *change == LinkChange::NamespaceGone(number));
}

fn index_of(namespace: &Namespace, device: &str) -> u32 {
    let line = namespace.ip(&format!("-oneline link show {device}"));
    line.split(':').next().unwrap().parse().unwrap()
}
