//! Who wants which multicast group: what frames of IGMP and MLD say, and what is known from that.
//!
//! As RFC 4541 has it: reports put a port into a group, queries say behind which port a router is,
//! and while nobody asks in a network, silence says nothing and everything is flooded. Groups are
//! told by MAC address, as switches do; link-local ones and solicited nodes always reach everybody.
//! The one hard constraint: fixed memory, of which a port has a share. A port that finds no room is
//! not in the group: its share is for groups that somebody behind it asked for. Not here: who is
//! told, and what is sent to whom.

use std::time::Duration;

use crate::flow::{Index, mix, seed_for};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::time::Tick;
use crate::tunnel::group_mac;
use crate::wire::{checksum, ethernet, header_at, ipv4, ipv6, protocol, u16_at, u32_at, u128_at};
use crate::worker::{GroupKind, GroupView};

const L3: usize = ethernet::HEADER_BYTES;

/// RFC 3376 section 8.4 and RFC 3810 section 9.4: 2 queries of 125 s each and 10 s to answer.
pub(crate) const MEMBER_FOR: Duration = Duration::from_secs(260);
/// RFC 3376 section 8.5 and RFC 3810 section 9.5: how long another querier is believed to be there.
pub(crate) const QUERIER_FOR: Duration = Duration::from_secs(255);
/// RFC 3376 section 8.8: two questions of 1 s each, to whoever else is behind the port.
pub(crate) const LEAVING_FOR: Duration = Duration::from_secs(2);

/// Memberships that a worker remembers; 32 bytes each. Who comes later is not in its group.
pub(crate) const GROUPS_MAX: usize = 4_096;
/// Memberships of one port: a host is in tens at most, a few hosts may be behind one.
const GROUPS_PER_PORT_MAX: u16 = 256;
/// Places that one sweep looks at.
const SWEEP_PLACES: usize = 64;

/// IGMP's IANA protocol number.
const IGMP: u8 = 2;

/// What stands for a group: somebody asks in the network, and a router is behind the port.
const ASKED: [MacAddress; 2] = [MacAddress(1), MacAddress(2)];
const ROUTER: [MacAddress; 2] = [MacAddress(3), MacAddress(4)];
/// What stands for the port where it does not matter.
const ANY_PORT: PortId = PortId(u16::MAX);

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Somebody asks who is in groups; with an address of its own it is a router.
    Query { v6: bool, is_router: bool },
    /// The sender is in a group.
    Joins(MacAddress),
    /// It is no more.
    Leaves(MacAddress),
}

/// Reads a frame. `None`: it is no message of IGMP or MLD.
pub(crate) fn read(head: &[u8], said: impl FnMut(Said)) -> Option<()> {
    let kind = u16_at(header_at::<L3>(head, 0)?, ethernet::TYPE);
    match kind {
        ethernet::IPV4 => read_v4(head, said),
        ethernet::IPV6 => read_v6(head, said),
        _ => None,
    }
}

fn read_v4(head: &[u8], mut said: impl FnMut(Said)) -> Option<()> {
    let header = header_at::<{ ipv4::HEADER_BYTES }>(head, L3)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_bytes < ipv4::HEADER_BYTES || header[ipv4::PROTOCOL] != IGMP {
        return None;
    }
    let end = L3 + usize::from(u16_at(header, ipv4::TOTAL_LENGTH));
    let message = head.get(L3 + header_bytes..end)?;
    let fixed = header_at::<8>(message, 0)?;
    if checksum::fold(checksum::sum(message)) != 0xffff {
        return None;
    }
    let group = |bits: u32| group_mac(std::net::Ipv4Addr::from_bits(bits).into());
    match fixed[0] {
        0x11 => said(Said::Query { v6: false, is_router: u32_at(header, ipv4::SOURCE) != 0 }),
        0x12 | 0x16 => said(Said::Joins(group(u32_at(fixed, 4)))),
        0x17 => said(Said::Leaves(group(u32_at(fixed, 4)))),
        0x22 => {
            records(message, 4, |address| Some(group(u32_at(header_at::<4>(address, 0)?, 0))), said)
        }
        _ => return None,
    }
    Some(())
}

