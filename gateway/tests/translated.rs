//! IPv6 clients of an endpoint that has IPv4 only, with real kernels at both ends.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::SocketAddr;
use std::process::Command;

use common::PROGRAM;
use common::beyond::{Beyond, IcmpListener, address, is_refused, socket};
use gateway::traffic::{echo_tcp, echo_udp, udp_client};

const PUBLISHED: &str = "2001:db8::10";

/// The world with an endpoint in a network of IPv4 only.
fn world(test: &str) -> Beyond {
    Beyond::new(test, |config| {
        config
            + r#"
[endpoint.old]
attach = { netns = "PREFIXold", create = true }
publish = ["8088:80", "5388:53/udp"]
network = [{ name = "old", ip = "10.3.0.10" }]
"#
    })
}

fn listening(port: u16) -> SocketAddr {
    socket("10.3.0.10", port)
}

#[test]
fn streams_and_datagrams_of_all_sizes_pass_between_the_families() {
    let mut world = world("families");
    let old = world.path("old");
    // From the link, from behind a router and a narrower link, and from another network.
    for (client, sizes) in [
        ("outside", &[1, 64, 512, 1_200, 1_232, 1_400, 1_452, 4_000, 8_192][..]),
        ("far", &[1, 64, 512, 1_200, 1_232][..]),
        ("app", &[1, 64, 512, 1_200, 1_232, 1_400, 1_452, 4_000, 8_192][..]),
    ] {
        let path = world.path(client);
        let published = |port| socket(PUBLISHED, port);
        let seen = echo_tcp((&old, listening(80)), (&path, published(8_088)), 500_000).unwrap();
        assert_eq!(seen, address("10.3.0.1"), "{client}: the server sees the gateway");
        let seen = echo_udp((&old, listening(53)), (&path, published(5_388)), sizes).unwrap();
        assert_eq!(seen, address("10.3.0.1"), "{client}");
    }
    // A reply of 1,500 bytes that may not be fragmented has 1,520 in IPv6: the first is lost, its
    // sender is told 1,480, and the next one comes.
    let path = world.path("outside");
    let again = || {
        let asked = socket(PUBLISHED, 5_388);
        echo_udp((&old, listening(53)), (&path, asked), &[1_472])
    };
    again().unwrap_err();
    again().unwrap();
    let flows = Command::new(PROGRAM)
        .args(["show", "flows", "--socket"])
        .arg(world.scratch.socket())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&flows.stdout).into_owned();
    assert!(text.contains("2001:db8::1") && text.contains("10.3.0.1"), "{text}");
    world.daemon.wait_for("the mapping in the log", |line| {
        line.contains("ipv6 client of an ipv4-only endpoint")
            && line.contains("client=[2001:db8::1]")
            && line.contains("seen_as=10.3.0.1")
    });
    world.end();
}

#[test]
fn a_refusal_crosses_the_families() {
    let world = world("refusal");
    for client in ["outside", "far", "app"] {
        let path = world.path(client);
        let listener = IcmpListener::new(&path, true);
        let asking = udp_client(&path, socket(PUBLISHED, 5_388)).unwrap();
        assert!(is_refused(&asking), "{client} is told");
        assert_eq!(listener.error(), Some((1, 4, address(PUBLISHED))));
    }
    world.end();
}
