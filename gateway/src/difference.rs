//! What differs between two configs, in the words of an operator, one line for each change.
//!
//! Parts are matched by name, as ids are. What is shared between the two (a config that is edited
//! shares all the rest) is skipped by its pointer. The one hard constraint: a config that became
//! another one altogether gives a bounded number of lines.
//!
//! What only the daemon's next start can change is not a change: [`deferred`] lists it.

use std::collections::{HashMap, HashSet};
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use config::{
    Attach, Attachment, Config, Endpoint, Gateway, Network, Publish, Route, Rule, Uplink, Workers,
};
use engine::limits::Limits;
use engine::tables::{GatewayMode, MssClamp};

/// Lines about parts of one kind. More are counted: nobody reads a thousand routes.
const LINES_MAX: usize = 100;

/// A setting by its name in the config, and its value as text.
type Fact = (&'static str, String);

/// Everything that changes from `old` to `new` and takes effect at once.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(of_uplinks(&old.uplinks, &new.uplinks));
    lines.extend(of_networks(&old.networks, &new.networks));
    lines.extend(of_endpoints(&old.endpoints, &new.endpoints));
    lines.extend(of_policy(&old.policy, &new.policy));
    lines.extend(of_facts("nat", &nat_facts(old), &nat_facts(new)));
    lines
}

/// Everything that differs and takes effect at the next start only.
pub fn deferred(old: &Config, new: &Config) -> Vec<String> {
    let gateway = differing(&gateway_facts(&old.gateway), &gateway_facts(&new.gateway));
    let limits = differing(&limit_facts(&old.limits), &limit_facts(&new.limits));
    let later = |(part, change)| format!("{part}: {change} takes effect at the next start");
    let gateway = gateway.into_iter().map(|change| ("gateway", change));
    gateway.chain(limits.into_iter().map(|change| ("limits", change))).map(later).collect()
}

fn of_uplinks(old: &[Uplink], new: &[Uplink]) -> Vec<String> {
    let mut lines = Vec::new();
    let pairs = match_by_name(old, new, |uplink| &uplink.name);
    lines.extend(pairs.gone.iter().map(|uplink| format!("uplink {} removed", uplink.name)));
    for uplink in pairs.new {
        lines.push(format!("uplink {} added: {}", uplink.name, joined(&uplink.addresses)));
    }
    for (old, new) in pairs.both {
        let name = format!("uplink {}", new.name);
        lines.extend(of_facts(&name, &uplink_facts(old), &uplink_facts(new)));
        lines.extend(of_routes(&name, &old.routes, &new.routes));
    }
    lines
}

fn of_routes(uplink: &str, old: &Arc<Vec<Route>>, new: &Arc<Vec<Route>>) -> Vec<String> {
    if Arc::ptr_eq(old, new) || old == new {
        return Vec::new();
    }
    let line = |route: &Route, what: &str| match route.via {
        Some(via) => format!("{uplink}: route to {} by {via} {what}", route.to),
        None => format!("{uplink}: route to {} {what}", route.to),
    };
    // By prefix: a route that leads elsewhere now is one change, not two.
    let key = |route: &Route| (route.to, route.via);
    let (before, after): (HashSet<_>, HashSet<_>) =
        (old.iter().map(key).collect(), new.iter().map(key).collect());
    let gone = old.iter().filter(|route| !after.contains(&key(route)));
    let added = new.iter().filter(|route| !before.contains(&key(route)));
    let gone = gone.map(|route| line(route, "removed"));
    bounded(gone.chain(added.map(|route| line(route, "added"))), "changes of routes")
}

fn of_networks(old: &[Arc<Network>], new: &[Arc<Network>]) -> Vec<String> {
    let pairs = match_by_name(old, new, |network| &network.name);
    let gone = pairs.gone.iter().map(|network| format!("network {} removed", network.name));
    let added = pairs.new.iter().map(|network| {
        let subnets = network.subnets.iter().map(|subnet| subnet.prefix);
        format!("network {} added: {}", network.name, joined(subnets))
    });
    let changed = pairs.both.iter().filter(|(old, new)| !Arc::ptr_eq(old, new));
    let changed = changed.flat_map(|(old, new)| {
        let name = format!("network {}", new.name);
        of_facts(&name, &network_facts(old), &network_facts(new))
    });
    bounded(gone.chain(added).chain(changed), "changes of networks")
}

