//! Whom a mapping has sent to, for address-dependent filtering (RFC 4787 section 5).
//!
//! One entry per mapping and outside address, counted by the flows that went there. There is memory
//! only while the filtering asks for it: without, nobody has a permission. It is taken when tables
//! are adopted, never by a packet; what was sent before is not known.

use std::net::IpAddr;

use crate::flow::{Index, mix, seed_for};

#[derive(Clone, Copy, Debug)]
struct Permission {
    mapping: u32,
    address: IpAddr,
    flows: u32,
}

#[derive(Debug)]
pub(super) struct Permissions {
    index: Index,
    entries: Box<[Option<Permission>]>,
    free: Vec<u32>,
    seed: u64,
}

impl Permissions {
    pub(super) fn new(capacity: usize, seed: u64) -> Permissions {
        Permissions {
            index: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            seed: seed_for(seed, 25),
        }
    }

    /// A flow goes from the mapping to this address. Without room it gives no permission.
    pub(super) fn hold(&mut self, mapping: u32, address: IpAddr) {
        if let Some(id) = self.find(mapping, address) {
            if let Some(entry) = &mut self.entries[id as usize] {
                entry.flows += 1;
            }
            return;
        }
        let Some(id) = self.free.pop() else { return };
        if !self.index.insert(self.hash(mapping, address), id) {
            self.free.push(id);
            return;
        }
        self.entries[id as usize] = Some(Permission { mapping, address, flows: 1 });
    }

    /// Such a flow has ended.
    pub(super) fn release(&mut self, mapping: u32, address: IpAddr) {
        let Some(id) = self.find(mapping, address) else { return };
        let Some(entry) = &mut self.entries[id as usize] else { return };
        entry.flows -= 1;
        if entry.flows == 0 {
            self.entries[id as usize] = None;
            self.index.remove(self.hash(mapping, address), id);
            self.free.push(id);
        }
    }

    /// True if a flow goes from the mapping to this address.
    pub(super) fn has(&self, mapping: u32, address: IpAddr) -> bool {
        self.find(mapping, address).is_some()
    }

    fn find(&self, mapping: u32, address: IpAddr) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        self.index.find(self.hash(mapping, address), |id| {
            self.entries[id as usize]
                .is_some_and(|entry| entry.mapping == mapping && entry.address == address)
        })
    }

    fn hash(&self, mapping: u32, address: IpAddr) -> u64 {
        let bits = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let low = bits as u64 ^ u64::from(mapping) << 32;
        mix(low ^ self.seed, (bits >> 64) as u64 ^ u64::from(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn who_was_sent_to_is_known_as_long_as_a_flow_goes_there(
            steps in prop::collection::vec((0u32..4, 0u8..4, any::<bool>()), 0..100),
        ) {
            let mut permissions = Permissions::new(16, 3);
            let mut model: Vec<(u32, IpAddr)> = Vec::new();
            for (mapping, host, begins) in steps {
                let one = (mapping, IpAddr::from([198, 51, 100, host]));
                if begins {
                    permissions.hold(one.0, one.1);
                    model.push(one);
                } else if let Some(position) = model.iter().position(|other| *other == one) {
                    model.swap_remove(position);
                    permissions.release(one.0, one.1);
                }
                for mapping in 0..4 {
                    for host in 0..4 {
                        let one = (mapping, IpAddr::from([198, 51, 100, host]));
                        prop_assert_eq!(permissions.has(one.0, one.1), model.contains(&one));
                    }
                }
            }
        }
    }

    #[test]
    fn without_room_there_is_no_permission() {
        let mut permissions = Permissions::new(0, 3);
        permissions.hold(1, IpAddr::from([198, 51, 100, 1]));
        assert!(!permissions.has(1, IpAddr::from([198, 51, 100, 1])));
        permissions.release(1, IpAddr::from([198, 51, 100, 1]));
    }
}
