//! Reload of a running daemon: by SIGHUP and by watching the file, with real devices and traffic.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;

use gateway::traffic::{ANSWER_WITHIN, SILENCE, echo_tcp, echo_udp, ping};
use rustix::process::Signal;

use common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
create = true
addresses = ["192.0.2.10/24"]
host_addresses = ["192.0.2.1/24"]
gateway = "192.0.2.1"

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
