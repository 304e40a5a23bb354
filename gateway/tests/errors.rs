//! ICMP errors through the gateway, with real kernels at every end: what `traceroute` shows, what
//! path MTU discovery finds, and that a refusal is heard.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::beyond::{
    Beyond, FAMILIES, Family, IcmpListener, NARROW_MTU, address, is_refused, socket, trace_route,
};
use gateway::traffic::{echo_tcp, udp_client};

fn exceeded(family: &Family) -> (u8, u8) {
    if family.v6 { (3, 0) } else { (11, 0) }
}

fn unreachable(family: &Family) -> (u8, u8) {
    if family.v6 { (1, 4) } else { (3, 3) }
}

#[test]
fn a_traced_route_shows_the_hops_behind_the_gateway() {
    let world = Beyond::new("trace", |config| config);
    for family in &FAMILIES {
        let hops = trace_route(&world.path("web"), address(family.far));
        let (late, closed) = (exceeded(family), unreachable(family));
        let expected = [
            (late.0, late.1, address(family.inside)),
            (late.0, late.1, address(family.router)),
            (closed.0, closed.1, address(family.far)),
        ];
        assert_eq!(hops, expected);
        // And with echo requests, as `ping -t` sends them.
        let (answered, text) = world.ping("web", &["-c", "1", "-t", "2", family.far]);
        let said = text.contains(&format!("From {}", family.router))
            && (text.contains("Time to live exceeded") || text.contains("Hop limit"));
        assert!(!answered && said, "{text}");
    }
    world.end();
}

#[test]
fn path_mtu_discovery_works_across_masquerade() {
    let world = Beyond::new("pmtu", |config| config);
    for family in &FAMILIES {
        // 1,400 bytes leave the gateway and do not fit the link behind the router.
        let arguments = ["-c", "3", "-M", "do", "-s", "1350", family.far];
        let (answered, text) = world.ping("web", &arguments);
        let mtu = NARROW_MTU.to_string();
        assert!(!answered && text.contains(&mtu), "{text}");
        let (web, far) = (world.path("web"), world.path("far"));
        let server = socket(family.far, 80);
        // Half a megabyte there and back: full segments, which must shrink on the way there.
        let seen = echo_tcp((&far, server), (&web, server), 500_000).unwrap();
        assert_eq!(seen, address(family.own));
    }
    world.end();
}

#[test]
fn path_mtu_discovery_works_from_a_published_port() {
    let world = Beyond::new("pmtu-published", |config| config);
    for family in &FAMILIES {
        let (web, far) = (world.path("web"), world.path("far"));
        let (listening, published) = (socket(family.web, 80), socket(family.own, 8_080));
        let seen = echo_tcp((&web, listening), (&far, published), 500_000).unwrap();
        assert_eq!(seen, address(family.far));
    }
    world.end();
}

#[test]
fn a_closed_port_of_an_endpoint_refuses_askers_from_everywhere() {
    let world = Beyond::new("refuse", |config| config);
    for family in &FAMILIES {
        // Outside, behind a router, in another network, and in its own.
        for asker in ["outside", "far", "app", "db"] {
            let path = world.path(asker);
            let listener = IcmpListener::new(&path, family.v6);
            let client = udp_client(&path, socket(family.own, 5_353)).unwrap();
            assert!(is_refused(&client), "{asker} is told");
            let (kind, code) = unreachable(family);
            let expected = Some((kind, code, address(family.own)));
            assert_eq!(listener.error(), expected, "{asker} hears the published address");
        }
        // And what is masqueraded hears the destination itself.
        let path = world.path("db");
        let listener = IcmpListener::new(&path, family.v6);
        let client = udp_client(&path, socket(family.far, 9)).unwrap();
        assert!(is_refused(&client));
        let (kind, code) = unreachable(family);
        assert_eq!(listener.error(), Some((kind, code, address(family.far))));
    }
    world.end();
}
