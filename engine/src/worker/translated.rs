//! Flows between families: an IPv6 client of a published port whose endpoint has IPv4 only.
//!
//! Such a flow lies in the IPv6 table with both its sides and one state; its other side's key has
//! the IPv4 addresses in their mapped form (`::ffff:a.b.c.d`), which no packet may have. An IPv4
//! packet that finds no flow of its own *crosses*: it is looked for there. The header is built anew
//! (see [`translate`]), so the action is never repeated on the short way. The server sees the
//! network's gateway with a port of each client; who that is, an event tells.

use super::core::Core;
use super::flows::{Flows, Revalidated};
use super::{Event, Worker};
use crate::counters::DropReason;
use crate::cut;
use crate::execute::{Edit, fits};
use crate::flow::{FlowAction, FlowInput, FlowKey, SideId, V4, V6};
use crate::fragmentation;
use crate::id::MacAddress;
use crate::id::{PortId, WorkerId};
use crate::neighbour::Adjacency;
use crate::packet::{Notes, Offload, Packet};
use crate::quote::Quote;
use crate::reply::{Across, ErrorKind};
use crate::stage::{Answer, Decision, is_martian};
use crate::steer;
use crate::translate::{self, HEADER_GROWTH, NewHeader};
use crate::wire::header_at;

/// An IPv4 packet that has no flow of its family, with what its flow would be told by.
#[derive(Debug)]
pub(super) struct Crossing {
    packet: Packet,
    input: FlowInput,
    hops: u8,
}

impl Core {
    /// True if a packet with this input may be of a flow between families.
    pub(super) fn may_cross(&self, input: &FlowInput) -> bool {
        self.translated > 0 && input.source.is_ipv4()
    }

    /// Lets a packet cross; the worker goes on with it.
    pub(super) fn cross(&mut self, packet: Packet, input: FlowInput, hops: u8) {
        if self.crossing.len() == self.crossing.capacity() {
            return self.drop(packet, DropReason::HoldFull);
        }
        self.crossing.push(Crossing { packet, input, hops });
    }
}

impl Worker {
    /// Goes on with the IPv4 packets that crossed.
    pub(super) fn route_crossing(&mut self) {
        while !self.core.crossing.is_empty() {
            let mut crossing = std::mem::take(&mut self.core.crossing);
            for crossing in crossing.drain(..) {
                self.route_one_crossing(crossing);
            }
            // The vector's memory is kept; nothing crosses twice.
            if self.core.crossing.is_empty() {
                self.core.crossing = crossing;
                return;
            }
        }
    }

    fn route_one_crossing(&mut self, Crossing { packet, input, hops }: Crossing) {
        let (core, key) = (&mut self.core, FlowKey::of::<V6>(&input));
        let is_error = packet.meta.notes.any(Notes::ICMP_ERROR);
        let Some(side) = self.v6.table.find(&key) else {
            return match () {
                () if is_error => core.stray_error(packet, &input, hops),
                () if packet.meta.notes.any(Notes::LATER_FRAGMENT) => {
                    core.drop(packet, DropReason::FragmentUnattached);
                }
                () => self.v4.decide(core, packet, FlowKey::of::<V4>(&input), hops),
            };
        };
        match self.v6.revalidate(core, side) {
            Revalidated::Kept if is_error => match Quote::read::<V4>(&packet) {
                Ok(quote) => self.v6.carry_error_across(core, packet, &quote, side),
                Err(reason) => core.drop(packet, reason),
            },
            Revalidated::Kept => self.v6.carry(core, packet, side, hops),
            _ if is_error => core.drop(packet, DropReason::IcmpError),
            Revalidated::Reset => core.answer(packet, Answer::Reset(DropReason::ClosedPort)),
            Revalidated::Ended if packet.meta.notes.any(Notes::LATER_FRAGMENT) => {
                core.drop(packet, DropReason::FragmentUnattached);
            }
            Revalidated::Ended => self.v4.decide(core, packet, FlowKey::of::<V4>(&input), hops),
        }
    }
}

