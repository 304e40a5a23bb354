//! What can be believed of a file that is not quite TOML.
//!
//! The parser goes on after an error and returns what it made of the rest. Where the error lies in
//! a value of one line, its key is known and only the value is not: it is taken for one of a wrong
//! type, which has been reported, and all rules are checked as ever. Where it does not (a key
//! without `=`, a header without `]`, a list without an end), keys or whole tables may be lost, and
//! a rule about what is missing, or about two things together, would accuse the innocent: only what
//! is wrong in itself is reported then. The parser itself gives up much of the text behind such a
//! line, so it reads a second time without it. The one hard constraint: nothing is reported that is
//! right once the syntax is.

use std::ops::Range;

/// Where the text is no TOML.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// By byte.
    broken: Vec<Broken>,
}

#[derive(Debug)]
struct Broken {
    at: usize,
    /// The bytes of its line.
    line: Range<usize>,
    /// It lies in a value that was left out for it, and that holds nothing else.
    is_left_out: bool,
}

impl Damage {
    /// Of the parser's errors. A key or header that is there twice damages nothing: the first
    /// counts.
    pub(crate) fn new(text: &str, errors: impl Iterator<Item = Range<usize>>) -> Damage {
        let errors = errors.filter(|error| !is_repeated_key(text, error));
        let broken = errors.map(|error| Broken {
            at: error.start,
            line: line_at(text, error.start),
            is_left_out: false,
        });
        let mut broken: Vec<Broken> = broken.collect();
        broken.sort_by_key(|broken| broken.at);
        Damage { broken }
    }

    /// True if the value at these bytes is not what its author wrote; it is to be left out then.
    pub(crate) fn spoils(&mut self, text: &str, value: &Range<usize>) -> bool {
        let from = self.broken.partition_point(|broken| broken.at < value.start);
        let to = self.broken.partition_point(|broken| broken.at <= value.end);
        if from == to {
            return false;
        }
        let rest = text.get(value.end..).unwrap_or_default().trim_start_matches([' ', '\t', '\r']);
        let is_last = rest.is_empty() || rest.starts_with(['\n', '#', ',', ']', '}']);
        for broken in &mut self.broken[from..to] {
            let is_one_line = broken.line.start <= value.start && value.end <= broken.line.end;
            // A line that goes on behind its value has a key that was lost.
            broken.is_left_out = is_one_line && is_last;
        }
        true
    }

    /// True if nothing is lost but values that were left out.
    pub(crate) fn is_contained(&self) -> bool {
        self.broken.iter().all(|broken| broken.is_left_out)
    }
}

/// The bytes of the line that a byte is in, without its end.
fn line_at(text: &str, at: usize) -> Range<usize> {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let end =
        text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| at + length);
    start..end
}

/// The text with blanks in place of keys that have no value and of headers with no end, the latter
/// with all that stands under them: so that the rest can be read, at the same bytes. `None`: there
/// are none.
pub(crate) fn without_lost_lines(
    text: &str,
    errors: impl Iterator<Item = Range<usize>>,
) -> Option<String> {
    let mut lost = Vec::new();
    for error in errors.filter(|error| !is_repeated_key(text, error)) {
        let line = line_at(text, error.start);
        let (Some(whole), Some(before)) =
            (text.get(line.clone()), text.get(line.start..error.start))
        else {
            continue;
        };
        let is_header = whole.contains(['[', ']']) && !whole.contains(['=', ',']);
        // One that stands behind a value: its table's keys would be taken for those before it.
        let is_behind = text[error.start..line.end].trim_start().starts_with('[');
        if is_header || is_behind {
            let next = text[line.end..].find("\n[").map_or(text.len(), |length| line.end + length);
            lost.push(line.start..next);
        } else if !before.contains(['=', '[', '{', ',', '"', '\'']) {
            lost.push(line);
        }
    }
    if lost.is_empty() {
        return None;
    }
    let mut bytes = text.as_bytes().to_vec();
    for range in lost {
        bytes[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    // Whole lines were blanked, so no character was cut.
    String::from_utf8(bytes).ok()
}

/// True for an error at a whole key, before its `=`, `.` or `]`: the parser says so of keys that
/// are there already.
fn is_repeated_key(text: &str, error: &Range<usize>) -> bool {
    let Some((key, rest)) = text.get(error.clone()).zip(text.get(error.end..)) else {
        return false;
    };
    let is_bare = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let is_key = !key.is_empty() && (is_bare(key) || key.starts_with(['"', '\'']));
    let before = text[..error.start].trim_end_matches([' ', '\t']);
    let is_first = before.is_empty() || before.ends_with(['\n', '[', '.', '{', ',']);
    is_key && is_first && rest.trim_start_matches([' ', '\t']).starts_with(['=', '.', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    fn damage(text: &str) -> Damage {
        let errors = DeTable::parse_recoverable(text).1;
        assert!(!errors.is_empty(), "{text:?} is TOML");
        Damage::new(text, errors.iter().map(|error| error.span().unwrap_or_default()))
    }

    #[test]
    fn an_error_in_a_value_spoils_that_value_and_no_other() {
        for text in ["a = \nb = 1\n", "a = 10.1.0.0/24\nb = 1\n", "a = \"x\nb = 1\n"] {
            let mut damage = damage(text);
            let table = DeTable::parse_recoverable(text).0;
            let spoilt: Vec<bool> =
                ["a", "b"].map(|key| damage.spoils(text, &table.get_ref()[key].span())).into();
            assert_eq!((spoilt, damage.is_contained()), (vec![true, false], true), "{text:?}");
        }
    }

    #[test]
    fn a_value_that_goes_on_in_other_lines_may_have_swallowed_their_keys() {
        for text in ["a = [1, 2\nb = 3\n", "a = { x = \"y }\nb = 3\n", "a = '''x\nb = 3\n"] {
            let mut damage = damage(text);
            let table = DeTable::parse_recoverable(text).0;
            assert!(damage.spoils(text, &table.get_ref()["a"].span()), "{text:?}");
            assert!(!damage.is_contained(), "{text:?}");
        }
    }

    #[test]
    fn a_lost_key_or_header_is_not_contained() {
        for text in ["a 1\nb = 1\n", "[a\nx = 1\n", "[a b]\nx = 1\n", "a]\nx = 1\n", "a = 1b = 2\n"]
        {
            assert!(!damage(text).is_contained(), "{text:?}");
        }
    }

    #[test]
    fn lost_lines_are_blanked_and_all_else_stays_where_it_is() {
        let blanked = |text: &str| {
            let errors = DeTable::parse_recoverable(text).1;
            without_lost_lines(text, errors.iter().map(|error| error.span().unwrap_or_default()))
        };
        assert_eq!(blanked("a = 1\nb 2\nc = 3\n").unwrap(), "a = 1\n   \nc = 3\n");
        assert_eq!(blanked("[é\nx = 1\n[b]\ny = 2\n").unwrap(), "   \n     \n[b]\ny = 2\n");
        for text in ["a = \n", "a = [1\n", "a = 1\na = 2\n"] {
            assert_eq!(blanked(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_there_twice_damages_nothing() {
        for text in
            ["a = 1\na = 2\n", "[a]\n[a]\n", "\"a\" = 1\n\"a\"\t= 2\n", "a.b = 1\na.b = 2\n"]
        {
            assert!(damage(text).is_contained(), "{text:?}");
        }
    }
}
