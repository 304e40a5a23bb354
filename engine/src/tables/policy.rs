//! Rules about who may talk to whom: the operator's ordered list, and the same compiled.
//!
//! A rule names sides (ingress or egress port, network, prefixes, ports) and what happens. The
//! first rule that fits a packet decides; without one, the gateway's own list does (see
//! `stage/policy.rs`). Rules are asked about the first packet of a flow, on its addresses and ports
//! as they arrived, so on the host's ports and not on the endpoint's.
//!
//! Compiled, each dimension is cut into segments, and each segment knows by a bit per rule which
//! rules fit there (Lakshman and Stiliadis, 1998). A look-up is one binary search per dimension and
//! one AND of bit sets, whose first bit is the answer. The one hard constraint: it finds what the
//! walk of the list finds, which is a property test.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Epoch;
use crate::counters::Counter;
use crate::id::{NetworkId, PortId, WORKER_COUNT_MAX, WorkerId};

/// How a network's members are reached from outside of it: Docker's gateway modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GatewayMode {
    /// By published ports of the gateway's addresses.
    #[default]
    Nat,
    /// As `Nat`, and at every port of the members' own addresses.
    NatUnprotected,
    /// At published ports of the members' own addresses, and by ICMP. No address is translated.
    Routed,
    /// Not at all: the gateway itself has no address there. For internal networks.
    Isolated,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// The packet passes, whatever the gateway's own list says.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and its sender is told: by a reset in TCP, else by an ICMP error.
    Reject,
}

/// Ports of one protocol, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RulePorts {
    /// IANA number of the protocol.
    pub protocol: u8,
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

/// One side of a rule. What is left open fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleSide {
    /// Ports of the gateway: an uplink's, or those of an endpoint.
    pub behind: Option<Vec<PortId>>,
    /// The network; [`NetworkId::NONE`] is never in a rule.
    pub network: Option<NetworkId>,
    /// Addresses.
    pub prefixes: Option<Vec<IpNet>>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What happens.
    pub action: RuleAction,
    /// Who sends.
    pub from: RuleSide,
    /// To whom; addresses are those that the packet came with.
    pub to: RuleSide,
    /// Source ports.
    pub from_ports: Option<Vec<RulePorts>>,
    /// Destination ports, as the packet came with them. A protocol as such is all of its ports.
    pub to_ports: Option<Vec<RulePorts>>,
}

/// What rules see of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Port that it came in on.
    pub from: PortId,
    /// Network that it came from; [`NetworkId::NONE`]: from an uplink.
    pub from_network: NetworkId,
    /// Port that it leaves by.
    pub to: PortId,
    /// Network that it goes to; [`NetworkId::NONE`]: out by an uplink.
    pub to_network: NetworkId,
    /// Source address, as it came.
    pub source: IpAddr,
    /// Destination address, as it came.
    pub destination: IpAddr,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// Source port, as it came; 0 where there is none.
    pub source_port: u16,
    /// Destination port, as it came; 0 where there is none.
    pub destination_port: u16,
}

impl RuleSide {
    fn fits(&self, port: PortId, network: NetworkId, address: IpAddr) -> bool {
        self.behind.as_ref().is_none_or(|ports| ports.contains(&port))
            && self.network.is_none_or(|own| own == network)
            && self
                .prefixes
                .as_ref()
                .is_none_or(|prefixes| prefixes.iter().any(|prefix| prefix.contains(&address)))
    }
}

impl Rule {
    /// True if the rule is about this packet.
    pub fn fits(&self, asked: &Question) -> bool {
        let ports = |own: &Option<Vec<RulePorts>>, port: u16| {
            own.as_ref().is_none_or(|ranges| {
                ranges.iter().any(|range| {
                    range.protocol == asked.protocol && (range.first..=range.last).contains(&port)
                })
            })
        };
        self.from.fits(asked.from, asked.from_network, asked.source)
            && self.to.fits(asked.to, asked.to_network, asked.destination)
            && ports(&self.from_ports, asked.source_port)
            && ports(&self.to_ports, asked.destination_port)
    }
}

/// How often a rule has decided. Each worker has a place that nobody else writes; an unchanged rule
/// takes its count along into the next tables.
#[derive(Debug)]
struct Hits([Counter; WORKER_COUNT_MAX]);

impl Hits {
    fn none() -> Arc<Hits> {
        Arc::new(Hits(std::array::from_fn(|_| Counter::default())))
    }
}

