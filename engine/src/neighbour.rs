//! Neighbours and adjacencies: where a routed packet is sent, with which MAC addresses.
//!
//! An *adjacency* is what flows point at: an egress port and twelve bytes of MAC addresses. Of an
//! endpoint it is known from the tables; of a neighbour on an uplink it is resolved by ARP or ND.
//! When a neighbour's MAC address changes, the adjacency changes and all its flows follow.
//!
//! ```text
//! (none) -- first packet --> Incomplete -- answer --> Reachable -- 30 s --> Probing -- answer -+
//!                             | 3 tries                   ^                   | 3 tries     |
//!                             v                           +-------------------|-------------+
//!                           Failed (packets dropped) <------------------------+
//! ```
//!
//! Only addresses that we asked for are learnt: an unsolicited answer creates nothing. An entry
//! lives while flows use it. Packets that wait are few and bounded; they are sent in order.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::flow::{AdjacencyId, Index, Wheel, mix, seed_for};
use crate::id::{MacAddress, PortId};
use crate::packet::Packet;
use crate::time::Tick;
use crate::worker::{NeighbourState, NeighbourView};

/// Time between two requests, RFC 4861 RETRANS_TIMER.
const RETRY: Duration = Duration::from_secs(1);
/// Requests before a neighbour counts as unreachable, RFC 4861 MAX_MULTICAST_SOLICIT.
const TRIES_MAX: u8 = 3;
/// How long an answer is trusted, RFC 4861 REACHABLE_TIME.
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a neighbour that failed is not asked again.
const FAILED: Duration = Duration::from_secs(3);
/// Packets that wait for all neighbours together.
pub(crate) const HELD_MAX: usize = 1024;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Adjacency {
    /// Destination and source MAC address, as they go on the wire.
    pub(crate) macs: [u8; 12],
    pub(crate) port: PortId,
    /// False: the destination is not known (yet).
    pub(crate) resolved: bool,
}

impl Adjacency {
    /// The MAC addresses as they are stored into a packet.
    #[inline(always)]
    pub(crate) fn macs(&self) -> Macs {
        let [start, end] = [0, 8].map(|offset| &self.macs[offset..]);
        Macs {
            start: u64::from_ne_bytes(*start.first_chunk().expect("12 bytes")),
            end: u32::from_ne_bytes(*end.first_chunk().expect("12 bytes")),
        }
    }
}

/// Destination and source MAC address in two words, which stay in registers for many packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Macs {
    start: u64,
    end: u32,
}

impl Macs {
    #[inline(always)]
    pub(crate) fn store(self, bytes: &mut [u8; 12]) {
        bytes[..8].copy_from_slice(&self.start.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.end.to_ne_bytes());
    }
}

impl Default for PortId {
    fn default() -> PortId {
        PortId(u16::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Of an endpoint: always known.
    Endpoint,
    Incomplete {
        tries: u8,
    },
    Reachable,
    Probing {
        tries: u8,
    },
    Failed,
}

impl State {
    /// As others see it; `None` for an endpoint, which is no neighbour.
    fn seen(self) -> Option<NeighbourState> {
        match self {
            State::Endpoint => None,
            State::Incomplete { .. } => Some(NeighbourState::Incomplete),
            State::Reachable => Some(NeighbourState::Reachable),
            State::Probing { .. } => Some(NeighbourState::Probing),
            State::Failed => Some(NeighbourState::Failed),
        }
    }
}

/// An endpoint is told by its port alone.
const ENDPOINT: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    address: IpAddr,
    state: State,
    users: u32,
    held: u32,
}

/// What a timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Ask for the neighbour: everybody, or the MAC address that it had.
    Ask { port: PortId, address: IpAddr, to: Option<MacAddress> },
    /// It does not answer: drop what waits for it.
    Failed(AdjacencyId),
}

/// Why a packet cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHold {
    /// The neighbour failed a moment ago.
    Failed,
    /// Too many wait.
    Full,
}

