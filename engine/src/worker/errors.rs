//! ICMP errors on their way back: an error about a packet of a live flow is carried to whoever
//! sent that packet, with everything in it turned back.
//!
//! An error quotes the packet as it left the gateway. The reverse of the quoted tuple, by the port
//! that the error came in on, is the key of the flow's other side; that side's action says where
//! the error goes and what the quote read before. Nothing more is asked, so every form of NAT
//! (masqueraded, published, hairpin, none) is one case. Hard constraint: an error changes no state
//! (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10). It neither starts, refreshes nor ends a
//! flow, and one that matches none is counted and forgotten.

use std::net::IpAddr;

use super::core::Core;
use super::flows::{Flows, Revalidated, ports_of};
use crate::counters::DropReason;
use crate::execute::{Edit, fits};
use crate::flow::{
    ActionKind, FlowAction, FlowInput, FlowKey, SideId, pack_ingress, pack_transport,
};
use crate::id::{PortId, WorkerId};
use crate::packet::{Notes, Packet};
use crate::quote::{self, Quote};
use crate::stage::is_martian;
use crate::wire::{icmp, protocol};

/// Where an error goes: to a flow of this worker, or to another worker.
enum Owner {
    Side(SideId),
    Worker(WorkerId),
    /// A flow between families.
    Across(SideId),
    /// No flow of this family here; what one would be told by.
    Unknown(FlowInput),
}

impl<F: Edit> Flows<F> {
    /// An ICMP error to the gateway's MAC address.
    pub(super) fn route_error(&mut self, core: &mut Core, mut packet: Packet, hops: u8) {
        let quote = match examine::<F>(&mut packet) {
            Ok(quote) => quote,
            Err(reason) => return core.drop(packet, reason),
        };
        if let Some(path) = core.underlay_path(&packet, &quote) {
            let source = source_of::<F>(&packet);
            return core.hear_underlay(packet, source, &quote, &path);
        }
        match self.owner(core, &packet, &quote) {
            Ok(Owner::Side(side)) => self.carry_error(core, packet, &quote, side),
            Ok(Owner::Worker(to)) => core.hand_over(to, packet, hops),
            Ok(Owner::Across(side)) => self.carry_error_across(core, packet, &quote, side),
            Ok(Owner::Unknown(input)) if core.may_cross(&input) => core.cross(packet, input, hops),
            Ok(Owner::Unknown(input)) => core.stray_error(packet, &input, hops),
            Err(reason) => core.drop(packet, reason),
        }
    }

    /// Who has the flow that the quoted packet is of.
    fn owner(
        &mut self,
        core: &mut Core,
        packet: &Packet,
        quote: &Quote,
    ) -> Result<Owner, DropReason> {
        let ports = ports_of(packet.head(), quote.l4(), quote.protocol);
        let first = packet.head().get(quote.l4()).copied();
        let (ports, first) = ports.zip(first).ok_or(DropReason::IcmpErrorMalformed)?;
        let ports = turned(ports, quote.protocol, first);
        let ingress = pack_ingress(packet.meta.ingress);
        let key = FlowKey {
            addresses: F::loaded(F::pack(quote.destination, quote.source)),
            transport: pack_transport(ports.to_be(), quote.protocol, ingress),
        };
        let Some(side) = self.table.find(&key) else {
            return Ok(Owner::Unknown(key.input::<F>(packet.meta.network)));
        };
        match self.revalidate(core, side) {
            Revalidated::Kept => {}
            Revalidated::Ended | Revalidated::Reset => return Err(DropReason::IcmpError),
        }
        let action = self.table.side(side).action();
        Ok(match action.kind {
            ActionKind::HandOver => Owner::Worker(WorkerId(action.worker)),
            ActionKind::Forward => Owner::Side(side),
            ActionKind::Translate => Owner::Across(side),
        })
    }

