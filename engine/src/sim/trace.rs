//! The last things that happened in a world, in words: what a failing seed prints.
//!
//! Frames are kept as bytes and put into words only when somebody wants to read them.

use std::collections::VecDeque;
use std::fmt::Write;

use super::datagram::Datagram;
use super::frames::*;
use super::port::WireFrame;

#[derive(Debug)]
enum Event {
    Frame { what: &'static str, place: usize, frame: WireFrame },
    Note(String),
}

/// The tail of events.
#[derive(Debug)]
pub(super) struct Trace {
    events: VecDeque<(u64, Event)>,
    len_max: usize,
}

impl Trace {
    /// Keeps the last `len_max` events.
    pub(super) fn new(len_max: usize) -> Trace {
        Trace { events: VecDeque::new(), len_max }
    }

    fn add(&mut self, now_ns: u64, event: Event) {
        if self.events.len() >= self.len_max {
            self.events.pop_front();
        }
        self.events.push_back((now_ns, event));
    }

    pub(super) fn note(&mut self, now_ns: u64, text: String) {
        self.add(now_ns, Event::Note(text));
    }

    /// `what` happened to a frame at a port or host with this number.
    pub(super) fn frame(
        &mut self,
        now_ns: u64,
        what: &'static str,
        place: usize,
        frame: &WireFrame,
    ) {
        self.add(now_ns, Event::Frame { what, place, frame: frame.clone() });
    }

    /// The events, one a line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (now_ns, event) in &self.events {
            let ms = *now_ns as f64 / 1e6;
            let line = match event {
                Event::Frame { what, place, frame } => format!("{what} {place}: {}", words(frame)),
                Event::Note(note) => note.clone(),
            };
            writeln!(text, "{ms:>14.4} ms  {line}").expect("text takes every line");
        }
        text
    }
}

/// A frame in words.
pub(super) fn words(frame: &WireFrame) -> String {
    let bytes = &frame.bytes;
    if bytes.len() < ETHERNET_BYTES {
        return format!("{} bytes, too few", bytes.len());
    }
    let (to, from) = (mac_at(bytes, 0), mac_at(bytes, 6));
    let packet = &bytes[ETHERNET_BYTES..];
    let content = match be16(bytes, 12) {
        ETHERTYPE_ARP => match Arp::parse(packet) {
            Some(Arp { operation, sender, sender_mac, target, .. }) => {
                format!("ARP {operation} {sender} ({sender_mac}) asks {target}")
            }
            None => "ARP, malformed".into(),
        },
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => match Datagram::parse(packet) {
            Ok(datagram) => datagram_words(&datagram, frame),
            Err(text) => format!("IP, {text}"),
        },
        other => format!("EtherType {other:#06x}"),
    };
    format!("{from} > {to} {} B {content}", bytes.len())
}

fn datagram_words(datagram: &Datagram<'_>, frame: &WireFrame) -> String {
    let Datagram { source, destination, protocol, payload, hops, .. } = datagram;
    let mut text = format!("{source} > {destination} hops {hops} ");
    if let Some(part) = datagram.fragment {
        write!(text, "{part:?} ").expect("text takes every line");
    }
    let more = match (*protocol, TcpHeader::parse(payload)) {
        (TCP, Some((tcp, content))) => format!(
            "TCP {} > {} flags {:#04x} seq {} ack {} len {}",
            tcp.source_port,
            tcp.destination_port,
            tcp.flags,
            tcp.sequence,
            tcp.acknowledgment,
            content.len()
        ),
        (UDP, _) if payload.len() >= 8 => {
            format!("UDP {} > {} len {}", be16(payload, 0), be16(payload, 2), payload.len() - 8)
        }
        (ICMP | ICMPV6, _) if payload.len() >= 8 => {
            format!("ICMP {}/{} {:#010x}", payload[0], payload[1], be32(payload, 4))
        }
        (other, _) => format!("protocol {other}, {} B", payload.len()),
    };
    text.push_str(&more);
    if let Some(nonce) = super::check::question_of(datagram) {
        write!(text, " asks {nonce:#x}").expect("text takes every line");
    }
    if !datagram.checksum_is_right(frame.offload) {
        text.push_str(" BAD CHECKSUM");
    }
    if frame.offload != crate::packet::Offload::None {
        write!(text, " {:?}", frame.offload).expect("text takes every line");
    }
    text
}
