//! Flows: what was decided, kept in a form that one executor repeats.

mod association;
mod fragment;
mod index;
mod key;
mod order;
mod parts;
mod table;
mod track;
mod wheel;

pub(crate) use association::Chunks;
pub(crate) use fragment::{Arrival, Datagram, Fragments};
pub(crate) use index::{Index, mix, seed_for};
pub(crate) use key::{Family, FlowKey, V4, V6, echo_answer, pack_ingress, pack_transport};
pub use key::{FlowInput, Path};
pub(crate) use order::{Class, Whose};
pub(crate) use parts::Part;
pub(crate) use table::{
    ActionKind, AdjacencyId, Cold, FlowAction, FlowId, FlowTable, Hasher, NewSide, SideId,
};
pub(crate) use track::Segment;
pub use track::TcpState;
pub(crate) use wheel::Wheel;
