//! Addresses of a CNI network: `host-local` and `static`.

use std::net::IpAddr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use super::super::tree::Node;
use crate::report::{PlaceId, Report};

const HOST_LOCAL: [&str; 9] = [
    "type",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "routes",
    "resolvConf",
    "dataDir",
];
const RANGE: [&str; 4] = ["subnet", "rangeStart", "rangeEnd", "gateway"];
const STATIC: [&str; 4] = ["type", "addresses", "routes", "dns"];

/// Most ranges of a network: each is compared with each.
const RANGE_COUNT_MAX: usize = 1_000;

/// Which addresses there are.
#[derive(Debug, Default)]
pub(super) struct Ipam {
    /// The key `ipam`, if it is there.
    pub(super) at: Option<PlaceId>,
    pub(super) kind: String,
    /// Ranges of all sets; those of a set are alternatives.
    pub(super) ranges: Vec<Range>,
    /// How many of the ranges are alternatives to others.
    pub(super) alternative_count: usize,
    pub(super) routes: Vec<Route>,
}

/// A part of a subnet.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) at: PlaceId,
    pub(super) subnet: IpNet,
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) gateway: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) at: PlaceId,
    pub(super) to: IpNet,
}

impl Ipam {
    /// Reads the IPAM of a plugin. `None`: it is wrong, which has been reported.
    pub(super) fn read(plugin: &Node, version: &str, report: &mut Report) -> Option<Ipam> {
        let Some(node) = plugin.get("ipam") else { return Some(Ipam::default()) };
        node.map(report)?;
        if node.entries().is_empty() {
            return Some(Ipam::default());
        }
        let before = report.error_count();
        let mut ipam = Ipam { at: Some(node.at), ..Ipam::default() };
        match node.text_at("type", report).unwrap_or_default() {
            "" => {
                report.error(node.at, "no IPAM type: type is missing");
            }
            "host-local" => {
                node.warn_unknown(&HOST_LOCAL, report);
                ipam.host_local(node, report);
            }
            "static" => {
                node.warn_unknown(&STATIC, report);
                ipam.fixed(node, report);
            }
            other => {
                let at = node.get("type").map_or(node.at, |kind| kind.at);
                report.warning(at, format!("IPAM {other:?} is not known here"));
            }
        }
        ipam.kind = node.get("type").and_then(Node::as_text).unwrap_or_default().to_owned();
        ipam.routes(node, report);
        ipam.check_version(version, node.at, report);
        (report.error_count() == before).then_some(ipam)
    }

    fn host_local(&mut self, node: &Node, report: &mut Report) {
        let mut sets: Vec<Vec<Range>> = Vec::new();
        if node.get("subnet").is_some() {
            sets.push(Range::read(node, report).into_iter().collect());
        }
        for (index, set) in node.list_at("ranges", report).unwrap_or_default().iter().enumerate() {
            let mut ranges: Vec<Range> = Vec::new();
            for range in set.list(report).unwrap_or_default() {
                if range.map(report).is_none() {
                    continue;
                }
                range.warn_unknown(&RANGE, report);
                ranges.extend(Range::read(range, report));
            }
            if ranges.len() <= RANGE_COUNT_MAX {
                check_set(index, &ranges, report);
            }
            sets.push(ranges);
        }
        if sets.is_empty() {
            report.error(node.at, "no IP ranges specified");
        }
        let count: usize = sets.iter().map(Vec::len).sum();
        if count > RANGE_COUNT_MAX {
            report.error(node.at, format!("{count} ranges are too many, {RANGE_COUNT_MAX} go"));
            return;
        }
        for (index, set) in sets.iter().enumerate() {
            for (other_index, other) in sets[..index].iter().enumerate() {
                let overlaps = |a: &Range| other.iter().any(|b| a.overlaps(b));
                if let Some(range) = set.iter().find(|range| overlaps(range)) {
                    let message = format!("range set {index} overlaps with {other_index}");
                    report.error(range.at, message);
                }
            }
        }
        self.alternative_count = sets.iter().map(|set| set.len().saturating_sub(1)).sum();
        self.ranges = sets.into_iter().flatten().collect();
    }

    fn fixed(&mut self, node: &Node, report: &mut Report) {
        for address in node.list_at("addresses", report).unwrap_or_default() {
            if address.map(report).is_none() {
                continue;
            }
            let Some(given) = address.get("address") else {
                report.error(address.at, "address is missing");
                continue;
            };
            let Some(net) = prefix(given, report) else { continue };
            let gateway = address.get("gateway").and_then(|node| ip(node, report));
            let (subnet, at) = (net.trunc(), given.at);
            let (first, last) = (net.addr(), net.addr());
            self.ranges.push(Range { at, subnet, first, last, gateway });
        }
    }

