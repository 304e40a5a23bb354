//! What the passes over a batch hand on to each other.
//!
//! Plain memory, written and read in order; nothing here decides. The one hard constraint is its
//! form: what a packet costs depends on how these lie in memory.

use crate::execute::Edit;
use crate::flow::{FlowKey, Hasher, SideId, V4};
use crate::id::PortId;
use crate::packet::{BATCH_LEN, Packet, Shape, WINDOW_BYTES};
use crate::parse::{PLAIN_L4_V4, PlainProtocol};
use crate::wire::{protocol, tcp};

/// How a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Way {
    /// A frame inside a network, whose port is known.
    Bridged,
    /// A plain packet that may have a flow.
    V4,
    /// The same with an offload or a tail.
    SpecialV4,
    /// A plain packet of IPv6; its key lies in [`Lookups::keys_v6`].
    V6,
    /// A plain packet that no flow is for, or that may change a flow's state: its key is known.
    NewV4,
    /// The same of IPv6.
    NewV6,
    /// Anything else.
    Long,
}

impl Way {
    /// The way of a packet that no flow is for.
    pub(super) fn without_flow(self) -> Way {
        match self {
            Way::V4 | Way::SpecialV4 | Way::NewV4 => Way::NewV4,
            Way::V6 | Way::NewV6 => Way::NewV6,
            Way::Bridged | Way::Long => Way::Long,
        }
    }
}

/// What the passes hand on to each other about one packet. Plain fields, each written where it is
/// known: an enum would be put together and taken apart again for every packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    pub(super) key_v4: FlowKey<u64>,
    pub(super) hash: u64,
    pub(super) side: SideId,
    /// Where the packet leaves, once that is known.
    pub(super) egress: PortId,
    /// Not written while all packets are [`Way::V4`].
    pub(super) way: Way,
    /// Makes a look-up as long as a packet: one offset walks both, an instruction less per packet.
    _stride: [u64; 2],
}

const _: () = assert!(size_of::<Lookup>() == size_of::<Packet>(), "one offset walks both");

impl Lookup {
    /// The packet has this part of its key; the rest stands in it.
    #[inline(always)]
    pub(super) fn note_plain(
        &mut self,
        window: &[u8; WINDOW_BYTES],
        transport: u64,
        hasher: Hasher<V4>,
    ) {
        let transport = transport | V4::ports_plain(window);
        self.key_v4 = FlowKey { addresses: V4::read_plain(window), transport };
        self.hash = hasher.hash(&self.key_v4);
    }
}

/// The look-ups of a batch.
#[derive(Debug)]
pub(super) struct Lookups {
    pub(super) all: [Lookup; BATCH_LEN],
    pub(super) keys_v6: [FlowKey<[u128; 2]>; BATCH_LEN],
}

impl Default for Lookups {
    fn default() -> Lookups {
        let lookup = Lookup {
            key_v4: FlowKey::default(),
            hash: 0,
            side: SideId(0),
            egress: PortId::default(),
            way: Way::Long,
            _stride: [0; 2],
        };
        Lookups { all: [lookup; BATCH_LEN], keys_v6: [FlowKey::default(); BATCH_LEN] }
    }
}

/// A set of ports, of which only matters whether it is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Bits set in the number of any of them, and in that of all.
    in_some: u16,
    in_all: u16,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { in_some: 0, in_all: u16::MAX }
    }
}

impl Ports {
    #[inline(always)]
    pub(super) fn add(&mut self, port: PortId) {
        self.in_some |= port.0;
        self.in_all &= port.0;
    }

    pub(super) fn are_one(self) -> bool {
        self.in_some == self.in_all
    }
}

/// What the first pass found in a batch as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) bytes: u64,
    /// Some packet has an offload or a tail.
    pub(super) special: bool,
    /// Some packet is no frame whose port is known.
    pub(super) routed: bool,
    /// Every packet is [`Way::V4`].
    pub(super) all_plain_v4: bool,
    /// The ports of those frames.
    pub(super) ports: Ports,
    /// All packets are alike, and [`Way::V4`].
    pub(super) alike: Option<Alike>,
}

/// What ordinary packets of a bulk stream have in common; what follows from it is worked out once
/// for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alike {
    pub(super) shape: Shape,
    pub(super) protocol: PlainProtocol,
}

impl Alike {
    /// What packets like this one have in common, if any ordinary packet is like it.
    pub(super) fn of(packet: &Packet) -> Option<Alike> {
        /// Any header that is looked for lies in a packet of so many bytes.
        const BYTES_MIN: usize = PLAIN_L4_V4 + tcp::HEADER_BYTES;
        let protocol = match V4::protocol_plain(packet.window()) {
            protocol::TCP => PlainProtocol::Tcp,
            protocol::UDP => PlainProtocol::Udp,
            _ => return None,
        };
        let shape = packet.shape();
        let right = shape.is_ordinary() && shape.head_bytes() >= BYTES_MIN;
        right.then_some(Alike { shape, protocol })
    }
}

/// Says that packets are [`Way::V4`], where that is not true of all.
pub(super) fn mark_plain(lookups: &mut [Lookup]) {
    lookups.iter_mut().for_each(|lookup| lookup.way = Way::V4);
}
