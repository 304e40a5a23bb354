//! What can go wrong while the gateway is set up, run or taken down.
//!
//! Each variant names the operation and what it was done to; the cause goes in the same line,
//! because an operator reads one line of a journal. The packet path has no errors: it counts drops.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where something happened: a namespace by its path, or the one that the daemon runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Option<PathBuf>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "namespace {}", path.display()),
            None => f.write_str("the host's namespace"),
        }
    }
}

/// Another gateway's device, or one of ours whose state was taken away.
fn owner_hint(alias: Option<&str>) -> &'static str {
    if alias.is_some_and(|alias| alias.starts_with("portolan ")) {
        " (it is of a portolan with another state)"
    } else {
        ""
    }
}

/// Set-up errors of the gateway.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not do what a gateway must.
    #[error("missing {missing}: run portolan as root, or grant it these capabilities")]
    Privileges {
        /// Capabilities that are not there.
        missing: String,
    },
    /// The state on disk.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A published port cannot be had.
    #[error(transparent)]
    Reserve(#[from] crate::reserve::ReserveError),
    /// nftables refuses, or its program is not there.
    #[error("nftables: {reason}")]
    Nftables {
        /// Why.
        reason: String,
    },
    /// The kernel does not tell what happens on the host.
    #[error("cannot {action} on the host: {source}")]
    Host {
        /// What was done.
        action: &'static str,
        /// Why it went wrong.
        source: io::Error,
    },
    /// Another gateway has the host's side.
    #[error(
        "the host's side (the table `inet portolan`, addresses and routes of the link) is taken by \
         {owner}: one gateway of a host may have it; give this one `host_side = false` in each \
         uplink without `netns`"
    )]
    HostTaken {
        /// Who has it.
        owner: String,
    },
    /// An address of the link between host and gateway is somebody else's.
    #[error(
        "{address}, which the host is to have on its link to the gateway, is on its interface \
         {holder} already: give [uplink.{uplink}] another `link`, or `host_side = false`"
    )]
    LinkTaken {
        /// The address.
        address: std::net::IpAddr,
        /// The interface that has it.
        holder: String,
        /// The uplink.
        uplink: String,
    },
    /// A namespace that the config names does not exist.
    #[error(
        "{} cannot be opened: {source}; create it first, or set `create = true`", path.display()
    )]
    NamespaceMissing {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A namespace of this name is there already, and not ours.
    #[error("namespace {} exists already: remove it, or choose another name", path.display())]
    NamespaceExists {
        /// Its path.
        path: PathBuf,
    },
    /// A step of making, entering or removing a namespace.
    #[error("cannot {action} namespace {}: {source}", path.display())]
    Namespace {
        /// What was done.
        action: &'static str,
        /// To this namespace.
        path: PathBuf,
        /// Why it went wrong.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for {purpose}: {source}")]
    Thread {
        /// What for.
        purpose: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket in {place}: {source}")]
    NetlinkSocket {
        /// Where.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change of a device.
    #[error("cannot {action} on {device} in {place}: {reason}")]
    Netlink {
        /// What was asked for.
        action: String,
        /// Of this device.
        device: String,
        /// Where.
        place: Place,
        /// What the kernel said.
        reason: String,
    },
    /// More devices by AF_XDP than there is memory for.
    #[error(
        "{count} devices used by AF_XDP are more than the {room} that memory was taken for at the \
         start: restart the gateway to take them"
    )]
    XdpRoom {
        /// Devices of the config.
        count: usize,
        /// Devices that there is memory for.
        room: usize,
    },
    /// The key `relay` is otherwise than when the device was taken into use.
    #[error(
        "relay of [uplink.{port}] cannot be changed while its device is in use: restart the gateway"
    )]
    RelayInUse {
        /// The uplink's name.
        port: String,
    },
    /// A device of this name is there already.
    #[error(
        "device {device} exists already in {place} and is not ours{}: remove it there with `ip \
         link delete {device}`, or choose another name", owner_hint(alias.as_deref())
    )]
    DeviceExists {
        /// Its name.
        device: String,
        /// Where.
        place: Place,
        /// Its alias, by which a device of another gateway is told.
        alias: Option<String>,
    },
    /// The config file cannot be watched.
    #[error(
        "cannot watch the folder of {}: {source}; remove `watch` to do without", path.display()
    )]
    Watch {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The driver could not make a device.
    #[error("in {place}: {source}")]
    Device {
        /// Where.
        place: Place,
        /// What the driver says.
        source: drivers::DriverError,
    },
    /// The API could not be served.
    #[error(transparent)]
    Api(#[from] crate::api::ApiError),
    /// Packet memory could not be had.
    #[error(transparent)]
    Memory(drivers::DriverError),
    /// The runner's own descriptors.
    #[error("cannot {action} of worker {worker}: {source}")]
    Runner {
        /// What was done.
        action: &'static str,
        /// At this worker.
        worker: u8,
        /// Why.
        source: io::Error,
    },
    /// A CPU of the config that is not there.
    #[error("cpu {cpu} is not available to this process: choose from {available:?} in `workers`")]
    Cpu {
        /// The CPU asked for.
        cpu: usize,
        /// Those that there are.
        available: Vec<usize>,
    },
    /// The kernel gives no random numbers.
    #[error("cannot get random numbers from the kernel: {0}")]
    Random(io::Error),
    /// A worker met a bug of ours.
    #[error("worker {worker} panicked: {message}; this is a bug, please report it")]
    Panicked {
        /// Its id.
        worker: u8,
        /// What the panic said.
        message: String,
    },
    /// A worker did not answer in time.
    #[error("worker {worker} did not {action} within {seconds} s")]
    Unresponsive {
        /// Its id.
        worker: u8,
        /// What it was asked.
        action: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}
