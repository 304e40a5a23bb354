//! Published ports on ::1: sockets that take what comes and carry it to the gateway.
//!
//! The kernel lets nothing from ::1 leave the loopback device (RFC 4291 section 2.5.3), so no rule
//! can lead it to the gateway as for 127.0.0.1. TCP is carried as two streams that are copied, UDP
//! as one socket per client with a time of idleness. They speak to the gateway from the link's
//! address for loopback traffic, so the server sees its network's gateway.
//!
//! The one hard constraint: a client on ::1 can use up what is set aside here, and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::tables::Protocol;
use futures_util::future::{Either, select};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::wanted::Wanted;
use crate::error::Error;

/// Most ports that are served on ::1: one socket each. Beyond that a line in the log says so.
const PORT_COUNT_MAX: usize = 1_024;

/// Connections, and UDP clients, at one time.
const CLIENT_COUNT_MAX: usize = 1_024;

/// A UDP client that is silent for so long is forgotten. RFC 4787 REQ-5 asks for 2 minutes.
const UDP_IDLE: Duration = Duration::from_secs(120);

/// How long the gateway may take to answer a new connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Largest UDP datagram.
const DATAGRAM_BYTES: usize = 65_535;

/// What is served: each port, and the gateway's addresses for it.
type Ports = BTreeSet<(Protocol, u16)>;

