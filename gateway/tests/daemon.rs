//! The daemon as an operator meets it: the program itself, real namespaces, real sockets.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use gateway::netlink::Netlink;
use gateway::netns::{self, Namespace};
use gateway::traffic::{ANSWER_WITHIN, SILENCE, echo_tcp, echo_udp, ping};

use common::{Daemon, PROGRAM, Scratch};

/// One network, three endpoints, the third in a namespace that the test makes, or not.
const CONFIG: &str = r#"
[gateway]
workers = 2

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.client]
attach = { netns = "PREFIXclient", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]

[endpoint.third]
attach = { netns = "PREFIXthird" }
network = [{ name = "front", ip = "10.1.0.12", ip6 = "fd00:1::12" }]
"#;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Client and web speak to each other in every way.
fn assert_members_meet(scratch: &Scratch) {
    let (client, web) = (scratch.path("client"), scratch.path("web"));
    for (own, peer) in [("10.1.0.10", "10.1.0.11"), ("fd00:1::10", "fd00:1::11")] {
        ping(&client, address(own), ANSWER_WITHIN).unwrap();
        let at = (address(own), 80).into();
        assert_eq!(echo_tcp((&web, at), (&client, at), 300_000).unwrap(), address(peer));
        assert_eq!(echo_udp((&web, at), (&client, at), &[1, 1400]).unwrap(), address(peer));
    }
}

/// The example that is shipped, with namespaces of this process.
fn example(scratch: &Scratch) -> PathBuf {
    let mut text = include_str!("../../examples/two-networks.toml").to_owned();
    for name in ["outside", "web", "app", "db"] {
        let quoted = format!("\"{name}\"");
        assert!(text.contains(&quoted), "the example has a namespace {name}");
        text = text.replace(&quoted, &format!("\"PREFIX{name}\""));
    }
    scratch.config(&text)
}

#[test]
fn the_example_serves_until_sigterm_and_leaves_nothing() {
    let scratch = Scratch::new("example");
    let mut daemon = Daemon::start(&example(&scratch));
    daemon.wait_ready();
    assert_eq!(scratch.namespaces_left().len(), 4);
    let [outside, web, app] = ["outside", "web", "app"].map(|name| scratch.path(name));
    for (own, gateway, beyond) in
        [("10.1.0.10", "192.0.2.10", "192.0.2.1"), ("fd00:1::10", "2001:db8::10", "2001:db8::1")]
    {
        ping(&app, address(own), ANSWER_WITHIN).unwrap();
        let listening = (address(own), 80).into();
        echo_tcp((&web, listening), (&app, listening), 300_000).unwrap();
        let published = (address(gateway), 8080).into();
        let seen = echo_tcp((&web, listening), (&outside, published), 300_000).unwrap();
        assert_eq!(seen, address(beyond), "the client's address is kept");
        ping(&app, address(beyond), ANSWER_WITHIN).unwrap();
        let server = (address(beyond), 80).into();
        let seen = echo_tcp((&outside, server), (&app, server), 300_000).unwrap();
        assert_eq!(seen, address(gateway), "what leaves has the gateway's address");
    }
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
    let links = Netlink::open(None).unwrap().link_names().unwrap();
    let left: Vec<_> = links.iter().filter(|link| link.starts_with("wan0")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_namespace_that_vanishes_is_a_port_down_and_the_others_go_on() {
    let scratch = Scratch::new("vanishes");
    let third = Namespace::create(&scratch.name("third")).unwrap();
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    daemon.wait_ready();
    ping(&scratch.path("client"), address("10.1.0.12"), ANSWER_WITHIN).unwrap();
    drop(third);
    daemon.wait_for("port down", |line| line.contains("port down") && line.contains("third"));
    assert_members_meet(&scratch);
    assert!(ping(&scratch.path("client"), address("10.1.0.12"), SILENCE).is_err());
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

#[test]
fn a_bad_config_is_refused_with_its_line() {
    let scratch = Scratch::new("bad");
    let config = scratch.config("[network.front]\nsubnet = \"10.1.0.0/24\"\nsubnot = 7\n");
    let mut daemon = Daemon::start(&config);
    assert_eq!(daemon.wait_end().code(), Some(1));
    assert!(daemon.log.iter().any(|line| line.contains("gateway.toml:3:")), "{:?}", daemon.log);
    let mut check = Command::new(PROGRAM);
    let output = check.arg("check").arg(&config).args(["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&findings[0]["line"], &findings[0]["severity"]), (&3.into(), &"error".into()));
}

#[test]
fn a_namespace_that_is_not_there_is_named_and_what_was_made_is_gone() {
    let scratch = Scratch::new("missing");
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log.join("\n");
    assert!(log.contains(&scratch.name("third")) && log.contains("create = true"), "{log}");
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

#[test]
fn a_device_that_exists_is_named_and_left_alone() {
    let scratch = Scratch::new("exists");
    let third = Namespace::create(&scratch.name("third")).unwrap();
    let options = drivers::TapOptions::new("eth0");
    let tap = netns::within(third.path(), || drivers::Tap::create(&options)).unwrap().unwrap();
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log.join("\n");
    assert!(log.contains("device eth0 exists already in namespace"), "{log}");
    let links = Netlink::open(Some(third.path())).unwrap().link_names().unwrap();
    assert!(links.contains(&"eth0".to_owned()));
    drop(tap);
    drop(third);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

#[test]
fn without_root_the_error_says_what_is_missing() {
    let scratch = Scratch::new("user");
    let config = scratch.config(CONFIG);
    // Where the program was built other users may not enter.
    let program = scratch.folder.path().join("portolan");
    std::fs::copy(PROGRAM, &program).unwrap();
    std::fs::set_permissions(scratch.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "-c"]).arg(config).uid(65_534).gid(65_534);
    let mut daemon = Daemon::spawn(command);
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log.join("\n");
    assert!(log.contains("CAP_NET_ADMIN") && log.contains("as root"), "{log}");
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

#[test]
fn without_the_tun_device_the_error_says_how_to_get_it() {
    let scratch = Scratch::new("tun");
    let _third = Namespace::create(&scratch.name("third")).unwrap();
    let config = scratch.config(CONFIG);
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" run -c \"$1\"";
    command.args(["--mount", "sh", "-c", script, PROGRAM]).arg(config);
    let mut daemon = Daemon::spawn(command);
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log.join("\n");
    assert!(log.contains("/dev/net/tun") && log.contains("modprobe tun"), "{log}");
    assert_eq!(scratch.namespaces_left(), [scratch.name("third")]);
}
