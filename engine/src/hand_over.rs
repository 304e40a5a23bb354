//! Rings between workers: packets that belong to another worker, and facts that one has learnt.
//!
//! Every ordered pair of workers has one bounded ring with one producer and one consumer. A full
//! ring drops the packet and counts it; it never blocks. Order from one worker to another is kept.

use std::net::IpAddr;

use crate::id::{MacAddress, NetworkId, PortId, WorkerId};
use crate::packet::Packet;

/// One thing handed from one worker to another.
#[derive(Debug)]
pub enum Message {
    /// A packet that belongs there, and how often it was handed over.
    Packet(Packet, u8),
    /// A station was seen behind a port.
    Station {
        /// In this network.
        network: NetworkId,
        /// With this MAC address.
        mac: MacAddress,
        /// Behind this port.
        port: PortId,
    },
    /// A neighbour's MAC address was confirmed.
    Neighbour {
        /// On this port.
        port: PortId,
        /// With this address.
        address: IpAddr,
        /// At this MAC address.
        mac: MacAddress,
    },
}

/// One worker's ends of all rings.
#[derive(Debug)]
pub struct HandOverRings {
    to: Vec<Option<rtrb::Producer<Message>>>,
    from: Vec<Option<rtrb::Consumer<Message>>>,
}

impl HandOverRings {
    /// The ends of every worker, in the order of their ids, with rings of `capacity` messages.
    pub fn mesh(worker_count: usize, capacity: usize) -> Vec<HandOverRings> {
        let mut ends: Vec<HandOverRings> = (0..worker_count)
            .map(|_| HandOverRings {
                to: (0..worker_count).map(|_| None).collect(),
                from: (0..worker_count).map(|_| None).collect(),
            })
            .collect();
        for producer in 0..worker_count {
            for consumer in (0..worker_count).filter(|&consumer| consumer != producer) {
                let (to, from) = rtrb::RingBuffer::new(capacity.max(1));
                ends[producer].to[consumer] = Some(to);
                ends[consumer].from[producer] = Some(from);
            }
        }
        ends
    }

    /// How many workers there are, this one included.
    pub fn worker_count(&self) -> usize {
        self.to.len()
    }

    /// Hands a message over; gives it back when the ring is full or there is no such worker.
    pub fn send(&mut self, to: WorkerId, message: Message) -> Result<(), Message> {
        match self.to.get_mut(to.index()) {
            Some(Some(ring)) => ring.push(message).map_err(|rtrb::PushError::Full(back)| back),
            _ => Err(message),
        }
    }

    /// Takes the next message from a worker's ring.
    pub fn receive(&mut self, from: WorkerId) -> Option<Message> {
        self.from.get_mut(from.index())?.as_mut()?.pop().ok()
    }

    /// True if anything waits.
    pub fn waiting(&self) -> bool {
        self.from.iter().flatten().any(|ring| !ring.is_empty())
    }
}
