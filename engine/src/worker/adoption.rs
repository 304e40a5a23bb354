//! What it takes to go over to a new snapshot, worked out once, away from the packets.
//!
//! A worker goes over between two turns, so whatever that takes is time in which packets wait. All
//! that needs a look at every port or network is done here, by the supervisor's thread, and shared
//! by all workers: rules of ports, what has changed, what is to be announced. What is left for a
//! worker is a few pointers and the ports that have changed. The one hard constraint: a worker
//! frees nothing big; what it uses no more goes back in a [`Retired`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::announce::{Announcement, Run, announcements_of};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::{FrameBytes, IngressRule};
use crate::tables::{PortKind, PortTable, Tables};
use crate::tunnel::Tunnels;

/// The step from one snapshot to the next.
#[derive(Debug)]
pub struct Adoption {
    pub(super) tables: Arc<Tables>,
    /// Generation of the snapshot that this one follows; 0: it is the first.
    pub(super) follows: u64,
    /// By port.
    pub(super) rules: Arc<[Option<IngressRule>]>,
    /// All tunnels.
    pub(super) tunnels: Arc<Tunnels>,
    /// Ports that are new or changed.
    pub(super) changed: Vec<PortId>,
    /// Members that are new or changed: what was learnt of them as stations holds no more.
    pub(super) members: Vec<(NetworkId, MacAddress)>,
    /// Networks that are gone, or gave their ids to others.
    pub(crate) networks_gone: Vec<NetworkId>,
    /// Ports that are gone, or gave their ids to others, with their network if it still exists.
    pub(crate) ports_gone: Vec<(PortId, Option<NetworkId>)>,
    /// What is new to be announced.
    pub(super) announcements: Arc<[Announcement]>,
}

/// What a worker uses no more. Whoever drops it frees old tables: not a worker.
#[derive(Debug)]
pub struct Retired {
    pub(super) adoption: Arc<Adoption>,
    pub(super) _announced: Vec<Run>,
}

impl Retired {
    /// The snapshot that was left.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.adoption.tables
    }
}

impl Adoption {
    /// The step to `tables`, from the snapshot that all workers have now.
    pub fn new(tables: Arc<Tables>, from: Option<&Tables>) -> Adoption {
        let empty = Tables::empty();
        let (follows, from) = from.map_or((0, &empty), |from| (from.generation, from));
        let mut changed = Vec::new();
        let mut members = Vec::new();
        for (index, port) in tables.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            if is_same(from.ports.get(index), port) {
                continue;
            }
            changed.push(PortId(index as u16));
            if let PortKind::Endpoint(attachment) = &port.kind {
                members.push((attachment.network, attachment.mac));
            }
        }
        Adoption {
            follows,
            rules: rules_of(&tables),
            tunnels: Arc::new(Tunnels::of(&tables)),
            changed,
            members,
            networks_gone: networks_gone(from, &tables),
            ports_gone: ports_gone(from, &tables),
            announcements: announcements_of(from, &tables).into(),
            tables,
        }
    }

    /// The snapshot that is gone over to.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }
}

pub(super) fn is_same<T>(old: Option<&Option<Arc<T>>>, new: &Arc<T>) -> bool {
    old.and_then(Option::as_ref).is_some_and(|old| Arc::ptr_eq(old, new))
}

fn rules_of(tables: &Tables) -> Arc<[Option<IngressRule>]> {
    let mut frame_bytes = HashMap::new();
    for network in tables.networks.iter().flatten() {
        frame_bytes.insert(network.id, FrameBytes::of(network, tables));
    }
    let rule = |index| {
        let of = |network: NetworkId| frame_bytes.get(&network).copied().flatten();
        IngressRule::of(PortId(index as u16), tables, &of)
    };
    (0..tables.ports.len()).map(rule).collect()
}

/// The network that a port's traffic is counted under.
fn network_of(port: &PortTable) -> Option<NetworkId> {
    match &port.kind {
        PortKind::Endpoint(attachment) => Some(attachment.network),
        PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => None,
    }
}

/// True if a network is in both snapshots.
pub(super) fn stays(old: &Tables, new: &Tables, network: NetworkId) -> bool {
    let names = [old, new].map(|tables| tables.network(network).map(|network| &network.name));
    names[0].is_some() && names[0] == names[1]
}

fn networks_gone(old: &Tables, new: &Tables) -> Vec<NetworkId> {
    let networks = old.networks.iter().flatten().map(|network| network.id);
    networks.filter(|&network| !stays(old, new, network)).collect()
}

fn ports_gone(old: &Tables, new: &Tables) -> Vec<(PortId, Option<NetworkId>)> {
    let gone = old.ports.iter().enumerate().filter_map(|(index, port)| {
        let port = port.as_ref()?;
        let now = new.ports.get(index).and_then(Option::as_ref);
        let stays = now.is_some_and(|now| Arc::ptr_eq(now, port) || now.name == port.name);
        (!stays).then_some((PortId(index as u16), port))
    });
    let counted = |port: &PortTable| network_of(port).filter(|&network| stays(old, new, network));
    gone.map(|(id, port)| (id, counted(port))).collect()
}

/// The addresses of an endpoint's attachment.
pub(super) fn addresses_of(port: &PortTable) -> impl Iterator<Item = IpAddr> {
    let (ipv4, ipv6) = match &port.kind {
        PortKind::Endpoint(attachment) => (attachment.ipv4, attachment.ipv6),
        PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => (None, None),
    };
    ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6))
}
