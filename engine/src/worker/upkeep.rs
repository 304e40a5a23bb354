//! What a worker does without a packet: go over to new tables, announce addresses, ask for
//! neighbours, end idle flows. Each piece is bounded, so a turn never takes long.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::core::TokenBucket;
use super::{Event, Worker};
use crate::counters::DropReason;
use crate::id::{MacAddress, NetworkId, PortId, WorkerId};
use crate::ingress::IngressRule;
use crate::neighbour::Due;
use crate::reply;
use crate::tables::{PortKind, Tables};
use crate::time::Instant;

/// How often upkeep is due. A slot of the timing wheel is about as long.
const UPKEEP_EVERY: Duration = Duration::from_millis(64);
/// Flows looked at per upkeep and family. 1,000,000 flows that all end at once are gone after
/// 1,000,000 / 1,024 upkeeps; more would make a turn longer than 100 us.
const EXPIRE_BUDGET: usize = 1024;
/// Neighbours asked for per upkeep.
const ASK_BUDGET: usize = 64;
/// Announcements per address (RFC 5227 ANNOUNCE_NUM is 2; Docker sends 3).
const ANNOUNCE_COUNT: u8 = 3;
/// Time between them, RFC 5227 ANNOUNCE_INTERVAL is 2 s; Docker's is 1 s.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Announcements sent per upkeep, so that 10,000 endpoints do not flood at once.
const ANNOUNCE_BUDGET: usize = 32;

/// Where an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// All members of a network but the owner.
    Network(NetworkId, Option<PortId>),
    /// The neighbours on an uplink.
    Uplink(PortId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announcement {
    audience: Audience,
    address: IpAddr,
    mac: MacAddress,
    is_router: bool,
}

/// Announcements under way: three gratuitous ARPs or unsolicited NAs for every address that is new.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// Everything that has been announced, so that a new snapshot announces only what is new.
    known: Vec<Announcement>,
    /// Index into `known`, how often it is still sent, and when next.
    queue: std::collections::VecDeque<(usize, u8, Instant)>,
}

impl Announcements {
    pub(super) fn pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Queues what is new in these tables. Allocates: called between turns only.
    fn update(&mut self, tables: &Tables, now: Instant) {
        let wanted = announcements_of(tables);
        let old: std::collections::BTreeSet<_> = self.known.iter().map(Announcement::key).collect();
        self.queue.clear();
        for (index, announcement) in wanted.iter().enumerate() {
            if !old.contains(&announcement.key()) {
                self.queue.push_back((index, ANNOUNCE_COUNT, now));
            }
        }
        self.known = wanted;
    }
}

impl Announcement {
    fn key(&self) -> (u16, u16, IpAddr, MacAddress) {
        let (network, port) = match self.audience {
            Audience::Network(network, port) => (network.0, port.map_or(u16::MAX, |port| port.0)),
            Audience::Uplink(port) => (u16::MAX, port.0),
        };
        (network, port, self.address, self.mac)
    }
}

fn announcements_of(tables: &Tables) -> Vec<Announcement> {
    let mut all = Vec::new();
    for network in tables.networks.iter().flatten() {
        let audience = Audience::Network(network.id, None);
        all.extend(network.subnets.iter().map(|subnet| Announcement {
            audience,
            address: subnet.gateway,
            mac: network.gateway_mac,
            is_router: true,
        }));
    }
    for port in tables.ports.iter().flatten() {
        let PortKind::Endpoint(attachment) = &port.kind else { continue };
        let audience = Audience::Network(attachment.network, Some(port.id));
        let addresses = [attachment.ipv4.map(IpAddr::V4), attachment.ipv6.map(IpAddr::V6)];
        all.extend(addresses.into_iter().flatten().map(|address| Announcement {
            audience,
            address,
            mac: attachment.mac,
            is_router: false,
        }));
    }
    for uplink in tables.uplinks.iter().flatten() {
        let audience = Audience::Uplink(uplink.port);
        all.extend(uplink.addresses.iter().map(|own| Announcement {
            audience,
            address: own.addr(),
            mac: uplink.mac,
            is_router: true,
        }));
    }
    all
}

