//! Docker's overlays as native ones: identifier, peers, tasks elsewhere, and what is refused.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use config::Dialect::{Docker, Native};
use config::{Config, Overlay, Severity, check_dialect, convert};
use serde_json::{Value, json};

fn example() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/docker/inspect-overlay.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn settings(set: &[&str]) -> Vec<String> {
    set.iter().map(|&one| one.to_owned()).collect()
}

fn shown(found: &[config::Diagnostic], severity: Severity) -> Vec<String> {
    let found = found.iter().filter(|one| one.severity == severity);
    found.map(|one| format!("{}: {}", one.path, one.message)).collect()
}

/// What is wrong by Docker's rules.
fn errors(file: &Value) -> Vec<String> {
    match check_dialect(Docker, "x", &file.to_string(), &[]) {
        Ok(_) => Vec::new(),
        Err(found) => shown(&found, Severity::Error),
    }
}

fn refused(text: &str, set: &[&str]) -> Vec<String> {
    shown(&convert(Docker, Native, "x", text, &settings(set)).unwrap_err(), Severity::Error)
}

fn said(text: &str, set: &[&str]) -> Vec<String> {
    shown(&convert(Docker, Native, "x", text, &settings(set)).unwrap().warnings, Severity::Warning)
}

fn native(text: &str, set: &[&str]) -> Config {
    let converted = convert(Docker, Native, "x", text, &settings(set));
    let converted = converted.unwrap_or_else(|found| panic!("{found:#?}"));
    Config::parse("x.toml", &converted.text)
        .unwrap_or_else(|found| panic!("{found:#?}\n{}", converted.text))
}

fn overlay<'c>(config: &'c Config, network: &str) -> &'c Overlay {
    config.network(network).unwrap().overlay.as_ref().unwrap()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

#[test]
fn an_inspected_overlay_has_its_identifier_and_its_peers() {
    let text = example().to_string();
    let config = native(&text, &["node_ip=192.0.2.31"]);
    let network = config.network("mesh").unwrap();
    let mesh = overlay(&config, "mesh");
    assert_eq!((mesh.vni, mesh.udp_port, network.mtu), (4097, 4789, 1450));
    assert_eq!(texts(&mesh.peers), ["192.0.2.32"]);
    assert_eq!(mesh.local_v4, Some([192, 0, 2, 31].into()));
    assert_eq!(network.subnets[0].gateway.to_string(), "10.0.1.1");
    // The container of this node is an endpoint; Docker's balancer is none.
    let names: Vec<&str> = config.endpoints.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["web.1"]);
    let found = said(&text, &["node_ip=192.0.2.31"]);
    assert_eq!(
        found[0],
        "[0].Containers.lb-mesh: Docker's balancer of this node has no endpoint here"
    );
    // The port of the swarm's data path is not in the file.
    let config = native(&text, &["node_ip=192.0.2.31", "data_path_port=7777"]);
    assert_eq!(overlay(&config, "mesh").udp_port, 7777);
    // As native, nothing changes any more.
    let once = config.to_toml();
    assert_eq!(convert(Native, Native, "x", &once, &[]).unwrap().text, once);
}

#[test]
fn the_mtu_of_an_overlay_is_the_nodes_one_less_the_header() {
    for (option, peer, mtu) in [
        (None, "192.0.2.32", 1450),
        (Some("1400"), "192.0.2.32", 1350),
        (Some("0"), "192.0.2.32", 1450),
        (None, "2001:db8::2", 1430),
    ] {
        let mut file = example();
        file[0]["Peers"][1]["IP"] = peer.into();
        if let Some(option) = option {
            file[0]["Options"]["com.docker.network.driver.mtu"] = option.into();
        }
        let own = if peer.contains(':') { "2001:db8::1" } else { "192.0.2.31" };
        file[0]["Peers"][0]["IP"] = own.into();
        let config = native(&file.to_string(), &[&format!("node_ip={own}")]);
        assert_eq!(config.network("mesh").unwrap().mtu, mtu, "{option:?} {peer}");
    }
}

#[test]
fn tasks_on_other_nodes_are_remotes() {
    let mut file = example();
    let task = |ip: &str, node: &str| {
        json!({ "Name": "web.1", "EndpointID": "e", "EndpointIP": ip,
        "Info": { "Host IP": node } })
    };
    file[0]["Services"] = json!({ "web": { "VIP": "10.0.1.2", "Ports": [], "LocalLBIndex": 256,
        "Tasks": [task("10.0.1.3", "192.0.2.31"), task("10.0.1.5", "192.0.2.32")] } });
    let config = native(&file.to_string(), &["node_ip=192.0.2.31"]);
    let remotes = &overlay(&config, "mesh").remotes;
    assert_eq!(remotes.len(), 1, "ours is an endpoint");
    let remote = &remotes[0];
    let found = (remote.ip.to_string(), remote.mac.to_string(), remote.vtep.to_string());
    let expected = ("10.0.1.5", "02:42:0a:00:01:05", "192.0.2.32");
    assert_eq!(found, (expected.0.into(), expected.1.into(), expected.2.into()));
}

