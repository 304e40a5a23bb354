//! `policy`: who may reach whom.
//!
//! First the operator's rules, in their order, on addresses and ports as the packet came with them;
//! the first that fits decides. Then Docker's forwarding policy as one list, not as chains:
//!
//! 1. To an endpoint's own address from elsewhere than its network: only if the network is
//!    `routed` or `nat-unprotected` or the uplink is trusted (an internal network: see 3).
//! 2. (A published port leads to its endpoint: `publish` did that.)
//! 3. Into a network. From itself: if `icc`, or by a published port. If it is internal: from
//!    nowhere else. Else by a published port, or straight to a port that is published there; by
//!    ICMP if it is `routed`; in any way if it is `nat-unprotected`.
//! 4. Out of a network: unless it is internal.
//! 5. (The source changes: `nat` does that.)
//!
//! The machine that the gateway runs on is not asked: Docker's rules are about what is forwarded.
//! A rule that allows replaces the list, but opens no internal network and makes no transit between
//! uplinks.

use super::{Answer, Cx, Decision, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::FlowInput;
use crate::id::NetworkId;
use crate::reply::ErrorKind;
use crate::tables::{GatewayMode, Network, PortKind, Question, RuleAction, Uplink};
use crate::wire::protocol;

/// Has no state: the rules are in the tables.
#[derive(Debug, Default)]
pub(crate) struct Policy;

impl Stage for Policy {
    const NAME: &'static str = "policy";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let from = cx.tables.network(input.network);
        let to = decision.target.and_then(|target| cx.tables.network(target));
        if let Some(reason) = closed_to_all(input, from, to, cx) {
            return Verdict::Drop(reason);
        }
        let unfiltered = [from, to].into_iter().flatten().any(|network| network.unfiltered);
        let asked = question(input, decision).filter(|_| !unfiltered);
        let rule = asked.and_then(|asked| cx.tables.policy.verdict(&asked));
        decision.rule = rule.and_then(|(index, _)| u16::try_from(index).ok());
        match rule {
            Some((_, RuleAction::Allow)) => return Verdict::Continue,
            Some((_, RuleAction::Deny)) => return Verdict::Drop(DropReason::PolicyDenied),
            Some((_, RuleAction::Reject)) => return reject(input),
            None => {}
        }
        // Out of a network is open to all that is not internal.
        let Some(to) = to else { return Verdict::Continue };
        match into(input, decision, to, cx) {
            Some(reason) => Verdict::Drop(reason),
            None => Verdict::Continue,
        }
    }
}

/// What no rule opens: transit between uplinks, and internal networks from and to anywhere else.
fn closed_to_all(
    input: &FlowInput,
    from: Option<&Network>,
    to: Option<&Network>,
    cx: &Cx,
) -> Option<DropReason> {
    let same = from.zip(to).is_some_and(|(from, to)| from.id == to.id);
    let internal = |network: Option<&Network>| network.is_some_and(|network| network.internal);
    if input.network == NetworkId::NONE && to.is_none() {
        return Some(DropReason::NotRoutable);
    }
    if same || !(internal(from) || internal(to)) {
        return None;
    }
    // An internal network still has its machine, unless it is isolated.
    let reached =
        to.is_some_and(Network::has_gateway) && cx.tables.is_host(input.ingress, input.source);
    (!reached).then_some(DropReason::Internal)
}

/// The list's steps 1 and 3: why the packet may not go into this network.
fn into(input: &FlowInput, decision: &Decision, to: &Network, cx: &Cx) -> Option<DropReason> {
    let published = decision.published.is_some();
    if input.network == to.id {
        return (!to.icc && !published).then_some(DropReason::IccOff);
    }
    if published || cx.tables.is_host(input.ingress, input.source) {
        return None;
    }
    let closed = match input.network == NetworkId::NONE {
        true => DropReason::Unpublished,
        false => DropReason::OtherNetwork,
    };
    let is_icmp = matches!(input.protocol, protocol::ICMP | protocol::ICMPV6);
    let is_published_there = || {
        let (address, port) = (input.destination, input.destination_port);
        cx.tables.publish.by_target(to.id, address, input.protocol, port).is_some()
    };
    let open = match to.mode {
        GatewayMode::NatUnprotected => true,
        GatewayMode::Routed => is_icmp || is_published_there(),
        GatewayMode::Nat | GatewayMode::Isolated => {
            uplink(input, cx).is_some_and(|uplink| uplink.trusted) && is_published_there()
        }
    };
    (!open).then_some(closed)
}

/// The uplink that a packet came in by.
fn uplink<'t>(input: &FlowInput, cx: &Cx<'t>) -> Option<&'t Uplink> {
    match cx.tables.port(input.ingress)?.kind {
        PortKind::Uplink(uplink) => cx.tables.uplink(uplink),
        PortKind::Endpoint(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => None,
    }
}

