//! Settings of the host's kernel: switched on for one interface at a time, and undone.
//!
//! Each is journaled with the value that it had before it is written, so that a killed run is
//! undone by the next start. The one hard constraint: what somebody else has set meanwhile stays.
//!
//! IPv6 had one switch for the whole host until Linux 6.17 (`force_forwarding` is per interface).
//! On an older kernel that switch is taken: `net.ipv6.conf.all.forwarding`, which also makes the
//! kernel ignore router advertisements, so `accept_ra` becomes 2 where it was 1.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::netns;
use crate::store::{Changes, Store};

/// Where the settings are.
const ROOT: &str = "/proc/sys/net";

/// Begins the journal's keys.
const PREFIX: &str = "host/setting/";

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// What it was.
    before: String,
    /// What it is now.
    ours: String,
    /// The namespace that it is of, and the start of the machine.
    cookie: Option<u64>,
    boot: String,
}

/// All settings that are ours.
#[derive(Debug)]
pub(super) struct Settings {
    store: Arc<Store>,
    root: PathBuf,
    set: BTreeMap<String, Record>,
    cookie: Option<u64>,
    boot: String,
}

impl Settings {
    /// Those that a killed run left.
    pub(super) fn load(store: &Arc<Store>) -> Settings {
        Settings::load_at(store, Path::new(ROOT), netns::cookie_of(Path::new("/proc/self/ns/net")))
    }

    fn load_at(store: &Arc<Store>, root: &Path, cookie: Option<u64>) -> Settings {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim_end().to_owned();
        let journaled = store.iter::<Record>(PREFIX).unwrap_or_default();
        let (mut set, mut forgotten) = (BTreeMap::new(), Changes::new());
        for (key, record) in journaled {
            let path = key.strip_prefix(PREFIX).unwrap_or(&key).to_owned();
            // Of another namespace, or of a kernel that has forgotten it.
            if record.cookie == cookie && record.boot == boot {
                set.insert(path, record);
            } else {
                forgotten.remove(key);
            }
        }
        let settings = Settings { store: store.clone(), root: root.to_owned(), set, cookie, boot };
        settings.note(forgotten);
        settings
    }

    fn note(&self, changes: Changes) {
        if let Err(error) = self.store.commit(changes) {
            tracing::error!(%error, "settings of the host's kernel are not journaled");
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(path)).ok()?.trim_end().to_owned())
    }

    fn write(&self, path: &str, value: &str) {
        if let Err(error) = fs::write(self.root.join(path), value) {
            tracing::warn!(path, value, %error, "setting not made");
        }
    }

    /// Forwarding on for these interfaces, and off again for those that we had switched it on for.
    /// Returns the interfaces that forward because of us: `4:NAME` and `6:NAME`.
    pub(super) fn forward(&mut self, interfaces: &BTreeSet<String>) -> BTreeSet<String> {
        let mut wanted = BTreeMap::new();
        for interface in interfaces {
            wanted.insert(format!("ipv4/conf/{interface}/forwarding"), "1");
            let forced = format!("ipv6/conf/{interface}/force_forwarding");
            match self.read(&forced) {
                Some(_) => drop(wanted.insert(forced, "1")),
                None => {
                    wanted.insert("ipv6/conf/all/forwarding".into(), "1");
                    let accept = format!("ipv6/conf/{interface}/accept_ra");
                    let is_ours = self.set.contains_key(&accept);
                    if is_ours || self.read(&accept).as_deref() == Some("1") {
                        wanted.insert(accept, "2");
                    }
                }
            }
        }
        // Where the whole host forwards IPv6 already there is nothing to switch on.
        let all = "ipv6/conf/all/forwarding";
        if self.read(all).as_deref() == Some("1") && !self.set.contains_key(all) {
            wanted.retain(|path, _| !path.starts_with("ipv6/"));
        }
        self.set_all(&wanted);
        let name = |path: &String| {
            let (family, rest) = path.strip_prefix("ipv")?.split_once("/conf/")?;
            let (interface, key) = rest.split_once('/')?;
            key.ends_with("forwarding").then(|| format!("{family}:{interface}"))
        };
        self.set.keys().filter_map(name).collect()
    }

    fn set_all(&mut self, wanted: &BTreeMap<String, &str>) {
        let gone: Vec<String> =
            self.set.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        self.undo(&gone);
        let mut changes = Changes::new();
        for (path, value) in wanted {
            let Some(now) = self.read(path) else { continue };
            if now == *value {
                continue;
            }
            let record = Record {
                before: now,
                ours: (*value).to_owned(),
                cookie: self.cookie,
                boot: self.boot.clone(),
            };
            // Who set it back meanwhile is told from us by the value that it had at first.
            let record = self.set.get(path).cloned().unwrap_or(record);
            changes.put(format!("{PREFIX}{path}"), &record);
            self.set.insert(path.clone(), record);
        }
        self.note(changes);
        for (path, value) in wanted {
            if self.set.contains_key(path) && self.read(path).as_deref() != Some(value) {
                self.write(path, value);
            }
        }
    }

    /// Gives settings back. One that is not as we left it is somebody else's now.
    fn undo(&mut self, paths: &[String]) {
        let mut changes = Changes::new();
        for path in paths {
            let Some(record) = self.set.remove(path) else { continue };
            if self.read(path).as_deref() == Some(record.ours.as_str()) {
                self.write(path, &record.before);
            }
            changes.remove(format!("{PREFIX}{path}"));
        }
        if !paths.is_empty() {
            self.note(changes);
        }
    }

    /// Gives all settings back.
    pub(super) fn undo_all(&mut self) {
        self.undo(&self.set.keys().cloned().collect::<Vec<_>>());
    }
}

