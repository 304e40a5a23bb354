//! The forwarding database: which port a MAC address of a network is behind.
//!
//! One cache line holds four entries, key and value together, so a hit costs one line. Two kinds
//! share it: *members*, copied here from the tables and valid for one snapshot of them, and
//! *stations*, learnt from frames and aged after [`AGE`] (IEEE 802.1Q: 300 s). Each port may learn
//! a share only, so one endpoint cannot push out the others' stations. Fixed memory.

use std::time::Duration;

use crate::flow::{mix, seed_for};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::time::Tick;
use crate::worker::StationView;

/// After how long a station that was not heard is forgotten.
pub(crate) const AGE: Duration = Duration::from_secs(300);
const AGE_TICKS: u32 = Tick::count(AGE);

/// Entries of one bucket.
const WAYS: usize = 4;
/// Buckets swept for aged stations per call of [`Fdb::sweep`].
const SWEEP_BUCKETS: usize = 16;

/// `[network 16 | MAC 48]`; no entry of a network with id 0xffff exists.
type Key = u64;
const FREE: Key = u64::MAX;

/// `[port 16 | learnt 1 | generation 15 | last seen 32]`
#[derive(Clone, Copy, Debug, Default)]
struct Value(u64);

const LEARNT: u64 = 1 << 47;

impl Value {
    fn member(port: PortId, generation: u32) -> Value {
        Value(u64::from(port.0) << 48 | u64::from(generation & 0x7fff) << 32)
    }

    fn station(port: PortId, now: Tick) -> Value {
        Value(u64::from(port.0) << 48 | LEARNT | u64::from(now.0))
    }

    #[inline(always)]
    fn port(self) -> PortId {
        PortId((self.0 >> 48) as u16)
    }

    #[inline(always)]
    fn is_learnt(self) -> bool {
        self.0 & LEARNT != 0
    }

