//! The dialect Marathon: every rule with its message and path, the migration from the API of 1.4,
//! ports, and what apps come to as endpoints.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod clock;
mod refused;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clock::cpu_time;
use config::{Config, Dialect, Severity, check_dialect, convert};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Rules that the lists have a case of, at least.
const APP_RULES: usize = 35;
const POD_RULES: usize = 8;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/marathon")
}

fn example(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn settings(set: &[&str]) -> Vec<String> {
    set.iter().map(|&one| one.to_owned()).collect()
}

/// Errors as `path: message`.
fn errors_with(text: &str, set: &[&str]) -> Vec<String> {
    match check_dialect(Dialect::Marathon, "app.json", text, &settings(set)) {
        Ok(_) => Vec::new(),
        Err(found) => {
            let found = found.iter().filter(|one| one.severity == Severity::Error);
            found.map(|one| format!("{}: {}", one.path, one.message)).collect()
        }
    }
}

fn errors(app: &Value) -> Vec<String> {
    errors_with(&app.to_string(), &[])
}

fn warnings(app: &Value) -> Vec<String> {
    let checked = check_dialect(Dialect::Marathon, "app.json", &app.to_string(), &[]).unwrap();
    checked.warnings.iter().map(|one| format!("{}: {}", one.path, one.message)).collect()
}

fn migrated_with(text: &str, set: &[&str]) -> Value {
    let dialect = Dialect::Marathon;
    let converted = convert(dialect, dialect, "app.json", text, &settings(set));
    serde_json::from_str(&converted.unwrap().text).unwrap()
}

fn migrated(app: &Value) -> Value {
    migrated_with(&app.to_string(), &[])
}

/// Checks a list: each file has the one error that stands below it.
fn assert_refused(name: &str, least: usize) {
    let cases = refused::cases(name);
    assert!(cases.len() >= least, "{name} has {} cases", cases.len());
    for (text, message) in cases {
        assert_eq!(errors_with(&text, &[]), [message], "{text}");
    }
}

/// An app with these keys besides those that every app has.
fn app(keys: Value) -> Value {
    let mut app = json!({ "id": "/a", "cmd": "run" });
    app.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    app
}

#[test]
fn what_cannot_be_mixed_is_refused_with_all_that_is_wrong() {
    let docker = |keys: Value| {
        let mut docker = json!({ "image": "x" });
        docker.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        docker
    };
    let discovery = json!({ "discovery": { "ports": [{ "number": 80, "name": "a",
        "protocol": "tcp" }] } });
    let cases = [
        (
            json!({ "networks": [{ "mode": "host" }], "ipAddress": {}, "container": { "type":
                "DOCKER", "docker": docker(json!({ "network": "USER" })) } }),
            vec![
                ": cannot mix deprecated and canonical network APIs",
                "container.docker.network: must not specify both container.docker.network and \
                 networks",
                "ipAddress: must not specify both networks and ipAddress",
            ],
        ),
        (
            json!({ "ipAddress": discovery, "container": { "type": "DOCKER", "docker":
                docker(json!({})) } }),
            vec![
                "ipAddress.discovery: ipAddress.discovery.ports do not apply for container type \
                 DOCKER",
                "ipAddress: ipAddress/discovery is not allowed for Docker containers",
            ],
        ),
        (
            json!({ "container": { "type": "MESOS", "docker": docker(json!({ "credential": {
                "principal": "a" }, "parameters": [{ "key": "a", "value": "b" }] })) } }),
            vec![
                "container.docker.credential: must be empty",
                "container.docker.parameters: must be empty",
            ],
        ),
    ];
    for (mut app, expected) in cases {
        app["id"] = "/a".into();
        app["cmd"] = "x".into();
        let mut found = errors(&app);
        found.sort();
        assert_eq!(found, expected, "{app}");
    }
}

#[test]
fn the_examples_of_the_documents_are_valid() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(errors_with(&example(&name), &[]), [""; 0], "{name}");
        let converted = convert(Dialect::Marathon, Dialect::Native, &name, &example(&name), &[]);
        let converted = converted.unwrap_or_else(|found| panic!("{name}: {found:#?}"));
        let config = Config::parse(&name, &converted.text);
        config.unwrap_or_else(|found| panic!("{name}: {found:#?}\n{}", converted.text));
        count += 1;
    }
    assert_eq!(count, 9);
}

