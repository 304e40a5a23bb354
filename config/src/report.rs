//! Collects what is wrong, with its place, while a config is read and checked.
//!
//! Every key and every element of the file gets a [`PlaceId`] when it is read; whoever finds fault
//! later names the place and goes on. Nothing stops at the first error. A place knows the one that
//! it lies in, so paths are put together only for those few that are reported.

use std::cell::OnceCell;
use std::ops::Range;

use crate::damage::Damage;
use crate::diagnostic::{Diagnostic, Excerpt, Related, Severity};

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
    /// Index of the file that it is in.
    source: u32,
}

/// One file.
#[derive(Debug)]
struct Source {
    file: String,
    text: String,
    line_starts: Vec<usize>,
    /// Characters before every so many bytes, once somebody asks for a column.
    counts: OnceCell<Vec<usize>>,
}

/// How many bytes apart characters are counted beforehand. A file may be one line of 64 MiB with an
/// error at each of its values, so columns are not counted from the line's beginning.
const COUNTED_BYTES: usize = 1_024;

impl Source {
    fn new(file: &str, text: &str) -> Source {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(offset, _)| offset + 1))
            .collect();
        let counts = OnceCell::new();
        Source { file: file.to_owned(), text: text.to_owned(), line_starts, counts }
    }

    /// The line of a byte, from 1.
    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// The column of a byte in a line that begins at `start`, from 1.
    fn column(&self, start: usize, offset: usize) -> usize {
        self.characters_before(offset) - self.characters_before(start) + 1
    }

    fn characters_before(&self, offset: usize) -> usize {
        let boundary = |index: usize| self.text.floor_char_boundary(index * COUNTED_BYTES);
        let count = |from: usize, to: usize| self.text[from..to].chars().count();
        let counts = self.counts.get_or_init(|| {
            let mut counts = vec![0];
            for index in 1..=self.text.len() / COUNTED_BYTES {
                counts.push(counts[index - 1] + count(boundary(index - 1), boundary(index)));
            }
            counts
        });
        let offset = self.text.floor_char_boundary(offset);
        let index = offset / COUNTED_BYTES;
        counts[index] + count(boundary(index), offset)
    }
}

#[derive(Debug)]
pub(crate) struct Problem {
    at: PlaceId,
    span: Range<usize>,
    severity: Severity,
    message: String,
    hint: Option<String>,
    related: Vec<(PlaceId, String)>,
}

impl Problem {
    /// Adds what to do about it.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }

    /// Shows another place beside it, with a few words about what is there.
    pub(crate) fn related(&mut self, at: PlaceId, label: impl Into<String>) -> &mut Problem {
        self.related.push((at, label.into()));
        self
    }
}

/// Places and problems of a file, and of those that it imports.
#[derive(Debug)]
pub(crate) struct Report {
    sources: Vec<Source>,
    places: Vec<Place>,
    problems: Vec<Problem>,
    damage: Damage,
}

impl Report {
    pub(crate) fn new(file: &str, text: &str) -> Report {
        let mut report = Report {
            sources: Vec::new(),
            places: Vec::new(),
            problems: Vec::new(),
            damage: Damage::default(),
        };
        report.add_source(file, text);
        report
    }

    /// Another file, which this one imports; the place is all of it.
    pub(crate) fn add_source(&mut self, file: &str, text: &str) -> PlaceId {
        let source = u32::try_from(self.sources.len()).expect("imports are bounded");
        self.sources.push(Source::new(file, text));
        let id = self.next_place();
        self.places.push(Place { parent: id, step: Step::Root, span: 0..0, source });
        id
    }

    fn next_place(&self) -> PlaceId {
        PlaceId(u32::try_from(self.places.len()).expect("a file of 4 GiB is refused before"))
    }

    fn source(&self, at: PlaceId) -> &Source {
        &self.sources[self.places[at.0 as usize].source as usize]
    }

