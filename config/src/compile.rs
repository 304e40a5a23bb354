//! From a checked config to the engine's tables.
//!
//! Pure: one config and one running snapshot always give the same tables. A part that is equal to
//! the running one is the running one, with its epoch, so that flows which used it go on at the
//! cost of a comparison. A part that is new or changed takes the new generation as its epoch: a
//! number that nothing had before, even if a part of the same id came and went in between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use engine::limits::NatSettings;
use engine::tables::{
    Attachment, Epoch, Network, PortKind, PortTable, Publish, PublishEntry, Route, Routes, Subnet,
    TableMap, Uplink,
};
use engine::{NetworkId, PortId, Tables, UplinkId};
use ipnet::IpNet;

use crate::ids::{self, Ids};
use crate::model::{self, Config};

/// Compiles a config, sharing with the running tables whatever is equal.
pub fn compile(config: &Config, previous: Option<&Tables>) -> Tables {
    let ids = ids::of(config, previous);
    let empty = Tables::empty();
    let (previous, generation) = match previous {
        Some(previous) => (previous, previous.generation + 1),
        None => (&empty, 1),
    };
    let compiler = Compiler::new(config, &ids, generation);
    let ports = share(compiler.ports(), &previous.ports, |part| part.id.index());
    let networks = share(compiler.networks(), &previous.networks, |part| part.id.index());
    let uplinks = share(compiler.uplinks(), &previous.uplinks, |part| part.id.index());
    let is_same_plan = subnets(&networks).eq(subnets(&previous.networks))
        && own_addresses(&uplinks).eq(own_addresses(&previous.uplinks));
    Tables {
        generation,
        plan: if is_same_plan { previous.plan } else { generation },
        ports,
        networks,
        uplinks,
        publish: share_publish(compiler.publish(), generation, &previous.publish),
        routes: share_routes(Routes::new(generation, compiler.routes()), &previous.routes),
        nat: share_one(compiler.nat(), &previous.nat),
        limits: if config.limits == *previous.limits {
            previous.limits.clone()
        } else {
            Arc::new(config.limits.clone())
        },
    }
}

/// One half of the address plan: all subnets, with whose they are.
fn subnets(networks: &[Option<Arc<Network>>]) -> impl Iterator<Item = (NetworkId, &[Subnet])> {
    networks.iter().flatten().map(|network| (network.id, &*network.subnets))
}

/// The other half: all of the gateway's own addresses on uplinks.
fn own_addresses(uplinks: &[Option<Arc<Uplink>>]) -> impl Iterator<Item = (UplinkId, &[IpNet])> {
    uplinks.iter().flatten().map(|uplink| (uplink.id, &*uplink.addresses))
}

/// A part of the tables that carries its epoch.
trait Part: PartialEq {
    fn epoch_mut(&mut self) -> &mut Epoch;
    fn epoch(&self) -> Epoch;
}

impl Part for PortTable {
    fn epoch_mut(&mut self) -> &mut Epoch {
        &mut self.epoch
    }
    fn epoch(&self) -> Epoch {
        self.epoch
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
fn share_one<T: Part>(mut new: T, running: &Arc<T>) -> Arc<T> {
    let new_epoch = std::mem::replace(new.epoch_mut(), running.epoch());
    if new == **running {
        return running.clone();
    }
    *new.epoch_mut() = new_epoch;
    Arc::new(new)
}

/// Puts parts at their ids, each shared with the running one of that id if equal.
fn share<T: Part>(
    parts: Vec<T>,
    running: &[Option<Arc<T>>],
    index: fn(&T) -> usize,
) -> Vec<Option<Arc<T>>> {
    let count = parts.iter().map(index).max().map_or(0, |index| index + 1);
    let mut placed: Vec<Option<Arc<T>>> = vec![None; count];
    for part in parts {
        let index = index(&part);
        placed[index] = Some(match running.get(index).and_then(Option::as_ref) {
            Some(running) => share_one(part, running),
            None => Arc::new(part),
        });
    }
    placed
}

fn share_publish(entries: Vec<PublishEntry>, epoch: Epoch, running: &Arc<Publish>) -> Arc<Publish> {
    if entries == running.entries() {
        running.clone()
    } else {
        Arc::new(Publish::new(epoch, entries))
    }
}

fn share_routes(new: Routes, running: &Arc<Routes>) -> Arc<Routes> {
    let sorted = |routes: &Routes| {
        let mut all: Vec<Route> = routes.iter().copied().collect();
        // There is one route per prefix, so the prefix alone is an order.
        all.sort_unstable_by_key(|route| route.to);
        all
    };
    if sorted(&new) == sorted(running) { running.clone() } else { Arc::new(new) }
}

/// Builds the parts, all with the new epoch.
struct Compiler<'c> {
    config: &'c Config,
    ids: &'c Ids,
    epoch: Epoch,
    network_ids: HashMap<&'c str, NetworkId>,
    uplink_ids: HashMap<&'c str, UplinkId>,
}

impl<'c> Compiler<'c> {
    fn new(config: &'c Config, ids: &'c Ids, epoch: Epoch) -> Compiler<'c> {
        let networks = config.networks.iter().zip(&ids.networks);
        let uplinks = config.uplinks.iter().zip(&ids.uplinks);
        Compiler {
            config,
            ids,
            epoch,
            network_ids: networks.map(|(network, &id)| (network.name.as_str(), id)).collect(),
            uplink_ids: uplinks.map(|(uplink, &(id, _))| (uplink.name.as_str(), id)).collect(),
        }
    }

