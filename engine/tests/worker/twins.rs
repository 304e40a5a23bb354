//! Overlays beside each other: two with the same addresses do not mix, and several that are routed
//! share one identifier.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::frames::{ICMP, ICMPV6, IpHeader, UDP, icmp, mac_at};
use engine::tables::{
    GatewayMode, Network, Overlay, PortKind, PortTable, Protocol, Publish, PublishEntry, Route,
    Routes, TableMap, Tunnel, TunnelEnd, Vni,
};
use engine::{DropReason, MacAddress, NetworkId, PortId, Tables, UplinkId};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

/// The endpoint of network twin, which has web's addresses.
const TWIN: Host = Host { port: PortId(7), ..WEB };
const TRUNKS: [PortId; 2] = [PortId(8), PortId(10)];
const VNIS: [u32; 2] = [4_097, 4_098];
const UDP_PORT: u16 = 4_789;

/// A member elsewhere, of either network.
const AWAY: Host = Host {
    port: WAN,
    mac: MacAddress::new([2, 0x42, 10, 1, 0, 100]),
    gateway_mac: WEB.gateway_mac,
    ipv4: std::net::Ipv4Addr::new(10, 1, 0, 100),
    ipv6: std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 100),
};

fn tunnel_port(id: PortId, network: NetworkId, vni: u32, end: TunnelEnd) -> Arc<PortTable> {
    let kind = PortKind::Tunnel(Tunnel {
        network,
        vni: Vni(vni),
        udp_port: UDP_PORT,
        uplink: UplinkId(0),
        local: own(false),
        end,
    });
    Arc::new(PortTable { epoch: 1, id, name: format!("vxlan:{}", id.0), kind, mtu: 1_450 })
}

/// Makes a network an overlay with a tunnel to the client.
fn add_overlay(tables: &mut Tables, network: NetworkId, trunk: PortId, vni: u32, own: Overlay) {
    let tunnel = own.tunnels[0];
    let flooded = if own.learns { vec![tunnel] } else { Vec::new() };
    let vtep = TunnelEnd::Vtep(CLIENT.ip(false));
    for (id, end) in [(trunk, TunnelEnd::Trunk(flooded)), (tunnel, vtep)] {
        tables.ports.resize(tables.ports.len().max(id.index() + 1), None);
        tables.ports[id.index()] = Some(tunnel_port(id, network, vni, end));
    }
    let table = Arc::make_mut(tables.networks[network.index()].as_mut().unwrap());
    table.by_mac.insert(AWAY.mac, tunnel);
    table.overlay = Some(own);
    Arc::make_mut(&mut tables.nat).reserved = vec![UDP_PORT];
}

fn overlay(trunk: PortId, hosts: &[(IpAddr, MacAddress)], routes: Vec<Route>) -> Overlay {
    Overlay {
        trunk,
        tunnels: vec![PortId(trunk.0 + 1)],
        learns: false,
        hosts: hosts.iter().copied().collect::<TableMap<_, _>>(),
        routes: Routes::new(1, routes),
    }
}

/// Networks front and twin: the same subnets, the same members, other identifiers.
fn twins() -> Tables {
    let mut tables = tables();
    tables.ports.push(Some(Arc::new(endpoint_port(&TWIN, NetworkId(3)))));
    let front = Network::clone(tables.networks[0].as_ref().unwrap());
    let mut twin = network(3, "twin", &[TWIN]);
    twin.subnets = front.subnets;
    twin.gateway_mac = front.gateway_mac;
    tables.networks.push(Some(Arc::new(twin)));
    let hosts = [(AWAY.ip(false), AWAY.mac), (AWAY.ip(true), AWAY.mac)];
    for (index, network) in [NetworkId(0), NetworkId(3)].into_iter().enumerate() {
        let trunk = TRUNKS[index];
        add_overlay(&mut tables, network, trunk, VNIS[index], overlay(trunk, &hosts, Vec::new()));
    }
    let mut entries = published();
    entries.extend([false, true].map(|v6| PublishEntry {
        host: None,
        protocol: Protocol::Udp,
        host_port: 5_301,
        port_count: 1,
        target_port: 53,
        target: TWIN.ip(v6),
        port: TWIN.port,
        network: NetworkId(3),
    }));
    tables.publish = Arc::new(Publish::new(1, entries));
    tables
}

fn tunnelled(vni: u32, inner: &[u8]) -> Vec<u8> {
    let ip = IpHeader::new(CLIENT.ip(false), own(false), UDP);
    let [_, a, b, c] = vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0], inner].concat();
    routed(&CLIENT, &ip, &datagram(&ip, (50_000, UDP_PORT), &payload))
}

/// The identifier and the frame of what left by a tunnel.
fn opened(seen: &Seen) -> (u32, Vec<u8>) {
    assert_eq!((seen.port, seen.destination()), (WAN, (CLIENT.ip(false), UDP_PORT)));
    let payload = &seen.ip().payload[8..];
    (u32::from_be_bytes([0, payload[4], payload[5], payload[6]]), payload[8..].to_vec())
}

