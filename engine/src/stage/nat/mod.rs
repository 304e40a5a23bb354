//! `nat`: which source a packet leaves with.
//!
//! Towards an uplink: the uplink's address, at the published port if the endpoint publishes its
//! source port, else at a port of the masquerade range. Mapping is endpoint-independent (RFC 4787
//! REQ-1): one inside socket has one outside port whoever it talks to. Inside one network through
//! a published port (hairpin): the network's gateway, or the server would answer the client
//! directly and be ignored. Otherwise the source stays.

mod mappings;

use std::net::IpAddr;

use mappings::{Inside, Mappings};

use super::{Cx, Decision, NextHop, Socket, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::FlowInput;
use crate::steer;
use crate::tables::PortKind;
use crate::wire::protocol;

/// Owns the mappings of this worker.
#[derive(Debug)]
pub(crate) struct Nat {
    mappings: Mappings,
}

impl Stage for Nat {
    const NAME: &'static str = "nat";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        match (decision.target, decision.forward) {
            (None, Some(NextHop::Neighbour(port, _))) => {
                let masquerade = cx.tables.network(input.network).is_some_and(|own| own.masquerade);
                match masquerade {
                    true => self.masquerade(input, decision, port, cx),
                    false => Verdict::Continue,
                }
            }
            (Some(target), _) if target == input.network && decision.published.is_some() => {
                self.hairpin(input, decision, cx)
            }
            _ => Verdict::Continue,
        }
    }
}

impl Nat {
    /// State for this many mappings.
    pub(crate) fn new(capacity: usize, seed: u64) -> Nat {
        Nat { mappings: Mappings::new(capacity, seed) }
    }

    /// A flow that uses the mapping was installed.
    pub(crate) fn hold(&mut self, mapping: u32) {
        self.mappings.hold(mapping);
    }

    /// A flow that used the mapping has ended.
    pub(crate) fn release(&mut self, mapping: u32) {
        self.mappings.release(mapping);
    }

    /// The decision was not used after all.
    pub(crate) fn forget(&mut self, mapping: u32) {
        self.mappings.forget_unused(mapping);
    }

    fn masquerade(
        &mut self,
        input: &FlowInput,
        decision: &mut Decision,
        port: crate::PortId,
        cx: &Cx,
    ) -> Verdict {
        let uplink = match cx.tables.port(port).map(|port| &port.kind) {
            Some(PortKind::Uplink(uplink)) => cx.tables.uplink(*uplink),
            _ => None,
        };
        let Some(outside) = uplink.and_then(|uplink| uplink.address_of(input.is_v6())) else {
            return Verdict::Drop(DropReason::NoOutsideAddress);
        };
        if !is_translated(input) {
            return Verdict::Drop(DropReason::ProtocolNotTranslated);
        }
        let publish = &cx.tables.publish;
        let own = publish.outward(input.source, input.protocol, input.source_port);
        if let Some(entry) = own {
            let port = entry.host_port_of(input.source_port);
            decision.source = Some(Socket { address: entry.host.unwrap_or(outside), port });
            return Verdict::Continue;
        }
        let inside = Inside {
            protocol: input.protocol,
            socket: Socket { address: input.source, port: input.source_port },
            outside,
            remote: None,
        };
        // Replies are steered by this class (see `steer`), and it keeps the port's parity.
        let class = usize::from(input.source_port / 2) % cx.worker_count;
        let is_free = |port: u16| {
            usize::from(port / 2) % cx.worker_count == class
                && port % 2 == input.source_port % 2
                && publish.by_host(outside, input.protocol, port).is_none()
        };
        self.take(inside, outside, decision, cx, is_free)
    }

