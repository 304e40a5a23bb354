//! From one plan to the next in two steps: prepare makes what is new, commit changes the rest.
//!
//! Preparing alters nothing that runs, and is undone when the [`Change`] is dropped; so a reload
//! that fails anywhere before the commit leaves no trace. Committing cannot fail: what the kernel
//! refuses then is told as a problem and the rest is done. The one hard constraint: the journal
//! knows of a thing before it is made and until it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use config::Config;
use engine::PortId;

use super::ends::{self, Side};
use super::existing::Used;
use super::make::{self, Made, Maker, Task};
use super::place::{self, Opened, Opening, Places};
use super::plan::{DeviceKey, Plan, Wanted};
use super::record::{self, DeviceRecord, NamespaceRecord, alias_of, device_key, namespace_key};
use super::{Device, Devices, Seen};
use crate::error::{Error, Place};
use crate::netlink::Netlink;
use crate::netns;
use crate::runner::PortQueue;
use crate::store::{Changes, Store};

/// Devices and namespaces that are made and belong to nobody yet. Dropped without a commit, they
/// are removed again.
pub struct Change {
    plan: Plan,
    made: Vec<Made>,
    /// Places that were opened for it.
    places: Places,
    namespaces: BTreeMap<PathBuf, NamespaceRecord>,
    /// New devices whose routes wait for others to give theirs up.
    late: BTreeSet<DeviceKey>,
    /// What the journal says about devices since it was prepared.
    journaled: BTreeMap<DeviceKey, DeviceRecord>,
    /// What is undone when it is dropped.
    undo: Leftovers,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.made.iter().map(|made| made.key.to_string());
        f.debug_tuple("Change").field(&keys.collect::<Vec<_>>()).finish()
    }
}

/// What workers are to be told after a commit.
#[derive(Debug, Default)]
pub struct Changed {
    /// Queues to attach, by worker. A port that is attached already gets another queue.
    pub attach: Vec<Vec<(PortId, PortQueue)>>,
    /// Ports to let go of.
    pub detach: Vec<PortId>,
    /// What the kernel refused, one line each; everything else was done.
    pub problems: Vec<String>,
    /// Devices and namespaces that nobody needs any more; removed when this is dropped, which is
    /// to be after the workers have let go of their ports.
    pub leftovers: Leftovers,
}

/// Devices and namespaces to be removed when this is dropped.
#[derive(Debug, Default)]
pub struct Leftovers {
    context: Option<(Arc<Store>, String)>,
    devices: Vec<(DeviceKey, Arc<Opened>)>,
    namespaces: Vec<PathBuf>,
    /// Gone already, or never made: only the journal has them.
    forgotten: Vec<DeviceKey>,
    /// To be deleted, but the journal keeps them: they are made again later.
    kept: Vec<(DeviceKey, Arc<Opened>)>,
}

impl Changed {
    /// Nothing.
    pub(super) fn none(store: &Arc<Store>, id: &str) -> Changed {
        Changed { leftovers: Leftovers::new(store, id), ..Changed::default() }
    }
}

impl Leftovers {
    pub(super) fn new(store: &Arc<Store>, id: &str) -> Leftovers {
        let mut leftovers = Leftovers::default();
        leftovers.context = Some((store.clone(), id.to_owned()));
        leftovers
    }

    pub(super) fn delete_only(&mut self, key: DeviceKey, place: Arc<Opened>) {
        self.kept.push((key, place));
    }

    pub(super) fn forget(&mut self, key: DeviceKey) {
        self.forgotten.push(key);
    }

    pub(super) fn add_device(&mut self, key: DeviceKey, place: Arc<Opened>) {
        self.devices.push((key, place));
    }

    pub(super) fn add_namespace(&mut self, path: PathBuf) {
        self.namespaces.push(path);
    }

