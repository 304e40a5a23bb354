//! Says whether a sent packet is one that a receiver would take.
//!
//! Decoding is etherparse's and the simulator's, which share nothing with the engine's own parser.
//! Checked: lengths, the IPv4 header's checksum, the transport's checksum (whole, or partial where
//! the port takes that), the MTU, and that no more is left to the port than it can do.

use engine::packet::GsoKind;
use engine::sim::WireFrame;
use engine::sim::datagram::Datagram;
use engine::sim::frames::ETHERNET_BYTES;
use engine::{Caps, Offload};
use etherparse::{NetSlice, SlicedPacket};

/// Ethernet header and two tags.
const ETHERNET_BYTES_MAX: usize = 22;

/// What holds for every packet, also one that was made from nonsense.
pub(crate) fn fits(frame: &WireFrame, caps: Caps) -> Result<(), String> {
    let bytes = frame.bytes.len();
    match frame.offload {
        Offload::None => {}
        Offload::NeedsChecksum { start, offset } => {
            if !caps.checksum {
                return Err("the port cannot finish a checksum".to_owned());
            }
            if usize::from(start) + usize::from(offset) + 2 > bytes {
                return Err("the checksum lies outside the packet".to_owned());
            }
        }
        Offload::Gso { kind, segment_bytes, .. } => {
            let taken = if kind == GsoKind::Udp { caps.uso } else { caps.tso };
            return match (taken, segment_bytes) {
                (false, _) => Err("the port cannot cut a super-frame".to_owned()),
                (_, 0) => Err("segments of no bytes".to_owned()),
                _ => Ok(()),
            };
        }
        Offload::Tunnelled { segment_bytes, .. } => {
            return match (caps.tunnelled, segment_bytes) {
                (false, _) => Err("the port cannot cut a super-frame in a tunnel".to_owned()),
                (_, 0) => Err("segments of no bytes".to_owned()),
                _ => Ok(()),
            };
        }
    }
    if bytes > usize::from(caps.mtu) + ETHERNET_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than MTU {}", caps.mtu));
    }
    Ok(())
}

/// What holds for a packet that was made from well-formed ones.
pub(crate) fn is_well_formed(frame: &WireFrame, caps: Caps) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(&frame.bytes).map_err(|error| error.to_string())?;
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return Err("the IPv4 header's checksum is wrong".to_owned());
            }
        }
        Some(NetSlice::Ipv6(_)) => {}
        _ => return Ok(()),
    }
    let datagram = Datagram::parse(&frame.bytes[ETHERNET_BYTES..])?;
    let is_cut = matches!(frame.offload, Offload::None | Offload::NeedsChecksum { .. });
    if is_cut && datagram.bytes.len() > usize::from(caps.mtu) {
        let bytes = datagram.bytes.len();
        return Err(format!("an IP packet of {bytes} bytes is more than MTU {}", caps.mtu));
    }
    if !datagram.checksum_is_right(frame.offload) {
        return Err(format!("the checksum of protocol {} is wrong", datagram.protocol));
    }
    Ok(())
}
