//! Step 5b: the outer header, pushed in front of a frame that leaves by a tunnel.
//!
//! `[inner Ethernet…]` becomes `[outer Ethernet | IP | UDP | VXLAN | inner Ethernet…]`. The header
//! is a copy of the tunnel's template; what depends on the frame is filled in: lengths, DSCP and
//! ECN of the inner packet (RFC 6040: copied), and a source port from its flow, so that a network
//! spreads flows and keeps each in order. The UDP checksum is zero with IPv4 (RFC 7348 section 5)
//! and whole with IPv6 (RFC 8200 section 8.1), which every receiver takes.

use crate::counters::DropReason;
use crate::cut::{cut, sum_from};
use crate::flow::mix;
use crate::frame::FramePool;
use crate::packet::{Meta, Offload, Packet, Shape, WINDOW_BYTES};
use crate::tunnel::{OUTER_V4_BYTES, OUTER_V6_BYTES};
use crate::wire::{
    checksum, ethernet, ipv4, ipv6, protocol, raw_u16_at, raw_u32_at, raw_u64_at, u16_at, udp,
    vxlan,
};

const L3: usize = ethernet::HEADER_BYTES;
const L4_V4: usize = L3 + ipv4::HEADER_BYTES;
const L4_V6: usize = L3 + ipv6::HEADER_BYTES;

/// The lowest source port: RFC 6335's dynamic range, which RFC 7348 section 5 recommends.
pub(crate) const SOURCE_PORT_MIN: u16 = 0xc000;

/// Odd numbers that mix what little two flows differ in; nobody gains by foreseeing a port.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// An outer header, whole but for what depends on the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) bytes: [u8; OUTER_V6_BYTES],
    pub(crate) is_v6: bool,
    /// Sum of the IPv4 header's words that are the same in all packets.
    pub(crate) sum: u32,
}

impl Default for Header {
    fn default() -> Header {
        Header { bytes: [0; OUTER_V6_BYTES], is_v6: false, sum: 0 }
    }
}

impl Header {
    /// Bytes that are pushed.
    pub(crate) fn outer_bytes(&self) -> usize {
        if self.is_v6 { OUTER_V6_BYTES } else { OUTER_V4_BYTES }
    }

    /// Where the outer UDP header begins.
    pub(crate) fn outer_l4(&self) -> u8 {
        if self.is_v6 { L4_V6 as u8 } else { L4_V4 as u8 }
    }
}

/// Pushes the header in front of a packet that has room there. Of one with an offload the outer
/// checksum is partial, if there is one at all.
#[inline(always)]
pub(crate) fn push(packet: &mut Packet, header: &Header) {
    if header.is_v6 {
        return push_v6(packet, header);
    }
    let (hash, class) = flow_of(packet.window(), packet.head_bytes());
    let udp_bytes = (packet.len() + udp::HEADER_BYTES + vxlan::HEADER_BYTES) as u16;
    packet.move_start(-(OUTER_V4_BYTES as isize));
    let window = packet.window_mut();
    window[..OUTER_V4_BYTES].copy_from_slice(&header.bytes[..OUTER_V4_BYTES]);
    let total = udp_bytes.wrapping_add(ipv4::HEADER_BYTES as u16);
    window[L3 + 1] = class;
    put(window, L3 + ipv4::TOTAL_LENGTH, total);
    let sum = header.sum + u32::from(total) + u32::from(class);
    put(window, L3 + ipv4::CHECKSUM, !checksum::fold_small(sum));
    put(window, L4_V4, source_port(hash));
    put(window, L4_V4 + udp::LENGTH, udp_bytes);
}

/// What packets have in common that are like one which has its outer header: the header, whole but
/// for the source port. They are plain IPv4, with IPv4 outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alike {
    shape: Shape,
    pushed: Shape,
    /// Destination MAC address; ethertype, version and class; fragment's word and protocol.
    mac: u64,
    class: u32,
    protocol: u64,
    /// What the protocol adds to the hash.
    number: u64,
    header: [u8; OUTER_V4_BYTES],
}

/// The bits of a destination MAC address, as a packet's first eight bytes are loaded.
pub(crate) const MAC: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
/// Of the eight bytes from an IPv4 header's length on: the fragment's word without "don't
/// fragment", and the protocol.
const PROTOCOL: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xbf, 0xff, 0, 0xff]);

