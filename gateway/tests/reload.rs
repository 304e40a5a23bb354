//! Reload of a running daemon: by SIGHUP and by watching the file, with real devices and traffic.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use gateway::traffic::{ANSWER_WITHIN, SILENCE, echo_tcp, echo_udp, ping};
use rustix::process::Signal;

use common::load::{Flows, Stream, device_counts};
use common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

WAN

[network.front]
subnet = "10.1.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
network = [{ name = "front", ip = "10.1.0.10" }]
"#;

const SECOND: &str = r#"
[endpoint.second]
attach = { netns = "PREFIXsecond", create = true }
publish = ["8080:80"]
network = [{ name = "front", ip = "10.1.0.11" }]
"#;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn sighup_adds_an_endpoint_with_its_published_port_and_takes_it_away_again() {
    let scratch = Scratch::new("hup");
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    daemon.wait_ready();
    let [outside, web, second] = ["outside", "web", "second"].map(|name| scratch.path(name));
    for _ in 0..3 {
        scratch.config(&format!("{CONFIG}{SECOND}"));
        daemon.signal(Signal::HUP);
        daemon.wait_for("addition", |line| {
            line.contains("endpoint second added: front 10.1.0.11, port 8080:80/tcp")
        });
        daemon.wait_for("reloaded", |line| line.contains("reloaded"));
        ping(&web, address("10.1.0.11"), ANSWER_WITHIN).unwrap();
        let (listening, published) =
            ((address("10.1.0.11"), 80).into(), (address("192.0.2.10"), 8080).into());
        let seen = echo_tcp((&second, listening), (&outside, published), 300_000).unwrap();
        assert_eq!(seen, address("192.0.2.1"));
        assert_eq!(scratch.namespaces_left().len(), 3);

        scratch.config(CONFIG);
        daemon.signal(Signal::HUP);
        daemon.wait_for("removal", |line| line.contains("endpoint second removed"));
        daemon.wait_for("reloaded", |line| line.contains("reloaded"));
        assert_eq!(scratch.namespaces_left().len(), 2, "its namespace is gone");
        assert!(ping(&web, address("10.1.0.11"), SILENCE).is_err());
        ping(&web, address("192.0.2.1"), ANSWER_WITHIN).unwrap();
    }
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

#[test]
fn a_watched_file_is_taken_over_when_it_is_right_and_refused_when_it_is_wrong() {
    let scratch = Scratch::new("watch");
    let text = CONFIG.replace("workers = 2", "workers = 1\nwatch = true");
    let path = scratch.config(&text);
    let mut daemon = Daemon::start(&path);
    daemon.wait_ready();
    let [outside, web] = ["outside", "web"].map(|name| scratch.path(name));
    // As editors do: another file, renamed over.
    let other = path.with_extension("swp");
    std::fs::rename(scratch.config(&format!("{text}subnot = 7\n")), &other).unwrap();
    std::fs::rename(&other, &path).unwrap();
    daemon.wait_for("refusal", |line| line.contains("reload refused, nothing has changed"));
    daemon.wait_for("place", |line| line.contains("gateway.toml:22:"));
    ping(&web, address("192.0.2.1"), ANSWER_WITHIN).unwrap();

    let listed = "network = [{ name = \"front\", ip = \"10.1.0.10\" }]";
    scratch.config(&text.replace(listed, &format!("publish = [\"53:53/udp\"]\n{listed}")));
    daemon.wait_for("publishing", |line| line.contains("endpoint web: port 53:53/udp"));
    daemon.wait_for("reloaded", |line| line.contains("reloaded"));
    let (listening, published) =
        ((address("10.1.0.10"), 53).into(), (address("192.0.2.10"), 53).into());
    echo_udp((&web, listening), (&outside, published), &[1, 1400]).unwrap();
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

/// How often the daemon reloads under traffic. The full proof is `RELOADS=1000`.
fn reload_count() -> usize {
    match std::env::var("RELOADS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("RELOADS is not a number: {text}")),
        Err(_) => 40,
    }
}

/// Sum of a metric over all its labels that `takes` takes.
fn metric(text: &str, name: &str, takes: impl Fn(&str) -> bool) -> u64 {
    let of = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix(name)?;
        let is_whole = rest.starts_with(['{', ' ']);
        let (_, value) = rest.rsplit_once(' ')?;
        (is_whole && takes(rest)).then(|| value.parse().unwrap())
    };
    text.lines().filter_map(of).sum()
}

