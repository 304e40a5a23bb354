//! Builds the gateway's own answers: ARP, neighbour discovery, echo, ICMP errors, TCP resets.
//!
//! [Ethernet | IP | message] in a new chunk, or for echo the request turned round in place. The one
//! hard constraint: what leaves here is well-formed and has right checksums, whatever came in. A
//! packet that must not be answered gives `None`; that is the rule of the protocol (no error about
//! an error, none to a group), while *whether* the gateway wants to answer (is the address ours, is
//! the rate used up) was decided before.
//!
//! `meta` of a new packet is left at its default. Answers carry no VLAN tag, and tagged packets are
//! not answered but by echo, which keeps the tags.

mod across;
mod icmp;
mod membership;
mod neighbour;
mod reset;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{FramePool, HEADROOM_BYTES};
use crate::id::MacAddress;
use crate::packet::Packet;
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::{ethernet, header_at, icmp as icmp_wire, ipv4, ipv6, protocol, tcp};

pub(crate) use across::Across;
pub(crate) use icmp::{ErrorKind, echo_reply_in_place, icmp_error};
pub(crate) use membership::{igmp_report, mld_report};
pub(crate) use neighbour::{
    arp_reply, arp_request, gratuitous_arp, neighbour_advertisement, neighbour_solicitation,
    unsolicited_advertisement,
};
pub(crate) use reset::tcp_reset;

/// TTL and hop limit of what we originate (RFC 1700's recommendation, Linux's default). Neighbour
/// discovery alone has another one.
const HOP_LIMIT: u8 = 64;

/// Everything around a message of ours.
#[derive(Clone, Copy, Debug)]
struct Envelope {
    source_mac: MacAddress,
    destination_mac: MacAddress,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// IPv4 type of service or IPv6 traffic class.
    service: u8,
}

impl Envelope {
    /// Builds the packet; `write` fills in the message, which is zero before, and leaves its
    /// checksum to us. `None` when the addresses are of two families or no frame is free.
    fn pack(
        &self,
        message_bytes: usize,
        frames: &mut FramePool,
        write: &dyn Fn(&mut [u8]),
    ) -> Option<Packet> {
        let (ethertype, ip_header_bytes, pseudo_sum) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let addresses = [source.octets(), destination.octets()];
                let pseudo_sum =
                    pseudo_header(addresses.as_flattened(), self.protocol, message_bytes);
                (ethernet::IPV4, ipv4::HEADER_BYTES, pseudo_sum)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let addresses = [source.octets(), destination.octets()];
                let pseudo_sum =
                    pseudo_header(addresses.as_flattened(), self.protocol, message_bytes);
                (ethernet::IPV6, ipv6::HEADER_BYTES, pseudo_sum)
            }
            _ => return None,
        };
        let mut packet = ethernet_frame(
            self.destination_mac,
            self.source_mac,
            ethertype,
            ip_header_bytes + message_bytes,
            frames,
        )?;
        let (ip_header, message) =
            packet.head_mut()[ethernet::HEADER_BYTES..].split_at_mut(ip_header_bytes);
        self.write_ip_header(ip_header, message_bytes);
        write(message);
        let (field, pseudo_sum) = match self.protocol {
            // RFC 792: the checksum of ICMP covers no addresses.
            protocol::ICMP => (icmp_wire::CHECKSUM, 0),
            protocol::ICMPV6 => (icmp_wire::CHECKSUM, pseudo_sum),
            _ => (tcp::CHECKSUM, pseudo_sum),
        };
        let checksum = !fold(sum(message) + pseudo_sum);
        message[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        Some(packet)
    }

    fn write_ip_header(&self, header: &mut [u8], message_bytes: usize) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total_length = (ipv4::HEADER_BYTES + message_bytes) as u16;
                header[0] = 0x45;
                header[1] = self.service;
                set(header, ipv4::TOTAL_LENGTH, &total_length.to_be_bytes());
                // RFC 6864: what may not be fragmented needs no identification.
                set(header, ipv4::FRAGMENT, &ipv4::DONT_FRAGMENT.to_be_bytes());
                header[ipv4::TTL] = self.hop_limit;
                header[ipv4::PROTOCOL] = self.protocol;
                set(header, ipv4::SOURCE, &source.octets());
                set(header, ipv4::DESTINATION, &destination.octets());
                let checksum = !fold(sum(header));
                set(header, ipv4::CHECKSUM, &checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header[0] = 0x60 | self.service >> 4;
                header[1] = self.service << 4;
                set(header, ipv6::PAYLOAD_LENGTH, &(message_bytes as u16).to_be_bytes());
                header[ipv6::NEXT_HEADER] = self.protocol;
                header[ipv6::HOP_LIMIT] = self.hop_limit;
                set(header, ipv6::SOURCE, &source.octets());
                set(header, ipv6::DESTINATION, &destination.octets());
            }
            _ => unreachable!("one family: checked by the only caller"),
        }
    }
}

/// A new frame of zeroes behind its Ethernet header.
fn ethernet_frame(
    to: MacAddress,
    from: MacAddress,
    ethertype: u16,
    payload_bytes: usize,
    frames: &mut FramePool,
) -> Option<Packet> {
    let frame = frames.take_chunk()?;
    let mut packet = Packet::new(frame, HEADROOM_BYTES, ethernet::HEADER_BYTES + payload_bytes);
    let head = packet.head_mut();
    head.fill(0);
    set(head, 0, &to.bytes());
    set(head, 6, &from.bytes());
    set(head, ethernet::TYPE, &ethertype.to_be_bytes());
    Some(packet)
}

