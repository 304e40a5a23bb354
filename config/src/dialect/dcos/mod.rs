//! DC/OS: the overlay networks of a cluster's `config.yaml`, and one agent's part of them.
//!
//! A cluster says once which overlays there are (`config`); each agent has a slice of each, half
//! for Mesos containers and half for Docker's, and a tunnel end (`agent`). Which agent the gateway
//! stands for is a setting, or the file is that agent's own overlay state; where the others are, a
//! list says, or the overlay master's state (`roster`). Then each half is a routed overlay, with a
//! route to each slice of each other agent. The one hard constraint: whom the files do not tell of
//! is not reached; a gateway that knows of nobody else has its slices as bridges, and says so.

mod agent;
mod config;
mod roster;

use ipnet::IpNet;

use super::fragment::{self, Fragment, flag, list, number, text};
use super::settings::Settings;
use super::tree::Node;
use super::{Purpose, Source, json, yaml};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::Mac;
use agent::{Agent, Slice, Vtep};
use config::Cluster;
use roster::{Chosen, Roster};

/// VXLAN of DC/OS: one identifier for all overlays, and a port of its own.
const VNI: u32 = 1024;
const PORT: u16 = 64_000;

/// Most routes of all networks together. Each network has one to each slice of each other agent.
const ROUTE_COUNT_MAX: usize = 200_000;

/// What may stand before a value.
const BLANK: [char; 5] = ['\u{feff}', ' ', '\t', '\r', '\n'];

