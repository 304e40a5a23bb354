//! What was given out before, so that it is given out again: the memory of allocation.
//!
//! Allocation itself knows no past and no clock. Whoever keeps [`Leases`] across starts and
//! reloads hands them to [`Config::load_with`] and takes [`Config::leases`] of what came out; in
//! between, [`Leases::follow`] moves what is no longer used into quarantine, with the moment until
//! which it rests. The one hard constraint: leases are wishes, never orders. One that no longer
//! fits the file is passed over, so no content of a lease store can make a good file refused.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::MacAddress;
use engine::tables::Protocol;
use ipnet::IpNet;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::model::Config;

/// Longest time that a released address rests: a moment further away than this comes from a clock
/// that was set back, and counts as passed.
pub const QUARANTINE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Addresses, MAC addresses and subnets that are or were given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leases {
    /// By network, then by endpoint: what that endpoint has there.
    pub endpoints: BTreeMap<String, BTreeMap<String, Lease>>,
    /// By network: its subnets, in their order.
    pub subnets: BTreeMap<String, Vec<IpNet>>,
    /// By network: addresses that were released a short time ago.
    pub quarantined: BTreeMap<String, Vec<Released>>,
    /// By endpoint, then by mapping as it is written: published ports that the file leaves open,
    /// one per time that it is written.
    pub ports: BTreeMap<String, BTreeMap<String, Vec<u16>>>,
    /// The last port of the ephemeral range that was given.
    pub last_port: Option<u16>,
    /// Where such ports come from. No lease, but a matter of the machine.
    #[serde(skip)]
    pub ephemeral: EphemeralPorts,
}

/// The ports from which published ports are given that the file leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EphemeralPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Ports in it that are never given: `net.ipv4.ip_local_reserved_ports`, first and last each.
    pub reserved: Vec<(u16, u16)>,
    /// Ports that other programs have now.
    pub busy: Vec<(Protocol, u16)>,
}

impl Default for EphemeralPorts {
    /// What Linux has if nobody has changed it.
    fn default() -> EphemeralPorts {
        EphemeralPorts { first: 32_768, last: 60_999, reserved: Vec::new(), busy: Vec::new() }
    }
}

/// What an endpoint has in one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address.
    #[serde(serialize_with = "mac_as_text", deserialize_with = "mac_from_text")]
    pub mac: MacAddress,
}

impl Lease {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// An address that rests: it is given to nobody but the endpoint that had it, unless the network
/// has no other left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The address.
    pub address: IpAddr,
    /// The endpoint that had it.
    pub endpoint: String,
    /// Until when, in seconds since 1970 UTC.
    pub until_seconds: u64,
}

impl Leases {
    /// What an endpoint has in a network.
    pub fn get(&self, network: &str, endpoint: &str) -> Option<&Lease> {
        self.endpoints.get(network)?.get(endpoint)
    }

    /// Notes what an endpoint has in a network.
    pub fn insert(&mut self, network: &str, endpoint: &str, lease: Lease) {
        let of_network = self.endpoints.entry(network.to_owned()).or_default();
        of_network.insert(endpoint.to_owned(), lease);
    }

    /// All leases, as network, endpoint and what it has.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Lease)> {
        self.endpoints.iter().flat_map(|(network, endpoints)| {
            endpoints.iter().map(move |(endpoint, lease)| (&**network, &**endpoint, lease))
        })
    }

    /// Ends every quarantine whose time has passed. To be called before they are given to
    /// [`Config::load_with`], which takes whatever is in quarantine for resting still.
    pub fn expire(&mut self, now: SystemTime) {
        let now = seconds(now);
        let horizon = now + QUARANTINE_MAX.as_secs();
        for released in self.quarantined.values_mut() {
            released.retain(|entry| now < entry.until_seconds && entry.until_seconds <= horizon);
        }
        self.quarantined.retain(|_, released| !released.is_empty());
    }

    /// Makes these the leases of a config that has become the running one. An address that it no
    /// longer uses rests for the quarantine time of its network; those of a network that is gone
    /// are free at once.
    pub fn follow(&mut self, config: &Config, now: SystemTime) {
        let next = config.leases();
        let mut quarantined = std::mem::take(&mut self.quarantined);
        for network in &config.networks {
            let rest_seconds = network.quarantine.as_secs();
            let until_seconds = seconds(now).saturating_add(rest_seconds);
            let in_use = |leases: &Leases| -> HashSet<IpAddr> {
                let endpoints = leases.endpoints.get(&network.name).into_iter().flatten();
                endpoints.flat_map(|(_, lease)| lease.addresses()).collect()
            };
            let in_use = in_use(&next);
            let released = quarantined.entry(network.name.clone()).or_default();
            released.retain(|entry| !in_use.contains(&entry.address));
            let before = self.endpoints.get(&network.name).into_iter().flatten();
            for (endpoint, lease) in before.filter(|_| rest_seconds > 0) {
                let gone = lease.addresses().filter(|address| !in_use.contains(address));
                released.extend(gone.map(|address| Released {
                    address,
                    endpoint: endpoint.clone(),
                    until_seconds,
                }));
            }
        }
        quarantined.retain(|name, released| {
            !released.is_empty()
                && config.network(name).is_some_and(|own| !own.quarantine.is_zero())
        });
        let ephemeral = std::mem::take(&mut self.ephemeral);
        *self = Leases { quarantined, ephemeral, ..next };
        self.expire(now);
    }
}

