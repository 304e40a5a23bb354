//! What is given out: addresses, MAC addresses, subnets; what leases change about it, and what not.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use config::{Config, Leases};
use proptest::prelude::*;

fn parse(text: &str, leases: &Leases) -> Config {
    Config::parse_with("x.toml", text, leases).unwrap_or_else(|found| panic!("{found:#?}\n{text}"))
}

fn fresh(text: &str) -> Config {
    parse(text, &Leases::default())
}

fn refused(text: &str, leases: &Leases) -> Vec<String> {
    let found = Config::parse_with("x.toml", text, leases).expect_err("it is to be refused");
    found.iter().map(|one| format!("{one}{}", one.hint.clone().unwrap_or_default())).collect()
}

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(|one| one.to_string()).collect()
}

/// Endpoints of these names in one network, each with its further keys.
fn members(network: &str, names: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, keys) in names {
        writeln!(
            text,
            "[endpoint.{name}]\nattach = {{ netns = \"{name}\" }}\n\
             [[endpoint.{name}.network]]\nname = \"{network}\"\n{keys}"
        )
        .unwrap();
    }
    text
}

/// Address of an endpoint in its first network.
fn ip(config: &Config, endpoint: &str) -> String {
    let attachment = &config.endpoint(endpoint).unwrap().attachments[0];
    attachment.ipv4_address().unwrap().to_string()
}

fn subnets(config: &Config, network: &str) -> Vec<String> {
    let network = config.network(network).unwrap();
    network.subnets.iter().map(|subnet| subnet.prefix.to_string()).collect()
}

const FRONT: &str = "[network.front]\nsubnet = \"10.1.0.0/24\"\n";

#[test]
fn a_leased_address_stays_when_a_lower_one_is_free() {
    let before = fresh(&format!("{FRONT}{}", members("front", &[("a", ""), ("b", "")])));
    let after = format!("{FRONT}{}", members("front", &[("new", ""), ("b", "")]));
    let config = parse(&after, &before.leases());
    assert_eq!((ip(&config, "new"), ip(&config, "b")), ("10.1.0.2".into(), "10.1.0.3".into()));
    assert_eq!(warnings(&config), [""; 0]);
    // Somebody in front of the holder in the file does not displace it.
    let after = format!("{FRONT}{}", members("front", &[("new", ""), ("b", ""), ("a", "")]));
    let config = parse(&after, &before.leases());
    assert_eq!(
        ["new", "b", "a"].map(|name| ip(&config, name)),
        ["10.1.0.4", "10.1.0.3", "10.1.0.2"]
    );
}

#[test]
fn a_fixed_address_wins_over_a_lease_and_the_other_moves_with_a_warning() {
    let before = fresh(&format!("{FRONT}{}", members("front", &[("a", ""), ("b", "")])));
    let names = [("a", ""), ("b", ""), ("c", "ip = \"10.1.0.2\"\n")];
    let config = parse(&format!("{FRONT}{}", members("front", &names)), &before.leases());
    assert_eq!(["a", "b", "c"].map(|name| ip(&config, name)), ["10.1.0.4", "10.1.0.3", "10.1.0.2"]);
    let expected = "x.toml:5:1: warning: endpoint.a.network[0]: endpoint a moves from 10.1.0.2 to \
                    10.1.0.4 in network front: the file gives 10.1.0.2 to endpoint c";
    assert_eq!(warnings(&config), [expected]);
    assert_eq!(config.warnings[0].related[0].line, 17);
    // MAC addresses follow: the fixed one has 02:42 and its address.
    let macs = ["a", "c"].map(|name| config.endpoint(name).unwrap().attachments[0].mac.to_string());
    assert_eq!(macs, ["02:42:0a:01:00:04", "02:42:0a:01:00:02"]);
}

