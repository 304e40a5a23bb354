//! Two gateways and a network between them, by every kind of tunnel that a config can ask for:
//! flooded peers, static remotes and a multicast group, over IPv4 and over IPv6.
//!
//! Uplinks are TAPs, or one end each of veth pairs by AF_XDP.
//!
//! ```text
//! a -- [192.0.2.10, 2001:db8::10] wan1 -- switch -- wan2 [192.0.2.20, 2001:db8::20] -- b
//! ```
//!
//! What passes on the switch is captured and judged by tshark. Needs root, `tcpdump` and `tshark`;
//! does not skip without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway::netns::Namespace;
use gateway::traffic::{echo_tcp, in_namespace};

use common::host::start_on;
use common::partners::Capture;
use common::tunnels::{PASSES_WITHIN, at, check_all, host_of, ip};
use common::{Daemon, Scratch};

/// `OWN` and `OTHER` are 1 and 2 or the other way round.
const CONFIG: &str = r#"
[gateway]
workers = WORKERS

[uplink.wan]
interface = "wanOWN"
DRIVER
addresses = ["192.0.2.OWN0/24", "2001:db8::OWN0/64"]

[network.mesh]
driver = "overlay"
vni = 4097
subnets = ["10.9.0.0/24", "fd00:9::/64"]
gateway_mac = "02:42:0a:09:00:fOWN"
gateways = ["10.9.0.25OWN", "fd00:9::25OWN"]
OVERLAY

[endpoint.member]
attach = { netns = "PREFIXmember", create = true }
[[endpoint.member.network]]
name = "mesh"
ip = "10.9.0.1OWN"
ip6 = "fd00:9::1OWN"
mac = "02:42:0a:09:00:1OWN"
"#;

const PEERS: &str = "peers = [\"VTEP\"]";

const STATIC: &str = r#"
remote = [
  { ip = "10.9.0.1OTHER", mac = "02:42:0a:09:00:1OTHER", vtep = "VTEP" },
  { ip = "fd00:9::1OTHER", mac = "02:42:0a:09:00:1OTHER", vtep = "VTEP" },
]"#;

const TAP: &str = "driver = \"tap\"\nhost_side = false";
const XDP: &str = "driver = \"xdp\"";

/// The two gateways, with a member each.
struct Pair {
    host: Namespace,
    halves: [(Scratch, Daemon); 2],
}

impl Pair {
    /// `overlay`: what the network says, where `VTEP` is the other gateway. `driver`: the uplinks'.
    fn new(test: &str, overlay: &str, outer: &str, (driver, workers): (&str, u8)) -> Pair {
        let host = host_of(&Scratch::new(test));
        ip(
            host.path(),
            "ip link add br0 type bridge
             ip link set br0 up",
        );
        let halves = [("1", "2"), ("2", "1")].map(|(own, other)| {
            let scratch = Scratch::new(&format!("{test}{own}"));
            let text =
                CONFIG.replace("OVERLAY", overlay).replace("VTEP", &format!("{outer}OTHER0"));
            let text = text.replace("WORKERS", &workers.to_string()).replace("DRIVER", driver);
            let path = scratch.config(&text.replace("OWN", own).replace("OTHER", other));
            if driver == XDP {
                let pair = "ip link add wanOWN type veth peer name portOWN
                            ip link set portOWN master br0 up
                            ip link set wanOWN up";
                ip(host.path(), &pair.replace("OWN", own));
            }
            let daemon = start_on(&host, &path);
            if driver == TAP {
                ip(host.path(), &format!("ip link set wan{own} master br0 up"));
            }
            (scratch, daemon)
        });
        Pair { host, halves }
    }

    fn members(&self) -> [PathBuf; 2] {
        self.halves.each_ref().map(|(scratch, _)| scratch.path("member"))
    }

    /// All traffic between the members, and that tshark has nothing against it.
    fn check(mut self, most: usize, is_flooded: bool) {
        let file = self.halves[0].0.folder.path().join("pair.pcap");
        let capture = Capture::start(self.host.path(), "br0", file);
        let [one, other] = self.members();
        check_all((&one, "10.9.0.11"), (&other, "10.9.0.12"), most);
        check_all((&one, "fd00:9::11"), (&other, "fd00:9::12"), most);
        if is_flooded {
            for (from, to) in [(&one, &other), (&other, &one)] {
                multicast(from, to, "239.1.2.3".parse().unwrap());
                multicast(from, to, "ff15::123".parse().unwrap());
            }
        }
        let ours = capture.check(4_789);
        assert!(ours > 30, "{ours} of our packets were VXLAN");
        for (_, daemon) in &mut self.halves {
            assert!(daemon.terminate().success());
        }
    }
}

