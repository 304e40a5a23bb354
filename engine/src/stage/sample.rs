//! A small gateway for the tests of the stages, and inputs of packets in it.
//!
//! ```text
//!  network 0  10.1.0.0/24, fd00:1::/64   ports 1 (.10) and 2 (.11)
//!  network 1  10.2.0.0/24, fd00:2::/64   port 3 (.10)
//!  network 2  10.3.0.0/24, fd00:3::/64   port 4 (.10), internal
//!  uplink     192.0.2.10, 2001:db8::10   port 0, default router 192.0.2.1, 2001:db8::1
//! ```
//!
//! Nothing is published; who wants that adds it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Cx, Decision, Stage, Verdict};
use crate::flow::{FlowInput, Path};
use crate::id::{MacAddress, NetworkId, PortId, UplinkId, WorkerId};
use crate::tables::{
    Attachment, GatewayMode, HostLink, MssClamp, Network, PortKind, PortTable, Protocol, Publish,
    PublishEntry, Route, Routes, Subnet, TableMap, Tables, Uplink,
};
use crate::time::Tick;
use crate::wire::protocol;

/// An address of this file or its users.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// MAC address of the endpoint behind a port.
pub(super) fn mac(port: u16) -> MacAddress {
    MacAddress(0x0242_0000_0000 | u64::from(port))
}

fn network(id: u16, ports: &[u16]) -> Network {
    let number = id + 1;
    let subnet = |prefix: String, gateway: String| Subnet {
        prefix: prefix.parse().expect("a prefix"),
        gateway: ip(&gateway),
    };
    let mut by_address = TableMap::default();
    for (index, &port) in ports.iter().enumerate() {
        by_address.insert(ip(&format!("10.{number}.0.{}", 10 + index)), PortId(port));
        by_address.insert(ip(&format!("fd00:{number}::{}", 10 + index)), PortId(port));
    }
    Network {
        epoch: 1,
        id: NetworkId(id),
        name: format!("network{id}"),
        gateway_mac: MacAddress(0x0242_ffff_0000 | u64::from(id)),
        subnets: vec![
            subnet(format!("10.{number}.0.0/24"), format!("10.{number}.0.1")),
            subnet(format!("fd00:{number}::/64"), format!("fd00:{number}::1")),
        ],
        internal: id == 2,
        icc: true,
        mode: GatewayMode::Nat,
        masquerade: true,
        mss_clamp: MssClamp::Auto,
        mtu: 1_500,
        uplink: Some(UplinkId(0)),
        overlay: None,
        direct: None,
        multicast_snooping: true,
        routed_only: false,
        unfiltered: false,
        members: ports.iter().map(|&port| PortId(port)).collect(),
        by_address,
        by_mac: ports.iter().map(|&port| (mac(port), PortId(port))).collect(),
    }
}

/// The tables.
pub(crate) fn tables() -> Tables {
    let uplink = UplinkId(0);
    let port = |id: u16, kind| {
        let name = format!("port{id}");
        Some(Arc::new(PortTable { epoch: 1, id: PortId(id), name, kind, mtu: 1_500 }))
    };
    let endpoint = |id: u16, network: u16| {
        let attachment = Attachment {
            endpoint: format!("endpoint{id}"),
            network: NetworkId(network),
            mac: mac(id),
            ipv4: None,
            ipv6: None,
            anti_spoofing: true,
        };
        port(id, PortKind::Endpoint(attachment))
    };
    let route = |to: &str, via: Option<&str>| Route {
        to: to.parse().expect("a prefix"),
        via: via.map(ip),
        uplink,
    };
    let addresses = ["192.0.2.10/24", "2001:db8::10/64"];
    Tables {
        ports: vec![
            port(0, PortKind::Uplink(uplink)),
            endpoint(1, 0),
            endpoint(2, 0),
            endpoint(3, 1),
            endpoint(4, 2),
        ],
        networks: [network(0, &[1, 2]), network(1, &[3]), network(2, &[4])]
            .map(|network| Some(Arc::new(network)))
            .into(),
        uplinks: vec![Some(Arc::new(Uplink {
            epoch: 1,
            id: uplink,
            name: "wan".into(),
            port: PortId(0),
            mac: MacAddress(0x0242_eeee_0000),
            addresses: addresses.map(|own| own.parse().expect("a prefix")).into(),
            trusted: false,
            host: HostLink::default(),
            link: None,
        }))],
        routes: Arc::new(Routes::new(
            1,
            vec![
                route("192.0.2.0/24", None),
                route("0.0.0.0/0", Some("192.0.2.1")),
                route("2001:db8::/64", None),
                route("::/0", Some("2001:db8::1")),
            ],
        )),
        ..Tables::empty()
    }
}

/// Publishes ports of the endpoint behind port 1.
pub(super) fn publish(tables: &mut Tables, host_port: u16, port_count: u16, target_port: u16) {
    let entry = PublishEntry {
        host: None,
        protocol: Protocol::Udp,
        host_port,
        port_count,
        target_port,
        target: ip("10.1.0.10"),
        port: PortId(1),
        network: NetworkId(0),
    };
    tables.publish = Arc::new(Publish::new(1, vec![entry]));
}

/// Network of a port; none for the uplink.
fn network_of(port: u16) -> NetworkId {
    match port {
        1 | 2 => NetworkId(0),
        3 => NetworkId(1),
        4 => NetworkId(2),
        _ => NetworkId::NONE,
    }
}

/// A routed UDP packet.
pub(crate) fn udp(ingress: u16, from: (&str, u16), to: (&str, u16)) -> FlowInput {
    FlowInput {
        ingress: PortId(ingress),
        network: network_of(ingress),
        path: Path::Routed,
        source: ip(from.0),
        destination: ip(to.0),
        protocol: protocol::UDP,
        source_port: from.1,
        destination_port: to.1,
    }
}

/// A frame inside the network of a port.
pub(super) fn frame(ingress: u16, to: MacAddress) -> FlowInput {
    FlowInput::bridged(PortId(ingress), network_of(ingress), to)
}

/// What a single worker's stages see.
pub(super) fn cx(tables: &Tables) -> Cx<'_> {
    Cx { tables, worker: WorkerId(0), worker_count: 1, tick: Tick(0), seed: 7 }
}

/// What a stage says about a packet that no stage before it has touched.
pub(super) fn decide<S: Stage>(
    stage: &mut S,
    input: &FlowInput,
    tables: &Tables,
) -> (Verdict, Decision) {
    let mut decision = Decision::default();
    let verdict = stage.decide(input, &mut decision, &cx(tables));
    (verdict, decision)
}