impl Alike {
    /// What other packets have in common with this one, which [`push`] was just called for.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Option<Alike> {
        let pushed = packet.shape();
        let window = packet.window();
        let outer: &[u8; OUTER_V4_BYTES] = window.first_chunk()?;
        let shape = pushed.moved(OUTER_V4_BYTES as isize);
        let inner = packet.window_of(shape);
        let number = inner[L3 + ipv4::PROTOCOL];
        let protocol = raw_u64_at(inner, L3 + ipv4::TOTAL_LENGTH) & PROTOCOL;
        let is_plain = u16_at(window, ethernet::TYPE) == ethernet::IPV4
            && u16_at(inner, ethernet::TYPE) == ethernet::IPV4
            && inner[L3] == 0x45
            && protocol == u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, number])
            && has_ports(number)
            && shape.head_bytes() >= L4_V4
            && shape.is_ordinary();
        is_plain.then_some(Alike {
            shape,
            pushed,
            mac: raw_u64_at(inner, 0) & MAC,
            class: raw_u32_at(inner, ethernet::TYPE),
            protocol,
            number: u64::from(number),
            header: *outer,
        })
    }

    /// Pushes headers in front of packets until one is not alike; returns how many were.
    #[inline(never)]
    pub(crate) fn push(&self, packets: &mut [Packet]) -> usize {
        let alike = *self;
        let mut count = 0;
        for packet in packets {
            let window = packet.window_of(alike.shape);
            let right = packet.shape() == alike.shape
                && raw_u64_at(window, 0) & MAC == alike.mac
                && raw_u32_at(window, ethernet::TYPE) == alike.class
                && raw_u64_at(window, L3 + ipv4::TOTAL_LENGTH) & PROTOCOL == alike.protocol;
            if !right {
                break;
            }
            let hash = hash_v4(window, raw_u32_at(window, L4_V4), alike.number);
            packet.set_moved(alike.pushed);
            let window = packet.window_of_mut(alike.pushed);
            window[..OUTER_V4_BYTES].copy_from_slice(&alike.header);
            put(window, L4_V4, source_port(hash));
            count += 1;
        }
        count
    }

    /// Bytes of each packet without and with its header.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.shape.head_bytes(), self.pushed.head_bytes())
    }
}

fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// The hash of an IPv4 flow.
#[inline(always)]
fn hash_v4(window: &[u8; WINDOW_BYTES], ports: u32, number: u64) -> u64 {
    let addresses = raw_u64_at(window, L3 + ipv4::SOURCE);
    mix(addresses ^ MIX[0], u64::from(ports) << 8 ^ number ^ MIX[1])
}

#[inline(never)]
fn push_v6(packet: &mut Packet, header: &Header) {
    let (hash, class) = flow_of(packet.window(), packet.head_bytes());
    let udp_bytes = (packet.len() + udp::HEADER_BYTES + vxlan::HEADER_BYTES) as u16;
    packet.move_start(-(OUTER_V6_BYTES as isize));
    let window = packet.window_mut();
    window[..OUTER_V6_BYTES].copy_from_slice(&header.bytes);
    // RFC 6438: the flow label tells flows apart where ports are not looked at.
    let label = (hash >> 20) as u32 & 0x000f_ffff;
    let word = 0x6000_0000 | u32::from(class) << 20 | label;
    window[L3..L3 + 4].copy_from_slice(&word.to_be_bytes());
    put(window, L3 + ipv6::PAYLOAD_LENGTH, udp_bytes);
    put(window, L4_V6, source_port(hash));
    put(window, L4_V6 + udp::LENGTH, udp_bytes);
    set_checksum(packet, L3 + ipv6::SOURCE, L4_V6);
}

/// Sets the outer UDP checksum, whose field is 0: whole, or of the pseudo-header alone where others
/// are to finish it.
fn set_checksum(packet: &mut Packet, addresses: usize, l4: usize) {
    let udp_bytes = packet.len() - l4;
    let pseudo = checksum::pseudo_header(&packet.head()[addresses..l4], protocol::UDP, udp_bytes);
    let sum = match packet.offload() {
        Offload::None => match !checksum::fold(pseudo + sum_from(packet, l4)) {
            0 => 0xffff,
            sum => sum,
        },
        _ => checksum::fold(pseudo),
    };
    put(packet.window_mut(), l4 + udp::CHECKSUM, sum);
}

/// Cuts a super-frame that is in a tunnel: each segment gets a copy of the outer header with
/// lengths, IPv4 identification and checksums of its own.
pub(crate) fn cut_tunnelled(
    mut packet: Packet,
    frames: &mut FramePool,
    each: &mut impl FnMut(Packet, &mut FramePool),
) -> Result<(), DropReason> {
    let mut outer = [0; OUTER_V6_BYTES];
    let Some((bytes, offload)) = read_outer(&packet) else {
        packet.recycle(frames);
        return Err(DropReason::CutFailed);
    };
    outer[..bytes].copy_from_slice(&packet.head()[..bytes]);
    packet.move_start(bytes as isize);
    packet.set_offload(offload);
    packet.meta.l3 = 0;
    let mut number = 0u16;
    let put_back = &mut |mut segment: Packet, frames: &mut FramePool| {
        push_back(&mut segment, &outer[..bytes], number);
        number = number.wrapping_add(1);
        each(segment, frames);
    };
    cut(packet, frames, put_back).map(|_| ())
}

