//! What is left of a daemon that is killed, and what the next one makes of it.
//!
//! The program itself is killed with SIGKILL at random moments of start, reload and stop, and
//! started again. Needs root; does not skip without it. Every namespace has a name of this process.
//! `PORTOLAN_KILL_ROUNDS=200` makes the loop as long as a release wants it, `PORTOLAN_KILL_SEED`
//! replays one.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::netlink::{LinkSettings, Netlink};
use gateway::netns::{self, Namespace};
use gateway::traffic::{ANSWER_WITHIN, ping};
use rustix::process::Signal;

use common::{Daemon, Scratch};

/// No address is fixed: only leases can make them the same again. The last namespace is the test's.
const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "UPLINK"
addresses = ["192.0.2.10/24"]

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
network = [{ name = "front" }]

[endpoint.client]
attach = { netns = "PREFIXclient", create = true }
network = [{ name = "front" }]

[endpoint.third]
attach = { netns = "PREFIXthird" }
network = [{ name = "front" }]
"#;

/// What a reload makes of it: one more in front of all others, one less, one changed in place.
fn changed(text: &str) -> String {
    let more = "[endpoint.aaa]\nattach = { netns = \"PREFIXaaa\", create = true }\n\
                network = [{ name = \"front\" }]\n[endpoint.web]";
    let text = text.replacen("[endpoint.web]", more, 1);
    let (front, rest) = text.split_once("[endpoint.client]").unwrap();
    let third = &rest[rest.find("[endpoint.third]").unwrap()..];
    format!("{front}{third}").replace("subnets =", "mtu = 1400\nsubnets =")
}

struct World {
    scratch: Scratch,
    uplink: String,
    third: Namespace,
}

impl World {
    fn new(test: &str) -> World {
        let scratch = Scratch::new(test);
        let uplink = format!("pgk{}{}", std::process::id() % 1_000_000, &test[..1]);
        let third = Namespace::create(&scratch.name("third")).unwrap();
        World { scratch, uplink, third }
    }

    fn text(&self) -> String {
        CONFIG.replace("UPLINK", &self.uplink)
    }

    fn start(&self, text: &str) -> Daemon {
        Daemon::start(&self.scratch.config(text))
    }

    /// Names of links in a namespace of this test, or of this test's links on the host.
    fn links(&self, name: Option<&str>) -> Vec<String> {
        let path = name.map(|name| self.scratch.path(name));
        let mut names = Netlink::open(path.as_deref()).unwrap().link_names().unwrap();
        names.retain(|link| path.is_some() || *link == self.uplink);
        names.sort();
        names
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let netlink = Netlink::open(Some(&self.scratch.path(name))).unwrap();
        let found = netlink.addresses("eth0").unwrap();
        let mut texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    /// All that the config says is there, and nothing else.
    fn assert_whole(&self, names: &[&str], addresses: &[Vec<String>], context: &str) {
        let mut expected: Vec<String> = names.iter().map(|name| self.scratch.name(name)).collect();
        expected.sort();
        let mut left = self.scratch.namespaces_left();
        left.sort();
        assert_eq!(left, expected, "{context}");
        for (name, wanted) in names.iter().zip(addresses) {
            assert_eq!(self.links(Some(name)), ["eth0", "lo"], "{context}: {name}");
            assert_eq!(self.addresses(name), *wanted, "{context}: {name}");
        }
        assert_eq!(self.links(None), std::slice::from_ref(&self.uplink), "{context}");
        self.assert_state(context);
    }

    /// Nothing but what was there before the daemon.
    fn assert_nothing_left(&self, context: &str) {
        assert_eq!(self.scratch.namespaces_left(), [self.scratch.name("third")], "{context}");
        assert_eq!(self.links(Some("third")), ["lo"], "{context}");
        assert_eq!(self.links(None), [""; 0], "{context}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let prefix = self.scratch.name("");
        let of_ours = |line: &&str| line.contains(&prefix) && !line.contains("third");
        assert_eq!(mounts.lines().filter(of_ours).count(), 0, "{context}");
        self.assert_state(context);
    }

    fn assert_state(&self, context: &str) {
        let entries = std::fs::read_dir(self.scratch.state()).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["gateway.state"], "{context}");
    }
}

/// A connection between two namespaces that stays open: the server's end and the client's.
fn connect(server: &Path, client: &Path, at: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = netns::within(server, || TcpListener::bind(at)).unwrap().unwrap();
    let ours = netns::within(client, || TcpStream::connect_timeout(&at, ANSWER_WITHIN));
    let ours = ours.unwrap().unwrap();
    let (theirs, _) = listener.accept().unwrap();
    for stream in [&ours, &theirs] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (theirs, ours)
}

fn assert_talks((theirs, ours): &mut (TcpStream, TcpStream), word: &[u8]) {
    let mut buffer = vec![0; word.len()];
    ours.write_all(word).unwrap();
    theirs.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, word);
    theirs.write_all(word).unwrap();
    ours.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, word);
}

