//! DC/OS: a cluster's config, states of its agents and of its master, and the overlays they are.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod refused;

use std::path::Path;

use config::Dialect::{Dcos, Native};
use config::{Config, Severity, check_dialect, convert};
use engine::tables::GatewayMode;

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/dcos");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn settings(set: &[&str]) -> Vec<String> {
    set.iter().map(|&one| one.to_owned()).collect()
}

fn shown(found: &[config::Diagnostic], severity: Severity) -> Vec<String> {
    let found = found.iter().filter(|one| one.severity == severity);
    found.map(|one| format!("{}: {}", one.path, one.message)).collect()
}

/// What is wrong by the rules of the dialect.
fn errors(text: &str, set: &[&str]) -> Vec<String> {
    match check_dialect(Dcos, "x", text, &settings(set)) {
        Ok(_) => Vec::new(),
        Err(found) => shown(&found, Severity::Error),
    }
}

/// What is said of a conversion.
fn lost(text: &str, set: &[&str]) -> Vec<String> {
    shown(&convert(Dcos, Native, "x", text, &settings(set)).unwrap().warnings, Severity::Warning)
}

fn native(text: &str, set: &[&str]) -> Config {
    let converted = convert(Dcos, Native, "x", text, &settings(set));
    let converted = converted.unwrap_or_else(|found| panic!("{found:#?}"));
    Config::parse("x.toml", &converted.text)
        .unwrap_or_else(|found| panic!("{found:#?}\n{}", converted.text))
}

/// Subnet, VTEP and host of each route of a network.
fn routes(config: &Config, network: &str) -> Vec<String> {
    let overlay = config.network(network).unwrap().overlay.as_ref().unwrap();
    let routes = overlay.routes.iter();
    routes
        .map(|one| format!("{} {} {} {}", one.subnet, one.vtep_ip, one.vtep_mac, one.host))
        .collect()
}

#[test]
fn a_dcos_cluster_shows_its_room_and_an_agents_part() {
    let text = example("config.yaml");
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
    let state = check_dialect(Dcos, "x", &example("agent.json"), &[]).unwrap();
    assert_eq!(state.summary[0], checked.summary[3], "the state says the same");
    assert!(state.summary[2].contains("44.128.0.2/20 70:b3:d5:80:00:02"));
    let defaults = check_dialect(Dcos, "x", "cluster_name: a\n", &[]).unwrap();
    assert_eq!(defaults.summary, checked.summary[..3], "they are the defaults");
    let config = native(&text, &["agent_index=1"]);
    let shown = config.to_toml();
    for subnet in ["9.0.1.0/25", "9.0.1.128/25", "fd01:b:0:0:1::/81", "fd01:b::1:8000:0:0/81"] {
        assert!(shown.contains(&format!("subnets = [\"{subnet}\"]")), "{subnet} in {shown}");
    }
    let said = lost(&text, &["agent_index=1"]);
    assert!(said[0].ends_with("other agents are not reached, as nothing says where they are"));
    let refused = convert(Dcos, Native, "x", &text, &[]).unwrap_err();
    assert_eq!(refused[0].message, "which of the agents this is, is not said");
    let set = settings(&["agent_index=4094"]);
    let refused = check_dialect(Dcos, "x", &text, &set).unwrap_err();
    assert_eq!(refused[0].message, "vtep_subnet 44.128.0.0/20 has no address for agent 4094");
}

#[test]
fn dcos_configs_are_refused_in_the_words_of_the_installer() {
    let cases = refused::cases("dcos.txt");
    assert!(cases.len() >= 20, "there are {} cases", cases.len());
    for (text, message) in cases {
        assert_eq!(errors(&text, &[]), [message], "{text}");
    }
    let off = check_dialect(Dcos, "x", "dcos_overlay_enable: false\n", &[]).unwrap();
    assert_eq!(off.warnings.len(), 1);
}

/// Three agents, of which the gateway is the second.
const HOSTS: &str = "agent_hosts=192.0.2.31, 192.0.2.32,192.0.2.33";

