//! Every file in `examples/` is a config that is accepted, and the larger one compiles to what its
//! comments promise.

use std::path::{Path, PathBuf};

use config::{Attach, Config, compile};
use engine::tables::{PortKind, Protocol};
use engine::{NetworkId, PortId, UplinkId};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn load(name: &str) -> Config {
    Config::load(&folder().join(name)).unwrap_or_else(|found| panic!("{name}: {found:#?}"))
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let config = Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}"));
            assert!(config.warnings.is_empty(), "{:?}", config.warnings);
            compile(&config, None);
            count += 1;
        }
    }
    assert!(count >= 2, "found {count} examples");
}

#[test]
fn the_minimal_example_allocates_the_lowest_free_addresses() {
    let config = load("minimal.toml");
    let of = |name: &str| config.endpoint(name).unwrap().attachments[0].clone();
    assert_eq!(of("alice").ipv4.unwrap().to_string(), "10.1.0.2/24");
    assert_eq!(of("bob").ipv4.unwrap().to_string(), "10.1.0.3/24");
    assert_eq!(of("bob").mac.to_string(), "02:42:0a:01:00:03");
    assert_eq!(of("bob").interface.as_str(), "eth0");
    assert_eq!(of("bob").default_route_v4, Some("10.1.0.1".parse().unwrap()));
    assert_eq!(of("bob").default_route_v6, None);
}

#[test]
fn the_two_networks_example_says_what_to_set_up() {
    let config = load("two-networks.toml");
    let wan = config.uplink("wan").unwrap();
    assert_eq!(wan.netns.as_ref().unwrap().as_str(), "outside");
    assert!(wan.create_netns);
    assert_eq!(wan.mac.to_string(), "02:42:c0:00:02:0a");
    assert_ne!(wan.mac, wan.host_mac);
    assert_eq!(wan.routes.len(), 2);
    let web = config.endpoint("web").unwrap();
    let Attach::Netns { netns, create } = &web.attach else { panic!("web has a namespace") };
    assert_eq!((netns.as_str(), *create), ("web", true));
    let [front, back] = web.attachments.as_slice() else { panic!("web is in two networks") };
    assert_eq!((front.interface.as_str(), back.interface.as_str()), ("eth0", "eth1"));
    assert_eq!(front.default_route_v4, Some("10.1.0.1".parse().unwrap()));
    assert_eq!(front.default_route_v6, Some("fd00:1::1".parse().unwrap()));
    assert_eq!((back.default_route_v4, back.default_route_v6), (None, None));
    assert_eq!(back.ipv6.unwrap().to_string(), "fd00:2::2/64");
    let db = &config.endpoint("db").unwrap().attachments[0];
    assert_eq!(db.ipv4.unwrap().to_string(), "10.2.0.3/24");
}

#[test]
fn the_two_networks_example_compiles_to_tables() {
    let tables = compile(&load("two-networks.toml"), None);
    assert_eq!(tables.generation, 1);
    let names: Vec<&str> = tables.ports.iter().flatten().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["wan", "web/front", "web/back", "app/front", "db/back"]);
    assert_eq!(tables.port(PortId(0)).unwrap().kind, PortKind::Uplink(UplinkId(0)));
    let front = tables.network(NetworkId(0)).unwrap();
    assert_eq!(front.members, [PortId(1), PortId(3)]);
    assert_eq!(front.by_address[&"10.1.0.10".parse::<std::net::IpAddr>().unwrap()], PortId(1));
    assert_eq!(front.by_address[&"fd00:1::2".parse::<std::net::IpAddr>().unwrap()], PortId(3));
    assert_eq!(front.by_mac.len(), 2);
    assert_eq!(front.uplink, Some(UplinkId(0)));
    assert_eq!(front.gateway_mac.to_string(), "02:42:0a:01:00:01");
    assert_eq!(tables.network(NetworkId(1)).unwrap().uplink, None);
    let own = "192.0.2.10".parse().unwrap();
    let found = tables.publish.by_host(own, Protocol::Tcp.number(), 8080).unwrap();
    assert_eq!((found.target.to_string().as_str(), found.port), ("10.1.0.10", PortId(1)));
    let own = "2001:db8::10".parse().unwrap();
    let found = tables.publish.by_host(own, Protocol::Udp.number(), 5353).unwrap();
    assert_eq!(found.target.to_string(), "fd00:1::10");
    let route = |to: &str| tables.routes.to(to.parse().unwrap()).unwrap().via;
    assert_eq!(route("198.51.100.1"), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(route("2001:db8:1::1"), Some("2001:db8::1".parse().unwrap()));
    assert_eq!(route("192.0.2.77"), None);
}
