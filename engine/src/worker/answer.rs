//! Answers of the gateway's own: echo replies, ICMP errors, resets. Built from the packet that
//! asks, sent back by the port it came from, and limited in rate (RFC 1812 section 4.3.2.8).

use super::core::Core;
use crate::counters::DropReason;
use crate::packet::{Notes, Packet};
use crate::reply;
use crate::stage::Answer;

impl Core {
    /// Answers a packet; what is not turned into the answer is recycled and counted.
    pub(super) fn answer(&mut self, mut packet: Packet, answer: Answer) {
        let ingress = packet.meta.ingress;
        let own_mac = self.own_mac(ingress);
        let own = self.own_address(ingress, packet.meta.notes.any(Notes::V6));
        let (built, reason) = match answer {
            Answer::Echo => {
                if !reply::echo_reply_in_place(&mut packet, own_mac) {
                    return self.drop(packet, DropReason::LocalUnhandled);
                }
                self.counters.worker.answers.add(1);
                return self.send(ingress, packet);
            }
            Answer::Reset(_) | Answer::Error(..) if !self.answers.take(self.now) => {
                return self.drop(packet, DropReason::AnswerLimited);
            }
            Answer::Reset(reason) => (reply::tcp_reset(&packet, own_mac, &mut self.frames), reason),
            Answer::Error(kind, reason) => {
                let frames = &mut self.frames;
                let error =
                    own.and_then(|own| reply::icmp_error(&packet, kind, own, own_mac, frames));
                (error, reason)
            }
        };
        if let Some(built) = built {
            self.counters.worker.answers.add(1);
            self.send(ingress, built);
        }
        self.drop(packet, reason);
    }
}
