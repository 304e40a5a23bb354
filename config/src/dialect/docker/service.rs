//! A service of a Compose file: its networks, its ports, and what they rule out.

use std::net::IpAddr;

use super::super::Purpose;
use super::super::fragment::{self, Attaching, Fragment, list, number, text};
use super::super::tree::{Node, Value};
use super::compose::{Known, Networks};
use crate::publish;
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::Mac;

const MEMBER: [&str; 10] = [
    "aliases",
    "ipv4_address",
    "ipv6_address",
    "link_local_ips",
    "mac_address",
    "gw_priority",
    "priority",
    "interface_name",
    "driver_opts",
    "name",
];
const PORT: [&str; 7] =
    ["target", "published", "protocol", "mode", "host_ip", "app_protocol", "name"];

/// What a service in another container's network cannot have, and what Docker calls it.
const CONFLICTS: [(&str, &str); 9] = [
    ("hostname", "conflicting options: hostname and the network mode"),
    ("dns", "conflicting options: dns and the network mode"),
    ("dns_search", "conflicting options: dns and the network mode"),
    ("dns_opt", "conflicting options: dns and the network mode"),
    ("extra_hosts", "conflicting options: custom host-to-IP mapping and the network mode"),
    ("mac_address", "conflicting options: mac-address and the network mode"),
    ("ports", "conflicting options: port publishing and the container type network mode"),
    ("expose", "conflicting options: port exposing and the container type network mode"),
    (
        "links",
        "conflicting options: container type network can't be used with links. This would result \
         in undefined behavior",
    ),
];

/// A service.
pub(super) struct Service {
    at: PlaceId,
    name: String,
    replicas: u32,
    container_name: Option<(String, PlaceId)>,
    mode: Option<(String, PlaceId)>,
    /// `None`: it names none.
    members: Option<Vec<Member>>,
    ports: Vec<(String, PlaceId)>,
    exposed: Vec<(String, PlaceId)>,
    mac: Option<(engine::MacAddress, PlaceId)>,
}

/// A network that it is in.
struct Member {
    at: PlaceId,
    key: String,
    aliases: Vec<(String, PlaceId)>,
    addresses: Vec<(IpAddr, PlaceId)>,
    mac: Option<(engine::MacAddress, PlaceId)>,
    gw_priority: Option<(i64, PlaceId)>,
    interface: Option<(String, PlaceId)>,
}

impl Service {
    pub(super) fn read(name: &str, node: &Node, report: &mut Report) -> Option<Service> {
        node.map(report)?;
        let named = |key: &str, report: &mut Report| {
            let at = node.get(key)?.at;
            node.text_at(key, report).map(|text| (text.to_owned(), at))
        };
        let deploy = node.map_at("deploy", report);
        let replicas = deploy.and_then(|deploy| deploy.integer_at("replicas", 0..=10_000, report));
        let replicas = node.integer_at("scale", 0..=10_000, report).or(replicas);
        let mode = named("network_mode", report);
        if let Some((mode, _)) = &mode {
            check_mode(name, mode, node, report);
        }
        let ports = node.list_at("ports", report).unwrap_or_default();
        let exposed = node.list_at("expose", report).unwrap_or_default();
        Some(Service {
            at: node.at,
            name: name.to_owned(),
            replicas: replicas.unwrap_or(1) as u32,
            container_name: named("container_name", report),
            mode,
            members: node.get("networks").map(|networks| members(networks, report)),
            ports: ports.iter().filter_map(|port| Some((spec(port, report)?, port.at))).collect(),
            exposed: exposed.iter().filter_map(|port| Some((plain(port)?, port.at))).collect(),
            mac: mac(node, report),
        })
    }

    pub(super) fn is_in_default(&self) -> bool {
        self.mode.is_none()
            && match &self.members {
                None => true,
                Some(members) => members.iter().any(|member| member.key == "default"),
            }
    }

