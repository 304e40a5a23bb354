//! Portolan's benchmarks: what they share, and the one that runs on real interfaces.
//!
//! The instruction-count and wall-clock benches of the engine stand in `benches/`; [`system`] is
//! the benchmark behind `portolan bench`. The hard constraint: nothing here links the gateway.
//! Portolan is measured as its users run it, as a process with a config file. No figure of this
//! crate is a claim in itself: figures are ratios against a peer that ran in the same minute.
#![forbid(unsafe_code)]

pub mod memory;
pub mod system;
