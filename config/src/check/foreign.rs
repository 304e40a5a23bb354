//! Keys of networks that another driver has, and what each driver is in words.
//!
//! A key that would mean nothing is refused where it stands, so that nobody relies on it. Not here:
//! what the keys of a driver's own say.

use crate::model::NetworkDriver;
use crate::report::Report;
use crate::schema;

/// Refuses keys of bridges in a network of another driver.
pub(super) fn refuse_all(table: &schema::Network, driver: NetworkDriver, report: &mut Report) {
    let places = [
        table.subnet.place(),
        table.subnets.place(),
        table.ipv4.place(),
        table.ipv6.place(),
        table.gateway.place(),
        table.gateways.place(),
        table.gateway_mac.place(),
        table.ip_range.place(),
        table.ip_ranges.place(),
        table.reserved.place(),
        table.aux_addresses.place(),
        table.quarantine.place(),
        table.host_ipv4.place(),
        table.host_ipv6.place(),
        table.internal.place(),
        table.icc.place(),
        table.mode.place(),
        table.masquerade.place(),
        table.mac_policy.place(),
        table.mtu.place(),
        table.mss_clamp.place(),
        table.multicast_snooping.place(),
        table.uplink.place(),
    ];
    let (word, meaning) = explained(driver);
    for at in places.into_iter().flatten() {
        let problem = report.error(at, format!("a network of driver {word} has no such key"));
        problem.hint(meaning);
    }
}

/// Refuses keys of overlays in a network of another driver.
pub(super) fn refuse_overlays(table: &schema::Network, report: &mut Report) {
    let places = [
        table.vni.place(),
        table.port.place(),
        table.peers.place(),
        table.group.place(),
        table.remote.place(),
        table.route.place(),
    ];
    for at in places.into_iter().flatten() {
        let problem = report.error(at, "only an overlay has such a key");
        problem.hint("write driver = \"overlay\"");
    }
}

/// Refuses keys of macvlan and ipvlan in a network of another driver.
pub(super) fn refuse_parents(table: &schema::Network, report: &mut Report) {
    for at in [table.parent.place(), table.vlan.place()].into_iter().flatten() {
        let problem = report.error(at, "only a macvlan or ipvlan network has such a key");
        problem.hint("write driver = \"macvlan\" or \"ipvlan\"");
    }
    if let Some(at) = table.flag.place() {
        let problem = report.error(at, "only an ipvlan network has such a key");
        problem.hint("write driver = \"ipvlan\"");
    }
}

/// A driver without addresses: its word and what it means.
pub(crate) fn explained(driver: NetworkDriver) -> (&'static str, &'static str) {
    match driver {
        NetworkDriver::Bridge => ("bridge", "members share a link with the gateway"),
        NetworkDriver::Overlay => ("overlay", "a bridge that goes on behind tunnels"),
        NetworkDriver::Macvlan => ("macvlan", "members are on an uplink's link"),
        NetworkDriver::Ipvlan => ("ipvlan", "members are on an uplink's link, by its MAC address"),
        NetworkDriver::None => ("none", "its member has a loopback device and nothing else"),
        NetworkDriver::Host => {
            ("host", "its member has the host's own network: it is in no namespace")
        }
    }
}
