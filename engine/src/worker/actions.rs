//! A decision compiled to the actions of both directions.
//!
//! What the stages decided about a first packet says all about its replies, too: what comes back
//! has the tuple that went out, reversed, and leaves with the one that came in. The one hard
//! constraint: plain numbers in the order of the wire, worked out once, so that the executor
//! repeats them without a thought.

use super::core::Core;
use crate::counters::DropReason;
use crate::execute::{Edit, TTL_DELTA};
use crate::flow::{
    ActionKind, AdjacencyId, FlowAction, FlowInput, FlowKey, NewSide, echo_answer, pack_ingress,
    pack_transport,
};
use crate::stage::{Decision, NextHop, Socket};
use crate::translate::HEADER_GROWTH;

/// Both directions of a decision, ready to install.
pub(super) struct Pair<A> {
    pub(super) original: NewSide<A>,
    pub(super) reply: NewSide<A>,
}

/// Compiles a decision to both directions.
pub(super) fn pair<F: Edit>(
    core: &mut Core,
    input: &FlowInput,
    key: FlowKey<F::Addresses>,
    decision: &Decision,
) -> Result<Pair<F::Addresses>, DropReason> {
    let (forward, back) = decision.forward.zip(decision.back).ok_or(DropReason::NoRoute)?;
    let (source, destination) = (decision.source_of(input), decision.destination_of(input));
    let client = Socket { address: input.source, port: input.source_port };
    let asked = Socket { address: input.destination, port: input.destination_port };
    // An echo's answer carries its own type where the server's port stands.
    let answer = echo_answer(input.protocol, destination.port);
    let answering = |server: Socket| Socket { port: answer.unwrap_or(server.port), ..server };
    let there = [Tuple::<F>::of(client, asked), Tuple::of(source, destination)];
    let here = [Tuple::of(answering(destination), source), Tuple::of(answering(asked), client)];
    let original = action::<F>(core, there, (forward, decision.mtu))?;
    let back = action::<F>(core, here, (back, decision.mtu_back))?;
    let (ports, ingress) = (here[0].ports.to_be(), pack_ingress(forward.port()));
    let reply_key = FlowKey {
        addresses: F::loaded(here[0].addresses),
        transport: pack_transport(ports, input.protocol, ingress),
    };
    Ok(Pair {
        original: NewSide { key, action: original },
        reply: NewSide { key: reply_key, action: back },
    })
}

/// Both ends of a packet, packed as keys and actions have them, in host order.
#[derive(Clone, Copy)]
struct Tuple<F: Edit> {
    addresses: F::Addresses,
    ports: u32,
    is_v6: bool,
}

impl<F: Edit> Tuple<F> {
    fn of(source: Socket, destination: Socket) -> Tuple<F> {
        Tuple {
            addresses: F::pack(source.address, destination.address),
            ports: u32::from(source.port) << 16 | u32::from(destination.port),
            is_v6: source.address.is_ipv6(),
        }
    }
}

/// The action that turns a packet with one tuple into one with another, sent to a next hop in
/// packets of so many bytes.
fn action<F: Edit>(
    core: &mut Core,
    [from, to]: [Tuple<F>; 2],
    (hop, mtu): (NextHop, u16),
) -> Result<FlowAction<F::Addresses>, DropReason> {
    use crate::wire::checksum;
    let adjacency: AdjacencyId = core.adjacency(hop)?;
    let kind = match from.is_v6 == to.is_v6 {
        true => ActionKind::Forward,
        false => ActionKind::Translate,
    };
    let mtu = match (kind, to.is_v6) {
        (ActionKind::Translate, true) => mtu.saturating_sub(HEADER_GROWTH),
        (ActionKind::Translate, false) => mtu.saturating_add(HEADER_GROWTH),
        _ => mtu,
    };
    let address_delta = F::delta(from.addresses, to.addresses);
    let port_delta = checksum::delta_of_words(&from.ports.to_be_bytes(), &to.ports.to_be_bytes());
    Ok(FlowAction {
        addresses: F::loaded(to.addresses),
        ports: to.ports.to_be(),
        adjacency,
        header_delta: checksum::add(address_delta, TTL_DELTA).to_be(),
        transport_inverse: !checksum::add(address_delta, port_delta).to_be(),
        mtu,
        kind,
        worker: 0,
    })
}
