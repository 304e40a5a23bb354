//! Reads JSON into a tree with places, and goes on after most mistakes.
//!
//! A reader of our own, because no other says where a value stands. It is as strict as RFC 8259,
//! but what people do write by mistake (typographic quotes from a web page, a comma too many or too
//! few, comments) is reported and read as it was meant, so that one run shows all of it. The one
//! hard constraint: time and memory are proportional to the text, and nesting is bounded.

use std::ops::Range;

use super::tree::{DEPTH_MAX, Entry, Node, Value, report_duplicates};
use crate::report::{PlaceId, Report, Step};

/// Errors of syntax after which a file is given up: it is probably no JSON at all.
const ERROR_COUNT_MAX: usize = 100;

/// Characters within which a straight quote is looked for that ends a string: a look at the whole
/// line for each typographic one would cost the square of its length.
const NEAR_COUNT: usize = 200;

/// Quotation marks that word processors and web pages put in place of straight ones.
const TYPOGRAPHIC: [char; 10] = ['“', '”', '„', '‟', '‘', '’', '‚', '‛', '«', '»'];

/// Reads a text whose root is this place. `None`: no sense could be made of it, which has been
/// reported.
pub(crate) fn read(text: &str, root: PlaceId, report: &mut Report) -> Option<Node> {
    let mut reader = Reader { text, offset: 0, root, error_count: 0, report };
    if text.starts_with('\u{feff}') {
        reader.offset = '\u{feff}'.len_utf8();
    }
    reader.skip_blanks();
    if reader.offset == text.len() {
        reader.error(0..0, "there is no JSON in this file");
        return None;
    }
    let node = reader.value(Parent::Root, 0).ok()?;
    reader.skip_blanks();
    if reader.offset < text.len() {
        let rest = reader.offset..reader.offset + reader.character_len();
        reader.error(rest, "there is text after the end of the document");
    }
    Some(node)
}

/// The rest of the text is not read.
struct GivenUp;

/// Where a value stands.
enum Parent<'k> {
    Root,
    Key(PlaceId, &'k str),
    Index(PlaceId, usize),
}

struct Reader<'t, 'r> {
    text: &'t str,
    offset: usize,
    root: PlaceId,
    error_count: usize,
    report: &'r mut Report,
}

