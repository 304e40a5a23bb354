//! The sockets of this network namespace, as the kernel's `NETLINK_SOCK_DIAG` tells of them.
//!
//! One socket, and per family and protocol one dump of those sockets alone that take what comes to
//! their port. The text files of `/proc/net` would cost a walk over every connection of the
//! machine. The hard constraint: it never blocks; the kernel has its answer, or the first part of
//! it, ready before `send` returns. A protocol that the kernel does not know has no sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use engine::tables::Protocol;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::bound::Bound;

/// `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg`, in bytes.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 56;
const ANSWER_BYTES: usize = 72;

/// `SOCK_DIAG_BY_FAMILY`; `NLM_F_REQUEST` and `NLM_F_DUMP`; `NLMSG_ERROR` and `NLMSG_DONE`.
const BY_FAMILY: u16 = 20;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// States of `tcp_states.h`, one bit each: a listener; what is connected to nobody, as UDP has it;
/// and, from Linux 6.8 on, TCP that is bound and does not listen (yet).
const LISTEN: u32 = 1 << 10;
const CLOSE: u32 = 1 << 7;
const BOUND_INACTIVE: u32 = 1 << 13;

/// `INET_DIAG_SKV6ONLY`: whether a socket of IPv6 takes what comes by IPv4 too.
const V6_ONLY: u16 = 11;

/// The kernel fills up to 32 KiB at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// All sockets that take what comes to a port, of every family and protocol that can be published;
/// one of IPv6 that takes IPv4 as well is there twice.
///
/// # Errors
/// The kernel has no `NETLINK_SOCK_DIAG` for a protocol; `Errno::NOENT` is a protocol that is not
/// there at all.
pub(super) fn sockets(protocol: Protocol) -> Result<Vec<Bound>, Errno> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        dump(&socket, family, protocol, &mut found)?;
    }
    Ok(found)
}

fn dump(
    socket: &OwnedFd,
    family: AddressFamily,
    protocol: Protocol,
    found: &mut Vec<Bound>,
) -> Result<(), Errno> {
    send(socket, &request(family, protocol), SendFlags::empty())?;
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        let (_, filled) = recv(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        if read(&buffer[..filled.min(BUFFER_BYTES)], protocol, found)? {
            return Ok(());
        }
    }
}

fn request(family: AddressFamily, protocol: Protocol) -> [u8; HEADER_BYTES + REQUEST_BYTES] {
    let mut request = [0; HEADER_BYTES + REQUEST_BYTES];
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16] = family.as_raw() as u8;
    request[17] = protocol.number();
    let states = match protocol {
        Protocol::Tcp => LISTEN | BOUND_INACTIVE,
        Protocol::Udp => CLOSE,
        Protocol::Sctp => LISTEN | CLOSE,
    };
    request[20..24].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Reads the messages of one answer. True: it was the last one.
fn read(mut rest: &[u8], protocol: Protocol, found: &mut Vec<Bound>) -> Result<bool, Errno> {
    while let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes(*header.first_chunk().expect("16 bytes")) as usize;
        let Some(message) = rest.get(HEADER_BYTES..length) else { return Err(Errno::BADMSG) };
        match u16::from_ne_bytes([header[4], header[5]]) {
            DONE | ERROR => {
                let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return match code {
                    0 => Ok(true),
                    -4095..0 => Err(Errno::from_raw_os_error(-code)),
                    _ => Err(Errno::BADMSG),
                };
            }
            BY_FAMILY => found.extend(answer(message, protocol)?),
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `[family 1|state 1|timer 1|retrans 1|ports 4|source 16|destination 16|interface 4|cookie 8
/// |expires 4|rqueue 4|wqueue 4|uid 4|inode 4]`, then attributes.
fn answer(message: &[u8], protocol: Protocol) -> Result<impl Iterator<Item = Bound>, Errno> {
    let (fixed, attributes) = message.split_first_chunk::<ANSWER_BYTES>().ok_or(Errno::BADMSG)?;
    let is_v6 = i32::from(fixed[0]) == i32::from(AddressFamily::INET6.as_raw());
    let bytes: [u8; 16] = *fixed[8..].first_chunk().expect("72 bytes");
    let address = match is_v6 {
        true => IpAddr::V6(Ipv6Addr::from(bytes)),
        false => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
    };
    let port = u16::from_be_bytes([fixed[4], fixed[5]]);
    let inode = u32::from_ne_bytes(*fixed[68..].first_chunk().expect("72 bytes"));
    let bound = Bound { address, protocol, port, inode: inode.into() };
    let takes_v4 = is_v6 && address.is_unspecified() && !is_v6_only(attributes);
    let other = Bound { address: Ipv4Addr::UNSPECIFIED.into(), ..bound };
    let all = [Some(bound), takes_v4.then_some(other)];
    // One without a port has not been bound.
    Ok(all.into_iter().flatten().filter(|bound| bound.port != 0))
}

/// `[length 2|kind 2|value …]`, each at a multiple of four bytes. What does not say counts as a
/// socket of IPv6 alone.
fn is_v6_only(mut attributes: &[u8]) -> bool {
    while let Some((&[low, high, kind_low, kind_high], _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let Some(value) = attributes.get(4..length) else { return true };
        if u16::from_ne_bytes([kind_low, kind_high]) == V6_ONLY {
            return value.first() != Some(&0);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use proptest::prelude::*;

    fn has(protocol: Protocol, address: &str, port: u16) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let found = sockets(protocol).unwrap();
        found.iter().any(|bound| bound.address == address && bound.port == port)
    }

    #[test]
    fn listeners_and_sockets_that_are_connected_to_nobody_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(has(Protocol::Tcp, "127.0.0.1", port) && !has(Protocol::Udp, "127.0.0.1", port));
        let (one, other) =
            (UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let port = one.local_addr().unwrap().port();
        assert!(has(Protocol::Udp, "::1", port));
        one.connect(other.local_addr().unwrap()).unwrap();
        assert!(!has(Protocol::Udp, "::1", port));
    }

    #[test]
    fn a_socket_of_both_families_is_found_in_both() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(has(Protocol::Tcp, "::", port) && has(Protocol::Tcp, "0.0.0.0", port));
        let only = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        only.set_only_v6(true).unwrap();
        only.bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let port = only.local_addr().unwrap().as_socket().unwrap().port();
        assert!(has(Protocol::Udp, "::", port) && !has(Protocol::Udp, "0.0.0.0", port));
    }

    #[test]
    fn a_protocol_that_the_kernel_does_not_know_is_an_error_and_no_panic() {
        let mut found = Vec::new();
        let mut refused = [0; 20];
        refused[..4].copy_from_slice(&20u32.to_ne_bytes());
        refused[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        refused[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(read(&refused, Protocol::Sctp, &mut found), Err(Errno::NOENT));
        assert_eq!(read(&[], Protocol::Tcp, &mut found), Ok(false));
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..24) {
            let mut message = bytes.clone();
            if message.len() >= HEADER_BYTES {
                let length = message.len() as u32;
                message[..4].copy_from_slice(&length.to_ne_bytes());
                message[4..6].copy_from_slice(&kind.to_ne_bytes());
            }
            for message in [bytes, message] {
                let mut found = Vec::new();
                let _ = read(&message, Protocol::Tcp, &mut found);
                prop_assert!(found.len() <= 4 && found.iter().all(|bound| bound.port != 0));
            }
        }
    }
}
