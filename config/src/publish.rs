//! Docker's `-p` grammar: `[[ip:][hostPort|a-b]:]containerPort|c-d[/tcp|udp|sctp]`.
//!
//! Read as Docker's client reads it (go-connections, `nat.ParsePortSpec`), and refused in its
//! words, so that what works there works here. Where the number is left open (`80`,
//! `127.0.0.1::80`, a range for a single port), `check/ports.rs` chooses it.

use std::fmt;
use std::net::IpAddr;

use engine::tables::Protocol;

/// A published range as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) host: Option<IpAddr>,
    pub(crate) host_ports: HostPorts,
    pub(crate) port_count: u16,
    pub(crate) target_port: u16,
    pub(crate) protocol: Protocol,
}

/// Which ports of the host are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPorts {
    /// As many as there are at the endpoint, from this one on.
    From(u16),
    /// One of these, both ends included; the endpoint has one.
    OneOf(u16, u16),
    /// Any that are free.
    Any,
}

/// How a mapping is written that leaves its port open: what a lease is told by.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V6(host)) => write!(f, "[{host}]:")?,
            Some(host) => write!(f, "{host}:")?,
            None => {}
        }
        match self.host_ports {
            HostPorts::From(first) => write!(f, "{first}:")?,
            HostPorts::OneOf(first, last) => write!(f, "{first}-{last}:")?,
            HostPorts::Any if self.host.is_some() => f.write_str(":")?,
            HostPorts::Any => {}
        }
        write!(f, "{}", self.target_port)?;
        if self.port_count > 1 {
            write!(f, "-{}", self.target_port + (self.port_count - 1))?;
        }
        write!(f, "/{}", self.protocol)
    }
}

/// Reads one mapping. The error says why it is refused.
pub(crate) fn parse(spec: &str) -> Result<Mapping, String> {
    let (host, host_ports, target) = split(spec);
    let (protocol_text, target_ports) = split_protocol(target);
    let host = host.map(parse_host).transpose()?;
    if target_ports.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let (target_first, target_last) = range(target_ports)
        .filter(|(first, _)| *first > 0)
        .ok_or_else(|| format!("invalid containerPort: {target_ports}"))?;
    let host_range = match host_ports {
        "" => None,
        text => Some(range(text).ok_or_else(|| format!("invalid hostPort: {text}"))?),
    };
    let protocol = protocol(protocol_text)?;
    let target_count_less_one = target_last - target_first;
    let host_ports = match host_range {
        None | Some((0, 0)) => HostPorts::Any,
        Some((0, _)) => return Err(format!("invalid hostPort: {host_ports}")),
        Some((first, last)) if last - first == target_count_less_one => HostPorts::From(first),
        Some((first, last)) if target_count_less_one == 0 => HostPorts::OneOf(first, last),
        Some(_) => {
            let message = format!(
                "invalid ranges specified for container and host Ports: {target_ports} and \
                 {host_ports}"
            );
            return Err(message);
        }
    };
    // All of 1 to 65535 is 65,535 ports, so the count fits.
    let port_count = target_count_less_one + 1;
    Ok(Mapping { host, host_ports, port_count, target_port: target_first, protocol })
}

/// Reads one exposed port or range of ports: Docker's `--expose`. The error says why it is refused.
pub(crate) fn parse_exposed(spec: &str) -> Result<Mapping, String> {
    if spec.contains(':') {
        return Err(format!("invalid port format for --expose: {spec}"));
    }
    parse(spec)
        .map_err(|error| format!("invalid range format for --expose: {spec}, error: {error}"))
}

/// Splits at the last two colons, so that an IPv6 address keeps its own.
fn split(spec: &str) -> (Option<&str>, &str, &str) {
    let Some((front, target)) = spec.rsplit_once(':') else { return (None, "", spec) };
    match front.rsplit_once(':') {
        Some((host, host_ports)) => {
            (Some(host).filter(|host| !host.is_empty()), host_ports, target)
        }
        None => (None, front, target),
    }
}

fn split_protocol(target: &str) -> (&str, &str) {
    match target.split_once('/') {
        None => ("tcp", target),
        Some(("", _)) => ("", ""),
        Some((ports, "")) => ("tcp", ports),
        Some((ports, rest)) => (rest.split('/').next().unwrap_or(rest), ports),
    }
}

fn parse_host(host: &str) -> Result<IpAddr, String> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(host).parse().map_err(|_| format!("invalid IP address: {host}"))
}

/// A protocol that has ports, in letters of any size.
pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("invalid proto: {text}")),
    }
}

