//! What goes wrong half-way: names taken, namespaces gone and rights lost between a look and a
//! deed, and the daemon killed under connections with the outside.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway::netlink::Netlink;
use gateway::netns::{self, Namespace};
use gateway::traffic::{ANSWER_WITHIN, ping};
use rustix::process::Signal;

use common::{Daemon, PROGRAM, Scratch};

const NETWORK: &str = "\n[gateway]\nworkers = 2\n[network.front]\nsubnet = \"10.1.0.0/24\"\n";

/// An endpoint in a namespace that is there already.
fn endpoint(name: &str, last: usize) -> String {
    format!(
        "[endpoint.{name}]\nattach = {{ netns = \"PREFIX{name}\" }}\n\
         network = [{{ name = \"front\", ip = \"10.1.0.{last}\" }}]\n"
    )
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_talks(scratch: &Scratch, from: &str, to: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = ping(&scratch.path(from), address(to), ANSWER_WITHIN) {
        assert!(Instant::now() < deadline, "{to} does not answer {from}: {error}");
    }
}

fn links_of(path: &Path) -> Vec<String> {
    Netlink::open(Some(path)).unwrap().link_names().unwrap()
}

/// Reloads, and tells whether it was refused, with what was said.
fn reload(daemon: &mut Daemon, scratch: &Scratch, text: &str) -> (bool, String) {
    scratch.config(text);
    let said = daemon.log.len();
    daemon.signal(Signal::HUP);
    daemon.wait_for("an outcome", |line| {
        line.contains("reloaded") || line.contains("reload refused")
    });
    let is_refused = daemon.log.last().unwrap().contains("reload refused");
    if is_refused {
        daemon.wait_for("a reason", |line| !line.is_empty());
    }
    (is_refused, daemon.log[said..].join("\n"))
}

#[test]
fn a_name_that_others_take_at_any_moment_is_theirs_or_ours_and_never_both() {
    let scratch = Scratch::new("race");
    let _web = Namespace::create(&scratch.name("web")).unwrap();
    let rival = Namespace::create(&scratch.name("rival")).unwrap();
    let alone = format!("{NETWORK}{}", endpoint("web", 10));
    let both = format!("{alone}{}", endpoint("rival", 11));
    let mut daemon = Daemon::start(&scratch.config(&alone));
    daemon.wait_ready();
    let over = AtomicBool::new(false);
    let mut outcomes = [0, 0];
    std::thread::scope(|scope| {
        let racing = scope.spawn(|| {
            let netlink = Netlink::open(Some(rival.path())).unwrap();
            let options = drivers::TapOptions::new("eth0");
            let mut taken: u64 = 0;
            while !over.load(Ordering::Relaxed) {
                let made = netns::within(rival.path(), || drivers::Tap::create(&options)).unwrap();
                let Ok(tap) = made else { continue };
                let links = netlink.links().unwrap();
                let own = links.iter().find(|link| link.name == "eth0").unwrap();
                assert_eq!(own.alias, None, "the daemon took a device for its own");
                taken += 1;
                // Held for as long as a reload takes, now less and now more.
                std::thread::sleep(Duration::from_millis(taken % 4 * 10));
                drop(tap);
            }
            taken
        });
        for _ in 0..12 {
            let (is_refused, said) = reload(&mut daemon, &scratch, &both);
            outcomes[usize::from(is_refused)] += 1;
            assert!(!is_refused || said.contains("eth0"), "{said}");
            let (is_refused, said) = reload(&mut daemon, &scratch, &alone);
            assert!(!is_refused, "{said}");
        }
        over.store(true, Ordering::Relaxed);
        assert!(racing.join().unwrap() > 0, "the rival never had the name");
    });
    eprintln!("{} reloads had the name, {} were refused", outcomes[0], outcomes[1]);
    let (is_refused, said) = reload(&mut daemon, &scratch, &both);
    assert!(!is_refused, "{said}");
    assert_talks(&scratch, "web", "10.1.0.11");
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(links_of(rival.path()), ["lo"]);
}

#[test]
fn a_namespace_that_vanishes_half_way_through_a_start_or_reload_leaves_nothing_half_done() {
    const COUNT: usize = 40;
    let scratch = Scratch::new("vanish");
    let name = |index: usize| format!("e{index}");
    let make = |index| Namespace::create(&scratch.name(&name(index))).unwrap();
    let mut namespaces: Vec<Option<Namespace>> =
        (0..COUNT).map(|index| Some(make(index))).collect();
    let endpoints = |range: std::ops::Range<usize>| {
        range.fold(NETWORK.to_owned(), |mut text, index| {
            write!(text, "{}", endpoint(&name(index), 10 + index)).unwrap();
            text
        })
    };
    let (few, all) = (endpoints(0..2), endpoints(0..COUNT));
    for round in 0..8 {
        let (victim, is_reload) = (2 + (round * 5) % (COUNT - 2), round % 2 == 1);
        // Across the whole of it: a start of so many takes some hundred milliseconds.
        let delay = Duration::from_millis(15 * round as u64);
        let mut daemon = Daemon::start(&scratch.config(if is_reload { &few } else { &all }));
        if is_reload {
            daemon.wait_ready();
            scratch.config(&all);
            daemon.signal(Signal::HUP);
        }
        std::thread::sleep(delay);
        namespaces[victim] = None;
        let context = format!("round {round}: {} vanishes after {delay:?}", name(victim));
        if is_reload {
            daemon.wait_for("an outcome", |line| {
                line.contains("reloaded") || line.contains("reload refused")
            });
            assert_talks(&scratch, "e0", "10.1.0.11");
            assert!(daemon.terminate().success(), "{context}: {:?}", daemon.log);
        } else {
            daemon.wait_for("an outcome", |line| line == "ready" || line.contains("rror"));
            if daemon.log.last().unwrap() == "ready" {
                assert_talks(&scratch, "e0", "10.1.0.11");
                assert!(daemon.terminate().success(), "{context}: {:?}", daemon.log);
            } else {
                let log = daemon.log.join("\n");
                assert_eq!(daemon.wait_end().code(), Some(1), "{context}: {log}");
                let log = daemon.log.join("\n");
                assert!(log.contains(&scratch.name(&name(victim))), "{context}: {log}");
            }
        }
        for namespace in namespaces.iter().flatten() {
            assert_eq!(links_of(namespace.path()), ["lo"], "{context}");
        }
        namespaces[victim] = Some(make(victim));
    }
    let mut daemon = Daemon::start(&scratch.config(&all));
    daemon.wait_ready();
    assert_talks(&scratch, "e0", &format!("10.1.0.{}", 10 + COUNT - 1));
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}

#[test]
fn a_right_that_is_lost_after_the_start_refuses_a_reload_and_the_gateway_goes_on() {
    let scratch = Scratch::new("rights");
    let names = ["web", "third", "more"];
    let _all = names.map(|name| Namespace::create(&scratch.name(name)).unwrap());
    let before = format!("{NETWORK}{}{}", endpoint("web", 10), endpoint("third", 12));
    let after = format!("{before}{}", endpoint("more", 20));
    let config = scratch.config(&before);
    let mut command = Command::new("unshare");
    command.args(["--mount", PROGRAM, "run", "-c"]).arg(config);
    let mut daemon = Daemon::spawn(command);
    daemon.wait_ready();
    let mounts = format!("--mount=/proc/{}/ns/mnt", daemon.child.id());
    let in_its_mounts = |arguments: &[&str]| {
        let status = Command::new("nsenter").arg(&mounts).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    in_its_mounts(&["mount", "-t", "tmpfs", "none", "/dev/net"]);
    let (is_refused, said) = reload(&mut daemon, &scratch, &after);
    assert!(is_refused && said.contains("/dev/net/tun"), "{said}");
    assert_talks(&scratch, "web", "10.1.0.12");
    assert_eq!(links_of(&scratch.path("more")), ["lo"]);
    in_its_mounts(&["umount", "/dev/net"]);
    let (is_refused, said) = reload(&mut daemon, &scratch, &after);
    assert!(!is_refused, "{said}");
    assert_talks(&scratch, "web", "10.1.0.20");
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    names.iter().for_each(|name| assert_eq!(links_of(&scratch.path(name)), ["lo"]));
}

/// web publishes its port 80 and goes out masqueraded; the uplink's other end is the outside.
const WITH_OUTSIDE: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
addresses = ["192.0.2.10/24"]
host_addresses = ["192.0.2.1/24"]
gateway = "192.0.2.1"

[network.front]
subnet = "10.1.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb" }
network = [{ name = "front", ip = "10.1.0.10" }]
publish = ["8080:80"]
"#;

/// A connection between two namespaces: the server's end, whom the server sees, the client's end.
fn connect(
    (server, at): (&Path, SocketAddr),
    (client, to): (&Path, SocketAddr),
) -> (TcpStream, SocketAddr, TcpStream) {
    let listener = netns::within(server, || TcpListener::bind(at)).unwrap().unwrap();
    let connecting = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
    let ours = netns::within(client, connecting).unwrap().unwrap();
    let (theirs, seen) = listener.accept().unwrap();
    for stream in [&ours, &theirs] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (theirs, seen, ours)
}

fn assert_passes(from: &mut TcpStream, to: &mut TcpStream, context: &str) {
    let mut buffer = [0; 4];
    from.write_all(b"word").unwrap();
    to.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(&buffer, b"word", "{context}");
}

#[test]
fn connections_with_the_outside_survive_a_kill_if_the_inside_speaks_first() {
    let scratch = Scratch::new("outside");
    let [outside, web] =
        ["outside", "web"].map(|name| Namespace::create(&scratch.name(name)).unwrap());
    let start = |workers: &str| {
        let text = WITH_OUTSIDE.replace("workers = 2", &format!("workers = {workers}"));
        let mut daemon = Daemon::start(&scratch.config(&text));
        daemon.wait_ready();
        daemon
    };
    let mut daemon = start("2");
    assert_talks(&scratch, "web", "192.0.2.1");
    let server: SocketAddr = "192.0.2.1:7000".parse().unwrap();
    let (mut theirs, seen, mut ours) = connect((outside.path(), server), (web.path(), server));
    assert_eq!(seen.ip(), address("192.0.2.10"), "it is masqueraded");
    let published: SocketAddr = "192.0.2.10:8080".parse().unwrap();
    let inside: SocketAddr = "10.1.0.10:80".parse().unwrap();
    let (mut web_end, _, mut client) = connect((web.path(), inside), (outside.path(), published));
    for workers in ["1", "4", "2"] {
        daemon.signal(Signal::KILL);
        daemon.wait_end();
        daemon = start(workers);
        // Of masquerade the inside tells the new daemon of the connection; the port is kept.
        assert_passes(&mut ours, &mut theirs, "masqueraded, from inside");
        assert_passes(&mut theirs, &mut ours, "masqueraded, from outside");
        // A published port needs no memory, so either may speak first.
        let (first, second) = match workers {
            "4" => (&mut client, &mut web_end),
            _ => (&mut web_end, &mut client),
        };
        assert_passes(first, second, "published");
        assert_passes(second, first, "published");
    }
    drop((theirs, ours, web_end, client));
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(links_of(outside.path()), ["lo"]);
}

#[test]
fn a_masqueraded_connection_goes_on_after_a_kill_once_the_inside_speaks() {
    let scratch = Scratch::new("resumed");
    let [outside, web] =
        ["outside", "web"].map(|name| Namespace::create(&scratch.name(name)).unwrap());
    let config = scratch.config(WITH_OUTSIDE);
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready();
    let server: SocketAddr = "192.0.2.1:7000".parse().unwrap();
    let (mut theirs, _, mut ours) = connect((outside.path(), server), (web.path(), server));
    daemon.signal(Signal::KILL);
    daemon.wait_end();
    daemon = Daemon::start(&config);
    daemon.wait_ready();
    // Nobody knows whose port it was, so the word is dropped, without a reset: TCP sends it again,
    // and it arrives once the inside has said that the connection lives.
    theirs.write_all(b"word").unwrap();
    ours.write_all(b"here").unwrap();
    let mut read = [0; 4];
    theirs.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"here");
    ours.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"word");
    drop(web);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}
