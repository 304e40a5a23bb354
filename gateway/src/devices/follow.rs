//! Follows what others do to our devices and namespaces.
//!
//! One thread listens to the links of all our namespaces by one socket (see [`LinkWatch`]), and
//! looks whether the paths of namespaces still lead to them: since our queues keep a namespace
//! alive, its end shows only in its name. Named namespaces are mounts, so a look is due when the
//! mounts change; other paths (`/proc/PID/ns/net`) are looked at once a second.
//!
//! LIMIT: a device of ours that somebody moves to another namespace is let go of and stays there;
//! to be lifted when it is worth asking the kernel where it went.
//!
//! What an operator may expect: when a namespace goes, its ports are down and nothing of ours keeps
//! it; when one of its name is there again, its devices are made anew. A device that somebody
//! deleted stays deleted until the next reload or start: somebody wanted it gone. A renamed device
//! works on; a changed MTU is taken over. The one hard constraint: the thread holds nothing that
//! keeps a namespace alive, and changes nothing; it tells the supervisor.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use drivers::{LinkChange, LinkState, LinkWatch, NamespaceNumber, NamespaceNumbers, XdpMode};
use engine::PortId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Place};
use crate::netns;

/// How often paths are looked at that are no mounts, and those that wait for their namespace.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Something happened to a device or a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The device of a port was taken up or down.
    Link(PortId, bool),
    /// The device of a port has another name.
    Renamed(PortId, String),
    /// The device of a port has another MTU, in bytes.
    Mtu(PortId, u16),
    /// The device of a port was deleted or moved away.
    Gone(PortId),
    /// The path of a namespace leads to it no more.
    NamespaceGone(PathBuf),
    /// There is a namespace at a path where one was missing.
    NamespaceBack(PathBuf),
    /// Something may have happened unseen: too much at once.
    Lost,
}

/// A device, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its port in the tables.
    pub port: PortId,
    /// What it is called where it is.
    pub name: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// True if it is up, as an administrator says.
    pub is_up: bool,
    /// How AF_XDP uses it; `None`: it is a TAP.
    pub mode: Option<XdpMode>,
}

/// Devices as they are. Cheap to clone; it is read when it is asked.
#[derive(Clone, Debug, Default)]
pub struct LiveDevices(Arc<Mutex<Watched>>);

impl LiveDevices {
    /// All devices that are there, by their ports.
    pub fn by_port(&self) -> HashMap<PortId, Seen> {
        let watched = lock(&self.0);
        watched.devices.values().map(|seen| (seen.port, seen.clone())).collect()
    }
}

/// What tells the file that a path leads to.
type Identity = (u64, u64);

/// What is followed.
#[derive(Debug, Default)]
pub(super) struct Watched {
    numbers: HashMap<NamespaceNumber, Option<PathBuf>>,
    devices: HashMap<(Option<PathBuf>, u32), Seen>,
    /// Namespaces that we use, by their paths; `None`: told to be gone.
    places: BTreeMap<PathBuf, Option<Identity>>,
    /// Paths at which a namespace is missing.
    missing: BTreeMap<PathBuf, bool>,
}

/// The thread's other end.
#[derive(Debug)]
pub(super) struct Follower {
    watched: Arc<Mutex<Watched>>,
    numbers: NamespaceNumbers,
    events: Receiver<DeviceEvent>,
}

impl Follower {
    /// Starts the thread; it ends when this is dropped.
    pub(super) fn start() -> Result<Follower, Error> {
        let failed = |source| Error::Device { place: Place(None), source };
        let watch = LinkWatch::open().map_err(failed)?;
        let numbers = NamespaceNumbers::open().map_err(failed)?;
        let purpose = "following devices";
        let mounts = File::open("/proc/self/mountinfo")
            .map_err(|source| Error::Thread { purpose, source })?;
        let watched = Arc::new(Mutex::new(Watched::default()));
        let (sender, events) = unbounded();
        let thread = Thread {
            watched: Arc::downgrade(&watched),
            watch,
            mounts,
            events: sender,
            looked_at: Instant::now(),
        };
        let builder = thread::Builder::new().name("devices".into());
        let started = builder.spawn(move || thread.run());
        started.map_err(|source| Error::Thread { purpose, source })?;
        Ok(Follower { watched, numbers, events })
    }

    /// Where events come from.
    pub(super) fn events(&self) -> &Receiver<DeviceEvent> {
        &self.events
    }

