//! Mappings from inside sockets to outside ports, in fixed memory.
//!
//! An outside (address, protocol, port) belongs to at most one mapping, so no two flows share an
//! outside tuple whatever they talk to. A mapping lives while a flow holds it.

use std::net::IpAddr;

use super::super::Socket;
use crate::flow::{Index, mix, seed_for};

/// Ports that are looked at beyond the preferred one. Acceptable is every n-th one, n being twice
/// the number of workers: with 4 workers these are 512 acceptable ones, of which a free one is
/// found even at 98 % use. Fewer would refuse flows early, more would make a refusal slow.
const TRIES_MAX: u64 = 4096;

/// What has one outside port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) protocol: u8,
    pub(super) socket: Socket,
    /// The address outside.
    pub(super) outside: IpAddr,
    /// For a hairpin: the server, because each takes a port of its own.
    pub(super) remote: Option<Socket>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    inside: Inside,
    port: u16,
    flows: u32,
}

#[derive(Debug)]
pub(super) struct Mappings {
    by_inside: Index,
    by_outside: Index,
    entries: Box<[Option<Mapping>]>,
    free: Vec<u32>,
    seeds: [u64; 2],
    /// Where the search for the next port begins; moves on, so that a freed port rests.
    next: u64,
}

impl Mappings {
    pub(super) fn new(capacity: usize, seed: u64) -> Mappings {
        let capacity = capacity.max(1);
        Mappings {
            by_inside: Index::new(capacity),
            by_outside: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            seeds: [seed_for(seed, 20), seed_for(seed, 21)],
            next: seed_for(seed, 22),
        }
    }

    /// The mapping of an inside socket and its outside port: the existing one if its port is
    /// acceptable, else a new one at the same port if that lies in the range, is acceptable and
    /// free, else at another. `None` when there is no room or no port.
    pub(super) fn take(
        &mut self,
        inside: &Inside,
        port_min: u16,
        port_max: u16,
        acceptable: impl Fn(u16) -> bool,
    ) -> Option<(u32, u16)> {
        let hash = self.hash_inside(inside);
        let found = self.by_inside.find(hash, |id| {
            self.entries[id as usize].is_some_and(|mapping| mapping.inside == *inside)
        });
        if let Some(id) = found {
            return self.entries[id as usize].map(|mapping| (id, mapping.port));
        }
        let range = port_min..=port_max;
        let preferred = inside.socket.port;
        let is_free = |port: u16, mappings: &Mappings| {
            acceptable(port) && !mappings.in_use(inside.outside, inside.protocol, port)
        };
        let port = if range.contains(&preferred) && is_free(preferred, self) {
            preferred
        } else {
            self.search(port_min, port_max, is_free)?
        };
        let id = self.free.pop()?;
        self.entries[id as usize] = Some(Mapping { inside: *inside, port, flows: 0 });
        let outside_hash = self.hash_outside(inside.outside, inside.protocol, port);
        if !self.by_inside.insert(hash, id) {
            self.entries[id as usize] = None;
            self.free.push(id);
            return None;
        }
        if !self.by_outside.insert(outside_hash, id) {
            self.by_inside.remove(hash, id);
            self.entries[id as usize] = None;
            self.free.push(id);
            return None;
        }
        Some((id, port))
    }

    fn search(
        &mut self,
        port_min: u16,
        port_max: u16,
        is_free: impl Fn(u16, &Mappings) -> bool,
    ) -> Option<u16> {
        let span = u64::from(port_max.checked_sub(port_min)?) + 1;
        self.next = mix(self.next, self.seeds[0]) | 1;
        let start = self.next % span;
        let ports = (0..span.min(TRIES_MAX)).map(|step| port_min + ((start + step) % span) as u16);
        ports.into_iter().find(|&port| is_free(port, self))
    }

    fn in_use(&self, outside: IpAddr, protocol: u8, port: u16) -> bool {
        let hash = self.hash_outside(outside, protocol, port);
        let same = |id: u32| {
            self.entries[id as usize].is_some_and(|mapping| {
                mapping.port == port
                    && mapping.inside.protocol == protocol
                    && mapping.inside.outside == outside
            })
        };
        self.by_outside.find(hash, same).is_some()
    }

