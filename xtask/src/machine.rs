//! What the tests need from the machine: root, namespaces, TAP, veth, bridge, nftables.
//!
//! Each feature is tried, not looked up, in a namespace made for this and removed at the end: so a
//! machine that cannot run the namespace tests says so in one line at the start, instead of in
//! fifty lines at the end. A feature that is missing fails the run.

use anyhow::{Context, Result, bail};

use crate::command::query;
use crate::steps::Counts;

/// Tries every feature.
pub(crate) fn check() -> Result<Counts> {
    if !is_root()? {
        bail!("not root: the tests make network namespaces and TAP devices; run them as root");
    }
    std::fs::metadata("/dev/net/tun")
        .context("no /dev/net/tun: load the module tun, or pass the device into the container")?;
    let name = format!("xtask-{}", std::process::id());
    query("ip", &["netns", "add", &name]).context("no network namespaces")?;
    let tried = try_features(&name);
    let removed = query("ip", &["netns", "del", &name]);
    let counts = tried?;
    removed?;
    Ok(counts)
}

fn try_features(namespace: &str) -> Result<Counts> {
    let features: [(&str, &[&str]); 5] = [
        (
            "multi-queue TAP devices with a vnet header",
            &["ip", "tuntap", "add", "dev", "probe-tap", "mode", "tap", "multi_queue", "vnet_hdr"],
        ),
        (
            "veth pairs",
            &["ip", "link", "add", "probe-a", "type", "veth", "peer", "name", "probe-b"],
        ),
        ("bridges", &["ip", "link", "add", "probe-bridge", "type", "bridge"]),
        ("IPv6", &["ip", "-6", "address", "add", "2001:db8::1/64", "dev", "probe-a"]),
        (
            "nftables with NAT",
            &[
                "nft",
                "add table inet probe; add chain inet probe nat \
            { type nat hook postrouting priority 100; }",
            ],
        ),
    ];
    let net = format!("--net=/run/netns/{namespace}");
    let mut counts = Counts::default();
    for (feature, words) in features {
        let arguments: Vec<&str> =
            [net.as_str()].into_iter().chain(words.iter().copied()).collect();
        match query("nsenter", &arguments) {
            Ok(_) => counts.passed += 1,
            Err(error) => {
                println!("this machine has no {feature}: {error:#}");
                counts.failed += 1;
            }
        }
    }
    Ok(counts)
}

/// True if we are root.
pub(crate) fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc")?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = ids.and_then(|ids| ids.split_whitespace().nth(1));
    Ok(effective.context("/proc/self/status has a line Uid:")? == "0")
}
