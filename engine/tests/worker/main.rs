//! What the gateway does, sentence by sentence: frames in, frames out.
//!
//! A [`Gateway`](gateway::Gateway) with 1, 2 or 4 workers gets the frames that one host sends and
//! shows everything that leaves, so each test reads as one sentence about one packet or two. Hard
//! constraint: no test knows how the engine works inside. Whole worlds with random traffic are the
//! simulator's; what each stage decides is tested beside the stage.

// A helper that cannot unwrap cannot fail a test.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod announcements;
mod answers;
mod bridging;
mod changes;
mod clamp;
mod errors;
mod explain;
mod filtering;
mod floods;
mod forwarding;
mod fragments;
mod gateway;
mod golden;
mod lanes;
mod lifetimes;
mod masquerade;
mod mtu;
mod multicast;
mod neighbours;
mod outside;
mod overlay;
mod paths;
mod policy;
mod sctp;
mod spoofing;
mod super_frames;
mod tcp;
mod trace;
mod translated;
mod tunnel_faults;
mod tunnels;
mod twins;
mod underlay;
mod unequal;
mod views;
