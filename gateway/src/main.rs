//! The command line `portolan`.
//!
//! Parses arguments, sets up the log, calls the library, turns the outcome into an exit code: 0 all
//! is well, 1 it is not, 2 the command line is wrong. Decides nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use benches::system::BenchOptions;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use config::{Dialect, LogFormat};
use gateway::client::Target;
use gateway::explain::{self, Question};
use gateway::log::is_coloured;
use gateway::manual::CompletedShell;
use gateway::show::{Filter, What};
use gateway::trace::{self, Form, Wanted};
use gateway::{check, convert, daemon, demo, log, manual, show};

/// Portolan: networks for containers, VMs and namespaces, in user space
#[derive(Parser)]
#[command(name = "portolan", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged on stderr, such as `debug` or `gateway=debug`
    #[arg(long, global = true, value_name = "FILTER", default_value = "info")]
    log: String,
    /// How it is logged; absent: `log` of the config, else text
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
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
        /// What they are written in
        #[arg(long, value_enum, default_value = "native")]
        dialect: Language,
        /// A setting of the dialect; may be given more than once
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// How findings are printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Print the config, of one file, with every default filled in and everything allocated
        #[arg(long)]
        resolved: bool,
    },
    /// Print a file of one dialect in another, or in its own dialect's present form
    Convert {
        /// What it is written in
        #[arg(long, value_enum)]
        from: Language,
        /// What is wanted
        #[arg(long, value_enum, default_value = "native")]
        to: Language,
        /// A setting of the dialect; may be given more than once
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Show the state of a running gateway
    Show {
        /// What to show
        what: What,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
        /// Print what the API says
        #[arg(long)]
        json: bool,
    },
    /// Say what would become of a packet and why, step by step; sends nothing
    Explain {
        #[command(flatten)]
        question: Question,
        #[command(flatten)]
        target: explain::Target,
        /// Print what the API says
        #[arg(long)]
        json: bool,
    },
    /// Follow live packets: what every step says of them, and what becomes of them
    Trace {
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        target: Target,
        /// Leave the steps out
        #[arg(long, conflicts_with = "json")]
        brief: bool,
        /// Print what the API says, one object per line
        #[arg(long)]
        json: bool,
    },
    /// Have a running gateway read its config again, all or nothing
    Reload {
        #[command(flatten)]
        target: Target,
        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Print what the API says
        #[arg(long)]
        json: bool,
    },
    /// Print shell completions
    Completions {
        /// The shell
        shell: CompletedShell,
    },
    /// Print the manual page, or write all pages to a folder
    Man {
        /// Of this command; absent: of the program
        #[arg(conflicts_with = "dir")]
        command: Option<String>,
        /// Write the pages of the program and all its commands here
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
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
        /// 9 rounds of 0.4 s instead of 30 of 1 s
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

impl From<Format> for check::Format {
    fn from(format: Format) -> check::Format {
        match format {
            Format::Text => check::Format::Text,
            Format::Json => check::Format::Json,
        }
    }
}

/// A language that networks are described in.
#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Native,
    Marathon,
    Dcos,
    Cni,
    Docker,
}

impl From<Language> for Dialect {
    fn from(language: Language) -> Dialect {
        match language {
            Language::Native => Dialect::Native,
            Language::Marathon => Dialect::Marathon,
            Language::Dcos => Dialect::Dcos,
            Language::Cni => Dialect::Cni,
            Language::Docker => Dialect::Docker,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Who reads no more, such as `head`, has all that was wanted.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    log::start(filter, format).with_context(|| format!("`--log {filter}` is no log filter"))
}

/// True if the reader of what was printed has gone.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Carries a command out. False: it did its work, and the answer is no.
fn dispatch(arguments: Arguments) -> anyhow::Result<bool> {
    let Arguments { command, log: filter, log_format } = arguments;
    let given = log_format.map(|format| match format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    });
    if !matches!(command, Command::Run { .. }) {
        start_log(&filter, given.unwrap_or(LogFormat::Text))?;
    }
    let (mut out, mut errors) = (std::io::stdout(), std::io::stderr());
    match command {
        Command::Run { config } => run(&config, &filter, given),
        Command::Check { files, dialect, set, format, resolved } => {
            ensure!(!resolved || files.len() == 1, "--resolved takes one file");
            let (dialect, format, coloured) = (dialect.into(), format.into(), is_coloured());
            let options = check::Options { dialect, set, format, resolved, coloured };
            Ok(check::run(&files, &options, &mut out, &mut errors)?)
        }
        Command::Convert { from, to, set, file } => {
            let (from, to, coloured) = (from.into(), to.into(), is_coloured());
            let options = convert::Options { from, to, set, coloured };
            Ok(convert::run(&file, &options, &mut out, &mut errors)?)
        }
        Command::Schema => {
            writeln!(out, "{:#}", config::json_schema())?;
            Ok(true)
        }
        Command::Show { what, target, filter, json } => {
            show::show(what, &target, &filter, json, &mut out)?;
            Ok(true)
        }
        Command::Explain { question, target, json } => {
            Ok(explain::explain(&target, &question, json, &mut out)?)
        }
        Command::Trace { wanted, target, brief, json } => {
            trace::trace(&target, &wanted, Form::of(json, brief), &mut out)?;
            Ok(true)
        }
        Command::Reload { target, dry_run, json } => {
            Ok(show::reload(&target, dry_run, json, &mut out, &mut errors)?)
        }
        Command::Completions { shell } => {
            manual::completions(Arguments::command(), shell, &mut out)?;
            Ok(true)
        }
        Command::Man { command, dir } => {
            match dir {
                Some(dir) => {
                    let count = manual::write_pages(Arguments::command(), &dir)
                        .with_context(|| format!("cannot write to {}", dir.display()))?;
                    writeln!(out, "{count} pages written to {}", dir.display())?;
                }
                None => manual::page(Arguments::command(), command.as_deref(), &mut out)?,
            }
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

/// The daemon. Its log begins when the config has said how it is written.
fn run(path: &Path, filter: &str, given: Option<LogFormat>) -> anyhow::Result<bool> {
    let (file, config) = match daemon::load(path) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            let text = config::render(&diagnostics, is_coloured());
            std::io::stderr().write_all(text.as_bytes())?;
            return Ok(false);
        }
    };
    start_log(filter, given.unwrap_or(config.gateway.log))?;
    daemon::run(path, &file, &config)?;
    Ok(true)
}
