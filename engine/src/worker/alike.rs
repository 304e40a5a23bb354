//! The shortest way: batches of ordinary IPv4 packets that are alike, as those of bulk streams are.
//!
//! Alike means: of one shape and one protocol, and in the third pass that they go one way. What
//! follows from that is worked out once per batch: where the window is, what the lengths in the
//! headers must be, the MAC addresses. The one hard constraint: these loops do for each packet
//! exactly what those of `batch` do. A loop ends with the first packet that is not like the others,
//! and `batch` goes on from there, so that where packets alternate no branch is hard to foresee.
//!
//! Packets go by twos: what a round of a loop costs is shared, and two look-ups are under way.

use super::Worker;
use super::lookup::{Alike, Found, Lookup, Lookups};
use crate::execute::{Edit, execute_plain_of};
use crate::flow::{AdjacencyId, FlowTable, Hasher, V4};
use crate::id::PortId;
use crate::ingress::IngressRule;
use crate::neighbour::Macs;
use crate::packet::Packet;
use crate::parse::{PLAIN_L3, PlainProtocol};
use crate::time::Tick;

impl Worker {
    /// The first pass while packets are like the first one and nothing is special about them;
    /// returns how many were.
    pub(super) fn glance_while_alike<const CHECKED: bool>(
        &self,
        rule: &IngressRule,
        packets: &[Packet],
        lookups: &mut Lookups,
        found: &mut Found,
    ) -> usize {
        let Some(alike) = packets.first().and_then(Alike::of) else { return 0 };
        let lookups = &mut lookups.all[..packets.len()];
        let count = match alike.protocol {
            PlainProtocol::Udp => self.glance::<CHECKED, false>(rule, alike, packets, lookups),
            PlainProtocol::Tcp => self.glance::<CHECKED, true>(rule, alike, packets, lookups),
        };
        found.bytes += (alike.shape.head_bytes() * count) as u64;
        found.routed |= count > 0;
        found.alike = (count == packets.len()).then_some(alike);
        count
    }

    #[inline(never)]
    fn glance<const CHECKED: bool, const TCP: bool>(
        &self,
        rule: &IngressRule,
        alike: Alike,
        packets: &[Packet],
        lookups: &mut [Lookup],
    ) -> usize {
        let key = rule.key_of(alike.protocol_of::<TCP>());
        let common = Common { alike, rule: *rule, key, hasher: self.v4.table.hasher() };
        let mut count = 0;
        let (pairs, last) = packets.as_chunks::<2>();
        let (lookup_pairs, lookup_last) = lookups.as_chunks_mut::<2>();
        for ([one, other], [one_lookup, other_lookup]) in pairs.iter().zip(lookup_pairs) {
            if !common.glance::<CHECKED, TCP>(one, one_lookup) {
                return count;
            }
            if !common.glance::<CHECKED, TCP>(other, other_lookup) {
                return count + 1;
            }
            count += 2;
        }
        if let ([packet], [lookup]) = (last, lookup_last) {
            count += usize::from(common.glance::<CHECKED, TCP>(packet, lookup));
        }
        count
    }

    /// Repeats decisions while packets, all of which are alike, go the way of the first one.
    /// Returns how many did, and the port.
    pub(super) fn repeat_while_alike(
        &mut self,
        packets: &mut [Packet],
        lookups: &[Lookup],
        alike: Alike,
    ) -> (usize, PortId) {
        let (core, table) = (&self.core, &mut self.v4.table);
        let id = lookups.first().map(|lookup| table.side(lookup.side).action().adjacency);
        let adjacency = id.and_then(|id| core.neighbours.get(id)).filter(|known| known.resolved);
        let (Some(id), Some(adjacency)) = (id, adjacency) else { return (0, PortId::default()) };
        let hop = Hop { alike, id, macs: adjacency.macs(), stamp: core.stamp, tick: core.tick };
        let lookups = &lookups[..packets.len()];
        let count = match alike.protocol {
            PlainProtocol::Udp => repeat::<false>(table, &hop, packets, lookups),
            PlainProtocol::Tcp => repeat::<true>(table, &hop, packets, lookups),
        };
        (count, adjacency.port)
    }
}

#[inline(never)]
fn repeat<const TCP: bool>(
    table: &mut FlowTable<V4>,
    hop: &Hop,
    packets: &mut [Packet],
    lookups: &[Lookup],
) -> usize {
    let hop = *hop;
    let mut count = 0;
    let (pairs, last) = packets.as_chunks_mut::<2>();
    let (lookup_pairs, lookup_last) = lookups.as_chunks::<2>();
    for ([one, other], [one_lookup, other_lookup]) in pairs.iter_mut().zip(lookup_pairs) {
        if !hop.repeat::<TCP>(table, one, one_lookup) {
            return count;
        }
        if !hop.repeat::<TCP>(table, other, other_lookup) {
            return count + 1;
        }
        count += 2;
    }
    if let ([packet], [lookup]) = (last, lookup_last) {
        count += usize::from(hop.repeat::<TCP>(table, packet, lookup));
    }
    count
}

impl Alike {
    /// The protocol, as the compiler knows it.
    #[inline(always)]
    fn protocol_of<const TCP: bool>(self) -> PlainProtocol {
        match TCP {
            true => PlainProtocol::Tcp,
            false => PlainProtocol::Udp,
        }
    }
}

/// What the first pass needs for each packet.
#[derive(Clone, Copy)]
struct Common {
    alike: Alike,
    rule: IngressRule,
    key: u64,
    hasher: Hasher<V4>,
}

impl Common {
    /// False: not alike, or not what a glance recognises.
    #[inline(always)]
    fn glance<const CHECKED: bool, const TCP: bool>(
        &self,
        packet: &Packet,
        lookup: &mut Lookup,
    ) -> bool {
        let shape = self.alike.shape;
        let protocol = self.alike.protocol_of::<TCP>();
        let window = packet.window_of(shape);
        let right = packet.shape() == shape
            && self.rule.glance_at::<CHECKED>(window, shape.head_bytes(), protocol);
        if right {
            lookup.note_plain(window, self.key, self.hasher);
        }
        right
    }
}

/// What the third pass needs for each packet.
#[derive(Clone, Copy)]
struct Hop {
    alike: Alike,
    /// Where the first packet goes.
    id: AdjacencyId,
    macs: Macs,
    stamp: u32,
    tick: Tick,
}

impl Hop {
    /// False: a guard fails or the packet goes another way, and nothing was done.
    #[inline(always)]
    fn repeat<const TCP: bool>(
        &self,
        table: &mut FlowTable<V4>,
        packet: &mut Packet,
        lookup: &Lookup,
    ) -> bool {
        let shape = self.alike.shape;
        let side = table.side_mut(lookup.side);
        let window = packet.window_of_mut(shape);
        let ip_bytes = shape.head_bytes() as u16 - PLAIN_L3 as u16;
        let right = side.stamp == self.stamp
            && ip_bytes <= side.action().mtu
            && side.action().adjacency == self.id
            && V4::ttl_plain(window) > 1;
        if right {
            side.count(shape.head_bytes(), self.tick);
            let protocol = self.alike.protocol_of::<TCP>();
            let (action, expected) = side.action_and_expected();
            execute_plain_of::<V4>(window, protocol, false, action, expected, self.macs);
        }
        right
    }
}