/// How long the outer header of a super-frame is, and the offload without it.
fn read_outer(packet: &Packet) -> Option<(usize, Offload)> {
    let Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 } = packet.offload() else {
        return None;
    };
    let bytes = usize::from(outer_l4) + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
    let start = start.checked_sub(bytes as u16)?;
    let is_v4 = u16_at(packet.window(), ethernet::TYPE) == ethernet::IPV4;
    let right = bytes == if is_v4 { OUTER_V4_BYTES } else { OUTER_V6_BYTES };
    let inside = packet.head_bytes() > bytes && usize::from(start) >= L3;
    (right && inside).then_some((bytes, Offload::Gso { kind, segment_bytes, start, ecn }))
}

/// Gives a segment its outer header back.
fn push_back(segment: &mut Packet, outer: &[u8], number: u16) {
    segment.move_start(-(outer.len() as isize));
    segment.meta = Meta::default();
    let (bytes, window) = (segment.len(), segment.window_mut());
    window[..outer.len()].copy_from_slice(outer);
    let has_checksum =
        |window: &[u8; WINDOW_BYTES], l4: usize| raw_u16_at(window, l4 + udp::CHECKSUM) != 0;
    let (addresses, l4) = match outer.len() {
        OUTER_V4_BYTES => {
            let identification = u16_at(window, L3 + ipv4::IDENTIFICATION).wrapping_add(number);
            put(window, L3 + ipv4::IDENTIFICATION, identification);
            put(window, L3 + ipv4::TOTAL_LENGTH, (bytes - L3) as u16);
            put(window, L3 + ipv4::CHECKSUM, 0);
            let sum = checksum::fold(checksum::sum(&window[L3..L4_V4]));
            put(window, L3 + ipv4::CHECKSUM, !sum);
            (L3 + ipv4::SOURCE, L4_V4)
        }
        _ => {
            put(window, L3 + ipv6::PAYLOAD_LENGTH, (bytes - L4_V6) as u16);
            (L3 + ipv6::SOURCE, L4_V6)
        }
    };
    put(window, l4 + udp::LENGTH, (bytes - l4) as u16);
    if has_checksum(window, l4) {
        put(window, l4 + udp::CHECKSUM, 0);
        set_checksum(segment, addresses, l4);
    }
}

#[inline(always)]
fn source_port(hash: u64) -> u16 {
    SOURCE_PORT_MIN | (hash >> 50) as u16
}

/// The outer source port of a frame of which this is the beginning; `None`: too little is there.
pub(crate) fn source_port_of(inner: &[u8]) -> Option<u16> {
    let window = inner.first_chunk::<{ WINDOW_BYTES }>()?;
    Some(source_port(flow_of(window, WINDOW_BYTES).0))
}

#[inline(always)]
fn put(window: &mut [u8; WINDOW_BYTES], offset: usize, value: u16) {
    window[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// A hash of a frame's flow, and its DSCP and ECN. All fragments of a datagram are one flow.
#[inline(always)]
fn flow_of(window: &[u8; WINDOW_BYTES], bytes: usize) -> (u64, u8) {
    let (one, other, class) = match u16::from_be(raw_u16_at(window, ethernet::TYPE)) {
        ethernet::IPV4 if bytes >= L4_V4 => {
            let number = window[L3 + ipv4::PROTOCOL];
            let fragment = raw_u16_at(window, L3 + ipv4::FRAGMENT) & !ipv4::DONT_FRAGMENT.to_be();
            let is_plain = window[L3] == 0x45 && fragment == 0 && has_ports(number);
            let ports = if is_plain { raw_u32_at(window, L4_V4) } else { 0 };
            return (hash_v4(window, ports, number.into()), window[L3 + 1]);
        }
        ethernet::IPV6 if bytes >= L4_V6 => {
            let number = window[L3 + ipv6::NEXT_HEADER];
            let ports = if has_ports(number) { raw_u32_at(window, L4_V6) } else { 0 };
            let at = |offset: usize| raw_u64_at(window, L3 + ipv6::SOURCE + offset);
            let addresses = mix(at(0) ^ MIX[0], at(8) ^ MIX[1]) ^ mix(at(16) ^ MIX[1], at(24));
            let class = window[L3] << 4 | window[L3 + 1] >> 4;
            (addresses, u64::from(ports) << 8 | u64::from(number), class)
        }
        _ => (raw_u64_at(window, 0), raw_u64_at(window, 4), 0),
    };
    (mix(one ^ MIX[0], other ^ MIX[1]), class)
}
