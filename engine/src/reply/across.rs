//! ICMP errors of one family as errors of the other (RFC 7915 sections 4.2, 4.3, 5.2 and 5.3).
//!
//! The error is made anew: its type and code in the other family's words, the MTU or the pointer
//! in its second word likewise, and the quoted header as the quoted packet's sender wrote it. What
//! has no words in the other family is not carried.

use std::net::IpAddr;

use super::{Envelope, set};
use crate::counters::DropReason;
use crate::frame::FramePool;
use crate::id::MacAddress;
use crate::packet::{Notes, Packet};
use crate::quote::{Quote, Socket, set_ports};
use crate::translate::HEADER_GROWTH;
use crate::wire::checksum::{delta, fold, sum};
use crate::wire::{header_at, icmp, ipv4, ipv6, protocol, u16_at, u32_at};

/// Largest errors: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c.
const V4_ERROR_BYTES_MAX: usize = 576;
const V6_ERROR_BYTES_MAX: usize = 1_280;

/// Codes of ICMPv6 "destination unreachable".
const V6_NO_ROUTE: u8 = 0;
const V6_PROHIBITED: u8 = 1;
const V6_PORT: u8 = 4;

/// Where fields of an IPv4 header begin, and the same fields of IPv6 (RFC 7915 figure 3).
const POINTERS_TO_V6: [(u32, u32); 7] = [(0, 0), (1, 1), (2, 4), (8, 7), (9, 6), (12, 8), (16, 24)];

/// The other way (figure 6).
const POINTERS_TO_V4: [(u32, u32); 8] =
    [(0, 0), (1, 1), (4, 2), (6, 9), (7, 8), (8, 12), (24, 16), (40, u32::MAX)];

/// Type, code and second word.
type Words = (u8, u8, u32);

/// An ICMP error to be made anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Across {
    /// From whom.
    pub(crate) source: IpAddr,
    /// The quoted packet's source and destination, as its sender wrote them.
    pub(crate) quoted: (Socket, Socket),
    /// Destination and source MAC address.
    pub(crate) macs: (MacAddress, MacAddress),
}

impl Across {
    /// The error in the other family.
    pub(crate) fn build(
        &self,
        packet: &Packet,
        quote: &Quote,
        frames: &mut FramePool,
    ) -> Result<Packet, DropReason> {
        let from_v6 = packet.meta.notes.any(Notes::V6);
        let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
        let head = packet.head();
        let old = header_at::<{ icmp::HEADER_BYTES }>(head, l4).ok_or(DropReason::Truncated)?;
        let words = (old[0], old[1], u32_at(old, icmp::IDENTIFIER));
        let words = if from_v6 { to_v4(words) } else { to_v6(words) };
        let (kind, code, word) = words.ok_or(DropReason::ProtocolNotTranslated)?;
        let quoted = head.get(quote.l3()..).ok_or(DropReason::Truncated)?;
        let (header, change) = self.header(quoted, quote.protocol, from_v6);
        let (header_bytes, room) = match from_v6 {
            true => (ipv4::HEADER_BYTES, V4_ERROR_BYTES_MAX - ipv4::HEADER_BYTES),
            false => (ipv6::HEADER_BYTES, V6_ERROR_BYTES_MAX - ipv6::HEADER_BYTES),
        };
        let transport = head.get(quote.l4()..).ok_or(DropReason::Truncated)?;
        let transport = &transport[..transport.len().min(room - icmp::HEADER_BYTES - header_bytes)];
        let hops = match from_v6 {
            true => head.get(l3 + ipv6::HOP_LIMIT),
            false => head.get(l3 + ipv4::TTL),
        };
        let envelope = Envelope {
            source_mac: self.macs.1,
            destination_mac: self.macs.0,
            source: self.source,
            destination: self.quoted.0.0,
            protocol: if from_v6 { protocol::ICMP } else { protocol::ICMPV6 },
            hop_limit: hops.copied().unwrap_or(1).saturating_sub(1),
            service: 0,
        };
        let bytes = icmp::HEADER_BYTES + header_bytes + transport.len();
        let ports = (self.quoted.0.1, self.quoted.1.1);
        let built = envelope.pack(bytes, frames, &|message| {
            (message[0], message[1]) = (kind, code);
            set(message, icmp::IDENTIFIER, &word.to_be_bytes());
            set(message, icmp::HEADER_BYTES, &header[..header_bytes]);
            let rest = &mut message[icmp::HEADER_BYTES + header_bytes..];
            rest.copy_from_slice(transport);
            set_ports(rest, quote.protocol, ports, change);
        });
        built.ok_or(DropReason::NoFrame)
    }

