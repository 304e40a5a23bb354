//! Fragmented datagrams: which flow their later fragments belong to, and those that wait for that.
//!
//! The first fragment has the ports, so it finds its flow; the others follow by (source,
//! destination, identification, protocol, port). One that overtakes its first is held until that
//! comes. All is bounded, and so is what one source may take of it (RFC 4787 REQ-14 a): when the
//! table is full the oldest datagram makes room, when its share is full a source's new datagrams
//! are refused. Nothing is put together. Hard constraint: no byte of a datagram passes twice (see
//! [`Parts`]).

use std::time::Duration;

use super::index::{Index, mix, seed_for};
use super::key::{Family, FlowKey};
use super::parts::{Fit, Part, Parts};
use crate::counters::DropReason;
use crate::packet::Packet;
use crate::time::Tick;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<A> {
    pub(crate) addresses: A,
    pub(crate) identification: u32,
    pub(crate) protocol: u8,
    pub(crate) ingress: u16,
}

/// How long fragments may straggle. Linux waits 30 s to put them together, but numbers come round
/// sooner: 65,536 datagrams of 8 KiB are 4 s at 1 Gbit/s (RFC 4963). Shorter would break paths that
/// lose order badly, longer takes new datagrams for old ones.
const LIFETIME: u32 = Tick::count(Duration::from_secs(4));

/// Shares are kept per hash of the source: sources that meet in one share it.
const SHARE_COUNT: usize = 256;

/// Places looked at when the table is swept.
const SWEEP_BUDGET: usize = 256;

#[derive(Clone, Debug)]
struct Entry<A> {
    datagram: Datagram<A>,
    /// Known from the first fragment on.
    flow: Option<FlowKey<A>>,
    parts: Parts,
    /// Identification that the fragments leave with, once one was needed.
    fresh: Option<u32>,
    /// Fragments overlapped: nothing of it passes any more (RFC 5722).
    poisoned: bool,
    seen: Tick,
    share: u8,
}

/// A fragment that waits for its first one.
#[derive(Debug)]
struct Held {
    slot: u32,
    share: u8,
    packet: Packet,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It passes. `whole`: it was the last one missing.
    Passes { whole: bool },
    /// It is dropped.
    Refused(DropReason),
}

/// Fragmented datagrams of one address family.
#[derive(Debug)]
pub(crate) struct Fragments<F: Family> {
    index: Index,
    entries: Box<[Option<Entry<F::Addresses>>]>,
    next: usize,
    /// Where the next sweep begins.
    swept: usize,
    /// Datagrams of each share.
    shares: Box<[u16; SHARE_COUNT]>,
    share_max: u16,
    held: Vec<Held>,
    held_max: usize,
    held_share_max: usize,
    /// Held fragments whose datagram is gone; the caller drops them.
    pub(crate) lost: Vec<Packet>,
    numbers: Numbers,
    seed: u64,
}

/// Identifications that no other worker of this gateway gives out.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    next: u32,
    worker: u32,
    worker_count: u32,
}

impl Numbers {
    /// The next one of `space` numbers in all.
    fn take(&mut self, space: u64) -> u32 {
        self.next = self.next.wrapping_add(1);
        let own = (space / u64::from(self.worker_count)).max(1);
        (u64::from(self.next) % own * u64::from(self.worker_count) + u64::from(self.worker)) as u32
    }
}

impl<F: Family> Fragments<F> {
    /// For so many datagrams and held fragments, at this worker of so many.
    pub(crate) fn new(
        capacity: usize,
        held_max: usize,
        (worker, worker_count): (usize, usize),
        seed: u64,
    ) -> Fragments<F> {
        /// Datagrams that every source may have.
        const SHARE_MIN: usize = 8;
        /// Held fragments that every source may have: 64 KiB at an MTU of 1,500.
        const HELD_SHARE_MIN: usize = 45;
        let capacity = capacity.max(1);
        let seed = seed_for(seed, 60);
        Fragments {
            index: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            next: 0,
            swept: 0,
            shares: Box::new([0; SHARE_COUNT]),
            share_max: (capacity / 4).max(SHARE_MIN).min(usize::from(u16::MAX)) as u16,
            held: Vec::with_capacity(held_max),
            held_max,
            held_share_max: (held_max / 4).max(HELD_SHARE_MIN),
            lost: Vec::with_capacity(held_max),
            numbers: Numbers {
                next: seed as u32,
                worker: worker as u32,
                worker_count: worker_count.max(1) as u32,
            },
            seed,
        }
    }

