//! What a config asks of the host: nothing but values, compared to see what changes.

use std::net::IpAddr;

use config::{Config, HostSide, NetworkDriver, Parent};
use engine::tables::Protocol;
use ipnet::IpNet;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Uplinks beside the host. The first one has the stand-ins of the host's addresses.
    pub(super) beside: Vec<Beside>,
    /// Subnets of networks, and by which of the uplinks the host reaches them.
    pub(super) routes: Vec<(usize, IpNet)>,
    /// Published ports.
    pub(super) publish: Vec<Published>,
}

/// An uplink beside the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    /// The uplink's name.
    pub(super) name: String,
    /// The device.
    pub(super) interface: String,
    /// The link.
    pub(super) host: HostSide,
    /// The gateway's own addresses on it; those on the link if it shares the host's.
    pub(super) own: Vec<IpNet>,
}

/// A published range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// Of the address that it is published on.
    pub(super) v6: bool,
    /// `None`: every address.
    pub(super) host: Option<IpAddr>,
    pub(super) protocol: Protocol,
    pub(super) first: u16,
    pub(super) last: u16,
}

/// Which uplink has the stand-ins of the host's addresses: the one that shares them, or the first
/// one beside the host.
pub(super) fn primary(config: &Config) -> Option<usize> {
    let is_shared = |host: &HostSide| host.is_shared;
    let shared = config.uplinks.iter().position(|own| own.host.as_ref().is_some_and(is_shared));
    shared.or_else(|| config.uplinks.iter().position(|uplink| uplink.host.is_some()))
}

impl Wanted {
    /// What a config asks.
    pub(super) fn of(config: &Config) -> Wanted {
        let Some(primary) = primary(config) else { return Wanted::default() };
        let others = (0..config.uplinks.len()).filter(|&index| index != primary);
        let order = std::iter::once(primary).chain(others);
        let beside: Vec<Beside> = order
            .filter_map(|index| {
                let uplink = &config.uplinks[index];
                Some(Beside {
                    name: uplink.name.clone(),
                    interface: uplink.interface.as_str().to_owned(),
                    host: uplink.host.clone()?,
                    own: uplink.addresses.clone(),
                })
            })
            .collect();
        let networks = config.networks.iter().filter(|own| {
            let is_routed = |parent: &Parent| parent.mode.is_routed();
            own.driver == NetworkDriver::Bridge || own.parent.as_ref().is_some_and(is_routed)
        });
        let routes = networks.flat_map(|network| {
            let own = beside.iter().position(|own| Some(&own.name) == network.uplink.as_ref());
            let index = own.unwrap_or(0);
            network.subnets.iter().map(move |subnet| (index, subnet.prefix))
        });
        let routes = routes.collect();
        let publish = config.endpoints.iter().flat_map(|endpoint| &endpoint.publish);
        // Of a routed network nothing is published on the host.
        let publish = publish.filter(|entry| entry.host_port != 0);
        let publish = publish.map(|entry| Published {
            v6: entry.host.unwrap_or(entry.target).is_ipv6(),
            host: entry.host.filter(|host| !host.is_unspecified()),
            protocol: entry.protocol,
            first: entry.host_port,
            last: entry.host_port + (entry.port_count - 1),
        });
        Wanted { publish: publish.collect(), beside, routes }
    }

    /// Loopback addresses that are to have a stand-in: the usual ones and those that ports are
    /// published on.
    pub(super) fn loopbacks(config: &Config) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> =
            vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        let publish = config.endpoints.iter().flat_map(|endpoint| &endpoint.publish);
        for host in publish.filter_map(|entry| entry.host).filter(IpAddr::is_loopback) {
            if !all.contains(&host) {
                all.push(host);
            }
        }
        all
    }
}
