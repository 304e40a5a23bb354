//! Network namespaces: make, enter, remove.
//!
//! A namespace is kept alive by a bind mount of a thread's `ns/net` on a file in `/run/netns`, the
//! way iproute2 does it, so that `ip netns` lists ours. The one hard constraint: `setns` changes
//! the *thread*, so all work in a namespace runs on a thread of its own that ends with it. No
//! process is forked. A namespace that we did not make is never removed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{Error, Place};

/// Threads that work in namespaces at the same time. Deleting a device is mostly waiting for grace
/// periods of the kernel, which many may share: 128 devices take 2.3 s on one thread, 0.2 s on 16.
const THREAD_COUNT_MAX: usize = 16;

/// Where named namespaces are mounted; `ip netns` looks here too.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";

/// A network namespace that has no name yet: it is gone when this is dropped.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    cookie: u64,
}

impl Unnamed {
    /// Makes a namespace, its loopback device down.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make() -> Result<Unnamed, Error> {
        let made = on_thread("a new namespace", || {
            // `unshare_unsafe` is unsafe because of CLONE_FILES, which is not asked for here.
            #[expect(deprecated, reason = "the safe form is sound for CLONE_NEWNET")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Ok((current()?, drivers::namespace_cookie()))
        })?;
        let failed = |source| {
            let path = PathBuf::from("that is new");
            Error::Namespace { action: "make a", path, source }
        };
        let (file, cookie) = made.map_err(failed)?;
        let cookie = cookie.map_err(|source| Error::Device { place: Place(None), source })?;
        Ok(Unnamed { file, cookie })
    }

    /// What tells it from any other, see `cookie_of`.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Gives it a name, which keeps it alive. Returns the open namespace.
    ///
    /// # Errors
    /// The name is taken, or the kernel refuses.
    pub fn mount(self, path: &Path) -> Result<File, Error> {
        let failed = |action, source| Error::Namespace { action, path: path.to_owned(), source };
        share_directory().map_err(|source| failed("prepare the directory of", source))?;
        match fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::NamespaceExists { path: path.to_owned() });
            }
            Err(source) => return Err(failed("create", source)),
        }
        let ours = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        if let Err(errno) = mount_bind(ours.as_str(), path) {
            let _ = fs::remove_file(path);
            return Err(failed("mount", errno.into()));
        }
        Ok(self.file)
    }
}

/// Takes a name away. A namespace that nobody else uses ends then.
pub fn unmount_name(path: &Path) {
    // EINVAL: the mount never came about. Whatever else goes wrong, the file is tried too.
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "namespace stays mounted");
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "namespace file stays");
        }
        _ => {}
    }
}

/// A network namespace, by its path. One that we made goes when this is dropped; sockets and
/// devices of others that still are in it live on until they let go of it.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    made: bool,
}

impl Namespace {
    /// Makes a namespace of this name.
    ///
    /// # Errors
    /// It exists already, or the kernel refuses.
    pub fn create(name: &str) -> Result<Namespace, Error> {
        let path = path_of(name);
        drop(Unnamed::make()?.mount(&path)?);
        Ok(Namespace { path, made: true })
    }

    /// A namespace that is there already, by its name or path.
    ///
    /// # Errors
    /// It is not there, or is no namespace.
    pub fn open(name: &str) -> Result<Namespace, Error> {
        let path = path_of(name);
        within(&path, || ())?;
        Ok(Namespace { path, made: false })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if it goes when this is dropped.
    pub fn is_made(&self) -> bool {
        self.made
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.made {
            unmount_name(&self.path);
        }
    }
}

/// The path of a namespace: a name means a file in [`NAMESPACE_DIRECTORY`], anything with a slash
/// (`/proc/PID/ns/net`) stands for itself.
pub fn path_of(name: &str) -> PathBuf {
    if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMESPACE_DIRECTORY).join(name) }
}

