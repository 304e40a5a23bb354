//! The benchmark behind `portolan bench`: Portolan, the kernel and a bare copier, side by side.
//!
//! All legs are built once, in namespaces of their own, and measured in turn, round after round:
//! what slows the machine down for a minute slows down all of them. The results are ratios. The
//! hard constraint: the harness removes what it made, on errors, SIGINT and SIGTERM too. It runs
//! without other programs than `ip` and `nft`, which make the kernel's legs.
//!
//! Not measured here: latency, more than one flow, more than one sender.

mod copier;
mod cpus;
mod error;
mod namespace;
mod portolan;
mod report;
mod topology;
mod traffic;
mod tunnel;
mod xdp;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::thread::sched_getaffinity;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

pub use error::Error;
pub use report::{
    Gate, Leg, Ratio, Report, Sample, Setting, TCP_OF_BRIDGE_LEAST, TCP_OF_COPIER_LEAST,
    TCP_OF_MASQUERADE_LEAST, TCP_OF_UNGLUED_LEAST, TCP_THROUGH_TUNNEL_LEAST,
    TCP_THROUGH_TUNNEL_OF_PLAIN_LEAST, UDP_BY_XDP_OF_KERNEL_LEAST,
};
pub use traffic::Traffic;

use cpus::Cpus;
use topology::{Built, Placement};
use traffic::Window;

/// More rounds than this say nothing more and take hours.
const ROUNDS_MAX: usize = 1000;

/// What to measure. `BenchOptions::new` has the defaults of `portolan bench`.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Portolan's binary, started with `run -c FILE`; usually `std::env::current_exe()`. None
    /// measures only the kernel and the copier, to know the machine.
    pub portolan: Option<PathBuf>,
    /// 9 rounds of 0.4 s instead of 30 of 1 s: about 95 s in all. Many short rounds rather than few
    /// long ones: what disturbs the machine spoils some of them, and the median forgets those.
    pub quick: bool,
    /// Print JSON instead of the Markdown table.
    pub json: bool,
    /// Workers of Portolan, pinned to the last CPUs that this process may use.
    pub workers: usize,
    /// Portolan's idle policy: `busy`, `adaptive` or `interrupt`.
    pub idle: String,
    /// Another number of rounds than the default.
    pub rounds: Option<usize>,
    /// Another length of one measurement than the default.
    pub length: Option<Duration>,
}

impl BenchOptions {
    /// The defaults: one worker, idle policy `adaptive`, the Markdown table.
    pub fn new(portolan: Option<PathBuf>, quick: bool) -> BenchOptions {
        let idle = "adaptive".to_owned();
        let (json, workers, rounds, length) = (false, 1, None, None);
        BenchOptions { portolan, quick, json, workers, idle, rounds, length }
    }
}

/// Runs the benchmark, prints the table (or JSON) on stdout and progress on stderr.
///
/// # Errors
/// No root, missing programs, a leg that does not come up or passes nothing, a signal. Figures
/// that are too low are not an error: see [`Report::gates`].
pub fn run(options: &BenchOptions) -> Result<Report, Error> {
    let report = measure(options)?;
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.markdown());
    }
    Ok(report)
}

/// As [`run`], but prints no result.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &BenchOptions) -> Result<Report, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let setting = setting(options)?;
    let signals = Signals::listen()?;
    let placement = Placement {
        binary: options.portolan.as_deref(),
        cpus: setting.cpus(),
        idle: &options.idle,
        interrupted: &signals.received,
    };
    let legs = legs(options.portolan.is_some());
    let built: Vec<Built> =
        legs.iter().map(|&leg| Built::build(leg, &placement)).collect::<Result<_, _>>()?;
    let mut samples = Vec::new();
    for round in 0..setting.round_count {
        for traffic in [Traffic::Tcp, Traffic::Udp64] {
            // Every second round runs backwards: no leg always follows the same other one.
            let order: Box<dyn Iterator<Item = &Built>> = match round % 2 {
                0 => Box::new(built.iter()),
                _ => Box::new(built.iter().rev()),
            };
            for built in order.filter(|built| built.leg.carries(traffic)) {
                let sample = sample(round, built, traffic, &setting, &signals.received)?;
                samples.push(sample);
            }
        }
    }
    Ok(Report { setting, samples })
}

