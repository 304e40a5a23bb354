//! Published ports of a running daemon: numbers that the file leaves open, ports that are taken on
//! the host, conflicts with other programs, and what a kill leaves behind.
//!
//! The daemon runs in a namespace that stands for the host, so nothing of this machine is touched.
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Instant;

use gateway::netns::{self, Namespace};
use gateway::traffic::{SILENCE, echo_tcp, in_namespace, is_silence};
use rustix::process::Signal;

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 1

[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = [PUBLISH]
network = [{ name = "front", ip = "10.1.0.10" }]
"#;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A daemon in a host of its own.
struct World {
    host: Namespace,
    scratch: Scratch,
}

impl World {
    fn new(test: &str) -> World {
        let scratch = Scratch::new(test);
        let host = Namespace::create(&scratch.name("host")).unwrap();
        let up = ["ip", "link", "set", "lo", "up"];
        netns::within(host.path(), || {
            assert!(Command::new(up[0]).args(&up[1..]).status().unwrap().success())
        })
        .unwrap();
        World { host, scratch }
    }

    fn write(&self, publish: &str) -> std::path::PathBuf {
        self.scratch.config(&CONFIG.replace("PUBLISH", publish))
    }

    fn start(&self, publish: &str) -> Daemon {
        let path = self.write(publish);
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-c"]).arg(path);
        // A child is in the namespace of the thread that makes it.
        netns::within(self.host.path(), || Daemon::spawn(command)).unwrap()
    }

    fn run(&self, publish: &str) -> Daemon {
        let mut daemon = self.start(publish);
        daemon.wait_ready();
        daemon
    }

    /// Another program's listener on the host: this test's, which is another process than the
    /// daemon's.
    fn listen(&self, address: &str) -> std::io::Result<TcpListener> {
        let address: SocketAddr = address.parse().unwrap();
        in_namespace(self.host.path(), || TcpListener::bind(address))
    }

    fn bind_udp(&self, address: &str) -> std::io::Result<UdpSocket> {
        let address: SocketAddr = address.parse().unwrap();
        in_namespace(self.host.path(), || UdpSocket::bind(address))
    }

    fn reserved(&self) -> String {
        netns::within(self.host.path(), || std::fs::read_to_string(RESERVED))
            .unwrap()
            .unwrap()
            .trim()
            .to_owned()
    }

    fn reload(&self, publish: &str) -> std::process::Output {
        self.write(publish);
        let mut command = Command::new(PROGRAM);
        command.args(["reload", "--socket"]).arg(self.scratch.socket());
        command.output().unwrap()
    }

    fn show(&self) -> Vec<serde_json::Value> {
        let mut command = Command::new(PROGRAM);
        command.args(["show", "publish", "--json", "--socket"]).arg(self.scratch.socket());
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        serde_json::from_slice(&said.stdout).unwrap()
    }

    /// The published numbers, in the order of the file, one per mapping.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> =
            self.show().iter().map(|entry| entry["host_port"].as_u64().unwrap()).collect();
        numbers.dedup();
        numbers
    }
}

fn is_in_use<T: std::fmt::Debug>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[test]
fn a_published_port_is_taken_on_the_host_until_it_is_published_no_more() {
    let world = World::new("take");
    let mut daemon = world.run("\"8080:80\", \"127.0.0.1:8081:81\", \"5300:53/udp\"");
    for taken in ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:8080", "127.0.0.1:8081"] {
        assert!(is_in_use(world.listen(taken)), "{taken}");
    }
    assert!(is_in_use(world.bind_udp("0.0.0.0:5300")));
    world.listen("192.0.2.1:8081").unwrap();
    // It leads to the endpoint, past the socket that holds it.
    let (web, server) = (world.scratch.path("web"), "10.1.0.10:81".parse().unwrap());
    let client = (world.host.path(), "127.0.0.1:8081".parse().unwrap());
    let seen = echo_tcp((&web, server), client, 1_000).unwrap();
    assert_eq!(seen, "10.1.0.1".parse::<IpAddr>().unwrap());
    // The same port on one address instead of all, while its own old socket is still there.
    let said = world.reload("\"127.0.0.1:8080:80\"");
    assert!(said.status.success(), "{said:?}");
    assert!(is_in_use(world.listen("127.0.0.1:8080")));
    world.listen("192.0.2.1:8080").unwrap();
    world.bind_udp("0.0.0.0:5300").unwrap();
    // On an address that is the gateway's alone nothing of the host is needed.
    let said = world.reload("\"192.0.2.10:8080:80\"");
    assert!(said.status.success(), "{said:?}");
    let other = world.listen("0.0.0.0:8080").unwrap();
    let server = "10.1.0.10:80".parse().unwrap();
    let client = (world.host.path(), "192.0.2.10:8080".parse().unwrap());
    let seen = echo_tcp((&web, server), client, 1_000).unwrap();
    assert_eq!(seen, "192.0.2.1".parse::<IpAddr>().unwrap());
    drop(other);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    world.listen("0.0.0.0:8080").unwrap();
}

