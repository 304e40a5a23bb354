//! Rules of the present API, in Marathon's words.

use std::collections::HashSet;
use std::ops::Range;

use super::super::tree::Node;
use super::app::{App, Engine, Mapping, Mode, Network, PortDefinition};
use super::is_dns_label;
use super::options::Options;
use crate::report::{PlaceId, Report};

/// Longest name of a network or port.
const NAME_CHARACTERS_MAX: usize = 63;

/// Names of networks that a message shows.
const SHOWN_COUNT_MAX: usize = 20;

/// Ports that the mode of the networks has no use for. The old API drops them instead, so this is
/// for apps that say `networks` themselves.
pub(super) fn ports_fit_the_mode(app: &App, report: &mut Report) {
    let has = |mode: fn(Mode) -> bool| app.networks.iter().any(|network| mode(network.mode));
    let mapping = app.mappings.as_ref().and_then(|mappings| mappings.first());
    if let (true, Some(mapping)) = (has(|mode| mode == Mode::Host), mapping) {
        report.error(mapping.at, "portMappings are not allowed with host-networking");
    }
    let definition = app.definitions.as_ref().and_then(|definitions| definitions.first());
    if let (true, Some(definition)) = (has(|mode| mode != Mode::Host), definition) {
        report.error(definition.at, "portDefinitions are only allowed with host-networking");
    }
}

/// Checks an app.
pub(super) fn app(app: &App, node: &Node, options: &Options, report: &mut Report) {
    networks(&app.networks, options, report);
    command(node, report);
    image(node, report);
    if let Some(mappings) = &app.mappings {
        self::mappings(app, mappings, report);
    }
    if let Some(definitions) = &app.definitions {
        self::definitions(definitions, report);
    }
    if app.engine == Some(Engine::Docker) && app.container_network_count() > 1 {
        let message =
            "may only specify a single container network when using the Docker container engine";
        report.error(app.networks[1].at, message);
    }
    let ports = match (&app.mappings, &app.definitions) {
        (Some(mappings), _) if !mappings.is_empty() => mappings.len(),
        (_, Some(definitions)) => definitions.len(),
        _ => 0,
    };
    for check in node.list_at("healthChecks", report).unwrap_or_default() {
        health_check(check, 0..ports as i64, app.engine, report);
    }
}

/// Checks the networks of an app or pod.
pub(super) fn networks(networks: &[Network], options: &Options, report: &mut Report) {
    let mut names = HashSet::new();
    let mut unnamed_count = 0;
    for network in networks {
        match network.mode {
            Mode::Host if network.name.is_some() || network.has_labels => {
                let at = if network.name.is_some() { network.name_at } else { network.at };
                report.error(at, "Host networks may not have names or labels");
            }
            Mode::Bridge if network.name.is_some() => {
                report.error(network.name_at, "Bridge networks may not have names");
            }
            Mode::Container if network.name.is_none() => {
                unnamed_count += 1;
                if options.default_network_name.is_none() {
                    let message =
                        "Network name must be specified when container network is selected.";
                    let problem = report.error(network.at, message);
                    problem.hint("add its name, or set default_network_name");
                }
            }
            _ => {}
        }
        if let Some(name) = &network.name {
            if network.mode == Mode::Container {
                check_name(name, &['-', '_'], network.name_at, report);
            }
            if !names.insert(name.as_str()) {
                report.error(network.at, "Duplicate networks are not allowed");
            }
        } else if unnamed_count > 1 && network.mode == Mode::Container {
            report.error(network.at, "Duplicate networks are not allowed");
        }
    }
    let count = |mode| networks.iter().filter(|network| network.mode == mode).count();
    let (host, bridge) = (count(Mode::Host), count(Mode::Bridge));
    let container = count(Mode::Container);
    let is_one_kind = (host <= 1 && bridge == 0 && container == 0)
        || (host == 0 && bridge <= 1 && container == 0)
        || (host == 0 && bridge == 0);
    if !is_one_kind {
        let message = "May specify a single host network, single bridge network, or else 1-to-n \
                       container networks";
        report.error(networks[1].at, message);
    }
}

/// Checks the name of a network or port.
pub(super) fn check_name(name: &str, inner: &[char], at: PlaceId, report: &mut Report) {
    let inside: String = inner.iter().collect();
    if !is_dns_label(name, inner) {
        let class = if inside == "-_" { "[-a-z0-9_]" } else { "[-a-z0-9]" };
        let message =
            format!("must fully match regular expression '^[a-z0-9]({class}*[a-z0-9])?$'");
        report.error(at, message);
    } else if name.len() > NAME_CHARACTERS_MAX {
        let (message, len) = ("must be no longer than", name.len());
        report.error(at, format!("{message} {NAME_CHARACTERS_MAX} characters, not {len}"));
    }
}