/// All rules, in their order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Moves when any rule does.
    pub epoch: Epoch,
    rules: Vec<Rule>,
    /// One per rule.
    hits: Vec<Arc<Hits>>,
    /// One per dimension, in the order of [`dimensions_of`].
    dimensions: Vec<Segments>,
}

impl Policy {
    /// Compiles rules.
    pub fn new(epoch: Epoch, rules: Vec<Rule>) -> Policy {
        let dimensions = match rules.is_empty() {
            true => Vec::new(),
            false => (0..DIMENSION_COUNT)
                .map(|dimension| {
                    let spans = rules.iter().map(|rule| spans_of(rule, dimension));
                    Segments::new(&spans.collect::<Vec<_>>())
                })
                .collect(),
        };
        let hits = rules.iter().map(|_| Hits::none()).collect();
        Policy { epoch, rules, hits, dimensions }
    }

    /// Compiles rules that take the place of these; those that were there before count on.
    pub fn changed_to(&self, epoch: Epoch, rules: Vec<Rule>) -> Policy {
        let mut next = Policy::new(epoch, rules);
        let mut before: HashMap<&Rule, VecDeque<&Arc<Hits>>> = HashMap::new();
        for (rule, hits) in self.rules.iter().zip(&self.hits) {
            before.entry(rule).or_default().push_back(hits);
        }
        for (rule, hits) in next.rules.iter().zip(&mut next.hits) {
            if let Some(own) = before.get_mut(rule).and_then(VecDeque::pop_front) {
                *hits = own.clone();
            }
        }
        next
    }

    /// The rule with this index has decided about the first packet of a connection. Only the worker
    /// itself may call it.
    pub(crate) fn count(&self, index: usize, worker: WorkerId) {
        if let Some(own) = self.hits.get(index).and_then(|hits| hits.0.get(worker.index())) {
            own.add(1);
        }
    }

    /// How often the rule with this index has decided.
    pub fn hits(&self, index: usize) -> u64 {
        self.hits.get(index).map_or(0, |hits| hits.0.iter().map(Counter::get).sum())
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that fits, by its index in [`Policy::rules`].
    pub fn first(&self, asked: &Question) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        let is_mapped =
            |address| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if is_mapped(asked.source) || is_mapped(asked.destination) {
            // Such an address has an IPv4 one's place in the segments, and is none.
            return self.rules.iter().position(|rule| rule.fits(asked));
        }
        let points = points_of(asked);
        let mut rows: [&[u64]; DIMENSION_COUNT] = [&[]; DIMENSION_COUNT];
        for ((row, segments), point) in rows.iter_mut().zip(&self.dimensions).zip(points) {
            *row = segments.row(point);
        }
        let word_count = self.rules.len().div_ceil(64);
        (0..word_count).find_map(|word| {
            let all = rows.iter().fold(u64::MAX, |all, row| all & row[word]);
            (all != 0).then(|| word * 64 + all.trailing_zeros() as usize)
        })
    }

    /// The first rule that fits and what it does.
    pub fn verdict(&self, asked: &Question) -> Option<(usize, RuleAction)> {
        self.first(asked).map(|index| (index, self.rules[index].action))
    }
}

/// Ingress, network, egress, network; source, destination; source ports, destination ports.
const DIMENSION_COUNT: usize = 8;

/// An interval of a dimension, both ends included.
type Span = (u128, u128);

/// IPv4 addresses lie in the range of IPv6 that is mapped to them.
const V4_FIRST: u128 = 0xffff_0000_0000;
const V4_LAST: u128 = V4_FIRST | u32::MAX as u128;

/// Where a packet lies in each dimension.
fn points_of(asked: &Question) -> [u128; DIMENSION_COUNT] {
    let port = |port: u16| u128::from(asked.protocol) << 16 | u128::from(port);
    [
        u128::from(asked.from.0),
        u128::from(asked.from_network.0),
        u128::from(asked.to.0),
        u128::from(asked.to_network.0),
        address_point(asked.source),
        address_point(asked.destination),
        port(asked.source_port),
        port(asked.destination_port),
    ]
}

/// What a rule covers of a dimension; `None`: all of it.
fn spans_of(rule: &Rule, dimension: usize) -> Option<Vec<Span>> {
    let side = |first: usize| if dimension == first { &rule.from } else { &rule.to };
    let one = |id: u16| (u128::from(id), u128::from(id));
    match dimension {
        0 | 2 => Some(side(0).behind.as_ref()?.iter().map(|port| one(port.0)).collect()),
        1 | 3 => Some(vec![one(side(1).network?.0)]),
        4 | 5 => Some(side(4).prefixes.as_ref()?.iter().flat_map(address_spans).collect()),
        _ => {
            let ranges = if dimension == 6 { &rule.from_ports } else { &rule.to_ports };
            let span = |range: &RulePorts| {
                let base = u128::from(range.protocol) << 16;
                (base | u128::from(range.first), base | u128::from(range.last))
            };
            Some(ranges.as_ref()?.iter().map(span).collect())
        }
    }
}

