//! Step 4: what state a flow is in, and how long it may be idle.
//!
//! ```text
//!              original SYN                reply SYN+ACK            original ACK
//!   (no flow) ------------> SynSent ---------------> SynReceived -------------> Established
//!   (no flow) -- any other segment: picked up in the middle --------------------> Established
//!   any state -- FIN of one side --> FinOriginal | FinReply -- FIN of the other --> TimeWait
//!   any state -- RST --> Closed        TimeWait, Closed -- original SYN --> SynSent
//! ```
//!
//! A packet without SYN, FIN or RST in an established flow changes nothing, which is the fast
//! path's only question. Not here: sequence numbers.

use std::time::Duration;

use crate::limits::Timeouts;
use crate::wire::{protocol, tcp};

/// State of a TCP connection as seen in the middle.
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
    /// The reply side agreed.
    SynReceived,
    /// The original side has finished.
    FinOriginal,
    /// The reply side has finished.
    FinReply,
    /// Both sides have finished.
    TimeWait,
    /// Ended by a reset.
    Closed,
}

impl TcpState {
    /// The state that the first packet of a flow gives.
    pub(crate) fn first(protocol: u8, flags: u8) -> TcpState {
        match protocol {
            protocol::TCP if flags & tcp::SYN != 0 => TcpState::SynSent,
            protocol::TCP => TcpState::Established,
            _ => TcpState::None,
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

    /// The state after a packet with these flags from the original or the reply side.
    pub(crate) fn after(self, flags: u8, original: bool) -> TcpState {
        use TcpState::*;
        let (syn, ack) = (flags & tcp::SYN != 0, flags & tcp::ACK != 0);
        if self == None {
            return None;
        }
        if flags & tcp::RST != 0 {
            return Closed;
        }
        if flags & tcp::FIN != 0 {
            return match (self, original) {
                (FinReply | TimeWait, true) | (FinOriginal | TimeWait, false) => TimeWait,
                (Closed, _) => Closed,
                (_, true) => FinOriginal,
                (_, false) => FinReply,
            };
        }
        match self {
            SynSent if syn && !original => SynReceived,
            // Data or an ACK from the side that agreed means that it saw the connection open.
            SynReceived if ack && !syn && original => Established,
            TimeWait | Closed if syn && !ack && original => SynSent,
            state => state,
        }
    }

    /// How long a flow in this state may be idle.
    pub(crate) fn timeout(self, protocol: u8, timeouts: &Timeouts) -> Duration {
        match self {
            TcpState::None => match protocol {
                protocol::UDP => timeouts.udp,
                protocol::ICMP | protocol::ICMPV6 => timeouts.icmp,
                _ => timeouts.other,
            },
            TcpState::Established => timeouts.tcp_established,
            TcpState::TimeWait | TcpState::Closed => timeouts.tcp_time_wait,
            _ => timeouts.tcp_transitory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_opens_and_closes() {
        let steps = [
            (tcp::SYN | tcp::ACK, false, TcpState::SynReceived),
            (tcp::ACK, true, TcpState::Established),
            (tcp::ACK | tcp::PSH, false, TcpState::Established),
            (tcp::FIN | tcp::ACK, false, TcpState::FinReply),
            (tcp::ACK, true, TcpState::FinReply),
            (tcp::FIN | tcp::ACK, true, TcpState::TimeWait),
            (tcp::ACK, false, TcpState::TimeWait),
            (tcp::SYN, true, TcpState::SynSent),
            (tcp::RST, false, TcpState::Closed),
        ];
        let mut state = TcpState::first(protocol::TCP, tcp::SYN);
        for (flags, original, expected) in steps {
            assert_eq!(state.keeps(flags), state == expected && state == TcpState::Established);
            state = state.after(flags, original);
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn other_protocols_have_no_state() {
        assert_eq!(TcpState::first(protocol::UDP, 0), TcpState::None);
        assert!(TcpState::None.keeps(0));
        assert_eq!(TcpState::None.after(0xff, true), TcpState::None);
    }

    #[test]
    fn what_keeps_a_state_never_changes_it() {
        use TcpState::*;
        for state in [None, Established, SynSent, SynReceived, FinOriginal, FinReply, TimeWait] {
            for flags in 0..=255 {
                for original in [true, false] {
                    if state.keeps(flags) {
                        assert_eq!(state.after(flags, original), state);
                    }
                }
            }
        }
    }
}
