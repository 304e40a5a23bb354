//! Hosts and tables of the small gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use engine::limits::Limits;
use engine::tables::{
    Attachment, GatewayMode, HostLink, MssClamp, Network, PortKind, PortTable, Protocol, Publish,
    PublishEntry, Route, Routes, Subnet, TableMap, Uplink,
};
use engine::{MacAddress, NetworkId, PortId, Tables, UplinkId};

/// The uplink's port.
pub(crate) const WAN: PortId = PortId(0);
/// The gateway's MAC address on the uplink.
pub(crate) const WAN_MAC: MacAddress = MacAddress::derived(Ipv4Addr::new(192, 0, 2, 10));

/// Somebody who sends and receives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// The gateway's port that leads to it.
    pub(crate) port: PortId,
    /// Its MAC address; of one behind a router, the router's.
    pub(crate) mac: MacAddress,
    /// The gateway's MAC address on that port.
    pub(crate) gateway_mac: MacAddress,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

impl Host {
    pub(crate) fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.ipv6.into() } else { self.ipv4.into() }
    }
}

const fn member(port: u16, network: u8, number: u8) -> Host {
    let ipv4 = Ipv4Addr::new(10, network, 0, number);
    Host {
        port: PortId(port),
        mac: MacAddress::derived(ipv4),
        gateway_mac: MacAddress::derived(Ipv4Addr::new(10, network, 0, 1)),
        ipv4,
        ipv6: Ipv6Addr::new(0xfd00, network as u16, 0, 0, 0, 0, 0, number as u16),
    }
}

const fn outside(mac: u8, ipv4: [u8; 4], ipv6_low: [u16; 2]) -> Host {
    let [a, b, c, d] = ipv4;
    Host {
        port: WAN,
        mac: MacAddress::new([2, 0, 0, 0, 0, mac]),
        gateway_mac: WAN_MAC,
        ipv4: Ipv4Addr::new(a, b, c, d),
        ipv6: Ipv6Addr::new(0x2001, 0xdb8, ipv6_low[0], 0, 0, 0, 0, ipv6_low[1]),
    }
}

pub(crate) const WEB: Host = member(1, 1, 10);
pub(crate) const DB: Host = member(2, 1, 11);
pub(crate) const VM: Host = member(5, 1, 12);
pub(crate) const FARM: Host = member(6, 1, 13);
pub(crate) const APP: Host = member(3, 2, 10);
pub(crate) const VAULT: Host = member(4, 3, 10);
pub(crate) const ROUTER: Host = outside(1, [192, 0, 2, 1], [0, 1]);
pub(crate) const CLIENT: Host = outside(50, [192, 0, 2, 50], [0, 0x50]);
/// A server behind the router.
pub(crate) const FAR: Host = outside(1, [198, 51, 100, 7], [0xf, 7]);

/// The gateway's own address on the uplink.
pub(crate) fn own(v6: bool) -> IpAddr {
    match v6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
        false => Ipv4Addr::new(192, 0, 2, 10).into(),
    }
}

/// The gateway's address in a network: 1 front, 2 back, 3 safe.
pub(crate) fn gateway(network: u8, v6: bool) -> IpAddr {
    match v6 {
        true => Ipv6Addr::new(0xfd00, u16::from(network), 0, 0, 0, 0, 0, 1).into(),
        false => Ipv4Addr::new(10, network, 0, 1).into(),
    }
}

/// Published: tcp 8080 web:80, udp 5300 web:53, tcp 8081 app:80, tcp 8082 vault:80, all of both
/// families.
pub(crate) fn published() -> Vec<PublishEntry> {
    let rules = [
        (Protocol::Tcp, 8_080, WEB, 0, 80),
        (Protocol::Udp, 5_300, WEB, 0, 53),
        (Protocol::Tcp, 8_081, APP, 1, 80),
        (Protocol::Tcp, 8_082, VAULT, 2, 80),
    ];
    let both = rules.into_iter().flat_map(|rule| [(rule, false), (rule, true)]);
    both.map(|((protocol, host_port, host, network, target_port), v6)| PublishEntry {
        host: None,
        protocol,
        host_port,
        port_count: 1,
        target_port,
        target: host.ip(v6),
        port: host.port,
        network: NetworkId(network),
    })
    .collect()
}

