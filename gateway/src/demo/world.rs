//! The demo's world: who is where, and the config that makes it.
//!
//! [client, web: network front] [other: network back] [near: overlay mesh] — gateway — [outside]
//! [outside] — second gateway — [distant: overlay mesh]
//!
//! The outside is a router between the two gateways, as a data centre's is between hosts.
//! Names carry the process id, so two demos and a real gateway do not meet; addresses are private
//! or reserved for documentation, and exist inside the demo's own namespaces only.

use std::net::IpAddr;
use std::path::PathBuf;

use config::Config;
use engine::MacAddress;
use ipnet::IpNet;

use super::DemoOptions;
use crate::error::Error;
use crate::netlink::Netlink;
use crate::netns;

/// Whoever takes part: a namespace with an address of each family.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) ipv4: IpAddr,
    pub(super) ipv6: IpAddr,
    /// Its network, or what it is.
    pub(super) role: &'static str,
}

impl Host {
    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// All of them, and the gateway's own addresses.
pub(super) struct World {
    /// What every name of a namespace begins with.
    pub(super) prefix: String,
    pub(super) client: Host,
    pub(super) web: Host,
    pub(super) other: Host,
    pub(super) outside: Host,
    /// A member of the overlay here.
    pub(super) near: Host,
    /// One behind the second gateway.
    pub(super) distant: Host,
}

/// A port of the gateway that leads to web's port 80, TCP and UDP.
pub(super) const PUBLISHED: u16 = 8080;
/// Where it leads.
pub(super) const SERVICE: u16 = 80;
/// A port of the gateway that leads nowhere.
pub(super) const UNPUBLISHED: u16 = 8081;

/// The MAC address of web, to be found by ARP and ND.
pub(super) const WEB_MAC: MacAddress = MacAddress(0x0242_0a01_000a);

/// The second gateway's address.
const SECOND: &str = "198.18.0.10";

/// A server's addresses beyond the uplink's own link, reached by the default route.
const FAR: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::1"];

impl World {
    /// The world of this process.
    pub(super) fn new() -> World {
        let prefix = format!("portolan-demo-{}-", std::process::id());
        let host = |name, role, ipv4: &str, ipv6: &str| Host {
            name,
            role,
            path: netns::path_of(&format!("{prefix}{name}")),
            ipv4: ipv4.parse().expect("a constant of this file"),
            ipv6: ipv6.parse().expect("a constant of this file"),
        };
        World {
            client: host("client", "network front", "10.1.0.11", "fd00:1::11"),
            web: host("web", "network front", "10.1.0.10", "fd00:1::10"),
            other: host("other", "network back", "10.2.0.10", "fd00:2::10"),
            outside: host("outside", "beyond the uplink", "192.0.2.1", "2001:db8::1"),
            near: host("near", "overlay mesh", "10.9.0.11", "fd00:9::11"),
            distant: host("distant", "overlay mesh, second gateway", "10.9.0.12", "fd00:9::12"),
            prefix,
        }
    }

    /// Everybody.
    pub(super) fn hosts(&self) -> [&Host; 6] {
        [&self.client, &self.web, &self.other, &self.outside, &self.near, &self.distant]
    }

    /// The gateway's address on the uplink.
    pub(super) fn gateway(&self, family: Family) -> IpAddr {
        parse(family, ["192.0.2.10", "2001:db8::10"])
    }

    /// The gateway's address in network front.
    pub(super) fn front_gateway(&self, family: Family) -> IpAddr {
        parse(family, ["10.1.0.1", "fd00:1::1"])
    }

    /// The far server's address.
    pub(super) fn far(&self, family: Family) -> IpAddr {
        parse(family, FAR)
    }

