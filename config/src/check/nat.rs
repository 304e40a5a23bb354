//! `[nat]`: ports, outside addresses and idle times of address translation.
//!
//! Idle times below what the RFCs require are the operator's to choose, with a warning; those that
//! the engine's clock cannot tell apart are refused.

use std::net::IpAddr;
use std::time::Duration;

use engine::limits::{NatSettings, Timeouts};
use ipnet::IpNet;

use super::{flag, word};
use crate::bounds::{
    MASQUERADE_COUNT_MIN, MASQUERADE_PORT_MIN, OUTSIDE_COUNT_MAX, TIMEOUT_MAX, TIMEOUT_MIN,
};
use crate::model::{Attachment, Config, Network, Outside, StaticRule};
use crate::reader::Field;
use crate::report::Report;
use crate::schema;
use crate::values::{Address, Period};
use crate::words;

/// Checks `[nat]`.
pub(super) fn check(given: Option<&schema::Nat>, report: &mut Report) -> NatSettings {
    let mut settings = NatSettings::default();
    let Some(given) = given else { return settings };
    settings.filtering = word(&given.filtering, words::FILTERING, report).unwrap_or_default();
    if let Some((at, range)) = given.ports.given() {
        if range.min < MASQUERADE_PORT_MIN || range.max - range.min < MASQUERADE_COUNT_MIN - 1 {
            let message = format!(
                "masquerade takes at least {MASQUERADE_COUNT_MIN} ports, \
                 all of them from {MASQUERADE_PORT_MIN} up"
            );
            report.error(at, message);
        }
        (settings.port_min, settings.port_max) = (range.min, range.max);
    }
    settings.tcp_pickup = flag(&given.tcp_pickup, settings.tcp_pickup);
    if let Some(timeouts) = given.timeouts.value() {
        settings.timeouts = check_timeouts(timeouts, report);
    }
    settings
}

/// Checks which outside addresses are used for what, in a config whose uplinks, networks and
/// endpoints are known.
pub(super) fn check_outside(
    given: Option<&schema::Nat>,
    config: &mut Config,
    uplinks_are_known: bool,
    report: &mut Report,
) {
    let Some(given) = given else { return };
    let own: Vec<IpAddr> =
        config.uplinks.iter().flat_map(|uplink| &uplink.addresses).map(IpNet::addr).collect();
    let mut outside = Outside::default();
    for field in given.addresses.value().map_or(&[][..], Vec::as_slice) {
        let Some((at, &Address(address))) = field.given() else { continue };
        if !own.contains(&address) && uplinks_are_known {
            report.error(at, format!("{address} is no uplink's own address"));
        } else if outside.addresses.contains(&address) {
            report.error(at, format!("{address} is there already"));
        } else if outside.addresses.len() >= OUTSIDE_COUNT_MAX {
            report.error(at, format!("at most {OUTSIDE_COUNT_MAX} outside addresses go"));
        } else {
            outside.addresses.push(address);
        }
    }
    for field in given.statics.value().map_or(&[][..], Vec::as_slice) {
        let Some((at, table)) = field.given() else { continue };
        for (key, missing) in [("inside", &table.inside), ("outside", &table.outside)] {
            if missing.is_absent() {
                report.error(at, format!("{key} is missing"));
            }
        }
        let (Some((inside_at, &Address(inside))), Some((outside_at, &Address(address)))) =
            (table.inside.given(), table.outside.given())
        else {
            continue;
        };
        if !own.contains(&address) {
            if uplinks_are_known {
                report.error(outside_at, format!("{address} is no uplink's own address"));
            }
            continue;
        }
        if let Some(use_of) = other_use(address, &outside, config) {
            report.error(outside_at, format!("{address} is {use_of}"));
            continue;
        }
        let network = table.network.value().map(String::as_str);
        match static_rule((inside, network), address, &outside, config) {
            Ok(rule) => outside.statics.push(rule),
            Err(message) => {
                report.error(inside_at, message);
            }
        }
    }
    config.outside = outside;
}

