//! Subjects of commits: `area: imperative sentence`, at most 60 characters, no full stop.
//!
//! The last [`COMMIT_COUNT`] are looked at: older ones cannot be mended any more.

use anyhow::Result;

use super::{Finding, Project};
use crate::command::query;

const COMMIT_COUNT: u32 = 50;
const SUBJECT_CHARS_MAX: usize = 60;

/// Short hashes and subjects of the last commits; merges have no subject of their own.
pub(super) fn last() -> Result<Vec<(String, String)>> {
    let count = format!("-{COMMIT_COUNT}");
    let log = query("git", &["log", "--no-merges", &count, "--format=%h %s", "HEAD"])?;
    let split = log.lines().filter_map(|line| line.split_once(' '));
    Ok(split.map(|(hash, subject)| (hash.to_owned(), subject.to_owned())).collect())
}

pub(super) fn bad_subjects(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (hash, subject) in &project.commits {
        if let Some(problem) = problem(subject) {
            findings.push(Finding::new(
                &format!("commit {hash}"),
                0,
                format!("{problem}: {subject}"),
            ));
        }
    }
    findings
}

fn problem(subject: &str) -> Option<&'static str> {
    let is_area = |area: &str| {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_/., ".contains(c);
        !area.is_empty() && area.chars().all(lower)
    };
    if subject.chars().count() > SUBJECT_CHARS_MAX {
        return Some("more than 60 characters");
    }
    if subject.ends_with('.') {
        return Some("ends with a full stop");
    }
    match subject.split_once(": ") {
        Some((area, sentence)) if is_area(area) && !sentence.trim().is_empty() => None,
        _ => Some("expected `area: imperative sentence`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_break_a_rule_are_found() {
        let long = format!("engine: {}", "x".repeat(53));
        for bad in
            ["Add a thing", "engine: add it.", "Engine: add it", ": add it", "engine: ", &long]
        {
            let commits = vec![("1a2b".to_owned(), bad.to_owned())];
            let project = Project { commits, ..Project::default() };
            assert_eq!(bad_subjects(&project).len(), 1, "{bad}");
        }
    }

    #[test]
    fn subjects_of_the_right_form_pass() {
        for good in ["engine: cut super-frames", "config, gateway: refuse unknown keys"] {
            assert_eq!(problem(good), None, "{good}");
        }
    }
}
