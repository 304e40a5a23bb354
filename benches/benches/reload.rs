//! How long a change of the tables takes, and how long packets wait for it.
//!
//! One worker on its own thread carries frames between two memory ports without a pause, while this
//! thread compiles changes of a config with 10,000 endpoints and 100,000 routes and has the worker
//! go over. A gap is the time from the end of one turn to the end of the next: the longest that a
//! packet waits, on the clock and in the thread's own CPU time. The latter leaves out what other
//! processes of the machine take. No devices: what making them costs is the kernel's.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant as Time};

use config::Config;
use engine::frame::{FrameBalancer, FramePool, HEADROOM_BYTES, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::packet::BATCH_LEN;
use engine::worker::{Adoption, Retired, WorkerParts};
use engine::{
    Batch, Caps, Counters, Instant, MacAddress, Packet, Port, PortId, PortSet, Tables, Worker,
    WorkerId,
};
use rustix::time::{ClockId, clock_gettime};

const ENDPOINTS: usize = 10_000;
const ENDPOINTS_PER_NETWORK: usize = 1_000;
const ROUTES: usize = 100_000;
/// Remotes of the overlay, and prefixes behind other gateways, by as many tunnels.
const REMOTES: usize = 2_000;
const TUNNELS: usize = 200;
const FRAMES: usize = 4 * 4_096;

/// How often each change is made.
const ROUNDS: usize = 20;

/// A config in which everything depends on `variant`: the MTU of each endpoint's network, and where
/// each route leads.
fn text(variant: usize) -> String {
    let mut text = String::from(
        "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\n\
         addresses = [\"192.0.2.10/24\"]\ngateway = \"192.0.2.1\"\nroutes = [\n",
    );
    for route in 0..ROUTES {
        let (a, b, c) = (20 + (route >> 16), route >> 8 & 255, route & 255);
        let _ =
            writeln!(text, "{{ to = \"{a}.{b}.{c}.0/24\", via = \"192.0.2.{}\" }},", 7 + variant);
    }
    text.push_str("]\n");
    for network in 0..ENDPOINTS / ENDPOINTS_PER_NETWORK {
        let mtu = 1_500 - variant;
        let _ =
            writeln!(text, "[network.n{network}]\nsubnet = \"10.{network}.0.0/16\"\nmtu = {mtu}");
    }
    for endpoint in 0..ENDPOINTS {
        let (network, host) = (endpoint / ENDPOINTS_PER_NETWORK, endpoint % ENDPOINTS_PER_NETWORK);
        let ip = format!("10.{network}.{}.{}", 1 + host / 200, 1 + host % 200);
        let _ = writeln!(
            text,
            "[endpoint.e{endpoint}]\nattach = {{ netns = \"e{endpoint}\", create = true }}\n\
             publish = [\"{}:80\"]\nnetwork = [{{ name = \"n{network}\", ip = \"{ip}\" }}]",
            10_000 + endpoint,
        );
    }
    text
}

/// The same with an overlay, which is changed apart from the rest.
fn text_with_overlay() -> String {
    let mut text = text(0);
    let vtep = |index: usize| format!("192.0.2.{}", 20 + index % TUNNELS);
    text.push_str(
        "[network.mesh]\ndriver = \"overlay\"\nvni = 4097\nsubnet = \"10.200.0.0/16\"\n\
         peers = [\"192.0.2.20\"]\nremote = [\n",
    );
    for remote in 0..REMOTES {
        let (high, low) = (1 + remote / 250, 1 + remote % 250);
        let (ip, mac) =
            (format!("10.200.{high}.{low}"), format!("02:00:00:00:{high:02x}:{low:02x}"));
        let _ = writeln!(text, "{{ ip = {ip:?}, mac = {mac:?}, vtep = {:?} }},", vtep(remote));
    }
    text.push_str("]\nroute = [\n");
    for route in 0..REMOTES {
        let end = route % TUNNELS;
        let (subnet, ip) =
            (format!("11.{}.{}.0/24", route / 250, route % 250), format!("44.0.0.{end}"));
        let _ = writeln!(
            text,
            "{{ subnet = {subnet:?}, vtep_ip = {ip:?}, vtep_mac = \"02:00:00:01:00:{end:02x}\", \
             host = {:?} }},",
            vtep(route)
        );
    }
    text.push_str("]\n");
    text
}

fn parse(text: &str) -> Config {
    Config::parse("bench.toml", text).unwrap_or_else(|errors| panic!("{:?}", errors.first()))
}

/// Gives the same frame over and over, and takes frames.
struct Source {
    frame: [u8; 64],
}

impl Port for Source {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        while !batch.is_full() {
            let Some(mut frame) = frames.take_chunk() else { return };
            frame.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + 64].copy_from_slice(&self.frame);
            batch.push(Packet::new(frame, HEADROOM_BYTES, 64));
        }
    }
    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        out.drain(..).for_each(|packet| packet.recycle(frames));
    }
    fn flush(&mut self, _frames: &mut FramePool) {}
    fn caps(&self) -> Caps {
        Caps { checksum: true, tso: true, uso: true, mtu: 1500, tunnelled: false }
    }
}