fn hash(seed: u64, port: PortId, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let low = bits as u64 ^ u64::from(port.0) << 44;
    mix(low ^ seed, (bits >> 64) as u64 ^ seed_for(seed, 1))
}

/// All adjacencies of a worker.
#[derive(Debug)]
pub(crate) struct Neighbours {
    adjacencies: Box<[Adjacency]>,
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    index: Index,
    /// The neighbour and the endpoint found last: flow after flow begins between the same two.
    recent: [u32; 2],
    wheel: Wheel,
    held: Vec<(AdjacencyId, Packet)>,
    held_per_neighbour: u32,
    seed: u64,
}

impl Neighbours {
    pub(crate) fn new(capacity: usize, held_per_neighbour: u32, seed: u64, now: Tick) -> Self {
        Neighbours {
            adjacencies: vec![Adjacency::default(); capacity].into_boxed_slice(),
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            index: Index::new(capacity),
            recent: [0; 2],
            wheel: Wheel::new(capacity, now),
            held: Vec::with_capacity(HELD_MAX),
            held_per_neighbour,
            seed: seed_for(seed, 50),
        }
    }

    #[inline(always)]
    pub(crate) fn get(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)
    }

    fn find(&mut self, port: PortId, address: IpAddr) -> Option<AdjacencyId> {
        let same = |id: u32| {
            let entry = self.entries.get(id as usize).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.port == port && entry.address == address)
        };
        let recent = &mut self.recent[usize::from(address == ENDPOINT)];
        if !same(*recent) {
            let hash = hash(self.seed, port, address);
            *recent = self.index.find(hash, same)?;
        }
        Some(AdjacencyId(*recent))
    }

    fn create(&mut self, port: PortId, address: IpAddr, state: State) -> Option<AdjacencyId> {
        let id = self.free.pop()?;
        if !self.index.insert(hash(self.seed, port, address), id) {
            self.free.push(id);
            return None;
        }
        self.entries[id as usize] = Some(Entry { port, address, state, users: 0, held: 0 });
        self.adjacencies[id as usize] = Adjacency { macs: [0; 12], port, resolved: false };
        Some(AdjacencyId(id))
    }

    /// The adjacency of an endpoint. `None`: no room.
    pub(crate) fn endpoint(
        &mut self,
        port: PortId,
        mac: MacAddress,
        own: MacAddress,
    ) -> Option<AdjacencyId> {
        let found = self.find(port, ENDPOINT);
        let id = found.or_else(|| self.create(port, ENDPOINT, State::Endpoint))?;
        self.adjacencies[id.0 as usize] = Adjacency { macs: macs(mac, own), port, resolved: true };
        Some(id)
    }

    /// The adjacency of a neighbour, to be asked for if it is new. `None`: no room.
    pub(crate) fn neighbour(
        &mut self,
        port: PortId,
        address: IpAddr,
        own: MacAddress,
        now: Tick,
    ) -> Option<AdjacencyId> {
        if let Some(id) = self.find(port, address) {
            self.adjacencies[id.0 as usize].macs[6..].copy_from_slice(&own.bytes());
            return Some(id);
        }
        let id = self.create(port, address, State::Incomplete { tries: 0 })?;
        self.adjacencies[id.0 as usize].macs[6..].copy_from_slice(&own.bytes());
        self.wheel.set(id.0, now, 0);
        Some(id)
    }

    /// The adjacency of a host whose MAC address is configured. `None`: no room.
    pub(crate) fn known(
        &mut self,
        port: PortId,
        address: IpAddr,
        mac: MacAddress,
        own: MacAddress,
    ) -> Option<AdjacencyId> {
        let found = self.find(port, address);
        let id = found.or_else(|| self.create(port, address, State::Endpoint))?;
        if let Some(entry) = &mut self.entries[id.0 as usize] {
            entry.state = State::Endpoint;
        }
        self.wheel.cancel(id.0);
        self.adjacencies[id.0 as usize] = Adjacency { macs: macs(mac, own), port, resolved: true };
        Some(id)
    }

    /// A flow uses the adjacency.
    pub(crate) fn hold(&mut self, id: AdjacencyId) {
        if let Some(Some(entry)) = self.entries.get_mut(id.0 as usize) {
            entry.users += 1;
        }
    }

    /// A flow uses it no more. Unused neighbours go when their timer comes due, so that a new flow
    /// to the same one need not ask again; endpoints stay, there are no more than ports.
    pub(crate) fn release(&mut self, id: AdjacencyId) {
        if let Some(Some(entry)) = self.entries.get_mut(id.0 as usize) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    fn remove(&mut self, id: AdjacencyId) {
        let Some(entry) = self.entries[id.0 as usize].take() else { return };
        self.index.remove(hash(self.seed, entry.port, entry.address), id.0);
        self.wheel.cancel(id.0);
        self.adjacencies[id.0 as usize] = Adjacency::default();
        self.free.push(id.0);
    }

    /// Lets a packet wait for a neighbour. Returns whom to ask at once, if nobody was asked yet;
    /// gives the packet back with the reason when it cannot wait.
    pub(crate) fn wait(
        &mut self,
        id: AdjacencyId,
        packet: Packet,
        now: Tick,
    ) -> Result<Option<(PortId, IpAddr)>, (Packet, NoHold)> {
        let Some(Some(entry)) = self.entries.get_mut(id.0 as usize) else {
            return Err((packet, NoHold::Failed));
        };
        if entry.state == State::Failed {
            return Err((packet, NoHold::Failed));
        }
        if entry.held >= self.held_per_neighbour || self.held.len() >= HELD_MAX {
            return Err((packet, NoHold::Full));
        }
        let mut ask = None;
        if entry.state == (State::Incomplete { tries: 0 }) {
            entry.state = State::Incomplete { tries: 1 };
            self.wheel.set(id.0, now, Tick::count(RETRY));
            ask = Some((entry.port, entry.address));
        }
        entry.held += 1;
        self.held.push((id, packet));
        Ok(ask)
    }

    /// Takes the packets that wait for a neighbour, in order, up to what `out` holds.
    pub(crate) fn take_held(&mut self, id: AdjacencyId, out: &mut Vec<Packet>) {
        out.extend(self.held.extract_if(.., |(held, _)| *held == id).map(|(_, packet)| packet));
        if let Some(Some(entry)) = self.entries.get_mut(id.0 as usize) {
            entry.held = 0;
        }
    }

    /// A neighbour said where it is. Returns its adjacency if packets may wait for it.
    pub(crate) fn learn(
        &mut self,
        port: PortId,
        address: IpAddr,
        mac: MacAddress,
        now: Tick,
    ) -> Option<AdjacencyId> {
        let id = self.find(port, address)?;
        let entry = self.entries[id.0 as usize].as_mut()?;
        entry.state = State::Reachable;
        let adjacency = &mut self.adjacencies[id.0 as usize];
        adjacency.macs[..6].copy_from_slice(&mac.bytes());
        adjacency.resolved = true;
        self.wheel.set(id.0, now, Tick::count(REACHABLE));
        (entry.held > 0).then_some(id)
    }

    /// The next thing that a timer asks for.
    pub(crate) fn due(&mut self, now: Tick) -> Option<Due> {
        while let Some(id) = self.wheel.due(now) {
            let id = AdjacencyId(id);
            let Some(entry) = self.entries[id.0 as usize].as_mut() else { continue };
            if entry.users == 0
                && entry.held == 0
                && entry.state != (State::Incomplete { tries: 0 })
            {
                self.remove(id);
                continue;
            }
            let Entry { port, address, .. } = *entry;
            let adjacency = &mut self.adjacencies[id.0 as usize];
            let known = MacAddress::new(*adjacency.macs.first_chunk().expect("12 bytes hold 6"));
            let (state, wait, to) = match entry.state {
                State::Endpoint => continue,
                State::Incomplete { tries } if tries < TRIES_MAX => {
                    (State::Incomplete { tries: tries + 1 }, RETRY, None)
                }
                State::Reachable => (State::Probing { tries: 1 }, RETRY, Some(known)),
                State::Probing { tries } if tries < TRIES_MAX => {
                    (State::Probing { tries: tries + 1 }, RETRY, Some(known))
                }
                State::Incomplete { .. } | State::Probing { .. } => {
                    entry.state = State::Failed;
                    adjacency.resolved = false;
                    self.wheel.set(id.0, now, Tick::count(FAILED));
                    return Some(Due::Failed(id));
                }
                State::Failed => (State::Incomplete { tries: 1 }, RETRY, None),
            };
            entry.state = state;
            self.wheel.set(id.0, now, Tick::count(wait));
            return Some(Due::Ask { port, address, to });
        }
        None
    }

    /// Which neighbour an adjacency is of.
    pub(crate) fn address_of(&self, id: AdjacencyId) -> Option<(PortId, IpAddr)> {
        let entry = self.entries.get(id.0 as usize)?.as_ref()?;
        Some((entry.port, entry.address))
    }

    /// What is known of a neighbour; `None`: nobody has asked for it.
    pub(crate) fn look(
        &self,
        port: PortId,
        address: IpAddr,
    ) -> Option<(NeighbourState, Option<MacAddress>)> {
        let place = |id: u32| self.entries.get(id as usize).and_then(Option::as_ref);
        let same =
            |id: u32| place(id).is_some_and(|entry| entry.port == port && entry.address == address);
        // Whoever only looks does not become the one that was asked for last.
        let id = self.index.find(hash(self.seed, port, address), same)?;
        let state = place(id)?.state.seen()?;
        let macs = self.get(AdjacencyId(id))?.macs;
        let mac = MacAddress::new(*macs.first_chunk().expect("12 bytes hold 6"));
        Some((state, (mac != MacAddress::default()).then_some(mac)))
    }

    /// Appends the neighbours of at most so many places from `from` on, within the capacity of
    /// `out`. Endpoints are none. Returns where to go on; `None`: that was all.
    pub(crate) fn view(&self, from: u32, places: u32, out: &mut Vec<NeighbourView>) -> Option<u32> {
        let end = (from.saturating_add(places)).min(self.entries.len() as u32);
        for position in from..end {
            if out.len() == out.capacity() {
                return Some(position);
            }
            let Some(entry) = &self.entries[position as usize] else { continue };
            let Some(state) = entry.state.seen() else { continue };
            let macs = self.adjacencies[position as usize].macs;
            let mac = MacAddress::new(*macs.first_chunk().expect("12 bytes hold 6"));
            out.push(NeighbourView {
                port: entry.port,
                address: entry.address,
                mac: (mac != MacAddress::default()).then_some(mac),
                state,
                users: entry.users,
                held: entry.held,
            });
        }
        (end < self.entries.len() as u32).then_some(end)
    }

    /// True while a timer runs.
    pub(crate) fn has_timers(&self) -> bool {
        !self.wheel.is_empty()
    }

    /// Frames of packets that wait, chunks and tails.
    pub(crate) fn held_frames(&self) -> (usize, usize) {
        let tails = self.held.iter().filter(|(_, packet)| !packet.tail().is_empty()).count();
        (self.held.len(), tails)
    }

    /// Takes everything that waits for neighbours behind a port that is gone.
    pub(crate) fn take_held_by_port(&mut self, port: PortId, out: &mut Vec<Packet>) {
        for id in 0..self.entries.len() {
            if self.entries[id].is_some_and(|entry| entry.port == port && entry.held > 0) {
                self.take_held(AdjacencyId(id as u32), out);
            }
        }
    }
}

