//! What is refused in settings, uplinks and networks, where, and in which words: one line per rule,
//! and a golden file for the look of a report with many errors.

mod base;

use base::{BASE, adding, refusals, replacing};
use config::Config;

#[test]
fn the_base_is_accepted() {
    let config = Config::parse("x.toml", BASE).unwrap();
    assert!(config.warnings.is_empty());
}

/// Whatever one character is missing: where that makes the text no TOML, nothing else is wrong.
#[test]
fn where_syntax_is_wrong_nothing_that_is_right_is_accused() {
    let example = include_str!("../../examples/two-networks.toml");
    let mut broken_count = 0;
    for text in [BASE, example] {
        for (at, _) in text.char_indices().filter(|(_, it)| "\"=[]{},.\n".contains(*it)) {
            let mut broken = text.to_owned();
            broken.remove(at);
            if toml::de::DeTable::parse_recoverable(&broken).1.is_empty() {
                continue;
            }
            broken_count += 1;
            for found in Config::parse("x.toml", &broken).unwrap_err() {
                assert_eq!(found.path, "", "{found} without byte {at} of\n{text}");
            }
        }
    }
    assert!(broken_count > 100, "{broken_count}");
}

#[test]
fn text_that_is_no_toml_is_refused_with_every_place() {
    assert_eq!(
        refusals("a = \nb = 1\nb = 2\nc = [1\n"),
        [
            "x.toml:1:5: string values must be quoted, expected literal string",
            "x.toml:3:1: duplicate key",
            "x.toml:4:7: unclosed array, expected `]`",
        ]
    );
}

#[test]
fn drivers_interfaces_and_addresses_of_uplinks() {
    replacing("driver = \"tap\"\n", "", &["x.toml:1:9: uplink.wan: driver is missing"]);
    replacing(
        "\"tap\"",
        "\"xdp\"\nhost_addresses = [\"192.0.2.1/24\"]\nnetns = \"x\"\ncreate = true",
        &[
            "x.toml:3:18: uplink.wan.host_addresses: host_addresses is for uplinks of driver tap",
            "x.toml:5:10: uplink.wan.create: create is for uplinks of driver tap",
        ],
    );
    replacing(
        "\"tap\"",
        "\"tapp\"",
        &["x.toml:2:10: uplink.wan.driver: unknown word \"tapp\", expected tap, xdp"],
    );
    replacing(
        "\"wan0\"",
        "\"a-much-too-long-name\"",
        &["x.toml:3:13: uplink.wan.interface: interface names have at most 15 bytes, not 20"],
    );
    replacing("interface = \"wan0\"\n", "", &["x.toml:1:9: uplink.wan: interface is missing"]);
    replacing(
        "[\"192.0.2.10/24\", \"2001:db8::10/64\"]",
        "\"host\"",
        &["x.toml:5:11: uplink.wan.gateway: the host is the next hop of what it shares"],
    );
    replacing(
        "addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\ngateway = \"192.0.2.1\"",
        "netns = \"outside\"\naddresses = \"host\"",
        &["x.toml:5:13: uplink.wan.addresses: the host's addresses are shared by an uplink \
             beside the host only"],
    );
    replacing(
        "gateway = \"192.0.2.1\"",
        "netns = \"outside\"\nhost_side = true",
        &["x.toml:6:13: uplink.wan.host_side: the kernel's end is in another namespace"],
    );
    replacing(
        "gateway = \"192.0.2.1\"",
        "link = [\"169.254.1.0/25\", \"fd00::1/64\"]",
        &[
            "x.toml:5:9: uplink.wan.link[0]: 169.254.1.0/25 is neither an IPv4 /24 nor an IPv6 /64",
            "x.toml:5:27: uplink.wan.link[1]: fd00::1/64 has host bits set",
        ],
    );
    replacing(
        "gateway = \"192.0.2.1\"",
        "host_side = false\nlink = [\"169.254.1.0/24\"]",
        &["x.toml:6:8: uplink.wan.link: an uplink without host_side has no link with the host"],
    );
    replacing(
        "192.0.2.10/24",
        "192.0.2.10",
        &["x.toml:4:14: uplink.wan.addresses[0]: expected an address with its prefix length, \
         such as \"10.1.0.0/24\", found \"192.0.2.10\""],
    );
    replacing(
        "192.0.2.10/24",
        "192.0.2.0/24",
        &["x.toml:4:14: uplink.wan.addresses[0]: 192.0.2.0 is the network address of 192.0.2.0/24"],
    );
    replacing(
        "\"192.0.2.10/24\"",
        "\"192.0.2.10/24\", \"192.0.2.10/25\"",
        &["x.toml:4:31: uplink.wan.addresses[1]: 192.0.2.10 is an address of the uplink twice"],
    );
}