#[test]
fn agents_whose_hosts_are_known_are_a_routed_overlay() {
    let config = native(&example("config.yaml"), &["agent_index=1", HOSTS]);
    let names: Vec<&str> = config.networks.iter().map(|one| one.name.as_str()).collect();
    for (name, subnet) in [
        ("m-dcos", "9.0.1.0/25"),
        ("d-dcos", "9.0.1.128/25"),
        ("m-dcos6", "fd01:b:0:0:1::/81"),
        ("d-dcos6", "fd01:b::1:8000:0:0/81"),
    ] {
        let network = config.network(name).unwrap_or_else(|| panic!("{name} in {names:?}"));
        let overlay = network.overlay.as_ref().unwrap();
        assert_eq!((overlay.vni, overlay.udp_port), (1024, 64_000));
        assert_eq!(overlay.local_v4, Some([192, 0, 2, 32].into()));
        assert_eq!((network.mtu, network.masquerade), (1420, true));
        assert_eq!(network.mode, GatewayMode::NatUnprotected, "nothing filters between overlays");
        assert_eq!(network.gateway_mac.to_string(), "70:b3:d5:80:00:02");
        assert_eq!(network.subnets[0].prefix.to_string(), subnet);
        let expected = match subnet.contains(':') {
            false => [
                "9.0.0.0/24 44.128.0.1 70:b3:d5:80:00:01 192.0.2.31",
                "9.0.2.0/24 44.128.0.3 70:b3:d5:80:00:03 192.0.2.33",
            ],
            true => [
                "fd01:b::/80 fd01:a::1 70:b3:d5:80:00:01 192.0.2.31",
                "fd01:b:0:0:2::/80 fd01:a::3 70:b3:d5:80:00:03 192.0.2.33",
            ],
        };
        assert_eq!(routes(&config, name), expected);
    }
    // The gateway may be chosen by its address as well.
    let by_ip = native(&example("config.yaml"), &["agent_ip=192.0.2.32", HOSTS]);
    assert_eq!(by_ip.to_toml(), config.to_toml());
}

#[test]
fn a_configs_own_list_of_agents_says_where_they_are() {
    let text = format!(
        "{}agent_list:\n- 192.0.2.31\n- 192.0.2.32\npublic_agent_list: [192.0.2.33]\n",
        example("config.yaml")
    );
    let config = native(&text, &["agent_index=1"]);
    let listed = native(&example("config.yaml"), &["agent_index=1", HOSTS]);
    assert_eq!(config.to_toml(), listed.to_toml());
    let said = lost(&text, &["agent_index=1"]);
    assert_eq!(said[0], "agent_list[0]: agents are taken in the order of this list");
    // The setting comes before the list, as only it is known to be in the right order.
    let config = native(&text, &["agent_index=0", "agent_hosts=192.0.2.33,192.0.2.31"]);
    assert_eq!(routes(&config, "m-dcos"), ["9.0.1.0/24 44.128.0.2 70:b3:d5:80:00:02 192.0.2.31"]);
}

#[test]
fn every_overlay_is_reached_from_every_other_without_translation() {
    let text = "dcos_overlay_network: { vtep_subnet: 44.128.0.0/20, vtep_mac_oui: \
                '70:B3:D5:00:00:00', overlays: [{ name: a, subnet: 9.0.0.0/16 }, { name: b, \
                subnet: 10.0.0.0/16, prefix: 26 }] }\n";
    let config = native(text, &["agent_index=0", "agent_hosts=192.0.2.31,192.0.2.32"]);
    for network in ["m-a", "d-a", "m-b", "d-b"] {
        assert_eq!(
            routes(&config, network),
            [
                "9.0.1.0/24 44.128.0.2 70:b3:d5:80:00:02 192.0.2.32",
                "10.0.0.64/26 44.128.0.2 70:b3:d5:80:00:02 192.0.2.32",
            ]
        );
    }
    assert_eq!(config.network("d-b").unwrap().subnets[0].prefix.to_string(), "10.0.0.32/27");
}

#[test]
fn the_masters_state_says_where_all_agents_are() {
    let text = example("master.json");
    let config = native(&text, &["agent_ip=192.0.2.31"]);
    let expected = ["9.0.2.0/24 44.128.0.3 70:b3:d5:80:00:03 192.0.2.32"];
    assert_eq!(routes(&config, "m-dcos"), expected, "the master itself has no slice");
    assert_eq!(config.network("d-dcos").unwrap().subnets[0].prefix.to_string(), "9.0.1.128/25");
    let by_index = native(&text, &["agent_index=1"]);
    assert_eq!(by_index.to_toml(), config.to_toml());
    let refused = convert(Dcos, Native, "x", &text, &[]).unwrap_err();
    assert_eq!(refused[0].message, "which of the agents this is, is not said");
    assert_eq!(errors(&text, &[]), [""; 0]);
    let comments = |set| convert(Dcos, Native, "x", &text, &[String::from(set)]).unwrap().text;
    let of_agent = comments("agent_ip=192.0.2.31");
    assert!(of_agent.contains("master at 192.0.2.30: no slice"), "{of_agent}");
    let of_master = comments("agent_ip=192.0.2.30");
    assert!(of_master.contains("no slice of dcos: a master has none"), "{of_master}");
}

