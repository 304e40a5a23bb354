//! Packets of tunnels that are recognised at a glance: what all of one tunnel have in common.
//!
//! The outer headers of one tunnel end's packets over IPv4 differ in little: length,
//! identification, "don't fragment", TTL, class and source port; they have no UDP checksum (RFC
//! 7348 section 5). The rest is compared in a few words, as it is loaded. The one hard constraint:
//! what is recognised here, [`decapsulate`](super::decapsulate) takes out of the same tunnel.
//! Anything else goes there.

use super::{L3, L4_V4, OUTER_V4_BYTES};
use crate::id::{NetworkId, PortId};
use crate::packet::{Packet, Shape, WINDOW_BYTES};
use crate::tunnel::Origin;
use crate::wire::{ethernet, ipv4, protocol, raw_u16_at, raw_u64_at, u16_at, vxlan};

/// How many tunnels are known at once. A power of two. Lower, and packets of many tunnels take the
/// long look; each more is 64 bytes per worker.
const PLACES: usize = 16;

/// Bytes of the shortest packet with a whole frame in it.
const BYTES_MIN: usize = OUTER_V4_BYTES + ethernet::HEADER_BYTES;

/// Which bits of the five words tell: all of the Ethernet header and not the class,
const MIDDLE: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
/// total length, all of the fragment's word but "don't fragment", and protocol,
const LENGTHS: u64 = u64::from_ne_bytes([0xff, 0xff, 0, 0, 0xbf, 0xff, 0, 0xff]);
/// destination port, length and checksum,
const UDP: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
/// and of VXLAN the flag and the identifier (reserved bits: RFC 7348 section 5).
const VXLAN: u64 = u64::from_ne_bytes([vxlan::FLAG_VNI, 0, 0, 0, 0xff, 0xff, 0xff, 0]);

/// Offsets of the words from the first byte of the outer packet.
const ADDRESSES_AT: usize = L3 + ipv4::SOURCE;
const VXLAN_AT: usize = OUTER_V4_BYTES - vxlan::HEADER_BYTES;

/// What the packets of one tunnel have in common.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Known {
    start: u64,
    middle: u64,
    addresses: u64,
    udp: u64,
    vxlan: u64,
    /// What the addresses add to the header's checksum, modulo 2^16 - 1.
    sum: u64,
    pub(crate) origin: Origin,
}

const _: () = assert!(size_of::<Known>() == 64, "one line");

/// All that are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownTunnels([Known; PLACES]);

impl Default for KnownTunnels {
    fn default() -> KnownTunnels {
        const NOWHERE: PortId = PortId(u16::MAX);
        let origin =
            Origin { tunnel: NOWHERE, trunk: NOWHERE, network: NetworkId::NONE, is_shared: false };
        // No packet is IP and has this for its ethertype.
        let (start, middle) = (u64::MAX, u64::MAX);
        let nothing = Known { start, middle, addresses: 0, udp: 0, vxlan: 0, sum: 0, origin };
        KnownTunnels([nothing; PLACES])
    }
}

impl KnownTunnels {
    /// Which place a packet's tunnel has.
    #[inline(always)]
    fn place(window: &[u8; WINDOW_BYTES]) -> usize {
        let (source, vni) = (window[ADDRESSES_AT + 3], window[VXLAN_AT + vxlan::VNI + 2]);
        usize::from(source ^ vni) % PLACES
    }

    /// The tunnel of a packet, if it is known and nothing is special about the packet.
    #[inline(always)]
    pub(crate) fn recognise(&self, packet: &Packet) -> Option<&Known> {
        let (window, bytes) = (packet.window(), packet.head_bytes());
        let known = &self.0[KnownTunnels::place(window)];
        let right = packet.is_ordinary() && bytes >= BYTES_MIN && known.is_of(window, bytes);
        right.then_some(known)
    }

    /// Notes the tunnel of a packet, whose first bytes are these, that was found to be right;
    /// packets of another shape are not noted.
    pub(crate) fn note(&mut self, window: &[u8; WINDOW_BYTES], bytes: usize, origin: Origin) {
        let addresses = raw_u64_at(window, ADDRESSES_AT);
        let known = Known {
            start: raw_u64_at(window, 0),
            middle: raw_u64_at(window, 8) & MIDDLE,
            addresses,
            udp: raw_u64_at(window, L4_V4) & u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]),
            vxlan: raw_u64_at(window, VXLAN_AT) & VXLAN,
            sum: addresses % 0xffff,
            origin,
        };
        let is_v4 = u16_at(window, ethernet::TYPE) == ethernet::IPV4;
        if is_v4 && bytes >= BYTES_MIN && known.is_of(window, bytes) {
            self.0[KnownTunnels::place(window)] = known;
        }
    }
}

