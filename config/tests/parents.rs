//! Macvlan and ipvlan networks: what a file may say about them, and what it compiles to.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use config::{Config, IpvlanFlag, IpvlanMode, LinkMode, MacvlanMode, compile, recompile};
use engine::tables::{Between, Direct, GatewayMode, PortKind, VlanTag};
use engine::{Tables, UplinkId};

const START: &str = r#"
[uplink.wan]
driver = "tap"
interface = "eth0"
netns = "outside"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.2/24"]
gateway = "192.0.2.1"
"#;

const MEMBER: &str = r#"
[endpoint.one]
attach = { netns = "one" }
network = [{ name = "lan" }]
"#;

fn lan(keys: &str) -> String {
    format!("{START}[network.lan]\n{}\n{MEMBER}", keys.replace("; ", "\n"))
}

fn parse(keys: &str) -> Config {
    Config::parse("x.toml", &lan(keys)).unwrap_or_else(|found| panic!("{keys}: {found:?}"))
}

fn refusals(text: &str) -> Vec<String> {
    let found = Config::parse("x.toml", text).unwrap_err();
    found.iter().map(|one| format!("{}: {}", one.path, one.message)).collect()
}

fn tables(keys: &str) -> Tables {
    let config = parse(keys);
    let tables = compile(&config, None);
    let text = config.to_toml();
    let again = Config::parse("resolved.toml", &text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    assert_eq!(again.to_toml(), text, "resolved once is resolved twice");
    assert_eq!(again.networks, config.networks);
    tables
}

fn direct(keys: &str) -> Direct {
    tables(keys).networks[0].as_ref().unwrap().direct.unwrap()
}

const SUBNET: &str = "subnet = \"192.0.2.0/24\"";

#[test]
fn modes_say_how_members_reach_each_other_and_what_the_wire_sees() {
    let cases = [
        ("macvlan\"", Between::Straight, false, false),
        ("macvlan\"; mode = \"bridge\"", Between::Straight, false, false),
        ("macvlan\"; mode = \"private\"", Between::Never, false, false),
        ("macvlan\"; mode = \"vepa\"", Between::ByWire, false, false),
        ("macvlan\"; mode = \"passthru\"", Between::Straight, false, true),
        ("ipvlan\"", Between::Straight, true, false),
        ("ipvlan\"; mode = \"l2\"; flag = \"private\"", Between::Never, true, false),
        ("ipvlan\"; flag = \"vepa\"", Between::ByWire, true, false),
    ];
    for (keys, between, shares_mac, is_whole) in cases {
        let own = direct(&format!("driver = \"{keys}; {SUBNET}"));
        assert_eq!((own.between, own.shares_mac, own.is_whole), (between, shares_mac, is_whole));
        assert_eq!((own.uplink, own.tag), (UplinkId(0), None));
    }
}

#[test]
fn a_parent_is_an_uplink_or_its_interface_and_perhaps_a_vlan() {
    for (parent, tag) in [
        ("parent = \"wan\"", None),
        ("uplink = \"wan\"", None),
        ("parent = \"eth0\"", None),
        ("parent = \"wan.100\"", Some(VlanTag(100))),
        ("parent = \"eth0.4094\"", Some(VlanTag(4_094))),
        ("parent = \"wan\"; vlan = 7", Some(VlanTag(7))),
    ] {
        let subnet = if tag.is_none() { SUBNET } else { "subnet = \"10.7.0.0/24\"" };
        assert_eq!(
            direct(&format!("driver = \"macvlan\"; {parent}; {subnet}")).tag,
            tag,
            "{parent}"
        );
    }
}

#[test]
fn addresses_of_others_on_the_link_are_not_given_to_members() {
    let config = parse(&format!("driver = \"macvlan\"; {SUBNET}; ip_range = \"192.0.2.0/28\""));
    let own = &config.endpoint("one").unwrap().attachments[0];
    // .1 is the router, .2 the kernel's end; .10 would be the gateway.
    assert_eq!(own.ipv4_address(), Some("192.0.2.3".parse().unwrap()));
    assert_eq!(own.default_route_v4, Some("192.0.2.1".parse::<IpAddr>().unwrap()));
    let text = lan(&format!("driver = \"macvlan\"; {SUBNET}"));
    let text = text.replace("{ name = \"lan\" }", "{ name = \"lan\", ip = \"192.0.2.10\" }");
    assert!(refusals(&text)[0].contains("192.0.2.10"), "{:?}", refusals(&text));
}

#[test]
fn layer_3_is_a_routed_network_without_a_link() {
    for (mode, unfiltered) in [("l3", true), ("l3s", false)] {
        let keys = format!("driver = \"ipvlan\"; mode = \"{mode}\"; subnet = \"10.7.0.0/24\"");
        let tables = tables(&keys);
        let network = tables.networks[0].as_ref().unwrap();
        assert!(network.routed_only && network.direct.is_none() && !network.masquerade);
        assert_eq!((network.unfiltered, network.mode), (unfiltered, GatewayMode::NatUnprotected));
        let config = parse(&keys);
        let own = &config.endpoint("one").unwrap().attachments[0];
        assert_eq!(own.default_route_v4, Some("0.0.0.0".parse::<IpAddr>().unwrap()));
    }
    let config = parse("driver = \"ipvlan\"; mode = \"l3s\"; masquerade = true");
    assert!(config.network("lan").unwrap().masquerade);
    let mode = config.network("lan").unwrap().parent.as_ref().unwrap().mode;
    assert_eq!(mode, LinkMode::Ipvlan(IpvlanMode::L3s, IpvlanFlag::Bridge));
}

#[test]
fn what_is_untagged_is_noted_at_its_uplink_and_the_wire_has_a_port() {
    let tables = tables(&format!("driver = \"macvlan\"; {SUBNET}"));
    let (network, uplink) = (tables.networks[0].as_ref().unwrap(), tables.uplinks[0].as_ref());
    assert_eq!(uplink.unwrap().link, Some(network.id));
    assert_eq!(network.gateway_mac, uplink.unwrap().mac, "one gateway, one address");
    let trunk = network.direct.unwrap().trunk;
    assert_eq!(tables.port(trunk).unwrap().kind, PortKind::Lane(network.id));
    assert_eq!(tables.port(trunk).unwrap().name, "wire:lan");
    assert!(network.members.contains(&trunk) && network.endpoint_count() == 1);
    assert!(network.subnets.is_empty(), "what is on the link is not the gateway's to route");
}

#[test]
fn a_reload_says_what_a_start_says() {
    let running = parse(&format!("driver = \"macvlan\"; {SUBNET}"));
    let tables = compile(&running, None);
    let mut next = parse(&format!("driver = \"macvlan\"; mode = \"vepa\"; {SUBNET}"));
    let new = recompile(&running, &tables, &mut next);
    let own = new.networks[0].as_ref().unwrap();
    assert_eq!(own.direct.unwrap().between, Between::ByWire);
    assert_eq!(
        own.direct.unwrap().trunk,
        tables.networks[0].as_ref().unwrap().direct.unwrap().trunk
    );
    assert_eq!(own.epoch, new.generation);
    let mode = next.network("lan").unwrap().parent.as_ref().unwrap().mode;
    assert_eq!(mode, LinkMode::Macvlan(MacvlanMode::Vepa));
}

#[test]
fn an_uplink_needs_no_address_where_networks_are_on_its_link() {
    let text = lan(&format!("driver = \"macvlan\"; {SUBNET}"));
    let none = |text: &str| {
        let text = text.replace("[\"192.0.2.10/24\", \"2001:db8::10/64\"]", "[]");
        text.replace("gateway = \"192.0.2.1\"\n", "")
    };
    assert!(Config::parse("x.toml", &none(&text)).is_ok());
    let bridged = none(&text.replace("macvlan", "bridge"));
    assert!(refusals(&bridged)[0].contains("an uplink has at least one address of its own"));
}

#[test]
fn faults_are_refused_in_dockers_words_where_docker_has_them() {
    let cases = [
        (
            "driver = \"macvlan\"; parent = \"lo\"",
            "loopback interface is not a valid macvlan parent link",
        ),
        (
            "driver = \"ipvlan\"; parent = \"lo\"",
            "loopback interface is not a valid ipvlan parent link",
        ),
        (
            "driver = \"macvlan\"; mode = \"x\"",
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            "driver = \"ipvlan\"; mode = \"l9\"",
            "requested ipvlan mode 'l9' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (
            "driver = \"ipvlan\"; flag = \"x\"",
            "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default",
        ),
        ("driver = \"macvlan\"; parent = \"lan0\"", "there is no uplink \"lan0\""),
        ("driver = \"macvlan\"; parent = \"wan.4095\"", "\"4095\" is no VLAN's number: 1 to 4094"),
        ("driver = \"macvlan\"; parent = \"wan.x\"", "\"x\" is no VLAN's number: 1 to 4094"),
        ("driver = \"macvlan\"; vlan = 0", "0 is out of bounds: 1 to 4094"),
        ("driver = \"macvlan\"; parent = \"wan.5\"; vlan = 6", "the parent names a VLAN already"),
        (
            "driver = \"macvlan\"; parent = \"wan\"; uplink = \"wan\"",
            "parent and uplink exclude each other",
        ),
        ("driver = \"macvlan\"; icc = false", "a network of driver macvlan has no such key"),
        ("driver = \"macvlan\"; internal = true", "a network of driver macvlan has no such key"),
        ("driver = \"macvlan\"; flag = \"vepa\"", "only an ipvlan network has a flag"),
        (
            "driver = \"ipvlan\"; mode = \"l3\"; masquerade = true",
            "a network of driver ipvlan and mode l3 has no such key",
        ),
        ("driver = \"ipvlan\"; mode = \"l3\"; flag = \"vepa\"", "a routed network has no flag"),
        ("driver = \"ipvlan\"; mode = \"l3\"; vlan = 5", "a routed network has no VLAN"),
        (
            "driver = \"macvlan\"; mtu = 9000",
            "9000 bytes do not fit onto the parent's link, 1500 do",
        ),
        ("parent = \"wan\"", "only a macvlan or ipvlan network has such a key"),
    ];
    for (keys, message) in cases {
        let found = refusals(&lan(keys));
        assert!(found.iter().any(|one| one.ends_with(message)), "{keys}: {found:?}");
    }
    let two = format!(
        "{}[network.other]\ndriver = \"ipvlan\"\nsubnet = \"10.7.0.0/24\"\n",
        lan(&format!("driver = \"macvlan\"; {SUBNET}"))
    );
    let message = "network.other: network lan is already using parent interface wan";
    assert_eq!(refusals(&two), [message]);
    let two = format!(
        "{}{}",
        lan(&format!("driver = \"macvlan\"; mode = \"passthru\"; {SUBNET}")),
        MEMBER.replace("one", "two")
    );
    let message = "network lan is of mode passthru and has one member, one: two cannot be in it";
    assert!(refusals(&two)[0].ends_with(message), "{:?}", refusals(&two));
    let none = "[network.lan]\ndriver = \"macvlan\"\nsubnet = \"192.0.2.0/24\"\n";
    assert_eq!(refusals(none), ["network.lan: a network of driver macvlan needs an uplink"]);
}

#[test]
fn publishing_has_no_effect_and_that_is_said() {
    let text = lan(&format!("driver = \"macvlan\"; {SUBNET}"));
    let text = text.replace("network = [", "publish = [\"80\"]\nnetwork = [");
    let config = Config::parse("x.toml", &text).unwrap();
    assert!(config.endpoint("one").unwrap().publish.is_empty());
    let warned: Vec<&str> = config.warnings.iter().map(|one| &*one.message).collect();
    assert_eq!(warned, ["publishing has no effect in network lan"]);
}
