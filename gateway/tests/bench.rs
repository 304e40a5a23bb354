//! The system benchmark with Portolan's own legs: each comes up, passes both kinds of traffic and
//! leaves nothing behind. A leg that is broken is seen here, not by who measures next.
//!
//! Needs root; does not skip without it. Figures are not judged: a shared machine has none.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use benches::system::{BenchOptions, Traffic, legs, measure};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_portolan");

#[test]
fn every_leg_passes_its_traffic_and_leaves_nothing() {
    let options = BenchOptions {
        rounds: Some(1),
        length: Some(Duration::from_millis(500)),
        ..BenchOptions::new(Some(PROGRAM.into()), true)
    };
    let report = measure(&options).unwrap();
    for leg in legs(true) {
        for traffic in [Traffic::Tcp, Traffic::Udp64].into_iter().filter(|&one| leg.carries(one)) {
            let rate = report.median(leg, traffic);
            let rate = rate.unwrap_or_else(|| panic!("{} was not measured", leg.name()));
            assert!(rate > 0.0, "{} passes no {}", leg.name(), traffic.name());
        }
    }
    // What is compared is there: no dash stands in the table.
    assert_eq!(report.gates().len(), 8);
    let table = report.markdown();
    assert!(!table.contains("| – "), "{table}");
    let prefix = format!("portolan-bench-{}-", std::process::id());
    let left: Vec<String> = std::fs::read_dir("/run/netns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    assert_eq!(left, [""; 0]);
}
