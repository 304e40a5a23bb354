//! Reads YAML into a tree with places: the same tree that JSON gives, which is a part of YAML.
//!
//! Built from the parser's events, because those say where everything stands, and because a
//! duplicate key is then one error among others. Plain scalars mean what YAML 1.2's core schema
//! says: so `yes` is text, `0o17` a number. The one hard constraint: what aliases and merges add is
//! bounded, so that no small file becomes a large tree.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle};

use super::tree::{DEPTH_MAX, Entry, Node, Value, report_duplicates};
use crate::report::{PlaceId, Report, Step};

/// Values that aliases may add, besides as many as the file has itself. Compose files share a few
/// blocks of some ten values; a bomb adds millions.
const ALIASED_COUNT_MAX: usize = 100_000;

/// Values that anchors may be at, each counted for every anchor that it is in: those are kept.
const ANCHORED_COUNT_MAX: usize = 1_000_000;

/// Reads the first document of a text whose root is this place. `None`: no sense could be made of
/// it, which has been reported.
pub(crate) fn read(text: &str, root: PlaceId, report: &mut Report) -> Option<Node> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        aliased_count: 0,
        anchored_count: 0,
        text_len: text.len(),
        root,
        report,
    };
    builder.document().ok()
}

/// The rest of the text is not read.
struct GivenUp;

/// What the parser said, with the bytes that it stands in.
type Said<'t> = (Event<'t>, Range<usize>);

/// Where a value stands.
#[derive(Clone)]
enum Parent {
    Root,
    Key(PlaceId, String),
    Index(PlaceId, usize),
}

struct Builder<'t, 'r> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    /// Values that aliases can stand for, with how many values each is.
    anchors: HashMap<usize, (Node, usize)>,
    aliased_count: usize,
    anchored_count: usize,
    text_len: usize,
    root: PlaceId,
    report: &'r mut Report,
}

