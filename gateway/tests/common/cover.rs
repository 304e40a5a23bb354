//! Which cells of a large matrix are tried: all of them, or a cover in which every pair of values
//! of two dimensions occurs.

use std::collections::HashSet;

/// A cell of a matrix of `N` dimensions: its place in each.
pub(crate) trait Places<const N: usize>: Copy {
    fn places(&self) -> [usize; N];
}

/// The place of a value among those of its dimension.
pub(crate) fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|other| other == one).expect("a cell is made of the dimensions' values")
}

/// Every pair of values of two dimensions that a cell has.
fn pairs<const N: usize>(cell: &impl Places<N>) -> impl Iterator<Item = [usize; 4]> {
    let places = cell.places();
    let both = (0..N).flat_map(|first| (first + 1..N).map(move |second| (first, second)));
    both.map(move |(first, second)| [first, second, places[first], places[second]])
}

/// Cells in which every pair of values occurs: always the one with the most pairs that are new, of
/// an order that the seed gives.
pub(crate) fn pairwise<const N: usize, C: Places<N>>(mut cells: Vec<C>, seed: u64) -> Vec<C> {
    let mut state = seed;
    for index in (1..cells.len()).rev() {
        // SplitMix64 by Steele, Lea and Flood, 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        cells.swap(index, ((mixed ^ mixed >> 31) % (index as u64 + 1)) as usize);
    }
    let mut open: HashSet<_> = cells.iter().flat_map(pairs).collect();
    let mut cover = Vec::new();
    while !open.is_empty() {
        let gain = |cell: &C| pairs(cell).filter(|pair| open.contains(pair)).count();
        let best = *cells.iter().max_by_key(|cell| gain(cell)).expect("there are cells");
        pairs(&best).for_each(|pair| {
            open.remove(&pair);
        });
        cover.push(best);
    }
    cover
}

/// The cells that this run tries: a cover from `seed`, or from what the variable
/// `PORTOLAN_{name}_SEED` says; all where `PORTOLAN_{name}_ALL` or, for every matrix,
/// `PORTOLAN_MATRIX_ALL` is 1.
pub(crate) fn chosen<const N: usize, C: Places<N>>(name: &str, all: Vec<C>, seed: u64) -> Vec<C> {
    let variable = |what: &str| format!("PORTOLAN_{name}_{what}");
    let is_set = |name: &String| std::env::var_os(name).is_some_and(|value| value == "1");
    let seed = match std::env::var(variable("SEED")) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => seed,
    };
    let total = all.len();
    let cells = match [variable("ALL"), "PORTOLAN_MATRIX_ALL".to_owned()].iter().any(is_set) {
        true => all,
        false => pairwise(all, seed),
    };
    println!("{} of {total} cells, {}={seed}", cells.len(), variable("SEED"));
    cells
}

/// Fails unless the covers of these seeds have every pair, are the same each time, and are small.
pub(crate) fn check<const N: usize, C>(all: &[C], seeds: std::ops::Range<u64>, below: usize)
where
    C: Places<N> + PartialEq + std::fmt::Debug,
{
    for seed in seeds {
        let cover = pairwise(all.to_vec(), seed);
        let of = |cells: &[C]| cells.iter().flat_map(pairs).collect::<HashSet<_>>();
        assert_eq!(of(&cover), of(all));
        assert!(cover.len() < below, "{}", cover.len());
        assert_eq!(cover, pairwise(all.to_vec(), seed));
    }
}