#[test]
fn equal_addresses_in_two_networks_are_bridged_each_in_its_own() {
    each_of(twins, |mut gateway, v6| {
        for _ in 0..2 {
            for (member, vni) in [(&WEB, VNIS[0]), (&TWIN, VNIS[1])] {
                let frame = bridged(member, &AWAY, v6);
                let seen = gateway.forward(member, frame.clone());
                assert_eq!(opened(&seen), (vni, frame));
                let back = bridged(&AWAY, &WEB, v6);
                let seen = gateway.forward(&CLIENT, tunnelled(vni, &back));
                assert_eq!((seen.port, seen.frame.bytes), (member.port, back));
            }
        }
    });
}

#[test]
fn equal_sockets_in_two_networks_are_masqueraded_apart() {
    each_of(twins, |mut gateway, v6| {
        let ask = |host: &Host| udp(host, 40_000, (FAR.ip(v6), 53));
        let out = [&WEB, &TWIN].map(|host| gateway.forward(host, ask(host)).source());
        assert_ne!(out[0], out[1], "one outside port each");
        // Somebody behind each tunnel with one address, too.
        let away = VNIS.map(|vni| {
            let packet = tunnelled(vni, &udp(&AWAY, 40_000, (FAR.ip(v6), 53)));
            gateway.forward(&CLIENT, packet).source()
        });
        assert_ne!(away[0], away[1]);
        for _ in 0..2 {
            for (host, socket) in [&WEB, &TWIN].into_iter().zip(out) {
                let seen = gateway.forward(&FAR, udp(&FAR, 53, socket));
                assert_eq!((seen.port, seen.destination()), (host.port, (WEB.ip(v6), 40_000)));
                assert_eq!(gateway.forward(host, ask(host)).source(), socket);
            }
            for (vni, socket) in VNIS.into_iter().zip(away) {
                let (through, frame) = opened(&gateway.forward(&FAR, udp(&FAR, 53, socket)));
                assert_eq!((through, mac_at(&frame, 0)), (vni, AWAY.mac));
            }
        }
    });
}

#[test]
fn published_ports_lead_to_the_network_that_publishes_them() {
    each_of(twins, |mut gateway, v6| {
        for _ in 0..2 {
            for (member, port) in [(&WEB, 5_300), (&TWIN, 5_301)] {
                let ask = udp(&FAR, 40_000, (own(v6), port));
                let seen = gateway.forward(&FAR, ask);
                assert_eq!((seen.port, seen.destination()), (member.port, (WEB.ip(v6), 53)));
                let answer = udp(member, 53, (FAR.ip(v6), 40_000));
                assert_eq!(gateway.forward(member, answer).source(), (own(v6), port));
                // What a published socket begins itself leaves by its own number.
                let begun = udp(member, 53, (FAR.ip(v6), 40_001));
                assert_eq!(gateway.forward(member, begun).source(), (own(v6), port));
            }
        }
        // By a published port from the other network, which has the server's address itself.
        for (from, port, server) in [(&TWIN, 5_300, &WEB), (&WEB, 5_301, &TWIN)] {
            let seen = gateway.forward(from, udp(from, 41_000, (own(v6), port)));
            assert_eq!((seen.port, seen.destination()), (server.port, (WEB.ip(v6), 53)));
        }
    });
}

#[test]
fn from_elsewhere_the_network_that_is_open_is_meant() {
    let open = |open: usize| {
        move || {
            let mut tables = twins();
            let table = Arc::make_mut(tables.networks[open].as_mut().unwrap());
            table.mode = GatewayMode::NatUnprotected;
            tables
        }
    };
    for (network, member) in [(0, &WEB), (3, &TWIN)] {
        each_of(open(network), |mut gateway, v6| {
            let seen = gateway.forward(&FAR, udp(&FAR, 40_000, (WEB.ip(v6), 9)));
            assert_eq!(seen.port, member.port);
            let seen = gateway.forward(&APP, udp(&APP, 40_000, (WEB.ip(v6), 9)));
            assert_eq!(seen.port, member.port);
        });
    }
    each_of(twins, |mut gateway, v6| {
        gateway.refuse(&FAR, udp(&FAR, 40_000, (WEB.ip(v6), 9)), DropReason::Unpublished);
        gateway.refuse(&APP, udp(&APP, 40_000, (WEB.ip(v6), 9)), DropReason::OtherNetwork);
    });
}

