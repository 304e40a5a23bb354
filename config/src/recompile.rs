//! From one config to the next: tables that share with the running ones whatever is equal, at the
//! cost of what has changed.
//!
//! [`compile`](crate::compile) says what the tables are; this says the same (a property test) with
//! less work. An edited config shares its unchanged endpoints, networks and routes with the one it
//! was made from, and lists that begin and end with shared parts differ in their middles alone. A
//! config that was read from a file shares nothing at first: its endpoints are matched by name, and
//! those that are equal are replaced by the running ones. The one hard constraint: the running
//! config's ids are those of the running tables.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use engine::tables::{Epoch, PublishEntry, Route, Routes, TableMap};
use engine::{MacAddress, NetworkId, PortId, Tables, UplinkId, tables};
use ipnet::IpNet;

use crate::compile::{
    address_plan_is_same, nat_settings, network_table, port_table, publish_entry, routes_of, rules,
    share_at, share_one, share_policy, uplink_port_table, uplink_table,
};
use crate::host::HostSide;
use crate::ids::Numbers;
use crate::model::{Attachment, Config, Endpoint, Network, Uplink};
use crate::tunnels::{add_trunks, network_ports, overlay_table, remove_trunks};

/// Sets the ids of `next` and compiles it, given the config in force and its tables. What `next`
/// has in common with it is shared afterwards.
pub fn recompile(running: &Config, tables: &Tables, next: &mut Config) -> Tables {
    let epoch = tables.generation + 1;
    adopt_ids(running, tables, next);
    let networks = middle(&running.networks, &next.networks, Arc::ptr_eq);
    let endpoints = middle(&running.endpoints, &next.endpoints, Arc::ptr_eq);
    let is_named = !endpoints.old.is_empty() || !endpoints.new.is_empty();
    let names = next.networks.iter().map(|network| (network.name.as_str(), network.id));
    let network_ids = names.filter(|_| is_named).collect();
    let step = Step { running, next, tables, epoch, networks, endpoints, network_ids };
    let mut new = Tables {
        generation: epoch,
        plan: tables.plan,
        ports: step.ports(),
        networks: step.networks(),
        uplinks: step.uplinks(),
        publish: step.publish(),
        policy: step.policy(),
        routes: step.routes(),
        nat: share_one(nat_settings(next, epoch), &tables.nat),
        limits: match next.limits == *tables.limits {
            true => tables.limits.clone(),
            false => Arc::new(next.limits.clone()),
        },
    };
    if !address_plan_is_same(&new, tables) {
        new.plan = epoch;
    }
    new
}

/// What two lists differ in, when their equal beginnings and ends are left out.
#[derive(Clone, Debug)]
struct Middle {
    old: Range<usize>,
    new: Range<usize>,
}

fn middle<T>(old: &[T], new: &[T], same: impl Fn(&T, &T) -> bool) -> Middle {
    let pairs = old.iter().zip(new);
    let first = pairs.take_while(|(old, new)| same(old, new)).count();
    let pairs = old[first..].iter().rev().zip(new[first..].iter().rev());
    let last = pairs.take_while(|(old, new)| same(old, new)).count();
    Middle { old: first..old.len() - last, new: first..new.len() - last }
}

