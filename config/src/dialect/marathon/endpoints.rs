//! What definitions come to on one agent: an endpoint for each instance, with its ports.
//!
//! An instance of the app `/shop/web` is the endpoint `shop_web_0`: ids have no underscores, so the
//! names are as unique as the ids. What is in the host's network has no port of ours; what is in
//! bridge mode is in one network, and container networks are joined by their names.

use super::super::Purpose;
use super::super::fragment::{self, Fragment, list, number, text};
use super::Definition;
use super::app::{App, Engine, Mapping, Mode, Network};
use super::labels::Vip;
use super::options::Options;
use super::pod::Pod;
use super::ports::Ports;
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;

/// Most instances and ports of instances, of all definitions: an agent has no more ports, and a
/// slip of the finger in `instances` costs no gigabytes.
const INSTANCE_COUNT_MAX: u64 = 500_000;

/// A port of a definition, of whichever kind.
struct Port<'d> {
    at: PlaceId,
    container_port: u16,
    host_port: Option<u16>,
    /// As given; 0: Marathon's choice. `None`: it has none.
    service_port: Option<u16>,
    protocols: Vec<&'d str>,
    name: Option<&'d str>,
    network_names: Vec<&'d str>,
    vips: &'d [Vip],
}

/// A definition, of whichever kind.
struct Workload<'d> {
    kind: &'static str,
    id: &'d str,
    at: PlaceId,
    instances: u32,
    mode: Mode,
    /// What runs it; Mesos unless it is said to be Docker.
    engine: Engine,
    networks: &'d [Network],
    ports: Vec<Port<'d>>,
}

/// The endpoints of all definitions.
pub(super) fn of(
    definitions: &[Definition],
    options: &Options,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let mut fragment = Fragment::default();
    let workloads: Vec<Workload<'_>> = definitions.iter().map(Workload::of).collect();
    let weight = |one: &Workload<'_>| {
        u64::from(one.instances) * (1 + one.ports.len() + one.networks.len()) as u64
    };
    let count: u64 = workloads.iter().map(weight).sum();
    if count > INSTANCE_COUNT_MAX {
        let message = format!(
            "{count} instances and ports of theirs are too many for one agent, \
             {INSTANCE_COUNT_MAX} go"
        );
        match purpose {
            Purpose::Use => report.error(workloads[0].at, message),
            Purpose::Check => report.warning(workloads[0].at, message),
        };
        return fragment;
    }
    let mut ports = Ports::new(options);
    for port in workloads.iter().flat_map(|one| &one.ports) {
        ports.reserve(port.host_port.unwrap_or(0));
        ports.reserve_service(port.service_port.unwrap_or(0));
    }
    for workload in &workloads {
        let mut placing = Placing { options, purpose, ports: &mut ports, report };
        placing.workload(workload, &mut fragment);
    }
    fragment
}

impl<'d> Workload<'d> {
    fn of(definition: &'d Definition) -> Workload<'d> {
        match definition {
            Definition::App(app) => Workload {
                kind: "app",
                id: &app.id,
                at: app.id_at,
                instances: app.instances,
                mode: app.mode(),
                engine: app.engine.unwrap_or(Engine::Mesos),
                networks: &app.networks,
                ports: ports_of_app(app),
            },
            Definition::Pod(pod) => Workload {
                kind: "pod",
                id: &pod.id,
                at: pod.id_at,
                instances: pod.instances,
                mode: pod.mode(),
                engine: Engine::Mesos,
                networks: &pod.networks,
                ports: ports_of_pod(pod),
            },
        }
    }

    /// The name of one instance's endpoint.
    fn endpoint(&self, instance: u32) -> String {
        format!("{}_{instance}", self.id.trim_matches('/').replace('/', "_"))
    }
}

fn ports_of_app(app: &App) -> Vec<Port<'_>> {
    if app.mode() == Mode::Host {
        let definitions = app.definitions.iter().flatten();
        return definitions
            .map(|definition| Port {
                at: definition.at,
                container_port: 0,
                host_port: Some(if app.require_ports { definition.port } else { 0 }),
                service_port: Some(definition.port),
                protocols: Vec::new(),
                name: definition.name.as_ref().map(|(name, _)| name.as_str()),
                network_names: Vec::new(),
                vips: &definition.vips,
            })
            .collect();
    }
    let mapping = |mapping: &'_ Mapping| -> (u16, Option<u16>) {
        (mapping.container_port, mapping.host_port)
    };
    let mappings = app.mappings.iter().flatten();
    mappings
        .map(|one| {
            let (container_port, host_port) = mapping(one);
            Port {
                at: one.at,
                container_port,
                host_port,
                service_port: Some(one.service_port),
                protocols: one.protocols.clone(),
                name: one.name.as_ref().map(|(name, _)| name.as_str()),
                network_names: one.network_names.iter().map(|(name, _)| name.as_str()).collect(),
                vips: &one.vips,
            }
        })
        .collect()
}

