//! Ports as Marathon gives them out: host ports from an agent's offer, service ports from a range.
//!
//! All instances run on one agent here, the gateway's host, whose offer is a setting. A port that
//! Marathon would pick at random is picked by a hash of who asks, so that the same files give the
//! same ports, and most stay as they are when others come and go.

use std::collections::{BTreeSet, HashSet};

use super::options::Options;
use crate::report::{PlaceId, Report};

/// Ports that are still to be had.
#[derive(Debug)]
pub(super) struct Ports {
    offered: Vec<(u16, u16)>,
    free: BTreeSet<u16>,
    service_free: BTreeSet<u16>,
    service_range: (u16, u16),
    /// What a definition fixes is not given to others.
    fixed: HashSet<u16>,
    is_short: bool,
    is_service_short: bool,
}

impl Ports {
    pub(super) fn new(options: &Options) -> Ports {
        let (min, max) = options.local_ports;
        Ports {
            offered: options.offered.clone(),
            free: options.offered.iter().flat_map(|&(first, last)| first..=last).collect(),
            service_free: (min..max).collect(),
            service_range: (min, max),
            fixed: HashSet::new(),
            is_short: false,
            // A range without ports was reported when it was read.
            is_service_short: min >= max,
        }
    }

    /// Notes a host port that a definition fixes.
    pub(super) fn reserve(&mut self, port: u16) {
        self.free.remove(&port);
    }

    /// Notes a service port that a definition fixes.
    pub(super) fn reserve_service(&mut self, port: u16) {
        self.service_free.remove(&port);
    }

    /// Takes a fixed host port. False: somebody has it already.
    pub(super) fn take(&mut self, port: u16, at: PlaceId, report: &mut Report) -> bool {
        let is_offered = self.offered.iter().any(|&(first, last)| (first..=last).contains(&port));
        if !is_offered {
            let ranges: Vec<String> =
                self.offered.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let message = format!("port {port} is not in the offer {}", ranges.join(","));
            report.warning(at, message).hint("Marathon waits for an agent that offers it");
        }
        self.fixed.insert(port)
    }

    /// Takes some host port for somebody. `None`: there are none left, which is reported once.
    pub(super) fn pick(
        &mut self,
        who: &str,
        at: PlaceId,
        is_needed: bool,
        report: &mut Report,
    ) -> Option<u16> {
        let port = self.free_from(who);
        match port {
            Some(port) => drop(self.free.remove(&port)),
            None if self.is_short => {}
            None => {
                self.is_short = true;
                let message = "the offer has no port left for this one and those that follow";
                let problem = match is_needed {
                    true => report.error(at, message),
                    false => report.warning(at, message),
                };
                problem.hint("offer more by the setting offered_ports");
            }
        }
        port
    }

    fn free_from(&self, who: &str) -> Option<u16> {
        let count: u64 =
            self.offered.iter().map(|&(first, last)| u64::from(last - first) + 1).sum();
        let mut index = hash(who) % count.max(1);
        let mut start = 0;
        for &(first, last) in &self.offered {
            let here = u64::from(last - first) + 1;
            if index < here {
                start = first + index as u16;
                break;
            }
            index -= here;
        }
        self.free.range(start..).next().or(self.free.first()).copied()
    }

    /// Takes the lowest free service port.
    pub(super) fn service(&mut self, at: PlaceId, report: &mut Report) -> Option<u16> {
        let port = self.service_free.pop_first();
        if port.is_none() && !self.is_service_short {
            self.is_service_short = true;
            let (min, max) = self.service_range;
            report.error(at, format!("All ports in the range [{min}-{max}) are already in use"));
        }
        port
    }
}

/// FNV-1a: a hash that stays the same from run to run.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
