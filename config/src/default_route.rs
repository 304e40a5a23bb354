//! Which network gives an endpoint its default route: Docker's rule, per address family.
//!
//! Of the networks that have a gateway of the family (internal ones have none to offer) wins, first
//! difference first: the higher `gw_priority`, more families with a gateway, the name that sorts
//! first.

use std::cmp::Reverse;
use std::net::IpAddr;

/// One network of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'n> {
    pub(crate) network: &'n str,
    pub(crate) gw_priority: i32,
    /// The gateway towards other networks; `None`: no address of the family, or internal.
    pub(crate) gateway_v4: Option<IpAddr>,
    pub(crate) gateway_v6: Option<IpAddr>,
}

impl Candidate<'_> {
    /// The gateway of a family.
    pub(crate) fn gateway(&self, v6: bool) -> Option<IpAddr> {
        if v6 { self.gateway_v6 } else { self.gateway_v4 }
    }

    fn family_count(&self) -> usize {
        usize::from(self.gateway_v4.is_some()) + usize::from(self.gateway_v6.is_some())
    }
}

/// Index of the candidate that gives the default route of a family.
pub(crate) fn choose(candidates: &[Candidate<'_>], v6: bool) -> Option<usize> {
    let offering = candidates.iter().enumerate();
    let offering = offering.filter(|(_, candidate)| candidate.gateway(v6).is_some());
    let rank = |candidate: &Candidate<'_>| {
        (Reverse(candidate.gw_priority), Reverse(candidate.family_count()))
    };
    let best = offering
        .min_by(|(_, a), (_, b)| rank(a).cmp(&rank(b)).then_with(|| a.network.cmp(b.network)));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(network: &str, gw_priority: i32, v4: bool, v6: bool) -> Candidate<'_> {
        Candidate {
            network,
            gw_priority,
            gateway_v4: v4.then(|| "10.0.0.1".parse().unwrap()),
            gateway_v6: v6.then(|| "fd00::1".parse().unwrap()),
        }
    }

    #[test]
    fn priority_comes_before_families_before_names() {
        let b = candidate("b", 0, true, false);
        let a = candidate("a", 0, true, false);
        let both = candidate("z", 0, true, true);
        let urgent = candidate("y", 1, true, false);
        assert_eq!(choose(&[b.clone(), a.clone()], false), Some(1));
        assert_eq!(choose(&[a.clone(), both.clone(), b.clone()], false), Some(1));
        assert_eq!(choose(&[a.clone(), both.clone(), urgent], false), Some(2));
        assert_eq!(choose(&[a, candidate("c", -1, true, true), b], false), Some(0));
    }

    #[test]
    fn families_are_chosen_apart() {
        let v4_urgent = candidate("a", 5, true, false);
        let both = candidate("b", 0, true, true);
        assert_eq!(choose(&[v4_urgent.clone(), both.clone()], false), Some(0));
        assert_eq!(choose(&[v4_urgent.clone(), both], true), Some(1));
        assert_eq!(choose(&[v4_urgent], true), None);
    }

    #[test]
    fn an_endpoint_of_internal_networks_has_none() {
        assert_eq!(choose(&[candidate("a", 9, false, false)], false), None);
        assert_eq!(choose(&[], false), None);
    }
}
