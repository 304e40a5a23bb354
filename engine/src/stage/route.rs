//! `route`: where a routed packet goes next, and where its replies go.
//!
//! An address of a network leads to the member that has it, any other by the longest prefix to an
//! uplink's neighbour. Whether it may go there is `policy`'s.

use std::net::IpAddr;

use super::{Answer, Cx, Decision, NextHop, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::FlowInput;
use crate::id::{NetworkId, PortId};
use crate::reply::ErrorKind;
use crate::tables::{PortKind, Tables};

/// Has no state: routes are in the tables.
#[derive(Debug, Default)]
pub(crate) struct Route;

impl Stage for Route {
    const NAME: &'static str = "route";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let from_outside = input.network == NetworkId::NONE;
        let unreachable = |kind, reason| match from_outside {
            true => Verdict::Drop(reason),
            false => Verdict::Answer(Answer::Error(kind, reason)),
        };
        let destination = decision.destination_of(input).address;
        decision.back = match from_outside {
            true => towards(input.source, cx.tables),
            false => Some(NextHop::Endpoint(input.ingress)),
        };
        if decision.back.is_none() {
            return Verdict::Drop(DropReason::NoRoute);
        }
        if let Some(port) = decision.published {
            decision.forward = Some(NextHop::Endpoint(port));
            decision.target = network_of(port, cx.tables);
            return Verdict::Continue;
        }
        if let Some(network) = cx.tables.network_with_subnet_of(destination) {
            decision.target = Some(network.id);
            let member = network.by_address.get(&destination);
            decision.forward = member.map(|&port| NextHop::Endpoint(port));
            // To strangers the network looks the same whether or not somebody has the address.
            let stranger = input.network != network.id;
            return match member {
                None if from_outside => Verdict::Drop(DropReason::Unpublished),
                None if stranger => Verdict::Drop(DropReason::OtherNetwork),
                None => unreachable(ErrorKind::HostUnreachable, DropReason::NoEndpoint),
                Some(_) => Verdict::Continue,
            };
        }
        if is_link_local(destination) || is_link_local(input.source) {
            // RFC 4291 section 2.5.6: such packets are not forwarded.
            return Verdict::Drop(DropReason::NotRoutable);
        }
        decision.forward = towards(destination, cx.tables);
        match decision.forward {
            Some(_) => Verdict::Continue,
            None => unreachable(ErrorKind::NetUnreachable, DropReason::NoRoute),
        }
    }
}

/// The neighbour that leads to an outside address.
fn towards(address: IpAddr, tables: &Tables) -> Option<NextHop> {
    if let IpAddr::V6(v6) = address
        && v6.is_unicast_link_local()
    {
        let uplink = tables.uplinks.iter().flatten().next()?;
        return Some(NextHop::Neighbour(uplink.port, address));
    }
    let route = tables.routes.to(address)?;
    let uplink = tables.uplink(route.uplink)?;
    Some(NextHop::Neighbour(uplink.port, route.via.unwrap_or(address)))
}

fn network_of(port: PortId, tables: &Tables) -> Option<NetworkId> {
    match &tables.port(port)?.kind {
        PortKind::Endpoint(attachment) => Some(attachment.network),
        PortKind::Uplink(_) => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