fn ip(text: &str) -> IpAddr {
    text.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn a_connection_survives_the_daemon() {
    let world = World::new("survives");
    let mut daemon = world.start(&world.text());
    daemon.wait_ready();
    let names = ["web", "client", "third"];
    let addresses: Vec<_> = names.iter().map(|name| world.addresses(name)).collect();
    let index = || {
        let netlink = Netlink::open(Some(&world.scratch.path("web"))).unwrap();
        netlink.link_index("eth0").unwrap()
    };
    let [web, client] = ["web", "client"].map(|name| world.scratch.path(name));
    let before = index();
    let mut streams: Vec<_> = addresses[0]
        .iter()
        .map(|address| connect(&web, &client, (ip(address), 80).into()))
        .collect();
    streams.iter_mut().for_each(|stream| assert_talks(stream, b"before"));
    for workers in ["2", "1", "4"] {
        daemon.signal(Signal::KILL);
        daemon.wait_end();
        assert_eq!(index(), before, "the device is still there");
        let text = world.text().replace("workers = 2", &format!("workers = {workers}"));
        daemon = world.start(&text);
        daemon.wait_ready();
        streams.iter_mut().for_each(|stream| assert_talks(stream, b"after"));
        assert_eq!(index(), before, "it is the same device");
        world.assert_whole(&names, &addresses, workers);
    }
    assert!(daemon.log.iter().any(|line| line.contains("device re-attached")), "{:?}", daemon.log);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    world.assert_nothing_left("the end");
}

#[test]
fn a_killed_daemon_s_things_are_cleared_by_another_config_and_others_stay() {
    let world = World::new("clears");
    let mut daemon = world.start(&world.text());
    daemon.wait_ready();
    daemon.signal(Signal::KILL);
    daemon.wait_end();
    // Somebody renamed one of ours, changed another, and made one of his own.
    let web = Netlink::open(Some(&world.scratch.path("web"))).unwrap();
    web.set_link("eth0", LinkSettings { mtu: Some(1300), ..LinkSettings::default() }).unwrap();
    web.rename_link("eth0", "other0").unwrap();
    web.add_address("other0", "10.77.0.1/24".parse().unwrap()).unwrap();
    let options = drivers::TapOptions::new("foreign0");
    let foreign = netns::within(world.third.path(), || drivers::Tap::create(&options));
    let foreign = foreign.unwrap().unwrap();
    let mut daemon = world.start(&changed(&world.text()));
    daemon.wait_ready();
    assert!(!world.scratch.path("client").exists(), "it is in the config no more");
    let link = &web.links().unwrap()[1];
    assert_eq!((&*link.name, link.mtu), ("eth0", 1400), "name and mtu are set again");
    assert_eq!(world.addresses("web").len(), 3, "what others added stays");
    assert_eq!(world.links(Some("third")), ["eth0", "foreign0", "lo"]);
    ping(&world.scratch.path("aaa"), ip(&world.addresses("web")[0]), ANSWER_WITHIN).unwrap();
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(world.links(Some("third")), ["foreign0", "lo"]);
    drop(foreign);
}

/// A small generator with a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }

    fn part_of(&mut self, whole: Duration) -> Duration {
        Duration::from_nanos(self.below(whole.as_nanos() as u64))
    }
}

fn knob(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Waits until a moment, spinning at the end: sleeping is too coarse to hit every step.
fn wait_for_moment(until: Instant) {
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

#[test]
fn a_kill_at_any_moment_leaks_nothing_and_loses_nothing() {
    let rounds = knob("PORTOLAN_KILL_ROUNDS", 15);
    let seed = knob("PORTOLAN_KILL_SEED", 0x5eed_0001);
    let mut random = Random(seed);
    let world = World::new("kill");
    let (text, other) = (world.text(), changed(&world.text()));
    let (names, other_names) = (["web", "client", "third"], ["web", "third", "aaa"]);
    // Once undisturbed: how long steps take, and what addresses there are.
    let began = Instant::now();
    let mut daemon = world.start(&text);
    daemon.wait_ready();
    let start_time = began.elapsed();
    let addresses: Vec<_> = names.iter().map(|name| world.addresses(name)).collect();
    daemon.signal(Signal::KILL);
    daemon.wait_end();
    let mut re_attached = 0;
    for round in 0..rounds {
        let mut daemon = world.start(&text);
        let began = Instant::now();
        let step = ["start", "reload", "stop"][(round % 3) as usize];
        let moment = match step {
            "start" => began + random.part_of(start_time.mul_f32(1.2)),
            "reload" => {
                daemon.wait_ready();
                world.scratch.config(&other);
                daemon.signal(Signal::HUP);
                Instant::now() + random.part_of(Duration::from_millis(120))
            }
            _ => {
                daemon.wait_ready();
                daemon.signal(Signal::TERM);
                Instant::now() + random.part_of(Duration::from_millis(100))
            }
        };
        wait_for_moment(moment);
        daemon.signal(Signal::KILL);
        daemon.wait_end();
        re_attached += daemon.log.iter().filter(|line| line.contains("re-attached")).count();
        let after = moment.duration_since(began);
        let context = format!("round {round} of seed {seed:#x}, killed {after:?} after {step}");
        // What the killed one left serves under either config.
        let mut daemon = world.start(if round % 2 == 0 { &text } else { &other });
        daemon.wait_ready();
        if round % 2 == 0 {
            world.assert_whole(&names, &addresses, &context);
        } else {
            let gained = world.addresses("aaa");
            let expected = [&addresses[0], &addresses[2], &gained].map(Clone::clone);
            world.assert_whole(&other_names, &expected, &context);
        }
        ping(world.third.path(), ip(&addresses[0][0]), ANSWER_WITHIN).expect(&context);
        if random.below(2) == 0 {
            assert!(daemon.terminate().success(), "{context}: {:?}", daemon.log);
            world.assert_nothing_left(&context);
        } else {
            daemon.signal(Signal::KILL);
            daemon.wait_end();
        }
    }
    let mut daemon = world.start(&text);
    daemon.wait_ready();
    world.assert_whole(&names, &addresses, "at the end");
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    world.assert_nothing_left("at the end");
    assert!(re_attached > 0, "some round met a device of the one before");
}
