//! A host: a small IP stack that talks to others and tells what it sees.
//!
//! Addresses and routes are static; it answers ARP, ND and ping, resolves its neighbours, serves
//! UDP echo and TCP streams on a few ports and refuses the others as RFC 1122 says. It believes
//! nothing: a wrong checksum is dropped, and a right checksum over wrong content is reported as a
//! broken invariant, as is an answer at a socket that did not ask. It never forwards.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::assembly::Assembly;
use super::frames::*;
use super::neighbours::Neighbours;
use super::payload::{NO_CHECKSUM, Payload, REPLY};
use super::port::WireFrame;
use super::rng::Rng;
use super::tcp::{Connection, Outcome, Segment};
use crate::id::MacAddress;
use crate::packet::{GsoKind, Offload};
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
    pub(super) fn new(plan: HostPlan, mut rng: Rng) -> Host {
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
            identification: rng.number() as u16,
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

    fn receive_udp(&mut self, datagram: &Datagram<'_>, offload: Offload) {
        let bytes = datagram.payload;
        if bytes.len() < 8 || usize::from(be16(bytes, 4)) != bytes.len() {
            self.refused_count += 1;
            return;
        }
        let source = SocketAddr::new(datagram.source, be16(bytes, 0));
        let local = SocketAddr::new(datagram.destination, be16(bytes, 2));
        let step = match offload {
            Offload::Gso { kind: GsoKind::Udp, segment_bytes, .. } => usize::from(segment_bytes),
            _ => usize::MAX,
        };
        for content in bytes[8..].chunks(step.max(1)) {
            let Some(payload) = Payload::read(content) else { continue };
            if !payload.is_intact(content) {
                self.broken(format!("UDP from {source} to {local} was changed on its way"));
            }
            if payload.flags & NO_CHECKSUM != 0 && be16(bytes, 6) != 0 {
                self.broken(format!("UDP to {local} without checksum was given one"));
            }
            if payload.flags & REPLY != 0 {
                self.answered(payload.nonce, Kind::Udp, local, source);
            } else {
                self.serve_udp(datagram, offload, payload, (local, source));
            }
        }
    }

    fn serve_udp(
        &mut self,
        datagram: &Datagram<'_>,
        offload: Offload,
        payload: Payload,
        (local, source): (SocketAddr, SocketAddr),
    ) {
        self.reached(payload.nonce, Kind::Udp, source, local);
        if is_served(Kind::Udp, local.port()) {
            let reply = Payload { flags: payload.flags | REPLY, ..payload };
            self.send_udp(local, source, &reply.build(), payload.flags & NO_CHECKSUM != 0);
        } else if datagram.bytes.len() >= datagram.payload.len() {
            // Port unreachable, quoting what a kernel would have: a finished checksum.
            let mut quoted = datagram.bytes.to_vec();
            if offload != Offload::None {
                let at = quoted.len() - datagram.payload.len();
                let addresses = (datagram.source, datagram.destination);
                fill_checksum(addresses.0, addresses.1, UDP, &mut quoted[at..]);
            }
            let (kind, room) = if local.is_ipv6() { ((1, 4), 1_232) } else { ((3, 3), 548) };
            quoted.truncate(room);
            self.send_icmp(local.ip(), source.ip(), kind, 0, &quoted);
        }
    }

    fn reached(&mut self, nonce: u64, kind: Kind, source: SocketAddr, local: SocketAddr) {
        self.reports.push(Report::Reached { nonce, kind, source, local });
    }

    fn broken(&mut self, text: String) {
        self.reports.push(Report::Broken(format!("{}: {text}", self.plan.name)));
    }

    fn stray(&mut self, text: String) {
        self.reports.push(Report::Stray(format!("{}: {text}", self.plan.name)));
    }

    fn answered(&mut self, nonce: u64, kind: Kind, local: SocketAddr, from: SocketAddr) {
        let Some(asked) = self.asked.get_mut(&nonce) else {
            self.broken(format!("answer {nonce:#x} from {from} to {local} that nobody asked for"));
            return;
        };
        let question = asked.question;
        if question.kind != kind || question.source != local || question.target != from {
            let wanted = (question.source, question.target);
            let text = format!("answer {nonce:#x} came from {from} to {local}, not {wanted:?}");
            self.broken(text);
        } else if !asked.is_over {
            asked.is_over = true;
            self.reports.push(Report::Answered { nonce });
        }
    }

    fn receive_icmp(&mut self, datagram: &Datagram<'_>) {
        let message = datagram.payload;
        if message.len() < 8 {
            self.refused_count += 1;
            return;
        }
        let word = be32(message, 4);
        match (datagram.source.is_ipv6(), message[0], message[1]) {
            (false, 8, 0) | (true, 128, 0) => self.receive_ping(datagram, word),
            (false, 0, 0) | (true, 129, 0) => self.receive_pong(datagram, word),
            (false, 3, 4) => self.receive_error(&message[8..], Some(word as u16)),
            (true, 2, 0) => self.receive_error(&message[8..], Some(word as u16)),
            (false, 3 | 11, _) | (true, 1 | 3, _) => self.receive_error(&message[8..], None),
            (true, 135 | 136, _) => self.receive_neighbour(datagram),
            _ => self.refused_count += 1,
        }
    }

    fn receive_ping(&mut self, datagram: &Datagram<'_>, word: u32) {
        let content = &datagram.payload[8..];
        let Some(payload) = Payload::read(content) else { return };
        let identifier = (word >> 16) as u16;
        let source = SocketAddr::new(datagram.source, identifier);
        let local = SocketAddr::new(datagram.destination, identifier);
        if !payload.is_intact(content) {
            self.broken(format!("echo request from {source} was changed on its way"));
        }
        self.reached(payload.nonce, Kind::Ping, source, local);
        let kind = if local.is_ipv6() { 129 } else { 0 };
        self.send_icmp(local.ip(), source.ip(), (kind, 0), word, content);
    }

    fn receive_pong(&mut self, datagram: &Datagram<'_>, word: u32) {
        let content = &datagram.payload[8..];
        let Some(payload) = Payload::read(content) else { return };
        let identifier = (word >> 16) as u16;
        let from = SocketAddr::new(datagram.source, identifier);
        if !payload.is_intact(content) {
            self.broken(format!("echo reply from {from} was changed on its way"));
        }
        let mut local = SocketAddr::new(datagram.destination, identifier);
        // The far end's port means nothing to a ping.
        let target = self.asked.get(&payload.nonce).map(|asked| asked.question.target);
        let from = SocketAddr::new(from.ip(), target.map_or(identifier, |target| target.port()));
        local.set_port(identifier);
        self.answered(payload.nonce, Kind::Ping, local, from);
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

    /// An ICMP error: finds the socket whose packet it quotes. `mtu`: the packet was too big.
    fn receive_error(&mut self, quoted: &[u8], mtu: Option<u16>) {
        let now_ns = self.now_ns;
        let Ok(quoted) = Datagram::parse_quoted(quoted) else {
            self.stray("ICMP error quotes a broken packet".into());
            return;
        };
        let bytes = quoted.payload;
        if !self.plan.owns(quoted.source) || bytes.len() < 8 {
            self.stray(format!("ICMP error quotes a packet from {}", quoted.source));
            return;
        }
        let ends = (
            SocketAddr::new(quoted.source, be16(bytes, 0)),
            SocketAddr::new(quoted.destination, be16(bytes, 2)),
        );
        if let Some(mtu) = mtu {
            self.path_mtu.insert(quoted.destination, mtu.max(576));
        }
        if quoted.protocol == TCP {
            let v6 = ends.1.is_ipv6();
            let mss = mtu.map(|mtu| mtu.saturating_sub(if v6 { 60 } else { 40 }));
            let known = self.with_connection(ends, |connection| match mss {
                Some(mss) => connection.too_big(now_ns, mss),
                None => {
                    connection.unreachable(now_ns);
                    Vec::new()
                }
            });
            if !known {
                self.stray(format!("ICMP error about a connection {ends:?} that is not there"));
            }
            return;
        }
        let is_it = |asked: &&mut Asked| match asked.question.kind {
            Kind::Ping => {
                let question = asked.question;
                question.target.ip() == ends.1.ip() && question.source.port() == be16(bytes, 4)
            }
            _ => (asked.question.source, asked.question.target) == ends,
        };
        let mut found: Vec<&mut Asked> = self.asked.values_mut().filter(is_it).collect();
        found.sort_by_key(|asked| asked.is_over);
        match found.first_mut() {
            Some(asked) if !asked.is_over && mtu.is_none() => {
                asked.is_over = true;
                let nonce = asked.question.nonce;
                self.reports.push(Report::Refused { nonce });
            }
            Some(_) => {}
            None => self.stray(format!("ICMP error about {ends:?}, which nobody sent")),
        }
    }

    fn receive_tcp(&mut self, datagram: &Datagram<'_>) {
        let Some((header, content)) = TcpHeader::parse(datagram.payload) else {
            self.refused_count += 1;
            return;
        };
        let now_ns = self.now_ns;
        let local = SocketAddr::new(datagram.destination, header.destination_port);
        let remote = SocketAddr::new(datagram.source, header.source_port);
        let is_syn = header.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
        if let (true, Some(nonce)) = (is_syn, header.nonce) {
            self.reached(nonce, Kind::Tcp, remote, local);
        }
        let ends = (local, remote);
        let known = self.with_connection(ends, |end| end.receive(now_ns, &header, content));
        if known || !is_syn || header.nonce.is_none() {
            return;
        }
        if is_served(Kind::Tcp, local.port()) {
            let (mss, first) = (self.mss(remote.ip()), self.rng.number() as u32);
            if let Some(mut connection) = Connection::server(&header, ends, mss, first) {
                connection.burst = self.burst();
                self.connections.insert(ends, connection);
                self.with_connection(ends, |connection| connection.pump(now_ns));
            }
        } else {
            // RFC 9293 section 3.10.7.1: a SYN to a closed port.
            let reset = TcpHeader {
                source_port: local.port(),
                destination_port: remote.port(),
                sequence: 0,
                acknowledgment: header.sequence.wrapping_add(1),
                flags: flags::RST | flags::ACK,
                mss: None,
                nonce: None,
            };
            self.send_segment(ends, 536, Segment { header: reset, payload: Vec::new() });
        }
    }

    /// Runs something on a connection, sends what it wants sent, reports what happened. False:
    /// there is no such connection.
    fn with_connection(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        act: impl FnOnce(&mut Connection) -> Vec<Segment>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(&ends) else { return false };
        let segments = act(connection);
        let (nonce, mss, client) = (connection.nonce, connection.mss, connection.is_client());
        for outcome in connection.take_outcomes() {
            match outcome {
                Outcome::Broken(text) => {
                    self.reports.push(Report::Broken(format!("{}: {text}", self.plan.name)));
                }
                Outcome::Finished if client => self.reports.push(Report::Answered { nonce }),
                Outcome::Refused if client => self.reports.push(Report::Refused { nonce }),
                Outcome::GaveUp if client => self.reports.push(Report::GaveUp { nonce }),
                _ => {}
            }
        }
        segments.into_iter().for_each(|segment| self.send_segment(ends, mss, segment));
        true
    }

    fn send_segment(&mut self, ends: (SocketAddr, SocketAddr), mss: u16, segment: Segment) {
        let (source, target) = (ends.0.ip(), ends.1.ip());
        let is_super = segment.payload.len() > usize::from(mss);
        let mut bytes = segment.header.segment(&segment.payload);
        let start = (ETHERNET_BYTES + if source.is_ipv6() { 40 } else { 20 }) as u16;
        let offload = if is_super {
            let kind = tcp_gso(source.is_ipv6());
            Offload::Gso { kind, segment_bytes: mss, start, ecn: false }
        } else if self.plan.caps.checksum && self.rng.chance(500) {
            Offload::NeedsChecksum { start, offset: 16 }
        } else {
            Offload::None
        };
        match offload {
            Offload::None => fill_checksum(source, target, TCP, &mut bytes),
            _ => fill_partial_checksum(source, target, TCP, &mut bytes),
        }
        let mut header = IpHeader::new(source, target, TCP);
        header.dont_fragment = true;
        self.send_ip(header, &bytes, offload);
    }

    fn send_udp(
        &mut self,
        source: SocketAddr,
        target: SocketAddr,
        payload: &[u8],
        no_checksum: bool,
    ) {
        let mut bytes = udp(source.port(), target.port(), payload);
        let header_bytes = if source.is_ipv6() { 40 } else { 20 };
        let fits = header_bytes + bytes.len() <= usize::from(self.mtu_to(target.ip()));
        let mut offload = Offload::None;
        if no_checksum && source.is_ipv4() {
            // The field stays zero.
        } else if fits && self.plan.caps.checksum && self.rng.chance(500) {
            let start = (ETHERNET_BYTES + header_bytes) as u16;
            offload = Offload::NeedsChecksum { start, offset: 6 };
            fill_partial_checksum(source.ip(), target.ip(), UDP, &mut bytes);
        } else {
            fill_checksum(source.ip(), target.ip(), UDP, &mut bytes);
        }
        self.send_ip(IpHeader::new(source.ip(), target.ip(), UDP), &bytes, offload);
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
