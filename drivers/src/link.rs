//! Just enough rtnetlink to give a new device its MAC address, MTU, queue length and home.
//!
//! A `LinkSocket` speaks to one device of the namespace it was opened in, one request and one
//! acknowledgement at a time, so each error belongs to one setting. The hard constraint: it never
//! blocks; the kernel queues its answer before `send` returns. Addresses and routes are not for
//! here: the gateway has a full netlink client.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};

/// `struct nlmsghdr` and `struct ifinfomsg`, in bytes.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;

/// `struct tcmsg`, in bytes, and what stands there for a device's outermost queue (`TC_H_ROOT`).
const QUEUE_BYTES: usize = 20;
const QUEUE_ROOT: u32 = u32::MAX;

/// A request to one device.
#[derive(Debug)]
pub(crate) struct LinkSocket {
    socket: OwnedFd,
    index: u32,
}

impl LinkSocket {
    /// For the device of this name in the calling thread's namespace.
    pub(crate) fn open(device: &str) -> Result<LinkSocket, Errno> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        let index = netdevice::name_to_index(&socket, device)?;
        Ok(LinkSocket { socket, index })
    }

    /// The device's index, which no other device of the namespace has or gets.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Sets the MTU, in bytes.
    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<(), Errno> {
        self.set(&[(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())])
    }

    /// Sets the MAC address, in wire order.
    pub(crate) fn set_mac(&self, mac: [u8; 6]) -> Result<(), Errno> {
        self.set(&[(libc::IFLA_ADDRESS, &mac)])
    }

    /// Sets the length of the device's queues, in packets.
    pub(crate) fn set_queue_len(&self, queue_len: u32) -> Result<(), Errno> {
        self.set(&[(libc::IFLA_TXQLEN, &queue_len.to_ne_bytes())])
    }

    /// Sets the alias, which `ip link` shows; at most 255 bytes.
    pub(crate) fn set_alias(&self, alias: &str) -> Result<(), Errno> {
        self.set(&[(libc::IFLA_IFALIAS, alias.as_bytes())])
    }

    /// Takes the device up.
    pub(crate) fn set_up(&self) -> Result<(), Errno> {
        let mut body = link_body(self.index);
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        // What the flags are to be, and which of them are meant.
        body[8..12].copy_from_slice(&up);
        body[12..16].copy_from_slice(&up);
        self.ask(&message(libc::RTM_NEWLINK, 0, &body, &[]))
    }

    /// Has the kernel give the device no IPv6 address by itself when it goes up.
    pub(crate) fn set_no_own_address(&self) -> Result<(), Errno> {
        /// `IFLA_INET6_ADDR_GEN_MODE` and `IN6_ADDR_GEN_MODE_NONE` (linux/if_link.h).
        const MODE: (u16, u8) = (8, 1);
        let mode = [5u16.to_ne_bytes(), MODE.0.to_ne_bytes(), [MODE.1, 0], [0, 0]].concat();
        let family = (libc::AF_INET6 as u16).to_ne_bytes();
        let of_family = [&(4 + mode.len() as u16).to_ne_bytes()[..], &family, &mode].concat();
        self.set(&[(libc::IFLA_AF_SPEC, &of_family)])
    }

    /// Has the kernel hand packets to the device at once instead of queueing them first.
    pub(crate) fn set_no_queue(&self) -> Result<(), Errno> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut body = [0u8; QUEUE_BYTES];
        body[4..8].copy_from_slice(&self.index.to_ne_bytes());
        body[12..16].copy_from_slice(&QUEUE_ROOT.to_ne_bytes());
        self.ask(&message(libc::RTM_NEWQDISC, flags, &body, &[(libc::TCA_KIND, b"noqueue\0")]))
    }

    /// Moves the device to another namespace and renames it, in one step.
    pub(crate) fn move_to(&self, namespace: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let descriptor = namespace.as_raw_fd().to_ne_bytes();
        let name = [name.as_bytes(), &[0]].concat();
        self.set(&[(libc::IFLA_NET_NS_FD, &descriptor), (libc::IFLA_IFNAME, &name)])
    }

    fn set(&self, attributes: &[(u16, &[u8])]) -> Result<(), Errno> {
        self.ask(&request(self.index, attributes))
    }

    fn ask(&self, message: &[u8]) -> Result<(), Errno> {
        send(&self.socket, message, SendFlags::empty())?;
        let mut answer = [0u8; 1024];
        let (_, answer_len) = recv(&self.socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        acknowledged(&answer[..answer_len.min(answer.len())])
    }
}

/// An RTM_NEWLINK message: [nlmsghdr | ifinfomsg | attribute | attribute …].
fn request(index: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    message(libc::RTM_NEWLINK, 0, &link_body(index), attributes)
}

/// The `struct ifinfomsg` of a device.
fn link_body(index: u32) -> [u8; LINK_BYTES] {
    let mut body = [0u8; LINK_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

/// A request with attributes, all in native order and padded to 4 bytes.
fn message(kind: u16, flags: i32, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = vec![0u8; HEADER_BYTES];
    message.extend_from_slice(body);
    for (kind, value) in attributes {
        message.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
    let message_len = message.len() as u32;
    message[0..4].copy_from_slice(&message_len.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

/// Reads an NLMSG_ERROR message, whose error is 0 when the request was done.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let (Some(kind), Some(error)) = (answer.get(4..6), answer.get(HEADER_BYTES..HEADER_BYTES + 4))
    else {
        return Err(Errno::BADMSG);
    };
    if kind != (libc::NLMSG_ERROR as u16).to_ne_bytes() {
        return Err(Errno::BADMSG);
    }
    let error = i32::from_ne_bytes(error.try_into().expect("four bytes were taken"));
    match error {
        0 => Ok(()),
        -4095..0 => Err(Errno::from_raw_os_error(-error)),
        _ => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_padded_and_says_its_own_length() {
        let message =
            request(7, &[(libc::IFLA_IFNAME, b"eth0\0"), (libc::IFLA_MTU, &[1, 2, 3, 4])]);
        assert_eq!(message.len(), 32 + 12 + 8);
        assert_eq!(message[0..4], 52u32.to_ne_bytes());
        assert_eq!(message[20..24], 7u32.to_ne_bytes());
        assert_eq!(message[32..34], 9u16.to_ne_bytes());
        assert_eq!(&message[36..44], b"eth0\0\0\0\0");
    }

    #[test]
    fn an_answer_that_is_short_or_strange_is_an_error() {
        assert_eq!(acknowledged(&[]), Err(Errno::BADMSG));
        assert_eq!(acknowledged(&[0; 36]), Err(Errno::BADMSG));
        let mut answer = [0u8; 36];
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(acknowledged(&answer), Ok(()));
        answer[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Err(Errno::EXIST));
        answer[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(acknowledged(&answer).is_err());
    }
}
