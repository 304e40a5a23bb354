//! What a file of another dialect is as a native config, over any files: the same each time, the
//! same once more converted, and with the networks that the file has.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use config::Dialect::{Cni, Dcos, Docker, Marathon, Native};
use config::{Config, Dialect, convert};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Converts a file, and the result again. `None`: the file is refused.
fn twice(dialect: Dialect, text: &str, set: &[&str]) -> Option<Config> {
    let set: Vec<String> = set.iter().map(|&one| one.to_owned()).collect();
    let converted = convert(dialect, Native, "x", text, &set).ok()?.text;
    let same = convert(dialect, Native, "x", text, &set).unwrap().text;
    assert_eq!(same, converted, "it does not depend on the time of day");
    let of = |text: &str| {
        Config::parse("x.toml", text).unwrap_or_else(|found| panic!("{found:#?}\n{text}"))
    };
    let once = convert(Native, Native, "x", &converted, &[]).unwrap().text;
    let twice = convert(Native, Native, "x", &once, &[]).unwrap().text;
    assert_eq!(twice, once, "twice is once: {converted}");
    let (first, second) = (of(&converted), of(&once));
    let shown = |config: &Config| {
        format!("{:#?}\n{:#?}\n{:#?}", config.networks, config.endpoints, config.uplinks)
    };
    assert_eq!(shown(&second), shown(&first), "it means the same: {converted}");
    Some(second)
}

/// The subnets of a network, in the order of the config.
fn subnets(config: &Config, network: &str) -> Vec<String> {
    let network = config.network(network).unwrap_or_else(|| panic!("{network} is missing"));
    network.subnets.iter().map(|subnet| subnet.prefix.to_string()).collect()
}