#[test]
fn an_agents_state_and_a_list_of_hosts_give_the_others() {
    let state = example("agent.json");
    let hosts = "agent_hosts=192.0.2.30,192.0.2.31,192.0.2.32";
    let config = native(&state, &[hosts]);
    let expected = [
        "9.0.0.0/24 44.128.0.1 70:b3:d5:80:00:01 192.0.2.30",
        "9.0.2.0/24 44.128.0.3 70:b3:d5:80:00:03 192.0.2.32",
    ];
    assert_eq!(routes(&config, "m-dcos"), expected);
    // After a reset of the master's state the first slice is left out: slices are one further.
    let reset = state.replace("9.0.1.", "9.0.2.");
    let config = native(&reset, &[hosts]);
    let expected = [
        "9.0.1.0/24 44.128.0.1 70:b3:d5:80:00:01 192.0.2.30",
        "9.0.3.0/24 44.128.0.3 70:b3:d5:80:00:03 192.0.2.32",
    ];
    assert_eq!(routes(&config, "m-dcos"), expected);
    // Without the others' hosts it is alone.
    let config = native(&state, &[]);
    assert!(config.networks.iter().all(|network| network.overlay.is_none()));
    // A state may have one bridge only, or tell of none.
    let mut value: serde_json::Value = serde_json::from_str(&state).unwrap();
    value["overlays"][0].as_object_mut().unwrap().remove("docker_bridge");
    let names = |config: &Config| -> Vec<String> {
        let networks = config.networks.iter().map(|network| network.name.clone());
        networks.filter(|name| !matches!(name.as_str(), "host" | "none")).collect()
    };
    assert_eq!(names(&native(&value.to_string(), &[hosts])), ["m-dcos"]);
    value["overlays"][0].as_object_mut().unwrap().remove("mesos_bridge");
    assert_eq!(names(&native(&value.to_string(), &[hosts])), ["dcos"]);
}

#[test]
fn wrong_agents_are_refused() {
    let (config, state, master) =
        (example("config.yaml"), example("agent.json"), example("master.json"));
    let small = config.replace("44.128.0.0/20", "44.128.0.0/30");
    let cases: [(&str, &[&str], &str); 14] = [
        (&config, &["agent_index=-1"], "agent_index: -1 is out of bounds: 0 to 16777215"),
        (&config, &["agent_index=x"], "agent_index: expected a whole number, found \"x\""),
        (&config, &["agent_hosts=192.0.2"], "agent_hosts: \"192.0.2\" is no address"),
        (
            &config,
            &["agent_hosts=192.0.2.1,192.0.2.1"],
            "agent_hosts: 192.0.2.1 is an agent already",
        ),
        (
            &config,
            &["agent_index=1", "agent_hosts=192.0.2.1"],
            "agent_index: no agent has the index 1: 1 are known",
        ),
        (
            &config,
            &["agent_ip=192.0.2.9", "agent_hosts=192.0.2.1"],
            "agent_ip: 192.0.2.9 is none of the agents that are known",
        ),
        (
            &config,
            &["agent_ip=192.0.2.9"],
            "agent_ip: 192.0.2.9 is none of the agents that are known",
        ),
        (
            &config,
            &["agent_index=1", "agent_ip=192.0.2.1", "agent_hosts=192.0.2.1,192.0.2.2"],
            "agent_index: 192.0.2.1 has the index 0",
        ),
        (
            &small,
            &["agent_index=0", "agent_hosts=192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4"],
            "agent_hosts: vtep_subnet 44.128.0.0/30 has no address for agent 2",
        ),
        (&state, &["agent_hosts=192.0.2.1"], "agent_hosts: this agent is not among agent_hosts"),
        (&master, &["agent_index=3"], "agent_index: no agent has the index 3: 3 are known"),
        (
            &master,
            &["agent_ip=192.0.2.99"],
            "agent_ip: 192.0.2.99 is none of the agents that are known",
        ),
        ("{\"agents\": [{\"overlays\": []}]}", &[], "agents: an agent's ip is missing"),
        ("{\"agents\": [7]}", &[], "agents[0]: expected an object, found a number"),
    ];
    for (text, set, message) in cases {
        assert_eq!(errors(text, set), [message], "{set:?}");
    }
    let address = ["agent_index=0", HOSTS, "uplink_address=192.0.2.99/24"];
    let refused = convert(Dcos, Native, "x", &config, &settings(&address)).unwrap_err();
    let refused = shown(&refused, Severity::Error);
    assert_eq!(refused, ["uplink_address: tunnels end here at 192.0.2.31, by what the file says"]);
}

#[test]
fn the_highest_addresses_do_not_wrap() {
    let text = "dcos_overlay_network: { vtep_subnet: 255.255.255.0/24, vtep_subnet6: \
                'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124', vtep_mac_oui: \
                '70:B3:D5:00:00:00', overlays: [{ name: a, subnet: 248.0.0.0/5, prefix: 28 }] }\n";
    for index in ["agent_index=16777215", "agent_index=254"] {
        assert!(!errors(text, &[index]).is_empty(), "{index}");
    }
    assert_eq!(errors(text, &["agent_index=253"]), [""; 0]);
    let state = example("agent.json").replace("9.0.1.0/24", "255.255.255.0/24");
    let hosts = "agent_hosts=192.0.2.30,192.0.2.31,192.0.2.32";
    assert_eq!(errors(&state, &[hosts]), ["agent_hosts: overlay dcos has no slice for agent 2"]);
}
