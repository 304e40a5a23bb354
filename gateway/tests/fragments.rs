//! Fragments through the gateway, with real kernels at every end: large echo requests and UDP of
//! 8 KiB, masqueraded and to published ports.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::thread;

use common::beyond::{Beyond, FAMILIES, address, socket};
use gateway::traffic::echo_udp;

/// Payloads around one packet, two packets, and the 8 KiB that NFS and DNS resolvers like.
const SIZES: [usize; 6] = [1, 1_473, 2_952, 4_000, 8_192, 32_000];

/// Has a namespace find the path's MTU: of IPv6 the first packet that is too big is lost.
fn find_path_mtu(world: &Beyond, namespace: &str, target: &str) {
    let (answered, text) = world.ping(namespace, &["-c", "3", "-i", "0.2", "-s", "8000", target]);
    assert!(answered, "{text}");
}

#[test]
fn large_echo_requests_pass_through_masquerade() {
    let world = Beyond::new("ping8000", |config| config);
    for family in &FAMILIES {
        for target in [family.router, family.far] {
            let (answered, text) =
                world.ping("web", &["-c", "3", "-i", "0.2", "-s", "8000", target]);
            assert!(answered, "{text}");
        }
    }
    world.end();
}

#[test]
fn large_datagrams_pass_through_masquerade_and_to_published_ports() {
    let world = Beyond::new("udp8k", |config| config);
    for family in &FAMILIES {
        let (web, far, outside) = (world.path("web"), world.path("far"), world.path("outside"));
        find_path_mtu(&world, "web", family.far);
        for (server, at) in [(&outside, family.router), (&far, family.far)] {
            let at = socket(at, 9_000);
            let seen = echo_udp((server, at), (&web, at), &SIZES).unwrap();
            assert_eq!(seen, address(family.own), "masqueraded");
        }
        let (listening, published) = (socket(family.web, 53), socket(family.own, 5_353));
        for (client, own) in [(&outside, family.router), (&far, family.far)] {
            let seen = echo_udp((&web, listening), (client, published), &SIZES).unwrap();
            assert_eq!(seen, address(own));
        }
        // The hairpin and another network, too.
        for client in ["db", "app"] {
            let client = world.path(client);
            echo_udp((&web, listening), (&client, published), &SIZES).unwrap();
        }
    }
    world.end();
}

#[test]
fn datagrams_of_two_hosts_are_not_mixed_up() {
    let world = Beyond::new("mixed", |config| config);
    for family in &FAMILIES {
        let far = world.path("far");
        for name in ["web", "db"] {
            find_path_mtu(&world, name, family.far);
        }
        // Two members ask one server at once, each for 40 datagrams of 8 KiB: what is put together
        // of two comes back different.
        thread::scope(|scope| {
            for (name, port) in [("web", 9_001), ("db", 9_002)] {
                let (far, client) = (&far, world.path(name));
                scope.spawn(move || {
                    let server = socket(family.far, port);
                    echo_udp((far, server), (&client, server), &[8_192; 40]).unwrap();
                });
            }
        });
    }
    world.end();
}
