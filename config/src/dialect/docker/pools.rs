//! The IPAM configuration of a network: subnets, ranges, gateways, auxiliary addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::tree::Node;
use crate::report::{PlaceId, Report};

/// Most subnets of a network: each is compared with each.
const POOL_COUNT_MAX: usize = 1_000;

/// What the keys of an IPAM configuration are called.
pub(super) struct Keys {
    pub(super) config: &'static str,
    pub(super) subnet: &'static str,
    pub(super) range: &'static str,
    pub(super) gateway: &'static str,
    pub(super) aux: [&'static str; 2],
}

/// What `docker network inspect` calls them.
pub(super) const INSPECT: Keys = Keys {
    config: "Config",
    subnet: "Subnet",
    range: "IPRange",
    gateway: "Gateway",
    aux: ["AuxiliaryAddresses", "AuxAddress"],
};

/// What a Compose file calls them.
pub(super) const COMPOSE: Keys = Keys {
    config: "config",
    subnet: "subnet",
    range: "ip_range",
    gateway: "gateway",
    aux: ["aux_addresses", "aux_addresses"],
};

/// One subnet of a network.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) at: PlaceId,
    pub(super) subnet: IpNet,
    pub(super) range: Option<(IpNet, PlaceId)>,
    pub(super) gateway: Option<(IpAddr, PlaceId)>,
    pub(super) aux: Vec<(String, IpAddr, PlaceId)>,
}

/// What gives addresses.
pub(super) fn driver(ipam: &Node, key: &str, report: &mut Report) -> Option<(String, PlaceId)> {
    let at = ipam.get(key)?.at;
    ipam.text_at(key, report).map(|driver| (driver.to_owned(), at))
}

/// Reads the pools of a network. Older daemons print a subnet with the bridge's address in it,
/// which `is_inspected` takes.
pub(super) fn read(ipam: &Node, keys: &Keys, is_inspected: bool, report: &mut Report) -> Vec<Pool> {
    let configs = ipam.list_at(keys.config, report).unwrap_or_default();
    if configs.len() > POOL_COUNT_MAX {
        let count = configs.len();
        report.error(ipam.at, format!("{count} subnets are too many, {POOL_COUNT_MAX} go"));
        return Vec::new();
    }
    let mut pools: Vec<Pool> = Vec::new();
    for config in configs {
        if config.map(report).is_none() {
            continue;
        }
        let known = [keys.subnet, keys.range, keys.gateway, keys.aux[0], keys.aux[1]];
        config.warn_unknown(&known, report);
        let Some(given) = config.get(keys.subnet) else {
            let has_more = config.get(keys.range).or(config.get(keys.gateway));
            if let Some(node) = has_more {
                let message = "every ip-range or gateway must have a corresponding subnet";
                report.error(node.at, message);
            }
            continue;
        };
        let Some(text) = given.text(report) else { continue };
        if text.is_empty() {
            continue;
        }
        let Ok(subnet) = text.parse::<IpNet>() else {
            report.error(given.at, format!("invalid subnet {text}: invalid CIDR block notation"));
            check_without_subnet(config, keys, report);
            continue;
        };
        let masked = subnet.trunc();
        if masked != subnet {
            let message = format!("invalid subnet {subnet}: it should be {masked}");
            match is_inspected {
                true => drop(report.warning(given.at, message)),
                false => drop(report.error(given.at, message)),
            }
        }
        if let Some(other) = pools.iter().find(|other| overlap(other.subnet, masked)) {
            let message = "multiple overlapping subnet configuration is not supported";
            report.error(given.at, message).related(other.at, "it overlaps this one");
            continue;
        }
        if let Some(message) = special(masked) {
            report.error(given.at, message);
            continue;
        }
        pools.push(Pool {
            at: given.at,
            subnet: masked,
            range: range(config.get(keys.range), masked, report),
            gateway: gateway(config.get(keys.gateway), masked, report),
            aux: aux(config, keys, masked, report),
        });
    }
    pools
}

