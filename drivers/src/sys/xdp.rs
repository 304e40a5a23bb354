//! Socket options of AF_XDP that have no safe form, and the registration of the packet memory.
//!
//! The hard constraint: the kernel writes into registered memory whenever it likes, but only into
//! chunks that a ring gave it; see `lend` for who may touch a chunk then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use engine::frame::CHUNK_BYTES;
use rustix::io::Errno;
use rustix::net::sockopt::set_xdp_umem_reg;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};

use super::region::Region;

/// `XDP_MAX_TX_SKB_BUDGET` (linux/if_xdp.h, since 6.17): frames that one call sends in copy mode.
const TX_BUDGET: libc::c_int = 9;

/// `struct packet_mreq`.
#[repr(C)]
struct Membership {
    interface: libc::c_int,
    kind: libc::c_ushort,
    address_bytes: libc::c_ushort,
    address: [u8; 8],
}

/// Lets the kernel use the region's chunks with this socket, and those that share with it.
pub(crate) fn register(socket: BorrowedFd<'_>, region: &Region) -> Result<(), Errno> {
    let chunks = XdpUmemReg {
        addr: region.base() as u64,
        len: (region.chunk_count() * CHUNK_BYTES) as u64,
        chunk_size: CHUNK_BYTES as u32,
        // The kernel's own 256 bytes before a packet are the engine's headroom.
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    set_xdp_umem_reg(socket, chunks)
}

/// Has one call send up to so many frames in copy mode. Kernels before 6.17 send 32 and refuse.
pub(crate) fn set_tx_budget(socket: BorrowedFd<'_>, frames: u32) -> Result<(), Errno> {
    set_option(socket, libc::SOL_XDP, TX_BUDGET, &frames)
}

/// Has a device of the socket's namespace take frames to all MAC addresses while this packet socket
/// is open.
pub(crate) fn set_promiscuous(socket: BorrowedFd<'_>, interface: u32) -> Result<(), Errno> {
    let membership = Membership {
        interface: interface as libc::c_int,
        kind: libc::PACKET_MR_PROMISC as libc::c_ushort,
        address_bytes: 0,
        address: [0; 8],
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
}

fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> Result<(), Errno> {
    let bytes = size_of::<T>() as libc::socklen_t;
    let value = ptr::from_ref(value).cast();
    // SAFETY: the kernel reads `bytes` bytes at the pointer, which points to a live `T` of that
    // size without padding that could be unset.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, bytes) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_socket_of_another_kind_refuses_each_option() {
        let (socket, _other) = UnixDatagram::pair().unwrap();
        let (region, _frames, _) = Region::new(2, 0).unwrap();
        assert!(register(socket.as_fd(), &region).is_err());
        assert!(set_tx_budget(socket.as_fd(), 64).is_err());
        assert!(set_promiscuous(socket.as_fd(), 1).is_err());
    }
}
