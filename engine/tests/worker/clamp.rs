//! The segment size that a SYN announces is lowered where the path is smaller than the endpoint's
//! own MTU, in both directions, through every form of NAT.

use std::net::IpAddr;
use std::sync::Arc;

use engine::sim::WireFrame;
use engine::sim::frames::{TCP, TcpHeader, fill_partial_checksum, flags};
use engine::tables::{MssClamp, Protocol, Publish, PublishEntry};
use engine::{NetworkId, Offload, Tables};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each_of};

/// The uplink takes 1,400 bytes, endpoints have 1,500.
fn narrow() -> Tables {
    let mut tables = tables();
    set_mtu(&mut tables, &CLIENT, 1_400);
    tables
}

fn set_mtu(tables: &mut Tables, host: &Host, mtu: u16) {
    Arc::make_mut(tables.ports[host.port.index()].as_mut().unwrap()).mtu = mtu;
}

fn with_clamp(mut tables: Tables, clamp: MssClamp) -> Tables {
    for network in tables.networks.iter_mut().flatten() {
        Arc::make_mut(network).mss_clamp = clamp;
    }
    tables
}

/// A SYN, or its answer, with this announcement.
fn syn(from: &Host, ports: (u16, u16), to: IpAddr, flags: u8, mss: Option<u16>) -> Vec<u8> {
    let header = header(from, to, TCP);
    routed(from, &header, &announcement(&header, ports, flags, mss))
}

/// What a packet announces; its checksum is right.
fn announced(seen: &Seen) -> Option<u16> {
    assert!(seen.ip().checksum_is_right(Offload::None), "{seen:?}");
    TcpHeader::parse(seen.ip().payload).unwrap().0.mss
}

/// A connection from web to the far server: what the SYN and its answer announce in the end.
fn connect_out(
    gateway: &mut Gateway,
    v6: bool,
    port: u16,
    mss: [Option<u16>; 2],
) -> [Option<u16>; 2] {
    let out = gateway.forward(&WEB, syn(&WEB, (port, 80), FAR.ip(v6), flags::SYN, mss[0]));
    let (address, outside) = out.source();
    assert_eq!(address, own(v6), "it is masqueraded");
    let answer = syn(&FAR, (80, outside), own(v6), flags::SYN | flags::ACK, mss[1]);
    let back = gateway.forward(&FAR, answer);
    [announced(&out), announced(&back)]
}

/// The same from a client outside to the published port of web.
fn connect_in(
    gateway: &mut Gateway,
    v6: bool,
    port: u16,
    mss: [Option<u16>; 2],
) -> [Option<u16>; 2] {
    let out = gateway.forward(&CLIENT, syn(&CLIENT, (port, 8_080), own(v6), flags::SYN, mss[0]));
    let answer = syn(&WEB, (80, port), CLIENT.ip(v6), flags::SYN | flags::ACK, mss[1]);
    let back = gateway.forward(&WEB, answer);
    [announced(&out), announced(&back)]
}

#[test]
fn both_directions_are_clamped_to_the_smaller_link_through_nat() {
    each_of(narrow, |mut gateway, v6| {
        let fits = Some(if v6 { 1_340 } else { 1_360 });
        let full = [Some(1_460), Some(1_460)];
        assert_eq!(connect_out(&mut gateway, v6, 40_001, full), [fits; 2]);
        assert_eq!(connect_in(&mut gateway, v6, 40_002, full), [fits; 2]);
        assert_eq!(gateway.sum(|counters| counters.worker.mss_clamped.get()), 4);
    });
}

#[test]
fn nothing_is_raised_and_nothing_added() {
    each_of(narrow, |mut gateway, v6| {
        let small = [Some(1_000), None];
        assert_eq!(connect_out(&mut gateway, v6, 40_001, small), small);
        assert_eq!(connect_in(&mut gateway, v6, 40_002, small), small);
        assert_eq!(gateway.sum(|counters| counters.worker.mss_clamped.get()), 0);
    });
}

