//! `portolan explain`: what would become of a packet, and why, step by step.
//!
//! Two ways to one answer: a running gateway is asked through its API, and its worker that owns the
//! flow answers from its real tables; or a config file is compiled here and asked the same, with
//! nothing learnt and no flow there. The one hard constraint: both run the stages that decide about
//! packets, and neither changes anything.

pub(crate) mod advice;
pub(crate) mod ask;
pub mod model;
mod size;
pub(crate) mod way;
pub(crate) mod words;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use config::Config;
use engine::frame::{FrameBalancer, FramePool};
use engine::hand_over::HandOverRings;
use engine::limits::Limits;
use engine::worker::WorkerParts;
use engine::{Counters, Instant, Tables, Worker, WorkerId};

use crate::api::model::Failure;
use crate::client::{self, Client, ClientError};
pub use ask::Question;
use model::Explained;
use words::Names;

/// Which gateway is asked: one that runs, or one that would run under a config.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// The running gateway's socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Ask no running gateway: say what would happen under this config file
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
}

/// Why nothing is explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The gateway does not answer, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The config is not valid.
    #[error("{} is not valid: see `portolan check {}`", path.display(), path.display())]
    Config {
        /// The config file.
        path: PathBuf,
    },
    /// What came has not the shape that this version of the client knows.
    #[error("the gateway says it in another way: is it of another version? try `--json`")]
    Shape(#[from] serde_json::Error),
    /// Standard output takes no more.
    #[error("cannot print")]
    Output(#[from] io::Error),
}

/// Explains, and says whether the packet would arrive.
///
/// # Errors
/// Nobody answers, or the question cannot be asked.
pub fn explain(
    target: &Target,
    question: &Question,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, ExplainError> {
    let value = match &target.config {
        Some(path) => {
            let config =
                Config::load(path).map_err(|_| ExplainError::Config { path: path.to_owned() })?;
            let told = offline(&config, question);
            serde_json::to_value(told.map_err(|failure| ClientError::Refused { failure })?)?
        }
        None => Client::new(client::socket(target.socket.clone(), None)?)?.get(&path(question))?,
    };
    let explained: Explained = serde_json::from_value(value.clone())?;
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?,
        false => print(&explained, out)?,
    }
    Ok(explained.verdict != "drop")
}

/// The question as the API's path.
fn path(question: &Question) -> String {
    let size = question.size.map(|size| size.to_string());
    let ttl = question.ttl.map(|ttl| ttl.to_string());
    let said = |flag: bool| flag.then(|| "true".to_owned());
    let (no_df, no_syn) = (said(question.no_df), said(question.no_syn));
    let pairs = [
        ("from", Some(&*question.from)),
        ("uplink", question.uplink.as_deref()),
        ("to", Some(&*question.to)),
        ("network", question.network.as_deref()),
        ("size", size.as_deref()),
        ("ttl", ttl.as_deref()),
        ("no_df", no_df.as_deref()),
        ("no_syn", no_syn.as_deref()),
    ];
    let given = pairs.into_iter().filter_map(|(key, value)| Some((key, value?)));
    client::question("explain", given)
}

/// What would happen under a config, in a gateway that has just started.
pub(crate) fn offline(config: &Config, question: &Question) -> Result<Explained, Failure> {
    /// Enough for one packet: nothing is installed.
    const FEW: u32 = 64;
    let mut tables = config::compile(config, None);
    tables.limits = Arc::new(Limits {
        flows: FEW,
        flows_per_port: FEW,
        fdb: FEW,
        fdb_per_port: FEW,
        neighbours: FEW,
        fragments: FEW,
        ..(*tables.limits).clone()
    });
    let asked = ask::asked(question, config, &tables)?;
    let tables: Arc<Tables> = Arc::new(tables);
    let [rings] = <[HandOverRings; 1]>::try_from(HandOverRings::mesh(1, 1)).expect("one");
    let mut worker = Worker::new(WorkerParts {
        id: WorkerId(0),
        frames: FramePool::new(Vec::new(), Vec::new(), FrameBalancer::new(0, 0)),
        counters: Counters::new(tables.ports.len()),
        rings,
        tables: tables.clone(),
        seed: 0,
        cache: true,
        now: Instant(1),
    });
    let first = worker.explain(&asked.input);
    let second = first.turned.as_ref().map(|turned| worker.explain(turned));
    Ok(way::told(Names { config, tables: &tables }, &asked, &first, second.as_ref()))
}

fn print(explained: &Explained, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", explained.packet)?;
    print_steps(&explained.steps, out)?;
    match &explained.leaves {
        Some(leaves) if explained.verdict != "drop" => {
            write!(out, "leaves by {}: {} > {}", leaves.port, leaves.source, leaves.destination)?;
            if let Some(next_hop) = &leaves.next_hop {
                write!(out, ", next hop {next_hop}")?;
            }
            let mac = leaves.destination_mac.as_deref().unwrap_or("not known yet");
            write!(out, ", MAC address {mac}, MTU {}", leaves.mtu)?;
            match leaves.fragments {
                Some(count) => writeln!(out, ", in {count} fragments"),
                None => writeln!(out),
            }
        }
        _ => {
            write!(out, "{}", explained.verdict)?;
            if let Some(reason) = &explained.reason {
                write!(out, ": {reason}")?;
            }
            if let Some(answer) = &explained.answer {
                write!(out, ", {answer} to the sender")?;
            }
            writeln!(out)?;
            match &explained.advice {
                Some(advice) => writeln!(out, "what to do: {advice}"),
                None => Ok(()),
            }
        }
    }
}

/// Steps as indented lines.
pub(crate) fn print_steps(steps: &[model::Step], out: &mut impl Write) -> io::Result<()> {
    for step in steps {
        writeln!(out, "  {:<10} {:<9} {}", step.step, step.verdict, step.why)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
