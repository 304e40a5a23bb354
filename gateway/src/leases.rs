//! Leases between the config, which decides about them, and the store, which keeps them.
//!
//! One key per lease (`lease/NETWORK/ENDPOINT`), subnet list and quarantine of a network, and list
//! of given ports of an endpoint, so that a change of one costs the journal one line. The one hard
//! constraint: what a device may have been given is in the store before the device is, so a start
//! after a kill gives out the same again.

use std::collections::BTreeMap;
use std::time::SystemTime;

use config::{Config, Lease, Leases};
use serde::Serialize;

use crate::reserve;
use crate::store::{Changes, Store, StoreError};

const LEASE: &str = "lease/";
const SUBNETS: &str = "subnets/";
const QUARANTINE: &str = "quarantine/";
const PORTS: &str = "ports/";
const LAST_PORT: &str = "last_port";

/// Reads all leases that are valid now.
///
/// # Errors
/// A value has another form: the file is from another version.
pub fn load(store: &Store, now: SystemTime) -> Result<Leases, StoreError> {
    let mut leases = Leases::default();
    for (key, lease) in store.iter::<Lease>(LEASE)? {
        // Names have no slash in them.
        if let Some((network, endpoint)) = key[LEASE.len()..].split_once('/') {
            leases.insert(network, endpoint, lease);
        }
    }
    leases.subnets = read_by_network(store, SUBNETS)?;
    leases.quarantined = read_by_network(store, QUARANTINE)?;
    leases.ports = read_by_network(store, PORTS)?;
    leases.last_port = store.get(LAST_PORT)?;
    leases.expire(now);
    Ok(leases)
}

/// As [`load`], with what this machine has for ports that the config leaves open.
///
/// # Errors
/// As [`load`].
pub fn load_here(store: &Store, now: SystemTime) -> Result<Leases, StoreError> {
    let mut leases = load(store, now)?;
    leases.ephemeral = reserve::ephemeral_ports();
    leases.ephemeral.busy = reserve::busy();
    Ok(leases)
}

/// Has the store hold the leases of the config that runs now. What it has no more rests, if its
/// network says so, and is given up otherwise.
///
/// # Errors
/// The disk refuses; the store is as it was.
pub fn follow(store: &Store, config: &Config) -> Result<(), StoreError> {
    let now = SystemTime::now();
    let mut leases = load(store, now)?;
    leases.follow(config, now);
    save(store, &leases)
}

/// Makes the store hold these leases and no others. What is so already costs nothing.
fn save(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let mut changes = Changes::new();
    for prefix in [LEASE, SUBNETS, QUARANTINE, PORTS] {
        for (key, _) in store.iter::<serde_json::Value>(prefix)? {
            changes.remove(key);
        }
    }
    add(&mut changes, leases);
    store.commit(changes)
}

/// Adds these leases to those that the store holds, before they are given out.
///
/// # Errors
/// The disk refuses; the store is as it was.
pub fn promise(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let mut changes = Changes::new();
    add(&mut changes, leases);
    store.commit(changes)
}

fn add(changes: &mut Changes, leases: &Leases) {
    for (network, endpoint, lease) in leases.iter() {
        changes.put(format!("{LEASE}{network}/{endpoint}"), lease);
    }
    put_by_network(changes, SUBNETS, &leases.subnets);
    put_by_network(changes, QUARANTINE, &leases.quarantined);
    put_by_network(changes, PORTS, &leases.ports);
    if let Some(port) = leases.last_port {
        changes.put(LAST_PORT, &port);
    }
}

fn read_by_network<T: serde::de::DeserializeOwned>(
    store: &Store,
    prefix: &str,
) -> Result<BTreeMap<String, T>, StoreError> {
    let found = store.iter::<T>(prefix)?;
    Ok(found.into_iter().map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect())
}

fn put_by_network<T: Serialize>(changes: &mut Changes, prefix: &str, by: &BTreeMap<String, T>) {
    for (network, value) in by {
        changes.put(format!("{prefix}{network}"), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[network.front]
subnet = "10.6.0.0/24"
quarantine = "1h"
[network.back]
subnet = "10.7.0.0/24"
[endpoint.web]
attach = { netns = "a" }
publish = ["80", "81", "8000-8001:82/udp"]
network = [{ name = "front" }, { name = "back" }]
[endpoint.db]
attach = { netns = "b" }
network = [{ name = "back" }]
"#;

    #[test]
    fn leases_are_the_same_after_the_next_open() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse("a.toml", TEXT).unwrap();
        let leases = config.leases();
        let store = Store::open(folder.path()).unwrap();
        promise(&store, &leases).unwrap();
        assert_eq!(load(&store, SystemTime::now()).unwrap(), leases);
        let without = TEXT.split("[endpoint.db]").next().unwrap();
        let without = without.replace("{ name = \"front\" }, ", "");
        follow(&store, &Config::parse("a.toml", &without).unwrap()).unwrap();
        drop(store);
        let found = load(&Store::open(folder.path()).unwrap(), SystemTime::now()).unwrap();
        assert_eq!(found.endpoints["back"].len(), 1);
        assert_eq!(found.quarantined["front"].len(), 1);
    }
}
