//! Installs what the steps need: Debian packages as root, and two cargo tools of fixed versions.
//!
//! Nothing that is there is installed again. The tools go to `target/tools`, so that the machine's
//! own are neither used in a wrong version nor replaced. What cannot be installed is an error that
//! names the command a person would run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{cargo, program, query, run};
use crate::machine::is_root;
use crate::steps::Counts;

/// Programs that the tests start, and the Debian package of each.
const PROGRAMS: [(&str, &str); 16] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
    ("turnserver", "coturn"),               // measures how NAT behaves
    ("stun", "stun-client"),                // the same, by an older protocol
    ("ovs-vswitchd", "openvswitch-switch"), // a tunnel's other end
    ("dockerd", "docker.io"),               // two of them share an overlay with us
    ("etcd", "etcd-server"),                // by this
    ("serf", "serf"),                       // and this
    ("tcpdump", "tcpdump"),                 // captures what passes through it
    ("tshark", "tshark"),                   // judges the capture
    ("valgrind", "valgrind"),               // runs the instruction-count benches
    ("g++", "g++"),                         // builds the fuzzer's runtime
    ("systemd-analyze", "systemd"),
];

/// A program that comes from the crate registry.
#[derive(Clone, Copy, Debug)]
struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Must have exactly the version of the `gungraun` library in Cargo.toml.
const GUNGRAUN_RUNNER: Tool = Tool { name: "gungraun-runner", version: "0.20.0" };

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

/// Where our own tools are, from the root of the repository.
const TOOLS: &str = "target/tools";

/// Everything.
pub(crate) fn all() -> Result<Counts> {
    packages(&PROGRAMS)?;
    tool(GUNGRAUN_RUNNER)?;
    tool(CARGO_FUZZ)?;
    Ok(Counts::ONE)
}

/// What the benches need.
pub(crate) fn for_benches() -> Result<Counts> {
    packages(&[("valgrind", "valgrind")])?;
    tool(GUNGRAUN_RUNNER)?;
    Ok(Counts::ONE)
}

/// What fuzzing needs.
pub(crate) fn for_fuzzing() -> Result<Counts> {
    packages(&[("g++", "g++")])?;
    tool(CARGO_FUZZ)?;
    Ok(Counts::ONE)
}

fn packages(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(name, _)| find_program(name).is_none())
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        println!("all programs are there");
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    if !is_root()? || find_program("apt-get").is_none() {
        bail!("programs are missing, and only root on Debian can install them here: {by_hand}");
    }
    apt(&["update"])?;
    let options = ["install", "--yes", "--no-install-recommends"];
    apt(&[options.as_slice(), missing.as_slice()].concat())?;
    match programs.iter().find(|(name, _)| find_program(name).is_none()) {
        Some((name, package)) => bail!("package {package} is installed, but {name} is not there"),
        None => Ok(()),
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    // Another package run on this machine may hold the lock for a while.
    let mut command = program("apt-get", &["--quiet", "-o", "DPkg::Lock::Timeout=120"]);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    run(command).map(drop)
}

/// Installs a tool unless it is there in the right version.
fn tool(tool: Tool) -> Result<()> {
    if path_of(tool).is_some() {
        println!("{} {} is there", tool.name, tool.version);
        return Ok(());
    }
    let version = format!("={}", tool.version);
    // Unoptimised, they build in half the time; neither has much to do.
    let how = ["install", "--quiet", "--locked", "--debug", "--root", TOOLS];
    let arguments = [how.as_slice(), &["--version", &version]].concat();
    run(cargo(&[arguments.as_slice(), &[tool.name]].concat()))?;
    path_of(tool)
        .map(drop)
        .with_context(|| format!("{} was installed, but has not this version", tool.name))
}

/// Path of the runner of the instruction-count benches.
pub(crate) fn gungraun_runner() -> Result<PathBuf> {
    path_of(GUNGRAUN_RUNNER).with_context(|| missing(GUNGRAUN_RUNNER))
}

/// Path of cargo-fuzz.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    path_of(CARGO_FUZZ).with_context(|| missing(CARGO_FUZZ))
}

fn missing(tool: Tool) -> String {
    let Tool { name, version } = tool;
    format!("{name} {version} is not there: cargo install --root {TOOLS} {name}@{version}")
}

/// Where the tool is in the right version: our own first, then the machine's.
fn path_of(tool: Tool) -> Option<PathBuf> {
    let own = std::path::absolute(Path::new(TOOLS).join("bin").join(tool.name)).ok();
    let own = own.filter(|path| path.is_file());
    let candidates = own.into_iter().chain(find_program(tool.name));
    candidates.into_iter().find(|path| has_version(path, tool.version))
}

fn has_version(path: &Path, version: &str) -> bool {
    let text = path.to_str().and_then(|path| query(path, &["--version"]).ok());
    text.is_some_and(|text| text.split_whitespace().any(|word| word == version))
}

/// A program in PATH.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_and_a_missing_one_is_not() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program").is_none());
    }

    #[test]
    fn a_tool_of_another_version_does_not_count() {
        let cargo = find_program("cargo").expect("cargo runs this test");
        assert!(!has_version(&cargo, "0.0.1"));
    }
}
