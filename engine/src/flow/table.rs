//! The flow table of one address family: two-sided flows in fixed memory.
//!
//! Flow `n` has its original direction in side `2n` and its reply in side `2n + 1`. A side is what
//! a packet needs to be repeated: key, action, guards, last-seen, TCP state; one cache line for
//! IPv4, two for IPv6. What only decisions need lies in [`Cold`]. Both sides are found through one
//! [`Index`]. A flow with one side is a stub: packets with its key belong to another worker.
//!
//! Nothing here knows why a flow was decided as it was; nothing allocates after [`FlowTable::new`].

use std::marker::PhantomData;

use super::index::{Index, IndexView, mix, seed_for};
use super::key::{Family, FlowInput, FlowKey};
use super::order::{Class, Order};
use super::track::{Expected, TcpState};
use super::wheel::Wheel;
use crate::id::PortId;
use crate::id::WorkerId;
use crate::stage::Parts;
use crate::time::Tick;

/// Names one direction of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SideId(pub(crate) u32);

/// Names a flow of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowId(pub(crate) u32);

impl SideId {
    pub(crate) fn flow(self) -> FlowId {
        FlowId(self.0 >> 1)
    }

    pub(crate) fn is_original(self) -> bool {
        self.0 & 1 == 0
    }
}

impl FlowId {
    pub(crate) fn original(self) -> SideId {
        SideId(self.0 << 1)
    }

    pub(crate) fn reply(self) -> SideId {
        SideId(self.0 << 1 | 1)
    }
}

/// Names an entry of the worker's adjacencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdjacencyId(pub(crate) u32);

impl AdjacencyId {
    /// What turns round has no neighbour. No table has so many, so the short way finds none.
    pub(crate) const TURN: AdjacencyId = AdjacencyId(u32::MAX);
}

/// What to do with a packet of a known key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ActionKind {
    /// Edit and send.
    #[default]
    Forward,
    /// Another worker owns the flow.
    HandOver,
    /// Build the header of the other address family and send; never on the short way.
    Translate,
}

/// A decision in the form that the executor repeats: plain, of fixed size, free of pointers. What
/// goes into packets is kept as it is loaded and stored, without a change of byte order; the sums
/// of checksums do not mind (RFC 1071 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FlowAction<A> {
    /// Source and destination address on the way out.
    pub(crate) addresses: A,
    /// Source and destination port on the way out, packed as in the key.
    pub(crate) ports: u32,
    /// Where to, and with which MAC addresses.
    pub(crate) adjacency: AdjacencyId,
    /// What the change of addresses and the lowered TTL add to a header checksum's complement.
    pub(crate) header_delta: u16,
    /// The complement of what the change of addresses and ports adds.
    pub(crate) transport_inverse: u16,
    /// Guard: largest IP packet that may take this action. In a side: 0, so that none fits, while
    /// packets without SYN, FIN and RST may change the flow's state; [`FlowTable::action`] has it.
    pub(crate) mtu: u16,
    pub(crate) kind: ActionKind,
    /// For a hand-over: to whom. Of a flow's side: its [`TcpState`], for [`Side::tcp`].
    pub(crate) worker: u8,
}

const _: () = assert!(size_of::<FlowAction<u64>>() == 24, "an IPv4 action leaves room for the key");

impl<A: Default> FlowAction<A> {
    /// Hands packets over to the worker that owns the flow.
    pub(crate) fn hand_over(worker: WorkerId) -> FlowAction<A> {
        FlowAction { kind: ActionKind::HandOver, worker: worker.0, ..FlowAction::default() }
    }
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Side<A> {
    addresses: A,
    transport: u64,
    action: FlowAction<A>,
    pub(crate) bytes: u64,
    pub(crate) packets: u32,
    pub(crate) last_seen: Tick,
    /// The worker's stamp under which the action was last found right.
    pub(crate) stamp: u32,
    /// TCP: what the side expects next of the other, as it is loaded from an acknowledgement.
    expected: u32,
}

const _: () = assert!(size_of::<Side<u64>>() == 64, "IPv4: one line");
const _: () = assert!(size_of::<Side<[u128; 2]>>() == 128, "IPv6: two lines");

impl<A: Copy + Eq> Side<A> {
    #[inline(always)]
    pub(crate) fn matches(&self, key: &FlowKey<A>) -> bool {
        // Not `&&`: one branch for both.
        (self.addresses == key.addresses) & (self.transport == key.transport)
    }

    /// False for a free place, and for the reply side of a stub.
    pub(crate) fn is_used(&self) -> bool {
        self.transport != 0
    }

    /// The action of the short way.
    #[inline(always)]
    pub(crate) fn action(&self) -> &FlowAction<A> {
        &self.action
    }

