//! ARP and neighbour discovery: answered for the gateway's own addresses, learnt from on uplinks,
//! and passed on inside a network when the sender speaks for itself only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::core::Core;
use crate::counters::DropReason;
use crate::hand_over::Message;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::ingress::IngressRule;
use crate::packet::{Notes, Packet};
use crate::reply;
use crate::tables::PortKind;
use crate::wire::{
    arp, checksum, header_at, icmp, ipv6, protocol, u16_at, u32_at, u64_at, u128_at,
};

/// Where the Ethernet payload of an untagged frame starts.
const L3: usize = crate::wire::ethernet::HEADER_BYTES;

impl Core {
    /// True if the address is the gateway's own on this port.
    fn is_own_on(&self, port: PortId, address: IpAddr) -> bool {
        match self.tables.port(port).map(|port| &port.kind) {
            Some(PortKind::Endpoint(attachment)) => {
                self.tables
                    .network(attachment.network)
                    .is_some_and(|network| network.is_gateway(address))
                    || self.is_uplinks(attachment.network, address)
            }
            Some(PortKind::Uplink(uplink)) => {
                self.tables.uplink(*uplink).is_some_and(|uplink| uplink.owns(address))
            }
            Some(PortKind::Tunnel(tunnel)) => self
                .tables
                .network(tunnel.network)
                .is_some_and(|network| network.is_gateway(address)),
            Some(PortKind::Lane(_)) | None => false,
        }
    }

    /// True if the network is the untagged part of an uplink's link, and the address the uplink's.
    fn is_uplinks(&self, network: NetworkId, address: IpAddr) -> bool {
        self.tables.uplink_under(network).is_some_and(|uplink| uplink.owns(address))
    }

    /// An ARP message.
    pub(super) fn arp(&mut self, packet: Packet, rule: &IngressRule, frame: (u64, u64)) {
        let (destination, source) = frame;
        let message = header_at::<{ arp::BYTES }>(packet.head(), usize::from(packet.meta.l3));
        let Some(message) = message else {
            return self.drop(packet, DropReason::Truncated);
        };
        let operation = u16_at(message, arp::OPERATION);
        let sender_mac = u64_at(message, arp::SENDER_MAC) >> 16;
        let sender = Ipv4Addr::from_bits(u32_at(message, arp::SENDER_IP));
        let target = Ipv4Addr::from_bits(u32_at(message, arp::TARGET_IP));
        let known = u64_at(message, 0) >> 16 == arp::ETHERNET_IPV4;
        if !known || sender_mac != source || packet.meta.notes.any(Notes::TAGGED) {
            return self.drop(packet, DropReason::MalformedNeighbour);
        }
        // A probe (RFC 5227) has no sender address and claims nothing.
        let may_speak = rule.owns(sender.into()) && self.may_be_beyond(rule, sender.into());
        if !sender.is_unspecified() && !may_speak {
            return self.drop(packet, DropReason::SpoofedIp);
        }
        if (rule.uplink || rule.trunk) && !sender.is_unspecified() {
            self.learn_neighbour(rule.port, sender.into(), MacAddress(sender_mac));
        }
        if operation == arp::REQUEST && self.is_own_on(rule.port, target.into()) {
            let own_mac = MacAddress(rule.gateway_mac);
            let built = reply::arp_reply(&packet, own_mac, &mut self.frames);
            return self.reply_with(packet, built);
        }
        if operation == arp::REQUEST
            && sender != target
            && let Some(mac) = self.mac_beyond(rule, target.into())
        {
            let built = reply::arp_reply(&packet, mac, &mut self.frames);
            return self.reply_with(packet, built);
        }
        self.pass_on(packet, rule, destination);
    }

