//! `[endpoint.NAME]`: attachments to networks, their addresses, names and default routes.
//!
//! Four passes over all endpoints: what is fixed is reserved first, then each takes what it had
//! before, then the rest is allocated in the order of the file, then follows what depends on
//! addresses. So a fixed address never loses to an allocated one, wherever it stands, and nobody
//! moves because of somebody new.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::{MacAddress, PortId};
use ipnet::IpNet;

use super::addresses::Addresses;
use super::foreign;
use super::interface::{self, Interfaces};
use super::macs::{self, Macs};
use super::network::Networks;
use super::publish::{self, Given};
use super::uplink::Uplinks;
use super::{entries, flag, number, unknown_name, word};
use crate::default_route::{Candidate, choose};
use crate::leases::Leases;
use crate::model::{Attach, Attachment, Endpoint, Family, Network, NetworkDriver};
use crate::names::{InterfaceName, check_name};
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema::{self, EndpointNetwork};
use crate::values::Number;
use crate::words;

/// The device of an endpoint that the file does not name.
const INTERFACE_DEFAULT: &str = "eth0";

/// Checks all endpoints.
pub(super) fn check(
    tables: &Field<Named<schema::Endpoint>>,
    networks: &Networks,
    uplinks: &Uplinks,
    leases: &Leases,
    interfaces: &mut Interfaces,
    report: &mut Report,
) -> (Vec<Endpoint>, Given) {
    let mut drafts: Vec<Draft<'_>> = entries(tables, report)
        .into_iter()
        .filter_map(|(name, at, table)| {
            let table = table?;
            let (attach, members, alone_in) = (None, Vec::new(), None);
            Some(Draft { name, at, table, attach, members, alone_in })
        })
        .collect();
    let mut addresses = Addresses::new(networks, leases);
    let mut macs = Macs::new(networks, leases);
    for draft in &mut drafts {
        draft.find_sole_network(networks, report);
        draft.read_attach(report);
        if draft.alone_in.is_none() {
            draft.read_members(networks, report);
        }
        draft.claim_interfaces(interfaces, report);
        draft.reserve(&mut addresses, &mut macs, report);
    }
    let members = drafts.iter().flat_map(|draft| {
        draft.members.iter().filter_map(|member| Some((member.network_index?, draft.name)))
    });
    addresses.rest(&members.collect());
    for draft in &mut drafts {
        draft.take_leased(&mut addresses);
    }
    for draft in &mut drafts {
        draft.allocate(&mut addresses, report);
    }
    let mut endpoints = Vec::with_capacity(drafts.len());
    let mut publishing = publish::Checker::new(uplinks, networks);
    for draft in &drafts {
        let attachments = draft.attachments(networks, &mut macs, report);
        let publish = match draft.alone_in {
            Some(network) => publish::discard(draft.table, network, report),
            None => {
                let own = (endpoints.len(), draft.name);
                publishing.check(own, draft.table, &attachments, report)
            }
        };
        let attach = draft.attach.clone();
        endpoints.extend(attach.map(|attach| Endpoint {
            name: draft.name.to_owned(),
            attach,
            attachments,
            alone_in: draft.alone_in.map(|network| network.name.clone()),
            publish,
        }));
    }
    let given = publishing.finish(&mut endpoints, leases, report);
    (endpoints, given)
}

/// An endpoint that is being checked.
struct Draft<'d> {
    name: &'d str,
    at: PlaceId,
    table: &'d schema::Endpoint,
    attach: Option<Attach>,
    members: Vec<Member<'d>>,
    /// Its network, if that is of driver none or host.
    alone_in: Option<&'d Network>,
}

/// One of its networks.
struct Member<'d> {
    at: PlaceId,
    table: &'d EndpointNetwork,
    /// Index in the list of networks; `None`: unknown or faulty, which has been reported.
    network_index: Option<usize>,
    interface: Option<InterfaceName>,
    /// The MAC address that the file fixes.
    mac: Option<MacAddress>,
    gw_priority: i32,
    /// The families whose default route the file wants from here; `None`: by the priorities.
    default_route: Option<Vec<(PlaceId, Family)>>,
    ipv4: Option<IpNet>,
    ipv6: Option<IpNet>,
}

