//! What tests of the daemon share: the daemon as a child, and a place of their own for each test.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod beyond;
pub(crate) mod cover;
pub(crate) mod host;
pub(crate) mod load;
pub(crate) mod partners;
pub(crate) mod tunnels;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use gateway::netns;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_portolan");

/// Longest wait for the daemon. Generous: the machine may be busy.
const DAEMON_WITHIN: Duration = Duration::from_secs(30);

/// A running daemon; ended, and its namespaces removed, whatever happens.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    lines: Receiver<String>,
    /// What it has said so far.
    pub(crate) log: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(config: &Path) -> Daemon {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-c"]).arg(config);
        Daemon::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Daemon {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (sender, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Daemon { child, lines, log: Vec::new() }
    }

    /// Waits for a line that the condition takes.
    pub(crate) fn wait_for(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        self.wait_for_within(what, DAEMON_WITHIN, condition);
    }

    /// As `wait_for`, for what may take longer or must not take so long.
    pub(crate) fn wait_for_within(
        &mut self,
        what: &str,
        within: Duration,
        condition: impl Fn(&str) -> bool,
    ) {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push(line);
                    if condition(self.log.last().unwrap()) {
                        return;
                    }
                }
                Err(_) => panic!("no {what} in:\n{}", self.log.join("\n")),
            }
        }
    }

    pub(crate) fn wait_ready(&mut self) {
        self.wait_for("ready", |line| line == "ready");
    }

    /// Waits for the daemon's own end; all that it said is in `log` then.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DAEMON_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log.extend(self.lines.iter());
                return status;
            }
            assert!(Instant::now() < deadline, "no end:\n{}", self.log.join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_end()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// The uplink of most tests, as a config has it where `WAN` stands: a TAP device whose other end is
/// in the namespace `outside`, with two addresses there.
const WAN: &str = r#"[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "PREFIXoutside"
create = true
addresses = ["192.0.2.10/24"]
host_addresses = ["192.0.2.1/24", "192.0.2.2/24"]
gateway = "192.0.2.1""#;

/// A scratch folder with a config in it, in which `WAN` stands for [`WAN`] and `PREFIX` for a
/// unique name.
pub(crate) struct Scratch {
    pub(crate) folder: tempfile::TempDir,
    prefix: String,
}

impl Scratch {
    pub(crate) fn new(test: &str) -> Scratch {
        let prefix = format!("pgd-{}-{test}-", std::process::id());
        Scratch { folder: tempfile::tempdir().unwrap(), prefix }
    }

    pub(crate) fn config(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("gateway.toml");
        let mut text = text.replace("\nWAN\n", &format!("\n{WAN}\n"));
        text = text.replace("PREFIX", &self.prefix);
        let (state, socket) = (self.state(), self.socket());
        let section = format!("[gateway]\nstate = {state:?}\napi = {socket:?}\n");
        if let Some(rest) = text.strip_prefix("\n[gateway]\n") {
            // In the place of the empty line: later lines get a number higher by one.
            text = format!("{section}{rest}");
        } else if text.contains("[gateway]\n") {
            text = text.replacen("[gateway]\n", &section, 1);
        } else {
            text.push_str(&section);
        }
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The daemon's state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where the daemon's API is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/api.sock")
    }

    /// The daemon's metrics as text.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket()).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: portolan\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        netns::path_of(&self.name(name))
    }

    pub(crate) fn namespaces_left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(netns::NAMESPACE_DIRECTORY).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&self.prefix)).collect()
    }
}
