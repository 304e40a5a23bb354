//! What workers have learnt and decided: flows, stations, neighbours, and how they fare.
//!
//! Collected piece by piece (see [`crate::view`]), one piece at a time in the whole gateway, so
//! that however many ask, a packet waits for one piece at most. The one hard constraint: an answer
//! holds no more than its limit; a long table is walked by cursor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::flow::{FlowInput, TcpState};
use engine::worker::{FlowFilter, FlowView, NeighbourState, NeighbourView, StationView};
use engine::{MacAddress, NetworkId, PortId, PortSet};
use tokio::sync::Semaphore;

use super::answer::Refusal;
use super::lists::port_name;
use super::model::{self, Page, Tuple};
use super::query::Query;
use super::sums;
use crate::control::StateView;

/// Over what time rates and shares are measured.
const MEASURE: Duration = Duration::from_millis(200);

/// How long a worker that was rung may take to count how long it slept.
const SETTLE: Duration = Duration::from_millis(5);

/// Protocols by name.
const PROTOCOLS: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132)];

/// Who may look at the workers' tables: one at a time.
#[derive(Debug)]
pub(super) struct Turnstile(Semaphore);

impl Turnstile {
    pub(super) fn new() -> Turnstile {
        Turnstile(Semaphore::new(1))
    }

    pub(super) async fn pass(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.acquire().await.expect("the semaphore is never closed")
    }
}

fn protocol_name(protocol: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, number)| *number == protocol);
    known.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

fn protocol_number(text: &str) -> Result<u8, Refusal> {
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    let number = known.map(|(_, number)| *number).or_else(|| text.parse().ok());
    number.ok_or_else(|| {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        Refusal::bad(format!("`protocol={text}`"))
            .hint(format!("{}, or a number up to 255", names.join(", ")))
    })
}

/// The network of this name.
pub(super) fn network_named(state: &StateView, name: &str) -> Result<NetworkId, Refusal> {
    let networks = &state.config.networks;
    networks.iter().find(|network| network.name == name).map(|network| network.id).ok_or_else(
        || {
            let known: Vec<&str> = networks.iter().map(|network| &*network.name).collect();
            Refusal::bad(format!("there is no network `{name}`")).meant(name, &known)
        },
    )
}

/// The ports that `endpoint` and `network` ask for together; `None`: neither is there.
fn ports_asked_for(state: &StateView, query: &Query) -> Result<Option<PortSet>, Refusal> {
    let network = match query.get("network") {
        Some(name) => Some(network_named(state, name)?),
        None => None,
    };
    let member = |port: PortId| {
        network.is_none_or(|id| state.tables.network(id).is_some_and(|network| network.has(port)))
    };
    let mut ports = PortSet::default();
    if let Some(name) = query.get("endpoint") {
        let endpoints = &state.config.endpoints;
        let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.name == name) else {
            let known: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
            let refusal = Refusal::bad(format!("there is no endpoint `{name}`"));
            return Err(refusal.meant(name, &known));
        };
        let own = endpoint.attachments.iter().map(|attachment| attachment.port);
        own.filter(|&port| member(port)).for_each(|port| ports.insert(port));
        return Ok(Some(ports));
    }
    let Some(table) = network.and_then(|id| state.tables.network(id)) else { return Ok(None) };
    table.members.iter().for_each(|&port| ports.insert(port));
    Ok(Some(ports))
}

