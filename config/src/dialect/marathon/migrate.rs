//! From the API of 1.4 to that of 1.5, and the defaults that Marathon answers with.
//!
//! Both work on the tree, so whatever they do not touch stays as it was written. An app that is in
//! the present form already is not changed: migrating twice is migrating once.

use super::super::tree::{Node, Value};
use super::options::Options;
use crate::report::{PlaceId, Report};

const HOST: &str = "host";
const BRIDGE: &str = "container/bridge";
const CONTAINER: &str = "container";

/// Brings an app that [`super::old`] has taken to the present API.
pub(super) fn migrate(app: &mut Node, options: &Options, report: &mut Report) {
    let ip_address = app.remove("ipAddress").filter(Node::is_map);
    let docker_network = remove_docker_network(app, report);
    let given = app.get("networks").is_some_and(|networks| !networks.items().is_empty());
    let at = app.at;
    if !given
        && let Some(network) = network(at, ip_address.as_ref(), docker_network, options, report)
    {
        app.set("networks", Node::new(at, Value::List(vec![network])));
    }
    let old_ports = app.remove("ports").filter(|ports| !matches!(ports.value, Value::Null));
    if app.get("portDefinitions").is_none()
        && let Some(ports) = old_ports
    {
        let definitions = ports.items().iter().map(|port| {
            Node::map_of(
                port.at,
                [("port", port.clone()), ("protocol", Node::text_of(port.at, "tcp"))],
            )
        });
        let definitions = Node::new(ports.at, Value::List(definitions.collect()));
        app.set("portDefinitions", definitions);
    }
    let is_host = mode_of(app) == HOST;
    if app.get("container").is_none() && ip_address.is_some() {
        let container = Node::map_of(at, [("type", Node::text_of(at, "MESOS"))]);
        app.set("container", container);
    }
    move_mappings(app, ip_address.as_ref(), is_host);
    if is_host {
        if app.get("portDefinitions").is_none() {
            let definition =
                [("port", Node::number_of(at, 0)), ("name", Node::text_of(at, "default"))];
            let definitions = Value::List(vec![Node::map_of(at, definition)]);
            app.set("portDefinitions", Node::new(at, definitions));
        }
    } else {
        app.remove("portDefinitions");
    }
    default_port_index(app);
}

/// The mode of an app's first network; without one it is in the host's.
fn mode_of(app: &Node) -> &str {
    let first = app.get("networks").and_then(|networks| networks.items().first());
    match first {
        None => HOST,
        Some(network) => network.get("mode").and_then(Node::as_text).unwrap_or(CONTAINER),
    }
}

fn remove_docker_network(app: &mut Node, report: &mut Report) -> Option<(String, PlaceId)> {
    let docker = app.get_mut("container")?.get_mut("docker")?;
    let network = docker.remove("network")?;
    if matches!(network.value, Value::Null) {
        return None;
    }
    network.text(report).map(|text| (text.to_owned(), network.at))
}

/// The network that the old API asks for, if it asks for one.
fn network(
    at: PlaceId,
    ip_address: Option<&Node>,
    docker_network: Option<(String, PlaceId)>,
    options: &Options,
    report: &mut Report,
) -> Option<Node> {
    let of_mode = |mode: &str| Node::map_of(at, [("mode", Node::text_of(at, mode))]);
    let labels = ip_address.and_then(|ip| ip.get("labels")).cloned();
    let name = ip_address.and_then(|ip| ip.get("networkName")).cloned();
    let with = |mut network: Node, name: Option<Node>| {
        if let Some(name) = name {
            network.set("name", name);
        }
        if let Some(labels) = labels.filter(|labels| !labels.entries().is_empty()) {
            network.set("labels", labels);
        }
        network
    };
    match docker_network {
        Some((kind, kind_at)) => match kind.as_str() {
            "HOST" => Some(of_mode(HOST)),
            "USER" => Some(with(of_mode(CONTAINER), name)),
            "BRIDGE" => {
                if let Some(name) = name {
                    let message = "the network's name means nothing with BRIDGE and is left out";
                    report.warning(name.at, message);
                }
                Some(with(of_mode(BRIDGE), None))
            }
            "NONE" => {
                report.error(kind_at, "unsupported docker network type NONE");
                None
            }
            other => {
                let message =
                    format!("unknown word {other:?}, expected BRIDGE, HOST, NONE or USER");
                report.error(kind_at, message);
                None
            }
        },
        None => {
            ip_address?;
            let is_bridge =
                name.as_ref().and_then(Node::as_text) == Some(&options.mesos_bridge_name);
            Some(match is_bridge {
                true => with(of_mode(BRIDGE), None),
                false => with(of_mode(CONTAINER), name),
            })
        }
    }
}

