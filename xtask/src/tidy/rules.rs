//! Rules about the text of single files: lengths, names, unsafe code, things left to do.

use super::source::words;
use super::{Finding, Project, Source};

const LINE_CHARS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

/// The only folder with unsafe code.
const UNSAFE_FOLDER: &str = "drivers/src/sys/";

/// Names that say nothing.
const VAGUE_NAMES: [&str; 6] = ["tmp", "data2", "mgr", "util", "utils", "misc"];

/// Parts of names that say nothing. `util` is missing: others' crates have it in their names.
const VAGUE_PARTS: [&str; 3] = ["tmp", "data2", "mgr"];

/// Words that mark something as unfinished; put together here so that this file has none.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

pub(super) fn long_lines(project: &Project) -> Vec<Finding> {
    each_line(project, |line| {
        let char_count = line.chars().count();
        (char_count > LINE_CHARS_MAX).then(|| format!("{char_count} characters"))
    })
}

/// Findings in single lines of Rust files.
fn each_line(project: &Project, look: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &project.sources {
        for (index, line) in source.text.lines().enumerate() {
            findings.extend(look(line).map(|what| Finding::new(&source.path, index + 1, what)));
        }
    }
    findings
}

pub(super) fn long_functions(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &project.sources {
        for function in source.functions() {
            if function.line_count > FUNCTION_LINES_MAX {
                let what = format!("{} has {} lines", function.name, function.line_count);
                findings.push(Finding::new(&source.path, function.line, what));
            }
        }
    }
    findings
}

pub(super) fn long_files(project: &Project) -> Vec<Finding> {
    let counted = project.sources.iter().map(|source| (source, own_line_count(source)));
    counted
        .filter(|&(_, line_count)| line_count > FILE_LINES_MAX)
        .map(|(source, line_count)| Finding::new(&source.path, 0, format!("{line_count} lines")))
        .collect()
}

/// Lines without tests; a file that is all tests counts whole.
fn own_line_count(source: &Source) -> usize {
    match source.line_count_without_tests() {
        0 => source.text.lines().count(),
        line_count => line_count,
    }
}

pub(super) fn missing_head(project: &Project) -> Vec<Finding> {
    let without = project.sources.iter().filter(|source| {
        let head = source.text.lines().next().and_then(|line| line.strip_prefix("//! "));
        head.is_none_or(|head| head.trim() == "stub" || head.trim().is_empty())
    });
    let what = "expected `//!`: what it does, the one hard constraint, what it does not do";
    without.map(|source| Finding::new(&source.path, 1, what)).collect()
}

pub(super) fn vague_names(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &project.sources {
        let names = source.path.split(['/', '.']).map(|name| (0, name));
        let names = names.chain(source.words());
        for (at, name) in names.filter(|(_, name)| is_vague(name)) {
            findings.push(Finding::new(&source.path, source.line_of(at), format!("name {name}")));
        }
    }
    findings
}

fn is_vague(name: &str) -> bool {
    // Nearly every name ends here: cheaper than taking it apart.
    let lower_case = name.to_ascii_lowercase();
    if !VAGUE_NAMES.iter().any(|vague| lower_case.contains(vague)) {
        return false;
    }
    let mut snake_case = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_uppercase() && snake_case.ends_with(|last: char| last.is_lowercase()) {
            snake_case.push('_');
        }
        snake_case.push(c);
    }
    let snake_case = snake_case.to_lowercase();
    VAGUE_NAMES.contains(&snake_case.trim_matches('_'))
        || snake_case.split('_').any(|part| VAGUE_PARTS.contains(&part))
}

pub(super) fn left_to_do(project: &Project) -> Vec<Finding> {
    let sources = project.sources.iter().map(|source| (&source.path, &source.text));
    let texts = project.texts.iter().map(|(path, text)| (path, text));
    let mut findings = Vec::new();
    for (path, text) in sources.chain(texts) {
        for (index, line) in text.lines().enumerate() {
            if let Some((_, word)) = words(line).find(|(_, word)| UNFINISHED.contains(word)) {
                findings.push(Finding::new(
                    path,
                    index + 1,
                    format!("{word}: do it, or say LIMIT:"),
                ));
            }
        }
    }
    findings
}

pub(super) fn unsafe_elsewhere(project: &Project) -> Vec<Finding> {
    let elsewhere = project.sources.iter().filter(|source| !source.path.starts_with(UNSAFE_FOLDER));
    let uses = elsewhere.flat_map(|source| {
        source.words().filter(|&(_, word)| word == "unsafe").map(move |(at, _)| (source, at))
    });
    uses.map(|(source, at)| {
        Finding::new(&source.path, source.line_of(at), format!("unsafe outside {UNSAFE_FOLDER}"))
    })
    .collect()
}

pub(super) fn unexplained_unsafe(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in project.sources.iter().filter(|source| source.path.starts_with(UNSAFE_FOLDER)) {
        for (at, _) in source.words().filter(|&(_, word)| word == "unsafe") {
            let next = source.code[at..].split_whitespace().nth(1).unwrap_or_default();
            // `unsafe fn(…)` is a type; `unsafe fn name` states its duty in its documentation.
            let wanted = match next {
                "fn" => "# Safety",
                next if next.starts_with("fn(") => continue,
                _ => "SAFETY:",
            };
            let line = source.line_of(at);
            if !comment_above(source, line).contains(wanted) {
                findings.push(Finding::new(&source.path, line, format!("unsafe without {wanted}")));
            }
        }
    }
    findings
}

