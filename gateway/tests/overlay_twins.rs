//! Two overlays with one subnet, on real interfaces: equal addresses, equal sockets, one machine.
//!
//! The kernel's end of the uplink is the other VTEP of both, with a `vxlan` device in a namespace
//! for each. Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway::netns::Namespace;
use gateway::traffic::{self, echo_tcp};

use common::host::start_on;
use common::tunnels::{PASSES_WITHIN, at, check_all, host_of, ip, wait_for_ping};
use common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.red]
driver = "overlay"
vni = 5001
subnets = ["10.9.0.0/24", "fd00:9::/64"]
peers = ["192.0.2.1"]

[network.blue]
driver = "overlay"
vni = 5002
subnets = ["10.9.0.0/24", "fd00:9::/64"]
peers = ["192.0.2.1"]

[endpoint.red]
attach = { netns = "PREFIXred", create = true }
publish = ["8080:80", "8080:80/udp"]
network = [{ name = "red", ip = "10.9.0.10", ip6 = "fd00:9::10" }]

[endpoint.blue]
attach = { netns = "PREFIXblue", create = true }
publish = ["8081:80", "8081:80/udp"]
network = [{ name = "blue", ip = "10.9.0.10", ip6 = "fd00:9::10" }]
"#;

const NAMES: [&str; 2] = ["red", "blue"];

struct World {
    host: Namespace,
    /// Behind the kernel's ends of the tunnels: 10.9.0.2 and fd00:9::2, twice.
    far: [Namespace; 2],
    near: [PathBuf; 2],
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> World {
        let scratch = Scratch::new("twins");
        let host = host_of(&scratch);
        let daemon = start_on(&host, &scratch.config(CONFIG));
        let far =
            NAMES.map(|name| Namespace::create(&scratch.name(&format!("far-{name}"))).unwrap());
        for (index, name) in NAMES.into_iter().enumerate() {
            let vni = 5_001 + index;
            let other = scratch.name(&format!("far-{name}"));
            let lines = format!(
                "ip link add {name} type vxlan id {vni} dstport 4789 \
                 local 192.0.2.1 remote 192.0.2.10
                 ip link set {name} netns {other}"
            );
            ip(host.path(), &lines);
            let lines = format!(
                "ip link set lo up
                 ip link set {name} address 02:42:0a:09:00:02
                 ip addr add 10.9.0.2/24 dev {name}
                 ip addr add fd00:9::2/64 dev {name} nodad
                 ip link set {name} up
                 ip route add default via 10.9.0.1"
            );
            ip(far[index].path(), &lines);
        }
        let near = NAMES.map(|name| scratch.path(name));
        World { host, far, near, daemon, scratch }
    }
}

fn bound(namespace: &Path, address: SocketAddr) -> UdpSocket {
    let socket = traffic::in_namespace(namespace, || UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// Sends until the server has it, and the answer until the client has that. Both hear of nobody
/// else in between.
fn exchange(client: &UdpSocket, to: SocketAddr, server: &UdpSocket, text: &str) -> SocketAddr {
    let deadline = Instant::now() + PASSES_WITHIN;
    let mut buffer = [0; 64];
    let from = loop {
        assert!(Instant::now() < deadline, "{text} does not arrive");
        client.send_to(text.as_bytes(), to).unwrap();
        if let Ok((bytes, from)) = server.recv_from(&mut buffer) {
            assert_eq!(std::str::from_utf8(&buffer[..bytes]).unwrap(), text);
            break from;
        }
    };
    let answer = format!("{text} answered");
    loop {
        assert!(Instant::now() < deadline, "{answer} does not arrive");
        server.send_to(answer.as_bytes(), from).unwrap();
        if let Ok((bytes, _)) = client.recv_from(&mut buffer) {
            assert_eq!(std::str::from_utf8(&buffer[..bytes]).unwrap(), answer);
            return from;
        }
    }
}

#[test]
fn two_overlays_with_one_subnet_work_at_once_and_do_not_mix() {
    let mut world = World::new();
    // All traffic through both tunnels at once, by equal addresses.
    std::thread::scope(|scope| {
        for (near, far) in world.near.iter().zip(&world.far) {
            scope.spawn(move || {
                check_all((near, "10.9.0.10"), (far.path(), "10.9.0.2"), 1_450);
                check_all((near, "fd00:9::10"), (far.path(), "fd00:9::2"), 1_450);
            });
        }
    });
    for (own, peer, near, far) in
        [("10.9.0.10", "10.9.0.2", 7_000, 7_001), ("fd00:9::10", "fd00:9::2", 7_000, 7_001)]
    {
        let near = world.near.each_ref().map(|path| bound(path, at(own, near)));
        let far = world.far.each_ref().map(|path| bound(path.path(), at(peer, far)));
        for round in 0..10 {
            for (index, name) in NAMES.into_iter().enumerate() {
                let to = far[index].local_addr().unwrap();
                let from = exchange(&near[index], to, &far[index], &format!("{name} {round}"));
                assert_eq!(from, near[index].local_addr().unwrap(), "bridged as it is");
            }
        }
    }
    masqueraded(&world);
    published(&world);
    assert!(world.daemon.terminate().success());
    assert_eq!(world.scratch.namespaces_left().len(), 3, "those that the test made");
}

/// Equal sockets ask one server outside, which sees two; those behind the tunnels ask it as well.
fn masqueraded(world: &World) {
    for (outside, own) in [("192.0.2.1", "10.9.0.10"), ("2001:db8::1", "fd00:9::10")] {
        let server = bound(world.host.path(), at(outside, 5_310));
        let clients = world.near.each_ref().map(|path| bound(path, at(own, 7_100)));
        for round in 0..5 {
            let seen = [0, 1].map(|index| {
                let text = format!("{} asks {round}", NAMES[index]);
                exchange(&clients[index], at(outside, 5_310), &server, &text)
            });
            assert_ne!(seen[0], seen[1], "an outside port for each");
        }
    }
    // By our gateway address in each network, on behalf of a station elsewhere with one address.
    ip(world.host.path(), "ip addr add 198.51.100.7/32 dev lo");
    let server = bound(world.host.path(), at("198.51.100.7", 5_311));
    let clients = world.far.each_ref().map(|path| bound(path.path(), at("10.9.0.2", 7_101)));
    let seen = [0, 1].map(|index| {
        let text = format!("{} asks from afar", NAMES[index]);
        exchange(&clients[index], at("198.51.100.7", 5_311), &server, &text)
    });
    assert!(seen.iter().all(|seen| seen.ip() == at("192.0.2.10", 0).ip()), "{seen:?}");
    assert_ne!(seen[0], seen[1]);
}

/// Each published port leads to its own network's endpoint, of two with one address.
fn published(world: &World) {
    wait_for_ping(&world.near[0], "192.0.2.1");
    for (index, port) in [(0, 8_080), (1, 8_081)] {
        let server = (&*world.near[index], at("10.9.0.10", 80));
        let client = (world.host.path(), at("192.0.2.10", port));
        echo_tcp(server, client, 50_000).unwrap();
        // The other network's endpoint has no server: who reaches it is refused.
        let client = (world.host.path(), at("192.0.2.10", 8_080 + 8_081 - port));
        assert!(echo_tcp(server, client, 1).is_err());
    }
    let servers = world.near.each_ref().map(|path| bound(path, at("10.9.0.10", 80)));
    let client = bound(world.host.path(), at("192.0.2.1", 7_200));
    for (index, port) in [(0, 8_080), (1, 8_081)] {
        let text = format!("to {}", NAMES[index]);
        exchange(&client, at("192.0.2.10", port), &servers[index], &text);
    }
}
