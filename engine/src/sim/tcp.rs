//! A TCP for simulated hosts: small, slow and strict.
//!
//! One connection carries a stream each way whose bytes and lengths follow from the nonce in its
//! SYN (see `payload.rs`), so each end checks every byte that it gets. Lost segments are sent again
//! by timer from the last acknowledged byte; what arrives out of order is not kept. No congestion
//! control: time costs nothing here. A pure state machine: time and segments in, segments out.

use std::net::SocketAddr;

use super::frames::{TcpHeader, flags};
use super::payload::{stream_byte, stream_bytes};

/// First retransmission timeout.
const TIMEOUT_NS_MIN: u64 = 300_000_000;
/// Longest one.
const TIMEOUT_NS_MAX: u64 = 3_000_000_000;
/// Timeouts in a row after which a connection is given up: far beyond what a plan's loss explains.
const TIMEOUTS_MAX: u32 = 40;
/// Segments in flight.
const WINDOW_SEGMENTS: u64 = 10;
/// How long an ended connection still answers late segments.
const LINGER_NS: u64 = 60_000_000_000;

/// A segment to send; more payload than `mss` makes it a super-frame.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: TcpHeader,
    pub(super) payload: Vec<u8>,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer has accepted or is accepted: bytes may flow.
    Open,
    /// Both streams have arrived whole, and the peer knows.
    Finished,
    /// The peer refused.
    Refused,
    /// The open connection was reset.
    Reset,
    /// Nobody answered for too long.
    GaveUp,
    /// A server's end that no client ever confirmed.
    Ghost,
    /// What must not happen.
    Broken(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// SYN sent.
    SynSent,
    /// SYN received, SYN and ACK sent.
    SynReceived,
    /// Bytes flow, until both sides have ended.
    Open,
    /// Over; late segments are answered until `linger_until_ns`.
    Ended,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) nonce: u64,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Payload bytes of a segment on the wire.
    pub(super) mss: u16,
    /// Segments put into one super-frame; 1 for none.
    pub(super) burst: u64,
    /// How often a SYN is sent before the connection is given up.
    pub(super) tries_max: u32,
    state: State,
    is_client: bool,
    first_sent: u32,
    first_received: u32,
    /// Offsets into the sent stream; its end (FIN) counts as one byte.
    acknowledged: u64,
    next: u64,
    highest: u64,
    /// Offset into the received stream.
    received: u64,
    peer_ended: bool,
    timeouts: u32,
    retry_at_ns: Option<u64>,
    outcomes: Vec<Outcome>,
}

impl Connection {
    /// A client's end; `pump` sends the SYN.
    pub(super) fn client(
        nonce: u64,
        (local, remote): (SocketAddr, SocketAddr),
        mss: u16,
        first_sent: u32,
    ) -> Connection {
        Connection {
            nonce,
            local,
            remote,
            mss,
            burst: 1,
            tries_max: TIMEOUTS_MAX,
            state: State::SynSent,
            is_client: true,
            first_sent,
            first_received: 0,
            acknowledged: 0,
            next: 0,
            highest: 0,
            received: 0,
            peer_ended: false,
            timeouts: 0,
            retry_at_ns: Some(0),
            outcomes: Vec::new(),
        }
    }

    /// A server's end, from a SYN.
    pub(super) fn server(
        syn: &TcpHeader,
        (local, remote): (SocketAddr, SocketAddr),
        mss: u16,
        first_sent: u32,
    ) -> Option<Connection> {
        let mut connection = Connection::client(syn.nonce?, (local, remote), mss, first_sent);
        connection.is_client = false;
        connection.state = State::SynReceived;
        connection.first_received = syn.sequence;
        connection.mss = mss.min(syn.mss.unwrap_or(536));
        Some(connection)
    }

