//! The same frame, wrapped by Portolan and by the kernel: the outer headers are compared byte for
//! byte.
//!
//! ```text
//! near -- [gateway] -- wan0, host: vxA -- br -- veth -- lab: br -- vxB -- under | sink: captured
//!                      `-- captured
//! ```
//!
//! A `vxlan` device of the host takes out what Portolan wrapped; a bridge and a pair of devices
//! carry the frame on as it is to another one, in a namespace where the underlay looks as ours
//! does, and that one wraps it anew. Only what RFC 7348 leaves to the sender may differ: source
//! port, identification, flow label, and the checksums over them, which are judged by themselves.
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use gateway::netns::Namespace;
use gateway::traffic::{in_namespace, udp_client};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};
use rustix::net::{recv, socket_with, sockopt};

use common::host::start_on;
use common::tunnels::{MESH, PASSES_WITHIN, at, host_of, ip};
use common::{Daemon, PROGRAM, Scratch};

/// Beside the mesh: a routed overlay.
const AGENTS: &str = r#"
[network.agents]
driver = "overlay"
vni = 1024
port = 64000
subnet = "9.0.1.0/24"
route = [{ subnet = "9.0.2.0/24", vtep_ip = "44.128.0.2", vtep_mac = "70:b3:d5:80:00:02",
           host = "VTEP" }]

[endpoint.task]
attach = { netns = "PREFIXtask", create = true }
network = [{ name = "agents", ip = "9.0.1.10" }]
"#;

/// VNI and UDP port of both networks.
const NETWORKS: [(u32, u16); 2] = [(4_097, 4_789), (1_024, 64_000)];

/// Nobody has this address: what is sent to it goes through and is never answered.
const NOBODY_MAC: &str = "02:42:0a:09:00:63";

/// A socket that sees every frame of a namespace.
struct Capture(OwnedFd);

impl Capture {
    fn of(namespace: &Path) -> Capture {
        let socket = in_namespace(namespace, || {
            let flags = SocketFlags::CLOEXEC;
            Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?)
        });
        let socket = socket.unwrap();
        let wait = Some(Duration::from_millis(50));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).unwrap();
        Capture(socket)
    }

    /// Tunnels' packets that have come since the last call.
    fn take(&self, into: &mut Vec<Wrapped>) {
        let mut buffer = vec![0; 70_000];
        while let Ok((len, _)) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
            if let Some(one) = Wrapped::read(&buffer[..len])
                && !into.contains(&one)
            {
                into.push(one);
            }
        }
    }
}

/// A frame in its tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrapped {
    outer: Vec<u8>,
    inner: Vec<u8>,
}

impl Wrapped {
    fn read(frame: &[u8]) -> Option<Wrapped> {
        let outer_bytes = match frame.get(12..14)? {
            [8, 0] if frame[23] == 17 => 50,
            [0x86, 0xdd] if frame[20] == 17 => 70,
            _ => return None,
        };
        let port = frame.get(outer_bytes - 14..outer_bytes - 12)?;
        let port = u16::from_be_bytes([port[0], port[1]]);
        let known = NETWORKS.iter().any(|network| network.1 == port);
        let (outer, inner) = frame.split_at_checked(outer_bytes)?;
        // Multicast reports and the like of the kernels' own devices are nobody's traffic here.
        known.then(|| Wrapped { outer: outer.to_vec(), inner: inner.to_vec() })
    }

    fn is_v6(&self) -> bool {
        self.outer.len() == 70
    }

    /// The outer header without what is left to its sender.
    fn fixed(&self) -> Vec<u8> {
        let mut bytes = self.outer.clone();
        match self.is_v6() {
            false => {
                bytes[18..20].fill(0);
                bytes[24..26].fill(0);
                bytes[34..36].fill(0);
            }
            true => {
                bytes[15] &= 0xf0;
                bytes[16..18].fill(0);
                bytes[54..56].fill(0);
                bytes[60..62].fill(0);
            }
        }
        bytes
    }

