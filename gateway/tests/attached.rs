//! Macvlan and ipvlan networks with real kernels: members on the link of an uplink, and beside it.
//!
//! The other end of the uplink's TAP device is a kernel in a namespace of its own, which is a
//! station of that link like the members: what reaches it, and what it sees, is what a machine on
//! the wire would. Needs root, `ip` and `bridge`; does not skip without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::Namespace;
use gateway::traffic::{echo_tcp, echo_udp, ping};

use common::{Daemon, Scratch};

/// Longest wait for the first packet to pass: neighbours have to be found.
const PASSES_WITHIN: Duration = Duration::from_secs(30);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(700);

const UPLINK_MAC: &str = "02:42:c0:00:02:0a";

/// The gateway and its uplink, a bridge network with a published port, and what a test adds.
const CONFIG: &str = r#"
[gateway]
workers = WORKERS

[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
create = true
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
publish = ["8080:80"]
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]
"#;

/// Two members on the link itself.
const ON_LINK: &str = r#"
[network.lan]
PARENT
subnets = ["192.0.2.0/24", "2001:db8::/64"]
gateways = ["192.0.2.1", "2001:db8::1"]

[endpoint.one]
attach = { netns = "PREFIXone", create = true }
network = [{ name = "lan", ip = "192.0.2.50", ip6 = "2001:db8::50" }]

[endpoint.two]
attach = { netns = "PREFIXtwo", create = true }
network = [{ name = "lan", ip = "192.0.2.51", ip6 = "2001:db8::51" }]
"#;

/// Somebody with addresses of both families, by the name of the namespace.
#[derive(Clone, Copy, Debug)]
struct Station {
    name: &'static str,
    addresses: [&'static str; 2],
}

const OUTSIDE: Station = Station { name: "outside", addresses: ["192.0.2.1", "2001:db8::1"] };
const ONE: Station = Station { name: "one", addresses: ["192.0.2.50", "2001:db8::50"] };
const TWO: Station = Station { name: "two", addresses: ["192.0.2.51", "2001:db8::51"] };
const WEB: Station = Station { name: "web", addresses: ["10.1.0.10", "fd00:1::10"] };
/// The gateway's own addresses on the link.
const OWN: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

struct World {
    scratch: Scratch,
    daemon: Daemon,
}

impl World {
    fn new(test: &str, workers: u8, rest: &str) -> World {
        let scratch = Scratch::new(test);
        let text = CONFIG.replace("WORKERS", &workers.to_string());
        let mut daemon = Daemon::start(&scratch.config(&format!("{text}{rest}")));
        daemon.wait_ready();
        World { scratch, daemon }
    }

    fn path(&self, station: Station) -> PathBuf {
        self.scratch.path(station.name)
    }

    /// Runs a command of iproute2 in a namespace.
    fn run(&self, station: Station, line: &str) -> String {
        run_in(&self.scratch.name(station.name), line)
    }

    fn wait_for_ping(&self, from: Station, to: &str) {
        let (deadline, path) = (Instant::now() + PASSES_WITHIN, self.path(from));
        while let Err(error) = ping(&path, to.parse().unwrap(), Duration::from_millis(500)) {
            assert!(Instant::now() < deadline, "no answer of {to} to {}: {error}", from.name);
        }
    }

    /// Ping, UDP and TCP both ways, of both families, with nobody's address translated.
    fn check_between(&self, one: Station, other: Station) {
        for v6 in [0, 1] {
            self.wait_for_ping(one, other.addresses[v6]);
            self.wait_for_ping(other, one.addresses[v6]);
            for (client, server) in [(one, other), (other, one)] {
                self.check_towards(client, server, server.addresses[v6], v6);
            }
        }
    }

