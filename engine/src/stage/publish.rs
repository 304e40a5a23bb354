//! `publish`: does one of our own addresses and ports lead to an endpoint?
//!
//! Looks at the destination only, whoever asks: outside clients, members of other networks and of
//! the same one (hairpin) meet the same entries. Whether they may pass is `policy`'s.

use std::net::IpAddr;

use super::{Cx, Decision, Socket, Stage, Verdict};
use crate::flow::FlowInput;

/// Has no state: the entries are in the tables.
#[derive(Debug, Default)]
pub(crate) struct Publish;

impl Stage for Publish {
    const NAME: &'static str = "publish";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        let Some(asked) = cx.tables.published_address(input) else { return Verdict::Continue };
        if matches!(input.source, IpAddr::V6(source) if source.is_unicast_link_local()) {
            // Docker translates none of these either: such a source means nothing in the network.
            return Verdict::Continue;
        }
        if let Some(one) = cx.tables.nat.statics.by_outside(input.destination) {
            decision.destination =
                Some(Socket { address: one.inside, port: input.destination_port });
            decision.published = Some(one.port);
            return Verdict::Continue;
        }
        let publish = &cx.tables.publish;
        let found = publish.by_host(asked, input.protocol, input.destination_port);
        if let Some(entry) = found {
            let port = entry.target_port_of(input.destination_port);
            decision.destination = Some(Socket { address: entry.target, port });
            decision.published = Some(entry.port);
        }
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{decide, frame, ip, mac, publish, tables, udp};
    use super::*;
    use crate::id::PortId;
    use proptest::prelude::*;

    #[test]
    fn our_address_at_a_published_port_leads_to_the_endpoint() {
        let mut tables = tables();
        publish(&mut tables, 5_300, 1, 53);
        for (ingress, client) in [(0, "198.51.100.7"), (2, "10.1.0.11"), (3, "10.2.0.10")] {
            let input = udp(ingress, (client, 40_000), ("192.0.2.10", 5_300));
            let (verdict, decision) = decide(&mut Publish, &input, &tables);
            assert_eq!((verdict, decision.published), (Verdict::Continue, Some(PortId(1))));
            let target = Socket { address: ip("10.1.0.10"), port: 53 };
            assert_eq!(decision.destination, Some(target));
        }
    }

    #[test]
    fn other_addresses_families_and_frames_are_not_published() {
        let mut tables = tables();
        publish(&mut tables, 5_300, 1, 53);
        let inputs = [
            udp(0, ("198.51.100.7", 1), ("192.0.2.11", 5_300)),
            udp(2, ("10.1.0.11", 1), ("10.1.0.1", 5_300)),
            udp(0, ("2001:db8::7", 1), ("2001:db8::10", 5_300)),
            udp(0, ("fe80::7", 1), ("2001:db8::10", 5_300)),
            FlowInput { protocol: 6, ..udp(0, ("198.51.100.7", 1), ("192.0.2.10", 5_300)) },
            frame(2, mac(1)),
        ];
        for input in inputs {
            let untouched = (Verdict::Continue, Decision::default());
            assert_eq!(decide(&mut Publish, &input, &tables), untouched, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn a_range_leads_pairwise_and_ends_at_both_ends(
            host_port in any::<u16>(), count in 1u16.., target_port in any::<u16>(),
            asked in any::<u16>(),
        ) {
            let room = u16::MAX - host_port.max(target_port);
            let count = count.min(room.saturating_add(1)).max(1);
            let mut tables = tables();
            publish(&mut tables, host_port, count, target_port);
            let last = host_port + (count - 1);
            let edges = [asked, host_port, last, host_port.wrapping_sub(1), last.wrapping_add(1)];
            for asked in edges {
                let input = udp(0, ("198.51.100.7", 1), ("192.0.2.10", asked));
                let found = decide(&mut Publish, &input, &tables).1.destination;
                let expected =
                    (host_port..=last).contains(&asked).then(|| target_port + (asked - host_port));
                prop_assert_eq!(found.map(|found| found.port), expected);
            }
        }
    }
}