/// What an outside address is used for already.
fn other_use(address: IpAddr, outside: &Outside, config: &Config) -> Option<&'static str> {
    let v6 = address.is_ipv6();
    let is_first = config.uplinks.iter().any(|uplink| {
        let mut own = uplink.addresses.iter().map(IpNet::addr);
        let first = own.clone().find(|own| own.is_ipv6() == v6) == Some(address);
        let has_others = outside
            .addresses
            .iter()
            .any(|other| other.is_ipv6() == v6 && own.any(|own| own == *other));
        first && !has_others
    });
    let sources = |network: &Network| [network.host_ipv4, network.host_ipv6];
    if outside.addresses.contains(&address) {
        Some("one that masqueraded traffic leaves as, by nat.addresses")
    } else if is_first {
        Some("what masqueraded traffic leaves as: name others by nat.addresses")
    } else if config.networks.iter().any(|network| sources(network).contains(&Some(address))) {
        Some("what a network is masqueraded as")
    } else if outside.statics.iter().any(|other| other.outside == address) {
        Some("outside already")
    } else if config
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.publish)
        .any(|publish| publish.host == Some(address))
    {
        Some("one that ports are published on")
    } else {
        None
    }
}

fn static_rule(
    (inside, wanted): (IpAddr, Option<&str>),
    address: IpAddr,
    outside: &Outside,
    config: &Config,
) -> Result<StaticRule, String> {
    if inside.is_ipv6() != address.is_ipv6() {
        return Err(format!("{inside} is not of the family of {address}"));
    }
    let mut found = config.endpoints.iter().filter_map(|endpoint| {
        let has = |own: &&Attachment| {
            own.ipv4_address().map(IpAddr::V4) == Some(inside)
                || own.ipv6_address().map(IpAddr::V6) == Some(inside)
        };
        let has = |own: &&Attachment| has(own) && wanted.is_none_or(|name| own.network == name);
        endpoint.attachments.iter().find(has).map(|own| (&endpoint.name, &own.network))
    });
    let Some((endpoint, network)) = found.next() else {
        let place = wanted.map_or(String::new(), |name| format!(" in network {name}"));
        return Err(format!("{inside} is no endpoint's address{place}"));
    };
    if let Some((_, other)) = found.next() {
        return Err(format!("{inside} is in {network} and in {other}: say which by network"));
    }
    let is_same = |other: &StaticRule| other.inside == inside && other.network == *network;
    if outside.statics.iter().any(is_same) {
        return Err(format!("{inside} has an outside address already"));
    }
    if config.network(network).is_some_and(|network| network.internal) {
        return Err(format!("{inside} is in {network}, which is internal"));
    }
    let (endpoint, network) = (endpoint.clone(), network.clone());
    Ok(StaticRule { inside, outside: address, endpoint, network })
}

fn check_timeouts(given: &schema::Timeouts, report: &mut Report) -> Timeouts {
    let default = Timeouts::default();
    let mut timeout = |field: &Field<Period>, default: Duration, rule: Option<(u64, &str)>| {
        let Some((at, &Period(given))) = field.given() else { return default };
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&given) {
            report.error(at, "idle times are from 1 second to 5 days");
            return default;
        }
        if let Some((min_seconds, rule)) = rule
            && given < Duration::from_secs(min_seconds)
        {
            report.warning(at, format!("shorter than {rule} asks for, {min_seconds} s"));
        }
        given
    };
    const TRANSITORY: Option<(u64, &str)> = Some((240, "RFC 5382 REQ-5"));
    let transitory = timeout(&given.tcp_transitory, default.tcp_opening, TRANSITORY);
    Timeouts {
        tcp_established: timeout(
            &given.tcp_established,
            default.tcp_established,
            Some((7_440, "RFC 5382 REQ-5")),
        ),
        tcp_opening: timeout(&given.tcp_opening, transitory, TRANSITORY),
        tcp_closing: timeout(&given.tcp_closing, transitory, TRANSITORY),
        tcp_time_wait: timeout(&given.tcp_time_wait, default.tcp_time_wait, None),
        tcp_reset: timeout(
            &given.tcp_reset,
            default.tcp_reset,
            Some((240, "RFC 7857 section 2.2")),
        ),
        sctp_established: timeout(&given.sctp_established, default.sctp_established, None),
        sctp_transitory: timeout(&given.sctp_transitory, default.sctp_transitory, None),
        udp: timeout(&given.udp, default.udp, Some((120, "RFC 4787 REQ-5"))),
        icmp: timeout(&given.icmp, default.icmp, Some((60, "RFC 5508 REQ-2"))),
        other: timeout(&given.other, default.other, None),
    }
}
