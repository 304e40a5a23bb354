//! What `docker network inspect` prints: of 1.10, without names of containers, up to today's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Purpose;
use super::super::fragment::{self, Attaching, Fragment, list};
use super::super::tree::{Node, Value};
use super::labels::Labels;
use super::pools::{self, INSPECT};
use super::spec::{Spec, validate_together};
use super::{Reading, overlay};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::Mac;

const NETWORK: [&str; 19] = [
    "Name",
    "Id",
    "Created",
    "Scope",
    "Driver",
    "EnableIPv4",
    "EnableIPv6",
    "IPAM",
    "Internal",
    "Attachable",
    "Ingress",
    "ConfigFrom",
    "ConfigOnly",
    "Containers",
    "Options",
    "Labels",
    "Peers",
    "Services",
    "Status",
];
const CONTAINER: [&str; 5] = ["Name", "EndpointID", "MacAddress", "IPv4Address", "IPv6Address"];

/// What the id of a node's own endpoint in an overlay begins with: it is no container's.
const BALANCER: &str = "lb-";

/// Characters of an id that Docker shows.
const SHORT_ID_LEN: usize = 12;

/// A container in a network.
struct Member {
    at: PlaceId,
    name: String,
    network: String,
    ipv4: Option<(IpAddr, PlaceId)>,
    ipv6: Option<(IpAddr, PlaceId)>,
    mac: Option<(engine::MacAddress, PlaceId)>,
}

/// Reads a list of networks, or one.
pub(super) fn read(
    node: &Node,
    reading: &mut Reading<'_>,
    fragment: &mut Fragment,
    report: &mut Report,
) {
    let before = report.error_count();
    let (settings, purpose) = (reading.settings, reading.purpose);
    let attaching = Attaching::new(settings, report);
    let one = std::slice::from_ref(node);
    let networks = if let Value::List(networks) = &node.value { networks.as_slice() } else { one };
    let (mut specs, mut members) = (Vec::new(), Vec::new());
    for network in networks {
        let Some(spec) = spec(network, report) else { continue };
        spec.validate(report);
        let containers = network.map_at("Containers", report);
        for entry in containers.map(Node::entries).unwrap_or_default() {
            if spec.driver == "overlay" && entry.key.starts_with(BALANCER) {
                let message = "Docker's balancer of this node has no endpoint here";
                report.warning(entry.node.at, message);
                continue;
            }
            members.extend(member(&entry.key, &entry.node, &spec, report));
        }
        specs.push(spec);
    }
    validate_together(&specs, report);
    if report.error_count() > before {
        return;
    }
    for spec in &specs {
        spec.add_to(reading, fragment, report);
    }
    add_members(&members, &specs, &attaching, purpose, fragment);
}

fn spec(node: &Node, report: &mut Report) -> Option<Spec> {
    node.map(report)?;
    node.warn_unknown(&NETWORK, report);
    let Some(name) = node.get("Name") else {
        report.error(node.at, "network name cannot be empty");
        return None;
    };
    // A name that is none is reported; the rest is read all the same.
    let text = name.text(report).unwrap_or_default();
    let driver = node.text_at("Driver", report).unwrap_or("bridge");
    let internal = node.get("Internal").and_then(|node| Some((node.flag(report)?, node.at)));
    if let Some(node) = node.get("ConfigOnly")
        && node.flag(report) == Some(true)
    {
        report.warning(node.at, "a configuration-only network has no endpoints");
    }
    let ipam = node.map_at("IPAM", report);
    let is_internal = internal.is_some_and(|(internal, _)| internal);
    Some(Spec {
        at: name.at,
        name: text.to_owned(),
        driver: driver.to_owned(),
        driver_at: node.get("Driver").map_or(name.at, |driver| driver.at),
        internal,
        ipv4: node.flag_at("EnableIPv4", report),
        ipv6: node.flag_at("EnableIPv6", report),
        pools: ipam.map_or(Vec::new(), |ipam| pools::read(ipam, &INSPECT, true, report)),
        ipam_driver: ipam.and_then(|ipam| pools::driver(ipam, "Driver", report)),
        labels: Labels::read(node.map_at("Options", report), is_internal, report),
        ingress: node
            .get("Ingress")
            .filter(|given| given.flag(report) == Some(true))
            .map(|given| given.at),
        peers: overlay::peers(node, report),
        tasks: overlay::tasks(node, report),
    })
}

fn member(id: &str, node: &Node, spec: &Spec, report: &mut Report) -> Option<Member> {
    node.map(report)?;
    node.warn_unknown(&CONTAINER, report);
    let name = node.text_at("Name", report).filter(|name| !name.is_empty());
    let short: String = id.chars().take(SHORT_ID_LEN).collect();
    let address = |key: &str, report: &mut Report| {
        let given = node.get(key)?;
        let text = given.text(report).filter(|text| !text.is_empty())?;
        let parsed = text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse());
        match parsed {
            Ok(address) if spec.pools.is_empty() || spec.contains(address) => {
                Some((address, given.at))
            }
            Ok(address) => {
                report
                    .error(given.at, format!("no configured subnet contains IP address {address}"));
                None
            }
            Err(_) => {
                report.error(given.at, format!("invalid IP address: {text}"));
                None
            }
        }
    };
    let mac = node.get("MacAddress").and_then(|given| {
        let text = given.text(report).filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(mac) => Some((mac, given.at)),
            Err(_) => {
                report.error(given.at, format!("address {text}: invalid MAC address"));
                None
            }
        }
    });
    Some(Member {
        at: node.at,
        name: name.map_or(short, str::to_owned),
        network: spec.name.clone(),
        ipv4: address("IPv4Address", report),
        ipv6: address("IPv6Address", report),
        mac,
    })
}

/// One endpoint for each container, in all of its networks.
fn add_members(
    members: &[Member],
    specs: &[Spec],
    attaching: &Attaching,
    purpose: Purpose,
    fragment: &mut Fragment,
) {
    let in_host: HashSet<&str> =
        specs.iter().filter(|spec| spec.driver == "host").map(|spec| spec.name.as_str()).collect();
    let mut containers: Vec<(&str, Vec<&Member>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for member in members {
        let index = *known.entry(&member.name).or_insert(containers.len());
        if index == containers.len() {
            containers.push((&member.name, Vec::new()));
        }
        containers[index].1.push(member);
    }
    for (name, own) in containers {
        let networks: Vec<&str> = own.iter().map(|member| member.network.as_str()).collect();
        let summary = format!("container {name}: in {}", networks.join(", "));
        fragment.summary.push(summary.clone());
        if purpose == Purpose::Check {
            continue;
        }
        let at = own[0].at;
        let is_in_host = own.iter().any(|member| in_host.contains(member.network.as_str()));
        let tables = own.iter().map(|member| Field::Given(member.at, member.table()));
        let attach = if is_in_host { Field::Absent } else { attaching.of(at, name) };
        let network = list(tables.collect());
        let table = schema::Endpoint { attach, network, ..schema::Endpoint::default() };
        fragment.endpoint(at, name, format!("Docker's {summary}."), table);
    }
}

impl Member {
    fn table(&self) -> schema::EndpointNetwork {
        let address = |given: Option<(IpAddr, PlaceId)>| {
            given.map_or(Field::Absent, |(address, at)| fragment::address(at, address))
        };
        schema::EndpointNetwork {
            ip: address(self.ipv4),
            ip6: address(self.ipv6),
            mac: self.mac.map_or(Field::Absent, |(mac, at)| Field::Given(at, Mac(mac))),
            ..fragment::member(self.at, &self.network)
        }
    }
}
