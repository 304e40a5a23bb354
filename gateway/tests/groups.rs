//! Who is in which multicast group, as real kernels say it.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns;

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

WAN

[network.front]
subnet = "10.1.0.0/24"

[endpoint.client]
attach = { netns = "PREFIXclient", create = true }
network = [{ name = "front", ip = "10.1.0.11" }]
"#;

#[test]
fn groups_that_kernels_join_are_shown_until_they_are_left() {
    let scratch = Scratch::new("groups");
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    daemon.wait_ready();
    let client = scratch.path("client");
    let group = "01:00:5e:01:02:03";
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let run = || Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(netns::within(&client, run).unwrap().status.success(), "{line}");
    };
    let shown = |is_there: bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = Command::new(PROGRAM);
            command.args(["show", "groups", "--network", "front", "--socket"]);
            let output = command.arg(scratch.socket()).output().unwrap();
            let table = String::from_utf8(output.stdout).unwrap();
            let line = table.lines().find(|line| line.contains(group)).map(str::to_owned);
            if line.is_some() == is_there {
                return line.unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "{table}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    run("ip addr add 239.1.2.3/32 dev eth0 autojoin");
    let line = shown(true);
    assert!(line.contains("client/front") && line.contains("member"), "{line}");
    println!("{line}");
    run("ip addr del 239.1.2.3/32 dev eth0");
    shown(false);
    assert!(daemon.terminate().success());
}
