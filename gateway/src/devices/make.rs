//! Makes, joins, changes and deletes devices, inside their namespace.
//!
//! Every function here runs on a thread that is in the device's namespace. A device is found by
//! its alias (see `record`), whatever it is called meanwhile. The one hard constraint: what is
//! wanted is set, and what we had set before and is no longer wanted is taken away, whichever of it
//! a killed run had done; what others set is left.

use std::io;
use std::net::IpAddr;

use drivers::{LinkState, Tap, XdpMemory};
use engine::MacAddress;
use ipnet::IpNet;

use super::existing::{self, Used};
use super::place::Opened;
use super::plan::{DeviceKey, Wanted};
use super::record::{DeviceRecord, alias_of};
use crate::error::{Error, Place};
use crate::netlink::{LinkSettings, Netlink};
use crate::runner::PortQueue;

/// Per-interface IPv6 settings, written before the link goes up. The gateway sends no router
/// advertisements and gives each address out once, so soliciting and probing would only delay the
/// first packet and wake idle workers. Link-local addresses stay, derived from the MAC, which is
/// what anti-spoofing expects.
const IPV6_SETTINGS: [(&str, &str); 5] = [
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("router_solicitations", "0"),
    ("dad_transmits", "0"),
    ("addr_gen_mode", "0"),
];

/// A device with its queues.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) key: DeviceKey,
    pub(super) index: u32,
    /// False: it was there already, and its queues are opened anew.
    pub(super) is_new: bool,
    pub(super) queues: Vec<PortQueue>,
    /// Of an existing device: what was found out about it.
    pub(super) used: Option<Used>,
}

/// A device that is to be made or joined.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: DeviceKey,
    pub(super) wanted: Wanted,
    /// What the journal says about it.
    pub(super) before: Option<DeviceRecord>,
    /// True: another device has them until the commit.
    pub(super) routes_are_late: bool,
}

/// What all devices have in common.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) id: &'a str,
    pub(super) queue_count: usize,
    pub(super) memory: &'a XdpMemory,
}

