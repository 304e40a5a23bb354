//! Unasked SYNs from outside: silence first, then an answer (RFC 5382 REQ-4).
//!
//! A SYN to a port of the masquerade range that lets it nowhere may be half of a simultaneous open:
//! the other half may be on its way from inside, and an answer would end the connection before it
//! began. So it is dropped and counted at once, and a copy of its headers waits for six seconds. If
//! there is a flow for its tuple by then, both halves have met and nothing is said; else its sender
//! gets a port unreachable. The hard constraint: a fixed number of copies. A SYN that finds no room
//! is never answered, as a flood does not deserve better.

use std::collections::VecDeque;
use std::time::Duration;

use super::core::Core;
use super::flows::Flows;
use crate::counters::DropReason;
use crate::execute::Edit;
use crate::flow::FlowKey;
use crate::id::{NetworkId, PortId};
use crate::packet::{Meta, Notes, Packet};
use crate::time::Instant;
use crate::wire::{protocol, tcp};

/// RFC 5382 REQ-4: at least 6 seconds. Longer would help nobody: the third SYN of a client comes
/// after 7 s.
const SILENCE: Duration = Duration::from_secs(6);

/// Copies of each family and worker: 256 bytes each. Fewer would leave more of a scan unanswered,
/// which is no harm; more would have a SYN that comes again compared with more of them.
const COPIES_MAX: usize = 128;

/// Ethernet, IPv6 and TCP with all options, and a little data.
const COPY_BYTES: usize = 160;

/// Copies that are looked at in one round.
const ROUND_MAX: usize = 64;

/// A SYN that waits to be answered.
struct Copied<A> {
    due: Instant,
    key: FlowKey<A>,
    meta: Meta,
    length: u8,
    bytes: [u8; COPY_BYTES],
}

/// SYNs of one address family, in the order in which they came.
pub(super) struct UnaskedSyns<F: Edit>(VecDeque<Copied<F::Addresses>>);

impl<F: Edit> UnaskedSyns<F> {
    pub(super) fn new() -> UnaskedSyns<F> {
        UnaskedSyns(VecDeque::with_capacity(COPIES_MAX))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a copy of a packet that is about to be dropped for this reason, if it is a SYN which
    /// may be answered later.
    pub(super) fn keep(
        &mut self,
        packet: &Packet,
        key: FlowKey<F::Addresses>,
        reason: DropReason,
        now: Instant,
    ) {
        let meta = &packet.meta;
        let is_unasked = reason == DropReason::Filtered
            && meta.protocol == protocol::TCP
            && meta.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
            && meta.network == NetworkId::NONE
            && meta.ingress != PortId::TURN
            && !meta.notes.any(Notes::IN_TUNNEL);
        let head = packet.head();
        if !is_unasked
            || packet.len() > COPY_BYTES
            || head.len() != packet.len()
            || self.0.len() >= COPIES_MAX
            || self.0.iter().any(|other| other.key == key)
        {
            return;
        }
        let mut bytes = [0; COPY_BYTES];
        bytes[..head.len()].copy_from_slice(head);
        let length = head.len() as u8;
        self.0.push_back(Copied { due: now + SILENCE, key, meta: *meta, length, bytes });
    }

    fn take_due(&mut self, now: Instant) -> Option<Copied<F::Addresses>> {
        self.0.pop_front_if(|first| first.due <= now)
    }
}

impl<F: Edit> Flows<F> {
    /// Answers the SYNs that have waited for long enough and that nothing from inside has met.
    pub(super) fn answer_syns(&mut self, core: &mut Core) {
        for _ in 0..ROUND_MAX {
            let Some(syn) = self.syns.take_due(core.now) else { return };
            if self.table.find(&syn.key).is_none() && core.answers.take(core.now) {
                core.answer_copy(&syn.bytes[..usize::from(syn.length)], syn.meta);
            }
        }
    }
}
