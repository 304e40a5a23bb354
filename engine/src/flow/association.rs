//! SCTP in the middle: what state an association is in (RFC 9260).
//!
//! It has the states of TCP: INIT is the SYN, INIT ACK the answer, SHUTDOWN the FIN, ABORT the RST.
//! What ends an association must carry the right verification tag, which takes the place of TCP's
//! sequence numbers: an outsider does not know it. A side expects the tag that it chose in its INIT
//! or INIT ACK, or that the other side was first seen with. LIMIT: an association that restarts
//! within its flow has other tags; its end is not seen then, and the flow idles out.

use super::track::{Expected, TcpState};
use crate::wire::{header_at, sctp, u16_at, u32_at};

/// Chunks of a packet that are looked at: those that change a state come first or behind few.
const CHUNKS_MAX: usize = 8;

/// What a packet of an association says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chunks {
    /// The verification tag.
    tag: u32,
    /// Of INIT or INIT ACK: the tag that its sender expects.
    initiate_tag: Option<u32>,
    is_init: bool,
    shuts_down: bool,
    /// ABORT or SHUTDOWN COMPLETE, and whether the tag is reflected.
    aborts: Option<bool>,
    completes: Option<bool>,
    original: bool,
}

impl Chunks {
    /// Reads the packet whose common header is at `l4`.
    pub(crate) fn read(head: &[u8], l4: usize, original: bool) -> Chunks {
        let mut chunks = Chunks { original, ..Chunks::default() };
        let Some(header) = header_at::<{ sctp::HEADER_BYTES }>(head, l4) else { return chunks };
        chunks.tag = u32_at(header, sctp::TAG);
        let mut at = l4 + sctp::HEADER_BYTES;
        for _ in 0..CHUNKS_MAX {
            let Some(chunk) = header_at::<{ sctp::CHUNK_HEADER_BYTES }>(head, at) else { break };
            let reflected = chunk[1] & sctp::REFLECTED != 0;
            match chunk[0] {
                kind @ (sctp::INIT | sctp::INIT_ACK) => {
                    let tag = header_at::<4>(head, at + sctp::CHUNK_HEADER_BYTES);
                    chunks.initiate_tag = tag.map(|tag| u32_at(tag, 0));
                    chunks.is_init = kind == sctp::INIT;
                }
                sctp::ABORT => chunks.aborts = Some(reflected),
                sctp::SHUTDOWN | sctp::SHUTDOWN_ACK => chunks.shuts_down = true,
                sctp::SHUTDOWN_COMPLETE => chunks.completes = Some(reflected),
                _ => {}
            }
            // Chunks are padded to 4 bytes; one that is shorter than its header ends the walk.
            match usize::from(u16_at(chunk, 2)) {
                0..sctp::CHUNK_HEADER_BYTES => break,
                length => at += length.next_multiple_of(4),
            }
        }
        chunks
    }

    /// The state that the first packet of a flow gives.
    pub(crate) fn first(&self) -> (TcpState, Expected) {
        let mut expected = Expected::default();
        match self.initiate_tag.filter(|_| self.is_init) {
            Some(tag) => {
                expected.by_original = tag;
                (TcpState::SynSent, expected)
            }
            None => {
                expected.by_reply = self.tag;
                let over = self.aborts.is_some() || self.completes.is_some();
                (if over { TcpState::Closed } else { TcpState::PickedUp }, expected)
            }
        }
    }

    /// The state after this packet, which may say which tag its sender expects.
    pub(crate) fn after(&self, state: TcpState, expected: &mut Expected) -> TcpState {
        use TcpState::*;
        if self.is_init {
            return self.after_init(state, expected);
        }
        let (own, of_receiver) = match self.original {
            true => (expected.by_original, expected.by_reply),
            false => (expected.by_reply, expected.by_original),
        };
        let fits = |reflected: bool| {
            self.tag != 0 && self.tag == if reflected { own } else { of_receiver }
        };
        if let Some(reflected) = self.aborts {
            return if fits(reflected) { Closed } else { state };
        }
        if let Some(reflected) = self.completes {
            return if fits(reflected) { TimeWait } else { state };
        }
        if of_receiver == 0 {
            // Picked up in the middle: the first packet of the other side tells.
            match self.original {
                true => expected.by_reply = self.tag,
                false => expected.by_original = self.tag,
            }
        } else if !fits(false) {
            return state;
        }
        if let (Some(tag), SynSent, false) = (self.initiate_tag, state, self.original) {
            expected.by_reply = tag;
            return SynReceived;
        }
        match (state, self.original) {
            (FinReply | TimeWait, true) | (FinOriginal | TimeWait, false) if self.shuts_down => {
                TimeWait
            }
            (_, true) if self.shuts_down => FinOriginal,
            (_, false) if self.shuts_down => FinReply,
            // COOKIE ACK, or anything behind it.
            (SynReceived | PickedUp, false) => Established,
            (Closed, _) => PickedUp,
            (state, _) => state,
        }
    }

