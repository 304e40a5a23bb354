//! `nat`: which source a packet leaves with, and whom a packet to a mapped port reaches.
//!
//! Towards an uplink: the outside address of a static translation; else the uplink's address, at
//! the published port if the endpoint publishes its source port, else at a port of the masquerade
//! range. Mapping is endpoint-independent (RFC 4787 REQ-1): one inside socket has one outside port
//! whoever it talks to. Of several outside addresses an inside one keeps to one (REQ-2). Inside one
//! network through a published port (hairpin): the network's gateway, or the server would answer
//! the client directly and be ignored; the same for the host's loopback addresses. Otherwise the
//! source stays.
//!
//! To an outside port of a mapping, from inside (RFC 4787 REQ-9): the packet leaves as if it went
//! out, and *turns round* at [`PortId::TURN`] instead of an uplink. What comes in there is looked
//! at as if it came from outside, so both sides see each other's outside sockets, and each side's
//! mapping stays with the worker that it belongs to. Whoever turns round has a mapping for it, also
//! who leaves otherwise by a published port, as a static address or untranslated: LIMIT, RFC 4787
//! REQ-9 would show that socket's other outside tuple.

mod mappings;
mod permissions;

use std::net::IpAddr;

use mappings::{Inside, Mapping, Mappings, Range};
use permissions::Permissions;

use super::{Cx, Decision, NextHop, Socket, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::{FlowInput, Path, mix, seed_for};
use crate::id::{NetworkId, PortId};
use crate::limits::{Filtering, NatSettings};
use crate::steer;
use crate::tables::{PortKind, Tables, Uplink};
use crate::wire::protocol;

/// Owns the mappings of this worker.
#[derive(Debug)]
pub(crate) struct Nat {
    mappings: Mappings,
    permissions: Permissions,
    capacity: usize,
    seed: u64,
    /// By family, as what and by which port the last one left that was masqueraded.
    recent: [Option<(IpAddr, PortId)>; 2],
}

impl Stage for Nat {
    const NAME: &'static str = "nat";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        match (decision.target, decision.forward) {
            (None, Some(NextHop::Neighbour(port, _))) => {
                let uplink = uplink_of(port, input, cx.tables);
                if port == PortId::TURN {
                    return self.masquerade(input, decision, uplink, cx);
                }
                let statics = cx.tables.nat.statics.by_inside(input.network, input.source);
                if let Some(one) = statics.filter(|one| uplink.is_some_and(|u| u.owns(one.outside)))
                {
                    return keep_port(one.outside, input, decision);
                }
                let masquerade = cx.tables.network(input.network).is_some_and(|own| own.masquerade);
                match masquerade {
                    true => self.masquerade(input, decision, uplink, cx),
                    false => Verdict::Continue,
                }
            }
            (Some(target), _) if decision.published.is_some() => {
                let other_family =
                    decision.destination_of(input).address.is_ipv6() != input.is_v6();
                let from_loopback = cx.tables.is_from_loopback(input);
                match target == input.network || other_family || from_loopback {
                    true => self.hairpin(input, decision, target, cx),
                    false => Verdict::Continue,
                }
            }
            _ => Verdict::Continue,
        }
    }
}

impl Nat {
    /// State for this many mappings.
    pub(crate) fn new(capacity: usize, seed: u64) -> Nat {
        let permissions = Permissions::new(0, seed);
        let mappings = Mappings::new(capacity, seed);
        Nat { mappings, permissions, capacity, seed, recent: [None; 2] }
    }

    /// Other settings are in force. May take memory: not for the packet path.
    pub(crate) fn adopt(&mut self, settings: &NatSettings, is_wanted_before: bool) {
        let is_wanted = settings.filtering == Filtering::Address;
        if is_wanted && !is_wanted_before {
            self.permissions = Permissions::new(self.capacity, self.seed);
        }
    }

    /// A flow that uses the mapping was installed, for a packet with this input.
    pub(crate) fn hold(&mut self, mapping: u32, input: &FlowInput) {
        let is_inside = input.network != NetworkId::NONE;
        self.mappings.hold(mapping, is_inside.then_some(input.ingress));
        if is_inside {
            self.permissions.hold(mapping, input.destination);
        }
    }

