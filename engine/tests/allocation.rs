//! The packet path allocates nothing and frees nothing, whatever comes.
//!
//! A worker is driven through [`Worker::turn`] by ports that hold prepared packets, under an
//! allocator that counts per thread. Each test makes one thing happen, says by the counters that it
//! did happen, and wants no allocation during all turns. Set-up (new tables, attaching a port) may
//! allocate and is not measured.

mod common;
#[path = "allocation/lanes.rs"]
mod lanes;
#[path = "allocation/tunnels.rs"]
mod tunnels;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use engine::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::limits::Limits;
use engine::sim::WireFrame;
use engine::sim::frames::{UDP, ethernet, flags};
use engine::tables::PortKind;
use engine::trace::TraceFilter;
use engine::worker::{Tracer, WorkerParts};
use engine::{
    Batch, Caps, Counters, DropReason, Instant, MacAddress, Packet, Port, PortSet, Tables, Worker,
    WorkerId,
};

/// Chunks of each worker.
const CHUNK_COUNT: usize = 2_048;

/// What a port is about to receive, and how many packets it has sent.
#[derive(Debug, Default)]
struct Line {
    waiting: Vec<WireFrame>,
    next: usize,
    sent: usize,
}

/// A port that copies prepared packets into frames and forgets what it sends.
struct PreparedPort(Arc<Mutex<Line>>, Caps);

impl Port for PreparedPort {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        let mut line = self.0.lock().expect("no holder panics");
        while !batch.is_full() {
            let Some(frame) = line.waiting.get(line.next) else { return };
            let mut packet = Packet::copy_of(&frame.bytes, frames).expect("there are enough");
            packet.set_offload(frame.offload);
            batch.push(packet);
            line.next += 1;
        }
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        self.0.lock().expect("no holder panics").sent += out.len();
        out.drain(..).for_each(|packet| packet.recycle(frames));
    }

    fn flush(&mut self, _frames: &mut FramePool) {}

    fn caps(&self) -> Caps {
        self.1
    }
}

/// One or more workers whose ports hold prepared packets.
struct Engine {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    ready: Vec<PortSet>,
    /// By worker, then by port.
    lines: Vec<Vec<Arc<Mutex<Line>>>>,
    now: Instant,
}

impl Engine {
    fn new(worker_count: usize, change: impl FnOnce(&mut Limits)) -> Engine {
        let mut tables = tables();
        change(Arc::make_mut(&mut tables.limits));
        Engine::with_tables(worker_count, tables)
    }

    fn with_tables(worker_count: usize, tables: Tables) -> Engine {
        Engine::with_caps(worker_count, tables, Caps { mtu: 1_500, ..Caps::default() })
    }

    fn with_caps(worker_count: usize, tables: Tables, caps: Caps) -> Engine {
        let tables = Arc::new(tables);
        let port_count = tables.ports.len();
        let now = Instant(1_000_000_000);
        let balancer = FrameBalancer::new(worker_count * CHUNK_COUNT, worker_count * 64);
        let rings = HandOverRings::mesh(worker_count, tables.limits.hand_over as usize);
        let mut engine = Engine {
            workers: Vec::new(),
            counters: Vec::new(),
            ready: vec![PortSet::new(port_count); worker_count],
            lines: Vec::new(),
            now,
        };
        for (index, rings) in rings.into_iter().enumerate() {
            let counters = Counters::new(port_count);
            let chunks = heap_frames(CHUNK_COUNT);
            let tails = heap_tails(64);
            let mut worker = Worker::new(WorkerParts {
                id: WorkerId(index as u8),
                frames: FramePool::new(chunks, tails, balancer.clone()),
                counters: counters.clone(),
                rings,
                tables: tables.clone(),
                seed: 0x0123_4567_89ab_cdef,
                cache: true,
                now,
            });
            let lines: Vec<Arc<Mutex<Line>>> = (0..port_count).map(|_| Arc::default()).collect();
            for (port, line) in tables.ports.iter().flatten().zip(&lines) {
                if !matches!(port.kind, PortKind::Tunnel(_) | PortKind::Lane(_)) {
                    worker.attach(port.id, Box::new(PreparedPort(line.clone(), caps)));
                }
            }
            engine.workers.push(worker);
            engine.counters.push(counters);
            engine.lines.push(lines);
        }
        engine.turn("announcements", 50, Duration::from_millis(100));
        engine
            .lines
            .iter()
            .flatten()
            .for_each(|line| line.lock().expect("no holder panics").sent = 0);
        engine
    }

