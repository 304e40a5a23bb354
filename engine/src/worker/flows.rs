//! Routed packets of one address family, off the short way: find the flow, decide a new one,
//! revalidate an old one, carry the packet.
//!
//! Every way through here ends in exactly one of: sent, held, handed over, answered, dropped.

use super::actions::pair;
use super::connection;
use super::core::Core;
use super::syns::UnaskedSyns;
use crate::counters::DropReason;
use crate::execute::{Edit, can_change_ports, execute, fits};
use crate::flow::{
    ActionKind, AdjacencyId, Cold, FlowAction, FlowId, FlowInput, FlowKey, FlowTable, Fragments,
    NewSide, SideId, pack_ingress, pack_transport,
};
use crate::fragmentation::may_split;
use crate::id::{PortId, WorkerId};
use crate::ingress::IngressRule;
use crate::neighbour::NoHold;
use crate::packet::{Notes, Packet, WINDOW_BYTES};
use crate::paths::UNKNOWN;
use crate::reply::ErrorKind;
use crate::stage::{Answer, Decision, Parts, Verdict};
use crate::steer;
use crate::time::Tick;
use crate::wire::{header_at, icmp, protocol, raw_u32_at, tcp, u16_at, u32_at};

/// Flows whose memory is fetched at once before they end: as many as a processor has fetches under
/// way, or a little more. More would push each other out of the fastest cache.
const DUE_AT_ONCE: usize = 16;

/// The flows of one address family.
pub(super) struct Flows<F: Edit> {
    pub(super) table: FlowTable<F>,
    pub(super) fragments: Fragments<F>,
    pub(super) syns: UnaskedSyns<F>,
}

/// What became of a flow when it was looked at again.
pub(super) enum Revalidated {
    /// It goes on, perhaps with another action.
    Kept,
    /// It has ended; the packet is decided anew.
    Ended,
    /// It has ended and its TCP peer is told.
    Reset,
}

/// The key of a plain packet, whose headers are at fixed places.
#[inline(always)]
pub(super) fn plain_key<F: Edit>(
    window: &[u8; WINDOW_BYTES],
    rule: &IngressRule,
) -> FlowKey<F::Addresses> {
    let (ports, protocol) = (raw_u32_at(window, F::PLAIN_L4), F::protocol_plain(window));
    let transport = pack_transport(ports, protocol, rule.key_ingress);
    FlowKey { addresses: F::read_plain(window), transport }
}

/// The key of a routed packet.
#[inline]
pub(super) fn key_of<F: Edit>(packet: &Packet) -> Option<FlowKey<F::Addresses>> {
    let meta = &packet.meta;
    let addresses = F::read(packet.head(), usize::from(meta.l3))?;
    let ports = ports_of(packet.head(), usize::from(meta.l4), meta.protocol)?;
    let transport = pack_transport(ports.to_be(), meta.protocol, pack_ingress(meta.ingress));
    Some(FlowKey { addresses, transport })
}

#[inline]
pub(super) fn ports_of(head: &[u8], l4: usize, protocol: u8) -> Option<u32> {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            Some(u32_at(header_at::<4>(head, l4)?, 0))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header = header_at::<{ icmp::HEADER_BYTES }>(head, l4)?;
            let kind = u32::from(u16_at(header, 0) & 0xff00);
            let identifier = u32::from(u16_at(header, icmp::IDENTIFIER));
            Some(match (protocol, header[0]) {
                (protocol::ICMP, icmp::ECHO_REQUEST) | (_, icmp::V6_ECHO_REQUEST) => {
                    identifier << 16 | kind
                }
                (protocol::ICMP, icmp::ECHO_REPLY) | (_, icmp::V6_ECHO_REPLY) => {
                    kind << 16 | identifier
                }
                // Not an echo: type and code where the port of the other side stands.
                _ => u32::from(u16_at(header, 0)),
            })
        }
        _ => Some(0),
    }
}

impl<F: Edit> Flows<F> {
    pub(super) fn new(table: FlowTable<F>, fragments: Fragments<F>) -> Flows<F> {
        Flows { table, fragments, syns: UnaskedSyns::new() }
    }

