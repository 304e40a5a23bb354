//! Changes devices that stay, while packets flow through them.
//!
//! All devices of a namespace are changed by one job: what one gives up (the default route, say)
//! another may get, and the kernel has room for one of it. So first everything is taken away that
//! is no longer wanted, then everything is set. The one hard constraint: what may be on a device is
//! in the journal before it is, and until it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::Devices;
use super::ends;
use super::make;
use super::place::Opened;
use super::plan::{DeviceKey, Plan, Wanted};
use super::record::{DeviceRecord, alias_of, device_key};
use crate::error::{Error, Place};
use crate::netlink::Netlink;
use crate::netns;
use crate::store::Changes;

/// What is to be done in one namespace.
#[derive(Debug)]
struct Job {
    place: Arc<Opened>,
    /// Devices that stay and what they had before.
    altered: Vec<(DeviceKey, Wanted, DeviceRecord)>,
    /// Devices that go, but a little later: only their routes are in the way.
    departing: Vec<(DeviceKey, DeviceRecord)>,
    /// New devices that lack their routes.
    late: Vec<(DeviceKey, Wanted)>,
}

impl Devices {
    /// Namespaces in which devices go or change, and may be in the way of new ones.
    pub(super) fn changing_places(&self, plan: &Plan) -> BTreeSet<Option<PathBuf>> {
        let is_changing = |(key, device): &(&DeviceKey, &super::Device)| {
            let next = plan.devices.get(key);
            device.index.is_some() && !next.is_some_and(|next| device.wanted.is_set_as(next))
        };
        let changing = self.devices.iter().filter(is_changing);
        changing.map(|(key, _)| key.place.clone()).collect()
    }

    /// Changes devices in place whose settings are others now, and gives those in `late` the routes
    /// that others had.
    pub(super) fn alter(
        &mut self,
        plan: &Plan,
        late: &BTreeSet<DeviceKey>,
        problems: &mut Vec<String>,
    ) {
        let jobs = self.jobs(plan, late, problems);
        if jobs.is_empty() {
            return;
        }
        self.journal(&jobs, true, problems);
        let id = &self.id;
        let results = netns::in_each(&jobs, |job| job.place.entrance(), |job| job.run(id));
        for result in results {
            match result {
                Ok(errors) => problems.extend(errors.iter().map(Error::to_string)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        self.journal(&jobs, false, problems);
    }

    fn jobs(
        &mut self,
        plan: &Plan,
        late: &BTreeSet<DeviceKey>,
        problems: &mut Vec<String>,
    ) -> Vec<Job> {
        let mut jobs: BTreeMap<Option<PathBuf>, Job> = BTreeMap::new();
        for (key, device) in &mut self.devices {
            let Some(place) = self.places.get(&key.place) else { continue };
            let next = plan.devices.get(key);
            let before = self.journaled.get(key).cloned();
            let is_same = next.is_some_and(|next| device.wanted.is_set_as(next));
            let is_late = late.contains(key);
            if let (Some(xdp), Some(next)) = (&device.wanted.xdp, next) {
                // Nothing of the config is set on the device itself, only on a veth's other end.
                let peer = next.xdp.as_ref().and_then(|xdp| xdp.peer.as_ref());
                if device.index.is_some()
                    && peer != xdp.peer.as_ref()
                    && let Err(error) = ends::alter(&self.store, key, peer)
                {
                    problems.push(error.to_string());
                }
                device.wanted = next.clone();
                continue;
            }
            if let Some(next) = next {
                if device.wanted.mtu != next.mtu {
                    device.mtu = None;
                }
                device.wanted = next.clone();
            }
            if device.index.is_none() || is_same && !is_late {
                continue;
            }
            let job = jobs.entry(key.place.clone()).or_insert_with(|| Job {
                place: place.clone(),
                altered: Vec::new(),
                departing: Vec::new(),
                late: Vec::new(),
            });
            match (next, before) {
                (Some(next), _) if is_late => job.late.push((key.clone(), next.clone())),
                (Some(next), Some(before)) => {
                    job.altered.push((key.clone(), next.clone(), before));
                }
                (None, Some(before)) => job.departing.push((key.clone(), before)),
                (_, None) => {}
            }
        }
        jobs.into_values().collect()
    }

    /// Notes what devices may have on them while they are changed, and what they have afterwards.
    fn journal(&mut self, jobs: &[Job], is_before: bool, problems: &mut Vec<String>) {
        let mut changes = Changes::new();
        for (key, wanted, before) in jobs.iter().flat_map(|job| &job.altered) {
            let record = DeviceRecord::of(key, wanted, is_before.then_some(before));
            changes.put(device_key(key), &record);
            self.journaled.insert(key.clone(), record);
        }
        if let Err(error) = self.store.commit(changes) {
            problems.push(error.to_string());
        }
    }
}

impl Job {
    /// Does it; one device that refuses is no reason to leave the others. Returns what was refused.
    fn run(&self, id: &str) -> Result<Vec<Error>, Error> {
        let netlink = Netlink::open_here(Place(self.place.path.clone()))?;
        let links = netlink.links()?;
        let name_of = |key: &DeviceKey| {
            let alias = alias_of(id, &key.interface);
            let link = links.iter().find(|link| link.alias.as_deref() == Some(alias.as_str()));
            link.map_or(key.interface.clone(), |link| link.name.clone())
        };
        let mut results = Vec::new();
        for (key, before) in &self.departing {
            results.push(make::remove_routes(&netlink, &name_of(key), &[], before));
        }
        for (key, wanted, before) in &self.altered {
            results.push(make::remove_routes(&netlink, &name_of(key), &wanted.routes, before));
        }
        for (key, wanted, before) in &self.altered {
            let name = name_of(key);
            let link = links.iter().find(|link| link.name == name);
            let mac = link.and_then(|link| link.mac);
            results.push(make::alter(&netlink, &name, wanted, before, mac));
        }
        for (key, wanted) in &self.late {
            results.push(make::add_routes(&netlink, &key.interface, wanted));
        }
        Ok(results.into_iter().filter_map(Result::err).collect())
    }
}
