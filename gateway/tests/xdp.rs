//! AF_XDP as an operator meets it: the daemon over veth pairs, as an uplink and as an endpoint.
//!
//! Needs root, `ip` and `nsenter`; does not skip without it. The daemon runs in a namespace of its
//! own, as the devices that it uses are there. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netns::{self, Namespace};
use gateway::traffic::{ANSWER_WITHIN, echo_tcp, echo_udp, ping};

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = WORKERS

[uplink.wan]
driver = "xdp"
interface = "up0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { xdp = "veth-web" }
publish = ["8080:80", "8080:80/udp"]
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.app]
attach = { netns = "PREFIXapp", create = true }
network = [{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }]
"#;

/// The namespaces and veth pairs that exist before the daemon.
struct World {
    scratch: Scratch,
    _namespaces: Vec<Namespace>,
}

impl World {
    fn new(test: &str) -> World {
        let scratch = Scratch::new(test);
        let names = ["gw", "outside", "web"];
        let namespaces = names.map(|name| Namespace::create(&scratch.name(name)).unwrap());
        let world = World { scratch, _namespaces: namespaces.into() };
        world.ip("gw", "link set lo up");
        for (ours, other) in [("up0", "outside"), ("veth-web", "web")] {
            let netns = world.scratch.name(other);
            world.ip("gw", &format!("link add {ours} type veth peer name eth0 netns {netns}"));
            world.ip("gw", &format!("link set {ours} up"));
        }
        world.ip("outside", "address add 192.0.2.1/24 dev eth0");
        world.ip("outside", "address add 2001:db8::1/64 dev eth0 nodad");
        world.ip("outside", "link set eth0 up");
        world
    }

    fn ip(&self, namespace: &str, words: &str) -> String {
        let name = self.scratch.name(namespace);
        let output = Command::new("ip").args(["-n", &name]).args(words.split(' ')).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn config(&self, workers: usize) -> std::path::PathBuf {
        self.scratch.config(&CONFIG.replace("WORKERS", &workers.to_string()))
    }

    /// The daemon, in its namespace.
    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let network = format!("--net={}", self.scratch.path("gw").display());
        command.arg(network).arg(PROGRAM).args(["run", "-c"]).arg(config);
        command
    }

    fn start(&self, workers: usize) -> Daemon {
        let mut daemon = Daemon::spawn(self.command(&self.config(workers)));
        daemon.wait_ready();
        daemon
    }

    /// Features of an end that leave work to who reads at the other: of the uplink's two ends, and
    /// of the endpoint's.
    fn offloads(&self) -> [Vec<String>; 3] {
        [("gw", "up0"), ("outside", "eth0"), ("web", "eth0")].map(|(namespace, device)| {
            let path = self.scratch.path(namespace);
            netns::within(&path, || drivers::offloads_in_use(device)).unwrap().unwrap()
        })
    }

    fn mac(&self, namespace: &str) -> String {
        let link = self.ip(namespace, "link show eth0");
        let (_, rest) = link.split_once("link/ether ").unwrap();
        rest.split(' ').next().unwrap().to_owned()
    }
}

