//! A link between two machines: delay, and by chance loss, duplicates, overtaking and bit errors.
//!
//! Every choice comes from the link's own stream of numbers. A bit error flips one bit of an IP
//! packet: one bit is what every Internet checksum finds, so whoever accepts such a packet as right
//! has a bug, or somebody on the way "repaired" its checksum. Two flips could cancel out, so links
//! towards the gateway flip other bits of a byte than links away from it. Frames with offload are
//! on no real wire (a TAP hands them over in memory) and stay free of bit errors, as does ARP,
//! which has no checksum of its own.

use super::datagram::Datagram;
use super::frames::ETHERNET_BYTES;
use super::port::WireFrame;
use super::rng::Rng;
use crate::packet::Offload;

/// How a link behaves. Chances are per mille of packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkPlan {
    /// Shortest delay, nanoseconds.
    pub delay_ns_min: u64,
    /// Longest delay without overtaking, nanoseconds.
    pub delay_ns_max: u64,
    /// Packets lost.
    pub lost: u32,
    /// Packets that arrive twice.
    pub duplicated: u32,
    /// Packets that later ones overtake.
    pub overtaken: u32,
    /// Packets with one bit flipped.
    pub corrupted: u32,
}

/// What a link has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Packets put in.
    pub sent: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Packets delayed behind later ones.
    pub overtaken: u64,
    /// Packets with one bit flipped.
    pub corrupted: u64,
}

impl LinkCounts {
    /// Both together.
    pub(super) fn plus(self, other: LinkCounts) -> LinkCounts {
        LinkCounts {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            overtaken: self.overtaken + other.overtaken,
            corrupted: self.corrupted + other.corrupted,
        }
    }
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Link {
    plan: LinkPlan,
    rng: Rng,
    /// The lowest of the four bits of a byte that this link may flip.
    lowest_bit: u64,
    last_arrival_ns: u64,
    pub(super) counts: LinkCounts,
}

impl Link {
    /// A link from a host (`is_inbound`) or to one.
    pub(super) fn new(plan: LinkPlan, is_inbound: bool, rng: Rng) -> Link {
        let lowest_bit = if is_inbound { 0 } else { 4 };
        Link { plan, rng, lowest_bit, last_arrival_ns: 0, counts: LinkCounts::default() }
    }

    /// Takes a packet and says when it arrives: never, once or twice.
    pub(super) fn carry(&mut self, now_ns: u64, mut frame: WireFrame) -> Vec<(u64, WireFrame)> {
        self.counts.sent += 1;
        if self.rng.chance(self.plan.lost) {
            self.counts.lost += 1;
            return Vec::new();
        }
        if self.rng.chance(self.plan.corrupted) && self.corrupt(&mut frame) {
            self.counts.corrupted += 1;
        }
        let first = self.arrival(now_ns);
        let mut arrivals = Vec::with_capacity(1);
        if self.rng.chance(self.plan.duplicated) {
            self.counts.duplicated += 1;
            let again = first + self.rng.below(self.plan.delay_ns_max.max(1) * 4);
            arrivals.push((again, frame.clone()));
        }
        arrivals.push((first, frame));
        arrivals
    }

    fn arrival(&mut self, now_ns: u64) -> u64 {
        let spread = self.plan.delay_ns_max.saturating_sub(self.plan.delay_ns_min);
        let arrival = now_ns + self.plan.delay_ns_min + self.rng.below(spread + 1);
        if self.rng.chance(self.plan.overtaken) {
            self.counts.overtaken += 1;
            return arrival.max(self.last_arrival_ns) + self.rng.below(spread * 4 + 1);
        }
        self.last_arrival_ns = self.last_arrival_ns.max(arrival);
        self.last_arrival_ns
    }

    fn corrupt(&mut self, frame: &mut WireFrame) -> bool {
        let is_ip = matches!(frame.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if frame.offload != Offload::None || !is_ip || frame.bytes.len() <= 14 {
            return false;
        }
        if is_later_fragment(&frame.bytes) {
            // Two fragments of one packet could cancel each other out.
            return false;
        }
        let index = 14 + self.rng.index(frame.bytes.len() - 14);
        frame.bytes[index] ^= 1 << (self.lowest_bit + self.rng.below(4));
        true
    }
}

fn is_later_fragment(frame: &[u8]) -> bool {
    let part = Datagram::parse(&frame[ETHERNET_BYTES..]).ok().and_then(|ip| ip.fragment);
    part.is_some_and(|part| part.offset > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_link_keeps_bytes_and_order() {
        let plan = LinkPlan { delay_ns_min: 10, delay_ns_max: 1_000, ..LinkPlan::default() };
        let mut link = Link::new(plan, true, Rng::new(3));
        let mut last = 0;
        for number in 0..200 {
            let frame = WireFrame::whole(vec![number; 60]);
            let arrivals = link.carry(u64::from(number), frame.clone());
            assert_eq!(arrivals.len(), 1);
            assert!(arrivals[0].0 >= last && arrivals[0].1 == frame);
            last = arrivals[0].0;
        }
        assert_eq!(link.counts, LinkCounts { sent: 200, ..LinkCounts::default() });
    }

    #[test]
    fn a_bad_link_does_everything_it_is_asked_to_and_counts_it() {
        let plan = LinkPlan {
            delay_ns_min: 1,
            delay_ns_max: 100,
            lost: 200,
            duplicated: 200,
            overtaken: 200,
            corrupted: 200,
        };
        let mut link = Link::new(plan, true, Rng::new(4));
        let mut bytes = vec![0; 60];
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        let (mut arrived, mut changed) = (0, 0);
        for now in 0..1_000 {
            for (_, frame) in link.carry(now, WireFrame::whole(bytes.clone())) {
                arrived += 1;
                changed += u64::from(frame.bytes != bytes);
            }
        }
        let counts = link.counts;
        assert_eq!(arrived, counts.sent - counts.lost + counts.duplicated);
        assert!(changed >= counts.corrupted && counts.corrupted > 100, "{counts:?}");
        assert!(counts.lost > 100 && counts.duplicated > 100 && counts.overtaken > 100);
    }
}
