//! A Docker network: what the daemon is asked to make, its rules, and the native network it is.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Purpose;
use super::super::fragment::{self, Fragment, flag, list, number, text};
use super::Reading;
use super::labels::Labels;
use super::overlay::Task;
use super::pools::{Pool, overlap};
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema;

/// Networks beyond this many are not compared with each other: the native checker does it faster.
const COMPARED_COUNT_MAX: usize = 1_000;

/// A network.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) at: PlaceId,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) driver_at: PlaceId,
    pub(super) internal: Option<(bool, PlaceId)>,
    pub(super) ipv4: Option<bool>,
    pub(super) ipv6: Option<bool>,
    pub(super) pools: Vec<Pool>,
    pub(super) ipam_driver: Option<(String, PlaceId)>,
    pub(super) labels: Labels,
    /// The nodes that have endpoints of an overlay, ours among them.
    pub(super) peers: Vec<(IpAddr, PlaceId)>,
    pub(super) tasks: Vec<Task>,
    /// It is the routing mesh's.
    pub(super) ingress: Option<PlaceId>,
}

impl Spec {
    pub(super) fn is_internal(&self) -> bool {
        self.internal.is_some_and(|(internal, _)| internal)
    }

    /// True if its endpoints have devices.
    pub(super) fn is_bridge(&self) -> bool {
        self.driver == "bridge"
    }

    fn has_v4(&self) -> bool {
        self.ipv4.or(self.labels.enable_v4).unwrap_or(true)
    }

    fn has_v6(&self) -> bool {
        self.ipv6.or(self.labels.enable_v6).unwrap_or(false)
    }

    /// Checks the network by itself.
    pub(super) fn validate(&self, report: &mut Report) {
        match (self.name.as_str(), self.driver.as_str()) {
            ("bridge", driver) if driver != "bridge" => {
                report.error(self.at, "operation is not permitted on predefined bridge network");
            }
            (name, "host") if name != "host" => {
                report.error(self.at, "only one instance of \"host\" network is allowed");
            }
            (name, "null" | "none") if name != "none" => {
                report.error(self.at, "only one instance of \"null\" network is allowed");
            }
            (name @ ("host" | "none"), driver) if !matches!(driver, "host" | "null" | "none") => {
                let message = format!("operation is not permitted on predefined {name} network");
                report.error(self.at, message);
            }
            _ => {}
        }
        if !self.has_v4() && !self.has_v6() {
            report.error(self.at, "IPv4 or IPv6 must be enabled");
        }
        match self.driver.as_str() {
            "bridge" => self.validate_bridge(report),
            "macvlan" => self.validate_parent(
                "macvlan",
                &["bridge", "private", "vepa", "passthru"],
                "bridge",
                report,
            ),
            "ipvlan" => self.validate_parent("ipvlan", &["l2", "l3", "l3s"], "l2", report),
            "overlay" => self.validate_overlay(report),
            "host" | "null" | "none" => {}
            other => drop(report.warning(self.driver_at, format!("plugin {other:?} not found"))),
        }
    }

    fn validate_bridge(&self, report: &mut Report) {
        for is_v4 in [true, false] {
            let mut of_family =
                self.pools.iter().filter(|pool| pool.subnet.addr().is_ipv4() == is_v4);
            of_family.next();
            if let Some(second) = of_family.next() {
                report.error(second.at, "bridge driver doesn't support multiple subnets");
            }
        }
        if let Some((name, at)) = &self.labels.bridge_name {
            if name == "docker0" && self.name != "bridge" {
                let message = format!(
                    "cannot create network {} (docker0): conflicts with network bridge \
                        (docker0): \
                     networks have same bridge name",
                    self.name
                );
                report.error(*at, message);
            }
            if let Err(message) = crate::names::InterfaceName::new(name) {
                report.error(*at, message);
            }
        }
    }

