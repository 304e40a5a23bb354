//! A script of packets through whole workers: see `fuzz::script` for its letters.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| fuzz::script::run(script));
