//! The program that leads a device's packets to our sockets, as instructions.
//!
//! It is short enough to be read: no compiler, no object file. The hard constraint: what it does
//! not want, or has no socket for, goes on to the kernel's stack as if it were not there.

use crate::sys::bpf::Instruction;

/// `XDP_PASS` (`enum xdp_action`, linux/bpf.h).
const PASS: i32 = 2;

/// `BPF_FUNC_redirect_map`.
const REDIRECT_MAP: i32 = 51;

/// `BPF_PSEUDO_MAP_FD`: the constant is a map's descriptor.
const MAP_DESCRIPTOR: u8 = 1;

/// Instruction codes (linux/bpf.h, linux/bpf_common.h).
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_CONSTANT: u8 = 0x18;
pub(super) const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const JUMP_IF_GREATER: u8 = 0x2d;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP: u8 = 0x05;
pub(super) const CALL: u8 = 0x85;
pub(super) const EXIT: u8 = 0x95;

/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

/// Which of a device's packets are ours; all others stay with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpTake {
    /// All of them: the device has no other use.
    All,
    /// IPv4, ARP and IPv6, untagged.
    Ip,
}

/// The program for a map of sockets, by its descriptor.
pub(super) fn instructions(take: XdpTake, map: i32) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    };
    // EtherTypes as a program reads them on a little-endian machine.
    let ether_type = |number: u16| i32::from(u16::from_ne_bytes(number.to_be_bytes()));
    let choose = [
        op(LOAD_WORD, 2, 1, DATA, 0),
        op(LOAD_WORD, 3, 1, DATA_END, 0),
        op(MOVE_REGISTER, 4, 2, 0, 0),
        op(ADD, 4, 0, 0, 14),
        // Shorter than an Ethernet header.
        op(JUMP_IF_GREATER, 4, 3, 4, 0),
        op(LOAD_HALF, 5, 2, 12, 0),
        op(JUMP_IF_EQUAL, 5, 0, 4, ether_type(0x0800)),
        op(JUMP_IF_EQUAL, 5, 0, 3, ether_type(0x86dd)),
        op(JUMP_IF_EQUAL, 5, 0, 2, ether_type(0x0806)),
        op(MOVE, 0, 0, 0, PASS),
        op(EXIT, 0, 0, 0, 0),
    ];
    let redirect = [
        op(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        op(LOAD_CONSTANT, 1, MAP_DESCRIPTOR, 0, map),
        op(0, 0, 0, 0, 0),
        op(MOVE, 3, 0, 0, PASS),
        op(CALL, 0, 0, 0, REDIRECT_MAP),
        op(EXIT, 0, 0, 0, 0),
    ];
    debug_assert!(choose.iter().all(|instruction| instruction.code != JUMP));
    match take {
        XdpTake::All => redirect.to_vec(),
        XdpTake::Ip => choose.into_iter().chain(redirect).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_leads_to_the_refusal_or_to_the_redirection() {
        let program = instructions(XdpTake::Ip, 7);
        assert_eq!(program.len(), 17);
        let refusal = program.iter().position(|at| at.code == MOVE).unwrap();
        let redirection = refusal + 2;
        for (index, instruction) in program.iter().enumerate() {
            let target = (index as i64 + 1 + i64::from(instruction.offset)) as usize;
            match instruction.code {
                JUMP_IF_GREATER => assert_eq!(target, refusal),
                JUMP_IF_EQUAL => assert_eq!(target, redirection),
                _ => {}
            }
        }
        assert_eq!(program[redirection..], instructions(XdpTake::All, 7));
    }
}
