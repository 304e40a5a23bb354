//! Subnets for networks that name none: pools of prefixes, cut into equal ones.
//!
//! The lowest free subnet of the first pool that has one, as Docker chooses today. The one hard
//! constraint: it overlaps nothing that the file claims anywhere, also further down, so a subnet
//! that is written out never loses to one that is not. Everything is arithmetic on numbers of up to
//! 128 bits, so a pool of a /8 in /30 costs no more than one of two subnets.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::ipam::{address, number};
use crate::model::{AddressPool, Family};

/// Docker's local default pools: 31 networks (moby `ipamutils`).
const DOCKER: [(&str, u8); 7] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
];

/// As Docker's pool for swarms: 65,536 networks.
const LARGE: [(&str, u8); 1] = [("10.0.0.0/8", 24)];

/// Docker's default pools.
pub(crate) fn docker() -> Vec<AddressPool> {
    DOCKER.iter().map(parsed).collect()
}

/// The larger preset.
pub(crate) fn large() -> Vec<AddressPool> {
    LARGE.iter().map(parsed).collect()
}

fn parsed((base, size): &(&str, u8)) -> AddressPool {
    AddressPool { base: base.parse().expect("the table holds prefixes"), size: *size }
}

/// The IPv6 pool of a gateway, a /48 of fd00::/8 cut into /64, by what tells gateways apart.
/// RFC 4193 3.2: 40 bits that are unlikely to be somebody else's.
pub(crate) fn ula(identity: &str) -> AddressPool {
    let hash = crate::mac::fingerprint(&["ula", identity]);
    let bits = 0xfd << 120 | u128::from(hash & 0xff_ffff_ffff) << 80;
    let base = IpNet::new(address(bits, true), 48).expect("48 is a length of IPv6");
    AddressPool { base, size: 64 }
}

/// The family of a prefix.
pub(crate) fn family(prefix: IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Addresses of one family that belong to somebody, as ranges that do not touch each other's
/// numbers.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    fn insert(&mut self, first: u128, last: u128) {
        // Prefixes nest or are apart.
        if self.overlapping(first, first).is_some_and(|end| end >= last) {
            return;
        }
        let inner: Vec<u128> = self.0.range(first..=last).map(|(&start, _)| start).collect();
        for start in inner {
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// The end of the first range that has a number in common with this one.
    fn overlapping(&self, first: u128, last: u128) -> Option<u128> {
        let before = self.0.range(..=first).next_back().filter(|(_, end)| **end >= first);
        before.or_else(|| self.0.range(first..=last).next()).map(|(_, &end)| end)
    }
}

/// Everything that subnets must keep away from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Occupied {
    v4: Ranges,
    v6: Ranges,
}

impl Occupied {
    fn ranges(&mut self, family: Family) -> &mut Ranges {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Notes that a prefix belongs to somebody.
    pub(crate) fn insert(&mut self, prefix: IpNet) {
        let (first, last) = ends(prefix);
        self.ranges(family(prefix)).insert(first, last);
    }

    /// Takes a prefix if nothing of it belongs to anybody.
    pub(crate) fn take(&mut self, prefix: IpNet) -> bool {
        let (first, last) = ends(prefix);
        let ranges = self.ranges(family(prefix));
        let is_free = ranges.overlapping(first, last).is_none();
        if is_free {
            ranges.insert(first, last);
        }
        is_free
    }
}

fn ends(prefix: IpNet) -> (u128, u128) {
    (number(prefix.network()), number(prefix.broadcast()))
}

/// The pools while subnets are taken from them.
#[derive(Clone, Debug)]
pub(crate) struct SubnetPools {
    /// Each with the number below which all is taken; `None`: everything.
    pools: Vec<(AddressPool, Option<u128>)>,
}

impl SubnetPools {
    pub(crate) fn new(pools: &[AddressPool]) -> SubnetPools {
        let start = |pool: &AddressPool| (*pool, Some(number(pool.base.network())));
        SubnetPools { pools: pools.iter().map(start).collect() }
    }

    /// True if a subnet could come from a pool. Of ULA pools any will do: the default one follows
    /// from the uplinks, and a network keeps its subnet when they change.
    pub(crate) fn could_give(&self, subnet: IpNet) -> bool {
        let is_ula = |prefix: IpNet| number(prefix.network()) >> 120 == 0xfd;
        self.pools.iter().any(|(pool, _)| {
            pool.size == subnet.prefix_len()
                && family(pool.base) == family(subnet)
                && (pool.base.contains(&subnet)
                    || (family(subnet) == Family::V6 && is_ula(pool.base) && is_ula(subnet)))
        })
    }