/// Reports names that occur twice.
fn unique_names<'n>(
    names: impl Iterator<Item = &'n Option<(String, PlaceId)>>,
    message: &str,
    report: &mut Report,
) {
    let mut seen = HashSet::new();
    for (name, at) in names.flatten() {
        check_name(name, &['-'], *at, report);
        if !seen.insert(name) {
            report.error(*at, message);
        }
    }
}

fn mappings(app: &App, mappings: &[Mapping], report: &mut Report) {
    let names = mappings.iter().map(|mapping| &mapping.name);
    unique_names(names, "Port names must be unique.", report);
    let known = Known::of(&app.networks);
    let is_in_several = app.container_network_count() > 1;
    for mapping in mappings {
        if is_in_several && mapping.host_port.is_some() && mapping.network_names.len() != 1 {
            let message = "networkNames must be a single item list when hostPort is specified \
                and \
                           more than 1 container network is defined";
            report.error(mapping.at, message);
        }
        known.check(&mapping.network_names, report);
    }
}

/// The names of the networks that an app or pod is in.
pub(super) struct Known<'n> {
    names: HashSet<&'n str>,
    /// As they are shown: the first ones.
    shown: String,
}

impl<'n> Known<'n> {
    pub(super) fn of(networks: &'n [Network]) -> Known<'n> {
        let names = || networks.iter().filter_map(|network| network.name.as_deref());
        let shown = names().take(SHOWN_COUNT_MAX).collect::<Vec<_>>().join(",");
        Known { names: names().collect(), shown }
    }

    /// Reports the names of a port's networks that are none of these.
    pub(super) fn check(&self, given: &[(String, PlaceId)], report: &mut Report) {
        for (name, at) in given.iter().filter(|(name, _)| !self.names.contains(name.as_str())) {
            let problem = report.error(*at, format!("is not one of ({})", self.shown));
            problem.hint(format!("it names {name:?}"));
        }
    }
}

fn definitions(definitions: &[PortDefinition], report: &mut Report) {
    let names = definitions.iter().map(|definition| &definition.name);
    unique_names(names, "Port names must be unique.", report);
    let mut seen = HashSet::new();
    for definition in definitions {
        if definition.port != 0 && !seen.insert(definition.port) {
            report.error(definition.at, "Ports must be unique.");
        }
    }
}

/// An app runs something.
fn command(node: &Node, report: &mut Report) {
    let (cmd, args) = (node.get("cmd").is_some(), node.get("args").is_some());
    let container = node.get("container");
    let has_image = container.is_some_and(|container| {
        container.get("docker").is_some() || container.get("appc").is_some()
    });
    let runs = match (cmd, args) {
        (true, true) => false,
        (false, false) => has_image,
        _ => true,
    };
    if !runs {
        report.error(
            node.at,
            "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
        );
    }
}

fn image(node: &Node, report: &mut Report) {
    let Some(docker) = node.get("container").and_then(|container| container.get("docker")) else {
        return;
    };
    match docker.get("image") {
        None => drop(report.error(docker.at, "image must not be empty")),
        Some(image) => {
            if image.text(report).is_some_and(str::is_empty) {
                report.error(image.at, "must not be empty");
            }
        }
    }
}

fn health_check(check: &Node, ports: Range<i64>, engine: Option<Engine>, report: &mut Report) {
    if check.map(report).is_none() {
        return;
    }
    let protocol = check.text_at("protocol", report).unwrap_or("HTTP");
    let index = check.integer_at("portIndex", i64::MIN..=i64::MAX, report);
    let is_marathons = matches!(protocol, "HTTP" | "HTTPS" | "TCP");
    let is_addressed = match index {
        Some(index) => ports.contains(&index),
        None => check.get("port").is_some() || ports == (0..1),
    };
    if is_marathons && check.get("command").is_none() && !is_addressed {
        report.error(
            check.get("portIndex").map_or(check.at, |index| index.at),
            "Health check port indices must address an element of the ports array or container \
             port mappings.",
        );
    }
    let is_mesos = matches!(protocol, "MESOS_HTTP" | "MESOS_HTTPS" | "MESOS_TCP");
    let ip_protocol = check.text_at("ipProtocol", report).unwrap_or("IPv4");
    let may_be_v6 = is_mesos && engine == Some(Engine::Docker);
    if !may_be_v6 && !ip_protocol.eq_ignore_ascii_case("ipv4") {
        report.error(
            check.at,
            "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health \
                checks",
        );
    }
}
