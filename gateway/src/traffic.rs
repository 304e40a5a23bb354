//! Ordinary sockets in namespaces: what the hosts of the demo and of the tests do.
//!
//! A socket stays in the namespace where it was made, so only making one enters it; afterwards it
//! is used from any thread. No other program is needed. The one hard constraint: every wait has a
//! limit, so that a gateway that loses packets makes a check fail, not hang.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use rustix::net::{recv, sendto, socket_with, sockopt};

use crate::netns;

/// Longest wait for what should come at once. Generous: the machine may be busy.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long is waited for what should *not* come.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Runs socket calls in a namespace; a namespace that is gone is an error like theirs.
pub fn in_namespace<T: Send>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    netns::within(path, work).map_err(io::Error::other)?
}

/// Sends one echo request and waits for its answer. Returns the time between.
pub fn ping(path: &Path, target: IpAddr, wait: Duration) -> io::Result<Duration> {
    const PAYLOAD: &[u8] = b"portolan demo: an echo request of an ordinary length, 56 B";
    let socket = in_namespace(path, || ping_socket(target, wait))?;
    let (request, reply) = if target.is_ipv4() { (8, 0) } else { (128, 129) };
    // [type | code | checksum: the kernel's | identifier: the kernel's | sequence | payload]
    let message = [&[request, 0, 0, 0, 0, 0, 0, 1], PAYLOAD].concat();
    let sent_at = Instant::now();
    sendto(&socket, &message, SendFlags::empty(), &SocketAddr::new(target, 0))?;
    let mut answer = [0; 1500];
    let received = retry_on_intr(|| recv(&socket, answer.as_mut_slice(), RecvFlags::empty()));
    let (answer_len, _) = received?;
    let answer = &answer[..answer_len];
    if answer.first() != Some(&reply) || answer.get(8..) != Some(PAYLOAD) {
        return Err(io::Error::new(ErrorKind::InvalidData, "the answer is not to our request"));
    }
    Ok(sent_at.elapsed())
}

/// An ICMP datagram socket. The kernel allows them to nobody by default; in a namespace of our own
/// we allow them to everybody.
fn ping_socket(target: IpAddr, wait: Duration) -> io::Result<OwnedFd> {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(wait))?;
    Ok(socket)
}

/// A listening TCP socket.
pub fn listen(path: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    in_namespace(path, || TcpListener::bind(address))
}

/// A connected TCP socket, with limits on each wait.
pub fn connect(path: &Path, to: SocketAddr, wait: Duration) -> io::Result<TcpStream> {
    let stream = in_namespace(path, || TcpStream::connect_timeout(&to, wait))?;
    limit_waits(&stream)?;
    Ok(stream)
}

fn limit_waits(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))
}

/// Takes the connection that has been made, within the limit.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                limit_waits(&stream)?;
                return Ok((stream, peer));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends `bytes` bytes of a pattern to a server that sends them back, and compares. Returns the
/// address of the client as the server sees it.
pub fn echo_tcp(
    server: (&Path, SocketAddr),
    client: (&Path, SocketAddr),
    bytes: usize,
) -> io::Result<IpAddr> {
    let listener = listen(server.0, server.1)?;
    let mut stream = connect(client.0, client.1, ANSWER_WITHIN)?;
    let (mut served, peer) = accept(&listener)?;
    let sent: Vec<u8> = (0..bytes).map(|index| ((index * 31) >> 3) as u8).collect();
    let mut received = Vec::with_capacity(bytes);
    thread::scope(|scope| -> io::Result<()> {
        let serve = scope.spawn(move || -> io::Result<()> {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match served.read(&mut buffer)? {
                    0 => return Ok(()),
                    len => served.write_all(&buffer[..len])?,
                }
            }
        });
        let mut sender = stream.try_clone()?;
        let sent = &sent;
        let send = scope.spawn(move || -> io::Result<()> {
            sender.write_all(sent)?;
            sender.shutdown(std::net::Shutdown::Write)
        });
        stream.read_to_end(&mut received)?;
        send.join().expect("the sender does not panic")?;
        serve.join().expect("the server does not panic")
    })?;
    if received != sent {
        let message = format!("{} of {bytes} bytes came back, or not the same", received.len());
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(peer.ip())
}

/// Sends datagrams of these sizes to a server that sends them back. Returns the address of the
/// client as the server sees it.
pub fn echo_udp(
    server: (&Path, SocketAddr),
    client: (&Path, SocketAddr),
    sizes: &[usize],
) -> io::Result<IpAddr> {
    let serving = in_namespace(server.0, || UdpSocket::bind(server.1))?;
    let asking = udp_client(client.0, client.1)?;
    serving.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut buffer = vec![0; 65_536];
    let mut seen = None;
    for (index, &size) in sizes.iter().enumerate() {
        let sent = vec![index as u8 + 1; size];
        asking.send(&sent)?;
        let (len, peer) = serving.recv_from(&mut buffer)?;
        serving.send_to(&buffer[..len], peer)?;
        let len = asking.recv(&mut buffer)?;
        if buffer[..len] != sent {
            let message = format!("{len} bytes came back of {size}, or not the same");
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        seen = Some(peer.ip());
    }
    seen.ok_or_else(|| ErrorKind::InvalidInput.into())
}

/// A UDP socket that speaks to one address only, and hears ICMP errors about it.
pub fn udp_client(path: &Path, to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = in_namespace(path, || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(socket)
}

/// True for the two errors that mean "nothing came in time".
pub fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
