//! Which ports have sockets in this network namespace, and whose they are.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::tables::Protocol;

/// A socket that is bound to a port and takes what comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) address: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) inode: u64,
}

/// All of them but our own: TCP that listens, and UDP and SCTP that are connected to nobody.
pub(super) fn scan() -> Vec<Bound> {
    // The calling thread's namespace, which need not be that of the process.
    const FILES: [(&str, Protocol); 4] = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let own = own_inodes();
    let mut all = Vec::new();
    for (name, protocol) in FILES {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(|line| inet_line(line, protocol)));
    }
    let text = fs::read_to_string("/proc/thread-self/net/sctp/eps").unwrap_or_default();
    all.extend(text.lines().skip(1).flat_map(sctp_line));
    all.retain(|bound| !own.contains(&bound.inode));
    all
}

/// A line of `/proc/net/tcp` and its like:
/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn inet_line(line: &str, protocol: Protocol) -> Option<Bound> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    // TCP_LISTEN, and for UDP TCP_CLOSE: connected to nobody.
    let wanted = if protocol == Protocol::Tcp { "0A" } else { "07" };
    if state != wanted {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some(Bound {
        address: hex_address(address)?,
        protocol,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: inode.parse().ok()?,
    })
}

/// A line of `/proc/net/sctp/eps`: `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS...`.
fn sctp_line(line: &str) -> Vec<Bound> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, _, _, port, _, inode, ref addresses @ ..] = fields[..] else { return Vec::new() };
    let (Ok(port), Ok(inode)) = (port.parse(), inode.parse()) else { return Vec::new() };
    let protocol = Protocol::Sctp;
    let addresses = addresses.iter().filter_map(|address| address.parse().ok());
    addresses.map(|address| Bound { address, protocol, port, inode }).collect()
}

/// Words of four bytes as the machine holds them, each written as a number.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            bytes.chunks_exact_mut(4).zip(words).for_each(|(to, from)| to.copy_from_slice(&from));
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn own_inodes() -> Vec<u64> {
    inodes_of("/proc/self/fd")
}

/// Inodes of the sockets among a process's descriptors.
fn inodes_of(folder: &str) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    let inode = |target: std::path::PathBuf| -> Option<u64> {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.flatten().filter_map(target).filter_map(inode).collect()
}

/// The program that has a socket: `NAME (pid N)`. `None`: it cannot be seen from here.
pub(super) fn owner(inode: u64) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.into_iter().find_map(|pid| {
        let has = inodes_of(&format!("/proc/{pid}/fd")).contains(&inode);
        let name = has.then(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok())??;
        Some(format!("{} (pid {pid})", name.trim_end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 \
                   0 31337 1 0000000000000000 100 0 0 10 0";
        let found = inet_line(tcp, Protocol::Tcp).unwrap();
        assert_eq!((found.port, found.inode), (8080, 31_337));
        if cfg!(target_endian = "little") {
            assert_eq!(found.address, IpAddr::from(Ipv4Addr::LOCALHOST));
        }
        assert_eq!(inet_line(&tcp.replace(" 0A ", " 01 "), Protocol::Tcp), None);
        let v6 = tcp.replace("0100007F", "00000000000000000000000001000000");
        let found = inet_line(&v6, Protocol::Tcp).unwrap();
        assert!(found.address.is_ipv6());
        let sctp = "ffff0 ffff1 2   10  29     80    0 4242 10.0.0.1 fd00::1";
        let found: Vec<_> = sctp_line(sctp).iter().map(|bound| (bound.port, bound.inode)).collect();
        assert_eq!(found, [(80, 4_242), (80, 4_242)]);
        assert!(sctp_line("").is_empty() && inet_line("", Protocol::Udp).is_none());
    }

    #[test]
    fn a_socket_of_ours_is_no_other_programs() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!scan().iter().any(|bound| bound.protocol == Protocol::Tcp && bound.port == port));
    }
}
