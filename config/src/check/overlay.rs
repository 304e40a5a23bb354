//! Keys of overlays: identifier, tunnel ends, static hosts and routes.
//!
//! A tunnel end is an address of an uplink here and one of another machine there, of one family.
//! The one hard constraint: whom a packet out of a tunnel is from must be clear, so nothing is
//! given twice. Not here: whether endpoints have the addresses of hosts elsewhere; the whole
//! config is looked at for that ([`check_members`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use engine::{MacAddress, PortId};
use ipnet::IpNet;

use super::uplink::Uplinks;
use super::{macs, number, subnet};
use crate::bounds::{TUNNEL_PORT_MAX, VNI_MAX};
use crate::ipam::overlap;
use crate::model::{Config, Network, Overlay, OverlayHost, OverlayRoute, Subnet, Uplink};
use crate::reader::Field;
use crate::report::{PlaceId, Report};
use crate::schema;
use crate::values::{Address, Prefix};

/// RFC 7348 section 5: the port that IANA gave VXLAN.
pub(crate) const PORT_DEFAULT: u16 = 4_789;

/// Bytes that a tunnel takes of each packet, by the outer header's family.
pub(crate) fn overhead(v6: bool) -> u16 {
    if v6 { 70 } else { 50 }
}

/// Checks the keys of one overlay.
pub(super) struct Checker<'c, 'd> {
    pub(super) name: &'d str,
    pub(super) at: PlaceId,
    pub(super) table: &'d schema::Network,
    pub(super) uplinks: &'c Uplinks,
    pub(super) report: &'c mut Report,
}

