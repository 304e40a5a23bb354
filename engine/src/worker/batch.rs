//! The short way: a batch from one port, in three passes.
//!
//! 1. Glance at each packet: check its sender, find a frame's port, compute a flow's key and hash.
//! 2. Find the flows.
//! 3. Check the guards, edit, send. What does not fit goes the long way, in order.
//!
//! The passes exist so that the memory of many flows is fetched at once: the second is so short
//! that a processor has the look-ups of several packets under way. Until the first packet that goes
//! the long way nothing but the packets and their flows' counters changes, so what was looked up
//! before stays true; from there on each packet is looked up anew.

use std::ops::Range;

use super::Worker;
use super::core::Core;
use super::decap::is_tunnelled;
use super::flows::plain_key;
use super::lookup::{Alike, Found, Lookup, Lookups, Ports, Way, mark_plain};
use crate::counters::DropReason;
use crate::execute::{Edit, execute_plain, fits_plain};
use crate::flow::{ActionKind, FlowKey, FlowTable, SideId, V4, V6};
use crate::id::PortId;
use crate::ingress::{Class, Glance, IngressRule};
use crate::packet::{BATCH_LEN, Batch, Notes, Offload, Packet};
use crate::parse::PLAIN_L3;
use crate::port::PortSet;
use crate::trace::Origin;
use crate::wire::tcp;
use crate::worker::Event;

impl Worker {
    /// Receives one batch from a port and carries it through.
    pub(super) fn receive(&mut self, id: PortId, ready: &mut PortSet) -> usize {
        let Some(mut lookups) = self.lookups.take() else {
            return self.receive_traced(id, ready);
        };
        let Some(mut batch) = self.batch.take() else { return 0 };
        self.take_in(id, &mut batch, ready);
        let count = batch.len();
        if count > 0 {
            self.carry_batch(id, &mut batch, &mut lookups);
            debug_assert!(batch.is_empty(), "every packet went somewhere");
        }
        self.batch = Some(batch);
        self.lookups = Some(lookups);
        count
    }

    /// Receives one batch from a port.
    #[inline(always)]
    pub(super) fn take_in(&mut self, id: PortId, batch: &mut Batch, ready: &mut PortSet) {
        let mut has_more = false;
        if let Some(port) = self.core.egress.port(id) {
            port.rx(&mut self.core.frames, batch);
            let (rejected, missed) = (port.take_rejected(), port.take_missed());
            has_more = port.has_more();
            let alive = port.alive();
            if rejected > 0 {
                self.core.counters.dropped(DropReason::MalformedOffload).add(rejected);
            }
            if missed > 0 {
                self.core.counters.dropped(DropReason::IngressFull).add(missed);
            }
            if !alive {
                self.core.event(Event::PortDown(id));
            }
        }
        // Fewer than fit means that nothing more waits, unless the frames have run out.
        if batch.len() < BATCH_LEN && !has_more && self.core.frames.count().0 > 0 {
            ready.remove(id);
        }
    }

    /// Carries a batch from one port through.
    pub(super) fn carry_batch(
        &mut self,
        id: PortId,
        batch: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        let Some(rule) = self.core.rule(id).copied() else {
            batch.drain(..).for_each(|packet| self.core.drop(packet, DropReason::PortGone));
            return;
        };
        if rule.lanes {
            return self.carry_lanes(&rule, batch, lookups);
        }
        let opens =
            rule.tunnels || self.core.egress.gives_tunnelled(id) && batch.iter().any(is_tunnelled);
        match opens {
            true => self.carry_opened(&rule, batch, lookups),
            false => self.carry_run(&rule, batch, lookups),
        }
    }

