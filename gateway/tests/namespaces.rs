//! Namespaces and netlink on the real kernel. Needs root; does not skip without it.

use gateway::netlink::{LinkSettings, Netlink};
use gateway::netns::{self, Namespace};

fn name_of(test: &str) -> String {
    format!("pgt-{}-{test}", std::process::id())
}

#[test]
fn a_namespace_that_we_made_is_listed_entered_and_removed() {
    let name = name_of("made");
    let namespace = Namespace::create(&name).unwrap();
    assert!(netns::exists(&name) && namespace.is_made());
    let inside =
        netns::within(namespace.path(), || std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(inside.unwrap(), std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    let error = Namespace::create(&name).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    drop(namespace);
    assert!(!netns::exists(&name));
}

#[test]
fn a_namespace_that_we_opened_stays() {
    let name = name_of("opened");
    let made = Namespace::create(&name).unwrap();
    drop(Namespace::open(&name).unwrap());
    assert!(netns::exists(&name));
    drop(made);
    assert!(Namespace::open(&name).is_err());
}

#[test]
fn links_addresses_and_routes_are_set_inside_a_namespace() {
    let namespace = Namespace::create(&name_of("links")).unwrap();
    let netlink = Netlink::open(Some(namespace.path())).unwrap();
    assert_eq!(netlink.link_names().unwrap(), ["lo"]);
    assert_eq!(netlink.link_index("lo").unwrap(), Some(1));
    assert_eq!(netlink.link_index("eth7").unwrap(), None);
    let up = LinkSettings { up: true, mtu: Some(9000), ..LinkSettings::default() };
    netlink.set_link("lo", up).unwrap();
    for address in ["10.200.0.1/24", "fd77::1/64"] {
        netlink.add_address("lo", address.parse().unwrap()).unwrap();
    }
    let via = |text: &str| Some(text.parse().unwrap());
    netlink.add_route("lo", "0.0.0.0/0".parse().unwrap(), via("10.200.0.9")).unwrap();
    netlink.add_route("lo", "10.201.0.0/24".parse().unwrap(), None).unwrap();
    let bound = netns::within(namespace.path(), || {
        std::net::UdpSocket::bind("[fd77::1]:0").map(|socket| socket.local_addr().unwrap())
    });
    assert!(bound.unwrap().is_ok(), "an IPv6 address is usable at once");
}

#[test]
fn an_error_says_what_on_which_device_and_where() {
    let namespace = Namespace::create(&name_of("errors")).unwrap();
    let netlink = Netlink::open(Some(namespace.path())).unwrap();
    let error = netlink.set_link("eth7", LinkSettings::default()).unwrap_err().to_string();
    assert!(error.contains("eth7") && error.contains("errors"), "{error}");
    let route = "10.201.0.0/24".parse().unwrap();
    let error = netlink.add_route("lo", route, Some("10.0.0.1".parse().unwrap())).unwrap_err();
    assert!(error.to_string().contains("10.201.0.0/24 via 10.0.0.1"), "{error}");
}
