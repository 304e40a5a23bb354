//! The host behind an uplink: when the kernel's end of the device is in the host's own namespace.
//!
//! What is sent to one of the host's addresses is led to the gateway by the host's kernel, which
//! writes another destination into it: an address on the link that *stands in* for the host's. So
//! the gateway still knows which of the host's addresses was meant, and a port that is published on
//! one of them is not reached by another. The loopback addresses have a stand-in too; what comes
//! from them comes from an address of its own on the link.
//!
//! The one hard constraint: nobody but the host's kernel sends from the link's addresses, or to
//! stand-ins. The host drops what claims so from elsewhere (`gateway/src/host`).

use std::net::IpAddr;

use super::{PortKind, Tables, Uplink};
use crate::flow::{FlowInput, Path};
use crate::id::{NetworkId, PortId};

/// The host's end of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLink {
    /// The host's addresses on the link: next hops of the gateway.
    pub peers: Vec<IpAddr>,
    /// What comes from the host's loopback addresses has one of these as its source.
    pub loopback: Vec<IpAddr>,
    /// Addresses on the link, each with the host's address that it stands in for.
    pub stand_ins: Vec<(IpAddr, IpAddr)>,
}

impl HostLink {
    /// The host's address that one on the link stands in for.
    pub fn behind(&self, stand_in: IpAddr) -> Option<IpAddr> {
        self.stand_ins.iter().find(|(own, _)| *own == stand_in).map(|(_, host)| *host)
    }

    /// The address on the link that stands in for one of the host's.
    pub fn stand_in_for(&self, host: IpAddr) -> Option<IpAddr> {
        self.stand_ins.iter().find(|(_, other)| *other == host).map(|(own, _)| *own)
    }

    /// True if the host has this address, its loopback addresses aside.
    pub fn is_host(&self, address: IpAddr) -> bool {
        !address.is_loopback()
            && (self.peers.contains(&address) || self.stand_in_for(address).is_some())
    }
}

impl Tables {
    /// The address whose published ports a packet asks for: one of the gateway's own, or one of
    /// the host's; `None`: its destination is neither.
    pub(crate) fn published_address(&self, input: &FlowInput) -> Option<IpAddr> {
        let destination = input.destination;
        if input.path != Path::Routed {
            return None;
        }
        if input.network != NetworkId::NONE {
            let is_own =
                |uplink: &Uplink| uplink.owns(destination) || uplink.host.is_host(destination);
            return self.uplinks.iter().flatten().any(|own| is_own(own)).then_some(destination);
        }
        let host = self.host_of(input.ingress);
        if let Some((host, behind)) = host.and_then(|host| Some((host, host.behind(destination)?)))
        {
            // A loopback address is the host's own business, whoever forges what.
            let may_ask = !behind.is_loopback() || host.loopback.contains(&input.source);
            return may_ask.then_some(behind);
        }
        self.uplink_with_address(destination).map(|_| destination)
    }

    /// True if the host behind an uplink sent this from a loopback address.
    pub(crate) fn is_from_loopback(&self, input: &FlowInput) -> bool {
        self.host_of(input.ingress).is_some_and(|host| host.loopback.contains(&input.source))
    }

    fn host_of(&self, port: PortId) -> Option<&HostLink> {
        match self.port(port)?.kind {
            PortKind::Uplink(uplink) => Some(&self.uplink(uplink)?.host),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::flow::FlowInput;
    use crate::stage::sample::{ip, tables, udp};
    use crate::steer;
    use crate::tables::{Protocol, Publish, PublishEntry};

    const HOST: &str = "198.51.100.1";
    const STAND_IN: &str = "169.254.86.5";
    const LOOPBACK_STAND_IN: &str = "169.254.86.4";
    const LOOPBACK: &str = "169.254.86.3";

    /// The sample's tables with a host behind the uplink, and 80/udp published on its loopback
    /// address, 81/udp on its other one.
    fn beside_host() -> Tables {
        let mut tables = tables();
        let entry = |host: &str, host_port| PublishEntry {
            host: Some(ip(host)),
            protocol: Protocol::Udp,
            host_port,
            port_count: 1,
            target_port: host_port,
            target: ip("10.1.0.10"),
            port: PortId(1),
            network: NetworkId(0),
        };
        tables.publish = Arc::new(Publish::new(2, vec![entry("127.0.0.1", 80), entry(HOST, 81)]));
        Arc::make_mut(tables.uplinks[0].as_mut().unwrap()).host = HostLink {
            peers: vec![ip("169.254.86.1")],
            loopback: vec![ip(LOOPBACK)],
            stand_ins: vec![
                (ip("169.254.86.2"), ip("169.254.86.1")),
                (ip(LOOPBACK_STAND_IN), ip("127.0.0.1")),
                (ip(STAND_IN), ip(HOST)),
            ],
        };
        tables
    }

    fn asked(from: &str, to: &str) -> Option<IpAddr> {
        beside_host().published_address(&udp(0, (from, 5_000), (to, 80)))
    }

    #[test]
    fn a_stand_in_leads_to_what_is_published_on_the_hosts_address() {
        assert_eq!(asked("203.0.113.7", STAND_IN), Some(ip(HOST)));
        // From inside the host is asked by its own address.
        let inside = udp(1, ("10.1.0.10", 5_000), (HOST, 81));
        assert_eq!(beside_host().published_address(&inside), Some(ip(HOST)));
    }

    #[test]
    fn a_loopback_address_is_reached_from_the_host_alone() {
        assert_eq!(asked(LOOPBACK, LOOPBACK_STAND_IN), Some(ip("127.0.0.1")));
        for forger in ["203.0.113.7", HOST, "169.254.86.1"] {
            assert_eq!(asked(forger, LOOPBACK_STAND_IN), None, "{forger}");
        }
        let inside = udp(1, ("10.1.0.10", 5_000), (LOOPBACK_STAND_IN, 80));
        assert_eq!(beside_host().published_address(&inside), Some(ip(LOOPBACK_STAND_IN)));
        let entry = beside_host().publish.by_host(ip(LOOPBACK_STAND_IN), 17, 80).cloned();
        assert_eq!(entry, None);
    }

    #[test]
    fn the_host_is_told_by_its_addresses() {
        let tables = beside_host();
        let from = |source| udp(0, (source, 5_000), ("10.1.0.10", 80));
        assert!(
            tables.is_host(PortId(0), ip(HOST)) && tables.is_host(PortId(0), ip("169.254.86.1"))
        );
        assert!(
            !tables.is_host(PortId(0), ip("203.0.113.7"))
                && !tables.is_host(PortId(0), ip(LOOPBACK))
        );
        assert!(tables.is_from_loopback(&from(LOOPBACK)) && !tables.is_from_loopback(&from(HOST)));
    }

    #[test]
    fn what_the_host_asks_of_an_endpoint_meets_its_reply_at_one_worker() {
        let tables = beside_host();
        for port in 1..200 {
            let there = udp(0, (HOST, 5_000), ("10.1.0.10", port));
            let back = udp(1, ("10.1.0.10", port), (HOST, 5_000));
            let home = |input: &FlowInput| steer::home(input, &tables, 4, 7);
            assert_eq!(home(&there), home(&back), "port {port}");
        }
    }
}
