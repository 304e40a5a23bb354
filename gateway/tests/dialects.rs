//! Files of other dialects with real traffic: converted and run as they are, and imported.
//!
//! Needs root; does not skip without it. Every namespace has a name of this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use config::{Config, Dialect, convert};
use gateway::traffic::{ANSWER_WITHIN, SILENCE, echo_tcp, ping};
use rustix::process::Signal;

use common::{Daemon, PROGRAM, Scratch};

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A file as a native config, with namespaces of this test and the uplink's host in one of them.
fn converted(scratch: &Scratch, dialect: Dialect, text: &str, set: &[&str]) -> String {
    let mut settings: Vec<String> = set.iter().map(|&one| one.to_owned()).collect();
    settings.push(format!("netns_prefix={}", scratch.name("")));
    let native = convert(dialect, Dialect::Native, "x", text, &settings);
    let native = native.unwrap_or_else(|found| panic!("{found:#?}")).text;
    let outside = format!("[uplink.wan]\nnetns = {:?}\ncreate = true\n", scratch.name("outside"));
    native.replace("[uplink.wan]\n", &outside)
}

/// Starts a config and says what it came to.
fn start(scratch: &Scratch, text: &str) -> (Daemon, Config) {
    let path = scratch.config(text);
    let config = Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}\n{text}"));
    let mut daemon = Daemon::start(&path);
    daemon.wait_ready();
    (daemon, config)
}

fn end(scratch: &Scratch, mut daemon: Daemon) {
    assert!(daemon.terminate().success(), "{:?}", daemon.log);
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}

/// An endpoint's IPv4 address in a network.
fn ip(config: &Config, endpoint: &str, network: &str) -> IpAddr {
    let endpoint = config.endpoint(endpoint).unwrap();
    let found = endpoint.attachments.iter().find(|one| one.network == network);
    found.unwrap().ipv4_address().unwrap().into()
}

/// A client outside reaches what listens in an endpoint, at a port of the gateway.
fn assert_published(
    scratch: &Scratch,
    config: &Config,
    (endpoint, network): (&str, &str),
    (host_port, port): (u16, u16),
) {
    let (outside, inside) = (scratch.path("outside"), scratch.path(endpoint));
    let listening = (ip(config, endpoint, network), port).into();
    let published = (address("192.0.2.10"), host_port).into();
    let seen = echo_tcp((&inside, listening), (&outside, published), 100_000).unwrap();
    assert_eq!(seen, address("192.0.2.1"), "the client's address is kept");
}

/// The port that an endpoint is published at.
fn host_port(config: &Config, endpoint: &str) -> u16 {
    config.endpoint(endpoint).unwrap().publish[0].host_port
}

#[test]
fn marathon_apps_of_either_api_run_as_their_endpoints() {
    let scratch = Scratch::new("apps");
    let names = [
        "my-networking",
        "user-net-old",
        "user-net-new",
        "user-net-multi",
        "bridge-net-old",
        "bridge-net-new",
        "host-net-old",
        "host-net-new",
    ];
    let texts: Vec<String> =
        names.iter().map(|name| example(&format!("marathon/{name}.json"))).collect();
    let all = format!("[{}]", texts.join(","));
    let text = converted(&scratch, Dialect::Marathon, &all, &[]);
    let (daemon, config) = start(&scratch, &text);
    // All but the outside and the two in the host's network have a namespace.
    assert_eq!(scratch.namespaces_left().len(), 1 + names.len() - 2);
    for bridge in ["bridge-net-old_0", "bridge-net-new_0"] {
        let port = host_port(&config, bridge);
        assert!((31_000..=32_000).contains(&port), "{port} is of the offer");
        assert_published(&scratch, &config, (bridge, "bridge"), (port, 80));
    }
    let (old, new) = (scratch.path("user-net-old_0"), scratch.path("user-net-new_0"));
    let own = ip(&config, "user-net-new_0", "dcos");
    ping(&old, own, ANSWER_WITHIN).unwrap();
    let listening = (own, 80).into();
    let seen = echo_tcp((&new, listening), (&old, listening), 100_000).unwrap();
    assert_eq!(seen, ip(&config, "user-net-old_0", "dcos"));
    // Another container network is another network.
    let multi = scratch.path("user-net-multi_0");
    assert!(ping(&multi, own, SILENCE).is_err());
    for network in ["first", "second"] {
        let gateway = config.networks.iter().find(|one| one.name == network).unwrap();
        ping(&multi, gateway.subnets[0].gateway, ANSWER_WITHIN).unwrap();
    }
    end(&scratch, daemon);
}

