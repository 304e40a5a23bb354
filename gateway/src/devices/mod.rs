//! The devices of a gateway and the namespaces that it makes for them, from start to end.
//!
//! A device is a persistent TAP: when the daemon is killed it stays, with its addresses, and the
//! next start opens its queues again. A clean end removes all. What is there to be removed or
//! re-attached is known from the journal (`record`); nothing is ever deleted because of its name,
//! and a device that is there and not ours is an error, not an opportunity.
//!
//! Devices are made *inside* their namespace. So their queues keep it alive, and its end would go
//! unnoticed; that is what `follow` is for. Made outside and moved, they would not, but a move
//! takes the kernel 17 ms under a lock of which there is one: 17 s for a thousand. And queues of a
//! device that is there already can be opened inside only.
//!
//! The one hard constraint: whatever moment a kill comes at, the next start finds everything and
//! no more than that. `change` has the order that it follows from.

mod alter;
mod change;
mod ends;
mod existing;
mod follow;
mod make;
mod place;
mod plan;
mod record;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Attach, Attachment, Config, UplinkDriver};
use crossbeam::channel::Receiver;
use drivers::XdpMemory;
use engine::PortId;

use crate::error::{Error, Place};
use crate::netlink::Netlink;
use crate::netns;
use crate::runner::PortQueue;
use crate::store::Store;

pub use change::{Change, Changed, Leftovers};
use follow::Follower;
pub use follow::{DeviceEvent, LiveDevices, Seen};
use place::{Opened, Places};
use plan::{DeviceKey, Plan, Wanted};
use record::{DeviceRecord, Found, Journaled, NamespaceRecord};

/// All devices of a gateway. Dropped, they are removed, and the namespaces that were made too;
/// the workers must have ended before.
pub struct Devices {
    store: Arc<Store>,
    /// The random id of our state, which our devices carry in their alias.
    id: String,
    worker_count: usize,
    memory: XdpMemory,
    /// Devices used by AF_XDP for which there is memory.
    xdp_room: usize,
    plan: Plan,
    devices: BTreeMap<DeviceKey, Device>,
    places: Places,
    /// What the journal says.
    journaled: BTreeMap<DeviceKey, DeviceRecord>,
    namespaces: BTreeMap<PathBuf, NamespaceRecord>,
    follower: Follower,
    /// From the start until they are taken.
    queues: Vec<Vec<(PortId, PortQueue)>>,
}

/// A device that is, or was until somebody took it away.
#[derive(Debug)]
struct Device {
    wanted: Wanted,
    /// Its index in its namespace; `None`: it is gone.
    index: Option<u32>,
    /// Others gave it this MTU, in bytes.
    mtu: Option<u16>,
}

impl Device {
    /// True if it is there for this port, though perhaps with other settings.
    fn serves(&self, wanted: &Wanted) -> bool {
        let of = |wanted: &Wanted| (wanted.port, wanted.port_name.clone(), wanted.xdp.is_some());
        self.index.is_some() && of(&self.wanted) == of(wanted)
    }
}

impl Devices {
    /// Makes all devices, each with one queue per worker, addressed and up. Those that a killed run
    /// left are re-attached, or removed if the config has them no more.
    ///
    /// # Errors
    /// The first step that fails; everything made before it is undone. What was there already
    /// stays, for the next start.
    pub fn start(
        config: &Config,
        worker_count: usize,
        store: &Arc<Store>,
        memory: XdpMemory,
    ) -> Result<Devices, Error> {
        let Journaled { id, devices: journaled, namespaces } = Journaled::load(store)?;
        let mut devices = Devices {
            store: store.clone(),
            id,
            worker_count,
            memory,
            xdp_room: xdp_room(config),
            plan: Plan::default(),
            devices: BTreeMap::new(),
            places: Places::new(),
            journaled,
            namespaces,
            follower: Follower::start()?,
            queues: Vec::new(),
        };
        let plan = Plan::of(config);
        devices.sweep(&plan);
        let change = devices.prepare_plan(plan)?;
        let changed = devices.commit(change);
        devices.queues = changed.attach;
        Ok(devices)
    }

