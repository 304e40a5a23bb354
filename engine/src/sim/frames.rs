//! Frames built without the engine's help.
//!
//! The simulator judges the engine, so it shares no line of code with it: what both got wrong in
//! one shared function nobody would find. Plain and slow on purpose. Addresses are typed, every
//! other number is in host order. It builds only what hosts send; nonsense is made from that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::id::MacAddress;
use crate::packet::GsoKind;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// TTL or hop limit that hosts send with.
pub const HOPS: u8 = 64;
/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;

/// Big-endian 16 bits at an offset.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Big-endian 32 bits at an offset.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

/// Big-endian 64 bits at an offset.
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// One's complement sum of 16-bit words (RFC 1071), not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293, RFC 8200 section 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, bytes: usize) -> Vec<u8> {
    let mut header = Vec::new();
    push_address(&mut header, source);
    push_address(&mut header, destination);
    header.extend_from_slice(&(bytes as u32).to_be_bytes());
    header.extend_from_slice(&[0, 0, 0, protocol]);
    header
}

fn push_address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => to.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => to.extend_from_slice(&address.octets()),
    }
}

/// Where a transport's checksum lies in its header.
pub fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// Writes the transport checksum, whole. A UDP checksum of zero is sent as ones.
pub fn fill_checksum(source: IpAddr, destination: IpAddr, protocol: u8, segment: &mut [u8]) {
    let Some(at) = checksum_offset(protocol) else { return };
    segment[at..at + 2].fill(0);
    let mut summed = match protocol {
        ICMP => Vec::new(),
        _ => pseudo_header(source, destination, protocol, segment.len()),
    };
    summed.extend_from_slice(segment);
    let mut checksum = !sum(&summed);
    if protocol == UDP && checksum == 0 {
        checksum = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes only the pseudo-header's sum where the checksum belongs, as a kernel does that leaves
/// the rest to the device.
pub fn fill_partial_checksum(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &mut [u8],
) {
    let Some(at) = checksum_offset(protocol) else { return };
    let partial = sum(&pseudo_header(source, destination, protocol, segment.len()));
    segment[at..at + 2].copy_from_slice(&partial.to_be_bytes());
}

/// Puts an Ethernet header in front.
pub fn ethernet(
    destination: MacAddress,
    source: MacAddress,
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + payload.len());
    frame.extend_from_slice(&destination.bytes());
    frame.extend_from_slice(&source.bytes());
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// What an IP header says besides lengths.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Identification, for fragments.
    pub identification: u16,
    /// IPv4 only: routers may not fragment it.
    pub dont_fragment: bool,
}

impl IpHeader {
    /// A header with the usual hop count.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> IpHeader {
        IpHeader {
            source,
            destination,
            protocol,
            hops: HOPS,
            identification: 0,
            dont_fragment: false,
        }
    }

    /// The EtherType of its family.
    pub fn ethertype(&self) -> u16 {
        if self.source.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
    }

    /// The packet with this payload, unfragmented.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        self.part(payload, 0, false)
    }

    /// The packet cut into fragments of at most `mtu` bytes; one packet if it fits.
    pub fn fragments(&self, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let (plain, fragmented) = if self.source.is_ipv6() { (40, 48) } else { (20, 20) };
        if plain + payload.len() <= mtu {
            return vec![self.packet(payload)];
        }
        let step = (mtu - fragmented) & !7;
        let count = payload.len().div_ceil(step);
        let part = |(index, bytes)| self.part(bytes, index * step, index + 1 < count);
        payload.chunks(step).enumerate().map(part).collect()
    }

    /// One fragment, of whatever shape.
    pub fn piece(&self, payload: &[u8], offset: usize, more: bool) -> Vec<u8> {
        self.part(payload, offset, more)
    }

    fn part(&self, payload: &[u8], offset: usize, more: bool) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.part_v4((source, destination), payload, offset, more)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.part_v6((source, destination), payload, offset, more)
            }
            _ => panic!("both addresses of a packet are of one family"),
        }
    }

    fn part_v4(
        &self,
        (source, destination): (Ipv4Addr, Ipv4Addr),
        payload: &[u8],
        offset: usize,
        more: bool,
    ) -> Vec<u8> {
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13;
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        packet.extend_from_slice(&self.identification.to_be_bytes());
        packet.extend_from_slice(&(flags | (offset / 8) as u16).to_be_bytes());
        packet.extend_from_slice(&[self.hops, self.protocol, 0, 0]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        let checksum = !sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    fn part_v6(
        &self,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        payload: &[u8],
        offset: usize,
        more: bool,
    ) -> Vec<u8> {
        let mut extension = Vec::new();
        if more || offset > 0 {
            extension.extend_from_slice(&[self.protocol, 0]);
            extension.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
            extension.extend_from_slice(&[0, 0]);
            extension.extend_from_slice(&self.identification.to_be_bytes());
        }
        let next = if extension.is_empty() { self.protocol } else { 44 };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&((extension.len() + payload.len()) as u16).to_be_bytes());
        packet.extend_from_slice(&[next, self.hops]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        packet.extend_from_slice(&extension);
        packet.extend_from_slice(payload);
        packet
    }
}

/// A UDP header and payload; the checksum is zero until filled.
pub fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend_from_slice(&source_port.to_be_bytes());
    datagram.extend_from_slice(&destination_port.to_be_bytes());
    datagram.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    datagram
}

