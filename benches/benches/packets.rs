//! Nanoseconds per packet, for reading: NAT hits at growing flow counts beside the floor.
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

criterion_group!(packets, nat_hit, bridge_hit);
criterion_main!(packets);