impl Maker<'_> {
    /// Makes or joins all devices of one namespace. On an error none is left that was not there.
    pub(super) fn make_all(&self, tasks: &[Task]) -> Result<Vec<Made>, Error> {
        let Some(first) = tasks.first() else { return Ok(Vec::new()) };
        let netlink = Netlink::open_here(Place(first.key.place.clone()))?;
        let links = netlink.links()?;
        let mut made: Vec<Made> = Vec::new();
        for task in tasks {
            match self.make(&netlink, &links, task) {
                Ok(device) => made.push(device),
                Err(error) => {
                    for device in made.iter().filter(|device| device.is_new) {
                        delete(&netlink, &alias_of(self.id, &device.key.interface));
                    }
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    fn make(&self, netlink: &Netlink, links: &[LinkState], task: &Task) -> Result<Made, Error> {
        if let Some(wanted) = &task.wanted.xdp {
            return existing::open(netlink, links, task, wanted, self.queue_count, self.memory);
        }
        let device = task.key.interface.as_str();
        let alias = alias_of(self.id, device);
        let named = links.iter().find(|link| link.name == device);
        let ours = links.iter().find(|link| link.alias.as_deref() == Some(alias.as_str()));
        match (named, ours) {
            (None, None) => self.create(netlink, task, alias),
            (None, Some(ours)) => {
                tracing::warn!(
                    device,
                    name = ours.name,
                    "device was renamed: its name is set back"
                );
                netlink.rename_link(&ours.name, device)?;
                self.join(netlink, task, alias, ours)
            }
            (Some(named), Some(ours)) if named.index == ours.index => {
                self.join(netlink, task, alias, ours)
            }
            (Some(named), _) => Err(Error::DeviceExists {
                device: device.into(),
                place: Place(task.key.place.clone()),
                alias: named.alias.clone(),
            }),
        }
    }

    fn create(&self, netlink: &Netlink, task: &Task, alias: String) -> Result<Made, Error> {
        let device = task.key.interface.as_str();
        let options = task.wanted.options(device, alias.clone(), self.queue_count);
        let tap = Tap::create(&options).map_err(|source| refused(task, source))?;
        let caps = tap.caps();
        let set = || {
            set_ipv6(device);
            let arp = Some(!task.wanted.no_arp);
            netlink.set_link(device, LinkSettings { up: true, arp, ..LinkSettings::default() })?;
            for &address in &task.wanted.addresses {
                netlink.add_address(device, address)?;
            }
            for &(to, via) in task.wanted.routes.iter().filter(|_| !task.routes_are_late) {
                netlink.add_route(device, to, next_hop(via))?;
            }
            netlink.link_index(device)
        };
        match set() {
            Ok(index) => {
                tracing::debug!(port = task.wanted.port_name, device = %task.key, ?caps, "made");
                let (key, index) = (task.key.clone(), index.unwrap_or(0));
                Ok(Made { key, index, is_new: true, queues: queues_of(tap), used: None })
            }
            Err(error) => {
                drop(tap);
                delete(netlink, &alias);
                Err(error)
            }
        }
    }

    fn join(
        &self,
        netlink: &Netlink,
        task: &Task,
        alias: String,
        link: &LinkState,
    ) -> Result<Made, Error> {
        let (device, index) = (task.key.interface.as_str(), link.index);
        let mut options = task.wanted.options(device, alias, self.queue_count);
        if link.mac == options.mac {
            // Setting it would make the kernel forget the link's neighbours all the same.
            options.mac = None;
        }
        let tap = Tap::join(&options, index).map_err(|source| refused(task, source))?;
        set_ipv6(device);
        let arp = Some(!task.wanted.no_arp);
        netlink.set_link(device, LinkSettings { arp, ..LinkSettings::default() })?;
        set_wanted(netlink, device, &task.wanted, task.before.as_ref())?;
        tracing::info!(port = task.wanted.port_name, device = %task.key, "device re-attached");
        let key = task.key.clone();
        Ok(Made { key, index, is_new: false, queues: queues_of(tap), used: None })
    }
}

fn queues_of(tap: Tap) -> Vec<PortQueue> {
    tap.into_queues().into_iter().map(PortQueue::Tap).collect()
}

fn refused(task: &Task, source: drivers::DriverError) -> Error {
    Error::Device { place: Place(task.key.place.clone()), source }
}

/// Sets what can be changed while packets flow. `mac` is the MAC address that it has.
pub(super) fn alter(
    netlink: &Netlink,
    device: &str,
    wanted: &Wanted,
    before: &DeviceRecord,
    mac: Option<MacAddress>,
) -> Result<(), Error> {
    // Set again, it would make the kernel forget the link's neighbours.
    let mac = Some(wanted.mac).filter(|_| mac != Some(wanted.mac));
    let (mtu, arp) = (Some(wanted.mtu), Some(!wanted.no_arp));
    netlink.set_link(device, LinkSettings { mac, mtu, arp, ..LinkSettings::default() })?;
    set_wanted(netlink, device, wanted, Some(before))
}

/// The next hop of a route; unspecified: the device itself leads there.
pub(super) fn next_hop(via: IpAddr) -> Option<IpAddr> {
    Some(via).filter(|via| !via.is_unspecified())
}

/// What is on a device, or is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings<'a> {
    addresses: &'a [IpNet],
    routes: &'a [(IpNet, IpAddr)],
}

impl<'a> Settings<'a> {
    pub(super) fn of(addresses: &'a [IpNet], routes: &'a [(IpNet, IpAddr)]) -> Settings<'a> {
        Settings { addresses, routes }
    }
}

fn set_wanted(
    netlink: &Netlink,
    device: &str,
    wanted: &Wanted,
    before: Option<&DeviceRecord>,
) -> Result<(), Error> {
    let before = before.map(|before| Settings::of(&before.addresses, &before.routes));
    let settings = Settings::of(&wanted.addresses, &wanted.routes);
    set_addresses(netlink, device, settings, before.unwrap_or_default())
}

/// Takes the link up and sets its addresses and routes, whatever is there of them.
pub(super) fn set_addresses(
    netlink: &Netlink,
    device: &str,
    Settings { addresses, routes }: Settings<'_>,
    before: Settings<'_>,
) -> Result<(), Error> {
    netlink.set_link(device, LinkSettings { up: true, ..LinkSettings::default() })?;
    for &(to, via) in before.routes.iter().filter(|route| !routes.contains(route)) {
        netlink.remove_route(device, to, next_hop(via))?;
    }
    let mut expected = netlink.addresses(device)?;
    for &address in before.addresses {
        if !addresses.contains(&address) && expected.contains(&address) {
            netlink.remove_address(device, address)?;
            expected.retain(|other| *other != address);
        }
    }
    // The kernel takes all addresses of a subnet away with the first one, others' too.
    let present = netlink.addresses(device)?;
    expected.extend(addresses.iter().filter(|address| !present.contains(address)));
    expected.sort();
    expected.dedup();
    for address in expected.into_iter().filter(|address| !present.contains(address)) {
        netlink.add_address(device, address)?;
    }
    for &(to, via) in routes {
        netlink.ensure_route(device, to, next_hop(via))?;
    }
    Ok(())
}

/// Takes away the routes that we may have set and that are not in `wanted`.
pub(super) fn remove_routes(
    netlink: &Netlink,
    device: &str,
    wanted: &[(IpNet, IpAddr)],
    before: &DeviceRecord,
) -> Result<(), Error> {
    for &(to, via) in before.routes.iter().filter(|route| !wanted.contains(route)) {
        netlink.remove_route(device, to, next_hop(via))?;
    }
    Ok(())
}

/// Sets the routes that are wanted and not there.
pub(super) fn add_routes(netlink: &Netlink, device: &str, wanted: &Wanted) -> Result<(), Error> {
    for &(to, via) in &wanted.routes {
        netlink.ensure_route(device, to, next_hop(via))?;
    }
    Ok(())
}

/// Deletes the device of ours that has this alias; one that is not there is no error.
pub(super) fn delete(netlink: &Netlink, alias: &str) {
    let links = netlink.links().unwrap_or_default();
    let ours = links.iter().find(|link| link.alias.as_deref() == Some(alias));
    if let Some(link) = ours
        && let Err(error) = netlink.delete_link(&link.name)
    {
        tracing::warn!(%error, "device stays");
    }
}

/// Writes [`IPV6_SETTINGS`] for a device of the calling thread's namespace. A kernel without IPv6
/// has none of them, and in a container they may be read-only: the device works all the same.
fn set_ipv6(device: &str) {
    for (key, value) in IPV6_SETTINGS {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/{key}");
        match std::fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path, value, %error, "setting not made");
            }
            _ => {}
        }
    }
}

/// Takes the loopback device of a namespace of ours up.
pub(super) fn raise_loopback(place: &Opened) -> Result<(), Error> {
    let netlink = Netlink::open_here(Place(place.path.clone()))?;
    netlink.set_link("lo", LinkSettings { up: true, ..LinkSettings::default() })
}
