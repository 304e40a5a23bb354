//! Keys of macvlan and ipvlan networks: the uplink whose link members are on, the VLAN, the mode.
//!
//! A part of a link (a VLAN, or what has no tag) is of one network: who is meant by an address on
//! the wire must be clear. Refusals that Docker has too are in its words. The one hard constraint:
//! no member has an address that is known to be somebody else's on that link.

use std::collections::HashMap;

use engine::PortId;
use ipnet::IpNet;

use super::subnet::Claim;
use super::uplink::Uplinks;
use super::{number, unknown_name};
use crate::bounds::VLAN_MAX;
use crate::model::{
    Config, IpvlanFlag, IpvlanMode, LinkMode, MacvlanMode, NetworkDriver, Parent, Uplink,
};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::words::{self, Words, known};

/// Who has which part of which uplink's link.
pub(super) type Taken<'d> = HashMap<(String, Option<u16>), &'d str>;

/// Checks what one network says of its parent.
pub(super) struct Checker<'c, 'd> {
    pub(super) name: &'d str,
    pub(super) at: PlaceId,
    pub(super) table: &'d schema::Network,
    pub(super) driver: NetworkDriver,
    pub(super) uplinks: &'c Uplinks,
    pub(super) report: &'c mut Report,
}

impl<'c, 'd> Checker<'c, 'd> {
    /// `None`: faulty, which has been reported.
    pub(super) fn check(&mut self, taken: &mut Taken<'d>) -> Option<Parent> {
        let mode = self.mode();
        let found = self.uplink();
        let vlan = number(&self.table.vlan, 1..=VLAN_MAX, "", self.report).map(|vlan| vlan as u16);
        let mode = mode?;
        self.refuse_keys(mode);
        let (at, uplink, tag) = found?;
        if let (Some(_), Some(at)) = (tag, self.table.vlan.place()) {
            self.report.error(at, "the parent names a VLAN already");
        }
        let vlan = tag.or(vlan);
        if mode.is_routed() && vlan.is_some() {
            let problem = self.report.error(at, "a routed network has no VLAN");
            problem.hint("the gateway has no address there to route from: take mode \"l2\"");
            return None;
        }
        if let Some(other) = taken.insert((uplink.name.clone(), vlan), self.name) {
            let parent = shown(&uplink.name, vlan);
            let message = format!("network {other} is already using parent interface {parent}");
            self.report.error(at, message);
            return None;
        }
        let own = uplink.addresses.iter().chain(&uplink.host_addresses).map(IpNet::addr);
        let routers = uplink.routes.iter().filter_map(|route| route.via);
        let taken = if vlan.is_none() { own.chain(routers).collect() } else { Vec::new() };
        Some(Parent { uplink: uplink.name.clone(), vlan, mode, trunk: PortId(0), taken })
    }

    fn mode(&mut self) -> Option<LinkMode> {
        let report = &mut *self.report;
        if self.driver == NetworkDriver::Macvlan {
            if let Some(at) = self.table.flag.place() {
                let problem = report.error(at, "only an ipvlan network has a flag");
                problem.hint("its key for that is mode");
            }
            let (words, default) = (words::MACVLAN_MODE, MacvlanMode::Bridge);
            return docker_word(&self.table.mode, words, ("macvlan mode", default), report)
                .map(LinkMode::Macvlan);
        }
        let (modes, mode) = (words::IPVLAN_MODE, IpvlanMode::L2);
        let mode = docker_word(&self.table.mode, modes, ("ipvlan mode", mode), report);
        let (flags, flag) = (words::IPVLAN_FLAG, IpvlanFlag::Bridge);
        let flag = docker_word(&self.table.flag, flags, ("ipvlan flag", flag), report);
        if let (Some(at), Some(IpvlanMode::L3 | IpvlanMode::L3s)) = (self.table.flag.place(), mode)
        {
            let problem = report.error(at, "a routed network has no flag");
            problem.hint("icc = false keeps its members from each other");
        }
        Some(LinkMode::Ipvlan(mode?, flag?))
    }

    /// The uplink that is meant, and the VLAN that its name is followed by.
    fn uplink(&mut self) -> Option<(PlaceId, &'c Uplink, Option<u16>)> {
        if let (Some(_), Some(at)) = (self.table.parent.place(), self.table.uplink.place()) {
            self.report.error(at, "parent and uplink exclude each other");
            return None;
        }
        let (parent, key) = (&self.table.parent, &self.table.uplink);
        let named = parent.given().map(|given| (given, true));
        let given = named.or_else(|| key.given().map(|given| (given, false)));
        let Some(((at, name), is_parent)) = given else { return self.only_uplink() };
        if name == "lo" || name.starts_with("lo.") {
            let driver = words::of(words::NETWORK_DRIVER, &self.driver);
            let message = format!("loopback interface is not a valid {driver} parent link");
            self.report.error(at, message);
            return None;
        }
        if let Some(uplink) = self.uplink_called(name) {
            return Some((at, uplink, None));
        }
        if is_parent
            && let Some((name, vlan)) = name.rsplit_once('.')
            && let Some(uplink) = self.uplink_called(name)
        {
            return match vlan.parse::<u16>() {
                Ok(number) if (1..=VLAN_MAX).contains(&number.into()) => {
                    Some((at, uplink, Some(number)))
                }
                _ => {
                    let message = format!("{vlan:?} is no VLAN's number: 1 to {VLAN_MAX}");
                    self.report.error(at, message);
                    None
                }
            };
        }
        // One that is faulty is no unknown one.
        let names = &self.uplinks.names;
        if !names.iter().any(|known| name == known || name.starts_with(&format!("{known}."))) {
            let known = names.iter().map(String::as_str);
            unknown_name(at, "uplink", name, known, self.report);
        }
        None
    }

