//! The ends of a veth that we use by AF_XDP: found, set up, and put back as they were.
//!
//! A veth has two ends; one is ours, and behind the other is the kernel's stack of an endpoint or
//! of a neighbour, or a program that reads what comes as it is. That stack leaves work to hardware
//! which is not there, so its offloads are switched off; an endpoint's end gets the endpoint's MAC
//! address, IP addresses and routes. An end is found by the number of its namespace, among those
//! that have a name or a process. One that is not found is out of reach: its unfinished checksums
//! are finished by us, and the log says which commands its operator is to run. Our own end is left
//! alone, but where super-frames leave by a relay its offloads are switched off as well: what
//! passes the veth is what a ring would have sent, whoever reads it there.
//!
//! The one hard constraint: what is changed is journaled first, with what was there before, so that
//! the end or, after a kill, the next start puts it back. It is told by its namespace's cookie and
//! its index there, never by its name.
//!
//! What this does not do: cards. What leaves by a relay is theirs to cut.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use drivers::NamespaceNumbers;
use engine::MacAddress;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::make::{self, Settings};
use super::plan::{DeviceKey, PeerWanted};
use super::record::boot_id;
use crate::error::{Error, Place};
use crate::netlink::{LinkSettings, Netlink};
use crate::netns;
use crate::store::Store;

/// Which device an end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    path: PathBuf,
    cookie: u64,
    index: u32,
}

/// What the journal says about it: what is on it that was not there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EndRecord {
    path: PathBuf,
    cookie: u64,
    boot: String,
    index: u32,
    /// Names of features that were on.
    offloads: Vec<String>,
    /// The MAC address that it had, as a number; `None`: it has it still.
    mac: Option<u64>,
    /// It was taken up by us.
    was_down: bool,
    addresses: Vec<IpNet>,
    routes: Vec<(IpNet, IpAddr)>,
}

/// Which end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that we use.
    Own,
    /// The other one.
    Other,
}

impl Side {
    /// The journal's key for this end of a device.
    fn journal_key(self, key: &DeviceKey) -> String {
        let side = match self {
            Side::Own => "own",
            Side::Other => "peer",
        };
        let place = key.place.as_deref().unwrap_or(Path::new("host"));
        format!("{side}/{}@{}", key.interface, place.display())
    }
}

/// An end of the device of this key, in whose namespace the calling thread is: by its index, and
/// the number of its namespace, `None` for that of the key. `None`: out of reach.
pub(super) fn find(key: &DeviceKey, index: u32, number: Option<i32>) -> Option<End> {
    let path = match number {
        None => key.place.clone().unwrap_or_else(|| PathBuf::from("/proc/self/ns/net")),
        Some(number) => {
            let numbers = NamespaceNumbers::open().ok()?;
            candidates().into_iter().find(|path| {
                let file = File::open(path);
                file.is_ok_and(|file| numbers.number(file.as_fd()).ok() == Some(number))
            })?
        }
    };
    let cookie = netns::cookie_of(&path)?;
    Some(End { path, cookie, index })
}

/// True if an XDP program in generic mode is at this end, which sees nothing of what is redirected
/// to it.
pub(super) fn has_generic_program(end: &End) -> bool {
    let look = || {
        let netlink = Netlink::open_here(Place(Some(end.path.clone())))?;
        netlink.has_generic_program(end.index)
    };
    netns::within(&end.path, look).flatten().unwrap_or_else(|error| {
        tracing::warn!(%error, "the other end of a veth cannot be looked at");
        false
    })
}

/// Paths of all namespaces that have a name or a process, each namespace once.
fn candidates() -> Vec<PathBuf> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries(netns::NAMESPACE_DIRECTORY).map(|entry| entry.path());
    let is_process = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    let processes = entries("/proc").filter(is_process).map(|entry| entry.path().join("ns/net"));
    let mut seen = BTreeSet::new();
    let mut is_new = |path: &PathBuf| {
        let identity = fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        identity.is_ok_and(|identity| seen.insert(identity))
    };
    named.chain(processes).filter(|path| is_new(path)).collect()
}

