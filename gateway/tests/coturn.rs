//! NAT behaviour as others measure it: coturn's discovery (RFC 5780) and the classic STUN client
//! (RFC 3489), against a coturn server outside, with each of the three filterings.
//!
//! Needs root, coturn and stun-client; does not skip without. Both ends are real kernels.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway::netns;

use common::{Daemon, Scratch};

/// The server's two addresses, which discovery needs, and the endpoint's own.
const SERVER: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const OWN: &str = "10.1.0.10";
/// Longest wait for a program. Generous: the machine may be busy.
const WITHIN: Duration = Duration::from_secs(120);

fn config(scratch: &Scratch, filtering: &str) -> std::path::PathBuf {
    let text = r#"
[gateway]
workers = 2

WAN

[network.front]
subnet = "10.1.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
network = [{ name = "front", ip = "10.1.0.10" }]

[nat]
filtering = "FILTERING"
"#;
    scratch.config(&text.replace("FILTERING", filtering))
}

/// A STUN server; ended whatever happens.
struct Server(Child);

impl Server {
    fn start(namespace: &Path, scratch: &Scratch) -> Server {
        let state = scratch.folder.path().join("turn.db");
        let mut command = inside(namespace, "turnserver");
        command.args(["-n", "--no-cli", "-S", "--no-tls", "--no-dtls", "--log-file", "stdout"]);
        command.args(["-p", "3478", "--alt-listening-port", "3479"]);
        command.args(SERVER.iter().flat_map(|address| ["-L", address]));
        command.arg("--pidfile").arg(scratch.folder.path().join("turn.pid"));
        command.arg("--userdb").arg(state);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inside(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(program);
    command
}

/// What a program says until its end.
fn output(mut command: Command) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + WITHIN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Waits until the server answers a binding request from inside.
fn wait_for_server(web: &Path) {
    let request: [u8; 20] =
        [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let answered = netns::within(web, move || {
        let deadline = Instant::now() + WITHIN;
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        SERVER.iter().all(|address| {
            let to = SocketAddrV4::new(address.parse::<Ipv4Addr>().unwrap(), 3_479);
            while Instant::now() < deadline {
                let _ = socket.send_to(&request, to);
                if socket.recv_from(&mut [0; 1_500]).is_ok_and(|(_, from)| from == to.into()) {
                    return true;
                }
            }
            false
        })
    });
    assert!(answered.unwrap(), "the server answers");
}

fn discover(web: &Path, what: &str) -> String {
    let mut command = inside(web, "turnutils_natdiscovery");
    command.args([what, "-L", OWN, SERVER[0]]);
    output(command)
}

fn measure(name: &str, filtering: &str) -> [String; 4] {
    let scratch = Scratch::new(name);
    let mut daemon = Daemon::start(&config(&scratch, filtering));
    daemon.wait_ready();
    let (outside, web) = (scratch.path("outside"), scratch.path("web"));
    let server = Server::start(&outside, &scratch);
    wait_for_server(&web);
    let mut classic = inside(&web, "stun");
    classic.args([SERVER[0], "-v"]);
    let found = [discover(&web, "-m"), discover(&web, "-f"), discover(&web, "-H"), output(classic)];
    found.iter().for_each(|text| println!("{filtering}: {text}"));
    drop(server);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
    found
}

#[test]
fn mapping_is_endpoint_independent_and_filtering_by_address_and_port() {
    let [mapping, filtering, _, classic] = measure("stunap", "address-and-port");
    assert!(mapping.contains("NAT with Endpoint Independent Mapping"), "{mapping}");
    assert!(filtering.contains("NAT with Address and Port Dependent Filtering"), "{filtering}");
    assert!(classic.contains("Independent Mapping, Port Dependent Filter"), "{classic}");
}

#[test]
fn mapping_is_endpoint_independent_and_filtering_by_address() {
    let [mapping, filtering, _, classic] = measure("stunad", "address");
    assert!(mapping.contains("NAT with Endpoint Independent Mapping"), "{mapping}");
    assert!(filtering.contains("NAT with Address Dependent Filtering"), "{filtering}");
    assert!(classic.contains("Independent Mapping, Address Dependent Filter"), "{classic}");
}

#[test]
fn mapping_and_filtering_are_endpoint_independent_and_hairpins_work() {
    let [mapping, filtering, hairpin, classic] = measure("stunei", "endpoint");
    assert!(mapping.contains("NAT with Endpoint Independent Mapping"), "{mapping}");
    assert!(filtering.contains("NAT with Endpoint Independent Filtering"), "{filtering}");
    assert!(hairpin.contains("successful hairpinning"), "{hairpin}");
    assert!(classic.contains("Independent Mapping, Independent Filter"), "{classic}");
    assert!(classic.contains("will hairpin"), "{classic}");
}
