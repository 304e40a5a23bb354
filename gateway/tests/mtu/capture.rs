//! What the kernel of a far end captures, judged by etherparse: each frame that came in has right
//! lengths and checksums.
//!
//! Only frames that came in are judged: those that leave have checksums that hardware would finish.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use gateway::traffic::in_namespace;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};
use rustix::net::{recv, socket_with, sockopt};

/// A socket that sees every frame of a namespace.
pub(crate) struct Capture {
    socket: OwnedFd,
    /// Frames from this address are the namespace's own.
    own: [u8; 6],
}

/// What was judged.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// TCP and UDP with right checksums.
    pub(crate) right: usize,
    pub(crate) wrong: Vec<String>,
}

impl Capture {
    pub(crate) fn of(namespace: &Path, device: &str) -> Capture {
        let socket = in_namespace(namespace, || {
            let flags = SocketFlags::CLOEXEC;
            Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?)
        });
        let socket = socket.unwrap();
        let wait = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        let output = in_namespace(namespace, || {
            std::process::Command::new("ip").args(["-br", "link", "show", device]).output()
        });
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let own: Vec<u8> = text
            .split_whitespace()
            .find(|word| word.len() == 17 && word.contains(':'))
            .unwrap_or_else(|| panic!("{device}: {text}"))
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        Capture { socket, own: own.try_into().unwrap() }
    }

    /// Judges frames until the flag is set and none waits.
    pub(crate) fn judge_until(&self, over: &AtomicBool) -> Judged {
        let (mut judged, mut buffer) = (Judged::default(), vec![0; 70_000]);
        loop {
            let was_over = over.load(Ordering::Relaxed);
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) => {
                    let frame = &buffer[..len];
                    if frame.get(6..12) != Some(&self.own[..]) {
                        match judge(frame) {
                            Ok(is_transport) => judged.right += usize::from(is_transport),
                            Err(why) => judged.wrong.push(why),
                        }
                    }
                }
                Err(_) if was_over => return judged,
                Err(_) => {}
            }
        }
    }
}

/// `Ok(true)`: TCP or UDP with right checksums. `Ok(false)`: something else, or a fragment.
fn judge(frame: &[u8]) -> Result<bool, String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let about = || format!("{:02x?}", &frame[..frame.len().min(80)]);
    let (v4, v6) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (Some(ip.header().to_header()), None),
        Some(NetSlice::Ipv6(ip)) => (None, Some(ip.header().to_header())),
        _ => return Ok(false),
    };
    if v4.as_ref().is_some_and(|ip| ip.header_checksum != ip.calc_header_checksum()) {
        return Err(format!("checksum of the header: {}", about()));
    }
    let (found, expected) = match (&sliced.transport, &v4, &v6) {
        (Some(TransportSlice::Tcp(tcp)), Some(ip), _) => {
            (tcp.checksum(), tcp.to_header().calc_checksum_ipv4(ip, tcp.payload()))
        }
        (Some(TransportSlice::Tcp(tcp)), _, Some(ip)) => {
            (tcp.checksum(), tcp.to_header().calc_checksum_ipv6(ip, tcp.payload()))
        }
        (Some(TransportSlice::Udp(udp)), Some(ip), _) => {
            (udp.checksum(), udp.to_header().calc_checksum_ipv4(ip, udp.payload()))
        }
        (Some(TransportSlice::Udp(udp)), _, Some(ip)) => {
            (udp.checksum(), udp.to_header().calc_checksum_ipv6(ip, udp.payload()))
        }
        _ => return Ok(false),
    };
    match expected {
        Ok(expected) if expected == found => Ok(true),
        expected => Err(format!("{found:#06x} and not {expected:04x?}: {}", about())),
    }
}
