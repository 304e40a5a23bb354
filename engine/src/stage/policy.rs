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

#[cfg(test)]
mod tests {
    use super::super::sample::{cx, tables, udp};
    use super::*;
    use crate::id::PortId;

    /// What becomes of a packet from a port towards a network, or out.
    fn policy(ingress: u16, target: Option<u16>, published: bool, icc: bool) -> Verdict {
        let mut tables = tables();
        for network in tables.networks.iter_mut().flatten() {
            std::sync::Arc::make_mut(network).icc = icc;
        }
        let mut decision = Decision {
            target: target.map(NetworkId),
            published: published.then_some(PortId(1)),
            ..Decision::default()
        };
        Policy.decide(
            &udp(ingress, ("10.1.0.10", 1), ("10.1.0.11", 2)),
            &mut decision,
            &cx(&tables),
        )
    }

    #[test]
    fn from_outside_only_published_ports_are_reached() {
        assert_eq!(policy(0, Some(0), true, true), Verdict::Continue);
        assert_eq!(policy(0, Some(0), false, true), Verdict::Drop(DropReason::Unpublished));
        assert_eq!(policy(0, Some(2), true, true), Verdict::Drop(DropReason::Internal));
        assert_eq!(policy(0, None, false, true), Verdict::Drop(DropReason::NotRoutable));
    }

    #[test]
    fn every_combination_is_decided_by_dockers_rules() {
        const INTERNAL: u16 = 2;
        for (ingress, source) in [(0, None), (1, Some(0)), (3, Some(1)), (4, Some(2))] {
            for target in [None, Some(0), Some(1), Some(2)] {
                for published in [false, true] {
                    for icc in [false, true] {
                        let between = source.is_some() && target.is_some() && source != target;
                        let touches_internal =
                            source != target && [source, target].contains(&Some(INTERNAL));
                        let allowed = if touches_internal {
                            false
                        } else if source.is_none() {
                            target.is_some() && published
                        } else if between {
                            published
                        } else {
                            target.is_none() || icc || published
                        };
                        let verdict = policy(ingress, target, published, icc);
                        let case = (ingress, target, published, icc);
                        assert_eq!(verdict == Verdict::Continue, allowed, "{case:?}: {verdict:?}");
                    }
                }
            }
        }
    }
}
