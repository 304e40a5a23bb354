//! The multicast groups of tunnels: joined on the uplink's link, where we are the host stack.
//!
//! A switch that looks at memberships passes a group on to those who said that they are in it. So
//! we say it: three times when there are new tables, every minute, and when a querier asks. Nobody
//! is told when a group is left: it is forgotten by those who asked (RFC 3376 section 8.4).

use std::net::IpAddr;
use std::time::Duration;

use super::Worker;
use super::core::Core;
use crate::counters::DropReason;
use crate::groups::{self, Said};
use crate::id::WorkerId;
use crate::packet::Packet;
use crate::reply;
use crate::time::Instant;

/// Reports that follow each other at once, in case one is lost (RFC 3376 section 8.1).
const REPORT_COUNT: u8 = 3;
/// Time between them (RFC 3376 section 8.11).
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Time between others: less than half of what switches remember, which is 260 s, so that one that
/// nobody queries for knows us as well.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// When to report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reports {
    at: Instant,
    /// How many follow soon.
    soon: u8,
    /// Somebody asked this worker.
    asked: bool,
}

impl Reports {
    pub(super) fn begin(now: Instant) -> Reports {
        Reports { at: now, soon: REPORT_COUNT, asked: false }
    }
}

impl Core {
    /// What came by an uplink to a group: perhaps a question who is in groups.
    pub(super) fn hear_query(&mut self, packet: &Packet) {
        if self.tunnels.groups().is_empty() {
            return;
        }
        let mut asked = false;
        let _ = groups::read(packet.head(), |said| asked |= matches!(said, Said::Query { .. }));
        if asked {
            self.reports.asked = true;
        }
    }
}

impl Worker {
    /// True if there are groups to report, by this worker.
    pub(super) fn has_reports(&self) -> bool {
        let core = &self.core;
        !core.tunnels.groups().is_empty() && (core.id == WorkerId(0) || core.reports.asked)
    }

    /// Reports which groups we are in, when that is due. One worker does, and whoever was asked.
    pub(super) fn report_groups(&mut self, now: Instant) {
        let core = &mut self.core;
        let is_due = core.id == WorkerId(0) && now >= core.reports.at;
        if core.tunnels.groups().is_empty() || !(is_due || core.reports.asked) {
            return;
        }
        let soon = core.reports.soon.saturating_sub(1);
        let wait = if soon > 0 { REPORT_AGAIN } else { REPORT_EVERY };
        core.reports = Reports { at: now + wait, soon, asked: false };
        let tunnels = core.tunnels.clone();
        for joined in tunnels.groups() {
            let (port, frames) = (joined.uplink, &mut core.frames);
            let built = match (joined.group, joined.local) {
                (IpAddr::V4(group), IpAddr::V4(own)) => {
                    let from = (joined.mac, own);
                    [false, true].map(|newer| reply::igmp_report(from, group, newer, frames))
                }
                (IpAddr::V6(group), _) => [reply::mld_report(joined.mac, group, frames), None],
                _ => continue,
            };
            let is_v4 = joined.group.is_ipv4();
            for packet in built.into_iter().take(if is_v4 { 2 } else { 1 }) {
                match packet {
                    Some(packet) => core.send(port, packet),
                    None => core.counters.dropped(DropReason::NoFrame).add(1),
                }
            }
        }
    }
}
