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
use crate::tables::{Network, PortKind, Tables};

/// Has no state: routes are in the tables.
#[derive(Debug, Default)]
pub(crate) struct Route;

impl Stage for Route {
    const NAME: &'static str = "route";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let from_outside = input.network == NetworkId::NONE;
        let unreachable = |kind, reason| match from_outside {
            true => Verdict::Drop(reason),
            false => Verdict::Answer(Answer::Error(kind, reason)),
        };
        let destination = decision.destination_of(input).address;
        decision.back = match from_outside {
            true if input.ingress == PortId::TURN => {
                Some(NextHop::Neighbour(PortId::TURN, input.source))
            }
            true => back(input, cx.tables),
            false => match back_inside(input, cx.tables) {
                Ok(back) => Some(back),
                Err(reason) => return Verdict::Drop(reason),
            },
        };
        if decision.back.is_none() {
            return Verdict::Drop(DropReason::NoRoute);
        }
        if decision.forward.is_some() {
            // It turns round.
            return Verdict::Continue;
        }
        if let Some(port) = decision.published {
            let network = network_of(port, cx.tables);
            decision.target = network.map(|network| network.id);
            // A mapping may be of somebody behind a tunnel.
            let trunk = network.filter(|network| network.is_tunnel(port));
            decision.forward = match trunk {
                Some(network) => beyond(network, destination),
                None => Some(NextHop::Endpoint(port)),
            };
            return match decision.forward {
                Some(_) => Verdict::Continue,
                None => unreachable(ErrorKind::HostUnreachable, DropReason::NoEndpoint),
            };
        }
        if let Some(network) = cx.tables.network_towards(input.network, destination) {
            decision.target = Some(network.id);
            let member = network.by_address.get(&destination).map(|&port| NextHop::Endpoint(port));
            decision.forward = member.or_else(|| beyond(network, destination));
            // To strangers the network looks the same whether or not somebody has the address.
            let stranger = input.network != network.id;
            return match decision.forward {
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
        decision.forward = towards(destination, input.network, cx.tables);
        match decision.forward {
            Some(_) => Verdict::Continue,
            None => unreachable(ErrorKind::NetUnreachable, DropReason::NoRoute),
        }
    }
}

/// Where replies to a packet from inside go: where it came from. Out of a tunnel come packets of
/// those who are there, not of members or of the gateway.
fn back_inside(input: &FlowInput, tables: &Tables) -> Result<NextHop, DropReason> {
    let network = tables.network(input.network).filter(|own| own.is_tunnel(input.ingress));
    let Some(network) = network else { return Ok(NextHop::Endpoint(input.ingress)) };
    if network.by_address.contains_key(&input.source) || network.is_gateway(input.source) {
        return Err(DropReason::SpoofedIp);
    }
    beyond(network, input.source).ok_or(DropReason::OverlaySender)
}

/// The next hop behind a network's trunk.
fn beyond(network: &Network, address: IpAddr) -> Option<NextHop> {
    network.beyond(address).map(|(trunk, next)| NextHop::Neighbour(trunk, next))
}

/// The neighbour that leads to an outside address from a network, which may have chosen whose
/// default route it takes.
fn towards(address: IpAddr, from: NetworkId, tables: &Tables) -> Option<NextHop> {
    let chosen = tables.network(from).and_then(|network| network.uplink);
    let route = match chosen {
        Some(uplink) => tables.routes.to_preferring(address, uplink),
        None => tables.routes.to(address),
    };
    neighbour(route?, address, tables)
}

/// The neighbour that replies go to: on the uplink that the packet came in by, whatever better way
/// another one knows, because only there its addresses are the gateway's.
fn back(input: &FlowInput, tables: &Tables) -> Option<NextHop> {
    let PortKind::Uplink(uplink) = tables.port(input.ingress)?.kind else { return None };
    match input.source {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some(NextHop::Neighbour(input.ingress, input.source))
        }
        source => neighbour(tables.routes.to_by(source, uplink)?, source, tables),
    }
}

fn neighbour(route: &crate::tables::Route, to: IpAddr, tables: &Tables) -> Option<NextHop> {
    let uplink = tables.uplink(route.uplink)?;
    Some(NextHop::Neighbour(uplink.port, route.via.unwrap_or(to)))
}

