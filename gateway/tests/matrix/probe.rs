//! The server of the matrix, and one question to it.
//!
//! TCP and UDP are the kernel's. SCTP is spoken by raw sockets, as few kernels have it: an INIT
//! there, an INIT ACK back, both such that a firewall that follows associations takes them. A ping
//! is answered by the server's kernel; a raw socket beside it sees who asked.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::wire::crc32c;
use gateway::traffic::{in_namespace, ping, udp_client};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, recvfrom,
    sendto, socket_with,
};

use super::cell::Protocol;

/// How long is waited for an answer. Who is to be silent costs this much.
const PATIENCE: Duration = Duration::from_millis(500);

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// An answer; with the source that the server saw, if it was the server that answered.
    Answered(Option<IpAddr>),
    /// A no.
    Refused,
    /// Nothing.
    Nothing,
}

pub(crate) struct Server {
    address: IpAddr,
    tcp: HashMap<u16, TcpListener>,
    udp: HashMap<u16, UdpSocket>,
    sctp: OwnedFd,
    icmp: OwnedFd,
    asked: u32,
}

fn raw(v6: bool, protocol: rustix::net::Protocol) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::RAW, flags, Some(protocol))?)
}

impl Server {
    pub(crate) fn open(path: &Path, address: IpAddr) -> Server {
        let v6 = address.is_ipv6();
        in_namespace(path, || {
            let at = |port: u16| SocketAddr::new(address, port);
            let (mut tcp, mut udp) = (HashMap::new(), HashMap::new());
            for port in 80..83 {
                let listener = TcpListener::bind(at(port))?;
                listener.set_nonblocking(true)?;
                tcp.insert(port, listener);
                let socket = UdpSocket::bind(at(port))?;
                socket.set_nonblocking(true)?;
                udp.insert(port, socket);
            }
            let icmp = if v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
            let (sctp, icmp) = (raw(v6, ipproto::SCTP)?, raw(v6, icmp)?);
            Ok(Server { address, tcp, udp, sctp, icmp, asked: 0 })
        })
        .unwrap()
    }

    /// Asks from a namespace for `to`; if that leads to the server, it is to be at its port `own`.
    pub(crate) fn ask(
        &mut self,
        path: &Path,
        protocol: Protocol,
        to: SocketAddr,
        own: u16,
    ) -> Asked {
        self.asked += 1;
        match protocol {
            Protocol::Tcp => self.ask_tcp(path, to, own),
            Protocol::Udp => self.ask_udp(path, to, own),
            Protocol::Sctp => self.ask_sctp(path, to, own),
            Protocol::Icmp => self.ask_icmp(path, to.ip()),
        }
    }

    fn ask_tcp(&self, path: &Path, to: SocketAddr, own: u16) -> Asked {
        let listener = &self.tcp[&own];
        while listener.accept().is_ok() {}
        let stream = in_namespace(path, || TcpStream::connect_timeout(&to, PATIENCE));
        if let Err(error) = &stream {
            return refused(error);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match listener.accept() {
                Ok((_, peer)) => return Asked::Answered(Some(peer.ip())),
                Err(_) if Instant::now() < deadline => pause(),
                Err(error) => panic!("connected to {to}, and nobody was there: {error}"),
            }
        }
    }

    fn ask_udp(&self, path: &Path, to: SocketAddr, own: u16) -> Asked {
        let server = &self.udp[&own];
        let client = udp_client(path, to).unwrap();
        client.set_nonblocking(true).unwrap();
        let token = self.asked.to_be_bytes();
        let mut buffer = [0; 64];
        if let Err(error) = client.send(&token) {
            return refused(&error);
        }
        let (mut seen, mut answer) = (None, [0; 64]);
        until_answered(|| {
            if let Ok((len, peer)) = server.recv_from(&mut buffer)
                && buffer[..len] == token
            {
                seen = Some(peer.ip());
                let _ = server.send_to(&token, peer);
            }
            match client.recv(&mut answer) {
                Ok(len) if answer[..len] == token => Some(Asked::Answered(seen)),
                Ok(_) => None,
                Err(error) => Some(refused(&error)).filter(|asked| *asked != Asked::Nothing),
            }
        })
    }

