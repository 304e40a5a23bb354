//! The dimensions of the matrix, and which cells are tried.

use std::collections::HashSet;
use std::fmt;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Inside one network, which has one MTU.
    Bridge,
    /// From an endpoint to the outside, with its own address.
    Routed,
    /// The same, masqueraded.
    Nat,
    /// From the outside to a published port.
    Published,
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

const WAYS: [Way; 4] = [Way::Bridge, Way::Routed, Way::Nat, Way::Published];
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
    cells
}

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|other| other == one).expect("a cell is made of the dimensions' values")
}

impl Cell {
    /// Cells that are equal here share a gateway.
    pub(crate) fn world(&self) -> (u16, u16, bool, bool) {
        (self.endpoint_mtu, self.egress_mtu, self.xdp, self.way == Way::Routed)
    }

    /// Its place in each dimension.
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

    /// Every pair of values of two dimensions that it has.
    fn pairs(&self) -> Vec<[usize; 4]> {
        let places = self.places();
        let pair = |first: usize| (first + 1..7).map(move |second| (first, second));
        let all = (0..7).flat_map(pair);
        all.map(|(first, second)| [first, second, places[first], places[second]]).collect()
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
        let gain = |cell: &Cell| cell.pairs().iter().filter(|pair| open.contains(*pair)).count();
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
    for seed in 0..3 {
        let cover = pairwise(seed);
        let pairs = |cells: &[Cell]| cells.iter().flat_map(Cell::pairs).collect::<HashSet<_>>();
        assert_eq!(pairs(&cover), pairs(&all()));
        assert!(cover.len() < 60, "{}", cover.len());
        assert_eq!(cover, pairwise(seed));
    }
}
