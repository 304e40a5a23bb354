//! The host's side is one gateway's: who has it, and how another one finds out.
//!
//! Two gateways on one host would take turns at its table and routes. So who has the host's side
//! holds a socket whose name belongs to the network namespace and goes with the process, also when
//! that is killed. The one hard constraint: no file, which could outlive its owner.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::error::Error;

/// The name of the socket, abstract.
const NAME: &[u8] = b"portolan/host-side";

/// Takes the host's side for this process, as long as what is returned lives.
///
/// # Errors
/// Another gateway has it; the error names it and what to do.
pub(super) fn take() -> Result<UnixListener, Error> {
    take_as(NAME)
}

fn take_as(name: &[u8]) -> Result<UnixListener, Error> {
    let failed = |source| Error::Host { action: "take the gateway's place", source };
    let name = SocketAddr::from_abstract_name(name).map_err(failed)?;
    match UnixListener::bind_addr(&name) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::HostTaken { owner: owner(&name) })
        }
        Err(error) => Err(failed(error)),
    }
}

/// The process that has the socket, as `NAME (pid N)`.
fn owner(name: &SocketAddr) -> String {
    let peer = UnixStream::connect_addr(name).ok();
    let peer = peer.and_then(|peer| rustix::net::sockopt::socket_peercred(&peer).ok());
    let Some(peer) = peer else { return "another process".to_owned() };
    let pid = peer.pid.as_raw_nonzero();
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", program.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_is_told_who_has_it_and_what_to_do() {
        let name = format!("portolan/test-{}", std::process::id());
        let first = take_as(name.as_bytes()).unwrap();
        let second = take_as(name.as_bytes()).unwrap_err().to_string();
        let own = format!("(pid {})", std::process::id());
        assert!(second.contains(&own) && second.contains("host_side = false"), "{second}");
        drop(first);
        take_as(name.as_bytes()).unwrap();
    }
}
