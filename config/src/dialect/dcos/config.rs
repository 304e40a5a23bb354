//! `config.yaml`: the overlays of a cluster, with the checks and messages of its installer.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::tree::{Node, Value};
use super::truth;
use crate::report::{PlaceId, Report};

/// `dcos_overlay_mtu`: fits Google's 1460 bytes with a tunnel's header.
pub(super) const MTU_DEFAULT: i64 = 1420;

/// Least MTU of the installer's check.
const MTU_MIN: i64 = 552;

/// Longest name of an overlay: `m-` and it are a device's name.
const NAME_BYTES_MAX: usize = 13;

/// Most overlays: each is compared with each.
const OVERLAY_COUNT_MAX: usize = 1_000;

/// Names that Docker has already.
const RESERVED: [&str; 4] = ["bridge", "host", "none", "default"];

/// Keys that are read; a config has many more.
const KEYS: [&str; 18] = [
    "dcos_overlay_enable",
    "dcos_overlay_mtu",
    "dcos_overlay_config_attempts",
    "dcos_overlay_network",
    "dcos_overlay_network_default_name",
    "dcos_l4lb_min_named_ip",
    "dcos_l4lb_max_named_ip",
    "dcos_l4lb_min_named_ip6",
    "dcos_l4lb_max_named_ip6",
    "calico_vxlan_port",
    "calico_vxlan_vni",
    "enable_ipv6",
    "agent_list",
    "public_agent_list",
    // Not read, and near to one that is.
    "calico_vxlan_mtu",
    "calico_veth_mtu",
    "calico_ipinip_mtu",
    "calico_vxlan_enabled",
];
const NETWORK: [&str; 5] = ["vtep_subnet", "vtep_subnet6", "vtep_mac_oui", "vtep_mtu", "overlays"];
const OVERLAY: [&str; 6] = ["name", "subnet", "prefix", "subnet6", "prefix6", "enabled"];

/// The VXLAN identifier that Calico must leave to the overlays, as both use one port.
const VNI: i64 = super::VNI as i64;

/// The overlays of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) mtu: i64,
    pub(super) vtep: Option<Ipv4Net>,
    pub(super) vtep6: Option<Ipv6Net>,
    /// The upper three bytes of tunnel ends' MAC addresses.
    pub(super) oui: [u8; 3],
    pub(super) overlays: Vec<Overlay>,
}

/// An overlay.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) at: PlaceId,
    pub(super) name: String,
    /// The subnet and the length of each agent's slice.
    pub(super) v4: Option<(Ipv4Net, u8)>,
    pub(super) v6: Option<(Ipv6Net, u8)>,
}

