//! What it costs to cut super-frames and to glue segments, beside copying the same bytes.
//!
//! `cargo bench -p portolan-benches --bench segments`. A worker bridges TCP between two memory
//! ports. *Cutting*: 64 KiB super-frames to a port that takes none, less the same to one that takes
//! them. *Gluing*: segments to a port that takes super-frames, less the same to one that takes
//! none. *Copying*: the payload into as many frames of the same pool, and nothing else. All take
//! turns in one run, on this thread's own CPU time, so a busy machine shifts all alike; ratios of
//! medians are printed.

use std::sync::Arc;

use config::Config;
use engine::frame::{Frame, FrameBalancer, FramePool, HEADROOM_BYTES, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::packet::{BATCH_LEN, GsoKind};
use engine::worker::WorkerParts;
use engine::{
    Batch, Caps, Counters, Instant, Offload, Packet, Port, PortId, PortSet, Tables, Worker,
    WorkerId,
};
use rustix::time::{ClockId, clock_gettime};

const CHUNKS: usize = 1_024;
const TAILS: usize = 64;
/// Payload of a segment with time stamps at an MTU of 1,500.
const SEGMENT_BYTES: usize = 1_448;
/// As much as an IP packet holds in whole segments.
const SEGMENT_COUNT: usize = 45;
const PAYLOAD_BYTES: usize = SEGMENT_BYTES * SEGMENT_COUNT;
const HEADER_BYTES: usize = 14 + 20 + 32;
const _: () = assert!(SEGMENT_COUNT <= BATCH_LEN, "they are one batch");
/// Super-frames per turn; of segments there is one batch.
const SUPER_FRAMES: usize = 4;
/// Rounds in which each case takes its turn.
const ROUNDS: usize = 400;
/// Turns of a case in a round.
const TURNS: usize = 8;

const CONFIG: &str = "[network.front]\nsubnet = \"10.1.0.0/24\"\n\
    [endpoint.a]\nattach = { tap = \"a\" }\n\
    network = [{ name = \"front\", ip = \"10.1.0.10\", mac = \"02:42:0a:01:00:0a\" }]\n\
    [endpoint.b]\nattach = { tap = \"b\" }\n\
    network = [{ name = \"front\", ip = \"10.1.0.11\", mac = \"02:42:0a:01:00:0b\" }]\n";

/// Headers of a TCP segment from a to b with this much payload behind them.
fn headers(payload_bytes: usize, index: usize) -> [u8; HEADER_BYTES] {
    let mut head = [0; HEADER_BYTES];
    head[..6].copy_from_slice(&[2, 0x42, 10, 1, 0, 11]);
    head[6..12].copy_from_slice(&[2, 0x42, 10, 1, 0, 10]);
    head[12..14].copy_from_slice(&[8, 0]);
    head[14..34].copy_from_slice(&[
        0x45,
        0,
        0,
        0,
        0,
        index as u8,
        0x40,
        0,
        64,
        6,
        0,
        0,
        10,
        1,
        0,
        10,
        10,
        1,
        0,
        11,
    ]);
    let length = (HEADER_BYTES - 14 + payload_bytes) as u16;
    head[16..18].copy_from_slice(&length.to_be_bytes());
    let sum = !engine::wire::checksum::fold(engine::wire::checksum::sum(&head[14..34]));
    head[24..26].copy_from_slice(&sum.to_be_bytes());
    head[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    head[38..42].copy_from_slice(&((index * SEGMENT_BYTES) as u32).to_be_bytes());
    head[46] = 0x80;
    head[47] = 0x10;
    head
}

/// Gives prepared packets, one turn's worth each time it is asked.
struct Source {
    segments: bool,
}

impl Source {
    fn super_frame(frames: &mut FramePool) -> Option<Packet> {
        let mut head = frames.take_chunk()?;
        let end = HEADROOM_BYTES + HEADER_BYTES;
        head.bytes_mut()[HEADROOM_BYTES..end].copy_from_slice(&headers(PAYLOAD_BYTES, 0));
        let mut packet = Packet::new(head, HEADROOM_BYTES, HEADER_BYTES);
        // What lies in the tail from before is as good as any payload.
        packet.set_tail(frames.take_tail()?, PAYLOAD_BYTES);
        packet.set_offload(Offload::Gso {
            kind: GsoKind::TcpV4,
            segment_bytes: SEGMENT_BYTES as u16,
            start: 34,
            ecn: false,
        });
        Some(packet)
    }

    /// A segment whose checksum is right: its payload is all zeros.
    fn segment(frames: &mut FramePool, index: usize) -> Option<Packet> {
        let mut frame = frames.take_chunk()?;
        let bytes = &mut frame.bytes_mut()[HEADROOM_BYTES..];
        let mut head = headers(SEGMENT_BYTES, index);
        let mut sum = engine::wire::checksum::pseudo_header(&head[26..34], 6, 32 + SEGMENT_BYTES);
        sum += engine::wire::checksum::sum(&head[34..]);
        let checksum = !engine::wire::checksum::fold(sum);
        head[50..52].copy_from_slice(&checksum.to_be_bytes());
        bytes[..HEADER_BYTES].copy_from_slice(&head);
        bytes[HEADER_BYTES..HEADER_BYTES + SEGMENT_BYTES].fill(0);
        Some(Packet::new(frame, HEADROOM_BYTES, HEADER_BYTES + SEGMENT_BYTES))
    }
}

impl Port for Source {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        match self.segments {
            true => batch.extend((0..SEGMENT_COUNT).filter_map(|at| Source::segment(frames, at))),
            false => batch.extend((0..SUPER_FRAMES).filter_map(|_| Source::super_frame(frames))),
        }
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        out.drain(..).for_each(|packet| packet.recycle(frames));
    }

    fn flush(&mut self, _frames: &mut FramePool) {}

    fn caps(&self) -> Caps {
        Caps { mtu: 1_500, ..Caps::default() }
    }
}

/// Takes packets back at once.
struct Sink {
    takes: bool,
}

impl Port for Sink {
    fn rx(&mut self, _frames: &mut FramePool, _batch: &mut Batch) {}

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        out.drain(..).for_each(|packet| packet.recycle(frames));
    }

    fn flush(&mut self, _frames: &mut FramePool) {}

    fn caps(&self) -> Caps {
        Caps {
            checksum: self.takes,
            tso: self.takes,
            uso: self.takes,
            mtu: 1_500,
            tunnelled: false,
        }
    }
}

