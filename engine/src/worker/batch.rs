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
use super::flows::key_of;
use crate::counters::DropReason;
use crate::execute::{Edit, execute, fits};
use crate::flow::{ActionKind, FlowKey, FlowTable, Lanes, SideId, V4, V6};
use crate::id::PortId;
use crate::ingress::{Class, IngressRule};
use crate::packet::{BATCH_LEN, Batch, Notes, Packet};
use crate::parse::Ethernet;
use crate::port::PortSet;
use crate::worker::Event;

/// What pass 1 found out about a packet.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Dead already.
    Drop(DropReason),
    /// One of the classes of ingress.
    Known(Class),
}

/// What passes hand on to each other, one entry a packet.
#[derive(Debug)]
pub(super) struct Lookups {
    steps: [Step; BATCH_LEN],
    frames: [(u64, u64); BATCH_LEN],
    hashes: [u64; BATCH_LEN],
    lanes: [Lanes; BATCH_LEN],
    candidates: [Option<SideId>; BATCH_LEN],
    keys_v4: [FlowKey<u64>; BATCH_LEN],
    keys_v6: [FlowKey<[u128; 2]>; BATCH_LEN],
}

impl Default for Lookups {
    fn default() -> Lookups {
        Lookups {
            steps: [Step::Drop(DropReason::Truncated); BATCH_LEN],
            frames: [(0, 0); BATCH_LEN],
            hashes: [0; BATCH_LEN],
            lanes: [Lanes::default(); BATCH_LEN],
            candidates: [None; BATCH_LEN],
            keys_v4: [FlowKey::default(); BATCH_LEN],
            keys_v6: [FlowKey::default(); BATCH_LEN],
        }
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
        for (index, packet) in batch.iter_mut().enumerate() {
            bytes += packet.len() as u64;
            let step = match rule.examine(packet) {
                Ok((class, frame)) => {
                    let Ethernet { destination, source, .. } = frame;
                    lookups.frames[index] = (destination, source);
                    self.look_up(index, class, packet, destination, lookups)
                }
                Err(reason) => Step::Drop(reason),
            };
            lookups.steps[index] = step;
        }
        bytes
    }

    #[inline(always)]
    fn look_up(
        &self,
        index: usize,
        class: Class,
        packet: &Packet,
        destination: u64,
        lookups: &mut Lookups,
    ) -> Step {
        match class {
            Class::RoutedV4 => {
                let Some(key) = key_of::<V4>(packet) else {
                    return Step::Drop(DropReason::Truncated);
                };
                let hash = self.v4.table.hash(&key);
                lookups.keys_v4[index] = key;
                lookups.hashes[index] = hash;
                lookups.lanes[index] = self.v4.table.probe(hash);
            }
            Class::RoutedV6 => {
                let Some(key) = key_of::<V6>(packet) else {
                    return Step::Drop(DropReason::Truncated);
                };
                let hash = self.v6.table.hash(&key);
                lookups.keys_v6[index] = key;
                lookups.hashes[index] = hash;
                lookups.lanes[index] = self.v6.table.probe(hash);
            }
            Class::Bridged => {
                self.core.stages.bridge.fdb.touch(packet.meta.network, destination);
            }
            _ => {}
        }
        Step::Known(class)
    }

    #[inline(always)]
    fn second_pass(&self, count: usize, lookups: &mut Lookups) {
        for index in 0..count.min(BATCH_LEN) {
            let (hash, lanes) = (lookups.hashes[index], lookups.lanes[index]);
            lookups.candidates[index] = match lookups.steps[index] {
                Step::Known(Class::RoutedV4) => self.v4.table.candidate(hash, lanes),
                Step::Known(Class::RoutedV6) => self.v6.table.candidate(hash, lanes),
                _ => None,
            };
        }
    }

    #[inline(always)]
    fn third_pass(&mut self, rule: &IngressRule, batch: &mut Batch, lookups: &Lookups) {
        let mut hits = 0;
        for (index, mut packet) in batch.drain(..).enumerate() {
            let index = index & (BATCH_LEN - 1);
            let candidate = lookups.candidates[index];
            match lookups.steps[index] {
                Step::Known(Class::RoutedV4) => {
                    let (core, key) = (&mut self.core, &lookups.keys_v4[index]);
                    let table = &mut self.v4.table;
                    match repeat::<V4>(core, table, candidate, key, &mut packet) {
                        Some(port) => {
                            hits += 1;
                            core.send(port, packet);
                        }
                        None => self.v4.route(core, packet, 0),
                    }
                }
                Step::Known(Class::RoutedV6) => {
                    let (core, key) = (&mut self.core, &lookups.keys_v6[index]);
                    let table = &mut self.v6.table;
                    match repeat::<V6>(core, table, candidate, key, &mut packet) {
                        Some(port) => {
                            hits += 1;
                            core.send(port, packet);
                        }
                        None => self.v6.route(core, packet, 0),
                    }
                }
                Step::Known(Class::Bridged) => {
                    hits += u64::from(self.core.carry_frame(rule, packet, lookups.frames[index]));
                }
                Step::Known(class) => self.take_care(rule, class, packet, lookups.frames[index]),
                Step::Drop(reason) => self.core.drop(packet, reason),
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

/// Repeats the decision of a known flow. `None`: there is none, or a guard fails.
#[inline(always)]
fn repeat<F: Edit>(
    core: &mut Core,
    table: &mut FlowTable<F>,
    candidate: Option<SideId>,
    key: &FlowKey<F::Addresses>,
    packet: &mut Packet,
) -> Option<PortId> {
    let side = table.verify(candidate?, key)?;
    let action = &side.action;
    let fresh = side.generation == core.tables.generation as u32 && core.cache;
    let alive = F::ttl(packet.head(), usize::from(packet.meta.l3)) > 1;
    let settled = side.tcp.keeps(packet.meta.tcp_flags);
    let forward = action.kind == ActionKind::Forward;
    if !(fresh && alive && settled && forward && fits(packet, action.mtu)) {
        return None;
    }
    let adjacency = core.neighbours.get(action.adjacency).filter(|known| known.resolved)?;
    side.last_seen = core.tick;
    side.packets = side.packets.wrapping_add(1);
    side.bytes += packet.len() as u64;
    execute::<F>(packet, &side.action, adjacency, true);
    Some(adjacency.port)
}

impl Core {
    /// A frame inside a network. True if the FDB knew its destination.
    #[inline(always)]
    fn carry_frame(&mut self, rule: &IngressRule, packet: Packet, frame: (u64, u64)) -> bool {
        let (destination, source) = frame;
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
