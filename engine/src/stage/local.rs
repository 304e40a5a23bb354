//! `local`: packets to the gateway's own addresses.
//!
//! Answers echo requests; says "closed" (RST or port unreachable) for anything else, because our
//! own address is no secret. From an uplink a network's gateway address is a container address:
//! silence. ARP and ND are no flows and are answered before the stages run.

use super::{Answer, Cx, Decision, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::{FlowInput, Path};
use crate::id::NetworkId;
use crate::reply::ErrorKind;
use crate::wire::protocol;

/// Has no state.
#[derive(Debug, Default)]
pub(crate) struct Local;

impl Stage for Local {
    const NAME: &'static str = "local";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        if input.path != Path::Routed || decision.destination.is_some() {
            return Verdict::Continue;
        }
        let own_network = cx.tables.network(input.network);
        let to_own_gateway = own_network.is_some_and(|own| own.is_gateway(input.destination));
        if !to_own_gateway {
            let on_uplink = cx.tables.uplink_with_address(input.destination).is_some();
            let from_outside = input.network == NetworkId::NONE;
            let other = cx.tables.network_with_subnet_of(input.destination);
            let on_other = other.is_some_and(|other| other.is_gateway(input.destination));
            if !on_uplink && !on_other {
                return Verdict::Continue;
            }
            if from_outside && on_other {
                return Verdict::Drop(DropReason::Unpublished);
            }
            let closed = |network: &crate::tables::Network| network.internal;
            if own_network.is_some_and(closed) || (on_other && other.is_some_and(closed)) {
                return Verdict::Drop(DropReason::Internal);
            }
        }
        answer(input)
    }
}

fn answer(input: &FlowInput) -> Verdict {
    let error = |kind| Verdict::Answer(Answer::Error(kind, DropReason::ClosedPort));
    match input.protocol {
        _ if input.is_echo() => Verdict::Answer(Answer::Echo),
        protocol::ICMP | protocol::ICMPV6 => Verdict::Drop(DropReason::LocalUnhandled),
        protocol::TCP => Verdict::Answer(Answer::Reset(DropReason::ClosedPort)),
        protocol::UDP => error(ErrorKind::PortUnreachable),
        _ => error(ErrorKind::ProtocolUnreachable),
    }
}
