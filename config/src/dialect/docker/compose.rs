//! Compose files: `networks` and what of `services` is about networks.
//!
//! A service is as many endpoints as it has replicas, called as Compose calls containers:
//! `<project>-<service>-<number>`. Networks are called `<project>_<network>`.

use std::collections::HashMap;
use std::path::Path;

use super::super::Source;
use super::super::fragment::{Attaching, Fragment};
use super::super::settings::Settings;
use super::super::tree::{Node, Value};
use super::Reading;
use super::labels::Labels;
use super::pools::{self, COMPOSE};
use super::service::Service;
use super::spec::{Spec, validate_together};
use crate::report::{PlaceId, Report};

const TOP: [&str; 9] = [
    "version", "name", "services", "networks", "volumes", "configs", "secrets", "include", "models",
];
const NETWORK: [&str; 11] = [
    "name",
    "driver",
    "driver_opts",
    "ipam",
    "external",
    "internal",
    "enable_ipv4",
    "enable_ipv6",
    "attachable",
    "labels",
    "ingress",
];
const IPAM: [&str; 3] = ["driver", "config", "options"];

/// The project of a file whose folder has no name.
const PROJECT_DEFAULT: &str = "default";

/// What services can be in.
pub(super) struct Networks {
    /// The networks of the file, by their names there.
    pub(super) by_key: HashMap<String, Known>,
    pub(super) specs: Vec<Spec>,
}

/// A network that services name.
pub(super) struct Known {
    /// What it is called outside of the file.
    pub(super) name: String,
    /// Index in `specs`; `None`: it is external.
    pub(super) spec: Option<usize>,
}

/// Reads a Compose file.
pub(super) fn read(
    node: &Node,
    source: &Source<'_>,
    reading: &mut Reading<'_>,
    fragment: &mut Fragment,
    report: &mut Report,
) {
    let before = report.error_count();
    let (settings, purpose) = (reading.settings, reading.purpose);
    node.warn_unknown_but_x(&TOP, report);
    let project = project(node, source, settings, report);
    let attaching = Attaching::new(settings, report);
    let mut networks = networks(node, &project, report);
    let services: Vec<Service> = node
        .map_at("services", report)
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Service::read(&entry.key, &entry.node, report))
        .collect();
    add_default(&services, &mut networks, &project, node.at);
    for service in &services {
        service.validate(&services, &networks, report);
    }
    validate_together(&networks.specs, report);
    if report.error_count() > before {
        return;
    }
    for spec in &networks.specs {
        spec.add_to(reading, fragment, report);
    }
    for service in &services {
        service.add_to(&project, &networks, &attaching, purpose, fragment, report);
    }
}

/// The project: a setting, the file's own name for itself, or its folder's name.
fn project(node: &Node, source: &Source<'_>, settings: &Settings, report: &mut Report) -> String {
    if let Some((name, _)) = settings.text("project") {
        return name.to_owned();
    }
    if let Some(name) = node.text_at("name", report) {
        return name.to_owned();
    }
    let folder = Path::new(source.name).parent().and_then(Path::file_name);
    let folder = folder.and_then(|name| name.to_str()).unwrap_or(PROJECT_DEFAULT);
    let kept = folder.to_ascii_lowercase();
    let kept: String =
        kept.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    let kept = kept.trim_start_matches(['-', '_']);
    if kept.is_empty() { PROJECT_DEFAULT.to_owned() } else { kept.to_owned() }
}

fn networks(node: &Node, project: &str, report: &mut Report) -> Networks {
    let mut networks = Networks { by_key: HashMap::new(), specs: Vec::new() };
    let tables = node.map_at("networks", report);
    for entry in tables.map(Node::entries).unwrap_or_default() {
        let (key, table) = (&entry.key, &entry.node);
        let mut name = format!("{project}_{key}");
        if matches!(table.value, Value::Null) {
            networks.add(key, Spec::plain(table.at, name));
            continue;
        }
        if table.map(report).is_none() {
            continue;
        }
        table.warn_unknown_but_x(&NETWORK, report);
        if let Some(given) = table.text_at("name", report) {
            name = given.to_owned();
        }
        match external(table, key, report) {
            Some(outside) => {
                let name = table.text_at("name", report).unwrap_or(&outside).to_owned();
                networks.by_key.insert(key.clone(), Known { name, spec: None });
            }
            None => {
                let spec = spec(table, name, report);
                spec.validate(report);
                networks.add(key, spec);
            }
        }
    }
    networks
}