/// The legs in the order in which the first round runs them: those that are compared with each
/// other are neighbours.
pub fn legs(with_portolan: bool) -> Vec<Leg> {
    let all = [
        Leg::BridgeKernel,
        Leg::BridgePortolan,
        Leg::BridgeCopier,
        Leg::MasqueradePortolan,
        Leg::MasqueradeKernel,
        Leg::MasqueradeXdp,
        Leg::MasqueradeKernelBeside,
        Leg::InboundGlued,
        Leg::InboundUnglued,
        Leg::TunnelKernel,
        Leg::TunnelPortolan,
        Leg::TunnelKernelPlain,
        Leg::TunnelXdp,
    ];
    all.into_iter().filter(|leg| with_portolan || !leg.is_portolan()).collect()
}

fn sample(
    round: usize,
    built: &Built,
    traffic: Traffic,
    setting: &Setting,
    interrupted: &AtomicBool,
) -> Result<Sample, Error> {
    let window = Window { warm_up: setting.warm_up, length: setting.length, interrupted };
    let rates = built.measure(traffic, window, setting.cpus())?;
    eprintln!(
        "round {} of {}: {:<19} {:<6} {:>6.2} {}",
        round + 1,
        setting.round_count,
        built.leg.name(),
        traffic.name(),
        traffic.scaled(rates.received),
        traffic.unit(),
    );
    let (received, sent) = (rates.received, rates.sent);
    Ok(Sample { round, leg: built.leg, traffic, received, sent })
}

/// Checks the options and looks at the machine.
fn setting(options: &BenchOptions) -> Result<Setting, Error> {
    let set = sched_getaffinity(None)
        .map_err(|error| Error::system("read this process's CPUs")(error.into()))?;
    let cpus: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    let within = |option, value, most| {
        let least = 1;
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(Error::Option { option, value, least, most })
    };
    let workers = within("workers", options.workers, cpus.len())?;
    let rounds = options.rounds.unwrap_or(if options.quick { 9 } else { 30 });
    let round_count = within("rounds", rounds, ROUNDS_MAX)?;
    let length = Duration::from_millis(if options.quick { 400 } else { 1_000 });
    let worker_cpus = cpus[cpus.len() - workers..].to_vec();
    Ok(Setting {
        processor: processor(),
        end_cpus: cpus::beside(&cpus, &worker_cpus),
        cpus,
        kernel: first_line("/proc/sys/kernel/osrelease"),
        worker_cpus,
        idle: options.idle.clone(),
        round_count,
        warm_up: Duration::from_millis(100),
        length: options.length.unwrap_or(length),
    })
}

impl Setting {
    /// Where the threads of a measurement run.
    fn cpus(&self) -> Cpus<'_> {
        Cpus { middle: &self.worker_cpus, ends: &self.end_cpus, all: &self.cpus }
    }
}

/// The processor's model name; other architectures than x86 have no such line.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// SIGINT and SIGTERM set a flag while this lives, so that everything is dropped in order.
struct Signals {
    received: Arc<AtomicBool>,
    registered: Vec<SigId>,
}

impl Signals {
    fn listen() -> Result<Signals, Error> {
        let received = Arc::new(AtomicBool::new(false));
        let mut signals = Signals { received: Arc::clone(&received), registered: Vec::new() };
        for signal in [SIGINT, SIGTERM] {
            let registered = flag::register(signal, Arc::clone(&received))
                .map_err(Error::system("listen for signals"))?;
            signals.registered.push(registered);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for registered in self.registered.drain(..) {
            low_level::unregister(registered);
        }
        self.received.store(false, Ordering::Relaxed);
    }
}