    /// Notes where the text is no TOML.
    pub(crate) fn find_damage(&mut self, errors: impl Iterator<Item = Range<usize>>) {
        self.damage = Damage::new(&self.sources[0].text, errors);
    }

    /// True if the value at these bytes is no TOML, which has been reported.
    pub(crate) fn is_spoilt(&mut self, value: &Range<usize>) -> bool {
        self.damage.spoils(&self.sources[0].text, value)
    }

    /// True if nothing of the text is lost but such values.
    pub(crate) fn is_whole(&self) -> bool {
        self.damage.is_contained()
    }

    /// Forgets what is wrong with keys outside of all tables: without its header, a table's own
    /// keys show there.
    pub(crate) fn forget_top_level(&mut self) {
        let places = &self.places;
        let is_top = |at: PlaceId| places[at.0 as usize].parent == PlaceId::ROOT;
        self.problems.retain(|problem| problem.at == PlaceId::ROOT || !is_top(problem.at));
    }

    /// Notes a place, by its bytes in the text.
    pub(crate) fn place(&mut self, parent: PlaceId, step: Step, span: Range<usize>) -> PlaceId {
        let id = self.next_place();
        let source = self.places[parent.0 as usize].source;
        self.places.push(Place { parent, step, span, source });
        id
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

    /// Reports a warning at a part of a place, such as a key beside its value.
    pub(crate) fn warning_in(
        &mut self,
        at: PlaceId,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(at, span, Severity::Warning, message.into())
    }

    /// Reports an error at a part of a place.
    pub(crate) fn error_in(
        &mut self,
        at: PlaceId,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(at, span, Severity::Error, message.into())
    }

    /// Reports an error in text that could not be read, by its bytes.
    pub(crate) fn syntax_error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(PlaceId::ROOT, span, Severity::Error, message.into())
    }

    /// How many errors were reported so far.
    pub(crate) fn error_count(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    fn push(
        &mut self,
        at: PlaceId,
        span: Range<usize>,
        severity: Severity,
        message: String,
    ) -> &mut Problem {
        self.problems.push(Problem {
            at,
            span,
            severity,
            message,
            hint: None,
            related: Vec::new(),
        });
        self.problems.last_mut().expect("one was pushed just now")
    }

    /// True if anything reported so far refuses the config.
    pub(crate) fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The line of a place, from 1, and its file if that is an imported one: for messages that
    /// point at another place.
    pub(crate) fn line(&self, at: PlaceId) -> String {
        let (place, source) = (&self.places[at.0 as usize], self.source(at));
        let line = source.line_of(place.span.start);
        match place.source {
            0 => line.to_string(),
            _ => format!("{line} of {}", source.file),
        }
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

    /// Line and column, both from 1, of a byte, and the text there.
    ///
    fn locate(source: &Source, span: &Range<usize>) -> (u32, u32, Excerpt) {
        let line = source.line_of(span.start);
        let start = source.line_starts[line - 1];
        let end = source.line_starts.get(line).map_or(source.text.len(), |&next| next - 1);
        let window = window(&source.text[start..end], span.start - start);
        let (from, to) = (start + window.start, start + window.end);
        let text = source.text.get(span.start..span.end.clamp(span.start, to.max(span.start)));
        let text = text.unwrap_or_default().trim_end_matches('\r');
        let shown = source.text[from..to].trim_end_matches('\r');
        let excerpt = Excerpt {
            text: text.to_owned(),
            window: shown.to_owned(),
            starts_line: window.start == 0,
            // The end of the line may be what is meant.
            offset_bytes: (span.start - from).min(shown.len()),
        };
        (line as u32, source.column(start, span.start) as u32, excerpt)
    }

    /// Everything that was reported, in the order of the file.
    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        let mut problems = std::mem::take(&mut self.problems);
        let source = |problem: &Problem| self.places[problem.at.0 as usize].source;
        problems.sort_by_key(|problem| (source(problem), problem.span.start));
        problems.into_iter().map(|problem| self.diagnostic(problem)).collect()
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        let source = self.source(problem.at);
        let (line, column, excerpt) = Report::locate(source, &problem.span);
        let related = problem.related.into_iter().map(|(at, label)| {
            let (span, source) = (&self.places[at.0 as usize].span, self.source(at));
            let (line, column, excerpt) = Report::locate(source, span);
            Related { file: source.file.clone(), label, line, column, excerpt }
        });
        Diagnostic {
            file: source.file.clone(),
            line,
            column,
            path: self.path(problem.at),
            severity: problem.severity,
            message: problem.message,
            hint: problem.hint,
            excerpt,
            related: related.collect(),
        }
    }
}

/// How far in a line, in bytes, a place may be that is shown with its line from the beginning.
/// Longer lines are written by programs, and nobody looks for the place by eye.
const LINE_BYTES_MAX: usize = 1_000;

/// Bytes of a line that are kept after the beginning of the text that is meant.
const TEXT_BYTES_MAX: usize = 160;

/// The part of a line that is shown for one of its bytes.
fn window(line: &str, offset: usize) -> Range<usize> {
    let offset = offset.min(line.len());
    let from = if offset <= LINE_BYTES_MAX { 0 } else { offset };
    let mut to = (offset + TEXT_BYTES_MAX).min(line.len());
    while !line.is_char_boundary(to) {
        to += 1;
    }
    from..to
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
        assert_eq!(found[0].excerpt.window, "a = 1");
        assert_eq!(found[1].to_string(), "x.toml:2:7: \"ü\"[0]: bad");
        assert_eq!(found[1].excerpt.text, "2");
    }

