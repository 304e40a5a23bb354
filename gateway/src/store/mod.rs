//! What the gateway must remember when it is killed: leases, devices and namespaces that it made.
//!
//! A map from keys to JSON values, kept in memory and journaled in the file `gateway.state` of the
//! folder that `state` names. Keys are paths: `lease/NETWORK/ENDPOINT`, `device/PORT`,
//! `namespace/PATH`. The one hard constraint: a commit that returned is found again whatever
//! happens then, and one that failed has changed nothing, neither here nor on the disk. So a commit
//! is one record and one `fsync`; many changes that belong together go into one [`Changes`].
//!
//! The folder is locked while a store is open: two daemons would take each other's devices for
//! leftovers. No command edits the file beside the daemon.

mod journal;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use journal::Journal;

/// The journal's name in its folder.
pub const FILE_NAME: &str = "gateway.state";

/// A journal smaller than this is never written anew.
const COMPACT_BYTES_MIN: u64 = 64 * 1024;

/// A journal is written anew when it is so many times as large as what is alive in it.
const COMPACT_RATIO: u64 = 4;

/// How long a lock is waited for. A process that one of our threads was starting when its daemon
/// was killed, or let go of the folder, has our descriptors, the lock with them, until it executes
/// its program: some milliseconds. Who is refused waits so long.
const LOCK_WITHIN: Duration = Duration::from_millis(500);

/// How often it is tried.
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon uses the folder.
    #[error(
        "another portolan is using the state in {}: end it, or set `state` to another folder",
        folder.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is somebody else's.
    #[error(
        "{} is no state of portolan and is left as it is: move it away, or set `state` to another \
         folder",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later version wrote the file.
    #[error(
        "{} has format {found}, and this portolan knows {known}: run the newer portolan, or move \
         the file away to start without its leases; it is left as it is",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Something acknowledged cannot be read.
    #[error(
        "{} is damaged at byte {offset} and is left as it is: restore it from a copy, or move it \
         away to start without its leases",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first broken record begins.
        offset: usize,
    },
    /// A value is not what the asker expects.
    #[error("the state of {key} cannot be read: {source}; is the file from another version?")]
    Value {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The folder or the file refuses.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was done.
        action: &'static str,
        /// To this.
        path: PathBuf,
        /// Why it went wrong.
        source: io::Error,
    },
}

/// What to do about an error of the disk.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room, nothing was changed"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder for `state` that portolan may write"
        }
        _ => "",
    }
}

/// Changes that are made together or not at all. Of several of one key the last counts.
#[derive(Clone, Debug, Default)]
pub struct Changes(Map);

/// What is journaled and kept. In a journal, `null` takes a key away.
type Map = BTreeMap<String, Value>;

impl Changes {
    /// None yet.
    pub fn new() -> Changes {
        Changes::default()
    }

    /// Sets a key to a value. A value whose JSON form is `null` is none: it takes the key away.
    ///
    /// # Panics
    /// The value has no JSON form: a map whose keys are no strings.
    pub fn put(&mut self, key: impl Into<String>, value: &impl Serialize) {
        let value = serde_json::to_value(value).expect("what is journaled has a JSON form");
        self.0.insert(key.into(), value);
    }

    /// Takes a key away; one that is not there is no error.
    pub fn remove(&mut self, key: impl Into<String>) {
        self.0.insert(key.into(), Value::Null);
    }
}

/// The lock of a folder, held until this is dropped.
#[derive(Debug)]
struct FolderLock(File);

