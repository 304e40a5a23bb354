//! Floods and port scans between real kernels: an open connection does not notice.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use gateway::netns;

use common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

WAN

[network.front]
subnet = "10.1.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80", "5300:53/udp"]
network = [{ name = "front", ip = "10.1.0.10" }]

[endpoint.app]
attach = { netns = "PREFIXapp", create = true }
network = [{ name = "front", ip = "10.1.0.11" }]

[limits]
flows = 512
flows_per_port = 256
half_open_per_port = 64
"#;

/// Longest wait for a byte. Generous: the machine may be busy.
const WITHIN: Duration = Duration::from_secs(60);

/// A connection whose ends are in two namespaces.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(server: PathBuf, own: SocketAddr, client: PathBuf, to: SocketAddr) -> Connection {
        let listener = netns::within(&server, move || TcpListener::bind(own)).unwrap().unwrap();
        let client = netns::within(&client, move || TcpStream::connect(to)).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(WITHIN)).unwrap();
        }
        Connection { client, server }
    }

    /// Bytes pass in both directions.
    fn works(&mut self) {
        for _ in 0..3 {
            let mut byte = [0];
            self.client.write_all(b"q").unwrap();
            self.server.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"q");
            self.server.write_all(b"a").unwrap();
            self.client.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"a");
        }
    }
}

/// Sends a datagram from each of many sockets, from one namespace.
fn flood_udp(from: PathBuf, count: u16, to: impl Fn(u16) -> SocketAddr + Send + 'static) {
    netns::within(&from, move || {
        for number in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 10_000 + number)).unwrap();
            // A port that was found closed may be reported by the next call.
            let _ = socket.send_to(b"flood", to(number));
        }
    })
    .unwrap();
}

/// Asks many ports for a connection, without waiting for any.
fn scan_tcp(from: PathBuf, to: Ipv4Addr, ports: impl Iterator<Item = u16> + Send + 'static) {
    netns::within(&from, move || {
        for port in ports {
            let _ = TcpStream::connect_timeout(&(to, port).into(), Duration::from_millis(1));
        }
    })
    .unwrap();
}

/// The sum of a metric over workers and labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn floods_and_scans_from_both_sides_are_bounded_and_open_connections_go_on() {
    let scratch = Scratch::new("floods");
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    daemon.wait_ready();
    let path = |name| scratch.path(name);
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let mut published =
        Connection::open(path("web"), at("10.1.0.10:80"), path("outside"), at("192.0.2.10:8080"));
    let mut masqueraded =
        Connection::open(path("outside"), at("192.0.2.1:80"), path("app"), at("192.0.2.1:80"));
    let mut work = || {
        published.works();
        masqueraded.works();
    };
    work();
    // From outside to a published port, from inside to the world, each from 2,000 sockets.
    flood_udp(path("outside"), 2_000, move |_| at("192.0.2.10:5300"));
    work();
    flood_udp(path("app"), 2_000, move |number| {
        (Ipv4Addr::new(192, 0, 2, 1), 20_000 + number).into()
    });
    work();
    scan_tcp(path("outside"), Ipv4Addr::new(192, 0, 2, 10), (1..2_000).step_by(5));
    scan_tcp(path("app"), Ipv4Addr::new(192, 0, 2, 1), (1_000..3_000).step_by(5));
    work();
    let metrics = scratch.metrics();
    println!("{metrics}");
    let evicted = sum(&metrics, "portolan_worker_evicted_flows_total");
    assert!(evicted > 2_000, "{evicted} flows made room");
    assert!(sum(&metrics, "portolan_worker_flows{") <= 2 * 512, "they are bounded");
    assert!(sum(&metrics, "portolan_worker_mappings{") <= 512, "and so are mappings");
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}
