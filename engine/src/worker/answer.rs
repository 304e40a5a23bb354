//! Answers of the gateway's own: echo replies, ICMP errors, resets. Built from the packet that
//! asks, sent back by the port it came from, and limited in rate (RFC 1812 section 4.3.2.8).

use std::net::IpAddr;

use super::core::Core;
use crate::counters::DropReason;
use crate::execute::Edit;
use crate::flow::{Family, V4, V6};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::{Meta, Notes, Packet};
use crate::parse;
use crate::reply::{self, ErrorKind};
use crate::stage::Answer;
use crate::wire::ethernet;

impl Core {
    /// Answers a packet; what is not turned into the answer is recycled and counted.
    pub(super) fn answer(&mut self, mut packet: Packet, answer: Answer) {
        let ingress = packet.meta.ingress;
        let own_mac = self.own_mac(ingress);
        let own = match ingress {
            PortId::TURN => destination_of(&packet),
            ingress => self.own_address(ingress, packet.meta.notes.any(Notes::V6)),
        };
        let (built, reason) = match answer {
            Answer::Echo => {
                if !reply::echo_reply_in_place(&mut packet, own_mac) {
                    return self.drop(packet, DropReason::LocalUnhandled);
                }
                self.counters.worker.answers.add(1);
                return self.send_back(ingress, packet);
            }
            Answer::Reset(_) | Answer::Error(..) if !self.answers.take(self.now) => {
                let reason = match answer {
                    Answer::Error(ErrorKind::TooBig(_), _) => DropReason::TooBigRateLimited,
                    _ => DropReason::AnswerLimited,
                };
                return self.drop(packet, reason);
            }
            Answer::Reset(reason) => (reply::tcp_reset(&packet, own_mac, &mut self.frames), reason),
            Answer::Error(kind, reason) => {
                let frames = &mut self.frames;
                let error =
                    own.and_then(|own| reply::icmp_error(&packet, kind, own, own_mac, frames));
                (error, reason)
            }
        };
        let reason = match (built, reason) {
            (Some(built), reason) => {
                self.counters.worker.answers.add(1);
                match ingress {
                    PortId::TURN => self.turn_answer(built),
                    ingress => self.send_back(ingress, built),
                }
                match reason {
                    DropReason::TooBig => DropReason::TooBigIcmpSent,
                    reason => reason,
                }
            }
            (None, reason) => reason,
        };
        self.drop(packet, reason);
    }

    /// Tells the sender of a packet, which was dropped and counted before and of which a copy is
    /// left, that nobody serves the port.
    pub(super) fn answer_copy(&mut self, bytes: &[u8], meta: Meta) {
        let Some(rule) = self.rule(meta.ingress) else { return };
        let own_mac = MacAddress(rule.gateway_mac);
        let Some(mut packet) = Packet::copy_of(bytes, &mut self.frames) else { return };
        packet.meta = meta;
        let (own, kind) = (destination_of(&packet), ErrorKind::PortUnreachable);
        let frames = &mut self.frames;
        let error = own.and_then(|own| reply::icmp_error(&packet, kind, own, own_mac, frames));
        packet.recycle(frames);
        if let Some(error) = error {
            self.counters.worker.answers.add(1);
            self.send(meta.ingress, error);
        }
    }

    /// An answer to what turned round goes back by the flow that it came by.
    fn turn_answer(&mut self, mut answer: Packet) {
        let is_parsed = parse::ethernet(&answer).and_then(|header| {
            match parse::behind_tags(&mut answer, header.ethertype)? {
                ethernet::IPV4 => parse::ipv4(&mut answer),
                _ => parse::ipv6(&mut answer),
            }
        });
        answer.meta.notes.0 |= Notes::ROUTED;
        answer.meta.ingress = PortId::TURN;
        answer.meta.network = NetworkId::NONE;
        match is_parsed {
            Ok(()) if self.released.len() < self.released.capacity() => self.released.push(answer),
            _ => answer.recycle(&mut self.frames),
        }
    }
}

/// The destination of a parsed packet.
fn destination_of(packet: &Packet) -> Option<IpAddr> {
    let (head, l3) = (packet.head(), usize::from(packet.meta.l3));
    match packet.meta.notes.any(Notes::V6) {
        true => V6::read(head, l3).map(|addresses| V6::unpack(V6::loaded(addresses)).1),
        false => V4::read(head, l3).map(|addresses| V4::unpack(V4::loaded(addresses)).1),
    }
}
