//! Mappings from inside sockets to outside ports, in fixed memory.
//!
//! An outside (address, protocol, port) belongs to at most one mapping, so no two flows share an
//! outside tuple whatever they talk to. The exception are *shared* ports, the last tenth of the
//! range, for TCP and only when the rest is in use: there a mapping is for one destination, and the
//! port belongs to at most one mapping of each. A mapping lives while a flow holds it.
//!
//! Work is bounded: whether a search can succeed is known from a count before it begins.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::super::Socket;
use crate::flow::{Index, mix, seed_for};
use crate::id::{NetworkId, PortId};
use crate::wire::protocol;

/// Ports that are looked at beyond the preferred one. Acceptable is every n-th one, n being twice
/// the number of workers: with 4 workers these are 512 acceptable ones, of which a free one is
/// found even at 98 % use. Fewer would refuse flows early, more would make a refusal slow.
const TRIES_MAX: u64 = 4096;

/// Outside addresses whose TCP ports are counted; ports of further ones are never shared.
const ADDRESSES_MAX: usize = 128;

/// What has one outside port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    /// Whose addresses the socket's is one of: two networks may have the same.
    pub(super) network: NetworkId,
    pub(super) protocol: u8,
    pub(super) socket: Socket,
    /// The address outside.
    pub(super) outside: IpAddr,
    /// The server, where each takes a port of its own: for a hairpin, and for a shared port.
    pub(super) remote: Option<Socket>,
    /// The outside port is one that is shared.
    pub(super) is_shared: bool,
}

/// The ports that a mapping may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) min: u16,
    pub(super) max: u16,
    /// Workers that the range is divided among.
    pub(super) worker_count: usize,
}

impl Range {
    fn port_count(self) -> u32 {
        u32::from(self.max.saturating_sub(self.min)) + 1
    }

    /// The first port that may be shared: 90 % of the range lie below.
    fn shared_min(self) -> u16 {
        self.min + (self.port_count() * 9 / 10) as u16
    }