#[test]
fn a_lease_that_no_longer_fits_is_passed_over() {
    let before = fresh(&format!("{FRONT}{}", members("front", &[("a", ""), ("b", "")])));
    let leases = before.leases();
    for front in [
        "[network.front]\nsubnet = \"10.7.0.0/24\"\n",
        "[network.front]\nsubnet = \"10.1.0.0/24\"\nip_range = \"10.1.0.128/25\"\n",
        "[network.front]\nsubnet = \"10.1.0.0/24\"\nreserved = [\"10.1.0.2/31\"]\n",
        "[network.front]\nsubnet = \"10.1.0.0/24\"\n\
         aux_addresses = { x = \"10.1.0.2\", y = \"10.1.0.3\" }\n",
    ] {
        let config = parse(&format!("{front}{}", members("front", &[("a", "")])), &leases);
        assert!(!["10.1.0.2", "10.1.0.3"].contains(&ip(&config, "a").as_str()), "{front}");
    }
    let config = parse(
        &format!(
            "[network.front]\nsubnet = \"10.1.0.0/24\"\ngateway = \"10.1.0.2\"\n{}",
            members("front", &[("a", "")])
        ),
        &leases,
    );
    assert_eq!(ip(&config, "a"), "10.1.0.1");
    assert_eq!(warnings(&config).len(), 1);
}

#[test]
fn a_random_mac_address_is_leased_and_a_fixed_one_wins() {
    let front = format!("{FRONT}mac_policy = \"random\"\n");
    let mac = |config: &Config, name: &str| config.endpoint(name).unwrap().attachments[0].mac;
    let fixed = "mac = \"02:00:00:00:00:07\"\n";
    let before = fresh(&format!("{front}{}", members("front", &[("a", fixed), ("b", "")])));
    let config =
        parse(&format!("{front}{}", members("front", &[("a", ""), ("b", "")])), &before.leases());
    assert_eq!(mac(&config, "a"), mac(&before, "a"));
    let config = parse(
        &format!("{front}{}", members("front", &[("a", ""), ("b", fixed)])),
        &before.leases(),
    );
    assert_ne!(mac(&config, "a"), mac(&config, "b"));
    assert_eq!(mac(&config, "b"), mac(&before, "a"));
}

#[test]
fn what_is_set_aside_is_not_given_out() {
    let text = format!(
        "{FRONT}reserved = [\"10.1.0.1\", \"10.1.0.4/30\"]\n\
         aux_addresses = {{ printer = \"10.1.0.2\" }}\n{}",
        members("front", &[("a", ""), ("b", ""), ("c", "ip = \"10.1.0.5\"\n")])
    );
    let config = fresh(&text);
    assert_eq!(config.network("front").unwrap().subnets[0].gateway.to_string(), "10.1.0.3");
    assert_eq!(["a", "b", "c"].map(|name| ip(&config, name)), ["10.1.0.8", "10.1.0.9", "10.1.0.5"]);
    let taken = text.replace("10.1.0.5\"", "10.1.0.2\"");
    assert_eq!(
        refused(&taken, &Leases::default()),
        ["x.toml:19:6: endpoint.c.network[0].ip: 10.1.0.2 is the address of \
          printer in aux_addresses already"]
    );
}

#[test]
fn short_subnets_are_filled_to_the_last_address() {
    let of = |subnet: &str, names: &[(&str, &str)]| {
        Config::parse(
            "x.toml",
            &format!("[network.n]\nsubnet = \"{subnet}\"\n{}", members("n", names)),
        )
    };
    for (subnet, expected) in [("10.1.0.0/31", "10.1.0.1"), ("fd00::/127", "fd00::1")] {
        let config = of(subnet, &[("a", "")]).unwrap();
        let own = &config.endpoint("a").unwrap().attachments[0];
        let v4 = own.ipv4_address().map(IpAddr::V4);
        let address = v4.or(own.ipv6_address().map(IpAddr::V6)).unwrap();
        assert_eq!(address.to_string(), expected);
        assert!(of(subnet, &[("a", ""), ("b", "")]).is_err());
    }
    for subnet in ["10.1.0.1/32", "fd00::1/128"] {
        assert!(of(subnet, &[]).is_ok());
        let found = of(subnet, &[("a", "")]).unwrap_err();
        assert!(found[0].message.contains("has no free address left in"), "{found:?}");
    }
}

