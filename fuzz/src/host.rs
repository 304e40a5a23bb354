//! Who takes part: six hosts around a gateway with two networks and an uplink, and the tables that
//! the config of that gateway would compile to.
//!
//! Everything is constant, so that a letter of a script means the same for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use engine::limits::{Limits, NatSettings};
use engine::tables::{
    Attachment, GatewayMode, HostLink, MssClamp, Network, Policy, PortKind, PortTable, Protocol,
    Publish, PublishEntry, Route, Routes, Subnet, TableMap, Uplink,
};
use engine::{Caps, MacAddress, NetworkId, PortId, Tables, UplinkId};

/// The uplink's port; members have the ports after it.
pub(crate) const UPLINK: PortId = PortId(0);

/// How many ports there are.
pub(crate) const PORT_COUNT: u16 = 5;

/// The gateway's MAC address on its uplink.
pub(crate) const UPLINK_MAC: MacAddress = MacAddress::new([2, 0x42, 192, 0, 2, 10]);

/// A host outside the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// Where its packets come in.
    pub(crate) port: PortId,
    pub(crate) mac: MacAddress,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

impl Host {
    /// Its address of a family.
    pub(crate) fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.ipv6.into() } else { self.ipv4.into() }
    }
}

const fn host(port: u16, ipv4: [u8; 4], subnet: [u16; 4]) -> Host {
    let [a, b, c, d] = ipv4;
    let [e, f, g, h] = subnet;
    Host {
        port: PortId(port),
        mac: MacAddress::new([2, 0x42, a, b, c, d]),
        ipv4: Ipv4Addr::new(a, b, c, d),
        ipv6: Ipv6Addr::new(e, f, g, h, 0, 0, 0, d as u16),
    }
}

/// Two hosts on the uplink's link (the first is its router), two members of the network `front`,
/// two of `back`.
pub(crate) const HOSTS: [Host; 6] = [
    host(0, [192, 0, 2, 1], [0x2001, 0xdb8, 0, 0]),
    host(0, [192, 0, 2, 20], [0x2001, 0xdb8, 0, 0]),
    host(1, [10, 1, 0, 11], [0xfd00, 1, 0, 0]),
    host(2, [10, 1, 0, 12], [0xfd00, 1, 0, 0]),
    host(3, [10, 2, 0, 13], [0xfd00, 2, 0, 0]),
    host(4, [10, 2, 0, 14], [0xfd00, 2, 0, 0]),
];

/// Addresses that packets go to: the hosts', then the gateway's in `front`, in `back` and on the
/// uplink, one behind the router, one that nobody has, and the group of all.
pub(crate) const TARGETS_V4: [Ipv4Addr; 12] = [
    HOSTS[0].ipv4,
    HOSTS[1].ipv4,
    HOSTS[2].ipv4,
    HOSTS[3].ipv4,
    HOSTS[4].ipv4,
    HOSTS[5].ipv4,
    Ipv4Addr::new(10, 1, 0, 1),
    Ipv4Addr::new(10, 2, 0, 1),
    Ipv4Addr::new(192, 0, 2, 10),
    Ipv4Addr::new(198, 51, 100, 9),
    Ipv4Addr::new(10, 1, 0, 99),
    Ipv4Addr::BROADCAST,
];

/// The same in IPv6.
pub(crate) const TARGETS_V6: [Ipv6Addr; 12] = [
    HOSTS[0].ipv6,
    HOSTS[1].ipv6,
    HOSTS[2].ipv6,
    HOSTS[3].ipv6,
    HOSTS[4].ipv6,
    HOSTS[5].ipv6,
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10),
    Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 9),
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 99),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
];

/// The gateway's MAC address where this host is.
pub(crate) fn gateway_mac(host: &Host) -> MacAddress {
    match host.port.0 {
        0 => UPLINK_MAC,
        1 | 2 => MacAddress::new([2, 0x42, 10, 1, 0, 1]),
        _ => MacAddress::new([2, 0x42, 10, 2, 0, 1]),
    }
}

/// What a port can do: one member of `front` takes everything, one of `back` only checksums; the
/// others and the uplink take nothing, so super-frames are cut inside a network and on the way out.
pub(crate) fn caps(port: PortId) -> Caps {
    let (checksum, segments) = match port.0 {
        1 => (true, true),
        3 => (true, false),
        _ => (false, false),
    };
    Caps { checksum, tso: segments, uso: segments, mtu: mtu(port), tunnelled: false }
}

fn mtu(port: PortId) -> u16 {
    if port.0 == 2 { 1_400 } else { 1_500 }
}

