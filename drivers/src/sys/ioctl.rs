//! The four ioctls that make a TAP queue and say whether its device outlives it.
//!
//! The hard constraint: the type behind each request number is what the kernel's `tun.c` reads and
//! writes for it, or the kernel writes past our memory. Everything else that a device needs goes by
//! rtnetlink (`link.rs`), which needs no unsafe code.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl};

/// Longest device name and its NUL, in bytes (`IFNAMSIZ`).
pub(crate) const NAME_BYTES: usize = libc::IFNAMSIZ;

const TUNSETIFF: Opcode = libc::TUNSETIFF as Opcode;
const TUNSETOFFLOAD: Opcode = libc::TUNSETOFFLOAD as Opcode;
const TUNSETPERSIST: Opcode = libc::TUNSETPERSIST as Opcode;
const TUNSETVNETHDRSZ: Opcode = libc::TUNSETVNETHDRSZ as Opcode;

/// `struct ifreq` as `TUNSETIFF` uses it: a name, and flags in a union of 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(
    size_of::<InterfaceRequest>() >= size_of::<libc::ifreq>(),
    "the kernel copies a whole ifreq in and out"
);

/// Makes a device, or joins one, with this descriptor as its queue. `name` may be a pattern with
/// `%d`. Returns the device's name.
pub(crate) fn attach(file: BorrowedFd<'_>, name: &str, flags: u16) -> Result<String, Errno> {
    let mut request = InterfaceRequest { name: [0; NAME_BYTES], flags, rest: [0; 22] };
    if name.len() >= NAME_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` at the pointer; `InterfaceRequest` is
    // at least as large (asserted above), lives until the call returns, and any bytes are a valid
    // value of its fields.
    unsafe { ioctl(file, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }?;
    let name_len = request.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
    Ok(String::from_utf8_lossy(&request.name[..name_len]).into_owned())
}

/// Says which work we take from the kernel (`TUN_F_*`). Belongs to the device, not the descriptor.
pub(crate) fn set_offload(file: BorrowedFd<'_>, mask: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes the mask itself as its argument and follows no pointer; a bit
    // that the kernel does not know makes it return EINVAL.
    unsafe { ioctl(file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(mask as usize)) }
}

/// Has the descriptor's device stay when its last queue is closed.
pub(crate) fn set_persistent(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes a truth value itself as its argument and follows no pointer.
    unsafe { ioctl(file, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }
}

/// Sets the size of the vnet header, in bytes, for this descriptor's device.
pub(crate) fn set_vnet_header_bytes(
    file: BorrowedFd<'_>,
    header_bytes: usize,
) -> Result<(), Errno> {
    let value = header_bytes as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int at the pointer, and `Setter` points to one.
    unsafe { ioctl(file, Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(value)) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_that_is_no_tap_refuses_each_call() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(attach(file.as_fd(), "x", 0).unwrap_err(), Errno::NOTTY);
        assert_eq!(set_offload(file.as_fd(), 0).unwrap_err(), Errno::NOTTY);
        assert_eq!(set_persistent(file.as_fd()).unwrap_err(), Errno::NOTTY);
        assert_eq!(set_vnet_header_bytes(file.as_fd(), 12).unwrap_err(), Errno::NOTTY);
    }

    #[test]
    fn a_name_too_long_never_reaches_the_kernel() {
        let file = File::open("/dev/null").unwrap();
        let error = attach(file.as_fd(), "0123456789abcdef", 0).unwrap_err();
        assert_eq!(error, Errno::NAMETOOLONG);
    }
}
