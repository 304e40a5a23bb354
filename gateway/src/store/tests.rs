//! Cuts, bit flips, foreign files, full and failing disks.
//!
//! The full disk is a real one: a tmpfs of a few pages in a mount namespace of the test's thread.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use super::*;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn values_of(store: &Store) -> Vec<(String, Value)> {
    store.iter("").unwrap()
}

/// Overwrites the journal of a folder that no store has open.
fn plant(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join(FILE_NAME), bytes).unwrap();
}

fn planted(folder: &Path) -> Vec<u8> {
    fs::read(folder.join(FILE_NAME)).unwrap()
}

#[test]
fn what_was_put_is_there_after_the_next_open() {
    let folder = scratch();
    let path = folder.path().join("deep").join("state");
    let store = Store::open(&path).unwrap();
    store.put("lease/front/web", &"10.1.0.10").unwrap();
    let mut changes = Changes::new();
    changes.put("device/web/front", &vec![1, 2]);
    changes.put("device/db/back", &vec![3]);
    changes.remove("lease/front/web");
    store.commit(changes).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get::<String>("lease/front/web").unwrap(), None);
    let devices: Vec<(String, Vec<u8>)> = store.iter("device/").unwrap();
    assert_eq!(
        devices,
        [("device/db/back".into(), vec![3]), ("device/web/front".into(), vec![1, 2])]
    );
    let error = store.get::<String>("device/db/back").unwrap_err();
    assert!(error.to_string().contains("device/db/back"), "{error}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join(FILE_NAME))), (0o700, 0o600));
}

#[test]
fn a_commit_that_changes_nothing_writes_nothing() {
    let folder = scratch();
    let store = Store::open(folder.path()).unwrap();
    store.put("a", &1).unwrap();
    let before = planted(folder.path());
    store.put("a", &1).unwrap();
    store.remove("b").unwrap();
    store.commit(Changes::new()).unwrap();
    assert_eq!(planted(folder.path()), before);
}

#[test]
fn a_second_daemon_is_refused_until_the_first_is_gone() {
    let folder = scratch();
    let first = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("another portolan"), "{error}");
    drop(first);
    Store::open(folder.path()).unwrap();
}

/// A process that a thread is starting has our descriptors until it executes its program.
#[test]
fn a_process_that_is_being_started_keeps_nobody_out_of_a_store_that_was_closed() {
    let folder = scratch();
    let first = Store::open(folder.path()).unwrap();
    let inherited = first._folder.0.try_clone().unwrap();
    drop(first);
    let began = Instant::now();
    drop(Store::open(folder.path()).unwrap());
    assert!(began.elapsed() < LOCK_WITHIN, "nothing was waited for");
    drop(inherited);
}

#[test]
fn the_lock_of_a_daemon_that_was_killed_is_waited_for_while_its_child_has_it() {
    let folder = scratch();
    // The daemon is gone without a word, and its child has what it inherited for a moment more.
    let lock = FolderLock::take(folder.path()).unwrap();
    let inherited = lock.0.try_clone().unwrap();
    std::mem::forget(lock);
    let (opening, opened) = std::sync::mpsc::channel();
    let path = folder.path().to_owned();
    let next = thread::spawn(move || {
        opening.send(()).unwrap();
        Store::open(&path).map(drop)
    });
    opened.recv().unwrap();
    thread::sleep(LOCK_WITHIN / 10);
    rustix::fs::flock(&inherited, FlockOperation::Unlock).unwrap();
    next.join().unwrap().unwrap();
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let folder = scratch();
    let long = format!("{}99999999999999999999999\n", "portolan gateway state, format ");
    for text in ["PK\u{3}\u{4}", "{}", "portolan gateway state, format x\n", &long, "portolan\n"] {
        plant(folder.path(), text.as_bytes());
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains("no state of portolan"), "{error}");
        assert_eq!(planted(folder.path()), text.as_bytes());
    }
}

#[test]
fn a_newer_file_is_refused_and_left_as_it_is() {
    let folder = scratch();
    let text = b"portolan gateway state, format 2\nwhatever comes then";
    plant(folder.path(), text);
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("run the newer portolan"), "{error}");
    assert_eq!(planted(folder.path()), text);
}

#[test]
fn a_record_whose_payload_is_no_json_is_damage() {
    let folder = scratch();
    let path = folder.path().join(FILE_NAME);
    let (mut journal, _) = Journal::open(path).unwrap();
    journal.append(b"not json").unwrap();
    drop(journal);
    let before = planted(folder.path());
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { offset: 33, .. }), "{error:?}");
    assert_eq!(planted(folder.path()), before);
}