impl<'c> Checker<'c, '_> {
    /// What makes the network an overlay. `None`: too little is known of it, which has been
    /// reported.
    pub(super) fn check(&mut self, subnets: &[Subnet], gateway_mac: MacAddress) -> Option<Overlay> {
        let uplink = self.uplink();
        let vni = self.vni();
        let port = number(&self.table.port, 1..=TUNNEL_PORT_MAX, "", self.report);
        let uplink = uplink?;
        let own = || uplink.addresses.iter().map(IpNet::addr);
        let mut overlay = Overlay {
            vni: vni?,
            udp_port: port.map_or(PORT_DEFAULT, |port| port as u16),
            uplink: uplink.name.clone(),
            local_v4: own().find(IpAddr::is_ipv4),
            local_v6: own().find(IpAddr::is_ipv6),
            peers: self.peers(uplink),
            group: self.group(uplink),
            remotes: Vec::new(),
            routes: Vec::new(),
            trunk: PortId(0),
            tunnels: Vec::new(),
        };
        let mut macs: Macs = HashMap::from([(gateway_mac, None)]);
        overlay.remotes = self.remotes(uplink, subnets, &mut macs);
        overlay.routes = self.routes(uplink, subnets, &mut macs);
        let ends: BTreeSet<IpAddr> = overlay.ends().collect();
        overlay.tunnels = ends.into_iter().map(|vtep| (vtep, PortId(0))).collect();
        if overlay.tunnels.is_empty() && self.report.error_count() == 0 {
            let problem = self.report.error(self.at, "an overlay leads to somebody");
            problem.hint("give it peers, remote or route");
        }
        Some(overlay)
    }

    /// The uplink that tunnels take, of an internal network too.
    fn uplink(&mut self) -> Option<&'c Uplink> {
        let name = match self.table.uplink.value() {
            Some(name) => Some(name),
            None => self.uplinks.names.first(),
        };
        let found = name.and_then(|name| self.uplinks.list.iter().find(|own| own.name == *name));
        if self.uplinks.names.is_empty() {
            let problem = self.report.error(self.at, "an overlay needs an uplink");
            problem.hint("its tunnels leave by one: write [uplink.NAME]");
        }
        found
    }

    fn vni(&mut self) -> Option<u32> {
        if self.table.vni.is_absent() {
            let problem = self.report.error(self.at, "vni is missing");
            problem.hint("the same number at all ends, such as vni = 4097");
        }
        number(&self.table.vni, 1..=VNI_MAX, "", self.report).map(|vni| vni as u32)
    }

    /// The address of another machine's tunnel end, which is of a family that the uplink has.
    fn vtep(&mut self, field: &Field<Address>, uplink: &Uplink) -> Option<IpAddr> {
        let (at, &Address(address)) = field.given()?;
        let own = || uplink.addresses.iter().map(IpNet::addr);
        if own().any(|own| own == address) {
            self.report.error(at, format!("{address} is our own end of the tunnel"));
            return None;
        }
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            self.report.error(at, format!("{address} is no address of one machine"));
            return None;
        }
        self.is_of_its_family(address, at, uplink).then_some(address)
    }

    fn is_of_its_family(&mut self, address: IpAddr, at: PlaceId, uplink: &Uplink) -> bool {
        let mut own = uplink.addresses.iter().map(IpNet::addr);
        let has = own.any(|own| own.is_ipv6() == address.is_ipv6());
        if !has {
            let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
            let name = &uplink.name;
            let message = format!("uplink {name} has no {family} address to reach {address} from");
            self.report.error(at, message);
        }
        has
    }

    fn peers(&mut self, uplink: &Uplink) -> Vec<IpAddr> {
        let (mut peers, mut seen) = (Vec::new(), HashMap::new());
        for field in self.table.peers.value().into_iter().flatten() {
            let Some(vtep) = self.vtep(field, uplink) else { continue };
            let at = field.place().expect("it is given");
            match seen.insert(vtep, at) {
                Some(other) => {
                    let problem = self.report.error(at, format!("{vtep} is a peer already"));
                    problem.related(other, "it is given here");
                }
                None => peers.push(vtep),
            }
        }
        peers
    }

    fn group(&mut self, uplink: &Uplink) -> Option<IpAddr> {
        let (at, &Address(group)) = self.table.group.given()?;
        if !group.is_multicast() {
            self.report.error(at, format!("{group} is no multicast address"));
            return None;
        }
        if self.table.peers.is_absent() {
            let problem = self.report.error(at, "a group has members");
            problem.hint("give them as peers: packets are taken from no others");
        }
        self.is_of_its_family(group, at, uplink).then_some(group)
    }

    /// A MAC address elsewhere: not ours, and behind one tunnel end only.
    fn mac(&mut self, at: PlaceId, mac: MacAddress, vtep: IpAddr, macs: &mut Macs) -> bool {
        match macs.insert(mac, Some((at, vtep))) {
            None => return true,
            Some(None) => {
                let name = self.name;
                let message = format!("{mac} is the MAC address of network {name}'s gateway");
                self.report.error(at, message);
            }
            Some(Some((_, other))) if other == vtep => return true,
            Some(Some((place, other))) => {
                let problem = self.report.error(at, format!("{mac} is behind {other} already"));
                problem.related(place, "it is given here");
            }
        }
        false
    }

    fn remotes(
        &mut self,
        uplink: &Uplink,
        subnets: &[Subnet],
        macs: &mut Macs,
    ) -> Vec<OverlayHost> {
        let (mut remotes, mut seen) = (Vec::new(), HashMap::new());
        for field in self.table.remote.value().into_iter().flatten() {
            let Some((at, remote)) = field.given() else { continue };
            let keys = [
                ("ip", remote.ip.is_absent()),
                ("mac", remote.mac.is_absent()),
                ("vtep", remote.vtep.is_absent()),
            ];
            self.missing(at, &keys);
            let vtep = self.vtep(&remote.vtep, uplink);
            let mac = macs::station(&remote.mac, self.report);
            let Some((ip_at, &Address(ip))) = remote.ip.given() else { continue };
            let own = subnets.iter().find(|subnet| subnet.prefix.contains(&ip));
            match own {
                None => {
                    let name = self.name;
                    self.report.error(ip_at, format!("{ip} is in no subnet of network {name}"));
                }
                Some(own) if own.gateway == ip => {
                    let message = format!("{ip} is the address of network {}'s gateway", self.name);
                    self.report.error(ip_at, message);
                }
                Some(own) => {
                    subnet::check_usable(own.prefix, ip, ip_at, self.report);
                }
            }
            if let Some(other) = seen.insert(ip, ip_at) {
                let problem = self.report.error(ip_at, format!("{ip} is a remote already"));
                problem.related(other, "it is given here");
            }
            let (Some(vtep), Some(mac)) = (vtep, mac) else { continue };
            if self.mac(remote.mac.place().unwrap_or(at), mac, vtep, macs) {
                remotes.push(OverlayHost { ip, mac, vtep });
            }
        }
        remotes
    }

    fn routes(
        &mut self,
        uplink: &Uplink,
        subnets: &[Subnet],
        macs: &mut Macs,
    ) -> Vec<OverlayRoute> {
        let (mut routes, mut seen) = (Vec::new(), HashMap::new());
        let mut ends: HashMap<IpAddr, (PlaceId, MacAddress)> = HashMap::new();
        for field in self.table.route.value().into_iter().flatten() {
            let Some((at, route)) = field.given() else { continue };
            let keys = [
                ("subnet", route.subnet.is_absent()),
                ("vtep_ip", route.vtep_ip.is_absent()),
                ("vtep_mac", route.vtep_mac.is_absent()),
                ("host", route.host.is_absent()),
            ];
            self.missing(at, &keys);
            let host = self.vtep(&route.host, uplink);
            let mac = macs::station(&route.vtep_mac, self.report);
            let prefix = self.prefix(&route.subnet, subnets, &mut seen);
            let (Some(host), Some(mac), Some(prefix)) = (host, mac, prefix) else { continue };
            let Some((ip_at, &Address(vtep_ip))) = route.vtep_ip.given() else { continue };
            if let Some((other_at, other)) = ends.insert(vtep_ip, (ip_at, mac))
                && other != mac
            {
                let message = format!("{vtep_ip} has the MAC address {other} already");
                self.report.error(ip_at, message).related(other_at, "it is given here");
            }
            if self.mac(route.vtep_mac.place().unwrap_or(at), mac, host, macs) {
                routes.push(OverlayRoute { subnet: prefix, vtep_ip, vtep_mac: mac, host });
            }
        }
        routes
    }

    /// What a route leads to: not to what is here, and not where another leads to.
    fn prefix(
        &mut self,
        field: &Field<Prefix>,
        subnets: &[Subnet],
        seen: &mut HashMap<IpNet, PlaceId>,
    ) -> Option<IpNet> {
        let (at, &Prefix(prefix)) = field.given()?;
        let prefix = subnet::check_host_bits(prefix, at, self.report)?;
        let prefix = subnet::check_ordinary(prefix, at, self.report)?;
        let own = subnets.iter().find(|own| overlap(own.prefix, prefix));
        if let Some(own) = own.filter(|own| own.prefix.prefix_len() <= prefix.prefix_len()) {
            let message = format!("{prefix} is in subnet {} of network {}", own.prefix, self.name);
            self.report.error(at, message).hint("what is here is not reached by a tunnel");
            return None;
        }
        if let Some(other) = seen.insert(prefix, at) {
            let problem = self.report.error(at, format!("{prefix} has a route already"));
            problem.related(other, "it is given here");
            return None;
        }
        Some(prefix)
    }

    fn missing(&mut self, at: PlaceId, keys: &[(&str, bool)]) {
        for (key, _) in keys.iter().filter(|(_, is_absent)| *is_absent) {
            self.report.error(at, format!("{key} is missing"));
        }
    }
}