#[test]
fn a_path_that_is_narrow_in_one_network_is_not_in_the_other() {
    let tables = || {
        let mut tables = twins();
        for network in [0, 3] {
            let table = Arc::make_mut(tables.networks[network].as_mut().unwrap());
            let own = table.overlay.as_mut().unwrap();
            let route = |to: &str, via| Route {
                to: to.parse().unwrap(),
                via: Some(via),
                uplink: UplinkId(0),
            };
            let routes =
                vec![route("9.0.0.0/8", AWAY.ip(false)), route("fd09::/16", AWAY.ip(true))];
            own.routes = Routes::new(1, routes);
        }
        tables
    };
    each_of(tables, |mut gateway, v6| {
        let far: IpAddr = if v6 { "fd09::7".parse().unwrap() } else { "9.1.2.3".parse().unwrap() };
        let large = |host: &Host| {
            let mut header = header(host, far, UDP);
            header.dont_fragment = true;
            routed(host, &header, &datagram(&header, (40_000, 53), &[7; 1_340]))
        };
        let [narrow, _] = [&WEB, &TWIN].map(|host| opened(&gateway.forward(host, large(host))));
        // A router behind the first tunnel takes less.
        let error = too_big(&AWAY, WEB.ip(v6), &narrow.1[14..], 1_300);
        let told = gateway.forward(&CLIENT, tunnelled(VNIS[0], &error));
        assert_eq!(told.port, WEB.port);
        assert_eq!(opened(&gateway.forward(&TWIN, large(&TWIN))).0, VNIS[1]);
        let seen = gateway.send(&WEB, large(&WEB));
        assert!(seen.iter().all(|seen| seen.port == WEB.port), "told again: {seen:?}");
    });
}

/// "The next link takes so many bytes", about a packet of web's.
fn too_big(from: &Host, to: IpAddr, quoted: &[u8], mtu: u32) -> Vec<u8> {
    let v6 = to.is_ipv6();
    let (protocol, kind) = if v6 { (ICMPV6, (2, 0)) } else { (ICMP, (3, 4)) };
    let header = IpHeader::new(from.ip(v6), to, protocol);
    routed(from, &header, &icmp(header.source, to, kind, mtu, &quoted[..500]))
}

/// Networks front and back, both routed, by one identifier: 9.1.0.0/16 and 9.2.0.0/16 are behind
/// the client.
fn sharers() -> Tables {
    let mut tables = tables();
    let via: IpAddr = "44.128.0.2".parse().unwrap();
    let mac = WEB.gateway_mac;
    for (index, to) in ["9.1.0.0/16", "9.2.0.0/16"].into_iter().enumerate() {
        let (network, trunk) = (NetworkId(index as u16), TRUNKS[index]);
        let route = Route { to: to.parse().unwrap(), via: Some(via), uplink: UplinkId(0) };
        let own = overlay(trunk, &[(via, AWAY.mac)], vec![route]);
        add_overlay(&mut tables, network, trunk, 1_024, own);
        let table = Arc::make_mut(tables.networks[index].as_mut().unwrap());
        (table.gateway_mac, table.mode) = (mac, GatewayMode::NatUnprotected);
    }
    tables
}

#[test]
fn routed_networks_share_an_identifier_and_are_told_by_their_routes() {
    let app = Host { gateway_mac: WEB.gateway_mac, ..APP };
    each_of(sharers, |mut gateway, v6| {
        if v6 {
            return;
        }
        let from = |text: &str| Host { ipv4: text.parse().unwrap(), ..AWAY };
        for _ in 0..2 {
            for (far, member) in [
                (from("9.1.2.3"), &WEB),
                (from("9.2.2.3"), &app),
                // To the other network's member, which both have a way to.
                (from("9.1.2.4"), &app),
                (from("9.2.2.4"), &WEB),
                // The other gateway itself, which both know.
                (from("44.128.0.2"), &WEB),
                (from("44.128.0.2"), &app),
            ] {
                let asks = udp(&far, 40_000, (member.ip(false), 53));
                let seen = gateway.forward(&CLIENT, tunnelled(1_024, &asks));
                assert_eq!((seen.port, seen.source()), (member.port, (far.ip(false), 40_000)));
                let answer = udp(member, 53, (far.ip(false), 40_000));
                let (vni, frame) = opened(&gateway.forward(member, answer));
                assert_eq!((vni, mac_at(&frame, 0)), (1_024, AWAY.mac));
            }
        }
        let stranger = udp(&from("9.3.2.3"), 40_000, (WEB.ip(false), 53));
        gateway.refuse(&CLIENT, tunnelled(1_024, &stranger), DropReason::OverlaySender);
    });
}

#[test]
fn what_is_told_from_where_the_network_is_asked() {
    let tables = twins();
    let name = |from: u16, address: IpAddr| {
        tables.network_towards(NetworkId(from), address).map(|network| network.name.clone())
    };
    assert_eq!(name(0, WEB.ip(false)).as_deref(), Some("front"));
    assert_eq!(name(3, WEB.ip(false)).as_deref(), Some("twin"));
    assert_eq!(name(1, WEB.ip(false)).as_deref(), Some("front"), "the lower id");
    assert_eq!(name(3, APP.ip(false)).as_deref(), Some("back"));
    assert_eq!(name(0, FAR.ip(false)), None);
    let _ = Gateway::new(tables, 1);
}
