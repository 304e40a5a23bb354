//! The demo's checks: each proves one thing that users rely on, with real kernels at both ends.
//!
//! A check returns what it proved, in a few words, or what it saw instead. It makes its own sockets
//! and leaves nothing behind but flows in the gateway, so checks run in any order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::world::{Family, Host, PUBLISHED, SERVICE, UNPUBLISHED, WEB_MAC, World};
use crate::netlink::Netlink;
use crate::traffic::{
    ANSWER_WITHIN, SILENCE, connect, echo_tcp, echo_udp, is_silence, ping, udp_client,
};

/// What a check says: what was proved, or what is wrong.
pub(super) type Outcome = Result<String, String>;

/// A check with its title.
pub(super) struct Check {
    pub(super) title: String,
    pub(super) run: Box<dyn Fn(&World) -> Outcome>,
}

/// Bytes of the TCP exchanges: enough for super-frames, windows and retransmissions to show.
const TCP_BYTES: usize = 1 << 20;

/// UDP payloads: empty headers, ordinary, and one that the kernel must fragment at an MTU of 1500.
const UDP_SIZES: [usize; 4] = [1, 100, 1_400, 4_000];

/// All checks, in the order of the demo.
pub(super) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |title: &str, check: fn(&World, Family) -> Outcome| {
        for family in Family::BOTH {
            let title = format!("{title}, {}", family.name());
            checks.push(Check { title, run: Box::new(move |world| check(world, family)) });
        }
    };
    add("same network: ping", same_network_ping);
    add("same network: TCP", |world, family| tcp(&within_front(world, family)));
    add("same network: UDP", |world, family| udp(&within_front(world, family)));
    add("gateway answers its members", gateway_answers);
    add("other network is isolated", other_network_is_isolated);
    add("masquerade: ping", |world, family| {
        let time = ping(&world.client.path, world.far(family), ANSWER_WITHIN).map_err(said)?;
        Ok(format!("{} answers in {}", world.far(family), milliseconds(time)))
    });
    add("masquerade: TCP", |world, family| tcp(&masqueraded(world, family)));
    add("masquerade: UDP", |world, family| udp(&masqueraded(world, family)));
    add("published port: TCP", |world, family| tcp(&published(world, family)));
    add("published port: UDP", |world, family| udp(&published(world, family)));
    add("overlay, to another gateway: ping", |world, family| {
        let distant = world.distant.address(family);
        let time = ping(&world.near.path, distant, ANSWER_WITHIN).map_err(said)?;
        Ok(format!("{distant} answers in {}", milliseconds(time)))
    });
    add("overlay, to another gateway: TCP", |world, family| tcp(&overlay(world, family)));
    add("overlay, to another gateway: UDP", |world, family| udp(&overlay(world, family)));
    add("unpublished port is closed: TCP", unpublished_tcp);
    add("unpublished port is closed: UDP", unpublished_udp);
    add("container address from outside is silent", container_address_is_silent);
    checks
}

fn same_network_ping(world: &World, family: Family) -> Outcome {
    let target = world.web.address(family);
    let time = ping(&world.client.path, target, ANSWER_WITHIN).map_err(said)?;
    let netlink = Netlink::open(Some(&world.client.path)).map_err(|error| error.to_string())?;
    let mac = netlink.neighbour_mac(target).map_err(|error| error.to_string())?;
    let protocol = if family == Family::V4 { "ARP" } else { "ND" };
    match mac {
        Some(WEB_MAC) => {
            Ok(format!("{protocol} finds {WEB_MAC}, answer in {}", milliseconds(time)))
        }
        Some(mac) => Err(format!("{protocol} found {mac} instead of {WEB_MAC}")),
        None => Err(format!("{protocol} found nothing")),
    }
}

fn gateway_answers(world: &World, family: Family) -> Outcome {
    let inside = ping(&world.client.path, world.front_gateway(family), ANSWER_WITHIN);
    let inside = inside.map_err(said)?;
    ping(&world.outside.path, world.gateway(family), ANSWER_WITHIN).map_err(said)?;
    let (own, uplink) = (world.front_gateway(family), world.gateway(family));
    Ok(format!("{own} in {}, and {uplink} on the uplink", milliseconds(inside)))
}

fn other_network_is_isolated(world: &World, family: Family) -> Outcome {
    let target = world.web.address(family);
    if let Ok(time) = ping(&world.other.path, target, SILENCE) {
        return Err(format!("{target} answers a ping in {}", milliseconds(time)));
    }
    let to = SocketAddr::new(target, SERVICE);
    let _listener = crate::traffic::listen(&world.web.path, to).map_err(said)?;
    match connect(&world.other.path, to, SILENCE) {
        Ok(_) => Err(format!("{to} is reached by TCP")),
        Err(error) => Ok(format!("no ping, no TCP to {to} ({})", short(&error))),
    }
}

