//! Network namespaces that remove themselves, and what is run inside them.
//!
//! A namespace is made and removed with the `ip` program, so that its name is visible to a person
//! who looks while the benchmark runs. The hard constraint: `setns` changes one thread, so work
//! inside a namespace runs on a thread of its own that ends afterwards; sockets and children that
//! it made stay in the namespace. Names carry our process id: two benchmarks do not collide.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::Error;

/// A network namespace below `/run/netns`. Dropping it removes it and the devices in it.
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes `portolan-bench-<pid>-<role>`. IPv6 is off inside: router solicitations and duplicate
    /// address detection of one leg must not disturb another.
    pub(super) fn create(role: &str) -> Result<Namespace, Error> {
        let name = format!("portolan-bench-{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), None)?;
        let namespace = Namespace { name };
        namespace.set("net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(namespace)
    }

    /// The name as `ip netns` shows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a fresh thread inside the namespace.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let path = format!("/run/netns/{}", self.name);
        let handle = std::fs::File::open(&path).map_err(Error::system(format!("open {path}")))?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(rustix::fd::AsFd::as_fd(&handle), network)
                    .map_err(|error| error.into())
                    .map_err(Error::system(format!("enter the namespace {path}")))?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` for this namespace; the arguments are separated by blanks.
    pub(super) fn ip(&self, arguments: &str) -> Result<(), Error> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()), None)
    }

    /// Loads nftables rules in this namespace.
    pub(super) fn nft(&self, rules: &str) -> Result<(), Error> {
        self.inside(|| run(Command::new("nft").args(["-f", "-"]), Some(rules)))?
    }

    /// Writes a sysctl of this namespace; `key` is its path below `/proc/sys`.
    pub(super) fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = format!("/proc/sys/{key}");
        match self.inside(|| std::fs::write(&path, value))? {
            // A kernel without IPv6 has no such keys, and nothing to switch off.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(Error::system(format!("write {value} to {path}"))),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = run(Command::new("ip").args(["netns", "delete", &self.name]), None);
        if let Err(error) = removed {
            eprintln!("the namespace {} is left behind: {error}", self.name);
        }
    }
}

/// Runs one program to its end; an exit status other than 0 is an error with its stderr.
fn run(command: &mut Command, input: Option<&str>) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let line = std::iter::once(program.clone()).chain(words).collect::<Vec<_>>().join(" ");
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&program, &line, error))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that ends before it has read everything says why on stderr.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(Error::system(format!("wait for `{line}`")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Program { command: line, status: output.status, message })
}

/// A missing program is the one start-up error that a user can mend: say how.
fn not_started(program: &str, line: &str, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::System { what: format!("start `{line}`"), source: error };
    }
    match program {
        "nft" => Error::ProgramMissing { program: "nft", package: "nftables" },
        _ => Error::ProgramMissing { program: "ip", package: "iproute2" },
    }
}
