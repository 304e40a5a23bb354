//! Headers as they lie on the wire: offsets, numbers and big-endian reads. The only place that
//! touches network byte order.
//!
//! A reader takes an array of the header's fixed length, so the length was checked once where the
//! array was cut out of the packet, and no read here can fail.

pub mod checksum;
pub mod crc32c;

/// Reads a big-endian number. `offset` is a constant at every call, so the bounds are checked by
/// the compiler.
#[inline(always)]
pub fn u16_at<const N: usize>(header: &[u8; N], offset: usize) -> u16 {
    u16::from_be_bytes(part(header, offset))
}

/// As [`u16_at`], four bytes.
#[inline(always)]
pub fn u32_at<const N: usize>(header: &[u8; N], offset: usize) -> u32 {
    u32::from_be_bytes(part(header, offset))
}

/// As [`u16_at`], eight bytes.
#[inline(always)]
pub fn u64_at<const N: usize>(header: &[u8; N], offset: usize) -> u64 {
    u64::from_be_bytes(part(header, offset))
}

/// As [`u16_at`], sixteen bytes.
#[inline(always)]
pub fn u128_at<const N: usize>(header: &[u8; N], offset: usize) -> u128 {
    u128::from_be_bytes(part(header, offset))
}

/// Two bytes as they lie there: for comparisons and sums, which do not mind byte order.
#[inline(always)]
pub fn raw_u16_at<const N: usize>(header: &[u8; N], offset: usize) -> u16 {
    u16::from_ne_bytes(part(header, offset))
}

/// As [`raw_u16_at`], four bytes.
#[inline(always)]
pub fn raw_u32_at<const N: usize>(header: &[u8; N], offset: usize) -> u32 {
    u32::from_ne_bytes(part(header, offset))
}

/// As [`raw_u16_at`], eight bytes.
#[inline(always)]
pub fn raw_u64_at<const N: usize>(header: &[u8; N], offset: usize) -> u64 {
    u64::from_ne_bytes(part(header, offset))
}

/// As [`raw_u16_at`], sixteen bytes.
#[inline(always)]
pub fn raw_u128_at<const N: usize>(header: &[u8; N], offset: usize) -> u128 {
    u128::from_ne_bytes(part(header, offset))
}

#[inline(always)]
fn part<const N: usize, const M: usize>(header: &[u8; N], offset: usize) -> [u8; M] {
    *header[offset..].first_chunk().expect("constant offsets lie inside the header")
}

/// The `N` bytes at `offset`, if the slice has them.
#[inline(always)]
pub fn header_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>()
}

/// The `N` bytes at `offset`, to write.
#[inline(always)]
pub fn header_at_mut<const N: usize>(bytes: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(offset..)?.first_chunk_mut::<N>()
}

/// `[destination 6 | source 6 | ethertype 2]`, IEEE 802.3.
pub mod ethernet {
    /// Length of the header without tags.
    pub const HEADER_BYTES: usize = 14;
    /// Length of one VLAN tag, IEEE 802.1Q.
    pub const TAG_BYTES: usize = 4;
    /// Offset of the ethertype in the untagged header.
    pub const TYPE: usize = 12;
    /// IPv4
    pub const IPV4: u16 = 0x0800;
    /// ARP
    pub const ARP: u16 = 0x0806;
    /// IPv6
    pub const IPV6: u16 = 0x86dd;
    /// VLAN tag, IEEE 802.1Q
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag, IEEE 802.1ad
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// `[hardware 2 | protocol 2 | lengths 1+1 | operation 2 | sender MAC 6, IP 4 | target the same]`,
/// RFC 826.
pub mod arp {
    /// Length for Ethernet and IPv4.
    pub const BYTES: usize = 28;
    /// Hardware type, protocol type and lengths of Ethernet and IPv4 in one word.
    pub const ETHERNET_IPV4: u64 = 0x0001_0800_0604;
    /// Operation: request.
    pub const REQUEST: u16 = 1;
    /// Operation: reply.
    pub const REPLY: u16 = 2;
    /// Offset of the operation.
    pub const OPERATION: usize = 6;
    /// Offset of the sender's MAC address.
    pub const SENDER_MAC: usize = 8;
    /// Offset of the sender's IP address.
    pub const SENDER_IP: usize = 14;
    /// Offset of the target's IP address.
    pub const TARGET_IP: usize = 24;
}

/// RFC 791 section 3.1.
pub mod ipv4 {
    /// Length without options.
    pub const HEADER_BYTES: usize = 20;
    /// Offset of the total length.
    pub const TOTAL_LENGTH: usize = 2;
    /// Offset of the identification.
    pub const IDENTIFICATION: usize = 4;
    /// Offset of flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// "Don't fragment" in the word at [`FRAGMENT`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// "More fragments" in the word at [`FRAGMENT`].
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment offset in the word at [`FRAGMENT`].
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;
    /// Offset of the TTL.
    pub const TTL: usize = 8;
    /// Offset of the protocol.
    pub const PROTOCOL: usize = 9;
    /// Offset of the header checksum.
    pub const CHECKSUM: usize = 10;
    /// Offset of the source address; the destination follows.
    pub const SOURCE: usize = 12;
    /// Offset of the destination address.
    pub const DESTINATION: usize = 16;
}

/// RFC 8200 section 3.
pub mod ipv6 {
    /// Length of the fixed header.
    pub const HEADER_BYTES: usize = 40;
    /// Offset of the payload length.
    pub const PAYLOAD_LENGTH: usize = 4;
    /// Offset of the next header.
    pub const NEXT_HEADER: usize = 6;
    /// Offset of the hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Offset of the source address; the destination follows.
    pub const SOURCE: usize = 8;
    /// Offset of the destination address.
    pub const DESTINATION: usize = 24;
    /// Next header: hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Next header: routing.
    pub const ROUTING: u8 = 43;
    /// Next header: fragment.
    pub const FRAGMENT: u8 = 44;
    /// Next header: authentication (RFC 4302); its length counts 4-byte words less 2.
    pub const AUTHENTICATION: u8 = 51;
    /// Next header: none follows.
    pub const NO_NEXT: u8 = 59;
    /// Next header: destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Next header: mobility (RFC 6275).
    pub const MOBILITY: u8 = 135;
}

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// DCCP (RFC 4340)
    pub const DCCP: u8 = 33;
    /// Authentication header (RFC 4302), which forbids every change of addresses.
    pub const AUTHENTICATION: u8 = 51;
    /// SCTP
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828)
    pub const UDP_LITE: u8 = 136;
}

