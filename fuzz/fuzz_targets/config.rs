//! Any text through the config: it becomes tables or errors, never a panic.
//!
//! What parses must also print its errors or its tables; nothing is checked about which. Input that
//! is no UTF-8 is not given: files are read as text before they come here.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fuzz::config::run(text));
