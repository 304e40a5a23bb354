//! Who is behind tunnels, and packets into them one by one.
//!
//! What leaves by a port without a device leaves by its tunnel: the trunk asks the FDB which one,
//! or sends a copy to each. A tunnel whose next hop is not known lets packets wait as any other way
//! out does. Many packets at once go by [`encap`](super::encap), which pushes the same bytes.

use std::net::IpAddr;

use super::core::Core;
use crate::counters::DropReason;
use crate::flow::AdjacencyId;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::IngressRule;
use crate::neighbour::Macs;
use crate::packet::{Notes, Packet};
use crate::tables::{Between, Direct};
use crate::tunnel::Way;

/// Why an outer packet has no MAC addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unresolved {
    /// The next hop has not answered yet.
    Asked(AdjacencyId),
    /// There is none, or no room for it.
    Never(DropReason),
}

impl Core {
    /// The trunk of an overlay.
    pub(super) fn trunk_of(&self, network: NetworkId) -> Option<PortId> {
        self.tables.network(network)?.overlay.as_ref().map(|overlay| overlay.trunk)
    }

    /// True if whoever speaks behind the trunk may have this address: it is not a member's, nor the
    /// gateway's.
    pub(super) fn may_be_beyond(&self, rule: &IngressRule, address: IpAddr) -> bool {
        !rule.trunk
            || self.tables.network(rule.network).is_some_and(|network| {
                let returns = |direct: &Direct| direct.between == Between::ByWire;
                network.direct.as_ref().is_some_and(returns)
                    || !network.by_address.contains_key(&address) && !network.is_gateway(address)
            })
    }

    /// The MAC address of a static host that a member asks for.
    pub(super) fn mac_beyond(&mut self, rule: &IngressRule, target: IpAddr) -> Option<MacAddress> {
        if rule.trunk || rule.uplink {
            return None;
        }
        let network = self.tables.network(rule.network)?;
        let overlay = network.overlay.as_ref()?;
        let found = overlay.hosts.get(&target).copied();
        if found.is_none() && !network.by_address.contains_key(&target) {
            self.note_miss(rule.network);
        }
        found
    }

    /// Counts that a static overlay was asked for somebody whom it does not know.
    pub(super) fn note_miss(&mut self, network: NetworkId) {
        let overlay = self.tables.network(network).and_then(|own| own.overlay.as_ref());
        if overlay.is_some_and(|overlay| !overlay.learns) {
            self.counters.worker.overlay_misses.add(1);
        }
    }

    /// Sends a packet by a port that has no device here: into its tunnel, if it is an overlay's.
    #[inline(never)]
    pub(super) fn send_without_device(&mut self, port: PortId, packet: Packet) {
        match self.tunnels.way(port) {
            Some(Way::Outer(_)) => self.send_in_tunnel(port, packet),
            Some(&Way::Trunk(network, _)) => self.send_by_trunk(port, network, packet),
            Some(&Way::Lane(lane)) => self.send_by_lane(lane, packet),
            None => self.egress.send(port, packet, &mut self.frames, &self.counters),
        }
    }

    /// Sends a frame to whom it is for, behind a trunk.
    fn send_by_trunk(&mut self, trunk: PortId, network: NetworkId, packet: Packet) {
        if let Some(tunnel) = self.tunnel_to(network, packet.destination()) {
            return self.send_in_tunnel(tunnel, packet);
        }
        let (count, mut last) = (self.tunnels.of_trunk(trunk).len(), None);
        for index in 0..count {
            let Some(&tunnel) = self.tunnels.of_trunk(trunk).get(index) else { break };
            // A single one is everybody's: peers, or a group of them.
            if count > 1 && !self.goes_into(&packet, network, (trunk, tunnel)) {
                continue;
            }
            if let Some(receiver) = last.replace(tunnel) {
                match packet.copy(&mut self.frames) {
                    Some(copy) => self.send_in_tunnel(receiver, copy),
                    None => self.counters.dropped(DropReason::NoFrame).add(1),
                }
            }
        }
        match last {
            Some(receiver) => self.send_in_tunnel(receiver, packet),
            None => self.drop(packet, DropReason::NoReceiver),
        }
    }

