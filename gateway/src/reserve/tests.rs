//! Sockets on the loopback of this machine; the sysctl is tried by `tests/publish.rs`, in a
//! namespace of its own.

use super::*;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn range(protocol: Protocol, first: u16) -> Range {
    Range { address: LOCAL, protocol, first, count: 1, is_spliced: false }
}

#[test]
fn a_held_port_is_nobody_elses_and_answers_nobody() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = take(range(Protocol::Tcp, free.port()), &mut None).unwrap();
    let refused = TcpListener::bind(free).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    let silent = TcpStream::connect_timeout(&free, Duration::from_millis(300)).unwrap_err();
    assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    drop(held);
    TcpListener::bind(free).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = take(range(Protocol::Udp, udp.port()), &mut None).unwrap();
    assert_eq!(UdpSocket::bind(udp).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(held);
}

#[test]
fn a_port_that_is_taken_is_refused_in_dockers_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = take(range(Protocol::Tcp, port), &mut None).unwrap_err().to_string();
    let expected = format!("failed to bind host port 127.0.0.1:{port}/tcp: address already in use");
    assert_eq!(refused, expected);
}

#[test]
fn what_is_the_gateways_alone_needs_no_port_of_the_host() {
    let text = |uplink: &str, publish: &str| {
        let text = format!(
            "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\n{uplink}\n\
             addresses = [\"192.0.2.10/24\"]\n[network.front]\nsubnet = \"10.1.0.0/24\"\n\
             [endpoint.web]\nattach = {{ netns = \"web\" }}\nnetwork = [{{ name = \"front\" }}]\n\
             publish = [{publish}]\n"
        );
        ranges(&Config::parse("x.toml", &text).unwrap())
    };
    assert_eq!(text("netns = \"outside\"", "\"8080:80\""), []);
    assert_eq!(text("", "\"192.0.2.10:8080:80\""), []);
    let local = Range { first: 8081, ..range(Protocol::Tcp, 8081) };
    let any = Range { address: Ipv4Addr::UNSPECIFIED.into(), first: 8080, count: 3, ..local };
    assert_eq!(text("", "\"8080-8082:80-82\", \"127.0.0.1:9081:80\"").len(), 2);
    assert_eq!(text("", "\"8080-8082:80-82\""), [any]);
    assert!(any.meets(&local) && local.meets(&any));
    assert!(!any.meets(&Range { protocol: Protocol::Udp, ..local }));
}
