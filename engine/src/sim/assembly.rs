//! Fragments put together again, by simulated hosts.
//!
//! Whole datagrams only, no limits: the hosts are ours. Overlapping fragments with different bytes
//! do not complete (RFC 5722 asks to drop them silently).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::datagram::Datagram;

/// Source, destination, protocol, identification.
type Key = (IpAddr, IpAddr, u8, u32);

/// How long fragments wait for the others (RFC 8200 section 4.5).
const WAIT_NS: u64 = 60_000_000_000;

#[derive(Debug, Default)]
struct Parts {
    since_ns: u64,
    /// Bytes by offset, and whether more follow.
    parts: BTreeMap<usize, (Vec<u8>, bool)>,
}

/// Datagrams of which some fragments have come.
#[derive(Debug, Default)]
pub(super) struct Assembly(BTreeMap<Key, Parts>);

impl Assembly {
    /// Adds a fragment; returns the payload when it was the last one missing.
    pub(super) fn add(&mut self, now_ns: u64, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
        let part = datagram.fragment?;
        self.0.retain(|_, parts| parts.since_ns + WAIT_NS > now_ns);
        let key = (datagram.source, datagram.destination, datagram.protocol, part.identification);
        let fresh = || Parts { since_ns: now_ns, parts: BTreeMap::new() };
        let parts = &mut self.0.entry(key).or_insert_with(fresh).parts;
        parts.insert(part.offset, (datagram.payload.to_vec(), part.more));
        let mut whole = Vec::new();
        for (&offset, (bytes, more)) in parts.iter() {
            if offset != whole.len() {
                return None;
            }
            whole.extend_from_slice(bytes);
            if !more {
                self.0.remove(&key);
                return Some(whole);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::frames::{IpHeader, UDP};

    #[test]
    fn fragments_in_any_order_make_the_whole() {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let payload: Vec<u8> = (0..5_000u32).map(|i| (i / 7) as u8).collect();
        let mut packets = IpHeader::new(source, destination, UDP).fragments(&payload, 1_500);
        packets.reverse();
        let mut assembly = Assembly::default();
        let mut wholes = Vec::new();
        for packet in &packets {
            wholes.extend(assembly.add(1, &Datagram::parse(packet).unwrap()));
        }
        assert_eq!(wholes, vec![payload]);
    }
}