#[test]
fn every_example_of_every_dialect_is_converted_and_stays_what_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for (name, dialect, set) in [
        ("marathon", Marathon, &[][..]),
        ("cni", Cni, &[]),
        ("docker", Docker, &["node_ip=192.0.2.31"]),
        ("dcos", Dcos, &["agent_index=1", "agent_hosts=192.0.2.30,192.0.2.31,192.0.2.32"]),
    ] {
        for entry in std::fs::read_dir(folder.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(twice(dialect, &text, set).is_some(), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 20, "{count} examples");
}

fn flag() -> impl Strategy<Value = bool> {
    any::<bool>()
}

prop_compose! {
    /// A subnet, and what may be said of it.
    fn subnet(first: u8)(
        second in 0u8..4, third in any::<u8>(), len in 24u8..29, v6 in flag(),
    ) -> String {
        match v6 {
            false => format!("10.{}.{third}.0/{len}", first + second),
            // As addresses are shown: of a zero in front of zeros nothing is seen.
            true => format!("fd00:{first}:{:x}::/64", u16::from(third) + 1),
        }
    }
}

prop_compose! {
    fn cni_file()(
        kind in select(vec!["bridge", "ptp", "macvlan", "ipvlan", "vlan"]),
        mode in select(vec!["", "bridge", "private", "vepa", "l2", "l3", "l3s"]),
        subnet in subnet(16), other in proptest::option::of(subnet(32)),
        (gateway, masq, isolated, default_route) in (flag(), flag(), flag(), flag()),
        mtu in proptest::option::of(1_280u32..1_500),
        version in select(vec!["0.3.1", "0.4.0", "1.0.0", "1.1.0"]),
        chained in proptest::sample::subsequence(vec!["portmap", "firewall", "tuning"], 0..=3),
    ) -> (Vec<String>, Value) {
        let subnets: Vec<String> = std::iter::once(subnet).chain(other).collect();
        let ranges: Vec<Value> = subnets.iter().map(|one| json!([{ "subnet": one }])).collect();
        let routes = if default_route { json!([{ "dst": "0.0.0.0/0" }]) } else { json!([]) };
        let mut plugin = json!({ "type": kind, "ipam": {
            "type": "host-local", "ranges": ranges, "routes": routes } });
        let keys = match kind {
            "bridge" => json!({ "isGateway": gateway, "ipMasq": masq, "portIsolation": isolated }),
            "ptp" => json!({ "ipMasq": masq }),
            "vlan" => json!({ "master": "eth0", "vlanId": 7 }),
            "macvlan" if matches!(mode, "bridge" | "private" | "vepa") => {
                json!({ "master": "eth0.5", "mode": mode })
            }
            "ipvlan" if mode.starts_with('l') => json!({ "master": "eth0", "mode": mode }),
            _ => json!({ "master": "eth0" }),
        };
        plugin.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        if let Some(mtu) = mtu {
            plugin["mtu"] = mtu.into();
        }
        let chained = chained.into_iter().map(|kind| json!({ "type": kind }));
        let plugins: Vec<Value> = std::iter::once(plugin).chain(chained).collect();
        (subnets, json!({ "cniVersion": version, "name": "n", "plugins": plugins }))
    }
}

prop_compose! {
    fn docker_network(index: u8)(
        driver in select(vec!["bridge", "macvlan", "ipvlan", "overlay"]),
        subnet in subnet(16 * (index + 1)),
        (internal, icc, masquerade, peered) in (flag(), flag(), flag(), flag()),
        mode in select(vec!["nat", "routed", "nat-unprotected"]),
        mtu in proptest::option::of(1_350u32..1_500),
        containers in 0u8..3,
    ) -> (String, String, Value) {
        let name = format!("n{index}");
        let v6 = subnet.contains(':');
        let mut options = match driver {
            "bridge" => json!({
                "com.docker.network.bridge.enable_icc": icc.to_string(),
                "com.docker.network.bridge.enable_ip_masquerade": masquerade.to_string(),
                "com.docker.network.bridge.gateway_mode_ipv4": mode,
                "com.docker.network.bridge.gateway_mode_ipv6": mode,
            }),
            "overlay" => json!({
                "com.docker.network.driver.overlay.vxlanid_list": (4_097 + u32::from(index))
                    .to_string(),
            }),
            _ => json!({ "parent": format!("eth{index}") }),
        };
        if let Some(mtu) = mtu {
            options["com.docker.network.driver.mtu"] = mtu.to_string().into();
        }
        let peers = if peered { vec!["192.0.2.31", "192.0.2.32"] } else { vec!["192.0.2.31"] };
        let peer = |ip: &str| json!({ "Name": "a", "IP": ip });
        let peers: Vec<Value> = peers.into_iter().map(peer).collect();
        let containers = (0..containers).map(|one| {
            (format!("{index}{one}abcdef01234567"), json!({ "Name": format!("c{index}-{one}") }))
        });
        let network = json!({
            "Name": name, "Driver": driver, "Internal": internal, "EnableIPv4": !v6,
            "EnableIPv6": v6, "IPAM": { "Config": [{ "Subnet": subnet }] }, "Options": options,
            "Peers": peers, "Containers": containers.collect::<serde_json::Map<_, _>>(),
        });
        (name, subnet, network)
    }
}

prop_compose! {
    fn overlay(index: u8)(v6 in flag(), third in any::<u8>(), prefix in 22u8..28) -> Value {
        match v6 {
            false => json!({ "name": format!("o{index}"), "subnet": format!("10.{}.0.0/16",
                16 * (index + 1) + third % 16), "prefix": prefix }),
            true => json!({ "name": format!("o{index}"), "subnet6": format!("fd00:{index}::/64"),
                "prefix6": 80 }),
        }
    }
}

prop_compose! {
    fn service(index: u8)(
        networks in proptest::sample::subsequence(vec!["front", "back"], 0..=2),
        port in proptest::option::of(1_024u16..30_000), scale in 0u8..3, priority in any::<i8>(),
    ) -> (String, Value) {
        let members: serde_json::Map<String, Value> = networks
            .into_iter()
            .map(|name| (name.to_owned(), json!({ "gw_priority": priority })))
            .collect();
        let mut service = json!({ "image": "x", "scale": scale });
        if !members.is_empty() {
            service["networks"] = Value::Object(members);
        }
        if let Some(port) = port {
            service["scale"] = 1.into();
            service["ports"] = json!([format!("{}:80", port + u16::from(index) * 7)]);
        }
        (format!("s{index}"), service)
    }
}

prop_compose! {
    fn app(index: u8)(
        mode in select(vec!["host", "container/bridge", "container"]),
        instances in 0u8..3, ports in proptest::collection::vec(1u16..9_000, 0..3),
        published in flag(),
    ) -> Value {
        let network = match mode {
            "container" => json!({ "mode": mode, "name": "back" }),
            _ => json!({ "mode": mode }),
        };
        let mut app = json!({ "id": format!("/g/a{index}"), "cmd": "x", "instances": instances,
            "networks": [network] });
        if mode != "host" {
            let mapping = |port: &u16| match published {
                true => json!({ "containerPort": port, "hostPort": 0 }),
                false => json!({ "containerPort": port }),
            };
            let mappings: Vec<Value> = ports.iter().map(mapping).collect();
            app["container"] = json!({ "type": "MESOS", "portMappings": mappings });
        }
        app
    }
}

proptest! {
    #[test]
    fn any_cni_network_is_converted_once_and_for_all((subnets_given, file) in cni_file()) {
        if let Some(config) = twice(Cni, &file.to_string(), &["uplink_address=192.0.2.10/24"]) {
            prop_assert_eq!(subnets(&config, "n"), subnets_given);
        }
    }

    #[test]
    fn any_docker_networks_are_converted_once_and_for_all(
        networks in (docker_network(0), docker_network(1), docker_network(2)),
        count in 1usize..4,
    ) {
        let networks = [networks.0, networks.1, networks.2];
        let file: Vec<&Value> = networks[..count].iter().map(|(_, _, one)| one).collect();
        let text = serde_json::to_string(&file).unwrap();
        let config = twice(Docker, &text, &["node_ip=192.0.2.31"]);
        if let Some(config) = config {
            for (name, subnet, _) in &networks[..count] {
                prop_assert_eq!(&subnets(&config, name)[..], std::slice::from_ref(subnet));
            }
        }
    }

    #[test]
    fn any_compose_file_is_converted_once_and_for_all(
        services in (service(0), service(1), service(2)), internal in flag(),
    ) {
        let services: serde_json::Map<String, Value> =
            [services.0, services.1, services.2].into_iter().collect();
        let file = json!({ "services": services,
            "networks": { "front": null, "back": { "internal": internal } } });
        let config = twice(Docker, &file.to_string(), &["project=p"]);
        prop_assert!(config.is_some() || services_clash(&file), "{file}");
    }

    #[test]
    fn any_dcos_cluster_is_converted_once_and_for_all(
        overlays in (overlay(0), overlay(1)), index in 0usize..3, hosts in 1usize..4,
    ) {
        let overlays = [overlays.0, overlays.1];
        let file = json!({ "dcos_overlay_network": { "vtep_subnet": "44.128.0.0/20",
            "vtep_subnet6": "fd01:a::/64", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": overlays } });
        let all: Vec<String> = (1..=hosts).map(|host| format!("192.0.2.{host}")).collect();
        let set = [format!("agent_index={index}"), format!("agent_hosts={}", all.join(","))];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let config = twice(Dcos, &file.to_string(), &set);
        prop_assert_eq!(config.is_some(), index < hosts, "{}", file);
        for network in config.iter().flat_map(|config| &config.networks) {
            let routes = network.overlay.as_ref().map_or(0, |overlay| overlay.routes.len());
            if network.name.contains("-o") {
                // One to each slice of its family, of each other agent.
                let v6 = network.subnets[0].prefix.addr().is_ipv6();
                let key = if v6 { "subnet6" } else { "subnet" };
                let of_family = overlays.iter().filter(|one| one.get(key).is_some()).count();
                prop_assert_eq!(routes, of_family * (hosts - 1));
            }
        }
    }

    #[test]
    fn any_marathon_apps_are_converted_once_and_for_all(
        apps in (app(0), app(1), app(2)),
    ) {
        let file = json!([apps.0, apps.1, apps.2]);
        let config = twice(Marathon, &file.to_string(), &[]).unwrap();
        let instances = |app: &Value| app["instances"].as_u64().unwrap() as usize;
        let count: usize = file.as_array().unwrap().iter().map(instances).sum();
        prop_assert_eq!(config.endpoints.len(), count);
    }
}

/// True if two services want one port.
fn services_clash(file: &Value) -> bool {
    let ports = file["services"].as_object().unwrap().values();
    let mut ports: Vec<String> = ports.map(|one| one["ports"].to_string()).collect();
    ports.retain(|ports| ports != "null");
    ports.sort();
    let count = ports.len();
    ports.dedup();
    ports.len() < count
}
