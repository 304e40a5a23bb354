//! The system benchmark against real kernels: its legs pass packets and it leaves nothing behind.
//!
//! The hard constraint: root. Namespaces carry this process's id, so the tests run one after
//! another. Figures are not judged here, a shared machine has none; whether Portolan's own legs
//! come up is tested where Portolan's binary is built.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use benches::system::{BenchOptions, Error, Leg, Traffic, measure};

/// Two runs at once would make the same names.
static ONE_RUN: Mutex<()> = Mutex::new(());

fn one_run() -> MutexGuard<'static, ()> {
    ONE_RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One short round.
fn options(portolan: Option<PathBuf>) -> BenchOptions {
    let length = Some(Duration::from_millis(200));
    BenchOptions { rounds: Some(1), length, ..BenchOptions::new(portolan, true) }
}

/// Namespaces of this process that exist now.
fn own_namespaces() -> Vec<String> {
    let prefix = format!("portolan-bench-{}-", std::process::id());
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn kernel_and_copier_pass_both_kinds_of_traffic() {
    let _alone = one_run();
    let report = measure(&options(None)).expect("the legs come up");
    let legs = [Leg::BridgeKernel, Leg::BridgeCopier, Leg::MasqueradeKernel];
    let tunnels = [Leg::TunnelKernel, Leg::TunnelKernelPlain];
    let legs = legs.into_iter().chain([Leg::MasqueradeKernelBeside]).chain(tunnels);
    for leg in legs {
        for traffic in [Traffic::Tcp, Traffic::Udp64].into_iter().filter(|&one| leg.carries(one)) {
            let rate = report.median(leg, traffic).expect("the leg was measured");
            assert!(rate > 0.0, "{} {}", leg.name(), traffic.name());
        }
    }
    assert_eq!(report.samples.len(), 10);
    assert_eq!(own_namespaces(), Vec::<String>::new());
}

#[test]
fn portolan_that_does_not_start_leaves_nothing_behind() {
    let _alone = one_run();
    // `false` is not Portolan; it ends at once.
    let result = measure(&options(Some("/bin/false".into())));
    assert!(matches!(result, Err(Error::NotReady { .. })), "{result:?}");
    assert_eq!(own_namespaces(), Vec::<String>::new());
}

#[test]
fn sigterm_ends_the_run_and_leaves_nothing_behind() {
    let _alone = one_run();
    let killer = std::thread::spawn(|| {
        // The handler is there before the first namespace is.
        let until = Instant::now() + Duration::from_secs(60);
        while own_namespaces().is_empty() {
            assert!(Instant::now() < until, "the run makes no namespace");
            std::thread::yield_now();
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
    });
    let result = measure(&BenchOptions { rounds: Some(1000), ..options(None) });
    killer.join().expect("the killer waited for a namespace").expect("we may signal ourselves");
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert_eq!(own_namespaces(), Vec::<String>::new());
}

#[test]
fn more_workers_than_cpus_are_refused() {
    let options = BenchOptions { workers: 100_000, ..options(None) };
    let message = measure(&options).expect_err("no machine has so many").to_string();
    assert!(message.starts_with("workers is 100000: give a number from 1 to "), "{message}");
}
