//! Whole frames of tunnels, byte by byte, as they are written down.
//!
//! `golden/tunnels.txt` beside these tests has for each case what is sent in and what leaves, as
//! hex with a name for every field. They were written from the RFCs and by no code of the engine,
//! and are what Linux's `vxlan` device writes but for what is left to a sender: the gateway's test
//! `same_bytes` compares whole captures. A change of these bytes is a change on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::{Caps, Tables};

use crate::common::*;
use crate::gateway::Gateway;
use crate::overlay::*;

const GOLDEN: &str = include_str!("../golden/tunnels.txt");

/// The frames by their names. `#` begins a comment, an indented line goes on with the frame.
fn golden() -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut name = String::new();
    for line in GOLDEN.lines() {
        let line = line.split('#').next().unwrap_or_default();
        if let Some(next) = line.strip_suffix(':') {
            name = next.to_owned();
            continue;
        }
        let digits: String = line.split_whitespace().collect();
        for pair in digits.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            let byte = u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{line}"));
            all.entry(name.clone()).or_default().push(byte);
        }
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    let words = bytes.chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect());
    let words: Vec<String> = words.collect();
    words.chunks(16).map(|line| format!("    {}\n", line.join(" "))).collect()
}

fn gateway_with(tables: Tables, cache: bool) -> Gateway {
    let caps = |_| Caps { mtu: 1_500, ..Caps::default() };
    let mut gateway = Gateway::fresh_with(tables, 1, cache, caps);
    gateway.pass(Duration::from_secs(5));
    gateway
}

#[test]
fn frames_enter_and_leave_tunnels_as_written() {
    let golden = golden();
    let frame = |name: &str| golden.get(name).unwrap_or_else(|| panic!("no {name}")).clone();
    let mut wrong = Vec::new();
    let mut compare = |name: &str, seen: &[u8]| {
        if golden.get(name).is_none_or(|expected| expected != seen) {
            wrong.push(format!("{name}:\n{}", hex(seen)));
        }
    };
    for (outer, family) in [(false, "v4"), (true, "v6")] {
        for cache in [true, false] {
            // Bridged both ways, to a station that was learnt.
            let mut gateway = gateway_with(overlay(outer, true), cache);
            introduce(&mut gateway, outer);
            for inner in ["udp4", "udp6", "tcp6_marked", "strange"] {
                for _ in 0..2 {
                    let sent = frame(&format!("{inner} from web"));
                    let seen = gateway.forward(&WEB, sent);
                    compare(&format!("{inner} in {family}"), &seen.frame.bytes);
                }
            }
            // Routed, as DC/OS has it: a hop less, and the other gateway's MAC address.
            let mut gateway = gateway_with(overlay(outer, false), cache);
            for _ in 0..2 {
                let seen = gateway.forward(&WEB, frame("routed from web"));
                compare(&format!("routed in {family}"), &seen.frame.bytes);
                let seen = gateway.forward(&CLIENT, frame(&format!("answer in {family}")));
                compare("answer to web", &seen.frame.bytes);
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "not as written:\n{}", wrong.join(""));
}
