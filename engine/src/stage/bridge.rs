//! `bridge`: which port a frame inside a network goes to.
//!
//! Members' MAC addresses are in the tables; others are learnt where the operator allows it. What
//! is neither is flooded. The FDB keeps both kinds, so that the packet path asks one line; this
//! stage is what fills it. Routed packets pass by.

use super::{Cx, Decision, NextHop, Stage, Verdict};
use crate::counters::DropReason;
use crate::fdb::Fdb;
use crate::flow::{FlowInput, Path};

/// Owns the FDB.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) fdb: Fdb,
}

impl Stage for Bridge {
    const NAME: &'static str = "bridge";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let Path::Bridged(mac) = input.path else {
            return Verdict::Continue;
        };
        let Some(network) = cx.tables.network(input.network) else {
            return Verdict::Drop(DropReason::PortGone);
        };
        if !network.icc {
            return Verdict::Drop(DropReason::IccOff);
        }
        if mac.is_group() {
            return Verdict::Flood;
        }
        let member = network.by_mac.get(&mac).copied();
        let learnt = || self.fdb.learnt(input.network, mac).filter(|port| network.has(*port));
        match member.or_else(learnt) {
            Some(port) if port == input.ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) => {
                decision.target = Some(input.network);
                decision.forward = Some(NextHop::Endpoint(port));
                Verdict::Forward
            }
            None => Verdict::Flood,
        }
    }
}
