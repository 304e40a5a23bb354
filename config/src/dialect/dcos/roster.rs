//! All agents that a file and the settings tell of, and which of them the gateway stands for.
//!
//! A cluster's `config.yaml` gives each agent its slices and its tunnel end by its index, and its
//! list of agents, or the setting `agent_hosts`, says where it is. The state of the overlay master
//! says all of it, the state of one agent only what is its own. The one hard constraint: what an
//! index gives is what the master gives to a new cluster's agents, first come, first served; so a
//! list of hosts is in that order, which nothing here can know.

use std::net::IpAddr;

use super::super::settings::Settings;
use super::super::tree::Node;
use super::agent::Agent;
use super::config::Cluster;
use crate::report::{PlaceId, Report};

/// Most agents: `vtep_subnet` has no more addresses by default, and each is a tunnel.
const AGENT_COUNT_MAX: usize = 4_094;

/// Highest index of an agent: there are no more slices in the largest overlay.
const AGENT_INDEX_MAX: i64 = (1 << 24) - 1;

/// Where `config.yaml` has its agents, in this order.
const LISTS: [&str; 2] = ["agent_list", "public_agent_list"];

/// An address of a machine, and where it is given.
type Host = (IpAddr, PlaceId);

/// Agents.
#[derive(Debug)]
pub(super) struct Roster {
    /// The one that the gateway stands for, if that is said.
    pub(super) own: Option<Agent>,
    pub(super) others: Vec<Agent>,
}

/// Which agent is ours, by the settings.
pub(super) struct Chosen {
    index: Option<(usize, PlaceId)>,
    ip: Option<Host>,
    /// `agent_hosts`, in the order of indexes.
    hosts: Option<Vec<Host>>,
}

impl Chosen {
    pub(super) fn read(settings: &Settings, report: &mut Report) -> Chosen {
        let index = settings.number("agent_index", 0..=AGENT_INDEX_MAX, report);
        let index_at = settings.text("agent_index").map(|(_, at)| at);
        let ip = settings.text("agent_ip");
        let ip = ip.and_then(|(text, at)| Some((host(text, at, report)?, at)));
        let hosts = settings.text("agent_hosts").map(|(text, at)| {
            let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            unique(texts.filter_map(|text| Some((host(text, at, report)?, at))).collect(), report)
        });
        Chosen { index: index.map(|index| index as usize).zip(index_at), ip, hosts }
    }

    /// The index of our agent among these hosts.
    fn among(&self, hosts: &[Host], report: &mut Report) -> Option<(usize, PlaceId)> {
        let Some((ip, at)) = self.ip else {
            let (index, at) = self.index?;
            if !hosts.is_empty() && index >= hosts.len() {
                let count = hosts.len();
                let message = format!("no agent has the index {index}: {count} are known");
                report.error(at, message);
                return None;
            }
            return Some((index, at));
        };
        let found = hosts.iter().position(|(host, _)| *host == ip);
        if found.is_none() {
            let problem = report.error(at, format!("{ip} is none of the agents that are known"));
            if hosts.is_empty() {
                problem.hint("give them in the order of their indexes: agent_hosts");
            }
        }
        if let (Some(found), Some((index, index_at))) = (found, self.index)
            && found != index
        {
            report.error(index_at, format!("{ip} has the index {found}"));
        }
        found.map(|index| (index, at))
    }
}

impl Roster {
    /// The agents of a cluster: those whose hosts are known, and ours.
    pub(super) fn of_cluster(
        cluster: &Cluster,
        node: &Node,
        chosen: &Chosen,
        report: &mut Report,
    ) -> Roster {
        let mut roster = Roster { own: None, others: Vec::new() };
        let hosts = chosen.hosts.clone().unwrap_or_else(|| listed(node, report));
        let Some((index, at)) = chosen.among(&hosts, report) else { return roster };
        if hosts.len() > 1 && chosen.hosts.is_none() {
            let problem = report.warning(hosts[0].1, "agents are taken in the order of this list");
            problem.hint(
                "a cluster gives slices first come, first served: compare /overlay-master/state, \
                 or set agent_hosts",
            );
        }
        roster.own = Agent::of_cluster(cluster, index as u32, at, report);
        if let (Some(own), Some(host)) = (&mut roster.own, hosts.get(index)) {
            own.host = Some(*host);
        }
        for (other, host) in hosts.iter().enumerate().filter(|(other, _)| *other != index) {
            let before = report.error_count();
            let agent = Agent::of_cluster(cluster, other as u32, host.1, report);
            roster.others.extend(agent.map(|agent| Agent { host: Some(*host), ..agent }));
            if report.error_count() > before {
                // Those behind it have none either.
                break;
            }
        }
        roster
    }

