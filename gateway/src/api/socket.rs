//! Where the API is reached: the unix socket, and the address of the metrics.
//!
//! A socket file outlives a daemon that was killed: one that nobody answers on is replaced, one
//! that a daemon answers on is not. The one hard constraint: at no moment may somebody connect whom
//! the config does not name; so the file is made under another name, given its owner and mode, and
//! then renamed.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, chown};

use super::ApiError;

/// A socket file; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// The folder, if it was made for the socket.
    made_folder: Option<PathBuf>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.made_folder {
            // Something else may lie there by now.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens on a unix socket at this path, for root and perhaps one group.
pub(super) fn listen(
    path: &Path,
    group: Option<&str>,
) -> Result<(UnixListener, SocketFile), ApiError> {
    let failed = |action: &'static str| {
        let path = path.to_owned();
        move |source: io::Error| ApiError::Socket { action, path, source }
    };
    let gid = group.map(group_id).transpose()?;
    let made_folder = make_folder(path).map_err(failed("make the folder of"))?;
    let mut folder = SocketFile { path: path.to_owned(), identity: (0, 0), made_folder };
    refuse_live(path)?;
    let passing = path.with_extension(format!("{}.new", std::process::id()));
    // A file of this name can only be of a dead process that had our id.
    let _ = fs::remove_file(&passing);
    let listener = UnixListener::bind(&passing).map_err(failed("bind"))?;
    let settle = || {
        let mode = if gid.is_some() { 0o660 } else { 0o600 };
        chown(&passing, None, gid)?;
        fs::set_permissions(&passing, fs::Permissions::from_mode(mode))?;
        let identity = identity(&passing)?;
        fs::rename(&passing, path)?;
        Ok(identity)
    };
    match settle() {
        Ok(identity) => {
            folder.identity = identity;
            Ok((listener, folder))
        }
        Err(source) => {
            let _ = fs::remove_file(&passing);
            Err(failed("set up")(source))
        }
    }
}

/// Makes the folder of a socket if it is not there; returns it if it was not.
fn make_folder(path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(None);
    };
    if folder.is_dir() {
        return Ok(None);
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    Ok(Some(folder.to_owned()))
}

/// An error if somebody answers at the path, or if what lies there is no socket.
fn refuse_live(path: &Path) -> Result<(), ApiError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ApiError::NoSocket { path: path.to_owned() }),
        Err(source) => {
            return Err(ApiError::Socket { action: "look at", path: path.to_owned(), source });
        }
    }
    match UnixStream::connect(path) {
        // Nobody listens: its daemon is dead.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Somebody answers, or would if fewer waited.
        _ => Err(ApiError::Running { path: path.to_owned() }),
    }
}

/// The id of a group, from the file that names groups.
fn group_id(name: &str) -> Result<Gid, ApiError> {
    const GROUPS: &str = "/etc/group";
    let path = || PathBuf::from(GROUPS);
    let text = fs::read_to_string(GROUPS).map_err(|source| ApiError::Socket {
        action: "read groups from",
        path: path(),
        source,
    })?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    let id = found.or_else(|| name.parse().ok());
    id.map(Gid::from_raw).ok_or_else(|| ApiError::Group { name: name.to_owned() })
}

/// Listens on the address of the metrics.
pub(super) fn listen_metrics(address: SocketAddr) -> Result<TcpListener, ApiError> {
    TcpListener::bind(address).map_err(|source| ApiError::Metrics { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_root_alone_and_goes_with_its_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run/portolan/api.sock");
        let (listener, file) = listen(&path, None).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing passing");
        drop((listener, file));
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn a_group_may_be_named_and_must_exist() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.sock");
        let (_listener, _file) = listen(&path, Some("daemon")).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o660, 1));
        let error = listen(&scratch.path().join("b.sock"), Some("nosuchgroup")).unwrap_err();
        assert!(error.to_string().contains("group nosuchgroup"), "{error}");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, file) = listen(&path, None).unwrap();
        let error = listen(&path, None).unwrap_err();
        assert!(matches!(error, ApiError::Running { .. }), "{error}");
        assert!(path.exists(), "a refused one leaves it alone");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone_and_so_is_anothers() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, None).unwrap_err(), ApiError::NoSocket { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let (_listener, file) = listen(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        drop(file);
        assert!(path.exists());
    }
}
