//! The address plan: which subnets networks have, given by the file, leased, or of a pool.
//!
//! Three rounds over all networks, as with addresses: what the file gives is claimed first, then
//! each network takes what it had before, then the rest comes from the pools in the order of the
//! file. Uplinks' subnets and static routes belong to somebody as well.

use ipnet::IpNet;

use super::subnet::{self, Claim};
use super::uplink::Uplinks;
use super::{number, unknown_word};
use crate::ipam::overlap;
use crate::leases::Leases;
use crate::model::{AddressPool, Family};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::subnet_pool::{self, Occupied, SubnetPools, family};
use crate::values::{Listed, Prefix, WordOrList};

/// Most pools: each is compared with each, and looked through for each network.
const POOL_COUNT_MAX: usize = 1_000;

/// Checks `gateway.address_pools` and fills in the families that it leaves out.
pub(super) fn pools(
    given: Option<&schema::Gateway>,
    uplinks: &Uplinks,
    report: &mut Report,
) -> Vec<AddressPool> {
    let given = given.map(|gateway| &gateway.address_pools);
    let mut pools = match given.and_then(Field::given) {
        Some((_, WordOrList::Word(word))) if word == "docker" => subnet_pool::docker(),
        Some((_, WordOrList::Word(word))) if word == "large" => subnet_pool::large(),
        Some((at, WordOrList::Word(word))) => {
            unknown_word(at, word, <schema::AddressPool as Listed>::WORDS, report);
            Vec::new()
        }
        Some((_, WordOrList::List(list))) => listed(list, report),
        None => Vec::new(),
    };
    let has = |pools: &[AddressPool], wanted| pools.iter().any(|pool| family(pool.base) == wanted);
    if !has(&pools, Family::V4) {
        pools.extend(subnet_pool::docker());
    }
    if !has(&pools, Family::V6) {
        pools.push(subnet_pool::ula(&uplinks.identity()));
    }
    pools
}

fn listed(list: &[Field<schema::AddressPool>], report: &mut Report) -> Vec<AddressPool> {
    let mut pools: Vec<(PlaceId, AddressPool)> = Vec::new();
    if let Some(at) = list.get(POOL_COUNT_MAX).and_then(Field::place) {
        report.error(at, format!("there are at most {POOL_COUNT_MAX} pools"));
    }
    for field in list.iter().take(POOL_COUNT_MAX) {
        let Some((at, table)) = field.given() else { continue };
        for (key, is_absent) in [("base", table.base.is_absent()), ("size", table.size.is_absent())]
        {
            if is_absent {
                let problem = report.error(at, format!("{key} is missing"));
                problem.hint("such as { base = \"10.0.0.0/8\", size = 24 }");
            }
        }
        let Some((base_at, &Prefix(base))) = table.base.given() else { continue };
        let base = subnet::check_host_bits(base, base_at, report)
            .and_then(|base| subnet::check_ordinary(base, base_at, report));
        let Some(base) = base else { continue };
        let bounds = i64::from(base.prefix_len())..=i64::from(base.max_prefix_len());
        let unit = format!(", as the base is {base}");
        let Some(size) = number(&table.size, bounds, &unit, report) else { continue };
        if let Some((other_at, other)) = pools.iter().find(|(_, other)| overlap(base, other.base)) {
            let message = format!("{base} overlaps the pool {}", other.base);
            report.error(base_at, message).related(*other_at, "it is here");
            continue;
        }
        pools.push((at, AddressPool { base, size: size as u8 }));
    }
    pools.into_iter().map(|(_, pool)| pool).collect()
}

/// The subnets of one network while the plan is made.
#[derive(Debug)]
pub(super) struct Subnets<'d> {
    pub(super) network: &'d str,
    /// Where to report that there is none left.
    pub(super) at: PlaceId,
    /// Those of the file.
    pub(super) given: Vec<(PlaceId, IpNet)>,
    /// Families of which it is to have one of the pools.
    pub(super) wanted: Vec<Family>,
    /// Those of the pools.
    pub(super) allocated: Vec<IpNet>,
}

impl Subnets<'_> {
    /// All subnets: those of the file first, then one per family.
    pub(super) fn all(&self) -> impl Iterator<Item = IpNet> {
        let given = self.given.iter().map(|(_, prefix)| *prefix);
        given.chain(self.allocated.iter().copied())
    }

    fn is_waiting_for(&self, wanted: Family) -> bool {
        self.wanted.contains(&wanted)
            && !self.allocated.iter().any(|prefix| family(*prefix) == wanted)
    }
}

/// Gives every network the subnets that it wants. `claims` is all that the file claims.
pub(super) fn allocate(
    all: &mut [&mut Subnets<'_>],
    pools: &[AddressPool],
    leases: &Leases,
    uplinks: &Uplinks,
    claims: &[Claim],
    report: &mut Report,
) {
    if all.iter().all(|subnets| subnets.wanted.is_empty()) {
        return;
    }
    let mut occupied = Occupied::default();
    claims.iter().for_each(|claim| occupied.insert(claim.prefix));
    let routes = uplinks.list.iter().flat_map(|uplink| uplink.routes.iter());
    // A default route leads to what nobody claims.
    let specific = routes.filter(|route| route.to.prefix_len() > 0);
    specific.for_each(|route| occupied.insert(route.to));

    let mut from = SubnetPools::new(pools);
    for subnets in all.iter_mut() {
        for &leased in leases.subnets.get(subnets.network).into_iter().flatten() {
            let is_given = subnets.is_waiting_for(family(leased))
                && from.could_give(leased)
                && occupied.take(leased);
            subnets.allocated.extend(is_given.then_some(leased));
        }
    }
    for subnets in all.iter_mut() {
        for wanted in [Family::V4, Family::V6] {
            if !subnets.is_waiting_for(wanted) {
                continue;
            }
            match from.take(wanted, &mut occupied) {
                Some(prefix) => {
                    warn_of_move(subnets, prefix, leases, claims, report);
                    subnets.allocated.push(prefix);
                }
                None => report_exhausted(subnets.at, wanted, pools, report),
            }
        }
        subnets.allocated.sort_by_key(|prefix| family(*prefix));
    }
}

/// Says that the network had another subnet, which the file now claims for somebody else.
fn warn_of_move(
    subnets: &Subnets<'_>,
    prefix: IpNet,
    leases: &Leases,
    claims: &[Claim],
    report: &mut Report,
) {
    let before = leases.subnets.get(subnets.network).into_iter().flatten();
    for lost in before.filter(|lost| family(**lost) == family(prefix)) {
        if let Some(claim) = claims.iter().find(|claim| overlap(claim.prefix, *lost)) {
            let message = format!(
                "network {} moves from {lost} to {prefix}: the file gives {} to {}",
                subnets.network, claim.prefix, claim.owner
            );
            report.warning(subnets.at, message).related(claim.at, "it is given here");
        }
    }
}

fn report_exhausted(at: PlaceId, wanted: Family, pools: &[AddressPool], report: &mut Report) {
    let pools = pools.iter().filter(|pool| family(pool.base) == wanted);
    let pools: Vec<String> = pools.map(|pool| format!("{} in /{}", pool.base, pool.size)).collect();
    let problem = report.error(at, "all predefined address pools have been fully subnetted");
    let pools = pools.join(", ");
    problem.hint(format!(
        "pools are {pools}: give the network a subnet, or the gateway more address_pools"
    ));
}
