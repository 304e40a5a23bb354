//! Nanoseconds per packet, for reading: NAT hits at growing flow counts beside the floor, and new
//! flows where a million are resident.
//!
//! `cargo bench -p portolan-benches --bench packets`. On a shared machine only the difference
//! to the floor of the same run means something.

use benches::memory::{Floor, World};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Batches per sample: both directions, a few turns of the wheel's slots.
const BATCHES: usize = 256;

fn nat_hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat_hit");
    group.throughput(Throughput::Elements((BATCHES * 64) as u64));
    for flows in [1_000, 100_000, 1_000_000] {
        let mut floor = Floor::new(flows);
        group.bench_function(BenchmarkId::new("floor", flows), |bencher| {
            bencher.iter(|| floor.carry(BATCHES));
        });
        let mut world = World::nat(flows);
        let before = world.drops();
        group.bench_function(BenchmarkId::new("portolan", flows), |bencher| {
            bencher.iter(|| world.carry(BATCHES));
        });
        assert_eq!(world.drops(), before, "packets were dropped");
    }
    group.finish();
}

fn bridge_hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bridge_hit");
    group.throughput(Throughput::Elements((BATCHES * 64) as u64));
    let mut world = World::bridge();
    let before = world.drops();
    group.bench_function("portolan", |bencher| bencher.iter(|| world.carry(BATCHES)));
    assert_eq!(world.drops(), before, "packets were dropped");
    group.finish();
}

/// Each packet begins a flow, and one that was idle for a second ends.
fn new_flow(criterion: &mut Criterion) {
    const RESIDENT: usize = 1_000_000;
    let mut group = criterion.benchmark_group("new_flow");
    group.throughput(Throughput::Elements((BATCHES * 64) as u64));
    let mut world = World::miss(RESIDENT);
    let before = world.drops();
    group.bench_function(BenchmarkId::new("portolan", RESIDENT), |bencher| {
        bencher.iter(|| world.carry(BATCHES));
    });
    assert_eq!(world.drops(), before, "packets were dropped");
    assert!(world.resident() >= RESIDENT as u64, "flows are resident");
    group.finish();
}

criterion_group!(packets, nat_hit, bridge_hit, new_flow);
criterion_main!(packets);
