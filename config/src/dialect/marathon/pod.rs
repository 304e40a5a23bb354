//! Pods: containers that share one network namespace, so their ports are one space.

use std::collections::HashSet;

use super::super::tree::Node;
use super::app::{self, Mode, Network};
use super::labels::{self, Vip};
use super::migrate;
use super::options::Options;
use super::validate;
use crate::report::{PlaceId, Report};

const POD: [&str; 21] = [
    "id",
    "version",
    "labels",
    "environment",
    "containers",
    "networks",
    "scaling",
    "scheduling",
    "volumes",
    "user",
    "secrets",
    "executorResources",
    "role",
    "fetch",
    "linuxInfo",
    "tty",
    "versionInfo",
    "dependencies",
    "legacySharedCgroups",
    "sharedMemory",
    "resourceLimits",
];
const ENDPOINT: [&str; 6] =
    ["name", "containerPort", "hostPort", "protocol", "labels", "networkNames"];

/// A pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) id_at: PlaceId,
    at: PlaceId,
    pub(super) instances: u32,
    pub(super) networks: Vec<Network>,
    pub(super) endpoints: Vec<Endpoint>,
    container_count: usize,
}

/// A port of one of its containers.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) at: PlaceId,
    pub(super) name: Option<(String, PlaceId)>,
    pub(super) container_port: Option<(u16, PlaceId)>,
    pub(super) host_port: Option<(u16, PlaceId)>,
    pub(super) protocols: Vec<(String, PlaceId)>,
    pub(super) network_names: Vec<(String, PlaceId)>,
    pub(super) vips: Vec<Vip>,
}

impl Pod {
    /// Reads a pod, with its networks named. Only what is of the wrong type is reported.
    pub(super) fn read(
        id: &str,
        node: &mut Node,
        options: &Options,
        report: &mut Report,
    ) -> Option<Pod> {
        node.warn_unknown(&POD, report);
        migrate::name_networks(node, options);
        let containers = node.list_at("containers", report)?;
        let mut endpoints = Vec::new();
        for container in containers {
            if container.map(report).is_none() {
                continue;
            }
            for endpoint in container.list_at("endpoints", report).unwrap_or_default() {
                endpoints.extend(Endpoint::read(endpoint, report));
            }
        }
        let scaling = node.map_at("scaling", report);
        let instances =
            scaling.and_then(|scaling| scaling.integer_at("instances", 0..=1_000_000, report));
        let networks = app::networks(node, report);
        let mut pod = Pod {
            id: id.to_owned(),
            id_at: node.get("id").map_or(node.at, |id| id.at),
            at: node.at,
            instances: instances.unwrap_or(1) as u32,
            networks: networks?,
            endpoints,
            container_count: containers.len(),
        };
        if pod.mode() == Mode::Bridge {
            for endpoint in &mut pod.endpoints {
                endpoint.host_port = endpoint.host_port.or(Some((0, endpoint.at)));
            }
        }
        Some(pod)
    }

    /// The mode that all its networks have.
    pub(super) fn mode(&self) -> Mode {
        self.networks.first().map_or(Mode::Host, |network| network.mode)
    }

    /// Checks a pod.
    pub(super) fn validate(&self, options: &Options, report: &mut Report) {
        validate::networks(&self.networks, options, report);
        if self.container_count == 0 {
            report.error(self.at, "containers must not be empty");
        }
        let several = self.networks.iter().filter(|one| one.mode == Mode::Container).count() > 1;
        let known = validate::Known::of(&self.networks);
        for endpoint in &self.endpoints {
            endpoint.validate(self.mode(), report);
            if several && endpoint.host_port.is_some() && endpoint.network_names.len() != 1 {
                let message = "networkNames must be a single item list when hostPort is specified \
                               and more than 1 container network is defined";
                report.error(endpoint.at, message);
            }
            known.check(&endpoint.network_names, report);
        }
        let names = self.endpoints.iter().filter_map(|one| one.name.clone());
        unique(names, "endpoint names nust be unique across all containers", report);
        let ports = self.endpoints.iter().filter_map(|one| one.container_port);
        unique(ports, "container ports must be unique across all containers", report);
        let ports = self.endpoints.iter().filter_map(|one| one.host_port);
        let ports = ports.filter(|(port, _)| *port != 0);
        unique(ports, "host ports must be unique across all containers", report);
    }
}

/// Reports what occurs twice.
fn unique<T: std::hash::Hash + Eq>(
    all: impl Iterator<Item = (T, PlaceId)>,
    message: &str,
    report: &mut Report,
) {
    let mut seen = HashSet::new();
    for (one, at) in all {
        if !seen.insert(one) {
            report.error(at, message);
        }
    }
}

impl Endpoint {
    fn read(node: &Node, report: &mut Report) -> Option<Endpoint> {
        node.map(report)?;
        node.warn_unknown(&ENDPOINT, report);
        let mut port = |key: &str| {
            let at = node.get(key)?.at;
            app::port(node, key, report).map(|port| (port, at))
        };
        let (container_port, host_port) = (port("containerPort"), port("hostPort"));
        let mut texts = |key: &str| {
            let list = node.list_at(key, report).unwrap_or_default();
            let texts = list.iter().filter_map(|one| Some((one.text(report)?.to_owned(), one.at)));
            texts.collect::<Vec<_>>()
        };
        Some(Endpoint {
            at: node.at,
            container_port,
            host_port,
            protocols: texts("protocol"),
            network_names: texts("networkNames"),
            name: app::named(node, "name", report),
            vips: labels::vips(node, report),
        })
    }

    fn validate(&self, mode: Mode, report: &mut Report) {
        match &self.name {
            Some((name, at)) => validate::check_name(name, &['-'], *at, report),
            None => drop(report.error(self.at, "name is missing")),
        }
        match (mode, self.container_port) {
            (Mode::Host, Some((_, at))) => {
                report.error(at, "is not allowed when using host-mode networking");
            }
            (Mode::Container, None) => {
                let message = "containerPort is required when using container-mode networking";
                report.error(self.at, message);
            }
            (_, Some((0, at))) => drop(report.error(at, "0 is out of bounds: 1 to 65535")),
            _ => {}
        }
        if mode == Mode::Host && self.host_port.is_none() {
            report.error(self.at, "hostPort is required when using host-mode networking");
        }
        let mut seen = HashSet::new();
        for (protocol, at) in &self.protocols {
            if !matches!(protocol.as_str(), "tcp" | "udp") {
                report.error(*at, format!("unknown word {protocol:?}, expected tcp or udp"));
            } else if !seen.insert(protocol) {
                let message = "Duplicate protocols within the same endpoint are not allowed";
                report.error(*at, message);
            }
        }
    }
}
