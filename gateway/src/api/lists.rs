//! Lists that the config gives: networks, endpoints, ports, routes, published ports, uplinks.
//!
//! Made from one [`StateView`], so an answer is of one moment; only the counters in it go on. The
//! one hard constraint: of a long list only the piece that is asked for is put into words.

use std::collections::HashMap;

use config::{
    Attach, Attachment, Config, Endpoint, Network, NetworkDriver, Parent, Uplink, UplinkDriver,
};
use engine::tables::{PortKind, PublishEntry, Route};
use engine::{PortId, UplinkId};

use super::answer::Refusal;
use super::model::{self, Page};
use super::query::Query;
use super::sums;
use crate::control::StateView;
use crate::reserve;

/// Text of an optional value.
fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// Name of a port; of one that is gone, its number.
pub(super) fn port_name(state: &StateView, port: PortId) -> String {
    match state.tables.port(port) {
        Some(port) => port.name.clone(),
        None => format!("#{}", port.0),
    }
}

fn is_up(state: &StateView, port: PortId) -> bool {
    !state.ports_down.contains(&port)
}

fn netns_of(endpoint: &Endpoint) -> Option<String> {
    match &endpoint.attach {
        Attach::Netns { netns, .. } => Some(netns.as_str().to_owned()),
        Attach::Tap | Attach::Xdp | Attach::Host => None,
    }
}

fn driver_word(driver: NetworkDriver) -> &'static str {
    match driver {
        NetworkDriver::Bridge => "bridge",
        NetworkDriver::Overlay => "overlay",
        NetworkDriver::Macvlan => "macvlan",
        NetworkDriver::Ipvlan => "ipvlan",
        NetworkDriver::None => "none",
        NetworkDriver::Host => "host",
    }
}

/// All networks.
pub(super) fn networks(state: &StateView, query: &Query) -> Result<Page<model::Network>, Refusal> {
    let all = &state.config.networks;
    query.page(state.tables.generation, all, |network| {
        let table = state.tables.network(network.id);
        let subnet = |subnet: &config::Subnet| model::Subnet {
            prefix: subnet.prefix.to_string(),
            gateway: subnet.gateway.to_string(),
            range: subnet.range.to_string(),
        };
        let driver = driver_word(network.driver);
        model::Network {
            name: network.name.clone(),
            driver: driver.to_owned(),
            subnets: network.subnets.iter().map(subnet).collect(),
            gateway_mac: network.gateway_mac.to_string(),
            internal: network.internal,
            icc: network.icc,
            mode: crate::difference::mode(network.mode).to_owned(),
            masquerade: network.masquerade,
            mtu_bytes: network.mtu,
            uplink: network.uplink.clone(),
            endpoints: table.map_or(0, |table| table.endpoint_count() as u64),
            traffic: table.map(|table| sums::of_network(state, table)).unwrap_or_default(),
        }
    })
}

/// All endpoints.
pub(super) fn endpoints(
    state: &StateView,
    query: &Query,
) -> Result<Page<model::Endpoint>, Refusal> {
    query.page(state.tables.generation, &state.config.endpoints, |endpoint| {
        let attach = match endpoint.attach {
            Attach::Netns { .. } => "netns",
            Attach::Tap => "tap",
            Attach::Xdp => "xdp",
            Attach::Host => "host",
        };
        let networks = endpoint.attachments.iter();
        model::Endpoint {
            name: endpoint.name.clone(),
            attach: attach.to_owned(),
            netns: netns_of(endpoint),
            networks: networks.map(|attachment| attachment_of(state, attachment)).collect(),
            alone_in: endpoint.alone_in.clone(),
            publish: endpoint.publish.iter().map(crate::difference::port_of).collect(),
        }
    })
}

fn attachment_of(state: &StateView, attachment: &Attachment) -> model::Attachment {
    model::Attachment {
        network: attachment.network.clone(),
        port: port_name(state, attachment.port),
        device: attachment.interface.as_str().to_owned(),
        mac: attachment.mac.to_string(),
        ipv4: text(attachment.ipv4),
        ipv6: text(attachment.ipv6),
        default_route_v4: text(attachment.default_route_v4),
        default_route_v6: text(attachment.default_route_v6),
        mtu_bytes: attachment.mtu,
        aliases: attachment.aliases.clone(),
        anti_spoofing: attachment.anti_spoofing,
        up: is_up(state, attachment.port),
    }
}

/// What is behind a port.
pub(crate) enum Behind<'c> {
    Uplink(&'c Uplink),
    Endpoint(&'c Endpoint, &'c Attachment),
    /// A port of an overlay: its trunk, or the tunnel to another machine.
    Tunnel(&'c Network, PortId),
    /// Of a network on an uplink's link, the port that leads to the wire.
    Wire(&'c Network, &'c Parent),
}

impl Behind<'_> {
    /// The port's id.
    pub(crate) fn port(&self) -> PortId {
        match self {
            Behind::Uplink(uplink) => uplink.port,
            Behind::Endpoint(_, attachment) => attachment.port,
            Behind::Tunnel(_, port) => *port,
            Behind::Wire(_, parent) => parent.trunk,
        }
    }
}

