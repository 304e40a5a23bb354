//! A checked config as text again, with nothing left open.
//!
//! Every default is filled in, addresses, MAC addresses, subnets and interfaces are those that were
//! allocated, published ports are parsed, default routes chosen. The one hard constraint: the text
//! is itself a config, and means the same; only what stays a matter of the machine, such as how
//! many CPUs "auto" is, stays as it was.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use engine::tables::MssClamp;
use ipnet::IpNet;
use toml::Value;

use crate::check::explained;
use crate::model::{
    Attach, Attachment, Config, Endpoint, Family, Gateway, IpvlanMode, LinkMode, Network, Overlay,
    Parent, Publish, Uplink, UplinkDriver, Workers,
};
use crate::policy::{Rule, protocol_word};
use crate::subnet_pool::family;
use crate::values::written;
use crate::words;

impl Config {
    /// The whole config as native TOML, with everything filled in that the file left open. Parsed
    /// again, it gives the same text.
    pub fn to_toml(&self) -> String {
        let mut text =
            Text(String::from("# Every default is filled in, and what is allocated is given.\n"));
        text.gateway(&self.gateway);
        self.uplinks.iter().for_each(|uplink| text.uplink(uplink));
        self.networks.iter().for_each(|network| text.network(network));
        self.endpoints.iter().for_each(|endpoint| text.endpoint(endpoint));
        self.policy.iter().for_each(|rule| text.rule(rule));
        text.nat(self);
        text.limits(self);
        text.0
    }
}

/// TOML while it is written.
struct Text(String);

impl Text {
    fn section(&mut self, kind: &str, name: &str) {
        self.line(format_args!("\n[{kind}.{}]", key(name)));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes every line");
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.line(format_args!("{key} = {}", value.into()));
    }

    fn set_text(&mut self, key: &str, value: impl Display) {
        self.set(key, value.to_string());
    }

