//! From a checked config to the engine's tables.
//!
//! This says what the tables are; `recompile` says the same of a change, with less work.
//! Pure: one config and one running snapshot always give the same tables. A part that is equal to
//! the running one is the running one, with its epoch, so that flows which used it go on at the
//! cost of a comparison. A part that is new or changed takes the new generation as its epoch: a
//! number that nothing had before, even if a part of the same id came and went in between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use engine::limits::{NatSettings, StaticNat, Statics};
use engine::tables::{
    Attachment, Epoch, HostLink, Network, Overlay, Policy, PortKind, PortTable, Protocol, Publish,
    PublishEntry, Route, Routes, Rule, RulePorts, RuleSide, Subnet, TableMap, Uplink,
};
use engine::{NetworkId, Tables, UplinkId};
use ipnet::IpNet;

use crate::host::HostSide;
use crate::ids;
use crate::lanes;
use crate::model::{self, Config};
use crate::policy;
use crate::tunnels::{add_trunks, network_ports, overlay_table};

/// Compiles a config, sharing with the running tables whatever is equal.
pub fn compile(config: &Config, previous: Option<&Tables>) -> Tables {
    let mut config = config.clone();
    ids::adopt(&mut config, previous);
    let empty = Tables::empty();
    let (previous, generation) = match previous {
        Some(previous) => (previous, previous.generation + 1),
        None => (&empty, 1),
    };
    let compiler = Compiler::new(&config, generation);
    let mut tables = Tables {
        generation,
        plan: previous.plan,
        ports: share(compiler.ports(), &previous.ports),
        networks: share(compiler.networks(), &previous.networks),
        uplinks: share(compiler.uplinks(), &previous.uplinks),
        publish: share_publish(compiler.publish(), generation, &previous.publish),
        policy: share_policy(rules(&config, &compiler.network_ids), generation, &previous.policy),
        routes: share_routes(Routes::new(generation, compiler.routes()), &previous.routes),
        nat: share_one(nat_settings(&config, generation), &previous.nat),
        limits: match config.limits == *previous.limits {
            true => previous.limits.clone(),
            false => Arc::new(config.limits.clone()),
        },
    };
    if !address_plan_is_same(&tables, previous) {
        tables.plan = generation;
    }
    tables
}

/// True if all subnets and all of the gateway's own addresses are what they were, and whose.
pub(crate) fn address_plan_is_same(new: &Tables, old: &Tables) -> bool {
    subnets(&new.networks).eq(subnets(&old.networks))
        && own_addresses(&new.uplinks).eq(own_addresses(&old.uplinks))
}

/// One half of the address plan: all subnets, with whose they are.
fn subnets(
    networks: &[Option<Arc<Network>>],
) -> impl Iterator<Item = (NetworkId, &[Subnet], Option<&Overlay>)> {
    let networks = networks.iter().flatten();
    networks.map(|network| (network.id, &*network.subnets, network.overlay.as_ref()))
}

/// The other half: all of the gateway's own addresses on uplinks, and who is behind them.
fn own_addresses(
    uplinks: &[Option<Arc<Uplink>>],
) -> impl Iterator<Item = (UplinkId, &[IpNet], bool, &HostLink)> {
    uplinks.iter().flatten().map(|own| (own.id, &*own.addresses, own.trusted, &own.host))
}

/// A part of the tables that carries its epoch.
pub(crate) trait Part: PartialEq {
    fn epoch_mut(&mut self) -> &mut Epoch;
    fn epoch(&self) -> Epoch;
}

/// A part of which there are many, each at its id.
pub(crate) trait Indexed: Part {
    fn index(&self) -> usize;
}

impl Indexed for PortTable {
    fn index(&self) -> usize {
        self.id.index()
    }
}

