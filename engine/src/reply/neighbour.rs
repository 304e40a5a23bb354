//! ARP and neighbour discovery messages of the gateway.
//!
//! smoltcp writes the messages, so that formats with options are not written twice. The one hard
//! constraint: an answer goes to one station, but for announcements and for the answer to duplicate
//! address detection, which by RFC 4861 go to all. Whether the question was valid (checksum,
//! sender, target ours) is the business of ingress and of the stages.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::{Envelope, Received, ethernet_frame};
use crate::frame::FramePool;
use crate::id::MacAddress;
use crate::packet::Packet;
use crate::wire::{arp, ethernet, icmp, ipv6, protocol};

/// RFC 4861 section 7.1: a smaller one would have passed a router.
const NEIGHBOUR_HOP_LIMIT: u8 = 255;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The answer to an ARP request, saying that its target is at `own_mac`. `None` if the packet is no
/// request, asks for its own sender (an announcement), or comes from a group address.
pub(crate) fn arp_reply(
    request: &Packet,
    own_mac: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    if usize::from(request.meta.l3) != ethernet::HEADER_BYTES {
        return None;
    }
    let message = ArpPacket::new_checked(request.head().get(ethernet::HEADER_BYTES..)?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: asker_mac,
        source_protocol_addr: asker,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&message).ok()?
    else {
        return None;
    };
    if asker == target || !asker_mac.is_unicast() {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(own_mac.bytes()),
        source_protocol_addr: target,
        target_hardware_addr: asker_mac,
        target_protocol_addr: asker,
    };
    arp_message(&reply, MacAddress::new(asker_mac.0), own_mac, frames)
}

/// An ARP request for `target`: to everybody ([`MacAddress::BROADCAST`]), or to the station that
/// had the address last.
pub(crate) fn arp_request(
    own_mac: MacAddress,
    own: Ipv4Addr,
    target: Ipv4Addr,
    to: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(own_mac.bytes()),
        source_protocol_addr: own,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    arp_message(&request, to, own_mac, frames)
}

/// An announcement that `address` is at `mac`: a request for itself (RFC 5227 section 2.3).
pub(crate) fn gratuitous_arp(
    address: Ipv4Addr,
    mac: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    arp_request(mac, address, address, MacAddress::BROADCAST, frames)
}

fn arp_message(
    message: &ArpRepr,
    to: MacAddress,
    from: MacAddress,
    frames: &mut FramePool,
) -> Option<Packet> {
    let mut packet = ethernet_frame(to, from, ethernet::ARP, arp::BYTES, frames)?;
    message.emit(&mut ArpPacket::new_unchecked(&mut packet.head_mut()[ethernet::HEADER_BYTES..]));
    Some(packet)
}

/// The answer to a neighbour solicitation, saying that `target` is at `own_mac`. A solicitation
/// without a source address is duplicate address detection: all nodes get the answer (RFC 4861
/// section 7.2.4). `None` if the packet is no solicitation from one station on this link.
pub(crate) fn neighbour_advertisement(
    solicitation: &Packet,
    own_mac: MacAddress,
    target: Ipv6Addr,
    is_router: bool,
    frames: &mut FramePool,
) -> Option<Packet> {
    let received = Received::read(solicitation)?;
    let std::net::IpAddr::V6(asker) = received.source else { return None };
    let head = solicitation.head();
    let hop_limit = head[ethernet::HEADER_BYTES + ipv6::HOP_LIMIT];
    let message = head.get(usize::from(solicitation.meta.l4)..)?;
    if solicitation.meta.protocol != protocol::ICMPV6
        || *message.first()? != icmp::V6_NEIGHBOUR_SOLICITATION
        || hop_limit != NEIGHBOUR_HOP_LIMIT
        || received.source_mac.is_group()
        || asker.is_multicast()
        || target.is_multicast()
    {
        return None;
    }
    let is_detection = asker.is_unspecified();
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, !is_detection);
    flags.set(NdiscNeighborFlags::ROUTER, is_router);
    let (to, to_mac) = match is_detection {
        true => (ALL_NODES, multicast_mac(ALL_NODES)),
        false => (asker, received.source_mac),
    };
    let message = advertisement(target, own_mac, flags);
    neighbour_message(&message, (own_mac, target), (to_mac, to), frames)
}

/// An announcement to all nodes that `address` is at `mac` (RFC 4861 section 7.2.6).
pub(crate) fn unsolicited_advertisement(
    address: Ipv6Addr,
    mac: MacAddress,
    is_router: bool,
    frames: &mut FramePool,
) -> Option<Packet> {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::ROUTER, is_router);
    let message = advertisement(address, mac, flags);
    let to = (multicast_mac(ALL_NODES), ALL_NODES);
    neighbour_message(&message, (mac, address), to, frames)
}

