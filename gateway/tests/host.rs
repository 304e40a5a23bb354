//! The host beside the gateway, on the real kernel: the daemon runs in a namespace of its own,
//! which is its host, with an interface to an outside client.
//!
//! Needs root, `ip`, `nft` and `nsenter`; does not skip without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::Namespace;
use gateway::traffic::{echo_tcp, echo_udp, in_namespace};
use rustix::process::Signal;

use common::host::trust_link_locals;
use common::{Daemon, PROGRAM, Scratch};

/// The example, with a port of its own on a loopback address.
const EXAMPLE: &str = include_str!("../../examples/host.toml");

/// Longest wait for what follows an event.
const WITHIN: Duration = Duration::from_secs(20);

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const CLIENT: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const WEB: [&str; 2] = ["10.1.0.10", "fd00:1::10"];
const GATEWAY: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

struct World {
    scratch: Scratch,
    _namespaces: [Namespace; 2],
    config: PathBuf,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

impl World {
    fn new(test: &str) -> World {
        let scratch = Scratch::new(test);
        let (host, outside) = (scratch.name("host"), scratch.name("outside"));
        let namespaces = [Namespace::create(&host).unwrap(), Namespace::create(&outside).unwrap()];
        namespaces.iter().for_each(trust_link_locals);
        let veth = ["-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0"];
        run("ip", &[&veth[..], &["netns", &outside]].concat());
        for (name, own) in [(&host, HOST), (&outside, CLIENT)] {
            run("ip", &["-n", name, "link", "set", "lo", "up"]);
            run("ip", &["-n", name, "link", "set", "eth0", "up"]);
            run("ip", &["-n", name, "addr", "add", &format!("{}/24", own[0]), "dev", "eth0"]);
            let v6 = format!("{}/64", own[1]);
            run("ip", &["-n", name, "addr", "add", &v6, "dev", "eth0", "nodad"]);
        }
        let text = EXAMPLE.replace("\"web\"", "\"PREFIXweb\"") + "\n[gateway]\nworkers = 2\n";
        let config = scratch.config(&text);
        World { scratch, _namespaces: namespaces, config }
    }

    fn start(&self) -> Daemon {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.scratch.path("host").display()));
        command.arg(PROGRAM).args(["run", "-c"]).arg(&self.config);
        let mut daemon = Daemon::spawn(command);
        daemon.wait_ready();
        daemon
    }

    /// Runs a program on the host.
    fn on_host(&self, arguments: &[&str]) -> String {
        let host = format!("--net={}", self.scratch.path("host").display());
        run("nsenter", &[&[host.as_str()], arguments].concat())
    }

    /// All rules of the host but ours, and its settings of forwarding.
    fn state(&self) -> (String, String) {
        let rules = self.on_host(&["nft", "list", "ruleset"]);
        let settings = "grep -H . /proc/sys/net/ipv4/conf/*/forwarding \
                        /proc/sys/net/ipv6/conf/*/*forwarding /proc/sys/net/ipv4/ip_forward";
        (rules, self.on_host(&["sh", "-c", settings]))
    }

    /// What the server at web's port 80 sees of a client: by TCP, by UDP.
    fn seen(&self, from: &str, to: &str, port: u16) -> [Result<IpAddr, String>; 2] {
        let server = SocketAddr::new(if ip(to).is_ipv6() { ip("::") } else { ip("0.0.0.0") }, 80);
        let (web, from) = (self.scratch.path("web"), self.scratch.path(from));
        let to = SocketAddr::new(ip(to), port);
        [
            echo_tcp((&web, server), (&from, to), 100_000).map_err(|error| error.to_string()),
            echo_udp((&web, server), (&from, to), &[1, 1_000]).map_err(|error| error.to_string()),
        ]
    }

    /// What the server sees of a TCP client.
    fn seen_by_tcp(&self, from: &str, to: &str, port: u16) -> std::io::Result<IpAddr> {
        let any = if ip(to).is_ipv6() { ip("::") } else { ip("0.0.0.0") };
        let (web, from) = (self.scratch.path("web"), self.scratch.path(from));
        let to = SocketAddr::new(ip(to), port);
        echo_tcp((&web, SocketAddr::new(any, 80)), (&from, to), 100)
    }

    /// Waits until a TCP client comes through.
    fn wait_seen(&self, from: &str, to: &str, port: u16) {
        let deadline = Instant::now() + WITHIN;
        while let Err(error) = self.seen_by_tcp(from, to, port) {
            assert!(Instant::now() < deadline, "{to}:{port} from {from}: {error}");
        }
    }
}

