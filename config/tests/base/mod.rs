//! A sound config, and helpers that spoil it in one place and see what is refused.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

use config::Config;

/// A sound config; cases replace parts of it or add to its end.
pub const BASE: &str = r#"[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = "192.0.2.1"
[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]
[network.back]
subnet = "10.2.0.0/24"
[endpoint.web]
attach = { netns = "web" }
publish = ["8080:80"]
[[endpoint.web.network]]
name = "front"
ip = "10.1.0.10"
[[endpoint.web.network]]
name = "back"
[endpoint.db]
attach = { netns = "db" }
[[endpoint.db.network]]
name = "back"
"#;

/// All findings about a text, one line each.
pub fn refusals(text: &str) -> Vec<String> {
    match Config::parse("x.toml", text) {
        Ok(config) => panic!("accepted, with {:?}\n{text}", config.warnings),
        Err(found) => found.iter().map(|diagnostic| diagnostic.to_string()).collect(),
    }
}

pub fn replaced(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "the base has no {from}");
    BASE.replacen(from, to, 1)
}

#[track_caller]
pub fn replacing(from: &str, to: &str, expected: &[&str]) {
    assert_eq!(refusals(&replaced(from, to)), expected, "{from} -> {to}");
}

#[track_caller]
pub fn adding(text: &str, expected: &[&str]) {
    assert_eq!(refusals(&format!("{BASE}{text}")), expected, "{text}");
}