    /// What happened since the last call.
    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// When `pump` wants to be called.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.retry_at_ns
    }

    /// True for the end that asked.
    pub(super) fn is_client(&self) -> bool {
        self.is_client
    }

    /// True when the connection may be forgotten.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.state == State::Ended && self.retry_at_ns.is_none_or(|at| at <= now_ns)
    }

    fn direction(&self) -> u64 {
        u64::from(!self.is_client)
    }

    fn send_bytes(&self) -> u64 {
        stream_bytes(self.nonce, self.direction())
    }

    /// Half of the clients end their stream at once; the server then answers only after that end.
    /// The others wait for the server to end first.
    fn ends_early(&self) -> bool {
        self.nonce & 1 == 0
    }

    /// How far the stream may be sent now, its end included.
    fn send_limit(&self) -> u64 {
        match (self.is_client, self.ends_early() || self.peer_ended) {
            (true, true) => self.send_bytes() + 1,
            (true, false) => self.send_bytes(),
            (false, _) if self.ends_early() && !self.peer_ended => 0,
            (false, _) => self.send_bytes() + 1,
        }
    }

    fn header(&self, offset: u64, flags: u8) -> TcpHeader {
        TcpHeader {
            source_port: self.local.port(),
            destination_port: self.remote.port(),
            sequence: self.first_sent.wrapping_add(1).wrapping_add(offset as u32),
            acknowledgment: self.first_received.wrapping_add(1).wrapping_add(self.received as u32),
            flags,
            mss: None,
            nonce: None,
        }
    }

    fn handshake(&self) -> Segment {
        let flags = if self.is_client { flags::SYN } else { flags::SYN | flags::ACK };
        let mut header = self.header(0, flags);
        header.sequence = self.first_sent;
        header.mss = Some(self.mss);
        header.nonce = Some(self.nonce);
        if self.is_client {
            header.acknowledgment = 0;
        }
        Segment { header, payload: Vec::new() }
    }

    fn acknowledgment(&self) -> Segment {
        Segment { header: self.header(self.next, flags::ACK), payload: Vec::new() }
    }

    /// Sends what may be sent now, again if its time is up.
    pub(super) fn pump(&mut self, now_ns: u64) -> Vec<Segment> {
        let due = self.retry_at_ns.is_some_and(|at| at <= now_ns);
        if self.state == State::Ended {
            return Vec::new();
        }
        if due && self.retry_at_ns != Some(0) {
            self.timeouts += 1;
            self.next = self.acknowledged;
            let is_opening = self.state == State::SynSent;
            if self.timeouts >= if is_opening { self.tries_max } else { TIMEOUTS_MAX } {
                // A server that was never confirmed may be the ghost of a late SYN.
                let is_ghost = self.state == State::SynReceived;
                let outcome = if is_ghost { Outcome::Ghost } else { Outcome::GaveUp };
                return self.end(now_ns, outcome);
            }
        }
        let mut segments = Vec::new();
        if self.state != State::Open {
            if due {
                segments.push(self.handshake());
                self.set_timer(now_ns);
            }
            return segments;
        }
        while self.next < self.send_limit()
            && self.next - self.acknowledged < WINDOW_SEGMENTS * u64::from(self.mss)
        {
            segments.push(self.next_segment());
        }
        if self.acknowledged == self.highest {
            // Nothing is under way: if the peer says nothing for too long, it is gone.
            if due || self.retry_at_ns.is_none() {
                self.retry_at_ns = Some(now_ns + TIMEOUT_NS_MAX);
            }
        } else if due || self.retry_at_ns.is_none() {
            self.set_timer(now_ns);
        }
        segments
    }

    fn set_timer(&mut self, now_ns: u64) {
        let timeout_ns = (TIMEOUT_NS_MIN << self.timeouts.min(8)).min(TIMEOUT_NS_MAX);
        self.retry_at_ns = Some(now_ns + timeout_ns);
    }

    fn next_segment(&mut self) -> Segment {
        let most = u64::from(self.mss) * self.burst;
        let count = most.min(self.send_bytes().saturating_sub(self.next));
        let range = self.next..self.next + count;
        let payload = range.map(|at| stream_byte(self.nonce, self.direction(), at)).collect();
        let mut header = self.header(self.next, flags::ACK);
        self.next += count;
        if self.next == self.send_bytes() && self.next < self.send_limit() {
            header.flags |= flags::FIN;
            self.next += 1;
        }
        self.highest = self.highest.max(self.next);
        Segment { header, payload }
    }

    fn end(&mut self, now_ns: u64, outcome: Outcome) -> Vec<Segment> {
        self.state = State::Ended;
        self.retry_at_ns = Some(now_ns + LINGER_NS);
        self.outcomes.push(outcome);
        Vec::new()
    }

    /// Takes a segment with a right checksum, and answers.
    pub(super) fn receive(
        &mut self,
        now_ns: u64,
        header: &TcpHeader,
        payload: &[u8],
    ) -> Vec<Segment> {
        let has = |flag: u8| header.flags & flag != 0;
        let confirms_syn = header.acknowledgment == self.first_sent.wrapping_add(1);
        match self.state {
            State::SynSent if has(flags::RST) && confirms_syn => self.end(now_ns, Outcome::Refused),
            State::SynSent if has(flags::SYN) && has(flags::ACK) && confirms_syn => {
                if header.nonce != Some(self.nonce) {
                    let seen = header.nonce;
                    self.break_off(format!("SYN+ACK for nonce {:#x} has {seen:x?}", self.nonce));
                }
                self.first_received = header.sequence;
                self.mss = self.mss.min(header.mss.unwrap_or(536));
                self.open(now_ns, vec![self.acknowledgment()])
            }
            State::SynSent => Vec::new(),
            State::SynReceived if has(flags::SYN) => vec![self.handshake()],
            State::SynReceived if has(flags::RST) => self.end(now_ns, Outcome::Ghost),
            State::SynReceived if !has(flags::ACK) || !confirms_syn => Vec::new(),
            State::SynReceived => {
                let mut segments = self.open(now_ns, Vec::new());
                segments.extend(self.receive_open(now_ns, header, payload));
                segments
            }
            State::Open if has(flags::RST) => self.reset(now_ns, header),
            State::Open | State::Ended if has(flags::SYN) => vec![self.acknowledgment()],
            State::Open => self.receive_open(now_ns, header, payload),
            State::Ended if has(flags::FIN) || !payload.is_empty() => vec![self.acknowledgment()],
            State::Ended => Vec::new(),
        }
    }

    fn open(&mut self, now_ns: u64, mut segments: Vec<Segment>) -> Vec<Segment> {
        self.state = State::Open;
        self.timeouts = 0;
        self.retry_at_ns = None;
        self.outcomes.push(Outcome::Open);
        segments.extend(self.pump(now_ns));
        segments
    }

    fn reset(&mut self, now_ns: u64, header: &TcpHeader) -> Vec<Segment> {
        // RFC 5961 section 3.2: only an exact sequence number resets.
        if header.sequence != self.header(0, 0).acknowledgment {
            return vec![self.acknowledgment()];
        }
        self.end(now_ns, Outcome::Reset)
    }

    fn break_off(&mut self, text: String) {
        self.outcomes.push(Outcome::Broken(text));
    }

    fn receive_open(&mut self, now_ns: u64, header: &TcpHeader, payload: &[u8]) -> Vec<Segment> {
        let base = self.first_sent.wrapping_add(1).wrapping_add(self.acknowledged as u32);
        let newly = header.acknowledgment.wrapping_sub(base) as i32;
        if header.flags & flags::ACK != 0 && newly > 0 {
            let acknowledged = self.acknowledged + newly as u64;
            if acknowledged > self.highest {
                self.break_off(format!("{:#x}: bytes acknowledged that were not sent", self.nonce));
                return Vec::new();
            }
            self.acknowledged = acknowledged;
            self.next = self.next.max(acknowledged);
            self.timeouts = 0;
            self.retry_at_ns = None;
        }
        let ends = header.flags & flags::FIN != 0;
        let mut segments = Vec::new();
        if ends || !payload.is_empty() {
            self.take_bytes(header.sequence, payload, ends);
            segments.push(self.acknowledgment());
        }
        segments.extend(self.pump(now_ns));
        if self.peer_ended && self.acknowledged == self.send_bytes() + 1 {
            self.end(now_ns, Outcome::Finished);
        }
        segments
    }

    fn take_bytes(&mut self, sequence: u32, payload: &[u8], ends: bool) {
        let base = self.first_received.wrapping_add(1).wrapping_add(self.received as u32);
        let ahead = i64::from(sequence.wrapping_sub(base) as i32);
        let Ok(start) = u64::try_from(self.received as i64 + ahead) else { return };
        let (from, expected) =
            (1 - self.direction(), stream_bytes(self.nonce, 1 - self.direction()));
        let end = start + payload.len() as u64;
        if end > expected || (ends && end != expected) {
            self.break_off(format!("{:#x}: stream has another length", self.nonce));
            return;
        }
        let right = |(at, &byte): (u64, &u8)| byte == stream_byte(self.nonce, from, at);
        if !(start..).zip(payload).all(right) {
            self.break_off(format!("{:#x}: wrong byte near {start} of a stream", self.nonce));
            return;
        }
        if ahead > 0 || self.peer_ended {
            return;
        }
        if end > self.received {
            self.received = end;
            self.timeouts = 0;
        }
        if ends && self.received == end {
            self.received += 1;
            self.peer_ended = true;
        }
    }

    /// A router says that packets of this connection must be smaller.
    pub(super) fn too_big(&mut self, now_ns: u64, mss: u16) -> Vec<Segment> {
        if self.state != State::Open || mss >= self.mss || mss < 200 {
            return Vec::new();
        }
        self.mss = mss;
        self.next = self.acknowledged;
        self.pump(now_ns)
    }

    /// An ICMP error says that nobody is there.
    pub(super) fn unreachable(&mut self, now_ns: u64) {
        if self.state == State::SynSent {
            self.end(now_ns, Outcome::Refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::payload::tcp_nonce;
    use crate::sim::rng::Rng;

    fn run(nonce: u64, lost_per_mille: u32, seed: u64) -> (Vec<Outcome>, Vec<Outcome>) {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (a, b) = (address("10.0.0.1:1000"), address("10.0.0.2:80"));
        let mut rng = Rng::new(seed);
        let mut client = Connection::client(nonce, (a, b), 1_460, u32::MAX - 3);
        let mut server: Option<Connection> = None;
        let mut outcomes = (Vec::new(), Vec::new());
        let mut now_ns = 1;
        for _ in 0..10_000 {
            let mut to_server = client.pump(now_ns);
            let mut to_client = server.as_mut().map(|end| end.pump(now_ns)).unwrap_or_default();
            while !to_server.is_empty() || !to_client.is_empty() {
                for segment in std::mem::take(&mut to_server) {
                    if rng.chance(lost_per_mille) {
                        continue;
                    }
                    if server.is_none() {
                        server = Connection::server(&segment.header, (b, a), 1_000, 7);
                        to_client.extend(server.as_mut().unwrap().pump(now_ns));
                        continue;
                    }
                    let end = server.as_mut().unwrap();
                    to_client.extend(end.receive(now_ns, &segment.header, &segment.payload));
                }
                for segment in std::mem::take(&mut to_client) {
                    if !rng.chance(lost_per_mille) {
                        let more = client.receive(now_ns, &segment.header, &segment.payload);
                        to_server.extend(more);
                    }
                }
            }
            outcomes.0.extend(client.take_outcomes());
            outcomes.1.extend(server.iter_mut().flat_map(Connection::take_outcomes));
            now_ns += 100_000_000;
        }
        outcomes
    }

    #[test]
    fn streams_arrive_whole_with_and_without_loss() {
        for serial in 0..4 {
            for lost in [0, 100, 300] {
                let nonce = tcp_nonce(serial, 20_000, 30_000);
                let expected = vec![Outcome::Open, Outcome::Finished];
                let (client, server) = run(nonce, lost, u64::from(serial));
                assert_eq!(client, expected, "client {serial} {lost}");
                assert_eq!(server, expected, "server {serial} {lost}");
            }
        }
    }

    #[test]
    fn an_empty_stream_is_a_stream() {
        let (client, _) = run(tcp_nonce(2, 0, 0), 0, 1);
        assert_eq!(client, vec![Outcome::Open, Outcome::Finished]);
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let ends: (SocketAddr, SocketAddr) =
            ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:1000".parse().unwrap());
        let mut client = Connection::client(tcp_nonce(2, 10, 10), (ends.1, ends.0), 1_460, 0);
        let syn = client.pump(1).remove(0);
        let mut server = Connection::server(&syn.header, ends, 1_460, 0).unwrap();
        let answer = server.pump(1).remove(0);
        let mut segments = client.receive(2, &answer.header, &[]);
        let last = segments.last_mut().unwrap();
        last.payload[3] ^= 1;
        server.receive(3, &last.header, &last.payload);
        assert!(matches!(server.take_outcomes().last(), Some(Outcome::Broken(_))));
    }
}
