//! The dimensions of the matrix, and which cells are tried.

use std::fmt;

use crate::common::cover::{self, Places, place};

/// Who asks, and by which of the server's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// A member of the server's network, by its own address.
    SameNetwork,
    /// The same, by the uplink's address.
    SameNetworkPublished,
    /// A member of another network, by the server's own address.
    OtherNetwork,
    /// The same, by the uplink's address.
    OtherNetworkPublished,
    /// The server itself, by the uplink's address.
    Itself,
    /// Somebody outside, by the uplink's address.
    Outside,
    /// Somebody outside who has a route to the server's own address.
    OutsideDirect,
    /// The machine that the gateway runs on, by the uplink's address; by AF_XDP a neighbour there.
    Host,
    /// That machine, by the server's own address.
    HostDirect,
    /// The same, by an address of its own.
    HostOwn,
    /// The same, by 127.0.0.1 or ::1.
    HostLoopback,
    /// Somebody outside, by an address of that machine.
    OutsideHost,
}

/// How the server's port is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Published {
    /// On every address.
    Everywhere,
    /// On the loopback address.
    Loopback,
    /// Not at all.
    Nowhere,
}

/// What the server's network is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Nat,
    NatUnprotected,
    Routed,
    Internal,
    IccOff,
}

/// How is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// By what the gateway's uplink goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Uplink {
    /// A TAP, whose other end is the host's.
    Tap,
    /// AF_XDP on one end of a veth, whose other end is the host's; and a TAP beside the host.
    Xdp,
}

pub(crate) const WAYS: [Way; 12] = [
    Way::SameNetwork,
    Way::SameNetworkPublished,
    Way::OtherNetwork,
    Way::OtherNetworkPublished,
    Way::Itself,
    Way::Outside,
    Way::OutsideDirect,
    Way::Host,
    Way::HostDirect,
    Way::HostOwn,
    Way::HostLoopback,
    Way::OutsideHost,
];
pub(crate) const PUBLISHED: [Published; 3] =
    [Published::Everywhere, Published::Loopback, Published::Nowhere];
pub(crate) const MODES: [Mode; 5] =
    [Mode::Nat, Mode::NatUnprotected, Mode::Routed, Mode::Internal, Mode::IccOff];
pub(crate) const PROTOCOLS: [Protocol; 4] =
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];

pub(crate) const UPLINKS: [Uplink; 2] = [Uplink::Tap, Uplink::Xdp];

/// One question with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) way: Way,
    pub(crate) published: Published,
    pub(crate) mode: Mode,
    pub(crate) protocol: Protocol,
    pub(crate) v6: bool,
    pub(crate) uplink: Uplink,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { way, published, mode, protocol, v6, uplink } = self;
        let family = if *v6 { "v6" } else { "v4" };
        let [way, published, mode] =
            [format!("{way:?}"), format!("{published:?}"), format!("{mode:?}")];
        let [protocol, uplink] = [format!("{protocol:?}"), format!("{uplink:?}")];
        write!(f, "{way:22} {published:11} {mode:15} {protocol:5} {family} {uplink}")
    }
}

/// Every cell.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    let families = [false, true].into_iter().flat_map(|v6| UPLINKS.map(|uplink| (v6, uplink)));
    for way in WAYS {
        for published in PUBLISHED {
            for mode in MODES {
                for protocol in PROTOCOLS {
                    for (v6, uplink) in families.clone() {
                        cells.push(Cell { way, published, mode, protocol, v6, uplink });
                    }
                }
            }
        }
    }
    cells
}

impl Places<6> for Cell {
    fn places(&self) -> [usize; 6] {
        [
            place(&WAYS, &self.way),
            place(&PUBLISHED, &self.published),
            place(&MODES, &self.mode),
            place(&PROTOCOLS, &self.protocol),
            usize::from(self.v6),
            place(&UPLINKS, &self.uplink),
        ]
    }
}

#[test]
fn a_cover_has_every_pair_and_is_the_same_for_a_seed() {
    cover::check(&all(), 0..5, 90);
}