#[test]
fn next_hops_routes_and_other_keys_of_uplinks() {
    replacing(
        "gateway = \"192.0.2.1\"",
        "relay = true",
        &["x.toml:5:9: uplink.wan.relay: relay is for uplinks of driver xdp"],
    );
    replacing(
        "\"192.0.2.1\"",
        "\"198.51.100.1\"",
        &["x.toml:5:11: uplink.wan.gateway: 198.51.100.1 is in no subnet of the uplink \
         (192.0.2.0/24, 2001:db8::/64)"],
    );
    replacing(
        "\"192.0.2.1\"",
        "\"192.0.2.10\"",
        &["x.toml:5:11: uplink.wan.gateway: 192.0.2.10 is the gateway's own address"],
    );
    replacing(
        "\"192.0.2.1\"",
        "\"2001:db8::1\"",
        &["x.toml:5:11: uplink.wan.gateway: 2001:db8::1 is no IPv4 address"],
    );
    replacing(
        "[network.front]",
        "mtu = 1279\n[network.front]",
        &["x.toml:6:7: uplink.wan.mtu: 1279 is out of bounds: 1280 to 65535 bytes, as it \
             carries IPv6"],
    );
    replacing(
        "[network.front]",
        "create = true\n[network.front]",
        &["x.toml:6:10: uplink.wan.create: there is no netns to create"],
    );
    replacing(
        "[network.front]",
        "routes = [{ to = \"198.51.100.1/24\" }, { via = \"192.0.2.7\" }, \
         { to = \"203.0.113.0/24\", via = \"fe80::1\" }, { to = \"0.0.0.0/0\" }]\n[network.front]",
        &[
            "x.toml:6:18: uplink.wan.routes[0].to: 198.51.100.1/24 has host bits set",
            "x.toml:6:39: uplink.wan.routes[1]: to is missing",
            "x.toml:6:93: uplink.wan.routes[2].via: fe80::1 is not of the family of 203.0.113.0/24",
            "x.toml:6:113: uplink.wan.routes[3].to: there is a route to 0.0.0.0/0 already",
        ],
    );
    adding(
        "[uplink.lan]\ndriver = \"tap\"\ninterface = \"lan0\"\naddresses = [\"192.0.2.10/24\"]\n",
        &["x.toml:25:14: uplink.lan.addresses[0]: 192.0.2.0/24 overlaps 192.0.2.0/24 of uplink \
             wan, line 4"],
    );
    let shared = "\"host\"\n[uplink.lan]\ndriver = \"tap\"\ninterface = \"lan0\"\n\
                  addresses = \"host\"\n#";
    replacing(
        "[\"192.0.2.10/24\", \"2001:db8::10/64\"]\ngateway",
        shared,
        &["x.toml:5:9: uplink.lan: uplink wan shares the host's addresses already"],
    );
    adding(
        "[uplink.lan]\ndriver = \"tap\"\ninterface = \"wan0\"\naddresses = [\"198.51.100.1/24\"]\n",
        &["x.toml:24:13: uplink.lan.interface: interface wan0 is taken in the gateway's own \
             namespace by uplink.wan.interface, line 3"],
    );
}

#[test]
fn drivers_of_networks() {
    adding(
        "[network.x]\ndriver = \"brigde\"\n",
        &["x.toml:23:10: network.x.driver: unknown word \"brigde\", expected bridge, \
             overlay, macvlan, ipvlan, none, host"],
    );
    adding(
        "[network.x]\nsubnets = []\n",
        &["x.toml:23:11: network.x.subnets: a network has at least one subnet"],
    );
}