    /// Checksums and source port are right by themselves.
    fn check(&self) {
        let frame = [&self.outer[..], &self.inner].concat();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("{self:02x?}") };
        assert!(udp.source_port() >= 49_152, "{}", udp.source_port());
        match &sliced.net {
            Some(NetSlice::Ipv4(v4)) => {
                let header = v4.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                assert_eq!(udp.checksum(), 0);
            }
            Some(NetSlice::Ipv6(v6)) => {
                let (source, destination) = (v6.header().source(), v6.header().destination());
                let expected =
                    udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload());
                assert_eq!(expected, Ok(udp.checksum()));
            }
            other => panic!("{other:?}"),
        }
    }
}

struct World {
    _host: Namespace,
    _lab: Namespace,
    scratch: Scratch,
    daemon: Daemon,
    /// Our MAC address on the uplink, which the kernel's device has in the laboratory as well.
    own_mac: [u8; 6],
    /// Of what Portolan and of what the kernel wrapped.
    captures: [Capture; 2],
}

/// The MAC address of a device.
fn mac_of(namespace: &Path, device: &str) -> String {
    let output = in_namespace(namespace, || {
        Command::new("ip").args(["-br", "link", "show", device]).output()
    });
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let mac = text.split_whitespace().find(|word| word.len() == 17 && word.contains(':'));
    mac.unwrap_or_else(|| panic!("{device}: {text}")).to_owned()
}

impl World {
    fn new(v6: bool) -> World {
        let scratch = Scratch::new(if v6 { "bytes6" } else { "bytes4" });
        let host = host_of(&scratch);
        let (vtep, own, bits) = match v6 {
            true => ("2001:db8::1", "2001:db8::10", 64),
            false => ("192.0.2.1", "192.0.2.10", 24),
        };
        let daemon =
            start_on(&host, &scratch.config(&[MESH, AGENTS].concat().replace("VTEP", vtep)));
        let lab = Namespace::create(&scratch.name("lab")).unwrap();
        let mut uplinks = Command::new(PROGRAM);
        uplinks.args(["show", "uplinks", "--json", "--socket"]).arg(scratch.socket());
        let uplinks: serde_json::Value =
            serde_json::from_slice(&uplinks.output().unwrap().stdout).unwrap();
        let own_mac = find_mac(&uplinks).unwrap_or_else(|| panic!("{uplinks}"));
        let vtep_mac = mac_of(host.path(), "wan0");
        let nodad = if v6 { "nodad" } else { "" };
        let lines = format!(
            "ip link add under mtu 9000 type veth peer name sink mtu 9000
             ip link set under address {own_mac}
             ip addr add {own}/{bits} dev under {nodad}
             ip link set under up
             ip link set sink up
             ip neigh add {vtep} lladdr {vtep_mac} dev under"
        );
        ip(lab.path(), &lines);
        let df = if v6 { "" } else { "df set noudpcsum" };
        for (index, (vni, port)) in NETWORKS.into_iter().enumerate() {
            let name = scratch.name("lab");
            let lines = format!(
                "ip link add br{index} type bridge
                 ip link add vx{index} type vxlan id {vni} dstport {port} local {vtep} remote {own}
                 ip link add pair{index} type veth peer name pair{index} netns {name}
                 ip link set vx{index} master br{index} up
                 ip link set pair{index} master br{index} up
                 ip link set br{index} up"
            );
            ip(host.path(), &lines);
            let lines = format!(
                "ip link add br{index} type bridge
                 ip link add vx{index} type vxlan id {vni} dstport {port} local {own} \
                 remote {vtep} tos inherit {df}
                 ip link set vx{index} master br{index} up
                 ip link set pair{index} master br{index} up
                 ip link set br{index} up"
            );
            ip(lab.path(), &lines);
        }
        let captures = [Capture::of(host.path()), Capture::of(lab.path())];
        for endpoint in ["near", "task"] {
            // Checksums that nobody has finished cannot be compared.
            in_namespace(&scratch.path(endpoint), || {
                let names = ["tx-checksum-ip-generic"].map(str::to_owned);
                drivers::set_offloads("eth0", &names, false).map_err(std::io::Error::other)
            })
            .unwrap();
        }
        let own_mac: Vec<u8> =
            own_mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let own_mac = own_mac.try_into().unwrap();
        World { _host: host, _lab: lab, scratch, daemon, own_mac, captures }
    }