    /// Carries packets through that came in by one port.
    pub(super) fn carry_run(
        &mut self,
        rule: &IngressRule,
        batch: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        let id = rule.port;
        let found = match rule.anti_spoofing {
            true => self.first_pass::<true>(rule, batch, lookups),
            false => self.first_pass::<false>(rule, batch, lookups),
        };
        if let Some(port) = self.core.counters.port(id) {
            port.rx_packets.add(batch.len() as u64);
            port.rx_bytes.add(found.bytes);
        }
        let (hits, one_egress) = match (self.core.cache, found.routed) {
            (false, _) => (0, false),
            (true, true) => match self.second_pass(batch.len(), found.all_plain_v4, lookups) {
                true => self.third_pass_v4(batch, lookups, found.alike),
                false => self.third_pass(batch, lookups),
            },
            (true, false) => (batch.len(), found.ports.are_one()),
        };
        self.core.counters.worker.hits.add(hits as u64);
        let whole = hits == batch.len() && one_egress && !found.special;
        if whole {
            let egress = lookups.all[0].egress;
            if self.core.send_all(rule, batch, egress, found.bytes) {
                return;
            }
            // Of packets that are alike only the first one's port was noted.
            lookups.all[..hits].iter_mut().for_each(|lookup| lookup.egress = egress);
        }
        self.dispose(rule, batch, lookups, hits);
    }

    fn first_pass<const CHECKED: bool>(
        &self,
        rule: &IngressRule,
        batch: &mut Batch,
        lookups: &mut Lookups,
    ) -> Found {
        let mut found = Found { all_plain_v4: true, ..Found::default() };
        let mut done = self.glance_while_alike::<CHECKED>(rule, batch, lookups, &mut found);
        if done < batch.len() {
            let (packets, lookups) = (&batch[done..], &mut lookups.all[done..]);
            done += self.glance_at_plain::<CHECKED>(rule, packets, lookups, &mut found);
        }
        if done < batch.len() {
            found.all_plain_v4 = false;
            mark_plain(&mut lookups.all[..done]);
        }
        while done < batch.len() {
            if CHECKED {
                let (packets, lookups) = (&batch[done..], &mut lookups.all[done..]);
                done += self.glance_at_frames::<false>(rule, packets, lookups, &mut found);
            } else if rule.trunk {
                let (packets, lookups) = (&batch[done..], &mut lookups.all[done..]);
                done += self.glance_at_frames::<true>(rule, packets, lookups, &mut found);
            }
            done = self.glance_at_others::<CHECKED>(rule, batch, lookups, done, &mut found);
            let (packets, lookups) = (&batch[done..], &mut lookups.all[done..]);
            let count = self.glance_at_plain::<CHECKED>(rule, packets, lookups, &mut found);
            mark_plain(&mut lookups[..count]);
            done += count;
        }
        found
    }

    /// The first pass until a packet is not [`Way::V4`]; returns how many were.
    #[inline(never)]
    fn glance_at_plain<const CHECKED: bool>(
        &self,
        rule: &IngressRule,
        packets: &[Packet],
        lookups: &mut [Lookup],
        found: &mut Found,
    ) -> usize {
        let (rule, hasher) = (*rule, self.v4.table.hasher());
        let (mut count, mut all_bytes) = (0, 0);
        for (packet, lookup) in packets.iter().zip(lookups) {
            let (bytes, window) = (packet.head_bytes(), packet.window());
            if !packet.is_ordinary() {
                break;
            }
            let Glance::PlainV4(transport) = rule.glance::<CHECKED>(window, bytes) else { break };
            lookup.note_plain(window, transport, hasher);
            all_bytes += bytes as u64;
            count += 1;
        }
        found.bytes += all_bytes;
        found.routed |= count > 0;
        count
    }

    /// The same for [`Way::Bridged`], of what a member sends or what came out of a tunnel
    /// (`BEYOND`), which never goes into another.
    #[inline(never)]
    fn glance_at_frames<const BEYOND: bool>(
        &self,
        rule: &IngressRule,
        packets: &[Packet],
        lookups: &mut [Lookup],
        found: &mut Found,
    ) -> usize {
        let (rule, core) = (*rule, &self.core);
        let (mut count, mut all_bytes, mut ports) = (0, 0, found.ports);
        for (packet, lookup) in packets.iter().zip(lookups) {
            let (bytes, window) = (packet.head_bytes(), packet.window());
            if !packet.is_ordinary() {
                break;
            }
            let glance = match BEYOND {
                true => rule.glance_beyond(window, bytes),
                false => rule.glance::<true>(window, bytes),
            };
            let Glance::Bridged(destination) = glance else { break };
            let Some(port) = core.frame_port_likely(&rule, destination) else { break };
            if BEYOND && core.tunnels.has(port) {
                break;
            }
            lookup.egress = port;
            lookup.way = Way::Bridged;
            ports.add(port);
            all_bytes += bytes as u64;
            count += 1;
        }
        found.bytes += all_bytes;
        found.ports = ports;
        count
    }

