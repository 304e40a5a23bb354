//! Reports of group memberships: that we are in a multicast group, to routers and to switches that
//! look at such reports. IGMPv2 and IGMPv3 (RFC 2236, RFC 3376), MLDv2 (RFC 3810).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ethernet_frame, set};
use crate::frame::FramePool;
use crate::id::MacAddress;
use crate::packet::Packet;
use crate::tunnel::group_mac;
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::{ethernet, ipv4, ipv6, protocol};

/// IGMP's IANA protocol number.
const IGMP: u8 = 2;
/// RFC 3376 section 4.2.12, RFC 3810 section 5.2.12: a change to "from everybody", which is how a
/// group is joined.
const CHANGE_TO_EXCLUDE: u8 = 4;
/// RFC 3376 section 4.2.14, RFC 3810 section 5.2.14: where reports of the newer versions go.
const ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// RFC 2113 and RFC 2711: routers look at such a packet.
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
const ALERT_V6: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// "We are in this group". `newer`: as IGMPv3 says it, else as IGMPv2.
pub(crate) fn igmp_report(
    (own_mac, own): (MacAddress, Ipv4Addr),
    group: Ipv4Addr,
    newer: bool,
    frames: &mut FramePool,
) -> Option<Packet> {
    const HEADER_BYTES: usize = ipv4::HEADER_BYTES + ALERT_V4.len();
    let (to, message_bytes) = if newer { (ROUTERS_V4, 16) } else { (group, 8) };
    let total_bytes = HEADER_BYTES + message_bytes;
    let to_mac = group_mac(to.into());
    let mut packet = ethernet_frame(to_mac, own_mac, ethernet::IPV4, total_bytes, frames)?;
    let (header, message) = packet.head_mut()[ethernet::HEADER_BYTES..].split_at_mut(HEADER_BYTES);
    // Six words of header; internetwork control, as RFC 3376 section 4 asks.
    (header[0], header[1]) = (0x46, 0xc0);
    set(header, ipv4::TOTAL_LENGTH, &(total_bytes as u16).to_be_bytes());
    set(header, ipv4::FRAGMENT, &ipv4::DONT_FRAGMENT.to_be_bytes());
    (header[ipv4::TTL], header[ipv4::PROTOCOL]) = (1, IGMP);
    set(header, ipv4::SOURCE, &own.octets());
    set(header, ipv4::DESTINATION, &to.octets());
    set(header, ipv4::HEADER_BYTES, &ALERT_V4);
    let header_sum = !fold(sum(header));
    set(header, ipv4::CHECKSUM, &header_sum.to_be_bytes());
    if newer {
        (message[0], message[7], message[8]) = (0x22, 1, CHANGE_TO_EXCLUDE);
        set(message, 12, &group.octets());
    } else {
        message[0] = 0x16;
        set(message, 4, &group.octets());
    }
    let message_sum = !fold(sum(message));
    set(message, 2, &message_sum.to_be_bytes());
    Some(packet)
}

/// The same of IPv6.
pub(crate) fn mld_report(
    own_mac: MacAddress,
    group: Ipv6Addr,
    frames: &mut FramePool,
) -> Option<Packet> {
    const MESSAGE_BYTES: usize = 28;
    let (own, to) = (own_mac.link_local(), ROUTERS_V6);
    let payload_bytes = ALERT_V6.len() + MESSAGE_BYTES;
    let ip_bytes = ipv6::HEADER_BYTES + payload_bytes;
    let to_mac = group_mac(to.into());
    let mut packet = ethernet_frame(to_mac, own_mac, ethernet::IPV6, ip_bytes, frames)?;
    let (header, rest) =
        packet.head_mut()[ethernet::HEADER_BYTES..].split_at_mut(ipv6::HEADER_BYTES);
    header[0] = 0x60;
    set(header, ipv6::PAYLOAD_LENGTH, &(payload_bytes as u16).to_be_bytes());
    (header[ipv6::NEXT_HEADER], header[ipv6::HOP_LIMIT]) = (ipv6::HOP_BY_HOP, 1);
    set(header, ipv6::SOURCE, &own.octets());
    set(header, ipv6::DESTINATION, &to.octets());
    let (alert, message) = rest.split_at_mut(ALERT_V6.len());
    alert.copy_from_slice(&ALERT_V6);
    (message[0], message[7], message[8]) = (143, 1, CHANGE_TO_EXCLUDE);
    set(message, 12, &group.octets());
    let addresses = [own.octets(), to.octets()];
    let pseudo = pseudo_header(addresses.as_flattened(), protocol::ICMPV6, MESSAGE_BYTES);
    let message_sum = !fold(sum(message) + pseudo);
    set(message, 2, &message_sum.to_be_bytes());
    Some(packet)
}