    fn hairpin(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let network = cx.tables.network(input.network);
        let Some(gateway) = network.and_then(|network| network.gateway_of(input.is_v6())) else {
            return Verdict::Drop(DropReason::NoOutsideAddress);
        };
        let server = decision.destination_of(input);
        let inside = Inside {
            protocol: input.protocol,
            socket: Socket { address: input.source, port: input.source_port },
            outside: gateway,
            remote: Some(server),
        };
        // The server's replies are steered by this hash: choose a port that brings them here.
        let (protocol, count, seed) = (input.protocol, cx.worker_count, cx.seed);
        let is_free = |port: u16| {
            let back = Socket { address: gateway, port };
            steer::symmetric(protocol, server, back, count, seed) == cx.worker
        };
        self.take(inside, gateway, decision, cx, is_free)
    }

    fn take(
        &mut self,
        inside: Inside,
        outside: IpAddr,
        decision: &mut Decision,
        cx: &Cx,
        is_free: impl Fn(u16) -> bool,
    ) -> Verdict {
        let nat = &cx.tables.nat;
        let Some((mapping, port)) =
            self.mappings.take(&inside, nat.port_min, nat.port_max, is_free)
        else {
            return Verdict::Drop(DropReason::OutsidePortsUsedUp);
        };
        decision.mapping = Some(mapping);
        decision.source = Some(Socket { address: outside, port });
        Verdict::Continue
    }
}

