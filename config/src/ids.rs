//! Hands out ids of ports, networks and uplinks.
//!
//! Without running tables: in the order of the file, uplinks' ports first. With them: whatever has
//! the same name keeps its id. An id that the running tables use is not given to somebody else in
//! the same step, so nothing that workers learnt about the one is taken for the other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use engine::{NetworkId, PortId, Tables, UplinkId};

use crate::model::Config;

/// Name of an endpoint's port in one network.
pub(crate) fn port_name(endpoint: &str, network: &str) -> String {
    format!("{endpoint}/{network}")
}

/// Number of ports that a config needs.
pub(crate) fn port_count(config: &Config) -> usize {
    let attachments: usize =
        config.endpoints.iter().map(|endpoint| endpoint.attachments.len()).sum();
    let overlays = config.networks.iter().filter_map(|network| network.overlay.as_ref());
    let tunnels: usize = overlays.map(|overlay| 1 + overlay.tunnels.len()).sum();
    let trunks = config.networks.iter().filter(|network| network.is_on_link()).count();
    config.uplinks.len() + attachments + tunnels + trunks
}

/// Name of an overlay's port: the trunk, or the tunnel to an end. No endpoint has a colon in its.
pub(crate) fn tunnel_name(network: &str, vtep: Option<IpAddr>) -> String {
    match vtep {
        None => format!("vxlan:{network}"),
        Some(vtep) => format!("vxlan:{network}/{vtep}"),
    }
}

/// Name of the port by which a network on an uplink's link reaches the wire.
pub(crate) fn lane_name(network: &str) -> String {
    format!("wire:{network}")
}

/// Ids of one kind while they are handed out.
struct Numbering {
    by_name: HashMap<String, usize>,
    is_used: Vec<bool>,
    next: usize,
}

impl Numbering {
    /// `running` has the names by id, `None` where an id is free.
    fn new<'t>(running: impl Iterator<Item = Option<&'t str>>) -> Numbering {
        let mut by_name = HashMap::new();
        let mut is_used = Vec::new();
        for (id, name) in running.enumerate() {
            is_used.push(name.is_some());
            if let Some(name) = name {
                by_name.insert(name.to_owned(), id);
            }
        }
        Numbering { by_name, is_used, next: 0 }
    }

    fn id_of(&mut self, name: &str) -> u16 {
        let id = self.by_name.get(name).copied().unwrap_or_else(|| {
            while self.is_used.get(self.next) == Some(&true) {
                self.next += 1;
            }
            self.next += 1;
            self.next - 1
        });
        id_of_index(id)
    }
}

/// Ids for what is new beside running tables, each kind in the order in which it is asked for: the
/// same that [`of`] gives.
pub(crate) struct Numbers<'t> {
    tables: &'t Tables,
    next: [usize; 3],
}

impl<'t> Numbers<'t> {
    pub(crate) fn new(tables: &'t Tables) -> Numbers<'t> {
        Numbers { tables, next: [0; 3] }
    }

    pub(crate) fn port(&mut self) -> PortId {
        PortId(free_id(&self.tables.ports, &mut self.next[0]))
    }

    pub(crate) fn network(&mut self) -> NetworkId {
        NetworkId(free_id(&self.tables.networks, &mut self.next[1]))
    }

    pub(crate) fn uplink(&mut self) -> UplinkId {
        UplinkId(free_id(&self.tables.uplinks, &mut self.next[2]))
    }
}

fn free_id<T>(running: &[Option<T>], next: &mut usize) -> u16 {
    while running.get(*next).is_some_and(Option::is_some) {
        *next += 1;
    }
    *next += 1;
    id_of_index(*next - 1)
}

/// At most twice what the checker lets through: the running ones and as many new ones.
fn id_of_index(index: usize) -> u16 {
    let id = u16::try_from(index).expect("the checker bounds the number of ids");
    assert!(id != u16::MAX, "the highest network id stands for none");
    id
}

/// All ids of a config, in the order of its parts.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) uplinks: Vec<(UplinkId, PortId)>,
    pub(crate) networks: Vec<NetworkId>,
    /// Per endpoint, per attachment.
    pub(crate) attachments: Vec<Vec<PortId>>,
    /// Per overlay, the trunk first.
    pub(crate) overlays: Vec<Vec<PortId>>,
    /// Per network on an uplink's link.
    pub(crate) trunks: Vec<PortId>,
}

