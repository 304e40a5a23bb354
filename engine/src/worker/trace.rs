//! Follows live packets: see [`crate::trace`].
//!
//! While nobody traces, a worker has its look-ups and takes the short way; a tracer that is
//! attached has them, and what comes in finds the way through here, so that no packet pays for a
//! tracer that is not there. A packet that is wanted is handled alone: what came before it is sent,
//! the stages are asked, then it goes exactly the way that it would have gone, and what became of
//! it is read from the counters, which have this worker as their only writer, and from what is
//! about to leave. Hard constraint: the output is the same, byte for byte, as without a tracer.
//!
//! A record goes into a bounded ring. When that is full, packets pass unseen and are counted.
//! LIMIT: of a packet that leaves in more than a batch's pieces only the last ones are counted; to
//! be lifted when somebody cuts so many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::Worker;
use super::flows::key_of;
use super::lookup::Lookups;
use crate::counters::{Counters, DropReason};
use crate::explain::Explanation;
use crate::flow::{FlowInput, Path, V4, V6};
use crate::id::{MacAddress, PortId};
use crate::ingress::Class;
use crate::packet::{Batch, Notes, Packet};
use crate::port::PortSet;
use crate::tables::PortKind;
use crate::trace::{Headers, Origin, Record, Sent, TraceFilter};
use crate::wire::protocol;

/// Who looks on at one worker. Made and freed by the control side.
#[derive(Debug)]
pub struct Tracer {
    filter: TraceFilter,
    ring: rtrb::Producer<Record>,
    lost: Arc<AtomicU64>,
    /// Packets of a batch that are handled together.
    batch: Option<Box<Batch>>,
    /// The worker's, while this is attached.
    lookups: Option<Box<Lookups>>,
}

/// The other end of a tracer.
#[derive(Debug)]
pub struct TraceReader {
    ring: rtrb::Consumer<Record>,
    lost: Arc<AtomicU64>,
}

impl TraceReader {
    /// The next record.
    pub fn next_record(&mut self) -> Option<Record> {
        self.ring.pop().ok()
    }

    /// True if the worker has let go of the tracer: nothing more comes.
    pub fn is_over(&self) -> bool {
        self.ring.is_abandoned()
    }

