//! `[network.NAME]`: subnets, gateways, ranges and behaviour of each network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use engine::NetworkId;
use ipnet::IpNet;

use super::subnet::{self, Claim};
use super::uplink::{self, Uplinks};
use super::{entries, flag, mtu, not_in_this_version, unknown_name, word};
use crate::ipam;
use crate::leases::QUARANTINE_MAX;
use crate::mac;
use crate::model::{MacPolicy, Network, Subnet};
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::{Address, Period, Prefix};

/// What is known about networks.
#[derive(Debug)]
pub(super) struct Networks {
    /// All names in the file; those without an error with their index in `list`.
    pub(super) by_name: HashMap<String, Option<usize>>,
    /// Those without an error.
    pub(super) list: Vec<Network>,
}

/// Checks all networks.
pub(super) fn check(
    tables: &Field<Named<schema::Network>>,
    uplinks: &Uplinks,
    claims: &mut Vec<Claim>,
    report: &mut Report,
) -> Networks {
    let mut networks = Networks { by_name: HashMap::new(), list: Vec::new() };
    for (name, at, table) in entries(tables, report) {
        let network =
            table.and_then(|table| Checker { name, at, table, uplinks, report }.check(claims));
        let index = network.as_ref().map(|_| networks.list.len());
        networks.by_name.insert(name.to_owned(), index);
        networks.list.extend(network);
    }
    networks
}

/// Checks one network.
struct Checker<'c> {
    name: &'c str,
    at: PlaceId,
    table: &'c schema::Network,
    uplinks: &'c Uplinks,
    report: &'c mut Report,
}

