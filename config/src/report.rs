//! Collects what is wrong, with its place, while a config is read and checked.
//!
//! Every key and every element of the file gets a [`PlaceId`] when it is read; whoever finds fault
//! later names the place and goes on. Nothing stops at the first error. A place knows the one that
//! it lies in, so paths are put together only for those few that are reported.

use std::ops::Range;

use crate::diagnostic::{Diagnostic, Severity};

/// A place in the file, see [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlaceId(pub(crate) u32);

impl PlaceId {
    /// The whole file.
    pub(crate) const ROOT: PlaceId = PlaceId(0);
}

/// How a place is reached from the one that it lies in.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The file itself.
    Root,
    /// A key of a table.
    Key(String),
    /// An element of a list.
    Index(usize),
}

#[derive(Debug)]
struct Place {
    parent: PlaceId,
    step: Step,
    span: Range<usize>,
}

#[derive(Debug)]
pub(crate) struct Problem {
    at: PlaceId,
    span: Range<usize>,
    severity: Severity,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// Adds what to do about it.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// Places and problems of one file.
#[derive(Debug)]
pub(crate) struct Report {
    file: String,
    text: String,
    line_starts: Vec<usize>,
    places: Vec<Place>,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(file: &str, text: &str) -> Report {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(offset, _)| offset + 1))
            .collect();
        let root = Place { parent: PlaceId::ROOT, step: Step::Root, span: 0..0 };
        Report {
            file: file.to_owned(),
            text: text.to_owned(),
            line_starts,
            places: vec![root],
            problems: Vec::new(),
        }
    }

    /// Notes a place, by its bytes in the text.
    pub(crate) fn place(&mut self, parent: PlaceId, step: Step, span: Range<usize>) -> PlaceId {
        let id = u32::try_from(self.places.len()).expect("a file of 4 GiB is refused before");
        self.places.push(Place { parent, step, span });
        PlaceId(id)
    }

    /// Reports an error at a place.
    pub(crate) fn error(&mut self, at: PlaceId, message: impl Into<String>) -> &mut Problem {
        let span = self.places[at.0 as usize].span.clone();
        self.push(at, span, Severity::Error, message.into())
    }

    /// Reports a warning at a place.
    pub(crate) fn warning(&mut self, at: PlaceId, message: impl Into<String>) -> &mut Problem {
        let span = self.places[at.0 as usize].span.clone();
        self.push(at, span, Severity::Warning, message.into())
    }

    /// Reports an error in text that could not be read, by its bytes.
    pub(crate) fn syntax_error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.push(PlaceId::ROOT, span, Severity::Error, message.into());
    }

    fn push(
        &mut self,
        at: PlaceId,
        span: Range<usize>,
        severity: Severity,
        message: String,
    ) -> &mut Problem {
        self.problems.push(Problem { at, span, severity, message, hint: None });
        self.problems.last_mut().expect("one was pushed just now")
    }

    /// True if anything reported so far refuses the config.
    pub(crate) fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The line of a place, from 1: for messages that point at another place.
    pub(crate) fn line(&self, at: PlaceId) -> usize {
        self.position(self.places[at.0 as usize].span.start).0
    }

    /// The keys that lead to a place.
    pub(crate) fn path(&self, at: PlaceId) -> String {
        let place = &self.places[at.0 as usize];
        match &place.step {
            Step::Root => String::new(),
            Step::Index(index) => format!("{}[{index}]", self.path(place.parent)),
            Step::Key(key) => {
                let parent = self.path(place.parent);
                let dot = if parent.is_empty() { "" } else { "." };
                format!("{parent}{dot}{}", quoted_if_needed(key))
            }
        }
    }

    /// Line and column, both from 1, of a byte.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line_index = self.line_starts.partition_point(|&start| start <= offset) - 1;
        let start = self.line_starts[line_index];
        let before = self.text.get(start..offset).unwrap_or_default();
        (line_index + 1, before.chars().count() + 1)
    }

    fn source_line(&self, line: usize) -> &str {
        let from = self.line_starts[line - 1];
        let to = self.line_starts.get(line).map_or(self.text.len(), |&next| next - 1);
        self.text[from..to].trim_end_matches('\r')
    }

    /// Everything that was reported, in the order of the file.
    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| problem.span.start);
        problems.into_iter().map(|problem| self.diagnostic(problem)).collect()
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        let (line, column) = self.position(problem.span.start);
        let excerpt = self.text.get(problem.span.clone()).unwrap_or_default();
        Diagnostic {
            file: self.file.clone(),
            line: line as u32,
            column: column as u32,
            path: self.path(problem.at),
            severity: problem.severity,
            message: problem.message,
            hint: problem.hint,
            excerpt: excerpt.lines().next().unwrap_or_default().to_owned(),
            source_line: self.source_line(line).to_owned(),
        }
    }
}

/// A key as it would have to be written in TOML.
fn quoted_if_needed(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_in_the_order_of_the_file_with_path_and_position() {
        let mut report = Report::new("x.toml", "a = 1\r\nü = [ 2 ]\n");
        let a = report.place(PlaceId::ROOT, Step::Key("a".into()), 4..5);
        let list = report.place(PlaceId::ROOT, Step::Key("ü".into()), 12..17);
        let element = report.place(list, Step::Index(0), 14..15);
        report.error(element, "bad").hint("better");
        report.warning(a, "odd");
        assert!(report.has_errors());
        let found = report.into_diagnostics();
        assert_eq!(found[0].to_string(), "x.toml:1:5: warning: a: odd");
        assert_eq!(found[0].source_line, "a = 1");
        assert_eq!(found[1].to_string(), "x.toml:2:7: \"ü\"[0]: bad");
        assert_eq!(found[1].excerpt, "2");
    }

    #[test]
    fn a_place_at_the_end_of_the_text_has_a_line() {
        let mut report = Report::new("x.toml", "a = ");
        report.syntax_error(4..4, "no value");
        assert_eq!(report.into_diagnostics()[0].to_string(), "x.toml:1:5: no value");
    }
}
