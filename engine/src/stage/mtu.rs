//! `mtu`: how large packets may be that go this way, and those that come back.
//!
//! The largest packet is the smallest of what the next link takes and what is known of the path to
//! the destination (see [`paths`](crate::paths)). It becomes the guard of the action; what is
//! larger is answered or fragmented. Of TCP the stage also decides what a SYN may announce at most,
//! either way, by the networks that the connection is in: "auto" steps in where the path is smaller
//! than an endpoint's own MTU, which that endpoint cannot know.
//!
//! What goes into an overlay's tunnels travels inside of packets to their far ends. What is known
//! of the path to such an end, less the outer header, bounds what goes to it; by the trunk, whose
//! tunnel follows from each packet's destination, it is the smallest of all that may be meant.
//!
//! Sizes are those of a packet as it leaves; between families a header grows by 20 bytes towards
//! IPv6, which the executor's caller allows for.

use std::net::IpAddr;

use super::{Cx, Decision, NextHop, Stage, Verdict};
use crate::flow::FlowInput;
use crate::id::{NetworkId, PortId};
use crate::paths::{End, Paths, UNKNOWN};
use crate::tables::{MssClamp, PortKind, Tables, Tunnel, TunnelEnd};
use crate::tunnel::{OUTER_V4_BYTES, OUTER_V6_BYTES};
use crate::wire::{ipv4, ipv6, protocol, tcp};

/// Knows what was learnt of paths.
#[derive(Debug)]
pub(crate) struct Mtu {
    pub(crate) paths: Paths,
}

impl Stage for Mtu {
    const NAME: &'static str = "mtu";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let port = |hop: Option<NextHop>| hop.map(NextHop::port);
        let destination = decision.destination_of(input).address;
        let there = End { network: target(decision), address: destination };
        let back = End { network: input.network, address: input.source };
        let ends = [(there, port(decision.forward)), (back, port(decision.back))];
        decision.paths = self.paths_to(ends, cx.tables);
        let [there, back] = decision.paths;
        decision.mtu = link(decision.forward, cx.tables).min(there);
        decision.mtu_back = link(decision.back, cx.tables).min(back);
        if input.protocol == protocol::TCP {
            decision.mss_max = mss_max(input, decision, cx.tables);
        }
        Verdict::Continue
    }
}

impl Mtu {
    /// What is known of the paths to these ends, each by a port: those of both directions of a
    /// flow, to its destination as packets leave and to the source of its first packet.
    pub(crate) fn paths_to(&self, ends: [(End, Option<PortId>); 2], tables: &Tables) -> [u16; 2] {
        if self.paths.is_empty() {
            return [UNKNOWN; 2];
        }
        ends.map(|(end, port)| {
            let tunnels = port.map_or(UNKNOWN, |port| self.tunnels_by(port, tables));
            self.paths.mtu_to(end).min(tunnels)
        })
    }

    /// The largest packet that goes into every tunnel that a packet by this port may take, as far
    /// as is known of the paths to their far ends; else [`UNKNOWN`]. Bounds no other port.
    pub(crate) fn tunnels_by(&self, port: PortId, tables: &Tables) -> u16 {
        if self.paths.is_empty() {
            return UNKNOWN;
        }
        let Some(tunnel) = tunnel_of(port, tables) else { return UNKNOWN };
        match &tunnel.end {
            TunnelEnd::Vtep(vtep) => self.inside(*vtep),
            TunnelEnd::Trunk(_) => {
                let network = tables.network(tunnel.network);
                let overlay = network.and_then(|network| network.overlay.as_ref());
                let all = overlay.iter().flat_map(|overlay| &overlay.tunnels);
                let inside = all.filter_map(|&port| match tunnel_of(port, tables)?.end {
                    TunnelEnd::Vtep(vtep) => Some(self.inside(vtep)),
                    TunnelEnd::Trunk(_) => None,
                });
                inside.min().unwrap_or(UNKNOWN)
            }
        }
    }

    /// What the path to a tunnel's far end leaves inside of the outer header.
    fn inside(&self, vtep: IpAddr) -> u16 {
        let outer_bytes = match vtep {
            IpAddr::V4(_) => OUTER_V4_BYTES,
            IpAddr::V6(_) => OUTER_V6_BYTES,
        };
        // As much as the outer Ethernet header, which is no part of the path's MTU, is the inner
        // one, which is carried: 50 bytes with IPv4, 70 with IPv6.
        match self.paths.mtu_to(vtep) {
            UNKNOWN => UNKNOWN,
            mtu => mtu.saturating_sub(outer_bytes as u16),
        }
    }
}

fn tunnel_of(port: PortId, tables: &Tables) -> Option<&Tunnel> {
    match &tables.port(port)?.kind {
        PortKind::Tunnel(tunnel) => Some(tunnel),
        PortKind::Endpoint(_) | PortKind::Uplink(_) | PortKind::Lane(_) => None,
    }
}

/// What the next link takes. Where a packet turns round there is none.
fn link(hop: Option<NextHop>, tables: &Tables) -> u16 {
    match hop.map(NextHop::port) {
        None | Some(PortId::TURN) => UNKNOWN,
        Some(port) => tables.port(port).map_or(0, |port| port.mtu),
    }
}

