//! `admit`: may a packet with these addresses be on this port at all?
//!
//! Refuses addresses that no wire should carry (RFC 6890, RFC 4291) and outside packets that claim
//! an inside source. Limits are not here: they belong to the table that would overflow.

use std::net::IpAddr;

use super::{Cx, Decision, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::{FlowInput, Path};
use crate::id::{NetworkId, PortId};
use crate::tables::Tables;
use crate::wire::protocol;

/// Has no state.
#[derive(Debug, Default)]
pub(crate) struct Admit;

impl Stage for Admit {
    const NAME: &'static str = "admit";

    #[inline(always)]
    fn decide(&mut self, input: &FlowInput, _: &mut Decision, cx: &Cx) -> Verdict {
        if matches!(input.path, Path::Bridged(_)) {
            return Verdict::Continue;
        }
        if never_a_destination(input.destination) {
            return Verdict::Drop(DropReason::Martian);
        }
        let is_from_uplink = input.network == NetworkId::NONE && input.ingress != PortId::TURN;
        if is_from_uplink && cx.tables.is_to_own_tunnel_end(input) {
            // What could be opened has been: a VTEP sends no fragments (RFC 7348 section 4.3).
            return Verdict::Drop(DropReason::OverlayFragment);
        }
        if is_group(input.destination) && !never_a_source(input.source) {
            return Verdict::Drop(DropReason::NotRoutable);
        }
        if input.protocol == protocol::UDP
            && input.network != NetworkId::NONE
            && cx.tables.is_tunnel_end(input.destination, input.destination_port)
        {
            return Verdict::Drop(DropReason::OverlayForged);
        }
        // What turns round inside the gateway has its own outside address.
        match is_martian(input.source, is_from_uplink, cx.tables) {
            true => Verdict::Drop(DropReason::Martian),
            false => Verdict::Continue,
        }
    }
}

/// True for a source that no wire should carry, and for one of inside that comes from outside.
pub(crate) fn is_martian(source: IpAddr, from_outside: bool, tables: &Tables) -> bool {
    let claims_inside = || {
        tables.uplink_with_address(source).is_some()
            || tables.network_with_subnet_of(source).is_some()
    };
    never_a_source(source) || (from_outside && claims_inside())
}

fn never_a_source(address: IpAddr) -> bool {
    let reserved = match address {
        // 240.0.0.0/4 with 255.255.255.255, and 0.0.0.0/8 ("this network", RFC 6890).
        IpAddr::V4(v4) => v4.octets()[0] >= 240 || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    reserved || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

fn never_a_destination(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::super::sample::{decide, frame, ip, mac, tables, udp};
    use super::*;
    use crate::id::MacAddress;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn martians_are_told_apart() {
        for source in ["127.0.0.1", "0.1.2.3", "255.255.255.255", "224.0.0.1", "::1", "ff02::1"] {
            assert!(never_a_source(source.parse().unwrap()), "{source}");
        }
        for source in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fe80::1"] {
            assert!(!never_a_source(source.parse().unwrap()), "{source}");
        }
    }

    fn admit(input: &FlowInput) -> Verdict {
        decide(&mut Admit, input, &tables()).0
    }

    #[test]
    fn an_ordinary_packet_goes_on_and_so_does_every_frame() {
        assert_eq!(admit(&udp(1, ("10.1.0.10", 5), ("198.51.100.7", 53))), Verdict::Continue);
        assert_eq!(admit(&udp(0, ("198.51.100.7", 5), ("192.0.2.10", 53))), Verdict::Continue);
        assert_eq!(admit(&frame(1, mac(2))), Verdict::Continue);
        assert_eq!(admit(&frame(1, MacAddress::BROADCAST)), Verdict::Continue);
    }

    #[test]
    fn reserved_ranges_end_where_they_should() {
        let edges = [
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("126.255.255.255", false),
            ("127.0.0.0", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("223.255.255.255", false),
            ("224.0.0.0", true),
            ("239.255.255.255", true),
            ("240.0.0.0", true),
            ("::", true),
            ("::2", false),
            ("::ffff:10.1.0.10", true),
            ("feff::", false),
            ("ff00::", true),
        ];
        for (address, never) in edges {
            assert_eq!(never_a_source(ip(address)), never, "{address}");
        }
    }

    #[test]
    fn the_outside_cannot_claim_an_address_of_ours() {
        let martian = Verdict::Drop(DropReason::Martian);
        for source in ["10.1.0.10", "10.3.0.255", "192.0.2.10"] {
            assert_eq!(admit(&udp(0, (source, 5), ("192.0.2.10", 53))), martian, "{source}");
        }
        let source = ("fd00:1::99", 5);
        assert_eq!(admit(&udp(0, source, ("2001:db8::10", 53))), martian);
        // On the same link and not ours.
        let neighbour = udp(0, ("192.0.2.11", 5), ("192.0.2.10", 53));
        assert_eq!(admit(&neighbour), Verdict::Continue);
    }

    proptest! {
        #[test]
        fn what_goes_on_has_two_unicast_addresses(
            source in any::<u32>(), destination in any::<u32>(), ingress in 0u16..5,
        ) {
            let (from, to) = (Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination));
            let input = udp(ingress, (&from.to_string(), 1), (&to.to_string(), 2));
            let goes_on = admit(&input) == Verdict::Continue;
            let unicast = |address: Ipv4Addr| {
                !(address.is_multicast() || address.is_broadcast() || address.is_loopback()
                    || address.is_unspecified())
            };
            prop_assert!(!goes_on || (unicast(from) && unicast(to)));
        }
    }
}