/// Small limits, so that a table is full soon.
pub(crate) fn limits() -> Limits {
    Limits { flows: 256, flows_per_port: 128, fdb: 256, neighbours: 16, ..Limits::default() }
}

/// The tables of the small gateway.
pub(crate) fn tables() -> Tables {
    let uplink = UplinkId(0);
    let route = |to: &str, via| Route { to: to.parse().expect("a prefix"), via, uplink };
    let routes = vec![
        route("192.0.2.0/24", None),
        route("0.0.0.0/0", Some(ROUTER.ip(false))),
        route("2001:db8::/64", None),
        route("::/0", Some(ROUTER.ip(true))),
    ];
    let mut tables = Tables {
        uplinks: vec![Some(Arc::new(Uplink {
            epoch: 1,
            id: uplink,
            name: "wan".into(),
            port: WAN,
            mac: WAN_MAC,
            addresses: ["192.0.2.10/24", "2001:db8::10/64"]
                .map(|own| own.parse().expect("a prefix"))
                .into(),
            trusted: false,
            host: HostLink::default(),
            link: None,
        }))],
        ports: vec![Some(Arc::new(PortTable {
            epoch: 1,
            id: WAN,
            name: "wan".into(),
            kind: PortKind::Uplink(uplink),
            mtu: 1_500,
        }))],
        publish: Arc::new(Publish::new(1, published())),
        routes: Arc::new(Routes::new(1, routes)),
        limits: Arc::new(limits()),
        ..Tables::empty()
    };
    for host in [WEB, DB, APP, VAULT, VM, FARM] {
        let network = NetworkId(u16::from(host.ipv4.octets()[1]) - 1);
        tables.ports.push(Some(Arc::new(endpoint_port(&host, network))));
    }
    tables.networks.push(Some(Arc::new(network(0, "front", &[WEB, DB, VM, FARM]))));
    tables.networks.push(Some(Arc::new(network(1, "back", &[APP]))));
    let safe = Network { internal: true, ..network(2, "safe", &[VAULT]) };
    tables.networks.push(Some(Arc::new(safe)));
    tables
}

/// The port of an endpoint. What is behind vm's and farm's is learnt.
pub(crate) fn endpoint_port(host: &Host, network: NetworkId) -> PortTable {
    PortTable {
        epoch: 1,
        id: host.port,
        name: format!("{}/{}", host.ipv4, network.0),
        kind: PortKind::Endpoint(Attachment {
            endpoint: host.ipv4.to_string(),
            network,
            mac: host.mac,
            ipv4: Some(host.ipv4),
            ipv6: Some(host.ipv6),
            anti_spoofing: host.ipv4 != VM.ipv4 && host.ipv4 != FARM.ipv4,
        }),
        mtu: 1_500,
    }
}

/// A network with these members.
pub(crate) fn network(id: u16, name: &str, members: &[Host]) -> Network {
    let number = id as u8 + 1;
    let subnet = |text: String, v6| Subnet {
        prefix: text.parse().expect("a prefix"),
        gateway: gateway(number, v6),
    };
    let mut by_address = TableMap::default();
    for host in members {
        by_address.insert(host.ip(false), host.port);
        by_address.insert(host.ip(true), host.port);
    }
    let mut ports: Vec<PortId> = members.iter().map(|host| host.port).collect();
    ports.sort_unstable();
    Network {
        epoch: 1,
        id: NetworkId(id),
        name: name.into(),
        gateway_mac: MacAddress::derived(Ipv4Addr::new(10, number, 0, 1)),
        subnets: vec![
            subnet(format!("10.{number}.0.0/24"), false),
            subnet(format!("fd00:{number}::/64"), true),
        ],
        internal: false,
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
        members: ports,
        by_address,
        by_mac: members.iter().map(|host| (host.mac, host.port)).collect(),
    }
}