    /// Prepares a packet that arrives at a worker's queue of a host's port.
    fn prepare_at(&mut self, worker: usize, host: &Host, frame: WireFrame) {
        self.lines[worker][host.port.index()].lock().expect("no holder panics").waiting.push(frame);
        self.ready[worker].insert(host.port);
    }

    fn prepare(&mut self, host: &Host, bytes: Vec<u8>) {
        self.prepare_at(0, host, WireFrame::whole(bytes));
    }

    /// Turns all workers so often, a little later each time, and wants no allocation meanwhile.
    fn turn(&mut self, what: &str, count: usize, every: Duration) {
        let measured = allocation_counter::measure(|| {
            for _ in 0..count {
                self.now = self.now + every;
                for (worker, ready) in self.workers.iter_mut().zip(&mut self.ready) {
                    worker.turn(self.now, ready);
                }
            }
        });
        // None made, and so none given back that was not made here.
        let counted = (measured.count_total, measured.count_current);
        assert_eq!(counted, (0, 0), "{what}: allocations, and what is left of them");
        for line in self.lines.iter().flatten() {
            let mut line = line.lock().expect("no holder panics");
            assert_eq!(line.next, line.waiting.len(), "{what}: everything was received");
            line.waiting.clear();
            line.next = 0;
        }
    }

    /// Turns until what was prepared is dealt with.
    fn settle(&mut self, what: &str) {
        self.turn(what, 64, Duration::from_micros(10));
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|counters| counters.dropped(reason).get()).sum()
    }

    fn sum(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(|counters| counter(counters)).sum()
    }

    fn sent(&self, host: &Host) -> usize {
        self.lines
            .iter()
            .map(|lines| lines[host.port.index()].lock().expect("no holder panics").sent)
            .sum()
    }

    /// The router and the client say where they are, once somebody asks.
    fn meet_neighbours(&mut self) {
        for v6 in [false, true] {
            for host in [ROUTER, CLIENT] {
                self.prepare(&host, i_have(&host, host.ip(v6), own(v6)));
            }
        }
        self.settle("neighbours answer");
    }
}

#[test]
fn first_packets_and_hits_through_nat_allocate_nothing() {
    for v6 in [false, true] {
        let mut engine = Engine::new(1, |_| ());
        let out = udp(&WEB, 40_000, (FAR.ip(v6), 53));
        engine.prepare(&WEB, out.clone());
        engine.settle("a first packet out");
        engine.meet_neighbours();
        engine.prepare(&CLIENT, tcp(&CLIENT, 50_000, (own(v6), 8_080), flags::SYN));
        engine.settle("a first packet in");
        assert_eq!(engine.sum(|counters| counters.worker.misses.get()), 2);
        for _ in 0..200 {
            engine.prepare(&WEB, out.clone());
            engine.prepare(&FAR, udp(&FAR, 53, (own(v6), 40_000)));
        }
        engine.settle("hits");
        assert_eq!(engine.sum(|counters| counters.worker.hits.get()), 400);
    }
}

#[test]
fn following_live_packets_allocates_nothing_and_so_does_a_full_ring() {
    for v6 in [false, true] {
        let mut engine = Engine::new(1, |_| ());
        let (tracer, mut reader) = Tracer::new(TraceFilter::default(), 8);
        engine.workers[0].trace(tracer).unwrap();
        for port in 40_000..40_020 {
            engine.prepare(&WEB, udp(&WEB, port, (FAR.ip(v6), 53)));
            engine.prepare(&FAR, udp(&FAR, port, (WEB.ip(v6), 80)));
            engine.prepare(&WEB, bridged(&WEB, &DB, v6));
        }
        engine.settle("packets that somebody follows");
        engine.meet_neighbours();
        assert!(reader.lost() > 0 && reader.next_record().is_some());
        assert!(engine.sent(&DB) >= 20 && engine.dropped(DropReason::Unpublished) == 20);
    }
}

