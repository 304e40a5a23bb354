//! MAC addresses of all networks while they are given out: none twice in one network.
//!
//! As with IP addresses, what the file fixes comes first and never loses: a derived or hashed
//! address that it already has is replaced by another hashed one.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::MacAddress;

use super::addresses::Holder;
use super::network::Networks;
use crate::leases::Leases;
use crate::mac;
use crate::model::{MacPolicy, Network};
use crate::reader::Field;
use crate::report::Report;
use crate::values::Mac;

/// MAC addresses of all networks, by network index.
pub(super) struct Macs<'n> {
    networks: &'n [Network],
    leases: &'n Leases,
    taken: HashMap<(usize, MacAddress), Holder>,
}

impl<'n> Macs<'n> {
    pub(super) fn new(networks: &'n Networks, leases: &'n Leases) -> Macs<'n> {
        let gateways = networks.list.iter().enumerate().map(|(index, network)| {
            let name = format!("network {}'s gateway", network.name);
            ((index, network.gateway_mac), Holder { name, at: None })
        });
        let elsewhere = networks.list.iter().enumerate().flat_map(|(index, network)| {
            let overlays = network.overlay.iter();
            let remotes = overlays.flat_map(|overlay| &overlay.remotes);
            remotes.map(move |remote| {
                let name = format!("remote {}", remote.ip);
                ((index, remote.mac), Holder { name, at: None })
            })
        });
        let taken = gateways.chain(elsewhere).collect();
        Macs { networks: &networks.list, leases, taken }
    }

    /// Takes the address that the file gives.
    pub(super) fn reserve(
        &mut self,
        network_index: usize,
        field: &Field<Mac>,
        endpoint: &str,
        report: &mut Report,
    ) -> Option<MacAddress> {
        let mac = station(field, report)?;
        let at = field.place()?;
        let own = Holder::endpoint(endpoint, Some(at));
        if let Some(other) = self.taken.insert((network_index, mac), own) {
            let network = &self.networks[network_index].name;
            let other_name = &other.name;
            let message =
                format!("{mac} is the MAC address of {other_name} in network {network} already");
            let problem = report.error(at, message);
            if let Some(other) = other.at {
                problem.related(other, "it is given here");
            }
        }
        Some(mac)
    }

    /// Takes an address by the network's policy. `given` is what the file fixes.
    pub(super) fn take(
        &mut self,
        network_index: usize,
        given: Option<MacAddress>,
        ipv4: Option<IpAddr>,
        endpoint: &str,
    ) -> MacAddress {
        if let Some(mac) = given {
            return mac;
        }
        let network = &self.networks[network_index];
        let names = ["endpoint", endpoint, &network.name];
        let leased = self.leases.get(&network.name, endpoint).map(|lease| lease.mac);
        let wish = match network.mac_policy {
            MacPolicy::Derived => mac::derived_or_hashed(ipv4, &names),
            MacPolicy::Random => {
                leased.filter(|&mac| is_station(mac)).unwrap_or_else(|| mac::hashed(&names))
            }
        };
        let hashed = (0u32..).map(|count| {
            let count = count.to_string();
            mac::hashed(&["endpoint", endpoint, &network.name, &count])
        });
        let is_free = |mac: &MacAddress| !self.taken.contains_key(&(network_index, *mac));
        let mac = std::iter::once(wish).chain(hashed).find(is_free);
        let mac = mac.expect("a network has fewer stations than there are hashed addresses");
        self.taken.insert((network_index, mac), Holder::endpoint(endpoint, None));
        mac
    }
}

/// A MAC address that one station can have.
pub(super) fn station(field: &Field<Mac>, report: &mut Report) -> Option<MacAddress> {
    let (at, &Mac(mac)) = field.given()?;
    if !is_station(mac) {
        report.error(at, format!("{mac} is no address of a single station"));
        return None;
    }
    Some(mac)
}

fn is_station(mac: MacAddress) -> bool {
    !mac.is_group() && mac != MacAddress::default()
}
