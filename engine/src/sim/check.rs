//! The judge of everything that leaves the gateway.
//!
//! Each frame is read by etherparse, which shares no code with the engine, and held against the
//! tables: is it whole, are its checksums right, may it leave by this port, may it be here at all.
//! Two kinds of fault: of *place* (wrong network, wrong source, poisoned ARP, too big), which
//! nothing excuses, and of *form* (lengths, checksums), which a broken input excuses, because a
//! gateway hands a broken packet on as broken as it came.

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::datagram::Datagram;
use super::frames::*;
use super::ledger::Ledger;
use super::payload::{Payload, REPLY};
use super::port::WireFrame;
use super::topology::Topology;
use super::tunnels::{Beyond, Opened};
use crate::id::{MacAddress, PortId};
use crate::packet::{GsoKind, Offload};
use crate::port::Caps;
use crate::tables::{Network, PortKind, Tables, Uplink};

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may not be there.
    Place(String),
    /// It is broken.
    Form(String),
}

fn place(text: impl Into<String>) -> Result<(), Fault> {
    Err(Fault::Place(text.into()))
}

fn form(text: impl Into<String>) -> Result<(), Fault> {
    Err(Fault::Form(text.into()))
}

/// Judges frames by the tables that the world was built with.
#[derive(Debug)]
pub(super) struct Judge {
    tables: Arc<Tables>,
    caps: Vec<Caps>,
    /// Hosts behind tunnels, which the tables do not know all.
    beyond: Vec<Beyond>,
    /// No packet has a partial checksum, so none is quoted.
    quotes_are_whole: bool,
}

impl Judge {
    pub(super) fn new(topology: &Topology) -> Judge {
        let (caps, beyond) = (topology.caps.clone(), topology.beyond.clone());
        let quotes_are_whole = caps.iter().all(|caps| !caps.checksum && !caps.tso);
        Judge { tables: Arc::new(topology.tables.clone()), caps, beyond, quotes_are_whole }
    }

    /// Judges a frame in a tunnel, as one that has left by that tunnel's port.
    pub(super) fn judge_opened(&self, opened: &Opened, ledger: &Ledger) -> Result<(), Fault> {
        let Opened { network, tunnel, inner } = opened;
        let bytes = inner.bytes.len() - ETHERNET_BYTES;
        let mtu = self.tables.port(*tunnel).map_or(0, |table| usize::from(table.mtu));
        if bytes > mtu {
            return place(format!("{bytes} bytes in a tunnel that takes {mtu}"));
        }
        let network = self.tables.network(*network).expect("it exists");
        let to = mac_at(&inner.bytes, 0);
        let known = self.beyond_in(network, |beyond| beyond.mac == to);
        // Whom nobody has heard of yet is sought behind all tunnels, but honest hosts ask first.
        let question = Datagram::parse(&inner.bytes[ETHERNET_BYTES..]).ok();
        let is_question = question.and_then(|datagram| question_of(&datagram)).is_some();
        let asks_first = is_question || !ledger.has_broken_inputs();
        if asks_first && known.is_some_and(|beyond| beyond.tunnel != *tunnel) {
            return place(format!("for {to}, who is behind another tunnel"));
        }
        let from = mac_at(&inner.bytes, 6);
        if self.beyond_in(network, |beyond| beyond.mac == from).is_some() {
            return place(format!("of {from}, out of one tunnel and into another"));
        }
        self.judge_in_network(network, *tunnel, &inner.bytes)?;
        judge_form(inner, self.quotes_are_whole)?;
        self.judge_content(inner, ledger)
    }

