//! Frames that hosts of the small gateway send.

use std::net::{IpAddr, Ipv6Addr};

use engine::sim::WireFrame;
use engine::sim::frames::{
    Arp, ETHERTYPE_ARP, ETHERTYPE_IPV6, ICMP, ICMPV6, IpHeader, Neighbour, TCP, TcpHeader, UDP,
    ethernet, fill_checksum, fill_partial_checksum, flags, group_mac, icmp, solicited_node,
    tcp_gso,
};
use engine::{MacAddress, Offload};

use super::Host;

/// TTL that is not the usual one.
pub(crate) fn with_hops(mut header: IpHeader, hops: u8) -> IpHeader {
    header.hops = hops;
    header
}

/// A packet from a host by way of the gateway.
pub(crate) fn routed(from: &Host, header: &IpHeader, payload: &[u8]) -> Vec<u8> {
    ethernet(from.gateway_mac, from.mac, header.ethertype(), &header.packet(payload))
}

/// A host's own IP header towards an address.
pub(crate) fn header(from: &Host, to: IpAddr, protocol: u8) -> IpHeader {
    IpHeader::new(from.ip(to.is_ipv6()), to, protocol)
}

/// A UDP datagram, without headers below.
pub(crate) fn datagram(header: &IpHeader, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = engine::sim::frames::udp(ports.0, ports.1, payload);
    fill_checksum(header.source, header.destination, UDP, &mut datagram);
    datagram
}

/// UDP by way of the gateway.
pub(crate) fn udp(from: &Host, source_port: u16, to: (IpAddr, u16)) -> Vec<u8> {
    let header = header(from, to.0, UDP);
    routed(from, &header, &datagram(&header, (source_port, to.1), b"payload"))
}

/// Both sides begin at 1,000, and send and acknowledge nothing behind their SYN.
fn tcp_header(source_port: u16, destination_port: u16, flags: u8) -> TcpHeader {
    let has = |flag| flags & flag != 0;
    TcpHeader {
        source_port,
        destination_port,
        sequence: 1_000 + u32::from(!has(flags::SYN)),
        acknowledgment: if has(flags::ACK) { 1_001 } else { 0 },
        flags,
        mss: None,
        nonce: None,
    }
}

/// TCP without payload by way of the gateway.
pub(crate) fn tcp(from: &Host, source_port: u16, to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let header = header(from, to.0, TCP);
    let mut segment = tcp_header(source_port, to.1, flags).segment(b"");
    fill_checksum(header.source, header.destination, TCP, &mut segment);
    routed(from, &header, &segment)
}

/// A TCP segment that announces the largest segment that its sender takes.
pub(crate) fn announcement(
    header: &IpHeader,
    (source_port, destination_port): (u16, u16),
    flags: u8,
    mss: Option<u16>,
) -> Vec<u8> {
    let tcp = TcpHeader { mss, ..tcp_header(source_port, destination_port, flags) };
    let mut segment = tcp.segment(b"");
    fill_checksum(header.source, header.destination, TCP, &mut segment);
    segment
}

/// Payload bytes of one segment of a super-frame.
pub(crate) const SEGMENT_BYTES: u16 = 1_400;

/// A TCP super-frame to a MAC address.
pub(crate) fn super_frame(
    from: &Host,
    mac: MacAddress,
    ports: (u16, u16),
    to: IpAddr,
    payload: &[u8],
) -> WireFrame {
    let header = header(from, to, TCP);
    let mut segment = tcp_header(ports.0, ports.1, flags::ACK).segment(payload);
    fill_partial_checksum(header.source, header.destination, TCP, &mut segment);
    let start = if to.is_ipv6() { 54 } else { 34 };
    WireFrame {
        bytes: ethernet(mac, from.mac, header.ethertype(), &header.packet(&segment)),
        offload: Offload::Gso {
            kind: tcp_gso(to.is_ipv6()),
            segment_bytes: SEGMENT_BYTES,
            start,
            ecn: false,
        },
    }
}

