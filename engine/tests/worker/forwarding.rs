//! Who reaches whom, and which source the other side sees.

use std::net::IpAddr;

use engine::DropReason;
use engine::sim::frames::flags;

use crate::common::*;
use crate::gateway::each;

#[test]
fn a_published_port_is_translated_and_its_reply_is_translated_back() {
    each(|mut gateway, v6| {
        let client = (CLIENT.ip(v6), 50_001);
        let there = gateway.forward(&CLIENT, tcp(&CLIENT, 50_001, (own(v6), 8_080), flags::SYN));
        assert_eq!((there.port, there.mac()), (WEB.port, WEB.mac));
        assert_eq!((there.source(), there.destination()), (client, (WEB.ip(v6), 80)));
        assert_eq!(there.ip().hops, 63);
        let back = gateway.forward(&WEB, tcp(&WEB, 80, client, flags::SYN | flags::ACK));
        assert_eq!((back.port, back.mac()), (WAN, CLIENT.mac));
        assert_eq!((back.source(), back.destination()), ((own(v6), 8_080), client));
    });
}

#[test]
fn a_reply_goes_back_by_the_router_it_came_from() {
    each(|mut gateway, v6| {
        gateway.forward(&FAR, udp(&FAR, 50_001, (own(v6), 5_300)));
        let back = gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), 50_001)));
        assert_eq!((back.port, back.mac()), (WAN, ROUTER.mac));
        assert_eq!(back.source(), (own(v6), 5_300));
    });
}

#[test]
fn a_container_address_is_silent_to_the_outside() {
    each(|mut gateway, v6| {
        let nobody: IpAddr = if v6 { "fd00:1::99" } else { "10.1.0.99" }.parse().unwrap();
        for target in [WEB.ip(v6), nobody, common_gateway(v6)] {
            let syn = tcp(&CLIENT, 50_001, (target, 80), flags::SYN);
            gateway.refuse(&CLIENT, syn, DropReason::Unpublished);
            gateway.refuse(&CLIENT, echo(&CLIENT, 1, target), DropReason::Unpublished);
        }
    });
}

fn common_gateway(v6: bool) -> IpAddr {
    crate::common::gateway(1, v6)
}

#[test]
fn a_member_that_uses_the_published_address_of_its_own_network_is_seen_as_the_gateway() {
    each(|mut gateway, v6| {
        for client in [DB, WEB] {
            let syn = tcp(&client, 50_001, (own(v6), 8_080), flags::SYN);
            let there = gateway.forward(&client, syn);
            assert_eq!((there.port, there.destination()), (WEB.port, (WEB.ip(v6), 80)));
            assert_eq!(there.source().0, common_gateway(v6));
            let back =
                gateway.forward(&WEB, tcp(&WEB, 80, there.source(), flags::SYN | flags::ACK));
            assert_eq!((back.port, back.source()), (client.port, (own(v6), 8_080)));
            assert_eq!(back.destination(), (client.ip(v6), 50_001));
        }
    });
}

#[test]
fn a_member_of_another_network_keeps_its_address_at_a_published_port() {
    each(|mut gateway, v6| {
        let app = (APP.ip(v6), 50_001);
        let there = gateway.forward(&APP, tcp(&APP, 50_001, (own(v6), 8_080), flags::SYN));
        assert_eq!((there.port, there.source()), (WEB.port, app));
        let back = gateway.forward(&WEB, tcp(&WEB, 80, app, flags::SYN | flags::ACK));
        assert_eq!(
            (back.port, back.source(), back.destination()),
            (APP.port, (own(v6), 8_080), app)
        );
    });
}

#[test]
fn another_network_is_out_of_reach_but_for_published_ports() {
    each(|mut gateway, v6| {
        let syn = tcp(&APP, 50_001, (WEB.ip(v6), 80), flags::SYN);
        gateway.refuse(&APP, syn, DropReason::OtherNetwork);
        gateway.refuse(&WEB, echo(&WEB, 1, APP.ip(v6)), DropReason::OtherNetwork);
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_none_in() {
    each(|mut gateway, v6| {
        gateway.refuse(&VAULT, udp(&VAULT, 50_001, (FAR.ip(v6), 53)), DropReason::Internal);
        gateway.refuse(&VAULT, udp(&VAULT, 50_001, (own(v6), 5_300)), DropReason::Internal);
        gateway.refuse(&VAULT, udp(&VAULT, 50_001, (own(v6), 9)), DropReason::Internal);
        for client in [CLIENT, WEB] {
            let syn = tcp(&client, 50_001, (own(v6), 8_082), flags::SYN);
            gateway.refuse(&client, syn, DropReason::Internal);
        }
    });
}
