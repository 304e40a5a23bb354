//! What is known of paths beyond the gateway's own links: the largest packet that reaches a
//! destination, learnt from ICMP errors.
//!
//! A router that cannot forward a packet says how large one may be (RFC 1191, RFC 8201). The worker
//! that has the flow which the error is about remembers that for the destination and tells the
//! others; from then on the `mtu` stage of every worker answers or fragments here what would die
//! there. A fact only ever lowers what is known, is forgotten after [`KEPT_FOR`], and has a floor
//! below which it is taken for a lie. The one hard constraint: a fixed number of destinations; the
//! one that was learnt first makes room.
//!
//! A destination is an address as the packet leaves with it, in a network or outside of all: two
//! networks may have the same. The far end of a tunnel is one as well: what is learnt of it bounds
//! what goes into the tunnel.

use std::net::IpAddr;
use std::time::Duration;

use crate::flow::{Index, mix, seed_for};
use crate::id::NetworkId;
use crate::time::Tick;

/// RFC 1191 section 6.3 and RFC 8201 section 4: a larger packet is tried again after 10 minutes.
/// Shorter would lose packets of long connections more often, longer would keep a detour's MTU.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(600);

/// Smallest path MTU of IPv4 that is believed, as Linux has it (`ip_rt_min_pmtu`): lower ones are
/// an attack on throughput and have not been seen on a wire for decades.
const FLOOR_V4: u16 = 552;

/// RFC 8200 section 5: every link of IPv6 carries this much.
const FLOOR_V6: u16 = 1_280;

/// What stands for "nothing was learnt": no packet is larger.
pub(crate) const UNKNOWN: u16 = u16::MAX;

/// RFC 1191 section 7.1: common MTUs, for a router that does not say which it has.
const PLATEAUS: [u16; 8] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, FLOOR_V4];

/// What a router said about a path, if it can be true; `quoted_bytes`: how long the packet was that
/// did not fit, by its own header.
pub(crate) fn believed(claimed: u32, quoted_bytes: u16, is_v6: bool) -> Option<u16> {
    if is_v6 {
        // RFC 8201 section 4: a value below the minimum is discarded.
        let mtu = u16::try_from(claimed).unwrap_or(UNKNOWN);
        return (mtu >= FLOOR_V6).then_some(mtu);
    }
    match claimed {
        // A router from before RFC 1191.
        0 => PLATEAUS.into_iter().find(|&plateau| plateau < quoted_bytes),
        claimed => u16::try_from(claimed).ok().filter(|&mtu| mtu >= FLOOR_V4),
    }
}

/// Where a path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The network that the address is in; `NONE`: it is outside.
    pub(crate) network: NetworkId,
    pub(crate) address: IpAddr,
}

impl From<IpAddr> for End {
    fn from(address: IpAddr) -> End {
        End { network: NetworkId::NONE, address }
    }
}

/// What became of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// Packets to this destination are to be smaller from now on.
    Lower,
    /// It was known already, and is kept for longer.
    Again,
    /// A smaller MTU is known.
    Nothing,
}

/// A destination of which something is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) destination: End,
    pub(crate) mtu: u16,
    pub(crate) learnt: Tick,
}

/// The destinations that a worker knows something of.
#[derive(Debug)]
pub(crate) struct Paths {
    index: Index,
    places: Box<[Option<Path>]>,
    /// Where the next one goes; what is there was learnt before all others.
    next: usize,
    count: usize,
    seed: u64,
}

impl Paths {
    pub(crate) fn new(capacity: usize, seed: u64) -> Paths {
        let capacity = capacity.max(1);
        Paths {
            index: Index::new(capacity),
            places: vec![None; capacity].into_boxed_slice(),
            next: 0,
            count: 0,
            seed: seed_for(seed, 30),
        }
    }

    /// True if nothing is known of any destination.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Destinations of which something is known.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The largest packet that reaches a destination, as far as is known; else [`UNKNOWN`].
    pub(crate) fn mtu_to(&self, destination: impl Into<End>) -> u16 {
        if self.is_empty() {
            return UNKNOWN;
        }
        let found = self.find(destination.into()).and_then(|place| self.places[place]);
        found.map_or(UNKNOWN, |path| path.mtu)
    }

    /// Learns that packets to a destination may be this large.
    pub(crate) fn learn(&mut self, destination: impl Into<End>, mtu: u16, now: Tick) -> Learnt {
        let destination = destination.into();
        if let Some(path) = self.find(destination).and_then(|place| self.places[place].as_mut()) {
            if mtu > path.mtu {
                return Learnt::Nothing;
            }
            let learnt = if mtu < path.mtu { Learnt::Lower } else { Learnt::Again };
            (path.mtu, path.learnt) = (mtu, now);
            return learnt;
        }
        let place = self.next;
        self.next = (place + 1) % self.places.len();
        self.forget(place);
        if !self.index.insert(self.hash(destination), place as u32) {
            return Learnt::Nothing;
        }
        self.places[place] = Some(Path { destination, mtu, learnt: now });
        self.count += 1;
        Learnt::Lower
    }

    /// Forgets what is too old, of all. True if there was any.
    pub(crate) fn sweep(&mut self, now: Tick) -> bool {
        if self.is_empty() {
            return false;
        }
        let before = self.count;
        for place in 0..self.places.len() {
            let age = self.places[place].map_or(0, |path| now.since(path.learnt));
            if age >= Tick::count(KEPT_FOR) {
                self.forget(place);
            }
        }
        self.count < before
    }

