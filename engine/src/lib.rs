//! Portolan's engine: bytes and time in, bytes out.
//!
//! The first packet of a flow is *decided* by stages, the decision is kept as a `FlowAction`, and
//! one executor *repeats* it for every packet that follows. No I/O, no threads, no clock, no
//! unsafe, no locks and no allocation on the packet path: what runs here in a test runs the same
//! in production.

#![forbid(unsafe_code)]

pub mod copier;
pub mod counters;
mod cut;
mod decapsulate;
mod egress;
mod encapsulate;
mod execute;
pub mod explain;
mod fdb;
pub mod flow;
mod fragmentation;
pub mod frame;
mod glue;
mod groups;
pub mod hand_over;
pub mod id;
mod ingress;
#[cfg(test)]
mod judge;
mod lane;
pub mod limits;
mod mss;
mod multihoming;
mod neighbour;
pub mod packet;
mod parse;
mod paths;
mod pipeline;
pub mod port;
mod quote;
mod reply;
#[cfg(feature = "sim")]
pub mod sim;
mod stage;
mod steer;
pub mod tables;
mod time;
pub mod trace;
mod translate;
mod tunnel;
pub mod wire;
pub mod worker;

pub use counters::{Counters, DropReason};
pub use id::{MacAddress, NetworkId, PortId, UplinkId, WorkerId};
pub use packet::{Batch, Offload, Packet};
pub use port::{Caps, Port, PortSet};
pub use tables::Tables;
pub use time::{Instant, Tick};
pub use worker::Worker;
