//! Links, addresses and routes of one namespace, as plain calls that return when the kernel has
//! answered.
//!
//! With `host/kernel.rs` the only file that knows rtnetlink and its runtime. The one hard
//! constraint: the socket must be
//! opened by a thread *in* the namespace; afterwards it stays there and any thread may use it.
//! rtnetlink's own namespace helper forks the process and is never used. Devices of type TAP are
//! not made here: netlink cannot.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use drivers::LinkState;
use engine::MacAddress;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use netlink_packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::runtime::Runtime;

use crate::error::{Error, Place};
use crate::netns;

/// A netlink connection into one namespace.
pub struct Netlink {
    pub(crate) runtime: Runtime,
    pub(crate) handle: Handle,
    place: Place,
}

/// What a link is set to; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSettings {
    /// Its MAC address.
    pub mac: Option<MacAddress>,
    /// Largest IP packet in bytes.
    pub mtu: Option<u16>,
    /// Packets that its transmit queue holds.
    pub queue_len: Option<u32>,
    /// Takes it up.
    pub up: bool,
    /// Takes it down.
    pub down: bool,
    /// Neighbours are asked for; else all are where the link leads.
    pub arp: Option<bool>,
}

impl fmt::Display for LinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set the link")?;
        if let Some(mac) = self.mac {
            write!(f, ", mac {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, ", mtu {mtu}")?;
        }
        if let Some(queue_len) = self.queue_len {
            write!(f, ", queue of {queue_len}")?;
        }
        f.write_str(if self.up { ", up" } else { "" })?;
        f.write_str(if self.down { ", down" } else { "" })
    }
}

impl Netlink {
    /// Connects to a namespace; `None` is the one that the calling thread is in.
    ///
    /// # Errors
    /// The namespace is not there, or no socket can be had.
    pub fn open(namespace: Option<&Path>) -> Result<Netlink, Error> {
        let place = Place(namespace.map(PathBuf::from));
        netns::within_optional(namespace, || Netlink::open_here(place))?
    }

