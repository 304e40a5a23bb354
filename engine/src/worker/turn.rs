//! What turns round: packets from a masqueraded socket to the outside port of another one.
//!
//! The first flow has made them what they would be outside. They come in again by
//! [`PortId::TURN`], and a second flow takes them to whom they are for; replies go the same way
//! back. A flow of the first kind never takes what comes in there, so a packet turns once. Hard
//! constraint: for hosts the gateway is one router, so the TTL is lowered once.

use super::core::Core;
use super::flows::Flows;
use crate::execute::Edit;
use crate::flow::AdjacencyId;
use crate::id::{NetworkId, PortId};
use crate::neighbour::Adjacency;
use crate::packet::{Notes, Packet};

impl<F: Edit> Flows<F> {
    /// Takes a packet that was edited as if it left.
    pub(super) fn turn_round(&mut self, core: &mut Core, mut packet: Packet) {
        let l3 = usize::from(packet.meta.l3);
        F::raise_ttl(packet.head_mut(), l3);
        packet.meta.ingress = PortId::TURN;
        packet.meta.network = NetworkId::NONE;
        // With other addresses it is another datagram's fragment.
        packet.meta.notes.0 &= !Notes::FRAGMENT_CHECKED;
        self.route(core, packet, 0);
    }
}

impl Core {
    /// Where an adjacency leads, if that is known.
    pub(super) fn next_hop(&self, id: AdjacencyId) -> Option<Adjacency> {
        if id == AdjacencyId::TURN {
            return Some(Adjacency { macs: [0; 12], port: PortId::TURN, resolved: true });
        }
        self.neighbours.get(id).filter(|known| known.resolved).copied()
    }
}
