//! What is expected of each cell, from Docker's forwarding policy.

use std::fmt;

use super::cell::{Cell, Mode, Protocol, Published, Way};

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
    /// Whose address it is answers a ping itself: the gateway, or the machine that it runs on.
    Owner,
    /// The same says no.
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
            Outcome::Owner => f.write_str("open, by the address's owner"),
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
        Way::HostDirect => Outcome::Open(Source::Client),
        Way::OtherNetwork | Way::OutsideDirect => straight(cell),
        Way::HostOwn | Way::OutsideHost => by_host(cell, Source::Client),
        Way::HostLoopback => by_host(cell, Source::Gateway),
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
        return Outcome::Owner;
    }
    let is_published = has_host_side(cell) && cell.published == Published::Everywhere;
    if is_published { Outcome::Open(source) } else { Outcome::Refused }
}

/// True if publishing has a host's side: what an internal network publishes is refused, and of a
/// routed one it opens the server's own port.
fn has_host_side(cell: &Cell) -> bool {
    matches!(cell.mode, Mode::Nat | Mode::NatUnprotected | Mode::IccOff)
}

/// At an address of the machine that the gateway runs on.
fn by_host(cell: &Cell, source: Source) -> Outcome {
    if cell.protocol == Protocol::Icmp {
        return Outcome::Owner;
    }
    let by_loopback = cell.way == Way::HostLoopback;
    let is_there = match cell.published {
        Published::Everywhere => true,
        Published::Loopback => by_loopback,
        Published::Nowhere => false,
    };
    // Nothing from ::1 leaves the loopback device: sockets serve it, of TCP and UDP.
    let has_way = !(by_loopback && cell.v6 && cell.protocol == Protocol::Sctp);
    match is_there && has_way && has_host_side(cell) {
        true => Outcome::Open(source),
        // What the machine sends to itself in raw SCTP comes to the client's own socket, so its
        // kernel, which has no SCTP, says no to nobody.
        false if cell.protocol == Protocol::Sctp && cell.way != Way::OutsideHost => Outcome::Silent,
        false => Outcome::Refused,
    }
}
