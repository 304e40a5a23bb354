//! A gateway whose surroundings are a test: it takes frames one by one and shows what leaves.
//!
//! Frames arrive at the workers in turn, so that with more than one worker both directions of a
//! flow arrive everywhere. Neighbours on the uplink answer by themselves unless they are made
//! silent. After every step each frame is somewhere, and each packet that leaves has right lengths
//! and checksums.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMPV6, Neighbour, TcpHeader, be16, mac_at,
};
use engine::sim::{MemoryWire, WireFrame};
use engine::tables::PortKind;
use engine::worker::{Event, FlowView, WorkerParts};
use engine::{
    Caps, Counters, DropReason, Instant, MacAddress, PortId, PortSet, Tables, Worker, WorkerId,
};

use crate::common::{CLIENT, Host, ROUTER, WAN, i_have, own, tables};

/// Frames of each worker. The memory of all gateways of a run adds up: frames are never freed.
const FRAME_COUNT: (usize, usize) = (1_024, 16);
/// Time that passes in larger steps.
const LONG: Duration = Duration::from_secs(60);
/// Turns until nothing may be left to do.
const TURNS_MAX: usize = 1_000;

/// A frame that left the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// By which port.
    pub(crate) port: PortId,
    /// What.
    pub(crate) frame: WireFrame,
}

impl Seen {
    pub(crate) fn mac(&self) -> MacAddress {
        mac_at(&self.frame.bytes, 0)
    }

    fn ethertype(&self) -> u16 {
        be16(&self.frame.bytes, 12)
    }

    /// The IP packet in it.
    pub(crate) fn ip(&self) -> Datagram<'_> {
        Datagram::parse(&self.frame.bytes[14..]).unwrap()
    }

    fn socket(&self, address: IpAddr, at: usize) -> (IpAddr, u16) {
        (address, be16(self.ip().payload, at))
    }

    /// Source address and port.
    pub(crate) fn source(&self) -> (IpAddr, u16) {
        self.socket(self.ip().source, 0)
    }

    /// Destination address and port.
    pub(crate) fn destination(&self) -> (IpAddr, u16) {
        self.socket(self.ip().destination, 2)
    }

    /// Flags of the TCP segment in it.
    pub(crate) fn tcp_flags(&self) -> u8 {
        TcpHeader::parse(self.ip().payload).unwrap().0.flags
    }

    /// Type and code of the ICMP or ICMPv6 message in it.
    pub(crate) fn icmp(&self) -> (u8, u8) {
        assert!(matches!(self.ip().protocol, 1 | 58), "not ICMP: {self:?}");
        (self.ip().payload[0], self.ip().payload[1])
    }

    /// Whose MAC address it says unasked: the address, and the MAC address.
    pub(crate) fn announces(&self) -> Option<(IpAddr, MacAddress)> {
        if self.ethertype() == ETHERTYPE_ARP {
            let arp = Arp::parse(&self.frame.bytes[14..]).unwrap();
            return (arp.sender == arp.target).then(|| (arp.sender.into(), arp.sender_mac));
        }
        let message = self.discovery().filter(|message| message.kind == 136)?;
        Some((message.target.into(), mac_at(&self.frame.bytes, 6)))
    }

    /// True for an IP packet that is not neighbour discovery.
    fn is_traffic(&self) -> bool {
        self.ethertype() != ETHERTYPE_ARP && self.discovery().is_none()
    }

    fn discovery(&self) -> Option<Neighbour> {
        let is_icmp = self.ethertype() == ETHERTYPE_IPV6 && self.ip().protocol == ICMPV6;
        is_icmp.then(|| Neighbour::parse(self.ip().payload)).flatten()
    }

    /// The address that it asks for, by ARP or neighbour discovery.
    pub(crate) fn asks_for(&self) -> Option<IpAddr> {
        if self.ethertype() == ETHERTYPE_ARP {
            let arp = Arp::parse(&self.frame.bytes[14..]).unwrap();
            return (arp.operation == 1 && arp.sender != arp.target).then(|| arp.target.into());
        }
        self.discovery().filter(|message| message.kind == 135).map(|asks| asks.target.into())
    }

    fn check(&self) {
        if matches!(self.ethertype(), ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
            assert!(self.ip().checksum_is_right(self.frame.offload), "checksum of {self:?}");
        }
    }
}

