//! Portolan's packet I/O for Linux: drivers know the kernel, and nothing else does.
//!
//! A driver is an [`engine::Port`] over one queue of one device. The hard constraint: a packet
//! costs one system call (or none) and no allocation, and it lands where the engine works on it.
//! Frames come from one [`Region`], mapped once. Addresses, routes and namespaces are not set
//! here, save for what a device needs to exist.
//!
//! `unsafe` is found in `sys/` only.

#![deny(unsafe_code)]

mod error;
mod link;
#[allow(unsafe_code)]
mod sys;
mod tap;
mod vnet;
mod watch;
mod xdp;

pub use error::DriverError;
pub use sys::copier::copier;
pub use sys::region::Region;
pub use sys::usage::involuntary_switches;
pub use tap::{QUEUE_LEN_DEFAULT, Tap, TapOptions, TapQueue};
pub use vnet::{TUNNEL_HEADER_BYTES, VNET_HEADER_BYTES};
pub use watch::{
    LinkChange, LinkState, LinkWatch, NamespaceNumber, NamespaceNumbers, namespace_cookie,
};
pub use xdp::{
    XDP_CHUNK_FRAME_BYTES, XDP_QUEUE_FRAMES, Xdp, XdpMemory, XdpMode, XdpOptions, XdpPlace,
    XdpQueue, XdpTake, offloads_command, offloads_in_use, set_offloads,
};
