//! Runs `nft`, the program that programs nftables.
//!
//! A program and not a library: it is what every host that filters has, and it checks the whole
//! text in one transaction. The one hard constraint: what it refuses has changed nothing.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::error::Error;

/// Carries a text out, whole or not at all.
pub(super) fn apply(text: &str) -> Result<(), Error> {
    let started = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(missing)?;
    let mut stdin = child.stdin.take().expect("it was asked for a pipe");
    // A program that ended before it had read all tells why on its other pipe.
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return written.map_err(missing);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().next().unwrap_or("it said nothing").to_owned();
    Err(Error::Nftables { reason })
}

fn missing(error: io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no program nft: install the package nftables, or set \
                                    host_side = false for the uplink"
            .to_owned(),
        _ => format!("nft cannot be run: {error}"),
    };
    Error::Nftables { reason }
}