fn address_point(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => V4_FIRST | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A prefix of IPv6 leaves out the range that stands for IPv4.
fn address_spans(prefix: &IpNet) -> Vec<Span> {
    let (first, last) = (address_point(prefix.network()), address_point(prefix.broadcast()));
    let holds_v4 = first <= V4_FIRST && V4_LAST <= last;
    match prefix {
        IpNet::V6(_) if holds_v4 => {
            let below = (first < V4_FIRST).then_some((first, V4_FIRST - 1));
            let above = (last > V4_LAST).then_some((V4_LAST + 1, last));
            below.into_iter().chain(above).collect()
        }
        IpNet::V6(_) if (V4_FIRST..=V4_LAST).contains(&first) => Vec::new(),
        _ => vec![(first, last)],
    }
}

/// A dimension cut where any rule begins or ends.
#[derive(Clone, Debug, Default)]
struct Segments {
    /// First point of each segment, ascending; the first is 0.
    starts: Vec<u128>,
    /// A row of bits per segment, `words` long each.
    bits: Vec<u64>,
    words: usize,
}

impl Segments {
    fn new(rules: &[Option<Vec<Span>>]) -> Segments {
        let spans = || rules.iter().flatten().flatten();
        let mut starts: Vec<u128> = std::iter::once(0)
            .chain(spans().map(|span| span.0))
            .chain(spans().filter_map(|span| span.1.checked_add(1)))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let words = rules.len().div_ceil(64);
        let mut bits = vec![0; words * starts.len()];
        for (index, spans) in rules.iter().enumerate() {
            let (word, bit) = (index / 64, 1_u64 << (index % 64));
            let mut set = |from: usize, to: usize| {
                (from..to).for_each(|segment| bits[segment * words + word] |= bit);
            };
            match spans {
                None => set(0, starts.len()),
                Some(spans) => {
                    for &(first, last) in spans {
                        let from = starts.partition_point(|&start| start < first);
                        let to = starts.partition_point(|&start| start <= last);
                        set(from, to);
                    }
                }
            }
        }
        Segments { starts, bits, words }
    }

    /// Which rules fit at a point.
    fn row(&self, point: u128) -> &[u64] {
        let segment = self.starts.partition_point(|&start| start <= point) - 1;
        &self.bits[segment * self.words..(segment + 1) * self.words]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(action: RuleAction) -> Rule {
        let (from, to) = (RuleSide::default(), RuleSide::default());
        Rule { action, from, to, from_ports: None, to_ports: None }
    }

    fn question(source: &str, port: u16) -> Question {
        Question {
            from: PortId(0),
            from_network: NetworkId::NONE,
            to: PortId(1),
            to_network: NetworkId(0),
            source: source.parse().unwrap(),
            destination: "192.0.2.10".parse().unwrap(),
            protocol: 6,
            source_port: 40_000,
            destination_port: port,
        }
    }

    #[test]
    fn a_rule_that_stays_counts_on_and_a_new_one_from_zero() {
        let of = |port| Rule {
            action: RuleAction::Deny,
            from: RuleSide::default(),
            to: RuleSide::default(),
            from_ports: None,
            to_ports: Some(vec![RulePorts { protocol: 6, first: port, last: port }]),
        };
        let policy = Policy::new(1, vec![of(80), of(81), of(80)]);
        for (index, worker) in [(0, 0), (0, 1), (1, 63), (2, 0), (9, 0), (0, 200)] {
            policy.count(index, WorkerId(worker));
        }
        let counts = |policy: &Policy| [0, 1, 2].map(|index| policy.hits(index));
        assert_eq!(counts(&policy), [2, 1, 1]);
        // Of equal rules the first keeps the count of the first.
        let next = policy.changed_to(2, vec![of(81), of(82), of(80)]);
        assert_eq!(counts(&next), [1, 0, 2]);
        next.count(0, WorkerId(0));
        assert_eq!(policy.hits(1), 2);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let tcp = |first, last| Some(vec![RulePorts { protocol: 6, first, last }]);
        let prefixes = Some(vec!["203.0.113.0/24".parse().unwrap()]);
        let friend = Some(vec!["203.0.113.7/32".parse().unwrap()]);
        let policy = Policy::new(
            1,
            vec![
                Rule {
                    from: RuleSide { prefixes: friend, ..RuleSide::default() },
                    ..rule(RuleAction::Allow)
                },
                Rule {
                    from: RuleSide { prefixes, ..RuleSide::default() },
                    to_ports: tcp(8_080, 8_081),
                    ..rule(RuleAction::Deny)
                },
            ],
        );
        let verdict = |source, port| policy.verdict(&question(source, port));
        assert_eq!(verdict("203.0.113.7", 8_080), Some((0, RuleAction::Allow)));
        assert_eq!(verdict("203.0.113.8", 8_081), Some((1, RuleAction::Deny)));
        assert_eq!(verdict("203.0.113.8", 8_082), None);
        assert_eq!(verdict("203.0.112.255", 8_080), None);
        assert_eq!(verdict("2001:db8::1", 8_080), None);
        assert_eq!(Policy::new(1, Vec::new()).first(&question("203.0.113.7", 80)), None);
    }

    /// Values that meet: few ports, few networks, nested prefixes of both families.
    fn prefix() -> impl Strategy<Value = IpNet> {
        let texts = ["0.0.0.0/0", "10.1.0.0/16", "10.1.0.10/32", "255.255.255.255/32"];
        let v6 = ["::/0", "fd00:1::/64", "fd00:1::10/128", "ffff::/16", "::ffff:0:0/96"];
        let all: Vec<IpNet> = texts.iter().chain(&v6).map(|text| text.parse().unwrap()).collect();
        prop::sample::select(all)
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let texts =
            ["10.1.0.10", "10.1.0.11", "10.2.0.1", "0.0.0.0", "255.255.255.255", "fd00:1::10"];
        let all =
            texts.iter().chain(&["fd00:1::11", "::1", "ffff::1", "::ffff:10.1.0.10", "::1:0:0:0"]);
        let all: Vec<IpAddr> = all.map(|text| text.parse().unwrap()).collect();
        prop::sample::select(all)
    }

    fn port() -> impl Strategy<Value = u16> {
        prop::sample::select(vec![0, 1, 79, 80, 81, 8_000, 65_534, 65_535])
    }

    fn protocol() -> impl Strategy<Value = u8> {
        prop::sample::select(vec![0, 1, 6, 17, 255])
    }

    fn ports() -> impl Strategy<Value = Option<Vec<RulePorts>>> {
        let range = (protocol(), port(), port()).prop_map(|(protocol, a, b)| RulePorts {
            protocol,
            first: a.min(b),
            last: a.max(b),
        });
        prop::option::of(prop::collection::vec(range, 0..3))
    }

    fn side() -> impl Strategy<Value = RuleSide> {
        (
            prop::option::of(prop::collection::vec((0u16..4).prop_map(PortId), 0..3)),
            prop::option::of((0u16..3).prop_map(NetworkId)),
            prop::option::of(prop::collection::vec(prefix(), 0..3)),
        )
            .prop_map(|(behind, network, prefixes)| RuleSide { behind, network, prefixes })
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (side(), side(), ports(), ports()).prop_map(|(from, to, from_ports, to_ports)| Rule {
            from,
            to,
            from_ports,
            to_ports,
            ..rule(RuleAction::Deny)
        })
    }

    fn any_question() -> impl Strategy<Value = Question> {
        let network = || prop::sample::select(vec![0, 1, 2, NetworkId::NONE.0]);
        (
            (0u16..4, network(), 0u16..4, network()),
            (address(), address(), protocol(), port(), port()),
        )
            .prop_map(
                |(ids, (source, destination, protocol, source_port, destination_port))| Question {
                    from: PortId(ids.0),
                    from_network: NetworkId(ids.1),
                    to: PortId(ids.2),
                    to_network: NetworkId(ids.3),
                    source,
                    destination,
                    protocol,
                    source_port,
                    destination_port,
                },
            )
    }

    proptest! {
        #[test]
        fn the_compiled_look_up_finds_what_the_walk_of_the_list_finds(
            rules in prop::collection::vec(any_rule(), 0..150),
            questions in prop::collection::vec(any_question(), 1..20),
        ) {
            let policy = Policy::new(1, rules);
            for asked in questions {
                let walked = policy.rules().iter().position(|rule| rule.fits(&asked));
                prop_assert_eq!(policy.first(&asked), walked, "{:?}", asked);
            }
        }
    }
}
