//! A router with a narrow link between two ends of a tunnel, on real interfaces.
//!
//! ```text
//! near 10.9.0.10 -- [gateway 192.0.2.10] -- host (a router) -- MTU 1400 -- far 198.51.100.7: vxlan
//! ```
//!
//! What that router says of outer packets has to be heard: else bulk traffic would hang for ever.
//! Host and far are kernels in namespaces. Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::{self, Namespace};
use gateway::traffic::{self, echo_tcp, in_namespace};

use common::host::start_on;
use common::tunnels::{MESH, PASSES_WITHIN, at, host_of, ip, wait_for_ping};
use common::{Daemon, PROGRAM, Scratch};

/// The MAC address of the far end inside the overlay.
const FAR_MAC: &str = "02:42:0a:09:00:02";

/// MTU of the link behind the router.
const NARROW: usize = 1_400;

struct World {
    host: Namespace,
    far: Namespace,
    scratch: Scratch,
    daemon: Daemon,
    vtep: &'static str,
    /// What the narrow link leaves inside of a tunnel.
    inside: usize,
}

impl World {
    fn new(v6: bool) -> World {
        let scratch = Scratch::new(if v6 { "narrow6" } else { "narrow4" });
        let host = host_of(&scratch);
        let far = Namespace::create(&scratch.name("far")).unwrap();
        let (vtep, own) = match v6 {
            true => ("2001:db8:f::7", "2001:db8::10"),
            false => ("198.51.100.7", "192.0.2.10"),
        };
        netns::within(host.path(), || {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
            }
        })
        .unwrap();
        let lines = format!(
            "ip link add narrow mtu {NARROW} type veth peer name narrow mtu {NARROW} netns {}
             ip addr add 198.51.100.1/24 dev narrow
             ip addr add 2001:db8:f::1/64 dev narrow nodad
             ip link set narrow up",
            scratch.name("far")
        );
        ip(host.path(), &lines);
        let daemon = start_on(&host, &scratch.config(&MESH.replace("VTEP", vtep)));
        let lines = format!(
            "ip link set lo up
             ip addr add 198.51.100.7/24 dev narrow
             ip addr add 2001:db8:f::7/64 dev narrow nodad
             ip link set narrow up
             ip route add default via 198.51.100.1
             ip -6 route add default via 2001:db8:f::1
             ip link add vx0 type vxlan id 4097 dstport 4789 local {vtep} remote {own}
             ip link set vx0 address {FAR_MAC}
             ip addr add 10.9.0.2/24 dev vx0
             ip addr add fd00:9::2/64 dev vx0 nodad
             ip link set vx0 mtu {} up",
            if v6 { 1_430 } else { 1_450 }
        );
        ip(far.path(), &lines);
        let inside = NARROW - if v6 { 70 } else { 50 };
        World { host, far, scratch, daemon, vtep, inside }
    }

    fn near(&self) -> PathBuf {
        self.scratch.path("near")
    }

    fn count(&self, name: &str) -> u64 {
        let metrics = self.scratch.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// What `portolan` prints when it asks the daemon.
    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        let output = command.args(arguments).arg("--socket").arg(self.scratch.socket()).output();
        let output = output.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// Half a megabyte there and back, begun at either end. A busy machine may be too slow for one.
fn bulk(near: (&std::path::Path, &str), far: (&std::path::Path, &str)) {
    for (server, client) in [(far, near), (near, far)] {
        let server_at = at(server.1, 5_301);
        let echo = || echo_tcp((server.0, server_at), (client.0, server_at), 500_000);
        echo().or_else(|_| echo()).unwrap();
    }
}

/// The gateway tells the sender of what the path does not take how much it takes.
fn told(world: &World, inner: &str, gateway: &str) {
    let v6 = inner.contains(':');
    let headers = if v6 { 48 } else { 28 };
    let ping = |bytes: usize| {
        let output = in_namespace(&world.near(), || {
            Command::new("ping")
                .args(["-n", "-c", "1", "-W", "2", "-M", "do", "-s"])
                .args([&(bytes - headers).to_string(), inner])
                .output()
        });
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    // What its kernel has learnt must not spare the gateway the answer.
    let flush = if v6 { "ip -6 route flush cache" } else { "ip route flush cache" };
    ip(&world.near(), flush);
    let mtu = world.inside.to_string();
    let deadline = Instant::now() + PASSES_WITHIN;
    loop {
        let (arrived, text) = ping(world.inside + 1);
        assert!(!arrived, "{text}");
        if text.contains(&mtu) && text.contains(gateway) {
            break;
        }
        assert!(Instant::now() < deadline, "{text}\n{}", world.scratch.metrics());
    }
    while let (false, text) = ping(world.inside) {
        assert!(Instant::now() < deadline, "{text}\n{}", world.scratch.metrics());
    }
}

#[test]
fn a_narrow_link_between_two_tunnel_ends_stops_no_bulk_and_is_told() {
    for v6 in [false, true] {
        let mut world = World::new(v6);
        let (near, far) = (world.near(), world.far.path().to_owned());
        wait_for_ping(&near, "10.9.0.2");
        wait_for_ping(&near, "fd00:9::2");
        assert_eq!(world.count("portolan_worker_overlay_too_big_total"), 0);
        // Nothing is known of the path when this begins.
        bulk((&near, "10.9.0.10"), (&far, "10.9.0.2"));
        assert!(world.count("portolan_worker_overlay_too_big_total") > 0);
        bulk((&near, "fd00:9::10"), (&far, "fd00:9::2"));
        told(&world, "10.9.0.2", "10.9.0.1");
        told(&world, "fd00:9::2", "fd00:9::1");
        let table = world.ask(&["show", "mtu"]);
        let line = table.lines().find(|line| line.contains(world.vtep)).unwrap_or_default();
        let says = format!("{} inside of the tunnel", world.inside);
        assert!(line.contains("1400") && line.contains(&says), "{table}");
        // And so does a question about a packet that nobody sent.
        let size = (world.inside + 1).to_string();
        let explained = world.ask(&["explain", "--from", "near", "--to", FAR_MAC, "--size", &size]);
        let says = format!("next-hop MTU {}", world.inside);
        assert!(explained.contains(&says), "{explained}");
        assert!(world.daemon.terminate().success());
        drop(world.host);
    }
}

#[test]
fn a_far_end_that_does_not_listen_is_counted() {
    let mut world = World::new(false);
    wait_for_ping(&world.near(), "10.9.0.2");
    ip(world.far.path(), "ip link del vx0");
    let deadline = Instant::now() + PASSES_WITHIN;
    let (target, wait) = ("10.9.0.2".parse().unwrap(), Duration::from_millis(200));
    while world.count("portolan_dropped_packets_total{reason=\"overlay_unreachable\"") == 0 {
        assert!(traffic::ping(&world.near(), target, wait).is_err());
        assert!(Instant::now() < deadline, "{}", world.scratch.metrics());
    }
    assert!(world.daemon.terminate().success());
}