/// TCP flags.
pub mod flags {
    /// FIN
    pub const FIN: u8 = 1;
    /// SYN
    pub const SYN: u8 = 2;
    /// RST
    pub const RST: u8 = 4;
    /// ACK
    pub const ACK: u8 = 16;
}

/// What a TCP header says.
#[derive(Clone, Copy, Debug)]
pub struct TcpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Maximum segment size option, on SYN only.
    pub mss: Option<u16>,
    /// The connection's nonce in an experimental option (RFC 6994), on SYN only.
    pub nonce: Option<u64>,
}

/// Identifies our experimental TCP option (RFC 6994 ExID).
const NONCE_EXID: u16 = 0x706c;

impl TcpHeader {
    /// Header and payload; the checksum is zero until filled.
    pub fn segment(&self, payload: &[u8]) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
        }
        if let Some(nonce) = self.nonce {
            options.extend_from_slice(&[253, 12]);
            options.extend_from_slice(&NONCE_EXID.to_be_bytes());
            options.extend_from_slice(&nonce.to_be_bytes());
        }
        let mut segment = Vec::with_capacity(20 + options.len() + payload.len());
        segment.extend_from_slice(&self.source_port.to_be_bytes());
        segment.extend_from_slice(&self.destination_port.to_be_bytes());
        segment.extend_from_slice(&self.sequence.to_be_bytes());
        segment.extend_from_slice(&self.acknowledgment.to_be_bytes());
        segment.extend_from_slice(&[((5 + options.len() / 4) << 4) as u8, self.flags]);
        segment.extend_from_slice(&0xffffu16.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        segment.extend_from_slice(&options);
        segment.extend_from_slice(payload);
        segment
    }

    /// Takes a segment apart: header and payload.
    pub fn parse(segment: &[u8]) -> Option<(TcpHeader, &[u8])> {
        let header_bytes = usize::from(*segment.get(12)? >> 4) * 4;
        if header_bytes < 20 || segment.len() < header_bytes {
            return None;
        }
        let mut header = TcpHeader {
            source_port: be16(segment, 0),
            destination_port: be16(segment, 2),
            sequence: be32(segment, 4),
            acknowledgment: be32(segment, 8),
            flags: segment[13],
            mss: None,
            nonce: None,
        };
        let mut options = &segment[20..header_bytes];
        while let [kind, rest @ ..] = options {
            options = match (kind, rest.first()) {
                (0, _) => break,
                (1, _) => rest,
                (_, Some(&len)) if len >= 2 && usize::from(len) <= options.len() => {
                    header.option(*kind, &options[2..usize::from(len)]);
                    &options[usize::from(len)..]
                }
                _ => return None,
            };
        }
        Some((header, &segment[header_bytes..]))
    }

    fn option(&mut self, kind: u8, value: &[u8]) {
        match (kind, value.len()) {
            (2, 2) => self.mss = Some(be16(value, 0)),
            (253, 10) if be16(value, 0) == NONCE_EXID => self.nonce = Some(be64(value, 2)),
            _ => {}
        }
    }
}

