//! Why the system benchmark could not be set up or measured.
//!
//! Each variant names the operation and says what to do. A measurement that shows a bad figure is
//! not an error; one that shows no figure is.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// What went wrong. Everything that the benchmark made is removed before this reaches the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The benchmark makes namespaces and devices.
    #[error("the benchmark makes network namespaces and devices: run it as root")]
    NotRoot,
    /// An option is outside its bounds.
    #[error("{option} is {value}: give a number from {least} to {most}")]
    Option {
        /// The option's name on the command line.
        option: &'static str,
        /// What was asked for.
        value: usize,
        /// The least that makes sense.
        least: usize,
        /// The most that makes sense on this machine.
        most: usize,
    },
    /// A program that makes the kernel's devices is not installed.
    #[error("the program {program} is missing: install it with `apt-get install {package}`")]
    ProgramMissing {
        /// The program.
        program: &'static str,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// A program that makes the kernel's devices refused.
    #[error("`{command}` ended with {status}: {message}")]
    Program {
        /// The whole command.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed on stderr.
        message: String,
    },
    /// A system call, or a file below /proc.
    #[error("cannot {what}: {source}")]
    System {
        /// The operation and its object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A TAP device of the bare copier.
    #[error("cannot make a TAP device of the bare copier: {0}")]
    Tap(#[source] drivers::DriverError),
    /// A device keeps its offloads.
    #[error("cannot switch a device's offloads off: {0}")]
    Offloads(#[source] drivers::DriverError),
    /// Portolan did not come up.
    #[error("{} did not print `ready`: {why}; its last lines:\n{lines}", .binary.display())]
    NotReady {
        /// The binary that was started.
        binary: PathBuf,
        /// It ended, or the time was up.
        why: String,
        /// The end of its stderr.
        lines: String,
    },
    /// No packet passed.
    #[error("{path}: nothing from the client reached the server within {seconds} s: {why}")]
    Unreachable {
        /// The leg.
        path: &'static str,
        /// How long the benchmark tried.
        seconds: u64,
        /// The last error of the client.
        why: String,
    },
    /// Packets pass, but not as the topology says: a masquerade that is none.
    #[error(
        "{path}: the server sees {seen} as its client, not {wanted}: it measures something else"
    )]
    WrongSource {
        /// The leg.
        path: &'static str,
        /// The address that the server saw.
        seen: IpAddr,
        /// The address that it should have seen.
        wanted: IpAddr,
    },
    /// The flow broke off while it was measured.
    #[error("{path}: no packet arrived while {traffic} was measured")]
    Silent {
        /// The leg.
        path: &'static str,
        /// The traffic.
        traffic: &'static str,
    },
    /// SIGINT or SIGTERM came.
    #[error("interrupted: everything that the benchmark made is removed, there is no result")]
    Interrupted,
}

impl Error {
    /// Turns an `io::Error` into ours with the operation that failed, for `map_err`.
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::System { what, source }
    }
}
