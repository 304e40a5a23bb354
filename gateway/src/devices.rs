//! Makes every device that a config asks for, and the namespaces that it says are ours to make.
//!
//! A TAP lives for as long as one of its queues is open, and takes its addresses and routes along
//! when it goes; a namespace that we made is unmounted when its guard is dropped. So whatever step
//! fails, dropping what exists so far undoes all of it, and nothing here deletes by name. The one
//! hard constraint: a device is made under a passing name in our own namespace and *moved*, because
//! a queue opened inside a namespace would keep that namespace alive.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Attach, Attachment, Config, Endpoint, Uplink};
use drivers::{Tap, TapOptions, TapQueue};
use engine::PortId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Place};
use crate::netlink::{LinkSettings, Netlink};
use crate::netns::{self, Namespace};

/// Per-interface IPv6 settings, written before the link goes up. The gateway sends no router
/// advertisements and gives each address out once, so soliciting and probing would only delay the
/// first packet and wake idle workers. Link-local addresses stay, derived from the MAC, which is
/// what anti-spoofing expects.
const IPV6_SETTINGS: [(&str, &str); 5] = [
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("router_solicitations", "0"),
    ("dad_transmits", "0"),
    ("addr_gen_mode", "0"),
];

/// All devices of a gateway, by the port that each is, and the namespaces that were made for them.
pub struct Devices {
    // Dropped in this order: first the devices, then the namespaces they were in.
    queues: Vec<(PortId, Vec<TapQueue>)>,
    namespaces: Vec<Namespace>,
    /// What each device was made like.
    known: HashMap<PortId, Spec>,
}

/// What a device is made like: of an uplink, or of an endpoint in a network.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Uplink(Box<Uplink>),
    Attachment(Attach, Box<Attachment>),
}

/// Devices that a next config needs, made and not yet in use. Dropped, it undoes them.
pub struct Change {
    made: Devices,
    kept: HashMap<PortId, Spec>,
    namespaces: HashSet<PathBuf>,
}

/// What workers do once they use the tables of the next config. Dropped, it removes what is no
/// longer used; the workers must have let go of it.
pub struct Changed {
    /// Queues to attach, by worker.
    pub attach: Vec<Vec<(PortId, TapQueue)>>,
    /// Ports to detach.
    pub detach: Vec<PortId>,
    _retired: Vec<Namespace>,
}

fn specs(config: &Config) -> HashMap<PortId, Spec> {
    let uplinks = config.uplinks.iter().map(|uplink| {
        let mut spec = uplink.clone();
        spec.routes = Arc::default();
        (uplink.port, Spec::Uplink(Box::new(spec)))
    });
    let endpoints = config.endpoints.iter().flat_map(|endpoint| {
        let attachments = endpoint.attachments.iter();
        attachments.map(|own| {
            let mut spec = own.clone();
            // What the device does not show.
            (spec.aliases, spec.gw_priority, spec.anti_spoofing) = (Vec::new(), 0, true);
            (own.port, Spec::Attachment(endpoint.attach.clone(), Box::new(spec)))
        })
    });
    uplinks.chain(endpoints).collect()
}

impl Devices {
    /// Makes devices that a next config needs and this one did not; alters nothing that runs.
    ///
    /// # Errors
    /// The first step that fails; everything made before it is undone.
    pub fn prepare(&mut self, next: &Config, worker_count: usize) -> Result<Change, Error> {
        let wanted = specs(next);
        let mut maker = Maker::new(worker_count);
        for uplink in &next.uplinks {
            match self.known.get(&uplink.port) {
                None => maker.make_uplink(uplink)?,
                Some(spec) if *spec == wanted[&uplink.port] => {}
                Some(_) => return Err(Error::DeviceChange { device: uplink.name.clone() }),
            }
        }
        let mut namespaces = HashSet::new();
        for endpoint in &next.endpoints {
            let netns = match &endpoint.attach {
                Attach::Netns { netns, create } => Some((netns.as_str(), *create)),
                Attach::Tap | Attach::Host => None,
            };
            namespaces.extend(netns.map(|(name, _)| netns::path_of(name)));
            if let Some((name, _)) = netns {
                let path = netns::path_of(name);
                let is_made = self.namespaces.iter().any(|own| own.path() == path);
                maker.enter_alone(endpoint, netns.filter(|_| !is_made))?;
            }
            for own in &endpoint.attachments {
                match self.known.get(&own.port) {
                    None => maker.make_attachment(netns, own)?,
                    Some(spec) if *spec == wanted[&own.port] => {}
                    Some(_) => return Err(Error::DeviceChange { device: endpoint.name.clone() }),
                }
            }
        }
        let uplinks = next.uplinks.iter().filter_map(|uplink| uplink.netns.as_ref());
        namespaces.extend(uplinks.map(|netns| netns::path_of(netns.as_str())));
        Ok(Change { made: maker.devices, kept: wanted, namespaces })
    }

