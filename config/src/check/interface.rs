//! Devices that the gateway will create: sound names, none twice in one namespace.

use std::collections::HashMap;

use crate::names::{InterfaceName, NetnsName};
use crate::reader::Field;
use crate::report::{PlaceId, Report};

/// All devices so far, with the place of each.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    taken: HashMap<(Option<NetnsName>, InterfaceName), PlaceId>,
}

impl Interfaces {
    /// Claims a name in a namespace (`None`: the gateway's own) for what stands at a place.
    pub(super) fn claim(
        &mut self,
        netns: Option<&NetnsName>,
        interface: &InterfaceName,
        at: PlaceId,
        report: &mut Report,
    ) {
        let key = (netns.cloned(), interface.clone());
        if let Some(&other) = self.taken.get(&key) {
            let (line, path) = (report.line(other), report.path(other));
            let home = match netns {
                Some(netns) => format!("namespace {netns}"),
                None => "the gateway's own namespace".to_owned(),
            };
            let message =
                format!("interface {interface} is taken in {home} by {path}, line {line}");
            let problem = report.error(at, message).related(other, "it is taken here");
            problem.hint("give one of them another name by its key interface");
        } else {
            self.taken.insert(key, at);
        }
    }
}

/// The interface name that a key gives.
pub(super) fn name(field: &Field<String>, report: &mut Report) -> Option<InterfaceName> {
    let (at, name) = field.given()?;
    InterfaceName::new(name).map_err(|message| report.error(at, message)).ok()
}

/// The namespace that a key gives.
pub(super) fn netns(field: &Field<String>, report: &mut Report) -> Option<NetnsName> {
    let (at, name) = field.given()?;
    NetnsName::new(name).map_err(|message| report.error(at, message)).ok()
}
