//! AF_XDP against the real kernel, on veth pairs in network namespaces. Needs root and `ip`.
//!
//! One end of each pair is ours, the other is the kernel's, in a namespace of its own. Every test
//! ends with all frames accounted for. Nothing here sleeps: every wait ends with a condition.

// The whole file is a test; clippy only knows that of functions marked so.
#![allow(clippy::unwrap_used)]
#![allow(dead_code, reason = "not all that the tests of drivers share is used here")]

mod common;
mod pair;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::wait_for;
use drivers::{
    DriverError, Region, Xdp, XdpMemory, XdpOptions, XdpPlace, XdpQueue, offloads_in_use,
    set_offloads,
};
use engine::frame::{FrameBalancer, FramePool};
use engine::packet::BATCH_LEN;
use engine::{Batch, Offload, Port};
use pair::{CHUNKS, OUR_IP, TAILS, World, path_of};

/// Says in which namespace the child of a test is to use a device, and be killed.
const CHILD_ENV: &str = "PORTOLAN_XDP_TEST_NAMESPACE";

const PLACES: [XdpPlace; 2] = [XdpPlace::Generic, XdpPlace::Native];

#[test]
fn a_datagram_goes_in_and_its_answer_comes_out_in_both_modes() {
    for place in PLACES {
        let mut world = World::new(1500);
        let options = world.options(place);
        let xdp = world.here.enter(|| Xdp::open(&options, &world.memory)).unwrap();
        assert_eq!((xdp.mode().place, xdp.mode().zero_copy), (place, false));
        drop(xdp);
        let mut queues = world.open(&options);
        let queue = &mut queues[0];
        let socket = world.socket();
        let ping = world.datagram(b"ping");
        world.send(queue, vec![ping]);
        let mut buffer = [0; 100];
        let (len, peer) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], peer), (&b"ping"[..], SocketAddr::from((OUR_IP, 5000))));
        socket.send_to(b"pong!", peer).unwrap();
        let packet = world.receive(queue);
        assert_eq!(packet.head()[42..47], *b"pong!");
        packet.recycle(&mut world.frames);
        world.assert_conserved(&queues);
        queues[0].release(&mut world.frames);
        world.assert_conserved(&queues);
        drop(queues);
        world.assert_conserved(&[]);
        let link = world.here.ip("-details link show ours");
        assert!(!link.contains("xdp"), "{link}");
    }
}

#[test]
fn more_than_one_call_sends_all_arrives_and_all_frames_come_back() {
    for place in PLACES {
        let mut world = World::new(1500);
        let mut queues = world.open(&world.options(place));
        let socket = world.socket();
        let mut received = 0;
        for _ in 0..4 {
            // Less than what the socket holds until we read it.
            let count = 2 * BATCH_LEN + 9;
            let packets = (0..count).map(|_| world.datagram(b"one of many")).collect();
            world.send(&mut queues[0], packets);
            let mut buffer = [0; 100];
            for _ in 0..count {
                assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 11);
                received += 1;
            }
            world.assert_conserved(&queues);
        }
        assert_eq!(received, 4 * (2 * BATCH_LEN + 9));
    }
}

#[test]
fn a_burst_beyond_the_ring_is_refused_in_order_and_nothing_is_lost() {
    let mut world = World::new(1500);
    let mut queues = world.open(&world.options(XdpPlace::Generic));
    // Nothing leaves a link that is down: the ring fills up.
    world.here.ip("link set ours down");
    let mut refused = 0;
    for _ in 0..20 {
        let mut batch: Batch = (0..BATCH_LEN).map(|_| world.datagram(b"x")).collect();
        queues[0].tx(&mut world.frames, &mut batch);
        refused += batch.len();
        batch.drain(..).for_each(|packet| packet.recycle(&mut world.frames));
        queues[0].flush(&mut world.frames);
        world.assert_conserved(&queues);
    }
    assert_eq!(refused, 20 * BATCH_LEN - 1024);
    assert!(queues[0].alive());
    world.here.ip("link set ours up");
    let socket = world.socket();
    wait_for("the first that waited", || {
        queues[0].flush(&mut world.frames);
        socket.set_nonblocking(true).unwrap();
        socket.recv_from(&mut [0; 10]).ok()
    });
    world.assert_conserved(&queues);
    drop(queues);
    world.assert_conserved(&[]);
}

