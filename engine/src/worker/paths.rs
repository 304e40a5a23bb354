//! What a worker learns of paths, and whom it tells.
//!
//! An ICMP error is believed when it quotes a packet of a live flow which this worker has (RFC 1191
//! section 7, RFC 8201 section 4): who is not on the path would have to guess all that tells the
//! flow, of TCP a sequence number that may be under way as well (RFC 5927 section 7). What was
//! learnt is told to all workers and changes the *stamp*, so that each flow looks once whether its
//! decision has become another one; nothing is swept. The error itself goes on to the sender.

use super::core::Core;
use super::flows::Flows;
use crate::counters::DropReason;
use crate::execute::Edit;
use crate::flow::{Cold, FlowId, Segment, SideId, TcpState};
use crate::hand_over::Message;
use crate::id::NetworkId;
use crate::mss;
use crate::packet::{Notes, Packet};
use crate::paths::{End, Learnt, UNKNOWN, believed};
use crate::quote::Quote;
use crate::wire::{header_at, icmp, ipv4, ipv6, protocol, tcp, u16_at, u32_at};

impl<F: Edit> Flows<F> {
    /// What is known of the paths of a flow's directions now.
    pub(super) fn paths_of(&self, core: &Core, flow: FlowId, cold: &Cold) -> [u16; 2] {
        if core.stages.mtu.paths.is_empty() {
            return [UNKNOWN; 2];
        }
        let actions = [flow.original(), flow.reply()].map(|side| self.table.side(side).action());
        let address = F::unpack(F::loaded(actions[0].addresses)).1.to_canonical();
        let port = |id| core.neighbours.get(id).map(|adjacency| adjacency.port);
        let [there, back] = actions.map(|action| port(action.adjacency));
        let network = cold.parts.target().unwrap_or(NetworkId::NONE);
        let source = End { network: cold.input.network, address: cold.input.source };
        let ends = [(End { network, address }, there), (source, back)];
        core.stages.mtu.paths_to(ends, &core.tables)
    }

    /// Lowers the segment size that a SYN of this flow announces, if it is more than it may be.
    pub(super) fn clamp(&self, core: &Core, packet: &mut Packet, flow: FlowId) {
        let is_syn = packet.meta.tcp_flags & tcp::SYN != 0;
        if !is_syn || packet.meta.notes.any(Notes::LATER_FRAGMENT) {
            return;
        }
        if let Some(mss_max) = self.table.cold(flow).and_then(|cold| cold.mss_max)
            && mss::clamp(packet, mss_max)
        {
            core.counters.worker.mss_clamped.add(1);
        }
    }

    /// Learns from an error about a packet of a flow of ours, if it says how large packets to its
    /// destination may be. `side`: the direction in which the error goes. `Err`: a lie.
    pub(super) fn learn(
        &self,
        core: &mut Core,
        error: &Packet,
        quote: &Quote,
        side: SideId,
    ) -> Result<(), DropReason> {
        let Some((claimed, quoted_bytes)) = claim(error, quote) else { return Ok(()) };
        let is_v6 = error.meta.notes.any(Notes::V6);
        let mtu = believed(claimed, quoted_bytes, is_v6).ok_or(DropReason::PathMtuRefused)?;
        if self.is_under_way(error, quote, side) && core.path_changes.take(core.now) {
            // It came back from where the destination is.
            let network = error.meta.network;
            core.learn_path(End { network, address: quote.destination }, mtu);
        }
        Ok(())
    }

    /// False for a quoted TCP segment that nobody can have sent just now.
    fn is_under_way(&self, error: &Packet, quote: &Quote, side: SideId) -> bool {
        let flow = side.flow();
        if quote.protocol != protocol::TCP || self.table.side(side).tcp() == TcpState::None {
            return true;
        }
        // The quoted packet went the other way.
        let head = error.head().get(quote.l4()..quote.l4() + tcp::ACKNOWLEDGEMENT);
        let sequence = head.map(|head| header_at::<4>(head, tcp::SEQUENCE).map(|at| u32_at(at, 0)));
        let Some(Some(sequence)) = sequence else { return false };
        let original = !side.is_original();
        let segment = Segment { flags: 0, sequence, acknowledgement: 0, original };
        self.table.expected(flow).is_near(&segment)
    }
}

/// What an error claims to be the next link's MTU, and how long the quoted packet was. `None`: it
/// is about something else.
pub(super) fn claim(error: &Packet, quote: &Quote) -> Option<(u32, u16)> {
    let header: &[u8; 8] = header_at(error.head(), usize::from(error.meta.l4))?;
    let quoted = &error.head()[quote.l3()..];
    match (error.meta.notes.any(Notes::V6), header[0], header[1]) {
        (false, icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
            let length = header_at::<{ ipv4::HEADER_BYTES }>(quoted, 0)?;
            // RFC 1191 section 4: the upper half of the word is unused.
            Some((u32::from(u16_at(header, 6)), u16_at(length, ipv4::TOTAL_LENGTH)))
        }
        (true, icmp::V6_TOO_BIG, _) => {
            let length = header_at::<{ ipv6::HEADER_BYTES }>(quoted, 0)?;
            let payload = u16_at(length, ipv6::PAYLOAD_LENGTH);
            Some((u32_at(header, 4), payload.saturating_add(ipv6::HEADER_BYTES as u16)))
        }
        _ => None,
    }
}

impl Core {
    /// Learns how large packets to a destination may be, and tells the other workers. Also of a
    /// tunnel's far end, from an error about an outer packet: then it bounds what goes in.
    pub(super) fn learn_path(&mut self, end: impl Into<End>, mtu: u16) {
        let end = end.into();
        if self.note_path(end, mtu) != Learnt::Nothing {
            self.counters.worker.paths_learnt.add(1);
            let End { network, address: destination } = end;
            self.tell(|| Message::PathMtu { network, destination, mtu });
        }
    }

    /// Notes what this worker or another one has learnt.
    pub(super) fn note_path(&mut self, end: End, mtu: u16) -> Learnt {
        let learnt = self.stages.mtu.paths.learn(end, mtu, self.tick);
        if learnt == Learnt::Lower {
            self.stamp = self.stamp.wrapping_add(1);
        }
        learnt
    }

    /// Forgets paths that were learnt too long ago.
    pub(super) fn forget_paths(&mut self) {
        if self.stages.mtu.paths.sweep(self.tick) {
            self.stamp = self.stamp.wrapping_add(1);
        }
    }
}
