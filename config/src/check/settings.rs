//! `[gateway]` and `[limits]`: the daemon's own settings, one by one.
//!
//! None of them depends on another part of the file.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use engine::id::WORKER_COUNT_MAX;
use engine::limits::Limits;

use super::{flag, number, word};
use crate::bounds::CPU_ID_MAX;
use crate::bounds::limits as most;
use crate::model::{Gateway, Idle, LogFormat, Workers};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::{self, Number};
use crate::words;

/// Longest path of a Unix socket, in bytes: `sun_path` less its final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Longest name of a group, in bytes: useradd(8).
const GROUP_NAME_BYTES_MAX: usize = 32;

/// Checks `[gateway]`.
pub(super) fn gateway(given: Option<&schema::Gateway>, report: &mut Report) -> Gateway {
    let absent = schema::Gateway::default();
    let given = given.unwrap_or(&absent);
    let api = path(&given.api, "/run/portolan/portolan.sock", report);
    if api.as_os_str().len() > SOCKET_PATH_BYTES_MAX
        && let Some(at) = given.api.place()
    {
        let message = format!("a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes");
        report.error(at, message);
    }
    Gateway {
        workers: workers(&given.workers, report).unwrap_or(Workers::Auto),
        idle: word(&given.idle, words::IDLE, report).unwrap_or(Idle::Adaptive),
        state: path(&given.state, "/var/lib/portolan", report),
        api,
        metrics: metrics(&given.metrics, report),
        watch: flag(&given.watch, false),
        api_group: group(&given.api_group, report),
        // Which pools there are follows from the uplinks too.
        address_pools: Vec::new(),
        log: word(&given.log, words::LOG, report).unwrap_or(LogFormat::Text),
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

/// Checks `[limits]`.
pub(super) fn limits(given: Option<&schema::Limits>, report: &mut Report) -> Limits {
    let absent = schema::Limits::default();
    let given = given.unwrap_or(&absent);
    let default = Limits::default();
    let mut limit = |field: &Field<Number>, max: i64, default: u32| {
        number(field, 1..=max, "", report).map_or(default, |number| number as u32)
    };
    let flows = limit(&given.flows, most::FLOWS_MAX, default.flows);
    let fdb = limit(&given.fdb, most::FDB_MAX, default.fdb);
    let limits = Limits {
        flows,
        // A share that the file does not name shrinks with its total.
        flows_per_port: limit(
            &given.flows_per_port,
            most::FLOWS_MAX,
            default.flows_per_port.min(flows),
        ),
        half_open_per_port: limit(
            &given.half_open_per_port,
            most::FLOWS_MAX,
            default.half_open_per_port.min(flows),
        ),
        flows_per_source: limit(
            &given.flows_per_source,
            most::FLOWS_MAX,
            default.flows_per_source.min(flows),
        ),
        fdb,
        fdb_per_port: limit(&given.fdb_per_port, most::FDB_MAX, default.fdb_per_port.min(fdb)),
        neighbours: limit(&given.neighbours, most::NEIGHBOURS_MAX, default.neighbours),
        held_per_neighbour: limit(
            &given.held_per_neighbour,
            most::HELD_PER_NEIGHBOUR_MAX,
            default.held_per_neighbour,
        ),
        fragments: limit(&given.fragments, most::FRAGMENTS_MAX, default.fragments),
        fragments_held: limit(&given.fragments_held, most::FRAGMENTS_MAX, default.fragments_held),
        floods_per_second: limit(
            &given.floods_per_second,
            most::RATE_MAX,
            default.floods_per_second,
        ),
        answers_per_second: limit(
            &given.answers_per_second,
            most::RATE_MAX,
            default.answers_per_second,
        ),
        icmp_errors_per_second: limit(
            &given.icmp_errors_per_second,
            most::RATE_MAX,
            default.icmp_errors_per_second,
        ),
        hand_over: limit(&given.hand_over, most::HAND_OVER_MAX, default.hand_over),
        glued: limit(&given.glued, most::GLUED_MAX, default.glued),
    };
    share_within(&given.flows_per_port, limits.flows_per_port, "flows", flows, report);
    let half_open = limits.half_open_per_port;
    share_within(&given.half_open_per_port, half_open, "flows", flows, report);
    share_within(&given.flows_per_source, limits.flows_per_source, "flows", flows, report);
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