    pub(super) fn hold(&mut self, id: u32) {
        if let Some(Some(mapping)) = self.entries.get_mut(id as usize) {
            mapping.flows += 1;
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        if let Some(Some(mapping)) = self.entries.get_mut(id as usize) {
            mapping.flows = mapping.flows.saturating_sub(1);
        }
        self.forget_unused(id);
    }

    pub(super) fn forget_unused(&mut self, id: u32) {
        let Some(mapping) = self.entries.get(id as usize).copied().flatten() else { return };
        if mapping.flows > 0 {
            return;
        }
        let Inside { outside, protocol, .. } = mapping.inside;
        self.by_inside.remove(self.hash_inside(&mapping.inside), id);
        self.by_outside.remove(self.hash_outside(outside, protocol, mapping.port), id);
        self.entries[id as usize] = None;
        self.free.push(id);
    }

    fn hash_inside(&self, inside: &Inside) -> u64 {
        let remote = inside.remote.map_or(0, |remote| self.hash_socket(remote));
        let both = self.hash_socket(inside.socket) ^ self.hash_address(inside.outside);
        mix(both ^ u64::from(inside.protocol) ^ remote.rotate_left(17), self.seeds[1])
    }

    fn hash_outside(&self, outside: IpAddr, protocol: u8, port: u16) -> u64 {
        let address = self.hash_address(outside);
        mix(address ^ (u64::from(port) << 8 | u64::from(protocol)), self.seeds[1])
    }

    fn hash_socket(&self, socket: Socket) -> u64 {
        mix(self.hash_address(socket.address) ^ u64::from(socket.port), self.seeds[0])
    }

    fn hash_address(&self, address: IpAddr) -> u64 {
        let bits = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        mix(bits as u64 ^ self.seeds[0], (bits >> 64) as u64 ^ self.seeds[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn inside(host: u8, port: u16) -> Inside {
        Inside {
            protocol: 17,
            socket: Socket { address: IpAddr::from([10, 0, 0, host]), port },
            outside: IpAddr::from([192, 0, 2, 10]),
            remote: None,
        }
    }

    #[test]
    fn a_port_in_the_range_is_kept_and_shared_by_nobody() {
        let mut mappings = Mappings::new(16, 1);
        let (first, port) = mappings.take(&inside(1, 40_000), 32_768, 65_535, |_| true).unwrap();
        assert_eq!(port, 40_000);
        mappings.hold(first);
        let again = mappings.take(&inside(1, 40_000), 32_768, 65_535, |_| true);
        assert_eq!(again, Some((first, 40_000)));
        let (_, other) = mappings.take(&inside(2, 40_000), 32_768, 65_535, |_| true).unwrap();
        assert_ne!(other, 40_000);
        mappings.release(first);
        let (_, port) = mappings.take(&inside(3, 40_000), 32_768, 65_535, |_| true).unwrap();
        assert_eq!(port, 40_000);
    }

    #[test]
    fn when_every_port_is_taken_there_is_none() {
        let mut mappings = Mappings::new(64, 1);
        for host in 0..10 {
            let (id, _) = mappings.take(&inside(host, 5), 50_000, 50_009, |_| true).unwrap();
            mappings.hold(id);
        }
        assert!(mappings.take(&inside(99, 5), 50_000, 50_009, |_| true).is_none());
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
                    mappings.take(&inside(host, port), 50_000, 50_015, |_| true)
                {
                    let new = live.insert((host, port), (id, outside)).is_none();
                    (0..u32::from(new)).for_each(|_| mappings.hold(id));
                }
                let mut ports: Vec<u16> = live.values().map(|&(_, port)| port).collect();
                ports.sort_unstable();
                let count = ports.len();
                ports.dedup();
                prop_assert_eq!(ports.len(), count);
            }
        }
    }
}