/// The driver of a port.
pub(crate) fn driver_of(behind: &Behind<'_>) -> &'static str {
    let is_xdp = match behind {
        Behind::Uplink(uplink) => uplink.driver == UplinkDriver::Xdp,
        Behind::Endpoint(endpoint, _) => endpoint.attach == Attach::Xdp,
        Behind::Tunnel(..) => return "vxlan",
        Behind::Wire(network, _) => return driver_word(network.driver),
    };
    if is_xdp { "xdp" } else { "tap" }
}

/// All ports of a config, uplinks first.
pub(crate) fn behind_ports(config: &Config) -> Vec<Behind<'_>> {
    let uplinks = config.uplinks.iter().map(Behind::Uplink);
    let endpoints = config.endpoints.iter().flat_map(|endpoint| {
        let attachments = endpoint.attachments.iter();
        attachments.map(move |attachment| Behind::Endpoint(endpoint, attachment))
    });
    let tunnels = config.networks.iter().flat_map(|network| {
        let overlay = network.overlay.iter();
        overlay.flat_map(move |overlay| {
            let ends = overlay.tunnels.iter().map(|(_, port)| *port);
            let ports = [overlay.trunk].into_iter().chain(ends);
            ports.map(move |port| Behind::Tunnel(network, port))
        })
    });
    let wires = config.networks.iter().filter(|network| network.is_on_link());
    let wires = wires.filter_map(|own| Some(Behind::Wire(own, own.parent.as_ref()?)));
    uplinks.chain(endpoints).chain(tunnels).chain(wires).collect()
}

/// All ports.
pub(super) fn ports(state: &StateView, query: &Query) -> Result<Page<model::Port>, Refusal> {
    let live = state.devices.by_port();
    query.page(state.tables.generation, &behind_ports(&state.config), |behind| {
        let port = behind.port();
        let (name, up, traffic) =
            (port_name(state, port), is_up(state, port), sums::of_port(state, port));
        let seen = live.get(&port);
        let link_up = seen.is_some_and(|seen| seen.is_up);
        let mode = seen.and_then(|seen| seen.mode).map(|mode| mode.to_string());
        // Others may have given it another name or size.
        let name_or = |wanted: &str| seen.map_or(wanted, |seen| &seen.name).to_owned();
        let mtu_or = |wanted| seen.and_then(|seen| seen.mtu.try_into().ok()).unwrap_or(wanted);
        match behind {
            Behind::Uplink(uplink) => model::Port {
                name,
                kind: "uplink".to_owned(),
                driver: driver_of(behind).to_owned(),
                mode,
                endpoint: None,
                network: None,
                device: name_or(uplink.interface.as_str()),
                netns: uplink.netns.as_ref().map(|netns| netns.as_str().to_owned()),
                up,
                link_up,
                mtu_bytes: mtu_or(uplink.mtu),
                traffic,
            },
            Behind::Endpoint(endpoint, attachment) => model::Port {
                name,
                kind: "endpoint".to_owned(),
                driver: driver_of(behind).to_owned(),
                mode,
                endpoint: Some(endpoint.name.clone()),
                network: Some(attachment.network.clone()),
                device: name_or(attachment.interface.as_str()),
                netns: netns_of(endpoint),
                up,
                link_up,
                mtu_bytes: mtu_or(attachment.mtu),
                traffic,
            },
            Behind::Tunnel(network, _) | Behind::Wire(network, _) => {
                // Its packets leave by the uplink's device.
                let overlay = network.overlay.as_ref().map(|overlay| &*overlay.uplink);
                let parent = network.parent.as_ref().map(|parent| &*parent.uplink);
                let uplink = overlay.or(parent).and_then(|name| state.config.uplink(name));
                let under = uplink.and_then(|uplink| live.get(&uplink.port));
                model::Port {
                    name,
                    kind: if overlay.is_some() { "tunnel" } else { "wire" }.to_owned(),
                    driver: driver_of(behind).to_owned(),
                    mode,
                    endpoint: None,
                    network: Some(network.name.clone()),
                    device: uplink.map_or("", |uplink| uplink.interface.as_str()).to_owned(),
                    netns: None,
                    up: uplink.is_some_and(|uplink| is_up(state, uplink.port)),
                    link_up: under.is_some_and(|seen| seen.is_up),
                    mtu_bytes: network.mtu,
                    traffic,
                }
            }
        }
    })
}

/// All routes, in the order of their prefixes.
pub(super) fn routes(state: &StateView, query: &Query) -> Result<Page<model::Route>, Refusal> {
    let mut all: Vec<&Route> = state.tables.routes.iter().collect();
    all.sort_unstable_by_key(|route| route.to);
    query.page(state.tables.generation, &all, |route| model::Route {
        to: route.to.to_string(),
        via: text(route.via),
        uplink: match state.tables.uplink(route.uplink) {
            Some(uplink) => uplink.name.clone(),
            None => format!("#{}", route.uplink.0),
        },
    })
}

