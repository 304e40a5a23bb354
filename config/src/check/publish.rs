//! `publish` of endpoints: what each mapping means, and that no two want the same port.
//!
//! A mapping leads to the network that gives the endpoint its default route of the family, as
//! Docker's port mappings follow the gateway endpoint. Without a host address it is two entries,
//! one per family; that of IPv6 leads to the IPv4 address of an endpoint that has no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use engine::tables::{GatewayMode, Protocol};

use super::foreign;
use super::network::Networks;
use super::ports::{Ports, Wanted};
use super::uplink::Uplinks;
use crate::leases::Leases;
use crate::model::{Attachment, Endpoint, Network, Publish};
use crate::publish::{self, HostPorts, Mapping};
use crate::report::{PlaceId, Report};
use crate::schema;

/// One published range, for the search of clashes.
struct Claim {
    v6: bool,
    protocol: Protocol,
    host: Option<IpAddr>,
    first: u16,
    last: u16,
    at: PlaceId,
}

/// Checks the mappings of all endpoints, one endpoint after the other.
pub(super) struct Checker<'u> {
    uplinks: &'u Uplinks,
    networks: &'u Networks,
    claims: Vec<Claim>,
    open: Vec<Open>,
}

/// The endpoint whose mappings are checked.
struct Own<'a> {
    index: usize,
    name: &'a str,
    attachments: &'a [Attachment],
    /// None of its networks was left out for an error.
    is_whole: bool,
}

/// A port of an endpoint.
type Target = (u16, Protocol);

/// A mapping whose port is not known yet.
struct Open {
    /// Index of the endpoint, and of its entries.
    endpoint: usize,
    entries: Range<usize>,
    /// The endpoint's name and the mapping as it is written: what a lease is told by.
    name: String,
    spec: String,
    mapping: Mapping,
    at: PlaceId,
}

