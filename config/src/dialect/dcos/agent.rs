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
    pub(super) slices: Vec<Slice>,
    pub(super) vtep: Option<Vtep>,
}

/// An agent's tunnel end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vtep {
    addresses: Vec<IpNet>,
    mac: MacAddress,
}

/// What an agent has of an overlay.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) at: PlaceId,
    pub(super) name: String,
    /// At most one per family.
    pub(super) subnets: Vec<IpNet>,
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
            let address = u32::from(net.network()) + 1 + index;
            let is_host = u64::from(index) + 2 < 1u64 << (32 - net.prefix_len());
            if !is_host {
                report.error(at, format!("vtep_subnet {net} has no address for agent {index}"));
            }
            is_host.then(|| {
                let address = Ipv4Addr::from(address);
                Vtep::new(address, net.prefix_len(), cluster.vtep6, index, cluster.oui)
            })
        });
        let mut slices = Vec::new();
        for overlay in &cluster.overlays {
            let name = overlay.name.clone();
            let mut slice = Slice { at: overlay.at, name, subnets: Vec::new(), halves: Vec::new() };
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
        (report.error_count() == before).then_some(Agent { slices, vtep })
    }

    /// The agent whose state this is.
    pub(super) fn from_state(node: &Node, report: &mut Report) -> Option<Agent> {
        let before = report.error_count();
        let mut agent = Agent::default();
        for overlay in node.list_at("overlays", report)? {
            if overlay.map(report).is_none() {
                continue;
            }
            let info = overlay.map_at("info", report);
            let Some(name) = info.and_then(|info| info.get("name")) else {
                report.error(overlay.at, "info.name is missing");
                continue;
            };
            let Some(text) = name.text(report) else { continue };
            let state = overlay.map_at("state", report);
            let status = state.and_then(|state| state.text_at("status", report));
            if let Some(status) = status.filter(|status| *status != "STATUS_OK") {
                report.warning(name.at, format!("overlay {text} is in {status} on this agent"));
            }
            let (mut subnets, mut halves) = (Vec::new(), Vec::new());
            for key in ["subnet", "subnet6"] {
                subnets.extend(net_at(overlay, key, report));
            }
            for key in ["mesos_bridge", "docker_bridge"] {
                let Some(bridge) = overlay.map_at(key, report) else { continue };
                let device = bridge.text_at("name", report).unwrap_or(key).to_owned();
                for key in ["ip", "ip6"] {
                    let half = net_at(bridge, key, report);
                    halves.extend(half.map(|half| (device.clone(), half)));
                }
            }
            let backend = overlay.map_at("backend", report);
            if let Some(vxlan) = backend.and_then(|backend| backend.map_at("vxlan", report)) {
                agent.vtep = Vtep::from_state(vxlan, report).or(agent.vtep);
            }
            if subnets.is_empty() {
                report.error(overlay.at, format!("overlay {text} has no subnet on this agent"));
            }
            agent.slices.push(Slice { at: name.at, name: text.to_owned(), subnets, halves });
        }
        (report.error_count() == before).then_some(agent)
    }

    /// What it has.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for slice in &self.slices {
            let subnets: Vec<String> = slice.subnets.iter().map(IpNet::to_string).collect();
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
        let v6 = v6.map(|net| {
            let own = u128::from(net.network()) + 1 + u128::from(index);
            Ipv6Net::new(own.into(), net.prefix_len()).expect("a length that was read")
        });
        let addresses = std::iter::once(IpNet::V4(v4)).chain(v6.map(IpNet::V6)).collect();
        Vtep { addresses, mac: MacAddress::new([oui[0], oui[1], oui[2], b, c, d]) }
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

fn net_at(node: &Node, key: &str, report: &mut Report) -> Option<IpNet> {
    let given = node.get(key)?;
    let text = given.text(report)?;
    let net = text.parse().ok();
    if net.is_none() {
        report.error(given.at, format!("{text} is no address with its prefix length"));
    }
    net
}
