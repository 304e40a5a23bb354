//! A gateway whose links have the MTUs of a cell.
//!
//! ```text
//! host ---(egress MTU)--- wan0 [gateway] ---(endpoint MTU)--- front: web
//!                                        ---(egress MTU)----- front: mate
//! ```
//!
//! The host is a namespace, so nothing of this machine is touched.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gateway::netns::{self, Namespace};

use super::cell::{Cell, Way};
use crate::common::host::{TAP, XDP, lay_link, run, start_on, trust_link_locals};
use crate::common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
UPLINK
mtu = EGRESS
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]
mtu = ENDPOINT
mode = "MODE"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80", "8080:80/udp"]
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.mate]
attach = { netns = "PREFIXmate", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]
"#;

/// What a sender leaves to its device.
const OFFLOADS: [&str; 6] = [
    "tx-checksum-ip-generic",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-udp-segmentation",
    "tx-generic-segmentation",
];

pub(crate) struct World {
    scratch: Scratch,
    daemon: Daemon,
    /// Host, and where an uplink by AF_XDP is.
    _namespaces: [Namespace; 2],
    /// What senders leave to their devices now, if it was set.
    offload: Option<bool>,
}

impl World {
    pub(crate) fn start(cell: &Cell) -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let scratch = Scratch::new(&format!("mtu{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mode = if cell.way == Way::Routed { "routed" } else { "nat" };
        let text = CONFIG
            .replace("UPLINK", if cell.xdp { XDP } else { TAP })
            .replace("EGRESS", &cell.egress_mtu.to_string())
            .replace("ENDPOINT", &cell.endpoint_mtu.to_string())
            .replace("MODE", mode);
        let namespaces = ["host", "link"];
        let namespaces = namespaces.map(|name| Namespace::create(&scratch.name(name)).unwrap());
        let [host, link] = &namespaces;
        for namespace in &namespaces {
            trust_link_locals(namespace);
            netns::within(namespace.path(), || run("ip link set lo up")).unwrap();
        }
        if cell.xdp {
            lay_link(host, link, &scratch.name("link"), cell.egress_mtu);
        }
        let daemon = start_on(host, &scratch.config(&text));
        if cell.xdp {
            // To a TAP that ends on the host the daemon lays these itself.
            netns::within(host.path(), || {
                run("ip route add 10.1.0.0/24 via 192.0.2.10");
                run("ip -6 route add fd00:1::/64 via 2001:db8::10");
            })
            .unwrap();
        }
        let world = World { scratch, daemon, _namespaces: namespaces, offload: None };
        world.set_mate_mtu(cell.egress_mtu);
        world
    }

    /// Gives the network's other member an MTU of its own, and waits until the gateway knows.
    fn set_mate_mtu(&self, mtu: u16) {
        netns::within(&self.path("mate"), || run(&format!("ip link set eth0 mtu {mtu}"))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = Command::new(PROGRAM);
            command.args(["show", "mtu", "--socket"]).arg(self.scratch.socket());
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line =
                text.lines().find(|line| line.starts_with("web") && line.contains("own net"));
            let shown = line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok());
            if shown.is_some_and(|shown: u16| shown <= mtu) {
                return;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn path(&self, namespace: &str) -> PathBuf {
        self.scratch.path(namespace)
    }

    /// Has what senders leave to their devices on or off, and their kernels forget what they have
    /// learnt of paths.
    pub(crate) fn set_up(&mut self, cell: &Cell) {
        if self.offload.replace(cell.offload) != Some(cell.offload) {
            self.set_offloads(cell);
        }
        let flush = if cell.v6 { "ip -6 route flush cache" } else { "ip route flush cache" };
        for namespace in ["web", "mate", "host"] {
            netns::within(&self.path(namespace), || run(flush)).unwrap();
        }
    }

    fn set_offloads(&self, cell: &Cell) {
        let names = OFFLOADS.map(str::to_owned);
        let mut devices = vec![("web", "eth0"), ("mate", "eth0")];
        if !cell.xdp {
            devices.push(("host", "wan0"));
        }
        for (namespace, device) in devices {
            netns::within(&self.path(namespace), || {
                drivers::set_offloads(device, &names, cell.offload).unwrap();
            })
            .unwrap();
        }
    }

    /// Kernels that have seen wrong checksums.
    pub(crate) fn bad_checksums(&self) -> Vec<String> {
        let mut found = Vec::new();
        for namespace in ["web", "mate", "host"] {
            let read = || ["/proc/net/snmp", "/proc/net/snmp6"].map(std::fs::read_to_string);
            let [v4, v6] = netns::within(&self.path(namespace), read).unwrap();
            let (v4, v6) = (v4.unwrap(), v6.unwrap());
            let lines: Vec<&str> = v4.lines().collect();
            for pair in lines.chunks(2) {
                let [names, values] = pair else { continue };
                let both = names.split(' ').zip(values.split(' '));
                let bad = both.filter(|(name, value)| *name == "InCsumErrors" && *value != "0");
                found.extend(bad.map(|_| format!("{namespace}: {names} {values}")));
            }
            let bad = v6.lines().filter(|line| {
                line.contains("InCsumErrors") && line.split_whitespace().last() != Some("0")
            });
            found.extend(bad.map(|line| format!("{namespace}: {line}")));
        }
        found
    }

    pub(crate) fn stop(mut self) {
        assert!(self.daemon.terminate().success(), "{:?}", self.daemon.log);
        assert_eq!(self.scratch.namespaces_left().len(), 2, "ours alone are left");
    }
}
