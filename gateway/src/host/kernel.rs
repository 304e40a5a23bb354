//! Addresses of all links, and routes of ours, in the kernel's tables.
//!
//! What `crate::netlink` does not need for devices. The one hard constraint: a route is ours by its
//! protocol number, and no other is read or removed here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;
use rustix::io::Errno;

use crate::error::Error;
use crate::netlink::{Netlink, is_errno};

/// The protocol number of our routes, as `ip route` shows it: one that no program of iproute2's
/// list has.
const OURS: RouteProtocol = RouteProtocol::Other(86);

/// An address of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostAddress {
    /// Of its link.
    pub(super) index: u32,
    pub(super) net: IpNet,
    /// It is of a link or of the host alone, or not settled.
    is_confined: bool,
}

impl HostAddress {
    /// True if others may ask for it.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_confined && !self.net.addr().is_loopback()
    }
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnRoute {
    pub(super) to: IpNet,
    pub(super) via: IpAddr,
    /// The address that the kernel takes as a source; `None`: the kernel's own choice.
    pub(super) source: Option<IpAddr>,
}

fn read_address(message: &AddressMessage) -> Option<HostAddress> {
    // Of a link with a peer, `Local` is its own address; IPv6 has `Address` only.
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let unsettled = message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => {
            flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        }
        _ => false,
    });
    let is_global = matches!(message.header.scope, AddressScope::Universe | AddressScope::Site);
    Some(HostAddress {
        index: message.header.index,
        net: IpNet::new(address, message.header.prefix_len).ok()?,
        is_confined: unsettled || !is_global,
    })
}

impl Netlink {
    /// Addresses of all links.
    pub(super) fn host_addresses(&self) -> Result<Vec<HostAddress>, Error> {
        let request = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let found = self.runtime.block_on(request);
        let found = found.map_err(|error| self.refused("list addresses".into(), "all", &error))?;
        Ok(found.iter().filter_map(read_address).collect())
    }

    /// Gives a link an address that the kernel takes as a source only if it has no other.
    pub(super) fn add_last_resort(&self, device: &str, address: IpNet) -> Result<(), Error> {
        let (index, length) = (self.index_of(device)?, address.prefix_len());
        let mut request = self.handle.address().add(index, address.addr(), length);
        let message = request.message_mut();
        if address.addr().is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            // Deprecated from the first moment on, valid for ever.
            let mut times = CacheInfo::default();
            (times.ifa_preferred, times.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(times));
        } else {
            message.header.scope = AddressScope::Link;
        }
        match self.runtime.block_on(request.execute()) {
            Err(error) if is_errno(&error, Errno::EXIST) => Ok(()),
            result => {
                let action = || format!("add address {address}");
                result.map_err(|error| self.refused(action(), device, &error))
            }
        }
    }

    /// Routes of ours by a link.
    pub(super) fn own_routes(&self, device: &str, v6: bool) -> Result<Vec<OwnRoute>, Error> {
        let index = self.index_of(device)?;
        let wanted = match v6 {
            true => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            false => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        };
        let request = self.handle.route().get(wanted).execute().try_collect::<Vec<_>>();
        let found = self.runtime.block_on(request);
        let found = found.map_err(|error| self.refused("list routes".into(), device, &error))?;
        let is_ours = |message: &&RouteMessage| {
            message.header.protocol == OURS
                && message.attributes.contains(&RouteAttribute::Oif(index))
        };
        Ok(found.iter().filter(is_ours).filter_map(|message| read_route(message, v6)).collect())
    }

    /// Adds a route of ours by a link. Another's to the same destination is left, and an error.
    pub(super) fn add_own_route(&self, device: &str, route: OwnRoute) -> Result<(), Error> {
        let message = self.own_route(device, route)?;
        let result = self.runtime.block_on(self.handle.route().add(message).execute());
        let action = || format!("add route to {} via {}", route.to, route.via);
        result.map_err(|error| self.refused(action(), device, &error))
    }

    /// Takes a route of ours away.
    pub(super) fn remove_own_route(&self, device: &str, route: OwnRoute) -> Result<(), Error> {
        let message = self.own_route(device, route)?;
        match self.runtime.block_on(self.handle.route().del(message).execute()) {
            Err(error) if is_errno(&error, Errno::SRCH) => Ok(()),
            result => {
                let action = || format!("remove route to {} via {}", route.to, route.via);
                result.map_err(|error| self.refused(action(), device, &error))
            }
        }
    }

    fn own_route(&self, device: &str, route: OwnRoute) -> Result<RouteMessage, Error> {
        let OwnRoute { to, via, source } = route;
        let index = self.index_of(device)?;
        Ok(match (to, via) {
            (IpNet::V4(to), IpAddr::V4(via)) => {
                let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index)
                    .protocol(OURS)
                    .destination_prefix(to.network(), to.prefix_len())
                    .gateway(via);
                if let Some(IpAddr::V4(source)) = source {
                    builder = builder.pref_source(source);
                }
                builder.build()
            }
            (IpNet::V6(to), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(index)
                .protocol(OURS)
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .build(),
            _ => unreachable!("a link's gateway is of the family of what it leads to"),
        })
    }
}

fn read_route(message: &RouteMessage, v6: bool) -> Option<OwnRoute> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let mut to = match v6 {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let (mut via, mut source) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(own) => to = address(own)?,
            RouteAttribute::Gateway(own) => via = address(own),
            RouteAttribute::PrefSource(own) => source = address(own),
            _ => {}
        }
    }
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(OwnRoute { to, via: via?, source })
}
