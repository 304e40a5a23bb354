//! What a worker shows of its tables, piece by piece.

use std::time::Duration;

use engine::sim::WireFrame;
use engine::worker::{FlowFilter, FlowView, NeighbourState, PLACES_PER_PIECE};
use engine::{MacAddress, PortSet, Worker};

use crate::common::*;
use crate::gateway::{Gateway, each};

/// All flows that a filter takes, found in pieces of so many.
fn walk(workers: &[Worker], filter: &FlowFilter, piece_len: usize) -> Vec<FlowView> {
    let mut all = Vec::new();
    for worker in workers {
        let mut next = Some(0);
        while let Some(from) = next {
            let mut piece = Vec::with_capacity(piece_len);
            next = worker.view_flows(from, filter, &mut piece);
            assert!(piece.len() <= piece_len && piece.capacity() == piece_len);
            assert!(next.is_none_or(|next| next > from), "a walk goes on");
            all.extend(piece);
        }
    }
    all
}

/// Flows of web, in both families and protocols.
fn busy(gateway: &mut Gateway) {
    for v6 in [false, true] {
        for source_port in 40_000..40_030 {
            gateway.forward(&WEB, udp(&WEB, source_port, (FAR.ip(v6), 53)));
        }
        gateway.forward(&APP, tcp(&APP, 50_000, (FAR.ip(v6), 80), 2));
    }
}

#[test]
fn a_walk_in_pieces_of_any_length_sees_every_flow_once() {
    each(|mut gateway, _| {
        busy(&mut gateway);
        for piece_len in [1, 7, 512] {
            let flows = walk(&gateway.workers, &FlowFilter::default(), piece_len);
            let mut inputs: Vec<String> =
                flows.iter().map(|flow| format!("{:?}", flow.input)).collect();
            inputs.sort_unstable();
            inputs.dedup();
            assert_eq!((inputs.len(), flows.len()), (62, 62));
        }
    });
}

#[test]
fn a_filter_takes_flows_by_port_protocol_and_any_of_their_addresses() {
    each(|mut gateway, v6| {
        busy(&mut gateway);
        let count = |filter: FlowFilter| walk(&gateway.workers, &filter, 16).len();
        let mut ports = PortSet::default();
        ports.insert(APP.port);
        assert_eq!(count(FlowFilter { ports: Some(ports), ..FlowFilter::default() }), 2);
        assert_eq!(count(FlowFilter { protocol: Some(17), ..FlowFilter::default() }), 60);
        let by = |address| FlowFilter { address: Some(address), ..FlowFilter::default() };
        assert_eq!(count(by(FAR.ip(v6))), 31);
        assert_eq!(count(by(own(v6))), 31, "the address that they leave with");
        assert_eq!(count(by(DB.ip(v6))), 0);
        let none = FlowFilter { protocol: Some(6), ..by(WEB.ip(v6)) };
        assert_eq!(count(none), 0);
    });
}

#[test]
fn a_flow_shows_its_age_and_how_long_it_was_idle() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        gateway.pass(Duration::from_secs(30));
        gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        gateway.pass(Duration::from_secs(20));
        let flow = gateway.flows()[0];
        // The engine's clock ticks every 1.05 ms.
        let seconds = |duration: Duration| duration.as_secs_f64().round();
        assert_eq!((seconds(flow.age), seconds(flow.idle)), (50.0, 20.0));
        assert_eq!(flow.timeout, Duration::from_secs(300));
        assert_eq!((flow.packets, flow.reply_ingress), ((2, 0), WAN));
    });
}

#[test]
fn workers_show_a_station_at_the_same_position() {
    each(|mut gateway, _| {
        for number in 0..20 {
            let station = MacAddress(0x0600_0000_0000 + number);
            gateway.send_any(&VM, WireFrame::whole(strange(station, WEB.mac)));
        }
        let (mut from, mut found) = (0, 0);
        loop {
            let pieces: Vec<_> = gateway
                .workers
                .iter()
                .map(|worker| {
                    let mut piece = Vec::with_capacity(PLACES_PER_PIECE as usize);
                    let next = worker.view_stations(from, &mut piece);
                    piece.sort_by_key(|station| station.mac);
                    (next, piece)
                })
                .collect();
            assert!(pieces.windows(2).all(|pair| pair[0] == pair[1]), "{pieces:?}");
            assert!(pieces[0].1.iter().all(|station| station.port == VM.port));
            found += pieces[0].1.len();
            match pieces[0].0 {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(found, 20);
    });
}

#[test]
fn neighbours_are_shown_with_their_state_and_what_waits_for_them() {
    each(|mut gateway, v6| {
        gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        gateway.neighbours.clear();
        gateway.send(&WEB, udp(&WEB, 40_000, (CLIENT.ip(v6), 53)));
        let mut all = Vec::new();
        for worker in &gateway.workers {
            let mut from = Some(0);
            while let Some(position) = from {
                let mut piece = Vec::with_capacity(8);
                from = worker.view_neighbours(position, &mut piece);
                all.extend(piece);
            }
        }
        let of = |host: &Host| {
            let found = all.iter().filter(|neighbour| neighbour.address == host.ip(v6));
            found.max_by_key(|neighbour| neighbour.users).unwrap()
        };
        let (router, client) = (of(&ROUTER), of(&CLIENT));
        assert_eq!((router.state, router.mac), (NeighbourState::Reachable, Some(ROUTER.mac)));
        assert_eq!((router.port, router.users > 0), (WAN, true));
        assert_eq!((client.state, client.mac), (NeighbourState::Incomplete, None));
        assert_eq!(client.held, 1);
    });
}

#[test]
fn a_piece_allocates_nothing_and_positions_from_nowhere_end_the_walk() {
    each(|mut gateway, _| {
        busy(&mut gateway);
        let worker = &gateway.workers[0];
        let (mut flows, mut stations, mut neighbours) =
            (Vec::with_capacity(4), Vec::with_capacity(1_024), Vec::with_capacity(4));
        let measured = allocation_counter::measure(|| {
            worker.view_flows(0, &FlowFilter::default(), &mut flows);
            worker.view_stations(0, &mut stations);
            worker.view_neighbours(0, &mut neighbours);
        });
        assert_eq!(measured.count_total, 0);
        for position in [100_000, u32::MAX] {
            flows.clear();
            assert_eq!(worker.view_flows(position, &FlowFilter::default(), &mut flows), None);
            assert_eq!(worker.view_stations(position, &mut stations), None);
            assert_eq!(worker.view_neighbours(position, &mut neighbours), None);
            assert!(flows.is_empty());
        }
    });
}