    /// Judges a frame that has left by a port.
    pub(super) fn judge(
        &self,
        port: PortId,
        frame: &WireFrame,
        ledger: &Ledger,
    ) -> Result<(), Fault> {
        if frame.bytes.len() < ETHERNET_BYTES {
            return place("shorter than an Ethernet header");
        }
        self.judge_offload(port, frame.offload)?;
        self.judge_size(port, frame)?;
        let table = self.tables.port(port).ok_or(Fault::Place("there is no such port".into()))?;
        match &table.kind {
            PortKind::Uplink(id) => {
                let uplink = self.tables.uplink(*id).expect("the world has this uplink");
                self.judge_on_uplink(uplink, &frame.bytes)?;
            }
            PortKind::Endpoint(attachment) => {
                let network = self.tables.network(attachment.network).expect("it exists");
                self.judge_in_network(network, port, &frame.bytes)?;
            }
            PortKind::Tunnel(_) | PortKind::Lane(_) => {
                return place("a port without a device has no wire of its own");
            }
        }
        judge_form(frame, self.quotes_are_whole)?;
        self.judge_content(frame, ledger)
    }

    fn judge_offload(&self, port: PortId, offload: Offload) -> Result<(), Fault> {
        let caps = self.caps[port.index()];
        let may = match offload {
            Offload::None => true,
            Offload::NeedsChecksum { .. } => caps.checksum,
            Offload::Gso { kind: GsoKind::Udp, .. } => caps.uso,
            Offload::Gso { .. } => caps.tso,
            Offload::Tunnelled { .. } => caps.tunnelled,
        };
        if may { Ok(()) } else { place(format!("{offload:?} to a port with {caps:?}")) }
    }

    fn judge_size(&self, port: PortId, frame: &WireFrame) -> Result<(), Fault> {
        let configured = self.tables.port(port).map_or(u16::MAX, |table| table.mtu);
        let mtu = usize::from(configured.min(self.caps[port.index()].mtu));
        let bytes = match frame.offload {
            Offload::Gso { segment_bytes, start, kind, .. } => {
                let start = usize::from(start);
                let header_bytes = match kind {
                    GsoKind::Udp => 8,
                    _ => frame.bytes.get(start + 12).map_or(20, |word| usize::from(word >> 4) * 4),
                };
                // One that holds no full segment is as long as it is.
                let segment = start - ETHERNET_BYTES + header_bytes + usize::from(segment_bytes);
                segment.min(frame.bytes.len() - ETHERNET_BYTES)
            }
            _ => frame.bytes.len() - ETHERNET_BYTES,
        };
        if bytes <= mtu { Ok(()) } else { place(format!("{bytes} bytes at an MTU of {mtu}")) }
    }

    fn judge_on_uplink(&self, uplink: &Uplink, bytes: &[u8]) -> Result<(), Fault> {
        if mac_at(bytes, 6) != uplink.mac {
            return place(format!("source MAC address {} on the uplink", mac_at(bytes, 6)));
        }
        let packet = &bytes[ETHERNET_BYTES..];
        match be16(bytes, 12) {
            ETHERTYPE_ARP => match Arp::parse(packet) {
                Some(arp) if arp.sender_mac == uplink.mac && uplink.owns(arp.sender.into()) => {
                    Ok(())
                }
                arp => place(format!("{arp:?} on the uplink")),
            },
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => match Datagram::parse_quoted(packet) {
                Ok(datagram) if uplink.owns(datagram.source) => {
                    if self.tables.network_with_subnet_of(datagram.destination).is_some() {
                        return place("to a network's own address on the uplink");
                    }
                    judge_neighbour(&datagram, |address| uplink.owns(address).then_some(uplink.mac))
                }
                Ok(datagram) => place(format!("source {} on the uplink", datagram.source)),
                Err(text) => form(text),
            },
            other => place(format!("EtherType {other:#06x} on the uplink")),
        }
    }

