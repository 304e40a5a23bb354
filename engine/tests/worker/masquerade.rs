//! Traffic out by the uplink takes the gateway's address there.

use engine::DropReason;
use engine::sim::frames::{be16, flags};

use crate::common::*;
use crate::gateway::{each, each_of};

#[test]
fn a_port_of_the_range_is_kept() {
    each(|mut gateway, v6| {
        for source_port in [40_000, 40_001, 40_002, 40_003] {
            let there = gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
            assert_eq!((there.port, there.mac()), (WAN, ROUTER.mac));
            assert_eq!(there.source(), (own(v6), source_port));
            let back = gateway.forward(&FAR, udp(&FAR, 53, there.source()));
            assert_eq!((back.port, back.mac()), (WEB.port, WEB.mac));
            assert_eq!(back.destination(), (WEB.ip(v6), source_port));
        }
    });
}

#[test]
fn rfc_4787_req_4_a_port_below_the_range_keeps_its_parity() {
    each(|mut gateway, v6| {
        for source_port in [5_000, 5_001, 5_002, 5_003] {
            let there = gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
            let (_, outside_port) = there.source();
            assert!(outside_port >= 32_768);
            assert_eq!(outside_port % 2, source_port % 2);
            let back = gateway.forward(&FAR, udp(&FAR, 53, there.source()));
            assert_eq!(back.destination(), (WEB.ip(v6), source_port));
        }
    });
}

#[test]
fn rfc_4787_req_1_a_socket_has_one_outside_port_whoever_it_talks_to() {
    each(|mut gateway, v6| {
        let there = gateway.forward(&WEB, udp(&WEB, 5_001, (FAR.ip(v6), 53)));
        let elsewhere = gateway.forward(&WEB, udp(&WEB, 5_001, (CLIENT.ip(v6), 99)));
        assert_eq!(there.source(), elsewhere.source());
    });
}

#[test]
fn rfc_4787_req_3_two_members_with_one_source_port_take_two_outside() {
    each(|mut gateway, v6| {
        let of_web = gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
        let of_app = gateway.forward(&APP, udp(&APP, 40_001, (FAR.ip(v6), 53)));
        assert_ne!(of_web.source(), of_app.source());
        let back = gateway.forward(&FAR, udp(&FAR, 53, of_app.source()));
        assert_eq!((back.port, back.destination()), (APP.port, (APP.ip(v6), 40_001)));
        let back = gateway.forward(&FAR, udp(&FAR, 53, of_web.source()));
        assert_eq!((back.port, back.destination()), (WEB.port, (WEB.ip(v6), 40_001)));
    });
}

#[test]
fn what_a_published_port_starts_keeps_its_published_number() {
    each(|mut gateway, v6| {
        let there = gateway.forward(&WEB, udp(&WEB, 53, (FAR.ip(v6), 53)));
        assert_eq!(there.source(), (own(v6), 5_300));
        let back = gateway.forward(&FAR, udp(&FAR, 53, (own(v6), 5_300)));
        assert_eq!((back.port, back.destination()), (WEB.port, (WEB.ip(v6), 53)));
    });
}

#[test]
fn rfc_5508_req_1_a_ping_finds_its_way_back() {
    each(|mut gateway, v6| {
        for member in [WEB, DB] {
            let there = gateway.forward(&member, echo(&member, 7, FAR.ip(v6)));
            assert_eq!((there.port, there.ip().source), (WAN, own(v6)));
            let identifier = be16(there.ip().payload, 4);
            let back = gateway.forward(&FAR, echo_reply(&FAR, identifier, own(v6)));
            assert_eq!((back.port, back.ip().destination), (member.port, member.ip(v6)));
            assert_eq!(be16(back.ip().payload, 4), 7);
        }
    });
}

#[test]
fn a_stranger_does_not_get_in_by_a_masqueraded_port() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, tcp(&WEB, 40_001, (FAR.ip(v6), 80), flags::SYN));
        // RFC 4787 section 5, address and port-dependent filtering.
        let stranger = tcp(&CLIENT, 80, (own(v6), 40_001), flags::SYN);
        gateway.refuse(&CLIENT, stranger, DropReason::Filtered);
    });
}

#[test]
fn without_a_free_port_a_flow_is_refused_and_counted() {
    let narrow = || {
        let mut tables = tables();
        let nat = std::sync::Arc::make_mut(&mut tables.nat);
        (nat.port_min, nat.port_max) = (40_000, 40_007);
        tables
    };
    each_of(narrow, |mut gateway, v6| {
        for source_port in 40_000..40_008 {
            gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
        }
        let late = udp(&DB, 40_003, (FAR.ip(v6), 53));
        gateway.refuse(&DB, late, DropReason::OutsidePortsUsedUp);
        gateway.forward(&WEB, udp(&WEB, 40_003, (CLIENT.ip(v6), 53)));
    });
}
