//! Packet memory: one memfd, mapped once and never unmapped, cut into frames.
//!
//! [chunk 0 | chunk 1 | … | tail 0 | tail 1 | … | rest of the last page]
//!
//! The hard constraint: every byte belongs to exactly one [`Frame`], which is what makes handing
//! out `&'static mut` slices sound. Chunks come first, so that each lies at a multiple of its size,
//! as an AF_XDP UMEM wants. Huge pages are used when the machine has them set aside; otherwise
//! transparent ones are asked for. Chunks are made resident at once; a tail costs memory from its
//! first use on, and pools use the last one again first, so few are ever touched.
//!
//! What this does not do: hand the memory back. It lives as long as the process.

use std::io;

use engine::frame::{CHUNK_BYTES, Frame, TAIL_BYTES, Tail};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};

use crate::error::DriverError;

/// Size of a huge page, in bytes: the 2 MiB of x86-64 and of arm64 with 4 KiB pages. Where it is
/// another, the mapping is refused and ordinary pages are used.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A page, in bytes, to round an ordinary region to; larger pages are no harm, the kernel rounds
/// up by itself.
const PAGE_BYTES: usize = 4096;

const _: () = assert!(PAGE_BYTES.is_multiple_of(CHUNK_BYTES), "no chunk crosses a page");

/// Where the frames lie. The frames themselves are handed out by [`Region::new`].
#[derive(Debug)]
pub struct Region {
    base: usize,
    region_bytes: usize,
    chunk_count: usize,
    huge_pages: bool,
}

impl Region {
    /// Maps memory for this many chunks and tails and cuts it up. Called once, at start.
    ///
    /// # Errors
    /// [`DriverError::Region`] when there is not enough memory.
    pub fn new(
        chunk_count: usize,
        tail_count: usize,
    ) -> Result<(Region, Vec<Frame>, Vec<Tail>), DriverError> {
        let chunks_bytes = chunk_count.checked_mul(CHUNK_BYTES);
        let frames_bytes = tail_count
            .checked_mul(TAIL_BYTES)
            .and_then(|tails_bytes| tails_bytes.checked_add(chunks_bytes?))
            .filter(|&bytes| bytes <= isize::MAX as usize - HUGE_PAGE_BYTES);
        let (Some(chunks_bytes), Some(frames_bytes)) = (chunks_bytes, frames_bytes) else {
            return Err(error(usize::MAX, "counting frames", Errno::OVERFLOW));
        };
        let (memory, huge_pages) = map(frames_bytes)?;
        let base = memory.as_ptr().addr();
        let region_bytes = memory.len();
        let (chunks_memory, rest) = memory.split_at_mut(chunks_bytes);
        make_resident(chunks_memory)?;
        let chunks: Vec<Frame> =
            chunks_memory.chunks_exact_mut(CHUNK_BYTES).map(Frame::new).collect();
        let tails: Vec<Tail> =
            rest.chunks_exact_mut(TAIL_BYTES).take(tail_count).map(Tail::new).collect();
        assert_eq!((chunks.len(), tails.len()), (chunk_count, tail_count), "all frames are cut");
        Ok((Region { base, region_bytes, chunk_count, huge_pages }, chunks, tails))
    }

    /// Bytes mapped, whole pages.
    pub fn region_bytes(&self) -> usize {
        self.region_bytes
    }

    /// How many chunks there are; they lie at the front.
    pub fn chunk_count(&self) -> usize {
        self.chunk_count
    }

    /// Address of the first byte.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// True if the machine's set-aside huge pages are in use.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Distance of a frame's memory from the region's first byte; `None` if it is not of this
    /// region.
    pub fn offset_of(&self, memory: &[u8]) -> Option<usize> {
        let offset = memory.as_ptr().addr().checked_sub(self.base)?;
        (offset < self.region_bytes).then_some(offset)
    }
}

/// Maps at least this many bytes, in huge pages if there are any.
fn map(frames_bytes: usize) -> Result<(&'static mut [u8], bool), DriverError> {
    let huge_bytes = frames_bytes.max(1).next_multiple_of(HUGE_PAGE_BYTES);
    let huge = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    if let Ok(memory) = map_memfd(huge_bytes, huge) {
        return Ok((memory, true));
    }
    let bytes = frames_bytes.max(1).next_multiple_of(PAGE_BYTES);
    let memory =
        map_memfd(bytes, MemfdFlags::CLOEXEC).map_err(|errno| error(bytes, "mapping", errno))?;
    // Without transparent huge pages the region works as well, only with more page-table walks.
    let _ = advise(memory, Advice::LinuxHugepage);
    Ok((memory, false))
}