/// A neighbour solicitation for `target`: to its solicited-node group when `to` is `None`, else to
/// the station that had the address last. With `own` unspecified it is duplicate address detection
/// and says no MAC address (RFC 4861 section 4.3).
pub(crate) fn neighbour_solicitation(
    own_mac: MacAddress,
    own: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<MacAddress>,
    frames: &mut FramePool,
) -> Option<Packet> {
    let message = NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: (!own.is_unspecified()).then(|| RawHardwareAddress::from_bytes(&own_mac.bytes())),
    };
    let to = match to {
        Some(mac) => (mac, target),
        None => (multicast_mac(solicited_node(target)), solicited_node(target)),
    };
    neighbour_message(&message, (own_mac, own), to, frames)
}

fn advertisement(
    target: Ipv6Addr,
    mac: MacAddress,
    flags: NdiscNeighborFlags,
) -> NdiscRepr<'static> {
    let lladdr = Some(RawHardwareAddress::from_bytes(&mac.bytes()));
    NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }
}

fn neighbour_message(
    message: &NdiscRepr<'_>,
    (source_mac, source): (MacAddress, Ipv6Addr),
    (destination_mac, destination): (MacAddress, Ipv6Addr),
    frames: &mut FramePool,
) -> Option<Packet> {
    let message = Icmpv6Repr::Ndisc(*message);
    let envelope = Envelope {
        source_mac,
        destination_mac,
        source: source.into(),
        destination: destination.into(),
        protocol: protocol::ICMPV6,
        hop_limit: NEIGHBOUR_HOP_LIMIT,
        service: 0,
    };
    envelope.pack(message.buffer_len(), frames, &|bytes| {
        let mut packet = Icmpv6Packet::new_unchecked(bytes);
        // The envelope adds the checksum, as it does for every message.
        message.emit(&source, &destination, &mut packet, &ChecksumCapabilities::ignored());
    })
}

/// RFC 4291 section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | address.to_bits() & 0xff_ffff)
}