#[test]
fn subnets_of_networks() {
    replacing(
        "\"10.2.0.0/24\"",
        "\"10.2.0.1/24\"",
        &["x.toml:9:10: network.back.subnet: 10.2.0.1/24 has host bits set"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"10.1.0.128/25\"",
        &["x.toml:9:10: network.back.subnet: 10.1.0.128/25 overlaps 10.1.0.0/24 of network \
             front, \
         line 7"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"192.0.0.0/16\"",
        &["x.toml:9:10: network.back.subnet: 192.0.0.0/16 overlaps 192.0.2.0/24 of uplink wan, \
             line 4"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"fe80::/64\"",
        &["x.toml:9:10: network.back.subnet: fe80::/64 overlaps fe80::/10, which is link-local"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"10.2.0.0/33\"",
        &["x.toml:9:10: network.back.subnet: expected an address with its prefix length, \
         such as \"10.1.0.0/24\", found \"10.2.0.0/33\""],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"10.2.0.0/32\"",
        &[
            "x.toml:16:1: endpoint.web.network[1]: network back has no free address left in \
             10.2.0.0/32",
            "x.toml:20:1: endpoint.db.network[0]: network back has no free address left in \
             10.2.0.0/32",
        ],
    );
    replacing(
        "\"10.2.0.0/24\"",
        "\"10.2.0.0/24\"\nsubnets = [\"10.3.0.0/24\"]",
        &["x.toml:10:11: network.back.subnets: subnet and subnets exclude each other"],
    );
}

#[test]
fn gateways_and_ranges_of_networks() {
    let with = |key: &str| format!("\"10.2.0.0/24\"\n{key}");
    replacing(
        "\"10.2.0.0/24\"",
        &with("gateway = \"10.3.0.1\""),
        &["x.toml:10:11: network.back.gateway: 10.3.0.1 is outside of network back's subnets \
         (10.2.0.0/24)"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("gateway = \"10.2.0.255\""),
        &["x.toml:10:11: network.back.gateway: 10.2.0.255 is the broadcast address of 10.2.0.0/24"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("gateways = [\"10.2.0.1\", \"10.2.0.2\"]"),
        &["x.toml:10:25: network.back.gateways[1]: 10.2.0.0/24 has the gateway 10.2.0.1 already"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("ip_range = \"10.2.0.0/16\""),
        &["x.toml:10:12: network.back.ip_range: 10.2.0.0/16 is larger than its subnet 10.2.0.0/24"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("ip_range = \"10.2.0.8/24\""),
        &["x.toml:10:12: network.back.ip_range: 10.2.0.8/24 has host bits set"],
    );
}

#[test]
fn behaviour_of_networks() {
    let with = |key: &str| format!("\"10.2.0.0/24\"\n{key}");
    replacing(
        "\"10.2.0.0/24\"",
        &with("mtu = 70000"),
        &["x.toml:10:7: network.back.mtu: 70000 is out of bounds: 576 to 65535 bytes"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("mode = \"isolated\""),
        &["x.toml:10:8: network.back.mode: gateway mode 'isolated' can only be used for an \
             internal \
             network"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("mac_policy = \"randm\""),
        &["x.toml:10:14: network.back.mac_policy: unknown word \"randm\", expected derived, \
             random"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("uplink = \"lan\""),
        &["x.toml:10:10: network.back.uplink: there is no uplink \"lan\""],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("uplink = \"wan\"\ninternal = true"),
        &["x.toml:10:10: network.back.uplink: an internal network has no uplink"],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("mss_clamp = \"of\"\npeers = []"),
        &[
            "x.toml:10:13: network.back.mss_clamp: unknown word \"of\", expected \"auto\", \"off\" \
             or a number of bytes",
            "x.toml:11:9: network.back.peers: only an overlay has such a key",
        ],
    );
    replacing(
        "\"10.2.0.0/24\"",
        &with("mss_clamp = 535"),
        &["x.toml:10:13: network.back.mss_clamp: 535 is out of bounds: 536 to 65495 bytes"],
    );
    replacing(
        "[network.back]",
        "[network.\"b k\"]",
        &[
            "x.toml:8:10: network.\"b k\": \"b k\" is no name: use letters, digits, _, . and -, \
         a letter or digit first",
            "x.toml:17:8: endpoint.web.network[1].name: there is no network \"back\"",
            "x.toml:21:8: endpoint.db.network[0].name: there is no network \"back\"",
        ],
    );
}

#[test]
fn settings() {
    adding(
        "[gateway]\nworkers = []\nidle = \"lazy\"\nstate = \"lib\"\nmetrics = \"9478\"\n",
        &[
            "x.toml:23:11: gateway.workers: there are 1 to 64 workers",
            "x.toml:24:8: gateway.idle: unknown word \"lazy\", expected busy, adaptive, interrupt",
            "x.toml:25:9: gateway.state: expected an absolute path, found \"lib\"",
            "x.toml:26:11: gateway.metrics: expected an address and a port, found \"9478\"",
        ],
    );
    adding(
        "[gateway]\nworkers = [0, 1, 0, -1, \"a\"]\n",
        &[
            "x.toml:23:18: gateway.workers[2]: CPU 0 is in the list already",
            "x.toml:23:21: gateway.workers[3]: -1 is out of bounds: 0 to 1023",
            "x.toml:23:25: gateway.workers[4]: expected a whole number, found text",
        ],
    );
    adding(
        "[gateway]\nworkers = 65\n",
        &["x.toml:23:11: gateway.workers: there are 1 to 64 workers"],
    );
    adding(
        "[nat]\nfiltering = \"nobody\"\nports = \"80-90\"\n\
            timeouts = { udp = \"5\", icmp = \"9d\", tpc = 1 }\n",
        &[
            "x.toml:23:13: nat.filtering: unknown word \"nobody\", expected address-and-port, \
             address, endpoint",
            "x.toml:24:9: nat.ports: masquerade takes at least 1024 ports, all of them from 1024 \
             up",
            "x.toml:25:20: nat.timeouts.udp: expected a duration, such as \"2h4m\" or \"90s\", \
         found \"5\"",
            "x.toml:25:32: nat.timeouts.icmp: idle times are from 1 second to 5 days",
            "x.toml:25:38: nat.timeouts.tpc: unknown key",
        ],
    );
    adding(
        "[limits]\nflows = 100\nflows_per_port = 101\nfdb = 0\n",
        &[
            "x.toml:24:18: limits.flows_per_port: 101 is more than limits.flows, which is 100",
            "x.toml:25:7: limits.fdb: 0 is out of bounds: 1 to 16777216",
        ],
    );
    adding(
        "[[import]]\npath = 1979-05-27\n",
        &[
            "x.toml:22:1: import[0]: dialect is missing",
            "x.toml:23:8: import[0].path: expected text, found a date",
        ],
    );
}

#[test]
fn numbers_with_a_sign_are_no_ports_and_no_mac_addresses() {
    adding(
        "[nat]\nports = \"+32768-65535\"\n",
        &["x.toml:23:9: nat.ports: expected a range of ports, such as \"32768-65535\", found \
           \"+32768-65535\""],
    );
    replacing(
        "subnet = \"10.2.0.0/24\"",
        "subnet = \"10.2.0.0/24\"\ngateway_mac = \"02:42:+1:00:00:01\"",
        &["x.toml:10:15: network.back.gateway_mac: expected a MAC address, such as \
           \"02:42:0a:01:00:0a\", found \"02:42:+1:00:00:01\""],
    );
}

#[test]
fn a_short_timeout_is_only_a_warning() {
    let text = format!("{BASE}[nat]\ntimeouts = {{ udp = \"30s\" }}\n");
    let config = Config::parse("x.toml", &text).unwrap();
    assert_eq!(config.nat.timeouts.udp.as_secs(), 30);
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["x.toml:23:20: warning: nat.timeouts.udp: shorter than RFC 4787 REQ-5 asks for, 120 s"]
    );
    for (key, rule, least) in [
        ("tcp_established", "RFC 5382 REQ-5", 7_440),
        ("tcp_transitory", "RFC 5382 REQ-5", 240),
        ("tcp_opening", "RFC 5382 REQ-5", 240),
        ("tcp_closing", "RFC 5382 REQ-5", 240),
        ("tcp_reset", "RFC 7857 section 2.2", 240),
        ("icmp", "RFC 5508 REQ-2", 60),
    ] {
        let warned = |seconds: u64| {
            let text = format!("{BASE}[nat]\ntimeouts = {{ {key} = \"{seconds}s\" }}\n");
            let config = Config::parse("x.toml", &text).unwrap();
            config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(warned(least), [""; 0], "{key}");
        let warning = format!("nat.timeouts.{key}: shorter than {rule} asks for, {least} s");
        assert!(warned(least - 1)[0].ends_with(&warning), "{:?}", warned(least - 1));
    }
    let both =
        format!("{BASE}[nat]\ntimeouts = {{ tcp_transitory = \"5m\", tcp_closing = \"6m\" }}\n");
    let timeouts = Config::parse("x.toml", &both).unwrap().nat.timeouts;
    assert_eq!((timeouts.tcp_opening.as_secs(), timeouts.tcp_closing.as_secs()), (300, 360));
}

#[test]
fn subnets_of_the_pools() {
    adding(
        "[gateway]\naddress_pools = \"huge\"\n[network.x]\nsubnets = []\n\
         [network.y]\nipv4 = false\n[network.z]\nsubnet = \"10.9.0.0/24\"\nipv4 = false\n",
        &[
            "x.toml:23:17: gateway.address_pools: unknown word \"huge\", expected docker, large",
            "x.toml:25:11: network.x.subnets: a network has at least one subnet",
            "x.toml:27:8: network.y.ipv4: IPv4 or IPv6 must be enabled",
            "x.toml:30:8: network.z.ipv4: ipv4 is false, but 10.9.0.0/24 is a subnet",
        ],
    );
    adding(
        "[gateway]\naddress_pools = [{ base = \"10.9.0.0/16\", size = 8 }, { size = 24 },\n\
         { base = \"10.8.0.1/16\", size = 24 }, { base = \"fd00:9::/48\", size = 64 },\n\
         { base = \"fd00:9::/56\", size = 64 }]\n",
        &[
            "x.toml:23:49: gateway.address_pools[0].size: 8 is out of bounds: 16 to 32, as the \
             base is 10.9.0.0/16",
            "x.toml:23:54: gateway.address_pools[1]: base is missing",
            "x.toml:24:10: gateway.address_pools[2].base: 10.8.0.1/16 has host bits set",
            "x.toml:25:10: gateway.address_pools[4].base: fd00:9::/56 overlaps the pool \
             fd00:9::/48",
        ],
    );
    adding(
        "[gateway]\naddress_pools = [{ base = \"10.2.0.0/23\", size = 24 }]\n\
         [network.x]\n[network.y]\n",
        &["x.toml:25:10: network.y: all predefined address pools have been fully subnetted"],
    );
    adding(
        "[network.x]\ngateway = \"172.17.0.1\"\n[[endpoint.db.network]]\nname = \"x\"\n\
         ip = \"172.17.0.9\"\n",
        &[
            "x.toml:23:11: network.x.gateway: 172.17.0.1 is in no subnet that the file gives \
             network x",
            "x.toml:26:6: endpoint.db.network[1].ip: 172.17.0.9 cannot be given: 172.17.0.0/16 of \
             network x is of the pools",
        ],
    );
}

#[test]
fn more_pools_than_anybody_writes_are_refused() {
    let pools: Vec<String> = (0..1_002)
        .map(|number| {
            format!("{{ base = \"10.{}.{}.0/24\", size = 24 }}", number / 256, number % 256)
        })
        .collect();
    let found = refusals(&format!("[gateway]\naddress_pools = [{}]\n", pools.join(", ")));
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("address_pools[1000]: there are at most 1000 pools"), "{found:?}");
}

#[test]
fn addresses_that_are_set_aside() {
    replacing(
        "subnet = \"10.2.0.0/24\"",
        "subnet = \"10.2.0.0/24\"\n\
         reserved = [\"10.2.0.5/30\", \"10.3.0.0/24\", \"10.0.0.0/8\", 7]\n\
         gateway = \"10.2.0.1\"\n\
         aux_addresses = { a = \"10.2.0.1\", b = \"10.2.0.9\", c = \"10.2.0.9\", \
         d = \"10.4.0.1\" }",
        &[
            "x.toml:10:13: network.back.reserved[0]: 10.2.0.5/30 has host bits set",
            "x.toml:10:28: network.back.reserved[1]: 10.3.0.0 is outside of network back's \
             subnets (10.2.0.0/24)",
            "x.toml:10:43: network.back.reserved[2]: 10.0.0.0 is outside of network back's \
             subnets (10.2.0.0/24)",
            "x.toml:10:57: network.back.reserved[3]: expected an address or a prefix, such as \
             \"10.1.0.5\" or \"10.1.0.64/26\", found a whole number",
            "x.toml:12:23: network.back.aux_addresses.a: 10.2.0.1 is the address of network back's \
             gateway already",
            "x.toml:12:55: network.back.aux_addresses.c: 10.2.0.9 is an auxiliary address already",
            "x.toml:12:71: network.back.aux_addresses.d: 10.4.0.1 is outside of network back's \
             subnets (10.2.0.0/24)",
        ],
    );
    replacing(
        "subnet = \"10.2.0.0/24\"",
        "subnet = \"10.2.0.0/30\"\naux_addresses = { printer = \"10.2.0.3\" }",
        &[
            "x.toml:10:29: network.back.aux_addresses.printer: 10.2.0.3 is the broadcast \
           address of 10.2.0.0/30",
            "x.toml:21:1: endpoint.db.network[0]: network back has no free address left in \
           10.2.0.0/30",
        ],
    );
}

#[test]
fn mac_addresses_of_uplinks_and_gateways() {
    replacing(
        "gateway = \"192.0.2.1\"\n",
        "mac = \"02:00:00:00:00:01\"\nhost_mac = \"02:00:00:00:00:01\"\n",
        &["x.toml:6:12: uplink.wan.host_mac: both ends of the uplink have the MAC address \
           02:00:00:00:00:01"],
    );
    replacing(
        "subnet = \"10.2.0.0/24\"",
        "subnet = \"10.2.0.0/24\"\ngateway_mac = \"01:00:5e:00:00:01\"",
        &["x.toml:10:15: network.back.gateway_mac: 01:00:5e:00:00:01 is no address of a single \
           station"],
    );
}

#[test]
fn settings_of_the_daemon_that_make_no_sense() {
    adding(
        "[gateway]\nwatch = \"yes\"\napi_group = \"the wheel\"\nlog = \"xml\"\n",
        &[
            "x.toml:23:9: gateway.watch: expected a boolean, found text",
            "x.toml:24:13: gateway.api_group: \"the wheel\" is no name of a group",
            "x.toml:25:7: gateway.log: unknown word \"xml\", expected text, json",
        ],
    );
    replacing(
        "subnet = \"10.2.0.0/24\"",
        "subnet = \"10.2.0.0/24\"\nquarantine = \"8d\"",
        &["x.toml:10:14: network.back.quarantine: released addresses rest for 7 days at most"],
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let found = Config::load(std::path::Path::new("no/such/file.toml")).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "no/such/file.toml: cannot read: No such file or directory (os error 2)"
    );
}

/// To take a wanted change over, run with `UPDATE_GOLDEN=1` and read the difference.
#[test]
fn a_report_looks_as_in_the_golden_file() {
    ["many-errors", "broken-values", "broken-headers"].into_iter().for_each(assert_golden);
}

fn assert_golden(name: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = format!("{name}.toml");
    let text = std::fs::read_to_string(folder.join(&file)).expect("a file of the golden folder");
    let found = Config::parse(&file, &text).expect_err("it is full of mistakes");
    let report = config::render(&found, false);
    let golden = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &report).expect("the golden folder can be written");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    // The first line that differs says more than both texts.
    let different =
        report.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!(different, None);
    assert_eq!(report.len(), expected.len());
}
