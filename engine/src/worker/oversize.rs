//! Frames inside a network that are too large for the member, or the tunnel, that they go to.
//!
//! A bridge drops them in silence (IEEE 802.1D). Here the gateway is a station on the same link, so
//! it does what a router there would: IPv4 that may be fragmented is, and of the rest the sender is
//! told how large a packet may be, from the gateway's address in the network. So nobody waits for
//! what cannot arrive, whatever MTUs the members have. The one hard constraint: copies of a flood
//! are fragmented but never answered, or one frame would raise an error per member (RFC 1122
//! section 3.2.2). In a network whose members have one MTU nothing here costs a packet anything.
//!
//! Where MTUs differ, or a path into a tunnel is known to be small, the segment size that a SYN
//! announces is lowered to what fits both sides, as for routed connections: a station whose own MTU
//! is larger than its port's cannot know that otherwise.

use super::core::Core;
use crate::counters::DropReason;
use crate::fragmentation::may_split;
use crate::id::{MacAddress, PortId};
use crate::mss;
use crate::packet::{GsoKind, Notes, Offload, Packet, WINDOW_BYTES};
use crate::parse::{self, PLAIN_L3};
use crate::paths::UNKNOWN;
use crate::tables::MssClamp;
use crate::wire::{ethernet, ipv4, ipv6, protocol, tcp, u16_at, udp};

/// Pieces of one packet that wait to go into a tunnel: 64 KiB in the least that a path is believed
/// to take, less the outer header, and slack. More are dropped.
pub(super) const PIECES_MAX: usize = 256;

/// To how many a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receivers {
    /// To whom it is addressed.
    One,
    /// To everybody: this is one of its copies.
    All,
}

impl Core {
    /// Sends a frame inside its network, if it fits the port or can be made to.
    #[inline(always)]
    pub(super) fn send_bridged(&mut self, port: PortId, packet: Packet, receivers: Receivers) {
        let mtu = self.rule(port).map_or(0, |rule| rule.mtu);
        if !frame_fits(&packet, mtu) {
            return self.squeeze(port, packet, (mtu, receivers));
        }
        let is_unequal = self.rule(packet.meta.ingress).is_some_and(|rule| rule.unequal_mtus);
        match is_unequal && may_open(packet.window()) {
            true => self.send_clamped(port, packet, mtu),
            false => self.send(port, packet),
        }
    }

    /// What is known of the path into a tunnel holds for all that goes there. `None`: the packet
    /// did not fit, and was fragmented, answered or dropped.
    #[inline]
    pub(super) fn fit_into_tunnel(&mut self, tunnel: PortId, mut packet: Packet) -> Option<Packet> {
        let inside = self.stages.mtu.tunnels_by(tunnel, &self.tables);
        if inside == UNKNOWN {
            return Some(packet);
        }
        if !frame_fits(&packet, inside) {
            // Whether it is a copy, its address says well enough: an unknown station's first frame
            // is small.
            let receivers = match MacAddress(packet.destination()).is_group() {
                true => Receivers::All,
                false => Receivers::One,
            };
            self.squeeze(tunnel, packet, (inside, receivers));
            return None;
        }
        if may_open(packet.window()) {
            self.clamp_bridged(&mut packet, inside);
        }
        Some(packet)
    }

    /// A frame that is larger than `mtu`, which its way by this port has.
    #[cold]
    fn squeeze(&mut self, port: PortId, mut packet: Packet, (mtu, receivers): (u16, Receivers)) {
        // What is routed was edited: an answer would quote what nobody sent. Its flow knows the
        // MTU by its next packet.
        let is_routed = packet.meta.notes.any(Notes::ROUTED);
        if !parse_again(&mut packet) {
            return self.drop(packet, DropReason::TooBig);
        }
        if may_split(&packet) {
            return self.send_in_pieces(port, packet, mtu);
        }
        match receivers {
            Receivers::One if !is_routed => self.too_big(packet, mtu),
            _ => self.drop(packet, DropReason::TooBig),
        }
    }

