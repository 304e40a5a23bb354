//! The MTU matrix: whatever the sizes of links and packets, all bytes arrive, or the sender is told
//! how large a packet may be.
//!
//! Endpoint MTU × egress MTU × the way × the traffic × the family × offloads of the sender × the
//! kind of uplink, each cell with real kernels at both ends. What is expected is one rule, in
//! [`probe`]: data of TCP and UDP comes back byte for byte; a ping that is larger than the path and
//! may not be cut is told the path's MTU. Afterwards no kernel has seen a wrong checksum. The
//! ordinary run takes a cover in which every pair of values of two dimensions occurs, from a seed
//! that is the same each time (`PORTOLAN_MTU_SEED` sets another); `PORTOLAN_MTU_ALL=1` (or
//! `PORTOLAN_MATRIX_ALL=1`, as `cargo xtask test --all` has it) takes every cell.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "mtu/cell.rs"]
mod cell;
mod common;
#[path = "mtu/probe.rs"]
mod probe;
#[path = "mtu/world.rs"]
mod world;

use std::process::Command;

use cell::Cell;
use common::PROGRAM;
use common::beyond::{Beyond, FAMILIES, NARROW_MTU};
use common::cover::chosen;
use world::World;

/// A run that failed fails again.
const SEED: u64 = 9_000;

#[test]
fn all_bytes_arrive_or_the_sender_is_told() {
    let mut cells = chosen("MTU", cell::all(), SEED);
    cells.sort_by_key(Cell::world);
    let mut wrong = Vec::new();
    for cells in cells.chunk_by(|one, other| one.world() == other.world()) {
        let world = World::start(&cells[0]);
        for cell in cells {
            let outcome = world.probe(cell);
            println!("{} {cell}", if outcome.is_ok() { ' ' } else { '!' });
            wrong.extend(outcome.err().map(|problem| format!("{cell}: {problem}")));
        }
        wrong.extend(world.bad_checksums());
        world.stop();
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What `portolan show mtu` prints.
fn shown(world: &Beyond) -> String {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["show", "mtu", "--socket"]).arg(world.scratch.socket()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_a_router_beyond_says_is_remembered_for_everybody_and_shown() {
    let world = Beyond::new("paths", |config| config);
    for family in FAMILIES {
        let size = (1_500 - if family.v6 { 48 } else { 28 }).to_string();
        let ping = ["-c", "1", "-M", "do", "-s", &size, family.far];
        // A busy machine may lose a packet on the way.
        let first = (0..5).map(|_| world.ping("web", &ping)).find(|(_, text)| {
            text.contains(family.router) && text.contains(&NARROW_MTU.to_string())
        });
        let (_, text) = first.unwrap_or_else(|| panic!("{}", shown(&world)));
        assert!(!text.contains(family.inside), "the router says it: {text}");
        // Another endpoint, another worker perhaps: the gateway itself says it.
        let (arrived, text) = world.ping("db", &ping);
        assert!(!arrived && text.contains(family.inside), "the gateway says it: {text}");
        assert!(text.contains(&NARROW_MTU.to_string()), "{text}");
        let table = shown(&world);
        let line = table.lines().find(|line| line.contains(family.far));
        let line = line.unwrap_or_else(|| panic!("{table}"));
        assert!(line.contains("1300") && line.contains("learnt from ICMP"), "{line}");
    }
    world.end();
}