    /// The first pass from the packet at `index` on, until one was of the commonest shapes; returns
    /// where to go on.
    #[inline(never)]
    fn glance_at_others<const CHECKED: bool>(
        &self,
        rule: &IngressRule,
        batch: &mut Batch,
        lookups: &mut Lookups,
        mut index: usize,
        found: &mut Found,
    ) -> usize {
        while let Some(packet) = batch.get_mut(index) {
            let lookup = &mut lookups.all[index];
            let glance = match packet.is_ordinary() {
                true => rule.glance::<CHECKED>(packet.window(), packet.head_bytes()),
                false => Glance::Unclear,
            };
            found.special |= !packet.is_ordinary();
            if let Glance::PlainV4(_) = glance {
                return index;
            }
            index += 1;
            found.bytes += packet.len() as u64;
            let Glance::Bridged(destination) = glance else {
                found.routed = true;
                let key_v6 = &mut lookups.keys_v6[index - 1];
                self.look_closely(rule, packet, lookup, key_v6);
                continue;
            };
            let Some(port) = self.core.frame_port(rule, destination) else {
                found.routed = true;
                lookup.way = Way::Long;
                continue;
            };
            lookup.egress = port;
            lookup.way = Way::Bridged;
            found.ports.add(port);
            return index;
        }
        index
    }

