//! Reads the config file for a reload, beside the supervisor's thread.
//!
//! A large file takes half a second to read and check; nobody else who asks the supervisor is to
//! wait for that. So a thread of its own does it, and the supervisor goes over to the result when
//! it is there. One file is read at a time: who asks before the reading begins shares it, who asks
//! later may have changed the file since and gets another reading after it. The one hard
//! constraint: the thread holds nothing of the gateway, which may end meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use config::Config;
use crossbeam::channel::{Receiver, Sender, bounded, never};

use super::Gateway;
use super::reload::{Outcome, impossible};
use crate::control::ReloadRefused;
use crate::error::Error;
use crate::{leases, priority};

/// Requests that come within this time share one reload. Long enough for a tool that makes several
/// in a row, too short for a person to notice.
const GATHER: Duration = Duration::from_millis(5);

/// What the file says now.
pub(super) type Read = Result<Config, ReloadRefused>;

/// A reading under way.
#[derive(Debug)]
pub(super) struct Reading {
    asked_at: Instant,
    /// Set by the thread before it looks at the file; until then others share the reading.
    begun: Arc<AtomicBool>,
    result: Receiver<Read>,
    /// Who waits for this reading.
    answers: Vec<Sender<Outcome>>,
    /// Who waits for the next one.
    later: Vec<Sender<Outcome>>,
}

impl Gateway {
    /// Has the file read again for this request.
    pub(super) fn request_reload(&mut self, answer: Sender<Outcome>) {
        match &mut self.reading {
            None => self.begin_reading(vec![answer]),
            Some(reading) if reading.begun.load(Ordering::Acquire) => reading.later.push(answer),
            Some(reading) => reading.answers.push(answer),
        }
    }

    fn begin_reading(&mut self, answers: Vec<Sender<Outcome>>) {
        super::reload::tell_systemd_reloading();
        let (sender, result) = bounded(1);
        let (asked_at, begun) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let reading = Reading { asked_at, begun: begun.clone(), result, answers, later: vec![] };
        self.reading = Some(reading);
        let begun = self.source.clone().ok_or(ReloadRefused::Unavailable).and_then(|source| {
            let leases = leases::load_here(&self.store, SystemTime::now()).map_err(impossible)?;
            let sender = sender.clone();
            let work = move || {
                priority::lower();
                thread::sleep(GATHER);
                begun.store(true, Ordering::Release);
                // The gateway may be gone.
                let _ = sender.send(read(&source, &leases));
            };
            let thread = thread::Builder::new().name("reading".into()).spawn(work);
            thread.map_err(|source| impossible(Error::Thread { purpose: "a reload", source }))
        });
        if let Err(refused) = begun {
            // There is room for one, and no thread that sends another.
            let _ = sender.send(Err(refused));
        }
    }

    /// Where the result of the reading under way comes from.
    pub(super) fn reading_ends(&self) -> Receiver<Read> {
        self.reading.as_ref().map_or_else(never, |reading| reading.result.clone())
    }

    /// Goes over to what was read, and answers who waits for it.
    ///
    /// # Errors
    /// A worker failed meanwhile: the gateway cannot go on.
    pub(super) fn finish_reading(&mut self, read: Option<Read>) -> Result<(), Error> {
        let Some(reading) = self.reading.take() else { return Ok(()) };
        // Nothing is sent by a thread that has panicked, and told why on stderr.
        let ended = || Err(ReloadRefused::Impossible("the config cannot be read: a bug".into()));
        let outcome = self.reload(read.unwrap_or_else(ended), reading.asked_at)?;
        for answer in reading.answers {
            // Who asked may be gone.
            let _ = answer.send(outcome.clone());
        }
        if !reading.later.is_empty() {
            self.begin_reading(reading.later);
        }
        Ok(())
    }
}

fn read(source: &Path, leases: &config::Leases) -> Read {
    Config::load_with(source, leases).map_err(ReloadRefused::Config)
}
