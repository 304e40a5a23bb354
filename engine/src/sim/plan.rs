//! What a world is to be like, and what came of it.

use std::fmt;

use super::ledger::Outcomes;
use super::port::WireFrame;
use super::rng::{Rng, mix};
use super::topology::TopologyPlan;
use super::trace::words;
use super::wire::{LinkCounts, LinkPlan};
use crate::counters::DropReason;
use crate::id::PortId;

/// What a world is to be like. A plan and the code decide everything that happens in it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// Number of workers.
    pub workers: usize,
    /// Flows repeat their decision; see `WorkerParts::cache`.
    pub cache: bool,
    /// How all wires behave.
    pub link: LinkPlan,
    /// Questions that hosts ask.
    pub question_count: u32,
    /// Endpoints and outside hosts send garbage too.
    pub hostile: bool,
    /// Snapshots of equal content that replace the first one meanwhile.
    pub reload_count: u32,
    /// Some questions are larger than a packet.
    pub fragments: bool,
    /// Ports may take partial checksums and super-frames.
    pub offloads: bool,
    /// MTU of the uplink and everything outside, bytes.
    pub uplink_mtu: u16,
    /// Two networks are overlays, with hosts behind other machines; true: by tunnels of IPv6.
    pub tunnels: Option<bool>,
    /// Nothing happens at the end for so long that every flow must expire.
    pub idle: bool,
    /// Longest time from a frame's arrival to the worker's turn, nanoseconds.
    pub turn_delay_ns_max: u64,
    /// Half way, some published ports are published no more.
    pub withdraw: bool,
    /// Frames, tables, rings and ports are too small: nothing needs to work, but every rule holds.
    pub tight: bool,
    /// Keep every output frame, to find the first one that differs.
    pub keep_log: bool,
    /// Events that a failure shows.
    pub trace_len: usize,
}

impl Plan {
    /// A world in which nothing is lost, so everything must work at the first try.
    pub fn lossless(seed: u64, workers: usize) -> Plan {
        Plan {
            seed,
            workers,
            cache: true,
            link: LinkPlan { delay_ns_min: 5_000, delay_ns_max: 200_000, ..LinkPlan::default() },
            question_count: 120,
            hostile: false,
            reload_count: 3,
            fragments: true,
            offloads: true,
            uplink_mtu: 1_500,
            tunnels: None,
            idle: false,
            turn_delay_ns_max: 20_000,
            withdraw: true,
            tight: false,
            keep_log: false,
            trace_len: 80,
        }
    }

    /// A world with bad wires. Streams must arrive whole and answers come in the end.
    pub fn lossy(seed: u64, workers: usize) -> Plan {
        let mut rng = Rng::new(mix(seed ^ 0x6c6f_7373));
        let mut chance = |most: u64| rng.below(most + 1) as u32;
        Plan {
            link: LinkPlan {
                delay_ns_min: 5_000,
                delay_ns_max: 2_000_000,
                lost: chance(100),
                duplicated: chance(50),
                overtaken: chance(100),
                corrupted: chance(50),
            },
            withdraw: false,
            ..Plan::lossless(seed, workers)
        }
    }

    /// A world in which everything that can be full is full.
    pub fn tight(seed: u64, workers: usize) -> Plan {
        Plan { tight: true, hostile: true, ..Plan::lossy(seed, workers) }
    }

    /// A world with good wires and bad hosts: honest traffic must not suffer.
    pub fn hostile(seed: u64, workers: usize) -> Plan {
        Plan { hostile: true, ..Plan::lossless(seed, workers) }
    }

    /// A world with overlays, on good wires or bad ones. The uplink takes whole packets in tunnels.
    pub fn tunnelled(seed: u64, workers: usize) -> Plan {
        let plan = match seed % 3 {
            0 => Plan::lossless(seed, workers),
            1 => Plan::hostile(seed, workers),
            _ => Plan::lossy(seed, workers),
        };
        Plan { tunnels: Some(seed / 3 % 2 == 1), uplink_mtu: 1_570, ..plan }
    }

    pub(super) fn is_lossless(&self) -> bool {
        self.link.lost + self.link.duplicated + self.link.overtaken + self.link.corrupted == 0
    }

    /// True if hosts or wires make packets that no honest host sends.
    pub(super) fn has_broken_inputs(&self) -> bool {
        self.hostile || self.link.corrupted > 0
    }

    pub(super) fn topology(&self, rng: &mut Rng) -> TopologyPlan {
        TopologyPlan {
            uplink_mtu: self.uplink_mtu,
            offloads: self.offloads,
            // Behind a tunnel nobody knows who may talk to whom.
            icc: rng.chance(700) || self.tunnels.is_some(),
            tunnels: self.tunnels,
            tight: self.tight,
            short_timeouts: self.idle,
        }
    }
}

/// What left by one port: enough to compare two runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How many frames.
    pub frame_count: u64,
    /// Of all bytes and offloads, in their order.
    pub hash: u64,
}

impl Output {
    pub(super) fn add(&mut self, now_ns: u64, frame: &WireFrame) {
        self.frame_count += 1;
        let mut hash = mix(self.hash ^ now_ns);
        for chunk in frame.bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        for byte in format!("{:?} {}", frame.offload, frame.bytes.len()).bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        self.hash = hash;
    }
}

/// What came of a world in which every invariant held.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How the questions ended.
    pub outcomes: Outcomes,
    /// What the wires did.
    pub links: LinkCounts,
    /// By port.
    pub outputs: Vec<Output>,
    /// What the gateway dropped.
    pub drops: Vec<(DropReason, u64)>,
    /// Turns of all workers.
    pub turn_count: u64,
    /// Frames that came to the gateway in tunnels, and that it sent into some.
    pub tunnelled: (u64, u64),
    /// Packets that arrived at a worker that was not their home.
    pub handed_over: u64,
    /// Frames of garbage sent.
    pub garbage_count: u64,
    /// Broken frames that left because broken ones came in.
    pub excused_count: u64,
    /// Every output, if the plan keeps them.
    pub log: Vec<(u64, PortId, WireFrame)>,
}

/// A broken invariant, and how to see it again.
#[derive(Clone)]
pub struct Failure {
    /// The world.
    pub plan: Plan,
    /// What broke.
    pub what: String,
    /// What happened last.
    pub trace: String,
    /// Every output, if the plan keeps them.
    pub log: Vec<(u64, PortId, WireFrame)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { plan, what, trace, .. } = self;
        write!(f, "seed {} breaks: {what}\n{plan:#?}\n{trace}seed {}: {what}", plan.seed, plan.seed)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// Says where two runs' outputs differ first; `None` if they are equal byte by byte.
pub fn first_difference(one: &Summary, other: &Summary) -> Option<String> {
    if one.outputs == other.outputs {
        return None;
    }
    let pairs = one.log.iter().zip(&other.log);
    match pairs.into_iter().position(|(one, other)| one != other) {
        Some(index) => {
            let show = |(at_ns, port, frame): &(u64, PortId, WireFrame)| {
                format!("{at_ns} ns, port {}: {}\n{:02x?}", port.0, words(frame), frame.bytes)
            };
            let (one, other) = (show(&one.log[index]), show(&other.log[index]));
            Some(format!("output {index} differs:\n{one}\n{other}"))
        }
        None => Some(format!("{:?} against {:?}", one.outputs, other.outputs)),
    }
}