impl<'t> Reader<'t, '_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.error_count += 1;
        self.report.error_in(self.root, span, message);
    }

    fn error_with_hint(&mut self, span: Range<usize>, message: String, hint: &str) {
        self.error_count += 1;
        self.report.error_in(self.root, span, message).hint(hint);
    }

    fn peek(&self) -> Option<char> {
        self.text[self.offset..].chars().next()
    }

    fn character_len(&self) -> usize {
        self.peek().map_or(0, char::len_utf8)
    }

    /// Skips blanks, and comments, which are reported.
    fn skip_blanks(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            while bytes.get(self.offset).is_some_and(|byte| b" \t\r\n".contains(byte)) {
                self.offset += 1;
            }
            let rest = &self.text[self.offset..];
            let end = if rest.starts_with("//") || rest.starts_with('#') {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |end| end + 2)
            } else {
                return;
            };
            self.error(self.offset..self.offset + end, "JSON has no comments");
            self.offset += end;
        }
    }

    fn place(&mut self, parent: &Parent<'_>, span: Range<usize>) -> PlaceId {
        match *parent {
            Parent::Root => self.root,
            Parent::Key(at, key) => self.report.place(at, Step::Key(key.to_owned()), span),
            Parent::Index(at, index) => self.report.place(at, Step::Index(index), span),
        }
    }

    fn value(&mut self, parent: Parent<'_>, depth: usize) -> Result<Node, GivenUp> {
        if self.error_count >= ERROR_COUNT_MAX {
            self.error(self.offset..self.offset, "there are too many mistakes to go on");
            return Err(GivenUp);
        }
        let start = self.offset;
        let Some(first) = self.peek() else {
            self.error(start..start, "the text ends where a value is expected");
            return Err(GivenUp);
        };
        match first {
            '{' | '[' => {
                if depth == DEPTH_MAX {
                    let message = format!("nesting is deeper than {DEPTH_MAX}");
                    self.error(start..start + 1, message);
                    return Err(GivenUp);
                }
                // The end is not known yet: the opening bracket stands for all of it.
                let at = self.place(&parent, start..start + 1);
                self.offset += 1;
                let value = if first == '{' {
                    Value::Map(self.map(at, depth + 1)?)
                } else {
                    Value::List(self.list(at, depth + 1)?)
                };
                Ok(Node::new(at, value))
            }
            _ => {
                let value = self.scalar(first)?;
                let at = self.place(&parent, start..self.offset);
                Ok(Node::new(at, value))
            }
        }
    }

    fn scalar(&mut self, first: char) -> Result<Value, GivenUp> {
        match first {
            '"' | '\'' => self.string().map(Value::Text),
            quote if TYPOGRAPHIC.contains(&quote) => self.string().map(Value::Text),
            '-' | '+' | '.' | '0'..='9' => Ok(self.number()),
            _ => self.word(),
        }
    }

    /// true, false, null, or something that is none of them.
    fn word(&mut self) -> Result<Value, GivenUp> {
        let start = self.offset;
        let rest = &self.text[start..];
        let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = &rest[..len];
        self.offset += len;
        match word {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "null" => return Ok(Value::Null),
            "" => {
                let found = self.peek().expect("a value begins here");
                let span = start..start + found.len_utf8();
                self.error(span, format!("expected a value, found {found:?}"));
                return Err(GivenUp);
            }
            _ => {}
        }
        let (value, hint) = match word.to_ascii_lowercase().as_str() {
            "true" => (Value::Bool(true), "write true"),
            "false" => (Value::Bool(false), "write false"),
            "none" | "nil" | "null" => (Value::Null, "write null"),
            "nan" | "infinity" => (Value::Null, "JSON has no such number"),
            _ => (Value::Text(word.to_owned()), "text stands in double quotes"),
        };
        self.error_with_hint(start..self.offset, format!("{word} is no JSON value"), hint);
        Ok(value)
    }

    fn number(&mut self) -> Value {
        let start = self.offset;
        let rest = &self.text[start..];
        let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
        let len = rest.find(|c: char| !goes_on(c)).unwrap_or(rest.len());
        self.offset += len;
        let number = &rest[..len];
        if !is_number(number) {
            self.error(start..self.offset, format!("{number:?} is no number of JSON"));
            return Value::Null;
        }
        Value::Number(number.to_owned())
    }

    /// A string, whatever quotes it stands in.
    fn string(&mut self) -> Result<String, GivenUp> {
        let start = self.offset;
        let open = self.peek().expect("a quote begins here");
        self.offset += open.len_utf8();
        if open != '"' {
            self.report_quote(open, start..self.offset);
        }
        let mut value = String::new();
        loop {
            let rest = &self.text[self.offset..];
            let plain = |c: char| {
                !matches!(c, '"' | '\\' | '\'') && u32::from(c) >= 0x20 && !is_typographic(c)
            };
            let len = rest.find(|c: char| !plain(c)).unwrap_or(rest.len());
            value.push_str(&rest[..len]);
            self.offset += len;
            let at = self.offset;
            let Some(next) = self.peek() else {
                self.error(start..at, "the text ends within a string");
                return Err(GivenUp);
            };
            match next {
                '"' => {
                    self.offset += 1;
                    return Ok(value);
                }
                '\\' => self.escape(&mut value),
                '\n' | '\r' => {
                    self.error(start..at, "the string does not end in its line");
                    return Ok(value);
                }
                quote if closes(open, quote, &self.text[at + quote.len_utf8()..]) => {
                    self.offset += quote.len_utf8();
                    if quote != '\'' {
                        self.report_quote(quote, at..self.offset);
                    }
                    return Ok(value);
                }
                control if u32::from(control) < 0x20 => {
                    let message = format!("a control character, write \\u{:04x}", control as u32);
                    self.error(at..at + 1, message);
                    self.offset += 1;
                }
                other => {
                    value.push(other);
                    self.offset += other.len_utf8();
                }
            }
        }
    }

    fn report_quote(&mut self, quote: char, span: Range<usize>) {
        let kind = if quote == '\'' { "single" } else { "typographic" };
        let message = format!("{quote} is a {kind} quotation mark");
        self.error_with_hint(span, message, "JSON takes straight double quotes alone: \"");
    }

    fn escape(&mut self, value: &mut String) {
        let start = self.offset;
        let mut rest = self.text[start + 1..].chars();
        let escaped = rest.next();
        let plain = match escaped {
            Some(same @ ('"' | '\\' | '/')) => Some(same),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            _ => None,
        };
        if let Some(plain) = plain {
            value.push(plain);
            self.offset += 2;
            return;
        }
        if escaped == Some('u')
            && let Some((character, len)) = unicode_escape(&self.text[start..])
        {
            value.push(character);
            self.offset += len;
            return;
        }
        let end = start + 1 + escaped.map_or(0, char::len_utf8);
        self.error(start..end, format!("{:?} is no escape of JSON", &self.text[start..end]));
        self.offset = end;
    }

    fn list(&mut self, at: PlaceId, depth: usize) -> Result<Vec<Node>, GivenUp> {
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            if self.ends(']', items.is_empty())? {
                return Ok(items);
            }
            items.push(self.value(Parent::Index(at, items.len()), depth)?);
            self.comma(']')?;
        }
    }

    fn map(&mut self, at: PlaceId, depth: usize) -> Result<Vec<Entry>, GivenUp> {
        let mut entries = Vec::new();
        loop {
            self.skip_blanks();
            if self.ends('}', entries.is_empty())? {
                report_duplicates(&entries, self.report);
                return Ok(entries);
            }
            entries.push(self.entry(at, depth)?);
            self.comma('}')?;
        }
    }

    fn entry(&mut self, at: PlaceId, depth: usize) -> Result<Entry, GivenUp> {
        let start = self.offset;
        let first = self.peek().expect("the end was looked for before");
        let key = if first == '"' || first == '\'' || is_typographic(first) {
            self.string()?
        } else {
            let rest = &self.text[start..];
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
            let key = &rest[..len.unwrap_or(rest.len())];
            if key.is_empty() {
                let span = start..start + first.len_utf8();
                self.error(span, format!("expected a key, found {first:?}"));
                return Err(GivenUp);
            }
            self.offset += key.len();
            let message = format!("the key {key} stands in no quotes");
            self.error_with_hint(start..self.offset, message, "keys stand in double quotes");
            key.to_owned()
        };
        let key_span = start..self.offset;
        self.skip_blanks();
        if self.peek() != Some(':') {
            self.error(self.offset..self.offset, format!("expected : after the key {key:?}"));
            return Err(GivenUp);
        }
        self.offset += 1;
        self.skip_blanks();
        let node = self.value(Parent::Key(at, &key), depth)?;
        Ok(Entry { key, key_span, node })
    }

    /// True if the list or map ends here.
    fn ends(&mut self, close: char, is_first: bool) -> Result<bool, GivenUp> {
        match self.peek() {
            Some(found) if found == close => {
                self.offset += 1;
                Ok(true)
            }
            None => {
                self.error(self.offset..self.offset, format!("the text ends before a {close}"));
                Err(GivenUp)
            }
            Some(',') if !is_first => {
                self.error(self.offset..self.offset + 1, "a comma too many");
                self.offset += 1;
                self.skip_blanks();
                self.ends(close, false)
            }
            Some(_) => Ok(false),
        }
    }

    /// What stands between two elements.
    fn comma(&mut self, close: char) -> Result<(), GivenUp> {
        let end = self.offset;
        self.skip_blanks();
        let found = self.peek();
        if found == Some(',') {
            let comma = self.offset;
            self.offset += 1;
            self.skip_blanks();
            if self.peek() == Some(close) {
                self.error(comma..comma + 1, format!("there is a comma before the {close}"));
            }
            return Ok(());
        }
        let begins = |c: char| c == '"' || c == '{' || c == '[' || is_typographic(c);
        match found {
            Some(found) if found == close => Ok(()),
            Some(found) if begins(found) => {
                self.error(end..end, "a comma is missing");
                Ok(())
            }
            Some(found) => {
                let span = self.offset..self.offset + found.len_utf8();
                self.error(span, format!("expected , or {close}, found {found:?}"));
                Err(GivenUp)
            }
            None => Ok(()),
        }
    }
}