/// Sets the ids of `next` to those that it will have beside the running tables, so that devices can
/// be matched with ports before the swap, and replaces what equals its running part by it.
pub fn adopt_ids(running: &Config, tables: &Tables, next: &mut Config) {
    let mut numbers = Numbers::new(tables);
    for uplink in &mut next.uplinks {
        let before = running.uplink(&uplink.name);
        uplink.id = before.map_or_else(|| numbers.uplink(), |before| before.id);
        uplink.port = before.map_or_else(|| numbers.port(), |before| before.port);
        if let Some(before) = before.filter(|before| before.routes == uplink.routes) {
            uplink.routes = before.routes.clone();
        }
    }
    let networks = middle(&running.networks, &next.networks, Arc::ptr_eq);
    let networks_before: TableMap<&str, &Arc<Network>> =
        running.networks[networks.old].iter().map(|own| (own.name.as_str(), own)).collect();
    for network in &mut next.networks[networks.new.clone()] {
        let before = networks_before.get(network.name.as_str());
        let id = before.map_or_else(|| numbers.network(), |before| before.id);
        if network.id != id {
            Arc::make_mut(network).id = id;
        }
    }
    let span = middle(&running.endpoints, &next.endpoints, Arc::ptr_eq);
    let before = &running.endpoints[span.old];
    let before: TableMap<&str, &Arc<Endpoint>> =
        before.iter().map(|endpoint| (endpoint.name.as_str(), endpoint)).collect();
    for endpoint in &mut next.endpoints[span.new] {
        let before = before.get(endpoint.name.as_str()).copied();
        assign_ports(before.map(|before| &**before), endpoint, &mut numbers);
        if let Some(before) = before.filter(|before| **before == *endpoint) {
            *endpoint = before.clone();
        }
    }
    // In the order in which `ids::of` gives them: ports of tunnels, then those to wires.
    let of_name = |network: &Network| networks_before.get(network.name.as_str()).copied();
    for network in &mut next.networks[networks.new.clone()] {
        assign_tunnels(of_name(network), network, &mut numbers);
    }
    for network in &mut next.networks[networks.new] {
        let before = of_name(network);
        assign_trunk(before, network, &mut numbers);
        if let Some(before) = before.filter(|before| **before == *network) {
            *network = before.clone();
        }
    }
}

fn assign_tunnels(before: Option<&Arc<Network>>, own: &mut Arc<Network>, numbers: &mut Numbers) {
    let Some(overlay) = &own.overlay else { return };
    let before = before.and_then(|before| before.overlay.as_ref());
    let trunk = before.map_or_else(|| numbers.port(), |before| before.trunk);
    let ports: Vec<PortId> = overlay
        .tunnels
        .iter()
        .map(|(vtep, _)| before.and_then(|before| before.port_to(*vtep)))
        .map(|port| port.unwrap_or_else(|| numbers.port()))
        .collect();
    let is_same = overlay.tunnels.iter().map(|(_, port)| *port).eq(ports.iter().copied());
    if is_same && overlay.trunk == trunk {
        return;
    }
    if let Some(overlay) = &mut Arc::make_mut(own).overlay {
        overlay.trunk = trunk;
        overlay.tunnels.iter_mut().zip(ports).for_each(|((_, port), new)| *port = new);
    }
}

fn assign_trunk(before: Option<&Arc<Network>>, own: &mut Arc<Network>, numbers: &mut Numbers) {
    if !own.is_on_link() {
        return;
    }
    let before = before.filter(|before| before.is_on_link());
    let before = before.and_then(|before| before.parent.as_ref());
    let trunk = before.map_or_else(|| numbers.port(), |before| before.trunk);
    if own.parent.as_ref().is_some_and(|parent| parent.trunk != trunk)
        && let Some(parent) = &mut Arc::make_mut(own).parent
    {
        parent.trunk = trunk;
    }
}

fn assign_ports(before: Option<&Endpoint>, endpoint: &mut Arc<Endpoint>, numbers: &mut Numbers) {
    let before = before.map_or(&[][..], |before| &before.attachments);
    let ports: Vec<PortId> = endpoint
        .attachments
        .iter()
        .map(|own| {
            let before = before.iter().find(|before| before.network == own.network);
            before.map_or_else(|| numbers.port(), |before| before.port)
        })
        .collect();
    if endpoint.attachments.iter().map(|own| own.port).ne(ports.iter().copied()) {
        let attachments = &mut Arc::make_mut(endpoint).attachments;
        attachments.iter_mut().zip(ports).for_each(|(own, port)| own.port = port);
    }
}

/// One step while it is worked out. Both configs have the ids of their tables.
struct Step<'c> {
    running: &'c Config,
    next: &'c Config,
    tables: &'c Tables,
    epoch: Epoch,
    networks: Middle,
    endpoints: Middle,
    /// By name; empty when no endpoint has changed.
    network_ids: TableMap<&'c str, NetworkId>,
}

/// How a member shows in its network's table.
type Member = (PortId, MacAddress, Option<IpAddr>, Option<IpAddr>);

fn member(own: &Attachment) -> Member {
    let (ipv4, ipv6) = (own.ipv4_address(), own.ipv6_address());
    (own.port, own.mac, ipv4.map(IpAddr::V4), ipv6.map(IpAddr::V6))
}