/// What a device in a namespace sent the gateway has received, and the other way round.
fn assert_nothing_lost_between(scratch: &Scratch, path: &Path, device: &str, port: &str) {
    let until = Instant::now() + ANSWER_WITHIN;
    loop {
        let (received, sent, dropped) = device_counts(path, device);
        let text = scratch.metrics();
        let of = |name| metric(&text, name, |labels| labels.contains(&format!("port=\"{port}\"")));
        let ours = (of("portolan_port_tx_packets_total"), of("portolan_port_rx_packets_total"), 0);
        if ours == (received, sent, dropped) {
            return;
        }
        // A packet may have come between the two looks.
        assert!(Instant::now() < until, "{port}: {ours:?}, {:?}", (received, sent, dropped));
    }
}

#[test]
fn reloads_under_traffic_lose_no_packet_and_end_no_flow() {
    const FLOWS: usize = 10_000;
    let scratch = Scratch::new("load");
    let base = format!(
        "{CONFIG}publish = [\"5001:5001\"]\n[endpoint.app]\n\
         attach = {{ netns = \"PREFIXapp\", create = true }}\n\
         network = [{{ name = \"front\", ip = \"10.1.0.20\" }}]\n"
    );
    let network = "[network.back]\nsubnet = \"10.2.0.0/24\"\n";
    let published = base.replace("\"5001:5001\"", "\"5001:5001\", \"6000-6099:6000-6099/udp\"");
    let configs = [format!("{base}{SECOND}"), published, format!("{base}{network}"), base.clone()];
    let mut daemon = Daemon::start(&scratch.config(&base));
    daemon.wait_ready();
    let [outside, web, app] = ["outside", "web", "app"].map(|name| scratch.path(name));
    let (listening, published) = ("10.1.0.10:5001", "192.0.2.10:5001");
    let stream =
        Stream::start(&outside, published.parse().unwrap(), &web, listening.parse().unwrap());
    // Packets that wait for a neighbour are few; these resolve all that are needed: at each worker,
    // as every echo is a flow of its own.
    for _ in 0..16 {
        ping(&app, address("192.0.2.1"), ANSWER_WITHIN).unwrap();
        ping(&web, address("192.0.2.1"), ANSWER_WITHIN).unwrap();
    }
    let beyond = "192.0.2.1:9000".parse().unwrap();
    let flows = Flows::start(FLOWS, &app, beyond, &outside, beyond);
    let started = Instant::now();
    for round in 0..reload_count() {
        scratch.config(&configs[round % configs.len()]);
        daemon.signal(Signal::HUP);
        daemon.wait_for("reloaded", |line| {
            assert!(!line.contains("refused"), "{line}");
            line.contains("reloaded")
        });
    }
    let elapsed = started.elapsed();
    let (flows, stream) = (flows.finish(), stream.finish());
    println!("{} reloads in {elapsed:?}: {flows:?}, {stream:?}", reload_count());
    let text = scratch.metrics();
    let drops = metric(&text, "portolan_dropped_packets_total", |labels| {
        // Nobody listens to what the kernels of the namespaces say of themselves, the one whose
        // endpoint has just been removed included.
        let chatter = ["local_unhandled", "neighbour_unhandled", "not_for_us", "not_routable"];
        let mut chatter = chatter.iter().chain(&["no_receiver", "port_gone", "egress_down"]);
        !chatter.any(|reason| labels.contains(reason))
    });
    println!(
        "revalidated: {}, expired: {}",
        metric(&text, "portolan_worker_revalidated_flows_total", |_| true),
        metric(&text, "portolan_worker_expired_flows_total", |_| true)
    );
    assert_eq!((flows.lost, drops), (0, 0), "{flows:?} {stream:?}\n{text}");
    for (path, device, port) in
        [(&outside, "wan0", "wan"), (&web, "eth0", "web/front"), (&app, "eth0", "app/front")]
    {
        assert_nothing_lost_between(&scratch, path, device, port);
    }
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}
