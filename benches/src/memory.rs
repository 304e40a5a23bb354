//! The engine in memory: one worker between ports that make packets out of prepared headers and
//! take them back.
//!
//! Everything of production is on (limits, counters, anti-spoofing, the clock moves, the wheel
//! turns); only the driver is missing. Receiving a packet copies one prepared header into the frame
//! that was sent longest ago, because NAT edits it; the floor to compare with does the same and
//! fetches as many memory lines as a look-up needs, and nothing else.

mod overlay;
mod port;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use engine::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
use engine::hand_over::HandOverRings;
use engine::limits::Limits;
use engine::packet::BATCH_LEN;
use engine::tables::{
    Attachment, GatewayMode, HostLink, MssClamp, Network, PortKind, PortTable, Protocol, Publish,
    PublishEntry, Route, Routes, Subnet, TableMap, Uplink,
};
use engine::wire::checksum;
use engine::worker::WorkerParts;
use engine::{
    Batch, Counters, DropReason, Instant, MacAddress, NetworkId, Port, PortId, PortSet, Tables,
    UplinkId, Worker, WorkerId,
};

pub use self::overlay::Direction;
use self::port::{Handle, Header, MemoryPort, RECYCLED};

/// Frames there are.
const FRAME_COUNT: usize = 3 * RECYCLED;
/// Bytes of a packet.
const FRAME_BYTES: usize = Header::<64>::FRAME_BYTES;
/// By how much the clock moves per turn: 64 packets at 10 million a second.
const TURN_NS: u64 = 6_400;
/// How often the router says where it is.
const ROUTER_SPEAKS_NS: u64 = 5_000_000_000;
/// How long a flow lives where every packet begins one.
const MISS_LIFETIME: Duration = Duration::from_secs(1);

const OUTSIDE: PortId = PortId(0);
const INSIDE: PortId = PortId(1);
const NEIGHBOUR: PortId = PortId(2);
const ENDPOINT_MAC: MacAddress = MacAddress::new([2, 0x42, 10, 1, 0, 10]);
const NEIGHBOUR_MAC: MacAddress = MacAddress::new([2, 0x42, 10, 1, 0, 11]);
const GATEWAY_MAC: MacAddress = MacAddress::new([2, 0x42, 10, 1, 0, 1]);
const UPLINK_MAC: MacAddress = MacAddress::new([2, 0x42, 192, 0, 2, 10]);
const ROUTER_MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const ENDPOINT: [u8; 4] = [10, 1, 0, 10];
const OWN: [u8; 4] = [192, 0, 2, 10];
const ROUTER: [u8; 4] = [192, 0, 2, 1];

/// A worker with flows in it, and the ports to drive it.
pub struct World {
    worker: Worker,
    counters: Arc<Counters>,
    ready: PortSet,
    now: Instant,
    turn_ns: u64,
    handles: Vec<Handle>,
    sources: [PortId; 2],
    /// When the router has last said where it is.
    router_heard: Instant,
}

/// The same packet with TCP: an acknowledgement with six bytes.
fn tcp(header: Header) -> Header {
    let Header(mut bytes) = header;
    bytes[23] = 6;
    // The header's checksum changes as the protocol does: 17 less 6 is added to its complement.
    let sum = u16::from_be_bytes([bytes[24], bytes[25]]);
    bytes[24..26].copy_from_slice(&checksum::apply(sum, !(17 - 6)).to_be_bytes());
    bytes[38..46].fill(0);
    bytes[46..48].copy_from_slice(&[0x50, 0x10]);
    Header(bytes)
}

