//! Out of tunnels: what an uplink receives is opened before anything else looks at it.
//!
//! A batch is opened where it lies; what comes out takes the same way as what other ports receive,
//! in the same batch, as packets of its overlay's trunk. Packets of tunnels that are known are
//! recognised in a loop of their own, and only the first one of a tunnel, and what is special, gets
//! the long look. A batch with packets from several ports is sorted by port, so that each is
//! carried through at once; packets of one flow come from one port and keep their order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Worker;
use super::core::Core;
use super::lookup::Lookups;
use crate::counters::DropReason;
use crate::decapsulate::{Last, SOURCE, combine_ecn, decapsulate};
use crate::egress::finish;
use crate::fdb::Heard;
use crate::hand_over::Message;
use crate::id::{MacAddress, PortId};
use crate::ingress::IngressRule;
use crate::packet::{BATCH_LEN, Batch, Offload, Packet};
use crate::tunnel::{OUTER_V4_BYTES, Origin};
use crate::wire::{arp, ethernet, header_at, ipv4, ipv6, raw_u64_at, u16_at, u32_at, u128_at};

/// The port that a packet came by, a trunk if it came out of a tunnel; or why it is dropped.
pub(super) type Place = Result<PortId, DropReason>;

/// In place of a source: nobody was heard. It is a group's, which ingress refuses.
const NOBODY: u64 = u64::MAX;

/// Where the class of an outer IPv4 header stands.
const CLASS: usize = ethernet::HEADER_BYTES + 1;

/// What a batch has had so far.
#[derive(Default)]
pub(super) struct Opening {
    /// The tunnel before, and what came out of it.
    tunnel: PortId,
    packets: u64,
    bytes: u64,
    /// Source and ethertype of the frame before, which may be behind the tunnel before.
    heard: u64,
    /// Packets that claimed to be in a tunnel, with all their bytes.
    outer_packets: u64,
    outer_bytes: u64,
    last: Last,
}

impl Worker {
    /// Opens what came by tunnels, and carries everything through.
    #[inline(never)]
    pub(super) fn carry_opened(
        &mut self,
        rule: &IngressRule,
        batch: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        let mut places = [Ok(rule.port); BATCH_LEN];
        let all_from = self.core.open_all(rule, batch, &mut places);
        match all_from {
            Some(port) => self.carry_run_from(port, batch, lookups),
            None => self.carry_sorted(batch, &mut places, lookups),
        }
    }

    /// Carries the packets through, those of one port together, beginning with the first one's.
    fn carry_sorted(
        &mut self,
        batch: &mut Box<Batch>,
        places: &mut [Place; BATCH_LEN],
        lookups: &mut Lookups,
    ) {
        let Some([mut run, mut rest]) = self.runs.take() else { return };
        while !batch.is_empty() {
            let mut from = None;
            for (index, packet) in batch.drain(..).enumerate() {
                match places[index] {
                    Err(reason) => self.core.drop(packet, reason),
                    Ok(port) if is_tunnelled(&packet) => {
                        if let Some(port) = from {
                            self.carry_run_from(port, &mut run, lookups);
                        }
                        self.core.cut_apart(packet, &mut run);
                        self.carry_run_from(port, &mut run, lookups);
                    }
                    Ok(port) if *from.get_or_insert(port) == port => run.push(packet),
                    other => {
                        places[rest.len()] = other;
                        rest.push(packet);
                    }
                }
            }
            if let Some(port) = from {
                self.carry_run_from(port, &mut run, lookups);
            }
            std::mem::swap(batch, &mut rest);
        }
        self.runs = Some([run, rest]);
    }

    /// Carries through what came in by one port, if there is any.
    pub(super) fn carry_run_from(
        &mut self,
        port: PortId,
        run: &mut Box<Batch>,
        lookups: &mut Lookups,
    ) {
        match self.core.rule(port).copied() {
            _ if run.is_empty() => {}
            Some(rule) => self.carry_run(&rule, run, lookups),
            None => run.drain(..).for_each(|packet| self.core.drop(packet, DropReason::PortGone)),
        }
    }
}

/// True for a super-frame in a tunnel that does not end here.
pub(super) fn is_tunnelled(packet: &Packet) -> bool {
    matches!(packet.offload(), Offload::Tunnelled { .. })
}

impl Core {
    /// Cuts a super-frame in a tunnel of somebody else's: nobody edits two headers at once.
    ///
    /// LIMIT: of more segments than a batch has room for, which Linux's default sizes never give,
    /// the rest is dropped as `cut_failed`; to be lifted when somebody sends such.
    #[cold]
    pub(super) fn cut_apart(&mut self, packet: Packet, run: &mut Batch) {
        let Core { frames, counters, .. } = self;
        finish(packet, frames, counters, &mut |segment, frames| {
            if let Err(full) = run.try_push(segment) {
                counters.dropped(DropReason::CutFailed).add(1);
                full.element().recycle(frames);
            }
        });
    }

