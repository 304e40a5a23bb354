//! DC/OS: the overlay networks of a cluster's `config.yaml`, and one agent's part of them.
//!
//! A cluster says once which overlays there are (`config`); each agent has a slice of each, half
//! for Mesos containers and half for Docker's, and a tunnel end (`agent`). Which agent the gateway
//! stands for is a setting, or the file is that agent's own overlay state. The one hard constraint:
//! no file says where the other agents are, so a native config has the agent's slice alone, as a
//! bridge, and says so.

mod agent;
mod config;

use super::fragment::{self, Fragment, flag, list, number, text};
use super::settings::Settings;
use super::tree::Node;
use super::{Purpose, Source, yaml};
use crate::report::Report;
use crate::schema;
use agent::{Agent, Slice};
use config::Cluster;

/// Highest index of an agent: there are no more slices in the largest overlay.
const AGENT_INDEX_MAX: i64 = (1 << 24) - 1;

/// VXLAN of DC/OS: one identifier for all overlays, and a port of its own.
const VNI: u32 = 1024;
const PORT: u16 = 64_000;

/// Reads files.
pub(super) fn read(
    sources: &[Source<'_>],
    settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let mut fragment = Fragment::default();
    let index = settings.number("agent_index", 0..=AGENT_INDEX_MAX, report);
    for source in sources {
        // JSON is YAML.
        let Some(node) = yaml::read(source.text, source.root, report) else { continue };
        if node.map(report).is_none() {
            continue;
        }
        if node.get("overlays").is_some() {
            if let Some(agent) = Agent::from_state(&node, report) {
                add_agent(&agent, None, purpose, &mut fragment, report);
            }
            continue;
        }
        let before = report.error_count();
        let Some(cluster) = Cluster::read(&node, report) else { continue };
        if report.error_count() > before {
            continue;
        }
        fragment.summary.extend(cluster.summary());
        let agent = index.and_then(|index| {
            let at = settings.text("agent_index").map_or(source.root, |(_, at)| at);
            Agent::of_cluster(&cluster, index as u32, at, report)
        });
        match agent {
            Some(agent) => add_agent(&agent, Some(&cluster), purpose, &mut fragment, report),
            None if purpose == Purpose::Use && index.is_none() => {
                let problem = report.error(source.root, "which of the agents this is, is not said");
                problem.hint("set agent_index, or give the agent's overlay state as the file");
            }
            None => {}
        }
    }
    fragment
}

fn add_agent(
    agent: &Agent,
    cluster: Option<&Cluster>,
    purpose: Purpose,
    fragment: &mut Fragment,
    report: &mut Report,
) {
    fragment.summary.extend(agent.summary());
    if purpose == Purpose::Check {
        return;
    }
    let mtu = cluster.map_or(config::MTU_DEFAULT, |cluster| cluster.mtu);
    for slice in &agent.slices {
        let message = format!(
            "overlay {}: other agents are not reached, as the file does not say where they are",
            slice.name
        );
        report.warning(slice.at, message).hint(format!(
            "in native: driver = \"overlay\", vni = {VNI}, port = {PORT}, the agent's own MAC \
             address as gateway_mac, and a route per agent"
        ));
        let comment = format!(
            "DC/OS overlay {}, this agent's slice. {}",
            slice.name,
            slice.bridges().unwrap_or_default()
        );
        fragment.network(slice.at, &slice.name, comment.trim(), table(slice, mtu));
    }
}

/// What an agent has of an overlay as a network: what leaves the overlays is masqueraded.
fn table(slice: &Slice, mtu: i64) -> schema::Network {
    let at = slice.at;
    let subnets = slice.subnets.iter().map(|subnet| fragment::prefix(at, *subnet));
    schema::Network {
        driver: text(at, "bridge"),
        subnets: list(subnets.collect()),
        masquerade: flag(at, true),
        // IPv6 has a least of its own.
        mtu: number(at, mtu),
        ..schema::Network::default()
    }
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
