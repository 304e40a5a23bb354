//! What simulated hosts say to each other: bytes that name their conversation and check
//! themselves.
//!
//! Every question has a nonce of its own, and every byte after it follows from the nonce, so
//! whoever gets a payload knows which question it belongs to and whether a single bit is wrong.
//! Lengths of TCP streams follow from the nonce too: both ends know them without a word.
//!
//! `[magic 8 | nonce 8 | flags 1 | zero 3 | length 4 | bytes that follow from the nonce]`

use super::frames::{be32, be64};
use super::rng::mix;

const MAGIC: &[u8; 8] = b"portolan";

/// Bytes before the pattern, and so the shortest payload.
pub(super) const HEADER_BYTES: usize = 24;

/// The payload is an answer.
pub(super) const REPLY: u8 = 1;

/// The question was sent over UDP without a checksum, and must arrive so.
pub(super) const NO_CHECKSUM: u8 = 2;

/// What a payload says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) nonce: u64,
    pub(super) flags: u8,
    /// Length of the whole payload by its own word.
    pub(super) bytes: usize,
}

impl Payload {
    /// The payload's bytes.
    pub(super) fn build(&self) -> Vec<u8> {
        assert!(self.bytes >= HEADER_BYTES, "a payload holds its header");
        let mut payload = Vec::with_capacity(self.bytes);
        payload.extend_from_slice(MAGIC);
        payload.extend_from_slice(&self.nonce.to_be_bytes());
        payload.extend_from_slice(&[self.flags, 0, 0, 0]);
        payload.extend_from_slice(&(self.bytes as u32).to_be_bytes());
        payload.extend((HEADER_BYTES..self.bytes).map(|at| stream_byte(self.nonce, 0, at as u64)));
        payload
    }

    /// Reads a payload's head. `None`: it is not one of ours.
    pub(super) fn read(payload: &[u8]) -> Option<Payload> {
        if payload.len() < HEADER_BYTES || &payload[..8] != MAGIC {
            return None;
        }
        let (nonce, bytes) = (be64(payload, 8), be32(payload, 20) as usize);
        Some(Payload { nonce, flags: payload[16], bytes })
    }

    /// Says whether `payload`, from which this was read, is as it was built.
    pub(super) fn is_intact(&self, payload: &[u8]) -> bool {
        payload.len() == self.bytes && payload == self.build()
    }
}

/// A byte of a stream: `direction` is 0 for client to server, 1 for server to client.
pub(super) fn stream_byte(nonce: u64, direction: u64, at: u64) -> u8 {
    (mix(nonce ^ direction << 63 ^ (at / 8) << 32) >> (at % 8 * 8)) as u8
}

/// A nonce for a TCP connection with streams of these lengths.
pub(super) fn tcp_nonce(serial: u32, request_bytes: u16, response_bytes: u16) -> u64 {
    u64::from(serial) | u64::from(request_bytes) << 32 | u64::from(response_bytes) << 48
}

/// Bytes that the connection's client (`direction` 0) or server (1) sends.
pub(super) fn stream_bytes(nonce: u64, direction: u64) -> u64 {
    nonce >> (32 + direction * 16) & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_any_change() {
        let payload = Payload { nonce: 77, flags: REPLY, bytes: 100 };
        let mut bytes = payload.build();
        assert_eq!(Payload::read(&bytes), Some(payload));
        assert!(payload.is_intact(&bytes));
        bytes[60] ^= 1;
        assert!(!Payload::read(&bytes).unwrap().is_intact(&bytes));
        assert!(!payload.is_intact(&bytes[..99]));
        assert_eq!(Payload::read(b"something else entirely, of some length"), None);
    }

    #[test]
    fn a_tcp_nonce_holds_both_lengths() {
        let nonce = tcp_nonce(5, 1_000, 60_000);
        assert_eq!((stream_bytes(nonce, 0), stream_bytes(nonce, 1)), (1_000, 60_000));
    }
}