#[test]
fn old_examples_migrate_to_the_new_ones() {
    for (old, new) in [
        ("user-net-old.json", "user-net-new.json"),
        ("bridge-net-old.json", "bridge-net-new.json"),
        ("host-net-old.json", "host-net-new.json"),
    ] {
        let mut from_old = migrated_with(&example(old), &[]);
        from_old["id"] = json!(new.trim_end_matches(".json"));
        let expected: Value = serde_json::from_str(&example(new)).unwrap();
        assert_eq!(from_old, expected, "{old}");
        assert_eq!(migrated_with(&example(new), &[]), expected, "{new} is as it was");
    }
    let text = convert(
        Dialect::Marathon,
        Dialect::Marathon,
        "app.json",
        &example("my-networking.json"),
        &[],
    );
    assert!(text.unwrap().text.contains("\"backoffFactor\": 1.14472988585,"));
}

#[test]
fn a_value_of_the_wrong_type_hides_no_broken_rule() {
    let broken = json!({
        "id": "/a", "cmd": "x", "instances": "two",
        "networks": [{ "mode": "container" }, { "mode": "container", "name": "n" },
            { "mode": "container", "name": "n" }],
        "container": { "type": "MESOS", "portMappings": [
            { "containerPort": 70_000, "name": "p" }, { "protocol": "sctp", "name": "p" }] },
    });
    assert_eq!(
        errors(&broken),
        [
            "container.portMappings[0].containerPort: 70000 is out of bounds: 0 to 65535",
            "container.portMappings[1].name: Port names must be unique.",
            "container.portMappings[1].protocol: unknown word \"sctp\", expected tcp, udp or \
             udp,tcp",
            "instances: expected a whole number, found text",
            "networks[0]: Network name must be specified when container network is selected.",
            "networks[2]: Duplicate networks are not allowed",
        ]
    );
    // What kind of network it is decides the rest.
    let unknown = json!({ "id": "/a", "cmd": "x", "networks": [{ "mode": "brigde" }],
        "container": { "type": "MESOS", "portMappings": [{ "containerPort": 80 }] } });
    assert_eq!(errors(&unknown).len(), 1);
}

#[test]
fn the_invalid_examples_are_refused() {
    let mixed = json!({
        "id": "x-mixed-networks", "cpus": 1, "mem": 128, "instances": 1,
        "container": { "type": "DOCKER", "docker": { "image": "nginx" } },
        "portDefinitions": [{ "port": 0, "protocol": "tcp", "name": "web" }],
        "networks": [{ "mode": "host" }, { "mode": "container/bridge" }],
    });
    let kinds = "networks[1]: May specify a single host network, single bridge network, or else \
                 1-to-n container networks";
    assert_eq!(
        errors(&mixed),
        [kinds, "portDefinitions[0]: portDefinitions are only allowed with host-networking"]
    );
    let mut mixed = mixed;
    mixed.as_object_mut().unwrap().remove("portDefinitions");
    assert_eq!(
        errors(&mixed),
        ["networks[1]: May specify a single host network, single bridge network, or else 1-to-n \
          container networks"]
    );
    let nameless = json!({
        "id": "x-missing-name",
        "container": { "type": "DOCKER", "docker": { "image": "nginx" } },
        "networks": [{ "mode": "container" }],
    });
    assert_eq!(
        errors(&nameless),
        ["networks[0]: Network name must be specified when container network is selected."]
    );
    let text = nameless.to_string();
    assert_eq!(errors_with(&text, &["default_network_name=dcos"]), [""; 0]);
    let named = migrated_with(&text, &["default_network_name=dcos"]);
    assert_eq!(named["networks"], json!([{ "mode": "container", "name": "dcos" }]));
}

