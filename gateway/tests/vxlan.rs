//! Overlays on real interfaces: a kernel's `vxlan` device as the other end, and another Portolan.
//!
//! The daemon runs in a namespace that stands for its host. The kernel's end of its uplink is the
//! other VTEP, or a router between two daemons. Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use drivers::TapOptions;
use gateway::netns::{self, Namespace};
use gateway::traffic::{self, ANSWER_WITHIN, echo_tcp, echo_udp};

use common::host::start_on;
use common::tunnels::{PASSES_WITHIN, at, check_all, host_of, ip, wait_for_ping};
use common::{Daemon, Scratch};

/// The MAC address of the kernel's own end inside the overlay.
const FAR_MAC: &str = "02:42:0a:09:00:02";
/// That of the endpoint behind the gateway.
const NEAR_MAC: &str = "02:42:0a:09:00:0a";

const UPLINK: &str = r#"
[gateway]
workers = WORKERS

[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.mesh]
driver = "overlay"
vni = 4097
subnets = ["10.9.0.0/24", "fd00:9::/64"]
OVERLAY

[endpoint.near]
attach = { netns = "PREFIXnear", create = true }
publish = ["8080:80", "8080:80/udp"]
network = [{ name = "mesh", ip = "10.9.0.10", ip6 = "fd00:9::10" }]
"#;

/// A daemon with the uplink above in a host of its own, and its kernel as the other end.
struct World {
    host: Namespace,
    scratch: Scratch,
    daemon: Daemon,
}

impl World {
    /// `overlay`: what the network says; `device`: how the kernel's end is made.
    fn new(test: &str, workers: u8, overlay: &str, device: &str) -> World {
        let scratch = Scratch::new(test);
        let host = host_of(&scratch);
        let text = UPLINK.replace("WORKERS", &workers.to_string()).replace("OVERLAY", overlay);
        let path = scratch.config(&text);
        let daemon = start_on(&host, &path);
        let set_up = format!(
            "ip link add vx0 {device}
             ip link set vx0 address {FAR_MAC}
             ip addr add 10.9.0.2/24 dev vx0
             ip addr add fd00:9::2/64 dev vx0 nodad
             ip link set vx0 up"
        );
        ip(host.path(), &set_up);
        World { host, scratch, daemon }
    }

    fn near(&self) -> std::path::PathBuf {
        self.scratch.path("near")
    }

    fn check(&self, most: usize) {
        let (near, far) = (self.near(), self.host.path());
        check_all((&near, "10.9.0.10"), (far, "10.9.0.2"), most);
        check_all((&near, "fd00:9::10"), (far, "fd00:9::2"), most);
    }

    /// What a counter of the metrics says, all its lines together.
    fn count(&self, start: &str) -> u64 {
        let metrics = self.scratch.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }
}

#[test]
fn a_kernel_that_learns_is_a_peer() {
    for workers in [1, 2] {
        let device = "type vxlan id 4097 dstport 4789 local 192.0.2.1 remote 192.0.2.10";
        let mut world = World::new("learn", workers, "peers = [\"192.0.2.1\"]", device);
        world.check(1_450);
        wait_for_ping(world.host.path(), "10.9.0.1");
        assert!(world.count("portolan_port_rx_packets_total{port=\"vxlan:mesh/192.0.2.1\"") > 0);
        assert!(world.daemon.terminate().success());
    }
}

#[test]
fn the_outer_header_may_be_ipv6() {
    let device = "type vxlan id 4097 dstport 4789 local 2001:db8::1 remote 2001:db8::10";
    let mut world = World::new("outer6", 1, "peers = [\"2001:db8::1\"]", device);
    world.check(1_430);
    assert!(world.daemon.terminate().success());
}

#[test]
fn a_kernel_with_static_entries_is_met_by_static_remotes() {
    let overlay = format!(
        "port = 64000\n\
         remote = [{{ ip = \"10.9.0.2\", mac = \"{FAR_MAC}\", vtep = \"192.0.2.1\" }},\n\
         {{ ip = \"fd00:9::2\", mac = \"{FAR_MAC}\", vtep = \"192.0.2.1\" }}]"
    );
    let device = "type vxlan id 4097 dstport 64000 local 192.0.2.1 nolearning proxy";
    let mut world = World::new("static", 2, &overlay, device);
    let entries = format!(
        "bridge fdb add {NEAR_MAC} dev vx0 dst 192.0.2.10
         ip neigh add 10.9.0.10 lladdr {NEAR_MAC} dev vx0
         ip neigh add fd00:9::10 lladdr {NEAR_MAC} dev vx0"
    );
    ip(world.host.path(), &entries);
    world.check(1_450);
    // Nobody has this address: the question stays here, and is counted.
    let nobody = "10.9.0.77".parse().unwrap();
    assert!(traffic::ping(&world.near(), nobody, Duration::from_millis(300)).is_err());
    assert!(world.count("portolan_worker_overlay_misses_total") > 0, "{}", world.scratch.metrics());
    assert!(world.daemon.terminate().success());
}