    #[inline(always)]
    fn is_valid(self, generation: u32, now: Tick) -> bool {
        // A member's stamp has the bit of a learnt one clear: one comparison says both.
        let is_member = (self.0 >> 32) as u16 == generation as u16 & 0x7fff;
        is_member || (self.is_learnt() && now.since(Tick(self.0 as u32)) < AGE_TICKS)
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    keys: [Key; WAYS],
    values: [Value; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

/// What hearing a station meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Known, at the same port, not long ago.
    Known,
    /// New, or not heard for a while: tell the other workers.
    New,
    /// It was behind another port: tell the other workers.
    Moved,
    /// Not learnt: the port has used up its share.
    ShareFull,
    /// Not learnt: no room.
    Full,
}

/// The FDB of one worker, all networks.
#[derive(Debug)]
pub(crate) struct Fdb {
    buckets: Box<[Bucket]>,
    mask: usize,
    seed: u64,
    per_port: Vec<u32>,
    per_port_max: u32,
    count: usize,
    sweep_position: usize,
}

impl Fdb {
    pub(crate) fn new(capacity: usize, per_port_max: u32, ports: usize, seed: u64) -> Fdb {
        let count = (capacity * 2).div_ceil(WAYS).next_power_of_two().max(2);
        let bucket = Bucket { keys: [FREE; WAYS], values: [Value(0); WAYS] };
        Fdb {
            buckets: vec![bucket; count].into_boxed_slice(),
            mask: count - 1,
            seed: seed_for(seed, 40),
            per_port: vec![0; ports],
            per_port_max,
            count: 0,
            sweep_position: 0,
        }
    }

    /// Makes room for counting stations of ports up to this many. Set-up only.
    pub(crate) fn grow_ports(&mut self, ports: usize) {
        if self.per_port.len() < ports {
            self.per_port.resize(ports, 0);
        }
    }

    /// The port of an address, if the entry may be used under this snapshot.
    #[inline(always)]
    pub(crate) fn port_of(
        &self,
        network: NetworkId,
        mac: u64,
        generation: u32,
        now: Tick,
    ) -> Option<PortId> {
        let key = key_of(network, mac);
        let first = self.bucket_of(key);
        let value = match self.likely_value(first, key) {
            Some(value) => value,
            None => self.value_elsewhere(first, key)?,
        };
        value.is_valid(generation, now).then(|| value.port())
    }

    /// [`port_of`](Fdb::port_of), if the entry is one of the first two of its first bucket, where
    /// it nearly always is.
    #[inline(always)]
    pub(crate) fn likely_port_of(
        &self,
        network: NetworkId,
        mac: u64,
        generation: u32,
        now: Tick,
    ) -> Option<PortId> {
        let key = key_of(network, mac);
        let value = self.likely_value(self.bucket_of(key), key)?;
        value.is_valid(generation, now).then(|| value.port())
    }

    /// True if a station is known to be behind this port, and not only from long ago: there is
    /// nothing to be learnt from hearing it.
    #[inline(always)]
    pub(crate) fn is_fresh(
        &self,
        network: NetworkId,
        mac: u64,
        port: PortId,
        generation: u32,
        now: Tick,
    ) -> bool {
        let key = key_of(network, mac);
        let Some(value) = self.likely_value(self.bucket_of(key), key) else { return false };
        let is_recent = now.since(Tick(value.0 as u32)) < AGE_TICKS / 8;
        value.port() == port && value.is_valid(generation, now) && (is_recent || !value.is_learnt())
    }

    #[inline(always)]
    fn likely_value(&self, first: usize, key: Key) -> Option<Value> {
        let bucket = self.buckets.get(first)?;
        if bucket.keys[0] == key {
            Some(bucket.values[0])
        } else if bucket.keys[1] == key {
            Some(bucket.values[1])
        } else {
            None
        }
    }

    #[inline(never)]
    fn value_elsewhere(&self, first: usize, key: Key) -> Option<Value> {
        [first, first ^ 1].into_iter().find_map(|bucket| {
            let bucket = &self.buckets[bucket];
            let way = bucket.keys.iter().position(|&other| other == key)?;
            Some(bucket.values[way])
        })
    }

    #[inline(always)]
    fn bucket_of(&self, key: Key) -> usize {
        mix(key ^ self.seed, 0x9e37_79b9_7f4a_7c15) as usize & self.mask
    }

    /// The port behind which a station was learnt.
    pub(crate) fn learnt(&self, network: NetworkId, mac: MacAddress, now: Tick) -> Option<PortId> {
        let (bucket, way) = self.position(key_of(network, mac.0))?;
        let value = self.buckets[bucket].values[way];
        (value.is_learnt() && value.is_valid(0, now)).then(|| value.port())
    }

    /// Forgets what was learnt of an address.
    pub(crate) fn forget_station(&mut self, network: NetworkId, mac: MacAddress) {
        let key = key_of(network, mac.0);
        let found = self.position(key).map(|(bucket, way)| self.buckets[bucket].values[way]);
        if found.is_some_and(Value::is_learnt) {
            self.remove(key);
        }
    }

    /// Forgets all that was learnt.
    pub(crate) fn forget_stations(&mut self) {
        for bucket in &mut self.buckets {
            for (key, value) in bucket.keys.iter_mut().zip(&bucket.values) {
                if value.is_learnt() {
                    *key = FREE;
                }
            }
        }
        self.per_port.fill(0);
        self.count = 0;
    }

    fn position(&self, key: Key) -> Option<(usize, usize)> {
        let first = self.bucket_of(key);
        [first, first ^ 1].into_iter().find_map(|bucket| {
            let way = self.buckets[bucket].keys.iter().position(|&other| other == key)?;
            Some((bucket, way))
        })
    }

    fn put(&mut self, key: Key, value: Value) -> bool {
        let first = self.bucket_of(key);
        for bucket in [first, first ^ 1] {
            let free = self.buckets[bucket].keys.iter().position(|&other| other == FREE);
            if let Some(way) = free {
                self.buckets[bucket].keys[way] = key;
                self.buckets[bucket].values[way] = value;
                self.count += usize::from(value.is_learnt());
                return true;
            }
        }
        false
    }

    /// Keeps a member from the tables, so that the next look-up is a hit. Without room nothing
    /// happens: the next look-up asks the tables again.
    pub(crate) fn keep_member(
        &mut self,
        network: NetworkId,
        mac: MacAddress,
        port: PortId,
        generation: u32,
    ) {
        let key = key_of(network, mac.0);
        self.remove(key);
        self.put(key, Value::member(port, generation));
    }

    /// Notes that a station was heard behind a port.
    pub(crate) fn hear(
        &mut self,
        network: NetworkId,
        mac: MacAddress,
        port: PortId,
        now: Tick,
    ) -> Heard {
        let key = key_of(network, mac.0);
        if let Some((bucket, way)) = self.position(key) {
            let value = self.buckets[bucket].values[way];
            if value.is_learnt() && value.port() == port {
                let age = now.since(Tick(value.0 as u32));
                self.buckets[bucket].values[way] = Value::station(port, now);
                return if age > AGE_TICKS / 4 { Heard::New } else { Heard::Known };
            }
        }
        if self.per_port.get(port.index()).is_none_or(|&count| count >= self.per_port_max) {
            return Heard::ShareFull;
        }
        let moved = self.remove(key).is_some_and(Value::is_learnt);
        if !self.put(key, Value::station(port, now)) {
            return Heard::Full;
        }
        self.per_port[port.index()] += 1;
        if moved { Heard::Moved } else { Heard::New }
    }

    fn remove(&mut self, key: Key) -> Option<Value> {
        let (bucket, way) = self.position(key)?;
        let value = self.buckets[bucket].values[way];
        self.buckets[bucket].keys[way] = FREE;
        if value.is_learnt() {
            self.count -= 1;
            if let Some(count) = self.per_port.get_mut(value.port().index()) {
                *count = count.saturating_sub(1);
            }
        }
        Some(value)
    }

    /// Forgets aged stations and stale members of a few buckets; bounded work.
    pub(crate) fn sweep(&mut self, generation: u32, now: Tick) {
        for _ in 0..SWEEP_BUCKETS.min(self.buckets.len()) {
            let bucket = self.buckets[self.sweep_position];
            for way in 0..WAYS {
                let (key, value) = (bucket.keys[way], bucket.values[way]);
                if key != FREE && !value.is_valid(generation, now) {
                    self.remove(key);
                }
            }
            self.sweep_position = (self.sweep_position + 1) & self.mask;
        }
    }

    /// Appends the stations of as many places from `from` on as asked for, in whole buckets. `out`
    /// must have room for them all. Returns where to go on; `None`: that was all.
    pub(crate) fn view(
        &self,
        from: u32,
        places: u32,
        now: Tick,
        out: &mut Vec<StationView>,
    ) -> Option<u32> {
        let first = from as usize / WAYS;
        let end = (first + places as usize / WAYS).min(self.buckets.len());
        for bucket in self.buckets.get(first..end)? {
            for (&key, &value) in bucket.keys.iter().zip(&bucket.values) {
                let live = key != FREE && value.is_learnt() && value.is_valid(0, now);
                if live && out.len() < out.capacity() {
                    out.push(StationView {
                        network: NetworkId((key >> 48) as u16),
                        mac: MacAddress(key & 0xffff_ffff_ffff),
                        port: value.port(),
                        age: Tick::duration(now.since(Tick(value.0 as u32))),
                    });
                }
            }
        }
        (end < self.buckets.len()).then_some((end * WAYS) as u32)
    }

    /// Stations now; members are not counted.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[inline(always)]
fn key_of(network: NetworkId, mac: u64) -> Key {
    u64::from(network.0) << 48 | mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId(1);

    fn mac(number: u64) -> MacAddress {
        MacAddress(0x0200_0000_0000 + number)
    }

    #[test]
    fn a_station_is_learnt_moves_and_is_forgotten() {
        let mut fdb = Fdb::new(64, 8, 4, 1);
        assert_eq!(fdb.hear(NETWORK, mac(1), PortId(1), Tick(0)), Heard::New);
        assert_eq!(fdb.hear(NETWORK, mac(1), PortId(1), Tick(9)), Heard::Known);
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 1, Tick(9)), Some(PortId(1)));
        assert_eq!(fdb.hear(NETWORK, mac(1), PortId(2), Tick(10)), Heard::Moved);
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 1, Tick(10)), Some(PortId(2)));
        assert_eq!(fdb.port_of(NetworkId(2), mac(1).0, 1, Tick(10)), None);
        let late = Tick(10 + AGE_TICKS);
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 1, late), None);
        for _ in 0..100 {
            fdb.sweep(1, late);
        }
        assert_eq!((fdb.count(), fdb.per_port[1], fdb.per_port[2]), (0, 0, 0));
    }

    #[test]
    fn a_flood_of_addresses_from_one_port_leaves_the_others_their_room() {
        let mut fdb = Fdb::new(1_024, 16, 4, 1);
        for number in 0..10_000 {
            fdb.hear(NETWORK, mac(number), PortId(1), Tick(0));
        }
        assert_eq!(fdb.count(), 16);
        assert_eq!(fdb.hear(NETWORK, mac(20_000), PortId(1), Tick(0)), Heard::ShareFull);
        assert_eq!(fdb.hear(NETWORK, mac(20_001), PortId(2), Tick(0)), Heard::New);
    }

    #[test]
    fn a_member_is_valid_for_its_snapshot_only() {
        let mut fdb = Fdb::new(64, 8, 4, 1);
        fdb.keep_member(NETWORK, mac(1), PortId(3), 7);
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 7, Tick(0)), Some(PortId(3)));
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 8, Tick(0)), None);
        fdb.keep_member(NETWORK, mac(1), PortId(2), 8);
        assert_eq!(fdb.port_of(NETWORK, mac(1).0, 8, Tick(0)), Some(PortId(2)));
        assert_eq!(fdb.count(), 0, "members are not counted");
    }
}
