//! The legs: what lies between the two ends, built in namespaces of their own.
//!
//! ```text
//! bridge/portolan      client [tap] Portolan [tap] server
//! bridge/kernel        client [veth] bridge [veth] server
//! bridge/copier        client [tap] thread [tap] server
//! masquerade/portolan  client [tap] Portolan, NAT [tap] outside
//! masquerade/kernel    client [veth] routing, nftables NAT [veth] outside
//! masquerade/xdp       client [veth] Portolan by AF_XDP, NAT [veth] outside
//! inbound/…            outside [veth] Portolan by AF_XDP [tap] server, frames glued or not
//! tunnel/…             two gateways with a tunnel between them, see `tunnel.rs`
//! ```
//!
//! The hard constraint: the legs differ in the middle only. The ends have the same addresses, MTU
//! and sockets; beside a program in the middle they have the CPUs that it leaves, beside the
//! kernel, which works on theirs, all of them. A leg that is not measured takes no CPU time: copier
//! and Portolan run only while they are measured, the kernel sleeps without packets.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use drivers::{Tap, TapOptions};
use tempfile::TempDir;

use super::copier::Copier;
use super::cpus::Cpus;
use super::error::Error;
use super::namespace::Namespace;
use super::portolan::Portolan;
use super::report::Leg;
use super::traffic::{Ends, Rates, Traffic, Window, measure};
use super::tunnel::Tunnel;
use super::xdp;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 3);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
/// The masquerading gateway's address outside (TEST-NET-1, RFC 5737).
pub(super) const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The outside server's address.
pub(super) const OUTSIDE_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How Portolan is started and where the user-space legs run.
pub(super) struct Placement<'a> {
    /// Portolan's binary.
    pub(super) binary: Option<&'a Path>,
    /// CPUs of its workers, of the copier and of the ends.
    pub(super) cpus: Cpus<'a>,
    /// Portolan's idle policy.
    pub(super) idle: &'a str,
    /// Set by a signal.
    pub(super) interrupted: &'a AtomicBool,
}

impl<'a> Placement<'a> {
    /// The same for one of a tunnel's two gateways: the second is beside the first one's workers.
    pub(super) fn of_tunnel_end(&self, index: usize) -> Placement<'a> {
        let Cpus { middle, ends, all } = self.cpus;
        let beside = &ends[ends.len().saturating_sub(middle.len())..];
        let cpus = Cpus { middle: [middle, beside][index], ends: all, all };
        Placement { cpus, ..*self }
    }
}

/// A leg that is up. Fields are dropped in order: first the machine in the middle, so that
/// Portolan removes its own devices, then the namespaces.
pub(super) struct Built {
    pub(super) leg: Leg,
    middle: Middle,
    client: Namespace,
    server: Namespace,
}