    /// Nothing is removed any more.
    fn clear(&mut self) {
        self.devices.clear();
        self.namespaces.clear();
        self.forgotten.clear();
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let Some((store, id)) = self.context.take() else { return };
        let mut keys = std::mem::take(&mut self.forgotten);
        let devices = std::mem::take(&mut self.devices);
        let delete = |(key, place): &(DeviceKey, Arc<Opened>)| {
            let netlink = Netlink::open_here(Place(place.path.clone()))?;
            make::delete(&netlink, &alias_of(&id, &key.interface));
            Ok(())
        };
        let kept = std::mem::take(&mut self.kept);
        let all: Vec<_> = devices.iter().chain(&kept).cloned().collect();
        for result in netns::in_each(&all, |(_, place)| place.entrance(), delete) {
            if let Err(error) = result {
                tracing::warn!(%error, "device stays");
            }
        }
        self.namespaces.iter().for_each(|path| netns::unmount_name(path));
        let all = devices.iter().map(|(key, _)| key).chain(&keys);
        all.for_each(|key| ends::put_back(&store, key));
        keys.extend(devices.into_iter().map(|(key, _)| key));
        record::forget(&store, &keys, &self.namespaces);
    }
}

impl Devices {
    /// Makes what a config needs and is not there, without touching what is.
    ///
    /// # Errors
    /// The first thing that cannot be made; whatever was made before it is removed again.
    pub fn prepare(&mut self, next: &Config) -> Result<Change, Error> {
        self.prepare_plan(Plan::of(next))
    }

    pub(super) fn prepare_plan(&self, plan: Plan) -> Result<Change, Error> {
        let xdp_count = plan.devices.values().filter(|wanted| wanted.xdp.is_some()).count();
        if xdp_count > self.xdp_room {
            return Err(Error::XdpRoom { count: xdp_count, room: self.xdp_room });
        }
        let mut change = Change {
            made: Vec::new(),
            places: Places::new(),
            namespaces: BTreeMap::new(),
            late: BTreeSet::new(),
            journaled: BTreeMap::new(),
            undo: Leftovers::new(&self.store, &self.id),
            plan,
        };
        let mut tasks: BTreeMap<Option<PathBuf>, Vec<Task>> = BTreeMap::new();
        let changing = self.changing_places(&change.plan);
        for (key, wanted) in &change.plan.devices {
            let there = self.devices.get(key).filter(|device| device.serves(wanted));
            if there.is_some_and(|device| device.wanted.has_relay() != wanted.has_relay()) {
                return Err(Error::RelayInUse { port: wanted.port_name.clone() });
            }
            let serves = there.is_some();
            if !serves || !self.is_open(&key.place) {
                let (key, wanted) = (key.clone(), wanted.clone());
                let before = self.journaled.get(&key).cloned();
                let routes_are_late = changing.contains(&key.place);
                if routes_are_late {
                    change.late.insert(key.clone());
                }
                let task = Task { key, wanted, before, routes_are_late };
                tasks.entry(task.key.place.clone()).or_default().push(task);
            }
        }
        for path in change.plan.places.keys() {
            // Also where no device is to be: an endpoint may have nothing but its namespace.
            if !self.is_open(path) {
                tasks.entry(path.clone()).or_default();
            }
        }
        let unnamed = self.open_places(&mut change, &mut tasks)?;
        self.journal_intents(&mut change, tasks.values().flatten(), &unnamed)?;
        for (unnamed, namespace) in unnamed {
            let path = namespace.path.clone();
            change.undo.add_namespace(path.clone());
            let file = unnamed.mount(&path)?;
            let opened = Opened { path: Some(path.clone()), file, is_made: true };
            change.places.insert(Some(path.clone()), Arc::new(opened));
            change.namespaces.insert(path, namespace);
        }
        self.make_devices(&mut change, tasks)?;
        Ok(change)
    }

    /// Sets up the ends of a veth.
    fn set_ends(&self, key: &DeviceKey, wanted: &Wanted, used: &Used, problems: &mut Vec<String>) {
        let of_peer = wanted.xdp.as_ref().and_then(|xdp| xdp.peer.as_ref());
        if used.ends.iter().all(|(side, _)| *side != Side::Own) {
            // A killed run may have had a relay.
            ends::put_side_back(&self.store, key, Side::Own);
        }
        for (side, end) in &used.ends {
            let settings = of_peer.filter(|_| *side == Side::Other);
            if let Err(error) = ends::set_up(&self.store, key, (*side, end), settings) {
                problems.push(error.to_string());
            }
        }
    }

