//! Addresses of all networks while they are given out: fixed ones, leased ones, the lowest free.
//!
//! The order of the calls is the rule: [`Addresses::reserve`] for all that the file fixes, then
//! [`Addresses::take_leased`] for all that had one, then [`Addresses::take_lowest`] for the rest.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::network::Networks;
use super::subnet;
use crate::ipam::Pool;
use crate::leases::Leases;
use crate::model::{Network, Subnet};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::values::Address;

/// Addresses of all networks, by network index.
pub(super) struct Addresses<'n> {
    networks: &'n Networks,
    leases: &'n Leases,
    pools: Vec<Vec<Pool<Holder>>>,
    /// What endpoints released lately, by network and endpoint.
    released: HashMap<(&'n str, &'n str), Vec<IpAddr>>,
}

/// Who holds an address.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// For messages: `endpoint web`.
    pub(super) name: String,
    /// Where the file says so; `None`: it was allocated, or is a default.
    pub(super) at: Option<PlaceId>,
}

impl Holder {
    pub(super) fn endpoint(name: &str, at: Option<PlaceId>) -> Holder {
        Holder { name: format!("endpoint {name}"), at }
    }
}

impl<'n> Addresses<'n> {
    pub(super) fn new(networks: &'n Networks, leases: &'n Leases) -> Addresses<'n> {
        let pools_of = |network: &Network| {
            let pool = |subnet: &Subnet| {
                let mut pool = Pool::new(subnet.prefix, subnet.range);
                pool.withhold(&network.reserved);
                let name = format!("network {}'s gateway", network.name);
                pool.reserve(subnet.gateway, Holder { name, at: None }).expect("the pool is new");
                for &address in network.parent.iter().flat_map(|parent| &parent.taken) {
                    if subnet.prefix.contains(&address) {
                        let name = "the uplink's link".to_owned();
                        // The network's gateway may be there, and is the holder then.
                        let _ = pool.reserve(address, Holder { name, at: None });
                    }
                }
                for (name, address) in &network.aux_addresses {
                    if subnet.prefix.contains(address) {
                        let name = format!("{name} in aux_addresses");
                        // Its being the gateway's own has been reported.
                        let _ = pool.reserve(*address, Holder { name, at: None });
                    }
                }
                pool
            };
            network.subnets.iter().map(pool).collect()
        };
        let pools = networks.list.iter().map(pools_of).collect();
        let mut released: HashMap<_, Vec<IpAddr>> = HashMap::new();
        for (network, entries) in &leases.quarantined {
            for entry in entries {
                let key = (network.as_str(), entry.endpoint.as_str());
                released.entry(key).or_default().push(entry.address);
            }
        }
        Addresses { networks, leases, pools, released }
    }

    /// The subnets of one family of a network, for messages.
    fn subnets(&self, network_index: usize, v6: bool) -> String {
        let subnets = self.networks.list[network_index].subnets.iter();
        let family = subnets.filter(|subnet| subnet.gateway.is_ipv6() == v6);
        let texts: Vec<String> = family.map(|subnet| subnet.prefix.to_string()).collect();
        texts.join(", ")
    }

    /// Takes the address that the file gives.
    pub(super) fn reserve(
        &mut self,
        network_index: usize,
        field: &Field<Address>,
        v6: bool,
        endpoint: &str,
        report: &mut Report,
    ) -> Option<IpNet> {
        let (at, &Address(address)) = field.given()?;
        let name = &self.networks.list[network_index].name;
        if address.is_ipv6() != v6 {
            let (family, other) = if v6 { ("IPv6", "ip") } else { ("IPv4", "ip6") };
            let problem = report.error(at, format!("{address} is no {family} address"));
            problem.hint(format!("the key for it is {other}"));
            return None;
        }
        let pools = &mut self.pools[network_index];
        let Some(pool) = pools.iter_mut().find(|pool| pool.prefix().contains(&address)) else {
            let subnets = self.subnets(network_index, v6);
            if subnets.is_empty() {
                let family = if v6 { "IPv6" } else { "IPv4" };
                report.error(at, format!("network {name} has no {family} subnet"));
            } else {
                let message =
                    format!("{address} is outside of network {name}'s subnets ({subnets})");
                report.error(at, message);
            }
            return None;
        };
        let prefix = pool.prefix();
        if self.networks.allocated.contains(&prefix) {
            let message =
                format!("{address} cannot be given: {prefix} of network {name} is of the pools");
            report.error(at, message).hint("give the network a subnet, or leave the address away");
            return None;
        }
        subnet::check_usable(prefix, address, at, report)?;
        if let Err(holder) = pool.reserve(address, Holder::endpoint(endpoint, Some(at))) {
            let message = format!("{address} is the address of {} already", holder.name);
            let problem = report.error(at, message);
            if let Some(other) = holder.at {
                problem.related(other, "it is given here");
            }
            return None;
        }
        IpNet::new(address, prefix.prefix_len()).ok()
    }

    /// Keeps back what rests, where the network has a quarantine: what was released, and what
    /// endpoints had that are no members any more. `members` has network index and name.
    pub(super) fn rest(&mut self, members: &HashSet<(usize, &str)>) {
        for (index, (network, pools)) in self.networks.list.iter().zip(&mut self.pools).enumerate()
        {
            if network.quarantine.is_zero() {
                continue;
            }
            let released = self.leases.quarantined.get(&network.name).into_iter().flatten();
            let released = released.map(|entry| (entry.address, entry.until_seconds));
            let before = self.leases.endpoints.get(&network.name).into_iter().flatten();
            let gone =
                before.filter(|(endpoint, _)| !members.contains(&(index, endpoint.as_str())));
            // Their rest begins now, so it ends last of all.
            let gone = gone.flat_map(|(_, lease)| lease.addresses().map(|own| (own, u64::MAX)));
            for (address, until) in released.chain(gone) {
                let pool = pools.iter_mut().find(|pool| pool.prefix().contains(&address));
                pool.into_iter().for_each(|pool| pool.rest(address, until));
            }
        }
    }

    /// The addresses of one family that an endpoint had: by its lease, else released lately.
    fn wishes(&self, network_index: usize, v6: bool, endpoint: &str) -> Vec<IpAddr> {
        let network = &self.networks.list[network_index].name;
        let leased = self.leases.get(network, endpoint).into_iter();
        let leased = leased.flat_map(|lease| lease.addresses());
        let released = self.released.get(&(network.as_str(), endpoint)).into_iter().flatten();
        leased.chain(released.copied()).filter(|address| address.is_ipv6() == v6).collect()
    }

    /// Takes the address that the endpoint had before, if it still can.
    pub(super) fn take_leased(
        &mut self,
        network_index: usize,
        v6: bool,
        endpoint: &str,
    ) -> Option<IpNet> {
        let wishes = self.wishes(network_index, v6, endpoint);
        wishes.into_iter().find_map(|address| {
            let mut pools = self.pools[network_index].iter_mut();
            let pool = pools.find(|pool| pool.prefix().contains(&address))?;
            if !pool.take(address, Holder::endpoint(endpoint, None)) {
                return None;
            }
            IpNet::new(address, pool.prefix().prefix_len()).ok()
        })
    }

    /// Takes the lowest free address of a family, of the first subnet that has one; when there is
    /// none, one that rests.
    pub(super) fn take_lowest(
        &mut self,
        network_index: usize,
        v6: bool,
        at: PlaceId,
        endpoint: &str,
        report: &mut Report,
    ) -> Option<IpNet> {
        let of_family = |pool: &&mut Pool<Holder>| matches!(pool.prefix(), IpNet::V6(_)) == v6;
        let pools = &mut self.pools[network_index];
        pools.iter_mut().find(of_family)?;
        let own = || Holder::endpoint(endpoint, None);
        let given = |pool: &Pool<Holder>, address| IpNet::new(address, pool.prefix().prefix_len());
        let lowest = pools.iter_mut().filter(of_family).find_map(|pool| {
            let address = pool.take_lowest(own())?;
            given(pool, address).ok()
        });
        let taken = lowest.or_else(|| {
            let resting = pools.iter_mut().filter(of_family).find_map(|pool| {
                let address = pool.take_resting(own())?;
                given(pool, address).ok()
            })?;
            // To refuse would make a file wrong by what was there before it.
            let name = &self.networks.list[network_index].name;
            let message = format!(
                "{} is given to endpoint {endpoint} while it rests: network {name} has no other",
                resting.addr()
            );
            report.warning(at, message);
            Some(resting)
        });
        match taken {
            Some(taken) => self.warn_of_move(network_index, taken, at, endpoint, report),
            None => {
                let subnets = self.subnets(network_index, v6);
                let name = &self.networks.list[network_index].name;
                report.error(at, format!("network {name} has no free address left in {subnets}"));
            }
        }
        taken
    }

    /// Says that the endpoint had another address, which the file now gives to somebody else.
    fn warn_of_move(
        &self,
        network_index: usize,
        taken: IpNet,
        at: PlaceId,
        endpoint: &str,
        report: &mut Report,
    ) {
        let network = &self.networks.list[network_index];
        let Some(lease) = self.leases.get(&network.name, endpoint) else { return };
        let v6 = matches!(taken, IpNet::V6(_));
        for lost in lease.addresses().filter(|address| address.is_ipv6() == v6) {
            let pools = self.pools[network_index].iter();
            if let Some(holder) = pools.into_iter().find_map(|pool| pool.holder(lost)) {
                let message = format!(
                    "endpoint {endpoint} moves from {lost} to {} in network {}: \
                     the file gives {lost} to {}",
                    taken.addr(),
                    network.name,
                    holder.name
                );
                let problem = report.warning(at, message);
                if let Some(other) = holder.at {
                    problem.related(other, "it is given here");
                }
            }
        }
    }
}
