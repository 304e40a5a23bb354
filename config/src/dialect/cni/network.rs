//! A CNI network in the words of the native schema, and what has no such words.

use super::super::Purpose;
use super::super::fragment::{self, Fragment, flag, list, number, text};
use super::super::tree::{Node, Value};
use super::Network;
use crate::reader::Field;
use crate::report::Report;
use crate::schema;
use crate::values::Addresses;

/// Prefixes that the rest of a range may take in a config; a range of host-local has at most twice
/// as many as its addresses have bits.
const RESERVED_COUNT_MAX: usize = 256;

impl Network<'_> {
    /// Adds it to a fragment.
    pub(super) fn add_to(&self, fragment: &mut Fragment, purpose: Purpose, report: &mut Report) {
        let subnets: Vec<String> =
            self.ipam.ranges.iter().map(|range| range.subnet.to_string()).collect();
        let addresses = match subnets.is_empty() {
            true => "no addresses".to_owned(),
            false => subnets.join(", "),
        };
        let chained: Vec<String> =
            self.chained.iter().map(|(kind, _)| format!(", {kind}")).collect();
        let summary =
            format!("network {}: {}{}, {addresses}", self.name, self.main_type, chained.concat());
        fragment.summary.push(summary.clone());
        if purpose == Purpose::Check {
            return;
        }
        if !matches!(self.main_type, "bridge" | "ptp" | "macvlan" | "ipvlan" | "vlan") {
            let at = self.main.get("type").map_or(self.main.at, |kind| kind.at);
            let message = format!("networks of type {} are not in this version", self.main_type);
            report.error(at, message);
            return;
        }
        let mut table = self.table(report);
        if self.is_child() {
            self.on_link(&mut table, fragment, report);
        }
        self.report_chained(report);
        let at = self.node.get("name").map_or(self.node.at, |name| name.at);
        fragment.network(at, &self.name, format!("CNI {summary}."), table);
    }

    /// A flag of the plugin that connects.
    fn is_set(&self, key: &str) -> bool {
        self.main.get(key).is_some_and(|node| matches!(node.value, Value::Bool(true)))
    }

    /// True if members are on the link of a device of the host.
    fn is_child(&self) -> bool {
        matches!(self.main_type, "macvlan" | "ipvlan" | "vlan")
    }

    /// What makes it a network on the link of its master.
    fn on_link(&self, table: &mut schema::Network, fragment: &mut Fragment, report: &mut Report) {
        let at = self.main.get("type").map_or(self.main.at, |kind| kind.at);
        (table.masquerade, table.icc) = (Field::Absent, Field::Absent);
        // A VLAN's device has the address of the one below it.
        table.driver = text(at, if self.main_type == "macvlan" { "macvlan" } else { "ipvlan" });
        if let Some(mode) = self.main.get("mode")
            && let Some(word) = mode.as_text().filter(|word| !word.is_empty())
        {
            table.mode = text(mode.at, word);
        }
        let vlan = self.main.get("vlanId").and_then(|id| id.integer(0..=4_094, report));
        let vlan = vlan.filter(|&vlan| vlan > 0);
        match self.main.get("master").and_then(|master| Some((master.at, master.as_text()?))) {
            Some((at, master)) if !master.is_empty() => {
                let parent = match vlan {
                    Some(vlan) => format!("{master}.{vlan}"),
                    None => master.to_owned(),
                };
                fragment.parent(at, &parent);
                table.parent = text(at, &parent);
            }
            _ => {
                let message = "the interface of the default route is meant there, the uplink here";
                report.warning(at, message);
                fragment.lacks_parent = true;
            }
        }
        for key in ["linkInContainer", "bcqueuelen", "mac"] {
            if let Some(node) = self.main.get(key)
                && !matches!(&node.value, Value::Bool(false))
            {
                report.warning(node.at, format!("{key} is not in this version"));
            }
        }
        if self.main_type == "vlan" {
            let message = "members share the VLAN here; there it is one member's alone";
            report.warning(at, message);
        }
    }

    fn table(&self, report: &mut Report) -> schema::Network {
        let at = self.main.at;
        let mut table = schema::Network {
            driver: text(at, "bridge"),
            masquerade: flag(
                self.main.get("ipMasq").map_or(at, |node| node.at),
                self.is_set("ipMasq"),
            ),
            ..schema::Network::default()
        };
        if let Some(mtu) = self.main.get("mtu")
            && let Some(bytes) = mtu.integer(0..=65_535, report).filter(|bytes| *bytes > 0)
        {
            table.mtu = number(mtu.at, bytes);
        }
        let isolated = self.chained.iter().any(|(kind, plugin)| {
            let policy = plugin.get("ingressPolicy").and_then(Node::as_text);
            *kind == "firewall" && policy == Some("isolated")
        });
        if self.is_set("portIsolation") || isolated {
            table.icc = flag(at, false);
        }
        if self.main_type == "ptp" {
            // Members have links of their own, over which they reach each other by the gateway.
            let message = "members of a ptp network share a link here";
            report.warning(self.main.get("type").map_or(at, |kind| kind.at), message);
        }
        self.addresses(&mut table, report);
        self.report_lost(report);
        table
    }

    fn addresses(&self, table: &mut schema::Network, report: &mut Report) {
        if self.ipam.ranges.is_empty() {
            let at = self.ipam.at.unwrap_or(self.main.at);
            let message = "the network has no addresses there, and a free subnet here";
            report.warning(at, message);
            return;
        }
        let (mut subnets, mut gateways, mut reserved) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = Vec::new();
        for range in &self.ipam.ranges {
            if seen.contains(&range.subnet) {
                continue;
            }
            let gateway = range.gateway.unwrap_or_else(|| range.gateway_default());
            gateways.push(fragment::address(range.at, gateway));
            seen.push(range.subnet);
            subnets.push(fragment::prefix(range.at, range.subnet));
            if self.ipam.kind == "static" {
                let message = format!("{} is for an endpoint to have, by its key ip", range.first);
                report.warning(range.at, message);
                continue;
            }
            let rest = range.rest().into_iter().take(RESERVED_COUNT_MAX);
            reserved.extend(rest.map(|prefix| Field::Given(range.at, Addresses(prefix))));
        }
        table.subnets = list(subnets);
        table.gateways = list(gateways);
        table.reserved = list(reserved);
    }

    /// What the native schema has no words for.
    fn report_lost(&self, report: &mut Report) {
        let has_gateway = ["isGateway", "isDefaultGateway"].iter().any(|key| self.is_set(key));
        if self.main_type == "bridge" && !has_gateway {
            let message = "the bridge has no address there; the gateway has one here";
            report.warning(self.main.at, message);
        }
        let is_default = |route: &&super::ipam::Route| route.to.prefix_len() == 0;
        let has_default = self.ipam.routes.iter().any(|route| is_default(&route));
        if self.main_type == "bridge" && !has_default && !self.is_set("isDefaultGateway") {
            let message = "members have no default route there, and one here";
            let problem = report.warning(self.ipam.at.unwrap_or(self.main.at), message);
            problem.hint("set default_route = [] at an endpoint's network");
        }
        for route in self.ipam.routes.iter().filter(|route| !is_default(route)) {
            let message = format!("a route of members to {} is not in this version", route.to);
            report.warning(route.at, message);
        }
        for key in ["vlan", "vlanTrunk", "disableContainerInterface", "enabledad"] {
            if let Some(node) = self.main.get(key)
                && !matches!(&node.value, Value::Bool(false))
                && !matches!(&node.value, Value::Number(number) if number == "0")
            {
                report.warning(node.at, format!("{key} is not in this version"));
            }
        }
        if let Some(dns) = self.main.get("dns").filter(|dns| !dns.entries().is_empty()) {
            report.warning(dns.at, "dns is not in this version");
        }
    }

    fn report_chained(&self, report: &mut Report) {
        for (kind, plugin) in &self.chained {
            let at = plugin.get("type").map_or(plugin.at, |kind| kind.at);
            let message = match *kind {
                "portmap" => continue,
                "bandwidth" if plugin.get("ingressRate").or(plugin.get("egressRate")).is_none() => {
                    continue;
                }
                "bandwidth" => "limits of bandwidth are not in this version",
                "tuning" => "sysctls and links' settings are left to the endpoint",
                "firewall" => match plugin.get("ingressPolicy").and_then(Node::as_text) {
                    Some("same-bridge" | "isolated") => continue,
                    _ => "other networks reach members at published ports alone",
                },
                _ => continue,
            };
            report.warning(at, format!("{kind}: {message}"));
        }
    }
}
