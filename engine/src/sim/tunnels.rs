//! Tunnels of a simulated world: hosts of its networks that are behind other machines' tunnel ends.
//!
//! Two hosts on the uplink's link are ends of tunnels too, each with one host of the first network
//! (learnt) and one of the second (static) behind it. What such a host sends is wrapped here, and
//! what the gateway sends to an end is opened here, by the simulator's own code. Ends pass frames
//! among each other as peers do; the gateway must not. The one hard constraint: wrapping follows
//! from the frame alone, so that no random choice depends on what the gateway does.

use std::net::IpAddr;

use super::datagram::Datagram;
use super::frames::*;
use super::port::WireFrame;
use super::topology::Topology;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::Offload;

/// The UDP port of all tunnels.
pub(super) const TUNNEL_PORT: u16 = 4_789;

/// The identifier of the first network; the next ones follow.
pub(super) const FIRST_VNI: u32 = 4_096;

/// A host behind a tunnel end.
#[derive(Clone, Debug)]
pub(super) struct Beyond {
    pub(super) host: usize,
    pub(super) mac: MacAddress,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) network: NetworkId,
    pub(super) tunnel: PortId,
    pub(super) vtep: IpAddr,
    pub(super) vtep_mac: MacAddress,
}

/// A frame that the gateway has sent into a tunnel.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) network: NetworkId,
    pub(super) tunnel: PortId,
    pub(super) inner: WireFrame,
}

impl Beyond {
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || address == IpAddr::V6(self.mac.link_local())
    }

    /// A frame of this host as it arrives at the gateway's uplink.
    pub(super) fn wrap(&self, topology: &Topology, frame: &[u8]) -> WireFrame {
        let v6 = self.vtep.is_ipv6();
        let own = topology.uplink_address(v6);
        let vni = FIRST_VNI + u32::from(self.network.0);
        let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
        // One flow keeps one port: the protocol and the host tell enough of them apart.
        let protocol = frame.get(20).copied().unwrap_or(0) ^ frame.get(23).copied().unwrap_or(0);
        let port = 49_152 + self.host as u16 * 256 + u16::from(protocol);
        let mut datagram = udp(port, TUNNEL_PORT, &[&header[..], frame].concat());
        if v6 || self.host.is_multiple_of(2) {
            fill_checksum(self.vtep, own, UDP, &mut datagram);
        }
        let ip = IpHeader::new(self.vtep, own, UDP);
        let to = topology.uplink_mac();
        WireFrame::whole(ethernet(to, self.vtep_mac, ip.ethertype(), &ip.packet(&datagram)))
    }
}

/// What is in a frame on the uplink, if that is a tunnel's. An error: it is wrong.
pub(super) fn open(topology: &Topology, frame: &WireFrame) -> Option<Result<Opened, String>> {
    let is_ip = matches!(be16(&frame.bytes, 12), ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
    if topology.beyond.is_empty() || !is_ip {
        return None;
    }
    let outer = Datagram::parse(&frame.bytes[ETHERNET_BYTES..]).ok()?;
    let is_tunnels = outer.protocol == UDP
        && outer.fragment.is_none()
        && outer.payload.len() >= 16
        && be16(outer.payload, 2) == TUNNEL_PORT;
    is_tunnels.then(|| read(topology, frame, &outer))
}

fn read(topology: &Topology, frame: &WireFrame, outer: &Datagram<'_>) -> Result<Opened, String> {
    let (udp, rest) = outer.payload.split_at(8);
    let (header, inner) = rest.split_at(8);
    let vni = be32(header, 4) >> 8;
    let is_it = |beyond: &&Beyond| {
        beyond.vtep == outer.destination
            && beyond.vtep_mac == mac_at(&frame.bytes, 0)
            && FIRST_VNI + u32::from(beyond.network.0) == vni
    };
    let Some(beyond) = topology.beyond.iter().find(is_it) else {
        return Err(format!("VNI {vni} to {} in a tunnel", outer.destination));
    };
    let is_right = frame.offload == Offload::None
        && outer.hops == HOPS
        && header[0] == 8
        && be16(udp, 0) >= 49_152
        && (be16(udp, 6) == 0) == outer.destination.is_ipv4()
        && inner.len() >= ETHERNET_BYTES;
    match is_right {
        true => Ok(Opened {
            network: beyond.network,
            tunnel: beyond.tunnel,
            inner: WireFrame::whole(inner.to_vec()),
        }),
        false => Err(format!("{:?}, {} hops: a wrong tunnel", frame.offload, outer.hops)),
    }
}