/// What lies between the ends.
enum Middle {
    /// Dropped in this order: what it remembers and its socket lie in a folder of its own, not
    /// where a gateway of this machine has them.
    Portolan(Portolan, #[expect(dead_code, reason = "removed when dropped")] TempDir),
    /// Dropped in this order: the daemon puts the pairs back first.
    Xdp {
        portolan: Portolan,
        _folder: TempDir,
        _namespace: Namespace,
    },
    Kernel {
        _namespace: Namespace,
    },
    Copier {
        sides: [OwnedFd; 2],
        cpu: usize,
    },
    Tunnel(Tunnel),
}

impl Built {
    /// Builds one leg; on an error nothing stays.
    pub(super) fn build(leg: Leg, placement: &Placement) -> Result<Built, Error> {
        let end =
            |role: &str| Namespace::create(&format!("{}-{role}", leg.name().replace('/', "-")));
        let client = end("client")?;
        let server = end("server")?;
        let middle = match leg {
            Leg::BridgePortolan | Leg::MasqueradePortolan => {
                let folder = tempfile::Builder::new().prefix("portolan-bench-").tempdir();
                let folder = folder.map_err(Error::system("make a folder for Portolan"))?;
                let gateway = gateway_config(placement, folder.path());
                let config = match leg {
                    Leg::BridgePortolan => gateway + &bridge_config(&client, &server),
                    _ => gateway + &masquerade_config(&client, &server),
                };
                let binary = placement.binary.expect("Portolan's legs are built with a binary");
                let portolan = Portolan::start(binary, &config, placement.interrupted)?;
                Middle::Portolan(portolan, folder)
            }
            Leg::MasqueradeXdp => {
                let folder = tempfile::Builder::new().prefix("portolan-bench-").tempdir();
                let folder = folder.map_err(Error::system("make a folder for Portolan"))?;
                let namespace = end("middle")?;
                let ends = (&client, &namespace, &server);
                let portolan = xdp::masquerade(ends, placement, folder.path())?;
                Middle::Xdp { portolan, _folder: folder, _namespace: namespace }
            }
            Leg::InboundGlued | Leg::InboundUnglued => {
                let folder = tempfile::Builder::new().prefix("portolan-bench-").tempdir();
                let folder = folder.map_err(Error::system("make a folder for Portolan"))?;
                let namespace = end("middle")?;
                let ends = (&client, &namespace, &server);
                let glues = leg == Leg::InboundGlued;
                let portolan = xdp::inbound(ends, placement, folder.path(), glues)?;
                Middle::Xdp { portolan, _folder: folder, _namespace: namespace }
            }
            Leg::BridgeKernel => {
                let namespace = end("middle")?;
                kernel_bridge(&client, &namespace, &server)?;
                Middle::Kernel { _namespace: namespace }
            }
            Leg::MasqueradeKernel | Leg::MasqueradeKernelBeside => {
                let namespace = end("middle")?;
                kernel_masquerade(&client, &namespace, &server)?;
                Middle::Kernel { _namespace: namespace }
            }
            Leg::TunnelPortolan | Leg::TunnelKernel | Leg::TunnelXdp | Leg::TunnelKernelPlain => {
                Middle::Tunnel(Tunnel::build(leg, [&client, &server], placement)?)
            }
            Leg::BridgeCopier => {
                let cpu = *placement.cpus.middle.last().expect("there is at least one worker");
                Middle::Copier { sides: [tap(&client, CLIENT)?, tap(&server, SERVER)?], cpu }
            }
        };
        Ok(Built { leg, middle, client, server })
    }

