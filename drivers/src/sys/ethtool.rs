//! ethtool requests: a device's features by name, its queues, its driver.
//!
//! Features are told by name, because the kernel's bit for one changes between versions. The hard
//! constraint: each request is a header and as much room behind it as the header says, or the
//! kernel writes past our memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::ioctl::NAME_BYTES;

/// `ETHTOOL_*` (linux/ethtool.h).
const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STRING_COUNT: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;

/// `ETH_SS_FEATURES`, and the bytes of a name (`ETH_GSTRING_LEN`).
const FEATURE_NAMES: u32 = 4;
const FEATURE_NAME_BYTES: usize = 32;

/// Most features that are believed; kernels have some 64.
const FEATURES_MAX: u32 = 1024;

/// `SIOCETHTOOL`.
const SIOCETHTOOL: u64 = 0x8946;

/// `struct ifreq` as SIOCETHTOOL uses it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    data: *mut u32,
    rest: [u8; 16],
}

const _: () = assert!(
    size_of::<Request>() >= size_of::<libc::ifreq>(),
    "the kernel copies a whole ifreq in and out"
);

/// Makes a request, whose words are the structure that its command wants.
fn ask(socket: BorrowedFd<'_>, device: &str, words: &mut [u32]) -> Result<(), Errno> {
    if device.len() >= NAME_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let mut request = Request { name: [0; NAME_BYTES], data: words.as_mut_ptr(), rest: [0; 16] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: SIOCETHTOOL reads one `ifreq` and follows its data pointer, which points to `words`,
    // live and exclusively ours. How much it reads and writes there follows from the header in the
    // words; each caller has made them as long as its command needs.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// The names of all features, by their bits. A name that is empty is no feature.
pub(crate) fn feature_names(socket: BorrowedFd<'_>, device: &str) -> Result<Vec<String>, Errno> {
    // struct ethtool_sset_info: command, reserved, a mask of 64 bits, a count per bit set.
    let mut count = [GET_STRING_COUNT, 0, 1 << FEATURE_NAMES, 0, 0];
    ask(socket, device, &mut count)?;
    let count = count[4].min(FEATURES_MAX);
    // struct ethtool_gstrings: command, set, length, names.
    let words = FEATURE_NAME_BYTES / 4;
    let mut strings = vec![0u32; 3 + count as usize * words];
    strings[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, count]);
    ask(socket, device, &mut strings)?;
    let names = strings[3..].chunks_exact(words).map(|words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    });
    Ok(names.collect())
}

/// For each of `count` features whether it is on, and whether it can be switched.
pub(crate) fn features(
    socket: BorrowedFd<'_>,
    device: &str,
    count: usize,
) -> Result<Vec<(bool, bool)>, Errno> {
    // struct ethtool_gfeatures: command, size, blocks of available, requested, active and never
    // changed.
    let blocks = count.div_ceil(32);
    let mut words = vec![0u32; 2 + 4 * blocks];
    words[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
    ask(socket, device, &mut words)?;
    let bit = |index: usize, word: usize| words[2 + index / 32 * 4 + word] >> (index % 32) & 1 == 1;
    Ok((0..count).map(|index| (bit(index, 2), bit(index, 0) && !bit(index, 3))).collect())
}

/// Switches features: for each bit `None` leaves it as it is.
pub(crate) fn set_features(
    socket: BorrowedFd<'_>,
    device: &str,
    wanted: &[Option<bool>],
) -> Result<(), Errno> {
    // struct ethtool_sfeatures: command, size, blocks of valid and requested.
    let blocks = wanted.len().div_ceil(32);
    let mut words = vec![0u32; 2 + 2 * blocks];
    words[..2].copy_from_slice(&[SET_FEATURES, blocks as u32]);
    for (index, wanted) in wanted.iter().enumerate() {
        let Some(on) = wanted else { continue };
        words[2 + index / 32 * 2] |= 1 << (index % 32);
        words[3 + index / 32 * 2] |= u32::from(*on) << (index % 32);
    }
    ask(socket, device, &mut words)
}

/// How many queues a device receives on: combined ones and those for receiving alone.
pub(crate) fn rx_channels(socket: BorrowedFd<'_>, device: &str) -> Result<u32, Errno> {
    // struct ethtool_channels: command, most rx, tx, other and combined, and as many in use.
    let mut words = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ask(socket, device, &mut words)?;
    Ok(words[5].saturating_add(words[8]))
}

/// The name of the kernel's driver of a device, such as `veth`.
pub(crate) fn driver_name(socket: BorrowedFd<'_>, device: &str) -> Result<String, Errno> {
    // struct ethtool_drvinfo: command, the name in 32 bytes, and much more: 196 bytes in all.
    let mut words = [0u32; 64];
    words[0] = GET_DRIVER;
    ask(socket, device, &mut words)?;
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn the_loopback_device_says_what_it_can() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let names = feature_names(socket.as_fd(), "lo").unwrap();
        let index = names.iter().position(|name| name == "loopback").unwrap();
        let features = features(socket.as_fd(), "lo", names.len()).unwrap();
        assert_eq!(features[index], (true, false), "always on");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(feature_names(socket.as_fd(), "none0").unwrap_err(), Errno::NODEV);
        let error = feature_names(socket.as_fd(), "0123456789abcdef").unwrap_err();
        assert_eq!(error, Errno::NAMETOOLONG);
    }
}