    /// Checks what it says of others.
    pub(super) fn validate(&self, all: &[Service], networks: &Networks, report: &mut Report) {
        let name = &self.name;
        for member in self.members.iter().flatten() {
            let Some(known) = networks.by_key.get(&member.key) else {
                let message =
                    format!("service {name:?} refers to undefined network {}", member.key);
                report.error(member.at, message);
                continue;
            };
            member.validate(known, networks, report);
        }
        if let Some((mode, at)) = &self.mode {
            if let Some(other) = mode.strip_prefix("service:") {
                if !all.iter().any(|service| service.name == other) {
                    let message =
                        format!("service {name:?} depends on undefined service {other:?}");
                    report.error(*at, message);
                } else if other == name {
                    report.error(*at, "cannot join own network namespace");
                }
            } else if !matches!(mode.as_str(), "bridge" | "host" | "none" | "default")
                && !mode.starts_with("container:")
                && !networks.by_key.contains_key(mode)
            {
                report.error(*at, format!("network {mode} not found"));
            }
        }
        if let (Some((container, at)), true) = (&self.container_name, self.replicas > 1) {
            let message = format!(
                "services.{name}: can't set container_name and scale to {}: the name {container} \
                 must be unique",
                self.replicas
            );
            report.error(*at, message);
        }
        let ports = self.ports.iter().map(|(spec, at)| (publish::parse(spec), *at));
        let exposed = self.exposed.iter().map(|(spec, at)| (publish::parse_exposed(spec), *at));
        for (parsed, at) in ports.chain(exposed) {
            if let Err(message) = parsed {
                report.error(at, message);
            }
        }
    }