    /// Connects to the namespace that the calling thread is in; `place` is how errors call it.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn open_here(place: Place) -> Result<Netlink, Error> {
        let opened = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let (connection, handle, _) = {
                let _entered = runtime.enter();
                rtnetlink::new_connection()?
            };
            runtime.spawn(connection);
            Ok((runtime, handle))
        };
        match opened() {
            Ok((runtime, handle)) => Ok(Netlink { runtime, handle, place }),
            Err(source) => Err(Error::NetlinkSocket { place, source }),
        }
    }

    /// The index of a link, or `None` if there is no such link.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn link_index(&self, device: &str) -> Result<Option<u32>, Error> {
        let mut found = self.handle.link().get().match_name(device.to_owned()).execute();
        match self.runtime.block_on(found.try_next()) {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is_errno(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(self.refused("look for the link".into(), device, &error)),
        }
    }

    /// All links.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn links(&self) -> Result<Vec<LinkState>, Error> {
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let links = self.runtime.block_on(links);
        let links = links.map_err(|error| self.refused("list links".into(), "all", &error))?;
        Ok(links.into_iter().map(read_link).collect())
    }

    /// Where the other end of a veth is: its index, and the number of its namespace, `None` for our
    /// own. Of a device that is no veth, or is not there, there is none.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub(crate) fn veth_peer(&self, device: &str) -> Result<Option<(u32, Option<i32>)>, Error> {
        let mut found = self.handle.link().get().match_name(device.to_owned()).execute();
        let link = match self.runtime.block_on(found.try_next()) {
            Ok(Some(link)) => link,
            Ok(None) => return Ok(None),
            Err(error) if is_errno(&error, Errno::NODEV) => return Ok(None),
            Err(error) => return Err(self.refused("look for the link".into(), device, &error)),
        };
        let (mut is_veth, mut index, mut number) = (false, None, None);
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::LinkInfo(infos) => {
                    is_veth = infos.iter().any(
                        |info| matches!(info, LinkInfo::Kind(kind) if *kind == InfoKind::Veth),
                    );
                }
                LinkAttribute::Link(other) => index = Some(*other),
                LinkAttribute::LinkNetNsId(other) => number = Some(*other),
                _ => {}
            }
        }
        Ok(index.filter(|_| is_veth).map(|index| (index, number)))
    }

    /// True if the device of this index has an XDP program in generic mode.
    ///
    /// # Errors
    /// The kernel refuses the question, or there is no such device.
    pub(crate) fn has_generic_program(&self, index: u32) -> Result<bool, Error> {
        let mut found = self.handle.link().get().match_index(index).execute();
        let refused = |error| self.refused("look for the link".into(), &index.to_string(), &error);
        let link = self.runtime.block_on(found.try_next()).map_err(refused)?;
        let attributes = link.into_iter().flat_map(|link| link.attributes);
        let is_generic = |program: &LinkXdp| matches!(program, LinkXdp::SkbProgId(_));
        Ok(attributes.into_iter().any(|attribute| match attribute {
            LinkAttribute::Xdp(programs) => programs.iter().any(is_generic),
            _ => false,
        }))
    }

    /// Names of all links.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn link_names(&self) -> Result<Vec<String>, Error> {
        Ok(self.links()?.into_iter().map(|link| link.name).collect())
    }

    /// Sets a link's MAC address, MTU and queue, and takes it up.
    ///
    /// # Errors
    /// There is no such link, or the kernel refuses.
    pub fn set_link(&self, device: &str, settings: LinkSettings) -> Result<(), Error> {
        let mut message = LinkMessageBuilder::<LinkUnspec>::new().index(self.index_of(device)?);
        if let Some(mac) = settings.mac {
            message = message.address(mac.bytes().to_vec());
        }
        if let Some(mtu) = settings.mtu {
            message = message.mtu(u32::from(mtu));
        }
        if let Some(queue_len) = settings.queue_len {
            message = message.txqueuelen(queue_len);
        }
        if settings.up {
            message = message.up();
        }
        if settings.down {
            message = message.down();
        }
        if let Some(arp) = settings.arp {
            message = message.arp(arp);
        }
        let request = self.handle.link().set(message.build());
        let result = self.runtime.block_on(request.execute());
        result.map_err(|error| self.refused(settings.to_string(), device, &error))
    }

    /// Gives a link another name.
    ///
    /// # Errors
    /// There is no such link, the name is taken, or the kernel refuses.
    pub fn rename_link(&self, device: &str, name: &str) -> Result<(), Error> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(self.index_of(device)?);
        let request = self.handle.link().set(message.name(name).build());
        let result = self.runtime.block_on(request.execute());
        result.map_err(|error| self.refused(format!("set the name {name}"), device, &error))
    }

    /// Takes a link away.
    ///
    /// # Errors
    /// There is no such link, or the kernel refuses.
    pub fn delete_link(&self, device: &str) -> Result<(), Error> {
        let request = self.handle.link().del(self.index_of(device)?);
        let result = self.runtime.block_on(request.execute());
        result.map_err(|error| self.refused("delete the link".into(), device, &error))
    }

    /// Addresses of a link, but for those that IPv6 gives every link by itself.
    ///
    /// # Errors
    /// There is no such link, or the kernel refuses.
    pub fn addresses(&self, device: &str) -> Result<Vec<IpNet>, Error> {
        let index = self.index_of(device)?;
        let request = self.handle.address().get().set_link_index_filter(index);
        let found = self.runtime.block_on(request.execute().try_collect::<Vec<_>>());
        let action = || "list addresses".to_owned();
        let found = found.map_err(|error| self.refused(action(), device, &error))?;
        let read = |message: &AddressMessage| {
            // Of a link with a peer, `Local` is its own address; IPv6 has `Address` only.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            })?;
            IpNet::new(address, message.header.prefix_len).ok()
        };
        let is_by_itself = |net: &IpNet| match net.addr() {
            IpAddr::V6(address) => address.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        Ok(found.iter().filter_map(read).filter(|net| !is_by_itself(net)).collect())
    }

    /// Takes an address away from a link, with the prefix's route.
    ///
    /// # Errors
    /// There is no such link or address, or the kernel refuses.
    pub fn remove_address(&self, device: &str, address: IpNet) -> Result<(), Error> {
        let (index, length) = (self.index_of(device)?, address.prefix_len());
        let mut request = self.handle.address().add(index, address.addr(), length);
        let message = std::mem::take(request.message_mut());
        let result = self.runtime.block_on(self.handle.address().del(message).execute());
        result.map_err(|error| self.refused(format!("remove address {address}"), device, &error))
    }

    /// Gives a link an address and the prefix's route. IPv6 addresses are usable at once: the
    /// gateway hands out each address once, so there is nothing for duplicate detection to find.
    ///
    /// # Errors
    /// There is no such link, the address is there already, or the kernel refuses.
    pub fn add_address(&self, device: &str, address: IpNet) -> Result<(), Error> {
        let (index, length) = (self.index_of(device)?, address.prefix_len());
        let mut request = self.handle.address().add(index, address.addr(), length);
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let result = self.runtime.block_on(request.execute());
        result.map_err(|error| self.refused(format!("add address {address}"), device, &error))
    }

    /// Adds a route out of a link; the prefix of length 0 is the default route.
    ///
    /// # Errors
    /// There is no such link, the next hop is not reachable, there is another route to the same
    /// destination, or the kernel refuses.
    pub fn add_route(&self, device: &str, to: IpNet, via: Option<IpAddr>) -> Result<(), Error> {
        let action = || format!("add route to {}", Hop(to, via));
        let message =
            self.route(device, to, via)?.ok_or_else(|| self.unroutable(device, to, via))?;
        let result = self.runtime.block_on(self.handle.route().add(message).execute());
        result.map_err(|error| self.refused(action(), device, &error))
    }

    /// As `add_route`, where the route is there already nothing is done.
    ///
    /// # Errors
    /// As `add_route`.
    pub fn ensure_route(&self, device: &str, to: IpNet, via: Option<IpAddr>) -> Result<(), Error> {
        let action = || format!("add route to {}", Hop(to, via));
        let message =
            self.route(device, to, via)?.ok_or_else(|| self.unroutable(device, to, via))?;
        match self.runtime.block_on(self.handle.route().add(message).execute()) {
            Err(error) if is_errno(&error, Errno::EXIST) => Ok(()),
            result => result.map_err(|error| self.refused(action(), device, &error)),
        }
    }

    /// Takes a route away; one that is not there is no error.
    ///
    /// # Errors
    /// There is no such link, or the kernel refuses.
    pub fn remove_route(&self, device: &str, to: IpNet, via: Option<IpAddr>) -> Result<(), Error> {
        let action = || format!("remove route to {}", Hop(to, via));
        let message =
            self.route(device, to, via)?.ok_or_else(|| self.unroutable(device, to, via))?;
        match self.runtime.block_on(self.handle.route().del(message).execute()) {
            Err(error) if is_errno(&error, Errno::SRCH) => Ok(()),
            result => result.map_err(|error| self.refused(action(), device, &error)),
        }
    }

    /// `None`: an IPv6 prefix by an IPv4 next hop.
    fn route(
        &self,
        device: &str,
        to: IpNet,
        via: Option<IpAddr>,
    ) -> Result<Option<RouteMessage>, Error> {
        let index = self.index_of(device)?;
        Ok(match (to, via) {
            (IpNet::V4(to), via) => {
                let message = RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index)
                    .destination_prefix(to.network(), to.prefix_len());
                Some(match via {
                    Some(IpAddr::V4(via)) => message.gateway(via).build(),
                    Some(IpAddr::V6(via)) => message.via(via).build(),
                    None => message.scope(RouteScope::Link).build(),
                })
            }
            (IpNet::V6(to), via) => {
                let message = RouteMessageBuilder::<Ipv6Addr>::new()
                    .output_interface(index)
                    .destination_prefix(to.network(), to.prefix_len());
                match via {
                    Some(IpAddr::V6(via)) => Some(message.gateway(via).build()),
                    Some(IpAddr::V4(_)) => None,
                    None => Some(message.build()),
                }
            }
        })
    }

    fn unroutable(&self, device: &str, to: IpNet, via: Option<IpAddr>) -> Error {
        Error::Netlink {
            action: format!("add route to {}", Hop(to, via)),
            device: device.into(),
            place: self.place.clone(),
            reason: "an IPv6 prefix cannot be reached by an IPv4 next hop".into(),
        }
    }

    /// The MAC address that ARP or ND found for a neighbour.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn neighbour_mac(&self, neighbour: IpAddr) -> Result<Option<MacAddress>, Error> {
        let all = self.handle.neighbours().get().execute().try_collect::<Vec<_>>();
        let all = self.runtime.block_on(all);
        let all = all.map_err(|error| self.refused("list neighbours".into(), "all", &error))?;
        let wanted = match neighbour {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        let wanted = NeighbourAttribute::Destination(wanted);
        let mac = |entry: &NeighbourAttribute| match entry {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress::new)
            }
            _ => None,
        };
        let found = all.iter().find(|neighbour| neighbour.attributes.contains(&wanted));
        Ok(found.and_then(|neighbour| neighbour.attributes.iter().find_map(mac)))
    }

    pub(crate) fn index_of(&self, device: &str) -> Result<u32, Error> {
        self.link_index(device)?.ok_or_else(|| Error::Netlink {
            action: "find the link".into(),
            device: device.into(),
            place: self.place.clone(),
            reason: "no such device; was it removed meanwhile?".into(),
        })
    }

    pub(crate) fn refused(&self, action: String, device: &str, error: &rtnetlink::Error) -> Error {
        let reason = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        Error::Netlink { action, device: device.into(), place: self.place.clone(), reason }
    }
}

fn read_link(message: LinkMessage) -> LinkState {
    let mut link = LinkState {
        index: message.header.index,
        name: String::new(),
        alias: None,
        mac: None,
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress::new);
            }
            _ => {}
        }
    }
    link
}

/// A destination and perhaps its next hop, as operators write them.
struct Hop(IpNet, Option<IpAddr>);

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(via) => write!(f, "{} via {via}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

pub(crate) fn is_errno(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.to_io().raw_os_error() == Some(errno.raw_os_error()))
}
