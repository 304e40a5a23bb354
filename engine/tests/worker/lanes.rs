//! Networks on an uplink's link: who reaches whom, what the wire sees, and VLAN tags.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::WireFrame;
use engine::sim::frames::{ethernet, mac_at};
use engine::tables::{Between, GatewayMode};
use engine::{Counters, DropReason, MacAddress, PortId};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

fn each_on_link(
    (tag, between, shares_mac): (Option<u16>, Between, bool),
    test: impl Fn(Gateway, bool),
) {
    each_of(|| on_link(tag, between, shares_mac, false), test);
}

const STRAIGHT: (Option<u16>, Between, bool) = (None, Between::Straight, false);
const SHARED: (Option<u16>, Between, bool) = (None, Between::Straight, true);

fn send(gateway: &mut Gateway, from: &Host, bytes: Vec<u8>) -> Vec<Seen> {
    gateway.send_any(from, WireFrame::whole(bytes))
}

fn ports(seen: &[Seen]) -> Vec<PortId> {
    let mut ports: Vec<PortId> = seen.iter().map(|seen| seen.port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_member_and_a_station_on_the_wire_reach_each_other_unchanged() {
    each_on_link(STRAIGHT, |mut gateway, v6| {
        for _ in 0..3 {
            let out = on_wire((&WEB, WEB.mac), (&CLIENT, CLIENT.mac), v6);
            let seen = gateway.forward(&WEB, out.clone());
            assert_eq!((seen.port, seen.frame.bytes), (WAN, out));
            let back = on_wire((&CLIENT, CLIENT.mac), (&WEB, WEB.mac), v6);
            let seen = gateway.forward(&CLIENT, back.clone());
            assert_eq!((seen.port, seen.frame.bytes), (WEB.port, back));
        }
    });
}

#[test]
fn members_reach_each_other_straight_not_at_all_or_by_the_wire() {
    for between in [Between::Straight, Between::Never, Between::ByWire] {
        each_on_link((None, between, false), |mut gateway, v6| {
            let out = on_wire((&WEB, WEB.mac), (&DB, DB.mac), v6);
            for _ in 0..3 {
                match between {
                    Between::Straight => {
                        assert_eq!(gateway.forward(&WEB, out.clone()).port, DB.port)
                    }
                    Between::Never => gateway.refuse(&WEB, out.clone(), DropReason::IccOff),
                    Between::ByWire => {
                        let seen = gateway.forward(&WEB, out.clone());
                        assert_eq!((seen.port, &seen.frame.bytes), (WAN, &out));
                        // A switch sends it back.
                        let seen = gateway.forward(&CLIENT, out.clone());
                        assert_eq!((seen.port, &seen.frame.bytes), (DB.port, &out));
                    }
                }
            }
        });
    }
}

#[test]
fn what_is_for_everybody_goes_to_the_wire_and_by_mode_to_members() {
    for (between, expected) in [
        (Between::Straight, vec![WAN, DB.port]),
        (Between::Never, vec![WAN]),
        (Between::ByWire, vec![WAN]),
    ] {
        each_on_link((None, between, false), |mut gateway, _| {
            let seen = send(&mut gateway, &WEB, strange(WEB.mac, MacAddress::BROADCAST));
            assert_eq!(ports(&seen), expected, "{between:?}");
            let seen = send(&mut gateway, &CLIENT, strange(CLIENT.mac, MacAddress::BROADCAST));
            assert_eq!(ports(&seen), [WEB.port, DB.port], "off the wire: every member");
        });
    }
    // Sent back by a switch, all but the sender get it.
    each_on_link((None, Between::ByWire, false), |mut gateway, _| {
        let seen = send(&mut gateway, &CLIENT, strange(WEB.mac, MacAddress::BROADCAST));
        assert_eq!(ports(&seen), [DB.port]);
    });
}

#[test]
fn a_members_address_does_not_come_off_the_wire() {
    each_on_link(STRAIGHT, |mut gateway, v6| {
        let forged = on_wire((&WEB, WEB.mac), (&DB, DB.mac), v6);
        gateway.refuse(&CLIENT, forged, DropReason::SourceMac);
    });
}

#[test]
fn what_is_for_nobody_goes_to_the_only_member_if_it_is_to_have_all() {
    for is_whole in [false, true] {
        let of = || on_link(None, Between::Straight, false, is_whole);
        each_of(of, |mut gateway, v6| {
            let nobody = MacAddress::new([2, 0, 0, 0, 0, 0x99]);
            let bytes = on_wire((&CLIENT, CLIENT.mac), (&FAR, nobody), v6);
            match is_whole {
                true => assert_eq!(gateway.forward(&CLIENT, bytes).port, WEB.port),
                false => gateway.refuse(&CLIENT, bytes, DropReason::NotForUs),
            }
        });
    }
}

#[test]
fn the_gateway_answers_members_as_it_answers_the_wire() {
    for link in [STRAIGHT, SHARED] {
        each_on_link(link, |mut gateway, v6| {
            let member = Host { gateway_mac: WAN_MAC, ..WEB };
            let seen = send(&mut gateway, &member, who_has(&member, own(v6)));
            assert_eq!(seen[0].port, WEB.port, "asked by a member, it is a member that is told");
            let answer = gateway.forward(&member, echo(&member, 7, own(v6)));
            assert_eq!((answer.port, answer.mac()), (WEB.port, WEB.mac));
            // A published port is one of the gateway's: the server sees the member.
            let inside = gateway.forward(&member, udp(&member, 5_000, (own(v6), 5_400)));
            assert_eq!(inside.icmp().0, if v6 { 1 } else { 3 }, "nothing is published there");
            let syn = tcp(&member, 5_000, (own(v6), 8_081), engine::sim::frames::flags::SYN);
            let inside = gateway.forward(&member, syn);
            assert_eq!((inside.port, inside.source()), (APP.port, (WEB.ip(v6), 5_000)));
            let both = engine::sim::frames::flags::SYN | engine::sim::frames::flags::ACK;
            let back = gateway.forward(&APP, tcp(&APP, 80, (WEB.ip(v6), 5_000), both));
            assert_eq!((back.port, back.mac()), (WEB.port, WEB.mac));
            assert_eq!(back.source(), (own(v6), 8_081));
        });
    }
}

#[test]
fn a_member_is_a_neighbour_of_members_of_other_networks() {
    each_on_link(STRAIGHT, |mut gateway, v6| {
        for _ in 0..3 {
            let out = gateway.forward(&APP, udp(&APP, 6_000, (WEB.ip(v6), 80)));
            assert_eq!((out.port, out.mac(), out.source().0), (WEB.port, WEB.mac, own(v6)));
            let member = Host { gateway_mac: WAN_MAC, ..WEB };
            let back = gateway.forward(&member, udp(&member, 80, out.source()));
            assert_eq!((back.port, back.destination()), (APP.port, (APP.ip(v6), 6_000)));
        }
        // It moves to the wire: asked for there, and found.
        gateway.change(|tables| {
            let generation = tables.generation;
            let network = Arc::make_mut(tables.networks[0].as_mut().unwrap());
            network.epoch = generation;
            for ip in [WEB.ip(false), WEB.ip(true)] {
                network.by_address.remove(&ip);
            }
        });
        gateway.neighbours.push(Host { port: WAN, gateway_mac: WAN_MAC, ..WEB });
        let seen = gateway.send(&APP, udp(&APP, 6_000, (WEB.ip(v6), 80)));
        assert_eq!(seen.iter().map(|seen| seen.port).collect::<Vec<_>>(), [WAN]);
    });
}

#[test]
fn who_shares_the_uplinks_address_is_told_by_ip() {
    each_on_link(SHARED, |mut gateway, v6| {
        for _ in 0..3 {
            let out = on_wire((&WEB, WEB.mac), (&CLIENT, CLIENT.mac), v6);
            let seen = gateway.forward(&WEB, out);
            assert_eq!((seen.port, mac_at(&seen.frame.bytes, 6)), (WAN, WAN_MAC));
            for member in [WEB, DB] {
                let back = on_wire((&CLIENT, CLIENT.mac), (&member, WAN_MAC), v6);
                let seen = gateway.forward(&CLIENT, back);
                assert_eq!((seen.port, seen.mac()), (member.port, member.mac));
            }
            // Straight, members know each other by their own.
            let seen = gateway.forward(&WEB, on_wire((&WEB, WEB.mac), (&DB, DB.mac), v6));
            assert_eq!((seen.port, mac_at(&seen.frame.bytes, 6)), (DB.port, WEB.mac));
        }
        // Whom nobody has is the gateway's to say something about.
        let unknown = on_wire((&CLIENT, CLIENT.mac), (&VM, WAN_MAC), v6);
        assert!(gateway.send(&CLIENT, unknown).iter().all(|seen| seen.port == WAN));
    });
}

#[test]
fn questions_of_a_member_that_shares_name_the_uplinks_address_on_the_wire() {
    each_on_link(SHARED, |mut gateway, v6| {
        let seen = send(&mut gateway, &WEB, who_has(&WEB, CLIENT.ip(v6)));
        let wire = seen.iter().find(|seen| seen.port == WAN).unwrap();
        assert_eq!(mac_at(&wire.frame.bytes, 6), WAN_MAC);
        let told = wire.frame.bytes.windows(6).filter(|six| **six == WAN_MAC.bytes()).count();
        assert_eq!(told, 2, "in the Ethernet header, and in the message");
        assert!(!wire.frame.bytes.windows(6).any(|six| *six == WEB.mac.bytes()));
        let straight = seen.iter().find(|seen| seen.port == DB.port).unwrap();
        assert_eq!(mac_at(&straight.frame.bytes, 6), WEB.mac);
    });
}

#[test]
fn tags_are_pushed_on_the_wire_and_popped_off_it() {
    for shares_mac in [false, true] {
        each_on_link((Some(100), Between::Straight, shares_mac), |mut gateway, v6| {
            let wire_mac = if shares_mac { WAN_MAC } else { WEB.mac };
            for _ in 0..3 {
                let out = on_wire((&WEB, WEB.mac), (&CLIENT, CLIENT.mac), v6);
                let seen = send(&mut gateway, &WEB, out);
                let expected = on_wire((&WEB, wire_mac), (&CLIENT, CLIENT.mac), v6);
                assert_eq!(ports(&seen), [WAN]);
                assert_eq!(seen[0].frame.bytes, tagged(100, &expected));
                let back = on_wire((&CLIENT, CLIENT.mac), (&WEB, wire_mac), v6);
                let seen = gateway.forward(&CLIENT, tagged(100, &back));
                let expected = on_wire((&CLIENT, CLIENT.mac), (&WEB, WEB.mac), v6);
                assert_eq!((seen.port, seen.frame.bytes), (WEB.port, expected));
            }
            // Members of a VLAN have no gateway of ours; what is untagged is the gateway's alone.
            let member = Host { gateway_mac: WAN_MAC, ..WEB };
            assert!(send(&mut gateway, &member, echo(&member, 7, own(v6))).is_empty());
            let answer = gateway.forward(&CLIENT, echo(&CLIENT, 7, own(v6)));
            assert_eq!(answer.port, WAN);
            let seen = send(&mut gateway, &CLIENT, strange(CLIENT.mac, MacAddress::BROADCAST));
            assert!(seen.is_empty());
        });
    }
}

#[test]
fn the_uplink_counts_what_it_received_whoever_it_is_for_once() {
    for (tag, between, shares_mac) in [STRAIGHT, SHARED, (Some(100), Between::Straight, false)] {
        each_on_link((tag, between, shares_mac), |mut gateway, v6| {
            let to = if shares_mac { WAN_MAC } else { WEB.mac };
            let whose = on_wire((&CLIENT, CLIENT.mac), (&WEB, to), v6);
            let for_all = strange(CLIENT.mac, MacAddress::BROADCAST);
            let frames = [
                tag.map_or(whose.clone(), |tag| tagged(tag, &whose)),
                for_all,
                who_has(&CLIENT, own(v6)),
                echo(&CLIENT, 7, own(v6)),
                tagged(99, &whose),
            ];
            for bytes in frames.clone() {
                send(&mut gateway, &CLIENT, bytes);
            }
            let received =
                |counters: &Counters| counters.port(WAN).map_or(0, |port| port.rx_packets.get());
            assert_eq!(gateway.sum(received), frames.len() as u64, "{tag:?} {shares_mac}");
        });
    }
}

#[test]
fn frames_with_tags_that_no_network_has_are_counted() {
    each_on_link((Some(100), Between::Straight, false), |mut gateway, v6| {
        let back = on_wire((&CLIENT, CLIENT.mac), (&WEB, WEB.mac), v6);
        for tag in [1, 99, 101, 4_095] {
            gateway.refuse(&CLIENT, tagged(tag, &back), DropReason::VlanUnknown);
        }
        let mut service = tagged(100, &back);
        service[12..14].copy_from_slice(&[0x88, 0xa8]);
        gateway.refuse(&CLIENT, service, DropReason::VlanUnknown);
        // A tag that only says how urgent a frame is makes it no other VLAN's.
        let to_gateway = echo(&CLIENT, 7, own(v6));
        assert_eq!(gateway.forward(&CLIENT, tagged(0xe000, &to_gateway)).port, WAN);
    });
}

#[test]
fn no_packet_that_is_too_large_for_the_link_leaves_whatever_its_tag() {
    for tag in [None, Some(100)] {
        each_on_link((tag, Between::Straight, false), |mut gateway, v6| {
            let own = |bytes: usize| {
                let header = header(&WEB, CLIENT.ip(v6), 17);
                let headers = if v6 { 48 } else { 28 };
                let datagram = datagram(&header, (1, 2), &vec![0; bytes - headers]);
                ethernet(CLIENT.mac, WEB.mac, header.ethertype(), &header.packet(&datagram))
            };
            assert_eq!(ports(&send(&mut gateway, &WEB, own(1_500))), [WAN]);
            // In pieces, or not at all.
            let seen = send(&mut gateway, &WEB, own(1_501));
            let on_wire = seen.iter().filter(|seen| seen.port == WAN);
            assert!(on_wire.map(|seen| seen.frame.bytes.len()).all(|bytes| bytes <= 1_518));
        });
    }
}

#[test]
fn routers_on_the_wire_are_heard_by_members_and_members_are_none() {
    each_on_link(STRAIGHT, |mut gateway, _| {
        let advertisement = |from: &Host| {
            let source: IpAddr = from.mac.link_local().into();
            let to: IpAddr = "ff02::1".parse().unwrap();
            let mut header = engine::sim::frames::IpHeader::new(source, to, 58);
            header.hops = 255;
            let body = engine::sim::frames::icmp(source, to, (134, 0), 0x4000_0708, &[0; 8]);
            let group = MacAddress::new([0x33, 0x33, 0, 0, 0, 1]);
            ethernet(group, from.mac, header.ethertype(), &header.packet(&body))
        };
        let seen = send(&mut gateway, &ROUTER, advertisement(&ROUTER));
        assert_eq!(ports(&seen), [WEB.port, DB.port]);
        let before = gateway.dropped(DropReason::SpoofedIp);
        assert!(send(&mut gateway, &WEB, advertisement(&WEB)).is_empty());
        assert_eq!(gateway.dropped(DropReason::SpoofedIp), before + 1);
    });
}

#[test]
fn a_routed_network_has_no_link_and_its_members_own_address_stands_for_the_gateways() {
    let routed = || {
        let mut tables = tables();
        let front = Arc::make_mut(tables.networks[0].as_mut().unwrap());
        (front.routed_only, front.unfiltered, front.masquerade) = (true, true, false);
        front.mode = GatewayMode::NatUnprotected;
        tables
    };
    each_of(routed, |mut gateway, v6| {
        let web = Host { gateway_mac: WEB.mac, ..WEB };
        let seen = gateway.forward(&web, udp(&web, 5_000, (CLIENT.ip(v6), 80)));
        assert_eq!((seen.port, seen.source()), (WAN, (WEB.ip(v6), 5_000)), "as it is");
        let seen = gateway.forward(&CLIENT, udp(&CLIENT, 80, (WEB.ip(v6), 5_000)));
        assert_eq!((seen.port, seen.mac()), (WEB.port, WEB.mac));
        assert_eq!(mac_at(&seen.frame.bytes, 6), WEB.mac, "there is one address only");
        let seen = gateway.forward(&web, udp(&web, 5_001, (DB.ip(v6), 80)));
        assert_eq!(seen.port, DB.port);
        for to in [MacAddress::BROADCAST, DB.mac] {
            gateway.refuse(&web, strange(WEB.mac, to), DropReason::NotRoutable);
        }
    });
}
