//! A host: a small IP stack that talks to others and tells what it sees.
//!
//! Addresses and routes are static; it answers ARP, ND and ping, resolves its neighbours, serves
//! UDP echo and TCP streams on a few ports and refuses the others as RFC 1122 says. It believes
//! nothing: a wrong checksum is dropped, and a right checksum over wrong content is reported as a
//! broken invariant, as is an answer at a socket that did not ask. It never forwards. This file is
//! the network layer; `sockets` is what lies above.

mod sockets;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::assembly::Assembly;
use super::datagram::Datagram;
use super::frames::*;
use super::neighbours::Neighbours;
use super::payload::{NO_CHECKSUM, Payload};
use super::port::WireFrame;
use super::rng::Rng;
use super::tcp::Connection;
use crate::id::MacAddress;
use crate::packet::Offload;
use crate::port::Caps;

/// How a host is set up.
#[derive(Clone, Debug)]
pub(super) struct HostPlan {
    pub(super) name: String,
    pub(super) mac: MacAddress,
    /// Its addresses with the prefixes that are on its link; the first of a family is its main one.
    pub(super) addresses: Vec<IpNet>,
    /// Further addresses that it answers to, as a router does for what lies behind it.
    pub(super) others: Vec<IpAddr>,
    /// Prefixes and their next hops, first match wins.
    pub(super) routes: Vec<(IpNet, IpAddr)>,
    pub(super) mtu: u16,
    /// What its link takes besides ordinary packets.
    pub(super) caps: Caps,
}

impl HostPlan {
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
            || self.others.contains(&address)
            || address == IpAddr::V6(self.mac.link_local())
    }

    /// Its main address of a family.
    pub(super) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv6() == v6)
    }

    fn next_hop(&self, to: IpAddr) -> Option<IpAddr> {
        if self.addresses.iter().any(|own| own.contains(&to)) {
            return Some(to);
        }
        self.routes.iter().find(|(prefix, _)| prefix.contains(&to)).map(|&(_, via)| via)
    }
}

/// Which protocol a question uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Udp,
    Tcp,
    /// The ports of both ends are the identifier.
    Ping,
}

/// True if every host serves this.
pub(super) fn is_served(kind: Kind, port: u16) -> bool {
    match kind {
        Kind::Udp => matches!(port, 7 | 53 | 7_000..=7_010),
        Kind::Tcp => matches!(port, 7 | 80 | 7_000..=7_010),
        Kind::Ping => true,
    }
}

/// What a host is told to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) nonce: u64,
    pub(super) kind: Kind,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    /// Payload of UDP and ping.
    pub(super) bytes: usize,
    pub(super) no_checksum: bool,
    /// How often UDP and ping are sent at most.
    pub(super) tries_max: u32,
    pub(super) retry_ns: u64,
}

/// What a host tells the world.
#[derive(Clone, Debug)]
pub(super) enum Report {
    /// A question has reached it.
    Reached { nonce: u64, kind: Kind, source: SocketAddr, local: SocketAddr },
    /// The right answer came to the socket that asked.
    Answered { nonce: u64 },
    /// RST or ICMP unreachable came to the socket that asked.
    Refused { nonce: u64 },
    /// An open connection was reset.
    Reset { nonce: u64 },
    /// Nothing came.
    GaveUp { nonce: u64 },
    /// An invariant is broken.
    Broken(String),
    /// Something came that nobody asked for: broken unless somebody makes up packets.
    Stray(String),
}

#[derive(Debug)]
struct Asked {
    question: Question,
    tries: u32,
    retry_at_ns: u64,
    is_over: bool,
}

/// One host. Whoever calls it takes `sent` and `reports` afterwards.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) plan: HostPlan,
    pub(super) sent: Vec<WireFrame>,
    pub(super) reports: Vec<Report>,
    /// Frames that it did not believe.
    pub(super) refused_count: u64,
    now_ns: u64,
    rng: Rng,
    neighbours: Neighbours,
    asked: BTreeMap<u64, Asked>,
    connections: BTreeMap<(SocketAddr, SocketAddr), Connection>,
    assembly: Assembly,
    path_mtu: BTreeMap<IpAddr, u16>,
    identification: u16,
}