    /// The first pass for a packet that is not of the commonest shapes.
    #[inline(never)]
    fn look_closely(
        &self,
        rule: &IngressRule,
        packet: &mut Packet,
        lookup: &mut Lookup,
        key_v6: &mut FlowKey<[u128; 2]>,
    ) {
        lookup.way = Way::Long;
        match rule.examine(packet) {
            Ok(Class::PlainV4) => {
                lookup.way = if packet.is_ordinary() { Way::V4 } else { Way::SpecialV4 };
                lookup.key_v4 = plain_key::<V4>(packet.window(), rule);
                lookup.hash = self.v4.table.hash(&lookup.key_v4);
            }
            Ok(Class::PlainV6) => {
                lookup.way = Way::V6;
                *key_v6 = plain_key::<V6>(packet.window(), rule);
                lookup.hash = self.v6.table.hash(key_v6);
            }
            Ok(Class::Bridged) => {
                if let Some(port) = self.core.repeat_frame(rule, packet) {
                    lookup.egress = port;
                    lookup.way = Way::Bridged;
                }
            }
            _ => {}
        }
        if packet.meta.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
            lookup.way = lookup.way.without_flow();
        }
    }

    /// True if every packet is ordinary IPv4 with a flow.
    fn second_pass(&self, count: usize, all_plain_v4: bool, lookups: &mut Lookups) -> bool {
        let found = if all_plain_v4 { self.find_plain_v4(&mut lookups.all[..count]) } else { 0 };
        if found < count {
            if all_plain_v4 {
                mark_plain(&mut lookups.all[..count]);
            }
            self.find_rest(found..count, lookups);
        }
        found == count
    }

    /// Finds the flows of packets that all are [`Way::V4`] until one has none; returns how many.
    fn find_plain_v4(&self, lookups: &mut [Lookup]) -> usize {
        let mut found = self.find_likely_v4(lookups);
        while let Some(lookup) = lookups.get_mut(found) {
            match self.v4.table.find(&lookup.key_v4) {
                Some(side) => lookup.side = side,
                None => return found,
            }
            found += 1;
            found += self.find_likely_v4(&mut lookups[found..]);
        }
        found
    }

    /// The same until a flow is not where it is found most quickly. Nothing is called from here, so
    /// that all it needs stays in registers; by twos, so that what a round costs is shared.
    #[inline(never)]
    fn find_likely_v4(&self, lookups: &mut [Lookup]) -> usize {
        let table = self.v4.table.view();
        let find = |lookup: &mut Lookup| {
            let found = table.find_likely(lookup.hash, &lookup.key_v4);
            if let Some(side) = found {
                lookup.side = side;
            }
            found.is_some()
        };
        let mut count = 0;
        let (pairs, last) = lookups.as_chunks_mut::<2>();
        for [one, other] in pairs {
            if !find(one) {
                return count;
            }
            if !find(other) {
                return count + 1;
            }
            count += 2;
        }
        if let [lookup] = last {
            count += usize::from(find(lookup));
        }
        count
    }

    #[inline(never)]
    fn find_rest(&self, range: Range<usize>, lookups: &mut Lookups) {
        let keys_v6 = &lookups.keys_v6[range.clone()];
        for (lookup, key_v6) in lookups.all[range].iter_mut().zip(keys_v6) {
            let side = match lookup.way {
                Way::V4 => self.v4.table.find_hashed(lookup.hash, &lookup.key_v4),
                Way::SpecialV4 => self.v4.table.find(&lookup.key_v4),
                Way::V6 => self.v6.table.find_hashed(lookup.hash, key_v6),
                _ => continue,
            };
            match side {
                Some(side) => lookup.side = side,
                None => lookup.way = lookup.way.without_flow(),
            }
        }
    }

    /// Repeats decisions in place until a packet has none; returns how many had, and whether they
    /// all leave by one port.
    #[inline(never)]
    fn third_pass(&mut self, batch: &mut Batch, lookups: &mut Lookups) -> (usize, bool) {
        let core = &self.core;
        let (mut count, mut ports) = (0, Ports::default());
        for (packet, lookup) in batch.iter_mut().zip(&mut lookups.all) {
            let (v4, v6) = (&mut self.v4.table, &mut self.v6.table);
            let egress = match lookup.way {
                Way::Bridged => Some(lookup.egress),
                Way::V4 | Way::SpecialV4 => repeat::<V4, false>(core, v4, lookup.side, packet),
                Way::V6 => repeat::<V6, false>(core, v6, lookup.side, packet),
                Way::NewV4 | Way::NewV6 | Way::Long => None,
            };
            let Some(egress) = egress else { break };
            ports.add(egress);
            lookup.egress = egress;
            count += 1;
        }
        (count, ports.are_one())
    }

    /// [`third_pass`](Self::third_pass) for a batch of ordinary IPv4 packets with flows, which are
    /// perhaps all alike.
    fn third_pass_v4(
        &mut self,
        batch: &mut [Packet],
        lookups: &mut Lookups,
        alike: Option<Alike>,
    ) -> (usize, bool) {
        let (mut count, mut ports) = (0, Ports::default());
        if let Some(alike) = alike {
            let first = self.repeat_while_alike(batch, &lookups.all, alike);
            count = first.0;
            lookups.all[0].egress = first.1;
            if count == batch.len() {
                return (count, true);
            }
            for lookup in &mut lookups.all[..count] {
                lookup.egress = first.1;
                ports.add(first.1);
            }
        }
        count += self.repeat_v4(&mut batch[count..], &mut lookups.all[count..], &mut ports);
        (count, count == batch.len() && ports.are_one())
    }

    /// Repeats decisions of ordinary IPv4 packets with flows; returns how many had one.
    #[inline(never)]
    fn repeat_v4(
        &mut self,
        batch: &mut [Packet],
        lookups: &mut [Lookup],
        ports: &mut Ports,
    ) -> usize {
        let (core, table) = (&self.core, &mut self.v4.table);
        let (mut count, mut all) = (0, *ports);
        for (packet, lookup) in batch.iter_mut().zip(lookups) {
            let Some(egress) = repeat::<V4, true>(core, table, lookup.side, packet) else { break };
            lookup.egress = egress;
            all.add(egress);
            count += 1;
        }
        *ports = all;
        count
    }

    /// Sends the packets that have a decision, `hits` from the front, and carries the rest one by
    /// one in their order.
    #[inline(never)]
    fn dispose(&mut self, rule: &IngressRule, batch: &mut Batch, lookups: &Lookups, hits: usize) {
        self.fetch_begins(rule.network, lookups, hits..batch.len());
        for (index, (mut packet, lookup)) in batch.drain(..).zip(&lookups.all).enumerate() {
            if index < hits {
                self.core.send_gathered(rule, lookup.egress, packet);
                continue;
            }
            match rule.examine(&mut packet) {
                Ok(class) => match self.repeat_alone(rule, class, &mut packet) {
                    Some(egress) => {
                        self.core.counters.worker.hits.add(1);
                        self.core.send_gathered(rule, egress, packet);
                    }
                    None => {
                        self.core.send_what_is_gathered();
                        self.take_care(rule, class, packet);
                    }
                },
                Err(reason) => self.core.drop(packet, reason),
            }
        }
        self.core.send_what_is_gathered();
        self.route_released();
    }

    /// Repeats the decision for one examined packet, if there is one.
    fn repeat_alone(
        &mut self,
        rule: &IngressRule,
        class: Class,
        packet: &mut Packet,
    ) -> Option<PortId> {
        let core = &self.core;
        let changes_state = packet.meta.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
        match class {
            _ if !core.cache => None,
            Class::Bridged => core.repeat_frame(rule, packet),
            Class::PlainV4 if !changes_state => {
                let side = self.v4.table.find(&plain_key::<V4>(packet.window(), rule))?;
                repeat::<V4, false>(core, &mut self.v4.table, side, packet)
            }
            Class::PlainV6 if !changes_state => {
                let side = self.v6.table.find(&plain_key::<V6>(packet.window(), rule))?;
                repeat::<V6, false>(core, &mut self.v6.table, side, packet)
            }
            _ => None,
        }
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
        if !self.core.crossing.is_empty() {
            self.route_crossing();
        }
    }

    /// Packets that waited for a neighbour which is known now.
    pub(super) fn route_released(&mut self) {
        while !self.core.released.is_empty() {
            let mut released = std::mem::take(&mut self.core.released);
            for packet in released.drain(..) {
                match (packet.meta.notes.any(Notes::IN_TUNNEL), self.tracer.is_some()) {
                    (true, _) => self.core.send_again(packet),
                    (false, false) => self.route(packet, 0),
                    (false, true) => self.route_traced(packet, 0, Origin::Waited),
                }
            }
            // The vector's memory is kept; what was released meanwhile goes next.
            if self.core.released.is_empty() {
                self.core.released = released;
                return;
            }
        }
    }
}

