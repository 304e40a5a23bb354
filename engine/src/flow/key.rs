//! What a flow is told by: one small key per address family, and the same as typed input for the
//! stages.
//!
//! A key holds everything that a stage may look at, no more and no less, so that two packets with
//! equal keys get equal verdicts. Whatever else a verdict depends on is a guard in the action.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::index::{mix, seed_for};
use crate::id::{MacAddress, NetworkId, PortId};
use crate::wire::{icmp, protocol};

/// Routed by the gateway or bridged inside a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// To the gateway's MAC address.
    Routed,
    /// To this MAC address, inside the network.
    Bridged(MacAddress),
}

/// What the stages decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowInput {
    /// Port it came in on.
    pub ingress: PortId,
    /// Its network; [`NetworkId::NONE`] on an uplink.
    pub network: NetworkId,
    /// Routed or bridged.
    pub path: Path,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol (IANA number).
    pub protocol: u8,
    /// Source port. Of an echo request: its identifier. 0 where there is none.
    pub source_port: u16,
    /// Destination port. Of an echo request: type and code; of an echo reply: its identifier.
    pub destination_port: u16,
}

impl FlowInput {
    /// The input of a frame inside a network, of which only the MAC address counts.
    pub fn bridged(ingress: PortId, network: NetworkId, mac: MacAddress) -> FlowInput {
        FlowInput {
            ingress,
            network,
            path: Path::Bridged(mac),
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            protocol: 0,
            source_port: 0,
            destination_port: 0,
        }
    }

    /// True for IPv6.
    pub fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }

    /// True for an echo request, whose source port is its identifier.
    pub fn is_echo(&self) -> bool {
        echo_answer(self.protocol, self.destination_port).is_some()
    }

    /// True for an echo reply, whose destination port is its identifier.
    pub fn is_echo_answer(&self) -> bool {
        const V4_ANSWER: u16 = (icmp::ECHO_REPLY as u16) << 8;
        const V6_ANSWER: u16 = (icmp::V6_ECHO_REPLY as u16) << 8;
        let answer = (self.protocol, self.source_port);
        answer == (protocol::ICMP, V4_ANSWER) || answer == (protocol::ICMPV6, V6_ANSWER)
    }
}

/// An address family: how its addresses lie in a key.
pub(crate) trait Family: Copy + std::fmt::Debug + Send + 'static {
    /// Source and destination.
    type Addresses: Copy + Eq + std::fmt::Debug + Default + Send;
    fn hash(addresses: Self::Addresses, seed: u64) -> u64;
    fn pack(source: IpAddr, destination: IpAddr) -> Self::Addresses;
    fn unpack(addresses: Self::Addresses) -> (IpAddr, IpAddr);
    /// Turns packed addresses into what is loaded from a packet without a change of byte order, and
    /// back.
    fn loaded(addresses: Self::Addresses) -> Self::Addresses;
}

/// IPv4: source in the upper half of a word, destination in the lower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct V4;

/// IPv6: source, destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct V6;

impl Family for V4 {
    type Addresses = u64;

    #[inline(always)]
    fn hash(addresses: u64, seed: u64) -> u64 {
        addresses ^ seed
    }

    fn pack(source: IpAddr, destination: IpAddr) -> u64 {
        let bits = |address| match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(_) => 0,
        };
        bits(source) << 32 | bits(destination)
    }

    fn unpack(addresses: u64) -> (IpAddr, IpAddr) {
        let address = |bits: u64| IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
        (address(addresses >> 32), address(addresses))
    }

    fn loaded(addresses: u64) -> u64 {
        addresses.to_be()
    }
}

impl Family for V6 {
    type Addresses = [u128; 2];

    #[inline(always)]
    fn hash([source, destination]: [u128; 2], seed: u64) -> u64 {
        let (a, b) = ((source >> 64) as u64, source as u64);
        let (c, d) = ((destination >> 64) as u64, destination as u64);
        mix(a ^ seed, c ^ seed_for(seed, 1)) ^ mix(b ^ seed_for(seed, 2), d ^ seed_for(seed, 3))
    }

