//! One Portolan as its users run it: `portolan run -c FILE`, ended by SIGTERM.
//!
//! The hard constraint: the benchmark knows the command line and the config file, nothing else of
//! Portolan. It waits for the line `ready` on stderr, and keeps the last lines of stderr to show
//! them when that line does not come. Between measurements the process is stopped (SIGSTOP): a
//! worker that polls would take its CPU from the other legs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::error::Error;

/// A start takes well below a second; more means that it hangs.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// A clean end removes a handful of devices.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Lines of stderr that an error shows.
const LINES_MAX: usize = 20;

/// A Portolan that runs while it is [`Portolan::awake`]. Dropping it ends it and waits until it is
/// gone.
pub(super) struct Portolan {
    child: Child,
    reader: Option<JoinHandle<VecDeque<String>>>,
    /// Kept until the end: Portolan may read its config again.
    _config: NamedTempFile,
}

impl Portolan {
    /// Starts `binary` with this config text, waits until packets flow and stops it.
    pub(super) fn start(
        binary: &Path,
        config: &str,
        interrupted: &AtomicBool,
    ) -> Result<Portolan, Error> {
        let file = config_file(config).map_err(Error::system("write Portolan's config file"))?;
        let mut child = Command::new(binary)
            .args(["run", "-c"])
            .arg(file.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::system(format!("start {}", binary.display())))?;
        let stderr = child.stderr.take().expect("stderr is piped just above");
        let (ready, is_ready) = channel();
        let reader = std::thread::spawn(move || read_lines(stderr, &ready));
        let mut portolan = Portolan { child, reader: Some(reader), _config: file };
        match portolan.wait_ready(&is_ready, interrupted) {
            Ok(()) => {
                portolan.signal(Signal::STOP);
                Ok(portolan)
            }
            Err(None) => Err(Error::Interrupted),
            Err(Some(why)) => {
                let lines = Vec::from(portolan.end()).join("\n");
                Err(Error::NotReady { binary: binary.to_owned(), why, lines })
            }
        }
    }

    /// Lets it run until the guard is dropped.
    pub(super) fn awake(&self) -> impl Drop + '_ {
        struct Awake<'a>(&'a Portolan);
        impl Drop for Awake<'_> {
            fn drop(&mut self) {
                self.0.signal(Signal::STOP);
            }
        }
        self.signal(Signal::CONT);
        Awake(self)
    }

    /// Sends a signal. It was not waited for yet, so its id is its own still.
    fn signal(&self, signal: Signal) {
        // The one error left: it ended by itself. The missing packets show that.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits for `ready`. The error says why it did not come; none means a signal.
    fn wait_ready(
        &mut self,
        is_ready: &Receiver<()>,
        interrupted: &AtomicBool,
    ) -> Result<(), Option<String>> {
        let until = Instant::now() + READY_LIMIT;
        loop {
            match is_ready.recv_timeout(Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Some("it closed its stderr".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                    return Err(None);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > until => {
                    return Err(Some(format!("{} s are over", READY_LIMIT.as_secs())));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// SIGTERM, and SIGKILL when that does not help. Returns the last lines of stderr.
    fn end(&mut self) -> VecDeque<String> {
        let Some(reader) = self.reader.take() else { return VecDeque::new() };
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            // A stopped process hears of it when it continues.
            self.signal(Signal::CONT);
        }
        let until = Instant::now() + END_LIMIT;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => break None,
            }
        };
        if status.is_none() {
            eprintln!("portolan did not end within {} s of SIGTERM", END_LIMIT.as_secs());
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else if let Some(status) = status.filter(|status| !status.success()) {
            eprintln!("portolan ended with {status} after SIGTERM");
        }
        reader.join().unwrap_or_default()
    }
}

impl Drop for Portolan {
    fn drop(&mut self) {
        self.end();
    }
}

fn config_file(config: &str) -> std::io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("portolan-bench-").suffix(".toml").tempfile()?;
    file.write_all(config.as_bytes())?;
    Ok(file)
}

/// Reads stderr to its end, so that Portolan never blocks on it; reports the line `ready`.
fn read_lines(stderr: ChildStderr, ready: &Sender<()>) -> VecDeque<String> {
    let mut lines = VecDeque::with_capacity(LINES_MAX);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.trim() == "ready" {
            // Nobody waits for a second `ready`.
            let _ = ready.send(());
        }
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs its config as a shell script, in place of Portolan.
    const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/stand-in.sh");

    fn start(script: &str, interrupted: bool) -> Result<Portolan, Error> {
        Portolan::start(Path::new(STAND_IN), script, &AtomicBool::new(interrupted))
    }

    #[test]
    fn ready_is_waited_for_and_sigterm_ends_the_process() {
        let mut portolan = start(
            "trap 'echo ended >&2; exit 0' TERM\n\
             echo ready >&2\n\
             while :; do sleep 0.02; done\n",
            false,
        )
        .expect("it becomes ready");
        assert_eq!(portolan.end(), ["ready", "ended"]);
        assert!(portolan.child.try_wait().expect("it is waited for").is_some());
    }

    #[test]
    fn process_runs_only_while_it_is_awake() {
        let script = "trap 'exit 0' TERM\n\
                      echo ready >&2\n\
                      while :; do sleep 0.02; done\n";
        let portolan = start(script, false).expect("it becomes ready");
        let wait_for_stopped = |wanted: bool| {
            let until = Instant::now() + Duration::from_secs(10);
            let path = format!("/proc/{}/stat", portolan.child.id());
            // The state follows the name in brackets; T is stopped.
            while std::fs::read_to_string(&path).expect("it lives").contains(") T ") != wanted {
                assert!(Instant::now() < until, "its state does not change");
                std::thread::yield_now();
            }
        };
        wait_for_stopped(true);
        let awake = portolan.awake();
        wait_for_stopped(false);
        drop(awake);
        wait_for_stopped(true);
    }

    #[test]
    fn early_end_is_reported_with_the_last_lines() {
        let result = start("echo 'line 7: no such key' >&2; exit 1\n", false);
        let Err(Error::NotReady { lines, .. }) = result else { panic!("not the error wanted") };
        assert_eq!(lines, "line 7: no such key");
    }

    #[test]
    fn signal_before_ready_ends_the_wait() {
        let script = "trap 'exit 0' TERM\nwhile :; do sleep 0.02; done\n";
        assert!(matches!(start(script, true), Err(Error::Interrupted)));
    }

    #[test]
    fn missing_binary_is_an_error_with_its_path() {
        let binary = Path::new("/nonexistent/portolan");
        let result = Portolan::start(binary, "", &AtomicBool::new(false));
        let message = result.err().expect("there is no such binary").to_string();
        assert!(message.starts_with("cannot start /nonexistent/portolan: "), "{message}");
    }
}
