//! Docker: what `docker network inspect` prints, and Compose files.
//!
//! Both describe networks in the same terms ([`spec::Spec`]), which are checked by the daemon's
//! rules and in its words before they become native networks. Which of the two a file is shows by
//! itself: a list of networks, or a map of `services` and `networks`. The one hard constraint: what
//! `docker` or `docker compose` refuses is refused here.

mod compose;
mod inspect;
mod labels;
mod overlay;
mod pools;
mod service;
mod spec;

use super::fragment::Fragment;
use super::settings::Settings;
use super::{Purpose, Source, json, yaml};
use crate::report::Report;
use overlay::Swarm;

/// What a file is read with.
struct Reading<'r> {
    settings: &'r Settings,
    purpose: Purpose,
    swarm: &'r mut Swarm,
}

/// Reads files.
pub(super) fn read(
    sources: &[Source<'_>],
    settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let mut fragment = Fragment::default();
    let mut swarm = Swarm::read(settings, report);
    for source in sources {
        let start = source.text.trim_start_matches('\u{feff}').trim_start();
        let node = match start.starts_with(['[', '{']) {
            true => json::read(source.text, source.root, report),
            false => yaml::read(source.text, source.root, report),
        };
        let Some(node) = node else { continue };
        if node.get("services").is_some() || node.get("networks").is_some() {
            let mut reading = Reading { settings, purpose, swarm: &mut swarm };
            compose::read(&node, source, &mut reading, &mut fragment, report);
        } else {
            let mut reading = Reading { settings, purpose, swarm: &mut swarm };
            inspect::read(&node, &mut reading, &mut fragment, report);
        }
    }
    fragment
}
