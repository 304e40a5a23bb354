//! The world that is simulated: its networks, endpoints, uplink, published ports and outside.
//!
//! Three networks (one may forbid its members to talk, one is internal), each IPv4 and IPv6, and
//! one uplink on whose link a default router and further hosts live. Odd corners on purpose: a
//! published port in the masquerade range, a range, one bound to one address, one that leads to a
//! port where nobody listens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::host::HostPlan;
use super::ledger::Seen;
use super::rng::Rng;
use super::tunnels::{Beyond, FIRST_VNI, TUNNEL_PORT};
use crate::id::{MacAddress, NetworkId, PortId, UplinkId};
use crate::limits::{Filtering, Limits, NatSettings, StaticNat, Statics};
use crate::port::Caps;
use crate::tables::*;

/// Endpoints of each network.
pub(super) const ENDPOINT_COUNT: usize = 3;

/// Number of networks; the last is internal.
pub(super) const NETWORK_COUNT: usize = 3;

/// Published ports that are withdrawn half way, if the plan says so: one of TCP, one of UDP.
pub(super) const WITHDRAWN: [u16; 2] = [8_082, 5_302];

/// The uplink's port.
pub(super) const UPLINK: PortId = PortId(0);

/// Where a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An endpoint behind a port, in a network.
    Inside(PortId, NetworkId),
    /// On the uplink's link.
    Outside,
}

/// Everything that a seed decides about the shape of the world.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) tables: Tables,
    pub(super) hosts: Vec<HostPlan>,
    pub(super) places: Vec<Place>,
    /// By port that has a device.
    pub(super) caps: Vec<Caps>,
    /// Hosts of overlays that are behind tunnels. Their place is inside, behind the trunk.
    pub(super) beyond: Vec<Beyond>,
}

/// What varies from world to world.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopologyPlan {
    pub(super) uplink_mtu: u16,
    /// Ports may take partial checksums and super-frames.
    pub(super) offloads: bool,
    /// The second network's members may talk to each other.
    pub(super) icc: bool,
    /// The first two networks are overlays; true: by tunnels of IPv6.
    pub(super) tunnels: Option<bool>,
    /// Every table is too small.
    pub(super) tight: bool,
    /// No flow lives for hours without packets.
    pub(super) short_timeouts: bool,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix of this file")
}

/// The gateway's own addresses on the uplink. The first two are what masqueraded traffic leaves as,
/// the last is one endpoint's alone.
const OWN: [(&str, &str); 3] = [
    ("192.0.2.10", "2001:db8::10"),
    ("192.0.2.11", "2001:db8::11"),
    ("192.0.2.12", "2001:db8::12"),
];

fn own(text: &str, prefix_bits: u8) -> IpNet {
    IpNet::new(ip(text), prefix_bits).expect("a length that fits")
}

fn limits(tight: bool) -> Limits {
    let wide = Limits {
        flows: 8_192,
        flows_per_port: 4_096,
        half_open_per_port: 4_096,
        flows_per_source: 4_096,
        fdb: 1_024,
        fdb_per_port: 128,
        neighbours: 256,
        held_per_neighbour: 64,
        ..Limits::default()
    };
    let narrow = Limits {
        flows: 24,
        flows_per_port: 8,
        half_open_per_port: 4,
        flows_per_source: 6,
        fdb: 8,
        fdb_per_port: 2,
        neighbours: 2,
        held_per_neighbour: 2,
        fragments: 2,
        fragments_held: 3,
        floods_per_second: 20,
        answers_per_second: 10,
        icmp_errors_per_second: 10,
        hand_over: 4,
        glued: 3,
    };
    if tight { narrow } else { wide }
}

