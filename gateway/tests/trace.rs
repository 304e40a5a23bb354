//! `portolan trace` beside the real daemon: real packets, each with what became of it.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gateway::traffic::{self, echo_tcp, ping};
use serde_json::Value;

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = WORKERS

WAN

[network.front]
subnet = "10.1.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80"]
network = [{ name = "front", ip = "10.1.0.10" }]

[endpoint.db]
attach = { netns = "PREFIXdb", create = true }
network = [{ name = "front", ip = "10.1.0.11" }]
"#;

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `portolan trace --json` that runs.
struct Tracing<'t> {
    scratch: &'t Scratch,
    arguments: &'t [&'t str],
    child: Child,
    lines: Receiver<Value>,
}

impl<'t> Tracing<'t> {
    fn start(scratch: &'t Scratch, arguments: &'t [&'t str]) -> Tracing<'t> {
        let mut command = Command::new(PROGRAM);
        command.args(["trace", "--json"]).args(arguments).arg("--socket").arg(scratch.socket());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Tracing { scratch, arguments, child, lines }
    }

    /// Makes traffic again and again until a line comes that is wanted. Whoever is refused because
    /// the trace before has not ended yet begins again.
    fn until(&mut self, traffic: impl Fn(), wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            traffic();
            loop {
                match self.lines.recv_timeout(Duration::from_millis(300)) {
                    Ok(line) if wanted(&line) => return line,
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        *self = Tracing::start(self.scratch, self.arguments);
                    }
                }
            }
        }
        panic!("no such packet within {PATIENCE:?}");
    }
}

impl Drop for Tracing<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn step<'v>(line: &'v Value, name: &str) -> &'v str {
    let steps = line["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).map_or("", |step| text(step, "why"))
}

fn sent(line: &Value) -> String {
    format!("{} {}", text(&line["sent"][0], "port"), text(&line["sent"][0], "packet"))
}

fn with_workers(workers: u32) {
    let scratch = Scratch::new(&format!("trace{workers}"));
    let config = scratch.config(&CONFIG.replace("WORKERS", &workers.to_string()));
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready();
    let (outside, web, db) = (scratch.path("outside"), scratch.path("web"), scratch.path("db"));
    let router = "192.0.2.1".parse().unwrap();

    // A ping through masquerade, there and back.
    let mut tracing = Tracing::start(&scratch, &["--endpoint", "web", "--protocol", "icmp"]);
    let pings = || {
        let _ = ping(&db, router, Duration::from_secs(2));
        ping(&web, router, Duration::from_secs(20)).unwrap();
    };
    let request = tracing.until(pings, |line| {
        text(line, "packet").contains("echo request") && line["verdict"] == "forward"
    });
    assert!(text(&request, "packet").starts_with("10.1.0.10 > 192.0.2.1 icmp"), "{request}");
    assert!(step(&request, "nat").contains("192.0.2.10"), "{request}");
    assert!(sent(&request).starts_with("wan 192.0.2.10 > 192.0.2.1 icmp"), "{request}");
    let reply = tracing.until(pings, |line| {
        text(line, "packet").contains("echo reply") && line["verdict"] == "forward"
    });
    assert!(sent(&reply).starts_with("web/front 192.0.2.1 > 10.1.0.10 icmp"), "{reply}");
    // Somebody traces; and when the client has gone, however it went, nobody does.
    let second = Command::new(PROGRAM)
        .args(["trace", "--count", "1", "--socket"])
        .arg(scratch.socket())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && errors.contains("one trace at a time"), "{errors}");
    drop(tracing);

    // TCP to a published port, and a packet that dies.
    let mut tracing = Tracing::start(&scratch, &["--uplink", "wan", "--port", "8080"]);
    let streams = || {
        let (server, published) = ("10.1.0.10:80", "192.0.2.10:8080");
        let (to, from) = (server.parse().unwrap(), published.parse().unwrap());
        echo_tcp((&web, to), (&outside, from), 2_000).unwrap();
    };
    let opens = tracing.until(streams, |line| {
        text(line, "packet").contains("[SYN]") && line["verdict"] == "forward"
    });
    assert!(step(&opens, "publish").contains("published by web/front"), "{opens}");
    assert!(sent(&opens).contains("> 10.1.0.10:80 tcp [SYN]"), "{opens}");
    let denied = || {
        let socket = traffic::udp_client(&outside, "192.0.2.10:8080".parse().unwrap()).unwrap();
        let _ = socket.send(b"knock");
    };
    let dies = tracing.until(denied, |line| {
        text(line, "packet").contains(" udp") && line["verdict"] != "hand-over"
    });
    assert_eq!((text(&dies, "verdict"), &dies["reasons"][0]), ("drop", &"closed_port".into()));
    assert!(text(&dies, "advice").contains("publish"), "{dies}");
    drop(tracing);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), Vec::<String>::new());
}

#[test]
fn real_packets_are_followed_by_one_worker() {
    with_workers(1);
}

#[test]
fn real_packets_are_followed_by_two_workers() {
    with_workers(2);
}

#[test]
fn real_packets_are_followed_by_four_workers() {
    with_workers(4);
}
