//! `[network.NAME]`: subnets, gateways, ranges and behaviour of each network.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use engine::tables::{GatewayMode, MssClamp};
use engine::{MacAddress, NetworkId};
use ipnet::IpNet;

use super::parent;
use super::plan::{self, Subnets};
use super::subnet::{self, Apart, Claim};
use super::uplink::{self, Uplinks};
use super::{entries, flag, macs, mss_clamp, mtu, unknown_name, word};
use super::{foreign, overlay};
use crate::ipam::{self, Pool};
use crate::leases::{Leases, QUARANTINE_MAX};
use crate::mac;
use crate::model::{
    AddressPool, Family, MacPolicy, Network, NetworkDriver, Overlay, Parent, Subnet,
};
use crate::names::check_name;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::subnet_pool::family;
use crate::values::{Address, Addresses, Period, Prefix};
use crate::words;

/// What is known about networks.
#[derive(Debug)]
pub(super) struct Networks {
    /// All names; those without an error with their index in `list`.
    pub(super) by_name: HashMap<String, Option<usize>>,
    /// Those without an error.
    pub(super) list: Vec<Network>,
    /// Subnets of the pools: the file cannot give an address in one.
    pub(super) allocated: HashSet<IpNet>,
}

/// What networks are made from, besides their tables.
pub(super) struct Sources<'s> {
    pub(super) uplinks: &'s Uplinks,
    pub(super) pools: &'s [AddressPool],
    pub(super) leases: &'s Leases,
}

/// Checks all networks. Those that endpoints are in under the names `none` and `host` exist without
/// being written down.
pub(super) fn check(
    tables: &Field<Named<schema::Network>>,
    endpoints: &Field<Named<schema::Endpoint>>,
    sources: &Sources<'_>,
    claims: &mut Vec<Claim>,
    report: &mut Report,
) -> Networks {
    let mut networks =
        Networks { by_name: HashMap::new(), list: Vec::new(), allocated: HashSet::new() };
    let mut taken = parent::Taken::new();
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for (name, at, table) in entries(tables, report) {
        networks.by_name.insert(name.to_owned(), None);
        let Some(table) = table else { continue };
        let mut checker = Checker { name, at, table, sources, report };
        let Some(driver) = checker.driver() else { continue };
        if driver != NetworkDriver::Overlay {
            foreign::refuse_overlays(table, checker.report);
        }
        let is_child = matches!(driver, NetworkDriver::Macvlan | NetworkDriver::Ipvlan);
        let mut parent = None;
        match is_child {
            true => parent = checker.parent(driver, &mut taken),
            false => foreign::refuse_parents(table, checker.report),
        }
        let mut subnets = None;
        if driver.has_link() {
            subnets = checker.subnets(parent.as_ref(), claims);
        } else {
            foreign::refuse_all(table, driver, checker.report);
        }
        if is_child == parent.is_some() {
            drafts.push(Draft { name, at, table, driver, subnets, parent });
        }
    }
    let mut all: Vec<&mut Subnets<'_>> =
        drafts.iter_mut().filter_map(|draft| draft.subnets.as_mut()).collect();
    plan::allocate(&mut all, sources.pools, sources.leases, sources.uplinks, claims, report);
    for Draft { name, at, table, driver, subnets, parent } in drafts {
        if !driver.has_link() {
            networks.add(without_addresses(name, driver));
        }
        let Some(subnets) = subnets else { continue };
        let mut checker = Checker { name, at, table, sources, report };
        if let Some(network) = checker.check(driver, &subnets, parent) {
            networks.add(network);
            networks.allocated.extend(&subnets.allocated);
        }
    }
    networks.add_implied(endpoints);
    networks
}

/// A network that is being checked.
struct Draft<'d> {
    name: &'d str,
    at: PlaceId,
    table: &'d schema::Network,
    driver: NetworkDriver,
    /// Of a bridge; `None`: faulty, which has been reported.
    subnets: Option<Subnets<'d>>,
    /// Of macvlan and ipvlan.
    parent: Option<Parent>,
}

