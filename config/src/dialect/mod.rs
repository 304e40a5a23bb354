//! The other dialects: Marathon, DC/OS, CNI and Docker files, read, checked and converted.
//!
//! Each dialect has a module that turns its files into a [`Fragment`]: networks and endpoints in
//! the words of the native schema, each value with its place in the file that it came from. From
//! there on the native checker does the rest, so an imported network is checked as one that is
//! written down, and an error points into the imported file. The one hard constraint: what a file
//! says and a native config cannot say is reported, never left out in silence.
//!
//! What is deliberately absent: no dialect opens a file or knows of another dialect.

mod cni;
mod dcos;
mod docker;
mod fragment;
mod import;
mod json;
mod marathon;
mod native;
mod settings;
mod tree;
mod yaml;

use std::path::Path;

pub(crate) use import::join_imports;
pub use import::{ConfigFile, ImportedFiles};
pub(crate) use json::is_typographic;

use crate::diagnostic::Diagnostic;
use crate::report::{PlaceId, Report};
use crate::{Config, FILE_BYTES_MAX};
use fragment::Fragment;
use settings::Settings;

/// A language that networks are described in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Portolan's own TOML.
    Native,
    /// Apps, groups and pods of Marathon in JSON, API 1.4 and 1.5.
    Marathon,
    /// `config.yaml` of a DC/OS cluster, or an agent's overlay state in JSON.
    Dcos,
    /// Network configurations of CNI in JSON.
    Cni,
    /// What `docker network inspect` prints, or a Compose file.
    Docker,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 5] =
        [Dialect::Native, Dialect::Marathon, Dialect::Dcos, Dialect::Cni, Dialect::Docker];

    /// Its name on the command line and in a config.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::Marathon => "marathon",
            Dialect::Dcos => "dcos",
            Dialect::Cni => "cni",
            Dialect::Docker => "docker",
        }
    }

    /// The dialect of this name.
    pub fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

/// What a file in another dialect is read for: it decides how much of it has to make sense here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Is it right by its own rules?
    Check,
    /// What networks and endpoints does it give?
    Use,
}

/// A file in another dialect.
pub(crate) struct Source<'t> {
    /// All of it.
    pub(crate) root: PlaceId,
    pub(crate) name: &'t str,
    pub(crate) text: &'t str,
}

/// Reads files in a dialect into what they mean here.
pub(crate) fn read(
    dialect: Dialect,
    sources: &[Source<'_>],
    settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    match dialect {
        Dialect::Native => unreachable!("native files are read by themselves"),
        Dialect::Marathon => marathon::read(sources, settings, purpose, report),
        Dialect::Dcos => dcos::read(sources, settings, purpose, report),
        Dialect::Cni => cni::read(sources, settings, purpose, report),
        Dialect::Docker => docker::read(sources, settings, purpose, report),
    }
}

/// A file that is right by the rules of its dialect.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it comes to, one line per thing.
    pub summary: Vec<String>,
    /// What is probably not meant so, or means nothing here.
    pub warnings: Vec<Diagnostic>,
}

/// Checks a text by the rules of its dialect. `set` are the dialect's own settings, KEY=VALUE.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn check(
    dialect: Dialect,
    file_name: &str,
    text: &str,
    set: &[String],
) -> Result<Checked, Vec<Diagnostic>> {
    let mut report = Report::new(file_name, text);
    let Some(settings) = begin(dialect, text, set, &mut report) else {
        return Err(report.into_diagnostics());
    };
    if dialect == Dialect::Native {
        let config = Config::parse(file_name, text)?;
        return Ok(Checked { summary: Vec::new(), warnings: config.warnings });
    }
    let sources = [Source { root: PlaceId::ROOT, name: file_name, text }];
    let fragment = read(dialect, &sources, &settings, Purpose::Check, &mut report);
    let is_refused = report.has_errors();
    let warnings = report.into_diagnostics();
    if is_refused {
        return Err(warnings);
    }
    Ok(Checked { summary: fragment.summary, warnings })
}

/// A file in another dialect than it was.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The new file.
    pub text: String,
    /// What could not be carried over, among others.
    pub warnings: Vec<Diagnostic>,
}

/// Converts a text. Into the dialect that it is in already: into that dialect's present form.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text; or there is no way between the two.
pub fn convert(
    from: Dialect,
    to: Dialect,
    file_name: &str,
    text: &str,
    set: &[String],
) -> Result<Converted, Vec<Diagnostic>> {
    let mut report = Report::new(file_name, text);
    let Some(settings) = begin(from, text, set, &mut report) else {
        return Err(report.into_diagnostics());
    };
    let converted = match (from, to) {
        (Dialect::Native, Dialect::Native) => {
            let config = Config::parse(file_name, text)?;
            return Ok(Converted { text: config.to_toml(), warnings: config.warnings });
        }
        (Dialect::Marathon, Dialect::Marathon) => {
            marathon::to_present_form(text, &settings, &mut report)
        }
        (from, Dialect::Native) => {
            let sources = [Source { root: PlaceId::ROOT, name: file_name, text }];
            let fragment = read(from, &sources, &settings, Purpose::Use, &mut report);
            native::write(from, file_name, fragment, &settings, &mut report)
        }
        (from, to) => {
            let (from, to) = (from.name(), to.name());
            report.error(PlaceId::ROOT, format!("there is no way from {from} to {to}"));
            None
        }
    };
    let is_refused = report.has_errors();
    let warnings = report.into_diagnostics();
    match converted {
        Some(text) if !is_refused => Ok(Converted { text, warnings }),
        _ => Err(warnings),
    }
}

/// What comes before reading: the size of the text, and the settings.
fn begin(dialect: Dialect, text: &str, set: &[String], report: &mut Report) -> Option<Settings> {
    if text.len() > FILE_BYTES_MAX {
        let bytes = text.len();
        let message = format!("{bytes} bytes are too many, {FILE_BYTES_MAX} go");
        report.error(PlaceId::ROOT, message);
        return None;
    }
    let settings = Settings::from_command_line(set, report);
    settings.refuse_unknown(dialect, report);
    Some(settings)
}

/// Reads a file as text.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| vec![Diagnostic::of_file(&name, format!("cannot read: {error}"))])?;
    String::from_utf8(bytes).map_err(|error| {
        let mut report = Report::new(&name, &String::from_utf8_lossy(error.as_bytes()));
        report_charset(error.as_bytes(), PlaceId::ROOT, &mut report);
        report.into_diagnostics()
    })
}

/// Reports bytes that are not UTF-8. The report has them as text with replacements, which is the
/// same up to the first wrong one.
fn report_charset(bytes: &[u8], root: PlaceId, report: &mut Report) {
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let problem = report.error_in(root, valid..valid, "this is not UTF-8");
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        problem.hint("it begins as UTF-16 does: save it as UTF-8");
    }
}
