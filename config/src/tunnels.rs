//! What of a network leads to other machines in the engine's words: an overlay's tunnels and
//! stations, and the ways of networks on links to the wire.
//!
//! What leads elsewhere is a member among the others, so that it can be taken out of a running
//! network's table and put in again ([`remove_trunks`], [`add_trunks`]) while the endpoints' places
//! stay. Pure, as `compile` is.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::tables::{
    Epoch, Network, Overlay, PortKind, PortTable, Route, Routes, Tunnel, TunnelEnd, Vni,
};
use engine::{MacAddress, PortId, UplinkId};

use crate::check::tunnel_overhead;
use crate::ids;
use crate::lanes;
use crate::model::{self, Config};

/// The ports that a network has beside its members': its tunnels, or its way to the wire.
pub(crate) fn network_ports(
    network: &model::Network,
    config: &Config,
    epoch: Epoch,
) -> Vec<PortTable> {
    let uplink = |overlay: &model::Overlay| config.uplink(&overlay.uplink);
    let Some((overlay, uplink)) =
        network.overlay.as_ref().and_then(|overlay| Some((overlay, uplink(overlay)?)))
    else {
        return lanes::trunk_port(network, epoch).into_iter().collect();
    };
    overlay_ports(network, overlay, (uplink.id, uplink.mtu), epoch)
}

/// The ports of an overlay, the trunk first. `link`: the uplink, and the MTU that it has now: when
/// that falls, what goes into the tunnels is to be smaller than the network's own MTU.
fn overlay_ports(
    network: &model::Network,
    overlay: &model::Overlay,
    (uplink, link_mtu): (UplinkId, u16),
    epoch: Epoch,
) -> Vec<PortTable> {
    let all_v6 = overlay.tunnels.iter().any(|(vtep, _)| vtep.is_ipv6());
    let inside = |vtep: Option<IpAddr>| {
        let is_v6 = vtep.map_or(all_v6, |vtep| vtep.is_ipv6());
        network.mtu.min(link_mtu.saturating_sub(tunnel_overhead(is_v6)))
    };
    let port = |id, vtep: Option<IpAddr>, end| PortTable {
        epoch,
        id,
        name: ids::tunnel_name(&network.name, vtep),
        kind: PortKind::Tunnel(Tunnel {
            network: network.id,
            vni: Vni(overlay.vni),
            udp_port: overlay.udp_port,
            uplink,
            local: local_of(overlay, vtep),
            end,
        }),
        mtu: inside(vtep),
    };
    let everybody = match overlay.group {
        Some(group) => overlay.port_to(group).into_iter().collect(),
        None => overlay.peers.iter().filter_map(|&peer| overlay.port_to(peer)).collect(),
    };
    let trunk = port(overlay.trunk, None, TunnelEnd::Trunk(everybody));
    let tunnels = overlay.tunnels.iter();
    let tunnels = tunnels.map(|&(vtep, id)| port(id, Some(vtep), TunnelEnd::Vtep(vtep)));
    [trunk].into_iter().chain(tunnels).collect()
}

/// Our own end of a tunnel; a trunk has that of the first family.
fn local_of(overlay: &model::Overlay, vtep: Option<IpAddr>) -> IpAddr {
    let (v4, v6) = (overlay.local_v4, overlay.local_v6);
    let own = match vtep.is_some_and(|vtep| vtep.is_ipv6()) {
        true => v6,
        false => v4.or(v6),
    };
    own.expect("a checked uplink has an address of each tunnel's family")
}

/// What makes a network an overlay, if it is one.
pub(crate) fn overlay_table(
    network: &model::Network,
    uplink_ids: &HashMap<&str, UplinkId>,
) -> Option<Overlay> {
    let overlay = network.overlay.as_ref()?;
    let uplink = uplink_ids[&*overlay.uplink];
    let mut tunnels: Vec<PortId> = overlay.tunnels.iter().map(|(_, port)| *port).collect();
    tunnels.sort_unstable();
    let hosts = stations(overlay).map(|(ip, mac, _)| (ip, mac)).collect();
    let routes = overlay.routes.iter().map(|route| Route {
        to: route.subnet,
        via: Some(route.vtep_ip),
        uplink,
    });
    let routes = Routes::new(0, routes.collect());
    let learns = !overlay.peers.is_empty();
    Some(Overlay { trunk: overlay.trunk, tunnels, learns, hosts, routes })
}

/// All that an overlay knows elsewhere: hosts and next hops, with the tunnel ends they are behind.
fn stations(overlay: &model::Overlay) -> impl Iterator<Item = (IpAddr, MacAddress, IpAddr)> {
    let remotes = overlay.remotes.iter().map(|remote| (remote.ip, remote.mac, remote.vtep));
    let routers = overlay.routes.iter().map(|route| (route.vtep_ip, route.vtep_mac, route.host));
    remotes.chain(routers)
}

/// Adds to a network's members what leads elsewhere: no member has a MAC address of a station's.
pub(crate) fn add_trunks(network: &mut Network, model: &model::Network) {
    network.members.extend(trunk_of(network));
    let Some(overlay) = &model.overlay else { return };
    let ways = stations(overlay).filter_map(|(_, mac, vtep)| Some((mac, overlay.port_to(vtep)?)));
    network.by_mac.extend(ways);
}

/// Takes away again what was added to `before`, made from this model.
pub(crate) fn remove_trunks(network: &mut Network, before: &Network, model: &model::Network) {
    let trunk = trunk_of(before);
    network.members.retain(|member| Some(*member) != trunk);
    for (_, mac, _) in model.overlay.iter().flat_map(stations) {
        network.by_mac.remove(&mac);
    }
}

/// The port that is a member without being an endpoint's.
fn trunk_of(network: &Network) -> Option<PortId> {
    let overlay = network.overlay.as_ref().filter(|overlay| overlay.learns);
    let direct = network.direct.as_ref().map(|direct| direct.trunk);
    overlay.map(|overlay| overlay.trunk).or(direct)
}
