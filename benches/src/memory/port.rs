//! Ports in memory: each gives prepared packets over and over, and takes packets back.
//!
//! Receiving a packet copies its prepared first bytes into the frame that was sent longest ago. The
//! one hard constraint: what that costs is the same in every case, so that cases can be compared;
//! packets of a tunnel are a line longer than others, and cost a copy of a line more.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use engine::frame::{Frame, FramePool, HEADROOM_BYTES};
use engine::packet::BATCH_LEN;
use engine::{Batch, Caps, Packet, Port};

/// Room for frames that wait in a port to be received into: in two ports 8,192 circulate.
pub(super) const RECYCLED: usize = 4_096 + BATCH_LEN;

/// A prepared packet in so many bytes, of which all but the last four or eighteen are its own: the
/// smallest Ethernet frame without its check sequence in one line, and the same in a tunnel in two.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Header<const BYTES: usize = 64>(pub(super) [u8; BYTES]);

impl<const BYTES: usize> Header<BYTES> {
    /// Bytes of the packet.
    pub(super) const FRAME_BYTES: usize = if BYTES == 64 { 60 } else { 110 };

    /// The packet.
    pub(super) fn frame(&self) -> &[u8] {
        &self.0[..Self::FRAME_BYTES]
    }
}

/// Gives prepared packets in order, over and over; takes packets back.
pub(super) struct MemoryPort<const BYTES: usize = 64> {
    headers: Arc<Vec<Header<BYTES>>>,
    next: usize,
    /// Packets to give first, for set-up.
    injected: Receiver<Vec<u8>>,
    /// How many prepared packets may still be given.
    allowance: Arc<AtomicUsize>,
    /// Frames that were sent, to receive into again: a ring that is used by whole batches.
    recycled: Box<[Option<Frame>]>,
    oldest: usize,
    count: usize,
    /// Where packets pass one way only, both ports have the same ring, which is here while none of
    /// them uses it: else their frames would go round by the pool.
    shared: Option<Arc<Shared>>,
}

/// A ring that ports share: what each has for itself.
pub(super) type Shared = Mutex<(Box<[Option<Frame>]>, usize, usize)>;

/// A ring for ports to share.
pub(super) fn shared() -> Arc<Shared> {
    Arc::new(Mutex::new((empty(), 0, 0)))
}

fn empty() -> Box<[Option<Frame>]> {
    (0..RECYCLED).map(|_| None).collect()
}

impl<const BYTES: usize> MemoryPort<BYTES> {
    pub(super) fn new(
        headers: Arc<Vec<Header<BYTES>>>,
        injected: Receiver<Vec<u8>>,
        allowance: Arc<AtomicUsize>,
    ) -> MemoryPort<BYTES> {
        assert!(headers.len() < BATCH_LEN || headers.len().is_multiple_of(BATCH_LEN));
        let (recycled, shared) = (empty(), None);
        MemoryPort { headers, next: 0, injected, allowance, recycled, oldest: 0, count: 0, shared }
    }

    /// Takes the shared ring, or puts it back.
    #[inline(always)]
    fn change_rings(&mut self) {
        if self.shared.is_some() {
            self.change_shared();
        }
    }

    #[inline(never)]
    fn change_shared(&mut self) {
        if let Some(shared) = &self.shared {
            let mut shared = shared.lock().expect("nobody panics while holding it");
            let (recycled, oldest, count) = &mut *shared;
            std::mem::swap(recycled, &mut self.recycled);
            std::mem::swap(oldest, &mut self.oldest);
            std::mem::swap(count, &mut self.count);
        }
    }

    /// Gives a full batch in the frames that were sent longest ago.
    pub(super) fn give(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        while self.count < RECYCLED - BATCH_LEN {
            let place = (self.oldest + self.count) % RECYCLED;
            self.recycled[place] = frames.take_chunk();
            self.count += 1;
        }
        if self.next >= self.headers.len() {
            self.next = 0;
        }
        let headers = &self.headers[self.next..self.next + BATCH_LEN];
        self.next += BATCH_LEN;
        let recycled = &mut self.recycled[self.oldest..self.oldest + BATCH_LEN];
        self.oldest = (self.oldest + BATCH_LEN) % RECYCLED;
        self.count -= BATCH_LEN;
        batch.extend(recycled.iter_mut().zip(headers).map(|(place, header)| {
            let mut frame = place.take().expect("filled above");
            let room = &mut frame.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + BYTES];
            room.copy_from_slice(&header.0);
            Packet::new(frame, HEADROOM_BYTES, Header::<BYTES>::FRAME_BYTES)
        }));
    }

    /// Takes a full batch back, if there is room.
    fn take_back(&mut self, out: &mut Batch) {
        let newest = (self.oldest + self.count) % RECYCLED;
        for (place, packet) in
            self.recycled[newest..newest + BATCH_LEN].iter_mut().zip(out.drain(..))
        {
            let (head, tail) = packet.into_frames();
            assert!(tail.is_none(), "no super-frames here");
            *place = Some(head);
        }
        self.count += BATCH_LEN;
    }
}

impl<const BYTES: usize> Port for MemoryPort<BYTES> {
    fn rx(&mut self, frames: &mut FramePool, batch: &mut Batch) {
        while let Ok(bytes) = self.injected.try_recv() {
            batch.extend(Packet::copy_of(&bytes, frames));
        }
        if self.allowance.load(Relaxed) == BATCH_LEN && batch.is_empty() {
            self.allowance.store(0, Relaxed);
            self.change_rings();
            self.give(frames, batch);
            self.change_rings();
        }
    }

    fn tx(&mut self, frames: &mut FramePool, out: &mut Batch) {
        if out.is_full() {
            self.change_rings();
            if self.count + BATCH_LEN <= RECYCLED {
                self.take_back(out);
            }
            self.change_rings();
        }
        out.drain(..).for_each(|packet| packet.recycle(frames));
    }

    fn flush(&mut self, _frames: &mut FramePool) {}

    fn caps(&self) -> Caps {
        Caps { mtu: 1500, ..Caps::default() }
    }

    fn held_frames(&self) -> (usize, usize) {
        (self.count, 0)
    }
}

/// The control side of a memory port.
pub(super) struct Handle {
    pub(super) inject: Sender<Vec<u8>>,
    pub(super) allowance: Arc<AtomicUsize>,
}

impl Handle {
    /// A port that gives these packets, and its control side.
    pub(super) fn of<const BYTES: usize>(
        headers: &Arc<Vec<Header<BYTES>>>,
        shared: Option<&Arc<Shared>>,
    ) -> (Handle, Box<dyn Port>) {
        let (inject, injected) = channel();
        let allowance = Arc::new(AtomicUsize::new(0));
        let mut port = MemoryPort::new(headers.clone(), injected, allowance.clone());
        port.shared = shared.cloned();
        (Handle { inject, allowance }, Box::new(port))
    }
}
