//! Devices while the daemon runs: what others do to them is followed, what a reload changes is
//! changed in place, and what cannot be made leaves everything as it was.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::netlink::{LinkSettings, Netlink};
use gateway::netns::{self, Namespace};
use gateway::traffic::{ANSWER_WITHIN, SILENCE, echo_udp, ping};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use common::{Daemon, PROGRAM, Scratch};

const CONFIG: &str = r#"
[gateway]
workers = 2

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[endpoint.web]
attach = { netns = "PREFIXweb", create = true }
network = [{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10" }]

[endpoint.third]
attach = { netns = "PREFIXthird" }
network = [{ name = "front", ip = "10.1.0.12", ip6 = "fd00:1::12" }]
"#;

const MORE: &str = r#"
[endpoint.more]
attach = { netns = "PREFIXmore", create = true }
network = [{ name = "front", ip = "10.1.0.20" }]
"#;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct World {
    scratch: Scratch,
    third: Option<Namespace>,
    daemon: Daemon,
}

impl World {
    fn start(test: &str, text: &str) -> World {
        let scratch = Scratch::new(test);
        let third = Some(Namespace::create(&scratch.name("third")).unwrap());
        let mut daemon = Daemon::start(&scratch.config(text));
        daemon.wait_ready();
        World { scratch, third, daemon }
    }

    fn netlink(&self, name: &str) -> Netlink {
        Netlink::open(Some(&self.scratch.path(name))).unwrap()
    }

    fn reload(&mut self, text: &str) {
        self.scratch.config(text);
        self.daemon.signal(Signal::HUP);
        self.daemon.wait_for("reload", |line| line.contains("reloaded"));
    }

    fn reload_refused(&mut self, text: &str, why: &str) {
        self.scratch.config(text);
        self.daemon.signal(Signal::HUP);
        self.daemon.wait_for("refusal", |line| line.contains("reload refused"));
        self.daemon.wait_for(why, |line| line.contains(why));
    }

    /// What `portolan show ports` prints.
    fn shown_ports(&self) -> String {
        let mut command = Command::new(PROGRAM);
        let socket = self.scratch.socket();
        let output = command.args(["show", "ports", "--socket"]).arg(socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    fn assert_talks(&self, from: &str, to: &str) {
        let path = self.scratch.path(from);
        wait_for("an answer", || ping(&path, address(to), ANSWER_WITHIN).ok());
    }

    fn end(mut self) {
        assert!(self.daemon.terminate().success(), "{:?}", self.daemon.log);
        let expected: Vec<String> = self.third.iter().map(|_| self.scratch.name("third")).collect();
        assert_eq!(self.scratch.namespaces_left(), expected);
        if self.third.is_some() {
            assert_eq!(self.netlink("third").link_names().unwrap(), ["lo"]);
        }
    }
}

fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn links_taken_down_renamed_or_resized_by_others_are_followed() {
    let mut world = World::start("followed", CONFIG);
    let (web, third) = (world.netlink("web"), world.netlink("third"));
    let jumbo = LinkSettings { mtu: Some(9000), ..LinkSettings::default() };
    for (netlink, port) in [(&web, "web/front"), (&third, "third/front")] {
        netlink.set_link("eth0", jumbo).unwrap();
        world.daemon.wait_for("mtu", |line| {
            line.contains("mtu changed") && line.contains(port) && line.contains("9000")
        });
    }
    // Whole, they pass only if the gateway's ports have grown too.
    let at = |text: &str| (address(text), 4_000).into();
    let (web_path, third_path) = (world.scratch.path("web"), world.scratch.path("third"));
    wait_for("a large packet", || {
        let (web, third) = (&web_path, &third_path);
        echo_udp((web, at("10.1.0.10")), (third, at("10.1.0.10")), &[8_000]).ok()
    });
    third.rename_link("eth0", "lan0").unwrap();
    world.daemon.wait_for("name", |line| line.contains("device renamed") && line.contains("lan0"));
    world.assert_talks("web", "10.1.0.12");
    let down = LinkSettings { down: true, ..LinkSettings::default() };
    third.set_link("lan0", down).unwrap();
    world.daemon.wait_for("down", |line| line.contains("link down") && line.contains("third"));
    let shown = world.shown_ports();
    let third_port = shown.lines().find(|line| line.starts_with("third/front")).unwrap();
    for part in ["link down", "lan0", "9000"] {
        assert!(third_port.contains(part), "{part} is not in {shown}");
    }
    third.set_link("lan0", LinkSettings { up: true, ..LinkSettings::default() }).unwrap();
    world.daemon.wait_for("up", |line| line.contains("link up") && line.contains("third"));
    world.assert_talks("web", "10.1.0.12");
    world.end();
}

#[test]
fn a_device_that_others_delete_is_a_port_down_until_the_next_reload() {
    let mut world = World::start("deleted", CONFIG);
    world.netlink("third").delete_link("eth0").unwrap();
    let is_down = |line: &str| line.contains("port down") && line.contains("third");
    world.daemon.wait_for("port down", is_down);
    assert!(ping(&world.scratch.path("web"), address("10.1.0.12"), SILENCE).is_err());
    world.reload(CONFIG);
    world.assert_talks("web", "10.1.0.12");
    assert_eq!(world.daemon.log.iter().filter(|line| is_down(line)).count(), 1, "said once");
    world.end();
}

#[test]
fn a_namespace_that_comes_back_gets_its_devices_again() {
    let mut world = World::start("back", CONFIG);
    for _ in 0..2 {
        world.third = None;
        world.daemon.wait_for("port down", |line| line.contains("port down"));
        // Nothing of ours keeps it: else it could not be told from one that leaks.
        world.third = Some(Namespace::create(&world.scratch.name("third")).unwrap());
        world.daemon.wait_for("return", |line| line.contains("is there again"));
        world.assert_talks("web", "10.1.0.12");
        world.assert_talks("web", "fd00:1::12");
    }
    // Before anybody has told that it went, a reload may find the new one.
    for _ in 0..3 {
        world.third = None;
        world.third = Some(Namespace::create(&world.scratch.name("third")).unwrap());
        world.reload(CONFIG);
        world.assert_talks("web", "10.1.0.12");
    }
    // A restart goes on without it, too.
    world.daemon.signal(Signal::KILL);
    world.daemon.wait_end();
    world.third = None;
    world.daemon = Daemon::start(&world.scratch.config(CONFIG));
    world.daemon.wait_ready();
    world.third = Some(Namespace::create(&world.scratch.name("third")).unwrap());
    world.assert_talks("web", "10.1.0.12");
    world.end();
}

#[test]
fn a_reload_changes_a_device_in_place() {
    let mut world = World::start("in-place", CONFIG);
    let third = world.netlink("third");
    let before = third.link_index("eth0").unwrap();
    third.add_address("eth0", "10.77.0.1/24".parse().unwrap()).unwrap();
    let text = CONFIG
        .replace("10.1.0.12", "10.1.0.13")
        .replace("ip6 = \"fd00:1::12\"", "mac = \"02:00:00:00:00:77\"")
        .replace("subnets =", "mtu = 1400\nsubnets =");
    world.reload(&text);
    let link = third.links().unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
    assert_eq!(Some(link.index), before, "it is the same device");
    assert_eq!(link.mtu, 1400);
    assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:77");
    let mut addresses: Vec<String> =
        third.addresses("eth0").unwrap().iter().map(ToString::to_string).collect();
    addresses.sort();
    assert!(addresses.contains(&"10.77.0.1/24".into()), "others' addresses stay: {addresses:?}");
    assert!(addresses.contains(&"10.1.0.13/24".into()), "{addresses:?}");
    assert!(!addresses.contains(&"10.1.0.12/24".into()), "{addresses:?}");
    world.assert_talks("web", "10.1.0.13");
    world.reload(CONFIG);
    assert_eq!(third.link_index("eth0").unwrap(), before);
    world.assert_talks("web", "10.1.0.12");
    world.end();
}

#[test]
fn a_reload_moves_devices_and_gives_them_other_names() {
    let mut world = World::start("moves", CONFIG);
    let renamed = CONFIG.replace("third\" }", "third\", interface = \"lan7\" }");
    world.reload(&renamed);
    assert_eq!(world.netlink("third").link_names().unwrap(), ["lo", "lan7"]);
    world.assert_talks("web", "10.1.0.12");
    let moved = CONFIG.replace("PREFIXweb\"", "PREFIXother\"");
    world.reload(&moved);
    assert!(!world.scratch.path("web").exists(), "its namespace was ours and is gone");
    world.assert_talks("third", "10.1.0.10");
    world.assert_talks("other", "fd00:1::12");
    // Both at once, in one namespace: the default route changes hands.
    let two = "[network.back]\nsubnet = \"10.2.0.0/24\"\n";
    let second = "ip6 = \"fd00:1::12\" }, { name = \"back\", gw_priority = 1 }]";
    let both = CONFIG.replace("ip6 = \"fd00:1::12\" }]", second);
    world.reload(&format!("{both}{two}"));
    let gateway_of_back = |world: &World| {
        let found = netns::within(&world.scratch.path("third"), || {
            fs::read_to_string("/proc/thread-self/net/route").unwrap()
        });
        // Destination and gateway stand in hex, lowest byte first.
        let is_it = |line: &&str| line.contains("\t00000000\t0100020A\t");
        found.unwrap().lines().filter(is_it).count()
    };
    assert_eq!(gateway_of_back(&world), 1);
    world.reload(&format!("{both}{two}").replace("gw_priority = 1", "gw_priority = -1"));
    assert_eq!(gateway_of_back(&world), 0, "it is by the other network again");
    world.assert_talks("third", "10.1.0.10");
    world.end();
}

#[test]
fn a_tap_for_a_vm_stays_on_the_host_and_goes_with_the_daemon() {
    let name = format!("pgv{}", std::process::id() % 1_000_000);
    let more = format!(
        "[endpoint.vm]\nattach = {{ tap = \"{name}\" }}\n\
         network = [{{ name = \"front\", ip = \"10.1.0.30\" }}]\n"
    );
    let world = World::start("vm", &format!("{CONFIG}{more}"));
    let host = Netlink::open(None).unwrap();
    let link = host.links().unwrap().into_iter().find(|link| link.name == name).unwrap();
    assert!(link.is_up && link.alias.unwrap().starts_with("portolan "));
    assert_eq!(link.mac.unwrap().to_string(), "02:42:0a:01:00:1e");
    let addresses = host.addresses(&name).unwrap();
    assert_eq!(addresses, [], "they are of the VM");
    world.end();
    assert!(!host.link_names().unwrap().contains(&name));
}

#[test]
fn a_reload_that_meets_a_foreign_device_is_refused_and_changes_nothing() {
    let mut world = World::start("meets", CONFIG);
    let fourth = Namespace::create(&world.scratch.name("fourth")).unwrap();
    let options = drivers::TapOptions::new("eth0");
    let foreign = netns::within(fourth.path(), || drivers::Tap::create(&options));
    let foreign = foreign.unwrap().unwrap();
    let more = MORE.replace("more", "fourth").replace(", create = true", "").replace("20", "21");
    world.reload_refused(&format!("{CONFIG}{MORE}{more}"), "eth0 exists already in");
    assert!(!world.scratch.path("more").exists(), "what was made before it is undone");
    assert!(Netlink::open(Some(fourth.path())).unwrap().link_index("eth0").unwrap().is_some());
    world.assert_talks("web", "10.1.0.12");
    drop((foreign, fourth));
    world.end();
}

#[test]
fn what_the_kernel_refuses_is_said_and_everything_is_undone() {
    let scratch = Scratch::new("refuses");
    let third = Namespace::create(&scratch.name("third")).unwrap();
    netns::within(third.path(), || {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    })
    .unwrap();
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log.join("\n");
    assert!(log.contains("cannot add address fd00:1::12/64 on eth0 in namespace"), "{log}");
    assert_eq!(scratch.namespaces_left(), [scratch.name("third")]);
    let links = Netlink::open(Some(third.path())).unwrap().link_names().unwrap();
    assert_eq!(links, ["lo"]);
}

/// A small disk at a path, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path, bytes: usize) -> SmallDisk {
        fs::create_dir_all(path).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        SmallDisk(path.to_owned())
    }

    fn fill(&self) {
        let error = fs::write(self.0.join("ballast"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_a_reload_and_the_gateway_goes_on() {
    let scratch = Scratch::new("full");
    let disk = SmallDisk::new(&scratch.state(), 32 * 1024);
    let third = Some(Namespace::create(&scratch.name("third")).unwrap());
    let mut daemon = Daemon::start(&scratch.config(CONFIG));
    daemon.wait_ready();
    let mut world = World { scratch, third, daemon };
    disk.fill();
    // More than what is left of the last page.
    let many: String = (20..60)
        .map(|last| {
            MORE.replace("more", &format!("more{last}")).replace("20\"", &format!("{last}\""))
        })
        .collect();
    for _ in 0..2 {
        world.reload_refused(&format!("{CONFIG}{many}"), "make room");
        world.assert_talks("web", "10.1.0.12");
        assert_eq!(world.scratch.namespaces_left().len(), 2);
    }
    disk.make_room();
    world.reload(&format!("{CONFIG}{many}"));
    world.assert_talks("more40", "10.1.0.12");
    disk.fill();
    world.end();
    drop(disk);
}

#[test]
fn a_state_that_is_in_use_newer_foreign_or_damaged_is_refused_and_left() {
    let mut world = World::start("state", CONFIG);
    let refused = |world: &World, why: &str| {
        let mut second = Daemon::start(&world.scratch.config(CONFIG));
        assert_eq!(second.wait_end().code(), Some(1), "{:?}", second.log);
        let log = second.log.join("\n");
        assert!(log.contains(why), "{log}");
    };
    refused(&world, "another portolan is using the state");
    world.assert_talks("web", "10.1.0.12");
    world.daemon.signal(Signal::KILL);
    world.daemon.wait_end();
    let path = world.scratch.state().join("gateway.state");
    let good = fs::read(&path).unwrap();
    let newer = [&b"portolan gateway state, format 9\n"[..], &good[33..]].concat();
    let mut damaged = good.clone();
    damaged[60] ^= 0x40;
    for (bytes, why) in [
        (&newer[..], "run the newer portolan"),
        (b"#!/bin/sh\n", "is no state of portolan"),
        (&damaged, "is damaged at byte 33"),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(&world, why);
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
        assert!(world.scratch.path("web").exists(), "and so are the devices");
    }
    // Cut where a crash may cut it, it serves.
    fs::write(&path, [&good[..], b"\x40\0\0\0half a record"].concat()).unwrap();
    world.daemon = Daemon::start(&world.scratch.config(CONFIG));
    world.daemon.wait_for("dropped record", |line| line.contains("cut off before"));
    world.daemon.wait_ready();
    world.assert_talks("web", "10.1.0.12");
    world.end();
}