/// The number of a member's device, which IPv6 groups are asked for by.
fn device_number(namespace: &Path) -> u32 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/if_inet6");
    let text = in_namespace(namespace, read).unwrap();
    let line = text.lines().find(|line| line.ends_with("eth0")).unwrap();
    u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

/// Sends to a group until a member of it has heard it.
fn multicast(from: &Path, to: &Path, group: IpAddr) {
    let [sends_by, hears_by] = [from, to].map(device_number);
    let open = |namespace: &Path, port: u16, member: bool| {
        in_namespace(namespace, || match group {
            IpAddr::V4(group) => {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
                if member {
                    // The device with the default route: there is one.
                    socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
                }
                Ok(socket)
            }
            IpAddr::V6(group) => {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
                if member {
                    socket.join_multicast_v6(&group, hears_by)?;
                }
                Ok(socket)
            }
        })
        .unwrap()
    };
    let (sender, receiver) = (open(from, 0, false), open(to, 5_400, true));
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let target = match group {
        IpAddr::V4(group) => SocketAddr::from((group, 5_400)),
        IpAddr::V6(group) => SocketAddrV6::new(group, 5_400, 0, sends_by).into(),
    };
    let deadline = Instant::now() + PASSES_WITHIN;
    let mut heard = [0; 64];
    loop {
        assert!(Instant::now() < deadline, "nothing to {group} arrives");
        sender.send_to(b"to all of you", target).unwrap();
        let Ok((length, source)) = receiver.recv_from(&mut heard) else { continue };
        assert_eq!(&heard[..length], b"to all of you");
        let own =
            [at("10.9.0.11", 0), at("10.9.0.12", 0), at("fd00:9::11", 0), at("fd00:9::12", 0)];
        assert!(own.iter().any(|own| own.ip() == source.ip()), "{source}");
        return;
    }
}

#[test]
fn flooded_peers_over_ipv4() {
    Pair::new("peers4", PEERS, "192.0.2.", (TAP, 1)).check(1_450, true);
}

#[test]
fn flooded_peers_over_ipv6() {
    Pair::new("peers6", PEERS, "2001:db8::", (TAP, 4)).check(1_430, true);
}

#[test]
fn static_remotes_over_ipv4() {
    Pair::new("static4", STATIC, "192.0.2.", (TAP, 4)).check(1_450, false);
}

#[test]
fn static_remotes_over_ipv6() {
    Pair::new("static6", STATIC, "2001:db8::", (TAP, 1)).check(1_430, false);
}

#[test]
fn a_group_over_ipv4() {
    let overlay = format!("{PEERS}\ngroup = \"239.1.1.1\"");
    Pair::new("group4", &overlay, "192.0.2.", (TAP, 2)).check(1_450, true);
}

#[test]
fn a_group_over_ipv6() {
    let overlay = format!("{PEERS}\ngroup = \"ff15::1:1\"");
    Pair::new("group6", &overlay, "2001:db8::", (TAP, 2)).check(1_430, true);
}

#[test]
fn flooded_peers_by_af_xdp_over_ipv4() {
    Pair::new("xdp4", PEERS, "192.0.2.", (XDP, 1)).check(1_450, true);
}

#[test]
fn flooded_peers_by_af_xdp_over_ipv6() {
    Pair::new("xdp6", PEERS, "2001:db8::", (XDP, 4)).check(1_430, true);
}

#[test]
fn bulk_by_af_xdp_leaves_uncut_and_arrives() {
    for (test, outer, workers) in [("bulk4", "192.0.2.", 2), ("bulk6", "2001:db8::", 1)] {
        let mut pair = Pair::new(test, PEERS, outer, (XDP, workers));
        let [one, other] = pair.members();
        let ends = [(&one, "10.9.0.11", "fd00:9::11"), (&other, "10.9.0.12", "fd00:9::12")];
        for ((near, ..), (far, far4, far6)) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            for server in [far4, far6] {
                let server = at(server, 5_320);
                echo_tcp((far, server), (near, server), 4_000_000).unwrap();
            }
        }
        for (scratch, daemon) in &mut pair.halves {
            let metrics = scratch.metrics();
            let cuts = metrics
                .lines()
                .filter(|line| line.starts_with("portolan_worker_cut_packets_total{"));
            assert!(cuts.clone().count() > 0, "{metrics}");
            assert!(
                cuts.clone().all(|line| line.ends_with(" 0")),
                "{:?}",
                cuts.collect::<Vec<_>>()
            );
            assert!(daemon.terminate().success());
        }
    }
}