#[test]
fn the_migration_follows_the_table() {
    let docker =
        |network: &str| json!({ "type": "DOCKER", "docker": { "image": "i", "network": network } });
    let of = |keys: Value| {
        let app = migrated(&app(keys));
        (app["networks"].clone(), app["container"]["portMappings"].clone())
    };
    let default_mappings = json!([{ "containerPort": 0, "name": "default" }]);
    let bridge_mappings = json!([{ "containerPort": 0, "name": "default", "hostPort": 0 }]);
    assert_eq!(of(json!({})), (json!([{ "mode": "host" }]), Value::Null));
    assert_eq!(of(json!({ "networks": [] })), (json!([{ "mode": "host" }]), Value::Null));
    assert_eq!(
        of(json!({ "container": docker("HOST") })),
        (json!([{ "mode": "host" }]), Value::Null)
    );
    let mut with_mappings = docker("HOST");
    with_mappings["docker"]["portMappings"] = json!([{ "containerPort": 80 }]);
    assert_eq!(of(json!({ "container": with_mappings })).1, Value::Null, "they are dropped");
    assert_eq!(
        of(json!({ "container": docker("BRIDGE") })),
        (json!([{ "mode": "container/bridge" }]), bridge_mappings.clone())
    );
    let ip_address = json!({ "networkName": "n", "labels": { "a": "b" }, "groups": ["g"] });
    assert_eq!(
        of(json!({ "container": docker("USER"), "ipAddress": ip_address })).0,
        json!([{ "mode": "container", "name": "n", "labels": { "a": "b" } }])
    );
    assert_eq!(
        of(json!({ "container": docker("BRIDGE"), "ipAddress": ip_address })).0,
        json!([{ "mode": "container/bridge", "labels": { "a": "b" } }])
    );
    assert_eq!(
        of(json!({ "ipAddress": { "networkName": "n" } })),
        (json!([{ "mode": "container", "name": "n" }]), default_mappings.clone())
    );
    assert_eq!(
        of(json!({ "ipAddress": { "networkName": "mesos-bridge" } })),
        (json!([{ "mode": "container/bridge" }]), bridge_mappings)
    );
    let port = json!({ "number": 80, "name": "web", "protocol": "tcp", "labels": { "a": "b" } });
    assert_eq!(
        of(json!({ "ipAddress": { "networkName": "n", "discovery": { "ports": [port] } } })).1,
        json!([{ "containerPort": 80, "name": "web", "protocol": "tcp", "labels": { "a": "b" } }])
    );
    let app_with_ports = migrated(&app(json!({ "ports": [0, 8080] })));
    assert!(app_with_ports.get("ports").is_none());
    assert_eq!(
        app_with_ports["portDefinitions"],
        json!([{ "port": 0, "protocol": "tcp" }, { "port": 8080, "protocol": "tcp" }])
    );
    let padded = json!({ "container": docker("BRIDGE"), "ports": [7000, 7001] });
    assert_eq!(
        of(padded).1,
        json!([{ "containerPort": 0, "name": "default", "hostPort": 0 },
               { "containerPort": 0, "servicePort": 7001, "hostPort": 0 }])
    );
    let name = ["mesos_bridge_name=n"];
    let text = app(json!({ "ipAddress": { "networkName": "n" } })).to_string();
    assert_eq!(migrated_with(&text, &name)["networks"], json!([{ "mode": "container/bridge" }]));
}

#[test]
fn an_empty_list_is_not_an_absent_one() {
    let host = migrated(&app(json!({ "portDefinitions": [] })));
    assert_eq!(host["portDefinitions"], json!([]));
    let host = migrated(&app(json!({})));
    assert_eq!(host["portDefinitions"], json!([{ "port": 0, "name": "default" }]));
    let networks = json!([{ "mode": "container/bridge" }]);
    let none = migrated(&app(json!({
        "networks": networks, "container": { "type": "MESOS", "portMappings": [] }
    })));
    assert_eq!(none["container"]["portMappings"], json!([]));
    let default = migrated(&app(json!({ "networks": networks, "requirePorts": true })));
    let mappings = json!([{ "containerPort": 0, "name": "default", "hostPort": 0 }]);
    assert_eq!(default["container"], json!({ "type": "MESOS", "portMappings": mappings }));
    assert_eq!(default["requirePorts"], json!(false));
}

#[test]
fn every_rule_of_apps_has_its_message_and_path() {
    assert_refused("marathon-apps.txt", APP_RULES);
    let id = errors(&app(json!({ "id": "/A_b" })));
    assert!(id[0].starts_with("id: must fully match regular expression"), "{id:?}");
}

