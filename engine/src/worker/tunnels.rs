//! Into tunnels and out of them.
//!
//! What an uplink receives is opened before anything else looks at it; what comes out takes the
//! same way as what other ports receive, as packets of the overlay's trunk. What leaves by a port
//! without a device leaves by its tunnel: the trunk asks the FDB which one, or sends a copy to
//! each. A tunnel whose next hop is not known lets packets wait as any other way out does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Worker;
use super::core::Core;
use super::lookup::Lookups;
use crate::counters::DropReason;
use crate::decapsulate::{Last, decapsulate};
use crate::fdb::Heard;
use crate::flow::AdjacencyId;
use crate::hand_over::Message;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::IngressRule;
use crate::packet::{Batch, Notes, Packet};
use crate::tables::{Between, Direct};
use crate::tunnel::{Origin, Way};
use crate::wire::{arp, ethernet, header_at, ipv4, ipv6, u16_at, u32_at, u128_at};

impl Worker {
    /// Opens what came by tunnels, and carries everything through in its order.
    #[inline(never)]
    pub(super) fn carry_opened(
        &mut self,
        rule: &IngressRule,
        batch: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        let Some(mut run) = self.run.take() else { return };
        let (mut from, mut last) = (rule.port, Last::default());
        let (mut opened, mut opened_bytes) = (0, 0);
        for mut packet in batch.drain(..) {
            let bytes = packet.len();
            packet.meta.ingress = rule.port;
            let sorted = self.core.sort(&mut packet, rule, &mut last);
            let (port, copy) = match sorted {
                Ok(sorted) => sorted,
                Err(reason) => {
                    (opened, opened_bytes) = (opened + 1, opened_bytes + bytes);
                    self.core.drop(packet, reason);
                    continue;
                }
            };
            if let Some(copy) = copy {
                if from != rule.port && !run.is_empty() {
                    self.carry_run_from(from, &mut run, lookups);
                }
                run.push(copy);
                self.carry_run_from(rule.port, &mut run, lookups);
            }
            if port != rule.port && !rule.lanes {
                (opened, opened_bytes) = (opened + 1, opened_bytes + bytes);
            }
            if port != from && !run.is_empty() {
                self.carry_run_from(from, &mut run, lookups);
            }
            from = port;
            run.push(packet);
        }
        if !run.is_empty() {
            self.carry_run_from(from, &mut run, lookups);
        }
        self.run = Some(run);
        if let Some(port) = self.core.counters.port(rule.port) {
            port.rx_packets.add(opened);
            port.rx_bytes.add(opened_bytes as u64);
        }
    }

    fn carry_run_from(&mut self, port: PortId, run: &mut Box<Batch>, lookups: &mut Lookups) {
        match self.core.rule(port).copied() {
            Some(rule) => self.carry_run(&rule, run, lookups),
            None => run.drain(..).for_each(|packet| self.core.drop(packet, DropReason::PortGone)),
        }
    }
}

impl Core {
    /// The trunk of an overlay.
    pub(super) fn trunk_of(&self, network: NetworkId) -> Option<PortId> {
        self.tables.network(network)?.overlay.as_ref().map(|overlay| overlay.trunk)
    }

    /// The port that a packet of an uplink came by, and a copy for the uplink of what is for both.
    #[inline(always)]
    fn sort(
        &mut self,
        packet: &mut Packet,
        rule: &IngressRule,
        last: &mut Last,
    ) -> Result<(PortId, Option<Packet>), DropReason> {
        let port = if rule.tunnels { self.open(packet, rule, last)? } else { rule.port };
        match rule.lanes && port == rule.port {
            true => self.enter(packet, rule),
            false => Ok((port, None)),
        }
    }

    /// Takes a packet out of its tunnel, if it is in one. Returns the port that it came by.
    #[inline(always)]
    fn open(
        &mut self,
        packet: &mut Packet,
        rule: &IngressRule,
        last: &mut Last,
    ) -> Result<PortId, DropReason> {
        let opened = decapsulate(packet, &self.tunnels, rule.gateway_mac, last)?;
        let Some(mut origin) = opened else { return Ok(rule.port) };
        if origin.is_shared {
            origin = self.whose(origin, packet);
        }
        let (Origin { tunnel, trunk, network, .. }, source) = (origin, packet.source());
        let fdb = &self.stages.bridge.fdb;
        if !fdb.is_fresh(network, source, tunnel, self.generation, self.tick) {
            self.hear_beyond(origin, source)?;
        }
        if let Some(port) = self.counters.port(tunnel) {
            port.rx_packets.add(1);
            port.rx_bytes.add(packet.len() as u64);
        }
        Ok(trunk)
    }

    /// Of networks that share an identifier, the one that a packet is of: whose routes lead to its
    /// source; of several such, the one that has its destination, else the most specific.
    #[inline(never)]
    fn whose(&self, first: Origin, packet: &Packet) -> Origin {
        let Some((source, destination)) = addresses_of(packet.head()) else { return first };
        let rank = |origin: &&Origin| {
            let network = self.tables.network(origin.network)?;
            let routes = &network.overlay.as_ref()?.routes;
            let behind = routes.to(source).map_or(0, |route| route.to.prefix_len());
            let is_behind = network.beyond(source).is_some();
            let is_here = network.subnet_of(destination).is_some();
            Some((is_behind, is_here, behind, std::cmp::Reverse(origin.network)))
        };
        self.tunnels.sharers(first).iter().max_by_key(rank).copied().unwrap_or(first)
    }

