//! Rules of the API up to 1.4, and of mixing it with the present one.

use std::collections::HashSet;

use super::super::tree::{Node, Value};
use crate::report::Report;

/// Keys of an app that are known, of either API.
const APP: [&str; 50] = [
    "acceptedResourceRoles",
    "args",
    "backoffFactor",
    "backoffSeconds",
    "check",
    "cmd",
    "constraints",
    "container",
    "cpus",
    "dependencies",
    "deployments",
    "disk",
    "env",
    "executor",
    "executorResources",
    "fetch",
    "gpus",
    "healthChecks",
    "id",
    "instances",
    "ipAddress",
    "killSelection",
    "labels",
    "lastTaskFailure",
    "maxLaunchDelaySeconds",
    "mem",
    "networkBandwidth",
    "networks",
    "portDefinitions",
    "ports",
    "readinessCheckResults",
    "readinessChecks",
    "requirePorts",
    "residency",
    "resourceLimits",
    "role",
    "secrets",
    "storeUrls",
    "taskKillGracePeriodSeconds",
    "taskStats",
    "tasks",
    "tasksHealthy",
    "tasksRunning",
    "tasksStaged",
    "tasksUnhealthy",
    "tty",
    "unreachableStrategy",
    "upgradeStrategy",
    "uris",
    "user",
];

/// Keys that say what became of an app.
const APP_STATE: [&str; 2] = ["version", "versionInfo"];

const CONTAINER: [&str; 7] =
    ["type", "docker", "appc", "volumes", "portMappings", "linuxInfo", "maxSize"];
const MAPPING: [&str; 7] =
    ["containerPort", "hostPort", "servicePort", "protocol", "name", "labels", "networkNames"];
const DEFINITION: [&str; 4] = ["port", "protocol", "name", "labels"];
const NETWORK: [&str; 3] = ["mode", "name", "labels"];
const IP_ADDRESS: [&str; 4] = ["networkName", "labels", "groups", "discovery"];

/// Checks an app as it is written.
pub(super) fn validate(app: &Node, report: &mut Report) {
    warn_unknown(app, report);
    let container = app.map_at("container", report);
    let docker = container.and_then(|container| container.map_at("docker", report));
    let ip_address = app.map_at("ipAddress", report);
    let networks = app.list_at("networks", report).unwrap_or_default();
    let docker_network = docker.and_then(|docker| docker.get("network"));
    if let (Some(network), false) = (docker_network, networks.is_empty()) {
        if ip_address.is_some() {
            report.error(app.at, "cannot mix deprecated and canonical network APIs");
        }
        report.error(network.at, "must not specify both container.docker.network and networks");
    }
    if let (Some(ip_address), false) = (ip_address, networks.is_empty()) {
        report.error(ip_address.at, "must not specify both networks and ipAddress");
    }
    if let Some(container) = container {
        validate_container(container, report);
    }
    validate_ports(app, report);
    if let Some(ip_address) = ip_address {
        validate_ip_address(app, ip_address, report);
    }
}

fn validate_container(container: &Node, report: &mut Report) {
    let Some(docker) = container.map_at("docker", report) else { return };
    let is_docker = container.get("type").and_then(Node::as_text) == Some("DOCKER");
    // Null and nothing are the same; an empty list is not, but it is empty.
    let is_set = |key: &str| {
        let node = docker.get(key)?;
        (node.as_text().is_some() || node.is_map() || !node.items().is_empty()).then_some(node)
    };
    let refused: &[&str] = match is_docker {
        true => &["credential"],
        false => &["credential", "network", "parameters", "portMappings"],
    };
    for key in refused {
        if let Some(node) = is_set(key) {
            report.error(node.at, "must be empty");
        }
    }
    let own = container.list_at("portMappings", report).unwrap_or_default();
    let old = docker.list_at("portMappings", report).unwrap_or_default();
    if let (false, Some(at)) = (own.is_empty(), old.first().map(|one| one.at)) {
        report.error(at, "cannot specify both portMappings and docker.portMappings");
    }
    let mut names = HashSet::new();
    for mapping in old {
        if let Some(name) = mapping.get("name")
            && let Some(text) = name.as_text()
            && !names.insert(text)
        {
            report.error(name.at, "Port names must be unique.");
        }
    }
}

fn validate_ports(app: &Node, report: &mut Report) {
    let ports = app.list_at("ports", report).unwrap_or_default();
    let mut seen = HashSet::new();
    let mut numbers = Vec::new();
    for port in ports {
        let number = port.integer(0..=65_535, report);
        numbers.push(number);
        if number.is_some_and(|number| number != 0 && !seen.insert(number)) {
            report.error(port.at, "ports must be unique");
        }
    }
    let definitions = app.list_at("portDefinitions", report).unwrap_or_default();
    if ports.is_empty() || definitions.is_empty() {
        return;
    }
    let of_definitions: Vec<Option<i64>> = definitions
        .iter()
        .map(|one| match &one.get("port").map(|port| &port.value) {
            Some(Value::Number(number)) => number.parse().ok(),
            _ => Some(0),
        })
        .collect();
    if numbers != of_definitions {
        report.error(ports[0].at, "cannot specify both ports and port definitions");
    }
}

fn validate_ip_address(app: &Node, ip_address: &Node, report: &mut Report) {
    ip_address.warn_unknown(&IP_ADDRESS, report);
    for key in ["ports", "portDefinitions"] {
        if let Some(ports) = app.get(key).filter(|ports| !ports.items().is_empty()) {
            report.error(ports.at, "cannot specify both an IP address and port");
        }
    }
    let Some(discovery) = ip_address.map_at("discovery", report) else { return };
    let container = app.get("container");
    let kind = container.and_then(|container| container.get("type")?.as_text());
    let ports = discovery.list_at("ports", report).unwrap_or_default();
    if kind == Some("DOCKER") {
        report.error(ip_address.at, "ipAddress/discovery is not allowed for Docker containers");
        if !ports.is_empty() {
            let message = "ipAddress.discovery.ports do not apply for container type DOCKER";
            report.error(discovery.at, message);
        }
    }
    let mappings = container.and_then(|container| container.get("portMappings"));
    if !ports.is_empty() && mappings.is_some_and(|mappings| !mappings.items().is_empty()) {
        report.error(
            discovery.at,
            "container.portMappings and ipAddress.discovery.ports must not both be set",
        );
    }
}

/// Warns of keys that Marathon does not know, in the parts that are about networks.
fn warn_unknown(app: &Node, report: &mut Report) {
    let known: Vec<&str> = APP.into_iter().chain(APP_STATE).collect();
    app.warn_unknown(&known, report);
    fn items(node: Option<&Node>) -> &[Node] {
        node.map(Node::items).unwrap_or_default()
    }
    for network in items(app.get("networks")) {
        network.warn_unknown(&NETWORK, report);
    }
    for definition in items(app.get("portDefinitions")) {
        definition.warn_unknown(&DEFINITION, report);
    }
    let Some(container) = app.get("container") else { return };
    container.warn_unknown(&CONTAINER, report);
    let old = container.get("docker").and_then(|docker| docker.get("portMappings"));
    for mapping in items(container.get("portMappings")).iter().chain(items(old)) {
        mapping.warn_unknown(&MAPPING, report);
    }
}