#[test]
fn the_example_is_reached_from_the_host_and_from_outside_and_the_server_sees_whom_it_should() {
    let world = World::new("seen");
    let before = world.state();
    let mut daemon = world.start();
    // UDP is published beside TCP for this test only.
    let text = std::fs::read_to_string(&world.config).unwrap();
    let text = text.replace("\"8080:80\",", "\"8080:80\", \"8080:80/udp\",");
    std::fs::write(&world.config, text).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("reload", |line| line.contains("reloaded"));
    for family in 0..2 {
        let cases = [
            ("host", WEB[family], 80, HOST[family]),
            ("host", HOST[family], 8080, HOST[family]),
            ("host", LOOPBACK[family], 8080, GATEWAY[family]),
            ("outside", HOST[family], 8080, CLIENT[family]),
        ];
        for (from, to, port, expected) in cases {
            let expected = [Ok(ip(expected)), Ok(ip(expected))];
            assert_eq!(world.seen(from, to, port), expected, "{from} to {to}:{port}");
        }
        // The way out takes the host's address.
        let (web, outside) = (world.scratch.path("web"), world.scratch.path("outside"));
        let at = SocketAddr::new(ip(CLIENT[family]), 90);
        assert_eq!(echo_tcp((&outside, at), (&web, at), 100_000).unwrap(), ip(HOST[family]));
        assert_eq!(echo_udp((&outside, at), (&web, at), &[7]).unwrap(), ip(HOST[family]));
    }
    let rules = world.on_host(&["nft", "list", "tables"]);
    assert_eq!(rules.trim_end(), "table inet portolan");
    assert!(daemon.terminate().success());
    assert_eq!(world.state(), before);
}

#[test]
fn the_rule_set_differs_by_one_table_and_what_the_host_had_is_as_it_was() {
    let world = World::new("ruleset");
    // Tables of others, one of which has the name of ours in another family.
    for table in [
        "table ip filter { chain INPUT { type filter hook input priority filter; \
         tcp dport 1 drop; }; }",
        "table ip portolan { set s { type ipv4_addr; elements = { 192.0.2.7 }; }; }",
        "table inet others { chain nat { type nat hook prerouting priority dstnat; \
         tcp dport 2 dnat ip to 192.0.2.9:3; }; }",
    ] {
        world.on_host(&["nft", table]);
    }
    let routes = || {
        let all = [["ip", "rule"], ["ip", "route"]].map(|command| world.on_host(&command));
        (all, world.on_host(&["ip", "-6", "route"]), world.on_host(&["ip", "-brief", "addr"]))
    };
    let (before, routes_before) = (world.state(), routes());
    let mut daemon = world.start();
    world.wait_seen("outside", HOST[0], 8080);
    let during = world.on_host(&["nft", "list", "ruleset"]);
    let ours = world.on_host(&["nft", "list", "table", "inet", "portolan"]);
    assert_eq!(during.matches(&ours).count(), 1);
    assert_eq!(during.replace(&ours, ""), before.0);
    assert!(daemon.terminate().success());
    assert_eq!((world.state(), routes()), (before, routes_before));
}

