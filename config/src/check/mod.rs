//! From what a file says to what it means: every rule of a config, with every error in one run.
//!
//! Each part of the file has its checker, and each checker goes on after an error: a faulty value
//! is replaced by its default or left out, and nothing that follows from it is reported again. The
//! [`Config`] that comes out is whole only when the report holds no error: the caller asks.

mod addresses;
mod endpoint;
mod foreign;
mod interface;
mod macs;
mod nat;
mod network;
mod overlay;
mod parent;
mod plan;
mod policy;
mod ports;
mod publish;
mod settings;
mod subnet;
mod uplink;

use std::ops::RangeInclusive;
use std::sync::Arc;

use engine::tables::MssClamp;

pub(crate) use foreign::explained;
pub(crate) use overlay::overhead as tunnel_overhead;

use crate::bounds::{MSS_MAX, MSS_MIN, MTU_MAX, MTU_MIN, MTU_V6_MIN};
use crate::ids;
use crate::leases::Leases;
use crate::model::{Config, Outside};
use crate::names;
use crate::nearest::nearest;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema::Document;
use crate::values::{self, Number};
use crate::words::{Words, known};

/// Most ports and most networks: half of what ids can number, so that the ids of those that a
/// reload removes rest for one generation. More would need wider ids in the engine.
const ID_COUNT_MAX: usize = 32_767;

/// Checks a document; what is wrong goes into the report. What has a lease keeps it if it can.
pub(crate) fn check(document: &Document, leases: &Leases, report: &mut Report) -> Config {
    let mut gateway = settings::gateway(document.gateway.value(), report);
    let limits = settings::limits(document.limits.value(), report);
    let nat = nat::check(document.nat.value(), report);

    let mut interfaces = interface::Interfaces::default();
    let mut claims = Vec::new();
    let serves_links = network::has_links(&document.network);
    let uplinks =
        uplink::check(&document.uplink, serves_links, &mut interfaces, &mut claims, report);
    gateway.address_pools = plan::pools(document.gateway.value(), &uplinks, report);
    let sources = network::Sources { uplinks: &uplinks, pools: &gateway.address_pools, leases };
    let networks =
        network::check(&document.network, &document.endpoint, &sources, &mut claims, report);
    subnet::report_overlaps(&mut claims, report);
    let (endpoints, given) =
        endpoint::check(&document.endpoint, &networks, &uplinks, leases, &mut interfaces, report);
    let all_endpoints = document.endpoint.value().into_iter().flat_map(|Named(all)| all);
    let names = policy::Names {
        uplinks: &uplinks,
        networks: &networks,
        endpoints: &endpoints,
        all_endpoints: all_endpoints.filter_map(|(name, _)| Some(name.value()?.as_str())).collect(),
    };
    let policy = policy::check(&document.policy, &names, report);

    let uplinks_are_known = !uplinks.are_incomplete();
    let mut config = Config {
        gateway,
        uplinks: uplinks.list,
        networks: networks.list.into_iter().map(Arc::new).collect(),
        endpoints: endpoints.into_iter().map(Arc::new).collect(),
        policy,
        port_leases: given.ports,
        last_port: given.last,
        nat,
        outside: Outside::default(),
        limits,
        warnings: Vec::new(),
        imported: Vec::new(),
    };
    overlay::check_members(&config, |name| place_of(&document.network, name), report);
    parent::check_members(&config, |name| place_of(&document.endpoint, name), report);
    nat::check_outside(document.nat.value(), &mut config, uplinks_are_known, report);
    let port_count = ids::port_count(&config);
    if port_count > ID_COUNT_MAX || config.networks.len() > ID_COUNT_MAX {
        let networks = config.networks.len();
        let message = format!(
            "{port_count} ports and {networks} networks are too many, {ID_COUNT_MAX} of each go"
        );
        report.error(PlaceId::ROOT, message);
    } else {
        ids::assign_first(&mut config);
    }
    config
}

/// Where a table's name stands.
fn place_of<T>(tables: &Field<Named<T>>, name: &str) -> Option<PlaceId> {
    let Named(tables) = tables.value()?;
    let found = tables.iter().find(|(key, _)| key.value().is_some_and(|key| key == name));
    found.and_then(|(key, _)| key.place())
}

