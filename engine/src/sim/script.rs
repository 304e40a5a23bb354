//! What hosts ask in a world, and what must come of it.
//!
//! Every kind of traffic that DESIGN section 6 has a rule for, chosen by the seed. Hosts use the
//! same few source ports, so that masqueraded sockets collide and published numbers are in the way.

use std::net::{IpAddr, SocketAddr};

use super::host::{Kind, Question};
use super::ledger::{Entry, Expect, Seen};
use super::payload::{HEADER_BYTES, tcp_nonce};
use super::plan::Plan;
use super::rng::Rng;
use super::topology::{NETWORK_COUNT, Place, Topology, WITHDRAWN};
use crate::id::NetworkId;
use crate::limits::Filtering;
use crate::tables::{Protocol, PublishEntry};

/// The first source port that hosts use.
const SOURCE_PORT_MIN: u16 = 40_000;

/// Source port of who asks a published UDP port that will be withdrawn.
const WITHDRAWN_CLIENT_PORT: u16 = 30_001;

/// Questions that `ask_withdrawn` has.
pub(super) const WITHDRAWN_ASKERS: usize = 6;

/// How it stands with the published ports that are withdrawn half way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// They are published.
    No,
    /// They will be gone in a moment: nobody asks them.
    Soon,
    /// They are gone: who asks them is refused, though his flow was alive.
    Gone,
}

/// Makes up questions.
#[derive(Debug)]
pub(super) struct Script {
    rng: Rng,
    serial: u32,
    /// Source ports that each host has used.
    ports_used: Vec<u16>,
    /// Time to wait before asking again, and how often: once where nothing is lost.
    retry_ns: u64,
    tries_max: u32,
    /// Payload that fits one packet on every path.
    payload_max: u64,
    fragments: bool,
    /// Everything is too small.
    is_tight: bool,
    /// UDP without checksums may be asked, because nothing flips bits that it would not notice.
    no_checksums: bool,
    pub(super) withdrawn: Withdrawn,
}

impl Script {
    pub(super) fn new(rng: Rng, topology: &Topology, plan: &Plan) -> Script {
        let tries_max = if plan.is_lossless() { 1 } else { 60 };
        let mtu = topology.caps.iter().map(|caps| caps.mtu).min().unwrap_or(1_280);
        Script {
            rng,
            serial: 0,
            ports_used: vec![0; topology.hosts.len()],
            retry_ns: if tries_max == 1 { 8_000_000_000 } else { 700_000_000 },
            tries_max,
            payload_max: u64::from(mtu) - 48 - HEADER_BYTES as u64,
            fragments: plan.fragments,
            is_tight: plan.tight,
            no_checksums: plan.link.corrupted == 0,
            withdrawn: Withdrawn::No,
        }
    }

    /// The next question. `mapped`: an outside socket of somebody masqueraded, if there is one.
    pub(super) fn next(
        &mut self,
        topology: &Topology,
        mapped: Option<(SocketAddr, SocketAddr)>,
    ) -> Entry {
        match self.rng.below(24) {
            0..=3 => self.same_network(topology),
            4..=7 => self.masquerade(topology),
            8..=10 => self.published_from_outside(topology),
            11 => self.closed_on_uplink(topology),
            12 => self.container_from_outside(topology),
            13..=14 => self.published_from_inside(topology),
            15 => self.other_network(topology),
            16 => self.out_of_internal(topology),
            17 => self.gateway_itself(topology),
            18 => self.published_source_asks(topology),
            19 => self.server_asks(topology),
            20 => self.static_from_outside(topology),
            21 => self.static_from_inside(topology),
            _ => match mapped.filter(|_| self.knows_mappings(topology)) {
                Some(mapped) => self.unasked_to_mapping(topology, mapped),
                None => self.masquerade(topology),
            },
        }
    }

    /// False where flows make room for others and mappings let strangers in: a port that was seen
    /// may be another socket's by now.
    fn knows_mappings(&self, topology: &Topology) -> bool {
        !self.is_tight || topology.tables.nat.filtering == Filtering::AddressAndPort
    }

    fn kind(&mut self) -> Kind {
        *self.rng.pick(&[Kind::Udp, Kind::Udp, Kind::Tcp, Kind::Tcp, Kind::Ping])
    }

    fn served_port(&mut self, kind: Kind) -> u16 {
        match kind {
            Kind::Udp => *self.rng.pick(&[7, 53, 7_001, 7_010]),
            Kind::Tcp => *self.rng.pick(&[7, 80, 7_001, 7_010]),
            Kind::Ping => 0,
        }
    }