    /// What was seen last of all devices.
    pub(super) fn live(&self) -> LiveDevices {
        LiveDevices(self.watched.clone())
    }

    /// From now on follows a namespace.
    pub(super) fn add_place(&self, path: Option<&Path>, file: &File) -> Result<(), Error> {
        let failed = |source| Error::Device { place: Place(path.map(Path::to_owned)), source };
        let number = match path {
            Some(_) => Some(self.numbers.number(file.as_fd()).map_err(failed)?),
            None => None,
        };
        let mut watched = lock(&self.watched);
        watched.numbers.insert(number, path.map(Path::to_owned));
        if let Some(path) = path {
            let identity = file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
            watched.places.insert(path.to_owned(), identity);
            watched.missing.remove(path);
        }
        Ok(())
    }

    /// Follows a namespace no more, nor its devices.
    pub(super) fn remove_place(&self, path: &Option<PathBuf>) {
        let mut watched = lock(&self.watched);
        watched.numbers.retain(|_, of| of != path);
        watched.devices.retain(|(of, _), _| of != path);
        if let Some(path) = path {
            watched.places.remove(path);
        }
    }

    /// Waits for a namespace; or no more.
    pub(super) fn set_missing(&self, paths: impl Iterator<Item = PathBuf>) {
        let missing = paths.map(|path| (path, false)).collect();
        lock(&self.watched).missing = missing;
    }

    /// Follows a device.
    pub(super) fn add_device(&self, place: &Option<PathBuf>, index: u32, seen: Seen) {
        lock(&self.watched).devices.insert((place.clone(), index), seen);
    }

    /// Follows a device no more.
    pub(super) fn remove_device(&self, place: &Option<PathBuf>, index: u32) {
        lock(&self.watched).devices.remove(&(place.clone(), index));
    }

    /// Compares with all links of a namespace, of which changes may have been missed.
    pub(super) fn compare(&self, place: &Option<PathBuf>, links: &[LinkState]) -> Vec<DeviceEvent> {
        let mut watched = lock(&self.watched);
        let known = watched.devices.iter().filter(|((of, _), _)| of == place);
        let is_there = |index: u32| links.iter().any(|link| link.index == index);
        let gone: Vec<u32> =
            known.map(|((_, index), _)| *index).filter(|&index| !is_there(index)).collect();
        let gone = gone.into_iter().filter_map(|index| watched.gone(place, index));
        let mut events: Vec<DeviceEvent> = gone.collect();
        for link in links {
            events.extend(watched.changed(place, link));
        }
        events
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    fn note(&mut self, change: &LinkChange) -> Vec<DeviceEvent> {
        let place = |number| self.numbers.get(number).cloned();
        match change {
            LinkChange::Link(number, link) => match place(number) {
                Some(place) => self.changed(&place, link),
                None => Vec::new(),
            },
            LinkChange::Gone(number, index) => {
                let place = place(number);
                place.and_then(|place| self.gone(&place, *index)).into_iter().collect()
            }
            LinkChange::NamespaceGone(number) => {
                // Its number may be given to another now.
                self.numbers.remove(&Some(*number));
                Vec::new()
            }
            LinkChange::Lost => vec![DeviceEvent::Lost],
        }
    }

    fn changed(&mut self, place: &Option<PathBuf>, link: &LinkState) -> Vec<DeviceEvent> {
        let Some(seen) = self.devices.get_mut(&(place.clone(), link.index)) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        if seen.is_up != link.is_up {
            events.push(DeviceEvent::Link(seen.port, link.is_up));
        }
        if seen.name != link.name {
            events.push(DeviceEvent::Renamed(seen.port, link.name.clone()));
        }
        if seen.mtu != link.mtu {
            // The kernel lets a TAP have at most 65,521.
            let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
            events.push(DeviceEvent::Mtu(seen.port, mtu));
        }
        let port = seen.port;
        let (name, mode) = (link.name.clone(), seen.mode);
        *seen = Seen { port, name, mtu: link.mtu, is_up: link.is_up, mode };
        events
    }

    fn gone(&mut self, place: &Option<PathBuf>, index: u32) -> Option<DeviceEvent> {
        let seen = self.devices.remove(&(place.clone(), index))?;
        Some(DeviceEvent::Gone(seen.port))
    }

    /// Looks whether paths lead to the namespaces that they led to.
    fn look(&mut self) -> Vec<DeviceEvent> {
        let mut events = Vec::new();
        for (path, identity) in &mut self.places {
            let now = std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
            if identity.is_some() && now.ok() != *identity {
                *identity = None;
                events.push(DeviceEvent::NamespaceGone(path.clone()));
            }
        }
        for (path, is_told) in &mut self.missing {
            let is_there = path.exists() && netns::cookie_of(path).is_some();
            if is_there && !*is_told {
                events.push(DeviceEvent::NamespaceBack(path.clone()));
            }
            *is_told = is_there;
        }
        events
    }

    /// True if some path changes without a mount.
    fn must_look(&self) -> bool {
        let is_mount = |path: &PathBuf| path.starts_with(netns::NAMESPACE_DIRECTORY);
        !self.missing.is_empty() || !self.places.keys().all(is_mount)
    }
}

struct Thread {
    watched: Weak<Mutex<Watched>>,
    watch: LinkWatch,
    mounts: File,
    events: Sender<DeviceEvent>,
    looked_at: Instant,
}

impl Thread {
    fn run(mut self) {
        loop {
            let mounts_changed = self.wait();
            // Whose end it was is gone, and with it whoever would listen.
            let Some(watched) = self.watched.upgrade() else { return };
            let mut events = Vec::new();
            for change in self.watch.read() {
                events.extend(lock(&watched).note(&change));
            }
            let is_due = self.looked_at.elapsed() >= LOOK_EVERY;
            if mounts_changed || is_due && lock(&watched).must_look() {
                self.looked_at = Instant::now();
                events.extend(lock(&watched).look());
            }
            for event in events {
                let _ = self.events.send(event);
            }
        }
    }

