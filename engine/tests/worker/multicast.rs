//! Multicast goes where it is wanted, once somebody asks who wants it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::MacAddress;
use engine::PortId;
use engine::sim::WireFrame;
use engine::sim::frames::{ICMPV6, UDP, ethernet, fill_checksum};

use super::overlay::{introduce, is_tunnelled};
use crate::common::*;
use crate::gateway::{Gateway, Seen, each, each_of};

/// What a member says about the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Query,
    Join,
    Leave,
}

fn group(v6: bool) -> IpAddr {
    if v6 { "ff0e::4:5:6" } else { "239.4.5.6" }.parse().unwrap()
}

/// RFC 1112 section 6.4, RFC 2464 section 7.
fn mac_of(group: IpAddr) -> MacAddress {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            MacAddress::new([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            MacAddress::new([0x33, 0x33, a, b, c, d])
        }
    }
}

fn to_group(from: &Host, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = with_hops(header(from, to, protocol), 1);
    ethernet(mac_of(to), from.mac, header.ethertype(), &header.packet(payload))
}

fn igmp(kind: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], &group].concat();
    let words = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// IGMPv2, or MLDv2 behind its router alert.
fn says(from: &Host, v6: bool, word: Word) -> Vec<u8> {
    let IpAddr::V6(wanted) = group(true) else { panic!("of IPv6") };
    if !v6 {
        let (kind, about, to) = match word {
            Word::Query => (0x11, [0; 4], "224.0.0.1"),
            Word::Join => (0x16, [239, 4, 5, 6], "239.4.5.6"),
            Word::Leave => (0x17, [239, 4, 5, 6], "224.0.0.2"),
        };
        return to_group(from, to.parse().unwrap(), 2, &igmp(kind, about));
    }
    let record = |kind: u8| [&[kind, 0, 0, 0][..], &wanted.octets()].concat();
    let (mut message, to) = match word {
        Word::Query => ([&[130, 0, 0, 0, 39, 16, 0, 0][..], &[0; 20]].concat(), "ff02::1"),
        Word::Join => ([&[143, 0, 0, 0, 0, 0, 0, 1][..], &record(4)].concat(), "ff02::16"),
        Word::Leave => ([&[143, 0, 0, 0, 0, 0, 0, 1][..], &record(3)].concat(), "ff02::16"),
    };
    let to = to.parse().unwrap();
    fill_checksum(from.ip(true), to, ICMPV6, &mut message);
    to_group(from, to, 0, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &message].concat())
}

fn data(from: &Host, v6: bool) -> Vec<u8> {
    let header = header(from, group(v6), UDP);
    to_group(from, group(v6), UDP, &datagram(&header, (40_000, 5_000), b"payload"))
}

/// Sends a frame; by which ports it left.
fn ports(gateway: &mut Gateway, from: &Host, frame: Vec<u8>) -> Vec<PortId> {
    let seen = gateway.send_any(from, WireFrame::whole(frame));
    let mut ports: Vec<PortId> = seen.iter().map(|seen| seen.port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn while_nobody_asks_everybody_gets_it() {
    each(|mut gateway, v6| {
        ports(&mut gateway, &DB, says(&DB, v6, Word::Join));
        let all = [DB.port, VM.port, FARM.port];
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), all);
    });
}

#[test]
fn once_somebody_asks_those_get_it_who_are_in_the_group_and_routers() {
    each(|mut gateway, v6| {
        let all = [WEB.port, DB.port, VM.port];
        assert_eq!(ports(&mut gateway, &FARM, says(&FARM, v6, Word::Query)), all);
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), [FARM.port], "the router alone");
        assert_eq!(ports(&mut gateway, &DB, says(&DB, v6, Word::Join)), [FARM.port]);
        for _ in 0..4 {
            assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), [DB.port, FARM.port]);
        }
        assert_eq!(ports(&mut gateway, &DB, data(&DB, v6)), [FARM.port], "not back");
        ports(&mut gateway, &DB, says(&DB, v6, Word::Leave));
        gateway.pass(Duration::from_secs(3));
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), [FARM.port]);
        let narrowed = gateway.sum(|all| all.worker.floods_narrowed.get());
        assert!(narrowed >= 7, "{narrowed}");
        // The other family was not asked for, and the querier falls silent.
        let others = [DB.port, VM.port, FARM.port];
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, !v6)), others);
        gateway.pass(Duration::from_secs(256));
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), others);
    });
}

#[test]
fn a_network_that_does_not_listen_floods_whatever_is_said() {
    let deaf = || {
        let mut tables = tables();
        Arc::make_mut(tables.networks[0].as_mut().unwrap()).multicast_snooping = false;
        tables
    };
    each_of(deaf, |mut gateway, v6| {
        let others = [DB.port, VM.port, FARM.port];
        ports(&mut gateway, &FARM, says(&FARM, v6, Word::Query));
        assert_eq!(ports(&mut gateway, &DB, says(&DB, v6, Word::Join)).len(), 3);
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), others);
        assert_eq!(gateway.sum(|all| all.worker.groups.get()), 0);
    });
}