    /// Packets that were wanted and found the ring full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Tracer {
    /// A tracer with room for so many records, and who reads them.
    pub fn new(filter: TraceFilter, record_count: usize) -> (Box<Tracer>, TraceReader) {
        let (ring, records) = rtrb::RingBuffer::new(record_count.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        let reader = TraceReader { ring: records, lost: lost.clone() };
        let batch = Some(Box::new(Batch::new()));
        (Box::new(Tracer { filter, ring, lost, batch, lookups: None }), reader)
    }

    /// The headers, if the packet may be wanted.
    fn wants(&mut self, packet: &Packet) -> Option<Headers> {
        let headers = Headers::read(packet).filter(|headers| self.filter.takes(headers))?;
        let has_ends = self.filter.endpoint.is_some() || self.filter.uplink.is_some();
        if !self.ring.is_full() {
            return Some(headers);
        }
        // Whose it is would cost as much to find out as a record: then it is not counted.
        if !has_ends {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        None
    }
}

/// What is compared before and after a packet.
struct Snapshot {
    hits: u64,
    answers: u64,
    handed_over: u64,
    drops: [u64; DropReason::ALL.len()],
    held: usize,
}

impl Worker {
    /// Has somebody look on. Gives the tracer back if somebody does already.
    ///
    /// # Errors
    /// One looks on already.
    pub fn trace(&mut self, mut tracer: Box<Tracer>) -> Result<(), Box<Tracer>> {
        if self.tracer.is_some() {
            return Err(tracer);
        }
        tracer.lookups = self.lookups.take();
        self.tracer = Some(tracer);
        Ok(())
    }

    /// Nobody looks on any more.
    pub fn untrace(&mut self) -> Option<Box<Tracer>> {
        let mut tracer = self.tracer.take()?;
        self.lookups = tracer.lookups.take();
        Some(tracer)
    }

    /// As [`receive`](Worker::receive), while somebody looks on.
    #[cold]
    pub(super) fn receive_traced(&mut self, id: PortId, ready: &mut PortSet) -> usize {
        let Some(tracer) = self.tracer.as_mut() else { return 0 };
        let (Some(mut some), Some(mut lookups)) = (tracer.batch.take(), tracer.lookups.take())
        else {
            return 0;
        };
        let Some(mut batch) = self.batch.take() else { return 0 };
        self.take_in(id, &mut batch, ready);
        let count = batch.len();
        for packet in batch.drain(..) {
            let Some((packet, headers, explanation)) = self.wanted(id, packet, &mut some) else {
                continue;
            };
            if !some.is_empty() {
                self.carry_batch(id, &mut some, &mut lookups);
            }
            self.follow(headers, explanation, id, Origin::Port, |worker| {
                some.push(packet);
                worker.carry_batch(id, &mut some, &mut lookups);
            });
        }
        if !some.is_empty() {
            self.carry_batch(id, &mut some, &mut lookups);
        }
        self.batch = Some(batch);
        if let Some(tracer) = self.tracer.as_mut() {
            tracer.batch = Some(some);
            tracer.lookups = Some(lookups);
        }
        count
    }

    /// A packet from a port, if it is wanted; else it joins those that are handled together.
    fn wanted(
        &mut self,
        id: PortId,
        mut packet: Packet,
        others: &mut Batch,
    ) -> Option<(Packet, Headers, Option<Explanation>)> {
        let headers = self.tracer.as_mut().and_then(|tracer| tracer.wants(&packet));
        let Some(headers) = headers else {
            others.push(packet);
            return None;
        };
        let rule = self.core.rule(id).copied();
        let input = rule.and_then(|rule| match rule.examine(&mut packet) {
            Ok(Class::Bridged) => {
                let mac = MacAddress(packet.destination());
                Some(FlowInput::bridged(id, rule.network, mac))
            }
            Ok(Class::PlainV4 | Class::PlainV6 | Class::Unusual) => routed_input(&packet),
            _ => None,
        });
        // What comes by a tunnel is opened before anybody is asked about what is in it.
        let input = input.filter(|input| !self.is_tunnelled(input));
        match self.concerned(id, input) {
            Some(explanation) => Some((packet, headers, explanation)),
            None => {
                others.push(packet);
                None
            }
        }
    }

    /// True for the outer packet of a tunnel.
    fn is_tunnelled(&self, input: &FlowInput) -> bool {
        let ports = self.core.tables.ports.iter().flatten();
        input.protocol == protocol::UDP
            && self.core.rule(input.ingress).is_some_and(|rule| rule.tunnels)
            && ports.into_iter().any(|port| match &port.kind {
                PortKind::Tunnel(tunnel) => {
                    (tunnel.local, tunnel.udp_port) == (input.destination, input.destination_port)
                }
                PortKind::Endpoint(_) | PortKind::Uplink(_) | PortKind::Lane(_) => false,
            })
    }

    /// As [`route`](Worker::route), while somebody looks on.
    #[cold]
    pub(super) fn route_traced(&mut self, packet: Packet, hops: u8, origin: Origin) {
        let ingress = packet.meta.ingress;
        let headers = self.tracer.as_mut().and_then(|tracer| tracer.wants(&packet));
        let concerned = headers.and_then(|headers| {
            let input = routed_input(&packet);
            Some((headers, self.concerned(ingress, input)?))
        });
        match concerned {
            Some((headers, explanation)) => {
                self.follow(headers, explanation, ingress, origin, |worker| {
                    worker.route(packet, hops);
                });
            }
            None => self.route(packet, hops),
        }
    }

    /// What the stages say of a packet, if it comes in or goes out where it should. `None`: it is
    /// not wanted.
    fn concerned(
        &mut self,
        ingress: PortId,
        input: Option<FlowInput>,
    ) -> Option<Option<Explanation>> {
        let filter = &self.tracer.as_ref()?.filter;
        let sets = [&filter.endpoint, &filter.uplink];
        let is_in =
            |port: PortId| sets.map(|set| set.as_ref().is_none_or(|set| set.contains(port)));
        let mut touched = is_in(ingress);
        let Some(input) = input else { return (touched == [true; 2]).then_some(None) };
        if touched != [true; 2]
            && let Some(ends) = self.ends_of_flow(&input)
        {
            let found = ends.map(is_in);
            touched = std::array::from_fn(|set| touched[set] || found[0][set] || found[1][set]);
            if touched != [true; 2] {
                return None;
            }
        }
        let explanation = self.explain(&input);
        let filter = &self.tracer.as_ref()?.filter;
        let sets = [&filter.endpoint, &filter.uplink];
        let way = explanation.steps.iter().flat_map(|step| {
            [step.published, step.forward.map(|hop| hop.port())].into_iter().flatten()
        });
        for port in way {
            for (touched, set) in touched.iter_mut().zip(sets) {
                *touched |= set.as_ref().is_some_and(|set| set.contains(port));
            }
        }
        (touched == [true; 2]).then_some(Some(explanation))
    }

    /// Handles one packet alone and keeps what became of it.
    fn follow(
        &mut self,
        packet: Headers,
        explanation: Option<Explanation>,
        ingress: PortId,
        origin: Origin,
        handle: impl FnOnce(&mut Worker),
    ) {
        self.core.egress.flush(&mut self.core.frames, &self.core.counters);
        // What goes on because of it belongs to it, and is not followed apart.
        let Some(mut tracer) = self.tracer.take() else { return handle(self) };
        let before = self.snapshot();
        handle(self);
        let (mut sent, mut sent_count) = (ArrayVec::new(), 0);
        self.core.egress.look(&mut |port, packet| {
            sent_count += 1;
            if let Some(headers) = Headers::read(packet) {
                let _ = sent.try_push(Sent { port, headers });
            }
        });
        self.core.egress.flush(&mut self.core.frames, &self.core.counters);
        let after = self.snapshot();
        let changed = before.drops.iter().zip(&after.drops).zip(DropReason::ALL);
        let drops = changed.filter(|((before, after), _)| before != after);
        let record = Record {
            at: self.core.now,
            worker: self.core.id,
            ingress,
            origin,
            packet,
            explanation,
            is_hit: after.hits > before.hits,
            is_handed_over: after.handed_over > before.handed_over,
            waits: after.held > before.held,
            is_answered: after.answers > before.answers,
            sent,
            sent_count,
            drops: drops.map(|(_, &reason)| reason).take(crate::trace::SENT_MAX).collect(),
        };
        if tracer.ring.push(record).is_err() {
            tracer.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.tracer = Some(tracer);
    }

    fn snapshot(&self) -> Snapshot {
        let counters: &Counters = &self.core.counters;
        let fragments = [self.v4.fragments.held_frames(), self.v6.fragments.held_frames()];
        Snapshot {
            hits: counters.worker.hits.get(),
            answers: counters.worker.answers.get(),
            handed_over: counters.worker.handed_over.get(),
            drops: std::array::from_fn(|index| counters.dropped(DropReason::ALL[index]).get()),
            held: self.core.neighbours.held_frames().0 + fragments[0].0 + fragments[1].0,
        }
    }
}

/// What the stages would be asked about a parsed packet that is routed; `None`: nothing.
fn routed_input(packet: &Packet) -> Option<FlowInput> {
    let notes = packet.meta.notes;
    if notes.any(Notes::LATER_FRAGMENT | Notes::ICMP_ERROR) {
        return None;
    }
    let network = packet.meta.network;
    let input = match notes.any(Notes::V6) {
        true => key_of::<V6>(packet)?.input::<V6>(network),
        false => key_of::<V4>(packet)?.input::<V4>(network),
    };
    debug_assert_eq!(input.path, Path::Routed);
    Some(input)
}
