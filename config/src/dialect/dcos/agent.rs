//! One agent's part of the overlays: its slices with their halves, and its tunnel end.
//!
//! By its index among the agents, as the overlay master gives slices to the first, second, third
//! agent of a new cluster; or by the state that an agent shows at `/overlay-agent/overlay`. The
//! master leaves out the first and last slice once its state was reset, so a state may hold any.

use std::net::{IpAddr, Ipv4Addr};

use engine::MacAddress;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::tree::Node;
use super::config::Cluster;
use super::{PORT, VNI};
use crate::report::{PlaceId, Report};

/// An agent.
#[derive(Debug, Default)]
pub(super) struct Agent {
    /// Its address outside of the overlays.
    pub(super) host: Option<(IpAddr, PlaceId)>,
    pub(super) slices: Vec<Slice>,
    pub(super) vtep: Option<Vtep>,
}

/// An agent's tunnel end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vtep {
    /// At most one per family.
    pub(super) addresses: Vec<IpNet>,
    pub(super) mac: MacAddress,
}

/// What an agent has of an overlay.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) at: PlaceId,
    pub(super) name: String,
    /// At most one per family.
    pub(super) subnets: Vec<IpNet>,
    /// The overlay's own prefixes, if they are known.
    wholes: Vec<IpNet>,
    /// Bridges with what they have of the subnets: Mesos first.
    halves: Vec<(String, IpNet)>,
}

impl Agent {
    /// The agent with this index.
    pub(super) fn of_cluster(
        cluster: &Cluster,
        index: u32,
        at: PlaceId,
        report: &mut Report,
    ) -> Option<Agent> {
        let before = report.error_count();
        let vtep = cluster.vtep.and_then(|net| {
            let is_host = u64::from(index) + 2 < 1u64 << (32 - net.prefix_len());
            let vtep = is_host.then(|| {
                let address = Ipv4Addr::from(u32::from(net.network()) + 1 + index);
                Vtep::new(address, net.prefix_len(), cluster.vtep6, index, cluster.oui)
            });
            if vtep.is_none() {
                report.error(at, format!("vtep_subnet {net} has no address for agent {index}"));
            }
            vtep
        });
        let mut slices = Vec::new();
        for overlay in &cluster.overlays {
            let name = overlay.name.clone();
            let mut slice = Slice::new(overlay.at, name);
            let v4 = overlay.v4.map(|(net, prefix)| nth(IpNet::V4(net), prefix, index));
            let v6 = overlay.v6.map(|(net, prefix)| nth(IpNet::V6(net), prefix, index));
            for subnet in [v4, v6].into_iter().flatten() {
                match subnet {
                    Some(subnet) => slice.add(subnet),
                    None => {
                        let name = &overlay.name;
                        report.error(at, format!("overlay {name} has no slice for agent {index}"));
                    }
                }
            }
            slices.push(slice);
        }
        (report.error_count() == before).then_some(Agent { host: None, slices, vtep })
    }

    /// The agent whose state this is.
    pub(super) fn from_state(node: &Node, report: &mut Report) -> Option<Agent> {
        let before = report.error_count();
        let mut agent = Agent { host: host(node, report), ..Agent::default() };
        for overlay in node.list_at("overlays", report)? {
            if overlay.map(report).is_none() {
                continue;
            }
            let info = overlay.map_at("info", report);
            let Some(name) = info.and_then(|info| info.get("name")) else {
                report.error(overlay.at, "info.name is missing");
                continue;
            };
            // A name that is none is reported; the rest is read all the same.
            let text = name.text(report).unwrap_or_default();
            let state = overlay.map_at("state", report);
            let status = state.and_then(|state| state.text_at("status", report));
            if let Some(status) = status.filter(|status| *status != "STATUS_OK") {
                report.warning(name.at, format!("overlay {text} is in {status} on this agent"));
            }
            let mut slice = Slice::new(name.at, text.to_owned());
            for key in ["subnet", "subnet6"] {
                slice.subnets.extend(net_at(overlay, key, report));
                slice.wholes.extend(info.and_then(|info| net_at(info, key, report)));
            }
            for key in ["mesos_bridge", "docker_bridge"] {
                let Some(bridge) = overlay.map_at(key, report) else { continue };
                let device = bridge.text_at("name", report).unwrap_or(key).to_owned();
                for key in ["ip", "ip6"] {
                    let half = net_at(bridge, key, report);
                    slice.halves.extend(half.map(|half| (device.clone(), half)));
                }
            }
            let backend = overlay.map_at("backend", report);
            if let Some(vxlan) = backend.and_then(|backend| backend.map_at("vxlan", report)) {
                agent.vtep = Vtep::from_state(vxlan, report).or(agent.vtep);
            }
            agent.slices.push(slice);
        }
        (report.error_count() == before).then_some(agent)
    }

