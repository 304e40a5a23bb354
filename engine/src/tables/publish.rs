//! Published ports: which (address, protocol, port) of ours leads to which endpoint.
//!
//! A range is one entry: 10,000 published ports in a row cost as much as one. Look-ups go both
//! ways: from the outside tuple to the endpoint, and from an endpoint's address and port to its
//! outside tuple, because traffic that a published port *starts* keeps its published number.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use super::Epoch;
use crate::id::{NetworkId, PortId};

/// A transport protocol that can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// One published range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishEntry {
    /// The address it is published on. `None`: every address of every uplink, of the target's
    /// family; `::`: every IPv6 address. A target of IPv4 may be published on IPv6 addresses: its
    /// clients are translated (RFC 7915).
    pub host: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// First published port.
    pub host_port: u16,
    /// How many ports, at least 1.
    pub port_count: u16,
    /// First port at the endpoint; the others follow pairwise.
    pub target_port: u16,
    /// The endpoint's address.
    pub target: IpAddr,
    /// The endpoint's port of the gateway.
    pub port: PortId,
    /// The network by which it is reached.
    pub network: NetworkId,
}

impl PublishEntry {
    fn takes(&self, address: IpAddr, protocol: u8, host_port: u16) -> bool {
        let host = self.host.unwrap_or(self.target);
        self.protocol.number() == protocol
            && host.is_ipv6() == address.is_ipv6()
            && (!self.is_specific() || host == address)
            && host_port.wrapping_sub(self.host_port) < self.port_count
            && host_port >= self.host_port
    }

    /// True if it is published on one address, not on all of a family.
    fn is_specific(&self) -> bool {
        self.host.is_some_and(|host| !host.is_unspecified())
    }

    /// True if clients and endpoint are of one family: what the endpoint starts from its published
    /// port can leave by the published number.
    fn is_same_family(&self) -> bool {
        self.host.is_none_or(|host| host.is_ipv6() == self.target.is_ipv6())
    }

    /// The port at the endpoint that a published port leads to.
    pub fn target_port_of(&self, host_port: u16) -> u16 {
        self.target_port + (host_port - self.host_port)
    }

    fn publishes(&self, target: IpAddr, protocol: u8, target_port: u16) -> bool {
        self.protocol.number() == protocol
            && self.target == target
            && self.is_same_family()
            && target_port >= self.target_port
            && target_port - self.target_port < self.port_count
    }

    /// The published port that leads to a port at the endpoint.
    pub fn host_port_of(&self, target_port: u16) -> u16 {
        self.host_port + (target_port - self.target_port)
    }
}

/// All published ports.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// Moves when any entry does.
    pub epoch: Epoch,
    entries: Vec<PublishEntry>,
    /// Entry indices by (protocol, first host port), with the longest range of that protocol.
    by_host: Vec<u32>,
    by_target: Vec<u32>,
    longest: u16,
}

impl Publish {
    /// Sorts the entries for look-up. Later entries win over earlier ones only where a specific
    /// address meets "every address": the specific one is found first.
    pub fn new(epoch: Epoch, entries: Vec<PublishEntry>) -> Publish {
        let mut by_host: Vec<u32> = (0..entries.len() as u32).collect();
        let mut by_target = by_host.clone();
        by_host.sort_by_key(|&index| host_key(&entries, index));
        by_target.sort_by_key(|&index| target_key(&entries, index));
        let longest = entries.iter().map(|entry| entry.port_count).max().unwrap_or(0);
        Publish { epoch, entries, by_host, by_target, longest }
    }