    /// Adds its endpoints to a fragment.
    pub(super) fn add_to(
        &self,
        project: &str,
        networks: &Networks,
        attaching: &Attaching,
        purpose: Purpose,
        fragment: &mut Fragment,
        report: &mut Report,
    ) {
        let mode = self.mode.as_ref().map(|(mode, _)| mode.as_str());
        let shown = match (mode, &self.members) {
            (Some(mode), _) => format!("network mode {mode}"),
            (None, Some(members)) if !members.is_empty() => {
                let names = members.iter().filter_map(|one| networks.by_key.get(&one.key));
                format!("in {}", names.map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "))
            }
            (None, _) => format!("in {project}_default"),
        };
        fragment.summary.push(format!("service {}: {} of it, {shown}", self.name, self.replicas));
        if mode == Some("host") && !self.ports.is_empty() {
            let message = "Published ports are discarded when using host network mode";
            report.warning(self.ports[0].1, message);
        }
        if purpose == Purpose::Check {
            return;
        }
        if let (Some(mode), Some((_, at))) = (mode, &self.mode)
            && (mode.starts_with("container:") || mode.starts_with("service:"))
        {
            let message = format!(
                "service {} shares the namespace of another: it has no endpoint",
                self.name
            );
            report.warning(*at, message);
            return;
        }
        let is_closed = !self.ports.is_empty() && self.is_in_internal_alone(networks);
        if is_closed {
            let message = "publishing has no effect in internal networks";
            report.warning(self.ports[0].1, message);
        }
        for index in 1..=self.replicas {
            let name = match &self.container_name {
                Some((name, _)) => name.clone(),
                None => format!("{project}-{}-{index}", self.name),
            };
            let mut table = self.table(&name, networks, attaching, fragment);
            if is_closed {
                table.publish = Field::Absent;
            }
            let comment = format!("Service {}, container {index}, {shown}.", self.name);
            fragment.endpoint(self.at, &name, comment, table);
        }
    }

    /// Docker takes published ports of such a service, and nothing leads to them.
    fn is_in_internal_alone(&self, networks: &Networks) -> bool {
        let is_internal = |key: &str| {
            let spec = networks.by_key.get(key).and_then(|known| known.spec);
            spec.is_some_and(|spec| networks.specs[spec].is_internal())
        };
        let members = self.members.as_deref().unwrap_or_default();
        match (&self.mode, members) {
            (Some((mode, _)), _) => is_internal(mode),
            (None, []) => is_internal("default"),
            (None, members) => members.iter().all(|member| is_internal(&member.key)),
        }
    }

    fn table(
        &self,
        name: &str,
        networks: &Networks,
        attaching: &Attaching,
        fragment: &mut Fragment,
    ) -> schema::Endpoint {
        let at = self.at;
        let mut table = schema::Endpoint::default();
        let mode = self.mode.as_ref().map(|(mode, at)| (mode.as_str(), *at));
        let mut members = match mode {
            Some(("bridge" | "default", at)) => {
                fragment.join(at, "bridge", true, "Docker's default bridge.");
                vec![fragment::member(at, "bridge")]
            }
            Some((mode, at)) => {
                let name = networks.by_key.get(mode).map_or(mode, |known| known.name.as_str());
                vec![fragment::member(at, name)]
            }
            None => self.memberships(networks, fragment),
        };
        if let (Some((mac, at)), Some(first)) = (self.mac, members.first_mut())
            && first.mac.is_absent()
        {
            first.mac = Field::Given(at, Mac(mac));
        }
        let members = members.into_iter().map(|member| Field::Given(at, member));
        table.network = list(members.collect());
        if mode.is_some_and(|(mode, _)| mode == "host") {
            return table;
        }
        table.attach = attaching.of(at, name);
        if mode.is_none_or(|(mode, _)| mode != "none") {
            let texts = |specs: &[(String, PlaceId)]| {
                list(specs.iter().map(|(spec, at)| text(*at, spec)).collect())
            };
            (table.publish, table.expose) = (texts(&self.ports), texts(&self.exposed));
        }
        table
    }

    fn memberships(
        &self,
        networks: &Networks,
        fragment: &mut Fragment,
    ) -> Vec<schema::EndpointNetwork> {
        let mut tables = Vec::new();
        let members = self.members.as_deref().unwrap_or_default();
        for member in members {
            let Some(known) = networks.by_key.get(&member.key) else { continue };
            if known.spec.is_none() {
                let comment = "An external network of a Compose file.";
                fragment.join(member.at, &known.name, false, comment);
            }
            tables.push(member.table(&self.name, &known.name));
        }
        if members.is_empty()
            && let Some(known) = networks.by_key.get("default")
        {
            let alias = vec![text(self.at, &self.name)];
            tables.push(schema::EndpointNetwork {
                aliases: list(alias),
                ..fragment::member(self.at, &known.name)
            });
        }
        tables
    }
}

/// What rules each other out with a network mode.
fn check_mode(service: &str, mode: &str, node: &Node, report: &mut Report) {
    if let Some(networks) = node.get("networks") {
        let message = format!(
            "service {service} declares mutually exclusive `network_mode` and `networks`: invalid \
             compose project"
        );
        report.error(networks.at, message);
    }
    if mode == "host"
        && let Some(links) = node.get("links")
    {
        let message = "conflicting options: host type networking can't be used with links. This \
                       would result in undefined behavior";
        report.error(links.at, message);
    }
    if mode.starts_with("container:") || mode.starts_with("service:") {
        for (key, message) in CONFLICTS {
            if let Some(other) = node.get(key) {
                report.error(other.at, message);
            }
        }
    }
}

fn mac(node: &Node, report: &mut Report) -> Option<(engine::MacAddress, PlaceId)> {
    let given = node.get("mac_address")?;
    let text = given.text(report)?;
    match text.parse() {
        Ok(mac) => Some((mac, given.at)),
        Err(_) => {
            report.error(given.at, format!("invalid MAC address: {text}"));
            None
        }
    }
}

/// A list of names, or a map with more about each.
fn members(node: &Node, report: &mut Report) -> Vec<Member> {
    if let Value::List(names) = &node.value {
        let names = names.iter().filter_map(|name| Some((name.text(report)?.to_owned(), name.at)));
        return names.map(|(name, at)| Member::plain(at, name)).collect();
    }
    let Some(map) = node.map(report) else { return Vec::new() };
    let read = |entry: &super::super::tree::Entry| Member::read(&entry.key, &entry.node, report);
    map.entries().iter().filter_map(read).collect()
}

impl Member {
    fn plain(at: PlaceId, key: String) -> Member {
        let (aliases, addresses) = (Vec::new(), Vec::new());
        Member { at, key, aliases, addresses, mac: None, gw_priority: None, interface: None }
    }