    /// True if the path leads to the namespace that we have open.
    fn is_open(&self, path: &Option<PathBuf>) -> bool {
        self.places.get(path).is_some_and(|place| place.is_there())
    }

    /// Opens the places of the tasks. Returns the namespaces that are to be made, without names.
    fn open_places(
        &self,
        change: &mut Change,
        tasks: &mut BTreeMap<Option<PathBuf>, Vec<Task>>,
    ) -> Result<Vec<(netns::Unnamed, NamespaceRecord)>, Error> {
        let mut to_make = Vec::new();
        let mut missing = Vec::new();
        for (path, tasks) in &*tasks {
            if self.is_open(path) {
                continue;
            }
            let create = change.plan.places[path];
            let journaled = path.as_ref().and_then(|path| self.namespaces.get(path));
            match place::find(path.as_deref(), create, journaled)? {
                Opening::There(opened) => {
                    change.places.insert(path.clone(), Arc::new(opened));
                }
                Opening::ToMake(path) => to_make.push(path),
                // It was there when we ran with it before: the others need not suffer.
                Opening::Missing(_)
                    if !tasks.is_empty() && tasks.iter().all(|task| task.before.is_some()) =>
                {
                    let place = Place(path.clone());
                    tracing::warn!(%place, "gone; its devices are made when it is there again");
                    missing.push(path.clone());
                }
                Opening::Missing(error) => return Err(error),
            }
        }
        missing.iter().for_each(|path| drop(tasks.remove(path)));
        place::make_unnamed(&to_make)
    }

