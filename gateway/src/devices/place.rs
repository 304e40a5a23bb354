//! Namespaces while they are in use: found, made or opened, and the ones of ours given back.
//!
//! The one hard constraint: a namespace is ours only if the journal has its cookie; everything else
//! is somebody else's, whatever it is called, and is used but never removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{Found, NamespaceRecord, boot_id};
use crate::error::{Error, Place};
use crate::netns::{self, Unnamed};

/// A namespace that devices are in. It stays alive as long as this does.
#[derive(Debug)]
pub(super) struct Opened {
    /// `None` is the one that the daemon runs in.
    pub(super) path: Option<PathBuf>,
    pub(super) file: File,
    /// True: it is ours to remove.
    pub(super) is_made: bool,
}

impl Opened {
    /// What jobs in it need.
    pub(super) fn entrance(&self) -> (&File, Place) {
        (&self.file, Place(self.path.clone()))
    }

    /// True if the path still leads to it.
    pub(super) fn is_there(&self) -> bool {
        let Some(path) = &self.path else { return true };
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (std::fs::metadata(path).map(identity), self.file.metadata().map(identity)) {
            (Ok(there), Ok(ours)) => there == ours,
            _ => false,
        }
    }
}

/// All places by their paths.
pub(super) type Places = BTreeMap<Option<PathBuf>, Arc<Opened>>;

/// What is to be done for a namespace to be open.
#[derive(Debug)]
pub(super) enum Opening {
    /// It is there.
    There(Opened),
    /// It is to be made.
    ToMake(PathBuf),
    /// It is not there, and not ours to make.
    Missing(Error),
}

/// Looks for a namespace; makes nothing.
pub(super) fn find(
    path: Option<&Path>,
    create: bool,
    journaled: Option<&NamespaceRecord>,
) -> Result<Opening, Error> {
    let Some(path) = path else {
        let file = netns::current().map_err(|source| Error::Namespace {
            action: "open our own",
            path: PathBuf::from("/proc/thread-self/ns/net"),
            source,
        })?;
        return Ok(Opening::There(Opened { path: None, file, is_made: false }));
    };
    let mut is_ours = false;
    match journaled.map(NamespaceRecord::look) {
        // Said to be somebody else's now, it stays at the end.
        Some(Found::Ours) => is_ours = create,
        Some(Found::Remnant) => netns::unmount_name(path),
        Some(Found::Other) | None => {}
    }
    match File::open(path) {
        Ok(file) => {
            if create && !is_ours {
                let path = path.display();
                tracing::warn!(%path, "namespace exists already: it is used, and left at the end");
            }
            Ok(Opening::There(Opened { path: Some(path.to_owned()), file, is_made: is_ours }))
        }
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            Ok(Opening::ToMake(path.to_owned()))
        }
        Err(source) => {
            Ok(Opening::Missing(Error::NamespaceMissing { path: path.to_owned(), source }))
        }
    }
}

/// Namespaces without names yet, and what the journal is to say about them before they get one.
pub(super) fn make_unnamed(paths: &[PathBuf]) -> Result<Vec<(Unnamed, NamespaceRecord)>, Error> {
    let here = netns::current();
    let here = here.map_err(|source| Error::Thread { purpose: "new namespaces", source })?;
    let boot = boot_id();
    let jobs: Vec<(&File, &PathBuf)> = paths.iter().map(|path| (&here, path)).collect();
    let make = |(_, path): &(&File, &PathBuf)| {
        let unnamed = Unnamed::make()?;
        let (path, cookie, boot) = ((*path).clone(), unnamed.cookie(), boot.clone());
        Ok((unnamed, NamespaceRecord { path, cookie, boot }))
    };
    netns::in_each(&jobs, |(here, _)| (here, Place(None)), make).into_iter().collect()
}
