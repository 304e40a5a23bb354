//! Portolan's config: text in, a checked [`Config`] out, and from it the engine's tables.
//!
//! `text -> schema -> check -> Config -> compile -> engine::Tables`; files in other dialects join
//! at the schema. Each step is a module that knows its neighbours' types and nothing else: `reader`
//! and `schema` know TOML and places,
//! `check` knows the rules and collects **every** error, `model` is what is left when there are
//! none, `compile` knows the engine. The one hard constraint: no input panics, and a config that is
//! refused changes nothing.
//!
//! What is deliberately absent: no system call but reading the file, so a config is checked on any
//! machine; no randomness and no clock, so the same text always compiles to the same tables.

#![forbid(unsafe_code)]

mod bounds;
mod check;
mod compile;
mod damage;
mod default_route;
mod diagnostic;
mod dialect;
mod host;
mod ids;
mod ipam;
mod lanes;
mod leases;
mod mac;
mod model;
mod names;
mod nearest;
mod policy;
mod publish;
mod reader;
mod recompile;
mod reference;
mod render;
mod report;
mod resolved;
mod schema;
mod subnet_pool;
mod tunnels;
mod value_schemas;
mod values;
mod words;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use toml::de::DeTable;

pub use compile::compile;
pub use diagnostic::{Diagnostic, Excerpt, Related, Severity};
pub use dialect::{
    Checked, ConfigFile, Converted, Dialect, ImportedFiles, check as check_dialect, convert,
    read_text,
};
pub use host::{HostSide, STAND_INS_MAX};
pub use leases::{EphemeralPorts, Lease, Leases, QUARANTINE_MAX, Released};
pub use model::{
    AddressPool, Attach, Attachment, Config, Endpoint, Family, Gateway, Idle, IpvlanFlag,
    IpvlanMode, LinkMode, LogFormat, MacPolicy, MacvlanMode, Network, NetworkDriver, Overlay,
    OverlayHost, OverlayRoute, Parent, Publish, Route, Subnet, Uplink, UplinkDriver, Workers,
};
pub use names::{INTERFACE_NAME_BYTES_MAX, InterfaceName, NAME_BYTES_MAX, NetnsName};
pub use nearest::nearest;
pub use policy::{Ports, Rule, RuleSide};
pub use recompile::{adopt_ids, recompile};
pub use reference::{json_schema, markdown};
pub use render::render;

use report::Report;
use schema::Document;

/// Largest config file, in bytes. It bounds what a wrong path (a disk, a log) may cost; 10,000
/// endpoints written out take about 2 MB.
pub const FILE_BYTES_MAX: usize = 64 << 20;

impl Config {
    /// Reads and checks a file, as if nothing had ever been given out before.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the file.
    pub fn load(path: &Path) -> Result<Config, Vec<Diagnostic>> {
        Config::load_with(path, &Leases::default())
    }

    /// Reads and checks a file. Whatever has a lease that still fits keeps it; whatever rests
    /// ([`Leases::quarantined`]) is given to nobody else.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(path: &Path, leases: &Leases) -> Result<Config, Vec<Diagnostic>> {
        Config::parse_file(&ConfigFile::read(path)?, leases)
    }

    /// Checks a file that was read, and what it imports.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_file(file: &ConfigFile, leases: &Leases) -> Result<Config, Vec<Diagnostic>> {
        Config::parse_text(&file.name(), file.text(), Some(file), leases)
    }

    /// Checks a text. `file_name` is what diagnostics call it.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text. Where the text is no TOML, that
    /// is reported with what can be said of the rest: everything if keys are known and only values
    /// are not, else what is wrong in itself.
    pub fn parse(file_name: &str, text: &str) -> Result<Config, Vec<Diagnostic>> {
        Config::parse_with(file_name, text, &Leases::default())
    }

    /// Checks a text, with leases as [`Config::load_with`].
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_with(
        file_name: &str,
        text: &str,
        leases: &Leases,
    ) -> Result<Config, Vec<Diagnostic>> {
        Config::parse_text(file_name, text, None, leases)
    }

    fn parse_text(
        file_name: &str,
        text: &str,
        file: Option<&ConfigFile>,
        leases: &Leases,
    ) -> Result<Config, Vec<Diagnostic>> {
        if text.len() > FILE_BYTES_MAX {
            let bytes = text.len();
            let message = format!("{bytes} bytes are too many, {FILE_BYTES_MAX} go");
            return Err(vec![Diagnostic::of_file(file_name, message)]);
        }
        let mut report = Report::new(file_name, text);
        let (mut table, mut errors) = DeTable::parse_recoverable(text);
        let span = |error: &toml::de::Error| error.span().unwrap_or_default();
        for error in &errors {
            report_syntax(text, span(error), error.message(), &mut report);
        }
        let blanked = damage::without_lost_lines(text, errors.iter().map(span));
        if let Some(blanked) = &blanked {
            let before: HashSet<usize> = errors.iter().map(|error| span(error).start).collect();
            (table, errors) = DeTable::parse_recoverable(blanked);
            for error in errors.iter().filter(|error| !before.contains(&span(error).start)) {
                report_syntax(text, span(error), error.message(), &mut report);
            }
        }
        report.find_damage(errors.iter().map(span));
        let report = RefCell::new(report);
        let mut document: Document = reader::read(&table, &report);
        let mut report = report.into_inner();
        if blanked.is_some() || !report.is_whole() {
            report.forget_top_level();
            return Err(report.into_diagnostics());
        }
        let imported = dialect::join_imports(&mut document, file, &mut report);
        let mut config = check::check(&document, leases, &mut report);
        let is_refused = report.has_errors();
        let diagnostics = report.into_diagnostics();
        if is_refused {
            return Err(diagnostics);
        }
        config.warnings = diagnostics;
        config.imported = imported;
        Ok(config)
    }
}

/// Reports what is no TOML. Quotation marks of a text processor look right to those who look.
fn report_syntax(text: &str, span: std::ops::Range<usize>, message: &str, report: &mut Report) {
    let mark = text.get(span.start..).and_then(|rest| rest.chars().next());
    let problem = report.syntax_error(span, message);
    if let Some(mark) = mark.filter(|mark| dialect::is_typographic(*mark)) {
        problem.hint(format!("{mark} is a typographic quotation mark: write straight ones, \""));
    }
}
