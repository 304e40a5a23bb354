//! Who is in which multicast group, as members, routers and queriers have said.
//!
//! Every worker is told what any has heard; of what several know, the newest counts. The one hard
//! constraint: groups are told by MAC address, as frames to them are, so that of an IPv4 group five
//! bits are not known and of one of IPv6 only the last four bytes are.

use std::collections::BTreeMap;

use engine::worker::{GroupKind, GroupView};
use engine::{NetworkId, PortId};

use super::answer::Refusal;
use super::lists::port_name;
use super::model::{self, Page};
use super::query::Query;
use super::tables::{Turnstile, network_named, seconds};
use crate::control::StateView;

/// What is known, by network, group and port.
pub(super) async fn groups(
    state: &StateView,
    turnstile: &Turnstile,
    query: &Query,
) -> Result<Page<model::Group>, Refusal> {
    let wanted = query.get("network").map(|name| network_named(state, name)).transpose()?;
    let mut known: BTreeMap<(NetworkId, GroupKind, Option<PortId>), GroupView> = BTreeMap::new();
    for worker in &state.workers {
        let mut next = Some(0);
        while let Some(from) = next {
            let permit = turnstile.pass().await;
            let (found, more) = worker.groups(from).await?;
            drop(permit);
            next = more;
            for view in found {
                if wanted.is_some_and(|wanted| wanted != view.network) {
                    continue;
                }
                let newest = known.entry((view.network, view.kind, view.port)).or_insert(view);
                if view.age < newest.age {
                    *newest = view;
                }
            }
        }
    }
    let all: Vec<GroupView> = known.into_values().collect();
    query.page(state.tables.generation, &all, |view| group(state, view))
}

fn group(state: &StateView, view: &GroupView) -> model::Group {
    let family = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
    let (kind, v6, mac) = match view.kind {
        GroupKind::Member(mac) => ("member", mac.0 >> 32 == 0x3333, Some(mac.to_string())),
        GroupKind::Router { v6 } => ("router", v6, None),
        GroupKind::Querier { v6 } => ("querier", v6, None),
    };
    let network = state.tables.network(view.network).map(|network| network.name.clone());
    model::Group {
        network: network.unwrap_or_else(|| format!("#{}", view.network.0)),
        group: mac,
        port: view.port.map(|port| port_name(state, port)),
        kind: kind.to_owned(),
        family: family(v6).to_owned(),
        age_s: seconds(view.age),
        left_s: seconds(view.left),
    }
}