    fn uplink_called(&self, name: &str) -> Option<&'c Uplink> {
        let list = &self.uplinks.list;
        let by_name = list.iter().find(|uplink| uplink.name == name);
        by_name.or_else(|| list.iter().find(|uplink| uplink.interface.as_str() == name))
    }

    fn only_uplink(&mut self) -> Option<(PlaceId, &'c Uplink, Option<u16>)> {
        let driver = words::of(words::NETWORK_DRIVER, &self.driver);
        match self.uplinks.names.as_slice() {
            [only] => {
                let own = self.uplinks.list.iter().find(|uplink| uplink.name == *only)?;
                return Some((self.at, own, None));
            }
            [] => {
                let message = format!("a network of driver {driver} needs an uplink");
                let problem = self.report.error(self.at, message);
                problem.hint("its members are on the link of one: write [uplink.NAME]");
            }
            _ => {
                let message = format!("a network of driver {driver} needs a parent");
                let problem = self.report.error(self.at, message);
                problem.hint("there are several uplinks: name one by the key parent");
            }
        }
        None
    }

    /// Keys that mean nothing where members are on a link that is not the gateway's.
    fn refuse_keys(&mut self, mode: LinkMode) {
        let table = self.table;
        let places = [
            (table.internal.place(), true),
            (table.gateway_mac.place(), true),
            (table.icc.place(), !mode.is_routed()),
            (table.mss_clamp.place(), !mode.is_routed()),
            (table.multicast_snooping.place(), true),
            (table.masquerade.place(), !has_translation(mode)),
            (table.host_ipv4.place(), !has_translation(mode)),
            (table.host_ipv6.place(), !has_translation(mode)),
        ];
        let word = match mode {
            LinkMode::Macvlan(_) => "driver macvlan".to_owned(),
            LinkMode::Ipvlan(mode, _) => {
                format!("driver ipvlan and mode {}", words::of(words::IPVLAN_MODE, &mode))
            }
        };
        let refused = places.into_iter().filter(|(_, is_refused)| *is_refused);
        for at in refused.filter_map(|(at, _)| at) {
            self.report.error(at, format!("a network of {word} has no such key"));
        }
    }
}

fn has_translation(mode: LinkMode) -> bool {
    matches!(mode, LinkMode::Ipvlan(IpvlanMode::L3s, _))
}

/// A part of a link, as Docker names it.
fn shown(uplink: &str, vlan: Option<u16>) -> String {
    vlan.map_or_else(|| uplink.to_owned(), |vlan| format!("{uplink}.{vlan}"))
}

/// One of a few words, refused as Docker refuses it.
fn docker_word<T: Copy + PartialEq>(
    field: &Field<String>,
    meanings: Words<T>,
    (what, default): (&str, T),
    report: &mut Report,
) -> Option<T> {
    if field.is_absent() {
        return Some(default);
    }
    let (at, given) = field.given()?;
    if let Some((_, meaning)) = meanings.iter().find(|(word, _)| word == given) {
        return *meaning;
    }
    let default = words::of(meanings, &default);
    let driver = what.split(' ').next().unwrap_or(what);
    let is_mode = what.ends_with("mode");
    let mode = if is_mode { "mode is the" } else { "is the" };
    let message = format!(
        "requested {what} '{given}' is not valid, '{default}' {mode} {driver} driver default"
    );
    let problem = report.error(at, message);
    problem.hint(format!("known are {}", known(meanings).join(", ")));
    None
}

/// Whose a subnet on an uplink's link is: it may be the uplink's too.
pub(super) fn claim(parent: &Parent, network: &str, prefix: IpNet, at: PlaceId) -> Claim {
    match parent.vlan {
        None if !parent.mode.is_routed() => Claim {
            prefix,
            at,
            owner: format!("uplink {}", parent.uplink),
            shared: true,
            apart: None,
        },
        _ => Claim { prefix, at, owner: format!("network {network}"), shared: false, apart: None },
    }
}

/// The uplink that members are on.
pub(super) fn uplink<'u>(parent: &Parent, uplinks: &'u Uplinks) -> Option<&'u Uplink> {
    uplinks.list.iter().find(|uplink| uplink.name == parent.uplink)
}

/// What shows only when all endpoints are known: a second member of a network that has one.
pub(super) fn check_members(
    config: &Config,
    place: impl Fn(&str) -> Option<PlaceId>,
    report: &mut Report,
) {
    for network in &config.networks {
        let is_passthru = |parent: &Parent| parent.mode == LinkMode::Macvlan(MacvlanMode::Passthru);
        if !network.parent.as_ref().is_some_and(is_passthru) {
            continue;
        }
        let members = config
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.attachments.iter().any(|own| own.network == network.name));
        let mut members = members.map(|endpoint| &endpoint.name);
        let Some(first) = members.next() else { continue };
        for other in members {
            let name = &network.name;
            let message = format!(
                "network {name} is of mode passthru and has one member, {first}: {other} cannot be \
                 in it"
            );
            report.error(place(other).unwrap_or(PlaceId::ROOT), message);
        }
    }
}