/// What the tests are about.
pub(crate) struct Gateway {
    pub(crate) workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    ready: Vec<PortSet>,
    wires: Vec<MemoryWire>,
    balancer: Arc<FrameBalancer>,
    pub(crate) tables: Arc<Tables>,
    now: Instant,
    next_queue: usize,
    /// Who answers on the uplink.
    pub(crate) neighbours: Vec<Host>,
}

/// Runs a test with 1, 2 and 4 workers and both address families.
pub(crate) fn each(test: impl Fn(Gateway, bool)) {
    each_of(tables, test);
}

/// As [`each`], with other tables.
pub(crate) fn each_of(tables: impl Fn() -> Tables, test: impl Fn(Gateway, bool)) {
    for worker_count in [1, 2, 4] {
        for v6 in [false, true] {
            println!("{worker_count} workers, IPv6: {v6}");
            test(Gateway::new(tables(), worker_count), v6);
        }
    }
}

impl Gateway {
    /// A gateway that has announced itself. Its ports take no offloads.
    pub(crate) fn new(tables: Tables, worker_count: usize) -> Gateway {
        Gateway::with_caps(tables, worker_count, |_| Caps { mtu: 1_500, ..Caps::default() })
    }

    pub(crate) fn with_caps(
        tables: Tables,
        worker_count: usize,
        caps: impl Fn(PortId) -> Caps,
    ) -> Gateway {
        let mut gateway = Gateway::fresh(tables, worker_count, caps);
        gateway.pass(Duration::from_secs(5));
        gateway
    }

    /// A gateway that has not announced itself yet.
    pub(crate) fn fresh(
        tables: Tables,
        worker_count: usize,
        caps: impl Fn(PortId) -> Caps,
    ) -> Gateway {
        Gateway::fresh_with(tables, worker_count, true, caps)
    }

    /// The same. `cache`: flows repeat their decisions.
    pub(crate) fn fresh_with(
        tables: Tables,
        worker_count: usize,
        cache: bool,
        caps: impl Fn(PortId) -> Caps,
    ) -> Gateway {
        let tables = Arc::new(tables);
        let port_count = tables.ports.len();
        let now = Instant(1_000_000_000);
        let balancer =
            FrameBalancer::new(worker_count * FRAME_COUNT.0, worker_count * FRAME_COUNT.1);
        let rings = HandOverRings::mesh(worker_count, tables.limits.hand_over as usize);
        let counters: Vec<_> = rings.iter().map(|_| Counters::new(port_count)).collect();
        let workers = rings.into_iter().enumerate().map(|(index, rings)| {
            let chunks = heap_frames(FRAME_COUNT.0);
            let tails = heap_tails(FRAME_COUNT.1);
            Worker::new(WorkerParts {
                id: WorkerId(index as u8),
                frames: FramePool::new(chunks, tails, balancer.clone()),
                counters: counters[index].clone(),
                rings,
                tables: tables.clone(),
                seed: 0x0123_4567_89ab_cdef,
                cache,
                now,
            })
        });
        let mut gateway = Gateway {
            workers: workers.collect(),
            counters: counters.clone(),
            ready: vec![PortSet::new(port_count); worker_count],
            wires: Vec::new(),
            balancer: balancer.clone(),
            tables: tables.clone(),
            now,
            next_queue: 0,
            neighbours: vec![ROUTER, CLIENT],
        };
        for index in 0..port_count {
            let port = PortId(index as u16);
            gateway.add_wire(port, caps(port));
        }
        gateway
    }

