//! Takes an existing device into use by AF_XDP, inside its namespace.
//!
//! Nothing about the device itself is changed: not its state, its MTU, its addresses. The one hard
//! constraint follows: it is never ours, so it is never deleted, and what is done about it ends
//! with its sockets. What is done to the other end of a veth is the business of `peer`.

use drivers::{LinkState, Xdp, XdpMemory, XdpOptions};

use super::make::{Made, Task};
use super::peer::{self, Peer};
use super::plan::XdpWanted;
use crate::error::{Error, Place};
use crate::netlink::Netlink;
use crate::runner::PortQueue;

/// What is known of a device beyond its queues.
#[derive(Clone, Debug)]
pub(super) struct Used {
    /// The other end, if it is a veth and that is in reach.
    pub(super) peer: Option<Peer>,
    /// How it is used.
    pub(super) mode: drivers::XdpMode,
    /// Its MTU, as far as it is ours to use.
    pub(super) mtu: u16,
    /// True if it is up, as an administrator says.
    pub(super) is_up: bool,
}

/// The MTU to use of a device that has this one.
pub(super) fn usable_mtu(wanted: &XdpWanted, mtu: u32) -> u16 {
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    wanted.mtu_max.map_or(mtu, |most| most.min(mtu))
}

/// Opens it, with a queue or a way to send per worker.
pub(super) fn open(
    netlink: &Netlink,
    links: &[LinkState],
    task: &Task,
    wanted: &XdpWanted,
    workers: usize,
    memory: &XdpMemory,
) -> Result<Made, Error> {
    let name = task.key.interface.as_str();
    let refused = |source| Error::Device { place: Place(task.key.place.clone()), source };
    let named = links.iter().find(|link| link.name == name);
    let device_mtu = named.map_or(0, |link| link.mtu);
    let other_end = netlink.veth_peer(name)?;
    let found = other_end.and_then(|(index, number)| peer::find(&task.key, index, number));
    let options = XdpOptions {
        workers,
        mtu: u16::try_from(device_mtu).unwrap_or(u16::MAX),
        take: wanted.take,
        finish_checksums: other_end.is_some() && found.is_none(),
        ..XdpOptions::new(name)
    };
    let xdp = Xdp::open(&options, memory).map_err(refused)?;
    let (mode, index) = (xdp.mode(), xdp.index());
    let port = task.wanted.port_name.as_str();
    let (is_multi, mtu) = (mode.multi_buffer, usable_mtu(wanted, device_mtu));
    tracing::info!(port, device = %task.key, %mode, multi_buffer = is_multi, mtu, "used by AF_XDP");
    if other_end.is_some() && found.is_none() {
        let commands = peer::commands(wanted.peer.as_ref());
        tracing::warn!(
            port,
            device = %task.key,
            "the other end of the veth is out of reach: checksums that it leaves unfinished are \
             finished here; run in its namespace: {commands}"
        );
    }
    let is_up = named.is_some_and(|link| link.is_up);
    if !is_up {
        tracing::warn!(port, device = %task.key, "is down: `ip link set {name} up` lets it work");
    }
    let queues = xdp.into_queues().into_iter().map(Box::new).map(PortQueue::Xdp).collect();
    let used = Some(Used { peer: found, mode, mtu, is_up });
    let is_new = task.before.is_none();
    Ok(Made { key: task.key.clone(), index, is_new, queues, used })
}
