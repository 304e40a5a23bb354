//! The short way: a batch from one port, in three passes.
//!
//! 1. Parse, check the sender, compute the key; load the line of its bucket.
//! 2. Load the line of the flow that the bucket names.
//! 3. Compare, check the guards, edit, send. What does not fit goes the long way.
//!
//! The passes exist so that the memory of 64 flows is fetched at once instead of one after the
//! other; each pass uses the loads that the one before began.

use super::Worker;
use super::core::Core;
use super::flows::plain_key;
use crate::counters::DropReason;
use crate::execute::{Edit, execute_plain, fits};
use crate::flow::{ActionKind, FlowKey, FlowTable, Lanes, SideId, V4, V6};
use crate::id::PortId;
use crate::ingress::{Class, IngressRule};
use crate::packet::{BATCH_LEN, Batch, Notes, Offload, Packet};
use crate::port::PortSet;
use crate::worker::Event;

/// What the passes hand on to each other about one packet. Plain fields, each written where it is
/// known: an enum would be put together and taken apart again for every packet.
#[derive(Clone, Copy, Debug)]
struct Lookup {
    class: Result<Class, DropReason>,
    v4: KeyLookup<u64>,
    v6: KeyLookup<[u128; 2]>,
    /// Of a bridged frame: its destination, and the bucket to look into.
    destination: u64,
    bucket: u32,
    /// Where the packet leaves, once that is known.
    egress: PortId,
}

/// A look-up in a flow table under way.
#[derive(Clone, Copy, Debug)]
struct KeyLookup<A> {
    key: FlowKey<A>,
    hash: u64,
    lanes: Lanes,
    candidate: Option<SideId>,
}

impl<A: Default> Default for KeyLookup<A> {
    fn default() -> Self {
        KeyLookup { key: FlowKey::default(), hash: 0, lanes: Lanes::default(), candidate: None }
    }
}

/// The look-ups of a batch.
#[derive(Debug)]
pub(super) struct Lookups([Lookup; BATCH_LEN]);

impl Default for Lookups {
    fn default() -> Lookups {
        let lookup = Lookup {
            class: Err(DropReason::Truncated),
            v4: KeyLookup::default(),
            v6: KeyLookup::default(),
            destination: 0,
            bucket: 0,
            egress: PortId::default(),
        };
        Lookups([lookup; BATCH_LEN])
    }
}

impl Worker {
    /// Receives one batch from a port and carries it through.
    pub(super) fn receive(&mut self, id: PortId, ready: &mut PortSet) -> usize {
        let (Some(mut batch), Some(mut lookups)) = (self.batch.take(), self.lookups.take()) else {
            return 0;
        };
        if let Some(port) = self.core.egress.port(id) {
            port.rx(&mut self.core.frames, &mut batch);
            let rejected = port.take_rejected();
            let alive = port.alive();
            if rejected > 0 {
                self.core.counters.dropped(DropReason::MalformedOffload).add(rejected);
            }
            if !alive {
                self.core.event(Event::PortDown(id));
            }
        }
        let count = batch.len();
        // Fewer than fit means that nothing more waits, unless the frames have run out.
        if count < BATCH_LEN && (count == 0 || self.core.frames.count().0 > 0) {
            ready.remove(id);
        }
        if count > 0 {
            self.carry_batch(id, &mut batch, &mut lookups);
            debug_assert!(batch.is_empty(), "every packet went somewhere");
        }
        self.batch = Some(batch);
        self.lookups = Some(lookups);
        count
    }

    fn carry_batch(&mut self, id: PortId, batch: &mut Box<Batch>, lookups: &mut Lookups) {
        let Some(rule) = self.core.rule(id).copied() else {
            batch.drain(..).for_each(|packet| self.core.drop(packet, DropReason::PortGone));
            return;
        };
        let lookups = &mut lookups.0[..batch.len()];
        let (rx_bytes, with_flows) = self.first_pass(&rule, batch, lookups);
        if let Some(port) = self.core.counters.port(id) {
            port.rx_packets.add(batch.len() as u64);
            port.rx_bytes.add(rx_bytes);
        }
        if with_flows {
            self.second_pass(lookups);
        }
        let hits = self.third_pass(&rule, batch, lookups);
        self.core.counters.worker.hits.add(hits as u64);
        if hits == batch.len() && self.core.send_all(batch, lookups, rx_bytes) {
            return;
        }
        self.dispose(&rule, batch, lookups, hits);
    }