impl Cluster {
    /// Reads a config. `None`: it has no overlays.
    pub(super) fn read(node: &Node, report: &mut Report) -> Option<Cluster> {
        warn_near(node, report);
        let is_enabled = truth(node, "dcos_overlay_enable", true, report);
        let v6 = truth(node, "enable_ipv6", true, report);
        let mtu = int(node, "dcos_overlay_mtu", MTU_DEFAULT, MTU_MIN, None, report);
        int(node, "dcos_overlay_config_attempts", 4, 0, Some(10), report);
        check_calico(node, report);
        for (key, is_v4) in [
            ("dcos_l4lb_min_named_ip", true),
            ("dcos_l4lb_max_named_ip", true),
            ("dcos_l4lb_min_named_ip6", false),
            ("dcos_l4lb_max_named_ip6", false),
        ] {
            check_address(node, key, is_v4, report);
        }
        if !is_enabled {
            report.warning(node.at, "the overlays are switched off by dcos_overlay_enable");
            return None;
        }
        let Some(network) = node.get("dcos_overlay_network") else {
            return Some(Cluster::default_of(node.at, mtu));
        };
        network.map(report)?;
        network.warn_unknown(&NETWORK, report);
        int(network, "vtep_mtu", 1500, MTU_MIN, None, report);
        let vtep = net(network, "vtep_subnet", "vtep_subnet: {}. Only IPv4 values", true, report);
        let vtep6 =
            net(network, "vtep_subnet6", "vtep_subnet6: {}. Only IPv6 values", false, report);
        if let Some((net, at)) = vtep.filter(|(net, _)| net.prefix_len() < 8) {
            let message = format!(
                "vtep_subnet {net} is too large: a MAC address has the lower 24 bits of the VTEP's"
            );
            report.error(at, message);
        }
        let oui = oui(network, report);
        let overlays = overlays(network, v6, report)?;
        for (key, is_needed) in [
            ("vtep_subnet", overlays.iter().any(|overlay| overlay.v4.is_some())),
            ("vtep_subnet6", overlays.iter().any(|overlay| overlay.v6.is_some())),
        ] {
            if is_needed && network.get(key).is_none() {
                report.error(network.at, format!("Missing \"{key}\" in overlay configuration"));
            }
        }
        check_default_name(node, &overlays, report);
        let v4_of = |net: IpNet| if let IpNet::V4(net) = net { Some(net) } else { None };
        let v6_of = |net: IpNet| if let IpNet::V6(net) = net { Some(net) } else { None };
        Some(Cluster {
            mtu,
            vtep: vtep.and_then(|(net, _)| v4_of(net)),
            vtep6: vtep6.and_then(|(net, _)| v6_of(net)),
            oui: oui?,
            overlays,
        })
    }

    /// What a config has that says nothing of overlays.
    fn default_of(at: PlaceId, mtu: i64) -> Cluster {
        let v4 = |text: &str| text.parse::<Ipv4Net>().expect("a constant prefix");
        let v6 = |text: &str| text.parse::<Ipv6Net>().expect("a constant prefix");
        let overlay = |name: &str, v4, v6| Overlay { at, name: name.to_owned(), v4, v6 };
        Cluster {
            mtu,
            vtep: Some(v4("44.128.0.0/20")),
            vtep6: Some(v6("fd01:a::/64")),
            oui: [0x70, 0xb3, 0xd5],
            overlays: vec![
                overlay("dcos", Some((v4("9.0.0.0/8"), 24)), None),
                overlay("dcos6", None, Some((v6("fd01:b::/64"), 80))),
            ],
        }
    }

    /// What it has room for.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for overlay in &self.overlays {
            if let Some((net, prefix)) = overlay.v4 {
                let agents = 1u64 << (prefix - net.prefix_len());
                let half = (1u64 << (32 - prefix - 1)) - 2;
                lines.push(format!(
                    "overlay {}: {net} in /{prefix}: {agents} agents x (2 x {half}) container \
                     addresses",
                    overlay.name
                ));
            }
            if let Some((net, prefix)) = overlay.v6 {
                let bits = prefix - net.prefix_len();
                let half = 128 - prefix - 1;
                lines.push(format!(
                    "overlay {}: {net} in /{prefix}: 2^{bits} agents x (2 x 2^{half}) container \
                     addresses",
                    overlay.name
                ));
            }
        }
        if let Some(vtep) = self.vtep {
            let ends = (1u64 << (32 - vtep.prefix_len())).saturating_sub(2);
            lines.push(format!("tunnel ends: {vtep} has room for {ends} agents, MTU {}", self.mtu));
        }
        lines
    }
}

/// What of a config's many keys is probably meant to be one that is read.
fn warn_near(node: &Node, report: &mut Report) {
    for entry in node.entries().iter().filter(|entry| !KEYS.contains(&entry.key.as_str())) {
        if let Some(near) = crate::nearest::nearest(&entry.key, KEYS) {
            let problem = report.warning(entry.node.at, format!("unknown field {:?}", entry.key));
            problem.hint(format!("did you mean {near}?"));
        }
    }
}