impl Topology {
    pub(super) fn new(plan: TopologyPlan, rng: &mut Rng) -> Topology {
        let port_count = 1 + NETWORK_COUNT * ENDPOINT_COUNT;
        let caps: Vec<Caps> = (0..port_count)
            .map(|port| {
                let checksum = plan.offloads && rng.chance(600);
                // Super-frames but no unfinished checksums: as AF_XDP with a relay.
                let tso = plan.offloads && rng.chance(if checksum { 600 } else { 200 });
                let mtu = if port == UPLINK.index() { plan.uplink_mtu } else { 1_500 };
                Caps { checksum, tso, uso: false, mtu, tunnelled: false }
            })
            .collect();
        let mut topology = Topology {
            tables: Tables::empty(),
            hosts: Vec::new(),
            places: Vec::new(),
            caps,
            beyond: Vec::new(),
        };
        topology.add_uplink(plan.uplink_mtu);
        for index in 0..NETWORK_COUNT {
            topology.add_network(index, plan.icc);
        }
        if let Some(v6) = plan.tunnels {
            (0..2).for_each(|index| topology.add_overlay(index, v6));
        }
        topology.add_published();
        topology.tables.limits = Arc::new(limits(plan.tight));
        let pool = OWN[..2].iter().flat_map(|(v4, v6)| [ip(v4), ip(v6)]).collect();
        let mut nat = NatSettings {
            epoch: 1,
            filtering: *rng.pick(&[
                Filtering::AddressAndPort,
                Filtering::AddressAndPort,
                Filtering::Address,
                Filtering::Endpoint,
            ]),
            pools: vec![(UplinkId(0), pool)],
            statics: topology.statics(),
            reserved: plan.tunnels.map(|_| TUNNEL_PORT).into_iter().collect(),
            ..NatSettings::default()
        };
        if plan.short_timeouts {
            nat.timeouts.tcp_established = Duration::from_secs(300);
        }
        topology.tables.nat = Arc::new(nat);
        topology
    }

    /// The hosts in a network.
    pub(super) fn members(&self, network: NetworkId) -> Vec<usize> {
        let is_member =
            |&host: &usize| matches!(self.places[host], Place::Inside(_, own) if own == network);
        (0..self.hosts.len()).filter(is_member).collect()
    }

