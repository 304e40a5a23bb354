//! What is wrong with a config, and where.
//!
//! A [`Diagnostic`] is complete in itself: it holds the place in words and numbers, the offending
//! text and its line, so that it can be printed, sent as JSON or compared in a test long after the
//! file is gone. It says nothing about how a tool should colour or group it.

use std::fmt;
use std::ops::Range;

use crate::render;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The config is refused.
    Error,
    /// The config is taken, but probably not meant so.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One finding about a config.
///
/// `{}` prints one line, `file:line:column: path: message`; `{:#}` is a paragraph with the source
/// line, the offending text underlined, and the hint. Several at once: [`crate::render`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as it was named by the caller.
    pub file: String,
    /// Line, from 1; 0 when the finding is about the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0 with line 0.
    pub column: u32,
    /// The key, such as `endpoint.web.network[0].ip`; empty when no key is meant.
    pub path: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The offending text in its line.
    pub excerpt: Excerpt,
    /// Other places that have to do with it, such as who has an address already.
    pub related: Vec<Related>,
}

/// A piece of a line of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The text that is meant, cut at the end of its line and of the window.
    pub text: String,
    /// The line around it: the whole line, or a window where the line is long.
    pub window: String,
    /// True: the window begins where the line begins.
    pub starts_line: bool,
    /// Where in the window the text begins, in bytes.
    pub offset_bytes: usize,
}

impl Excerpt {
    /// The bytes of the window that are meant.
    pub(crate) fn span_in_window(&self) -> Range<usize> {
        self.offset_bytes..self.offset_bytes + self.text.len()
    }
}

/// Another place that has to do with a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// The file that it is in.
    pub file: String,
    /// What is there, in a few words.
    pub label: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What stands there.
    pub excerpt: Excerpt,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    pub(crate) fn of_file(file: &str, message: String) -> Diagnostic {
        Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            severity: Severity::Error,
            message,
            hint: None,
            excerpt: Excerpt::default(),
            related: Vec::new(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f.write_str(&render::plain(self));
        }
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_prints_on_one_line_or_with_its_source() {
        let diagnostic = Diagnostic {
            file: "x.toml".into(),
            line: 12,
            column: 6,
            path: "endpoint.web.network[0].ip".into(),
            severity: Severity::Error,
            message: "10.1.1.5 is outside of network front's subnets (10.1.0.0/24)".into(),
            hint: Some("leave ip away to have one allocated".into()),
            excerpt: Excerpt {
                text: "\"10.1.1.5\"".into(),
                window: "ip = \"10.1.1.5\"".into(),
                starts_line: true,
                offset_bytes: 5,
            },
            related: Vec::new(),
        };
        let text = "endpoint.web.network[0].ip: \
                    10.1.1.5 is outside of network front's subnets (10.1.0.0/24)";
        assert_eq!(diagnostic.to_string(), format!("x.toml:12:6: {text}"));
        let long = "\n  --> x.toml:12:6\n   |\n12 | ip = \"10.1.1.5\"\n   \
                    |      ^^^^^^^^^^\n   |\n   \
                    = help: leave ip away to have one allocated";
        assert_eq!(format!("{diagnostic:#}"), format!("error: {text}{long}"));
    }

    #[test]
    fn a_finding_about_a_file_has_no_line() {
        let diagnostic = Diagnostic::of_file("x.toml", "no such file".into());
        assert_eq!(format!("{diagnostic:#}"), "error: x.toml: no such file");
        assert_eq!(diagnostic.to_string(), "x.toml: no such file");
    }
}
