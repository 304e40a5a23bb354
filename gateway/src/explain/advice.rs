//! What to change so that a packet lives, in keys of the config that it is about.
//!
//! What a drop reason means for everybody stands in the README; here the names of endpoints,
//! networks, rules and ports are put in. The one hard constraint: what is advised is valid in the
//! config as it is, and does what is said.

use std::net::SocketAddr;

use engine::DropReason;
use engine::explain::Explanation;
use engine::flow::FlowInput;
use engine::tables::{Network, PortKind};
use engine::wire::protocol;

use super::words::Names;
use crate::reasons;

/// What to do about a packet that dies for this reason.
pub(crate) fn advice(names: Names<'_>, about: &Explanation, reason: DropReason) -> String {
    let special = match reason {
        DropReason::Unpublished => unpublished(names, &about.input),
        DropReason::OtherNetwork => other_network(names, &about.input),
        DropReason::Internal => internal(names, about),
        DropReason::IccOff => icc_off(names, &about.input),
        DropReason::PolicyDenied | DropReason::PolicyRejected => policy(names, about),
        DropReason::ClosedPort => closed_port(names, &about.input),
        DropReason::NoRoute => Some(no_route(&about.input)),
        DropReason::NotRoutable => hosts_own(names, &about.input),
        _ => None,
    };
    special.unwrap_or_else(|| reasons::of(reason).1.to_owned())
}

/// Who has the destination: its endpoint and its network.
fn owner<'n>(names: Names<'n>, input: &FlowInput) -> Option<(&'n str, &'n Network)> {
    let network = names.tables.network_towards(input.network, input.destination)?;
    let port = *network.by_address.get(&input.destination)?;
    match &names.tables.port(port)?.kind {
        PortKind::Endpoint(own) => Some((own.endpoint.as_str(), network)),
        PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => None,
    }
}

/// Where the destination's port is published; or the key that publishes it at the same number, and
/// where to send then.
fn publish(
    names: Names<'_>,
    input: &FlowInput,
    (endpoint, network): (&str, &Network),
) -> Option<String> {
    let kind = suffix(input.protocol)?;
    let port = input.destination_port;
    let uplinks = names.tables.uplinks.iter().flatten();
    let own = uplinks.filter_map(|uplink| uplink.address_of(input.is_v6())).next()?;
    let entry = names.tables.publish.by_target(network.id, input.destination, input.protocol, port);
    let reached = |host: Option<std::net::IpAddr>| host.is_none_or(|host| !host.is_loopback());
    if let Some(entry) = entry.filter(|entry| entry.host_port != 0 && reached(entry.host)) {
        let to = SocketAddr::new(entry.host.unwrap_or(own), entry.host_port_of(port));
        return Some(format!("send to {to}, where it is published"));
    }
    let to = SocketAddr::new(own, port);
    Some(format!(
        "publish it (`publish = [\"{port}:{port}{kind}\"]` in [endpoint.{endpoint}]) and send to \
         {to}"
    ))
}

fn either(first: Option<String>, second: String) -> String {
    first.map_or(second.clone(), |first| format!("{first}; or {second}"))
}

fn unpublished(names: Names<'_>, input: &FlowInput) -> Option<String> {
    let (endpoint, network) = owner(names, input)?;
    let direct = format!(
        "open it to the outside: `mode = \"nat-unprotected\"` in [network.{}]",
        network.name
    );
    Some(either(publish(names, input, (endpoint, network)), direct))
}

fn other_network(names: Names<'_>, input: &FlowInput) -> Option<String> {
    let (endpoint, network) = owner(names, input)?;
    let sender = match &names.tables.port(input.ingress)?.kind {
        PortKind::Endpoint(own) => own.endpoint.as_str(),
        PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => return None,
    };
    let join =
        format!("join the network: [[endpoint.{sender}.network]] `name = \"{}\"`", network.name);
    let direct = format!("`mode = \"nat-unprotected\"` in [network.{}]", network.name);
    Some(format!("{}; or {direct}", either(publish(names, input, (endpoint, network)), join)))
}

fn internal(names: Names<'_>, about: &Explanation) -> Option<String> {
    let from = names.tables.network(about.input.network);
    let target = about.steps.last().and_then(|step| step.target);
    let to = target.and_then(|target| names.tables.network(target));
    let to =
        to.or_else(|| names.tables.network_towards(about.input.network, about.input.destination));
    let closed = from.into_iter().chain(to).find(|network| network.internal)?;
    Some(format!(
        "nothing enters or leaves {0}: remove `internal = true` from [network.{0}], or have both \
         ends in one network",
        closed.name
    ))
}

fn icc_off(names: Names<'_>, input: &FlowInput) -> Option<String> {
    let network = names.tables.network(input.network)?;
    Some(format!(
        "set `icc = true` in [network.{}], or publish the port and send to the uplink's address",
        network.name
    ))
}

/// What stands behind a port of this protocol in `publish`; `None`: it has no ports.
fn suffix(number: u8) -> Option<&'static str> {
    match number {
        protocol::TCP => Some(""),
        protocol::UDP => Some("/udp"),
        protocol::SCTP => Some("/sctp"),
        _ => None,
    }
}

fn policy(names: Names<'_>, about: &Explanation) -> Option<String> {
    let rule = names.rule(&about.input, about.steps.last()?)?;
    Some(format!("change {rule}; or put an `allow` for this packet before it"))
}

fn closed_port(names: Names<'_>, input: &FlowInput) -> Option<String> {
    names.tables.uplink_with_address(input.destination)?;
    let kind = suffix(input.protocol)?;
    let port = input.destination_port;
    Some(format!(
        "nothing serves port {port}{kind} here: `publish = [\"{port}:PORT{kind}\"]` at the \
         endpoint that should"
    ))
}

/// A port of the host's that is not published: the host does not send it here.
fn hosts_own(names: Names<'_>, input: &FlowInput) -> Option<String> {
    let (address, port) = (input.destination, input.destination_port);
    let mut uplinks = names.tables.uplinks.iter().flatten();
    uplinks.find(|uplink| uplink.host.is_host(address))?;
    let kind = suffix(input.protocol)?;
    Some(format!(
        "{address} is the host's, which serves what is not published itself: `publish = \
         [\"{port}:PORT{kind}\"]` at the endpoint that should"
    ))
}

fn no_route(input: &FlowInput) -> String {
    let gateway = if input.is_v6() { "gateway6" } else { "gateway" };
    format!("give the uplink a default route (`{gateway}`), or a `routes` entry for the address")
}