fn read_v6(head: &[u8], mut said: impl FnMut(Said)) -> Option<()> {
    let header = header_at::<{ ipv6::HEADER_BYTES }>(head, L3)?;
    // RFC 3810 section 5: a router alert is in front of each.
    if header[ipv6::NEXT_HEADER] != ipv6::HOP_BY_HOP {
        return None;
    }
    let end = L3 + ipv6::HEADER_BYTES + usize::from(u16_at(header, ipv6::PAYLOAD_LENGTH));
    let options = header_at::<8>(head, L3 + ipv6::HEADER_BYTES)?;
    let start = L3 + ipv6::HEADER_BYTES + (usize::from(options[1]) + 1) * 8;
    let message = head.get(start..end)?;
    if options[0] != protocol::ICMPV6 || header[ipv6::HOP_LIMIT] != 1 {
        return None;
    }
    let fixed = header_at::<8>(message, 0)?;
    let kind = fixed[0];
    if !matches!(kind, 130..=132 | 143) {
        return None;
    }
    let addresses = &header[ipv6::SOURCE..];
    let pseudo = checksum::pseudo_header(addresses, protocol::ICMPV6, message.len());
    if checksum::fold(pseudo + checksum::sum(message)) != 0xffff {
        return None;
    }
    let group = |bits: u128| group_mac(std::net::Ipv6Addr::from_bits(bits).into());
    let one = || Some(group(u128_at(header_at::<16>(message, 8)?, 0)));
    match kind {
        130 => said(Said::Query { v6: true, is_router: u128_at(header, ipv6::SOURCE) != 0 }),
        131 => said(Said::Joins(one()?)),
        132 => said(Said::Leaves(one()?)),
        _ => records(
            message,
            16,
            |address| Some(group(u128_at(header_at::<16>(address, 0)?, 0))),
            said,
        ),
    }
    Some(())
}

/// Group records of an IGMPv3 or MLDv2 report (RFC 3376 section 4.2.4, RFC 3810 section 5.2).
fn records(
    message: &[u8],
    address_bytes: usize,
    group: impl Fn(&[u8]) -> Option<MacAddress>,
    mut said: impl FnMut(Said),
) {
    let count = header_at::<8>(message, 0).map_or(0, |fixed| u16_at(fixed, 6));
    let mut rest = &message[8.min(message.len())..];
    for _ in 0..count {
        let Some(&[kind, more_words, a, b]) = rest.first_chunk::<4>() else { return };
        let sources = usize::from(u16::from_be_bytes([a, b]));
        let bytes = 4 + address_bytes * (1 + sources) + usize::from(more_words) * 4;
        let (Some(group), Some(next)) = (group(&rest[4..]), rest.get(bytes..)) else { return };
        match (kind, sources) {
            // From nobody, or nobody's packets are to be blocked more: that is no interest.
            (1 | 3, 0) => said(Said::Leaves(group)),
            (1..=5, _) => said(Said::Joins(group)),
            _ => {}
        }
        rest = next;
    }
}

/// True for a group that everybody gets, whoever asked: of the link, or of a solicited node.
fn is_for_everybody(mac: MacAddress) -> bool {
    match mac.0 >> 32 {
        0x3333 => mac.0 & 0xffff_ffff < 0x100 || mac.0 >> 24 & 0xff == 0xff,
        _ => mac.0 & 0x00ff_ffff < 0x100,
    }
}

/// What an entry's key says.
fn kind_of(mac: MacAddress) -> GroupKind {
    let is = |keys: [MacAddress; 2]| keys.iter().position(|&key| key == mac);
    match (is(ASKED), is(ROUTER)) {
        (Some(family), _) => GroupKind::Querier { v6: family == 1 },
        (_, Some(family)) => GroupKind::Router { v6: family == 1 },
        _ => GroupKind::Member(mac),
    }
}

/// The family of a group's MAC address; `None`: it is of neither.
fn family_of(mac: MacAddress) -> Option<usize> {
    match (mac.0 >> 32, mac.0 >> 24) {
        (0x3333, _) => Some(1),
        (_, 0x0001_005e) => Some(0),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    network: NetworkId,
    mac: MacAddress,
    port: PortId,
    heard: Tick,
    lifetime: u32,
}

impl Entry {
    fn is_live(&self, now: Tick) -> bool {
        now.since(self.heard) < self.lifetime
    }
}

/// All memberships that a worker knows of.
#[derive(Debug)]
pub(crate) struct Groups {
    index: Index,
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    per_port: Vec<u16>,
    swept: usize,
    seed: u64,
}

/// What hearing of a membership meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Known, and not from long ago.
    Known,
    /// To be told to other workers.
    New,
    /// There is no room for it.
    Full,
}

