//! ICMP errors about outer packets: what routers between us and a tunnel's far end say.
//!
//! `[IP | ICMP header 8 | quoted: IP | UDP 8 | VXLAN 8 | inner Ethernet…]`
//!
//! Outer packets are of no flow, so that an error about one is told by the tunnels that there are:
//! from our end, to a far end, to its UDP port, by the uplink that they leave by. More is compared
//! as far as it is quoted, which may be the eight bytes of UDP alone (RFC 792): the source port is
//! of those that we use, the length fits, the network is one of that end, and the port is the one
//! that the quoted inner packet gets. "Too big" is learnt of the far end's path, and from then on
//! bounds what goes into its tunnels; its inner sender is told by us, in its own network's terms,
//! when its next packet does not fit. The one hard constraint: an error is the word of a stranger,
//! and whatever it says does nothing else.

use std::net::IpAddr;

use super::core::Core;
use super::paths::claim;
use crate::counters::DropReason;
use crate::encapsulate::{SOURCE_PORT_MIN, source_port_of};
use crate::flow::FlowInput;
use crate::packet::{Notes, Packet};
use crate::paths::believed;
use crate::quote::Quote;
use crate::stage::is_martian;
use crate::tables::Vni;
use crate::tunnel::{Sender, UnderlayPath};
use crate::wire::{header_at, ipv4, ipv6, protocol, u16_at, u32_at, udp, vxlan};

impl Core {
    /// The path that a quoted packet took, if it went from an end of ours to a far end of a tunnel.
    pub(super) fn underlay_path(&self, packet: &Packet, quote: &Quote) -> Option<UnderlayPath> {
        if quote.protocol != protocol::UDP {
            return None;
        }
        let udp_port = u16_at(header_at::<{ udp::HEADER_BYTES }>(packet.head(), quote.l4())?, 2);
        let path = UnderlayPath { local: quote.source, vtep: quote.destination, udp_port };
        self.tunnels.underlay_uplink(&path).map(|_| path)
    }

    /// Why an error is dropped whose quote is of no flow: it may be made to look like one about a
    /// packet of ours. `input`: of the flow that there is none of, towards us.
    pub(super) fn stray_reason(&self, input: &FlowInput) -> DropReason {
        let is_tunnels = input.protocol == protocol::UDP
            && self.tunnels.has_port(input.source_port)
            && match input.destination {
                IpAddr::V4(own) => self.tunnels.has_local_v4(own.to_bits()),
                IpAddr::V6(own) => self.tunnels.has_local_v6(own.to_bits()),
            };
        if is_tunnels { DropReason::OverlayErrorForged } else { DropReason::IcmpError }
    }

    /// An error about a packet that may have been in a tunnel of ours.
    pub(super) fn hear_underlay(
        &mut self,
        packet: Packet,
        source: IpAddr,
        quote: &Quote,
        path: &UnderlayPath,
    ) {
        match self.weigh(&packet, source, quote, path) {
            Ok(mtu) => {
                self.counters.worker.overlay_too_big.add(1);
                packet.recycle(&mut self.frames);
                self.learn_path(path.vtep, mtu);
            }
            Err(reason) => self.drop(packet, reason),
        }
    }

    /// How large outer packets on a path may be, by an error about one. `Err`: it says nothing of
    /// that, or is not believed.
    fn weigh(
        &mut self,
        packet: &Packet,
        source: IpAddr,
        quote: &Quote,
        path: &UnderlayPath,
    ) -> Result<u16, DropReason> {
        if is_martian(source, true, &self.tables) {
            return Err(DropReason::Martian);
        }
        let is_ours = self.tunnels.underlay_uplink(path) == Some(packet.meta.ingress)
            && self.is_of_tunnel(packet, quote, path).unwrap_or(false);
        if !is_ours {
            return Err(DropReason::OverlayErrorForged);
        }
        let Some((claimed, quoted_bytes)) = claim(packet, quote) else {
            return Err(DropReason::OverlayUnreachable);
        };
        let mtu = believed(claimed, quoted_bytes, path.vtep.is_ipv6());
        // What would have fitted gives no cause to complain.
        let mtu = mtu.filter(|&mtu| mtu < quoted_bytes).ok_or(DropReason::PathMtuRefused)?;
        match self.errors.take(self.now) && self.path_changes.take(self.now) {
            true => Ok(mtu),
            false => Err(DropReason::IcmpErrorLimited),
        }
    }

    /// True if a quoted packet is as our tunnels send it, as far as it is quoted.
    fn is_of_tunnel(&self, packet: &Packet, quote: &Quote, path: &UnderlayPath) -> Option<bool> {
        let ip = packet.head().get(quote.l3()..)?;
        let (outer, ip_bytes) = match packet.meta.notes.any(Notes::V6) {
            true => {
                let header = header_at::<{ ipv6::HEADER_BYTES }>(ip, 0)?;
                let payload = usize::from(u16_at(header, ipv6::PAYLOAD_LENGTH));
                (ipv6::HEADER_BYTES, ipv6::HEADER_BYTES + payload)
            }
            false => {
                let header = header_at::<{ ipv4::HEADER_BYTES }>(ip, 0)?;
                (ipv4::HEADER_BYTES, usize::from(u16_at(header, ipv4::TOTAL_LENGTH)))
            }
        };
        // The error may be padded: behind the quoted packet's own end there is nothing of it.
        let quoted = ip.get(outer..ip.len().min(ip_bytes))?;
        let header = header_at::<{ udp::HEADER_BYTES }>(quoted, 0)?;
        let (port, udp_bytes) = (u16_at(header, 0), usize::from(u16_at(header, udp::LENGTH)));
        // No options nor extension headers of ours lie between.
        let is_right = quote.l4() == quote.l3() + outer
            && port >= SOURCE_PORT_MIN
            && outer + udp_bytes == ip_bytes;
        let Some(header) = header_at::<{ vxlan::HEADER_BYTES }>(quoted, udp::HEADER_BYTES) else {
            return Some(is_right);
        };
        let vni = Vni(u32_at(header, vxlan::VNI) >> 8);
        let inner = &quoted[udp::HEADER_BYTES + vxlan::HEADER_BYTES..];
        Some(
            is_right
                && header[0] == vxlan::FLAG_VNI
                && self.is_network_behind(path, vni)
                && source_port_of(inner).is_none_or(|own| own == port),
        )
    }

    fn is_network_behind(&self, path: &UnderlayPath, vni: Vni) -> bool {
        let sender = Sender { vtep: path.vtep, vni, udp_port: path.udp_port };
        match path.vtep.is_multicast() {
            true => self.tunnels.has_vni(vni, path.udp_port),
            false => self.tunnels.origin(sender).is_some(),
        }
    }
}
