//! What stands in which column.
//!
//! The one hard constraint: a reader who knows the network but not Portolan understands each table:
//! columns are named as in the config, and values have their units.

use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::table::{Table, bytes, duration};
use super::{ShowError, What};
use crate::api::model::{
    Drop, Endpoint, Flow, Group, Mtu, Neighbour, Network, Port, Publish, Route, Rule, Station,
    Status, Traffic, Tuple, Uplink, Worker,
};

/// Prints a list as a table.
pub(super) fn list(what: What, items: Vec<Value>, out: &mut impl Write) -> Result<(), ShowError> {
    if items.is_empty() {
        return Ok(writeln!(out, "none")?);
    }
    let table = match what {
        What::Status => unreachable!("the status is no list"),
        What::Networks => table(NETWORKS, items, network)?,
        What::Endpoints => endpoints(items)?,
        What::Ports => table(PORTS, items, port)?,
        What::Fdb => table(FDB, items, station)?,
        What::Groups => table(GROUPS, items, group)?,
        What::Flows => table(FLOWS, items, flow)?,
        What::Neighbours => table(NEIGHBOURS, items, neighbour)?,
        What::Mtu => table(MTUS, items, mtu)?,
        What::Routes => table(ROUTES, items, route)?,
        What::Publish => table(PUBLISH, items, publish)?,
        What::Policy => table(POLICY, items, rule)?,
        What::Uplinks => table(UPLINKS, items, uplink)?,
        What::Workers => table(WORKERS, items, worker)?,
        What::Drops => table(DROPS, items, drop_reason)?,
    };
    Ok(table.print(out)?)
}

