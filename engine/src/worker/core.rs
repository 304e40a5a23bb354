//! What both flow tables of a worker work with: everything a worker has but the flows themselves.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Event;
use super::encap::CrossingTunnels;
use super::eviction::Sources;
use super::membership::Reports;
use super::translated::Crossing;
use crate::counters::{Counters, DropReason};
use crate::egress::Egress;
use crate::flow::AdjacencyId;
use crate::frame::FramePool;
use crate::groups::Groups;
use crate::hand_over::{HandOverRings, Message};
use crate::id::{MacAddress, PortId, WorkerId};
use crate::ingress::IngressRule;
use crate::neighbour::Neighbours;
use crate::packet::Packet;
use crate::pipeline::Stages;
use crate::stage::{Cx, NextHop};
use crate::tables::{PortKind, Tables};
use crate::time::{Instant, Tick};
use crate::tunnel::Tunnels;

/// Events that wait for the runner; further ones are dropped, they are repeated by their cause.
const EVENTS_MAX: usize = 32;

/// A rate that may not be exceeded: tokens that refill with time, a second's worth at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    tokens_ns: u64,
    ns_per_token: u64,
    filled_at: Instant,
}

const SECOND_NS: u64 = 1_000_000_000;

impl TokenBucket {
    pub(super) fn new(per_second: u32) -> TokenBucket {
        let ns_per_token = SECOND_NS / u64::from(per_second.max(1));
        TokenBucket { tokens_ns: SECOND_NS, ns_per_token, filled_at: Instant(0) }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed_ns = now.0.saturating_sub(self.filled_at.0);
        self.filled_at = now;
        self.tokens_ns = self.tokens_ns.saturating_add(passed_ns).min(SECOND_NS);
        match self.tokens_ns.checked_sub(self.ns_per_token) {
            Some(rest) => {
                self.tokens_ns = rest;
                true
            }
            None => false,
        }
    }
}

/// A worker without its flows.
pub(super) struct Core {
    pub(super) id: WorkerId,
    pub(super) worker_count: usize,
    pub(super) seed: u64,
    pub(super) cache: bool,
    pub(super) tables: Arc<Tables>,
    /// Generation of the tables, modulo 2^32, as the FDB keeps it.
    pub(super) generation: u32,
    /// Changes whenever a decision may have become another one: with new tables, and with what is
    /// known of paths. A flow that has it repeats its action.
    pub(super) stamp: u32,
    pub(super) counters: Arc<Counters>,
    pub(super) frames: FramePool,
    pub(super) rings: HandOverRings,
    pub(super) rules: Arc<[Option<IngressRule>]>,
    pub(super) egress: Egress,
    pub(super) tunnels: Arc<Tunnels>,
    /// By tunnel, the next hop of its outer packets; none before the first.
    pub(super) underlay: Vec<Option<AdjacencyId>>,
    pub(super) crossing_tunnels: CrossingTunnels,
    pub(super) stages: Stages,
    pub(super) neighbours: Neighbours,
    pub(super) floods: Vec<TokenBucket>,
    /// When to say which groups our tunnels are in.
    pub(super) reports: Reports,
    /// Who is in which multicast group.
    pub(super) groups: Groups,
    pub(super) moves: TokenBucket,
    pub(super) answers: TokenBucket,
    /// Bounds the ICMP errors that are carried through.
    pub(super) errors: TokenBucket,
    /// Bounds what is learnt of paths.
    pub(super) path_changes: TokenBucket,
    /// Flows that each port has started.
    pub(super) started: Vec<u32>,
    pub(super) flows_per_port_max: u32,
    pub(super) half_open_per_port_max: u32,
    /// Flows that each outside address has begun.
    pub(super) sources: Sources,
    pub(super) events: ArrayVec<Event, EVENTS_MAX>,
    pub(super) wakes: u64,
    pub(super) now: Instant,
    pub(super) tick: Tick,
    /// Flows between address families that this worker has.
    pub(super) translated: u32,
    /// Packets that cross to the other family; empty between calls.
    pub(super) crossing: Vec<Crossing>,
    /// Room for packets that waited and go on; empty between calls.
    pub(super) released: Vec<Packet>,
    /// Room for pieces of a packet that go into tunnels; empty between calls.
    pub(super) pieces: Vec<Packet>,
}

impl Core {
    /// What the stages see beside the input.
    pub(super) fn stages_and_cx(&mut self) -> (&mut Stages, Cx<'_>) {
        let cx = Cx {
            tables: &self.tables,
            worker: self.id,
            worker_count: self.worker_count,
            tick: self.tick,
            seed: self.seed,
        };
        (&mut self.stages, cx)
    }