    /// How many TCP ports of its own a worker gives out before it shares.
    fn own_max(self) -> u32 {
        (self.port_count() * 9 / 10 / self.worker_count as u32).max(1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) inside: Inside,
    pub(super) port: u16,
    /// The port of the gateway behind which the inside socket is.
    pub(super) ingress: PortId,
    flows: u32,
    /// By what it is found from inside and from outside: worked out once.
    hashes: Hashes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hashes {
    inside: u64,
    outside: u64,
}

/// TCP mappings of one outside address.
#[derive(Clone, Copy, Debug)]
struct Use {
    address: IpAddr,
    own: u32,
    shared: u32,
}

#[derive(Debug)]
pub(super) struct Mappings {
    by_inside: Index,
    by_outside: Index,
    entries: Box<[Option<Mapping>]>,
    free: Vec<u32>,
    uses: ArrayVec<Use, ADDRESSES_MAX>,
    seeds: [u64; 2],
    /// Where the search for the next port begins; moves on, so that a freed port rests.
    pub(super) next: u64,
    /// Mappings with a shared port that there ever were.
    pub(super) shared_total: u64,
}

impl Mappings {
    pub(super) fn new(capacity: usize, seed: u64) -> Mappings {
        let capacity = capacity.max(1);
        Mappings {
            by_inside: Index::new(capacity),
            by_outside: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            uses: ArrayVec::new(),
            seeds: [seed_for(seed, 20), seed_for(seed, 21)],
            next: seed_for(seed, 22),
            shared_total: 0,
        }
    }

    /// The mapping of an inside socket, if there is one.
    pub(super) fn find(&self, inside: &Inside) -> Option<(u32, u16)> {
        self.find_hashed(self.hash_inside(inside), inside)
    }

    fn find_hashed(&self, hash: u64, inside: &Inside) -> Option<(u32, u16)> {
        let mapping = |id: u32| self.entries[id as usize].as_ref();
        let is_its = |id| mapping(id).is_some_and(|mapping| mapping.inside == *inside);
        let id = self.by_inside.find(hash, is_its)?;
        mapping(id).map(|mapping| (id, mapping.port))
    }

    /// The mapping that has an outside port for whoever asks.
    pub(super) fn by_outside(
        &self,
        outside: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<(u32, &Mapping)> {
        let hash = self.hash_outside(outside, protocol, port, None);
        let id = self.owner(hash, outside, protocol, port, None)?;
        let mapping = self.entries[id as usize].as_ref()?;
        mapping.inside.remote.is_none().then_some((id, mapping))
    }

    /// The mapping of an inside socket and its outside port: the existing one, else a new one at
    /// the same port if that lies in the range, is acceptable and free, else at another. `None`
    /// when there is no room or no port.
    pub(super) fn take(
        &mut self,
        inside: &Inside,
        ingress: PortId,
        range: Range,
        acceptable: impl Fn(u16) -> bool,
    ) -> Option<(u32, u16)> {
        let hash = self.hash_inside(inside);
        if let Some(found) = self.find_hashed(hash, inside) {
            return Some(found);
        }
        let (port, outside) = self.choose(inside, range, acceptable)?;
        let hashes = Hashes { inside: hash, outside };
        self.add(Mapping { inside: *inside, port, ingress, flows: 0, hashes })
    }

    /// Loads a mapping; see [`worker::warm`](crate::worker).
    pub(super) fn fetch(&self, id: u32) -> u64 {
        self.entries.get(id as usize).and_then(Option::as_ref).map_or(0, |one| one.hashes.inside)
    }

    /// Loads where a mapping is found.
    pub(super) fn fetch_places(&self, id: u32) -> u64 {
        let mapping = self.entries.get(id as usize).and_then(Option::as_ref);
        let places = |hashes: Hashes| {
            self.by_inside.fetch(hashes.inside) ^ self.by_outside.fetch(hashes.outside)
        };
        mapping.map_or(0, |mapping| places(mapping.hashes))
    }

    /// Loads where a mapping of this socket would be found that keeps its port.
    pub(super) fn fetch_new(&self, inside: &Inside) -> u64 {
        let Inside { outside, protocol, socket, .. } = *inside;
        let by_outside = self.hash_outside(outside, protocol, socket.port, None);
        self.by_inside.fetch(self.hash_inside(inside)) ^ self.by_outside.fetch(by_outside)
    }

    /// A port that is free, and the hash by which its mapping is found from outside.
    fn choose(
        &mut self,
        inside: &Inside,
        range: Range,
        acceptable: impl Fn(u16) -> bool,
    ) -> Option<(u16, u64)> {
        let Inside { outside, protocol, remote, .. } = *inside;
        let is_tcp = protocol == protocol::TCP;
        let counted = self.uses.iter().find(|counted| counted.address == outside && is_tcp);
        let (own, shared) = counted.map_or((0, 0), |counted| (counted.own, counted.shared));
        let (first, last) = match (is_tcp, inside.is_shared) {
            (true, true) => (range.shared_min(), range.max),
            (true, false) if own >= range.own_max() => return None,
            // The rest is for sharing: what is preferred may lie there while nobody shares.
            (true, false) if range.shared_min() > range.min => (range.min, range.shared_min() - 1),
            _ => (range.min, range.max),
        };
        let shared_for = remote.filter(|_| inside.is_shared);
        let is_free = |port: u16, mappings: &Mappings| {
            let free_for = |remote: Option<Socket>| {
                let hash = mappings.hash_outside(outside, protocol, port, remote);
                mappings.owner(hash, outside, protocol, port, remote).is_none().then_some(hash)
            };
            let own = acceptable(port).then(|| free_for(None)).flatten()?;
            if shared_for.is_some() { free_for(shared_for) } else { Some(own) }
        };
        let preferred = inside.socket.port;
        let may_prefer = match is_tcp && !inside.is_shared && shared == 0 {
            true => (range.min..=range.max).contains(&preferred),
            false => (first..=last).contains(&preferred),
        };
        let kept = may_prefer.then(|| is_free(preferred, self)).flatten();
        match kept {
            Some(hash) => Some((preferred, hash)),
            None => self.search(first, last, is_free),
        }
    }

    fn add(&mut self, mapping: Mapping) -> Option<(u32, u16)> {
        let id = self.free.pop()?;
        if !self.by_inside.insert(mapping.hashes.inside, id) {
            self.free.push(id);
            return None;
        }
        if !self.by_outside.insert(mapping.hashes.outside, id) {
            self.by_inside.remove(mapping.hashes.inside, id);
            self.free.push(id);
            return None;
        }
        self.entries[id as usize] = Some(mapping);
        self.count_use(&mapping.inside, true);
        Some((id, mapping.port))
    }

    fn search(
        &mut self,
        port_min: u16,
        port_max: u16,
        is_free: impl Fn(u16, &Mappings) -> Option<u64>,
    ) -> Option<(u16, u64)> {
        let span = u64::from(port_max.checked_sub(port_min)?) + 1;
        self.next = mix(self.next, self.seeds[0]) | 1;
        let start = self.next % span;
        let ports = (0..span.min(TRIES_MAX)).map(|step| port_min + ((start + step) % span) as u16);
        ports.into_iter().find_map(|port| Some((port, is_free(port, self)?)))
    }

    /// Whose an outside port is; of a shared one, for this destination.
    fn owner(
        &self,
        hash: u64,
        outside: IpAddr,
        protocol: u8,
        port: u16,
        shared_for: Option<Socket>,
    ) -> Option<u32> {
        self.by_outside.find(hash, |id: u32| {
            self.entries[id as usize].as_ref().is_some_and(|mapping| {
                mapping.port == port
                    && mapping.inside.protocol == protocol
                    && mapping.inside.outside == outside
                    && shared_for_of(&mapping.inside) == shared_for
            })
        })
    }

    /// Keeps account of the TCP ports of an outside address.
    fn count_use(&mut self, inside: &Inside, begins: bool) {
        if inside.protocol != protocol::TCP {
            return;
        }
        let position = self.uses.iter().position(|counted| counted.address == inside.outside);
        let counted = match position {
            Some(position) => &mut self.uses[position],
            None => {
                let new = Use { address: inside.outside, own: 0, shared: 0 };
                if !begins || self.uses.try_push(new).is_err() {
                    return;
                }
                self.uses.last_mut().expect("one was added")
            }
        };
        let count = if inside.is_shared { &mut counted.shared } else { &mut counted.own };
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if counted.own + counted.shared == 0 {
            let address = inside.outside;
            self.uses.retain(|counted| counted.address != address);
        }
    }

    /// A flow holds the mapping, which may say behind which port the inside socket is now.
    pub(super) fn hold(&mut self, id: u32, ingress: Option<PortId>) {
        if let Some(Some(mapping)) = self.entries.get_mut(id as usize) {
            mapping.flows += 1;
            mapping.ingress = ingress.unwrap_or(mapping.ingress);
            self.shared_total += u64::from(mapping.inside.is_shared && mapping.flows == 1);
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        if let Some(Some(mapping)) = self.entries.get_mut(id as usize) {
            mapping.flows = mapping.flows.saturating_sub(1);
        }
        self.forget_unused(id);
    }

    pub(super) fn forget_unused(&mut self, id: u32) {
        let Some(Some(mapping)) = self.entries.get(id as usize) else { return };
        if mapping.flows > 0 {
            return;
        }
        self.by_inside.remove(mapping.hashes.inside, id);
        self.by_outside.remove(mapping.hashes.outside, id);
        if mapping.inside.protocol == protocol::TCP {
            let inside = mapping.inside;
            self.count_use(&inside, false);
        }
        self.entries[id as usize] = None;
        self.free.push(id);
    }

    /// Mappings that there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn hash_inside(&self, inside: &Inside) -> u64 {
        let remote = inside.remote.map_or(0, |remote| self.hash_socket(remote));
        let [socket, outside] = [inside.socket.address, inside.outside].map(bits_of);
        let rest = u64::from(inside.network.0)
            | u64::from(inside.socket.port) << 32
            | u64::from(inside.protocol) << 48;
        let own = mix(socket as u64 ^ self.seeds[0], (socket >> 64) as u64 ^ rest ^ self.seeds[1]);
        mix(own ^ outside as u64, (outside >> 64) as u64 ^ remote.rotate_left(17) ^ self.seeds[0])
    }

    fn hash_outside(
        &self,
        outside: IpAddr,
        protocol: u8,
        port: u16,
        shared_for: Option<Socket>,
    ) -> u64 {
        let remote = shared_for.map_or(0, |remote| self.hash_socket(remote));
        let (address, rest) = (bits_of(outside), u64::from(port) << 32 | u64::from(protocol) << 48);
        let low = address as u64 ^ remote.rotate_left(17) ^ self.seeds[0];
        mix(low, (address >> 64) as u64 ^ rest ^ self.seeds[1])
    }

    fn hash_socket(&self, socket: Socket) -> u64 {
        mix(self.hash_address(socket.address) ^ u64::from(socket.port), self.seeds[0])
    }

    fn hash_address(&self, address: IpAddr) -> u64 {
        let bits = bits_of(address);
        mix(bits as u64 ^ self.seeds[0], (bits >> 64) as u64 ^ self.seeds[1])
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn shared_for_of(inside: &Inside) -> Option<Socket> {
    inside.remote.filter(|_| inside.is_shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const PORT: PortId = PortId(1);

    fn inside(host: u8, port: u16) -> Inside {
        Inside {
            network: NetworkId(0),
            protocol: 17,
            socket: Socket { address: IpAddr::from([10, 0, 0, host]), port },
            outside: IpAddr::from([192, 0, 2, 10]),
            remote: None,
            is_shared: false,
        }
    }

    fn range(min: u16, max: u16) -> Range {
        Range { min, max, worker_count: 1 }
    }

    #[test]
    fn a_port_in_the_range_is_kept_and_shared_by_nobody() {
        let mut mappings = Mappings::new(16, 1);
        let all = range(32_768, 65_535);
        let (first, port) = mappings.take(&inside(1, 40_000), PORT, all, |_| true).unwrap();
        assert_eq!(port, 40_000);
        mappings.hold(first, None);
        let again = mappings.take(&inside(1, 40_000), PORT, all, |_| true);
        assert_eq!(again, Some((first, 40_000)));
        let (_, other) = mappings.take(&inside(2, 40_000), PORT, all, |_| true).unwrap();
        assert_ne!(other, 40_000);
        let found = mappings.by_outside(inside(1, 0).outside, 17, 40_000);
        assert_eq!(found.map(|(id, mapping)| (id, mapping.ingress)), Some((first, PORT)));
        mappings.release(first);
        let (_, port) = mappings.take(&inside(3, 40_000), PORT, all, |_| true).unwrap();
        assert_eq!(port, 40_000);
    }

    #[test]
    fn when_every_port_is_taken_there_is_none() {
        let mut mappings = Mappings::new(64, 1);
        let few = range(50_000, 50_009);
        for host in 0..10 {
            let (id, _) = mappings.take(&inside(host, 5), PORT, few, |_| true).unwrap();
            mappings.hold(id, None);
        }
        assert!(mappings.take(&inside(99, 5), PORT, few, |_| true).is_none());
    }

    #[test]
    fn above_90_percent_a_tcp_port_is_shared_by_those_who_talk_to_others() {
        let mut mappings = Mappings::new(64, 1);
        let few = range(50_000, 50_009);
        let tcp = |host| Inside { protocol: 6, ..inside(host, 5) };
        for host in 0..9 {
            let (id, port) = mappings.take(&tcp(host), PORT, few, |_| true).unwrap();
            mappings.hold(id, None);
            assert!(port < 50_009, "the last tenth is for sharing");
        }
        assert!(mappings.take(&tcp(99), PORT, few, |_| true).is_none());
        let to = |host, remote: u8| Inside {
            remote: Some(Socket { address: IpAddr::from([198, 51, 100, remote]), port: 80 }),
            is_shared: true,
            ..tcp(host)
        };
        for (host, remote) in [(99, 1), (98, 2), (98, 3)] {
            let (id, port) = mappings.take(&to(host, remote), PORT, few, |_| true).unwrap();
            mappings.hold(id, None);
            assert_eq!(port, 50_009);
        }
        assert!(mappings.take(&to(97, 1), PORT, few, |_| true).is_none());
        assert_eq!((mappings.shared_total, mappings.count()), (3, 12));
        // Nobody gets in by a shared port unasked, and none of them is anybody's own.
        assert!(mappings.by_outside(inside(1, 0).outside, 6, 50_009).is_none());
    }

    #[test]
    fn a_preferred_port_of_the_last_tenth_is_kept_while_nobody_shares() {
        let mut mappings = Mappings::new(64, 1);
        let tcp = Inside { protocol: 6, ..inside(1, 50_009) };
        let taken = mappings.take(&tcp, PORT, range(50_000, 50_009), |_| true);
        assert_eq!(taken.map(|(_, port)| port), Some(50_009));
    }

    proptest! {
        #[test]
        fn no_two_mappings_share_an_outside_port(
            steps in prop::collection::vec((0u8..6, 0u16..4, any::<bool>()), 0..120),
        ) {
            let mut mappings = Mappings::new(16, 7);
            let mut live: HashMap<(u8, u16), (u32, u16)> = HashMap::new();
            for (host, port, release) in steps {
                if release {
                    if let Some((id, _)) = live.remove(&(host, port)) {
                        mappings.release(id);
                    }
                } else if let Some((id, outside)) =
                    mappings.take(&inside(host, port), PORT, range(50_000, 50_015), |_| true)
                {
                    let new = live.insert((host, port), (id, outside)).is_none();
                    (0..u32::from(new)).for_each(|_| mappings.hold(id, None));
                }
                let mut ports: Vec<u16> = live.values().map(|&(_, port)| port).collect();
                ports.sort_unstable();
                let count = ports.len();
                ports.dedup();
                prop_assert_eq!(ports.len(), count);
            }
        }

        #[test]
        fn shared_ports_are_told_apart_by_their_destination(
            steps in prop::collection::vec((0u8..12, 0u8..3, any::<bool>()), 0..150),
        ) {
            let mut mappings = Mappings::new(64, 7);
            let few = range(50_000, 50_019);
            let mut live: HashMap<(u8, u8), (u32, u16, bool)> = HashMap::new();
            for (host, remote, release) in steps {
                if release {
                    if let Some((id, ..)) = live.remove(&(host, remote)) {
                        mappings.release(id);
                    }
                    continue;
                }
                let server = Socket { address: IpAddr::from([198, 51, 100, remote]), port: 80 };
                let own = Inside { protocol: 6, ..inside(host, 5) };
                let shared = Inside { remote: Some(server), is_shared: true, ..own };
                let taken = mappings.take(&own, PORT, few, |_| true).map(|taken| (taken, false));
                let taken = taken.or_else(|| {
                    mappings.take(&shared, PORT, few, |_| true).map(|taken| (taken, true))
                });
                let Some(((id, port), is_shared)) = taken else { continue };
                if live.insert((host, remote), (id, port, is_shared)).is_none() {
                    mappings.hold(id, None);
                }
                let mut tuples = HashMap::new();
                for (&(host, remote), &(_, port, is_shared)) in &live {
                    let to = is_shared.then_some(remote);
                    let owner = *tuples.entry((port, to)).or_insert(host);
                    prop_assert_eq!(owner, host);
                }
            }
        }
    }
}