/// An ICMP or ICMPv6 message with its checksum: type, code, the four bytes after it, the rest.
pub fn icmp(
    source: IpAddr,
    destination: IpAddr,
    (kind, code): (u8, u8),
    word: u32,
    rest: &[u8],
) -> Vec<u8> {
    let protocol = if source.is_ipv6() { ICMPV6 } else { ICMP };
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    message.extend_from_slice(rest);
    fill_checksum(source, destination, protocol, &mut message);
    message
}

/// What an ARP message for Ethernet and IPv4 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Sender.
    pub sender_mac: MacAddress,
    /// Sender.
    pub sender: Ipv4Addr,
    /// Target; zero in a request.
    pub target_mac: MacAddress,
    /// Target.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The message, without Ethernet header.
    pub fn message(&self) -> Vec<u8> {
        let mut message = vec![0, 1, 8, 0, 6, 4];
        message.extend_from_slice(&self.operation.to_be_bytes());
        message.extend_from_slice(&self.sender_mac.bytes());
        message.extend_from_slice(&self.sender.octets());
        message.extend_from_slice(&self.target_mac.bytes());
        message.extend_from_slice(&self.target.octets());
        message
    }

    /// Takes a message apart; `None` if it is not for Ethernet and IPv4.
    pub fn parse(message: &[u8]) -> Option<Arp> {
        if message.len() < 28 || message[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let ip = |at: usize| Ipv4Addr::from_bits(be32(message, at));
        Some(Arp {
            operation: be16(message, 6),
            sender_mac: mac_at(message, 8),
            sender: ip(14),
            target_mac: mac_at(message, 18),
            target: ip(24),
        })
    }
}

/// The MAC address at an offset.
pub fn mac_at(bytes: &[u8], at: usize) -> MacAddress {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    MacAddress::new(mac)
}

/// What an ND solicitation or advertisement says (RFC 4861 sections 4.3 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// 135: solicitation, 136: advertisement.
    pub kind: u8,
    /// The flags' byte: 0x40 solicited, 0x20 override, 0x80 router.
    pub flags: u8,
    /// Whose address is asked for or told.
    pub target: Ipv6Addr,
    /// The link-layer address option: the sender's in a solicitation, the target's otherwise.
    pub mac: Option<MacAddress>,
}

impl Neighbour {
    /// The ICMPv6 message with its checksum.
    pub fn message(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut rest = self.target.octets().to_vec();
        if let Some(mac) = self.mac {
            rest.extend_from_slice(&[if self.kind == 135 { 1 } else { 2 }, 1]);
            rest.extend_from_slice(&mac.bytes());
        }
        let word = u32::from(self.flags) << 24;
        icmp(source.into(), destination.into(), (self.kind, 0), word, &rest)
    }

