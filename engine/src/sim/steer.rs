//! Which queue of a multi-queue device a frame arrives at.
//!
//! A NIC or TAP may spread frames as it likes, as long as a flow stays on one queue: by a hash that
//! is the same for both directions or is not, by addresses only, or not at all. Each port gets one
//! way from the seed, so that packets often arrive at a worker that is not their home.

use super::frames::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};
use super::rng::{Rng, mix};

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Everything arrives at one queue.
    One,
    /// Addresses and ports, both directions alike.
    Symmetric,
    /// Addresses and ports, each direction its own.
    Directed,
    /// Addresses only.
    Addresses,
}

/// One port's way of spreading frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steering {
    way: Way,
    salt: u64,
}

impl Steering {
    pub(super) fn new(rng: &mut Rng) -> Steering {
        let way = *rng.pick(&[Way::One, Way::Symmetric, Way::Directed, Way::Addresses]);
        Steering { way, salt: rng.number() }
    }

    /// The queue for a frame.
    pub(super) fn queue(&self, frame: &[u8], queue_count: usize) -> usize {
        let (source, destination) = self.ends(frame);
        let number = match self.way {
            Way::One => self.salt,
            Way::Symmetric => mix(source) ^ mix(destination) ^ self.salt,
            Way::Directed | Way::Addresses => mix(source.rotate_left(7) ^ mix(destination)),
        };
        (mix(number ^ self.salt) % queue_count as u64) as usize
    }

    /// A number for each end of the packet; fragments of one packet have the same.
    fn ends(&self, frame: &[u8]) -> (u64, u64) {
        // Room for the longest header that is looked at, for the shortest packets too.
        let mut padded = [0; ETHERNET_BYTES + 60 + 4];
        let len = frame.len().min(padded.len());
        padded[..len].copy_from_slice(&frame[..len]);
        let (frame, packet) = (&padded, &padded[ETHERNET_BYTES..]);
        let fold = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| mix(sum ^ u64::from(byte)));
        let (source, destination, protocol, header_bytes) = match be16(frame, 12) {
            ETHERTYPE_IPV4 => {
                let is_fragment = be16(packet, 6) & 0x3fff != 0;
                let protocol = if is_fragment { 0 } else { packet[9] };
                let header_bytes = usize::from(packet[0] & 15) * 4;
                (&packet[12..16], &packet[16..20], protocol, header_bytes)
            }
            ETHERTYPE_IPV6 => (&packet[8..24], &packet[24..40], packet[6], 40),
            _ => return (0, 0),
        };
        let (source, destination) = (fold(source), fold(destination));
        let has_ports = matches!(protocol, 6 | 17);
        match (self.way, has_ports) {
            (Way::Symmetric | Way::Directed, true) => (
                mix(source ^ u64::from(be16(packet, header_bytes))),
                mix(destination ^ u64::from(be16(packet, header_bytes + 2))),
            ),
            _ => (source, destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MacAddress;
    use crate::sim::frames::{IpHeader, UDP, ethernet, udp};

    #[test]
    fn a_flow_and_a_fragmented_packet_stay_on_one_queue() {
        let addresses = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let header = IpHeader::new(addresses.0, addresses.1, UDP);
        let mac = MacAddress(2);
        let mut rng = Rng::new(1);
        for _ in 0..20 {
            let steering = Steering::new(&mut rng);
            let datagram = udp(1, 2, &[0; 2_960]);
            let queues: Vec<usize> = header
                .fragments(&datagram, 1_500)
                .iter()
                .map(|packet| steering.queue(&ethernet(mac, mac, ETHERTYPE_IPV4, packet), 4))
                .collect();
            assert!(queues.iter().all(|&queue| queue == queues[0] && queue < 4));
        }
    }
}
