//! Outside addresses of NAT: what is refused, and what the others compile to.

mod base;

use base::{refusals, replaced};
use config::Config;

#[test]
fn outside_addresses() {
    // Two more addresses of the uplink, so that one is free for an endpoint.
    let spoil = |text: &str, expected: &[&str]| {
        let own = "[\"192.0.2.10/24\", \"2001:db8::10/64\"";
        let more = replaced(own, &format!("{own}, \"192.0.2.11/24\", \"192.0.2.12/24\""));
        assert_eq!(refusals(&format!("{more}{text}")), expected, "{text}");
    };
    spoil(
        "[nat]\naddresses = [\"192.0.2.13\", \"192.0.2.11\", \"192.0.2.11\"]\n",
        &[
            "x.toml:23:14: nat.addresses[0]: 192.0.2.13 is no uplink's own address",
            "x.toml:23:42: nat.addresses[2]: 192.0.2.11 is there already",
        ],
    );
    spoil(
        "[nat]\naddresses = [\"192.0.2.11\"]\n\
         [[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"192.0.2.11\"\n\
         [[nat.static]]\ninside = \"10.1.0.77\"\noutside = \"192.0.2.12\"\n\
         [[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"2001:db8::10\"\n\
         [[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"198.51.100.1\"\n\
         [[nat.static]]\noutside = \"192.0.2.12\"\n",
        &[
            "x.toml:26:11: nat.static[0].outside: 192.0.2.11 is one that masqueraded traffic \
             leaves as, by nat.addresses",
            "x.toml:28:10: nat.static[1].inside: 10.1.0.77 is no endpoint's address",
            "x.toml:32:11: nat.static[2].outside: 2001:db8::10 is what masqueraded traffic leaves \
             as: name others by nat.addresses",
            "x.toml:35:11: nat.static[3].outside: 198.51.100.1 is no uplink's own address",
            "x.toml:36:1: nat.static[4]: inside is missing",
        ],
    );
    spoil(
        "[[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"192.0.2.12\"\n\
         [[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"192.0.2.11\"\n\
         [[nat.static]]\ninside = \"10.2.0.2\"\noutside = \"192.0.2.12\"\n",
        &[
            "x.toml:26:10: nat.static[1].inside: 10.1.0.10 has an outside address already",
            "x.toml:30:11: nat.static[2].outside: 192.0.2.12 is outside already",
        ],
    );
    spoil(
        "[network.more]\nhost_ipv4 = \"192.0.2.99\"\nhost_ipv6 = \"192.0.2.11\"\n",
        &[
            "x.toml:23:13: network.more.host_ipv4: 192.0.2.99 is no uplink's own address",
            "x.toml:24:13: network.more.host_ipv6: 192.0.2.11 is no IPv6 address",
        ],
    );
}

#[test]
fn outside_addresses_compile_to_what_the_engine_looks_up() {
    let text =
        replaced("[\"192.0.2.10/24\"", "[\"192.0.2.10/24\", \"192.0.2.11/24\", \"192.0.2.12/24\"");
    let text = text.replace("[network.back]\n", "[network.back]\nhost_ipv4 = \"192.0.2.11\"\n");
    let nat = "[nat]\nfiltering = \"endpoint\"\naddresses = [\"192.0.2.10\", \"192.0.2.11\"]\n\
               [[nat.static]]\ninside = \"10.1.0.10\"\noutside = \"192.0.2.12\"\n";
    let config = Config::parse("x.toml", &format!("{text}{nat}")).unwrap();
    let again = Config::parse("x.toml", &config.to_toml()).unwrap();
    assert_eq!((&again.nat, &again.outside), (&config.nat, &config.outside));
    let tables = config::compile(&config, None);
    let address = |text: &str| -> std::net::IpAddr { text.parse().unwrap() };
    let nat = &tables.nat;
    assert_eq!(nat.filtering, engine::limits::Filtering::Endpoint);
    assert_eq!(nat.pools[0].1, [address("192.0.2.10"), address("192.0.2.11")]);
    let back = config.network("back").unwrap().id;
    assert_eq!(nat.sources, [(back, address("192.0.2.11"))]);
    let one = nat.statics.by_outside(address("192.0.2.12")).unwrap();
    assert_eq!(one.inside, address("10.1.0.10"));
    assert_eq!(tables.port(one.port).unwrap().name, "web/front");
    assert_eq!(nat.statics.by_inside(one.network, one.inside), Some(one));
}