    fn judge_in_network(&self, network: &Network, port: PortId, bytes: &[u8]) -> Result<(), Fault> {
        let (to, from) = (mac_at(bytes, 0), mac_at(bytes, 6));
        if let Some(&owner) = network.by_mac.get(&to)
            && owner != port
        {
            return place(format!("for {to}, who is behind another port"));
        }
        let is_gateway = from == network.gateway_mac;
        let member = network.by_mac.get(&from).and_then(|&port| self.tables.port(port));
        let beyond = self.beyond_in(network, |beyond| beyond.mac == from);
        if !is_gateway && member.is_none() && beyond.is_none() {
            return place(format!("source MAC address {from} is nobody's in {}", network.name));
        }
        let packet = &bytes[ETHERNET_BYTES..];
        let owner = |address: IpAddr| self.owner_of(network, address);
        match be16(bytes, 12) {
            ETHERTYPE_ARP => match Arp::parse(packet) {
                Some(arp) if arp.sender.is_unspecified() => Ok(()),
                Some(arp) if owner(arp.sender.into()) == Some(arp.sender_mac) => Ok(()),
                arp => place(format!("{arp:?} in {}", network.name)),
            },
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => match Datagram::parse_quoted(packet) {
                Ok(datagram) if is_gateway => {
                    self.judge_routed(network, &datagram)?;
                    judge_neighbour(&datagram, owner)
                }
                Ok(datagram) => {
                    let is_own = match (member.map(|table| &table.kind), beyond) {
                        (_, Some(beyond)) => beyond.owns(datagram.source),
                        (Some(PortKind::Endpoint(own)), _) => own.owns(datagram.source),
                        _ => false,
                    };
                    if !is_own && !datagram.source.is_unspecified() {
                        let text = format!("{from} sends as {}", datagram.source);
                        // Who is behind a tunnel is the other end's to look after.
                        return if beyond.is_some() { form(text) } else { place(text) };
                    }
                    judge_neighbour(&datagram, owner)
                }
                Err(text) => form(text),
            },
            _ => Ok(()),
        }
    }

    fn beyond_in(&self, network: &Network, is_it: impl Fn(&Beyond) -> bool) -> Option<&Beyond> {
        self.beyond.iter().find(|beyond| beyond.network == network.id && is_it(beyond))
    }

    /// Who really has an address in a network.
    fn owner_of(&self, network: &Network, address: IpAddr) -> Option<MacAddress> {
        if network.is_gateway(address) {
            return Some(network.gateway_mac);
        }
        if let Some(beyond) = self.beyond_in(network, |beyond| beyond.owns(address)) {
            return Some(beyond.mac);
        }
        let port = self.tables.port(*network.by_address.get(&address)?)?;
        match &port.kind {
            PortKind::Endpoint(attachment) => Some(attachment.mac),
            PortKind::Uplink(_) | PortKind::Tunnel(_) | PortKind::Lane(_) => None,
        }
    }

    /// Questions that must reach nobody are nowhere, and a router takes one hop of each.
    fn judge_content(&self, frame: &WireFrame, ledger: &Ledger) -> Result<(), Fault> {
        let Ok(datagram) = Datagram::parse(&frame.bytes[ETHERNET_BYTES..]) else { return Ok(()) };
        let Some(nonce) = question_of(&datagram) else { return Ok(()) };
        if ledger.is_denied(nonce) {
            return place(format!("isolation: {}", ledger.describe(nonce)));
        }
        let from = mac_at(&frame.bytes, 6);
        let is_routed = self.tables.uplinks.iter().flatten().any(|uplink| uplink.mac == from)
            || self.tables.networks.iter().flatten().any(|network| network.gateway_mac == from);
        let expected = if is_routed { HOPS - 1 } else { HOPS };
        match datagram.hops == expected {
            true => Ok(()),
            false => form(format!("{} hops left, not {expected}", datagram.hops)),
        }
    }

