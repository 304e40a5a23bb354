//! A live packet that somebody asked for: what it was, what was decided, what became of it.
//!
//! Headers are read from bytes alone, of what comes in and of what leaves, so that a record shows
//! what is on the wire and not what the engine thinks of it. The one hard constraint: a record has
//! a fixed size and reading allocates nothing, because both happen on a packet's way. Nothing here
//! decides, and nothing is edited.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use crate::counters::DropReason;
use crate::explain::Explanation;
use crate::id::{MacAddress, PortId, WorkerId};
use crate::packet::Packet;
use crate::port::PortSet;
use crate::time::Instant;
use crate::wire::{ethernet, header_at, icmp, ipv4, ipv6, protocol, tcp, u16_at};

/// Packets that leave because of one, and are shown; more are counted.
pub const SENT_MAX: usize = 4;

/// Extension headers of IPv6 that are passed over, as many as the engine follows.
const EXTENSIONS_MAX: usize = 8;

/// The headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Bytes from the Ethernet header on.
    pub bytes: u32,
    /// The MAC address that it goes to.
    pub destination_mac: MacAddress,
    /// The MAC address that it comes from.
    pub source_mac: MacAddress,
    /// The ethertype behind any VLAN tags.
    pub ethertype: u16,
    /// IPv4 or IPv6, if it is.
    pub ip: Option<IpHeaders>,
}

/// Headers from IP on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeaders {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol (IANA number).
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Source and destination port of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
    /// Type, code and identifier of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8, u16)>,
    /// Flags of TCP.
    pub tcp_flags: Option<u8>,
    /// Offset in bytes, and whether more fragments follow, of a fragment.
    pub fragment: Option<(u16, bool)>,
}

impl Headers {
    /// Reads what can be read; `None`: not even an Ethernet header.
    pub fn read(packet: &Packet) -> Option<Headers> {
        let head = packet.head();
        let macs = header_at::<12>(head, 0)?;
        let mac = |at: usize| {
            let bytes: &[u8; 6] = macs[at..].first_chunk().expect("12 bytes hold two");
            MacAddress::new(*bytes)
        };
        let mut at = ethernet::TYPE;
        let mut ethertype = u16_at(header_at::<2>(head, at)?, 0);
        while matches!(ethertype, ethernet::VLAN | ethernet::SERVICE_VLAN) {
            at += ethernet::TAG_BYTES;
            ethertype = u16_at(header_at::<2>(head, at)?, 0);
        }
        let rest = head.get(at + 2..).unwrap_or_default();
        let ip = match ethertype {
            ethernet::IPV4 => IpHeaders::v4(rest),
            ethernet::IPV6 => IpHeaders::v6(rest),
            _ => None,
        };
        let bytes = packet.len() as u32;
        Some(Headers { bytes, destination_mac: mac(0), source_mac: mac(6), ethertype, ip })
    }
}

impl IpHeaders {
    fn v4(bytes: &[u8]) -> Option<IpHeaders> {
        let header = header_at::<{ ipv4::HEADER_BYTES }>(bytes, 0)?;
        let address = |at: usize| -> IpAddr {
            let octets: &[u8; 4] = header[at..].first_chunk().expect("inside the header");
            IpAddr::from(*octets)
        };
        let word = u16_at(header, ipv4::FRAGMENT);
        let (offset, more) = ((word & ipv4::FRAGMENT_OFFSET) * 8, word & ipv4::MORE_FRAGMENTS != 0);
        let found = IpHeaders {
            source: address(ipv4::SOURCE),
            destination: address(ipv4::DESTINATION),
            protocol: header[ipv4::PROTOCOL],
            hops: header[ipv4::TTL],
            ports: None,
            icmp: None,
            tcp_flags: None,
            fragment: (offset > 0 || more).then_some((offset, more)),
        };
        let header_bytes = usize::from(header[0] & 0xf) * 4;
        Some(found.with_transport(bytes.get(header_bytes..).unwrap_or_default()))
    }