    /// Measures one traffic on this leg.
    pub(super) fn measure(
        &self,
        traffic: Traffic,
        window: Window,
        cpus: Cpus,
    ) -> Result<Rates, Error> {
        let (client, server) = (&self.client, &self.server);
        let (server_address, source_seen) = match self.leg {
            Leg::InboundGlued | Leg::InboundUnglued => (SERVER, OUTSIDE_SERVER),
            Leg::MasqueradePortolan
            | Leg::MasqueradeKernel
            | Leg::MasqueradeXdp
            | Leg::MasqueradeKernelBeside => (OUTSIDE_SERVER, OUTSIDE_GATEWAY),
            _ => (SERVER, CLIENT),
        };
        let cpus = match &self.middle {
            // Beside AF_XDP the ends are placed alike, so that the middle alone differs.
            Middle::Kernel { .. } if self.leg != Leg::MasqueradeKernelBeside => cpus.all,
            // Two gateways have two CPUs between them, and so have the ends beside either kind.
            Middle::Tunnel(_) => cpus.all,
            _ => cpus.ends,
        };
        let path = self.leg.name();
        let ends = Ends { path, client, server, server_address, source_seen, cpus };
        match &self.middle {
            Middle::Portolan(portolan, _) | Middle::Xdp { portolan, .. } => {
                let _awake = portolan.awake();
                measure(traffic, &ends, window)
            }
            Middle::Copier { sides: [left, right], cpu } => {
                let same = |side: &OwnedFd| {
                    side.try_clone().map_err(Error::system("duplicate a TAP's descriptor"))
                };
                let _copier = Copier::start([same(left)?, same(right)?], *cpu);
                measure(traffic, &ends, window)
            }
            Middle::Tunnel(tunnel) => {
                let _awake = tunnel.awake();
                measure(traffic, &ends, window)
            }
            Middle::Kernel { .. } => measure(traffic, &ends, window),
        }
    }
}

/// A TAP inside the namespace, with Portolan's own header and offloads, addressed and up.
fn tap(namespace: &Namespace, address: Ipv4Addr) -> Result<OwnedFd, Error> {
    let tap = namespace.inside(|| Tap::create(&TapOptions::new("eth0")))?.map_err(Error::Tap)?;
    let [queue] = &tap.into_queues()[..] else { unreachable!("the options ask for one queue") };
    let side = queue
        .as_fd()
        .try_clone_to_owned()
        .map_err(Error::system("duplicate a TAP's descriptor"))?;
    namespace.ip(&format!("address add {address}/24 dev eth0"))?;
    namespace.ip("link set eth0 up")?;
    Ok(side)
}

fn kernel_bridge(client: &Namespace, middle: &Namespace, server: &Namespace) -> Result<(), Error> {
    middle.ip("link add bridge type bridge")?;
    middle.ip("link set bridge up")?;
    for (end, port, address) in [(client, "client", CLIENT), (server, "server", SERVER)] {
        veth(middle, port, end, address)?;
        middle.ip(&format!("link set {port} master bridge"))?;
    }
    Ok(())
}

fn kernel_masquerade(
    client: &Namespace,
    middle: &Namespace,
    outside: &Namespace,
) -> Result<(), Error> {
    veth(middle, "inside", client, CLIENT)?;
    veth(middle, "outside", outside, OUTSIDE_SERVER)?;
    middle.ip(&format!("address add {GATEWAY}/24 dev inside"))?;
    middle.ip(&format!("address add {OUTSIDE_GATEWAY}/24 dev outside"))?;
    client.ip(&format!("route add default via {GATEWAY}"))?;
    middle.set("net/ipv4/ip_forward", "1")?;
    middle.nft(
        "table ip nat {\n\
           chain postrouting {\n\
             type nat hook postrouting priority srcnat;\n\
             oifname \"outside\" masquerade\n\
           }\n\
         }\n",
    )
}

/// A veth pair: `port` in the middle, `eth0` with the address in the end's namespace, both up.
pub(super) fn veth(
    middle: &Namespace,
    port: &str,
    end: &Namespace,
    address: Ipv4Addr,
) -> Result<(), Error> {
    middle.ip(&format!("link add {port} type veth peer name eth0 netns {}", end.name()))?;
    middle.ip(&format!("link set {port} up"))?;
    end.ip(&format!("address add {address}/24 dev eth0"))?;
    end.ip("link set eth0 up")
}

fn bridge_config(client: &Namespace, server: &Namespace) -> String {
    [
        network_config("bridge", "internal = true\n"),
        endpoint_config("client", client, CLIENT),
        endpoint_config("server", server, SERVER),
    ]
    .concat()
}

fn masquerade_config(client: &Namespace, outside: &Namespace) -> String {
    let uplink = format!(
        "[uplink.wan]\n\
         driver = \"tap\"\n\
         interface = \"wan0\"\n\
         netns = \"{}\"\n\
         addresses = [\"{OUTSIDE_GATEWAY}/24\"]\n\
         host_addresses = [\"{OUTSIDE_SERVER}/24\"]\n\
         gateway = \"{OUTSIDE_SERVER}\"\n",
        outside.name()
    );
    [
        uplink,
        network_config("bridge", "masquerade = true\n"),
        endpoint_config("client", client, CLIENT),
    ]
    .concat()
}

pub(super) fn gateway_config(placement: &Placement, folder: &Path) -> String {
    let (workers, idle) = (placement.cpus.middle, &placement.idle);
    let (state, api) = (folder.join("state"), folder.join("api.sock"));
    format!(
        "[gateway]\nworkers = {workers:?}\nidle = \"{idle}\"\n\
         state = {state:?}\napi = {api:?}\n"
    )
}

pub(super) fn network_config(driver: &str, more: &str) -> String {
    format!(
        "[network.bench]\ndriver = \"{driver}\"\nsubnet = \"10.97.0.0/24\"\n\
         gateway = \"{GATEWAY}\"\n{more}"
    )
}

pub(super) fn endpoint_config(name: &str, namespace: &Namespace, address: Ipv4Addr) -> String {
    format!(
        "[endpoint.{name}]\n\
         attach = {{ netns = \"{}\", interface = \"eth0\", create = true }}\n\
         [[endpoint.{name}.network]]\n\
         name = \"bench\"\n\
         ip = \"{address}\"\n",
        namespace.name()
    )
}
