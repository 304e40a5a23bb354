//! `[[policy]]`: rules about who may talk to whom. Names exist, sides fit together, and no rule is
//! of a kind that no packet can meet.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::tables::Protocol;
use ipnet::IpNet;

use super::network::Networks;
use super::subnet::check_host_bits;
use super::uplink::Uplinks;
use super::{unknown_name, word};
use crate::model::Endpoint;
use crate::policy::{Ports, Rule, RuleSide};
use crate::publish;
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::words;

/// Most rules: their bit sets take 8 bytes for 64 rules in each segment of each dimension, so this
/// many with an address each are 4 MiB per dimension.
const RULE_COUNT_MAX: usize = 4_096;

/// What rules may name.
pub(super) struct Names<'n> {
    pub(super) uplinks: &'n Uplinks,
    pub(super) networks: &'n Networks,
    pub(super) endpoints: &'n [Endpoint],
    /// The endpoints of the file, those with an error too.
    pub(super) all_endpoints: Vec<&'n str>,
}

/// Checks all rules.
pub(super) fn check(
    rules: &Field<Vec<Field<schema::Rule>>>,
    names: &Names<'_>,
    report: &mut Report,
) -> Vec<Rule> {
    let fields = rules.value().map_or(&[][..], Vec::as_slice);
    if let Some(at) = rules.place().filter(|_| fields.len() > RULE_COUNT_MAX) {
        let count = fields.len();
        report.error(at, format!("{count} rules are too many, {RULE_COUNT_MAX} go"));
    }
    let by_name = names.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint));
    let checker = Checker { names, by_name: by_name.collect() };
    let mut checked = Vec::with_capacity(fields.len());
    let mut fits_all: Option<PlaceId> = None;
    for (at, table) in fields.iter().filter_map(Field::given) {
        if let Some(first) = fits_all {
            let problem = report.warning(at, "this rule is never asked");
            problem.related(first, "this one fits every packet");
        }
        let Some(rule) = checker.rule(at, table, report) else { continue };
        let is_whole = rule.from.is_open() && rule.to.is_open() && rule.protocols.is_empty();
        let says_nothing = table.from.is_absent() && table.to.is_absent();
        if is_whole && says_nothing && table.protocol.is_absent() {
            fits_all.get_or_insert(at);
        }
        checked.push(rule);
    }
    checked
}

struct Checker<'n> {
    names: &'n Names<'n>,
    by_name: HashMap<&'n str, &'n Endpoint>,
}

