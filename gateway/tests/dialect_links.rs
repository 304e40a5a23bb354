//! Networks on the link of a device, as CNI's and Docker's files describe them, with real traffic:
//! each file is converted and run as it is, on a machine that has the device that it names.
//!
//! ```text
//! station 192.0.2.1 -- wan0 (veth) eth0 [gateway] -- members
//! ```
//!
//! On a VLAN the station is a member of another gateway, which has `wan0`: it tags and it takes
//! tagged frames only, and not every kernel knows VLANs. Needs root and `ip`; does not skip
//! without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::{Path, PathBuf};

use config::{Config, Dialect, convert};
use gateway::netns::{self, Namespace};

use common::host::start_on;
use common::tunnels::{check_all, ip};
use common::{Daemon, Scratch};

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A machine with `eth0`, the station at the other end, and a gateway there.
struct World {
    scratch: Scratch,
    station: PathBuf,
    config: Config,
    daemon: Daemon,
    /// The other gateway, if there is one.
    far: Option<(Daemon, Scratch)>,
    _machines: [Namespace; 2],
}

/// The other gateway of a VLAN.
const FAR: &str = r#"
[uplink.wan]
driver = "xdp"
interface = "wan0"
addresses = []

[network.far]
driver = "macvlan"
parent = "wan.VLAN"
subnet = "10.VLAN.0.0/24"
reserved = ["10.VLAN.0.2"]
gateway = "10.VLAN.0.2"

[endpoint.station]
attach = { netns = "PREFIXstation", create = true }
network = [{ name = "far", ip = "10.VLAN.0.1" }]
"#;

impl World {
    /// Runs a file as it is, but for names of namespaces and endpoints that it does not have.
    fn new(
        test: &str,
        (dialect, file): (Dialect, &str),
        vlan: Option<u16>,
        set: &[&str],
        rest: &str,
    ) -> World {
        let scratch = Scratch::new(test);
        let mut settings: Vec<String> = set.iter().map(|&one| one.to_owned()).collect();
        settings.push(format!("netns_prefix={}", scratch.name("")));
        let native = convert(dialect, Dialect::Native, "x", &example(file), &settings);
        let native = native.unwrap_or_else(|found| panic!("{found:#?}")).text;
        let path = scratch.config(&format!("{native}\n{rest}"));
        let config = Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}\n{native}"));
        let machines = ["wire", "machine"];
        let machines = machines.map(|name| Namespace::create(&scratch.name(name)).unwrap());
        let [wire, machine] = &machines;
        let lines = format!(
            "ip link set lo up
             ip link add wan0 type veth peer name eth0 netns {}
             ip link set wan0 up",
            scratch.name("machine")
        );
        ip(wire.path(), &lines);
        ip(machine.path(), "ip link set lo up\nip link set eth0 up");
        let (far, station) = match vlan {
            None => {
                let own = "ip addr add 192.0.2.1/24 dev wan0
                           ip route add 10.7.0.0/24 via 192.0.2.10";
                ip(wire.path(), own);
                (None, wire.path().to_owned())
            }
            Some(vlan) => {
                let other = Scratch::new(&format!("{test}-far"));
                let far = start_on(wire, &other.config(&FAR.replace("VLAN", &vlan.to_string())));
                let station = other.path("station");
                (Some((far, other)), station)
            }
        };
        let daemon = start_on(machine, &path);
        World { scratch, station, config, daemon, far, _machines: machines }
    }

    /// All traffic of each member with the station and with each other, with nobody translated.
    fn check(&self, station: &str, members: [&str; 2]) {
        let member = |name: &str| {
            let endpoint = self.config.endpoint(name).unwrap();
            let address = endpoint.attachments[0].ipv4_address().unwrap();
            (self.scratch.path(name), address.to_string())
        };
        let [one, other] = members.map(member);
        for member in [&one, &other] {
            check_all((&member.0, &member.1), (&*self.station, station), 1_500);
        }
        check_all((&one.0, &one.1), (&other.0, &other.1), 1_500);
    }

    /// The MAC address that the station has for an address.
    fn neighbour(&self, address: &str) -> String {
        let show = || std::process::Command::new("ip").args(["neigh", "show", address]).output();
        let output = netns::within(&self.station, show).unwrap().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let mut words = shown.split_whitespace();
        words.find(|word| *word == "lladdr").unwrap_or_else(|| panic!("{address}: {shown}"));
        words.next().unwrap().to_owned()
    }

    fn end(mut self) {
        let far = self.far.as_mut().map(|(daemon, _)| daemon);
        for daemon in [Some(&mut self.daemon), far].into_iter().flatten() {
            assert!(daemon.terminate().success(), "{:?}", daemon.log);
        }
    }
}

/// Two members of a network that the file has none of.
fn members(network: &str) -> String {
    let member = |name: &str| {
        format!(
            "[endpoint.{name}]\nattach = {{ netns = \"PREFIX{name}\", create = true }}\n\
             network = [{{ name = {network:?} }}]\n"
        )
    };
    format!("{}{}", member("alice"), member("bob"))
}

const MEMBERS: [&str; 2] = ["alice", "bob"];

#[test]
fn a_macvlan_network_of_cni_is_on_the_link_of_its_master() {
    let world =
        World::new("macvlan", (Dialect::Cni, "cni/macvlan.conf"), None, &[], &members("lan"));
    world.check("192.0.2.1", MEMBERS);
    let [one, other] = ["192.0.2.64", "192.0.2.65"].map(|ip| world.neighbour(ip));
    assert_ne!(one, other, "members have MAC addresses of their own");
    // The range of the file is what members have.
    let lan = world.config.network("lan").unwrap();
    assert_eq!(lan.subnets[0].gateway.to_string(), "192.0.2.1", "the station, not us");
    world.end();
}

#[test]
fn an_ipvlan_network_of_cni_is_routed_to_by_the_address_of_its_master() {
    let set = ["uplink_address=192.0.2.10/24", "uplink_gateway=192.0.2.1"];
    let world =
        World::new("ipvlan", (Dialect::Cni, "cni/ipvlan.conf"), None, &set, &members("far"));
    world.check("192.0.2.1", MEMBERS);
    world.end();
}

#[test]
fn a_vlan_network_of_cni_is_tagged_on_the_wire() {
    let world =
        World::new("vlan", (Dialect::Cni, "cni/vlan.conf"), Some(200), &[], &members("blue"));
    world.check("10.200.0.1", MEMBERS);
    assert_eq!(world.neighbour("10.200.0.10"), world.neighbour("10.200.0.11"), "one MAC address");
    world.end();
}

#[test]
fn a_macvlan_network_of_docker_has_its_containers_on_the_vlan() {
    let file = (Dialect::Docker, "docker/inspect-macvlan.json");
    let world = World::new("docker", file, Some(100), &[], "");
    world.check("10.100.0.1", ["printer", "scanner"]);
    assert_eq!(world.neighbour("10.100.0.64"), "3e:9a:51:0c:7b:21", "as the file has it");
    world.end();
}
