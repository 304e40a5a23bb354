//! Overlays of other dialects with real traffic: each of two gateways runs what its own file gives,
//! and their containers meet through the tunnel, whose packets are captured on the way.
//!
//! Needs root and `ip`; does not skip without them. Both gateways are on one host, a namespace,
//! with an uplink each, between which that host routes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Dialect, convert};
use gateway::netns::{self, Namespace};
use gateway::traffic::{echo_tcp, in_namespace};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};
use rustix::net::{recv, socket_with, sockopt};

use common::host::start_on;
use common::tunnels::{at, check_all, host_of, ip, wait_for_ping};
use common::{Daemon, Scratch};

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Tunnels that packets were in: UDP port, identifier and inner Ethernet addresses; and how many.
type Seen = BTreeMap<(u16, u32, String, String), usize>;

/// A socket that sees every frame of a namespace.
struct Capture(OwnedFd);

impl Capture {
    fn of(namespace: &Path) -> Capture {
        let socket = in_namespace(namespace, || {
            let flags = SocketFlags::CLOEXEC;
            Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?)
        });
        let socket = socket.unwrap();
        let wait = Some(Duration::from_millis(200));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        Capture(socket)
    }

    /// What has passed until now that is VXLAN at one of these ports.
    fn tunnels(self, ports: &[u16]) -> Seen {
        let (mut seen, mut buffer) = (Seen::new(), vec![0; 70_000]);
        while let Ok((len, _)) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
            let frame = &buffer[..len];
            // [Ethernet | IPv4 of 20 bytes | UDP | VXLAN | Ethernet…]
            let is_udp = len >= 64 && frame[12..15] == [8, 0, 0x45] && frame[23] == 17;
            let port = || u16::from_be_bytes([frame[36], frame[37]]);
            if !is_udp || !ports.contains(&port()) {
                continue;
            }
            assert_eq!(frame[42], 8, "the identifier is said to be there");
            let vni = u32::from_be_bytes([0, frame[46], frame[47], frame[48]]);
            let mac = |bytes: &[u8]| {
                let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.join(":")
            };
            *seen.entry((port(), vni, mac(&frame[56..62]), mac(&frame[50..56]))).or_default() += 1;
        }
        seen
    }
}

/// A gateway that runs what a file of another dialect gives.
struct Half {
    scratch: Scratch,
    config: Config,
    daemon: Daemon,
}

/// The address of the gateway with this number, from 1, on its uplink.
fn own(number: u8) -> String {
    format!("198.18.{number}.10")
}

impl Half {
    /// Converts a file, adds what is beside it, and starts a gateway on the host.
    fn start(
        host: &Namespace,
        (dialect, text): (Dialect, &str),
        number: u8,
        set: &[String],
        rest: &str,
    ) -> Half {
        let scratch = Scratch::new(&format!("{}{number}", dialect.name()));
        let mut settings = vec![
            format!("uplink_interface=wan{number}"),
            format!("uplink_address={}/24", own(number)),
            format!("uplink_host_address=198.18.{number}.1/24"),
            format!("uplink_gateway=198.18.{number}.1"),
            format!("netns_prefix={}", scratch.name("")),
        ];
        settings.extend_from_slice(set);
        let native = convert(dialect, Dialect::Native, "x", text, &settings);
        let native = native.unwrap_or_else(|found| panic!("{found:#?}")).text;
        let native = native.replace("[uplink.wan]\n", "[uplink.wan]\nhost_side = false\n");
        let rest = rest.replace("NETNS", &scratch.name(""));
        let path = scratch.config(&format!("{native}\n{rest}"));
        let config = Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}\n{native}"));
        let daemon = start_on(host, &path);
        Half { scratch, config, daemon }
    }

    /// An endpoint's namespace and its address.
    fn station(&self, name: &str, v6: bool) -> (PathBuf, String) {
        let endpoint = self.config.endpoint(name).unwrap();
        let mut addresses = endpoint.attachments.iter().map(|one| match v6 {
            false => one.ipv4_address().map(IpAddr::V4),
            true => one.ipv6_address().map(IpAddr::V6),
        });
        let address = addresses.find_map(|address| address).unwrap();
        (self.scratch.path(name), address.to_string())
    }
}

/// A host that routes between uplinks.
fn routing_host(test: &str) -> Namespace {
    let host = host_of(&Scratch::new(test));
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    netns::within(host.path(), forward).unwrap().unwrap();
    host
}

/// All kinds of traffic between two endpoints, of which nobody's address is translated.
fn check_between(near: &(PathBuf, String), far: &(PathBuf, String), most: usize) {
    check_all((&near.0, &near.1), (&far.0, &far.1), most);
}

/// Marathon's apps of either API, and a container of each family by Mesos.
const APPS: &str = r#"
[[import]]
dialect = "marathon"
path = "apps/*.json"
set = { netns_prefix = "NETNS", mesos_network_prefix = "m-", docker_network_prefix = "d-" }

[endpoint.six]
attach = { netns = "NETNSsix", create = true }
network = [{ name = "d-dcos6" }]
"#;

