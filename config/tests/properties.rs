//! What holds for every config: no input panics, addresses are unique and lowest, a compile beside
//! running tables shares whatever is equal and says the same as a full one.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use config::{Config, Diagnostic, compile};
use engine::Tables;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../examples/two-networks.toml");
const MISTAKES: &str = include_str!("golden/many-errors.toml");

/// Pieces that mean something to the reader, to be thrown into a sound text.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\0",
    "ü",
    "[[",
    "]]",
    "-1",
    "1e400",
    "0xffffffffffffffff",
    "1979-05-27",
    "\"10.1.0.0/0\"",
    "\"::/0\"",
    "true",
    "[endpoint.web]",
    "\"0-65535:0-65535\"",
    "\"999999999999d\"",
];

/// Every diagnostic must be printable and lie in the text.
fn check_diagnostics(text: &str, found: &[Diagnostic]) {
    let lines: Vec<&str> = text.split('\n').collect();
    for diagnostic in found {
        let long = format!("{diagnostic:#}");
        // The column may be that of the last character shown, where the end of the line is meant.
        assert!(long.contains(&format!("x.toml:{}:", diagnostic.line)), "{long}");
        assert!(diagnostic.line >= 1 && diagnostic.line as usize <= lines.len(), "{long}");
        assert!(diagnostic.column >= 1, "{long}");
        let line = lines[diagnostic.line as usize - 1];
        assert!(line.contains(&diagnostic.excerpt.window));
        let column = diagnostic.column as usize - 1;
        let rest: String = line.chars().skip(column).collect();
        assert!(rest.starts_with(&diagnostic.excerpt.text));
        let from = diagnostic.excerpt.offset_bytes;
        assert!(diagnostic.excerpt.window[from..].starts_with(&diagnostic.excerpt.text));
    }
}

fn parse_without_panic(text: &str) {
    match Config::parse("x.toml", text) {
        Ok(config) => {
            check_diagnostics(text, &config.warnings);
            check_tables(&compile(&config, None));
            check_resolved(&config);
        }
        Err(found) => {
            assert!(!found.is_empty(), "a refusal has a reason");
            check_diagnostics(text, &found);
        }
    }
}

/// A resolved config is a config, means the same, and leaves nothing open.
fn check_resolved(config: &Config) {
    let text = config.to_toml();
    let again = Config::parse("resolved.toml", &text)
        .unwrap_or_else(|found| panic!("{}\n{text}", config::render(&found, false)));
    assert_eq!(again.to_toml(), text);
    assert_eq!(again.gateway, config.gateway);
    assert_eq!(again.uplinks, config.uplinks);
    assert_eq!(again.networks, config.networks);
    assert_eq!(again.endpoints, config.endpoints);
    assert_eq!(again.nat, config.nat);
    assert_eq!(again.limits, config.limits);
}

/// Cross references of tables that the engine relies on.
fn check_tables(tables: &Tables) {
    for (index, port) in tables.ports.iter().enumerate() {
        let Some(port) = port else { continue };
        assert_eq!(port.id.index(), index);
        match &port.kind {
            engine::tables::PortKind::Uplink(id) => {
                assert_eq!(tables.uplink(*id).unwrap().port, port.id);
            }
            engine::tables::PortKind::Endpoint(attachment) => {
                let network = tables.network(attachment.network).unwrap();
                assert!(network.members.contains(&port.id));
                assert_eq!(network.by_mac[&attachment.mac], port.id);
                for address in [attachment.ipv4.map(IpAddr::V4), attachment.ipv6.map(IpAddr::V6)] {
                    let Some(address) = address else { continue };
                    assert_eq!(network.by_address[&address], port.id);
                    assert!(network.subnet_of(address).is_some());
                    assert!(!network.is_gateway(address));
                }
            }
            engine::tables::PortKind::Tunnel(_) | engine::tables::PortKind::Lane(_) => {
                unreachable!("these configs have no trunks")
            }
        }
    }
    for network in tables.networks.iter().flatten() {
        assert!(network.members.is_sorted());
        assert_eq!(network.by_mac.len(), network.members.len());
    }
}

/// A small world: which endpoints exist, in which networks, with which addresses fixed.
#[derive(Clone, Debug)]
struct World {
    networks: Vec<(bool, u16)>,
    endpoints: Vec<Vec<(usize, Option<u8>)>>,
    is_published: bool,
}