    /// The same entries but for a range of them, which others take the place of. Costs a copy: no
    /// sorting, no hashing.
    pub fn spliced(&self, epoch: Epoch, range: Range<usize>, with: Vec<PublishEntry>) -> Publish {
        let (start, shift) = (range.start as u32, with.len() as i64 - range.len() as i64);
        let mut entries = Vec::with_capacity(self.entries.len() + with.len() - range.len());
        entries.extend_from_slice(&self.entries[..range.start]);
        entries.extend(with.iter().cloned());
        entries.extend_from_slice(&self.entries[range.end..]);
        let keep = |&index: &u32| -> Option<u32> {
            match index as usize {
                index if index < range.start => Some(index as u32),
                index if index < range.end => None,
                index => Some((index as i64 + shift) as u32),
            }
        };
        let new = start..start + with.len() as u32;
        let by_host: Vec<u32> = self.by_host.iter().filter_map(keep).collect();
        let by_target: Vec<u32> = self.by_target.iter().filter_map(keep).collect();
        let longest = entries.iter().map(|entry| entry.port_count).max().unwrap_or(0);
        Publish {
            epoch,
            by_host: merged(by_host, new.clone(), |index| host_key(&entries, index)),
            by_target: merged(by_target, new, |index| target_key(&entries, index)),
            entries,
            longest,
        }
    }

    /// All entries, in the order of the config.
    pub fn entries(&self) -> &[PublishEntry] {
        &self.entries
    }

