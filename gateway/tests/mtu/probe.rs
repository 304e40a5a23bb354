//! One cell, tried.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::traffic::{echo_tcp, in_namespace, udp_client};

use super::cell::{Cell, Traffic, Way};
use super::world::World;
use crate::common::host::ip;

/// Bytes of TCP, each way: some hundred segments of any size.
const TCP_BYTES: usize = 400_000;

/// How long a datagram may take with all its repetitions. The first ones teach the sender's kernel.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one of them is waited for.
const WAIT: Duration = Duration::from_millis(250);

/// Who asks whom.
struct Ends {
    client: PathBuf,
    server: PathBuf,
    /// The server's own address, and the one that the client asks.
    own: SocketAddr,
    asked: SocketAddr,
}

impl World {
    fn ends(&self, cell: &Cell) -> Ends {
        let host = ip(cell.v6, "192.0.2.1", "2001:db8::1");
        let far = ip(cell.v6, "10.1.0.2", "fd00:1::2");
        let web = ip(cell.v6, "10.1.0.10", "fd00:1::10");
        let gateway = ip(cell.v6, "192.0.2.10", "2001:db8::10");
        let (client, server, own, asked) = match cell.way {
            Way::Bridge => ("mate", "web", (web, 80), (web, 80)),
            Way::Routed | Way::Nat => ("web", "host", (host, 80), (host, 80)),
            Way::Published => ("host", "web", (web, 80), (gateway, 8_080)),
            Way::Overlay => ("web", "far", (far, 80), (far, 80)),
        };
        let (client, server) = (self.path(client), self.path(server));
        Ends { client, server, own: own.into(), asked: asked.into() }
    }

    /// Tries a cell. The error says what is wrong.
    pub(crate) fn probe(&mut self, cell: &Cell) -> Result<(), String> {
        self.set_up(cell);
        let ends = self.ends(cell);
        match cell.traffic {
            Traffic::Tcp => ends.tcp(),
            Traffic::Udp(bytes) => ends.udp(bytes),
            Traffic::PingDo => ends.ping(cell, "do"),
            Traffic::PingDont => ends.ping(cell, "dont"),
        }
    }
}

impl Ends {
    fn tcp(&self) -> Result<(), String> {
        let echo = || {
            echo_tcp((&self.server, self.own), (&self.client, self.asked), TCP_BYTES)
                .map_err(|error| error.to_string())
        };
        // Many daemons share few CPUs here: one echo may be too slow for its own patience.
        echo().or_else(|_| echo()).map(drop)
    }

    fn udp(&self, bytes: usize) -> Result<(), String> {
        let server = in_namespace(&self.server, || UdpSocket::bind(self.own)).unwrap();
        let client = udp_client(&self.client, self.asked).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(WAIT)).unwrap();
        }
        let sent: Vec<u8> = (0..bytes).map(|index| ((index * 31) >> 3) as u8).collect();
        let (deadline, mut buffer) = (Instant::now() + PATIENCE, vec![0; 65_536]);
        let mut last = "nothing came".to_owned();
        while Instant::now() < deadline {
            if let Err(error) = client.send(&sent) {
                last = format!("sending: {error}");
                continue;
            }
            let Ok((len, peer)) = server.recv_from(&mut buffer) else { continue };
            if buffer[..len] != sent {
                return Err(format!("{len} bytes of {bytes} arrived, or not the same"));
            }
            if let Err(error) = server.send_to(&buffer[..len], peer) {
                last = format!("answering: {error}");
                continue;
            }
            match client.recv(&mut buffer) {
                Ok(len) if buffer[..len] == sent => return Ok(()),
                Ok(len) => return Err(format!("{len} bytes of {bytes} are back, or not the same")),
                Err(error) => last = format!("no answer: {error}"),
            }
        }
        Err(last)
    }

    /// An echo as large as the sender's link takes: it arrives where the path takes it or a router
    /// may cut it; else the sender is told what the path takes.
    fn ping(&self, cell: &Cell, may_fragment: &str) -> Result<(), String> {
        let (own_mtu, path_mtu) = match cell.way {
            Way::Bridge => (cell.egress_mtu, cell.endpoint_mtu.min(cell.egress_mtu)),
            Way::Routed | Way::Nat => (cell.endpoint_mtu, cell.endpoint_mtu.min(cell.egress_mtu)),
            Way::Overlay => (cell.endpoint_mtu, cell.endpoint_mtu.min(cell.inside_mtu())),
            // Of a published port only TCP and UDP go on: the gateway answers.
            Way::Published => (cell.egress_mtu, cell.egress_mtu),
        };
        let size = usize::from(own_mtu) - if cell.v6 { 48 } else { 28 };
        let is_cut = may_fragment == "dont" && !cell.v6;
        let arrives = own_mtu <= path_mtu || is_cut;
        let mut text = String::new();
        for _ in 0..5 {
            let output = in_namespace(&self.client, || {
                Command::new("ping")
                    .args(["-n", "-c", "1", "-W", "2", "-M", may_fragment, "-s", &size.to_string()])
                    .arg(self.asked.ip().to_string())
                    .output()
            })
            .unwrap();
            text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let is_told = ["mtu = ", "mtu=", "mtu: "]
                .iter()
                .any(|word| text.contains(&format!("{word}{path_mtu}")));
            if (arrives && output.status.success()) || (!arrives && is_told) {
                return Ok(());
            }
            // A kernel that was told before may cut what may be cut.
            if cell.v6 && may_fragment == "dont" && output.status.success() {
                return Ok(());
            }
        }
        Err(text)
    }
}
