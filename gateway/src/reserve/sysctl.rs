//! What the kernel is told about ports, and tells: `ip_local_reserved_ports`,
//! `ip_local_port_range`.
//!
//! Only what we added is taken out again: somebody else may have added more meanwhile. What we
//! added stands in the journal before it stands in the sysctl.

use std::fs;

use config::EphemeralPorts;

use super::ReserveError;
use crate::store::Store;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Key of the journal: what we added.
const KEY: &str = "reserved_ports";

/// Where published ports come from whose number the config leaves open. What cannot be read is as
/// Linux has it.
pub fn ephemeral_ports() -> EphemeralPorts {
    let mut ports = EphemeralPorts::default();
    let range = fs::read_to_string(RANGE).unwrap_or_default();
    let bounds: Vec<u16> = range.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    if let [first, last] = bounds[..]
        && first <= last
        && first > 0
    {
        (ports.first, ports.last) = (first, last);
    }
    ports.reserved = parse(&fs::read_to_string(RESERVED).unwrap_or_default());
    ports
}

/// Has the kernel keep exactly these ranges for us, besides what others asked for.
pub(super) fn reserve(store: &Store, ranges: &[(u16, u16)]) -> Result<(), ReserveError> {
    let error = |source| ReserveError::Sysctl { path: RESERVED, source };
    let before: Vec<(u16, u16)> = store.get(KEY)?.unwrap_or_default();
    if before.is_empty() && ranges.is_empty() {
        return Ok(());
    }
    let current = parse(&fs::read_to_string(RESERVED).map_err(error)?);
    let others = without(&current, &before);
    let ours = without(&joined(ranges), &others);
    if ours == before {
        return Ok(());
    }
    // Of a kill between the two, the sum is what may be in the sysctl.
    store.put(KEY, &joined(&[&before[..], &ours].concat()))?;
    fs::write(RESERVED, written(&joined(&[&others[..], &ours].concat()))).map_err(error)?;
    match ours.is_empty() {
        true => store.remove(KEY)?,
        false => store.put(KEY, &ours)?,
    }
    Ok(())
}

/// `8080,9000-9010`
fn parse(text: &str) -> Vec<(u16, u16)> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    joined(&text.trim().split(',').filter_map(range).collect::<Vec<_>>())
}

fn written(ranges: &[(u16, u16)]) -> String {
    let range = |&(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    // An empty text would be no write at all.
    format!("{}\n", ranges.iter().map(range).collect::<Vec<_>>().join(","))
}

/// In order, with what overlaps or touches made one.
fn joined(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        match joined.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => {
                before.1 = before.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is left of ranges when others are cut out.
fn without(ranges: &[(u16, u16)], others: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = ranges.to_vec();
    for &(from, to) in others {
        left = left
            .into_iter()
            .flat_map(|(first, last)| {
                let below = (first < from).then(|| (first, last.min(from.saturating_sub(1))));
                let above = (last > to).then(|| (first.max(to.saturating_add(1)), last));
                [below, above].into_iter().flatten()
            })
            .filter(|(first, last)| first <= last)
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_list_is_read_and_written() {
        assert_eq!(parse("8080,9000-9010\n"), [(8080, 8080), (9000, 9010)]);
        assert_eq!(parse("\n"), []);
        assert_eq!(written(&[(8080, 8080), (9000, 9010)]), "8080,9000-9010\n");
        assert_eq!(written(&[]), "\n");
    }

    fn members(ranges: &[(u16, u16)]) -> std::collections::BTreeSet<u16> {
        ranges.iter().flat_map(|&(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn lists_are_sets_of_ports(
            one in prop::collection::vec((0u16..60, 0u16..60), 0..6),
            other in prop::collection::vec((0u16..60, 0u16..60), 0..6),
        ) {
            let (one, other) = (joined(&one), joined(&other));
            prop_assert_eq!(parse(&written(&one)), one.clone());
            let left: std::collections::BTreeSet<u16> =
                members(&one).difference(&members(&other)).copied().collect();
            prop_assert_eq!(members(&without(&one, &other)), left);
        }
    }
}