    /// UDP and TCP of a client that is seen as itself.
    fn check_towards(&self, client: Station, server: Station, to: &str, v6: usize) {
        let (server_path, client_path) = (self.path(server), self.path(client));
        let expected: IpAddr = client.addresses[v6].parse().unwrap();
        let (own, to) = (at(server.addresses[v6], 5_300), at(to, 5_300));
        let sizes = [1, 100, 1_400];
        let seen = echo_udp((&server_path, own), (&client_path, to), &sizes).unwrap();
        assert_eq!(seen, expected, "{} is seen as it is", client.name);
        let (own, to) = (SocketAddr::new(own.ip(), 5_301), SocketAddr::new(to.ip(), 5_301));
        let seen = echo_tcp((&server_path, own), (&client_path, to), 300_000).unwrap();
        assert_eq!(seen, expected);
    }

    fn check_silence(&self, from: Station, to: Station) {
        for address in to.addresses {
            let answer = ping(&self.path(from), address.parse().unwrap(), SILENCE);
            assert!(answer.is_err(), "{} answers {}", to.name, from.name);
        }
    }

    /// What is between members and the gateway itself, and whoever is behind it.
    fn check_gateway(&self, member: Station) {
        for v6 in [0, 1] {
            self.wait_for_ping(member, OWN[v6]);
            // By a published port members are clients of the outside, and seen as such.
            let (server, own) = (self.path(WEB), at(WEB.addresses[v6], 80));
            let client = (&*self.path(member), at(OWN[v6], 8_080));
            let seen = echo_tcp((&server, own), client, 100_000).unwrap();
            assert_eq!(seen, member.addresses[v6].parse::<IpAddr>().unwrap());
            // And to members of other networks they are neighbours of the gateway.
            self.wait_for_ping(WEB, member.addresses[v6]);
            let (server, own) = (self.path(member), at(member.addresses[v6], 5_400));
            let client = (&*self.path(WEB), own);
            let seen = echo_tcp((&server, own), client, 100_000).unwrap();
            assert_eq!(seen, OWN[v6].parse::<IpAddr>().unwrap(), "masqueraded");
        }
    }

    /// The MAC address that the outside has for an address, once it has one.
    fn mac_seen(&self, address: &str) -> String {
        self.mac_seen_by(OUTSIDE, address)
    }

    fn mac_seen_by(&self, station: Station, address: &str) -> String {
        let shown = self.run(station, &format!("ip neigh show {address}"));
        let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
        words.nth(1).unwrap_or_else(|| panic!("no neighbour {address}: {shown}")).to_owned()
    }

