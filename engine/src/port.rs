//! Where packets come from and go to.
//!
//! The engine knows a driver only as a [`Port`]: one queue of one device, owned by one worker. All
//! of a driver's cost (system calls, rings) is behind it; a memory port in tests and benches is the
//! same to the engine as a TAP.

use crate::frame::FramePool;
use crate::id::PortId;
use crate::packet::Batch;

/// What a port can do, which decides what egress must still do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Takes packets whose transport checksum is partial.
    pub checksum: bool,
    /// Takes TCP super-frames, both families.
    pub tso: bool,
    /// Takes UDP super-frames, both families.
    pub uso: bool,
    /// Takes super-frames that are in a tunnel, and what it takes otherwise in a tunnel, too.
    pub tunnelled: bool,
    /// Largest IP packet that the device sends, in bytes.
    pub mtu: u16,
}

/// One queue of a device, owned by one worker.
pub trait Port: Send {
    /// Receives into frames of the pool and appends to `batch` up to its capacity, or until
    /// [`BATCH_BYTES_MAX`](crate::packet::BATCH_BYTES_MAX) are received. Receives nothing when
    /// nothing waits; does not block.
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch);

    /// True if the last `rx` ended before it saw the device empty, although the batch had room: the
    /// worker comes again. A port that says so for ever keeps its worker awake.
    fn has_more(&self) -> bool {
        false
    }

    /// Sends what it can and removes it from `out`, front first; what stays in `out` the worker
    /// drops as `egress_full`. Frames of sent packets go back to the pool, now or in `flush`.
    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch);

    /// Ends a turn: rings the driver's bell, takes back frames that were sent.
    fn flush(&mut self, frames: &mut FramePool);

    /// What the port can do. Called at start and after a change, not per packet.
    fn caps(&self) -> Caps;

    /// False once the device is gone for good (its namespace was destroyed). The worker then stops
    /// using the port and tells the runner.
    fn alive(&self) -> bool {
        true
    }

    /// Packets that the driver refused since the last call, because the header that came with them
    /// lied about their offload. The worker counts them as `malformed_offload`.
    fn take_rejected(&mut self) -> u64 {
        0
    }

    /// Packets that the kernel dropped since the last call because the driver's ring had no room
    /// for them. The worker counts them as `ingress_full`.
    fn take_missed(&mut self) -> u64 {
        0
    }

    /// Gives every held frame back, before the port is dropped.
    fn release(&mut self, _frames: &mut FramePool) {}

    /// Frames that the port holds now, chunks and tails: for conservation checks.
    fn held_frames(&self) -> (usize, usize) {
        (0, 0)
    }
}

/// A set of ports: those that may have something to receive. One bit each; visiting costs nothing
/// for idle ports beyond one word per 64.
#[derive(Clone, Debug, Default)]
pub struct PortSet {
    words: Vec<u64>,
}

impl PortSet {
    /// An empty set for ports with ids below `port_count`.
    pub fn new(port_count: usize) -> PortSet {
        PortSet { words: vec![0; port_count.div_ceil(64)] }
    }

    /// Adds a port. A port beyond the set's size makes it grow: set-up only.
    pub fn insert(&mut self, port: PortId) {
        let word = port.index() / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (port.index() % 64);
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: PortId) {
        if let Some(word) = self.words.get_mut(port.index() / 64) {
            *word &= !(1 << (port.index() % 64));
        }
    }

    /// True if the port is in the set.
    pub fn contains(&self, port: PortId) -> bool {
        self.words.get(port.index() / 64).is_some_and(|word| word >> (port.index() % 64) & 1 == 1)
    }

    /// True if no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The first port of the set at or after `from`.
    pub fn next_from(&self, from: usize) -> Option<PortId> {
        let (mut index, bit) = (from / 64, from % 64);
        let mut word = self.words.get(index)? & (!0 << bit);
        loop {
            if word != 0 {
                return Some(PortId((index * 64) as u16 + word.trailing_zeros() as u16));
            }
            index += 1;
            word = *self.words.get(index)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_walked_in_order() {
        let mut set = PortSet::new(200);
        for port in [3, 64, 199, 127] {
            set.insert(PortId(port));
        }
        let mut walked = Vec::new();
        let mut from = 0;
        while let Some(port) = set.next_from(from) {
            walked.push(port.0);
            from = port.index() + 1;
        }
        assert_eq!(walked, [3, 64, 127, 199]);
        set.remove(PortId(64));
        assert!(!set.contains(PortId(64)) && set.contains(PortId(3)) && !set.is_empty());
    }
}