    /// Takes a prepared change over.
    pub fn commit(&mut self, mut change: Change) -> Changed {
        let attach = change.made.take_queues();
        let known = std::mem::replace(&mut self.known, std::mem::take(&mut change.kept));
        let detach = known.into_keys().filter(|port| !self.known.contains_key(port)).collect();
        self.namespaces.append(&mut change.made.namespaces);
        let all = std::mem::take(&mut self.namespaces).into_iter();
        let (used, retired) = all.partition(|own| change.namespaces.contains(own.path()));
        self.namespaces = used;
        Changed { attach, detach, _retired: retired }
    }

    /// Makes all devices, each with one queue per worker, addressed and up.
    ///
    /// # Errors
    /// The first step that fails; everything made before it is undone.
    pub fn make(config: &Config, worker_count: usize) -> Result<Devices, Error> {
        let mut maker = Maker::new(worker_count);
        maker.devices.known = specs(config);
        for uplink in &config.uplinks {
            maker.make_uplink(uplink)?;
        }
        for endpoint in &config.endpoints {
            let netns = match &endpoint.attach {
                Attach::Netns { netns, create } => Some((netns.as_str(), *create)),
                Attach::Tap | Attach::Host => None,
            };
            maker.enter_alone(endpoint, netns)?;
            for attachment in &endpoint.attachments {
                maker.make_attachment(netns, attachment)?;
            }
        }
        Ok(maker.devices)
    }

    /// Hands the queues over: of every port the one of worker 0, of worker 1, and so on.
    pub fn take_queues(&mut self) -> Vec<Vec<(PortId, TapQueue)>> {
        let mut by_worker: Vec<Vec<(PortId, TapQueue)>> = Vec::new();
        for (port, queues) in self.queues.drain(..) {
            by_worker.resize_with(by_worker.len().max(queues.len()), Vec::new);
            for (worker, queue) in queues.into_iter().enumerate() {
                by_worker[worker].push((port, queue));
            }
        }
        by_worker
    }

    /// Paths of the namespaces that were made, and go when this is dropped.
    pub fn made_namespaces(&self) -> impl Iterator<Item = &Path> {
        self.namespaces.iter().filter(|namespace| namespace.is_made()).map(Namespace::path)
    }
}

/// A namespace while devices are made in it. `path` is `None` for the one that we run in.
struct Workplace {
    path: Option<PathBuf>,
    file: Option<File>,
    netlink: Netlink,
}

/// What a device gets besides its queues.
struct Plan<'a> {
    port: PortId,
    device: &'a str,
    options: TapOptions,
    addresses: Vec<IpNet>,
    routes: Vec<(IpNet, std::net::IpAddr)>,
}

struct Maker {
    devices: Devices,
    /// By the path of the namespace. Dropped when all is made: an open netlink socket would keep
    /// its namespace alive.
    places: HashMap<Option<PathBuf>, Workplace>,
    worker_count: usize,
}

impl Maker {
    fn new(worker_count: usize) -> Maker {
        let (queues, namespaces) = (Vec::new(), Vec::new());
        let devices = Devices { queues, namespaces, known: HashMap::new() };
        Maker { devices, places: HashMap::new(), worker_count }
    }

    fn make_uplink(&mut self, uplink: &Uplink) -> Result<(), Error> {
        let netns = uplink.netns.as_ref().map(|netns| (netns.as_str(), uplink.create_netns));
        let device = uplink.interface.as_str();
        let mut options = TapOptions::new(device);
        (options.mtu, options.mac) = (uplink.mtu, Some(uplink.host_mac));
        let addresses = uplink.host_addresses.clone();
        self.make(netns, Plan { port: uplink.port, device, options, addresses, routes: Vec::new() })
    }