    fn outside_host(&mut self, topology: &Topology) -> usize {
        *self.rng.pick(&topology.outside())
    }

    /// A member of a network that has a way out.
    fn inside_host(&mut self, topology: &Topology) -> usize {
        let network = NetworkId(self.rng.below(NETWORK_COUNT as u64 - 1) as u16);
        *self.rng.pick(&topology.members(network))
    }

    fn network_of(topology: &Topology, host: usize) -> NetworkId {
        match topology.places[host] {
            Place::Inside(_, network) => network,
            Place::Outside => NetworkId::NONE,
        }
    }

    /// An address of an outside host; one behind a router, if it has such.
    fn outside_address(&mut self, topology: &Topology, host: usize, v6: bool) -> IpAddr {
        let plan = &topology.hosts[host];
        let far = plan.others.iter().find(|address| address.is_ipv6() == v6);
        match far.filter(|_| self.rng.chance(500)) {
            Some(&address) => address,
            None => address_of(topology, host, v6),
        }
    }

    fn source_port(&mut self, client: usize, kind: Kind) -> u16 {
        let used = &mut self.ports_used[client];
        if kind == Kind::Udp && *used > 0 && self.rng.chance(400) {
            return SOURCE_PORT_MIN + self.rng.below(u64::from(*used)) as u16;
        }
        *used += 1;
        SOURCE_PORT_MIN + *used - 1
    }

    /// A question with everything that does not depend on its story.
    fn entry(
        &mut self,
        story: &'static str,
        (client, address): (usize, IpAddr),
        kind: Kind,
        target: SocketAddr,
        expect: Expect,
    ) -> Entry {
        self.serial += 1;
        let source = SocketAddr::new(address, self.source_port(client, kind));
        let stream_bytes = |rng: &mut Rng| match rng.below(4) {
            0 => rng.below(3) as u16,
            1 => rng.below(1_000) as u16,
            2 => rng.below(9_000) as u16,
            _ => rng.below(60_000) as u16,
        };
        let nonce = match kind {
            Kind::Tcp => {
                let (request, response) =
                    (stream_bytes(&mut self.rng), stream_bytes(&mut self.rng));
                tcp_nonce(self.serial, request, response)
            }
            _ => u64::from(self.serial) | self.rng.below(1 << 31) << 32,
        };
        let fragments = self.fragments && expect == Expect::Reply && self.rng.chance(150);
        let payload_max = if fragments { 5_000 } else { self.payload_max };
        let bytes = HEADER_BYTES + self.rng.below(payload_max) as usize;
        let may_omit = self.no_checksums && kind == Kind::Udp && address.is_ipv4();
        let no_checksum = may_omit && self.rng.chance(100);
        let tries_max = match expect {
            Expect::Reply => self.tries_max,
            Expect::Refused | Expect::Unserved | Expect::Filtered => self.tries_max.min(5),
            Expect::Denied => 2,
        };
        let question = Question {
            nonce,
            kind,
            source,
            target,
            bytes,
            no_checksum,
            tries_max,
            retry_ns: self.retry_ns,
        };
        Entry { question, client, expect, server: None, seen: Seen::Client, story }
    }

    fn same_network(&mut self, topology: &Topology) -> Entry {
        let network = NetworkId(self.rng.below(NETWORK_COUNT as u64) as u16);
        let members = topology.members(network);
        let client = *self.rng.pick(&members);
        let others: Vec<usize> = members.into_iter().filter(|&host| host != client).collect();
        let server = *self.rng.pick(&others);
        let icc = topology.tables.network(network).is_some_and(|network| network.icc);
        let (kind, v6) = (self.kind(), self.rng.chance(500));
        let closed = kind != Kind::Ping && self.rng.chance(200);
        let port = if closed { 999 } else { self.served_port(kind) };
        let target = SocketAddr::new(address_of(topology, server, v6), port);
        let expect = match (icc, closed) {
            (false, _) => Expect::Denied,
            (true, true) => Expect::Refused,
            (true, false) => Expect::Reply,
        };
        let source = (client, address_of(topology, client, v6));
        let mut entry = self.entry("same network", source, kind, target, expect);
        entry.server = Some((server, target));
        entry
    }

