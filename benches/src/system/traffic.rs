//! The load: one TCP stream of large writes, or one flood of 64-byte UDP frames.
//!
//! A sender and a receiver thread hold sockets that were made inside the two namespaces; the
//! calling thread reads the receiver's counter at the two ends of the window. Only what the
//! receiving program got counts. The hard constraint: every leg sees the same load and the same
//! sender, which never waits for the receiver of a datagram. Nothing here knows what lies between.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use super::cpus::pin;
use super::error::Error;
use super::namespace::Namespace;

/// One write or read of TCP, as iperf3 does it: two super-frames and a bit. Smaller measures
/// system calls, larger leaves the L2 cache.
const STREAM_BYTES: usize = 128 * 1024;
/// Payload of a 64-byte frame: 64 less Ethernet 14, IPv4 20, UDP 8 and the check sequence 4.
const DATAGRAM_BYTES: usize = 18;
/// Datagrams of one `sendmmsg`. More changes nothing; fewer measures the sender's system calls.
const DATAGRAM_BURST: usize = 64;
/// Receive buffer of the UDP server. Less than a scheduling delay's worth of packets (4 ms at
/// 1 M packets/s, 768 bytes each) would measure the scheduler.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// A socket call that is stuck looks this often whether the measurement is over.
const STUCK_CHECK: Duration = Duration::from_millis(100);
/// How long a leg may take until its first packet arrives: neighbour discovery, learning.
const REACH_LIMIT: Duration = Duration::from_secs(10);
const TCP_PORT: u16 = 5201;
const UDP_PORT: u16 = 5202;
const CLIENT_UDP_PORT: u16 = 5203;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One TCP stream, as fast as it goes. Rate: payload bits per second.
    Tcp,
    /// One flow of UDP in 64-byte frames, as fast as the sender can. Rate: packets per second.
    Udp64,
}

impl Traffic {
    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Traffic::Tcp => "tcp",
            Traffic::Udp64 => "udp-64",
        }
    }

    /// Unit of a rate.
    pub fn unit(self) -> &'static str {
        match self {
            Traffic::Tcp => "Gbit/s",
            Traffic::Udp64 => "M packets/s",
        }
    }

    /// A rate in that unit.
    pub fn scaled(self, rate: f64) -> f64 {
        match self {
            Traffic::Tcp => rate / 1e9,
            Traffic::Udp64 => rate / 1e6,
        }
    }
}

/// Where the load runs: two namespaces and how they see each other.
pub(super) struct Ends<'a> {
    /// The leg's name, for errors.
    pub(super) path: &'static str,
    /// The sender's namespace.
    pub(super) client: &'a Namespace,
    /// The receiver's namespace.
    pub(super) server: &'a Namespace,
    /// The server's own address.
    pub(super) server_address: Ipv4Addr,
    /// The client's address as the server must see it: proof of a masquerade, or of none.
    pub(super) source_seen: Ipv4Addr,
    /// CPUs that sender and receiver may use.
    pub(super) cpus: &'a [usize],
}

/// When it is measured.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    /// Load that does not count: slow start, caches, the first decision.
    pub(super) warm_up: Duration,
    /// Load that counts.
    pub(super) length: Duration,
    /// Set by a signal: give up.
    pub(super) interrupted: &'a AtomicBool,
}

/// What was measured, per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// What the receiver got: bits of TCP payload, or datagrams.
    pub(super) received: f64,
    /// What the sender handed to its socket, in the same unit.
    pub(super) sent: f64,
}

/// Sends `traffic` from one end to the other for one window.
///
/// # Errors
/// Nothing passes, the server sees the wrong client, or a signal came.
pub(super) fn measure(traffic: Traffic, ends: &Ends, window: Window) -> Result<Rates, Error> {
    let rates = match traffic {
        Traffic::Tcp => tcp(ends, window)?,
        Traffic::Udp64 => udp(ends, window)?,
    };
    if rates.received == 0.0 {
        return Err(Error::Silent { path: ends.path, traffic: traffic.name() });
    }
    Ok(rates)
}

fn tcp(ends: &Ends, window: Window) -> Result<Rates, Error> {
    let address = SocketAddr::from((ends.server_address, TCP_PORT));
    let listener = ends
        .server
        .inside(|| TcpListener::bind(address))?
        .map_err(Error::system(format!("listen on {address}")))?;
    let mut sender = ends.client.inside(|| connect(ends, address, window.interrupted))??;
    let (mut receiver, source) =
        listener.accept().map_err(Error::system(format!("accept a connection on {address}")))?;
    expect_source(ends, source)?;
    for stream in [&sender, &receiver] {
        stream
            .set_read_timeout(Some(STUCK_CHECK))
            .and_then(|()| stream.set_write_timeout(Some(STUCK_CHECK)))
            .map_err(Error::system("set the timeouts of a TCP socket"))?;
    }
    let load = Load::default();
    let rates = thread::scope(|scope| {
        let _ends_both = load.end_on_drop();
        spawn_pinned(scope, ends.cpus, || {
            let block = vec![0x5a; STREAM_BYTES];
            load.repeat(&load.sent, || sender.write(&block));
        });
        spawn_pinned(scope, ends.cpus, || {
            let mut block = vec![0; STREAM_BYTES];
            load.repeat(&load.received, || receiver.read(&mut block));
        });
        load.watch(window)
    })?;
    Ok(Rates { received: rates.received * 8.0, sent: rates.sent * 8.0 })
}

