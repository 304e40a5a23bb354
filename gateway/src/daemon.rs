//! `portolan run`: one gateway in the foreground until SIGTERM or SIGINT; SIGHUP reloads its
//! config.
//!
//! Prints `ready` alone on a line on stderr once packets flow, and tells systemd. The one hard
//! constraint: signals are caught before anything is made, so that no moment exists in which one
//! ends the process and leaves a namespace behind.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::SystemTime;

use config::{Config, ConfigFile, Diagnostic, Leases};
use crossbeam::channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::Listeners;
use crate::control::Control;
use crate::error::Error;
use crate::leases;
use crate::notify::{self, Watchdog};
use crate::store::Store;
use crate::supervisor::Gateway;
use crate::watch;

/// Reads and checks a config and what it imports; each text is read once, for it may come from a
/// pipe.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<(ConfigFile, Config), Vec<Diagnostic>> {
    let file = ConfigFile::read(path)?;
    let config = Config::parse_file(&file, &Leases::default())?;
    Ok((file, config))
}

/// Runs a config until told to end. `path` is the file that it came from, `file` what was in it.
///
/// # Errors
/// The gateway could not be started, or a worker failed. Devices and namespaces are gone all the
/// same.
pub fn run(path: &Path, file: &ConfigFile, config: &Config) -> Result<(), Error> {
    let reloading = Arc::new(OnceLock::new());
    let end = signals(Some(reloading.clone()))?;
    Gateway::check_privileges()?;
    let store = Arc::new(Store::open(&config.gateway.state)?);
    let listeners = Listeners::bind(&config.gateway)?;
    let config = &with_leases(file, &store)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    leases::promise(&store, &config.leases())?;
    let mut gateway = Gateway::start(config, store.clone())?;
    leases::follow(&store, config)?;
    gateway.set_source(path.to_owned());
    if config.gateway.watch {
        watch::start(path, gateway.control())?;
    }
    let _ = reloading.set(gateway.control());
    let (state, control) = (gateway.state(), gateway.control());
    let watchdog = Watchdog::start(state.workers.clone())?;
    let ports = state.tables.ports.iter().flatten().count();
    let api = listeners.serve(control, state)?;
    tracing::info!(workers = gateway.worker_count(), ports, "packets flow");
    // Nobody may be reading: that is no reason not to serve.
    let _ = writeln!(io::stderr(), "ready");
    notify::ready(&format!("{ports} ports, {} workers", gateway.worker_count()));
    let served = gateway.serve(&end);
    notify::stopping();
    drop((watchdog, api));
    let stopped = gateway.stop();
    tracing::info!("devices, namespaces and addresses are removed");
    served.and(stopped)
}

/// The config again, with what was given out before.
fn with_leases(file: &ConfigFile, store: &Store) -> Result<Config, Error> {
    let leases = leases::load_here(store, SystemTime::now())?;
    let config = Config::parse_file(file, &leases);
    Ok(config.expect("leases are wishes: they make no config wrong"))
}

/// A channel that gets each SIGTERM, SIGINT and SIGHUP from now on. A closed terminal ends the
/// demo as cleanly as SIGTERM: its namespaces would be left behind otherwise.
pub(crate) fn end_signals() -> Result<Receiver<i32>, Error> {
    signals(None)
}

/// As [`end_signals`], but where a control can be given, SIGHUP asks it for a reload.
fn signals(reloading: Option<Arc<OnceLock<Control>>>) -> Result<Receiver<i32>, Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|source| Error::Thread { purpose: "signals", source })?;
    let (sender, receiver) = bounded(1);
    let forward = move || {
        for signal in signals.forever() {
            match &reloading {
                Some(reloading) if signal == SIGHUP => match reloading.get() {
                    Some(control) => control.request_reload(),
                    None => tracing::info!("SIGHUP at the start: the config was just read"),
                },
                _ => {
                    tracing::info!(signal, "ending");
                    // A second signal finds the channel full: the end is on its way already.
                    let _ = sender.try_send(signal);
                }
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(forward);
    thread.map_err(|source| Error::Thread { purpose: "signals", source })?;
    Ok(receiver)
}