#[test]
fn a_port_on_the_ipv6_loopback_address_is_served_each_time_and_nobody_elses() {
    let world = World::new("local6");
    let text = std::fs::read_to_string(&world.config).unwrap();
    let publish = "\"[::1]:9091:80\", \"[::1]:9091:80/udp\", \"8080:80\",";
    std::fs::write(&world.config, text.replace("\"8080:80\",", publish)).unwrap();
    let mut daemon = world.start();
    // The socket that reserves the port is on the same address.
    for _ in 0..20 {
        assert_eq!(world.seen("host", LOOPBACK[1], 9091), [Ok(ip(GATEWAY[1])), Ok(ip(GATEWAY[1]))]);
    }
    for at in ["[::1]:9091", "[::1]:8080"] {
        let at: SocketAddr = at.parse().unwrap();
        let other = in_namespace(&world.scratch.path("host"), || TcpListener::bind(at));
        assert_eq!(other.unwrap_err().kind(), ErrorKind::AddrInUse, "{at}");
    }
    let at: SocketAddr = "[::1]:9091".parse().unwrap();
    let other = in_namespace(&world.scratch.path("host"), || UdpSocket::bind(at));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::AddrInUse);
    // Connections that are over keep no port from the next run.
    assert!(daemon.terminate().success());
    let mut daemon = world.start();
    assert_eq!(world.seen("host", LOOPBACK[1], 9091), [Ok(ip(GATEWAY[1])), Ok(ip(GATEWAY[1]))]);
    // One address instead of all and back, while old sockets are still there.
    for publish in ["\"[::1]:8080:80\",", "\"8080:80\","] {
        let text = std::fs::read_to_string(&world.config).unwrap();
        let (head, tail) = text.split_once("publish = [\n").unwrap();
        let tail = tail.split_once('\n').unwrap().1;
        std::fs::write(&world.config, format!("{head}publish = [\n{publish}\n{tail}")).unwrap();
        daemon.signal(Signal::HUP);
        daemon.wait_for("reload", |line| line.contains("reloaded"));
        for _ in 0..5 {
            assert_eq!(world.seen_by_tcp("host", LOOPBACK[1], 8080).unwrap(), ip(GATEWAY[1]));
        }
    }
}

#[test]
fn a_port_on_a_loopback_address_is_the_hosts_alone_whatever_a_frame_claims() {
    let world = World::new("local");
    let _daemon = world.start();
    let web = world.scratch.path("web");
    let server = SocketAddr::new(ip("0.0.0.0"), 9090);
    let ask = |from: &str, to: &str| {
        let to = SocketAddr::new(ip(to), 9090);
        echo_tcp((&web, server), (&world.scratch.path(from), to), 100)
    };
    assert_eq!(ask("host", "127.0.0.1").unwrap(), ip(GATEWAY[0]));
    let outside = world.scratch.name("outside");
    for net in ["169.254.86.0/24", "10.1.0.0/24"] {
        run("ip", &["-n", &outside, "route", "add", net, "via", HOST[0]]);
    }
    // 127.0.0.1 itself by the wire: the client's own kernel has to be talked into it.
    let path = "/proc/sys/net/ipv4/conf/eth0/route_localnet";
    let net = format!("--net={}", world.scratch.path("outside").display());
    run("nsenter", &[&net, "sh", "-c", &format!("echo 1 > {path}")]);
    run("ip", &["-n", &outside, "rule", "add", "pref", "10", "lookup", "local"]);
    run("ip", &["-n", &outside, "rule", "del", "pref", "0"]);
    run("ip", &["-n", &outside, "rule", "add", "pref", "5", "to", "127.0.0.1", "lookup", "7"]);
    run("ip", &["-n", &outside, "route", "add", "127.0.0.1", "via", HOST[0], "table", "7"]);
    // The address, the stand-ins of it and of others, the endpoint by a forged route.
    for to in [HOST[0], "127.0.0.1", "169.254.86.4", "169.254.86.2", "169.254.86.5", WEB[0]] {
        let seen = ask("outside", to);
        assert!(seen.is_err(), "{to} was reached, as {seen:?}");
    }
}

