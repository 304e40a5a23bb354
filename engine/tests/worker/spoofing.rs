//! An endpoint speaks for itself only; each attempt at more is dropped and counted.

use engine::DropReason;
use engine::sim::WireFrame;
use engine::sim::frames::flags;

use crate::common::*;
use crate::gateway::{Gateway, each};

fn refuse_any(gateway: &mut Gateway, from: &Host, bytes: Vec<u8>, reason: DropReason) {
    let before = gateway.dropped(reason);
    let seen = gateway.send_any(from, WireFrame::whole(bytes));
    assert!(seen.is_empty(), "silence: {seen:?}");
    assert_eq!(gateway.dropped(reason), before + 1, "{}", reason.name());
}

#[test]
fn another_mac_address_is_dropped() {
    each(|mut gateway, v6| {
        let liar = Host { mac: DB.mac, ..WEB };
        let reason = DropReason::SpoofedMac;
        refuse_any(&mut gateway, &WEB, udp(&liar, 40_000, (FAR.ip(v6), 53)), reason);
        refuse_any(&mut gateway, &WEB, bridged(&liar, &VM, v6), reason);
        refuse_any(&mut gateway, &WEB, who_has(&liar, common_gateway(v6)), reason);
    });
}

fn common_gateway(v6: bool) -> std::net::IpAddr {
    gateway(1, v6)
}

#[test]
fn another_ip_address_is_dropped() {
    each(|mut gateway, v6| {
        let liar = Host { ipv4: DB.ipv4, ipv6: DB.ipv6, ..WEB };
        let reason = DropReason::SpoofedIp;
        refuse_any(&mut gateway, &WEB, udp(&liar, 40_000, (FAR.ip(v6), 53)), reason);
        refuse_any(&mut gateway, &WEB, echo(&liar, 1, FAR.ip(v6)), reason);
        refuse_any(&mut gateway, &WEB, bridged(&liar, &VM, v6), reason);
    });
}

#[test]
fn arp_and_neighbour_discovery_for_another_are_dropped() {
    each(|mut gateway, v6| {
        let reason = DropReason::SpoofedIp;
        // It asks in another's name, and claims another's and the gateway's address.
        let liar = Host { ipv4: DB.ipv4, ipv6: DB.ipv6, ..WEB };
        refuse_any(&mut gateway, &WEB, who_has(&liar, VM.ip(v6)), reason);
        for claimed in [DB.ip(v6), common_gateway(v6)] {
            let to_member = Host { gateway_mac: VM.mac, ..WEB };
            let claim = i_have(&to_member, claimed, VM.ip(v6));
            refuse_any(&mut gateway, &WEB, claim, reason);
            refuse_any(&mut gateway, &WEB, i_have(&WEB, claimed, common_gateway(v6)), reason);
        }
    });
}

#[test]
fn the_outside_cannot_speak_for_the_inside() {
    each(|mut gateway, v6| {
        for claimed in [WEB, APP] {
            let liar = Host { ipv4: claimed.ipv4, ipv6: claimed.ipv6, ..CLIENT };
            let syn = tcp(&liar, 40_000, (own(v6), 8_080), flags::SYN);
            refuse_any(&mut gateway, &CLIENT, syn, DropReason::Martian);
        }
    });
}

#[test]
fn a_learning_port_cannot_pose_as_the_gateway() {
    each(|mut gateway, v6| {
        let liar = Host { mac: VM.gateway_mac, ..VM };
        refuse_any(&mut gateway, &VM, bridged(&liar, &WEB, v6), DropReason::SourceMac);
    });
}