    /// The config, as an operator would write it.
    pub(super) fn config_text(&self, options: &DemoOptions) -> String {
        let prefix = &self.prefix;
        let workers = match options.workers {
            Some(count) => count.to_string(),
            None => "\"auto\"".to_owned(),
        };
        format!(
            r#"
[gateway]
workers = {workers}

[uplink.wan]
driver = "tap"
interface = "eth0"
netns = "{prefix}outside"
create = true
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24", "2001:db8::1/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"

[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]

[network.back]
subnets = ["10.2.0.0/24", "fd00:2::/64"]

[endpoint.web]
attach = {{ netns = "{prefix}web", create = true }}
publish = ["{PUBLISHED}:{SERVICE}", "{PUBLISHED}:{SERVICE}/udp"]
network = [{{ name = "front", ip = "10.1.0.10", ip6 = "fd00:1::10", mac = "{WEB_MAC}" }}]

[endpoint.client]
attach = {{ netns = "{prefix}client", create = true }}
network = [{{ name = "front", ip = "10.1.0.11", ip6 = "fd00:1::11" }}]

[endpoint.other]
attach = {{ netns = "{prefix}other", create = true }}
network = [{{ name = "back", ip = "10.2.0.10", ip6 = "fd00:2::10" }}]

[network.mesh]
driver = "overlay"
vni = 4097
subnets = ["10.9.0.0/24", "fd00:9::/64"]
peers = ["{SECOND}"]

[endpoint.near]
attach = {{ netns = "{prefix}near", create = true }}
network = [{{ name = "mesh", ip = "10.9.0.11", ip6 = "fd00:9::11" }}]
"#
        )
    }

    /// That of the second gateway, on another link of the outside.
    fn second_config_text(&self) -> String {
        let (prefix, peer) = (&self.prefix, self.gateway(Family::V4));
        format!(
            r#"
[gateway]
workers = 1

[uplink.wan]
driver = "tap"
interface = "eth1"
netns = "{prefix}outside"
addresses = ["{SECOND}/24"]
host_addresses = ["198.18.0.1/24"]
gateway = "198.18.0.1"

[network.mesh]
driver = "overlay"
vni = 4097
subnets = ["10.9.0.0/24", "fd00:9::/64"]
gateways = ["10.9.0.2", "fd00:9::2"]
peers = ["{peer}"]

[endpoint.distant]
attach = {{ netns = "{prefix}distant", create = true }}
network = [{{ name = "mesh", ip = "10.9.0.12", ip6 = "fd00:9::12" }}]
"#
        )
    }

    /// The checked config.
    pub(super) fn config(&self, options: &DemoOptions) -> Config {
        checked(&self.config_text(options))
    }

    /// That of the second gateway. It wants the namespace of the outside, so it starts later.
    pub(super) fn second_config(&self) -> Config {
        checked(&self.second_config_text())
    }

    /// Gives the outside what the config does not: the far server's addresses, and routes to the
    /// endpoints' own addresses, so that only the gateway stands between. It forwards what is for
    /// the second gateway.
    pub(super) fn furnish_outside(&self) -> Result<(), Error> {
        let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        netns::within(&self.outside.path, forward)?.map_err(|source| Error::Namespace {
            action: "switch on forwarding in",
            path: self.outside.path.clone(),
            source,
        })?;
        let netlink = Netlink::open(Some(&self.outside.path))?;
        for family in Family::BOTH {
            netlink.add_address("lo", IpNet::from(self.far(family)))?;
            let subnets = match family {
                Family::V4 => ["10.1.0.0/24", "10.2.0.0/24"],
                Family::V6 => ["fd00:1::/64", "fd00:2::/64"],
            };
            for subnet in subnets {
                let subnet = subnet.parse().expect("a constant of this file");
                netlink.add_route("eth0", subnet, Some(self.gateway(family)))?;
            }
        }
        Ok(())
    }
}

fn checked(text: &str) -> Config {
    Config::parse("demo.toml", text).unwrap_or_else(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(|line| format!("{line:#}")).collect();
        panic!("the demo's own config is valid, but:\n{}", lines.join("\n"))
    })
}

fn parse(family: Family, [ipv4, ipv6]: [&str; 2]) -> IpAddr {
    let text = match family {
        Family::V4 => ipv4,
        Family::V6 => ipv6,
    };
    text.parse().expect("a constant of this file")
}