fn network_of(port: PortId, tables: &Tables) -> Option<&Network> {
    match &tables.port(port)?.kind {
        PortKind::Endpoint(attachment) => tables.network(attachment.network),
        PortKind::Tunnel(tunnel) => tables.network(tunnel.network),
        PortKind::Uplink(_) | PortKind::Lane(_) => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{cx, decide, ip, tables, udp};
    use super::*;
    use crate::id::UplinkId;
    use crate::tables::Routes;
    use proptest::prelude::*;
    use std::sync::Arc;

    const UPLINK: PortId = PortId(0);

    #[test]
    fn a_member_is_reached_by_its_port_and_the_rest_of_the_world_by_its_router() {
        let tables = tables();
        let ways = [
            (udp(3, ("10.2.0.10", 1), ("10.1.0.11", 2)), NextHop::Endpoint(PortId(2))),
            (udp(3, ("fd00:2::10", 1), ("fd00:1::11", 2)), NextHop::Endpoint(PortId(2))),
            (
                udp(3, ("10.2.0.10", 1), ("192.0.2.77", 2)),
                NextHop::Neighbour(UPLINK, ip("192.0.2.77")),
            ),
            (udp(3, ("10.2.0.10", 1), ("8.8.8.8", 2)), NextHop::Neighbour(UPLINK, ip("192.0.2.1"))),
            (
                udp(3, ("fd00:2::10", 1), ("2600::1", 2)),
                NextHop::Neighbour(UPLINK, ip("2001:db8::1")),
            ),
        ];
        for (input, hop) in ways {
            let (verdict, decision) = decide(&mut Route, &input, &tables);
            assert_eq!((verdict, decision.forward), (Verdict::Continue, Some(hop)));
            assert_eq!(decision.back, Some(NextHop::Endpoint(PortId(3))));
            let inside = matches!(hop, NextHop::Endpoint(_));
            assert_eq!(decision.target, inside.then_some(NetworkId(0)));
        }
    }

    #[test]
    fn an_address_that_nobody_has_is_told_to_its_own_network_only() {
        let tables = tables();
        let decided = |input| decide(&mut Route, &input, &tables).0;
        let own = Answer::Error(ErrorKind::HostUnreachable, DropReason::NoEndpoint);
        assert_eq!(decided(udp(1, ("10.1.0.10", 1), ("10.1.0.99", 2))), Verdict::Answer(own));
        let other = Verdict::Drop(DropReason::OtherNetwork);
        assert_eq!(decided(udp(3, ("10.2.0.10", 1), ("10.1.0.99", 2))), other);
        let outside = Verdict::Drop(DropReason::Unpublished);
        assert_eq!(decided(udp(0, ("198.51.100.7", 1), ("10.1.0.99", 2))), outside);
    }

    #[test]
    fn without_routes_the_inside_is_told_and_the_outside_is_not() {
        let mut tables = tables();
        tables.routes = Arc::new(Routes::new(2, Vec::new()));
        let decided = |input| decide(&mut Route, &input, &tables).0;
        let told = Answer::Error(ErrorKind::NetUnreachable, DropReason::NoRoute);
        assert_eq!(decided(udp(1, ("10.1.0.10", 1), ("8.8.8.8", 2))), Verdict::Answer(told));
        let silence = Verdict::Drop(DropReason::NoRoute);
        assert_eq!(decided(udp(0, ("198.51.100.7", 1), ("10.1.0.10", 2))), silence);
    }

    #[test]
    fn link_local_addresses_are_not_forwarded() {
        let tables = tables();
        for (from, to) in
            [("10.1.0.10", "169.254.0.1"), ("fe80::1", "2600::1"), ("fd00:1::10", "fe80::1")]
        {
            let verdict = decide(&mut Route, &udp(1, (from, 1), (to, 2)), &tables).0;
            assert_eq!(verdict, Verdict::Drop(DropReason::NotRoutable), "{from} to {to}");
        }
    }

    proptest! {
        #[test]
        fn what_goes_on_has_a_way_there_and_back(
            destination in any::<u32>(), ingress in 0u16..5, near in any::<bool>(),
        ) {
            // Half of the destinations are in or near the networks.
            let bits = if near { 0x0a00_0000 | destination & 0x0003_001f } else { destination };
            let sources = ["198.51.100.7", "10.1.0.10", "10.1.0.11", "10.2.0.10", "10.3.0.10"];
            let to = std::net::Ipv4Addr::from_bits(bits).to_string();
            let input = udp(ingress, (sources[usize::from(ingress)], 1), (&to, 2));
            let (verdict, decision) = decide(&mut Route, &input, &tables());
            if verdict == Verdict::Continue {
                prop_assert!(decision.forward.is_some() && decision.back.is_some());
                let is_inside = matches!(decision.forward, Some(NextHop::Endpoint(_)));
                prop_assert_eq!(is_inside, decision.target.is_some());
            }
        }
    }

    #[test]
    fn replies_leave_by_the_uplink_that_the_packet_came_in_by() {
        let mut tables = tables();
        let second = crate::tables::Uplink {
            id: UplinkId(1),
            name: "lan".into(),
            port: PortId(5),
            addresses: vec!["198.18.0.10/24".parse().unwrap()],
            ..(**tables.uplinks[0].as_ref().unwrap()).clone()
        };
        tables.uplinks.push(Some(Arc::new(second)));
        let port = crate::tables::PortTable {
            id: PortId(5),
            kind: PortKind::Uplink(UplinkId(1)),
            ..tables.port(PortId(0)).unwrap().clone()
        };
        tables.ports.push(Some(Arc::new(port)));
        let default = |uplink, via: &str| crate::tables::Route {
            to: "0.0.0.0/0".parse().unwrap(),
            via: Some(ip(via)),
            uplink: UplinkId(uplink),
        };
        let routes = vec![default(0, "192.0.2.1"), default(1, "198.18.0.1")];
        tables.routes = Arc::new(Routes::new(2, routes));
        let back = |ingress, tables: &Tables| {
            let mut decision = Decision { published: Some(PortId(1)), ..Decision::default() };
            let input = udp(ingress, ("203.0.113.7", 5_000), ("10.1.0.10", 80));
            let input = FlowInput { network: NetworkId::NONE, ..input };
            Route.decide(&input, &mut decision, &cx(tables));
            decision.back
        };
        assert_eq!(back(0, &tables), Some(NextHop::Neighbour(PortId(0), ip("192.0.2.1"))));
        assert_eq!(back(5, &tables), Some(NextHop::Neighbour(PortId(5), ip("198.18.0.1"))));
        // A network that has chosen takes that one's default route.
        let forward = |tables: &Tables| {
            let mut decision = Decision::default();
            let input = udp(1, ("10.1.0.10", 5_000), ("203.0.113.7", 80));
            Route.decide(&input, &mut decision, &cx(tables));
            decision.forward
        };
        assert_eq!(forward(&tables), Some(NextHop::Neighbour(PortId(0), ip("192.0.2.1"))));
        let network = Arc::make_mut(tables.networks[0].as_mut().unwrap());
        network.uplink = Some(UplinkId(1));
        assert_eq!(forward(&tables), Some(NextHop::Neighbour(PortId(5), ip("198.18.0.1"))));
    }
}