/// A number in the words of the installer.
fn int(
    node: &Node,
    key: &str,
    default: i64,
    min: i64,
    max: Option<i64>,
    report: &mut Report,
) -> i64 {
    let Some(given) = node.get(key) else { return default };
    let (Value::Number(text) | Value::Text(text)) = &given.value else {
        given.expected("a whole number", report);
        return default;
    };
    let message = match (text.parse::<i64>(), max) {
        (Err(_), _) => format!("Must be an integer but got a str: {text}"),
        (Ok(number), None) if number < min => format!("Must be above {min}"),
        (Ok(number), Some(max)) if !(min..=max).contains(&number) => {
            format!("Must be between {min} and {max} inclusive")
        }
        (Ok(number), None) if number > 65_535 => format!("{number} is more than a packet has"),
        (Ok(number), _) => return number,
    };
    report.error(given.at, message);
    default
}

fn check_calico(node: &Node, report: &mut Report) {
    let port = int(node, "calico_vxlan_port", i64::from(super::PORT), 1, Some(65_535), report);
    let vni = int(node, "calico_vxlan_vni", 4096, 1, Some((1 << 24) - 1), report);
    if vni == VNI && port == i64::from(super::PORT) {
        let at = node.get("calico_vxlan_vni").map_or(node.at, |node| node.at);
        let message = format!(
            "calico_vxlan_vni {VNI} is the overlays' on port {}: take another",
            super::PORT
        );
        report.error(at, message);
    }
}

fn check_address(node: &Node, key: &str, is_v4: bool, report: &mut Report) {
    let Some(given) = node.get(key) else { return };
    let Some(text) = given.text(report) else { return };
    let is_right = match is_v4 {
        true => text.parse::<std::net::Ipv4Addr>().is_ok(),
        false => text.parse::<std::net::Ipv6Addr>().is_ok(),
    };
    if !is_right {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        report.error(given.at, format!("Invalid {family} addresses in list: {text}"));
    }
}

/// A prefix of a family; `what` has the value at its braces.
fn net(
    node: &Node,
    key: &str,
    what: &str,
    is_v4: bool,
    report: &mut Report,
) -> Option<(IpNet, PlaceId)> {
    let given = node.get(key)?;
    let text = given.text(report)?;
    let net = text.parse::<IpNet>().ok();
    match net.filter(|net| net.addr().is_ipv4() == is_v4 && net.trunc() == *net) {
        Some(net) => Some((net, given.at)),
        None => {
            let what = what.replace("{}", text);
            report.error(given.at, format!("Incorrect value for {what} are allowed"));
            None
        }
    }
}

fn oui(network: &Node, report: &mut Report) -> Option<[u8; 3]> {
    let Some(given) = network.get("vtep_mac_oui") else {
        report.error(network.at, "Missing \"vtep_mac_oui\" in overlay configuration");
        return None;
    };
    let text = given.text(report)?;
    let Ok(mac) = text.parse::<engine::MacAddress>() else {
        report.error(given.at, format!("Unable to parse VTEP MAC OUI: {text}"));
        return None;
    };
    let [a, b, c, rest @ ..] = mac.bytes();
    if rest != [0; 3] {
        report.warning(given.at, "only the upper three bytes of vtep_mac_oui count");
    }
    Some([a, b, c])
}

