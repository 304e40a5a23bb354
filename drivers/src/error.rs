//! What can go wrong while a device or the packet memory is set up.
//!
//! Each variant names the operation and says what to do. Nothing of this occurs on the packet
//! path: there a packet is dropped and counted instead.

use std::io;

/// A device or the packet memory could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The TUN/TAP control device is not there.
    #[error(
        "{path} is missing, needed for tap device {device}: load it with `modprobe tun`, or make \
         it with `mkdir -p /dev/net && mknod {path} c 10 200`; a container needs \
         `--device {path}`"
    )]
    NoTunDevice {
        /// Device that was to be made.
        device: String,
        /// The control device's path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not root.
    #[error(
        "no permission to make tap device {device} ({operation}): run as root or give the \
         capability CAP_NET_ADMIN"
    )]
    NoPermission {
        /// Device that was to be made.
        device: String,
        /// What was refused.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another device has the name.
    #[error(
        "the name {device} is in use in the device's network namespace: choose another name, or \
         remove the other device there with `ip link delete {device}`"
    )]
    NameInUse {
        /// The name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not take the name.
    #[error("{device:?} cannot be a device name: {reason}")]
    BadName {
        /// The name.
        device: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// An option of the device is out of its range.
    #[error("tap device {device}: {option} {value} is refused: {expected}")]
    BadOption {
        /// The device.
        device: String,
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A call that should succeed did not.
    #[error("tap device {device}: {operation}: {source}; {hint}")]
    Device {
        /// The device.
        device: String,
        /// Which call.
        operation: &'static str,
        /// What to do.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device that is to be there is not.
    #[error(
        "no device {device} in this network namespace: AF_XDP needs one that exists already; \
         `ip link` lists them"
    )]
    NoDevice {
        /// Its name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another program is attached to the device, or its queue has another socket.
    #[error(
        "device {device} is in use by another XDP program or AF_XDP socket: end that program, or \
         take it off with `ip link set {device} xdp off`"
    )]
    DeviceInUse {
        /// Its name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Each receiving queue needs a worker.
    #[error(
        "device {device} receives on {queues} queues, and there are {workers} workers: set it to \
         fewer with `ethtool -L {device} combined {workers}`, or run more workers"
    )]
    TooManyQueues {
        /// Its name.
        device: String,
        /// Its queues.
        queues: usize,
        /// Our workers.
        workers: usize,
    },
    /// AF_XDP needs rights.
    #[error(
        "no permission to use device {device} by AF_XDP ({operation}): run as root or give the \
         capabilities CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
    )]
    NoXdpPermission {
        /// Its name.
        device: String,
        /// What was refused.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A call for AF_XDP that should succeed did not.
    #[error("device {device} by AF_XDP: {operation}: {source}; {hint}")]
    Xdp {
        /// Its name.
        device: String,
        /// Which call.
        operation: &'static str,
        /// What to do.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Links cannot be followed.
    #[error("following links: {operation}: {source}; run as root or give CAP_NET_ADMIN")]
    Watch {
        /// Which call.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Packet memory could not be had.
    #[error(
        "packet memory of {region_bytes} bytes: {operation}: {source}; give the machine or the \
         control group more memory, or ask for fewer frames"
    )]
    Region {
        /// How much was asked for; `usize::MAX` when the number of frames overflows.
        region_bytes: usize,
        /// Which call.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
