//! Writes what a file of another dialect comes to as a native config.
//!
//! The text is for people to go on with: it says what each part comes from, and leaves open what
//! the file left open, so addresses are still allocated. The one hard constraint: the checker has
//! taken the same tables that are written, so whatever comes out here is a config, and what the
//! checker refuses is shown where it stands in the file.

use std::collections::HashSet;
use std::fmt::{Display, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use toml::Value;

use super::Dialect;
use super::fragment::{self, Fragment, list};
use super::settings::Settings;
use crate::check;
use crate::leases::Leases;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema::{self, Document};
use crate::values::{Address, WordOrList};

/// The uplink of a config whose file knows none. The addresses are those of documentation
/// (RFC 5737), so that nobody's network is meant.
const UPLINK: &str = "wan";
const UPLINK_INTERFACE: &str = "wan0";
const UPLINK_ADDRESS: &str = "192.0.2.10/24";
const UPLINK_HOST_ADDRESS: &str = "192.0.2.1/24";
const UPLINK_GATEWAY: &str = "192.0.2.1";

/// The native config that a fragment is. `None`: it is refused, which has been reported.
pub(crate) fn write(
    from: Dialect,
    file_name: &str,
    fragment: Fragment,
    settings: &Settings,
    report: &mut Report,
) -> Option<String> {
    let mut text = Text(String::new());
    text.comment(&format!("From {file_name} ({}) by portolan convert.", from.name()));
    for line in &fragment.summary {
        text.comment(line);
    }
    let publishes = |part: &fragment::Part<schema::Endpoint>| !part.table.publish.is_absent();
    let tunnels = |part: &fragment::Part<schema::Network>| !part.table.vni.is_absent();
    let has_tunnels = fragment.networks.iter().any(tunnels);
    let mut document = Document::default();
    let mut uplinks = Vec::new();
    if fragment.lacks_parent || has_tunnels || fragment.endpoints.iter().any(publishes) {
        let uplink = Way::new(&fragment, settings).uplink(settings, report)?;
        text.uplink(UPLINK, &uplink);
        uplinks.push((fragment::text(PlaceId::ROOT, UPLINK), Field::Given(PlaceId::ROOT, uplink)));
        if settings.text("uplink_address").is_none() {
            say_example(fragment.underlay.filter(|_| has_tunnels), has_tunnels, report);
        }
    }
    // The settings are about the only uplink that there is.
    let is_only = uplinks.is_empty() && fragment.parents.len() == 1;
    let own = is_only.then_some(settings);
    for (device, &at) in &fragment.parents {
        let uplink = parent(device, at, own, report)?;
        text.uplink(device, &uplink);
        uplinks.push((fragment::text(at, device), Field::Given(at, uplink)));
    }
    if !uplinks.is_empty() {
        document.uplink = Field::Given(PlaceId::ROOT, Named(uplinks));
    }
    say_unrouted(&fragment, &document, report);
    for part in &fragment.networks {
        text.network(&part.name, &part.comment, &part.table);
    }
    for (name, joined) in &fragment.joined {
        let is_defined = fragment.networks.iter().any(|part| part.name == *name);
        if !is_defined && !matches!(name.as_str(), "host" | "none") {
            text.network(name, &joined.comment, &schema::Network::default());
            if !joined.is_implied {
                let message = format!("network {name} is not in this file: it gets a free subnet");
                report.warning(joined.at, message);
            }
        }
    }
    for part in &fragment.endpoints {
        text.endpoint(&part.name, &part.comment, &part.table);
    }
    fragment.add_to(&mut document, |_| true, report);
    check::check(&document, &Leases::default(), report);
    (!report.has_errors()).then_some(text.0)
}

/// Says what of the uplink is made up. `underlay`: our end of the tunnels, and where that is said.
fn say_example(underlay: Option<(IpAddr, PlaceId)>, has_tunnels: bool, report: &mut Report) {
    let example = "the uplink is an example";
    let (at, message) = match underlay {
        Some((own, at)) => {
            let what = "the uplink's prefix and its neighbour are examples";
            (at, format!("the file does not say what link {own} is on: {what}"))
        }
        None => {
            let what = if has_tunnels { "tunnels end here" } else { "ports are published" };
            (PlaceId::ROOT, format!("the file does not say where {what}: {example}"))
        }
    };
    let problem = report.warning(at, message);
    problem
        .hint("set uplink_address, uplink_host_address and uplink_gateway, or edit [uplink.wan]");
}

/// The defaults of the uplink.
struct Way {
    own: String,
    host: String,
    gateway: String,
    /// The tunnels' own end, which is one of the uplink's addresses.
    underlay: Option<IpAddr>,
}

impl Way {
    fn new(fragment: &Fragment, settings: &Settings) -> Way {
        let underlay = fragment.underlay.map(|(own, _)| own);
        let example = Way {
            own: UPLINK_ADDRESS.to_owned(),
            host: UPLINK_HOST_ADDRESS.to_owned(),
            gateway: match settings.text("uplink_address") {
                Some(_) => String::new(),
                None => UPLINK_GATEWAY.to_owned(),
            },
            underlay,
        };
        let Some(own) = underlay.filter(|_| settings.text("uplink_address").is_none()) else {
            return example;
        };
        let link = IpNet::new(own, if own.is_ipv4() { 24 } else { 64 }).expect("a length it has");
        let taken = ends(fragment);
        let usable = |host: &IpAddr| *host != own && *host != link.network();
        let free = link.hosts().find(|host| usable(host) && !taken.contains(host));
        let Some(free) = free else { return example };
        Way {
            own: link.to_string(),
            host: format!("{free}/{}", link.prefix_len()),
            gateway: free.to_string(),
            underlay,
        }
    }

    fn uplink(&self, settings: &Settings, report: &mut Report) -> Option<schema::Uplink> {
        let mut of = |key: &str, default: &str| {
            let (written, at) = settings.text(key).unwrap_or((default, PlaceId::ROOT));
            Some((prefix(written, at, report)?, at))
        };
        let (own, own_at) = of("uplink_address", &self.own)?;
        let (host, host_at) = of("uplink_host_address", &self.host)?;
        if let Some(end) = self.underlay.filter(|end| *end != own.addr()) {
            report.error(own_at, format!("tunnels end here at {end}, by what the file says"));
        }
        let [gateway, gateway6] = gateways(Some(settings), &self.gateway, report)?;
        let interface = settings.text_or("uplink_interface", UPLINK_INTERFACE);
        Some(schema::Uplink {
            driver: fragment::text(PlaceId::ROOT, "tap"),
            interface: fragment::text(PlaceId::ROOT, interface),
            addresses: Field::Given(
                PlaceId::ROOT,
                WordOrList::List(vec![fragment::prefix(own_at, own)]),
            ),
            host_addresses: list(vec![fragment::prefix(host_at, host)]),
            gateway,
            gateway6,
            ..schema::Uplink::default()
        })
    }
}

/// Tunnel ends on other machines.
fn ends(fragment: &Fragment) -> HashSet<IpAddr> {
    let mut ends = HashSet::new();
    for part in &fragment.networks {
        let peers = part.table.peers.value().into_iter().flatten().filter_map(Field::value);
        ends.extend(peers.map(|peer| peer.0));
        let routes = part.table.route.value().into_iter().flatten().filter_map(Field::value);
        let remotes = part.table.remote.value().into_iter().flatten().filter_map(Field::value);
        ends.extend(remotes.filter_map(|remote| remote.vtep.value()).map(|vtep| vtep.0));
        ends.extend(routes.filter_map(|route| route.host.value()).map(|host| host.0));
    }
    ends
}

/// The uplink whose link networks are on: the device that the file names, with an address of the
/// gateway's if a setting gives it one.
fn parent(
    device: &str,
    at: PlaceId,
    settings: Option<&Settings>,
    report: &mut Report,
) -> Option<schema::Uplink> {
    let message = format!("whatever comes by {device} is the gateway's alone here");
    let problem = report.warning(at, message);
    problem.hint("a device that the host uses too: make the uplink a TAP (driver = \"tap\")");
    let own = settings.and_then(|settings| settings.text("uplink_address"));
    let own = match own {
        Some((written, own_at)) => {
            vec![fragment::prefix(own_at, prefix(written, own_at, report)?)]
        }
        None => Vec::new(),
    };
    let [gateway, gateway6] = gateways(settings, "", report)?;
    Some(schema::Uplink {
        driver: fragment::text(at, "xdp"),
        interface: fragment::text(at, device),
        addresses: Field::Given(at, WordOrList::List(own)),
        gateway,
        gateway6,
        ..schema::Uplink::default()
    })
}

fn prefix(written: &str, at: PlaceId, report: &mut Report) -> Option<IpNet> {
    let parsed = written.parse().ok();
    if parsed.is_none() {
        report.error(at, format!("{written:?} is no address with its prefix length"));
    }
    parsed
}

/// The next hops of the default routes of either family, of which one is given at most.
fn gateways(
    settings: Option<&Settings>,
    default: &str,
    report: &mut Report,
) -> Option<[Field<Address>; 2]> {
    let given = settings.and_then(|settings| settings.text("uplink_gateway"));
    let (written, at) = given.unwrap_or((default, PlaceId::ROOT));
    if written.is_empty() {
        return Some([Field::Absent, Field::Absent]);
    }
    let Ok(gateway) = written.parse::<IpAddr>() else {
        report.error(at, format!("{written:?} is no address"));
        return None;
    };
    let gateway = fragment::address(at, gateway);
    Some(match gateway.value().is_some_and(|gateway| gateway.0.is_ipv6()) {
        true => [Field::Absent, gateway],
        false => [gateway, Field::Absent],
    })
}

/// Networks that are routed to by an address of the gateway's, which it has not.
fn say_unrouted(fragment: &Fragment, document: &Document, report: &mut Report) {
    let uplinks = document.uplink.value().into_iter().flat_map(|Named(uplinks)| uplinks);
    let lacks = |uplink: &schema::Uplink| match uplink.addresses.value() {
        Some(WordOrList::List(own)) => own.is_empty(),
        _ => false,
    };
    let lacking: Vec<&str> = uplinks
        .filter(|(_, uplink)| uplink.value().is_some_and(lacks))
        .filter_map(|(name, _)| name.value().map(String::as_str))
        .collect();
    for part in &fragment.networks {
        let is_routed = matches!(part.table.mode.value().map(String::as_str), Some("l3" | "l3s"));
        let parent = part.table.parent.value().filter(|parent| lacking.contains(&parent.as_str()));
        if let Some(parent) = parent.filter(|_| is_routed) {
            let name = &part.name;
            let message = format!("network {name} is routed to by an address on {parent}");
            let problem = report.warning(part.at, message);
            problem.hint("the file does not say which: set uplink_address and uplink_gateway");
        }
    }
}

/// TOML while it is written.
struct Text(String);

impl Text {
    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes every line");
    }

    /// Comment lines. Text of the file may hold anything: it stays in its lines.
    fn comment(&mut self, comment: &str) {
        for line in comment.lines() {
            let shown: String = line.chars().filter(|c| !c.is_control()).collect();
            self.line(format_args!("# {shown}"));
        }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.line(format_args!("{key} = {}", value.into()));
    }

    fn set_text(&mut self, key: &str, field: &Field<String>) {
        if let Some(text) = field.value() {
            self.set(key, text.as_str());
        }
    }

    fn set_flag(&mut self, key: &str, field: &Field<bool>) {
        if let Some(flag) = field.value() {
            self.set(key, *flag);
        }
    }

    fn set_list<T>(&mut self, key: &str, field: &Field<Vec<Field<T>>>, show: fn(&T) -> String) {
        if let Some(items) = field.value() {
            let shown = items.iter().filter_map(Field::value).map(|item| Value::from(show(item)));
            self.set(key, Value::Array(shown.collect()));
        }
    }

    fn uplink(&mut self, name: &str, uplink: &schema::Uplink) {
        self.line("");
        self.comment(match uplink.host_addresses.is_absent() {
            false => "The file says nothing of the way out: put your own addresses here.",
            true => "The device that networks are on. The gateway needs no address there.",
        });
        self.line(format_args!("[uplink.{}]", key(name)));
        self.set_text("driver", &uplink.driver);
        self.set_text("interface", &uplink.interface);
        if let Some(WordOrList::List(addresses)) = uplink.addresses.value() {
            let shown = addresses.iter().filter_map(Field::value);
            let shown = shown.map(|prefix| Value::from(prefix.0.to_string()));
            self.set("addresses", Value::Array(shown.collect()));
        }
        self.set_list("host_addresses", &uplink.host_addresses, |one| one.0.to_string());
        for (key, field) in [("gateway", &uplink.gateway), ("gateway6", &uplink.gateway6)] {
            if let Some(gateway) = field.value() {
                self.set(key, gateway.0.to_string());
            }
        }
    }

    fn network(&mut self, name: &str, comment: &str, table: &schema::Network) {
        self.line("");
        self.comment(comment);
        self.line(format_args!("[network.{}]", key(name)));
        self.set_text("driver", &table.driver);
        self.set_list("subnets", &table.subnets, |one| one.0.to_string());
        self.set_flag("ipv4", &table.ipv4);
        self.set_flag("ipv6", &table.ipv6);
        self.set_list("gateways", &table.gateways, |one| one.0.to_string());
        self.set_list("ip_ranges", &table.ip_ranges, |one| one.0.to_string());
        self.set_list("reserved", &table.reserved, |one| match one.0.prefix_len() {
            len if len == one.0.max_prefix_len() => one.0.addr().to_string(),
            _ => one.0.to_string(),
        });
        if let Some(Named(aux)) = table.aux_addresses.value() {
            let shown = aux.iter().filter_map(|(name, address)| {
                Some((name.value()?.clone(), Value::from(address.value()?.0.to_string())))
            });
            self.set("aux_addresses", Value::Table(shown.collect()));
        }
        if let Some(mac) = table.gateway_mac.value() {
            self.set("gateway_mac", mac.0.to_string());
        }
        self.set_text("parent", &table.parent);
        self.set_text("flag", &table.flag);
        self.set_flag("internal", &table.internal);
        self.set_flag("icc", &table.icc);
        self.set_text("mode", &table.mode);
        self.set_flag("masquerade", &table.masquerade);
        self.set_text("mac_policy", &table.mac_policy);
        for (key, field) in [("mtu", &table.mtu), ("vni", &table.vni), ("port", &table.port)] {
            if let Some(number) = field.value() {
                self.set(key, number.0);
            }
        }
        self.set_list("peers", &table.peers, |one| one.0.to_string());
        self.remotes(&table.remote);
        self.routes(&table.route);
    }

    fn remotes(&mut self, remotes: &Field<Vec<Field<schema::Remote>>>) {
        let Some(remotes) = remotes.value() else { return };
        self.line("remote = [");
        for remote in remotes.iter().filter_map(Field::value) {
            let given = (remote.ip.value(), remote.mac.value(), remote.vtep.value());
            if let (Some(ip), Some(mac), Some(vtep)) = given {
                self.line(format_args!(
                    "  {{ ip = \"{}\", mac = \"{}\", vtep = \"{}\" }},",
                    ip.0, mac.0, vtep.0
                ));
            }
        }
        self.line("]");
    }

    /// One line a route: there may be thousands.
    fn routes(&mut self, routes: &Field<Vec<Field<schema::OverlayRoute>>>) {
        let Some(routes) = routes.value() else { return };
        self.line("route = [");
        for route in routes.iter().filter_map(Field::value) {
            let given = (
                route.subnet.value(),
                route.vtep_ip.value(),
                route.vtep_mac.value(),
                route.host.value(),
            );
            if let (Some(subnet), Some(end), Some(mac), Some(host)) = given {
                self.line(format_args!(
                    "  {{ subnet = \"{}\", vtep_ip = \"{}\", vtep_mac = \"{}\", host = \"{}\" }},",
                    subnet.0, end.0, mac.0, host.0
                ));
            }
        }
        self.line("]");
    }

    fn endpoint(&mut self, name: &str, comment: &str, table: &schema::Endpoint) {
        self.line("");
        self.comment(comment);
        self.line(format_args!("[endpoint.{}]", key(name)));
        if let Some(attach) = table.attach.value() {
            let mut keys = Vec::new();
            if let Some(netns) = attach.netns.value() {
                keys.push(format!("netns = {}", Value::from(netns.as_str())));
            }
            if let Some(interface) = attach.interface.value() {
                keys.push(format!("interface = {}", Value::from(interface.as_str())));
            }
            if let Some(create) = attach.create.value() {
                keys.push(format!("create = {create}"));
            }
            self.line(format_args!("attach = {{ {} }}", keys.join(", ")));
        }
        self.set_list("publish", &table.publish, String::clone);
        for member in table.network.value().into_iter().flatten().filter_map(Field::value) {
            self.member(name, member);
        }
    }

    fn member(&mut self, endpoint: &str, table: &schema::EndpointNetwork) {
        self.line(format_args!("[[endpoint.{}.network]]", key(endpoint)));
        self.set_text("name", &table.name);
        for (key, field) in [("ip", &table.ip), ("ip6", &table.ip6)] {
            if let Some(address) = field.value() {
                self.set(key, address.0.to_string());
            }
        }
        if let Some(mac) = table.mac.value() {
            self.set("mac", mac.0.to_string());
        }
        self.set_text("interface", &table.interface);
        self.set_list("aliases", &table.aliases, String::clone);
        if let Some(priority) = table.gw_priority.value() {
            self.set("gw_priority", priority.0);
        }
    }
}

/// A name as a key.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) {
        return name.to_owned();
    }
    Value::from(name).to_string()
}