/// The thread, or none as long as nothing is published.
#[derive(Debug, Default)]
pub(super) struct Splice {
    running: Option<(Ports, Ends, oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Both ends of what leads to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    from: IpAddr,
    to: IpAddr,
}

impl Splice {
    /// Serves what a config publishes on ::1, by its own address or by every one. Goes on with what
    /// it has if nothing changes; else connections under way end.
    pub(super) fn set(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let localhost = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let side = wanted.beside.first().map(|beside| &beside.host);
        let to = side.and_then(|side| side.stand_ins().find(|(_, host)| *host == localhost));
        let ends = side.zip(to).map(|(side, (to, _))| Ends { from: side.loopbacks()[1], to });
        let mut ports = Ports::new();
        let published = wanted
            .publish
            .iter()
            .filter(|entry| entry.v6 && entry.host.is_none_or(|host| host == localhost));
        for entry in published.filter(|entry| entry.protocol != Protocol::Sctp) {
            ports.extend((entry.first..=entry.last).map(|port| (entry.protocol, port)));
            if ports.len() > PORT_COUNT_MAX {
                tracing::warn!(PORT_COUNT_MAX, "too many published ports to serve all on ::1");
                while ports.len() > PORT_COUNT_MAX {
                    ports.pop_last();
                }
                break;
            }
        }
        let Some(ends) = ends.filter(|_| !ports.is_empty()) else {
            self.stop();
            return Ok(());
        };
        let same = |running: &(Ports, Ends, _, _)| running.0 == ports && running.1 == ends;
        if self.running.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.stop();
        let failed = |source| Error::Thread { purpose: "published ports on ::1", source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let sockets = open(&ports);
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("splice".into()).spawn(move || {
            runtime.block_on(async move {
                let clients = Arc::new(AtomicUsize::new(0));
                for (protocol, port, socket) in sockets {
                    serve(protocol, port, socket, ends, clients.clone());
                }
                let _ = ended.await;
            });
        });
        self.running = Some((ports, ends, end, thread.map_err(failed)?));
        Ok(())
    }

    fn stop(&mut self) {
        if let Some((_, _, end, thread)) = self.running.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket that is not registered anywhere yet.
enum Opened {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

fn open(ports: &Ports) -> Vec<(Protocol, u16, Opened)> {
    let mut opened = Vec::with_capacity(ports.len());
    for &(protocol, port) in ports {
        match open_one(protocol, port) {
            Ok(socket) => opened.push((protocol, port, socket)),
            Err(error) => {
                tracing::warn!("[::1]:{port}/{protocol} leads nowhere: {error}");
            }
        }
    }
    opened
}

/// Shares the port with the socket that reserves it for every address.
fn open_one(protocol: Protocol, port: u16) -> io::Result<Opened> {
    let (kind, number) = match protocol {
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        _ => (SocketType::STREAM, ipproto::TCP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET6, kind, flags, Some(number))?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    bind(&socket, &SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))?;
    Ok(match protocol {
        Protocol::Udp => Opened::Udp(socket.into()),
        _ => {
            listen(&socket, 1_024)?;
            Opened::Tcp(socket.into())
        }
    })
}

/// Starts the task of a socket.
fn serve(protocol: Protocol, port: u16, socket: Opened, ends: Ends, clients: Arc<AtomicUsize>) {
    let to = SocketAddr::new(ends.to, port);
    let result = match socket {
        Opened::Tcp(listener) => TcpListener::from_std(listener)
            .map(|listener| drop(tokio::spawn(serve_tcp(listener, ends.from, to, clients)))),
        Opened::Udp(socket) => UdpSocket::from_std(socket)
            .map(|socket| drop(tokio::spawn(serve_udp(socket, ends.from, to, clients)))),
    };
    if let Err(error) = result {
        tracing::warn!("[::1]:{port}/{protocol} leads nowhere: {error}");
    }
}

/// One of the clients that there may be; given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(clients.clone());
        (clients.fetch_add(1, Ordering::Relaxed) < CLIENT_COUNT_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_tcp(listener: TcpListener, from: IpAddr, to: SocketAddr, clients: Arc<AtomicUsize>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            // No descriptor is left: the next client may have more luck.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(place) = Place::take(&clients) else { continue };
        tokio::spawn(async move {
            let _place = place;
            let connecting = async {
                let socket = TcpSocket::new_v6()?;
                socket.bind(SocketAddr::new(from, 0))?;
                socket.connect(to).await
            };
            match timeout(CONNECT_WITHIN, connecting).await {
                Ok(Ok(mut server)) => {
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
                // The client is told by a reset.
                Ok(Err(_)) | Err(_) => drop(client.set_zero_linger()),
            }
        });
    }
}

async fn serve_udp(socket: UdpSocket, from: IpAddr, to: SocketAddr, clients: Arc<AtomicUsize>) {
    let socket = Arc::new(socket);
    let mut known: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        // An error is of an earlier answer (port unreachable); the next datagram may pass.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else { continue };
        let datagram = buffer[..len].to_vec();
        if let Some(sender) = known.get(&client)
            && !sender.is_closed()
        {
            // What does not fit is lost, as on any wire.
            let _ = sender.try_send(datagram);
            continue;
        }
        known.retain(|_, sender| !sender.is_closed());
        let Some(place) = Place::take(&clients) else { continue };
        let (sender, receiver) = mpsc::channel(64);
        let _ = sender.try_send(datagram);
        known.insert(client, sender);
        let socket = socket.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = carry_udp(&socket, client, from, to, receiver).await;
        });
    }
}

/// Carries datagrams of one client both ways until it is idle.
async fn carry_udp(
    socket: &UdpSocket,
    client: SocketAddr,
    from: IpAddr,
    to: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let server = UdpSocket::bind(SocketAddr::new(from, 0)).await?;
    server.connect(to).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let next = async {
            let asked = pin!(datagrams.recv());
            let answered = pin!(server.recv(&mut buffer));
            match select(asked, answered).await {
                Either::Left((asked, _)) => Next::Asked(asked),
                Either::Right((answered, _)) => Next::Answered(answered),
            }
        };
        let done = match timeout(UDP_IDLE, next).await {
            Ok(Next::Asked(Some(datagram))) => server.send(&datagram).await.map(drop),
            Ok(Next::Answered(Ok(len))) => socket.send_to(&buffer[..len], client).await.map(drop),
            Ok(Next::Answered(Err(error))) => Err(error),
            // The port is served no more, or the client is idle.
            Ok(Next::Asked(None)) | Err(_) => return Ok(()),
        };
        match done {
            // Nobody serves the port now; the next datagram asks again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            done => done?,
        }
    }
}

/// What happens first to a UDP client.
enum Next {
    Asked(Option<Vec<u8>>),
    Answered(io::Result<usize>),
}