impl FolderLock {
    /// Takes the lock; waits a little for who is about to let go of it.
    fn take(folder: &Path) -> Result<FolderLock, StoreError> {
        let failed = |action| {
            let path = folder.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        let file = File::open(folder).map_err(failed("open the folder"))?;
        let deadline = Instant::now() + LOCK_WITHIN;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(FolderLock(file)),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_EVERY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(StoreError::Locked { folder: folder.to_owned() });
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("lock the folder")(errno.into())),
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // To close it would not be enough: a process that is being started has the lock, too, until
        // it executes its program. Unlocked, it is so for everybody.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// The open store. Any thread may use it.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    _folder: FolderLock,
}

#[derive(Debug)]
struct Inner {
    values: Map,
    journal: Journal,
    /// The journal is written anew when it is larger than this.
    compact_bytes: u64,
}

impl Store {
    /// Opens the store of a folder; makes both if they are not there.
    ///
    /// # Errors
    /// Each of [`StoreError`] but `Value`. A file that is refused is left as it is.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let failed = |action| {
            let path = folder.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(failed("make the folder"))?;
        let lock = FolderLock::take(folder)?;
        let path = folder.join(FILE_NAME);
        // What a killed run had not finished writing; nobody was promised anything of it.
        let _ = fs::remove_file(journal::new_path(&path));
        let (journal, payloads) = Journal::open(path.clone())?;
        let mut values = Map::new();
        for (offset, payload) in payloads {
            let changes = serde_json::from_slice(&payload)
                .map_err(|_| StoreError::Damaged { path: path.clone(), offset })?;
            apply(&mut values, changes);
        }
        let inner = Inner { values, journal, compact_bytes: COMPACT_BYTES_MIN };
        Ok(Store { inner: Mutex::new(inner), _folder: lock })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// It has another form.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let inner = self.lock();
        inner.values.get(key).map(|value| read(key, value)).transpose()
    }

    /// All keys that begin with `prefix`, in order, and their values.
    ///
    /// # Errors
    /// One of them has another form.
    pub fn iter<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let inner = self.lock();
        let from = inner.values.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| Ok((key.clone(), read(key, value)?)))
            .collect()
    }

    /// Sets one key, durably.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn put(&self, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let mut changes = Changes::new();
        changes.put(key, value);
        self.commit(changes)
    }

    /// Takes one key away, durably.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn remove(&self, key: &str) -> Result<(), StoreError> {
        let mut changes = Changes::new();
        changes.remove(key);
        self.commit(changes)
    }

    /// Makes all changes, durably; what would change nothing costs nothing.
    ///
    /// # Errors
    /// The disk is full or broken. Nothing has changed then, and the store goes on working as soon
    /// as the disk does.
    pub fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let mut changes = changes.0;
        changes.retain(|key, value| inner.values.get(key).unwrap_or(&Value::Null) != value);
        if changes.is_empty() { Ok(()) } else { inner.commit(changes) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No step between two changes of `Inner` can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: DeserializeOwned>(key: &str, value: &Value) -> Result<T, StoreError> {
    T::deserialize(value).map_err(|source| StoreError::Value { key: key.to_owned(), source })
}

fn apply(values: &mut Map, changes: Map) {
    for (key, value) in changes {
        if value.is_null() {
            values.remove(&key);
        } else {
            values.insert(key, value);
        }
    }
}

fn to_payload(map: &Map) -> Vec<u8> {
    serde_json::to_vec(map).expect("strings and values have a JSON form")
}

impl Inner {
    fn commit(&mut self, changes: Map) -> Result<(), StoreError> {
        if self.journal.is_suspect() {
            let mut values = self.values.clone();
            apply(&mut values, changes);
            self.journal.rewrite(Some(&to_payload(&values)))?;
            self.values = values;
            return Ok(());
        }
        self.journal.append(&to_payload(&changes))?;
        apply(&mut self.values, changes);
        if self.journal.file_bytes() > self.compact_bytes {
            self.compact();
        }
        Ok(())
    }

    /// Writes the journal anew, if most of it is dead. The commit before is durable either way.
    fn compact(&mut self) {
        let payload = to_payload(&self.values);
        let alive_bytes = payload.len() as u64;
        if alive_bytes * COMPACT_RATIO <= self.journal.file_bytes()
            && let Err(error) = self.journal.rewrite(Some(&payload))
        {
            tracing::warn!(%error, "the state could not be compacted; it goes on growing");
        }
        let next = alive_bytes * COMPACT_RATIO;
        self.compact_bytes = next.max(self.journal.file_bytes() + COMPACT_BYTES_MIN);
    }
}

#[cfg(test)]
mod tests;
