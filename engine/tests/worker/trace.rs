//! What is recorded of a live packet is what became of it, and looking on changes nothing.

use std::sync::Arc;
use std::time::Duration;

use engine::explain::Outcome;
use engine::limits::Filtering;
use engine::sim::frames::{UDP, flags};
use engine::trace::{Origin, Record, TraceFilter};
use engine::worker::{TraceReader, Tracer};
use engine::{DropReason, PortId, PortSet};

use crate::common::*;
use crate::gateway::{Gateway, Seen, each, each_of};

/// Every worker has somebody look on.
struct Watch(Vec<TraceReader>);

fn watch(gateway: &mut Gateway, filter: &TraceFilter, record_count: usize) -> Watch {
    let attach = |worker: &mut engine::Worker| {
        let (tracer, reader) = Tracer::new(filter.clone(), record_count);
        worker.trace(tracer).unwrap();
        reader
    };
    Watch(gateway.workers.iter_mut().map(attach).collect())
}

impl Watch {
    fn take(&mut self) -> Vec<Record> {
        let readers = self.0.iter_mut();
        readers.flat_map(|reader| std::iter::from_fn(|| reader.next_record())).collect()
    }

    /// The record of who carried the packet to its end, and no other but of its hand-over.
    fn last(&mut self) -> Record {
        let mut all = self.take();
        all.retain(|record| !record.is_handed_over);
        assert_eq!(all.len(), 1, "{all:?}");
        all.pop().unwrap()
    }
}

fn everything() -> TraceFilter {
    TraceFilter::default()
}

fn ports(ports: &[PortId]) -> Option<PortSet> {
    let mut set = PortSet::new(8);
    ports.iter().for_each(|&port| set.insert(port));
    Some(set)
}

/// The record shows what was seen.
fn shows(record: &Record, seen: &Seen) {
    assert_eq!((record.sent_count, record.sent.len()), (1, 1), "{record:?}");
    let sent = &record.sent[0];
    let ip = sent.headers.ip.unwrap();
    assert_eq!((sent.port, sent.headers.destination_mac), (seen.port, seen.mac()));
    assert_eq!((ip.source, ip.destination), (seen.ip().source, seen.ip().destination));
    assert_eq!(sent.headers.bytes as usize, seen.frame.bytes.len());
    assert!(record.drops.is_empty() && !record.waits, "{record:?}");
}

#[test]
fn a_flow_through_masquerade_is_followed_there_and_back() {
    each(|mut gateway, v6| {
        let to = (FAR.ip(v6), 53);
        gateway.forward(&DB, udp(&DB, 40_009, to));
        let mut watch = watch(&mut gateway, &everything(), 64);
        let out = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        let record = watch.last();
        shows(&record, &out);
        assert!(!record.is_hit && !record.is_answered);
        let packet = record.packet.ip.unwrap();
        assert_eq!((packet.source, packet.ports), (WEB.ip(v6), Some((40_001, 53))));
        let explanation = record.explanation.unwrap();
        assert_eq!(explanation.outcome, Outcome::Forward);
        let last = explanation.steps.last().unwrap();
        assert_eq!((last.stage, last.source), ("mtu", out.source()));

        let back = gateway.forward(&FAR, udp(&FAR, 53, out.source()));
        let record = watch.last();
        shows(&record, &back);
        assert!(record.explanation.unwrap().is_reply);
        let again = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        let record = watch.last();
        shows(&record, &again);
        assert!(record.explanation.unwrap().known.is_some());
        // A worker that owns the flow repeats the decision.
        assert!(record.is_hit || record.origin == Origin::HandedOver);
    });
}

#[test]
fn a_drop_is_recorded_with_its_reason_and_its_answer() {
    each(|mut gateway, v6| {
        let mut watch = watch(&mut gateway, &everything(), 64);
        let bytes = udp(&FAR, 999, (WEB.ip(v6), 80));
        gateway.refuse(&FAR, bytes, DropReason::Unpublished);
        let record = watch.last();
        assert_eq!((&record.drops[..], record.sent_count), (&[DropReason::Unpublished][..], 0));
        assert_eq!(record.explanation.unwrap().outcome, Outcome::Drop(DropReason::Unpublished));
        let answer = gateway.forward(&WEB, tcp(&WEB, 999, (own(v6), 81), flags::SYN));
        let record = watch.last();
        assert_eq!(&record.drops[..], [DropReason::ClosedPort]);
        assert!(record.is_answered);
        assert_eq!(record.sent[0].port, answer.port);
        // What is forged is asked nobody about.
        let mut forged = udp(&WEB, 999, (FAR.ip(v6), 80));
        forged[11] ^= 1;
        gateway.refuse(&WEB, forged, DropReason::SpoofedMac);
        let record = watch.last();
        assert_eq!(&record.drops[..], [DropReason::SpoofedMac]);
        assert!(record.explanation.is_none());
    });
}

#[test]
fn a_frame_inside_a_network_is_followed_too() {
    each(|mut gateway, v6| {
        let mut watch = watch(&mut gateway, &everything(), 64);
        let seen = gateway.forward(&WEB, bridged(&WEB, &DB, v6));
        shows(&watch.last(), &seen);
    });
}