/// What a SYN of this flow or its answer may announce at most; `None`: whatever it likes.
fn mss_max(input: &FlowInput, decision: &Decision, tables: &Tables) -> Option<u16> {
    // Where a packet turns round, the flow behind the turn knows the other link.
    let headers = |v6: bool| match v6 {
        true => ipv6::HEADER_BYTES + tcp::HEADER_BYTES,
        false => ipv4::HEADER_BYTES + tcp::HEADER_BYTES,
    };
    let fits = |mtu: u16, v6: bool| mtu.saturating_sub(headers(v6) as u16);
    let is_v6 = decision.destination_of(input).address.is_ipv6();
    let path = fits(decision.mtu, is_v6).min(fits(decision.mtu_back, input.source.is_ipv6()));
    let ends = [(decision.back, input.network), (decision.forward, target(decision))];
    let clamps = ends.map(|(_, network)| clamp_of(network, tables));
    // An endpoint's own MTU is that of the link to it.
    let own = ends.iter().filter_map(|&(hop, network)| {
        let mtu = link(hop, tables);
        (network != NetworkId::NONE && mtu != UNKNOWN).then_some(mtu)
    });
    let smallest = decision.mtu.min(decision.mtu_back);
    let is_smaller = own.max().is_some_and(|own| smallest < own);
    let wanted = clamps.into_iter().filter_map(|clamp| match clamp {
        MssClamp::Off => None,
        MssClamp::Auto => is_smaller.then_some(path),
        MssClamp::Bytes(bytes) => Some(bytes),
    });
    wanted.min()
}

/// The network that a packet goes into.
fn target(decision: &Decision) -> NetworkId {
    decision.target.unwrap_or(NetworkId::NONE)
}

/// How a network wants it; outside of all networks nobody asks for anything.
fn clamp_of(network: NetworkId, tables: &Tables) -> MssClamp {
    tables.network(network).map_or(MssClamp::Off, |network| network.mss_clamp)
}

#[cfg(test)]
mod tests {
    use super::super::sample::tables;
    use super::*;
    use crate::id::UplinkId;
    use crate::tables::{Overlay, PortTable, Routes, TableMap, Vni};
    use crate::time::Tick;
    use std::sync::Arc;

    const V4_END: &str = "192.0.2.11";
    const V6_END: &str = "2001:db8::11";

    /// A trunk and its two tunnels, to which what is for everybody goes, or not.
    fn with_tunnels(learns: bool) -> (Tables, [PortId; 3]) {
        let mut tables = tables();
        let first = tables.ports.len() as u16;
        let ids = [0, 1, 2].map(|number| PortId(first + number));
        let vtep = |end: &str| TunnelEnd::Vtep(end.parse().unwrap());
        let tunnels = vec![ids[1], ids[2]];
        let everybody = if learns { tunnels.clone() } else { Vec::new() };
        let ends = [TunnelEnd::Trunk(everybody), vtep(V4_END), vtep(V6_END)];
        for (id, end) in ids.into_iter().zip(ends) {
            let kind = PortKind::Tunnel(Tunnel {
                network: NetworkId(0),
                vni: Vni(1),
                udp_port: 4_789,
                uplink: UplinkId(0),
                local: "192.0.2.10".parse().unwrap(),
                end,
            });
            let port = PortTable { epoch: 1, id, name: String::new(), kind, mtu: 1_450 };
            tables.ports.push(Some(Arc::new(port)));
        }
        let network = Arc::make_mut(tables.networks[0].as_mut().unwrap());
        network.overlay = Some(Overlay {
            trunk: ids[0],
            tunnels,
            learns,
            hosts: TableMap::default(),
            routes: Routes::new(1, Vec::new()),
        });
        (tables, ids)
    }

    #[test]
    fn the_path_to_a_tunnels_end_bounds_what_goes_in_by_it_and_by_the_trunk() {
        for learns in [true, false] {
            check_bounds(with_tunnels(learns));
        }
    }

    fn check_bounds((tables, [trunk, to_v4, to_v6]): (Tables, [PortId; 3])) {
        let mut mtu = Mtu { paths: Paths::new(8, 1) };
        let by = |mtu: &Mtu| [trunk, to_v4, to_v6].map(|port| mtu.tunnels_by(port, &tables));
        assert_eq!(by(&mtu), [UNKNOWN; 3]);
        mtu.paths.learn(V4_END.parse::<IpAddr>().unwrap(), 1_400, Tick(0));
        assert_eq!(by(&mtu), [1_350, 1_350, UNKNOWN]);
        mtu.paths.learn(V6_END.parse::<IpAddr>().unwrap(), 1_300, Tick(0));
        assert_eq!(by(&mtu), [1_230, 1_350, 1_230]);
        assert_eq!(mtu.tunnels_by(PortId(1), &tables), UNKNOWN, "an endpoint's is no tunnel");
        let at = |text: &str| End::from(text.parse::<IpAddr>().unwrap());
        let end = at("10.1.0.77");
        let paths = mtu.paths_to([(end, Some(trunk)), (end, Some(PortId(1)))], &tables);
        assert_eq!(paths, [1_230, UNKNOWN]);
        let vtep = at(V4_END);
        assert_eq!(mtu.paths_to([(vtep, None), (end, None)], &tables), [1_400, UNKNOWN]);
    }
}