impl Config {
    /// What this config uses: every address, whether the file gives it or not, and every subnet.
    /// Nothing is in quarantine.
    pub fn leases(&self) -> Leases {
        let mut leases = Leases::default();
        for endpoint in &self.endpoints {
            for attachment in &endpoint.attachments {
                let lease = Lease {
                    ipv4: attachment.ipv4_address(),
                    ipv6: attachment.ipv6_address(),
                    mac: attachment.mac,
                };
                leases.insert(&attachment.network, &endpoint.name, lease);
            }
        }
        for network in &self.networks {
            let prefixes = network.subnets.iter().map(|subnet| subnet.prefix).collect();
            leases.subnets.insert(network.name.clone(), prefixes);
        }
        leases.ports.clone_from(&self.port_leases);
        leases.last_port = self.last_port;
        leases
    }
}

/// Seconds since 1970; a clock before that counts as that.
fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn mac_as_text<S: Serializer>(mac: &MacAddress, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mac)
}

fn mac_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddress, D::Error> {
    struct MacVisitor;

    impl serde::de::Visitor<'_> for MacVisitor {
        type Value = MacAddress;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a MAC address")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MacAddress, E> {
            text.parse().map_err(|_| E::custom(format_args!("{text:?} is no MAC address")))
        }
    }

    deserializer.deserialize_str(MacVisitor).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "[network.front]\nsubnet = \"10.1.0.0/24\"\nquarantine = \"1m\"\n\
                       [endpoint.a]\nattach = { netns = \"a\" }\n\
                       [[endpoint.a.network]]\nname = \"front\"\n\
                       [endpoint.b]\nattach = { netns = \"b\" }\n\
                       [[endpoint.b.network]]\nname = \"front\"\n";

    fn parse(text: &str, leases: &Leases) -> Config {
        Config::parse_with("x.toml", text, leases).unwrap_or_else(|found| panic!("{found:#?}"))
    }

    fn address(config: &Config, endpoint: &str) -> String {
        config.endpoint(endpoint).unwrap().attachments[0].ipv4_address().unwrap().to_string()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn leases_survive_being_written_and_read() {
        let mut leases = parse(TWO, &Leases::default()).leases();
        let released = Released {
            address: "10.1.0.9".parse().unwrap(),
            endpoint: "gone".into(),
            until_seconds: 7,
        };
        leases.quarantined.insert("front".into(), vec![released]);
        let text = toml::to_string(&leases).unwrap();
        assert!(text.contains("mac = \"02:42:0a:01:00:02\""), "{text}");
        assert_eq!(toml::from_str::<Leases>(&text).unwrap(), leases);
    }

    #[test]
    fn a_released_address_rests_for_all_but_its_former_holder() {
        let mut leases = Leases::default();
        leases.follow(&parse(TWO, &leases), at(1_000));
        assert!(leases.quarantined.is_empty());
        let without_a = TWO.replace("endpoint.a", "endpoint.c").replace("\"a\"", "\"c\"");
        let config = parse(&without_a, &leases);
        // Endpoint a was there a moment ago, as its lease says.
        assert_eq!(
            (address(&config, "c"), address(&config, "b")),
            ("10.1.0.4".into(), "10.1.0.3".into())
        );
        leases.follow(&config, at(1_000));
        assert_eq!(leases.quarantined["front"][0].until_seconds, 1_060);
        let three = format!(
            "{without_a}[endpoint.a]\nattach = {{ netns = \"a\" }}\n\
             [[endpoint.a.network]]\nname = \"front\"\n"
        );
        assert_eq!(address(&parse(&three, &leases), "a"), "10.1.0.2");
        let other = three.replace("endpoint.a", "endpoint.d");
        leases.expire(at(1_059));
        assert_eq!(address(&parse(&other, &leases), "d"), "10.1.0.5");
        leases.expire(at(1_060));
        assert_eq!(address(&parse(&other, &leases), "d"), "10.1.0.2");
    }

    #[test]
    fn a_quarantine_from_a_clock_that_was_set_back_ends() {
        let mut leases = Leases::default();
        let released = Released {
            address: "10.1.0.2".parse().unwrap(),
            endpoint: "gone".into(),
            until_seconds: 10_000_000_000,
        };
        leases.quarantined.insert("front".into(), vec![released]);
        leases.expire(at(1_000));
        assert_eq!(leases, Leases::default());
    }
}