    fn validate_parent(&self, driver: &str, modes: &[&str], default: &str, report: &mut Report) {
        if let Some((parent, at)) = &self.labels.parent
            && parent == "lo"
        {
            let message = format!("loopback interface is not a valid {driver} parent link");
            report.error(*at, message);
        }
        if let Some((mode, at)) = &self.labels.driver_mode
            && !modes.contains(&mode.as_str())
        {
            let message = format!(
                "requested {driver} mode '{mode}' is not valid, '{default}' mode is the {driver} \
                 driver default"
            );
            report.error(*at, message);
        }
        if let Some((flag, at)) = &self.labels.driver_flag
            && !matches!(flag.as_str(), "bridge" | "private" | "vepa")
        {
            let message = format!(
                "requested {driver} flag '{flag}' is not valid, 'bridge' is the {driver} driver \
                 default"
            );
            report.error(*at, message);
        }
    }

    /// One line about it.
    fn summary(&self) -> String {
        let subnets: Vec<String> = self.pools.iter().map(|pool| pool.subnet.to_string()).collect();
        let internal = if self.is_internal() { ", internal" } else { "" };
        let subnets = match subnets.is_empty() {
            true => "a subnet of the pool".to_owned(),
            false => subnets.join(", "),
        };
        format!("network {}: driver {}, {subnets}{internal}", self.name, self.driver)
    }

    /// Adds it to a fragment.
    pub(super) fn add_to(
        &self,
        reading: &mut Reading<'_>,
        fragment: &mut Fragment,
        report: &mut Report,
    ) {
        let summary = self.summary();
        fragment.summary.push(summary.clone());
        if reading.purpose == Purpose::Check {
            return;
        }
        match self.driver.as_str() {
            "bridge" => {}
            "macvlan" | "ipvlan" => return self.add_child(&summary, fragment, report),
            "overlay" => return self.add_overlay(&summary, reading.swarm, fragment, report),
            // They exist without being written down.
            "host" | "null" | "none" => return,
            other => {
                let message = format!("networks of driver {other} are not in this version");
                report.error(self.driver_at, message);
                return;
            }
        }
        self.say_losses(report);
        let mode = self.labels.mode([self.has_v4(), self.has_v6()], report);
        let mode = mode.map_or(Field::Absent, |(mode, at)| text(at, mode));
        let table = schema::Network { mode, ..self.table() };
        fragment.network(self.at, &self.name, format!("Docker's {summary}."), table);
    }

    /// A network on its parent's link. Without a parent, or internal, Docker gives it a link of its
    /// own that leads nowhere.
    fn add_child(&self, summary: &str, fragment: &mut Fragment, report: &mut Report) {
        self.say_losses(report);
        let labels = &self.labels;
        let own = self.table();
        let absent = schema::Network {
            internal: Field::Absent,
            icc: Field::Absent,
            masquerade: Field::Absent,
            ..own
        };
        let parent = labels.parent.as_ref().filter(|(parent, _)| !parent.is_empty());
        let table = match parent.filter(|_| !self.is_internal()) {
            Some((parent, at)) => {
                fragment.parent(*at, parent);
                let word = |given: &Option<(String, PlaceId)>| {
                    given.as_ref().map_or(Field::Absent, |(word, at)| text(*at, word))
                };
                let mode = labels.driver_mode.as_ref().map(|(mode, _)| mode.as_str());
                let is_routed = matches!(mode, Some("l3" | "l3s"));
                schema::Network {
                    driver: text(self.driver_at, &self.driver),
                    parent: text(*at, parent),
                    mode: word(&labels.driver_mode),
                    flag: if is_routed { Field::Absent } else { word(&labels.driver_flag) },
                    ..absent
                }
            }
            None => schema::Network {
                internal: flag(self.at, true),
                mode: text(self.at, "isolated"),
                ..absent
            },
        };
        fragment.network(self.at, &self.name, format!("Docker's {summary}."), table);
    }

    /// Says what a native network has no words for.
    pub(super) fn say_losses(&self, report: &mut Report) {
        for (at, message) in &self.labels.lost {
            report.warning(*at, message);
        }
        if let Some((driver, at)) = &self.ipam_driver
            && !matches!(driver.as_str(), "" | "default")
        {
            report.warning(*at, format!("addresses are not given by IPAM driver {driver:?} here"));
        }
    }

