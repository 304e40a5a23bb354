//! What is wrong with a config, and where.
//!
//! A [`Diagnostic`] is complete in itself: it holds the place in words and numbers, the offending
//! text and its line, so that it can be printed, sent as JSON or compared in a test long after the
//! file is gone. It says nothing about how a tool should colour or group it.

use std::fmt;

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
/// `{}` prints one line, `file:line:column: path: message`; `{:#}` adds the source line, carets
/// under the offending text, and the hint.
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
    /// The offending text, cut at the end of its first line.
    pub excerpt: String,
    /// The whole line that it stands in.
    pub source_line: String,
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
            excerpt: String::new(),
            source_line: String::new(),
        }
    }

    /// The source line with carets under the excerpt, in the manner of compilers.
    fn fmt_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are kept, so that the carets stand below the text however wide a tab is shown.
        let indent: String = self
            .source_line
            .chars()
            .take(self.column as usize - 1)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(self.excerpt.chars().count().max(1));
        write!(f, "\n {margin} |\n {number} | {}\n {margin} | {indent}{carets}", self.source_line)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        f.write_str(&self.message)?;
        if f.alternate() {
            if self.line > 0 {
                self.fmt_source(f)?;
            }
            if let Some(hint) = &self.hint {
                write!(f, "\n   = hint: {hint}")?;
            }
        }
        Ok(())
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
            excerpt: "\"10.1.1.5\"".into(),
            source_line: "ip = \"10.1.1.5\"".into(),
        };
        let line = "x.toml:12:6: endpoint.web.network[0].ip: \
                    10.1.1.5 is outside of network front's subnets (10.1.0.0/24)";
        assert_eq!(diagnostic.to_string(), line);
        let long = "\n    |\n 12 | ip = \"10.1.1.5\"\n    |      ^^^^^^^^^^\n   \
                    = hint: leave ip away to have one allocated";
        assert_eq!(format!("{diagnostic:#}"), format!("{line}{long}"));
    }

    #[test]
    fn a_finding_about_a_file_has_no_line() {
        let diagnostic = Diagnostic::of_file("x.toml", "no such file".into());
        assert_eq!(format!("{diagnostic:#}"), "x.toml: no such file");
    }
}