    /// Sends traffic of many kinds; nobody answers.
    fn send(&self) {
        let near = self.scratch.path("near");
        let task = self.scratch.path("task");
        let lines = format!(
            "ip neigh replace 10.9.0.99 lladdr {NOBODY_MAC} dev eth0
             ip neigh replace fd00:9::99 lladdr {NOBODY_MAC} dev eth0"
        );
        ip(&near, &lines);
        for to in ["10.9.0.99", "fd00:9::99"] {
            for bytes in [0, 1, 17, 500, 1_300, 4_000] {
                let client = udp_client(&near, at(to, 7)).unwrap();
                client.send(&vec![0x5a; bytes]).unwrap();
            }
            // Marked: DSCP, and codepoints of ECN. Of a packet that is marked as congested already
            // Linux says outside that it can be (RFC 3168), and not that it is (RFC 6040).
            for class in ["0xb8", "0xb9", "0xba", "0x02"] {
                self.ping(&near, &["-Q", class, to]);
            }
        }
        // Questions for who has an address, to everybody.
        for to in ["10.9.0.98", "fd00:9::98"] {
            self.ping(&near, &[to]);
        }
        for bytes in [1, 1_000, 1_400, 3_000] {
            let client = udp_client(&task, at("9.0.2.5", 7)).unwrap();
            client.send(&vec![0xa5; bytes]).unwrap();
        }
        self.ping(&task, &["-Q", "0xba", "9.0.2.5"]);
    }

    fn ping(&self, from: &Path, arguments: &[&str]) {
        let run =
            || Command::new("ping").args(["-n", "-c", "1", "-W", "0.1"]).args(arguments).output();
        in_namespace(from, run).unwrap();
    }
}

/// The value of the first key `mac`.
fn find_mac(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => match fields.get("mac") {
            Some(mac) => Some(mac.as_str()?.to_owned()),
            None => fields.values().find_map(find_mac),
        },
        serde_json::Value::Array(all) => all.iter().find_map(find_mac),
        _ => None,
    }
}

#[test]
fn outer_headers_are_the_kernels_but_for_what_is_left_to_the_sender() {
    for v6 in [false, true] {
        let mut world = World::new(v6);
        let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
        let deadline = Instant::now() + 4 * PASSES_WITHIN;
        // Bridged and routed ones of ours, each with its twin.
        let wanted = [(4_097u32, 30), (1_024, 6)];
        let is_of = |one: &Wrapped, vni: u32| {
            let at = one.outer.len() - 4;
            one.outer[at..at + 3] == vni.to_be_bytes()[1..]
        };
        loop {
            world.send();
            world.captures[0].take(&mut ours);
            world.captures[1].take(&mut theirs);
            // The host's own devices send as well: what they wrapped goes the other way.
            for all in [&mut ours, &mut theirs] {
                all.retain(|one: &Wrapped| one.outer[6..12] == world.own_mac);
            }
            let paired = |vni| {
                let of = ours.iter().filter(|one| is_of(one, vni));
                of.filter(|one| theirs.iter().any(|other| other.inner == one.inner)).count()
            };
            if wanted.iter().all(|&(vni, count)| paired(vni) >= count) {
                break;
            }
            let found = wanted.map(|(vni, _)| paired(vni));
            assert!(Instant::now() < deadline, "{found:?} of {} and {}", ours.len(), theirs.len());
        }
        let mut compared = 0;
        for one in &ours {
            for other in theirs.iter().filter(|other| other.inner == one.inner) {
                assert_eq!(one.fixed(), other.fixed(), "{one:02x?}\n{other:02x?}");
                one.check();
                compared += 1;
            }
        }
        println!("{compared} pairs of frames, IPv6 outside: {v6}");
        assert!(world.daemon.terminate().success());
    }
}
