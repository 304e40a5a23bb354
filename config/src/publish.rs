//! Docker's `-p` grammar: `[[ip:][hostPort|a-b]:]containerPort|c-d[/tcp|udp|sctp]`.
//!
//! Read as Docker's client reads it (go-connections, `nat.ParsePortSpec`), and refused in its
//! words, so that what works there works here. Where the host port is left to Docker (`80`,
//! `127.0.0.1::80`, a range for a single port) the mapping is refused for now.

use std::net::IpAddr;

use engine::tables::Protocol;

/// A published range as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) host: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) port_count: u16,
    pub(crate) target_port: u16,
    pub(crate) protocol: Protocol,
}

/// Why a mapping is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl From<String> for Refused {
    fn from(message: String) -> Refused {
        Refused { message, hint: None }
    }
}

/// Reads one mapping.
pub(crate) fn parse(spec: &str) -> Result<Mapping, Refused> {
    let (host, host_ports, target) = split(spec);
    let (protocol_text, target_ports) = split_protocol(target);
    let host = host.map(parse_host).transpose()?;
    if target_ports.is_empty() {
        return Err(format!("no port specified: {spec}<empty>").into());
    }
    let (target_first, target_last) = range(target_ports)
        .filter(|(first, _)| *first > 0)
        .ok_or_else(|| format!("invalid containerPort: {target_ports}"))?;
    let host_range = match host_ports {
        "" => None,
        text => Some(range(text).ok_or_else(|| format!("invalid hostPort: {text}"))?),
    };
    let protocol = protocol(protocol_text)?;
    let Some((host_first, host_last)) = host_range.filter(|(first, _)| *first > 0) else {
        return Err(ephemeral("without a host port", target_ports));
    };
    if protocol == Protocol::Sctp && host_first != target_first {
        // The checksum of SCTP covers the ports, so changing one means summing the whole packet.
        return Err(format!(
            "publishing {spec} is not in this version: an sctp port keeps its number, \
             publish it as {target_ports}:{target_ports}/sctp"
        )
        .into());
    }
    if host_last - host_first != target_last - target_first {
        if target_first == target_last {
            return Err(ephemeral("with a range of host ports for one port", target_ports));
        }
        let message = format!(
            "invalid ranges specified for container and host Ports: {target_ports} and {host_ports}"
        );
        return Err(message.into());
    }
    Ok(Mapping {
        host,
        host_port: host_first,
        // All of 1 to 65535 is 65,535 ports, so the count fits.
        port_count: host_last - host_first + 1,
        target_port: target_first,
        protocol,
    })
}

fn ephemeral(form: &str, target_ports: &str) -> Refused {
    Refused {
        message: format!("publishing {form} is not in this version"),
        hint: Some(format!("name the host port, such as \"8080:{target_ports}\"")),
    }
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

fn parse_host(host: &str) -> Result<IpAddr, Refused> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(host).parse().map_err(|_| format!("invalid IP address: {host}").into())
}

/// A protocol that has ports, in letters of any size.
pub(crate) fn protocol(text: &str) -> Result<Protocol, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("invalid proto: {text}").into()),
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
            host_port: ports.0,
            port_count: ports.1,
            target_port: ports.2,
            protocol,
        }
    }

    #[test]
    fn all_forms_with_a_host_port_are_read() {
        use Protocol::{Sctp, Tcp, Udp};
        let cases = [
            ("8080:80", mapping(None, (8080, 1, 80), Tcp)),
            ("8080:80/", mapping(None, (8080, 1, 80), Tcp)),
            (":8080:80", mapping(None, (8080, 1, 80), Tcp)),
            ("53:53/UDP", mapping(None, (53, 1, 53), Udp)),
            ("127.0.0.1:8443:443", mapping(Some("127.0.0.1"), (8443, 1, 443), Tcp)),
            ("8000-8010:8000-8010/sctp", mapping(None, (8000, 11, 8000), Sctp)),
            ("[2001:db8::10]:80:80", mapping(Some("2001:db8::10"), (80, 1, 80), Tcp)),
            ("2001:db8::10:80:80", mapping(Some("2001:db8::10"), (80, 1, 80), Tcp)),
            ("1-65535:1-65535", mapping(None, (1, 65535, 1), Tcp)),
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
            ("80", "publishing without a host port is not in this version"),
            (":80", "publishing without a host port is not in this version"),
            ("0:80", "publishing without a host port is not in this version"),
            ("127.0.0.1::80", "publishing without a host port is not in this version"),
            (
                "8000-8010:80",
                "publishing with a range of host ports for one port is not in this version",
            ),
        ];
        for (spec, message) in cases {
            assert_eq!(parse(spec).unwrap_err().message, message, "{spec}");
        }
        let refused = parse("80/udp").unwrap_err();
        assert_eq!(refused.hint.unwrap(), "name the host port, such as \"8080:80\"");
    }

    proptest! {
        #[test]
        fn no_text_panics(spec in "[0-9a-f:./\\[\\]tcpudps-]{0,24}|\\PC{0,16}") {
            if let Ok(mapping) = parse(&spec) {
                let last = u32::from(mapping.host_port) + u32::from(mapping.port_count) - 1;
                prop_assert!(mapping.host_port > 0 && last <= 65_535);
                let last = u32::from(mapping.target_port) + u32::from(mapping.port_count) - 1;
                prop_assert!(mapping.target_port > 0 && last <= 65_535);
            }
        }
    }
}
