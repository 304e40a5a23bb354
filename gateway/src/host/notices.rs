//! What the kernel tells by itself: addresses that come and go, changes of nftables, and where a
//! test packet went.
//!
//! Netlink sockets, read without waiting. The one hard constraint: what was lost because nobody
//! read in time counts as a change of everything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
    sockopt,
};

/// Bits of multicast groups: addresses of rtnetlink (RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR and
/// RTNLGRP_LINK), changes and traces of nftables (NFNLGRP_NFTABLES, NFNLGRP_NFTRACE).
const ADDRESSES: u32 = 1 << 4 | 1 << 8 | 1;
const RULES: u32 = 1 << 6;
const TRACES: u32 = 1 << 8;

/// `struct nlmsghdr` and `struct nfgenmsg`, in bytes.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;

/// NFNL_SUBSYS_NFTABLES, and of its messages those that we tell apart.
const SUBSYSTEM: u8 = 10;
const NEW_GENERATION: u8 = 15;
const TRACE: u8 = 17;

/// NFPROTO_INET: the family of our table.
const INET: u8 = 1;

/// What the sockets hold until they are read, in bytes: a flush of thousands of rules.
const RECEIVE_BYTES: usize = 4 << 20;

/// Longest message; the kernel makes none larger than a page or two.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// One socket.
#[derive(Debug)]
pub(super) struct Notices {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What has changed in nftables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleChange {
    /// Transactions.
    pub(super) count: usize,
    /// One of them concerned our table.
    pub(super) is_ours: bool,
    /// One of them concerned another table.
    pub(super) is_others: bool,
}

impl RuleChange {
    fn everything() -> RuleChange {
        RuleChange { count: 1, is_ours: true, is_others: true }
    }

    fn add(&mut self, other: RuleChange) {
        self.count += other.count;
        self.is_ours |= other.is_ours;
        self.is_others |= other.is_others;
    }
}

/// A step of a traced packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// The table's family, by NFPROTO number.
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    /// True: the packet died there.
    pub(super) is_drop: bool,
    /// True: by the chain's policy, not by a rule.
    pub(super) is_policy: bool,
    /// The rule.
    pub(super) handle: Option<u64>,
}

impl Notices {
    /// Hears of addresses and links.
    pub(super) fn of_addresses() -> Result<Notices, Errno> {
        Notices::open(None, ADDRESSES)
    }

    /// Hears of changes of nftables.
    pub(super) fn of_rules() -> Result<Notices, Errno> {
        Notices::open(Some(netlink::NETFILTER), RULES)
    }

    /// Hears of traced packets. As long as this is open the kernel traces.
    pub(super) fn of_traces() -> Result<Notices, Errno> {
        Notices::open(Some(netlink::NETFILTER), TRACES)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> Result<Notices, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        // Without CAP_NET_ADMIN over the whole machine the usual size must do.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Notices { socket, buffer: vec![0; MESSAGE_BYTES_MAX] })
    }

    /// One datagram; `None`: none waits. An error: some were lost.
    fn next(&mut self) -> Option<Result<&[u8], Errno>> {
        loop {
            match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, len)) => {
                    return Some(match len <= self.buffer.len() {
                        true => Ok(&self.buffer[..len]),
                        false => Err(Errno::NOBUFS),
                    });
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(errno) => return Some(Err(errno)),
            }
        }
    }

    /// Reads all that waits. True: there was something.
    pub(super) fn drain(&mut self) -> bool {
        let mut was_there = false;
        while let Some(_datagram) = self.next() {
            was_there = true;
        }
        was_there
    }

    /// What has changed in nftables since the last call; `ours` is our table's name.
    pub(super) fn rule_changes(&mut self, ours: &str) -> RuleChange {
        let mut all = RuleChange::default();
        while let Some(datagram) = self.next() {
            match datagram {
                Ok(bytes) => messages(bytes, |kind, body| all.add(rule_change(kind, body, ours))),
                Err(_) => all.add(RuleChange::everything()),
            }
        }
        all
    }

    /// Steps of traced packets since the last call.
    pub(super) fn traces(&mut self) -> Vec<Trace> {
        let mut all = Vec::new();
        while let Some(datagram) = self.next() {
            if let Ok(bytes) = datagram {
                messages(bytes, |kind, body| all.extend(trace(kind, body)));
            }
        }
        all
    }
}

