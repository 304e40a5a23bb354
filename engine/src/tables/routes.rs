//! Longest-prefix match over the routes of the uplinks.
//!
//! One hash map per prefix length that occurs, longest first: a look-up costs as many probes as
//! there are different lengths (a handful in a gateway's table), a build is linear. It is used on
//! flow misses only; a flow keeps what it found.

use std::net::IpAddr;

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

/// All routes of all uplinks, the uplinks' own subnets and default routes included.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Moves when any route does.
    pub epoch: Epoch,
    /// Per prefix length, longest first.
    lengths: Vec<(u8, TableMap<IpNet, Route>)>,
}

impl Routes {
    /// Builds the table. Of two routes to one prefix the first wins.
    pub fn new(epoch: Epoch, routes: Vec<Route>) -> Routes {
        let mut lengths: Vec<(u8, TableMap<IpNet, Route>)> = Vec::new();
        for route in routes {
            let length = route.to.prefix_len();
            let index = match lengths.binary_search_by(|(other, _)| length.cmp(other)) {
                Ok(index) => index,
                Err(index) => {
                    lengths.insert(index, (length, TableMap::default()));
                    index
                }
            };
            lengths[index].1.entry(route.to.trunc()).or_insert(route);
        }
        Routes { epoch, lengths }
    }

    /// The most specific route to an address.
    pub fn to(&self, address: IpAddr) -> Option<&Route> {
        self.lengths.iter().find_map(|(length, routes)| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            routes.get(&prefix)
        })
    }

    /// All routes, most specific first; of one length in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.lengths.iter().flat_map(|(_, routes)| routes.values())
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
    fn without_a_route_there_is_none() {
        assert!(Routes::new(1, vec![]).to("192.0.2.1".parse().unwrap()).is_none());
    }

    proptest! {
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