    /// Such a flow has ended.
    pub(crate) fn release(&mut self, mapping: u32, input: &FlowInput) {
        self.mappings.release(mapping);
        if input.network != NetworkId::NONE {
            self.permissions.release(mapping, input.destination);
        }
    }

    /// The decision was not used after all.
    pub(crate) fn forget(&mut self, mapping: u32) {
        self.mappings.forget_unused(mapping);
    }

    /// What a decision changes besides its mapping: for [`undo`](Self::undo).
    pub(crate) fn mark(&self) -> u64 {
        self.mappings.next
    }

    /// Leaves everything as it was before a decision that was only asked about.
    pub(crate) fn undo(&mut self, mark: u64, mapping: Option<u32>) {
        if let Some(mapping) = mapping {
            self.forget(mapping);
        }
        self.mappings.next = mark;
    }

    /// As what and by which port the last one left that was masqueraded: a guess at the next.
    pub(crate) fn recent(&self, is_v6: bool) -> Option<(IpAddr, PortId)> {
        self.recent[usize::from(is_v6)]
    }

    /// Loads the memory of a mapping.
    pub(crate) fn fetch_mapping(&self, id: u32) -> u64 {
        self.mappings.fetch(id)
    }

    /// Loads where a mapping is found.
    pub(crate) fn fetch_mapped(&self, id: u32) -> u64 {
        self.mappings.fetch_places(id)
    }

    /// Loads where a mapping of this socket would be found.
    pub(crate) fn fetch_new(
        &self,
        (network, protocol): (NetworkId, u8),
        socket: Socket,
        outside: IpAddr,
    ) -> u64 {
        let (remote, is_shared) = (None, false);
        let inside = Inside { network, protocol, socket, outside, remote, is_shared };
        self.mappings.fetch_new(&inside)
    }

    /// Mappings that there are.
    pub(crate) fn count(&self) -> usize {
        self.mappings.count()
    }

    /// Mappings that shared a port, ever.
    pub(crate) fn shared_total(&self) -> u64 {
        self.mappings.shared_total
    }

    /// A packet to one of our own addresses at a port of the masquerade range that is published to
    /// nobody: from inside it turns round, from outside it reaches who has the port, if the
    /// filtering lets it. `held`: the mapping of the flow that is decided again, which was let in.
    pub(crate) fn unmap(
        &mut self,
        input: &FlowInput,
        decision: &mut Decision,
        held: Option<u32>,
        cx: &Cx,
    ) -> Verdict {
        let (protocol, port) = (input.protocol, input.destination_port);
        let is_mapped = decision.destination.is_none()
            && input.path == Path::Routed
            && has_ports(protocol)
            && cx.tables.nat.has_port(port)
            && cx.tables.uplink_with_address(input.destination).is_some();
        if !is_mapped {
            return Verdict::Continue;
        }
        if input.network != NetworkId::NONE {
            decision.destination = Some(Socket { address: input.destination, port });
            decision.forward = Some(NextHop::Neighbour(PortId::TURN, input.destination));
            return Verdict::Continue;
        }
        let Some((id, mapping)) = self.mappings.by_outside(input.destination, protocol, port)
        else {
            // RFC 5382 REQ-4: no answer to a SYN that may be half of a simultaneous open.
            return match protocol {
                protocol::TCP => Verdict::Drop(DropReason::Filtered),
                _ => Verdict::Continue,
            };
        };
        let is_let_in = match cx.tables.nat.filtering {
            _ if held == Some(id) => true,
            // Its replies would leave as something else.
            _ if input.ingress != PortId::TURN && !leaves_by(mapping, protocol, cx.tables) => false,
            Filtering::AddressAndPort => false,
            Filtering::Address => self.permissions.has(id, input.source),
            Filtering::Endpoint => true,
        };
        if !is_let_in {
            return Verdict::Drop(DropReason::Filtered);
        }
        decision.destination = Some(mapping.inside.socket);
        decision.published = Some(mapping.ingress);
        decision.mapping = Some(id);
        Verdict::Continue
    }

