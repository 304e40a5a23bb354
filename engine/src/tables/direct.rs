//! Networks that are a part of an uplink's link: macvlan, ipvlan.
//!
//! Members, the wire and (where there is no tag) the gateway itself are stations of one link. The
//! wire is reached by the network's *trunk*, a port without a device: what leaves by it leaves by
//! the uplink, with the tag, and what the uplink receives with that tag comes in by it. The one
//! hard constraint: a part of a link (a *lane*) belongs to one network. Addresses on the link are
//! not the gateway's to route: such a network has no subnets here.

use std::net::IpAddr;

use super::{Network, PortKind, Tables, Uplink};
use crate::id::{MacAddress, NetworkId, PortId, UplinkId};

/// A VLAN's number (IEEE 802.1Q), 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// The highest there is.
    pub const MAX: VlanTag = VlanTag(4_094);
}

/// How members of one network reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Straight.
    Straight,
    /// By the wire: a switch there sends back what is for another member (IEEE 802.1Qbg).
    ByWire,
    /// Not at all.
    Never,
}

/// What makes a network a part of an uplink's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The uplink.
    pub uplink: UplinkId,
    /// The port that leads to the wire.
    pub trunk: PortId,
    /// The tag on the wire; `None`: what has none.
    pub tag: Option<VlanTag>,
    /// How members reach each other.
    pub between: Between,
    /// On the wire, members have the uplink's MAC address and are told apart by their IP addresses.
    pub shares_mac: bool,
    /// What the wire sends to anybody unknown goes to the only member.
    pub is_whole: bool,
}

impl Tables {
    /// The network that is the untagged part of an uplink's link.
    pub fn network_on(&self, uplink: &Uplink) -> Option<&Network> {
        self.network(uplink.link?)
    }

    /// The uplink that a network is the untagged part of.
    pub fn uplink_under(&self, network: NetworkId) -> Option<&Uplink> {
        let direct = self.network(network)?.direct.as_ref()?;
        self.uplink(direct.uplink).filter(|uplink| uplink.link == Some(network))
    }

    /// The member of an uplink's link that has this address.
    pub fn member_on(&self, uplink_port: PortId, address: IpAddr) -> Option<PortId> {
        let PortKind::Uplink(uplink) = self.port(uplink_port)?.kind else { return None };
        let network = self.network_on(self.uplink(uplink)?)?;
        let linked = || match address {
            IpAddr::V6(v6) => network.by_mac.get(&MacAddress::of_link_local(v6)?).copied(),
            IpAddr::V4(_) => None,
        };
        network.by_address.get(&address).copied().or_else(linked)
    }
}
