//! Published ports whose number the file leaves open, on loopback addresses, and in great numbers.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod clock;

use std::time::{Duration, SystemTime};

use clock::cpu_time;
use config::{Config, Leases, compile, recompile};

fn text(publish: &str) -> String {
    format!(
        "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\n\
         addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n\
         [network.front]\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n\
         [endpoint.web]\nattach = {{ netns = \"web\" }}\npublish = [{publish}]\n\
         network = [{{ name = \"front\" }}]\n"
    )
}

fn parse(publish: &str, leases: &Leases) -> Config {
    Config::parse_with("x.toml", &text(publish), leases)
        .unwrap_or_else(|found| panic!("{found:#?}"))
}

/// The host's ports, IPv4 and IPv6 in turn.
fn ports(config: &Config) -> Vec<u16> {
    config.endpoint("web").unwrap().publish.iter().map(|entry| entry.host_port).collect()
}

#[test]
fn what_is_open_is_given_behind_what_is_fixed_with_one_number_for_both_families() {
    let config = parse("\"80\", \"81/udp\", \"32768:82\", \"32769-32770:83\"", &Leases::default());
    // 32768 is fixed for tcp; of the range the lowest is free, as ranges come before the rest.
    assert_eq!(ports(&config), [32_770, 32_770, 32_771, 32_771, 32_768, 32_768, 32_769, 32_769]);
    let resolved = config.to_toml();
    assert!(resolved.contains("0.0.0.0:32770:80/tcp"), "{resolved}");
    let again = Config::parse("y.toml", &resolved).unwrap();
    assert_eq!(again.endpoints, config.endpoints);
}

#[test]
fn what_is_exposed_and_not_published_is_published_where_all_is_to_be() {
    let with = |more: &str| {
        let text = text("\"8080:80\"").replace("network = [", &format!("{more}\nnetwork = ["));
        Config::parse("x.toml", &text).unwrap_or_else(|found| panic!("{found:#?}"))
    };
    let led_to = |config: &Config| -> Vec<(u16, u16, String)> {
        let entries = config.endpoint("web").unwrap().publish.iter();
        let v4 = entries.filter(|entry| entry.target.is_ipv4());
        v4.map(|entry| (entry.host_port, entry.target_port, entry.protocol.to_string())).collect()
    };
    let expose = "expose = [\"71/udp\", \"70\", \"80-81\", \"70/tcp\"]";
    let tcp = "tcp".to_owned();
    assert_eq!(led_to(&with(expose)), [(8080, 80, tcp.clone())]);
    let all = led_to(&with(&format!("{expose}\npublish_all = true")));
    let expected = [
        (8080, 80, tcp.clone()),
        (32_768, 70, tcp.clone()),
        (32_769, 71, "udp".to_owned()),
        (32_770, 81, tcp),
    ];
    assert_eq!(all, expected);
    let refused = text("").replace("publish = []", "expose = [\"8080:80\"]");
    let report = Config::parse("x.toml", &refused).unwrap_err();
    assert!(format!("{report:?}").contains("invalid port format for --expose: 8080:80"));
}

#[test]
fn a_number_is_kept_while_it_is_free_and_the_next_is_behind_the_last() {
    let mut leases = Leases::default();
    let config = parse("\"80\", \"80\"", &leases);
    assert_eq!(ports(&config), [32_768, 32_768, 32_769, 32_769]);
    leases.follow(&config, SystemTime::UNIX_EPOCH);
    let stored: Leases = toml::from_str(&toml::to_string(&leases).unwrap()).unwrap();
    assert_eq!(stored, leases);
    let config = parse("\"81\", \"80\", \"80\"", &leases);
    assert_eq!(ports(&config)[..], [32_770, 32_770, 32_768, 32_768, 32_769, 32_769]);
    // A fixed number takes it away, wherever it stands.
    let config = parse("\"80\", \"32768:81\"", &leases);
    assert_eq!(ports(&config), [32_770, 32_770, 32_768, 32_768]);
}

#[test]
fn a_port_on_a_loopback_address_is_in_the_tables_and_not_the_uplinks() {
    let config = parse("\"127.0.0.1:8080:80\", \"[::1]::81\"", &Leases::default());
    let publish = compile(&config, None).publish;
    let [v4, v6] = publish.entries() else { panic!("{publish:?}") };
    assert_eq!((v4.host.unwrap().to_string(), v4.host_port), ("127.0.0.1".into(), 8080));
    assert_eq!((v6.host.unwrap().to_string(), v6.host_port), ("::1".into(), 32_768));
    assert!(publish.by_host("192.0.2.10".parse().unwrap(), 6, 8080).is_none());
}

#[test]
fn twenty_thousand_ports_are_published_in_less_than_a_tenth_of_a_second() {
    let mut running = parse("\"8080:80\"", &Leases::default());
    let tables = compile(&running, None);
    config::adopt_ids(&running.clone(), &tables, &mut running);
    let ((), range) = cpu_time(|| {
        let mut next = parse("\"8080:80\", \"20000-39999:20000-39999\"", &Leases::default());
        let tables = recompile(&running, &tables, &mut next);
        assert_eq!(tables.publish.entries().len(), 4);
    });
    println!("a range of 20,000 ports: {range:?}");
    assert!(range < Duration::from_millis(100), "{range:?}");
    let single: Vec<String> = (20_000..40_000).map(|port| format!("\"{port}:80\"")).collect();
    let single = single.join(",");
    let ((), one_by_one) = cpu_time(|| {
        let mut next = parse(&single, &Leases::default());
        let tables = recompile(&running, &tables, &mut next);
        assert_eq!(tables.publish.entries().len(), 40_000);
    });
    println!("20,000 ports one by one: {one_by_one:?}");
}
