//! `publish`: does one of our own addresses and ports lead to an endpoint?
//!
//! Looks at the destination only, whoever asks: outside clients, members of other networks and of
//! the same one (hairpin) meet the same entries. Whether they may pass is `policy`'s.

use super::{Cx, Decision, Socket, Stage, Verdict};
use crate::flow::{FlowInput, Path};

/// Has no state: the entries are in the tables.
#[derive(Debug, Default)]
pub(crate) struct Publish;

impl Stage for Publish {
    const NAME: &'static str = "publish";

    fn decide(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        if input.path != Path::Routed || cx.tables.uplink_with_address(input.destination).is_none()
        {
            return Verdict::Continue;
        }
        let publish = &cx.tables.publish;
        let found = publish.by_host(input.destination, input.protocol, input.destination_port);
        if let Some(entry) = found {
            let port = entry.target_port_of(input.destination_port);
            decision.destination = Some(Socket { address: entry.target, port });
            decision.published = Some(entry.port);
        }
        Verdict::Continue
    }
}
