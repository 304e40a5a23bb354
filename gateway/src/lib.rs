//! Portolan's gateway: everything that touches the world around the engine.
//!
//! Namespaces and devices, the threads that run the engine's workers, the supervisor that starts
//! and stops them, and the demo that proves on this machine that it all works. The engine decides
//! about packets; nothing in this crate looks into one. The one hard constraint: whatever is made
//! here (devices, addresses, namespaces) is gone when its owner is dropped, on every path.

#![forbid(unsafe_code)]

pub mod api;
pub mod check;
pub mod client;
pub mod control;
pub mod convert;
pub mod daemon;
pub mod demo;
pub mod devices;
pub mod difference;
mod error;
pub mod explain;
pub mod host;
mod idle;
pub mod leases;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod netlink;
pub mod netns;
mod notify;
mod priority;
pub mod reasons;
pub mod reserve;
mod rings;
pub mod runner;
pub mod show;
pub mod store;
pub mod supervisor;
pub mod trace;
pub mod traffic;
pub mod view;
mod waker;
mod watch;

pub use error::{Error, Place};
pub use idle::IdlePolicy;
pub use waker::Waker;