    /// Takes the lowest free subnet of the first pool of a family that has one.
    pub(crate) fn take(&mut self, wanted: Family, occupied: &mut Occupied) -> Option<IpNet> {
        let pools = self.pools.iter_mut().filter(|(pool, _)| family(pool.base) == wanted);
        for (pool, next) in pools {
            let (_, pool_last) = ends(pool.base);
            let bits = pool.base.max_prefix_len() - pool.size;
            // Of all 128 bits for a subnet of length 0.
            let mask = 1u128.checked_shl(bits.into()).map_or(u128::MAX, |bit| bit - 1);
            while let Some(first) = next.filter(|next| *next <= pool_last) {
                let last = first + mask;
                let taken = occupied.ranges(wanted).overlapping(first, last);
                let end = taken.unwrap_or(last) | mask;
                *next = end.checked_add(1);
                if taken.is_none() {
                    occupied.ranges(wanted).insert(first, last);
                    return IpNet::new(address(first, wanted == Family::V6), pool.size).ok();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn all(pools: &[AddressPool], occupied: &mut Occupied) -> Vec<IpNet> {
        let mut pools = SubnetPools::new(pools);
        std::iter::from_fn(|| pools.take(Family::V4, occupied)).collect()
    }

    #[test]
    fn dockers_pools_are_31_networks_from_172_17() {
        let all = all(&docker(), &mut Occupied::default());
        assert_eq!(all.len(), 31);
        assert_eq!((all[0], all[14]), (net("172.17.0.0/16"), net("172.31.0.0/16")));
        assert_eq!((all[15], all[30]), (net("192.168.0.0/20"), net("192.168.240.0/20")));
    }

    #[test]
    fn the_large_preset_has_65536_networks() {
        let all = all(&large(), &mut Occupied::default());
        assert_eq!(all.len(), 65_536);
        assert_eq!(all[65_535], net("10.255.255.0/24"));
    }

    #[test]
    fn what_is_occupied_is_jumped_over_however_it_lies() {
        let mut occupied = Occupied::default();
        for prefix in ["172.17.5.0/24", "172.18.0.0/15", "172.16.0.0/14", "172.20.1.1/32"] {
            occupied.insert(net(prefix));
        }
        let mut pools = SubnetPools::new(&docker());
        assert_eq!(pools.take(Family::V4, &mut occupied), Some(net("172.21.0.0/16")));
        assert!(!occupied.take(net("172.21.9.0/24")));
        assert!(occupied.take(net("172.22.9.0/24")));
        assert_eq!(pools.take(Family::V4, &mut occupied), Some(net("172.23.0.0/16")));
        assert_eq!(pools.take(Family::V6, &mut occupied), None);
    }

    #[test]
    fn pools_at_the_end_of_the_address_space_end() {
        let pool = |base: &str, size| AddressPool { base: net(base), size };
        let last_v4 = [pool("255.255.255.252/30", 31)];
        assert_eq!(all(&last_v4, &mut Occupied::default()).len(), 2);
        let mut pools =
            SubnetPools::new(&[pool("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", 128)]);
        let mut occupied = Occupied::default();
        assert!(pools.take(Family::V6, &mut occupied).is_some());
        assert!(pools.take(Family::V6, &mut occupied).is_some());
        assert_eq!(pools.take(Family::V6, &mut occupied), None);
        let mut whole = SubnetPools::new(&[pool("::/0", 1)]);
        assert!(whole.take(Family::V6, &mut Occupied::default()).is_some());
    }

    #[test]
    fn a_ula_pool_follows_from_the_identity_alone() {
        assert_eq!(ula("a"), ula("a"));
        assert_ne!(ula("a"), ula("b"));
        assert!(net("fd00::/8").contains(&ula("a").base));
        assert_eq!(ula("a").base.trunc(), ula("a").base);
        let pools = SubnetPools::new(&[ula("a")]);
        assert!(pools.could_give(net("fd00:1:2:3::/64")));
        assert!(!pools.could_give(net("fd00:1:2:3::/80")));
        assert!(!pools.could_give(net("2001:db8::/64")));
    }

    proptest! {
        #[test]
        fn subnets_are_the_lowest_that_overlap_nothing(
            claims in prop::collection::vec((0u32..1 << 16, 16u8..=32), 0..12),
            size in 16u8..=24,
        ) {
            let base = net("10.1.0.0/16");
            let claims: Vec<IpNet> = claims
                .into_iter()
                .map(|(host, length)| {
                    let first = (0x0a01_0000u32 + host).to_be_bytes();
                    IpNet::new(first.into(), length).unwrap().trunc()
                })
                .collect();
            let mut occupied = Occupied::default();
            claims.iter().for_each(|&claim| occupied.insert(claim));
            let found = all(&[AddressPool { base, size }], &mut occupied);
            let expected: Vec<IpNet> = base
                .subnets(size)
                .unwrap()
                .filter(|subnet| {
                    !claims.iter().any(|claim| claim.contains(subnet) || subnet.contains(claim))
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
