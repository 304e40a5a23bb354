//! The networking part of an app in the present form of the API.

use super::super::tree::Node;
use super::labels::{self, Vip};
use crate::report::{PlaceId, Report};

/// An app.
#[derive(Debug)]
pub(super) struct App {
    /// From the root.
    pub(super) id: String,
    pub(super) id_at: PlaceId,
    pub(super) instances: u32,
    pub(super) networks: Vec<Network>,
    /// What runs the container; `None`: there is none.
    pub(super) engine: Option<Engine>,
    pub(super) mappings: Option<Vec<Mapping>>,
    pub(super) definitions: Option<Vec<PortDefinition>>,
    pub(super) require_ports: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Docker,
    Mesos,
}

/// How an app or pod is in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Host,
    Bridge,
    Container,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) at: PlaceId,
    pub(super) mode: Mode,
    /// An empty name counts as none.
    pub(super) name: Option<String>,
    pub(super) name_at: PlaceId,
    pub(super) has_labels: bool,
}

/// A port of a container.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) at: PlaceId,
    pub(super) container_port: u16,
    pub(super) host_port: Option<u16>,
    pub(super) service_port: u16,
    pub(super) protocols: Vec<&'static str>,
    pub(super) name: Option<(String, PlaceId)>,
    pub(super) network_names: Vec<(String, PlaceId)>,
    pub(super) vips: Vec<Vip>,
}

/// A port of an app in the host's network.
#[derive(Debug)]
pub(super) struct PortDefinition {
    pub(super) at: PlaceId,
    pub(super) port: u16,
    pub(super) name: Option<(String, PlaceId)>,
    pub(super) vips: Vec<Vip>,
}

impl App {
    /// Reads an app. Only what is of the wrong type is reported, and counts as if it were absent.
    /// `None`: without its networks nothing can be said of the rest.
    pub(super) fn read(id: &str, node: &Node, report: &mut Report) -> Option<App> {
        let container = node.map_at("container", report);
        let engine = container.and_then(|container| engine(container, report));
        let mappings = container.and_then(|container| {
            let mappings = container.list_at("portMappings", report)?;
            Some(mappings.iter().filter_map(|one| Mapping::read(one, report)).collect())
        });
        let definitions = node.list_at("portDefinitions", report).map(|definitions| {
            definitions.iter().filter_map(|one| PortDefinition::read(one, report)).collect()
        });
        let instances = node.integer_at("instances", 0..=1_000_000, report).unwrap_or(1);
        let require_ports = node.flag_at("requirePorts", report).unwrap_or(false);
        let networks = networks(node, report);
        Some(App {
            id: id.to_owned(),
            id_at: node.get("id").map_or(node.at, |id| id.at),
            instances: instances as u32,
            networks: networks?,
            engine,
            mappings,
            definitions,
            require_ports,
        })
    }

    /// The mode that all its networks have.
    pub(super) fn mode(&self) -> Mode {
        self.networks.first().map_or(Mode::Host, |network| network.mode)
    }

    /// How many container networks it is in.
    pub(super) fn container_network_count(&self) -> usize {
        self.networks.iter().filter(|network| network.mode == Mode::Container).count()
    }
}

fn engine(container: &Node, report: &mut Report) -> Option<Engine> {
    let Some(kind) = container.get("type") else {
        return Some(Engine::Mesos);
    };
    match kind.text(report)? {
        "DOCKER" => Some(Engine::Docker),
        "MESOS" => Some(Engine::Mesos),
        other => {
            let message = format!("unknown word {other:?}, expected MESOS or DOCKER");
            report.error(kind.at, message);
            None
        }
    }
}

/// The networks of an app or pod; `None`: of one it is not known what it is.
pub(super) fn networks(node: &Node, report: &mut Report) -> Option<Vec<Network>> {
    let before = report.error_count();
    let networks = node.list_at("networks", report).unwrap_or_default();
    let networks = networks.iter().filter_map(|network| Network::read(network, report)).collect();
    (report.error_count() == before).then_some(networks)
}

impl Network {
    fn read(node: &Node, report: &mut Report) -> Option<Network> {
        node.map(report)?;
        let mode = match node.text_at("mode", report) {
            None | Some("container") => Mode::Container,
            Some("host") => Mode::Host,
            Some("container/bridge") => Mode::Bridge,
            Some(other) => {
                let at = node.get("mode").map_or(node.at, |mode| mode.at);
                let message =
                    format!("unknown word {other:?}, expected container, container/bridge, host");
                report.error(at, message);
                // Refused, so it does not matter which; the other keys are looked at.
                Mode::Container
            }
        };
        let name = node.text_at("name", report).filter(|name| !name.is_empty());
        let labels = node.map_at("labels", report);
        Some(Network {
            at: node.at,
            mode,
            name: name.map(str::to_owned),
            name_at: node.get("name").map_or(node.at, |name| name.at),
            has_labels: labels.is_some_and(|labels| !labels.entries().is_empty()),
        })
    }
}

/// A number that is a port, 0 included.
pub(super) fn port(node: &Node, key: &str, report: &mut Report) -> Option<u16> {
    node.integer_at(key, 0..=65_535, report).map(|port| port as u16)
}

/// A text with its place.
pub(super) fn named(node: &Node, key: &str, report: &mut Report) -> Option<(String, PlaceId)> {
    let at = node.get(key)?.at;
    node.text_at(key, report).map(|text| (text.to_owned(), at))
}

impl Mapping {
    pub(super) fn read(node: &Node, report: &mut Report) -> Option<Mapping> {
        node.map(report)?;
        let protocols = match node.text_at("protocol", report) {
            None | Some("tcp") => vec!["tcp"],
            Some("udp") => vec!["udp"],
            Some("udp,tcp" | "tcp,udp") => vec!["udp", "tcp"],
            Some(other) => {
                let at = node.get("protocol").map_or(node.at, |protocol| protocol.at);
                let message = format!("unknown word {other:?}, expected tcp, udp or udp,tcp");
                report.error(at, message);
                Vec::new()
            }
        };
        let names = node.list_at("networkNames", report).unwrap_or_default();
        let names = names.iter().filter_map(|one| Some((one.text(report)?.to_owned(), one.at)));
        let network_names = names.collect();
        Some(Mapping {
            at: node.at,
            container_port: port(node, "containerPort", report).unwrap_or(0),
            host_port: port(node, "hostPort", report),
            service_port: port(node, "servicePort", report).unwrap_or(0),
            protocols,
            name: named(node, "name", report),
            network_names,
            vips: labels::vips(node, report),
        })
    }
}

impl PortDefinition {
    fn read(node: &Node, report: &mut Report) -> Option<PortDefinition> {
        node.map(report)?;
        match node.text_at("protocol", report) {
            None | Some("tcp" | "udp" | "udp,tcp" | "tcp,udp") => {}
            Some(other) => {
                let at = node.get("protocol").map_or(node.at, |protocol| protocol.at);
                let message = format!("unknown word {other:?}, expected tcp, udp or udp,tcp");
                report.error(at, message);
            }
        }
        Some(PortDefinition {
            at: node.at,
            port: port(node, "port", report).unwrap_or(0),
            name: named(node, "name", report),
            vips: labels::vips(node, report),
        })
    }
}