    fn v6(bytes: &[u8]) -> Option<IpHeaders> {
        let header = header_at::<{ ipv6::HEADER_BYTES }>(bytes, 0)?;
        let address = |at: usize| -> IpAddr {
            let octets: &[u8; 16] = header[at..].first_chunk().expect("inside the header");
            IpAddr::from(*octets)
        };
        let mut found = IpHeaders {
            source: address(ipv6::SOURCE),
            destination: address(ipv6::DESTINATION),
            protocol: header[ipv6::NEXT_HEADER],
            hops: header[ipv6::HOP_LIMIT],
            ports: None,
            icmp: None,
            tcp_flags: None,
            fragment: None,
        };
        let mut at = ipv6::HEADER_BYTES;
        for _ in 0..EXTENSIONS_MAX {
            let Some(extension) = header_at::<8>(bytes, at) else { break };
            match found.protocol {
                ipv6::FRAGMENT => {
                    let word = u16_at(extension, 2);
                    found.fragment = Some((word & !7, word & 1 != 0));
                    at += 8;
                }
                ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS => {
                    at += 8 + 8 * usize::from(extension[1]);
                }
                _ => break,
            }
            found.protocol = extension[0];
        }
        Some(found.with_transport(bytes.get(at..).unwrap_or_default()))
    }

    /// Adds what the transport header says; a later fragment has none.
    fn with_transport(mut self, bytes: &[u8]) -> IpHeaders {
        if self.fragment.is_some_and(|(offset, _)| offset > 0) {
            return self;
        }
        match self.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                self.ports =
                    header_at::<4>(bytes, 0).map(|ports| (u16_at(ports, 0), u16_at(ports, 2)));
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let header = header_at::<{ icmp::HEADER_BYTES }>(bytes, 0);
                self.icmp = header.map(|at| (at[0], at[1], u16_at(at, icmp::IDENTIFIER)));
            }
            _ => {}
        }
        if self.protocol == protocol::TCP {
            self.tcp_flags = bytes.get(tcp::FLAGS).copied();
        }
        self
    }
}

/// Which packets are wanted. What is not given does not matter.
#[derive(Clone, Debug, Default)]
pub struct TraceFilter {
    /// It comes from one of these, as it comes in.
    pub from: Vec<IpNet>,
    /// It goes to one of these, as it comes in.
    pub to: Vec<IpNet>,
    /// One of these transport protocols.
    pub protocols: Vec<u8>,
    /// This ethertype.
    pub ethertype: Option<u16>,
    /// From or to this port of its transport protocol, as it comes in.
    pub port: Option<u16>,
    /// It comes in or goes out by one of these: an endpoint's.
    pub endpoint: Option<PortSet>,
    /// It comes in or goes out by one of these: an uplink's.
    pub uplink: Option<PortSet>,
}

impl TraceFilter {
    /// True if a packet with these headers is wanted, as far as they tell.
    pub fn takes(&self, headers: &Headers) -> bool {
        let within = |nets: &[IpNet], address: fn(&IpHeaders) -> IpAddr| {
            nets.is_empty()
                || headers.ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&address(&ip))))
        };
        let is_protocol = || headers.ip.is_some_and(|ip| self.protocols.contains(&ip.protocol));
        let has_port = |port: u16| {
            let ports = headers.ip.and_then(|ip| ip.ports);
            ports.is_some_and(|(source, destination)| source == port || destination == port)
        };
        within(&self.from, |ip| ip.source)
            && within(&self.to, |ip| ip.destination)
            && (self.protocols.is_empty() || is_protocol())
            && self.ethertype.is_none_or(|ethertype| ethertype == headers.ethertype)
            && self.port.is_none_or(has_port)
    }
}

/// From where a worker took a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It came in by a port.
    Port,
    /// Another worker handed it over.
    HandedOver,
    /// It had waited for its next hop.
    Waited,
}

