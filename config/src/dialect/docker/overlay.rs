//! Docker's overlay networks: identifiers, the other nodes, and the tasks on them.
//!
//! An inspected network has its VXLAN identifier among its options, the nodes that have endpoints
//! of it as `Peers`, and with `--verbose` the tasks of services with the nodes that they run on. A
//! Compose file has none of that, as a swarm's manager gives it out: settings say it. The one hard
//! constraint: which of the nodes the gateway stands for is never guessed; and what is encrypted
//! there is refused, as nodes drop what is not.

use std::collections::HashSet;
use std::net::IpAddr;

use engine::MacAddress;

use super::super::fragment::{self, Fragment, list, number, text};
use super::super::settings::Settings;
use super::super::tree::Node;
use super::spec::Spec;
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::Mac;

/// What Docker takes the nodes' own network to carry, unless an option says otherwise.
const MTU_OF_NODES: i64 = 1500;

/// RFC 7348: what a tunnel over IPv4 and over IPv6 takes of that.
const OVERHEAD: i64 = 50;
const OVERHEAD_V6: i64 = 70;

/// Highest VXLAN identifier.
const VNI_MAX: i64 = (1 << 24) - 1;

/// What `docker swarm init --data-path-port` takes, and what it is without that.
const DATA_PATH_PORTS: std::ops::RangeInclusive<i64> = 1024..=49_151;
const DATA_PATH_PORT_DEFAULT: i64 = 4789;

/// Most nodes: each is a tunnel.
const NODE_COUNT_MAX: usize = 4_096;

/// An address, and where it is given.
type Given = (IpAddr, PlaceId);

/// What settings say of the nodes of a swarm.
#[derive(Debug)]
pub(super) struct Swarm {
    /// The node that the gateway stands for.
    own: Option<Given>,
    peers: Vec<Given>,
    /// The identifier of the next network that has none.
    vni: Option<i64>,
    port: i64,
}

/// A task of a service.
#[derive(Debug)]
pub(super) struct Task {
    at: PlaceId,
    address: IpAddr,
    node: IpAddr,
}

impl Swarm {
    pub(super) fn read(settings: &Settings, report: &mut Report) -> Swarm {
        let own = settings.text("node_ip");
        let own = own.and_then(|(text, at)| Some((address(text, at, report)?, at)));
        let (texts, at) = settings.text("overlay_peers").unwrap_or(("", PlaceId::ROOT));
        let texts = texts.split(',').map(str::trim).filter(|text| !text.is_empty());
        let peers = texts.filter_map(|text| Some((address(text, at, report)?, at))).collect();
        let vni = settings.number("overlay_vni", 1..=VNI_MAX, report);
        let port = settings.number("data_path_port", DATA_PATH_PORTS, report);
        Swarm { own, peers, vni, port: port.unwrap_or(DATA_PATH_PORT_DEFAULT) }
    }

    fn is_own(&self, node: IpAddr) -> bool {
        self.own.is_some_and(|(own, _)| own == node)
    }
}

/// The nodes that have endpoints of an inspected network.
pub(super) fn peers(node: &Node, report: &mut Report) -> Vec<Given> {
    let mut peers: Vec<Given> = Vec::new();
    for peer in node.list_at("Peers", report).unwrap_or_default() {
        if peer.map(report).is_none() {
            continue;
        }
        peer.warn_unknown(&["Name", "IP"], report);
        let Some(given) = peer.get("IP") else {
            report.error(peer.at, "IP is missing");
            continue;
        };
        let Some(text) = given.text(report) else { continue };
        peers.extend(address(text, given.at, report).map(|address| (address, given.at)));
    }
    peers
}

/// The tasks of services, which `docker network inspect --verbose` shows.
pub(super) fn tasks(node: &Node, report: &mut Report) -> Vec<Task> {
    let mut found = Vec::new();
    let services = node.map_at("Services", report);
    for service in services.map(Node::entries).unwrap_or_default() {
        if service.node.map(report).is_none() {
            continue;
        }
        for task in service.node.list_at("Tasks", report).unwrap_or_default() {
            if task.map(report).is_none() {
                continue;
            }
            let info = task.map_at("Info", report);
            let ends = task.get("EndpointIP").zip(info.and_then(|info| info.get("Host IP")));
            let Some((own, node)) = ends else { continue };
            let own = own.text(report).and_then(|text| address(text, own.at, report));
            let node = node.text(report).and_then(|text| address(text, node.at, report));
            if let (Some(address), Some(node)) = (own, node) {
                found.push(Task { at: task.at, address, node });
            }
        }
    }
    found
}

/// The identifiers of an option, one per IPv4 subnet.
pub(super) fn identifiers(text: &str, at: PlaceId, report: &mut Report) -> Option<Vec<i64>> {
    let mut found = Vec::new();
    for part in text.split(',') {
        match part.parse::<i64>() {
            Ok(vni) if (1..=VNI_MAX).contains(&vni) => found.push(vni),
            _ => {
                report.error(at, format!("invalid vxlan id value {part:?} passed"));
                return None;
            }
        }
    }
    Some(found)
}

impl Spec {
    /// Docker's rules for an overlay by itself.
    pub(super) fn validate_overlay(&self, report: &mut Report) {
        let subnets = self.pools.iter().filter(|pool| pool.subnet.addr().is_ipv4()).count();
        if let Some((vnis, at)) = &self.labels.vnis
            && vnis.len() < subnets
        {
            let count = vnis.len();
            report.error(*at, format!("insufficient vnis({count}) passed to overlay"));
        }
    }