    /// Counts a packet.
    #[inline(always)]
    pub(crate) fn count(&mut self, bytes: usize, now: Tick) {
        self.last_seen = now;
        self.packets = self.packets.wrapping_add(1);
        self.bytes += bytes as u64;
    }

    /// The action of the short way, and where a TCP segment's acknowledgement is noted.
    #[inline(always)]
    pub(crate) fn action_and_expected(&mut self) -> (&FlowAction<A>, &mut u32) {
        (&self.action, &mut self.expected)
    }

    /// The state of the flow.
    pub(crate) fn tcp(&self) -> TcpState {
        match self.action.kind {
            ActionKind::Forward | ActionKind::Translate => TcpState::of(self.action.worker),
            ActionKind::HandOver => TcpState::None,
        }
    }

    pub(crate) fn key(&self) -> FlowKey<A> {
        FlowKey { addresses: self.addresses, transport: self.transport }
    }
}

/// What only decisions need of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cold {
    /// The input of its first packet. The stages run on it again when the tables changed.
    pub(crate) input: FlowInput,
    /// Whose share of the table it takes: its ingress port's, or of a trunk the tunnel's.
    pub(crate) share: PortId,
    /// The parts of the tables that the decision used.
    pub(crate) parts: Parts,
    /// The NAT mapping that it holds.
    pub(crate) mapping: Option<u32>,
    /// False for a stub.
    pub(crate) two_sided: bool,
    /// When its first packet came.
    pub(crate) started: Tick,
    /// What was known of the paths of both directions when it was decided.
    pub(crate) paths: [u16; 2],
    /// Largest segment size that a SYN of either direction may announce.
    pub(crate) mss_max: Option<u16>,
}

/// What is left of a flow that has ended, to be given back: see [`Cold`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) input: FlowInput,
    pub(crate) share: PortId,
    pub(crate) mapping: Option<u32>,
    pub(crate) two_sided: bool,
}

/// A direction of a flow, to be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSide<A> {
    pub(crate) key: FlowKey<A>,
    pub(crate) action: FlowAction<A>,
}

/// All flows of one address family.
#[derive(Debug)]
pub(crate) struct FlowTable<F: Family> {
    index: Index,
    sides: Box<[Side<F::Addresses>]>,
    /// The MTU of each side's action, also while the guard is closed.
    mtus: Box<[u16]>,
    cold: Box<[Option<Cold>]>,
    free: Vec<u32>,
    pub(crate) wheel: Wheel,
    pub(crate) order: Order,
    hasher: Hasher<F>,
}

/// Hashes keys with a secret seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher<F> {
    seeds: [u64; 2],
    family: PhantomData<F>,
}

impl<F: Family> Hasher<F> {
    #[inline(always)]
    pub(crate) fn hash(self, key: &FlowKey<F::Addresses>) -> u64 {
        mix(F::hash(key.addresses, self.seeds[0]), key.transport ^ self.seeds[1])
    }
}

/// The parts of a flow table that a look-up reads, at hand.
#[derive(Clone, Copy)]
pub(crate) struct FlowTableView<'t, F: Family> {
    index: IndexView<'t>,
    sides: &'t [Side<F::Addresses>],
}

impl<F: Family> FlowTableView<'_, F> {
    /// The side with this key, if it is the first candidate, which it nearly always is.
    #[inline(always)]
    pub(crate) fn find_likely(self, hash: u64, key: &FlowKey<F::Addresses>) -> Option<SideId> {
        let slot = self.index.candidate(hash)?;
        let side = self.sides.get(slot as usize)?;
        side.matches(key).then_some(SideId(slot))
    }
}

impl<F: Family> FlowTable<F> {
    pub(crate) fn new(capacity: usize, seed: u64, now: Tick) -> FlowTable<F> {
        let capacity = capacity.max(1);
        FlowTable {
            index: Index::new(capacity * 2),
            sides: vec![Side::default(); capacity * 2].into_boxed_slice(),
            mtus: vec![0; capacity * 2].into_boxed_slice(),
            cold: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            wheel: Wheel::new(capacity, now),
            order: Order::new(capacity),
            hasher: Hasher { seeds: [seed_for(seed, 10), seed_for(seed, 11)], family: PhantomData },
        }
    }

    #[inline(always)]
    pub(crate) fn hash(&self, key: &FlowKey<F::Addresses>) -> u64 {
        self.hasher.hash(key)
    }

    /// What hashes keys, at hand.
    #[inline(always)]
    pub(crate) fn hasher(&self) -> Hasher<F> {
        self.hasher
    }