impl Host {
    pub(super) fn new(plan: HostPlan, rng: Rng) -> Host {
        Host {
            sent: Vec::new(),
            reports: Vec::new(),
            refused_count: 0,
            now_ns: 0,
            neighbours: Neighbours::new(plan.mac),
            asked: BTreeMap::new(),
            connections: BTreeMap::new(),
            assembly: Assembly::default(),
            path_mtu: BTreeMap::new(),
            // All hosts count from the same number: a gateway that mixes up datagrams of two
            // of them is found.
            identification: 0,
            rng,
            plan,
        }
    }

    /// When `wake` wants to be called.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        let asked = self.asked.values().filter(|asked| !asked.is_over);
        let connections = self.connections.values().filter_map(Connection::deadline_ns);
        let times = asked.map(|asked| asked.retry_at_ns).chain(connections);
        times.chain(self.neighbours.deadline_ns()).min()
    }

    /// Time has come to something.
    pub(super) fn wake(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        for (address, solicitation) in self.neighbours.due(now_ns) {
            self.solicit(address, solicitation);
        }
        let due = |asked: &&Asked| !asked.is_over && asked.retry_at_ns <= now_ns;
        let nonces: Vec<u64> =
            self.asked.values().filter(due).map(|asked| asked.question.nonce).collect();
        nonces.into_iter().for_each(|nonce| self.try_again(nonce));
        let keys: Vec<_> = self.connections.keys().copied().collect();
        for key in keys {
            self.with_connection(key, |connection| connection.pump(now_ns));
        }
        self.connections.retain(|_, connection| !connection.is_over(now_ns));
    }

    /// Starts to ask.
    pub(super) fn ask(&mut self, now_ns: u64, question: Question) {
        self.now_ns = now_ns;
        if question.kind == Kind::Tcp {
            let ends = (question.source, question.target);
            let (mss, first) = (self.mss(ends.1.ip()), self.rng.number() as u32);
            let mut connection = Connection::client(question.nonce, ends, mss, first);
            connection.burst = self.burst();
            // Where everything arrives one SYN is enough, but a server may be slow to find.
            connection.tries_max = question.tries_max.max(3);
            self.connections.insert(ends, connection);
            self.with_connection(ends, |connection| connection.pump(now_ns));
        } else {
            let asked = Asked { question, tries: 0, retry_at_ns: now_ns, is_over: false };
            self.asked.insert(question.nonce, asked);
            self.try_again(question.nonce);
        }
    }

    fn try_again(&mut self, nonce: u64) {
        let now_ns = self.now_ns;
        let Some(asked) = self.asked.get_mut(&nonce) else { return };
        if asked.tries == asked.question.tries_max {
            asked.is_over = true;
            self.reports.push(Report::GaveUp { nonce });
            return;
        }
        asked.tries += 1;
        asked.retry_at_ns = now_ns + asked.question.retry_ns;
        let (question, sequence) = (asked.question, asked.tries);
        let flags = if question.no_checksum { NO_CHECKSUM } else { 0 };
        let payload = Payload { nonce, flags, bytes: question.bytes }.build();
        let (source, target) = (question.source, question.target);
        match question.kind {
            Kind::Ping => {
                let kind = if target.is_ipv6() { 128 } else { 8 };
                let word = u32::from(source.port()) << 16 | sequence & 0xffff;
                self.send_icmp(source.ip(), target.ip(), (kind, 0), word, &payload);
            }
            _ => self.send_udp(source, target, &payload, question.no_checksum),
        }
    }

    fn mss(&self, to: IpAddr) -> u16 {
        self.plan.mtu - if to.is_ipv6() { 60 } else { 40 }
    }

    fn burst(&mut self) -> u64 {
        if self.plan.caps.tso { 1 + self.rng.below(8) } else { 1 }
    }

    /// A frame has come in.
    pub(super) fn receive(&mut self, now_ns: u64, frame: &WireFrame) {
        self.now_ns = now_ns;
        if frame.bytes.len() < ETHERNET_BYTES || !self.listens_to(mac_at(&frame.bytes, 0)) {
            return;
        }
        let packet = &frame.bytes[ETHERNET_BYTES..];
        match be16(&frame.bytes, 12) {
            ETHERTYPE_ARP => self.receive_arp(packet),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => match Datagram::parse(packet) {
                Ok(datagram) => self.receive_ip(&datagram, frame.offload),
                Err(_) => self.refused_count += 1,
            },
            _ => self.refused_count += 1,
        }
    }

    fn listens_to(&self, mac: MacAddress) -> bool {
        let group = |own: &IpNet| match own.addr() {
            IpAddr::V6(address) => group_mac(solicited_node(address)) == mac,
            IpAddr::V4(_) => false,
        };
        mac == self.plan.mac
            || mac == MacAddress::BROADCAST
            || mac == group_mac(Ipv6Addr::from_bits(0xff02 << 112 | 1))
            || mac == group_mac(solicited_node(self.plan.mac.link_local()))
            || self.plan.addresses.iter().any(group)
    }

    fn receive_arp(&mut self, message: &[u8]) {
        let Some(arp) = Arp::parse(message) else {
            self.refused_count += 1;
            return;
        };
        let sender = IpAddr::V4(arp.sender);
        if arp.operation == 1 && self.plan.owns(arp.target.into()) && sender != arp.target {
            let reply = Arp {
                operation: 2,
                sender_mac: self.plan.mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            let message = reply.message();
            self.transmit(arp.sender_mac, ETHERTYPE_ARP, &message, Offload::None);
        }
        if !self.plan.owns(sender) {
            self.learn(sender, arp.sender_mac);
        }
    }

    fn learn(&mut self, address: IpAddr, mac: MacAddress) {
        for (ethertype, packet, offload) in self.neighbours.learn(self.now_ns, address, mac) {
            self.transmit(mac, ethertype, &packet, offload);
        }
    }

    fn receive_ip(&mut self, datagram: &Datagram<'_>, offload: Offload) {
        let is_group = match datagram.destination {
            IpAddr::V6(address) => address.is_multicast(),
            IpAddr::V4(_) => false,
        };
        if !self.plan.owns(datagram.destination) && !is_group {
            self.refused_count += 1;
            return;
        }
        if datagram.fragment.is_some() {
            if let Some(whole) = self.assembly.add(self.now_ns, datagram) {
                let whole = Datagram { payload: &whole, fragment: None, ..*datagram };
                self.receive_whole(&whole, Offload::None);
            }
            return;
        }
        self.receive_whole(datagram, offload);
    }

    fn receive_whole(&mut self, datagram: &Datagram<'_>, offload: Offload) {
        if !datagram.checksum_is_right(offload) {
            self.refused_count += 1;
            return;
        }
        match datagram.protocol {
            UDP => self.receive_udp(datagram, offload),
            TCP => self.receive_tcp(datagram),
            ICMP if datagram.source.is_ipv4() => self.receive_icmp(datagram),
            ICMPV6 if datagram.source.is_ipv6() => self.receive_icmp(datagram),
            _ => self.refused_count += 1,
        }
    }

    fn receive_neighbour(&mut self, datagram: &Datagram<'_>) {
        let Some(message) = Neighbour::parse(datagram.payload) else {
            self.refused_count += 1;
            return;
        };
        // RFC 4861 section 7.1: a hop limit below 255 came through a router.
        if datagram.hops != 255 {
            self.stray(format!("ND from {} with hop limit {}", datagram.source, datagram.hops));
            return;
        }
        if message.kind == 136 {
            if let Some(mac) = message.mac.filter(|_| !self.plan.owns(message.target.into())) {
                self.learn(message.target.into(), mac);
            }
            return;
        }
        let (IpAddr::V6(source), true) = (datagram.source, self.plan.owns(message.target.into()))
        else {
            return;
        };
        let Some(mac) = message.mac.filter(|_| !source.is_unspecified()) else { return };
        let advertisement =
            Neighbour { kind: 136, flags: 0x60, target: message.target, mac: Some(self.plan.mac) };
        let mut header = IpHeader::new(message.target.into(), source.into(), ICMPV6);
        header.hops = 255;
        let packet = header.packet(&advertisement.message(message.target, source));
        self.transmit(mac, ETHERTYPE_IPV6, &packet, Offload::None);
        self.learn(source.into(), mac);
    }

    fn send_icmp(
        &mut self,
        source: IpAddr,
        target: IpAddr,
        kind: (u8, u8),
        word: u32,
        rest: &[u8],
    ) {
        let message = icmp(source, target, kind, word, rest);
        let protocol = if source.is_ipv6() { ICMPV6 } else { ICMP };
        self.send_ip(IpHeader::new(source, target, protocol), &message, Offload::None);
    }

    fn mtu_to(&self, target: IpAddr) -> u16 {
        self.path_mtu.get(&target).copied().unwrap_or(self.plan.mtu).min(self.plan.mtu)
    }

    fn send_ip(&mut self, mut header: IpHeader, payload: &[u8], offload: Offload) {
        self.identification = self.identification.wrapping_add(1);
        header.identification = self.identification;
        let Some(next_hop) = self.plan.next_hop(header.destination) else { return };
        let packets = match offload {
            Offload::Gso { .. } => vec![header.packet(payload)],
            _ => header.fragments(payload, usize::from(self.mtu_to(header.destination))),
        };
        for packet in packets {
            match self.neighbours.mac(self.now_ns, next_hop) {
                Some(mac) => self.transmit(mac, header.ethertype(), &packet, offload),
                None => {
                    let waiting = (header.ethertype(), packet, offload);
                    if let Some(ask) = self.neighbours.wait(self.now_ns, next_hop, waiting) {
                        self.solicit(next_hop, ask);
                    }
                }
            }
        }
    }

    fn solicit(&mut self, address: IpAddr, destination: MacAddress) {
        let Some(own) = self.plan.address(address.is_ipv6()) else { return };
        match (own, address) {
            (IpAddr::V4(sender), IpAddr::V4(target)) => {
                let sender_mac = self.plan.mac;
                let target_mac = MacAddress(0);
                let ask = Arp { operation: 1, sender_mac, sender, target_mac, target };
                self.transmit(destination, ETHERTYPE_ARP, &ask.message(), Offload::None);
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let ask = Neighbour { kind: 135, flags: 0, target, mac: Some(self.plan.mac) };
                let group = solicited_node(target);
                let mut header = IpHeader::new(source.into(), group.into(), ICMPV6);
                header.hops = 255;
                let packet = header.packet(&ask.message(source, group));
                self.transmit(destination, ETHERTYPE_IPV6, &packet, Offload::None);
            }
            _ => {}
        }
    }

    fn transmit(&mut self, to: MacAddress, ethertype: u16, packet: &[u8], offload: Offload) {
        let bytes = ethernet(to, self.plan.mac, ethertype, packet);
        self.sent.push(WireFrame { bytes, offload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::wire::{Link, LinkPlan};

    fn pair(caps: Caps) -> [Host; 2] {
        let mut rng = Rng::new(5);
        [1u8, 2].map(|number| {
            let plan = HostPlan {
                name: format!("host{number}"),
                mac: MacAddress(0x0200_0000_0000 | u64::from(number)),
                addresses: [format!("10.0.0.{number}/24"), format!("fd00::{number}/64")]
                    .map(|text| text.parse().unwrap())
                    .to_vec(),
                others: Vec::new(),
                routes: Vec::new(),
                mtu: 1_500,
                caps,
            };
            Host::new(plan, rng.fork())
        })
    }

    /// Runs both hosts on one link until nothing is left to do; returns what each reported.
    fn talk(hosts: &mut [Host; 2], plan: LinkPlan) -> [Vec<Report>; 2] {
        let mut rng = Rng::new(9);
        let mut links = [true, false].map(|is_inbound| Link::new(plan, is_inbound, rng.fork()));
        let mut flying: BTreeMap<(u64, u64), (usize, WireFrame)> = BTreeMap::new();
        let mut now_ns = 1;
        for serial in 0.. {
            for host in 0..2 {
                for frame in std::mem::take(&mut hosts[host].sent) {
                    for (index, (at_ns, frame)) in
                        links[host].carry(now_ns, frame).into_iter().enumerate()
                    {
                        let place = flying.len() as u64 + 1_000 * (serial * 2 + index as u64);
                        flying.insert((at_ns, place), (1 - host, frame));
                    }
                }
            }
            let deadline_ns = hosts.iter().filter_map(Host::deadline_ns).min();
            let arrival_ns = flying.first_key_value().map(|((at_ns, _), _)| *at_ns);
            match (arrival_ns, deadline_ns) {
                (Some(at_ns), later) if later.is_none_or(|later| at_ns <= later) => {
                    now_ns = now_ns.max(at_ns);
                    let (_, (host, frame)) = flying.pop_first().unwrap();
                    hosts[host].receive(now_ns, &frame);
                }
                (_, Some(at_ns)) => {
                    now_ns = now_ns.max(at_ns);
                    hosts.iter_mut().for_each(|host| host.wake(now_ns));
                }
                _ => break,
            }
        }
        [0, 1].map(|host| std::mem::take(&mut hosts[host].reports))
    }

    fn question(nonce: u64, kind: Kind, v6: bool, port: u16) -> Question {
        let address = |number: u8| -> IpAddr {
            let text = if v6 { format!("fd00::{number}") } else { format!("10.0.0.{number}") };
            text.parse().unwrap()
        };
        Question {
            nonce,
            kind,
            source: SocketAddr::new(address(1), 40_000 + nonce as u16),
            target: SocketAddr::new(address(2), port),
            bytes: 3_000,
            no_checksum: nonce == 3,
            tries_max: 40,
            retry_ns: 1_000_000_000,
        }
    }

    fn all_questions() -> Vec<(Question, bool)> {
        let mut questions = Vec::new();
        for v6 in [false, true] {
            for (kind, port) in [(Kind::Udp, 7), (Kind::Tcp, 80), (Kind::Ping, 0), (Kind::Tcp, 81)]
            {
                let nonce = super::super::payload::tcp_nonce(questions.len() as u32, 9_000, 50_000);
                questions.push((question(nonce, kind, v6, port), is_served(kind, port)));
            }
        }
        questions
    }

    #[test]
    fn hosts_understand_each_other_on_any_wire() {
        let bad = LinkPlan {
            delay_ns_min: 1_000,
            delay_ns_max: 1_000_000,
            lost: 100,
            duplicated: 50,
            overtaken: 100,
            corrupted: 50,
        };
        let caps = Caps { checksum: true, tso: true, uso: false, mtu: 1_500, tunnelled: false };
        for (link, caps) in [
            (LinkPlan::default(), Caps::default()),
            (LinkPlan::default(), caps),
            (bad, Caps::default()),
            (bad, caps),
        ] {
            let mut hosts = pair(caps);
            for (question, _) in all_questions() {
                hosts[0].ask(1, question);
            }
            let [client, server] = talk(&mut hosts, link);
            for (question, is_served) in all_questions() {
                let expected = |report: &Report| match *report {
                    Report::Answered { nonce } => is_served && nonce == question.nonce,
                    Report::Refused { nonce } => !is_served && nonce == question.nonce,
                    _ => false,
                };
                let found = client.iter().filter(|report| expected(report)).count();
                assert_eq!(found, 1, "{question:?} on {link:?}: {client:#?}");
            }
            let is_fault = |report: &Report| matches!(report, Report::Broken(_) | Report::Stray(_));
            assert!(!client.iter().chain(&server).any(is_fault), "{client:#?} {server:#?}");
        }
    }

    #[test]
    fn a_closed_udp_port_is_told_to_the_socket_that_asked() {
        for v6 in [false, true] {
            let mut hosts = pair(Caps::default());
            let asked = Question { bytes: 100, ..question(1, Kind::Udp, v6, 999) };
            hosts[0].ask(1, asked);
            let [client, _] = talk(&mut hosts, LinkPlan::default());
            assert!(matches!(client[..], [Report::Refused { nonce: 1 }]), "{client:?}");
        }
    }
}
