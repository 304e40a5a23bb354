//! The sockets of a simulated host: UDP echo, ping, TCP, and ICMP errors about them.
//!
//! Continues `host.rs` above the network layer. Whatever arrives with a right checksum and names a
//! question must be what that question's client or server sent, to the last byte, at the socket
//! that it was meant for.

use std::net::SocketAddr;

use super::{Asked, Host, Kind, Report, is_served};
use crate::packet::{GsoKind, Offload};
use crate::sim::datagram::Datagram;
use crate::sim::frames::*;
use crate::sim::payload::{NO_CHECKSUM, Payload, REPLY};
use crate::sim::tcp::{Connection, Outcome, Segment};

/// What an ICMP error means to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IcmpError {
    /// Packets to there must not be larger.
    TooBig(u16),
    /// Nothing listens.
    Refused,
    /// A router had a difficulty; it may pass (RFC 1122 section 4.2.3.9).
    Soft,
}

impl Host {
    pub(super) fn receive_udp(&mut self, datagram: &Datagram<'_>, offload: Offload) {
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

    pub(super) fn stray(&mut self, text: String) {
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

    pub(super) fn receive_icmp(&mut self, datagram: &Datagram<'_>) {
        let message = datagram.payload;
        if message.len() < 8 {
            self.refused_count += 1;
            return;
        }
        let word = be32(message, 4);
        match (datagram.source.is_ipv6(), message[0], message[1]) {
            (false, 8, 0) | (true, 128, 0) => self.receive_ping(datagram, word),
            (false, 0, 0) | (true, 129, 0) => self.receive_pong(datagram, word),
            (false, 3, 4) | (true, 2, 0) => {
                self.receive_error(&message[8..], IcmpError::TooBig(word as u16));
            }
            (false, 3, 3) | (true, 1, 4) => self.receive_error(&message[8..], IcmpError::Refused),
            (false, 3 | 11, _) | (true, 1 | 3, _) => {
                self.receive_error(&message[8..], IcmpError::Soft);
            }
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

    /// Finds the socket whose packet an ICMP error quotes.
    fn receive_error(&mut self, quoted: &[u8], error: IcmpError) {
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
        if let IcmpError::TooBig(mtu) = error {
            self.path_mtu.insert(quoted.destination, mtu.max(576));
        }
        if quoted.protocol == TCP {
            let header_bytes = if ends.1.is_ipv6() { 60 } else { 40 };
            let known = self.with_connection(ends, |connection| match error {
                IcmpError::TooBig(mtu) => {
                    connection.too_big(now_ns, mtu.saturating_sub(header_bytes))
                }
                IcmpError::Refused => {
                    connection.unreachable(now_ns);
                    Vec::new()
                }
                IcmpError::Soft => Vec::new(),
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
            Some(asked) if !asked.is_over && error == IcmpError::Refused => {
                asked.is_over = true;
                let nonce = asked.question.nonce;
                self.reports.push(Report::Refused { nonce });
            }
            Some(_) => {}
            None => self.stray(format!("ICMP error about {ends:?}, which nobody sent")),
        }
    }

    pub(super) fn receive_tcp(&mut self, datagram: &Datagram<'_>) {
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
    pub(super) fn with_connection(
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
                Outcome::Reset => self.reports.push(Report::Reset { nonce }),
                Outcome::GaveUp => self.reports.push(Report::GaveUp { nonce }),
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

    pub(super) fn send_udp(
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
}