const HALF: &str = r#"
[gateway]
workers = 2

[uplink.wan]
host_side = false
driver = "tap"
interface = "wanSELF"
addresses = ["198.18.SELF.10/24"]
host_addresses = ["198.18.SELF.1/24"]
gateway = "198.18.SELF.1"

[network.mesh]
driver = "overlay"
vni = 4097
subnets = ["10.9.0.0/24", "fd00:9::/64"]
peers = ["198.18.PEER.10"]

[network.agents]
driver = "overlay"
vni = 1024
port = 64000
subnet = "9.0.SELF.0/24"
gateway_mac = "70:b3:d5:80:00:0SELF"
route = [{ subnet = "9.0.PEER.0/24", vtep_ip = "44.128.0.PEER",
           vtep_mac = "70:b3:d5:80:00:0PEER", host = "198.18.PEER.10" }]

[endpoint.member]
attach = { netns = "PREFIXmember", create = true }
network = [{ name = "mesh", ip = "10.9.0.1SELF", ip6 = "fd00:9::1SELF" }]

[endpoint.task]
attach = { netns = "PREFIXtask", create = true }
network = [{ name = "agents", ip = "9.0.SELF.10" }]
"#;

#[test]
fn two_gateways_share_a_network_and_route_to_each_others_prefixes() {
    let host = host_of(&Scratch::new("between"));
    netns::within(host.path(), || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .unwrap()
        .unwrap();
    let mut halves = Vec::new();
    for (own, peer) in [("1", "2"), ("2", "1")] {
        let scratch = Scratch::new(&format!("half{own}"));
        let path = scratch.config(&HALF.replace("SELF", own).replace("PEER", peer));
        let daemon = start_on(&host, &path);
        halves.push((scratch, daemon));
    }
    let [one, other] = [0, 1].map(|half| halves[half].0.path("member"));
    check_all((&one, "10.9.0.11"), (&other, "10.9.0.12"), 1_450);
    check_all((&one, "fd00:9::11"), (&other, "fd00:9::12"), 1_450);
    // Routed, as DC/OS has it: each side sees the other's own address.
    let [one, other] = [0, 1].map(|half| halves[half].0.path("task"));
    check_all((&one, "9.0.1.10"), (&other, "9.0.2.10"), 1_450);
    for (_, daemon) in &mut halves {
        assert!(daemon.terminate().success());
    }
}

#[test]
fn strangers_and_other_identifiers_are_dropped_and_counted() {
    let device = "type vxlan id 4098 dstport 4789 local 192.0.2.1 remote 192.0.2.10";
    let mut world = World::new("vni", 1, "peers = [\"192.0.2.1\"]", device);
    let near = "10.9.0.10".parse().unwrap();
    let dropped = |world: &World, reason: &str| {
        let deadline = Instant::now() + PASSES_WITHIN;
        let line = format!("portolan_dropped_packets_total{{reason=\"{reason}\"");
        while world.count(&line) == 0 {
            assert!(traffic::ping(world.host.path(), near, Duration::from_millis(200)).is_err());
            assert!(Instant::now() < deadline, "no {reason}: {}", world.scratch.metrics());
        }
    };
    dropped(&world, "overlay_vni");
    ip(
        world.host.path(),
        "ip link del vx0
         ip addr add 192.0.2.99/24 dev wan0
         ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.99 remote 192.0.2.10
         ip addr add 10.9.0.2/24 dev vx0
         ip link set vx0 up",
    );
    dropped(&world, "overlay_vtep");
    assert!(world.daemon.terminate().success());
}

#[test]
fn endpoints_of_an_overlay_reach_the_outside_and_are_published() {
    let device = "type vxlan id 4097 dstport 4789 local 192.0.2.1 remote 192.0.2.10";
    let mut world = World::new("way-out", 2, "peers = [\"192.0.2.1\"]", device);
    let (near, host) = (world.near(), world.host.path().to_owned());
    wait_for_ping(&near, "192.0.2.1");
    let (outside, published) = (at("192.0.2.1", 5_302), at("192.0.2.10", 8_080));
    let seen = echo_tcp((&host, outside), (&near, outside), 100_000).unwrap();
    assert_eq!(seen, "192.0.2.10".parse::<IpAddr>().unwrap(), "masqueraded");
    let server = (&*near, at("10.9.0.10", 80));
    echo_tcp(server, (&host, published), 100_000).unwrap();
    // Somebody behind the tunnel has no way out but by us.
    ip(&host, "ip addr add 198.51.100.7/32 dev lo");
    let far = at("198.51.100.7", 5_303);
    echo_tcp((&host, far), (&near, far), 1_000).unwrap();
    // An endpoint that speaks VXLAN itself would be taken for the gateway.
    let forged = traffic::udp_client(&near, at("192.0.2.1", 4_789)).unwrap();
    forged.send(&[8, 0, 0, 0, 0, 16, 1, 0]).unwrap();
    let deadline = Instant::now() + ANSWER_WITHIN;
    while world.count("portolan_dropped_packets_total{reason=\"overlay_forged\"") == 0 {
        assert!(Instant::now() < deadline, "{}", world.scratch.metrics());
        forged.send(&[8, 0, 0, 0, 0, 16, 1, 0]).unwrap();
    }
    assert!(world.daemon.terminate().success());
}

#[test]
fn the_way_out_and_published_ports_are_of_both_families_and_protocols() {
    let device = "type vxlan id 4097 dstport 4789 local 192.0.2.1 remote 192.0.2.10";
    let mut world = World::new("families", 2, "peers = [\"192.0.2.1\"]", device);
    let (near, host) = (world.near(), world.host.path().to_owned());
    for (outside, own, inside) in
        [("192.0.2.1", "192.0.2.10", "10.9.0.10"), ("2001:db8::1", "2001:db8::10", "fd00:9::10")]
    {
        wait_for_ping(&near, outside);
        let (client, masked): (IpAddr, IpAddr) = (outside.parse().unwrap(), own.parse().unwrap());
        let server = at(outside, 5_320);
        let seen = echo_tcp((&host, server), (&near, server), 100_000).unwrap();
        assert_eq!(seen, masked, "masqueraded");
        let seen = echo_udp((&host, server), (&near, server), &[1, 1_000]).unwrap();
        assert_eq!(seen, masked, "masqueraded");
        let (server, published) = (at(inside, 80), at(own, 8_080));
        let seen = echo_tcp((&near, server), (&host, published), 100_000).unwrap();
        assert_eq!(seen, client, "the server sees who asks");
        let seen = echo_udp((&near, server), (&host, published), &[1, 1_000]).unwrap();
        assert_eq!(seen, client, "the server sees who asks");
    }
    assert!(world.daemon.terminate().success());
}

/// True if this kernel's TAPs take super-frames in tunnels.
fn knows_tunnels(host: &Path) -> bool {
    let options = TapOptions { tunnels: true, ..TapOptions::new("probe0") };
    netns::within(host, || drivers::Tap::create(&options).unwrap().caps().tunnelled).unwrap()
}

#[test]
fn super_frames_cross_a_tunnel_whole_where_the_kernel_knows_them() {
    for (vtep, own, most) in
        [("192.0.2.1", "192.0.2.10", 1_450), ("2001:db8::1", "2001:db8::10", 1_430)]
    {
        let device = format!("type vxlan id 4097 dstport 4789 local {vtep} remote {own}");
        let mut world = World::new("whole", 1, &format!("peers = [\"{vtep}\"]"), &device);
        world.check(most);
        let (near, host) = (world.near(), world.host.path().to_owned());
        let count = |what: &str, port: &str| {
            world.count(&format!("portolan_port_{what}_total{{port=\"{port}\""))
        };
        let ports = ["wan", &format!("vxlan:mesh/{vtep}")];
        let all = || {
            ports.map(|port| {
                ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"].map(|what| count(what, port))
            })
        };
        let before = all();
        for (near_at, far_at) in [("10.9.0.10", "10.9.0.2"), ("fd00:9::10", "fd00:9::2")] {
            let far = at(far_at, 5_310);
            echo_tcp((&host, far), (&near, far), 8_000_000).unwrap();
            let near_at = at(near_at, 5_311);
            echo_tcp((&near, near_at), (&host, near_at), 8_000_000).unwrap();
        }
        let after = all();
        let knows = knows_tunnels(&host);
        for (port, (before, after)) in ports.iter().zip(before.into_iter().zip(after)) {
            for (packets, bytes, way) in [(0, 1, "in"), (2, 3, "out")] {
                let mean = (after[bytes] - before[bytes]) / (after[packets] - before[packets]);
                // Acknowledgements among them: whole ones are several times longer than segments.
                assert_eq!(mean > 2_000, knows, "{port} {way}: {mean} bytes per packet");
            }
        }
        assert!(world.daemon.terminate().success());
    }
}