    fn masquerade(&mut self, topology: &Topology) -> Entry {
        let (client, server) = (self.inside_host(topology), self.outside_host(topology));
        let (kind, v6) = (self.kind(), self.rng.chance(500));
        let closed = kind != Kind::Ping && self.rng.chance(200);
        let port = if closed { 999 } else { self.served_port(kind) };
        let target = SocketAddr::new(self.outside_address(topology, server, v6), port);
        let expect = if closed { closed_behind_nat(kind) } else { Expect::Reply };
        let source = (client, address_of(topology, client, v6));
        let mut entry = self.entry("masquerade", source, kind, target, expect);
        entry.server = Some((server, target));
        entry.seen = topology.seen_outside(entry.question.source);
        entry
    }

    /// A socket that serves asks the outside, so that it is mapped and can be reached by that.
    fn server_asks(&mut self, topology: &Topology) -> Entry {
        let (client, server) = (self.inside_host(topology), self.outside_host(topology));
        let v6 = self.rng.chance(500);
        let target = SocketAddr::new(self.outside_address(topology, server, v6), 53);
        let source = (client, address_of(topology, client, v6));
        let mut entry = self.entry("from a server", source, Kind::Udp, target, Expect::Reply);
        // Nobody publishes this one.
        entry.question.source.set_port(7_001);
        let port = entry.question.source.port();
        let published = |port| topology.is_published(source.1, port);
        if published(port) {
            entry.question.source.set_port(7);
            if published(7) {
                return self.masquerade(topology);
            }
        }
        entry.server = Some((server, target));
        entry.seen = topology.seen_outside(entry.question.source);
        entry
    }

    /// The endpoint with an outside address for itself, by that address.
    fn static_entry(
        &mut self,
        story: &'static str,
        topology: &Topology,
        (client, address): (usize, IpAddr),
    ) -> Entry {
        let v6 = address.is_ipv6();
        let kind = self.kind();
        let port = self.served_port(kind);
        let outside = SocketAddr::new(topology.static_address(v6), port);
        let server = topology.static_host();
        let mut entry = self.entry(story, (client, address), kind, outside, Expect::Reply);
        entry.server = Some((server, SocketAddr::new(address_of(topology, server, v6), port)));
        entry
    }

    fn static_from_outside(&mut self, topology: &Topology) -> Entry {
        let (client, v6) = (self.outside_host(topology), self.rng.chance(500));
        let source = (client, self.outside_address(topology, client, v6));
        self.static_entry("static, from outside", topology, source)
    }

    fn static_from_inside(&mut self, topology: &Topology) -> Entry {
        let (client, v6) = (self.inside_host(topology), self.rng.chance(500));
        let source = (client, address_of(topology, client, v6));
        let own = Self::network_of(topology, client);
        let mut entry = self.static_entry("static, from inside", topology, source);
        if own == Self::network_of(topology, topology.static_host()) {
            entry.seen = Seen::Address(topology.gateway_address(own, v6));
        }
        entry
    }

    /// A published port, with the target behind it and the tuple it is published on.
    fn published(&mut self, topology: &Topology) -> (PublishEntry, SocketAddr, SocketAddr) {
        let is_asked = |entry: &&PublishEntry| {
            self.withdrawn != Withdrawn::Soon || !WITHDRAWN.contains(&entry.host_port)
        };
        let entries: Vec<&PublishEntry> =
            topology.tables.publish.entries().iter().filter(is_asked).collect();
        let entry = (*self.rng.pick(&entries)).clone();
        let host_port = entry.host_port + self.rng.below(u64::from(entry.port_count)) as u16;
        let at = SocketAddr::new(topology.uplink_address(entry.target.is_ipv6()), host_port);
        let target = SocketAddr::new(entry.target, entry.target_port_of(host_port));
        (entry, at, target)
    }

    fn published_entry(
        &mut self,
        story: &'static str,
        topology: &Topology,
        (client, address): (usize, IpAddr),
        (entry, at, target): (PublishEntry, SocketAddr, SocketAddr),
    ) -> Entry {
        let kind = match entry.protocol {
            Protocol::Tcp => Kind::Tcp,
            _ => Kind::Udp,
        };
        let is_withdrawable = WITHDRAWN.contains(&entry.host_port);
        let is_gone = is_withdrawable && self.withdrawn == Withdrawn::Gone;
        let expect = match super::host::is_served(kind, target.port()) {
            _ if is_gone => Expect::Refused,
            true => Expect::Reply,
            false => closed_behind_nat(kind),
        };
        let mut asked = self.entry(story, (client, address), kind, at, expect);
        if is_withdrawable && kind == Kind::Udp {
            // One socket asks before and after, so that its flow is there when the port goes.
            asked.question.source.set_port(WITHDRAWN_CLIENT_PORT);
        }
        if is_gone {
            return asked;
        }
        let server = topology.behind(entry.port).expect("published targets exist");
        asked.server = Some((server, target));
        asked
    }