    /// A routed packet that the short way did not take. `hops`: how often it was handed over.
    pub(super) fn route(&mut self, core: &mut Core, packet: Packet, hops: u8) {
        if packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT) {
            return self.route_fragment(core, packet, hops);
        }
        if packet.meta.notes.any(Notes::ICMP_ERROR) {
            return self.route_error(core, packet, hops);
        }
        let Some(key) = key_of::<F>(&packet) else {
            return core.drop(packet, DropReason::Truncated);
        };
        self.route_key(core, packet, key, hops);
    }

    pub(super) fn route_key(
        &mut self,
        core: &mut Core,
        packet: Packet,
        key: FlowKey<F::Addresses>,
        hops: u8,
    ) {
        // A flow that ends while it is looked at is decided anew, once: a second round finds it
        // fresh.
        for _ in 0..2 {
            let Some(side) = self.table.find(&key) else {
                let input = key.input::<F>(packet.meta.network);
                return match core.may_cross(&input) {
                    true => core.cross(packet, input, hops),
                    false => self.decide(core, packet, key, hops),
                };
            };
            match self.revalidate(core, side) {
                Revalidated::Kept => return self.carry(core, packet, side, hops),
                Revalidated::Ended => {}
                Revalidated::Reset => {
                    let answer = Answer::Reset(DropReason::ClosedPort);
                    return core.answer(packet, answer);
                }
            }
        }
        self.decide(core, packet, key, hops);
    }

    /// The first packet of a flow: the stages decide.
    pub(super) fn decide(
        &mut self,
        core: &mut Core,
        packet: Packet,
        key: FlowKey<F::Addresses>,
        hops: u8,
    ) {
        core.counters.worker.misses.add(1);
        let input = key.input::<F>(packet.meta.network);
        let home = steer::home(&input, &core.tables, core.worker_count, core.seed);
        if home != core.id {
            self.install_stub(core, &input, key, home);
            return core.hand_over(home, packet, hops);
        }
        let decide = |core: &mut Core| {
            let (stages, cx) = core.stages_and_cx();
            stages.decide(&input, &cx)
        };
        let mut decided = decide(core);
        if decided.1 == Verdict::Drop(DropReason::OutsidePortsUsedUp)
            && self.evict_for_its_port(core, core.share_of(&packet))
        {
            decided = decide(core);
        }
        let (decision, verdict, stage) = &decided;
        core.counters.settled_by(*stage, verdict.refused());
        if let Some(rule) = decision.rule {
            core.tables.policy.count(rule.into(), core.id);
        }
        match *verdict {
            Verdict::Forward => match self.install(core, &input, key, decision, &packet) {
                Ok(flow) => self.carry(core, packet, flow.original(), hops),
                Err(reason) => core.drop(packet, reason),
            },
            Verdict::Answer(answer) => core.answer(packet, answer),
            Verdict::Drop(reason) => {
                self.syns.keep(&packet, key, reason, core.now);
                core.drop(packet, reason);
            }
            Verdict::Continue | Verdict::Flood => core.drop(packet, DropReason::NotRoutable),
        }
    }

    fn install_stub(
        &mut self,
        core: &mut Core,
        input: &FlowInput,
        key: FlowKey<F::Addresses>,
        home: WorkerId,
    ) {
        let parts = Parts::of(input, &Decision::default(), &core.tables);
        let cold = Cold {
            input: *input,
            share: input.ingress,
            parts,
            mapping: None,
            two_sided: false,
            started: core.tick,
            paths: [UNKNOWN; 2],
            mss_max: None,
        };
        let side = NewSide { key, action: FlowAction::hand_over(home) };
        self.make_room_for_stub(core);
        let installed = self.table.insert(cold, side, None, core.stamp, core.tick);
        // Without room the next packet asks again; it still arrives.
        if let Some(flow) = installed {
            let timeouts = &core.tables.nat.timeouts;
            self.table.wheel.set(flow.0, core.tick, Tick::count(timeouts.udp));
        }
    }

    /// Installs what was decided, or says why not and leaves everything as it was.
    fn install(
        &mut self,
        core: &mut Core,
        input: &FlowInput,
        key: FlowKey<F::Addresses>,
        decision: &Decision,
        packet: &Packet,
    ) -> Result<FlowId, DropReason> {
        // Held before a flow that uses it may end to make room.
        if let Some(mapping) = decision.mapping {
            core.stages.nat.hold(mapping, input);
        }
        let share = core.share_of(packet);
        let opens = packet.meta.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        let installed = if input.protocol == protocol::TCP && !opens && !core.tables.nat.tcp_pickup
        {
            Err(DropReason::NoConnection)
        } else {
            self.make_room(core, input, share)
                .and_then(|()| self.install_pair(core, (input, share), key, decision))
        };
        match installed {
            Ok(flow) => {
                let state = self.begin(flow, packet);
                let timeout = state.timeout(input.protocol, &core.tables.nat.timeouts);
                self.table.wheel.set(flow.0, core.tick, Tick::count(timeout));
                core.count_begun(input, share);
                Ok(flow)
            }
            Err(reason) => {
                if let Some(mapping) = decision.mapping {
                    core.stages.nat.release(mapping, input);
                }
                Err(reason)
            }
        }
    }

    fn install_pair(
        &mut self,
        core: &mut Core,
        (input, share): (&FlowInput, PortId),
        key: FlowKey<F::Addresses>,
        decision: &Decision,
    ) -> Result<FlowId, DropReason> {
        let pair = pair::<F>(core, input, key, decision)?;
        let reply = (pair.reply.key != key).then_some(pair.reply);
        if let Some(reply) = &reply
            && let Some(other) = self.table.find(&reply.key)
        {
            // Its tuple is ours now: a stub, or a flow that the tables have overtaken.
            self.end(core, other.flow());
        }
        let parts = Parts::of(input, decision, &core.tables);
        let mapping = decision.mapping;
        let (stamp, tick) = (core.stamp, core.tick);
        let cold = Cold {
            input: *input,
            share,
            parts,
            mapping,
            two_sided: true,
            started: tick,
            paths: decision.paths,
            mss_max: decision.mss_max,
        };
        let flow = self.table.insert(cold, pair.original, reply, stamp, tick);
        let flow = flow.ok_or(DropReason::FlowTableFull)?;
        if pair.original.action.kind == ActionKind::Translate {
            core.translated += 1;
            core.tell_of_translation(input, decision);
        }
        core.neighbours.hold(pair.original.action.adjacency);
        core.neighbours.hold(pair.reply.action.adjacency);
        Ok(flow)
    }

    /// Ends a flow and gives back what it held.
    pub(super) fn end(&mut self, core: &mut Core, flow: FlowId) {
        let actions = [flow.original(), flow.reply()].map(|side| *self.table.side(side).action());
        let Some(cold) = self.table.remove(flow) else { return };
        if !cold.two_sided {
            return;
        }
        if actions[0].kind == ActionKind::Translate {
            core.translated = core.translated.saturating_sub(1);
        }
        actions.iter().for_each(|action| core.neighbours.release(action.adjacency));
        if let Some(mapping) = cold.mapping {
            core.stages.nat.release(mapping, &cold.input);
        }
        core.count_ended(&cold.input, cold.share);
    }

    /// Asks whether a flow's decision still holds. Cheap when the tables are the same; when they
    /// are not but the parts used are, the flow is restamped; else the stages run again on the
    /// input of its first packet.
    pub(super) fn revalidate(&mut self, core: &mut Core, side: SideId) -> Revalidated {
        let flow = side.flow();
        let stamp = core.stamp;
        if self.table.side(side).stamp == stamp && core.cache {
            return Revalidated::Kept;
        }
        let Some(cold) = self.table.cold(flow).copied() else { return Revalidated::Ended };
        if core.cache
            && let Some(parts) = cold.parts.hold(&cold.input, &core.tables)
            && (!cold.two_sided || self.paths_of(core, flow, &cold) == cold.paths)
        {
            self.restamp(flow, stamp);
            if let Some(cold) = self.table.cold_mut(flow) {
                cold.parts = parts;
            }
            return Revalidated::Kept;
        }
        core.counters.worker.revalidated.add(1);
        let rule = core.rule(cold.input.ingress);
        let is_gone = rule.is_none_or(|rule| rule.network != cold.input.network);
        if is_gone && cold.input.ingress != PortId::TURN {
            // Its port is in another network now: nothing of the decision holds.
            self.end(core, flow);
            return Revalidated::Ended;
        }
        let home = steer::home(&cold.input, &core.tables, core.worker_count, core.seed);
        if !cold.two_sided {
            let same =
                self.table.side(flow.original()).action().worker == home.0 && home != core.id;
            if same {
                self.restamp(flow, stamp);
                return Revalidated::Kept;
            }
            self.end(core, flow);
            return Revalidated::Ended;
        }
        let (stages, cx) = core.stages_and_cx();
        let (decision, verdict, _) = stages.decide_again(&cold.input, cold.mapping, &cx);
        if verdict == Verdict::Forward
            && home == core.id
            && self.renew(core, flow, &cold, &decision)
        {
            self.restamp(flow, stamp);
            return Revalidated::Kept;
        }
        if let Some(mapping) = decision.mapping {
            core.stages.nat.forget(mapping);
        }
        self.end(core, flow);
        // Of a connection whose target moved or is forbidden now, the sender is told.
        match cold.input.protocol {
            protocol::TCP => Revalidated::Reset,
            _ => Revalidated::Ended,
        }
    }

    fn restamp(&mut self, flow: FlowId, stamp: u32) {
        self.table.side_mut(flow.original()).stamp = stamp;
        self.table.side_mut(flow.reply()).stamp = stamp;
    }

    /// Gives a flow the actions of a new decision, if its tuples stay the same. False if not.
    fn renew(&mut self, core: &mut Core, flow: FlowId, cold: &Cold, decision: &Decision) -> bool {
        let sides = [flow.original(), flow.reply()];
        let key = self.table.side(sides[0]).key();
        let Ok(new) = pair::<F>(core, &cold.input, key, decision) else { return false };
        let same_reply = self.table.side(sides[1]).matches(&new.reply.key);
        if !same_reply || decision.mapping != cold.mapping {
            return false;
        }
        for (side, new) in sides.into_iter().zip([new.original, new.reply]) {
            let old = self.table.set_action(side, new.action);
            core.neighbours.hold(new.action.adjacency);
            core.neighbours.release(old.adjacency);
        }
        let parts = Parts::of(&cold.input, decision, &core.tables);
        if let Some(cold) = self.table.cold_mut(flow) {
            cold.parts = parts;
            (cold.paths, cold.mss_max) = (decision.paths, decision.mss_max);
        }
        true
    }

    /// A packet of a valid flow: guards, state, edit, send.
    pub(super) fn carry(&mut self, core: &mut Core, mut packet: Packet, side: SideId, hops: u8) {
        let action = self.table.action(side);
        match action.kind {
            ActionKind::Forward => {}
            ActionKind::Translate => return self.carry_translated(core, packet, side),
            ActionKind::HandOver => {
                self.table.side_mut(side).last_seen = core.tick;
                return core.hand_over(WorkerId(action.worker), packet, hops);
            }
        }
        let l3 = usize::from(packet.meta.l3);
        if F::ttl(packet.head(), l3) <= 1 {
            let answer = Answer::Error(ErrorKind::TtlExceeded, DropReason::TtlExceeded);
            return core.answer(packet, answer);
        }
        let is_cut = !fits(&packet, action.mtu);
        if is_cut && !may_split(&packet) {
            return core.too_big(packet, action.mtu);
        }
        let resolved = core.next_hop(action.adjacency);
        let Some(adjacency) = resolved else {
            return core.wait(action.adjacency, packet);
        };
        let later = packet.meta.notes.any(Notes::LATER_FRAGMENT);
        if !later && !can_change_ports(&packet, action.ports) {
            return core.drop(packet, DropReason::ProtocolNotTranslated);
        }
        if (is_cut || packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT))
            && !self.renumber(core, &mut packet, action.addresses)
        {
            return core.drop(packet, DropReason::FragmentUnattached);
        }
        self.note_passage(core, &packet, side);
        self.clamp(core, &mut packet, side.flow());
        if packet.meta.protocol == protocol::SCTP {
            connection::conceal::<F>(&mut packet, action.addresses);
        }
        execute::<F>(&mut packet, &action, &adjacency, !later);
        match (adjacency.port, is_cut) {
            (PortId::TURN, _) => self.turn_round(core, packet),
            (port, false) => core.send(port, packet),
            (port, true) => core.send_in_pieces(port, packet, action.mtu),
        }
    }

    /// A packet passes: state of the connection, last-seen, counters.
    pub(super) fn note_passage(&mut self, core: &Core, packet: &Packet, side: SideId) {
        if !packet.meta.notes.any(Notes::LATER_FRAGMENT) {
            connection::track(&mut self.table, core, side, packet);
        }
        self.table.side_mut(side).count(packet.len(), core.tick);
    }

    /// Ends idle flows, at most `budget` looks. Returns true if there may be more.
    pub(super) fn expire(&mut self, core: &mut Core, budget: usize) -> bool {
        let (mut left, mut due) = (budget, [FlowId(0); DUE_AT_ONCE]);
        while left > 0 {
            let wanted = left.min(DUE_AT_ONCE);
            let mut count = 0;
            while count < wanted
                && let Some(id) = self.table.wheel.due(core.tick)
            {
                due[count] = FlowId(id);
                count += 1;
            }
            self.fetch_ends(core, &due[..count]);
            due[..count].iter().for_each(|&flow| self.end_if_idle(core, flow));
            if count < wanted {
                return false;
            }
            left -= count;
        }
        true
    }

    /// Ends a flow that has been idle for long enough, else looks again when it may be.
    fn end_if_idle(&mut self, core: &mut Core, flow: FlowId) {
        let Some(&Cold { two_sided, ref input, .. }) = self.table.cold(flow) else { return };
        let timeouts = &core.tables.nat.timeouts;
        let state = self.table.side(flow.original()).tcp();
        let timeout = Tick::count(match two_sided {
            true => state.timeout(input.protocol, timeouts),
            false => timeouts.udp,
        });
        let idle = core.tick.since(self.table.last_seen(flow, core.tick));
        if idle >= timeout {
            core.counters.worker.flows_expired.add(u64::from(two_sided));
            self.end(core, flow);
        } else {
            self.table.wheel.set(flow.0, core.tick, timeout - idle);
        }
    }
}