/// Who sent a packet to whom, read for an answer.
#[derive(Clone, Copy, Debug)]
struct Received {
    source_mac: MacAddress,
    destination_mac: MacAddress,
    source: IpAddr,
    destination: IpAddr,
    /// Where the IP packet ends by its own length, or the frame if that comes first; counts from
    /// the Ethernet header.
    end: usize,
}

impl Received {
    /// Reads the headers of an untagged IP packet that has been parsed.
    fn read(packet: &Packet) -> Option<Received> {
        let head = packet.head();
        let l3 = usize::from(packet.meta.l3);
        if l3 != ethernet::HEADER_BYTES {
            return None;
        }
        let (source, destination, bytes): (IpAddr, IpAddr, usize) = match *head.get(l3)? >> 4 {
            4 => {
                let header: &[u8; ipv4::HEADER_BYTES] = header_at(head, l3)?;
                let length = *header_at(header, ipv4::TOTAL_LENGTH)?;
                (
                    Ipv4Addr::from_octets(*header_at(header, ipv4::SOURCE)?).into(),
                    Ipv4Addr::from_octets(*header_at(header, ipv4::DESTINATION)?).into(),
                    usize::from(u16::from_be_bytes(length)),
                )
            }
            6 => {
                let header: &[u8; ipv6::HEADER_BYTES] = header_at(head, l3)?;
                let length = *header_at(header, ipv6::PAYLOAD_LENGTH)?;
                (
                    Ipv6Addr::from_octets(*header_at(header, ipv6::SOURCE)?).into(),
                    Ipv6Addr::from_octets(*header_at(header, ipv6::DESTINATION)?).into(),
                    usize::from(u16::from_be_bytes(length)) + ipv6::HEADER_BYTES,
                )
            }
            _ => return None,
        };
        Some(Received {
            source_mac: MacAddress::new(*header_at(head, 6)?),
            destination_mac: MacAddress::new(*header_at(head, 0)?),
            source,
            destination,
            end: packet.len().min(l3 + bytes),
        })
    }

    /// True if an answer would reach exactly one station: the sender.
    fn has_one_sender(&self) -> bool {
        !self.source_mac.is_group() && is_one_station(self.source)
    }

    /// True if the packet was sent to one station, as far as addresses tell; the broadcast address
    /// of a subnet looks like any other.
    fn is_to_one_station(&self) -> bool {
        !self.destination_mac.is_group() && is_one_station(self.destination)
    }
}

/// True for an address that one host can have on a wire.
fn is_one_station(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0, 127.0.0.0/8, and 224.0.0.0 and above: groups, reserved, broadcast.
        IpAddr::V4(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.octets()[0] >= 224)
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        }
    }
}

fn set(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod testing {
    //! Packets for the tests of this folder.

    use super::*;
    use crate::frame::{FrameBalancer, heap_frames, heap_tails};
    use crate::packet::Notes;

    pub(super) const OWN_MAC: MacAddress = MacAddress(0x0242_0a01_0001);
    pub(super) const PEER_MAC: MacAddress = MacAddress(0x0242_0a01_000a);
    pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    pub(super) const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
    pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    pub(super) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xa);

    pub(super) fn pool() -> FramePool {
        let chunks = heap_frames(4);
        FramePool::new(chunks, heap_tails(2), FrameBalancer::new(4, 2))
    }

    /// A packet from the peer to us in an etherparse builder's first steps.
    pub(super) fn from_peer(v6: bool) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = etherparse::PacketBuilder::ethernet2(PEER_MAC.bytes(), OWN_MAC.bytes());
        match v6 {
            false => ethernet.ipv4(PEER_V4.octets(), OWN_V4.octets(), 17),
            true => ethernet.ipv6(PEER_V6.octets(), OWN_V6.octets(), 17),
        }
    }

    /// A packet of these bytes with `meta` as parsing leaves it; what parsing would refuse for
    /// being short gets a part of it.
    pub(super) fn parsed(bytes: &[u8], frames: &mut FramePool) -> Packet {
        let mut packet = Packet::copy_of(bytes, frames).unwrap();
        packet.meta.l3 = 14;
        match bytes[14] >> 4 {
            4 if bytes.len() >= 34 => {
                packet.meta.l4 = 14 + u16::from(bytes[14] & 0xf) * 4;
                packet.meta.protocol = bytes[23];
                packet.meta.l3_bytes = u16::from_be_bytes([bytes[16], bytes[17]]).into();
            }
            6 if bytes.len() >= 54 => {
                packet.meta.notes = Notes(Notes::V6);
                packet.meta.l4 = 54;
                packet.meta.protocol = bytes[20];
                packet.meta.l3_bytes = 40 + u32::from(u16::from_be_bytes([bytes[18], bytes[19]]));
            }
            _ => {}
        }
        packet
    }

    /// The bytes of an answer, its frames given back.
    pub(super) fn bytes_of(packet: Option<Packet>, frames: &mut FramePool) -> Vec<u8> {
        let packet = packet.expect("an answer");
        let bytes = packet.to_vec();
        packet.recycle(frames);
        bytes
    }
}