/// A quotation mark that is not one to a computer.
pub(crate) fn is_typographic(character: char) -> bool {
    // Few characters are beyond Latin-1, and all marks but « and » are.
    character >= '«' && TYPOGRAPHIC.contains(&character)
}

/// Whether a quotation mark within a string is its end. Typographic marks are good text between
/// straight quotes, unless the line shows that the straight one is missing.
fn closes(open: char, quote: char, rest: &str) -> bool {
    if open == '"' {
        let line = rest.chars().take(NEAR_COUNT).take_while(|&c| c != '\n');
        return is_typographic(quote) && ends_value(rest) && line.clone().all(|c| c != '"');
    }
    if open == '\'' { quote == '\'' } else { is_typographic(quote) }
}

/// Whether what follows is what follows a string.
fn ends_value(rest: &str) -> bool {
    rest.trim_start().starts_with([':', ',', '}', ']'])
}

/// Reads `\uXXXX`, or two of them that are one character; with its length.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let high = unit(0)?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high).map(|character| (character, 6));
    }
    let low = unit(6).filter(|low| (0xdc00..0xe000).contains(low))?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|one| (one, 12))
}

/// The grammar of numbers: an optional minus, no leading zero, a fraction, an exponent.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The document again as JSON, and what was wrong with it.
    fn reread(text: &str) -> (Option<String>, Vec<String>) {
        let mut report = Report::new("x.json", text);
        let node = read(text, PlaceId::ROOT, &mut report);
        let found = report.into_diagnostics().iter().map(ToString::to_string).collect();
        (node.map(|node| node.to_json()), found)
    }

    #[test]
    fn every_value_is_read_and_written_as_it_was() {
        let text = r#"{"a": [1, -2.50e+7, true, null, {}], "b\u00e4\ud83d\ude00": "\"\\\n"}"#;
        let (written, found) = reread(text);
        assert_eq!(found, [""; 0]);
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        let written = written.unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), expected);
        assert!(written.contains("-2.50e+7"), "{written}");
        assert_eq!(reread(&written).0.unwrap(), written);
    }

    #[test]
    fn typographic_quotes_are_each_named_with_their_column() {
        let (written, found) = reread("{\n  “hostPort”: 0,\n  \"name\": \"web”\n}");
        assert_eq!(
            found,
            [
                "x.json:2:3: “ is a typographic quotation mark",
                "x.json:2:12: ” is a typographic quotation mark",
                "x.json:3:15: ” is a typographic quotation mark",
            ]
        );
        assert_eq!(written.unwrap(), "{\n  \"hostPort\": 0,\n  \"name\": \"web\"\n}\n");
        assert_eq!(reread("[\"a “quoted” word\"]").1, [""; 0]);
    }

    #[test]
    fn mistakes_are_reported_all_at_once_and_read_as_meant() {
        let cases = [
            ("[1,]", "x.json:1:3: there is a comma before the ]"),
            ("[1,,2]", "x.json:1:4: a comma too many"),
            ("{\"a\": 1 \"b\": 2}", "x.json:1:8: a comma is missing"),
            ("[1] // one", "x.json:1:5: JSON has no comments"),
            ("[/* one */ 1]", "x.json:1:2: JSON has no comments"),
            ("{a: 1}", "x.json:1:2: the key a stands in no quotes"),
            ("['a']", "x.json:1:2: ' is a single quotation mark"),
            ("[True]", "x.json:1:2: True is no JSON value"),
            ("[01]", "x.json:1:2: \"01\" is no number of JSON"),
            ("[+1]", "x.json:1:2: \"+1\" is no number of JSON"),
            ("[1.]", "x.json:1:2: \"1.\" is no number of JSON"),
            ("[\"\\x\"]", "x.json:1:3: \"\\\\x\" is no escape of JSON"),
            ("[\"\\ud800\"]", "x.json:1:3: \"\\\\u\" is no escape of JSON"),
            ("[\"a\tb\"]", "x.json:1:4: a control character, write \\u0009"),
            ("{\"a\": 1, \"b\": 2, \"a\": 3}", "x.json:1:18: a: duplicate key"),
            ("[] []", "x.json:1:4: there is text after the end of the document"),
        ];
        for (text, message) in cases {
            let (written, found) = reread(text);
            assert_eq!(found, [message], "{text}");
            assert!(written.is_some(), "{text}");
        }
        let (_, found) = reread("{\"a\": 1,, 'b': True}");
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn what_makes_no_sense_is_given_up_with_its_place() {
        let cases = [
            ("", "x.json:1:1: there is no JSON in this file"),
            ("{", "x.json:1:2: the text ends before a }"),
            ("[1", "x.json:1:3: the text ends before a ]"),
            ("{\"a\"}", "x.json:1:5: expected : after the key \"a\""),
            ("{\"a\": }", "x.json:1:7: expected a value, found '}'"),
            ("{1: 2, : 3}", "x.json:1:2: the key 1 stands in no quotes"),
            ("[\"a", "x.json:1:2: the text ends within a string"),
            ("[1 2]", "x.json:1:4: expected , or ], found '2'"),
        ];
        for (text, message) in cases {
            let (written, found) = reread(text);
            assert!(written.is_none(), "{text}");
            assert_eq!(found[0], message, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(reread(&deep(DEPTH_MAX)).1, [""; 0]);
        let found = reread(&deep(1_000_000)).1;
        assert_eq!(found, ["x.json:1:129: nesting is deeper than 128"]);
    }

    proptest! {
        #[test]
        fn whatever_is_json_is_read_and_nothing_else_panics(text in "\\PC{0,40}") {
            let (_, found) = reread(&text);
            let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert!(!is_json || found.is_empty() || found[0].contains("duplicate"));
        }

        #[test]
        fn what_is_accepted_is_json(text in "[\\[\\]{}:, \"a1.e\\\\n-]{0,24}") {
            let (written, found) = reread(&text);
            if found.is_empty() {
                let ours = serde_json::from_str::<serde_json::Value>(&written.unwrap());
                let theirs = serde_json::from_str::<serde_json::Value>(&text);
                prop_assert_eq!(ours.ok(), theirs.ok());
            }
        }
    }
}