/// The named tables of one kind whose names are sound, in the order of the file.
fn entries<'d, T>(
    tables: &'d Field<Named<T>>,
    report: &mut Report,
) -> Vec<(&'d str, PlaceId, Option<&'d T>)> {
    let Some(Named(tables)) = tables.value() else { return Vec::new() };
    let mut entries = Vec::with_capacity(tables.len());
    for (name, table) in tables {
        let (at, name) = name.given().expect("every key is text");
        if let Err(message) = names::check_name(name) {
            report.error(at, message);
        }
        entries.push((name.as_str(), at, table.value()));
    }
    entries
}

/// A boolean or its default.
fn flag(field: &Field<bool>, default: bool) -> bool {
    field.value().copied().unwrap_or(default)
}

/// A number within bounds.
fn number(
    field: &Field<Number>,
    bounds: RangeInclusive<i64>,
    unit: &str,
    report: &mut Report,
) -> Option<i64> {
    let (at, &Number(number)) = field.given()?;
    if bounds.contains(&number) {
        return Some(number);
    }
    let (min, max) = bounds.into_inner();
    report.error(at, format!("{number} is out of bounds: {min} to {max}{unit}"));
    None
}

/// How far segment sizes are lowered.
fn mss_clamp(field: &Field<values::MssClamp>, report: &mut Report) -> MssClamp {
    let Some((at, given)) = field.given() else { return MssClamp::Auto };
    let problem = match given {
        values::MssClamp::Word(word) if word == "auto" => return MssClamp::Auto,
        values::MssClamp::Word(word) if word == "off" => return MssClamp::Off,
        values::MssClamp::Bytes(bytes) if (MSS_MIN..=MSS_MAX).contains(bytes) => {
            return MssClamp::Bytes(*bytes as u16);
        }
        values::MssClamp::Word(word) => {
            format!("unknown word {word:?}, expected \"auto\", \"off\" or a number of bytes")
        }
        values::MssClamp::Bytes(bytes) => {
            format!("{bytes} is out of bounds: {MSS_MIN} to {MSS_MAX} bytes")
        }
    };
    report.error(at, problem);
    MssClamp::Auto
}

/// An MTU.
fn mtu(field: &Field<Number>, v6: bool, report: &mut Report) -> Option<u16> {
    let (min, unit) =
        if v6 { (MTU_V6_MIN, " bytes, as it carries IPv6") } else { (MTU_MIN, " bytes") };
    number(field, min..=MTU_MAX, unit, report).map(|mtu| mtu as u16)
}

/// One of a few words. Those without a meaning are of a later version.
fn word<T: Copy>(field: &Field<String>, meanings: Words<T>, report: &mut Report) -> Option<T> {
    let (at, given) = field.given()?;
    match meanings.iter().find(|(word, _)| word == given) {
        Some((_, Some(meaning))) => Some(*meaning),
        Some((_, None)) => {
            report.error(at, format!("{given:?} is not in this version"));
            None
        }
        None => {
            unknown_word(at, given, &known(meanings), report);
            None
        }
    }
}

/// Reports a word that means nothing.
fn unknown_word(at: PlaceId, given: &str, known: &[&str], report: &mut Report) {
    let expected = known.join(", ");
    let problem = report.error(at, format!("unknown word {given:?}, expected {expected}"));
    if let Some(near) = nearest(given, known.iter().copied()) {
        problem.hint(format!("did you mean {near:?}?"));
    }
}

/// Most names that are compared with a wrong one: a file of thousands of networks may have
/// thousands of wrong names, and is to be refused in seconds.
const NEAREST_COUNT_MAX: usize = 1_000;

/// Reports a name that nothing has.
fn unknown_name<'n>(
    at: PlaceId,
    kind: &str,
    name: &str,
    known: impl IntoIterator<Item = &'n str>,
    report: &mut Report,
) {
    let problem = report.error(at, format!("there is no {kind} {name:?}"));
    if let Some(near) = nearest(name, known.into_iter().take(NEAREST_COUNT_MAX)) {
        problem.hint(format!("did you mean {near:?}?"));
    }
}
