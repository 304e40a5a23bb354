//! `[[policy]]` rules on a running daemon: silence, a no, and what a reload does to connections
//! that are open.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use gateway::traffic::{
    ANSWER_WITHIN, SILENCE, accept, connect, echo_tcp, is_silence, listen, ping,
};

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
publish = ["8080:80", "8081:81"]
network = [{ name = "front", ip = "10.1.0.10" }]

[endpoint.db]
attach = { netns = "PREFIXdb", create = true }
network = [{ name = "back", ip = "10.2.0.10" }]
"#;

const DENY: &str = r#"
[[policy]]
action = "deny"
from = { uplink = "wan", cidr = "192.0.2.1" }
to = { endpoint = "web", ports = "8080/tcp" }
"#;
const REJECT: &str = r#"
[[policy]]
action = "reject"
from = { endpoint = "db" }
to = { uplink = "wan" }
"#;
const ALLOW: &str = r#"
[[policy]]
action = "allow"
from = { network = "back" }
to = { network = "front" }
"#;

struct World {
    scratch: Scratch,
}

impl World {
    fn reload(&self, rules: &str) -> String {
        self.scratch.config(&format!("{CONFIG}{rules}"));
        self.ask(&["reload"])
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--socket").arg(self.scratch.socket());
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Says something, and hears it at the other end.
fn speaks(client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"still there?")?;
    let mut heard = [0; 12];
    server.read_exact(&mut heard)
}

fn refused(path: &Path, to: &str) -> ErrorKind {
    let error = connect(path, at(to), SILENCE).unwrap_err();
    if is_silence(&error) { ErrorKind::TimedOut } else { error.kind() }
}

#[test]
fn rules_come_and_go_with_reloads_and_end_what_they_forbid() {
    let world = World { scratch: Scratch::new("policy") };
    let mut daemon = Daemon::start(&world.scratch.config(CONFIG));
    daemon.wait_ready();
    let [outside, web, db] = ["outside", "web", "db"].map(|name| world.scratch.path(name));
    let listener = listen(&web, at("10.1.0.10:80")).unwrap();
    let other = listen(&web, at("10.1.0.10:81")).unwrap();
    let open = |port: &str, listener| {
        let client = connect(&outside, at(&format!("192.0.2.10:{port}")), ANSWER_WITHIN).unwrap();
        (client, accept(listener).unwrap().0)
    };
    let (mut client, mut server) = open("8080", &listener);
    let (mut kept, mut kept_server) = open("8081", &other);
    speaks(&mut client, &mut server).unwrap();

    let said = world.reload(DENY);
    let rule = "deny from uplink wan 192.0.2.1/32 to endpoint web ports 8080/tcp";
    assert!(said.contains(&format!("policy: rule 1 added: {rule}")), "{said}");
    let shown = world.ask(&["show", "policy"]);
    assert!(
        shown.contains(rule.strip_prefix("deny ").unwrap()) && shown.contains("deny"),
        "{shown}"
    );
    // The connection that it forbids ends at its next packet; the other one goes on.
    assert!(speaks(&mut client, &mut server).is_err());
    speaks(&mut kept, &mut kept_server).unwrap();
    assert_eq!(refused(&outside, "192.0.2.10:8080"), ErrorKind::TimedOut);
    let hits: serde_json::Value =
        serde_json::from_str(&world.ask(&["show", "policy", "--json"])).unwrap();
    assert!(hits[0]["hits"].as_u64().unwrap() >= 1, "{hits}");
    let drops = world.ask(&["show", "drops"]);
    assert!(drops.contains("policy_denied"), "{drops}");

    world.reload(REJECT);
    assert_eq!(refused(&db, "192.0.2.1:9"), ErrorKind::ConnectionRefused);
    assert!(ping(&db, "192.0.2.1".parse::<IpAddr>().unwrap(), SILENCE).is_err());
    ping(&web, "192.0.2.1".parse().unwrap(), ANSWER_WITHIN).unwrap();
    drop((client, server, listener));
    echo_tcp((&web, at("10.1.0.10:80")), (&outside, at("192.0.2.10:8080")), 1_000).unwrap();

    assert_eq!(refused(&db, "10.1.0.10:80"), ErrorKind::TimedOut);
    world.reload(ALLOW);
    let seen = echo_tcp((&web, at("10.1.0.10:80")), (&db, at("10.1.0.10:80")), 1_000).unwrap();
    assert_eq!(seen, "10.2.0.10".parse::<IpAddr>().unwrap());
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}
