//! Rules of prefixes: host bits, ranges of special meaning, and overlaps.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipam::{self, overlap};
use crate::report::{PlaceId, Report};

/// Prefixes that no interface of ours is in, with their meaning (RFC 6890).
const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/127", "unspecified and loopback"),
    ("::ffff:0:0/96", "IPv4 mapped into IPv6"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// A prefix that a network or uplink claims for itself.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) prefix: IpNet,
    pub(super) at: PlaceId,
    /// For messages: `network front`.
    pub(super) owner: String,
    /// The owner may claim overlapping prefixes: an uplink with two addresses of one subnet.
    pub(super) shared: bool,
    /// Of a network: what keeps it apart from others with the same addresses.
    pub(super) apart: Option<Apart>,
}

/// What keeps a network apart from others with the same addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apart {
    /// UDP port and identifier of an overlay.
    pub(super) wire: Option<(i64, i64)>,
    /// Its members are reached at their own addresses from elsewhere.
    pub(super) is_open: bool,
}

impl Claim {
    /// True if both can have the same addresses: another wire, and from elsewhere at most one of
    /// them is meant.
    fn may_overlap(&self, other: &Claim) -> bool {
        let Some((own, other)) = self.apart.zip(other.apart) else { return false };
        own.wire != other.wire && !(own.is_open && other.is_open)
    }
}

/// Checks a prefix that must be one, not an address in it.
pub(super) fn check_host_bits(prefix: IpNet, at: PlaceId, report: &mut Report) -> Option<IpNet> {
    if prefix == prefix.trunc() {
        return Some(prefix);
    }
    let problem = report.error(at, format!("{prefix} has host bits set"));
    problem.hint(format!("write {}", prefix.trunc()));
    None
}

/// Checks that a prefix has no special meaning.
pub(super) fn check_ordinary(prefix: IpNet, at: PlaceId, report: &mut Report) -> Option<IpNet> {
    for (special, meaning) in SPECIAL {
        let special: IpNet = special.parse().expect("the table holds prefixes");
        if overlap(special, prefix) {
            report.error(at, format!("{prefix} overlaps {special}, which is {meaning}"));
            return None;
        }
    }
    Some(prefix)
}

/// Checks an address of a host in a subnet that holds it.
pub(super) fn check_usable(
    prefix: IpNet,
    address: IpAddr,
    at: PlaceId,
    report: &mut Report,
) -> Option<IpAddr> {
    if ipam::is_usable(prefix, address) {
        return Some(address);
    }
    let prefix = prefix.trunc();
    let what = match (prefix, address == prefix.network()) {
        (IpNet::V4(_), false) => "broadcast",
        (IpNet::V4(_), true) => "network",
        (IpNet::V6(_), _) => "subnet-router anycast",
    };
    report.error(at, format!("{address} is the {what} address of {prefix}"));
    None
}

/// Reports every prefix that overlaps one of somebody else, at the later of the two.
pub(super) fn report_overlaps(claims: &mut [Claim], report: &mut Report) {
    // Prefixes either nest or are apart. Sorted by their start and long ones first, whatever one
    // nests in is on the stack of those that are still open.
    claims.sort_by_key(|claim| (claim.prefix.network(), claim.prefix.prefix_len(), claim.at));
    let mut open: Vec<&Claim> = Vec::new();
    for claim in claims.iter() {
        while open.last().is_some_and(|outer| !outer.prefix.contains(&claim.prefix)) {
            open.pop();
        }
        let foreign = |outer: &&&Claim| {
            let is_own = outer.shared && claim.shared && outer.owner == claim.owner;
            !is_own && !outer.may_overlap(claim)
        };
        if let Some(outer) = open.iter().rev().find(foreign) {
            let (later, earlier) =
                if claim.at > outer.at { (claim, *outer) } else { (*outer, claim) };
            let line = report.line(earlier.at);
            let message = format!(
                "{} overlaps {} of {}, line {line}",
                later.prefix, earlier.prefix, earlier.owner
            );
            let label = format!("{} is here", earlier.prefix);
            report.error(later.at, message).related(earlier.at, label);
        }
        open.push(claim);
    }
}