    /// Packets that a device has received.
    fn received(&self, station: Station, device: &str) -> u64 {
        let shown = self.run(station, &format!("ip -s link show dev {device}"));
        let mut lines = shown.lines().skip_while(|line| !line.trim_start().starts_with("RX:"));
        let counts = lines.nth(1).unwrap_or_else(|| panic!("no counts: {shown}"));
        counts.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn drops(&self, reason: &str) -> u64 {
        let metrics = self.scratch.metrics();
        let label = format!("reason=\"{reason}\"");
        let lines = metrics.lines().filter(|line| line.contains(&label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    fn end(mut self) {
        assert!(self.daemon.terminate().success(), "{}", self.daemon.log.join("\n"));
        assert_eq!(self.scratch.namespaces_left(), Vec::<String>::new());
    }
}

/// Runs a command of iproute2 in a namespace, by its name.
fn run_in(name: &str, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(["-n", name]).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command of nftables in a namespace.
fn nft(name: &str, line: &str) -> String {
    let mut command = Command::new("ip");
    let output = command.args(["netns", "exec", name, "nft"]).args(line.split(' ')).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn on_link(parent: &str) -> String {
    ON_LINK.replace("PARENT", parent)
}

#[test]
fn macvlan_members_are_on_the_link_with_mac_addresses_of_their_own() {
    for workers in [1, 2, 4] {
        let parent = "driver = \"macvlan\"\nparent = \"wan\"";
        let world = World::new("macvlan", workers, &on_link(parent));
        world.check_between(ONE, OUTSIDE);
        world.check_between(ONE, TWO);
        world.check_gateway(ONE);
        assert_eq!(world.mac_seen_by(ONE, OWN[0]), UPLINK_MAC, "as on the wire");
        for (station, mac) in [(ONE, "02:42:c0:00:02:32"), (TWO, "02:42:c0:00:02:33")] {
            world.wait_for_ping(OUTSIDE, station.addresses[0]);
            assert_eq!(world.mac_seen(station.addresses[0]), mac);
        }
        world.end();
    }
}

#[test]
fn private_members_reach_the_wire_and_not_each_other() {
    let parent = "driver = \"macvlan\"\nparent = \"wan\"\nmode = \"private\"";
    let world = World::new("private", 2, &on_link(parent));
    world.check_between(ONE, OUTSIDE);
    world.check_between(TWO, OUTSIDE);
    world.check_gateway(ONE);
    world.check_silence(ONE, TWO);
    world.check_silence(TWO, ONE);
    world.end();
}

/// Makes the outside a switch that sends back by the port that a frame came by.
fn reflect(world: &World) {
    for line in [
        "ip address flush dev wan0",
        "ip link add br0 type bridge",
        "ip link set wan0 master br0",
        "ip link set br0 up",
        "ip address add 192.0.2.1/24 dev br0",
        "ip address add 2001:db8::1/64 dev br0 nodad",
        "bridge link set dev wan0 hairpin on",
    ] {
        world.run(OUTSIDE, line);
    }
}

#[test]
fn members_in_vepa_mode_reach_each_other_by_a_switch_that_reflects() {
    for kind in ["driver = \"macvlan\"\nmode = \"vepa\"", "driver = \"ipvlan\"\nflag = \"vepa\""] {
        let world = World::new("vepa", 2, &on_link(&format!("{kind}\nparent = \"wan\"")));
        world.check_between(ONE, OUTSIDE);
        world.check_silence(ONE, TWO);
        reflect(&world);
        world.check_between(ONE, TWO);
        world.check_between(TWO, OUTSIDE);
        world.end();
    }
}

#[test]
fn a_passthru_member_gets_what_is_for_nobody_else() {
    let text = on_link("driver = \"macvlan\"\nparent = \"wan\"\nmode = \"passthru\"");
    let (text, _) = text.split_once("[endpoint.two]").unwrap();
    let world = World::new("passthru", 2, text);
    world.check_between(ONE, OUTSIDE);
    world.check_gateway(ONE);
    // To a MAC address that nobody has: the member's kernel takes it if it is told to.
    let line = "ip neigh replace 192.0.2.99 lladdr 02:00:00:00:00:99 dev wan0 nud permanent";
    world.run(OUTSIDE, line);
    world.run(ONE, "ip link add link eth0 name own type macvlan mode bridge");
    world.run(ONE, "ip link set own address 02:00:00:00:00:99 up");
    world.run(ONE, "ip address add 192.0.2.99/32 dev own");
    let deadline = Instant::now() + PASSES_WITHIN;
    while world.received(ONE, "own") == 0 {
        assert!(Instant::now() < deadline, "nothing came for 02:00:00:00:00:99");
        let _ = ping(&world.path(OUTSIDE), "192.0.2.99".parse().unwrap(), SILENCE);
    }
    world.end();
}

#[test]
fn ipvlan_members_share_the_uplinks_mac_address() {
    for workers in [1, 2, 4] {
        let parent = "driver = \"ipvlan\"\nparent = \"wan\"";
        let world = World::new("ipvlan", workers, &on_link(parent));
        world.check_between(ONE, OUTSIDE);
        world.check_between(ONE, TWO);
        world.check_gateway(ONE);
        for address in ONE.addresses.into_iter().chain(TWO.addresses).chain(OWN) {
            world.wait_for_ping(OUTSIDE, address);
            assert_eq!(world.mac_seen(address), UPLINK_MAC, "{address}");
        }
        world.end();
    }
}

const ROUTED: &str = r#"
[network.lan]
driver = "ipvlan"
parent = "wan"
mode = "MODE"
subnets = ["10.7.0.0/24", "10.8.0.0/24", "fd00:7::/64"]

[endpoint.one]
attach = { netns = "PREFIXone", create = true }
network = [{ name = "lan", ip = "10.7.0.50", ip6 = "fd00:7::50" }]

[endpoint.two]
attach = { netns = "PREFIXtwo", create = true }
network = [{ name = "lan", ip = "10.8.0.51", ip6 = "fd00:7::51" }]

[[policy]]
action = "deny"
to = { endpoint = "two", ports = "5300/udp" }
"#;

#[test]
fn ipvlan_members_of_layer_3_are_routed_and_have_no_link() {
    let one = Station { addresses: ["10.7.0.50", "fd00:7::50"], ..ONE };
    let two = Station { addresses: ["10.8.0.51", "fd00:7::51"], ..TWO };
    for (mode, workers) in [("l3", 1), ("l3", 4), ("l3s", 2)] {
        let world = World::new(mode, workers, &ROUTED.replace("MODE", mode));
        world.run(OUTSIDE, "ip route add 10.7.0.0/24 via 192.0.2.10");
        world.run(OUTSIDE, "ip route add 10.8.0.0/24 via 192.0.2.10");
        world.run(OUTSIDE, "ip route add fd00:7::/64 via 2001:db8::10");
        world.check_between(one, OUTSIDE);
        match mode {
            // Rules do not see what passes.
            "l3" => world.check_between(one, two),
            _ => {
                world.wait_for_ping(one, two.addresses[0]);
                let (server, own) = (world.path(two), at(two.addresses[0], 5_300));
                let client = (&*world.path(one), own);
                assert!(echo_udp((&server, own), client, &[10]).is_err(), "a rule says so");
                assert!(world.drops("policy_denied") > 0);
            }
        }
        // There is nobody to be asked for, and the device alone leads everywhere.
        let shown = world.run(one, "ip link show eth0");
        assert!(shown.contains("NOARP"), "{shown}");
        let routes = world.run(one, "ip route show default");
        assert!(routes.starts_with("default dev eth0"), "{routes}");
        assert_eq!(world.run(one, "ip -4 neigh show nud reachable"), "");
        world.end();
    }
}

/// What both gateways of a wire have: an uplink by AF_XDP, and networks on two of its VLANs.
const VLANS: &str = r#"
[gateway]
workers = WORKERS

[uplink.wan]
driver = "xdp"
interface = "up0"
addresses = ADDRESSES

[network.red]
driver = "macvlan"
parent = "wan.100"
subnets = ["10.100.0.0/24", "fd00:100::/64"]

[network.blue]
driver = "ipvlan"
parent = "up0.200"
subnets = ["10.200.0.0/24", "fd00:200::/64"]

[network.plain]
driver = "macvlan"
parent = "wan"
subnets = ["192.0.2.0/24", "2001:db8::/64"]

[endpoint.red]
attach = { netns = "PREFIXredSIDE", create = true }
network = [{ name = "red", ip = "10.100.0.NUMBER", ip6 = "fd00:100::NUMBER" }]

[endpoint.blue]
attach = { netns = "PREFIXblueSIDE", create = true }
network = [{ name = "blue", ip = "10.200.0.NUMBER", ip6 = "fd00:200::NUMBER" }]

[endpoint.plain]
attach = { netns = "PREFIXplainSIDE", create = true }
network = [{ name = "plain", ip = "192.0.2.NUMBER", ip6 = "2001:db8::NUMBER" }]
"#;

/// On one side only.
const GREEN: &str = r#"
[network.green]
driver = "macvlan"
parent = "wan.300"
subnet = "10.30.0.0/24"

[endpoint.green]
attach = { netns = "PREFIXgreenB", create = true }
network = [{ name = "green", ip = "10.30.0.2" }]
"#;

/// A station behind one of the two gateways.
const fn vlan_station(name: &'static str, addresses: [&'static str; 2]) -> Station {
    Station { name, addresses }
}

/// Two gateways on one wire: a kernel's bridge that counts the tags that it sees.
///
/// ```text
/// gateway A, up0 -- p0 [bridge in `wire`] p1 -- up0, gateway B
/// ```
fn two_gateways(workers: u8) -> (World, Daemon, Scratch, Vec<Namespace>) {
    let (scratch, other) = (Scratch::new("vlan"), Scratch::new("vlan"));
    let namespaces = ["wire", "hostA", "hostB"];
    let namespaces = namespaces.map(|name| Namespace::create(&scratch.name(name)).unwrap());
    let run = |line: &str| run_in(&scratch.name("wire"), line);
    run("ip link add br0 type bridge");
    run("ip link set br0 up");
    for (port, host) in [("p0", "hostA"), ("p1", "hostB")] {
        let host = scratch.name(host);
        run(&format!("ip link add {port} type veth peer name up0 netns {host}"));
        run(&format!("ip link set {port} master br0"));
        run(&format!("ip link set {port} up"));
        run_in(&host, "ip link set up0 up");
        run_in(&host, "ip link set lo up");
    }
    let start = |scratch: &Scratch, side: &str, number: &str, own: &str, rest: &str| {
        let text = VLANS.replace("WORKERS", &workers.to_string()).replace("ADDRESSES", own);
        let text = format!("{text}{rest}").replace("SIDE", side).replace("NUMBER", number);
        let path = scratch.config(&text);
        let mut command = Command::new("nsenter");
        let network = format!("--net={}", scratch.path(&format!("host{side}")).display());
        command.arg(network).arg(common::PROGRAM).args(["run", "-c"]).arg(path);
        let mut daemon = Daemon::spawn(command);
        daemon.wait_ready();
        daemon
    };
    let own = "[\"192.0.2.10/24\", \"2001:db8::10/64\"]";
    let daemon = start(&scratch, "A", "50", own, "");
    // The other one has no address there, only members.
    let far = start(&other, "B", "60", "[]", GREEN);
    (World { scratch, daemon }, far, other, namespaces.into())
}

#[test]
fn networks_of_several_vlans_share_an_uplink() {
    let station = vlan_station;
    let pairs = [
        (
            100,
            station("redA", ["10.100.0.50", "fd00:100::50"]),
            station("redB", ["10.100.0.60", "fd00:100::60"]),
        ),
        (
            200,
            station("blueA", ["10.200.0.50", "fd00:200::50"]),
            station("blueB", ["10.200.0.60", "fd00:200::60"]),
        ),
    ];
    let plain = (
        station("plainA", ["192.0.2.50", "2001:db8::50"]),
        station("plainB", ["192.0.2.60", "2001:db8::60"]),
    );
    for workers in [1, 2] {
        let (world, mut far, other, namespaces) = two_gateways(workers);
        let wire = world.scratch.name("wire");
        nft(&wire, "add table netdev t");
        nft(&wire, "add chain netdev t c { type filter hook ingress device p0 priority 0 ; }");
        for number in [100, 200, 300] {
            nft(&wire, &format!("add rule netdev t c vlan id {number} counter"));
        }
        for (_, near, far) in pairs {
            world.check_between(near, far);
        }
        world.check_between(plain.0, plain.1);
        for own in OWN {
            world.wait_for_ping(plain.1, own);
            world.wait_for_ping(plain.0, own);
        }
        world.check_silence(pairs[0].1, plain.1);
        let seen = nft(&wire, "list table netdev t");
        for (number, ..) in pairs {
            let line = seen.lines().find(|line| line.contains(&format!("vlan id {number} ")));
            let line = line.unwrap_or_else(|| panic!("no rule for {number}: {seen}"));
            assert!(!line.contains("packets 0 "), "no tag {number} was on the wire: {seen}");
        }
        // A tag that no network has is counted.
        let green = station("greenB", ["10.30.0.2", ""]);
        let deadline = Instant::now() + PASSES_WITHIN;
        while world.drops("vlan_unknown") == 0 {
            assert!(Instant::now() < deadline, "no drop was counted");
            let _ = ping(&world.path(green), "10.30.0.9".parse().unwrap(), SILENCE);
        }
        assert!(far.terminate().success(), "{}", far.log.join("\n"));
        drop((other, namespaces));
        world.end();
    }
}
