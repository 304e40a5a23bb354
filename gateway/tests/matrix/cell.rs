//! The dimensions of the matrix, and which cells are tried.

use std::collections::HashSet;
use std::fmt;

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

impl Cell {
    /// Its place in each dimension.
    fn places(&self) -> [usize; 6] {
        let at = |found: Option<usize>| found.expect("a cell is made of the dimensions' values");
        [
            at(WAYS.iter().position(|way| *way == self.way)),
            at(PUBLISHED.iter().position(|published| *published == self.published)),
            at(MODES.iter().position(|mode| *mode == self.mode)),
            at(PROTOCOLS.iter().position(|protocol| *protocol == self.protocol)),
            usize::from(self.v6),
            at(UPLINKS.iter().position(|uplink| *uplink == self.uplink)),
        ]
    }

    /// Every pair of values of two dimensions that it has.
    fn pairs(&self) -> Vec<(usize, usize, usize, usize)> {
        let places = self.places();
        let pair = |first: usize| (first + 1..6).map(move |second| (first, second));
        let all = (0..6).flat_map(pair);
        all.map(|(first, second)| (first, second, places[first], places[second])).collect()
    }
}

/// Cells in which every pair of values occurs: always the one with the most pairs that are new, of
/// an order that the seed gives.
pub(crate) fn pairwise(seed: u64) -> Vec<Cell> {
    let mut cells = all();
    let mut state = seed;
    for index in (1..cells.len()).rev() {
        // SplitMix64 by Steele, Lea and Flood, 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        cells.swap(index, ((mixed ^ mixed >> 31) % (index as u64 + 1)) as usize);
    }
    let mut open: HashSet<_> = cells.iter().flat_map(Cell::pairs).collect();
    let mut cover = Vec::new();
    while !open.is_empty() {
        let gain = |cell: &Cell| cell.pairs().iter().filter(|pair| open.contains(pair)).count();
        let best = *cells.iter().max_by_key(|cell| gain(cell)).expect("there are cells");
        best.pairs().iter().for_each(|pair| {
            open.remove(pair);
        });
        cover.push(best);
    }
    cover
}

#[test]
fn a_cover_has_every_pair_and_is_the_same_for_a_seed() {
    for seed in 0..5 {
        let cover = pairwise(seed);
        let pairs = |cells: &[Cell]| cells.iter().flat_map(Cell::pairs).collect::<HashSet<_>>();
        assert_eq!(pairs(&cover), pairs(&all()));
        assert!(cover.len() < 90, "{}", cover.len());
        assert_eq!(cover, pairwise(seed));
    }
}
