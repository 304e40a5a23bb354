//! Follows the links of many namespaces with one socket.
//!
//! An rtnetlink socket inside a namespace keeps that namespace alive, so one in each would be
//! the reason that no namespace ever ends. This one stays in our own and hears of all namespaces
//! that have a number there (`NETLINK_LISTEN_ALL_NSID`); [`NamespaceNumbers`] gives them one, which
//! neither keeps them alive nor is seen by who is inside. The hard constraint: reading never
//! blocks, and what was lost because nobody read in time is said ([`LinkChange::Lost`]).
//!
//! What a change means is not known here.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use engine::MacAddress;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt,
};

use crate::error::DriverError;
use crate::sys::netlink;

/// `struct nlmsghdr`, `struct ifinfomsg` and `struct rtgenmsg` (padded), in bytes.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const GENERAL_BYTES: usize = 4;

/// Attributes of RTM_NEWNSID and RTM_GETNSID (linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// Multicast groups (linux/rtnetlink.h).
const GROUP_LINK: i32 = 1;
const GROUP_NAMESPACE: i32 = 28;

/// What the socket holds until it is read, in bytes. A change of a link is some 1.5 KiB, and a
/// thousand links may change at once.
const RECEIVE_BYTES: usize = 8 << 20;

/// Longest message; those about a link with many virtual functions are longer, and not ours.
const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// A namespace, as the watch's own namespace numbers it; `None` is that one itself.
pub type NamespaceNumber = Option<i32>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// A link is new or has changed; perhaps in nothing that is told here.
    Link(NamespaceNumber, LinkState),
    /// The link of this index is gone: deleted, or moved to another namespace.
    Gone(NamespaceNumber, u32),
    /// The namespace of this number has ended.
    NamespaceGone(i32),
    /// Changes were lost: look at all links anew.
    Lost,
}

/// A link as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, if it has one.
    pub alias: Option<String>,
    /// Its MAC address, if it has one.
    pub mac: Option<MacAddress>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// True if it is up, as an administrator says.
    pub is_up: bool,
}

/// The socket; readable when something has happened.
#[derive(Debug)]
pub struct LinkWatch {
    events: OwnedFd,
    buffer: Vec<u8>,
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl LinkWatch {
    /// Begins to watch, in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel refuses, for want of CAP_NET_ADMIN perhaps.
    pub fn open() -> Result<LinkWatch, DriverError> {
        let opened = || -> Result<OwnedFd, Errno> {
            let events = new_socket()?;
            sockopt::set_socket_recv_buffer_size_force(&events, RECEIVE_BYTES)?;
            bind(&events, &SocketAddrNetlink::new(0, 0))?;
            netlink::set_option(events.as_fd(), libc::NETLINK_LISTEN_ALL_NSID, 1)?;
            for group in [GROUP_LINK, GROUP_NAMESPACE] {
                netlink::set_option(events.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group)?;
            }
            Ok(events)
        };
        let events = opened().map_err(|errno| watch_error("opening it", errno))?;
        Ok(LinkWatch { events, buffer: vec![0; MESSAGE_BYTES_MAX] })
    }

    /// Reads what has happened since the last call.
    pub fn read(&mut self) -> Vec<LinkChange> {
        let mut changes = Vec::new();
        loop {
            match netlink::receive(self.events.as_fd(), &mut self.buffer) {
                Ok((len, number)) => match self.buffer.get(..len) {
                    Some(messages) => read_messages(messages, number, &mut changes),
                    None => changes.push(LinkChange::Lost),
                },
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => changes.push(LinkChange::Lost),
                Err(_) => return changes,
            }
        }
    }
}

/// Gives namespaces the numbers by which a [`LinkWatch`] of the same namespace calls them.
#[derive(Debug)]
pub struct NamespaceNumbers {
    requests: OwnedFd,
}

impl NamespaceNumbers {
    /// For a watch in the calling thread's namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open() -> Result<NamespaceNumbers, DriverError> {
        let requests = new_socket().map_err(|errno| watch_error("opening it", errno))?;
        Ok(NamespaceNumbers { requests })
    }

    /// The number of a namespace (an open `/run/netns/NAME`); it gets one if it has none. From then
    /// on its links are watched.
    ///
    /// # Errors
    /// It is no network namespace, or the kernel refuses.
    pub fn number(&self, namespace: BorrowedFd<'_>) -> Result<i32, DriverError> {
        let descriptor = namespace.as_raw_fd().to_ne_bytes();
        let any = (-1i32).to_ne_bytes();
        let new = [(NETNSA_FD, &descriptor[..]), (NETNSA_NSID, &any[..])];
        let failed = |errno| watch_error("numbering a namespace", errno);
        match self.ask(libc::RTM_NEWNSID, &new) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let answer = self.ask(libc::RTM_GETNSID, &new[..1]).map_err(failed)?;
        let attributes = answer.get(HEADER_BYTES + GENERAL_BYTES..).unwrap_or(&[]);
        let number =
            attribute(attributes, NETNSA_NSID).and_then(to_u32).map(|number| number as i32);
        number.filter(|&number| number >= 0).ok_or_else(|| failed(Errno::BADMSG))
    }