/// True for what has a port to translate: TCP, UDP and ICMP queries.
fn is_translated(input: &FlowInput) -> bool {
    matches!(input.protocol, protocol::TCP | protocol::UDP) || input.is_echo()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{cx, ip, publish, tables, udp};
    use super::*;
    use crate::id::{NetworkId, PortId, WorkerId};
    use crate::tables::Tables;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// The decision about a packet on its way out by the uplink.
    fn leaving(v6: bool) -> Decision {
        let router = ip(if v6 { "2001:db8::1" } else { "192.0.2.1" });
        Decision { forward: Some(NextHop::Neighbour(PortId(0), router)), ..Decision::default() }
    }

    fn decide(nat: &mut Nat, input: &FlowInput, tables: &Tables) -> (Verdict, Option<Socket>) {
        let mut decision = leaving(input.is_v6());
        let verdict = nat.decide(input, &mut decision, &cx(tables));
        (verdict, decision.source)
    }

    fn out(source_port: u16) -> FlowInput {
        udp(1, ("10.1.0.10", source_port), ("198.51.100.7", 53))
    }

    fn outside(port: u16) -> Option<Socket> {
        Some(Socket { address: ip("192.0.2.10"), port })
    }

    #[test]
    fn a_packet_that_leaves_takes_the_address_of_the_uplink() {
        let (mut nat, tables) = (Nat::new(16, 1), tables());
        let kept = decide(&mut nat, &out(40_000), &tables);
        assert_eq!(kept, (Verdict::Continue, outside(40_000)));
        let v6 = udp(1, ("fd00:1::10", 40_000), ("2600::1", 53));
        let source = Some(Socket { address: ip("2001:db8::10"), port: 40_000 });
        assert_eq!(decide(&mut nat, &v6, &tables), (Verdict::Continue, source));
    }

    #[test]
    fn what_is_published_leaves_from_its_published_port_and_nobody_else_takes_that() {
        let (mut nat, mut tables) = (Nat::new(16, 1), tables());
        publish(&mut tables, 40_000, 2, 53);
        assert_eq!(decide(&mut nat, &out(54), &tables).1, outside(40_001));
        let (verdict, source) = decide(&mut nat, &out(40_000), &tables);
        assert_eq!(verdict, Verdict::Continue);
        assert!(source.unwrap().port > 40_001 || source.unwrap().port < 40_000);
    }

    #[test]
    fn a_network_without_masquerade_keeps_its_sources() {
        let (mut nat, mut tables) = (Nat::new(16, 1), tables());
        Arc::make_mut(tables.networks[0].as_mut().unwrap()).masquerade = false;
        assert_eq!(decide(&mut nat, &out(40_000), &tables), (Verdict::Continue, None));
    }

    #[test]
    fn what_cannot_be_translated_is_refused_with_its_reason() {
        let (mut nat, mut tables) = (Nat::new(4, 1), tables());
        let dropped = |reason| (Verdict::Drop(reason), None);
        let sctp = FlowInput { protocol: protocol::SCTP, ..out(40_000) };
        let reason = DropReason::ProtocolNotTranslated;
        assert_eq!(decide(&mut nat, &sctp, &tables), dropped(reason));
        // No port is left: the only one of the range is published.
        let settings = Arc::make_mut(&mut tables.nat);
        (settings.port_min, settings.port_max) = (50_000, 50_000);
        publish(&mut tables, 50_000, 1, 9);
        let reason = DropReason::OutsidePortsUsedUp;
        assert_eq!(decide(&mut nat, &out(40_000), &tables), dropped(reason));
        Arc::make_mut(tables.uplinks[0].as_mut().unwrap()).addresses.clear();
        let reason = DropReason::NoOutsideAddress;
        assert_eq!(decide(&mut nat, &out(40_000), &tables), dropped(reason));
    }

    #[test]
    fn mappings_that_nobody_holds_make_room_and_held_ones_do_not() {
        let (mut nat, tables) = (Nat::new(2, 1), tables());
        let taken = |nat: &mut Nat, port| {
            let mut decision = leaving(false);
            let verdict = nat.decide(&out(port), &mut decision, &cx(&tables));
            (verdict == Verdict::Continue).then(|| decision.mapping.unwrap())
        };
        let held = [taken(&mut nat, 40_000).unwrap(), taken(&mut nat, 40_001).unwrap()];
        held.iter().for_each(|&mapping| nat.hold(mapping));
        assert_eq!(taken(&mut nat, 40_002), None);
        nat.release(held[0]);
        let unused = taken(&mut nat, 40_002).unwrap();
        nat.forget(unused);
        assert!(taken(&mut nat, 40_003).is_some());
    }

    proptest! {
        #[test]
        fn an_outside_port_keeps_parity_and_the_worker_of_its_source_port(
            ports in prop::collection::vec(any::<u16>(), 1..40), worker_count in 1usize..9,
        ) {
            let (mut nat, tables) = (Nat::new(64, 1), tables());
            let mut taken = std::collections::HashMap::new();
            for port in ports {
                let worker = WorkerId((usize::from(port / 2) % worker_count) as u8);
                let cx = Cx { worker, worker_count, ..cx(&tables) };
                let mut decision = leaving(false);
                prop_assert_eq!(nat.decide(&out(port), &mut decision, &cx), Verdict::Continue);
                let outside_port = decision.source.unwrap().port;
                prop_assert!(outside_port >= tables.nat.port_min);
                prop_assert_eq!(outside_port % 2, port % 2);
                let home = usize::from(outside_port / 2) % worker_count;
                prop_assert_eq!(home, worker.index());
                let owner = *taken.entry(outside_port).or_insert(port);
                prop_assert_eq!(owner, port, "no two sockets share an outside port");
            }
        }

        #[test]
        fn a_hairpin_port_brings_the_reply_to_the_same_worker(
            port in any::<u16>(), worker in 0u8..4,
        ) {
            let (mut nat, tables) = (Nat::new(64, 1), tables());
            let cx = Cx { worker: WorkerId(worker), worker_count: 4, ..cx(&tables) };
            let server = Socket { address: ip("10.1.0.10"), port: 53 };
            let mut decision = Decision {
                destination: Some(server),
                published: Some(PortId(1)),
                target: Some(NetworkId(0)),
                forward: Some(NextHop::Endpoint(PortId(1))),
                ..Decision::default()
            };
            let input = udp(2, ("10.1.0.11", port), ("192.0.2.10", 5_300));
            prop_assert_eq!(nat.decide(&input, &mut decision, &cx), Verdict::Continue);
            let gateway = decision.source.unwrap();
            prop_assert_eq!(gateway.address, ip("10.1.0.1"));
            let home = steer::symmetric(input.protocol, server, gateway, 4, cx.seed);
            prop_assert_eq!(home, WorkerId(worker));
        }
    }
}
