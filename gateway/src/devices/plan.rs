//! What a config asks of the kernel: one entry per device, with all that is to be set on it.
//!
//! The one hard constraint: a device is told by where it is and what it is called there, because
//! that is how the kernel tells it; the port that it is for is one of its properties. Nothing is
//! made here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use config::{Attach, Attachment, Config, Uplink, UplinkDriver};
use drivers::{TapOptions, XdpTake};
use engine::{MacAddress, PortId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Place;
use crate::netns;

/// Which device: its namespace and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DeviceKey {
    /// Path of the namespace; `None` is the one that the daemon runs in.
    pub(super) place: Option<PathBuf>,
    /// Its name there.
    pub(super) interface: String,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.interface, Place(self.place.clone()))
    }
}

/// What a device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its port in the tables.
    pub(super) port: PortId,
    /// That port's name.
    pub(super) port_name: String,
    /// MAC address of the kernel's end.
    pub(super) mac: MacAddress,
    /// Largest IP packet, in bytes.
    pub(super) mtu: u16,
    /// Addresses of the kernel's end.
    pub(super) addresses: Vec<IpNet>,
    /// Destinations and next hops; unspecified: the device itself.
    pub(super) routes: Vec<(IpNet, IpAddr)>,
    /// It asks for no neighbours: whatever it sends is routed.
    pub(super) no_arp: bool,
    /// It exists already and is used by AF_XDP; `None`: it is a TAP, to be made.
    pub(super) xdp: Option<XdpWanted>,
    /// Super-frames may come and go in tunnels.
    pub(super) tunnels: bool,
}

/// What an existing device is to be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct XdpWanted {
    /// Which of its packets are ours.
    pub(super) take: XdpTake,
    /// Largest IP packet to use, in bytes; `None`: what the device has.
    pub(super) mtu_max: Option<u16>,
    /// What the other end of a veth gets; `None`: it is a neighbour's.
    pub(super) peer: Option<PeerWanted>,
    /// Super-frames leave by a relay, where that does.
    pub(super) relay: bool,
}

/// What the endpoint's end of a veth is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerWanted {
    /// Its MAC address.
    pub(super) mac: MacAddress,
    /// Its addresses.
    pub(super) addresses: Vec<IpNet>,
    /// Destinations and next hops; unspecified: the device itself.
    pub(super) routes: Vec<(IpNet, IpAddr)>,
    /// It asks for no neighbours.
    pub(super) no_arp: bool,
}

impl Wanted {
    /// Options of its TAP.
    pub(super) fn options(&self, interface: &str, alias: String, queues: usize) -> TapOptions {
        TapOptions {
            queues,
            mtu: self.mtu,
            mac: Some(self.mac),
            alias: Some(alias),
            persistent: true,
            tunnels: self.tunnels,
            ..TapOptions::new(interface)
        }
    }

    /// True if super-frames are to leave by a relay.
    pub(super) fn has_relay(&self) -> bool {
        self.xdp.as_ref().is_some_and(|xdp| xdp.relay)
    }

    /// True if nothing about the device itself differs.
    pub(super) fn is_set_as(&self, other: &Wanted) -> bool {
        let of = |wanted: &Wanted| (wanted.mac, wanted.mtu, wanted.no_arp, wanted.xdp.clone());
        of(self) == of(other) && self.addresses == other.addresses && self.routes == other.routes
    }
}

/// All devices of a config, and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) devices: BTreeMap<DeviceKey, Wanted>,
    /// Their namespaces. True: ours to make if it is not there.
    pub(super) places: BTreeMap<Option<PathBuf>, bool>,
}

