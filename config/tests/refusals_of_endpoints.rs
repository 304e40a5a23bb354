//! What is refused in endpoints, where, and in which words: one line per rule.

mod base;

use base::{BASE, adding, refusals, replaced, replacing};
use config::{Attach, Config, NetworkDriver};

#[test]
fn attaching_of_endpoints() {
    replacing(
        "attach = { netns = \"db\" }\n",
        "",
        &["x.toml:18:11: endpoint.db: attach is missing"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{}",
        &["x.toml:19:10: endpoint.db.attach: neither netns nor tap nor xdp is given"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ netns = \"db\", tap = \"tap0\" }",
        &["x.toml:19:10: endpoint.db.attach: netns, tap and xdp exclude each other"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ tap = \"tap0\", interface = \"tap1\", create = true }",
        &[
            "x.toml:19:38: endpoint.db.attach.interface: interface is for endpoints in a namespace",
            "x.toml:19:55: endpoint.db.attach.create: create is for endpoints in a namespace",
        ],
    );
    replacing(
        "{ netns = \"web\" }",
        "{ tap = \"wan0\" }",
        &[
            "x.toml:13:1: endpoint.web.network[0]: interface wan0 is taken in the gateway's own \
             namespace by uplink.wan.interface, line 3",
            "x.toml:16:1: endpoint.web.network[1]: interface is missing",
        ],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ xdp = \"veth0\", create = true }",
        &["x.toml:19:36: endpoint.db.attach.create: create is for endpoints in a namespace"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ netns = \"web\" }",
        &["x.toml:20:1: endpoint.db.network[0]: interface eth0 is taken in namespace web by \
         endpoint.web.network[0], line 13"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ netns = \"../db\" }",
        &["x.toml:19:20: endpoint.db.attach.netns: \"../db\" is no namespace name: \
         a name below /run/netns has no /"],
    );
    replacing(
        "{ netns = \"db\" }",
        "{ netns = \"db\", interface = \"a/b\" }",
        &["x.toml:19:38: endpoint.db.attach.interface: \"a/b\" is no interface name: \
         blanks, /, :, % and . alone are excluded"],
    );
}

#[test]
fn addresses_of_endpoints() {
    replacing(
        "ip = \"10.1.0.10\"",
        "ip = \"10.1.1.5\"",
        &["x.toml:15:6: endpoint.web.network[0].ip: 10.1.1.5 is outside of network front's \
             subnets \
         (10.1.0.0/24)"],
    );
    replacing(
        "ip = \"10.1.0.10\"",
        "ip = \"fd00:1::10\"",
        &["x.toml:15:6: endpoint.web.network[0].ip: fd00:1::10 is no IPv4 address"],
    );
    replacing(
        "ip = \"10.1.0.10\"",
        "ip = \"10.1.0.1\"",
        &["x.toml:15:6: endpoint.web.network[0].ip: 10.1.0.1 is the address of network front's \
         gateway already"],
    );
    replacing(
        "ip = \"10.1.0.10\"",
        "ip = \"10.1.0.255\"",
        &["x.toml:15:6: endpoint.web.network[0].ip: 10.1.0.255 is the broadcast address of \
             10.1.0.0/24"],
    );
    adding(
        "ip6 = \"fd00:2::9\"\n",
        &["x.toml:22:7: endpoint.db.network[0].ip6: network back has no IPv6 subnet"],
    );
    adding(
        "[[endpoint.db.network]]\nname = \"front\"\nip = \"10.1.0.10\"\n",
        &["x.toml:24:6: endpoint.db.network[1].ip: 10.1.0.10 is the address of endpoint web \
             already"],
    );
}

#[test]
fn memberships_and_mac_addresses_of_endpoints() {
    adding(
        "[[endpoint.db.network]]\nname = \"back\"\n",
        &["x.toml:23:8: endpoint.db.network[1].name: endpoint db is in network back twice"],
    );
    adding(
        "[[endpoint.db.network]]\nname = \"bakc\"\n",
        &["x.toml:23:8: endpoint.db.network[1].name: there is no network \"bakc\""],
    );
    adding(
        "[[endpoint.db.network]]\nname = \"host\"\n",
        &[
            "x.toml:19:10: endpoint.db.attach: an endpoint of a host network is attached to \
             nothing",
            "x.toml:20:1: endpoint.db.network[0]: endpoint db cannot be in another network, as \
             network host is of driver host",
        ],
    );
    adding(
        "[[endpoint.db.network]]\nip = \"10.1.0.7\"\n",
        &["x.toml:22:1: endpoint.db.network[1]: name is missing"],
    );
    adding(
        "mac = \"03:42:0a:02:00:03\"\n",
        &["x.toml:22:7: endpoint.db.network[0].mac: 03:42:0a:02:00:03 is no address of a single \
         station"],
    );
    adding(
        "mac = \"02:42:0a:02:00:01\"\n",
        &["x.toml:22:7: endpoint.db.network[0].mac: 02:42:0a:02:00:01 is the MAC address of \
         network back's gateway in network back already"],
    );
    adding(
        "mac = \"02-42-0a-02-00-01\"\n",
        &["x.toml:22:7: endpoint.db.network[0].mac: expected a MAC address, \
         such as \"02:42:0a:01:00:0a\", found \"02-42-0a-02-00-01\""],
    );
    adding(
        "aliases = [\"ok\", \"not ok\"]\ngw_priority = 3000000000\n",
        &[
            "x.toml:22:18: endpoint.db.network[0].aliases[1]: \"not ok\" is no name: \
         use letters, digits, _, . and -, a letter or digit first",
            "x.toml:23:15: endpoint.db.network[0].gw_priority: 3000000000 is out of bounds: \
         -2147483648 to 2147483647",
        ],
    );
    adding(
        "[endpoint.lone]\nattach = { netns = \"lone\" }\n",
        &["x.toml:22:11: endpoint.lone: endpoint lone is in no network"],
    );
}

#[test]
fn published_ports() {
    let publish = |specs: &str, expected: &[&str]| {
        replacing("[\"8080:80\"]", &format!("[{specs}]"), expected);
    };
    publish("\"80:80/foo\"", &["x.toml:12:12: endpoint.web.publish[0]: invalid proto: foo"]);
    publish(
        "\"8080:80\", \"8080-8080:81\"",
        &["x.toml:12:23: endpoint.web.publish[1]: Bind for 0.0.0.0:8080 failed: port is already \
         allocated"],
    );
    publish(
        "\"8080-8081:80-81\", \"127.0.0.1:8080-8081:82\"",
        &["x.toml:12:31: endpoint.web.publish[1]: all ports are allocated"],
    );
    publish(
        "\"127.0.0.1:8080:80\", \"8080:81\"",
        &["x.toml:12:33: endpoint.web.publish[1]: Bind for 0.0.0.0:8080 failed: port is already \
         allocated"],
    );
    publish(
        "\"8080:80\", \"8080:81\"",
        &["x.toml:12:23: endpoint.web.publish[1]: Bind for 0.0.0.0:8080 failed: port is already \
         allocated"],
    );
    publish(
        "\"192.0.2.10:8080:80\", \"8000-8100:80-180\"",
        &["x.toml:12:34: endpoint.web.publish[1]: Bind for 0.0.0.0:8080 failed: port is already \
         allocated"],
    );
    publish(
        "\"[2001:db8::10]:80:80\", \"[::]:80:80\"",
        &["x.toml:12:36: endpoint.web.publish[1]: Bind for [::]:80 failed: port is already \
             allocated"],
    );
    // Beside the host, only the running gateway knows the host's addresses.
    let beside = replaced("\"8080:80\"", "\"192.0.2.11:8080:80\", \"127.0.0.1:8081:80\"");
    assert!(config::Config::parse("x.toml", &beside).is_ok());
    let away = beside.replace("gateway =", "netns = \"outside\"\ngateway =");
    assert_eq!(
        refusals(&away),
        ["x.toml:13:12: endpoint.web.publish[0]: 192.0.2.11 is not an address of an uplink"]
    );
    adding(
        "[endpoint.x]\nattach = { netns = \"x\" }\npublish = [\"[::]:99:99/sctp\"]\n\
            [[endpoint.x.network]]\nname = \"back\"\n",
        &["x.toml:24:12: endpoint.x.publish[0]: endpoint x has no IPv6 address in a network with \
         a way out"],
    );
}

#[test]
fn ports_that_do_not_meet_do_not_clash() {
    for specs in [
        "\"80:80\", \"80:80/udp\"",
        "\"0.0.0.0:80:80\", \"[::]:80:80\"",
        "\"80-89:80-89\", \"90:90\"",
        "\"192.0.2.10:80:80\", \"[2001:db8::10]:80:80\"",
    ] {
        let text = replaced("[\"8080:80\"]", &format!("[{specs}]"));
        Config::parse("x.toml", &text).unwrap_or_else(|found| panic!("{specs}: {found:?}"));
    }
}

#[test]
fn networks_without_addresses_have_no_keys_of_bridges() {
    adding(
        "[network.x]\ndriver = \"none\"\nsubnet = \"10.9.0.0/24\"\nvni = 7\n",
        &[
            "x.toml:24:10: network.x.subnet: a network of driver none has no such key",
            "x.toml:25:7: network.x.vni: only an overlay has such a key",
        ],
    );
    adding(
        "[endpoint.alone]\nattach = { tap = \"tap0\" }\n\
         [[endpoint.alone.network]]\nname = \"none\"\nip = \"10.1.0.5\"\n",
        &[
            "x.toml:23:18: endpoint.alone.attach.tap: network none has no devices: the endpoint \
             needs a netns",
            "x.toml:26:6: endpoint.alone.network[0].ip: there is no such key in a network of \
             driver none",
        ],
    );
    adding(
        "[endpoint.alone]\nattach = { netns = \"alone\", interface = \"eth0\" }\n\
         [[endpoint.alone.network]]\nname = \"none\"\n",
        &["x.toml:23:41: endpoint.alone.attach.interface: network none has no devices to name"],
    );
    adding(
        "[endpoint.x]\npublish = [\"80:\"]\n[[endpoint.x.network]]\nname = \"host\"\n",
        &["x.toml:23:12: endpoint.x.publish[0]: no port specified: 80:<empty>"],
    );
}

#[test]
fn networks_without_addresses_are_accepted() {
    let text = format!(
        "{BASE}[endpoint.alone]\nattach = {{ netns = \"alone\", create = true }}\n\
         [[endpoint.alone.network]]\nname = \"none\"\n\
         [endpoint.agent]\npublish = [\"9000:9000\"]\n\
         [[endpoint.agent.network]]\nname = \"host\"\n"
    );
    let config = Config::parse("x.toml", &text).unwrap_or_else(|found| panic!("{found:#?}"));
    let warnings: Vec<String> = config.warnings.iter().map(|one| one.to_string()).collect();
    assert_eq!(
        warnings,
        ["x.toml:27:12: warning: endpoint.agent.publish[0]: discarded: network host is of driver \
          host"]
    );
    let alone = config.endpoint("alone").unwrap();
    assert_eq!((alone.alone_in.as_deref(), alone.attachments.len()), (Some("none"), 0));
    assert!(matches!(&alone.attach, Attach::Netns { create: true, .. }));
    let agent = config.endpoint("agent").unwrap();
    assert_eq!(agent.attach, Attach::Host);
    assert_eq!(config.network("host").unwrap().driver, NetworkDriver::Host);
    let tables = config::compile(&config, None);
    assert_eq!(tables.ports.iter().flatten().count(), 4);
}

#[test]
fn default_routes_that_nobody_can_give() {
    replacing(
        "name = \"front\"\n",
        "name = \"front\"\ndefault_route = [\"ipv4\", \"ipx\"]\n",
        &["x.toml:15:26: endpoint.web.network[0].default_route[1]: unknown word \"ipx\", \
           expected ipv4, ipv6"],
    );
    replacing(
        "[[endpoint.web.network]]\nname = \"back\"\n",
        "default_route = [\"ipv4\"]\n[[endpoint.web.network]]\nname = \"back\"\n\
         default_route = [\"ipv4\", \"ipv6\"]\n",
        &[
            "x.toml:19:18: endpoint.web.network[1].default_route[0]: endpoint web has a default \
             route of ipv4 already",
            "x.toml:19:26: endpoint.web.network[1].default_route[1]: the network gives no default \
             route of ipv6",
        ],
    );
}