#[test]
fn what_finds_the_ring_empty_is_counted_and_the_next_burst_finds_more_room() {
    let mut world = World::new(1500);
    let mut queues = world.open(&world.options(XdpPlace::Generic));
    let socket = world.socket();
    let to = SocketAddr::from((OUR_IP, 9));
    let mut batch = Batch::new();
    let mut take = |queue: &mut XdpQueue, frames: &mut FramePool| {
        queue.rx(frames, &mut batch);
        let count = batch.len();
        batch.drain(..).for_each(|packet| packet.recycle(frames));
        count
    };
    take(&mut queues[0], &mut world.frames);
    (0..3_000).for_each(|_| drop(socket.send_to(b"x", to)));
    wait_for("what was missed", || {
        while take(&mut queues[0], &mut world.frames) > 0 {}
        (queues[0].take_missed() > 0).then_some(())
    });
    (0..1_600).for_each(|_| drop(socket.send_to(b"x", to)));
    let mut received = 0;
    wait_for("more than the ring had room for at first", || {
        received += take(&mut queues[0], &mut world.frames);
        (received > 1_200).then_some(())
    });
    while take(&mut queues[0], &mut world.frames) > 0 {}
    world.assert_conserved(&queues);
    queues[0].release(&mut world.frames);
    drop(queues);
    world.assert_conserved(&[]);
}

#[test]
fn a_device_that_is_deleted_is_noticed_and_its_frames_come_back() {
    let mut world = World::new(1500);
    let mut queues = world.open(&world.options(XdpPlace::Generic));
    world.here.ip("link delete ours");
    let packet = world.datagram(b"x");
    let mut out = Batch::new();
    out.push(packet);
    queues[0].tx(&mut world.frames, &mut out);
    queues[0].flush(&mut world.frames);
    assert!(!queues[0].alive());
    world.assert_conserved(&queues);
    queues[0].release(&mut world.frames);
    drop(queues);
    world.assert_conserved(&[]);
}

#[test]
fn a_packet_longer_than_a_chunk_comes_and_goes_in_several() {
    for place in PLACES {
        let mut world = World::new(9000);
        let options = XdpOptions { mtu: 9000, ..world.options(place) };
        let mut queues = world.open(&options);
        assert!(queues[0].mode().multi_buffer);
        let socket = world.socket();
        let payload: Vec<u8> = (0..8900u32).map(|at| (at * 7) as u8).collect();
        let packet = world.datagram(&payload);
        world.send(&mut queues[0], vec![packet]);
        let mut buffer = vec![0; 10_000];
        let (len, peer) = socket.recv_from(&mut buffer).unwrap();
        assert!(buffer[..len] == payload, "{place:?}: {len} bytes arrived");
        socket.send_to(&payload, peer).unwrap();
        let packet = world.receive(&mut queues[0]);
        assert!(packet.to_vec()[42..] == payload, "{place:?}: {} bytes came", packet.len());
        packet.recycle(&mut world.frames);
        world.assert_conserved(&queues);
    }
}

#[test]
fn several_workers_share_a_queue_one_receives_and_each_sends() {
    let mut world = World::new(1500);
    let options = XdpOptions { workers: 3, ..world.options(XdpPlace::Generic) };
    let mut queues = world.open(&options);
    assert_eq!(queues.len(), 3);
    let socket = world.socket();
    for _ in 0..3 {
        for index in 0..3 {
            let packets = (0..70).map(|_| world.datagram(&[index])).collect();
            world.send(&mut queues[index as usize], packets);
            let mut buffer = [0; 10];
            for _ in 0..70 {
                assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 1);
                assert_eq!(buffer[0], index);
            }
            world.assert_conserved(&queues);
        }
    }
    socket.send_to(b"answer", SocketAddr::from((OUR_IP, 5000))).unwrap();
    world.receive(&mut queues[0]).recycle(&mut world.frames);
    drop(queues);
    world.assert_conserved(&[]);
}