/// Repeats the decision of a known flow for a plain packet that changes no TCP state. `None`: a
/// guard fails, and nothing was done. `ORDINARY`: the packet has neither offload nor tail.
#[inline(always)]
fn repeat<F: Edit, const ORDINARY: bool>(
    core: &Core,
    table: &mut FlowTable<F>,
    side: SideId,
    packet: &mut Packet,
) -> Option<PortId> {
    let side = table.side_mut(side);
    let fresh = side.stamp == core.stamp;
    // The MTU of a hand-over, and while TCP opens or closes, is 0, so that nothing fits.
    let fits = match ORDINARY {
        true => packet.head_bytes() as u16 - PLAIN_L3 as u16 <= side.action().mtu,
        false => fits_plain(packet, side.action().mtu),
    };
    if !(fresh && fits) {
        return None;
    }
    debug_assert_eq!(side.action().kind, ActionKind::Forward);
    let adjacency = core.neighbours.get(side.action().adjacency).filter(|known| known.resolved)?;
    let bytes = if ORDINARY { packet.head_bytes() } else { packet.len() };
    let partial = !ORDINARY && packet.offload() != Offload::None;
    let window = packet.window_mut();
    if F::ttl_plain(window) <= 1 {
        return None;
    }
    side.count(bytes, core.tick);
    let (action, expected) = side.action_and_expected();
    execute_plain::<F>(window, partial, action, expected, adjacency.macs());
    Some(adjacency.port)
}