fn unpublished_tcp(world: &World, family: Family) -> Outcome {
    let to = SocketAddr::new(world.gateway(family), UNPUBLISHED);
    let asked_at = Instant::now();
    match connect(&world.outside.path, to, ANSWER_WITHIN) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(format!("{to} refuses after {}", milliseconds(asked_at.elapsed())))
        }
        Err(error) => Err(format!("{to}: {} instead of a refusal", short(&error))),
        Ok(_) => Err(format!("{to} takes a connection")),
    }
}

fn unpublished_udp(world: &World, family: Family) -> Outcome {
    let to = SocketAddr::new(world.gateway(family), UNPUBLISHED);
    let socket = udp_client(&world.outside.path, to).map_err(said)?;
    socket.send(b"anybody there?").map_err(said)?;
    match socket.recv(&mut [0; 100]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(format!("{to} answers port unreachable"))
        }
        Err(error) => Err(format!("{to}: {} instead of a refusal", short(&error))),
        Ok(_) => Err(format!("{to} answers")),
    }
}

fn container_address_is_silent(world: &World, family: Family) -> Outcome {
    let to = SocketAddr::new(world.web.address(family), SERVICE);
    let _listener = crate::traffic::listen(&world.web.path, to).map_err(said)?;
    match connect(&world.outside.path, to, SILENCE) {
        Err(error) if is_silence(&error) => Ok(format!("{to} says nothing")),
        Err(error) => Err(format!("{to}: {} instead of silence", short(&error))),
        Ok(_) => Err(format!("{to} takes a connection")),
    }
}

/// Who speaks to whom, and what the server must see.
struct Exchange<'a> {
    server: &'a Host,
    client: &'a Host,
    /// The server's own address.
    listening: SocketAddr,
    /// What the client asks for.
    target: SocketAddr,
    /// The client as the server must see it.
    seen: IpAddr,
}

fn within_front(world: &World, family: Family) -> Exchange<'_> {
    let listening = SocketAddr::new(world.web.address(family), SERVICE);
    let (server, client) = (&world.web, &world.client);
    Exchange { server, client, listening, target: listening, seen: client.address(family) }
}

fn overlay(world: &World, family: Family) -> Exchange<'_> {
    let listening = SocketAddr::new(world.distant.address(family), SERVICE);
    let (server, client) = (&world.distant, &world.near);
    Exchange { server, client, listening, target: listening, seen: client.address(family) }
}

fn masqueraded(world: &World, family: Family) -> Exchange<'_> {
    let listening = SocketAddr::new(world.far(family), SERVICE);
    let (server, client) = (&world.outside, &world.client);
    Exchange { server, client, listening, target: listening, seen: world.gateway(family) }
}

fn published(world: &World, family: Family) -> Exchange<'_> {
    let listening = SocketAddr::new(world.web.address(family), SERVICE);
    let target = SocketAddr::new(world.gateway(family), PUBLISHED);
    let (server, client) = (&world.web, &world.outside);
    Exchange { server, client, listening, target, seen: client.address(family) }
}

fn tcp(exchange: &Exchange<'_>) -> Outcome {
    let server = (exchange.server.path.as_path(), exchange.listening);
    let seen = echo_tcp(server, (&exchange.client.path, exchange.target), TCP_BYTES);
    exchange.judge(seen.map_err(said)?, "1 MiB there and back")
}

fn udp(exchange: &Exchange<'_>) -> Outcome {
    let server = (exchange.server.path.as_path(), exchange.listening);
    let seen = echo_udp(server, (&exchange.client.path, exchange.target), &UDP_SIZES);
    exchange.judge(seen.map_err(said)?, "1 to 4,000 B there and back")
}

impl Exchange<'_> {
    fn judge(&self, seen: IpAddr, what: &str) -> Outcome {
        let (server, target) = (self.server.name, self.target);
        if seen == self.seen {
            Ok(format!("{target}: {what}, {server} sees {seen}"))
        } else {
            Err(format!("{target}: {server} sees {seen} instead of {}", self.seen))
        }
    }
}

fn said(error: io::Error) -> String {
    short(&error)
}

/// An error in the demo's words: a limit that ran out means that nothing came.
fn short(error: &io::Error) -> String {
    if is_silence(error) { "no answer".to_owned() } else { error.to_string() }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
