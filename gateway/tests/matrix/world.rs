//! A gateway with one network of the mode that is tried, and everybody who may ask.
//!
//! ```text
//! outside --- host --- wan0 [gateway] front: web (the server), mate
//!                                     back:  other
//! ```
//!
//! The host forwards for the outside. It is a namespace, so nothing of this machine is touched. By
//! AF_XDP `wan0` is a veth, and a TAP beside the host, which shares its addresses, is there for
//! what the host asks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use gateway::netns::{self, Namespace};

use super::cell::{Cell, Mode, Published, Uplink, Way};
use super::expectation::{Outcome, Source};
use super::probe::{Asked, Server};
use crate::common::host::{TAP, XDP, ip, lay_link, run, start_on, trust_link_locals};
use crate::common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
UPLINK
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]
MODE

[network.back]
subnets = ["10.2.0.0/24", "fd00:2::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
PUBLISH
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.mate]
attach = { netns = "PREFIXmate", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]

[endpoint.other]
attach = { netns = "PREFIXother", create = true }
network = [{ name = "back", ip = "10.2.0.10", ip6 = "fd00:2::10" }]
"#;

/// Beside it.
const HOST: &str = r#"
[uplink.host]
driver = "tap"
interface = "host0"
addresses = "host"
"#;

const PUBLISH: &str = r#"publish = [
    "8080:80", "8080:80/udp", "8080:80/sctp",
    "127.0.0.1:8081:81", "127.0.0.1:8081:81/udp", "127.0.0.1:8081:81/sctp",
    "[::1]:8081:81", "[::1]:8081:81/udp", "[::1]:8081:81/sctp",
]"#;

pub(crate) struct World {
    scratch: Scratch,
    daemon: Daemon,
    servers: [Server; 2],
    /// Host, outside, and where an uplink by AF_XDP is.
    _namespaces: [Namespace; 3],
}

/// A link from the outside to the host, which forwards.
fn join(host: &Namespace, outside: &Namespace, outside_name: &str) {
    netns::within(host.path(), || {
        run("ip link set lo up");
        run(&format!("ip link add out0 type veth peer name eth0 netns {outside_name}"));
        run("ip addr add 198.51.100.1/24 dev out0");
        run("ip addr add 2001:db8:1::1/64 dev out0 nodad");
        run("ip link set out0 up");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    })
    .unwrap();
    netns::within(outside.path(), || {
        run("ip addr add 198.51.100.2/24 dev eth0");
        run("ip addr add 2001:db8:1::2/64 dev eth0 nodad");
        run("ip link set eth0 up");
        run("ip route add default via 198.51.100.1");
        run("ip -6 route add default via 2001:db8:1::1");
    })
    .unwrap();
}

impl World {
    pub(crate) fn start(mode: Mode, uplink: Uplink) -> World {
        let (keys, publish) = match mode {
            Mode::Nat => ("", PUBLISH),
            Mode::NatUnprotected => ("mode = \"nat-unprotected\"", PUBLISH),
            Mode::Routed => ("mode = \"routed\"", PUBLISH),
            // Publishing is refused there.
            Mode::Internal => ("internal = true", ""),
            Mode::IccOff => ("icc = false", PUBLISH),
        };
        let scratch = Scratch::new("matrix");
        let driver = if uplink == Uplink::Xdp { XDP } else { TAP };
        let text = CONFIG.replace("MODE", keys).replace("PUBLISH", publish);
        let mut text = text.replace("UPLINK", driver);
        if uplink == Uplink::Xdp {
            text.push_str(HOST);
        }
        let namespaces = ["host", "outside", "link"];
        let namespaces = namespaces.map(|name| Namespace::create(&scratch.name(name)).unwrap());
        namespaces.iter().for_each(trust_link_locals);
        let [host, outside, link] = &namespaces;
        join(host, outside, &scratch.name("outside"));
        if uplink == Uplink::Xdp {
            lay_link(host, link, &scratch.name("link"), 1_500);
        }
        let daemon = start_on(host, &scratch.config(&text));
        if uplink == Uplink::Xdp {
            // What the outside asks comes by AF_XDP; the daemon's own routes are the host's.
            netns::within(host.path(), || {
                run("ip rule add iif out0 lookup 100");
                run("ip -6 rule add iif out0 lookup 100");
                run("ip route add 10.1.0.0/24 via 192.0.2.10 table 100");
                run("ip -6 route add fd00:1::/64 via 2001:db8::10 table 100");
            })
            .unwrap();
        }
        if mode == Mode::Internal {
            // A member of an internal network has no route to ask by; give it one.
            for name in ["web", "mate"] {
                netns::within(&scratch.path(name), || {
                    run("ip route add default via 10.1.0.1");
                    run("ip -6 route add default via fd00:1::1");
                })
                .unwrap();
            }
        }
        let web = scratch.path("web");
        let servers = [false, true].map(|v6| Server::open(&web, ip(v6, "10.1.0.10", "fd00:1::10")));
        World { scratch, daemon, servers, _namespaces: namespaces }
    }