    /// Waits for links, mounts or the time to look. True: the mounts have changed.
    fn wait(&self) -> bool {
        let mut polled =
            [PollFd::new(&self.watch, PollFlags::IN), PollFd::new(&self.mounts, PollFlags::PRI)];
        let timeout = Timespec { tv_sec: LOOK_EVERY.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => polled[1].revents().contains(PollFlags::PRI),
            // A signal.
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32, is_up: bool) -> LinkState {
        LinkState { index, name: name.into(), mtu, is_up, ..LinkState::default() }
    }

    /// One device, of port 4, with index 7 in the namespace of number 3.
    fn watched() -> Watched {
        let place = Some(PathBuf::from("/run/netns/web"));
        let (port, mode) = (PortId(4), None);
        let seen = Seen { port, name: "eth0".into(), mtu: 1500, is_up: true, mode };
        let mut watched = Watched::default();
        watched.numbers.insert(Some(3), place.clone());
        watched.devices.insert((place, 7), seen);
        watched
    }

    #[test]
    fn each_change_of_our_device_is_told_once() {
        let mut watched = watched();
        let changed = LinkChange::Link(Some(3), link(7, "lan0", 1400, false));
        let expected = [
            DeviceEvent::Link(PortId(4), false),
            DeviceEvent::Renamed(PortId(4), "lan0".into()),
            DeviceEvent::Mtu(PortId(4), 1400),
        ];
        assert_eq!(watched.note(&changed), expected);
        assert_eq!(watched.note(&changed), []);
        assert_eq!(watched.note(&LinkChange::Gone(Some(3), 7)), [DeviceEvent::Gone(PortId(4))]);
        assert_eq!(watched.note(&LinkChange::Gone(Some(3), 7)), []);
    }

    #[test]
    fn others_devices_and_namespaces_are_none_of_our_business() {
        let mut watched = watched();
        for number in [None, Some(9)] {
            assert_eq!(watched.note(&LinkChange::Gone(number, 7)), []);
        }
        assert_eq!(watched.note(&LinkChange::Link(Some(3), link(8, "x", 9000, false))), []);
        // A number that another namespace has now says nothing about ours.
        watched.note(&LinkChange::NamespaceGone(3));
        assert_eq!(watched.note(&LinkChange::Gone(Some(3), 7)), []);
    }

    #[test]
    fn a_namespace_is_told_to_be_gone_when_its_path_leads_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net");
        std::fs::write(&path, "").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let mut watched = Watched::default();
        watched.places.insert(path.clone(), Some((metadata.dev(), metadata.ino())));
        assert!(watched.must_look(), "no mount will tell");
        assert_eq!(watched.look(), []);
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(watched.look(), [DeviceEvent::NamespaceGone(path)]);
        assert_eq!(watched.look(), []);
    }
}