impl Checker<'_> {
    fn rule(&self, at: PlaceId, table: &schema::Rule, report: &mut Report) -> Option<Rule> {
        if table.action.is_absent() {
            let problem = report.error(at, "action is missing");
            problem.hint("write action = \"deny\", \"reject\" or \"allow\"");
        }
        let action = word(&table.action, words::RULE_ACTION, report);
        let protocols = protocols(&table.protocol, report).unwrap_or_default();
        let from = self.side(&table.from, &protocols, report);
        let to = self.side(&table.to, &protocols, report);
        let rule = Rule { action: action?, from, to, protocols };
        self.check_together(at, &rule, report);
        Some(rule)
    }

    fn side(
        &self,
        field: &Field<schema::RuleSide>,
        protocols: &[u8],
        report: &mut Report,
    ) -> RuleSide {
        let mut side = RuleSide::default();
        let Some((_, table)) = field.given() else { return side };
        if let Some((at, name)) = table.uplink.given() {
            let inside = table.network.place().or(table.endpoint.place());
            if let Some(other) = inside {
                let problem = report.error(at, "an uplink and what is inside exclude each other");
                problem.related(other, "this is inside");
            }
            let known = &self.names.uplinks.names;
            match known.contains(name) {
                true => side.uplink = Some(name.clone()),
                false => unknown_name(at, "uplink", name, known.iter().map(String::as_str), report),
            }
        }
        side.network = self.network(&table.network, report);
        side.endpoint = self.endpoint(&table.endpoint, side.network.as_deref(), report);
        for (at, text) in table.cidr.given().into_iter().flat_map(|(at, texts)| texts.each(at)) {
            let prefix = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            match prefix {
                Ok(prefix) => side.cidr.extend(check_host_bits(prefix, at, report)),
                Err(_) => {
                    let message = format!("expected an address or prefix, found {text:?}");
                    report.error(at, message);
                }
            }
        }
        for (at, text) in table.ports.given().into_iter().flat_map(|(at, texts)| texts.each(at)) {
            side.ports.extend(ports(at, text, protocols, report));
        }
        side
    }

    fn network(&self, field: &Field<String>, report: &mut Report) -> Option<String> {
        let (at, name) = field.given()?;
        let networks = self.names.networks;
        let Some(&index) = networks.by_name.get(name) else {
            unknown_name(at, "network", name, networks.by_name.keys().map(String::as_str), report);
            return None;
        };
        let network = &networks.list[index?];
        if !network.driver.has_link() {
            report.error(at, format!("no packet of network {name} passes the gateway"));
        }
        Some(name.clone())
    }

    fn endpoint(
        &self,
        field: &Field<String>,
        network: Option<&str>,
        report: &mut Report,
    ) -> Option<String> {
        let (at, name) = field.given()?;
        let Some(endpoint) = self.by_name.get(name.as_str()) else {
            let known = &self.names.all_endpoints;
            if !known.contains(&name.as_str()) {
                unknown_name(at, "endpoint", name, known.iter().copied(), report);
            }
            return None;
        };
        let attachments = &endpoint.attachments;
        if endpoint.alone_in.is_some() {
            report.error(at, format!("no packet of endpoint {name} passes the gateway"));
        } else if let Some(network) = network
            && !attachments.is_empty()
            && !attachments.iter().any(|own| own.network == network)
        {
            report.error(at, format!("endpoint {name} is not in network {network}"));
        }
        Some(name.clone())
    }

    /// What each side says alone is right; is there a packet of both?
    fn check_together(&self, at: PlaceId, rule: &Rule, report: &mut Report) {
        let family = |side: &RuleSide| {
            let v6 = side.cidr.first().map(|prefix| matches!(prefix, IpNet::V6(_)))?;
            side.cidr.iter().all(|prefix| matches!(prefix, IpNet::V6(_)) == v6).then_some(v6)
        };
        let families = family(&rule.from).zip(family(&rule.to));
        if families.is_some_and(|(from, to)| from != to) {
            report.error(at, "no packet is from one address family and to the other");
        }
        if rule.from.uplink.is_some() && rule.to.uplink.is_some() {
            report.error(at, "nothing passes from an uplink to an uplink");
        }
        if let Some(network) = self.sole_network(&rule.from)
            && self.sole_network(&rule.to).as_ref() == Some(&network)
            && self.is_bridged(&network)
        {
            let message = format!("members of network {network} reach each other past all rules");
            let problem = report.warning(at, message);
            problem.hint("with icc = false in the network, only at published ports");
        }
    }

    /// The network that a side is inside of, if it is one.
    fn sole_network(&self, side: &RuleSide) -> Option<String> {
        let endpoint = || self.by_name.get(side.endpoint.as_deref()?);
        match (&side.network, endpoint().map(|endpoint| &*endpoint.attachments)) {
            (Some(network), _) => Some(network.clone()),
            (None, Some([only])) => Some(only.network.clone()),
            _ => None,
        }
    }

    fn is_bridged(&self, network: &str) -> bool {
        let index = self.names.networks.by_name.get(network).copied().flatten();
        index.is_some_and(|index| self.names.networks.list[index].icc)
    }
}

/// `protocol`: a word or a number.
fn protocols(field: &Field<String>, report: &mut Report) -> Option<Vec<u8>> {
    let (at, text) = field.given()?;
    match text.as_str() {
        "tcp" => Some(vec![Protocol::Tcp.number()]),
        "udp" => Some(vec![Protocol::Udp.number()]),
        "sctp" => Some(vec![Protocol::Sctp.number()]),
        // ICMP and ICMPv6.
        "icmp" => Some(vec![1, 58]),
        _ => match text.parse() {
            Ok(number) => Some(vec![number]),
            Err(_) => {
                let message = format!(
                    "expected tcp, udp, sctp, icmp or a number from 0 to 255, found {text:?}"
                );
                report.error(at, message);
                None
            }
        },
    }
}

/// `80`, `8000-8010`, `53/udp`.
fn ports(at: PlaceId, text: &str, protocols: &[u8], report: &mut Report) -> Option<Ports> {
    let (range, protocol) = match text.split_once('/') {
        Some((range, protocol)) => (range, Some(protocol)),
        None => (text, None),
    };
    let protocol = match protocol.map(publish::protocol) {
        Some(Err(message)) => {
            report.error(at, message);
            return None;
        }
        Some(Ok(protocol)) => Some(protocol),
        None => None,
    };
    let Some((first, last)) = publish::range(range) else {
        let message = format!("expected ports such as 80, 8000-8010 or 53/udp, found {text:?}");
        report.error(at, message);
        return None;
    };
    let has_ports = |number: &u8| [6, 17, 132].contains(number);
    if let Some(number) = protocols.iter().find(|number| !has_ports(number)) {
        report.error(at, format!("protocol {number} has no ports"));
        return None;
    }
    if let (Some(own), [number]) = (protocol, protocols)
        && own.number() != *number
    {
        report.error(at, format!("the rule is of protocol {number}, and {own} is another"));
        return None;
    }
    Some(Ports { first, last, protocol })
}