    /// Another agent of its cluster, by that one's index. Its own index is that of its tunnel end;
    /// its slices may be one further, as after a reset, and so are the others' then.
    pub(super) fn sibling(&self, index: u32, host: (IpAddr, PlaceId)) -> Result<Agent, String> {
        let vtep = self.vtep.as_ref().ok_or("the agent's tunnel end is not known")?;
        let own = vtep.index().ok_or("the agent's tunnel end has no IPv4 address")?;
        let distance = i64::from(index) - i64::from(own);
        let none = |what: &str| format!("{what} for agent {index}");
        let mut slices = Vec::new();
        for slice in &self.slices {
            let mut other = Slice::new(slice.at, slice.name.clone());
            for subnet in slice.subnets.iter().map(IpNet::trunc) {
                let moved = moved(subnet, subnet.prefix_len(), distance);
                let whole = slice.wholes.iter().find(|whole| whole.contains(&subnet.addr()));
                let inside = |net: &IpNet| whole.is_none_or(|whole| whole.contains(net));
                let moved = moved.filter(inside);
                other.subnets.push(
                    moved.ok_or_else(|| none(&format!("overlay {} has no slice", slice.name)))?,
                );
            }
            slices.push(other);
        }
        let vtep = vtep.moved(distance).ok_or_else(|| none("there is no tunnel end"))?;
        Ok(Agent { host: Some(host), slices, vtep: Some(vtep) })
    }

    /// What it has.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for slice in &self.slices {
            let subnets: Vec<String> = slice.subnets.iter().map(IpNet::to_string).collect();
            if subnets.is_empty() {
                lines.push(format!("no slice of {}: a master has none", slice.name));
                continue;
            }
            let bridges = slice.bridges().map_or_else(String::new, |text| format!(": {text}"));
            lines.push(format!("agent's slice of {}: {}{bridges}", slice.name, subnets.join(", ")));
            for subnet in &slice.subnets {
                lines.push(format!("  what leaves the overlays from {subnet} is masqueraded"));
            }
        }
        if let Some(vtep) = &self.vtep {
            let addresses: Vec<String> = vtep.addresses.iter().map(IpNet::to_string).collect();
            lines.push(format!(
                "agent's tunnel end: {} {}, VXLAN {VNI}, UDP port {PORT}",
                addresses.join(", "),
                vtep.mac
            ));
        }
        lines
    }
}

impl Agent {
    /// One line about an agent that the gateway is not.
    pub(super) fn as_other(&self) -> Option<String> {
        let (host, _) = self.host?;
        let subnets = self.slices.iter().flat_map(|slice| &slice.subnets);
        let subnets: Vec<String> = subnets.map(IpNet::to_string).collect();
        if subnets.is_empty() {
            return Some(format!("master at {host}: no slice"));
        }
        let vtep = self.vtep.as_ref()?;
        let end = vtep.addresses.first()?.addr();
        Some(format!("agent at {host}: {}, by {end} {}", subnets.join(", "), vtep.mac))
    }
}

impl Vtep {
    fn new(
        address: Ipv4Addr,
        prefix_len: u8,
        v6: Option<Ipv6Net>,
        index: u32,
        oui: [u8; 3],
    ) -> Vtep {
        let [_, b, c, d] = address.octets();
        let v4 = Ipv4Net::new(address, prefix_len).expect("a length that was read");
        let v6 = v6.and_then(|net| {
            let own = u128::from(net.network()).checked_add(1 + u128::from(index))?;
            let own = Ipv6Net::new(own.into(), net.prefix_len()).expect("a length that was read");
            (own.trunc() == net).then_some(own)
        });
        let addresses = std::iter::once(IpNet::V4(v4)).chain(v6.map(IpNet::V6)).collect();
        Vtep { addresses, mac: MacAddress::new([oui[0], oui[1], oui[2], b, c, d]) }
    }

    /// Which agent's it is, from 0.
    fn index(&self) -> Option<u32> {
        self.addresses.iter().find_map(|net| match net {
            IpNet::V4(net) => u32::from(net.addr()).checked_sub(u32::from(net.network()) + 1),
            IpNet::V6(_) => None,
        })
    }

