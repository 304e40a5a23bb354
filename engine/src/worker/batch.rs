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
use crate::packet::{BATCH_LEN, Batch, Notes, Packet};
use crate::port::PortSet;
use crate::worker::Event;

/// What the passes hand on to each other about one packet.
#[derive(Clone, Copy, Debug)]
enum Lookup {
    /// Dead already.
    Drop(DropReason),
    V4(KeyLookup<u64>),
    V6(KeyLookup<[u128; 2]>),
    /// A frame inside a network: destination and source MAC address.
    Bridged(u64, u64),
    /// Anything that needs care.
    Care(Class, (u64, u64)),
}

/// A look-up in a flow table under way.
#[derive(Clone, Copy, Debug)]
struct KeyLookup<A> {
    key: FlowKey<A>,
    hash: u64,
    lanes: Lanes,
    candidate: Option<SideId>,
}

/// The look-ups of a batch.
#[derive(Debug)]
pub(super) struct Lookups([Lookup; BATCH_LEN]);

impl Default for Lookups {
    fn default() -> Lookups {
        Lookups([Lookup::Drop(DropReason::Truncated); BATCH_LEN])
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
        }
        self.batch = Some(batch);
        self.lookups = Some(lookups);
        count
    }

    fn carry_batch(&mut self, id: PortId, batch: &mut Batch, lookups: &mut Lookups) {
        let Some(rule) = self.core.rule(id).copied() else {
            batch.drain(..).for_each(|packet| self.core.drop(packet, DropReason::PortGone));
            return;
        };
        let rx_bytes = self.first_pass(&rule, batch, lookups);
        if let Some(port) = self.core.counters.port(id) {
            port.rx_packets.add(batch.len() as u64);
            port.rx_bytes.add(rx_bytes);
        }
        self.second_pass(batch.len(), lookups);
        self.third_pass(&rule, batch, lookups);
    }

    #[inline(always)]
    fn first_pass(&self, rule: &IngressRule, batch: &mut Batch, lookups: &mut Lookups) -> u64 {
        let mut bytes = 0;
        for (packet, lookup) in batch.iter_mut().zip(&mut lookups.0) {
            bytes += packet.len() as u64;
            *lookup = match rule.examine(packet) {
                Ok((Class::PlainV4, _)) => Lookup::V4(begin(&self.v4.table, packet)),
                Ok((Class::PlainV6, _)) => Lookup::V6(begin(&self.v6.table, packet)),
                Ok((Class::Bridged, frame)) => {
                    self.core.stages.bridge.fdb.touch(rule.network, frame.destination);
                    Lookup::Bridged(frame.destination, frame.source)
                }
                Ok((class, frame)) => Lookup::Care(class, (frame.destination, frame.source)),
                Err(reason) => Lookup::Drop(reason),
            };
        }
        bytes
    }

    #[inline(always)]
    fn second_pass(&self, count: usize, lookups: &mut Lookups) {
        for lookup in lookups.0.iter_mut().take(count) {
            match lookup {
                Lookup::V4(look) => look.candidate = self.v4.table.candidate(look.hash, look.lanes),
                Lookup::V6(look) => look.candidate = self.v6.table.candidate(look.hash, look.lanes),
                _ => {}
            }
        }
    }

    #[inline(always)]
    fn third_pass(&mut self, rule: &IngressRule, batch: &mut Batch, lookups: &Lookups) {
        let mut hits = 0;
        for (mut packet, lookup) in batch.drain(..).zip(&lookups.0) {
            match lookup {
                Lookup::V4(look) => {
                    let core = &mut self.core;
                    match repeat::<V4>(core, &mut self.v4.table, look, &mut packet) {
                        Some(port) => {
                            hits += 1;
                            core.send(port, packet);
                        }
                        None => self.v4.route(core, packet, 0),
                    }
                }
                Lookup::V6(look) => {
                    let core = &mut self.core;
                    match repeat::<V6>(core, &mut self.v6.table, look, &mut packet) {
                        Some(port) => {
                            hits += 1;
                            core.send(port, packet);
                        }
                        None => self.v6.route(core, packet, 0),
                    }
                }
                &Lookup::Bridged(destination, source) => {
                    hits += u64::from(self.core.carry_frame(rule, packet, destination, source));
                }
                &Lookup::Care(class, frame) => self.take_care(rule, class, packet, frame),
                &Lookup::Drop(reason) => self.core.drop(packet, reason),
            }
        }
        self.core.counters.worker.hits.add(hits);
        self.route_released();
    }

    #[cold]
    fn take_care(&mut self, rule: &IngressRule, class: Class, packet: Packet, frame: (u64, u64)) {
        match class {
            Class::Arp => self.core.arp(packet, rule, frame),
            Class::NeighbourDiscovery => self.core.discovery(packet, rule, frame),
            _ => self.route(packet, 0),
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
fn begin<F: Edit>(table: &FlowTable<F>, packet: &Packet) -> KeyLookup<F::Addresses> {
    let key = plain_key::<F>(packet);
    let hash = table.hash(&key);
    KeyLookup { key, hash, lanes: table.probe(hash), candidate: None }
}

/// Repeats the decision of a known flow. `None`: there is none, or a guard fails.
#[inline(always)]
fn repeat<F: Edit>(
    core: &mut Core,
    table: &mut FlowTable<F>,
    look: &KeyLookup<F::Addresses>,
    packet: &mut Packet,
) -> Option<PortId> {
    let side = table.verify(look.candidate?, &look.key)?;
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
    /// A frame inside a network. True if the FDB knew its destination.
    #[inline(always)]
    fn carry_frame(
        &mut self,
        rule: &IngressRule,
        packet: Packet,
        destination: u64,
        source: u64,
    ) -> bool {
        if !rule.anti_spoofing && !rule.uplink && !self.hear(rule, source) {
            self.drop(packet, DropReason::StationFlapping);
            return false;
        }
        let generation = self.tables.generation;
        let fdb = &self.stages.bridge.fdb;
        match fdb.port_of(rule.network, destination, generation, self.tick) {
            Some(port) if port != rule.port && self.cache => {
                self.send_bridged(port, packet);
                true
            }
            _ => {
                self.bridge(packet, destination);
                false
            }
        }
    }
}