    fn read(key: &str, node: &Node, report: &mut Report) -> Option<Member> {
        let mut member = Member::plain(node.at, key.to_owned());
        if matches!(node.value, Value::Null) {
            return Some(member);
        }
        node.map(report)?;
        node.warn_unknown_but_x(&MEMBER, report);
        for alias in node.list_at("aliases", report).unwrap_or_default() {
            member.aliases.extend(alias.text(report).map(|text| (text.to_owned(), alias.at)));
        }
        for (key, is_v4) in [("ipv4_address", true), ("ipv6_address", false)] {
            let Some(given) = node.get(key) else { continue };
            let Some(text) = given.text(report) else { continue };
            match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == is_v4 => {
                    member.addresses.push((address, given.at));
                }
                _ => drop(report.error(given.at, format!("invalid IP address: {text}"))),
            }
        }
        for (key, what) in [
            ("link_local_ips", "link-local addresses are"),
            ("driver_opts", "an endpoint's options of the driver are"),
            ("priority", "an order of connecting is"),
        ] {
            if let Some(given) = node.get(key) {
                report.warning(given.at, format!("{what} not in this version"));
            }
        }
        member.mac = mac(node, report);
        let bounds = i64::from(i32::MIN)..=i64::from(i32::MAX);
        let priority = node.integer_at("gw_priority", bounds, report);
        let at = node.get("gw_priority").map_or(node.at, |node| node.at);
        member.gw_priority = priority.map(|priority| (priority, at));
        let at = node.get("interface_name").map_or(node.at, |node| node.at);
        member.interface = node.text_at("interface_name", report).map(|name| (name.to_owned(), at));
        Some(member)
    }

    fn validate(&self, known: &Known, networks: &Networks, report: &mut Report) {
        let Some(spec) = known.spec.map(|index| &networks.specs[index]) else { return };
        for (address, at) in &self.addresses {
            if !spec.contains(*address) {
                let message = format!("no configured subnet contains IP address {address}");
                report.error(*at, message);
            }
        }
    }

    fn table(&self, service: &str, network: &str) -> schema::EndpointNetwork {
        let address = |is_v4: bool| {
            let own = self.addresses.iter().find(|(address, _)| address.is_ipv4() == is_v4);
            own.map_or(Field::Absent, |(address, at)| fragment::address(*at, *address))
        };
        let mut aliases = vec![text(self.at, service)];
        for (alias, at) in &self.aliases {
            if alias != service {
                aliases.push(text(*at, alias));
            }
        }
        schema::EndpointNetwork {
            ip: address(true),
            ip6: address(false),
            mac: self.mac.map_or(Field::Absent, |(mac, at)| Field::Given(at, Mac(mac))),
            aliases: list(aliases),
            gw_priority: self.gw_priority.map_or(Field::Absent, |(value, at)| number(at, value)),
            interface: self.interface.as_ref().map_or(Field::Absent, |(name, at)| text(*at, name)),
            ..fragment::member(self.at, network)
        }
    }
}

/// A port or range of ports.
fn plain(port: &Node) -> Option<String> {
    match &port.value {
        Value::Text(text) | Value::Number(text) => Some(text.clone()),
        _ => None,
    }
}

/// A published port as `-p` has it: short, or long with its parts apart.
fn spec(port: &Node, report: &mut Report) -> Option<String> {
    match &port.value {
        Value::Text(text) => return Some(text.clone()),
        Value::Number(number) => return Some(number.clone()),
        _ => {}
    }
    port.map(report)?;
    port.warn_unknown_but_x(&PORT, report);
    let mut number = |key: &str| match &port.get(key)?.value {
        Value::Text(text) | Value::Number(text) => Some(text.clone()),
        _ => {
            port.get(key)?.expected("a port", report);
            None
        }
    };
    let (target, published) = (number("target"), number("published").unwrap_or_default());
    let Some(target) = target else {
        report.error(port.at, "target is missing");
        return None;
    };
    let host = port.text_at("host_ip", report).unwrap_or_default();
    let protocol = port.text_at("protocol", report).unwrap_or("tcp");
    let mode = port.text_at("mode", report).unwrap_or("ingress");
    if !matches!(mode, "ingress" | "host") {
        let at = port.get("mode").map_or(port.at, |mode| mode.at);
        report.error(at, format!("invalid ports mode: {mode}"));
    }
    let host = match host {
        "" => String::new(),
        v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    Some(format!("{host}{published}:{target}/{protocol}"))
}