    #[test]
    fn a_place_far_in_a_line_is_shown_without_what_stands_before() {
        let text = format!("a = [{}7]", "\"ü\", ".repeat(100_000));
        let mut report = Report::new("x.toml", &text);
        let last = text.len() - 2;
        report.syntax_error(last - 6..last - 2, "odd");
        report.syntax_error(last..last + 1, "bad");
        let found = report.into_diagnostics();
        assert_eq!(found[0].column, 5 + 500_000 - 4);
        assert_eq!(found[1].column, 5 + 500_000 + 1);
        assert_eq!(format!("{:#}", found[1]), "error: bad\n--> x.toml:1:500006\n = note: 7");
    }

    #[test]
    fn another_place_is_shown_beside() {
        let mut report = Report::new("x.toml", "a = 1\nb = 1\n");
        let a = report.place(PlaceId::ROOT, Step::Key("a".into()), 4..5);
        let b = report.place(PlaceId::ROOT, Step::Key("b".into()), 10..11);
        report.error(b, "1 again").related(a, "it is here already").hint("take 2");
        assert_eq!(
            format!("{:#}", report.into_diagnostics()[0]),
            "error: b: 1 again\n --> x.toml:2:5\n  |\n2 | b = 1\n  |     ^\n  |\n \
             ::: x.toml:1:5\n  |\n\
             1 | a = 1\n  |     - it is here already\n  |\n  = help: take 2"
        );
    }

    #[test]
    fn the_end_of_a_line_can_be_meant() {
        let mut report = Report::new("x.toml", "a\r\r\n");
        report.syntax_error(2..3, "odd");
        let found = report.into_diagnostics();
        assert_eq!((found[0].column, found[0].excerpt.offset_bytes), (3, 1));
        assert!(format!("{:#}", found[0]).contains("1 | a\n"));
    }

    #[test]
    fn a_place_at_the_end_of_the_text_has_a_line() {
        let mut report = Report::new("x.toml", "a = ");
        report.syntax_error(4..4, "no value");
        assert_eq!(report.into_diagnostics()[0].to_string(), "x.toml:1:5: no value");
    }
}
