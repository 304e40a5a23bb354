//! What tests of overlays share: commands in namespaces, and all kinds of traffic between two.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::{self, Namespace};
use gateway::traffic::{self, echo_tcp, echo_udp};

use super::Scratch;

/// A gateway beside nobody, and a member of an overlay that goes on at VTEP.
pub(crate) const MESH: &str = r#"
[gateway]
workers = 2

[uplink.wan]
host_side = false
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
peers = ["VTEP"]

[endpoint.near]
attach = { netns = "PREFIXnear", create = true }
network = [{ name = "mesh", ip = "10.9.0.10", ip6 = "fd00:9::10" }]
"#;

/// Longest wait for the first packet to pass: neighbours have to be found on both links.
pub(crate) const PASSES_WITHIN: Duration = Duration::from_secs(30);

/// Runs commands of iproute2 in a namespace, one a line.
pub(crate) fn ip(namespace: &Path, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let run = || Command::new(words[0]).args(&words[1..]).output().unwrap();
        let output = netns::within(namespace, run).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
    }
}

/// A namespace that stands for the gateway's host.
pub(crate) fn host_of(scratch: &Scratch) -> Namespace {
    let host = Namespace::create(&scratch.name("host")).unwrap();
    ip(host.path(), "ip link set lo up");
    host
}

/// Waits until a ping is answered.
pub(crate) fn wait_for_ping(from: &Path, to: &str) {
    let (deadline, to) = (Instant::now() + PASSES_WITHIN, to.parse().unwrap());
    while let Err(error) = traffic::ping(from, to, Duration::from_millis(500)) {
        assert!(Instant::now() < deadline, "no answer of {to}: {error}");
    }
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Ping, UDP of each size and TCP both ways between two addresses in their namespaces.
pub(crate) fn check_all(near: (&Path, &str), far: (&Path, &str), most: usize) {
    wait_for_ping(near.0, far.1);
    wait_for_ping(far.0, near.1);
    let v6 = near.1.contains(':');
    let headers = if v6 { 48 } else { 28 };
    let sizes = [1, 100, 1_000, most - headers];
    for (server, client) in [(near, far), (far, near)] {
        let (server_at, from) = (at(server.1, 5_300), client.1.parse::<IpAddr>().unwrap());
        let seen = echo_udp((server.0, server_at), (client.0, server_at), &sizes).unwrap();
        assert_eq!(seen, from, "nothing is translated");
        let server_at = at(server.1, 5_301);
        let seen = echo_tcp((server.0, server_at), (client.0, server_at), 300_000).unwrap();
        assert_eq!(seen, from);
    }
}
