//! The systemd unit that is shipped, as systemd itself reads it.
//!
//! Needs `systemd-analyze`; does not skip without it. What the unit does under a running systemd is
//! not tested: there is none here.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::process::Command;

/// What systemd says of a unit. The program is named where it is, and its manual is not looked for.
fn verdict(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portolan.service");
    std::fs::write(&path, text.replace("/usr/local/bin/portolan", "/bin/true")).unwrap();
    let mut command = Command::new("systemd-analyze");
    let output = command.args(["verify", "--man=no"]).arg(&path).output();
    let output = output.expect("systemd-analyze is there (Debian: systemd)");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_would_say_so() {
    let unit = include_str!("../../packaging/portolan.service");
    assert_eq!(verdict(unit), "");
    let wrong = verdict(&unit.replace("WatchdogSec=", "WatchdogSex="));
    assert!(wrong.contains("WatchdogSex"), "{wrong}");
}