#[test]
fn a_journal_of_dead_records_is_written_anew() {
    let folder = scratch();
    let store = Store::open(folder.path()).unwrap();
    let mut sizes = HashSet::new();
    for round in 0..3_000 {
        store.put(&format!("key/{}", round % 7), &format!("{round:0100}")).unwrap();
        sizes.insert(planted(folder.path()).len());
    }
    let largest = sizes.iter().max().unwrap();
    assert!(*largest < 3 * COMPACT_BYTES_MIN as usize, "{largest}");
    assert!(*largest > COMPACT_BYTES_MIN as usize, "it is not written anew all the time");
    let before = values_of(&store);
    assert_eq!(before.len(), 7);
    drop(store);
    assert_eq!(values_of(&Store::open(folder.path()).unwrap()), before);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_a_killed_rewrite_left_is_removed() {
    let folder = scratch();
    let beside = journal::new_path(&folder.path().join(FILE_NAME));
    fs::write(&beside, b"half a file").unwrap();
    Store::open(folder.path()).unwrap();
    assert!(!beside.exists());
}

#[test]
fn a_failed_sync_changes_nothing_and_the_next_commit_makes_it_good() {
    let folder = scratch();
    let store = Store::open(folder.path()).unwrap();
    store.put("a", &1).unwrap();
    // The append fails, then the new file that alone could be trusted, then the disk is well.
    store.lock().journal.failing_syncs.set(2);
    for _ in 0..2 {
        let error = store.put("b", &2).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert_eq!(values_of(&store), [("a".to_owned(), 1.into())]);
    }
    store.put("c", &3).unwrap();
    store.put("d", &4).unwrap();
    let expected = values_of(&store);
    assert_eq!(expected.len(), 3);
    drop(store);
    assert_eq!(values_of(&Store::open(folder.path()).unwrap()), expected);
}

/// Runs `work` with a tmpfs of so many bytes, which goes with the thread.
fn with_small_disk(bytes: usize, work: impl FnOnce(&Path) + Send) {
    let folder = scratch();
    let path = folder.path();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            #[expect(deprecated, reason = "the safe form is sound for CLONE_NEWNS")]
            rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
            work(path);
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_full_disk_fails_the_commit_and_nothing_else() {
    with_small_disk(64 * 1024, |path| {
        let state = path.join("state");
        let store = Store::open(&state).unwrap();
        store.put("lease/a", &"10.1.0.2").unwrap();
        let ballast = path.join("ballast");
        let filled = fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
        let before = (planted(&state), values_of(&store));
        // Longer than what is left of the last page.
        let long = "x".repeat(10_000);
        for _ in 0..3 {
            let error = store.put("lease/b", &long).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("gateway.state") && text.contains("make room"), "{text}");
            assert_eq!((planted(&state), values_of(&store)), before);
        }
        fs::remove_file(&ballast).unwrap();
        store.put("lease/b", &long).unwrap();
        let expected = values_of(&store);
        drop(store);
        assert_eq!(values_of(&Store::open(&state).unwrap()), expected);
    });
}

#[test]
fn a_disk_full_from_the_start_is_said() {
    with_small_disk(8 * 1024, |path| {
        let filled = fs::write(path.join("ballast"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
        let error = Store::open(path).unwrap_err();
        assert!(error.to_string().contains("make room"), "{error}");
        assert!(!path.join(FILE_NAME).exists());
    });
}

/// A commit: keys, each with a value or none.
type Commit = Vec<(u8, Option<u16>)>;

fn commits() -> impl Strategy<Value = Vec<Commit>> {
    let change = (0u8..6, proptest::option::of(any::<u16>()));
    proptest::collection::vec(proptest::collection::vec(change, 1..4), 1..8)
}

/// Makes the commits. Returns the file, and the states after none, one, two … of them.
fn build(folder: &Path, commits: &[Commit]) -> (Vec<u8>, Vec<Vec<(String, Value)>>) {
    let store = Store::open(folder).unwrap();
    let mut states = vec![values_of(&store)];
    for commit in commits {
        let mut changes = Changes::new();
        for (key, value) in commit {
            match value {
                Some(value) => changes.put(format!("key/{key}"), value),
                None => changes.remove(format!("key/{key}")),
            }
        }
        store.commit(changes).unwrap();
        states.push(values_of(&store));
    }
    drop(store);
    states.dedup();
    (planted(folder), states)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_file_cut_anywhere_is_a_state_that_was_acknowledged(commits in commits()) {
        let folder = scratch();
        let (whole, states) = build(folder.path(), &commits);
        let mut reached = 0;
        for length in 0..=whole.len() {
            plant(folder.path(), &whole[..length]);
            let store = Store::open(folder.path()).unwrap();
            let found = values_of(&store);
            let place = states[reached..].iter().position(|state| *state == found);
            prop_assert!(place.is_some(), "cut at {length}: {found:?}");
            reached += place.unwrap();
            // It is usable again, and what is committed now stays.
            store.put("after", &length).unwrap();
            drop(store);
            let after = Store::open(folder.path()).unwrap().get("after").unwrap();
            prop_assert_eq!(after, Some(length));
        }
        prop_assert_eq!(reached, states.len() - 1);
    }

    #[test]
    fn a_wrong_bit_is_refused_or_costs_the_last_commit_only(commits in commits(), at: usize) {
        let folder = scratch();
        let (mut bytes, states) = build(folder.path(), &commits);
        let bit = at % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        plant(folder.path(), &bytes);
        match Store::open(folder.path()) {
            Ok(store) => {
                let found = values_of(&store);
                let last = &states[states.len().saturating_sub(2)..];
                prop_assert!(last.contains(&found), "bit {bit}: {found:?}");
            }
            Err(error) => {
                prop_assert!(!matches!(error, StoreError::Io { .. }), "{error}");
                prop_assert_eq!(planted(folder.path()), bytes);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read_and_never_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..200),
        with_header: bool,
    ) {
        let folder = scratch();
        let mut bytes = Vec::new();
        if with_header {
            bytes.extend(b"portolan gateway state, format 1\n");
        }
        bytes.extend(tail);
        plant(folder.path(), &bytes);
        if let Ok(store) = Store::open(folder.path()) {
            prop_assert_eq!(values_of(&store), []);
        }
    }
}