    /// Everything but the gateway mode.
    pub(super) fn table(&self) -> schema::Network {
        let at = self.at;
        let of = |given: Option<(bool, PlaceId)>| {
            given.map_or(Field::Absent, |(value, at)| flag(at, value))
        };
        let labels = &self.labels;
        let pools = &self.pools;
        let gateways = pools.iter().filter_map(|pool| pool.gateway);
        let gateways = gateways.map(|(address, at)| fragment::address(at, address));
        let ranges = pools.iter().filter_map(|pool| pool.range);
        let ranges = ranges.map(|(prefix, at)| fragment::prefix(at, prefix));
        let aux: Vec<_> = pools
            .iter()
            .flat_map(|pool| &pool.aux)
            .map(|(name, address, at)| (text(*at, name), fragment::address(*at, *address)))
            .collect();
        let wants = |is_v4: bool| {
            let enabled = if is_v4 { self.has_v4() } else { self.has_v6() };
            let has = pools.iter().any(|pool| pool.subnet.addr().is_ipv4() == is_v4);
            // A family that is on without a subnet takes one of the pool.
            let says = enabled && !has || !enabled && is_v4;
            if says { flag(at, enabled) } else { Field::Absent }
        };
        schema::Network {
            driver: text(self.driver_at, "bridge"),
            subnets: list(
                pools.iter().map(|pool| fragment::prefix(pool.at, pool.subnet)).collect(),
            ),
            ipv4: if pools.is_empty() && !self.has_v6() { Field::Absent } else { wants(true) },
            ipv6: wants(false),
            gateways: list(gateways.collect()),
            ip_ranges: list(ranges.collect()),
            aux_addresses: match aux.first() {
                Some((name, _)) => Field::Given(name.place().unwrap_or(at), Named(aux)),
                None => Field::Absent,
            },
            internal: of(self.internal.filter(|(internal, _)| *internal)),
            icc: of(labels.icc),
            masquerade: of(labels.masquerade),
            mtu: labels.mtu.map_or(Field::Absent, |(mtu, at)| number(at, mtu)),
            ..schema::Network::default()
        }
    }

    /// True if the address lies in a subnet that the file gives.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.subnet.contains(&address))
    }
}

/// Checks networks beside each other.
pub(super) fn validate_together(specs: &[Spec], report: &mut Report) {
    let mut names: HashMap<&str, PlaceId> = HashMap::new();
    for spec in specs {
        if let Some(other) = names.insert(&spec.name, spec.at) {
            let message = format!("network with name {} already exists", spec.name);
            report.error(spec.at, message).related(other, "it is here");
        }
    }
    if specs.len() > COMPARED_COUNT_MAX {
        return;
    }
    for (index, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.is_bridge()) {
        for other in specs[..index].iter().filter(|other| other.is_bridge()) {
            let Some((at, why)) = conflict(spec, other) else { continue };
            let message = format!(
                "cannot create network {} ({}): conflicts with network {} ({}): networks have \
                    {why}",
                spec.name,
                spec.device(),
                other.name,
                other.device()
            );
            report.error(at, message).related(other.at, "this is the other");
        }
    }
}

impl Spec {
    fn device(&self) -> &str {
        match &self.labels.bridge_name {
            Some((name, _)) => name,
            None if self.name == "bridge" => "docker0",
            None => "br-",
        }
    }
}

fn conflict(spec: &Spec, other: &Spec) -> Option<(PlaceId, &'static str)> {
    if let (Some((own, at)), Some((theirs, _))) =
        (&spec.labels.bridge_name, &other.labels.bridge_name)
        && own == theirs
    {
        return Some((*at, "same bridge name"));
    }
    let overlapping = |pool: &&Pool| other.pools.iter().any(|one| overlap(one.subnet, pool.subnet));
    let pool = spec.pools.iter().find(overlapping)?;
    Some((
        pool.at,
        if matches!(pool.subnet, IpNet::V4(_)) { "overlapping IPv4" } else { "overlapping IPv6" },
    ))
}
