//! Announcements: gratuitous ARP and unsolicited neighbour advertisements for addresses that are
//! new, so that nobody goes on with a MAC address that is true no more.
//!
//! Announced are gateways, uplinks, and members that join a network which others are in already, or
//! have another address there. Members that come together with their network are not: nobody can
//! have heard of them, and a thousand members that are told of each other are 3,000,000 frames.
//!
//! Worker 0 sends them, a bounded number of frames at a time: one announcement in a network of
//! 10,000 members is 10,000 frames, which no packet is to wait for.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::adoption::{addresses_of, is_same, stays};
use crate::counters::DropReason;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::reply;
use crate::tables::{PortKind, Tables};
use crate::time::Instant;

/// Announcements per address (RFC 5227 ANNOUNCE_NUM is 2; Docker sends 3).
const ANNOUNCE_COUNT: u8 = 3;
/// Time between them, RFC 5227 ANNOUNCE_INTERVAL is 2 s; Docker's is 1 s.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Frames sent per upkeep. A frame to a TAP takes about 1 us, so packets wait 0.1 ms at most and
/// the CPU is busy with it for less than 1 %.
const ANNOUNCE_BUDGET: usize = 128;

/// Where an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// All members of a network but the owner.
    Network(NetworkId, Option<PortId>),
    /// The neighbours on an uplink.
    Uplink(PortId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    audience: Audience,
    address: IpAddr,
    mac: MacAddress,
    is_router: bool,
}

impl Announcement {
    /// True if these tables still say so.
    fn holds(&self, tables: &Tables) -> bool {
        match self.audience {
            Audience::Network(network, None) => tables.network(network).is_some_and(|network| {
                network.gateway_mac == self.mac && network.is_gateway(self.address)
            }),
            Audience::Network(network, Some(port)) => {
                tables.port(port).is_some_and(|port| match &port.kind {
                    PortKind::Endpoint(own) => {
                        own.network == network && own.mac == self.mac && own.owns(self.address)
                    }
                    PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => false,
                })
            }
            Audience::Uplink(port) => {
                let own = tables.uplinks.iter().flatten().find(|uplink| uplink.port == port);
                own.is_some_and(|own| own.mac == self.mac && own.owns(self.address))
            }
        }
    }
}

/// Announcements that came with one snapshot, and how far they have got.
#[derive(Debug)]
pub(super) struct Run {
    list: Arc<[Announcement]>,
    /// How often the list is still sent.
    left: u8,
    /// When.
    at: Instant,
    /// How far the sending has got: announcement, and member of its network.
    position: usize,
    member: usize,
}

/// Announcements under way: three for every address that is new.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    runs: VecDeque<Run>,
}

impl Announcements {
    pub(super) fn pending(&self) -> bool {
        self.runs.iter().any(|run| run.left > 0)
    }

    /// Takes new ones; those that are done come back, to be freed elsewhere.
    pub(super) fn begin(&mut self, list: &Arc<[Announcement]>, now: Instant) -> Vec<Run> {
        let mut done = Vec::new();
        while self.runs.front().is_some_and(|run| run.left == 0) {
            done.extend(self.runs.pop_front());
        }
        if !list.is_empty() {
            let (list, left) = (list.clone(), ANNOUNCE_COUNT);
            self.runs.push_back(Run { list, left, at: now, position: 0, member: 0 });
        }
        done
    }
}

/// What the new tables say and the old ones did not.
pub(super) fn announcements_of(old: &Tables, new: &Tables) -> Vec<Announcement> {
    let mut all = Vec::new();
    for (index, network) in new.networks.iter().enumerate() {
        let Some(network) = network else { continue };
        let before = old.networks.get(index).and_then(Option::as_ref);
        if before.is_some_and(|before| Arc::ptr_eq(before, network)) {
            continue;
        }
        let known: HashSet<IpAddr> = before
            .filter(|before| before.gateway_mac == network.gateway_mac)
            .map(|before| before.subnets.iter().map(|subnet| subnet.gateway).collect())
            .unwrap_or_default();
        let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
        let (audience, mac) = (Audience::Network(network.id, None), network.gateway_mac);
        let gateways = gateways.filter(|gateway| !known.contains(gateway));
        all.extend(gateways.map(|address| Announcement {
            audience,
            address,
            mac,
            is_router: true,
        }));
    }
    for (index, port) in new.ports.iter().enumerate() {
        let Some(port) = port else { continue };
        let PortKind::Endpoint(attachment) = &port.kind else { continue };
        // Those on an uplink's link may have heard of it before we were there.
        let is_known = stays(old, new, attachment.network)
            || new.network(attachment.network).is_some_and(|network| network.direct.is_some());
        if is_same(old.ports.get(index), port) || !is_known {
            continue;
        }
        let (audience, mac) =
            (Audience::Network(attachment.network, Some(port.id)), attachment.mac);
        let announcements = addresses_of(port).map(|address| Announcement {
            audience,
            address,
            mac,
            is_router: false,
        });
        all.extend(announcements.filter(|announcement| !announcement.holds(old)));
    }
    for uplink in new.uplinks.iter().flatten() {
        let (audience, mac) = (Audience::Uplink(uplink.port), uplink.mac);
        let addresses = uplink.addresses.iter().map(|own| own.addr());
        let announcements =
            addresses.map(|address| Announcement { audience, address, mac, is_router: true });
        all.extend(announcements.filter(|announcement| !announcement.holds(old)));
    }
    all
}

impl Worker {
    /// Sends what is due, a bounded number of frames.
    pub(super) fn announce(&mut self, now: Instant) {
        let mut budget = ANNOUNCE_BUDGET;
        while budget > 0 {
            let mut runs = self.announcements.runs.iter_mut();
            let Some(run) = runs.find(|run| run.left > 0 && run.at <= now) else { return };
            let Some(&announcement) = run.list.get(run.position) else {
                (run.left, run.at) = (run.left - 1, now + ANNOUNCE_EVERY);
                (run.position, run.member) = (0, 0);
                continue;
            };
            let tables = self.core.tables.clone();
            let receivers = match &announcement.audience {
                Audience::Network(network, _) => {
                    tables.network(*network).map_or(&[][..], |network| &network.members)
                }
                Audience::Uplink(port) => std::slice::from_ref(port),
            };
            let rest = receivers.get(run.member..).unwrap_or_default();
            let receivers = &rest[..rest.len().min(budget)];
            budget = budget.saturating_sub(receivers.len().max(1));
            if receivers.len() == rest.len() {
                (run.position, run.member) = (run.position + 1, 0);
            } else {
                run.member += receivers.len();
            }
            if announcement.holds(&tables) {
                self.send_announcement(announcement, receivers);
            }
        }
    }

    fn send_announcement(&mut self, announcement: Announcement, receivers: &[PortId]) {
        let Announcement { audience, address, mac, is_router } = announcement;
        let owner = match audience {
            // The gateways of an overlay have one address: none tells the others where it is.
            Audience::Network(network, None) => self.core.trunk_of(network),
            Audience::Network(_, owner) => owner,
            Audience::Uplink(_) => None,
        };
        if receivers.iter().all(|&receiver| Some(receiver) == owner) {
            // Nobody is there to be told: that is no drop.
            return;
        }
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
            Audience::Network(..) => {
                core.send_copies(packet, receivers, |_, port| Some(port) != owner)
            }
            Audience::Uplink(port) => core.send(port, packet),
        }
    }
}
