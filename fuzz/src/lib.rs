//! What the fuzz targets do with their input.
//!
//! A target proves more than "no panic": frames are conserved, what is sent is well-formed and no
//! longer than the MTU, and the flow cache changes nothing but the time that it takes. Nothing here
//! reads a clock or a random number, so an input replays exactly.

#![forbid(unsafe_code)]

pub mod config;
pub mod dialect;
pub mod script;

mod host;
mod judge;
mod world;