/// A packet that left because of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// By this port.
    pub port: PortId,
    /// As this.
    pub headers: Headers,
}

/// What became of one packet.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was handled.
    pub at: Instant,
    /// By this worker.
    pub worker: WorkerId,
    /// The port by which it came in.
    pub ingress: PortId,
    /// From where the worker took it.
    pub origin: Origin,
    /// As it came in.
    pub packet: Headers,
    /// What the stages say of it, just before it was handled; `None` of what they are not asked
    /// about: ARP and ND, ICMP errors, later fragments, what is broken or forged.
    pub explanation: Option<Explanation>,
    /// A flow or the FDB had its decision: it was repeated, and no stage was asked.
    pub is_hit: bool,
    /// It was handed over to the worker that owns its flow, which has a record of its own.
    pub is_handed_over: bool,
    /// It waits for its next hop, or for the first fragment of its datagram.
    pub waits: bool,
    /// The gateway answered it: ARP, ND, echo, an ICMP error, a reset.
    pub is_answered: bool,
    /// Packets that left because of it, the answer included.
    pub sent: ArrayVec<Sent, SENT_MAX>,
    /// How many that are in all.
    pub sent_count: u32,
    /// Why it, or copies of it, died.
    pub drops: ArrayVec<DropReason, SENT_MAX>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Option<Headers> {
        let mut frames = FramePool::new(heap_frames(2), heap_tails(1), FrameBalancer::new(2, 1));
        Headers::read(&Packet::copy_of(bytes, &mut frames).unwrap())
    }

    fn udp(v6: bool) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut bytes = Vec::new();
        match v6 {
            true => builder
                .ipv6([0x20; 16], [0x30; 16], 9)
                .udp(1_000, 53)
                .write(&mut bytes, b"payload")
                .unwrap(),
            false => builder
                .ipv4([10, 1, 0, 10], [192, 0, 2, 1], 9)
                .udp(1_000, 53)
                .write(&mut bytes, b"payload")
                .unwrap(),
        }
        bytes
    }

    #[test]
    fn headers_are_read_as_another_library_wrote_them() {
        for v6 in [false, true] {
            let bytes = udp(v6);
            let headers = read(&bytes).unwrap();
            assert_eq!(headers.bytes as usize, bytes.len());
            assert_eq!(headers.source_mac, MacAddress::new([2; 6]));
            let ip = headers.ip.unwrap();
            assert_eq!((ip.protocol, ip.hops, ip.ports), (17, 9, Some((1_000, 53))));
            assert_eq!((ip.source.is_ipv6(), ip.fragment), (v6, None));
        }
    }

    #[test]
    fn a_filter_takes_what_it_says_and_nothing_else() {
        let headers = read(&udp(false)).unwrap();
        let net = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let all = TraceFilter::default;
        let right = [
            all(),
            TraceFilter { from: net("10.1.0.0/24"), to: net("192.0.2.1/32"), ..all() },
            TraceFilter { protocols: vec![6, 17], port: Some(53), ..all() },
            TraceFilter { ethertype: Some(ethernet::IPV4), port: Some(1_000), ..all() },
        ];
        for filter in right {
            assert!(filter.takes(&headers), "{filter:?}");
        }
        let wrong = [
            TraceFilter { from: net("192.0.2.1/32"), ..all() },
            TraceFilter { to: net("fd00::/8"), ..all() },
            TraceFilter { protocols: vec![6], ..all() },
            TraceFilter { ethertype: Some(ethernet::ARP), ..all() },
            TraceFilter { port: Some(54), ..all() },
        ];
        for filter in wrong {
            assert!(!filter.takes(&headers), "{filter:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806]),
        ) {
            let mut bytes = bytes;
            if bytes.len() > 13 {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            let read = read(&bytes);
            prop_assert_eq!(read.is_some(), bytes.len() >= 14 && (read.is_some()
                || !matches!(ethertype, 0x8100 | 0x88a8)));
        }
    }
}
