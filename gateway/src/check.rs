//! `portolan check`: says whether files are valid configs, for people or for programs.
//!
//! Makes nothing and needs no rights. The JSON form is a contract: one array over all files, of
//! `{file, line, column, path, severity, message}`, empty when nothing is wrong.

use std::io::{self, Write};
use std::path::Path;

use config::{Config, Diagnostic, Severity};

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One finding per paragraph, with its source line.
    Text,
    /// One array.
    Json,
}

/// Checks files and prints what is found. True if no file has an error. `coloured` says whether a
/// terminal reads the log.
///
/// # Errors
/// Standard output or standard error takes no more.
pub fn run(
    files: &[impl AsRef<Path>],
    format: Format,
    coloured: bool,
    out: &mut impl Write,
    log: &mut impl Write,
) -> io::Result<bool> {
    let findings: Vec<(bool, Vec<Diagnostic>)> = files
        .iter()
        .map(|file| match Config::load(file.as_ref()) {
            Ok(config) => (true, config.warnings),
            Err(diagnostics) => (false, diagnostics),
        })
        .collect();
    let valid = findings.iter().all(|(valid, _)| *valid);
    let all = findings.iter().flat_map(|(_, diagnostics)| diagnostics);
    match format {
        Format::Json => writeln!(out, "{}", as_json(all))?,
        Format::Text => {
            let all: Vec<Diagnostic> = all.cloned().collect();
            write!(log, "{}", config::render(&all, coloured))?;
            for (file, _) in files.iter().zip(&findings).filter(|(_, (valid, _))| *valid) {
                writeln!(out, "{}: valid", file.as_ref().display())?;
            }
        }
    }
    Ok(valid)
}

fn as_json<'a>(diagnostics: impl Iterator<Item = &'a Diagnostic>) -> serde_json::Value {
    diagnostics
        .map(|diagnostic| {
            serde_json::json!({
                "file": diagnostic.file,
                "line": diagnostic.line,
                "column": diagnostic.column,
                "path": diagnostic.path,
                "severity": match diagnostic.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "message": match &diagnostic.hint {
                    Some(hint) => format!("{} ({hint})", diagnostic.message),
                    None => diagnostic.message.clone(),
                },
            })
        })
        .collect()
}
