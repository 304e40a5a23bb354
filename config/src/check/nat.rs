//! `[nat]`: ports and idle times of address translation.
//!
//! Idle times below what the RFCs require are the operator's to choose, with a warning; those that
//! the engine's clock cannot tell apart are refused.

use std::time::Duration;

use engine::limits::{NatSettings, Timeouts};

use super::word;
use crate::bounds::{MASQUERADE_COUNT_MIN, MASQUERADE_PORT_MIN, TIMEOUT_MAX, TIMEOUT_MIN};
use crate::reader::Field;
use crate::report::Report;
use crate::schema;
use crate::values::Period;
use crate::words;

/// Checks `[nat]`.
pub(super) fn check(given: Option<&schema::Nat>, report: &mut Report) -> NatSettings {
    let mut settings = NatSettings::default();
    let Some(given) = given else { return settings };
    word(&given.filtering, words::FILTERING, report);
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
    if let Some(timeouts) = given.timeouts.value() {
        settings.timeouts = check_timeouts(timeouts, report);
    }
    settings
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
    Timeouts {
        tcp_established: timeout(
            &given.tcp_established,
            default.tcp_established,
            Some((7_440, "RFC 5382 REQ-5")),
        ),
        tcp_transitory: timeout(
            &given.tcp_transitory,
            default.tcp_transitory,
            Some((240, "RFC 5382 REQ-5")),
        ),
        tcp_time_wait: timeout(&given.tcp_time_wait, default.tcp_time_wait, None),
        udp: timeout(&given.udp, default.udp, Some((120, "RFC 4787 REQ-5"))),
        icmp: timeout(&given.icmp, default.icmp, Some((60, "RFC 5508 REQ-2"))),
        other: timeout(&given.other, default.other, None),
    }
}