impl Groups {
    pub(crate) fn new(capacity: usize, ports: usize, seed: u64) -> Groups {
        Groups {
            index: Index::new(capacity),
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            per_port: vec![0; ports],
            swept: 0,
            seed: seed_for(seed, 70),
        }
    }

    /// Makes room for ports up to this many. Set-up only.
    pub(crate) fn grow_ports(&mut self, ports: usize) {
        if self.per_port.len() < ports {
            self.per_port.resize(ports, 0);
        }
    }

    /// Memberships, queriers and routers that are known.
    pub(crate) fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Notes that a port is in a group for so long.
    pub(crate) fn note(
        &mut self,
        (network, mac, port): (NetworkId, MacAddress, PortId),
        lifetime: Duration,
        now: Tick,
    ) -> Noted {
        let lifetime = Tick::count(lifetime);
        if let Some(place) = self.find(network, mac, port) {
            let Some(entry) = &mut self.entries[place] else { return Noted::Full };
            let is_fresh = now.since(entry.heard) < lifetime / 8 && entry.lifetime == lifetime;
            if !is_fresh {
                (entry.heard, entry.lifetime) = (now, lifetime);
            }
            return if is_fresh { Noted::Known } else { Noted::New };
        }
        let own = self.per_port.get_mut(port.index());
        if own.as_ref().is_some_and(|own| **own >= GROUPS_PER_PORT_MAX) {
            return Noted::Full;
        }
        let Some(place) = self.free.pop() else { return Noted::Full };
        if !self.index.insert(hash(self.seed, network, mac, port), place) {
            self.free.push(place);
            return Noted::Full;
        }
        own.into_iter().for_each(|own| *own += 1);
        self.entries[place as usize] = Some(Entry { network, mac, port, heard: now, lifetime });
        Noted::New
    }

    /// Notes that somebody behind a port left a group: unless another says at once that it is
    /// in it, nobody there is. True if that is news.
    pub(crate) fn leave(
        &mut self,
        (network, mac, port): (NetworkId, MacAddress, PortId),
        now: Tick,
    ) -> bool {
        let leaving = Tick::count(LEAVING_FOR);
        let place = self.find(network, mac, port);
        let Some(entry) = place.and_then(|place| self.entries[place].as_mut()) else {
            return false;
        };
        let is_leaving = entry.lifetime == leaving;
        if !is_leaving {
            (entry.heard, entry.lifetime) = (now, leaving);
        }
        !is_leaving
    }

    /// What stands for a querier in a network, and for a router behind a port.
    pub(crate) fn query_keys(
        network: NetworkId,
        port: PortId,
        v6: bool,
    ) -> [(NetworkId, MacAddress, PortId); 2] {
        let family = usize::from(v6);
        [(network, ASKED[family], ANY_PORT), (network, ROUTER[family], port)]
    }

    /// True if frames to this group go only to those who want them.
    pub(crate) fn is_narrow(&self, network: NetworkId, mac: MacAddress, now: Tick) -> bool {
        let Some(family) = family_of(mac).filter(|_| !is_for_everybody(mac)) else { return false };
        self.has(network, ASKED[family], ANY_PORT, now)
    }

    /// True if a port is to have frames to a group: it is in it, or a router is there.
    pub(crate) fn wants(
        &self,
        network: NetworkId,
        mac: MacAddress,
        port: PortId,
        now: Tick,
    ) -> bool {
        self.has(network, mac, port, now)
            || family_of(mac).is_some_and(|family| self.has_router(network, port, family == 1, now))
    }

    /// True if a router is behind a port.
    pub(crate) fn has_router(&self, network: NetworkId, port: PortId, v6: bool, now: Tick) -> bool {
        self.has(network, ROUTER[usize::from(v6)], port, now)
    }

    fn has(&self, network: NetworkId, mac: MacAddress, port: PortId, now: Tick) -> bool {
        let place = self.find(network, mac, port);
        place.and_then(|place| self.entries[place]).is_some_and(|entry| entry.is_live(now))
    }

