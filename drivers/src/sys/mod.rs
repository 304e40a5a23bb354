//! The only home of `unsafe`: memory that the kernel gives, calls whose arguments it
//! reads raw, and what only some processors can do.
//!
//! Each file wraps its unsafe calls in types and functions that cannot be misused from safe code,
//! and says at each block who upholds what.

pub(crate) mod bpf;
pub(crate) mod copier;
pub(crate) mod ethtool;
pub(crate) mod ioctl;
pub(crate) mod lend;
pub(crate) mod netlink;
pub(crate) mod region;
pub(crate) mod ring;
pub(crate) mod usage;
pub(crate) mod xdp;