impl<'d> Draft<'d> {
    /// Whether one of its networks is of driver none or host. There is no other beside it.
    fn find_sole_network(&mut self, networks: &'d Networks, report: &mut Report) {
        let members = self.table.network.value().map_or(&[][..], Vec::as_slice);
        let members = || members.iter().filter_map(Field::given);
        let sole = members().find_map(|(at, member)| {
            let index = networks.by_name.get(member.name.value()?).copied().flatten()?;
            let network = &networks.list[index];
            (!network.driver.has_link()).then_some((at, network))
        });
        let Some((sole_at, network)) = sole else { return };
        self.alone_in = Some(network);
        let (word, meaning) = foreign::explained(network.driver);
        for (at, member) in members() {
            if at == sole_at {
                for at in keys_of_bridges(member) {
                    let message = format!("there is no such key in a network of driver {word}");
                    report.error(at, message).hint(meaning);
                }
            } else {
                let message = format!(
                    "endpoint {} cannot be in another network, as network {} is of driver {word}",
                    self.name, network.name
                );
                report.error(at, message).related(sole_at, "it is in it here").hint(meaning);
            }
        }
    }

    fn read_attach(&mut self, report: &mut Report) {
        if self.alone_in.is_some_and(|network| network.driver == NetworkDriver::Host) {
            if let Some(at) = self.table.attach.place() {
                let problem =
                    report.error(at, "an endpoint of a host network is attached to nothing");
                problem.hint(foreign::explained(NetworkDriver::Host).1);
            }
            self.attach = Some(Attach::Host);
            return;
        }
        if self.table.attach.is_absent() {
            let problem = report.error(self.at, "attach is missing");
            problem.hint("such as attach = { netns = \"web\", create = true }");
        }
        let Some((at, attach)) = self.table.attach.given() else { return };
        let kinds = [attach.netns.place(), attach.tap.place(), attach.xdp.place()];
        match kinds.iter().flatten().count() {
            1 => {}
            0 => {
                let problem = report.error(at, "neither netns nor tap nor xdp is given");
                problem.hint(
                    "name the endpoint's network namespace, a TAP device for a VM, or an existing \
                     device",
                );
            }
            _ => {
                report.error(at, "netns, tap and xdp exclude each other");
            }
        }
        let (existing, is_xdp) = match (attach.tap.place(), attach.xdp.place()) {
            (tap @ Some(_), _) => (tap, false),
            (None, xdp) => (xdp, true),
        };
        if attach.netns.is_absent() && existing.is_some() {
            for (key, place) in
                [("interface", attach.interface.place()), ("create", attach.create.place())]
            {
                let Some(at) = place else { continue };
                let problem = report.error(at, format!("{key} is for endpoints in a namespace"));
                problem.hint(match is_xdp {
                    true => "the key xdp names the device, which exists already",
                    false => "the key tap names the device, which is always created",
                });
            }
            if let (Some(network), Some(at)) = (self.alone_in, existing) {
                let message =
                    format!("network {} has no devices: the endpoint needs a netns", network.name);
                report.error(at, message);
            }
            self.attach = Some(if is_xdp { Attach::Xdp } else { Attach::Tap });
        }
        if let (Some(network), Some(at)) = (self.alone_in, attach.interface.place()) {
            report.error(at, format!("network {} has no devices to name", network.name));
        }
        if let Some(netns) = interface::netns(&attach.netns, report) {
            self.attach = Some(Attach::Netns { netns, create: flag(&attach.create, false) });
        }
    }

    fn read_members(&mut self, networks: &Networks, report: &mut Report) {
        if self.table.network.value().is_some_and(Vec::is_empty) || self.table.network.is_absent() {
            let message = format!("endpoint {} is in no network", self.name);
            let problem = report.error(self.table.network.place().unwrap_or(self.at), message);
            problem.hint(format!("add [[endpoint.{}.network]] with a name", self.name));
        }
        let mut seen = HashSet::new();
        for (index, field) in self.table.network.value().into_iter().flatten().enumerate() {
            let Some((at, table)) = field.given() else { continue };
            let name = network_name(at, table, networks, report);
            if let (Some(name), Some(at)) = (name, table.name.place())
                && !seen.insert(name)
            {
                report.error(at, format!("endpoint {} is in network {name} twice", self.name));
            }
            for alias in table.aliases.value().into_iter().flatten() {
                if let Some((at, alias)) = alias.given()
                    && let Err(message) = check_name(alias)
                {
                    report.error(at, message);
                }
            }
            self.members.push(Member {
                at,
                table,
                network_index: name.and_then(|name| networks.by_name.get(name).copied().flatten()),
                interface: self.interface(index, at, table, report),
                mac: None,
                gw_priority: gw_priority(&table.gw_priority, report),
                default_route: default_route(&table.default_route, report),
                ipv4: None,
                ipv6: None,
            });
        }
    }

