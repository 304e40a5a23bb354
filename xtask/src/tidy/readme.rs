//! Each drop reason stands in the README's table, and nothing else does.
//!
//! The names are the text literals inside `drop_reasons! { … }` of the engine; the table is the one
//! in the README's section whose heading names drop reasons, a row for each: `` | `name` | …``.

use super::{Finding, Project};

const COUNTERS: &str = "engine/src/counters.rs";
const README: &str = "README.md";

pub(super) fn unlisted_drop_reasons(project: &Project) -> Vec<Finding> {
    let reasons = reasons(project);
    if reasons.is_empty() {
        return vec![Finding::new(COUNTERS, 0, "no drop reason found in drop_reasons! { … }")];
    }
    let listed = listed(project);
    let unlisted = reasons.iter().filter(|(_, name)| !listed.iter().any(|(_, row)| row == name));
    unlisted
        .map(|(line, name)| {
            Finding::new(COUNTERS, *line, format!("{name} has no line in {README}'s table"))
        })
        .collect()
}

pub(super) fn unknown_drop_reasons(project: &Project) -> Vec<Finding> {
    let reasons = reasons(project);
    let mut seen: Vec<&str> = Vec::new();
    let mut findings = Vec::new();
    for (line, name) in listed(project) {
        if !reasons.iter().any(|(_, reason)| *reason == name) {
            findings.push(Finding::new(README, line, format!("{name} is no drop reason")));
        } else if seen.contains(&name) {
            findings.push(Finding::new(README, line, format!("{name} is listed twice")));
        }
        seen.push(name);
    }
    findings
}

/// Lines and names of the engine's drop reasons.
fn reasons(project: &Project) -> Vec<(usize, &str)> {
    let text = project.source(COUNTERS).map_or("", |source| &source.text);
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let inside = lines.skip_while(|(_, line)| !line.starts_with("drop_reasons! {"));
    let inside = inside.take_while(|(_, line)| !line.starts_with('}'));
    let named = inside.filter_map(|(line, text)| {
        let literal = text.trim().split_once(" = \"")?.1;
        Some((line, literal.strip_suffix("\",")?))
    });
    named.collect()
}

/// Lines and names of the rows of the README's table.
fn listed(project: &Project) -> Vec<(usize, &str)> {
    let text = project.text(README).unwrap_or_default();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let is_heading = |line: &str| line.starts_with('#');
    let section = lines
        .skip_while(|(_, line)| !(is_heading(line) && line.to_lowercase().contains("drop reason")));
    let section = section.skip(1).take_while(|(_, line)| !is_heading(line));
    let rows = section.filter_map(|(line, text)| {
        let name = text.trim().strip_prefix('|')?.trim_start().strip_prefix('`')?;
        Some((line, name.split_once('`')?.0))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Source;
    use crate::tidy::sample::{lines, texts};

    const REASONS: &str = "macro_rules! drop_reasons {\n}\n\ndrop_reasons! {\n    /// Doc.\n    \
        Truncated = \"truncated\",\n    /// Doc.\n    NoRoute = \"no_route\",\n}\n";

    fn project(readme: &str) -> Project {
        let mut project = texts(&[("README.md", readme)]);
        project.sources.push(Source::new(COUNTERS, REASONS.to_owned()));
        project
    }

    #[test]
    fn a_table_with_every_reason_and_no_other_is_fine() {
        let readme = "# P\n| `other` | table |\n## Drop reasons\n| name | why |\n| --- | --- |\n\
            | `truncated` | x |\n| `no_route` | y |\n## Next\n| `more` | z |\n";
        assert!(unlisted_drop_reasons(&project(readme)).is_empty());
        assert!(unknown_drop_reasons(&project(readme)).is_empty());
    }

    #[test]
    fn a_reason_without_a_line_is_found() {
        let readme = "## Drop reasons\n| `truncated` | x |\n";
        assert_eq!(lines(&unlisted_drop_reasons(&project(readme))), [8]);
        assert_eq!(unlisted_drop_reasons(&project("")).len(), 2);
        assert_eq!(unlisted_drop_reasons(&texts(&[])).len(), 1, "the engine's file is gone");
    }

    #[test]
    fn a_line_without_a_reason_and_a_second_line_are_found() {
        let readme = "## Drop reasons\n| `truncated` | x |\n| `gone` | y |\n| `truncated` | z |\n";
        assert_eq!(lines(&unknown_drop_reasons(&project(readme))), [3, 4]);
    }
}
