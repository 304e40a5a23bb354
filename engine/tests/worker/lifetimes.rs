//! How long flows live, and how many there may be.

use std::net::IpAddr;
use std::time::Duration;

use engine::sim::frames::flags;
use engine::{DropReason, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

/// By how much a flow may outlive its time: the timing wheel looks at it once in its round of 68 s.
const ROUND: Duration = Duration::from_secs(70);

/// One flow is there until so much idle time has passed, and gone soon after.
fn lives(gateway: &mut Gateway, idle: Duration) {
    gateway.pass(idle - Duration::from_secs(1));
    assert_eq!(gateway.flows().len(), 1, "one second before its end");
    gateway.pass(Duration::from_secs(1) + ROUND);
    assert!(gateway.flows().is_empty(), "after its end");
}

fn there(v6: bool) -> (IpAddr, u16) {
    (FAR.ip(v6), 80)
}

/// A TCP connection of web with a far server, opened.
fn open(gateway: &mut Gateway, v6: bool) {
    gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::SYN));
    gateway.forward(&FAR, tcp(&FAR, 80, (own(v6), 40_000), flags::SYN | flags::ACK));
    gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
}

#[test]
fn a_connection_that_is_not_answered_ends_after_four_minutes() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::SYN));
        lives(&mut gateway, Duration::from_secs(240));
    });
}

#[test]
fn an_open_connection_lives_two_hours_and_four_minutes() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        lives(&mut gateway, Duration::from_secs(7_440));
    });
}

#[test]
fn a_reset_connection_ends_after_four_minutes() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        gateway.forward(&FAR, tcp(&FAR, 80, (own(v6), 40_000), flags::RST));
        // RFC 7857 section 2.2.
        lives(&mut gateway, Duration::from_secs(240));
    });
}

#[test]
fn a_connection_that_both_sides_have_finished_ends_after_a_minute() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        let fin = flags::FIN | flags::ACK;
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), fin));
        gateway.forward(&FAR, tcp(&FAR, 80, (own(v6), 40_000), fin));
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
        lives(&mut gateway, Duration::from_secs(60));
    });
}

#[test]
fn a_connection_that_one_side_has_finished_ends_after_four_minutes() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::FIN | flags::ACK));
        lives(&mut gateway, Duration::from_secs(240));
    });
}

#[test]
fn rfc_4787_req_5_rfc_5508_req_2_udp_lives_five_minutes_and_echo_one() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, there(v6)));
        lives(&mut gateway, Duration::from_secs(300));
        gateway.forward(&WEB, echo(&WEB, 7, FAR.ip(v6)));
        lives(&mut gateway, Duration::from_secs(60));
    });
}

#[test]
fn rfc_4787_req_6_packets_of_either_side_keep_a_flow_alive() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, there(v6)));
        for _ in 0..3 {
            gateway.pass(Duration::from_secs(290));
            gateway.forward(&FAR, udp(&FAR, 80, (own(v6), 40_000)));
            gateway.pass(Duration::from_secs(290));
            gateway.forward(&WEB, udp(&WEB, 40_000, there(v6)));
        }
        assert_eq!(gateway.flows().len(), 1);
        // Notes of other workers that hand the packets over may expire meanwhile.
        let expired = gateway.sum(|counters| counters.worker.flows_expired.get());
        assert!(gateway.workers.len() > 1 || expired == 0);
        lives(&mut gateway, Duration::from_secs(300));
    });
}

#[test]
fn an_outside_port_is_free_again_when_its_flow_has_ended() {
    let narrow = || {
        let mut tables = tables();
        let nat = std::sync::Arc::make_mut(&mut tables.nat);
        (nat.port_min, nat.port_max) = (40_000, 40_000);
        tables
    };
    each_of(narrow, |mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, there(v6)));
        let other = udp(&DB, 40_000, there(v6));
        gateway.refuse(&DB, other.clone(), DropReason::OutsidePortsUsedUp);
        gateway.pass(Duration::from_secs(300) + ROUND);
        assert_eq!(gateway.forward(&DB, other).source(), (own(v6), 40_000));
    });
}

fn few_flows() -> Tables {
    let mut tables = tables();
    let limits = std::sync::Arc::make_mut(&mut tables.limits);
    limits.flows_per_port = 8;
    tables
}

/// UDP to a far server, answered.
fn answered(gateway: &mut Gateway, host: &Host, source_port: u16, v6: bool) -> bool {
    let seen = gateway.send(host, udp(host, source_port, there(v6)));
    if let Some(seen) = seen.first() {
        gateway.forward(&FAR, udp(&FAR, 80, seen.source()));
    }
    !seen.is_empty()
}

#[test]
fn a_port_starts_no_more_flows_than_its_share() {
    each_of(few_flows, |mut gateway, v6| {
        for source_port in 40_000..40_064 {
            answered(&mut gateway, &WEB, source_port, v6);
        }
        assert_eq!(gateway.flows().len(), 8);
        assert_eq!(gateway.dropped(DropReason::FlowShareFull), 56);
        // Known flows go on, and others have their own share.
        let first = gateway.flows()[0].input;
        gateway.forward(&WEB, udp(&WEB, first.source_port, there(v6)));
        answered(&mut gateway, &DB, 50_000, v6);
        // Who ends flows may start others.
        gateway.pass(Duration::from_secs(300) + ROUND);
        gateway.forward(&WEB, udp(&WEB, 40_063, there(v6)));
    });
}

#[test]
fn a_full_flow_table_keeps_what_is_answered_and_refuses_without_anything_else_to_end() {
    let full = || {
        let mut tables = tables();
        std::sync::Arc::make_mut(&mut tables.limits).flows = 16;
        tables
    };
    each_of(full, |mut gateway, v6| {
        let mut passed = Vec::new();
        for source_port in 50_000..50_100 {
            let datagram = udp(&CLIENT, source_port, (own(v6), 5_300));
            if !gateway.send(&CLIENT, datagram).is_empty() {
                gateway.forward(&WEB, udp(&WEB, 53, (CLIENT.ip(v6), source_port)));
                passed.push(source_port);
            }
        }
        assert!(!passed.is_empty() && passed.len() <= 16, "{passed:?}");
        let refused = gateway.dropped(DropReason::FlowTableFull);
        assert_eq!(passed.len() as u64 + refused, 100);
        for source_port in passed {
            gateway.forward(&CLIENT, udp(&CLIENT, source_port, (own(v6), 5_300)));
        }
    });
}
