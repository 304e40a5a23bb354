//! Onto the link of an uplink and off it: members of networks that are a part of it.
//!
//! What an uplink receives is sorted before anything else looks at it: what has a network's tag, or
//! none where a network is the untagged part, comes in by that network's trunk; what is for the
//! gateway stays the uplink's; what is for everybody is both. What members send to the gateway
//! counts as the uplink's too, and what the gateway sends to them by the uplink goes to them
//! instead, so that a member is a neighbour like those on the wire.

use super::Worker;
use super::core::Core;
use super::decap::{Opening, is_tunnelled};
use super::lookup::Lookups;
use crate::counters::DropReason;
use crate::fdb::Heard;
use crate::hand_over::Message;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::IngressRule;
use crate::lane::{self, Lane};
use crate::packet::{Batch, Packet};
use crate::tables::Between;

impl Worker {
    /// Sorts what an uplink with lanes received, opens what came by tunnels as well, and carries
    /// everything through in its order.
    #[inline(never)]
    pub(super) fn carry_lanes(
        &mut self,
        rule: &IngressRule,
        batch: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        let Some([mut run, rest]) = self.runs.take() else { return };
        let (mut from, mut opening) = (rule.port, Opening::default());
        // What does not go on as the uplink's own came by its device all the same.
        let (mut others, mut others_bytes) = (0, 0);
        for mut packet in batch.drain(..) {
            packet.meta.ingress = rule.port;
            let bytes = packet.len() as u64;
            let sorted = self.core.sort(&mut packet, rule, &mut opening);
            let own = |port, copy: &Option<Packet>| port == rule.port || copy.is_some();
            if !matches!(&sorted, Ok((port, copy)) if own(*port, copy)) {
                (others, others_bytes) = (others + 1, others_bytes + bytes);
            }
            let (port, copy) = match sorted {
                Ok(sorted) => sorted,
                Err(reason) => {
                    self.core.drop(packet, reason);
                    continue;
                }
            };
            let is_alone = is_tunnelled(&packet);
            if port != from || copy.is_some() || is_alone {
                self.carry_run_from(from, &mut run, lookups);
            }
            if let Some(copy) = copy {
                run.push(copy);
                self.carry_run_from(rule.port, &mut run, lookups);
            }
            from = port;
            if is_alone {
                self.core.cut_apart(packet, &mut run);
                self.carry_run_from(from, &mut run, lookups);
            } else {
                run.push(packet);
            }
        }
        self.carry_run_from(from, &mut run, lookups);
        self.runs = Some([run, rest]);
        if let Some(port) = self.core.counters.port(rule.port) {
            port.rx_packets.add(others);
            port.rx_bytes.add(others_bytes);
        }
    }
}

impl Core {
    /// The port that a packet of an uplink came by, and a copy for the uplink of what is for both.
    #[inline(always)]
    fn sort(
        &mut self,
        packet: &mut Packet,
        rule: &IngressRule,
        opening: &mut Opening,
    ) -> Result<(PortId, Option<Packet>), DropReason> {
        let port = if rule.tunnels { self.open(packet, rule, opening)? } else { rule.port };
        match port == rule.port {
            true => self.enter(packet, rule),
            false => Ok((port, None)),
        }
    }

    /// The port that a frame of an uplink came by: the uplink's, or a trunk; and a copy for the
    /// uplink of what is for both.
    fn enter(
        &mut self,
        packet: &mut Packet,
        rule: &IngressRule,
    ) -> Result<(PortId, Option<Packet>), DropReason> {
        if packet.len() < crate::wire::ethernet::HEADER_BYTES {
            return Ok((rule.port, None));
        }
        let tag = match lane::tag_of(packet) {
            None => 0,
            Some(Ok(tag)) => {
                lane::pop_tag(packet);
                tag
            }
            Some(Err(())) => return Err(DropReason::VlanUnknown),
        };
        let Some(lane) = self.tunnels.lane(rule.port, tag) else {
            return if tag == 0 { Ok((rule.port, None)) } else { Err(DropReason::VlanUnknown) };
        };
        let is_group = MacAddress(packet.destination()).is_group();
        if packet.destination() == rule.gateway_mac && !self.find_member(packet, &lane) {
            return if tag == 0 { Ok((rule.port, None)) } else { Err(DropReason::NotForUs) };
        }
        self.check_wire_sender(packet, &lane)?;
        let for_both = is_group && tag == 0 && lane::may_be_discovery(packet);
        let copy = if for_both { packet.copy(&mut self.frames) } else { None };
        if for_both && copy.is_none() {
            self.counters.dropped(DropReason::NoFrame).add(1);
        }
        Ok((lane.trunk, copy))
    }

