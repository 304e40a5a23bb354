//! The MTU matrix: whatever the sizes of links and packets, all bytes arrive, or the sender is told
//! how large a packet may be.
//!
//! Endpoint MTU × egress MTU (inside a network: the other member's; through a tunnel: that of a
//! link on the way) × the way × the traffic × the family × offloads of the sender × the kind of
//! uplink, each cell with real kernels at both ends. What is expected is one rule, in [`probe`]:
//! data of TCP and UDP comes back byte for byte; a ping that is larger than the path and may not be
//! cut is told the path's MTU. Afterwards no kernel has seen a wrong checksum. The ordinary run
//! takes a cover in which every pair of values of two dimensions occurs, from a seed that is the
//! same each time (`PORTOLAN_MTU_SEED` sets another); `PORTOLAN_MTU_ALL=1` (or
//! `PORTOLAN_MATRIX_ALL=1`, as `cargo xtask test --all` has it) takes every cell, and
//! `PORTOLAN_MTU_WAY=Overlay` those of one way only. Cells of one gateway follow each other there,
//! and some gateways are up at a time, since most of a cell is waiting.
//!
//! Needs root; does not skip without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "mtu/capture.rs"]
mod capture;
#[path = "mtu/cell.rs"]
mod cell;
mod common;
#[path = "mtu/probe.rs"]
mod probe;
#[path = "mtu/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use capture::Capture;
use cell::{Cell, Traffic, Way};
use common::PROGRAM;
use common::beyond::{Beyond, FAMILIES, NARROW_MTU};
use common::cover::chosen;
use world::World;

/// A run that failed fails again.
const SEED: u64 = 9_000;

/// Gateways that are up at a time. More only wait for each other's CPU time.
const WORLDS: usize = 3;

#[test]
fn all_bytes_arrive_or_the_sender_is_told() {
    let mut cells = cell::all();
    if let Ok(way) = std::env::var("PORTOLAN_MTU_WAY") {
        cells.retain(|cell| format!("{:?}", cell.way) == way);
    }
    let mut cells = chosen("MTU", cells, SEED);
    cells.sort_by_key(|cell| (cell.world(), cell.offload));
    let groups = Mutex::new(cells.chunk_by(|one, other| one.world() == other.world()));
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                while let Some(cells) = next(&groups) {
                    let outcome = probe_all(cells);
                    outcomes.lock().unwrap().extend(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    print!("{}", summary(&cells, &outcomes));
    let wrong = outcomes.into_iter().map(|(about, problem)| format!("{about}: {problem}"));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn next<T>(groups: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    groups.lock().unwrap().next()
}

/// What is wrong, and of which cell or, as text, of which gateway.
type Wrong = (String, String);

/// Tries cells that share a gateway.
fn probe_all(cells: &[Cell]) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let mut world = World::start(&cells[0]);
    for cell in cells {
        let outcome = world.probe(cell);
        println!("{} {cell}", if outcome.is_ok() { ' ' } else { '!' });
        wrong.extend(outcome.err().map(|problem| (cell.to_string(), problem)));
    }
    let about = format!("gateway of {}", cells[0]);
    wrong.extend(world.bad_checksums().into_iter().map(|problem| (about.clone(), problem)));
    world.stop();
    wrong
}

/// A table of how many cells were tried, and how many were right, by way and traffic.
fn summary(cells: &[Cell], wrong: &[Wrong]) -> String {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for cell in cells {
        let about = format!("{:?} | {:?}", cell.way, cell.traffic);
        let count = counts.entry(about).or_default();
        let is_wrong = wrong.iter().any(|(about, _)| *about == cell.to_string());
        count[0] += 1;
        count[1] += usize::from(!is_wrong);
    }
    let mut text = "| way | traffic | cells | right |\n| --- | --- | --- | --- |\n".to_owned();
    for (about, [tried, right]) in counts {
        text.push_str(&format!("| {about} | {tried} | {right} |\n"));
    }
    text
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

#[test]
fn a_capture_by_the_far_ends_kernel_shows_no_wrong_checksum() {
    let base = Cell {
        endpoint_mtu: 1_500,
        egress_mtu: 1_400,
        way: Way::Nat,
        traffic: Traffic::Tcp,
        v6: false,
        offload: true,
        xdp: true,
    };
    let mut world = World::start(&base);
    let capture = Capture::of(&world.path("host"), "wan0");
    let over = AtomicBool::new(false);
    let judged = std::thread::scope(|scope| {
        let judge = scope.spawn(|| capture.judge_until(&over));
        for offload in [false, true] {
            for way in [Way::Nat, Way::Published] {
                for traffic in [Traffic::Tcp, Traffic::Udp(1), Traffic::Udp(1_372)] {
                    for v6 in [false, true] {
                        let cell = Cell { way, traffic, v6, offload, ..base };
                        let outcome = world.probe(&cell);
                        if outcome.is_err() {
                            over.store(true, Ordering::Relaxed);
                        }
                        outcome.unwrap_or_else(|problem| panic!("{cell}: {problem}"));
                    }
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        judge.join().unwrap()
    });
    assert!(
        judged.wrong.is_empty(),
        "{} of {}: {:?}",
        judged.wrong.len(),
        judged.right,
        judged.wrong
    );
    println!("{} frames judged", judged.right);
    // Eight times 400,000 bytes of TCP each way, in segments of at most 1,360 bytes.
    assert!(judged.right > 1_000, "only {} frames of TCP and UDP", judged.right);
    world.stop();
}
