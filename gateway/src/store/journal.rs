//! The file under the store: a header and records, appended and never edited.
//!
//! ```text
//! portolan gateway state, format 1\n
//! [payload bytes u32 | checksum u32 | sequence u64 | payload] [record] [record] …
//! ```
//!
//! All numbers are little-endian; the checksum (CRC-32) covers everything of the record but
//! itself; sequences count from 1. One record is one commit, so a commit is there whole or not at
//! all. The one hard constraint: what was acknowledged is found again. So a record that is broken
//! is dropped only at the very end, where a crash can have cut it before it was acknowledged;
//! anything else that does not fit is refused, and the file is left as it is for a person to look
//! at. What is in the payload is not known here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;

/// The version that this program writes and reads.
const FORMAT: u64 = 1;

/// What every version begins with. A number and a line feed follow.
const OWNER: &str = "portolan gateway state, format ";

/// Length, checksum and sequence.
const RECORD_HEADER_BYTES: usize = 16;

/// Larger files are refused: they are read into memory. A million leases are a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Up to here the file is good and on the disk.
    file_bytes: u64,
    /// Sequence of the last good record.
    sequence: u64,
    /// What the disk holds is not known (after a failed `fsync` it may be anything): only a whole
    /// new file can be trusted.
    suspect: bool,
    /// Test injection: the next calls of `fsync` fail.
    #[cfg(test)]
    pub(super) failing_syncs: std::cell::Cell<u32>,
}