/// Behind which tunnel end a MAC address is, and where that is given; the gateway's is behind none.
type Macs = HashMap<MacAddress, Option<(PlaceId, IpAddr)>>;

/// The largest IP packet that goes through the network's tunnels.
pub(super) fn mtu(overlay: &Overlay, uplinks: &Uplinks) -> u16 {
    let uplink = uplinks.list.iter().find(|uplink| uplink.name == overlay.uplink);
    let own = uplink.map_or(super::uplink::MTU_DEFAULT, |uplink| uplink.mtu);
    own.saturating_sub(overhead(overlay.tunnels.iter().any(|(vtep, _)| vtep.is_ipv6())))
}

/// What shows only when all networks and endpoints are known: identifiers and addresses that two
/// have.
pub(super) fn check_members(
    config: &Config,
    place: impl Fn(&str) -> Option<PlaceId>,
    report: &mut Report,
) {
    let mut seen: HashMap<(u16, u32), Vec<(&Network, &Overlay)>> = HashMap::new();
    let overlays = || {
        let networks = config.networks.iter().map(|network| &**network);
        networks.filter_map(|network| Some((network, network.overlay.as_ref()?)))
    };
    for (network, overlay) in overlays() {
        let at = place(&network.name).unwrap_or(PlaceId::ROOT);
        let sharers = seen.entry((overlay.udp_port, overlay.vni)).or_default();
        for &other in sharers.iter() {
            check_sharing((network, overlay), other, at, report);
        }
        sharers.push((network, overlay));
        check_remotes(config, network, overlay, at, report);
    }
    check_subnets_of_endpoints(config, report);
    let ports: HashSet<u16> = overlays().map(|(_, overlay)| overlay.udp_port).collect();
    for endpoint in &config.endpoints {
        for publish in &endpoint.publish {
            let last = u32::from(publish.host_port) + u32::from(publish.port_count) - 1;
            let range = u32::from(publish.host_port)..=last;
            let taken = ports.iter().find(|&&port| range.contains(&port.into()));
            if let Some(port) = taken.filter(|_| publish.protocol.number() == 17) {
                let name = &endpoint.name;
                let message =
                    format!("endpoint {name} publishes UDP port {port}, which is the tunnels'");
                report.error(PlaceId::ROOT, message);
            }
        }
    }
}