fn pool() -> FramePool {
    let balancer = FrameBalancer::new(CHUNKS, TAILS);
    // Memory that was never written is one page of zeros, wherever it is read.
    let mut tails = heap_tails(TAILS);
    tails.iter_mut().for_each(|tail| tail.bytes_mut().fill(7));
    let pool = FramePool::new(heap_frames(CHUNKS), tails, balancer);
    pool.with_copier(drivers::copier())
}

struct Case {
    worker: Worker,
    counters: Arc<Counters>,
    from: PortId,
}

impl Case {
    fn new(tables: &Arc<Tables>, segments: bool, takes: bool) -> Case {
        let counters = Counters::new(tables.ports.len());
        let mut worker = Worker::new(WorkerParts {
            id: WorkerId(0),
            frames: pool(),
            counters: counters.clone(),
            rings: HandOverRings::mesh(1, 16).remove(0),
            tables: tables.clone(),
            seed: 7,
            cache: true,
            now: Instant(0),
        });
        let ports: Vec<PortId> = tables.ports.iter().flatten().map(|port| port.id).collect();
        worker.attach(ports[0], Box::new(Source { segments }));
        worker.attach(ports[1], Box::new(Sink { takes }));
        Case { worker, counters, from: ports[0] }
    }

    /// Nanoseconds of CPU for some turns.
    fn run(&mut self) -> f64 {
        let start = cpu_ns();
        for _ in 0..TURNS {
            let mut ready = PortSet::new(4);
            ready.insert(self.from);
            self.worker.turn(Instant(1), &mut ready);
        }
        (cpu_ns() - start) as f64 / TURNS as f64
    }
}

/// Copies the payload of a super-frame into frames, as cutting has to.
fn copy(frames: &mut FramePool, taken: &mut Vec<Frame>, payload: &[u8]) {
    for segment in payload.chunks(SEGMENT_BYTES) {
        let mut frame = frames.take_chunk().expect("there are enough");
        let start = HEADROOM_BYTES + HEADER_BYTES;
        frame.bytes_mut()[start..start + segment.len()].copy_from_slice(segment);
        taken.push(frame);
    }
    taken.drain(..).for_each(|frame| frames.give(frame));
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let config = Config::parse("bench.toml", CONFIG).expect("the config is right");
    let tables = Arc::new(config::compile(&config, None));
    let mut cases = [(false, true), (false, false), (true, false), (true, true)]
        .map(|(segments, takes)| Case::new(&tables, segments, takes));
    let (mut frames, mut taken) = (pool(), Vec::with_capacity(SEGMENT_COUNT));
    let payloads = vec![7; SUPER_FRAMES * PAYLOAD_BYTES];
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            times.push(case.run());
        }
        let start = cpu_ns();
        for _ in 0..TURNS {
            for payload in payloads.chunks(PAYLOAD_BYTES) {
                copy(&mut frames, &mut taken, std::hint::black_box(payload));
            }
        }
        times[4].push((cpu_ns() - start) as f64 / TURNS as f64);
    }
    let [pass, cut, alone, glued, copied] = times.map(median);
    let counted = |case: &Case| (case.counters.worker.cuts.get(), case.counters.worker.glued.get());
    let expected = (ROUNDS * TURNS) as u64;
    assert_eq!(counted(&cases[1]).0, expected * SUPER_FRAMES as u64, "every one was cut");
    assert_eq!(counted(&cases[3]).1, expected * (SEGMENT_COUNT as u64 - 1), "all were glued");
    let per = |ns: f64| ns / SUPER_FRAMES as f64 / 1e3;
    println!("copying {PAYLOAD_BYTES} bytes into {SEGMENT_COUNT} frames: {:.2} us", per(copied));
    println!("cutting as many: {:.2} us, {:.2} x copying", per(cut - pass), (cut - pass) / copied);
    let one = copied / SUPER_FRAMES as f64;
    println!("gluing as many: {:.2} us, {:.2} x", (glued - alone) / 1e3, (glued - alone) / one);
}
