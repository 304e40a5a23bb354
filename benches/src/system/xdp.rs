//! Portolan's masquerade between two veth pairs by AF_XDP, beside the kernel's between the same.
//!
//! The daemon runs in the middle's namespace, where our ends of the pairs are. The hard constraint:
//! the two ends are the kernel's leg's exactly: the same sockets, the same veth pairs, with their
//! offloads as Portolan sets them.

use std::path::Path;

use super::error::Error;
use super::namespace::Namespace;
use super::portolan::Portolan;
use super::topology::{
    CLIENT, OUTSIDE_GATEWAY, OUTSIDE_SERVER, Placement, SERVER, endpoint_config, gateway_config,
    network_config, veth,
};

/// An uplink by AF_XDP on the device `outside`.
fn uplink_config() -> String {
    format!(
        "[uplink.wan]\n\
         driver = \"xdp\"\n\
         interface = \"outside\"\n\
         addresses = [\"{OUTSIDE_GATEWAY}/24\"]\n\
         gateway = \"{OUTSIDE_SERVER}\"\n"
    )
}

/// Builds a pair to the outside, which sends, and starts Portolan between it and an endpoint's TAP:
/// what comes as frames leaves glued, or not.
pub(super) fn inbound(
    (outside, middle, server): (&Namespace, &Namespace, &Namespace),
    placement: &Placement<'_>,
    folder: &Path,
    glues: bool,
) -> Result<Portolan, Error> {
    veth(middle, "outside", outside, OUTSIDE_SERVER)?;
    outside.ip(&format!("route add {SERVER}/32 via {OUTSIDE_GATEWAY}"))?;
    let config = [
        gateway_config(placement, folder),
        if glues { String::new() } else { "[limits]\nglued = 1\n".to_owned() },
        uplink_config(),
        network_config("bridge", "mode = \"nat-unprotected\"\n"),
        endpoint_config("server", server, SERVER),
    ]
    .concat();
    let binary = placement.binary.expect("Portolan's legs are built with a binary");
    middle.inside(|| Portolan::start(binary, &config, placement.interrupted))?
}

/// Builds the pairs and starts Portolan between them.
pub(super) fn masquerade(
    (client, middle, outside): (&Namespace, &Namespace, &Namespace),
    placement: &Placement<'_>,
    folder: &Path,
) -> Result<Portolan, Error> {
    veth(middle, "inside", client, CLIENT)?;
    veth(middle, "outside", outside, OUTSIDE_SERVER)?;
    let config = [
        gateway_config(placement, folder),
        uplink_config(),
        network_config("bridge", "masquerade = true\n"),
        format!(
            "[endpoint.client]\n\
             attach = {{ xdp = \"inside\" }}\n\
             network = [{{ name = \"bench\", ip = \"{CLIENT}\" }}]\n"
        ),
    ]
    .concat();
    let binary = placement.binary.expect("Portolan's legs are built with a binary");
    middle.inside(|| Portolan::start(binary, &config, placement.interrupted))?
}
