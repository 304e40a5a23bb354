//! Outside addresses: several of them, one for a network, one for an endpoint alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use engine::limits::{NatSettings, StaticNat, Statics};
use engine::sim::frames::flags;
use engine::{DropReason, NetworkId, Tables, UplinkId};

use crate::common::*;
use crate::gateway::each_of;

/// Further addresses of the uplink.
fn further(number: u8, v6: bool) -> IpAddr {
    let text = if v6 { format!("2001:db8::{number}") } else { format!("192.0.2.{number}") };
    text.parse().unwrap()
}

/// The tables of the small gateway, with three more addresses on the uplink.
fn with_nat(change: impl Fn(&mut NatSettings)) -> Tables {
    let mut tables = tables();
    let uplink = Arc::make_mut(tables.uplinks[0].as_mut().unwrap());
    for number in [11, 12, 13] {
        uplink.addresses.push(format!("192.0.2.{number}/24").parse().unwrap());
        uplink.addresses.push(format!("2001:db8::{number}/64").parse().unwrap());
    }
    change(Arc::make_mut(&mut tables.nat));
    tables
}

fn pool() -> Tables {
    let both = |number| [further(number, false), further(number, true)];
    with_nat(|nat| {
        nat.pools = vec![(UplinkId(0), [11, 12, 13].into_iter().flat_map(both).collect())]
    })
}

#[test]
fn rfc_4787_req_2_an_inside_address_keeps_to_one_outside_address() {
    each_of(pool, |mut gateway, v6| {
        let mut used = HashSet::new();
        for host in [WEB, DB, APP] {
            let mut own = HashSet::new();
            for port in 40_000..40_020 {
                let seen = gateway.forward(&host, udp(&host, port, (FAR.ip(v6), 53)));
                own.insert(seen.source().0);
                let back = gateway.forward(&FAR, udp(&FAR, 53, seen.source()));
                assert_eq!(back.destination(), (host.ip(v6), port));
            }
            let echo = gateway.forward(&host, echo(&host, 7, FAR.ip(v6)));
            own.insert(echo.ip().source);
            assert_eq!(own.len(), 1, "paired pooling: {own:?}");
            used.extend(own);
        }
        let pool = [11, 12, 13].map(|number| further(number, v6));
        assert!(used.iter().all(|address| pool.contains(address)), "{used:?}");
    });
}

#[test]
fn a_network_leaves_as_its_own_outside_address() {
    let own_sources = || {
        with_nat(|nat| {
            nat.sources =
                vec![(NetworkId(1), further(12, false)), (NetworkId(1), further(12, true))];
        })
    };
    each_of(own_sources, |mut gateway, v6| {
        let of_app = gateway.forward(&APP, udp(&APP, 40_000, (FAR.ip(v6), 53)));
        assert_eq!(of_app.source(), (further(12, v6), 40_000));
        let of_web = gateway.forward(&WEB, udp(&WEB, 40_000, (FAR.ip(v6), 53)));
        assert_eq!(of_web.source(), (own(v6), 40_000));
        let back = gateway.forward(&FAR, udp(&FAR, 53, of_app.source()));
        assert_eq!((back.port, back.destination()), (APP.port, (APP.ip(v6), 40_000)));
    });
}

/// web has an outside address for itself.
fn one_to_one() -> Tables {
    let web = |v6| StaticNat {
        inside: WEB.ip(v6),
        outside: further(13, v6),
        port: WEB.port,
        network: NetworkId(0),
    };
    with_nat(|nat| nat.statics = Statics::new(vec![web(false), web(true)]))
}

#[test]
fn a_static_translation_keeps_every_port_both_ways() {
    each_of(one_to_one, |mut gateway, v6| {
        for port in [1, 80, 5_353, 40_001, 65_535] {
            let there = gateway.forward(&WEB, udp(&WEB, port, (FAR.ip(v6), 53)));
            assert_eq!((there.port, there.source()), (WAN, (further(13, v6), port)));
            let back = gateway.forward(&FAR, udp(&FAR, 53, there.source()));
            assert_eq!((back.port, back.destination()), (WEB.port, (WEB.ip(v6), port)));
            // Whoever it has not talked to reaches it all the same.
            let asked = gateway.forward(&CLIENT, udp(&CLIENT, 999, (further(13, v6), port)));
            assert_eq!(asked.destination(), (WEB.ip(v6), port));
            assert_eq!(asked.source(), (CLIENT.ip(v6), 999));
            let answer = gateway.forward(&WEB, udp(&WEB, port, (CLIENT.ip(v6), 999)));
            assert_eq!(answer.source(), (further(13, v6), port));
        }
        let syn = tcp(&CLIENT, 1_000, (further(13, v6), 22), flags::SYN);
        assert_eq!(gateway.forward(&CLIENT, syn).destination(), (WEB.ip(v6), 22));
        // The others are masqueraded as before.
        let of_db = gateway.forward(&DB, udp(&DB, 40_001, (FAR.ip(v6), 53)));
        assert_eq!(of_db.source(), (own(v6), 40_001));
    });
}