#[test]
fn an_address_that_rests_is_given_when_there_is_no_other() {
    let small = "[network.n]\nsubnet = \"10.1.0.0/30\"\nquarantine = \"1h\"\n";
    let mut leases = Leases::default();
    leases.follow(&fresh(&format!("{small}{}", members("n", &[("a", "")]))), UNIX_EPOCH);
    let other = format!("{small}{}", members("n", &[("b", "")]));
    let expected = "x.toml:6:1: warning: endpoint.b.network[0]: 10.1.0.2 is given to endpoint b \
                    while it rests: network n has no other";
    assert_eq!(warnings(&parse(&other, &leases)), [expected]);
    leases.follow(&fresh(small), UNIX_EPOCH);
    let config = parse(&other, &leases);
    assert_eq!((ip(&config, "b"), warnings(&config)), ("10.1.0.2".into(), vec![expected.into()]));
    leases.expire(UNIX_EPOCH + Duration::from_secs(3_600));
    assert_eq!(warnings(&parse(&other, &leases)), [""; 0]);
    let both = format!("{small}{}", members("n", &[("a", ""), ("b", "")]));
    let expected = "x.toml:11:1: endpoint.b.network[0]: network n has no free address left in \
                    10.1.0.0/30";
    assert_eq!(refused(&both, &leases), [expected]);
}

#[test]
fn an_address_rests_when_its_holder_leaves_the_network_alone() {
    let two = "[network.n]\nsubnet = \"10.1.0.0/24\"\nquarantine = \"1h\"\n\
               [network.m]\nsubnet = \"10.2.0.0/24\"\n";
    let before = fresh(&format!("{two}{}", members("n", &[("a", "")])));
    let text = format!("{two}{}{}", members("m", &[("a", "")]), members("n", &[("b", "")]));
    let config = parse(&text, &before.leases());
    assert_eq!((ip(&config, "a"), ip(&config, "b")), ("10.2.0.2".into(), "10.1.0.3".into()));
}

#[test]
fn networks_without_a_subnet_have_one_of_the_pools() {
    let uplink = "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\n\
                  addresses = [\"172.17.3.1/24\"]\nroutes = [{ to = \"172.18.0.0/24\" }]\n";
    let text = format!(
        "{uplink}[network.a]\n[network.b]\nipv6 = true\n[network.c]\nipv4 = false\nipv6 = true\n\
         [network.d]\nsubnet = \"172.19.0.0/28\"\n\
         [network.e]\nsubnet = \"fd00:5::/64\"\nipv4 = true\n"
    );
    let config = fresh(&text);
    assert_eq!(subnets(&config, "a"), ["172.20.0.0/16"]);
    assert_eq!(subnets(&config, "b")[0], "172.21.0.0/16");
    assert!(subnets(&config, "b")[1].starts_with("fd"));
    assert_eq!(subnets(&config, "c").len(), 1);
    assert_ne!(subnets(&config, "b")[1], subnets(&config, "c")[0]);
    assert_eq!(subnets(&config, "e"), ["fd00:5::/64", "172.22.0.0/16"]);
    let large = fresh(&format!("[gateway]\naddress_pools = \"large\"\n{text}"));
    assert_eq!(subnets(&large, "a"), ["10.0.0.0/24"]);
}

#[test]
fn the_32nd_network_of_dockers_pools_is_refused_in_its_words() {
    let networks: String = (0..32).map(|number| format!("[network.n{number}]\n")).collect();
    let found = refused(&networks, &Leases::default());
    assert_eq!(found.len(), 1);
    let expected =
        "x.toml:32:10: network.n31: all predefined address pools have been fully subnetted";
    assert!(found[0].starts_with(expected), "{found:?}");
    let large = format!("[gateway]\naddress_pools = \"large\"\n{networks}");
    assert_eq!(fresh(&large).networks.len(), 32);
}

#[test]
fn a_network_keeps_its_subnet_until_the_file_gives_it_away() {
    let before = fresh("[network.a]\n[network.b]\nipv6 = true\n");
    let leases = before.leases();
    let config = parse("[network.new]\n[network.b]\nipv6 = true\n[network.a]\n", &leases);
    assert_eq!(subnets(&config, "a"), ["172.17.0.0/16"]);
    assert_eq!(subnets(&config, "b"), subnets(&before, "b"));
    assert_eq!(subnets(&config, "new"), ["172.19.0.0/16"]);
    // An uplink changes the default ULA pool, but not what was given out.
    let uplink =
        "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\naddresses = [\"192.0.2.1/24\"]\n";
    let config = parse(&format!("{uplink}[network.b]\nipv6 = true\n"), &leases);
    assert_eq!(subnets(&config, "b"), subnets(&before, "b"));
    let config = parse("[network.a]\n[network.x]\nsubnet = \"172.17.9.0/24\"\n", &leases);
    assert_eq!(subnets(&config, "a"), ["172.18.0.0/16"]);
    assert_eq!(
        warnings(&config),
        ["x.toml:1:10: warning: network.a: network a moves from 172.17.0.0/16 to 172.18.0.0/16: \
          the file gives 172.17.9.0/24 to network x"]
    );
    // Out of the pools now.
    let small = "[gateway]\naddress_pools = [{ base = \"10.0.0.0/8\", size = 20 }]\n[network.a]\n";
    assert_eq!(subnets(&parse(small, &leases), "a"), ["10.0.0.0/20"]);
}