/// What can be said of the other keys of a pool whose subnet is faulty.
fn check_without_subnet(config: &Node, keys: &Keys, report: &mut Report) {
    let everything = |node: &Node| match node.as_text().is_some_and(|text| text.contains(':')) {
        true => IpNet::V6(ipnet::Ipv6Net::default()),
        false => IpNet::V4(ipnet::Ipv4Net::default()),
    };
    for (key, is_range) in [(keys.range, true), (keys.gateway, false)] {
        let Some(node) = config.get(key) else { continue };
        let subnet = everything(node);
        match is_range {
            true => drop(range(Some(node), subnet, report)),
            false => drop(gateway(Some(node), subnet, report)),
        }
    }
}

/// True if the prefixes have addresses in common.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Why a subnet is none that containers can have.
fn special(subnet: IpNet) -> Option<String> {
    let IpNet::V6(v6) = subnet else { return None };
    let link_local: IpNet = "fe80::/64".parse().expect("a constant prefix");
    if v6.addr().is_multicast() {
        return Some(format!("invalid subnet {subnet}: multicast addresses are not allowed"));
    }
    let clashes = overlap(link_local, subnet) && subnet != link_local;
    clashes.then(|| format!("{subnet} clashes with the Link-Local prefix 'fe80::/64'"))
}

fn range(node: Option<&Node>, subnet: IpNet, report: &mut Report) -> Option<(IpNet, PlaceId)> {
    let node = node?;
    let text = node.text(report).filter(|text| !text.is_empty())?;
    let family = if subnet.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let refusal = match text.parse::<IpNet>() {
        Err(_) => "invalid CIDR block notation".to_owned(),
        Ok(range) if range.addr().is_ipv4() != subnet.addr().is_ipv4() => {
            format!("parent subnet is an {family} block")
        }
        Ok(range) if range.prefix_len() < subnet.prefix_len() => {
            format!("CIDR block is bigger than its parent subnet {subnet}")
        }
        Ok(range) if range.trunc() != range => format!("it should be {}", range.trunc()),
        Ok(range) if !subnet.contains(&range) => {
            format!("parent subnet {subnet} doesn't contain ip-range")
        }
        Ok(range) => return Some((range, node.at)),
    };
    report.error(node.at, format!("invalid ip-range {text}: {refusal}"));
    None
}

/// An address of the subnet; the old daemon prints it with its length.
fn gateway(node: Option<&Node>, subnet: IpNet, report: &mut Report) -> Option<(IpAddr, PlaceId)> {
    let node = node?;
    let text = node.text(report).filter(|text| !text.is_empty())?;
    let bare = text.split('/').next().unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) if subnet.contains(&address) => return Some((address, node.at)),
        Ok(_) => {
            let message = format!(
                "invalid gateway {text}: parent subnet {subnet} doesn't contain this address"
            );
            report.error(node.at, message);
        }
        Err(_) => drop(report.error(node.at, format!("invalid gateway {text}: invalid address"))),
    }
    None
}

fn aux(
    config: &Node,
    keys: &Keys,
    subnet: IpNet,
    report: &mut Report,
) -> Vec<(String, IpAddr, PlaceId)> {
    let node = keys.aux.iter().find_map(|key| config.get(key)).and_then(|node| node.map(report));
    let mut all = Vec::new();
    for entry in node.map(Node::entries).unwrap_or_default() {
        let Some(text) = entry.node.text(report) else { continue };
        let name = &entry.key;
        let refusal = match text.parse::<IpAddr>() {
            Ok(address) if subnet.contains(&address) => {
                all.push((name.clone(), address, entry.node.at));
                continue;
            }
            Ok(_) => format!("parent subnet {subnet} doesn't contain this address"),
            Err(_) => "invalid address".to_owned(),
        };
        report.error(entry.node.at, format!("invalid auxiliary address {name}: {refusal}"));
    }
    all
}