fn macs(destination: MacAddress, source: MacAddress) -> [u8; 12] {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&destination.bytes());
    macs[6..].copy_from_slice(&source.bytes());
    macs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames};

    const PORT: PortId = PortId(0);
    const OWN: MacAddress = MacAddress(0x0200_0000_0001);
    const OTHER: MacAddress = MacAddress(0x0200_0000_0002);

    fn address() -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }

    fn at(seconds: u64) -> Tick {
        crate::Instant(seconds * 1_000_000_000).tick()
    }

    fn packets(count: usize) -> Vec<Packet> {
        let chunks = heap_frames(count);
        let mut frames = FramePool::new(chunks, Vec::new(), FrameBalancer::new(count, 0));
        (0..count).map(|i| Packet::copy_of(&[i as u8; 60], &mut frames).unwrap()).collect()
    }

    #[test]
    fn packets_wait_for_the_answer_and_go_in_order() {
        let mut neighbours = Neighbours::new(4, 2, 1, at(0));
        let id = neighbours.neighbour(PORT, address(), OWN, at(0)).unwrap();
        neighbours.hold(id);
        let mut packets = packets(3).into_iter();
        let mut wait = || neighbours.wait(id, packets.next().unwrap(), at(0)).map_err(|no| no.1);
        assert_eq!(wait(), Ok(Some((PORT, address()))), "the first one asks");
        assert_eq!(wait(), Ok(None));
        let (_, reason) = neighbours.wait(id, packets.next().unwrap(), at(0)).unwrap_err();
        assert_eq!(reason, NoHold::Full);
        assert_eq!(neighbours.learn(PORT, address(), OTHER, at(1)), Some(id));
        let mut held = Vec::new();
        neighbours.take_held(id, &mut held);
        assert_eq!(held.iter().map(|packet| packet.head()[0]).collect::<Vec<_>>(), [0, 1]);
        let adjacency = neighbours.get(id).unwrap();
        assert!(adjacency.resolved);
        assert_eq!(adjacency.macs, macs(OTHER, OWN));
    }

    #[test]
    fn a_silent_neighbour_fails_after_three_questions_and_is_asked_again_later() {
        let mut neighbours = Neighbours::new(4, 2, 1, at(0));
        let id = neighbours.neighbour(PORT, address(), OWN, at(0)).unwrap();
        neighbours.hold(id);
        let mut seen = Vec::new();
        for second in 0..12 {
            while let Some(due) = neighbours.due(at(second)) {
                seen.push(due);
            }
        }
        let ask = Due::Ask { port: PORT, address: address(), to: None };
        assert_eq!(seen[..4], [ask, ask, ask, Due::Failed(id)]);
        assert_eq!(seen[4], ask);
    }

    #[test]
    fn a_neighbour_in_use_is_probed_at_its_own_address() {
        let mut neighbours = Neighbours::new(4, 2, 1, at(0));
        let id = neighbours.neighbour(PORT, address(), OWN, at(0)).unwrap();
        neighbours.hold(id);
        neighbours.learn(PORT, address(), OTHER, at(0));
        assert_eq!(neighbours.due(at(29)), None);
        let probe = Due::Ask { port: PORT, address: address(), to: Some(OTHER) };
        assert_eq!(neighbours.due(at(31)), Some(probe));
        assert!(neighbours.get(id).unwrap().resolved, "it is used while it is probed");
    }

    #[test]
    fn unused_neighbours_make_room_and_strangers_are_not_learnt() {
        let mut neighbours = Neighbours::new(1, 2, 1, at(0));
        assert!(neighbours.learn(PORT, address(), OTHER, at(0)).is_none());
        let id = neighbours.neighbour(PORT, address(), OWN, at(0)).unwrap();
        neighbours.learn(PORT, address(), OTHER, at(0));
        let other = IpAddr::from([192, 0, 2, 9]);
        assert!(neighbours.neighbour(PORT, other, OWN, at(0)).is_none());
        neighbours.hold(id);
        neighbours.release(id);
        assert_eq!(neighbours.due(at(40)), None);
        assert!(neighbours.neighbour(PORT, other, OWN, at(40)).is_some());
    }
}
