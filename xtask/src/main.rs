//! What CI runs, a person can run: `cargo xtask test|bench|demo-check|fuzz|tidy`.
//!
//! Every command is a list of steps; each step prints its name, its time and its counts, all steps
//! run even after one has failed, and the last line is `N passed, N failed`. The one hard
//! constraint: a step that cannot run (no root, no TAP, a tool that is missing) has *failed*. None
//! is ever skipped.
//!
//! Nothing of the product is linked in: xtask only starts programs and reads what they print.

mod checks;
mod command;
mod fuzz;
mod install;
mod instructions;
mod leftovers;
mod machine;
mod readme;
mod steps;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::steps::Steps;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--all]    everything that CI runs; --all: more seeds, longer fuzzing (about an hour)
  bench [--save]  every bench; --save: keep the instruction counts as the new baseline
  demo-check      run the demo and see that it proves what it says and leaves nothing behind
  fuzz [SECONDS]  fuzz every target, this long in all (default 60)
  tidy            the rules of style that a program can check";

/// Seconds of fuzzing in a test run: enough to catch a target that is broken, and a fresh panic on
/// a common path.
const FUZZ_SECONDS: u64 = 60;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command that was asked for; true if nothing failed.
fn run() -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in a folder")?;
    std::env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut steps = Steps::start();
    match words.as_slice() {
        ["test"] => test(&mut steps, false),
        ["test", "--all"] => test(&mut steps, true),
        ["bench"] => bench(&mut steps, false),
        ["bench", "--save"] => bench(&mut steps, true),
        ["demo-check"] => {
            let before = leftovers::Snapshot::take();
            steps.step("demo", readme::demo);
            steps.step("leftovers", || leftovers::check(&before?));
        }
        ["fuzz"] => fuzz_only(&mut steps, FUZZ_SECONDS),
        ["fuzz", seconds] => {
            let problem = || format!("{seconds}: expected a number of seconds\n\n{USAGE}");
            fuzz_only(&mut steps, seconds.parse().with_context(problem)?);
        }
        ["tidy"] => steps.step("tidy", tidy::check),
        _ => bail!("{USAGE}"),
    }
    Ok(steps.finish())
}

/// Cheap steps first, so that a person sees a typing error before the long builds begin.
fn test(steps: &mut Steps, all: bool) {
    let (seeds, fuzz_seconds) = if all { (2_000, 600) } else { (200, FUZZ_SECONDS) };
    steps.step("install", install::all);
    let before = leftovers::Snapshot::take();
    steps.step("machine", machine::check);
    steps.step("format", checks::format);
    steps.step("tidy", tidy::check);
    steps.step("clippy", checks::clippy);
    steps.step("rustdoc", checks::rustdoc);
    steps.remarking_step("unit and property tests", checks::unit_tests);
    steps.remarking_step("simulation", |remarks| checks::simulation(seeds, remarks));
    steps.remarking_step("namespace tests", |remarks| checks::namespace_tests(all, remarks));
    steps.step("readme commands", readme::commands);
    steps.step("instruction counts", instructions::compare);
    steps.step("fuzz", || fuzz::all(fuzz_seconds));
    steps.step("leftovers", || leftovers::check(&before?));
}

fn bench(steps: &mut Steps, save: bool) {
    steps.step("install", install::for_benches);
    steps.step("wall clock", checks::wall_clock_benches);
    if save {
        steps.step("instruction counts, saved", instructions::save);
    } else {
        steps.step("instruction counts", instructions::compare);
    }
}

fn fuzz_only(steps: &mut Steps, seconds: u64) {
    steps.step("install", install::for_fuzzing);
    steps.step("fuzz", || fuzz::all(seconds));
}
