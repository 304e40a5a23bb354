//! A thousand endpoints on one gateway: how long it takes to start, what idling costs, how long it
//! takes to stop, and to start again after a kill.
//!
//! Needs root; does not skip without it. Prints what it measured.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gateway::traffic::{ANSWER_WITHIN, ping};
use rustix::process::Signal;

use common::{Daemon, Scratch};

const ENDPOINT_COUNT: usize = 1_000;
/// The bound; the daemon under test is not optimised, so it has room.
const START_WITHIN: Duration = Duration::from_secs(20);

/// How long the first answer may take. Each kernel begins with some multicast reports, which are
/// flooded: of a thousand members in one network, several million frames that a test build sends.
const PING_WITHIN: Duration = Duration::from_secs(150);

/// How long idling is measured, in seconds.
const WINDOW_S: u64 = 5;

/// The share of a CPU that an idle worker may use, in percent.
const IDLE_PERCENT_MAX: f64 = 1.0;

/// Time that threads of a process have used, by those whose names begin so.
fn cpu_time(pid: u32, thread: &str) -> Vec<Duration> {
    let tick = Duration::from_secs(1) / rustix::param::clock_ticks_per_second() as u32;
    let mut times = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let field = |number: usize| {
            rest.split_whitespace().nth(number - 3).unwrap().parse::<u32>().unwrap()
        };
        if name.starts_with(thread) {
            times.push(tick * (field(14) + field(15)));
        }
    }
    times
}

/// The busiest worker's share of a CPU, in percent, once whatever the start set off is over.
fn idle_percent(pid: u32) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        let (before, began) = (cpu_time(pid, "worker-"), Instant::now());
        std::thread::sleep(Duration::from_secs(WINDOW_S));
        let elapsed = began.elapsed().as_secs_f64();
        let after = cpu_time(pid, "worker-");
        assert_eq!(after.len(), 2, "one thread per worker");
        let share = |(after, before): (&Duration, &Duration)| {
            (*after - *before).as_secs_f64() / elapsed * 100.0
        };
        let percent = after.iter().zip(&before).map(share).fold(0.0, f64::max);
        eprintln!("busiest worker: {percent:.2} % over {elapsed:.1} s");
        if percent < IDLE_PERCENT_MAX || Instant::now() > deadline {
            return percent;
        }
    }
}

/// Asks until there is an answer: in the flood of the first moments a request may be lost.
fn wait_for_answer(path: &Path, target: IpAddr) {
    let deadline = Instant::now() + PING_WITHIN;
    while let Err(error) = ping(path, target, ANSWER_WITHIN) {
        assert!(Instant::now() < deadline, "{target} does not answer: {error}");
    }
}

#[test]
fn a_thousand_endpoints_in_a_hundred_networks_start_idle_and_stop_quickly() {
    start_idle_and_stop("hundred", 100);
}

#[test]
fn a_thousand_endpoints_in_one_network_start_idle_and_stop_quickly() {
    start_idle_and_stop("thousand", 1);
}

/// One at a time: two would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

fn start_idle_and_stop(name: &str, network_count: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new(name);
    let mut text = "\n[gateway]\nworkers = 2\n".to_owned();
    for network in 0..network_count {
        writeln!(text, "[network.n{network}]\nsubnet = \"10.{network}.0.0/16\"").unwrap();
    }
    for index in 0..ENDPOINT_COUNT {
        let network = index % network_count;
        writeln!(text, "[endpoint.e{index}]").unwrap();
        writeln!(text, "attach = {{ netns = \"PREFIX{index}\", create = true }}").unwrap();
        writeln!(text, "network = [{{ name = \"n{network}\" }}]").unwrap();
    }
    let config = scratch.config(&text);
    for step in ["start", "start after a kill"] {
        let began = Instant::now();
        let mut daemon = Daemon::start(&config);
        daemon.wait_for_within("ready", Duration::from_secs(60), |line| line == "ready");
        let took = began.elapsed();
        eprintln!("{network_count} networks, {step}: {took:.2?}");
        assert!(took < START_WITHIN, "{step} took {took:?}");
        assert_eq!(scratch.namespaces_left().len(), ENDPOINT_COUNT);
        let first = scratch.path("0");
        wait_for_answer(&first, "10.0.0.3".parse().unwrap());
        eprintln!("first answer: {:.2?}", began.elapsed());
        if step == "start" {
            let percent = idle_percent(daemon.child.id());
            assert!(percent < IDLE_PERCENT_MAX, "an idle worker uses {percent:.2} %");
            daemon.signal(Signal::KILL);
            daemon.wait_end();
        } else {
            let began = Instant::now();
            assert!(daemon.terminate().success(), "{:?}", daemon.log);
            eprintln!("stop: {:.2?}", began.elapsed());
        }
    }
    assert_eq!(scratch.namespaces_left(), [""; 0]);
}
