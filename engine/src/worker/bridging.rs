//! Frames inside a network: where the FDB says that they go, and off the short way learn, decide,
//! flood.

use super::core::Core;
use super::oversize::{Receivers, may_open};
use crate::counters::DropReason;
use crate::fdb::Heard;
use crate::flow::FlowInput;
use crate::hand_over::Message;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::IngressRule;
use crate::packet::Packet;
use crate::stage::{NextHop, Verdict};
use crate::tables::Between;

impl Core {
    /// Where a frame inside a network goes, if the FDB knows and nothing else is to be asked.
    #[inline(always)]
    pub(super) fn frame_port(&self, rule: &IngressRule, destination: u64) -> Option<PortId> {
        let fdb = &self.stages.bridge.fdb;
        let port = fdb.port_of(rule.network, destination, self.generation, self.tick)?;
        (port != rule.port).then_some(port)
    }

    /// [`frame_port`](Core::frame_port), if the address is where it is found most quickly.
    #[inline(always)]
    pub(super) fn frame_port_likely(&self, rule: &IngressRule, destination: u64) -> Option<PortId> {
        let fdb = &self.stages.bridge.fdb;
        let port = fdb.likely_port_of(rule.network, destination, self.generation, self.tick)?;
        (port != rule.port).then_some(port)
    }

    /// [`frame_port`](Core::frame_port) for any frame.
    pub(super) fn repeat_frame(&self, rule: &IngressRule, packet: &Packet) -> Option<PortId> {
        // A port that may have several stations is heard first: the long way.
        if !(rule.anti_spoofing || rule.trunk) || packet.len() > rule.frame_bytes_max {
            return None;
        }
        // What a SYN announces may have to be lowered: the long way.
        if rule.unequal_mtus && may_open(packet.window()) {
            return None;
        }
        let port = self.frame_port(rule, packet.destination())?;
        (!rule.trunk || !self.tunnels.has(port)).then_some(port)
    }

    /// Notes the station that a frame came from, on a port that may have several. False: the frame
    /// is to be dropped, because stations move between ports as only a loop makes them.
    pub(super) fn hear(&mut self, rule: &IngressRule, source: u64) -> bool {
        let (network, mac, port) = (rule.network, MacAddress(source), rule.port);
        if self.tables.network(network).is_some_and(|own| own.by_mac.contains_key(&mac)) {
            // Where a member is, the tables say: who claims its address takes nothing from it.
            return true;
        }
        match self.stages.bridge.fdb.hear(network, mac, port, self.tick) {
            Heard::Known => {}
            Heard::New => self.tell(|| Message::Station { network, mac, port }),
            Heard::Moved => {
                if !self.moves.take(self.now) {
                    return false;
                }
                self.tell(|| Message::Station { network, mac, port });
            }
            Heard::ShareFull => self.counters.worker.fdb_share_full.add(1),
            Heard::Full => self.counters.worker.fdb_full.add(1),
        }
        true
    }

    /// A frame inside a network, the long way.
    pub(super) fn carry_frame(&mut self, rule: &IngressRule, packet: Packet, frame: (u64, u64)) {
        let (destination, source) = frame;
        let is_heard = rule.anti_spoofing || rule.uplink || rule.trunk;
        if !is_heard && !self.hear(rule, source) {
            return self.drop(packet, DropReason::StationFlapping);
        }
        let fdb = &self.stages.bridge.fdb;
        let known = fdb.port_of(rule.network, destination, self.generation, self.tick);
        let between = |port| rule.trunk && self.tunnels.has(port);
        match known.filter(|&port| port != rule.port && self.cache && !between(port)) {
            Some(port) => {
                self.counters.worker.hits.add(1);
                self.send_bridged(port, packet, Receivers::One);
            }
            None => self.bridge(packet, destination),
        }
    }