    fn ask_sctp(&self, path: &Path, to: SocketAddr, own: u16) -> Asked {
        const SOURCE_PORT: u16 = 40_000;
        const INIT: u8 = 1;
        const INIT_ACK: u8 = 2;
        let client = in_namespace(path, || {
            let client = raw(to.is_ipv6(), ipproto::SCTP)?;
            connect(&client, &SocketAddr::new(to.ip(), 0))?;
            Ok(client)
        })
        .unwrap();
        // Another port each time, so that each question is a flow of its own.
        let source_port = SOURCE_PORT + self.asked as u16;
        let any = |address: IpAddr| SocketAddr::new(address, 0);
        let question = sctp((source_port, to.port()), 0, INIT, self.asked);
        let sent = sendto(&client, &question, SendFlags::empty(), &any(to.ip()));
        if let Err(error) = sent {
            return refused(&error.into());
        }
        let mut seen = None;
        let v6 = self.address.is_ipv6();
        until_answered(|| {
            let mut buffer = [0; 256];
            if let Ok((len, _, Some(from))) =
                recvfrom(&self.sctp, buffer.as_mut_slice(), RecvFlags::empty())
                && let Some(packet) = payload(&buffer[..len], v6)
                && packet.get(2..4) == Some(&own.to_be_bytes()[..])
                && packet.get(16..20) == Some(&self.asked.to_be_bytes()[..])
            {
                let from = SocketAddr::try_from(from).unwrap().ip();
                seen = Some(from);
                let back = u16::from_be_bytes([packet[0], packet[1]]);
                let answer = sctp((own, back), self.asked, INIT_ACK, !self.asked);
                let _ = sendto(&self.sctp, &answer, SendFlags::empty(), &any(from));
            }
            match recv(&client, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) => {
                    let packet = payload(&buffer[..len], v6)?;
                    let is_ours = packet.get(2..4) == Some(&source_port.to_be_bytes()[..]);
                    (is_ours && seen.is_some()).then_some(Asked::Answered(seen))
                }
                Err(error) => Some(refused(&error.into())).filter(|asked| *asked != Asked::Nothing),
            }
        })
    }

    fn ask_icmp(&self, path: &Path, to: IpAddr) -> Asked {
        let v6 = to.is_ipv6();
        let heard = || {
            let mut buffer = [0; 256];
            let (len, _, from) =
                recvfrom(&self.icmp, buffer.as_mut_slice(), RecvFlags::empty()).ok()?;
            let kind = payload(&buffer[..len], v6)?.first().copied();
            let from = SocketAddr::try_from(from?).ok()?.ip();
            Some((kind == Some(if v6 { 128 } else { 8 })).then_some(from))
        };
        while heard().is_some() {}
        match ping(path, to, PATIENCE) {
            Ok(_) => {
                let mut seen = None;
                while let Some(message) = heard() {
                    seen = seen.or(message);
                }
                Asked::Answered(seen)
            }
            Err(error) => refused(&error),
        }
    }
}

/// `[source port | destination port | tag | CRC32c | chunk of 20 bytes, with the sender's tag]`
fn sctp((from, to): (u16, u16), tag: u32, kind: u8, own_tag: u32) -> Vec<u8> {
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let head = [&ports[..], &tag.to_be_bytes()].concat();
    let parameters = [0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1];
    let chunk = [&[kind, 0, 0, 20], &own_tag.to_be_bytes()[..], &parameters].concat();
    let sum = crc32c::whole(&[&head, &[0; 4], &chunk]);
    [&head[..], &sum.to_le_bytes(), &chunk].concat()
}

/// What is behind the IP header, which raw sockets of IPv4 hand over and those of IPv6 do not.
fn payload(packet: &[u8], v6: bool) -> Option<&[u8]> {
    if v6 {
        return Some(packet);
    }
    packet.get(usize::from(packet.first()? & 15) * 4..)
}

/// What an error says: a no of the other side, or nothing.
fn refused(error: &io::Error) -> Asked {
    use rustix::io::Errno;
    // A no to a protocol: of ICMP, and of ICMPv6.
    let protocol = [Errno::NOPROTOOPT, Errno::PROTO].map(Errno::raw_os_error);
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Asked::Refused,
        _ if error.raw_os_error().is_some_and(|code| protocol.contains(&code)) => Asked::Refused,
        _ => Asked::Nothing,
    }
}

fn until_answered(mut look: impl FnMut() -> Option<Asked>) -> Asked {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Some(asked) => return asked,
            None if Instant::now() < deadline => pause(),
            None => return Asked::Nothing,
        }
    }
}

/// Between two looks at sockets.
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}
