//! A device's features that leave work to hardware: switched off, and back on.
//!
//! What the kernel's stack sends by a veth is read by AF_XDP at the other end as it is. So nothing
//! may be left to do: no super-frames, no unfinished checksums, no tags that are kept beside the
//! frame. The hard constraint: only features that were on are switched off, and their names are
//! told, so that whoever writes them down can switch just those on again.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::DriverError;
use crate::sys::ethtool;

/// Features whose names begin so leave a frame unfinished.
const UNFINISHED: [&str; 3] = ["tx-checksum-", "tx-vlan-", "tx-gso-"];

/// And those that make frames longer than the device's MTU.
const SEGMENTATION: &str = "segmentation";

/// What an operator types to the same effect.
const COMMAND: &str = "tx off tso off gso off txvlan off tx-checksum-sctp off";

/// The command line that switches a device's offloads off.
pub fn offloads_command(device: &str) -> String {
    format!("ethtool -K {device} {COMMAND}")
}

/// Names of the features that leave a frame unfinished, are on and can be switched. The device is
/// one of the calling thread's namespace.
///
/// # Errors
/// There is no such device.
pub fn offloads_in_use(device: &str) -> Result<Vec<String>, DriverError> {
    let look = || {
        let socket = socket()?;
        let names = ethtool::feature_names(fd(&socket), device)?;
        let states = ethtool::features(fd(&socket), device, names.len())?;
        let is_meant = |name: &str| {
            UNFINISHED.iter().any(|prefix| name.starts_with(prefix))
                || name.starts_with("tx-") && name.contains(SEGMENTATION)
        };
        let on = names.iter().zip(states);
        let on = on.filter(|(name, (on, changes))| is_meant(name) && *on && *changes);
        Ok(on.map(|(name, _)| name.clone()).collect())
    };
    look().map_err(|errno| refused(device, "asking for its offloads", errno))
}

/// Switches features on or off, by the names that [`offloads_in_use`] gave. Those that the device
/// has no more are passed over.
///
/// # Errors
/// There is no such device, or no permission.
pub fn set_offloads(device: &str, features: &[String], on: bool) -> Result<(), DriverError> {
    if features.is_empty() {
        return Ok(());
    }
    let switch = || {
        let socket = socket()?;
        let names = ethtool::feature_names(fd(&socket), device)?;
        let wanted = names.iter().map(|name| features.contains(name).then_some(on));
        ethtool::set_features(fd(&socket), device, &wanted.collect::<Vec<_>>())
    };
    switch().map_err(|errno| refused(device, "switching its offloads", errno))
}

/// Any socket of the namespace will do.
fn socket() -> Result<std::os::fd::OwnedFd, Errno> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn fd(socket: &std::os::fd::OwnedFd) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(socket)
}

fn refused(device: &str, operation: &'static str, errno: Errno) -> DriverError {
    super::device_error(device, operation, errno)
}