/// True if a namespace of this name or path is there.
pub fn exists(name: &str) -> bool {
    path_of(name).exists()
}

/// Runs `work` in the namespace, on a thread of its own. Sockets and devices made there stay in the
/// namespace and may be used from any thread afterwards.
///
/// # Errors
/// The namespace is not there, or may not be entered.
///
/// # Panics
/// When `work` does.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let file = fs::File::open(path)
        .map_err(|source| Error::NamespaceMissing { path: path.to_owned(), source })?;
    on_thread("work in a namespace", || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).map_err(|error| Error::Namespace {
            action: "enter",
            path: path.to_owned(),
            source: error.into(),
        })?;
        Ok(work())
    })?
}

/// As [`within`], or on the calling thread when there is no path.
pub(crate) fn within_optional<T: Send>(
    path: Option<&Path>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    match path {
        Some(path) => within(path, work),
        None => Ok(work()),
    }
}

fn on_thread<T: Send>(purpose: &'static str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
        let thread = started.map_err(|source| Error::Thread { purpose, source })?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// The calling thread's namespace.
pub(crate) fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// The cookie of a namespace: no other has or had it since the machine started. `None`: there is no
/// namespace at this path.
pub(crate) fn cookie_of(path: &Path) -> Option<u64> {
    within(path, drivers::namespace_cookie).ok()?.ok()
}

/// Runs `work` for each job in the job's namespace, on a few threads that move from one to the
/// next. Results come in the order of the jobs.
///
/// # Panics
/// When `work` does.
pub(crate) fn in_each<J: Sync, T: Send>(
    jobs: &[J],
    namespace: impl Fn(&J) -> (&File, Place) + Sync,
    work: impl Fn(&J) -> Result<T, Error> + Sync,
) -> Vec<Result<T, Error>> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut results = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return results };
            let (file, place) = namespace(job);
            let kind = Some(LinkNameSpaceType::Network);
            let entered = move_into_link_name_space(file.as_fd(), kind);
            let entered = entered.map_err(|errno| Error::Namespace {
                action: "enter",
                path: place.0.unwrap_or_default(),
                source: errno.into(),
            });
            results.push((index, entered.and_then(|()| work(job))));
        }
    };
    let mut results = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.len().min(THREAD_COUNT_MAX))
            .filter_map(|_| {
                let builder = thread::Builder::new().name("netns".into());
                builder.spawn_scoped(scope, run).ok()
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect::<Vec<_>>()
    });
    results.sort_by_key(|(index, _)| *index);
    let mut results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    // Only where not a single thread could be started.
    let source = || io::Error::from(io::ErrorKind::WouldBlock);
    let purpose = "work in namespaces";
    results.resize_with(jobs.len(), || Err(Error::Thread { purpose, source: source() }));
    results
}

/// Makes the directory, shared between mount namespaces: else a namespace removed here would live
/// on in every mount namespace that was copied from ours meanwhile (a systemd unit's, say).
fn share_directory() -> io::Result<()> {
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    fs::create_dir_all(NAMESPACE_DIRECTORY)?;
    match mount_change(NAMESPACE_DIRECTORY, shared) {
        Err(rustix::io::Errno::INVAL) => {
            // Not a mount of its own yet, as before the first `ip netns add` after boot.
            rustix::mount::mount_bind_recursive(NAMESPACE_DIRECTORY, NAMESPACE_DIRECTORY)?;
            Ok(mount_change(NAMESPACE_DIRECTORY, shared)?)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_directory_of_ip_netns_and_a_path_itself() {
        assert_eq!(path_of("web"), Path::new("/run/netns/web"));
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named_in_the_error() {
        let error = within(Path::new("/run/netns/portolan-none"), || ()).unwrap_err();
        assert!(matches!(error, Error::NamespaceMissing { .. }));
        assert!(error.to_string().contains("portolan-none"), "{error}");
    }
}