/// Maps a new memfd whole.
fn map_memfd(bytes: usize, flags: MemfdFlags) -> Result<&'static mut [u8], Errno> {
    let file = memfd_create(c"portolan-frames", flags)?;
    ftruncate(&file, bytes as u64)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a null hint and no MAP_FIXED: the kernel picks an address range that is free, so no
    // memory of the program is replaced.
    let start = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &file, 0) }?;
    // SAFETY: the range was just mapped readable and writable with `bytes` bytes, zeroed by the
    // kernel, and is never unmapped, hence 'static. This is the only mapping of the memfd, and its
    // only descriptor is closed at the end of this function: nobody else can map, shrink or write
    // it, so the reference is unique. `bytes` is at most isize::MAX, checked in `Region::new`.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), bytes) })
}

/// Makes pages resident, so that the first packets take no page faults and a shortage is an error
/// at start.
fn make_resident(memory: &mut [u8]) -> Result<(), DriverError> {
    match advise(memory, Advice::LinuxPopulateWrite) {
        // Kernels before 5.14 do not know this advice: pages come with the first packets then.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(error(memory.len(), "making it resident", errno)),
    }
}

/// Advises the kernel about memory that begins on a page.
fn advise(memory: &mut [u8], advice: Advice) -> Result<(), Errno> {
    assert!(
        matches!(advice, Advice::LinuxHugepage | Advice::LinuxPopulateWrite),
        "advice that keeps what the memory holds"
    );
    // SAFETY: the slice is a live mapping of ours, and both kinds of advice leave its contents and
    // its access rights as they are.
    unsafe { madvise(memory.as_mut_ptr().cast(), memory.len(), advice) }
}

fn error(region_bytes: usize, operation: &'static str, errno: Errno) -> DriverError {
    DriverError::Region { region_bytes, operation, source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use engine::frame::heap_frames;

    use super::*;

    #[test]
    fn every_frame_has_its_own_aligned_memory() {
        let (region, mut chunks, mut tails) = Region::new(100, 7).unwrap();
        assert_eq!((chunks.len(), tails.len()), (100, 7));
        let heads = chunks.iter_mut().map(|chunk| &mut chunk.bytes_mut()[..]);
        let memory = heads.chain(tails.iter_mut().map(|tail| &mut tail.bytes_mut()[..]));
        memory.enumerate().for_each(|(index, memory)| memory.fill(index as u8));
        let heads = chunks.iter().map(|chunk| &chunk.bytes()[..]);
        let memory = heads.chain(tails.iter().map(|tail| &tail.bytes()[..]));
        for (index, memory) in memory.enumerate() {
            assert!(memory.iter().all(|&byte| byte == index as u8));
        }
        for (index, chunk) in chunks.iter().enumerate() {
            assert_eq!(region.offset_of(chunk.bytes()), Some(index * CHUNK_BYTES));
            assert_eq!(chunk.bytes().len(), CHUNK_BYTES);
            assert!(chunk.bytes().as_ptr().addr().is_multiple_of(CHUNK_BYTES));
        }
        let chunks = chunks.iter().map(|frame| &frame.bytes()[..]);
        let memory = chunks.chain(tails.iter().map(|tail| &tail.bytes()[..]));
        let offsets: HashSet<usize> =
            memory.filter_map(|memory| region.offset_of(memory)).collect();
        assert_eq!(offsets.len(), 107);
        assert!(tails.iter().all(|tail| tail.bytes().len() == TAIL_BYTES));
        assert!(region.region_bytes() >= 100 * CHUNK_BYTES + 7 * TAIL_BYTES);
    }

    #[test]
    fn a_frame_of_another_region_has_no_offset() {
        let (region, _, _) = Region::new(4, 1).unwrap();
        let (_, others, _) = Region::new(4, 1).unwrap();
        assert_eq!(region.offset_of(others[0].bytes()), None);
        assert_eq!(region.offset_of(heap_frames(1)[0].bytes()), None);
    }

    #[test]
    fn an_empty_region_has_no_frames() {
        let (_, chunks, tails) = Region::new(0, 0).unwrap();
        assert!(chunks.is_empty() && tails.is_empty());
    }

    #[test]
    fn more_memory_than_there_can_be_is_a_clear_error() {
        for (chunk_count, tail_count) in [(usize::MAX, 0), (0, usize::MAX), (1 << 44, 1)] {
            let error = Region::new(chunk_count, tail_count).unwrap_err();
            assert!(error.to_string().contains("fewer frames"), "{error}");
        }
    }
}
