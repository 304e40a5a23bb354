//! What a run leaves behind, which must be nothing.
//!
//! Namespaces, network devices and nftables tables are compared by name before and after; processes
//! are found by the mark that every program of this run has in its environment
//! ([`RUN_MARK`]), so processes of others are never taken for ours. The
//! hard constraint: only marked processes are ever ended.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{RUN_MARK, program, query, run_mark, wait_until};
use crate::steps::Counts;

/// How long the kernel may take to remove what its last user has closed: namespaces go in a
/// work queue of their own.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Names of everything that a run could leave on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    namespaces: BTreeSet<String>,
    devices: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Snapshot {
    /// What is there now.
    pub(crate) fn take() -> Result<Snapshot> {
        let rules = query("nft", &["list", "tables"])?;
        Ok(Snapshot {
            namespaces: names_in("/run/netns")?,
            devices: names_in("/sys/class/net")?,
            tables: rules.lines().map(str::to_owned).collect(),
        })
    }

    /// What is here and was not there before, in words.
    fn added_since(&self, before: &Snapshot) -> Vec<String> {
        let kinds = [
            ("namespace", &self.namespaces, &before.namespaces),
            ("network device", &self.devices, &before.devices),
            ("nftables", &self.tables, &before.tables),
        ];
        let added = |(kind, now, before): (&str, &BTreeSet<String>, &BTreeSet<String>)| {
            now.difference(before).map(|name| format!("{kind} {name}")).collect::<Vec<_>>()
        };
        kinds.into_iter().flat_map(added).collect()
    }
}

/// Compares with what was there before; waits a little for what is still going.
pub(crate) fn check(before: &Snapshot) -> Result<Counts> {
    let mut problems = Vec::new();
    let settled = wait_until(SETTLE_LIMIT, || match problems_since(before) {
        Ok(found) => {
            problems = found;
            problems.is_empty()
        }
        Err(error) => {
            problems = vec![format!("{error:#}")];
            false
        }
    });
    if !settled {
        end_processes(&run_mark());
        bail!("left behind: {}", problems.join(", "));
    }
    println!("no namespace, device, nftables table or process is left");
    Ok(Counts::ONE)
}

fn problems_since(before: &Snapshot) -> Result<Vec<String>> {
    let added = Snapshot::take()?.added_since(before).into_iter();
    let processes =
        processes(&run_mark()).into_iter().map(|(id, name)| format!("process {id} ({name})"));
    Ok(added.chain(processes).collect())
}

fn names_in(folder: &str) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // The folder of named namespaces appears with the first of them.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()
        .with_context(|| format!("cannot list {folder}"))
}

/// Processes whose mark begins so: their ids and names.
pub(crate) fn processes(mark: &str) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|&id| has_mark(id, mark)).map(|id| (id, name_of(id))).collect()
}

/// True if the process was started with a mark that begins so. One that has ended has no
/// environment any more.
fn has_mark(id: u32, mark: &str) -> bool {
    let wanted = format!("{RUN_MARK}={mark}");
    // A process may end between the listing and this; then it is not there, which is the answer.
    let environment = fs::read(Path::new("/proc").join(id.to_string()).join("environ"));
    environment.is_ok_and(|bytes| {
        bytes.split(|&byte| byte == 0).any(|variable| variable.starts_with(wanted.as_bytes()))
    })
}

fn name_of(id: u32) -> String {
    fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default().trim().to_owned()
}

/// Ends the processes whose mark begins so.
pub(crate) fn end_processes(mark: &str) {
    for (id, name) in processes(mark) {
        println!("ending process {id} ({name})");
        let script = format!("kill -KILL {id}");
        // It may have ended by itself meanwhile, which is as good.
        let _ = program("sh", &["-c", &script]).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(namespaces: &[&str], devices: &[&str]) -> Snapshot {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Snapshot { namespaces: set(namespaces), devices: set(devices), tables: set(&[]) }
    }

    #[test]
    fn a_namespace_or_device_that_stays_is_named() {
        let before = snapshot(&["own"], &["lo"]);
        let after = snapshot(&["own", "web"], &["lo", "tap0"]);
        assert_eq!(after.added_since(&before), ["namespace web", "network device tap0"]);
        assert!(before.added_since(&after).is_empty(), "what others remove is theirs");
    }

    #[test]
    fn a_process_is_found_by_its_mark_and_no_other_is() {
        let mark = format!("sample-{}.", std::process::id());
        let mut child = program("sleep", &["1000"])
            .env(RUN_MARK, format!("{mark}0"))
            .spawn()
            .expect("sleep is there");
        assert!(wait_until(SETTLE_LIMIT, || !processes(&mark).is_empty()));
        assert_eq!(processes(&mark), [(child.id(), "sleep".to_owned())]);
        end_processes(&mark);
        child.wait().expect("the child is ours to wait for");
        assert!(processes(&mark).is_empty());
    }
}