    /// What is known, from a place on, as many as `out` has room for and at most `places` of them
    /// looked at. Returns where to go on; `None`: that was all.
    pub(crate) fn view(
        &self,
        from: u32,
        places: u32,
        mut take: impl FnMut(&Path) -> bool,
    ) -> Option<u32> {
        let from = from as usize;
        let end = (from + places as usize).min(self.places.len());
        for (place, path) in self.places.iter().enumerate().take(end).skip(from) {
            if let Some(path) = path
                && !take(path)
            {
                return Some(place as u32);
            }
        }
        (end < self.places.len()).then_some(end as u32)
    }

    fn forget(&mut self, place: usize) {
        if let Some(path) = self.places[place].take() {
            self.index.remove(self.hash(path.destination), place as u32);
            self.count -= 1;
        }
    }

    fn find(&self, destination: End) -> Option<usize> {
        let is_it = |place: u32| {
            let path = self.places.get(place as usize).copied().flatten();
            path.is_some_and(|path| path.destination == destination)
        };
        self.index.find(self.hash(destination), is_it).map(|place| place as usize)
    }

    fn hash(&self, End { network, address }: End) -> u64 {
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let network = u64::from(network.0);
        mix(mix(self.seed ^ network, bits as u64), (bits >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn what_cannot_be_true_is_not_believed() {
        let v4 = |claimed| believed(claimed, 1_500, false);
        assert_eq!((v4(552), v4(551), v4(1_400)), (Some(552), None, Some(1_400)));
        assert_eq!((v4(1), v4(70_000)), (None, None));
        let v6 = |claimed| believed(claimed, 1_500, true);
        assert_eq!((v6(1_280), v6(1_279), v6(0)), (Some(1_280), None, None));
    }

    #[test]
    fn a_router_that_names_no_mtu_has_the_next_lower_common_one() {
        let guessed = |bytes| believed(0, bytes, false);
        assert_eq!((guessed(1_500), guessed(1_492)), (Some(1_492), Some(1_006)));
        assert_eq!((guessed(65_535), guessed(552)), (Some(32_000), None));
    }

    #[test]
    fn an_mtu_only_falls_until_it_is_forgotten() {
        let mut paths = Paths::new(4, 1);
        let (one, old) = (address(1), Tick::count(KEPT_FOR));
        assert_eq!(paths.mtu_to(one), UNKNOWN);
        assert_eq!(paths.learn(one, 1_400, Tick(0)), Learnt::Lower);
        assert_eq!(paths.learn(one, 1_450, Tick(5)), Learnt::Nothing);
        assert_eq!(paths.learn(one, 1_400, Tick(10)), Learnt::Again);
        assert_eq!(paths.learn(one, 1_300, Tick(20)), Learnt::Lower);
        assert_eq!((paths.mtu_to(one), paths.count()), (1_300, 1));
        assert!(!paths.sweep(Tick(19 + old)));
        assert!(paths.sweep(Tick(20 + old)));
        assert_eq!((paths.mtu_to(one), paths.is_empty()), (UNKNOWN, true));
    }

    #[test]
    fn the_first_that_was_learnt_makes_room() {
        let mut paths = Paths::new(3, 1);
        for number in 0..5 {
            assert_eq!(paths.learn(address(number), 1_400, Tick(number)), Learnt::Lower);
        }
        let known: Vec<bool> = (0..5).map(|n| paths.mtu_to(address(n)) == 1_400).collect();
        assert_eq!(known, [false, false, true, true, true]);
        assert_eq!(paths.count(), 3);
        let mut seen = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = paths.view(from, 2, |path| {
                seen.push(path.destination.address);
                true
            });
        }
        seen.sort();
        assert_eq!(seen, [2, 3, 4].map(address));
    }

    #[test]
    fn one_address_in_two_networks_is_two_destinations() {
        let mut paths = Paths::new(4, 1);
        let end = |network| End { network: NetworkId(network), address: address(7) };
        paths.learn(end(1), 1_300, Tick(0));
        paths.learn(end(2), 1_400, Tick(0));
        let known = [1, 2, 3].map(|network| paths.mtu_to(end(network)));
        assert_eq!((known, paths.mtu_to(address(7))), ([1_300, 1_400, UNKNOWN], UNKNOWN));
    }

    proptest! {
        #[test]
        fn the_memory_agrees_with_a_list(
            steps in prop::collection::vec((0u32..12, 552u16..1_500), 0..200),
        ) {
            let mut paths = Paths::new(6, 3);
            let mut model: Vec<(u32, u16)> = Vec::new();
            for (number, mtu) in steps {
                paths.learn(address(number), mtu, Tick(0));
                match model.iter_mut().find(|known| known.0 == number) {
                    Some(known) => known.1 = known.1.min(mtu),
                    None => {
                        if model.len() == 6 {
                            model.remove(0);
                        }
                        model.push((number, mtu));
                    }
                }
                for number in 0..12 {
                    let known = model.iter().find(|known| known.0 == number);
                    let expected = known.map_or(UNKNOWN, |known| known.1);
                    prop_assert_eq!(paths.mtu_to(address(number)), expected);
                }
            }
        }
    }
}
