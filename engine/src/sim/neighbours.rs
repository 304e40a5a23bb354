//! Which MAC address a neighbour of a simulated host has, and packets that wait to know.
//!
//! Answers are believed for a minute, as kernels do about. Nothing is learnt that was not asked
//! for, except that a known neighbour may announce that it has moved.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::frames::{group_mac, solicited_node};
use crate::id::MacAddress;
use crate::packet::Offload;

/// How long an answer is believed.
const BELIEVED_NS: u64 = 60_000_000_000;
/// Time between two questions (RFC 4861 section 10: RETRANS_TIMER).
const RETRY_NS: u64 = 1_000_000_000;
/// Questions before waiting packets are given up. More than kernels ask, for the bad wires.
const TRIES_MAX: u32 = 10;

/// EtherType, packet and its offload.
pub(super) type Waiting = (u16, Vec<u8>, Offload);

#[derive(Debug)]
enum Entry {
    Known { mac: MacAddress, until_ns: u64 },
    Asked { tries: u32, retry_at_ns: u64, waiting: Vec<Waiting> },
}

/// A host's neighbours.
#[derive(Debug)]
pub(super) struct Neighbours {
    own: MacAddress,
    entries: BTreeMap<IpAddr, Entry>,
}

/// The address to which the question for an IP address goes.
fn question_mac(address: IpAddr) -> MacAddress {
    match address {
        IpAddr::V4(_) => MacAddress::BROADCAST,
        IpAddr::V6(address) => group_mac(solicited_node(address)),
    }
}

impl Neighbours {
    pub(super) fn new(own: MacAddress) -> Neighbours {
        Neighbours { own, entries: BTreeMap::new() }
    }

    /// The neighbour's MAC address, if known.
    pub(super) fn mac(&self, now_ns: u64, address: IpAddr) -> Option<MacAddress> {
        match self.entries.get(&address) {
            Some(Entry::Known { mac, until_ns }) if *until_ns > now_ns => Some(*mac),
            _ => None,
        }
    }

    /// Keeps a packet until the neighbour is known. Returns where to ask, if it was not asked yet.
    pub(super) fn wait(
        &mut self,
        now_ns: u64,
        address: IpAddr,
        packet: Waiting,
    ) -> Option<MacAddress> {
        if let Some(Entry::Asked { waiting, .. }) = self.entries.get_mut(&address) {
            waiting.push(packet);
            return None;
        }
        let waiting = vec![packet];
        let asked = Entry::Asked { tries: 1, retry_at_ns: now_ns + RETRY_NS, waiting };
        self.entries.insert(address, asked);
        Some(question_mac(address))
    }

    /// A neighbour says where it is. Returns the packets that waited for that.
    pub(super) fn learn(&mut self, now_ns: u64, address: IpAddr, mac: MacAddress) -> Vec<Waiting> {
        let Some(entry) = self.entries.get_mut(&address).filter(|_| mac != self.own) else {
            return Vec::new();
        };
        let known = Entry::Known { mac, until_ns: now_ns + BELIEVED_NS };
        match std::mem::replace(entry, known) {
            Entry::Asked { waiting, .. } => waiting,
            Entry::Known { .. } => Vec::new(),
        }
    }

    /// When `due` has something to say.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        let times = self.entries.values().filter_map(|entry| match entry {
            Entry::Asked { retry_at_ns, .. } => Some(*retry_at_ns),
            Entry::Known { .. } => None,
        });
        times.min()
    }

    /// Whom to ask again, and where; gives up those who have not answered for too long.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<(IpAddr, MacAddress)> {
        self.entries.retain(|_, entry| match entry {
            Entry::Asked { tries, retry_at_ns, .. } => *tries < TRIES_MAX || *retry_at_ns > now_ns,
            Entry::Known { .. } => true,
        });
        let mut questions = Vec::new();
        for (address, entry) in &mut self.entries {
            if let Entry::Asked { tries, retry_at_ns, .. } = entry
                && *retry_at_ns <= now_ns
            {
                *tries += 1;
                *retry_at_ns = now_ns + RETRY_NS;
                questions.push((*address, question_mac(*address)));
            }
        }
        questions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_for_the_answer_and_strangers_are_not_believed() {
        let mut neighbours = Neighbours::new(MacAddress(1));
        let address: IpAddr = "10.0.0.2".parse().unwrap();
        assert!(neighbours.learn(0, address, MacAddress(2)).is_empty());
        assert_eq!(neighbours.mac(0, address), None);
        let packet = (0x0800, vec![1], Offload::None);
        assert_eq!(neighbours.wait(0, address, packet.clone()), Some(MacAddress::BROADCAST));
        assert_eq!(neighbours.wait(0, address, packet), None);
        assert_eq!(neighbours.due(RETRY_NS), vec![(address, MacAddress::BROADCAST)]);
        assert_eq!(neighbours.learn(5, address, MacAddress(2)).len(), 2);
        assert_eq!(neighbours.mac(6, address), Some(MacAddress(2)));
        assert_eq!(neighbours.mac(6 + BELIEVED_NS, address), None);
        assert_eq!(neighbours.deadline_ns(), None);
    }

    #[test]
    fn who_never_answers_is_given_up() {
        let mut neighbours = Neighbours::new(MacAddress(1));
        let address: IpAddr = "fd00::2".parse().unwrap();
        neighbours.wait(0, address, (0x86dd, vec![1], Offload::None));
        let mut now_ns = 0;
        while let Some(deadline_ns) = neighbours.deadline_ns() {
            now_ns = deadline_ns;
            neighbours.due(now_ns);
        }
        assert_eq!(now_ns, u64::from(TRIES_MAX) * RETRY_NS);
    }
}
