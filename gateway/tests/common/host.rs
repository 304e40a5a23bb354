//! A host for the gateway to run on: a namespace, so that nothing of this machine is touched.
//!
//! ```text
//! host 192.0.2.1, 2001:db8::1 -- wan0 [gateway 192.0.2.10, 2001:db8::10]
//! ```
//!
//! The uplink is a TAP device that ends on the host, or a veth pair of which the gateway has its
//! end, `gw0` in a namespace of its own, by AF_XDP.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use gateway::netns::{self, Namespace};

use super::{Daemon, PROGRAM};

/// Keys of an uplink by a TAP device.
pub(crate) const TAP: &str = r#"driver = "tap"
interface = "wan0"
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]"#;

/// Keys of one by AF_XDP. Our end is in a namespace of its own: the host's is `wan0` as well.
pub(crate) const XDP: &str = r#"driver = "xdp"
interface = "gw0"
netns = "PREFIXlink""#;

/// The address of a family.
pub(crate) fn ip(v6: bool, v4_text: &str, v6_text: &str) -> IpAddr {
    if v6 { v6_text } else { v4_text }.parse().unwrap()
}

/// Runs a command line in the namespace of this thread.
pub(crate) fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{command}");
}

/// The kernel of a namespace uses link-local addresses at once: until it has found them to be no
/// duplicates, for two seconds, it asks for no neighbour of a packet that it forwards.
pub(crate) fn trust_link_locals(namespace: &Namespace) {
    netns::within(namespace.path(), || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
    })
    .unwrap();
}

/// Lays a pair between the host and the namespace where the gateway takes its end.
pub(crate) fn lay_link(host: &Namespace, link: &Namespace, link_name: &str, mtu: u16) {
    netns::within(host.path(), || {
        run(&format!(
            "ip link add wan0 mtu {mtu} type veth peer name gw0 mtu {mtu} netns {link_name}"
        ));
        run("ip addr add 192.0.2.1/24 dev wan0");
        run("ip addr add 2001:db8::1/64 dev wan0 nodad");
        run("ip link set wan0 up");
    })
    .unwrap();
    netns::within(link.path(), || run("ip link set gw0 up")).unwrap();
}

/// Starts a gateway on the host, and waits until it is ready.
pub(crate) fn start_on(host: &Namespace, config: &Path) -> Daemon {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c"]).arg(config);
    // A child is in the namespace of the thread that makes it.
    let mut daemon = netns::within(host.path(), || Daemon::spawn(command)).unwrap();
    daemon.wait_ready();
    daemon
}