#[test]
fn a_static_translation_carries_protocols_without_ports() {
    /// GRE, which has no checksum of the addresses.
    const GRE: u8 = 47;
    each_of(one_to_one, |mut gateway, v6| {
        let packet = |from: &Host, to| routed(from, &header(from, to, GRE), b"\0\0\x08\0inner");
        let there = gateway.forward(&WEB, packet(&WEB, FAR.ip(v6)));
        assert_eq!((there.port, there.ip().source), (WAN, further(13, v6)));
        let back = gateway.forward(&FAR, packet(&FAR, further(13, v6)));
        assert_eq!((back.port, back.ip().destination), (WEB.port, WEB.ip(v6)));
        // An authentication header would be broken by it.
        let refused =
            routed(&WEB, &header(&WEB, FAR.ip(v6), 51), &[59, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        if !v6 {
            gateway.refuse(&WEB, refused, DropReason::ProtocolNotTranslated);
        }
        let ping = gateway.forward(&CLIENT, echo(&CLIENT, 7, further(13, v6)));
        assert_eq!((ping.port, ping.ip().destination), (WEB.port, WEB.ip(v6)));
        let pong = gateway.forward(&WEB, echo_reply(&WEB, 7, CLIENT.ip(v6)));
        assert_eq!(pong.ip().source, further(13, v6));
    });
}

#[test]
fn checksums_that_cover_addresses_are_right_after_a_static_translation() {
    /// UDP-Lite, with a checksum over everything (RFC 3828).
    const UDP_LITE: u8 = 136;
    each_of(one_to_one, |mut gateway, v6| {
        let to = FAR.ip(v6);
        let message = |from: IpAddr| {
            let mut message = engine::sim::frames::udp(40_000, 53, b"payload");
            let words = |bytes: &[u8]| -> u32 {
                let pairs = bytes.chunks(2);
                pairs
                    .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                    .sum()
            };
            let address = |address: IpAddr| match address {
                IpAddr::V4(v4) => words(&v4.octets()),
                IpAddr::V6(v6) => words(&v6.octets()),
            };
            let mut sum = words(&message) + address(from) + address(to);
            sum += u32::from(UDP_LITE) + message.len() as u32;
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            message[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            message
        };
        let sent = routed(&WEB, &header(&WEB, to, UDP_LITE), &message(WEB.ip(v6)));
        let there = gateway.forward(&WEB, sent);
        assert_eq!(there.ip().payload, message(further(13, v6)));
    });
}

#[test]
fn members_reach_a_static_translation_by_its_outside_address() {
    each_of(one_to_one, |mut gateway, v6| {
        // The same network: as its gateway, so that the reply comes back here.
        let there = gateway.forward(&DB, udp(&DB, 40_000, (further(13, v6), 53)));
        assert_eq!((there.port, there.source().0), (WEB.port, crate::common::gateway(1, v6)));
        let back = gateway.forward(&WEB, udp(&WEB, 53, there.source()));
        assert_eq!((back.port, back.source()), (DB.port, (further(13, v6), 53)));
        // Itself.
        let itself = gateway.forward(&WEB, udp(&WEB, 40_000, (further(13, v6), 53)));
        assert_eq!((itself.port, itself.source().0), (WEB.port, crate::common::gateway(1, v6)));
        // Another network: as itself.
        let other = gateway.forward(&APP, udp(&APP, 40_000, (further(13, v6), 53)));
        assert_eq!((other.port, other.source()), (WEB.port, (APP.ip(v6), 40_000)));
        let back = gateway.forward(&WEB, udp(&WEB, 53, other.source()));
        assert_eq!((back.port, back.source()), (APP.port, (further(13, v6), 53)));
    });
}