    /// The agents of the overlay master's state.
    pub(super) fn of_master(node: &Node, chosen: &Chosen, report: &mut Report) -> Option<Roster> {
        let agents = node.list_at("agents", report)?;
        if agents.len() > AGENT_COUNT_MAX {
            let (at, count) = (node.get("agents")?.at, agents.len());
            report.error(at, format!("{count} agents are too many, {AGENT_COUNT_MAX} go"));
            return None;
        }
        let mut read = Vec::new();
        for agent in agents {
            agent.map(report)?;
            read.push(Agent::from_state(agent, report)?);
        }
        let hosts: Vec<Host> = read.iter().filter_map(|agent| agent.host).collect();
        if hosts.len() < read.len() {
            let at = node.get("agents")?.at;
            report.error(at, "an agent's ip is missing");
            return None;
        }
        unique(hosts.clone(), report);
        let own = chosen.among(&hosts, report).map(|(index, _)| read.remove(index));
        Some(Roster { own, others: read })
    }

    /// One agent's state: the others follow from their hosts, as of one cluster.
    pub(super) fn of_agent(node: &Node, chosen: &Chosen, report: &mut Report) -> Option<Roster> {
        let own = Agent::from_state(node, report)?;
        if let Some(slice) = own.slices.iter().find(|slice| slice.subnets.is_empty()) {
            let message = format!("overlay {} has no subnet on this agent", slice.name);
            report.error(slice.at, message);
            return None;
        }
        let mut others = Vec::new();
        for (index, host) in chosen.hosts.iter().flatten().enumerate() {
            if own.host.is_some_and(|(ip, _)| ip == host.0) {
                continue;
            }
            match own.sibling(index as u32, *host) {
                Ok(sibling) => others.push(sibling),
                Err(message) => {
                    report.error(host.1, message);
                    break;
                }
            }
        }
        let is_listed = others.len() < chosen.hosts.as_ref().map_or(0, Vec::len);
        if let (Some((_, at)), false) =
            (chosen.hosts.as_ref().and_then(|all| all.first()), is_listed)
        {
            report.error(*at, "this agent is not among agent_hosts");
        }
        Some(Roster { own: Some(own), others })
    }
}

/// The agents that `config.yaml` lists.
fn listed(node: &Node, report: &mut Report) -> Vec<Host> {
    let mut hosts = Vec::new();
    for key in LISTS {
        for item in node.list_at(key, report).unwrap_or_default() {
            let Some(text) = item.text(report) else { continue };
            hosts.extend(host(text, item.at, report).map(|host| (host, item.at)));
        }
    }
    unique(hosts, report)
}

fn host(text: &str, at: PlaceId, report: &mut Report) -> Option<IpAddr> {
    let host = text.parse().ok();
    if host.is_none() {
        report.error(at, format!("{text:?} is no address"));
    }
    host
}

/// Refuses an address that two have, and more than go.
fn unique(mut hosts: Vec<Host>, report: &mut Report) -> Vec<Host> {
    if hosts.len() > AGENT_COUNT_MAX {
        let count = hosts.len();
        report.error(hosts[0].1, format!("{count} agents are too many, {AGENT_COUNT_MAX} go"));
        hosts.clear();
    }
    let mut seen = std::collections::HashMap::new();
    for (host, at) in &hosts {
        if let Some(other) = seen.insert(*host, *at) {
            report.error(*at, format!("{host} is an agent already")).related(other, "it is here");
        }
    }
    hosts
}