impl Journal {
    /// Opens the journal of a folder, or makes an empty one. Returns the payloads, oldest first,
    /// each with the offset of its record.
    pub(super) fn open(path: PathBuf) -> Result<(Journal, Vec<Record>), StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Journal::create(path)?, Vec::new()));
            }
            Err(source) => return Err(failed("open", &path, source)),
        };
        let bytes = read_whole(&file, &path)?;
        let contents = parse(&bytes, &path)?;
        let (good_bytes, sequence) = (contents.good_bytes, contents.payloads.len() as u64);
        let mut journal = Journal {
            path,
            file,
            file_bytes: good_bytes as u64,
            sequence,
            suspect: good_bytes == 0,
            #[cfg(test)]
            failing_syncs: Default::default(),
        };
        if good_bytes < bytes.len() {
            let dropped_bytes = bytes.len() - good_bytes;
            let path = journal.path.display();
            tracing::warn!(
                %path, dropped_bytes,
                "the last record was cut off before it was acknowledged: dropped"
            );
            journal.truncate().map_err(|source| failed("shorten", &journal.path, source))?;
        }
        if good_bytes == 0 {
            journal.rewrite(None)?;
        }
        Ok((journal, contents.payloads))
    }

    fn create(path: PathBuf) -> Result<Journal, StoreError> {
        let file = write_new(&path, None).map_err(|source| failed("make", &path, source))?;
        put_in_place(&path).map_err(|source| failed("make", &path, source))?;
        Ok(Journal {
            file_bytes: header().len() as u64,
            path,
            file,
            sequence: 0,
            suspect: false,
            #[cfg(test)]
            failing_syncs: Default::default(),
        })
    }

    /// How large the file is.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// True if only [`Journal::rewrite`] can make a commit durable.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Appends a record. When this returns, it is on the disk; on an error it is not there.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let record = encode(self.sequence + 1, payload);
        let written = self.file.write_all_at(&record, self.file_bytes);
        if let Err(source) = written {
            // A full disk takes part of a record. Cut off, it costs nothing; left there, a crash
            // would show it as a torn record, which is dropped as well.
            self.suspect = self.truncate().is_err();
            return Err(failed("write", &self.path, source));
        }
        if let Err(source) = self.sync() {
            self.suspect = true;
            let _ = self.truncate();
            return Err(failed("sync", &self.path, source));
        }
        self.file_bytes += record.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Replaces the file by a new one with one record, or none. On an error either the old or the
    /// new one is in place, and the journal is suspect in the second case.
    pub(super) fn rewrite(&mut self, payload: Option<&[u8]>) -> Result<(), StoreError> {
        let file = write_new(&self.path, payload)
            .and_then(|file| self.injected().map(|()| file))
            .map_err(|source| failed("write anew", &self.path, source))?;
        self.suspect = true;
        put_in_place(&self.path).map_err(|source| failed("replace", &self.path, source))?;
        let record_bytes = payload.map_or(0, |payload| RECORD_HEADER_BYTES + payload.len());
        self.file = file;
        self.file_bytes = (header().len() + record_bytes) as u64;
        self.sequence = u64::from(payload.is_some());
        self.suspect = false;
        Ok(())
    }

    fn truncate(&self) -> io::Result<()> {
        self.file.set_len(self.file_bytes)?;
        self.file.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        self.injected()?;
        self.file.sync_data()
    }

    #[cfg(test)]
    fn injected(&self) -> io::Result<()> {
        match self.failing_syncs.get() {
            0 => Ok(()),
            left => {
                self.failing_syncs.set(left - 1);
                Err(rustix::io::Errno::IO.into())
            }
        }
    }

    #[cfg(not(test))]
    fn injected(&self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

fn header() -> String {
    format!("{OWNER}{FORMAT}\n")
}

fn read_whole(file: &File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let file_bytes = file.metadata()?.len();
        if file_bytes > FILE_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; file_bytes as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    };
    match read() {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(StoreError::Foreign { path: path.to_owned() }),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Where a new file lies until it is whole.
pub(super) fn new_path(path: &Path) -> PathBuf {
    path.with_extension("state.new")
}

/// Writes a whole file beside the journal and brings it to the disk.
fn write_new(path: &Path, payload: Option<&[u8]>) -> io::Result<File> {
    let beside = new_path(path);
    let mut bytes = header().into_bytes();
    if let Some(payload) = payload {
        bytes.extend(encode(1, payload));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&beside).and_then(|file| {
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        Ok(file)
    });
    written.inspect_err(|_| {
        // It holds nothing that anybody was promised, and its room may be needed.
        let _ = fs::remove_file(&beside);
    })
}

/// Gives the new file the journal's name, durably.
fn put_in_place(path: &Path) -> io::Result<()> {
    fs::rename(new_path(path), path)?;
    let folder = path.parent().expect("the journal's path has a folder");
    File::open(folder)?.sync_all()
}

/// Where a record begins, and its payload.
pub(super) type Record = (usize, Vec<u8>);

/// What a file holds.
struct Contents {
    payloads: Vec<Record>,
    /// Up to the end of the last good record; 0 if not even the header is whole.
    good_bytes: usize,
}

fn parse(bytes: &[u8], path: &Path) -> Result<Contents, StoreError> {
    let header = header();
    if bytes.len() < header.len() && header.as_bytes().starts_with(bytes) {
        // Empty, or nearly: there is nothing to lose.
        return Ok(Contents { payloads: Vec::new(), good_bytes: 0 });
    }
    check_format(bytes, path)?;
    let mut contents = Contents { payloads: Vec::new(), good_bytes: header.len() };
    while contents.good_bytes < bytes.len() {
        let rest = &bytes[contents.good_bytes..];
        let expected = contents.payloads.len() as u64 + 1;
        match decode(rest) {
            Some((sequence, payload)) if sequence == expected => {
                let record = (contents.good_bytes, payload.to_vec());
                contents.good_bytes += RECORD_HEADER_BYTES + payload.len();
                contents.payloads.push(record);
            }
            _ if is_torn_end(rest, expected) => break,
            _ => {
                let offset = contents.good_bytes;
                return Err(StoreError::Damaged { path: path.to_owned(), offset });
            }
        }
    }
    Ok(contents)
}

fn check_format(bytes: &[u8], path: &Path) -> Result<(), StoreError> {
    let foreign = || StoreError::Foreign { path: path.to_owned() };
    let rest = bytes.strip_prefix(OWNER.as_bytes()).ok_or_else(foreign)?;
    // A version has at most 20 digits.
    let line = rest.iter().take(21).position(|&byte| byte == b'\n').map(|end| &rest[..end]);
    let number = line.and_then(|line| std::str::from_utf8(line).ok()?.parse::<u64>().ok());
    match number {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        _ => Err(foreign()),
    }
}

/// True if no good record follows, so that what is there can be one that was never acknowledged. A
/// record after it proves that the broken one had been acknowledged before.
fn is_torn_end(rest: &[u8], expected: u64) -> bool {
    let later = |start: usize| match decode(&rest[start..]) {
        Some((sequence, _)) => sequence > expected,
        None => false,
    };
    // A good record here that has another sequence is none that a crash leaves.
    decode(rest).is_none() && !(1..rest.len()).any(later)
}

fn encode(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    record.extend(length);
    record.extend([0; 4]);
    record.extend(sequence.to_le_bytes());
    record.extend(payload);
    let checksum = checksum(&record);
    record[4..8].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// The record at the front, if it is whole and its checksum is right.
fn decode(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let found = u32::from_le_bytes(bytes.get(4..8)?.try_into().expect("four bytes were taken"));
    let sequence = bytes.get(8..16)?.try_into().expect("eight bytes were taken");
    let record = bytes.get(..RECORD_HEADER_BYTES.checked_add(length)?)?;
    let sequence = u64::from_le_bytes(sequence);
    // The cheap test first: it is made at every offset behind a broken record.
    let plausible = sequence > 0 && sequence <= FILE_BYTES_MAX;
    (plausible && checksum(record) == found).then(|| (sequence, &record[RECORD_HEADER_BYTES..]))
}

/// CRC-32 (IEEE 802.3, reflected) of a record without the place of its checksum.
fn checksum(record: &[u8]) -> u32 {
    let covered = record[..4].iter().chain(&record[8..]);
    let step = |sum: u32, &byte: &u8| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    !covered.fold(!0, step)
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_everybody_calls_crc_32() {
        // The check value of the catalogue of CRCs, with the place that is left out in between.
        assert_eq!(checksum(b"1234____56789"), 0xcbf4_3926);
    }

    #[test]
    fn a_record_reads_back_and_not_when_a_bit_is_wrong() {
        let record = encode(7, b"payload");
        assert_eq!(decode(&record), Some((7, &b"payload"[..])));
        for bit in 0..record.len() * 8 {
            let mut broken = record.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&broken), None, "bit {bit}");
        }
    }
}