#[test]
fn valid_neighbours_of_the_rules_are_taken() {
    let container = |name: &str| json!({ "mode": "container", "name": name });
    for keys in [
        json!({ "networks": [{ "mode": "host", "name": "" }] }),
        json!({ "networks": [container("a"), container("b")],
                "container": { "portMappings": [
                    { "containerPort": 80, "hostPort": 31000, "networkNames": ["a"] },
                    { "containerPort": 81 }] } }),
        json!({ "portDefinitions": [{ "port": 0 }, { "port": 0 }] }),
        json!({ "ports": [80], "portDefinitions": [{ "port": 80 }] }),
        json!({ "healthChecks": [{ "protocol": "HTTP" }] }),
        json!({ "healthChecks": [{ "protocol": "COMMAND", "command": { "value": "x" } }] }),
        json!({ "container": { "type": "DOCKER", "docker": { "image": "i" } },
                "healthChecks": [{ "protocol": "MESOS_HTTP", "ipProtocol": "IPv6" }] }),
        json!({ "networks": null, "ipAddress": null, "portDefinitions": null }),
    ] {
        assert_eq!(errors(&app(keys.clone())), [""; 0], "{keys}");
    }
}

#[test]
fn every_rule_of_pods_has_its_message_and_path() {
    assert_refused("marathon-pods.txt", POD_RULES);
    let host = json!({ "id": "/p", "networks": [{ "mode": "host" }], "containers": [
        { "name": "c", "endpoints": [{ "name": "a", "containerPort": 1 }] }] });
    assert_eq!(
        errors(&host),
        [
            "containers[0].endpoints[0]: hostPort is required when using host-mode networking",
            "containers[0].endpoints[0].containerPort: is not allowed when using host-mode \
             networking",
        ]
    );
    let valid = json!({ "id": "/p", "networks": [{ "name": "n" }], "containers": [
        { "name": "c", "endpoints": [{ "name": "a", "containerPort": 1 }] }] });
    assert_eq!(errors(&valid), [""; 0]);
}

#[test]
fn groups_are_walked_and_ids_are_absolute() {
    let group = json!({ "id": "/", "groups": [
        { "id": "a", "apps": [{ "id": "x", "cmd": "r" }, { "id": "../y", "cmd": "r" }],
          "groups": [{ "id": "/a/b", "apps": [{ "id": "x", "cmd": "r", "ports": [1, 1] }] }] }] });
    assert_eq!(errors(&group), ["groups[0].groups[0].apps[0].ports[1]: ports must be unique"]);
    let list = json!([{ "id": "/x", "cmd": "r" }, { "id": "x", "cmd": "r" }]);
    assert_eq!(errors(&list), ["[1].id: An app with id [/x] already exists."]);
}

#[test]
fn unknown_fields_are_warned_of_with_the_nearest() {
    let app = app(json!({ "netwroks": [], "networks": [{ "mode": "host", "nam": "x" }] }));
    let checked = check_dialect(Dialect::Marathon, "a.json", &app.to_string(), &[]).unwrap();
    let said: Vec<(&str, Option<&str>)> =
        checked.warnings.iter().map(|one| (one.message.as_str(), one.hint.as_deref())).collect();
    assert_eq!(said.len(), 2);
    assert!(said.contains(&("unknown field \"netwroks\"", Some("did you mean networks?"))));
    assert!(said.contains(&("unknown field \"nam\"", Some("did you mean name?"))));
}