    fn published_from_outside(&mut self, topology: &Topology) -> Entry {
        let published = self.published(topology);
        let client = self.outside_host(topology);
        self.ask_published(topology, client, published)
    }

    fn published_from_inside(&mut self, topology: &Topology) -> Entry {
        let published = self.published(topology);
        let client = self.inside_host(topology);
        self.ask_published(topology, client, published)
    }

    fn ask_published(
        &mut self,
        topology: &Topology,
        client: usize,
        published: (PublishEntry, SocketAddr, SocketAddr),
    ) -> Entry {
        let v6 = published.1.is_ipv6();
        let (own, theirs) = (Self::network_of(topology, client), published.0.network);
        let (story, address) = match topology.places[client] {
            Place::Outside => {
                ("published, from outside", self.outside_address(topology, client, v6))
            }
            Place::Inside(..) if own == theirs => ("hairpin", address_of(topology, client, v6)),
            Place::Inside(..) => {
                ("published, from another network", address_of(topology, client, v6))
            }
        };
        let mut entry = self.published_entry(story, topology, (client, address), published);
        if own == theirs {
            entry.seen = Seen::Address(topology.gateway_address(own, v6));
        }
        entry
    }

    /// The UDP port that is withdrawn half way is asked from everywhere, before and after: by a
    /// number below [`WITHDRAWN_ASKERS`], always from the same socket.
    pub(super) fn ask_withdrawn(&mut self, topology: &Topology, number: usize) -> Entry {
        let v6 = number % 2 == 1;
        let entries = topology.tables.publish.entries().iter();
        let mut entries = entries.filter(|entry| entry.host_port == WITHDRAWN[1]);
        let entry = entries.find(|entry| entry.target.is_ipv6() == v6);
        let entry = entry.expect("it is published in both families").clone();
        let at = SocketAddr::new(topology.uplink_address(v6), entry.host_port);
        let target = SocketAddr::new(entry.target, entry.target_port);
        let client = match number / 2 {
            0 => topology.outside()[2],
            1 => topology.members(NetworkId(0))[2],
            _ => topology.members(entry.network)[2],
        };
        let mut asked = self.ask_published(topology, client, (entry, at, target));
        asked.question.source.set_ip(address_of(topology, client, v6));
        asked
    }

    fn closed_on_uplink(&mut self, topology: &Topology) -> Entry {
        let (client, v6) = (self.outside_host(topology), self.rng.chance(500));
        let kind = *self.rng.pick(&[Kind::Udp, Kind::Tcp]);
        let port = *self.rng.pick(&[80, 8_079, 9_011, 22]);
        let target = SocketAddr::new(topology.uplink_address(v6), port);
        let source = (client, self.outside_address(topology, client, v6));
        self.entry("unpublished, on the uplink", source, kind, target, Expect::Refused)
    }

    fn container_from_outside(&mut self, topology: &Topology) -> Entry {
        let (client, v6) = (self.outside_host(topology), self.rng.chance(500));
        let inside = self.rng.index(topology.hosts.len() - topology.outside().len());
        let server = topology.outside().len() + inside;
        let kind = self.kind();
        let port = self.served_port(kind);
        let target = SocketAddr::new(address_of(topology, server, v6), port);
        // The hosts on the link have a route for this; what lies behind them has none.
        let source = (client, address_of(topology, client, v6));
        self.entry("container, from outside", source, kind, target, Expect::Denied)
    }

    fn other_network(&mut self, topology: &Topology) -> Entry {
        let inside = topology.hosts.len() - topology.outside().len();
        let client = topology.outside().len() + self.rng.index(inside);
        let own = Self::network_of(topology, client);
        let is_other = |network: &NetworkId| *network != own;
        let networks: Vec<NetworkId> =
            (0..NETWORK_COUNT as u16).map(NetworkId).filter(is_other).collect();
        let network = *self.rng.pick(&networks);
        let server = *self.rng.pick(&topology.members(network));
        let (kind, v6) = (self.kind(), self.rng.chance(500));
        let port = self.served_port(kind);
        let target = SocketAddr::new(address_of(topology, server, v6), port);
        let source = (client, address_of(topology, client, v6));
        self.entry("other network", source, kind, target, Expect::Denied)
    }