    fn routes(&mut self, node: &Node, report: &mut Report) {
        for route in node.list_at("routes", report).unwrap_or_default() {
            if route.map(report).is_none() {
                continue;
            }
            let Some(to) = route.get("dst") else {
                report.error(route.at, "dst is missing");
                continue;
            };
            if let Some(gateway) = route.get("gw") {
                ip(gateway, report);
            }
            if let Some(net) = prefix(to, report) {
                self.routes.push(Route { at: to.at, to: net });
            }
        }
    }

    /// Results up to 0.2.0 have room for one address of each family.
    fn check_version(&self, version: &str, at: PlaceId, report: &mut Report) {
        let sets = self.ranges.len() - self.alternative_count;
        let of_v4 = self.ranges.iter().filter(|range| range.subnet.addr().is_ipv4()).count();
        let of_v6 = self.ranges.len() - of_v4;
        let is_more = sets == self.ranges.len() && (of_v4 > 1 || of_v6 > 1);
        if version < "0.3.0" && is_more {
            let message =
                format!("CNI version {version} does not support more than 1 address per family");
            report.error(at, message);
        }
    }
}

/// The ranges of a set are of one family and apart from each other.
fn check_set(index: usize, ranges: &[Range], report: &mut Report) {
    for (position, range) in ranges.iter().enumerate() {
        for other in &ranges[..position] {
            if range.subnet.addr().is_ipv4() != other.subnet.addr().is_ipv4() {
                let message = format!("invalid range set {index}: mixed address families");
                report.error(range.at, message);
                return;
            }
            if range.overlaps(other) {
                let message = format!(
                    "invalid range set {index}: subnets {}-{} and {}-{} overlap",
                    other.first, other.last, range.first, range.last
                );
                report.error(range.at, message);
                return;
            }
        }
    }
}

fn prefix(node: &Node, report: &mut Report) -> Option<IpNet> {
    let text = node.text(report)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        report.error(node.at, format!("invalid CIDR address: {text}"));
    }
    parsed
}

fn ip(node: &Node, report: &mut Report) -> Option<IpAddr> {
    let text = node.text(report)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        report.error(node.at, format!("invalid IP address: {text}"));
    }
    parsed
}

impl Range {
    fn read(node: &Node, report: &mut Report) -> Option<Range> {
        let Some(given) = node.get("subnet") else {
            report.error(node.at, "subnet is missing");
            return None;
        };
        let Some(subnet) = prefix(given, report) else {
            for key in ["rangeStart", "rangeEnd", "gateway"] {
                node.get(key).and_then(|node| ip(node, report));
            }
            return None;
        };
        let (at, len) = (given.at, subnet.prefix_len());
        if len + 1 >= subnet.max_prefix_len() {
            report.error(at, format!("Network {subnet} too small to allocate from"));
            return None;
        }
        if subnet.addr() != subnet.network() {
            let network = subnet.network();
            report.error(
                at,
                format!(
                    "Network has host bits set. For a subnet mask of length {len} the network \
                     address is {network}"
                ),
            );
            return None;
        }
        let mut within = |key: &str, name: &str, default: IpAddr| {
            let Some(node) = node.get(key) else { return Some(default) };
            let address = ip(node, report)?;
            if !subnet.contains(&address) {
                report.error(node.at, format!("{name} {address} not in network {subnet}"));
                return None;
            }
            Some(address)
        };
        let first = within("rangeStart", "RangeStart", usable(subnet, true));
        let last = within("rangeEnd", "RangeEnd", usable(subnet, false));
        let gateway = node.get("gateway").and_then(|node| ip(node, report));
        let (first, last) = (first?, last?);
        if first > last {
            report.error(at, format!("RangeStart {first} is after RangeEnd {last}"));
            return None;
        }
        Some(Range { at, subnet, first, last, gateway })
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The gateway where none is given, wherever the range begins.
    pub(super) fn gateway_default(&self) -> IpAddr {
        usable(self.subnet, true)
    }

    /// The parts of the subnet that are not in the range, as prefixes.
    pub(super) fn rest(&self) -> Vec<IpNet> {
        let mut rest = Vec::new();
        if self.first > usable(self.subnet, true) {
            rest.extend(between(self.subnet.network(), before(self.first)));
        }
        if self.last < usable(self.subnet, false) {
            rest.extend(between(after(self.last), self.subnet.broadcast()));
        }
        rest
    }
}

/// The first or last address of a subnet that a station can have.
fn usable(subnet: IpNet, is_first: bool) -> IpAddr {
    match (is_first, subnet.addr().is_ipv4()) {
        (true, _) => after(subnet.network()),
        (false, true) => before(subnet.broadcast()),
        (false, false) => subnet.broadcast(),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).saturating_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).saturating_add(1).into()),
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).saturating_sub(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).saturating_sub(1).into()),
    }
}

/// The fewest prefixes that are these addresses.
fn between(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    let subnets = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)),
        _ => return Vec::new(),
    };
    subnets.collect()
}