fn ports_of_pod(pod: &Pod) -> Vec<Port<'_>> {
    let ports = pod.endpoints.iter().map(|one| Port {
        at: one.at,
        container_port: one.container_port.map_or(0, |(port, _)| port),
        host_port: one.host_port.map(|(port, _)| port),
        service_port: None,
        protocols: match one.protocols.is_empty() {
            true => vec!["tcp"],
            false => one.protocols.iter().map(|(protocol, _)| protocol.as_str()).collect(),
        },
        name: one.name.as_ref().map(|(name, _)| name.as_str()),
        network_names: one.network_names.iter().map(|(name, _)| name.as_str()).collect(),
        vips: &one.vips,
    });
    ports.collect()
}

/// A port of one instance, with numbers.
struct Placed<'d> {
    port: &'d Port<'d>,
    host_port: Option<u16>,
    container_port: u16,
    service_port: Option<u16>,
}

impl Placed<'_> {
    /// What the instance is told: its port on the host, or in its own network.
    fn told(&self) -> u16 {
        self.host_port.unwrap_or(self.container_port)
    }
}

/// Gives out ports and makes endpoints.
struct Placing<'p> {
    options: &'p Options,
    purpose: Purpose,
    ports: &'p mut Ports,
    report: &'p mut Report,
}

