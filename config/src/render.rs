//! Findings as a person reads them: message, place, the line with the text underlined, what to do.
//!
//! The look is that of Rust's compiler, by its own library. A finding holds a window of its line
//! and not the file, so it can be shown when the file is long gone; what lies outside the window is
//! not shown. Colours are the caller's choice, who knows whether a terminal reads.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Excerpt, Related, Severity};

/// Widest line that is shown, in columns: a window and its margin always fit.
const COLUMN_COUNT_MAX: usize = 400;

/// All findings, one paragraph each, with a count at the end. Empty when there are none.
pub fn render(diagnostics: &[Diagnostic], coloured: bool) -> String {
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(COLUMN_COUNT_MAX);
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&paragraph(diagnostic, &renderer));
        text.push_str("\n\n");
    }
    let count = |severity| diagnostics.iter().filter(|one| one.severity == severity).count();
    let counts = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if !counts.is_empty() {
        text.push_str(&counts.join(", "));
        text.push('\n');
    }
    text
}

/// One finding without colours.
pub(crate) fn plain(diagnostic: &Diagnostic) -> String {
    paragraph(diagnostic, &Renderer::plain().term_width(COLUMN_COUNT_MAX))
}

fn paragraph(diagnostic: &Diagnostic, renderer: &Renderer) -> String {
    let Diagnostic { file, line, column, path, message, excerpt, .. } = diagnostic;
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let subject = if *line == 0 { file } else { path };
    let title = match subject.as_str() {
        "" => message.clone(),
        subject => format!("{subject}: {message}"),
    };
    let mut group = Group::with_title(level.primary_title(title));
    // What is in the same line is underlined in the same excerpt.
    let is_beside = |other: &&Related| {
        let last = other.excerpt.span_in_window().end;
        (other.line, &other.file) == (*line, file)
            && other.excerpt.starts_line
            && excerpt.starts_line
            && last <= excerpt.window.len()
    };
    let (beside, elsewhere): (Vec<&Related>, Vec<&Related>) =
        diagnostic.related.iter().partition(is_beside);
    if *line > 0 {
        group =
            show(group, file, (*line, *column), excerpt, AnnotationKind::Primary, None, &beside);
    }
    for Related { file, label, line, column, excerpt } in elsewhere {
        let (place, kind) = ((*line, *column), AnnotationKind::Context);
        group = show(group, file, place, excerpt, kind, Some(label), &[]);
    }
    if let Some(hint) = &diagnostic.hint {
        group = group.element(Level::HELP.message(hint));
    }
    renderer.render(&[group])
}

/// Adds a place to what is shown.
fn show<'a>(
    group: Group<'a>,
    file: &'a str,
    (line, column): (u32, u32),
    excerpt: &'a Excerpt,
    kind: AnnotationKind,
    label: Option<&'a str>,
    beside: &[&'a Related],
) -> Group<'a> {
    if !excerpt.starts_line {
        // The library counts columns itself, from the beginning of what it is given.
        let origin = Origin::path(file).line(line as usize).char_column(column as usize);
        let text = format!(
            "{}{}",
            label.map_or_else(String::new, |label| format!("{label}: ")),
            excerpt.text
        );
        return group.element(origin).element(Level::NOTE.message(text));
    }
    let annotation = kind.span(excerpt.span_in_window()).label(label);
    let snippet = Snippet::source(&excerpt.window).line_start(line as usize).path(file);
    let beside = beside.iter().map(|other| {
        AnnotationKind::Context.span(other.excerpt.span_in_window()).label(&other.label)
    });
    group.element(snippet.annotation(annotation).annotations(beside))
}
