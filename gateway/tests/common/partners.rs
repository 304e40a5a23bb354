//! Other programs beside the gateway: started in a namespace, captured, and judged by tshark.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway::netns;

use super::tunnels::PASSES_WITHIN;

/// A process of ours, ended whatever happens.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(namespace: &Path, command: &mut Command) -> Running {
        Running::start_heard(namespace, command.stderr(Stdio::null()))
    }

    /// The same, with its errors where the caller leads them.
    pub(crate) fn start_heard(namespace: &Path, command: &mut Command) -> Running {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Running(netns::within(namespace, || command.spawn()).unwrap().unwrap())
    }

    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.end();
        }
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PASSES_WITHIN;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What passes on a device, in a file.
pub(crate) struct Capture {
    running: Running,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn start(namespace: &Path, device: &str, file: PathBuf) -> Capture {
        let mut command = Command::new("tcpdump");
        // Not as another user, who may not write there; each packet is written at once.
        command.args(["-U", "-Z", "root", "-s", "0", "-i", device, "-w"]).arg(&file);
        let running = Running::start(namespace, &mut command);
        wait_until("a capture", || std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24));
        Capture { running, file }
    }

    /// Ends it, and has tshark say what is wrong with any packet. Returns how many were VXLAN.
    pub(crate) fn check(self, udp_port: u16) -> usize {
        self.running.stop();
        let decode = format!("udp.port=={udp_port},vxlan");
        let tshark = |extra: &[&str]| {
            let mut command = Command::new("tshark");
            // Checksums are not judged: a TAP's sender leaves them to the receiver.
            command.args(["-n", "-r"]).arg(&self.file).args(["-d", &decode]).args(extra);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let fields = ["-T", "fields", "-e", "frame.number", "-e", "_ws.expert.message"];
        let bad = ["-Y", "_ws.malformed || _ws.expert.severity >= 8388608 || vxlan.flag_i == 0"];
        let complaints = tshark(&[&bad[..], &fields].concat());
        assert_eq!(complaints, "", "{}", tshark(&["-V", "-c", "40"]));
        let ours = "vxlan && udp.srcport >= 49152 && (ip.src == 192.0.2.10 && ip.ttl == 64 \
                    || ipv6.src == 2001:db8::10 && ipv6.hlim == 64)";
        tshark(&["-Y", ours, "-T", "fields", "-e", "frame.number"]).lines().count()
    }
}