/// What changes among the members of one network.
#[derive(Default)]
struct MemberChange {
    gone: Vec<Member>,
    new: Vec<Member>,
}

impl<'c> Step<'c> {
    fn old_endpoints(&self) -> impl Iterator<Item = &'c Endpoint> {
        self.running.endpoints[self.endpoints.old.clone()].iter().map(|endpoint| &**endpoint)
    }

    fn new_endpoints(&self) -> impl Iterator<Item = &'c Endpoint> {
        self.next.endpoints[self.endpoints.new.clone()].iter().map(|endpoint| &**endpoint)
    }

    fn ports(&self) -> Vec<Option<Arc<tables::PortTable>>> {
        let mut ports = self.tables.ports.clone();
        for uplink in &self.running.uplinks {
            ports[uplink.port.index()] = None;
        }
        for own in self.old_endpoints().flat_map(|endpoint| &endpoint.attachments) {
            ports[own.port.index()] = None;
        }
        for network in &self.running.networks[self.networks.old.clone()] {
            let overlay = network.overlay.iter();
            let tunnels = overlay.flat_map(|overlay| {
                overlay.tunnels.iter().map(|(_, port)| *port).chain([overlay.trunk])
            });
            let parent = network.parent.iter().filter(|_| network.is_on_link());
            for port in tunnels.chain(parent.map(|parent| parent.trunk)) {
                ports[port.index()] = None;
            }
        }
        for uplink in &self.next.uplinks {
            share_at(&mut ports, &self.tables.ports, uplink_port_table(uplink, self.epoch));
        }
        // Tunnels are as large as their uplink has room for.
        let is_moved = !links(self.running).eq(links(self.next));
        for (index, network) in self.next.networks.iter().enumerate() {
            if self.networks.new.contains(&index) || is_moved {
                let own = network_ports(network, self.next, self.epoch);
                own.into_iter().for_each(|port| share_at(&mut ports, &self.tables.ports, port));
            }
        }
        for endpoint in self.new_endpoints() {
            for own in &endpoint.attachments {
                let network = self.network_ids[own.network.as_str()];
                let port = port_table(endpoint, own, network, self.epoch);
                share_at(&mut ports, &self.tables.ports, port);
            }
        }
        trimmed(ports)
    }

    fn networks(&self) -> Vec<Option<Arc<tables::Network>>> {
        let mut networks = self.tables.networks.clone();
        let changed = &self.running.networks[self.networks.old.clone()];
        changed.iter().for_each(|network| networks[network.id.index()] = None);
        let before_models: TableMap<&str, &Network> =
            changed.iter().map(|network| (network.name.as_str(), &**network)).collect();
        let mut members = self.member_changes();
        let uplink_ids: HashMap<&str, UplinkId> =
            self.next.uplinks.iter().map(|uplink| (uplink.name.as_str(), uplink.id)).collect();
        let is_moved = uplink_ids
            != self.running.uplinks.iter().map(|own| (own.name.as_str(), own.id)).collect();
        for (index, network) in self.next.networks.iter().enumerate() {
            let change = members.remove(network.name.as_str());
            if !self.networks.new.contains(&index) && change.is_none() && !is_moved {
                continue;
            }
            let mut table = network_table(network, &uplink_ids, self.epoch);
            // With the same id it is the same network: ids are not given on in one step.
            let before = self.tables.networks.get(network.id.index()).and_then(Option::as_ref);
            if let Some(before) = before {
                table.members.clone_from(&before.members);
                table.by_mac.clone_from(&before.by_mac);
                table.by_address.clone_from(&before.by_address);
            }
            let before = before.map(|before| (&**before, before_models.get(&*network.name)));
            match before {
                Some((before, model)) if model.is_some() || is_moved => {
                    remove_trunks(&mut table, before, model.copied().unwrap_or(network));
                }
                Some((before, _)) => table.overlay.clone_from(&before.overlay),
                None => {}
            }
            if let Some(change) = change {
                change.apply(&mut table);
            }
            if is_moved || self.networks.new.contains(&index) {
                table.overlay = overlay_table(network, &uplink_ids);
                add_trunks(&mut table, network);
                table.members.sort_unstable();
            }
            share_at(&mut networks, &self.tables.networks, table);
        }
        trimmed(networks)
    }

    fn member_changes(&self) -> TableMap<&'c str, MemberChange> {
        let mut changes: TableMap<&str, MemberChange> = TableMap::default();
        for own in self.old_endpoints().flat_map(|endpoint| &endpoint.attachments) {
            changes.entry(&own.network).or_default().gone.push(member(own));
        }
        for own in self.new_endpoints().flat_map(|endpoint| &endpoint.attachments) {
            changes.entry(&own.network).or_default().new.push(member(own));
        }
        changes.retain(|_, change| {
            let MemberChange { gone, new } = change;
            gone.sort_unstable();
            new.sort_unstable();
            let stays = |member: &Member| gone.binary_search(member).is_ok();
            let kept: Vec<Member> = new.iter().copied().filter(stays).collect();
            let is_new = |member: &Member| kept.binary_search(member).is_err();
            gone.retain(is_new);
            new.retain(is_new);
            !gone.is_empty() || !new.is_empty()
        });
        changes
    }

    fn uplinks(&self) -> Vec<Option<Arc<tables::Uplink>>> {
        let mut uplinks = Vec::new();
        for uplink in &self.next.uplinks {
            share_at(
                &mut uplinks,
                &self.tables.uplinks,
                uplink_table(uplink, self.next, self.epoch),
            );
        }
        trimmed(uplinks)
    }

    fn publish(&self) -> Arc<tables::Publish> {
        let running = &self.tables.publish;
        let counts = |endpoints: &[Arc<Endpoint>]| -> usize {
            endpoints.iter().map(|endpoint| endpoint.publish.len()).sum()
        };
        let mut entries: Vec<PublishEntry> = Vec::new();
        for endpoint in self.new_endpoints() {
            let entry = |publish| publish_entry(endpoint, publish, &self.network_ids);
            entries.extend(endpoint.publish.iter().map(entry));
        }
        let range = &self.endpoints.old;
        let old_count = counts(&self.running.endpoints[range.clone()]);
        if old_count == 0 && entries.is_empty() {
            return running.clone();
        }
        let start = counts(&self.running.endpoints[..range.start]);
        let range = start..start + old_count;
        match running.entries()[range.clone()] == entries {
            true => running.clone(),
            false => Arc::new(running.spliced(self.epoch, range, entries)),
        }
    }

    /// Rules are few and name few: they are written anew each time.
    fn policy(&self) -> Arc<tables::Policy> {
        let (running, next) = (&self.tables.policy, self.next);
        if next.policy.is_empty() {
            return share_policy(Vec::new(), self.epoch, running);
        }
        let names = next.networks.iter().map(|network| (network.name.as_str(), network.id));
        share_policy(rules(next, &names.collect()), self.epoch, running)
    }

    fn routes(&self) -> Arc<Routes> {
        let running = &self.tables.routes;
        let (before, after) = (&self.running.uplinks, &self.next.uplinks);
        let is_same = before.iter().map(key_of).eq(after.iter().map(key_of));
        let spans = before.iter().zip(after).map(|(before, after)| {
            match Arc::ptr_eq(&before.routes, &after.routes) {
                true => 0,
                false => middle(&before.routes, &after.routes, |old, new| old == new).old.len(),
            }
        });
        // Which of two uplinks comes first matters where both have a route to one prefix.
        if !is_same || after.len() > 1 || spans.sum::<usize>() > running.count() / 4 {
            let all = after.iter().flat_map(routes_of).collect();
            let new = Routes::new(self.epoch, all);
            return if new.same_routes(running) { running.clone() } else { Arc::new(new) };
        }
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (before, after) in before.iter().zip(after) {
            if Arc::ptr_eq(&before.routes, &after.routes) {
                continue;
            }
            let span = middle(&before.routes, &after.routes, |old, new| old == new);
            let as_set: TableMap<IpNet, Option<IpAddr>> =
                after.routes[span.new.clone()].iter().map(|route| (route.to, route.via)).collect();
            let old = before.routes[span.old].iter();
            let mut kept = BTreeSet::new();
            for route in old {
                match as_set.get(&route.to) {
                    Some(via) if *via == route.via => drop(kept.insert(route.to)),
                    _ => gone.push(route.to),
                }
            }
            let added = after.routes[span.new].iter().filter(|route| !kept.contains(&route.to));
            new.extend(added.map(|route| Route { to: route.to, via: route.via, uplink: after.id }));
        }
        match gone.is_empty() && new.is_empty() {
            true => running.clone(),
            false => Arc::new(running.changed(self.epoch, &gone, &new)),
        }
    }
}

