//! Options of a network: labels such as `com.docker.network.bridge.enable_icc`.

use super::super::tree::{Node, Value};
use super::overlay;
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
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const OUTSIDE_V4: &str = "com.docker.network.host_ipv4";
const OUTSIDE_V6: &str = "com.docker.network.host_ipv6";

/// Of overlays: an identifier per subnet, and that packets are encrypted, whatever it says.
const VXLAN_IDS: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";

/// Labels that mean something to us, are checked, and carried over or reported.
const KNOWN: [&str; 18] = [
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
    TRUSTED,
    INTERFACE_PREFIX,
    OUTSIDE_V4,
    OUTSIDE_V6,
    VXLAN_IDS,
    ENCRYPTED,
];

/// A label that describes what is so here anyway.
const SILENT: &str = "com.docker.network.bridge.default_bridge";

/// Gateway modes, the one that lets through least first.
const MODES: [&str; 4] = ["isolated", MODE_DEFAULT, "routed", "nat-unprotected"];
const MODE_DEFAULT: &str = "nat";

/// What the options of a network come to.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) icc: Option<(bool, PlaceId)>,
    pub(super) masquerade: Option<(bool, PlaceId)>,
    pub(super) mtu: Option<(i64, PlaceId)>,
    pub(super) bridge_name: Option<(String, PlaceId)>,
    pub(super) enable_v4: Option<bool>,
    pub(super) enable_v6: Option<bool>,
    /// The gateway modes of IPv4 and IPv6.
    modes: [Option<(&'static str, PlaceId)>; 2],
    /// What a network of a native config has no words for: what is said of it.
    pub(super) lost: Vec<(PlaceId, String)>,
    /// VXLAN identifiers of an overlay.
    pub(super) vnis: Option<(Vec<i64>, PlaceId)>,
    pub(super) encrypted: Option<PlaceId>,
    pub(super) parent: Option<(String, PlaceId)>,
    pub(super) driver_mode: Option<(String, PlaceId)>,
    pub(super) driver_flag: Option<(String, PlaceId)>,
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
                Value::Null if entry.key == ENCRYPTED => String::new(),
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
                    self.lost(at, "a bridge without an address is not in this version");
                }
            }
            HOST_BINDING => match text.parse::<std::net::Ipv4Addr>() {
                Ok(address) if address.is_unspecified() => {}
                Ok(_) => self.lost(
                    at,
                    "a default address for published ports is not in this version: give it with \
                     each port",
                ),
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
            MODE_V4 => self.modes[0] = gateway_mode(&text, at, internal, report),
            MODE_V6 => self.modes[1] = gateway_mode(&text, at, internal, report),
            TRUSTED if text.is_empty() => {}
            TRUSTED => self.lost(at, "trust is the uplink's here: its key `trusted` gives it"),
            INTERFACE_PREFIX if matches!(text.as_str(), "" | "eth") => {}
            INTERFACE_PREFIX => self
                .lost(at, "devices are called by the key `interface` here, not by their network"),
            OUTSIDE_V4 | OUTSIDE_V6 => match text.parse::<std::net::IpAddr>() {
                Ok(address) if address.is_ipv4() == (key == OUTSIDE_V4) => self.lost(
                    at,
                    "the outside address is to be one of the uplink's: the network's keys \
                     `host_ipv4` and `host_ipv6` choose it",
                ),
                _ => {
                    let message = format!("failed to parse {key} value: {text} (invalid address)");
                    report.error(at, message);
                }
            },
            BRIDGE_NAME => self.bridge_name = Some((text, at)),
            ANNOUNCE_COUNT => self.within(key, &text, 0..=3, at, report),
            ANNOUNCE_MS => self.within(key, &text, 0..=2000, at, report),
            VXLAN_IDS => {
                self.vnis = overlay::identifiers(&text, at, report).map(|vnis| (vnis, at));
            }
            ENCRYPTED => self.encrypted = Some(at),
            "parent" => self.parent = Some((text, at)),
            "macvlan_mode" | "ipvlan_mode" => self.driver_mode = Some((text, at)),
            "ipvlan_flag" => self.driver_flag = Some((text, at)),
            SILENT | "" => {}
            _ => {
                let known = crate::nearest::nearest(key, KNOWN);
                let problem = report.warning(at, format!("option {key:?} means nothing here"));
                if let Some(known) = known {
                    problem.hint(format!("did you mean {known}?"));
                }
            }
        }
    }

    /// The gateway mode of a network that has these families. A native network has one: where
    /// they differ the stricter one, which is said.
    pub(super) fn mode(
        &self,
        families: [bool; 2],
        report: &mut Report,
    ) -> Option<(&'static str, PlaceId)> {
        let own = self.modes.iter().zip(families).filter(|(_, has)| *has).map(|(mode, _)| mode);
        let rank = |mode: &str| MODES.iter().position(|one| *one == mode);
        let word =
            |mode: &Option<(&'static str, PlaceId)>| mode.map_or(MODE_DEFAULT, |mode| mode.0);
        let mut words = own.clone().map(word);
        let chosen = words.clone().min_by_key(|mode| rank(mode))?;
        let at = own.flatten().map(|(_, at)| *at).next()?;
        if words.any(|mode| mode != chosen) {
            let message = format!("one gateway mode is for both families here: it is {chosen}");
            report.warning(at, message);
        }
        (chosen != MODE_DEFAULT).then_some((chosen, at))
    }

    fn lost(&mut self, at: PlaceId, message: &str) {
        self.lost.push((at, message.to_owned()));
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
            self.lost(at, "how addresses are announced is not in this version");
        } else {
            report.error(at, format!("{key} must be in the range {min} to {max}"));
        }
    }
}

/// A gateway mode as a native config calls it.
fn gateway_mode(
    mode: &str,
    at: PlaceId,
    internal: bool,
    report: &mut Report,
) -> Option<(&'static str, PlaceId)> {
    let mode = if mode.is_empty() { MODE_DEFAULT } else { mode };
    let known = MODES.into_iter().find(|known| *known == mode);
    if known.is_none() {
        report.error(at, format!("unknown gateway mode {mode}"));
    } else if mode == "isolated" && !internal {
        let message = "gateway mode 'isolated' can only be used for an internal network";
        report.error(at, message);
    }
    Some((known?, at))
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