    /// The quoted header in the other family, and what the change of addresses adds to checksums.
    fn header(&self, quoted: &[u8], protocol: u8, from_v6: bool) -> ([u8; 40], u16) {
        let mut header = [0; ipv6::HEADER_BYTES];
        let mut old_addresses = [0; 32];
        let byte = |at: usize| quoted.get(at).copied().unwrap_or(0);
        let word = |at: usize| header_at::<2>(quoted, at).map_or(0, |bytes| u16_at(bytes, 0));
        let length = match from_v6 {
            true => {
                let service = byte(0) << 4 | byte(1) >> 4;
                let total = word(ipv6::PAYLOAD_LENGTH).saturating_add(ipv4::HEADER_BYTES as u16);
                (header[0], header[1]) = (0x45, service);
                set(&mut header, ipv4::TOTAL_LENGTH, &total.to_be_bytes());
                set(&mut header, ipv4::FRAGMENT, &ipv4::DONT_FRAGMENT.to_be_bytes());
                header[ipv4::TTL] = byte(ipv6::HOP_LIMIT);
                header[ipv4::PROTOCOL] = protocol;
                if let Some(old) = header_at::<32>(quoted, ipv6::SOURCE) {
                    old_addresses = *old;
                }
                ipv4::SOURCE
            }
            false => {
                let header_bytes = u16::from(byte(0) & 15) * 4;
                let payload = word(ipv4::TOTAL_LENGTH).saturating_sub(header_bytes);
                (header[0], header[1]) = (0x60 | byte(1) >> 4, byte(1) << 4);
                set(&mut header, ipv6::PAYLOAD_LENGTH, &payload.to_be_bytes());
                header[ipv6::NEXT_HEADER] = protocol;
                header[ipv6::HOP_LIMIT] = byte(ipv4::TTL);
                if let Some(old) = header_at::<8>(quoted, ipv4::SOURCE) {
                    old_addresses[..8].copy_from_slice(old);
                }
                ipv6::SOURCE
            }
        };
        let mut new_addresses = [0; 32];
        match (self.quoted.0.0, self.quoted.1.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                set(&mut new_addresses, 0, &source.octets());
                set(&mut new_addresses, 4, &destination.octets());
                set(&mut header, length, &new_addresses[..8]);
                let checksum = !fold(sum(&header[..ipv4::HEADER_BYTES]));
                set(&mut header, ipv4::CHECKSUM, &checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                set(&mut new_addresses, 0, &source.octets());
                set(&mut new_addresses, 16, &destination.octets());
                set(&mut header, length, &new_addresses);
            }
            _ => {}
        }
        (header, delta(&old_addresses, &new_addresses))
    }
}