fn udp(macs: (MacAddress, MacAddress), from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Header {
    let mut bytes = [0; 64];
    bytes[..6].copy_from_slice(&macs.1.bytes());
    bytes[6..12].copy_from_slice(&macs.0.bytes());
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..16].copy_from_slice(&[0x45, 0]);
    bytes[16..18].copy_from_slice(&((FRAME_BYTES - 14) as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, 17]);
    bytes[26..30].copy_from_slice(&from.0);
    bytes[30..34].copy_from_slice(&to.0);
    let sum = !checksum::fold(checksum::sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..36].copy_from_slice(&from.1.to_be_bytes());
    bytes[36..38].copy_from_slice(&to.1.to_be_bytes());
    bytes[38..40].copy_from_slice(&((FRAME_BYTES - 34) as u16).to_be_bytes());
    // Not 0, so that it is updated; that it is wrong nobody looks at on the way.
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    Header(bytes)
}

/// The `index`-th flow: an inside port and a server.
fn flow(index: usize) -> (u16, ([u8; 4], u16)) {
    let inside_port = 32_768 + (index % 32_768) as u16;
    let server = (index / 32_768) as u16;
    let [high, low] = (server % 4_096).to_be_bytes();
    (inside_port, ([198, 18 + (high >> 4), high, low], 80 + server / 4_096))
}

/// A small generator: which flow comes next is neither in order nor predictable.
fn shuffled(count: usize, total: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % total as u64) as usize
    };
    (0..count).map(|_| next()).collect()
}

impl World {
    /// Masquerade with this many flows; packets of both directions alternate batch by batch and
    /// belong to uniformly random flows.
    pub fn nat(flow_count: usize) -> World {
        World::masquerade(flow_count, tables(flow_count), false)
    }

    /// The same, but every second flow is of TCP, so that packets are not alike.
    pub fn nat_mixed(flow_count: usize) -> World {
        World::masquerade(flow_count, tables(flow_count), true)
    }

    /// The same as `nat`, where so many ports are published and there are as many routes, and a
    /// tenth as many networks.
    pub fn nat_among(flow_count: usize, published: usize) -> World {
        World::masquerade(flow_count, crowded(tables(flow_count), published), false)
    }

    fn masquerade(flow_count: usize, tables: Tables, mixed: bool) -> World {
        let order =
            shuffled(flow_count.clamp(4_096, 1 << 20).next_multiple_of(BATCH_LEN), flow_count);
        let of = |index: usize, header| match mixed && index % 2 == 1 {
            true => tcp(header),
            false => header,
        };
        let out = |index: usize| {
            let (port, server) = flow(index);
            of(index, udp((ENDPOINT_MAC, GATEWAY_MAC), (ENDPOINT, port), server))
        };
        let back = |index: usize| {
            let (port, server) = flow(index);
            of(index, udp((ROUTER_MAC, UPLINK_MAC), server, (OWN, port)))
        };
        let headers =
            [order.iter().map(|&i| back(i)).collect(), order.iter().map(|&i| out(i)).collect()];
        let mut world = World::new(tables, headers, [INSIDE, OUTSIDE]);
        world.inject(INSIDE, &out(0).0[..FRAME_BYTES]);
        world.inject(OUTSIDE, &arp_reply());
        for index in 0..flow_count {
            world.inject_later(INSIDE, &out(index).0[..FRAME_BYTES]);
            if index % 32 == 31 || index + 1 == flow_count {
                world.turn();
            }
        }
        assert_eq!(world.worker.flows().len(), flow_count, "every flow is there");
        world
    }

    /// Every packet begins a flow, so many a second as there are: each that begins is decided and
    /// installed, and one that has been idle for a second ends.
    pub fn miss(resident: usize) -> World {
        let out = |index: usize| {
            let (port, server) = flow(index);
            udp((ENDPOINT_MAC, GATEWAY_MAC), (ENDPOINT, port), server)
        };
        // By the time that a flow comes again, it has ended.
        let headers: Vec<Header> =
            (0..(2 * resident).next_multiple_of(BATCH_LEN)).map(out).collect();
        // Room for those as well that are over, and wait for the wheel.
        let mut tables = tables(resident + resident / 4 + (1 << 17));
        Arc::make_mut(&mut tables.nat).timeouts.udp = MISS_LIFETIME;
        let mut world = World::new(tables, [Vec::new(), headers], [INSIDE, INSIDE]);
        world.inject(INSIDE, &out(0).0[..FRAME_BYTES]);
        world.inject(OUTSIDE, &arp_reply());
        world.turn_ns = MISS_LIFETIME.as_nanos() as u64 * BATCH_LEN as u64 / resident as u64;
        // Until as many end as begin.
        world.carry(resident.div_ceil(BATCH_LEN) * 3 / 2);
        world
    }