    /// Name of the device of the network with this index.
    fn interface(
        &self,
        index: usize,
        at: PlaceId,
        table: &EndpointNetwork,
        report: &mut Report,
    ) -> Option<InterfaceName> {
        let attach = self.table.attach.value();
        let is_tap = attach.is_some_and(|attach| !attach.tap.is_absent());
        let is_xdp = attach.is_some_and(|attach| !attach.xdp.is_absent());
        let first = attach.filter(|_| index == 0);
        let first = first.map(|attach| match (is_tap, is_xdp) {
            (true, _) => &attach.tap,
            (false, true) => &attach.xdp,
            (false, false) => &attach.interface,
        });
        if !table.interface.is_absent() {
            if let (Some(at), Some(Field::Given(_, other))) = (table.interface.place(), first)
                && table.interface.value() != Some(other)
            {
                report.error(at, format!("attach names this interface {other:?}"));
            }
            return interface::name(&table.interface, report);
        }
        match first {
            Some(field @ (Field::Given(..) | Field::Wrong(_))) => interface::name(field, report),
            _ if is_tap || is_xdp => {
                let problem = report.error(at, "interface is missing");
                problem.hint("attach names the device of the first network alone");
                None
            }
            _ if index == 0 => InterfaceName::new(INTERFACE_DEFAULT).ok(),
            _ => InterfaceName::new(&format!("eth{index}")).ok(),
        }
    }

    fn claim_interfaces(&self, interfaces: &mut Interfaces, report: &mut Report) {
        let netns = match &self.attach {
            Some(Attach::Netns { netns, .. }) => Some(netns),
            Some(Attach::Tap | Attach::Xdp) => None,
            Some(Attach::Host) | None => return,
        };
        for member in &self.members {
            if let Some(interface) = &member.interface {
                let at = member.table.interface.place().unwrap_or(member.at);
                interfaces.claim(netns, interface, at, report);
            }
        }
    }

    fn reserve(&mut self, addresses: &mut Addresses<'_>, macs: &mut Macs<'_>, report: &mut Report) {
        for member in &mut self.members {
            let Some(index) = member.network_index else {
                macs::station(&member.table.mac, report);
                continue;
            };
            member.mac = macs.reserve(index, &member.table.mac, self.name, report);
            let (ip, ip6) = (&member.table.ip, &member.table.ip6);
            member.ipv4 = addresses.reserve(index, ip, false, self.name, report);
            member.ipv6 = addresses.reserve(index, ip6, true, self.name, report);
        }
    }

    fn take_leased(&mut self, addresses: &mut Addresses<'_>) {
        for member in &mut self.members {
            let Some(index) = member.network_index else { continue };
            if member.table.ip.is_absent() {
                member.ipv4 = addresses.take_leased(index, false, self.name);
            }
            if member.table.ip6.is_absent() {
                member.ipv6 = addresses.take_leased(index, true, self.name);
            }
        }
    }

    fn allocate(&mut self, addresses: &mut Addresses<'_>, report: &mut Report) {
        for member in &mut self.members {
            let Some(index) = member.network_index else { continue };
            if member.table.ip.is_absent() && member.ipv4.is_none() {
                member.ipv4 = addresses.take_lowest(index, false, member.at, self.name, report);
            }
            if member.table.ip6.is_absent() && member.ipv6.is_none() {
                member.ipv6 = addresses.take_lowest(index, true, member.at, self.name, report);
            }
        }
    }

