//! `portolan show` and `portolan reload`: what a running gateway says, as tables or as JSON.
//!
//! A thin client: it asks the API, walks long lists to their end, and puts what comes in columns.
//! The one hard constraint: `--json` prints what the API said, unchanged, so that scripts and
//! people see the same.

mod rows;
mod table;

use std::io::{self, Write};

use clap::ValueEnum;

use crate::api::model::{Failure, Reload, ReloadRequest};
use crate::client::{ClientError, Target};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The gateway at a glance
    Status,
    /// Networks, their subnets and traffic
    Networks,
    /// Endpoints, their addresses and published ports
    Endpoints,
    /// Ports, their devices and traffic
    Ports,
    /// Where MAC addresses are
    Fdb,
    /// Who is in which multicast group
    Groups,
    /// Flows, before and after translation
    Flows,
    /// Neighbours on uplinks
    Neighbours,
    /// How large packets may be, and what says so
    Mtu,
    /// Routes by uplinks
    Routes,
    /// Published ports
    Publish,
    /// Rules about who may talk to whom
    Policy,
    /// Uplinks, their addresses and traffic
    Uplinks,
    /// Workers and how busy they are
    Workers,
    /// Dropped packets, by reason
    Drops,
}

impl What {
    /// The name of the resource.
    pub fn name(self) -> &'static str {
        match self {
            What::Status => "status",
            What::Networks => "networks",
            What::Endpoints => "endpoints",
            What::Ports => "ports",
            What::Fdb => "fdb",
            What::Groups => "groups",
            What::Flows => "flows",
            What::Neighbours => "neighbours",
            What::Mtu => "mtu",
            What::Routes => "routes",
            What::Publish => "publish",
            What::Policy => "policy",
            What::Uplinks => "uplinks",
            What::Workers => "workers",
            What::Drops => "drops",
        }
    }
}

/// Which items are shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filter {
    /// Only flows of this endpoint
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Only flows, MAC addresses or groups of this network
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Only flows of this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Only flows with this address, before or after translation
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Only the first so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The gateway does not answer, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What came has not the shape that this version of the client knows.
    #[error("the gateway says it in another way: is it of another version? try `--json`")]
    Shape(#[from] serde_json::Error),
    /// Standard output takes no more.
    #[error("cannot print")]
    Output(#[from] io::Error),
}

/// Shows a resource.
///
/// # Errors
/// Nobody answers, or the answer is no.
pub fn show(
    what: What,
    target: &Target,
    filter: &Filter,
    json: bool,
    out: &mut impl Write,
) -> Result<(), ShowError> {
    let client = target.client()?;
    if what == What::Status {
        let status = client.get("/v1/status")?;
        return match json {
            true => print_json(&status, out),
            false => Ok(rows::status(&serde_json::from_value(status)?, out)?),
        };
    }
    let filters = [
        ("endpoint", &filter.endpoint),
        ("network", &filter.network),
        ("protocol", &filter.protocol),
        ("address", &filter.address),
    ];
    let filters: Vec<(&str, &str)> =
        filters.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
    let count_max = filter.limit.map(|limit| limit as usize);
    let items = client.list(what.name(), &filters, count_max)?;
    match json {
        true => print_json(&items.into(), out),
        false => rows::list(what, items, out),
    }
}

/// Reloads the config of a running gateway, or asks what would change. False: it was refused, and
/// why is on `log`.
///
/// # Errors
/// Nobody answers.
pub fn reload(
    target: &Target,
    dry_run: bool,
    json: bool,
    out: &mut impl Write,
    log: &mut impl Write,
) -> Result<bool, ShowError> {
    let body = serde_json::to_string(&ReloadRequest { dry_run })?;
    let answer = match target.client()?.post("/v1/reload", body) {
        Ok(answer) => answer,
        Err(ClientError::Refused { failure }) => {
            match json {
                true => print_json(&serde_json::to_value(failure)?, out)?,
                false => explain(&failure, log)?,
            }
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    match json {
        true => print_json(&answer, out)?,
        false => print_reload(&serde_json::from_value(answer)?, out, log)?,
    }
    Ok(true)
}

fn print_json(value: &serde_json::Value, out: &mut impl Write) -> Result<(), ShowError> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(writeln!(out, "{text}")?)
}

fn explain(failure: &Failure, log: &mut impl Write) -> io::Result<()> {
    for finding in &failure.findings {
        writeln!(log, "{}", finding.text.trim_end())?;
    }
    match (&failure.hint, failure.findings.is_empty()) {
        (Some(hint), true) => writeln!(log, "{}: {hint}", failure.error),
        _ => writeln!(log, "{}", failure.error),
    }
}

fn print_reload(reload: &Reload, out: &mut impl Write, log: &mut impl Write) -> io::Result<()> {
    for warning in &reload.warnings {
        writeln!(log, "{}", warning.text.trim_end())?;
    }
    for change in &reload.changes {
        writeln!(out, "{change}")?;
    }
    for deferred in &reload.deferred {
        writeln!(out, "at the next start only: {deferred}")?;
    }
    let count = reload.changes.len();
    match (reload.dry_run, count) {
        (true, 0) => writeln!(out, "nothing would change"),
        (true, _) => writeln!(out, "{count} changes, not made"),
        (false, 0) => writeln!(out, "nothing has changed"),
        (false, _) => writeln!(
            out,
            "{count} changes made in {:.1} ms, generation {}",
            reload.took_ms, reload.generation
        ),
    }
}