    /// Removes what a killed run left and the config has no more.
    fn sweep(&mut self, plan: &Plan) {
        let mut leftovers = Leftovers::new(&self.store, &self.id);
        let mut places = Places::new();
        let mut gone = Vec::new();
        self.journaled.retain(|key, _| {
            let is_wanted = plan.devices.contains_key(key);
            if !is_wanted {
                let opened = match places.get(&key.place) {
                    Some(place) => Some(Arc::clone(place)),
                    None => open_existing(key.place.as_deref()).map(Arc::new),
                };
                match opened {
                    Some(place) => {
                        places.insert(key.place.clone(), place.clone());
                        leftovers.add_device(key.clone(), place);
                    }
                    None => gone.push(key.clone()),
                }
            }
            is_wanted
        });
        let mut forgotten = Vec::new();
        self.namespaces.retain(|path, namespace| {
            let is_wanted = plan.places.contains_key(&Some(path.clone()));
            if !is_wanted {
                match namespace.look() {
                    Found::Ours | Found::Remnant => leftovers.add_namespace(path.clone()),
                    Found::Other => forgotten.push(path.clone()),
                }
            }
            is_wanted
        });
        drop(places);
        drop(leftovers);
        record::forget(&self.store, &gone, &forgotten);
    }

    /// Hands the queues over that the start opened: those of worker 0, of worker 1, and so on.
    pub fn take_queues(&mut self) -> Vec<Vec<(PortId, PortQueue)>> {
        std::mem::take(&mut self.queues)
    }

    /// Ports whose devices could not be made, because their namespace is missing.
    pub fn missing_ports(&self) -> Vec<PortId> {
        let devices = self.plan.devices.iter();
        let missing = devices.filter(|(key, _)| !self.devices.contains_key(key));
        missing.map(|(_, wanted)| wanted.port).collect()
    }

    /// What happens to devices and namespaces; to be given to [`Devices::follow`].
    pub fn events(&self) -> &Receiver<DeviceEvent> {
        self.follower.events()
    }

    /// Devices as they are, for whoever shows them.
    pub fn live(&self) -> LiveDevices {
        self.follower.live()
    }

    /// Takes an event. What is to be done with the workers comes back; ports that are down then
    /// are those to detach.
    pub fn follow(&mut self, event: DeviceEvent) -> Changed {
        let mut changed = Changed::none(&self.store, &self.id);
        match event {
            DeviceEvent::Link(port, is_up) => {
                let (port, link) = (self.name_of(port), if is_up { "up" } else { "down" });
                tracing::info!(port, "link {link}");
            }
            DeviceEvent::Renamed(port, name) => {
                tracing::warn!(port = self.name_of(port), name, "device renamed: it works on");
            }
            DeviceEvent::Mtu(port, mtu) => {
                tracing::info!(port = self.name_of(port), mtu, "mtu changed");
                let device = self.devices.values_mut().find(|own| own.wanted.port == port);
                if let Some(device) = device {
                    device.mtu = match &device.wanted.xdp {
                        Some(wanted) => Some(existing::usable_mtu(wanted, mtu.into())),
                        None => (device.wanted.mtu != mtu).then_some(mtu),
                    };
                }
            }
            DeviceEvent::Gone(port) => {
                let device = self.devices.values_mut().find(|own| own.wanted.port == port);
                if let Some(device) = device {
                    device.index = None;
                    changed.detach.push(port);
                }
            }
            DeviceEvent::NamespaceGone(path) => self.let_go(path, &mut changed),
            DeviceEvent::NamespaceBack(path) => {
                tracing::info!(path = %path.display(), "namespace is there again");
                match self.prepare_plan(self.plan.clone()) {
                    Ok(change) => return self.commit(change),
                    Err(error) => changed.problems.push(error.to_string()),
                }
            }
            DeviceEvent::Lost => return self.look_again(),
        }
        changed
    }

