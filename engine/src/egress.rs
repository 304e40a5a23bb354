//! Step 6: the only step that turns one packet into many.
//!
//! Packets gather per port and go out in batches; what a port cannot take (partial checksums,
//! super-frames) is finished here and nowhere else, and what
//! it can take as one is glued. What a port does not accept is dropped and
//! counted: nothing waits, nothing blocks.

use crate::counters::{Counters, DropReason};
use crate::cut;
use crate::encapsulate::{Header, cut_tunnelled, push};
use crate::frame::FramePool;
use crate::glue;
use crate::id::PortId;
use crate::packet::{Batch, GsoKind, Offload, Packet};
use crate::port::{Caps, Port};
use crate::wire::{ethernet, sctp, u16_at};

/// Longest IP packet: its length has 16 bits.
const PACKET_BYTES_MAX: usize = u16::MAX as usize;

/// A port and what is about to leave by it.
struct Slot {
    port: Box<dyn Port>,
    caps: Caps,
    out: Box<Batch>,
    /// Bytes in `out`.
    bytes: u64,
    /// Listed in `Egress::pending`.
    pending: bool,
    /// Packets that are glued to one at most.
    glued_max: usize,
}

/// All ports of a worker, seen from the sending side.
pub(crate) struct Egress {
    glued_max: usize,
    slots: Vec<Option<Box<Slot>>>,
    /// Ports with something in `out`, or to be flushed.
    pending: Vec<PortId>,
}

impl Slot {
    /// True if the port takes a packet with this offload as it is.
    #[inline(always)]
    fn takes(&self, offload: Offload) -> bool {
        match offload {
            Offload::None => true,
            // A kernel would finish SCTP's CRC32c as if it were an Internet checksum.
            Offload::NeedsChecksum { offset, .. } => {
                self.caps.checksum && usize::from(offset) != sctp::CHECKSUM
            }
            Offload::Gso { kind: GsoKind::Udp, .. } => self.caps.uso,
            Offload::Gso { .. } => self.caps.tso,
            Offload::Tunnelled { .. } => self.caps.tunnelled,
        }
    }

    /// Queues a packet that the port takes as it is.
    #[inline(always)]
    fn push(&mut self, id: PortId, packet: Packet, frames: &mut FramePool, counters: &Counters) {
        self.bytes += packet.len() as u64;
        self.out.push(packet);
        if self.out.is_full() {
            self.transmit(id, frames, counters);
        }
    }

    fn transmit(&mut self, id: PortId, frames: &mut FramePool, counters: &Counters) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.out.len() > 1 && (self.caps.tso || self.caps.uso) {
            let glued = glue::glue(&mut self.out, (self.caps, self.glued_max), frames);
            counters.worker.glued.add(glued.packets);
            bytes -= glued.header_bytes;
        }
        let count = self.out.len() as u64;
        self.port.tx(frames, &mut self.out);
        let (mut unsent, mut unsent_bytes) = (0, 0);
        for packet in self.out.drain(..) {
            unsent += 1;
            unsent_bytes += packet.len() as u64;
            packet.recycle(frames);
        }
        if unsent > 0 {
            let alive = self.port.alive();
            let reason = if alive { DropReason::EgressFull } else { DropReason::EgressDown };
            counters.dropped(reason).add(unsent);
        }
        if let Some(port) = counters.port(id) {
            port.tx_packets.add(count - unsent);
            port.tx_bytes.add(bytes - unsent_bytes);
            port.tx_dropped.add(unsent);
        }
    }
}

impl Egress {
    /// Without ports yet. So many packets are glued to one at most.
    pub(crate) fn new(glued_max: usize) -> Egress {
        Egress { glued_max, slots: Vec::new(), pending: Vec::new() }
    }