    fn pack(source: IpAddr, destination: IpAddr) -> [u128; 2] {
        let bits = |address| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        [bits(source), bits(destination)]
    }

    fn unpack([source, destination]: [u128; 2]) -> (IpAddr, IpAddr) {
        let address = |bits| IpAddr::V6(Ipv6Addr::from_bits(bits));
        (address(source), address(destination))
    }

    fn loaded(addresses: [u128; 2]) -> [u128; 2] {
        addresses.map(u128::to_be)
    }
}

/// The key of one direction of a flow. What comes from a packet is kept as it is loaded, without a
/// change of byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowKey<A> {
    pub(crate) addresses: A,
    /// `[ingress port 16 | path 8 | protocol 8 | both transport ports, as they are loaded 32]`. The
    /// network is not part of it: it follows from the ingress port.
    pub(crate) transport: u64,
}

/// Path byte of a routed packet; never 0, so that the key of a free entry equals no packet's.
const ROUTED: u64 = 1;

/// The part of a key that is the same for all routed packets of an ingress port.
pub(crate) fn pack_ingress(ingress: PortId) -> u64 {
    u64::from(ingress.0) << 48 | ROUTED << 40
}

/// Packs all of a key but the addresses. `ports` as they are loaded.
#[inline(always)]
pub(crate) fn pack_transport(ports: u32, protocol: u8, ingress: u64) -> u64 {
    ingress | u64::from(protocol) << 32 | u64::from(ports)
}

impl<A> FlowKey<A> {
    /// The key that a routed input has.
    pub(crate) fn of<F: Family<Addresses = A>>(input: &FlowInput) -> FlowKey<A> {
        let ports = u32::from(input.source_port) << 16 | u32::from(input.destination_port);
        let ingress = pack_ingress(input.ingress);
        FlowKey {
            addresses: F::loaded(F::pack(input.source, input.destination)),
            transport: pack_transport(ports.to_be(), input.protocol, ingress),
        }
    }

    /// The port by which packets with this key come.
    pub(crate) fn ingress(&self) -> PortId {
        PortId((self.transport >> 48) as u16)
    }

    /// The input that a routed packet with this key gives; its port is in this network.
    pub(crate) fn input<F: Family<Addresses = A>>(self, network: NetworkId) -> FlowInput {
        let ingress = self.ingress();
        let (source, destination) = F::unpack(F::loaded(self.addresses));
        let ports = u32::from_be(self.transport as u32);
        FlowInput {
            ingress,
            network,
            path: Path::Routed,
            source,
            destination,
            protocol: (self.transport >> 32) as u8,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
        }
    }
}

/// Type and code of the answer to an ICMP query, in the form in which they stand for a port.
/// `None` for anything but an echo request.
pub(crate) fn echo_answer(protocol: u8, query: u16) -> Option<u16> {
    const V4_REQUEST: u16 = (icmp::ECHO_REQUEST as u16) << 8;
    const V6_REQUEST: u16 = (icmp::V6_ECHO_REQUEST as u16) << 8;
    match (protocol, query) {
        (protocol::ICMP, V4_REQUEST) => Some(u16::from(icmp::ECHO_REPLY) << 8),
        (protocol::ICMPV6, V6_REQUEST) => Some(u16::from(icmp::V6_ECHO_REPLY) << 8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_input_say_the_same() {
        let input = FlowInput {
            ingress: PortId(3),
            network: NetworkId(7),
            path: Path::Routed,
            source: "10.1.0.10".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol: 6,
            source_port: 40_000,
            destination_port: 80,
        };
        assert_eq!(FlowKey::of::<V4>(&input).input::<V4>(input.network), input);
        let input = FlowInput {
            source: "2001:db8::1".parse().unwrap(),
            destination: "fd00::2".parse().unwrap(),
            ..input
        };
        assert_eq!(FlowKey::of::<V6>(&input).input::<V6>(input.network), input);
    }
}