#[test]
fn ports_are_given_out_as_marathon_does() {
    let app = app(json!({
        "instances": 2, "networks": [{ "mode": "container/bridge" }],
        "container": { "portMappings": [
            { "containerPort": 80, "name": "http-alt", "labels": { "VIP_0": "/web:80" } },
            { "containerPort": 0, "hostPort": 0, "servicePort": 10000 },
            { "containerPort": 53, "hostPort": 31002, "protocol": "udp,tcp" }] },
    }));
    let set = settings(&["offered_ports=31000-31005"]);
    let checked = check_dialect(Dialect::Marathon, "a", &app.to_string(), &set).unwrap();
    let [head, vip, first, second] = checked.summary.as_slice() else {
        panic!("{:?}", checked.summary)
    };
    assert_eq!(head, "app /a: 2 instances in bridge network bridge");
    assert_eq!(vip, "  VIP_0 is web.marathon.l4lb.thisdcos.directory:80");
    let hosts: Vec<u16> = [first, second]
        .iter()
        .flat_map(|line| line.split(", ").map(|part| part.split(" (").next().unwrap()))
        .map(|part| part.rsplit('=').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!((hosts[2], hosts[5]), (31002, 53), "one agent has a fixed port once");
    let mut dynamic = vec![hosts[0], hosts[1], hosts[3], hosts[4]];
    dynamic.sort_unstable();
    assert!(dynamic.iter().all(|port| (31000..=31005).contains(port) && *port != 31002));
    assert!(dynamic.windows(2).all(|pair| pair[0] != pair[1]), "{dynamic:?}");
    let port = hosts[0];
    let start = format!("  a_0: $PORT0=$PORT=$PORT_80=$PORT_HTTP_ALT={port} (service port 10001)");
    assert!(first.starts_with(&start), "{first}");
    assert!(first.contains(&format!("$PORT1=$PORT_{0}={0} (service port 10000)", hosts[1])));
    assert!(first.ends_with("$PORT2=$PORT_53=31002 (service port 10002)"), "{first}");
    let said = checked.warnings.iter().map(|one| one.message.as_str()).collect::<Vec<_>>();
    assert_eq!(said, ["one agent has port 31002 once: only the first of 2 instances gets it"]);
}

#[test]
fn ports_run_out_with_marathons_words() {
    let app = app(json!({ "portDefinitions": [{}, {}, {}] }));
    let text = app.to_string();
    assert_eq!(
        errors_with(&text, &["local_port_min=10000", "local_port_max=10002"]),
        ["portDefinitions[2]: All ports in the range [10000-10002) are already in use"]
    );
    let set = settings(&["offered_ports=31000"]);
    let checked = check_dialect(Dialect::Marathon, "a", &text, &set).unwrap();
    assert_eq!(checked.warnings.len(), 1, "{:?}", checked.warnings);
    let refused = convert(Dialect::Marathon, Dialect::Native, "a", &text, &set).unwrap_err();
    assert!(refused[0].message.contains("the offer has no port left"), "{refused:?}");
    let required = json!({ "id": "/a", "cmd": "r", "requirePorts": true,
                           "portDefinitions": [{ "port": 80 }] });
    assert_eq!(
        warnings(&required),
        ["portDefinitions[0]: port 80 is not in the offer 31000-32000"]
    );
}

#[test]
fn settings_are_checked() {
    let app = app(json!({})).to_string();
    let cases = [
        ("local_port_min=0", "local_port_min: 0 is out of bounds: 1 to 65535"),
        ("local_port_min=x", "local_port_min: expected a whole number, found \"x\""),
        ("local_port_max=10000", "local_port_max: there are no ports from 10000 to below 10000"),
        ("offered_ports=5-1", "offered_ports: \"5-1\" is no list of ports"),
        ("create=yes", "create: expected true or false, found \"yes\""),
        ("offred_ports=1", "offred_ports: the dialect marathon has no such setting"),
        ("x", ": expected KEY=VALUE"),
    ];
    for (set, message) in cases {
        assert_eq!(errors_with(&app, &[set]), [message], "{set}");
    }
}

#[test]
fn a_converted_app_is_the_endpoints_that_it_runs_as() {
    let set = settings(&["offered_ports=31000-31001", "netns_prefix=m-", "interface=ens3"]);
    let text = example("shop.json");
    let converted = convert(Dialect::Marathon, Dialect::Native, "shop.json", &text, &set).unwrap();
    let config = Config::parse("shop.toml", &converted.text).unwrap();
    let names: Vec<&str> = config.endpoints.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["shop_web_0", "shop_web_1", "shop_store_0"]);
    let resolved = config.to_toml();
    for part in [
        "[network.back]",
        "[network.bridge]",
        "netns = \"m-shop_web_0\"",
        "interface = \"ens3\"",
        ":8080/tcp\"",
        "0.0.0.0:5432:5432/tcp",
        "0.0.0.0:31000:",
        "0.0.0.0:31001:",
    ] {
        assert!(resolved.contains(part), "{part} in {resolved}");
    }
    let said: Vec<&str> = converted.warnings.iter().map(|one| one.message.as_str()).collect();
    assert!(said.contains(&"VIP_0: balancing over a VIP is not in this version"), "{said:?}");
    assert!(said.contains(&"network back is not in this file: it gets a free subnet"));
    assert!(said.iter().any(|one| one.contains("the uplink is an example")));
    let host = app(json!({ "instances": 2 })).to_string();
    let converted = convert(Dialect::Marathon, Dialect::Native, "a", &host, &[]).unwrap();
    let config = Config::parse("a.toml", &converted.text).unwrap();
    assert_eq!(config.endpoints.len(), 2);
    assert!(config.endpoints.iter().all(|one| one.attachments.is_empty()), "no port of ours");
}