fn overlays(network: &Node, v6: bool, report: &mut Report) -> Option<Vec<Overlay>> {
    let Some(list) = network.get("overlays") else {
        report.error(network.at, "Missing \"overlays\" in overlay configuration");
        return None;
    };
    let items = list.list(report)?;
    if items.is_empty() {
        report.error(list.at, "\"Overlays\" network configuration is empty");
    }
    if items.len() > OVERLAY_COUNT_MAX {
        let count = items.len();
        report.error(list.at, format!("{count} overlays are too many, {OVERLAY_COUNT_MAX} go"));
        return None;
    }
    let mut overlays: Vec<Overlay> = Vec::new();
    for item in items {
        let Some(overlay) = overlay(item, v6, report) else { continue };
        if let Some(other) = overlays.iter().find(|other| other.name == overlay.name) {
            let message =
                format!("Duplicate overlay configuration detected for overlay: {}", overlay.name);
            report.error(overlay.at, message).related(other.at, "it is here already");
        }
        let overlaps = |other: &&Overlay| {
            let v4 = matches!((other.v4, overlay.v4), (Some((a, _)), Some((b, _)))
                if a.contains(&b) || b.contains(&a));
            let v6 = matches!((other.v6, overlay.v6), (Some((a, _)), Some((b, _)))
                if a.contains(&b) || b.contains(&a));
            v4 || v6
        };
        if let Some(other) = overlays.iter().find(overlaps) {
            let problem = report.error(overlay.at, "Found overlapping address spaces");
            problem.related(other.at, format!("{} overlaps {}", other.name, overlay.name));
        }
        overlays.push(overlay);
    }
    Some(overlays)
}

fn overlay(node: &Node, v6: bool, report: &mut Report) -> Option<Overlay> {
    node.map(report)?;
    node.warn_unknown(&OVERLAY, report);
    let Some(name) = node.get("name") else {
        report.error(node.at, "Missing \"name\" in overlay configuration");
        return None;
    };
    let text = name.text(report)?;
    if text.len() > NAME_BYTES_MAX {
        report.error(name.at, format!("Overlay name cannot exceed 13 characters:{text}"));
    }
    if RESERVED.contains(&text) {
        report.error(name.at, format!("{text} is a reserved network name"));
    }
    if node.get("subnet").is_none() && node.get("subnet6").is_none() {
        report.error(node.at, "Missing \"subnet\" or \"subnet6\" in overlay configuration");
    }
    let v4 = net(node, "subnet", "overlay subnet {}. Only IPv4 values", true, report);
    // Of a subnet that is faulty, nothing is known of how long its slices are.
    let len = |net: Option<(IpNet, PlaceId)>| net.map_or(0, |(net, _)| net.prefix_len());
    let prefix = slice(node, "prefix", 24, (len(v4), 29), report);
    let of_v4 = v4.zip(prefix).and_then(|((net, _), prefix)| match net {
        IpNet::V4(net) => Some((net, prefix)),
        IpNet::V6(_) => None,
    });
    let net6 = net(node, "subnet6", "overlay subnet6 {}. Only IPv6 values", false, report);
    let prefix = slice(node, "prefix6", 80, (len(net6), 126), report);
    let of_v6 = net6.zip(prefix).and_then(|((net, _), prefix)| match net {
        IpNet::V6(net) => Some((net, prefix)),
        IpNet::V4(_) => None,
    });
    if !v6 && of_v4.is_none() && of_v6.is_some() {
        report.warning(node.at, format!("enable_ipv6 is false, which disables overlay {text}"));
        return None;
    }
    let of_v6 = of_v6.filter(|_| v6);
    Some(Overlay { at: name.at, name: text.to_owned(), v4: of_v4, v6: of_v6 })
}

/// The length of an agent's slice: it lies in the subnet, and has room for two halves.
fn slice(
    node: &Node,
    key: &str,
    default: i64,
    (min, max): (u8, u8),
    report: &mut Report,
) -> Option<u8> {
    match node.get(key) {
        None => (i64::from(min)..=i64::from(max)).contains(&default).then_some(default as u8),
        Some(given) => {
            let bounds = i64::from(min)..=i64::from(max);
            given.integer(bounds, report).map(|prefix| prefix as u8)
        }
    }
}

fn check_default_name(node: &Node, overlays: &[Overlay], report: &mut Report) {
    let Some(given) = node.get("dcos_overlay_network_default_name") else { return };
    let Some(name) = given.text(report) else { return };
    if overlays.iter().all(|overlay| overlay.name != name) {
        let message = format!(
            "Default overlay network name does not reference a defined overlay network: {name}"
        );
        report.error(given.at, message);
    }
}
