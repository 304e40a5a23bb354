//! Traffic that notices every packet that is missing: one TCP stream, and many UDP flows that carry
//! numbers and come back.
//!
//! Both are held below what a queue holds, so that nothing is lost for want of room: what is lost
//! all the same, the gateway has lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gateway::traffic::{ANSWER_WITHIN, accept, connect, in_namespace, listen};
use rustix::net::sockopt;

/// Bytes under way on the TCP stream: far less than the 1,000 packets of a TAP's queue.
const WINDOW_BYTES: usize = 128 * 1024;

/// So many lost answers, each waited for, end the test.
const LOST_MAX: u64 = 8;

/// Datagrams under way at once.
const BURST: usize = 32;

/// A TCP stream that runs until it is ended.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    gap_ns_max: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
    resent: (PathBuf, (u64, u64)),
    started: Instant,
}

/// What a stream came to.
#[derive(Debug)]
pub(crate) struct StreamResult {
    pub(crate) mbit_per_second: f64,
    /// Segments that the sender's namespace sent again.
    pub(crate) resent: u64,
    /// Those among them that are known to have been needless.
    pub(crate) needless: u64,
    /// The longest time in which nothing came.
    pub(crate) gap_max: Duration,
}

fn pattern(index: u64) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16)) as u8
}

/// A number of a namespace's kernel, from two lines that begin with `group`: names and values.
fn kernel_count(path: &Path, file: &str, group: &str, name: &str) -> u64 {
    let file = format!("/proc/thread-self/net/{file}");
    let text = in_namespace(path, || std::fs::read_to_string(file)).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|other| other == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// What a namespace's device counted: packets received, sent, and dropped in both directions.
pub(crate) fn device_counts(path: &Path, device: &str) -> (u64, u64, u64) {
    let text = in_namespace(path, || std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let mut devices = text.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = devices.find(|(name, _)| name.trim() == device).unwrap();
    let numbers: Vec<u64> =
        numbers.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
    // rx: bytes packets errs drop fifo frame compressed multicast; tx: bytes packets errs drop
    (numbers[1], numbers[9], numbers[3] + numbers[11])
}

/// TCP segments that a namespace has sent again, and of those the ones of which the receiver says
/// that they had arrived the first time (RFC 2883; it does not always say it). A kernel that is
/// kept waiting asks after its last segment by sending it again, although nothing is lost.
fn resent(path: &Path) -> (u64, u64) {
    let again = kernel_count(path, "snmp", "Tcp:", "RetransSegs");
    (again, kernel_count(path, "netstat", "TcpExt:", "TCPDSACKRecvSegs"))
}

impl Stream {
    /// From `client` to what listens in `server` at `own`, reached at `to`.
    pub(crate) fn start(client: &Path, to: SocketAddr, server: &Path, own: SocketAddr) -> Stream {
        let listener = listen(server, own).unwrap();
        let mut from = connect(client, to, ANSWER_WITHIN).unwrap();
        let (mut served, _) = accept(&listener).unwrap();
        sockopt::set_socket_send_buffer_size(&from, WINDOW_BYTES).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (bytes, gap_ns_max) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let before = (client.to_owned(), resent(client));
        let stopping = stop.clone();
        let sender = thread::spawn(move || {
            let mut sent = 0;
            let mut buffer = vec![0; 16 * 1024];
            while !stopping.load(Relaxed) {
                for (byte, index) in buffer.iter_mut().zip(sent..) {
                    *byte = pattern(index);
                }
                from.write_all(&buffer).unwrap();
                sent += buffer.len() as u64;
            }
        });
        let (counted, gap) = (bytes.clone(), gap_ns_max.clone());
        let receiver = thread::spawn(move || {
            let (mut received, mut last) = (0, Instant::now());
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = served.read(&mut buffer).unwrap();
                gap.fetch_max(last.elapsed().as_nanos() as u64, Relaxed);
                last = Instant::now();
                if count == 0 {
                    return;
                }
                for (byte, index) in buffer[..count].iter().zip(received..) {
                    assert_eq!(*byte, pattern(index), "byte {index} is another one");
                }
                received += count as u64;
                counted.store(received, Relaxed);
            }
        });
        let started = Instant::now();
        Stream { stop, bytes, gap_ns_max, sender, receiver, resent: before, started }
    }

    /// Ends it and fails if a byte was missing or wrong.
    pub(crate) fn finish(self) -> StreamResult {
        let elapsed = self.started.elapsed();
        self.stop.store(true, Relaxed);
        self.sender.join().unwrap();
        self.receiver.join().unwrap();
        let bits = self.bytes.load(Relaxed) as f64 * 8.0;
        let (before, needless_before) = self.resent.1;
        let (after, needless) = resent(&self.resent.0);
        let resent = after - before;
        StreamResult {
            mbit_per_second: bits / elapsed.as_secs_f64() / 1e6,
            resent,
            needless: needless - needless_before,
            gap_max: Duration::from_nanos(self.gap_ns_max.load(Relaxed)),
        }
    }
}

/// UDP flows that run until they are ended: each sends a number, and waits for it to come back
/// before it sends the next one.
pub(crate) struct Flows {
    stop: Arc<AtomicBool>,
    /// The client has ended.
    all_asked: Arc<AtomicBool>,
    echo: JoinHandle<Vec<Option<(SocketAddr, u32)>>>,
    client: JoinHandle<FlowsResult>,
}

/// What the flows came to.
#[derive(Debug)]
pub(crate) struct FlowsResult {
    pub(crate) flows: usize,
    pub(crate) sent: u64,
    /// Answers that did not come within [`ANSWER_WITHIN`].
    pub(crate) lost: u64,
    /// The longest round trip.
    pub(crate) round_trip_max: Duration,
}

impl Flows {
    /// `count` flows from `client` to a server at `own` in `server`, reached at `to`.
    pub(crate) fn start(
        count: usize,
        client: &Path,
        to: SocketAddr,
        server: &Path,
        own: SocketAddr,
    ) -> Flows {
        let stop = Arc::new(AtomicBool::new(false));
        let serving = in_namespace(server, || UdpSocket::bind(own)).unwrap();
        serving.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let sockets: Vec<UdpSocket> = in_namespace(client, || {
            let make = |_| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER_WITHIN))?;
                Ok(socket)
            };
            (0..count).map(make).collect::<std::io::Result<_>>()
        })
        .unwrap();
        let (stopping, all_asked) = (stop.clone(), Arc::new(AtomicBool::new(false)));
        let asked = all_asked.clone();
        let echo = thread::spawn(move || echo(&serving, count, &asked));
        let client = thread::spawn(move || ask(&sockets, &stopping));
        Flows { stop, all_asked, echo, client }
    }

    /// Ends them; fails if a flow has ended meanwhile, seen by the address that it comes from.
    pub(crate) fn finish(self) -> FlowsResult {
        self.stop.store(true, Relaxed);
        let result = self.client.join().unwrap();
        self.all_asked.store(true, Relaxed);
        let seen = self.echo.join().unwrap();
        assert!(seen.iter().all(Option::is_some), "every flow reached the server");
        result
    }
}

