//! Who is told of whom, unasked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::{Caps, MacAddress, NetworkId, PortId, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each};

/// How often which port was told of which address, and with which MAC address.
fn told(seen: Vec<Seen>) -> BTreeMap<(PortId, IpAddr), (MacAddress, usize)> {
    let mut told = BTreeMap::new();
    for seen in seen {
        let Some((address, mac)) = seen.announces() else { continue };
        let (last, count) = told.entry((seen.port, address)).or_insert((mac, 0));
        assert_eq!(*last, mac, "one address, one MAC address");
        *count += 1;
    }
    told
}

/// Three times each, to these ports.
fn thrice(
    ports: impl IntoIterator<Item = PortId>,
    address: IpAddr,
    mac: MacAddress,
) -> BTreeMap<(PortId, IpAddr), (MacAddress, usize)> {
    ports.into_iter().map(|port| ((port, address), (mac, 3))).collect()
}

/// front with these members.
fn front(tables: &mut Tables, members: &[Host]) {
    let epoch = tables.networks[0].as_ref().unwrap().epoch + 1;
    let network = network(0, "front", members);
    tables.networks[0] = Some(Arc::new(engine::tables::Network { epoch, ..network }));
}

#[test]
fn at_the_start_gateways_and_uplinks_are_announced_three_times_and_members_are_not() {
    for worker_count in [1, 2, 4] {
        let mut gateway = Gateway::fresh(tables(), worker_count, |_| Caps::default());
        let seen = told(gateway.pass_any(Duration::from_secs(10)));
        let mut expected = BTreeMap::new();
        for v6 in [false, true] {
            expected.extend(thrice([WAN], own(v6), WAN_MAC));
            for host in [WEB, DB, VM, FARM, APP, VAULT] {
                let address = crate::common::gateway(host.ipv4.octets()[1], v6);
                expected.extend(thrice([host.port], address, host.gateway_mac));
            }
        }
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_member_that_joins_is_announced_three_times_to_all_others_of_its_network() {
    each(|mut gateway, v6| {
        let new = Host {
            port: PortId(7),
            mac: MacAddress::new([2, 0, 0, 0, 0, 77]),
            ipv4: [10, 1, 0, 77].into(),
            ipv6: "fd00:1::77".parse().unwrap(),
            ..WEB
        };
        gateway.change(|tables| {
            tables.ports.push(Some(Arc::new(endpoint_port(&new, NetworkId(0)))));
            front(tables, &[WEB, DB, VM, FARM, new]);
        });
        let seen = told(gateway.pass_any(Duration::from_secs(10)));
        let others = [WEB, DB, VM, FARM].map(|host| host.port);
        let of_family = seen.into_iter().filter(|((_, address), _)| address.is_ipv6() == v6);
        assert_eq!(of_family.collect::<BTreeMap<_, _>>(), thrice(others, new.ip(v6), new.mac));
    });
}

#[test]
fn a_member_that_has_another_mac_address_now_is_announced() {
    each(|mut gateway, v6| {
        let moved = Host { mac: MacAddress::new([2, 0, 0, 0, 0, 78]), ..WEB };
        gateway.change(|tables| {
            let port = endpoint_port(&moved, NetworkId(0));
            let port = engine::tables::PortTable { epoch: 2, ..port };
            tables.ports[WEB.port.index()] = Some(Arc::new(port));
            front(tables, &[moved, DB, VM, FARM]);
        });
        let seen = told(gateway.pass_any(Duration::from_secs(10)));
        let others = [DB, VM, FARM].map(|host| host.port);
        let of_family = seen.into_iter().filter(|((_, address), _)| address.is_ipv6() == v6);
        assert_eq!(of_family.collect::<BTreeMap<_, _>>(), thrice(others, moved.ip(v6), moved.mac));
    });
}

#[test]
fn a_network_that_comes_later_with_its_members_is_announced_by_its_gateway_alone() {
    each(|mut gateway, v6| {
        let member = |port, number: u8| Host {
            port: PortId(port),
            mac: MacAddress::new([2, 0, 0, 0, 4, number]),
            gateway_mac: MacAddress::derived([10, 4, 0, 1].into()),
            ipv4: [10, 4, 0, number].into(),
            ipv6: format!("fd00:4::{number}").parse().unwrap(),
        };
        let members = [member(7, 10), member(8, 11)];
        gateway.change(|tables| {
            let ports = members.map(|host| Some(Arc::new(endpoint_port(&host, NetworkId(3)))));
            tables.ports.extend(ports);
            tables.networks.push(Some(Arc::new(network(3, "late", &members))));
        });
        let seen = told(gateway.pass_any(Duration::from_secs(10)));
        let address = crate::common::gateway(4, v6);
        let expected = thrice(members.map(|host| host.port), address, members[0].gateway_mac);
        let of_family = seen.into_iter().filter(|((_, address), _)| address.is_ipv6() == v6);
        assert_eq!(of_family.collect::<BTreeMap<_, _>>(), expected);
    });
}
