//! The one table of nftables that is ours, as text for `nft -f -`.
//!
//! What is sent to one of the host's addresses and a published port is led to the gateway (chains
//! `outside`, `local`), where the destination becomes the address's stand-in on the link. Sources
//! change only where the reply would not come back (`leave`): loopback addresses, which exist on no
//! link, and the link's own addresses when they leave the host. What nobody may send or be sent is
//! dropped first (`guard`, `forward`). Nothing here concerns traffic that is not the gateway's, and
//! no other table is touched.
//!
//! The one hard constraint: the text replaces the whole table in one transaction, so that at no
//! moment half of it is in force.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write};
use std::net::IpAddr;

use engine::tables::Protocol;
use ipnet::IpNet;

use super::wanted::{Beside, Published, Wanted};

/// Name of the table, of family inet.
pub(super) const TABLE: &str = "portolan";

/// Removes the table, whether or not it is there.
pub(super) const REMOVAL: &str = "table inet portolan {}\ndelete table inet portolan\n";

/// The device that test packets come from.
pub(super) const TEST_DEVICE: &str = "portolan-test";

/// The whole table. `opened` are interfaces on which forwarding is on for us alone.
pub(super) fn ruleset(wanted: &Wanted, opened: &BTreeSet<String>) -> String {
    let mut text = String::from(REMOVAL);
    let Some(first) = wanted.beside.first() else { return text };
    let taps = braces(wanted.beside.iter().map(|beside| quoted(&beside.interface)));
    line(&mut text, format_args!("table inet {TABLE} {{"));
    sets(&mut text, first, &wanted.publish);
    guard(&mut text, wanted, &taps);
    for (chain, hook, is_outside) in
        [("outside", "prerouting priority dstnat", true), ("local", "output priority -100", false)]
    {
        line(&mut text, format_args!("chain {chain} {{ type nat hook {hook}; policy accept;"));
        if is_outside {
            // The gateway knows by itself what is published. Of the loopback addresses none is on
            // a wire, whatever a frame says.
            line(&mut text, format_args!("iifname {taps} return"));
            line(&mut text, format_args!("ip daddr 127.0.0.0/8 return"));
            line(&mut text, format_args!("ip6 saddr fe80::/10 return"));
        }
        for (ip, number) in [("ip", 4), ("ip6", 6)] {
            let lead = format!("dnat {ip} to {ip} daddr map @stand_in{number}");
            line(&mut text, format_args!("meta l4proto . th dport @any{number} {lead}"));
            let socket = format!("{ip} daddr . meta l4proto . th dport");
            line(&mut text, format_args!("{socket} @one{number} {lead}"));
        }
        text.push_str("}\n");
    }
    forward(&mut text, &taps, opened);
    leave(&mut text, wanted, &taps);
    text.push_str("}\n");
    text
}

/// Published ports on every address and on one, and the stand-ins of addresses.
fn sets(text: &mut String, first: &Beside, publish: &[Published]) {
    for (v6, number, kind) in [(false, 4, "ipv4_addr"), (true, 6, "ipv6_addr")] {
        let own = publish.iter().filter(|entry| entry.v6 == v6);
        let any = own.clone().filter(|entry| entry.host.is_none());
        let one = own.filter(|entry| entry.host.is_some());
        set(text, &format!("any{number}"), "inet_proto . inet_service", any);
        set(text, &format!("one{number}"), &format!("{kind} . inet_proto . inet_service"), one);
        // ::1 cannot leave the loopback device: that is what `splice` is for.
        let stand_ins = first.host.stand_ins().filter(|(own, host)| {
            own.is_ipv6() == v6 && *host != IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
        });
        let pairs: Vec<String> = stand_ins.map(|(own, host)| format!("{host} : {own}")).collect();
        line(text, format_args!("map stand_in{number} {{ type {kind} : {kind};"));
        elements(text, &pairs);
    }
}

fn set<'p>(
    text: &mut String,
    name: &str,
    kind: &str,
    entries: impl Iterator<Item = &'p Published>,
) {
    line(text, format_args!("set {name} {{ type {kind}; flags interval;"));
    let entries: Vec<String> = entries.map(ToString::to_string).collect();
    elements(text, &entries);
}

/// The elements of a set, and its end. A set without any has no such list.
fn elements(text: &mut String, all: &[String]) {
    if !all.is_empty() {
        line(text, format_args!("elements = {{ {} }}", all.join(", ")));
    }
    text.push_str("}\n");
}

/// Drops what claims to be of the link between host and gateway and comes from elsewhere, and what
/// the gateway would send to the host's loopback addresses. What nobody here translates is not
/// tracked either.
fn guard(text: &mut String, wanted: &Wanted, taps: &str) {
    text.push_str("chain guard { type filter hook prerouting priority raw; policy accept;\n");
    for v6 in [false, true] {
        let ip = family(v6);
        let [_, to] = wanted.beside[0].host.test_pair(v6);
        let test = format!("iifname \"{TEST_DEVICE}\" {ip} daddr {to}");
        line(text, format_args!("{test} meta nftrace set 1 accept"));
        let links = wanted.beside.iter().flat_map(|beside| beside.host.links());
        let links = braces(links.filter(|link| is_v6(link) == v6).map(|link| link.to_string()));
        let elsewhere = format!("iifname != \"lo\" iifname != {taps}");
        line(text, format_args!("{elsewhere} {ip} daddr {links} drop"));
        line(text, format_args!("{elsewhere} {ip} saddr {links} drop"));
    }
    line(text, format_args!("iifname {taps} ip daddr 127.0.0.0/8 drop"));
    for beside in wanted.beside.iter().filter(|beside| !beside.host.is_shared) {
        for v6 in [false, true] {
            let own = beside.own.iter().filter(|own| is_v6(own) == v6);
            let own: Vec<String> = own.map(|own| own.addr().to_string()).collect();
            if own.is_empty() {
                continue;
            }
            let (ip, own, tap) = (family(v6), braces(own.into_iter()), quoted(&beside.interface));
            let away = format!("iifname {tap} {ip} saddr {own} fib daddr type != local");
            line(text, format_args!("{away} notrack"));
            line(text, format_args!("iifname != {{ \"lo\", {tap} }} {ip} daddr {own} notrack"));
        }
    }
    text.push_str("}\n");
}

