//! Addresses of one subnet: which are usable, which are taken, which is the lowest free one.
//!
//! Both families are numbers of up to 128 bits here, so there is one piece of arithmetic. A pool
//! never gives an address twice, and none outside of its range. It keeps nothing across starts:
//! that is what `leases` is for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// First and last address of a subnet that a host may have.
///
/// IPv4: all but network and broadcast address, and both of a /31 (RFC 3021). IPv6: all but the
/// subnet-router anycast address (RFC 4291 2.6.1), and both of a /127 (RFC 6164). A /32 or /128 has
/// its single one.
pub(crate) fn usable(prefix: IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
    let host_bits = prefix.max_prefix_len() - prefix.prefix_len();
    let v6 = matches!(prefix, IpNet::V6(_));
    match (host_bits, v6) {
        (0 | 1, _) => (address(first, v6), address(last, v6)),
        (_, true) => (address(first + 1, v6), address(last, v6)),
        (_, false) => (address(first + 1, v6), address(last - 1, v6)),
    }
}

/// True if the two have an address in common.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// True if a host of the subnet may have this address.
pub(crate) fn is_usable(prefix: IpNet, address: IpAddr) -> bool {
    let (first, last) = usable(prefix);
    prefix.contains(&address) && (first..=last).contains(&address)
}

/// An address as a number; those of IPv4 are of 32 bits.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A number as an address.
pub(crate) fn address(number: u128, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(number as u32))
    }
}

/// The addresses of one subnet. `H` says who holds one.
#[derive(Clone, Debug)]
pub(crate) struct Pool<H> {
    prefix: IpNet,
    /// First address of the range that can be given.
    first: u128,
    /// Everything in the range below this is taken; `None`: all of it.
    next: Option<u128>,
    /// Last address of the range that can be given.
    last: u128,
    taken: HashMap<u128, H>,
    /// To be given last: not held by anybody, with the moment until which each rests.
    resting: HashMap<u128, u64>,
    /// Those of them that can be given, the one that has rested longest at the end; worked out
    /// when everything else is taken.
    spare: Option<Vec<u128>>,
    /// Never to be given, but free to be reserved: first and last number, in order, apart.
    withheld: Vec<(u128, u128)>,
}

impl<H> Pool<H> {
    /// A pool that allocates from `range`, a part of `prefix`.
    pub(crate) fn new(prefix: IpNet, range: IpNet) -> Pool<H> {
        let (first, last) = usable(prefix);
        let first = number(first).max(number(range.network()));
        Pool {
            prefix,
            first,
            next: Some(first),
            last: number(last).min(number(range.broadcast())),
            taken: HashMap::new(),
            resting: HashMap::new(),
            spare: None,
            withheld: Vec::new(),
        }
    }

    /// The subnet.
    pub(crate) fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// Takes an address of the subnet, in the range or not. If it is held already, says by whom.
    pub(crate) fn reserve(&mut self, address: IpAddr, holder: H) -> Result<(), &H> {
        debug_assert!(
            self.prefix.contains(&address),
            "the caller has found the pool by its prefix"
        );
        match self.taken.entry(number(address)) {
            Entry::Vacant(entry) => {
                entry.insert(holder);
                Ok(())
            }
            Entry::Occupied(entry) => Err(entry.into_mut()),
        }
    }

    /// Keeps prefixes from being given.
    pub(crate) fn withhold(&mut self, prefixes: &[IpNet]) {
        let inside = prefixes.iter().filter(|prefix| overlap(**prefix, self.prefix));
        let ends = |prefix: &IpNet| (number(prefix.network()), number(prefix.broadcast()));
        let mut ranges: Vec<(u128, u128)> = inside.map(ends).collect();
        ranges.sort_unstable();
        // Prefixes nest or are apart, so one that begins inside another one ends there too.
        ranges.dedup_by(|later, earlier| later.0 <= earlier.1);
        self.withheld = ranges;
    }

    /// The end of the withheld range that a number is in.
    fn withheld_until(&self, number: u128) -> Option<u128> {
        let index = self.withheld.partition_point(|(first, _)| *first <= number);
        let (_, last) = *self.withheld.get(index.checked_sub(1)?)?;
        (last >= number).then_some(last)
    }

    /// Keeps an address from being given as the lowest free one, until a moment.
    pub(crate) fn rest(&mut self, address: IpAddr, until: u64) {
        self.resting.insert(number(address), until);
    }

    /// Takes the address that has rested longest, for when no other is left.
    pub(crate) fn take_resting(&mut self, holder: H) -> Option<IpAddr> {
        let mut spare = self.spare.take().unwrap_or_else(|| {
            let range = self.first..=self.last;
            let fits =
                |number: u128| range.contains(&number) && self.withheld_until(number).is_none();
            let all = self.resting.iter().filter(|(number, _)| fits(**number));
            let mut all: Vec<(u64, u128)> = all.map(|(number, until)| (*until, *number)).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.into_iter().map(|(_, number)| number).collect()
        });
        let mut found = None;
        while let Some(number) = spare.pop() {
            if let Entry::Vacant(entry) = self.taken.entry(number) {
                entry.insert(holder);
                found = Some(address(number, matches!(self.prefix, IpNet::V6(_))));
                break;
            }
        }
        self.spare = Some(spare);
        found
    }

    /// Takes this address if it could have been allocated and nobody holds it.
    pub(crate) fn take(&mut self, address: IpAddr, holder: H) -> bool {
        let is_given = self.prefix.contains(&address)
            && (self.first..=self.last).contains(&number(address))
            && self.withheld_until(number(address)).is_none()
            && !self.taken.contains_key(&number(address));
        if is_given {
            self.taken.insert(number(address), holder);
        }
        is_given
    }

