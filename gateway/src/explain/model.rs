//! What an explanation says: its shape in the API and in `--json`. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// What becomes of a packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Explained {
    /// The packet, in words.
    pub packet: String,
    /// What each step says, in their order.
    pub steps: Vec<Step>,
    /// `forward`, `flood`, `answer` or `drop`.
    pub verdict: String,
    /// The drop reason, as `show drops` counts it.
    pub reason: Option<String>,
    /// What goes back to the sender of a packet that dies: an ICMP error or a reset.
    pub answer: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
    /// What leaves, if it is sent.
    pub leaves: Option<Leaves>,
    /// The worker that owns the flow.
    pub worker: u8,
}

/// What one step says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// Its name.
    pub step: String,
    /// `continue`, `forward`, `flood`, `answer` or `drop`.
    pub verdict: String,
    /// Why.
    pub why: String,
}

/// A packet as it leaves.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Leaves {
    /// Name of the port.
    pub port: String,
    /// Source, with its port where there is one.
    pub source: String,
    /// Destination.
    pub destination: String,
    /// The address of the next hop; absent: the destination itself, or a frame.
    pub next_hop: Option<String>,
    /// The MAC address that it leaves from; absent: its own.
    pub source_mac: Option<String>,
    /// To this one; absent: not known yet.
    pub destination_mac: Option<String>,
    /// Largest IP packet that leaves by this port, in bytes.
    pub mtu: u16,
    /// How many bytes the packet was said to have.
    pub bytes: u32,
    /// It is not too large.
    pub fits: bool,
    /// It is cut into so many; absent: it leaves whole, or not at all.
    #[serde(default)]
    pub fragments: Option<u32>,
}
