//! Netlink socket calls that have no safe form: options, a namespace's cookie, and receiving with
//! the number of the namespace that a message comes from.
//!
//! The hard constraint: what the kernel writes is bounded by the lengths that we pass, and those
//! are the lengths of the memory behind the pointers.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

/// Sets an option of `SOL_NETLINK` that is an int.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    let value_bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `value_bytes` bytes at the pointer, which points to one int.
    let result = unsafe {
        let value = ptr::from_ref(&value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, value, value_bytes)
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// The cookie of the network namespace that a socket is in: no other namespace has or had it since
/// the machine started.
pub(crate) fn namespace_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut cookie_bytes = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `cookie_bytes` bytes at the first pointer, which points to
    // a u64, and the length at the second; any bytes are a valid u64.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &mut cookie_bytes,
        )
    };
    match result {
        0 if cookie_bytes as usize == size_of::<u64>() => Ok(cookie),
        0 => Err(Errno::BADMSG),
        _ => Err(last_error()),
    }
}

/// Room for one control message with an int.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Takes one message that waits. Returns its length, which is larger than the buffer if it was cut
/// off, and the number of the namespace that it comes from; `None` is the socket's own.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Option<i32>), Errno> {
    let mut control = Control([0; 64]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a `msghdr` of zeros is valid: no name, no slices, no control messages.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `slice` and `control` are live memory of ours with the lengths that are given, and
    // nothing else refers to them during the call.
    let message_len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) };
    if message_len < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has filled `control` with `msg_controllen` bytes of whole control
    // messages; the macros stay within them. The data of the wanted kind is an int, which may lie
    // unaligned and is copied out.
    let number = unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        let is_number = !message.is_null()
            && (*message).cmsg_level == libc::SOL_NETLINK
            && (*message).cmsg_type == libc::NETLINK_LISTEN_ALL_NSID
            && (*message).cmsg_len >= libc::CMSG_LEN(size_of::<i32>() as u32) as usize;
        is_number.then(|| libc::CMSG_DATA(message).cast::<i32>().read_unaligned())
    };
    Ok((message_len as usize, number))
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_message_comes_with_its_length_and_without_a_number() {
        let (one, other) = UnixDatagram::pair().unwrap();
        one.send(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(other.as_fd(), &mut buffer), Ok((5, None)));
        assert_eq!(&buffer[..5], b"hello");
        one.send(&[7; 40]).unwrap();
        assert_eq!(receive(other.as_fd(), &mut buffer), Ok((40, None)));
        assert_eq!(receive(other.as_fd(), &mut buffer), Err(Errno::AGAIN));
    }

    #[test]
    fn what_is_no_netlink_socket_refuses_the_option() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        assert!(set_option(one.as_fd(), libc::NETLINK_LISTEN_ALL_NSID, 1).is_err());
    }

    #[test]
    fn every_socket_of_a_namespace_has_its_cookie() {
        let (one, other) = UnixDatagram::pair().unwrap();
        let cookie = namespace_cookie(one.as_fd()).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(namespace_cookie(other.as_fd()), Ok(cookie));
    }
}