    /// A neighbour discovery message (RFC 4861).
    pub(super) fn discovery(&mut self, mut packet: Packet, rule: &IngressRule, frame: (u64, u64)) {
        if let Err(reason) = crate::parse::ipv6(&mut packet) {
            return self.drop(packet, reason);
        }
        let Some(message) = Discovery::read(&packet) else {
            return self.drop(packet, DropReason::MalformedNeighbour);
        };
        let speaks_for = match message.kind {
            icmp::V6_NEIGHBOUR_ADVERTISEMENT => Some(message.target),
            icmp::V6_NEIGHBOUR_SOLICITATION => None,
            // Solicitations for routers are not answered; endpoints are told their routes. Nobody
            // but the gateway is a router here: advertisements and redirects are not passed on.
            // On an uplink's link, that is for those who are there to say.
            kind if self.is_lane(rule.network) => {
                let is_member = !rule.trunk && rule.anti_spoofing;
                return match is_member && kind != icmp::V6_ROUTER_SOLICITATION {
                    true => self.drop(packet, DropReason::SpoofedIp),
                    false => self.bridge(packet, frame.0),
                };
            }
            _ => return self.drop(packet, DropReason::NeighbourUnhandled),
        };
        let own_option = message.link_layer.is_none_or(|mac| mac.0 == frame.1);
        let says = speaks_for.unwrap_or(message.source);
        let may_speak = rule.may_discover(message.source, speaks_for)
            && self.may_be_beyond(rule, message.source.into())
            && self.may_be_beyond(rule, says.into());
        if !may_speak || !own_option {
            return self.drop(packet, DropReason::SpoofedIp);
        }
        if (rule.uplink || rule.trunk)
            && let Some(mac) = message.link_layer
            && !says.is_unspecified()
        {
            self.learn_neighbour(rule.port, says.into(), mac);
        }
        let asks = message.kind == icmp::V6_NEIGHBOUR_SOLICITATION;
        if asks && self.is_own_on(rule.port, message.target.into()) {
            let own_mac = MacAddress(rule.gateway_mac);
            let frames = &mut self.frames;
            let built =
                reply::neighbour_advertisement(&packet, own_mac, message.target, true, frames);
            return self.reply_with(packet, built);
        }
        // Without a source it asks whether an address is taken: whoever has it answers that.
        if asks
            && !message.source.is_unspecified()
            && let Some(mac) = self.mac_beyond(rule, message.target.into())
        {
            let frames = &mut self.frames;
            let built = reply::neighbour_advertisement(&packet, mac, message.target, false, frames);
            return self.reply_with(packet, built);
        }
        self.pass_on(packet, rule, frame.0);
    }

    pub(super) fn is_lane(&self, network: NetworkId) -> bool {
        self.tables.network(network).is_some_and(|network| network.direct.is_some())
    }

    fn reply_with(&mut self, packet: Packet, built: Option<Packet>) {
        let ingress = packet.meta.ingress;
        match built {
            Some(built) => {
                self.counters.worker.answers.add(1);
                packet.recycle(&mut self.frames);
                self.send(ingress, built);
            }
            None => self.drop(packet, DropReason::NoFrame),
        }
    }

    /// Bridges a message that is for another member of the network.
    fn pass_on(&mut self, packet: Packet, rule: &IngressRule, destination: u64) {
        if rule.uplink || destination == rule.gateway_mac {
            return self.drop(packet, DropReason::NeighbourUnhandled);
        }
        self.bridge(packet, destination);
    }

    /// A neighbour on an uplink said where it is.
    fn learn_neighbour(&mut self, port: PortId, address: IpAddr, mac: MacAddress) {
        if mac.is_group() || mac.0 == 0 {
            return;
        }
        let is_on_link = match self.tables.port(port).map(|port| &port.kind) {
            Some(PortKind::Uplink(uplink)) => {
                self.tables.uplink(*uplink).is_some_and(|uplink| uplink.on_link(address))
            }
            Some(PortKind::Tunnel(tunnel)) => {
                let network = self.tables.network(tunnel.network);
                network.is_some_and(|network| network.subnet_of(address).is_some())
                    && self.tables.static_mac(port, address).is_none()
            }
            _ => false,
        };
        if !is_on_link {
            return;
        }
        self.confirm_neighbour(port, address, mac);
        self.tell(|| Message::Neighbour { port, address, mac });
    }

