//! How much passes: TCP in bulk and small UDP packets, with plain sockets.
//!
//! A first impression, not a benchmark: sender, receiver and workers share the machine's CPUs, and
//! nothing is compared. `portolan bench` measures.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::world::{Family, Host, World};
use crate::traffic::{accept, connect, in_namespace, is_silence, listen, udp_client};

/// UDP payload that makes a frame of 64 bytes: 14 Ethernet, 20 IPv4, 8 UDP.
const SMALL_BYTES: usize = 22;

/// A port that no check uses.
const PORT: u16 = 5001;

/// Measures, and hands each line to `tell` as soon as it is there; stops when that says false.
pub(super) fn measure(
    world: &World,
    time: Duration,
    mut tell: impl FnMut(&str, io::Result<String>) -> bool,
) {
    let family = Family::V4;
    let ways: [(&str, &Host, SocketAddr); 2] = [
        ("same network", &world.web, (world.web.address(family), PORT).into()),
        ("masquerade", &world.outside, (world.far(family), PORT).into()),
    ];
    for (way, server, to) in ways {
        let bits = tcp(server, &world.client, to, time);
        let line = bits.map(|bits| format!("{:.2} Gbit/s", bits / 1e9));
        if !tell(&format!("TCP, {way}"), line) {
            return;
        }
    }
    for (way, server, to) in ways {
        let packets = udp(server, &world.client, to, time);
        let line = packets.map(|(sent, received)| {
            format!("{:.0} k packets/s arrive, of {:.0} k sent", received / 1e3, sent / 1e3)
        });
        if !tell(&format!("UDP 64 B, {way}"), line) {
            return;
        }
    }
}

/// Bits per second that arrive.
fn tcp(server: &Host, client: &Host, to: SocketAddr, time: Duration) -> io::Result<f64> {
    let listener = listen(&server.path, to)?;
    let mut sender = connect(&client.path, to, crate::traffic::ANSWER_WITHIN)?;
    let (mut receiver, _) = accept(&listener)?;
    thread::scope(|scope| {
        let send = scope.spawn(move || -> io::Result<()> {
            let buffer = vec![0x5a; 256 * 1024];
            let started_at = Instant::now();
            while started_at.elapsed() < time {
                sender.write_all(&buffer)?;
            }
            Ok(())
        });
        let mut buffer = vec![0; 256 * 1024];
        let started_at = Instant::now();
        let mut bytes = 0u64;
        loop {
            match receiver.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => bytes += len as u64,
                // A signal ends the demo after this measurement, not within.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let seconds = started_at.elapsed().as_secs_f64();
        send.join().expect("the sender does not panic")?;
        Ok(bytes as f64 * 8.0 / seconds)
    })
}

/// Packets per second that were sent, and that arrived.
fn udp(server: &Host, client: &Host, to: SocketAddr, time: Duration) -> io::Result<(f64, f64)> {
    let receiver = in_namespace(&server.path, || UdpSocket::bind(to))?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sender = udp_client(&client.path, to)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let receive = scope.spawn(|| -> io::Result<u64> {
            let mut count = 0;
            loop {
                match receiver.recv(&mut [0; 64]) {
                    Ok(_) => count += 1,
                    Err(error) if is_silence(&error) && done.load(Ordering::Relaxed) => {
                        return Ok(count);
                    }
                    Err(error) if is_silence(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        });
        let started_at = Instant::now();
        let mut sent = 0u64;
        while started_at.elapsed() < time {
            // A full queue of the sender's own device is its own affair.
            if sender.send(&[0x5a; SMALL_BYTES]).is_ok() {
                sent += 1;
            }
        }
        let seconds = started_at.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let received = receive.join().expect("the receiver does not panic")?;
        Ok((sent as f64 / seconds, received as f64 / seconds))
    })
}
