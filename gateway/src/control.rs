//! How everybody else reaches the supervisor: signals, the file watcher, the API.
//!
//! The supervisor's thread is the only writer of the gateway's state. A [`Control`] is a handle
//! that sends it requests and waits for the answer; it may be cloned and used from any thread. What
//! is asked for is answered from what the supervisor has at that moment, so an answer is never half
//! of one state and half of another. The one hard constraint: a request never waits for a packet,
//! and no packet waits for a request.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::{Config, Diagnostic};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use engine::{PortId, Tables};

use crate::devices::LiveDevices;
use crate::host::LiveHost;
use crate::view::Link;

/// What the supervisor is asked.
#[derive(Debug)]
pub enum Request {
    /// Read the config file again and go over to what it says, all or nothing.
    Reload(Sender<Result<ReloadReport, ReloadRefused>>),
    /// Show the state.
    State(Sender<StateView>),
}

/// The gateway's state at one moment. Cheap: shared parts, nothing is copied but handles.
#[derive(Clone, Debug)]
pub struct StateView {
    /// The config in force; its ids are those of `tables`.
    pub config: Arc<Config>,
    /// The tables in force.
    pub tables: Arc<Tables>,
    /// The workers, with their counters. They are the same from start to end.
    pub workers: Vec<Link>,
    /// The file that the config came from.
    pub source: Option<PathBuf>,
    /// When the gateway started, by the wall clock.
    pub started_at: SystemTime,
    /// When it started, to measure how long it has run.
    pub started: Instant,
    /// Devices as they are, whatever the config says.
    pub devices: LiveDevices,
    /// What became of test packets on the host.
    pub host: LiveHost,
    /// Ports whose device is gone.
    pub ports_down: BTreeSet<PortId>,
    /// Reloads that changed something, that changed nothing, and that were refused.
    pub reloads: ReloadCounts,
}

/// How many reloads there were since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadCounts {
    /// The new config is in force, perhaps equal to the old one.
    pub applied: u64,
    /// Refused: nothing has changed.
    pub refused: u64,
}

/// What a reload did.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// Generation of the tables that are in force now.
    pub generation: u64,
    /// What has changed, one line each, as an operator says it.
    pub changes: Vec<String>,
    /// What the file says but takes effect at the next start only, one line each.
    pub deferred: Vec<String>,
    /// Warnings about the new config.
    pub warnings: Vec<Diagnostic>,
    /// From the request to the last worker's word that it uses the new tables.
    pub took: Duration,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug)]
pub enum ReloadRefused {
    /// The file is wrong: every error in it.
    Config(Vec<Diagnostic>),
    /// The file is right, but the change cannot be made; why, and what to do.
    Impossible(String),
    /// The gateway has no file (the demo), or is ending.
    Unavailable,
}

impl fmt::Display for ReloadRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadRefused::Config(diagnostics) => {
                for (index, diagnostic) in diagnostics.iter().enumerate() {
                    let end = if index == 0 { "" } else { "\n" };
                    write!(f, "{end}{diagnostic:#}")?;
                }
                Ok(())
            }
            ReloadRefused::Impossible(reason) => f.write_str(reason),
            ReloadRefused::Unavailable => {
                f.write_str("the gateway has no config file to read again, or is ending")
            }
        }
    }
}

impl std::error::Error for ReloadRefused {}

/// The gateway is ending: nobody answers any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending;

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gateway is ending")
    }
}

impl std::error::Error for Ending {}

/// A handle to the supervisor.
#[derive(Clone, Debug)]
pub struct Control {
    sender: Sender<Request>,
}

impl Control {
    /// A handle, and where the supervisor hears of requests.
    pub(crate) fn new() -> (Control, Receiver<Request>) {
        let (sender, receiver) = unbounded();
        (Control { sender }, receiver)
    }

    /// Reads the config file again and goes over to it. Waits until every worker has; requests that
    /// come within 5 ms share one reload.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn reload(&self) -> Result<ReloadReport, ReloadRefused> {
        self.ask(Request::Reload).unwrap_or(Err(ReloadRefused::Unavailable))
    }

    /// As [`reload`](Control::reload), and does not wait: the outcome is in the log.
    pub fn request_reload(&self) {
        let (answer, _) = bounded(1);
        // A supervisor that ends reloads no more.
        let _ = self.sender.send(Request::Reload(answer));
    }

    /// The state now.
    ///
    /// # Errors
    /// The gateway is ending.
    pub fn state(&self) -> Result<StateView, Ending> {
        self.ask(Request::State)
    }

    /// Sends a request that holds where the answer goes, and waits for it.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T, Ending> {
        let (answer, answers) = bounded(1);
        self.sender.send(request(answer)).map_err(|_| Ending)?;
        // A supervisor that ends drops the request, and with it the sender.
        answers.recv().map_err(|_| Ending)
    }
}
