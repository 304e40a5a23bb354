//! `portolan explain` beside the real daemon: what it tells is what then happens.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;

use gateway::traffic::echo_udp;
use serde_json::Value;

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

WAN

[network.front]
subnet = "10.1.0.0/24"

[network.back]
subnet = "10.2.0.0/24"

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80/udp"]
network = [{ name = "front", ip = "10.1.0.10" }]

[endpoint.vm]
attach = { netns = "PREFIXvm", create = true }
network = [{ name = "back", ip = "10.2.0.11" }]

[[policy]]
action = "deny"
from = { endpoint = "vm" }
to = { cidr = "203.0.113.0/24" }
"#;

/// What the command prints, and whether it says that the packet arrives.
fn explain(scratch: &Scratch, arguments: &[&str]) -> (Value, bool) {
    let mut command = Command::new(PROGRAM);
    command.arg("explain").args(arguments).args(["--json", "--socket"]).arg(scratch.socket());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = serde_json::from_str(&text);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (told.unwrap_or_else(|_| panic!("{text}{errors}")), output.status.success())
}

#[test]
fn what_is_told_is_what_happens_and_changes_nothing() {
    let scratch = Scratch::new("explain");
    let config = scratch.config(CONFIG);
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready();

    let out = ["--from", "web:40000", "--to", "192.0.2.1:9/udp"];
    let (before, arrives) = explain(&scratch, &out);
    assert!(arrives, "{before}");
    assert_eq!(before["leaves"]["source"], "192.0.2.10:40000");
    let (again, _) = explain(&scratch, &out);
    assert_eq!(again, before, "asking has changed nothing");

    let reached = ["--uplink", "wan", "--from", "192.0.2.1:5000", "--to", "192.0.2.10:8080/udp"];
    let (told, _) = explain(&scratch, &reached);
    assert_eq!(told["leaves"]["destination"], "10.1.0.10:80");
    assert_eq!(told["leaves"]["port"], "web/front");
    let (outside, web) = (scratch.path("outside"), scratch.path("web"));
    let (server, published) = ("10.1.0.10:80", "192.0.2.10:8080");
    echo_udp((&web, server.parse().unwrap()), (&outside, published.parse().unwrap()), &[100])
        .unwrap();

    let (told, arrives) = explain(&scratch, &["--from", "vm", "--to", "203.0.113.5:80/tcp"]);
    assert!(!arrives);
    assert_eq!(told["reason"], "policy_denied");
    let policy = told["steps"].as_array().unwrap().iter().find(|step| step["step"] == "policy");
    assert!(policy.unwrap()["why"].as_str().unwrap().contains("rule 1"), "{told}");
    let (told, _) = explain(&scratch, &["--from", "vm", "--to", "10.1.0.10:80/udp"]);
    assert_eq!(told["reason"], "other_network");
    assert!(told["advice"].as_str().unwrap().contains("send to 192.0.2.10:8080"));

    let large = ["--from", "web", "--to", "192.0.2.1:9/udp", "--size", "1501"];
    let (told, _) = explain(&scratch, &large);
    assert_eq!(told["reason"], "too_big_icmp_sent");
    let (told, arrives) = explain(&scratch, &[&large[..], &["--no-df"]].concat());
    assert!(arrives && told["leaves"]["fragments"] == 2, "{told}");
    let (told, _) = explain(&scratch, &["--from", "web", "--to", "192.0.2.1:9/udp", "--ttl", "1"]);
    assert_eq!(told["reason"], "ttl_exceeded");

    let mut offline = Command::new(PROGRAM);
    offline.args(["explain", "--from", "vm", "--to", "10.1.0.10:80/udp", "-c"]).arg(&config);
    let output = offline.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("drop: other_network"), "{text}");
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}
