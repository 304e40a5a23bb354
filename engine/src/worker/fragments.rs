//! Fragments, off the short way: check, remember, hold what came too early, follow the first one.
//!
//! All fragments of a datagram meet first at the worker that its identification hashes to (its
//! *home*), because later ones have no ports. There each is checked once; the first one then goes
//! the way of its flow, perhaps to another worker, and the others follow it in their order. A
//! fragment whose source changes leaves with an identification of ours: two inside hosts may have
//! chosen the same one, and their receiver would mix them up.

use super::core::Core;
use super::flows::{Flows, key_of};
use crate::counters::DropReason;
use crate::execute::Edit;
use crate::flow::{Arrival, Datagram, FlowKey};
use crate::fragmentation;
use crate::id::{NetworkId, WorkerId};
use crate::packet::{Notes, Packet};

/// Hops of a fragment that waited at its datagram's home: it may have been handed over once.
const HELD_HOPS: u8 = 1;

impl<F: Edit> Flows<F> {
    /// A fragment of a routed packet.
    pub(super) fn route_fragment(&mut self, core: &mut Core, mut packet: Packet, hops: u8) {
        // An error fits into every packet (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c).
        if packet.meta.notes.any(Notes::ICMP_ERROR) {
            return core.drop(packet, DropReason::IcmpErrorMalformed);
        }
        let Some(datagram) = datagram_of::<F>(&packet) else {
            return core.drop(packet, DropReason::Truncated);
        };
        let is_checked = packet.meta.notes.any(Notes::FRAGMENT_CHECKED);
        if !is_checked && hops == 0 && core.worker_count > 1 {
            let hash = self.fragments.steering_hash(&datagram) >> 32;
            let home = WorkerId(((hash * core.worker_count as u64) >> 32) as u8);
            if home != core.id {
                return core.hand_over(home, packet, hops);
            }
        }
        let checked = fragmentation::part_of(&packet).and_then(|part| match is_checked {
            true => Ok(self.fragments.pass(&datagram, part, core.tick)),
            false => match self.fragments.arrive(&datagram, part, core.tick) {
                Arrival::Passes { whole } => Ok(whole),
                Arrival::Refused(reason) => Err(reason),
            },
        });
        self.drop_lost(core);
        let is_whole = match checked {
            Ok(is_whole) => is_whole,
            Err(reason) => return core.drop(packet, reason),
        };
        packet.meta.notes.0 |= Notes::FRAGMENT_CHECKED;
        self.route_checked(core, packet, &datagram, (is_checked, hops));
        if is_whole {
            self.fragments.forget(&datagram);
            self.drop_lost(core);
        }
    }

    fn route_checked(
        &mut self,
        core: &mut Core,
        packet: Packet,
        datagram: &Datagram<F::Addresses>,
        (was_checked, hops): (bool, u8),
    ) {
        if packet.meta.notes.any(Notes::FIRST_FRAGMENT) {
            let Some(key) = key_of::<F>(&packet) else {
                return core.drop(packet, DropReason::Truncated);
            };
            // Noted before the flow is known to exist: if it hands over, the rest follows it.
            self.fragments.note(datagram, key, core.tick);
            self.route_key(core, packet, key, hops);
            while let Some(packet) = self.fragments.release(datagram) {
                self.follow(core, packet, key, HELD_HOPS);
            }
            return;
        }
        match self.fragments.flow_of(datagram, core.tick) {
            Some(key) => self.follow(core, packet, key, hops),
            // What waits, waits at the datagram's home.
            None if was_checked => core.drop(packet, DropReason::FragmentUnattached),
            None => match self.fragments.hold(datagram, packet) {
                Ok(()) => core.counters.worker.fragments_held.add(1),
                Err(packet) => core.drop(packet, DropReason::FragmentLimited),
            },
        }
    }

    /// A later fragment goes where its first one went, if that went anywhere.
    fn follow(&mut self, core: &mut Core, packet: Packet, key: FlowKey<F::Addresses>, hops: u8) {
        let input = key.input::<F>(packet.meta.network);
        if self.table.find(&key).is_some() || core.may_cross(&input) {
            return self.route_key(core, packet, key, hops);
        }
        let is_outer = input.network == NetworkId::NONE && core.tables.is_to_own_tunnel_end(&input);
        let reason = match is_outer {
            true => DropReason::OverlayFragment,
            false => DropReason::FragmentUnattached,
        };
        core.drop(packet, reason);
    }

    /// Drops fragments whose datagram was forgotten while they waited.
    pub(super) fn drop_lost(&mut self, core: &mut Core) {
        while let Some(packet) = self.fragments.lost.pop() {
            core.drop(packet, DropReason::FragmentUnattached);
        }
    }

    /// Forgets old datagrams, and what waited for them.
    pub(super) fn sweep_fragments(&mut self, core: &mut Core) {
        self.fragments.sweep(core.tick);
        self.drop_lost(core);
    }

    /// The number of ours that the fragments of a packet's datagram leave with. `None`: it is not
    /// known any more.
    pub(super) fn fresh_identification(
        &mut self,
        core: &Core,
        packet: &Packet,
        space: u64,
    ) -> Option<u32> {
        let datagram = datagram_of::<F>(packet)?;
        self.fragments.fresh_identification(&datagram, space, core.tick)
    }

    /// Gives a fragment that leaves with another source a number of ours. False: its datagram is
    /// not known any more.
    pub(super) fn renumber(&mut self, core: &Core, packet: &mut Packet, new: F::Addresses) -> bool {
        let Some(old) = F::read(packet.head(), usize::from(packet.meta.l3)) else { return false };
        let source = |addresses| F::unpack(F::loaded(addresses)).0;
        if source(old) == source(new) {
            return true;
        }
        let space = if packet.meta.notes.any(Notes::V6) { 1 << 32 } else { 1 << 16 };
        let fragment = Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT;
        let number = match packet.meta.notes.any(fragment) {
            true => self.fresh_identification(core, packet, space),
            // It becomes one.
            false => Some(self.fragments.next_number(space)),
        };
        match number {
            Some(number) => {
                fragmentation::set_identification(packet, number);
                true
            }
            None => false,
        }
    }
}

/// What tells the datagram of a fragment.
fn datagram_of<F: Edit>(packet: &Packet) -> Option<Datagram<F::Addresses>> {
    Some(Datagram {
        addresses: F::read(packet.head(), usize::from(packet.meta.l3))?,
        identification: fragmentation::identification(packet)?,
        protocol: packet.meta.protocol,
        ingress: packet.meta.ingress.0,
    })
}