fn world() -> impl Strategy<Value = World> {
    let networks = prop::collection::vec((any::<bool>(), 1_280u16..9_000), 1..5);
    let member = (0usize..5, prop::option::of(2u8..120));
    let endpoints = prop::collection::vec(prop::collection::vec(member, 1..4), 0..8);
    (networks, endpoints, any::<bool>()).prop_map(|(networks, mut endpoints, is_published)| {
        let mut fixed = HashSet::new();
        for members in &mut endpoints {
            let mut joined = HashSet::new();
            members.iter_mut().for_each(|member| member.0 %= networks.len());
            members.retain(|member| joined.insert(member.0));
            for (network, host) in members {
                *host = host.filter(|host| fixed.insert((*network, *host)));
            }
        }
        World { networks, endpoints, is_published }
    })
}

impl World {
    fn text(&self) -> String {
        let mut text = String::from(
            "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\ngateway = \"192.0.2.1\"\n\
             addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n",
        );
        for (index, (internal, mtu)) in self.networks.iter().enumerate() {
            writeln!(
                text,
                "[network.n{index}]\nsubnets = [\"10.{index}.0.0/24\", \"fd00:{index}::/64\"]\n\
                 internal = {internal}\nmtu = {mtu}"
            )
            .unwrap();
        }
        for (index, members) in self.endpoints.iter().enumerate() {
            writeln!(text, "[endpoint.e{index}]\nattach = {{ netns = \"e{index}\" }}").unwrap();
            if self.is_published && members.iter().any(|member| !self.networks[member.0].0) {
                writeln!(text, "publish = [\"{}:80\"]", 8_000 + index).unwrap();
            }
            for (network, host) in members {
                writeln!(text, "[[endpoint.e{index}.network]]\nname = \"n{network}\"").unwrap();
                if let Some(host) = host {
                    writeln!(text, "ip = \"10.{network}.0.{host}\"").unwrap();
                }
            }
        }
        text
    }

    fn config(&self) -> Config {
        let text = self.text();
        Config::parse("x.toml", &text).unwrap_or_else(|found| panic!("{found:#?}\n{text}"))
    }
}

/// What tables say, apart from epochs and generation, by name instead of by id.
fn meaning(tables: &Tables) -> Vec<String> {
    let port = |id: engine::PortId| tables.port(id).unwrap().name.clone();
    let mut all = Vec::new();
    for network in tables.networks.iter().flatten() {
        let mut members: Vec<String> = network.members.iter().map(|&id| port(id)).collect();
        members.sort();
        let mut addresses: Vec<_> =
            network.by_address.iter().map(|(address, &id)| (address, port(id))).collect();
        addresses.sort();
        all.push(format!(
            "{} {:?} {} {} {members:?} {addresses:?}",
            network.name, network.subnets, network.internal, network.mtu
        ));
    }
    for entry in tables.publish.entries() {
        all.push(format!("{} {} {}", entry.host_port, entry.target, port(entry.port)));
    }
    for port in tables.ports.iter().flatten() {
        all.push(format!("{} {}", port.name, port.mtu));
    }
    let mut routes: Vec<_> =
        tables.routes.iter().map(|route| format!("{} {:?}", route.to, route.via)).collect();
    routes.sort();
    all.extend(routes);
    all.sort();
    all
}

