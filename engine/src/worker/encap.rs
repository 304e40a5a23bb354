//! Into tunnels, many packets at once.
//!
//! What leaves by a port without a device leaves by its tunnel. Where the frames to one MAC address
//! go, and the whole outer header in front of them, is worked out once per batch (a *hop*) and
//! repeated; then the batch goes to the uplink as it is. What has no hop yet (the station is not
//! known, the next hop does not answer, a super-frame) goes alone: see [`tunnels`](super::tunnels).
//! The one hard constraint: both ways push the same bytes.

use super::core::Core;
use crate::counters::Counters;
use crate::decapsulate::KnownTunnels;
use crate::encapsulate::{Alike, Header, MAC, push};
use crate::id::PortId;
use crate::ingress::IngressRule;
use crate::packet::{Batch, Packet};
use crate::parse::PLAIN_L3;
use crate::paths::UNKNOWN;
use crate::tunnel::Way;
use crate::wire::raw_u64_at;

/// Hops of a batch. A power of two. Lower, and batches with more stations work out some of them
/// anew; each more costs a store per batch.
const HOPS: usize = 16;

/// Where the frames to one MAC address go.
#[derive(Clone, Copy, Debug)]
struct Hop {
    /// The address, as it is loaded; [`NOBODY`] while there is none.
    mac: u64,
    tunnel: PortId,
    packets: u32,
    bytes: u64,
    header: Header,
}

/// No packet's address: its upper bits are not in [`MAC`].
const NOBODY: u64 = u64::MAX;

/// The hops of one batch.
#[derive(Debug)]
struct Hops {
    all: [Hop; HOPS],
    /// By which uplink they leave.
    uplink: PortId,
}

impl Default for Hops {
    fn default() -> Hops {
        let hop = Hop {
            mac: NOBODY,
            tunnel: PortId::default(),
            packets: 0,
            bytes: 0,
            header: Header::default(),
        };
        Hops { all: [hop; HOPS], uplink: PortId::default() }
    }
}

impl Hops {
    #[inline(always)]
    fn place(start: u64) -> usize {
        // The last byte tells most hosts apart.
        usize::from(start.to_ne_bytes()[5]) % HOPS
    }

    /// Pushes headers in front of packets until one has no hop; returns how many had, and their
    /// bytes.
    #[inline(never)]
    fn push_all(&mut self, packets: &mut [Packet]) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        while let Some(packet) = packets.get_mut(count) {
            let start = raw_u64_at(packet.window(), 0);
            let hop = &mut self.all[Hops::place(start)];
            if hop.mac != start & MAC || !packet.is_ordinary() {
                break;
            }
            hop.packets += 1;
            hop.bytes += packet.head_bytes() as u64;
            push(packet, &hop.header);
            bytes += packet.head_bytes() as u64;
            count += 1;
            let Some(alike) = Alike::of(packet) else { continue };
            let more = alike.push(&mut packets[count..]);
            let (without, with) = alike.bytes();
            hop.packets += more as u32;
            hop.bytes += (more * without) as u64;
            bytes += (more * with) as u64;
            count += more;
        }
        (count, bytes)
    }

    /// Counts what the tunnels have had, and forgets all hops.
    fn clear(&mut self, counters: &Counters) {
        for hop in &mut self.all {
            if hop.mac != NOBODY {
                hop.count(counters);
                hop.mac = NOBODY;
            }
        }
    }
}

impl Hop {
    fn count(&mut self, counters: &Counters) {
        if let Some(port) = counters.port(self.tunnel) {
            port.tx_packets.add(self.packets.into());
            port.tx_bytes.add(self.bytes);
        }
        (self.packets, self.bytes) = (0, 0);
    }
}

/// What a worker keeps for packets that cross tunnels by batches.
#[derive(Debug)]
pub(super) struct CrossingTunnels {
    /// Tunnels whose packets are recognised at a glance.
    pub(super) known: Box<KnownTunnels>,
    /// Where the frames of a batch go; empty between calls.
    hops: Option<Box<Hops>>,
    /// Packets that leave by this port without a device, which go there together; empty between
    /// calls.
    gathered: (PortId, Option<Box<Batch>>),
}

impl Default for CrossingTunnels {
    fn default() -> CrossingTunnels {
        let gathered = (PortId::default(), Some(Box::new(Batch::new())));
        CrossingTunnels { known: Box::default(), hops: Some(Box::default()), gathered }
    }
}

/// Notes where a packet came from, which a glance does not: it may have to be answered.
fn note_origin(packet: &mut Packet, rule: &IngressRule) {
    (packet.meta.ingress, packet.meta.network) = (rule.port, rule.network);
    if packet.meta.l3 == 0 {
        packet.meta.l3 = PLAIN_L3 as u16;
    }
}

