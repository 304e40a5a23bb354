//! An independent judge of packets that we build, for tests: etherparse decodes them.
//!
//! It shares no code with what it judges. It does not look at what a packet means, only at whether
//! lengths and checksums of every layer are right.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Decodes an Ethernet frame.
///
/// # Panics
/// When a length or a checksum of any layer is wrong, or bytes follow the IP packet.
pub(crate) fn judge(bytes: &[u8]) -> SlicedPacket<'_> {
    let sliced = SlicedPacket::from_ethernet(bytes).expect("well-formed headers");
    match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
            let l3 = ip.header().slice().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(usize::from(header.total_len), bytes.len() - l3, "IPv4 total length");
        }
        Some(NetSlice::Ipv6(ip)) => {
            let l3 = ip.header().slice().as_ptr() as usize - bytes.as_ptr() as usize;
            let length = usize::from(ip.header().payload_length());
            assert_eq!(length, bytes.len() - l3 - 40, "IPv6 payload length");
        }
        _ => {}
    }
    match (&sliced.net, &sliced.transport) {
        (Some(net), Some(transport)) => judge_transport(net, transport),
        (net, None) => assert!(
            net.as_ref().is_none_or(|net| net.is_arp()) || sliced.is_ip_payload_fragmented(),
            "a packet that we build has a transport header"
        ),
        (None, Some(_)) => unreachable!("a transport header lies behind an IP header"),
    }
    sliced
}

fn judge_transport(net: &NetSlice<'_>, transport: &TransportSlice<'_>) {
    let v4 = net.ipv4_ref().map(|ip| ip.header().to_header());
    let v6 = net.ipv6_ref().map(|ip| ip.header().to_header());
    let (found, expected) = match transport {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let expected = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                _ => unreachable!("TCP lies in IP"),
            };
            (tcp.checksum(), expected.expect("a length that fits"))
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            assert_eq!(usize::from(udp.length()), udp.slice().len(), "UDP length");
            let expected = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                _ => unreachable!("UDP lies in IP"),
            };
            (udp.checksum(), expected.expect("a length that fits"))
        }
        TransportSlice::Icmpv4(icmp) => {
            (icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()))
        }
        TransportSlice::Icmpv6(icmp) => {
            let ip = v6.expect("ICMPv6 lies in IPv6");
            assert!(icmp.is_checksum_valid(ip.source, ip.destination), "ICMPv6 checksum");
            return;
        }
        _ => panic!("a protocol that we do not build"),
    };
    assert_eq!(found, expected, "transport checksum");
}