    fn out_of_internal(&mut self, topology: &Topology) -> Entry {
        let members = topology.members(NetworkId(NETWORK_COUNT as u16 - 1));
        let (client, server) = (*self.rng.pick(&members), self.outside_host(topology));
        let (kind, v6) = (self.kind(), self.rng.chance(500));
        let port = self.served_port(kind);
        let target = SocketAddr::new(self.outside_address(topology, server, v6), port);
        let source = (client, address_of(topology, client, v6));
        self.entry("out of an internal network", source, kind, target, Expect::Denied)
    }

    fn gateway_itself(&mut self, topology: &Topology) -> Entry {
        let v6 = self.rng.chance(500);
        let client = self.rng.index(topology.hosts.len());
        let (address, source) = match topology.places[client] {
            Place::Inside(_, network) => {
                (topology.gateway_address(network, v6), address_of(topology, client, v6))
            }
            Place::Outside => {
                (topology.uplink_address(v6), self.outside_address(topology, client, v6))
            }
        };
        let ping = self.rng.chance(600);
        let (kind, port, expect) = match ping {
            true => (Kind::Ping, 0, Expect::Reply),
            false => (*self.rng.pick(&[Kind::Udp, Kind::Tcp]), 999, Expect::Refused),
        };
        let target = SocketAddr::new(address, port);
        let mut entry = self.entry("the gateway itself", (client, source), kind, target, expect);
        // It answers what comes in one piece.
        entry.question.bytes = entry.question.bytes.min(self.payload_max as usize);
        entry
    }

    /// A published socket that asks itself keeps its published number.
    fn published_source_asks(&mut self, topology: &Topology) -> Entry {
        let (published, at, target) = self.published(topology);
        if WITHDRAWN.contains(&published.host_port) {
            return self.masquerade(topology);
        }
        let server = self.outside_host(topology);
        let v6 = target.is_ipv6();
        let client = topology.behind(published.port).expect("published targets exist");
        let kind = match published.protocol {
            Protocol::Tcp => return self.masquerade(topology),
            _ => Kind::Udp,
        };
        let to = SocketAddr::new(self.outside_address(topology, server, v6), 7);
        let source = (client, target.ip());
        let mut entry = self.entry("from a published socket", source, kind, to, Expect::Reply);
        entry.question.source = target;
        entry.server = Some((server, to));
        entry.seen = Seen::Published(at);
        entry
    }

    /// Somebody, outside or inside, tries the outside port of a socket that has not asked him.
    fn unasked_to_mapping(
        &mut self,
        topology: &Topology,
        (mapped, inside): (SocketAddr, SocketAddr),
    ) -> Entry {
        let v6 = mapped.is_ipv6();
        let expect = match topology.tables.nat.filtering {
            Filtering::AddressAndPort => Expect::Denied,
            Filtering::Endpoint if super::host::is_served(Kind::Udp, inside.port()) => {
                Expect::Reply
            }
            Filtering::Endpoint => Expect::Unserved,
            Filtering::Address => Expect::Filtered,
        };
        let is_outside = self.rng.chance(500);
        // Such a socket has a mapping for hairpins only.
        let is_static = topology.hosts[topology.static_host()].owns(inside.ip());
        let expect = if is_outside && is_static { Expect::Denied } else { expect };
        let (client, story) = match is_outside {
            true => (self.outside_host(topology), "unasked, to a masqueraded socket"),
            false => (self.inside_host(topology), "hairpin to a masqueraded socket"),
        };
        let address = match topology.places[client] {
            Place::Outside => self.outside_address(topology, client, v6),
            Place::Inside(..) => address_of(topology, client, v6),
        };
        let mut entry = self.entry(story, (client, address), Kind::Udp, mapped, expect);
        entry.question.source.set_port(1_024 + self.serial as u16 % 5_000);
        let owns = |host: &usize| topology.hosts[*host].owns(inside.ip());
        let server = (0..topology.hosts.len()).find(owns);
        entry.server = server.map(|server| (server, inside));
        if let Place::Inside(..) = topology.places[client] {
            entry.seen = Seen::Masqueraded { v6 };
        }
        entry
    }
}

fn address_of(topology: &Topology, host: usize, v6: bool) -> IpAddr {
    topology.hosts[host].address(v6).expect("hosts have both families")
}

/// What comes of a question to a closed port on the other side of NAT.
fn closed_behind_nat(kind: Kind) -> Expect {
    match kind {
        Kind::Tcp => Expect::Refused,
        Kind::Udp | Kind::Ping => Expect::Unserved,
    }
}
