//! What was asked, what must come of it, and what did.
//!
//! Each question has one expectation, fixed when it is asked from DESIGN's rules about who reaches
//! whom under which source address. Hosts report; the ledger compares, and keeps account of the
//! outside ports that masqueraded sockets were seen with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::host::{Kind, Question, Report};
use super::plan::Plan;

/// What must come of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// It reaches the server, and the answer comes back.
    Reply,
    /// RST or ICMP unreachable.
    Refused,
    /// It reaches the server, where nothing listens, and the error about it comes back.
    Unserved,
    /// It reaches the server or not, by what that sent before; if so, it is answered.
    Filtered,
    /// It reaches nobody; whether somebody says so does not matter.
    Denied,
}

/// As whom the server sees the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// As itself.
    Client,
    /// As this address, with any port.
    Address(IpAddr),
    /// Masqueraded as one of the pool's addresses of this family, with a port of the masquerade
    /// range.
    Masqueraded { v6: bool },
    /// As this address with exactly this port: the source is published there.
    Published(SocketAddr),
}

/// A question and what is known about it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) question: Question,
    /// Index of the asking host.
    pub(super) client: usize,
    pub(super) expect: Expect,
    /// Index of the host that is to be reached, and where there.
    pub(super) server: Option<(usize, SocketAddr)>,
    pub(super) seen: Seen,
    /// In words, for reports.
    pub(super) story: &'static str,
}

#[derive(Debug)]
struct Record {
    entry: Entry,
    reached: bool,
    is_over: bool,
}

/// How long an outside port stays with its socket after its last packet: far below every timeout
/// of UDP and ICMP; TCP may end its flow sooner.
fn live_ns(kind: Kind) -> u64 {
    match kind {
        Kind::Udp | Kind::Ping => 50_000_000_000,
        Kind::Tcp => 1_000_000_000,
    }
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    other: SocketAddr,
    seen_ns: u64,
}

/// How questions ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Questions asked.
    pub asked: u64,
    /// Answered by the right server to the right socket.
    pub answered: u64,
    /// Refused, as they had to be.
    pub refused: u64,
    /// Not delivered, as they must not be.
    pub denied: u64,
    /// Without the expected end on a lossy wire, where that may be.
    pub lost: u64,
}

/// The account of all questions.
#[derive(Debug)]
pub(super) struct Ledger {
    records: BTreeMap<u64, Record>,
    /// Outside socket to inside socket, and back.
    by_outside: BTreeMap<(Kind, SocketAddr), Mapping>,
    by_inside: BTreeMap<(Kind, SocketAddr, bool), Mapping>,
    ports: (u16, u16),
    /// Outside addresses of masqueraded traffic, and which one each inside address has.
    pool: Vec<IpAddr>,
    paired: BTreeMap<IpAddr, IpAddr>,
    /// Everything is too small, so nothing needs to work.
    is_tight: bool,
    /// Nothing is lost, so everything must work at once.
    is_lossless: bool,
    /// Packets are made up or corrupted, so stray ones prove nothing.
    has_broken_inputs: bool,
    pub(super) outcomes: Outcomes,
    open_count: usize,
}

impl Ledger {
    pub(super) fn new(plan: &Plan, ports: (u16, u16), pool: Vec<IpAddr>) -> Ledger {
        Ledger {
            records: BTreeMap::new(),
            by_outside: BTreeMap::new(),
            by_inside: BTreeMap::new(),
            ports,
            pool,
            paired: BTreeMap::new(),
            is_tight: plan.tight,
            is_lossless: plan.is_lossless(),
            has_broken_inputs: plan.has_broken_inputs(),
            outcomes: Outcomes::default(),
            open_count: 0,
        }
    }

    /// True if packets are made up or corrupted.
    pub(super) fn has_broken_inputs(&self) -> bool {
        self.has_broken_inputs
    }

