//! `[[import]]`: files in other dialects that join a native config.
//!
//! A [`ConfigFile`] is a config's text together with the texts that it imports, each read once:
//! whoever checks it twice, with and without leases, sees the same. The one hard constraint: only a
//! config that was read from a file imports others, so that checking a text touches no file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::settings::Settings;
use super::{Dialect, Purpose, Source, read, report_charset};
use crate::FILE_BYTES_MAX;
use crate::diagnostic::Diagnostic;
use crate::nearest::nearest;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema::{self, Document};
use crate::values::WordOrList;

/// Most files that one pattern may bring: a wrong one, such as `/*/*`, is noticed by this.
const FILE_COUNT_MAX: usize = 10_000;

/// A config's text, and what it imports.
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    /// What was found for each pattern when it was first asked for.
    found: RefCell<BTreeMap<String, Found>>,
}

/// The files of one pattern, or why there are none.
type Found = Result<Vec<Imported>, String>;

#[derive(Clone)]
struct Imported {
    path: PathBuf,
    bytes: Result<Vec<u8>, String>,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ConfigFile {
    /// Reads a config file. What it imports is read when it is checked.
    ///
    /// # Errors
    /// It cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<ConfigFile, Vec<Diagnostic>> {
        let text = super::read_text(path)?;
        Ok(ConfigFile { path: path.to_owned(), text, found: RefCell::default() })
    }

    /// What diagnostics call it.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Its text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The files that a pattern stands for, relative to the config's folder.
    fn files(&self, pattern: &str) -> Found {
        let find = || {
            let folder = self.path.parent().unwrap_or(Path::new(""));
            let paths = matches(folder, pattern)?;
            let imported = paths.into_iter().map(|path| {
                let bytes = std::fs::read(&path).map_err(|error| format!("cannot read: {error}"));
                Imported { path, bytes }
            });
            Ok(imported.collect())
        };
        self.found.borrow_mut().entry(pattern.to_owned()).or_insert_with(find).clone()
    }
}

/// What a config file consists of on disk now, for whoever watches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedFiles {
    /// The files that it imports.
    pub files: Vec<PathBuf>,
    /// The folders that they are in, or would be.
    pub folders: Vec<PathBuf>,
}

impl ImportedFiles {
    /// Looks at a config file. One that is no TOML imports nothing.
    pub fn of(path: &Path) -> ImportedFiles {
        let mut found = ImportedFiles::default();
        let Ok(text) = std::fs::read_to_string(path) else { return found };
        let (table, _) = DeTable::parse_recoverable(&text);
        let folder = path.parent().unwrap_or(Path::new(""));
        let imports = table.get_ref().get("import").and_then(|imports| imports.as_ref().as_array());
        for import in imports.into_iter().flatten() {
            let pattern =
                import.as_ref().as_table().and_then(|table| table.get("path")?.as_ref().as_str());
            let Some(pattern) = pattern else { continue };
            found.files.extend(matches(folder, pattern).unwrap_or_default());
            let above = pattern.rsplit_once('/').map_or("", |(above, _)| above);
            let above = if above.is_empty() && pattern.starts_with('/') { "/" } else { above };
            found.folders.extend(expand(folder, above).unwrap_or_default());
        }
        found
    }
}

/// The files that a pattern stands for, in the order of their names.
fn matches(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = expand(folder, pattern)?;
    if pattern.contains(['*', '?']) {
        found.retain(|path| path.is_file());
    }
    Ok(found)
}

/// The paths that a pattern stands for, whatever is there. `*` and `?` stand for anything within a
/// name that is not hidden.
fn expand(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![if pattern.starts_with('/') { "/".into() } else { folder.to_owned() }];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if !part.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut next = Vec::new();
        for folder in found {
            let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            // A name that is no folder has nothing in it.
            let Ok(entries) = std::fs::read_dir(shown) else { continue };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let fitting = names.filter(|name| !name.starts_with('.') && fits(part, name));
            next.extend(fitting.map(|name| folder.join(name)));
            if next.len() > FILE_COUNT_MAX {
                return Err(format!("the pattern fits more than {FILE_COUNT_MAX} files"));
            }
        }
        next.sort();
        found = next;
    }
    Ok(found)
}

