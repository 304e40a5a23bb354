//! The log of the control path: lines for people, or one JSON object per line.
//!
//! On stderr, where a service manager takes it. The one hard constraint: the packet path writes no
//! log, so what is logged costs no packet.

use std::io::IsTerminal;

use config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Begins to log what a filter takes, such as `info` or `gateway=debug`.
///
/// # Errors
/// The filter is none.
pub fn start(
    filter: &str,
    format: LogFormat,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(is_coloured()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Whether what is written to stderr may be coloured: a terminal reads it, and nobody objects
/// (<https://no-color.org>).
pub fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}
