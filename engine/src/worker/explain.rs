//! Says what would become of a packet, and does nothing: see [`crate::explain`].
//!
//! Asked between two turns. The stages run as for a first packet; a mapping that they took is given
//! back at once, and the next search for a port begins where it would have. Of a packet of a flow
//! that is there they are asked as when the flow is decided again: about its first packet.

use arrayvec::ArrayVec;

use super::Worker;
use crate::execute::Edit;
use crate::explain::{Explanation, Hop, Leaving, Outcome, Step};
use crate::flow::{FlowInput, FlowKey, Path, V4, V6};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::stage::{Decision, Verdict};
use crate::steer;
use crate::translate::HEADER_GROWTH;
use crate::worker::FlowView;
use crate::worker::flows::Flows;

/// A flow that a packet belongs to.
struct Known {
    view: FlowView,
    mapping: Option<u32>,
    is_reply: bool,
}

impl Worker {
    /// What would become of a packet with this input. Changes nothing.
    pub fn explain(&mut self, input: &FlowInput) -> Explanation {
        let core = &self.core;
        let home = match input.path {
            Path::Routed => steer::home(input, &core.tables, core.worker_count, core.seed),
            // Bridging has no state to meet at: every worker knows what any has learnt.
            Path::Bridged(_) => core.id,
        };
        let mut explanation = Explanation {
            worker: core.id,
            home,
            input: *input,
            known: None,
            is_reply: false,
            steps: ArrayVec::new(),
            outcome: Outcome::Continue,
            room: None,
            leaving: None,
            turned: None,
        };
        if home != core.id {
            return explanation;
        }
        let known = self.known_of(input);
        let held = known.as_ref().and_then(|known| known.mapping);
        if let Some(known) = known {
            explanation.is_reply = known.is_reply;
            explanation.input = known.view.input;
            explanation.known = Some(known.view);
        }
        let verdict = self.ask_stages(held, &mut explanation);
        let is_routed = input.path == Path::Routed;
        if verdict == Verdict::Forward && is_routed && explanation.known.is_none() {
            explanation.room = Some(match input.is_v6() {
                true => self.v6.room(&self.core, input),
                false => self.v4.room(&self.core, input),
            });
        }
        if verdict == Verdict::Forward
            && let Some((source, destination, hop)) = explanation.way()
        {
            let path = explanation.steps.last().map_or(u16::MAX, |last| match is_routed {
                false => u16::MAX,
                true if explanation.is_reply => last.mtus.1,
                true => last.mtus.0,
            });
            explanation.leaving = self.leaving(input, source.0.is_ipv6(), hop, path);
            explanation.turned = hop.turns().then_some(FlowInput {
                ingress: PortId::TURN,
                network: NetworkId::NONE,
                source: source.0,
                destination: destination.0,
                source_port: source.1,
                destination_port: destination.1,
                ..*input
            });
        }
        explanation
    }

    /// Has the stages say what they say about the input, and leaves their state as it was.
    fn ask_stages(&mut self, held: Option<u32>, explanation: &mut Explanation) -> Verdict {
        let (stages, cx) = self.core.stages_and_cx();
        let mark = stages.nat.mark();
        let (input, steps) = (explanation.input, &mut explanation.steps);
        let mut look = |stage, verdict, by: &Decision| {
            // There is room for every stage.
            let _ = steps.try_push(Step::new(stage, verdict, &input, by));
        };
        let (decision, verdict, _) = stages.decide_seen(&input, held, &cx, &mut look);
        stages.nat.undo(mark, decision.mapping);
        explanation.outcome = Outcome::of(verdict);
        verdict
    }

    /// The ports by which both directions of a packet's flow come in, if that is there.
    pub(super) fn ends_of_flow(&self, input: &FlowInput) -> Option<[PortId; 2]> {
        let view = self.known_of(input)?.view;
        Some([view.input.ingress, view.reply_ingress])
    }

    /// The flow that a packet belongs to, of whichever family.
    fn known_of(&self, input: &FlowInput) -> Option<Known> {
        match (input.path, input.is_v6()) {
            (Path::Bridged(_), _) => None,
            (Path::Routed, true) => self.known::<V6>(&self.v6, input),
            (Path::Routed, false) => match self.known::<V4>(&self.v4, input) {
                None if self.core.may_cross(input) => self.known::<V6>(&self.v6, input),
                known => known,
            },
        }
    }

    /// The flow that a packet belongs to.
    fn known<F: Edit>(&self, flows: &Flows<F>, input: &FlowInput) -> Option<Known> {
        let side = flows.table.find(&FlowKey::of::<F>(input))?;
        let flow = side.flow();
        Some(Known {
            view: self.view_flow(flows, flow)?,
            mapping: flows.table.cold(flow)?.mapping,
            is_reply: side == flow.reply(),
        })
    }

    /// How a packet leaves; `v6`: as one of IPv6; `path`: what its path takes, as far as is known.
    fn leaving(&self, input: &FlowInput, v6: bool, hop: Hop, path: u16) -> Option<Leaving> {
        let core = &self.core;
        let rule = core.rule(hop.port())?;
        let mtu = rule.mtu.min(path).min(core.stages.mtu.tunnels_by(hop.port(), &core.tables));
        let bytes_max = match (input.is_v6(), v6) {
            (true, false) => mtu.saturating_add(HEADER_GROWTH),
            (false, true) => mtu.saturating_sub(HEADER_GROWTH),
            _ => mtu,
        };
        let leaving = Leaving {
            port: hop.port(),
            mtu,
            bytes_max,
            source_mac: None,
            destination_mac: None,
            neighbour: None,
        };
        if let Path::Bridged(mac) = input.path {
            return Some(Leaving { destination_mac: Some(mac), ..leaving });
        }
        let source_mac = Some(core.own_mac(hop.port()));
        Some(match hop {
            Hop::Endpoint(_) => {
                Leaving { source_mac, destination_mac: Some(MacAddress(rule.mac)), ..leaving }
            }
            Hop::Neighbour(port, address) => {
                let (neighbour, mac) = core.neighbours.look(port, address).unzip();
                Leaving { source_mac, destination_mac: mac.flatten(), neighbour, ..leaving }
            }
        })
    }
}