/// Nobody claims to be the host; and where forwarding is on because of us, it is for us.
fn forward(text: &mut String, taps: &str, opened: &BTreeSet<String>) {
    text.push_str("chain forward { type filter hook forward priority filter; policy accept;\n");
    line(text, format_args!("oifname {taps} fib saddr type local drop"));
    for (v6, opened) in [
        (false, opened.iter().filter_map(|name| name.strip_prefix("4:")).collect::<Vec<_>>()),
        (true, opened.iter().filter_map(|name| name.strip_prefix("6:")).collect()),
    ] {
        if !opened.is_empty() {
            let opened = braces(opened.into_iter().map(quoted));
            let family = if v6 { "ipv6" } else { "ipv4" };
            let only = format!("meta nfproto {family} iifname {opened} oifname != {taps}");
            line(text, format_args!("{only} drop"));
        }
    }
    text.push_str("}\n");
}

/// Sources that the reply would not come back to.
fn leave(text: &mut String, wanted: &Wanted, taps: &str) {
    text.push_str("chain leave { type nat hook postrouting priority srcnat; policy accept;\n");
    for beside in &wanted.beside {
        let tap = quoted(&beside.interface);
        let [loopback, _] = beside.host.loopbacks();
        line(text, format_args!("oifname {tap} ip saddr 127.0.0.0/8 snat ip to {loopback}"));
        for link in beside.host.links() {
            let ip = family(is_v6(&link));
            let away = format!("iifname {tap} oifname != {taps} {ip} saddr {link}");
            line(text, format_args!("{away} masquerade"));
        }
    }
    text.push_str("}\n");
    // A test packet has come through: nobody else is to see it.
    text.push_str("chain passed { type filter hook postrouting priority 400; policy accept;\n");
    line(text, format_args!("iifname \"{TEST_DEVICE}\" drop"));
    text.push_str("}\n");
}

impl Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = self.host {
            write!(f, "{host} . ")?;
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        match self.first == self.last {
            true => write!(f, "{protocol} . {}", self.first),
            false => write!(f, "{protocol} . {}-{}", self.first, self.last),
        }
    }
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
    text.push('\n');
}

fn braces(all: impl Iterator<Item = String>) -> String {
    format!("{{ {} }}", all.collect::<Vec<_>>().join(", "))
}

/// An interface's name, which has no quotes in it by the rules of the config and the kernel's.
fn quoted(interface: impl AsRef<str>) -> String {
    format!("\"{}\"", interface.as_ref())
}

fn family(v6: bool) -> &'static str {
    if v6 { "ip6" } else { "ip" }
}

fn is_v6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Config;

    const TEXT: &str = r#"
[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = "host"
[network.front]
subnet = "10.1.0.0/24"
[endpoint.web]
attach = { netns = "web" }
publish = ["8080-8090:80-90", "127.0.0.1:53:53/udp"]
network = [{ name = "front", ip = "10.1.0.10" }]
"#;

    fn wanted() -> Wanted {
        let mut config = Config::parse("x.toml", TEXT).unwrap();
        let addresses = ["127.0.0.1", "::1", "192.0.2.1"].map(|text| text.parse().unwrap());
        config.uplinks[0].host.as_mut().unwrap().set_addresses(&addresses);
        Wanted::of(&config)
    }

    #[test]
    fn a_range_is_one_element_and_addresses_have_stand_ins() {
        let text = ruleset(&wanted(), &BTreeSet::new());
        assert!(text.contains("elements = { tcp . 8080-8090 }"), "{text}");
        assert!(text.contains("elements = { 127.0.0.1 . udp . 53 }"), "{text}");
        assert!(text.contains("192.0.2.1 : 169.254.86.5"), "{text}");
        assert!(!text.contains(" ::1 :"), "{text}");
    }

    #[test]
    fn without_an_uplink_beside_the_host_the_table_goes() {
        let none = Wanted::of(&Config::parse("x.toml", "").unwrap());
        assert_eq!(ruleset(&none, &BTreeSet::new()), REMOVAL);
    }

    #[test]
    fn what_was_opened_for_us_is_for_us_only() {
        let opened = ["4:eth0".to_owned(), "6:eth1".to_owned()].into();
        let text = ruleset(&wanted(), &opened);
        let only = "iifname { \"eth0\" } oifname != { \"wan0\" } drop";
        assert!(text.contains(&format!("meta nfproto ipv4 {only}")), "{text}");
        assert!(text.contains("meta nfproto ipv6 iifname { \"eth1\" }"), "{text}");
    }
}