    /// The entry that a packet to this address, protocol and port meets. The address must be one
    /// of the gateway's own on an uplink: that is the caller's to check.
    pub fn by_host(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&PublishEntry> {
        let key = |index: &u32| {
            let entry = &self.entries[*index as usize];
            (entry.protocol.number(), entry.host_port)
        };
        let first = (protocol, port.saturating_sub(self.longest));
        let from = self.by_host.partition_point(|index| key(index) < first);
        let to = self.by_host.partition_point(|index| key(index) <= (protocol, port));
        let candidates = self.by_host[from..to].iter().map(|&i| &self.entries[i as usize]);
        candidates
            .filter(|entry| entry.takes(address, protocol, port))
            .max_by_key(|entry| entry.is_specific())
    }

    /// The entry that publishes this address, protocol and port of an endpoint.
    pub fn by_target(&self, target: IpAddr, protocol: u8, port: u16) -> Option<&PublishEntry> {
        let key = |index: &u32| {
            let entry = &self.entries[*index as usize];
            (entry.target, entry.protocol.number(), entry.target_port)
        };
        let first = (target, protocol, port.saturating_sub(self.longest));
        let from = self.by_target.partition_point(|index| key(index) < first);
        let to = self.by_target.partition_point(|index| key(index) <= (target, protocol, port));
        let mut candidates = self.by_target[from..to].iter().map(|&i| &self.entries[i as usize]);
        candidates.find(|entry| entry.publishes(target, protocol, port))
    }
}

fn host_key(entries: &[PublishEntry], index: u32) -> (u8, u16) {
    let entry = &entries[index as usize];
    (entry.protocol.number(), entry.host_port)
}

fn target_key(entries: &[PublishEntry], index: u32) -> (IpAddr, u8, u16) {
    let entry = &entries[index as usize];
    (entry.target, entry.protocol.number(), entry.target_port)
}

/// Puts `new` indices into a list that is in order; among equal keys the order of indices counts.
fn merged<K: Ord>(sorted: Vec<u32>, new: Range<u32>, key: impl Fn(u32) -> K) -> Vec<u32> {
    let mut new: Vec<u32> = new.collect();
    new.sort_by_key(|&index| (key(index), index));
    let mut all = Vec::with_capacity(sorted.len() + new.len());
    let mut from = 0;
    for index in new {
        let wanted = (key(index), index);
        let rest = &sorted[from..];
        let before = rest.partition_point(|&other| (key(other), other) < wanted);
        all.extend_from_slice(&rest[..before]);
        all.push(index);
        from += before;
    }
    all.extend_from_slice(&sorted[from..]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(
        host: Option<&str>,
        host_port: u16,
        port_count: u16,
        target_port: u16,
    ) -> PublishEntry {
        PublishEntry {
            host: host.map(|host| host.parse().unwrap()),
            protocol: Protocol::Tcp,
            host_port,
            port_count,
            target_port,
            target: "10.1.0.10".parse().unwrap(),
            port: PortId(1),
            network: NetworkId(0),
        }
    }

    #[test]
    fn a_range_is_one_entry_and_leads_pairwise() {
        let publish = Publish::new(1, vec![entry(None, 8000, 11, 9000), entry(None, 80, 1, 80)]);
        let own = "192.0.2.10".parse().unwrap();
        let found = publish.by_host(own, 6, 8010).unwrap();
        assert_eq!(found.target_port_of(8010), 9010);
        assert!(publish.by_host(own, 6, 8011).is_none());
        assert!(publish.by_host(own, 6, 7999).is_none());
        assert!(publish.by_host(own, 17, 8000).is_none());
        assert!(publish.by_host("2001:db8::1".parse().unwrap(), 6, 8000).is_none());
        let target = "10.1.0.10".parse().unwrap();
        assert_eq!(publish.by_target(target, 6, 9003).unwrap().host_port_of(9003), 8003);
        assert!(publish.by_target(target, 6, 9011).is_none());
    }

    #[test]
    fn a_specific_address_is_found_before_every_address() {
        let specific = entry(Some("192.0.2.10"), 80, 1, 81);
        let publish = Publish::new(1, vec![entry(None, 80, 1, 80), specific]);
        assert_eq!(publish.by_host("192.0.2.10".parse().unwrap(), 6, 80).unwrap().target_port, 81);
        assert_eq!(publish.by_host("192.0.2.11".parse().unwrap(), 6, 80).unwrap().target_port, 80);
    }

    #[test]
    fn a_target_of_ipv4_is_published_on_ipv6_addresses_and_leaves_by_none_of_them() {
        let every = entry(Some("::"), 80, 1, 80);
        let one = entry(Some("2001:db8::10"), 80, 1, 81);
        let publish = Publish::new(1, vec![every, one]);
        let found = |text: &str| publish.by_host(text.parse().unwrap(), 6, 80);
        assert_eq!(found("2001:db8::10").unwrap().target_port, 81);
        assert_eq!(found("2001:db8::11").unwrap().target_port, 80);
        assert!(found("192.0.2.10").is_none());
        assert!(publish.by_target("10.1.0.10".parse().unwrap(), 6, 80).is_none());
    }

    #[test]
    fn the_last_port_of_all_is_publishable() {
        let publish = Publish::new(1, vec![entry(None, 65530, 6, 65530)]);
        let own = "192.0.2.10".parse().unwrap();
        assert_eq!(publish.by_host(own, 6, 65535).unwrap().target_port_of(65535), 65535);
        assert!(publish.by_host(own, 6, 0).is_none());
    }

    proptest! {
        #[test]
        fn a_spliced_table_is_the_one_that_is_built_anew(
            old in prop::collection::vec((0u16..20, 1u16..4), 0..30),
            new in prop::collection::vec((0u16..20, 1u16..4), 0..10),
            cut in (0usize..30, 0usize..30),
        ) {
            let build = |ports: &[(u16, u16)]| -> Vec<PublishEntry> {
                ports.iter().map(|&(port, count)| entry(None, port, count, port / 2)).collect()
            };
            let (old, new) = (build(&old), build(&new));
            let (from, to) = (cut.0.min(old.len()), cut.1.min(old.len()));
            let range = from.min(to)..from.max(to);
            let mut all = old.clone();
            all.splice(range.clone(), new.clone());
            let spliced = Publish::new(1, old).spliced(2, range, new);
            let whole = Publish::new(2, all);
            prop_assert_eq!(&spliced.entries, &whole.entries);
            prop_assert_eq!(&spliced.by_host, &whole.by_host);
            prop_assert_eq!(&spliced.by_target, &whole.by_target);
            prop_assert_eq!(spliced.longest, whole.longest);
        }
    }
}
