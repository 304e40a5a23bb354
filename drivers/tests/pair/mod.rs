//! A veth pair with one end used by AF_XDP, and the memory for it.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use drivers::{Region, Xdp, XdpMemory, XdpOptions, XdpPlace, XdpQueue};
use engine::frame::{FrameBalancer, FramePool};
use engine::{Batch, Packet, Port};

use crate::common::{LIMIT, Namespace, udp_frame, wait_for};

pub(crate) const CHUNKS: usize = 4_096;
pub(crate) const TAILS: usize = 64;
pub(crate) const KERNEL_IP: [u8; 4] = [10, 9, 0, 1];
pub(crate) const OUR_IP: [u8; 4] = [10, 9, 0, 2];

/// A veth pair: `ours` in one namespace, `eth0` of the kernel in another.
pub(crate) struct World {
    /// Where ours is.
    pub(crate) here: Namespace,
    /// Where the kernel's is.
    pub(crate) there: Namespace,
    pub(crate) memory: XdpMemory,
    pub(crate) frames: FramePool,
}

impl World {
    pub(crate) fn new(mtu: u16) -> World {
        let (here, there) = (Namespace::new(), Namespace::new());
        here.ip(&format!("link add ours mtu {mtu} type veth peer name eth0 mtu {mtu}"));
        here.ip(&format!("link set eth0 netns {}", path_of(&there)));
        there.ip("link set eth0 address 02:00:00:00:00:01");
        here.ip("link set ours up");
        there.ip("address add 10.9.0.1/24 dev eth0");
        there.ip("link set eth0 up");
        there.ip("neighbour replace 10.9.0.2 lladdr 02:00:00:00:00:02 nud permanent dev eth0");
        let (region, chunks, tails) = Region::new(CHUNKS, TAILS).unwrap();
        let balancer = FrameBalancer::new(CHUNKS, TAILS);
        let frames = FramePool::new(chunks, tails, balancer.clone());
        World { here, there, memory: XdpMemory { region: Arc::new(region), balancer }, frames }
    }

    pub(crate) fn options(&self, place: XdpPlace) -> XdpOptions {
        XdpOptions { place: Some(place), ..XdpOptions::new("ours") }
    }

    pub(crate) fn open(&mut self, options: &XdpOptions) -> Vec<XdpQueue> {
        let xdp = self.here.enter(|| Xdp::open(options, &self.memory)).unwrap();
        let mut queues = xdp.into_queues();
        for queue in &mut queues {
            // The kernel receives nothing before it has chunks.
            queue.rx(&mut self.frames, &mut Batch::new());
        }
        queues
    }

    pub(crate) fn socket(&self) -> UdpSocket {
        let socket = self.there.enter(|| UdpSocket::bind((Ipv4Addr::from(KERNEL_IP), 7000)));
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// A datagram for the kernel's socket, whole.
    pub(crate) fn datagram(&mut self, payload: &[u8]) -> Packet {
        let mut bytes = udp_frame((OUR_IP, 5000), (KERNEL_IP, 7000), payload);
        // No checksum is a right one for UDP over IPv4.
        bytes[40..42].fill(0);
        Packet::copy_of(&bytes, &mut self.frames).unwrap()
    }

    pub(crate) fn send(&mut self, queue: &mut XdpQueue, packets: Vec<Packet>) {
        for batch in &mut packets.into_iter().collect::<Batches>().0 {
            queue.tx(&mut self.frames, batch);
            assert!(batch.is_empty(), "all went");
        }
        queue.flush(&mut self.frames);
    }

    /// Waits for a packet of UDP to our address.
    pub(crate) fn receive(&mut self, queue: &mut XdpQueue) -> Packet {
        wait_for("a packet", || {
            let mut batch = Batch::new();
            queue.rx(&mut self.frames, &mut batch);
            let mut found = None;
            for packet in batch {
                if found.is_none() && packet.head()[12..14] == [8, 0] && packet.head()[23] == 17 {
                    found = Some(packet);
                } else {
                    packet.recycle(&mut self.frames);
                }
            }
            found
        })
    }

    /// All frames are in the pool, in rings, or where closed rings left them.
    pub(crate) fn assert_conserved(&self, queues: &[XdpQueue]) {
        let held: usize = queues.iter().map(|queue| queue.held_frames().0).sum();
        let (pool, balancer) = (self.frames.count(), self.memory.balancer.count());
        assert_eq!((pool.0 + balancer.0 + held, pool.1 + balancer.1), (CHUNKS, TAILS));
    }
}

/// A path of a namespace, for other programs while we run.
pub(crate) fn path_of(namespace: &Namespace) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
}

/// Packets cut into batches.
pub(crate) struct Batches(pub(crate) Vec<Batch>);

impl FromIterator<Packet> for Batches {
    fn from_iter<I: IntoIterator<Item = Packet>>(packets: I) -> Batches {
        let mut batches = vec![Batch::new()];
        for packet in packets {
            if batches.last().unwrap().is_full() {
                batches.push(Batch::new());
            }
            batches.last_mut().unwrap().push(packet);
        }
        Batches(batches)
    }
}