impl<F: Edit> Flows<F> {
    /// A packet of a valid flow between families: guards, state, rebuild, send.
    pub(super) fn carry_translated(&mut self, core: &mut Core, mut packet: Packet, side: SideId) {
        let action = self.table.action(side);
        if hops_of(&packet) <= 1 {
            let answer = Answer::Error(ErrorKind::TtlExceeded, DropReason::TtlExceeded);
            return core.answer(packet, answer);
        }
        let may_split = fragmentation::may_split(&packet);
        if !may_split && !fits(&packet, action.mtu) {
            return core.too_big(packet, action.mtu);
        }
        let resolved = core.neighbours.get(action.adjacency).filter(|known| known.resolved);
        let Some(adjacency) = resolved.copied() else {
            return core.wait(action.adjacency, packet);
        };
        let Some(identification) = self.identification_across(core, &packet, side) else {
            return core.drop(packet, DropReason::FragmentUnattached);
        };
        self.note_passage(core, &packet, side);
        self.clamp(core, &mut packet, side.flow());
        let new = new_header::<F>(&action, &adjacency, identification);
        if let Err(reason) = translate::translate(&mut packet, &new, action.mtu) {
            return core.drop(packet, reason);
        }
        // Of the packet as it is now.
        let mtu = match packet.meta.notes.any(Notes::V6) {
            true => action.mtu.saturating_add(HEADER_GROWTH),
            false => action.mtu.saturating_sub(HEADER_GROWTH),
        };
        match fits(&packet, mtu) {
            true => core.send(adjacency.port, packet),
            false => core.send_in_pieces(adjacency.port, packet, mtu),
        }
    }

    /// The identification that a packet leaves with, if it is a fragment or may become one. `None`:
    /// a fragment of a datagram that is not known any more.
    fn identification_across(&mut self, core: &Core, packet: &Packet, side: SideId) -> Option<u32> {
        let is_fragment = packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT);
        match (packet.meta.notes.any(Notes::V6), is_fragment) {
            (true, true) => self.fresh_identification(core, packet, 1 << 16),
            (true, false) => Some(self.fragments.next_number(1 << 16)),
            // RFC 7915 section 4.1 keeps the lower half. The upper half tells servers apart that
            // one client sees behind one address.
            (false, _) => {
                let lower = fragmentation::identification(packet)?;
                let worker = core.id.index() as u32;
                let upper = side.flow().0.wrapping_mul(core.worker_count as u32) + worker;
                Some(upper << 16 | lower)
            }
        }
    }

    /// An ICMP error about a packet of a flow between families, made anew in the other one. The
    /// source is the one that the flow has there: a router's address has no form in it.
    pub(super) fn carry_error_across(
        &mut self,
        core: &mut Core,
        packet: Packet,
        quote: &Quote,
        side: SideId,
    ) {
        let action = self.table.action(side);
        let from_outside = core.rule(packet.meta.ingress).is_some_and(|rule| rule.uplink);
        if is_martian(source_of(&packet), from_outside, &core.tables) {
            return core.drop(packet, DropReason::Martian);
        }
        if hops_of(&packet) <= 1 {
            return core.drop(packet, DropReason::TtlExceeded);
        }
        let resolved = core.neighbours.get(action.adjacency).filter(|known| known.resolved);
        let Some(adjacency) = resolved.copied() else {
            return core.wait(action.adjacency, packet);
        };
        if !core.errors.take(core.now) {
            return core.drop(packet, DropReason::IcmpErrorLimited);
        }
        if let Err(reason) = self.learn(core, &packet, quote, side) {
            return core.drop(packet, reason);
        }
        let new = new_header::<F>(&action, &adjacency, 0);
        let mac = |at: usize| header_at::<6>(&adjacency.macs, at).copied().unwrap_or_default();
        let across = Across {
            source: new.source,
            quoted: ((new.destination, new.ports.1), (new.source, new.ports.0)),
            macs: (MacAddress::new(mac(0)), MacAddress::new(mac(6))),
        };
        match across.build(&packet, quote, &mut core.frames) {
            Ok(error) => {
                core.counters.worker.icmp_errors.add(1);
                core.send(adjacency.port, error);
                packet.recycle(&mut core.frames);
            }
            Err(reason) => core.drop(packet, reason),
        }
    }
}