fn of_endpoints(old: &[Arc<Endpoint>], new: &[Arc<Endpoint>]) -> Vec<String> {
    let pairs = match_by_name(old, new, |endpoint| &endpoint.name);
    let gone = pairs.gone.iter().map(|endpoint| format!("endpoint {} removed", endpoint.name));
    let added = pairs.new.iter().map(|endpoint| {
        let places = endpoint.attachments.iter().map(place);
        let publish = endpoint.publish.iter().map(|publish| format!("port {}", port_of(publish)));
        format!("endpoint {} added: {}", endpoint.name, joined(places.chain(publish)))
    });
    let changed = pairs.both.iter().filter(|(old, new)| !Arc::ptr_eq(old, new) && old != new);
    let changed = changed.flat_map(|(old, new)| of_endpoint(old, new));
    bounded(gone.chain(added).chain(changed), "changes of endpoints")
}

fn of_endpoint(old: &Endpoint, new: &Endpoint) -> Vec<String> {
    let name = format!("endpoint {}", new.name);
    let mut lines = of_facts(&name, &attach_facts(&old.attach), &attach_facts(&new.attach));
    let pairs = match_by_name(&old.attachments, &new.attachments, |attachment| &attachment.network);
    lines.extend(pairs.gone.iter().map(|gone| format!("{name} leaves network {}", gone.network)));
    lines.extend(pairs.new.iter().map(|added| format!("{name} joins network {}", place(added))));
    for (old, new) in pairs.both {
        let name = format!("{name} in network {}", new.network);
        lines.extend(of_facts(&name, &attachment_facts(old), &attachment_facts(new)));
    }
    let ports = |endpoint: &Endpoint| endpoint.publish.iter().map(port_of).collect::<HashSet<_>>();
    let (before, after) = (ports(old), ports(new));
    let in_order = |endpoint: &Endpoint, but: &HashSet<String>, what: &str| -> Vec<String> {
        let ports = endpoint.publish.iter().map(port_of).filter(|port| !but.contains(port));
        ports.map(|port| format!("{name}: port {port} {what}")).collect()
    };
    lines.extend(in_order(old, &after, "unpublished"));
    lines.extend(in_order(new, &before, "published"));
    lines
}

/// Rules have no names: what is new is told by what it says.
fn of_policy(old: &[Rule], new: &[Rule]) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let numbered = |rules: &[Rule], but: &[Rule], what: &str| -> Vec<String> {
        let but: HashSet<&Rule> = but.iter().collect();
        let rules = rules.iter().enumerate().filter(|(_, rule)| !but.contains(rule));
        rules.map(|(index, rule)| format!("policy: rule {} {what}: {rule}", index + 1)).collect()
    };
    let lines = [numbered(old, new, "removed"), numbered(new, old, "added")].concat();
    match lines.is_empty() {
        true => vec!["policy: the same rules are asked in another order".to_owned()],
        false => bounded(lines.into_iter(), "changes of rules"),
    }
}

/// The word of the config for a gateway mode.
pub(crate) fn mode(mode: GatewayMode) -> &'static str {
    match mode {
        GatewayMode::Nat => "nat",
        GatewayMode::NatUnprotected => "nat-unprotected",
        GatewayMode::Routed => "routed",
        GatewayMode::Isolated => "isolated",
    }
}

/// Parts of two lists, matched by name.
struct Pairs<'a, T> {
    gone: Vec<&'a T>,
    new: Vec<&'a T>,
    both: Vec<(&'a T, &'a T)>,
}

fn match_by_name<'a, T>(
    old: &'a [T],
    new: &'a [T],
    name: impl for<'b> Fn(&'b T) -> &'b str,
) -> Pairs<'a, T> {
    let mut pairs = Pairs { gone: Vec::new(), new: Vec::new(), both: Vec::new() };
    let mut before: HashMap<&str, &T> = old.iter().map(|part| (name(part), part)).collect();
    for part in new {
        match before.remove(name(part)) {
            Some(old) => pairs.both.push((old, part)),
            None => pairs.new.push(part),
        }
    }
    pairs.gone.extend(old.iter().filter(|part| before.contains_key(name(part))));
    pairs
}

