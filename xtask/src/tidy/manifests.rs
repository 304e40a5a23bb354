//! Rules about Cargo.toml: reasons, one place for versions, arrows between our own crates.
//!
//! Manifests are read line by line: a dependency is one line, which is a rule by itself.

use super::{Finding, Project};

const ROOT: &str = "Cargo.toml";

/// Fuzz targets are a workspace of their own, with their own reasons.
const FUZZ: &str = "fuzz/Cargo.toml";

/// What our own crates' package names begin with.
const OWN: &str = "portolan-";

/// Which of our crates each may depend on. Others (the daemon, benches, fuzzing) may use all.
const ARROWS: [(&str, &[&str]); 4] = [
    ("engine/Cargo.toml", &[]),
    ("drivers/Cargo.toml", &["portolan-engine"]),
    ("config/Cargo.toml", &["portolan-engine"]),
    ("xtask/Cargo.toml", &[]),
];

/// A dependency's line.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    /// What stands after the equals sign or the first dot.
    rest: &'a str,
}

pub(super) fn unexplained_dependencies(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in [ROOT, FUZZ] {
        let Some(text) = project.text(path) else {
            findings.push(Finding::new(path, 0, "not there"));
            continue;
        };
        for dependency in dependencies(text).filter(|dependency| !dependency.name.starts_with(OWN))
        {
            if reason(dependency.rest).split_whitespace().count() < 2 {
                let what = format!("{}: say after # why it is needed", dependency.name);
                findings.push(Finding::new(path, dependency.line, what));
            }
        }
    }
    findings
}

pub(super) fn own_versions(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in members(project) {
        for dependency in dependencies(text) {
            let rest: String = dependency.rest.split_whitespace().collect();
            if !rest.contains("workspace=true") {
                let what = format!("{}: expected `workspace = true`", dependency.name);
                findings.push(Finding::new(path, dependency.line, what));
            }
        }
    }
    findings
}

pub(super) fn wrong_arrows(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, allowed) in ARROWS {
        let Some(text) = project.text(path) else {
            findings.push(Finding::new(path, 0, "not there"));
            continue;
        };
        let own = dependencies(text).filter(|dependency| dependency.name.starts_with(OWN));
        for dependency in own.filter(|dependency| !allowed.contains(&dependency.name)) {
            let what = format!("must not depend on {}", dependency.name);
            findings.push(Finding::new(path, dependency.line, what));
        }
    }
    findings
}

/// Manifests of the workspace's members.
fn members(project: &Project) -> impl Iterator<Item = (&str, &str)> {
    let texts = project.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    texts.filter(|&(path, _)| path.ends_with("/Cargo.toml") && path != FUZZ)
}

/// The dependencies of all kinds that a manifest names. A table of its own for one dependency
/// (`[dependencies.NAME]`) counts as one without a reason and a version.
fn dependencies(text: &str) -> impl Iterator<Item = Dependency<'_>> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line_number = index + 1;
        let trimmed = line.trim();
        if let Some(table) = trimmed.strip_prefix('[') {
            let table = table.split(']').next().unwrap_or_default();
            inside = table.ends_with("dependencies");
            let (_, name) = table.split_once("dependencies.")?;
            return Some(Dependency { line: line_number, name, rest: "" });
        }
        if !inside || trimmed.is_empty() || trimmed.starts_with('#') {
            return None;
        }
        let (name, rest) = trimmed.split_at(trimmed.find(['.', '=', ' '])?);
        Some(Dependency { line: line_number, name, rest })
    })
}

/// The comment after a line's value.
fn reason(rest: &str) -> &str {
    let mut quoted = false;
    let comment = rest.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    comment.map_or("", |at| rest[at + 1..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sample::{lines, texts};

    #[test]
    fn a_dependency_without_reason_is_found() {
        let root = "[workspace.dependencies]\nportolan-engine = { path = \"engine\" }\n\
            # config\nserde = \"1\" # schema of the config file\ntoml = \"1\"\n\
            rtrb = { version = \"0.4 # not this\" }\nlibc = \"1\" # x\n[profile.release]\n\
            lto = true\n";
        let fuzz = "[dependencies]\nlibfuzzer-sys = \"0.4\"\n";
        let project = texts(&[("Cargo.toml", root), ("fuzz/Cargo.toml", fuzz)]);
        assert_eq!(lines(&unexplained_dependencies(&project)), [5, 6, 7, 2]);
        assert_eq!(unexplained_dependencies(&texts(&[])).len(), 2, "a manifest that is gone");
    }

    #[test]
    fn a_member_with_a_version_of_its_own_is_found() {
        let member = "[package]\nname = \"a\"\n[dependencies]\nlibc.workspace = true\n\
            serde = { workspace = true, optional = true }\ntoml = \"1\"\n[dev-dependencies]\n\
            proptest = { version = \"1\" }\n[dependencies.tokio]\nversion = \"1\"\n";
        let project = texts(&[("engine/Cargo.toml", member)]);
        assert_eq!(lines(&own_versions(&project)), [6, 8, 9]);
        assert!(own_versions(&texts(&[("fuzz/Cargo.toml", member)])).is_empty());
    }

    #[test]
    fn an_arrow_that_does_not_point_at_the_engine_is_found() {
        let engine = "[dependencies]\nlibc.workspace = true\nportolan-config.workspace = true\n";
        let drivers = "[dev-dependencies]\nportolan-engine.workspace = true\n\
            portolan-gateway.workspace = true\n";
        let project = texts(&[
            ("engine/Cargo.toml", engine),
            ("drivers/Cargo.toml", drivers),
            ("config/Cargo.toml", ""),
            ("xtask/Cargo.toml", ""),
            ("gateway/Cargo.toml", drivers),
        ]);
        let findings = wrong_arrows(&project);
        assert_eq!(lines(&findings), [3, 3]);
        assert_eq!(findings[0].path, "engine/Cargo.toml");
        assert_eq!(findings[1].path, "drivers/Cargo.toml");
    }
}