#[test]
fn a_group_with_a_pod_is_reached_at_its_ports() {
    let scratch = Scratch::new("group");
    let text = converted(&scratch, Dialect::Marathon, &example("marathon/shop.json"), &[]);
    let (daemon, config) = start(&scratch, &text);
    for web in ["shop_web_0", "shop_web_1"] {
        let port = host_port(&config, web);
        assert_published(&scratch, &config, (web, "bridge"), (port, 8080));
    }
    assert_published(&scratch, &config, ("shop_store_0", "back"), (5432, 5432));
    end(&scratch, daemon);
}

#[test]
fn a_compose_project_runs() {
    let scratch = Scratch::new("compose");
    let text = converted(&scratch, Dialect::Docker, &example("docker/compose.yaml"), &[]);
    let (daemon, config) = start(&scratch, &text);
    assert_published(&scratch, &config, ("shop-web-1", "shop_front"), (8080, 80));
    assert_published(&scratch, &config, ("shop-web-1", "shop_front"), (8443, 443));
    let web = scratch.path("shop-web-1");
    for store in ["shop-store-1", "shop-store-2"] {
        ping(&web, ip(&config, store, "shop_back"), ANSWER_WITHIN).unwrap();
    }
    // The network of the stores has no way out.
    assert!(ping(&scratch.path("shop-store-1"), address("192.0.2.1"), SILENCE).is_err());
    ping(&web, address("192.0.2.1"), ANSWER_WITHIN).unwrap();
    end(&scratch, daemon);
}

#[test]
fn inspected_networks_run_with_their_containers() {
    let scratch = Scratch::new("inspect");
    let text = converted(&scratch, Dialect::Docker, &example("docker/inspect-1.10.json"), &[]);
    let (daemon, _) = start(&scratch, &text);
    let (first, second) = (scratch.path("3386a527aa08"), scratch.path("94447ca47985"));
    ping(&first, address("172.17.0.3"), ANSWER_WITHIN).unwrap();
    let listening = (address("172.17.0.2"), 80).into();
    let seen = echo_tcp((&first, listening), (&second, listening), 100_000).unwrap();
    assert_eq!(seen, address("172.17.0.3"));
    end(&scratch, daemon);
}

#[test]
fn networks_that_docker_inspects_today_run_with_their_containers() {
    let scratch = Scratch::new("today");
    let text = converted(&scratch, Dialect::Docker, &example("docker/inspect.json"), &[]);
    // Somebody else in the network, as the file has one container.
    let other = format!(
        "[endpoint.other]\nattach = {{ netns = {:?}, create = true }}\n\
         network = [{{ name = \"isolated_nw\" }}]\n",
        scratch.name("other")
    );
    let (daemon, config) = start(&scratch, &format!("{text}\n{other}"));
    assert_eq!(ip(&config, "other", "isolated_nw"), address("172.21.4.0"), "of the range");
    let (container, other) = (scratch.path("container3"), scratch.path("other"));
    for (gateway, own) in [("172.21.0.1", "172.21.0.2"), ("fd00:21::1", "fd00:21::2")] {
        ping(&container, address(gateway), ANSWER_WITHIN).unwrap();
        let listening = (address(own), 80).into();
        echo_tcp((&container, listening), (&other, listening), 100_000).unwrap();
    }
    end(&scratch, daemon);
}

/// Two endpoints of a network, and what is imported.
fn importing(dialect: &str, file: &str, network: &str) -> String {
    let endpoint = |name: &str| {
        format!(
            "[endpoint.{name}]\nattach = {{ netns = \"PREFIX{name}\", create = true }}\n\
             network = [{{ name = {network:?} }}]\n"
        )
    };
    format!(
        "[[import]]\ndialect = {dialect:?}\npath = {file:?}\n{}{}",
        endpoint("alice"),
        endpoint("bob")
    )
}

