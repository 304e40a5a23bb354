//! Published ports: which (address, protocol, port) of ours leads to which endpoint.
//!
//! A range is one entry: 10,000 published ports in a row cost as much as one. Look-ups go both
//! ways: from the outside tuple to the endpoint, and from an endpoint's address and port to its
//! outside tuple, because traffic that a published port *starts* keeps its published number.
//!
//! Each entry has an epoch of its own, which no other entry of this or an earlier table has: a
//! flow notes the epochs of what its two look-ups found ([`Publish::epochs_for`]), and is decided
//! again when they find another entry, one more, or one less. So a port that is published or
//! withdrawn leaves the flows of all others alone.

use std::collections::HashMap;
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublishEntry {
    /// The address it is published on. `None`: every address of every uplink, of the target's
    /// family; `::`: every IPv6 address. A target of IPv4 may be published on IPv6 addresses: its
    /// clients are translated (RFC 7915).
    pub host: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// First published port; 0: there is none, the endpoint's own port is opened only (a network in
    /// mode `routed`).
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
        self.host_port != 0
            && self.protocol.number() == protocol
            && host.is_ipv6() == address.is_ipv6()
            && (!self.is_specific() || host == address)
            && host_port.wrapping_sub(self.host_port) < self.port_count
            && host_port >= self.host_port
    }

    /// True if it is published on one address, not on all of a family.
    fn is_specific(&self) -> bool {
        self.host.is_some_and(|host| !host.is_unspecified())
    }

    /// True if what the endpoint starts from its published port can leave by the published number:
    /// not where there is none, nor where it is published to the machine itself alone, nor where
    /// clients are of the other family.
    fn is_outward(&self) -> bool {
        let is_same_family = self.host.is_none_or(|host| host.is_ipv6() == self.target.is_ipv6());
        let is_local = self.host.is_some_and(|host| host.is_loopback());
        self.host_port != 0 && is_same_family && !is_local
    }

    /// The port at the endpoint that a published port leads to.
    pub fn target_port_of(&self, host_port: u16) -> u16 {
        self.target_port + (host_port - self.host_port)
    }

    fn publishes(&self, target: IpAddr, protocol: u8, target_port: u16) -> bool {
        self.protocol.number() == protocol
            && self.target == target
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
    /// The epoch of each entry.
    epochs: Vec<Epoch>,
    /// Entry indices by (protocol, first host port), with the longest range of that protocol.
    by_host: Vec<u32>,
    by_target: Vec<u32>,
    longest: u16,
}

impl Publish {
    /// Sorts the entries for look-up. Later entries win over earlier ones only where a specific
    /// address meets "every address": the specific one is found first. All entries are new ones.
    pub fn new(epoch: Epoch, entries: Vec<PublishEntry>) -> Publish {
        let epochs = (0..entries.len()).map(|index| epoch_of_new(epoch, index)).collect();
        Publish::sorted(epoch, entries, epochs)
    }

    /// These entries instead; those that were there before keep their epochs.
    pub fn changed_to(&self, epoch: Epoch, entries: Vec<PublishEntry>) -> Publish {
        let epochs = self.epochs_of(0..self.entries.len(), epoch, 0, &entries);
        Publish::sorted(epoch, entries, epochs)
    }

    fn sorted(epoch: Epoch, entries: Vec<PublishEntry>, epochs: Vec<Epoch>) -> Publish {
        let mut by_host: Vec<u32> = (0..entries.len() as u32).collect();
        let mut by_target = by_host.clone();
        by_host.sort_by_key(|&index| host_key(&entries, index));
        by_target.sort_by_key(|&index| target_key(&entries, index));
        let longest = entries.iter().map(|entry| entry.port_count).max().unwrap_or(0);
        Publish { epoch, entries, epochs, by_host, by_target, longest }
    }

    /// The epochs of entries that take the place of a range of ours and begin at `first`.
    fn epochs_of(
        &self,
        range: Range<usize>,
        epoch: Epoch,
        first: usize,
        entries: &[PublishEntry],
    ) -> Vec<Epoch> {
        let before = self.entries[range.clone()].iter().zip(self.epochs[range].iter().copied());
        let before: HashMap<&PublishEntry, Epoch> = before.collect();
        let new = |(index, entry): (usize, &PublishEntry)| {
            before.get(entry).copied().unwrap_or_else(|| epoch_of_new(epoch, first + index))
        };
        entries.iter().enumerate().map(new).collect()
    }