impl Placing<'_> {
    fn workload(&mut self, workload: &Workload<'_>, fragment: &mut Fragment) {
        let count = workload.instances;
        let plural = if count == 1 { "" } else { "s" };
        let place = self.place(workload);
        let summary =
            format!("{} {}: {count} instance{plural} {place}", workload.kind, workload.id);
        fragment.summary.push(summary);
        self.vips(workload, fragment);
        let service: Vec<Option<u16>> =
            workload.ports.iter().map(|port| self.service(port)).collect();
        for instance in 0..count {
            let name = workload.endpoint(instance);
            let placed = self.placed(workload, &name, instance, &service);
            let told = told(&placed);
            fragment.summary.push(format!("  {name}: {told}"));
            if self.purpose == Purpose::Use {
                let comment =
                    format!("{} {}, instance {instance}: {told}", workload.kind, workload.id);
                let table = self.endpoint(workload, &name, &placed, fragment);
                fragment.endpoint(workload.at, &name, comment, table);
            }
        }
    }

    fn place(&self, workload: &Workload<'_>) -> String {
        match workload.mode {
            Mode::Host => "in the host's network".to_owned(),
            Mode::Bridge => format!("in bridge network {}", self.options.bridge_network),
            Mode::Container => {
                let names = workload.networks.iter().filter_map(|one| one.name.as_deref());
                format!("in container network {}", names.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn vips(&mut self, workload: &Workload<'_>, fragment: &mut Fragment) {
        for vip in workload.ports.iter().flat_map(|port| port.vips) {
            fragment.summary.push(format!("  {} is {}", vip.key, vip.target));
            if self.purpose == Purpose::Use {
                let message = format!("{}: balancing over a VIP is not in this version", vip.key);
                self.report.warning(vip.at, message);
            }
        }
    }

    fn service(&mut self, port: &Port<'_>) -> Option<u16> {
        match port.service_port? {
            0 => self.ports.service(port.at, self.report),
            fixed => Some(fixed),
        }
    }

    fn placed<'w>(
        &mut self,
        workload: &'w Workload<'w>,
        name: &str,
        instance: u32,
        service: &[Option<u16>],
    ) -> Vec<Placed<'w>> {
        let is_needed = self.purpose == Purpose::Use;
        let mut placed = Vec::with_capacity(workload.ports.len());
        for (index, port) in workload.ports.iter().enumerate() {
            let host_port = match port.host_port {
                None => None,
                Some(0) => {
                    let who = format!("{name}/{index}");
                    self.ports.pick(&who, port.at, is_needed, self.report)
                }
                Some(fixed) if instance > 0 => {
                    if instance == 1 {
                        let message = format!(
                            "one agent has port {fixed} once: only the first of {} instances \
                                gets it",
                            workload.instances
                        );
                        self.report.warning(port.at, message);
                    }
                    None
                }
                Some(fixed) => {
                    // A second owner is reported by whoever publishes it.
                    self.ports.take(fixed, port.at, self.report);
                    Some(fixed)
                }
            };
            let container_port = match port.container_port {
                0 => host_port.unwrap_or(0),
                fixed => fixed,
            };
            let service_port = service[index];
            placed.push(Placed { port, host_port, container_port, service_port });
        }
        placed
    }

    fn endpoint(
        &mut self,
        workload: &Workload<'_>,
        name: &str,
        placed: &[Placed<'_>],
        fragment: &mut Fragment,
    ) -> schema::Endpoint {
        let at = workload.at;
        let mut table = schema::Endpoint::default();
        let members = match workload.mode {
            Mode::Host => vec![fragment::member(at, "host")],
            Mode::Bridge => {
                let network = &self.options.bridge_network;
                let comment =
                    "The network of apps in bridge mode; its subnet is the next free one.";
                fragment.join(at, network, true, comment);
                vec![fragment::member(at, network)]
            }
            Mode::Container => self.container_networks(workload, placed, fragment),
        };
        let members = members.into_iter().map(|member| Field::Given(at, member));
        table.network = list(members.collect());
        if workload.mode == Mode::Host {
            return table;
        }
        table.attach = self.options.attaching.of(at, name);
        let mut publish = Vec::new();
        for one in placed {
            let Some(host_port) = one.host_port.filter(|_| one.container_port != 0) else {
                continue;
            };
            for protocol in &one.port.protocols {
                let spec = format!("{host_port}:{}/{protocol}", one.container_port);
                publish.push(text(one.port.at, spec));
            }
        }
        table.publish = list(publish);
        table
    }

    /// Published ports lead to the network that gives the default route: it is made the one that
    /// the mappings name.
    fn container_networks(
        &mut self,
        workload: &Workload<'_>,
        placed: &[Placed<'_>],
        fragment: &mut Fragment,
    ) -> Vec<schema::EndpointNetwork> {
        let published = placed.iter().filter(|one| one.host_port.is_some());
        let mut wanted = published
            .flat_map(|one| one.port.network_names.iter().take(1).map(|name| (*name, one.port.at)));
        let first = wanted.next();
        if let Some((name, _)) = first
            && let Some((other, at)) = wanted.find(|(other, _)| *other != name)
        {
            let message = format!(
                "ports are published in one network of an endpoint: {other} is taken for {name}"
            );
            self.report.warning(at, message);
        }
        let mut members = Vec::new();
        for network in workload.networks {
            let Some(name) = network.name.as_deref() else { continue };
            let called = self.options.network(workload.engine, name);
            let comment = "A container network of the apps; its subnet is the next free one.";
            fragment.join(network.name_at, &called, false, comment);
            let mut member = fragment::member(network.name_at, &called);
            if workload.networks.len() > 1 && first.is_some_and(|(wanted, _)| wanted == name) {
                member.gw_priority = number(network.name_at, 1);
            }
            members.push(member);
        }
        members
    }
}

/// The environment that an instance gets, and its service ports.
fn told(placed: &[Placed<'_>]) -> String {
    if placed.is_empty() {
        return "no ports".to_owned();
    }
    let parts = placed.iter().enumerate().map(|(index, one)| {
        let mut names = vec![format!("$PORT{index}")];
        if index == 0 {
            names.push("$PORT".to_owned());
        }
        if one.container_port != 0 {
            names.push(format!("$PORT_{}", one.container_port));
        }
        if let Some(name) = one.port.name {
            names.push(format!("$PORT_{}", name.to_ascii_uppercase().replace('-', "_")));
        }
        let service =
            one.service_port.map_or_else(String::new, |port| format!(" (service port {port})"));
        format!("{}={}{service}", names.join("="), one.told())
    });
    parts.collect::<Vec<_>>().join(", ")
}
