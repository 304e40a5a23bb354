//! Simulated worlds by seed: whatever the seed, the gateway's rules hold.
//!
//! `SIM_SEEDS` says how many seeds each test tries (default 20), `SIM_FIRST` the first of them.
//! Seeds take turns with 1, 2 and 4 workers, and with the kinds of worlds where a test tries them
//! all. A failing seed prints what happened and goes into [`REGRESSIONS`].

use engine::sim::{Failure, Plan, Summary, World, first_difference};

/// Worlds that once broke a rule: kind, seed, workers, and what it was.
const REGRESSIONS: &[(Kind, u64, usize, &str)] = &[
    (
        Kind::Hostile,
        188,
        4,
        "a later fragment overtook its first one, which had waited for a neighbour",
    ),
    (
        Kind::Tunnelled,
        13,
        2,
        "a mapping of somebody behind a tunnel led to a port without a device",
    ),
];

const WORKERS: [usize; 3] = [1, 2, 4];
const KINDS: [Kind; 5] = [Kind::Lossless, Kind::Lossy, Kind::Hostile, Kind::Tight, Kind::Tunnelled];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Lossless,
    Lossy,
    Hostile,
    Tight,
    Tunnelled,
}

impl Kind {
    fn plan(self, seed: u64, workers: usize) -> Plan {
        match self {
            Kind::Lossless => Plan::lossless(seed, workers),
            Kind::Lossy => Plan::lossy(seed, workers),
            Kind::Hostile => Plan::hostile(seed, workers),
            Kind::Tight => Plan::tight(seed, workers),
            Kind::Tunnelled => Plan::tunnelled(seed, workers),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

fn seeds() -> std::ops::Range<u64> {
    let first = number("SIM_FIRST", 1);
    first..first + number("SIM_SEEDS", 20)
}

fn run(plan: Plan) -> Summary {
    World::new(plan).run().unwrap_or_else(|failure: Box<Failure>| panic!("{failure}"))
}

fn each_world(kind: Kind, mut check: impl FnMut(Plan)) {
    for seed in seeds() {
        check(kind.plan(seed, WORKERS[seed as usize % WORKERS.len()]));
    }
}

#[test]
fn on_good_wires_everything_works_at_the_first_try() {
    each_world(Kind::Lossless, |plan| {
        let outcomes = run(plan).outcomes;
        let ended = outcomes.answered + outcomes.refused + outcomes.denied;
        assert_eq!((ended, outcomes.lost), (outcomes.asked, 0), "seed {}", plan.seed);
        assert!(outcomes.answered > outcomes.asked / 3, "seed {}: {outcomes:?}", plan.seed);
    });
}

#[test]
fn on_bad_wires_streams_arrive_whole_and_nothing_is_repaired() {
    each_world(Kind::Lossy, |plan| {
        let outcomes = run(plan).outcomes;
        assert!(outcomes.answered > outcomes.asked / 3, "seed {}: {outcomes:?}", plan.seed);
    });
}

#[test]
fn honest_traffic_does_not_suffer_from_garbage() {
    each_world(Kind::Hostile, |plan| {
        let summary = run(plan);
        assert_eq!(summary.outcomes.lost, 0, "seed {}", plan.seed);
        assert!(summary.garbage_count > 0, "seed {}", plan.seed);
    });
}

#[test]
fn where_everything_is_too_small_the_rules_still_hold() {
    each_world(Kind::Tight, |plan| {
        let summary = run(plan);
        // Flows make room for others, so a lucky world loses nothing of what it asked.
        let is_narrow = |reason| {
            use engine::DropReason::*;
            matches!(
                reason,
                FlowShareFull
                    | FlowTableFull
                    | SourceShareFull
                    | HoldFull
                    | NeighbourTableFull
                    | HandOverFull
                    | EgressFull
                    | NoFrame
                    | AnswerLimited
                    | FloodLimited
            )
        };
        let narrow: u64 =
            summary.drops.iter().filter(|drop| is_narrow(drop.0)).map(|drop| drop.1).sum();
        assert!(narrow > 0, "seed {}: nothing was too small", plan.seed);
    });
}

#[test]
fn through_tunnels_everything_works_as_without() {
    each_world(Kind::Tunnelled, |plan| {
        let summary = run(plan);
        let outcomes = summary.outcomes;
        assert!(outcomes.answered > outcomes.asked / 3, "seed {}: {outcomes:?}", plan.seed);
        assert!(summary.tunnelled.0 > 20 && summary.tunnelled.1 > 20, "{:?}", summary.tunnelled);
        if plan.link.lost + plan.link.corrupted == 0 {
            assert_eq!(outcomes.lost, 0, "seed {}: {outcomes:?}", plan.seed);
        }
    });
}

#[test]
fn with_and_without_the_flow_cache_every_output_byte_is_the_same() {
    for seed in seeds() {
        // The kinds take turns within each number of workers.
        let workers = WORKERS[seed as usize % WORKERS.len()];
        let kind = KINDS[(seed as usize / WORKERS.len()) % KINDS.len()];
        let plan = kind.plan(seed, workers);
        let on = run(plan);
        let off = run(Plan { cache: false, ..plan });
        if on.outputs != off.outputs {
            let keep = Plan { keep_log: true, ..plan };
            let (on, off) = (run(keep), run(Plan { cache: false, ..keep }));
            let difference = first_difference(&on, &off).expect("they differed before");
            panic!("seed {seed}, {kind:?}, {workers} workers: {difference}");
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    for kind in [Kind::Lossless, Kind::Lossy, Kind::Hostile] {
        let plan = kind.plan(7, 2);
        let (one, other) = (run(plan), run(plan));
        assert_eq!(one.outputs, other.outputs);
        assert_eq!((one.outcomes, one.links), (other.outcomes, other.links));
        assert!(one.handed_over > 0, "two workers hand packets over");
    }
}

#[test]
fn every_flow_ends_when_nothing_happens_any_more() {
    for workers in WORKERS {
        run(Plan { idle: true, ..Plan::lossless(3, workers) });
    }
}

#[test]
fn worlds_that_once_broke_a_rule_keep_it() {
    for &(kind, seed, workers, story) in REGRESSIONS {
        if let Err(failure) = World::new(kind.plan(seed, workers)).run() {
            panic!("again: {story}\n{failure}");
        }
    }
}
