//! What each of the reference plugins takes, and refuses.

use super::super::tree::{Node, Value};
use crate::names::InterfaceName;
use crate::report::Report;

/// Keys of every plugin.
const COMMON: [&str; 9] = [
    "cniVersion",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "dns",
    "ipam",
];
const BRIDGE: [&str; 17] = [
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
    "mac",
];
const PTP: [&str; 3] = ["ipMasq", "ipMasqBackend", "mtu"];
const MACVLAN: [&str; 6] = ["master", "mode", "mtu", "mac", "linkInContainer", "bcqueuelen"];
const IPVLAN: [&str; 4] = ["master", "mode", "mtu", "linkInContainer"];
const VLAN: [&str; 4] = ["master", "vlanId", "mtu", "linkInContainer"];
const PORTMAP: [&str; 7] = [
    "snat",
    "markMasqBit",
    "masqAll",
    "externalSetMarkChain",
    "conditionsV4",
    "conditionsV6",
    "backend",
];
const BANDWIDTH: [&str; 6] = [
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
    "unshapedSubnets",
    "shapedSubnets",
];
const TUNING: [&str; 7] = ["sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen", "dataDir"];
const FIREWALL: [&str; 4] = ["backend", "iptablesAdminChainName", "firewalldZone", "ingressPolicy"];
const MAPPER: [&str; 3] = ["chain", "excludeDevices", "delegate"];

/// Most bits of a burst: 4 GB, in which the kernel counts.
const BURST_BITS_MAX: i64 = u32::MAX as i64 * 8;

/// Checks a plugin's part of a configuration. `None`: it has no type.
pub(super) fn check<'n>(
    plugin: &'n Node,
    is_chained: bool,
    in_list: bool,
    report: &mut Report,
) -> Option<(&'n str, &'n Node)> {
    plugin.map(report)?;
    let Some(kind) = plugin.get("type") else {
        report.error(plugin.at, "error parsing configuration: missing 'type'");
        return None;
    };
    let (at, kind) = (kind.at, kind.text(report)?);
    let is_meta = matches!(kind, "portmap" | "bandwidth" | "tuning" | "firewall");
    if is_meta && !is_chained {
        report.error(at, format!("{kind}: must be called as chained plugin"));
    }
    let own: &[&str] = match kind {
        "bridge" => &BRIDGE,
        "ptp" => &PTP,
        "macvlan" => &MACVLAN,
        "ipvlan" => &IPVLAN,
        "vlan" => &VLAN,
        "portmap" => &PORTMAP,
        "bandwidth" => &BANDWIDTH,
        "tuning" => &TUNING,
        "firewall" => &FIREWALL,
        "mesos-cni-port-mapper" => &MAPPER,
        _ => {
            let problem = report.warning(at, format!("plugin {kind:?} is not known here"));
            problem.hint("nothing that it does is carried over");
            return Some((kind, plugin));
        }
    };
    let known: Vec<&str> = COMMON.iter().chain(own).copied().collect();
    // Outside of a list the keys of the list stand beside those of the plugin.
    let of_list: &[&str] = if in_list { &[] } else { &super::LIST };
    let known: Vec<&str> = known.into_iter().chain(of_list.iter().copied()).collect();
    plugin.warn_unknown(&known, report);
    match kind {
        "bridge" => bridge(plugin, report),
        "ptp" => drop(plugin.flag_at("ipMasq", report)),
        "macvlan" => {
            let modes = ["bridge", "private", "vepa", "passthru"];
            one_of(plugin, "mode", &modes, "unknown macvlan mode:", report);
        }
        "ipvlan" => {
            one_of(plugin, "mode", &["l2", "l3", "l3s"], "unknown ipvlan mode:", report);
        }
        "vlan" => vlan(plugin, report),
        "portmap" => portmap(plugin, report),
        "bandwidth" => bandwidth(plugin, report),
        "tuning" => tuning(plugin, report),
        "firewall" => firewall(plugin, report),
        _ => {}
    }
    plugin.integer_at("mtu", 0..=65_535, report);
    Some((kind, plugin))
}

/// One of a few words, or nothing; an empty one is nothing too.
fn one_of(plugin: &Node, key: &str, words: &[&str], refusal: &str, report: &mut Report) {
    let Some(node) = plugin.get(key) else { return };
    let Some(word) = node.text(report) else { return };
    if !word.is_empty() && !words.contains(&word) {
        let problem = report.error(node.at, format!("{refusal} {word:?}"));
        problem.hint(format!("expected {}", words.join(", ")));
    }
}

/// A VLAN's number.
fn vlan_id(plugin: &Node, key: &str, report: &mut Report) -> Option<i64> {
    let node = plugin.get(key)?;
    let Value::Number(written) = &node.value else {
        node.expected("a whole number", report);
        return None;
    };
    let id = written.parse::<i64>().ok().filter(|id| (0..=4094).contains(id));
    if id.is_none() {
        let message = format!("invalid VLAN ID {written} (must be between 0 and 4094)");
        report.error(node.at, message);
    }
    id
}

