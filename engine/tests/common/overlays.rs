//! Tables of the small gateway with tunnels, and frames out of them.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::frames::{IpHeader, UDP};
use engine::tables::{
    Network, Overlay, PortKind, PortTable, Route, Routes, TableMap, Tunnel, TunnelEnd, Vni,
};
use engine::{MacAddress, NetworkId, PortId, Tables, UplinkId};

use super::*;

pub(crate) const TRUNK: PortId = PortId(7);
pub(crate) const TO_CLIENT: PortId = PortId(8);
pub(crate) const TO_ROUTER: PortId = PortId(9);
pub(crate) const VNI: u32 = 4_097;
pub(crate) const UDP_PORT: u16 = 4_789;

/// A station of network front behind the client's tunnel end, and one behind the router's.
pub(crate) const AWAY: Host = beyond(100);
pub(crate) const BEYOND: Host = beyond(101);

pub(crate) const fn beyond(number: u8) -> Host {
    Host {
        port: TRUNK,
        mac: MacAddress::new([2, 0x42, 10, 1, 0, number]),
        gateway_mac: WEB.gateway_mac,
        ipv4: std::net::Ipv4Addr::new(10, 1, 0, number),
        ipv6: std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number as u16),
    }
}

fn port(id: PortId, v6: bool, end: TunnelEnd) -> Option<Arc<PortTable>> {
    let kind = PortKind::Tunnel(Tunnel {
        network: NetworkId(0),
        vni: Vni(VNI),
        udp_port: UDP_PORT,
        uplink: UplinkId(0),
        local: own(v6),
        end,
    });
    let mtu = if v6 { 1_430 } else { 1_450 };
    Some(Arc::new(PortTable { epoch: 1, id, name: format!("vxlan:{}", id.0), kind, mtu }))
}

fn change(tables: &mut Tables, change: impl FnOnce(&mut Network)) {
    change(Arc::make_mut(tables.networks[0].as_mut().expect("there is front")));
}

/// Network front as an overlay with both tunnel ends. `v6`: of the outer header. Without `learns`
/// both stations are static, and 9.0.0.0/8 is routed to the client's.
pub(crate) fn overlay(v6: bool, learns: bool) -> Tables {
    let mut tables = tables();
    Arc::make_mut(&mut tables.nat).reserved = vec![UDP_PORT];
    let all = if learns { vec![TO_CLIENT, TO_ROUTER] } else { Vec::new() };
    tables.ports.push(port(TRUNK, v6, TunnelEnd::Trunk(all)));
    tables.ports.push(port(TO_CLIENT, v6, TunnelEnd::Vtep(CLIENT.ip(v6))));
    tables.ports.push(port(TO_ROUTER, v6, TunnelEnd::Vtep(ROUTER.ip(v6))));
    let via: IpAddr = "44.128.0.1".parse().expect("an address");
    let to = "9.0.0.0/8".parse().expect("a prefix");
    let route = Route { to, via: Some(via), uplink: UplinkId(0) };
    let mut own = Overlay {
        trunk: TRUNK,
        tunnels: vec![TO_CLIENT, TO_ROUTER],
        learns,
        hosts: TableMap::default(),
        routes: Routes::new(1, vec![route]),
    };
    change(&mut tables, |network| {
        if learns {
            network.members.push(TRUNK);
            own.routes = Routes::new(1, Vec::new());
        } else {
            for (host, tunnel) in [(AWAY, TO_CLIENT), (BEYOND, TO_ROUTER)] {
                network.by_mac.insert(host.mac, tunnel);
                own.hosts.insert(host.ip(false), host.mac);
                own.hosts.insert(host.ip(true), host.mac);
            }
            own.hosts.insert(via, AWAY.mac);
        }
        network.overlay = Some(own);
    });
    tables
}

/// `[VXLAN | inner]` as a host sends it to our tunnel end.
pub(crate) fn wrapped(from: &Host, v6: bool, header: [u8; 8], inner: &[u8]) -> Vec<u8> {
    let ip = IpHeader::new(from.ip(v6), own(v6), UDP);
    let payload = [&header[..], inner].concat();
    routed(from, &ip, &datagram(&ip, (50_000, UDP_PORT), &payload))
}

pub(crate) fn vxlan(vni: u32) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [8, 0, 0, 0, a, b, c, 0]
}

pub(crate) fn tunnelled(from: &Host, v6: bool, inner: &[u8]) -> Vec<u8> {
    wrapped(from, v6, vxlan(VNI), inner)
}