/// At most [`LINES_MAX`] lines, and how many more there are.
fn bounded(lines: impl Iterator<Item = String>, what: &str) -> Vec<String> {
    let mut lines = lines;
    let mut first: Vec<String> = lines.by_ref().take(LINES_MAX).collect();
    let more = lines.count();
    if more > 0 {
        first.push(format!("and {more} more {what}"));
    }
    first
}

/// `name changed: mtu 1500 -> 1400, icc true -> false`; nothing if nothing differs.
fn of_facts(name: &str, old: &[Fact], new: &[Fact]) -> Vec<String> {
    let differing = differing(old, new);
    let line = (!differing.is_empty()).then(|| format!("{name} changed: {}", differing.join(", ")));
    line.into_iter().collect()
}

fn differing(old: &[Fact], new: &[Fact]) -> Vec<String> {
    let pairs = old.iter().zip(new).filter(|(old, new)| old.1 != new.1);
    pairs.map(|((key, old), (_, new))| format!("{key} {old} -> {new}")).collect()
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn or_none<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// A setting whose words in the config are those of its type, in small letters.
fn word(value: impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// `front 10.1.0.10 fd00::10`
fn place(attachment: &Attachment) -> String {
    let ipv4 = attachment.ipv4_address().map(|address| format!(" {address}"));
    let ipv6 = attachment.ipv6_address().map(|address| format!(" {address}"));
    [Some(attachment.network.clone()), ipv4, ipv6].into_iter().flatten().collect()
}

/// `8080:80/tcp to 10.1.0.10`, as `publish` in the config says it.
pub(crate) fn port_of(publish: &Publish) -> String {
    let range = |first: u16| match publish.port_count {
        1 => first.to_string(),
        count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    };
    let host = match publish.host {
        Some(std::net::IpAddr::V6(host)) => format!("[{host}]:"),
        Some(host) => format!("{host}:"),
        None => String::new(),
    };
    let to = range(publish.target_port);
    if publish.host_port == 0 {
        return format!("{to}/{} of {}", publish.protocol, publish.target);
    }
    let from = range(publish.host_port);
    format!("{host}{from}:{to}/{} to {}", publish.protocol, publish.target)
}

fn uplink_facts(uplink: &Uplink) -> Vec<Fact> {
    vec![
        ("interface", uplink.interface.to_string()),
        ("netns", or_none(uplink.netns.as_ref().map(|netns| netns.as_str()))),
        ("mac", uplink.mac.to_string()),
        ("host_mac", uplink.host_mac.to_string()),
        ("addresses", joined(&uplink.addresses)),
        ("host_addresses", joined(&uplink.host_addresses)),
        ("trusted", uplink.trusted.to_string()),
        ("link", or_none(uplink.host.as_ref().map(|host| joined(host.links())).as_ref())),
        ("mtu", uplink.mtu.to_string()),
        ("relay", uplink.relay.to_string()),
    ]
}

fn network_facts(network: &Network) -> Vec<Fact> {
    let subnets = network.subnets.iter();
    let subnets = subnets.map(|subnet| format!("{} with {}", subnet.prefix, subnet.gateway));
    let ranges = network.subnets.iter().map(|subnet| subnet.range);
    vec![
        ("driver", word(network.driver)),
        ("subnets", joined(subnets)),
        ("ip_range", joined(ranges)),
        ("reserved", joined(&network.reserved)),
        ("gateway_mac", network.gateway_mac.to_string()),
        ("internal", network.internal.to_string()),
        ("icc", network.icc.to_string()),
        ("mode", mode(network.mode).to_owned()),
        ("masquerade", network.masquerade.to_string()),
        ("host_ipv4", or_none(network.host_ipv4)),
        ("host_ipv6", or_none(network.host_ipv6)),
        ("mac_policy", word(network.mac_policy)),
        ("mtu", network.mtu.to_string()),
        ("mss_clamp", mss_clamp(network.mss_clamp)),
        ("multicast_snooping", network.multicast_snooping.to_string()),
        ("uplink", or_none(network.uplink.as_ref())),
        ("quarantine", seconds(network.quarantine)),
    ]
}

fn mss_clamp(clamp: MssClamp) -> String {
    match clamp {
        MssClamp::Auto => "auto".to_owned(),
        MssClamp::Off => "off".to_owned(),
        MssClamp::Bytes(bytes) => bytes.to_string(),
    }
}

fn attach_facts(attach: &Attach) -> Vec<Fact> {
    match attach {
        Attach::Netns { netns, create } => {
            vec![("netns", netns.to_string()), ("create", create.to_string())]
        }
        Attach::Tap | Attach::Xdp | Attach::Host => {
            vec![("netns", "none".to_owned()), ("create", "false".to_owned())]
        }
    }
}

fn attachment_facts(attachment: &Attachment) -> Vec<Fact> {
    vec![
        ("interface", attachment.interface.to_string()),
        ("mac", attachment.mac.to_string()),
        ("ip", or_none(attachment.ipv4)),
        ("ip6", or_none(attachment.ipv6)),
        ("default route", or_none(attachment.default_route_v4)),
        ("default route of IPv6", or_none(attachment.default_route_v6)),
        ("mtu", attachment.mtu.to_string()),
        ("aliases", joined(&attachment.aliases)),
        ("gw_priority", attachment.gw_priority.to_string()),
        ("anti_spoofing", attachment.anti_spoofing.to_string()),
    ]
}

fn nat_facts(config: &Config) -> Vec<Fact> {
    let (nat, outside) = (&config.nat, &config.outside);
    let timeouts = &nat.timeouts;
    let statics = outside.statics.iter().map(|one| format!("{}={}", one.inside, one.outside));
    vec![
        ("filtering", word(nat.filtering)),
        ("addresses", joined(&outside.addresses)),
        ("static", joined(statics)),
        ("ports", format!("{}-{}", nat.port_min, nat.port_max)),
        ("tcp_pickup", nat.tcp_pickup.to_string()),
        ("tcp_established", seconds(timeouts.tcp_established)),
        ("tcp_opening", seconds(timeouts.tcp_opening)),
        ("tcp_closing", seconds(timeouts.tcp_closing)),
        ("tcp_reset", seconds(timeouts.tcp_reset)),
        ("sctp_established", seconds(timeouts.sctp_established)),
        ("sctp_transitory", seconds(timeouts.sctp_transitory)),
        ("tcp_time_wait", seconds(timeouts.tcp_time_wait)),
        ("udp", seconds(timeouts.udp)),
        ("icmp", seconds(timeouts.icmp)),
        ("other", seconds(timeouts.other)),
    ]
}

fn gateway_facts(gateway: &Gateway) -> Vec<Fact> {
    let workers = match &gateway.workers {
        Workers::Auto => "auto".to_owned(),
        Workers::Count(count) => count.to_string(),
        Workers::Cpus(cpus) => format!("{cpus:?}"),
    };
    vec![
        ("workers", workers),
        ("idle", word(gateway.idle)),
        ("state", gateway.state.display().to_string()),
        ("api", gateway.api.display().to_string()),
        ("api_group", or_none(gateway.api_group.as_ref())),
        ("metrics", or_none(gateway.metrics)),
        ("watch", gateway.watch.to_string()),
        ("log", word(gateway.log)),
    ]
}

fn limit_facts(limits: &Limits) -> Vec<Fact> {
    limits.named().map(|(name, limit)| (name, limit.to_string())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
        [gateway]
        workers = 2
        [uplink.wan]
        driver = "tap"
        interface = "wan0"
        addresses = ["192.0.2.10/24"]
        gateway = "192.0.2.1"
        routes = [{ to = "198.51.100.0/24", via = "192.0.2.7" }]
        [network.front]
        subnet = "10.1.0.0/24"
        [network.back]
        subnet = "10.2.0.0/24"
        [endpoint.web]
        attach = { netns = "web", create = true }
        network = [{ name = "front", ip = "10.1.0.10" }]
        publish = ["8080:80", "8443:443"]
        [endpoint.db]
        attach = { netns = "db", create = true }
        network = [{ name = "back", ip = "10.2.0.20" }]
    "#;

    fn config(text: &str) -> Config {
        Config::parse("test.toml", text).unwrap()
    }

    fn edited(edits: &[(&str, &str)]) -> Vec<String> {
        let mut text = OLD.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        changes(&config(OLD), &config(&text))
    }

    #[test]
    fn a_config_does_not_differ_from_itself() {
        assert_eq!(changes(&config(OLD), &config(OLD)), [""; 0]);
        assert_eq!(deferred(&config(OLD), &config(OLD)), [""; 0]);
    }

    #[test]
    fn published_ports_come_and_go_by_name() {
        let lines = edited(&[("\"8443:443\"", "\"192.0.2.10:8444:443\"")]);
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "endpoint web: port 8443:443/tcp to 10.1.0.10 unpublished",
                "endpoint web: port 192.0.2.10:8444:443/tcp to 10.1.0.10 published",
            ]
        );
    }

    #[test]
    fn networks_endpoints_and_attachments_are_told_apart() {
        let lines = edited(&[
            ("[network.back]", "[network.new]\nsubnet = \"10.3.0.0/24\"\n[network.back]"),
            ("[endpoint.db]", "[endpoint.dc]"),
            (
                "network = [{ name = \"front\", ip = \"10.1.0.10\" }]",
                "network = [{ name = \"front\", ip = \"10.1.0.10\", mac = \"02:00:00:00:00:01\" },
                            { name = \"back\", ip = \"10.2.0.10\" }]",
            ),
        ]);
        assert_eq!(lines[0], "network new added: 10.3.0.0/24");
        assert_eq!(lines[1], "endpoint db removed");
        assert_eq!(lines[2], "endpoint dc added: back 10.2.0.20");
        assert_eq!(lines[3], "endpoint web joins network back 10.2.0.10");
        assert!(lines[4].starts_with("endpoint web in network front changed: mac 02:42:0a"));
        assert!(lines[4].contains("-> 02:00:00:00:00:01"), "{lines:?}");
    }

    #[test]
    fn rules_are_told_by_what_they_say() {
        let rule =
            |cidr: &str| format!("[[policy]]\naction = \"deny\"\nfrom = {{ cidr = \"{cidr}\" }}\n");
        let (one, two) = (rule("203.0.113.0/24"), rule("198.51.100.0/24"));
        let with = |rules: &[&str]| config(&format!("{OLD}\n{}", rules.concat()));
        let lines = changes(&with(&[&one]), &with(&[&two, &one]));
        assert_eq!(lines, ["policy: rule 1 added: deny from 198.51.100.0/24 to any"]);
        let lines = changes(&with(&[&one]), &with(&[]));
        assert_eq!(lines, ["policy: rule 1 removed: deny from 203.0.113.0/24 to any"]);
        let lines = changes(&with(&[&one, &two]), &with(&[&two, &one]));
        assert_eq!(lines, ["policy: the same rules are asked in another order"]);
    }

    #[test]
    fn settings_are_named_with_both_values() {
        let lines =
            edited(&[("subnet = \"10.1.0.0/24\"", "subnet = \"10.1.0.0/24\"\nicc = false")]);
        assert_eq!(lines, ["network front changed: icc true -> false"]);
        let lines = edited(&[("192.0.2.7", "192.0.2.8")]);
        assert_eq!(lines[0], "uplink wan: route to 198.51.100.0/24 by 192.0.2.7 removed");
        assert_eq!(lines[1], "uplink wan: route to 198.51.100.0/24 by 192.0.2.8 added");
    }

    #[test]
    fn what_needs_a_start_is_deferred_and_no_change() {
        let new = OLD.replace("workers = 2", "workers = 3\nidle = \"busy\"")
            + "\n[limits]\nflows = 1000\n";
        let (old, new) = (config(OLD), config(&new));
        assert_eq!(changes(&old, &new), [""; 0]);
        let lines = deferred(&old, &new);
        assert_eq!(lines[0], "gateway: workers 2 -> 3 takes effect at the next start");
        assert_eq!(lines[1], "gateway: idle adaptive -> busy takes effect at the next start");
        assert_eq!(lines[2], "limits: flows 262144 -> 1000 takes effect at the next start");
    }

    #[test]
    fn a_thousand_changes_of_a_kind_are_counted() {
        let routes = |count: u32| {
            let routes: Vec<_> = (0..count)
                .map(|n| format!("{{ to = \"100.{}.{}.0/24\" }}", 64 + n / 256, n % 256))
                .collect();
            let old = "routes = [{ to = \"198.51.100.0/24\", via = \"192.0.2.7\" }]";
            config(&OLD.replace(old, &format!("routes = [{}]", routes.join(","))))
        };
        let lines = changes(&routes(0), &routes(1_000));
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert_eq!(lines[LINES_MAX], "and 900 more changes of routes");
    }
}
