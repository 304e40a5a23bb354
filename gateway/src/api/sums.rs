//! Sums of what the workers counted.
//!
//! Counters are read while their workers write them: each is right by itself, two of them may be
//! some packets apart. The one hard constraint: a sum of a port or network that stays never falls.

use engine::counters::PortCounters;
use engine::tables::{Network, PortKind};
use engine::{DropReason, PortId};

use super::model::Traffic;
use crate::control::StateView;

impl Traffic {
    fn add(&mut self, counters: &PortCounters) {
        self.rx_packets += counters.rx_packets.get();
        self.rx_bytes += counters.rx_bytes.get();
        self.rx_dropped += counters.rx_dropped.get();
        self.tx_packets += counters.tx_packets.get();
        self.tx_bytes += counters.tx_bytes.get();
        self.tx_dropped += counters.tx_dropped.get();
    }
}

/// What went through a port.
pub(crate) fn of_port(state: &StateView, port: PortId) -> Traffic {
    let mut traffic = Traffic::default();
    let counters = state.workers.iter().filter_map(|worker| worker.counters.port(port));
    counters.for_each(|counters| traffic.add(counters));
    traffic
}

/// What went through the ports of a network, those that are gone included.
pub(crate) fn of_network(state: &StateView, network: &Network) -> Traffic {
    let mut traffic = Traffic::default();
    for worker in &state.workers {
        let members = network.members.iter().filter_map(|&port| worker.counters.port(port));
        members.chain(worker.counters.departed(network.id)).for_each(|one| traffic.add(one));
    }
    traffic
}

/// Packets that all ports of one worker received.
pub(crate) fn received(state: &StateView, worker: &crate::view::Link) -> u64 {
    // What comes out of a tunnel has come in by an uplink.
    let ports = state.tables.ports.iter().flatten();
    let ports = ports.filter(|port| !matches!(port.kind, PortKind::Tunnel(_) | PortKind::Lane(_)));
    let counters = ports.filter_map(|port| worker.counters.port(port.id));
    counters.map(|counters| counters.rx_packets.get()).sum()
}

/// Packets that a worker dropped, for whatever reason.
pub(crate) fn dropped(worker: &crate::view::Link) -> u64 {
    DropReason::ALL.iter().map(|&reason| worker.counters.dropped(reason).get()).sum()
}
