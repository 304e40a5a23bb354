//! Rings between workers: packets that belong to another worker, and facts that one has learnt.
//!
//! Every ordered pair of workers has one bounded ring with one producer and one consumer. A full
//! ring drops the packet and counts it; it never blocks. Order from one worker to another is kept.
//!
//! Messages cross in chunks: what a batch hands over is gathered here and goes with one store of
//! the ring's position, which costs both workers a cache line each time. The hard constraint: who
//! is accepted has its place in the ring; `flush` refuses nobody, and
//! comes before the worker waits.

use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;

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
    /// Packets to a destination may not be larger than this: an ICMP error says so.
    PathMtu {
        /// The network that the destination is in; `NONE`: it is outside.
        network: NetworkId,
        /// The destination, or the far end of a tunnel.
        destination: IpAddr,
        /// In bytes, IP header included.
        mtu: u16,
    },
    /// A port is in a multicast group, or leaves it.
    Group {
        /// In this network.
        network: NetworkId,
        /// The group's MAC address, or what stands for a querier or a router.
        group: MacAddress,
        /// The port.
        port: PortId,
        /// For how long, if nothing more is heard.
        lifetime: Duration,
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

/// Messages that cross together at most. As many as a batch has packets: fewer would send a batch
/// in pieces, more would only make the first ones wait.
pub(crate) const CHUNK_LEN: usize = crate::packet::BATCH_LEN;

/// Messages that have crossed together.
pub(crate) type Chunk = ArrayVec<Message, CHUNK_LEN>;

/// One worker's ends of all rings.
#[derive(Debug)]
pub struct HandOverRings {
    to: Vec<Option<Outgoing>>,
    from: Vec<Option<rtrb::Consumer<Message>>>,
    /// Workers that something is gathered for, one bit each.
    gathered: u64,
}

/// The way to one worker.
#[derive(Debug)]
struct Outgoing {
    ring: rtrb::Producer<Message>,
    /// Accepted, but not in the ring yet.
    chunk: Chunk,
    /// Places that are free in the ring at least; only its consumer makes more of them.
    free: usize,
}

impl Outgoing {
    fn send(&mut self, message: Message) -> Result<(), Message> {
        if self.chunk.is_full() {
            self.flush();
        }
        if self.chunk.len() >= self.free {
            self.free = self.ring.slots();
            if self.chunk.len() >= self.free {
                return Err(message);
            }
        }
        self.chunk.push(message);
        Ok(())
    }

    fn flush(&mut self) {
        let count = self.chunk.len();
        let places = self.ring.write_chunk_uninit(count).expect("there is room for who was taken");
        places.fill_from_iter(self.chunk.drain(..));
        self.free -= count;
    }
}

impl HandOverRings {
    /// The ends of every worker, in the order of their ids, with rings of `capacity` messages.
    pub fn mesh(worker_count: usize, capacity: usize) -> Vec<HandOverRings> {
        let mut ends: Vec<HandOverRings> = (0..worker_count)
            .map(|_| HandOverRings {
                to: (0..worker_count).map(|_| None).collect(),
                from: (0..worker_count).map(|_| None).collect(),
                gathered: 0,
            })
            .collect();
        for producer in 0..worker_count {
            for consumer in (0..worker_count).filter(|&consumer| consumer != producer) {
                let (ring, from) = rtrb::RingBuffer::new(capacity.max(1));
                let to = Outgoing { ring, chunk: Chunk::new(), free: 0 };
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

    /// Hands a message over, with the next [`flush`](HandOverRings::flush) at the latest; gives it
    /// back when the ring is full or there is no such worker.
    pub(crate) fn send(&mut self, to: WorkerId, message: Message) -> Result<(), Message> {
        let Some(Some(outgoing)) = self.to.get_mut(to.index()) else { return Err(message) };
        outgoing.send(message)?;
        self.gathered |= 1 << to.index();
        Ok(())
    }

    /// Lets everybody have what was gathered for them.
    pub(crate) fn flush(&mut self) {
        while self.gathered != 0 {
            let index = self.gathered.trailing_zeros() as usize;
            self.gathered &= self.gathered - 1;
            if let Some(Some(outgoing)) = self.to.get_mut(index) {
                outgoing.flush();
            }
        }
    }

    /// Takes the next messages from a worker's ring, behind those in `chunk`.
    pub(crate) fn receive(&mut self, from: WorkerId, chunk: &mut Chunk) {
        let Some(Some(ring)) = self.from.get_mut(from.index()) else { return };
        let count = ring.slots().min(chunk.remaining_capacity());
        if let Ok(messages) = ring.read_chunk(count) {
            chunk.extend(messages);
        }
    }

    /// True if anything waits to be received.
    pub fn waiting(&self) -> bool {
        self.from.iter().flatten().any(|ring| !ring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(number: u16) -> Message {
        let address = IpAddr::from([0, 0, 0, 1]);
        Message::Neighbour { port: PortId(number), address, mac: MacAddress::BROADCAST }
    }

    fn numbers(chunk: &mut Chunk) -> Vec<u16> {
        let number = |message| match message {
            Message::Neighbour { port, .. } => port.0,
            other => panic!("{other:?} was not sent"),
        };
        chunk.drain(..).map(number).collect()
    }

    /// All that waits at the second worker from the first.
    fn receive(rings: &mut HandOverRings) -> Vec<u16> {
        let (mut all, mut chunk) = (Vec::new(), Chunk::new());
        loop {
            rings.receive(WorkerId(0), &mut chunk);
            if chunk.is_empty() {
                return all;
            }
            all.extend(numbers(&mut chunk));
        }
    }

    #[test]
    fn messages_cross_in_their_order_when_they_are_flushed() {
        let [mut one, mut other] =
            <[HandOverRings; 2]>::try_from(HandOverRings::mesh(2, 16)).unwrap();
        for number in 0..5 {
            one.send(WorkerId(1), neighbour(number)).unwrap();
        }
        assert!(!other.waiting());
        one.flush();
        assert!(other.waiting());
        assert_eq!(receive(&mut other), [0, 1, 2, 3, 4]);
        assert!(!other.waiting() && !one.waiting());
        one.flush();
        assert!(!other.waiting(), "nothing crosses twice");
    }

    #[test]
    fn a_ring_takes_as_many_as_it_has_places_and_no_more_in_whatever_pieces() {
        for capacity in [1, 2, 63, 64, 65, 200, 1_024] {
            let [mut one, mut other] =
                <[HandOverRings; 2]>::try_from(HandOverRings::mesh(2, capacity)).unwrap();
            for flush_every in [1, 3, 64, 5_000] {
                let mut sent = Vec::new();
                for number in 0..2_000 {
                    match one.send(WorkerId(1), neighbour(number)) {
                        Ok(()) => sent.push(number),
                        Err(back) => assert!(matches!(back, Message::Neighbour { .. })),
                    }
                    if number % flush_every == 0 {
                        one.flush();
                    }
                }
                one.flush();
                assert_eq!(sent.len(), capacity, "every {flush_every}");
                assert_eq!(receive(&mut other), sent);
            }
        }
    }

    #[test]
    fn nobody_sends_to_itself_or_to_a_worker_that_is_not_there() {
        let mut rings = HandOverRings::mesh(2, 4).remove(0);
        assert!(rings.send(WorkerId(0), neighbour(1)).is_err());
        assert!(rings.send(WorkerId(2), neighbour(1)).is_err());
        assert!(HandOverRings::mesh(1, 4).remove(0).send(WorkerId(0), neighbour(1)).is_err());
    }
}