#[test]
fn a_flushed_table_is_back_at_once_and_connections_go_on() {
    let world = World::new("flush");
    let mut daemon = world.start();
    let web = world.scratch.path("web");
    let listener = gateway::traffic::listen(&web, "0.0.0.0:80".parse().unwrap()).unwrap();
    let to = SocketAddr::new(ip(HOST[0]), 8080);
    let outside = world.scratch.path("outside");
    let mut client = gateway::traffic::connect(&outside, to, WITHIN).unwrap();
    let (mut server, _) = gateway::traffic::accept(&listener).unwrap();
    drop(listener);
    for round in 0..20u8 {
        use std::io::{Read, Write};
        world.on_host(&["nft", "flush", "ruleset"]);
        let flushed = Instant::now();
        world.wait_seen("outside", HOST[0], 8080);
        println!("a new connection {:?} after the flush", flushed.elapsed());
        client.write_all(&[round]).unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
    daemon.wait_for("restoring", |line| line.contains("put back"));
}

#[test]
fn what_a_killed_run_leaves_the_next_one_takes_over_and_the_end_restores_all() {
    let world = World::new("kill");
    let others = "table ip others { chain c { type filter hook input priority 0; counter; }; }";
    world.on_host(&["nft", others]);
    let before = world.state();
    let mut daemon = world.start();
    daemon.signal(Signal::KILL);
    daemon.wait_end();
    let tables = world.on_host(&["nft", "list", "tables"]);
    assert!(tables.contains("inet portolan"), "{tables}");
    let mut daemon = world.start();
    world.wait_seen("outside", HOST[0], 8080);
    assert!(daemon.terminate().success());
    let counted = |text: &str| {
        let lines = text.lines().map(|line| line.split("counter").next().unwrap().to_owned());
        lines.collect::<Vec<_>>()
    };
    let after = world.state();
    assert_eq!((counted(&after.0), after.1), (counted(&before.0), before.1));
    // A config without an uplink beside the host removes what a killed one left, too.
    let mut daemon = world.start();
    daemon.signal(Signal::KILL);
    daemon.wait_end();
    let text = std::fs::read_to_string(&world.config).unwrap();
    let (head, tail) = (text.find("[uplink").unwrap(), text.find("[gateway]").unwrap());
    std::fs::write(&world.config, format!("{}{}", &text[..head], &text[tail..])).unwrap();
    let _daemon = world.start();
    let tables = world.on_host(&["nft", "list", "tables"]);
    assert_eq!(tables.trim_end(), "table ip others");
}

#[test]
fn addresses_of_the_host_are_followed_as_they_come_and_go() {
    let world = World::new("follow");
    let _daemon = world.start();
    let host = world.scratch.name("host");
    for (address, length) in [("192.0.2.77", 24), ("2001:db8::77", 64)] {
        let net = format!("{address}/{length}");
        let nodad: &[&str] = if length == 64 { &["nodad"] } else { &[] };
        run("ip", &[&["-n", &host, "addr", "add", &net, "dev", "eth0"], nodad].concat());
        let wait_table = |has: bool| {
            let deadline = Instant::now() + WITHIN;
            let table = || world.on_host(&["nft", "list", "table", "inet", "portolan"]);
            while table().contains(address) != has {
                assert!(Instant::now() < deadline, "{address} in the table is not {has}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        // Who asks before is not answered: the port is held, and nothing leads on from there.
        wait_table(true);
        world.wait_seen("outside", address, 8080);
        run("ip", &["-n", &host, "addr", "del", &net, "dev", "eth0"]);
        wait_table(false);
    }
    world.wait_seen("outside", HOST[0], 8080);
}

#[test]
fn a_table_that_drops_what_the_host_forwards_is_named_with_what_helps() {
    let world = World::new("drops");
    let mut daemon = world.start();
    // As Docker and ufw leave it.
    for family in ["ip", "ip6"] {
        let chain = "chain FORWARD { type filter hook forward priority filter; policy drop; }";
        world.on_host(&["nft", &format!("table {family} filter {{ {chain}; }}")]);
        daemon.wait_for("culprit", |line| {
            line.contains(&format!("table {family} filter, chain FORWARD (its policy)"))
                && line.contains("tables -I FORWARD -i portolan0 -j ACCEPT")
        });
    }
    let show = |what: &str| {
        let socket = world.scratch.socket();
        run(PROGRAM, &["show", what, "--socket", socket.to_str().unwrap()])
    };
    let shown = show("uplinks");
    assert!(shown.contains("IPv4: dropped by table ip filter, chain FORWARD"), "{shown}");
    assert!(world.seen_by_tcp("outside", HOST[0], 8080).is_err());
    // The table is left as it is, and what helps helps.
    for family in ["ip", "ip6"] {
        for end in ["iifname", "oifname"] {
            let rule = ["nft", "insert", "rule", family, "filter", "FORWARD"];
            world.on_host(&[&rule[..], &[end, "portolan0", "accept"]].concat());
        }
        daemon.wait_for("passing", |line| line.contains("the host forwards"));
    }
    world.wait_seen("outside", HOST[0], 8080);
    assert!(show("uplinks").contains("IPv4: passes; IPv6: passes"));
}

#[test]
fn replies_leave_by_the_uplink_that_the_question_came_by() {
    let world = World::new("uplinks");
    let text = std::fs::read_to_string(&world.config).unwrap();
    let second = "[uplink.lan]\ndriver = \"tap\"\ninterface = \"lan0\"\nnetns = \"PREFIXlan\"\n\
                  create = true\naddresses = [\"198.51.100.10/24\", \"2001:db8:1::10/64\"]\n\
                  host_addresses = [\"198.51.100.1/24\", \"2001:db8:1::1/64\", \
                  \"203.0.113.1/32\"]\n\
                  gateway = \"198.51.100.1\"\ngateway6 = \"2001:db8:1::1\"\n\
                  routes = [{ to = \"203.0.113.0/25\", via = \"198.51.100.1\" }]\n[network.front]\n\
                  uplink = \"host\"";
    let text = text.replace("[network.front]", &second.replace("PREFIX", &world.scratch.name("")));
    std::fs::write(&world.config, text.replace("\"8080:80\",", "\"8080:80\", \"8080:80/udp\","))
        .unwrap();
    let _daemon = world.start();
    let seen = |from, to| world.seen(from, to, 8080).map(Result::unwrap);
    assert_eq!(seen("lan", "198.51.100.10"), [ip("198.51.100.1"); 2]);
    assert_eq!(seen("lan", "2001:db8:1::10"), [ip("2001:db8:1::1"); 2]);
    assert_eq!(seen("outside", HOST[0]), [ip(CLIENT[0]); 2]);
    // What the network starts leaves by its own uplink, but for what has a route of its own.
    let (web, outside) = (world.scratch.path("web"), world.scratch.path("outside"));
    let at = SocketAddr::new(ip(CLIENT[0]), 90);
    assert_eq!(echo_tcp((&outside, at), (&web, at), 100).unwrap(), ip(HOST[0]));
    let (lan, at) = (world.scratch.path("lan"), SocketAddr::new(ip("203.0.113.1"), 90));
    assert_eq!(echo_tcp((&lan, at), (&web, at), 100).unwrap(), ip("198.51.100.10"));
}

/// A gateway of another config on the same host, which does not start; what it says.
fn refused(world: &World, other: &Scratch, uplink: &str) -> String {
    let text = format!(
        "[uplink.host]\ndriver = \"tap\"\ninterface = \"portolan9\"\naddresses = \"host\"\n\
         {uplink}\n[network.other]\nsubnet = \"10.99.0.0/24\"\n[endpoint.one]\n\
         attach = {{ netns = \"PREFIXone\", create = true }}\nnetwork = [{{ name = \"other\" }}]\n"
    );
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", world.scratch.path("host").display()));
    command.arg(PROGRAM).args(["run", "-c"]).arg(other.config(&text));
    let mut daemon = Daemon::spawn(command);
    assert!(!daemon.wait_end().success(), "{:?}", daemon.log);
    daemon.log.join("\n")
}

#[test]
fn a_second_gateway_of_a_host_is_told_who_has_its_side_and_how_to_live_with_that() {
    let (world, other) = (World::new("two"), Scratch::new("second"));
    let mut daemon = world.start();
    let said = refused(&world, &other, "");
    let owner = format!("portolan (pid {})", daemon.child.id());
    assert!(said.contains(&owner) && said.contains("host_side = false"), "{said}");
    world.wait_seen("outside", HOST[0], 8080);
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}

#[test]
fn an_interface_that_has_an_address_of_the_link_is_named_with_what_to_change() {
    let (world, other) = (World::new("taken"), Scratch::new("taken"));
    let host = world.scratch.name("host");
    run("ip", &["-n", &host, "addr", "add", "169.254.86.1/32", "dev", "eth0"]);
    let said = refused(&world, &other, "");
    let expected = "169.254.86.1, which the host is to have on its link to the gateway, is on its \
                    interface eth0 already: give [uplink.host] another `link`, or `host_side = \
                    false`";
    assert!(said.contains(expected), "{said}");
}

/// What others' programs leave in the forward path: their table, and what is said of it. ufw's is
/// as `nft list ruleset` shows it after `ufw enable`; those of dockerd and firewalld have the
/// names, policies and verdicts that their sources write.
const OTHERS: [(&str, &str, &str, &str); 3] = [
    (
        "ip filter",
        "chain ufw-before-forward { ct state related,established counter accept; }
         chain ufw-after-forward { }
         chain ufw-reject-forward { }
         chain FORWARD {
             type filter hook forward priority filter; policy drop;
             counter jump ufw-before-forward; counter jump ufw-after-forward;
             counter jump ufw-reject-forward;
         }",
        "table ip filter, chain FORWARD (its policy)",
        "ufw route allow in on portolan0 && ufw route allow out on portolan0",
    ),
    (
        "ip filter",
        "chain DOCKER-USER { counter return; }
         chain DOCKER-ISOLATION-STAGE-1 { counter return; }
         chain DOCKER { }
         chain FORWARD {
             type filter hook forward priority filter; policy drop;
             counter jump DOCKER-USER; counter jump DOCKER-ISOLATION-STAGE-1;
             oifname docker0 ct state related,established counter accept;
             oifname docker0 counter jump DOCKER;
             iifname docker0 oifname != docker0 counter accept;
         }",
        "table ip filter, chain FORWARD (its policy)",
        "iptables -I DOCKER-USER -i portolan0 -j ACCEPT",
    ),
    (
        "inet firewalld",
        "chain filter_FWD_public {
             jump filter_FWD_public_allow; reject with icmpx admin-prohibited;
         }
         chain filter_FWD_public_allow { }
         chain filter_FORWARD_ZONES { goto filter_FWD_public; }
         chain filter_FORWARD {
             type filter hook forward priority filter + 10; policy accept;
             ct state { established, related } accept;
             iifname lo accept;
             jump filter_FORWARD_ZONES;
             reject with icmpx admin-prohibited;
         }",
        "table inet firewalld, chain filter_FWD_public, rule",
        "firewall-cmd --permanent --zone=trusted --add-interface=portolan0",
    ),
];

#[test]
fn the_tables_of_ufw_docker_and_firewalld_are_named_with_the_command_that_each_understands() {
    let world = World::new("others");
    let mut daemon = world.start();
    for (table, chains, culprit, fix) in OTHERS {
        world.on_host(&["nft", &format!("table {table} {{ {chains}; }}")]);
        daemon.wait_for(culprit, |line| line.contains(culprit) && line.contains(fix));
        world.on_host(&["nft", &format!("delete table {table}")]);
        daemon.wait_for("passing", |line| line.contains("the host forwards"));
    }
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
}
