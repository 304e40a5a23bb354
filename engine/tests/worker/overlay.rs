//! Overlays: into tunnels and out of them, and whom they take packets from.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::WireFrame;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{IpHeader, UDP, mac_at};
use engine::{DropReason, MacAddress, Offload};
use proptest::prelude::*;

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

/// All worker counts, and families of the outer and the inner header.
pub(crate) fn each(learns: bool, test: impl Fn(Gateway, bool, bool)) {
    for outer in [false, true] {
        each_of(|| overlay(outer, learns), |gateway, v6| test(gateway, outer, v6));
    }
}

/// The frame in a packet that left by a tunnel, after a look at what is around it.
pub(crate) fn opened(seen: &Seen, to: &Host, v6: bool) -> Vec<u8> {
    assert_eq!((seen.port, seen.mac()), (WAN, to.mac));
    let ip = seen.ip();
    assert_eq!((ip.source, ip.destination, ip.hops), (own(v6), to.ip(v6), 64));
    let (udp, rest) = ip.payload.split_at(8);
    assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), UDP_PORT);
    assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49_152);
    assert_eq!(udp[6..8] == [0, 0], !v6, "a checksum with IPv6 alone");
    assert_eq!(rest[..8], vxlan(VNI));
    rest[8..].to_vec()
}

pub(crate) fn is_tunnelled(seen: &Seen) -> bool {
    let is_ip = seen.frame.bytes[12..14] != [8, 6];
    seen.port == WAN && is_ip && seen.ip().protocol == UDP
}

pub(crate) fn inner(bytes: &[u8]) -> Datagram<'_> {
    Datagram::parse(&bytes[14..]).unwrap()
}

/// Lets the gateway know where a station is.
pub(crate) fn introduce(gateway: &mut Gateway, outer: bool) {
    let hello = strange(AWAY.mac, MacAddress::BROADCAST);
    gateway.send_any(&CLIENT, WireFrame::whole(tunnelled(&CLIENT, outer, &hello)));
}

#[test]
fn a_station_is_learnt_from_a_peer_and_reached_by_its_tunnel() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        for _ in 0..3 {
            let frame = bridged(&WEB, &AWAY, v6);
            let seen = gateway.forward(&WEB, frame.clone());
            assert_eq!(opened(&seen, &CLIENT, outer), frame, "nothing inside has changed");
            let back = bridged(&AWAY, &WEB, v6);
            let seen = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &back));
            assert_eq!((seen.port, &seen.frame.bytes), (WEB.port, &back));
        }
    });
}

#[test]
fn what_is_for_everybody_goes_to_each_peer_once_and_not_back() {
    each(true, |mut gateway, outer, v6| {
        let ends = |seen: &[Seen]| -> Vec<IpAddr> {
            let outside = seen.iter().filter(|seen| is_tunnelled(seen));
            let mut ends: Vec<IpAddr> = outside.map(|seen| seen.ip().destination).collect();
            ends.sort_unstable();
            ends
        };
        let mut peers = vec![CLIENT.ip(outer), ROUTER.ip(outer)];
        peers.sort_unstable();
        let asked = who_has(&WEB, AWAY.ip(v6));
        let seen = gateway.send_any(&WEB, WireFrame::whole(asked.clone()));
        assert_eq!(ends(&seen), peers, "{seen:?}");
        let others = seen.iter().filter(|seen| seen.port != WAN);
        assert_eq!(others.count(), 3, "db, vm and farm");
        let asked = who_has(&AWAY, WEB.ip(v6));
        let seen = gateway.send_any(&CLIENT, WireFrame::whole(tunnelled(&CLIENT, outer, &asked)));
        assert!(ends(&seen).is_empty(), "split horizon");
        assert_eq!(seen.len(), 4, "web, db, vm and farm: {seen:?}");
    });
}

#[test]
fn between_two_tunnels_nothing_is_bridged() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let frame = tunnelled(&ROUTER, outer, &bridged(&BEYOND, &AWAY, v6));
        for _ in 0..2 {
            gateway.refuse(&ROUTER, frame.clone(), DropReason::OverlaySplitHorizon);
        }
    });
}

