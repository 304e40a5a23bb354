//! Overlays: what a file may say about them, and what it compiles to.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use config::{Config, compile, recompile};
use engine::tables::{PortKind, TunnelEnd, Vni};
use engine::{MacAddress, Tables};

const START: &str = r#"
[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
[network.mesh]
driver = "overlay"
vni = 4097
subnet = "10.9.0.0/24"
"#;

fn parse(rest: &str) -> Config {
    Config::parse("x.toml", &format!("{START}{rest}")).unwrap_or_else(|found| panic!("{found:?}"))
}

fn refusals(rest: &str) -> Vec<String> {
    let text = format!("{START}{rest}");
    let found = Config::parse("x.toml", &text).unwrap_err();
    found.iter().map(|one| format!("{}: {}", one.path, one.message)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Names of all ports.
fn names(tables: &Tables) -> Vec<&str> {
    tables.ports.iter().flatten().map(|port| &*port.name).collect()
}

#[test]
fn peers_become_tunnels_that_the_trunk_floods_to() {
    let config = parse("peers = [\"192.0.2.11\", \"192.0.2.12\"]\n");
    let tables = compile(&config, None);
    let network = tables.networks[0].as_ref().unwrap();
    let overlay = network.overlay.as_ref().unwrap();
    assert!(overlay.learns && network.members == [overlay.trunk]);
    assert_eq!(network.endpoint_count(), 0);
    assert_eq!(network.mtu, 1_450);
    let all = ["wan", "vxlan:mesh", "vxlan:mesh/192.0.2.11", "vxlan:mesh/192.0.2.12"];
    assert_eq!(names(&tables), all);
    let PortKind::Tunnel(trunk) = &tables.port(overlay.trunk).unwrap().kind else {
        panic!("the trunk is a tunnel's")
    };
    assert_eq!((trunk.vni, trunk.udp_port), (Vni(4_097), 4_789));
    assert_eq!(trunk.end, TunnelEnd::Trunk(overlay.tunnels.clone()));
    let ends = overlay.tunnels.iter().map(|&id| match &tables.port(id).unwrap().kind {
        PortKind::Tunnel(tunnel) => (tunnel.local, tunnel.end.clone()),
        other => panic!("{other:?}"),
    });
    let expected =
        ["192.0.2.11", "192.0.2.12"].map(|vtep| (ip("192.0.2.10"), TunnelEnd::Vtep(ip(vtep))));
    assert_eq!(ends.collect::<Vec<_>>(), expected);
    assert_eq!(tables.nat.reserved, [4_789]);
}

#[test]
fn when_the_uplinks_mtu_falls_what_goes_into_tunnels_falls_with_it() {
    let mut config = parse("peers = [\"192.0.2.11\", \"2001:db8::11\"]\nmtu = 1420\n");
    let mtus = |config: &Config| {
        let tables = compile(config, None);
        let tunnels = tables.ports.iter().flatten();
        let tunnels = tunnels.filter(|port| matches!(port.kind, PortKind::Tunnel(_)));
        tunnels.map(|port| port.mtu).collect::<Vec<_>>()
    };
    assert_eq!(mtus(&config), [1_420, 1_420, 1_420]);
    config.uplinks[0].mtu = 1_400;
    assert_eq!(mtus(&config), [1_330, 1_350, 1_330], "the trunk's is what all take");
}

#[test]
fn an_end_of_ipv6_takes_twenty_bytes_more() {
    assert_eq!(parse("peers = [\"2001:db8::11\"]\n").networks[0].mtu, 1_430);
    let most = refusals("peers = [\"2001:db8::11\"]\nmtu = 1450\n");
    assert_eq!(most, ["network.mesh.mtu: 1450 bytes do not fit into the tunnels, 1430 do"]);
}

#[test]
fn a_group_stands_for_its_peers() {
    let tables = compile(&parse("peers = [\"192.0.2.11\"]\ngroup = \"239.1.1.1\"\n"), None);
    let overlay = tables.networks[0].as_ref().unwrap().overlay.as_ref().unwrap();
    let PortKind::Tunnel(trunk) = &tables.port(overlay.trunk).unwrap().kind else { panic!() };
    let TunnelEnd::Trunk(all) = &trunk.end else { panic!("a trunk") };
    assert_eq!(all.len(), 1);
    assert_eq!(tables.port(all[0]).unwrap().name, "vxlan:mesh/239.1.1.1");
}

const STATIC: &str = r#"
[[network.mesh.remote]]
ip = "10.9.0.7"
mac = "02:42:0a:09:00:07"
vtep = "192.0.2.11"
[[network.mesh.route]]
subnet = "9.0.2.0/24"
vtep_ip = "44.128.0.3"
vtep_mac = "70:b3:d5:80:00:03"
host = "192.0.2.12"
"#;

#[test]
fn static_entries_become_hosts_and_routes() {
    let config = parse(STATIC);
    let tables = compile(&config, None);
    let network = tables.networks[0].as_ref().unwrap();
    let overlay = network.overlay.as_ref().unwrap();
    assert!(!overlay.learns && network.members.is_empty());
    let mac: MacAddress = "70:b3:d5:80:00:03".parse().unwrap();
    assert_eq!(tables.port(network.by_mac[&mac]).unwrap().name, "vxlan:mesh/192.0.2.12");
    assert_eq!(overlay.hosts[&ip("44.128.0.3")], mac);
    let next = (overlay.trunk, ip("44.128.0.3"));
    assert_eq!(network.beyond(ip("9.0.2.77")), Some(next));
    assert_eq!(network.beyond(ip("10.9.0.7")), Some((overlay.trunk, ip("10.9.0.7"))));
    assert_eq!(network.beyond(ip("10.9.0.8")), None);
    assert_eq!(tables.network_with_subnet_of(ip("9.0.2.77")).unwrap().name, "mesh");
    assert!(tables.network_with_subnet_of(ip("9.0.3.1")).is_none());
    // A remote's address is given to no endpoint.
    assert!(network.by_address.is_empty() && config.networks[0].reserved.len() == 1);
}

#[test]
fn the_resolved_text_of_an_overlay_is_the_same_overlay() {
    let peers = "peers = [\"192.0.2.11\"]\ngroup = \"239.1.1.1\"\ninternal = true\n";
    for rest in [STATIC, peers] {
        let config = parse(rest);
        let text = config.to_toml();
        let again =
            Config::parse("resolved.toml", &text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        assert_eq!(again.to_toml(), text);
        assert_eq!(again.networks[0].overlay, config.networks[0].overlay);
    }
}

#[test]
fn what_stays_keeps_its_ports_and_what_is_equal_is_shared() {
    let running = parse("peers = [\"192.0.2.11\", \"192.0.2.12\"]\n");
    let tables = compile(&running, None);
    let mut next = parse("peers = [\"192.0.2.12\", \"192.0.2.13\"]\n");
    let new = recompile(&running, &tables, &mut next);
    let id = |tables: &Tables, name: &str| {
        tables.ports.iter().flatten().find(|port| port.name == name).unwrap().id
    };
    let stays = "vxlan:mesh/192.0.2.12";
    assert_eq!(id(&new, stays), id(&tables, stays));
    assert!(!names(&new).contains(&"vxlan:mesh/192.0.2.11"));
    let gone = id(&tables, "vxlan:mesh/192.0.2.11");
    assert_ne!(id(&new, "vxlan:mesh/192.0.2.13"), gone, "an id rests for one generation");
    let mut same = next.clone();
    let again = recompile(&next, &new, &mut same);
    assert!(std::sync::Arc::ptr_eq(
        again.networks[0].as_ref().unwrap(),
        new.networks[0].as_ref().unwrap()
    ));
    assert_eq!(again.plan, new.plan);
}

#[test]
fn whatever_is_not_clear_is_refused() {
    let cases: [(&str, &[&str]); 12] = [
        ("", &["network.mesh: an overlay leads to somebody"]),
        (
            "peers = [\"192.0.2.10\"]\n",
            &["network.mesh.peers[0]: 192.0.2.10 is our own end of the tunnel"],
        ),
        (
            "peers = [\"239.1.1.1\"]\n",
            &["network.mesh.peers[0]: 239.1.1.1 is no address of one machine"],
        ),
        (
            "peers = [\"192.0.2.11\", \"192.0.2.11\"]\n",
            &["network.mesh.peers[1]: 192.0.2.11 is a peer already"],
        ),
        (
            "peers = [\"192.0.2.11\"]\nport = 0\n",
            &["network.mesh.port: 0 is out of bounds: 1 to 65535"],
        ),
        (
            "peers = [\"192.0.2.11\"]\ngroup = \"192.0.2.12\"\n",
            &["network.mesh.group: 192.0.2.12 is no multicast address"],
        ),
        ("group = \"239.1.1.1\"\n", &["network.mesh.group: a group has members"]),
        (
            "remote = [{ ip = \"10.8.0.7\", mac = \"02:00:00:00:00:07\", \
             vtep = \"192.0.2.11\" }]\n",
            &["network.mesh.remote[0].ip: 10.8.0.7 is in no subnet of network mesh"],
        ),
        (
            "remote = [{ ip = \"10.9.0.7\", mac = \"02:00:00:00:00:07\" }]\n",
            &["network.mesh.remote[0]: vtep is missing"],
        ),
        (
            "remote = [{ ip = \"10.9.0.7\", mac = \"02:00:00:00:00:07\", vtep = \"192.0.2.11\" },\n\
             { ip = \"10.9.0.8\", mac = \"02:00:00:00:00:07\", vtep = \"192.0.2.12\" }]\n",
            &["network.mesh.remote[1].mac: 02:00:00:00:00:07 is behind 192.0.2.11 already"],
        ),
        (
            "route = [{ subnet = \"10.9.0.0/25\", vtep_ip = \"44.128.0.1\", \
             vtep_mac = \"02:00:00:00:00:07\", host = \"192.0.2.11\" }]\n",
            &["network.mesh.route[0].subnet: 10.9.0.0/25 is in subnet 10.9.0.0/24 of network mesh"],
        ),
        (
            "peers = [\"192.0.2.11\"]\n[network.other]\ndriver = \"overlay\"\nvni = 4097\n\
             subnet = \"10.8.0.0/24\"\npeers = [\"192.0.2.11\"]\n",
            &["network.other: network mesh has vni 4097 at port 4789 already"],
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(refusals(rest), expected, "{rest}");
    }
    let text = START.replace("vni = 4097\n", "") + "peers = [\"192.0.2.11\"]\n";
    assert_eq!(Config::parse("x.toml", &text).unwrap_err()[0].message, "vni is missing");
    for vni in [0, 1 << 24] {
        let text = START.replace("4097", &format!("{vni}")) + "peers = [\"192.0.2.11\"]\n";
        let found = Config::parse("x.toml", &text).unwrap_err();
        assert_eq!(found[0].message, format!("{vni} is out of bounds: 1 to 16777215"));
    }
}

/// A second overlay with the first one's subnet.
fn twin(keys: &str) -> String {
    format!(
        "peers = [\"192.0.2.11\"]\n[network.twin]\ndriver = \"overlay\"\nsubnet = \"10.9.0.0/24\"\n\
         peers = [\"192.0.2.11\"]\n{keys}"
    )
}

#[test]
fn overlays_with_other_identifiers_may_have_the_same_subnet() {
    let config = parse(&twin("vni = 4098\n"));
    let tables = compile(&config, None);
    assert_eq!(tables.networks.len(), 2);
    parse(&twin("vni = 4097\nport = 4790\n"));
    parse(&twin("vni = 4098\nmode = \"routed\"\n"));
    // Beside a bridge, and as a part of another's subnet.
    parse("peers = [\"192.0.2.11\"]\n[network.near]\nsubnet = \"10.9.0.0/25\"\n");
    let overlap = |network: &str| {
        format!(
            "network.{network}.subnet: 10.9.0.0/24 overlaps 10.9.0.0/24 of network mesh, line 9"
        )
    };
    let same = refusals(&twin("vni = 4097\n"));
    assert!(same.contains(&overlap("twin")), "{same:?}");
    // From elsewhere both would be meant.
    let both = format!("mode = \"routed\"\n{}", twin("vni = 4098\nmode = \"nat-unprotected\"\n"));
    assert_eq!(refusals(&both), [overlap("twin")]);
    let both = "[endpoint.web]\nattach = { netns = \"web\" }\n\
                network = [{ name = \"mesh\" }, { name = \"twin\" }]\n";
    let found = refusals(&(twin("vni = 4098\n") + both));
    assert!(
        found[0].ends_with("endpoint web is in mesh and twin, whose subnets overlap"),
        "{found:?}"
    );
    let uplink = START.replace("10.9.0.0/24", "192.0.2.0/25") + "peers = [\"192.0.2.200\"]\n";
    assert!(Config::parse("x.toml", &uplink).is_err(), "an uplink's link is not shared");
}

#[test]
fn routed_overlays_share_an_identifier() {
    let route = |subnet: &str, host: &str| {
        format!(
            "gateway_mac = \"70:b3:d5:80:00:01\"\nroute = [{{ subnet = \"{subnet}\", \
             vtep_ip = \"44.128.0.2\", vtep_mac = \"70:b3:d5:80:00:02\", host = \"{host}\" }}]\n"
        )
    };
    let other = "[network.other]\ndriver = \"overlay\"\nvni = 4097\nsubnet = \"10.8.0.0/24\"\n";
    let one = route("9.1.0.0/16", "192.0.2.11");
    let two = one.clone() + other + &route("9.2.0.0/16", "192.0.2.11");
    assert_eq!(parse(&two).networks.len(), 2);
    let macs = two.replacen("80:00:01", "80:00:07", 1);
    assert_eq!(
        refusals(&macs),
        ["network.other: network mesh has vni 4097 too, and the MAC address 70:b3:d5:80:00:07"]
    );
    let elsewhere = one + other + &route("9.1.0.0/16", "192.0.2.12");
    assert_eq!(
        refusals(&elsewhere),
        ["network.other: 9.1.0.0/16 is behind 192.0.2.11 already, by network mesh"]
    );
}

#[test]
fn a_static_translation_says_whose_address_it_is_for() {
    let member = |name: &str, network: &str| {
        format!(
            "[endpoint.{name}]\nattach = {{ netns = \"{name}\" }}\n\
             network = [{{ name = \"{network}\", ip = \"10.9.0.10\" }}]\n"
        )
    };
    let start = START.replace("\"192.0.2.10/24\"", "\"192.0.2.10/24\", \"192.0.2.12/24\"");
    let both = member("one", "mesh") + &member("two", "twin");
    let text = |network: &str| {
        format!(
            "{start}{}{both}[[nat.static]]\ninside = \"10.9.0.10\"\n\
             outside = \"192.0.2.12\"\n{network}",
            twin("vni = 4098\n")
        )
    };
    let found = Config::parse("x.toml", &text("")).unwrap_err();
    assert_eq!(found[0].message, "10.9.0.10 is in mesh and in twin: say which by network");
    let config = Config::parse("x.toml", &text("network = \"twin\"\n")).unwrap();
    let again = Config::parse("y.toml", &config.to_toml()).unwrap();
    assert_eq!(again.outside, config.outside);
    let tables = compile(&config, None);
    let one = tables.nat.statics.by_outside(ip("192.0.2.12")).unwrap();
    assert_eq!(tables.port(one.port).unwrap().name, "two/twin");
    let twin = config.network("twin").unwrap().id;
    let mesh = config.network("mesh").unwrap().id;
    assert!(tables.nat.statics.by_inside(mesh, ip("10.9.0.10")).is_none());
    assert_eq!(tables.nat.statics.by_inside(twin, ip("10.9.0.10")), Some(one));
}