    /// Flows that are there now, as counted last.
    pub fn resident(&self) -> u64 {
        self.counters.worker.flows.get()
    }

    /// Two endpoints of one network that send to each other.
    pub fn bridge() -> World {
        let there = udp((ENDPOINT_MAC, NEIGHBOUR_MAC), (ENDPOINT, 40_000), ([10, 1, 0, 11], 80));
        let back = udp((NEIGHBOUR_MAC, ENDPOINT_MAC), ([10, 1, 0, 11], 80), (ENDPOINT, 40_000));
        let mut world = World::new(
            tables(1_024),
            [vec![back; BATCH_LEN], vec![there; BATCH_LEN]],
            [INSIDE, NEIGHBOUR],
        );
        world.inject(INSIDE, &there.0[..FRAME_BYTES]);
        world.inject(NEIGHBOUR, &back.0[..FRAME_BYTES]);
        world
    }

    /// `headers`: what the second and the first of `sources` send.
    fn new(tables: Tables, headers: [Vec<Header>; 2], sources: [PortId; 2]) -> World {
        let [second, first] = headers.map(Arc::new);
        World::between(tables, sources, |id| {
            Handle::of(if id == sources[0] { &first } else { &second }, None)
        })
    }

    /// `port`: each of the three ports.
    fn between(
        tables: Tables,
        sources: [PortId; 2],
        port: impl Fn(PortId) -> (Handle, Box<dyn Port>),
    ) -> World {
        let tables = Arc::new(tables);
        let counters = Counters::new(tables.ports.len());
        let chunks = heap_frames(FRAME_COUNT);
        let balancer = FrameBalancer::new(FRAME_COUNT, 64);
        let frames = FramePool::new(chunks, heap_tails(64), balancer);
        let [rings] = <[HandOverRings; 1]>::try_from(HandOverRings::mesh(1, 16)).expect("one");
        let mut worker = Worker::new(WorkerParts {
            id: WorkerId(0),
            frames,
            counters: counters.clone(),
            rings,
            tables,
            seed: 0x0123_4567_89ab_cdef,
            cache: true,
            now: Instant(1),
        });
        let mut handles = Vec::new();
        for id in [OUTSIDE, INSIDE, NEIGHBOUR] {
            let (handle, port) = port(id);
            worker.attach(id, port);
            handles.push(handle);
        }
        let mut world = World {
            worker,
            counters,
            ready: PortSet::new(3),
            now: Instant(1),
            turn_ns: TURN_NS,
            handles,
            sources,
            router_heard: Instant(1),
        };
        // Let the announcements pass.
        for _ in 0..8 {
            world.now.0 += 1_000_000_000;
            world.turn();
        }
        world
    }

    fn inject_later(&mut self, port: PortId, bytes: &[u8]) {
        self.handles[port.index()].inject.send(bytes.to_vec()).expect("the port is there");
        self.ready.insert(port);
    }

    fn inject(&mut self, port: PortId, bytes: &[u8]) {
        self.inject_later(port, bytes);
        self.turn();
    }

    fn turn(&mut self) -> usize {
        self.now.0 += self.turn_ns;
        self.worker.turn(self.now, &mut self.ready)
    }

    /// Carries this many batches, the two directions in turn.
    #[inline(never)]
    pub fn carry(&mut self, batches: usize) {
        for batch in 0..batches {
            let source = self.sources[batch % 2];
            self.handles[source.index()].allowance.store(BATCH_LEN, Relaxed);
            self.ready.insert(source);
            if self.now.0 - self.router_heard.0 > ROUTER_SPEAKS_NS {
                // Or it is taken for gone after a while, and every packet for undeliverable.
                self.router_heard = self.now;
                self.inject_later(OUTSIDE, &arp_reply());
            }
            self.turn();
        }
    }

