//! Fuzzing: every target of `fuzz/` in turn, from the committed seeds.
//!
//! The toolchain is a stable one; `RUSTC_BOOTSTRAP` lets it take the coverage flags. No sanitizer
//! is linked in: the engine and the config have no unsafe code, and without one a target runs
//! several times faster. What a run finds goes to `fuzz/corpus`, which is not committed; a crash
//! goes to `fuzz/artifacts`, is printed, and fails the step.

use anyhow::{Context, Result, bail};

use crate::command::{program, query, run};
use crate::install;
use crate::steps::Counts;

/// Largest input, in bytes: enough for a few dozen packets, few enough to run fast.
const INPUT_BYTES_MAX: u32 = 8_192;

/// Seconds that one input may take. A normal one takes a millisecond.
const INPUT_SECONDS_MAX: u32 = 10;

/// Fuzzes every target, this many seconds in all.
pub(crate) fn all(seconds: u64) -> Result<Counts> {
    let cargo_fuzz = install::cargo_fuzz()?;
    let cargo_fuzz = cargo_fuzz.to_str().context("the path of cargo-fuzz is text")?;
    let listed = query(cargo_fuzz, &["list"])?;
    let targets: Vec<&str> = listed.lines().map(str::trim).filter(|t| !t.is_empty()).collect();
    if targets.is_empty() {
        bail!("fuzz/Cargo.toml has no target");
    }
    let share = (seconds / targets.len() as u64).max(1);
    let mut broken = Vec::new();
    for target in &targets {
        if let Err(error) = one(cargo_fuzz, target, share) {
            broken.push(format!("{target}: {error:#}"));
        }
    }
    println!("{} targets, {share} s each", targets.len());
    match broken.is_empty() {
        true => Ok(Counts { passed: targets.len() as u64, failed: 0 }),
        false => bail!("{}", broken.join("; ")),
    }
}

fn one(cargo_fuzz: &str, target: &str, seconds: u64) -> Result<()> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {corpus}"))?;
    let has_seed = std::fs::read_dir(&seeds).is_ok_and(|mut entries| entries.next().is_some());
    if !has_seed {
        bail!("no seed in {seeds}: without one a short run reaches nothing");
    }
    let options = [
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        "-print_final_stats=1".to_owned(),
    ];
    let mut command = program(cargo_fuzz, &["run", "--sanitizer", "none", target]);
    command.args([&corpus, &seeds]).arg("--").args(&options).env("RUSTC_BOOTSTRAP", "1");
    run(command).map(drop)
}