    #[inline(always)]
    pub(super) fn rule(&self, port: PortId) -> Option<&IngressRule> {
        self.rules.get(port.index())?.as_ref()
    }

    /// Counts a packet under a reason and recycles it.
    pub(super) fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.counters.dropped(reason).add(1);
        if let Some(port) = self.counters.port(packet.meta.ingress) {
            port.rx_dropped.add(1);
        }
        packet.recycle(&mut self.frames);
    }

    #[inline(always)]
    pub(super) fn send(&mut self, port: PortId, packet: Packet) {
        if !self.egress.has(port) {
            return self.send_without_device(port, packet);
        }
        self.egress.send(port, packet, &mut self.frames, &self.counters);
    }

    /// Hands a packet over to the worker it belongs to.
    pub(super) fn hand_over(&mut self, to: WorkerId, packet: Packet, hops: u8) {
        /// Port to hash of a fragment, hash to home: more would mean that workers disagree.
        const HOPS_MAX: u8 = 2;
        if hops >= HOPS_MAX {
            return self.drop(packet, DropReason::HandOverLoop);
        }
        match self.rings.send(to, Message::Packet(packet, hops + 1)) {
            Ok(()) => {
                self.counters.worker.handed_over.add(1);
                self.wakes |= 1 << to.index();
            }
            Err(Message::Packet(packet, _)) => self.drop(packet, DropReason::HandOverFull),
            Err(_) => unreachable!("a ring gives back what it was given"),
        }
    }

    /// Tells all other workers what this one has learnt. A full ring loses it: the fact is told
    /// again when it is confirmed.
    pub(super) fn tell(&mut self, message: impl Fn() -> Message) {
        for other in 0..self.worker_count {
            if other != self.id.index() && self.rings.send(WorkerId(other as u8), message()).is_ok()
            {
                self.wakes |= 1 << other;
            }
        }
    }

    /// The gateway's MAC address on a port.
    pub(super) fn own_mac(&self, port: PortId) -> MacAddress {
        MacAddress(self.rule(port).map_or(0, |rule| rule.gateway_mac))
    }

    /// The gateway's address on a port, to speak from.
    pub(super) fn own_address(&self, port: PortId, v6: bool) -> Option<IpAddr> {
        match &self.tables.port(port)?.kind {
            PortKind::Endpoint(attachment) => {
                self.tables.network(attachment.network)?.gateway_of(v6)
            }
            PortKind::Uplink(uplink) => self.tables.uplink(*uplink)?.address_of(v6),
            PortKind::Tunnel(tunnel) => self.tables.network(tunnel.network)?.gateway_of(v6),
            PortKind::Lane(_) => None,
        }
    }

    /// The adjacency of a next hop. `Err`: no room, or the port is gone.
    pub(super) fn adjacency(&mut self, hop: NextHop) -> Result<AdjacencyId, DropReason> {
        if hop.port() == PortId::TURN {
            return Ok(AdjacencyId::TURN);
        }
        let rule = self.rule(hop.port()).ok_or(DropReason::PortGone)?;
        let (mac, own) = (MacAddress(rule.mac), MacAddress(rule.gateway_mac));
        let found = match hop {
            NextHop::Endpoint(port) => self.neighbours.endpoint(port, mac, own),
            NextHop::Neighbour(port, address) => {
                let member = if rule.lanes { self.tables.member_on(port, address) } else { None };
                match (member, self.tables.static_mac(port, address)) {
                    (Some(member), _) => {
                        let mac = self.rule(member).ok_or(DropReason::PortGone)?.mac;
                        self.neighbours.endpoint(member, MacAddress(mac), own)
                    }
                    (None, Some(mac)) => self.neighbours.known(port, address, mac, own),
                    (None, None) => self.neighbours.neighbour(port, address, own, self.tick),
                }
            }
        };
        found.ok_or(DropReason::NeighbourTableFull)
    }

    /// Counts an event for the runner.
    pub(super) fn event(&mut self, event: Event) {
        // When the runner does not keep up the event is lost; its state is in the counters.
        let _ = self.events.try_push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_not_exceeded_and_recovers() {
        let mut bucket = TokenBucket::new(10);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, Instant(SECOND_NS)), 10);
        assert_eq!(taken(&mut bucket, Instant(SECOND_NS)), 0);
        assert_eq!(taken(&mut bucket, Instant(SECOND_NS * 3 / 2)), 5);
        assert_eq!(taken(&mut bucket, Instant(SECOND_NS * 100)), 10);
    }
}
