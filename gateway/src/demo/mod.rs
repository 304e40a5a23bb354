//! `portolan demo`: the main job on this machine, in one command.
//!
//! Makes namespaces of its own with TAP devices inside, starts two gateways in this process, sends
//! real traffic, says check by check what it proved, measures, removes everything and looks whether
//! anything is left. The one hard constraint: it touches nothing that it did not make. It needs no
//! program but itself.

mod checks;
mod throughput;
mod world;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::Counters;

use crate::daemon;
use crate::error::Error;
use crate::netlink::Netlink;
use crate::netns::NAMESPACE_DIRECTORY;
use crate::store::Store;
use crate::supervisor::Gateway;
use world::World;

/// What the demo is asked for.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// How many workers; `None`: one per CPU.
    pub workers: Option<u8>,
    /// How long each throughput is measured, in seconds.
    pub seconds: u64,
}

/// Runs the demo; prints on standard output. True if every check passed and nothing is left.
///
/// # Errors
/// The gateway could not be started or stopped.
pub fn run(options: &DemoOptions) -> Result<bool, Error> {
    let mut report = Report { failures: 0, checks: 0 };
    let end = daemon::end_signals()?;
    let world = World::new();
    let host = Netlink::open(None)?;
    let links_before = host.link_names()?;
    let state = State::new();
    let gateway = Gateway::start(&world.config(options), state.store("first")?)?;
    world.furnish_outside()?;
    let second = Gateway::start(&world.second_config(), state.store("second")?)?;
    introduce(&world, &gateway);
    for check in checks::all() {
        if end.is_empty() {
            report.note(&check.title, (check.run)(&world));
        }
    }
    if end.is_empty() {
        print("\nthroughput, everything on this machine's CPUs:");
        let time = Duration::from_secs(options.seconds);
        throughput::measure(&world, time, |what, line| {
            match line {
                Ok(line) => print(&format!("      {what:<47} {line}")),
                Err(error) => report.note(what, Err(error.to_string())),
            }
            end.is_empty()
        });
    }
    if !end.is_empty() {
        report.note("interrupted", Err("by a signal".into()));
    }
    tell_drops(&gateway);
    second.stop()?;
    gateway.stop()?;
    report.note("everything removed", nothing_left(&world, &host, &links_before));
    Ok(report.conclude())
}

/// A folder for what the gateways remember; gone with this.
struct State {
    folder: PathBuf,
}

impl State {
    fn new() -> State {
        let name = format!("portolan-demo-{}", std::process::id());
        // Only root may write there, so nobody can have put something in its place.
        State { folder: Path::new("/run").join(name) }
    }

    /// What one of the gateways remembers.
    fn store(&self, name: &str) -> Result<Arc<Store>, Error> {
        Ok(Arc::new(Store::open(&self.folder.join(name))?))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn introduce(world: &World, gateway: &Gateway) {
    print(&format!("a gateway with {} workers, and around it:\n", gateway.worker_count()));
    for host in world.hosts() {
        let (ipv4, ipv6) = (host.ipv4.to_string(), host.ipv6.to_string());
        print(&format!("      {:<8} {ipv4:<12} {ipv6:<14} {}", host.name, host.role));
    }
    print("");
}

/// What was dropped, and why: isolation shows here, and so would a fault.
fn tell_drops(gateway: &Gateway) {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in gateway.counters().flat_map(Counters::drops) {
        *sums.entry(reason.name()).or_default() += count;
    }
    print("\ndropped, by reason:");
    for (reason, count) in sums {
        print(&format!("      {reason:<47} {count}"));
    }
    print("");
}

fn nothing_left(world: &World, host: &Netlink, links_before: &[String]) -> checks::Outcome {
    let entries = std::fs::read_dir(NAMESPACE_DIRECTORY).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names.filter(|name| name.starts_with(&world.prefix)).collect();
    if !left.is_empty() {
        return Err(format!("namespaces are left: {}", left.join(", ")));
    }
    let links = host.link_names().map_err(|error| error.to_string())?;
    let new: Vec<&str> =
        links.iter().filter(|link| !links_before.contains(link)).map(String::as_str).collect();
    if !new.is_empty() {
        return Err(format!("devices are left: {}", new.join(", ")));
    }
    Ok("no namespace and no device is left".into())
}

struct Report {
    checks: usize,
    failures: usize,
}

impl Report {
    fn note(&mut self, title: &str, outcome: checks::Outcome) {
        self.checks += 1;
        match outcome {
            Ok(proof) => print(&format!("PASS  {title:<47} {proof}")),
            Err(fault) => {
                self.failures += 1;
                print(&format!("FAIL  {title:<47} {fault}"));
            }
        }
    }

    fn conclude(&self) -> bool {
        let passed = self.checks - self.failures;
        print(&format!("\n{passed} of {} checks passed", self.checks));
        self.failures == 0
    }
}

/// Prints a line; a reader that went away is no reason to leave namespaces behind.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