    /// Returns the bytes of the batch, and whether any packet needs a flow.
    #[inline(always)]
    fn first_pass(
        &self,
        rule: &IngressRule,
        batch: &mut Batch,
        lookups: &mut [Lookup],
    ) -> (u64, bool) {
        let (mut bytes, mut with_flows) = (0, false);
        for (packet, lookup) in batch.iter_mut().zip(lookups) {
            bytes += packet.len() as u64;
            lookup.class = rule.examine(packet);
            match lookup.class {
                Ok(Class::PlainV4) => {
                    with_flows = true;
                    begin(&self.v4.table, packet, &mut lookup.v4);
                }
                Ok(Class::PlainV6) => {
                    with_flows = true;
                    begin(&self.v6.table, packet, &mut lookup.v6);
                }
                Ok(Class::Bridged) => {
                    lookup.destination = packet.destination();
                    let fdb = &self.core.stages.bridge.fdb;
                    lookup.bucket = fdb.touch(rule.network, lookup.destination);
                }
                _ => {}
            }
        }
        (bytes, with_flows)
    }

    #[inline(always)]
    fn second_pass(&self, lookups: &mut [Lookup]) {
        for Lookup { class, v4, v6, .. } in lookups {
            match class {
                Ok(Class::PlainV4) => v4.candidate = self.v4.table.candidate(v4.hash, v4.lanes),
                Ok(Class::PlainV6) => v6.candidate = self.v6.table.candidate(v6.hash, v6.lanes),
                _ => {}
            }
        }
    }

    /// Repeats decisions in place until a packet has none; returns how many had.
    #[inline(always)]
    fn third_pass(
        &mut self,
        rule: &IngressRule,
        batch: &mut Batch,
        lookups: &mut [Lookup],
    ) -> usize {
        let core = &mut self.core;
        for (count, (packet, lookup)) in batch.iter_mut().zip(lookups).enumerate() {
            let egress = match lookup.class {
                Ok(Class::PlainV4) => repeat::<V4>(core, &mut self.v4.table, &lookup.v4, packet),
                Ok(Class::PlainV6) => repeat::<V6>(core, &mut self.v6.table, &lookup.v6, packet),
                Ok(Class::Bridged) => core.repeat_frame(rule, packet, lookup),
                _ => None,
            };
            match egress {
                Some(egress) => lookup.egress = egress,
                None => return count,
            }
        }
        batch.len()
    }

    /// Sends the packets that have a decision, `hits` from the front, and carries the rest one by
    /// one in their order.
    fn dispose(&mut self, rule: &IngressRule, batch: &mut Batch, lookups: &[Lookup], hits: usize) {
        for (index, (mut packet, lookup)) in batch.drain(..).zip(lookups).enumerate() {
            let core = &mut self.core;
            if index < hits {
                core.send(lookup.egress, packet);
                continue;
            }
            let egress = match lookup.class {
                Ok(Class::PlainV4) => {
                    repeat::<V4>(core, &mut self.v4.table, &lookup.v4, &mut packet)
                }
                Ok(Class::PlainV6) => {
                    repeat::<V6>(core, &mut self.v6.table, &lookup.v6, &mut packet)
                }
                Ok(Class::Bridged) => core.repeat_frame(rule, &packet, lookup),
                _ => None,
            };
            match (egress, lookup.class) {
                (Some(egress), _) => {
                    core.counters.worker.hits.add(1);
                    core.send(egress, packet);
                }
                (None, Ok(class)) => self.take_care(rule, class, packet),
                (None, Err(reason)) => core.drop(packet, reason),
            }
        }
        self.route_released();
    }

    /// A packet without a decision, the long way.
    #[cold]
    fn take_care(&mut self, rule: &IngressRule, class: Class, packet: Packet) {
        let frame = (packet.destination(), packet.source());
        match class {
            Class::Bridged => self.core.carry_frame(rule, packet, frame),
            Class::Arp => self.core.arp(packet, rule, frame),
            Class::NeighbourDiscovery => self.core.discovery(packet, rule, frame),
            Class::PlainV4 | Class::PlainV6 | Class::Unusual => self.route(packet, 0),
        }
    }