    /// Who holds an address.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<&H> {
        self.taken.get(&number(address)).filter(|_| self.prefix.contains(&address))
    }

    /// Takes the lowest free address of the range; `None`: there is none left.
    pub(crate) fn take_lowest(&mut self, holder: H) -> Option<IpAddr> {
        loop {
            let candidate = self.next.filter(|next| *next <= self.last)?;
            if let Some(end) = self.withheld_until(candidate) {
                self.next = end.checked_add(1);
                continue;
            }
            self.next = candidate.checked_add(1);
            if self.resting.contains_key(&candidate) {
                continue;
            }
            if let Entry::Vacant(entry) = self.taken.entry(candidate) {
                entry.insert(holder);
                return Some(address(candidate, matches!(self.prefix, IpNet::V6(_))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn all_of(prefix: &str, range: &str) -> Vec<String> {
        let mut pool = Pool::new(net(prefix), net(range));
        std::iter::from_fn(|| pool.take_lowest(())).map(|address| address.to_string()).collect()
    }

    #[test]
    fn short_subnets_give_what_they_have() {
        assert_eq!(all_of("10.1.0.0/30", "10.1.0.0/30"), ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(all_of("10.1.0.0/31", "10.1.0.0/31"), ["10.1.0.0", "10.1.0.1"]);
        assert_eq!(all_of("10.1.0.7/32", "10.1.0.7/32"), ["10.1.0.7"]);
        assert_eq!(all_of("fd00::/126", "fd00::/126"), ["fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(all_of("fd00::/127", "fd00::/127"), ["fd00::", "fd00::1"]);
        assert_eq!(all_of("fd00::7/128", "fd00::7/128"), ["fd00::7"]);
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127";
        assert_eq!(all_of(end, end).len(), 2);
        assert_eq!(all_of("255.255.255.254/31", "255.255.255.254/31").len(), 2);
    }

    #[test]
    fn a_range_bounds_what_is_given_but_not_what_is_reserved() {
        assert_eq!(all_of("10.1.0.0/24", "10.1.0.0/31"), ["10.1.0.1"]);
        assert_eq!(all_of("10.1.0.0/24", "10.1.0.254/31"), ["10.1.0.254"]);
        let mut pool = Pool::new(net("10.1.0.0/24"), net("10.1.0.128/30"));
        assert_eq!(pool.reserve("10.1.0.5".parse().unwrap(), "web"), Ok(()));
        assert_eq!(pool.reserve("10.1.0.5".parse().unwrap(), "db"), Err(&"web"));
        assert_eq!(pool.take_lowest("db").unwrap().to_string(), "10.1.0.128");
    }

    #[test]
    fn what_is_withheld_is_jumped_over_but_can_be_reserved() {
        let mut pool = Pool::new(net("fd00::/64"), net("fd00::/64"));
        pool.withhold(
            &["fd00::/65", "fd00::5/128", "fd00:0:0:0:8000::/127", "10.0.0.0/8"].map(net),
        );
        let next = |pool: &mut Pool<()>| pool.take_lowest(()).unwrap().to_string();
        assert_eq!(next(&mut pool), "fd00::8000:0:0:2");
        assert!(!pool.take("fd00::7".parse().unwrap(), ()));
        assert_eq!(pool.reserve("fd00::7".parse().unwrap(), ()), Ok(()));
        let mut whole = Pool::new(net("10.1.0.0/30"), net("10.1.0.0/30"));
        whole.withhold(&[net("0.0.0.0/0")]);
        assert_eq!(whole.take_lowest(()), None::<IpAddr>);
        assert_eq!(whole.take_lowest(()), None);
    }

    #[test]
    fn what_rests_is_given_last_and_the_longest_rested_first() {
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut pool = Pool::new(net("10.1.0.0/29"), net("10.1.0.0/29"));
        pool.withhold(&[net("10.1.0.4/32")]);
        for (address, until) in [("10.1.0.1", 30), ("10.1.0.2", 20), ("10.1.0.3", 10)] {
            pool.rest(of(address), until);
        }
        pool.rest(of("10.1.0.4"), 0);
        assert!(pool.take(of("10.1.0.2"), "its holder"));
        assert_eq!(pool.take_lowest("a"), Some(of("10.1.0.5")));
        assert_eq!(pool.take_lowest("b"), Some(of("10.1.0.6")));
        assert_eq!(pool.take_lowest("c"), None);
        assert_eq!(pool.take_resting("c"), Some(of("10.1.0.3")));
        assert_eq!(pool.take_resting("d"), Some(of("10.1.0.1")));
        assert_eq!(pool.take_resting("e"), None);
    }

    proptest! {
        #[test]
        fn addresses_are_unique_usable_and_the_lowest_free(
            length in 20u8..=32,
            reserved in prop::collection::btree_set(0u32..4096, 0..40),
            count in 0usize..200,
        ) {
            let prefix = IpNet::new("10.16.0.0".parse().unwrap(), length).unwrap();
            let base = 0x0a10_0000u32;
            let mut pool = Pool::new(prefix, prefix);
            let mut taken = BTreeSet::new();
            for offset in reserved {
                let address = IpAddr::V4((base + offset).into());
                if is_usable(prefix, address) {
                    prop_assert!(pool.reserve(address, ()).is_ok());
                    taken.insert(address);
                }
            }
            let (first, last) = usable(prefix);
            for _ in 0..count {
                let lowest = (number(first)..=number(last))
                    .map(|number| address(number, false))
                    .find(|address| !taken.contains(address));
                prop_assert_eq!(pool.take_lowest(()), lowest);
                taken.extend(lowest);
            }
        }
    }
}