#[test]
fn where_the_path_takes_what_the_endpoint_sends_auto_leaves_it_alone() {
    let jumbo_outside = || {
        let mut tables = tables();
        set_mtu(&mut tables, &CLIENT, 9_000);
        tables
    };
    for tables in [&tables as &dyn Fn() -> Tables, &jumbo_outside] {
        each_of(tables, |mut gateway, v6| {
            let large = [Some(8_960), Some(8_960)];
            assert_eq!(connect_out(&mut gateway, v6, 40_001, large), large);
        });
    }
}

#[test]
fn between_networks_the_smaller_member_counts() {
    let mixed = || {
        let mut tables = tables();
        set_mtu(&mut tables, &WEB, 9_000);
        tables
    };
    each_of(mixed, |mut gateway, v6| {
        let port = 40_003;
        let sent = syn(&WEB, (port, 8_081), own(v6), flags::SYN, Some(8_960));
        let out = gateway.forward(&WEB, sent);
        assert_eq!((out.port, out.destination()), (APP.port, (APP.ip(v6), 80)));
        assert_eq!(announced(&out), Some(if v6 { 1_440 } else { 1_460 }));
    });
}

#[test]
fn a_number_is_the_most_and_off_leaves_everything_alone() {
    let full = [Some(1_460), Some(1_460)];
    each_of(
        || with_clamp(tables(), MssClamp::Bytes(1_200)),
        |mut gateway, v6| {
            assert_eq!(connect_out(&mut gateway, v6, 40_001, full), [Some(1_200); 2]);
        },
    );
    each_of(
        || with_clamp(narrow(), MssClamp::Off),
        |mut gateway, v6| {
            assert_eq!(connect_out(&mut gateway, v6, 40_001, full), full);
        },
    );
}

#[test]
fn an_mtu_that_changes_counts_for_the_next_syn_of_the_same_flow() {
    each_of(tables, |mut gateway, v6| {
        let sent = syn(&WEB, (40_001, 80), FAR.ip(v6), flags::SYN, Some(1_460));
        assert_eq!(announced(&gateway.forward(&WEB, sent.clone())), Some(1_460));
        gateway.change(|tables| {
            set_mtu(tables, &CLIENT, 1_400);
            let port = tables.ports[WAN.index()].as_mut().unwrap();
            Arc::make_mut(port).epoch = tables.generation + 1;
        });
        let again = gateway.forward(&WEB, sent);
        assert_eq!(announced(&again), Some(if v6 { 1_340 } else { 1_360 }));
    });
}

#[test]
fn a_partial_checksum_stays_right() {
    each_of(narrow, |mut gateway, v6| {
        let mut bytes = syn(&WEB, (40_001, 80), FAR.ip(v6), flags::SYN, Some(1_460));
        let start = if v6 { 54 } else { 34 };
        fill_partial_checksum(WEB.ip(v6), FAR.ip(v6), TCP, &mut bytes[start..]);
        let offload = Offload::NeedsChecksum { start: start as u16, offset: 16 };
        let seen = gateway.send_frame(&WEB, WireFrame { bytes, offload });
        assert_eq!(seen.len(), 1);
        assert_eq!(announced(&seen[0]), Some(if v6 { 1_340 } else { 1_360 }));
    });
}

#[test]
fn between_families_the_segment_fits_both_headers() {
    let translated = || {
        let mut tables = narrow();
        let entry = PublishEntry {
            host: Some("::".parse().unwrap()),
            protocol: Protocol::Tcp,
            host_port: 8_090,
            port_count: 1,
            target_port: 80,
            target: WEB.ip(false),
            port: WEB.port,
            network: NetworkId(0),
        };
        let all = [tables.publish.entries(), &[entry]].concat();
        tables.publish = Arc::new(Publish::new(1, all));
        tables
    };
    for worker_count in [1, 2, 4] {
        let mut gateway = Gateway::new(translated(), worker_count);
        let sent = syn(&CLIENT, (40_001, 8_090), own(true), flags::SYN, Some(1_440));
        let out = gateway.forward(&CLIENT, sent);
        let (address, port) = out.source();
        assert_eq!((out.port, address.is_ipv4()), (WEB.port, true));
        // 1,400 on the uplink, where the header is IPv6's.
        assert_eq!(announced(&out), Some(1_340));
        let answer = syn(&WEB, (80, port), address, flags::SYN | flags::ACK, Some(1_460));
        assert_eq!(announced(&gateway.forward(&WEB, answer)), Some(1_340));
    }
}
