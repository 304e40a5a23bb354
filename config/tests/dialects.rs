//! The dialects CNI, Docker and DC/OS: rules with their messages and paths, and what files come to.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use config::Dialect::{Cni, Dcos, Docker, Native};
use config::{Config, Dialect, Severity, check_dialect, convert};
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
        (Docker, "docker/inspect-1.10.json", &[]),
        (Docker, "docker/inspect.json", &[]),
        (Docker, "docker/compose.yaml", &[]),
        (Dcos, "dcos/config.yaml", &["agent_index=1"]),
        (Dcos, "dcos/agent.json", &[]),
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

fn ipam(keys: Value) -> Value {
    let mut ipam = json!({ "type": "host-local" });
    ipam.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    bridge(json!({ "ipam": ipam }))
}

fn chained(plugin: Value) -> Value {
    let mut list = bridge(json!({}));
    list["plugins"].as_array_mut().unwrap().push(plugin);
    list
}

#[test]
fn cni_configurations_are_refused_in_the_words_of_the_plugins() {
    let range = |range: Value| ipam(json!({ "ranges": [[range]] }));
    let cases = [
        (
            json!({ "cniVersion": "9.9.9", "name": "n", "type": "bridge" }),
            "cniVersion: incompatible CNI versions: config is \"9.9.9\", plugin supports \
             [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]",
        ),
        (json!({ "type": "bridge" }), ": missing network name"),
        (
            json!({ "name": "a/b", "type": "bridge" }),
            "name: invalid characters found in network name",
        ),
        (json!({ "name": "n" }), ": error parsing configuration: missing 'type'"),
        (
            json!({ "name": "n", "plugins": [] }),
            "plugins: error parsing configuration list: no plugins in list",
        ),
        (
            json!({ "name": "n", "plugins": [{}] }),
            "plugins[0]: error parsing configuration: missing 'type'",
        ),
        (
            json!({ "name": "n", "plugins": [{ "type": "portmap" }] }),
            "plugins[0].type: portmap: must be called as chained plugin",
        ),
        (
            bridge(json!({ "hairpinMode": true, "promiscMode": true })),
            "plugins[0].promiscMode: cannot set hairpin mode and promiscuous mode at the same \
             time.",
        ),
        (
            bridge(json!({ "vlan": 4095 })),
            "plugins[0].vlan: invalid VLAN ID 4095 (must be between 0 and 4094)",
        ),
        (
            bridge(json!({ "vlanTrunk": [{ "minID": 5, "maxID": 4 }] })),
            "plugins[0].vlanTrunk[0]: minID is greater than maxID in trunk parameters",
        ),
        (
            bridge(json!({ "isGateway": "yes" })),
            "plugins[0].isGateway: expected a boolean, found text",
        ),
        (
            bridge(json!({ "bridge": "0123456789abcdef" })),
            "plugins[0].bridge: interface names have at most 15 bytes, not 16",
        ),
        (bridge(json!({ "mtu": -1 })), "plugins[0].mtu: -1 is out of bounds: 0 to 65535"),
        (
            json!({ "name": "n", "type": "macvlan", "mode": "x" }),
            "mode: unknown macvlan mode: \"x\"",
        ),
        (
            json!({ "name": "n", "type": "ipvlan", "mode": "l9" }),
            "mode: unknown ipvlan mode: \"l9\"",
        ),
        (
            json!({ "name": "n", "type": "vlan", "vlanId": 5 }),
            ": \"master\" field is required. It specifies the host interface name to create the \
             VLAN for.",
        ),
        (ipam(json!({})), "plugins[0].ipam: no IP ranges specified"),
        (
            bridge(json!({ "ipam": { "subnet": "10.0.0.0/24" } })),
            "plugins[0].ipam: no IPAM type: type is missing",
        ),
        (
            range(json!({ "subnet": "10.1.0.0" })),
            "plugins[0].ipam.ranges[0][0].subnet: invalid CIDR address: 10.1.0.0",
        ),
        (
            range(json!({ "subnet": "10.1.0.5/24" })),
            "plugins[0].ipam.ranges[0][0].subnet: Network has host bits set. For a subnet mask \
                of \
             length 24 the network address is 10.1.0.0",
        ),
        (
            range(json!({ "subnet": "10.1.0.0/31" })),
            "plugins[0].ipam.ranges[0][0].subnet: Network 10.1.0.0/31 too small to allocate from",
        ),
        (
            range(json!({ "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1" })),
            "plugins[0].ipam.ranges[0][0].rangeStart: RangeStart 10.2.0.1 not in network \
             10.1.0.0/24",
        ),
        (
            range(json!({ "subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1" })),
            "plugins[0].ipam.ranges[0][0].rangeEnd: RangeEnd 10.2.0.1 not in network 10.1.0.0/24",
        ),
        (
            ipam(
                json!({ "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.1.0.0/16" }]] }),
            ),
            "plugins[0].ipam.ranges[1][0].subnet: range set 1 overlaps with 0",
        ),
        (
            ipam(json!({ "ranges": [[{ "subnet": "10.1.0.0/24" }, { "subnet": "fd00::/64" }]] })),
            "plugins[0].ipam.ranges[0][1].subnet: invalid range set 0: mixed address families",
        ),
        (
            chained(json!({ "type": "bandwidth", "ingressRate": 5 })),
            "plugins[1].ingressRate: if rate is set, burst must also be set",
        ),
        (
            chained(json!({ "type": "bandwidth", "egressBurst": 5 })),
            "plugins[1].egressBurst: if burst is set, rate must also be set",
        ),
        (
            chained(json!({ "type": "tuning", "sysctl": { "kernel.x": "1" } })),
            "plugins[1].sysctl.\"kernel.x\": invalid net sysctl key: \"kernel.x\"",
        ),
        (
            chained(json!({ "type": "firewall", "backend": "x" })),
            "plugins[1].backend: unrecognized firewall backend \"x\"",
        ),
        (
            chained(json!({ "type": "portmap", "markMasqBit": 32 })),
            "plugins[1].markMasqBit: MasqMarkBit must be between 0 and 31",
        ),
        (
            chained(json!({ "type": "portmap",
                "runtimeConfig": { "portMappings": [{ "hostPort": -1 }] } })),
            "plugins[1].runtimeConfig.portMappings[0].hostPort: Invalid host port number: -1",
        ),
        (
            json!({ "cniVersion": "0.2.0", "name": "n", "type": "bridge", "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }],
                                                 [{ "subnet": "10.2.0.0/24" }]] } }),
            "ipam: CNI version 0.2.0 does not support more than 1 address per family",
        ),
    ];
    for (list, message) in cases {
        assert_eq!(errors(Cni, &list.to_string()), [message], "{list}");
    }
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
    let macvlan = json!({ "name": "n", "type": "macvlan", "master": "eth0" }).to_string();
    assert_eq!(errors(Cni, &macvlan), [""; 0], "it is right by its own rules");
    let refused = convert(Cni, Native, "x", &macvlan, &[]).unwrap_err();
    assert_eq!(refused[0].message, "networks of type macvlan are not in this version");
}

