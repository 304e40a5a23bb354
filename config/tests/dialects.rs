//! The dialects CNI, Docker and DC/OS: rules with their messages and paths, and what files come to.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod refused;

use std::path::{Path, PathBuf};

use config::Dialect::{Cni, Dcos, Docker, Native};
use config::{
    Config, Dialect, IpvlanFlag, IpvlanMode, LinkMode, MacvlanMode, Severity, check_dialect,
    convert,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn example(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn settings(set: &[&str]) -> Vec<String> {
    set.iter().map(|&one| one.to_owned()).collect()
}

fn of_severity(found: &[config::Diagnostic], severity: Severity) -> Vec<String> {
    let found = found.iter().filter(|one| one.severity == severity);
    found.map(|one| format!("{}: {}", one.path, one.message)).collect()
}

/// Errors as `path: message`.
fn errors(dialect: Dialect, text: &str) -> Vec<String> {
    match check_dialect(dialect, "x", text, &[]) {
        Ok(_) => Vec::new(),
        Err(found) => of_severity(&found, Severity::Error),
    }
}

/// Checks a list: each file has the one error that stands below it.
fn assert_refused(dialect: Dialect, name: &str, least: usize) {
    let cases = refused::cases(name);
    assert!(cases.len() >= least, "{name} has {} cases", cases.len());
    for (text, message) in cases {
        assert_eq!(errors(dialect, &text), [message], "{text}");
    }
}

/// Errors of a conversion to native.
fn lost(dialect: Dialect, text: &str) -> Vec<String> {
    let converted = convert(dialect, Native, "x", text, &[]).unwrap();
    of_severity(&converted.warnings, Severity::Warning)
}

fn native(dialect: Dialect, text: &str, set: &[&str]) -> Config {
    let converted = convert(dialect, Native, "x", text, &settings(set));
    let converted = converted.unwrap_or_else(|found| panic!("{found:#?}"));
    Config::parse("x.toml", &converted.text)
        .unwrap_or_else(|found| panic!("{found:#?}\n{}", converted.text))
}

#[test]
fn every_example_is_valid_and_becomes_a_config() {
    let cases = [
        (Cni, "cni/dcos.json", &[][..]),
        (Cni, "cni/front.conflist", &[]),
        (Cni, "cni/macvlan.conf", &[]),
        (Cni, "cni/ipvlan.conf", &["uplink_address=192.0.2.10/24", "uplink_gateway=192.0.2.1"]),
        (Cni, "cni/vlan.conf", &[]),
        (Docker, "docker/inspect-macvlan.json", &[]),
        (Docker, "docker/inspect-1.10.json", &[]),
        (Docker, "docker/inspect.json", &[]),
        (Docker, "docker/inspect-overlay.json", &["node_ip=192.0.2.31"]),
        (Docker, "docker/compose.yaml", &[]),
        (Dcos, "dcos/config.yaml", &["agent_index=1"]),
        (Dcos, "dcos/config.yaml", &["agent_index=0", "agent_hosts=192.0.2.31,192.0.2.32"]),
        (Dcos, "dcos/agent.json", &[]),
        (Dcos, "dcos/master.json", &["agent_ip=192.0.2.31"]),
    ];
    for (dialect, name, set) in cases {
        let text = example(name);
        assert_eq!(errors(dialect, &text), [""; 0], "{name}");
        let config = native(dialect, &text, set);
        let resolved = config.to_toml();
        let again = convert(Native, Native, "x", &resolved, &[]).unwrap().text;
        assert_eq!(again, resolved, "{name}: native to native changes nothing");
    }
}

/// A list whose first plugin has these keys besides those that it needs.
fn bridge(keys: Value) -> Value {
    let mut plugin = json!({ "type": "bridge", "ipam": {
        "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }]] } });
    plugin.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [plugin] })
}

#[test]
fn cni_configurations_are_refused_in_the_words_of_the_plugins() {
    assert_refused(Cni, "cni.txt", 32);
}

#[test]
fn every_version_of_cni_is_read() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut list = bridge(json!({}));
        list["cniVersion"] = json!(version);
        assert_eq!(errors(Cni, &list.to_string()), [""; 0], "{version}");
    }
    let plain = json!({ "name": "n", "type": "bridge" });
    assert_eq!(errors(Cni, &plain.to_string()), [""; 0]);
}

#[test]
fn a_cni_network_is_a_native_one() {
    let text = native(Cni, &example("cni/dcos.json"), &[]).to_toml();
    for line in [
        "[network.dcos]",
        "subnets = [\"9.0.1.0/25\"]",
        "masquerade = false",
        "mtu = \
        1420",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let config = native(Cni, &example("cni/front.conflist"), &[]);
    let text = config.to_toml();
    assert!(text.contains("subnets = [\"10.88.0.0/16\", \"fd00:88::/64\"]"), "{text}");
    // What is out of the range is not allocated.
    for prefix in ["10.88.0.0/24", "10.88.2.0/23", "10.88.128.0/17"] {
        assert!(text.contains(prefix), "{prefix} in {text}");
    }
    assert!(!text.contains("10.88.1."), "{text}");
}

#[test]
fn what_a_cni_network_loses_is_said() {
    let mut list = bridge(json!({ "vlan": 5, "dns": { "nameservers": ["10.1.0.1"] } }));
    list["plugins"][0]["ipam"]["routes"] = json!([{ "dst": "10.9.0.0/16" }]);
    for plugin in [
        json!({ "type": "bandwidth", "ingressRate": 1, "ingressBurst": 1 }),
        json!({ "type": "tuning", "mtu": 1400 }),
        json!({ "type": "firewall" }),
        json!({ "type": "sbr" }),
    ] {
        list["plugins"].as_array_mut().unwrap().push(plugin);
    }
    let mut said = lost(Cni, &list.to_string());
    said.sort();
    assert_eq!(
        said,
        [
            "plugins[0].dns: dns is not in this version",
            "plugins[0].ipam.routes[0].dst: a route of members to 10.9.0.0/16 is not in this \
                version",
            "plugins[0].ipam: members have no default route there, and one here",
            "plugins[0].vlan: vlan is not in this version",
            "plugins[0]: the bridge has no address there; the gateway has one here",
            "plugins[1].type: bandwidth: limits of bandwidth are not in this version",
            "plugins[2].type: tuning: sysctls and links' settings are left to the endpoint",
            "plugins[3].type: firewall: other networks reach members at published ports alone",
            "plugins[4].type: plugin \"sbr\" is not known here",
        ]
    );
}

/// The mode, the uplink and the VLAN of the only network.
fn parent(config: &Config) -> (LinkMode, &str, Option<u16>) {
    let parent = config.networks[0].parent.as_ref().unwrap();
    (parent.mode, &parent.uplink, parent.vlan)
}

#[test]
fn networks_on_the_link_of_a_device_are_carried_over() {
    let ipam = json!({ "type": "host-local", "subnet": "10.7.0.0/24" });
    let (macvlan, l2) = (LinkMode::Macvlan, IpvlanFlag::Bridge);
    let cni = [
        (json!({ "type": "macvlan", "master": "eth0" }), macvlan(MacvlanMode::Bridge), None),
        (
            json!({ "type": "macvlan", "master": "eth0.5", "mode": "vepa" }),
            macvlan(MacvlanMode::Vepa),
            Some(5),
        ),
        (
            json!({ "type": "ipvlan", "master": "eth0", "mode": "l3" }),
            LinkMode::Ipvlan(IpvlanMode::L3, l2),
            None,
        ),
        (
            json!({ "type": "vlan", "master": "eth0", "vlanId": 7 }),
            LinkMode::Ipvlan(IpvlanMode::L2, l2),
            Some(7),
        ),
    ];
    for (mut plugin, mode, vlan) in cni {
        plugin["name"] = "n".into();
        plugin["ipam"] = ipam.clone();
        let config = native(Cni, &plugin.to_string(), &[]);
        assert_eq!(parent(&config), (mode, "eth0", vlan));
        assert_eq!(config.networks[0].subnets[0].prefix.to_string(), "10.7.0.0/24");
    }
    let docker = [
        (
            "macvlan",
            json!({ "parent": "eth0.100", "macvlan_mode": "private" }),
            macvlan(MacvlanMode::Private),
            Some(100),
        ),
        (
            "ipvlan",
            json!({ "parent": "eth0", "ipvlan_mode": "l2", "ipvlan_flag": "vepa" }),
            LinkMode::Ipvlan(IpvlanMode::L2, IpvlanFlag::Vepa),
            None,
        ),
        (
            "ipvlan",
            json!({ "parent": "eth0", "ipvlan_mode": "l3s" }),
            LinkMode::Ipvlan(IpvlanMode::L3s, l2),
            None,
        ),
    ];
    let pool = json!({ "Config": [{ "Subnet": "10.7.0.0/24", "Gateway": "10.7.0.1" }] });
    for (driver, options, mode, vlan) in docker {
        let keys = json!({ "Driver": driver, "Options": options, "IPAM": pool });
        let config = native(Docker, &network(keys).to_string(), &[]);
        assert_eq!(parent(&config), (mode, "eth0", vlan));
    }
    // Without a parent it leads nowhere.
    let keys = json!({ "Driver": "macvlan", "IPAM": pool });
    let config = native(Docker, &network(keys).to_string(), &[]);
    assert!(config.networks[0].parent.is_none() && config.networks[0].internal);
    let keys = json!({ "Driver": "ipvlan", "Options": { "ipvlan_flag": "x" }, "IPAM": pool });
    let message = "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default";
    assert!(errors(Docker, &network(keys).to_string())[0].ends_with(message));
}

/// A network as it is inspected, with these keys.
fn network(keys: Value) -> Value {
    let mut network = json!({ "Name": "n", "Driver": "bridge", "IPAM": { "Config": [] } });
    network.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!([network])
}

#[test]
fn docker_networks_are_refused_in_the_words_of_docker() {
    assert_refused(Docker, "docker-networks.txt", 25);
    let overlapping = json!([
        { "Name": "a", "Driver": "bridge", "IPAM": { "Config": [{ "Subnet": "10.1.0.0/16" }] } },
        { "Name": "b", "Driver": "bridge", "IPAM": { "Config": [{ "Subnet": "10.1.2.0/24" }] } },
    ]);
    assert_eq!(
        errors(Docker, &overlapping.to_string()),
        ["[1].IPAM.Config[0].Subnet: cannot create network b (br-): conflicts with network a \
          (br-): networks have overlapping IPv4"]
    );
}

#[test]
fn inspected_networks_are_native_ones_with_their_containers() {
    let config = native(Docker, &example("docker/inspect-1.10.json"), &[]);
    let text = config.to_toml();
    for part in [
        "[network.bridge]",
        "subnets = [\"172.17.0.0/16\"]",
        "gateways = [\"172.17.0.1\"]",
        "mtu = 9001",
        "[endpoint.3386a527aa08]",
        "ip = \"172.17.0.2\"",
        "02:42:ac:11:00:03",
        "netns = \"94447ca47985\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = native(Docker, &example("docker/inspect.json"), &["netns_prefix=c-"]).to_toml();
    for part in [
        "ip_ranges = [\"172.21.4.0/24\"",
        "router = \"172.21.0.5\"",
        "mtu = 1400",
        "[endpoint.container3]",
        "ip6 = \"fd00:21::2\"",
        "netns = \"c-container3\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn gateway_modes_are_those_of_the_families_that_a_network_has() {
    let label = |family: &str| format!("com.docker.network.bridge.gateway_mode_ipv{family}");
    for (v4, v6, has_v6, mode, said) in [
        ("routed", "", false, "routed", 0),
        ("nat", "routed", false, "nat", 0),
        ("", "routed", true, "nat", 1),
        ("routed", "routed", true, "routed", 0),
        ("nat-unprotected", "routed", true, "routed", 1),
        ("nat-unprotected", "nat-unprotected", true, "nat-unprotected", 0),
    ] {
        let options = json!({ label("4"): v4, label("6"): v6 });
        let text = network(json!({ "EnableIPv6": has_v6, "Options": options })).to_string();
        let config = native(Docker, &text, &[]).to_toml();
        let case = format!("{v4:?} and {v6:?}: {config}");
        assert!(config.contains(&format!("mode = \"{mode}\"")), "{case}");
        let said_here = lost(Docker, &text);
        assert_eq!(said_here.len(), said, "{case} {said_here:?}");
        assert!(said_here.iter().all(|one| one.contains("one gateway mode is for both")));
    }
    let options = json!({ label("4"): "isolated" });
    let text = network(json!({ "Internal": true, "Options": options })).to_string();
    assert!(native(Docker, &text, &[]).to_toml().contains("mode = \"isolated\""));
}

#[test]
fn what_a_docker_network_loses_is_said() {
    let options = json!({
        "com.docker.network.bridge.trusted_host_interfaces": "eth1:eth2",
        "com.docker.network.container_iface_prefix": "net",
        "com.docker.network.host_ipv4": "198.51.100.1",
        "com.docker.network.bridge.host_binding_ipv4": "198.51.100.1",
        "com.docker.network.bridge.inhibit_ipv4": "true",
        "com.docker.network.advertise_addr_ms": "10",
        "com.docker.network.bridge.default_bridge": "true",
    });
    let ipam = json!({ "Driver": "dhcp", "Config": [{ "Subnet": "10.1.0.0/24",
        "AuxiliaryAddresses": { "DefaultGatewayIPv4": "10.1.0.9" } }] });
    let said = lost(Docker, &network(json!({ "Options": options, "IPAM": ipam })).to_string());
    for part in [
        "trusted_host_interfaces\": trust is the uplink's here",
        "devices are called by the key `interface` here",
        "keys `host_ipv4` and `host_ipv6` choose it",
        "a default address for published ports is not in this version",
        "a bridge without an address is not in this version",
        "how addresses are announced is not in this version",
        "DefaultGatewayIPv4 has no special meaning here",
        "addresses are not given by IPAM driver \"dhcp\" here",
    ] {
        assert!(said.iter().any(|one| one.contains(part)), "{part} in {said:#?}");
    }
    assert_eq!(said.len(), 8, "{said:#?}");
    let compose = "services:\n  a: { networks: { default: { driver_opts: { a: b } } } }\n";
    assert!(lost(Docker, compose)[0].ends_with("options of the driver are not in this version"));
}

#[test]
fn every_form_of_a_compose_port_is_published() {
    let ports = "['80', '9000-9001', '8000-8010:81', '127.0.0.1::82', '8083:83/udp', \
                 {target: 84}, {target: 85, published: '8085', host_ip: '127.0.0.1'}, \
                 {target: 86, published: 8100-8110, protocol: udp, mode: host}]";
    let text = format!("services:\n  a: {{ ports: {ports} }}\n");
    assert_eq!(errors(Docker, &text), [""; 0]);
    let config = native(Docker, &text, &["project=p"]);
    let ports: Vec<(u16, u16)> =
        config.endpoints[0].publish.iter().map(|one| (one.host_port, one.target_port)).collect();
    for (host, target) in [(8000, 81), (8083, 83), (8085, 85), (8100, 86)] {
        assert!(ports.contains(&(host, target)), "{host} {target} in {ports:?}");
    }
    for target in [80, 82, 84, 9000] {
        let given = ports.iter().find(|(_, one)| *one == target);
        assert!(given.is_some_and(|(host, _)| *host >= 32768), "{target} in {ports:?}");
    }
}

#[test]
fn compose_files_are_refused_in_the_words_of_compose_and_docker() {
    assert_refused(Docker, "compose.txt", 18);
    let external = "networks:\n  out: { external: true, driver: bridge }\nservices: {}\n";
    assert_eq!(
        errors(Docker, external),
        ["networks.out.driver: conflicting parameters \"external\" and \"driver\" specified"]
    );
    let masked = "networks:\n  n: { ipam: { config: [{ subnet: 10.1.2.3/24 }] } }\n";
    assert_eq!(
        errors(Docker, masked),
        ["networks.n.ipam.config[0].subnet: invalid subnet 10.1.2.3/24: it should be 10.1.2.0/24"]
    );
}

#[test]
fn a_compose_file_is_its_networks_and_containers() {
    let config = native(Docker, &example("docker/compose.yaml"), &[]);
    let names: Vec<&str> = config.endpoints.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["shop-web-1", "shop-store-1", "shop-store-2"]);
    let text = config.to_toml();
    for part in [
        "[network.shop_front]",
        "mtu = 1450",
        "ip = \"10.60.0.10\"",
        "gw_priority = 1",
        "aliases = [\"web\", \"www\"]",
        "[network.shop_back]",
        "internal = true",
        "0.0.0.0:8080:80/tcp",
        "0.0.0.0:8443:443/tcp",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let closed = "services:\n  a: { networks: [n], ports: ['80:80'] }\nnetworks: { n: { internal: \
                  true } }\n";
    assert!(native(Docker, closed, &["project=p"]).endpoints[0].publish.is_empty());
    let said = lost(Docker, closed);
    assert!(said[0].ends_with("publishing has no effect in internal networks"), "{said:#?}");
    let modes = "services:\n  a: { network_mode: bridge }\n  b: { network_mode: host }\n  \
                 c: { network_mode: none }\n  d: { network_mode: 'service:a' }\n  e: {}\n";
    let config = native(Docker, modes, &["project=p"]);
    let networks: Vec<&str> = config.networks.iter().map(|one| one.name.as_str()).collect();
    for name in ["bridge", "host", "none", "p_default"] {
        assert!(networks.contains(&name), "{name} in {networks:?}");
    }
    assert_eq!(config.endpoints.len(), 4, "d shares what a has");
    let said = lost(Docker, modes);
    assert!(said[0].ends_with("service d shares the namespace of another: it has no endpoint"));
}

#[test]
fn a_bomb_and_a_mistake_in_yaml_are_shown() {
    let bomb = (1..12).fold("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned(), |text, level| {
        let list = vec![format!("*a{}", level - 1); 10].join(",");
        format!("{text}a{level}: &a{level} [{list}]\n")
    });
    for dialect in [Docker, Dcos] {
        assert!(errors(dialect, &bomb)[0].contains("aliases stand for more than"), "{dialect:?}");
        assert_eq!(errors(dialect, "services: {}\nservices: {}\n").len(), 1);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]{}:, \"a-z0-9./\n-]{0,64}|\\PC{0,40}") {
        for dialect in Dialect::ALL {
            let _ = check_dialect(dialect, "x", &text, &[]);
            let set = settings(&["create=true"]);
            if let Ok(converted) = convert(dialect, Native, "x", &text, &set) {
                prop_assert!(Config::parse("x", &converted.text).is_ok());
            }
        }
    }
}
