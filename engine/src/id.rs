//! Identifiers: small, typed, and handed out by whoever compiles the [`Tables`](crate::Tables).

use std::fmt;

/// Highest number of workers. Sets of workers are kept in a `u64`.
pub const WORKER_COUNT_MAX: usize = 64;

/// A port of the gateway: one attachment of an endpoint to a network, or one uplink. Indexes
/// `Tables::ports`; stays the same across reloads for as long as the attachment exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: packets that turn round inside the gateway, from a mapping to a mapping, come in
    /// and go out by it.
    pub(crate) const TURN: PortId = PortId(u16::MAX - 1);

    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A network (one broadcast domain). Indexes `Tables::networks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

impl NetworkId {
    /// What stands in a flow's key for packets of an uplink, which belong
    /// to no network. No network has this id.
    pub const NONE: NetworkId = NetworkId(u16::MAX);

    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An uplink. Indexes `Tables::uplinks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub u16);

impl UplinkId {
    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A worker, from 0 to the number of workers less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A MAC address, held as a number: the first byte on the wire is bits 40 to 47.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub u64);

impl MacAddress {
    /// All ones: every station.
    pub const BROADCAST: MacAddress = MacAddress(0xffff_ffff_ffff);

    /// From wire order.
    pub const fn new(bytes: [u8; 6]) -> MacAddress {
        let [a, b, c, d, e, f] = bytes;
        MacAddress(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// In wire order.
    pub const fn bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// True for broadcast and multicast (the I/G bit, IEEE 802).
    pub const fn is_group(self) -> bool {
        self.0 & 0x0100_0000_0000 != 0
    }

    /// Docker's derived address: 02:42 followed by the four bytes of the IPv4 address.
    pub const fn derived(address: std::net::Ipv4Addr) -> MacAddress {
        MacAddress(0x0242_0000_0000 | address.to_bits() as u64)
    }

    /// The IPv6 link-local address with the modified EUI-64 of this MAC (RFC 4291 appendix A).
    pub const fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.bytes();
        let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        std::net::Ipv6Addr::from_bits((0xfe80u128 << 112) | identifier as u128)
    }

    /// The MAC address that a link-local address was made of, if it was.
    pub fn of_link_local(address: std::net::Ipv6Addr) -> Option<MacAddress> {
        let [.., a, b, c, _, _, d, e, f] = address.octets();
        let mac = MacAddress::new([a ^ 2, b, c, d, e, f]);
        (mac.link_local() == address).then_some(mac)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMacAddress;

impl fmt::Display for NotAMacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected six hexadecimal bytes joined by colons, such as 02:42:0a:01:00:0a")
    }
}

impl std::error::Error for NotAMacAddress {}

impl std::str::FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<MacAddress, NotAMacAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            // A sign would be a number too.
            let is_pair = |part: &&str| {
                part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            };
            let part = parts.next().filter(is_pair).ok_or(NotAMacAddress)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddress)?;
        }
        if parts.next().is_some() {
            return Err(NotAMacAddress);
        }
        Ok(MacAddress::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_prints_as_it_parses() {
        let mac: MacAddress = "02:42:0a:01:00:0a".parse().unwrap();
        assert_eq!(mac, MacAddress::derived([10, 1, 0, 10].into()));
        assert_eq!(mac.to_string(), "02:42:0a:01:00:0a");
        assert_eq!(mac.link_local().to_string(), "fe80::42:aff:fe01:a");
    }

    #[test]
    fn a_link_local_address_tells_the_mac_address_that_it_was_made_of() {
        let mac = MacAddress::derived([10, 1, 0, 10].into());
        assert_eq!(MacAddress::of_link_local(mac.link_local()), Some(mac));
        assert_eq!(MacAddress::of_link_local("fe80::1".parse().unwrap()), None);
        assert_eq!(MacAddress::of_link_local("2001:db8::42:aff:fe01:a".parse().unwrap()), None);
    }

    #[test]
    fn text_that_is_no_mac_address_is_refused() {
        for text in ["", "02:42", "02:42:0a:01:00:0a:01", "2:42:0a:01:00:0a", "gg:42:0a:01:00:0a"] {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAMacAddress), "{text}");
        }
    }
}
