//! `portolan convert`: a file of one dialect in another.
//!
//! The new text is all of standard output, so that it can be sent to a file; what could not be
//! carried over is said on standard error. Nothing is printed of a file that is refused.

use std::io::{self, Write};
use std::path::Path;

use config::{Dialect, convert, read_text};

/// What is converted into what.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the file is written in.
    pub from: Dialect,
    /// What is wanted.
    pub to: Dialect,
    /// Settings of the file's dialect, each KEY=VALUE.
    pub set: Vec<String>,
    /// True: a terminal reads standard error.
    pub coloured: bool,
}

/// Converts a file. False: it has an error.
///
/// # Errors
/// Standard output or standard error takes no more.
pub fn run(
    file: &Path,
    options: &Options,
    out: &mut impl Write,
    log: &mut impl Write,
) -> io::Result<bool> {
    let name = file.display().to_string();
    let converted = read_text(file)
        .and_then(|text| convert(options.from, options.to, &name, &text, &options.set));
    let (text, findings) = match converted {
        Ok(converted) => (Some(converted.text), converted.warnings),
        Err(findings) => (None, findings),
    };
    write!(log, "{}", config::render(&findings, options.coloured))?;
    if let Some(text) = &text {
        out.write_all(text.as_bytes())?;
    }
    Ok(text.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(text: &str, from: Dialect, to: Dialect) -> (bool, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        std::fs::write(&file, text).unwrap();
        let (mut out, mut log) = (Vec::new(), Vec::new());
        let options = Options { from, to, set: Vec::new(), coloured: false };
        let is_done = run(&file, &options, &mut out, &mut log).unwrap();
        (is_done, String::from_utf8(out).unwrap(), String::from_utf8(log).unwrap())
    }

    #[test]
    fn the_new_text_is_all_of_standard_output() {
        let app = r#"{"id": "a", "cmd": "run", "networks": [{"mode": "container/bridge"}]}"#;
        let (is_done, out, log) = converted(app, Dialect::Marathon, Dialect::Native);
        assert!(is_done && out.contains("[endpoint.a_0]"), "{out}");
        assert!(log.starts_with("warning: the file does not say where ports are"), "{log}");
        let (is_done, out, log) = converted("{\"id\": 1}", Dialect::Marathon, Dialect::Native);
        assert!(!is_done && out.is_empty());
        assert!(log.starts_with("error: id: expected text, found a number"), "{log}");
        let (is_done, _, log) = converted("", Dialect::Native, Dialect::Cni);
        assert!(!is_done && log.contains("there is no way from native to cni"), "{log}");
    }
}