    /// Enters a question.
    pub(super) fn enter(&mut self, entry: Entry) {
        self.outcomes.asked += 1;
        self.open_count += 1;
        let record = Record { reached: false, is_over: false, entry };
        self.records.insert(record.entry.question.nonce, record);
    }

    /// Questions that have not ended.
    pub(super) fn open_count(&self) -> usize {
        self.open_count
    }

    /// True if this question must reach nobody.
    pub(super) fn is_denied(&self, nonce: u64) -> bool {
        self.records.get(&nonce).is_some_and(|record| record.entry.expect == Expect::Denied)
    }

    /// Words about a question, for reports.
    pub(super) fn describe(&self, nonce: u64) -> String {
        match self.records.get(&nonce) {
            Some(Record { entry, .. }) => {
                let Question { kind, source, target, .. } = entry.question;
                let expect = entry.expect;
                format!("{nonce:#x} {}: {kind:?} {source} to {target}, {expect:?}", entry.story)
            }
            None => format!("unknown question {nonce:#x}"),
        }
    }

    /// The questions that are still open.
    pub(super) fn describe_open(&self) -> Vec<String> {
        let open = self.records.iter().filter(|(_, record)| !record.is_over);
        open.map(|(&nonce, _)| self.describe(nonce)).collect()
    }

    /// A UDP socket that was masqueraded lately, outside and inside, by a number that chooses among
    /// them.
    pub(super) fn mapped_socket(
        &self,
        now_ns: u64,
        choice: u64,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let is_live = |((kind, _), mapping): &(&(Kind, SocketAddr), &Mapping)| {
            *kind == Kind::Udp && mapping.seen_ns + live_ns(*kind) > now_ns
        };
        let live = self.by_outside.iter().filter(is_live);
        let sockets: Vec<(SocketAddr, SocketAddr)> =
            live.map(|((_, outside), mapping)| (*outside, mapping.other)).collect();
        sockets.get((choice % sockets.len().max(1) as u64) as usize).copied()
    }

    /// Takes a host's report; the text of the error says which invariant broke.
    pub(super) fn take(&mut self, now_ns: u64, host: usize, report: Report) -> Result<(), String> {
        match report {
            Report::Broken(text) => Err(text),
            Report::Stray(text) if self.has_broken_inputs => {
                drop(text);
                Ok(())
            }
            Report::Stray(text) => Err(text),
            Report::Reached { nonce, kind, source, local } => {
                self.reached(now_ns, host, (nonce, kind), (source, local))
            }
            Report::Reset { nonce } if self.is_tight => self.ended(nonce, None),
            Report::Reset { nonce } => Err(format!("{}: was reset", self.describe(nonce))),
            Report::Answered { nonce } => self.ended(nonce, Some(Expect::Reply)),
            Report::Refused { nonce } => self.ended(nonce, Some(Expect::Refused)),
            Report::GaveUp { nonce } => self.ended(nonce, None),
        }
    }

    fn reached(
        &mut self,
        now_ns: u64,
        host: usize,
        (nonce, kind): (u64, Kind),
        (source, local): (SocketAddr, SocketAddr),
    ) -> Result<(), String> {
        let story = self.describe(nonce);
        let Some(record) = self.records.get_mut(&nonce) else {
            return Err(format!("a question that nobody asked reached {local}: {nonce:#x}"));
        };
        record.reached = true;
        let entry = record.entry.clone();
        if entry.expect == Expect::Denied {
            return Err(format!("isolation: {story}, reached {local} from {source}"));
        }
        let is_right = entry.server.is_some_and(|(server, address)| {
            server == host
                && address.ip() == local.ip()
                && (kind == Kind::Ping || address.port() == local.port())
        });
        if !is_right || kind != entry.question.kind {
            return Err(format!("{story}, reached {local}, not {:?}", entry.server));
        }
        let client = entry.question.source;
        let as_expected = match entry.seen {
            Seen::Client => source == client,
            Seen::Address(address) => source.ip() == address,
            Seen::Published(outside) => source == outside,
            Seen::Masqueraded { v6 } => source.is_ipv6() == v6 && self.pool.contains(&source.ip()),
        };
        if !as_expected {
            return Err(format!("{story}, was seen as {source}, not as {:?}", entry.seen));
        }
        if let Seen::Masqueraded { .. } = entry.seen {
            self.masqueraded(now_ns, kind, client, source).map_err(|e| format!("{story}: {e}"))?;
        }
        Ok(())
    }

