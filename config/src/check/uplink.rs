//! `[uplink.NAME]`: the ways out.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use engine::{MacAddress, PortId, UplinkId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::interface::{self, Interfaces};
use super::macs;
use super::subnet::{self, Claim};
use super::{entries, flag, mtu, word};
use crate::host::HostSide;
use crate::mac;
use crate::model::{Route, Uplink, UplinkDriver};
use crate::names::InterfaceName;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::{Address, Prefix, WordOrList};
use crate::words;

/// MTU of an uplink that the file says nothing about, in bytes: Ethernet's.
pub(super) const MTU_DEFAULT: u16 = 1_500;

/// What is known about uplinks.
#[derive(Debug)]
pub(super) struct Uplinks {
    /// All names in the file.
    pub(super) names: Vec<String>,
    /// Those without an error.
    pub(super) list: Vec<Uplink>,
}

impl Uplinks {
    /// True if some uplink has this address as its own.
    pub(super) fn own(&self, address: IpAddr) -> bool {
        let mut addresses = self.list.iter().flat_map(|uplink| &uplink.addresses);
        addresses.any(|own| own.addr() == address)
    }

    /// True if some uplink has an IPv6 address.
    pub(super) fn have_v6(&self) -> bool {
        let mut addresses = self.list.iter().flat_map(|uplink| &uplink.addresses);
        addresses.any(|own| own.addr().is_ipv6())
    }

    /// True if some uplink is beside the host, whose addresses only the running gateway knows.
    pub(super) fn have_host(&self) -> bool {
        self.list.iter().any(|uplink| uplink.host.is_some())
    }

    /// What tells this gateway from others: its uplinks with their addresses.
    pub(super) fn identity(&self) -> String {
        let of = |uplink: &Uplink| {
            let addresses: Vec<String> = uplink.addresses.iter().map(IpNet::to_string).collect();
            format!("{} {}", uplink.name, addresses.join(" "))
        };
        let all: Vec<String> = self.list.iter().map(of).collect();
        all.join(", ")
    }

    /// True if an uplink was left out for an error, so that its addresses are not known.
    pub(super) fn are_incomplete(&self) -> bool {
        self.list.len() < self.names.len()
    }
}

/// Checks all uplinks. `serves_links`: some network may be on the link of one, which needs no
/// address of the gateway's there.
pub(super) fn check(
    tables: &Field<Named<schema::Uplink>>,
    serves_links: bool,
    interfaces: &mut Interfaces,
    claims: &mut Vec<Claim>,
    report: &mut Report,
) -> Uplinks {
    let mut uplinks = Uplinks { names: Vec::new(), list: Vec::new() };
    let mut places = Vec::new();
    for (name, at, table) in entries(tables, report) {
        uplinks.names.push(name.to_owned());
        let Some(table) = table else { continue };
        let index = uplinks.names.len() - 1;
        let mut checker =
            Checker { name, at, table, index, serves_links, is_link_known: false, report };
        if let Some(uplink) = checker.check(interfaces, claims) {
            places.push(at);
            uplinks.list.push(uplink);
        }
    }
    report_shared(&uplinks.list, &places, report);
    uplinks
}

/// Two uplinks that share the host's addresses would each take half of what is sent there.
fn report_shared(uplinks: &[Uplink], places: &[PlaceId], report: &mut Report) {
    let is_shared = |uplink: &Uplink| uplink.host.as_ref().is_some_and(|host| host.is_shared);
    let mut sharing = uplinks.iter().zip(places).filter(|(uplink, _)| is_shared(uplink));
    let Some((first, _)) = sharing.next() else { return };
    for (_, &at) in sharing {
        report.error(at, format!("uplink {} shares the host's addresses already", first.name));
    }
}

/// Checks one uplink.
struct Checker<'c> {
    name: &'c str,
    at: PlaceId,
    table: &'c schema::Uplink,
    /// Its place in the file.
    index: usize,
    serves_links: bool,
    /// Every one of its addresses is known, so what is on its link is.
    is_link_known: bool,
    report: &'c mut Report,
}