/// The ids of a config beside the running tables.
pub(crate) fn of(config: &Config, running: Option<&Tables>) -> Ids {
    let empty = Tables::empty();
    let running = running.unwrap_or(&empty);
    let port_names = running.ports.iter().map(|port| port.as_ref().map(|port| &*port.name));
    let mut ports = Numbering::new(port_names);
    let network_names = running.networks.iter().map(|part| part.as_ref().map(|part| &*part.name));
    let mut networks = Numbering::new(network_names);
    let uplink_names = running.uplinks.iter().map(|part| part.as_ref().map(|part| &*part.name));
    let mut uplinks = Numbering::new(uplink_names);
    Ids {
        uplinks: config
            .uplinks
            .iter()
            .map(|uplink| {
                (UplinkId(uplinks.id_of(&uplink.name)), PortId(ports.id_of(&uplink.name)))
            })
            .collect(),
        networks: config
            .networks
            .iter()
            .map(|network| NetworkId(networks.id_of(&network.name)))
            .collect(),
        attachments: config
            .endpoints
            .iter()
            .map(|endpoint| {
                let port = |network: &str| PortId(ports.id_of(&port_name(&endpoint.name, network)));
                endpoint
                    .attachments
                    .iter()
                    .map(|attachment| &*attachment.network)
                    .map(port)
                    .collect()
            })
            .collect(),
        overlays: config
            .networks
            .iter()
            .filter_map(|network| Some((network, network.overlay.as_ref()?)))
            .map(|(network, overlay)| {
                let ends = overlay.tunnels.iter().map(|(vtep, _)| Some(*vtep));
                let names =
                    [None].into_iter().chain(ends).map(|end| tunnel_name(&network.name, end));
                names.map(|name| PortId(ports.id_of(&name))).collect()
            })
            .collect(),
        trunks: config
            .networks
            .iter()
            .filter(|network| network.is_on_link())
            .map(|network| PortId(ports.id_of(&lane_name(&network.name))))
            .collect(),
    }
}

/// Sets the ids of a config to those beside the running tables.
pub(crate) fn adopt(config: &mut Config, running: Option<&Tables>) {
    let ids = of(config, running);
    set(config, &ids);
}

impl Config {
    /// Sets the ids to those that `compile` gives beside the same running tables, so that devices
    /// can be matched with ports before the swap.
    pub fn adopt_ids(&mut self, running: &Tables) {
        adopt(self, Some(running));
    }
}

/// Sets the ids of a config that was just checked.
pub(crate) fn assign_first(config: &mut Config) {
    adopt(config, None);
}

fn set(config: &mut Config, ids: &Ids) {
    for (uplink, &(id, port)) in config.uplinks.iter_mut().zip(&ids.uplinks) {
        (uplink.id, uplink.port) = (id, port);
    }
    for (network, &id) in config.networks.iter_mut().zip(&ids.networks) {
        if network.id != id {
            Arc::make_mut(network).id = id;
        }
    }
    let overlays = config.networks.iter_mut().filter(|network| network.overlay.is_some());
    for (network, ports) in overlays.zip(&ids.overlays) {
        let Some(overlay) = &mut Arc::make_mut(network).overlay else { continue };
        let ends = overlay.tunnels.iter_mut().map(|(_, port)| port);
        let own = [&mut overlay.trunk].into_iter().chain(ends);
        own.zip(ports).for_each(|(own, &port)| *own = port);
    }
    let on_links = config.networks.iter_mut().filter(|network| network.is_on_link());
    for (network, &port) in on_links.zip(&ids.trunks) {
        if let Some(parent) = &mut Arc::make_mut(network).parent {
            parent.trunk = port;
        }
    }
    for (endpoint, ports) in config.endpoints.iter_mut().zip(&ids.attachments) {
        if endpoint.attachments.iter().map(|own| own.port).eq(ports.iter().copied()) {
            continue;
        }
        let attachments = &mut Arc::make_mut(endpoint).attachments;
        for (attachment, &port) in attachments.iter_mut().zip(ports) {
            attachment.port = port;
        }
    }
}