    /// Sets the MTU of each port to what its device has, where that is another. True if it is for
    /// some.
    pub fn adopt_mtus(&self, config: &mut Config) -> bool {
        let changed = self.devices.values().filter_map(|own| Some((own.wanted.port, own.mtu?)));
        let changed: HashMap<PortId, u16> = changed.collect();
        if changed.is_empty() {
            return false;
        }
        for uplink in &mut config.uplinks {
            uplink.mtu = changed.get(&uplink.port).copied().unwrap_or(uplink.mtu);
        }
        for endpoint in &mut config.endpoints {
            let differs = |own: &Attachment| changed.contains_key(&own.port);
            if endpoint.attachments.iter().any(differs) {
                for own in &mut Arc::make_mut(endpoint).attachments {
                    own.mtu = changed.get(&own.port).copied().unwrap_or(own.mtu);
                }
            }
        }
        true
    }

    fn name_of(&self, port: PortId) -> &str {
        let found = self.plan.devices.values().find(|wanted| wanted.port == port);
        found.map_or("unknown", |wanted| &wanted.port_name)
    }

    /// Deletes our devices in a namespace that is gone by its name, and lets go of it.
    fn let_go(&mut self, path: PathBuf, changed: &mut Changed) {
        let path = Some(path);
        let Some(place) = self.places.remove(&path) else { return };
        tracing::warn!(place = %Place(path.clone()), "gone; devices are made when it is back");
        self.follower.remove_place(&path);
        for (key, device) in &mut self.devices {
            if key.place == path {
                device.index = None;
                changed.detach.push(device.wanted.port);
                changed.leftovers.delete_only(key.clone(), place.clone());
            }
        }
        self.follow_missing();
    }

    /// Looks at all links anew, since changes of them were missed.
    fn look_again(&mut self) -> Changed {
        let places: Vec<Arc<Opened>> = self.places.values().cloned().collect();
        let links = |place: &Arc<Opened>| Netlink::open_here(Place(place.path.clone()))?.links();
        let found = netns::in_each(&places, |place| place.entrance(), links);
        let mut changed = Changed::none(&self.store, &self.id);
        for (place, links) in places.iter().zip(found) {
            match links {
                Ok(links) => {
                    for event in self.follower.compare(&place.path, &links) {
                        changed.detach.append(&mut self.follow(event).detach);
                    }
                }
                Err(error) => changed.problems.push(error.to_string()),
            }
        }
        changed
    }

    /// Has the follower wait for namespaces that are not there.
    fn follow_missing(&self) {
        let wanted = self.plan.places.keys().filter(|path| !self.places.contains_key(path));
        self.follower.set_missing(wanted.flatten().cloned());
    }

    /// Paths of the namespaces that were made, and go when this is dropped.
    pub fn made_namespaces(&self) -> impl Iterator<Item = &Path> {
        let made = self.places.values().filter(|place| place.is_made);
        made.filter_map(|place| place.path.as_deref())
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.queues.clear();
        let mut leftovers = Leftovers::new(&self.store, &self.id);
        for key in std::mem::take(&mut self.devices).into_keys() {
            if let Some(place) = self.places.get(&key.place) {
                leftovers.add_device(key, place.clone());
            }
        }
        for (path, place) in std::mem::take(&mut self.places) {
            if let (true, Some(path)) = (place.is_made, path) {
                leftovers.add_namespace(path);
            }
        }
    }
}

/// Devices used by AF_XDP that a gateway of this config takes memory for: those that it has, and
/// some more if it has any, as each takes some MiB per worker.
pub(crate) fn xdp_room(config: &Config) -> usize {
    /// Devices that a reload may add.
    const SPARE: usize = 4;

    let uplinks = config.uplinks.iter();
    let uplinks = uplinks.filter(|uplink| uplink.driver == UplinkDriver::Xdp).count();
    let endpoints = config.endpoints.iter().filter(|endpoint| endpoint.attach == Attach::Xdp);
    let endpoints: usize = endpoints.map(|endpoint| endpoint.attachments.len()).sum();
    match uplinks + endpoints {
        0 => 0,
        count => count + SPARE,
    }
}

/// The namespace at a path, if there is one.
fn open_existing(path: Option<&Path>) -> Option<Opened> {
    let file = match path {
        Some(path) => {
            netns::cookie_of(path)?;
            std::fs::File::open(path)
        }
        None => netns::current(),
    };
    Some(Opened { path: path.map(Path::to_owned), file: file.ok()?, is_made: false })
}
