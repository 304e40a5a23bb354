//! A gateway with the world behind it: a router on the uplink, and a host behind a narrower link.
//!
//! ```text
//!  web 10.1.0.10, fd00:1::10 \                         outside (a router)          far
//!  app 10.2.0.10, fd00:2::10 -- gateway 192.0.2.10 -- 192.0.2.1 | 198.51.100.1 -- 198.51.100.7
//!                               2001:db8::10          2001:db8::1 | …:f::1        …:f::7
//!                                    MTU 1500                            MTU 1300
//! ```
//!
//! Both are real kernels. The narrow link is what path MTU discovery has to find.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::Namespace;
use gateway::traffic::{ANSWER_WITHIN, in_namespace, is_silence};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, ipproto};
use rustix::net::{recvfrom, socket_with, sockopt};

use super::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
create = true
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[network.back]
subnets = ["10.2.0.0/24", "fd00:2::/64"]

[network.old]
subnets = ["10.3.0.0/24"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80", "5353:53/udp"]
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.db]
attach = { netns = "PREFIXdb", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]

[endpoint.app]
attach = { netns = "PREFIXapp", create = true }
network = [{ name = "back", ip = "10.2.0.10", ip6 = "fd00:2::10" }]
"#;

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) v6: bool,
    pub(crate) web: &'static str,
    pub(crate) db: &'static str,
    /// The gateway in web's network, and on the uplink.
    pub(crate) inside: &'static str,
    pub(crate) own: &'static str,
    /// The router's two addresses, and who is behind it.
    pub(crate) router: &'static str,
    pub(crate) behind: &'static str,
    pub(crate) far: &'static str,
}

/// Both families.
pub(crate) const FAMILIES: [Family; 2] = [
    Family {
        v6: false,
        web: "10.1.0.10",
        db: "10.1.0.11",
        inside: "10.1.0.1",
        own: "192.0.2.10",
        router: "192.0.2.1",
        behind: "198.51.100.1",
        far: "198.51.100.7",
    },
    Family {
        v6: true,
        web: "fd00:1::10",
        db: "fd00:1::11",
        inside: "fd00:1::1",
        own: "2001:db8::10",
        router: "2001:db8::1",
        behind: "2001:db8:f::1",
        far: "2001:db8:f::7",
    },
];

/// MTU of the narrow link.
pub(crate) const NARROW_MTU: u16 = 1_300;

/// An address from its text.
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A socket address from an address's text.
pub(crate) fn socket(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address(text), port)
}

/// The world; everything in it goes with it.
pub(crate) struct Beyond {
    pub(crate) scratch: Scratch,
    pub(crate) daemon: Daemon,
    _far: Namespace,
}

impl Beyond {
    /// Starts the gateway and builds what is behind it. The config may be edited before.
    pub(crate) fn new(test: &str, edit: impl FnOnce(String) -> String) -> Beyond {
        let scratch = Scratch::new(test);
        let mut daemon = Daemon::start(&scratch.config(&edit(CONFIG.to_owned())));
        daemon.wait_ready();
        let far = Namespace::create(&scratch.name("far")).unwrap();
        let world = Beyond { scratch, daemon, _far: far };
        let far = world.scratch.name("far");
        let mtu = NARROW_MTU.to_string();
        let veth = ["link", "add", "down0", "mtu", &mtu, "type", "veth", "peer", "name", "up0"];
        world.ip("outside", &[&veth[..], &["mtu", &mtu, "netns", &far]].concat());
        let ends = [("outside", "down0", "1"), ("far", "up0", "7")];
        for (namespace, device, number) in ends {
            let own = [format!("198.51.100.{number}/24"), format!("2001:db8:f::{number}/64")];
            world.ip(namespace, &["addr", "add", &own[0], "dev", device]);
            world.ip(namespace, &["addr", "add", &own[1], "dev", device, "nodad"]);
            world.ip(namespace, &["link", "set", device, "up"]);
        }
        world.ip("far", &["route", "add", "default", "via", "198.51.100.1"]);
        world.ip("far", &["route", "add", "default", "via", "2001:db8:f::1"]);
        in_namespace(&world.path("outside"), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .unwrap();
        world
    }

    pub(crate) fn path(&self, namespace: &str) -> PathBuf {
        self.scratch.path(namespace)
    }

    /// Runs `ip` in a namespace.
    pub(crate) fn ip(&self, namespace: &str, arguments: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.scratch.name(namespace)]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// Runs `ping` in a namespace; returns whether everything came back, and what it printed.
    pub(crate) fn ping(&self, namespace: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.scratch.name(namespace), "ping", "-n", "-W", "3"]);
        let output = command.args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends the gateway, which must be content.
    pub(crate) fn end(mut self) {
        assert!(self.daemon.terminate().success(), "{:?}", self.daemon.log);
    }
}

/// Hears every ICMP message that comes to a namespace.
pub(crate) struct IcmpListener(OwnedFd);

impl IcmpListener {
    pub(crate) fn new(namespace: &Path, v6: bool) -> IcmpListener {
        let (family, protocol) = match v6 {
            false => (AddressFamily::INET, ipproto::ICMP),
            true => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let socket = in_namespace(namespace, || {
            Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?)
        })
        .unwrap();
        let wait = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).unwrap();
        IcmpListener(socket)
    }

    /// The next error: its type, its code, and who sent it. `None`: none came in time.
    pub(crate) fn error(&self) -> Option<(u8, u8, IpAddr)> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut buffer = [0; 2_048];
        while Instant::now() < deadline {
            let received = recvfrom(&self.0, buffer.as_mut_slice(), RecvFlags::empty());
            let Ok((_, _, Some(from))) = received else { continue };
            let from = SocketAddr::try_from(from).unwrap().ip();
            // Of IPv4 the IP header is shown too.
            let at = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            let (kind, code) = (buffer[at], buffer[at + 1]);
            let errors: &[u8] = if from.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
            if errors.contains(&kind) {
                return Some((kind, code, from));
            }
        }
        None
    }
}

/// What `traceroute` does: datagrams with one, two, three hops, and who complains about each.
pub(crate) fn trace_route(from: &Path, to: IpAddr) -> Vec<(u8, u8, IpAddr)> {
    let listener = IcmpListener::new(from, to.is_ipv6());
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = in_namespace(from, || UdpSocket::bind(any)).unwrap();
    let mut hops = Vec::new();
    for count in 1..=8 {
        match to {
            IpAddr::V4(_) => socket.set_ttl(count).unwrap(),
            IpAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&socket, Some(count as u8)).unwrap(),
        }
        socket.send_to(b"who is there?", (to, 33_434 + count as u16)).unwrap();
        let Some(hop) = listener.error() else { return hops };
        hops.push(hop);
        if hop.2 == to {
            return hops;
        }
    }
    hops
}

/// Waits until a UDP client is told that nobody serves there.
pub(crate) fn is_refused(client: &UdpSocket) -> bool {
    client.send(b"anybody?").unwrap();
    match client.recv(&mut [0; 64]) {
        Ok(_) => false,
        Err(error) => !is_silence(&error) && error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}