/// Sends every datagram back, and looks that each flow keeps its address and its numbers' order.
fn echo(socket: &UdpSocket, count: usize, stop: &AtomicBool) -> Vec<Option<(SocketAddr, u32)>> {
    let mut seen: Vec<Option<(SocketAddr, u32)>> = vec![None; count];
    let mut datagram = [0; 64];
    while !stop.load(Relaxed) {
        match socket.recv_from(&mut datagram) {
            Ok((len, from)) => {
                assert_eq!(len, datagram.len());
                let flow = u32::from_be_bytes(datagram[..4].try_into().unwrap());
                let number = u32::from_be_bytes(datagram[4..8].try_into().unwrap());
                let before = &mut seen[flow as usize];
                if let Some((address, before)) = before {
                    assert_eq!(*address, from, "flow {flow} comes from elsewhere: it had ended");
                    assert!(number > *before, "flow {flow}: {number} after {before}");
                }
                *before = Some((from, number));
                socket.send_to(&datagram, from).unwrap();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

/// Has flows ask in bursts, in turn.
fn ask(sockets: &[UdpSocket], stop: &AtomicBool) -> FlowsResult {
    let mut result =
        FlowsResult { flows: sockets.len(), sent: 0, lost: 0, round_trip_max: Duration::ZERO };
    let mut number = 0u32;
    while !stop.load(Relaxed) || number < 2 {
        number += 1;
        for (burst, sockets) in sockets.chunks(BURST).enumerate() {
            let sent_at = Instant::now();
            for (index, socket) in sockets.iter().enumerate() {
                let flow = (burst * BURST + index) as u32;
                let mut datagram = [7; 64];
                datagram[..4].copy_from_slice(&flow.to_be_bytes());
                datagram[4..8].copy_from_slice(&number.to_be_bytes());
                socket.send(&datagram).unwrap();
                result.sent += 1;
            }
            for socket in sockets {
                let mut answer = [0; 64];
                match socket.recv(&mut answer) {
                    Ok(_) => assert_eq!(answer[4..8], number.to_be_bytes(), "the same comes back"),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => result.lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(result.lost < LOST_MAX, "too much is lost to go on: {result:?}");
            result.round_trip_max = result.round_trip_max.max(sent_at.elapsed());
        }
    }
    result
}