    /// One request about a namespace; the kernel queues its answer before `send` returns.
    fn ask(&self, kind: u16, attributes: &[(u16, &[u8])]) -> Result<Vec<u8>, Errno> {
        let mut message = vec![0u8; HEADER_BYTES + GENERAL_BYTES];
        for (kind, value) in attributes {
            message.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
        }
        // An answer is its own acknowledgement.
        let wants_answer = kind == libc::RTM_GETNSID;
        let flags = libc::NLM_F_REQUEST | if wants_answer { 0 } else { libc::NLM_F_ACK };
        let message_len = message.len() as u32;
        message[0..4].copy_from_slice(&message_len.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        send(&self.requests, &message, SendFlags::empty())?;
        let mut answer = [0u8; 1024];
        let (_, answer_len) = recv(&self.requests, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let answer = &answer[..answer_len.min(answer.len())];
        match message_kind(answer) {
            Some(kind) if kind == libc::NLMSG_ERROR as u16 => {
                match answer.get(16..).and_then(to_u32) {
                    Some(0) => Ok(answer.to_vec()),
                    Some(error) => Err(Errno::from_raw_os_error((error as i32).wrapping_neg())),
                    None => Err(Errno::BADMSG),
                }
            }
            _ => Ok(answer.to_vec()),
        }
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// The cookie of the network namespace that the calling thread is in: no other namespace has or had
/// it since the machine started.
///
/// # Errors
/// No descriptor is left, or the kernel is older than 5.14.
pub fn namespace_cookie() -> Result<u64, DriverError> {
    new_socket()
        .and_then(|socket| netlink::namespace_cookie(socket.as_fd()))
        .map_err(|errno| watch_error("asking for a namespace's cookie", errno))
}

fn watch_error(operation: &'static str, errno: Errno) -> DriverError {
    DriverError::Watch { operation, source: errno.into() }
}

/// [message | message …], each [nlmsghdr | body] and padded to 4 bytes.
fn read_messages(mut bytes: &[u8], number: NamespaceNumber, changes: &mut Vec<LinkChange>) {
    while let (Some(len), Some(kind)) = (to_u32(bytes), message_kind(bytes)) {
        let len = len as usize;
        let Some(body) = bytes.get(HEADER_BYTES..len) else { return };
        changes.extend(read_message(kind, body, number));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

fn read_message(kind: u16, body: &[u8], number: NamespaceNumber) -> Option<LinkChange> {
    match kind {
        libc::RTM_NEWLINK => Some(LinkChange::Link(number, read_link(body)?)),
        libc::RTM_DELLINK => Some(LinkChange::Gone(number, read_link(body)?.index)),
        libc::RTM_DELNSID if number.is_none() => {
            let number = attribute(body.get(GENERAL_BYTES..)?, NETNSA_NSID).and_then(to_u32)?;
            Some(LinkChange::NamespaceGone(number as i32))
        }
        _ => None,
    }
}

/// [ifinfomsg | attributes]
fn read_link(body: &[u8]) -> Option<LinkState> {
    // Messages of a bridge about its ports come in the same group and are about something else.
    if *body.first()? != 0 {
        return None;
    }
    let attributes = body.get(LINK_BYTES..)?;
    let text = |kind| {
        let bytes = attribute(attributes, kind)?;
        let text = bytes.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let flags = to_u32(body.get(8..)?)?;
    Some(LinkState {
        index: to_u32(body.get(4..)?)?,
        name: text(libc::IFLA_IFNAME)?,
        alias: text(libc::IFLA_IFALIAS),
        mac: attribute(attributes, libc::IFLA_ADDRESS)
            .and_then(|bytes| bytes.try_into().ok())
            .map(MacAddress::new),
        mtu: attribute(attributes, libc::IFLA_MTU).and_then(to_u32)?,
        is_up: flags & libc::IFF_UP as u32 != 0,
    })
}

/// The value of the first attribute of a kind: [length 16 | kind 16 | value, padded to 4 bytes] ….
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().expect("two bytes were taken"));
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn message_kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().expect("two bytes were taken")))
}

fn to_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
        message.extend(((4 + value.len()) as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER_BYTES, 0);
        message.extend(body);
        message
    }

    fn link(index: u32, name: &str) -> Vec<u8> {
        let mut body = vec![0; LINK_BYTES];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&1u32.to_ne_bytes());
        with_attribute(&mut body, libc::IFLA_IFNAME, format!("{name}\0").as_bytes());
        with_attribute(&mut body, libc::IFLA_MTU, &1400u32.to_ne_bytes());
        body
    }

    #[test]
    fn links_come_go_and_change_and_namespaces_end() {
        let mut bytes = message(libc::RTM_NEWLINK, &link(7, "eth0"));
        bytes.extend(message(libc::RTM_DELLINK, &link(8, "eth1")));
        bytes.extend(message(libc::RTM_NEWADDR, &[0; 40]));
        let mut changes = Vec::new();
        read_messages(&bytes, Some(3), &mut changes);
        let state = LinkState {
            index: 7,
            name: "eth0".into(),
            mtu: 1400,
            is_up: true,
            ..LinkState::default()
        };
        let expected = [LinkChange::Link(Some(3), state), LinkChange::Gone(Some(3), 8)];
        assert_eq!(changes, expected);
        let mut body = vec![0; GENERAL_BYTES];
        with_attribute(&mut body, NETNSA_NSID, &5i32.to_ne_bytes());
        let mut changes = Vec::new();
        read_messages(&message(libc::RTM_DELNSID, &body), None, &mut changes);
        assert_eq!(changes, [LinkChange::NamespaceGone(5)]);
    }

    #[test]
    fn what_a_bridge_says_about_its_ports_is_passed_over() {
        let mut body = link(7, "eth0");
        body[0] = 7;
        let mut changes = Vec::new();
        read_messages(&message(libc::RTM_NEWLINK, &body), None, &mut changes);
        assert_eq!(changes, []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            read_messages(&bytes, None, &mut Vec::new());
            read_messages(&message(libc::RTM_NEWLINK, &bytes), None, &mut Vec::new());
        }
    }
}