/// True if some network may be a part of an uplink's link, which needs no address of ours there.
pub(super) fn has_links(tables: &Field<Named<schema::Network>>) -> bool {
    let tables = tables.value().into_iter().flat_map(|Named(all)| all);
    let mut drivers = tables.filter_map(|(_, table)| table.value()?.driver.value());
    drivers.any(|driver| driver == "macvlan" || driver == "ipvlan")
}

impl Networks {
    fn add(&mut self, network: Network) {
        self.by_name.insert(network.name.clone(), Some(self.list.len()));
        self.list.push(network);
    }

    fn add_implied(&mut self, endpoints: &Field<Named<schema::Endpoint>>) {
        let endpoints = endpoints.value().into_iter().flat_map(|Named(all)| all);
        let members = endpoints.filter_map(|(_, table)| table.value()?.network.value()).flatten();
        let names: HashSet<&str> =
            members.filter_map(|member| Some(member.value()?.name.value()?.as_str())).collect();
        for driver in [NetworkDriver::None, NetworkDriver::Host] {
            let name = words::of(words::NETWORK_DRIVER, &driver);
            if names.contains(name) && !self.by_name.contains_key(name) {
                self.add(without_addresses(name, driver));
            }
        }
    }
}

/// A network of driver none or host.
fn without_addresses(name: &str, driver: NetworkDriver) -> Network {
    Network {
        name: name.to_owned(),
        id: NetworkId(0),
        driver,
        subnets: Vec::new(),
        reserved: Vec::new(),
        aux_addresses: Vec::new(),
        gateway_mac: mac::hashed(&["network", name]),
        internal: false,
        icc: true,
        mode: GatewayMode::Nat,
        masquerade: false,
        host_ipv4: None,
        host_ipv6: None,
        mac_policy: MacPolicy::Derived,
        mtu: uplink::MTU_DEFAULT,
        mss_clamp: MssClamp::Auto,
        multicast_snooping: false,
        uplink: None,
        quarantine: Duration::ZERO,
        overlay: None,
        parent: None,
    }
}

/// Checks one network.
struct Checker<'c, 'd> {
    name: &'d str,
    at: PlaceId,
    table: &'d schema::Network,
    sources: &'c Sources<'c>,
    report: &'c mut Report,
}