/// A network as it is inspected, with these keys.
fn network(keys: Value) -> Value {
    let mut network = json!({ "Name": "n", "Driver": "bridge", "IPAM": { "Config": [] } });
    network.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!([network])
}

fn pool(pool: Value) -> Value {
    network(json!({ "IPAM": { "Config": [pool] } }))
}

fn option(key: &str, value: &str) -> Value {
    network(json!({ "Options": { key: value } }))
}

#[test]
fn docker_networks_are_refused_in_the_words_of_docker() {
    let cases = [
        (network(json!({ "Name": null })), "[0]: network name cannot be empty"),
        (
            network(json!({ "Driver": "host" })),
            "[0].Name: only one instance of \"host\" network is allowed",
        ),
        (
            network(json!({ "Driver": "null" })),
            "[0].Name: only one instance of \"null\" network is allowed",
        ),
        (
            network(json!({ "Name": "bridge", "Driver": "macvlan" })),
            "[0].Name: operation is not permitted on predefined bridge network",
        ),
        (
            network(json!({ "Name": "host" })),
            "[0].Name: operation is not permitted on predefined host network",
        ),
        (network(json!({ "EnableIPv4": false })), "[0].Name: IPv4 or IPv6 must be enabled"),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "IPRange": "10.2.0.0/25" })),
            "[0].IPAM.Config[0].IPRange: invalid ip-range 10.2.0.0/25: parent subnet 10.1.0.0/24 \
             doesn't contain ip-range",
        ),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "IPRange": "10.0.0.0/8" })),
            "[0].IPAM.Config[0].IPRange: invalid ip-range 10.0.0.0/8: CIDR block is bigger than \
             its parent subnet 10.1.0.0/24",
        ),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "IPRange": "fd00::/64" })),
            "[0].IPAM.Config[0].IPRange: invalid ip-range fd00::/64: parent subnet is an IPv4 \
             block",
        ),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "IPRange": "10.1.0.3/25" })),
            "[0].IPAM.Config[0].IPRange: invalid ip-range 10.1.0.3/25: it should be 10.1.0.0/25",
        ),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "Gateway": "10.2.0.1" })),
            "[0].IPAM.Config[0].Gateway: invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 \
             doesn't contain this address",
        ),
        (
            pool(json!({ "Subnet": "10.1.0.0/24", "AuxiliaryAddresses": { "a": "10.2.0.1" } })),
            "[0].IPAM.Config[0].AuxiliaryAddresses.a: invalid auxiliary address a: parent subnet \
             10.1.0.0/24 doesn't contain this address",
        ),
        (
            pool(json!({ "Gateway": "10.2.0.1" })),
            "[0].IPAM.Config[0].Gateway: every ip-range or gateway must have a corresponding \
                subnet",
        ),
        (
            pool(json!({ "Subnet": "fe80::/10" })),
            "[0].IPAM.Config[0].Subnet: fe80::/10 clashes with the Link-Local prefix 'fe80::/64'",
        ),
        (
            network(json!({ "IPAM": { "Config": [{ "Subnet": "10.1.0.0/24" },
                                                 { "Subnet": "10.2.0.0/24" }] } })),
            "[0].IPAM.Config[1].Subnet: bridge driver doesn't support multiple subnets",
        ),
        (
            network(json!({ "IPAM": { "Config": [{ "Subnet": "10.1.0.0/24" },
                                                 { "Subnet": "10.1.0.0/16" }] } })),
            "[0].IPAM.Config[1].Subnet: multiple overlapping subnet configuration is not \
                supported",
        ),
        (
            option("com.docker.network.bridge.enable_icc", "maybe"),
            "[0].Options.\"com.docker.network.bridge.enable_icc\": failed to parse \
             com.docker.network.bridge.enable_icc value: maybe (strconv.ParseBool: parsing \
             \"maybe\": invalid syntax)",
        ),
        (
            option("com.docker.network.bridge.gateway_mode_ipv4", "x"),
            "[0].Options.\"com.docker.network.bridge.gateway_mode_ipv4\": unknown gateway mode x",
        ),
        (
            option("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
            "[0].Options.\"com.docker.network.bridge.gateway_mode_ipv4\": gateway mode \
                'isolated' \
             can only be used for an internal network",
        ),
        (
            option("com.docker.network.driver.mtu", "-1"),
            "[0].Options.\"com.docker.network.driver.mtu\": invalid MTU number: -1",
        ),
        (
            option("com.docker.network.bridge.name", "docker0"),
            "[0].Options.\"com.docker.network.bridge.name\": cannot create network n (docker0): \
             conflicts with network bridge (docker0): networks have same bridge name",
        ),
        (
            network(json!({ "Driver": "macvlan", "Options": { "macvlan_mode": "x" } })),
            "[0].Options.macvlan_mode: requested macvlan mode 'x' is not valid, 'bridge' mode is \
             the macvlan driver default",
        ),
        (
            network(json!({ "Driver": "ipvlan", "Options": { "ipvlan_mode": "l9" } })),
            "[0].Options.ipvlan_mode: requested ipvlan mode 'l9' is not valid, 'l2' mode is the \
             ipvlan driver default",
        ),
        (
            network(json!({ "Driver": "macvlan", "Options": { "parent": "lo" } })),
            "[0].Options.parent: loopback interface is not a valid macvlan parent link",
        ),
        (
            network(json!({ "IPAM": { "Config": [{ "Subnet": "10.1.0.0/24" }] },
                            "Containers": { "c": { "IPv4Address": "10.2.0.2/24" } } })),
            "[0].Containers.c.IPv4Address: no configured subnet contains IP address 10.2.0.2",
        ),
    ];
    for (list, message) in cases {
        assert_eq!(errors(Docker, &list.to_string()), [message], "{list}");
    }
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
    let overlay = network(json!({ "Driver": "overlay" })).to_string();
    assert_eq!(errors(Docker, &overlay), [""; 0]);
    let refused = convert(Docker, Native, "x", &overlay, &[]).unwrap_err();
    assert_eq!(refused[0].message, "networks of driver overlay are not in this version");
}

