//! Network namespaces: make, enter, remove.
//!
//! A namespace is kept alive by a bind mount of a thread's `ns/net` on a file in `/run/netns`, the
//! way iproute2 does it, so that `ip netns` lists ours. The one hard constraint: `setns` changes
//! the *thread*, so all work in a namespace runs on a thread of its own that ends with it. No
//! process is forked. A namespace that we did not make is never removed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::Error;

/// Where named namespaces are mounted; `ip netns` looks here too.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";

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
        share_directory().map_err(|source| Error::Namespace {
            action: "prepare the directory of",
            path: path.clone(),
            source,
        })?;
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        match file {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::NamespaceExists { path });
            }
            Err(source) => return Err(Error::Namespace { action: "create", path, source }),
        }
        // From here on the guard removes the file if the mount does not come about.
        let namespace = Namespace { path, made: true };
        let mounted = on_thread("a new namespace", || mount_new(&namespace.path))?;
        mounted.map_err(|source| Error::Namespace {
            action: "mount",
            path: namespace.path.clone(),
            source,
        })?;
        Ok(namespace)
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
        if !self.made {
            return;
        }
        // EINVAL: the mount never came about. Whatever else goes wrong, the file is tried too.
        match unmount(&self.path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "namespace stays mounted");
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "namespace file stays");
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

/// Gives the calling thread a new namespace and pins it to a path.
fn mount_new(path: &Path) -> io::Result<()> {
    // `unshare_unsafe` is unsafe because of CLONE_FILES, which is not asked for here.
    #[expect(deprecated, reason = "the safe form is sound for CLONE_NEWNET")]
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(mount_bind("/proc/thread-self/ns/net", path)?)
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
