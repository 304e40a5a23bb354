//! Room for a new flow: which flow goes when there is none.
//!
//! Bounded in all and per port, and of each port again what was not answered; and per outside
//! address. At a limit the oldest flow goes that nobody has answered, then one that is over or has
//! been idle, as far as a few looks find one; only then the new flow is refused. A port that has
//! used up its share makes room among its own flows, so a flood harms nobody else. Notes about
//! other workers' flows go before any flow does: they cost a look at the tables.
//!
//! The one hard constraint: with and without the cache the same flows go. So nothing counts but
//! when flows began, their states, whether anybody answered, and when they were last used.

use std::net::IpAddr;
use std::time::Duration;

use super::core::Core;
use super::flows::Flows;
use crate::counters::DropReason;
use crate::execute::Edit;
use crate::explain::Room;
use crate::flow::{Class, FlowId, FlowInput, TcpState, Whose, mix, seed_for};
use crate::id::{NetworkId, PortId};
use crate::packet::Packet;
use crate::time::Tick;

/// Flows that one search looks at: 16 lines of memory, about 1 us. With fewer a search in a table
/// full of busy flows would rarely find the idle one, with more a flood would cost more.
const LOOKS_MAX: usize = 16;

/// How long a flow must have been idle to go before its time, in a state that is not over. An open
/// TCP connection may be silent for long, and cannot always be picked up again.
const IDLE_ESTABLISHED: Duration = Duration::from_secs(120);
const IDLE_OTHER: Duration = Duration::from_secs(30);

/// Counters of flows by outside address. Each address counts in one of each row; the smaller one is
/// the closest. With 65,536 in a row, a flood from 200,000 made-up addresses adds about three to
/// an address's own number.
const SOURCE_COUNTERS: usize = 1 << 16;

/// How many flows outside addresses have begun.
#[derive(Debug)]
pub(super) struct Sources {
    rows: [Box<[u32]>; 2],
    seed: u64,
    flows_max: u32,
}

impl Sources {
    pub(super) fn new(flows_max: u32, seed: u64) -> Sources {
        let row = || vec![0; SOURCE_COUNTERS].into_boxed_slice();
        Sources { rows: [row(), row()], seed, flows_max }
    }

    /// The counters of an address; of IPv6, of its /64, which one host has as a whole.
    fn places(&self, address: IpAddr) -> [usize; 2] {
        let bits = match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let hash = mix(bits ^ seed_for(self.seed, 60), seed_for(self.seed, 61));
        [hash as usize % SOURCE_COUNTERS, (hash >> 32) as usize % SOURCE_COUNTERS]
    }

    fn is_full(&self, address: IpAddr) -> bool {
        let places = self.places(address);
        self.rows.iter().zip(places).all(|(row, place)| row[place] >= self.flows_max)
    }

    fn add(&mut self, address: IpAddr) {
        let places = self.places(address);
        self.rows.iter_mut().zip(places).for_each(|(row, place)| row[place] += 1);
    }

    fn remove(&mut self, address: IpAddr) {
        let places = self.places(address);
        self.rows
            .iter_mut()
            .zip(places)
            .for_each(|(row, place)| row[place] = row[place].saturating_sub(1));
    }
}

impl Core {
    /// Whose share a flow takes that begins with this packet. Of what came out of tunnels each has
    /// its own, as far as is known where the sender is: no peer takes room from another.
    pub(super) fn share_of(&self, packet: &Packet) -> PortId {
        match self.rule(packet.meta.ingress).is_some_and(|rule| rule.trunk) {
            true => self.heard_by(packet),
            false => packet.meta.ingress,
        }
    }

    /// A flow with this input has begun.
    pub(super) fn count_begun(&mut self, input: &FlowInput, share: PortId) {
        if let Some(started) = self.started.get_mut(share.index()) {
            *started += 1;
        }
        if is_from_outside(input) {
            self.sources.add(input.source);
        }
    }

    /// A flow with this input has ended.
    pub(super) fn count_ended(&mut self, input: &FlowInput, share: PortId) {
        if let Some(started) = self.started.get_mut(share.index()) {
            *started = started.saturating_sub(1);
        }
        if is_from_outside(input) {
            self.sources.remove(input.source);
        }
    }
}

fn is_from_outside(input: &FlowInput) -> bool {
    // What turns round has a share already, that of its other half.
    input.network == NetworkId::NONE && input.ingress != PortId::TURN
}

impl<F: Edit> Flows<F> {
    /// Makes room for a flow with this input in a share, or says which limit lets none in.
    pub(super) fn make_room(
        &mut self,
        core: &mut Core,
        input: &FlowInput,
        port: PortId,
    ) -> Result<(), DropReason> {
        if is_from_outside(input) && core.sources.is_full(input.source) {
            return Err(DropReason::SourceShareFull);
        }
        let started = core.started.get(port.index()).copied();
        // What turns round has no port, and a share by its other half.
        if started.is_some_and(|started| started >= core.flows_per_port_max)
            && !self.evict(core, Whose::Port(port))
        {
            return Err(DropReason::FlowShareFull);
        }
        if self.table.order.count(port, Class::HalfOpen) >= core.half_open_per_port_max {
            self.evict_half_open(core, Whose::Port(port));
        }
        let has_room = self.table.has_room()
            || self.evict_stub(core)
            || self.evict_half_open(core, Whose::Port(port))
            || self.evict(core, Whose::Everybody);
        if has_room { Ok(()) } else { Err(DropReason::FlowTableFull) }
    }