    fn masqueraded(
        &mut self,
        now_ns: u64,
        kind: Kind,
        inside: SocketAddr,
        outside: SocketAddr,
    ) -> Result<(), String> {
        let (port_min, port_max) = self.ports;
        if kind != Kind::Ping && !(port_min..=port_max).contains(&outside.port()) {
            return Err(format!("outside port {} is not in the range", outside.port()));
        }
        // RFC 4787 REQ-4: port parity is kept.
        if kind == Kind::Udp && outside.port() % 2 != inside.port() % 2 {
            return Err(format!("outside port {} has another parity", outside.port()));
        }
        // RFC 4787 REQ-2: an inside address keeps to one outside address.
        let paired = *self.paired.entry(inside.ip()).or_insert(outside.ip());
        if paired != outside.ip() {
            return Err(format!("{} leaves as {paired} and as {outside}", inside.ip()));
        }
        // Where flows end to make room for others, mappings go with them.
        let is_tight = self.is_tight;
        let is_live = |mapping: &&Mapping| !is_tight && mapping.seen_ns + live_ns(kind) > now_ns;
        if let Some(mapping) = self.by_outside.get(&(kind, outside)).filter(is_live)
            && mapping.other != inside
        {
            return Err(format!("{outside} is used by {} too", mapping.other));
        }
        // RFC 4787 REQ-1, RFC 5382 REQ-1: endpoint-independent mapping.
        let key = (kind, inside, outside.is_ipv6());
        if let Some(mapping) = self.by_inside.get(&key).filter(is_live)
            && kind != Kind::Ping
            && mapping.other != outside
        {
            return Err(format!("{inside} is seen as {outside} and as {}", mapping.other));
        }
        self.by_outside.insert((kind, outside), Mapping { other: inside, seen_ns: now_ns });
        self.by_inside.insert(key, Mapping { other: outside, seen_ns: now_ns });
        Ok(())
    }

    fn ended(&mut self, nonce: u64, how: Option<Expect>) -> Result<(), String> {
        let story = self.describe(nonce);
        let Some(record) = self.records.get_mut(&nonce).filter(|record| !record.is_over) else {
            return Ok(());
        };
        record.is_over = true;
        self.open_count -= 1;
        let outcomes = &mut self.outcomes;
        match (record.entry.expect, how) {
            (Expect::Reply, Some(Expect::Reply)) if record.reached => outcomes.answered += 1,
            // The gateway itself answers a ping of its own address.
            (Expect::Reply, Some(Expect::Reply)) if record.entry.server.is_none() => {
                outcomes.answered += 1;
            }
            (Expect::Refused, Some(Expect::Refused)) => outcomes.refused += 1,
            (Expect::Unserved, Some(Expect::Refused)) if record.reached => outcomes.refused += 1,
            (Expect::Filtered, Some(Expect::Refused) | None) => outcomes.refused += 1,
            (Expect::Filtered, Some(Expect::Reply)) if record.reached => outcomes.answered += 1,
            (Expect::Denied, Some(Expect::Refused) | None) => outcomes.denied += 1,
            // What is refused by RST may be lost on the way, and is not repeated for ever.
            (Expect::Refused | Expect::Unserved, None) if !self.is_lossless => outcomes.lost += 1,
            (Expect::Reply | Expect::Refused | Expect::Unserved, Some(Expect::Refused) | None)
                if self.is_tight =>
            {
                outcomes.lost += 1;
            }
            (_, Some(how)) => return Err(format!("{story}, but the end was {how:?}")),
            (_, None) => return Err(format!("{story}, but nothing came back")),
        }
        Ok(())
    }
}