#[test]
fn switched_off_what_was_heard_does_not_count_any_more() {
    each(|mut gateway, v6| {
        ports(&mut gateway, &FARM, says(&FARM, v6, Word::Query));
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), [FARM.port]);
        gateway.change(|tables| {
            let generation = tables.generation;
            let network = Arc::make_mut(tables.networks[0].as_mut().unwrap());
            (network.multicast_snooping, network.epoch) = (false, generation);
        });
        let others = [DB.port, VM.port, FARM.port];
        assert_eq!(ports(&mut gateway, &WEB, data(&WEB, v6)), others);
    });
}

#[test]
fn what_was_said_is_shown_by_every_worker() {
    use engine::worker::GroupKind;
    each(|mut gateway, v6| {
        ports(&mut gateway, &FARM, says(&FARM, v6, Word::Query));
        ports(&mut gateway, &DB, says(&DB, v6, Word::Join));
        gateway.pass(Duration::from_secs(10));
        for worker in &gateway.workers {
            // Room for two at a time: a walk goes on where it was.
            let (mut seen, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let mut found = Vec::with_capacity(2);
                next = worker.view_groups(from, &mut found);
                seen.extend(found);
            }
            let mut known: Vec<_> = seen.iter().map(|view| (view.kind, view.port)).collect();
            known.sort_unstable();
            let member = (GroupKind::Member(mac_of(group(v6))), Some(DB.port));
            let router = (GroupKind::Router { v6 }, Some(FARM.port));
            assert_eq!(known, [member, router, (GroupKind::Querier { v6 }, None)]);
            for view in seen {
                let about = |time: Duration| (9..=10).contains(&time.as_secs());
                assert!(about(view.age), "{view:?}");
                assert!(view.left.as_secs() >= 244, "{view:?}");
            }
        }
    });
}

#[test]
fn what_is_of_the_link_reaches_everybody_whoever_asks() {
    each(|mut gateway, v6| {
        ports(&mut gateway, &FARM, says(&FARM, v6, Word::Query));
        let to: IpAddr = if v6 { "ff02::fb" } else { "224.0.0.251" }.parse().unwrap();
        let header = header(&WEB, to, UDP);
        let frame = to_group(&WEB, to, UDP, &datagram(&header, (5_353, 5_353), b"who"));
        assert_eq!(ports(&mut gateway, &WEB, frame), [DB.port, VM.port, FARM.port]);
        // Neighbour discovery goes on: whoever is asked for has said nothing of its group.
        let asked = who_has(&WEB, VM.ip(v6));
        assert_eq!(ports(&mut gateway, &WEB, asked), [DB.port, VM.port, FARM.port]);
    });
}

#[test]
fn through_tunnels_it_goes_to_the_peers_that_members_are_behind() {
    each_of(
        || overlay(false, true),
        |mut gateway, v6| {
            introduce(&mut gateway, false);
            let ends = |seen: &[Seen]| -> Vec<IpAddr> {
                let outside = seen.iter().filter(|seen| is_tunnelled(seen));
                outside.map(|seen| seen.ip().destination).collect()
            };
            let send = |gateway: &mut Gateway, from: &Host, frame: Vec<u8>| {
                gateway.send_any(from, WireFrame::whole(frame))
            };
            let asked = send(&mut gateway, &FARM, says(&FARM, v6, Word::Query));
            assert_eq!(ends(&asked).len(), 2, "both peers hear the question");
            assert!(ends(&send(&mut gateway, &WEB, data(&WEB, v6))).is_empty(), "nobody there");
            let away = AWAY;
            let report = tunnelled(&CLIENT, false, &says(&away, v6, Word::Join));
            let seen = send(&mut gateway, &CLIENT, report);
            assert_eq!(seen.iter().map(|seen| seen.port).collect::<Vec<_>>(), [FARM.port]);
            for _ in 0..4 {
                let seen = send(&mut gateway, &WEB, data(&WEB, v6));
                assert_eq!(ends(&seen), [CLIENT.ip(false)], "one peer of two");
            }
            // What members here say goes to every peer: none passes it on to the others.
            let said = send(&mut gateway, &DB, says(&DB, v6, Word::Join));
            assert_eq!(ends(&said).len(), 2);
            let from_afar = tunnelled(&CLIENT, false, &data(&away, v6));
            let mut seen: Vec<PortId> =
                send(&mut gateway, &CLIENT, from_afar).iter().map(|seen| seen.port).collect();
            seen.sort_unstable();
            assert_eq!(seen, [DB.port, FARM.port]);
        },
    );
}