#[test]
fn echo_through_nat_allocates_nothing() {
    for v6 in [false, true] {
        let mut engine = Engine::new(1, |_| ());
        engine.prepare(&WEB, echo(&WEB, 7, FAR.ip(v6)));
        engine.settle("a first echo");
        engine.meet_neighbours();
        engine.prepare(&WEB, echo(&WEB, 7, FAR.ip(v6)));
        engine.settle("a second echo");
        assert!(engine.sent(&FAR) >= 2);
    }
}

#[test]
fn bridging_and_flooding_allocate_nothing() {
    let mut engine = Engine::new(1, |_| ());
    for v6 in [false, true] {
        for _ in 0..100 {
            engine.prepare(&WEB, bridged(&WEB, &DB, v6));
        }
        engine.prepare(&WEB, who_has(&WEB, DB.ip(v6)));
    }
    engine.prepare(&WEB, strange(WEB.mac, MacAddress::BROADCAST));
    engine.settle("frames inside a network");
    assert_eq!(engine.sum(|counters| counters.worker.floods.get()), 3);
    assert!(engine.sum(|counters| counters.worker.hits.get()) >= 199);
}

#[test]
fn answers_allocate_nothing() {
    let mut engine = Engine::new(1, |_| ());
    for v6 in [false, true] {
        let inside = gateway(1, v6);
        engine.prepare(&WEB, who_has(&WEB, inside));
        engine.prepare(&WEB, echo(&WEB, 1, inside));
        engine.prepare(&WEB, tcp(&WEB, 40_000, (inside, 9), flags::SYN));
        engine.prepare(&WEB, udp(&WEB, 40_000, (inside, 9)));
        let header = with_hops(header(&WEB, FAR.ip(v6), UDP), 1);
        engine.prepare(&WEB, routed(&WEB, &header, &datagram(&header, (40_000, 9), b"late")));
        let nobody = if v6 { "fd00:1::99" } else { "10.1.0.99" };
        engine.prepare(&WEB, udp(&WEB, 40_000, (nobody.parse().unwrap(), 9)));
        engine.prepare(&CLIENT, tcp(&CLIENT, 40_000, (own(v6), 9), flags::SYN));
        engine.prepare(&CLIENT, udp(&CLIENT, 40_000, (own(v6), 9)));
    }
    engine.settle("answers");
    assert_eq!(engine.sum(|counters| counters.worker.answers.get()), 16);
}

#[test]
fn cutting_a_super_frame_allocates_nothing() {
    for v6 in [false, true] {
        let mut engine = Engine::new(1, |_| ());
        let payload = vec![7; 60_000];
        let bridged = super_frame(&WEB, DB.mac, (40_000, 80), DB.ip(v6), &payload);
        let nat = super_frame(&WEB, WEB.gateway_mac, (40_000, 80), FAR.ip(v6), &payload);
        engine.prepare_at(0, &WEB, bridged);
        engine.prepare_at(0, &WEB, nat);
        engine.settle("super-frames");
        engine.meet_neighbours();
        assert_eq!(engine.sum(|counters| counters.worker.cuts.get()), 2);
        let segments = payload.len().div_ceil(usize::from(SEGMENT_BYTES));
        assert_eq!(engine.sent(&DB), segments);
        assert!(engine.sent(&FAR) >= segments);
    }
}

#[test]
fn gluing_allocates_nothing() {
    let caps = Caps { checksum: true, tso: true, uso: true, mtu: 1_500, tunnelled: false };
    let mut engine = Engine::with_caps(1, tables(), caps);
    for _ in 0..3 {
        (0..20).for_each(|_| engine.prepare(&WEB, bridged(&WEB, &DB, true)));
        engine.settle("datagrams of one flow");
    }
    assert_eq!(engine.sum(|counters| counters.worker.glued.get()), 3 * 19);
    assert_eq!(engine.sent(&DB), 3);
}

