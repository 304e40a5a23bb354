//! The command line `portolan`.
//!
//! Parses arguments, sets up the log, calls the library, turns the outcome into an exit code: 0 all
//! is well, 1 it is not, 2 the command line is wrong. Decides nothing else.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use benches::system::BenchOptions;
use clap::{Parser, Subcommand, ValueEnum};
use gateway::{check, daemon, demo};

/// Portolan: networks for containers, VMs and namespaces, in user space
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged on stderr, such as `debug` or `gateway=debug`
    #[arg(long, global = true, value_name = "FILTER", default_value = "info")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in the foreground until SIGTERM
    Run {
        /// The config file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say whether config files are valid
    Check {
        /// The config files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How findings are printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Print the config, of one file, with every default filled in and everything allocated
        #[arg(long)]
        resolved: bool,
    },
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Prove on this machine that it works: makes namespaces, runs traffic, removes everything
    Demo {
        /// How many workers; absent: one per CPU
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
        workers: Option<u8>,
        /// How long each throughput is measured
        #[arg(long, value_name = "SECONDS", default_value = "2",
              value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
    /// Measure the same topology through Portolan, the kernel and a bare copier, side by side
    Bench {
        /// 3 rounds of 1 s instead of 10 of 3 s
        #[arg(long)]
        quick: bool,
        /// Print every sample as JSON instead of the table of ratios
        #[arg(long)]
        json: bool,
        /// How many workers, pinned to the last CPUs
        #[arg(long, value_name = "COUNT", default_value = "1",
              value_parser = clap::value_parser!(u8).range(1..=64))]
        workers: u8,
        /// What a worker does when nothing waits
        #[arg(long, value_name = "POLICY", default_value = "adaptive",
              value_parser = ["busy", "adaptive", "interrupt"])]
        idle: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = start_log(&arguments.log).and_then(|()| dispatch(arguments.command));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("`--log {filter}` is no log filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_coloured())
        .with_target(false)
        .init();
    Ok(())
}

/// Whether what is written to stderr may be coloured: a terminal reads it, and nobody objects
/// (https://no-color.org).
fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// Carries a command out. False: it did its work, and the answer is no.
fn dispatch(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run { config: path } => {
            let (text, config) = match daemon::load(&path) {
                Ok(loaded) => loaded,
                Err(diagnostics) => {
                    let text = config::render(&diagnostics, is_coloured());
                    std::io::stderr().write_all(text.as_bytes())?;
                    return Ok(false);
                }
            };
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
            daemon::run(&path, &text, &config)?;
            Ok(true)
        }
        Command::Check { files, format, resolved } => {
            ensure!(!resolved || files.len() == 1, "--resolved takes one file");
            let format = match format {
                Format::Text => check::Format::Text,
                Format::Json => check::Format::Json,
            };
            let options = check::Options { format, resolved, coloured: is_coloured() };
            let (mut out, mut log) = (std::io::stdout().lock(), std::io::stderr().lock());
            Ok(check::run(&files, options, &mut out, &mut log)?)
        }
        Command::Schema => {
            writeln!(std::io::stdout(), "{:#}", config::json_schema())?;
            Ok(true)
        }
        Command::Bench { quick, json, workers, idle } => {
            let program = std::env::current_exe().context("cannot find this program's file")?;
            let defaults = BenchOptions::new(Some(program), quick);
            let options = BenchOptions { json, workers: workers.into(), idle, ..defaults };
            // Low figures are figures, not failures.
            benches::system::run(&options)?;
            Ok(true)
        }
        Command::Demo { workers, seconds } => {
            Ok(demo::run(&demo::DemoOptions { workers, seconds })?)
        }
    }
}