    /// What a look-up reads.
    #[inline(always)]
    pub(crate) fn view(&self) -> FlowTableView<'_, F> {
        FlowTableView { index: self.index.view(), sides: &self.sides }
    }

    /// [`find`](FlowTable::find) with the hash at hand, quick when the first candidate is right.
    #[inline(always)]
    pub(crate) fn find_hashed(&self, hash: u64, key: &FlowKey<F::Addresses>) -> Option<SideId> {
        // Another key with the same tag came first, or the entry is in its second bucket.
        self.view().find_likely(hash, key).or_else(|| self.find(key))
    }

    /// The whole look-up at once.
    #[inline(never)]
    pub(crate) fn find(&self, key: &FlowKey<F::Addresses>) -> Option<SideId> {
        let found = self.index.find(self.hash(key), |slot| {
            self.sides.get(slot as usize).is_some_and(|side| side.matches(key))
        });
        found.map(SideId)
    }

    /// Loads the line that a side with this key is looked for in first.
    #[inline(always)]
    pub(crate) fn fetch(&self, key: &FlowKey<F::Addresses>) -> u64 {
        self.index.fetch(self.hash(key))
    }

    pub(crate) fn side(&self, id: SideId) -> &Side<F::Addresses> {
        &self.sides[id.0 as usize]
    }

    #[inline(always)]
    pub(crate) fn side_mut(&mut self, id: SideId) -> &mut Side<F::Addresses> {
        &mut self.sides[id.0 as usize]
    }

    /// The cold part; `None` for a flow that has ended.
    pub(crate) fn cold(&self, id: FlowId) -> Option<&Cold> {
        self.cold.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn cold_mut(&mut self, id: FlowId) -> Option<&mut Cold> {
        self.cold.get_mut(id.0 as usize)?.as_mut()
    }

    /// Installs a flow. `None` when the table is full. The keys must not be in the table.
    pub(crate) fn insert(
        &mut self,
        cold: Cold,
        original: NewSide<F::Addresses>,
        reply: Option<NewSide<F::Addresses>>,
        stamp: u32,
        now: Tick,
    ) -> Option<FlowId> {
        let id = FlowId(self.free.pop()?);
        let sides = [(id.original(), Some(original)), (id.reply(), reply)];
        for (side, new) in sides {
            let Some(new) = new else { continue };
            self.mtus[side.0 as usize] = new.action.mtu;
            // A header of the other family is never built on the short way.
            let mtu = if new.action.kind == ActionKind::Forward { new.action.mtu } else { 0 };
            *self.side_mut(side) = Side {
                addresses: new.key.addresses,
                transport: new.key.transport,
                action: FlowAction { mtu, ..new.action },
                last_seen: now,
                stamp,
                ..Side::default()
            };
            if !self.index.insert(self.hash(&new.key), side.0) {
                self.forget_sides(id);
                self.free.push(id.0);
                return None;
            }
        }
        let class = if cold.two_sided { Class::HalfOpen } else { Class::Stub };
        self.order.add(id.0, cold.share, class);
        self.cold[id.0 as usize] = Some(cold);
        Some(id)
    }

    fn forget_sides(&mut self, id: FlowId) {
        for side in [id.original(), id.reply()] {
            if self.side(side).transport != 0 {
                let hash = self.hash(&self.side(side).key());
                self.index.remove(hash, side.0);
                *self.side_mut(side) = Side::default();
            }
        }
    }

    /// Ends a flow and returns what it held.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Ended> {
        let cold = self.cold.get_mut(id.0 as usize)?;
        let Cold { input, share, mapping, two_sided, .. } = *cold.as_ref()?;
        *cold = None;
        self.forget_sides(id);
        self.wheel.cancel(id.0);
        self.order.remove(id.0);
        self.free.push(id.0);
        Some(Ended { input, share, mapping, two_sided })
    }

    /// When the flow was last used, in either direction.
    pub(crate) fn last_seen(&self, id: FlowId, now: Tick) -> Tick {
        let [original, reply] = [id.original(), id.reply()].map(|side| self.side(side));
        match reply.transport != 0 && now.since(reply.last_seen) < now.since(original.last_seen) {
            true => reply.last_seen,
            false => original.last_seen,
        }
    }

    /// What a side's packets do, whatever the state of the flow.
    pub(crate) fn action(&self, id: SideId) -> FlowAction<F::Addresses> {
        FlowAction { mtu: self.mtus[id.0 as usize], ..self.side(id).action }
    }

    /// Gives a side another action; returns the one that it had.
    pub(crate) fn set_action(
        &mut self,
        id: SideId,
        action: FlowAction<F::Addresses>,
    ) -> FlowAction<F::Addresses> {
        let state = self.side(id).tcp();
        self.mtus[id.0 as usize] = action.mtu;
        let old = std::mem::replace(&mut self.side_mut(id).action, action);
        self.set_state(id, state);
        old
    }

    /// Sets the TCP state of both sides, and what they expect.
    pub(crate) fn set_tcp(&mut self, id: FlowId, state: TcpState, expected: Expected) {
        let sides = [(id.original(), expected.by_original), (id.reply(), expected.by_reply)];
        for (side, number) in sides {
            self.set_state(side, state);
            self.side_mut(side).expected = number.to_be();
        }
    }

    /// What the sides expect of each other.
    pub(crate) fn expected(&self, id: FlowId) -> Expected {
        let [by_original, by_reply] =
            [id.original(), id.reply()].map(|side| u32::from_be(self.side(side).expected));
        Expected { by_original, by_reply }
    }

    fn set_state(&mut self, id: SideId, state: TcpState) {
        let mtu = if state.is_settled() { self.mtus[id.0 as usize] } else { 0 };
        let action = &mut self.side_mut(id).action;
        // A header of the other family is never built on the short way.
        let mtu = if action.kind == ActionKind::Forward { mtu } else { 0 };
        (action.worker, action.mtu) = (state as u8, mtu);
    }

    /// True if there is room for a flow.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Flows in the table.
    pub(crate) fn count(&self) -> usize {
        self.cold.len() - self.free.len()
    }

    /// Flows that it has room for; their ids are below.
    pub(crate) fn capacity(&self) -> usize {
        self.cold.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::V4;
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn key(source: u32, port: u16) -> FlowKey<u64> {
        let ports = u32::from(port) << 16 | 80;
        let ingress = super::super::key::pack_ingress(PortId(1));
        FlowKey {
            addresses: u64::from(source) << 32 | 9,
            transport: super::super::key::pack_transport(ports, 6, ingress),
        }
    }

    fn cold() -> Cold {
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let input = FlowInput::bridged(PortId(1), crate::NetworkId(0), crate::MacAddress(0));
        Cold {
            input: FlowInput { source: none, ..input },
            share: input.ingress,
            parts: Parts::default(),
            mapping: None,
            two_sided: true,
            started: Tick(0),
            paths: [0; 2],
            mss_max: None,
        }
    }

    fn new(key: FlowKey<u64>) -> NewSide<u64> {
        NewSide { key, action: FlowAction::default() }
    }

    #[test]
    fn both_directions_are_found_and_end_together() {
        let mut table = FlowTable::<V4>::new(4, 1, Tick(0));
        let (there, back) = (key(1, 1000), key(2, 2000));
        let id = table.insert(cold(), new(there), Some(new(back)), 1, Tick(5)).unwrap();
        assert_eq!(table.find(&there), Some(id.original()));
        assert_eq!(table.find(&back), Some(id.reply()));
        table.side_mut(id.reply()).last_seen = Tick(9);
        assert_eq!(table.last_seen(id, Tick(10)), Tick(9));
        assert!(table.remove(id).is_some());
        assert!(table.remove(id).is_none());
        assert_eq!((table.find(&there), table.find(&back), table.count()), (None, None, 0));
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_after_an_end() {
        let mut table = FlowTable::<V4>::new(2, 1, Tick(0));
        let ids: Vec<_> = (0..3)
            .map(|i| table.insert(cold(), new(key(i, 1)), Some(new(key(i, 2))), 1, Tick(0)))
            .collect();
        assert!(ids[0].is_some() && ids[1].is_some() && ids[2].is_none());
        table.remove(ids[0].unwrap());
        assert!(table.insert(cold(), new(key(7, 1)), None, 1, Tick(0)).is_some());
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_list(
            steps in prop::collection::vec((0u32..12, any::<bool>()), 0..200),
        ) {
            let mut table = FlowTable::<V4>::new(8, 3, Tick(0));
            let mut model: Vec<(u32, FlowId)> = Vec::new();
            for (source, insert) in steps {
                let position = model.iter().position(|&(other, _)| other == source);
                match position {
                    Some(position) if !insert => {
                        let (_, id) = model.remove(position);
                        prop_assert!(table.remove(id).is_some());
                    }
                    None if insert => {
                        let sides = (new(key(source, 1)), Some(new(key(source, 2))));
                        let id = table.insert(cold(), sides.0, sides.1, 1, Tick(0));
                        prop_assert_eq!(id.is_some(), model.len() < 8);
                        model.extend(id.map(|id| (source, id)));
                    }
                    _ => {}
                }
                for source in 0..12 {
                    let id = model.iter().find(|&&(other, _)| other == source).map(|m| m.1);
                    prop_assert_eq!(table.find(&key(source, 1)), id.map(FlowId::original));
                    prop_assert_eq!(table.find(&key(source, 2)), id.map(FlowId::reply));
                }
            }
        }
    }
}