impl<'u> Checker<'u> {
    pub(super) fn new(uplinks: &'u Uplinks, networks: &'u Networks) -> Checker<'u> {
        Checker { uplinks, networks, claims: Vec::new(), open: Vec::new() }
    }

    /// Checks the mappings of one endpoint, the one with this index.
    pub(super) fn check(
        &mut self,
        (index, endpoint): (usize, &str),
        table: &schema::Endpoint,
        attachments: &[Attachment],
        report: &mut Report,
    ) -> Vec<Publish> {
        // Where a network was left out for an error, a missing target means nothing.
        let is_whole =
            table.network.value().is_some_and(|networks| networks.len() == attachments.len());
        let own = Own { index, name: endpoint, attachments, is_whole };
        let (mut entries, mut led_to) = (Vec::new(), BTreeSet::new());
        for field in table.publish.value().into_iter().flatten() {
            let Some((at, spec)) = field.given() else { continue };
            let Some(mapping) = parse(at, spec, report) else { continue };
            led_to.extend(targets(&mapping));
            self.add(&own, &mapping, at, &mut entries, report);
        }
        for (target, at) in exposed(table, report) {
            if led_to.insert(target) {
                self.add(&own, &published_anywhere(target), at, &mut entries, report);
            }
        }
        entries
    }

    /// Adds what one mapping of an endpoint means.
    fn add(
        &mut self,
        own: &Own<'_>,
        mapping: &Mapping,
        at: PlaceId,
        entries: &mut Vec<Publish>,
        report: &mut Report,
    ) {
        if let Some(network) = self.on_link(own.attachments) {
            let message = format!("publishing has no effect in network {network}");
            report.warning(at, message).hint("its members are on an uplink's link");
            return;
        }
        let before = entries.len();
        for v6 in families(mapping) {
            let straight = entry(mapping, v6, own.attachments);
            let across = || entry_across(mapping, own.attachments);
            let has_clients = mapping.host.is_some() || self.uplinks.have_v6();
            entries.extend(straight.or_else(|| across().filter(|_| v6 && has_clients)));
        }
        if entries[before..].iter().any(|entry| self.is_routed(&entry.network)) {
            entries[before..].iter_mut().for_each(only_open);
            return;
        }
        if self.check_host(mapping, at, report).is_none() {
            entries.truncate(before);
            return;
        }
        match mapping.host_ports {
            HostPorts::From(first) => self.claim(mapping, first, at),
            HostPorts::OneOf(..) | HostPorts::Any => self.open.push(Open {
                endpoint: own.index,
                entries: before..entries.len(),
                name: own.name.to_owned(),
                spec: mapping.to_string(),
                mapping: *mapping,
                at,
            }),
        }
        if entries.len() == before && own.is_whole {
            let family = mapping.host.map_or("", |host| family_name(host.is_ipv6()));
            let name = own.name;
            let message =
                format!("endpoint {name} has no {family}address in a network with a way out");
            report.error(at, message);
        }
    }

    /// The network that gives the default route, if its members are on an uplink's link: Docker
    /// publishes nothing there, and says nothing.
    fn on_link<'a>(&self, attachments: &'a [Attachment]) -> Option<&'a str> {
        let first = attachments
            .iter()
            .find(|own| own.default_route_v4.is_some() || own.default_route_v6.is_some())?;
        let index = self.networks.by_name.get(&first.network).copied().flatten()?;
        self.networks.list[index].is_on_link().then_some(first.network.as_str())
    }

    fn is_routed(&self, network: &str) -> bool {
        let index = self.networks.by_name.get(network).copied().flatten();
        index.is_some_and(|index| self.networks.list[index].mode == GatewayMode::Routed)
    }

    /// A host address is one of an uplink, or stands for all of a family.
    fn check_host(&self, mapping: &Mapping, at: PlaceId, report: &mut Report) -> Option<()> {
        let Some(host) = mapping.host else { return Some(()) };
        if !host.is_unspecified()
            && !host.is_loopback()
            && !self.uplinks.own(host)
            && !self.uplinks.have_host()
            && !self.uplinks.are_incomplete()
        {
            let problem = report.error(at, format!("{host} is not an address of an uplink"));
            problem.hint("leave the address away to publish on all of them");
            return None;
        }
        Some(())
    }

    fn claim(&mut self, mapping: &Mapping, first: u16, at: PlaceId) {
        for v6 in families(mapping) {
            self.claims.push(Claim {
                v6,
                protocol: mapping.protocol,
                host: mapping.host.filter(|host| !host.is_unspecified()),
                first,
                last: first + (mapping.port_count - 1),
                at,
            });
        }
    }

    /// Reports clashes and gives ports to the mappings that leave theirs open: first what each had
    /// before, then one of the range that it asks for, then the next free ones.
    pub(super) fn finish(
        mut self,
        endpoints: &mut [Endpoint],
        leases: &Leases,
        report: &mut Report,
    ) -> Given {
        self.report_clashes(report);
        let mut ports = Ports::new(leases);
        for claim in &self.claims {
            let families = [!claim.v6, claim.v6];
            let (host, protocol) = (claim.host, claim.protocol);
            let count = claim.last - claim.first + 1;
            ports.take(Wanted { host, families, protocol, count }, claim.first);
        }
        let open = std::mem::take(&mut self.open);
        let mut given: Vec<Option<u16>> = vec![None; open.len()];
        let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
        for (given, open) in given.iter_mut().zip(&open) {
            let times = seen.entry((&open.name, &open.spec)).or_default();
            let leased = leases.ports.get(&open.name).and_then(|specs| specs.get(&open.spec));
            let port = leased.and_then(|ports| ports.get(*times)).copied();
            *times += 1;
            let fits = |port: &u16| match open.mapping.host_ports {
                HostPorts::OneOf(first, last) => (first..=last).contains(port),
                _ => true,
            };
            *given =
                port.filter(fits).filter(|&port| ports.take_again(wanted(&open.mapping), port));
        }
        for ranges in [true, false] {
            for (given, open) in given.iter_mut().zip(&open).filter(|(given, _)| given.is_none()) {
                *given = match open.mapping.host_ports {
                    HostPorts::OneOf(first, last) if ranges => {
                        ports.take_one_of(wanted(&open.mapping), first, last)
                    }
                    HostPorts::Any if !ranges => ports.take_next(wanted(&open.mapping)),
                    _ => continue,
                };
            }
        }
        let mut all = Given { ports: BTreeMap::new(), last: ports.last };
        for (given, open) in given.into_iter().zip(open) {
            let Some(port) = given else {
                report.error(open.at, "all ports are allocated");
                continue;
            };
            let Some(endpoint) = endpoints.get_mut(open.endpoint) else { continue };
            if endpoint.name == open.name {
                endpoint.publish[open.entries].iter_mut().for_each(|entry| entry.host_port = port);
                let specs = all.ports.entry(open.name).or_default();
                specs.entry(open.spec).or_default().push(port);
            }
        }
        all
    }

    /// Reports every mapping that wants a port of an earlier one, in the words of Docker.
    fn report_clashes(&mut self, report: &mut Report) {
        self.claims.sort_by_key(|claim| (claim.v6, claim.protocol, claim.first, claim.at));
        let mut clashes: Vec<(&Claim, &Claim, u16)> = Vec::new();
        // Ranges that reach up to the current one; few, as those of one address do not overlap.
        let mut open: Vec<&Claim> = Vec::new();
        for claim in &self.claims {
            open.retain(|other| {
                (other.v6, other.protocol) == (claim.v6, claim.protocol)
                    && other.last >= claim.first
            });
            for other in &open {
                let apart = matches!((other.host, claim.host), (Some(a), Some(b)) if a != b);
                if !apart {
                    let ordered =
                        if other.at < claim.at { (*other, claim) } else { (claim, *other) };
                    clashes.push((ordered.0, ordered.1, claim.first));
                }
            }
            open.push(claim);
        }
        clashes.sort_by_key(|(earlier, later, _)| (later.at, earlier.at));
        // Both families of one mapping clash alike: one message says it.
        clashes.dedup_by_key(|(_, later, _)| later.at);
        for (earlier, later, port) in clashes {
            let any = if later.v6 { "::" } else { "0.0.0.0" };
            let host = later.host.map_or_else(|| any.to_owned(), |host| host.to_string());
            let host = if later.v6 { format!("[{host}]") } else { host };
            let (path, line) = (report.path(earlier.at), report.line(earlier.at));
            let message = format!("Bind for {host}:{port} failed: port is already allocated");
            let problem =
                report.error(later.at, message).related(earlier.at, "it is allocated here");
            problem.hint(format!("{path} has it, line {line}"));
        }
    }
}

