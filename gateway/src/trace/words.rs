//! A record of the engine in words.
//!
//! The one hard constraint: the verdict is what happened, read from what left and what was counted;
//! the steps are what the stages said just before.

use engine::Instant;
use engine::explain::Outcome;
use engine::trace::{Headers, IpHeaders, Origin, Record};
use engine::wire::{ethernet, tcp};

use super::model::{Sent, Traced};
use crate::explain::advice::advice;
use crate::explain::way;
use crate::explain::words::{Names, protocol_name, socket, stages, step};
use crate::reasons;

/// Flags of TCP, as people write them.
const FLAGS: [(u8, &str); 5] =
    [(tcp::SYN, "SYN"), (tcp::FIN, "FIN"), (tcp::RST, "RST"), (tcp::PSH, "PSH"), (tcp::ACK, "ACK")];

/// What became of a packet. `began`: when the first packet of the trace was handled.
pub(crate) fn told(names: Names<'_>, record: &Record, began: Instant) -> Traced {
    let mut steps = Vec::new();
    if let Some(explanation) = &record.explanation {
        if explanation.home == explanation.worker {
            let is_routed = explanation.input.path == engine::flow::Path::Routed;
            if is_routed {
                steps.push(step("lookup", "continue", way::known(explanation)));
            }
            steps.extend(stages(names, explanation));
        } else {
            let why = format!("worker {} owns its flow", explanation.home.0);
            steps.push(step("steer", "hand-over", why));
        }
    }
    let first = record.drops.first().copied();
    Traced {
        at_s: record.at.0.saturating_sub(began.0) as f64 / 1e9,
        worker: record.worker.0,
        ingress: names.port(record.ingress),
        origin: match record.origin {
            Origin::Port => "port",
            Origin::HandedOver => "handed-over",
            Origin::Waited => "waited",
        }
        .to_owned(),
        packet: packet(&record.packet),
        steps,
        repeated: record.is_hit,
        verdict: verdict(record).to_owned(),
        reasons: record.drops.iter().map(|reason| reason.name().to_owned()).collect(),
        advice: first.map(|reason| match &record.explanation {
            Some(about) if about.outcome.reason() == Some(reason) => advice(names, about, reason),
            _ => reasons::of(reason).1.to_owned(),
        }),
        sent: record
            .sent
            .iter()
            .map(|sent| Sent { port: names.port(sent.port), packet: packet(&sent.headers) })
            .collect(),
        sent_count: record.sent_count,
    }
}

fn verdict(record: &Record) -> &'static str {
    let is_flood =
        || record.explanation.as_ref().is_some_and(|about| about.outcome == Outcome::Flood);
    match () {
        () if record.is_handed_over => "hand-over",
        () if record.waits => "wait",
        () if is_flood() && record.sent_count > 0 => "flood",
        () if !record.drops.is_empty() => "drop",
        () if record.is_answered => "answer",
        () if record.sent_count > 0 => "forward",
        () => "taken",
    }
}

/// Headers in words.
fn packet(headers: &Headers) -> String {
    let bytes = headers.bytes;
    match (&headers.ip, headers.ethertype) {
        (Some(ip), _) => format!("{}, {bytes} bytes", of_ip(ip)),
        (None, ethernet::ARP) => {
            format!("arp {} > {}, {bytes} bytes", headers.source_mac, headers.destination_mac)
        }
        (None, other) => format!(
            "frame {} > {} of type {other:#06x}, {bytes} bytes",
            headers.source_mac, headers.destination_mac
        ),
    }
}

fn of_ip(ip: &IpHeaders) -> String {
    let (source, destination) = ip.ports.unwrap_or_default();
    // Of a later fragment there are no ports to show.
    let number = if ip.ports.is_some() { ip.protocol } else { 0 };
    let mut text = format!(
        "{} > {} {}",
        socket((ip.source, source), number),
        socket((ip.destination, destination), number),
        protocol_name(ip.protocol)
    );
    if let Some(flags) = ip.tcp_flags {
        let set = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
        text.push_str(&format!(" [{}]", set.collect::<Vec<_>>().join(",")));
    }
    if let Some((kind, code, identifier)) = ip.icmp {
        text.push_str(&match (ip.protocol, kind) {
            (1, 8) | (58, 128) => format!(" echo request id {identifier}"),
            (1, 0) | (58, 129) => format!(" echo reply id {identifier}"),
            _ => format!(" type {kind} code {code}"),
        });
    }
    if let Some((offset, more)) = ip.fragment {
        let rest = if more { ", more follow" } else { "" };
        text.push_str(&format!(" (fragment at {offset}{rest})"));
    }
    text.push_str(&format!(", ttl {}", ip.hops));
    text
}