/// Puts files beside the config.
fn put(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = scratch.folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn networks_of_cni_and_dcos_are_imported() {
    for (name, dialect, file, network, subnet) in [
        ("cni", "cni", "cni/dcos.json", "dcos", "9.0.1."),
        ("list", "cni", "cni/front.conflist", "front", "10.88.1."),
        ("dcos", "dcos", "dcos/agent.json", "m-dcos", "9.0.1."),
    ] {
        let scratch = Scratch::new(name);
        put(&scratch, file, &example(file));
        let (daemon, config) = start(&scratch, &importing(dialect, file, network));
        let [alice, bob] = ["alice", "bob"].map(|name| ip(&config, name, network));
        assert!(alice.to_string().starts_with(subnet), "{alice}");
        let listening = (bob, 80).into();
        let (client, server) = (scratch.path("alice"), scratch.path("bob"));
        assert_eq!(echo_tcp((&server, listening), (&client, listening), 100_000).unwrap(), alice);
        end(&scratch, daemon);
    }
}

#[test]
fn a_reload_reads_what_is_imported_again() {
    let scratch = Scratch::new("reload");
    let app = |id: &str| {
        format!("{{\"id\": \"{id}\", \"cmd\": \"r\", \"networks\": [{{\"name\": \"back\"}}]}}")
    };
    put(&scratch, "apps/a.json", &app("/a"));
    let text = format!(
        "[network.back]\nsubnet = \"10.7.0.0/24\"\n[[import]]\ndialect = \"marathon\"\n\
         path = \"apps/*.json\"\nset = {{ netns_prefix = {:?} }}\n",
        scratch.name("")
    );
    let (mut daemon, _) = start(&scratch, &text);
    put(&scratch, "apps/b.json", &app("/b"));
    daemon.signal(Signal::HUP);
    daemon.wait_for("addition", |line| line.contains("b_0") || line.contains("reloaded"));
    ping(&scratch.path("a_0"), address("10.7.0.3"), ANSWER_WITHIN).unwrap();
    // A mistake in an imported file changes nothing, and is shown with its place.
    put(&scratch, "apps/b.json", "{\"id\": 7}");
    daemon.signal(Signal::HUP);
    daemon.wait_for("refusal", |line| line.contains("apps/b.json:1:8"));
    ping(&scratch.path("b_0"), address("10.7.0.2"), ANSWER_WITHIN).unwrap();
    end(&scratch, daemon);
}

#[test]
fn the_command_line_checks_and_converts() {
    let scratch = Scratch::new("line");
    let app = put(&scratch, "app.json", &example("marathon/bridge-net-old.json"));
    let bad = put(&scratch, "bad.json", "{\"id\": “a”, \"ports\": [1, 1]}");
    let portolan = |arguments: &[&str], file: &Path| {
        let output = Command::new(PROGRAM).args(arguments).arg(file).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let check = ["check", "--dialect", "marathon", "--set", "offered_ports=31000"];
    let (code, out, _) = portolan(&check, &app);
    assert_eq!(code, Some(0));
    assert!(out.contains("bridge-net-old_0: $PORT0=$PORT=$PORT_80=$PORT_WEB=31000"), "{out}");
    let (code, out, _) = portolan(&["check", "--dialect", "marathon", "--format", "json"], &bad);
    assert_eq!(code, Some(1));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((found[0]["line"].clone(), found[0]["column"].clone()), (1.into(), 8.into()));
    assert!(found[0]["message"].as_str().unwrap().starts_with("“ is a typographic quotation mark"));
    assert!(found.as_array().unwrap().len() >= 3, "all in one run: {found:#}");
    for (dialect, text, path) in [
        ("dcos", "dcos_overlay_mtu: 1\n", "dcos_overlay_mtu"),
        ("cni", "{\"name\": \"n\", \"type\": \"bridge\", \"mtu\": -1}", "mtu"),
        ("docker", "[{\"Name\": \"n\", \"Internal\": 7}]", "[0].Internal"),
        ("native", "[network.n]\nmtu = 1\n", "network.n.mtu"),
    ] {
        let file = put(&scratch, "one", text);
        let (code, out, _) = portolan(&["check", "--dialect", dialect, "--format", "json"], &file);
        assert_eq!(code, Some(1), "{dialect}: {out}");
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found[0]["path"], path, "{dialect}: {found:#}");
        assert!(found[0]["line"].is_u64() && found[0]["column"].is_u64(), "{found:#}");
        assert_eq!(found[0]["severity"], "error");
    }
    let convert = ["convert", "--from", "marathon", "--to", "marathon"];
    let (code, once, _) = portolan(&convert, &app);
    assert_eq!(code, Some(0));
    let again = put(&scratch, "again.json", &once);
    assert_eq!(portolan(&convert, &again).1, once, "twice is once");
    let (code, native, said) = portolan(&["convert", "--from", "marathon"], &app);
    assert_eq!(code, Some(0));
    assert!(said.contains("the uplink is an example"), "{said}");
    let native = put(&scratch, "native.toml", &native);
    let (code, out, _) = portolan(&["check"], &native);
    assert_eq!((code, out.ends_with(": valid\n")), (Some(0), true));
}
