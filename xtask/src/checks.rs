//! The steps that are one call of cargo each.
//!
//! All test steps build the same set (`--workspace --all-features`, development profile), so that
//! nothing is built twice; they differ only in which tests they run. Counts come from the
//! `test result:` lines. An ignored test is a failure here: what needs the machine must run on it.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{Output, cargo, query, run, run_to_end};
use crate::steps::Counts;

/// What every build of the workspace has in common.
const WORKSPACE: [&str; 3] = ["--workspace", "--all-features", "--locked"];

/// The engine's integration test that plays worlds from seeds.
const SIMULATION: &str = "simulation";

/// Formatting, the fuzz targets' too, which are a workspace of their own.
pub(crate) fn format() -> Result<Counts> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    Ok(Counts::ONE)
}

/// Clippy on everything, tests and benches included.
pub(crate) fn clippy() -> Result<Counts> {
    let arguments = [&["clippy", "--all-targets"], WORKSPACE.as_slice(), &["--", "-D", "warnings"]];
    run(cargo(&arguments.concat()))?;
    Ok(Counts::ONE)
}

/// Documentation without a warning: no broken link, no bare URL.
pub(crate) fn rustdoc() -> Result<Counts> {
    let arguments = [&["doc", "--no-deps"], WORKSPACE.as_slice()];
    let mut command = cargo(&arguments.concat());
    command.env("RUSTDOCFLAGS", "-D warnings");
    run(command)?;
    Ok(Counts::ONE)
}

/// Tests beside the code, and the engine's integration tests. They need no root and no kernel.
pub(crate) fn unit_tests(remarks: &mut Vec<String>) -> Result<Counts> {
    let engines = test_names(|name, in_engine| in_engine && name != SIMULATION)?;
    let targets = ["--lib", "--bins"].map(str::to_owned).into_iter().chain(selected(&engines));
    test_run(targets, &[], remarks)
}

/// Worlds from this many seeds.
pub(crate) fn simulation(seed_count: u64, remarks: &mut Vec<String>) -> Result<Counts> {
    let set = [("SIM_SEEDS", seed_count)];
    test_run(selected(&[SIMULATION.to_owned()]), &set, remarks)
}

/// All other integration tests: real kernels in namespaces. One at a time, because they measure,
/// and share the machine with the gateways that they start.
///
/// A machine that others share may take the CPUs away for seconds. So what fails is tried once
/// more; what passes then does not fail the run, and is named at the end as not steady.
pub(crate) fn namespace_tests(all: bool, remarks: &mut Vec<String>) -> Result<Counts> {
    let names = test_names(|_, in_engine| !in_engine)?;
    if names.is_empty() {
        bail!("there is no such test");
    }
    // The whole matrix of who reaches whom, or a cover of it.
    let matrix: &[(&str, u64)] = if all { &[("PORTOLAN_MATRIX_ALL", 1)] } else { &[] };
    let options = ["--test-threads=1"];
    let first = run_to_end(test_command(selected(&names), &options, matrix))?;
    let failed = failed_tests(&first.stdout);
    let counts = counts_of(&first)?;
    if failed.is_empty() {
        return Ok(counts);
    }
    println!("\nonce more: {}", failed.join(", "));
    let options = [options.as_slice(), &["--exact"], &failed].concat();
    let second = run_to_end(test_command(selected(&names), &options, matrix))?;
    let again = counts_of(&second)?;
    let still = failed_tests(&second.stdout);
    for name in &failed {
        let what = if still.contains(name) { "failed twice" } else { "not steady, failed first" };
        remarks.push(format!("{what}: {name}: {}", panic_message(&first.stdout, name)));
    }
    Ok(Counts { passed: counts.passed + again.passed, failed: again.failed })
}

/// The wall-clock benches, for reading; nothing is compared.
pub(crate) fn wall_clock_benches() -> Result<Counts> {
    run(cargo(&["bench", "--locked", "--package", "portolan-benches", "--bench", "packets"]))?;
    run(cargo(&["bench", "--locked", "--package", "portolan-benches", "--bench", "reload"]))?;
    Ok(Counts::ONE)
}

/// Names of the workspace's integration tests that are wanted; the second argument of `wanted`
/// says whether the test is the engine's.
fn test_names(wanted: impl Fn(&str, bool) -> bool) -> Result<Vec<String>> {
    let metadata = query("cargo", &["metadata", "--no-deps", "--format-version=1", "--locked"])?;
    let tests = parse_tests(&metadata);
    let wanted = tests.into_iter().filter(|(name, in_engine)| wanted(name, *in_engine));
    Ok(wanted.map(|(name, _)| name.to_owned()).collect())
}

