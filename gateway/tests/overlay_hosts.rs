//! What README.md says of a network between two hosts, as it stands there: the two examples, each
//! on a host of its own, and the routes between them.
//!
//! ```text
//! web -- [198.18.1.10] portolan0 -- 192.0.2.1 -- eth0 ==
//!                                 == eth0 -- 192.0.2.2 -- portolan0 [198.18.2.10] -- db
//! ```
//!
//! Needs root, and `nft` for the hosts' sides; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;

use gateway::netns::Namespace;
use gateway::traffic::echo_tcp;

use common::Scratch;
use common::host::start_on;
use common::tunnels::{at, check_all, ip, wait_for_ping};

const EXAMPLES: [&str; 2] = [
    include_str!("../../examples/overlay-peers.toml"),
    include_str!("../../examples/overlay-peers-second.toml"),
];

const README: &str = include_str!("../../README.md");

#[test]
fn the_two_examples_are_a_network_on_two_hosts() {
    let scratches = ["first", "second"].map(|test| Scratch::new(&format!("{test}-")));
    let hosts =
        scratches.each_ref().map(|scratch| Namespace::create(&scratch.name("host")).unwrap());
    let second = scratches[1].name("host");
    ip(hosts[0].path(), &format!("ip link add eth0 type veth peer name eth0 netns {second}"));
    for (host, own) in hosts.iter().zip(["192.0.2.1", "192.0.2.2"]) {
        ip(
            host.path(),
            &format!(
                "ip link set lo up
                 ip addr add {own}/24 dev eth0
                 ip link set eth0 up"
            ),
        );
    }
    let routes = README.lines().filter(|line| line.starts_with("ip route add 198.18."));
    let routes: Vec<&str> = routes.collect();
    assert_eq!(routes.len(), 2, "README.md has one for each host");
    let mut daemons = Vec::new();
    for (index, (host, scratch)) in hosts.iter().zip(&scratches).enumerate() {
        ip(host.path(), routes[index]);
        let name = ["\"web\"", "\"db\""][index];
        let text = EXAMPLES[index].replace(name, &name.replacen('"', "\"PREFIX", 1));
        daemons.push(start_on(host, &scratch.config(&text)));
    }
    let (web, db) = (scratches[0].path("web"), scratches[1].path("db"));
    check_all((&web, "10.9.0.11"), (&db, "10.9.0.12"), 1_450);
    check_all((&web, "fd00:9::11"), (&db, "fd00:9::12"), 1_450);
    // The other host asks at the port that is published here, and db leaves by its own gateway.
    let server = (&*web, at("0.0.0.0", 80));
    let seen = echo_tcp(server, (hosts[1].path(), at("192.0.2.1", 8_080)), 100_000).unwrap();
    assert_eq!(seen, "192.0.2.2".parse::<IpAddr>().unwrap());
    wait_for_ping(&db, "192.0.2.1");
    let server = at("192.0.2.1", 5_305);
    let seen = echo_tcp((hosts[0].path(), server), (&db, server), 100_000).unwrap();
    assert_eq!(seen, "198.18.2.10".parse::<IpAddr>().unwrap(), "masqueraded");
    daemons.iter_mut().for_each(|daemon| assert!(daemon.terminate().success()));
}
