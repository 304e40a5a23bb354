//! What the journal says about devices and namespaces, and how ours are told from others'.
//!
//! A record is written before the thing is made and removed after it is gone, so at any moment
//! whatever is there has one. The record alone proves nothing: between it and the device lies a
//! moment, and names are reused. So each thing also carries a proof that nobody else's has. A
//! device has an alias with the random id of our state (and is persistent, that is: outlives us,
//! only once it has it); a namespace has a cookie that the kernel gives to no other until the
//! machine is started again. The one hard constraint: what lacks the proof is never touched.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::plan::{DeviceKey, Wanted};
use crate::error::Error;
use crate::netns;
use crate::store::{Changes, Store, StoreError};

/// The key of the state's random id.
const ID_KEY: &str = "gateway/id";

/// A device, as journaled. Addresses and routes are those that we may have set, so that they are
/// taken away when they are no longer wanted; others' are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeviceRecord {
    pub(super) port: String,
    pub(super) place: Option<PathBuf>,
    pub(super) interface: String,
    pub(super) addresses: Vec<IpNet>,
    pub(super) routes: Vec<(IpNet, IpAddr)>,
}

impl DeviceRecord {
    /// The record of a device that is to be as wanted and may be as it was before.
    pub(super) fn of(key: &DeviceKey, wanted: &Wanted, before: Option<&DeviceRecord>) -> Self {
        let mut record = DeviceRecord {
            port: wanted.port_name.clone(),
            place: key.place.clone(),
            interface: key.interface.clone(),
            addresses: wanted.addresses.clone(),
            routes: wanted.routes.clone(),
        };
        if let Some(before) = before {
            let kept = |address: &&IpNet| !wanted.addresses.contains(address);
            record.addresses.extend(before.addresses.iter().filter(kept));
            let kept = |route: &&(IpNet, IpAddr)| !wanted.routes.contains(route);
            record.routes.extend(before.routes.iter().filter(kept));
        }
        record
    }

    /// Which device it is about.
    pub(super) fn key(&self) -> DeviceKey {
        DeviceKey { place: self.place.clone(), interface: self.interface.clone() }
    }
}

/// A namespace that we made, as journaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceRecord {
    pub(super) path: PathBuf,
    /// See [`netns::cookie_of`].
    pub(super) cookie: u64,
    /// The start of the machine that the cookie belongs to.
    pub(super) boot: String,
}

/// What is at the path of a namespace that the journal knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Ours.
    Ours,
    /// The file that we made to mount it on; the mount never came about, or is gone again.
    Remnant,
    /// Nothing, or somebody else's.
    Other,
}

impl NamespaceRecord {
    /// Looks what is there.
    pub(super) fn look(&self) -> Found {
        if self.boot != boot_id() {
            return Found::Other;
        }
        let is_remnant = || {
            let metadata = fs::symlink_metadata(&self.path);
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
        };
        match netns::cookie_of(&self.path) {
            Some(cookie) if cookie == self.cookie => Found::Ours,
            None if is_remnant() => Found::Remnant,
            _ => Found::Other,
        }
    }
}

/// Changes with every start of the machine.
pub(super) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

/// The journal's key of a device.
pub(super) fn device_key(key: &DeviceKey) -> String {
    let place = key.place.as_deref().unwrap_or(Path::new("host"));
    format!("device/{}@{}", key.interface, place.display())
}

/// The journal's key of a namespace.
pub(super) fn namespace_key(path: &Path) -> String {
    format!("namespace/{}", path.display())
}

/// All that the journal says.
#[derive(Debug)]
pub(super) struct Journaled {
    /// The random id of our state.
    pub(super) id: String,
    pub(super) devices: BTreeMap<DeviceKey, DeviceRecord>,
    pub(super) namespaces: BTreeMap<PathBuf, NamespaceRecord>,
}

impl Journaled {
    /// Reads it. A new state gets its id.
    pub(super) fn load(store: &Store) -> Result<Journaled, Error> {
        let id = match store.get(ID_KEY)? {
            Some(id) => id,
            None => {
                let id = random_id()?;
                store.put(ID_KEY, &id)?;
                id
            }
        };
        let devices = store.iter::<DeviceRecord>("device/")?;
        let namespaces = store.iter::<NamespaceRecord>("namespace/")?;
        Ok(Journaled {
            id,
            devices: devices.into_iter().map(|(_, record)| (record.key(), record)).collect(),
            namespaces: namespaces
                .into_iter()
                .map(|(_, record)| (record.path.clone(), record))
                .collect(),
        })
    }
}

/// The alias of a device of ours. It names the interface, so that one that was renamed is found.
pub(super) fn alias_of(id: &str, interface: &str) -> String {
    format!("portolan {id} {interface}")
}

/// Notes devices and namespaces that are gone. What cannot be noted is found missing by the next
/// start, which drops the record then.
pub(super) fn forget(store: &Store, devices: &[DeviceKey], namespaces: &[PathBuf]) {
    let mut changes = Changes::new();
    devices.iter().for_each(|key| changes.remove(device_key(key)));
    namespaces.iter().for_each(|path| changes.remove(namespace_key(path)));
    if let Err(error) = store.commit(changes) {
        log_unjournaled(&error);
    }
}

fn log_unjournaled(error: &StoreError) {
    tracing::error!(%error, "removed devices stay in the journal until the next start");
}

fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::Random(errno.into()))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use engine::{MacAddress, PortId};

    use super::*;

    fn wanted(addresses: &[&str]) -> Wanted {
        Wanted {
            no_arp: false,
            port: PortId(1),
            port_name: "web/front".into(),
            mac: MacAddress(0x0242_0a01_000a),
            mtu: 1500,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            routes: Vec::new(),
            xdp: None,
            tunnels: false,
        }
    }

    #[test]
    fn a_device_that_is_changed_may_have_what_it_had_and_what_it_gets() {
        let key = DeviceKey { place: None, interface: "eth0".into() };
        let before = DeviceRecord::of(&key, &wanted(&["10.1.0.2/24", "10.2.0.2/24"]), None);
        let next = wanted(&["10.2.0.2/24", "10.3.0.2/24"]);
        let during = DeviceRecord::of(&key, &next, Some(&before));
        let texts: Vec<String> = during.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.2.0.2/24", "10.3.0.2/24", "10.1.0.2/24"]);
        assert_eq!(during.key(), key);
    }

    #[test]
    fn a_namespace_of_another_start_of_the_machine_is_not_ours() {
        let path = PathBuf::from("/proc/self/ns/net");
        let cookie = netns::cookie_of(&path).unwrap();
        let record = NamespaceRecord { path, cookie, boot: boot_id() };
        assert_eq!(record.look(), Found::Ours);
        assert_eq!(NamespaceRecord { cookie: cookie + 1, ..record.clone() }.look(), Found::Other);
        assert_eq!(NamespaceRecord { boot: "another".into(), ..record }.look(), Found::Other);
    }

    #[test]
    fn only_an_empty_file_is_taken_for_a_remnant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web");
        let record = NamespaceRecord { path: path.clone(), cookie: 1, boot: boot_id() };
        assert_eq!(record.look(), Found::Other);
        fs::write(&path, "").unwrap();
        assert_eq!(record.look(), Found::Remnant);
        fs::write(&path, "somebody's").unwrap();
        assert_eq!(record.look(), Found::Other);
    }
}