fn bridge(plugin: &Node, report: &mut Report) {
    for key in [
        "isGateway",
        "isDefaultGateway",
        "forceAddress",
        "ipMasq",
        "hairpinMode",
        "promiscMode",
        "preserveDefaultVlan",
        "macspoofchk",
        "enabledad",
        "disableContainerInterface",
        "portIsolation",
    ] {
        plugin.flag_at(key, report);
    }
    let is_set =
        |key: &str| plugin.get(key).is_some_and(|node| matches!(node.value, Value::Bool(true)));
    if is_set("hairpinMode") && is_set("promiscMode") {
        let at = plugin.get("promiscMode").map_or(plugin.at, |mode| mode.at);
        report.error(at, "cannot set hairpin mode and promiscuous mode at the same time.");
    }
    if let Some(name) = plugin.get("bridge")
        && let Some(text) = name.text(report)
        && let Err(message) = InterfaceName::new(text)
    {
        report.error(name.at, message);
    }
    vlan_id(plugin, "vlan", report);
    let trunk = plugin.list_at("vlanTrunk", report).unwrap_or_default();
    if let (true, Some(vlan)) = (!trunk.is_empty(), plugin.get("vlan")) {
        report.error(vlan.at, "cannot set vlan and vlanTrunk at the same time");
    }
    for range in trunk {
        if range.map(report).is_none() {
            continue;
        }
        vlan_id(range, "id", report);
        let (min, max) = (vlan_id(range, "minID", report), vlan_id(range, "maxID", report));
        match (range.get("minID").is_some(), range.get("maxID").is_some(), min, max) {
            (true, true, Some(min), Some(max)) if min > max => {
                report.error(range.at, "minID is greater than maxID in trunk parameters");
            }
            (true, false, ..) => drop(report.error(
                range.at,
                "minID and maxID should be configured simultaneously, maxID is missing",
            )),
            (false, true, ..) => drop(report.error(
                range.at,
                "minID and maxID should be configured simultaneously, minID is missing",
            )),
            _ => {}
        }
    }
}

fn vlan(plugin: &Node, report: &mut Report) {
    if plugin.get("master").is_none() {
        let message = "\"master\" field is required. It specifies the host interface name to \
                       create the VLAN for.";
        report.error(plugin.at, message);
    }
    vlan_id(plugin, "vlanId", report);
}

fn portmap(plugin: &Node, report: &mut Report) {
    for key in ["snat", "masqAll"] {
        plugin.flag_at(key, report);
    }
    if let Some(bit) = plugin.get("markMasqBit") {
        let number = match &bit.value {
            Value::Number(text) => text.parse::<i64>().ok(),
            _ => None,
        };
        if number.is_some_and(|number| !(0..32).contains(&number)) {
            report.error(bit.at, "MasqMarkBit must be between 0 and 31");
        } else {
            bit.integer(0..=31, report);
        }
        if plugin.get("externalSetMarkChain").is_some() {
            report.error(bit.at, "Cannot specify externalSetMarkChain and markMasqBit");
        }
    }
    one_of(plugin, "backend", &["iptables", "nftables"], "unrecognized backend", report);
    let runtime = plugin.map_at("runtimeConfig", report);
    let mappings = runtime.and_then(|runtime| runtime.list_at("portMappings", report));
    for mapping in mappings.unwrap_or_default() {
        let Some(port) = mapping.get("hostPort") else { continue };
        if let Value::Number(number) = &port.value
            && number.parse::<i64>().is_ok_and(|number| number <= 0)
        {
            report.error(port.at, format!("Invalid host port number: {number}"));
        } else {
            port.integer(1..=65_535, report);
        }
    }
}

fn bandwidth(plugin: &Node, report: &mut Report) {
    for (rate, burst) in [("ingressRate", "ingressBurst"), ("egressRate", "egressBurst")] {
        let mut of = |key| plugin.integer_at(key, 0..=i64::MAX, report).unwrap_or(0);
        let (rate_bits, burst_bits) = (of(rate), of(burst));
        let at = |key| plugin.get(key).map_or(plugin.at, |node| node.at);
        if rate_bits > 0 && burst_bits == 0 {
            report.error(at(rate), "if rate is set, burst must also be set");
        } else if rate_bits == 0 && burst_bits > 0 {
            report.error(at(burst), "if burst is set, rate must also be set");
        } else if burst_bits > BURST_BITS_MAX {
            report.error(at(burst), "burst cannot be more than 4GB");
        }
    }
}

fn tuning(plugin: &Node, report: &mut Report) {
    let sysctl = plugin.map_at("sysctl", report);
    for entry in sysctl.map(Node::entries).unwrap_or_default() {
        let dotted = entry.key.replace('/', ".");
        if !dotted.starts_with("net.") {
            let at = entry.node.at;
            report.error(at, format!("invalid net sysctl key: {:?}", entry.key));
        }
        entry.node.text(report);
    }
    for key in ["promisc", "allmulti"] {
        plugin.flag_at(key, report);
    }
    if let Some(mac) = plugin.get("mac")
        && let Some(text) = mac.text(report)
        && text.parse::<engine::MacAddress>().is_err()
    {
        report.error(mac.at, format!("address {text}: invalid MAC address"));
    }
}

fn firewall(plugin: &Node, report: &mut Report) {
    let backends = ["iptables", "firewalld"];
    one_of(plugin, "backend", &backends, "unrecognized firewall backend", report);
    let policies = ["open", "same-bridge", "isolated"];
    one_of(plugin, "ingressPolicy", &policies, "unknown ingress policy:", report);
}
