//! The whole way of a packet in words: how it comes in, what the stages say, how it leaves.
//!
//! After the stages come the guards that every packet of a flow meets: its hops, its size, and
//! whether the next hop is there. The one hard constraint: they stand in the order in which the
//! engine asks them, so the first that fails is the reason that is counted.

use engine::DropReason;
use engine::explain::{Explanation, Hop, Leaving, Outcome, Room};
use engine::flow::{FlowInput, Path};
use engine::wire::protocol;
use engine::worker::NeighbourState;

use super::advice::advice;
use super::ask::{Asked, To};
use super::model::{self, Explained, Leaves};
use super::size;
use super::words::{Names, protocol_name, socket, stages, step, verdict};
use crate::reasons;

/// What became of a packet after the stages.
struct Way {
    steps: Vec<model::Step>,
    leaves: Option<Leaves>,
    /// Why it dies, and what the sender hears.
    refused: Option<(DropReason, Option<String>)>,
}

/// All of it.
pub(crate) fn told(
    names: Names<'_>,
    asked: &Asked,
    first: &Explanation,
    turned: Option<&Explanation>,
) -> Explained {
    let (input, last) = (&asked.input, turned.unwrap_or(first));
    let packet = packet(asked);
    let mut way = Way { steps: Vec::new(), leaves: None, refused: None };
    way.steps.push(step("ingress", "continue", ingress(names, input)));
    if asked.unanswered {
        let why = format!("nobody in the network answers ARP or ND for {packet}");
        way.steps.push(step("arp", "drop", why));
        way.refused = Some((DropReason::NoEndpoint, None));
        return explained(names, packet, way, last);
    }
    if input.path == Path::Routed {
        way.steps.push(step("lookup", "continue", known(first)));
    }
    way.steps.extend(stages(names, first));
    if let Some(turned) = turned {
        let why = "it comes in again, as if from outside".to_owned();
        way.steps.push(step("turn", "continue", why));
        way.steps.push(step("lookup", "continue", known(turned)));
        way.steps.extend(stages(names, turned));
    }
    match last.outcome.reason() {
        Some(reason) => way.refused = Some((reason, answer(last.outcome))),
        None => leave(names, asked, last, &mut way),
    }
    explained(names, packet, way, last)
}

fn explained(names: Names<'_>, packet: String, way: Way, last: &Explanation) -> Explained {
    let worker = last.worker.0;
    let Way { steps, leaves, refused } = way;
    match refused {
        Some((reason, answer)) => Explained {
            packet,
            steps,
            verdict: "drop".to_owned(),
            reason: Some(reason.name().to_owned()),
            answer,
            advice: Some(advice(names, last, reason)),
            leaves,
            worker,
        },
        None => Explained {
            packet,
            steps,
            verdict: verdict(last.outcome).to_owned(),
            reason: None,
            answer: answer(last.outcome),
            advice: None,
            leaves,
            worker,
        },
    }
}

fn packet(asked: &Asked) -> String {
    match asked.destination {
        To::Socket(address, port, number) => format!(
            "{} > {} {}, {} bytes",
            socket(asked.source, number),
            socket((address, port), number),
            protocol_name(number),
            asked.bytes
        ),
        To::Mac(mac) => format!("frame to {mac}, {} bytes", asked.bytes),
    }
}

/// What the sender hears of it.
pub(crate) fn answer(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::Reset(_) => Some("tcp reset".to_owned()),
        Outcome::Error(kind, _) => Some(format!("icmp {kind}")),
        Outcome::Echo => Some("echo reply".to_owned()),
        _ => None,
    }
}

fn ingress(names: Names<'_>, input: &FlowInput) -> String {
    let port = names.port(input.ingress);
    match (input.path, names.tables.network(input.network)) {
        (Path::Bridged(mac), Some(network)) => {
            format!("by {port}, a frame inside {} to {mac}", network.name)
        }
        (_, Some(network)) => {
            format!("by {port}, to the gateway's MAC address in {}: routed", network.name)
        }
        (_, None) => format!("by uplink {port}, to the gateway's MAC address: routed"),
    }
}

/// What the flow table says.
pub(crate) fn known(explanation: &Explanation) -> String {
    let number = explanation.input.protocol;
    let Some(flow) = &explanation.known else {
        return "no flow is there yet: the stages decide".to_owned();
    };
    let packets = u64::from(flow.packets.0) + u64::from(flow.packets.1);
    let age = format!("{packets} packets, idle for {:.1} s", flow.idle.as_secs_f64());
    match explanation.is_reply {
        true => format!(
            "it answers {} > {}, whose flow is there ({age}): it goes back while the stages let \
             that through, as they say",
            socket((flow.input.source, flow.input.source_port), number),
            socket((flow.input.destination, flow.input.destination_port), number),
        ),
        false => format!(
            "its flow is there ({age}), which leaves as {} > {}: that is repeated while the \
             stages say the same",
            socket(flow.source, number),
            socket(flow.destination, number)
        ),
    }
}

