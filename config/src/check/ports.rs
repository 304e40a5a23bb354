//! Published ports whose number the file leaves open: which ones are free, and which is given.
//!
//! As Docker's allocator: in order through the system's ephemeral range, going on behind the last
//! one that was given, past reserved ones; the same number in both families. What had a number
//! keeps it while it is free. What the file fixes is taken before anything is given, wherever it
//! stands.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::tables::Protocol;

use crate::leases::{EphemeralPorts, Leases};

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// A set of ports.
#[derive(Clone, Debug)]
struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    fn new() -> PortSet {
        PortSet(Box::new([0; WORDS]))
    }

    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    fn insert(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }
}

/// What is taken of one protocol and family.
#[derive(Debug)]
struct Taken {
    /// On every address.
    on_all: PortSet,
    /// On any one address.
    on_some: PortSet,
    by_host: HashMap<IpAddr, PortSet>,
}

/// Where ports are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The address, or every address of the families.
    pub(super) host: Option<IpAddr>,
    /// The families.
    pub(super) families: [bool; 2],
    /// The protocol.
    pub(super) protocol: Protocol,
    /// How many in a row.
    pub(super) count: u16,
}

/// Which ports are taken, and which comes next.
#[derive(Debug)]
pub(super) struct Ports<'l> {
    taken: HashMap<(bool, Protocol), Taken>,
    ephemeral: &'l EphemeralPorts,
    reserved: PortSet,
    busy: HashMap<Protocol, PortSet>,
    /// The last one that was given.
    pub(super) last: Option<u16>,
}