    /// A packet that the gateway routed into a network, or made itself.
    fn judge_routed(&self, network: &Network, datagram: &Datagram<'_>) -> Result<(), Fault> {
        let source = datagram.source;
        if network.is_gateway(source) || network.subnet_of(source).is_some() {
            return Ok(());
        }
        if network.internal {
            return place(format!("{source} in the internal network {}", network.name));
        }
        if self.tables.network_with_subnet_of(source).is_none() {
            return Ok(());
        }
        // Another network's member: only to what is published, and not as a fragment without
        // ports, which cannot be told here.
        let is_later = datagram.fragment.is_some_and(|part| part.offset > 0);
        if is_later || datagram.payload.len() < 4 {
            return Ok(());
        }
        let port = be16(datagram.payload, 2);
        if self.tables.nat.statics.by_inside(network.id, datagram.destination).is_some() {
            return Ok(());
        }
        let publish = &self.tables.publish;
        match publish.by_target(network.id, datagram.destination, datagram.protocol, port) {
            Some(_) => Ok(()),
            None => {
                let to = datagram.destination;
                place(format!("{source} of another network to {to}:{port}, not published"))
            }
        }
    }
}

/// ND says the truth about who has an address.
fn judge_neighbour(
    datagram: &Datagram<'_>,
    owner: impl Fn(IpAddr) -> Option<MacAddress>,
) -> Result<(), Fault> {
    if datagram.protocol != ICMPV6 || datagram.hops != 255 {
        return Ok(());
    }
    let Some(message) = Neighbour::parse(datagram.payload) else { return Ok(()) };
    let Some(mac) = message.mac else { return Ok(()) };
    let whose = if message.kind == 136 { message.target.into() } else { datagram.source };
    match owner(whose) {
        Some(real) if real == mac => Ok(()),
        real => place(format!("ND says that {whose} is at {mac}, it is at {real:?}")),
    }
}

/// The frame is as it should be by etherparse, checksums included.
fn judge_form(frame: &WireFrame, quotes_are_whole: bool) -> Result<(), Fault> {
    let sliced = match SlicedPacket::from_ethernet(&frame.bytes) {
        Ok(sliced) => sliced,
        Err(error) => return form(error.to_string()),
    };
    let fragmented = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if header.calc_header_checksum() != header.header_checksum {
                return form("IPv4 header checksum is wrong");
            }
            ip.is_payload_fragmented()
        }
        Some(NetSlice::Ipv6(ip)) => ip.is_payload_fragmented(),
        _ => return Ok(()),
    };
    if fragmented {
        return match frame.offload {
            Offload::None => Ok(()),
            offload => form(format!("a fragment with {offload:?}")),
        };
    }
    let datagram = match Datagram::parse(&frame.bytes[ETHERNET_BYTES..]) {
        Ok(datagram) => datagram,
        Err(text) => return form(text),
    };
    judge_transport(&sliced, frame.offload)?;
    if frame.offload != Offload::None {
        judge_partial(frame, &datagram)?;
    } else if matches!(datagram.protocol, ICMP | ICMPV6) {
        judge_quote(&datagram, quotes_are_whole)?;
    }
    Ok(())
}

fn judge_transport(sliced: &SlicedPacket<'_>, offload: Offload) -> Result<(), Fault> {
    let right = match (&sliced.net, &sliced.transport) {
        (_, Some(TransportSlice::Udp(_) | TransportSlice::Tcp(_))) if offload != Offload::None => {
            true
        }
        (Some(NetSlice::Ipv4(ip)), Some(transport)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv4(source, destination) == Ok(tcp.checksum())
                }
                TransportSlice::Udp(udp) if udp.checksum() == 0 => true,
                TransportSlice::Udp(udp) => {
                    udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload())
                        == Ok(udp.checksum())
                }
                TransportSlice::Icmpv4(icmp) => {
                    icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
                }
                _ => true,
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(transport)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv6(source, destination) == Ok(tcp.checksum())
                }
                TransportSlice::Udp(udp) => {
                    udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload())
                        == Ok(udp.checksum())
                }
                TransportSlice::Icmpv6(icmp) => icmp.is_checksum_valid(source, destination),
                _ => true,
            }
        }
        _ => true,
    };
    if right { Ok(()) } else { form("transport checksum is wrong") }
}

