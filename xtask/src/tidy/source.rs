//! One Rust file as the rules see it: its text, its code without comments and literals, its
//! functions, and which of its lines are tests.
//!
//! Blanking keeps every byte in its place, so a position in the code is a position in the text.
//! The scanner knows just enough of Rust's lexis for that: nested comments, raw strings, and
//! lifetimes, which are not characters. It does not know macros: what a macro's body looks like is
//! what is checked.

use std::ops::Range;

/// A Rust file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
    /// The text with comments and literals blanked, byte for byte.
    pub(super) code: String,
    /// Where each line begins.
    line_starts: Vec<usize>,
    /// Lines of test code, counted from 1.
    test_lines: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Line of the word `fn`, counted from 1.
    pub(super) line: usize,
    /// Lines from the word `fn` to the closing brace, both included.
    pub(super) line_count: usize,
}

impl Source {
    /// Reads a file's text.
    pub(super) fn new(path: &str, text: String) -> Source {
        let code = blanked(&text);
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let line_starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        let mut source =
            Source { path: path.to_owned(), text, code, line_starts, test_lines: Vec::new() };
        source.test_lines = source.find_test_lines();
        source
    }

    /// The line, counted from 1, of a position.
    pub(super) fn line_of(&self, position: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= position)
    }

    /// True if the line is part of a test.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Lines of the file that are not tests.
    pub(super) fn line_count_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|&line| !self.is_test(line)).count()
    }

    /// Every word of the code with its position: identifiers, keywords and numbers.
    pub(super) fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// Every function that has a body.
    pub(super) fn functions(&self) -> Vec<Function<'_>> {
        let mut functions = Vec::new();
        for (at, _) in self.words().filter(|&(_, word)| word == "fn") {
            let rest = &self.code[at + 2..];
            let name_at = rest.len() - rest.trim_start().len();
            // `fn(u8) -> u8` is a type.
            let Some((0, name)) = words(&rest[name_at..]).next() else { continue };
            if let Some(end) =
                item_end(&self.code, at).filter(|&end| self.code[end..].starts_with('}'))
            {
                let line = self.line_of(at);
                functions.push(Function { name, line, line_count: self.line_of(end) - line + 1 });
            }
        }
        functions
    }

    fn find_test_lines(&self) -> Vec<Range<usize>> {
        let whole = self.path.split('/').any(|part| part == "tests" || part == "tests.rs");
        if whole {
            return vec![1..usize::MAX; 1];
        }
        let marks = ["#[cfg(test)]", "#[cfg(all(test,"];
        let found = marks.iter().flat_map(|mark| self.code.match_indices(mark));
        found
            .filter_map(|(at, mark)| Some(at..item_end(&self.code, at + mark.len())?))
            .map(|item| self.line_of(item.start)..self.line_of(item.end) + 1)
            .collect()
    }
}

/// The words of a piece of code with their positions.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let len = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        at = start + len;
        Some((start, &code[start..at]))
    })
}

/// Where the item that begins at `from` ends: its closing brace, or its semicolon.
fn item_end(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' if depth == 1 => return Some(offset),
            b'}' => depth -= 1,
            b';' if depth == 0 => return Some(offset),
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

/// The text with comments and literals replaced by spaces; line ends stay.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let mut after_word = false;
    while let Some(first) = text[at..].chars().next() {
        let skipped = not_code_bytes(&text[at..], after_word);
        if skipped == 0 {
            code.push(first);
            after_word = first.is_alphanumeric() || first == '_';
            at += first.len_utf8();
        } else {
            let blanks = text[at..at + skipped].bytes();
            code.extend(blanks.map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            after_word = false;
            at += skipped;
        }
    }
    code
}

/// Bytes of the comment or literal that the text begins with; 0 if it begins with code.
fn not_code_bytes(text: &str, after_word: bool) -> usize {
    let bytes = text.as_bytes();
    match bytes {
        [b'/', b'/', ..] => text.find('\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => block_comment_bytes(bytes),
        [b'"', ..] => string_bytes(bytes),
        [b'\'', ..] => character_bytes(text),
        _ if after_word => 0,
        [b'r', ..] => raw_string_bytes(bytes, 1),
        [b'b' | b'c', b'r', ..] => raw_string_bytes(bytes, 2),
        [b'b' | b'c', b'"', ..] => 1 + string_bytes(&bytes[1..]),
        [b'b', b'\'', ..] => 1 + character_bytes(&text[1..]),
        _ => 0,
    }
}

fn block_comment_bytes(bytes: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_bytes(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// A raw string whose prefix has `prefix` letters; 0 if it is a raw identifier or a word.
fn raw_string_bytes(bytes: &[u8], prefix: usize) -> usize {
    let hashes = bytes[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let start = prefix + hashes;
    if bytes.get(start) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), vec![b'#'; hashes].as_slice()].concat();
    let found = bytes[start + 1..].windows(end.len()).position(|window| window == end);
    found.map_or(bytes.len(), |found| start + 1 + found + end.len())
}

/// A character literal; 0 if it is a lifetime.
fn character_bytes(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match inside.next() {
        // The escaped character may be a quote itself.
        Some('\\') => text[3..].find('\'').map_or(text.len(), |found| 3 + found + 1),
        Some(_) if inside.next() == Some('\'') => text.len() - inside.as_str().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("engine/src/sample.rs", text.to_owned())
    }

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let kept = |text: &str| {
            let code = blanked(text);
            assert_eq!(code.len(), text.len(), "{text}");
            code.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept("a // fn b {\nc"), "a c");
        assert_eq!(kept("a /* b /* c */ d */ e"), "a e");
        assert_eq!(kept(r#"a("x \" {", 'b')"#), "a( , )");
        assert_eq!(kept(r###"a(r#"x " {"#, b"{", br"\", b'\'') b"###), "a( , , , ) b");
        assert_eq!(
            kept("fn f<'a>(x: &'a str, r#type: u8) { '\\'' ; 'é' }"),
            "fn f<'a>(x: &'a str, r#type: u8) { ; }"
        );
        assert_eq!(kept("'\\u{7f}' '\\\\' b"), "b");
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "struct S { f: fn(u8) -> u8 }\n/// Doc.\n#[inline]\npub fn one(\n  x: [u8; 4],\n\
            ) {\n  if x { y }\n}\ntrait T { fn none(&self); }\nfn two() {}\n";
        let source = source(text);
        let one = Function { name: "one", line: 4, line_count: 5 };
        let two = Function { name: "two", line: 10, line_count: 1 };
        assert_eq!(source.functions(), [one, two]);
    }

    #[test]
    fn test_modules_and_test_files_are_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n\
            #[cfg(test)]\nuse d;\n#[cfg(not(test))]\nuse e;\n";
        let source = source(text);
        let tests: Vec<usize> = (1..=10).filter(|&line| source.is_test(line)).collect();
        assert_eq!(tests, [2, 3, 4, 5, 7, 8]);
        assert_eq!(source.line_count_without_tests(), 4);
        assert!(Source::new("drivers/tests/tap.rs", "fn a() {}".into()).is_test(1));
        assert!(Source::new("engine/src/worker/tests.rs", "fn a() {}".into()).is_test(1));
    }
}
