//! Step 5b: the outer header, pushed in front of a frame that leaves by a tunnel.
//!
//! `[inner Ethernet…]` becomes `[outer Ethernet | IP | UDP | VXLAN | inner Ethernet…]`. The header
//! is a copy of the tunnel's template; what depends on the frame is filled in: lengths, DSCP and
//! ECN of the inner packet (RFC 6040: copied), and a source port from its flow, so that a network
//! spreads flows and keeps each in order. The UDP checksum is zero with IPv4 (RFC 7348 section 5)
//! and whole with IPv6 (RFC 8200 section 8.1), which every receiver takes.

use crate::cut::sum_from;
use crate::flow::mix;
use crate::neighbour::Macs;
use crate::packet::{Packet, WINDOW_BYTES};
use crate::tunnel::{OUTER_V4_BYTES, OUTER_V6_BYTES, Outer};
use crate::wire::{
    checksum, ethernet, ipv4, ipv6, protocol, raw_u16_at, raw_u32_at, raw_u64_at, udp, vxlan,
};

const L3: usize = ethernet::HEADER_BYTES;
const L4_V4: usize = L3 + ipv4::HEADER_BYTES;
const L4_V6: usize = L3 + ipv6::HEADER_BYTES;

/// The lowest source port: RFC 6335's dynamic range, which RFC 7348 section 5 recommends.
const SOURCE_PORT_MIN: u16 = 0xc000;

/// Odd numbers that mix what little two flows differ in; nobody gains by foreseeing a port.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// Pushes the header. `macs`: of the next hop; `None`: the template has them. The frame has no
/// offload, and room in front of it.
#[inline]
pub(crate) fn encapsulate(packet: &mut Packet, outer: &Outer, macs: Option<Macs>) {
    let (hash, class) = flow_of(packet.window(), packet.head_bytes());
    let port = SOURCE_PORT_MIN | (hash >> 50) as u16;
    let inner_bytes = packet.len();
    let udp_bytes = (inner_bytes + udp::HEADER_BYTES + vxlan::HEADER_BYTES) as u16;
    match outer.is_v6 {
        false => {
            packet.move_start(-(OUTER_V4_BYTES as isize));
            let window = packet.window_mut();
            window[..OUTER_V4_BYTES].copy_from_slice(&outer.template[..OUTER_V4_BYTES]);
            let total = udp_bytes.wrapping_add(ipv4::HEADER_BYTES as u16);
            window[L3 + 1] = class;
            put(window, L3 + ipv4::TOTAL_LENGTH, total);
            let sum = outer.header_sum + u32::from(total) + u32::from(class);
            put(window, L3 + ipv4::CHECKSUM, !checksum::fold_small(sum));
            put(window, L4_V4, port);
            put(window, L4_V4 + udp::LENGTH, udp_bytes);
        }
        true => {
            packet.move_start(-(OUTER_V6_BYTES as isize));
            let window = packet.window_mut();
            window[..OUTER_V6_BYTES].copy_from_slice(&outer.template);
            // RFC 6438: the flow label tells flows apart where ports are not looked at.
            let label = (hash >> 20) as u32 & 0x000f_ffff;
            let word = 0x6000_0000 | u32::from(class) << 20 | label;
            window[L3..L3 + 4].copy_from_slice(&word.to_be_bytes());
            put(window, L3 + ipv6::PAYLOAD_LENGTH, udp_bytes);
            put(window, L4_V6, port);
            put(window, L4_V6 + udp::LENGTH, udp_bytes);
            let addresses = &window[L3 + ipv6::SOURCE..L4_V6];
            let pseudo = checksum::pseudo_header(addresses, protocol::UDP, udp_bytes.into());
            let sum = !checksum::fold(pseudo + sum_from(packet, L4_V6));
            let sum = if sum == 0 { 0xffff } else { sum };
            put(packet.window_mut(), L4_V6 + udp::CHECKSUM, sum);
        }
    }
    if let Some(macs) = macs
        && let Some(bytes) = packet.window_mut().first_chunk_mut::<12>()
    {
        macs.store(bytes);
    }
}

#[inline(always)]
fn put(window: &mut [u8; WINDOW_BYTES], offset: usize, value: u16) {
    window[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// A hash of a frame's flow, and its DSCP and ECN. All fragments of a datagram are one flow.
#[inline(always)]
fn flow_of(window: &[u8; WINDOW_BYTES], bytes: usize) -> (u64, u8) {
    let has_ports = |number: u8| matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP);
    let (one, other, class) = match u16::from_be(raw_u16_at(window, ethernet::TYPE)) {
        ethernet::IPV4 if bytes >= L4_V4 => {
            let number = window[L3 + ipv4::PROTOCOL];
            let fragment = raw_u16_at(window, L3 + ipv4::FRAGMENT) & !ipv4::DONT_FRAGMENT.to_be();
            let is_plain = window[L3] == 0x45 && fragment == 0 && has_ports(number);
            let ports = if is_plain { raw_u32_at(window, L4_V4) } else { 0 };
            let addresses = raw_u64_at(window, L3 + ipv4::SOURCE);
            (addresses, u64::from(ports) << 8 | u64::from(number), window[L3 + 1])
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