    /// What follows from the addresses. Attachments to faulty networks are left out.
    fn attachments(
        &self,
        networks: &Networks,
        macs: &mut Macs<'_>,
        report: &mut Report,
    ) -> Vec<Attachment> {
        let sound = |member: &Member<'d>| {
            let network = networks.list.get(member.network_index?)?;
            Some((network, member.network_index?, member.interface.clone()?))
        };
        let mut attachments = Vec::with_capacity(self.members.len());
        let mut candidates = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let Some((network, network_index, interface)) = sound(member) else { continue };
            let ipv4 = member.ipv4.map(|net| net.addr());
            let mac = macs.take(network_index, member.mac, ipv4, self.name);
            let attachment = self.attachment(member, network, interface, mac);
            candidates.push(candidate(&attachment, network, member));
            attachments.push(attachment);
        }
        self.check_default_routes(&candidates, report);
        for family in [Family::V4, Family::V6] {
            let Some(index) = choose(&candidates, family) else { continue };
            let gateway = candidates[index].gateway(family);
            let chosen = &mut attachments[index];
            *match family {
                Family::V4 => &mut chosen.default_route_v4,
                Family::V6 => &mut chosen.default_route_v6,
            } = gateway;
        }
        attachments
    }

    /// Reports a default route that a network cannot give, or that two are to give.
    fn check_default_routes(&self, candidates: &[Candidate<'_>], report: &mut Report) {
        let mut given: Vec<(Family, PlaceId)> = Vec::new();
        let members = self.members.iter().filter(|member| member.network_index.is_some());
        for member in members {
            for &(at, family) in member.default_route.iter().flatten() {
                let word = words::of(words::FAMILY, &family);
                if let Some((_, other)) = given.iter().find(|(other, _)| *other == family) {
                    let message =
                        format!("endpoint {} has a default route of {word} already", self.name);
                    report.error(at, message).related(*other, "it is here");
                }
                given.push((family, at));
                let name = member.table.name.value();
                let own =
                    candidates.iter().find(|own| name.is_some_and(|name| own.network == name));
                if own.is_some_and(|own| own.gateway(family).is_none()) {
                    let message = format!("the network gives no default route of {word}");
                    let problem = report.error(at, message);
                    problem.hint("it is internal, or has no subnet of that family");
                }
            }
        }
    }

    fn attachment(
        &self,
        member: &Member<'d>,
        network: &Network,
        interface: InterfaceName,
        mac: MacAddress,
    ) -> Attachment {
        let aliases = member.table.aliases.value().into_iter().flatten();
        Attachment {
            network: network.name.clone(),
            port: PortId(0),
            interface,
            mac,
            ipv4: member.ipv4.and_then(|net| match net {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            }),
            ipv6: member.ipv6.and_then(|net| match net {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            }),
            default_route_v4: None,
            default_route_v6: None,
            mtu: network.mtu,
            aliases: aliases.filter_map(|alias| alias.value().cloned()).collect(),
            gw_priority: member.gw_priority,
            anti_spoofing: flag(&member.table.anti_spoofing, true),
        }
    }
}

/// Keys of an endpoint's network that mean something in bridges alone.
fn keys_of_bridges(member: &EndpointNetwork) -> impl Iterator<Item = PlaceId> {
    let places = [
        member.ip.place(),
        member.ip6.place(),
        member.mac.place(),
        member.aliases.place(),
        member.gw_priority.place(),
        member.default_route.place(),
        member.anti_spoofing.place(),
        member.interface.place(),
    ];
    places.into_iter().flatten()
}

fn gw_priority(field: &Field<Number>, report: &mut Report) -> i32 {
    let bounds = i64::from(i32::MIN)..=i64::from(i32::MAX);
    number(field, bounds, "", report).map_or(0, |priority| priority as i32)
}

/// The name of a member's network, if there is one of this name.
fn network_name<'d>(
    at: PlaceId,
    table: &'d EndpointNetwork,
    networks: &Networks,
    report: &mut Report,
) -> Option<&'d str> {
    if table.name.is_absent() {
        report.error(at, "name is missing").hint("name the network");
    }
    let (at, name) = table.name.given()?;
    if networks.by_name.contains_key(name) {
        return Some(name);
    }
    unknown_name(at, "network", name, networks.by_name.keys().map(String::as_str), report);
    None
}

/// The families of `default_route`.
fn default_route(
    field: &Field<Vec<Field<String>>>,
    report: &mut Report,
) -> Option<Vec<(PlaceId, Family)>> {
    let mut families = Vec::new();
    for field in field.value()? {
        let Some(family) = word(field, words::FAMILY, report) else { continue };
        let at = field.place().expect("a word that was read has a place");
        families.push((at, family));
    }
    Some(families)
}

fn candidate<'n>(
    attachment: &Attachment,
    network: &'n Network,
    member: &Member<'_>,
) -> Candidate<'n> {
    let gateway_of = |address: Option<IpAddr>| {
        let address = address?;
        let subnet = network.subnets.iter().find(|subnet| subnet.prefix.contains(&address))?;
        // What is routed without a link has no next hop: its device alone.
        let is_routed = network.parent.as_ref().is_some_and(|own| own.mode.is_routed());
        let unspecified = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let next = if is_routed { unspecified } else { subnet.gateway };
        Some(next).filter(|_| !network.internal)
    };
    let wanted = member.default_route.as_ref();
    Candidate {
        network: &network.name,
        gw_priority: attachment.gw_priority,
        gateway_v4: gateway_of(attachment.ipv4_address().map(IpAddr::V4)),
        gateway_v6: gateway_of(attachment.ipv6_address().map(IpAddr::V6)),
        wanted: wanted.map(|families| families.iter().map(|(_, family)| *family).collect()),
    }
}