    /// The hosts on the uplink's link.
    pub(super) fn outside(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|&host| self.places[host] == Place::Outside).collect()
    }

    /// The host behind a port.
    pub(super) fn behind(&self, port: PortId) -> Option<usize> {
        let is_it = |place: &Place| matches!(place, Place::Inside(own, _) if *own == port);
        self.places.iter().position(is_it)
    }

    /// The host behind a tunnel that has this place in the list of hosts.
    pub(super) fn beyond(&self, host: usize) -> Option<&Beyond> {
        self.beyond.iter().find(|beyond| beyond.host == host)
    }

    pub(super) fn uplink_mac(&self) -> MacAddress {
        self.tables.uplink(UplinkId(0)).expect("it was added first").mac
    }

    /// The gateway's own address on the uplink.
    pub(super) fn uplink_address(&self, v6: bool) -> IpAddr {
        let uplink = self.tables.uplink(UplinkId(0)).expect("it was added first");
        uplink.address_of(v6).expect("it has both families")
    }

    /// Outside addresses of masqueraded traffic.
    pub(super) fn pool(&self) -> Vec<IpAddr> {
        self.tables.nat.pools.iter().flat_map(|(_, addresses)| addresses.clone()).collect()
    }

    /// The endpoint that has an outside address for itself.
    pub(super) fn static_host(&self) -> usize {
        self.members(NetworkId(1))[2]
    }

    /// That address.
    pub(super) fn static_address(&self, v6: bool) -> IpAddr {
        ip(if v6 { OWN[2].1 } else { OWN[2].0 })
    }

    /// True if a UDP port of an endpoint's is published.
    pub(super) fn is_published(&self, address: IpAddr, port: u16) -> bool {
        let host = self.hosts.iter().position(|host| host.owns(address));
        let Some(Place::Inside(_, network)) = host.map(|host| self.places[host]) else {
            return false;
        };
        self.tables.publish.by_target(network, address, 17, port).is_some()
    }

    /// As what the outside sees a socket of inside that nothing publishes.
    pub(super) fn seen_outside(&self, inside: SocketAddr) -> Seen {
        let v6 = inside.is_ipv6();
        match self.hosts[self.static_host()].owns(inside.ip()) {
            true => Seen::Published(SocketAddr::new(self.static_address(v6), inside.port())),
            false => Seen::Masqueraded { v6 },
        }
    }

    fn statics(&self) -> Statics {
        let host = self.static_host();
        let Place::Inside(port, network) = self.places[host] else {
            panic!("members of networks are inside");
        };
        let one = |v6| StaticNat {
            inside: self.hosts[host].address(v6).expect("hosts have both families"),
            outside: self.static_address(v6),
            port,
            network,
        };
        Statics::new(vec![one(false), one(true)])
    }

    /// The gateway's own address in a network.
    pub(super) fn gateway_address(&self, network: NetworkId, v6: bool) -> IpAddr {
        let network = self.tables.network(network).expect("networks were added");
        network.gateway_of(v6).expect("it has both families")
    }

    fn add_uplink(&mut self, mtu: u16) {
        let mac = MacAddress::new([2, 0x42, 192, 0, 2, 10]);
        self.tables.ports.push(Some(Arc::new(PortTable {
            epoch: 1,
            id: UPLINK,
            name: "wan".into(),
            kind: PortKind::Uplink(UplinkId(0)),
            mtu,
        })));
        self.tables.uplinks.push(Some(Arc::new(Uplink {
            epoch: 1,
            id: UplinkId(0),
            name: "wan".into(),
            port: UPLINK,
            mac,
            addresses: OWN.into_iter().flat_map(|(v4, v6)| [own(v4, 24), own(v6, 64)]).collect(),
            trusted: false,
            host: HostLink::default(),
            link: None,
        })));
        let route = |to: &str, via: Option<&str>| Route {
            to: net(to),
            via: via.map(ip),
            uplink: UplinkId(0),
        };
        let routes = vec![
            route("192.0.2.0/24", None),
            route("2001:db8::/64", None),
            route("198.51.100.0/24", Some("192.0.2.7")),
            route("2001:db8:7::/48", Some("2001:db8::7")),
            route("0.0.0.0/0", Some("192.0.2.1")),
            route("::/0", Some("2001:db8::1")),
        ];
        self.tables.routes = Arc::new(Routes::new(1, routes));
        // What a tunnel adds is for tunnels alone.
        let mtu = mtu.min(1_500);
        self.add_outside("router", 1, mtu, &["203.0.113.5", "2001:db8:ff::5"]);
        self.add_outside("branch", 7, mtu, &["198.51.100.3", "2001:db8:7::3"]);
        self.add_outside("alice", 20, mtu, &[]);
        self.add_outside("bob", 21, mtu, &[]);
    }

    fn add_outside(&mut self, name: &str, number: u8, mtu: u16, others: &[&str]) {
        let mut routes =
            vec![(net("10.0.0.0/8"), ip("192.0.2.10")), (net("fd00::/8"), ip("2001:db8::10"))];
        if number != 1 {
            routes.push((net("0.0.0.0/0"), ip("192.0.2.1")));
            routes.push((net("::/0"), ip("2001:db8::1")));
        }
        self.hosts.push(HostPlan {
            name: name.into(),
            mac: MacAddress::new([2, 0, 0, 0, 0, number]),
            addresses: vec![
                net(&format!("192.0.2.{number}/24")),
                net(&format!("2001:db8::{number}/64")),
            ],
            others: others.iter().map(|text| ip(text)).collect(),
            routes,
            mtu,
            caps: self.caps[UPLINK.index()],
        });
        self.places.push(Place::Outside);
    }

    fn add_network(&mut self, index: usize, icc: bool) {
        let id = NetworkId(index as u16);
        let number = index + 1;
        let mut network = Network {
            epoch: 1,
            id,
            name: format!("network{index}"),
            gateway_mac: MacAddress::new([2, 0x42, 10, number as u8, 0, 1]),
            subnets: vec![
                Subnet {
                    prefix: net(&format!("10.{number}.0.0/24")),
                    gateway: ip(&format!("10.{number}.0.1")),
                },
                Subnet {
                    prefix: net(&format!("fd00:{number}::/64")),
                    gateway: ip(&format!("fd00:{number}::1")),
                },
            ],
            internal: index == NETWORK_COUNT - 1,
            icc: icc || index != 1,
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
            members: Vec::new(),
            by_address: TableMap::default(),
            by_mac: TableMap::default(),
        };
        for member in 0..ENDPOINT_COUNT {
            self.add_endpoint(&mut network, member);
        }
        self.tables.networks.push(Some(Arc::new(network)));
    }

    fn add_endpoint(&mut self, network: &mut Network, member: usize) {
        let id = PortId(self.tables.ports.len() as u16);
        let number = network.id.index() + 1;
        let name = format!("endpoint{}{member}", network.id.0);
        let addresses = vec![
            net(&format!("10.{number}.0.{}/24", 10 + member)),
            net(&format!("fd00:{number}::{}/64", 10 + member)),
        ];
        let mac = MacAddress::new([2, 0x42, 10, number as u8, 0, 10 + member as u8]);
        let (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) = (addresses[0].addr(), addresses[1].addr())
        else {
            panic!("one address of each family, in this order");
        };
        self.tables.ports.push(Some(Arc::new(PortTable {
            epoch: 1,
            id,
            name: format!("{name}/{}", network.name),
            kind: PortKind::Endpoint(Attachment {
                endpoint: name.clone(),
                network: network.id,
                mac,
                ipv4: Some(ipv4),
                ipv6: Some(ipv6),
                anti_spoofing: true,
            }),
            mtu: 1_500,
        })));
        network.members.push(id);
        network.by_address.extend(addresses.iter().map(|own| (own.addr(), id)));
        network.by_address.insert(mac.link_local().into(), id);
        network.by_mac.insert(mac, id);
        self.hosts.push(HostPlan {
            name,
            mac,
            addresses,
            others: Vec::new(),
            routes: vec![
                (net("0.0.0.0/0"), ip(&format!("10.{number}.0.1"))),
                (net("::/0"), ip(&format!("fd00:{number}::1"))),
            ],
            mtu: 1_500,
            caps: self.caps[id.index()],
        });
        self.places.push(Place::Inside(id, network.id));
    }

    /// Makes a network an overlay with a host behind each of two ends: the first network learns
    /// where they are, the second one is told.
    fn add_overlay(&mut self, index: usize, v6: bool) {
        let first = self.tables.ports.len() as u16;
        let (trunk, tunnels) = (PortId(first), [PortId(first + 1), PortId(first + 2)]);
        let learns = index == 0;
        let ends = [20, 21].map(|number| match v6 {
            true => ip(&format!("2001:db8::{number}")),
            false => ip(&format!("192.0.2.{number}")),
        });
        let everybody = if learns { tunnels.to_vec() } else { Vec::new() };
        let local = self.uplink_address(v6);
        let id = NetworkId(index as u16);
        let all = [
            (trunk, TunnelEnd::Trunk(everybody)),
            (tunnels[0], TunnelEnd::Vtep(ends[0])),
            (tunnels[1], TunnelEnd::Vtep(ends[1])),
        ];
        for (port, end) in all {
            let kind = PortKind::Tunnel(Tunnel {
                network: id,
                vni: Vni(FIRST_VNI + index as u32),
                udp_port: TUNNEL_PORT,
                uplink: UplinkId(0),
                local,
                end,
            });
            let name = format!("vxlan{}", port.0);
            let table = PortTable { epoch: 1, id: port, name, kind, mtu: 1_500 };
            self.tables.ports.push(Some(Arc::new(table)));
        }
        let mut overlay = Overlay {
            trunk,
            tunnels: tunnels.to_vec(),
            learns,
            hosts: TableMap::default(),
            routes: Routes::new(1, Vec::new()),
        };
        for (place, (tunnel, vtep)) in tunnels.into_iter().zip(ends).enumerate() {
            self.add_beyond(id, place as u8, (trunk, tunnel), vtep);
        }
        let table = self.tables.networks[index].as_mut().expect("it was added");
        let table = Arc::make_mut(table);
        if learns {
            table.members.push(trunk);
        } else {
            for beyond in self.beyond.iter().filter(|beyond| beyond.network == id) {
                table.by_mac.insert(beyond.mac, beyond.tunnel);
                let addresses = beyond.addresses.iter().map(|&own| (own, beyond.mac));
                overlay.hosts.extend(addresses);
            }
        }
        table.overlay = Some(overlay);
    }

    /// Adds a host of a network that is behind a tunnel.
    fn add_beyond(
        &mut self,
        network: NetworkId,
        place: u8,
        (trunk, tunnel): (PortId, PortId),
        vtep: IpAddr,
    ) {
        let (number, last) = (network.0 + 1, 100 + place);
        let mac = MacAddress::new([2, 0x42, 10, number as u8, 0, last]);
        let addresses = vec![
            net(&format!("10.{number}.0.{last}/24")),
            net(&format!("fd00:{number}::{last}/64")),
        ];
        let gateways = [false, true].map(|v6| self.gateway_address(network, v6));
        self.beyond.push(Beyond {
            host: self.hosts.len(),
            mac,
            addresses: addresses.iter().map(IpNet::addr).collect(),
            network,
            tunnel,
            vtep,
            vtep_mac: MacAddress::new([2, 0, 0, 0, 0, 20 + place]),
        });
        self.hosts.push(HostPlan {
            name: format!("beyond{}{place}", network.0),
            mac,
            addresses,
            others: Vec::new(),
            routes: vec![(net("0.0.0.0/0"), gateways[0]), (net("::/0"), gateways[1])],
            mtu: 1_500,
            caps: Caps::default(),
        });
        self.places.push(Place::Inside(trunk, network));
    }

    fn add_published(&mut self) {
        use Protocol::{Tcp, Udp};
        // Network, member, protocol, published port, how many, port at the endpoint.
        let published = [
            (0, 0, Tcp, 8_080, 1, 80),
            (0, 0, Udp, 5_300, 1, 53),
            (0, 0, Udp, 9_000, 11, 7_000),
            (0, 0, Tcp, 9_000, 11, 7_000),
            (0, 1, Tcp, 8_081, 1, 80),
            (1, 0, Tcp, WITHDRAWN[0], 1, 80),
            (1, 0, Udp, WITHDRAWN[1], 1, 53),
            (1, 0, Tcp, 8_099, 1, 81),
            (1, 1, Udp, 40_005, 1, 7),
            (1, 1, Tcp, 40_005, 1, 7),
        ];
        let mut entries = Vec::new();
        for (network, member, protocol, host_port, port_count, target_port) in published {
            let host = self.members(NetworkId(network))[member];
            let Place::Inside(port, network) = self.places[host] else {
                panic!("members of networks are inside");
            };
            for v6 in [false, true] {
                let target = self.hosts[host].address(v6).expect("hosts have both families");
                entries.push(PublishEntry {
                    host: (host_port == 8_081).then(|| self.uplink_address(v6)),
                    protocol,
                    host_port,
                    port_count,
                    target_port,
                    target,
                    port,
                    network,
                });
            }
        }
        self.tables.publish = Arc::new(Publish::new(1, entries));
    }
}