#[test]
fn two_agents_of_a_dcos_cluster_reach_each_others_containers() {
    let host = routing_host("agents");
    // The overlay is called as the documentation's app calls it.
    let cluster = example("dcos/config.yaml").replace("name: dcos\n", "name: dcos-1\n");
    let capture = Capture::of(host.path());
    let halves = [1u8, 2].map(|number| {
        let apps = Scratch::new(&format!("apps{number}"));
        let folder = apps.folder.path().join("apps");
        std::fs::create_dir_all(&folder).unwrap();
        // Docker's container, and one of Mesos in the same container network.
        let docker = example("marathon/my-networking.json");
        let mesos = docker.replace("my-networking", "mesos").replace("\"DOCKER\"", "\"MESOS\"");
        let mut mesos: serde_json::Value = serde_json::from_str(&mesos).unwrap();
        mesos["container"].as_object_mut().unwrap().remove("docker");
        std::fs::write(folder.join("docker.json"), &docker).unwrap();
        std::fs::write(folder.join("mesos.json"), mesos.to_string()).unwrap();
        let rest = APPS.replace("apps/*", &format!("{}/*", folder.display()));
        let set =
            [format!("agent_index={}", number - 1), format!("agent_hosts={},{}", own(1), own(2))];
        (Half::start(&host, (Dialect::Dcos, &cluster), number, &set, &rest), apps)
    });
    let [(one, _), (two, _)] = &halves;
    for (half, docker, mesos) in [(one, "9.0.0.130", "9.0.0.2"), (two, "9.0.1.130", "9.0.1.2")] {
        assert_eq!(half.station("my-networking_0", false).1, docker);
        assert_eq!(half.station("mesos_0", false).1, mesos);
    }
    for near in ["my-networking_0", "mesos_0"] {
        for far in ["my-networking_0", "mesos_0"] {
            check_between(&one.station(near, false), &two.station(far, false), 1_420);
        }
    }
    // The halves of one agent are networks of one overlay.
    check_between(&one.station("mesos_0", false), &one.station("my-networking_0", false), 1_420);
    check_between(&one.station("six", true), &two.station("six", true), 1_420);
    let seen = capture.tunnels(&[64_000, 4_789]);
    let ends = ["70:b3:d5:80:00:01", "70:b3:d5:80:00:02"].map(str::to_owned);
    for (from, to) in [(0, 1), (1, 0)] {
        let way = (64_000, 1024, ends[from].clone(), ends[to].clone());
        assert!(seen.get(&way).is_some_and(|count| *count > 100), "{seen:?}");
    }
    assert_eq!(seen.len(), 2, "nothing else is in tunnels: {seen:?}");
    // What leaves the overlays is masqueraded: the host sees the agent.
    let (client, _) = one.station("mesos_0", false);
    ip(host.path(), "ip addr add 198.51.100.7/32 dev lo");
    wait_for_ping(&client, "198.51.100.7");
    let outside = at("198.51.100.7", 5_302);
    let from = echo_tcp((host.path(), outside), (&client, outside), 100_000).unwrap();
    assert_eq!(from.to_string(), own(1));
    for (half, _) in halves {
        let Half { mut daemon, .. } = half;
        assert!(daemon.terminate().success(), "{:?}", daemon.log);
    }
}

/// The other node's part of the network of `examples/docker/inspect-overlay.json`.
const COMPOSE: &str = "
services:
  web:
    ports: ['8080:80']
    networks: { mesh: { ipv4_address: 10.0.1.5 } }
networks:
  mesh:
    name: mesh
    driver: overlay
    driver_opts: { com.docker.network.driver.overlay.vxlanid_list: '4097' }
    ipam: { config: [{ subnet: 10.0.1.0/24, gateway: 10.0.1.1 }] }
";

#[test]
fn nodes_of_docker_overlays_reach_each_others_containers() {
    let host = routing_host("swarm");
    let capture = Capture::of(host.path());
    let inspected = example("docker/inspect-overlay.json");
    let inspected = inspected.replace("192.0.2.31", &own(1)).replace("192.0.2.32", &own(2));
    let set = [format!("node_ip={}", own(1))];
    let one = Half::start(&host, (Dialect::Docker, &inspected), 1, &set, "");
    let set = [
        format!("node_ip={}", own(2)),
        format!("overlay_peers={},{}", own(1), own(2)),
        "project=shop".to_owned(),
    ];
    let two = Half::start(&host, (Dialect::Docker, COMPOSE), 2, &set, "");
    let (near, far) = (one.station("web.1", false), two.station("shop-web-1", false));
    assert_eq!((&*near.1, &*far.1), ("10.0.1.3", "10.0.1.5"));
    check_between(&near, &far, 1_450);
    let seen = capture.tunnels(&[64_000, 4_789]);
    for (from, to) in [("03", "05"), ("05", "03")] {
        let mac = |last: &str| format!("02:42:0a:00:01:{last}");
        let count = seen.get(&(4_789, 4097, mac(from), mac(to)));
        assert!(count.is_some_and(|count| *count > 50), "{seen:?}");
    }
    assert!(seen.keys().all(|(port, vni, ..)| (*port, *vni) == (4_789, 4097)), "{seen:?}");
    // The service is published on its own node.
    let (server, published) = ((&*far.0, at("10.0.1.5", 80)), at(&own(2), 8_080));
    echo_tcp(server, (host.path(), published), 100_000).unwrap();
    for mut half in [one, two] {
        assert!(half.daemon.terminate().success(), "{:?}", half.daemon.log);
    }
}
