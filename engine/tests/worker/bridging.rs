//! Frames inside one network: members, stations that are learnt, floods.

use std::time::Duration;

use engine::sim::WireFrame;
use engine::{DropReason, MacAddress, PortId, Tables};

use crate::common::*;
use crate::gateway::{Gateway, each, each_of};

/// Stations that one learning port may have.
const SHARE: u32 = 8;

fn station(number: u64) -> MacAddress {
    MacAddress(0x0600_0000_0000 + number)
}

/// Ports by which a frame leaves, in order.
fn ports(gateway: &mut Gateway, from: &Host, bytes: Vec<u8>) -> Vec<PortId> {
    let seen = gateway.send_any(from, WireFrame::whole(bytes));
    let mut ports: Vec<PortId> = seen.iter().map(|seen| seen.port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_frame_to_a_member_reaches_it_alone_and_unchanged() {
    each(|mut gateway, v6| {
        let frame = bridged(&WEB, &DB, v6);
        for _ in 0..3 {
            let seen = gateway.forward(&WEB, frame.clone());
            assert_eq!((seen.port, &seen.frame.bytes), (DB.port, &frame));
        }
    });
}

#[test]
fn a_broadcast_reaches_every_other_member_of_its_network() {
    each(|mut gateway, _| {
        let everybody = strange(WEB.mac, MacAddress::BROADCAST);
        assert_eq!(ports(&mut gateway, &WEB, everybody), [DB.port, VM.port, FARM.port]);
        let alone = strange(APP.mac, MacAddress::BROADCAST);
        assert!(ports(&mut gateway, &APP, alone).is_empty());
        assert_eq!(gateway.dropped(DropReason::NoReceiver), 1);
    });
}

#[test]
fn a_station_is_learnt_and_followed_to_another_port() {
    each(|mut gateway, _| {
        let (mover, to_mover) = (station(1), strange(WEB.mac, station(1)));
        let unknown = [DB.port, VM.port, FARM.port];
        assert_eq!(ports(&mut gateway, &WEB, to_mover.clone()), unknown);
        for place in [VM, FARM, VM] {
            gateway.send_any(&place, WireFrame::whole(strange(mover, WEB.mac)));
            for _ in 0..4 {
                assert_eq!(ports(&mut gateway, &WEB, to_mover.clone()), [place.port]);
            }
        }
        // An aged station is forgotten by a sweep that needs a few seconds for the whole table.
        gateway.pass(Duration::from_secs(310));
        assert_eq!(ports(&mut gateway, &WEB, to_mover), unknown);
    });
}

fn small_shares() -> Tables {
    let mut tables = tables();
    std::sync::Arc::make_mut(&mut tables.limits).fdb_per_port = SHARE;
    tables
}

#[test]
fn a_flood_of_addresses_from_one_port_takes_its_share_and_no_more() {
    each_of(small_shares, |mut gateway, _| {
        for number in 0..100 {
            gateway.send_any(&VM, WireFrame::whole(strange(station(number), WEB.mac)));
        }
        gateway.pass(Duration::from_secs(1));
        // Every worker knows them, and the member that was sent to.
        let count = gateway.workers.len() as u64;
        let known = gateway.sum(|counters| counters.worker.stations.get());
        assert!(known <= count * (u64::from(SHARE) + 1), "{known}");
        assert!(gateway.sum(|counters| counters.worker.fdb_share_full.get()) >= 100 - 8 * count);
        // Another port still learns.
        let (mover, to_mover) = (station(1_000), strange(WEB.mac, station(1_000)));
        gateway.send_any(&FARM, WireFrame::whole(strange(mover, WEB.mac)));
        assert_eq!(ports(&mut gateway, &WEB, to_mover), [FARM.port]);
    });
}

#[test]
fn a_member_cannot_be_learnt_away() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, bridged(&WEB, &DB, v6));
        let thief = Host { mac: DB.mac, ..VM };
        for _ in 0..4 {
            gateway.send_any(&VM, WireFrame::whole(strange(thief.mac, WEB.mac)));
            assert_eq!(ports(&mut gateway, &WEB, bridged(&WEB, &DB, v6)), [DB.port]);
        }
    });
}

#[test]
fn floods_are_limited_per_port() {
    let few = || {
        let mut tables = tables();
        std::sync::Arc::make_mut(&mut tables.limits).floods_per_second = 5;
        tables
    };
    each_of(few, |mut gateway, _| {
        let count = gateway.workers.len() as u64;
        let storm = 20 * count;
        for _ in 0..storm {
            ports(&mut gateway, &WEB, strange(WEB.mac, MacAddress::BROADCAST));
        }
        let dropped = gateway.dropped(DropReason::FloodLimited);
        assert!(dropped >= storm - 5 * count && dropped < storm, "{dropped}");
        let everybody = strange(DB.mac, MacAddress::BROADCAST);
        assert_eq!(ports(&mut gateway, &DB, everybody).len(), 3);
    });
}

#[test]
fn a_frame_too_large_for_the_other_side_is_dropped() {
    let narrow = || {
        let mut tables = tables();
        let port = tables.ports[DB.port.index()].as_mut().unwrap();
        std::sync::Arc::make_mut(port).mtu = 60;
        tables
    };
    each_of(narrow, |mut gateway, _| {
        let frame = |payload_bytes: usize| {
            let mut frame = strange(WEB.mac, DB.mac);
            frame.resize(14 + payload_bytes, 0);
            frame
        };
        assert_eq!(ports(&mut gateway, &WEB, frame(60)), [DB.port]);
        gateway.refuse(&WEB, frame(61), DropReason::TooBig);
    });
}
