//! Checked rules about who may talk to whom, by names, and how a rule reads.

use std::fmt;

use engine::tables::{Protocol, RuleAction};
use ipnet::IpNet;

use crate::words;

/// A rule; the first that fits a packet decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rule {
    /// What happens.
    pub action: RuleAction,
    /// Who sends.
    pub from: RuleSide,
    /// To whom, as the packet comes: published ports and addresses of uplinks are the host's.
    pub to: RuleSide,
    /// IANA numbers of the protocols; empty: any.
    pub protocols: Vec<u8>,
}

/// One side of a rule. What it does not say fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RuleSide {
    /// Behind this uplink.
    pub uplink: Option<String>,
    /// In this network.
    pub network: Option<String>,
    /// This endpoint.
    pub endpoint: Option<String>,
    /// With one of these addresses; empty: any.
    pub cidr: Vec<IpNet>,
    /// At one of these ports; empty: any.
    pub ports: Vec<Ports>,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
    /// Of this protocol; `None`: of those of the rule.
    pub protocol: Option<Protocol>,
}

impl RuleSide {
    /// True if it fits everything.
    pub fn is_open(&self) -> bool {
        *self == RuleSide::default()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

/// The word of a rule for protocols, as the config has it.
pub(crate) fn protocol_word(protocols: &[u8]) -> Option<String> {
    match protocols {
        [] => None,
        [number] => Some(
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                .iter()
                .find(|known| known.number() == *number)
                .map_or_else(|| number.to_string(), ToString::to_string),
        ),
        _ => Some("icmp".to_owned()),
    }
}

/// `deny tcp from uplink wan 203.0.113.0/24 to endpoint web ports 8080/tcp`
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(words::of(words::RULE_ACTION, &self.action))?;
        if let Some(protocol) = protocol_word(&self.protocols) {
            write!(f, " {protocol}")?;
        }
        for (word, side) in [("from", &self.from), ("to", &self.to)] {
            write!(f, " {word}")?;
            let named = [
                ("uplink", &side.uplink),
                ("network", &side.network),
                ("endpoint", &side.endpoint),
            ];
            for (kind, name) in named {
                name.as_ref().map_or(Ok(()), |name| write!(f, " {kind} {name}"))?;
            }
            for prefix in &side.cidr {
                write!(f, " {prefix}")?;
            }
            for (index, ports) in side.ports.iter().enumerate() {
                write!(f, "{}{ports}", if index == 0 { " ports " } else { "," })?;
            }
            if side.is_open() {
                f.write_str(" any")?;
            }
        }
        Ok(())
    }
}