#[test]
fn a_packet_that_waits_has_a_record_when_it_comes_and_when_it_goes_on() {
    each(|mut gateway, v6| {
        gateway.neighbours.clear();
        let to = (FAR.ip(v6), 53);
        let filter = TraceFilter { protocols: vec![UDP], ..everything() };
        let mut watch = watch(&mut gateway, &filter, 64);
        assert!(gateway.send(&WEB, udp(&WEB, 40_001, to)).is_empty());
        assert!(watch.last().waits);
        let seen = gateway.send(&ROUTER, i_have(&ROUTER, ROUTER.ip(v6), own(v6)));
        let record = watch.last();
        assert_eq!(record.origin, Origin::Waited);
        shows(&record, &seen[0]);
    });
}

#[test]
fn of_an_endpoint_both_directions_are_wanted_and_nothing_else() {
    each(|mut gateway, v6| {
        let filter = TraceFilter {
            endpoint: ports(&[WEB.port]),
            uplink: ports(&[WAN]),
            protocols: vec![UDP],
            ..everything()
        };
        let mut watch = watch(&mut gateway, &filter, 64);
        let to = (FAR.ip(v6), 53);
        let others = gateway.send(&DB, udp(&DB, 40_009, to));
        assert!(others.len() == 1 && watch.take().is_empty(), "that is another's");
        let out = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        shows(&watch.last(), &out);
        let back = gateway.forward(&FAR, udp(&FAR, 53, out.source()));
        shows(&watch.last(), &back);
        gateway.forward(&FAR, udp(&FAR, 53, others[0].source()));
        assert!(watch.take().is_empty());
        let published = gateway.forward(&FAR, udp(&FAR, 999, (own(v6), 5_300)));
        shows(&watch.last(), &published);
        gateway.refuse(&FAR, udp(&FAR, 9, (WEB.ip(v6), 9)), DropReason::Unpublished);
        assert_eq!(&watch.last().drops[..], [DropReason::Unpublished], "it was for web");
        gateway.refuse(&FAR, udp(&FAR, 9, (DB.ip(v6), 9)), DropReason::Unpublished);
        assert!(watch.take().is_empty(), "it was for db");
    });
}

#[test]
fn what_finds_the_ring_full_passes_and_is_counted() {
    each(|mut gateway, v6| {
        let mut watch = watch(&mut gateway, &everything(), 2);
        let to = (FAR.ip(v6), 53);
        gateway.forward(&WEB, udp(&WEB, 40_001, to));
        for _ in 0..40 {
            gateway.forward(&WEB, udp(&WEB, 40_001, to));
        }
        let lost: u64 = watch.0.iter().map(TraceReader::lost).sum();
        assert!(lost >= 20, "{lost}");
        assert!(watch.take().len() <= 2 * gateway.workers.len());
        // There is room again.
        let seen = gateway.forward(&WEB, udp(&WEB, 40_001, to));
        shows(&watch.last(), &seen);
    });
}

/// A mix of everything: what comes, and what left.
fn everything_that_left(gateway: &mut Gateway, v6: bool) -> Vec<Seen> {
    let mut all = Vec::new();
    let to = (FAR.ip(v6), 53);
    for round in 0..3_u16 {
        for port in 40_000..40_010 {
            all.extend(gateway.send(&WEB, udp(&WEB, port, to)));
            all.extend(gateway.send(&DB, tcp(&DB, port, (FAR.ip(v6), 80), flags::SYN)));
            all.extend(gateway.send(&FAR, udp(&FAR, port, (own(v6), 5_300))));
            all.extend(gateway.send(&APP, udp(&APP, port, (own(v6), 5_300))));
            all.extend(gateway.send(&FAR, udp(&FAR, port, (WEB.ip(v6), 80 + round))));
            all.extend(gateway.send(&DB, udp(&DB, port, (own(v6), 40_000))));
            all.extend(gateway.send(&WEB, tcp(&WEB, port, (own(v6), 9), flags::SYN)));
        }
        all.extend(gateway.pass(Duration::from_secs(20)));
    }
    all
}

#[test]
fn with_and_without_a_tracer_every_output_byte_is_the_same() {
    let open = || {
        let mut tables = tables();
        Arc::make_mut(&mut tables.nat).filtering = Filtering::Endpoint;
        tables
    };
    for worker_count in [1, 2, 4] {
        for v6 in [false, true] {
            let mut plain = Gateway::new(open(), worker_count);
            let expected = everything_that_left(&mut plain, v6);
            for filter in [
                everything(),
                TraceFilter { endpoint: ports(&[WEB.port]), ..everything() },
                TraceFilter { protocols: vec![6], ..everything() },
            ] {
                let mut traced = Gateway::new(open(), worker_count);
                let mut watch = watch(&mut traced, &filter, 1_024);
                let seen = everything_that_left(&mut traced, v6);
                assert!(seen == expected, "{worker_count} workers, {filter:?}");
                assert_eq!(traced.drops(), plain.drops());
                assert!(!watch.take().is_empty());
            }
        }
    }
}

#[test]
fn who_looks_on_is_one_and_goes_without_a_trace() {
    each_of(tables, |mut gateway, v6| {
        drop(watch(&mut gateway, &everything(), 8));
        for worker in &mut gateway.workers {
            let (second, _reader) = Tracer::new(everything(), 8);
            assert!(worker.trace(second).is_err(), "one looks on already");
        }
        // Its reader has gone: packets go on.
        gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
        for worker in &mut gateway.workers {
            assert!(worker.untrace().is_some() && worker.untrace().is_none());
        }
        gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
        let mut watch = watch(&mut gateway, &everything(), 8);
        let seen = gateway.forward(&WEB, udp(&WEB, 40_001, (FAR.ip(v6), 53)));
        shows(&watch.last(), &seen);
    });
}