/// Names of integration tests in cargo's metadata, each with whether it is the engine's. A target
/// there is `{"kind":["test"],…,"name":"NAME","src_path":"PATH",…}`.
fn parse_tests(metadata: &str) -> Vec<(&str, bool)> {
    let targets = metadata.split(r#"{"kind":["#).filter(|target| target.starts_with(r#""test"]"#));
    let named = targets.filter_map(|target| {
        let path = text_after(target, r#""src_path":""#)?;
        Some((text_after(target, r#""name":""#)?, path.contains("/engine/tests/")))
    });
    named.collect()
}

/// The text after a key, to its closing quote.
fn text_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key)?.1.split('"').next()
}

/// Options that select these integration tests.
fn selected(names: &[String]) -> impl Iterator<Item = String> {
    names.iter().flat_map(|name| ["--test".to_owned(), name.clone()])
}

fn test_run(
    targets: impl IntoIterator<Item = String>,
    set: &[(&str, u64)],
    remarks: &mut Vec<String>,
) -> Result<Counts> {
    let output = run_to_end(test_command(targets, &[], set))?;
    let failed = failed_tests(&output.stdout).into_iter();
    remarks.extend(
        failed.map(|name| format!("failed: {name}: {}", panic_message(&output.stdout, name))),
    );
    counts_of(&output)
}

/// `cargo test` of these targets, with these options of the test programs and these variables set.
fn test_command(
    targets: impl IntoIterator<Item = String>,
    options: &[&str],
    set: &[(&str, u64)],
) -> Command {
    let mut command = cargo(&[&["test", "--no-fail-fast"], WORKSPACE.as_slice()].concat());
    command.args(targets).arg("--").args(options);
    for (name, value) in set {
        command.env(name, value.to_string());
    }
    command
}

/// Names of the tests that failed, from lines such as `test NAME ... FAILED`.
fn failed_tests(stdout: &str) -> Vec<&str> {
    let lines = stdout.lines().filter_map(|line| line.trim().strip_prefix("test "));
    lines.filter_map(|line| line.strip_suffix(" ... FAILED")).collect()
}

/// Where a test panicked, and the first lines of what it said.
fn panic_message(stdout: &str, name: &str) -> String {
    const LINES: usize = 4;
    let thread = format!("thread '{name}'");
    let lines = stdout.lines().skip_while(|line| !line.starts_with(&thread)).take(LINES);
    lines.map(|line| line.trim_start_matches(&thread).trim()).collect::<Vec<_>>().join(" | ")
}

/// Counts of a `cargo test` run. A run that failed without a failed test did not build, or a test
/// program was killed.
fn counts_of(output: &Output) -> Result<Counts> {
    let (counts, ignored) = sum_test_results(&output.stdout);
    if !output.status.success() && counts.failed == 0 {
        bail!("cargo test: {} after {} tests passed", output.status, counts.passed);
    }
    if ignored > 0 {
        bail!("{ignored} tests were ignored: a test that does not run proves nothing");
    }
    Ok(counts)
}

/// Sums lines such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; the second number is
/// that of ignored tests.
fn sum_test_results(stdout: &str) -> (Counts, u64) {
    let results = stdout.lines().filter_map(|line| line.trim().strip_prefix("test result: "));
    let mut sum = (Counts::default(), 0);
    for result in results {
        let number = |what: &str| {
            let part = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let counts = Counts { passed: number(" passed"), failed: number(" failed") };
        sum = (sum.0.plus(counts), sum.1 + number(" ignored"));
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    /// What a run says that ended with this exit code and printed this.
    fn after(exit_code: i32, stdout: &str) -> Result<Counts> {
        let status = ExitStatus::from_raw(exit_code << 8);
        counts_of(&Output { status, stdout: stdout.to_owned() })
    }

    #[test]
    fn test_results_of_all_test_programs_are_summed() {
        let stdout = "running 2 tests\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out\n\
            test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; finished in 0.01s\n";
        let counts = Counts { passed: 13, failed: 2 };
        assert_eq!(sum_test_results(stdout), (counts, 4));
    }

    #[test]
    fn integration_tests_are_found_and_the_engines_told_apart() {
        let metadata = r#"{"targets":[{"kind":["lib"],"name":"engine","src_path":"/p/src/lib.rs"},
            {"kind":["test"],"crate_types":["bin"],"name":"simulation",
            "src_path":"/p/engine/tests/simulation.rs"},{"kind":["test"],"name":"tap",
            "src_path":"/p/drivers/tests/tap.rs"},{"kind":["bench"],"name":"packets"}]}"#;
        assert_eq!(parse_tests(metadata), [("simulation", true), ("tap", false)]);
    }

    #[test]
    fn failed_tests_are_named_with_what_they_said() {
        let stdout = "test one::fails ... FAILED\ntest holds ... ok\n\nfailures:\n\
            thread 'one::fails' (7) panicked at src/a.rs:1:2:\nleft: 1\nright: 2\n";
        assert_eq!(failed_tests(stdout), ["one::fails"]);
        let message = panic_message(stdout, "one::fails");
        assert_eq!(message, "(7) panicked at src/a.rs:1:2: | left: 1 | right: 2");
    }

    #[test]
    fn failed_tests_are_counted() {
        let counts = after(101, "test result: FAILED. 1 passed; 2 failed; 0 ignored");
        assert_eq!(counts.ok(), Some(Counts { passed: 1, failed: 2 }));
    }

    #[test]
    fn a_build_that_fails_is_an_error() {
        assert!(after(101, "").is_err());
        assert!(after(101, "test result: ok. 5 passed; 0 failed; 0 ignored").is_err());
    }

    #[test]
    fn an_ignored_test_is_an_error() {
        assert!(after(0, "test result: ok. 5 passed; 0 failed; 1 ignored").is_err());
    }
}
