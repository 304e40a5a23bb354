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
        let own = publish.by_target(input.source, input.protocol, input.source_port);
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