    /// Opens packets where they lie, and says of each where it came from. Returns the port that all
    /// came by, if it is one and none is to be dropped.
    fn open_all(
        &mut self,
        rule: &IngressRule,
        packets: &mut [Packet],
        places: &mut [Place; BATCH_LEN],
    ) -> Option<PortId> {
        let mut opening = Opening { heard: NOBODY, ..Opening::default() };
        let first =
            packets.first().and_then(|packet| self.crossing_tunnels.known.recognise(packet));
        let mut trunk = first.map_or(PortId::default(), |known| known.origin.trunk);
        let mut done = self.open_known(trunk, packets, &mut opening);
        // Nearly always that was all.
        let mut from = (done == packets.len()).then_some(trunk);
        if from.is_none() {
            places[..done].fill(Ok(trunk));
            while done < packets.len() {
                (trunk, places[done]) =
                    self.open_next(rule, trunk, &mut packets[done], &mut opening);
                done += 1;
                let count = self.open_known(trunk, &mut packets[done..], &mut opening);
                places[done..done + count].fill(Ok(trunk));
                done += count;
            }
            let all = places[..done].iter().zip(&*packets);
            let same = all.fold(true, |same, (place, packet)| {
                same && *place == places[0] && !is_tunnelled(packet)
            });
            from = places[0].ok().filter(|_| same);
        }
        self.count_opened(&mut opening, PortId::default());
        if let Some(port) = self.counters.port(rule.port) {
            port.rx_packets.add(opening.outer_packets);
            port.rx_bytes.add(opening.outer_bytes);
        }
        from
    }

    /// Opens a packet after a long look, unless it is of another trunk than those before; returns
    /// the trunk that others may be of, too.
    fn open_next(
        &mut self,
        rule: &IngressRule,
        trunk: PortId,
        packet: &mut Packet,
        opening: &mut Opening,
    ) -> (PortId, Place) {
        let bytes = packet.len();
        packet.meta.ingress = rule.port;
        let place = self.open(packet, rule, opening);
        if place == Ok(rule.port) {
            return (trunk, place);
        }
        opening.outer_packets += 1;
        opening.outer_bytes += bytes as u64;
        (place.unwrap_or(trunk), place)
    }

    /// Opens packets out of known tunnels of one trunk, until one is something else; returns how
    /// many there were.
    #[inline(never)]
    fn open_known(&self, trunk: PortId, packets: &mut [Packet], opening: &mut Opening) -> usize {
        let mut count = 0;
        while let Some(packet) = packets.get_mut(count) {
            let Some(known) = self.crossing_tunnels.known.recognise(packet) else { break };
            let (origin, shape) = (known.origin, packet.shape());
            if origin.trunk != trunk {
                break;
            }
            if origin.tunnel != opening.tunnel {
                self.count_opened(opening, origin.tunnel);
            }
            let window = packet.window();
            let (class, source) = (window[CLASS], raw_u64_at(window, SOURCE));
            if source != opening.heard {
                let mac = u64::from_be(source) >> 16;
                let fdb = &self.stages.bridge.fdb;
                if !fdb.is_fresh(origin.network, mac, origin.tunnel, self.generation, self.tick) {
                    break;
                }
                opening.heard = source;
            }
            packet.move_start(OUTER_V4_BYTES as isize);
            let ecn = class & 3;
            if ecn != 0 && combine_ecn(packet, ecn).is_err() {
                // The long look says what is wrong.
                packet.move_start(-(OUTER_V4_BYTES as isize));
                break;
            }
            opening.packets += 1;
            opening.bytes += packet.head_bytes() as u64;
            count += 1;
            if ecn == 0 {
                let alike = known.alike(shape, class, source);
                let more = alike.open(&mut packets[count..]);
                opening.packets += more as u64;
                opening.bytes += (more * alike.bytes()) as u64;
                count += more;
            }
        }
        count
    }

    /// Counts what came out of the tunnel before; another one is next.
    #[inline(never)]
    fn count_opened(&self, opening: &mut Opening, next: PortId) {
        if let Some(port) = self.counters.port(opening.tunnel) {
            port.rx_packets.add(opening.packets);
            port.rx_bytes.add(opening.bytes);
        }
        opening.outer_packets += opening.packets;
        opening.outer_bytes += opening.bytes + opening.packets * OUTER_V4_BYTES as u64;
        (opening.tunnel, opening.packets, opening.bytes, opening.heard) = (next, 0, 0, NOBODY);
    }

