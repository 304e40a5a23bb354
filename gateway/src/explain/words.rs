//! What each stage says of a packet, in words.
//!
//! Names stand for numbers, and each step says why. The one hard constraint: only what the engine
//! said is put into words; what a drop reason means and what to do about it is the README's.

use std::net::IpAddr;

use config::Config;
use engine::explain::{Explanation, Hop, Outcome, Step};
use engine::flow::{FlowInput, Path};
use engine::tables::Question;
use engine::wire::protocol;
use engine::{DropReason, NetworkId, PortId, Tables};

use super::model;
use crate::reasons;

/// What names are taken from.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tables: &'a Tables,
}

impl Names<'_> {
    pub(crate) fn port(&self, port: PortId) -> String {
        self.tables.port(port).map_or_else(|| format!("#{}", port.0), |port| port.name.clone())
    }

    fn hop(&self, hop: Hop) -> String {
        match hop {
            hop if hop.turns() => "the outside port of a mapping: it turns round".to_owned(),
            Hop::Endpoint(port) => self.port(port),
            Hop::Neighbour(port, address) => format!("{address} by {}", self.port(port)),
        }
    }

    fn published(&self, input: &FlowInput, step: &Step) -> Option<String> {
        step.published?;
        let publish = &self.tables.publish;
        let (protocol, port) = (input.protocol, input.destination_port);
        let entry = publish.by_host(input.destination, protocol, port)?;
        let owner = self.port(entry.port);
        Some(format!(
            "{} is published by {owner}: it leads to {}",
            socket((input.destination, port), protocol),
            socket(step.destination, protocol)
        ))
    }

    /// The operator's rule that a packet meets, as `show policy` numbers and shows it.
    pub(super) fn rule(&self, input: &FlowInput, step: &Step) -> Option<String> {
        let has_ports = matches!(input.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let port = |port: u16| if has_ports { port } else { 0 };
        let asked = Question {
            from: input.ingress,
            from_network: input.network,
            to: step.forward?.port(),
            to_network: step.target.unwrap_or(NetworkId::NONE),
            source: input.source,
            destination: input.destination,
            protocol: input.protocol,
            source_port: port(input.source_port),
            destination_port: port(input.destination_port),
        };
        let (index, _) = self.tables.policy.verdict(&asked)?;
        let rule = self.config.policy.get(index)?;
        Some(format!("rule {}: {rule}", index + 1))
    }

    /// Why a stage lets a packet go on, or where it sends it.
    fn why(&self, input: &FlowInput, step: &Step, before: Option<&Step>) -> String {
        let rule = match step.stage {
            "policy" => self.rule(input, step),
            _ => None,
        };
        if let Some(reason) = step.outcome.reason() {
            let meaning = match reason {
                DropReason::OutsidePortsUsedUp => {
                    "no outside port is free: a flow that is worth less is ended for it, if one is"
                }
                reason => reasons::of(reason).0,
            };
            return rule.map_or_else(|| meaning.to_owned(), |rule| format!("{meaning} ({rule})"));
        }
        let routed = input.path == Path::Routed;
        match (step.stage, step.outcome) {
            (_, Outcome::Echo) => "an echo request to the gateway: it is answered".to_owned(),
            ("admit", _) => "these addresses may be on this port".to_owned(),
            ("publish", _) => self
                .published(input, step)
                .unwrap_or_else(|| "the destination is no published port".to_owned()),
            ("unmap", _) => match step.published {
                Some(owner) if step.destination != (input.destination, input.destination_port) => {
                    let to = socket(step.destination, input.protocol);
                    format!("the destination is {to} behind {} by now", self.port(owner))
                }
                _ => "not for the outside port of a mapping".to_owned(),
            },
            ("local", _) => "not for the gateway itself".to_owned(),
            ("bridge", Outcome::Flood) => {
                "nobody is known to have this MAC address: a copy goes to every other member"
                    .to_owned()
            }
            ("bridge", _) if routed => "routed, not bridged".to_owned(),
            ("bridge", _) => match step.forward {
                Some(hop) => format!("the MAC address is behind {}", self.hop(hop)),
                None => "no port".to_owned(),
            },
            ("route", _) => {
                let way = |hop: Option<Hop>| {
                    hop.map_or_else(|| "nowhere".to_owned(), |hop| self.hop(hop))
                };
                format!("to {}; replies to {}", way(step.forward), way(step.back))
            }
            ("policy", _) => rule.unwrap_or_else(|| "it may go there".to_owned()),
            ("nat", _) => {
                let old = before.map_or((input.source, input.source_port), |step| step.source);
                match old == step.source {
                    true => "the source stays".to_owned(),
                    false => {
                        format!("the source becomes {}", socket(step.source, input.protocol))
                    }
                }
            }
            ("mtu", _) => {
                let (there, back) = step.mtus;
                let announced = step.mss_max.map(|mss| format!("; a SYN announces {mss} at most"));
                let announced = announced.unwrap_or_default();
                format!("up to {there} bytes there, {back} back{announced}")
            }
            _ => String::new(),
        }
    }
}

/// An address and port as people write it.
pub(crate) fn socket((address, port): (IpAddr, u16), number: u8) -> String {
    let has_port = matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP);
    match (has_port, address) {
        (true, IpAddr::V6(_)) => format!("[{address}]:{port}"),
        (true, IpAddr::V4(_)) => format!("{address}:{port}"),
        (false, _) => address.to_string(),
    }
}

pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn verdict(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Continue => "continue",
        Outcome::Forward => "forward",
        Outcome::Flood => "flood",
        Outcome::Echo => "answer",
        Outcome::Reset(_) | Outcome::Error(..) | Outcome::Drop(_) => "drop",
    }
}

pub(crate) fn step(name: &str, verdict: &str, why: String) -> model::Step {
    model::Step { step: name.to_owned(), verdict: verdict.to_owned(), why }
}

/// What the stages say, one line each.
pub(crate) fn stages(names: Names<'_>, explanation: &Explanation) -> Vec<model::Step> {
    let mut before = None;
    let input = &explanation.input;
    let lines = explanation.steps.iter().map(|one| {
        let why = names.why(input, one, before);
        before = Some(one);
        step(one.stage, verdict(one.outcome), why)
    });
    lines.collect()
}