impl<'t> Builder<'t, '_> {
    fn next(&mut self) -> Result<Said<'t>, GivenUp> {
        match self.parser.next() {
            Some(Ok((event, span))) => {
                let span = span.byte_range().unwrap_or_default();
                let start = span.start.min(self.text_len);
                Ok((event, start..span.end.clamp(start, self.text_len)))
            }
            Some(Err(error)) => {
                let offset = error.marker().byte_offset().unwrap_or(0).min(self.text_len);
                self.report.error_in(self.root, offset..offset, error.info());
                Err(GivenUp)
            }
            None => Err(GivenUp),
        }
    }

    fn document(&mut self) -> Result<Node, GivenUp> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd | Event::DocumentEnd => {
                    self.report.error_in(self.root, 0..0, "there is no YAML in this file");
                    return Err(GivenUp);
                }
                first => {
                    let node = self.value((first, span), &Parent::Root, 0)?;
                    self.refuse_more()?;
                    return Ok(node);
                }
            }
        }
    }

    fn refuse_more(&mut self) -> Result<(), GivenUp> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    let message = "there is a second document, and one alone is read";
                    self.report.error_in(self.root, span, message);
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    fn place(&mut self, parent: &Parent, span: Range<usize>) -> PlaceId {
        match parent {
            Parent::Root => self.root,
            Parent::Key(at, key) => self.report.place(*at, Step::Key(key.clone()), span),
            Parent::Index(at, index) => self.report.place(*at, Step::Index(*index), span),
        }
    }

    /// The value that begins with this event.
    fn value(
        &mut self,
        (event, span): Said<'t>,
        parent: &Parent,
        depth: usize,
    ) -> Result<Node, GivenUp> {
        if depth > DEPTH_MAX {
            let message = format!("nesting is deeper than {DEPTH_MAX}");
            self.report.error_in(self.root, span, message);
            return Err(GivenUp);
        }
        // A block has no brackets: its first byte stands for it.
        let first = span.start..(span.start + 1).min(span.end.max(span.start));
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_quote(&text, style, &span);
                let is_text = style != ScalarStyle::Plain
                    || tag.is_some_and(|tag| tag.to_string().ends_with("str"));
                let value = if is_text { Value::Text(text.into_owned()) } else { plain(&text) };
                (anchor, Node::new(self.place(parent, span), value))
            }
            Event::SequenceStart(_, anchor, _) => {
                let at = self.place(parent, first.clone());
                (anchor, Node::new(at, Value::List(self.list(at, depth + 1)?)))
            }
            Event::MappingStart(_, anchor, _) => {
                let at = self.place(parent, first.clone());
                (anchor, Node::new(at, Value::Map(self.map(at, depth + 1)?)))
            }
            Event::Alias(anchor) => (0, self.aliased(anchor, span)?),
            _ => return Err(GivenUp),
        };
        if anchor > 0 {
            let count = count(&node);
            self.anchored_count += count;
            if self.anchored_count > ANCHORED_COUNT_MAX {
                let message = format!("anchors are at more than {ANCHORED_COUNT_MAX} values");
                self.report.error_in(self.root, first, message);
                return Err(GivenUp);
            }
            self.anchors.insert(anchor, (node.clone(), count));
        }
        Ok(node)
    }

    /// To YAML a typographic mark is a part of the text, which nobody means who begins with one.
    fn refuse_quote(&mut self, text: &str, style: ScalarStyle, span: &Range<usize>) {
        let first = text.chars().next().filter(|first| super::is_typographic(*first));
        if let Some(mark) = first.filter(|_| style == ScalarStyle::Plain) {
            let end = (span.start + mark.len_utf8()).min(span.end);
            let message = format!("{mark} is a typographic quotation mark");
            let problem = self.report.error_in(self.root, span.start..end, message);
            problem.hint("write straight quotes, \", or put the whole text between such");
        }
    }

    fn aliased(&mut self, anchor: usize, span: Range<usize>) -> Result<Node, GivenUp> {
        let Some((node, count)) = self.anchors.get(&anchor) else {
            // An alias within its own anchor is endless.
            self.report.error_in(self.root, span, "the alias stands for what it is in");
            return Err(GivenUp);
        };
        self.aliased_count += count;
        if self.aliased_count > ALIASED_COUNT_MAX {
            let message = format!("aliases stand for more than {ALIASED_COUNT_MAX} values");
            self.report.error_in(self.root, span, message).hint("write them out");
            return Err(GivenUp);
        }
        Ok(node.clone())
    }

    fn list(&mut self, at: PlaceId, depth: usize) -> Result<Vec<Node>, GivenUp> {
        let mut items = Vec::new();
        loop {
            let said = self.next()?;
            if said.0 == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.value(said, &Parent::Index(at, items.len()), depth)?);
        }
    }

    fn map(&mut self, at: PlaceId, depth: usize) -> Result<Vec<Entry>, GivenUp> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let (event, key_span) = self.next()?;
            if event == Event::MappingEnd {
                report_duplicates(&entries, self.report);
                merge(&mut entries, merged);
                return Ok(entries);
            }
            let key = match &event {
                Event::Scalar(key, style, ..) => {
                    self.refuse_quote(key, *style, &key_span);
                    key.to_string()
                }
                _ => {
                    self.report.error_in(at, key_span.clone(), "a key is no text");
                    self.value((event, key_span.clone()), &Parent::Root, depth)?;
                    String::new()
                }
            };
            let said = self.next()?;
            let node = self.value(said, &Parent::Key(at, key.clone()), depth)?;
            if key == "<<" {
                merged.push(node);
            } else {
                entries.push(Entry { key, key_span, node });
            }
        }
    }
}

/// What `<<` adds: keys that are not there themselves; of several maps the first counts.
fn merge(entries: &mut Vec<Entry>, merged: Vec<Node>) {
    let maps = merged.into_iter().flat_map(|node| match node.value {
        Value::List(items) => items,
        _ => vec![node],
    });
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for map in maps {
        let Value::Map(others) = map.value else { continue };
        entries.extend(others.into_iter().filter(|other| known.insert(other.key.clone())));
    }
}