    fn make_attachment(
        &mut self,
        netns: Option<(&str, bool)>,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        let device = attachment.interface.as_str();
        let mut options = TapOptions::new(device);
        (options.mtu, options.mac) = (attachment.mtu, Some(attachment.mac));
        let ipv4 = attachment.ipv4.map(IpNet::V4);
        let ipv6 = attachment.ipv6.map(IpNet::V6);
        let routes = [
            (IpNet::V4(Ipv4Net::default()), attachment.default_route_v4),
            (IpNet::V6(Ipv6Net::default()), attachment.default_route_v6),
        ];
        let mut plan = Plan {
            port: attachment.port,
            device,
            options,
            addresses: ipv4.into_iter().chain(ipv6).collect(),
            routes: routes.into_iter().filter_map(|(to, via)| Some((to, via?))).collect(),
        };
        if netns.is_none() {
            // The addresses are of the VM behind the device, not of the host that it is left in.
            plan.addresses.clear();
            plan.routes.clear();
        }
        self.make(netns, plan)
    }

    /// Makes one device: TAP, settings, up, addresses, routes; in this order.
    fn make(&mut self, netns: Option<(&str, bool)>, mut plan: Plan<'_>) -> Result<(), Error> {
        plan.options.queues = self.worker_count;
        let workplace = self.enter(netns)?;
        let (device, place) = (plan.device, Place(workplace.path.clone()));
        if workplace.netlink.link_index(device)?.is_some() {
            return Err(Error::DeviceExists { device: device.into(), place });
        }
        let tap = match &workplace.file {
            Some(file) => Tap::create_in(&plan.options, file.as_fd()),
            None => Tap::create(&plan.options),
        };
        let tap = tap.map_err(|source| Error::Device { place, source })?;
        let path = workplace.path.as_deref();
        netns::within_optional(path, || set_ipv6(device))?;
        let up = LinkSettings { up: true, ..LinkSettings::default() };
        workplace.netlink.set_link(device, up)?;
        for address in plan.addresses {
            workplace.netlink.add_address(device, address)?;
        }
        for (to, via) in plan.routes {
            workplace.netlink.add_route(device, to, Some(via))?;
        }
        let caps = tap.caps();
        tracing::debug!(port = plan.port.0, device, ?path, ?caps, "device made");
        self.devices.queues.push((plan.port, tap.into_queues()));
        Ok(())
    }

    /// Makes the namespace of an endpoint that has no devices, but for the loopback one.
    fn enter_alone(
        &mut self,
        endpoint: &Endpoint,
        netns: Option<(&str, bool)>,
    ) -> Result<(), Error> {
        if endpoint.alone_in.is_some() && netns.is_some() {
            self.enter(netns)?;
        }
        Ok(())
    }

    /// The workplace of a namespace, made on first use.
    fn enter(&mut self, netns: Option<(&str, bool)>) -> Result<&Workplace, Error> {
        let path = netns.map(|(name, _)| netns::path_of(name));
        if !self.places.contains_key(&path) {
            let workplace = self.open(netns, path.clone())?;
            self.places.insert(path.clone(), workplace);
        }
        Ok(&self.places[&path])
    }

    fn open(
        &mut self,
        netns: Option<(&str, bool)>,
        path: Option<PathBuf>,
    ) -> Result<Workplace, Error> {
        let mut made = false;
        if let Some((name, create)) = netns {
            if create && !netns::exists(name) {
                self.devices.namespaces.push(Namespace::create(name)?);
                made = true;
            } else if create {
                tracing::warn!(name, "namespace exists already: it is used, and left at the end");
            }
        }
        let file = match &path {
            Some(path) => Some(
                File::open(path)
                    .map_err(|source| Error::NamespaceMissing { path: path.clone(), source })?,
            ),
            None => None,
        };
        let netlink = Netlink::open(path.as_deref())?;
        if made {
            let up = LinkSettings { up: true, ..LinkSettings::default() };
            netlink.set_link("lo", up)?;
        }
        Ok(Workplace { path, file, netlink })
    }
}

/// Writes [`IPV6_SETTINGS`] for a device of the calling thread's namespace. A kernel without IPv6
/// has none of them, and in a container they may be read-only: the device works all the same.
fn set_ipv6(device: &str) {
    for (key, value) in IPV6_SETTINGS {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/{key}");
        match std::fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path, value, %error, "setting not made");
            }
            _ => {}
        }
    }
}