/// All published ports, in the order of the config.
pub(super) fn publish(state: &StateView, query: &Query) -> Result<Page<model::Publish>, Refusal> {
    let entries: Vec<&PublishEntry> = state.tables.publish.entries().iter().collect();
    let taken = reserve::conflicts(&reserve::ranges(&state.config));
    query.page(state.tables.generation, &entries, |entry| {
        let endpoint = match state.tables.port(entry.port).map(|port| &port.kind) {
            Some(PortKind::Endpoint(attachment)) => attachment.endpoint.clone(),
            _ => format!("#{}", entry.port.0),
        };
        let network = state.tables.network(entry.network);
        let own = |range: &reserve::Range| {
            (range.first, range.count, range.protocol)
                == (entry.host_port, entry.port_count, entry.protocol)
                && range.address.is_ipv6() == entry.target.is_ipv6()
        };
        let taken = taken.iter().filter(|(range, ..)| own(range));
        model::Publish {
            host: text(entry.host),
            host_port: entry.host_port,
            port_count: entry.port_count,
            protocol: entry.protocol.to_string(),
            endpoint,
            target: entry.target.to_string(),
            target_port: entry.target_port,
            network: network.map(|network| network.name.clone()).unwrap_or_default(),
            taken_by: taken.map(|(_, port, owner)| format!("{port} {owner}")).collect(),
        }
    })
}

/// The operator's rules, in the order in which they are asked.
pub(super) fn policy(state: &StateView, query: &Query) -> Result<Page<model::Rule>, Refusal> {
    let rules: Vec<(usize, &config::Rule)> = state.config.policy.iter().enumerate().collect();
    query.page(state.tables.generation, &rules, |&(index, rule)| {
        let text = rule.to_string();
        let (action, about) = text.split_once(' ').expect("a rule begins with its action");
        model::Rule {
            order: index as u64 + 1,
            action: action.to_owned(),
            about: about.to_owned(),
            hits: state.tables.policy.hits(index),
        }
    })
}

/// The host's addresses that have stand-ins on an uplink's link, loopback addresses aside.
fn host_addresses(state: &StateView, uplink: UplinkId) -> Vec<String> {
    let stand_ins = state.tables.uplink(uplink).map(|uplink| &uplink.host.stand_ins);
    let addresses = stand_ins.into_iter().flatten().map(|(_, address)| address);
    // The first two are the link's own.
    let addresses = addresses.skip(2).filter(|address| !address.is_loopback());
    addresses.map(ToString::to_string).collect()
}

/// All uplinks.
pub(super) fn uplinks(state: &StateView, query: &Query) -> Result<Page<model::Uplink>, Refusal> {
    let tested = state.host.tested();
    query.page(state.tables.generation, &state.config.uplinks, |uplink| {
        let defaults = uplink.routes.iter().filter(|route| route.to.prefix_len() == 0);
        model::Uplink {
            name: uplink.name.clone(),
            device: uplink.interface.as_str().to_owned(),
            netns: uplink.netns.as_ref().map(|netns| netns.as_str().to_owned()),
            mac: uplink.mac.to_string(),
            addresses: uplink.addresses.iter().map(ToString::to_string).collect(),
            host_addresses: host_addresses(state, uplink.id),
            host_forwards: crate::host::lines(&tested, &uplink.name),
            gateways: defaults.filter_map(|route| text(route.via)).collect(),
            routes: uplink.routes.len() as u64,
            trusted: uplink.trusted,
            up: is_up(state, uplink.port),
            mtu_bytes: uplink.mtu,
            traffic: sums::of_port(state, uplink.port),
        }
    })
}

/// Packets dropped, by reason; those that occurred, the most frequent first.
pub(super) fn drops(state: &StateView, query: &Query) -> Result<Page<model::Drop>, Refusal> {
    let mut all: HashMap<&'static str, model::Drop> = HashMap::new();
    for worker in &state.workers {
        for (reason, packets) in worker.counters.drops() {
            let drop = all.entry(reason.name()).or_insert_with(|| {
                let (meaning, advice) = crate::reasons::of(reason);
                model::Drop {
                    reason: reason.name().to_owned(),
                    packets: 0,
                    meaning: meaning.to_owned(),
                    advice: advice.to_owned(),
                    workers: Vec::new(),
                    stages: Vec::new(),
                }
            });
            drop.packets += packets;
            drop.workers.push(model::WorkerShare { worker: worker.id.0, packets });
        }
        for (stage, reason, packets) in worker.counters.stage_drops() {
            let Some(drop) = all.get_mut(reason.name()) else { continue };
            match drop.stages.iter_mut().find(|share| share.stage == stage) {
                Some(share) => share.packets += packets,
                None => drop.stages.push(model::StageShare { stage: stage.to_owned(), packets }),
            }
        }
    }
    let mut all: Vec<model::Drop> = all.into_values().collect();
    all.sort_unstable_by(|a, b| b.packets.cmp(&a.packets).then(a.reason.cmp(&b.reason)));
    query.page(state.tables.generation, &all, Clone::clone)
}
