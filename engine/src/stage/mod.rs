//! Step 3: the stages that decide the first packet of a flow.
//!
//! A stage sees the [`FlowInput`], the tables and its own state; it never sees or touches bytes.
//! Each either settles the packet's fate or adds to the [`Decision`] and lets the next one go on.
//! The order stands in [`pipeline`](crate::pipeline). Whatever a verdict depends on beyond the
//! input becomes a guard of the action that the decision compiles to.

mod admit;
mod bridge;
mod local;
mod mtu;
mod nat;
mod policy;
mod publish;
mod route;
#[cfg(test)]
pub(crate) mod sample;

use std::net::IpAddr;

pub(crate) use admit::{Admit, is_martian};
pub(crate) use bridge::Bridge;
pub(crate) use local::Local;
pub(crate) use mtu::Mtu;
pub(crate) use nat::{Nat, has_ports};
pub(crate) use policy::Policy;
pub(crate) use publish::Publish;
pub(crate) use route::Route;

use crate::counters::DropReason;
use crate::flow::{FlowInput, Path};
use crate::id::{NetworkId, PortId, WorkerId};
use crate::reply::ErrorKind;
use crate::tables::{Epoch, PortKind, Tables};
use crate::time::Tick;

/// What a stage may look at beside the input and its own state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) worker: WorkerId,
    pub(crate) worker_count: usize,
    /// The time now, for what a stage has learnt.
    pub(crate) tick: Tick,
    /// Seed of steering, equal for all workers.
    pub(crate) seed: u64,
}

/// One step of a decision.
pub(crate) trait Stage {
    /// As `explain` and `trace` print it.
    const NAME: &'static str;

    /// Settles the packet's fate, or adds to the decision and continues.
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict;
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not settled: the next stage decides.
    Continue,
    /// Send as the decision says.
    Forward,
    /// Send a copy to every other member of the network.
    Flood,
    /// Answer it.
    Answer(Answer),
    /// Count and forget it.
    Drop(DropReason),
}

impl Verdict {
    /// The reason, if the packet goes no further.
    pub(crate) fn refused(self) -> Option<DropReason> {
        match self {
            Verdict::Drop(reason)
            | Verdict::Answer(Answer::Reset(reason) | Answer::Error(_, reason)) => Some(reason),
            Verdict::Continue | Verdict::Forward | Verdict::Flood => None,
            Verdict::Answer(Answer::Echo) => None,
        }
    }
}

/// An answer of the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Echo reply.
    Echo,
    /// TCP reset; the packet itself is counted under the reason.
    Reset(DropReason),
    /// ICMP error; the packet itself is counted under the reason.
    Error(ErrorKind, DropReason),
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// To the endpoint behind this port.
    Endpoint(PortId),
    /// To the neighbour with this address behind this uplink port.
    Neighbour(PortId, IpAddr),
}

impl NextHop {
    pub(crate) fn port(self) -> PortId {
        match self {
            NextHop::Endpoint(port) | NextHop::Neighbour(port, _) => port,
        }
    }
}

/// An address and a port (or what stands for a port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Socket {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// What the stages have worked out so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Destination on the way out, where it differs (a published port).
    pub(crate) destination: Option<Socket>,
    /// Source on the way out, where it differs (masquerade, hairpin).
    pub(crate) source: Option<Socket>,
    /// The port of the endpoint that a published port leads to.
    pub(crate) published: Option<PortId>,
    /// The network that it goes into; none towards an uplink.
    pub(crate) target: Option<NetworkId>,
    /// Next hop of the packet.
    pub(crate) forward: Option<NextHop>,
    /// Next hop of its replies.
    pub(crate) back: Option<NextHop>,
    /// The rule of the operator's that decided, by its index.
    pub(crate) rule: Option<u16>,
    /// The NAT mapping in use.
    pub(crate) mapping: Option<u32>,
    /// Largest packet that goes this way, in bytes, as it leaves.
    pub(crate) mtu: u16,
    /// The same of its replies.
    pub(crate) mtu_back: u16,
    /// What was learnt of the paths of both directions, for when it changes.
    pub(crate) paths: [u16; 2],
    /// Largest segment size that a SYN of either direction may announce.
    pub(crate) mss_max: Option<u16>,
}