impl Part for PortTable {
    fn epoch_mut(&mut self) -> &mut Epoch {
        &mut self.epoch
    }
    fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Indexed for Network {
    fn index(&self) -> usize {
        self.id.index()
    }
}

impl Part for Network {
    fn epoch_mut(&mut self) -> &mut Epoch {
        &mut self.epoch
    }
    fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Indexed for Uplink {
    fn index(&self) -> usize {
        self.id.index()
    }
}

impl Part for Uplink {
    fn epoch_mut(&mut self) -> &mut Epoch {
        &mut self.epoch
    }
    fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Part for NatSettings {
    fn epoch_mut(&mut self) -> &mut Epoch {
        &mut self.epoch
    }
    fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// The running part if it equals the new one apart from the epoch, else the new one.
pub(crate) fn share_one<T: Part>(mut new: T, running: &Arc<T>) -> Arc<T> {
    let new_epoch = std::mem::replace(new.epoch_mut(), running.epoch());
    if new == **running {
        return running.clone();
    }
    *new.epoch_mut() = new_epoch;
    Arc::new(new)
}

/// Puts a part at its id, shared with the running one of that id if equal.
pub(crate) fn share_at<T: Indexed>(
    placed: &mut Vec<Option<Arc<T>>>,
    running: &[Option<Arc<T>>],
    part: T,
) {
    let index = part.index();
    if placed.len() <= index {
        placed.resize(index + 1, None);
    }
    placed[index] = Some(match running.get(index).and_then(Option::as_ref) {
        Some(running) => share_one(part, running),
        None => Arc::new(part),
    });
}

fn share<T: Indexed>(parts: Vec<T>, running: &[Option<Arc<T>>]) -> Vec<Option<Arc<T>>> {
    let mut placed = Vec::new();
    parts.into_iter().for_each(|part| share_at(&mut placed, running, part));
    placed
}

fn share_publish(entries: Vec<PublishEntry>, epoch: Epoch, running: &Arc<Publish>) -> Arc<Publish> {
    if entries == running.entries() {
        running.clone()
    } else {
        Arc::new(running.changed_to(epoch, entries))
    }
}

pub(crate) fn share_policy(rules: Vec<Rule>, epoch: Epoch, running: &Arc<Policy>) -> Arc<Policy> {
    match rules == running.rules() {
        true => running.clone(),
        false => Arc::new(running.changed_to(epoch, rules)),
    }
}

fn share_routes(new: Routes, running: &Arc<Routes>) -> Arc<Routes> {
    if new.same_routes(running) { running.clone() } else { Arc::new(new) }
}

/// Builds the parts, all with the new epoch.
struct Compiler<'c> {
    config: &'c Config,
    epoch: Epoch,
    network_ids: TableMap<&'c str, NetworkId>,
    uplink_ids: HashMap<&'c str, UplinkId>,
}

impl<'c> Compiler<'c> {
    fn new(config: &'c Config, epoch: Epoch) -> Compiler<'c> {
        let networks = config.networks.iter().map(|network| (network.name.as_str(), network.id));
        let uplinks = config.uplinks.iter().map(|uplink| (uplink.name.as_str(), uplink.id));
        let (network_ids, uplink_ids) = (networks.collect(), uplinks.collect());
        Compiler { config, epoch, network_ids, uplink_ids }
    }

    /// All attachments with their endpoints and networks.
    fn attachments(
        &self,
    ) -> impl Iterator<Item = (&'c model::Endpoint, &'c model::Attachment, NetworkId)> {
        self.config.endpoints.iter().flat_map(|endpoint| {
            endpoint.attachments.iter().map(|own| {
                let network = network_id(&self.network_ids, &own.network);
                (&**endpoint, own, network)
            })
        })
    }

    fn ports(&self) -> Vec<PortTable> {
        let uplinks =
            self.config.uplinks.iter().map(|uplink| uplink_port_table(uplink, self.epoch));
        let endpoints = self
            .attachments()
            .map(|(endpoint, own, network)| port_table(endpoint, own, network, self.epoch));
        let networks = self.config.networks.iter();
        let others = networks.flat_map(|network| network_ports(network, self.config, self.epoch));
        uplinks.chain(endpoints).chain(others).collect()
    }

    fn networks(&self) -> Vec<Network> {
        let networks = self.config.networks.iter();
        let mut networks: Vec<Network> =
            networks.map(|network| network_table(network, &self.uplink_ids, self.epoch)).collect();
        let index_by_id: HashMap<NetworkId, usize> =
            networks.iter().enumerate().map(|(index, network)| (network.id, index)).collect();
        for (_, own, network) in self.attachments() {
            let network = &mut networks[index_by_id[&network]];
            network.members.push(own.port);
            network.by_mac.insert(own.mac, own.port);
            let ipv4 = own.ipv4_address().map(IpAddr::V4);
            let ipv6 = own.ipv6_address().map(IpAddr::V6);
            let addresses = ipv4.into_iter().chain(ipv6);
            network.by_address.extend(addresses.map(|address| (address, own.port)));
        }
        for (network, model) in networks.iter_mut().zip(&self.config.networks) {
            network.overlay = overlay_table(model, &self.uplink_ids);
            add_trunks(network, model);
            network.members.sort_unstable();
        }
        networks
    }

    fn uplinks(&self) -> Vec<Uplink> {
        let uplinks = self.config.uplinks.iter();
        uplinks.map(|own| uplink_table(own, self.config, self.epoch)).collect()
    }

    fn publish(&self) -> Vec<PublishEntry> {
        let endpoints = self.config.endpoints.iter();
        let entries = endpoints.flat_map(|endpoint| {
            let publish = endpoint.publish.iter();
            publish.map(|publish| publish_entry(endpoint, publish, &self.network_ids))
        });
        entries.collect()
    }

    fn routes(&self) -> Vec<Route> {
        self.config.uplinks.iter().flat_map(routes_of).collect()
    }
}

fn network_id(ids: &TableMap<&str, NetworkId>, name: &str) -> NetworkId {
    *ids.get(name).expect("a checked config names networks that exist")
}

pub(crate) fn uplink_port_table(uplink: &model::Uplink, epoch: Epoch) -> PortTable {
    let kind = PortKind::Uplink(uplink.id);
    PortTable { epoch, id: uplink.port, name: uplink.name.clone(), kind, mtu: uplink.mtu }
}

pub(crate) fn port_table(
    endpoint: &model::Endpoint,
    own: &model::Attachment,
    network: NetworkId,
    epoch: Epoch,
) -> PortTable {
    PortTable {
        epoch,
        id: own.port,
        name: ids::port_name(&endpoint.name, &own.network),
        kind: PortKind::Endpoint(Attachment {
            endpoint: endpoint.name.clone(),
            network,
            mac: own.mac,
            ipv4: own.ipv4_address(),
            ipv6: own.ipv6_address(),
            anti_spoofing: own.anti_spoofing,
        }),
        mtu: own.mtu,
    }
}

/// A network without its members.
pub(crate) fn network_table(
    network: &model::Network,
    uplink_ids: &HashMap<&str, UplinkId>,
    epoch: Epoch,
) -> Network {
    let subnets = network.subnets.iter();
    let uplink = network.uplink.as_deref();
    let table = Network {
        epoch,
        id: network.id,
        name: network.name.clone(),
        gateway_mac: network.gateway_mac,
        subnets: subnets
            .map(|subnet| Subnet { prefix: subnet.prefix, gateway: subnet.gateway })
            .collect(),
        internal: network.internal,
        icc: network.icc,
        mode: network.mode,
        masquerade: network.masquerade,
        mtu: network.mtu,
        mss_clamp: network.mss_clamp,
        multicast_snooping: network.multicast_snooping,
        uplink: uplink.and_then(|name| uplink_ids.get(name).copied()),
        overlay: None,
        direct: None,
        routed_only: false,
        unfiltered: false,
        members: Vec::new(),
        by_address: TableMap::default(),
        by_mac: TableMap::default(),
    };
    lanes::on_parent(table, network, uplink_ids)
}

pub(crate) fn uplink_table(uplink: &model::Uplink, config: &Config, epoch: Epoch) -> Uplink {
    Uplink {
        epoch,
        id: uplink.id,
        name: uplink.name.clone(),
        port: uplink.port,
        mac: uplink.mac,
        addresses: uplink.addresses.clone(),
        trusted: uplink.trusted,
        host: host_link(uplink),
        link: lanes::link_of(uplink, config),
    }
}

pub(crate) fn publish_entry(
    endpoint: &model::Endpoint,
    publish: &model::Publish,
    network_ids: &TableMap<&str, NetworkId>,
) -> PublishEntry {
    let own = endpoint.attachments.iter().find(|own| own.network == publish.network);
    PublishEntry {
        host: publish.host,
        protocol: publish.protocol,
        host_port: publish.host_port,
        port_count: publish.port_count,
        target_port: publish.target_port,
        target: publish.target,
        port: own.expect("a checked config publishes by one of the endpoint's networks").port,
        network: network_id(network_ids, &publish.network),
    }
}

/// Routes of an uplink, its own subnets first: a static route to one of them changes nothing.
pub(crate) fn routes_of(uplink: &model::Uplink) -> impl Iterator<Item = Route> {
    let connected = uplink.addresses.iter().map(IpNet::trunc);
    let connected = connected.map(|to| Route { to, via: None, uplink: uplink.id });
    let connected = connected.chain(routes_to_host(uplink));
    let others = uplink.routes.iter();
    connected.chain(others.map(|route| Route { to: route.to, via: route.via, uplink: uplink.id }))
}

/// The machine that the gateway runs on. Elsewhere the kernel's end is a neighbour like others.
fn host_link(uplink: &model::Uplink) -> HostLink {
    let mut link = uplink.host.as_ref().map(HostSide::table).unwrap_or_default();
    if uplink.netns.is_none() {
        link.peers.extend(uplink.host_addresses.iter().map(IpNet::addr));
    }
    link
}

/// The link with the host, and the host's addresses behind it.
fn routes_to_host(uplink: &model::Uplink) -> impl Iterator<Item = Route> {
    let id = uplink.id;
    let link = uplink.host.iter().flat_map(HostSide::links);
    let link = link.map(move |to| Route { to, via: None, uplink: id });
    let behind = uplink.host.iter().flat_map(move |host| {
        let [peer4, peer6] = host.peers();
        let others = host.stand_ins().map(|(_, own)| own);
        let others = others.filter(move |own| !own.is_loopback() && ![peer4, peer6].contains(own));
        others.map(move |own| {
            let via = if own.is_ipv6() { peer6 } else { peer4 };
            Route { to: own.into(), via: Some(via), uplink: id }
        })
    });
    link.chain(behind)
}

/// The settings of NAT, with what they say about uplinks, networks and endpoints by their ids.
pub(crate) fn nat_settings(config: &Config, epoch: Epoch) -> NatSettings {
    let outside = &config.outside;
    let of_uplink = |uplink: &model::Uplink| {
        let own = |address: &&IpAddr| uplink.addresses.iter().any(|own| own.addr() == **address);
        (uplink.id, outside.addresses.iter().filter(own).copied().collect::<Vec<IpAddr>>())
    };
    let pools = config.uplinks.iter().map(of_uplink);
    let mut sources: Vec<(NetworkId, IpAddr)> = config
        .networks
        .iter()
        .flat_map(|network| {
            let addresses = network.host_ipv4.into_iter().chain(network.host_ipv6);
            addresses.map(|address| (network.id, address))
        })
        .collect();
    sources.sort_unstable();
    NatSettings {
        epoch,
        pools: pools.filter(|(_, addresses)| !addresses.is_empty()).collect(),
        sources,
        reserved: overlay_udp_ports(config),
        statics: Statics::new(
            outside.statics.iter().map(|rule| static_nat(rule, config)).collect(),
        ),
        ..config.nat.clone()
    }
}

/// UDP ports that packets out of tunnels come to.
fn overlay_udp_ports(config: &Config) -> Vec<u16> {
    let overlays = config.networks.iter().filter_map(|network| network.overlay.as_ref());
    let mut ports: Vec<u16> = overlays.map(|overlay| overlay.udp_port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn static_nat(rule: &model::StaticRule, config: &Config) -> StaticNat {
    let endpoint = config.endpoint(&rule.endpoint).expect("a checked rule names an endpoint");
    let own = endpoint.attachments.iter().find(|own| own.network == rule.network);
    let network = config.network(&rule.network).expect("a checked rule names a network");
    StaticNat {
        inside: rule.inside,
        outside: rule.outside,
        port: own.expect("a checked rule names a network of its endpoint").port,
        network: network.id,
    }
}

/// The rules by ids.
pub(crate) fn rules(config: &Config, network_ids: &TableMap<&str, NetworkId>) -> Vec<Rule> {
    let endpoints = config.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), &**endpoint));
    let endpoints: HashMap<&str, &model::Endpoint> = match config.policy.is_empty() {
        true => HashMap::new(),
        false => endpoints.collect(),
    };
    let side = |side: &policy::RuleSide| -> RuleSide {
        let uplink = side.uplink.as_deref().and_then(|name| config.uplink(name));
        let endpoint = side.endpoint.as_deref().and_then(|name| endpoints.get(name));
        let behind = match (uplink, endpoint) {
            (Some(uplink), _) => Some(vec![uplink.port]),
            (None, Some(endpoint)) => {
                Some(endpoint.attachments.iter().map(|own| own.port).collect())
            }
            (None, None) => None,
        };
        RuleSide {
            behind,
            network: side.network.as_deref().map(|name| network_id(network_ids, name)),
            prefixes: Some(side.cidr.clone()).filter(|cidr| !cidr.is_empty()),
        }
    };
    let rule = |rule: &policy::Rule| Rule {
        action: rule.action,
        from: side(&rule.from),
        to: side(&rule.to),
        from_ports: match rule.from.ports.is_empty() {
            true => None,
            false => Some(rule_ports(&rule.from.ports, &rule.protocols)),
        },
        to_ports: match rule.to.ports.is_empty() && rule.protocols.is_empty() {
            true => None,
            false => Some(rule_ports(&rule.to.ports, &rule.protocols)),
        },
    };
    config.policy.iter().map(rule).collect()
}

/// Ports by protocol. Those of no protocol are of the rule's, or of each that has ports.
fn rule_ports(ports: &[policy::Ports], protocols: &[u8]) -> Vec<RulePorts> {
    let whole = [policy::Ports { first: 0, last: u16::MAX, protocol: None }];
    let ports = if ports.is_empty() { &whole } else { ports };
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Protocol::number);
    let of_rule = if protocols.is_empty() { &all } else { protocols };
    let of = |ports: &policy::Ports| -> Vec<u8> {
        ports.protocol.map_or_else(|| of_rule.to_vec(), |protocol| vec![protocol.number()])
    };
    let range = |ports: &policy::Ports, protocol| RulePorts {
        protocol,
        first: ports.first,
        last: ports.last,
    };
    let ports = ports.iter();
    ports.flat_map(|ports| of(ports).into_iter().map(|number| range(ports, number))).collect()
}
