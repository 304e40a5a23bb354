//! Multicast inside networks: to whom a frame to a group goes.
//!
//! While somebody asks who is in groups, a frame goes to the ports that are in its group and to
//! those that a router is behind; until then to all (RFC 4541). Reports go to routers, and into all
//! tunnels: another gateway cannot hear by a third one who is where, because nothing is passed on
//! between tunnels. Behind which tunnel a member is, its MAC address says.

use arrayvec::ArrayVec;

use super::core::Core;
use crate::counters::DropReason;
use crate::groups::{self, Groups, LEAVING_FOR, MEMBER_FOR, Noted, QUERIER_FOR, Said};
use crate::hand_over::Message;
use crate::id::{MacAddress, NetworkId, PortId};
use crate::packet::Packet;

/// What one message says at most; further records of it are not heard until its next one.
const SAID_MAX: usize = 64;

/// Who is to have a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Everybody.
    All,
    /// Who is in the group, and routers.
    Group(MacAddress),
    /// Routers of this family, IPv6 if true.
    Routers(bool),
}

impl Core {
    /// Sends a frame to a group to those of its network who want it.
    pub(super) fn flood_group(&mut self, packet: Packet, mac: MacAddress) {
        let (ingress, network) = (packet.meta.ingress, packet.meta.network);
        if !self.may_flood(&packet) {
            return self.drop(packet, DropReason::FloodLimited);
        }
        let audience = self.audience(&packet, network, mac);
        if audience == Audience::All {
            self.counters.worker.floods.add(1);
            return self.flood_from(packet, network, Some(ingress));
        }
        self.counters.worker.floods_narrowed.add(1);
        let tables = self.tables.clone();
        let Some(table) = tables.network(network) else {
            return self.drop(packet, DropReason::PortGone);
        };
        self.send_copies(packet, &table.members, |core, member| {
            member != ingress && core.is_in(audience, network, member)
        });
    }

    /// True if anybody's memberships count in a network.
    fn listens(&self, network: NetworkId) -> bool {
        self.tables.network(network).is_some_and(|network| network.multicast_snooping)
    }

    /// Notes what a frame says, and tells who is to have it.
    fn audience(&mut self, packet: &Packet, network: NetworkId, mac: MacAddress) -> Audience {
        let mut all: ArrayVec<Said, SAID_MAX> = ArrayVec::new();
        if !self.listens(network) {
            return Audience::All;
        }
        let is_message = groups::read(packet.head(), |one| {
            let _ = all.try_push(one);
        })
        .is_some();
        let port = self.heard_by(packet);
        let (mut reports, mut v6) = (false, false);
        for said in all {
            match said {
                Said::Query { v6, is_router } => {
                    let [asked, router] = Groups::query_keys(network, port, v6);
                    self.note_group(asked, QUERIER_FOR);
                    if is_router {
                        self.note_group(router, QUERIER_FOR);
                    }
                }
                Said::Joins(group) => {
                    (reports, v6) = (true, group.0 >> 32 == 0x3333);
                    self.note_group((network, group, port), MEMBER_FOR);
                }
                Said::Leaves(group) => {
                    (reports, v6) = (true, group.0 >> 32 == 0x3333);
                    if self.groups.leave((network, group, port), self.tick) {
                        self.tell(|| Message::Group {
                            network,
                            group,
                            port,
                            lifetime: LEAVING_FOR,
                        });
                    }
                }
            }
        }
        match (reports, is_message) {
            (true, _) if self.has_router(network, v6) => Audience::Routers(v6),
            (_, true) => Audience::All,
            (_, false) if self.groups.is_narrow(network, mac, self.tick) => Audience::Group(mac),
            (_, false) => Audience::All,
        }
    }

    /// The port that a frame came by; out of a tunnel, that tunnel's, if it is known.
    pub(super) fn heard_by(&self, packet: &Packet) -> PortId {
        let (ingress, network) = (packet.meta.ingress, packet.meta.network);
        if !self.tunnels.has(ingress) {
            return ingress;
        }
        let fdb = &self.stages.bridge.fdb;
        let known = fdb.port_of(network, packet.source(), self.generation, self.tick);
        known.filter(|&port| self.tunnels.has(port)).unwrap_or(ingress)
    }

    fn note_group(&mut self, key: (NetworkId, MacAddress, PortId), lifetime: std::time::Duration) {
        let (network, group, port) = key;
        match self.groups.note(key, lifetime, self.tick) {
            Noted::Known => {}
            Noted::New => self.tell(|| Message::Group { network, group, port, lifetime }),
            Noted::Full => self.counters.worker.groups_full.add(1),
        }
    }

    /// What another worker has heard.
    pub(super) fn hear_group(
        &mut self,
        key: (NetworkId, MacAddress, PortId),
        lifetime: std::time::Duration,
    ) {
        if lifetime == LEAVING_FOR {
            self.groups.leave(key, self.tick);
        } else {
            self.groups.note(key, lifetime, self.tick);
        }
    }

    /// True if a router is known anywhere in a network.
    fn has_router(&self, network: NetworkId, v6: bool) -> bool {
        let Some(table) = self.tables.network(network) else { return false };
        let tunnels = table.overlay.iter().flat_map(|overlay| &overlay.tunnels);
        let mut ports = table.members.iter().chain(tunnels);
        ports.any(|&port| self.groups.has_router(network, port, v6, self.tick))
    }

    fn is_in(&self, audience: Audience, network: NetworkId, member: PortId) -> bool {
        let wants = |port: PortId| match audience {
            Audience::All => true,
            Audience::Group(mac) => self.groups.wants(network, mac, port, self.tick),
            Audience::Routers(v6) => self.groups.has_router(network, port, v6, self.tick),
        };
        let overlay = self.tables.network(network).and_then(|own| own.overlay.as_ref());
        match overlay.filter(|overlay| overlay.trunk == member) {
            None => wants(member),
            Some(_) if matches!(audience, Audience::Routers(_)) => true,
            Some(overlay) => wants(member) || overlay.tunnels.iter().any(|&port| wants(port)),
        }
    }

    /// True if a frame that is for everybody behind a trunk goes into this tunnel of several.
    pub(super) fn goes_into(
        &self,
        packet: &Packet,
        network: NetworkId,
        (trunk, tunnel): (PortId, PortId),
    ) -> bool {
        let mac = MacAddress(packet.destination());
        let is_narrow = mac.is_group()
            && self.listens(network)
            && self.groups.is_narrow(network, mac, self.tick);
        if !is_narrow {
            return true;
        }
        let wants = |port| self.groups.wants(network, mac, port, self.tick);
        wants(trunk) || wants(tunnel) || groups::read(packet.head(), |_| ()).is_some()
    }
}
