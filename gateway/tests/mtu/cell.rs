//! The dimensions of the matrix, and which cells are tried.

use std::fmt;

use crate::common::cover::{self, Places, place};

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Inside one network, between members of both MTUs.
    Bridge,
    /// From an endpoint to the outside, with its own address.
    Routed,
    /// The same, masqueraded.
    Nat,
    /// From the outside to a published port.
    Published,
    /// Through a tunnel to a kernel's `vxlan` device, behind a router with a narrow link.
    Overlay,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Traffic {
    /// Bulk, both ways.
    Tcp,
    /// A datagram of so many bytes, and back.
    Udp(usize),
    /// An echo as large as the sender's link takes, that may not be fragmented.
    PingDo,
    /// One that may.
    PingDont,
}

const WAYS: [Way; 5] = [Way::Bridge, Way::Routed, Way::Nat, Way::Published, Way::Overlay];
const MTUS: [u16; 4] = [1_280, 1_400, 1_500, 9_000];
const TRAFFIC: [Traffic; 7] = [
    Traffic::Tcp,
    Traffic::Udp(1),
    Traffic::Udp(1_472),
    Traffic::Udp(8_972),
    Traffic::Udp(65_507),
    Traffic::PingDo,
    Traffic::PingDont,
];
const BOTH: [bool; 2] = [false, true];

/// One question with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) endpoint_mtu: u16,
    pub(crate) egress_mtu: u16,
    pub(crate) way: Way,
    pub(crate) traffic: Traffic,
    pub(crate) v6: bool,
    pub(crate) offload: bool,
    pub(crate) xdp: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, traffic) = (format!("{:?}", self.way), format!("{:?}", self.traffic));
        let family = if self.v6 { "v6" } else { "v4" };
        let offload = if self.offload { "offload" } else { "-" };
        let uplink = if self.xdp { "xdp" } else { "tap" };
        let (endpoint, egress) = (self.endpoint_mtu, self.egress_mtu);
        write!(f, "{endpoint} {egress} {way:9} {traffic:10} {family} {offload:7} {uplink}")
    }
}

/// Every cell.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for endpoint_mtu in MTUS {
        for egress_mtu in MTUS {
            for way in WAYS {
                for traffic in TRAFFIC {
                    for bits in 0..8 {
                        let [v6, offload, xdp] = [1, 2, 4].map(|bit| bits & bit != 0);
                        cells.push(Cell {
                            endpoint_mtu,
                            egress_mtu,
                            way,
                            traffic,
                            v6,
                            offload,
                            xdp,
                        });
                    }
                }
            }
        }
    }
    // Every link of IPv6 takes 1,280 bytes, and a tunnel through such a one leaves less.
    cells.retain(|cell: &Cell| !cell.is_overlay() || !cell.v6 || cell.inside_mtu() >= 1_280);
    cells
}

impl Cell {
    /// Cells that are equal here share a gateway.
    pub(crate) fn world(&self) -> (u16, u16, bool, u8) {
        let kind = match self.way {
            Way::Bridge | Way::Nat | Way::Published => 0,
            Way::Routed => 1,
            Way::Overlay => 2 + u8::from(self.outer_v6()),
        };
        (self.endpoint_mtu, self.egress_mtu, self.xdp, kind)
    }

    pub(crate) fn is_overlay(&self) -> bool {
        self.way == Way::Overlay
    }

    /// Which family is outside, in a tunnel: each inner one is in either.
    pub(crate) fn outer_v6(&self) -> bool {
        self.v6 != self.xdp
    }

    /// What the narrowest link on the way between two tunnel ends leaves inside.
    pub(crate) fn inside_mtu(&self) -> u16 {
        self.egress_mtu - if self.outer_v6() { 70 } else { 50 }
    }
}

impl Places<7> for Cell {
    fn places(&self) -> [usize; 7] {
        [
            place(&MTUS, &self.endpoint_mtu),
            place(&MTUS, &self.egress_mtu),
            place(&WAYS, &self.way),
            place(&TRAFFIC, &self.traffic),
            place(&BOTH, &self.v6),
            place(&BOTH, &self.offload),
            place(&BOTH, &self.xdp),
        ]
    }
}

#[test]
fn a_cover_has_every_pair_and_is_the_same_for_a_seed() {
    cover::check(&all(), 0..3, 60);
}
