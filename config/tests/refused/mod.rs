//! Lists of files that are refused, in `config/tests/cases/`, for the tests of dialects.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

/// Files, each with what is wrong with it, of a list beside this test.
pub(crate) fn cases(name: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let (mut cases, mut input) = (Vec::new(), String::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("=> ") {
            Some(message) => {
                cases
                    .push((std::mem::take(&mut input).trim_start().to_owned(), message.to_owned()));
            }
            None => {
                input.push_str(line);
                input.push('\n');
            }
        }
    }
    assert!(input.trim().is_empty() && !cases.is_empty(), "{name}");
    cases
}