    /// Sends a segment that may be a SYN, between members of different MTUs.
    #[cold]
    fn send_clamped(&mut self, port: PortId, mut packet: Packet, mtu: u16) {
        self.clamp_bridged(&mut packet, mtu);
        self.send(port, packet);
    }

    /// Lowers what a SYN announces to what fits the port that it came by and `mtu`.
    fn clamp_bridged(&mut self, packet: &mut Packet, mtu: u16) {
        let clamp = self.tables.network(packet.meta.network).map(|network| network.mss_clamp);
        // A number is for what is routed: a frame inside a network is edited where it has to be.
        if clamp != Some(MssClamp::Auto) || !parse_again(packet) {
            return;
        }
        let is_syn = packet.meta.protocol == protocol::TCP
            && packet.meta.tcp_flags & tcp::SYN != 0
            && !packet.meta.notes.any(Notes::LATER_FRAGMENT);
        let ip_bytes = match packet.meta.notes.any(Notes::V6) {
            true => ipv6::HEADER_BYTES,
            false => ipv4::HEADER_BYTES,
        };
        let own = self.rule(packet.meta.ingress).map_or(mtu, |rule| rule.mtu);
        let mss_max = own.min(mtu).saturating_sub((ip_bytes + tcp::HEADER_BYTES) as u16);
        if is_syn && mss::clamp(packet, mss_max) {
            self.counters.worker.mss_clamped.add(1);
        }
    }
}

/// Finds the headers of an untagged IP packet inside a network, of which only the frame's was
/// looked at. False: it is none, or wrong in itself.
fn parse_again(packet: &mut Packet) -> bool {
    if usize::from(packet.meta.l3) != PLAIN_L3 {
        return false;
    }
    packet.meta.notes = Notes(0);
    let parsed = match u16_at(packet.window(), ethernet::TYPE) {
        ethernet::IPV4 => parse::ipv4(packet),
        ethernet::IPV6 => parse::ipv6(packet),
        _ => return false,
    };
    parsed.is_ok()
}

/// True unless a frame is surely no TCP segment with SYN. Bytes behind a short one are anything.
#[inline]
pub(super) fn may_open(window: &[u8; WINDOW_BYTES]) -> bool {
    const V4_FLAGS: usize = PLAIN_L3 + ipv4::HEADER_BYTES + tcp::FLAGS;
    const V6_FLAGS: usize = PLAIN_L3 + ipv6::HEADER_BYTES + tcp::FLAGS;
    match u16_at(window, ethernet::TYPE) {
        ethernet::IPV4 if window[PLAIN_L3 + ipv4::PROTOCOL] == protocol::TCP => {
            window[PLAIN_L3] != 0x45 || window[V4_FLAGS] & tcp::SYN != 0
        }
        ethernet::IPV6 => match window[PLAIN_L3 + ipv6::NEXT_HEADER] {
            protocol::TCP => window[V6_FLAGS] & tcp::SYN != 0,
            protocol::UDP | protocol::ICMPV6 => false,
            _ => true,
        },
        _ => false,
    }
}

/// True if a frame is small enough for an MTU: itself, or each segment of a super-frame.
pub(super) fn frame_fits(packet: &Packet, mtu: u16) -> bool {
    let l3 = usize::from(packet.meta.l3);
    let frame_bytes_max = usize::from(mtu) + l3;
    if packet.len() <= frame_bytes_max {
        return true;
    }
    let Offload::Gso { kind, segment_bytes, start, .. } = packet.offload() else { return false };
    let start = usize::from(start);
    let transport_bytes = match kind {
        GsoKind::Udp => udp::HEADER_BYTES,
        GsoKind::TcpV4 | GsoKind::TcpV6 => match packet.head().get(start + tcp::DATA_OFFSET) {
            Some(offset) => usize::from(offset >> 4) * 4,
            None => return false,
        },
    };
    start + transport_bytes + usize::from(segment_bytes) <= frame_bytes_max
}