/// A port or a range of ports; the first is not above the last.
pub(crate) fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        // A sign is a number to Rust, and no port to anybody.
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(host: Option<&str>, ports: (u16, u16, u16), protocol: Protocol) -> Mapping {
        Mapping {
            host: host.map(|host| host.parse().unwrap()),
            host_ports: if ports.0 == 0 { HostPorts::Any } else { HostPorts::From(ports.0) },
            port_count: ports.1,
            target_port: ports.2,
            protocol,
        }
    }

    #[test]
    fn all_forms_are_read() {
        use Protocol::{Sctp, Tcp, Udp};
        let cases = [
            ("8080:80", mapping(None, (8080, 1, 80), Tcp)),
            ("8080:80/", mapping(None, (8080, 1, 80), Tcp)),
            (":8080:80", mapping(None, (8080, 1, 80), Tcp)),
            ("53:53/UDP", mapping(None, (53, 1, 53), Udp)),
            ("127.0.0.1:8443:443", mapping(Some("127.0.0.1"), (8443, 1, 443), Tcp)),
            ("8000-8010:8000-8010/sctp", mapping(None, (8000, 11, 8000), Sctp)),
            ("81:80/sctp", mapping(None, (81, 1, 80), Sctp)),
            ("80/SCTP", mapping(None, (0, 1, 80), Sctp)),
            ("[2001:db8::10]:80:80", mapping(Some("2001:db8::10"), (80, 1, 80), Tcp)),
            ("2001:db8::10:80:80", mapping(Some("2001:db8::10"), (80, 1, 80), Tcp)),
            ("1-65535:1-65535", mapping(None, (1, 65535, 1), Tcp)),
            ("80", mapping(None, (0, 1, 80), Tcp)),
            (":80", mapping(None, (0, 1, 80), Tcp)),
            ("0:80", mapping(None, (0, 1, 80), Tcp)),
            ("80-90/Udp", mapping(None, (0, 11, 80), Udp)),
            ("127.0.0.1::80", mapping(Some("127.0.0.1"), (0, 1, 80), Tcp)),
            ("[::1]:8080:80", mapping(Some("::1"), (8080, 1, 80), Tcp)),
            ("[::1]::80", mapping(Some("::1"), (0, 1, 80), Tcp)),
        ];
        for (spec, expected) in cases {
            assert_eq!(parse(spec), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn refusals_are_in_the_words_of_docker() {
        let cases = [
            ("", "no port specified: <empty>"),
            (":", "no port specified: :<empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("80:/tcp", "no port specified: 80:/tcp<empty>"),
            ("80:80/foo", "invalid proto: foo"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("[::1:80:80", "invalid IP address: [::1"),
            ("80:80000", "invalid containerPort: 80000"),
            ("80:+80", "invalid containerPort: +80"),
            ("80:0", "invalid containerPort: 0"),
            ("80:90-80", "invalid containerPort: 90-80"),
            ("80000:80", "invalid hostPort: 80000"),
            ("-:80", "invalid hostPort: -"),
            ("1-3:4-5", "invalid ranges specified for container and host Ports: 4-5 and 1-3"),
            ("0-3:80", "invalid hostPort: 0-3"),
        ];
        for (spec, message) in cases {
            assert_eq!(parse(spec).unwrap_err(), message, "{spec}");
        }
    }

    #[test]
    fn what_is_exposed_is_a_port_of_the_endpoint_and_none_of_the_host() {
        assert_eq!(parse_exposed("80-90/udp"), parse("80-90/udp"));
        let refused = |spec| parse_exposed(spec).unwrap_err();
        assert_eq!(refused("8080:80"), "invalid port format for --expose: 8080:80");
        let expected = "invalid range format for --expose: 0, error: invalid containerPort: 0";
        assert_eq!(refused("0"), expected);
    }

    #[test]
    fn a_range_for_one_port_is_a_choice() {
        let one_of = Mapping { host_ports: HostPorts::OneOf(8000, 8010), ..parse("80").unwrap() };
        assert_eq!(parse("8000-8010:80"), Ok(one_of));
        for spec in ["8000-8010:80/tcp", "80-90/udp", "127.0.0.1::80/tcp", "[::1]:1-2:80/tcp"] {
            assert_eq!(parse(spec).unwrap().to_string(), spec);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(spec in "[0-9a-f:./\\[\\]tcpudps-]{0,24}|\\PC{0,16}") {
            if let Ok(mapping) = parse(&spec) {
                if let HostPorts::From(first) = mapping.host_ports {
                    let last = u32::from(first) + u32::from(mapping.port_count) - 1;
                    prop_assert!(first > 0 && last <= 65_535);
                }
                let last = u32::from(mapping.target_port) + u32::from(mapping.port_count) - 1;
                prop_assert!(mapping.target_port > 0 && last <= 65_535);
            }
        }
    }
}