impl<'l> Ports<'l> {
    pub(super) fn new(leases: &'l Leases) -> Ports<'l> {
        let ephemeral = &leases.ephemeral;
        let mut reserved = PortSet::new();
        for &(first, last) in &ephemeral.reserved {
            (first..=last).for_each(|port| reserved.insert(port));
        }
        let mut busy: HashMap<Protocol, PortSet> = HashMap::new();
        for &(protocol, port) in &ephemeral.busy {
            busy.entry(protocol).or_insert_with(PortSet::new).insert(port);
        }
        Ports { taken: HashMap::new(), ephemeral, reserved, busy, last: leases.last_port }
    }

    /// Takes ports, whether they are free or not.
    pub(super) fn take(&mut self, wanted: Wanted, first: u16) {
        for v6 in [false, true].into_iter().filter(|&v6| wanted.families[usize::from(v6)]) {
            let taken = self.taken.entry((v6, wanted.protocol)).or_insert_with(|| Taken {
                on_all: PortSet::new(),
                on_some: PortSet::new(),
                by_host: HashMap::new(),
            });
            let last = first.saturating_add(wanted.count - 1);
            for port in first..=last {
                match wanted.host {
                    None => taken.on_all.insert(port),
                    Some(host) => {
                        taken.on_some.insert(port);
                        taken.by_host.entry(host).or_insert_with(PortSet::new).insert(port);
                    }
                }
            }
        }
    }

    /// Takes ports if all of them are free.
    pub(super) fn take_free(&mut self, wanted: Wanted, first: u16) -> bool {
        let Some(last) = first.checked_add(wanted.count - 1) else { return false };
        let is_free = first > 0 && (first..=last).all(|port| self.is_free(wanted, port));
        if is_free {
            self.take(wanted, first);
        }
        is_free
    }

    /// Takes ports that were given before, if they are free and no other program has them by now.
    pub(super) fn take_again(&mut self, wanted: Wanted, first: u16) -> bool {
        let last = first.saturating_add(wanted.count - 1);
        !(first..=last).any(|port| self.is_busy(wanted.protocol, port))
            && self.take_free(wanted, first)
    }

    fn is_free(&self, wanted: Wanted, port: u16) -> bool {
        let families = [false, true].into_iter().filter(|&v6| wanted.families[usize::from(v6)]);
        families.filter_map(|v6| self.taken.get(&(v6, wanted.protocol))).all(|taken| {
            let other = match wanted.host {
                None => taken.on_some.has(port),
                Some(host) => taken.by_host.get(&host).is_some_and(|ports| ports.has(port)),
            };
            !other && !taken.on_all.has(port)
        })
    }

    fn is_busy(&self, protocol: Protocol, port: u16) -> bool {
        self.busy.get(&protocol).is_some_and(|busy| busy.has(port))
    }

    /// The lowest port of a range that is free, taken.
    pub(super) fn take_one_of(&mut self, wanted: Wanted, first: u16, last: u16) -> Option<u16> {
        let mut ports = first..=last;
        ports.find(|&port| !self.is_busy(wanted.protocol, port) && self.take_free(wanted, port))
    }

    /// The next ports of the ephemeral range, taken.
    pub(super) fn take_next(&mut self, wanted: Wanted) -> Option<u16> {
        let (first, last) = (self.ephemeral.first, self.ephemeral.last);
        let after = self.last.and_then(|last| last.checked_add(1)).unwrap_or(first);
        let start = if (first..=last).contains(&after) { after } else { first };
        let mut ports = (start..=last).chain(first..start);
        let found = ports.find(|&port| {
            let end = u32::from(port) + u32::from(wanted.count) - 1;
            end <= u32::from(last)
                && (port..=end as u16)
                    .all(|port| !self.reserved.has(port) && !self.is_busy(wanted.protocol, port))
                && self.take_free(wanted, port)
        })?;
        self.last = Some(found + (wanted.count - 1));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host: Option<&str>, count: u16) -> Wanted {
        let host: Option<IpAddr> = host.map(|host| host.parse().unwrap());
        let v6 = host.map(|host| host.is_ipv6());
        let families = [v6 != Some(true), v6 != Some(false)];
        Wanted { host, families, protocol: Protocol::Tcp, count }
    }

    fn leases(first: u16, last: u16, reserved: &[(u16, u16)], last_port: Option<u16>) -> Leases {
        let ephemeral =
            EphemeralPorts { first, last, reserved: reserved.to_vec(), busy: Vec::new() };
        Leases { ephemeral, last_port, ..Leases::default() }
    }

    #[test]
    fn ports_are_given_in_order_past_reserved_and_taken_ones_and_from_the_start_again() {
        let leases = leases(40_000, 40_004, &[(40_001, 40_001)], None);
        let mut ports = Ports::new(&leases);
        ports.take(wanted(Some("192.0.2.10"), 1), 40_002);
        let mut next = |host| ports.take_next(wanted(host, 1));
        // Every address conflicts with any one; two addresses do not with each other.
        assert_eq!(next(None), Some(40_000));
        assert_eq!(next(None), Some(40_003));
        assert_eq!(next(None), Some(40_004));
        assert_eq!(next(None), None);
        assert_eq!(next(Some("192.0.2.11")), Some(40_002));
        assert_eq!(next(Some("192.0.2.11")), None);
    }

    #[test]
    fn the_next_one_is_behind_the_last_and_busy_ones_are_passed_over() {
        let mut leases = leases(40_000, 40_009, &[], Some(40_004));
        leases.ephemeral.busy = vec![(Protocol::Tcp, 40_005), (Protocol::Udp, 40_006)];
        let mut ports = Ports::new(&leases);
        assert_eq!(ports.take_next(wanted(None, 1)), Some(40_006));
        assert_eq!(ports.take_next(wanted(None, 3)), Some(40_007));
        assert_eq!(ports.take_next(wanted(None, 3)), Some(40_000));
        assert_eq!(ports.take_one_of(wanted(None, 1), 40_005, 40_009), None);
        assert_eq!(ports.take_one_of(wanted(None, 1), 39_999, 40_003), Some(39_999));
    }

    #[test]
    fn one_number_serves_both_families_or_none() {
        let leases = leases(40_000, 40_001, &[], None);
        let mut ports = Ports::new(&leases);
        ports.take(wanted(Some("::1"), 1), 40_000);
        assert_eq!(ports.take_next(wanted(None, 1)), Some(40_001));
        assert!(ports.take_free(wanted(Some("127.0.0.1"), 1), 40_000));
        assert!(!ports.take_free(wanted(Some("::1"), 1), 40_001));
    }
}
