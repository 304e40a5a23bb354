//! The host behind an uplink whose kernel's end is in the host's own namespace.
//!
//! Gateway and host meet on a small link of their own: the first addresses of each prefix are the
//! host's, the gateway's and the one that the host's loopback traffic comes from; the rest stand in
//! for the host's other addresses, one each (see `engine::tables::HostLink`). Which these are only
//! the running gateway knows: it sets them by [`HostSide::set_addresses`], and an address that
//! stays keeps its stand-in, so that flows to it go on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::tables::HostLink;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::mac;

/// Of a prefix: the host's address, the gateway's, and where loopback traffic comes from.
const PEER: u32 = 1;
const GATEWAY: u32 = 2;
const LOOPBACK: u32 = 3;

/// The first stand-in.
const FIRST: u32 = 4;

/// Most of the host's addresses of one family that have a stand-in: a /24 less what is set aside
/// for the addresses above and for test packets.
pub const STAND_INS_MAX: usize = 240;

/// Addresses of the IPv4 link that are set aside for test packets: the last eight.
const TEST_COUNT: u32 = 8;

/// The host's end of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSide {
    /// The link's IPv4 prefix; of length 24.
    pub link4: Ipv4Net,
    /// The link's IPv6 prefix; of length 64.
    pub link6: Ipv6Net,
    /// True: the gateway has no addresses of its own, it shares the host's.
    pub is_shared: bool,
    /// The host's addresses by their places; `None`: the place is free.
    places4: Vec<Option<IpAddr>>,
    places6: Vec<Option<IpAddr>>,
}

impl HostSide {
    /// A link with these prefixes.
    pub(crate) fn new(link4: Ipv4Net, link6: Ipv6Net, is_shared: bool) -> HostSide {
        HostSide { link4, link6, is_shared, places4: Vec::new(), places6: Vec::new() }
    }

    /// The prefixes of the `index`th link of a config, if the file gives none: of the link-local
    /// block, which nobody routes, and a unique local one (RFC 4193) hashed from its name.
    pub(crate) fn default_links(index: usize, name: &str) -> (Ipv4Net, Ipv6Net) {
        // From 169.254.86.0/24 on; past the last of the block it begins at its first usable one.
        let third = 1 + (85 + index % 254) % 254;
        let v4 = Ipv4Addr::new(169, 254, third as u8, 0);
        let hash = mac::fingerprint(&["link", name]);
        let v6 = 0xfd << 120 | u128::from(hash & 0xff_ffff_ffff) << 80;
        let v4 = Ipv4Net::new(v4, 24).expect("24 is a length of IPv4");
        (v4, Ipv6Net::new(Ipv6Addr::from_bits(v6), 64).expect("64 is a length of IPv6"))
    }

    /// The host's own addresses on the link.
    pub fn peers(&self) -> [IpAddr; 2] {
        [self.at4(PEER), self.at6(PEER)]
    }

    /// The gateway's addresses on the link.
    pub fn gateways(&self) -> [IpAddr; 2] {
        [self.at4(GATEWAY), self.at6(GATEWAY)]
    }

    /// The source that the host's loopback traffic gets.
    pub fn loopbacks(&self) -> [IpAddr; 2] {
        [self.at4(LOOPBACK), self.at6(LOOPBACK)]
    }

    /// Both prefixes.
    pub fn links(&self) -> [IpNet; 2] {
        [self.link4.into(), self.link6.into()]
    }

    /// Addresses for test packets: from the first to the second, which is beyond the uplink.
    pub fn test_pair(&self, v6: bool) -> [IpAddr; 2] {
        let last = 256 - TEST_COUNT;
        let at = |number| if v6 { self.at6(0x1_0000 + number) } else { self.at4(last + number) };
        [at(2), at(4)]
    }

    /// The host's address on the device that test packets come from; its subnet holds the first
    /// address of the pair and not the second.
    pub fn test_host(&self, v6: bool) -> IpNet {
        let last = 256 - TEST_COUNT;
        let (address, length) = match v6 {
            true => (self.at6(0x1_0000 + 1), 126),
            false => (self.at4(last + 1), 30),
        };
        IpNet::new(address, length).expect("a length of the family")
    }

    fn at4(&self, number: u32) -> IpAddr {
        Ipv4Addr::from_bits(self.link4.network().to_bits() + number).into()
    }

