//! TCP as RFC 5382, RFC 5961 and RFC 7857 want it from a NAT. ICMP errors (RFC 5382 REQ-9 and
//! REQ-10) have tests of their own; there are no ALGs (REQ-6).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::flow::TcpState;
use engine::limits::Timeouts;
use engine::sim::frames::flags;
use engine::{DropReason, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

fn there(v6: bool) -> (IpAddr, u16) {
    (FAR.ip(v6), 80)
}

/// The outside socket of web's connection.
fn mapped(v6: bool) -> (IpAddr, u16) {
    (own(v6), 40_000)
}

/// A TCP connection of web with a far server, opened. Both sides expect 1,001 next.
fn open(gateway: &mut Gateway, v6: bool) {
    gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::SYN));
    gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), flags::SYN | flags::ACK));
    gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
    assert_eq!(state(gateway), TcpState::Established);
}

fn state(gateway: &Gateway) -> TcpState {
    let flows = gateway.flows();
    assert_eq!(flows.len(), 1);
    flows[0].tcp
}

#[test]
fn rfc_5382_req_1_mapping_is_endpoint_independent() {
    each(|mut gateway, v6| {
        let there = gateway.forward(&WEB, tcp(&WEB, 5_001, (FAR.ip(v6), 80), flags::SYN));
        let other = gateway.forward(&WEB, tcp(&WEB, 5_001, (CLIENT.ip(v6), 99), flags::SYN));
        assert_eq!(there.source(), other.source());
    });
}

#[test]
fn rfc_5382_req_2_both_sides_may_open_at_once() {
    each(|mut gateway, v6| {
        let (syn, syn_ack) = (flags::SYN, flags::SYN | flags::ACK);
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), syn));
        let crossing = gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), syn));
        assert_eq!((crossing.port, crossing.destination()), (WEB.port, (WEB.ip(v6), 40_000)));
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), syn_ack));
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), syn_ack));
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
        assert_eq!(state(&gateway), TcpState::Established);
    });
}

#[test]
fn rfc_5382_req_4_a_syn_that_nobody_asked_for_is_not_answered() {
    each(|mut gateway, v6| {
        // To a port that nobody has yet, and to one that is mapped.
        let syn = tcp(&FAR, 80, mapped(v6), flags::SYN);
        gateway.refuse(&FAR, syn.clone(), DropReason::Filtered);
        assert!(gateway.pass(Duration::from_millis(5_750)).is_empty());
        gateway.forward(&WEB, tcp(&WEB, 40_000, (CLIENT.ip(v6), 9), flags::SYN));
        gateway.refuse(&FAR, syn.clone(), DropReason::Filtered);
        // When the inside has asked, too, it is the other half of an opening.
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::SYN));
        assert_eq!(gateway.forward(&FAR, syn).destination(), (WEB.ip(v6), 40_000));
        // So nothing is ever said about the first one.
        assert!(gateway.pass(Duration::from_secs(8)).is_empty());
    });
}

#[test]
fn rfc_5382_req_4_after_six_seconds_its_sender_is_told_once_that_the_port_is_closed() {
    each(|mut gateway, v6| {
        let syn = tcp(&FAR, 80, mapped(v6), flags::SYN);
        gateway.refuse(&FAR, syn.clone(), DropReason::Filtered);
        assert!(gateway.pass(Duration::from_secs(3)).is_empty());
        // It comes again, as clients do.
        gateway.refuse(&FAR, syn, DropReason::Filtered);
        assert!(gateway.pass(Duration::from_millis(2_750)).is_empty());
        let told = gateway.pass(Duration::from_secs(20));
        let [told] = &told[..] else { panic!("{told:?}") };
        assert_eq!((told.port, told.icmp()), (WAN, if v6 { (1, 4) } else { (3, 3) }));
        assert_eq!((told.ip().source, told.ip().destination), (own(v6), FAR.ip(v6)));
        // No other segment is worth an answer, nor is one in whose place many come.
        gateway.refuse(&FAR, tcp(&FAR, 81, mapped(v6), flags::ACK), DropReason::Filtered);
        assert!(gateway.pass(Duration::from_secs(8)).is_empty());
        for port in 1..400 {
            gateway.refuse(&FAR, tcp(&FAR, port, mapped(v6), flags::SYN), DropReason::Filtered);
        }
        let told = gateway.pass(Duration::from_secs(8));
        assert!((128..400).contains(&told.len()), "{}", told.len());
    });
}

#[test]
fn rfc_5382_req_5_idle_times_are_long_enough_by_default() {
    let timeouts = Timeouts::default();
    assert!(timeouts.tcp_established >= Duration::from_secs(2 * 3_600 + 4 * 60));
    for transitory in [timeouts.tcp_opening, timeouts.tcp_closing, timeouts.tcp_reset] {
        assert!(transitory >= Duration::from_secs(4 * 60));
    }
}

#[test]
fn rfc_5382_req_7_no_tcp_port_is_shared_below_90_percent() {
    each(|mut gateway, v6| {
        let mut ports = std::collections::HashSet::new();
        for host in [WEB, DB, APP] {
            for port in 40_000..40_020 {
                let seen = gateway.forward(&host, tcp(&host, port, there(v6), flags::SYN));
                assert!(ports.insert(seen.source()), "{seen:?}");
            }
        }
        gateway.pass(Duration::from_millis(100));
        assert_eq!(gateway.sum(|counters| counters.worker.ports_shared.get()), 0);
        assert_eq!(gateway.sum(|counters| counters.worker.mappings.get()), 60);
    });
}