#[test]
fn an_endpoint_may_give_a_vm_several_taps() {
    let text = format!(
        "{FRONT}[network.back]\nsubnet = \"10.2.0.0/24\"\n\
         [endpoint.vm]\nattach = {{ tap = \"tap0\" }}\n\
         [[endpoint.vm.network]]\nname = \"front\"\n\
         [[endpoint.vm.network]]\nname = \"back\"\ninterface = \"tap1\"\n"
    );
    let config = fresh(&text);
    let vm = config.endpoint("vm").unwrap();
    assert_eq!(vm.attach, config::Attach::Tap);
    let names: Vec<&str> = vm.attachments.iter().map(|own| own.interface.as_str()).collect();
    assert_eq!(names, ["tap0", "tap1"]);
}

/// What an operator of ten thousand containers writes: all allocated, every hundredth fixed.
fn ten_thousand() -> String {
    let mut text = String::from(
        "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\naddresses = [\"192.0.2.10/24\"]\n\
         [network.front]\nsubnets = [\"10.1.0.0/16\", \"fd00:1::/64\"]\nquarantine = \"1h\"\n",
    );
    for number in 0..10_000u16 {
        let [high, low] = number.to_be_bytes();
        let fixed = format!("ip = \"10.1.{}.{low}\"\n", high + 100);
        let fixed = if number % 100 == 1 { fixed } else { String::new() };
        let keys = format!("publish = [\"{}:80\"]\n", 20_000 + number);
        let name = format!("e{number}");
        write!(
            text,
            "[endpoint.{name}]\nattach = {{ netns = \"{name}\" }}\n{keys}\
             [[endpoint.{name}.network]]\nname = \"front\"\n{fixed}"
        )
        .unwrap();
    }
    text
}

/// Prints how long each step takes; `cargo test --release -p portolan-config ten_thousand --
/// --nocapture` is the measurement.
#[test]
fn ten_thousand_endpoints_are_given_addresses_and_keep_them() {
    let text = ten_thousand();
    let timed = |what: &str, leases: &Leases| {
        let start = std::time::Instant::now();
        let config = parse(&text, leases);
        println!("{what}: {:?}", start.elapsed());
        config
    };
    let first = timed("first", &Leases::default());
    let mut leases = Leases::default();
    leases.follow(&first, UNIX_EPOCH);
    let again = timed("with leases", &leases);
    assert_eq!(again.endpoints, first.endpoints);
    // All of them go, and come back under their names while their addresses rest.
    leases.follow(&fresh(&text[..text.find("[endpoint").unwrap()]), UNIX_EPOCH);
    let back = timed("with 20,000 addresses in quarantine", &leases);
    let moved = back.endpoints.iter().zip(&first.endpoints).filter(|(new, old)| new != old);
    assert_eq!(moved.count(), 0);
    let start = std::time::Instant::now();
    let resolved = first.to_toml();
    println!("written: {:?}, {} bytes", start.elapsed(), resolved.len());
    assert_eq!(fresh(&resolved).endpoints, first.endpoints);
}

/// Endpoints by number, each with whether its address is fixed.
fn shuffled(order: &[usize], fixed: &[bool]) -> String {
    let names: Vec<(String, String)> = order
        .iter()
        .map(|&number| {
            let ip = format!("ip = \"10.1.0.{}\"\n", 100 + number);
            (format!("e{number}"), if fixed[number] { ip } else { String::new() })
        })
        .collect();
    let names: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    format!("[network.other]\n{FRONT}mac_policy = \"random\"\n{}", members("front", &names))
}