/// What the worker's thread shows.
#[derive(Default)]
struct Gaps {
    wall_ns: AtomicU64,
    cpu_ns: AtomicU64,
    stop: AtomicBool,
}

impl Gaps {
    /// The longest since the last call.
    fn take(&self) -> (Duration, Duration) {
        let nanoseconds = |of: &AtomicU64| Duration::from_nanos(of.swap(0, Relaxed));
        (nanoseconds(&self.wall_ns), nanoseconds(&self.cpu_ns))
    }
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The worker's thread: turn after turn, going over to what it is given in between.
fn carry(
    tables: &Arc<Tables>,
    gaps: &Gaps,
    steps: &Receiver<Arc<Adoption>>,
    old: &Sender<Retired>,
) {
    let counters = Counters::new(tables.ports.len());
    counters.reserve(tables);
    let balancer = FrameBalancer::new(FRAMES, 1);
    let mut worker = Worker::new(WorkerParts {
        id: WorkerId(0),
        frames: FramePool::new(heap_frames(FRAMES), heap_tails(1), balancer),
        counters: counters.clone(),
        rings: HandOverRings::mesh(1, 1).remove(0),
        tables: tables.clone(),
        seed: 7,
        cache: true,
        now: Instant(1),
    });
    let mac = |last| MacAddress::derived([10, 0, 1, last].into()).bytes();
    for (port, (to, from)) in [(1, (mac(2), mac(1))), (2, (mac(1), mac(2)))] {
        let mut frame = [0; 64];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        drop(worker.attach(PortId(port), Box::new(Source { frame })));
    }
    let started = Time::now();
    let mut ready = PortSet::new(tables.ports.len());
    let (mut wall, mut cpu) = (Time::now(), cpu_ns());
    while !gaps.stop.load(Relaxed) {
        if let Ok(step) = steps.try_recv() {
            counters.reserve(step.tables());
            let _ = old.send(worker.adopt_prepared(step));
        }
        ready.insert(PortId(1));
        ready.insert(PortId(2));
        let handled = worker.turn(Instant(started.elapsed().as_nanos() as u64 + 1), &mut ready);
        assert_eq!(handled, 2 * BATCH_LEN, "the stream goes on");
        let now = (Time::now(), cpu_ns());
        gaps.wall_ns.fetch_max((now.0 - wall).as_nanos() as u64, Relaxed);
        gaps.cpu_ns.fetch_max(now.1 - cpu, Relaxed);
        (wall, cpu) = now;
    }
    let hits = counters.worker.hits.get();
    println!("the worker carried {hits} frames by the short way; drops: {:?}", counters.drops());
}

/// What one kind of change took, over all rounds.
#[derive(Default)]
struct Times {
    edit: Vec<Duration>,
    compile: Vec<Duration>,
    compile_cpu: Vec<Duration>,
    prepare: Vec<Duration>,
    swap: Vec<Duration>,
    free: Vec<Duration>,
    whole: Vec<Duration>,
    gap_wall: Vec<Duration>,
    gap_cpu: Vec<Duration>,
}

fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:8.3} {:8.3}", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
}