    /// What is known, of so many places from one on, as much as `out` has room for. Returns where
    /// to go on; `None`: that was all.
    pub(crate) fn view(
        &self,
        from: u32,
        places: u32,
        now: Tick,
        out: &mut Vec<GroupView>,
    ) -> Option<u32> {
        let end = (from as usize + places as usize).min(self.entries.len());
        for (place, entry) in self.entries.iter().enumerate().take(end).skip(from as usize) {
            let Some(entry) = entry.filter(|entry| entry.is_live(now)) else { continue };
            if out.len() == out.capacity() {
                return Some(place as u32);
            }
            let heard = now.since(entry.heard);
            out.push(GroupView {
                network: entry.network,
                kind: kind_of(entry.mac),
                port: (entry.port != ANY_PORT).then_some(entry.port),
                age: Tick::duration(heard),
                left: Tick::duration(entry.lifetime - heard),
            });
        }
        (end < self.entries.len()).then_some(end as u32)
    }

    /// Forgets what is over, of some places.
    pub(crate) fn sweep(&mut self, now: Tick) {
        if self.count() == 0 {
            return;
        }
        for _ in 0..SWEEP_PLACES.min(self.entries.len()) {
            let place = self.swept;
            self.swept = (place + 1) % self.entries.len();
            let Some(entry) = self.entries[place].filter(|entry| !entry.is_live(now)) else {
                continue;
            };
            let hash = hash(self.seed, entry.network, entry.mac, entry.port);
            self.index.remove(hash, place as u32);
            self.entries[place] = None;
            self.free.push(place as u32);
            if let Some(own) = self.per_port.get_mut(entry.port.index()) {
                *own = own.saturating_sub(1);
            }
        }
    }

    fn find(&self, network: NetworkId, mac: MacAddress, port: PortId) -> Option<usize> {
        let is_it = |place: u32| {
            let entry = self.entries.get(place as usize).copied().flatten();
            entry.is_some_and(|own| (own.network, own.mac, own.port) == (network, mac, port))
        };
        self.index.find(hash(self.seed, network, mac, port), is_it).map(|place| place as usize)
    }
}