    fn add_wire(&mut self, port: PortId, caps: Caps) {
        let (wire, ports) = MemoryWire::new(self.workers.len(), caps);
        let kind = self.tables.port(port).map(|table| &table.kind);
        let has_device = !matches!(kind, Some(PortKind::Tunnel(_) | PortKind::Lane(_)));
        let ports = ports.into_iter().take(if has_device { usize::MAX } else { 0 });
        for (worker, memory_port) in self.workers.iter_mut().zip(ports) {
            worker.attach(port, Box::new(memory_port));
        }
        self.wires.push(wire);
    }

    /// The next tables are the present ones, changed; every worker goes over to them. Ports that
    /// are new are plugged in.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Tables)) {
        let mut tables = Tables::clone(&self.tables);
        tables.generation += 1;
        change(&mut tables);
        self.tables = Arc::new(tables);
        for index in self.wires.len()..self.tables.ports.len() {
            self.add_wire(PortId(index as u16), Caps { mtu: 1_500, ..Caps::default() });
        }
        for worker in &mut self.workers {
            worker.adopt(self.tables.clone());
        }
    }

    /// A host sends a frame; returns the IP traffic that leaves because of it.
    pub(crate) fn send(&mut self, from: &Host, bytes: Vec<u8>) -> Vec<Seen> {
        self.send_frame(from, WireFrame::whole(bytes))
    }

    pub(crate) fn send_frame(&mut self, from: &Host, frame: WireFrame) -> Vec<Seen> {
        let mut seen = self.send_any(from, frame);
        seen.retain(Seen::is_traffic);
        seen
    }

    /// As `send_frame`; ARP and neighbour discovery are shown, too.
    pub(crate) fn send_any(&mut self, from: &Host, frame: WireFrame) -> Vec<Seen> {
        let queue = self.next_queue % self.workers.len();
        self.next_queue += 1;
        self.wires[from.port.index()].push(queue, frame);
        self.settle()
    }

    /// A host sends frames to the first worker, which hears once that its port is ready, as from an
    /// edge-triggered poll; returns what leaves until the port is not ready any more.
    pub(crate) fn send_with_one_edge(&mut self, from: &Host, frames: Vec<WireFrame>) -> Vec<Seen> {
        frames.into_iter().for_each(|frame| self.wires[from.port.index()].push(0, frame));
        self.ready[0].insert(from.port);
        let mut seen = Vec::new();
        for _ in 0..TURNS_MAX {
            self.workers[0].turn(self.now, &mut self.ready[0]);
            seen.extend(self.take_sent());
            if self.ready[0].is_empty() {
                return seen;
            }
        }
        panic!("still ready after {TURNS_MAX} turns");
    }

    /// Frames arrive at the first worker, which turns after each of them while the others sleep;
    /// returns the IP traffic that has left when all have turned.
    pub(crate) fn send_while_others_sleep(&mut self, frames: Vec<(&Host, Vec<u8>)>) -> Vec<Seen> {
        for (from, bytes) in frames {
            self.wires[from.port.index()].push(0, WireFrame::whole(bytes));
            self.turn(0);
        }
        let mut seen = self.settle();
        seen.retain(Seen::is_traffic);
        seen
    }

    /// A host sends a frame; returns the only IP packet that leaves because of it.
    pub(crate) fn forward(&mut self, from: &Host, bytes: Vec<u8>) -> Seen {
        let mut seen = self.send(from, bytes);
        assert_eq!(seen.len(), 1, "one packet leaves; drops: {:?}", self.drops());
        seen.pop().unwrap()
    }

    /// A host sends a frame, and nothing but this reason is heard of it.
    pub(crate) fn refuse(&mut self, from: &Host, bytes: Vec<u8>, reason: DropReason) {
        let (before, seen) = (self.dropped(reason), self.send(from, bytes));
        assert!(seen.is_empty(), "silence: {seen:?}");
        assert_eq!(self.dropped(reason), before + 1, "{}: {:?}", reason.name(), self.drops());
    }

    /// Time passes; returns the IP traffic that leaves meanwhile.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Seen> {
        let mut seen = self.pass_any(duration);
        seen.retain(Seen::is_traffic);
        seen
    }

    /// As `pass`; ARP and neighbour discovery are shown, too.
    pub(crate) fn pass_any(&mut self, duration: Duration) -> Vec<Seen> {
        let (end, mut seen) = (self.now + duration, Vec::new());
        let step = Duration::from_millis(if duration > LONG { 500 } else { 250 });
        while self.now < end {
            self.now = (self.now + step).min(end);
            seen.extend(self.settle());
        }
        seen
    }

    /// Turns the workers until nothing is left to do. The clock stands still.
    fn settle(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        for _ in 0..TURNS_MAX {
            for index in 0..self.workers.len() {
                self.turn(index);
            }
            let sent = self.take_sent();
            sent.iter().for_each(Seen::check);
            sent.iter().for_each(|seen| self.answer(seen));
            let is_done = sent.is_empty() && !self.has_more();
            all.extend(sent);
            if is_done {
                self.check_conserved();
                return all;
            }
        }
        panic!("still something to do after {TURNS_MAX} turns");
    }

    fn turn(&mut self, index: usize) {
        for (port, wire) in self.wires.iter().enumerate() {
            if wire.waiting(index) > 0 {
                self.ready[index].insert(PortId(port as u16));
            }
        }
        self.workers[index].turn(self.now, &mut self.ready[index]);
    }

    fn has_more(&self) -> bool {
        let queues = 0..self.workers.len();
        self.workers.iter().any(Worker::waiting)
            || queues.into_iter().any(|queue| self.wires.iter().any(|w| w.waiting(queue) > 0))
    }

    fn take_sent(&self) -> Vec<Seen> {
        let mut sent = Vec::new();
        for (port, wire) in self.wires.iter().enumerate() {
            for queue in 0..wire.queue_count() {
                let frames = std::iter::from_fn(|| wire.take(queue));
                sent.extend(frames.map(|frame| Seen { port: PortId(port as u16), frame }));
            }
        }
        sent
    }

    /// A neighbour on the uplink that is asked for says where it is.
    fn answer(&mut self, seen: &Seen) {
        let Some(address) = seen.asks_for().filter(|_| seen.port == WAN) else { return };
        let v6 = address.is_ipv6();
        let Some(asked) = self.neighbours.iter().find(|host| host.ip(v6) == address) else {
            return;
        };
        let queue = self.next_queue % self.workers.len();
        self.wires[WAN.index()].push(queue, WireFrame::whole(i_have(asked, address, own(v6))));
    }

    fn check_conserved(&self) {
        let (mut chunks, mut tails) = self.balancer.count();
        for worker in &self.workers {
            let count = worker.count_frames();
            (chunks, tails) = (chunks + count.0, tails + count.1);
        }
        let count = self.workers.len();
        assert_eq!(
            (chunks, tails),
            (FRAME_COUNT.0 * count, FRAME_COUNT.1 * count),
            "no frame lost"
        );
    }

    /// Sum of a counter over all workers.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(|counters| counter(counters)).sum()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|counters| counters.dropped(reason).get())
    }

    pub(crate) fn revalidated(&self) -> u64 {
        self.sum(|counters| counters.worker.revalidated.get())
    }

    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        self.counters.iter().flat_map(|counters| counters.drops()).collect()
    }

    /// Flows of all workers.
    pub(crate) fn flows(&self) -> Vec<FlowView> {
        self.workers.iter().flat_map(Worker::flows).collect()
    }

    /// Events of all workers.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let workers = self.workers.iter_mut();
        workers.flat_map(|worker| std::iter::from_fn(|| worker.take_event())).collect()
    }
}
