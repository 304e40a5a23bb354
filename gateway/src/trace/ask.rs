//! From words to a filter: which live packets are wanted.
//!
//! The one hard constraint: what names nothing in the config is refused with what would have been
//! right; a filter that is passed over would show too much.

use config::Config;
use engine::PortSet;
use engine::trace::TraceFilter;
use engine::wire::{ethernet, protocol};
use ipnet::IpNet;

use crate::api::model::Failure;

/// Which packets are wanted, as it was written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Wanted {
    /// It comes from this address or prefix, or from an address of this endpoint
    #[arg(long, value_name = "ADDRESS[/BITS]|ENDPOINT")]
    pub from: Option<String>,
    /// It goes to this one, as it comes in
    #[arg(long, value_name = "ADDRESS[/BITS]|ENDPOINT")]
    pub to: Option<String>,
    /// It comes from this endpoint, or goes there after all translation
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// It comes in or leaves by this uplink
    #[arg(long, value_name = "NAME")]
    pub uplink: Option<String>,
    /// tcp, udp, sctp, icmp (of both families), arp, or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// From or to this port, as it comes in
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// End after so many packets
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

fn bad(error: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure { error: error.into(), hint: Some(hint.into()), ..Failure::default() }
}

fn unknown(what: &str, name: &str, known: &[&str]) -> Failure {
    let hint = match config::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    };
    bad(format!("there is no {what} `{name}`"), hint)
}

/// What the words mean under a config.
pub(crate) fn filter(wanted: &Wanted, config: &Config) -> Result<TraceFilter, Failure> {
    let nets = |text: &Option<String>| match text {
        Some(text) => addresses(text, config),
        None => Ok(Vec::new()),
    };
    let (protocols, ethertype) = match &wanted.protocol {
        Some(name) => protocols(name)?,
        None => (Vec::new(), None),
    };
    Ok(TraceFilter {
        from: nets(&wanted.from)?,
        to: nets(&wanted.to)?,
        protocols,
        ethertype,
        port: wanted.port,
        endpoint: wanted.endpoint.as_deref().map(|name| endpoint(name, config)).transpose()?,
        uplink: wanted.uplink.as_deref().map(|name| uplink(name, config)).transpose()?,
    })
}

/// An address, a prefix, or the addresses of an endpoint.
fn addresses(text: &str, config: &Config) -> Result<Vec<IpNet>, Failure> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(vec![net]);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(vec![address.into()]);
    }
    let Some(endpoint) = config.endpoint(text) else {
        let known: Vec<&str> = config.endpoints.iter().map(|one| &*one.name).collect();
        return Err(unknown("address, prefix or endpoint", text, &known));
    };
    let own = endpoint.attachments.iter().flat_map(|one| {
        let v4 = one.ipv4_address().map(|address| IpNet::from(std::net::IpAddr::V4(address)));
        let v6 = one.ipv6_address().map(|address| IpNet::from(std::net::IpAddr::V6(address)));
        v4.into_iter().chain(v6)
    });
    Ok(own.collect())
}

fn protocols(name: &str) -> Result<(Vec<u8>, Option<u16>), Failure> {
    Ok(match name {
        "tcp" => (vec![protocol::TCP], None),
        "udp" => (vec![protocol::UDP], None),
        "sctp" => (vec![protocol::SCTP], None),
        "icmp" => (vec![protocol::ICMP, protocol::ICMPV6], None),
        "icmpv6" => (vec![protocol::ICMPV6], None),
        "arp" => (Vec::new(), Some(ethernet::ARP)),
        number => match number.parse() {
            Ok(number) => (vec![number], None),
            Err(_) => {
                let hint = "tcp, udp, sctp, icmp, icmpv6, arp, or a number up to 255";
                return Err(bad(format!("there is no protocol `{number}`"), hint));
            }
        },
    })
}

fn endpoint(name: &str, config: &Config) -> Result<PortSet, Failure> {
    let Some(endpoint) = config.endpoint(name) else {
        let known: Vec<&str> = config.endpoints.iter().map(|one| &*one.name).collect();
        return Err(unknown("endpoint", name, &known));
    };
    let mut ports = PortSet::default();
    endpoint.attachments.iter().for_each(|attachment| ports.insert(attachment.port));
    Ok(ports)
}

fn uplink(name: &str, config: &Config) -> Result<PortSet, Failure> {
    let Some(uplink) = config.uplink(name) else {
        let known: Vec<&str> = config.uplinks.iter().map(|one| &*one.name).collect();
        return Err(unknown("uplink", name, &known));
    };
    let mut ports = PortSet::default();
    ports.insert(uplink.port);
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24"]
[network.front]
subnet = "10.1.0.0/24"
[endpoint.web]
attach = { netns = "web", create = true }
network = [{ name = "front", ip = "10.1.0.10" }]
"#;

    fn asked(wanted: &Wanted) -> Result<TraceFilter, Failure> {
        filter(wanted, &Config::parse("test.toml", CONFIG).unwrap())
    }

    #[test]
    fn every_word_narrows_the_filter() {
        let text = |text: &str| Some(text.to_owned());
        let found = asked(&Wanted {
            from: text("web"),
            to: text("2001:db8::/32"),
            endpoint: text("web"),
            uplink: text("wan"),
            protocol: text("icmp"),
            port: Some(7),
            count: None,
        })
        .unwrap();
        assert_eq!(found.from, ["10.1.0.10/32".parse::<IpNet>().unwrap()]);
        assert_eq!(found.to, ["2001:db8::/32".parse::<IpNet>().unwrap()]);
        assert_eq!((&found.protocols[..], found.port), (&[1, 58][..], Some(7)));
        assert!(!found.endpoint.unwrap().is_empty() && !found.uplink.unwrap().is_empty());
        let arp = asked(&Wanted { protocol: text("arp"), ..Wanted::default() }).unwrap();
        assert_eq!(arp.ethertype, Some(0x0806));
    }

    #[test]
    fn what_names_nothing_is_refused_with_what_would_be_right() {
        let text = |text: &str| Some(text.to_owned());
        let wrong = [
            (Wanted { from: text("wbe"), ..Wanted::default() }, "`web`"),
            (Wanted { endpoint: text("we"), ..Wanted::default() }, "`web`"),
            (Wanted { uplink: text("lan"), ..Wanted::default() }, "wan"),
            (Wanted { protocol: text("tpc"), ..Wanted::default() }, "tcp"),
        ];
        for (wanted, hint) in wrong {
            let failure = asked(&wanted).unwrap_err();
            assert!(failure.hint.as_deref().unwrap().contains(hint), "{failure:?}");
        }
    }
}
