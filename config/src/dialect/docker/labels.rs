//! Options of a network: labels such as `com.docker.network.bridge.enable_icc`.

use super::super::tree::{Node, Value};
use crate::report::{PlaceId, Report};

const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const MODE_V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE_V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MTU: &str = "com.docker.network.driver.mtu";
const ENABLE_V4: &str = "com.docker.network.enable_ipv4";
const ENABLE_V6: &str = "com.docker.network.enable_ipv6";
const ANNOUNCE_COUNT: &str = "com.docker.network.advertise_addr_nmsgs";
const ANNOUNCE_MS: &str = "com.docker.network.advertise_addr_ms";

/// Labels that mean something to us, are checked, and carried over or reported.
const KNOWN: [&str; 12] = [
    ICC,
    MASQUERADE,
    HOST_BINDING,
    INHIBIT,
    MODE_V4,
    MODE_V6,
    BRIDGE_NAME,
    MTU,
    ENABLE_V4,
    ENABLE_V6,
    ANNOUNCE_COUNT,
    ANNOUNCE_MS,
];

/// Labels that describe what is so here anyway, or name devices that are not made.
const SILENT: [&str; 3] = [
    "com.docker.network.bridge.default_bridge",
    "com.docker.network.container_iface_prefix",
    "com.docker.network.bridge.trusted_host_interfaces",
];

/// What the options of a network come to.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) icc: Option<(bool, PlaceId)>,
    pub(super) masquerade: Option<(bool, PlaceId)>,
    pub(super) mtu: Option<(i64, PlaceId)>,
    pub(super) bridge_name: Option<(String, PlaceId)>,
    pub(super) enable_v4: Option<bool>,
    pub(super) enable_v6: Option<bool>,
    /// The gateway mode; of both families the one that is not nat.
    pub(super) mode: Option<(String, PlaceId)>,
    /// What a native config has no words for.
    pub(super) lost: Vec<(PlaceId, String)>,
    pub(super) parent: Option<(String, PlaceId)>,
    pub(super) driver_mode: Option<(String, PlaceId)>,
}

impl Labels {
    /// Reads the options of a network.
    pub(super) fn read(options: Option<&Node>, internal: bool, report: &mut Report) -> Labels {
        let mut labels = Labels::default();
        for entry in options.map(Node::entries).unwrap_or_default() {
            let at = entry.node.at;
            let text = match &entry.node.value {
                Value::Text(text) | Value::Number(text) => text.clone(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null => continue,
                _ => {
                    entry.node.expected("text", report);
                    continue;
                }
            };
            labels.one(&entry.key, text, at, internal, report);
        }
        labels
    }

    fn one(&mut self, key: &str, text: String, at: PlaceId, internal: bool, report: &mut Report) {
        match key {
            ICC => self.icc = flag(key, &text, at, report),
            MASQUERADE => self.masquerade = flag(key, &text, at, report),
            ENABLE_V4 => self.enable_v4 = flag(key, &text, at, report).map(|(flag, _)| flag),
            ENABLE_V6 => self.enable_v6 = flag(key, &text, at, report).map(|(flag, _)| flag),
            INHIBIT => {
                if flag(key, &text, at, report).is_some_and(|(flag, _)| flag) {
                    self.lost.push((at, "a bridge without an address".to_owned()));
                }
            }
            HOST_BINDING => match text.parse::<std::net::Ipv4Addr>() {
                Ok(address) if address.is_unspecified() => {}
                Ok(_) => self.lost.push((at, "a default address for published ports".to_owned())),
                Err(_) => {
                    let message =
                        format!("failed to parse {key} value: {text} (invalid ipv4 address)");
                    report.error(at, message);
                }
            },
            MTU => match text.parse::<i64>() {
                Ok(0) => {}
                Ok(mtu) if (1..=65_535).contains(&mtu) => self.mtu = Some((mtu, at)),
                _ => drop(report.error(at, format!("invalid MTU number: {text}"))),
            },
            MODE_V4 | MODE_V6 => self.gateway_mode(text, at, internal, report),
            BRIDGE_NAME => self.bridge_name = Some((text, at)),
            ANNOUNCE_COUNT => self.within(key, &text, 0..=3, at, report),
            ANNOUNCE_MS => self.within(key, &text, 0..=2000, at, report),
            "parent" => self.parent = Some((text, at)),
            "macvlan_mode" | "ipvlan_mode" | "ipvlan_flag" => self.driver_mode = Some((text, at)),
            _ if SILENT.contains(&key) || key.is_empty() => {}
            _ => {
                let known = crate::nearest::nearest(key, KNOWN);
                let problem = report.warning(at, format!("option {key:?} means nothing here"));
                if let Some(known) = known {
                    problem.hint(format!("did you mean {known}?"));
                }
            }
        }
    }

    fn gateway_mode(&mut self, mode: String, at: PlaceId, internal: bool, report: &mut Report) {
        match mode.as_str() {
            "" | "nat" => {}
            "isolated" if !internal => {
                let message = "gateway mode 'isolated' can only be used for an internal network";
                report.error(at, message);
            }
            "nat-unprotected" | "routed" | "isolated" => self.mode = Some((mode, at)),
            _ => drop(report.error(at, format!("unknown gateway mode {mode}"))),
        }
    }

    fn within(
        &mut self,
        key: &str,
        text: &str,
        bounds: std::ops::RangeInclusive<i64>,
        at: PlaceId,
        report: &mut Report,
    ) {
        let (min, max) = bounds.clone().into_inner();
        if text.parse().is_ok_and(|number| bounds.contains(&number)) {
            self.lost.push((at, "how addresses are announced".to_owned()));
        } else {
            report.error(at, format!("{key} must be in the range {min} to {max}"));
        }
    }
}

/// A boolean as Go reads it.
fn flag(key: &str, text: &str, at: PlaceId, report: &mut Report) -> Option<(bool, PlaceId)> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some((true, at)),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some((false, at)),
        _ => {
            let cause = format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
            report.error(at, format!("failed to parse {key} value: {text} ({cause})"));
            None
        }
    }
}
