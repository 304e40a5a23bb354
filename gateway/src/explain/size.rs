//! Whether a packet of so many bytes fits its way out, and what becomes of it if not.
//!
//! One MTU decides: that of the port by which it leaves. The one hard constraint: the verdict is
//! the engine's: IPv4 without DF is cut into fragments, everything else is answered with the MTU,
//! inside a network too; only what goes to a group dies in silence.

use engine::DropReason;
use engine::explain::Leaving;
use engine::flow::Path;
use engine::tables::PortKind;

use super::ask::Asked;
use super::words::Names;

/// Bytes of an IPv4 header without options, which each fragment has.
const IPV4_HEADER: u32 = 20;

/// What its size makes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// It leaves as so many packets; 0: not at all.
    pub(super) pieces: u32,
    /// Why it dies, and what is answered.
    pub(super) refused: Option<(DropReason, Option<String>)>,
    pub(super) why: String,
}

/// Judges a packet that leaves by a port.
pub(super) fn judge(names: Names<'_>, asked: &Asked, leaving: &Leaving) -> Size {
    let (bytes, limit) = (asked.bytes, u32::from(leaving.bytes_max));
    let what = limited_by(names, leaving);
    if bytes <= limit {
        return Size { pieces: 1, refused: None, why: format!("{bytes} bytes fit: {what}") };
    }
    let why = |what_happens: String| format!("{bytes} bytes are too many: {what}. {what_happens}");
    let (is_v6, to_group) = match asked.input.path {
        Path::Routed => (asked.input.is_v6(), false),
        Path::Bridged(mac) => (asked.source.0.is_ipv6(), mac.is_group()),
    };
    if is_v6 || !asked.may_fragment {
        if to_group {
            let why = why("To a group, and nobody is told".to_owned());
            return Size { pieces: 0, refused: Some((DropReason::TooBig, None)), why };
        }
        let kind = if is_v6 { "packet too big" } else { "fragmentation needed" };
        let answer = format!("icmp {kind}, next-hop MTU {limit}");
        let why = why(match is_v6 {
            true => format!("The sender is told {limit}"),
            false => format!("It has DF: the sender is told {limit}"),
        });
        return Size { pieces: 0, refused: Some((DropReason::TooBigIcmpSent, Some(answer))), why };
    }
    // RFC 791: fragments but the last carry a multiple of 8 bytes.
    let per_piece = (limit.saturating_sub(IPV4_HEADER) & !7).max(8);
    let pieces = (bytes - IPV4_HEADER).div_ceil(per_piece);
    let why = why(format!("Without DF it is cut into {pieces} fragments"));
    Size { pieces, refused: None, why }
}

/// The MTU, and the key that sets it.
fn limited_by(names: Names<'_>, leaving: &Leaving) -> String {
    let port = names.port(leaving.port);
    let key = match names.tables.port(leaving.port).map(|port| &port.kind) {
        Some(PortKind::Uplink(_)) => format!("`mtu` of [uplink.{port}], or its device's"),
        Some(PortKind::Endpoint(own)) => {
            let network = names.tables.network(own.network);
            let network = network.map_or("", |network| network.name.as_str());
            format!("`mtu` of [network.{network}], absent: of its uplink")
        }
        Some(PortKind::Tunnel(own)) => {
            let network = names.tables.network(own.network);
            let network = network.map_or("", |network| network.name.as_str());
            format!(
                "`mtu` of [network.{network}], absent: what its tunnels leave of their uplink's"
            )
        }
        Some(PortKind::Lane(network)) => {
            let network = names.tables.network(*network);
            let network = network.map_or("", |network| network.name.as_str());
            format!("`mtu` of [network.{network}], absent: of its parent")
        }
        None => String::new(),
    };
    let link = names.tables.port(leaving.port).map_or(0, |port| port.mtu);
    let key = match leaving.mtu < link {
        true => "learnt of the path: see `portolan show mtu`".to_owned(),
        false => key,
    };
    let across = match leaving.bytes_max.cmp(&leaving.mtu) {
        std::cmp::Ordering::Equal => String::new(),
        _ => format!(", {} before the header becomes one of the other family", leaving.bytes_max),
    };
    format!("{port} takes {}{across} ({key})", leaving.mtu)
}