/// Port mappings to where they stand now, with those that the old API has elsewhere.
fn move_mappings(app: &mut Node, ip_address: Option<&Node>, is_host: bool) {
    let definitions = app.get("portDefinitions").map(|ports| ports.items().to_vec());
    let Some(container) = app.get_mut("container").filter(|container| container.is_map()) else {
        return;
    };
    let at = container.at;
    let moved = container.get_mut("docker").and_then(|docker| docker.remove("portMappings"));
    let own = container.get("portMappings").is_some_and(|own| !own.items().is_empty());
    if let Some(moved) = moved.filter(|moved| !own && !matches!(moved.value, Value::Null)) {
        container.set("portMappings", moved);
    }
    let discovered = ip_address.and_then(|ip| ip.get("discovery")?.get("ports"));
    if let Some(ports) = discovered.filter(|ports| !ports.items().is_empty()) {
        let mappings = ports.items().iter().map(mapping_of_discovery).collect();
        container.set("portMappings", Node::new(ports.at, Value::List(mappings)));
    }
    if is_host {
        container.remove("portMappings");
        return;
    }
    if container.get("portMappings").is_none() {
        container.set("portMappings", default_mappings(at));
    }
    let Some(Value::List(mappings)) = container.get_mut("portMappings").map(|node| &mut node.value)
    else {
        return;
    };
    // Ports beyond the mappings were service ports of mappings that nobody wrote.
    for definition in definitions.into_iter().flatten().skip(mappings.len()) {
        let mut mapping =
            Node::map_of(definition.at, [("containerPort", Node::number_of(definition.at, 0))]);
        for (from, to) in [("port", "servicePort"), ("labels", "labels")] {
            if let Some(value) = definition.get(from) {
                mapping.set(to, value.clone());
            }
        }
        mappings.push(mapping);
    }
}

fn mapping_of_discovery(port: &Node) -> Node {
    let keys = [
        ("number", "containerPort"),
        ("name", "name"),
        ("protocol", "protocol"),
        ("labels", "labels"),
    ];
    let values = keys.into_iter().filter_map(|(from, to)| Some((to, port.get(from)?.clone())));
    Node::map_of(port.at, values.collect::<Vec<_>>())
}

fn default_mappings(at: PlaceId) -> Node {
    let mapping =
        [("containerPort", Node::number_of(at, 0)), ("name", Node::text_of(at, "default"))];
    Node::new(at, Value::List(vec![Node::map_of(at, mapping)]))
}

/// A health check of Marathon's own that names no port checks the first one.
fn default_port_index(app: &mut Node) {
    let has = |ports: Option<&Node>| ports.is_some_and(|ports| !ports.items().is_empty());
    let mappings = app.get("container").and_then(|container| container.get("portMappings"));
    if !has(mappings) && !has(app.get("portDefinitions")) {
        return;
    }
    let Some(Value::List(checks)) = app.get_mut("healthChecks").map(|node| &mut node.value) else {
        return;
    };
    for check in checks.iter_mut().filter(|check| check.is_map()) {
        let is_command = check.get("protocol").and_then(Node::as_text) == Some("COMMAND");
        if !is_command && check.get("port").is_none() && check.get("portIndex").is_none() {
            check.set("portIndex", Node::number_of(check.at, 0));
        }
    }
}

/// Fills in what Marathon fills in once an app is valid.
pub(super) fn finish(app: &mut Node, options: &Options) {
    let at = app.at;
    if app.get("networks").is_none_or(|networks| networks.items().is_empty()) {
        let host = Node::map_of(at, [("mode", Node::text_of(at, HOST))]);
        app.set("networks", Node::new(at, Value::List(vec![host])));
    }
    name_networks(app, options);
    let mode = mode_of(app).to_owned();
    if mode == HOST {
        return;
    }
    if app.get("container").is_none() {
        let container =
            [("type", Node::text_of(at, "MESOS")), ("portMappings", default_mappings(at))];
        app.set("container", Node::map_of(at, container));
    }
    if let Some(requires) = app.get_mut("requirePorts") {
        // It means something in the host's network alone.
        requires.value = Value::Bool(false);
    }
    if mode != BRIDGE {
        return;
    }
    let mappings = app.get_mut("container").and_then(|container| container.get_mut("portMappings"));
    let Some(Value::List(mappings)) = mappings.map(|node| &mut node.value) else { return };
    for mapping in mappings.iter_mut().filter(|mapping| mapping.is_map()) {
        if mapping.get("hostPort").is_none() {
            mapping.set("hostPort", Node::number_of(mapping.at, 0));
        }
    }
}

/// Gives container networks without a name the default one.
pub(super) fn name_networks(node: &mut Node, options: &Options) {
    let Some(Value::List(networks)) = node.get_mut("networks").map(|node| &mut node.value) else {
        return;
    };
    for network in networks.iter_mut().filter(|network| network.is_map()) {
        let is_container =
            matches!(network.get("mode").and_then(Node::as_text), None | Some(CONTAINER));
        let has_name =
            network.get("name").and_then(Node::as_text).is_some_and(|name| !name.is_empty());
        if let (true, false, Some(name)) = (is_container, has_name, &options.default_network_name) {
            network.set("name", Node::text_of(network.at, name));
        }
    }
}