    /// Packets dropped so far, but for what the router says of itself, which goes no further: a
    /// bench in which this grows measures something else.
    pub fn drops(&self) -> u64 {
        let drops = self.counters.drops();
        let of_traffic = drops.iter().filter(|drop| drop.0 != DropReason::NeighbourUnhandled);
        of_traffic.map(|&(_, count)| count).sum()
    }
}

fn arp_reply() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(UPLINK_MAC.bytes());
    bytes.extend(ROUTER_MAC.bytes());
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    bytes.extend(ROUTER_MAC.bytes());
    bytes.extend(ROUTER);
    bytes.extend(UPLINK_MAC.bytes());
    bytes.extend(OWN);
    bytes
}

fn tables(flow_count: usize) -> Tables {
    let (network, uplink) = (NetworkId(0), UplinkId(0));
    let attachment = |name: &str, mac, last| {
        PortKind::Endpoint(Attachment {
            endpoint: name.into(),
            network,
            mac,
            ipv4: Some([10, 1, 0, last].into()),
            ipv6: None,
            anti_spoofing: true,
        })
    };
    let port = |id, name: &str, kind| {
        Some(Arc::new(PortTable { epoch: 1, id, name: name.into(), kind, mtu: 1500 }))
    };
    let members = [(INSIDE, ENDPOINT_MAC, 10), (NEIGHBOUR, NEIGHBOUR_MAC, 11)];
    let by_address = |&(port, _, last): &(_, _, u8)| (IpAddr::from([10, 1, 0, last]), port);
    let network = Network {
        epoch: 1,
        id: network,
        name: "front".into(),
        gateway_mac: GATEWAY_MAC,
        subnets: vec![Subnet {
            prefix: "10.1.0.0/16".parse().expect("a prefix"),
            gateway: IpAddr::from([10, 1, 0, 1]),
        }],
        internal: false,
        icc: true,
        mode: GatewayMode::Nat,
        masquerade: true,
        mss_clamp: MssClamp::Auto,
        mtu: 1500,
        uplink: Some(uplink),
        overlay: None,
        direct: None,
        multicast_snooping: true,
        routed_only: false,
        unfiltered: false,
        members: vec![INSIDE, NEIGHBOUR],
        by_address: members.iter().map(by_address).collect::<TableMap<_, _>>(),
        by_mac: members.iter().map(|&(port, mac, _)| (mac, port)).collect(),
    };
    let routes = vec![
        Route { to: "192.0.2.0/24".parse().expect("a prefix"), via: None, uplink },
        Route { to: "0.0.0.0/0".parse().expect("a prefix"), via: Some(ROUTER.into()), uplink },
    ];
    let limits = limits((flow_count as u32).max(1_024) + 64);
    Tables {
        ports: vec![
            port(OUTSIDE, "wan", PortKind::Uplink(uplink)),
            port(INSIDE, "web/front", attachment("web", ENDPOINT_MAC, 10)),
            port(NEIGHBOUR, "other/front", attachment("other", NEIGHBOUR_MAC, 11)),
        ],
        networks: vec![Some(Arc::new(network))],
        uplinks: vec![Some(Arc::new(Uplink {
            epoch: 1,
            id: uplink,
            name: "wan".into(),
            port: OUTSIDE,
            mac: UPLINK_MAC,
            addresses: vec!["192.0.2.10/24".parse().expect("a prefix")],
            trusted: false,
            host: HostLink::default(),
            link: None,
        }))],
        routes: Arc::new(Routes::new(1, routes)),
        limits: Arc::new(limits),
        ..Tables::empty()
    }
}

