//! What is said of a live packet: its shape in the API and in `--json`. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::explain::model::Step;

/// One line of a trace.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// A packet.
    Packet(Box<Traced>),
    /// Packets that were wanted so far and passed unseen, because the reader was too slow.
    Lost {
        /// How many.
        lost: u64,
    },
}

/// What became of one packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Traced {
    /// Seconds since the first packet of the trace.
    pub at_s: f64,
    /// The worker that handled it.
    pub worker: u8,
    /// The port by which it came in.
    pub ingress: String,
    /// `port`, `handed-over` or `waited`: from where the worker took it.
    pub origin: String,
    /// The packet as it came in, in words.
    pub packet: String,
    /// What each step says, in their order; empty for what no stage is asked about.
    pub steps: Vec<Step>,
    /// A flow or the FDB had the decision: it was repeated, and no stage was asked.
    pub repeated: bool,
    /// `forward`, `flood`, `answer`, `drop`, `wait`, `hand-over` or `taken` (news for the gateway,
    /// such as a neighbour's answer).
    pub verdict: String,
    /// The drop reasons, as `show drops` counts them.
    pub reasons: Vec<String>,
    /// What to do about the first of them.
    pub advice: Option<String>,
    /// What left because of it, the answer to its sender included; the first few.
    pub sent: Vec<Sent>,
    /// How many packets that are in all.
    pub sent_count: u32,
}

/// A packet that left.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sent {
    /// By this port.
    pub port: String,
    /// The packet, in words.
    pub packet: String,
}