    /// What [`make_room`](Self::make_room) would do for a flow with this input. Ends none.
    pub(super) fn room(&self, core: &Core, input: &FlowInput) -> Room {
        if is_from_outside(input) && core.sources.is_full(input.source) {
            return Room::None(DropReason::SourceShareFull);
        }
        let (port, order) = (input.ingress, &self.table.order);
        let started = core.started.get(port.index()).copied();
        if started.is_some_and(|started| started >= core.flows_per_port_max) {
            let own = self.who_goes(core, Whose::Port(port));
            return own.unwrap_or(Room::None(DropReason::FlowShareFull));
        }
        let is_share_full = order.count(port, Class::HalfOpen) >= core.half_open_per_port_max;
        match self.table.has_room() {
            true if is_share_full && self.has_half_open(Whose::Port(port)) => Room::HalfOpenGoes,
            true => Room::Free,
            false if order.first(Whose::Everybody, Class::Stub).is_some() => Room::NoteGoes,
            false if self.has_half_open(Whose::Port(port)) => Room::HalfOpenGoes,
            false => {
                let any = self.who_goes(core, Whose::Everybody);
                any.unwrap_or(Room::None(DropReason::FlowTableFull))
            }
        }
    }

    fn who_goes(&self, core: &Core, whose: Whose) -> Option<Room> {
        let mut open = self.table.order.iter(whose, Class::Open).take(LOOKS_MAX);
        match self.has_half_open(whose) {
            true => Some(Room::HalfOpenGoes),
            false => open.any(|flow| self.may_go(core, FlowId(flow))).then_some(Room::IdleGoes),
        }
    }

    fn has_half_open(&self, whose: Whose) -> bool {
        let mut flows = self.table.order.iter(whose, Class::HalfOpen).take(LOOKS_MAX);
        flows.any(|flow| self.is_half_open(FlowId(flow)))
    }

    /// Makes room for a note about another worker's flow, among such notes only.
    pub(super) fn make_room_for_stub(&mut self, core: &mut Core) {
        if !self.table.has_room() {
            self.evict_stub(core);
        }
    }

    /// Ends a flow of a port so that its outside port is free. False: there is none to end.
    pub(super) fn evict_for_its_port(&mut self, core: &mut Core, share: PortId) -> bool {
        self.evict(core, Whose::Port(share))
    }

    fn evict(&mut self, core: &mut Core, whose: Whose) -> bool {
        self.evict_half_open(core, whose) || self.evict_idle(core, whose)
    }

    fn evict_stub(&mut self, core: &mut Core) -> bool {
        let oldest = self.table.order.first(Whose::Everybody, Class::Stub);
        oldest.inspect(|&flow| self.end(core, FlowId(flow))).is_some()
    }

    /// The oldest flow that was not answered goes.
    fn evict_half_open(&mut self, core: &mut Core, whose: Whose) -> bool {
        for _ in 0..LOOKS_MAX {
            let Some(id) = self.table.order.first(whose, Class::HalfOpen) else { return false };
            let flow = FlowId(id);
            if self.is_half_open(flow) {
                core.counters.worker.flows_evicted.add(1);
                self.end(core, flow);
                return true;
            }
            self.defer(flow);
        }
        false
    }

    /// The first flow goes that is over or idle, of those that were not looked at for longest.
    fn evict_idle(&mut self, core: &mut Core, whose: Whose) -> bool {
        for _ in 0..LOOKS_MAX {
            let Some(id) = self.table.order.first(whose, Class::Open) else { return false };
            let flow = FlowId(id);
            if self.may_go(core, flow) {
                core.counters.worker.flows_evicted.add(1);
                self.end(core, flow);
                return true;
            }
            self.defer(flow);
        }
        false
    }

    fn defer(&mut self, flow: FlowId) {
        if let Some(cold) = self.table.cold(flow) {
            let share = cold.share;
            self.table.order.defer(flow.0, share, Class::Open);
        }
    }

    /// True for a flow that is over, or idle for so long that it may go before its time.
    fn may_go(&self, core: &Core, flow: FlowId) -> bool {
        let idle = core.tick.since(self.table.last_seen(flow, core.tick));
        let least = match self.table.side(flow.original()).tcp() {
            state if state.is_over() || state.is_opening() => Duration::ZERO,
            TcpState::Established => IDLE_ESTABLISHED,
            _ => IDLE_OTHER,
        };
        idle >= Tick::count(least)
    }

    /// True for a flow that nobody has answered.
    fn is_half_open(&self, flow: FlowId) -> bool {
        let (original, reply) = (self.table.side(flow.original()), self.table.side(flow.reply()));
        // A flow whose replies look like its own packets has one side.
        original.tcp().is_opening() || (reply.is_used() && reply.packets == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_has_its_share_gets_no_more_until_one_ends() {
        let mut sources = Sources::new(3, 7);
        let address = IpAddr::from([198, 51, 100, 7]);
        (0..3).for_each(|_| sources.add(address));
        assert!(sources.is_full(address));
        assert!(!sources.is_full(IpAddr::from([198, 51, 100, 8])));
        sources.remove(address);
        assert!(!sources.is_full(address));
    }

    #[test]
    fn all_addresses_of_one_ipv6_host_are_one_source() {
        let mut sources = Sources::new(2, 7);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        sources.add(address("2001:db8::1"));
        sources.add(address("2001:db8::2"));
        assert!(sources.is_full(address("2001:db8::3")));
        assert!(!sources.is_full(address("2001:db8:0:1::1")));
    }

    #[test]
    fn many_sources_do_not_fill_the_share_of_another_one() {
        let mut sources = Sources::new(64, 7);
        (0..200_000u32).for_each(|bits| sources.add(IpAddr::from(bits.to_be_bytes())));
        assert!(!sources.is_full(IpAddr::from([198, 51, 100, 7])));
    }
}
