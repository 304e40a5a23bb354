//! `local`: packets to the gateway's own addresses.
//!
//! Answers echo requests; says "closed" (RST or port unreachable) for anything else, because our
//! own address is no secret. From an uplink a network's gateway address is a container address:
//! silence, but to the machine that the gateway runs on. ARP and ND are no flows and are answered
//! before the stages run.

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

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        if input.path != Path::Routed || decision.destination.is_some() {
            return Verdict::Continue;
        }
        let own_network = cx.tables.network(input.network);
        let to_own_gateway = own_network.is_some_and(|own| own.is_gateway(input.destination));
        if !to_own_gateway {
            let on_uplink = cx.tables.uplink_with_address(input.destination).is_some();
            let from_outside = input.network == NetworkId::NONE;
            let other = cx.tables.network_towards(input.network, input.destination);
            let on_other = other.is_some_and(|other| other.is_gateway(input.destination));
            if !on_uplink && !on_other {
                return Verdict::Continue;
            }
            if from_outside && cx.tables.is_host(input.ingress, input.source) {
                return answer(input);
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

#[cfg(test)]
mod tests {
    use super::super::sample::{decide, frame, mac, tables, udp};
    use super::*;
    use crate::id::PortId;
    use crate::stage::Socket;

    fn local(input: &FlowInput) -> Verdict {
        decide(&mut Local, input, &tables()).0
    }

    /// The same packet of another protocol; of an echo request the type stands for the port.
    fn with(protocol: u8, destination_port: u16, input: FlowInput) -> FlowInput {
        FlowInput { protocol, destination_port, ..input }
    }

    #[test]
    fn our_own_address_echoes_and_says_that_ports_are_closed() {
        let asked = [
            udp(0, ("198.51.100.7", 5), ("192.0.2.10", 9)),
            udp(1, ("10.1.0.10", 5), ("192.0.2.10", 9)),
            udp(1, ("10.1.0.10", 5), ("10.1.0.1", 9)),
            udp(1, ("10.1.0.10", 5), ("10.2.0.1", 9)),
            udp(4, ("10.3.0.10", 5), ("10.3.0.1", 9)),
        ];
        for input in asked {
            let error = |kind| Verdict::Answer(Answer::Error(kind, DropReason::ClosedPort));
            assert_eq!(local(&input), error(ErrorKind::PortUnreachable), "{input:?}");
            let sctp = with(protocol::SCTP, 9, input);
            assert_eq!(local(&sctp), error(ErrorKind::ProtocolUnreachable));
            let reset = Verdict::Answer(Answer::Reset(DropReason::ClosedPort));
            assert_eq!(local(&with(protocol::TCP, 9, input)), reset);
            let echo = with(protocol::ICMP, 0x0800, input);
            assert_eq!(local(&echo), Verdict::Answer(Answer::Echo));
            let other = with(protocol::ICMP, 0x0d00, input);
            assert_eq!(local(&other), Verdict::Drop(DropReason::LocalUnhandled));
        }
    }

    #[test]
    fn what_is_not_ours_or_is_published_goes_on() {
        let asked = [
            udp(0, ("198.51.100.7", 5), ("192.0.2.11", 9)),
            udp(1, ("10.1.0.10", 5), ("10.1.0.2", 9)),
            udp(1, ("10.1.0.10", 5), ("10.1.0.0", 9)),
            frame(1, mac(2)),
        ];
        for input in asked {
            assert_eq!(local(&input), Verdict::Continue, "{input:?}");
        }
        let input = udp(0, ("198.51.100.7", 5), ("192.0.2.10", 5_300));
        let destination = Some(Socket { address: input.source, port: 53 });
        let mut decision =
            Decision { destination, published: Some(PortId(1)), ..Decision::default() };
        let tables = tables();
        let verdict = Local.decide(&input, &mut decision, &super::super::sample::cx(&tables));
        assert_eq!(verdict, Verdict::Continue);
    }

    #[test]
    fn a_gateway_of_a_network_is_silent_to_the_outside_and_to_internal_networks() {
        let from_outside = udp(0, ("198.51.100.7", 5), ("10.1.0.1", 9));
        assert_eq!(local(&from_outside), Verdict::Drop(DropReason::Unpublished));
        let internal = Verdict::Drop(DropReason::Internal);
        assert_eq!(local(&udp(4, ("10.3.0.10", 5), ("10.1.0.1", 9))), internal);
        assert_eq!(local(&udp(4, ("10.3.0.10", 5), ("192.0.2.10", 9))), internal);
        assert_eq!(local(&udp(1, ("10.1.0.10", 5), ("10.3.0.1", 9))), internal);
    }
}