impl Checker<'_> {
    fn check(&mut self, interfaces: &mut Interfaces, claims: &mut Vec<Claim>) -> Option<Uplink> {
        let driver = self.driver();
        let netns = interface::netns(&self.table.netns, self.report);
        let interface = self.interface();
        if let (Some(interface), Some(at)) = (&interface, self.table.interface.place()) {
            interfaces.claim(netns.as_ref(), interface, at, self.report);
        }
        match driver {
            Some(UplinkDriver::Xdp) => self.refuse_keys_of_taps(),
            Some(UplinkDriver::Tap) => self.refuse_relay(),
            None => {}
        }
        let create_netns = flag(&self.table.create, false);
        if create_netns && self.table.netns.is_absent() {
            let at = self.table.create.place().expect("a flag that is set has a place");
            self.report.error(at, "there is no netns to create").hint("name it by the key netns");
        }
        let is_tap = driver != Some(UplinkDriver::Xdp);
        let host = self.host(is_tap && self.table.netns.is_absent());
        let own = self.addresses(host.as_ref());
        claims.extend(host.iter().flat_map(HostSide::links).map(|prefix| Claim {
            apart: None,
            prefix,
            at: self.table.link.place().unwrap_or(self.at),
            owner: format!("the link of uplink {} with the host", self.name),
            shared: false,
        }));
        let own_links = own.iter().filter(|_| host.as_ref().is_none_or(|host| !host.is_shared));
        claims.extend(own_links.map(|&(at, address)| Claim {
            apart: None,
            prefix: address.trunc(),
            at,
            owner: format!("uplink {}", self.name),
            shared: true,
        }));
        let addresses: Vec<IpNet> = own.iter().map(|(_, address)| *address).collect();
        let host_addresses = self.host_addresses(&addresses);
        let routes = self.routes(&addresses, host.as_ref());
        let v6 = addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
        let mtu = mtu(&self.table.mtu, v6, self.report).unwrap_or(MTU_DEFAULT);
        let [mac, host_mac] = self.macs(&addresses);
        Some(Uplink {
            name: self.name.to_owned(),
            id: UplinkId(0),
            port: PortId(0),
            driver: driver?,
            interface: interface?,
            netns,
            create_netns,
            mac,
            host_mac,
            addresses: Some(addresses).filter(|own| !own.is_empty() || self.is_link_known)?,
            host_addresses,
            trusted: flag(&self.table.trusted, false),
            routes: Arc::new(routes),
            mtu,
            follows_mtu: driver == Some(UplinkDriver::Xdp) && self.table.mtu.is_absent(),
            relay: flag(&self.table.relay, driver == Some(UplinkDriver::Xdp)),
            host,
        })
    }

    /// MAC addresses of the gateway's end and of the kernel's.
    fn macs(&mut self, addresses: &[IpNet]) -> [MacAddress; 2] {
        let own = macs::station(&self.table.mac, self.report).unwrap_or_else(|| {
            let addresses = addresses.iter().map(IpNet::addr);
            mac::derived_or_hashed(addresses, &["uplink", self.name])
        });
        let host = macs::station(&self.table.host_mac, self.report);
        let host = host.unwrap_or_else(|| mac::hashed(&["uplink", self.name, "host"]));
        if own == host
            && let Some(at) = self.table.host_mac.place().or(self.table.mac.place())
        {
            self.report.error(at, format!("both ends of the uplink have the MAC address {own}"));
        }
        [own, host]
    }

    fn driver(&mut self) -> Option<UplinkDriver> {
        if self.table.driver.is_absent() {
            let problem = self.report.error(self.at, "driver is missing");
            problem.hint("write driver = \"tap\", or \"xdp\" for a device that exists");
        }
        word(&self.table.driver, words::UPLINK_DRIVER, self.report)
    }

    /// With AF_XDP there is no kernel's end, and nothing is created.
    fn refuse_keys_of_taps(&mut self) {
        let keys = [
            ("create", self.table.create.place()),
            ("host_addresses", self.table.host_addresses.place()),
            ("host_mac", self.table.host_mac.place()),
        ];
        for (key, at) in keys {
            let Some(at) = at else { continue };
            let problem = self.report.error(at, format!("{key} is for uplinks of driver tap"));
            problem.hint("by AF_XDP a device is used that exists already, with its own link");
        }
    }

    /// A TAP takes super-frames itself.
    fn refuse_relay(&mut self) {
        let Some(at) = self.table.relay.place() else { return };
        let problem = self.report.error(at, "relay is for uplinks of driver xdp");
        problem.hint("leave it away: a TAP takes super-frames itself");
    }

    fn interface(&mut self) -> Option<InterfaceName> {
        if self.table.interface.is_absent() {
            let problem = self.report.error(self.at, "interface is missing");
            problem.hint("name the device that is to be created");
        }
        interface::name(&self.table.interface, self.report)
    }

    /// The host behind it, if it is `beside` the host and not left alone.
    fn host(&mut self, beside: bool) -> Option<HostSide> {
        let is_shared = matches!(self.table.addresses.given(),
            Some((_, WordOrList::Word(word))) if word == "host");
        let is_wanted = flag(&self.table.host_side, beside);
        if let Some(at) = self.table.host_side.place().filter(|_| is_wanted && !beside) {
            let problem = self.report.error(at, "the kernel's end is in another namespace");
            problem.hint("leave netns away: the device stays in the host's own namespace then");
            return None;
        }
        if is_shared && !(is_wanted && beside) {
            let at = self.table.addresses.place().unwrap_or(self.at);
            let message = "the host's addresses are shared by an uplink beside the host only";
            self.report.error(at, message).hint("leave netns and host_side away");
            return None;
        }
        let (mut link4, mut link6) = HostSide::default_links(self.index, self.name);
        if !is_wanted {
            if let Some(at) = self.table.link.place() {
                self.report.error(at, "an uplink without host_side has no link with the host");
            }
            return None;
        }
        for field in self.table.link.value().map_or(&[][..], Vec::as_slice) {
            let Some((at, &Prefix(prefix))) = field.given() else { continue };
            match subnet::check_host_bits(prefix, at, self.report) {
                Some(IpNet::V4(prefix)) if prefix.prefix_len() == 24 => link4 = prefix,
                Some(IpNet::V6(prefix)) if prefix.prefix_len() == 64 => link6 = prefix,
                Some(other) => {
                    let message = format!("{other} is neither an IPv4 /24 nor an IPv6 /64");
                    self.report.error(at, message);
                }
                None => {}
            }
        }
        Some(HostSide::new(link4, link6, is_shared))
    }

    fn addresses(&mut self, host: Option<&HostSide>) -> Vec<(PlaceId, IpNet)> {
        match self.table.addresses.given() {
            Some((at, WordOrList::Word(word))) if word == "host" => {
                let own = host.map(|host| host.gateways().into_iter().zip(host.links()));
                let own = own.into_iter().flatten().map(|(address, link)| {
                    (at, IpNet::new(address, link.prefix_len()).expect("a length of the family"))
                });
                own.collect()
            }
            Some((at, WordOrList::Word(word))) => {
                let message = format!(
                    "expected a list of addresses with their prefix lengths, found {word:?}"
                );
                self.report.error(at, message).hint(format!("write [{word:?}]"));
                Vec::new()
            }
            Some((at, WordOrList::List(list))) => {
                if list.is_empty() && !self.serves_links {
                    self.report.error(at, "an uplink has at least one address of its own");
                }
                let addresses = self.address_list(list, &[]);
                self.is_link_known =
                    addresses.len() == list.len() && (!list.is_empty() || self.serves_links);
                addresses
            }
            None => {
                if self.table.addresses.is_absent() {
                    let problem = self.report.error(self.at, "addresses is missing");
                    problem.hint("give the gateway's own on it, such as [\"192.0.2.10/24\"]");
                }
                Vec::new()
            }
        }
    }

    /// Host addresses of one list, none of them twice and none of them in `others`.
    fn address_list(&mut self, list: &[Field<Prefix>], others: &[IpNet]) -> Vec<(PlaceId, IpNet)> {
        let mut seen: HashSet<IpAddr> = others.iter().map(IpNet::addr).collect();
        let mut addresses = Vec::with_capacity(list.len());
        for field in list {
            let Some((at, &Prefix(net))) = field.given() else { continue };
            if subnet::check_ordinary(net, at, self.report).is_none()
                || subnet::check_usable(net, net.addr(), at, self.report).is_none()
            {
                continue;
            }
            if seen.insert(net.addr()) {
                addresses.push((at, net));
            } else {
                self.report.error(at, format!("{} is an address of the uplink twice", net.addr()));
            }
        }
        addresses
    }

    fn host_addresses(&mut self, own: &[IpNet]) -> Vec<IpNet> {
        let Some(list) = self.table.host_addresses.value() else { return Vec::new() };
        let addresses = self.address_list(list, own);
        for &(at, net) in &addresses {
            if self.is_link_known && !own.iter().any(|own| own.contains(&net.addr())) {
                let message = format!("{} is in no subnet of the uplink's addresses", net.addr());
                self.report.warning(at, message);
            }
        }
        addresses.into_iter().map(|(_, net)| net).collect()
    }

    fn routes(&mut self, own: &[IpNet], host: Option<&HostSide>) -> Vec<Route> {
        let mut routes = Vec::new();
        let mut seen = HashSet::new();
        let defaults = [
            (&self.table.gateway, IpNet::V4(Ipv4Net::default()), "IPv4"),
            (&self.table.gateway6, IpNet::V6(Ipv6Net::default()), "IPv6"),
        ];
        for (field, to, family) in defaults {
            let Some((at, &Address(via))) = field.given() else { continue };
            if via.is_ipv6() != matches!(to, IpNet::V6(_)) {
                let key = if via.is_ipv6() { "gateway6" } else { "gateway" };
                let problem = self.report.error(at, format!("{via} is no {family} address"));
                problem.hint(format!("the key for it is {key}"));
                continue;
            }
            if host.is_some_and(|host| host.is_shared) {
                let problem = self.report.error(at, "the host is the next hop of what it shares");
                problem.hint("leave it away; the host's own routes hold");
                continue;
            }
            self.check_next_hop(via, at, own);
            seen.insert(to);
            routes.push(Route { to, via: Some(via) });
        }
        for field in self.table.routes.value().map_or(&[][..], Vec::as_slice) {
            let Some((at, route)) = field.given() else { continue };
            routes.extend(self.route(at, route, own, &mut seen));
        }
        // Beside the host the host is the way out.
        for (via, (field, to, _)) in host.iter().flat_map(|host| host.peers()).zip(defaults) {
            let has_family = own.iter().any(|own| own.addr().is_ipv6() == via.is_ipv6());
            if has_family && field.is_absent() && seen.insert(to) {
                routes.push(Route { to, via: Some(via) });
            }
        }
        routes
    }

    fn route(
        &mut self,
        at: PlaceId,
        route: &schema::Route,
        own: &[IpNet],
        seen: &mut HashSet<IpNet>,
    ) -> Option<Route> {
        if route.to.is_absent() {
            self.report.error(at, "to is missing").hint("give the destinations of the route");
        }
        let (to_at, &Prefix(to)) = route.to.given()?;
        let to = subnet::check_host_bits(to, to_at, self.report)?;
        let via = match route.via.given() {
            None => None,
            Some((via_at, &Address(via))) => {
                if via.is_ipv6() != matches!(to, IpNet::V6(_)) {
                    self.report.error(via_at, format!("{via} is not of the family of {to}"));
                    return None;
                }
                self.check_next_hop(via, via_at, own);
                Some(via)
            }
        };
        if !seen.insert(to) {
            self.report.error(to_at, format!("there is a route to {to} already"));
            return None;
        }
        Some(Route { to, via })
    }

    /// A next hop is a neighbour on the uplink's own link.
    fn check_next_hop(&mut self, via: IpAddr, at: PlaceId, own: &[IpNet]) {
        let link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
        if own.iter().any(|own| own.addr() == via) {
            self.report.error(at, format!("{via} is the gateway's own address"));
        } else if self.is_link_known && !link_local && !own.iter().any(|own| own.contains(&via)) {
            let subnets: Vec<String> = own.iter().map(|own| own.trunc().to_string()).collect();
            let message = format!("{via} is in no subnet of the uplink ({})", subnets.join(", "));
            self.report.error(at, message);
        }
    }
}