/// An echo request by way of the gateway.
pub(crate) fn echo(from: &Host, identifier: u16, to: IpAddr) -> Vec<u8> {
    let (protocol, kind) = if to.is_ipv6() { (ICMPV6, 128) } else { (ICMP, 8) };
    let header = header(from, to, protocol);
    let word = u32::from(identifier) << 16 | 1;
    routed(from, &header, &icmp(header.source, to, (kind, 0), word, b"ping"))
}

/// UDP straight to another member's MAC address.
pub(crate) fn bridged(from: &Host, to: &Host, v6: bool) -> Vec<u8> {
    let header = header(from, to.ip(v6), UDP);
    let datagram = datagram(&header, (40_000, 80), b"payload");
    ethernet(to.mac, from.mac, header.ethertype(), &header.packet(&datagram))
}

/// A frame of no known protocol between two MAC addresses.
pub(crate) fn strange(from: MacAddress, to: MacAddress) -> Vec<u8> {
    ethernet(to, from, 0x88b5, &[0; 50])
}

/// "Who has this address?", by ARP or neighbour discovery.
pub(crate) fn who_has(from: &Host, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(target) => {
            let arp = Arp {
                operation: 1,
                sender_mac: from.mac,
                sender: from.ipv4,
                target_mac: MacAddress(0),
                target,
            };
            ethernet(MacAddress::BROADCAST, from.mac, ETHERTYPE_ARP, &arp.message())
        }
        IpAddr::V6(target) => {
            let group = solicited_node(target);
            let ask = Neighbour { kind: 135, flags: 0, target, mac: Some(from.mac) };
            discovery(from, group_mac(group), group, &ask)
        }
    }
}

/// "I have this address", to the gateway, by ARP or neighbour discovery.
pub(crate) fn i_have(from: &Host, address: IpAddr, gateway_address: IpAddr) -> Vec<u8> {
    match (address, gateway_address) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            let arp = Arp {
                operation: 2,
                sender_mac: from.mac,
                sender,
                target_mac: from.gateway_mac,
                target,
            };
            ethernet(from.gateway_mac, from.mac, ETHERTYPE_ARP, &arp.message())
        }
        (IpAddr::V6(target), IpAddr::V6(to)) => {
            let say = Neighbour { kind: 136, flags: 0x60, target, mac: Some(from.mac) };
            discovery(from, from.gateway_mac, to, &say)
        }
        _ => panic!("both addresses are of one family"),
    }
}

fn discovery(from: &Host, mac: MacAddress, to: Ipv6Addr, message: &Neighbour) -> Vec<u8> {
    let mut header = header(from, to.into(), ICMPV6);
    header.hops = 255;
    ethernet(mac, from.mac, ETHERTYPE_IPV6, &header.packet(&message.message(from.ipv6, to)))
}

/// An echo reply by way of the gateway.
pub(crate) fn echo_reply(from: &Host, identifier: u16, to: IpAddr) -> Vec<u8> {
    let (protocol, kind) = if to.is_ipv6() { (ICMPV6, 129) } else { (ICMP, 0) };
    let header = header(from, to, protocol);
    let word = u32::from(identifier) << 16 | 1;
    routed(from, &header, &icmp(header.source, to, (kind, 0), word, b"ping"))
}

/// A TCP segment without payload with these numbers, by way of the gateway.
pub(crate) fn tcp_at(
    from: &Host,
    source_port: u16,
    to: (IpAddr, u16),
    flags: u8,
    (sequence, acknowledgment): (u32, u32),
) -> Vec<u8> {
    let header = header(from, to.0, TCP);
    let header_of_tcp =
        TcpHeader { sequence, acknowledgment, ..tcp_header(source_port, to.1, flags) };
    let mut segment = header_of_tcp.segment(b"");
    fill_checksum(header.source, header.destination, TCP, &mut segment);
    routed(from, &header, &segment)
}