/// Flows of all workers, worker by worker.
pub(super) async fn flows(
    state: &StateView,
    turnstile: &Turnstile,
    query: &Query,
) -> Result<Page<model::Flow>, Refusal> {
    let address = match query.get("address").map(str::parse::<IpAddr>) {
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => {
            let text = query.get("address").unwrap_or_default();
            return Err(Refusal::bad(format!("`address={text}`")).hint("an IPv4 or IPv6 address"));
        }
        None => None,
    };
    let protocol = query.get("protocol").map(protocol_number).transpose()?;
    let ports = ports_asked_for(state, query)?;
    let filter = Arc::new(FlowFilter { ports, protocol, address });
    let limit = query.limit()?;
    let (first, position) = query.cursor()?.unwrap_or_default();
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let mut from = u32::try_from(position).unwrap_or(u32::MAX);
    let mut items = Vec::new();
    for worker in state.workers.iter().skip(first) {
        loop {
            let permit = turnstile.pass().await;
            let (mut found, next) = worker.flows(from, limit - items.len(), &filter).await?;
            drop(permit);
            items.extend(found.drain(..).map(|flow| flow_of(state, worker.id.0, &flow)));
            // A worker that is the last and has no more ends the list.
            let at = next.map_or((worker.id.index() + 1, 0), |next| (worker.id.index(), next));
            if items.len() >= limit {
                let more = at.0 < state.workers.len();
                return Ok(Page { items, next: more.then(|| format!("{}.{}", at.0, at.1)) });
            }
            from = at.1;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(Page { items, next: None })
}

fn flow_of(state: &StateView, worker: u8, flow: &FlowView) -> model::Flow {
    let input = &flow.input;
    model::Flow {
        worker,
        protocol: protocol_name(input.protocol),
        ingress: port_name(state, input.ingress),
        egress: port_name(state, flow.reply_ingress),
        original: tuple(
            input,
            (input.source, input.source_port),
            (input.destination, input.destination_port),
        ),
        translated: tuple(input, flow.source, flow.destination),
        state: tcp_state(flow.tcp).map(str::to_owned),
        age_s: seconds(flow.age),
        idle_s: seconds(flow.idle),
        timeout_s: seconds(flow.timeout),
        packets: flow.packets.0.into(),
        bytes: flow.bytes.0,
        reply_packets: flow.packets.1.into(),
        reply_bytes: flow.bytes.1,
    }
}

/// To a tenth of a second: finer would only look so.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

/// Of an echo, type and code stand where a port would; they are no port.
fn tuple(input: &FlowInput, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Tuple {
    Tuple {
        source: source.0.to_string(),
        source_port: if input.is_echo_answer() { 0 } else { source.1 },
        destination: destination.0.to_string(),
        destination_port: if input.is_echo() { 0 } else { destination.1 },
    }
}

fn tcp_state(state: TcpState) -> Option<&'static str> {
    match state {
        TcpState::None => None,
        TcpState::Established => Some("established"),
        TcpState::SynSent => Some("syn-sent"),
        TcpState::SynReceived => Some("syn-received"),
        TcpState::PickedUp => Some("picked-up"),
        TcpState::FinOriginal => Some("fin-sent"),
        TcpState::FinReply => Some("fin-received"),
        TcpState::TimeWait => Some("time-wait"),
        TcpState::Closed => Some("closed"),
    }
}

/// A member that the tables name, as an FDB entry.
type Member = (NetworkId, MacAddress, PortId);

/// Members by the tables, then stations that were learnt. In a cursor, the first number is the
/// generation while members are shown, and 0 among the stations.
pub(super) async fn fdb(
    state: &StateView,
    turnstile: &Turnstile,
    query: &Query,
) -> Result<Page<model::Station>, Refusal> {
    let wanted = query.get("network").map(|name| network_named(state, name)).transpose()?;
    let is_wanted = |network: NetworkId| wanted.is_none_or(|wanted| wanted == network);
    let cursor = query.cursor()?;
    let limit = query.limit()?;
    let mut items = Vec::new();
    let mut from = 0;
    if let Some((0, position)) = cursor {
        from = u32::try_from(position).unwrap_or(u32::MAX);
    } else {
        let members = members(state, is_wanted);
        let page = query.page(state.tables.generation, &members, |&(network, mac, port)| {
            station_of(state, network, mac, port, None)
        })?;
        if page.next.is_some() {
            return Ok(page);
        }
        items = page.items;
    }
    loop {
        if items.len() >= limit {
            return Ok(Page { items, next: Some(format!("0.{from}")) });
        }
        let (stations, next) = stations_at(state, turnstile, from).await?;
        let wanted = stations.into_iter().filter(|station| is_wanted(station.network));
        items.extend(wanted.map(|StationView { network, mac, port, age }| {
            station_of(state, network, mac, port, Some(seconds(age)))
        }));
        match next {
            Some(next) => from = next,
            None => return Ok(Page { items, next: None }),
        }
    }
}

/// Members of networks, in the order of network and MAC address.
fn members(state: &StateView, is_wanted: impl Fn(NetworkId) -> bool) -> Vec<Member> {
    let networks = state.tables.networks.iter().flatten();
    let mut all: Vec<Member> = networks
        .filter(|network| is_wanted(network.id))
        .flat_map(|network| network.by_mac.iter().map(|(&mac, &port)| (network.id, mac, port)))
        .collect();
    all.sort_unstable();
    all
}

/// The stations of one piece, as who heard each last knows it.
async fn stations_at(
    state: &StateView,
    turnstile: &Turnstile,
    from: u32,
) -> Result<(Vec<StationView>, Option<u32>), Refusal> {
    let mut newest: HashMap<(NetworkId, MacAddress), StationView> = HashMap::new();
    let mut next = None;
    for worker in &state.workers {
        let permit = turnstile.pass().await;
        let (stations, worker_next) = worker.stations(from).await?;
        drop(permit);
        next = next.max(worker_next);
        for station in stations {
            let known = newest.entry((station.network, station.mac)).or_insert(station);
            if station.age < known.age {
                *known = station;
            }
        }
    }
    let mut stations: Vec<StationView> = newest.into_values().collect();
    stations.sort_unstable_by_key(|station| (station.network, station.mac));
    Ok((stations, next))
}

fn station_of(
    state: &StateView,
    network: NetworkId,
    mac: MacAddress,
    port: PortId,
    age_s: Option<f64>,
) -> model::Station {
    let name = state.tables.network(network).map(|network| network.name.clone());
    model::Station {
        network: name.unwrap_or_else(|| format!("#{}", network.0)),
        mac: mac.to_string(),
        port: port_name(state, port),
        kind: if age_s.is_some() { "learnt" } else { "member" }.to_owned(),
        age_s,
    }
}

/// Neighbours that any worker knows, by port and address.
pub(super) async fn neighbours(
    state: &StateView,
    turnstile: &Turnstile,
    query: &Query,
) -> Result<Page<model::Neighbour>, Refusal> {
    let mut known: BTreeMap<(PortId, IpAddr), (NeighbourView, u64)> = BTreeMap::new();
    for worker in &state.workers {
        let mut next = Some(0);
        while let Some(from) = next {
            let permit = turnstile.pass().await;
            let (found, more) = worker.neighbours(from).await?;
            drop(permit);
            next = more;
            for view in found {
                let entry = known.entry((view.port, view.address));
                entry
                    .and_modify(|(known, workers)| {
                        let best = if rank(view.state) < rank(known.state) { view } else { *known };
                        let (users, held) = (known.users + view.users, known.held + view.held);
                        *known = NeighbourView { users, held, ..best };
                        *workers += 1;
                    })
                    .or_insert((view, 1));
            }
        }
    }
    let all: Vec<(NeighbourView, u64)> = known.into_values().collect();
    query.page(state.tables.generation, &all, |&(view, workers)| model::Neighbour {
        port: port_name(state, view.port),
        address: view.address.to_string(),
        mac: view.mac.map(|mac| mac.to_string()),
        state: view.state.name().to_owned(),
        flows: view.users.into(),
        waiting_packets: view.held.into(),
        workers,
    })
}

/// The better state first.
fn rank(state: NeighbourState) -> u8 {
    match state {
        NeighbourState::Reachable => 0,
        NeighbourState::Probing => 1,
        NeighbourState::Incomplete => 2,
        NeighbourState::Failed => 3,
    }
}

/// What is measured of a worker at one moment.
struct Sample {
    at: Instant,
    asleep_ns: u64,
    rx_packets: u64,
}

/// A sample of each worker; one that sleeps is rung, so that it counts its sleep.
async fn sample(state: &StateView) -> Vec<Sample> {
    state.workers.iter().for_each(crate::view::Link::ring);
    tokio::time::sleep(SETTLE).await;
    let samples = state.workers.iter().map(|worker| Sample {
        at: Instant::now(),
        asleep_ns: worker.counters.worker.asleep_ns.get(),
        rx_packets: sums::received(state, worker),
    });
    samples.collect()
}

/// All workers, with what they do at the moment.
pub(super) async fn workers(
    state: &StateView,
    query: &Query,
) -> Result<Page<model::Worker>, Refusal> {
    let before = sample(state).await;
    tokio::time::sleep(MEASURE).await;
    let after = sample(state).await;
    let all: Vec<_> = state.workers.iter().zip(before.iter().zip(&after)).collect();
    query.page(state.tables.generation, &all, |&(link, (before, after))| {
        let passed = after.at.duration_since(before.at).as_secs_f64();
        let asleep = after.asleep_ns.saturating_sub(before.asleep_ns) as f64 / 1e9;
        let counters = &link.counters.worker;
        let shown: HashSet<&str> =
            ["turns", "flows", "hits", "misses", "handed_over", "chunks_free", "tails_free"].into();
        let others = counters.all().into_iter().filter(|(name, _)| !shown.contains(name));
        model::Worker {
            worker: link.id.0,
            cpu: link.cpu as u64,
            idle_share: ((asleep / passed).clamp(0.0, 1.0) * 1e3).round() / 1e3,
            packets_per_s: (after.rx_packets.saturating_sub(before.rx_packets) as f64 / passed)
                .round(),
            turns: counters.turns.get(),
            rx_packets: after.rx_packets,
            dropped_packets: sums::dropped(link),
            flows: counters.flows.get(),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            handed_over: counters.handed_over.get(),
            chunks_free: counters.chunks_free.get(),
            tails_free: counters.tails_free.get(),
            counters: others.map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    })
}
