//! The vnet header: what a TAP says about each packet, and what we say back.
//!
//! `struct virtio_net_hdr_mrg_rxbuf` (linux/virtio_net.h), 12 bytes, in native order as a TAP has
//! it unless told otherwise:
//!
//! [flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2 | num_buffers 2]
//!
//! or, where super-frames may be in tunnels (Linux 6.17), `struct virtio_net_hdr_v1_hash_tunnel`,
//! 24 bytes, whose last eight nobody else uses:
//!
//! [the same 12 | hash 4 | report 2 | padding 2 | outer_th_offset 2 | inner_nh_offset 2]
//!
//! The hard constraint: a header is checked against the packet's length before anybody trusts it;
//! what lies is refused here with its reason. What this does not do: compare with the packet's own
//! headers (that `start` is where TCP really begins); the engine does so when it has parsed them.

use engine::packet::GsoKind;
use engine::{Offload, Packet};

/// Bytes of a vnet header.
pub const VNET_HEADER_BYTES: usize = 12;

/// Bytes of a vnet header that can say that a super-frame is in a tunnel.
pub const TUNNEL_HEADER_BYTES: usize = 24;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is partial.
const FLAG_NEEDS_CHECKSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_*`.
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, a bit beside one of the above.
const GSO_ECN: u8 = 0x80;

/// `VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM`: the outer header has a checksum.
const FLAG_TUNNEL_CHECKSUM: u8 = 8;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4` and `_IPV6`, beside the kind of what is inside.
const GSO_TUNNEL_V4: u8 = 0x20;
const GSO_TUNNEL_V6: u8 = 0x40;

/// From an outer UDP header to the inner IP header: UDP, VXLAN (RFC 7348), Ethernet.
const TUNNEL_BYTES: u16 = 8 + 8 + 14;
/// Where the checksum of a UDP header in an IPv4 and an IPv6 packet without more stands.
const OUTER_L4_V4: u16 = 34;
const OUTER_L4_V6: u16 = 54;

/// Distance from the transport header to its checksum, in bytes (RFC 9293 3.1, RFC 768).
const TCP_CHECKSUM_OFFSET: u16 = 16;
const UDP_CHECKSUM_OFFSET: u16 = 6;

/// Smallest transport headers, in bytes, and the Ethernet header that lies before them.
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const ETHERNET_HEADER_BYTES: usize = 14;

/// Why a vnet header was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A kind of super-frame that was never asked for, legacy UFO among them.
    Kind,
    /// A super-frame with segments of no byte.
    Segment,
    /// A header length beyond the packet's end.
    HeaderLength,
    /// A checksum or transport header outside the packet's head, or inside its Ethernet header.
    ChecksumPlace,
    /// A super-frame whose checksum is not partial, or not where its protocol has it.
    ChecksumKind,
}

