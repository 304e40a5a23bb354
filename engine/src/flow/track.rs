//! Step 4: what state a flow is in, and how long it may be idle.
//!
//! ```text
//!              original SYN              reply SYN, SYN+ACK            original ACK
//!   (no flow) ------------> SynSent ---------------> SynReceived -------------> Established
//!   (no flow) -- any other segment --> PickedUp -- any segment of the reply side --> Established
//!   any state -- FIN of one side --> FinOriginal | FinReply -- FIN of the other --> TimeWait
//!   any state -- RST --> Closed -- any segment without RST and SYN --> PickedUp
//!   TimeWait, Closed -- SYN --> SynSent (of the original side) | SynReceived (of the other)
//! ```
//!
//! What changes a state must fit the sequence numbers, or anybody who guesses addresses and ports
//! could end a flow that both ends keep (RFC 5961). For that a side keeps one number: what it
//! expects next of the other, which is its last acknowledgement. The endpoints get every segment
//! and judge for themselves; only our state ignores what does not fit. A reset that does fit ends a
//! flow no sooner than RFC 7857 section 2.2 allows, and a segment that shows that the connection is
//! alive takes it back.
//!
//! A packet without SYN, FIN or RST in an established flow changes nothing but that number, which
//! is the fast path's only question.

use std::time::Duration;

use crate::limits::Timeouts;
use crate::wire::{header_at, protocol, tcp, u32_at};

/// How far a sequence number may lie from what the other side has acknowledged: what is under way.
/// Larger windows are rare; where one is used and its reset is ignored, the flow idles out. A
/// larger number would make guessing easier: this one takes 16,384 tries.
const WINDOW_BYTES: i32 = 1 << 18;

/// State of a connection as seen in the middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// Not TCP.
    #[default]
    None,
    /// Open, both directions.
    Established,
    /// The original side asked.
    SynSent,
    /// The reply side agreed, or asked at the same time.
    SynReceived,
    /// Begun before we saw it, and not answered yet.
    PickedUp,
    /// The original side has finished.
    FinOriginal,
    /// The reply side has finished.
    FinReply,
    /// Both sides have finished.
    TimeWait,
    /// Ended by a reset.
    Closed,
}

/// What a TCP segment says about its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// It comes from the side that began.
    pub(crate) original: bool,
}

/// The sequence number that each side expects next of the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) by_original: u32,
    pub(crate) by_reply: u32,
}