impl Core {
    /// Sends a whole batch at once, without moving a packet, by one port that takes it as it is.
    /// False: nothing was done.
    #[inline(always)]
    pub(super) fn send_all(
        &mut self,
        rule: &IngressRule,
        batch: &mut Box<Batch>,
        egress: PortId,
        bytes: u64,
    ) -> bool {
        if self.egress.send_all(egress, batch, bytes, &mut self.frames, &self.counters) {
            return true;
        }
        let is_tunnel = self.tunnels.has(egress);
        if is_tunnel {
            if !self.stages.mtu.paths.is_empty() {
                batch.iter_mut().for_each(|packet| note_origin(packet, rule));
            }
            self.send_all_in_tunnels(egress, batch);
        }
        is_tunnel
    }

    /// Sends packets by a port that has no device here: through its tunnels.
    #[inline(never)]
    pub(super) fn send_all_in_tunnels(&mut self, port: PortId, batch: &mut Box<Batch>) {
        let Some(mut hops) = self.crossing_tunnels.hops.take() else { return };
        let (mut done, mut bytes) = (0, 0);
        while done < batch.len() {
            let pushed = hops.push_all(&mut batch[done..]);
            (done, bytes) = (done + pushed.0, bytes + pushed.1);
            match batch.get(done) {
                Some(packet)
                    if packet.is_ordinary() && self.add_hop(port, packet, &mut hops, done) => {}
                _ => break,
            }
        }
        hops.clear(&self.counters);
        let uplink = hops.uplink;
        self.crossing_tunnels.hops = Some(hops);
        let (frames, counters) = (&mut self.frames, &self.counters);
        if done == batch.len() && self.egress.send_all(uplink, batch, bytes, frames, counters) {
            return;
        }
        for (index, packet) in batch.drain(..).enumerate() {
            match index < done {
                true => self.egress.send(uplink, packet, &mut self.frames, &self.counters),
                false => self.send_without_device(port, packet),
            }
        }
    }

    /// Sends a packet whose decision was repeated; those that leave by a port without a device go
    /// together, with [`send_what_is_gathered`](Core::send_what_is_gathered) at the latest.
    #[inline(always)]
    pub(super) fn send_gathered(&mut self, rule: &IngressRule, port: PortId, packet: Packet) {
        if !self.egress.has(port) {
            return self.gather(rule, port, packet);
        }
        if self.has_gathered() && self.rule(port).is_some_and(|rule| rule.uplink) {
            // What leaves by one device keeps its order.
            self.send_what_is_gathered();
        }
        self.egress.send(port, packet, &mut self.frames, &self.counters);
    }

    #[inline(always)]
    fn has_gathered(&self) -> bool {
        self.crossing_tunnels.gathered.1.as_ref().is_some_and(|gathered| !gathered.is_empty())
    }

    #[inline(never)]
    fn gather(&mut self, rule: &IngressRule, port: PortId, mut packet: Packet) {
        note_origin(&mut packet, rule);
        if self.crossing_tunnels.gathered.0 != port {
            self.send_what_is_gathered();
            self.crossing_tunnels.gathered.0 = port;
        }
        if let Some(gathered) = &mut self.crossing_tunnels.gathered.1 {
            gathered.push(packet);
            if gathered.is_full() {
                self.send_what_is_gathered();
            }
        }
    }

    /// Before anything else is sent that may be of the same flows.
    #[inline(always)]
    pub(super) fn send_what_is_gathered(&mut self) {
        if self.has_gathered()
            && let Some(mut gathered) = self.crossing_tunnels.gathered.1.take()
        {
            self.send_all_in_tunnels(self.crossing_tunnels.gathered.0, &mut gathered);
            self.crossing_tunnels.gathered.1 = Some(gathered);
        }
    }

    /// Works out the hop of a packet. False: it has none, or leaves by another uplink than those
    /// before.
    fn add_hop(&mut self, port: PortId, packet: &Packet, hops: &mut Hops, done: usize) -> bool {
        let tunnel = match self.tunnels.way(port) {
            Some(Way::Outer(_)) => Some(port),
            Some(&Way::Trunk(network, _)) => self.tunnel_to(network, packet.destination()),
            Some(Way::Lane(_)) | None => None,
        };
        let Some(tunnel) = tunnel else { return false };
        let Ok(macs) = self.underlay_macs(tunnel) else { return false };
        if self.stages.mtu.tunnels_by(tunnel, &self.tables) != UNKNOWN {
            // What is known of the path is a matter of each packet.
            return false;
        }
        let Some(Way::Outer(outer)) = self.tunnels.way(tunnel) else { return false };
        if done > 0 && outer.uplink != hops.uplink {
            return false;
        }
        hops.uplink = outer.uplink;
        let start = raw_u64_at(packet.window(), 0);
        let hop = &mut hops.all[Hops::place(start)];
        hop.count(&self.counters);
        *hop = Hop { mac: start & MAC, tunnel, packets: 0, bytes: 0, header: outer.header(macs) };
        true
    }
}