/// The tables of a generation. Even ones publish nothing, so that going on to the next one moves
/// the epoch of a part that flows depend on.
pub(crate) fn tables(generation: u64) -> Tables {
    let entries = if generation % 2 == 1 { published() } else { Vec::new() };
    Tables {
        generation,
        plan: 1,
        ports: (0..PORT_COUNT).map(|port| Some(Arc::new(port_table(PortId(port))))).collect(),
        networks: (0..2).map(|index| Some(Arc::new(network(index)))).collect(),
        uplinks: vec![Some(Arc::new(uplink()))],
        publish: Arc::new(Publish::new(generation, entries)),
        policy: Arc::new(Policy::new(1, Vec::new())),
        routes: Arc::new(Routes::new(1, routes())),
        nat: Arc::new(NatSettings { port_min: 40_000, port_max: 40_063, ..NatSettings::default() }),
        limits: Arc::new(limits()),
    }
}

/// Small, so that a script of a few dozen packets reaches them.
fn limits() -> Limits {
    Limits {
        flows: 64,
        flows_per_port: 24,
        half_open_per_port: 8,
        flows_per_source: 12,
        fdb: 16,
        fdb_per_port: 8,
        neighbours: 8,
        held_per_neighbour: 4,
        fragments: 4,
        fragments_held: 6,
        floods_per_second: 40,
        answers_per_second: 40,
        icmp_errors_per_second: 40,
        hand_over: 16,
        glued: 8,
    }
}

fn port_table(id: PortId) -> PortTable {
    let kind = match HOSTS.iter().find(|host| host.port == id && id != UPLINK) {
        None => PortKind::Uplink(UplinkId(0)),
        Some(host) => PortKind::Endpoint(Attachment {
            endpoint: format!("endpoint-{}", id.0),
            network: NetworkId((id.0 - 1) / 2),
            mac: host.mac,
            ipv4: Some(host.ipv4),
            ipv6: Some(host.ipv6),
            anti_spoofing: id.0 != 3,
        }),
    };
    PortTable { epoch: 1, id, name: format!("port-{}", id.0), kind, mtu: mtu(id) }
}

fn network(index: u16) -> Network {
    let target = usize::from(6 + index);
    let subnet = |gateway: IpAddr, length| Subnet {
        prefix: ipnet::IpNet::new(gateway, length).expect("the length fits").trunc(),
        gateway,
    };
    let members = [PortId(2 * index + 1), PortId(2 * index + 2)];
    let hosts = HOSTS.iter().filter(|host| members.contains(&host.port));
    let mut by_address = TableMap::default();
    let mut by_mac = TableMap::default();
    for host in hosts {
        by_address.insert(host.address(false), host.port);
        by_address.insert(host.address(true), host.port);
        by_mac.insert(host.mac, host.port);
    }
    Network {
        epoch: 1,
        id: NetworkId(index),
        name: ["front", "back"][usize::from(index)].to_owned(),
        gateway_mac: MacAddress::derived(TARGETS_V4[target]),
        subnets: vec![subnet(TARGETS_V4[target].into(), 24), subnet(TARGETS_V6[target].into(), 64)],
        internal: false,
        icc: index == 0,
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
        members: members.to_vec(),
        by_address,
        by_mac,
    }
}

fn uplink() -> Uplink {
    let own = |address: IpAddr, length| ipnet::IpNet::new(address, length).expect("it fits");
    Uplink {
        epoch: 1,
        id: UplinkId(0),
        name: "wan".to_owned(),
        port: UPLINK,
        mac: UPLINK_MAC,
        addresses: vec![own(TARGETS_V4[8].into(), 24), own(TARGETS_V6[8].into(), 64)],
        trusted: false,
        host: HostLink::default(),
        link: None,
    }
}

fn routes() -> Vec<Route> {
    let route = |to: &str, via: Option<IpAddr>| Route {
        to: to.parse().expect("a prefix"),
        via,
        uplink: UplinkId(0),
    };
    vec![
        route("192.0.2.0/24", None),
        route("2001:db8::/64", None),
        route("0.0.0.0/0", Some(HOSTS[0].address(false))),
        route("::/0", Some(HOSTS[0].address(true))),
    ]
}

fn published() -> Vec<PublishEntry> {
    let entry = |protocol, host_port, port_count, target_port, host: &Host, v6| PublishEntry {
        host: None,
        protocol,
        host_port,
        port_count,
        target_port,
        target: host.address(v6),
        port: host.port,
        network: NetworkId((host.port.0 - 1) / 2),
    };
    vec![
        entry(Protocol::Tcp, 8_080, 1, 80, &HOSTS[2], false),
        entry(Protocol::Tcp, 8_080, 1, 80, &HOSTS[2], true),
        entry(Protocol::Udp, 5_000, 10, 6_000, &HOSTS[4], false),
        entry(Protocol::Udp, 5_000, 10, 6_000, &HOSTS[4], true),
    ]
}