/// A vnet header, field by field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`
    pub(crate) flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`
    pub(crate) gso_type: u8,
    /// Bytes of all headers of a super-frame: a hint.
    pub(crate) header_bytes: u16,
    /// Payload bytes of a segment.
    pub(crate) segment_bytes: u16,
    /// Where summing begins, from the Ethernet header's first byte.
    pub(crate) checksum_start: u16,
    /// From there to the checksum.
    pub(crate) checksum_offset: u16,
    /// Where the outer UDP and the inner IP header begin; 0 if it says nothing about tunnels.
    pub(crate) tunnel: (u16, u16),
}

impl VnetHeader {
    /// Reads the header of a device whose super-frames may be in tunnels.
    #[inline]
    pub(crate) fn from_long_bytes(bytes: &[u8; TUNNEL_HEADER_BYTES]) -> VnetHeader {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let short = bytes.first_chunk().expect("the short form is shorter");
        VnetHeader { tunnel: (field(20), field(22)), ..VnetHeader::from_bytes(short) }
    }

    /// Writes the long form.
    #[inline]
    pub(crate) fn to_long_bytes(self) -> [u8; TUNNEL_HEADER_BYTES] {
        let mut bytes = [0; TUNNEL_HEADER_BYTES];
        bytes[..VNET_HEADER_BYTES].copy_from_slice(&self.to_bytes());
        // Of little-endian order whatever the machine's is.
        bytes[20..22].copy_from_slice(&self.tunnel.0.to_le_bytes());
        bytes[22..].copy_from_slice(&self.tunnel.1.to_le_bytes());
        bytes
    }

    /// Reads the twelve bytes. `num_buffers` means nothing on a TAP.
    #[inline]
    pub(crate) fn from_bytes(bytes: &[u8; VNET_HEADER_BYTES]) -> VnetHeader {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            header_bytes: field(2),
            segment_bytes: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
            tunnel: (0, 0),
        }
    }

    /// Writes the twelve bytes.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; VNET_HEADER_BYTES] {
        let mut bytes = [0; VNET_HEADER_BYTES];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.header_bytes.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_bytes.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }

    /// What the header says, once believed. `head_bytes` of the packet's `packet_bytes` lie in its
    /// head, where all headers must be.
    #[inline]
    pub(crate) fn offload(self, head_bytes: usize, packet_bytes: usize) -> Result<Offload, Lie> {
        let partial = self.flags & FLAG_NEEDS_CHECKSUM != 0;
        if self.gso_type == GSO_NONE {
            // A checksum that was found right (DATA_VALID), or one as on the wire: nothing to do.
            if !partial {
                return Ok(Offload::None);
            }
            self.check_place(head_bytes, usize::from(self.checksum_offset) + 2)?;
            let (start, offset) = (self.checksum_start, self.checksum_offset);
            return Ok(Offload::NeedsChecksum { start, offset });
        }
        self.super_frame(partial, head_bytes, packet_bytes)
    }

    fn super_frame(
        self,
        partial: bool,
        head_bytes: usize,
        packet_bytes: usize,
    ) -> Result<Offload, Lie> {
        let ecn = self.gso_type & GSO_ECN != 0;
        let tunnel = self.gso_type & (GSO_TUNNEL_V4 | GSO_TUNNEL_V6);
        let kind = match self.gso_type & !(GSO_ECN | GSO_TUNNEL_V4 | GSO_TUNNEL_V6) {
            GSO_TCP_V4 => GsoKind::TcpV4,
            GSO_TCP_V6 => GsoKind::TcpV6,
            GSO_UDP_L4 if !ecn => GsoKind::Udp,
            _ => return Err(Lie::Kind),
        };
        if self.segment_bytes == 0 {
            return Err(Lie::Segment);
        }
        if usize::from(self.header_bytes) > packet_bytes {
            return Err(Lie::HeaderLength);
        }
        let (checksum_offset, transport_bytes) = transport(kind);
        if !partial || self.checksum_offset != checksum_offset {
            return Err(Lie::ChecksumKind);
        }
        self.check_place(head_bytes, transport_bytes)?;
        let (segment_bytes, start) = (self.segment_bytes, self.checksum_start);
        if tunnel == 0 {
            return Ok(Offload::Gso { kind, segment_bytes, start, ecn });
        }
        let outer_l4 = self.outer_l4(tunnel)?;
        Ok(Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 })
    }

    /// Where the outer UDP header is. LIMIT: of a tunnel that is not VXLAN around an untagged
    /// frame, or has outer options or tags, no super-frame is taken; to be lifted with other
    /// tunnels.
    fn outer_l4(self, tunnel: u8) -> Result<u8, Lie> {
        let (outer_l4, inner_l3) = self.tunnel;
        let expected = match tunnel {
            GSO_TUNNEL_V4 => OUTER_L4_V4,
            GSO_TUNNEL_V6 => OUTER_L4_V6,
            _ => return Err(Lie::Kind),
        };
        if outer_l4 != expected || inner_l3 != outer_l4 + TUNNEL_BYTES {
            return Err(Lie::Kind);
        }
        match self.checksum_start > inner_l3 {
            true => Ok(outer_l4 as u8),
            false => Err(Lie::ChecksumPlace),
        }
    }

    /// `bytes` from `checksum_start` on lie in the head, behind the Ethernet header.
    #[inline]
    fn check_place(self, head_bytes: usize, bytes: usize) -> Result<(), Lie> {
        let start = usize::from(self.checksum_start);
        if start < ETHERNET_HEADER_BYTES || start + bytes > head_bytes {
            return Err(Lie::ChecksumPlace);
        }
        Ok(())
    }

    /// The header to send a packet with.
    #[inline]
    pub(crate) fn of(packet: &Packet) -> VnetHeader {
        match packet.offload() {
            Offload::None => VnetHeader::default(),
            Offload::NeedsChecksum { start, offset } => VnetHeader {
                flags: FLAG_NEEDS_CHECKSUM,
                checksum_start: start,
                checksum_offset: offset,
                ..VnetHeader::default()
            },
            Offload::Gso { kind, segment_bytes, start, ecn } => VnetHeader {
                flags: FLAG_NEEDS_CHECKSUM,
                gso_type: gso_type(kind, ecn),
                header_bytes: headers_bytes(packet.head(), kind, start),
                segment_bytes,
                checksum_start: start,
                checksum_offset: transport(kind).0,
                ..VnetHeader::default()
            },
            Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 } => {
                VnetHeader::of_tunnelled(
                    packet.head(),
                    (kind, ecn),
                    (segment_bytes, start),
                    outer_l4,
                )
            }
        }
    }

    #[cold]
    fn of_tunnelled(
        head: &[u8],
        (kind, ecn): (GsoKind, bool),
        (segment_bytes, start): (u16, u16),
        outer_l4: u8,
    ) -> VnetHeader {
        let outer_l4 = u16::from(outer_l4);
        let tunnel = if outer_l4 == OUTER_L4_V4 { GSO_TUNNEL_V4 } else { GSO_TUNNEL_V6 };
        let checksum = usize::from(outer_l4 + UDP_CHECKSUM_OFFSET);
        let has_checksum = head.get(checksum..checksum + 2).is_some_and(|field| field != [0, 0]);
        VnetHeader {
            flags: FLAG_NEEDS_CHECKSUM | if has_checksum { FLAG_TUNNEL_CHECKSUM } else { 0 },
            gso_type: gso_type(kind, ecn) | tunnel,
            header_bytes: headers_bytes(head, kind, start),
            segment_bytes,
            checksum_start: start,
            checksum_offset: transport(kind).0,
            tunnel: (outer_l4, outer_l4 + TUNNEL_BYTES),
        }
    }
}

/// Where a protocol has its checksum, and its smallest header, in bytes.
fn transport(kind: GsoKind) -> (u16, usize) {
    match kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => (TCP_CHECKSUM_OFFSET, TCP_HEADER_BYTES),
        GsoKind::Udp => (UDP_CHECKSUM_OFFSET, UDP_HEADER_BYTES),
    }
}

fn gso_type(kind: GsoKind, ecn: bool) -> u8 {
    let kind = match kind {
        GsoKind::TcpV4 => GSO_TCP_V4,
        GsoKind::TcpV6 => GSO_TCP_V6,
        GsoKind::Udp => return GSO_UDP_L4,
    };
    if ecn { kind | GSO_ECN } else { kind }
}

/// Bytes from the Ethernet header to the payload, never past the head's end: the kernel refuses a
/// packet that is shorter than it was told.
fn headers_bytes(head: &[u8], kind: GsoKind, start: u16) -> u16 {
    let start = usize::from(start);
    let transport_bytes = match kind {
        // The data offset of TCP, in the high four bits of byte 12, counts 4-byte words.
        GsoKind::TcpV4 | GsoKind::TcpV6 => {
            head.get(start + 12).map_or(0, |byte| usize::from(byte >> 4) * 4).max(TCP_HEADER_BYTES)
        }
        GsoKind::Udp => UDP_HEADER_BYTES,
    };
    (start + transport_bytes).min(head.len()) as u16
}

#[cfg(test)]
mod tests {
    use engine::frame::{FrameBalancer, FramePool, heap_frames, heap_tails};
    use proptest::prelude::*;

    use super::*;

    const HEAD_BYTES_MAX: usize = 1792;

    fn packet(len: usize, offload: Offload) -> Packet {
        let chunks = heap_frames(1);
        let tails = heap_tails(1);
        let mut frames = FramePool::new(chunks, tails, FrameBalancer::new(1, 1));
        let mut packet = Packet::copy_of(&vec![0x55; len], &mut frames).unwrap();
        packet.set_offload(offload);
        packet
    }

    fn any_offload() -> impl Strategy<Value = Offload> {
        let kind = prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6), Just(GsoKind::Udp)];
        prop_oneof![
            Just(Offload::None),
            (14..80u16, 0..40u16)
                .prop_map(|(start, offset)| Offload::NeedsChecksum { start, offset }),
            (kind, 1u16.., 14..100u16, any::<bool>()).prop_map(
                |(kind, segment_bytes, start, ecn)| {
                    let ecn = ecn && kind != GsoKind::Udp;
                    Offload::Gso { kind, segment_bytes, start, ecn }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(offload in any_offload(), len in 160..65_000usize) {
            let packet = packet(len, offload);
            let bytes = VnetHeader::of(&packet).to_bytes();
            let read = VnetHeader::from_bytes(&bytes).offload(packet.head().len(), packet.len());
            prop_assert_eq!(read, Ok(offload));
        }

        #[test]
        fn any_twelve_bytes_are_refused_or_lie_inside_the_packet(
            bytes in any::<[u8; VNET_HEADER_BYTES]>(),
            likely_type in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), Just(0x81)],
            packet_bytes in 14..70_000usize,
        ) {
            let head_bytes = packet_bytes.min(HEAD_BYTES_MAX);
            for gso_type in [bytes[1], likely_type] {
                let header = VnetHeader { gso_type, ..VnetHeader::from_bytes(&bytes) };
                match header.offload(head_bytes, packet_bytes) {
                    Ok(Offload::NeedsChecksum { start, offset }) => {
                        prop_assert!(usize::from(start) + usize::from(offset) + 2 <= head_bytes);
                    }
                    Ok(Offload::Gso { segment_bytes, start, .. }) => {
                        prop_assert!(segment_bytes > 0);
                        prop_assert!(usize::from(start) + UDP_HEADER_BYTES <= head_bytes);
                    }
                    Ok(Offload::Tunnelled { .. }) => {
                        prop_assert!(false, "twelve bytes say nothing about tunnels");
                    }
                    Ok(Offload::None) | Err(_) => {}
                }
            }
        }
    }

    /// A super-frame as a kernel announces it.
    const TCP: VnetHeader = VnetHeader {
        flags: FLAG_NEEDS_CHECKSUM,
        gso_type: GSO_TCP_V4,
        header_bytes: 66,
        segment_bytes: 1448,
        checksum_start: 34,
        checksum_offset: 16,
        tunnel: (0, 0),
    };

    #[test]
    fn a_tcp_super_frame_is_believed() {
        let expected =
            Offload::Gso { kind: GsoKind::TcpV4, segment_bytes: 1448, start: 34, ecn: false };
        assert_eq!(TCP.offload(1792, 10_000), Ok(expected));
    }

    #[test]
    fn a_super_frame_in_a_tunnel_is_written_and_read_back() {
        for (outer_l4, kind) in [(34, GsoKind::TcpV4), (54, GsoKind::TcpV6), (34, GsoKind::Udp)] {
            let start = u16::from(outer_l4) + 30 + if kind == GsoKind::TcpV6 { 40 } else { 20 };
            let (segment_bytes, ecn) = (1_398, false);
            let offload = Offload::Tunnelled { kind, segment_bytes, start, ecn, outer_l4 };
            let packet = packet(20_000, offload);
            let bytes = VnetHeader::of(&packet).to_long_bytes();
            assert_eq!(bytes[0], FLAG_NEEDS_CHECKSUM | FLAG_TUNNEL_CHECKSUM, "0x5555 is one");
            let read = VnetHeader::from_long_bytes(&bytes);
            assert_eq!(read.offload(packet.head().len(), packet.len()), Ok(offload));
            // A device that was not asked for them gives none.
            let short = bytes.first_chunk().unwrap();
            assert_eq!(VnetHeader::from_bytes(short).offload(1792, 20_000), Err(Lie::Kind));
            let lie = |tunnel| VnetHeader { tunnel, ..read }.offload(1792, 20_000);
            assert_eq!(lie((read.tunnel.0 + 2, read.tunnel.1)), Err(Lie::Kind));
            assert_eq!(lie((read.tunnel.0, read.tunnel.1 + 4)), Err(Lie::Kind));
            let both = VnetHeader { gso_type: read.gso_type | 0x60, ..read };
            assert_eq!(both.offload(1792, 20_000), Err(Lie::Kind));
            let early = VnetHeader { checksum_start: read.tunnel.1, ..read };
            assert_eq!(early.offload(1792, 20_000), Err(Lie::ChecksumPlace));
        }
    }

    #[test]
    fn each_lie_is_refused_with_its_reason() {
        let refused = |header: VnetHeader| header.offload(1792, 10_000).unwrap_err();
        assert_eq!(refused(VnetHeader { gso_type: 3, ..TCP }), Lie::Kind);
        assert_eq!(refused(VnetHeader { gso_type: 2, ..TCP }), Lie::Kind);
        assert_eq!(refused(VnetHeader { gso_type: 0x80, ..TCP }), Lie::Kind);
        assert_eq!(refused(VnetHeader { gso_type: 0x85, ..TCP }), Lie::Kind);
        assert_eq!(refused(VnetHeader { segment_bytes: 0, ..TCP }), Lie::Segment);
        assert_eq!(refused(VnetHeader { header_bytes: 10_001, ..TCP }), Lie::HeaderLength);
        assert_eq!(refused(VnetHeader { flags: 0, ..TCP }), Lie::ChecksumKind);
        assert_eq!(refused(VnetHeader { flags: 2, ..TCP }), Lie::ChecksumKind);
        assert_eq!(refused(VnetHeader { checksum_offset: 6, ..TCP }), Lie::ChecksumKind);
        assert_eq!(refused(VnetHeader { checksum_start: 13, ..TCP }), Lie::ChecksumPlace);
        assert_eq!(refused(VnetHeader { checksum_start: 1773, ..TCP }), Lie::ChecksumPlace);
        let plain = VnetHeader { gso_type: GSO_NONE, ..TCP };
        for (start, offset) in [(13, 16), (1775, 16), (u16::MAX, u16::MAX), (14, 1777)] {
            let header = VnetHeader { checksum_start: start, checksum_offset: offset, ..plain };
            assert_eq!(refused(header), Lie::ChecksumPlace);
        }
    }

    #[test]
    fn a_checksum_that_the_kernel_checked_is_no_work() {
        let header = VnetHeader { flags: 2, ..VnetHeader::default() };
        assert_eq!(header.offload(60, 60), Ok(Offload::None));
    }

    #[test]
    fn the_header_length_follows_the_tcp_options() {
        let offload =
            Offload::Gso { kind: GsoKind::TcpV6, segment_bytes: 1400, start: 54, ecn: true };
        let mut packet = packet(4000, offload);
        packet.head_mut()[54 + 12] = 8 << 4;
        let header = VnetHeader::of(&packet);
        assert_eq!((header.header_bytes, header.gso_type), (54 + 32, GSO_TCP_V6 | GSO_ECN));
        assert_eq!((header.checksum_start, header.checksum_offset), (54, 16));
    }
}