    /// Takes a packet out of its tunnel, if it is in one, after a long look. Returns the port that
    /// it came by.
    #[inline(never)]
    pub(super) fn open(
        &mut self,
        packet: &mut Packet,
        rule: &IngressRule,
        opening: &mut Opening,
    ) -> Place {
        let (window, bytes) = (*packet.window(), packet.head_bytes());
        let is_ordinary = packet.is_ordinary();
        let opened = decapsulate(packet, &self.tunnels, rule.gateway_mac, &mut opening.last)?;
        let Some(mut origin) = opened else { return Ok(rule.port) };
        if origin.is_shared {
            origin = self.whose(origin, packet);
        } else if is_ordinary && self.cache {
            self.crossing_tunnels.known.note(&window, bytes, origin);
        }
        let Origin { tunnel, trunk, network, .. } = origin;
        let source = packet.source();
        let fdb = &self.stages.bridge.fdb;
        if !fdb.is_fresh(network, source, tunnel, self.generation, self.tick) {
            self.hear_beyond(origin, source)?;
        }
        if let Some(port) = self.counters.port(tunnel) {
            port.rx_packets.add(1);
            port.rx_bytes.add(packet.len() as u64);
        }
        Ok(trunk)
    }

    /// Of networks that share an identifier, the one that a packet is of: whose routes lead to its
    /// source; of several such, the one that has its destination, else the most specific.
    #[inline(never)]
    fn whose(&self, first: Origin, packet: &Packet) -> Origin {
        let Some((source, destination)) = addresses_of(packet.head()) else { return first };
        let rank = |origin: &&Origin| {
            let network = self.tables.network(origin.network)?;
            let routes = &network.overlay.as_ref()?.routes;
            let behind = routes.to(source).map_or(0, |route| route.to.prefix_len());
            let is_behind = network.beyond(source).is_some();
            let is_here = network.subnet_of(destination).is_some();
            Some((is_behind, is_here, behind, std::cmp::Reverse(origin.network)))
        };
        self.tunnels.sharers(first).iter().max_by_key(rank).copied().unwrap_or(first)
    }

    /// A station behind a tunnel was heard: may it be there?
    #[inline(never)]
    fn hear_beyond(&mut self, origin: Origin, source: u64) -> Result<(), DropReason> {
        let Origin { tunnel, network: id, .. } = origin;
        let mac = MacAddress(source);
        let network = self.tables.network(id).ok_or(DropReason::PortGone)?;
        let learns = network.overlay.as_ref().is_some_and(|overlay| overlay.learns);
        let fdb = &mut self.stages.bridge.fdb;
        match network.by_mac.get(&mac) {
            Some(&port) if port == tunnel => {
                fdb.keep_member(id, mac, tunnel, self.generation);
                return Ok(());
            }
            Some(_) => return Err(DropReason::OverlaySender),
            // Ingress refuses these, as on any port.
            None if mac.is_group() || mac == network.gateway_mac => return Ok(()),
            None if !learns => return Err(DropReason::OverlaySender),
            None => {}
        }
        match fdb.hear(id, mac, tunnel, self.tick) {
            Heard::Known => {}
            Heard::New => self.tell(|| Message::Station { network: id, mac, port: tunnel }),
            Heard::Moved => {
                if !self.moves.take(self.now) {
                    return Err(DropReason::StationFlapping);
                }
                self.tell(|| Message::Station { network: id, mac, port: tunnel });
            }
            Heard::ShareFull => self.counters.worker.fdb_share_full.add(1),
            Heard::Full => self.counters.worker.fdb_full.add(1),
        }
        Ok(())
    }
}

/// Source and destination of what a frame carries, if that is IP or ARP.
fn addresses_of(head: &[u8]) -> Option<(IpAddr, IpAddr)> {
    const L3: usize = ethernet::HEADER_BYTES;
    let kind = header_at::<L3>(head, 0).map(|header| u16_at(header, ethernet::TYPE))?;
    let v4 = |bits: u32| IpAddr::V4(Ipv4Addr::from_bits(bits));
    let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
    match kind {
        ethernet::IPV4 => {
            let header = header_at::<{ ipv4::HEADER_BYTES }>(head, L3)?;
            Some((v4(u32_at(header, ipv4::SOURCE)), v4(u32_at(header, ipv4::DESTINATION))))
        }
        ethernet::IPV6 => {
            let header = header_at::<{ ipv6::HEADER_BYTES }>(head, L3)?;
            Some((v6(u128_at(header, ipv6::SOURCE)), v6(u128_at(header, ipv6::DESTINATION))))
        }
        ethernet::ARP => {
            let header = header_at::<{ arp::BYTES }>(head, L3)?;
            Some((v4(u32_at(header, arp::SENDER_IP)), v4(u32_at(header, arp::TARGET_IP))))
        }
        _ => None,
    }
}