    /// Adds an overlay. One of which nobody else is known is a bridge, and so is one that is
    /// refused, for its members' sake.
    pub(super) fn add_overlay(
        &self,
        summary: &str,
        swarm: &mut Swarm,
        fragment: &mut Fragment,
        report: &mut Report,
    ) {
        self.say_losses(report);
        if let Some(at) = self.ingress {
            report.warning(at, "the routing mesh is not in this version: this is its network only");
        }
        let mut table = self.table();
        if !self.refuse_overlay(report) {
            self.add_tunnels(&mut table, swarm, fragment, report);
        }
        fragment.network(self.at, &self.name, format!("Docker's {summary}."), table);
    }

    /// Says what overlays there are that are none here.
    fn refuse_overlay(&self, report: &mut Report) -> bool {
        if let Some(at) = self.labels.encrypted {
            let name = &self.name;
            let message = format!("network {name} is encrypted, which is not in this version");
            let problem = report.error(at, message);
            problem.hint("its nodes drop whatever is not encrypted, so nobody there would hear us");
            return true;
        }
        let v4 = |pool: &&super::pools::Pool| pool.subnet.addr().is_ipv4();
        if let Some(second) = self.pools.iter().filter(v4).nth(1) {
            let message = "an overlay of several subnets has an identifier for each, and one here";
            let problem = report.error(second.at, message);
            problem.hint("give each subnet a network of its own");
            return true;
        }
        false
    }

    fn add_tunnels(
        &self,
        table: &mut schema::Network,
        swarm: &mut Swarm,
        fragment: &mut Fragment,
        report: &mut Report,
    ) {
        let peers = self.others(swarm, report);
        let remotes = self.remotes(swarm);
        table.mtu = number(self.at, self.mtu_of_members(&peers));
        if peers.is_empty() && remotes.is_empty() {
            let name = &self.name;
            let message = format!(
                "network {name}: other nodes are not reached, as nothing says where they are"
            );
            let problem = report.warning(self.driver_at, message);
            problem.hint("set overlay_peers to the addresses of the other nodes");
            return;
        }
        let given = self.labels.vnis.as_ref().and_then(|(vnis, at)| Some((*vnis.first()?, *at)));
        let Some((vni, at)) = given.or_else(|| Some((next(&mut swarm.vni)?, self.at))) else {
            let problem = report.error(self.driver_at, "no VNI provided");
            problem.hint(
                "as com.docker.network.driver.overlay.vxlanid_list, or by the setting overlay_vni",
            );
            return;
        };
        table.driver = text(self.driver_at, "overlay");
        table.vni = number(at, vni);
        table.port = number(self.driver_at, swarm.port);
        let peers = peers.iter().map(|(peer, at)| fragment::address(*at, *peer));
        table.peers = list(peers.collect());
        table.remote = list(remotes);
        fragment.underlay = fragment.underlay.or(swarm.own);
    }

    /// The other nodes.
    fn others(&self, swarm: &Swarm, report: &mut Report) -> Vec<Given> {
        let all = if swarm.peers.is_empty() { &self.peers } else { &swarm.peers };
        if let (None, Some((_, at)), true) = (swarm.own, all.first(), swarm.peers.is_empty()) {
            let problem = report.error(*at, "which of the peers this machine is, is not said");
            problem.hint("set node_ip to its address");
            return Vec::new();
        }
        if all.len() > NODE_COUNT_MAX {
            let count = all.len();
            report.error(all[0].1, format!("{count} nodes are too many, {NODE_COUNT_MAX} go"));
            return Vec::new();
        }
        if let Some((own, at)) = swarm.own
            && !self.peers.is_empty()
            && !self.peers.iter().any(|(peer, _)| *peer == own)
        {
            report.warning(at, format!("{own} is no peer of network {}", self.name));
        }
        let mut seen = HashSet::new();
        let is_other = |given: &&Given| !swarm.is_own(given.0) && seen.insert(given.0);
        all.iter().filter(is_other).copied().collect()
    }

    /// Tasks elsewhere. Docker derives the MAC addresses of overlays from the IP addresses.
    fn remotes(&self, swarm: &Swarm) -> Vec<Field<schema::Remote>> {
        let mut seen = HashSet::new();
        let is_elsewhere = |task: &&Task| {
            !swarm.is_own(task.node) && self.contains(task.address) && seen.insert(task.address)
        };
        let remote = |task: &Task| {
            let IpAddr::V4(v4) = task.address else { return None };
            let remote = schema::Remote {
                ip: fragment::address(task.at, task.address),
                mac: Field::Given(task.at, Mac(MacAddress::derived(v4))),
                vtep: fragment::address(task.at, task.node),
            };
            Some(Field::Given(task.at, remote))
        };
        self.tasks.iter().filter(is_elsewhere).filter_map(remote).collect()
    }

    /// The option is about the nodes' own network.
    fn mtu_of_members(&self, peers: &[Given]) -> i64 {
        let v6 = peers.iter().any(|(peer, _)| peer.is_ipv6());
        let overhead = if v6 { OVERHEAD_V6 } else { OVERHEAD };
        self.labels.mtu.map_or(MTU_OF_NODES, |(mtu, _)| mtu) - overhead
    }
}

/// Gives out an identifier.
fn next(vni: &mut Option<i64>) -> Option<i64> {
    let own = (*vni)?;
    *vni = (own < VNI_MAX).then_some(own + 1);
    Some(own)
}

fn address(text: &str, at: PlaceId, report: &mut Report) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        report.error(at, format!("invalid IP address: {text}"));
    }
    address
}