    /// Takes an ICMPv6 message apart; `None` for other kinds.
    pub fn parse(message: &[u8]) -> Option<Neighbour> {
        if message.len() < 24 || !matches!(message[0], 135 | 136) {
            return None;
        }
        let mut target = [0; 16];
        target.copy_from_slice(&message[8..24]);
        let wanted = if message[0] == 135 { 1 } else { 2 };
        let mac = match &message[24..] {
            [kind, 1, mac @ ..] if *kind == wanted && mac.len() >= 6 => Some(mac_at(mac, 0)),
            _ => None,
        };
        Some(Neighbour { kind: message[0], flags: message[4], target: target.into(), mac })
    }
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// The Ethernet address of an IPv6 group (RFC 2464 section 7).
pub fn group_mac(group: Ipv6Addr) -> MacAddress {
    MacAddress(0x3333_0000_0000 | (group.to_bits() & 0xffff_ffff) as u64)
}

/// The super-frame kind of a TCP segment in this family.
pub fn tcp_gso(v6: bool) -> GsoKind {
    if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Offload;
    use crate::sim::datagram::Datagram;

    fn both_families() -> [(IpAddr, IpAddr); 2] {
        let parse = |text: &str| text.parse().unwrap();
        [(parse("10.1.0.10"), parse("10.1.0.11")), (parse("fd00::1"), parse("fd00::2"))]
    }

    #[test]
    fn what_is_built_is_right_in_the_eyes_of_etherparse() {
        for (source, destination) in both_families() {
            let mut segment = udp(1, 2, b"payload");
            fill_checksum(source, destination, UDP, &mut segment);
            let header = IpHeader::new(source, destination, UDP);
            let mac = MacAddress(0x0242_0000_0001);
            let frame = ethernet(mac, mac, header.ethertype(), &header.packet(&segment));
            let sliced = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let udp = sliced.transport.unwrap().udp().unwrap();
            assert_eq!((udp.source_port, udp.destination_port, udp.length), (1, 2, 15));
            let right = match sliced.net.unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(&ip, b"payload"),
                etherparse::NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(&ip, b"payload"),
                _ => panic!("it is IP"),
            };
            assert_eq!(right, Ok(udp.checksum));
        }
    }

    #[test]
    fn a_packet_parses_as_it_was_built_and_one_flipped_bit_is_seen() {
        for (source, destination) in both_families() {
            let tcp = TcpHeader {
                source_port: 40_000,
                destination_port: 80,
                sequence: 5,
                acknowledgment: 6,
                flags: flags::SYN,
                mss: Some(1_460),
                nonce: Some(0x1234_5678_9abc_def0),
            };
            let mut segment = tcp.segment(b"x");
            fill_checksum(source, destination, TCP, &mut segment);
            let mut packet = IpHeader::new(source, destination, TCP).packet(&segment);
            let parsed = Datagram::parse(&packet).unwrap();
            assert!(parsed.checksum_is_right(Offload::None));
            let (again, payload) = TcpHeader::parse(parsed.payload).unwrap();
            assert_eq!((again.mss, again.nonce, payload), (tcp.mss, tcp.nonce, &b"x"[..]));
            let last = packet.len() - 1;
            packet[last] ^= 4;
            assert!(!Datagram::parse(&packet).unwrap().checksum_is_right(Offload::None));
        }
    }

    #[test]
    fn fragments_fit_and_cover_the_whole() {
        for (source, destination) in both_families() {
            let payload: Vec<u8> = (0..4_000u32).map(|i| i as u8).collect();
            let parts = IpHeader::new(source, destination, UDP).fragments(&payload, 1_280);
            let mut joined = Vec::new();
            for packet in &parts {
                assert!(packet.len() <= 1_280);
                let parsed = Datagram::parse(packet).unwrap();
                assert_eq!(parsed.fragment.unwrap().offset, joined.len());
                joined.extend_from_slice(parsed.payload);
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn neighbour_messages_parse_as_they_were_built() {
        let mac = MacAddress(0x0242_0a01_000a);
        let target: Ipv6Addr = "fd00::2".parse().unwrap();
        assert_eq!(group_mac(solicited_node(target)).to_string(), "33:33:ff:00:00:02");
        for kind in [135, 136] {
            let neighbour = Neighbour { kind, flags: 0x60, target, mac: Some(mac) };
            let message = neighbour.message("fe80::1".parse().unwrap(), target);
            assert_eq!(Neighbour::parse(&message), Some(neighbour));
        }
        let arp = Arp {
            operation: 1,
            sender_mac: mac,
            sender: [10, 1, 0, 10].into(),
            target_mac: MacAddress(0),
            target: [10, 1, 0, 1].into(),
        };
        assert_eq!(Arp::parse(&arp.message()), Some(arp));
    }
}