    fn after_init(&self, state: TcpState, expected: &mut Expected) -> TcpState {
        use TcpState::*;
        let Some(tag) = self.initiate_tag else { return state };
        match (state, self.original) {
            (SynSent | TimeWait | Closed, true) => {
                *expected = Expected { by_original: tag, by_reply: 0 };
                SynSent
            }
            // Both asked at once (RFC 9260 section 5.2.1), or the other side begins again.
            (SynSent | TimeWait | Closed, false) => {
                expected.by_reply = tag;
                SynReceived
            }
            (state, _) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with these chunks, each of a type, flags and four bytes of value.
    fn packet(tag: u32, chunks: &[(u8, u8, u32)], original: bool) -> Chunks {
        let mut bytes = vec![0; sctp::HEADER_BYTES];
        bytes[4..8].copy_from_slice(&tag.to_be_bytes());
        for (kind, flags, value) in chunks {
            bytes.extend([*kind, *flags, 0, 8]);
            bytes.extend(value.to_be_bytes());
        }
        Chunks::read(&bytes, 0, original)
    }

    const DATA: u8 = 0;
    const COOKIE_ECHO: u8 = 10;
    const COOKIE_ACK: u8 = 11;

    fn open() -> (TcpState, Expected) {
        let (mut state, mut expected) = packet(0, &[(sctp::INIT, 0, 111)], true).first();
        assert_eq!(state, TcpState::SynSent);
        for (packet, after) in [
            (packet(111, &[(sctp::INIT_ACK, 0, 222)], false), TcpState::SynReceived),
            (packet(222, &[(COOKIE_ECHO, 0, 0)], true), TcpState::SynReceived),
            (packet(111, &[(COOKIE_ACK, 0, 0)], false), TcpState::Established),
        ] {
            state = packet.after(state, &mut expected);
            assert_eq!(state, after);
        }
        (state, expected)
    }

    #[test]
    fn an_association_opens_and_closes() {
        let (mut state, mut expected) = open();
        assert_eq!(expected, Expected { by_original: 111, by_reply: 222 });
        for (packet, after) in [
            (packet(222, &[(DATA, 0, 0)], true), TcpState::Established),
            (packet(222, &[(sctp::SHUTDOWN, 0, 0)], true), TcpState::FinOriginal),
            (packet(111, &[(sctp::SHUTDOWN_ACK, 0, 0)], false), TcpState::TimeWait),
            (packet(222, &[(sctp::SHUTDOWN_COMPLETE, 0, 0)], true), TcpState::TimeWait),
            (packet(0, &[(sctp::INIT, 0, 333)], true), TcpState::SynSent),
        ] {
            state = packet.after(state, &mut expected);
            assert_eq!(state, after);
        }
    }

    #[test]
    fn an_abort_needs_the_right_tag() {
        for (tag, flags, ends) in
            [(111, 0, true), (222, 1, true), (222, 0, false), (111, 1, false), (0, 0, false)]
        {
            let (state, mut expected) = open();
            let abort = packet(tag, &[(9, 0, 0), (sctp::ABORT, flags, 0)], false);
            let after = abort.after(state, &mut expected);
            let wanted = if ends { TcpState::Closed } else { TcpState::Established };
            assert_eq!(after, wanted, "tag {tag}, flags {flags}");
        }
    }

    #[test]
    fn an_association_is_picked_up_in_the_middle() {
        let (state, mut expected) = packet(222, &[(DATA, 0, 0)], true).first();
        assert_eq!(state, TcpState::PickedUp);
        let state = packet(111, &[(DATA, 0, 0)], false).after(state, &mut expected);
        assert_eq!(state, TcpState::Established);
        assert_eq!(expected, Expected { by_original: 111, by_reply: 222 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200), original: bool) {
            let chunks = Chunks::read(&bytes, 0, original);
            let (state, mut expected) = chunks.first();
            chunks.after(state, &mut expected);
        }
    }
}