#[test]
fn learning_a_path_allocates_nothing() {
    use engine::sim::frames::{ICMP, IpHeader, icmp};
    let mut engine = Engine::new(2, |_| ());
    engine.prepare(&WEB, udp(&WEB, 40_000, (FAR.ip(false), 53)));
    engine.settle("a first packet out");
    engine.meet_neighbours();
    let sent = IpHeader::new(own(false), FAR.ip(false), UDP);
    let sent = sent.packet(&datagram(&sent, (40_000, 53), b"payload"));
    let header = IpHeader::new(FAR.ip(false), own(false), ICMP);
    for mtu in [1_400, 1_300, 1_300] {
        let message = icmp(FAR.ip(false), own(false), (3, 4), mtu, &sent);
        engine.prepare(&FAR, routed(&FAR, &header, &message));
        engine.settle("an error that tells of a path");
        engine.prepare(&WEB, udp(&WEB, 40_000, (FAR.ip(false), 53)));
        engine.settle("a flow that looks again");
    }
    assert_eq!(engine.sum(|counters| counters.worker.paths_learnt.get()), 3);
}

#[test]
fn handing_over_allocates_nothing_and_so_does_a_full_ring() {
    for hand_over in [1_024, 4] {
        let mut engine = Engine::new(2, |limits| limits.hand_over = hand_over);
        for source_port in 40_000..40_100 {
            let out = udp(&WEB, source_port, (FAR.ip(false), 53));
            engine.prepare_at(1, &WEB, WireFrame::whole(out));
        }
        for number in 0..50 {
            let station = MacAddress(0x0600_0000_0000 + number);
            let frame = strange(station, MacAddress::BROADCAST);
            engine.prepare_at(1, &VM, WireFrame::whole(frame));
        }
        engine.settle("hand-over");
        engine.meet_neighbours();
        assert!(engine.sum(|counters| counters.worker.handed_over.get()) > 0);
        assert_eq!(engine.dropped(DropReason::HandOverFull) > 0, hand_over == 4);
    }
}

#[test]
fn full_tables_allocate_nothing() {
    let mut engine = Engine::new(1, |limits| {
        (limits.flows, limits.fdb, limits.fdb_per_port) = (16, 16, 1_000);
        (limits.held_per_neighbour, limits.neighbours) = (4, 4);
    });
    for source_port in 40_000..40_008 {
        engine.prepare(&WEB, udp(&WEB, source_port, (FAR.ip(false), 53)));
    }
    engine.settle("full hold");
    for source_port in 40_000..40_100 {
        for v6 in [false, true] {
            engine.prepare(&CLIENT, udp(&CLIENT, source_port, (own(v6), 5_300)));
            engine.prepare(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
        }
    }
    for number in 0..500 {
        let station = MacAddress(0x0600_0000_0000 + number);
        engine.prepare(&VM, strange(station, MacAddress::BROADCAST));
    }
    engine.settle("full tables");
    assert!(engine.sum(|counters| counters.worker.flows_evicted.get()) >= 150);
    assert!(engine.dropped(DropReason::HoldFull) > 0);
    assert!(engine.sum(|counters| counters.worker.fdb_full.get()) > 0);
}

#[test]
fn full_shares_allocate_nothing() {
    let mut engine = Engine::new(1, |limits| {
        (limits.flows_per_port, limits.fdb_per_port) = (8, 8);
        (limits.floods_per_second, limits.answers_per_second) = (10, 10);
    });
    for source_port in 40_000..40_100 {
        engine.prepare(&WEB, udp(&WEB, source_port, (FAR.ip(false), 53)));
        engine.prepare(&DB, udp(&DB, source_port, (own(false), 9)));
    }
    for number in 0..100 {
        let station = MacAddress(0x0600_0000_0000 + number);
        engine.prepare(&VM, strange(station, MacAddress::BROADCAST));
    }
    engine.settle("full shares");
    assert!(engine.sum(|counters| counters.worker.flows_evicted.get()) >= 90);
    assert!(engine.dropped(DropReason::FloodLimited) >= 90);
    assert!(engine.dropped(DropReason::AnswerLimited) >= 90);
    assert!(engine.sum(|counters| counters.worker.fdb_share_full.get()) >= 90);
}

#[test]
fn waiting_for_a_neighbour_allocates_nothing() {
    let mut engine = Engine::new(1, |_| ());
    for round in 0..3 {
        for v6 in [false, true] {
            for source_port in 40_000..40_004 {
                engine.prepare(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53 + round)));
            }
        }
        engine.settle("packets wait");
        if round != 1 {
            engine.meet_neighbours();
        }
        // Nobody answers any more: asked again, given up, and asked anew later.
        engine.turn("neighbours are silent", 600, Duration::from_millis(100));
    }
    assert!(engine.dropped(DropReason::NeighbourUnreachable) > 0);
}

