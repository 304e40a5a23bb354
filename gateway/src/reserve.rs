//! Published ports are taken on the host, so that no other program gets them, nor they its.
//!
//! Needed only where the published address is the host's own: on addresses that are the gateway's
//! alone nothing else can listen. Up to `SOCKETS_PER_RULE_MAX` ports of a rule are held by real
//! sockets, as Docker holds them: TCP bound and listening, behind a filter that lets no packet in,
//! so that nobody is answered by a socket that serves nothing. Longer ranges are looked through
//! once for other programs' sockets, by `sock_diag`, and kept out of the kernel's own choice by
//! `net.ipv4.ip_local_reserved_ports`; who binds one of them later by its number is found by
//! [`conflicts`].
//!
//! The one hard constraint: all or nothing. A change that cannot have all of its ports leaves the
//! ports as they were; and what stands in the sysctl is journaled before, so that a start after a
//! kill takes it out again.

mod bound;
mod diag;
mod sysctl;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use config::Config;
use engine::tables::Protocol;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

use crate::store::{Store, StoreError};
use bound::Bound;
pub use sysctl::ephemeral_ports;

/// Ports of a rule that are held by sockets: each costs a descriptor and, in the kernel, 2 KiB.
/// More would make a range of 20,000 ports take seconds.
const SOCKETS_PER_RULE_MAX: u16 = 256;

/// A range of ports that is to be the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// The address; unspecified: every one of its family.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// True: a socket on ::1 serves it beside ours (`host/splice.rs`).
    pub is_spliced: bool,
}

impl Range {
    fn last(&self) -> u16 {
        self.first + (self.count - 1)
    }

    fn is_long(&self) -> bool {
        self.count > SOCKETS_PER_RULE_MAX
    }

    fn meets(&self, other: &Range) -> bool {
        self.protocol == other.protocol
            && self.address.is_ipv6() == other.address.is_ipv6()
            && self.first <= other.last()
            && other.first <= self.last()
            && (self.address == other.address
                || self.address.is_unspecified()
                || other.address.is_unspecified())
    }

    /// True if a program's socket stands in the way.
    fn is_met_by(&self, bound: &Bound) -> bool {
        let own = Range { first: bound.port, count: 1, address: bound.address, ..*self };
        bound.protocol == self.protocol && self.meets(&own)
    }
}