/// RFC 9293 section 3.1.
pub mod tcp {
    /// Length without options.
    pub const HEADER_BYTES: usize = 20;
    /// Offset of the sequence number.
    pub const SEQUENCE: usize = 4;
    /// Offset of the acknowledgement number.
    pub const ACKNOWLEDGEMENT: usize = 8;
    /// Offset of the data offset (upper four bits, in 4-byte words).
    pub const DATA_OFFSET: usize = 12;
    /// Offset of the flags.
    pub const FLAGS: usize = 13;
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 16;
    /// Flag FIN
    pub const FIN: u8 = 0x01;
    /// Flag SYN
    pub const SYN: u8 = 0x02;
    /// Flag RST
    pub const RST: u8 = 0x04;
    /// Flag PSH
    pub const PSH: u8 = 0x08;
    /// Flag ACK
    pub const ACK: u8 = 0x10;
    /// Flag ECE
    pub const ECE: u8 = 0x40;
    /// Flag CWR
    pub const CWR: u8 = 0x80;
}

/// RFC 768.
pub mod udp {
    /// Length of the header.
    pub const HEADER_BYTES: usize = 8;
    /// Offset of the length.
    pub const LENGTH: usize = 4;
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 6;
}

/// `[flags 1 | reserved 3 | VNI 3 | reserved 1]`, RFC 7348 section 5.
pub mod vxlan {
    /// Length of the header.
    pub const HEADER_BYTES: usize = 8;
    /// Flag I: the VNI is valid.
    pub const FLAG_VNI: u8 = 0x08;
    /// Offset of the VNI, which is the upper three bytes of the word there.
    pub const VNI: usize = 4;
}

/// RFC 9260 section 3.1.
pub mod sctp {
    /// Length of the common header.
    pub const HEADER_BYTES: usize = 12;
    /// Offset of the verification tag.
    pub const TAG: usize = 4;
    /// Offset of the checksum, which is a CRC32c in little-endian order (appendix A).
    pub const CHECKSUM: usize = 8;
    /// Length of a chunk's header: `[type 1 | flags 1 | length 2]`.
    pub const CHUNK_HEADER_BYTES: usize = 4;
    /// Chunk: INIT; its initiate tag follows the header.
    pub const INIT: u8 = 1;
    /// Chunk: INIT ACK; as INIT.
    pub const INIT_ACK: u8 = 2;
    /// Chunk: ABORT
    pub const ABORT: u8 = 6;
    /// Chunk: SHUTDOWN
    pub const SHUTDOWN: u8 = 7;
    /// Chunk: SHUTDOWN ACK
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Chunk: SHUTDOWN COMPLETE
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    /// Flag T of ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, reflected.
    pub const REFLECTED: u8 = 1;
}

/// RFC 792 and RFC 4443.
pub mod icmp {
    /// Length of the header of every message that we read.
    pub const HEADER_BYTES: usize = 8;
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 2;
    /// Offset of the identifier of echo messages.
    pub const IDENTIFIER: usize = 4;
    /// ICMP type: echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMP type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code: a packet that may not be fragmented is too large for the next link.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// ICMP type: source quench (deprecated).
    pub const SOURCE_QUENCH: u8 = 4;
    /// ICMP type: redirect.
    pub const REDIRECT: u8 = 5;
    /// ICMP type: echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// ICMP type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// ICMP type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6 type: destination unreachable, the first of the errors that there are.
    pub const V6_UNREACHABLE: u8 = 1;
    /// ICMPv6 type: packet too big.
    pub const V6_TOO_BIG: u8 = 2;
    /// ICMPv6 type: time exceeded.
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// ICMPv6 type: parameter problem, the last of the errors that there are.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// ICMPv6 types below this one are errors.
    pub const V6_INFORMATION_MIN: u8 = 128;
    /// ICMPv6 type: echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 type: echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// ICMPv6 type: router solicitation (RFC 4861), the first of neighbour discovery.
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    /// ICMPv6 type: router advertisement.
    pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
    /// ICMPv6 type: neighbour solicitation.
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    /// ICMPv6 type: neighbour advertisement.
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// ICMPv6 type: redirect, the last of neighbour discovery.
    pub const V6_REDIRECT: u8 = 137;
}