    /// The tunnel end of an agent so many further.
    fn moved(&self, distance: i64) -> Option<Vtep> {
        let moved: Option<Vec<IpNet>> = self
            .addresses
            .iter()
            .map(|net| {
                let moved = moved(*net, net.max_prefix_len(), distance)?;
                let moved = IpNet::new(moved.addr(), net.prefix_len()).ok()?;
                (moved.trunc() == net.trunc()).then_some(moved)
            })
            .collect();
        let addresses = moved?;
        let v4 = addresses.iter().find_map(|net| match net.addr() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })?;
        let ([_, b, c, d], [x, y, z, ..]) = (v4.octets(), self.mac.bytes());
        Some(Vtep { addresses, mac: MacAddress::new([x, y, z, b, c, d]) })
    }

    fn from_state(vxlan: &Node, report: &mut Report) -> Option<Vtep> {
        if let Some(vni) = vxlan.integer_at("vni", 0..=(1 << 24) - 1, report)
            && vni != i64::from(VNI)
        {
            let at = vxlan.get("vni").map_or(vxlan.at, |vni| vni.at);
            report.warning(at, format!("VXLAN identifier {vni} is another one than {VNI}"));
        }
        let mut addresses = Vec::new();
        for key in ["vtep_ip", "vtep_ip6"] {
            addresses.extend(net_at(vxlan, key, report));
        }
        let given = vxlan.get("vtep_mac")?;
        let text = given.text(report)?;
        match text.parse() {
            Ok(mac) => Some(Vtep { addresses, mac }),
            Err(_) => {
                report.error(given.at, format!("{text} is no MAC address"));
                None
            }
        }
    }
}

impl Slice {
    fn new(at: PlaceId, name: String) -> Slice {
        Slice { at, name, subnets: Vec::new(), wholes: Vec::new(), halves: Vec::new() }
    }

    /// The networks that it is here, with their subnets: one per bridge. Bridges that are not known
    /// are one that is called as the overlay is.
    pub(super) fn networks(&self) -> Vec<(&str, Vec<IpNet>)> {
        if self.halves.is_empty() {
            return vec![(&self.name, self.subnets.clone())];
        }
        let mut networks: Vec<(&str, Vec<IpNet>)> = Vec::new();
        for (bridge, half) in &self.halves {
            match networks.iter_mut().find(|(name, _)| name == bridge) {
                Some((_, subnets)) => subnets.push(half.trunc()),
                None => networks.push((bridge, vec![half.trunc()])),
            }
        }
        networks
    }

    fn add(&mut self, subnet: IpNet) {
        self.subnets.push(subnet);
        let len = subnet.prefix_len() + 1;
        for (bridge, index) in [("m", 0), ("d", 1)] {
            let half = nth(subnet, len, index).expect("a slice has two halves");
            self.halves.push((format!("{bridge}-{}", self.name), half));
        }
    }

    /// Its bridges, if they are known.
    pub(super) fn bridges(&self) -> Option<String> {
        let halves: Vec<String> =
            self.halves.iter().map(|(bridge, half)| format!("{bridge} {half}")).collect();
        (!halves.is_empty()).then(|| halves.join(", "))
    }
}

/// The n-th part of this length of a prefix.
fn nth(net: IpNet, len: u8, index: u32) -> Option<IpNet> {
    let bits = u32::from(len - net.prefix_len());
    if bits < 32 && index >= 1 << bits {
        return None;
    }
    let shift = u32::from(net.max_prefix_len() - len);
    let address = match net.network() {
        IpAddr::V4(v4) => {
            let offset = u64::from(index) << shift;
            IpAddr::V4((u32::from(v4) + u32::try_from(offset).ok()?).into())
        }
        IpAddr::V6(v6) => {
            let offset = u128::from(index) << shift;
            IpAddr::V6((u128::from(v6) + offset).into())
        }
    };
    IpNet::new(address, len).ok()
}

/// A prefix so many of its lengths further.
fn moved(net: IpNet, len: u8, distance: i64) -> Option<IpNet> {
    let size = 1u128.checked_shl(u32::from(net.max_prefix_len() - len))?;
    let offset = u128::from(distance.unsigned_abs()).checked_mul(size)?;
    let own = match net.addr() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let bits = if distance < 0 { own.checked_sub(offset)? } else { own.checked_add(offset)? };
    let address = match net {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(bits).ok()?.into()),
        IpNet::V6(_) => IpAddr::V6(bits.into()),
    };
    IpNet::new(address, len).ok()
}

fn host(node: &Node, report: &mut Report) -> Option<(IpAddr, PlaceId)> {
    let given = node.get("ip")?;
    let text = given.text(report)?;
    let host = text.parse().ok();
    if host.is_none() {
        report.error(given.at, format!("{text} is no address"));
    }
    Some((host?, given.at))
}

fn net_at(node: &Node, key: &str, report: &mut Report) -> Option<IpNet> {
    let given = node.get(key)?;
    let text = given.text(report)?;
    let net = text.parse().ok();
    if net.is_none() {
        report.error(given.at, format!("{text} is no address with its prefix length"));
    }
    net
}