/// Networks share an identifier if all of them are routed: whose a packet out of a tunnel is, its
/// addresses say, by the routes.
fn check_sharing(
    (network, overlay): (&Network, &Overlay),
    (other_network, other): (&Network, &Overlay),
    at: PlaceId,
    report: &mut Report,
) {
    let (vni, port, name) = (overlay.vni, overlay.udp_port, &other_network.name);
    let is_routed =
        |one: &Overlay| one.peers.is_empty() && one.group.is_none() && one.remotes.is_empty();
    if !is_routed(overlay) || !is_routed(other) {
        let message = format!("network {name} has vni {vni} at port {port} already");
        let problem = report.error(at, message);
        problem.hint("networks share one if all that leads into their tunnels are routes");
        return;
    }
    if network.gateway_mac != other_network.gateway_mac {
        let mac = other_network.gateway_mac;
        let message = format!("network {name} has vni {vni} too, and the MAC address {mac}");
        let problem = report.error(at, message);
        problem.hint("networks that share a vni have one address in it: give both gateway_mac");
    }
    if overlay.uplink != other.uplink {
        let message = format!("network {name} has vni {vni} too, by uplink {}", other.uplink);
        report.error(at, message);
    }
    for route in &overlay.routes {
        let same = other.routes.iter().find(|one| one.subnet == route.subnet);
        if let Some(one) = same.filter(|one| one.host != route.host) {
            let (subnet, host) = (route.subnet, one.host);
            report.error(at, format!("{subnet} is behind {host} already, by network {name}"));
        }
    }
}

/// What an endpoint sends leaves by its addresses: those of its networks do not overlap. What no
/// networks may share has been reported.
fn check_subnets_of_endpoints(config: &Config, report: &mut Report) {
    if report.error_count() > 0 {
        return;
    }
    let subnets = |name: &str| config.network(name).map_or(&[][..], |network| &network.subnets);
    for endpoint in &config.endpoints {
        for (index, own) in endpoint.attachments.iter().enumerate() {
            for other in &endpoint.attachments[..index] {
                let meets = subnets(&own.network).iter().any(|one| {
                    subnets(&other.network).iter().any(|two| overlap(one.prefix, two.prefix))
                });
                if meets {
                    let (name, network, other) = (&endpoint.name, &own.network, &other.network);
                    let message = format!(
                        "endpoint {name} is in {other} and {network}, whose subnets overlap"
                    );
                    report.error(PlaceId::ROOT, message);
                }
            }
        }
    }
}

fn check_remotes(
    config: &Config,
    network: &Network,
    overlay: &Overlay,
    at: PlaceId,
    report: &mut Report,
) {
    let ips: HashSet<IpAddr> = overlay.remotes.iter().map(|remote| remote.ip).collect();
    let remotes = overlay.remotes.iter().map(|remote| remote.mac);
    let routers = overlay.routes.iter().map(|route| route.vtep_mac);
    let macs: HashSet<MacAddress> = remotes.chain(routers).collect();
    for endpoint in &config.endpoints {
        let own = endpoint.attachments.iter().filter(|own| own.network == network.name);
        for own in own {
            let addresses =
                [own.ipv4_address().map(IpAddr::V4), own.ipv6_address().map(IpAddr::V6)];
            for address in addresses.into_iter().flatten().filter(|ip| ips.contains(ip)) {
                let name = &endpoint.name;
                let message = format!("{address} is endpoint {name}'s, and a remote's too");
                report.error(at, message);
            }
            if macs.contains(&own.mac) {
                let (mac, name) = (own.mac, &endpoint.name);
                let message = format!("{mac} is endpoint {name}'s, and elsewhere too");
                report.error(at, message);
            }
        }
    }
}
