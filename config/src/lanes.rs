//! Networks on an uplink's link in the engine's words.
//!
//! A network of driver macvlan, or ipvlan of layer 2, becomes a bridged one whose trunk is the
//! wire; one of layer 3 stays a routed one, which is none of this file's. Pure, as `compile` is.

use std::collections::HashMap;

use engine::tables::{self, Between, Direct, Epoch, PortKind, PortTable, VlanTag};
use engine::{NetworkId, UplinkId};

use crate::ids;
use crate::model::{
    Config, IpvlanFlag, IpvlanMode, LinkMode, MacvlanMode, Network, Parent, Uplink,
};

/// The port by which a network on an uplink's link reaches the wire.
pub(crate) fn trunk_port(network: &Network, epoch: Epoch) -> Option<PortTable> {
    let id = network.parent.as_ref().filter(|_| network.is_on_link())?.trunk;
    let name = ids::lane_name(&network.name);
    Some(PortTable { epoch, id, name, kind: PortKind::Lane(network.id), mtu: network.mtu })
}

/// A network's table as its parent has it.
pub(crate) fn on_parent(
    table: tables::Network,
    network: &Network,
    uplink_ids: &HashMap<&str, UplinkId>,
) -> tables::Network {
    let Some(parent) = &network.parent else { return table };
    let Some(direct) = direct(parent, uplink_ids) else {
        let unfiltered = matches!(parent.mode, LinkMode::Ipvlan(IpvlanMode::L3, _));
        return tables::Network { routed_only: true, unfiltered, ..table };
    };
    tables::Network {
        // Addresses on an uplink's link are not the gateway's to route.
        subnets: Vec::new(),
        // Where there is a tag, the gateway itself is not.
        internal: direct.tag.is_some(),
        direct: Some(direct),
        ..table
    }
}

/// What makes a network a part of its parent's link.
fn direct(parent: &Parent, uplink_ids: &HashMap<&str, UplinkId>) -> Option<Direct> {
    let (between, shares_mac) = match parent.mode {
        LinkMode::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _) => return None,
        LinkMode::Macvlan(MacvlanMode::Bridge | MacvlanMode::Passthru) => {
            (Between::Straight, false)
        }
        LinkMode::Macvlan(MacvlanMode::Private) => (Between::Never, false),
        LinkMode::Macvlan(MacvlanMode::Vepa) => (Between::ByWire, false),
        LinkMode::Ipvlan(IpvlanMode::L2, flag) => (
            match flag {
                IpvlanFlag::Bridge => Between::Straight,
                IpvlanFlag::Private => Between::Never,
                IpvlanFlag::Vepa => Between::ByWire,
            },
            true,
        ),
    };
    Some(Direct {
        uplink: *uplink_ids.get(&*parent.uplink)?,
        trunk: parent.trunk,
        tag: parent.vlan.map(VlanTag),
        between,
        shares_mac,
        is_whole: parent.mode == LinkMode::Macvlan(MacvlanMode::Passthru),
    })
}

/// The network that is the untagged part of an uplink's link.
pub(crate) fn link_of(uplink: &Uplink, config: &Config) -> Option<NetworkId> {
    let is_part = |network: &&Network| {
        let parent = network.parent.as_ref().filter(|_| network.is_on_link());
        parent.is_some_and(|own| own.uplink == uplink.name && own.vlan.is_none())
    };
    let mut networks = config.networks.iter().map(|network| &**network);
    networks.find(is_part).map(|network| network.id)
}