/// What an external network is called, if it is one.
fn external(table: &Node, key: &str, report: &mut Report) -> Option<String> {
    let external = table.get("external")?;
    let name = match &external.value {
        Value::Bool(false) => return None,
        Value::Bool(true) => key.to_owned(),
        Value::Map(_) => external.text_at("name", report).unwrap_or(key).to_owned(),
        _ => {
            external.expected("a boolean", report);
            return None;
        }
    };
    for other in ["driver", "driver_opts", "ipam", "internal", "enable_ipv6"] {
        if let Some(other_node) = table.get(other) {
            let message = format!("conflicting parameters \"external\" and {other:?} specified");
            report.error(other_node.at, message);
        }
    }
    Some(name)
}

fn spec(table: &Node, name: String, report: &mut Report) -> Spec {
    let internal = table.get("internal").and_then(|node| Some((node.flag(report)?, node.at)));
    let is_internal = internal.is_some_and(|(internal, _)| internal);
    let ipam = table.map_at("ipam", report);
    if let Some(ipam) = ipam {
        ipam.warn_unknown_but_x(&IPAM, report);
    }
    let driver = table.text_at("driver", report).unwrap_or("bridge");
    Spec {
        at: table.at,
        name,
        driver: driver.to_owned(),
        driver_at: table.get("driver").map_or(table.at, |driver| driver.at),
        internal,
        ipv4: table.flag_at("enable_ipv4", report),
        ipv6: table.flag_at("enable_ipv6", report),
        pools: ipam.map_or(Vec::new(), |ipam| pools::read(ipam, &COMPOSE, false, report)),
        ipam_driver: ipam.and_then(|ipam| pools::driver(ipam, "driver", report)),
        labels: Labels::read(table.map_at("driver_opts", report), is_internal, report),
        peers: Vec::new(),
        tasks: Vec::new(),
        ingress: None,
    }
}

/// Services that name no network are in the project's own.
fn add_default(services: &[Service], networks: &mut Networks, project: &str, at: PlaceId) {
    let is_needed = services.iter().any(Service::is_in_default);
    if is_needed && !networks.by_key.contains_key("default") {
        networks.add("default", Spec::plain(at, format!("{project}_default")));
    }
}

impl Networks {
    fn add(&mut self, key: &str, spec: Spec) {
        let known = Known { name: spec.name.clone(), spec: Some(self.specs.len()) };
        self.by_key.insert(key.to_owned(), known);
        self.specs.push(spec);
    }
}

impl Spec {
    /// A network of which nothing is said.
    fn plain(at: PlaceId, name: String) -> Spec {
        Spec {
            at,
            name,
            driver: "bridge".to_owned(),
            driver_at: at,
            internal: None,
            ipv4: None,
            ipv6: None,
            pools: Vec::new(),
            ipam_driver: None,
            labels: Labels::default(),
            peers: Vec::new(),
            tasks: Vec::new(),
            ingress: None,
        }
    }
}

impl Node {
    /// As [`Node::warn_unknown`], but keys of extensions (`x-...`) are nobody's business.
    pub(super) fn warn_unknown_but_x(&self, known: &[&str], report: &mut Report) {
        let extensions = self.entries().iter().map(|entry| entry.key.as_str());
        let extensions = extensions.filter(|key| key.starts_with("x-") || *key == "<<");
        let known: Vec<&str> = known.iter().copied().chain(extensions).collect();
        self.warn_unknown(&known, report);
    }
}
