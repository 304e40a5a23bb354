//! A test packet through the forward path of the host, and what became of it.
//!
//! Another program's table may drop what the host forwards: Docker and ufw give the chain FORWARD
//! the policy drop. Nothing of that shows at the uplink, so it is tried: a packet enters by a TAP
//! device that is made for it, is routed to the uplink's device, and is caught behind the last
//! chain, in our own table, before anybody sees it. The kernel traces it, so where it dies is
//! known by table, chain and rule.
//!
//! The one hard constraint: no test packet ever leaves the host, or reaches the gateway.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use config::HostSide;
use drivers::{Tap, TapOptions, VNET_HEADER_BYTES};
use engine::MacAddress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::notices::{Notices, Trace};
use super::rules::{TABLE, TEST_DEVICE};
use super::sysctl;
use crate::error::{Error, Place};
use crate::netlink::{LinkSettings, Netlink};

/// How long a packet may be under way. It takes microseconds; a loaded machine takes longer.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// MAC address of the device that test packets come from: one of our own, local.
const DEVICE_MAC: MacAddress = MacAddress(0x0642_706f_7274);

/// What became of a test packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came through.
    Passed,
    /// A chain of nftables dropped it.
    Dropped(Culprit),
    /// It is gone, and no chain of nftables says that it dropped it.
    Lost,
}

/// Which chain drops what the host forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The table's family, as `nft` calls it.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule by its handle; `None`: the chain's policy.
    pub rule: Option<u64>,
    /// Chains that the packet went through, in order.
    path: Vec<String>,
    interface: String,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Culprit { family, table, chain, rule, .. } = self;
        write!(f, "table {family} {table}, chain {chain}")?;
        match rule {
            Some(handle) => write!(f, ", rule {handle}"),
            None => write!(f, " (its policy)"),
        }
    }
}

impl Culprit {
    fn of(end: &Trace, path: Vec<String>, interface: &str) -> Culprit {
        let family = match end.family {
            1 => "inet",
            2 => "ip",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "unknown",
        };
        Culprit {
            family,
            table: end.table.clone(),
            chain: end.chain.clone(),
            rule: end.handle.filter(|_| !end.is_policy),
            path,
            interface: interface.to_owned(),
        }
    }

    /// The command line that lets the gateway's traffic pass.
    pub fn fix(&self) -> String {
        let Culprit { family, table, chain, interface, .. } = self;
        let went_by = |part: &str| self.path.iter().any(|chain| chain.contains(part));
        if went_by("ufw-") || went_by("ufw6-") {
            return format!(
                "ufw route allow in on {interface} && ufw route allow out on {interface}"
            );
        }
        if table == "firewalld" {
            return format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={interface} && \
                 firewall-cmd --permanent --new-policy=portolan && \
                 firewall-cmd --permanent --policy=portolan --add-ingress-zone=ANY \
                 --add-egress-zone=trusted --set-target=ACCEPT && firewall-cmd --reload"
            );
        }
        if matches!(*family, "ip" | "ip6") && table == "filter" {
            let program = if *family == "ip" { "iptables" } else { "ip6tables" };
            // What Docker keeps for others' rules.
            let chain = if went_by("DOCKER-USER") { "DOCKER-USER" } else { "FORWARD" };
            return format!(
                "{program} -I {chain} -i {interface} -j ACCEPT && \
                 {program} -I {chain} -o {interface} -j ACCEPT"
            );
        }
        let rule = format!("nft insert rule {family} {table} {chain}");
        format!("{rule} iifname {interface} accept && {rule} oifname {interface} accept")
    }
}