impl Checker<'_> {
    fn check(&mut self, claims: &mut Vec<Claim>) -> Option<Network> {
        self.driver()?;
        self.keys_of_later_versions();
        let prefixes = self.prefixes()?;
        claims.extend(prefixes.iter().map(|&(at, prefix)| Claim {
            prefix,
            at,
            owner: format!("network {}", self.name),
            shared: false,
        }));
        let gateways = self.gateways(&prefixes);
        let ranges = self.ranges(&prefixes);
        let subnets: Vec<Subnet> = prefixes
            .iter()
            .map(|&(_, prefix)| {
                let gateway = gateways.get(&prefix).copied();
                let gateway = gateway.unwrap_or_else(|| ipam::usable(prefix).0);
                Subnet { prefix, gateway, range: *ranges.get(&prefix).unwrap_or(&prefix) }
            })
            .collect();
        let internal = flag(&self.table.internal, false);
        let uplink = self.uplink(internal);
        let v6 = subnets.iter().any(|subnet| subnet.gateway.is_ipv6());
        let mtu = mtu(&self.table.mtu, v6, self.report)
            .unwrap_or_else(|| self.mtu_of_uplink(uplink.as_deref()));
        let gateway_addresses = subnets.iter().map(|subnet| subnet.gateway);
        Some(Network {
            name: self.name.to_owned(),
            id: NetworkId(0),
            gateway_mac: mac::derived_or_hashed(gateway_addresses, &["network", self.name]),
            subnets,
            internal,
            icc: flag(&self.table.icc, true),
            masquerade: flag(&self.table.masquerade, true),
            mac_policy: self.mac_policy(),
            mtu,
            uplink,
            quarantine: self.quarantine(),
        })
    }

    /// Reports a driver that is not built; nothing else about such a network is known then.
    fn driver(&mut self) -> Option<()> {
        let drivers = [
            ("bridge", Some(())),
            ("overlay", None),
            ("macvlan", None),
            ("ipvlan", None),
            ("none", None),
            ("host", None),
        ];
        if self.table.driver.is_absent() {
            return Some(());
        }
        word(&self.table.driver, &drivers, self.report)
    }

    fn keys_of_later_versions(&mut self) {
        let modes =
            [("nat", Some(())), ("nat-unprotected", None), ("routed", None), ("isolated", None)];
        word(&self.table.mode, &modes, self.report);
        not_in_this_version(
            &self.table.mss_clamp,
            "clamping of TCP's segment size is",
            self.report,
        );
        for field in [&self.table.vni, &self.table.port, &self.table.peers, &self.table.remote] {
            not_in_this_version(field, "a key of overlay networks is", self.report);
        }
    }

    /// The subnets; `None` if any is faulty, as too little is known then.
    fn prefixes(&mut self) -> Option<Vec<(PlaceId, IpNet)>> {
        let (subnet, subnets) = (&self.table.subnet, &self.table.subnets);
        let fields = self.one_or_several(subnet, subnets, ["subnet", "subnets"])?;
        if fields.is_empty() && subnet.is_absent() {
            let at = subnets.place().unwrap_or(self.at);
            let problem = self.report.error(at, "a network has at least one subnet");
            problem.hint("such as subnet = \"10.1.0.0/24\"; pools are not in this version");
        }
        let mut prefixes = Vec::with_capacity(fields.len());
        for field in &fields {
            if let Some((at, &Prefix(prefix))) = field.given() {
                let prefix = subnet::check_host_bits(prefix, at, self.report)
                    .and_then(|prefix| subnet::check_ordinary(prefix, at, self.report));
                prefixes.extend(prefix.map(|prefix| (at, prefix)));
            }
        }
        (prefixes.len() == fields.len() && !prefixes.is_empty()).then_some(prefixes)
    }

    /// Values of a key that stands for one or, by another name, for several.
    fn one_or_several<'f, T: Clone>(
        &mut self,
        one: &'f Field<T>,
        several: &'f Field<Vec<Field<T>>>,
        names: [&str; 2],
    ) -> Option<Vec<Field<T>>> {
        if let (Some(_), Some(at)) = (one.place(), several.place()) {
            let [one, several] = names;
            self.report.error(at, format!("{one} and {several} exclude each other"));
            return None;
        }
        match (one, several) {
            (Field::Absent, Field::Absent) => Some(Vec::new()),
            (Field::Absent, several) => several.value().cloned(),
            (one, _) => Some(vec![one.clone()]),
        }
    }

    /// The subnet that holds an address.
    fn prefix_of(
        &mut self,
        address: IpAddr,
        at: PlaceId,
        prefixes: &[(PlaceId, IpNet)],
    ) -> Option<IpNet> {
        let found = prefixes.iter().find(|(_, prefix)| prefix.contains(&address));
        if found.is_none() {
            let all: Vec<String> = prefixes.iter().map(|(_, prefix)| prefix.to_string()).collect();
            let message = format!(
                "{address} is outside of network {}'s subnets ({})",
                self.name,
                all.join(", ")
            );
            self.report.error(at, message);
        }
        found.map(|(_, prefix)| *prefix)
    }

    fn gateways(&mut self, prefixes: &[(PlaceId, IpNet)]) -> HashMap<IpNet, IpAddr> {
        let (gateway, gateways) = (&self.table.gateway, &self.table.gateways);
        let fields = self.one_or_several(gateway, gateways, ["gateway", "gateways"]);
        let mut found = HashMap::new();
        for field in fields.unwrap_or_default() {
            let Some((at, &Address(address))) = field.given() else { continue };
            let Some(prefix) = self.prefix_of(address, at, prefixes) else { continue };
            if subnet::check_usable(prefix, address, at, self.report).is_none() {
                continue;
            }
            if let Some(other) = found.insert(prefix, address) {
                let message = format!("{prefix} has the gateway {other} already");
                self.report.error(at, message);
            }
        }
        found
    }

    fn ranges(&mut self, prefixes: &[(PlaceId, IpNet)]) -> HashMap<IpNet, IpNet> {
        let (range, ranges) = (&self.table.ip_range, &self.table.ip_ranges);
        let fields = self.one_or_several(range, ranges, ["ip_range", "ip_ranges"]);
        let mut found = HashMap::new();
        for field in fields.unwrap_or_default() {
            let Some((at, &Prefix(range))) = field.given() else { continue };
            let Some(range) = subnet::check_host_bits(range, at, self.report) else { continue };
            let Some(prefix) = self.prefix_of(range.addr(), at, prefixes) else { continue };
            if !prefix.contains(&range) {
                self.report.error(at, format!("{range} is larger than its subnet {prefix}"));
            } else if let Some(other) = found.insert(prefix, range) {
                self.report.error(at, format!("{prefix} has the range {other} already"));
            }
        }
        found
    }

    fn mac_policy(&mut self) -> MacPolicy {
        let policies = [("derived", Some(MacPolicy::Derived)), ("random", Some(MacPolicy::Random))];
        word(&self.table.mac_policy, &policies, self.report).unwrap_or(MacPolicy::Derived)
    }

    fn quarantine(&mut self) -> Duration {
        let Some((at, &Period(time))) = self.table.quarantine.given() else {
            return Duration::ZERO;
        };
        if time > QUARANTINE_MAX {
            self.report.error(at, "released addresses rest for 7 days at most");
            return Duration::ZERO;
        }
        if time.subsec_nanos() > 0 {
            self.report.error(at, "released addresses rest for whole seconds");
        }
        time
    }

    fn uplink(&mut self, internal: bool) -> Option<String> {
        if let Some((at, name)) = self.table.uplink.given() {
            if internal {
                let problem = self.report.error(at, "an internal network has no uplink");
                problem.hint("leave away either internal or uplink");
            }
            if !self.uplinks.names.contains(name) {
                let known = self.uplinks.names.iter().map(String::as_str);
                unknown_name(at, "uplink", name, known, self.report);
            }
            return Some(name.clone());
        }
        match self.uplinks.names.as_slice() {
            [only] if !internal => Some(only.clone()),
            _ => None,
        }
    }

    fn mtu_of_uplink(&self, name: Option<&str>) -> u16 {
        let uplink =
            name.and_then(|name| self.uplinks.list.iter().find(|uplink| uplink.name == name));
        uplink.map_or(uplink::MTU_DEFAULT, |uplink| uplink.mtu)
    }
}