impl Times {
    fn print(mut self, name: &str) {
        println!("{name}: ms, median and maximum of {ROUNDS}");
        for (what, times) in [
            ("edit of the config", &mut self.edit),
            ("compile", &mut self.compile),
            ("compile, CPU time", &mut self.compile_cpu),
            ("step for the workers", &mut self.prepare),
            ("swap, acknowledged", &mut self.swap),
            ("all of these", &mut self.whole),
            ("old tables freed", &mut self.free),
            ("longest gap, clock", &mut self.gap_wall),
            ("longest gap, CPU time", &mut self.gap_cpu),
        ] {
            println!("  {what:22} {}", shown(times));
        }
    }
}

/// The supervisor's part.
struct Bench<'b> {
    config: Config,
    tables: Arc<Tables>,
    gaps: &'b Gaps,
    steps: Sender<Arc<Adoption>>,
    retired: Receiver<Retired>,
}

impl Bench<'_> {
    fn change(&mut self, name: &str, mut edit: impl FnMut(&Config, usize) -> Config) {
        let mut times = Times::default();
        for round in 0..ROUNDS {
            self.gaps.take();
            let started = Time::now();
            let mut next = edit(&self.config, round);
            times.edit.push(started.elapsed());
            let (compiling, cpu) = (Time::now(), cpu_ns());
            let tables = Arc::new(config::recompile(&self.config, &self.tables, &mut next));
            times.compile.push(compiling.elapsed());
            times.compile_cpu.push(Duration::from_nanos(cpu_ns() - cpu));
            let preparing = Time::now();
            let step = Arc::new(Adoption::new(tables.clone(), Some(&self.tables)));
            times.prepare.push(preparing.elapsed());
            let swapping = Time::now();
            self.steps.send(step).expect("the worker runs");
            let retired = self.retired.recv().expect("the worker runs");
            times.swap.push(swapping.elapsed());
            times.whole.push(started.elapsed());
            let freeing = Time::now();
            drop(retired);
            (self.tables, self.config) = (tables, next);
            times.free.push(freeing.elapsed());
            let (wall, cpu) = self.gaps.take();
            times.gap_wall.push(wall);
            times.gap_cpu.push(cpu);
        }
        times.print(name);
    }
}

/// A worker with the first of these configs, while `changes` are made.
fn beside(configs: &[Config], changes: impl FnOnce(&mut Bench)) {
    let started = Time::now();
    let tables = Arc::new(config::compile(&configs[0], None));
    println!("first compile: {:?}", started.elapsed());
    let (steps, to_worker) = channel();
    let (from_worker, retired) = channel();
    let gaps = Gaps::default();
    thread::scope(|scope| {
        let (of_worker, first) = (&gaps, tables.clone());
        scope.spawn(move || carry(&first, of_worker, &to_worker, &from_worker));
        let config = configs[0].clone();
        let mut bench = Bench { config, tables, gaps: &gaps, steps, retired };
        // Nothing changes: what the machine itself does to the stream.
        thread::sleep(Duration::from_millis(500));
        let (wall, cpu) = gaps.take();
        thread::sleep(Duration::from_millis(500));
        println!("longest gap at start: {wall:?}, CPU {cpu:?}; at rest: {:?}", gaps.take());
        changes(&mut bench);
        gaps.stop.store(true, Relaxed);
    });
}