#[test]
fn an_unfinished_checksum_is_seen_and_gone_once_the_peers_offloads_are_off() {
    let mut world = World::new(1500);
    let options = XdpOptions { finish_checksums: true, ..world.options(XdpPlace::Generic) };
    let mut queues = world.open(&options);
    let socket = world.socket();
    let to = SocketAddr::from((OUR_IP, 5000));
    socket.send_to(b"unfinished", to).unwrap();
    let packet = world.receive(&mut queues[0]);
    assert_eq!(packet.offload(), Offload::NeedsChecksum { start: 34, offset: 6 });
    packet.recycle(&mut world.frames);

    let off = world.there.enter(|| offloads_in_use("eth0")).unwrap();
    world.there.enter(|| set_offloads("eth0", &off, false)).unwrap();
    for name in ["tx-checksum-ip-generic", "tx-checksum-sctp", "tx-tcp-segmentation"] {
        assert!(off.iter().any(|off| off == name), "{name} is missing in {off:?}");
    }
    assert!(world.there.enter(|| offloads_in_use("eth0")).unwrap().is_empty(), "all are off");
    socket.send_to(b"finished", to).unwrap();
    let packet = world.receive(&mut queues[0]);
    assert_eq!(packet.offload(), Offload::None);
    assert_ne!(packet.head()[40..42], [0, 0]);
    packet.recycle(&mut world.frames);

    world.there.enter(|| set_offloads("eth0", &off, true)).unwrap();
    socket.send_to(b"unfinished", to).unwrap();
    let packet = world.receive(&mut queues[0]);
    assert_eq!(packet.offload(), Offload::NeedsChecksum { start: 34, offset: 6 });
    packet.recycle(&mut world.frames);
    assert_eq!(world.there.enter(|| offloads_in_use("eth0")).unwrap(), off);
}

#[test]
fn what_cannot_be_used_is_refused_with_what_to_do() {
    let mut world = World::new(1500);
    let error = world.here.enter(|| Xdp::open(&XdpOptions::new("none0"), &world.memory));
    assert!(matches!(error, Err(DriverError::NoDevice { .. })), "{error:?}");
    let queues = world.open(&world.options(XdpPlace::Generic));
    let again = world.options(XdpPlace::Generic);
    let error = world.here.enter(|| Xdp::open(&again, &world.memory)).unwrap_err();
    assert!(matches!(error, DriverError::DeviceInUse { .. }), "{error:?}");
    world.assert_conserved(&queues);
}

#[test]
fn more_queues_than_workers_are_refused_with_the_command_that_helps() {
    let world = World::new(1500);
    world.here.ip("link add wide numrxqueues 4 numtxqueues 4 type veth peer name narrow");
    let error = world.here.enter(|| Xdp::open(&XdpOptions::new("wide"), &world.memory));
    let Err(error) = error else { panic!("opened") };
    assert!(error.to_string().contains("ethtool -L wide combined 1"), "{error}");
    let options = XdpOptions { workers: 4, ..XdpOptions::new("wide") };
    let xdp = world.here.enter(|| Xdp::open(&options, &world.memory)).unwrap();
    assert_eq!(xdp.into_queues().len(), 4);
}

#[test]
fn after_a_kill_no_program_is_left_and_another_start_works_at_once() {
    if let Ok(path) = std::env::var(CHILD_ENV) {
        use_until_killed(&path);
    }
    let mut world = World::new(1500);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", std::thread::current().name().unwrap(), "--nocapture"])
        .env(CHILD_ENV, path_of(&world.here))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("in use")), "the child did not get so far");
    let link = world.here.ip("-details link show ours");
    assert!(link.contains("xdp"), "{link}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut queues = world.open(&world.options(XdpPlace::Native));
    let socket = world.socket();
    let packet = world.datagram(b"again");
    world.send(&mut queues[0], vec![packet]);
    assert_eq!(socket.recv_from(&mut [0; 10]).unwrap().0, 5);
    drop(queues);
    let link = world.here.ip("-details link show ours");
    assert!(!link.contains("xdp"), "{link}");
}

/// The child of the test above, which is the same test: uses the device of its parent's namespace
/// until it is killed.
fn use_until_killed(path: &str) -> ! {
    let file = std::fs::File::open(path).unwrap();
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
    let (region, _chunks, _tails) = Region::new(CHUNKS, TAILS).unwrap();
    let balancer = FrameBalancer::new(CHUNKS, TAILS);
    let memory = XdpMemory { region: Arc::new(region), balancer };
    let options = XdpOptions { place: Some(XdpPlace::Generic), ..XdpOptions::new("ours") };
    let _xdp = Xdp::open(&options, &memory).unwrap();
    println!("in use");
    loop {
        std::thread::park();
    }
}
