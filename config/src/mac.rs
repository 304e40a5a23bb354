//! MAC addresses that nobody chose.
//!
//! A hash of names instead of randomness: a restart gives every endpoint the address that its
//! neighbours remember, and one config always compiles to the same tables.

use std::net::IpAddr;

use engine::MacAddress;

/// A locally administered unicast address, hashed from names. Never one of the 02:42 family, so it
/// cannot meet a derived one.
pub(crate) fn hashed(names: &[&str]) -> MacAddress {
    let hash = fingerprint(names);
    let [_, _, first, rest @ ..] = hash.to_be_bytes();
    // Bits of the first byte (IEEE 802c): 0 multicast, 1 local; bit 2 keeps away from 02.
    let first = first & 0b1111_1000 | 0b110;
    let [b, c, d, e, f] = rest;
    MacAddress::new([first, b, c, d, e, f])
}

/// A number that follows from names alone.
pub(crate) fn fingerprint(names: &[&str]) -> u64 {
    // FNV-1a, 64 bits: stable across builds and machines, which std's hashers are not.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in names {
        // No name contains a zero byte, so it separates them.
        for byte in name.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^ hash >> 32
}

/// Derived from the first IPv4 address if there is one, else hashed.
pub(crate) fn derived_or_hashed(
    addresses: impl IntoIterator<Item = IpAddr>,
    names: &[&str],
) -> MacAddress {
    let first_v4 = addresses.into_iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    first_v4.map_or_else(|| hashed(names), MacAddress::derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashed_address_is_local_unicast_stable_and_never_derived() {
        let first = hashed(&["web", "front"]);
        assert_eq!(first.to_string(), hashed(&["web", "front"]).to_string());
        assert_ne!(first, hashed(&["webf", "ront"]));
        for number in 0..1_000 {
            let bytes = hashed(&["web", &number.to_string()]).bytes();
            assert_eq!(bytes[0] & 0b111, 0b110);
        }
    }

    #[test]
    fn the_first_ipv4_address_decides() {
        let addresses = ["2001:db8::1", "10.1.0.1", "10.2.0.1"].map(|text| text.parse().unwrap());
        assert_eq!(derived_or_hashed(addresses, &[]).to_string(), "02:42:0a:01:00:01");
        assert_eq!(derived_or_hashed(addresses[..1].to_vec(), &["x"]), hashed(&["x"]));
    }
}
