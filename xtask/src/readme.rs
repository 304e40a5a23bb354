//! The README's commands, run as a newcomer would.
//!
//! A fenced block of README.md whose preceding line is the comment [`MARK`] is run, line by line,
//! by bash from the root of the repository. The one hard constraint: what the README promises
//! first, the demo and the test command, is among them. `cargo xtask test` itself is this very run,
//! so it is not started again.

use anyhow::{Context, Result, bail};

use crate::command::{cargo, program, run};
use crate::steps::Counts;

/// Marks a block of commands that is run.
const MARK: &str = "<!-- run by cargo xtask test -->";

const DEMO: &str = "cargo run --release -- demo";
const TEST: &str = "cargo xtask test";

/// Runs every marked command.
pub(crate) fn commands() -> Result<Counts> {
    let text = std::fs::read_to_string("README.md").context("no README.md")?;
    let commands = marked_commands(&text)?;
    let mut counts = Counts::default();
    for command in commands {
        let ran = match command {
            TEST => Ok(Counts::ONE),
            DEMO => demo(),
            other => run(program("bash", &["-c", other])).map(|_| Counts::ONE),
        };
        counts = counts.plus(ran.with_context(|| format!("README.md: {command}"))?);
    }
    Ok(counts)
}

/// Runs the demo and reads its checks.
pub(crate) fn demo() -> Result<Counts> {
    let words: Vec<&str> = DEMO.split(' ').skip(1).collect();
    let output = run(cargo(&words))?;
    let counts = demo_counts(&output.stdout);
    if counts == Counts::default() {
        bail!("the demo printed no check, a line that begins with `PASS` or `FAIL`");
    }
    Ok(counts)
}

/// The demo prints a line per check, which begins with `PASS` or `FAIL`.
fn demo_counts(stdout: &str) -> Counts {
    let first_words = stdout.lines().filter_map(|line| line.split_whitespace().next());
    first_words.fold(Counts::default(), |counts, word| match word {
        "PASS" => counts.plus(Counts::ONE),
        "FAIL" => counts.plus(Counts { passed: 0, failed: 1 }),
        _ => counts,
    })
}

fn marked_commands(text: &str) -> Result<Vec<&str>> {
    let mut commands = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line.trim() == MARK) {
        if !lines.next().is_some_and(|line| line.starts_with("```")) {
            bail!("README.md: expected a fenced block right after {MARK}");
        }
        let block = lines.by_ref().take_while(|line| !line.starts_with("```"));
        commands.extend(block.map(str::trim).filter(|line| !line.is_empty()));
    }
    for wanted in [DEMO, TEST] {
        if !commands.contains(&wanted) {
            bail!("README.md: expected `{wanted}` in a fenced block right after {MARK}");
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_run_and_others_are_not() {
        let text = format!(
            "# Portolan\n{MARK}\n```sh\n{DEMO}\n```\ntext\n```sh\nrm everything\n```\n\
             {MARK}\n```sh\n{TEST}\n\n```\n"
        );
        assert_eq!(marked_commands(&text).ok(), Some(vec![DEMO, TEST]));
    }

    #[test]
    fn a_readme_without_its_two_commands_fails() {
        assert!(marked_commands("# Portolan\n").is_err());
        assert!(marked_commands(&format!("{MARK}\n```\n{DEMO}\n```\n")).is_err());
        assert!(marked_commands(&format!("{MARK}\n\n```\n{DEMO}\n{TEST}\n```\n")).is_err());
    }

    #[test]
    fn the_demos_checks_are_counted() {
        let stdout =
            "making namespaces\nPASS    ping\n  PASS tcp\nFAIL  udp\nthroughput 9 Gbit/s\n";
        assert_eq!(demo_counts(stdout), Counts { passed: 2, failed: 1 });
        assert_eq!(demo_counts("done\n"), Counts::default());
    }
}