    /// Adds a port; returns the one that had its place.
    pub(crate) fn attach(&mut self, id: PortId, port: Box<dyn Port>) -> Option<Box<dyn Port>> {
        if self.slots.len() <= id.index() {
            self.slots.resize_with(id.index() + 1, || None);
        }
        self.pending.reserve(self.slots.len());
        let caps = port.caps();
        let (out, glued_max) = (Box::new(Batch::new()), self.glued_max);
        let slot = Slot { port, caps, out, bytes: 0, pending: false, glued_max };
        let old = self.slots[id.index()].replace(Box::new(slot));
        old.map(|slot| slot.port)
    }

    /// Takes a port away; what was about to leave by it goes back to the pool.
    pub(crate) fn detach(&mut self, id: PortId, frames: &mut FramePool) -> Option<Box<dyn Port>> {
        let mut slot = self.slots.get_mut(id.index())?.take()?;
        slot.out.drain(..).for_each(|packet| packet.recycle(frames));
        self.pending.retain(|&pending| pending != id);
        slot.port.release(frames);
        Some(slot.port)
    }

    /// The port, for receiving.
    #[inline(always)]
    pub(crate) fn port(&mut self, id: PortId) -> Option<&mut dyn Port> {
        match self.slots.get_mut(id.index()) {
            Some(Some(slot)) => Some(&mut *slot.port),
            _ => None,
        }
    }

    /// True if the port is here.
    #[inline(always)]
    pub(crate) fn has(&self, id: PortId) -> bool {
        matches!(self.slots.get(id.index()), Some(Some(_)))
    }

    /// Queues a packet for a tunnel, with the outer header. What the uplink does not do of a
    /// packet's work when it is in a tunnel is done before; a super-frame is cut then.
    pub(crate) fn send_in_tunnel(
        &mut self,
        header: &Header,
        uplink: PortId,
        mut packet: Packet,
        frames: &mut FramePool,
        counters: &Counters,
    ) {
        let caps = self.slots.get(uplink.index()).and_then(Option::as_ref).map(|slot| slot.caps);
        if let Some(inside) = caps.and_then(|caps| offload_inside(&packet, header, caps)) {
            push(&mut packet, header);
            packet.set_offload(inside);
            return self.send(uplink, packet, frames, counters);
        }
        finish(packet, frames, counters, &mut |mut whole, frames| {
            push(&mut whole, header);
            self.send(uplink, whole, frames, counters);
        });
    }

    /// True if the port may give super-frames that are in tunnels.
    pub(crate) fn gives_tunnelled(&self, id: PortId) -> bool {
        matches!(self.slots.get(id.index()), Some(Some(slot)) if slot.caps.tunnelled)
    }

    /// Reads the abilities of these ports again.
    pub(crate) fn refresh_caps(&mut self, ports: &[PortId]) {
        for port in ports {
            if let Some(Some(slot)) = self.slots.get_mut(port.index()) {
                slot.caps = slot.port.caps();
            }
        }
    }