#[test]
fn static_hosts_are_answered_for_and_reached_without_a_word() {
    each(false, |mut gateway, outer, v6| {
        let seen = gateway.send_any(&WEB, WireFrame::whole(who_has(&WEB, AWAY.ip(v6))));
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].port, mac_at(&seen[0].frame.bytes, 6)), (WEB.port, AWAY.mac));
        for (host, end) in [(&AWAY, &CLIENT), (&BEYOND, &ROUTER)] {
            let frame = bridged(&WEB, host, v6);
            assert_eq!(opened(&gateway.forward(&WEB, frame.clone()), end, outer), frame);
        }
        let misses = |gateway: &Gateway| gateway.sum(|all| all.worker.overlay_misses.get());
        assert_eq!(misses(&gateway), 0);
        let nobody = beyond(77);
        let seen = gateway.send_any(&WEB, WireFrame::whole(who_has(&WEB, nobody.ip(v6))));
        assert!(seen.iter().all(|seen| seen.port != WAN), "{seen:?}");
        assert_eq!(misses(&gateway), 1);
    });
}

#[test]
fn a_routed_prefix_is_reached_with_one_hop_less_and_its_own_address() {
    for outer in [false, true] {
        each_of(
            || overlay(outer, false),
            |mut gateway, _| {
                let far: IpAddr = "9.1.2.3".parse().unwrap();
                for _ in 0..2 {
                    let seen = gateway.forward(&WEB, udp(&WEB, 40_000, (far, 53)));
                    let frame = opened(&seen, &CLIENT, outer);
                    assert_eq!((mac_at(&frame, 0), mac_at(&frame, 6)), (AWAY.mac, WEB.gateway_mac));
                    let packet = inner(&frame);
                    assert_eq!((packet.source, packet.destination), (WEB.ip(false), far));
                    assert_eq!(packet.hops, 63);
                    let from = Host { ipv4: "9.1.2.3".parse().unwrap(), ..AWAY };
                    let answer = udp(&from, 53, (WEB.ip(false), 40_000));
                    let seen = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &answer));
                    assert_eq!((seen.port, seen.ip().hops), (WEB.port, 63));
                    assert_eq!(seen.source(), (far, 53));
                }
            },
        );
    }
}

#[test]
fn somebody_behind_a_tunnel_is_masqueraded_by_us_and_answered_there() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let asked = udp(&AWAY, 40_000, (FAR.ip(v6), 53));
        let out = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &asked));
        assert_eq!((out.port, out.source().0), (WAN, own(v6)));
        let answer = udp(&FAR, 53, out.source());
        // Where it is, is asked through the tunnels.
        let seen = gateway.send_any(&FAR, WireFrame::whole(answer.clone()));
        let asks: Vec<Vec<u8>> = seen
            .iter()
            .filter(|seen| is_tunnelled(seen))
            .map(|seen| seen.ip().payload[16..].to_vec())
            .collect();
        assert!(!asks.is_empty(), "{seen:?}");
        let says = i_have(&AWAY, AWAY.ip(v6), gateway_of_front(v6));
        let seen = gateway.send_any(&CLIENT, WireFrame::whole(tunnelled(&CLIENT, outer, &says)));
        let packet = opened(seen.last().unwrap(), &CLIENT, outer);
        assert_eq!(inner(&packet).destination, AWAY.ip(v6));
        assert_eq!(mac_at(&packet, 0), AWAY.mac);
    });
}

fn gateway_of_front(v6: bool) -> IpAddr {
    gateway(1, v6)
}

#[test]
fn a_mapping_of_somebody_behind_a_tunnel_lets_strangers_in_if_it_may() {
    for outer in [false, true] {
        let open = || {
            let mut tables = overlay(outer, false);
            Arc::make_mut(&mut tables.nat).filtering = engine::limits::Filtering::Endpoint;
            tables
        };
        each_of(open, |mut gateway, v6| {
            let asked = udp(&AWAY, 40_000, (FAR.ip(v6), 53));
            let out = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &asked));
            // Somebody whom it has never sent to.
            let stranger = udp(&ROUTER, 7, out.source());
            let seen = gateway.forward(&ROUTER, stranger);
            let frame = opened(&seen, &CLIENT, outer);
            assert_eq!((mac_at(&frame, 0), inner(&frame).destination), (AWAY.mac, AWAY.ip(v6)));
            let answer = udp(&AWAY, 40_000, (ROUTER.ip(v6), 7));
            let seen = gateway.forward(&CLIENT, tunnelled(&CLIENT, outer, &answer));
            assert_eq!((seen.port, seen.source()), (WAN, out.source()));
        });
    }
}