impl Decision {
    /// The destination after any change so far.
    pub(crate) fn destination_of(&self, input: &FlowInput) -> Socket {
        let own = Socket { address: input.destination, port: input.destination_port };
        self.destination.unwrap_or(own)
    }

    /// The source after any change so far.
    pub(crate) fn source_of(&self, input: &FlowInput) -> Socket {
        self.source.unwrap_or(Socket { address: input.source, port: input.source_port })
    }
}

/// The epochs of the parts of the tables that a decision used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    plan: Epoch,
    /// Of all published ports, and of those that the decision depends on: see
    /// [`epochs_for`](crate::tables::Publish::epochs_for).
    publish: Epoch,
    published: [Epoch; 2],
    policy: Epoch,
    routes: Epoch,
    nat: Epoch,
    ingress: Epoch,
    network: Epoch,
    egress: Option<(PortId, Epoch)>,
    target: Option<(NetworkId, Epoch)>,
}

impl Parts {
    /// The parts that a decision about this input used, as they are in these tables.
    pub(crate) fn of(input: &FlowInput, decision: &Decision, tables: &Tables) -> Parts {
        let egress = decision.forward.map(NextHop::port);
        let published = published(input, tables);
        Parts { published, ..Parts::read(input, egress, decision.target, tables) }
    }

    /// The same parts as they are in these tables, if none of them has changed. A published port
    /// that the decision does not depend on may have.
    pub(crate) fn hold(&self, input: &FlowInput, tables: &Tables) -> Option<Parts> {
        let (egress, target) = (self.egress.map(|part| part.0), self.target.map(|part| part.0));
        let mut now =
            Parts { published: self.published, ..Parts::read(input, egress, target, tables) };
        if now.publish != self.publish {
            now.published = published(input, tables);
        }
        let before = Parts { publish: now.publish, ..*self };
        (now == before).then_some(now)
    }

    /// The network that packets go into; `None`: outside.
    pub(crate) fn target(&self) -> Option<NetworkId> {
        self.target.map(|(network, _)| network)
    }

    fn read(
        input: &FlowInput,
        egress: Option<PortId>,
        target: Option<NetworkId>,
        tables: &Tables,
    ) -> Parts {
        // A part that is gone reads as epoch 0, which no part ever has. With an uplink go those who
        // are on its link: its neighbours. A newer epoch is a higher one.
        let port = |id: PortId| match tables.port(id) {
            Some(port) => port.epoch.max(epoch_of_link(&port.kind, tables)),
            None => 0,
        };
        let network = |id: NetworkId| tables.network(id).map_or(0, |network| network.epoch);
        Parts {
            plan: tables.plan,
            publish: tables.publish.epoch,
            published: [0; 2],
            policy: tables.policy.epoch,
            routes: tables.routes.epoch,
            nat: tables.nat.epoch,
            ingress: port(input.ingress),
            network: network(input.network),
            egress: egress.map(|id| (id, port(id))),
            target: target.map(|id| (id, network(id))),
        }
    }
}

/// The epoch of the network that is the untagged part of an uplink's link; 0 without one.
fn epoch_of_link(kind: &PortKind, tables: &Tables) -> Epoch {
    let PortKind::Uplink(uplink) = kind else { return 0 };
    let network = tables.uplink(*uplink).and_then(|uplink| tables.network_on(uplink));
    network.map_or(0, |network| network.epoch)
}

/// The epochs of the published ports that a decision about this input may depend on.
fn published(input: &FlowInput, tables: &Tables) -> [Epoch; 2] {
    if input.path != Path::Routed || tables.publish.entries().is_empty() {
        return [0; 2];
    }
    let asked = tables.published_address(input);
    let is_own = asked.is_some();
    let destination = (asked.unwrap_or(input.destination), input.destination_port);
    let source = (input.source, input.source_port);
    tables.publish.epochs_for(input.protocol, destination, is_own, source)
}