fn main() {
    let texts = [text(0), text(1)];
    let configs = texts.each_ref().map(|text| {
        let started = Time::now();
        let config = parse(text);
        println!("parse and check of {} KiB: {:?}", text.len() >> 10, started.elapsed());
        config
    });
    beside(&configs, |bench| {
        bench.change("everything changes", |_, round| configs[(round + 1) % 2].clone());
        bench.change("one endpoint more", |config, round| {
            let place = config.endpoints.len() / 2;
            with_endpoint(config, round, (place, "n0", [10, 0, 200, 1 + round as u8]))
        });
        bench.change("one published port more", |config, round| {
            let mut next = config.clone();
            let index = next.endpoints.len() / 3;
            let endpoint = Arc::make_mut(&mut next.endpoints[index]);
            let mut publish = endpoint.publish[0].clone();
            publish.host_port = 30_000 + round as u16;
            endpoint.publish.push(publish);
            next
        });
        bench.change("one route more", |config, round| {
            let mut next = config.clone();
            let routes = Arc::make_mut(&mut next.uplinks[0].routes);
            let to = format!("203.0.{round}.0/24").parse().expect("a prefix");
            routes.insert(routes.len() / 2, config::Route { to, via: routes[0].via });
            next
        });
    });
    println!("\nwith an overlay of {REMOTES} remotes and {REMOTES} routes by {TUNNELS} tunnels");
    beside(&[parse(&text_with_overlay())], |bench| {
        bench.change("one endpoint more, of the overlay", |config, round| {
            let place = config.endpoints.len();
            with_endpoint(config, round, (place, "mesh", [10, 200, 200, 1 + round as u8]))
        });
        bench.change("one endpoint more, of another network", |config, round| {
            let place = config.endpoints.len() / 2;
            with_endpoint(config, 100 + round, (place, "n0", [10, 0, 200, 1 + round as u8]))
        });
        bench.change("one peer more", |config, round| {
            with_overlay(config, |overlay| {
                let vtep = [192, 0, 2, 230 + round as u8].into();
                overlay.peers.push(vtep);
                overlay.tunnels.push((vtep, PortId(0)));
            })
        });
        bench.change("one remote more", |config, round| {
            with_overlay(config, |overlay| {
                let ip = [10, 200, 100, 1 + round as u8];
                let remote = config::OverlayHost {
                    ip: ip.into(),
                    mac: MacAddress::derived(ip.into()),
                    vtep: overlay.tunnels[round].0,
                };
                overlay.remotes.insert(overlay.remotes.len() / 2, remote);
            })
        });
        bench.change("one route of the overlay more", |config, round| {
            with_overlay(config, |overlay| {
                let subnet = format!("12.0.{round}.0/24").parse().expect("a prefix");
                let route = config::OverlayRoute { subnet, ..overlay.routes[round] };
                overlay.routes.insert(overlay.routes.len() / 2, route);
            })
        });
    });
}

/// The config with one endpoint more: at this place, in this network, with this address.
fn with_endpoint(
    config: &Config,
    number: usize,
    (place, network, address): (usize, &str, [u8; 4]),
) -> Config {
    let mut next = config.clone();
    let mut endpoint = (*next.endpoints[0]).clone();
    endpoint.name = format!("new{number}");
    endpoint.publish.clear();
    let own = &mut endpoint.attachments[0];
    own.network = network.to_owned();
    own.ipv4 = Some(ipnet::Ipv4Net::new(address.into(), 16).expect("a length"));
    own.mac = MacAddress::derived(address.into());
    next.endpoints.insert(place, Arc::new(endpoint));
    next
}

/// The config with its overlay changed.
fn with_overlay(config: &Config, edit: impl FnOnce(&mut config::Overlay)) -> Config {
    let mut next = config.clone();
    let mesh = next.networks.iter_mut().find(|network| network.overlay.is_some());
    let mesh = Arc::make_mut(mesh.expect("the text has one"));
    edit(mesh.overlay.as_mut().expect("it is one"));
    next
}
