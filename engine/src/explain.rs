//! What becomes of a packet, told step by step: for `explain` and `trace`.
//!
//! The stages that decide are asked, with their real state, and what they say is kept instead of
//! carried out: no flow is installed and no mapping kept. The one hard constraint: what is told
//! here is what would happen; so nothing here decides, and nothing is worked out twice. An
//! explanation has a fixed size and allocates nothing: a traced packet makes one on its way.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::counters::DropReason;
use crate::flow::FlowInput;
use crate::id::{MacAddress, NetworkId, PortId, WorkerId};
use crate::pipeline::STAGE_NAMES;
use crate::reply::ErrorKind;
use crate::stage::{Answer, Decision, NextHop, Verdict};
use crate::worker::{FlowView, NeighbourState};

/// An address and a port, or what stands for a port.
pub type AddressPort = (IpAddr, u16);

/// What a step, or all of them together, make of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next step is asked.
    Continue,
    /// It is sent.
    Forward,
    /// A copy goes to every other member of its network.
    Flood,
    /// The gateway answers an echo request.
    Echo,
    /// It dies under this reason, and a TCP reset goes back.
    Reset(DropReason),
    /// It dies under this reason, and this ICMP error goes back.
    Error(&'static str, DropReason),
    /// It dies under this reason.
    Drop(DropReason),
}

impl Outcome {
    /// Why it dies, if it does.
    pub fn reason(self) -> Option<DropReason> {
        match self {
            Outcome::Reset(reason) | Outcome::Error(_, reason) | Outcome::Drop(reason) => {
                Some(reason)
            }
            Outcome::Continue | Outcome::Forward | Outcome::Flood | Outcome::Echo => None,
        }
    }

    pub(crate) fn of(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Continue => Outcome::Continue,
            Verdict::Forward => Outcome::Forward,
            Verdict::Flood => Outcome::Flood,
            Verdict::Answer(Answer::Echo) => Outcome::Echo,
            Verdict::Answer(Answer::Reset(reason)) => Outcome::Reset(reason),
            Verdict::Answer(Answer::Error(kind, reason)) => Outcome::Error(word(kind), reason),
            Verdict::Drop(reason) => Outcome::Drop(reason),
        }
    }
}

fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::TtlExceeded => "time exceeded",
        ErrorKind::PortUnreachable => "port unreachable",
        ErrorKind::ProtocolUnreachable => "protocol unreachable",
        ErrorKind::HostUnreachable => "host unreachable",
        ErrorKind::NetUnreachable => "network unreachable",
        ErrorKind::TooBig(_) => "packet too big",
        #[allow(unreachable_patterns)] // one word for what comes later
        _ => "error",
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To the endpoint behind this port.
    Endpoint(PortId),
    /// To the neighbour with this address behind this port.
    Neighbour(PortId, IpAddr),
}

impl Hop {
    fn of(hop: NextHop) -> Hop {
        match hop {
            NextHop::Endpoint(port) => Hop::Endpoint(port),
            NextHop::Neighbour(port, address) => Hop::Neighbour(port, address),
        }
    }

    /// True for a packet that turns round: it comes in again.
    pub fn turns(self) -> bool {
        self.port() == PortId::TURN
    }

    /// The port by which it leaves.
    pub fn port(self) -> PortId {
        match self {
            Hop::Endpoint(port) | Hop::Neighbour(port, _) => port,
        }
    }
}

/// What one stage said, and what the packet is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage.
    pub stage: &'static str,
    /// Its verdict.
    pub outcome: Outcome,
    /// Source of the packet on the way out, as far as is decided.
    pub source: AddressPort,
    /// Its destination.
    pub destination: AddressPort,
    /// The port of the endpoint that a published port leads to.
    pub published: Option<PortId>,
    /// The network that it goes into.
    pub target: Option<NetworkId>,
    /// Where it goes next.
    pub forward: Option<Hop>,
    /// Where its replies go.
    pub back: Option<Hop>,
    /// Largest packets there and back, as they leave; once the stage `mtu` has said so.
    pub mtus: (u16, u16),
    /// What a TCP SYN may announce at most; `None`: whatever it likes.
    pub mss_max: Option<u16>,
}

impl Step {
    pub(crate) fn new(
        stage: &'static str,
        verdict: Verdict,
        input: &FlowInput,
        decision: &Decision,
    ) -> Step {
        let (source, destination) = (decision.source_of(input), decision.destination_of(input));
        Step {
            stage,
            outcome: Outcome::of(verdict),
            source: (source.address, source.port),
            destination: (destination.address, destination.port),
            published: decision.published,
            target: decision.target,
            forward: decision.forward.map(Hop::of),
            back: decision.back.map(Hop::of),
            mtus: (decision.mtu, decision.mtu_back),
            mss_max: decision.mss_max,
        }
    }
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// By this port.
    pub port: PortId,
    /// Largest IP packet that may leave by it on its path, in bytes.
    pub mtu: u16,
    /// Largest IP packet that may come in to leave so: another number where its header becomes one
    /// of the other family.
    pub bytes_max: u16,
    /// The MAC address that it leaves with; of a frame inside a network, its own.
    pub source_mac: Option<MacAddress>,
    /// To this MAC address; `None`: not known yet, ARP or ND will ask.
    pub destination_mac: Option<MacAddress>,
    /// What is known of the neighbour, if it goes to one.
    pub neighbour: Option<NeighbourState>,
}

/// Whether the flow table has room for the flow that a packet would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is some.
    Free,
    /// A note about another worker's flow goes.
    NoteGoes,
    /// The oldest flow goes that nobody has answered.
    HalfOpenGoes,
    /// A flow goes that is over or idle.
    IdleGoes,
    /// There is none, and no flow is worth less: the packet dies under this reason.
    None(DropReason),
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Who says so.
    pub worker: WorkerId,
    /// Who owns its flow: if that is another worker, ask that one; then the rest is empty.
    pub home: WorkerId,
    /// What the stages were asked about: the packet, or the first one of the flow that it answers.
    pub input: FlowInput,
    /// The flow that it belongs to, if that is there already: its decision is repeated.
    pub known: Option<FlowView>,
    /// It goes the way back of that flow.
    pub is_reply: bool,
    /// What each stage says now, in their order, up to the one that settles it. Room for all: one
    /// name stands for none of them, and `unmap` has none of its own there.
    pub steps: ArrayVec<Step, { STAGE_NAMES.len() }>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The room for its flow, if it would begin one.
    pub room: Option<Room>,
    /// How it leaves, if it does.
    pub leaving: Option<Leaving>,
    /// What it comes in again as, if it turns round inside the gateway: ask about that too.
    pub turned: Option<FlowInput>,
}

impl Explanation {
    /// Source and destination of the packet as it leaves, and its next hop.
    pub fn way(&self) -> Option<(AddressPort, AddressPort, Hop)> {
        let (last, input) = (self.steps.last()?, &self.input);
        match self.is_reply {
            true => Some((
                (input.destination, input.destination_port),
                (input.source, input.source_port),
                last.back?,
            )),
            false => Some((last.source, last.destination, last.forward?)),
        }
    }
}