impl<'d> Checker<'_, 'd> {
    /// Everything but its subnets, which are known by now. `None`: it has none, which has been
    /// reported.
    fn check(
        &mut self,
        driver: NetworkDriver,
        subnets: &Subnets<'_>,
        parent: Option<Parent>,
    ) -> Option<Network> {
        subnets.all().next()?;
        let mut reserved = self.reserved(&subnets.given);
        let gateways = self.gateways(&subnets.given);
        let aux_addresses = self.aux_addresses(&subnets.given, &gateways);
        let ranges = self.ranges(&subnets.given);
        let subnets: Vec<Subnet> = subnets
            .all()
            .map(|prefix| {
                let gateway = gateways.get(&prefix).copied();
                let gateway =
                    gateway.unwrap_or_else(|| default_gateway(prefix, &reserved, &aux_addresses));
                Subnet { prefix, gateway, range: *ranges.get(&prefix).unwrap_or(&prefix) }
            })
            .collect();
        let internal = flag(&self.table.internal, false);
        let mode = match &parent {
            None => self.mode(internal),
            Some(parent) if parent.mode.is_routed() => GatewayMode::NatUnprotected,
            Some(_) => GatewayMode::Isolated,
        };
        let uplink = match &parent {
            None => self.uplink(internal),
            Some(parent) => Some(parent.uplink.clone()),
        };
        let gateway_mac = self.gateway_mac(&subnets, parent.as_ref());
        let overlay = match driver {
            NetworkDriver::Overlay => Some(self.overlay(&subnets, gateway_mac)?),
            _ => None,
        };
        for remote in overlay.iter().flat_map(|overlay| &overlay.remotes) {
            let net = IpNet::from(remote.ip);
            if !reserved.contains(&net) {
                reserved.push(net);
            }
        }
        let mtu = self.mtu(&subnets, uplink.as_deref(), overlay.as_ref(), parent.as_ref());
        let mac_policy = word(&self.table.mac_policy, words::MAC_POLICY, self.report);
        Some(Network {
            name: self.name.to_owned(),
            id: NetworkId(0),
            driver,
            gateway_mac,
            subnets,
            reserved,
            aux_addresses,
            internal,
            icc: flag(&self.table.icc, true),
            mode,
            masquerade: flag(&self.table.masquerade, parent.is_none())
                && mode != GatewayMode::Routed,
            host_ipv4: self.host_address(&self.table.host_ipv4, false),
            host_ipv6: self.host_address(&self.table.host_ipv6, true),
            mac_policy: mac_policy.unwrap_or(MacPolicy::Derived),
            mtu,
            mss_clamp: mss_clamp(&self.table.mss_clamp, self.report),
            multicast_snooping: flag(&self.table.multicast_snooping, true),
            uplink,
            quarantine: self.quarantine(),
            overlay,
            parent,
        })
    }

    fn overlay(&mut self, subnets: &[Subnet], gateway_mac: MacAddress) -> Option<Overlay> {
        let uplinks = self.sources.uplinks;
        let Checker { name, at, table, .. } = *self;
        let mut checker = overlay::Checker { name, at, table, uplinks, report: self.report };
        checker.check(subnets, gateway_mac)
    }

    fn gateway_mac(&mut self, subnets: &[Subnet], parent: Option<&Parent>) -> MacAddress {
        let given = macs::station(&self.table.gateway_mac, self.report);
        // On an uplink's link the gateway is who it is on the wire.
        let on_link = parent.filter(|parent| !parent.mode.is_routed());
        let own = on_link.and_then(|parent| parent::uplink(parent, self.sources.uplinks));
        let addresses = subnets.iter().map(|subnet| subnet.gateway);
        let derived = || mac::derived_or_hashed(addresses, &["network", self.name]);
        own.map(|uplink| uplink.mac).or(given).unwrap_or_else(derived)
    }

    /// The uplink that its members are on.
    fn parent(&mut self, driver: NetworkDriver, taken: &mut parent::Taken<'d>) -> Option<Parent> {
        let uplinks = self.sources.uplinks;
        let Checker { name, at, table, .. } = *self;
        let report = &mut *self.report;
        parent::Checker { name, at, table, driver, uplinks, report }.check(taken)
    }

    fn mtu(
        &mut self,
        subnets: &[Subnet],
        uplink: Option<&str>,
        overlay: Option<&Overlay>,
        parent: Option<&Parent>,
    ) -> u16 {
        let v6 = subnets.iter().any(|subnet| subnet.gateway.is_ipv6());
        let given = mtu(&self.table.mtu, v6, self.report);
        let on_link = parent.filter(|parent| !parent.mode.is_routed());
        let on_link = on_link.and_then(|parent| parent::uplink(parent, self.sources.uplinks));
        let on_link = on_link.map(|uplink| uplink.mtu);
        if let (Some(at), Some(given), Some(most)) = (self.table.mtu.place(), given, on_link)
            && given > most
        {
            let message = format!("{given} bytes do not fit onto the parent's link, {most} do");
            self.report.error(at, message);
        }
        let Some(overlay) = overlay else {
            return given.unwrap_or_else(|| self.mtu_of_uplink(uplink));
        };
        let most = overlay::mtu(overlay, self.sources.uplinks);
        if let (Some(at), Some(given)) = (self.table.mtu.place(), given)
            && given > most
        {
            let message = format!("{given} bytes do not fit into the tunnels, {most} do");
            self.report.error(at, message).hint("the outer header takes 50 bytes, of IPv6 70");
        }
        given.unwrap_or(most)
    }

    /// The outside address that it is masqueraded as.
    fn host_address(&mut self, field: &Field<Address>, v6: bool) -> Option<IpAddr> {
        let (at, &Address(address)) = field.given()?;
        let uplinks = self.sources.uplinks;
        if address.is_ipv6() != v6 {
            let family = if v6 { "IPv6" } else { "IPv4" };
            self.report.error(at, format!("{address} is no {family} address"));
        } else if !uplinks.own(address) && !uplinks.are_incomplete() {
            self.report.error(at, format!("{address} is no uplink's own address"));
        }
        Some(address)
    }

    /// Reports a driver that is not built; nothing else about such a network is known then.
    fn driver(&mut self) -> Option<NetworkDriver> {
        if self.table.driver.is_absent() {
            return Some(NetworkDriver::Bridge);
        }
        word(&self.table.driver, words::NETWORK_DRIVER, self.report)
    }

    /// The subnets that the file gives, and what is to come from the pools; `None` if any is
    /// faulty, as too little is known then.
    fn subnets(&mut self, parent: Option<&Parent>, claims: &mut Vec<Claim>) -> Option<Subnets<'d>> {
        let (subnet, subnets) = (&self.table.subnet, &self.table.subnets);
        let fields = self.one_or_several(subnet, subnets, ["subnet", "subnets"])?;
        if fields.is_empty()
            && let Some(at) = subnets.place()
        {
            let problem = self.report.error(at, "a network has at least one subnet");
            problem.hint("leave the key away to have one of the pools");
        }
        let mut given = Vec::with_capacity(fields.len());
        for field in &fields {
            if let Some((at, &Prefix(prefix))) = field.given() {
                let prefix = subnet::check_host_bits(prefix, at, self.report)
                    .and_then(|prefix| subnet::check_ordinary(prefix, at, self.report));
                given.extend(prefix.map(|prefix| (at, prefix)));
            }
        }
        let apart = Some(self.apart());
        claims.extend(given.iter().map(|&(at, prefix)| match parent {
            Some(parent) => parent::claim(parent, self.name, prefix, at),
            None => {
                Claim { prefix, at, owner: format!("network {}", self.name), shared: false, apart }
            }
        }));
        let wanted = self.wanted(&given)?;
        let subnets =
            Subnets { network: self.name, at: self.at, given, wanted, allocated: Vec::new() };
        (subnets.given.len() == fields.len()).then_some(subnets)
    }

    /// What keeps it apart from networks with the same addresses, before its keys are checked.
    fn apart(&self) -> Apart {
        let table = self.table;
        let driver = words::meaning(words::NETWORK_DRIVER, table.driver.value());
        let port = table.port.value().map_or(overlay::PORT_DEFAULT.into(), |number| number.0);
        let wire = || Some((port, table.vni.value()?.0));
        let mode = words::meaning(words::MODE, table.mode.value()).unwrap_or_default();
        Apart {
            wire: (driver == Some(NetworkDriver::Overlay)).then(wire).flatten(),
            is_open: matches!(mode, GatewayMode::Routed | GatewayMode::NatUnprotected),
        }
    }

    /// The families of which the network is to have a subnet of the pools.
    fn wanted(&mut self, given: &[(PlaceId, IpNet)]) -> Option<Vec<Family>> {
        let mut wanted = Vec::new();
        let table = self.table;
        let keys = [
            (
                Family::V4,
                &table.ipv4,
                "ipv4",
                table.subnet.is_absent() && table.subnets.is_absent(),
            ),
            (Family::V6, &table.ipv6, "ipv6", false),
        ];
        for (one, field, key, default) in keys {
            let own = given.iter().find(|(_, prefix)| family(*prefix) == one);
            let is_wanted = flag(field, default);
            match own {
                Some((_, prefix)) if !is_wanted && !field.is_absent() => {
                    let at = field.place().expect("it is not absent");
                    self.report.error(at, format!("{key} is false, but {prefix} is a subnet"));
                    return None;
                }
                None if is_wanted => wanted.push(one),
                _ => {}
            }
        }
        if given.is_empty()
            && wanted.is_empty()
            && table.subnet.is_absent()
            && table.subnets.is_absent()
        {
            let at = table.ipv4.place().unwrap_or(self.at);
            self.report.error(at, "IPv4 or IPv6 must be enabled");
            return None;
        }
        Some(wanted)
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
            let name = self.name;
            let all: Vec<String> = prefixes.iter().map(|(_, prefix)| prefix.to_string()).collect();
            let subnets = all.join(", ");
            if prefixes.is_empty() {
                let message =
                    format!("{address} is in no subnet that the file gives network {name}");
                self.report.error(at, message).hint("give the network a subnet");
            } else {
                let message =
                    format!("{address} is outside of network {name}'s subnets ({subnets})");
                self.report.error(at, message);
            }
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

    fn reserved(&mut self, prefixes: &[(PlaceId, IpNet)]) -> Vec<IpNet> {
        let mut reserved = Vec::new();
        for field in self.table.reserved.value().into_iter().flatten() {
            let Some((at, &Addresses(net))) = field.given() else { continue };
            let Some(net) = subnet::check_host_bits(net, at, self.report) else { continue };
            let Some(prefix) = self.prefix_of(net.network(), at, prefixes) else { continue };
            if prefix.contains(&net) {
                reserved.push(net);
            } else {
                self.report.error(at, format!("{net} is larger than its subnet {prefix}"));
            }
        }
        reserved
    }

    fn aux_addresses(
        &mut self,
        prefixes: &[(PlaceId, IpNet)],
        gateways: &HashMap<IpNet, IpAddr>,
    ) -> Vec<(String, IpAddr)> {
        let mut found: Vec<(String, IpAddr)> = Vec::new();
        let mut seen: HashMap<IpAddr, PlaceId> = HashMap::new();
        for (name, field) in self.table.aux_addresses.value().map_or(&[][..], |Named(all)| all) {
            let (name_at, name) = name.given().expect("every key is text");
            if let Err(message) = check_name(name) {
                self.report.error(name_at, message);
            }
            if name.starts_with("DefaultGatewayIPv") {
                let message = format!("{name} has no special meaning here, unlike in Docker");
                self.report.warning(name_at, message);
            }
            let Some((at, &Address(address))) = field.given() else { continue };
            let Some(prefix) = self.prefix_of(address, at, prefixes) else { continue };
            if subnet::check_usable(prefix, address, at, self.report).is_none() {
                continue;
            }
            if gateways.get(&prefix) == Some(&address) {
                let message =
                    format!("{address} is the address of network {}'s gateway already", self.name);
                self.report.error(at, message);
            } else if let Some(other) = seen.insert(address, at) {
                let message = format!("{address} is an auxiliary address already");
                self.report.error(at, message).related(other, "it is given here");
            } else {
                found.push((name.clone(), address));
            }
        }
        found
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

    fn mode(&mut self, internal: bool) -> GatewayMode {
        let mode = word(&self.table.mode, words::MODE, self.report).unwrap_or_default();
        if let Some(at) = self.table.mode.place()
            && mode == GatewayMode::Isolated
            && !internal
        {
            let message = "gateway mode 'isolated' can only be used for an internal network";
            self.report.error(at, message).hint("set internal = true");
        }
        mode
    }

    fn uplink(&mut self, internal: bool) -> Option<String> {
        if let Some((at, name)) = self.table.uplink.given() {
            if internal {
                let problem = self.report.error(at, "an internal network has no uplink");
                problem.hint("leave away either internal or uplink");
            }
            if !self.sources.uplinks.names.contains(name) {
                let known = self.sources.uplinks.names.iter().map(String::as_str);
                unknown_name(at, "uplink", name, known, self.report);
            }
            return Some(name.clone());
        }
        match self.sources.uplinks.names.as_slice() {
            [only] if !internal => Some(only.clone()),
            _ => None,
        }
    }

    /// The MTU of its uplink; without one of its own, the smallest of all that it may leave by.
    fn mtu_of_uplink(&self, name: Option<&str>) -> u16 {
        let all = self.sources.uplinks.list.iter();
        let own = all.filter(|uplink| name.is_none_or(|name| uplink.name == name));
        own.map(|uplink| uplink.mtu).min().unwrap_or(uplink::MTU_DEFAULT)
    }
}

/// The first usable address of a subnet that is not set aside; without one, the first usable.
fn default_gateway(prefix: IpNet, reserved: &[IpNet], aux: &[(String, IpAddr)]) -> IpAddr {
    let mut pool = Pool::new(prefix, prefix);
    pool.withhold(reserved);
    for (_, address) in aux.iter().filter(|(_, address)| prefix.contains(address)) {
        pool.reserve(*address, ()).expect("auxiliary addresses are unique");
    }
    pool.take_lowest(()).unwrap_or_else(|| ipam::usable(prefix).0)
}