fn judge_partial(frame: &WireFrame, datagram: &Datagram<'_>) -> Result<(), Fault> {
    let (start, offset) = match frame.offload {
        Offload::NeedsChecksum { start, offset } => (start, Some(usize::from(offset))),
        Offload::Gso { start, .. } => (start, checksum_offset(datagram.protocol)),
        // Only a tunnel's own tests look inside.
        Offload::None | Offload::Tunnelled { .. } => return Ok(()),
    };
    let headers = datagram.bytes.len() - datagram.payload.len();
    let expected = ETHERNET_BYTES + headers;
    if usize::from(start) != expected || offset != checksum_offset(datagram.protocol) {
        return form(format!("{:?}, but the transport header is at {expected}", frame.offload));
    }
    match datagram.checksum_is_right(frame.offload) {
        true => Ok(()),
        false => form("partial checksum is not the pseudo-header's sum"),
    }
}

/// What an ICMP error quotes has a right header, and a right transport checksum if all of it is
/// there and was finished when it was quoted.
fn judge_quote(datagram: &Datagram<'_>, is_whole: bool) -> Result<(), Fault> {
    let message = datagram.payload;
    let is_error = match datagram.protocol {
        ICMP => matches!(message.first(), Some(3 | 4 | 5 | 11 | 12)),
        _ => matches!(message.first(), Some(1..=4)),
    };
    if !is_error || message.len() < 8 {
        return Ok(());
    }
    match Datagram::parse_quoted(&message[8..]) {
        Err(text) => form(format!("in an ICMP error's quote: {text}")),
        Ok(_) => match Datagram::parse(&message[8..]) {
            Ok(quoted) if is_whole && !quoted.checksum_is_right(Offload::None) => {
                form("in an ICMP error's quote: transport checksum is wrong")
            }
            _ => Ok(()),
        },
    }
}