/// Sends a test packet of a family to the device of an uplink.
///
/// # Errors
/// The device cannot be made, or the kernel does not tell of traces.
pub(super) fn probe(side: &HostSide, interface: &str, v6: bool) -> Result<Outcome, Error> {
    let mut options = TapOptions::new(TEST_DEVICE);
    options.mac = Some(DEVICE_MAC);
    options.alias = Some("portolan test packets".to_owned());
    let failed = |source| Error::Device { place: Place(None), source };
    let tap = Tap::create(&options).map_err(failed)?;
    sysctl::prepare_device(TEST_DEVICE, false);
    let netlink = Netlink::open_here(Place(None))?;
    netlink.set_link(TEST_DEVICE, LinkSettings { up: true, ..LinkSettings::default() })?;
    netlink.add_address(TEST_DEVICE, side.test_host(v6))?;
    let queues = tap.into_queues();
    let lost = |errno| Error::Host { action: "hear of traced packets", source: errno };
    let mut traces = Notices::of_traces().map_err(|errno| lost(std::io::Error::from(errno)))?;
    let frame = frame(side.test_pair(v6));
    let sent = rustix::io::write(&queues[0], &frame);
    sent.map_err(|errno| Error::Host { action: "send a test packet", source: errno.into() })?;
    let mut path = Vec::new();
    let deadline = Instant::now() + UNDER_WAY;
    loop {
        for step in traces.traces() {
            if step.table == TABLE && step.family == 1 && step.chain == "passed" {
                return Ok(Outcome::Passed);
            }
            if !path.contains(&step.chain) {
                path.push(step.chain.clone());
            }
            if step.is_drop {
                return Ok(Outcome::Dropped(Culprit::of(&step, path, interface)));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome::Lost);
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&traces, PollFlags::IN)], Some(&timeout));
    }
}

/// [vnet header | Ethernet | IP | UDP], with right checksums.
fn frame([from, to]: [IpAddr; 2]) -> Vec<u8> {
    /// The discard service's port, at both ends.
    const PORT: [u8; 2] = [0, 9];
    const UDP: u8 = 17;

    let mut frame = vec![0; VNET_HEADER_BYTES];
    frame.extend(DEVICE_MAC.bytes());
    frame.extend([0x06, 0x42, 0x70, 0x6f, 0x72, 0x75]);
    let mut udp = [PORT, PORT, [0, 8], [0, 0]].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut header = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, UDP, 0, 0];
            header.extend(&addresses);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            let pseudo = [&addresses[..], &[0, UDP, 0, 8], &udp].concat();
            udp[6..8].copy_from_slice(&checksum(&pseudo));
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (from, to) => {
            let octets = |address| match address {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            };
            let addresses = [octets(from), octets(to)].concat();
            let pseudo = [&addresses[..], &[0, 0, 0, 8, 0, 0, 0, UDP], &udp].concat();
            udp[6..8].copy_from_slice(&checksum(&pseudo));
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, UDP, 64]);
            frame.extend(addresses);
        }
    }
    frame.extend(udp);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn culprit(family: u8, table: &str, chain: &str, path: &[&str]) -> Culprit {
        let end = Trace {
            family,
            table: table.into(),
            chain: chain.into(),
            is_drop: true,
            is_policy: true,
            handle: None,
        };
        Culprit::of(&end, path.iter().map(|chain| (*chain).to_owned()).collect(), "wan0")
    }

    #[test]
    fn the_fix_is_in_the_words_of_who_dropped() {
        let docker = culprit(2, "filter", "FORWARD", &["guard", "FORWARD", "DOCKER-USER"]);
        assert_eq!(docker.to_string(), "table ip filter, chain FORWARD (its policy)");
        assert!(docker.fix().starts_with("iptables -I DOCKER-USER -i wan0 -j ACCEPT"));
        let plain = culprit(10, "filter", "FORWARD", &["FORWARD"]);
        assert!(plain.fix().starts_with("ip6tables -I FORWARD -i wan0"));
        let ufw = culprit(2, "filter", "FORWARD", &["FORWARD", "ufw-before-forward"]);
        assert!(ufw.fix().starts_with("ufw route allow in on wan0"));
        let firewalld = culprit(1, "firewalld", "filter_FORWARD", &[]);
        assert!(firewalld.fix().starts_with("firewall-cmd"));
        let other = culprit(1, "mine", "fw", &[]);
        assert!(other.fix().starts_with("nft insert rule inet mine fw iifname wan0 accept"));
    }

    #[test]
    fn test_packets_have_right_checksums() {
        let v4 = frame(["169.254.86.250", "169.254.86.252"].map(|ip| ip.parse().unwrap()));
        let ip = &v4[VNET_HEADER_BYTES + 14..];
        assert_eq!((ip.len(), checksum(&ip[..20])), (28, [0, 0]));
        let v6 = frame(["fd00::2", "fd00::4"].map(|ip| ip.parse().unwrap()));
        let ip = &v6[VNET_HEADER_BYTES + 14..];
        let pseudo = [&ip[8..40], &[0, 0, 0, 8, 0, 0, 0, 17], &ip[40..]].concat();
        assert_eq!((ip.len(), checksum(&pseudo)), (48, [0, 0]));
    }
}
