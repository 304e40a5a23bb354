//! Segments of a super-frame that differ in little: all but the first, if it has a flag of its own,
//! and the last, if it is shorter or has one.
//!
//! [headers of all of them, as they are | payload] is copied, and then only the IPv4
//! identification, the TCP sequence number and the checksums are written. All else, sums included,
//! was worked out once. That is what makes cutting cost little more than the copy. The one hard
//! constraint: the same segments as [`Plan::set_headers`] gives, byte for byte.

use super::{HEAD_BYTES_MAX, Payload, Plan, segment_flags, write_u16};
use crate::frame::{FramePool, HEADROOM_BYTES};
use crate::packet::{Meta, Packet, WINDOW_BYTES};
use crate::wire::checksum::{fold, turned};
use crate::wire::{ipv4, ipv6, tcp, udp};

/// Headers of TCP with time stamps: 66 bytes over IPv4, 86 over IPv6.
const USUAL_BYTES: usize = 96;

/// What these segments share.
pub(super) struct Alike<'a> {
    plan: &'a Plan,
    /// The headers, but for what is their own.
    window: [u8; WINDOW_BYTES],
    meta: Meta,
    /// The index of the first one, and that of the first that is no more of them.
    from: usize,
    to: usize,
    /// The IPv4 header without identification and checksum, in native order.
    ip_sum: u64,
    /// Pseudo-header and transport header without sequence number and checksum, likewise.
    transport_sum: u64,
}

impl<'a> Alike<'a> {
    /// What segments that are alike share; `None` when there are none, or when one does not lie in
    /// a window and a chunk.
    pub(super) fn among(plan: &'a Plan, packet: &Packet) -> Option<Alike<'a>> {
        let flags = |is_first, is_last| {
            plan.tcp.map_or(0, |tcp| segment_flags(tcp.flags, is_first, is_last))
        };
        let is_last_whole = plan.payload_bytes == plan.segment_count * plan.segment_bytes;
        let is_last_alike = is_last_whole && flags(false, true) == flags(false, false);
        let from = usize::from(flags(true, false) != flags(false, false));
        let to = plan.segment_count - usize::from(!is_last_alike);
        let fits = plan.header_bytes <= WINDOW_BYTES
            && plan.header_bytes + plan.segment_bytes <= HEAD_BYTES_MAX;
        if from >= to || !fits {
            return None;
        }
        let transport_bytes = (plan.header_bytes - plan.l4 + plan.segment_bytes) as u16;
        let l3_bytes = (plan.l4 - plan.l3) as u16 + transport_bytes;
        let mut meta = packet.meta;
        meta.l3_bytes = u32::from(l3_bytes);
        let mut window = *packet.window();
        match plan.v6 {
            true => {
                let payload_length = l3_bytes - ipv6::HEADER_BYTES as u16;
                write_u16(&mut window, plan.l3 + ipv6::PAYLOAD_LENGTH, payload_length);
            }
            false => write_u16(&mut window, plan.l3 + ipv4::TOTAL_LENGTH, l3_bytes),
        }
        let mut transport_sum = plan.transport_sum + u64::from(transport_bytes);
        match plan.tcp {
            Some(_) => {
                let flags = flags(false, false);
                window[plan.l4 + tcp::FLAGS] = flags;
                meta.tcp_flags = flags;
                transport_sum += u64::from(flags);
            }
            None => {
                write_u16(&mut window, plan.l4 + udp::LENGTH, transport_bytes);
                meta.tcp_flags = 0;
                transport_sum += u64::from(transport_bytes);
            }
        }
        let ip_sum = turned(plan.ip_sum + u64::from(l3_bytes));
        let transport_sum = turned(transport_sum);
        Some(Alike { plan, window, meta, from, to, ip_sum, transport_sum })
    }

    /// True if this is the index of the first one.
    pub(super) fn begins_at(&self, index: usize) -> bool {
        index == self.from
    }

    /// Gives each of them to `emit`; returns the index of the segment that comes next. `None` when
    /// the pool has run dry.
    #[inline]
    pub(super) fn cut(
        &self,
        payload: &mut Payload<'_>,
        frames: &mut FramePool,
        emit: &mut impl FnMut(Packet, &mut FramePool),
    ) -> Option<usize> {
        let Plan { header_bytes, segment_bytes, .. } = *self.plan;
        for index in self.from..self.to {
            let chunk = frames.take_chunk()?;
            let mut segment = Packet::new(chunk, HEADROOM_BYTES, header_bytes + segment_bytes);
            segment.meta = self.meta;
            self.copy_headers(segment.window_mut());
            let payload_sum = payload.copy_natively(&mut segment.head_mut()[header_bytes..]);
            self.set_own(segment.window_mut(), index, payload_sum);
            emit(segment, frames);
        }
        Some(self.to)
    }

    /// Copies the headers, and what follows them up to a length that is known.
    #[inline(always)]
    fn copy_headers(&self, window: &mut [u8; WINDOW_BYTES]) {
        match self.plan.header_bytes <= USUAL_BYTES {
            true => window[..USUAL_BYTES].copy_from_slice(&self.window[..USUAL_BYTES]),
            false => *window = self.window,
        }
    }

    /// Writes what is a segment's own.
    #[inline(always)]
    fn set_own(&self, window: &mut [u8; WINDOW_BYTES], index: usize, payload_sum: u64) {
        let plan = self.plan;
        if !plan.v6 {
            let identification = plan.identification.wrapping_add(index as u16).to_be_bytes();
            let total = self.ip_sum + u64::from(u16::from_ne_bytes(identification));
            put(window, plan.l3 + ipv4::IDENTIFICATION, identification);
            put(window, plan.l3 + ipv4::CHECKSUM, (!fold(total)).to_ne_bytes());
        }
        let total = self.transport_sum + payload_sum;
        if let Some(tcp) = plan.tcp {
            let sequence = tcp.sequence.wrapping_add((index * plan.segment_bytes) as u32);
            let total = total + u64::from(u32::from_ne_bytes(sequence.to_be_bytes()));
            put(window, plan.l4 + tcp::SEQUENCE, sequence.to_be_bytes());
            put(window, plan.l4 + tcp::CHECKSUM, (!fold(total)).to_ne_bytes());
        } else {
            let checksum = super::udp_checksum(!fold(total));
            put(window, plan.l4 + udp::CHECKSUM, checksum.to_ne_bytes());
        }
    }
}

/// Writes bytes into a window, in which they lie, as [`Alike::among`] has seen: said so that it
/// takes no branch.
#[inline(always)]
fn put<const BYTES: usize>(window: &mut [u8; WINDOW_BYTES], at: usize, bytes: [u8; BYTES]) {
    debug_assert!(at + BYTES <= WINDOW_BYTES, "a header's field");
    let at = at.min(WINDOW_BYTES - BYTES);
    window[at..at + BYTES].copy_from_slice(&bytes);
}