    /// A parsed routed packet, the long way.
    pub(super) fn route(&mut self, packet: Packet, hops: u8) {
        match packet.meta.notes.any(Notes::V6) {
            true => self.v6.route(&mut self.core, packet, hops),
            false => self.v4.route(&mut self.core, packet, hops),
        }
    }

    /// Packets that waited for a neighbour which is known now.
    pub(super) fn route_released(&mut self) {
        while !self.core.released.is_empty() {
            let mut released = std::mem::take(&mut self.core.released);
            for packet in released.drain(..) {
                self.route(packet, 0);
            }
            // The vector's memory is kept; what was released meanwhile goes next.
            if self.core.released.is_empty() {
                self.core.released = released;
                return;
            }
        }
    }
}

/// Begins the look-up of a plain packet's flow.
#[inline(always)]
fn begin<F: Edit>(table: &FlowTable<F>, packet: &Packet, look: &mut KeyLookup<F::Addresses>) {
    look.key = plain_key::<F>(packet);
    look.hash = table.hash(&look.key);
    look.lanes = table.probe(look.hash);
}

/// Repeats the decision of a known flow. `None`: there is none, or a guard fails.
#[inline(always)]
fn repeat<F: Edit>(
    core: &mut Core,
    table: &mut FlowTable<F>,
    look: &KeyLookup<F::Addresses>,
    packet: &mut Packet,
) -> Option<PortId> {
    let side = match look.candidate {
        Some(candidate) if table.is(candidate, &look.key) => candidate,
        // Another key with the same tag came first, or the entry is in its second bucket.
        _ => table.find(&look.key)?,
    };
    let side = table.side_mut(side);
    let action = &side.action;
    let fresh = side.generation == core.generation && core.cache;
    let alive = F::ttl_plain(packet.window()) > 1;
    let settled = side.tcp.keeps(packet.meta.tcp_flags);
    let forward = action.kind == ActionKind::Forward;
    if !(fresh && alive && settled && forward && fits(packet, action.mtu)) {
        return None;
    }
    let adjacency = core.neighbours.get(action.adjacency).filter(|known| known.resolved)?;
    side.last_seen = core.tick;
    side.packets = side.packets.wrapping_add(1);
    side.bytes += packet.len() as u64;
    execute_plain::<F>(packet, &side.action, adjacency);
    Some(adjacency.port)
}

impl Core {
    /// Where a frame inside a network goes, if the FDB knows and nothing else is to be asked.
    #[inline(always)]
    fn repeat_frame(
        &mut self,
        rule: &IngressRule,
        packet: &Packet,
        lookup: &Lookup,
    ) -> Option<PortId> {
        // A port that may have several stations is heard first: the long way.
        if !rule.anti_spoofing || packet.len() > rule.frame_bytes_max || !self.cache {
            return None;
        }
        let fdb = &self.stages.bridge.fdb;
        let key = (rule.network, lookup.destination);
        let port = fdb.port_in(lookup.bucket, key, self.generation, self.tick)?;
        (port != rule.port).then_some(port)
    }

    /// A frame inside a network, the long way.
    fn carry_frame(&mut self, rule: &IngressRule, packet: Packet, frame: (u64, u64)) {
        let (destination, source) = frame;
        if !rule.anti_spoofing && !rule.uplink && !self.hear(rule, source) {
            return self.drop(packet, DropReason::StationFlapping);
        }
        let fdb = &self.stages.bridge.fdb;
        let known = fdb.port_of(rule.network, destination, self.generation, self.tick);
        match known.filter(|&port| port != rule.port && self.cache) {
            Some(port) => {
                self.counters.worker.hits.add(1);
                self.send_bridged(port, packet);
            }
            None => self.bridge(packet, destination),
        }
    }

    /// Sends a whole batch at once, without moving a packet, if all of it leaves by one port that
    /// takes it as it is. False: nothing was done.
    #[inline(always)]
    fn send_all(&mut self, batch: &mut Box<Batch>, lookups: &[Lookup], bytes: u64) -> bool {
        let Some(egress) = lookups.first().map(|lookup| lookup.egress) else { return true };
        let mut differences = 0;
        for (packet, lookup) in batch.iter().zip(lookups) {
            // No early exit: the whole is a handful of vector operations.
            differences |= lookup.egress.0 ^ egress.0 | u16::from(packet.offload != Offload::None);
        }
        differences == 0
            && self.egress.send_all(egress, batch, bytes, &mut self.frames, &self.counters)
    }
}