#[test]
fn congestion_outside_is_told_inside_and_marks_are_copied_out() {
    each_of(
        || overlay(false, true),
        |mut gateway, v6| {
            introduce(&mut gateway, false);
            let mark = |bytes: &mut Vec<u8>, at: usize, class: u8| {
                if bytes[at] >> 4 == 6 {
                    bytes[at] = 0x60 | class >> 4;
                    bytes[at + 1] = class << 4 | bytes[at + 1] & 0xf;
                } else {
                    bytes[at + 1] = class;
                    bytes[at + 10..at + 12].fill(0);
                    let sum = sum_of(&bytes[at..at + 20]);
                    bytes[at + 10..at + 12].copy_from_slice(&(!sum).to_be_bytes());
                }
            };
            // DSCP 46, ECT(0).
            let mut frame = bridged(&WEB, &AWAY, v6);
            mark(&mut frame, 14, 0xba);
            let seen = gateway.forward(&WEB, frame);
            assert_eq!(seen.frame.bytes[15], 0xba, "copied");
            for (own, outer, expected) in
                [(2, 3, Some(3)), (1, 3, Some(3)), (2, 1, Some(1)), (0, 2, Some(0)), (0, 3, None)]
            {
                let mut frame = bridged(&AWAY, &WEB, v6);
                mark(&mut frame, 14, own);
                let mut packet = tunnelled(&CLIENT, false, &frame);
                mark(&mut packet, 14, outer);
                match expected {
                    None => gateway.refuse(&CLIENT, packet, DropReason::OverlayEcn),
                    Some(expected) => {
                        let seen = gateway.forward(&CLIENT, packet);
                        mark(&mut frame, 14, expected);
                        assert_eq!(seen.frame.bytes, frame, "{own} in {outer}");
                    }
                }
            }
        },
    );
}