/// The ports that were given where the file leaves them open.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// By endpoint, then by mapping as it is written.
    pub(super) ports: BTreeMap<String, BTreeMap<String, Vec<u16>>>,
    /// The last one of the ephemeral range.
    pub(super) last: Option<u16>,
}

fn wanted(mapping: &Mapping) -> Wanted {
    let host = mapping.host.filter(|host| !host.is_unspecified());
    let mut wanted = [false; 2];
    families(mapping).for_each(|v6| wanted[usize::from(v6)] = true);
    Wanted { host, families: wanted, protocol: mapping.protocol, count: mapping.port_count }
}

fn parse(at: PlaceId, spec: &str, report: &mut Report) -> Option<Mapping> {
    match publish::parse(spec) {
        Ok(mapping) => Some(mapping),
        Err(message) => {
            report.error(at, message);
            None
        }
    }
}

/// The endpoint's ports that a mapping leads to.
fn targets(mapping: &Mapping) -> impl Iterator<Item = Target> {
    let (first, protocol) = (mapping.target_port, mapping.protocol);
    (first..=first + (mapping.port_count - 1)).map(move |port| (port, protocol))
}

/// The ports that are to be published because they are exposed, in Docker's order: by number.
fn exposed(table: &schema::Endpoint, report: &mut Report) -> BTreeMap<Target, PlaceId> {
    let is_wanted = table.publish_all.value().copied().unwrap_or(false);
    let mut all = BTreeMap::new();
    for field in table.expose.value().into_iter().flatten() {
        let Some((at, spec)) = field.given() else { continue };
        match publish::parse_exposed(spec) {
            Ok(mapping) if is_wanted => all.extend(targets(&mapping).map(|target| (target, at))),
            Ok(_) => {}
            Err(message) => drop(report.error(at, message)),
        }
    }
    all
}

