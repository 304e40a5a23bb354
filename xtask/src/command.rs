//! Starting programs: without standard input, with a time limit, their output shown and kept.
//!
//! Every program carries [`RUN_MARK`] in its environment, which its own children inherit: so a
//! process that outlives its step is found wherever it went, and a step that hangs is ended with
//! everything that it started and nothing else.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::leftovers;

/// Environment variable that marks every process of this run, see [`run_mark`].
pub(crate) const RUN_MARK: &str = "PORTOLAN_XTASK_RUN";

/// Longest time that one program may take. The whole run has half an hour on two cores; a program
/// that is still there after this hangs.
const LIMIT: Duration = Duration::from_secs(1_200);

/// How long a program's output may stay open after its end: what is in the pipe takes no time, so
/// somebody else holds it.
const PIPE_LIMIT: Duration = Duration::from_secs(5);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
}

/// A program with its arguments.
pub(crate) fn program<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// Cargo with its arguments. What our own `cargo run` has put into the environment about *this*
/// package is taken out, or build scripts would see a change and run again.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = program("cargo", arguments);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs a program; an exit code other than 0 is an error.
pub(crate) fn run(command: Command) -> Result<Output> {
    let name = display(&command);
    let output = run_to_end(command)?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    Ok(output)
}

/// Runs a program to its end, whatever that is. Its stdout is shown and kept, its stderr shown.
pub(crate) fn run_to_end(command: Command) -> Result<Output> {
    run_limited(command, LIMIT)
}

fn run_limited(mut command: Command, limit: Duration) -> Result<Output> {
    let name = display(&command);
    println!("$ {name}");
    let mark = next_mark();
    command.env(RUN_MARK, &mark).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let pipe = child.stdout.take().context("stdout was asked for as a pipe")?;
    let reader = std::thread::spawn(move || show_and_keep(pipe));

    let mut status = None;
    wait_until(limit, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    let Some(status) = status else {
        leftovers::end_processes(&mark);
        child.wait().with_context(|| format!("lost {name}"))?;
        bail!("{name}: still running after {} s, ended", limit.as_secs());
    };
    if !wait_until(PIPE_LIMIT, || reader.is_finished()) {
        leftovers::end_processes(&mark);
        bail!("{name}: left a process behind that holds its output");
    }
    let stdout = reader.join().ok().context("reading a program's output does not panic")?;
    Ok(Output { status, stdout })
}

/// The mark of the next program: our process id, a dot, a number.
fn next_mark() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}{}", run_mark(), NEXT.fetch_add(1, Relaxed))
}

/// What the marks of all programs of this run begin with.
pub(crate) fn run_mark() -> String {
    format!("{}.", std::process::id())
}

/// Waits until a condition holds; false if it does not within the limit.
pub(crate) fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Copies a program's output to ours line by line; bytes that are no text are replaced.
fn show_and_keep(pipe: impl std::io::Read) -> String {
    let mut kept = String::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(len) if len > 0) {
        let text = String::from_utf8_lossy(&line);
        // Our own stdout may be a closed pipe; the output is still needed for its counts.
        let _ = write!(std::io::stdout(), "{text}");
        kept.push_str(&text);
        line.clear();
    }
    kept
}

/// Runs a small program silently and returns its stdout; an error carries its stderr.
pub(crate) fn query(name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = program(name, arguments);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", display(&command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", display(&command), stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it, with the variables that were set for it.
fn display(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter(|(name, _)| *name != RUN_MARK)
        .filter_map(|(name, value)| Some((name, value?)))
        .map(|(name, value)| format!("{}={} ", name.display(), quoted(value)));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    variables.collect::<String>() + &words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains([' ', '*']) { format!("'{word}'") } else { word.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        program("sh", &["-c", script])
    }

    #[test]
    fn output_is_kept_and_a_bad_exit_code_is_an_error() {
        let output = run(shell("echo one; echo two")).expect("the shell prints two lines");
        assert_eq!(output.stdout, "one\ntwo\n");
        let error = run(shell("exit 3")).expect_err("the shell exits with 3");
        assert!(error.to_string().contains("exit status: 3"), "{error:#}");
    }

    #[test]
    fn a_program_has_no_standard_input() {
        let output = run(shell("cat; echo end")).expect("cat sees the end at once");
        assert_eq!(output.stdout, "end\n");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let limit = Duration::from_millis(200);
        let error = run_limited(shell("sleep 1000 & sleep 1000"), limit).expect_err("it hangs");
        assert!(error.to_string().contains("still running"), "{error:#}");
    }

    #[test]
    fn a_process_left_in_the_background_is_an_error() {
        let error = run(shell("sleep 1000 &")).expect_err("the sleep holds the output");
        assert!(error.to_string().contains("left a process behind"), "{error:#}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(program::<&str>("no-such-program", &[])).expect_err("it does not exist");
        assert!(format!("{error:#}").contains("no-such-program"), "{error:#}");
    }
}
