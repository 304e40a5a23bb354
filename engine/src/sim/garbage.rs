//! Frames that no honest host sends.
//!
//! Made from honest ones: cut, flipped, spoofed, lying about lengths and offload, floods of MAC
//! addresses, poisoned ARP and ND. None of it uses a tuple that a question uses, so whatever
//! honest traffic suffers, it does not suffer by chance.

use std::net::IpAddr;

use super::frames::*;
use super::port::WireFrame;
use super::rng::Rng;
use super::topology::{Place, Topology};
use crate::id::MacAddress;
use crate::packet::Offload;

/// A handful of bad frames that a host sends at once.
pub(super) fn garbage(rng: &mut Rng, topology: &Topology, host: usize) -> Vec<WireFrame> {
    let count = 1 + rng.index(8);
    match rng.below(8) {
        0 => (0..count).map(|_| noise(rng)).collect(),
        1 => (0..count).map(|_| mutated(rng, topology, host)).collect(),
        2 => (0..count).map(|_| cut(rng, topology, host)).collect(),
        3 => (0..count).map(|_| spoofed(rng, topology, host)).collect(),
        4 => (0..count).map(|_| poisoned(rng, topology, host)).collect(),
        5 => mac_flood(rng, topology, host),
        6 => (0..count).map(|_| odd_fragment(rng, topology, host)).collect(),
        _ => (0..count).map(|_| lying_offload(rng, topology, host)).collect(),
    }
}

/// Random bytes, now and then behind a plausible Ethernet header.
fn noise(rng: &mut Rng) -> WireFrame {
    let count = rng.index(200);
    let mut bytes = rng.bytes(count);
    if bytes.len() > ETHERNET_BYTES && rng.chance(700) {
        let ethertype = *rng.pick(&[ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, 0x8100, 0x88a8]);
        bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        bytes[0] &= 0xfe;
    }
    WireFrame::whole(bytes)
}

/// The MAC address that a host's packets to elsewhere go to.
fn gateway_mac(topology: &Topology, host: usize) -> MacAddress {
    match topology.places[host] {
        Place::Inside(_, network) => {
            topology.tables.network(network).expect("places name networks that exist").gateway_mac
        }
        Place::Outside => MacAddress::new([2, 0x42, 192, 0, 2, 10]),
    }
}

/// Somebody's address.
fn anybody(rng: &mut Rng, topology: &Topology, v6: bool) -> IpAddr {
    let address = match rng.below(6) {
        0 => topology.uplink_address(v6),
        1 if v6 => IpAddr::V6(u128::from(rng.number()).into()),
        1 => IpAddr::V4((rng.number() as u32).into()),
        _ => rng.pick(&topology.hosts).address(v6).expect("hosts have both families"),
    };
    if address.is_ipv6() == v6 { address } else { topology.uplink_address(v6) }
}

/// A transport header with ports that no question uses.
fn transport(rng: &mut Rng, source: IpAddr, target: IpAddr) -> (u8, Vec<u8>) {
    let ports = (1 + rng.below(1_000) as u16, 10_000 + rng.below(20_000) as u16);
    let count = rng.index(80);
    let content = rng.bytes(count);
    let (protocol, mut bytes) = match rng.below(5) {
        0 | 1 => (UDP, udp(ports.0, ports.1, &content)),
        2 => {
            let header = TcpHeader {
                source_port: ports.0,
                destination_port: ports.1,
                sequence: rng.number() as u32,
                acknowledgment: rng.number() as u32,
                flags: rng.number() as u8,
                mss: rng.chance(500).then_some(1_460),
                nonce: None,
            };
            (TCP, header.segment(&content))
        }
        3 => {
            let kind = (rng.below(160) as u8, rng.below(6) as u8);
            let kind = if matches!(kind.0, 133..=137) { (1, 0) } else { kind };
            let protocol = if source.is_ipv6() { ICMPV6 } else { ICMP };
            return (protocol, icmp(source, target, kind, rng.number() as u32, &content));
        }
        _ => (rng.number() as u8, content),
    };
    if checksum_offset(protocol).is_some_and(|at| bytes.len() >= at + 2) {
        fill_checksum(source, target, protocol, &mut bytes);
    }
    (protocol, bytes)
}

/// A frame that would be right, from the host's own address to anybody.
fn plausible(rng: &mut Rng, topology: &Topology, host: usize) -> Vec<u8> {
    let v6 = rng.chance(500);
    let source = topology.hosts[host].address(v6).expect("hosts have both families");
    let target = anybody(rng, topology, v6);
    framed(rng, topology, host, (source, target))
}

fn framed(
    rng: &mut Rng,
    topology: &Topology,
    host: usize,
    (source, target): (IpAddr, IpAddr),
) -> Vec<u8> {
    let (protocol, bytes) = transport(rng, source, target);
    let mut header = IpHeader::new(source, target, protocol);
    header.hops = *rng.pick(&[64, 64, 2, 1, 0, 255]);
    header.dont_fragment = rng.chance(300);
    let mac = topology.hosts[host].mac;
    ethernet(gateway_mac(topology, host), mac, header.ethertype(), &header.packet(&bytes))
}

fn mutated(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let mut bytes = plausible(rng, topology, host);
    // The first bytes behind the MAC addresses: types, lengths, header lengths.
    let end = bytes.len().min(80);
    for _ in 0..1 + rng.index(4) {
        let at = 12 + rng.index(end - 12);
        bytes[at] =
            if rng.chance(500) { rng.number() as u8 } else { bytes[at] ^ 1 << rng.below(8) };
    }
    WireFrame::whole(bytes)
}