/// ICMP in the words of ICMPv6 (section 4.2).
fn to_v6((kind, code, word): Words) -> Option<Words> {
    const UNREACHABLE: u8 = icmp::V6_UNREACHABLE;
    Some(match (kind, code) {
        (icmp::UNREACHABLE, 2) => (icmp::V6_PARAMETER_PROBLEM, 1, ipv6::NEXT_HEADER as u32),
        (icmp::UNREACHABLE, 3) => (UNREACHABLE, V6_PORT, 0),
        (icmp::UNREACHABLE, 4) => {
            let mtu = (word & 0xffff) + u32::from(HEADER_GROWTH);
            (icmp::V6_TOO_BIG, 0, mtu.max(V6_ERROR_BYTES_MAX as u32))
        }
        (icmp::UNREACHABLE, 9 | 10 | 13 | 15) => (UNREACHABLE, V6_PROHIBITED, 0),
        (icmp::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => (UNREACHABLE, V6_NO_ROUTE, 0),
        (icmp::TIME_EXCEEDED, code) => (icmp::V6_TIME_EXCEEDED, code, 0),
        (icmp::PARAMETER_PROBLEM, 0 | 2) => {
            (icmp::V6_PARAMETER_PROBLEM, 0, pointer(word >> 24, &POINTERS_TO_V6)?)
        }
        _ => return None,
    })
}

/// ICMPv6 in the words of ICMP (section 5.2).
fn to_v4((kind, code, word): Words) -> Option<Words> {
    Some(match (kind, code) {
        (icmp::V6_UNREACHABLE, V6_NO_ROUTE | 2 | 3) => (icmp::UNREACHABLE, 1, 0),
        (icmp::V6_UNREACHABLE, V6_PROHIBITED) => (icmp::UNREACHABLE, 10, 0),
        (icmp::V6_UNREACHABLE, V6_PORT) => (icmp::UNREACHABLE, 3, 0),
        (icmp::V6_TOO_BIG, _) => {
            let mtu = word.min(u32::from(u16::MAX)).saturating_sub(u32::from(HEADER_GROWTH));
            (icmp::UNREACHABLE, 4, mtu)
        }
        (icmp::V6_TIME_EXCEEDED, code) => (icmp::TIME_EXCEEDED, code, 0),
        (icmp::V6_PARAMETER_PROBLEM, 0) => {
            (icmp::PARAMETER_PROBLEM, 0, pointer(word, &POINTERS_TO_V4)? << 24)
        }
        (icmp::V6_PARAMETER_PROBLEM, 1) => (icmp::UNREACHABLE, 2, 0),
        _ => return None,
    })
}

/// The field that a pointer points into, in the other header. `None`: it has no such field.
fn pointer(old: u32, fields: &[(u32, u32)]) -> Option<u32> {
    let (_, new) = *fields.iter().rev().find(|(from, _)| *from <= old)?;
    (new != u32::MAX && old < ipv6::HEADER_BYTES as u32).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_words_of_rfc_7915() {
        let v6 = [
            ((3, 0, 0), Some((1, 0, 0))),
            ((3, 2, 0), Some((4, 1, 6))),
            ((3, 3, 0), Some((1, 4, 0))),
            ((3, 4, 1_400), Some((2, 0, 1_420))),
            ((3, 4, 576), Some((2, 0, 1_280))),
            ((3, 13, 0), Some((1, 1, 0))),
            ((3, 14, 0), None),
            ((11, 1, 0), Some((3, 1, 0))),
            ((12, 0, 8 << 24), Some((4, 0, 7))),
            ((12, 0, 13 << 24), Some((4, 0, 8))),
            ((12, 1, 0), None),
            ((4, 0, 0), None),
        ];
        v6.iter().for_each(|(from, to)| assert_eq!(to_v6(*from), *to, "{from:?}"));
        let v4 = [
            ((1, 0, 0), Some((3, 1, 0))),
            ((1, 1, 0), Some((3, 10, 0))),
            ((1, 4, 0), Some((3, 3, 0))),
            ((1, 5, 0), None),
            ((2, 0, 1_300), Some((3, 4, 1_280))),
            ((3, 0, 0), Some((11, 0, 0))),
            ((4, 0, 7), Some((12, 0, 8 << 24))),
            ((4, 0, 30), Some((12, 0, 16 << 24))),
            ((4, 0, 44), None),
            ((4, 1, 6), Some((3, 2, 0))),
            ((4, 2, 6), None),
        ];
        v4.iter().for_each(|(from, to)| assert_eq!(to_v4(*from), *to, "{from:?}"));
    }
}