    fn at6(&self, number: u32) -> IpAddr {
        Ipv6Addr::from_bits(self.link6.network().to_bits() + u128::from(number)).into()
    }

    /// Takes the addresses that the host has now; those that had a stand-in `before` keep it.
    /// Returns how many have none.
    pub fn follow(&mut self, before: Option<&HostSide>, addresses: &[IpAddr]) -> usize {
        if let Some(before) = before {
            self.places4.clone_from(&before.places4);
            self.places6.clone_from(&before.places6);
        }
        self.set_addresses(addresses)
    }

    /// Takes the addresses that the host has now, loopback addresses included. Returns how many of
    /// them have no place.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> usize {
        let of = |v6: bool| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|address| address.is_ipv6() == v6).collect()
        };
        place(&mut self.places4, &of(false)) + place(&mut self.places6, &of(true))
    }

    /// All addresses of the host that have a stand-in, with it: (stand-in, address).
    pub fn stand_ins(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let of = |places: &[Option<IpAddr>]| -> Vec<(u32, IpAddr)> {
            let numbered = (FIRST..).zip(places);
            numbered.filter_map(|(number, address)| Some((number, (*address)?))).collect()
        };
        let v4 = of(&self.places4).into_iter().map(|(number, own)| (self.at4(number), own));
        let v6 = of(&self.places6).into_iter().map(|(number, own)| (self.at6(number), own));
        let own = self.gateways().into_iter().zip(self.peers());
        own.chain(v4).chain(v6)
    }

    /// What the tables say about it.
    pub(crate) fn table(&self) -> HostLink {
        HostLink {
            peers: self.peers().to_vec(),
            loopback: self.loopbacks().to_vec(),
            stand_ins: self.stand_ins().collect(),
        }
    }
}

/// Frees the places of addresses that are gone and gives new ones the lowest free places. Returns
/// for how many there was none.
fn place(places: &mut Vec<Option<IpAddr>>, addresses: &[IpAddr]) -> usize {
    for place in places.iter_mut() {
        if place.is_some_and(|address| !addresses.contains(&address)) {
            *place = None;
        }
    }
    let mut without = 0;
    for &address in addresses {
        if places.contains(&Some(address)) {
            continue;
        }
        match places.iter().position(Option::is_none) {
            Some(free) => places[free] = Some(address),
            None if places.len() < STAND_INS_MAX => places.push(Some(address)),
            None => without += 1,
        }
    }
    while places.last().is_some_and(Option::is_none) {
        places.pop();
    }
    without
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side() -> HostSide {
        let (link4, link6) = HostSide::default_links(0, "wan");
        HostSide::new(link4, link6, true)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_keeps_its_stand_in_when_others_come_and_go() {
        let mut side = side();
        let [one, two, three] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ip);
        side.set_addresses(&[one, two]);
        let of = |side: &HostSide, host| side.table().stand_in_for(host);
        let before = of(&side, two);
        assert_eq!(before, Some(ip("169.254.86.5")));
        side.set_addresses(&[two, three, ip("2001:db8::1")]);
        assert_eq!(of(&side, two), before);
        assert_eq!(of(&side, three), Some(ip("169.254.86.4")));
        assert_eq!(of(&side, one), None);
        assert_eq!(side.table().behind(ip("169.254.86.2")), Some(ip("169.254.86.1")));
    }

    #[test]
    fn more_addresses_than_places_are_counted() {
        let mut side = side();
        let many: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(side.set_addresses(&many), 256 - STAND_INS_MAX);
        let highest = side.stand_ins().map(|(own, _)| own).filter(IpAddr::is_ipv4).max().unwrap();
        assert!(highest < side.test_host(false).network(), "{highest}");
    }

    #[test]
    fn each_uplink_has_a_link_of_its_own() {
        let links: std::collections::HashSet<Ipv4Net> =
            (0..254).map(|index| HostSide::default_links(index, "x").0).collect();
        assert_eq!(links.len(), 254);
        assert!(!links.contains(&"169.254.0.0/24".parse().unwrap()));
        assert!(!links.contains(&"169.254.255.0/24".parse().unwrap()));
    }

    #[test]
    fn test_packets_go_from_one_subnet_to_another() {
        let side = side();
        for v6 in [false, true] {
            let [from, to] = side.test_pair(v6);
            assert!(side.test_host(v6).contains(&from) && !side.test_host(v6).contains(&to));
            assert!(side.links().iter().any(|link| link.contains(&to)));
        }
    }
}