    /// A station behind a tunnel was heard: may it be there?
    #[inline(never)]
    fn hear_beyond(&mut self, origin: Origin, source: u64) -> Result<(), DropReason> {
        let Origin { tunnel, network: id, .. } = origin;
        let mac = MacAddress(source);
        let network = self.tables.network(id).ok_or(DropReason::PortGone)?;
        let learns = network.overlay.as_ref().is_some_and(|overlay| overlay.learns);
        let fdb = &mut self.stages.bridge.fdb;
        match network.by_mac.get(&mac) {
            Some(&port) if port == tunnel => {
                fdb.keep_member(id, mac, tunnel, self.generation);
                return Ok(());
            }
            Some(_) => return Err(DropReason::OverlaySender),
            // Ingress refuses these, as on any port.
            None if mac.is_group() || mac == network.gateway_mac => return Ok(()),
            None if !learns => return Err(DropReason::OverlaySender),
            None => {}
        }
        match fdb.hear(id, mac, tunnel, self.tick) {
            Heard::Known => {}
            Heard::New => self.tell(|| Message::Station { network: id, mac, port: tunnel }),
            Heard::Moved => {
                if !self.moves.take(self.now) {
                    return Err(DropReason::StationFlapping);
                }
                self.tell(|| Message::Station { network: id, mac, port: tunnel });
            }
            Heard::ShareFull => self.counters.worker.fdb_share_full.add(1),
            Heard::Full => self.counters.worker.fdb_full.add(1),
        }
        Ok(())
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
        let mac = packet.destination();
        let fdb = &self.stages.bridge.fdb;
        let known = fdb.port_of(network, mac, self.generation, self.tick);
        if let Some(tunnel) = known.filter(|&port| self.tunnels.has(port)) {
            return self.send_in_tunnel(tunnel, packet);
        }
        let mac = MacAddress(mac);
        let own = self.tables.network(network).and_then(|own| own.by_mac.get(&mac)).copied();
        if let Some(tunnel) = own.filter(|&port| self.tunnels.has(port)) {
            let generation = self.generation;
            self.stages.bridge.fdb.keep_member(network, mac, tunnel, generation);
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

    fn send_in_tunnel(&mut self, tunnel: PortId, packet: Packet) {
        let Some(mut packet) = self.fit_into_tunnel(tunnel, packet) else { return };
        let Some(Way::Outer(outer)) = self.tunnels.way(tunnel) else {
            return self.drop(packet, DropReason::NoRoute);
        };
        let mut macs = None;
        if let Some(next_hop) = outer.next_hop {
            let uplink = outer.uplink;
            let known = self.underlay.get(tunnel.index()).copied().flatten();
            let Some(id) = known.or_else(|| self.find_underlay(tunnel, uplink, next_hop)) else {
                return self.drop(packet, DropReason::NeighbourTableFull);
            };
            let Some(adjacency) = self.neighbours.get(id).filter(|known| known.resolved) else {
                packet.meta.notes.0 |= Notes::IN_TUNNEL;
                packet.meta.l4 = tunnel.0;
                return self.wait(id, packet);
            };
            macs = Some(adjacency.macs());
        }
        let Some(Way::Outer(outer)) = self.tunnels.way(tunnel) else { return };
        if let Some(port) = self.counters.port(tunnel) {
            port.tx_packets.add(1);
            port.tx_bytes.add(packet.len() as u64);
        }
        self.egress.send_in_tunnel(outer, macs, packet, &mut self.frames, &self.counters);
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

/// Source and destination of what a frame carries, if that is IP or ARP.
fn addresses_of(head: &[u8]) -> Option<(IpAddr, IpAddr)> {
    const L3: usize = ethernet::HEADER_BYTES;
    let kind = header_at::<L3>(head, 0).map(|header| u16_at(header, ethernet::TYPE))?;
    let v4 = |bits: u32| IpAddr::V4(Ipv4Addr::from_bits(bits));
    let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
    match kind {
        ethernet::IPV4 => {
            let header = header_at::<{ ipv4::HEADER_BYTES }>(head, L3)?;
            Some((v4(u32_at(header, ipv4::SOURCE)), v4(u32_at(header, ipv4::DESTINATION))))
        }
        ethernet::IPV6 => {
            let header = header_at::<{ ipv6::HEADER_BYTES }>(head, L3)?;
            Some((v6(u128_at(header, ipv6::SOURCE)), v6(u128_at(header, ipv6::DESTINATION))))
        }
        ethernet::ARP => {
            let header = header_at::<{ arp::BYTES }>(head, L3)?;
            Some((v4(u32_at(header, arp::SENDER_IP)), v4(u32_at(header, arp::TARGET_IP))))
        }
        _ => None,
    }
}