    fn masquerade(
        &mut self,
        input: &FlowInput,
        decision: &mut Decision,
        uplink: Option<&Uplink>,
        cx: &Cx,
    ) -> Verdict {
        let Some((uplink, first)) =
            uplink.and_then(|one| Some((one, one.address_of(input.is_v6())?)))
        else {
            return Verdict::Drop(DropReason::NoOutsideAddress);
        };
        let of_network = source_of_network(uplink, input, cx);
        if !is_translated(input) {
            return Verdict::Drop(DropReason::ProtocolNotTranslated);
        }
        let (publish, nat) = (&cx.tables.publish, &cx.tables.nat);
        let own = publish.outward(input.network, input.source, input.protocol, input.source_port);
        let turns = decision.forward.is_some_and(|hop| hop.port() == PortId::TURN);
        if let Some(entry) = own.filter(|_| !turns) {
            let port = entry.host_port_of(input.source_port);
            // Not paired: clients know the first address, and expect answers from it.
            let outside = of_network.unwrap_or(first);
            let host = entry.host.map(|host| uplink.host.stand_in_for(host).unwrap_or(host));
            decision.source = Some(Socket { address: host.unwrap_or(outside), port });
            return Verdict::Continue;
        }
        let outside = of_network.or_else(|| paired(uplink, input, cx)).unwrap_or(first);
        self.recent[usize::from(input.is_v6())] = Some((outside, uplink.port));
        let inside = Inside {
            network: input.network,
            protocol: input.protocol,
            socket: Socket { address: input.source, port: input.source_port },
            outside,
            remote: None,
            is_shared: false,
        };
        // Replies are steered by this class (see `steer`). RFC 4787 REQ-4: UDP keeps its parity.
        let class = usize::from(input.source_port / 2) % cx.worker_count;
        let any_parity = input.protocol != protocol::UDP;
        let is_free = |port: u16| {
            usize::from(port / 2) % cx.worker_count == class
                && (any_parity || port % 2 == input.source_port % 2)
                && (any_parity || nat.reserved.binary_search(&port).is_err())
                && publish.by_host(outside, input.protocol, port).is_none()
        };
        if input.protocol != protocol::TCP {
            return self.take(inside, decision, input, cx, is_free);
        }
        // Whoever has a shared port keeps it; who has none takes one when there is no other.
        let remote = Some(decision.destination_of(input));
        let shared = Inside { remote, is_shared: true, ..inside };
        if self.mappings.find(&shared).is_some() {
            return self.take(shared, decision, input, cx, is_free);
        }
        match self.take(inside, decision, input, cx, is_free) {
            Verdict::Drop(_) => self.take(shared, decision, input, cx, is_free),
            verdict => verdict,
        }
    }

    /// The server sees its network's gateway: a member of its own, or a client of the other address
    /// family, which has no address there.
    fn hairpin(
        &mut self,
        input: &FlowInput,
        decision: &mut Decision,
        target: NetworkId,
        cx: &Cx,
    ) -> Verdict {
        let server = decision.destination_of(input);
        let network = cx.tables.network(target);
        let gateway = network.and_then(|network| network.gateway_of(server.address.is_ipv6()));
        let Some(gateway) = gateway else {
            return Verdict::Drop(DropReason::NoOutsideAddress);
        };
        if !is_translated(input) {
            return Verdict::Drop(DropReason::ProtocolNotTranslated);
        }
        let inside = Inside {
            network: input.network,
            protocol: input.protocol,
            socket: Socket { address: input.source, port: input.source_port },
            outside: gateway,
            remote: Some(server),
            is_shared: false,
        };
        // The server's replies are steered by this hash: choose a port that brings them here. The
        // answer to an echo carries its type where the server's port stands.
        let at = if input.is_echo() { Socket { port: 0, ..server } } else { server };
        let (protocol, count, seed) = (input.protocol, cx.worker_count, cx.seed);
        let is_free = |port: u16| {
            let back = Socket { address: gateway, port };
            steer::symmetric(protocol, at, back, count, seed) == cx.worker
        };
        self.take(inside, decision, input, cx, is_free)
    }