/// The comment above the statement that a line belongs to, and the one on the line itself.
fn comment_above(source: &Source, line: usize) -> String {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut comment = lines[line - 1].to_owned();
    let mut above = lines[..line - 1].iter().map(|line| line.trim()).rev().peekable();
    // Up over attributes and the lines that the statement began with.
    while let Some(text) = above.peek() {
        let ends_statement = text.ends_with([';', '{', '}']) || text.is_empty();
        if text.starts_with("//") || ends_statement {
            break;
        }
        above.next();
    }
    for text in above.take_while(|text| text.starts_with("//")) {
        comment.push_str(text);
    }
    comment
}

pub(super) fn bare_unwrap(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &project.sources {
        for (at, _) in source.code.match_indices(".unwrap()") {
            let line = source.line_of(at);
            if !source.is_test(line) {
                let what = "bare unwrap: say why it holds with expect, or return the error";
                findings.push(Finding::new(&source.path, line, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sample::{lines, source, texts};

    const PATH: &str = "engine/src/sample.rs";

    #[test]
    fn a_line_of_101_characters_is_found() {
        let text = format!("{}\n{}\n", "é".repeat(100), "x".repeat(101));
        assert_eq!(lines(&long_lines(&source(PATH, &text))), [2]);
    }

    #[test]
    fn a_function_of_71_lines_is_found() {
        let function =
            |line_count: usize| format!("fn f() {{\n{}}}\n", "x;\n".repeat(line_count - 2));
        assert_eq!(lines(&long_functions(&source(PATH, &function(71)))), [1]);
        assert!(long_functions(&source(PATH, &function(70))).is_empty());
    }

    #[test]
    fn a_file_of_601_lines_is_found_and_its_tests_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "y;\n".repeat(100));
        let text = |line_count: usize| "x;\n".repeat(line_count) + &tests;
        assert_eq!(long_files(&source(PATH, &text(601))).len(), 1);
        assert!(long_files(&source(PATH, &text(600))).is_empty());
        assert_eq!(long_files(&source("drivers/tests/tap.rs", &text(601))).len(), 1);
    }

    #[test]
    fn a_file_without_theory_of_operation_is_found() {
        for text in ["", "use std::fs;\n", "//! stub\n", "//!\n", "/// Not its.\nfn f() {}"] {
            assert_eq!(missing_head(&source(PATH, text)).len(), 1, "{text}");
        }
        assert!(missing_head(&source(PATH, "//! Time as the engine sees it.\n")).is_empty());
    }

    #[test]
    fn vague_names_are_found_and_whole_words_are_not() {
        for name in ["tmp", "data2", "mgr", "util", "tmp_path", "FlowMgr", "TMP_BYTES"] {
            let text = format!("let x = 1;\nlet {name} = 2;");
            assert_eq!(lines(&vague_names(&source(PATH, &text))), [2], "{name}");
        }
        assert_eq!(vague_names(&source("engine/src/util.rs", "")).len(), 1);
        for text in ["use futures_util::x;", "let data = 2;", "// tmp", "\"/tmp\"", "utility"] {
            assert!(vague_names(&source(PATH, text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn unfinished_things_are_found_in_every_kind_of_file() {
        for word in UNFINISHED {
            let text = format!("x\n// {word}: later\n");
            assert_eq!(lines(&left_to_do(&source(PATH, &text))), [2], "{word}");
            assert_eq!(lines(&left_to_do(&texts(&[("README.md", &text)]))), [2], "{word}");
        }
        assert!(left_to_do(&source(PATH, "// LIMIT: one uplink\n")).is_empty());
    }

    #[test]
    fn unsafe_code_outside_its_folder_is_found() {
        let text = "#![forbid(unsafe_code)]\nfn f() {\n  unsafe { g() }\n}\n// unsafe\n";
        assert_eq!(lines(&unsafe_elsewhere(&source(PATH, text))), [3]);
        assert!(unsafe_elsewhere(&source("drivers/src/sys/region.rs", text)).is_empty());
    }

    #[test]
    fn unsafe_code_without_its_reason_is_found() {
        let found = |text: &str| lines(&unexplained_unsafe(&source("drivers/src/sys/a.rs", text)));
        assert_eq!(found("fn f() {\n  unsafe { g() }\n}\n"), [2]);
        assert_eq!(found("// SAFETY: g.\nlet a = 1;\nunsafe { g() };\n"), [3]);
        assert_eq!(found("/// Does.\npub unsafe fn f() {}\n"), [2]);
        assert_eq!(found("unsafe impl Send for S {}\n"), [1]);
        assert!(found("// SAFETY: g has no duty.\nlet a =\n  unsafe { g() };\n").is_empty());
        assert!(
            found("/// # Safety\n/// Call once.\n#[inline]\npub unsafe fn f() {}\n").is_empty()
        );
        assert!(found("type F = unsafe fn(u8);\n").is_empty());
    }

    #[test]
    fn a_bare_unwrap_outside_tests_is_found() {
        let text = "fn f() {\n  g()\n    .unwrap();\n}\n// x.unwrap()\n#[cfg(test)]\nmod tests {\n\
            fn h() { x.unwrap(); }\n}\n";
        assert_eq!(lines(&bare_unwrap(&source(PATH, text))), [3]);
        assert!(bare_unwrap(&source("engine/tests/a.rs", text)).is_empty());
    }
}
