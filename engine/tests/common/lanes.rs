//! A network on the uplink's link.

use std::sync::Arc;

use engine::sim::frames::ethernet;
use engine::tables::{Between, Direct, GatewayMode, PortKind, PortTable, Route, Routes, VlanTag};
use engine::{MacAddress, NetworkId, Tables, UplinkId};

use super::*;

/// The network on the link.
pub(crate) const FRONT: NetworkId = NetworkId(0);

/// Network front as a part of the uplink's link: web and db are its members, vm and farm are not.
pub(crate) fn on_link(
    tag: Option<u16>,
    between: Between,
    shares_mac: bool,
    is_whole: bool,
) -> Tables {
    let mut tables = tables();
    let uplink = UplinkId(0);
    let tag = tag.map(VlanTag);
    tables.ports.push(Some(Arc::new(PortTable {
        epoch: 1,
        id: TRUNK,
        name: "wire:front".into(),
        kind: PortKind::Lane(FRONT),
        mtu: 1_500,
    })));
    let members: &[Host] = if is_whole { &[WEB] } else { &[WEB, DB] };
    let mut front = network(0, "front", members);
    front.subnets.clear();
    front.gateway_mac = WAN_MAC;
    front.mode = GatewayMode::Isolated;
    front.internal = tag.is_some();
    front.masquerade = false;
    front.members.push(TRUNK);
    front.direct = Some(Direct { uplink, trunk: TRUNK, tag, between, shares_mac, is_whole });
    tables.networks[0] = Some(Arc::new(front));
    let wan = Arc::make_mut(tables.uplinks[0].as_mut().expect("it is there"));
    for own in ["10.1.0.99/24", "fd00:1::99/64"] {
        wan.addresses.push(own.parse().expect("an address of this file"));
    }
    if tag.is_none() {
        wan.link = Some(FRONT);
    }
    // The members' addresses are on that link.
    let mut routes = vec![
        Route { to: "10.1.0.0/24".parse().expect("an address of this file"), via: None, uplink },
        Route { to: "fd00:1::/64".parse().expect("an address of this file"), via: None, uplink },
    ];
    routes.extend(tables.routes.iter().copied());
    tables.routes = Arc::new(Routes::new(1, routes));
    tables.publish = Arc::new(engine::tables::Publish::new(
        1,
        published().into_iter().filter(|entry| entry.network != FRONT).collect(),
    ));
    tables
}

/// UDP from one station to another, with these MAC addresses.
pub(crate) fn on_wire(from: (&Host, MacAddress), to: (&Host, MacAddress), v6: bool) -> Vec<u8> {
    let header = header(from.0, to.0.ip(v6), 17);
    let datagram = datagram(&header, (40_000, 80), b"payload");
    ethernet(to.1, from.1, header.ethertype(), &header.packet(&datagram))
}

/// A frame with a VLAN tag.
pub(crate) fn tagged(tag: u16, bytes: &[u8]) -> Vec<u8> {
    [&bytes[..12], &[0x81, 0], &tag.to_be_bytes(), &bytes[12..]].concat()
}
