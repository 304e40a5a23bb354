//! The network of [`super`] as an overlay: packets into a tunnel, and out of it.
//!
//! The router is the other tunnel end as well. Routed packets belong to as many flows as those of
//! masquerade do, and go to a prefix behind the other gateway; bridged frames go to one station.

use std::net::IpAddr;
use std::sync::Arc;

use engine::tables::{
    Overlay, PortKind, PortTable, Route, Routes, TableMap, Tunnel, TunnelEnd, Vni,
};
use engine::wire::checksum;
use engine::{MacAddress, NetworkId, PortId, Tables, UplinkId};

use super::port::{Handle, Header, shared};
use super::{
    BATCH_LEN, ENDPOINT, ENDPOINT_MAC, GATEWAY_MAC, INSIDE, OUTSIDE, OWN, ROUTER, ROUTER_MAC,
    UPLINK_MAC, World, arp_reply, prefix, shuffled, tables, udp,
};

const TRUNK: PortId = PortId(3);
const TUNNEL: PortId = PortId(4);
const VNI: u32 = 4_097;
const UDP_PORT: u16 = 4_789;
/// The other gateway inside the overlay, and a station beside it.
const FAR_GATEWAY: [u8; 4] = [44, 128, 0, 2];
const FAR_GATEWAY_MAC: MacAddress = MacAddress::new([0x70, 0xb3, 0xd5, 0x80, 0, 2]);
const STATION: [u8; 4] = [10, 1, 0, 100];
const STATION_MAC: MacAddress = MacAddress::new([2, 0x42, 10, 1, 0, 100]);

/// Which packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the endpoint into the tunnel.
    Encap,
    /// Out of the tunnel to the endpoint.
    Decap,
}

impl World {
    /// Packets of this many flows between the endpoint and hosts behind the other gateway.
    pub fn tunnel_routed(flow_count: usize, direction: Direction) -> World {
        let order = shuffled(4_096, flow_count);
        let out = |index: usize| {
            let (port, server) = flow(index);
            udp((ENDPOINT_MAC, GATEWAY_MAC), (ENDPOINT, port), server)
        };
        let back = |index: usize| {
            let (port, server) = flow(index);
            let inner = udp((FAR_GATEWAY_MAC, GATEWAY_MAC), server, (ENDPOINT, port));
            outer(&inner, index as u16)
        };
        let there = order.iter().map(|&index| out(index)).collect();
        let back = order.iter().map(|&index| back(index)).collect();
        let mut world = World::tunnel(there, back, direction);
        for index in 0..flow_count {
            world.inject_later(INSIDE, out(index).frame());
            if index % 32 == 31 || index + 1 == flow_count {
                world.turn();
            }
        }
        assert_eq!(world.worker.flows().len(), flow_count, "every flow is there");
        world
    }

    /// Frames between the endpoint and a station behind the tunnel.
    pub fn tunnel_bridged(direction: Direction) -> World {
        let there = udp((ENDPOINT_MAC, STATION_MAC), (ENDPOINT, 40_000), (STATION, 80));
        let back = udp((STATION_MAC, ENDPOINT_MAC), (STATION, 80), (ENDPOINT, 40_000));
        World::tunnel(vec![there; BATCH_LEN], vec![outer(&back, 7); BATCH_LEN], direction)
    }

    fn tunnel(there: Vec<Header>, back: Vec<Header<128>>, direction: Direction) -> World {
        let source = match direction {
            Direction::Encap => INSIDE,
            Direction::Decap => OUTSIDE,
        };
        let (there, back, recycled) = (Arc::new(there), Arc::new(back), shared());
        let mut world = World::between(overlay(), [source; 2], |id| match id {
            OUTSIDE => Handle::of(&back, Some(&recycled)),
            _ => Handle::of(&there, Some(&recycled)),
        });
        world.inject(INSIDE, there[0].frame());
        world.inject(OUTSIDE, &arp_reply());
        world.inject(INSIDE, there[0].frame());
        world.inject(OUTSIDE, back[0].frame());
        world
    }
}

/// The `index`-th flow: an inside port and a host behind the other gateway.
fn flow(index: usize) -> (u16, ([u8; 4], u16)) {
    let (port, (server, server_port)) = super::flow(index);
    (port, ([9, server[1], server[2], server[3]], server_port))
}

/// The packet as the other tunnel end sends it.
fn outer(inner: &Header, source_port: u16) -> Header<128> {
    const OUTER_BYTES: usize = 50;
    let frame = inner.frame();
    let mut bytes = [0; 128];
    bytes[..6].copy_from_slice(&UPLINK_MAC.bytes());
    bytes[6..12].copy_from_slice(&ROUTER_MAC.bytes());
    bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    bytes[16..18].copy_from_slice(&((frame.len() + OUTER_BYTES - 14) as u16).to_be_bytes());
    // Each has a number of its own, as those of a kernel have.
    bytes[18..20].copy_from_slice(&source_port.to_be_bytes());
    bytes[20..24].copy_from_slice(&[0x40, 0, 64, 17]);
    bytes[26..30].copy_from_slice(&ROUTER);
    bytes[30..34].copy_from_slice(&OWN);
    let sum = !checksum::fold(checksum::sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..36].copy_from_slice(&(0xc000 | source_port).to_be_bytes());
    bytes[36..38].copy_from_slice(&UDP_PORT.to_be_bytes());
    bytes[38..40].copy_from_slice(&((frame.len() + 16) as u16).to_be_bytes());
    bytes[42] = 8;
    bytes[46..50].copy_from_slice(&(VNI << 8).to_be_bytes());
    bytes[OUTER_BYTES..OUTER_BYTES + frame.len()].copy_from_slice(frame);
    Header(bytes)
}

fn overlay() -> Tables {
    let mut tables = tables(1_024);
    Arc::make_mut(&mut tables.nat).reserved = vec![UDP_PORT];
    let port = |id, name: &str, end| {
        let kind = PortKind::Tunnel(Tunnel {
            network: NetworkId(0),
            vni: Vni(VNI),
            udp_port: UDP_PORT,
            uplink: UplinkId(0),
            local: OWN.into(),
            end,
        });
        Some(Arc::new(PortTable { epoch: 1, id, name: name.into(), kind, mtu: 1450 }))
    };
    tables.ports.push(port(TRUNK, "vxlan", TunnelEnd::Trunk(Vec::new())));
    tables.ports.push(port(TUNNEL, "vxlan:router", TunnelEnd::Vtep(ROUTER.into())));
    for port in &mut tables.ports[INSIDE.index()..TRUNK.index()] {
        Arc::make_mut(port.as_mut().expect("an endpoint's")).mtu = 1450;
    }
    let network = Arc::make_mut(tables.networks[0].as_mut().expect("there is one"));
    let far: IpAddr = FAR_GATEWAY.into();
    let mut hosts = TableMap::default();
    for (address, mac) in [(far, FAR_GATEWAY_MAC), (STATION.into(), STATION_MAC)] {
        hosts.insert(address, mac);
        network.by_mac.insert(mac, TUNNEL);
    }
    let route = Route { to: prefix(0x0900_0000, 8), via: Some(far), uplink: UplinkId(0) };
    let routes = Routes::new(1, vec![route]);
    let overlay = Overlay { trunk: TRUNK, tunnels: vec![TUNNEL], learns: false, hosts, routes };
    network.overlay = Some(overlay);
    tables
}
