//! Takes an existing device into use by AF_XDP, inside its namespace.
//!
//! The device itself is never ours: its state, its MTU and its addresses are not changed. The one
//! hard constraint follows: it is never deleted, and what is done about it ends with its sockets.
//! What is done to the ends of a veth is the business of `ends`.

use drivers::{LinkState, Xdp, XdpMemory, XdpOptions};

use super::ends::{self, End, Side};
use super::make::{Made, Task};
use super::plan::{DeviceKey, XdpWanted};
use crate::error::{Error, Place};
use crate::netlink::Netlink;
use crate::runner::PortQueue;

/// What is known of a device beyond its queues.
#[derive(Clone, Debug)]
pub(super) struct Used {
    /// The ends of a veth that are to be set up: the other one if that is in reach, and ours if it
    /// has a relay.
    pub(super) ends: Vec<(Side, End)>,
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
    let found = other_end.and_then(|(index, number)| ends::find(&task.key, index, number));
    let is_blind = wanted.relay && found.as_ref().is_some_and(ends::has_generic_program);
    if is_blind {
        tracing::warn!(
            port = task.wanted.port_name,
            device = %task.key,
            "no relay: the XDP program at the other end is in generic mode and would not see what \
             leaves by one; super-frames are cut here"
        );
    }
    let options = XdpOptions {
        workers,
        mtu: u16::try_from(device_mtu).unwrap_or(u16::MAX),
        take: wanted.take,
        finish_checksums: other_end.is_some() && found.is_none(),
        relay: wanted.relay && !is_blind,
        ..XdpOptions::new(name)
    };
    let xdp = Xdp::open(&options, memory).map_err(refused)?;
    let (mode, index) = (xdp.mode(), xdp.index());
    let port = task.wanted.port_name.as_str();
    let (is_multi, mtu) = (mode.multi_buffer, usable_mtu(wanted, device_mtu));
    tracing::info!(port, device = %task.key, %mode, multi_buffer = is_multi, mtu, "used by AF_XDP");
    warn(&task.key, (&xdp, &options), wanted, port);
    let is_up = named.is_some_and(|link| link.is_up);
    if !is_up {
        tracing::warn!(port, device = %task.key, "is down: `ip link set {name} up` lets it work");
    }
    let queues = xdp.into_queues().into_iter().map(Box::new).map(PortQueue::Xdp).collect();
    let own = Some(index).filter(|_| mode.relay && other_end.is_some());
    let own = own.and_then(|index| Some((Side::Own, ends::find(&task.key, index, None)?)));
    let ends = found.map(|end| (Side::Other, end)).into_iter().chain(own).collect();
    let used = Some(Used { ends, mode, mtu, is_up });
    let is_new = task.before.is_none();
    Ok(Made { key: task.key.clone(), index, is_new, queues, used })
}

/// Says what does not work as well as it could, and what helps.
fn warn(device: &DeviceKey, (xdp, options): (&Xdp, &XdpOptions), wanted: &XdpWanted, port: &str) {
    let mode = xdp.mode();
    if let Some(why) = xdp.relay_refused() {
        tracing::warn!(port, %device, %why, "no relay: super-frames are cut here");
    } else if options.relay && !mode.relay && !mode.zero_copy {
        tracing::warn!(
            port,
            %device,
            "no relay: the veth cannot be used in native mode; super-frames are cut here, and what \
             a relay at its other end sends is not seen: there must be none"
        );
    }
    if options.finish_checksums {
        let commands = ends::commands(wanted.peer.as_ref());
        tracing::warn!(
            port,
            %device,
            "the other end of the veth is out of reach: checksums that it leaves unfinished are \
             finished here; run in its namespace: {commands}"
        );
    }
    if options.finish_checksums && mode.relay {
        tracing::warn!(
            port,
            %device,
            "an XDP program in generic mode at that end would not see super-frames: if there is \
             one, set `relay = false`"
        );
    }
}
