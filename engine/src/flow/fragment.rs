//! Which flow the later fragments of a datagram belong to.
//!
//! The first fragment has the ports, so it finds its flow; the others follow by (source,
//! destination, identification, protocol, port). Bounded: the oldest entry makes room. Fragments
//! that overtake their first one find nothing.
//! LIMIT: they are dropped; holding them comes with reassembly.

use super::index::{Index, mix, seed_for};
use super::key::{Family, FlowKey};
use crate::time::Tick;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<A> {
    pub(crate) addresses: A,
    pub(crate) identification: u32,
    pub(crate) protocol: u8,
    pub(crate) ingress: u16,
}

/// How long fragments may straggle, in ticks: 30 s, as Linux waits (`ipfrag_time`).
const LIFETIME: u32 = Tick::count(std::time::Duration::from_secs(30));

#[derive(Clone, Copy, Debug)]
struct Entry<A> {
    datagram: Datagram<A>,
    flow: FlowKey<A>,
    seen: Tick,
}

/// Fragmented datagrams of one address family.
#[derive(Debug)]
pub(crate) struct Fragments<F: Family> {
    index: Index,
    entries: Box<[Option<Entry<F::Addresses>>]>,
    next: usize,
    seed: u64,
}

impl<F: Family> Fragments<F> {
    pub(crate) fn new(capacity: usize, seed: u64) -> Fragments<F> {
        let capacity = capacity.max(1);
        Fragments {
            index: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            next: 0,
            seed: seed_for(seed, 60),
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

    fn find(&self, datagram: &Datagram<F::Addresses>) -> Option<u32> {
        self.index.find(self.hash(datagram), |slot| {
            let entry = self.entries.get(slot as usize).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.datagram == *datagram)
        })
    }

    /// The first fragment of a datagram belongs to this flow.
    pub(crate) fn note(
        &mut self,
        datagram: Datagram<F::Addresses>,
        flow: FlowKey<F::Addresses>,
        now: Tick,
    ) {
        let entry = Entry { datagram, flow, seen: now };
        if let Some(slot) = self.find(&datagram) {
            self.entries[slot as usize] = Some(entry);
            return;
        }
        let slot = self.next;
        self.next = (slot + 1) % self.entries.len();
        if let Some(old) = self.entries[slot].take() {
            self.index.remove(self.hash(&old.datagram), slot as u32);
        }
        if self.index.insert(self.hash(&datagram), slot as u32) {
            self.entries[slot] = Some(entry);
        }
    }

    /// The flow of a later fragment.
    pub(crate) fn flow_of(
        &self,
        datagram: &Datagram<F::Addresses>,
        now: Tick,
    ) -> Option<FlowKey<F::Addresses>> {
        let entry = self.entries[self.find(datagram)? as usize].as_ref()?;
        (now.since(entry.seen) < LIFETIME).then_some(entry.flow)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::V4;
    use super::*;

    fn datagram(identification: u32) -> Datagram<u64> {
        Datagram { addresses: 5, identification, protocol: 17, ingress: 1 }
    }

    #[test]
    fn later_fragments_follow_the_first_and_the_oldest_make_room() {
        let mut fragments = Fragments::<V4>::new(4, 1);
        for number in 0..6 {
            let flow = FlowKey { transport: u64::from(number), ..FlowKey::default() };
            fragments.note(datagram(number), flow, Tick(0));
        }
        assert!(fragments.flow_of(&datagram(1), Tick(0)).is_none());
        assert_eq!(fragments.flow_of(&datagram(2), Tick(0)).unwrap().transport, 2);
        assert!(fragments.flow_of(&datagram(5), Tick(LIFETIME)).is_none());
    }
}