    /// Where members share the uplink's MAC address, a frame to it is for the one whose IP address
    /// it names. False: none has it.
    fn find_member(&self, packet: &mut Packet, lane: &Lane) -> bool {
        if !lane.shares_mac {
            return false;
        }
        let to = lane::ends_of(packet).and_then(|(_, to)| self.mac_of(lane.network, to));
        if let Some(mac) = to {
            lane::set_destination(packet, mac);
        }
        to.is_some()
    }

    /// The MAC address of the member with an IP address.
    fn mac_of(&self, network: NetworkId, address: std::net::IpAddr) -> Option<MacAddress> {
        let own = self.tables.network(network)?;
        let linked = match address {
            std::net::IpAddr::V6(v6) => MacAddress::of_link_local(v6),
            std::net::IpAddr::V4(_) => None,
        };
        let configured = || {
            let &port = own.by_address.get(&address)?;
            Some(MacAddress(self.rule(port)?.mac))
        };
        linked.filter(|mac| own.by_mac.contains_key(mac)).or_else(configured)
    }

    /// A member's address comes off the wire only if a switch sends back what members send.
    fn check_wire_sender(&mut self, packet: &mut Packet, lane: &Lane) -> Result<(), DropReason> {
        let source = MacAddress(packet.source());
        if source == lane.uplink_mac && lane.shares_mac && lane.between == Between::ByWire {
            let from = lane::ends_of(packet).and_then(|(from, _)| self.mac_of(lane.network, from));
            lane::speak_as(packet, from.ok_or(DropReason::SourceMac)?);
            return Ok(());
        }
        let own = self.tables.network(lane.network).ok_or(DropReason::PortGone)?;
        if own.by_mac.contains_key(&source) && lane.between != Between::ByWire {
            return Err(DropReason::SourceMac);
        }
        // Who was behind a member has moved to the wire: what is for everybody tells so.
        let fdb = &mut self.stages.bridge.fdb;
        if MacAddress(packet.destination()).is_group()
            && fdb.learnt(lane.network, source, self.tick).is_some_and(|port| port != lane.trunk)
            && fdb.hear(lane.network, source, lane.trunk, self.tick) == Heard::Moved
        {
            let (network, port) = (lane.network, lane.trunk);
            self.tell(|| Message::Station { network, mac: source, port });
        }
        Ok(())
    }

    /// Sends a frame by a trunk onto the wire.
    pub(super) fn send_by_lane(&mut self, lane: Lane, mut packet: Packet) {
        if lane.shares_mac {
            lane::speak_as(&mut packet, lane.uplink_mac);
            let own = self.tables.network(lane.network).map(|own| &own.by_mac);
            let to = MacAddress(packet.destination());
            if own.is_some_and(|own| own.contains_key(&to)) {
                // It comes back, and there is one address for all on the wire.
                lane::set_destination(&mut packet, lane.uplink_mac);
            }
        }
        if let Some(tag) = lane.tag {
            lane::push_tag(&mut packet, tag);
        }
        if let Some(port) = self.counters.port(lane.trunk) {
            port.tx_packets.add(1);
            port.tx_bytes.add(packet.len() as u64);
        }
        self.egress.send(lane.uplink, packet, &mut self.frames, &self.counters);
    }

    /// Sends an answer of the gateway's own back to where the question came from: by an uplink, or
    /// to a member of its link.
    pub(super) fn send_back(&mut self, port: PortId, packet: Packet) {
        let is_lane = self.rule(port).is_some_and(|rule| rule.lanes);
        let lane = if is_lane { self.tunnels.lane(port, 0) } else { None };
        let Some(lane) = lane else { return self.send(port, packet) };
        let mac = MacAddress(packet.destination());
        let member = self.tables.network(lane.network).and_then(|own| own.by_mac.get(&mac));
        let fdb = &self.stages.bridge.fdb;
        let learnt = || fdb.learnt(lane.network, mac, self.tick).filter(|&at| at != lane.trunk);
        let to = member.copied().or_else(learnt).unwrap_or(port);
        self.send(to, packet);
    }

    /// Notes that a station is on the wire, so that the next frame to it finds it.
    pub(super) fn note_on_wire(&mut self, network: NetworkId, mac: MacAddress, trunk: PortId) {
        let heard = self.stages.bridge.fdb.hear(network, mac, trunk, self.tick);
        match heard {
            Heard::New | Heard::Known | Heard::Moved => {}
            Heard::ShareFull => self.counters.worker.fdb_share_full.add(1),
            Heard::Full => self.counters.worker.fdb_full.add(1),
        }
    }
}