    /// The tunnel that a station of an overlay is behind.
    pub(super) fn tunnel_to(&mut self, network: NetworkId, mac: u64) -> Option<PortId> {
        let fdb = &self.stages.bridge.fdb;
        let known = fdb.port_of(network, mac, self.generation, self.tick);
        if let Some(tunnel) = known.filter(|&port| self.tunnels.has(port)) {
            return Some(tunnel);
        }
        let mac = MacAddress(mac);
        let own = self.tables.network(network).and_then(|own| own.by_mac.get(&mac)).copied();
        let tunnel = own.filter(|&port| self.tunnels.has(port))?;
        let generation = self.generation;
        self.stages.bridge.fdb.keep_member(network, mac, tunnel, generation);
        Some(tunnel)
    }

    fn send_in_tunnel(&mut self, tunnel: PortId, packet: Packet) {
        let Some(mut packet) = self.fit_into_tunnel(tunnel, packet) else { return };
        let macs = match self.underlay_macs(tunnel) {
            Ok(macs) => macs,
            Err(Unresolved::Asked(id)) => {
                packet.meta.notes.0 |= Notes::IN_TUNNEL;
                packet.meta.l4 = tunnel.0;
                return self.wait(id, packet);
            }
            Err(Unresolved::Never(reason)) => return self.drop(packet, reason),
        };
        let Some(Way::Outer(outer)) = self.tunnels.way(tunnel) else { return };
        if let Some(port) = self.counters.port(tunnel) {
            port.tx_packets.add(1);
            port.tx_bytes.add(packet.len() as u64);
        }
        let header = outer.header(macs);
        let uplink = outer.uplink;
        self.egress.send_in_tunnel(&header, uplink, packet, &mut self.frames, &self.counters);
    }

    /// The MAC addresses of a tunnel's outer packets; `Ok(None)`: the template has them.
    pub(super) fn underlay_macs(&mut self, tunnel: PortId) -> Result<Option<Macs>, Unresolved> {
        let Some(Way::Outer(outer)) = self.tunnels.way(tunnel) else {
            return Err(Unresolved::Never(DropReason::NoRoute));
        };
        let Some(next_hop) = outer.next_hop else { return Ok(None) };
        let uplink = outer.uplink;
        let known = self.underlay.get(tunnel.index()).copied().flatten();
        let Some(id) = known.or_else(|| self.find_underlay(tunnel, uplink, next_hop)) else {
            return Err(Unresolved::Never(DropReason::NeighbourTableFull));
        };
        let adjacency = self.neighbours.get(id).filter(|known| known.resolved);
        adjacency.map(|known| Some(known.macs())).ok_or(Unresolved::Asked(id))
    }

    /// A packet that waited for its tunnel's next hop.
    pub(super) fn send_again(&mut self, mut packet: Packet) {
        packet.meta.notes.0 &= !Notes::IN_TUNNEL;
        self.send_in_tunnel(PortId(packet.meta.l4), packet);
    }

    /// The next hop of a tunnel's outer packets. `None`: no room for it.
    #[cold]
    fn find_underlay(
        &mut self,
        tunnel: PortId,
        uplink: PortId,
        next_hop: IpAddr,
    ) -> Option<AdjacencyId> {
        let own = self.own_mac(uplink);
        let id = self.neighbours.neighbour(uplink, next_hop, own, self.tick)?;
        let place = self.underlay.get_mut(tunnel.index())?;
        *place = Some(id);
        self.neighbours.hold(id);
        Some(id)
    }

    /// Under new tables a tunnel may lead elsewhere.
    pub(super) fn forget_underlay(&mut self, port_count: usize) {
        for place in &mut self.underlay {
            if let Some(id) = place.take() {
                self.neighbours.release(id);
            }
        }
        // There is room since the start, unless there is no supervisor to see to it.
        self.underlay.resize(port_count, None);
    }
}