/// Calls `take` with the kind and the body of each message.
fn messages(mut bytes: &[u8], mut take: impl FnMut([u8; 2], &[u8])) {
    while let Some(header) = bytes.get(..HEADER_BYTES) {
        let len = u32::from_ne_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let Some(message) = bytes.get(HEADER_BYTES..len) else { return };
        take([header[5], header[4]].map(|byte| byte), message);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

/// The value of an attribute, behind the family's header.
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    find(body.get(FAMILY_BYTES..)?, wanted)
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(header) = attributes.get(..4) {
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The upper two bits tell of nesting and byte order.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// `kind` is subsystem and message, as in the header's type.
fn rule_change(kind: [u8; 2], body: &[u8], ours: &str) -> RuleChange {
    let [subsystem, message] = kind;
    match (subsystem, message) {
        (SUBSYSTEM, NEW_GENERATION) => RuleChange { count: 1, ..RuleChange::default() },
        (SUBSYSTEM, TRACE) => RuleChange::default(),
        (SUBSYSTEM, _) => {
            // The first attribute of all of them is the table's name.
            let is_ours = body.first() == Some(&INET)
                && attribute(body, 1).is_some_and(|table| text(table) == ours);
            RuleChange { count: 0, is_ours, is_others: !is_ours }
        }
        _ => RuleChange::default(),
    }
}

fn trace(kind: [u8; 2], body: &[u8]) -> Option<Trace> {
    /// Attributes of a trace, its types, and the verdict that ends a packet (NF_DROP).
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const HANDLE: u16 = 3;
    const TYPE: u16 = 4;
    const VERDICT: u16 = 5;
    const POLICY: u16 = 16;
    const TYPE_POLICY: u32 = 1;
    const VERDICT_CODE: u16 = 1;
    const DROP: u32 = 0;

    if kind != [SUBSYSTEM, TRACE] {
        return None;
    }
    let is_policy = attribute(body, TYPE).and_then(number) == Some(TYPE_POLICY);
    let code = match is_policy {
        true => attribute(body, POLICY).and_then(number),
        false => attribute(body, VERDICT).and_then(|own| find(own, VERDICT_CODE)).and_then(number),
    };
    let handle = attribute(body, HANDLE).and_then(|value| value.try_into().ok());
    Some(Trace {
        family: *body.first()?,
        table: text(attribute(body, TABLE)?),
        chain: text(attribute(body, CHAIN)?),
        is_drop: code == Some(DROP),
        is_policy,
        handle: handle.map(u64::from_be_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend([family, 0, 0, 0]);
        for (kind, value) in attributes {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4] = kind;
        bytes[5] = SUBSYSTEM;
        bytes
    }

    fn changes(bytes: &[u8]) -> RuleChange {
        let mut all = RuleChange::default();
        messages(bytes, |kind, body| all.add(rule_change(kind, body, "portolan")));
        all
    }

    #[test]
    fn our_table_is_told_from_others() {
        let gone = message(2, INET, &[(1, b"portolan\0")]);
        let same_name = message(2, 2, &[(1, b"portolan\0")]);
        let end = message(NEW_GENERATION, 0, &[(1, &[0, 0, 0, 7])]);
        let expected = RuleChange { count: 1, is_ours: true, is_others: false };
        assert_eq!(changes(&[gone, end.clone()].concat()), expected);
        let expected = RuleChange { count: 1, is_ours: false, is_others: true };
        assert_eq!(changes(&[same_name, end].concat()), expected);
    }

    #[test]
    fn a_trace_says_where_a_packet_died() {
        let verdict = [8, 0, 1, 0, 0, 0, 0, 0];
        let rule = message(
            TRACE,
            2,
            &[(1, b"filter\0"), (2, b"FORWARD\0"), (3, &[0, 0, 0, 0, 0, 0, 0, 9]), (5, &verdict)],
        );
        let policy = message(
            TRACE,
            10,
            &[(1, b"filter\0"), (2, b"FORWARD\0"), (4, &[0, 0, 0, 1]), (16, &[0, 0, 0, 0])],
        );
        let mut all = Vec::new();
        messages(&[rule, policy].concat(), |kind, body| all.extend(trace(kind, body)));
        assert!(all[0].is_drop && !all[0].is_policy && all[0].handle == Some(9));
        assert!(all[1].is_drop && all[1].is_policy && all[1].family == 10);
    }

    #[test]
    fn cut_messages_are_passed_over() {
        let whole = message(2, INET, &[(1, b"portolan\0")]);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            changes(&cut);
            if len >= 4 {
                cut[..4].copy_from_slice(&(len as u32).to_ne_bytes());
                changes(&cut);
            }
        }
    }
}
