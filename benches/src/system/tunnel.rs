//! Two gateways with a VXLAN tunnel between them, beside two of the kernel's.
//!
//! ```text
//! tunnel/portolan      client [tap] Portolan [tap] bridge [tap] Portolan [tap] server
//! tunnel/kernel        client [veth] bridge, vxlan [veth] bridge [veth] vxlan, bridge [veth]
//!                      server
//! tunnel/xdp           client [tap] Portolan by AF_XDP [veth] Portolan by AF_XDP [tap] server
//! tunnel/kernel-plain  client [veth] bridge, vxlan [veth] vxlan, bridge [veth] server, with no
//!                      super-frames on the veth in the middle
//! ```
//!
//! The hard constraint: the two of a comparison have as many hops, the same addresses and the same
//! MTU, and work on the same CPUs. Where Portolan's uplinks take no super-frames, the kernel's do
//! not either: their segmentation offloads are off. Those of the ends stay on in both.

use std::net::Ipv4Addr;

use drivers::{offloads_in_use, set_offloads};
use tempfile::TempDir;

use super::error::Error;
use super::namespace::Namespace;
use super::portolan::Portolan;
use super::report::Leg;
use super::topology::{
    CLIENT, Placement, SERVER, endpoint_config, gateway_config, network_config, veth,
};

/// Addresses of the tunnel's ends (TEST-NET-1, RFC 5737), the client's side first.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 20)];
const VNI: u32 = 4097;
/// What VXLAN leaves of an underlay's 1500.
const MTU: u16 = 1450;

/// What lies between the ends. Dropped in this order: the daemons put their devices back first.
pub(super) struct Tunnel {
    portolans: Vec<Portolan>,
    _folder: Option<TempDir>,
    _namespaces: Vec<Namespace>,
}

impl Tunnel {
    /// Builds the middle of one of the four legs above.
    pub(super) fn build(
        leg: Leg,
        ends: [&Namespace; 2],
        placement: &Placement<'_>,
    ) -> Result<Tunnel, Error> {
        let space = |role| Namespace::create(&format!("{}-{role}", leg.name().replace('/', "-")));
        if leg.is_portolan() {
            let wire = space("wire")?;
            return portolan(leg, ends, wire, placement);
        }
        let [near, far] = [space("near")?, space("far")?];
        let mut namespaces = vec![];
        if leg == Leg::TunnelKernel {
            let wire = space("wire")?;
            wire.ip("link add wire type bridge")?;
            wire.ip("link set wire up")?;
            for (host, port) in [(&near, "near"), (&far, "far")] {
                host.ip(&format!(
                    "link add under type veth peer name {port} netns {}",
                    wire.name()
                ))?;
                wire.ip(&format!("link set {port} master wire up"))?;
            }
            namespaces.push(wire);
        } else {
            let far = far.name();
            near.ip(&format!("link add under type veth peer name under netns {far}"))?;
        }
        for (index, host) in [&near, &far].into_iter().enumerate() {
            kernel_end(host, ends[index], index)?;
        }
        if leg == Leg::TunnelKernelPlain {
            [&near, &far].into_iter().try_for_each(plain)?;
        }
        namespaces.extend([near, far]);
        Ok(Tunnel { portolans: Vec::new(), _folder: None, _namespaces: namespaces })
    }

    /// Lets the daemons run, if there are any, until the guards are dropped.
    pub(super) fn awake(&self) -> Vec<impl Drop + '_> {
        self.portolans.iter().map(Portolan::awake).collect()
    }
}

/// A kernel's gateway: a bridge of the end's veth and a `vxlan` device.
fn kernel_end(host: &Namespace, end: &Namespace, index: usize) -> Result<(), Error> {
    let (own, other) = (ENDS[index], ENDS[1 - index]);
    host.ip(&format!("address add {own}/24 dev under"))?;
    host.ip("link set under up")?;
    host.ip(&format!("link add vx type vxlan id {VNI} dstport 4789 local {own} remote {other}"))?;
    host.ip("link add bridge type bridge")?;
    host.ip("link set bridge up")?;
    veth(host, "port", end, [CLIENT, SERVER][index])?;
    for port in ["port", "vx"] {
        host.ip(&format!("link set {port} mtu {MTU} master bridge up"))?;
    }
    end.ip(&format!("link set eth0 mtu {MTU}"))
}

/// Leaves a kernel's uplink no way to pass a super-frame, out or in: as one whose card cannot.
fn plain(host: &Namespace) -> Result<(), Error> {
    let device = "under";
    host.inside(|| {
        let mut features = offloads_in_use(device)?;
        // Checksums stay: it is about segments.
        features.retain(|name| name.contains("segmentation") || name.starts_with("tx-gso-"));
        features.push("rx-gro".to_owned());
        set_offloads(device, &features, false)
    })?
    .map_err(Error::Offloads)
}

/// Two daemons, with a wire between their uplinks.
fn portolan(
    leg: Leg,
    ends: [&Namespace; 2],
    wire: Namespace,
    placement: &Placement<'_>,
) -> Result<Tunnel, Error> {
    let folder = tempfile::Builder::new().prefix("portolan-bench-").tempdir();
    let folder = folder.map_err(Error::system("make a folder for Portolan"))?;
    let binary = placement.binary.expect("Portolan's legs are built with a binary");
    if leg == Leg::TunnelPortolan {
        wire.ip("link add wire type bridge")?;
        wire.ip("link set wire up")?;
    } else {
        wire.ip("link add under0 type veth peer name under1")?;
        ["under0", "under1"].iter().try_for_each(|name| wire.ip(&format!("link set {name} up")))?;
    }
    let mut tunnel = Tunnel { portolans: vec![], _folder: None, _namespaces: vec![] };
    for (index, (end, address)) in ends.into_iter().zip([CLIENT, SERVER]).enumerate() {
        let own_folder = folder.path().join(index.to_string());
        std::fs::create_dir(&own_folder).map_err(Error::system("make a folder for Portolan"))?;
        let driver = match leg {
            Leg::TunnelPortolan => {
                format!("driver = \"tap\"\nnetns = \"{}\"\nhost_addresses = []", wire.name())
            }
            _ => "driver = \"xdp\"".to_owned(),
        };
        let (own, other) = (ENDS[index], ENDS[1 - index]);
        let config = [
            gateway_config(&placement.of_tunnel_end(index), &own_folder),
            format!(
                "[uplink.wan]\n{driver}\ninterface = \"under{index}\"\naddresses = [\"{own}/24\"]\n"
            ),
            network_config("overlay", &format!("vni = {VNI}\npeers = [\"{other}\"]\n")),
            endpoint_config("end", end, address),
        ]
        .concat();
        let start = || Portolan::start(binary, &config, placement.interrupted);
        tunnel.portolans.push(wire.inside(start)??);
        if leg == Leg::TunnelPortolan {
            wire.ip(&format!("link set under{index} master wire"))?;
        }
    }
    tunnel._folder = Some(folder);
    tunnel._namespaces.push(wire);
    Ok(tunnel)
}
