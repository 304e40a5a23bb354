//! Instructions per packet, counted under valgrind: the numbers that CI compares.
//!
//! Each case carries packets at batch 64 through `Worker::turn` with memory ports, once [`SHORT`]
//! batches and once [`LONG`]: the difference, divided by the packets between, is what one packet
//! costs, whatever set-up did. `cargo xtask bench` works it out and compares with the baseline.

#![allow(missing_docs)] // what the macros make has none

use std::hint::black_box;

use benches::memory::{Direction, Floor, World};
use gungraun::prelude::*;

/// Batches of the short run: enough that everything is warm.
const SHORT: usize = 512;
/// Batches of the long run: 65,536 packets more. `xtask` knows the difference.
const LONG: usize = SHORT + 1_024;

fn bridge_world(batches: usize) -> (World, usize) {
    (World::bridge(), batches)
}

fn nat_world(batches: usize) -> (World, usize) {
    (World::nat(1_000), batches)
}

fn nat_mixed_world(batches: usize) -> (World, usize) {
    (World::nat_mixed(1_000), batches)
}

fn nat_crowded_world(batches: usize) -> (World, usize) {
    (World::nat_among(1_000, 10_000), batches)
}

fn miss_world(batches: usize) -> (World, usize) {
    (World::miss(16_384), batches)
}

fn encap_world(batches: usize) -> (World, usize) {
    (World::tunnel_routed(1_000, Direction::Encap), batches)
}

fn decap_world(batches: usize) -> (World, usize) {
    (World::tunnel_routed(1_000, Direction::Decap), batches)
}

fn encap_bridged_world(batches: usize) -> (World, usize) {
    (World::tunnel_bridged(Direction::Encap), batches)
}

fn decap_bridged_world(batches: usize) -> (World, usize) {
    (World::tunnel_bridged(Direction::Decap), batches)
}

fn floor_world(batches: usize) -> (Floor, usize) {
    (Floor::new(1_000), batches)
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = bridge_world)]
#[bench::long(args = (LONG,), setup = bridge_world)]
fn l2_hit((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = nat_world)]
#[bench::long(args = (LONG,), setup = nat_world)]
fn nat_hit((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = nat_mixed_world)]
#[bench::long(args = (LONG,), setup = nat_mixed_world)]
fn nat_hit_mixed((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = nat_crowded_world)]
#[bench::long(args = (LONG,), setup = nat_crowded_world)]
fn nat_hit_crowded((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = miss_world)]
#[bench::long(args = (LONG,), setup = miss_world)]
fn new_flow((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = encap_world)]
#[bench::long(args = (LONG,), setup = encap_world)]
fn encap((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = decap_world)]
#[bench::long(args = (LONG,), setup = decap_world)]
fn decap((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = encap_bridged_world)]
#[bench::long(args = (LONG,), setup = encap_bridged_world)]
fn encap_bridged((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = decap_bridged_world)]
#[bench::long(args = (LONG,), setup = decap_bridged_world)]
fn decap_bridged((mut world, batches): (World, usize)) -> World {
    black_box(&mut world).carry(black_box(batches));
    world
}

#[library_benchmark]
#[bench::short(args = (SHORT,), setup = floor_world)]
#[bench::long(args = (LONG,), setup = floor_world)]
fn floor((mut floor, batches): (Floor, usize)) -> Floor {
    black_box(&mut floor).carry(black_box(batches));
    floor
}

library_benchmark_group!(
    name = per_packet,
    benchmarks = [
        l2_hit,
        nat_hit,
        nat_hit_mixed,
        nat_hit_crowded,
        encap,
        decap,
        encap_bridged,
        decap_bridged,
        new_flow,
        floor
    ]
);
main!(library_benchmark_groups = per_packet);