/// What leaves, and the steps after the stages.
fn leave(names: Names<'_>, asked: &Asked, explanation: &Explanation, way: &mut Way) {
    let (Some(leaving), Some((source, destination, hop))) =
        (explanation.leaving, explanation.way())
    else {
        return;
    };
    let is_routed = explanation.input.path == Path::Routed;
    if let Some(room) = explanation.room {
        way.refused = begin(names, asked, room, &mut way.steps);
        if way.refused.is_some() {
            return;
        }
    }
    if is_routed && asked.hops <= 1 {
        way.steps.push(step("ttl", "drop", "its TTL or hop limit is used up here".to_owned()));
        way.refused = Some((DropReason::TtlExceeded, Some("icmp time exceeded".to_owned())));
        return;
    }
    let size = size::judge(names, asked, &leaving);
    let word = if size.refused.is_some() { "drop" } else { "continue" };
    way.steps.push(step("size", word, size.why));
    let number = asked.input.protocol;
    let (source, destination) = match (is_routed, asked.destination) {
        (true, _) => (socket(source, number), socket(destination, number)),
        (false, To::Socket(address, port, number)) => {
            (socket(asked.source, number), socket((address, port), number))
        }
        (false, To::Mac(mac)) => (asked.source.0.to_string(), mac.to_string()),
    };
    let port = names.port(leaving.port);
    way.refused = size.refused.or_else(|| next_hop(names, asked, hop, &leaving, &mut way.steps));
    if way.refused.is_none() {
        let why = format!("by {port}: {source} > {destination}");
        way.steps.push(step("egress", "forward", why));
    }
    way.leaves = Some(Leaves {
        port,
        source,
        destination,
        next_hop: match hop {
            Hop::Neighbour(_, address) => Some(address.to_string()),
            Hop::Endpoint(_) => None,
        },
        source_mac: leaving.source_mac.map(|mac| mac.to_string()),
        destination_mac: leaving.destination_mac.map(|mac| mac.to_string()),
        mtu: leaving.mtu,
        bytes: asked.bytes,
        fits: asked.bytes <= u32::from(leaving.bytes_max),
        fragments: (size.pieces > 1).then_some(size.pieces),
    });
}

/// Whether a flow may begin: whether the packet begins a connection, and whether there is room.
fn begin(
    names: Names<'_>,
    asked: &Asked,
    room: Room,
    steps: &mut Vec<model::Step>,
) -> Option<(DropReason, Option<String>)> {
    let picks_up = names.tables.nat.tcp_pickup;
    if asked.is_midway && !picks_up {
        let why = "no SYN, its connection is not known, and `nat.tcp_pickup` is false".to_owned();
        steps.push(step("flow", "drop", why));
        return Some((DropReason::NoConnection, None));
    }
    let begins = match (asked.input.protocol, asked.is_midway) {
        (protocol::TCP, true) => "its connection is not known: it is picked up where it is",
        (protocol::TCP, false) if picks_up => "a flow begins; one without SYN would be picked up",
        (protocol::TCP, false) => "a flow begins; one without SYN would die (no_connection)",
        _ => "a flow begins",
    };
    let (word, which) = match room {
        Room::Free => ("continue", "there is room for it"),
        Room::NoteGoes => ("continue", "a note about another worker's flow makes room for it"),
        Room::HalfOpenGoes => ("continue", "the oldest that nobody answered ends for it"),
        Room::IdleGoes => ("continue", "one that is over or idle ends for it"),
        Room::None(reason) => ("drop", reasons::of(reason).0),
    };
    steps.push(step("flow", word, format!("{begins}; {which}")));
    match room {
        Room::None(reason) => Some((reason, None)),
        _ => None,
    }
}

/// Whether the next hop is there.
fn next_hop(
    names: Names<'_>,
    asked: &Asked,
    hop: Hop,
    leaving: &Leaving,
    steps: &mut Vec<model::Step>,
) -> Option<(DropReason, Option<String>)> {
    let Hop::Neighbour(_, address) = hop else { return None };
    if leaving.neighbour == Some(NeighbourState::Failed) {
        let why = format!("{address} does not answer ARP or ND");
        steps.push(step("neighbour", "drop", why));
        // Clients outside would learn who is inside.
        let is_told = names.tables.network(asked.input.network).is_some();
        let answer = is_told.then(|| "icmp host unreachable".to_owned());
        return Some((DropReason::NeighbourUnreachable, answer));
    }
    let why = match (leaving.neighbour, leaving.destination_mac) {
        (Some(_), Some(mac)) => format!("{address} is at {mac}"),
        _ => format!("{address} is asked for by ARP or ND; the packet waits for the answer"),
    };
    steps.push(step("neighbour", "continue", why));
    None
}