/// The same with so many published ports and routes, and a tenth as many networks.
fn crowded(mut tables: Tables, published: usize) -> Tables {
    let entries = (0..published).map(|index| PublishEntry {
        host_port: 1 + index as u16,
        target_port: 80,
        ..published_port()
    });
    tables.publish = Arc::new(Publish::new(1, entries.collect()));
    let via = (0..published as u32).map(|index| Route {
        to: prefix(0xac10_0000 + index * 4, 30),
        via: Some(ROUTER.into()),
        uplink: UplinkId(0),
    });
    let others = via.chain(tables.routes.iter().copied()).collect();
    tables.routes = Arc::new(Routes::new(1, others));
    let front = tables.networks[0].clone().expect("there is one");
    tables.networks.extend((1..=published / 10).map(|index| {
        let base = 0x6440_0000 + index as u32 * 256;
        Some(Arc::new(Network {
            id: NetworkId(index as u16),
            name: format!("other-{index}"),
            subnets: vec![Subnet {
                prefix: prefix(base, 24),
                gateway: Ipv4Addr::from_bits(base + 1).into(),
            }],
            members: Vec::new(),
            by_address: TableMap::default(),
            by_mac: TableMap::default(),
            ..(*front).clone()
        }))
    }));
    tables
}

/// An IPv4 prefix.
fn prefix<P: FromStr<Err: Debug>>(bits: u32, length: u8) -> P {
    format!("{}/{length}", Ipv4Addr::from_bits(bits)).parse().expect("a prefix")
}

fn published_port() -> PublishEntry {
    PublishEntry {
        host: None,
        protocol: Protocol::Tcp,
        host_port: 1,
        port_count: 1,
        target_port: 80,
        target: ENDPOINT.into(),
        port: INSIDE,
        network: NetworkId(0),
    }
}

/// Room for so many flows, whoever begins them.
fn limits(flows: u32) -> Limits {
    Limits {
        flows,
        flows_per_port: flows,
        half_open_per_port: flows,
        flows_per_source: flows,
        ..Limits::default()
    }
}

/// The floor: the same header copies, frames and batches, and the same number of cold lines per
/// packet, without an engine.
pub struct Floor {
    frames: FramePool,
    port: MemoryPort,
    lines: Vec<[u64; 8]>,
    state: u64,
    _inject: Sender<Vec<u8>>,
}

impl Floor {
    /// A floor over the memory of this many flows: a bucket line and a flow line per direction.
    pub fn new(flow_count: usize) -> Floor {
        let chunks = heap_frames(FRAME_COUNT);
        let frames = FramePool::new(chunks, Vec::new(), FrameBalancer::new(FRAME_COUNT, 1));
        let headers =
            shuffled(flow_count.clamp(4_096, 1 << 20).next_multiple_of(BATCH_LEN), flow_count)
                .into_iter()
                .map(|index| {
                    let (port, server) = flow(index);
                    udp((ENDPOINT_MAC, GATEWAY_MAC), (ENDPOINT, port), server)
                })
                .collect();
        let (inject, injected) = channel();
        let port = MemoryPort::new(Arc::new(headers), injected, Arc::default());
        let lines = (flow_count * 4).next_power_of_two();
        Floor { frames, port, lines: vec![[1; 8]; lines], state: 1, _inject: inject }
    }

    /// Carries this many batches.
    #[inline(never)]
    pub fn carry(&mut self, batches: usize) {
        let mut batch = Batch::new();
        let mask = self.lines.len() - 1;
        for _ in 0..batches {
            self.port.give(&mut self.frames, &mut batch);
            let mut places = [0; BATCH_LEN];
            let mut sum = 0u64;
            for (place, packet) in places.iter_mut().zip(&batch) {
                let head = packet.head();
                let tuple = u64::from_be_bytes(*head[30..].first_chunk().expect("a header"));
                self.state = self.state.wrapping_add(tuple).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *place = (self.state >> 20) as usize & mask;
                sum = sum.wrapping_add(self.lines[*place][0]);
            }
            for place in &mut places {
                *place = (*place ^ (self.state >> 30) as usize) & mask;
                sum = sum.wrapping_add(self.lines[*place][1]);
            }
            for place in places {
                self.lines[place][2] = sum;
            }
            self.port.tx(&mut self.frames, &mut batch);
        }
    }
}