/// Everything that is given out, whatever the order of the file.
fn given(config: &Config) -> BTreeMap<String, String> {
    let endpoints = config.endpoints.iter().map(|endpoint| {
        let own = &endpoint.attachments[0];
        (endpoint.name.clone(), format!("{:?} {}", own.ipv4, own.mac))
    });
    let networks = config.networks.iter();
    let networks = networks.map(|own| (own.name.clone(), format!("{:?}", own.subnets)));
    endpoints.chain(networks).collect()
}

proptest! {
    #[test]
    fn leases_hold_whatever_the_order_of_the_file(
        order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        again in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        fixed in prop::collection::vec(any::<bool>(), 12),
        cut in 0usize..12,
    ) {
        // Some endpoints are new, and some that were fixed are so no longer.
        let before = fresh(&shuffled(&order[..cut], &fixed));
        let after = parse(&shuffled(&again, &[false; 12]), &before.leases());
        prop_assert_eq!(warnings(&after), [""; 0]);
        let (before, after) = (given(&before), given(&after));
        for (name, what) in &before {
            prop_assert_eq!(&after[name], what);
        }
        let mut all: Vec<&String> = after.values().collect();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), after.len());
    }

    #[test]
    fn no_lease_makes_a_good_file_refused(
        addresses in prop::collection::vec((0u8..16, any::<bool>()), 0..24),
        subnet in prop::sample::select(&["10.1.0.0/24", "10.1.0.0/29", "10.1.0.0/30"][..]),
        mac_policy in prop::sample::select(&["derived", "random"][..]),
        subnets in prop::collection::vec((0usize..3, 0usize..6), 0..8),
    ) {
        // As many endpoints as there is room for in the smallest.
        let endpoints = if subnet.ends_with("30") { &["a"][..] } else { &["a", "b"] };
        let endpoints: Vec<(&str, &str)> = endpoints.iter().map(|name| (*name, "")).collect();
        let text = format!(
            "[gateway]\naddress_pools = [{{ base = \"10.9.0.0/23\", size = 24 }}]\n\
             [network.p0]\nipv6 = true\n[network.p1]\n\
             [network.p2]\nsubnet = \"10.8.0.0/24\"\nipv6 = true\n\
             [network.front]\nsubnet = \"{subnet}\"\nquarantine = \"1s\"\n\
             mac_policy = \"{mac_policy}\"\n{}",
            members("front", &endpoints)
        );
        let mut leases = Leases::default();
        for (index, (host, is_quarantined)) in addresses.iter().enumerate() {
            let address = format!("10.1.0.{host}");
            let endpoint = ["a", "b", "gone"][index % 3];
            if *is_quarantined {
                leases.quarantined.entry("front".into()).or_default().push(config::Released {
                    address: address.parse().unwrap(),
                    endpoint: endpoint.into(),
                    until_seconds: u64::MAX,
                });
            } else {
                leases.insert("front", endpoint, config::Lease {
                    ipv4: address.parse().ok(),
                    ipv6: None,
                    mac: "ff:ff:ff:ff:ff:ff".parse().unwrap(),
                });
            }
        }
        const SUBNETS: [&str; 6] = [
            "10.9.0.0/24", "10.9.1.0/24", "10.9.1.0/25", "10.1.0.0/24", "fd00:7::/64",
            "10.8.0.0/24",
        ];
        for (network, subnet) in subnets {
            let leased = leases.subnets.entry(format!("p{network}")).or_default();
            leased.push(SUBNETS[subnet].parse().unwrap());
        }
        let config = parse(&text, &leases);
        let all = config.networks.iter().flat_map(|network| network.subnets.iter());
        let all: Vec<ipnet::IpNet> = all.map(|subnet| subnet.prefix).collect();
        for (index, one) in all.iter().enumerate() {
            let mut others = all[..index].iter();
            prop_assert!(others.all(|other| !one.contains(other) && !other.contains(one)));
        }
        if let Some(b) = config.endpoint("b") {
            let a = &config.endpoint("a").unwrap().attachments[0];
            prop_assert_ne!((a.ipv4, a.mac), (b.attachments[0].ipv4, b.attachments[0].mac));
            prop_assert_ne!(a.ipv4, b.attachments[0].ipv4);
        }
    }
}
