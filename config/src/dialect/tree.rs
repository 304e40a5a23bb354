//! A document of another dialect as a tree: JSON and YAML alike, each value with its place.
//!
//! The order of keys is kept, and numbers are kept as they are written, so that what is converted
//! differs from what was read only where it has to. Accessors report what is of the wrong type, so
//! whoever reads a key only has to say what it expects. The one hard constraint: a value that is
//! `null` counts as absent, as every one of these dialects has it.

use std::fmt::Write;
use std::ops::{Range, RangeInclusive};

use crate::nearest::nearest;
use crate::report::{PlaceId, Report};

/// Deepest nesting of lists and maps; what is deeper is refused before it costs a stack.
pub(crate) const DEPTH_MAX: usize = 128;

/// Unknown keys of one map that the nearest known one is looked for: more are no slips.
const HINT_COUNT_MAX: usize = 100;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: PlaceId,
    pub(crate) value: Value,
}

/// What a document is made of.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The bytes of the key.
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

impl Node {
    pub(crate) fn new(at: PlaceId, value: Value) -> Node {
        Node { at, value }
    }

    pub(crate) fn text_of(at: PlaceId, text: impl Into<String>) -> Node {
        Node::new(at, Value::Text(text.into()))
    }

    pub(crate) fn number_of(at: PlaceId, number: impl std::fmt::Display) -> Node {
        Node::new(at, Value::Number(number.to_string()))
    }

    /// A map of these entries.
    pub(crate) fn map_of<'k>(
        at: PlaceId,
        entries: impl IntoIterator<Item = (&'k str, Node)>,
    ) -> Node {
        let mut node = Node::new(at, Value::Map(Vec::new()));
        entries.into_iter().for_each(|(key, value)| node.set(key, value));
        node
    }

    /// The value of a key that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let node = &self.entries().iter().find(|entry| entry.key == key)?.node;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
    }

    /// The entries of a map; of anything else there are none.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The elements of a list; of anything else there are none.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Sets a key, in its place if it is there already.
    pub(crate) fn set(&mut self, key: &str, node: Node) {
        if let Some(old) = self.get_mut(key) {
            *old = node;
        } else if let Value::Map(entries) = &mut self.value {
            entries.push(Entry { key: key.to_owned(), key_span: 0..0, node });
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).node)
    }

    /// Reports that something else was expected.
    pub(crate) fn expected(&self, what: &str, report: &mut Report) {
        let found = self.value.type_name();
        report.error(self.at, format!("expected {what}, found {found}"));
    }

    /// The map; anything else is reported.
    pub(crate) fn map(&self, report: &mut Report) -> Option<&Node> {
        if !self.is_map() {
            self.expected("an object", report);
            return None;
        }
        Some(self)
    }

    /// The elements; anything but a list is reported.
    pub(crate) fn list(&self, report: &mut Report) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => {
                self.expected("a list", report);
                None
            }
        }
    }

    /// The text; anything else is reported.
    pub(crate) fn text(&self, report: &mut Report) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => {
                self.expected("text", report);
                None
            }
        }
    }

    /// The boolean; anything else is reported.
    pub(crate) fn flag(&self, report: &mut Report) -> Option<bool> {
        match &self.value {
            Value::Bool(flag) => Some(*flag),
            _ => {
                self.expected("a boolean", report);
                None
            }
        }
    }

    /// A whole number within bounds; anything else is reported.
    pub(crate) fn integer(&self, bounds: RangeInclusive<i64>, report: &mut Report) -> Option<i64> {
        let Value::Number(written) = &self.value else {
            self.expected("a whole number", report);
            return None;
        };
        let (min, max) = bounds.clone().into_inner();
        match written.parse::<i64>() {
            Ok(number) if bounds.contains(&number) => return Some(number),
            Err(_) if written.contains(['.', 'e', 'E']) => {
                report.error(self.at, format!("expected a whole number, found {written}"));
            }
            _ => {
                report.error(self.at, format!("{written} is out of bounds: {min} to {max}"));
            }
        }
        None
    }

    /// A map under a key.
    pub(crate) fn map_at(&self, key: &str, report: &mut Report) -> Option<&Node> {
        self.get(key)?.map(report)
    }

    /// A list under a key.
    pub(crate) fn list_at(&self, key: &str, report: &mut Report) -> Option<&[Node]> {
        self.get(key)?.list(report)
    }

    /// A text under a key.
    pub(crate) fn text_at(&self, key: &str, report: &mut Report) -> Option<&str> {
        self.get(key)?.text(report)
    }

    /// A boolean under a key.
    pub(crate) fn flag_at(&self, key: &str, report: &mut Report) -> Option<bool> {
        self.get(key)?.flag(report)
    }

    /// A whole number under a key.
    pub(crate) fn integer_at(
        &self,
        key: &str,
        bounds: RangeInclusive<i64>,
        report: &mut Report,
    ) -> Option<i64> {
        self.get(key)?.integer(bounds, report)
    }

    /// Warns of keys that nobody knows, with the nearest that somebody does.
    pub(crate) fn warn_unknown(&self, known: &[&str], report: &mut Report) {
        let unknown = |entry: &&Entry| !known.contains(&entry.key.as_str());
        for (index, entry) in self.entries().iter().filter(unknown).enumerate() {
            let span = entry.key_span.clone();
            let message = format!("unknown field {:?}", entry.key);
            let problem = report.warning_in(entry.node.at, span, message);
            if index >= HINT_COUNT_MAX {
                continue;
            }
            if let Some(name) = nearest(&entry.key, known.iter().copied()) {
                problem.hint(format!("did you mean {name}?"));
            }
        }
    }

    /// The document as JSON, two blanks per level.
    pub(crate) fn to_json(&self) -> String {
        let mut text = String::new();
        self.write_json(0, &mut text);
        text.push('\n');
        text
    }

    fn write_json(&self, depth: usize, text: &mut String) {
        let indent = |depth: usize, text: &mut String| {
            text.push('\n');
            (0..depth).for_each(|_| text.push_str("  "));
        };
        match &self.value {
            Value::Null => text.push_str("null"),
            Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => text.push_str(number),
            Value::Text(own) => write_json_text(own, text),
            Value::List(items) if items.is_empty() => text.push_str("[]"),
            Value::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { "," });
                    indent(depth + 1, text);
                    item.write_json(depth + 1, text);
                }
                indent(depth, text);
                text.push(']');
            }
            Value::Map(entries) if entries.is_empty() => text.push_str("{}"),
            Value::Map(entries) => {
                text.push('{');
                for (index, entry) in entries.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { "," });
                    indent(depth + 1, text);
                    write_json_text(&entry.key, text);
                    text.push_str(": ");
                    entry.node.write_json(depth + 1, text);
                }
                indent(depth, text);
                text.push('}');
            }
        }
    }
}

fn write_json_text(own: &str, text: &mut String) {
    text.push('"');
    for character in own.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control.is_control() => {
                // Control characters lie in the first plane, so four digits hold them.
                let _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

/// Reports keys that a map has more than once. The first one counts.
pub(crate) fn report_duplicates(entries: &[Entry], report: &mut Report) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|&a, &b| entries[a].key.cmp(&entries[b].key).then(a.cmp(&b)));
    for pair in order.windows(2) {
        let (first, second) = (&entries[pair[0]], &entries[pair[1]]);
        if first.key == second.key {
            let span = second.key_span.clone();
            let problem = report.error_in(second.node.at, span, "duplicate key");
            problem.related(first.node.at, "it is here already");
        }
    }
}