impl Core {
    /// Lets a packet wait for its neighbour.
    pub(super) fn wait(&mut self, adjacency: AdjacencyId, packet: Packet) {
        let tick = self.tick;
        match self.neighbours.wait(adjacency, packet, tick) {
            Ok(None) => {}
            Ok(Some((port, address))) => self.ask(port, address, None),
            Err((packet, NoHold::Full)) => self.drop(packet, DropReason::HoldFull),
            Err((packet, NoHold::Failed)) => self.unreachable(packet),
        }
    }

    /// A packet whose next hop does not answer. Clients outside are not told: they would learn
    /// which container addresses exist.
    pub(super) fn unreachable(&mut self, packet: Packet) {
        let reason = DropReason::NeighbourUnreachable;
        if packet.meta.notes.any(Notes::IN_TUNNEL) {
            return self.drop(packet, reason);
        }
        match self.rule(packet.meta.ingress).is_some_and(|rule| rule.uplink) {
            true => self.drop(packet, reason),
            false => self.answer(packet, Answer::Error(ErrorKind::HostUnreachable, reason)),
        }
    }

    /// A packet that is larger than its way out and may not be cut.
    pub(super) fn too_big(&mut self, packet: Packet, mtu: u16) {
        self.answer(packet, Answer::Error(ErrorKind::TooBig(mtu), DropReason::TooBig));
    }
}