/// RFC 2464 section 7.
fn multicast_mac(group: Ipv6Addr) -> MacAddress {
    MacAddress(0x3333_0000_0000 | group.to_bits() as u64 & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpOperation as Operation, Icmpv6Type, NetSlice, SlicedPacket};
    use etherparse::{TransportSlice, icmpv6::Icmpv6PayloadSlice};
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::judge::judge;

    fn ethernet_of(bytes: &[u8]) -> (MacAddress, MacAddress) {
        let mac = |offset: usize| MacAddress::new(bytes[offset..offset + 6].try_into().unwrap());
        (mac(0), mac(6))
    }

    fn arp_of(bytes: &[u8]) -> etherparse::ArpEthIpv4Packet {
        let sliced = judge(bytes);
        let Some(NetSlice::Arp(arp)) = &sliced.net else { panic!("ARP") };
        arp.to_packet().try_eth_ipv4().unwrap()
    }

    /// Flags and target of a neighbour advertisement, and the addresses around it.
    fn advertisement_of(bytes: &[u8]) -> (bool, bool, bool, Ipv6Addr, Ipv6Addr, Ipv6Addr) {
        let sliced = judge(bytes);
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("IPv6") };
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("ICMPv6") };
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("NA") };
        let payload = icmp.payload_slice().unwrap();
        let Icmpv6PayloadSlice::NeighborAdvertisement(payload) = payload else { panic!("NA") };
        // Option 2: target link-layer address, one unit of eight bytes.
        assert_eq!(icmp.payload()[16..18], [2, 1]);
        assert_eq!(icmp.payload()[18..24], bytes[6..12]);
        (
            header.router,
            header.solicited,
            header.r#override,
            payload.target_address(),
            ip.header().source_addr(),
            ip.header().destination_addr(),
        )
    }

    #[test]
    fn an_arp_request_is_answered_to_its_sender_alone() {
        let mut frames = pool();
        let request = arp_request(PEER_MAC, PEER_V4, OWN_V4, MacAddress::BROADCAST, &mut frames);
        let mut request = request.unwrap();
        assert_eq!(arp_of(request.head()).operation, Operation::REQUEST);
        request.meta.l3 = 14;
        let reply = bytes_of(arp_reply(&request, OWN_MAC, &mut frames), &mut frames);
        let arp = arp_of(&reply);
        assert_eq!(ethernet_of(&reply), (PEER_MAC, OWN_MAC));
        assert_eq!(arp.operation, Operation::REPLY);
        assert_eq!((arp.sender_mac, arp.sender_ipv4), (OWN_MAC.bytes(), OWN_V4.octets()));
        assert_eq!((arp.target_mac, arp.target_ipv4), (PEER_MAC.bytes(), PEER_V4.octets()));
    }

    #[test]
    fn an_arp_probe_is_answered_and_an_announcement_is_not() {
        let mut frames = pool();
        let everybody = MacAddress::BROADCAST;
        let probe = arp_request(PEER_MAC, Ipv4Addr::UNSPECIFIED, OWN_V4, everybody, &mut frames);
        let mut probe = probe.unwrap();
        probe.meta.l3 = 14;
        let reply = bytes_of(arp_reply(&probe, OWN_MAC, &mut frames), &mut frames);
        assert_eq!(arp_of(&reply).target_ipv4, [0; 4]);

        let mut announcement = gratuitous_arp(PEER_V4, PEER_MAC, &mut frames).unwrap();
        announcement.meta.l3 = 14;
        let arp = arp_of(announcement.head());
        assert_eq!(ethernet_of(announcement.head()), (everybody, PEER_MAC));
        assert_eq!((arp.operation, arp.target_mac), (Operation::REQUEST, [0; 6]));
        assert_eq!((arp.sender_ipv4, arp.target_ipv4), (PEER_V4.octets(), PEER_V4.octets()));
        assert!(arp_reply(&announcement, OWN_MAC, &mut frames).is_none());
    }

    #[test]
    fn a_neighbour_solicitation_is_answered_to_its_sender_alone() {
        let mut frames = pool();
        let asked = neighbour_solicitation(PEER_MAC, PEER_V6, OWN_V6, None, &mut frames).unwrap();
        let asked = bytes_of(Some(asked), &mut frames);
        judge(&asked);
        assert_eq!(ethernet_of(&asked).0, "33:33:ff:00:00:01".parse().unwrap());
        assert_eq!(asked[38..54], "ff02::1:ff00:1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!((asked[21], asked.len()), (255, 14 + 40 + 32));

        let asked = parsed(&asked, &mut frames);
        let answer = neighbour_advertisement(&asked, OWN_MAC, OWN_V6, true, &mut frames);
        let answer = bytes_of(answer, &mut frames);
        assert_eq!(ethernet_of(&answer), (PEER_MAC, OWN_MAC));
        let expected = (true, true, true, OWN_V6, OWN_V6, PEER_V6);
        assert_eq!(advertisement_of(&answer), expected);
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all_nodes() {
        let mut frames = pool();
        let nobody = Ipv6Addr::UNSPECIFIED;
        let asked = neighbour_solicitation(PEER_MAC, nobody, OWN_V6, None, &mut frames);
        let asked = bytes_of(asked, &mut frames);
        judge(&asked);
        assert_eq!(asked.len(), 14 + 40 + 24, "no link-layer address without a source");
        let asked = parsed(&asked, &mut frames);
        let answer = neighbour_advertisement(&asked, OWN_MAC, OWN_V6, false, &mut frames);
        let answer = bytes_of(answer, &mut frames);
        assert_eq!(ethernet_of(&answer).0, "33:33:00:00:00:01".parse().unwrap());
        let expected = (false, false, true, OWN_V6, OWN_V6, ALL_NODES);
        assert_eq!(advertisement_of(&answer), expected);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_at_all_nodes() {
        let mut frames = pool();
        let sent = unsolicited_advertisement(OWN_V6, OWN_MAC, true, &mut frames);
        let sent = bytes_of(sent, &mut frames);
        assert_eq!(ethernet_of(&sent), ("33:33:00:00:00:01".parse().unwrap(), OWN_MAC));
        assert_eq!(advertisement_of(&sent), (true, false, true, OWN_V6, OWN_V6, ALL_NODES));
    }

    #[test]
    fn a_solicitation_to_one_station_asks_only_that_one() {
        let mut frames = pool();
        let to = Some(PEER_MAC);
        let asked = neighbour_solicitation(OWN_MAC, OWN_V6, PEER_V6, to, &mut frames);
        let asked = bytes_of(asked, &mut frames);
        judge(&asked);
        assert_eq!(ethernet_of(&asked), (PEER_MAC, OWN_MAC));
        assert_eq!(asked[38..54], PEER_V6.octets());
    }

    #[test]
    fn a_solicitation_through_a_router_is_not_answered() {
        let mut frames = pool();
        let asked = neighbour_solicitation(PEER_MAC, PEER_V6, OWN_V6, None, &mut frames);
        let mut asked = bytes_of(asked, &mut frames);
        asked[21] = 254;
        let asked = parsed(&asked, &mut frames);
        assert!(neighbour_advertisement(&asked, OWN_MAC, OWN_V6, true, &mut frames).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_well_formed_answer_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 15..120),
            is_solicitation in any::<bool>(),
            l4 in 0u16..200,
        ) {
            let mut frames = pool();
            if is_solicitation && bytes.len() > 54 {
                (bytes[14], bytes[20], bytes[21], bytes[54]) = (0x60, 58, 255, 135);
            }
            let mut packet = parsed(&bytes, &mut frames);
            if !is_solicitation {
                packet.meta.l4 = l4;
            }
            let answers = [
                arp_reply(&packet, OWN_MAC, &mut frames),
                neighbour_advertisement(&packet, OWN_MAC, OWN_V6, true, &mut frames),
            ];
            for answer in answers.into_iter().flatten() {
                let _: SlicedPacket<'_> = judge(answer.head());
                answer.recycle(&mut frames);
            }
            packet.recycle(&mut frames);
            prop_assert_eq!(frames.count(), (4, 2));
        }
    }
}