/// Runs one end on these CPUs.
fn spawn_pinned<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    cpus: &'scope [usize],
    end: impl FnOnce() + Send + 'scope,
) {
    scope.spawn(move || match pin(cpus) {
        Ok(()) => end(),
        // It sends or receives nothing then, which the measurement says.
        Err(error) => eprintln!("an end cannot run on the CPUs {cpus:?}: {error}"),
    });
}

/// Connects, again and again until the path is up. Runs in the client's namespace.
fn connect(ends: &Ends, address: SocketAddr, interrupted: &AtomicBool) -> Result<TcpStream, Error> {
    let until = Instant::now() + REACH_LIMIT;
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => return Ok(stream),
            Err(_) if interrupted.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(error) if Instant::now() > until => return Err(unreachable(ends, &error)),
            // A refusal at once, as of a route that is not there yet, must not make us spin.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn udp(ends: &Ends, window: Window) -> Result<Rates, Error> {
    let address = SocketAddr::from((ends.server_address, UDP_PORT));
    let receiver = ends
        .server
        .inside(|| UdpSocket::bind(address))?
        .map_err(Error::system(format!("bind UDP to {address}")))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, RECEIVE_BUFFER_BYTES)
        .map_err(|error| error.into())
        .and_then(|()| receiver.set_read_timeout(Some(STUCK_CHECK)))
        .map_err(Error::system("set up the UDP server's socket"))?;
    let sender = ends
        .client
        .inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_UDP_PORT))?;
            socket.connect(address)?;
            Ok(socket)
        })?
        .map_err(Error::system(format!("connect UDP to {address}")))?;
    probe(ends, &sender, &receiver, window.interrupted)?;
    let load = Load::default();
    thread::scope(|scope| {
        let _ends_both = load.end_on_drop();
        spawn_pinned(scope, ends.cpus, || flood(&load, &sender));
        spawn_pinned(scope, ends.cpus, || {
            let mut datagram = [0; DATAGRAM_BYTES];
            load.repeat(&load.received, || receiver.recv(&mut datagram).map(|_| 1));
        });
        load.watch(window)
    })
}

/// Sends single datagrams until one arrives.
fn probe(
    ends: &Ends,
    sender: &UdpSocket,
    receiver: &UdpSocket,
    interrupted: &AtomicBool,
) -> Result<(), Error> {
    let until = Instant::now() + REACH_LIMIT;
    let mut datagram = [0; DATAGRAM_BYTES];
    loop {
        let arrived = sender.send(&datagram).and_then(|_| receiver.recv_from(&mut datagram));
        match arrived {
            Ok((_, source)) => return expect_source(ends, source),
            Err(_) if interrupted.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(error) if Instant::now() > until => return Err(unreachable(ends, &error)),
            Err(error) if would_wait(&error) => {}
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Sends bursts until the load ends.
fn flood(load: &Load, socket: &UdpSocket) {
    let payload = [0x5a; DATAGRAM_BYTES];
    let slices = [IoSlice::new(&payload)];
    let mut controls: Vec<_> =
        (0..DATAGRAM_BURST).map(|_| SendAncillaryBuffer::default()).collect();
    let mut burst: Vec<_> =
        controls.iter_mut().map(|control| MMsgHdr::new(&slices, control)).collect();
    load.repeat(&load.sent, || {
        sendmmsg(socket, &mut burst, SendFlags::empty()).map_err(io::Error::from)
    });
}

fn expect_source(ends: &Ends, seen: SocketAddr) -> Result<(), Error> {
    let wanted = IpAddr::V4(ends.source_seen);
    if seen.ip() == wanted {
        return Ok(());
    }
    Err(Error::WrongSource { path: ends.path, seen: seen.ip(), wanted })
}

fn unreachable(ends: &Ends, why: &io::Error) -> Error {
    let why = why.to_string();
    Error::Unreachable { path: ends.path, seconds: REACH_LIMIT.as_secs(), why }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The counters of one measurement. Each has one writer; the watcher only reads.
#[derive(Default)]
struct Load {
    sent: Counter,
    received: Counter,
    over: AtomicBool,
}

/// A counter on a cache line of its own: the two ends run on two CPUs.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

impl Load {
    /// Repeats a socket call until the load is over, adding what it returns. Errors of single
    /// calls are what a load brings: a full queue (ENOBUFS), a port unreachable, a time-out.
    fn repeat(&self, counter: &Counter, mut call: impl FnMut() -> io::Result<usize>) {
        while !self.over.load(Ordering::Relaxed) {
            if let Ok(count) = call() {
                counter.0.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }

    /// Waits for the warm-up and the window, and returns the rates of the window.
    fn watch(&self, window: Window) -> Result<Rates, Error> {
        wait(window.warm_up, window.interrupted)?;
        let (begin, begin_sent, begin_received) = self.reading();
        wait(window.length, window.interrupted)?;
        let (end, end_sent, end_received) = self.reading();
        let seconds = (end - begin).as_secs_f64();
        Ok(Rates {
            received: (end_received - begin_received) as f64 / seconds,
            sent: (end_sent - begin_sent) as f64 / seconds,
        })
    }

    fn reading(&self) -> (Instant, u64, u64) {
        let read = |counter: &Counter| counter.0.load(Ordering::Relaxed);
        (Instant::now(), read(&self.sent), read(&self.received))
    }

    /// Ends the load when the guard goes, also when the watcher failed: the scope would wait
    /// for its threads for ever.
    fn end_on_drop(&self) -> impl Drop + '_ {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        End(&self.over)
    }
}

/// Sleeps `length`, in pieces so that a signal is heard.
fn wait(length: Duration, interrupted: &AtomicBool) -> Result<(), Error> {
    let until = Instant::now() + length;
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(STUCK_CHECK));
    }
}
