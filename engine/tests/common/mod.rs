//! The small gateway that the engine's tests are about: who there is, the tables, and the frames
//! that hosts send.
//!
//! ```text
//!  front 10.1.0.0/24, fd00:1::/64    web .10   db .11   vm .12   farm .13 (vm, farm: may learn)
//!  back  10.2.0.0/24, fd00:2::/64    app .10
//!  safe  10.3.0.0/24, fd00:3::/64    vault .10 (internal)
//!  wan   192.0.2.10,  2001:db8::10   client .50 and router .1 on the link, far behind the router
//! ```
//!
//! Network front may go on behind tunnels to the client and to the router ([`overlay`]).
//!
//! Frames are built by the simulator's code, which shares nothing with the engine. Nothing here
//! turns a worker.

// Each test binary uses its part of this.
#![allow(dead_code)]

mod frames;
mod lanes;
mod overlays;
mod tables;

pub(crate) use frames::*;
pub(crate) use lanes::*;
pub(crate) use overlays::*;
pub(crate) use tables::*;