    /// An error about a packet of a flow that is valid: guards, edit, send. The flow does not
    /// notice.
    fn carry_error(&mut self, core: &mut Core, mut packet: Packet, quote: &Quote, side: SideId) {
        let action = self.table.action(side);
        let (l3, source) = (usize::from(packet.meta.l3), source_of::<F>(&packet));
        let from_outside = core.rule(packet.meta.ingress).is_some_and(|rule| rule.uplink);
        if is_martian(source, from_outside, &core.tables) {
            return core.drop(packet, DropReason::Martian);
        }
        // No error about an error: of these nobody is told.
        if F::ttl(packet.head(), l3) <= 1 {
            return core.drop(packet, DropReason::TtlExceeded);
        }
        if !fits(&packet, action.mtu) {
            return core.drop(packet, DropReason::TooBig);
        }
        let Some(adjacency) = core.next_hop(action.adjacency) else {
            return core.wait(action.adjacency, packet);
        };
        if !core.errors.take(core.now) {
            return core.drop(packet, DropReason::IcmpErrorLimited);
        }
        if let Err(reason) = self.learn(core, &packet, quote, side) {
            return core.drop(packet, reason);
        }
        let (back_source, back_destination) = sockets_of::<F>(&action);
        // A router's own address is what `traceroute` is about; what is inside speaks as whom its
        // flow is known outside (RFC 5508 REQ-4 and REQ-5 c).
        let source = match from_outside && source != quote.destination {
            true => source,
            false => back_source.0,
        };
        quote.turn_back::<F>(&mut packet, (back_destination, back_source), source);
        packet.head_mut()[..12].copy_from_slice(&adjacency.macs);
        if adjacency.port == PortId::TURN {
            return self.turn_round(core, packet);
        }
        core.counters.worker.icmp_errors.add(1);
        core.send(adjacency.port, packet);
    }
}

/// What stands for the ports of a packet's answer; `first` is the first byte of its transport
/// header. Of an echo, the other one's type stands there.
fn turned(ports: u32, protocol: u8, first: u8) -> u32 {
    let kind = |number: u8| u32::from(number) << 8;
    let (request, reply) = match protocol {
        protocol::ICMP => (icmp::ECHO_REQUEST, icmp::ECHO_REPLY),
        protocol::ICMPV6 => (icmp::V6_ECHO_REQUEST, icmp::V6_ECHO_REPLY),
        _ => return ports.rotate_left(16),
    };
    match first {
        first if first == request => kind(reply) << 16 | ports >> 16,
        first if first == reply => ports << 16 | kind(request),
        _ => ports.rotate_left(16),
    }
}

/// Checks an error by itself and finds what it quotes.
fn examine<F: Edit>(packet: &mut Packet) -> Result<Quote, DropReason> {
    let l4 = usize::from(packet.meta.l4);
    let is_v6 = packet.meta.notes.any(Notes::V6);
    let known = match packet.head().get(l4) {
        // Source quench is deprecated (RFC 6633 section 3), a redirect is for the next hop only.
        Some(kind) if is_v6 => (icmp::V6_UNREACHABLE..=icmp::V6_PARAMETER_PROBLEM).contains(kind),
        Some(&kind) => {
            matches!(kind, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM)
        }
        None => false,
    };
    if !known {
        return Err(DropReason::IcmpError);
    }
    if !quote::is_intact(packet) {
        return Err(DropReason::IcmpErrorMalformed);
    }
    let quote = Quote::read::<F>(packet)?;
    // An error goes to the sender of what it quotes; anything else is made up.
    match destination_of::<F>(packet) == quote.source {
        true => Ok(quote),
        false => Err(DropReason::IcmpError),
    }
}

fn addresses_of<F: Edit>(packet: &Packet) -> (IpAddr, IpAddr) {
    let addresses = F::read(packet.head(), usize::from(packet.meta.l3));
    F::unpack(F::loaded(addresses.unwrap_or_default()))
}

fn source_of<F: Edit>(packet: &Packet) -> IpAddr {
    addresses_of::<F>(packet).0
}

fn destination_of<F: Edit>(packet: &Packet) -> IpAddr {
    addresses_of::<F>(packet).1
}

/// Source and destination that an action gives.
fn sockets_of<F: Edit>(action: &FlowAction<F::Addresses>) -> ((IpAddr, u16), (IpAddr, u16)) {
    let (source, destination) = F::unpack(F::loaded(action.addresses));
    let ports = u32::from_be(action.ports);
    ((source, (ports >> 16) as u16), (destination, ports as u16))
}
