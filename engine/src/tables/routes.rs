//! Longest-prefix match over the routes of the uplinks.
//!
//! To one prefix there may be a way by each uplink; the first given is the one that is taken, but
//! replies go back by the uplink that they came in by, and a default route may be chosen.
//!
//! Hash maps per prefix length that occurs, longest first: a look-up costs as many probes as there
//! are different lengths (a handful in a gateway's table), a build is linear, a change costs what
//! changes. It is used on flow misses only; a flow keeps what it found.

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::{Epoch, TableMap};
use crate::id::UplinkId;

/// A way to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations; host bits zero.
    pub to: IpNet,
    /// The next hop; `None`: the destination is on the uplink's own link.
    pub via: Option<IpAddr>,
    /// The uplink.
    pub uplink: UplinkId,
}

/// Routes of one prefix length that a shard holds at most when the table is built: a change copies
/// one shard, which takes some microseconds.
const SHARD_ROUTES: usize = 512;

/// The network bits of a prefix; of IPv4 as IPv6 maps it. Of one length no two prefixes are the
/// same number: an IPv6 prefix of up to 32 bits ends before the mark of a mapped address.
type Key = u128;

fn key_of(prefix: &IpNet) -> Key {
    match prefix.trunc() {
        IpNet::V4(prefix) => prefix.addr().to_ipv6_mapped().to_bits(),
        IpNet::V6(prefix) => prefix.addr().to_bits(),
    }
}

/// All ways to one prefix, of different uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ways {
    first: Route,
    others: Vec<Route>,
}

impl Ways {
    fn iter(&self) -> impl Iterator<Item = &Route> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn by(&self, uplink: UplinkId) -> Option<&Route> {
        self.iter().find(|route| route.uplink == uplink)
    }
}

/// All routes of one prefix length, in shards, so that a table with one route changed shares all
/// shards but one with the table that it was made from.
#[derive(Clone, Debug)]
struct Level {
    length: u8,
    /// A power of two of them.
    shards: Vec<Arc<TableMap<Key, Ways>>>,
}

impl Level {
    fn new(length: u8, route_count: usize) -> Level {
        let shard_count = route_count.div_ceil(SHARD_ROUTES).next_power_of_two();
        // Room for an uneven share, so that none grows while the table is built.
        let room = route_count / shard_count + route_count / shard_count / 4;
        let shard = || Arc::new(TableMap::with_capacity_and_hasher(room, FixedState::default()));
        Level { length, shards: (0..shard_count).map(|_| shard()).collect() }
    }

    fn shard_of(&self, key: Key) -> usize {
        // Any odd number mixes; the maps hash the key in their own way.
        let folded = (key ^ key >> 64) as u64;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (self.shards.len() - 1)
    }

    fn get(&self, key: Key) -> Option<&Ways> {
        self.shards[self.shard_of(key)].get(&key)
    }

    fn map_mut(&mut self, key: Key) -> &mut TableMap<Key, Ways> {
        let shard = self.shard_of(key);
        Arc::make_mut(&mut self.shards[shard])
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }
}

/// All routes of all uplinks, the uplinks' own subnets and default routes included.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Moves when any route does.
    pub epoch: Epoch,
    /// Longest first.
    levels: Vec<Level>,
    count: usize,
}

impl Routes {
    /// Builds the table. Of two routes to one prefix the first wins; a second one of the same
    /// uplink is left out.
    pub fn new(epoch: Epoch, routes: Vec<Route>) -> Routes {
        let mut counts = [0; 129];
        for route in &routes {
            counts[usize::from(route.to.prefix_len())] += 1;
        }
        let lengths = (0..=128u8).rev().filter(|&length| counts[usize::from(length)] > 0);
        let levels = lengths.map(|length| Level::new(length, counts[usize::from(length)]));
        let mut table = Routes { epoch, levels: levels.collect(), count: 0 };
        for route in routes {
            table.add(route);
        }
        table
    }

