//! The four calls of bpf(2) that put a program onto a device: make a map, fill it, load the
//! program, attach it by a link.
//!
//! What they make are descriptors, and nothing else keeps it: when the last one is closed (by the
//! end of the process too, whatever ended it) the program leaves the device. The hard constraint:
//! each attribute structure is what the kernel reads for its command, and pointers in it are live
//! during the call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Commands (`enum bpf_cmd`, linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_MAP_TYPE_XSKMAP`.
const MAP_TYPE_XSKMAP: u32 = 17;

/// `BPF_F_XDP_HAS_FRAGS`: the program takes packets of several buffers.
const PROGRAM_FRAGS: u32 = 1 << 5;

/// What a program is for, and so where it can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Before the stack, by packets of one buffer.
    Xdp,
    /// The same, by packets of several buffers as well.
    XdpFrags,
    /// What comes into the stack by a device (tcx, since Linux 6.6).
    Ingress,
}

impl Program {
    /// Its type and its place (`enum bpf_prog_type`, `enum bpf_attach_type`), flags and name.
    fn attributes(self) -> (u32, u32, u32, &'static str) {
        match self {
            Program::Xdp => (6, 37, 0, "portolan_rx"),
            Program::XdpFrags => (6, 37, PROGRAM_FRAGS, "portolan_rx"),
            Program::Ingress => (3, 46, 0, "portolan_relay"),
        }
    }
}

/// Room for what the verifier says about a program that it refuses, in bytes.
const LOG_BYTES: usize = 16 * 1024;

/// One instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    /// What to do.
    pub(crate) code: u8,
    /// Destination register in the low half, source register in the high half.
    pub(crate) registers: u8,
    /// Offset of a jump or a memory access.
    pub(crate) offset: i16,
    /// Constant.
    pub(crate) immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8, "as the kernel has it");

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach: u32,
    flags: u32,
    rest: [u64; 4],
}

fn bpf<A>(command: libc::c_int, attributes: &mut A) -> Result<libc::c_long, Errno> {
    let bytes = size_of::<A>() as libc::c_uint;
    // SAFETY: the kernel reads (and for some commands writes) at most `bytes` bytes at the pointer,
    // which points to a live `A` of that size; the callers see to it that the pointers in it are
    // live, with the lengths that stand beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut A, bytes) };
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// The descriptor that a call gave.
fn descriptor(number: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor for us (with CLOEXEC, as all of bpf(2)), and
    // nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(number as libc::c_int) }
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..text.len().min(15)].copy_from_slice(&text.as_bytes()[..text.len().min(15)]);
    name
}

/// Makes a map from queue numbers to AF_XDP sockets.
pub(crate) fn create_socket_map(queue_count: usize) -> Result<OwnedFd, Errno> {
    let mut attributes = MapCreate {
        map_type: MAP_TYPE_XSKMAP,
        key_bytes: 4,
        value_bytes: 4,
        entries_max: queue_count as u32,
        flags: 0,
        inner_map: 0,
        numa_node: 0,
        name: name("portolan_queues"),
    };
    bpf(MAP_CREATE, &mut attributes).map(descriptor)
}

/// Has the map lead a queue's packets to a socket, which is bound to that queue.
pub(crate) fn set_socket(
    map: BorrowedFd<'_>,
    queue: usize,
    socket: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let (key, value) = (queue as u32, socket.as_raw_fd());
    let mut attributes = MapElement {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Has the map lead a queue's packets nowhere.
pub(crate) fn clear_socket(map: BorrowedFd<'_>, queue: usize) -> Result<(), Errno> {
    let key = queue as u32;
    let mut attributes = MapElement {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const key).addr() as u64,
        value: 0,
        flags: 0,
    };
    bpf(MAP_DELETE_ELEM, &mut attributes).map(drop)
}

/// Loads a program. With an error comes what the verifier says about it.
pub(crate) fn load(
    instructions: &[Instruction],
    kind: Program,
) -> Result<OwnedFd, (Errno, String)> {
    let (program_type, expected_attach, flags, text) = kind.attributes();
    let attributes = |log: &mut [u8]| ProgramLoad {
        program_type,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_bytes: log.len() as u32,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr().addr() as u64 },
        kernel_version: 0,
        flags,
        name: name(text),
        interface: 0,
        expected_attach,
    };
    match bpf(PROG_LOAD, &mut attributes(&mut [])) {
        Ok(number) => Ok(descriptor(number)),
        Err(errno) => {
            // Once more with a log, which costs nothing in the good case this way.
            let mut log = vec![0; LOG_BYTES];
            if let Ok(number) = bpf(PROG_LOAD, &mut attributes(&mut log)) {
                return Ok(descriptor(number));
            }
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(0);
            Err((errno, String::from_utf8_lossy(&log[..end]).trim_end().to_owned()))
        }
    }
}

/// Attaches a program to a device of the calling thread's namespace; it stays for as long as the
/// link is open. `flags` are `XDP_FLAGS_*`, or none.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    interface: u32,
    kind: Program,
    flags: u32,
) -> Result<OwnedFd, Errno> {
    let program = program.as_raw_fd() as u32;
    let (_, attach, _, _) = kind.attributes();
    let mut attributes = LinkCreate { program, interface, attach, flags, rest: [0; 4] };
    bpf(LINK_CREATE, &mut attributes).map(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_no_map_and_no_program_is_refused() {
        let file = File::open("/dev/null").unwrap();
        // Without rights the kernel says so first.
        let refusals = [Errno::INVAL, Errno::PERM, Errno::BADF];
        assert!(refusals.contains(&set_socket(file.as_fd(), 0, file.as_fd()).unwrap_err()));
        assert!(refusals.contains(&clear_socket(file.as_fd(), 0).unwrap_err()));
        assert!(refusals.contains(&attach(file.as_fd(), 1, Program::Xdp, 0).unwrap_err()));
        assert!(load(&[], Program::Xdp).is_err());
    }

    #[test]
    fn a_long_name_is_cut_and_ends_with_a_zero() {
        assert_eq!(name("abcdefghijklmnopqrstuvwxyz"), *b"abcdefghijklmno\0");
    }
}