fn cut(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let mut bytes = plausible(rng, topology, host);
    bytes.truncate(rng.index(bytes.len()));
    WireFrame::whole(bytes)
}

fn spoofed(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let v6 = rng.chance(500);
    let (source, target) = (anybody(rng, topology, v6), anybody(rng, topology, v6));
    let mut bytes = framed(rng, topology, host, (source, target));
    if rng.chance(400) {
        let other = match rng.below(3) {
            0 => gateway_mac(topology, host),
            1 => MacAddress(rng.number() >> 16),
            _ => rng.pick(&topology.hosts).mac,
        };
        bytes[6..12].copy_from_slice(&other.bytes());
    }
    if rng.chance(300) {
        let other = rng.pick(&topology.hosts).mac;
        bytes[..6].copy_from_slice(&other.bytes());
    }
    WireFrame::whole(bytes)
}

/// ARP and ND that claim somebody else's address for the sender. From an endpoint only: on the
/// uplink's link nobody can tell, and a kernel would believe it too.
fn poisoned(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let mac = topology.hosts[host].mac;
    if topology.places[host] == Place::Outside {
        return cut(rng, topology, host);
    }
    let v6 = rng.chance(500);
    let victim = anybody(rng, topology, v6);
    let victim = match topology.places[host] {
        Place::Inside(_, network) if rng.chance(400) => topology.gateway_address(network, v6),
        _ => victim,
    };
    let to = *rng.pick(&[MacAddress::BROADCAST, gateway_mac(topology, host)]);
    match victim {
        IpAddr::V4(sender) => {
            let operation = *rng.pick(&[1, 2, 3]);
            let target = *rng.pick(&[sender, [10, 1, 0, 10].into(), [10, 1, 0, 1].into()]);
            let arp = Arp { operation, sender_mac: mac, sender, target_mac: mac, target };
            WireFrame::whole(ethernet(to, mac, ETHERTYPE_ARP, &arp.message()))
        }
        IpAddr::V6(target) => {
            let kind = *rng.pick(&[135, 136]);
            let message = Neighbour { kind, flags: 0x20, target, mac: Some(mac) };
            let group: std::net::Ipv6Addr = std::net::Ipv6Addr::from_bits(0xff02 << 112 | 1);
            let mut header = IpHeader::new(target.into(), group.into(), ICMPV6);
            header.hops = 255;
            let packet = header.packet(&message.message(target, group));
            WireFrame::whole(ethernet(group_mac(group), mac, ETHERTYPE_IPV6, &packet))
        }
    }
}

fn mac_flood(rng: &mut Rng, topology: &Topology, host: usize) -> Vec<WireFrame> {
    let flood = |_| {
        let mut bytes = plausible(rng, topology, host);
        let (to, from) = (rng.number() >> 16, rng.number() >> 16);
        let group_bit = 1 << 40;
        bytes[..6].copy_from_slice(&MacAddress(to & !group_bit).bytes());
        bytes[6..12].copy_from_slice(&MacAddress(from & !group_bit).bytes());
        WireFrame::whole(bytes)
    };
    (0..50).map(flood).collect()
}

/// First identification of odd fragments. A host that sends some with the number of its own honest
/// datagram to the same target breaks that itself: RFC 5722 has all of it dropped. Honest hosts
/// count their packets from 1 and do not come this far.
const ODD_IDENTIFICATION_MIN: u16 = 60_000;

/// Fragments that overlap, are tiny, end beyond 64 KiB, or never become whole.
fn odd_fragment(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let v6 = rng.chance(500);
    let source = topology.hosts[host].address(v6).expect("hosts have both families");
    let target = anybody(rng, topology, v6);
    let content = rng.bytes(96);
    let mut header = IpHeader::new(source, target, UDP);
    header.identification = ODD_IDENTIFICATION_MIN + rng.below(4) as u16;
    let mtu = if v6 { 48 + 16 } else { 20 + 16 };
    let parts = header.fragments(&udp(9, 20_000, &content), mtu);
    let mut packet = rng.pick(&parts).clone();
    if rng.chance(300) {
        let at = if v6 { 42 } else { 6 };
        packet[at] |= 0x1f;
        packet[at + 1] |= 0xf8;
        if !v6 {
            packet[10..12].fill(0);
            let checksum = !sum(&packet[..20]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    let mac = topology.hosts[host].mac;
    WireFrame::whole(ethernet(gateway_mac(topology, host), mac, header.ethertype(), &packet))
}

fn lying_offload(rng: &mut Rng, topology: &Topology, host: usize) -> WireFrame {
    let bytes = plausible(rng, topology, host);
    let start = *rng.pick(&[0, 14, 34, 54, bytes.len() as u16, 1_000, u16::MAX]);
    let offload = if rng.chance(500) {
        Offload::NeedsChecksum { start, offset: *rng.pick(&[0, 2, 6, 16, 500, u16::MAX]) }
    } else {
        let kind = *rng.pick(&[
            crate::packet::GsoKind::TcpV4,
            crate::packet::GsoKind::TcpV6,
            crate::packet::GsoKind::Udp,
        ]);
        let segment_bytes = *rng.pick(&[1, 8, 1_448, u16::MAX]);
        Offload::Gso { kind, segment_bytes, start, ecn: rng.chance(500) }
    };
    WireFrame { bytes, offload }
}