/// A port of an endpoint at any port of the host.
fn published_anywhere((target_port, protocol): Target) -> Mapping {
    Mapping { host: None, host_ports: HostPorts::Any, port_count: 1, target_port, protocol }
}

/// In a routed network nothing is published on the gateway: the endpoint's port is opened, and what
/// is said about the gateway's side is ignored, as Docker does.
fn only_open(entry: &mut Publish) {
    (entry.host, entry.host_port) = (None, 0);
}

/// Ports of an endpoint of a network without addresses: Docker drops them too, and says so.
pub(super) fn discard(
    table: &schema::Endpoint,
    network: &Network,
    report: &mut Report,
) -> Vec<Publish> {
    let mut places: Vec<PlaceId> = exposed(table, report).into_values().collect();
    places.dedup();
    for field in table.publish.value().into_iter().flatten() {
        let Some((at, spec)) = field.given() else { continue };
        if parse(at, spec, report).is_some() {
            places.push(at);
        }
    }
    for at in places {
        let (word, meaning) = foreign::explained(network.driver);
        let message = format!("discarded: network {} is of driver {word}", network.name);
        report.warning(at, message).hint(meaning);
    }
    Vec::new()
}

/// The families that a mapping is for.
fn families(mapping: &Mapping) -> impl Iterator<Item = bool> {
    let host = mapping.host;
    [false, true].into_iter().filter(move |v6| host.is_none_or(|host| host.is_ipv6() == *v6))
}

fn family_name(v6: bool) -> &'static str {
    if v6 { "IPv6 " } else { "IPv4 " }
}

/// The entry of one family, if the endpoint can be reached by it.
fn entry(mapping: &Mapping, v6: bool, attachments: &[Attachment]) -> Option<Publish> {
    let host = mapping.host.filter(|host| !host.is_unspecified());
    entry_to(mapping, host, v6, attachments)
}

/// The entry for IPv6 clients of an endpoint that has IPv4 only: they are translated, where Docker
/// has a proxy. SCTP is not.
fn entry_across(mapping: &Mapping, attachments: &[Attachment]) -> Option<Publish> {
    if mapping.protocol == Protocol::Sctp {
        return None;
    }
    let every = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    entry_to(mapping, Some(mapping.host.unwrap_or(every)), false, attachments)
}

/// The entry that leads to an endpoint's address of a family.
fn entry_to(
    mapping: &Mapping,
    host: Option<IpAddr>,
    target_v6: bool,
    attachments: &[Attachment],
) -> Option<Publish> {
    let target_of = |attachment: &Attachment| {
        if target_v6 {
            attachment.default_route_v6?;
            attachment.ipv6_address().map(IpAddr::V6)
        } else {
            attachment.default_route_v4?;
            attachment.ipv4_address().map(IpAddr::V4)
        }
    };
    let (attachment, target) =
        attachments.iter().find_map(|attachment| Some((attachment, target_of(attachment)?)))?;
    Some(Publish {
        host,
        protocol: mapping.protocol,
        host_port: match mapping.host_ports {
            HostPorts::From(first) => first,
            // Given when all that is fixed is known.
            HostPorts::OneOf(..) | HostPorts::Any => 0,
        },
        port_count: mapping.port_count,
        target_port: mapping.target_port,
        target,
        network: attachment.network.clone(),
    })
}
