//! `admit`: may a packet with these addresses be on this port at all?
//!
//! Refuses addresses that no wire should carry (RFC 6890, RFC 4291) and outside packets that claim
//! an inside source. Limits are not here: they belong to the table that would overflow.

use std::net::IpAddr;

use super::{Cx, Decision, Stage, Verdict};
use crate::counters::DropReason;
use crate::flow::{FlowInput, Path};
use crate::id::NetworkId;

/// Has no state.
#[derive(Debug, Default)]
pub(crate) struct Admit;

impl Stage for Admit {
    const NAME: &'static str = "admit";

    fn decide(&mut self, input: &FlowInput, _: &mut Decision, cx: &Cx) -> Verdict {
        if matches!(input.path, Path::Bridged(_)) {
            return Verdict::Continue;
        }
        if never_a_source(input.source) || never_a_destination(input.destination) {
            return Verdict::Drop(DropReason::Martian);
        }
        if is_group(input.destination) {
            return Verdict::Drop(DropReason::NotRoutable);
        }
        let from_outside = input.network == NetworkId::NONE;
        let claims_inside = || {
            cx.tables.uplink_with_address(input.source).is_some()
                || cx.tables.network_with_subnet_of(input.source).is_some()
        };
        if from_outside && claims_inside() {
            return Verdict::Drop(DropReason::Martian);
        }
        Verdict::Continue
    }
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
    use super::*;

    #[test]
    fn martians_are_told_apart() {
        for source in ["127.0.0.1", "0.1.2.3", "255.255.255.255", "224.0.0.1", "::1", "ff02::1"] {
            assert!(never_a_source(source.parse().unwrap()), "{source}");
        }
        for source in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fe80::1"] {
            assert!(!never_a_source(source.parse().unwrap()), "{source}");
        }
    }
}