    fn journal_intents<'t>(
        &self,
        change: &mut Change,
        tasks: impl Iterator<Item = &'t Task>,
        unnamed: &[(netns::Unnamed, NamespaceRecord)],
    ) -> Result<(), Error> {
        let mut changes = Changes::new();
        for (_, namespace) in unnamed {
            changes.put(namespace_key(&namespace.path), namespace);
        }
        for task in tasks {
            let record = DeviceRecord::of(&task.key, &task.wanted, task.before.as_ref());
            changes.put(device_key(&task.key), &record);
            change.journaled.insert(task.key.clone(), record);
            if task.before.is_none() {
                change.undo.forget(task.key.clone());
            }
        }
        Ok(self.store.commit(changes)?)
    }

    /// Carries the tasks out, several places at a time.
    fn make_devices(
        &self,
        change: &mut Change,
        tasks: BTreeMap<Option<PathBuf>, Vec<Task>>,
    ) -> Result<(), Error> {
        let place_of = |path: &Option<PathBuf>| {
            let place = change.places.get(path).or_else(|| self.places.get(path));
            place.expect("a place of each task was opened").clone()
        };
        let jobs: Vec<(Arc<Opened>, Vec<Task>)> =
            tasks.into_iter().map(|(path, tasks)| (place_of(&path), tasks)).collect();
        let maker = Maker { id: &self.id, queue_count: self.worker_count, memory: &self.memory };
        let work = |(place, tasks): &(Arc<Opened>, Vec<Task>)| {
            if place.is_made {
                make::raise_loopback(place)?;
            }
            maker.make_all(tasks)
        };
        let results = netns::in_each(&jobs, |(place, _)| place.entrance(), work);
        let mut first_error = None;
        for ((place, _), result) in jobs.iter().zip(results) {
            match result {
                Ok(made) => {
                    for device in made.iter().filter(|device| device.is_new) {
                        change.undo.add_device(device.key.clone(), place.clone());
                    }
                    change.made.extend(made);
                }
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Goes over to what was prepared: existing devices get their new addresses, routes and
    /// sizes, what is no longer wanted is handed out as leftovers.
    pub fn commit(&mut self, mut change: Change) -> Changed {
        change.undo.clear();
        let plan = std::mem::take(&mut change.plan);
        let mut changed = Changed::none(&self.store, &self.id);
        self.namespaces.append(&mut change.namespaces);
        for (path, place) in std::mem::take(&mut change.places) {
            if let Some(old) = self.places.get(&path) {
                // Another namespace of its name, before anybody told that the old one is gone.
                self.follower.remove_place(&path);
                for key in self.devices.keys().filter(|key| key.place == path) {
                    changed.leftovers.delete_only(key.clone(), old.clone());
                }
            }
            if let Err(error) = self.follower.add_place(path.as_deref(), &place.file) {
                changed.problems.push(error.to_string());
            }
            self.places.insert(path, place);
        }
        self.journaled.append(&mut change.journaled);
        let mut attached = Vec::new();
        let mut let_go = Vec::new();
        for made in std::mem::take(&mut change.made) {
            let wanted = plan.devices[&made.key].clone();
            attached.push(wanted.port);
            deal(&mut changed.attach, wanted.port, made.queues);
            let used = made.used.as_ref();
            let seen = Seen {
                port: wanted.port,
                name: made.key.interface.clone(),
                mtu: used.map_or(wanted.mtu, |used| used.mtu).into(),
                is_up: used.is_none_or(|used| used.is_up),
                mode: used.map(|used| used.mode),
            };
            self.follower.add_device(&made.key.place, made.index, seen);
            if let Some(used) = used {
                self.set_ends(&made.key, &wanted, used, &mut changed.problems);
            }
            let mtu = used.map(|used| used.mtu);
            let device = Device { wanted, index: Some(made.index), mtu };
            if let Some(before) = self.devices.insert(made.key, device) {
                let_go.push(before.wanted.port);
            }
        }
        self.alter(&plan, &change.late, &mut changed.problems);
        let unwanted = |key: &DeviceKey| !plan.devices.contains_key(key);
        let gone: Vec<DeviceKey> =
            self.devices.keys().filter(|key| unwanted(key)).cloned().collect();
        for key in gone {
            let device = self.devices.remove(&key).expect("its key was just found");
            let_go.push(device.wanted.port);
            self.journaled.remove(&key);
            if let Some(index) = device.index {
                self.follower.remove_device(&key.place, index);
            }
            if let Some(place) = self.places.get(&key.place) {
                changed.leftovers.add_device(key, place.clone());
            }
        }
        self.close_places(&plan, &mut changed.leftovers);
        changed.detach = let_go.into_iter().filter(|port| !attached.contains(port)).collect();
        self.plan = plan;
        self.follow_missing();
        changed
    }

    /// Lets go of namespaces in which nothing is left to do.
    fn close_places(&mut self, plan: &Plan, leftovers: &mut Leftovers) {
        let is_unused = |path: &Option<PathBuf>| !plan.places.contains_key(path);
        let unused: Vec<_> = self.places.keys().filter(|path| is_unused(path)).cloned().collect();
        for path in unused {
            let place = self.places.remove(&path).expect("its key was just found");
            self.follower.remove_place(&path);
            if let (true, Some(path)) = (place.is_made, path) {
                leftovers.add_namespace(path);
            }
        }
        let mut disowned = Changes::new();
        self.namespaces.retain(|path, _| {
            let is_ours = self.places.get(&Some(path.clone())).is_none_or(|place| place.is_made);
            if !is_ours {
                disowned.remove(namespace_key(path));
            }
            is_ours && plan.places.contains_key(&Some(path.clone()))
        });
        if let Err(error) = self.store.commit(disowned) {
            tracing::error!(%error, "the journal still calls a namespace ours");
        }
    }
}

/// Deals a port's queues out: the first to worker 0, and so on.
fn deal(attach: &mut Vec<Vec<(PortId, PortQueue)>>, port: PortId, queues: Vec<PortQueue>) {
    attach.resize_with(attach.len().max(queues.len()), Vec::new);
    for (of_worker, queue) in attach.iter_mut().zip(queues) {
        of_worker.push((port, queue));
    }
}
