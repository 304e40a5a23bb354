//! The connection that a flow carries: which state a packet leaves it in.
//!
//! Asked on the long way only; the short way takes no packet that could change a state. Hard
//! constraint: what a packet does here depends on nothing that the two ways would keep differently.

use super::core::Core;
use super::flows::Flows;
use crate::execute::Edit;
use crate::flow::{Chunks, FlowId, FlowTable, Segment, SideId, TcpState};
use crate::multihoming;
use crate::packet::{Notes, Packet};
use crate::time::Tick;
use crate::wire::protocol;

impl<F: Edit> Flows<F> {
    /// Sets the state that the first packet of a flow gives, and returns it.
    pub(super) fn begin(&mut self, flow: FlowId, packet: &Packet) -> TcpState {
        let (head, l4) = (packet.head(), usize::from(packet.meta.l4));
        let (state, expected) = match packet.meta.protocol {
            protocol::TCP => TcpState::first(&Segment::read(head, l4, packet.meta.tcp_flags, true)),
            protocol::SCTP => Chunks::read(head, l4, true).first(),
            // As it was installed.
            _ => return TcpState::None,
        };
        self.table.set_tcp(flow, state, expected);
        state
    }
}

/// Hides the further addresses of an SCTP endpoint whose own one changes to these.
pub(super) fn conceal<F: Edit>(packet: &mut Packet, to: F::Addresses) {
    let came = F::read(packet.head(), usize::from(packet.meta.l3));
    let source = |addresses| F::unpack(F::loaded(addresses)).0;
    let is_whole = !packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT);
    if is_whole && came.is_some_and(|came| source(came) != source(to)) {
        multihoming::conceal(packet);
    }
}

/// Notes what a packet of a flow says about its connection.
pub(super) fn track<F: Edit>(table: &mut FlowTable<F>, core: &Core, side: SideId, packet: &Packet) {
    let state = table.side(side).tcp();
    if state == TcpState::None {
        return;
    }
    let (flow, original) = (side.flow(), side.is_original());
    let (head, l4) = (packet.head(), usize::from(packet.meta.l4));
    let mut expected = table.expected(flow);
    let after = match packet.meta.protocol {
        protocol::TCP => {
            let segment = Segment::read(head, l4, packet.meta.tcp_flags, original);
            state.after(&segment, &mut expected)
        }
        _ => Chunks::read(head, l4, original).after(state, &mut expected),
    };
    table.set_tcp(flow, after, expected);
    if after != state {
        // A state with a shorter timeout is not to wait for the longer one's timer.
        let timeout = after.timeout(packet.meta.protocol, &core.tables.nat.timeouts);
        table.wheel.set(flow.0, core.tick, Tick::count(timeout));
    }
}