#[test]
fn compose_files_are_refused_in_the_words_of_compose_and_docker() {
    let service = |service: &str| format!("services:\n  web: {{ image: i, {service} }}\n");
    let cases = [
        (
            "networks: [x]",
            "services.web.networks[0]: service \"web\" refers to undefined network x",
        ),
        (
            "network_mode: host, networks: []",
            "services.web.networks: service web declares mutually exclusive `network_mode` and \
             `networks`: invalid compose project",
        ),
        (
            "network_mode: 'service:db'",
            "services.web.network_mode: service \"web\" depends on undefined service \"db\"",
        ),
        (
            "network_mode: 'service:web'",
            "services.web.network_mode: cannot join own network namespace",
        ),
        (
            "network_mode: 'container:a', ports: ['80:80']",
            "services.web.ports: conflicting options: port publishing and the container type \
             network mode",
        ),
        (
            "network_mode: 'container:a', hostname: h",
            "services.web.hostname: conflicting options: hostname and the network mode",
        ),
        (
            "network_mode: 'container:a', dns: [10.0.0.1]",
            "services.web.dns: conflicting options: dns and the network mode",
        ),
        (
            "network_mode: 'container:a', extra_hosts: ['a:10.0.0.1']",
            "services.web.extra_hosts: conflicting options: custom host-to-IP mapping and the \
             network mode",
        ),
        (
            "network_mode: 'container:a', mac_address: '02:42:0a:00:00:01'",
            "services.web.mac_address: conflicting options: mac-address and the network mode",
        ),
        (
            "network_mode: 'container:a', expose: [80]",
            "services.web.expose: conflicting options: port exposing and the container type \
             network mode",
        ),
        (
            "network_mode: host, links: [db]",
            "services.web.links: conflicting options: host type networking can't be used with \
             links. This would result in undefined behavior",
        ),
        ("ports: ['80:80/foo']", "services.web.ports[0]: invalid proto: foo"),
        ("ports: ['1.2.3:80:80']", "services.web.ports[0]: invalid IP address: 1.2.3"),
        (
            "ports: ['1-3:4-5']",
            "services.web.ports[0]: invalid ranges specified for container and host Ports: 4-5 \
             and 1-3",
        ),
        ("ports: [{ published: 80 }]", "services.web.ports[0]: target is missing"),
        (
            "networks: { default: { ipv4_address: 10.0.0.1 } }",
            "services.web.networks.default.ipv4_address: no configured subnet contains IP \
                address \
             10.0.0.1",
        ),
        ("scale: -1", "services.web.scale: -1 is out of bounds: 0 to 10000"),
        (
            "scale: 2, container_name: c",
            "services.web.container_name: services.web: can't set container_name and scale to 2: \
             the name c must be unique",
        ),
    ];
    for (keys, message) in cases {
        assert_eq!(errors(Docker, &service(keys)), [message], "{keys}");
    }
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
fn a_dcos_cluster_shows_its_room_and_an_agents_part() {
    let text = example("dcos/config.yaml");
    let checked = check_dialect(Dcos, "x", &text, &settings(&["agent_index=1"])).unwrap();
    assert_eq!(
        checked.summary,
        [
            "overlay dcos: 9.0.0.0/8 in /24: 65536 agents x (2 x 126) container addresses",
            "overlay dcos6: fd01:b::/64 in /80: 2^16 agents x (2 x 2^47) container addresses",
            "tunnel ends: 44.128.0.0/20 has room for 4094 agents, MTU 1420",
            "agent's slice of dcos: 9.0.1.0/24: m-dcos 9.0.1.0/25, d-dcos 9.0.1.128/25",
            "  what leaves the overlays from 9.0.1.0/24 is masqueraded",
            "agent's slice of dcos6: fd01:b:0:0:1::/80: m-dcos6 fd01:b:0:0:1::/81, d-dcos6 \
             fd01:b::1:8000:0:0/81",
            "  what leaves the overlays from fd01:b:0:0:1::/80 is masqueraded",
            "agent's tunnel end: 44.128.0.2/20, fd01:a::2/64 70:b3:d5:80:00:02, VXLAN 1024, UDP \
             port 64000",
        ]
    );
    let state = check_dialect(Dcos, "x", &example("dcos/agent.json"), &[]).unwrap();
    assert_eq!(state.summary[0], checked.summary[3], "the state says the same");
    assert!(state.summary[2].contains("44.128.0.2/20 70:b3:d5:80:00:02"));
    let defaults = check_dialect(Dcos, "x", "cluster_name: a\n", &[]).unwrap();
    assert_eq!(defaults.summary, checked.summary[..3], "they are the defaults");
    let config = native(Dcos, &text, &["agent_index=1"]);
    assert!(config.to_toml().contains("subnets = [\"9.0.1.0/24\"]"));
    let set = settings(&["agent_index=1"]);
    let said =
        of_severity(&convert(Dcos, Native, "x", &text, &set).unwrap().warnings, Severity::Warning);
    assert!(said[0].contains("routed overlays (VXLAN 1024, port 64000) are not in this version"));
    let refused = convert(Dcos, Native, "x", &text, &[]).unwrap_err();
    assert_eq!(refused[0].message, "which of the agents this is, is not said");
    let set = settings(&["agent_index=4094"]);
    let refused = check_dialect(Dcos, "x", &text, &set).unwrap_err();
    assert_eq!(refused[0].message, "vtep_subnet 44.128.0.0/20 has no address for agent 4094");
}

#[test]
fn dcos_configs_are_refused_in_the_words_of_the_installer() {
    let overlay = |keys: &str| {
        format!(
            "dcos_overlay_network: {{ vtep_subnet: 44.128.0.0/20, vtep_subnet6: 'fd01:a::/64', \
                 vtep_mac_oui: '70:B3:D5:00:00:00', overlays: [{keys}] }}\n"
        )
    };
    let path = "dcos_overlay_network.overlays";
    let two = "{ name: a, subnet: 9.0.0.0/8 }, { name: b, subnet: 9.1.0.0/16 }";
    let twice = "{ name: a, subnet: 9.0.0.0/16 }, { name: a, subnet: 10.0.0.0/16 }";
    let cases = [
        ("dcos_overlay_enable: maybe\n".to_owned(), "dcos_overlay_enable: Must be one of \
            'true', 'false'. Got 'maybe'.".to_owned()),
        ("dcos_overlay_mtu: 500\n".into(), "dcos_overlay_mtu: Must be above 552".into()),
        ("dcos_overlay_mtu: big\n".into(), "dcos_overlay_mtu: Must be an integer but got a str: \
            big".into()),
        ("dcos_overlay_config_attempts: 11\n".into(), "dcos_overlay_config_attempts: Must be \
            between 0 and 10 inclusive".into()),
        ("dcos_l4lb_min_named_ip: 11.0.0\n".into(), "dcos_l4lb_min_named_ip: Invalid IPv4 \
            addresses in list: 11.0.0".into()),
        ("calico_vxlan_vni: 1024\n".into(), "calico_vxlan_vni: calico_vxlan_vni 1024 is the \
            overlays' on port 64000: take another".into()),
        (overlay(""), format!("{path}: \"Overlays\" network configuration is empty")),
        (overlay("{ subnet: 9.0.0.0/8 }"), format!("{path}[0]: Missing \"name\" in overlay \
            configuration")),
        (overlay("{ name: a }"), format!("{path}[0]: Missing \"subnet\" or \"subnet6\" in \
            overlay configuration")),
        (overlay("{ name: a0123456789012, subnet: 9.0.0.0/8 }"), format!("{path}[0].name: \
            Overlay name cannot exceed 13 characters:a0123456789012")),
        (overlay("{ name: host, subnet: 9.0.0.0/8 }"), format!("{path}[0].name: host is a \
            reserved network name")),
        (overlay("{ name: a, subnet: 'fd00::/64' }"), format!("{path}[0].subnet: Incorrect \
            value for overlay subnet fd00::/64. Only IPv4 values are allowed")),
        (overlay("{ name: a, subnet6: 9.0.0.0/8 }"), format!("{path}[0].subnet6: Incorrect \
            value for overlay subnet6 9.0.0.0/8. Only IPv6 values are allowed")),
        (overlay("{ name: a, subnet: 9.0.0.0/8, prefix: 30 }"), format!("{path}[0].prefix: 30 \
            is out of bounds: 8 to 29")),
        (overlay(two), format!("{path}[1].name: Found overlapping address spaces")),
        (overlay(twice), format!("{path}[1].name: Duplicate overlay configuration detected for \
            overlay: a")),
        (format!("{}dcos_overlay_network_default_name: foo\n", overlay("{ name: bar, subnet: \
            1.1.0.0/16 }")), "dcos_overlay_network_default_name: Default overlay network name \
            does not reference a defined overlay network: foo".into()),
        ("dcos_overlay_network: { vtep_mac_oui: '70:B3:D5:00:00:00', overlays: [{ name: a, \
            subnet: 9.0.0.0/8 }] }\n".into(), "dcos_overlay_network: Missing \"vtep_subnet\" in \
            overlay configuration".into()),
        ("dcos_overlay_network: { vtep_subnet: 44.128.0.0/20, overlays: [{ name: a, subnet: \
            9.0.0.0/8 }] }\n".into(), "dcos_overlay_network: Missing \"vtep_mac_oui\" in \
            overlay configuration".into()),
        ("dcos_overlay_network: { vtep_subnet: 4.0.0.0/7, vtep_mac_oui: '70:B3:D5:00:00:00', \
            overlays: [{ name: a, subnet: 9.0.0.0/8 }] \
            }\n".into(), "dcos_overlay_network.vtep_subnet: vtep_subnet 4.0.0.0/7 is too large: a MAC address has the lower 24 bits of the VTEP's".into()),
    ];
    for (text, message) in cases {
        assert_eq!(errors(Dcos, &text), [message], "{text}");
    }
    let off = check_dialect(Dcos, "x", "dcos_overlay_enable: false\n", &[]).unwrap();
    assert_eq!(off.warnings.len(), 1);
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