#[test]
fn releasing_after_a_port_was_detached_allocates_nothing() {
    let mut engine = Engine::new(1, |_| ());
    engine.prepare(&WEB, udp(&WEB, 40_000, (FAR.ip(false), 53)));
    engine.settle("a packet waits");
    engine.workers[0].detach(VAULT.port).expect("it was attached");
    engine.meet_neighbours();
    assert!(engine.sent(&FAR) >= 2);
}

#[test]
fn expiry_allocates_nothing() {
    let mut engine = Engine::new(1, |_| ());
    for source_port in 40_000..40_050 {
        for v6 in [false, true] {
            engine.prepare(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
            engine.prepare(&DB, tcp(&DB, source_port, (FAR.ip(v6), 80), flags::SYN));
        }
    }
    for number in 0..20 {
        engine.prepare(&VM, strange(MacAddress(0x0600_0000_0000 + number), WEB.mac));
    }
    engine.settle("flows begin");
    engine.meet_neighbours();
    assert_eq!(engine.workers[0].flows().len(), 200);
    engine.turn("flows and stations expire", 6_000, Duration::from_millis(100));
    assert_eq!(engine.sum(|counters| counters.worker.flows_expired.get()), 200);
    // Members are not counted: they are not learnt.
    assert_eq!(engine.sum(|counters| counters.worker.stations.get()), 0);
}

#[test]
fn fragments_allocate_nothing() {
    for v6 in [false, true] {
        let mut engine = Engine::new(1, |limits| limits.fragments = 8);
        for identification in 0..20 {
            let mut header = header(&WEB, FAR.ip(v6), UDP);
            header.identification = identification;
            let datagram = datagram(&header, (40_000, 53), &[5; 4_000]);
            for packet in header.fragments(&datagram, 1_500) {
                let frame = ethernet(WEB.gateway_mac, WEB.mac, header.ethertype(), &packet);
                engine.prepare(&WEB, frame);
            }
            if identification == 0 {
                engine.settle("fragments wait");
                engine.meet_neighbours();
            }
        }
        engine.settle("fragments");
        assert!(engine.sent(&FAR) >= 57);
        let mut header = header(&WEB, FAR.ip(v6), UDP);
        header.identification = 999;
        let unattached = header.fragments(&[5; 4_000], 1_500).pop().unwrap();
        let frame = ethernet(WEB.gateway_mac, WEB.mac, header.ethertype(), &unattached);
        engine.prepare(&WEB, frame);
        engine.settle("a later fragment alone");
        // It waits, and is given up.
        engine.turn("a later fragment in vain", 60, Duration::from_millis(100));
        assert_eq!(engine.dropped(DropReason::FragmentUnattached), 1);
    }
}

#[test]
fn cutting_too_large_packets_allocates_nothing() {
    let mut tables = tables();
    Arc::make_mut(tables.ports[WAN.index()].as_mut().unwrap()).mtu = 1_280;
    let mut engine = Engine::with_tables(1, tables);
    engine.prepare(&WEB, udp(&WEB, 40_000, (FAR.ip(false), 53)));
    engine.settle("a first packet out");
    engine.meet_neighbours();
    for _ in 0..20 {
        let header = header(&WEB, FAR.ip(false), UDP);
        let datagram = datagram(&header, (40_000, 53), &[5; 1_400]);
        engine.prepare(&WEB, routed(&WEB, &header, &datagram));
    }
    engine.settle("packets are cut");
    assert_eq!(engine.sum(|counters| counters.worker.fragmented.get()), 20);
}

#[test]
fn errors_and_flows_between_families_allocate_nothing() {
    use engine::sim::frames::{ICMP, IpHeader, icmp};
    use engine::tables::{Protocol, Publish, PublishEntry};
    let mut tables = tables();
    let entry = PublishEntry {
        host: Some("::".parse().unwrap()),
        protocol: Protocol::Udp,
        host_port: 5_390,
        target_port: 53,
        target: WEB.ip(false),
        ..published()[0].clone()
    };
    let all = [tables.publish.entries(), &[entry]].concat();
    tables.publish = Arc::new(Publish::new(1, all));
    let mut engine = Engine::with_tables(1, tables);
    engine.prepare(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390)));
    engine.settle("a first packet across");
    engine.meet_neighbours();
    let flow = engine.workers[0].flows()[0];
    let reply = udp(&WEB, 53, flow.source);
    for _ in 0..20 {
        engine.prepare(&CLIENT, udp(&CLIENT, 40_000, (own(true), 5_390)));
        engine.prepare(&WEB, reply.clone());
    }
    engine.settle("packets across, there and back");
    // Web refuses what it got, as it got it.
    let got = IpHeader::new(flow.source.0, WEB.ip(false), UDP);
    let got = got.packet(&datagram(&got, (flow.source.1, 53), b"payload"));
    let header = IpHeader::new(WEB.ip(false), flow.source.0, ICMP);
    let message = icmp(WEB.ip(false), flow.source.0, (3, 3), 0, &got);
    for _ in 0..20 {
        engine.prepare(&WEB, routed(&WEB, &header, &message));
    }
    engine.settle("errors across");
    assert_eq!(engine.sum(|counters| counters.worker.icmp_errors.get()), 20);
    assert!(engine.sent(&CLIENT) >= 40);
}