fn table<T: DeserializeOwned>(
    header: &'static [&'static str],
    items: Vec<Value>,
    row: fn(T) -> Vec<String>,
) -> Result<Table, ShowError> {
    let mut table = Table::new(header);
    for item in items {
        table.row(row(serde_json::from_value(item)?));
    }
    Ok(table)
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn or_none(values: Vec<String>) -> String {
    if values.is_empty() { "-".to_owned() } else { values.join(" ") }
}

fn state(up: bool) -> String {
    if up { "up" } else { "down" }.to_owned()
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// Six cells.
fn traffic(traffic: Traffic) -> [String; 6] {
    [
        traffic.rx_packets.to_string(),
        bytes(traffic.rx_bytes),
        traffic.rx_dropped.to_string(),
        traffic.tx_packets.to_string(),
        bytes(traffic.tx_bytes),
        traffic.tx_dropped.to_string(),
    ]
}

/// Prints the status, one fact per line.
pub(super) fn status(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let facts = [
        ("version", status.version.clone()),
        ("process", status.pid.to_string()),
        ("config", or_dash(status.config.clone())),
        ("running for", duration(status.uptime_s)),
        (
            "reloads",
            format!("{} applied, {} refused", status.reloads_applied, status.reloads_refused),
        ),
        ("generation", status.generation.to_string()),
        ("workers", status.workers.to_string()),
        ("networks", status.networks.to_string()),
        ("endpoints", status.endpoints.to_string()),
        ("ports", format!("{}, {} of them down", status.ports, status.ports_down)),
        ("published", status.publish.to_string()),
        ("flows", status.flows.to_string()),
        ("packets", format!("{} received, {} dropped", status.rx_packets, status.dropped_packets)),
    ];
    facts.iter().try_for_each(|(name, value)| writeln!(out, "{name:<12} {value}"))
}

const NETWORKS: &[&str] = &[
    "network",
    "subnets",
    "gateways",
    "uplink",
    "internal",
    "icc",
    ">mtu",
    ">endpoints",
    ">rx packets",
    ">rx bytes",
    ">rx drops",
    ">tx packets",
    ">tx bytes",
    ">tx drops",
];

fn network(network: Network) -> Vec<String> {
    let subnets = &network.subnets;
    let mut row = vec![
        network.name,
        or_none(subnets.iter().map(|subnet| subnet.prefix.clone()).collect()),
        or_none(subnets.iter().map(|subnet| subnet.gateway.clone()).collect()),
        or_dash(network.uplink),
        yes(network.internal),
        yes(network.icc),
        network.mtu_bytes.to_string(),
        network.endpoints.to_string(),
    ];
    row.extend(traffic(network.traffic));
    row
}

/// One line per network of each endpoint.
fn endpoints(items: Vec<Value>) -> Result<Table, ShowError> {
    let mut table = Table::new(&[
        "endpoint",
        "network",
        "state",
        "device",
        "netns",
        "addresses",
        "mac",
        "default",
        "published",
    ]);
    for item in items {
        let endpoint: Endpoint = serde_json::from_value(item)?;
        let netns = or_dash(endpoint.netns);
        if let Some(network) = endpoint.alone_in {
            let dash = || "-".to_owned();
            let none = [dash(), dash(), netns.clone(), dash(), dash(), dash(), dash()];
            table.row([endpoint.name.clone(), network].into_iter().chain(none).collect());
        }
        for (index, attachment) in endpoint.networks.into_iter().enumerate() {
            let addresses = [attachment.ipv4, attachment.ipv6].into_iter().flatten().collect();
            let routes = [attachment.default_route_v4, attachment.default_route_v6];
            let families = ["v4", "v6"].into_iter().zip(&routes);
            let default: Vec<String> = families
                .filter_map(|(family, route)| route.as_ref().map(|_| family.to_owned()))
                .collect();
            // Published ports are the endpoint's, not the network's: they stand in its first line.
            let published = if index == 0 { endpoint.publish.clone() } else { Vec::new() };
            let mut published: Vec<String> = published
                .iter()
                .map(|port| port.split(' ').next().unwrap_or_default().to_owned())
                .collect();
            published.dedup();
            table.row(vec![
                endpoint.name.clone(),
                attachment.network,
                state(attachment.up),
                attachment.device,
                netns.clone(),
                or_none(addresses),
                attachment.mac,
                or_none(default),
                or_none(published),
            ]);
        }
    }
    Ok(table)
}

const PORTS: &[&str] = &[
    "port",
    "state",
    "driver",
    "device",
    "netns",
    ">mtu",
    ">rx packets",
    ">rx bytes",
    ">rx drops",
    ">tx packets",
    ">tx bytes",
    ">tx drops",
];

fn port(port: Port) -> Vec<String> {
    let netns = or_dash(port.netns);
    let state = if port.up && !port.link_up { "link down".to_owned() } else { state(port.up) };
    let driver = port.mode.map_or(port.driver.clone(), |mode| format!("{} {mode}", port.driver));
    let mut row = vec![port.name, state, driver, port.device, netns, port.mtu_bytes.to_string()];
    row.extend(traffic(port.traffic));
    row
}

const FDB: &[&str] = &["network", "mac", "port", "kind", ">age"];

fn station(station: Station) -> Vec<String> {
    let age = or_dash(station.age_s.map(duration));
    vec![station.network, station.mac, station.port, station.kind, age]
}

const GROUPS: &[&str] = &["network", "group", "port", "kind", "family", ">heard", ">left"];

fn group(group: Group) -> Vec<String> {
    let times = [group.age_s, group.left_s].map(duration);
    let (mac, port) = (group.group.unwrap_or("all".to_owned()), or_dash(group.port));
    let row = [group.network, mac, port, group.kind, group.family];
    row.into_iter().chain(times).collect()
}

const FLOWS: &[&str] = &[
    "protocol",
    "source",
    "destination",
    "translated",
    "in by",
    "out by",
    "state",
    ">age",
    ">idle",
    ">ends in",
    ">packets",
    ">bytes",
    ">reply packets",
    ">reply bytes",
    ">worker",
];

fn flow(flow: Flow) -> Vec<String> {
    let sides = |tuple: &Tuple| {
        let source = socket(&tuple.source, tuple.source_port);
        (source, socket(&tuple.destination, tuple.destination_port))
    };
    let (source, destination) = sides(&flow.original);
    let translated = match sides(&flow.translated) {
        same if same == (source.clone(), destination.clone()) => "as it came".to_owned(),
        (source, destination) => format!("{source} > {destination}"),
    };
    vec![
        flow.protocol,
        source,
        destination,
        translated,
        flow.ingress,
        flow.egress,
        or_dash(flow.state),
        duration(flow.age_s),
        duration(flow.idle_s),
        duration((flow.timeout_s - flow.idle_s).max(0.0)),
        flow.packets.to_string(),
        bytes(flow.bytes),
        flow.reply_packets.to_string(),
        bytes(flow.reply_bytes),
        flow.worker.to_string(),
    ]
}

/// `10.1.0.2:80`, `[fd00::2]:80`; without a port the address alone.
fn socket(address: &str, port: u16) -> String {
    match (port, address.contains(':')) {
        (0, _) => address.to_owned(),
        (port, true) => format!("[{address}]:{port}"),
        (port, false) => format!("{address}:{port}"),
    }
}

const NEIGHBOURS: &[&str] =
    &["port", "address", "mac", "state", ">flow sides", ">waiting", ">workers"];

fn neighbour(neighbour: Neighbour) -> Vec<String> {
    vec![
        neighbour.port,
        neighbour.address,
        or_dash(neighbour.mac),
        neighbour.state,
        neighbour.flows.to_string(),
        neighbour.waiting_packets.to_string(),
        neighbour.workers.to_string(),
    ]
}

const MTUS: &[&str] = &["endpoint", "network", "to", ">mtu", "limited by", "mss clamp", ">age"];

fn mtu(mtu: Mtu) -> Vec<String> {
    vec![
        or_dash(mtu.endpoint),
        or_dash(mtu.network),
        mtu.to,
        mtu.mtu_bytes.to_string(),
        mtu.limited_by,
        or_dash(mtu.mss_clamp),
        or_dash(mtu.age_s.map(duration)),
    ]
}

const ROUTES: &[&str] = &["to", "via", "uplink"];

fn route(route: Route) -> Vec<String> {
    vec![route.to, route.via.unwrap_or_else(|| "on link".to_owned()), route.uplink]
}

const PUBLISH: &[&str] =
    &["published at", "protocol", "endpoint", "target", "network", "also taken by"];

fn publish(publish: Publish) -> Vec<String> {
    let family = if publish.target.contains(':') { "[*]" } else { "*" };
    let host = publish.host.unwrap_or_else(|| family.to_owned());
    let ports = |first: u16| match publish.port_count {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    };
    let at = |address: &str, first: u16| match address.contains(':') {
        true => format!("[{address}]:{}", ports(first)),
        false => format!("{address}:{}", ports(first)),
    };
    let from = match publish.host_port {
        0 => "opened only".to_owned(),
        port => at(&host, port),
    };
    let to = at(&publish.target, publish.target_port);
    let taken = publish.taken_by.join(", ");
    vec![
        from,
        publish.protocol,
        publish.endpoint,
        to,
        publish.network,
        or_dash(Some(taken).filter(|taken| !taken.is_empty())),
    ]
}

const POLICY: &[&str] = &[">order", "action", "about", ">hits"];

fn rule(rule: Rule) -> Vec<String> {
    vec![rule.order.to_string(), rule.action, rule.about, rule.hits.to_string()]
}

const UPLINKS: &[&str] = &[
    "uplink",
    "state",
    "device",
    "netns",
    "addresses",
    "gateways",
    "host's",
    "host forwards",
    ">routes",
    ">mtu",
    ">rx packets",
    ">rx bytes",
    ">rx drops",
    ">tx packets",
    ">tx bytes",
    ">tx drops",
];

fn uplink(uplink: Uplink) -> Vec<String> {
    let mut row = vec![
        uplink.name,
        state(uplink.up),
        uplink.device,
        or_dash(uplink.netns),
        or_none(uplink.addresses),
        or_none(uplink.gateways),
        or_none(uplink.host_addresses),
        or_dash(Some(uplink.host_forwards.join("; ")).filter(|said| !said.is_empty())),
        uplink.routes.to_string(),
        uplink.mtu_bytes.to_string(),
    ];
    row.extend(traffic(uplink.traffic));
    row
}

const WORKERS: &[&str] = &[
    ">worker",
    ">cpu",
    ">idle",
    ">packets/s",
    ">turns",
    ">packets",
    ">drops",
    ">flows",
    ">hits",
    ">misses",
    ">handed over",
    ">free chunks",
    ">free tails",
];

fn worker(worker: Worker) -> Vec<String> {
    vec![
        worker.worker.to_string(),
        worker.cpu.to_string(),
        format!("{:.1} %", worker.idle_share * 100.0),
        format!("{:.0}", worker.packets_per_s),
        worker.turns.to_string(),
        worker.rx_packets.to_string(),
        worker.dropped_packets.to_string(),
        worker.flows.to_string(),
        worker.hits.to_string(),
        worker.misses.to_string(),
        worker.handed_over.to_string(),
        worker.chunks_free.to_string(),
        worker.tails_free.to_string(),
    ]
}

const DROPS: &[&str] = &["reason", ">packets", "by worker", "by stage", "meaning", "what to do"];

fn drop_reason(drop: Drop) -> Vec<String> {
    let workers = drop.workers.iter().map(|share| format!("{}:{}", share.worker, share.packets));
    let stages = drop.stages.iter().map(|share| format!("{}:{}", share.stage, share.packets));
    let (workers, stages) = (or_none(workers.collect()), or_none(stages.collect()));
    vec![drop.reason, drop.packets.to_string(), workers, stages, drop.meaning, drop.advice]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_written_as_people_write_them() {
        assert_eq!(socket("10.1.0.2", 80), "10.1.0.2:80");
        assert_eq!(socket("fd00::2", 80), "[fd00::2]:80");
        assert_eq!(socket("fd00::2", 0), "fd00::2");
    }

    #[test]
    fn a_published_range_shows_both_ends() {
        let row = publish(Publish {
            host: None,
            host_port: 8000,
            port_count: 11,
            protocol: "udp".into(),
            endpoint: "web".into(),
            target: "fd00::2".into(),
            target_port: 9000,
            network: "front".into(),
            taken_by: vec!["8003 nc (pid 7)".into()],
        });
        let places = ["[*]:8000-8010", "udp", "web", "[fd00::2]:9000-9010"];
        assert_eq!(
            (&row[..4], &row[5]),
            (&places.map(String::from)[..], &"8003 nc (pid 7)".into())
        );
    }
}