/// Reads files.
pub(super) fn read(
    sources: &[Source<'_>],
    settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let mut fragment = Fragment::default();
    let chosen = Chosen::read(settings, report);
    for source in sources {
        // States are JSON, of which what is a slip is named.
        let node = match source.text.trim_start_matches(BLANK).starts_with('{') {
            true => json::read(source.text, source.root, report),
            false => yaml::read(source.text, source.root, report),
        };
        let Some(node) = node else { continue };
        if node.map(report).is_none() {
            continue;
        }
        let before = report.error_count();
        let mut mtu = config::MTU_DEFAULT;
        let roster = if node.get("agents").is_some() {
            Roster::of_master(&node, &chosen, report)
        } else if node.get("overlays").is_some() {
            Roster::of_agent(&node, &chosen, report)
        } else {
            let Some(cluster) = Cluster::read(&node, report) else { continue };
            mtu = cluster.mtu;
            fragment.summary.extend(cluster.summary());
            (report.error_count() == before)
                .then(|| Roster::of_cluster(&cluster, &node, &chosen, report))
        };
        let Some(roster) = roster.filter(|_| report.error_count() == before) else { continue };
        match &roster.own {
            Some(own) => add(own, &roster.others, mtu, purpose, &mut fragment, report),
            None if purpose == Purpose::Use => {
                let problem = report.error(source.root, "which of the agents this is, is not said");
                problem.hint(
                    "set agent_index or agent_ip, or give the agent's overlay state as the file",
                );
            }
            None => {}
        }
    }
    fragment
}

/// Adds the networks of an agent.
fn add(
    own: &Agent,
    others: &[Agent],
    mtu: i64,
    purpose: Purpose,
    fragment: &mut Fragment,
    report: &mut Report,
) {
    fragment.summary.extend(own.summary());
    for other in others {
        fragment.summary.extend(other.as_other());
    }
    if purpose == Purpose::Check {
        return;
    }
    let networks: usize = own.slices.iter().map(|slice| slice.networks().len()).sum();
    let slices: usize = others.iter().flat_map(|other| &other.slices).count();
    if networks * slices > ROUTE_COUNT_MAX {
        let at = own.slices.first().map_or(PlaceId::ROOT, |slice| slice.at);
        let message = format!(
            "{networks} networks with routes to {slices} slices are too many, {ROUTE_COUNT_MAX} \
             routes go"
        );
        report.error(at, message);
        return;
    }
    if let (Some((host, at)), false) = (own.host, others.is_empty()) {
        fragment.underlay = Some((host, at));
    }
    for slice in &own.slices {
        let networks = slice.networks();
        for (name, subnets) in networks {
            let mut table = table(slice, &subnets, mtu);
            let routes = routes(&subnets, others);
            match own.vtep.as_ref().filter(|_| !routes.is_empty()) {
                Some(vtep) => add_tunnels(&mut table, slice.at, vtep, routes),
                None => say_alone(name, slice.at, report),
            }
            let comment = format!(
                "DC/OS overlay {}, this agent's slice. {}",
                slice.name,
                slice.bridges().unwrap_or_default()
            );
            fragment.network(slice.at, name, comment.trim(), table);
        }
    }
}

/// A network of an agent as a bridge: what leaves the overlays is masqueraded, and what is in them
/// reaches everybody who is, as nothing filters there.
fn table(slice: &Slice, subnets: &[IpNet], mtu: i64) -> schema::Network {
    let at = slice.at;
    let subnets = subnets.iter().map(|subnet| fragment::prefix(at, *subnet));
    schema::Network {
        driver: text(at, "bridge"),
        subnets: list(subnets.collect()),
        mode: text(at, "nat-unprotected"),
        masquerade: flag(at, true),
        // IPv6 has a least of its own.
        mtu: number(at, mtu),
        ..schema::Network::default()
    }
}

/// Makes it a routed overlay. All networks of an agent have its tunnel end's MAC address.
fn add_tunnels(
    table: &mut schema::Network,
    at: PlaceId,
    vtep: &Vtep,
    routes: Vec<Field<schema::OverlayRoute>>,
) {
    table.driver = text(at, "overlay");
    table.vni = number(at, i64::from(VNI));
    table.port = number(at, i64::from(PORT));
    table.gateway_mac = Field::Given(at, Mac(vtep.mac));
    table.route = list(routes);
}

/// A route to each slice of other agents, of every overlay: nothing between overlays is translated.
/// Of the families that the network has.
fn routes(subnets: &[IpNet], others: &[Agent]) -> Vec<Field<schema::OverlayRoute>> {
    let is_v6 = |net: &IpNet| net.addr().is_ipv6();
    let has = |subnet: &IpNet| subnets.iter().any(|own| is_v6(own) == is_v6(subnet));
    let mut routes = Vec::new();
    for other in others {
        let (Some((host, at)), Some(vtep)) = (other.host, &other.vtep) else { continue };
        let slices = other.slices.iter().flat_map(|slice| &slice.subnets);
        for subnet in slices.map(IpNet::trunc).filter(|subnet| has(subnet)) {
            let mut ends = vtep.addresses.iter();
            let end = ends.clone().find(|end| is_v6(end) == is_v6(&subnet)).or(ends.next());
            let Some(end) = end.map(IpNet::addr) else { continue };
            let route = schema::OverlayRoute {
                subnet: fragment::prefix(at, subnet),
                vtep_ip: fragment::address(at, end),
                vtep_mac: Field::Given(at, Mac(vtep.mac)),
                host: fragment::address(at, host),
            };
            routes.push(Field::Given(at, route));
        }
    }
    routes
}

/// Nobody else is known.
fn say_alone(name: &str, at: PlaceId, report: &mut Report) {
    let message =
        format!("network {name}: other agents are not reached, as nothing says where they are");
    let problem = report.warning(at, message);
    problem.hint("set agent_hosts to all agents' addresses, in the order of their indexes");
}

/// A boolean, which config.yaml may have as text.
fn truth(node: &Node, key: &str, default: bool, report: &mut Report) -> bool {
    let Some(given) = node.get(key) else { return default };
    match &given.value {
        super::tree::Value::Bool(flag) => *flag,
        super::tree::Value::Text(text) if text == "true" => true,
        super::tree::Value::Text(text) if text == "false" => false,
        super::tree::Value::Text(text) => {
            report.error(given.at, format!("Must be one of 'true', 'false'. Got '{text}'."));
            default
        }
        _ => {
            given.expected("true or false", report);
            default
        }
    }
}
