//! IP packets taken apart without the engine's help.
//!
//! What hosts and the judge understand of a packet: addresses, one fragment header, the payload,
//! and whether its transport checksum is right, partial ones included. Other extension headers are
//! not followed: hosts send none.

use std::net::{IpAddr, Ipv4Addr};

use super::frames::{ICMP, UDP, be16, be32, checksum_offset, pseudo_header, sum};
use crate::packet::Offload;

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPart {
    /// Identification of the whole.
    pub identification: u32,
    /// Offset of its payload in the whole, bytes.
    pub offset: usize,
    /// More follow.
    pub more: bool,
}

/// An IP packet taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol, after a fragment header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Set if it is part of a larger one.
    pub fragment: Option<FragmentPart>,
    /// What it carries.
    pub payload: &'a [u8],
    /// The packet from its header to its end by its own length, without Ethernet padding.
    pub bytes: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Takes a packet apart; says what is wrong with it otherwise.
    pub fn parse(packet: &'a [u8]) -> Result<Datagram<'a>, &'static str> {
        let datagram = Datagram::parse_quoted(packet)?;
        match stated_bytes(packet) <= packet.len() {
            true => Ok(datagram),
            false => Err("packet is shorter than its length field says"),
        }
    }

    /// As `parse`, of a packet whose end may be missing, as ICMP errors quote it.
    pub fn parse_quoted(packet: &'a [u8]) -> Result<Datagram<'a>, &'static str> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Datagram::parse_v4(packet),
            Some(6) => Datagram::parse_v6(packet),
            _ => Err("neither IPv4 nor IPv6"),
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Result<Datagram<'a>, &'static str> {
        let header_bytes = usize::from(packet[0] & 15) * 4;
        if header_bytes < 20 || packet.len() < header_bytes {
            return Err("IPv4 header is cut short");
        }
        if sum(&packet[..header_bytes]) != 0xffff {
            return Err("IPv4 header checksum is wrong");
        }
        if stated_bytes(packet) < header_bytes {
            return Err("IPv4 total length is less than its header");
        }
        let bytes = &packet[..stated_bytes(packet).min(packet.len())];
        let word = be16(packet, 6);
        let part = FragmentPart {
            identification: u32::from(be16(packet, 4)),
            offset: usize::from(word & 0x1fff) * 8,
            more: word & 0x2000 != 0,
        };
        Ok(Datagram {
            source: Ipv4Addr::from_bits(be32(packet, 12)).into(),
            destination: Ipv4Addr::from_bits(be32(packet, 16)).into(),
            protocol: packet[9],
            hops: packet[8],
            fragment: (part.more || part.offset > 0).then_some(part),
            payload: &bytes[header_bytes..],
            bytes,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<Datagram<'a>, &'static str> {
        if packet.len() < 40 {
            return Err("IPv6 header is cut short");
        }
        let bytes = &packet[..stated_bytes(packet).min(packet.len())];
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&packet[at..at + 16]);
            IpAddr::from(octets)
        };
        let (mut protocol, mut payload, mut fragment) = (packet[6], &bytes[40..], None);
        if protocol == 44 && payload.len() >= 8 {
            let word = be16(payload, 2);
            fragment = Some(FragmentPart {
                identification: be32(payload, 4),
                offset: usize::from(word & !7),
                more: word & 1 != 0,
            });
            (protocol, payload) = (payload[0], &payload[8..]);
        }
        Ok(Datagram {
            source: address(8),
            destination: address(24),
            protocol,
            hops: packet[7],
            fragment,
            payload,
            bytes,
        })
    }

    /// True if the transport checksum is right; for a partial one, if the pseudo-header's sum is.
    /// Protocols without a checksum of ours, and fragments, are right.
    pub fn checksum_is_right(&self, offload: Offload) -> bool {
        let Some(at) = checksum_offset(self.protocol).filter(|_| self.fragment.is_none()) else {
            return true;
        };
        if self.payload.len() < at + 2 {
            return false;
        }
        let stored = be16(self.payload, at);
        let pseudo = match self.protocol {
            ICMP => Vec::new(),
            _ => pseudo_header(self.source, self.destination, self.protocol, self.payload.len()),
        };
        if self.protocol == UDP && stored == 0 && self.source.is_ipv4() {
            // There is none, whatever is left to do inside of a tunnel.
            return true;
        }
        if offload != Offload::None {
            // Zero and ones are the same number to this arithmetic.
            return stored % 0xffff == sum(&pseudo) % 0xffff;
        }
        if self.protocol == UDP && stored == 0 {
            return false;
        }
        sum(&[&pseudo, self.payload].concat()) == 0xffff
    }
}

/// Bytes of the packet by its own length field. It has at least a whole fixed header.
fn stated_bytes(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(be16(packet, 2)),
        _ => 40 + usize::from(be16(packet, 4)),
    }
}