/// Settings of a device of ours, which go with it: it forwards, and lets the host's loopback
/// addresses talk through it.
pub(super) fn prepare_device(device: &str, is_link: bool) {
    let mut wanted = vec![
        ("ipv4", "forwarding", "1"),
        ("ipv6", "force_forwarding", "1"),
        ("ipv4", "send_redirects", "0"),
    ];
    if is_link {
        wanted.push(("ipv4", "route_localnet", "1"));
    }
    for (family, key, value) in wanted {
        // A kernel without IPv6, or before 6.17, has no such setting.
        let _ = fs::write(format!("{ROOT}/{family}/conf/{device}/{key}"), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Kernel {
        folder: tempfile::TempDir,
        store: Arc<Store>,
    }

    impl Kernel {
        fn new(settings: &[(&str, &str)]) -> Kernel {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(&folder.path().join("state")).unwrap());
            let kernel = Kernel { folder, store };
            settings.iter().for_each(|(path, value)| kernel.set(path, value));
            kernel
        }

        fn set(&self, path: &str, value: &str) {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }

        fn get(&self, path: &str) -> String {
            fs::read_to_string(self.folder.path().join(path)).unwrap().trim_end().to_owned()
        }

        fn settings(&self, cookie: u64) -> Settings {
            Settings::load_at(&self.store, self.folder.path(), Some(cookie))
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const V4: &str = "ipv4/conf/eth0/forwarding";
    const V6: &str = "ipv6/conf/eth0/force_forwarding";
    const ALL: &str = "ipv6/conf/all/forwarding";

    #[test]
    fn forwarding_is_switched_on_per_interface_and_given_back() {
        let kernel = Kernel::new(&[(V4, "0"), (V6, "0"), (ALL, "0")]);
        let mut settings = kernel.settings(1);
        assert_eq!(settings.forward(&names(&["eth0"])), names(&["4:eth0", "6:eth0"]));
        assert_eq!([kernel.get(V4), kernel.get(V6), kernel.get(ALL)], ["1", "1", "0"]);
        settings.undo_all();
        assert_eq!([kernel.get(V4), kernel.get(V6)], ["0", "0"]);
    }

    #[test]
    fn what_forwards_already_is_not_ours_and_stays() {
        let kernel = Kernel::new(&[(V4, "1"), (V6, "0"), (ALL, "1")]);
        let mut settings = kernel.settings(1);
        assert_eq!(settings.forward(&names(&["eth0"])), names(&[]));
        settings.undo_all();
        assert_eq!([kernel.get(V4), kernel.get(ALL)], ["1", "1"]);
    }

    #[test]
    fn a_killed_run_is_undone_by_the_next_but_not_in_another_namespace() {
        let kernel = Kernel::new(&[(V4, "0"), (V6, "0"), (ALL, "0")]);
        kernel.settings(1).forward(&names(&["eth0"]));
        // Killed. The next one wants it too, and knows what it was.
        let mut next = kernel.settings(1);
        assert_eq!(next.forward(&names(&["eth0"])), names(&["4:eth0", "6:eth0"]));
        // Somebody else switched one off: that stays as it is.
        kernel.set(V6, "5");
        next.forward(&names(&[]));
        assert_eq!([kernel.get(V4), kernel.get(V6)], ["0", "5"]);
        next.forward(&names(&["eth0"]));
        kernel.settings(2).undo_all();
        assert_eq!(kernel.get(V4), "1");
    }

    #[test]
    fn an_older_kernel_forwards_ipv6_as_a_whole_and_goes_on_hearing_its_router() {
        let accept = "ipv6/conf/eth0/accept_ra";
        let kernel = Kernel::new(&[(V4, "0"), (ALL, "0"), (accept, "1")]);
        let mut settings = kernel.settings(1);
        settings.forward(&names(&["eth0"]));
        assert_eq!([kernel.get(ALL), kernel.get(accept)], ["1", "2"]);
        assert_eq!(settings.forward(&names(&["eth0"])), names(&["4:eth0", "6:all"]));
        settings.undo_all();
        assert_eq!([kernel.get(ALL), kernel.get(accept)], ["0", "1"]);
    }
}
