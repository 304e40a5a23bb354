//! Watches the config file and what it imports: a change asks for a reload.
//!
//! The directory is watched, not the file, because editors write another file and rename it over
//! the old one, and container platforms swap a symbolic link beside it. Whatever happens in the
//! directory, what counts is whether the files that the paths lead to are others now (device,
//! inode, size, time of change). The one hard constraint: a file is read when writing has paused,
//! not while it is half written.

use std::fs::Metadata;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use config::ImportedFiles;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::control::Control;
use crate::error::Error;

/// Nothing may have happened for this long before the file is read.
const QUIET: Duration = Duration::from_millis(100);

/// A file that is written to all the time is read after this long all the same.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// How often a directory that went away is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes for events read at once; one is 16 bytes and a name of up to 255.
const EVENTS_BYTES: usize = 4096;

/// What tells one state of a file from another.
type Identity = (u64, u64, u64, i64, i64);

/// The state of the config file, and of each file that it imports: `None` while there is none.
type State = (Identity, Vec<(PathBuf, Option<Identity>)>);

fn identity(metadata: &Metadata) -> Identity {
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    (metadata.dev(), metadata.ino(), metadata.size(), changed.0, changed.1)
}

/// A file as it is now; `None` while there is none, as in the middle of some replacements.
fn look(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| identity(&metadata))
}

/// The config file as it is now, with what it imports.
fn look_at_all(path: &Path) -> Option<State> {
    let imported = ImportedFiles::of(path).files.into_iter();
    let imported = imported.map(|file| (file.clone(), look(&file))).collect();
    look(path).map(|own| (own, imported))
}

/// Starts a thread that asks for a reload whenever the file has changed, for as long as the process
/// lives.
///
/// # Errors
/// The directory cannot be watched, or no thread started.
pub(crate) fn start(path: &Path, control: Control) -> Result<(), Error> {
    let mut watcher =
        Watcher::new(path).map_err(|source| Error::Watch { path: path.to_owned(), source })?;
    let work = move || {
        loop {
            match watcher.wait() {
                Ok(()) => control.request_reload(),
                Err(error) => {
                    tracing::error!(%error, "the config file is watched no more");
                    return;
                }
            }
        }
    };
    let thread = thread::Builder::new().name("watch".into()).spawn(work);
    thread.map_err(|source| Error::Thread { purpose: "watching the config", source })?;
    Ok(())
}

struct Watcher {
    path: PathBuf,
    directory: PathBuf,
    notifications: OwnedFd,
    seen: Option<State>,
}

impl Watcher {
    fn new(path: &Path) -> io::Result<Watcher> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let notifications = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let (path, directory) = (path.to_owned(), directory.to_owned());
        let watcher = Watcher { seen: look_at_all(&path), path, directory, notifications };
        watcher.watch()?;
        Ok(watcher)
    }

    fn watch(&self) -> io::Result<()> {
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.notifications, &self.directory, what)?;
        for folder in ImportedFiles::of(&self.path).folders {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            // One that is not there yet is watched from the next change of another on.
            let _ = inotify::add_watch(&self.notifications, folder, what);
        }
        Ok(())
    }

    /// Waits until the file is another one than at the last call.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.something_happens(None)?;
            let first = Instant::now();
            while first.elapsed() < QUIET_MAX && self.something_happens(Some(QUIET))? {}
            let now = look_at_all(&self.path);
            if now.is_some() && now != self.seen {
                self.seen = now;
                self.watch()?;
                return Ok(());
            }
        }
    }

    /// Waits for events and takes them. False: none came in time.
    fn something_happens(&mut self, within: Option<Duration>) -> io::Result<bool> {
        let timeout = within.map(|within| Timespec {
            tv_sec: within.as_secs() as i64,
            tv_nsec: i64::from(within.subsec_nanos()),
        });
        let mut waiting = [PollFd::new(&self.notifications, PollFlags::IN)];
        if retry_on_intr(|| poll(&mut waiting, timeout.as_ref()))? == 0 {
            return Ok(false);
        }
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut events = inotify::Reader::new(&self.notifications, &mut buffer);
        let gone = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
        let mut lost = false;
        loop {
            match events.next() {
                Ok(event) => lost |= event.events().intersects(gone),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if lost {
            tracing::warn!(directory = %self.directory.display(), "the config's folder is gone");
            // One that was moved away is watched no more: it is another one that counts.
            self.notifications = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            while self.watch().is_err() {
                thread::sleep(RETRY);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc::{Receiver, channel};

    const WITHIN: Duration = Duration::from_secs(10);

    /// A watched file and what tells of its changes.
    fn watched(path: &Path) -> Receiver<()> {
        let mut watcher = Watcher::new(path).unwrap();
        let (sender, changes) = channel();
        thread::spawn(move || while watcher.wait().is_ok() && sender.send(()).is_ok() {});
        changes
    }

    #[test]
    fn writing_in_place_renaming_over_and_swapping_a_link_are_seen_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "1").unwrap();
        let changes = watched(&path);
        fs::write(&path, "12").unwrap();
        changes.recv_timeout(WITHIN).unwrap();
        for content in ["3", "4"] {
            let other = folder.path().join("gateway.toml~");
            fs::write(&other, content).unwrap();
            fs::rename(&other, &path).unwrap();
            changes.recv_timeout(WITHIN).unwrap();
        }
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "5").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        fs::rename(&link, &path).unwrap();
        changes.recv_timeout(WITHIN).unwrap();
        assert!(changes.recv_timeout(3 * QUIET).is_err(), "nothing has changed since");
    }

    #[test]
    fn files_that_are_imported_count_as_the_config_does() {
        let folder = tempfile::tempdir().unwrap();
        let (path, apps) = (folder.path().join("gateway.toml"), folder.path().join("apps"));
        fs::create_dir(&apps).unwrap();
        fs::write(&path, "[[import]]\npath = 'apps/*.json'\n").unwrap();
        let changes = watched(&path);
        fs::write(apps.join("a.json"), "1").unwrap();
        changes.recv_timeout(WITHIN).unwrap();
        fs::write(apps.join("a.txt"), "1").unwrap();
        assert!(changes.recv_timeout(3 * QUIET).is_err(), "it is not imported");
        fs::remove_file(apps.join("a.json")).unwrap();
        fs::write(apps.join("b.json"), "1").unwrap();
        changes.recv_timeout(WITHIN).unwrap();
    }

    #[test]
    fn other_files_of_the_folder_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "1").unwrap();
        let changes = watched(&path);
        fs::write(folder.path().join("other"), "1").unwrap();
        assert!(changes.recv_timeout(3 * QUIET).is_err());
    }

    #[test]
    fn a_folder_that_is_replaced_is_watched_again() {
        let above = tempfile::tempdir().unwrap();
        let (folder, old) = (above.path().join("now"), above.path().join("old"));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("gateway.toml");
        fs::write(&path, "1").unwrap();
        let changes = watched(&path);
        fs::rename(&folder, &old).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&path, "2").unwrap();
        changes.recv_timeout(WITHIN).unwrap();
    }
}
