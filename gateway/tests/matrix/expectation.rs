//! What is expected of each cell, from Docker's forwarding policy.

use std::fmt;

use super::cell::{Cell, Mode, Protocol, Published, Uplink, Way};

/// Whom the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client itself.
    Client,
    /// The gateway of the server's network.
    Gateway,
    /// Somebody else.
    Stranger,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server answers, and sees this source.
    Open(Source),
    /// The gateway itself answers a ping of its own address.
    Gateway,
    /// The gateway says no.
    Refused,
    /// Nothing comes.
    Silent,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Open(source) => {
                write!(f, "open, source: {}", format!("{source:?}").to_lowercase())
            }
            Outcome::Gateway => f.write_str("open, by the gateway itself"),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Silent => f.write_str("silent"),
        }
    }
}

/// What a cell is to be.
pub(crate) fn of(cell: &Cell) -> Outcome {
    match cell.way {
        Way::SameNetwork => match cell.mode {
            Mode::IccOff => Outcome::Silent,
            _ => Outcome::Open(Source::Client),
        },
        // Docker's rules are about what is forwarded: the machine itself reaches every container.
        // By AF_XDP it is not the machine that is at the link's other end, but a neighbour.
        Way::HostDirect if cell.uplink == Uplink::Tap => Outcome::Open(Source::Client),
        Way::OtherNetwork | Way::OutsideDirect | Way::HostDirect => straight(cell),
        Way::SameNetworkPublished | Way::Itself => by_uplink(cell, Source::Gateway),
        Way::OtherNetworkPublished | Way::Outside | Way::Host => by_uplink(cell, Source::Client),
    }
}

/// From elsewhere than its network, at the server's own address.
fn straight(cell: &Cell) -> Outcome {
    let is_open = match cell.mode {
        Mode::Nat | Mode::IccOff | Mode::Internal => false,
        Mode::NatUnprotected => true,
        // Whatever is said of the host's side of a published port is ignored.
        Mode::Routed => cell.protocol == Protocol::Icmp || cell.published != Published::Nowhere,
    };
    if is_open { Outcome::Open(Source::Client) } else { Outcome::Silent }
}

/// At the uplink's address.
fn by_uplink(cell: &Cell, source: Source) -> Outcome {
    let is_inside = matches!(cell.way, Way::SameNetworkPublished | Way::Itself);
    if is_inside && cell.mode == Mode::Internal {
        // There is no way out of an internal network, not even to the gateway's other addresses.
        return Outcome::Silent;
    }
    if cell.protocol == Protocol::Icmp {
        return Outcome::Gateway;
    }
    let is_published = matches!(cell.mode, Mode::Nat | Mode::NatUnprotected | Mode::IccOff)
        && cell.published == Published::Everywhere;
    if is_published { Outcome::Open(source) } else { Outcome::Refused }
}

/// LIMIT: ports in SCTP headers are not rewritten, so a question of the server's own network comes
/// through only if its source port can stay. Goes when they are.
pub(crate) fn may_be_silent(cell: &Cell) -> bool {
    cell.protocol == Protocol::Sctp && of(cell) == Outcome::Open(Source::Gateway)
}
