//! A gateway whose links have the MTUs of a cell.
//!
//! ```text
//! host ---(egress MTU)--- wan0 [gateway] ---(endpoint MTU)--- front: web
//!                                        ---(egress MTU)----- front: mate
//! ```
//!
//! Through a tunnel the narrow link is between the host, a router then, and the kernel that has
//! the other end, so that the path has to be learnt. The host is a namespace, so nothing of this
//! machine is touched.
//!
//! ```text
//! far: vxlan ---(egress MTU)--- host ---(9100)--- wan0 [gateway] ---(endpoint MTU)--- front: web
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gateway::netns::{self, Namespace};

use super::cell::{Cell, Way};
use crate::common::host::{TAP, XDP, lay_link, run, start_on, trust_link_locals};
use crate::common::tunnels::{ip, wait_for_ping};
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
OVERLAY

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80", "8080:80/udp"]
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]
"#;

/// The other member, where the network is no overlay.
const MATE: &str = r#"
[endpoint.mate]
attach = { netns = "PREFIXmate", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]
"#;

/// MTU of the uplink where the narrow link is behind it: what the largest endpoint needs.
const WIDE_MTU: u16 = 9_100;

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
    /// Host, where an uplink by AF_XDP is, and the other end of a tunnel, if there is one.
    namespaces: Vec<Namespace>,
    /// Whose kernels take part, with their devices.
    kernels: Vec<(&'static str, &'static str)>,
    /// What senders leave to their devices now, if it was set.
    offload: Option<bool>,
}

impl World {
    pub(crate) fn start(cell: &Cell) -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let scratch = Scratch::new(&format!("mtu{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mode = if cell.way == Way::Routed { "routed" } else { "nat" };
        let uplink_mtu = if cell.is_overlay() { WIDE_MTU } else { cell.egress_mtu };
        let (vtep, own) = match cell.outer_v6() {
            true => ("2001:db8:f::7", "2001:db8::10"),
            false => ("198.51.100.7", "192.0.2.10"),
        };
        let overlay = format!("driver = \"overlay\"\nvni = 4097\npeers = [\"{vtep}\"]");
        let text = CONFIG
            .replace("UPLINK", if cell.xdp { XDP } else { TAP })
            .replace("EGRESS", &uplink_mtu.to_string())
            .replace("ENDPOINT", &cell.endpoint_mtu.to_string())
            .replace("OVERLAY", if cell.is_overlay() { &overlay } else { "" })
            .replace("MODE", mode);
        let text = if cell.is_overlay() { text } else { format!("{text}{MATE}") };
        let other = if cell.is_overlay() { "far" } else { "mate" };
        let names =
            if cell.is_overlay() { &["host", "link", "far"][..] } else { &["host", "link"] };
        let namespaces: Vec<Namespace> =
            names.iter().map(|name| Namespace::create(&scratch.name(name)).unwrap()).collect();
        for namespace in &namespaces {
            trust_link_locals(namespace);
            netns::within(namespace.path(), || run("ip link set lo up")).unwrap();
        }
        let (host, link) = (&namespaces[0], &namespaces[1]);
        if cell.xdp {
            lay_link(host, link, &scratch.name("link"), uplink_mtu);
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
        let kernels = vec![("web", "eth0"), (other, if other == "far" { "vx0" } else { "eth0" })];
        let world = World { scratch, daemon, namespaces, kernels, offload: None };
        match cell.is_overlay() {
            true => world.lay_tunnel(cell, vtep, own),
            false => world.set_mate_mtu(cell.egress_mtu),
        }
        world
    }

    /// The narrow link between the host and the far end, and the far end's tunnel.
    fn lay_tunnel(&self, cell: &Cell, vtep: &str, own: &str) {
        let (host, far) = (self.namespaces[0].path(), self.namespaces[2].path());
        netns::within(host, || {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
            }
        })
        .unwrap();
        let (mtu, name) = (cell.egress_mtu, self.scratch.name("far"));
        let lines = format!(
            "ip link add narrow mtu {mtu} type veth peer name narrow mtu {mtu} netns {name}
             ip addr add 198.51.100.1/24 dev narrow
             ip addr add 2001:db8:f::1/64 dev narrow nodad
             ip link set narrow up"
        );
        ip(host, &lines);
        let lines = format!(
            "ip addr add 198.51.100.7/24 dev narrow
             ip addr add 2001:db8:f::7/64 dev narrow nodad
             ip link set narrow up
             ip route add default via 198.51.100.1
             ip -6 route add default via 2001:db8:f::1
             ip link add vx0 type vxlan id 4097 dstport 4789 local {vtep} remote {own}
             ip addr add 10.1.0.2/24 dev vx0
             ip addr add fd00:1::2/64 dev vx0 nodad
             ip link set vx0 mtu {} up",
            cell.endpoint_mtu
        );
        ip(far, &lines);
        wait_for_ping(&self.path("web"), if cell.v6 { "fd00:1::2" } else { "10.1.0.2" });
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
        for namespace in self.all_kernels() {
            netns::within(&self.path(namespace), || run(flush)).unwrap();
        }
    }

    fn set_offloads(&self, cell: &Cell) {
        let names = OFFLOADS.map(str::to_owned);
        let mut devices = self.kernels.clone();
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

    fn all_kernels(&self) -> impl Iterator<Item = &'static str> {
        self.kernels.iter().map(|&(namespace, _)| namespace).chain(["host"])
    }

    /// Kernels that have seen wrong checksums.
    pub(crate) fn bad_checksums(&self) -> Vec<String> {
        let mut found = Vec::new();
        for namespace in self.all_kernels() {
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
        let ours = self.namespaces.len();
        assert_eq!(self.scratch.namespaces_left().len(), ours, "ours alone are left");
    }
}