    fn set_list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        self.set(key, list(values));
    }

    fn gateway(&mut self, gateway: &Gateway) {
        self.line("\n[gateway]");
        match &gateway.workers {
            Workers::Auto => self.set("workers", "auto"),
            Workers::Count(count) => self.set("workers", i64::from(*count)),
            Workers::Cpus(cpus) => {
                let cpus = cpus.iter().map(|&cpu| Value::from(i64::from(cpu)));
                self.set("workers", Value::Array(cpus.collect()));
            }
        }
        self.set("idle", words::of(words::IDLE, &gateway.idle));
        self.set_text("state", gateway.state.display());
        self.set_text("api", gateway.api.display());
        if let Some(group) = &gateway.api_group {
            self.set_text("api_group", group);
        }
        if let Some(metrics) = gateway.metrics {
            self.set_text("metrics", metrics);
        }
        self.set("watch", gateway.watch);
        self.set("log", words::of(words::LOG, &gateway.log));
        let pools = gateway.address_pools.iter().map(|pool| {
            let base = ("base".to_owned(), Value::from(pool.base.to_string()));
            let size = ("size".to_owned(), Value::from(i64::from(pool.size)));
            Value::Table([base, size].into_iter().collect())
        });
        self.set("address_pools", Value::Array(pools.collect()));
    }

    fn uplink(&mut self, uplink: &Uplink) {
        self.section("uplink", &uplink.name);
        self.set("driver", words::of(words::UPLINK_DRIVER, &uplink.driver));
        self.set_text("interface", &uplink.interface);
        if let Some(netns) = &uplink.netns {
            self.set_text("netns", netns);
        }
        if uplink.driver == UplinkDriver::Tap {
            self.set("create", uplink.create_netns);
            self.set_list("host_addresses", &uplink.host_addresses);
            self.set_text("host_mac", uplink.host_mac);
            self.set("host_side", uplink.host.is_some());
        } else {
            self.set("relay", uplink.relay);
        }
        match uplink.host.as_ref().is_some_and(|host| host.is_shared) {
            true => self.set("addresses", "host"),
            false => self.set_list("addresses", &uplink.addresses),
        }
        if let Some(host) = &uplink.host {
            self.set_list("link", host.links());
        }
        self.set("trusted", uplink.trusted);
        if !uplink.follows_mtu {
            self.set("mtu", i64::from(uplink.mtu));
        }
        self.set_text("mac", uplink.mac);
        let is_default = |to: IpNet| to.prefix_len() == 0;
        // The default routes that an uplink beside the host has by itself.
        let peers = uplink.host.as_ref().map(|host| host.peers());
        let by_itself = |route: &&crate::model::Route| {
            peers.is_some_and(|peers| route.via.is_some_and(|via| peers.contains(&via)))
        };
        let others = uplink.routes.iter().filter(|route| !by_itself(route));
        for route in others.clone().filter(|route| is_default(route.to)) {
            let (Some(via), key) = (
                route.via,
                match family(route.to) {
                    Family::V4 => "gateway",
                    Family::V6 => "gateway6",
                },
            ) else {
                continue;
            };
            self.set_text(key, via);
        }
        // A default route on the link itself has no key of its own.
        let others = others.filter(|route| !is_default(route.to) || route.via.is_none());
        let others = others.map(|route| {
            let to = ("to".to_owned(), Value::from(route.to.to_string()));
            let via = route.via.map(|via| ("via".to_owned(), Value::from(via.to_string())));
            Value::Table([to].into_iter().chain(via).collect())
        });
        self.set("routes", Value::Array(others.collect()));
    }

    fn network(&mut self, network: &Network) {
        self.section("network", &network.name);
        if !network.driver.has_link() {
            let (word, meaning) = explained(network.driver);
            self.line(format_args!("# {meaning}"));
            self.set("driver", word);
            return;
        }
        self.set("driver", words::of(words::NETWORK_DRIVER, &network.driver));
        let subnets = &network.subnets;
        self.set_list("subnets", subnets.iter().map(|subnet| subnet.prefix));
        let has = |wanted| subnets.iter().any(|subnet| family(subnet.prefix) == wanted);
        self.set("ipv4", has(Family::V4));
        self.set("ipv6", has(Family::V6));
        self.set_list("gateways", subnets.iter().map(|subnet| subnet.gateway));
        if network.parent.is_none() {
            self.set_text("gateway_mac", network.gateway_mac);
        }
        self.set_list("ip_ranges", subnets.iter().map(|subnet| subnet.range));
        self.set_list("reserved", &network.reserved);
        let aux = network.aux_addresses.iter();
        let aux = aux.map(|(name, address)| (name.clone(), Value::from(address.to_string())));
        self.set("aux_addresses", Value::Table(aux.collect()));
        self.set_text("quarantine", written(network.quarantine));
        match &network.parent {
            Some(parent) => self.parent(network, parent),
            None => self.behaviour(network),
        }
        self.set("mac_policy", words::of(words::MAC_POLICY, &network.mac_policy));
        self.set("mtu", i64::from(network.mtu));
        match (&network.overlay, &network.uplink) {
            _ if network.parent.is_some() => {}
            (Some(overlay), uplink) => self.overlay(network, overlay, uplink.is_some()),
            (None, Some(uplink)) => self.set_text("uplink", uplink),
            (None, None) => {}
        }
    }

    /// What the members of a macvlan or ipvlan network are on, and how.
    fn parent(&mut self, network: &Network, parent: &Parent) {
        self.set_text("parent", &parent.uplink);
        if let Some(vlan) = parent.vlan {
            self.set("vlan", i64::from(vlan));
        }
        match parent.mode {
            LinkMode::Macvlan(mode) => self.set("mode", words::of(words::MACVLAN_MODE, &mode)),
            LinkMode::Ipvlan(mode, flag) => {
                self.set("mode", words::of(words::IPVLAN_MODE, &mode));
                match parent.mode.is_routed() {
                    true => self.set("icc", network.icc),
                    false => self.set("flag", words::of(words::IPVLAN_FLAG, &flag)),
                }
                if mode == IpvlanMode::L3s {
                    self.set("masquerade", network.masquerade);
                    self.sources(network);
                }
                if parent.mode.is_routed() {
                    self.mss_clamp(network);
                }
            }
        }
    }

    fn behaviour(&mut self, network: &Network) {
        self.set("internal", network.internal);
        self.set("icc", network.icc);
        self.set("mode", words::of(words::MODE, &network.mode));
        self.set("masquerade", network.masquerade);
        self.sources(network);
        self.mss_clamp(network);
        self.set("multicast_snooping", network.multicast_snooping);
    }

    fn sources(&mut self, network: &Network) {
        let sources = [("host_ipv4", network.host_ipv4), ("host_ipv6", network.host_ipv6)];
        for (key, source) in sources {
            if let Some(source) = source {
                self.set_text(key, source);
            }
        }
    }

    fn mss_clamp(&mut self, network: &Network) {
        match network.mss_clamp {
            MssClamp::Auto => self.set("mss_clamp", "auto"),
            MssClamp::Off => self.set("mss_clamp", "off"),
            MssClamp::Bytes(bytes) => self.set("mss_clamp", i64::from(bytes)),
        }
    }

    fn overlay(&mut self, network: &Network, overlay: &Overlay, has_way_out: bool) {
        if has_way_out {
            self.set_text("uplink", &overlay.uplink);
        }
        self.set("vni", i64::from(overlay.vni));
        self.set("port", i64::from(overlay.udp_port));
        if !overlay.peers.is_empty() {
            self.set_list("peers", &overlay.peers);
        }
        if let Some(group) = overlay.group {
            self.set_text("group", group);
        }
        for remote in &overlay.remotes {
            self.line(format_args!("[[network.{}.remote]]", key(&network.name)));
            self.set_text("ip", remote.ip);
            self.set_text("mac", remote.mac);
            self.set_text("vtep", remote.vtep);
        }
        for route in &overlay.routes {
            self.line(format_args!("[[network.{}.route]]", key(&network.name)));
            self.set_text("subnet", route.subnet);
            self.set_text("vtep_ip", route.vtep_ip);
            self.set_text("vtep_mac", route.vtep_mac);
            self.set_text("host", route.host);
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        self.section("endpoint", &endpoint.name);
        match (&endpoint.attach, endpoint.attachments.first()) {
            (Attach::Netns { netns, create }, _) => {
                let netns = Value::from(netns.to_string());
                self.line(format_args!("attach = {{ netns = {netns}, create = {create} }}"));
            }
            (Attach::Tap, Some(first)) => {
                let tap = Value::from(first.interface.to_string());
                self.line(format_args!("attach = {{ tap = {tap} }}"));
            }
            (Attach::Xdp, Some(first)) => {
                let xdp = Value::from(first.interface.to_string());
                self.line(format_args!("attach = {{ xdp = {xdp} }}"));
            }
            (Attach::Tap | Attach::Xdp | Attach::Host, _) => {}
        }
        self.set_list("publish", endpoint.publish.iter().map(spec));
        for attachment in &endpoint.attachments {
            self.attachment(&endpoint.name, attachment);
        }
        if let Some(network) = &endpoint.alone_in {
            self.line(format_args!("[[endpoint.{}.network]]", key(&endpoint.name)));
            self.set_text("name", network);
        }
    }

    fn attachment(&mut self, endpoint: &str, attachment: &Attachment) {
        self.line(format_args!("[[endpoint.{}.network]]", key(endpoint)));
        self.set_text("name", &attachment.network);
        if let Some(ip) = attachment.ipv4_address() {
            self.set_text("ip", ip);
        }
        if let Some(ip) = attachment.ipv6_address() {
            self.set_text("ip6", ip);
        }
        self.set_text("mac", attachment.mac);
        self.set_text("interface", &attachment.interface);
        self.set_list("aliases", &attachment.aliases);
        self.set("gw_priority", i64::from(attachment.gw_priority));
        let v4 = attachment.default_route_v4.map(|_| Family::V4);
        let v6 = attachment.default_route_v6.map(|_| Family::V6);
        let families = v4.into_iter().chain(v6);
        self.set_list("default_route", families.map(|one| words::of(words::FAMILY, &one)));
        self.set("anti_spoofing", attachment.anti_spoofing);
    }

    fn rule(&mut self, rule: &Rule) {
        self.line("\n[[policy]]");
        self.set("action", words::of(words::RULE_ACTION, &rule.action));
        for (key, side) in [("from", &rule.from), ("to", &rule.to)] {
            let named = [
                ("uplink", &side.uplink),
                ("network", &side.network),
                ("endpoint", &side.endpoint),
            ];
            let named = named
                .into_iter()
                .filter_map(|(key, name)| Some((key.to_owned(), Value::from(name.clone()?))));
            let cidr = (!side.cidr.is_empty()).then(|| ("cidr".to_owned(), list(&side.cidr)));
            let ports = (!side.ports.is_empty()).then(|| ("ports".to_owned(), list(&side.ports)));
            self.set(key, Value::Table(named.chain(cidr).chain(ports).collect()));
        }
        if let Some(protocol) = protocol_word(&rule.protocols) {
            self.set("protocol", protocol);
        }
    }

    fn nat(&mut self, config: &Config) {
        let nat = &config.nat;
        self.line("\n[nat]");
        self.set("filtering", words::of(words::FILTERING, &nat.filtering));
        self.set_text("ports", format_args!("{}-{}", nat.port_min, nat.port_max));
        self.set_list("addresses", &config.outside.addresses);
        self.set("tcp_pickup", nat.tcp_pickup);
        self.line("\n[nat.timeouts]");
        let timeouts = &nat.timeouts;
        self.set_text("tcp_established", written(timeouts.tcp_established));
        self.set_text("tcp_opening", written(timeouts.tcp_opening));
        self.set_text("tcp_closing", written(timeouts.tcp_closing));
        self.set_text("tcp_time_wait", written(timeouts.tcp_time_wait));
        self.set_text("tcp_reset", written(timeouts.tcp_reset));
        self.set_text("sctp_established", written(timeouts.sctp_established));
        self.set_text("sctp_transitory", written(timeouts.sctp_transitory));
        self.set_text("udp", written(timeouts.udp));
        self.set_text("icmp", written(timeouts.icmp));
        self.set_text("other", written(timeouts.other));
        for one in &config.outside.statics {
            self.line("\n[[nat.static]]");
            self.set_text("inside", one.inside);
            self.set_text("network", &one.network);
            self.set_text("outside", one.outside);
        }
    }

    fn limits(&mut self, config: &Config) {
        self.line("\n[limits]");
        for (key, limit) in config.limits.named() {
            self.set(key, i64::from(limit));
        }
    }
}

/// A name as a key: names may have dots, which mean something else there.
fn key(name: &str) -> String {
    if name.contains('.') { format!("{name:?}") } else { name.to_owned() }
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(values.into_iter().map(|value| Value::from(value.to_string())).collect())
}

/// A published range in the grammar that it is read in, with its address.
fn spec(publish: &Publish) -> String {
    let host = match (publish.host, publish.target.is_ipv6()) {
        (Some(IpAddr::V4(host)), _) => host.to_string(),
        (Some(IpAddr::V6(host)), _) => format!("[{host}]"),
        (None, false) => "0.0.0.0".to_owned(),
        (None, true) => "[::]".to_owned(),
    };
    // Of an opened port nothing on the host counts.
    let host_port = if publish.host_port == 0 { publish.target_port } else { publish.host_port };
    let range = |first: u16| match publish.port_count {
        1 => first.to_string(),
        count => format!("{first}-{}", first + (count - 1)),
    };
    let (host_ports, target_ports) = (range(host_port), range(publish.target_port));
    format!("{host}:{host_ports}:{target_ports}/{}", publish.protocol)
}