fn at(text: &str, port: u16) -> SocketAddr {
    (address(text), port).into()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Everything that a gateway does, over both kinds of port.
fn assert_all_pass(world: &World) {
    let [outside, web, app] = ["outside", "web", "app"].map(|name| world.scratch.path(name));
    let families = [
        ("10.1.0.10", "10.1.0.11", "192.0.2.10", "192.0.2.1"),
        ("fd00:1::10", "fd00:1::11", "2001:db8::10", "2001:db8::1"),
    ];
    for (of_web, of_app, ours, beyond) in families {
        ping(&web, address(of_app), ANSWER_WITHIN).unwrap();
        ping(&web, address(beyond), ANSWER_WITHIN).unwrap();
        ping(&app, address(beyond), ANSWER_WITHIN).unwrap();
        ping(&outside, address(ours), ANSWER_WITHIN).unwrap();
        // Masqueraded, from a TAP and from AF_XDP.
        for client in [&web, &app] {
            let server = at(beyond, 7000);
            let seen = echo_tcp((&outside, server), (client, server), 300_000).unwrap();
            assert_eq!(seen, address(ours));
            let seen = echo_udp((&outside, server), (client, server), &[1, 1400]).unwrap();
            assert_eq!(seen, address(ours));
        }
        // Published: the server sees the client.
        let (server, published) = (at(of_web, 80), at(ours, 8080));
        let seen = echo_tcp((&web, server), (&outside, published), 300_000).unwrap();
        assert_eq!(seen, address(beyond));
        let seen = echo_udp((&web, server), (&outside, published), &[1, 1400]).unwrap();
        assert_eq!(seen, address(beyond));
        // Within the network.
        assert_eq!(echo_tcp((&web, server), (&app, server), 300_000).unwrap(), address(of_app));
    }
}

#[test]
fn uplink_and_endpoint_by_af_xdp_pass_everything_and_are_left_as_they_were() {
    for workers in [1, 2] {
        let world = World::new(&format!("all{workers}"));
        let before = world.offloads();
        assert!(before.iter().all(|features| !features.is_empty()));
        let mac = world.mac("web");
        let mut daemon = world.start(workers);
        assert_all_pass(&world);
        assert!(world.offloads().iter().all(Vec::is_empty));
        assert_eq!(world.mac("web"), "02:42:0a:01:00:0a");

        let metrics = world.scratch.metrics();
        for labels in [
            r#"port="wan",driver="xdp",mode="native copy with relay""#,
            r#"port="web/front",driver="xdp",mode="generic copy""#,
            r#"port="app/front",driver="tap",mode="""#,
        ] {
            assert!(metrics.contains(&format!("portolan_port_info{{{labels}}} 1")), "{metrics}");
        }
        let socket = world.scratch.socket();
        let shown = Command::new(PROGRAM).args(["show", "ports", "--socket"]).arg(&socket).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        for mode in ["xdp generic copy", "xdp native copy with relay"] {
            assert_eq!(shown.matches(mode).count(), 1, "{shown}");
        }

        assert!(daemon.terminate().success(), "{:?}", daemon.log);
        let log = daemon.log.join("\n");
        assert!(log.contains("used by AF_XDP") && !log.contains("not conserved"), "{log}");
        assert_eq!(world.offloads(), before);
        assert_eq!(world.mac("web"), mac);
        assert!(!world.ip("web", "address show eth0").contains("10.1.0.10"));
        let links = world.ip("gw", "-details link show");
        assert!(!links.contains("xdp") && !links.contains("ptl-"), "{links}");
    }
}

/// The line of a worker's counter in the metrics.
fn cuts(world: &World) -> u64 {
    let metrics = world.scratch.metrics();
    let mut lines =
        metrics.lines().filter(|line| line.starts_with("portolan_worker_cut_packets_total{"));
    let line = lines.next().unwrap_or_else(|| panic!("{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn super_frames_leave_by_the_relay_uncut_and_without_it_are_cut_here() {
    for (relay, mode) in [(true, "native copy with relay"), (false, "generic copy")] {
        let world = World::new(&format!("relay-{relay}"));
        let config = CONFIG.replace("WORKERS", "1");
        let config = config.replace("gateway = \"", &format!("relay = {relay}\ngateway = \""));
        let path = world.scratch.config(&config);
        let mut daemon = Daemon::spawn(world.command(&path));
        daemon.wait_ready();
        assert!(world.scratch.metrics().contains(&format!("mode=\"{mode}\"")));
        let [outside, app] = ["outside", "app"].map(|name| world.scratch.path(name));
        for beyond in ["192.0.2.1", "2001:db8::1"] {
            let server = at(beyond, 7000);
            echo_tcp((&outside, server), (&app, server), 3_000_000).unwrap();
        }
        assert_eq!(cuts(&world) == 0, relay, "{} super-frames were cut here", cuts(&world));

        // A relay is for when a device is taken into use.
        let other = config.replace(&format!("relay = {relay}"), &format!("relay = {}", !relay));
        world.scratch.config(&other);
        let mut reload = Command::new(PROGRAM);
        let reload = reload.args(["reload", "--socket"]).arg(world.scratch.socket());
        let output = reload.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("restart the gateway"), "{said}");
        ping(&app, address("192.0.2.1"), ANSWER_WITHIN).unwrap();
        assert!(daemon.terminate().success());
    }
}

#[test]
fn there_is_no_relay_to_a_program_in_generic_mode() {
    let world = World::new("generic");
    let (region, _chunks, _tails) = drivers::Region::new(2_048, 1).unwrap();
    let balancer = engine::frame::FrameBalancer::new(2_048, 1);
    let memory = drivers::XdpMemory { region: std::sync::Arc::new(region), balancer };
    let options = drivers::XdpOptions {
        place: Some(drivers::XdpPlace::Generic),
        ..drivers::XdpOptions::new("eth0")
    };
    let path = world.scratch.path("outside");
    let open = || drivers::Xdp::open(&options, &memory).unwrap();
    let _other = netns::within(&path, open).unwrap();
    let mut daemon = world.start(1);
    let metrics = world.scratch.metrics();
    assert!(metrics.contains(r#"port="wan",driver="xdp",mode="generic copy""#), "{metrics}");
    assert!(!world.ip("gw", "link show").contains("ptl-"));
    assert!(daemon.terminate().success());
    let log = daemon.log.join("\n");
    assert!(log.contains("no relay") && log.contains("generic mode"), "{log}");
}

#[test]
fn after_a_kill_the_next_start_goes_on_and_its_end_leaves_all_as_it_was() {
    let world = World::new("kill");
    let before = world.offloads();
    let mac = world.mac("web");
    let mut daemon = world.start(1);
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait_end();
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_left = |links: String| links.contains("xdp") || links.contains("ptl-");
    while is_left(world.ip("gw", "-details link show")) {
        assert!(Instant::now() < deadline, "the program stays");
    }
    // At the uplink's other end the kernel itself gives back what a native program takes.
    let [own, _, web] = world.offloads();
    assert!(own.is_empty() && web.is_empty(), "nobody could put them back");
    let mut daemon = world.start(2);
    assert_all_pass(&world);
    assert!(daemon.terminate().success());
    assert_eq!(world.offloads(), before);
    assert_eq!(world.mac("web"), mac);

    // A start without a relay puts back what one with it has left.
    let mut daemon = world.start(1);
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait_end();
    let text = std::fs::read_to_string(world.config(1)).unwrap();
    let text = text.replace("gateway = \"192.0.2.1\"", "gateway = \"192.0.2.1\"\nrelay = false");
    let path = world.scratch.folder.path().join("without.toml");
    std::fs::write(&path, text).unwrap();
    let mut daemon = Daemon::spawn(world.command(&path));
    daemon.wait_ready();
    assert_eq!(world.offloads()[0], before[0]);
    assert!(daemon.terminate().success());
    assert_eq!(world.offloads(), before);
}

#[test]
fn a_device_that_is_missing_or_in_use_is_refused_with_what_to_do() {
    let world = World::new("refused");
    let _daemon = world.start(1);
    let other = Scratch::new("refused-too");
    let uplink = CONFIG.split("[network.front]").next().unwrap().replace("WORKERS", "1");
    for (interface, advice) in [("none0", "no device none0"), ("up0", "ip link set up0 xdp off")] {
        let config = other.config(&uplink.replace("up0", interface));
        let mut daemon = Daemon::spawn(world.command(&config));
        assert!(!daemon.wait_end().success());
        let log = daemon.log.join("\n");
        assert!(log.contains(advice), "{log}");
    }
}

#[test]
fn the_devices_mtu_is_followed_up_to_what_the_file_says() {
    let world = World::new("mtu");
    world.ip("gw", "link set up0 mtu 1400");
    let mut daemon = world.start(1);
    let mtu = |of: &str| {
        let metrics = world.scratch.metrics();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("portolan_port_mtu_bytes") && line.contains(of));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!((mtu("\"wan\""), mtu("\"web/front\"")), ("1400".to_owned(), "1500".to_owned()));
    world.ip("gw", "link set up0 mtu 1300");
    world.ip("gw", "link set veth-web mtu 1600");
    let deadline = Instant::now() + Duration::from_secs(20);
    while mtu("\"wan\"") != "1300" {
        assert!(Instant::now() < deadline, "the mtu is not followed");
    }
    assert_eq!(mtu("\"web/front\""), "1500");
    assert!(daemon.terminate().success());
}
