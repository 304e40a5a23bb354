//! `[gateway]` and `[limits]`: the daemon's own settings, one by one.
//!
//! None of them depends on another part of the file.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use engine::id::WORKER_COUNT_MAX;
use engine::limits::Limits;

use super::{flag, number, word};
use crate::model::{Gateway, Idle, LogFormat, Workers};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::{self, Number};

/// Longest path of a Unix socket, in bytes: `sun_path` less its final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Highest CPU id: the size of the kernel's `cpu_set_t`, less one.
const CPU_ID_MAX: i64 = 1_023;

/// Longest name of a group, in bytes: useradd(8).
const GROUP_NAME_BYTES_MAX: usize = 32;

/// Checks `[gateway]`.
pub(super) fn gateway(given: Option<&schema::Gateway>, report: &mut Report) -> Gateway {
    let absent = schema::Gateway::default();
    let given = given.unwrap_or(&absent);
    let idles = [
        ("busy", Some(Idle::Busy)),
        ("adaptive", Some(Idle::Adaptive)),
        ("interrupt", Some(Idle::Interrupt)),
    ];
    let logs = [("text", Some(LogFormat::Text)), ("json", Some(LogFormat::Json))];
    let api = path(&given.api, "/run/portolan/portolan.sock", report);
    if api.as_os_str().len() > SOCKET_PATH_BYTES_MAX
        && let Some(at) = given.api.place()
    {
        let message = format!("a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes");
        report.error(at, message);
    }
    Gateway {
        workers: workers(&given.workers, report).unwrap_or(Workers::Auto),
        idle: word(&given.idle, &idles, report).unwrap_or(Idle::Adaptive),
        state: path(&given.state, "/var/lib/portolan", report),
        api,
        metrics: metrics(&given.metrics, report),
        watch: flag(&given.watch, false),
        api_group: group(&given.api_group, report),
        log: word(&given.log, &logs, report).unwrap_or(LogFormat::Text),
    }
}

fn workers(field: &Field<values::Workers>, report: &mut Report) -> Option<Workers> {
    let (at, given) = field.given()?;
    match given {
        values::Workers::Word(word) if word == "auto" => Some(Workers::Auto),
        values::Workers::Word(word) => {
            let message =
                format!("unknown word {word:?}, expected a list of CPU ids, a count, or \"auto\"");
            report.error(at, message);
            None
        }
        values::Workers::Count(count) => {
            let count = u8::try_from(*count).ok().filter(|&count| count > 0);
            count_in_bounds(at, count.map(usize::from), report)?;
            count.map(Workers::Count)
        }
        values::Workers::Cpus(cpus) => {
            count_in_bounds(at, Some(cpus.len()).filter(|&count| count > 0), report)?;
            cpu_ids(cpus, report).map(Workers::Cpus)
        }
    }
}

fn count_in_bounds(at: PlaceId, count: Option<usize>, report: &mut Report) -> Option<()> {
    if count.is_some_and(|count| count <= WORKER_COUNT_MAX) {
        return Some(());
    }
    report.error(at, format!("there are 1 to {WORKER_COUNT_MAX} workers"));
    None
}

fn cpu_ids(cpus: &[Field<Number>], report: &mut Report) -> Option<Vec<u16>> {
    let mut seen = HashSet::new();
    let mut ids = Vec::with_capacity(cpus.len());
    for cpu in cpus {
        let Some(id) = number(cpu, 0..=CPU_ID_MAX, "", report) else { continue };
        if seen.insert(id) {
            ids.push(id as u16);
        } else if let Some(at) = cpu.place() {
            report.error(at, format!("CPU {id} is in the list already"));
        }
    }
    (!ids.is_empty()).then_some(ids)
}

fn path(field: &Field<String>, default: &str, report: &mut Report) -> PathBuf {
    let Some((at, path)) = field.given() else { return default.into() };
    if !path.starts_with('/') || path.contains('\0') {
        report.error(at, format!("expected an absolute path, found {path:?}"));
    }
    path.into()
}

fn metrics(field: &Field<String>, report: &mut Report) -> Option<SocketAddr> {
    let (at, text) = field.given()?;
    let address = text.parse();
    if address.is_err() {
        let problem = report.error(at, format!("expected an address and a port, found {text:?}"));
        problem.hint("such as \"127.0.0.1:9478\" or \"[::1]:9478\"");
    }
    address.ok()
}

/// The name of a group as useradd(8) takes it, or its number.
fn group(field: &Field<String>, report: &mut Report) -> Option<String> {
    let (at, name) = field.given()?;
    let is_sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    if name.is_empty() || name.len() > GROUP_NAME_BYTES_MAX || !name.chars().all(is_sound) {
        report.error(at, format!("{name:?} is no name of a group"));
        return None;
    }
    Some(name.clone())
}

/// Checks `[limits]`. Upper bounds keep what is allocated at start below the memory of a large
/// machine; a flow takes about 200 bytes, a ring slot 64.
pub(super) fn limits(given: Option<&schema::Limits>, report: &mut Report) -> Limits {
    let absent = schema::Limits::default();
    let given = given.unwrap_or(&absent);
    let default = Limits::default();
    let mut limit = |field: &Field<Number>, max: i64, default: u32| {
        number(field, 1..=max, "", report).map_or(default, |number| number as u32)
    };
    let flows = limit(&given.flows, 1 << 26, default.flows);
    let fdb = limit(&given.fdb, 1 << 24, default.fdb);
    let limits = Limits {
        flows,
        // A share that the file does not name shrinks with its total.
        flows_per_port: limit(&given.flows_per_port, 1 << 26, default.flows_per_port.min(flows)),
        fdb,
        fdb_per_port: limit(&given.fdb_per_port, 1 << 24, default.fdb_per_port.min(fdb)),
        neighbours: limit(&given.neighbours, 1 << 20, default.neighbours),
        held_per_neighbour: limit(&given.held_per_neighbour, 1 << 10, default.held_per_neighbour),
        fragments: limit(&given.fragments, 1 << 20, default.fragments),
        floods_per_second: limit(&given.floods_per_second, 1 << 30, default.floods_per_second),
        answers_per_second: limit(&given.answers_per_second, 1 << 30, default.answers_per_second),
        hand_over: limit(&given.hand_over, 1 << 16, default.hand_over),
    };
    share_within(&given.flows_per_port, limits.flows_per_port, "flows", flows, report);
    share_within(&given.fdb_per_port, limits.fdb_per_port, "fdb", fdb, report);
    limits
}

fn share_within(field: &Field<Number>, share: u32, name: &str, total: u32, report: &mut Report) {
    if let Some(at) = field.place()
        && share > total
    {
        report.error(at, format!("{share} is more than limits.{name}, which is {total}"));
    }
}