impl Plan {
    /// The plan of a config.
    pub(super) fn of(config: &Config) -> Plan {
        let mut plan = Plan::default();
        for uplink in &config.uplinks {
            let netns = uplink.netns.as_ref().map(|netns| (netns.as_str(), uplink.create_netns));
            let has_links = config.networks.iter().any(|network| {
                let parent = network.parent.as_ref().filter(|_| network.is_on_link());
                parent.is_some_and(|parent| parent.uplink == uplink.name)
            });
            plan.add(netns, uplink.interface.as_str(), of_uplink(uplink, has_links));
        }
        for endpoint in &config.endpoints {
            let netns = match &endpoint.attach {
                Attach::Netns { netns, create } => Some((netns.as_str(), *create)),
                Attach::Tap | Attach::Xdp | Attach::Host => None,
            };
            if endpoint.alone_in.is_some()
                && let Some((name, create)) = netns
            {
                plan.add_place(Some(netns::path_of(name)), create);
            }
            for attachment in &endpoint.attachments {
                let mut wanted = of_attachment(&endpoint.name, attachment);
                let parent =
                    config.network(&attachment.network).and_then(|own| own.parent.as_ref());
                wanted.no_arp = parent.is_some_and(|parent| parent.mode.is_routed());
                if endpoint.attach == Attach::Xdp {
                    wanted = at_the_other_end(wanted);
                } else if netns.is_none() {
                    // The addresses are of the VM behind the device, not of the host.
                    wanted.addresses.clear();
                    wanted.routes.clear();
                }
                plan.add(netns, attachment.interface.as_str(), wanted);
            }
        }
        plan
    }

    fn add_place(&mut self, place: Option<PathBuf>, create: bool) {
        // Whoever says `create` makes it for all that use it.
        *self.places.entry(place).or_default() |= create;
    }

    fn add(&mut self, netns: Option<(&str, bool)>, interface: &str, wanted: Wanted) {
        let place = netns.map(|(name, _)| netns::path_of(name));
        self.add_place(place.clone(), netns.is_some_and(|(_, create)| create));
        self.devices.insert(DeviceKey { place, interface: interface.to_owned() }, wanted);
    }
}

/// `has_links`: networks are a part of its link, so whatever comes by it is the gateway's.
fn of_uplink(uplink: &Uplink, has_links: bool) -> Wanted {
    Wanted {
        port: uplink.port,
        port_name: uplink.name.to_string(),
        mac: uplink.host_mac,
        mtu: uplink.mtu,
        addresses: uplink.host_addresses.clone(),
        routes: Vec::new(),
        no_arp: false,
        xdp: (uplink.driver == UplinkDriver::Xdp).then(|| XdpWanted {
            take: if has_links { XdpTake::All } else { XdpTake::Ip },
            mtu_max: (!uplink.follows_mtu).then_some(uplink.mtu),
            peer: None,
            relay: uplink.relay,
        }),
        tunnels: true,
    }
}

/// Of an existing device the endpoint has the other end.
fn at_the_other_end(wanted: Wanted) -> Wanted {
    let Wanted { addresses, routes, no_arp, .. } = wanted;
    let peer = Some(PeerWanted { mac: wanted.mac, addresses, routes, no_arp });
    let (take, mtu_max) = (XdpTake::All, Some(wanted.mtu));
    // A relay would have the veth in its native mode, where an end out of reach cannot send its
    // super-frames whole.
    let xdp = Some(XdpWanted { take, mtu_max, peer, relay: false });
    Wanted { addresses: Vec::new(), routes: Vec::new(), xdp, ..wanted }
}

fn of_attachment(endpoint: &str, attachment: &Attachment) -> Wanted {
    let ipv4 = attachment.ipv4.map(IpNet::V4);
    let ipv6 = attachment.ipv6.map(IpNet::V6);
    let routes = [
        (IpNet::V4(Ipv4Net::default()), attachment.default_route_v4),
        (IpNet::V6(Ipv6Net::default()), attachment.default_route_v6),
    ];
    Wanted {
        port: attachment.port,
        port_name: format!("{endpoint}/{}", attachment.network),
        mac: attachment.mac,
        mtu: attachment.mtu,
        addresses: ipv4.into_iter().chain(ipv6).collect(),
        routes: routes.into_iter().filter_map(|(to, via)| Some((to, via?))).collect(),
        no_arp: false,
        xdp: None,
        // An endpoint's own tunnels are cut before they come to us, as towards any device.
        tunnels: false,
    }
}
