//! Text through the config.
//!
//! A text is refused with errors that print, or it compiles; and compiling the same config again
//! changes nothing, so a reload of an unchanged file costs no flow. Written out again with all that
//! was left open, it is a config, and the same.

use config::{Config, Severity};
use engine::Tables;

/// Parses, prints, compiles.
pub fn run(text: &str) {
    match Config::parse("fuzz.toml", text) {
        Ok(config) => {
            let tables = config::compile(&config, None);
            let again = config::compile(&config, Some(&tables));
            assert_eq!(epochs(&tables), epochs(&again), "a reload of the same text changed a part");
            let resolved = config.to_toml();
            let again = Config::parse("resolved.toml", &resolved);
            let again = again.unwrap_or_else(|found| panic!("{}", config::render(&found, false)));
            assert_eq!(resolved, again.to_toml(), "a resolved config does not resolve to itself");
        }
        Err(diagnostics) => {
            let has_error = diagnostics.iter().any(|found| found.severity == Severity::Error);
            assert!(has_error, "a text is refused for a reason");
            for diagnostic in &diagnostics {
                assert!(!format!("{diagnostic} {diagnostic:#}").trim().is_empty());
            }
        }
    }
}

/// The epochs of all parts.
fn epochs(tables: &Tables) -> Vec<u64> {
    let ports = tables.ports.iter().flatten().map(|part| part.epoch);
    let networks = tables.networks.iter().flatten().map(|part| part.epoch);
    let uplinks = tables.uplinks.iter().flatten().map(|part| part.epoch);
    let single = [tables.plan, tables.publish.epoch, tables.routes.epoch, tables.nat.epoch];
    let published = tables.publish.epochs().iter().copied();
    ports.chain(networks).chain(uplinks).chain(single).chain(published).collect()
}