    fn network_id(&self, name: &str) -> NetworkId {
        *self.network_ids.get(name).expect("a checked config names networks that exist")
    }

    /// All attachments with their endpoints and ports.
    fn attachments(
        &self,
    ) -> impl Iterator<Item = (&'c model::Endpoint, &'c model::Attachment, PortId)> {
        let endpoints = self.config.endpoints.iter().zip(&self.ids.attachments);
        endpoints.flat_map(|(endpoint, ports)| {
            let attachments = endpoint.attachments.iter().zip(ports);
            attachments.map(move |(attachment, &port)| (&**endpoint, attachment, port))
        })
    }

    fn ports(&self) -> Vec<PortTable> {
        let uplinks = self.config.uplinks.iter().zip(&self.ids.uplinks);
        let uplinks = uplinks.map(|(uplink, &(id, port))| PortTable {
            epoch: self.epoch,
            id: port,
            name: uplink.name.clone(),
            kind: PortKind::Uplink(id),
            mtu: uplink.mtu,
        });
        let endpoints = self.attachments().map(|(endpoint, attachment, port)| PortTable {
            epoch: self.epoch,
            id: port,
            name: ids::port_name(&endpoint.name, &attachment.network),
            kind: PortKind::Endpoint(Attachment {
                endpoint: endpoint.name.clone(),
                network: self.network_id(&attachment.network),
                mac: attachment.mac,
                ipv4: attachment.ipv4_address(),
                ipv6: attachment.ipv6_address(),
                anti_spoofing: attachment.anti_spoofing,
            }),
            mtu: attachment.mtu,
        });
        uplinks.chain(endpoints).collect()
    }

    fn networks(&self) -> Vec<Network> {
        let mut networks: Vec<Network> = self
            .config
            .networks
            .iter()
            .zip(&self.ids.networks)
            .map(|(network, &id)| self.network(network, id))
            .collect();
        let index_by_id: HashMap<NetworkId, usize> =
            networks.iter().enumerate().map(|(index, network)| (network.id, index)).collect();
        for (_, attachment, port) in self.attachments() {
            let network = &mut networks[index_by_id[&self.network_id(&attachment.network)]];
            network.members.push(port);
            network.by_mac.insert(attachment.mac, port);
            let ipv4 = attachment.ipv4_address().map(IpAddr::V4);
            let ipv6 = attachment.ipv6_address().map(IpAddr::V6);
            network.by_address.extend(ipv4.into_iter().chain(ipv6).map(|own| (own, port)));
        }
        for network in &mut networks {
            network.members.sort_unstable();
        }
        networks
    }

    fn network(&self, network: &model::Network, id: NetworkId) -> Network {
        let subnets = network.subnets.iter();
        let uplink = network.uplink.as_deref();
        Network {
            epoch: self.epoch,
            id,
            name: network.name.clone(),
            gateway_mac: network.gateway_mac,
            subnets: subnets
                .map(|subnet| Subnet { prefix: subnet.prefix, gateway: subnet.gateway })
                .collect(),
            internal: network.internal,
            icc: network.icc,
            masquerade: network.masquerade,
            mtu: network.mtu,
            uplink: uplink.and_then(|name| self.uplink_ids.get(name).copied()),
            members: Vec::new(),
            by_address: TableMap::default(),
            by_mac: TableMap::default(),
        }
    }

    fn uplinks(&self) -> Vec<Uplink> {
        let uplinks = self.config.uplinks.iter().zip(&self.ids.uplinks);
        uplinks
            .map(|(uplink, &(id, port))| Uplink {
                epoch: self.epoch,
                id,
                name: uplink.name.clone(),
                port,
                mac: uplink.mac,
                addresses: uplink.addresses.clone(),
            })
            .collect()
    }

    fn publish(&self) -> Vec<PublishEntry> {
        let mut entries = Vec::new();
        for (endpoint, ports) in self.config.endpoints.iter().zip(&self.ids.attachments) {
            for publish in &endpoint.publish {
                let mut networks = endpoint.attachments.iter().map(|own| &own.network);
                let index = networks
                    .position(|network| *network == publish.network)
                    .expect("a checked config publishes by one of the endpoint's networks");
                entries.push(PublishEntry {
                    host: publish.host,
                    protocol: publish.protocol,
                    host_port: publish.host_port,
                    port_count: publish.port_count,
                    target_port: publish.target_port,
                    target: publish.target,
                    port: ports[index],
                    network: self.network_id(&publish.network),
                });
            }
        }
        entries
    }

    /// Subnets of the uplinks first: a static route to one of them changes nothing.
    fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for (uplink, &(id, _)) in self.config.uplinks.iter().zip(&self.ids.uplinks) {
            let connected = uplink.addresses.iter().map(IpNet::trunc);
            routes.extend(connected.map(|to| Route { to, via: None, uplink: id }));
            let others = uplink.routes.iter();
            routes.extend(others.map(|route| Route { to: route.to, via: route.via, uplink: id }));
        }
        routes
    }

    fn nat(&self) -> NatSettings {
        NatSettings { epoch: self.epoch, ..self.config.nat.clone() }
    }
}
