//! Memory fetched ahead, for flows that begin and flows that end.
//!
//! A new flow is found nowhere: its reply, its mapping from inside and from outside each lie in a
//! bucket of a table that may be as large as memory, and so do those of the flow that makes room.
//! One after another these fetches take longer than all that is computed. So what is likely to be
//! needed is loaded for many flows at once before the first of them is decided or ended. The hard
//! constraint: nothing here changes anything, so a wrong guess costs time and nothing else.

use std::hint::black_box;
use std::ops::Range;

use super::Worker;
use super::core::Core;
use super::flows::Flows;
use super::lookup::{Lookup, Lookups, Way};
use crate::execute::Edit;
use crate::flow::{FlowId, FlowKey, FlowTable, pack_ingress, pack_transport};
use crate::id::NetworkId;
use crate::stage::{Nat, Socket};

/// From how many packets on it is worth a look at what they have in common.
const NEW_MIN: usize = 4;

impl<F: Edit> Flows<F> {
    /// What ends with these flows.
    pub(super) fn fetch_ends(&self, core: &Core, flows: &[FlowId]) {
        let (table, nat) = (&self.table, &core.stages.nat);
        let mut all = 0;
        for &flow in flows {
            all ^= table.side(flow.original()).key().transport;
            all ^= u64::from(table.cold(flow).and_then(|cold| cold.mapping).unwrap_or(0));
        }
        for &flow in flows {
            for side in [flow.original(), flow.reply()] {
                all ^= table.fetch(&table.side(side).key());
            }
            let mapping = table.cold(flow).and_then(|cold| cold.mapping);
            all ^= mapping.map_or(0, |mapping| nat.fetch_mapping(mapping));
        }
        for &flow in flows {
            let mapping = table.cold(flow).and_then(|cold| cold.mapping);
            all ^= mapping.map_or(0, |mapping| nat.fetch_mapped(mapping));
        }
        black_box(all);
    }
}

impl Worker {
    /// What begins with these packets, if many of them begin flows.
    pub(super) fn fetch_begins(&self, network: NetworkId, lookups: &Lookups, range: Range<usize>) {
        let is_new = |lookup: &&Lookup| matches!(lookup.way, Way::NewV4 | Way::NewV6);
        let some = &lookups.all[range.clone()];
        if some.len() < NEW_MIN || some.iter().filter(is_new).count() < NEW_MIN {
            return;
        }
        let nat = &self.core.stages.nat;
        let mut all = 0;
        for index in range {
            let lookup = &lookups.all[index];
            all ^= match lookup.way {
                Way::NewV4 => fetch_begin(&self.v4.table, nat, network, &lookup.key_v4),
                Way::NewV6 => fetch_begin(&self.v6.table, nat, network, &lookups.keys_v6[index]),
                _ => 0,
            };
        }
        black_box(all);
    }
}

/// As if it left like the last one that was masqueraded, and kept its port.
fn fetch_begin<F: Edit>(
    table: &FlowTable<F>,
    nat: &Nat,
    network: NetworkId,
    key: &FlowKey<F::Addresses>,
) -> u64 {
    let (source, destination) = F::unpack(F::loaded(key.addresses));
    let Some((outside, egress)) = nat.recent(source.is_ipv6()) else { return 0 };
    let (ports, protocol) = (u32::from_be(key.transport as u32), (key.transport >> 32) as u8);
    let socket = Socket { address: source, port: (ports >> 16) as u16 };
    let transport = pack_transport(ports.rotate_left(16).to_be(), protocol, pack_ingress(egress));
    let addresses = F::loaded(F::pack(destination, outside));
    table.fetch(&FlowKey { addresses, transport })
        ^ nat.fetch_new((network, protocol), socket, outside)
}