    /// The same table but for these prefixes, which are taken away first, whoever's they are, and
    /// these routes, which come last. Costs what changes, not what there is.
    pub fn changed(&self, epoch: Epoch, gone: &[IpNet], new: &[Route]) -> Routes {
        let mut table = Routes { epoch, ..self.clone() };
        for prefix in gone {
            let key = key_of(prefix);
            if let Ok(index) = table.level(prefix.prefix_len())
                && let Some(ways) = table.levels[index].map_mut(key).remove(&key)
            {
                table.count -= ways.iter().count();
            }
        }
        table.levels.retain(|level| !level.is_empty());
        new.iter().for_each(|&route| table.add(route));
        table
    }

    fn level(&self, length: u8) -> Result<usize, usize> {
        self.levels.binary_search_by(|level| length.cmp(&level.length))
    }

    fn add(&mut self, route: Route) {
        let (key, length) = (key_of(&route.to), route.to.prefix_len());
        let index = self.level(length).unwrap_or_else(|index| {
            self.levels.insert(index, Level::new(length, 1));
            index
        });
        match self.levels[index].map_mut(key).entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(Ways { first: route, others: Vec::new() })),
            Entry::Occupied(ways) if ways.get().by(route.uplink).is_some() => return,
            Entry::Occupied(mut ways) => ways.get_mut().others.push(route),
        }
        self.count += 1;
    }

    /// The most specific route to an address.
    pub fn to(&self, address: IpAddr) -> Option<&Route> {
        self.ways(address, |ways, _| Some(&ways.first))
    }

    /// The most specific route to an address; of default routes the one by this uplink, if it has
    /// one.
    pub fn to_preferring(&self, address: IpAddr, uplink: UplinkId) -> Option<&Route> {
        self.ways(address, |ways, length| {
            let chosen = if length == 0 { ways.by(uplink) } else { None };
            Some(chosen.unwrap_or(&ways.first))
        })
    }

    /// The most specific route to an address by this uplink.
    pub fn to_by(&self, address: IpAddr, uplink: UplinkId) -> Option<&Route> {
        self.ways(address, |ways, _| ways.by(uplink))
    }

    fn ways<'r>(
        &'r self,
        address: IpAddr,
        choose: impl Fn(&'r Ways, u8) -> Option<&'r Route>,
    ) -> Option<&'r Route> {
        let (bits, family_bits) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        self.levels.iter().find_map(|level| {
            let host_bits = u32::from(u8::checked_sub(family_bits, level.length)?);
            let network = bits.checked_shr(host_bits).and_then(|bits| bits.checked_shl(host_bits));
            choose(level.get(network.unwrap_or(0))?, level.length)
        })
    }

    /// The ways to exactly this prefix.
    fn get(&self, prefix: IpNet) -> Option<&Ways> {
        let index = self.level(prefix.prefix_len()).ok()?;
        self.levels[index].get(key_of(&prefix))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// True if both have the same routes, whatever their epochs.
    pub fn same_routes(&self, other: &Routes) -> bool {
        let same = |ways: &Ways| other.get(ways.first.to) == Some(ways);
        self.count == other.count && self.all_ways().all(same)
    }

    /// All routes, most specific first; of one length in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.all_ways().flat_map(Ways::iter)
    }

    fn all_ways(&self) -> impl Iterator<Item = &Ways> {
        let shards = self.levels.iter().flat_map(|level| &level.shards);
        shards.flat_map(|shard| shard.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(to: &str, via: Option<&str>) -> Route {
        Route {
            to: to.parse().unwrap(),
            via: via.map(|via| via.parse().unwrap()),
            uplink: UplinkId(0),
        }
    }

    #[test]
    fn the_longest_prefix_wins_in_each_family() {
        let routes = Routes::new(
            1,
            vec![
                route("0.0.0.0/0", Some("192.0.2.1")),
                route("192.0.2.0/24", None),
                route("198.51.100.0/24", Some("192.0.2.7")),
                route("::/0", Some("2001:db8::1")),
            ],
        );
        let via = |to: &str| routes.to(to.parse().unwrap()).unwrap().via;
        assert_eq!(via("203.0.113.5"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(via("192.0.2.99"), None);
        assert_eq!(via("198.51.100.3"), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(via("2001:db8:1::1"), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn each_uplink_has_its_own_way_and_the_first_is_taken_unless_another_is_chosen() {
        let by = |uplink, to: &str, via: &str| Route { uplink, ..route(to, Some(via)) };
        let (one, other) = (UplinkId(0), UplinkId(1));
        let routes = Routes::new(
            1,
            vec![
                by(one, "0.0.0.0/0", "192.0.2.1"),
                by(other, "198.51.100.0/24", "203.0.113.9"),
                by(other, "0.0.0.0/0", "203.0.113.1"),
            ],
        );
        let via = |route: Option<&Route>| route.unwrap().via.unwrap().to_string();
        let [far, near] = ["233.252.0.1", "198.51.100.7"].map(|to| to.parse().unwrap());
        assert_eq!(via(routes.to(far)), "192.0.2.1");
        assert_eq!(via(routes.to_preferring(far, other)), "203.0.113.1");
        // A specific route is taken whatever default route was chosen.
        assert_eq!(via(routes.to_preferring(near, one)), "203.0.113.9");
        assert_eq!(via(routes.to_by(near, one)), "192.0.2.1");
        assert_eq!(routes.to_by(far, UplinkId(2)), None);
        assert_eq!((routes.count(), routes.iter().count()), (3, 3));
        let fewer = routes.changed(2, &["0.0.0.0/0".parse().unwrap()], &[]);
        assert_eq!((fewer.count(), fewer.to(far)), (1, None));
    }

    #[test]
    fn without_a_route_there_is_none() {
        assert!(Routes::new(1, vec![]).to("192.0.2.1".parse().unwrap()).is_none());
    }

    proptest! {
        #[test]
        fn a_changed_table_is_the_one_that_is_built_anew(
            old in prop::collection::vec((0u32..64, 20u8..=32), 0..200),
            new in prop::collection::vec((0u32..64, 20u8..=32), 0..50),
        ) {
            let build = |prefixes: &[(u32, u8)]| -> std::collections::BTreeMap<IpNet, Route> {
                let routes = prefixes.iter().map(|&(bits, length)| {
                    let to = IpNet::new(IpAddr::V4((bits << 8).into()), length).unwrap().trunc();
                    (to, Route { to, via: None, uplink: UplinkId(u16::from(length)) })
                });
                routes.collect()
            };
            let (old, new) = (build(&old), build(&new));
            let gone: Vec<IpNet> = old.keys().copied().step_by(2).collect();
            let kept = old.values().filter(|route| !gone.contains(&route.to)).copied();
            let added: Vec<Route> =
                new.values().filter(|route| !old.contains_key(&route.to)).copied().collect();
            let whole = Routes::new(2, kept.chain(added.iter().copied()).collect());
            let before = Routes::new(1, old.values().copied().collect());
            let changed = before.changed(2, &gone, &added);
            prop_assert!(changed.same_routes(&whole) && whole.same_routes(&changed));
            prop_assert_eq!(changed.count(), whole.count());
            prop_assert_eq!(before.count(), old.len());
            for route in old.values().chain(&added) {
                prop_assert_eq!(changed.to(route.to.addr()), whole.to(route.to.addr()));
            }
        }

        #[test]
        fn a_look_up_agrees_with_trying_every_route(
            prefixes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            address in any::<u32>(),
        ) {
            let routes: Vec<Route> = prefixes
                .iter()
                .map(|&(bits, length)| Route {
                    to: IpNet::new(IpAddr::V4(bits.into()), length).unwrap().trunc(),
                    via: None,
                    uplink: UplinkId(0),
                })
                .collect();
            let address = IpAddr::V4(address.into());
            let longest = routes
                .iter()
                .filter(|route| route.to.contains(&address))
                .map(|route| route.to.prefix_len())
                .max();
            let found = Routes::new(1, routes).to(address).map(|route| route.to.prefix_len());
            prop_assert_eq!(found, longest);
        }
    }
}
