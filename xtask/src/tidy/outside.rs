//! The engine knows bytes and time: it has no clock, thread, file, socket or lock of its own.
//!
//! Paths are read from `use` trees and from the code. What slips through (a renamed module),
//! clippy's `disallowed-methods` finds by its resolved path. Tests of the engine may do what they
//! like; its simulator, which no packet in production meets, may lock and print, but must not read
//! a clock either, or a seed would not replay.

use super::source::{Source, words};
use super::{Finding, Project};

/// What the engine must not name, and everything below it.
const FORBIDDEN: [&str; 21] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::fs",
    "std::env",
    "std::process",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::mpsc",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
    "std::sync::LazyLock",
];

/// The simulator, and what it may name all the same.
const SIMULATOR: &str = "engine/src/sim/";
const FREE_IN_SIMULATOR: [&str; 2] = ["std::sync::Mutex", "std::thread::panicking"];

/// Macros that write to a terminal.
const FORBIDDEN_MACROS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

pub(super) fn engine_reaches_outside(project: &Project) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in project.sources.iter().filter(|source| source.path.starts_with("engine/src/")) {
        let is_simulator = source.path.starts_with(SIMULATOR);
        for (at, path) in paths(&source.code) {
            let is_free = is_simulator && FREE_IN_SIMULATOR.contains(&path.as_str());
            if is_forbidden(&path) && !is_free && !source.is_test(source.line_of(at)) {
                findings.push(Finding::new(&source.path, source.line_of(at), path));
            }
        }
        if !is_simulator {
            findings.extend(macros(source));
        }
    }
    findings
}

fn macros(source: &Source) -> impl Iterator<Item = Finding> {
    let calls = source.words().filter(|(at, word)| {
        FORBIDDEN_MACROS.contains(word) && source.code[at + word.len()..].starts_with('!')
    });
    calls
        .map(|(at, word)| (source.line_of(at), word))
        .filter(|&(line, _)| !source.is_test(line))
        .map(|(line, word)| Finding::new(&source.path, line, format!("{word}!")))
}

/// True for a forbidden path, one below it, and a `*` that would bring one in.
fn is_forbidden(path: &str) -> bool {
    let below = |path: &str, base: &str| {
        path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    FORBIDDEN.iter().any(|forbidden| match path.strip_suffix("::*") {
        Some(base) => below(base, forbidden) || below(forbidden, base),
        None => below(path, forbidden),
    })
}

/// Every path in the code with the position of its last word; `use` trees are taken apart.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut tokens = tokens(code).into_iter().peekable();
    while let Some((at, token)) = tokens.next() {
        if token == "use" {
            let tree: Vec<(usize, &str)> =
                tokens.by_ref().take_while(|&(_, token)| token != ";").collect();
            use_paths(&tree, &mut paths);
        } else if is_word(token) {
            let mut path = token.to_owned();
            while tokens.next_if(|&(_, token)| token == "::").is_some() {
                match tokens.next_if(|&(_, token)| is_word(token)) {
                    Some((_, word)) => path = path + "::" + word,
                    None => break,
                }
            }
            paths.push((at, path));
        }
    }
    paths
}

/// The paths of one `use` tree, such as `std::{fmt, time::{Duration, Instant}}`.
fn use_paths(tree: &[(usize, &str)], paths: &mut Vec<(usize, String)>) {
    let mut prefix: Vec<&str> = Vec::new();
    let mut opened: Vec<usize> = Vec::new();
    let mut renamed = false;
    let mut last = 0;
    for &(at, token) in tree.iter().chain(&[(usize::MAX, ",")]) {
        match token {
            "::" => {}
            "as" => renamed = true,
            "{" => opened.push(prefix.len()),
            "," | "}" => {
                paths.push((last, prefix.join("::")));
                renamed = false;
                prefix.truncate(opened.last().copied().unwrap_or(0));
                if token == "}" {
                    opened.pop();
                }
            }
            _ if renamed => {}
            word => {
                prefix.push(word);
                last = at;
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Words, `::`, and the marks that a `use` tree is made of.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let marks = ["::", "{", "}", ",", ";", "*"];
    let marks = marks.iter().flat_map(|mark| code.match_indices(mark));
    let mut tokens: Vec<(usize, &str)> = words(code).chain(marks).collect();
    tokens.sort_unstable_by_key(|&(at, _)| at);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sample::{lines, source};

    fn found(text: &str) -> Vec<usize> {
        lines(&engine_reaches_outside(&source("engine/src/sample.rs", text)))
    }

    #[test]
    fn clocks_threads_files_and_sockets_are_found_however_they_are_named() {
        for text in [
            "use std::time::Instant;",
            "use std::time::{Duration, Instant as Clock};",
            "use std::{fmt, time::{self, SystemTime}};",
            "use std::time::*;",
            "use std::{io, thread};",
            "fn f() { std::thread::sleep(d); }",
            "fn f() { ::std::fs::read(p); }",
            "static S: std::sync::Mutex<u8> = x;",
            "use std::net::{IpAddr, UdpSocket};",
            "fn f() { println!(\"x\"); }",
        ] {
            assert_eq!(found(&format!("//! A sample.\n{text}\n")), [2], "{text}");
        }
    }

    #[test]
    fn what_the_engine_needs_is_free() {
        for text in [
            "use std::time::Duration;",
            "use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};",
            "use crate::time::Instant;",
            "use crate::{time::{Instant, Tick}, thread};",
            "use std::sync::{Arc, atomic::AtomicU64};",
            "// std::thread::sleep",
            "fn f(fs: u8, env: u8) -> u8 { fs * env }",
            "#[cfg(test)]\nmod tests {\n  use std::env;\n  fn f() { println!() }\n}",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_simulator_may_lock_but_reads_no_clock() {
        let text = "use std::sync::{Arc, Mutex};\nuse std::time::Instant;\n";
        let project = source("engine/src/sim/port.rs", text);
        assert_eq!(lines(&engine_reaches_outside(&project)), [2]);
    }

    #[test]
    fn other_crates_may_reach_outside() {
        let project = source("drivers/src/tap.rs", "use std::fs;\n");
        assert!(engine_reaches_outside(&project).is_empty());
    }
}