fn narrow() -> Tables {
    let mut tables = tables();
    let nat = Arc::make_mut(&mut tables.nat);
    (nat.port_min, nat.port_max) = (40_000, 40_079);
    tables
}

#[test]
fn above_90_percent_tcp_ports_are_shared_per_destination_and_counted() {
    each_of(narrow, |mut gateway, v6| {
        // 72 ports are given out to one socket each, in classes of the workers.
        for port in 30_000..30_120 {
            gateway.send(&WEB, tcp(&WEB, port, there(v6), flags::SYN));
        }
        let mut shared = std::collections::HashMap::new();
        for port in 31_000..31_008 {
            for to in [(FAR.ip(v6), 81), (CLIENT.ip(v6), 81)] {
                let seen = gateway.forward(&DB, tcp(&DB, port, to, flags::SYN));
                let (_, outside_port) = seen.source();
                assert!((40_072..40_080).contains(&outside_port), "{outside_port}");
                *shared.entry(outside_port).or_insert(0) += 1;
                let host = if to.0 == FAR.ip(v6) { FAR } else { CLIENT };
                let back = tcp(&host, 81, seen.source(), flags::SYN | flags::ACK);
                let back = gateway.forward(&host, back);
                assert_eq!((back.port, back.destination()), (DB.port, (DB.ip(v6), port)));
            }
        }
        assert_eq!(shared.len(), 8, "eight ports: {shared:?}");
        assert!(shared.values().all(|count| *count == 2), "two destinations each: {shared:?}");
        gateway.pass(Duration::from_millis(100));
        assert!(gateway.sum(|counters| counters.worker.ports_shared.get()) >= 16);
    });
}

#[test]
fn rfc_5961_a_reset_that_does_not_fit_does_not_end_the_flow() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        for sequence in [1_000, 0, 2_000_000, u32::MAX, 0x8000_0000] {
            let forged = tcp_at(&FAR, 80, mapped(v6), flags::RST, (sequence, 0));
            // The endpoint gets it and judges for itself.
            assert_eq!(gateway.forward(&FAR, forged).tcp_flags(), flags::RST);
            assert_eq!(state(&gateway), TcpState::Established, "{sequence}");
        }
        let forged = tcp_at(&FAR, 80, mapped(v6), flags::FIN | flags::ACK, (9_000_000, 1_001));
        gateway.forward(&FAR, forged);
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), flags::SYN));
        assert_eq!(state(&gateway), TcpState::Established);
        gateway.pass(Duration::from_secs(3_600));
        assert_eq!(gateway.flows().len(), 1, "an hour later it is still there");
        gateway.forward(&FAR, tcp_at(&FAR, 80, mapped(v6), flags::RST, (1_001, 0)));
        assert_eq!(state(&gateway), TcpState::Closed);
    });
}

#[test]
fn what_a_reset_must_fit_moves_with_the_acknowledgements() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        // Segments of an open connection take the short way, which notes what they acknowledge.
        let far_away = 0x4000_0000;
        let data = tcp_at(&WEB, 40_000, there(v6), flags::ACK, (1_001, far_away));
        gateway.forward(&WEB, data);
        gateway.forward(&FAR, tcp_at(&FAR, 80, mapped(v6), flags::RST, (1_001, 0)));
        assert_eq!(state(&gateway), TcpState::Established);
        gateway.forward(&FAR, tcp_at(&FAR, 80, mapped(v6), flags::RST, (far_away, 0)));
        assert_eq!(state(&gateway), TcpState::Closed);
    });
}

#[test]
fn rfc_7857_a_connection_that_speaks_after_a_reset_goes_on() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), flags::RST));
        assert_eq!(state(&gateway), TcpState::Closed);
        gateway.pass(Duration::from_secs(200));
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), flags::ACK));
        assert_eq!(state(&gateway), TcpState::Established);
    });
}

#[test]
fn a_tuple_in_time_wait_is_used_again() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        let fin = flags::FIN | flags::ACK;
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), fin));
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), fin));
        assert_eq!(state(&gateway), TcpState::TimeWait);
        open(&mut gateway, v6);
    });
}

#[test]
fn a_late_syn_leaves_an_open_connection_open() {
    each(|mut gateway, v6| {
        open(&mut gateway, v6);
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::SYN));
        assert_eq!(state(&gateway), TcpState::Established);
        gateway.pass(Duration::from_secs(3_600));
        assert_eq!(gateway.flows().len(), 1);
    });
}

#[test]
fn a_connection_is_picked_up_in_the_middle_unless_that_is_off() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
        assert_eq!(state(&gateway), TcpState::PickedUp);
        gateway.forward(&FAR, tcp(&FAR, 80, mapped(v6), flags::ACK));
        assert_eq!(state(&gateway), TcpState::Established);
    });
    let strict = || {
        let mut tables = tables();
        Arc::make_mut(&mut tables.nat).tcp_pickup = false;
        tables
    };
    each_of(strict, |mut gateway, v6| {
        let middle = tcp(&WEB, 40_000, there(v6), flags::ACK);
        gateway.refuse(&WEB, middle, DropReason::NoConnection);
        gateway.pass(Duration::from_millis(100));
        assert_eq!(gateway.sum(|counters| counters.worker.mappings.get()), 0);
        open(&mut gateway, v6);
    });
}

#[test]
fn one_sided_segments_of_no_connection_do_not_live_for_hours() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, tcp(&WEB, 40_000, there(v6), flags::ACK));
        gateway.pass(Duration::from_secs(240 + 70));
        assert!(gateway.flows().is_empty());
    });
}