impl Worker {
    /// Goes over to a new snapshot, between turns. Returns the old one: the supervisor frees it.
    /// Flows are not visited: each revalidates when its next packet comes.
    pub fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        let core = &mut self.core;
        core.rules =
            (0..tables.ports.len()).map(|id| IngressRule::of(PortId(id as u16), &tables)).collect();
        let counted = core.started.len().max(tables.ports.len());
        let floods = TokenBucket::new(tables.limits.floods_per_second);
        core.floods.resize(counted, floods);
        core.started.resize(counted, 0);
        core.stages.bridge.fdb.grow_ports(counted);
        core.egress.refresh_caps();
        for network in tables.networks.iter().flatten() {
            // What was learnt of a station that is a member now is no longer true.
            let macs = network.by_mac.keys();
            macs.for_each(|&mac| core.stages.bridge.fdb.forget_station(network.id, mac));
        }
        if core.id == WorkerId(0) {
            self.announcements.update(&tables, core.now);
        }
        core.generation = tables.generation as u32;
        core.counters.follow(&core.tables, &tables);
        std::mem::replace(&mut core.tables, tables)
    }

    /// The bounded work of a turn that no packet asks for.
    pub(super) fn upkeep(&mut self, now: Instant) {
        if now < self.upkeep_at {
            return;
        }
        self.upkeep_at = now + UPKEEP_EVERY;
        self.v4.expire(&mut self.core, EXPIRE_BUDGET);
        self.v6.expire(&mut self.core, EXPIRE_BUDGET);
        self.ask_neighbours();
        self.announce(now);
        let core = &mut self.core;
        core.stages.bridge.fdb.sweep(core.generation, core.tick);
        let flows = self.v4.table.count() + self.v6.table.count();
        core.counters.worker.flows.set(flows as u64);
        core.counters.worker.stations.set(core.stages.bridge.fdb.count() as u64);
        let (chunks, tails) = core.frames.count();
        core.counters.worker.chunks_free.set(chunks as u64);
        core.counters.worker.tails_free.set(tails as u64);
    }

    fn ask_neighbours(&mut self) {
        for _ in 0..ASK_BUDGET {
            match self.core.neighbours.due(self.core.tick) {
                None => return,
                Some(Due::Ask { port, address, to }) => self.core.ask(port, address, to),
                Some(Due::Failed(id)) => {
                    if let Some((port, address)) = self.core.neighbours.address_of(id) {
                        self.core.event(Event::NeighbourFailed(port, address));
                    }
                    let mut held = std::mem::take(&mut self.core.released);
                    self.core.neighbours.take_held(id, &mut held);
                    for packet in held.drain(..) {
                        self.core.unreachable(packet);
                    }
                    self.core.released = held;
                }
            }
        }
    }

    fn announce(&mut self, now: Instant) {
        for _ in 0..ANNOUNCE_BUDGET {
            let Some(&(index, left, at)) = self.announcements.queue.front() else { return };
            if at > now {
                return;
            }
            self.announcements.queue.pop_front();
            let Some(&announcement) = self.announcements.known.get(index) else { continue };
            self.send_announcement(announcement);
            if left > 1 {
                self.announcements.queue.push_back((index, left - 1, now + ANNOUNCE_EVERY));
            }
        }
    }

    fn send_announcement(&mut self, announcement: Announcement) {
        let Announcement { audience, address, mac, is_router } = announcement;
        let core = &mut self.core;
        let built = match address {
            IpAddr::V4(address) => reply::gratuitous_arp(address, mac, &mut core.frames),
            IpAddr::V6(address) => {
                reply::unsolicited_advertisement(address, mac, is_router, &mut core.frames)
            }
        };
        let Some(packet) = built else {
            return core.counters.dropped(DropReason::NoFrame).add(1);
        };
        match audience {
            Audience::Network(network, owner) => {
                let has_others = core.tables.network(network).is_some_and(|network| {
                    network.members.iter().any(|&member| Some(member) != owner)
                });
                match has_others {
                    true => core.flood_from(packet, network, owner),
                    // Nobody is there to be told: that is no drop.
                    false => packet.recycle(&mut core.frames),
                }
            }
            Audience::Uplink(port) => core.send(port, packet),
        }
    }
}
