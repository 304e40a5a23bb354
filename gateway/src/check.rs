//! `portolan check`: says whether files are valid configs, for people or for programs.
//!
//! Makes nothing and needs no rights. The JSON form is a contract: one array over all files, of
//! `{file, line, column, path, severity, message}`, empty when nothing is wrong.

use std::io::{self, Write};
use std::path::Path;

use config::{Config, Diagnostic, Dialect, Severity, check_dialect, convert, read_text};

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One finding per paragraph, with its source line.
    Text,
    /// One array.
    Json,
}

/// How a check is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the files are written in.
    pub dialect: Dialect,
    /// Settings of the dialect, each KEY=VALUE.
    pub set: Vec<String>,
    /// How findings are printed.
    pub format: Format,
    /// True: what is printed on standard output is the config with everything filled in, and
    /// findings go to standard error in either format.
    pub resolved: bool,
    /// True: a terminal reads standard error.
    pub coloured: bool,
}

/// Checks files and prints what is found. True if no file has an error.
///
/// # Errors
/// Standard output or standard error takes no more.
pub fn run(
    files: &[impl AsRef<Path>],
    options: &Options,
    out: &mut impl Write,
    log: &mut impl Write,
) -> io::Result<bool> {
    let mut is_valid = true;
    let mut all: Vec<Diagnostic> = Vec::new();
    // What is said about files that are valid.
    let mut answers = String::new();
    for file in files {
        match check(file.as_ref(), options) {
            Ok((answer, warnings)) => {
                answers.push_str(&answer);
                all.extend(warnings);
            }
            Err(diagnostics) => {
                is_valid = false;
                all.extend(diagnostics);
            }
        }
    }
    match options.format {
        Format::Json if options.resolved => writeln!(log, "{}", as_json(&all))?,
        Format::Json => writeln!(out, "{}", as_json(&all))?,
        Format::Text => write!(log, "{}", config::render(&all, options.coloured))?,
    }
    if options.resolved || options.format == Format::Text {
        out.write_all(answers.as_bytes())?;
    }
    Ok(is_valid)
}

/// What is said about a valid file, and its warnings.
fn check(file: &Path, options: &Options) -> Result<(String, Vec<Diagnostic>), Vec<Diagnostic>> {
    let name = file.display().to_string();
    if options.dialect == Dialect::Native {
        let config = Config::load(file)?;
        let answer = if options.resolved { config.to_toml() } else { format!("{name}: valid\n") };
        return Ok((answer, config.warnings));
    }
    let (text, set) = (read_text(file)?, &options.set);
    if options.resolved {
        let converted = convert(options.dialect, Dialect::Native, &name, &text, set)?;
        let config = Config::parse(&name, &converted.text)?;
        return Ok((config.to_toml(), converted.warnings));
    }
    let checked = check_dialect(options.dialect, &name, &text, set)?;
    let mut answer = format!("{name}: valid\n");
    for line in checked.summary {
        answer.push_str(&format!("  {line}\n"));
    }
    Ok((answer, checked.warnings))
}

fn as_json(diagnostics: &[Diagnostic]) -> serde_json::Value {
    diagnostics
        .iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "[network.front]\n[endpoint.web]\nattach = { netns = \"web\" }\n\
                         [[endpoint.web.network]]\nname = \"front\"\n";

    /// Checks texts as files; what was said on standard output and standard error, and the answer.
    fn check(texts: &[&str], format: Format, resolved: bool) -> (String, String, bool) {
        let folder = tempfile::tempdir().unwrap();
        let name = |index: usize| folder.path().join(format!("{index}.toml"));
        for (index, text) in texts.iter().enumerate() {
            std::fs::write(name(index), text).unwrap();
        }
        let files: Vec<_> = (0..texts.len()).map(name).collect();
        let (mut out, mut log) = (Vec::new(), Vec::new());
        let (dialect, set) = (Dialect::Native, Vec::new());
        let options = Options { dialect, set, format, resolved, coloured: false };
        let is_valid = run(&files, &options, &mut out, &mut log).unwrap();
        let place = format!("{}/", folder.path().display());
        let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&place, "");
        (said(out), said(log), is_valid)
    }

    #[test]
    fn each_file_is_valid_or_has_its_findings() {
        let (out, log, is_valid) = check(&[SOUND, "[netwrok]\n"], Format::Text, false);
        assert!(!is_valid);
        assert_eq!(out, "0.toml: valid\n");
        assert_eq!(
            log,
            "error: netwrok: unknown key\n --> 1.toml:1:2\n  |\n1 | [netwrok]\n  \
             |  ^^^^^^^\n  |\n  \
             = help: did you mean network?\n\n1 error\n"
        );
    }

    #[test]
    fn json_is_one_array_over_all_files() {
        let (out, log, is_valid) = check(&["[gateway]\nidel = 1\n", SOUND], Format::Json, false);
        assert!(!is_valid && log.is_empty());
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        let expected = serde_json::json!([{
            "file": "0.toml", "line": 2, "column": 1, "path": "gateway.idel", "severity": "error",
            "message": "unknown key (did you mean idle?)",
        }]);
        assert_eq!(found, expected);
        assert_eq!(check(&[SOUND], Format::Json, false), ("[]\n".into(), String::new(), true));
    }

    #[test]
    fn a_resolved_config_is_all_of_standard_output() {
        let (out, log, is_valid) = check(&[SOUND], Format::Text, true);
        assert!(is_valid && log.is_empty());
        assert!(out.contains("ip = \"172.17.0.2\"\n"), "{out}");
        assert_eq!(check(&[&out], Format::Text, true), (out, String::new(), true));
        let (out, log, is_valid) = check(&["x = 1\n"], Format::Json, true);
        assert!(!is_valid && out.is_empty() && log.starts_with("[{"));
    }
}
