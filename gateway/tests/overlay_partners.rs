//! Overlays with others' tunnel ends: Open vSwitch's userspace datapath, and a kernel's multicast
//! group behind a switch that looks at memberships. What passes is captured on the underlay, and
//! tshark, which shares nothing with us, decodes it without a complaint.
//!
//! Needs root, `openvswitch-switch`, `tcpdump` and `tshark`; does not skip without them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use gateway::netns::{self, Namespace};

use common::host::start_on;
use common::partners::{Capture, Running, wait_until};
use common::tunnels::{check_all, host_of, ip, wait_for_ping};
use common::{Daemon, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[uplink.wan]
UPLINK
interface = "wan0"
addresses = ["192.0.2.10/24"]
gateway = "192.0.2.1"

[network.mesh]
driver = "overlay"
vni = 77
subnets = ["10.9.0.0/24", "fd00:9::/64"]
OVERLAY

[endpoint.near]
attach = { netns = "PREFIXnear", create = true }
network = [{ name = "mesh", ip = "10.9.0.10", ip6 = "fd00:9::10" }]
"#;

struct World {
    host: Namespace,
    scratch: Scratch,
    daemon: Daemon,
}

impl World {
    /// The uplink is a TAP, or one end of a veth pair of which `under0` is the other.
    fn new(test: &str, is_tap: bool, overlay: &str) -> World {
        let scratch = Scratch::new(test);
        let host = host_of(&scratch);
        let uplink = match is_tap {
            true => "driver = \"tap\"\nhost_side = false\nhost_addresses = []",
            false => "driver = \"xdp\"",
        };
        if !is_tap {
            ip(
                host.path(),
                "ip link add wan0 type veth peer name under0
                 ip link set wan0 up
                 ip link set under0 up",
            );
        }
        let text = CONFIG.replace("UPLINK", uplink).replace("OVERLAY", overlay);
        let daemon = start_on(&host, &scratch.config(&text));
        World { host, scratch, daemon }
    }

    fn check(&self, far: &Path, most: usize) {
        let near = self.scratch.path("near");
        check_all((&near, "10.9.0.10"), (far, "10.9.0.2"), most);
        check_all((&near, "fd00:9::10"), (far, "fd00:9::2"), most);
    }
}

/// Open vSwitch with a database of its own.
struct OpenVSwitch {
    folder: PathBuf,
    host: PathBuf,
    _processes: Vec<Running>,
}

impl OpenVSwitch {
    fn start(host: &Path, folder: &Path) -> OpenVSwitch {
        let folder = folder.join("ovs");
        std::fs::create_dir_all(&folder).unwrap();
        let mut own = OpenVSwitch { folder, host: host.to_owned(), _processes: Vec::new() };
        let database = own.folder.join("conf.db");
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        let made = own.command("ovsdb-tool").arg("create").arg(&database).arg(schema).status();
        assert!(made.unwrap().success(), "ovsdb-tool");
        let socket = format!("punix:{}", own.socket());
        let mut server = own.command("ovsdb-server");
        server.arg(&database).args(["--remote", &socket, "--no-chdir"]);
        own._processes.push(Running::start(host, &mut server));
        wait_until("the database", || Path::new(&own.socket()).exists());
        own.set(&["--no-wait", "init"]);
        let mut switch = own.command("ovs-vswitchd");
        switch.arg(format!("unix:{}", own.socket())).arg("--no-chdir");
        own._processes.push(Running::start(host, &mut switch));
        own
    }

    fn socket(&self) -> String {
        self.folder.join("db.sock").to_string_lossy().into_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, &self.folder);
        }
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn set(&self, words: &[&str]) {
        let mut command = self.command("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.socket())).arg("--timeout=20").args(words);
        let output = netns::within(&self.host, || command.output()).unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ovs-vsctl {words:?}: {errors}");
    }
}

/// By a veth pair: Open vSwitch reads its devices as packet sockets do, and takes no super-frames.
#[test]
fn open_vswitch_in_user_space_is_a_peer() {
    let mut world = World::new("ovs", false, "peers = [\"192.0.2.1\"]");
    let file = world.scratch.folder.path().join("ovs.pcap");
    let capture = Capture::start(world.host.path(), "under0", file);
    let ovs = OpenVSwitch::start(world.host.path(), world.scratch.folder.path());
    // A bridge that has the underlay's address, and one with the tunnel and a veth to a station.
    ovs.set(&["add-br", "under", "--", "set", "bridge", "under", "datapath_type=netdev"]);
    ovs.set(&["add-br", "over", "--", "set", "bridge", "over", "datapath_type=netdev"]);
    ovs.set(&["add-port", "under", "under0"]);
    let tunnel = "options:remote_ip=192.0.2.10";
    ovs.set(&[
        "add-port",
        "over",
        "vx0",
        "--",
        "set",
        "interface",
        "vx0",
        "type=vxlan",
        tunnel,
        "options:key=77",
        "options:local_ip=192.0.2.1",
    ]);
    let station = ["add-port", "over", "st0", "--", "set", "interface", "st0", "type=internal"];
    ovs.set(&station);
    ip(
        world.host.path(),
        "ip addr add 192.0.2.1/24 dev under
         ip link set under up
         ip link set st0 mtu 1450
         ip addr add 10.9.0.2/24 dev st0
         ip addr add fd00:9::2/64 dev st0 nodad
         ip link set st0 up",
    );
    world.check(world.host.path(), 1_450);
    wait_for_ping(world.host.path(), "10.9.0.1");
    let ours = capture.check(4_789);
    assert!(ours > 30, "{ours} of our packets were VXLAN");
    drop(ovs);
    assert!(world.daemon.terminate().success());
}

#[test]
fn a_group_is_joined_so_that_a_snooping_switch_lets_it_through() {
    let overlay = "peers = [\"192.0.2.1\"]\ngroup = \"239.1.1.1\"\nport = 8472";
    let mut world = World::new("group", true, overlay);
    // A switch that asks, and passes groups on to those alone who answer.
    ip(
        world.host.path(),
        "ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 200 \
         mcast_startup_query_interval 100 mcast_query_response_interval 100
         ip link set br0 up
         ip link set wan0 master br0
         ip addr add 192.0.2.1/24 dev br0
         ip link add vx0 type vxlan id 77 dstport 8472 local 192.0.2.1 group 239.1.1.1 dev br0
         ip link set vx0 address 02:42:0a:09:00:02
         ip addr add 10.9.0.2/24 dev vx0
         ip addr add fd00:9::2/64 dev vx0 nodad
         ip link set vx0 up",
    );
    let database = || {
        let mut command = Command::new("bridge");
        command.args(["mdb", "show", "dev", "br0"]);
        let output = netns::within(world.host.path(), || command.output()).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_until("our membership", || {
        database().lines().any(|line| line.contains("wan0") && line.contains("239.1.1.1"))
    });
    let file = world.scratch.folder.path().join("group.pcap");
    let capture = Capture::start(world.host.path(), "br0", file);
    world.check(world.host.path(), 1_450);
    let ours = capture.check(8_472);
    assert!(ours > 30, "{ours} of our packets were VXLAN");
    assert!(world.daemon.terminate().success());
}