impl MemberChange {
    fn apply(&self, table: &mut tables::Network) {
        for (port, mac, ipv4, ipv6) in &self.gone {
            if let Ok(index) = table.members.binary_search(port) {
                table.members.remove(index);
            }
            table.by_mac.remove(mac);
            for address in [ipv4, ipv6].into_iter().flatten() {
                table.by_address.remove(address);
            }
        }
        table.members.extend(self.new.iter().map(|(port, ..)| *port));
        table.members.sort_unstable();
        for &(port, mac, ipv4, ipv6) in &self.new {
            table.by_mac.insert(mac, port);
            table.by_address.extend([ipv4, ipv6].into_iter().flatten().map(|own| (own, port)));
        }
    }
}

/// What tunnels by an uplink depend on.
fn links(config: &Config) -> impl Iterator<Item = (&str, UplinkId, u16)> {
    config.uplinks.iter().map(|uplink| (&*uplink.name, uplink.id, uplink.mtu))
}

/// What routes of an uplink depend on, besides its own list of them.
fn key_of(uplink: &Uplink) -> (UplinkId, &[IpNet], Option<&HostSide>) {
    (uplink.id, &uplink.addresses, uplink.host.as_ref())
}

/// Without free ids at the end, as a list that is built anew has none.
fn trimmed<T>(mut parts: Vec<Option<Arc<T>>>) -> Vec<Option<Arc<T>>> {
    let used = parts.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    parts.truncate(used);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// What a random config is made of.
    #[derive(Clone, Debug)]
    struct Plan {
        /// Per network: there at all, icc, MTU, internal.
        networks: Vec<(bool, bool, bool, bool)>,
        /// In this order: number, networks by bit, a MAC address of its own, published ports.
        endpoints: Vec<(u8, u8, bool, u8)>,
        /// Per network what it is where there is an uplink: a bridge, an overlay, or on the link.
        kinds: Vec<Kind>,
        /// There at all, with its second address, and its routes by (number, next hop).
        uplink: (bool, bool, Vec<(u8, bool)>),
        /// The uplink's MTU has fallen since the file was read.
        narrow: bool,
        timeout: bool,
    }

    #[derive(Clone, Debug)]
    enum Kind {
        Bridge,
        /// Peers by bit, remotes and routes by (number, tunnel end), a group.
        Overlay(u8, Vec<(u8, u8)>, Vec<(u8, u8)>, bool),
        /// With a VLAN or, the first network alone, as the untagged part of the link; that one by
        /// a trunk or routed.
        Link(bool, bool),
    }

    fn kind() -> impl Strategy<Value = Kind> {
        let pairs = || prop::collection::vec((0u8..8, 0u8..5), 0..6);
        prop_oneof![
            Just(Kind::Bridge),
            (0u8..32, pairs(), pairs(), any::<bool>()).prop_map(
                |(peers, remotes, routes, group)| { Kind::Overlay(peers, remotes, routes, group) }
            ),
            (any::<bool>(), any::<bool>())
                .prop_map(|(tagged, on_link)| Kind::Link(tagged, on_link)),
        ]
    }

    impl Kind {
        /// On an uplink's link without a way to the wire.
        fn is_routed(&self, number: usize) -> bool {
            number == 0 && matches!(self, Kind::Link(_, false))
        }

        /// What the file says of network `number` because of it.
        fn text(&self, number: usize) -> String {
            match self {
                Kind::Bridge => String::new(),
                Kind::Link(..) if self.is_routed(number) => {
                    "driver = \"ipvlan\"\nmode = \"l3\"\nparent = \"wan\"\n".to_owned()
                }
                Kind::Link(tagged, _) => {
                    let vlan = if *tagged || number > 0 {
                        format!(".{}", 100 + number)
                    } else {
                        "".into()
                    };
                    format!("driver = \"macvlan\"\nparent = \"wan{vlan}\"\n")
                }
                Kind::Overlay(peers, remotes, routes, group) => {
                    let vtep = |end: u8| format!("192.0.2.{}", 100 + end);
                    let mut text = format!("driver = \"overlay\"\nvni = {}\n", 100 + number);
                    let peers = (0..5u8).filter(|end| peers >> end & 1 == 1);
                    let peers: Vec<String> = peers.map(|end| format!("{:?}", vtep(end))).collect();
                    // An overlay leads to somebody.
                    let is_alone = peers.is_empty() && remotes.is_empty() && routes.is_empty();
                    if !peers.is_empty() || is_alone {
                        let all =
                            if is_alone { "\"192.0.2.100\"".into() } else { peers.join(", ") };
                        let _ = writeln!(text, "peers = [{all}]");
                        if *group {
                            text += "group = \"239.1.1.1\"\n";
                        }
                    }
                    text += "remote = [";
                    let mut seen = BTreeSet::new();
                    for (host, end) in remotes.iter().filter(|remote| seen.insert(remote.0)) {
                        // Some have the MAC address that an endpoint has in another step.
                        let (mac, vtep) =
                            (format!("02:00:00:00:{number:02x}:{host:02x}"), vtep(*end));
                        let ip = format!("10.{number}.0.{}", 100 + host);
                        let _ = write!(text, "{{ ip = {ip:?}, mac = {mac:?}, vtep = {vtep:?} }}, ");
                    }
                    text += "]\nroute = [";
                    let mut seen = BTreeSet::new();
                    for (net, end) in routes.iter().filter(|route| seen.insert(route.0)) {
                        let mac = format!("02:00:00:01:{number:02x}:{end:02x}");
                        let _ = write!(
                            text,
                            "{{ subnet = \"10.{}.{net}.0/24\", vtep_ip = \"44.0.{number}.{end}\", \
                             vtep_mac = {mac:?}, host = {:?} }}, ",
                            100 + number,
                            vtep(*end)
                        );
                    }
                    text + "]\n"
                }
            }
        }
    }

    fn plan() -> impl Strategy<Value = Plan> {
        let networks = prop::collection::vec(any::<(bool, bool, bool, bool)>(), 4);
        let endpoints = prop::collection::vec((0u8..12, any::<u8>(), any::<bool>(), 0u8..4), 0..12);
        let routes = prop::collection::vec((0u8..40, any::<bool>()), 0..40);
        let uplink = (any::<bool>(), any::<bool>(), routes);
        let kinds = prop::collection::vec(kind(), 4);
        (networks, kinds, endpoints, uplink, any::<(bool, bool)>()).prop_map(
            |(networks, kinds, endpoints, uplink, (narrow, timeout))| {
                let mut plan = Plan { networks, endpoints, kinds, uplink, narrow, timeout };
                plan.make_valid();
                plan
            },
        )
    }

    impl Plan {
        /// What no config may have: one MAC address twice in a network.
        fn make_valid(&mut self) {
            for (network, kind) in self.kinds.iter_mut().enumerate() {
                let Kind::Overlay(_, remotes, ..) = kind else { continue };
                let is_member = |host: u8| {
                    self.endpoints.iter().any(|(number, bits, has_mac, _)| {
                        *number == host && *has_mac && bits >> network & 1 == 1
                    })
                };
                remotes.retain(|(host, _)| !is_member(*host));
            }
        }

        fn text(&self) -> String {
            let mut text = String::new();
            let (is_uplink, second, routes) = &self.uplink;
            if *is_uplink {
                let second = if *second { ", \"198.18.0.10/24\"" } else { "" };
                let _ = write!(
                    text,
                    "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\n\
                     addresses = [\"192.0.2.10/24\"{second}]\ngateway = \"192.0.2.1\"\nroutes = [",
                );
                let mut seen = BTreeSet::new();
                for (number, other) in routes.iter().filter(|route| seen.insert(route.0)) {
                    let via = if *other { 7 } else { 8 };
                    let to = format!("203.0.{number}.0/24");
                    let _ = write!(text, "{{ to = \"{to}\", via = \"192.0.2.{via}\" }}, ");
                }
                text += "]\n";
            }
            for (number, (is_there, icc, small, internal)) in self.networks.iter().enumerate() {
                if *is_there {
                    let kind = if *is_uplink { &self.kinds[number] } else { &Kind::Bridge };
                    let _ = write!(text, "[network.n{number}]\nsubnet = \"10.{number}.0.0/24\"\n");
                    text += &kind.text(number);
                    if !matches!(kind, Kind::Link(..)) {
                        let mtu = if *small || *is_uplink { 1_400 } else { 1_500 };
                        let _ = write!(text, "icc = {icc}\nmtu = {mtu}\ninternal = {internal}\n");
                    }
                }
            }
            let mut seen = BTreeSet::new();
            for endpoint in self.endpoints.iter().filter(|endpoint| seen.insert(endpoint.0)) {
                self.endpoint(endpoint, &mut text);
            }
            if self.timeout {
                text += "[nat]\ntimeouts = { udp = \"200s\" }\n";
            }
            text
        }

        fn endpoint(&self, endpoint: &(u8, u8, bool, u8), text: &mut String) {
            let (number, bits, has_mac, publish) = *endpoint;
            let own = (0..4u8).filter(|network| bits >> network & 1 == 1);
            let own: Vec<u8> = own.filter(|&own| self.networks[usize::from(own)].0).collect();
            if own.is_empty() {
                return;
            }
            let _ = write!(
                text,
                "[endpoint.e{number}]\nattach = {{ netns = \"e{number}\", create = true }}\n"
            );
            let is_link = |own: u8| matches!(self.kinds[usize::from(own)], Kind::Link(..));
            let can_publish = self.uplink.0
                && own.iter().any(|&own| !self.networks[usize::from(own)].3 && !is_link(own));
            let ports = (0..publish)
                .map(|port| format!("\"{}:80\"", 1_000 + 10 * u16::from(number) + u16::from(port)));
            if can_publish {
                let _ = writeln!(text, "publish = [{}]", ports.collect::<Vec<_>>().join(", "));
            }
            text.push_str("network = [");
            for network in own {
                let has_own =
                    !self.uplink.0 || !self.kinds[usize::from(network)].is_routed(network.into());
                let mac = match has_mac && has_own {
                    true => format!(", mac = \"02:00:00:00:{network:02x}:{number:02x}\""),
                    false => String::new(),
                };
                let host = 10 + number;
                let _ = write!(
                    text,
                    "{{ name = \"n{network}\", ip = \"10.{network}.0.{host}\"{mac} }}, "
                );
            }
            text.push_str("]\n");
        }
    }

    fn parse(plan: &Plan) -> Config {
        let text = plan.text();
        let config = Config::parse("test.toml", &text);
        let mut config = config.unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        config.uplinks.iter_mut().filter(|_| plan.narrow).for_each(|uplink| uplink.mtu = 1_420);
        config
    }

    /// Where each part of a snapshot is: equal pointers mean shared parts.
    fn assert_same(new: &Tables, whole: &Tables, running: &Tables) {
        fn same<T: PartialEq + std::fmt::Debug>([new, whole, running]: [&[Option<Arc<T>>]; 3]) {
            assert_eq!(new, whole);
            for (index, (new, whole)) in new.iter().zip(whole).enumerate() {
                let (Some(new), Some(whole)) = (new, whole) else { continue };
                let running = running.get(index).and_then(Option::as_ref);
                let shares = |part| running.is_some_and(|running| Arc::ptr_eq(running, part));
                assert_eq!(shares(new), shares(whole), "{new:?}");
            }
        }
        same([&new.ports, &whole.ports, &running.ports]);
        same([&new.networks, &whole.networks, &running.networks]);
        same([&new.uplinks, &whole.uplinks, &running.uplinks]);
        assert_eq!((new.generation, new.plan), (whole.generation, whole.plan));
        assert_eq!(new.publish.entries(), whole.publish.entries());
        assert_eq!(new.publish.epoch, whole.publish.epoch);
        assert_eq!(new.publish.epochs(), whole.publish.epochs());
        assert_eq!(new.routes.epoch, whole.routes.epoch);
        assert!(new.routes.same_routes(&whole.routes) && whole.routes.same_routes(&new.routes));
        assert_eq!(new.nat, whole.nat);
    }

    /// Both ways from one config to the next; the shorter one is what is gone on with.
    fn step(running: &Config, tables: &Tables, mut next: Config) -> (Config, Tables) {
        let whole = compile(&next, Some(tables));
        let mut adopted = next.clone();
        adopted.adopt_ids(tables);
        let new = recompile(running, tables, &mut next);
        assert_same(&new, &whole, tables);
        assert_eq!(next.endpoints, adopted.endpoints);
        assert_eq!(next.networks, adopted.networks);
        assert_eq!(next.uplinks, adopted.uplinks);
        (next, new)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn from_any_config_to_any_other_both_ways_meet(
            plans in prop::collection::vec(plan(), 2..5),
        ) {
            let mut running = parse(&plans[0]);
            let mut tables = compile(&running, None);
            for plan in &plans[1..] {
                (running, tables) = step(&running, &tables, parse(plan));
            }
        }

        #[test]
        fn after_small_edits_of_one_config_both_ways_meet(
            first in plan(),
            edits in prop::collection::vec((0u8..10, 0u8..12, any::<u8>(), kind()), 1..8),
            is_edited in any::<bool>(),
        ) {
            let mut plan = first;
            let mut running = parse(&plan);
            let mut tables = compile(&running, None);
            for (kind, which, bits, new_kind) in edits {
                let index = usize::from(which);
                match kind {
                    7 => plan.kinds[index % 4] = new_kind.clone(),
                    8 => plan.narrow ^= true,
                    9 => match &mut plan.kinds[index % 4] {
                        Kind::Overlay(peers, remotes, routes, _) => match bits % 3 {
                            0 => *peers ^= 1 << (which % 5),
                            1 => remotes.push((bits % 8, which % 5)),
                            _ => routes.insert(0, (bits % 8, which % 5)),
                        },
                        other => *other = Kind::Link(true, bits % 2 == 0),
                    },
                    0 => plan.networks[index % 4].0 ^= true,
                    1 => plan.networks[index % 4].1 ^= true,
                    2 => {
                        let place = index % (plan.endpoints.len() + 1);
                        plan.endpoints.insert(place, (which, bits, false, bits % 4));
                    }
                    3 if !plan.endpoints.is_empty() => {
                        plan.endpoints.remove(index % plan.endpoints.len());
                    }
                    4 if !plan.endpoints.is_empty() => {
                        let len = plan.endpoints.len();
                        plan.endpoints[index % len].3 = bits % 4;
                    }
                    5 => plan.uplink.2.insert(0, (which, bits % 2 == 0)),
                    _ => plan.timeout ^= true,
                }
                plan.make_valid();
                let mut next = parse(&plan);
                if is_edited {
                    share(&running, &mut next);
                }
                (running, tables) = step(&running, &tables, next);
            }
        }
    }

    /// Makes a config that was read look like one that was edited: equal parts are shared.
    fn share(running: &Config, next: &mut Config) {
        for endpoint in &mut next.endpoints {
            let own = running.endpoints.iter().find(|own| own.name == endpoint.name);
            if let Some(own) = own {
                let mut same = endpoint.clone();
                let attachments = &mut Arc::make_mut(&mut same).attachments;
                for (own, other) in attachments.iter_mut().zip(&own.attachments) {
                    own.port = other.port;
                }
                if same == *own {
                    *endpoint = own.clone();
                }
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_shared_by_the_next_config_too() {
        let plan = Plan {
            networks: vec![(true, true, false, false); 4],
            endpoints: vec![(0, 15, false, 3), (1, 3, false, 1), (2, 1, true, 0)],
            kinds: vec![Kind::Bridge; 4],
            uplink: (true, true, vec![(1, true), (2, false)]),
            narrow: false,
            timeout: false,
        };
        let running = parse(&plan);
        let tables = compile(&running, None);
        let mut plan = plan;
        plan.endpoints[1].3 = 2;
        let mut next = parse(&plan);
        let new = recompile(&running, &tables, &mut next);
        let shared = |index: usize| Arc::ptr_eq(&running.endpoints[index], &next.endpoints[index]);
        assert_eq!([shared(0), shared(1), shared(2)], [true, false, true]);
        assert!(Arc::ptr_eq(&running.uplinks[0].routes, &next.uplinks[0].routes));
        assert!(Arc::ptr_eq(&new.routes, &tables.routes));
        assert!(!Arc::ptr_eq(&new.publish, &tables.publish));
    }
}