impl Segment {
    /// The segment whose header is at `l4`. Of a packet without one, all numbers are 0.
    pub(crate) fn read(head: &[u8], l4: usize, flags: u8, original: bool) -> Segment {
        let header = header_at::<{ tcp::HEADER_BYTES }>(head, l4);
        let number = |offset| header.map_or(0, |header| u32_at(header, offset));
        Segment {
            flags,
            sequence: number(tcp::SEQUENCE),
            acknowledgement: number(tcp::ACKNOWLEDGEMENT),
            original,
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Expected {
    /// What the sender of a segment expects.
    fn by_sender(&mut self, segment: &Segment) -> &mut u32 {
        match segment.original {
            true => &mut self.by_original,
            false => &mut self.by_reply,
        }
    }

    /// How far ahead of what its receiver expects a segment is.
    fn ahead(&self, segment: &Segment) -> i32 {
        let expected = if segment.original { self.by_reply } else { self.by_original };
        segment.sequence.wrapping_sub(expected) as i32
    }

    /// True for a segment that may be under way: its receiver expects one not far from it.
    pub(crate) fn is_near(&self, segment: &Segment) -> bool {
        (-WINDOW_BYTES..=WINDOW_BYTES).contains(&self.ahead(segment))
    }

    fn takes_fin(&self, segment: &Segment) -> bool {
        self.is_near(segment)
    }

    /// A SYN says where its sender's numbers begin.
    fn begin(&mut self, segment: &Segment) {
        let first = segment.sequence.wrapping_add(1);
        match segment.original {
            true => self.by_reply = first,
            false => self.by_original = first,
        }
    }
}

impl TcpState {
    const ALL: [TcpState; 9] = [
        TcpState::None,
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynReceived,
        TcpState::PickedUp,
        TcpState::FinOriginal,
        TcpState::FinReply,
        TcpState::TimeWait,
        TcpState::Closed,
    ];

    /// The state with this number.
    pub(crate) fn of(number: u8) -> TcpState {
        TcpState::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The state that the first packet of a TCP flow gives, and what it says about numbers.
    pub(crate) fn first(segment: &Segment) -> (TcpState, Expected) {
        if segment.has(tcp::SYN) && !segment.has(tcp::ACK) {
            let mut expected = Expected::default();
            expected.begin(segment);
            return (TcpState::SynSent, expected);
        }
        let expected =
            Expected { by_original: segment.acknowledgement, by_reply: segment.sequence };
        match segment.has(tcp::RST) {
            true => (TcpState::Closed, expected),
            false => (TcpState::PickedUp, expected),
        }
    }

    /// True if a packet with these flags leaves the state as it is.
    pub(crate) fn keeps(self, flags: u8) -> bool {
        self.is_settled() && flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0
    }

    /// True if a packet without SYN, FIN and RST leaves the state as it is.
    #[inline(always)]
    pub(crate) fn is_settled(self) -> bool {
        self as u8 <= TcpState::Established as u8
    }

    /// True before both sides have agreed.
    pub(crate) fn is_opening(self) -> bool {
        matches!(self, TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp)
    }

    /// True when nothing more is to come.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, TcpState::TimeWait | TcpState::Closed)
    }

    /// The state after a segment, which also says what its sender expects.
    pub(crate) fn after(self, segment: &Segment, expected: &mut Expected) -> TcpState {
        use TcpState::*;
        if self == None {
            return None;
        }
        if segment.has(tcp::RST) {
            return if self.takes_reset(segment, expected) { Closed } else { self };
        }
        if segment.has(tcp::SYN) {
            return self.after_syn(segment, expected);
        }
        let ends = segment.has(tcp::FIN);
        let takes_fin = ends && expected.takes_fin(segment);
        // The short way notes the number of every segment that it takes.
        if segment.has(tcp::ACK) || self.keeps(segment.flags) {
            *expected.by_sender(segment) = segment.acknowledgement;
        }
        match (self, segment.original) {
            (state, _) if ends && !takes_fin => state,
            (FinReply | TimeWait, true) | (FinOriginal | TimeWait, false) if ends => TimeWait,
            (Closed, _) if ends => Closed,
            (_, true) if ends => FinOriginal,
            (_, false) if ends => FinReply,
            // Data or an ACK from the side that asked means that it saw the connection open.
            (SynReceived, true) if segment.has(tcp::ACK) => Established,
            (PickedUp, false) => Established,
            // RFC 7857 section 2.2: the connection lives in spite of the reset.
            (Closed, _) => PickedUp,
            (state, _) => state,
        }
    }

    /// RFC 5961 section 3: a reset must fit. In the middle it fits if it is what the other side
    /// expects, or what may be under way behind that.
    fn takes_reset(self, segment: &Segment, expected: &Expected) -> bool {
        match (self, segment.original) {
            // RFC 9293 section 3.5.2: the answer to a SYN acknowledges it.
            (TcpState::SynSent, false) => {
                segment.has(tcp::ACK) && segment.acknowledgement == expected.by_reply
            }
            _ => (0..=WINDOW_BYTES).contains(&expected.ahead(segment)),
        }
    }

    fn after_syn(self, segment: &Segment, expected: &mut Expected) -> TcpState {
        use TcpState::*;
        match (self, segment.original, segment.has(tcp::ACK)) {
            (SynSent | TimeWait | Closed, true, false) => {
                expected.begin(segment);
                SynSent
            }
            (SynSent, false, true) if segment.acknowledgement != expected.by_reply => SynSent,
            // Agreed; or simultaneous open (RFC 5382 REQ-2), or a tuple that the other side reuses.
            (SynSent | SynReceived, false, _) | (TimeWait | Closed, false, false) => {
                expected.begin(segment);
                SynReceived
            }
            (SynReceived, true, _) => {
                expected.begin(segment);
                SynReceived
            }
            // A late one, or one that somebody made up: RFC 5961 section 4 leaves it to the ends.
            (state, ..) => state,
        }
    }

    /// How long a flow in this state may be idle.
    pub(crate) fn timeout(self, protocol: u8, timeouts: &Timeouts) -> Duration {
        match self {
            TcpState::Established if protocol == protocol::SCTP => timeouts.sctp_established,
            TcpState::None => match protocol {
                protocol::UDP => timeouts.udp,
                protocol::ICMP | protocol::ICMPV6 => timeouts.icmp,
                _ => timeouts.other,
            },
            _ if protocol == protocol::SCTP => timeouts.sctp_transitory,
            TcpState::Established => timeouts.tcp_established,
            TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp => timeouts.tcp_opening,
            TcpState::FinOriginal | TcpState::FinReply => timeouts.tcp_closing,
            TcpState::TimeWait => timeouts.tcp_time_wait,
            TcpState::Closed => timeouts.tcp_reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of the original side begin at 1,000, those of the other at 9,000.
    fn segment(flags: u8, original: bool, sequence: u32, acknowledgement: u32) -> Segment {
        Segment { flags, sequence, acknowledgement, original }
    }

    fn established() -> (TcpState, Expected) {
        (TcpState::Established, Expected { by_original: 9_001, by_reply: 1_001 })
    }

    /// The states that segments lead to, from the first one on.
    fn states(segments: &[Segment]) -> Vec<TcpState> {
        let (mut state, mut expected) = TcpState::first(&segments[0]);
        let mut states = vec![state];
        for segment in &segments[1..] {
            state = state.after(segment, &mut expected);
            states.push(state);
        }
        states
    }

    #[test]
    fn a_connection_opens_and_closes() {
        use TcpState::*;
        let seen = states(&[
            segment(tcp::SYN, true, 1_000, 0),
            segment(tcp::SYN | tcp::ACK, false, 9_000, 1_001),
            segment(tcp::ACK, true, 1_001, 9_001),
            segment(tcp::ACK | tcp::PSH, false, 9_001, 1_001),
            segment(tcp::FIN | tcp::ACK, false, 9_101, 1_001),
            segment(tcp::ACK, true, 1_001, 9_102),
            segment(tcp::FIN | tcp::ACK, true, 1_001, 9_102),
            segment(tcp::ACK, false, 9_102, 1_002),
            segment(tcp::SYN, true, 70_000, 0),
            segment(tcp::RST | tcp::ACK, false, 0, 70_001),
        ]);
        let expected = [
            SynSent,
            SynReceived,
            Established,
            Established,
            FinReply,
            FinReply,
            TimeWait,
            TimeWait,
            SynSent,
            Closed,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn both_sides_may_open_at_once() {
        use TcpState::*;
        let seen = states(&[
            segment(tcp::SYN, true, 1_000, 0),
            segment(tcp::SYN, false, 9_000, 0),
            segment(tcp::SYN | tcp::ACK, true, 1_000, 9_001),
            segment(tcp::SYN | tcp::ACK, false, 9_000, 1_001),
            segment(tcp::ACK, true, 1_001, 9_001),
        ]);
        assert_eq!(seen, [SynSent, SynReceived, SynReceived, SynReceived, Established]);
    }

    #[test]
    fn a_connection_is_picked_up_in_the_middle_when_both_sides_speak() {
        use TcpState::*;
        let seen = states(&[
            segment(tcp::ACK, true, 1_000, 9_000),
            segment(tcp::ACK, true, 1_100, 9_000),
            segment(tcp::ACK, false, 9_000, 1_200),
        ]);
        assert_eq!(seen, [PickedUp, PickedUp, Established]);
    }

    #[test]
    fn a_reset_that_does_not_fit_changes_nothing() {
        let window = WINDOW_BYTES as u32;
        for (sequence, fits) in [
            (9_001, true),
            (9_002, true),
            (9_001 + window, true),
            (9_000, false),
            (9_002 + window, false),
            (0, false),
            (u32::MAX / 2, false),
        ] {
            let (state, mut numbers) = established();
            let after = state.after(&segment(tcp::RST, false, sequence, 0), &mut numbers);
            let expected = if fits { TcpState::Closed } else { TcpState::Established };
            assert_eq!((after, numbers), (expected, established().1), "{sequence}");
        }
    }

    #[test]
    fn an_answer_to_a_syn_must_acknowledge_it() {
        let (state, mut expected) = TcpState::first(&segment(tcp::SYN, true, 1_000, 0));
        for flags in [tcp::RST | tcp::ACK, tcp::SYN | tcp::ACK, tcp::RST] {
            let forged = segment(flags, false, 5, 1_000);
            assert_eq!(state.after(&forged, &mut expected), TcpState::SynSent);
        }
        let right = segment(tcp::RST | tcp::ACK, false, 0, 1_001);
        assert_eq!(state.after(&right, &mut expected), TcpState::Closed);
    }

    #[test]
    fn a_forged_fin_and_a_late_syn_change_nothing() {
        let (state, mut expected) = established();
        let forged = segment(tcp::FIN | tcp::ACK, false, 3_000_000_000, 1_001);
        assert_eq!(state.after(&forged, &mut expected), TcpState::Established);
        for original in [true, false] {
            let late = segment(tcp::SYN, original, 1_000, 0);
            assert_eq!(state.after(&late, &mut expected), TcpState::Established);
        }
        assert_eq!(expected, established().1);
    }

    #[test]
    fn a_connection_that_speaks_after_a_reset_lives() {
        let (state, mut expected) = established();
        let state = state.after(&segment(tcp::RST, false, 9_001, 0), &mut expected);
        assert_eq!(state, TcpState::Closed);
        let state = state.after(&segment(tcp::ACK, true, 1_001, 9_001), &mut expected);
        assert_eq!(state, TcpState::PickedUp);
        let state = state.after(&segment(tcp::ACK, false, 9_001, 1_001), &mut expected);
        assert_eq!(state, TcpState::Established);
    }

    #[test]
    fn a_tuple_that_is_over_may_be_used_again() {
        for over in [TcpState::TimeWait, TcpState::Closed] {
            for (original, after) in [(true, TcpState::SynSent), (false, TcpState::SynReceived)] {
                let mut expected = established().1;
                let syn = segment(tcp::SYN, original, 77_000, 0);
                assert_eq!(over.after(&syn, &mut expected), after);
                let begun = if original { expected.by_reply } else { expected.by_original };
                assert_eq!(begun, 77_001);
            }
        }
    }

    #[test]
    fn other_protocols_have_no_state() {
        assert!(TcpState::None.keeps(0));
        let any = segment(0xff, true, 1, 2);
        assert_eq!(TcpState::None.after(&any, &mut Expected::default()), TcpState::None);
    }

    #[test]
    fn a_state_is_found_by_its_number() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::of(state as u8), state);
        }
    }

    proptest! {
        #[test]
        fn what_keeps_a_state_never_changes_it(
            flags: u8, original: bool, sequence: u32, acknowledgement: u32,
        ) {
            let segment = segment(flags, original, sequence, acknowledgement);
            for state in TcpState::ALL {
                let mut expected = established().1;
                if state.keeps(flags) {
                    prop_assert_eq!(state.after(&segment, &mut expected), state);
                    // What the short way notes without looking at the state.
                    let noted = if original { expected.by_original } else { expected.by_reply };
                    prop_assert!(state == TcpState::None || noted == acknowledgement);
                }
            }
        }
    }
}