    fn take(
        &mut self,
        inside: Inside,
        decision: &mut Decision,
        input: &FlowInput,
        cx: &Cx,
        is_free: impl Fn(u16) -> bool,
    ) -> Verdict {
        let nat = &cx.tables.nat;
        let range = Range { min: nat.port_min, max: nat.port_max, worker_count: cx.worker_count };
        let Some((mapping, port)) = self.mappings.take(&inside, input.ingress, range, is_free)
        else {
            return Verdict::Drop(DropReason::OutsidePortsUsedUp);
        };
        decision.mapping = Some(mapping);
        decision.source = Some(Socket { address: inside.outside, port });
        Verdict::Continue
    }
}

/// The uplink that a packet leaves by; of one that turns round, the uplink whose address it goes
/// to.
fn uplink_of<'t>(egress: PortId, input: &FlowInput, tables: &'t Tables) -> Option<&'t Uplink> {
    if egress == PortId::TURN {
        return tables.uplink_with_address(input.destination);
    }
    match &tables.port(egress)?.kind {
        PortKind::Uplink(uplink) => tables.uplink(*uplink),
        PortKind::Endpoint(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => None,
    }
}

/// True if what the mapping's socket sends to the outside leaves by the mapping, and not as a
/// static address, by a published port or as it is.
fn leaves_by(mapping: &Mapping, protocol: u8, tables: &Tables) -> bool {
    let Socket { address, port } = mapping.inside.socket;
    let network = match tables.port(mapping.ingress).map(|port| &port.kind) {
        Some(PortKind::Endpoint(attachment)) => tables.network(attachment.network),
        Some(PortKind::Tunnel(tunnel)) => tables.network(tunnel.network),
        _ => None,
    };
    network.is_some_and(|network| {
        network.masquerade
            && tables.nat.statics.by_inside(network.id, address).is_none()
            && tables.publish.outward(network.id, address, protocol, port).is_none()
    })
}

/// The outside address that a network has for itself.
fn source_of_network(uplink: &Uplink, input: &FlowInput, cx: &Cx) -> Option<IpAddr> {
    let (nat, v6) = (&cx.tables.nat, input.is_v6());
    let from = nat.sources.partition_point(|(network, _)| *network < input.network);
    nat.sources[from..]
        .iter()
        .take_while(|(network, _)| *network == input.network)
        .find(|(_, address)| address.is_ipv6() == v6 && uplink.owns(*address))
        .map(|(_, address)| *address)
}

/// One of the uplink's pool of outside addresses, always the same for one source (RFC 4787 REQ-2).
/// Each pairs by the highest of hashes, so that an address that comes or goes moves only those that
/// it is for.
fn paired(uplink: &Uplink, input: &FlowInput, cx: &Cx) -> Option<IpAddr> {
    let (nat, v6) = (&cx.tables.nat, input.is_v6());
    let pool = nat.pools.iter().find(|(id, _)| *id == uplink.id);
    let pool = pool.map_or(&[][..], |(_, addresses)| addresses);
    let candidates = pool.iter().copied().filter(|address| address.is_ipv6() == v6);
    let source = hash(input.source, cx.seed);
    candidates.max_by_key(|address| mix(hash(*address, cx.seed), source))
}

fn hash(address: IpAddr, seed: u64) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    mix(bits as u64 ^ seed_for(seed, 40), (bits >> 64) as u64 ^ seed_for(seed, 41))
}

/// Leaves as this address, whatever the protocol has for a port.
fn keep_port(outside: IpAddr, input: &FlowInput, decision: &mut Decision) -> Verdict {
    if input.protocol == protocol::AUTHENTICATION {
        return Verdict::Drop(DropReason::ProtocolNotTranslated);
    }
    decision.source = Some(Socket { address: outside, port: input.source_port });
    Verdict::Continue
}

/// True for a protocol that mappings may let in.
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// True for what has a port to translate: TCP, UDP, SCTP and ICMP queries.
fn is_translated(input: &FlowInput) -> bool {
    has_ports(input.protocol) || input.is_echo()
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
        let tunnel = FlowInput { protocol: 47, ..out(40_000) };
        let reason = DropReason::ProtocolNotTranslated;
        assert_eq!(decide(&mut nat, &tunnel, &tables), dropped(reason));
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
        held.iter().for_each(|&mapping| nat.hold(mapping, &out(1)));
        assert_eq!(taken(&mut nat, 40_002), None);
        nat.release(held[0], &out(1));
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