impl Core {
    /// Sends a packet that is too large for its port and may be cut, super-frames included.
    pub(super) fn send_in_pieces(&mut self, port: PortId, packet: Packet, mtu: u16) {
        let Core { egress, frames, counters, pieces, .. } = self;
        let (mut result, has_device) = (Ok(()), egress.has(port));
        let mut split = |packet: Packet, frames: &mut crate::frame::FramePool| {
            let mut send = |piece: Packet, frames: &mut crate::frame::FramePool| {
                if has_device {
                    return egress.send(port, piece, frames, counters);
                }
                match pieces.len() < pieces.capacity() {
                    true => pieces.push(piece),
                    false => {
                        counters.dropped(DropReason::NoFrame).add(1);
                        piece.recycle(frames);
                    }
                }
            };
            let split = fragmentation::split(packet, mtu, frames, &mut send);
            if split.is_err() {
                result = split;
            }
        };
        let cut = match packet.offload() {
            Offload::Gso { .. } => cut::cut(packet, frames, &mut split).map(drop),
            _ => {
                split(packet, frames);
                Ok(())
            }
        };
        counters.worker.fragmented.add(1);
        if let Err(reason) = cut.and(result) {
            counters.dropped(reason).add(1);
        }
        if !has_device {
            // Into a tunnel each goes by itself. The vector's memory is kept.
            let mut pieces = std::mem::take(&mut self.pieces);
            pieces.drain(..).for_each(|piece| self.send(port, piece));
            self.pieces = pieces;
        }
    }

    /// Has the runner say as whom an endpoint sees a client.
    pub(super) fn tell_of_translation(&mut self, input: &FlowInput, decision: &Decision) {
        let (source, server) = (decision.source_of(input), decision.destination_of(input));
        self.event(Event::Translated {
            client: (input.source, input.source_port),
            seen_as: (source.address, source.port),
            server: (server.address, server.port),
        });
    }

    /// An error whose quote is of no flow here: another worker's, or nobody's.
    pub(super) fn stray_error(&mut self, packet: Packet, input: &FlowInput, hops: u8) {
        let home: WorkerId = steer::home(input, &self.tables, self.worker_count, self.seed);
        match home == self.id {
            true => {
                let reason = self.stray_reason(input);
                self.drop(packet, reason);
            }
            false => self.hand_over(home, packet, hops),
        }
    }
}

fn hops_of(packet: &Packet) -> u8 {
    let l3 = usize::from(packet.meta.l3);
    match packet.meta.notes.any(Notes::V6) {
        true => V6::ttl(packet.head(), l3),
        false => V4::ttl(packet.head(), l3),
    }
}

fn source_of(packet: &Packet) -> std::net::IpAddr {
    use crate::flow::Family;
    let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
    match packet.meta.notes.any(Notes::V6) {
        true => V6::unpack(V6::loaded(V6::read(head, l3).unwrap_or_default())).0,
        false => V4::unpack(V4::loaded(V4::read(head, l3).unwrap_or_default())).0,
    }
}

/// What an action between families writes.
fn new_header<F: Edit>(
    action: &FlowAction<F::Addresses>,
    adjacency: &Adjacency,
    identification: u32,
) -> NewHeader {
    let (source, destination) = F::unpack(F::loaded(action.addresses));
    let ports = u32::from_be(action.ports);
    NewHeader {
        source: source.to_canonical(),
        destination: destination.to_canonical(),
        ports: ((ports >> 16) as u16, ports as u16),
        macs: adjacency.macs,
        identification,
    }
}