    /// Queues a packet for a port.
    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        id: PortId,
        packet: Packet,
        frames: &mut FramePool,
        counters: &Counters,
    ) {
        let Some(Some(slot)) = self.slots.get_mut(id.index()) else {
            counters.dropped(DropReason::EgressDown).add(1);
            if let Some(port) = counters.port(id) {
                port.tx_dropped.add(1);
            }
            return packet.recycle(frames);
        };
        if !slot.pending {
            slot.pending = true;
            self.pending.push(id);
        }
        if !slot.takes(packet.offload()) {
            return finish(packet, frames, counters, &mut |whole, frames| {
                slot.push(id, whole, frames, counters);
            });
        }
        slot.push(id, packet, frames, counters);
    }

    /// Queues a whole batch by changing places with the port's empty one. False, and nothing done,
    /// when the port has packets already. The packets have no offload that the port might not take.
    #[inline(always)]
    pub(crate) fn send_all(
        &mut self,
        id: PortId,
        batch: &mut Box<Batch>,
        bytes: u64,
        frames: &mut FramePool,
        counters: &Counters,
    ) -> bool {
        let Some(Some(slot)) = self.slots.get_mut(id.index()) else { return false };
        if !slot.out.is_empty() {
            return false;
        }
        if !slot.pending {
            slot.pending = true;
            self.pending.push(id);
        }
        std::mem::swap(&mut slot.out, batch);
        slot.bytes = bytes;
        if slot.out.is_full() {
            slot.transmit(id, frames, counters);
        }
        true
    }

    /// Shows every packet that is about to leave.
    pub(crate) fn look(&self, seen: &mut dyn FnMut(PortId, &Packet)) {
        for &id in &self.pending {
            if let Some(Some(slot)) = self.slots.get(id.index()) {
                slot.out.iter().for_each(|packet| seen(id, packet));
            }
        }
    }

    /// Sends everything and ends the turn.
    pub(crate) fn flush(&mut self, frames: &mut FramePool, counters: &Counters) {
        while let Some(id) = self.pending.pop() {
            let Some(Some(slot)) = self.slots.get_mut(id.index()) else { continue };
            if !slot.out.is_empty() {
                slot.transmit(id, frames, counters);
            }
            slot.port.flush(frames);
            slot.pending = false;
        }
    }

    /// Frames in ports and on the way out.
    pub(crate) fn held_frames(&self) -> (usize, usize) {
        self.slots.iter().flatten().fold((0, 0), |(chunks, tails), slot| {
            let held = slot.port.held_frames();
            let out_tails = slot.out.iter().filter(|packet| !packet.tail().is_empty()).count();
            (chunks + held.0 + slot.out.len(), tails + held.1 + out_tails)
        })
    }
}

/// The offload of a packet in a tunnel, where the port goes on with its work there.
fn offload_inside(packet: &Packet, header: &Header, caps: Caps) -> Option<Offload> {
    let (by, outer_l4) = (header.outer_bytes() as u16, header.outer_l4());
    match packet.offload() {
        Offload::None => Some(Offload::None),
        // With IPv6 the outer checksum covers what the inner one will be.
        Offload::NeedsChecksum { start, offset } => {
            let takes = caps.tunnelled && !header.is_v6 && usize::from(offset) != sctp::CHECKSUM;
            takes.then_some(Offload::NeedsChecksum { start: start + by, offset })
        }
        Offload::Gso { kind, segment_bytes, start, ecn } => {
            let takes = if kind == GsoKind::Udp { caps.uso } else { caps.tso };
            // Where the inner IP header stands is said by where the outer one ends.
            let is_plain =
                matches!(u16_at(packet.window(), ethernet::TYPE), ethernet::IPV4 | ethernet::IPV6);
            let fits = packet.len() + usize::from(by) <= ethernet::HEADER_BYTES + PACKET_BYTES_MAX;
            (caps.tunnelled && takes && is_plain && fits).then_some(Offload::Tunnelled {
                kind,
                segment_bytes,
                start: start + by,
                ecn,
                outer_l4,
            })
        }
        Offload::Tunnelled { .. } => None,
    }
}

/// Does what the way out cannot: completes the checksum, cuts the super-frame. `each` gets what
/// comes of it.
#[cold]
pub(crate) fn finish(
    mut packet: Packet,
    frames: &mut FramePool,
    counters: &Counters,
    each: &mut impl FnMut(Packet, &mut FramePool),
) {
    let result = match packet.offload() {
        Offload::Gso { .. } => {
            counters.worker.cuts.add(1);
            cut::cut(packet, frames, each).map(|_| ())
        }
        Offload::Tunnelled { .. } => {
            counters.worker.cuts.add(1);
            cut_tunnelled(packet, frames, each)
        }
        _ => match cut::complete_checksum(&mut packet) {
            Ok(()) => {
                each(packet, frames);
                Ok(())
            }
            Err(reason) => {
                packet.recycle(frames);
                Err(reason)
            }
        },
    };
    if let Err(reason) = result {
        counters.dropped(reason).add(1);
    }
}
