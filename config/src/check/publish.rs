//! `publish` of endpoints: what each mapping means, and that no two want the same port.
//!
//! A mapping leads to the network that gives the endpoint its default route of the family, as
//! Docker's port mappings follow the gateway endpoint. Without a host address it is two entries,
//! one per family that the endpoint has.

use std::net::IpAddr;

use engine::tables::{GatewayMode, Protocol};

use super::network::{self, Networks};
use super::uplink::Uplinks;
use crate::model::{Attachment, Network, Publish};
use crate::publish::{self, Mapping};
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
}

impl<'u> Checker<'u> {
    pub(super) fn new(uplinks: &'u Uplinks, networks: &'u Networks) -> Checker<'u> {
        Checker { uplinks, networks, claims: Vec::new() }
    }

    /// Checks the mappings of one endpoint.
    pub(super) fn check(
        &mut self,
        endpoint: &str,
        table: &schema::Endpoint,
        attachments: &[Attachment],
        report: &mut Report,
    ) -> Vec<Publish> {
        let mut entries = Vec::new();
        // Where a network was left out for an error, a missing target means nothing.
        let is_whole =
            table.network.value().is_some_and(|networks| networks.len() == attachments.len());
        for field in table.publish.value().into_iter().flatten() {
            let Some((at, spec)) = field.given() else { continue };
            let mapping = match publish::parse(spec) {
                Ok(mapping) => mapping,
                Err(refused) => {
                    let problem = report.error(at, refused.message);
                    refused.hint.into_iter().for_each(|hint| problem.hint(hint));
                    continue;
                }
            };
            let before = entries.len();
            for v6 in families(&mapping) {
                entries.extend(entry(&mapping, v6, attachments));
            }
            if entries[before..].iter().any(|entry| self.is_routed(&entry.network)) {
                entries[before..].iter_mut().for_each(only_open);
                continue;
            }
            if self.check_host(&mapping, at, report).is_none() {
                entries.truncate(before);
                continue;
            }
            self.claim(&mapping, at);
            if entries.len() == before && is_whole {
                let family = mapping.host.map_or("", |host| family_name(host.is_ipv6()));
                let message = format!(
                    "endpoint {endpoint} has no {family}address in a network with a way out"
                );
                report.error(at, message);
            }
        }
        entries
    }

    fn is_routed(&self, network: &str) -> bool {
        let index = self.networks.by_name.get(network).copied().flatten();
        index.is_some_and(|index| self.networks.list[index].mode == GatewayMode::Routed)
    }

    /// A host address is one of an uplink, or stands for all of a family.
    fn check_host(&self, mapping: &Mapping, at: PlaceId, report: &mut Report) -> Option<()> {
        let Some(host) = mapping.host else { return Some(()) };
        if host.is_loopback() {
            report.error(at, "publishing on a loopback address is not in this version");
            return None;
        }
        if !host.is_unspecified() && !self.uplinks.own(host) && !self.uplinks.are_incomplete() {
            let problem = report.error(at, format!("{host} is not an address of an uplink"));
            problem.hint("leave the address away to publish on all of them");
            return None;
        }
        Some(())
    }

    fn claim(&mut self, mapping: &Mapping, at: PlaceId) {
        for v6 in families(mapping) {
            self.claims.push(Claim {
                v6,
                protocol: mapping.protocol,
                host: mapping.host.filter(|host| !host.is_unspecified()),
                first: mapping.host_port,
                last: mapping.host_port + (mapping.port_count - 1),
                at,
            });
        }
    }

    /// Reports every mapping that wants a port of an earlier one, in the words of Docker.
    pub(super) fn report_clashes(mut self, report: &mut Report) {
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
    for field in table.publish.value().into_iter().flatten() {
        let Some((at, spec)) = field.given() else { continue };
        if let Err(refused) = publish::parse(spec) {
            report.error(at, refused.message);
            continue;
        }
        let (word, meaning) = network::explained(network.driver);
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
    let target_of = |attachment: &Attachment| {
        if v6 {
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
        host: mapping.host.filter(|host| !host.is_unspecified()),
        protocol: mapping.protocol,
        host_port: mapping.host_port,
        port_count: mapping.port_count,
        target_port: mapping.target_port,
        target,
        network: attachment.network.clone(),
    })
}
