//! How large a packet may be from each endpoint to each kind of destination, and what says so.
//!
//! The same numbers as the `mtu` stage's: the link that the packet leaves by, and what ICMP has
//! said of the path. The sender's own link is named where it is the smallest: it never sends more.
//! A row per path that was learnt stands below the links, so that an answer grows with what is
//! known and not with who knows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::NetworkId;
use engine::tables::{GatewayMode, MssClamp, Network, PortKind, PortTable, Tables, TunnelEnd};
use engine::worker::PathView;

use super::answer::Refusal;
use super::model::{self, Page};
use super::query::Query;
use super::tables::{Turnstile, seconds};
use crate::control::StateView;

/// Effective MTUs, by endpoint and destination; then the paths that were learnt.
pub(super) async fn mtus(
    state: &StateView,
    turnstile: &Turnstile,
    query: &Query,
) -> Result<Page<model::Mtu>, Refusal> {
    let mut known: BTreeMap<(NetworkId, IpAddr), PathView> = BTreeMap::new();
    for worker in &state.workers {
        let mut next = Some(0);
        while let Some(from) = next {
            let permit = turnstile.pass().await;
            let (found, more) = worker.paths(from).await?;
            drop(permit);
            next = more;
            for view in found {
                let best = known.entry((view.network, view.destination)).or_insert(view);
                let age = best.age.min(view.age);
                *best = PathView { mtu: best.mtu.min(view.mtu), age, ..*best };
            }
        }
    }
    let mut all = links(&state.tables);
    all.extend(known.into_values().map(|path| learnt(&state.tables, path)));
    query.page(state.tables.generation, &all, Clone::clone)
}

/// What the links alone say.
fn links(tables: &Tables) -> Vec<model::Mtu> {
    let mut all = Vec::new();
    for port in tables.ports.iter().flatten() {
        let PortKind::Endpoint(attachment) = &port.kind else { continue };
        let Some(network) = tables.network(attachment.network) else { continue };
        let from = (attachment.endpoint.as_str(), network.name.as_str());
        let own = (port.mtu, format!("own link ({})", port.name));
        let members = others(tables, network, |member| member.id != port.id);
        if let Some(smallest) = smallest(members) {
            // Inside a network only what does not fit is looked at.
            let is_clamped = smallest.mtu < port.mtu && network.mss_clamp == MssClamp::Auto;
            let clamp = is_clamped.then_some(MssClamp::Auto);
            all.push(row(from, "own network".into(), &own, link(smallest), clamp));
        }
        if network.internal {
            continue;
        }
        let networks = tables.networks.iter().flatten();
        let elsewhere = networks.filter(|other| other.id != network.id && !other.internal);
        let members = elsewhere.flat_map(|other| others(tables, other, |_| true));
        if let Some(smallest) = smallest(members) {
            let to = "other network".to_owned();
            all.push(row(from, to, &own, link(smallest), Some(network.mss_clamp)));
        }
        let uplinks = tables.uplinks.iter().flatten();
        for uplink in uplinks.filter(|_| network.mode != GatewayMode::Isolated) {
            let Some(port) = tables.port(uplink.port) else { continue };
            let to = format!("uplink {}", uplink.name);
            all.push(row(from, to, &own, link(port), Some(network.mss_clamp)));
        }
    }
    all
}

/// Ports of a network's members.
fn others<'t>(
    tables: &'t Tables,
    network: &'t Network,
    takes: impl Fn(&PortTable) -> bool + 't,
) -> impl Iterator<Item = &'t PortTable> {
    let members = network.members.iter().filter_map(|&member| tables.port(member));
    members.filter(move |member| takes(member))
}

fn smallest<'t>(ports: impl Iterator<Item = &'t PortTable>) -> Option<&'t PortTable> {
    ports.min_by_key(|port| port.mtu)
}

fn link(port: &PortTable) -> (u16, String) {
    (port.mtu, format!("link {}", port.name))
}

/// `clamp`: of the endpoint's network, where TCP is edited.
fn row(
    (endpoint, network): (&str, &str),
    to: String,
    own: &(u16, String),
    link: (u16, String),
    clamp: Option<MssClamp>,
) -> model::Mtu {
    let is_smaller = link.0 < own.0;
    let (mtu, limited_by) = if is_smaller { link } else { own.clone() };
    let mss_clamp = match clamp {
        None | Some(MssClamp::Off) => "off".to_owned(),
        Some(MssClamp::Auto) if is_smaller => "path".to_owned(),
        Some(MssClamp::Auto) => "not needed".to_owned(),
        Some(MssClamp::Bytes(bytes)) => bytes.to_string(),
    };
    model::Mtu {
        endpoint: Some(endpoint.to_owned()),
        network: Some(network.to_owned()),
        to,
        mtu_bytes: mtu,
        limited_by,
        mss_clamp: Some(mss_clamp),
        age_s: None,
    }
}

fn learnt(tables: &Tables, path: PathView) -> model::Mtu {
    let to = path.destination;
    let network = tables.network(path.network).map(|network| &network.name);
    let is_end = |end: &TunnelEnd| network.is_none() && *end == TunnelEnd::Vtep(to);
    let is_tunnel = tables.ports.iter().flatten().any(|port| match &port.kind {
        PortKind::Tunnel(tunnel) => is_end(&tunnel.end),
        PortKind::Endpoint(_) | PortKind::Uplink(_) | PortKind::Lane(_) => false,
    });
    let mut limited_by = "path, learnt from ICMP".to_owned();
    if is_tunnel {
        // The headers of VXLAN, inner Ethernet included.
        let inside = path.mtu.saturating_sub(if to.is_ipv6() { 70 } else { 50 });
        limited_by.push_str(&format!("; {inside} inside of the tunnel"));
    }
    model::Mtu {
        endpoint: None,
        to: match network {
            Some(network) => format!("{to} in {network}"),
            None => to.to_string(),
        },
        network: None,
        mtu_bytes: path.mtu,
        limited_by,
        mss_clamp: None,
        age_s: Some(seconds(path.age)),
    }
}