#[test]
fn what_is_known_of_nobody_else_is_a_bridge() {
    let mut file = example();
    file[0]["Peers"] = json!([{ "Name": "a", "IP": "192.0.2.31" }]);
    let (text, set) = (file.to_string(), ["node_ip=192.0.2.31"]);
    assert!(native(&text, &set).network("mesh").unwrap().overlay.is_none());
    let found = said(&text, &set);
    let message = "[0].Driver: network mesh: other nodes are not reached, as nothing says where \
                   they are";
    assert!(found.contains(&message.to_owned()), "{found:#?}");
}

#[test]
fn a_compose_files_overlay_has_what_the_settings_say() {
    let text = "services:\n  a: { networks: [one, two] }\nnetworks:\n  one: { driver: overlay }\n  \
                two: { driver: overlay, attachable: true }\n";
    let set = [
        "project=p",
        "node_ip=192.0.2.31",
        "overlay_peers=192.0.2.31,192.0.2.32",
        "overlay_vni=4097",
    ];
    let config = native(text, &set);
    for (network, vni) in [("p_one", 4097), ("p_two", 4098)] {
        let own = overlay(&config, network);
        assert_eq!((own.vni, texts(&own.peers)), (vni, vec!["192.0.2.32".to_owned()]));
    }
    assert_eq!(
        refused(text, &set[..3]),
        ["networks.one.driver: no VNI provided", "networks.two.driver: no VNI provided"]
    );
    let alone = native(text, &["project=p"]);
    assert!(alone.network("p_one").unwrap().overlay.is_none(), "nobody else is known");
    // What the file says of it counts.
    let own = text.replace(
        "one: { driver: overlay }",
        "one: { driver: overlay, driver_opts: { com.docker.network.driver.overlay.vxlanid_list: \
         '5000' } }",
    );
    let config = native(&own, &set);
    assert_eq!([5000, 4097], ["p_one", "p_two"].map(|name| overlay(&config, name).vni));
}

#[test]
fn wrong_overlays_are_refused() {
    let label = "com.docker.network.driver.overlay.vxlanid_list";
    let path = format!("[0].Options.\"{label}\"");
    let two = json!([{ "Subnet": "10.0.1.0/24" }, { "Subnet": "10.0.2.0/24" }]);
    let cases = [
        (
            vec![("Options", json!({ label: "x" }))],
            format!("{path}: invalid vxlan id value \"x\" passed"),
        ),
        (
            vec![("Options", json!({ label: "0" }))],
            format!("{path}: invalid vxlan id value \"0\" passed"),
        ),
        (
            vec![("Options", json!({ label: "16777216" }))],
            format!("{path}: invalid vxlan id value \"16777216\" passed"),
        ),
        (
            vec![("IPAM", json!({ "Config": two }))],
            format!("{path}: insufficient vnis(1) passed to overlay"),
        ),
        (
            vec![("Peers", json!([{ "Name": "a", "IP": "x" }]))],
            "[0].Peers[0].IP: invalid IP address: x".to_owned(),
        ),
        (vec![("Peers", json!([{ "Name": "a" }]))], "[0].Peers[0]: IP is missing".to_owned()),
    ];
    for (changes, message) in cases {
        let mut file = example();
        changes.into_iter().for_each(|(key, value)| file[0][key] = value);
        assert_eq!(errors(&file), [message]);
    }
}

#[test]
fn what_cannot_be_carried_over_is_refused_by_the_conversion_alone() {
    let label = "com.docker.network.driver.overlay.vxlanid_list";
    let set = ["node_ip=192.0.2.31"];
    let mut file = example();
    file[0]["Options"]["encrypted"] = "".into();
    assert_eq!(errors(&file), [""; 0]);
    assert_eq!(
        refused(&file.to_string(), &set),
        ["[0].Options.encrypted: network mesh is encrypted, which is not in this version"]
    );
    let mut file = example();
    file[0]["IPAM"]["Config"] = json!([{ "Subnet": "10.0.1.0/24" }, { "Subnet": "10.0.2.0/24" }]);
    file[0]["Options"][label] = "4097,4098".into();
    assert_eq!(errors(&file), [""; 0]);
    assert_eq!(
        refused(&file.to_string(), &set),
        ["[0].IPAM.Config[1].Subnet: an overlay of several subnets has an identifier for each, \
          and one here"]
    );
    let text = example().to_string();
    assert_eq!(
        refused(&text, &[]),
        ["[0].Peers[0].IP: which of the peers this machine is, is not said"]
    );
    let mut file = example();
    (file[0]["Ingress"], file[0]["Name"]) = (true.into(), "ingress".into());
    let found = said(&file.to_string(), &["node_ip=192.0.2.99"]);
    for part in ["the routing mesh is not in this version", "192.0.2.99 is no peer of network"] {
        assert!(found.iter().any(|one| one.contains(part)), "{part} in {found:#?}");
    }
}
