//! The rules of style that a program can check.
//!
//! A rule is a function from the whole project, read once, to findings. The one hard constraint: a
//! rule must be able to fail, so each has a test with a sample that breaks it. The rules read text,
//! not a syntax tree: comments and literals are blanked first, which is enough for all of them and
//! keeps a parser out of the build. What clippy checks already is not checked again.

mod commits;
mod manifests;
mod outside;
mod readme;
mod rules;
mod source;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::query;
use crate::steps::Counts;
use source::Source;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Everything that the rules look at.
#[derive(Debug, Default)]
struct Project {
    /// Rust files.
    sources: Vec<Source>,
    /// Other files that people write: manifests, documentation, scripts; path and text.
    texts: Vec<(String, String)>,
    /// Short hashes and subjects of the last commits.
    commits: Vec<(String, String)>,
}

impl Project {
    fn load() -> Result<Project> {
        let listed = query("git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
        let mut project = Project { commits: commits::last()?, ..Project::default() };
        // A file that was deleted but not yet committed so is still listed.
        for path in listed.lines().filter(|path| Path::new(path).is_file()) {
            let read = || {
                std::fs::read_to_string(path).with_context(|| format!("{path}: not readable text"))
            };
            if path.ends_with(".rs") {
                project.sources.push(Source::new(path, read()?));
            } else if is_written_text(path) {
                project.texts.push((path.to_owned(), read()?));
            }
        }
        Ok(project)
    }

    /// The text of a file that is not Rust.
    fn text(&self, path: &str) -> Option<&str> {
        self.texts.iter().find(|(other, _)| other == path).map(|(_, text)| text.as_str())
    }

    /// A Rust file.
    fn source(&self, path: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == path)
    }
}

fn is_written_text(path: &str) -> bool {
    path == ".ci/run" || [".toml", ".md", ".sh"].iter().any(|ending| path.ends_with(ending))
}

type Rule = (&'static str, fn(&Project) -> Vec<Finding>);

const RULES: [Rule; 16] = [
    ("lines are at most 100 characters long", rules::long_lines),
    ("functions are at most 70 lines long", rules::long_functions),
    ("files are at most 600 lines long without tests", rules::long_files),
    ("a file opens with its theory of operation", rules::missing_head),
    ("names say what they mean", rules::vague_names),
    ("nothing is left to do", rules::left_to_do),
    ("unsafe code lies in drivers/src/sys/", rules::unsafe_elsewhere),
    ("unsafe code says why it is sound", rules::unexplained_unsafe),
    ("no bare unwrap outside tests", rules::bare_unwrap),
    ("the engine uses no clock, thread, file, socket or lock", outside::engine_reaches_outside),
    ("each dependency has its reason", manifests::unexplained_dependencies),
    ("members take dependencies from the workspace", manifests::own_versions),
    ("arrows between crates point at the engine", manifests::wrong_arrows),
    ("each drop reason has its line in the README", readme::unlisted_drop_reasons),
    ("each line of the README's table is a drop reason", readme::unknown_drop_reasons),
    ("commit subjects read `area: imperative sentence`", commits::bad_subjects),
];

/// Checks every rule; each counts as one.
pub(crate) fn check() -> Result<Counts> {
    let project = Project::load()?;
    let mut counts = Counts::default();
    for (name, rule) in RULES {
        let findings = rule(&project);
        if findings.is_empty() {
            counts.passed += 1;
            continue;
        }
        counts.failed += 1;
        println!("{name}:");
        findings.iter().for_each(|finding| println!("  {finding}"));
    }
    println!("{} files, {} rules", project.sources.len() + project.texts.len(), RULES.len());
    Ok(counts)
}

/// Helpers for the tests of the rules.
#[cfg(test)]
mod sample {
    use super::*;

    /// A project with one Rust file.
    pub(super) fn source(path: &str, text: &str) -> Project {
        Project { sources: vec![Source::new(path, text.to_owned())], ..Project::default() }
    }

    /// A project with other files.
    pub(super) fn texts(files: &[(&str, &str)]) -> Project {
        let files = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned()));
        Project { texts: files.collect(), ..Project::default() }
    }

    /// The lines at which a rule found something.
    pub(super) fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }
}
