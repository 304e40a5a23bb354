//! `bridge`: which port a frame inside a network goes to.
//!
//! Members' MAC addresses are in the tables; others are learnt where the operator allows it. What
//! is neither is flooded. The FDB keeps both kinds, so that the packet path asks one line; this
//! stage is what fills it. Routed packets pass by.

use super::{Cx, Decision, NextHop, Stage, Verdict};
use crate::counters::DropReason;
use crate::fdb::Fdb;
use crate::flow::{FlowInput, Path};
use crate::id::MacAddress;
use crate::tables::{Between, Direct, Network};

/// Owns the FDB.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) fdb: Fdb,
}

impl Stage for Bridge {
    const NAME: &'static str = "bridge";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let Path::Bridged(mac) = input.path else {
            return Verdict::Continue;
        };
        let Some(network) = cx.tables.network(input.network) else {
            return Verdict::Drop(DropReason::PortGone);
        };
        if !network.icc {
            return Verdict::Drop(DropReason::IccOff);
        }
        if network.routed_only {
            return Verdict::Drop(DropReason::NotRoutable);
        }
        if let Some(direct) = &network.direct {
            return self.on_link(network, direct, mac, input, decision, cx);
        }
        if mac.is_group() {
            return Verdict::Flood;
        }
        let member = network.by_mac.get(&mac).copied();
        let learnt =
            || self.fdb.learnt(input.network, mac, cx.tick).filter(|port| network.has(*port));
        match member.or_else(learnt) {
            Some(port) if port == input.ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) if network.is_tunnel(port) && network.is_tunnel(input.ingress) => {
                Verdict::Drop(DropReason::OverlaySplitHorizon)
            }
            Some(port) => {
                decision.target = Some(input.network);
                decision.forward = Some(NextHop::Endpoint(port));
                Verdict::Forward
            }
            None => Verdict::Flood,
        }
    }
}

impl Bridge {
    /// A frame on an uplink's link, from a member or off the wire. Who is no member is on the wire.
    fn on_link(
        &self,
        network: &Network,
        direct: &Direct,
        mac: MacAddress,
        input: &FlowInput,
        decision: &mut Decision,
        cx: &Cx,
    ) -> Verdict {
        let is_member = input.ingress != direct.trunk;
        let mut forward = |port| {
            decision.target = Some(input.network);
            decision.forward = Some(NextHop::Endpoint(port));
            Verdict::Forward
        };
        if mac.is_group() {
            return match direct.between {
                Between::ByWire | Between::Never if is_member => forward(direct.trunk),
                _ => Verdict::Flood,
            };
        }
        let member = network.by_mac.get(&mac).copied();
        let learnt =
            || self.fdb.learnt(input.network, mac, cx.tick).filter(|port| network.has(*port));
        match member.or_else(learnt).filter(|&port| port != direct.trunk) {
            Some(port) if port == input.ingress => Verdict::Drop(DropReason::SamePort),
            Some(port) if is_member => match direct.between {
                Between::Straight => forward(port),
                Between::ByWire => forward(direct.trunk),
                Between::Never => Verdict::Drop(DropReason::IccOff),
            },
            Some(port) => forward(port),
            None if is_member => forward(direct.trunk),
            None if direct.is_whole => {
                let only = network.members.iter().find(|&&port| port != direct.trunk);
                only.map_or(Verdict::Drop(DropReason::NoReceiver), |&port| forward(port))
            }
            None => Verdict::Drop(DropReason::NotForUs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{decide, frame, mac, tables, udp};
    use super::*;
    use crate::id::{MacAddress, NetworkId, PortId};
    use crate::tables::Tables;
    use crate::time::Tick;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn bridge() -> Bridge {
        Bridge { fdb: Fdb::new(64, 8, 8, 1) }
    }

    const STATION: MacAddress = MacAddress(0x0600_0000_0001);

    #[test]
    fn a_member_is_reached_by_its_port_and_a_stranger_by_a_flood() {
        let (mut bridge, tables) = (bridge(), tables());
        let (verdict, decision) = decide(&mut bridge, &frame(1, mac(2)), &tables);
        assert_eq!(
            (verdict, decision.forward),
            (Verdict::Forward, Some(NextHop::Endpoint(PortId(2))))
        );
        for unknown in [STATION, MacAddress::BROADCAST, mac(3)] {
            assert_eq!(decide(&mut bridge, &frame(1, unknown), &tables).0, Verdict::Flood);
        }
        let routed = udp(1, ("10.1.0.10", 5), ("198.51.100.7", 53));
        assert_eq!(decide(&mut bridge, &routed, &tables).0, Verdict::Continue);
    }

    #[test]
    fn a_station_is_reached_where_it_was_heard_while_that_is_a_member() {
        let (mut bridge, mut tables) = (bridge(), tables());
        bridge.fdb.hear(NetworkId(0), STATION, PortId(2), Tick(0));
        let (verdict, decision) = decide(&mut bridge, &frame(1, STATION), &tables);
        assert_eq!(
            (verdict, decision.forward),
            (Verdict::Forward, Some(NextHop::Endpoint(PortId(2))))
        );
        // Another network does not know it, and its port leaves.
        assert_eq!(decide(&mut bridge, &frame(3, STATION), &tables).0, Verdict::Flood);
        change(&mut tables, |network| network.members.retain(|&port| port != PortId(2)));
        assert_eq!(decide(&mut bridge, &frame(1, STATION), &tables).0, Verdict::Flood);
    }

    fn change(tables: &mut Tables, change: impl FnOnce(&mut crate::tables::Network)) {
        change(Arc::make_mut(tables.networks[0].as_mut().unwrap()));
    }

    #[test]
    fn without_icc_or_network_nothing_passes() {
        let (mut bridge, mut tables) = (bridge(), tables());
        change(&mut tables, |network| network.icc = false);
        for to in [mac(2), STATION, MacAddress::BROADCAST] {
            let verdict = decide(&mut bridge, &frame(1, to), &tables).0;
            assert_eq!(verdict, Verdict::Drop(DropReason::IccOff));
        }
        tables.networks.clear();
        let verdict = decide(&mut bridge, &frame(1, mac(2)), &tables).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::PortGone));
    }

    proptest! {
        #[test]
        fn nothing_returns_to_the_port_it_came_from(
            heard in prop::collection::vec((0u64..6, 1u16..3), 0..20), ingress in 1u16..3,
        ) {
            let (mut bridge, tables) = (bridge(), tables());
            for (station, port) in heard {
                let station = MacAddress(STATION.0 + station);
                bridge.fdb.hear(NetworkId(0), station, PortId(port), Tick(0));
            }
            let stations = (0..6).map(|station| MacAddress(STATION.0 + station));
            for to in stations.chain([mac(1), mac(2)]) {
                let (verdict, decision) = decide(&mut bridge, &frame(ingress, to), &tables);
                prop_assert_ne!(decision.forward, Some(NextHop::Endpoint(PortId(ingress))));
                prop_assert_eq!(verdict == Verdict::Forward, decision.forward.is_some());
            }
        }
    }
}