/// The nonce of the question that a packet asks.
pub(super) fn question_of(datagram: &Datagram<'_>) -> Option<u64> {
    if datagram.fragment.is_some_and(|part| part.offset > 0) {
        return None;
    }
    match datagram.protocol {
        TCP => TcpHeader::parse(datagram.payload)
            .filter(|(header, _)| header.flags & (flags::SYN | flags::ACK) == flags::SYN)
            .and_then(|(header, _)| header.nonce),
        UDP | ICMP | ICMPV6 => {
            let is_request = match datagram.protocol {
                ICMP => datagram.payload.first() == Some(&8),
                ICMPV6 => datagram.payload.first() == Some(&128),
                _ => true,
            };
            Payload::read(datagram.payload.get(8..)?)
                .filter(|payload| is_request && payload.flags & REPLY == 0)
                .map(|payload| payload.nonce)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::Plan;
    use crate::sim::rng::Rng;
    use crate::sim::topology::{TopologyPlan, UPLINK};

    struct Scene {
        judge: Judge,
        ledger: Ledger,
        topology: Topology,
    }

    fn scene() -> Scene {
        let plan = TopologyPlan {
            uplink_mtu: 1_500,
            offloads: false,
            icc: true,
            tunnels: None,
            tight: false,
            short_timeouts: false,
        };
        let topology = Topology::new(plan, &mut Rng::new(1));
        let judge = Judge::new(&topology);
        Scene {
            judge,
            ledger: Ledger::new(&Plan::lossless(1, 1), (32_768, 65_535), topology.pool()),
            topology,
        }
    }

    impl Scene {
        /// A UDP frame of the gateway by a port, from and to these addresses.
        fn frame(
            &self,
            from_mac: MacAddress,
            to: usize,
            ends: (&str, &str),
            bytes: usize,
        ) -> WireFrame {
            let (source, destination) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
            let mut segment = udp(1, 53, &vec![0; bytes]);
            fill_checksum(source, destination, UDP, &mut segment);
            let header = IpHeader::new(source, destination, UDP);
            let mac = self.topology.hosts[to].mac;
            let packet = header.packet(&segment);
            WireFrame::whole(ethernet(mac, from_mac, header.ethertype(), &packet))
        }

        fn judge(&self, port: PortId, frame: &WireFrame) -> Result<(), Fault> {
            self.judge.judge(port, frame, &self.ledger)
        }
    }

    fn is_place(result: Result<(), Fault>) -> bool {
        matches!(result, Err(Fault::Place(_)))
    }

    const GATEWAY: MacAddress = MacAddress(0x0242_0a01_0001);
    const UPLINK_MAC: MacAddress = MacAddress(0x0242_c000_020a);

    #[test]
    fn a_right_frame_is_right() {
        let scene = scene();
        let inside = scene.frame(GATEWAY, 4, ("192.0.2.20", "10.1.0.10"), 1_472);
        assert_eq!(scene.judge(PortId(1), &inside), Ok(()));
        let outside = scene.frame(UPLINK_MAC, 0, ("2001:db8::10", "2001:db8::1"), 99);
        assert_eq!(scene.judge(UPLINK, &outside), Ok(()));
    }

    #[test]
    fn a_wrong_checksum_is_a_fault_of_form() {
        let scene = scene();
        for at in [24, 40, 45] {
            let mut frame = scene.frame(GATEWAY, 4, ("192.0.2.20", "10.1.0.10"), 10);
            frame.bytes[at] ^= 1;
            let result = scene.judge(PortId(1), &frame);
            assert!(matches!(result, Err(Fault::Form(_))), "{at}: {result:?}");
        }
    }

    #[test]
    fn too_big_and_misplaced_frames_are_faults_of_place() {
        let scene = scene();
        let frame = |from, to, ends, bytes| scene.frame(from, to, ends, bytes);
        let outside = ("192.0.2.20", "10.1.0.10");
        // Larger than the MTU.
        assert!(is_place(scene.judge(PortId(1), &frame(GATEWAY, 4, outside, 1_473))));
        // At a port that is not the receiver's.
        assert!(is_place(scene.judge(PortId(2), &frame(GATEWAY, 4, outside, 10))));
        // From nobody in this network.
        assert!(is_place(scene.judge(PortId(1), &frame(MacAddress(2), 4, outside, 10))));
        // A container's own address on the uplink.
        let leak = frame(UPLINK_MAC, 0, ("10.1.0.10", "192.0.2.1"), 10);
        assert!(is_place(scene.judge(UPLINK, &leak)));
        // Another network's member, at a port that is published, and at one that is not.
        let published = frame(GATEWAY, 4, ("10.2.0.10", "10.1.0.10"), 10);
        assert_eq!(scene.judge(PortId(1), &published), Ok(()));
        let unpublished = frame(GATEWAY, 5, ("10.2.0.10", "10.1.0.11"), 10);
        assert!(is_place(scene.judge(PortId(2), &unpublished)));
        // The outside in the internal network.
        let internal = frame(MacAddress(0x0242_0a03_0001), 10, ("192.0.2.1", "10.3.0.10"), 10);
        assert!(is_place(scene.judge(PortId(7), &internal)));
    }

    #[test]
    fn poisoned_arp_is_a_fault_of_place() {
        let scene = scene();
        let liar = scene.topology.hosts[5].mac;
        for (mac, is_lie) in [(liar, true), (GATEWAY, false)] {
            let arp = Arp {
                operation: 2,
                sender_mac: mac,
                sender: [10, 1, 0, 1].into(),
                target_mac: scene.topology.hosts[4].mac,
                target: [10, 1, 0, 10].into(),
            };
            let to = scene.topology.hosts[4].mac;
            let frame = WireFrame::whole(ethernet(to, mac, ETHERTYPE_ARP, &arp.message()));
            assert_eq!(is_place(scene.judge(PortId(1), &frame)), is_lie);
        }
    }

    #[test]
    fn offload_needs_a_port_that_takes_it() {
        let scene = scene();
        let mut frame = scene.frame(GATEWAY, 4, ("192.0.2.20", "10.1.0.10"), 10);
        frame.offload = Offload::NeedsChecksum { start: 34, offset: 6 };
        assert!(is_place(scene.judge(PortId(1), &frame)));
    }
}