/// Why a port cannot be had: in Docker's words, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    address: SocketAddr,
    protocol: Protocol,
    reason: String,
    owner: Option<String>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conflict { address, protocol, reason, owner } = self;
        write!(f, "failed to bind host port {address}/{protocol}: {reason}")?;
        match owner {
            Some(owner) => write!(f, "; {owner} has it"),
            None => Ok(()),
        }
    }
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Another program has a port.
    #[error("{0}")]
    Conflict(Conflict),
    /// The sysctl cannot be read or written.
    #[error("{path}: {source}")]
    Sysctl {
        /// Its file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The journal.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One range and its sockets.
#[derive(Debug)]
struct Held {
    range: Range,
    /// Kept for what their existence does.
    _sockets: Vec<Socket>,
}

/// The ports that are taken.
#[derive(Debug)]
pub struct Reservations {
    held: Vec<Held>,
    store: Arc<Store>,
}

/// A change that can still be taken back.
#[derive(Debug)]
pub struct Change {
    added: Vec<Held>,
    /// Those that go.
    gone: HashSet<Range>,
    /// Those of them whose sockets were closed already, as new ones need their ports.
    closed: Vec<Range>,
}

impl Reservations {
    /// Takes nothing yet, and out of the sysctl what a killed run left there.
    ///
    /// # Errors
    /// The sysctl cannot be read or written.
    pub fn new(store: Arc<Store>) -> Result<Reservations, ReserveError> {
        sysctl::reserve(&store, &[])?;
        Ok(Reservations { held: Vec::new(), store })
    }

    /// Takes what a config needs beyond what is held.
    ///
    /// # Errors
    /// Another program has a port; nothing has changed.
    pub fn prepare(&mut self, config: &Config) -> Result<Change, ReserveError> {
        let wanted = ranges(config);
        let held: HashSet<Range> = self.held.iter().map(|held| held.range).collect();
        let new: Vec<Range> =
            wanted.iter().copied().filter(|range| !held.contains(range)).collect();
        let wanted: HashSet<Range> = wanted.into_iter().collect();
        let gone: HashSet<Range> = held.difference(&wanted).copied().collect();
        let mut change = Change { added: Vec::new(), gone, closed: Vec::new() };
        // Ours would be in the way of ours.
        let in_the_way = |held: &Held, gone: &HashSet<Range>| {
            gone.contains(&held.range) && new.iter().any(|range| range.meets(&held.range))
        };
        for index in (0..self.held.len()).rev() {
            if in_the_way(&self.held[index], &change.gone) {
                change.closed.push(self.held.remove(index).range);
            }
        }
        let mut scan = None;
        for range in new {
            match take(range, &mut scan) {
                Ok(held) => change.added.push(held),
                Err(error) => {
                    self.abort(change);
                    return Err(error);
                }
            }
        }
        let longs = self.longs(&change);
        match sysctl::reserve(&self.store, &longs) {
            Ok(()) => Ok(change),
            Err(error) => {
                self.abort(change);
                Err(error)
            }
        }
    }

    /// Makes a change the state.
    pub fn commit(&mut self, change: Change) {
        self.held.retain(|held| !change.gone.contains(&held.range));
        self.held.extend(change.added);
        let longs: Vec<(u16, u16)> = self.held.iter().filter_map(long).collect();
        if let Err(error) = sysctl::reserve(&self.store, &longs) {
            tracing::error!(%error, "ports that are free now stay reserved");
        }
    }

    /// Takes a change back.
    pub fn abort(&mut self, change: Change) {
        drop(change.added);
        for range in change.closed {
            match take(range, &mut None) {
                Ok(held) => self.held.push(held),
                Err(error) => tracing::error!(%error, "a published port is taken no more"),
            }
        }
        let longs: Vec<(u16, u16)> = self.held.iter().filter_map(long).collect();
        if let Err(error) = sysctl::reserve(&self.store, &longs) {
            tracing::error!(%error, "reserved ports are not as they were");
        }
    }

    fn longs(&self, change: &Change) -> Vec<(u16, u16)> {
        self.held.iter().chain(&change.added).filter_map(long).collect()
    }
}

impl Drop for Reservations {
    fn drop(&mut self) {
        if let Err(error) = sysctl::reserve(&self.store, &[]) {
            tracing::error!(%error, "ports stay reserved until the next start");
        }
    }
}

fn long(held: &Held) -> Option<(u16, u16)> {
    held.range.is_long().then(|| (held.range.first, held.range.last()))
}

/// The ranges that a config needs on the host.
pub fn ranges(config: &Config) -> Vec<Range> {
    if !config.uplinks.iter().any(|uplink| uplink.netns.is_none()) {
        return Vec::new();
    }
    let own: HashSet<IpAddr> = config
        .uplinks
        .iter()
        .flat_map(|uplink| uplink.addresses.iter().map(|address| address.addr()))
        .collect();
    let has_splice = config.uplinks.iter().any(|uplink| uplink.host.is_some());
    let localhost = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let entries = config.endpoints.iter().flat_map(|endpoint| &endpoint.publish);
    let range = |publish: &config::Publish| {
        let any: IpAddr = match publish.target {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = publish.host.unwrap_or(any);
        let is_needed = publish.host_port != 0 && !own.contains(&address);
        is_needed.then_some(Range {
            address,
            protocol: publish.protocol,
            first: publish.host_port,
            count: publish.port_count,
            is_spliced: has_splice
                && publish.protocol != Protocol::Sctp
                && (address == localhost || address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        })
    };
    let mut ranges: Vec<Range> = entries.filter_map(range).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// Sockets of other programs in the ranges that no socket of ours holds, with who has them.
pub fn conflicts(ranges: &[Range]) -> Vec<(Range, u16, String)> {
    let longs: Vec<&Range> = ranges.iter().filter(|range| range.is_long()).collect();
    if longs.is_empty() {
        return Vec::new();
    }
    let bound = bound::scan();
    let met = |range: &Range| {
        let found = bound.iter().filter(|bound| range.is_met_by(bound)).map(|bound| {
            let owner = bound::owner(bound.inode);
            (*range, bound.port, owner.unwrap_or_else(|| "another program".to_owned()))
        });
        found.collect::<Vec<_>>()
    };
    longs.into_iter().flat_map(met).collect()
}

/// Ports that other programs have now, for those that are chosen.
pub fn busy() -> Vec<(Protocol, u16)> {
    bound::scan().iter().map(|bound| (bound.protocol, bound.port)).collect()
}

fn take(range: Range, scan: &mut Option<Vec<Bound>>) -> Result<Held, ReserveError> {
    if range.is_long() {
        let bound = scan.get_or_insert_with(bound::scan);
        if let Some(met) = bound.iter().find(|bound| range.is_met_by(bound)) {
            let error = io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error());
            return Err(refused(range, met.port, &error));
        }
        return Ok(Held { range, _sockets: Vec::new() });
    }
    let mut sockets = Vec::with_capacity(usize::from(range.count));
    for port in range.first..=range.last() {
        match hold(&range, port) {
            Ok(socket) => sockets.extend(socket),
            Err(error) => return Err(refused(range, port, &error)),
        }
    }
    Ok(Held { range, _sockets: sockets })
}

/// Binds a port. `None`: the kernel knows no such protocol or address, so nobody can have it.
fn hold(range: &Range, port: u16) -> io::Result<Option<Socket>> {
    let (address, protocol) = (range.address, range.protocol);
    let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Sctp => (Type::STREAM, socket2::Protocol::from(132)),
    };
    let at = SockAddr::from(SocketAddr::new(address, port));
    let bound = Socket::new(domain, kind, Some(number)).and_then(|socket| {
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if range.is_spliced {
            rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
        }
        if protocol == Protocol::Tcp {
            // So that connections of a program that had the port do not keep it for a minute.
            socket.set_reuse_address(true)?;
        }
        socket.attach_filter(&[drop_all()])?;
        socket.bind(&at)?;
        match protocol {
            // Of two sockets on one address and port the kernel takes any; these two it never
            // takes: the first does not listen, the second hears itself alone.
            Protocol::Tcp if range.is_spliced && address.is_loopback() => {}
            Protocol::Udp if range.is_spliced && address.is_loopback() => socket.connect(&at)?,
            // Two sockets that only bind may share a port with SO_REUSEADDR; one that listens
            // shares it with none.
            Protocol::Tcp => socket.listen(1)?,
            Protocol::Udp | Protocol::Sctp => {}
        }
        Ok(socket)
    });
    use rustix::io::Errno;
    let absent =
        [Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::SOCKTNOSUPPORT];
    match bound {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.raw_os_error().is_some_and(|code| is_one_of(code, &absent)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_one_of(code: i32, all: &[rustix::io::Errno]) -> bool {
    all.iter().any(|errno| errno.raw_os_error() == code)
}

/// A filter of one instruction that keeps 0 bytes of each packet: the kernel drops it.
fn drop_all() -> SockFilter {
    const RETURN_CONSTANT: u16 = 0x06;
    SockFilter::new(RETURN_CONSTANT, 0, 0, 0)
}

fn refused(range: Range, port: u16, error: &io::Error) -> ReserveError {
    let own = Range { first: port, count: 1, ..range };
    let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
    let bound = if is_in_use { bound::scan() } else { Vec::new() };
    let met = bound.iter().find(|bound| own.is_met_by(bound));
    ReserveError::Conflict(Conflict {
        address: SocketAddr::new(range.address, port),
        protocol: range.protocol,
        reason: match is_in_use {
            true => "address already in use".to_owned(),
            false => error.to_string(),
        },
        owner: met.and_then(|bound| bound::owner(bound.inode)),
    })
}

#[cfg(test)]
mod tests;