    /// Where the client is, and its addresses. Which of the host's its kernel takes for a
    /// destination behind the gateway is the kernel's choice.
    fn client(&self, way: Way, v6: bool) -> (PathBuf, Vec<IpAddr>) {
        let one = |v4_text: &str, v6_text: &str| vec![ip(v6, v4_text, v6_text)];
        let (name, addresses) = match way {
            Way::SameNetwork | Way::SameNetworkPublished => {
                ("mate", one("10.1.0.11", "fd00:1::11"))
            }
            Way::OtherNetwork | Way::OtherNetworkPublished => {
                ("other", one("10.2.0.10", "fd00:2::10"))
            }
            Way::Itself => ("web", one("10.1.0.10", "fd00:1::10")),
            Way::Outside | Way::OutsideDirect | Way::OutsideHost => {
                ("outside", one("198.51.100.2", "2001:db8:1::2"))
            }
            Way::Host => ("host", one("192.0.2.1", "2001:db8::1")),
            Way::HostOwn => ("host", one("198.51.100.1", "2001:db8:1::1")),
            Way::HostDirect => {
                let addresses = [("192.0.2.1", "2001:db8::1"), ("198.51.100.1", "2001:db8:1::1")];
                ("host", addresses.map(|(v4_text, v6_text)| ip(v6, v4_text, v6_text)).into())
            }
            Way::HostLoopback => ("host", one("127.0.0.1", "::1")),
        };
        (self.scratch.path(name), addresses)
    }

    /// Whom it asks.
    fn asked(way: Way, v6: bool) -> IpAddr {
        match way {
            Way::SameNetwork | Way::OtherNetwork | Way::OutsideDirect | Way::HostDirect => {
                ip(v6, "10.1.0.10", "fd00:1::10")
            }
            Way::HostOwn | Way::OutsideHost => ip(v6, "198.51.100.1", "2001:db8:1::1"),
            Way::HostLoopback => ip(v6, "127.0.0.1", "::1"),
            Way::SameNetworkPublished
            | Way::OtherNetworkPublished
            | Way::Itself
            | Way::Outside
            | Way::Host => ip(v6, "192.0.2.10", "2001:db8::10"),
        }
    }

    /// Tries a cell.
    pub(crate) fn probe(&mut self, cell: &Cell) -> Outcome {
        let (path, client) = self.client(cell.way, cell.v6);
        let own = match cell.published {
            Published::Everywhere => 80,
            Published::Loopback => 81,
            Published::Nowhere => 82,
        };
        let address = World::asked(cell.way, cell.v6);
        let is_straight = address == ip(cell.v6, "10.1.0.10", "fd00:1::10");
        let to = SocketAddr::new(address, if is_straight { own } else { 8_000 + own });
        let server = &mut self.servers[usize::from(cell.v6)];
        match server.ask(&path, cell.protocol, to, own) {
            Asked::Answered(Some(seen)) => Outcome::Open(match seen {
                seen if client.contains(&seen) => Source::Client,
                seen if seen == ip(cell.v6, "10.1.0.1", "fd00:1::1") => Source::Gateway,
                _ => Source::Stranger,
            }),
            Asked::Answered(None) => Outcome::Owner,
            Asked::Refused => Outcome::Refused,
            Asked::Nothing => Outcome::Silent,
        }
    }

    pub(crate) fn stop(mut self) {
        drop(self.servers);
        assert!(self.daemon.terminate().success(), "{:?}", self.daemon.log);
        assert_eq!(self.scratch.namespaces_left().len(), 3, "ours alone are left");
    }
}