    /// A neighbour's MAC address is known now: what waits for it may go.
    pub(super) fn confirm_neighbour(&mut self, port: PortId, address: IpAddr, mac: MacAddress) {
        if let Some(id) = self.neighbours.learn(port, address, mac, self.tick) {
            self.neighbours.take_held(id, &mut self.released);
        }
    }

    /// Asks for a neighbour: everybody, or the MAC address that it had.
    pub(super) fn ask(&mut self, port: PortId, address: IpAddr, to: Option<MacAddress>) {
        let own_mac = self.own_mac(port);
        let built = match address {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(own)) = self.own_address(port, false) else { return };
                let to = to.unwrap_or(MacAddress::BROADCAST);
                reply::arp_request(own_mac, own, target, to, &mut self.frames)
            }
            IpAddr::V6(target) => {
                let own = self.own_address_towards(port, target, own_mac);
                reply::neighbour_solicitation(own_mac, own, target, to, &mut self.frames)
            }
        };
        match built {
            Some(packet) => self.send(port, packet),
            None => self.counters.dropped(DropReason::NoFrame).add(1),
        }
    }

    fn own_address_towards(&self, port: PortId, target: Ipv6Addr, own_mac: MacAddress) -> Ipv6Addr {
        match self.own_address(port, true) {
            Some(IpAddr::V6(own)) if !target.is_unicast_link_local() => own,
            _ => own_mac.link_local(),
        }
    }
}

/// What a neighbour solicitation or advertisement says.
struct Discovery {
    kind: u8,
    source: Ipv6Addr,
    target: Ipv6Addr,
    /// The source (solicitation) or target (advertisement) link-layer address option.
    link_layer: Option<MacAddress>,
}

impl Discovery {
    /// Reads a message that is valid by RFC 4861 sections 7.1.1 and 7.1.2, and not fragmented
    /// (RFC 6980).
    fn read(packet: &Packet) -> Option<Discovery> {
        const TARGET: usize = icmp::HEADER_BYTES;
        const OPTIONS: usize = TARGET + 16;
        let (l3, l4) = (usize::from(packet.meta.l3), usize::from(packet.meta.l4));
        let head = packet.head();
        let header = header_at::<{ ipv6::HEADER_BYTES }>(head, l3)?;
        let fragment = packet.meta.notes.any(Notes::FIRST_FRAGMENT | Notes::LATER_FRAGMENT);
        if header[ipv6::HOP_LIMIT] != 255 || fragment || l3 != L3 {
            return None;
        }
        let message = head.get(l4..)?;
        let addresses = &header[ipv6::SOURCE..];
        let pseudo = checksum::pseudo_header(addresses, protocol::ICMPV6, message.len());
        if checksum::fold(pseudo + checksum::sum(message)) != 0xffff || message[1] != 0 {
            return None;
        }
        let kind = message[0];
        let wanted = match kind {
            icmp::V6_NEIGHBOUR_SOLICITATION => 1,
            icmp::V6_NEIGHBOUR_ADVERTISEMENT => 2,
            _ => 0,
        };
        let source = Ipv6Addr::from_bits(u128_at(header, ipv6::SOURCE));
        if wanted == 0 {
            return Some(Discovery { kind, source, target: source, link_layer: None });
        }
        let target = Ipv6Addr::from_bits(u128_at(header_at::<16>(message, TARGET)?, 0));
        let mut link_layer = None;
        let mut options = message.get(OPTIONS..)?;
        while let [option, length, ..] = *options {
            let length_bytes = usize::from(length) * 8;
            let body = options.get(..length_bytes).filter(|body| !body.is_empty())?;
            if option == wanted && length == 1 {
                link_layer = body[2..].first_chunk::<6>().map(|mac| MacAddress::new(*mac));
            }
            options = &options[length_bytes..];
        }
        (!target.is_multicast()).then_some(Discovery { kind, source, target, link_layer })
    }
}