#[test]
fn ten_thousand_apps_are_checked_in_a_second() {
    let mut apps = Vec::new();
    for index in 0..10_000 {
        let mut app: Value = serde_json::from_str(&example("bridge-net-old.json")).unwrap();
        app["id"] = json!(format!("/group-{}/app-{index}", index % 100));
        app["labels"] = json!({ "owner": "somebody", "HAPROXY_GROUP": "external" });
        apps.push(app);
    }
    let text = serde_json::to_string_pretty(&apps).unwrap();
    assert!(text.len() > 4_000_000);
    let (checked, took) =
        cpu_time(|| check_dialect(Dialect::Marathon, "apps.json", &text, &[]).unwrap());
    assert_eq!(checked.summary.len(), 20_000);
    // A test build takes ten times as long; that is only seen not to explode.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 1 });
    assert!(took < limit, "{took:?}");
    println!("10,000 apps, {} bytes, in {took:?}", text.len());
}

fn networks() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!([])),
        Just(json!([{ "mode": "host" }])),
        Just(json!([{ "mode": "container/bridge" }])),
        Just(json!([{ "name": "a" }, { "mode": "container", "name": "b" }])),
        Just(json!([{ "mode": "container" }])),
    ]
}

fn ports() -> impl Strategy<Value = Value> {
    let host_port = prop_oneof![Just(json!(null)), Just(json!(0)), Just(json!(31001))];
    let mapping = (0u16..100, host_port).prop_map(|(container, host)| {
        json!({ "containerPort": container, "hostPort": host, "networkNames": [] })
    });
    proptest::collection::vec(mapping, 0..3).prop_map(Value::from)
}

prop_compose! {
    /// Apps of either API, mostly valid.
    fn any_app()(
        networks in proptest::option::of(networks()),
        docker_network in proptest::option::of("HOST|BRIDGE|USER"),
        mappings in proptest::option::of(ports()),
        old_mappings in proptest::option::of(ports()),
        ports in proptest::option::of(proptest::collection::vec(0u16..3, 0..3)),
        name in proptest::option::of("[a-z]{1,3}"),
        instances in 0u8..3,
    ) -> Value {
        let mut app = json!({ "id": "/a", "cmd": "r", "instances": instances });
        let mut container = json!({ "type": "DOCKER", "docker": { "image": "i" } });
        let mut set = |at: &str, value: Option<Value>| {
            if let Some(value) = value {
                app[at] = value;
            }
        };
        set("networks", networks);
        set("ports", ports.map(Value::from));
        set("ipAddress", name.map(|name| json!({ "networkName": name })));
        if let Some(network) = docker_network {
            container["docker"]["network"] = json!(network);
        }
        if let Some(mappings) = old_mappings {
            container["docker"]["portMappings"] = mappings;
        }
        if let Some(mappings) = mappings {
            container["portMappings"] = mappings;
        }
        app["container"] = container;
        app
    }
}

proptest! {
    #[test]
    fn converting_twice_is_converting_once(app in any_app()) {
        let (dialect, set) = (Dialect::Marathon, settings(&["default_network_name=d"]));
        let once = convert(dialect, dialect, "a", &app.to_string(), &set);
        if let Ok(once) = once {
            let twice = convert(dialect, dialect, "a", &once.text, &set);
            prop_assert_eq!(twice.unwrap().text, once.text.clone());
            // What it means is the same before and after, and is a config, unless two want a port.
            let native = |text: &str| match convert(dialect, Dialect::Native, "a", text, &set) {
                Ok(native) => Config::parse("a", &native.text).unwrap().to_toml(),
                Err(found) => found
                    .iter()
                    .filter(|one| one.severity == Severity::Error)
                    .map(|one| one.message.clone())
                    .collect(),
            };
            prop_assert_eq!(native(&app.to_string()), native(&once.text));
        }
    }
}