/// Sets an end up, journaled. `wanted` is what an endpoint's end gets; `None`: it is a neighbour's,
/// or ours.
pub(super) fn set_up(
    store: &Store,
    key: &DeviceKey,
    (side, end): (Side, &End),
    wanted: Option<&PeerWanted>,
) -> Result<(), Error> {
    let journal_key = side.journal_key(key);
    let is_same = |record: &EndRecord| {
        (record.cookie, record.index) == (end.cookie, end.index) && record.boot == boot_id()
    };
    let before = store.get::<EndRecord>(&journal_key)?.filter(is_same);
    netns::within(&end.path, || {
        let netlink = Netlink::open_here(Place(Some(end.path.clone())))?;
        let links = netlink.links()?;
        let Some(link) = links.iter().find(|link| link.index == end.index) else {
            tracing::warn!(device = %key, ?side, "an end of it is gone");
            return Ok(());
        };
        let device = link.name.as_str();
        let refused = |source| Error::Device { place: Place(Some(end.path.clone())), source };
        let offloads = drivers::offloads_in_use(device).map_err(refused)?;
        let mut record = EndRecord {
            path: end.path.clone(),
            cookie: end.cookie,
            boot: boot_id(),
            index: end.index,
            offloads: offloads.clone(),
            mac: wanted.and(link.mac).map(|mac| mac.0),
            was_down: wanted.is_some() && !link.is_up,
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        let (mut old_addresses, mut old_routes) = (Vec::new(), Vec::new());
        if let Some(before) = before {
            record.offloads.extend(before.offloads);
            record.offloads.sort();
            record.offloads.dedup();
            record.mac = before.mac.or(record.mac);
            record.was_down |= before.was_down;
            (old_addresses, old_routes) = (before.addresses, before.routes);
        }
        let addresses = wanted.map_or(&[][..], |wanted| &wanted.addresses);
        let routes = wanted.map_or(&[][..], |wanted| &wanted.routes);
        let added = addresses.iter().filter(|address| !old_addresses.contains(address));
        record.addresses = old_addresses.iter().chain(added).copied().collect();
        let added = routes.iter().filter(|route| !old_routes.contains(route));
        record.routes = old_routes.iter().chain(added).copied().collect();
        store.put(&journal_key, &record)?;
        drivers::set_offloads(device, &offloads, false).map_err(refused)?;
        let Some(wanted) = wanted else { return Ok(()) };
        let mac = Some(wanted.mac).filter(|_| link.mac != Some(wanted.mac));
        let arp = Some(false).filter(|_| wanted.no_arp);
        netlink.set_link(device, LinkSettings { mac, arp, ..LinkSettings::default() })?;
        let (own, old) =
            (Settings::of(addresses, routes), Settings::of(&old_addresses, &old_routes));
        make::set_addresses(&netlink, device, own, old)?;
        record.addresses = addresses.to_vec();
        record.routes = routes.to_vec();
        Ok(store.put(&journal_key, &record)?)
    })?
}

/// As [`set_up`], for an end that was set up before and is to be otherwise now.
pub(super) fn alter(
    store: &Store,
    key: &DeviceKey,
    wanted: Option<&PeerWanted>,
) -> Result<(), Error> {
    let Some(record) = store.get::<EndRecord>(&Side::Other.journal_key(key))? else {
        return Ok(());
    };
    let end = End { path: record.path, cookie: record.cookie, index: record.index };
    set_up(store, key, (Side::Other, &end), wanted)
}

/// Puts both ends back as they were, as far as the journal knows of them.
pub(super) fn put_back(store: &Store, key: &DeviceKey) {
    [Side::Own, Side::Other].iter().for_each(|side| put_side_back(store, key, *side));
}

/// The same for one end.
pub(super) fn put_side_back(store: &Store, key: &DeviceKey, side: Side) {
    let journal_key = side.journal_key(key);
    let undone = (|| {
        let Some(record) = store.get::<EndRecord>(&journal_key)? else { return Ok(()) };
        if record.boot == boot_id() && netns::cookie_of(&record.path) == Some(record.cookie) {
            netns::within(&record.path, || undo(&record))??;
        }
        Ok::<(), Error>(store.remove(&journal_key)?)
    })();
    if let Err(error) = undone {
        tracing::warn!(device = %key, ?side, %error, "an end of it is not put back as it was");
    }
}

/// Inside its namespace. Each step is tried, whatever becomes of the others.
fn undo(record: &EndRecord) -> Result<(), Error> {
    let netlink = Netlink::open_here(Place(Some(record.path.clone())))?;
    let links = netlink.links()?;
    let Some(link) = links.iter().find(|link| link.index == record.index) else { return Ok(()) };
    let device = link.name.as_str();
    let mut results = Vec::new();
    for &(to, via) in &record.routes {
        results.push(netlink.remove_route(device, to, make::next_hop(via)));
    }
    let present = netlink.addresses(device)?;
    for &address in record.addresses.iter().filter(|address| present.contains(address)) {
        results.push(netlink.remove_address(device, address));
    }
    if let Some(mac) = record.mac.map(MacAddress) {
        results.push(
            netlink.set_link(device, LinkSettings { mac: Some(mac), ..LinkSettings::default() }),
        );
    }
    if record.was_down {
        let down = LinkSettings { down: true, ..LinkSettings::default() };
        results.push(netlink.set_link(device, down));
    }
    let refused = |source| Error::Device { place: Place(Some(record.path.clone())), source };
    results.push(drivers::set_offloads(device, &record.offloads, true).map_err(refused));
    results.into_iter().collect()
}

/// What the operator of an end that is out of reach is to run there.
pub(super) fn commands(wanted: Option<&PeerWanted>) -> String {
    let device = "DEVICE";
    let mut commands = vec![drivers::offloads_command(device)];
    if let Some(wanted) = wanted {
        commands.push(format!("ip link set {device} address {}", wanted.mac));
        let addresses = wanted.addresses.iter();
        commands.extend(addresses.map(|own| format!("ip address add {own} dev {device}")));
        commands.push(format!("ip link set {device} up"));
        let routes = wanted.routes.iter();
        commands.extend(routes.map(|(to, via)| format!("ip route add {to} via {via}")));
    }
    commands.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_for_an_end_out_of_reach_are_whole() {
        let wanted = PeerWanted {
            no_arp: false,
            mac: MacAddress(0x0242_0a01_000a),
            addresses: vec!["10.1.0.10/24".parse().unwrap()],
            routes: vec![("0.0.0.0/0".parse().unwrap(), "10.1.0.1".parse().unwrap())],
        };
        let text = commands(Some(&wanted));
        for part in [
            "ethtool -K DEVICE tx off",
            "ip link set DEVICE address 02:42:0a:01:00:0a",
            "ip address add 10.1.0.10/24 dev DEVICE",
            "ip route add 0.0.0.0/0 via 10.1.0.1",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(commands(None).starts_with("ethtool"));
    }

    #[test]
    fn our_own_namespace_is_among_the_candidates_once() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let inodes = candidates().into_iter().filter_map(|path| fs::metadata(path).ok());
        assert_eq!(inodes.filter(|metadata| metadata.ino() == own).count(), 1);
    }
}