/// What rules are asked. `None`: the packet goes nowhere, so there is nothing to ask.
fn question(input: &FlowInput, decision: &Decision) -> Option<Question> {
    let has_ports = matches!(input.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let port = |port: u16| if has_ports { port } else { 0 };
    Some(Question {
        from: input.ingress,
        from_network: input.network,
        to: decision.forward?.port(),
        to_network: decision.target.unwrap_or(NetworkId::NONE),
        source: input.source,
        destination: input.destination,
        protocol: input.protocol,
        source_port: port(input.source_port),
        destination_port: port(input.destination_port),
    })
}

fn reject(input: &FlowInput) -> Verdict {
    let reason = DropReason::PolicyRejected;
    Verdict::Answer(match input.protocol {
        protocol::TCP => Answer::Reset(reason),
        // As nftables' and iptables' own REJECT says it.
        _ => Answer::Error(ErrorKind::PortUnreachable, reason),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{cx, ip, publish, tables, udp};
    use super::*;
    use crate::id::PortId;
    use crate::stage::NextHop;
    use crate::tables::{
        Policy as Rules, Publish, PublishEntry, Rule, RulePorts, RuleSide, Tables,
    };
    use std::sync::Arc;

    /// The network of each port of the sample, and the member that is asked for in it.
    const NETWORK_OF: [Option<u16>; 5] = [None, Some(0), Some(0), Some(1), Some(2)];
    const INTERNAL: u16 = 2;

    /// What is asked: from a port, to a network or out.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        ingress: u16,
        target: Option<u16>,
        /// By the uplink's address and a published port.
        by_host: bool,
        /// The port asked at the endpoint's own address is a published one.
        is_open: bool,
        icc: bool,
        mode: GatewayMode,
        trusted: bool,
        icmp: bool,
    }

    fn change(tables: &mut Tables, index: usize, change: impl FnOnce(&mut Network)) {
        change(Arc::make_mut(tables.networks[index].as_mut().unwrap()));
    }

    fn policy(case: Case, rules: Vec<Rule>) -> Verdict {
        let mut tables = tables();
        let is_target = |index: usize| case.target == Some(index as u16);
        for index in 0..3 {
            change(&mut tables, index, |network| {
                network.icc = case.icc;
                network.mode = if is_target(index) { case.mode } else { GatewayMode::Nat };
            });
        }
        Arc::make_mut(tables.uplinks[0].as_mut().unwrap()).trusted = case.trusted;
        tables.policy = Arc::new(Rules::new(1, rules));
        publish(&mut tables, 5_300, 1, if case.is_open { 53 } else { 54 });
        let network = NetworkId(case.target.unwrap_or(0));
        let entries = tables.publish.entries().iter().cloned();
        let entries = entries.map(|entry| PublishEntry { network, ..entry });
        tables.publish = Arc::new(Publish::new(2, entries.collect()));
        let member = [PortId(1), PortId(3), PortId(4)];
        let destination = match case.target {
            Some(_) if case.by_host => "192.0.2.10",
            Some(_) => "10.1.0.10",
            None => "198.51.100.7",
        };
        let source = ["198.51.100.9", "10.1.0.10", "10.1.0.11", "10.2.0.10", "10.3.0.10"];
        let source = source[usize::from(case.ingress)];
        let mut input = udp(case.ingress, (source, 1), (destination, 53));
        if case.icmp {
            (input.protocol, input.destination_port) = (protocol::ICMP, 0x0800);
        }
        let forward = match case.target {
            Some(target) => NextHop::Endpoint(member[usize::from(target)]),
            None => NextHop::Neighbour(PortId(0), ip("192.0.2.1")),
        };
        let mut decision = Decision {
            target: case.target.map(NetworkId),
            published: case.by_host.then_some(PortId(1)),
            forward: Some(forward),
            ..Decision::default()
        };
        Policy.decide(&input, &mut decision, &cx(&tables))
    }

    fn from_outside(by_host: bool) -> Case {
        Case {
            ingress: 0,
            target: Some(0),
            by_host,
            is_open: false,
            icc: true,
            mode: GatewayMode::Nat,
            trusted: false,
            icmp: false,
        }
    }

    #[test]
    fn from_outside_only_published_ports_are_reached() {
        let dropped = |case, reason| assert_eq!(policy(case, vec![]), Verdict::Drop(reason));
        assert_eq!(policy(from_outside(true), vec![]), Verdict::Continue);
        dropped(from_outside(false), DropReason::Unpublished);
        dropped(Case { target: Some(2), ..from_outside(true) }, DropReason::Internal);
        dropped(Case { target: None, ..from_outside(false) }, DropReason::NotRoutable);
        // A published port is no reason to ask for it at the endpoint's own address.
        dropped(Case { is_open: true, ..from_outside(false) }, DropReason::Unpublished);
    }

    #[test]
    fn a_trusted_uplink_reaches_published_ports_at_the_endpoints_own_address() {
        let trusted = Case { trusted: true, ..from_outside(false) };
        assert_eq!(policy(trusted, vec![]), Verdict::Drop(DropReason::Unpublished));
        assert_eq!(policy(Case { is_open: true, ..trusted }, vec![]), Verdict::Continue);
    }

    #[test]
    fn every_combination_is_decided_by_dockers_rules() {
        use GatewayMode::{Nat, NatUnprotected, Routed};
        let flags = 0..32_u8;
        for (ingress, source) in NETWORK_OF.iter().enumerate() {
            for target in [None, Some(0), Some(1), Some(INTERNAL)] {
                for (flags, mode) in flags
                    .clone()
                    .flat_map(|flags| [Nat, NatUnprotected, Routed].map(|mode| (flags, mode)))
                {
                    let [by_host, is_open, icc, trusted, icmp] =
                        [1, 2, 4, 8, 16].map(|bit| flags & bit != 0);
                    let ingress = ingress as u16;
                    let case = Case { ingress, target, by_host, is_open, icc, mode, trusted, icmp };
                    let is_internal = |network: Option<u16>| network == Some(INTERNAL);
                    let closed = *source != target && (is_internal(*source) || is_internal(target))
                        || source.is_none() && target.is_none();
                    let open = is_open && !icmp;
                    let straight = match mode {
                        NatUnprotected => true,
                        Routed => open || icmp,
                        _ => open && trusted && source.is_none(),
                    };
                    let allowed = !closed
                        && match target {
                            None => true,
                            _ if *source == target => icc || by_host,
                            Some(_) => by_host || straight,
                        };
                    let verdict = policy(case, vec![]);
                    assert_eq!(verdict == Verdict::Continue, allowed, "{case:?}: {verdict:?}");
                }
            }
        }
    }

    #[test]
    fn the_machine_itself_reaches_every_endpoint_but_isolated_ones() {
        let reach = |target: u16, mode: GatewayMode| {
            let mut tables = tables();
            change(&mut tables, usize::from(target), |network| network.mode = mode);
            Arc::make_mut(tables.uplinks[0].as_mut().unwrap()).host.peers = vec![ip("192.0.2.1")];
            let to = format!("10.{}.0.10", target + 1);
            let mut decision = Decision {
                target: Some(NetworkId(target)),
                forward: Some(NextHop::Endpoint(PortId(1))),
                ..Decision::default()
            };
            let input = udp(0, ("192.0.2.1", 1), (&to, 2));
            Policy.decide(&input, &mut decision, &cx(&tables))
        };
        assert_eq!(reach(0, GatewayMode::Nat), Verdict::Continue);
        assert_eq!(reach(0, GatewayMode::Routed), Verdict::Continue);
        assert_eq!(reach(2, GatewayMode::Nat), Verdict::Continue);
        assert_eq!(reach(2, GatewayMode::Isolated), Verdict::Drop(DropReason::Internal));
    }

    fn rule(action: RuleAction, from: RuleSide, to: RuleSide) -> Rule {
        Rule { action, from, to, from_ports: None, to_ports: None }
    }

    #[test]
    fn the_first_rule_that_fits_comes_before_the_list_but_opens_nothing_internal() {
        let any = RuleSide::default;
        let client =
            || RuleSide { prefixes: Some(vec!["198.51.100.9/32".parse().unwrap()]), ..any() };
        let deny = rule(RuleAction::Deny, client(), any());
        let allow = rule(RuleAction::Allow, any(), any());
        let reject = rule(RuleAction::Reject, any(), any());
        let denied = Verdict::Drop(DropReason::PolicyDenied);
        assert_eq!(policy(from_outside(true), vec![deny.clone(), allow.clone()]), denied);
        let first = vec![allow.clone(), deny];
        assert_eq!(policy(from_outside(false), first.clone()), Verdict::Continue);
        let internal = Case { target: Some(2), ..from_outside(true) };
        assert_eq!(policy(internal, first.clone()), Verdict::Drop(DropReason::Internal));
        let transit = Case { target: None, ..from_outside(false) };
        assert_eq!(policy(transit, first), Verdict::Drop(DropReason::NotRoutable));
        let (kind, reason) = (ErrorKind::PortUnreachable, DropReason::PolicyRejected);
        let told = Verdict::Answer(Answer::Error(kind, reason));
        assert_eq!(policy(from_outside(true), vec![reject]), told);
    }

    #[test]
    fn rules_are_asked_with_the_ports_of_the_host() {
        let ports = |port| {
            let range = RulePorts { protocol: protocol::UDP, first: port, last: port };
            let deny = rule(RuleAction::Deny, RuleSide::default(), RuleSide::default());
            Rule { to_ports: Some(vec![range]), ..deny }
        };
        // The sample asks at port 53, which leads to another one where it is published.
        let denied = Verdict::Drop(DropReason::PolicyDenied);
        assert_eq!(policy(from_outside(true), vec![ports(53)]), denied);
        assert_eq!(policy(from_outside(true), vec![ports(54)]), Verdict::Continue);
        let network = RuleSide { network: Some(NetworkId(0)), ..RuleSide::default() };
        let uplink = RuleSide { behind: Some(vec![PortId(0)]), ..RuleSide::default() };
        let both = rule(RuleAction::Deny, uplink, network);
        assert_eq!(policy(from_outside(true), vec![both.clone()]), denied);
        let inside = Case { ingress: 2, ..from_outside(true) };
        assert_eq!(policy(inside, vec![both]), Verdict::Continue);
    }
}
