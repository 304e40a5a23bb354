//! What a worker shows of its state, for `show`, for tests and for the simulator's invariants.

use std::net::IpAddr;

use super::Worker;
use super::flows::Flows;
use crate::execute::Edit;
use crate::flow::{FlowInput, TcpState};
use crate::id::PortId;

/// A flow as it is now.
#[derive(Clone, Copy, Debug)]
pub struct FlowView {
    /// Its first packet, as it came.
    pub input: FlowInput,
    /// The same packet, as it leaves.
    pub source: (IpAddr, u16),
    /// Destination of the packet as it leaves.
    pub destination: (IpAddr, u16),
    /// The port by which replies come.
    pub reply_ingress: PortId,
    /// State of a TCP connection.
    pub tcp: TcpState,
    /// Packets from the original side and from the reply side, modulo 2^32.
    pub packets: (u32, u32),
    /// Bytes from the original side and from the reply side.
    pub bytes: (u64, u64),
}

impl Worker {
    /// Every flow that this worker owns. Not for the packet path.
    pub fn flows(&self) -> Vec<FlowView> {
        let mut flows = views(&self.v4);
        flows.extend(views(&self.v6));
        flows
    }
}

fn views<F: Edit>(flows: &Flows<F>) -> Vec<FlowView> {
    let two_sided = flows.table.iter().filter(|(_, cold)| cold.two_sided);
    two_sided
        .map(|(id, cold)| {
            let original = flows.table.side(id.original());
            let reply = flows.table.side(id.reply());
            let (source, destination) = F::unpack(F::loaded(original.action.addresses));
            let ports = u32::from_be(original.action.ports);
            FlowView {
                input: cold.input,
                source: (source, (ports >> 16) as u16),
                destination: (destination, ports as u16),
                reply_ingress: reply.key().input::<F>().ingress,
                tcp: original.tcp,
                packets: (original.packets, reply.packets),
                bytes: (original.bytes, reply.bytes),
            }
        })
        .collect()
}