impl Known {
    /// True for a packet of the tunnel that is right in itself: one of so many bytes, none of them
    /// a trailer's.
    #[inline(always)]
    fn is_of(&self, window: &[u8; WINDOW_BYTES], bytes: usize) -> bool {
        let middle = raw_u64_at(window, 8);
        let lengths = raw_u64_at(window, L3 + ipv4::TOTAL_LENGTH);
        let total = (bytes as u16).wrapping_sub(L3 as u16).to_be_bytes();
        let udp_bytes = (bytes as u16).wrapping_sub(L4_V4 as u16).to_be_bytes();
        let wanted_lengths = u64::from_ne_bytes([total[0], total[1], 0, 0, 0, 0, 0, protocol::UDP]);
        let wanted_udp =
            self.udp | u64::from_ne_bytes([0, 0, 0, 0, udp_bytes[0], udp_bytes[1], 0, 0]);
        let different = (raw_u64_at(window, 0) ^ self.start)
            | ((middle & MIDDLE) ^ self.middle)
            | ((lengths & LENGTHS) ^ wanted_lengths)
            | (raw_u64_at(window, ADDRESSES_AT) ^ self.addresses)
            | ((raw_u64_at(window, L4_V4) & UDP) ^ wanted_udp)
            | ((raw_u64_at(window, VXLAN_AT) & VXLAN) ^ self.vxlan);
        let sum = self.sum + u64::from(raw_u16_at(window, L3));
        different == 0 && sums_up(window, lengths, sum)
    }

    /// What others have in common with a packet of this shape and class.
    #[inline(always)]
    pub(crate) fn alike(&self, shape: Shape, class: u8, source: u64) -> Alike {
        let bytes = shape.head_bytes() as u16;
        let total = bytes.wrapping_sub(L3 as u16).to_be_bytes();
        let udp_bytes = bytes.wrapping_sub(L4_V4 as u16).to_be_bytes();
        let version = u64::from(u16::from_ne_bytes([0x45, class]));
        Alike {
            shape,
            opened: shape.moved(OUTER_V4_BYTES as isize),
            start: self.start,
            middle: self.middle | u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, class]),
            lengths: u64::from_ne_bytes([total[0], total[1], 0, 0, 0, 0, 0, protocol::UDP]),
            addresses: self.addresses,
            udp: self.udp | u64::from_ne_bytes([0, 0, 0, 0, udp_bytes[0], udp_bytes[1], 0, 0]),
            vxlan: self.vxlan,
            sum: self.sum + version,
            source,
        }
    }
}

/// True if an IPv4 header's checksum is right: `lengths` its eight bytes from the length on, `sum`
/// what the others add but for the checksum.
#[inline(always)]
fn sums_up(window: &[u8; WINDOW_BYTES], lengths: u64, sum: u64) -> bool {
    // 2^16 is 1 modulo 2^16 - 1, so that words of any length may be added, and whether the sum is
    // all ones does not depend on byte order.
    let checksum = u64::from(raw_u16_at(window, L3 + ipv4::CHECKSUM));
    ((lengths & 0xffff_ffff) + (lengths >> 32) + checksum + sum).is_multiple_of(0xffff)
}

/// What packets have in common that are like one of a known tunnel: also length, class, and who
/// sent the frame inside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alike {
    shape: Shape,
    opened: Shape,
    start: u64,
    middle: u64,
    lengths: u64,
    addresses: u64,
    udp: u64,
    vxlan: u64,
    sum: u64,
    source: u64,
}

/// Where source and ethertype of the frame inside stand.
pub(crate) const SOURCE: usize = OUTER_V4_BYTES + 6;

impl Alike {
    /// Takes packets out of their tunnel until one is not alike; returns how many were.
    #[inline(never)]
    pub(crate) fn open(&self, packets: &mut [Packet]) -> usize {
        let alike = *self;
        let mut count = 0;
        for packet in packets {
            let window = packet.window_of(alike.shape);
            let lengths = raw_u64_at(window, L3 + ipv4::TOTAL_LENGTH);
            let different = (raw_u64_at(window, 0) ^ alike.start)
                | (raw_u64_at(window, 8) ^ alike.middle)
                | ((lengths & LENGTHS) ^ alike.lengths)
                | (raw_u64_at(window, ADDRESSES_AT) ^ alike.addresses)
                | ((raw_u64_at(window, L4_V4) & UDP) ^ alike.udp)
                | ((raw_u64_at(window, VXLAN_AT) & VXLAN) ^ alike.vxlan)
                | (raw_u64_at(window, SOURCE) ^ alike.source);
            let right = packet.shape() == alike.shape && different == 0;
            if !right || !sums_up(window, lengths, alike.sum) {
                break;
            }
            packet.set_moved(alike.opened);
            count += 1;
        }
        count
    }

    /// Bytes of each frame inside.
    pub(crate) fn bytes(&self) -> usize {
        self.opened.head_bytes()
    }
}