    /// A frame whose destination the FDB does not know.
    pub(super) fn bridge(&mut self, packet: Packet, destination: u64) {
        self.counters.worker.misses.add(1);
        let (ingress, network) = (packet.meta.ingress, packet.meta.network);
        if network == NetworkId::NONE {
            if MacAddress(destination).is_group() {
                self.hear_query(&packet);
            }
            return self.drop(packet, DropReason::NotForUs);
        }
        let mac = MacAddress(destination);
        let input = FlowInput::bridged(ingress, network, mac);
        let (stages, cx) = self.stages_and_cx();
        let (decision, verdict, stage) = stages.decide(&input, &cx);
        self.counters.settled_by(stage, verdict.refused());
        match (verdict, decision.forward) {
            (Verdict::Forward, Some(NextHop::Endpoint(port))) => {
                self.keep(network, mac, port);
                self.send_bridged(port, packet, Receivers::One);
            }
            (Verdict::Flood, _) => {
                // Who listens on an uplink's link, only those there know.
                if mac.is_group() && !self.is_lane(network) {
                    return self.flood_group(packet, mac);
                }
                if !mac.is_group() {
                    self.note_miss(network);
                }
                self.flood(packet);
            }
            (Verdict::Drop(reason), _) => self.drop(packet, reason),
            _ => self.drop(packet, DropReason::NoReceiver),
        }
    }

    /// Takes of what a port may flood, or of what those behind one tunnel may.
    pub(super) fn may_flood(&mut self, packet: &Packet) -> bool {
        let share = self.share_of(packet);
        self.floods.get_mut(share.index()).is_some_and(|rate| rate.take(self.now))
    }

    /// Keeps where a MAC address is, if that does not depend on who asks.
    fn keep(&mut self, id: NetworkId, mac: MacAddress, port: PortId) {
        let Some(network) = self.tables.network(id) else { return };
        let is_member = network.by_mac.contains_key(&mac);
        match &network.direct {
            Some(direct) if !is_member && port == direct.trunk => self.note_on_wire(id, mac, port),
            Some(direct) if direct.between != Between::Straight => {}
            _ if is_member => {
                self.stages.bridge.fdb.keep_member(id, mac, port, self.generation);
            }
            _ => {}
        }
    }

    /// Sends a copy to every other member of the packet's network.
    pub(super) fn flood(&mut self, packet: Packet) {
        let (ingress, network) = (packet.meta.ingress, packet.meta.network);
        if !self.may_flood(&packet) {
            return self.drop(packet, DropReason::FloodLimited);
        }
        self.counters.worker.floods.add(1);
        if let Some(sender) = self.returned_to(network, &packet) {
            let tables = self.tables.clone();
            let members = tables.network(network).map_or(&[][..], |own| &own.members);
            return self.send_copies(packet, members, |_, port| port != ingress && port != sender);
        }
        self.flood_from(packet, network, Some(ingress));
    }

    /// The member that sent what the wire now sends back to all.
    fn returned_to(&self, network: NetworkId, packet: &Packet) -> Option<PortId> {
        let own = self.tables.network(network)?;
        own.direct.as_ref().filter(|direct| direct.between == Between::ByWire)?;
        own.by_mac.get(&MacAddress(packet.source())).copied()
    }

    /// Sends a copy to every member of a network but one.
    pub(super) fn flood_from(
        &mut self,
        packet: Packet,
        network: NetworkId,
        except: Option<PortId>,
    ) {
        let tables = self.tables.clone();
        let Some(network) = tables.network(network) else {
            return self.drop(packet, DropReason::PortGone);
        };
        self.send_copies(packet, &network.members, |_, port| Some(port) != except);
    }

    /// Sends a copy to each of these ports that it is for. The packet itself goes to the last.
    pub(super) fn send_copies(
        &mut self,
        packet: Packet,
        receivers: &[PortId],
        is_for: impl Fn(&Core, PortId) -> bool,
    ) {
        let mut last = None;
        for &member in receivers {
            if !is_for(self, member) {
                continue;
            }
            if let Some(receiver) = last.replace(member) {
                match packet.copy(&mut self.frames) {
                    Some(copy) => self.send_bridged(receiver, copy, Receivers::All),
                    None => self.counters.dropped(DropReason::NoFrame).add(1),
                }
            }
        }
        match last {
            Some(receiver) => self.send_bridged(receiver, packet, Receivers::All),
            None => self.drop(packet, DropReason::NoReceiver),
        }
    }
}
