//! The link between host and gateway, on the uplink's device: addresses, and routes to networks.
//!
//! The host's IPv4 address there has the scope of the link, and its IPv6 address is deprecated: the
//! kernel takes them as a source only when the host has no other, so an endpoint sees the address
//! that the host is known by. All of it goes with the device.
//!
//! The one hard constraint: routes are told from others' by their protocol number.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use config::Config;
use ipnet::IpNet;

use super::kernel::{HostAddress, OwnRoute};
use super::sysctl;
use super::wanted::{Beside, Wanted};
use crate::error::{Error, Place};
use crate::netlink::Netlink;

/// True if a device has IPv6 at all.
pub(super) fn has_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::read_to_string(path).is_ok_and(|value| value.trim_end() == "0")
}

/// Sets what is missing on the device of an uplink, and takes away what is no longer wanted.
pub(super) fn set(beside: &Beside, wanted: &Wanted) -> Result<(), Error> {
    let device = beside.interface.as_str();
    if !Path::new("/proc/sys/net/ipv4/conf").join(device).exists() {
        // It is down, and comes back by a reload or start, which comes here again.
        return Ok(());
    }
    sysctl::prepare_device(device, true);
    let netlink = Netlink::open_here(Place(None))?;
    let all = netlink.host_addresses()?;
    let links = netlink.links()?;
    let index = links.iter().find(|link| link.name == device).map(|link| link.index);
    let others = |v6: bool| {
        let links = beside.host.links();
        all.iter().any(|own| {
            own.net.addr().is_ipv6() == v6
                && own.is_usable()
                && !links.iter().any(|link| link.contains(&own.net.addr()))
        })
    };
    let v6 = has_ipv6(device);
    for (link, addresses) in beside.host.links().into_iter().zip([0, 1]) {
        if addresses == 1 && !v6 {
            continue;
        }
        let is_v6 = addresses == 1;
        let peer = beside.host.peers()[addresses];
        let loopback = beside.host.loopbacks()[addresses];
        for (address, length) in
            [(peer, link.prefix_len()), (loopback, if is_v6 { 128 } else { 32 })]
        {
            let net = IpNet::new(address, length).expect("a length of the family");
            let mut same = all.iter().filter(|own| own.net.addr() == address);
            if let Some(other) = same.clone().find(|own| Some(own.index) != index) {
                let holder = links.iter().find(|link| link.index == other.index);
                let holder = holder.map_or_else(|| "another interface", |link| &link.name);
                let (uplink, holder) = (beside.name.clone(), holder.to_owned());
                return Err(Error::LinkTaken { address, holder, uplink });
            }
            if !same.any(|own| own.net == net) {
                netlink.add_last_resort(device, net)?;
            }
        }
        let source = (!is_v6 && !others(false)).then_some(peer);
        set_routes(&netlink, beside, wanted, is_v6, source)?;
    }
    Ok(())
}

/// Routes to networks by the gateway, and to its own addresses that the device's do not lead to.
fn set_routes(
    netlink: &Netlink,
    beside: &Beside,
    wanted: &Wanted,
    v6: bool,
    source: Option<IpAddr>,
) -> Result<(), Error> {
    let device = beside.interface.as_str();
    let index = wanted.beside.iter().position(|other| other.name == beside.name);
    let via = beside.host.gateways()[usize::from(v6)];
    let networks = wanted.routes.iter().filter(|(own, _)| Some(*own) == index);
    let own = beside.own.iter().filter(|_| !beside.host.is_shared);
    let own = own.map(|own| IpNet::from(own.addr()));
    let is_family = |to: &IpNet| to.addr().is_ipv6() == v6;
    let destinations = networks.map(|(_, subnet)| *subnet).chain(own).filter(is_family);
    let wanted: Vec<OwnRoute> = destinations.map(|to| OwnRoute { to, via, source }).collect();
    let present = netlink.own_routes(device, v6)?;
    for route in present.iter().filter(|route| !wanted.contains(route)) {
        netlink.remove_own_route(device, *route)?;
    }
    for route in wanted.iter().filter(|route| !present.contains(route)) {
        netlink.add_own_route(device, *route)?;
    }
    Ok(())
}

/// Addresses by which the host is asked: those of all its interfaces, but for those of the link
/// itself, for IPv6's own on each link, and for those that are not settled.
pub(super) fn host_addresses(config: &Config) -> Result<Vec<IpAddr>, Error> {
    let links: Vec<IpNet> = config
        .uplinks
        .iter()
        .filter_map(|uplink| uplink.host.as_ref())
        .flat_map(config::HostSide::links)
        .collect();
    let all = Netlink::open_here(Place(None))?.host_addresses()?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for own in all.iter().filter(|own| own.is_usable()) {
        let address = own.net.addr();
        if !links.iter().any(|link| link.contains(&address)) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Interfaces by which the outside comes in: all that have addresses, but for our own.
pub(super) fn interfaces_outside(wanted: &Wanted) -> Result<BTreeSet<String>, Error> {
    let netlink = Netlink::open_here(Place(None))?;
    let addresses = netlink.host_addresses()?;
    let links = netlink.links()?;
    let has_address =
        |index| addresses.iter().any(|own: &HostAddress| own.index == index && own.is_usable());
    let is_ours = |name: &str| wanted.beside.iter().any(|beside| beside.interface == name);
    let outside = links.into_iter().filter(|link| {
        link.name != "lo"
            && link.name != super::rules::TEST_DEVICE
            && !is_ours(&link.name)
            && has_address(link.index)
    });
    Ok(outside.map(|link| link.name).collect())
}
