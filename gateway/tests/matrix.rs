//! The reachability matrix: who reaches whom, by which way, and which source the server sees.
//!
//! What is expected of a cell is said by [`expectation::of`], a pure function written from Docker's
//! forwarding policy and DESIGN's list of sources, not from the engine. Each cell is tried with
//! real sockets in namespaces. The ordinary run takes a cover in which every pair of values of two
//! dimensions occurs, from a seed that is the same each time (`PORTOLAN_MATRIX_SEED` sets
//! another); `PORTOLAN_MATRIX_ALL=1` takes every cell. Gateways start once per network mode
//! and kind of uplink.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "matrix/cell.rs"]
mod cell;
mod common;
#[path = "matrix/expectation.rs"]
mod expectation;
#[path = "matrix/probe.rs"]
mod probe;
#[path = "matrix/world.rs"]
mod world;

use cell::{Cell, MODES, UPLINKS};
use common::cover::chosen;
use expectation::Outcome;
use world::World;

/// A run that failed fails again.
const SEED: u64 = 15_874;

#[test]
fn every_cell_of_the_matrix_is_as_expected() {
    let cells = chosen("MATRIX", cell::all(), SEED);
    let mut wrong = Vec::new();
    let worlds = MODES.into_iter().flat_map(|mode| UPLINKS.map(|uplink| (mode, uplink)));
    for (mode, uplink) in worlds {
        let is_of = |cell: &&Cell| (cell.mode, cell.uplink) == (mode, uplink);
        let cells: Vec<&Cell> = cells.iter().filter(is_of).collect();
        if cells.is_empty() {
            continue;
        }
        let mut world = World::start(mode, uplink);
        for cell in cells {
            let expected = expectation::of(cell);
            let mut found = world.probe(cell);
            if found != expected && found == Outcome::Silent {
                // Silence may be a packet that a busy machine lost: it must be silent twice.
                found = world.probe(cell);
            }
            let is_right = found == expected;
            let mark = if is_right { ' ' } else { '!' };
            println!("{mark} {cell}  {found}");
            if !is_right {
                wrong.push(format!("{cell}: {found}, expected {expected}"));
            }
        }
        world.stop();
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