fn hash(seed: u64, network: NetworkId, mac: MacAddress, port: PortId) -> u64 {
    mix(mix(seed, u64::from(network.0) << 48 | mac.0), u64::from(port.0) ^ seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NETWORK: NetworkId = NetworkId(1);
    const GROUP: MacAddress = MacAddress(0x0100_5e01_0203);

    fn key(mac: MacAddress, port: u16) -> (NetworkId, MacAddress, PortId) {
        (NETWORK, mac, PortId(port))
    }

    fn all_said(frame: &[u8]) -> Vec<Said> {
        let mut all = Vec::new();
        let _ = read(frame, |one| all.push(one));
        all
    }

    /// An IGMP message with its checksum, behind a router alert as senders write it.
    fn igmp(source: [u8; 4], mut message: Vec<u8>) -> Vec<u8> {
        let sum = !checksum::fold(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![1, 0, 0x5e, 1, 2, 3, 2, 0, 0, 0, 0, 1, 8, 0];
        let total = (24 + message.len()) as u8;
        frame.extend([0x46, 0xc0, 0, total, 0, 0, 0x40, 0, 1, IGMP, 0, 0]);
        frame.extend(source);
        frame.extend([239, 1, 2, 3, 0x94, 4, 0, 0]);
        frame.extend(message);
        frame
    }

    #[test]
    fn every_version_of_igmp_is_understood() {
        let said = |message: &[u8]| all_said(&igmp([10, 0, 0, 1], message.to_vec()));
        let router = Said::Query { v6: false, is_router: true };
        assert_eq!(said(&[0x11, 100, 0, 0, 0, 0, 0, 0]), [router]);
        for version in [0x12, 0x16] {
            assert_eq!(said(&[version, 0, 0, 0, 239, 1, 2, 3]), [Said::Joins(GROUP)]);
        }
        assert_eq!(said(&[0x17, 0, 0, 0, 239, 1, 2, 3]), [Said::Leaves(GROUP)]);
        // Two records: excludes nobody; includes nobody any more, with words that mean nothing.
        let records = [
            &[0x22, 0, 0, 0, 0, 0, 0, 2][..],
            &[4, 0, 0, 0, 239, 1, 2, 3],
            &[3, 1, 0, 0, 239, 1, 2, 4, 9, 9, 9, 9],
        ];
        let other = MacAddress(0x0100_5e01_0204);
        assert_eq!(said(&records.concat()), [Said::Joins(GROUP), Said::Leaves(other)]);
        let silent = Said::Query { v6: false, is_router: false };
        assert_eq!(all_said(&igmp([0; 4], vec![0x11, 100, 0, 0, 0, 0, 0, 0])), [silent]);
        let mut wrong = igmp([10, 0, 0, 1], vec![0x16, 0, 0, 0, 239, 1, 2, 3]);
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(all_said(&wrong), [], "a wrong checksum");
    }

    #[test]
    fn who_reports_wants_its_group_until_it_leaves_or_is_silent() {
        let mut groups = Groups::new(16, 8, 1);
        let wants =
            |groups: &Groups, port, at| groups.wants(NETWORK, GROUP, PortId(port), Tick(at));
        assert!(!groups.is_narrow(NETWORK, GROUP, Tick(0)), "nobody asks");
        for key in Groups::query_keys(NETWORK, PortId(3), false) {
            groups.note(key, QUERIER_FOR, Tick(0));
        }
        assert!(groups.is_narrow(NETWORK, GROUP, Tick(0)));
        assert!(!groups.is_narrow(NetworkId(2), GROUP, Tick(0)), "another network");
        for everybody in [0x0100_5e00_00fb, 0x3333_0000_0001, 0x3333_ff01_0203, 0xffff_ffff_ffff] {
            assert!(!groups.is_narrow(NETWORK, MacAddress(everybody), Tick(0)));
        }
        assert_eq!(groups.note(key(GROUP, 2), MEMBER_FOR, Tick(0)), Noted::New);
        assert_eq!(groups.note(key(GROUP, 2), MEMBER_FOR, Tick(1)), Noted::Known);
        assert!(wants(&groups, 2, 1) && wants(&groups, 3, 1) && !wants(&groups, 4, 1));
        assert!(groups.leave(key(GROUP, 2), Tick(10)) && !groups.leave(key(GROUP, 4), Tick(10)));
        let over = 10 + Tick::count(LEAVING_FOR);
        assert!(wants(&groups, 2, over - 1) && !wants(&groups, 2, over));
        // Somebody else behind the port is still in it.
        assert_eq!(groups.note(key(GROUP, 2), MEMBER_FOR, Tick(over)), Noted::New);
        let silent = over + Tick::count(MEMBER_FOR);
        assert!(wants(&groups, 2, silent - 1) && !wants(&groups, 2, silent));
        assert!(!groups.is_narrow(NETWORK, GROUP, Tick(silent)), "nobody asks any more");
        (0..4).for_each(|_| groups.sweep(Tick(silent)));
        assert_eq!((groups.count(), groups.per_port[2]), (0, 0));
    }

    #[test]
    fn one_port_takes_its_share_and_leaves_the_others_theirs() {
        let mut groups = Groups::new(GROUPS_MAX, 8, 1);
        for number in 0..10_000 {
            groups.note(key(MacAddress(0x0100_5e10_0000 + number), 2), MEMBER_FOR, Tick(0));
        }
        assert_eq!(groups.count(), usize::from(GROUPS_PER_PORT_MAX));
        assert_eq!(groups.note(key(GROUP, 3), MEMBER_FOR, Tick(0)), Noted::New);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_nothing_is_read_outside(
            bytes in prop::collection::vec(any::<u8>(), 0..120), v6: bool, cut in 0usize..60,
        ) {
            let report = [&[0x22, 0, 0, 0, 0, 0, 0, 9][..], &bytes].concat();
            let mut frame = igmp([10, 0, 0, 1], report);
            if v6 {
                frame.truncate(14);
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                frame.extend([0x60, 0, 0, 0, 0, bytes.len() as u8, 0, 1]);
                frame.extend([0xfe; 32]);
                frame.extend([58, 0, 5, 2, 0, 0, 1, 0, 143, 0]);
                frame.extend(bytes);
            }
            frame.truncate(frame.len().saturating_sub(cut));
            all_said(&frame);
        }
    }
}