#[test]
fn malformed_packets_allocate_nothing() {
    let mut engine = Engine::new(1, |limits| limits.flows = 4_096);
    for v6 in [false, true] {
        let whole = [
            udp(&WEB, 40_000, (FAR.ip(v6), 53)),
            tcp(&WEB, 40_000, (FAR.ip(v6), 80), flags::SYN),
            echo(&WEB, 9, FAR.ip(v6)),
            who_has(&WEB, gateway(1, v6)),
            bridged(&WEB, &DB, v6),
        ];
        for frame in &whole {
            for len in 0..frame.len() {
                engine.prepare(&WEB, frame[..len].to_vec());
            }
            for at in 0..frame.len() {
                let mut wrong = frame.clone();
                wrong[at] ^= 0xff;
                engine.prepare(&WEB, wrong);
            }
        }
    }
    engine.settle("malformed packets");
    for reason in [DropReason::Truncated, DropReason::MalformedIp, DropReason::SpoofedMac] {
        assert!(engine.dropped(reason) > 0, "{}", reason.name());
    }
}

#[test]
fn going_on_under_new_tables_allocates_nothing() {
    let mut engine = Engine::new(1, |_| ());
    let packets = |engine: &mut Engine| {
        for v6 in [false, true] {
            engine.prepare(&CLIENT, udp(&CLIENT, 50_000, (own(v6), 5_300)));
            engine.prepare(&CLIENT, tcp(&CLIENT, 50_000, (own(v6), 8_080), flags::ACK));
            engine.prepare(&WEB, bridged(&WEB, &DB, v6));
        }
    };
    packets(&mut engine);
    engine.settle("flows begin");
    let mut changed = tables();
    changed.generation = 2;
    Arc::make_mut(changed.ports[2].as_mut().unwrap()).epoch = 2;
    engine.workers[0].adopt(Arc::new(changed.clone()));
    packets(&mut engine);
    engine.settle("an unrelated change");
    changed.generation = 3;
    changed.publish = Arc::new(engine::tables::Publish::new(2, Vec::new()));
    engine.workers[0].adopt(Arc::new(changed));
    packets(&mut engine);
    engine.settle("ports published no more");
    assert_eq!(engine.sum(|counters| counters.worker.revalidated.get()), 4);
}