    /// The same entries but for a range of them, which others take the place of. Costs a copy, and
    /// nothing else of entries outside of the range.
    pub fn spliced(&self, epoch: Epoch, range: Range<usize>, with: Vec<PublishEntry>) -> Publish {
        let (start, shift) = (range.start as u32, with.len() as i64 - range.len() as i64);
        let mut entries = Vec::with_capacity(self.entries.len() + with.len() - range.len());
        entries.extend_from_slice(&self.entries[..range.start]);
        entries.extend(with.iter().cloned());
        entries.extend_from_slice(&self.entries[range.end..]);
        let mut epochs = self.epochs.clone();
        epochs.splice(range.clone(), self.epochs_of(range.clone(), epoch, range.start, &with));
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
            epochs,
            longest,
        }
    }

    /// All entries, in the order of the config.
    pub fn entries(&self) -> &[PublishEntry] {
        &self.entries
    }

    /// The epoch of each entry, in the same order.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// The entry that a packet to this address, protocol and port meets. The address must be one
    /// of the gateway's own on an uplink: that is the caller's to check.
    pub fn by_host(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&PublishEntry> {
        self.index_by_host(address, protocol, port).map(|index| &self.entries[index])
    }

    /// The entry that publishes this address, protocol and port of an endpoint in a network.
    pub fn by_target(
        &self,
        network: NetworkId,
        target: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<&PublishEntry> {
        let mut entries = self.publishing(target, protocol, port).map(|index| &self.entries[index]);
        entries.find(|entry| entry.network == network)
    }

    /// As [`Publish::by_target`], for the outside tuple of what the endpoint sends itself.
    pub fn outward(
        &self,
        network: NetworkId,
        target: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<&PublishEntry> {
        let mut entries = self.publishing(target, protocol, port).map(|index| &self.entries[index]);
        entries.find(|entry| entry.network == network && entry.is_outward())
    }

    /// The epochs of the entries that a decision may depend on: the one that the destination
    /// meets (as a published port if the address is the gateway's own, else as an endpoint's
    /// port), and the one that publishes the source. 0 where there is none.
    pub(crate) fn epochs_for(
        &self,
        protocol: u8,
        destination: (IpAddr, u16),
        is_own: bool,
        source: (IpAddr, u16),
    ) -> [Epoch; 2] {
        // Of an endpoint's port any entry may be the one that counts, also of another network with
        // the same addresses: one number stands for all of them. A sum would not do: epochs are
        // small, and those of two may add up to a third's.
        let at_endpoint = |(address, port): (IpAddr, u16)| -> Epoch {
            let found = self.publishing(address, protocol, port);
            found.fold(0, |all, index| {
                all.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.epochs[index]
            })
        };
        let at_destination = match is_own {
            true => {
                let found = self.index_by_host(destination.0, protocol, destination.1);
                found.map_or(0, |index| self.epochs[index])
            }
            false => at_endpoint(destination),
        };
        [at_destination, at_endpoint(source)]
    }

    fn index_by_host(&self, address: IpAddr, protocol: u8, port: u16) -> Option<usize> {
        let key = |index: &u32| {
            let entry = &self.entries[*index as usize];
            (entry.protocol.number(), entry.host_port)
        };
        let first = (protocol, port.saturating_sub(self.longest));
        let from = self.by_host.partition_point(|index| key(index) < first);
        let to = self.by_host.partition_point(|index| key(index) <= (protocol, port));
        let candidates = self.by_host[from..to].iter().map(|&index| index as usize);
        candidates
            .filter(|&index| self.entries[index].takes(address, protocol, port))
            .max_by_key(|&index| self.entries[index].is_specific())
    }

    /// Every entry that publishes this address, protocol and port of an endpoint, by its index.
    fn publishing(&self, target: IpAddr, protocol: u8, port: u16) -> impl Iterator<Item = usize> {
        let key = |index: &u32| {
            let entry = &self.entries[*index as usize];
            (entry.target, entry.protocol.number(), entry.target_port)
        };
        let first = (target, protocol, port.saturating_sub(self.longest));
        let from = self.by_target.partition_point(|index| key(index) < first);
        let to = self.by_target.partition_point(|index| key(index) <= (target, protocol, port));
        let candidates = self.by_target[from..to].iter().map(|&index| index as usize);
        candidates.filter(move |&index| self.entries[index].publishes(target, protocol, port))
    }
}

/// The epoch of an entry that is new in a table of this epoch, at this index: no two entries of
/// one table have the same, or a flow could take one of them for the other.
fn epoch_of_new(epoch: Epoch, index: usize) -> Epoch {
    epoch << 32 | (index as u64 + 1)
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
        assert_eq!(
            publish.by_target(NetworkId(0), target, 6, 9003).unwrap().host_port_of(9003),
            8003
        );
        assert!(publish.by_target(NetworkId(0), target, 6, 9011).is_none());
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
        assert!(publish.outward(NetworkId(0), "10.1.0.10".parse().unwrap(), 6, 80).is_none());
    }

    #[test]
    fn a_port_that_is_only_opened_or_the_machines_own_is_none_to_leave_by() {
        let opened = entry(None, 0, 3, 9000);
        let local = entry(Some("127.0.0.1"), 8080, 1, 80);
        let publish = Publish::new(1, vec![opened, local, entry(None, 8081, 1, 80)]);
        let (own, target) = ("192.0.2.10".parse().unwrap(), "10.1.0.10".parse().unwrap());
        assert!(publish.by_host(own, 6, 0).is_none() && publish.by_host(own, 6, 1).is_none());
        assert!(publish.by_host(own, 6, 8080).is_none());
        assert_eq!(publish.by_target(NetworkId(0), target, 6, 9002).unwrap().host_port, 0);
        assert!(publish.outward(NetworkId(0), target, 6, 9002).is_none());
        assert_eq!(publish.outward(NetworkId(0), target, 6, 80).unwrap().host_port, 8081);
    }

    #[test]
    fn the_last_port_of_all_is_publishable() {
        let publish = Publish::new(1, vec![entry(None, 65530, 6, 65530)]);
        let own = "192.0.2.10".parse().unwrap();
        assert_eq!(publish.by_host(own, 6, 65535).unwrap().target_port_of(65535), 65535);
        assert!(publish.by_host(own, 6, 0).is_none());
    }

    #[test]
    fn what_is_published_as_before_keeps_its_epoch_and_no_two_have_the_same() {
        let (web, dns) = (entry(None, 80, 1, 80), entry(None, 53, 1, 53));
        let first = Publish::new(1, vec![web.clone(), dns.clone()]);
        let second = first.changed_to(2, vec![entry(None, 443, 1, 443), dns.clone(), web.clone()]);
        assert_eq!(second.epochs()[1..], [first.epochs()[1], first.epochs()[0]]);
        // Of the next table that is unlike both, an epoch that comes back would be a mistake.
        let third = second.changed_to(3, vec![dns]).changed_to(4, vec![web]);
        let all = [first.epochs(), second.epochs(), third.epochs()].concat();
        let different: std::collections::HashSet<Epoch> = all.iter().copied().collect();
        assert_eq!((different.len(), different.contains(&0)), (4, false));
    }

    #[test]
    fn a_decision_depends_on_what_its_two_look_ups_find() {
        let own: IpAddr = "192.0.2.10".parse().unwrap();
        let target: IpAddr = "10.1.0.10".parse().unwrap();
        let publish = Publish::new(1, vec![entry(None, 8080, 1, 80), entry(None, 53, 1, 53)]);
        let [web, dns] = [publish.epochs()[0], publish.epochs()[1]];
        let client = ("198.51.100.7".parse().unwrap(), 40_000);
        assert_eq!(publish.epochs_for(6, (own, 8080), true, client), [web, 0]);
        assert_eq!(publish.epochs_for(6, (target, 80), false, client), [web, 0]);
        assert_eq!(publish.epochs_for(6, client, false, (target, 53)), [0, dns]);
        // A strange server at a port that is published here has nothing to do with it.
        assert_eq!(publish.epochs_for(6, (client.0, 8080), false, (target, 1)), [0, 0]);
        let specific = entry(Some("192.0.2.10"), 8080, 1, 81);
        let more = publish.changed_to(2, [publish.entries(), &[specific]].concat());
        assert_eq!(more.epochs_for(6, (own, 8080), true, client), [more.epochs()[2], 0]);
        // Of a port that is published twice, and then once by a new entry, the epochs add up.
        let twice = Publish::new(1, vec![entry(None, 8080, 1, 80)]);
        let second = [twice.entries(), &[entry(None, 8081, 1, 80)]].concat();
        let twice = twice.changed_to(2, second);
        let three = [(1, 1), (2, 2), (3, 80)].map(|(port, to)| entry(None, port, 1, to)).into();
        let once = Publish::new(3, three);
        assert_eq!(twice.epochs()[0] + twice.epochs()[1], once.epochs()[2]);
        let at_target = |publish: &Publish| publish.epochs_for(6, (target, 80), false, client);
        assert_ne!(at_target(&twice), at_target(&once));
    }

    proptest! {
        #[test]
        fn a_spliced_table_is_the_one_that_is_built_anew(
            old in prop::collection::vec((0u16..20, 1u16..4), 0..30),
            new in prop::collection::vec((0u16..20, 1u16..4), 0..10),
            cut in (0usize..30, 0usize..30),
        ) {
            // No two entries are equal: the checker of the config sees to that.
            let mut seen = std::collections::HashSet::new();
            let mut build = |ports: &[(u16, u16)]| -> Vec<PublishEntry> {
                let entries = ports.iter().map(|&(port, count)| entry(None, port, count, port / 2));
                entries.filter(|entry| seen.insert(entry.clone())).collect()
            };
            let (old, mut new) = (build(&old), build(&new));
            let (from, to) = (cut.0.min(old.len()), cut.1.min(old.len()));
            let range = from.min(to)..from.max(to);
            new.extend(old[range.clone()].iter().rev().step_by(2).cloned());
            let mut all = old.clone();
            all.splice(range.clone(), new.clone());
            let old = Publish::new(1, old);
            let spliced = old.spliced(2, range, new);
            let whole = old.changed_to(2, all);
            prop_assert_eq!(&spliced.entries, &whole.entries);
            prop_assert_eq!(&spliced.epochs, &whole.epochs);
            prop_assert_eq!(&spliced.by_host, &whole.by_host);
            prop_assert_eq!(&spliced.by_target, &whole.by_target);
            prop_assert_eq!(spliced.longest, whole.longest);
        }
    }
}