#[test]
fn where_the_host_is_left_alone_the_socket_that_holds_a_port_answers_nobody() {
    let world = World::new("alone");
    let path = world.write("\"8080:80\", \"127.0.0.1:8081:81\", \"[::1]:8081:81\"");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[uplink.wan]\n", "[uplink.wan]\nhost_side = false\n"))
        .unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c"]).arg(path);
    let mut daemon = netns::within(world.host.path(), || Daemon::spawn(command)).unwrap();
    daemon.wait_ready();
    for at in ["127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8080", "[::1]:8081"] {
        let asked = in_namespace(world.host.path(), || {
            TcpStream::connect_timeout(&at.parse().unwrap(), SILENCE)
        });
        assert!(is_silence(&asked.unwrap_err()), "{at}");
        assert!(is_in_use(world.listen(at)), "{at}");
    }
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}

#[test]
fn a_port_of_another_program_is_a_conflict_that_names_it_and_changes_nothing() {
    let world = World::new("conflict");
    let listener = world.listen("0.0.0.0:8080").unwrap();
    let mut daemon = world.start("\"8000:80\", \"8080:80\"");
    assert!(!daemon.wait_end().success());
    let said = daemon.log.join("\n");
    let expected = "failed to bind host port 0.0.0.0:8080/tcp: address already in use";
    let owner = format!("(pid {})", std::process::id());
    assert!(said.contains(expected) && said.contains(&owner), "{said}");
    assert_eq!(world.scratch.namespaces_left(), [world.scratch.name("host")]);
    // A reload is refused as a whole: neither its other port nor its removal happens.
    let mut daemon = world.run("\"8000:80\"");
    let said = world.reload("\"8001:81\", \"8080:80\"");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains(expected), "{text}");
    assert_eq!(world.numbers(), [8000]);
    assert!(is_in_use(world.listen("0.0.0.0:8000")));
    world.listen("0.0.0.0:8001").unwrap();
    drop(listener);
    assert!(world.reload("\"8001:81\", \"8080:80\"").status.success());
    assert_eq!(world.numbers(), [8001, 8080]);
    world.listen("0.0.0.0:8000").unwrap();
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}

#[test]
fn a_long_range_is_looked_through_reserved_and_watched_and_a_kill_leaves_nothing_for_long() {
    let world = World::new("range");
    netns::within(world.host.path(), || std::fs::write(RESERVED, "7000,20010-20020"))
        .unwrap()
        .unwrap();
    let listener = world.listen("127.0.0.1:30000").unwrap();
    let range = "\"20000-39999:20000-39999\"";
    let mut daemon = world.start(range);
    assert!(!daemon.wait_end().success());
    let said = daemon.log.join("\n");
    assert!(said.contains("0.0.0.0:30000/tcp: address already in use"), "{said}");
    assert_eq!(world.reserved(), "7000,20010-20020");
    drop(listener);
    let mut daemon = world.run("\"8080:80\"");
    let started = Instant::now();
    let said = world.reload(range);
    let took = started.elapsed();
    assert!(said.status.success(), "{said:?}");
    println!("20,000 ports published in {took:?}, the command's own start included");
    println!("{}", String::from_utf8_lossy(&said.stdout));
    assert_eq!(world.reserved(), "7000,20000-39999");
    // Somebody binds one by its number all the same: that is shown.
    let listener = world.listen("0.0.0.0:25000").unwrap();
    let shown = world.show();
    let taken = shown[0]["taken_by"][0].as_str().unwrap().to_owned();
    assert!(
        taken.starts_with("25000 ") && taken.contains(&std::process::id().to_string()),
        "{taken}"
    );
    drop(listener);
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    assert_eq!(world.reserved(), "7000,20000-39999");
    let mut daemon = world.run("\"8080:80\"");
    assert_eq!(world.reserved(), "7000,20010-20020");
    assert!(world.reload(range).status.success());
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(world.reserved(), "7000,20010-20020");
}

#[test]
fn open_numbers_are_given_in_order_kept_over_restarts_and_shown() {
    let world = World::new("open");
    let sysctl = |name: &str, value: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        netns::within(world.host.path(), || std::fs::write(path, value)).unwrap().unwrap();
    };
    sysctl("ip_local_port_range", "40000 40009");
    sysctl("ip_local_reserved_ports", "40001");
    let listener = world.listen("127.0.0.1:40002").unwrap();
    let specs = "\"80\", \"127.0.0.1::81\", \"8000-8010:82\", \"83-84/udp\"";
    let mut daemon = world.run(specs);
    assert_eq!(world.numbers(), [40000, 40003, 8000, 40004]);
    // The same number on both families.
    assert_eq!(world.show()[0]["host_port"], world.show()[1]["host_port"]);
    // What comes before it in the file takes nothing from it; the next one is behind the last.
    let more = format!("\"79\", {specs}");
    let said = world.reload(&more);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(world.numbers(), [40006, 40000, 40003, 8000, 40004]);
    // Not before: a client takes a port of the same few, and keeps it for a minute.
    let (web, server) = (world.scratch.path("web"), "10.1.0.10:80".parse().unwrap());
    let client = (world.host.path(), "192.0.2.10:40000".parse().unwrap());
    echo_tcp((&web, server), client, 1_000).unwrap();
    drop(listener);
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    let mut daemon = world.run(&more);
    assert_eq!(world.numbers(), [40006, 40000, 40003, 8000, 40004]);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    // A port that somebody else has by then is given up for another.
    let _listener = world.listen("0.0.0.0:8000").unwrap();
    let mut daemon = world.run(&more);
    assert_eq!(world.numbers()[3], 8001);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}