/// How many values a tree has.
fn count(node: &Node) -> usize {
    let items = node.items().iter().map(count).sum::<usize>();
    1 + items + node.entries().iter().map(|entry| count(&entry.node)).sum::<usize>()
}

/// What a plain scalar means in the core schema.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix).filter(|digits| !digits.starts_with('+'))?;
        i64::from_str_radix(digits, radix).ok()
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Value::Number(number.to_string());
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !unsigned.is_empty() && is_digits(unsigned) {
        // Leading zeros and a plus are no part of a number in JSON, which this may become.
        let digits = unsigned.trim_start_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        let sign = if text.starts_with('-') { "-" } else { "" };
        return Value::Number(format!("{sign}{digits}"));
    }
    let has_digit = unsigned.starts_with(|c: char| c.is_ascii_digit());
    let is_float = unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if has_digit && is_float && unsigned.parse::<f64>().is_ok() && !unsigned.ends_with('.') {
        return Value::Number(text.strip_prefix('+').unwrap_or(text).to_owned());
    }
    Value::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reread(text: &str) -> (Option<String>, Vec<String>) {
        let mut report = Report::new("x.yaml", text);
        let node = read(text, PlaceId::ROOT, &mut report);
        let found = report.into_diagnostics().iter().map(ToString::to_string).collect();
        (node.map(|node| node.to_json().split_whitespace().collect()), found)
    }

    #[test]
    fn yaml_is_read_as_the_core_schema_has_it() {
        let text = "a: [1, 0x10, -07, 1.5, yes, 'true', true, ~, 10.1.0.0/24, 70:B3]\n\
                    b:\n  - c: |\n      two\n      lines\n";
        let (written, found) = reread(text);
        assert_eq!(found, [""; 0]);
        let a = r#"{"a":[1,16,-7,1.5,"yes","true",true,null,"10.1.0.0/24","70:B3"],"#;
        let expected = format!("{a}{}", r#""b":[{"c":"two\nlines\n"}]}"#);
        assert_eq!(written.unwrap(), expected);
    }

    #[test]
    fn anchors_and_merges_are_resolved() {
        let text = "base: &b {x: 1, y: 2}\none: {<<: *b, x: 3}\ntwo: *b\n";
        let expected = r#"{"base":{"x":1,"y":2},"one":{"x":3,"y":2},"two":{"x":1,"y":2}}"#;
        assert_eq!(reread(text), (Some(expected.into()), vec![]));
    }

    #[test]
    fn mistakes_have_their_places() {
        let (_, found) = reread("a: 1\nb: 2\na: 3\nb: 4\n");
        assert_eq!(found, ["x.yaml:3:1: a: duplicate key", "x.yaml:4:1: b: duplicate key"]);
        let (written, found) = reread("a: [1\nb: 2\n");
        assert!(written.is_none() && found[0].starts_with("x.yaml:2:"), "{found:?}");
        assert_eq!(reread("").1, ["x.yaml:1:1: there is no YAML in this file"]);
        assert_eq!(reread("a: *b\n").1.len(), 1);
        assert_eq!(reread("a: 1\n---\nb: 2\n").1.len(), 1);
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", ")));
        }
        let (written, found) = reread(&text);
        assert!(written.is_none());
        assert!(found[0].contains("aliases stand for more than"), "{found:?}");
        let deep = "[".repeat(100_000);
        assert!(reread(&deep).0.is_none());
        assert!(reread("a: &a [*a]\n").0.is_none());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-c:\\-\\[\\]{}, \n&*<\"'|0-9.]{0,48}|\\PC{0,24}") {
            reread(&text);
        }

        #[test]
        fn json_is_yaml(keys in proptest::collection::btree_map("[a-z]{1,4}", 0u32..9, 0..5)) {
            let text = serde_json::to_string(&keys).unwrap();
            prop_assert_eq!(reread(&text).0.unwrap(), text);
        }
    }
}