fn all_shared(a: &Tables, b: &Tables) -> bool {
    fn same<T>(a: &[Option<Arc<T>>], b: &[Option<Arc<T>>]) -> bool {
        let same = |(a, b): (&Option<Arc<T>>, &Option<Arc<T>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        a.len() == b.len() && a.iter().zip(b).all(same)
    }
    same(&a.ports, &b.ports)
        && same(&a.networks, &b.networks)
        && same(&a.uplinks, &b.uplinks)
        && Arc::ptr_eq(&a.publish, &b.publish)
        && Arc::ptr_eq(&a.routes, &b.routes)
        && Arc::ptr_eq(&a.nat, &b.nat)
        && Arc::ptr_eq(&a.limits, &b.limits)
}

proptest! {
    #[test]
    fn mutated_configs_do_not_panic(
        base in prop::sample::select(&[EXAMPLE, MISTAKES, TERSE][..]),
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(&PIECES[..])), 1..6),
    ) {
        let mut text = base.to_owned();
        for (place, cut_bytes, piece) in edits {
            let mut from = place.index(text.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            let mut to = (from + cut_bytes).min(text.len());
            while !text.is_char_boundary(to) {
                to += 1;
            }
            text.replace_range(from..to, piece);
        }
        parse_without_panic(&text);
    }

    #[test]
    fn swapped_values_do_not_panic(
        base in prop::sample::select(&[EXAMPLE, TERSE][..]),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        // Whole values that are of the wrong type or make no sense where they stand.
        let mut lines: Vec<String> = base.lines().map(str::to_owned).collect();
        let with_value: Vec<usize> =
            (0..lines.len()).filter(|&index| lines[index].contains(" = ")).collect();
        let (from, to) = (with_value[from.index(with_value.len())],
                          with_value[to.index(with_value.len())]);
        let value = lines[from].split_once('=').unwrap().1.to_owned();
        let key = lines[to].split_once('=').unwrap().0.to_owned();
        lines[to] = format!("{key}={value}");
        parse_without_panic(&lines.join("\n"));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse_without_panic(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn allocated_addresses_are_unique_and_the_lowest_free(world in world()) {
        let config = world.config();
        let mut taken: HashMap<String, HashSet<IpAddr>> = HashMap::new();
        for (index, (_, _)) in world.networks.iter().enumerate() {
            let gateway: IpAddr = format!("10.{index}.0.1").parse().unwrap();
            taken.entry(format!("n{index}")).or_default().insert(gateway);
        }
        for members in &world.endpoints {
            for (network, host) in members {
                if let Some(host) = host {
                    let address: IpAddr = format!("10.{network}.0.{host}").parse().unwrap();
                    let is_new = taken.get_mut(&format!("n{network}")).unwrap().insert(address);
                    prop_assert!(is_new);
                }
            }
        }
        for (endpoint, members) in config.endpoints.iter().zip(&world.endpoints) {
            for (attachment, (_, host)) in endpoint.attachments.iter().zip(members) {
                if host.is_some() {
                    continue;
                }
                let taken = taken.get_mut(&attachment.network).unwrap();
                let network: usize = attachment.network[1..].parse().unwrap();
                let lowest = (1..255)
                    .map(|host| format!("10.{network}.0.{host}").parse::<IpAddr>().unwrap())
                    .find(|address| !taken.contains(address));
                prop_assert_eq!(attachment.ipv4_address().map(IpAddr::V4), lowest);
                taken.extend(lowest);
            }
        }
        check_tables(&compile(&config, None));
    }

    #[test]
    fn an_equal_config_shares_every_part(world in world()) {
        let first = compile(&world.config(), None);
        let second = compile(&world.config(), Some(&first));
        prop_assert_eq!(second.generation, 2);
        prop_assert!(all_shared(&first, &second));
    }

    #[test]
    fn an_incremental_compile_says_the_same_as_a_full_one(
        worlds in prop::collection::vec(world(), 2..5),
    ) {
        let mut running = compile(&worlds[0].config(), None);
        for world in &worlds[1..] {
            let mut config = world.config();
            let next = compile(&config, Some(&running));
            prop_assert_eq!(meaning(&next), meaning(&compile(&config, None)));
            check_tables(&next);
            check_resolved(&config);
            let plan = |tables: &Tables| {
                let networks = tables.networks.iter().flatten();
                networks.map(|network| (network.id, network.subnets.clone())).collect::<Vec<_>>()
            };
            let is_same_plan = plan(&next) == plan(&running);
            prop_assert_eq!(next.plan == running.plan, is_same_plan);
            for port in next.ports.iter().flatten() {
                // A port keeps its id by name, and no id goes straight from one to another.
                let before = running.ports.iter().flatten().find(|old| old.name == port.name);
                prop_assert_eq!(before.map_or(port.id, |old| old.id), port.id);
                if let Some(old) = running.port(port.id) {
                    prop_assert_eq!(&old.name, &port.name);
                    let is_equal = old.kind == port.kind && old.mtu == port.mtu;
                    prop_assert_eq!(is_equal, port.epoch == old.epoch);
                } else {
                    prop_assert_eq!(port.epoch, next.generation);
                }
            }
            config.adopt_ids(&running);
            for endpoint in &config.endpoints {
                for attachment in &endpoint.attachments {
                    let name = format!("{}/{}", endpoint.name, attachment.network);
                    prop_assert_eq!(&next.port(attachment.port).unwrap().name, &name);
                }
            }
            running = next;
        }
    }

    #[test]
    fn a_change_of_one_network_moves_its_epoch_alone(
        world in world(), chosen in any::<prop::sample::Index>(),
    ) {
        let first = compile(&world.config(), None);
        let mut changed = world.clone();
        let chosen = chosen.index(world.networks.len());
        changed.networks[chosen].1 += 1;
        let second = compile(&changed.config(), Some(&first));
        for (index, (old, new)) in first.networks.iter().zip(&second.networks).enumerate() {
            let (old, new) = (old.as_ref().unwrap(), new.as_ref().unwrap());
            prop_assert_eq!(Arc::ptr_eq(old, new), index != chosen);
            prop_assert_eq!(new.epoch, if index == chosen { 2 } else { 1 });
        }
        prop_assert_eq!(first.plan, second.plan);
        prop_assert!(Arc::ptr_eq(&first.routes, &second.routes));
        prop_assert!(Arc::ptr_eq(&first.publish, &second.publish));
        prop_assert!(Arc::ptr_eq(first.uplinks[0].as_ref().unwrap(),
                                 second.uplinks[0].as_ref().unwrap()));
    }
}

/// Everything that a config can say, and not much of it said.
const TERSE: &str = r#"
[gateway]
workers = [3, 1]
api_group = "wheel"
metrics = "[::1]:9478"
[uplink."wan.0"]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway6 = "2001:db8::1"
routes = [{ to = "0.0.0.0/0" }, { to = "198.51.100.0/24", via = "192.0.2.7" }]
[network.pooled]
ipv6 = true
[network."front.end"]
subnets = ["10.1.0.0/24", "fd00:1::/64"]
ip_ranges = ["10.1.0.64/26"]
reserved = ["10.1.0.64/30", "10.1.0.1"]
aux_addresses = { printer = "10.1.0.68", "scanner.1" = "fd00:1::1" }
quarantine = "1m30s"
mac_policy = "random"
[network.back]
subnet = "fd00:2::/64"
internal = true
mtu = 1400
[network.lonely]
driver = "none"
[endpoint.web]
attach = { netns = "web", interface = "lan0", create = true }
publish = ["8080:80", "0.0.0.0:53:53/udp", "[2001:db8::10]:7000-7003:7100-7103"]
[[endpoint.web.network]]
name = "back"
[[endpoint.web.network]]
name = "pooled"
[[endpoint.web.network]]
name = "front.end"
gw_priority = 7
aliases = ["www"]
default_route = ["ipv6"]
[endpoint.vm]
attach = { tap = "tap0" }
[[endpoint.vm.network]]
name = "pooled"
anti_spoofing = false
[[endpoint.vm.network]]
name = "back"
interface = "tap1"
[endpoint.batch]
attach = { netns = "batch", create = true }
[[endpoint.batch.network]]
name = "lonely"
[endpoint.other]
attach = { netns = "other" }
[[endpoint.other.network]]
name = "none"
[endpoint.agent]
[[endpoint.agent.network]]
name = "host"
[nat]
timeouts = { udp = "1h30m" }
[limits]
flows = 1_000
"#;

#[test]
fn a_config_of_everything_resolves_to_itself() {
    let config = Config::parse("x.toml", TERSE).unwrap_or_else(|found| panic!("{found:#?}"));
    check_resolved(&config);
    let text = config.to_toml();
    for line in [
        "[network.\"front.end\"]",
        "subnets = [\"172.17.0.0/16\", \"fd",
        "gateways = [\"10.1.0.2\", \"fd00:1::2\"]",
        "quarantine = \"1m30s\"",
        "\"0.0.0.0:8080:80/tcp\", \"[::]:8080:80/tcp\", \"0.0.0.0:53:53/udp\", \
         \"[2001:db8::10]:7000-7003:7100-7103/tcp\"",
        "default_route = [\"ipv6\"]",
        "attach = { tap = \"tap0\" }",
        "flows_per_port = 1000",
        "# its member has a loopback device and nothing else",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn the_examples_resolve_to_themselves() {
    for text in [EXAMPLE, include_str!("../../examples/minimal.toml")] {
        check_resolved(&Config::parse("x.toml", text).unwrap());
    }
}

#[test]
fn a_part_that_comes_back_has_an_epoch_of_its_own() {
    let with = World {
        networks: vec![(false, 1500)],
        endpoints: vec![vec![(0, None)]],
        is_published: true,
    };
    let without = World { endpoints: vec![], ..with.clone() };
    let first = compile(&with.config(), None);
    let second = compile(&without.config(), Some(&first));
    let third = compile(&with.config(), Some(&second));
    let epoch = |tables: &Tables| {
        let port = tables.ports.iter().flatten().find(|port| port.name == "e0/n0").unwrap();
        port.epoch
    };
    assert_eq!((epoch(&first), epoch(&third)), (1, 3));
    assert_eq!(second.publish.entries().len(), 0);
    assert_eq!((first.publish.epoch, second.publish.epoch, third.publish.epoch), (1, 2, 3));
}
