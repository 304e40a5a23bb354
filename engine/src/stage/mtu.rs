//! `mtu`: how large packets may be that go this way, and those that come back.
//!
//! The largest packet is the smallest of what the next link takes and what is known of the path to
//! the destination (see [`paths`](crate::paths)). It becomes the guard of the action; what is
//! larger is answered or fragmented. Of TCP the stage also decides what a SYN may announce at most,
//! either way, by the networks that the connection is in: "auto" steps in where the path is smaller
//! than an endpoint's own MTU, which that endpoint cannot know.
//!
//! Sizes are those of a packet as it leaves; between families a header grows by 20 bytes towards
//! IPv6, which the executor's caller allows for.

use std::net::IpAddr;

use super::{Cx, Decision, NextHop, Stage, Verdict};
use crate::flow::FlowInput;
use crate::id::{NetworkId, PortId};
use crate::paths::{Paths, UNKNOWN};
use crate::tables::{MssClamp, Tables};
use crate::wire::{ipv4, ipv6, protocol, tcp};

/// Knows what was learnt of paths.
#[derive(Debug)]
pub(crate) struct Mtu {
    pub(crate) paths: Paths,
}

impl Stage for Mtu {
    const NAME: &'static str = "mtu";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let destination = decision.destination_of(input).address;
        decision.paths = self.paths_between(destination, input.source);
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
    /// What is known of the paths of both directions of a flow, to its destination as packets leave
    /// and to the source of its first packet.
    pub(crate) fn paths_between(&self, destination: IpAddr, source: IpAddr) -> [u16; 2] {
        match self.paths.is_empty() {
            true => [UNKNOWN; 2],
            false => [destination, source].map(|end| self.paths.mtu_to(end)),
        }
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