/// Whether a name fits a pattern with `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // The last star, and how far the name was when it was met: where to go back to.
    let (mut at, mut of, mut back) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                back = Some((at, of));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[of] => {
                at += 1;
                of += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (at, of) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// Reads what a document imports, and adds it. Gives the paths that were read.
pub(crate) fn join_imports(
    document: &mut Document,
    file: Option<&ConfigFile>,
    report: &mut Report,
) -> Vec<PathBuf> {
    let imports = std::mem::take(&mut document.import);
    let mut paths = Vec::new();
    for import in imports.value().into_iter().flatten() {
        let Some((at, import)) = import.given() else { continue };
        let Some(dialect) = dialect(at, import, report) else { continue };
        let settings = settings(dialect, import, report);
        let Some((at, pattern)) = import.path.given() else {
            if import.path.is_absent() {
                report.error(at, "path is missing").hint("such as path = \"apps/*.json\"");
            }
            continue;
        };
        let Some(file) = file else {
            report.error(at, "only a config that is a file imports others");
            continue;
        };
        let files = match file.files(pattern) {
            Ok(files) => files,
            Err(message) => {
                report.error(at, message);
                continue;
            }
        };
        if files.is_empty() {
            report.warning(at, format!("no file fits {pattern}"));
        }
        let texts = texts(&files, at, report);
        paths.extend(files.iter().map(|file| file.path.clone()));
        let sources: Vec<Source<'_>> =
            texts.iter().map(|(root, name, text)| Source { root: *root, name, text }).collect();
        let fragment = read(dialect, &sources, &settings, Purpose::Use, report);
        if let Some((own, at)) = fragment.underlay.filter(|(own, _)| !has_address(document, *own)) {
            let message = format!("tunnels end here at {own}, which is no uplink's address");
            report.warning(at, message).hint("the others send there: give it to an uplink");
        }
        fragment.add_to(document, |joined| joined.is_implied, report);
    }
    paths
}

/// True if an uplink may have an address: one that takes the host's may.
fn has_address(document: &Document, address: IpAddr) -> bool {
    let uplinks = document.uplink.value().into_iter().flat_map(|Named(uplinks)| uplinks);
    let mut uplinks = uplinks.filter_map(|(_, uplink)| uplink.value());
    uplinks.any(|uplink| match uplink.addresses.value() {
        Some(WordOrList::List(own)) => {
            own.iter().filter_map(Field::value).any(|own| own.0.addr() == address)
        }
        _ => true,
    })
}

fn dialect(at: PlaceId, import: &schema::Import, report: &mut Report) -> Option<Dialect> {
    if import.dialect.is_absent() {
        report.error(at, "dialect is missing").hint("marathon, dcos, cni or docker");
    }
    let (at, name) = import.dialect.given()?;
    let dialect = Dialect::named(name).filter(|dialect| *dialect != Dialect::Native);
    if dialect.is_none() {
        let known = Dialect::ALL.into_iter().filter(|dialect| *dialect != Dialect::Native);
        let known: Vec<&str> = known.map(Dialect::name).collect();
        let message = format!("unknown word {name:?}, expected {}", known.join(", "));
        let problem = report.error(at, message);
        if let Some(near) = nearest(name, known) {
            problem.hint(format!("did you mean {near:?}?"));
        }
    }
    dialect
}

fn settings(dialect: Dialect, import: &schema::Import, report: &mut Report) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in import.set.value().into_iter().flat_map(|Named(set)| set) {
        if let (Some(name), Field::Given(at, value)) = (name.value(), value) {
            settings.add(name, &value.0, *at);
        }
    }
    settings.refuse_unknown(dialect, report);
    settings
}

/// The texts of files that could be read, each a source of the report.
fn texts(files: &[Imported], at: PlaceId, report: &mut Report) -> Vec<(PlaceId, String, String)> {
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let name = file.path.display().to_string();
        let bytes = match &file.bytes {
            Ok(bytes) if bytes.len() <= FILE_BYTES_MAX => bytes,
            Ok(bytes) => {
                let bytes = bytes.len();
                let message = format!("{name}: {bytes} bytes are too many, {FILE_BYTES_MAX} go");
                report.error(at, message);
                continue;
            }
            Err(message) => {
                report.error(at, format!("{name}: {message}"));
                continue;
            }
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => texts.push((report.add_source(&name, text), name, text.to_owned())),
            Err(_) => {
                let root = report.add_source(&name, &String::from_utf8_lossy(bytes));
                report_charset(bytes, root, report);
            }
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_config_imports_is_found_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, apps) = (folder.path().join("gateway.toml"), folder.path().join("apps"));
        std::fs::create_dir(&apps).unwrap();
        std::fs::write(apps.join("a.json"), "{").unwrap();
        let text = "[[import]]\npath = 'apps/*.json'\n[[import]]\npath = 'b.json'\n[[import]]\n";
        std::fs::write(&path, text).unwrap();
        let found = ImportedFiles::of(&path);
        assert_eq!(found.files, [apps.join("a.json"), folder.path().join("b.json")]);
        assert_eq!(found.folders, [apps, folder.path().to_owned()]);
        assert_eq!(ImportedFiles::of(&folder.path().join("none")), ImportedFiles::default());
    }

    #[test]
    fn stars_and_question_marks_fit_within_a_name() {
        for (pattern, name) in
            [("*.json", "a.json"), ("a?c", "abc"), ("*", "x"), ("a*b*c", "aXbYbc"), ("*.*", "a.b")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.json", "a.jso"), ("a?c", "ac"), ("a*b", "abc"), ("", "x")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        let stars = "*a".repeat(30);
        assert!(!fits(&stars, &"a".repeat(10_000).replace("aa", "ab")[..50]));
    }
}