    fn hash(&self, datagram: &Datagram<F::Addresses>) -> u64 {
        let rest = u64::from(datagram.identification) << 24
            | u64::from(datagram.protocol) << 16
            | u64::from(datagram.ingress);
        mix(F::hash(datagram.addresses, self.seed), rest ^ seed_for(self.seed, 1))
    }

    /// A hash that is equal for all fragments of a datagram, for steering.
    pub(crate) fn steering_hash(&self, datagram: &Datagram<F::Addresses>) -> u64 {
        self.hash(&Datagram { ingress: 0, ..*datagram })
    }

    /// Which share a datagram's source has.
    fn share_of(&self, datagram: &Datagram<F::Addresses>) -> u8 {
        let (source, _) = F::unpack(F::loaded(datagram.addresses));
        let hash = F::hash(F::pack(source, source), self.seed);
        mix(hash, seed_for(self.seed, 2)) as u8
    }

    fn find(&self, datagram: &Datagram<F::Addresses>) -> Option<u32> {
        self.index.find(self.hash(datagram), |slot| {
            let entry = self.entries.get(slot as usize).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.datagram == *datagram)
        })
    }

    /// The slot of a datagram that has not become too old.
    fn find_live(&mut self, datagram: &Datagram<F::Addresses>, now: Tick) -> Option<usize> {
        let slot = self.find(datagram)? as usize;
        if self.entries[slot].as_ref().is_some_and(|entry| now.since(entry.seen) < LIFETIME) {
            return Some(slot);
        }
        self.free(slot);
        None
    }

    /// A fragment has come that nobody has looked at.
    pub(crate) fn arrive(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        part: Part,
        now: Tick,
    ) -> Arrival {
        let slot = match self.find_live(datagram, now) {
            Some(slot) => slot,
            None if self.shares[usize::from(self.share_of(datagram))] >= self.share_max => {
                return Arrival::Refused(DropReason::FragmentLimited);
            }
            None => match self.insert(*datagram, now) {
                Some(slot) => slot,
                None => return Arrival::Refused(DropReason::FragmentLimited),
            },
        };
        let Some(entry) = &mut self.entries[slot] else {
            return Arrival::Refused(DropReason::FragmentUnattached);
        };
        if entry.poisoned {
            return Arrival::Refused(DropReason::FragmentOverlap);
        }
        match entry.parts.add(part) {
            Fit::New => Arrival::Passes { whole: false },
            Fit::Whole => Arrival::Passes { whole: true },
            Fit::Known => Arrival::Refused(DropReason::FragmentOverlap),
            Fit::Scattered => Arrival::Refused(DropReason::FragmentLimited),
            Fit::Overlaps => {
                (entry.poisoned, entry.flow) = (true, None);
                self.lose(slot);
                Arrival::Refused(DropReason::FragmentOverlap)
            }
        }
    }

    /// A fragment passes that was looked at before, here or by another worker; says whether it was
    /// the last one. With a first one a datagram begins anew.
    pub(crate) fn pass(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        part: Part,
        now: Tick,
    ) -> bool {
        let slot = match (self.find_live(datagram, now), part.start) {
            (None, 0) => self.insert(*datagram, now),
            (slot, _) => slot,
        };
        if part.start == 0
            && let Some(entry) = slot.and_then(|slot| self.entries[slot].as_mut())
        {
            (entry.parts, entry.fresh, entry.seen) = (Parts::default(), None, now);
        }
        let entry = slot.and_then(|slot| self.entries[slot].as_mut());
        entry.is_some_and(|entry| entry.parts.add(part) == Fit::Whole)
    }

    fn insert(&mut self, datagram: Datagram<F::Addresses>, now: Tick) -> Option<usize> {
        let slot = self.next;
        self.next = (slot + 1) % self.entries.len();
        self.free(slot);
        if !self.index.insert(self.hash(&datagram), slot as u32) {
            return None;
        }
        let share = self.share_of(&datagram);
        self.shares[usize::from(share)] += 1;
        let parts = Parts::default();
        let entry =
            Entry { datagram, flow: None, parts, fresh: None, poisoned: false, seen: now, share };
        self.entries[slot] = Some(entry);
        Some(slot)
    }

    /// Forgets what is in a slot.
    fn free(&mut self, slot: usize) {
        let Some(old) = self.entries[slot].take() else { return };
        self.index.remove(self.hash(&old.datagram), slot as u32);
        let share = &mut self.shares[usize::from(old.share)];
        *share = share.saturating_sub(1);
        self.lose(slot);
    }

    /// Nothing waits for this slot any more.
    fn lose(&mut self, slot: usize) {
        let mut index = 0;
        while index < self.held.len() {
            match self.held[index].slot == slot as u32 {
                true => self.lost.push(self.held.remove(index).packet),
                false => index += 1,
            }
        }
    }

    /// The first fragment of a datagram belongs to this flow.
    pub(crate) fn note(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        flow: FlowKey<F::Addresses>,
        now: Tick,
    ) {
        let slot = match self.find_live(datagram, now) {
            Some(slot) => Some(slot),
            None => self.insert(*datagram, now),
        };
        if let Some(entry) = slot.and_then(|slot| self.entries[slot].as_mut()) {
            entry.flow = Some(flow);
        }
    }

    /// The flow of a later fragment, if its first one has come.
    pub(crate) fn flow_of(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        now: Tick,
    ) -> Option<FlowKey<F::Addresses>> {
        let slot = self.find_live(datagram, now)?;
        self.entries[slot].as_ref()?.flow
    }

    /// The identification that the fragments of a datagram leave with, of `space` numbers in all.
    pub(crate) fn fresh_identification(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        space: u64,
        now: Tick,
    ) -> Option<u32> {
        let slot = self.find_live(datagram, now)?;
        let entry = self.entries[slot].as_mut()?;
        Some(*entry.fresh.get_or_insert_with(|| self.numbers.take(space)))
    }

    /// A number for what may be fragmented further on.
    pub(crate) fn next_number(&mut self, space: u64) -> u32 {
        self.numbers.take(space)
    }

    /// All of a datagram has passed.
    pub(crate) fn forget(&mut self, datagram: &Datagram<F::Addresses>) {
        if let Some(slot) = self.find(datagram) {
            self.free(slot as usize);
        }
    }

    /// Lets a fragment wait for its first one; gives it back when too many wait.
    pub(crate) fn hold(
        &mut self,
        datagram: &Datagram<F::Addresses>,
        packet: Packet,
    ) -> Result<(), Packet> {
        let Some(slot) = self.find(datagram) else { return Err(packet) };
        let share = self.share_of(datagram);
        let of_share = self.held.iter().filter(|held| held.share == share).count();
        // What was lost and not yet dropped takes room too.
        let all = self.held.len() + self.lost.len();
        if all >= self.held_max || of_share >= self.held_share_max {
            return Err(packet);
        }
        self.held.push(Held { slot, share, packet });
        Ok(())
    }

    /// The next fragment that waited for this datagram's first one, in the order of their coming.
    pub(crate) fn release(&mut self, datagram: &Datagram<F::Addresses>) -> Option<Packet> {
        if self.held.is_empty() {
            return None;
        }
        let slot = self.find(datagram)?;
        let at = self.held.iter().position(|held| held.slot == slot)?;
        Some(self.held.remove(at).packet)
    }

    /// Forgets datagrams that are too old; what waited for them is in `lost` then.
    pub(crate) fn sweep(&mut self, now: Tick) {
        for _ in 0..SWEEP_BUDGET.min(self.entries.len()) {
            let slot = self.swept;
            self.swept = (slot + 1) % self.entries.len();
            let entry = self.entries[slot].as_ref();
            if entry.is_some_and(|entry| now.since(entry.seen) >= LIFETIME) {
                self.free(slot);
            }
        }
    }

    /// True if anything waits: time must go on.
    pub(crate) fn waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Frames of held fragments, chunks and tails.
    pub(crate) fn held_frames(&self) -> (usize, usize) {
        let packets = self.held.iter().map(|held| &held.packet).chain(&self.lost);
        let tails = packets.clone().filter(|packet| !packet.tail().is_empty()).count();
        (packets.count(), tails)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::V4;
    use super::*;

    fn datagram(identification: u32) -> Datagram<u64> {
        Datagram { addresses: 5 << 32, identification, protocol: 17, ingress: 1 }
    }

    fn fragments(capacity: usize) -> Fragments<V4> {
        Fragments::new(capacity, 4, (0, 1), 1)
    }

    const FIRST: Part = Part { start: 0, end: 10, more: true };
    const LAST: Part = Part { start: 10, end: 12, more: false };

    #[test]
    fn later_fragments_follow_the_first_and_the_oldest_make_room() {
        let mut fragments = fragments(4);
        for number in 0..6 {
            let flow = FlowKey { transport: u64::from(number), ..FlowKey::default() };
            fragments.note(&datagram(number), flow, Tick(0));
        }
        assert!(fragments.flow_of(&datagram(1), Tick(0)).is_none());
        assert_eq!(fragments.flow_of(&datagram(2), Tick(0)).unwrap().transport, 2);
        assert!(fragments.flow_of(&datagram(5), Tick(LIFETIME)).is_none());
    }

    #[test]
    fn one_source_has_its_share_and_others_theirs() {
        let mut fragments = fragments(64);
        let come = |fragments: &mut Fragments<V4>, source: u64, number| {
            let addresses = V4::loaded(source << 32);
            let datagram = Datagram { addresses, ..datagram(number) };
            fragments.arrive(&datagram, FIRST, Tick(0))
        };
        let passed = (0..64)
            .filter(|&number| come(&mut fragments, 7, number) == Arrival::Passes { whole: false });
        assert_eq!(passed.count(), 16);
        assert_eq!(come(&mut fragments, 9, 0), Arrival::Passes { whole: false });
        fragments.sweep(Tick(LIFETIME));
        assert_eq!(come(&mut fragments, 7, 0), Arrival::Passes { whole: false });
    }

    #[test]
    fn what_was_whole_begins_anew_and_what_overlapped_is_dead() {
        let mut fragments = fragments(4);
        let one = datagram(1);
        assert_eq!(fragments.arrive(&one, LAST, Tick(0)), Arrival::Passes { whole: false });
        assert_eq!(fragments.arrive(&one, FIRST, Tick(0)), Arrival::Passes { whole: true });
        fragments.forget(&one);
        assert_eq!(fragments.arrive(&one, FIRST, Tick(0)), Arrival::Passes { whole: false });
        let refused = Arrival::Refused(DropReason::FragmentOverlap);
        let across = Part { start: 9, end: 12, more: true };
        assert_eq!(fragments.arrive(&one, across, Tick(0)), refused);
        assert_eq!(fragments.arrive(&one, LAST, Tick(0)), refused, "RFC 5722: all of it");
    }

    #[test]
    fn fresh_numbers_are_one_per_datagram_and_worker() {
        let mut both = [0, 1].map(|worker| Fragments::<V4>::new(512, 4, (worker, 2), 1));
        let mut seen = std::collections::HashSet::new();
        for number in 0..200 {
            for (worker, fragments) in both.iter_mut().enumerate() {
                fragments.note(&datagram(number), FlowKey::default(), Tick(0));
                let fresh = fragments.fresh_identification(&datagram(number), 65_536, Tick(0));
                let again = fragments.fresh_identification(&datagram(number), 65_536, Tick(0));
                assert_eq!(fresh, again);
                assert_eq!(fresh.unwrap() as usize % 2, worker);
                assert!(fresh.unwrap() < 65_536 && seen.insert(fresh.unwrap()));
            }
        }
    }
}