fn sum_of(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn only_known_ends_and_identifiers_are_heard() {
    each(true, |mut gateway, outer, v6| {
        let frame = bridged(&AWAY, &WEB, v6);
        let stranger = Host { ipv4: FAR.ipv4, ipv6: FAR.ipv6, ..CLIENT };
        gateway.refuse(&stranger, tunnelled(&stranger, outer, &frame), DropReason::OverlayVtep);
        let other = wrapped(&CLIENT, outer, vxlan(VNI + 1), &frame);
        gateway.refuse(&CLIENT, other, DropReason::OverlayVni);
        let mut header = vxlan(VNI);
        header[0] = 0xf7;
        let unset = wrapped(&CLIENT, outer, header, &frame);
        gateway.refuse(&CLIENT, unset, DropReason::OverlayMalformed);
        // Reserved bits say nothing.
        let mut header = vxlan(VNI);
        (header[0], header[1], header[3], header[7]) = (0xff, 0xff, 0xff, 0xff);
        let reserved = wrapped(&CLIENT, outer, header, &frame);
        assert_eq!(gateway.forward(&CLIENT, reserved).frame.bytes, frame);
        let mut wrong = tunnelled(&CLIENT, outer, &frame);
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        gateway.refuse(&CLIENT, wrong, DropReason::OverlayChecksum);
    });
}

#[test]
fn nobody_behind_a_tunnel_is_a_member_or_the_gateway() {
    for learns in [true, false] {
        each(learns, |mut gateway, outer, v6| {
            let liar = Host { mac: DB.mac, ..AWAY };
            let mut refuse = |inner: Vec<u8>, reason| {
                let bytes = tunnelled(&CLIENT, outer, &inner);
                let seen = gateway.send_any(&CLIENT, WireFrame::whole(bytes));
                assert!(seen.is_empty(), "{seen:?}");
                assert!(gateway.dropped(reason) > 0, "{}: {:?}", reason.name(), gateway.drops());
            };
            refuse(bridged(&liar, &WEB, v6), DropReason::OverlaySender);
            let liar = Host { mac: WEB.gateway_mac, ..AWAY };
            refuse(bridged(&liar, &WEB, v6), DropReason::SourceMac);
            for taken in [DB.ip(v6), gateway_of_front(v6)] {
                let claim = i_have(&AWAY, taken, gateway_of_front(v6));
                refuse(claim, DropReason::SpoofedIp);
            }
            let liar = Host { ipv4: DB.ipv4, ipv6: DB.ipv6, ..AWAY };
            refuse(udp(&liar, 40_000, (APP.ip(v6), 53)), DropReason::SpoofedIp);
        });
    }
}

#[test]
fn an_endpoint_cannot_send_what_looks_like_ours() {
    each(true, |mut gateway, outer, v6| {
        let frame = bridged(&AWAY, &DB, v6);
        let ip = IpHeader::new(WEB.ip(outer), CLIENT.ip(outer), UDP);
        let payload = [&vxlan(VNI)[..], &frame].concat();
        let forged = routed(&WEB, &ip, &datagram(&ip, (50_000, UDP_PORT), &payload));
        gateway.refuse(&WEB, forged, DropReason::OverlayForged);
        // A tunnel in a tunnel is a packet to ourselves like any other.
        introduce(&mut gateway, outer);
        let inner = Host { ipv4: AWAY.ipv4, ipv6: AWAY.ipv6, mac: AWAY.mac, ..AWAY };
        let ip = IpHeader::new(inner.ip(outer), own(outer), UDP);
        let nested = routed(&inner, &ip, &datagram(&ip, (50_000, UDP_PORT), &payload));
        let seen = gateway.send(&CLIENT, tunnelled(&CLIENT, outer, &nested));
        assert!(seen.iter().all(|seen| seen.port == WAN), "{seen:?}");
        assert_eq!(gateway.dropped(DropReason::ClosedPort), 1);
    });
}

#[test]
fn a_million_stations_of_one_peer_leave_room_for_others() {
    let mut tables = overlay(false, true);
    let limits = engine::limits::Limits { fdb_per_port: 100, ..limits() };
    tables.limits = Arc::new(limits);
    let mut gateway = Gateway::new(tables, 1);
    for number in 0..1_000_000u64 {
        let station = MacAddress(0x0600_0000_0000 + number);
        let frame = tunnelled(&CLIENT, false, &strange(station, WEB.mac));
        gateway.send_any(&CLIENT, WireFrame::whole(frame));
    }
    assert_eq!(gateway.sum(|all| all.worker.fdb_share_full.get()), 999_900);
    let frame = tunnelled(&ROUTER, false, &bridged(&BEYOND, &WEB, false));
    gateway.forward(&ROUTER, frame);
    let seen = gateway.forward(&WEB, bridged(&WEB, &BEYOND, false));
    opened(&seen, &ROUTER, false);
}

#[test]
fn a_super_frame_is_cut_in_front_of_the_tunnel() {
    each(true, |mut gateway, outer, v6| {
        introduce(&mut gateway, outer);
        let payload: Vec<u8> = (0..10_000u32).map(|byte| byte as u8).collect();
        let frame = super_frame(&WEB, AWAY.mac, (40_000, 80), AWAY.ip(v6), &payload);
        let Offload::Gso { kind, start, .. } = frame.offload else { panic!("a super-frame") };
        let segment_bytes = 1_300;
        let offload = Offload::Gso { kind, segment_bytes, start, ecn: false };
        let seen = gateway.send_frame(&WEB, WireFrame { offload, ..frame });
        assert_eq!(seen.len(), 8, "{:?}", gateway.drops());
        let mut whole = Vec::new();
        for seen in &seen {
            let frame = opened(seen, &CLIENT, outer);
            assert!(inner(&frame).checksum_is_right(Offload::None));
            whole.extend_from_slice(&inner(&frame).payload[20..]);
        }
        assert_eq!(whole, payload);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_out_of_a_tunnel_is_counted_or_passes(
        changes in prop::collection::vec((0usize..140, any::<u8>()), 0..4), cut in 0usize..120,
        v6: bool, outer: bool, learns: bool,
    ) {
        let mut gateway = Gateway::new(overlay(outer, learns), 1);
        let mut bytes = tunnelled(&CLIENT, outer, &bridged(&AWAY, &WEB, v6));
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        // The harness asserts that no frame is lost.
        gateway.send_any(&CLIENT, WireFrame::whole(bytes));
    }
}
