//! `portolan trace`: what becomes of live packets, each with what every step says of it.
//!
//! The running gateway streams one JSON object per line; this end prints them, for people or as
//! they are. The one hard constraint: nothing is left behind: when the reader goes away, however
//! it does, nobody traces any more.

pub(crate) mod ask;
pub mod model;
pub(crate) mod words;

use std::io::{self, Write};

use crate::client::{self, ClientError, Target};
use crate::explain::print_steps;
pub use ask::Wanted;
use model::{Line, Traced};

/// How packets are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// With every step.
    #[default]
    Whole,
    /// What came and what became of it.
    Brief,
    /// As the API says it, one object per line.
    Json,
}

impl Form {
    /// What these two flags ask for.
    pub fn of(json: bool, brief: bool) -> Form {
        match (json, brief) {
            (true, _) => Form::Json,
            (false, true) => Form::Brief,
            (false, false) => Form::Whole,
        }
    }
}

/// Prints packets as they come, until there were enough or the gateway ends.
///
/// # Errors
/// Nobody answers, what is asked for is not there, or the output takes no more.
pub fn trace(
    target: &Target,
    wanted: &Wanted,
    form: Form,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    target.client()?.lines(&path(wanted), |line| {
        match form {
            Form::Json => writeln!(out, "{line}")?,
            _ => match serde_json::from_str(line).map_err(io::Error::from)? {
                Line::Packet(traced) => print(&traced, form, out)?,
                Line::Lost { lost } => writeln!(out, "{lost} packets passed unseen so far")?,
            },
        }
        out.flush()
    })
}

/// The question as the API's path.
fn path(wanted: &Wanted) -> String {
    let (port, count) =
        (wanted.port.map(|port| port.to_string()), wanted.count.map(|count| count.to_string()));
    let pairs = [
        ("from", &wanted.from),
        ("to", &wanted.to),
        ("endpoint", &wanted.endpoint),
        ("uplink", &wanted.uplink),
        ("protocol", &wanted.protocol),
        ("port", &port),
        ("count", &count),
    ];
    client::question(
        "trace",
        pairs.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))),
    )
}

fn print(traced: &Traced, form: Form, out: &mut impl Write) -> io::Result<()> {
    let origin = match traced.origin.as_str() {
        "port" => String::new(),
        other => format!(" ({other})"),
    };
    let Traced { at_s, worker, ingress, packet, .. } = traced;
    writeln!(out, "{at_s:.6} worker {worker} {ingress}{origin}: {packet}")?;
    if form == Form::Whole {
        print_steps(&traced.steps, out)?;
    }
    write!(out, "  = {}", traced.verdict)?;
    if traced.repeated {
        write!(out, " (repeated)")?;
    }
    if !traced.reasons.is_empty() {
        write!(out, ": {}", traced.reasons.join(", "))?;
    }
    writeln!(out)?;
    for sent in &traced.sent {
        writeln!(out, "    by {}: {}", sent.port, sent.packet)?;
    }
    let shown = traced.sent.len() as u32;
    if traced.sent_count > shown {
        writeln!(out, "    and {} more", traced.sent_count - shown)?;
    }
    match &traced.advice {
        Some(advice) => writeln!(out, "    what to do: {advice}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_path_and_a_line_is_read_back() {
        let wanted =
            Wanted { from: Some("10.0.0.0/8".to_owned()), count: Some(3), ..Wanted::default() };
        assert_eq!(path(&wanted), "/v1/trace?from=10.0.0.0%2F8&count=3");
        assert_eq!(path(&Wanted::default()), "/v1/trace");
        let lost: Line = serde_json::from_str(r#"{"lost":7}"#).unwrap();
        assert_eq!(lost, Line::Lost { lost: 7 });
    }
}
