//! Which ports have sockets in this network namespace, and whose they are.

use std::fs;
use std::net::IpAddr;

use engine::tables::Protocol;

use super::diag;

/// A socket that is bound to a port and takes what comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) address: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) inode: u64,
}

/// All of them but our own: TCP that is bound and connected to nobody, and UDP and SCTP likewise.
pub(super) fn scan() -> Vec<Bound> {
    let own = own_inodes();
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        match diag::sockets(protocol) {
            Ok(found) => all.extend(found),
            // A kernel without SCTP, or that has it without the part that tells of its sockets.
            Err(_) if protocol == Protocol::Sctp => all.extend(sctp()),
            Err(error) => tracing::warn!(%error, "cannot see which {protocol} ports are in use"),
        }
    }
    all.retain(|bound| !own.contains(&bound.inode));
    all
}

fn sctp() -> Vec<Bound> {
    // The calling thread's namespace, which need not be that of the process.
    let text = fs::read_to_string("/proc/thread-self/net/sctp/eps").unwrap_or_default();
    text.lines().skip(1).flat_map(sctp_line).collect()
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
        let sctp = "ffff0 ffff1 2   10  29     80    0 4242 10.0.0.1 fd00::1";
        let found: Vec<_> = sctp_line(sctp).iter().map(|bound| (bound.port, bound.inode)).collect();
        assert_eq!(found, [(80, 4_242), (80, 4_242)]);
        assert!(sctp_line("").is_empty());
    }

    #[test]
    fn a_socket_of_ours_is_no_other_programs() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!scan().iter().any(|bound| bound.protocol == Protocol::Tcp && bound.port == port));
    }
}
