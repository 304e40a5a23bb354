//! `policy`: who may reach whom. Docker's rules as one list, not as chains.
//!
//! 1. From an uplink: only to a published port, and never into an internal network.
//! 2. From a network to an uplink: unless the network is internal.
//! 3. Inside one network: if `icc`, or to a published port.
//! 4. From one network to another: only to a published port, and from or into no internal one.

use super::{Cx, Decision, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::FlowInput;
use crate::id::NetworkId;

/// Has no state.
#[derive(Debug, Default)]
pub(crate) struct Policy;

impl Stage for Policy {
    const NAME: &'static str = "policy";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let internal = |id: NetworkId| cx.tables.network(id).is_some_and(|own| own.internal);
        let published = decision.published.is_some();
        let from_outside = input.network == NetworkId::NONE;
        match decision.target {
            // Transit between uplinks is no service of this gateway.
            None if from_outside => Verdict::Drop(DropReason::NotRoutable),
            None if internal(input.network) => Verdict::Drop(DropReason::Internal),
            None => Verdict::Continue,
            Some(target) if from_outside => match (published, internal(target)) {
                (_, true) => Verdict::Drop(DropReason::Internal),
                (false, _) => Verdict::Drop(DropReason::Unpublished),
                (true, false) => Verdict::Continue,
            },
            Some(target) if target == input.network => {
                let icc = cx.tables.network(target).is_some_and(|network| network.icc);
                match icc || published {
                    true => Verdict::Continue,
                    false => Verdict::Drop(DropReason::IccOff),
                }
            }
            Some(target) => match (published, internal(target) || internal(input.network)) {
                (_, true) => Verdict::Drop(DropReason::Internal),
                (false, _) => Verdict::Drop(DropReason::OtherNetwork),
                (true, false) => Verdict::Continue,
            },
        }
    }
}
