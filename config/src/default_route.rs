//! Which network gives an endpoint its default route: Docker's rule, per address family.
//!
//! Of the networks that have a gateway of the family (internal ones have none to offer) wins, first
//! difference first: the higher `gw_priority`, more families with a gateway, the name that sorts
//! first. A file may say it outright instead (`default_route`): a network that is named for a
//! family comes before all others, and one that says which families it gives is asked for no other.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::model::Family;

/// One network of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'n> {
    pub(crate) network: &'n str,
    pub(crate) gw_priority: i32,
    /// The gateway towards other networks; `None`: no address of the family, or internal.
    pub(crate) gateway_v4: Option<IpAddr>,
    pub(crate) gateway_v6: Option<IpAddr>,
    /// The families that the file wants from here; `None`: it does not say.
    pub(crate) wanted: Option<Vec<Family>>,
}

impl Candidate<'_> {
    /// The gateway of a family.
    pub(crate) fn gateway(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.gateway_v4,
            Family::V6 => self.gateway_v6,
        }
    }

    fn family_count(&self) -> usize {
        usize::from(self.gateway_v4.is_some()) + usize::from(self.gateway_v6.is_some())
    }
}

/// Index of the candidate that gives the default route of a family.
pub(crate) fn choose(candidates: &[Candidate<'_>], family: Family) -> Option<usize> {
    let wants = |candidate: &Candidate<'_>| {
        candidate.wanted.as_ref().map(|families| families.contains(&family))
    };
    let offering = candidates.iter().enumerate().filter(|(_, candidate)| {
        candidate.gateway(family).is_some() && wants(candidate) != Some(false)
    });
    let rank = |candidate: &Candidate<'_>| {
        let is_named = wants(candidate) == Some(true);
        (Reverse(is_named), Reverse(candidate.gw_priority), Reverse(candidate.family_count()))
    };
    let best = offering
        .min_by(|(_, a), (_, b)| rank(a).cmp(&rank(b)).then_with(|| a.network.cmp(b.network)));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Family::{V4, V6};
    use proptest::prelude::*;

    fn candidate(network: &str, gw_priority: i32, v4: bool, v6: bool) -> Candidate<'_> {
        Candidate {
            network,
            gw_priority,
            gateway_v4: v4.then(|| "10.0.0.1".parse().unwrap()),
            gateway_v6: v6.then(|| "fd00::1".parse().unwrap()),
            wanted: None,
        }
    }

    #[test]
    fn priority_comes_before_families_before_names() {
        let b = candidate("b", 0, true, false);
        let a = candidate("a", 0, true, false);
        let both = candidate("z", 0, true, true);
        let urgent = candidate("y", 1, true, false);
        assert_eq!(choose(&[b.clone(), a.clone()], V4), Some(1));
        assert_eq!(choose(&[a.clone(), both.clone(), b.clone()], V4), Some(1));
        assert_eq!(choose(&[a.clone(), both.clone(), urgent], V4), Some(2));
        assert_eq!(choose(&[a, candidate("c", -1, true, true), b], V4), Some(0));
    }

    #[test]
    fn families_are_chosen_apart() {
        let v4_urgent = candidate("a", 5, true, false);
        let both = candidate("b", 0, true, true);
        assert_eq!(choose(&[v4_urgent.clone(), both.clone()], V4), Some(0));
        assert_eq!(choose(&[v4_urgent.clone(), both], V6), Some(1));
        assert_eq!(choose(&[v4_urgent], V6), None);
    }

    #[test]
    fn an_endpoint_of_internal_networks_has_none() {
        assert_eq!(choose(&[candidate("a", 9, false, false)], V4), None);
        assert_eq!(choose(&[], V4), None);
    }

    #[test]
    fn what_the_file_says_comes_before_the_rule() {
        let urgent = candidate("a", 5, true, true);
        let named = Candidate { wanted: Some(vec![V6]), ..candidate("b", -5, true, true) };
        let both = [urgent.clone(), named.clone()];
        assert_eq!((choose(&both, V4), choose(&both, V6)), (Some(0), Some(1)));
        assert_eq!(choose(&[named], V4), None);
        let never = Candidate { wanted: Some(vec![]), ..urgent };
        assert_eq!(choose(&[never], V4), None);
    }

    /// Docker's rule in its own words: `true` if `a` comes before `b`.
    fn is_before(a: &(Candidate<'_>, bool), b: &(Candidate<'_>, bool)) -> bool {
        let ((a, a_internal), (b, b_internal)) = (a, b);
        if a.gw_priority != b.gw_priority {
            return a.gw_priority > b.gw_priority;
        }
        if a_internal != b_internal {
            return !a_internal;
        }
        let count =
            |one: &Candidate<'_>| [one.gateway_v4, one.gateway_v6].into_iter().flatten().count();
        if count(a) != count(b) {
            return count(a) > count(b);
        }
        a.network < b.network
    }

    proptest! {
        #[test]
        fn the_choice_is_the_first_in_dockers_order_that_has_a_gateway(
            given in prop::collection::vec(
                (-2i32..3, any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
        ) {
            const NAMES: [&str; 6] = ["b", "a", "B", "ab", "a-", "0"];
            let candidates: Vec<(Candidate<'_>, bool)> = given
                .into_iter()
                .zip(NAMES)
                .map(|((priority, internal, v4, v6), name)| {
                    // An internal network has a gateway for nobody outside of it.
                    (candidate(name, priority, v4 && !internal, v6 && !internal), internal)
                })
                .collect();
            let plain: Vec<Candidate<'_>> =
                candidates.iter().map(|(candidate, _)| candidate.clone()).collect();
            for family in [V4, V6] {
                let mut order: Vec<usize> = (0..candidates.len()).collect();
                order.sort_by(|&a, &b| {
                    let (a, b) = (&candidates[a], &candidates[b]);
                    is_before(b, a).cmp(&is_before(a, b))
                });
                let mut order = order.into_iter();
                let expected = order.find(|&index| plain[index].gateway(family).is_some());
                prop_assert_eq!(choose(&plain, family), expected);
            }
        }
    }
}
