//! Any text as a file of the dialect dcos: it becomes a config or errors, never a panic.

#![no_main]

use config::Dialect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fuzz::dialect::run(Dialect::Dcos, text));
