//! Whole worlds on a virtual clock, for tests and fuzzing.
//!
//! A [`World`] is one gateway with 1 to 64 workers, hosts in its networks and outside, and wires
//! that may lose, double, reorder and corrupt. A seed decides everything; each frame that leaves
//! the gateway and each thing that a host sees is held against the rules of the gateway, and a
//! broken rule comes with the seed and the events before it. The simulator shares no packet code
//! with the engine. It knows neither threads nor kernels: those are for the drivers' tests.
//!
//! `plan` what a world is like · `topology` its networks · `tunnels` their hosts elsewhere ·
//! `script`, `garbage` what hosts send · `host`, `tcp`, `neighbours`, `assembly`, `payload` the
//! hosts · `wire`, `port`, `steer` how frames travel · `gateway` the workers · `ledger` and `check`
//! what must hold · `world` the clock.

mod assembly;
mod check;
pub mod datagram;
pub mod frames;
mod garbage;
mod gateway;
mod host;
mod ledger;
mod neighbours;
mod payload;
mod plan;
mod port;
mod rng;
mod script;
mod steer;
mod tcp;
mod topology;
mod trace;
mod tunnels;
mod wire;
mod world;

pub use ledger::Outcomes;
pub use plan::{Failure, Output, Plan, Summary, first_difference};
pub use port::{MemoryPort, MemoryWire, WireFrame};
pub use rng::{Rng, mix};
pub use wire::{LinkCounts, LinkPlan};
pub use world::World;
