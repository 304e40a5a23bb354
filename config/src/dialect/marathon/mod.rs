//! Marathon: apps, groups and pods in JSON, of API 1.4 and 1.5.
//!
//! A file is one definition, a list of them, or a group. Each app goes the way that Marathon has:
//! rules of the old API, migration to the new one, rules of the new one, defaults (`old`,
//! `migrate`, `validate`, `finish`); then ports are assigned as by one agent's offer (`ports`), and
//! every instance becomes an endpoint (`endpoints`). The one hard constraint: a definition that
//! Marathon takes is taken, and one that it refuses is refused in its words.
//!
//! What is deliberately absent: everything of a definition that is not about networks (volumes,
//! constraints, upgrades) is passed through as it is and not looked at.

mod app;
mod endpoints;
mod labels;
mod migrate;
mod old;
mod options;
mod pod;
mod ports;
mod validate;

use super::fragment::Fragment;
use super::settings::Settings;
use super::tree::{Node, Value};
use super::{Purpose, Source, json};
use crate::report::{PlaceId, Report};
use app::App;
use options::Options;
use pod::Pod;

/// Keys of a group.
const GROUP: [&str; 8] =
    ["id", "apps", "pods", "groups", "dependencies", "version", "enforceRole", "versionInfo"];

/// What a file defines.
#[derive(Debug)]
enum Definition {
    App(App),
    Pod(Pod),
}

/// Reads files.
pub(super) fn read(
    sources: &[Source<'_>],
    settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let options = Options::new(settings, report);
    let mut definitions = Vec::new();
    for source in sources {
        let Some(mut node) = json::read(source.text, source.root, report) else { continue };
        each(&mut node, "/", report, &mut |kind, id, node, report| {
            definitions.extend(definition(kind, id, node, &options, report));
        });
    }
    report_twice(&definitions, report);
    endpoints::of(&definitions, &options, purpose, report)
}

/// The same definitions in the present form of the API, with everything else as it was.
pub(super) fn to_present_form(
    text: &str,
    settings: &Settings,
    report: &mut Report,
) -> Option<String> {
    let options = Options::new(settings, report);
    let mut node = json::read(text, PlaceId::ROOT, report)?;
    each(&mut node, "/", report, &mut |kind, id, node, report| {
        definition(kind, id, node, &options, report);
    });
    Some(node.to_json())
}

/// Brings a definition to its present form, checks it and reads it. `None`: it has an error.
fn definition(
    kind: Kind,
    id: &str,
    node: &mut Node,
    options: &Options,
    report: &mut Report,
) -> Option<Definition> {
    let before = report.error_count();
    match kind {
        Kind::Pod => {
            let pod = Pod::read(id, node, options, report)?;
            pod.validate(options, report);
            (report.error_count() == before).then_some(Definition::Pod(pod))
        }
        Kind::App => {
            old::validate(node, report);
            if report.error_count() > before {
                return None;
            }
            let was_canonical = node.get("networks").is_some();
            let as_written = App::read(id, node, report);
            if let Some(app) = as_written.filter(|_| was_canonical) {
                validate::ports_fit_the_mode(&app, report);
                if report.error_count() > before {
                    // What else is wrong with it is said as well.
                    validate::app(&app, node, options, report);
                }
            }
            if report.error_count() > before {
                return None;
            }
            migrate::migrate(node, options, report);
            let app = App::read(id, node, report)?;
            validate::app(&app, node, options, report);
            if report.error_count() > before {
                return None;
            }
            migrate::finish(node, options);
            App::read(id, node, report).map(Definition::App)
        }
    }
}

/// What a definition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    App,
    Pod,
}

/// What is done with each definition: its kind, its absolute id, and itself.
type Visit<'v> = dyn FnMut(Kind, &str, &mut Node, &mut Report) + 'v;

/// Visits every app and pod of a document. `base` is the id of the group that it is in.
fn each(node: &mut Node, base: &str, report: &mut Report, visit: &mut Visit<'_>) {
    if let Value::List(items) = &mut node.value {
        for item in items {
            each(item, base, report, visit);
        }
        return;
    }
    if node.map(report).is_none() {
        return;
    }
    let is_group = ["apps", "pods", "groups"].iter().any(|key| node.get(key).is_some());
    if !is_group {
        let kind = if node.get("containers").is_some() { Kind::Pod } else { Kind::App };
        one(kind, node, base, report, visit);
        return;
    }
    node.warn_unknown(&GROUP, report);
    let own = node.text_at("id", report).unwrap_or("/").to_owned();
    let base = absolute(base, &own);
    for (key, kind) in [("apps", Kind::App), ("pods", Kind::Pod)] {
        if let Some(list) = node.get_mut(key) {
            members(list, report, |node, report| one(kind, node, &base, report, visit));
        }
    }
    if let Some(list) = node.get_mut("groups") {
        members(list, report, |node, report| each(node, &base, report, visit));
    }
}

fn members(list: &mut Node, report: &mut Report, mut visit: impl FnMut(&mut Node, &mut Report)) {
    if matches!(list.value, Value::Null) || list.list(report).is_none() {
        return;
    }
    let Value::List(items) = &mut list.value else { return };
    items.iter_mut().for_each(|item| visit(item, report));
}

fn one(kind: Kind, node: &mut Node, base: &str, report: &mut Report, visit: &mut Visit<'_>) {
    if node.map(report).is_none() {
        return;
    }
    let Some(id) = node.get("id") else {
        report.error(node.at, "id is missing");
        return;
    };
    let Some(text) = id.text(report).map(str::to_owned) else { return };
    if let Err(message) = check_id(&text) {
        report.error(id.at, message);
        return;
    }
    visit(kind, &absolute(base, &text), node, report);
}

/// Checks the segments of an id.
fn check_id(id: &str) -> Result<(), String> {
    let segments = id.strip_prefix('/').unwrap_or(id).trim_end_matches('/');
    if segments.is_empty() {
        return Err("must not be root".to_owned());
    }
    if segments.split('/').all(|segment| segment == "." || segment == ".." || is_label(segment)) {
        return Ok(());
    }
    Err("must fully match regular expression '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*\
         ([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])|(\\.|\\.\\.)$'"
        .to_owned())
}

/// Dotted labels of lower-case letters, digits and inner hyphens.
fn is_label(segment: &str) -> bool {
    segment.split('.').all(|part| is_dns_label(part, &['-']))
}

/// Lower-case letters and digits, with these characters inside.
fn is_dns_label(text: &str, inner: &[char]) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || inner.contains(&c))
}

/// An id from the root.
fn absolute(base: &str, id: &str) -> String {
    let joined = if id.starts_with('/') { id.to_owned() } else { format!("{base}/{id}") };
    let mut segments: Vec<&str> = Vec::new();
    for segment in joined.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

impl Definition {
    fn id(&self) -> (&str, PlaceId) {
        match self {
            Definition::App(app) => (&app.id, app.id_at),
            Definition::Pod(pod) => (&pod.id, pod.id_at),
        }
    }
}

fn report_twice(definitions: &[Definition], report: &mut Report) {
    let mut seen = std::collections::HashMap::new();
    for definition in definitions {
        let (id, at) = definition.id();
        if let Some(&other) = seen.get(id) {
            let message = format!("An app with id [{id}] already exists.");
            report.error(at, message).related(other, "it is here");
        } else {
            seen.insert(id, at);
        }
    }
}
