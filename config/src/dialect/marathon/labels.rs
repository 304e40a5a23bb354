//! VIPs: labels of a port that name a virtual address of DC/OS.
//!
//! `VIP_0: "/web:80"` is the name `web` at port 80, `VIP_1: "10.1.2.3:80"` an address. They are
//! read and shown; balancing over them is for a later version.

use std::net::IpAddr;

use super::super::tree::Node;
use crate::report::{PlaceId, Report};

/// The zone that DC/OS answers for names of VIPs.
const ZONE: &str = "marathon.l4lb.thisdcos.directory";

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vip {
    pub(super) at: PlaceId,
    /// The label's key.
    pub(super) key: String,
    /// Host and port as a client writes them.
    pub(super) target: String,
}

/// The VIPs among a port's labels. What looks like one and is none is reported.
pub(super) fn vips(port: &Node, report: &mut Report) -> Vec<Vip> {
    let Some(labels) = port.map_at("labels", report) else { return Vec::new() };
    let mut vips = Vec::new();
    for entry in labels.entries() {
        let Some(value) = entry.node.text(report) else { continue };
        if !entry.key.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("vip")) {
            continue;
        }
        match target(value) {
            Some(target) => vips.push(Vip { at: entry.node.at, key: entry.key.clone(), target }),
            None => {
                let problem = report.warning(entry.node.at, format!("{value:?} is no VIP"));
                problem.hint("a VIP is /name:port or address:port");
            }
        }
    }
    vips
}

/// Where a client finds it: split at the last colon.
fn target(value: &str) -> Option<String> {
    let (host, port) = value.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(std::net::SocketAddr::new(address, port).to_string());
    }
    let label = label(host);
    (!label.is_empty()).then(|| format!("{label}.{ZONE}:{port}"))
}

/// The DNS label of a name, as dcos-net makes it.
fn label(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let kept = lower.chars().filter_map(|c| match c {
        'a'..='z' | '0'..='9' | '-' => Some(c),
        '_' | '.' => Some('-'),
        _ => None,
    });
    let kept: String = kept.collect();
    kept.trim_matches('-').chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels_as_in_dcos() {
        assert_eq!(label("fd%gsf---gs7-f$gs--d7fddg-123"), "fdgsf---gs7-fgs--d7fddg-123");
        assert_eq!(label("/a/b"), "ab");
        assert_eq!(label("-A_b.c-"), "a-b-c");
        assert_eq!(label(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn vips_are_names_or_addresses() {
        assert_eq!(target("/web:80").unwrap(), format!("web.{ZONE}:80"));
        assert_eq!(target("10.1.2.3:80").unwrap(), "10.1.2.3:80");
        assert_eq!(target("[fd01:c::1]:80").unwrap(), "[fd01:c::1]:80");
        assert_eq!(target("fd01:c::1:80").unwrap(), "[fd01:c::1]:80");
        for wrong in ["", "/web", "/web:0", "/web:x", ":80", "/:80"] {
            assert_eq!(target(wrong), None, "{wrong}");
        }
    }
}
